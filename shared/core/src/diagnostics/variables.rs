//! Variables in strings of a file: `${NAME}`.

use std::borrow::Cow;

use crate::reason::Reason;

/// Values of variables, by name.
pub struct Variables<'v>(&'v dyn Fn(&str) -> Option<String>);

impl<'v> Variables<'v> {
    /// Creates variables from a function that returns the value of a name.
    #[must_use]
    pub const fn new(value: &'v dyn Fn(&str) -> Option<String>) -> Self {
        Self(value)
    }

    /// Replaces `${NAME}` by its value, `${NAME:-default}` by its value or the default, and `$${` by
    /// `${`.
    ///
    /// # Errors
    /// A variable without a value, or without an end.
    pub fn expand<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, Reason> {
        if !text.contains("${") {
            return Ok(Cow::Borrowed(text));
        }

        let (mut expanded, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            if let Some(before) = before.strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = after;
                continue;
            }
            expanded.push_str(before);
            let Some((inside, after)) = after.split_once('}') else {
                return Err("${ has no } after it; write $${ for the text ${ itself".into());
            };
            let (name, default) = match inside.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (inside, None),
            };
            match self.0(name).or_else(|| default.map(str::to_owned)) {
                Some(value) => expanded.push_str(&value),
                None => {
                    let what = format!("the environment variable {name} is not set");
                    return Err(what.into());
                }
            }
            rest = after;
        }
        expanded.push_str(rest);
        Ok(Cow::Owned(expanded))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_or_named() {
        let value = |name: &str| (name == "PORT").then(|| "8000".to_owned());
        let variables = Variables::new(&value);
        let expand = |text: &str| match variables.expand(text) {
            Ok(text) => text.into_owned(),
            Err(what) => what.to_string(),
        };
        for (text, expected) in [
            ("${PORT}", "8000"),
            ("a${PORT}b${PORT}", "a8000b8000"),
            ("${HOST:-localhost}:${PORT:-1}", "localhost:8000"),
            ("$${PORT}", "${PORT}"),
            ("$PORT", "$PORT"),
            ("${NONE}", "the environment variable NONE is not set"),
        ] {
            assert_eq!(expand(text), expected);
        }
        assert!(expand("${PORT").contains("has no }"));
    }
}
