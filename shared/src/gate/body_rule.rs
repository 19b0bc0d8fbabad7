//! Rules about single values of a JSON body, such as `ref` = `refs/heads/main`.

use crate::policy::BodyRule;

/// Whether the body holds one of the values that the rule allows. Where the path stands for several,
/// all must be allowed ones.
///
/// # Errors
/// Why not, for the tunnel's owner.
pub(super) fn check(rule: &BodyRule, body: &[u8]) -> Result<(), String> {
    let texts = rule.path.texts(body).map_err(|fault| fault.to_string())?;
    if texts.iter().all(|text| rule.allowed.contains(text)) {
        return Ok(());
    }
    Err(format!("{} is none of {}", rule.path, rule.allowed.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::JsonPath;

    #[test]
    fn values_that_are_allowed() {
        let rule =
            |path: &str| BodyRule { path: JsonPath::parse(path).unwrap(), allowed: vec!["main".into(), "7".into()] };
        assert_eq!(check(&rule("ref"), br#"{"ref":"main"}"#), Ok(()));
        assert_eq!(check(&rule("n"), br#"{"n":7}"#), Ok(()));
        assert_eq!(check(&rule("l[*].b"), br#"{"l":[{"b":"main"},{"b":"main"}]}"#), Ok(()));
        for bad in [r#"{"ref":"dev"}"#, r#"{"ref":"main","ref":"dev"}"#, r#"{"ref":["main"]}"#, "{}", "ref=main"] {
            assert!(check(&rule("ref"), bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(check(&rule("l[*].b"), br#"{"l":[{"b":"main"},{"b":"dev"}]}"#).is_err());
    }
}
