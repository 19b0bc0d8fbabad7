//! Rules for header fields: allowed values, and media types.

use hookward_core::reason::Reason;
use http::{HeaderMap, HeaderName, header};

use crate::policy::HeaderRule;
use hookward_core::secret::names::is_secret_name;
use hookward_core::text::Escaped;

/// Checks that the field occurs once, with one of the allowed values, compared exactly.
///
/// # Errors
/// Reason for the tunnel's owner.
pub(crate) fn check(rule: &HeaderRule, headers: &HeaderMap) -> Result<(), Reason> {
    let value = single(headers, &rule.name)?;
    if rule
        .allowed
        .iter()
        .any(|allowed| allowed.as_bytes() == value)
    {
        return Ok(());
    }

    // The reason reaches logs.
    if is_secret_name(rule.name.as_str().as_bytes()) {
        return Err(format!(
            "the header {} has another value than those allowed",
            rule.name
        )
        .into());
    }
    Err(format!(
        "the header {} is {}, and none of {}",
        rule.name,
        Escaped(value),
        rule.allowed.join(", ")
    )
    .into())
}

/// Checks that the body has one of these media types. Ignores parameters (RFC 9110 §8.3.1).
///
/// # Errors
/// Reason for the tunnel's owner.
pub(crate) fn check_content_type(allowed: &[String], headers: &HeaderMap) -> Result<(), Reason> {
    let value = single(headers, &header::CONTENT_TYPE)?;
    let kind = value
        .split(|byte| *byte == b';')
        .next()
        .unwrap_or_default()
        .trim_ascii();

    // A parser that uses the last member of a list would read another type.
    let plain = value.split(|byte| *byte == b'"').step_by(2);
    if plain.flatten().any(|byte| *byte == b',') {
        return Err("the content type is a list".to_owned().into());
    }

    if allowed
        .iter()
        .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(kind))
    {
        return Ok(());
    }

    Err(format!(
        "the content type is {}, and none of {}",
        Escaped(kind),
        allowed.join(", ")
    )
    .into())
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h [u8], Reason> {
    let mut values = headers.get_all(name).iter();
    let value = values
        .next()
        .ok_or_else(|| format!("the header {name} is missing"))?;

    match values.next() {
        None => Ok(value.as_bytes()),
        Some(_) => Err(format!("the header {name} occurs more than once").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_that_is_allowed() {
        let rule = HeaderRule {
            name: HeaderName::from_static("x-event"),
            allowed: vec!["push".into(), "ping".into()],
        };
        let fits = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            values.iter().for_each(|value| {
                headers.append("x-event", http::HeaderValue::from_static(value));
            });
            check(&rule, &headers).is_ok()
        };
        assert!(fits(&["push"]) && fits(&["ping"]));

        assert!(
            !fits(&[]) && !fits(&["Push"]) && !fits(&["push", "ping"]) && !fits(&["push,ping"])
        );
    }

    #[test]
    fn media_types_without_their_parameters() {
        let fits = |value: &'static str| {
            let headers = HeaderMap::from_iter([(
                header::CONTENT_TYPE,
                http::HeaderValue::from_static(value),
            )]);
            check_content_type(&["application/json".to_owned()], &headers).is_ok()
        };

        assert!(
            fits("application/json")
                && fits("Application/JSON; charset=utf-8")
                && fits("application/json ;x")
        );
        assert!(fits("application/json; x=\"a,b\""));
        assert!(!fits("text/plain") && !fits("application/json+x") && !fits(""));
        assert!(!fits("application/json;,text/xml") && !fits("application/json, text/xml"));
    }
}
