//! A policy rule that a captured request passes: its provider, event and repository, as flags and as
//! TOML.

use hookward_core::json::JsonPath;
use hookward_core::text::is_invisible;
use hookward_gate::providers::{self, Provider, ValueLocator};

use super::curl::shell_word;
use super::history::Detail;

/// Places of the repository or project in the bodies of well-known providers.
const PROJECTS: [&str; 5] = [
    "repository.full_name",
    "project.path_with_namespace",
    "repository.fullName",
    "issue.fields.project.key",
    "project.key",
];

/// Maximum length of a value in a rule, in bytes.
const VALUE_BYTES: usize = 200;

/// A rule, in two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub flags: String,
    pub toml: String,
}

impl Rule {
    /// Returns the rule for a request of an application, if the request's provider is known.
    pub(crate) fn of(detail: &Detail, application: &str) -> Option<Self> {
        let summary = &detail.summary;
        let provider = providers::find(summary.provider.as_deref()?)?;
        // Paths and methods of the history are escaped; only plain ones are worth a rule.
        let is_plain = |text: &str| !text.contains(['\\', '…', '*', '\'']);
        let is_method = summary.method.bytes().all(|byte| byte.is_ascii_uppercase());
        if !is_plain(&summary.path) || !is_method {
            return None;
        }

        let secret = format!("env:{}_SECRET", provider.id.to_ascii_uppercase());
        let mut flags = vec![
            format!("--path {}", quoted(&summary.path)),
            format!("--method {}", summary.method),
            format!("--verify {}={secret}", provider.id),
        ];
        let mut toml = vec![
            "[[route]]".to_owned(),
            format!("path = {}", toml_text(&summary.path)),
            format!("methods = [{}]", toml_text(&summary.method)),
            String::new(),
            "  [[route.accept]]".to_owned(),
            format!(
                "  verify = {{ provider = {}, secret = {} }}",
                toml_text(&provider.id),
                toml_text(&secret)
            ),
        ];

        let event = summary.event.as_ref().filter(|event| is_harmless(event));
        if let (Some(name), Some(event)) = (event_header(provider), event) {
            flags.push(format!(
                "--require-header {}",
                quoted(&format!("{name}={event}"))
            ));
            toml.push(format!(
                "  headers = {{ {} = [{}] }}",
                toml_text(&name),
                toml_text(event)
            ));
        }
        let body: Vec<_> = body_rules(provider, detail);
        for (path, value) in &body {
            flags.push(format!(
                "--require-body {}",
                quoted(&format!("{path}={value}"))
            ));
        }
        if !body.is_empty() {
            let rules = body
                .iter()
                .map(|(path, value)| format!("{} = {}", toml_text(path), toml_text(value)));
            toml.push(format!(
                "  body = {{ {} }}",
                rules.collect::<Vec<_>>().join(", ")
            ));
        }
        Some(Self {
            flags: format!(
                "hookward http {} \\\n  {}",
                shell_word(application),
                flags.join(" \\\n  ")
            ),
            toml: toml.join("\n"),
        })
    }
}

/// Returns the header with the type of the event.
fn event_header(provider: &Provider) -> Option<String> {
    let at = provider.event.as_ref()?.to_string();
    at.strip_prefix("header:").map(str::to_owned)
}

/// Returns the values of the body that identify the event, and the repository or project.
fn body_rules(provider: &Provider, detail: &Detail) -> Vec<(String, String)> {
    let event = match &provider.event {
        Some(ValueLocator::Json(path)) => Some(path.to_string()),
        _ => None,
    };
    let project = PROJECTS.iter().find(|path| value(detail, path).is_some());
    let paths = event.into_iter().chain(project.map(ToString::to_string));
    paths
        .filter_map(|path| Some((path.clone(), value(detail, &path)?)))
        .collect()
}

fn value(detail: &Detail, path: &str) -> Option<String> {
    let body = detail.request.is_whole.then_some(&detail.request.body)?;
    let value = JsonPath::parse(path).ok()?.single(body).ok()?;
    is_harmless(&value).then_some(value)
}

/// Returns `true` for text that a terminal takes as text: a stranger may have chosen it.
fn is_harmless(text: &str) -> bool {
    text.len() <= VALUE_BYTES && !text.chars().any(is_invisible)
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn toml_text(text: &str) -> String {
    // A basic string of TOML has the escapes of JSON.
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspector::history::Summary;
    use crate::inspector::message::StoredMessage;

    fn rule(method: &str, path: &str, body: &str) -> Option<Rule> {
        Rule::of(
            &Detail {
                summary: Summary {
                    method: method.to_owned(),
                    path: path.to_owned(),
                    provider: Some("github".to_owned()),
                    event: Some("push".to_owned()),
                    ..Summary::default()
                },
                request: StoredMessage {
                    body: body.as_bytes().to_vec(),
                    is_whole: true,
                    ..StoredMessage::default()
                },
                response: None,
                explanation: None,
            },
            "localhost:8000",
        )
    }

    #[test]
    fn a_rule_has_provider_event_and_repository() {
        let rule = rule(
            "POST",
            "/hooks",
            r#"{"repository":{"full_name":"o'hara/shop"}}"#,
        )
        .unwrap();
        assert!(
            rule.flags
                .contains("--require-header 'X-GitHub-Event=push'"),
            "{}",
            rule.flags
        );
        let quoted = r"--require-body 'repository.full_name=o'\''hara/shop'";
        assert!(rule.flags.contains(quoted), "{}", rule.flags);
        assert!(
            rule.toml
                .contains(r#"body = { "repository.full_name" = "o'hara/shop" }"#)
        );
    }

    /// A stranger chooses method, path and body of a request that is refused.
    #[test]
    fn a_stranger_cannot_write_commands() {
        for (method, path) in [
            ("`touch$IFS$9X`", "/hooks"),
            ("POST", "/a'b"),
            ("POST", "/a\\x1b"),
        ] {
            assert_eq!(rule(method, path, "{}"), None, "{method} {path}");
        }
        let rule = rule(
            "POST",
            "/hooks",
            r#"{"repository":{"full_name":"a\u001b[201~b"}}"#,
        )
        .unwrap();
        assert!(!rule.flags.contains("require-body"), "{}", rule.flags);
    }
}
