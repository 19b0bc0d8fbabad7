//! Rules for values of a JSON body, such as `ref` = `refs/heads/main`.

use hookward_core::reason::Reason;
use http::header;

use crate::inspection::{BodyReadError, Inspection};
use crate::policy::BodyRule;
use crate::request::Request;
use hookward_core::json::JsonError;
use hookward_core::secret::names::is_secret_name;

/// Form field in which GitHub, Gitea and others send JSON (docs.github.com, "Creating webhooks",
/// content type).
pub(crate) const FORM_FIELD: &str = "payload";

/// Checks that the value in the body is allowed. If the path has several values, all must be.
///
/// # Errors
/// Reason for the tunnel's owner.
pub(crate) fn check(
    rule: &BodyRule,
    request: &Request<'_>,
    inspection: &Inspection,
) -> Result<(), Reason> {
    let texts = if is_form(request) {
        let read =
            inspection.field_texts(FORM_FIELD, &rule.path, request.head.headers, request.body);
        let missing = || BodyReadError::Json(JsonError::Absent(format!("the field {FORM_FIELD}")));
        read.and_then(|texts| texts.ok_or_else(missing))
    } else {
        inspection.texts(&rule.path, request.body)
    };

    let texts = texts.map_err(|fault| match fault {
        BodyReadError::Json(fault) => fault.to_string(),
        BodyReadError::Form(_) => {
            format!("the body is a form whose field {FORM_FIELD} can't be read")
        }
        BodyReadError::WorkLimit(_) => {
            "judging this request takes more work than one may cost".to_owned()
        }
    })?;
    if texts.iter().all(|text| rule.allowed.contains(text)) {
        return Ok(());
    }

    // The reason reaches logs.
    if is_secret_name(rule.path.to_string().as_bytes()) {
        return Err(format!("{} has another value than those allowed", rule.path).into());
    }
    Err(format!("{} is not one of {}", rule.path, rule.allowed.join(", ")).into())
}

/// Returns `true` for a urlencoded form.
fn is_form(request: &Request<'_>) -> bool {
    let kind = request
        .head
        .headers
        .get(header::CONTENT_TYPE)
        .map(|value| value.as_bytes())
        .unwrap_or_default();
    let media = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    media
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method};

    use crate::request::RequestHead;
    use hookward_core::json::JsonPath;

    fn check(rule: &BodyRule, body: &[u8]) -> Result<(), Reason> {
        check_as(rule, "application/json", body)
    }

    fn check_as(rule: &BodyRule, kind: &str, body: &[u8]) -> Result<(), Reason> {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]);
        let head = RequestHead {
            method: &Method::POST,
            target: b"/",
            headers: &headers,
            origin: "",
        };
        super::check(rule, &Request::new(head, body), &Inspection::default())
    }

    #[test]
    fn json_in_the_field_of_a_form() {
        let rule = BodyRule {
            path: JsonPath::parse("ref").unwrap(),
            allowed: vec!["main".into()],
        };
        let form =
            |body: &str| check_as(&rule, "application/x-www-form-urlencoded", body.as_bytes());
        assert_eq!(form("payload=%7B%22ref%22%3A%22main%22%7D"), Ok(()));

        assert!(
            form("payload=%7B%22ref%22%3A%22dev%22%7D")
                .unwrap_err()
                .to_string()
                .contains("not one of main")
        );

        for bad in [
            "",
            "a=b",
            "payload=x",
            "payload=%7B%22ref%22%3A%22main%22%7D&payload=%7B%7D",
            "{\"ref\":\"main\"}",
        ] {
            assert!(form(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_that_are_allowed() {
        let rule = |path: &str| BodyRule {
            path: JsonPath::parse(path).unwrap(),
            allowed: vec!["main".into(), "7".into()],
        };
        assert_eq!(check(&rule("ref"), br#"{"ref":"main"}"#), Ok(()));
        assert_eq!(check(&rule("n"), br#"{"n":7}"#), Ok(()));
        assert_eq!(
            check(&rule("l[*].b"), br#"{"l":[{"b":"main"},{"b":"main"}]}"#),
            Ok(())
        );

        for bad in [
            r#"{"ref":"dev"}"#,
            r#"{"ref":"main","ref":"dev"}"#,
            r#"{"ref":["main"]}"#,
            "{}",
            "ref=main",
        ] {
            assert!(check(&rule("ref"), bad.as_bytes()).is_err(), "{bad}");
        }

        assert!(check(&rule("l[*].b"), br#"{"l":[{"b":"main"},{"b":"dev"}]}"#).is_err());
    }
}
