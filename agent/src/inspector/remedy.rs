//! Advice on a refused request: what its sender would have to do.

use hookward_core::reason::Check;
use hookward_gate::policy::{Policy, Route, SignatureCheck};
use hookward_gate::providers;

use super::curl::shell_word;
use super::history::Detail;

/// A way to let a request pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remedy {
    pub text: String,
    /// Command that sends such a request.
    pub command: Option<String>,
}

/// Returns the ways to let a refused request of a tunnel with this origin pass. `ca` is the file of the
/// relay's self-signed certificate.
pub(crate) fn remedies(
    policy: &Policy,
    detail: &Detail,
    (origin, ca): (&str, Option<&str>),
) -> Vec<Remedy> {
    let summary = &detail.summary;
    if summary.verdict != "refused" {
        return Vec::new();
    }
    let route = summary.route.as_ref();
    let route = route.and_then(|name| policy.routes.iter().find(|route| route.name == *name));
    let Some(route) = route else {
        return Vec::new();
    };
    match summary.check.as_deref() {
        Some(check) if check == Check::Signature.as_str() => {
            signatures(route, &format!("{origin}{}", summary.path), ca)
        }
        Some(check) if check == Check::Token.as_str() => vec![Remedy {
            text: "Use the webhook URL with its token, as the agent's terminal shows it."
                .to_owned(),
            command: None,
        }],
        _ => Vec::new(),
    }
}

fn signatures(route: &Route, url: &str, ca: Option<&str>) -> Vec<Remedy> {
    let checks = route.accept.iter().flat_map(|rule| &rule.verify);
    let remedies = checks.map(|check| Remedy {
        text: setup(check),
        command: check.provider.as_deref().and_then(|provider| {
            // The name of a secret from a command is not the whole command.
            let secret = check.secrets.first()?.name.as_str();
            let secret = Some(secret).filter(|secret| !secret.starts_with("cmd:"))?;
            let secret = shell_word(secret);
            let variant = check.variant.as_deref();
            let variant = variant.map_or_else(String::new, |variant| format!("/{variant}"));
            let ca = ca.map_or_else(String::new, |ca| format!(" --cacert {}", shell_word(ca)));
            let url = shell_word(url);
            Some(format!(
                "hookward send --provider {provider}{variant} --secret {secret}{ca} {url}"
            ))
        }),
    });
    remedies.collect()
}

/// Returns how the sender of a check signs its webhooks.
fn setup(check: &SignatureCheck) -> String {
    let title = check.title();
    let row = check.provider.as_deref().and_then(providers::find);
    let setup = row.and_then(|row| row.setup.as_deref());
    let secret = check.secrets.first().map(|secret| secret.name.as_str());
    let secret = secret.map_or(String::new(), |name| {
        format!(" The secret is that of {name}.")
    });
    match setup {
        Some(setup) => format!("Let {title} sign it. {setup}{secret}"),
        None => format!("Let {title} sign it.{secret}"),
    }
}
