//! Checks the whole command line before anything starts.

use hookward_core::clock::Clock;
use hookward_core::diagnostics::{Diagnostic, Diagnostics};
use hookward_core::names::{AgentName, HostName};
use hookward_core::path::PathPattern;
use hookward_core::reason::Reason;
use hookward_core::secret::Secret;
use hookward_core::syntax::EscapedSlashes;
use hookward_gate::engine::syntax;
use hookward_gate::policy::{Policy, TokenCheck};
use hookward_runtime::secrets::VettedSecrets;

use crate::cli::HttpArgs;
use crate::config::policy_args;
use crate::config::state_dir::{StateDir, StateError};
use crate::events::Event;
use crate::upstream::application::Application;

/// Checked plan of a tunnel.
pub(crate) struct Plan {
    pub application: Application,
    pub policy: Policy,
    /// Token in the printed URL, if one was created.
    pub created_token: Option<Secret>,
    /// First messages for the user.
    pub messages: Vec<Event>,
    /// Path of the printed URL.
    pub path: String,
}

/// Checks the command line. The inner error has all mistakes of the user.
///
/// # Errors
/// [`StateError`] if the agent's own files fail.
pub(crate) fn plan(
    args: &HttpArgs,
    state: &StateDir,
    clock: &Clock,
) -> Result<Result<Plan, Diagnostics>, StateError> {
    let mut problems = Vec::new();
    let application = policy_args::application(&args.application, &args.upstream)
        .map_err(|more| problems.extend(more))
        .ok();
    let built = policy_args::policy(&args.policy, &VettedSecrets, clock.now())
        .map_err(|more| problems.extend(more.0))
        .ok();

    problems.extend(args.public.host.as_deref().and_then(host_error));

    let path = built
        .as_ref()
        .map(|built| webhook_path(&built.policy, args.webhook.as_deref()));
    if let Some(Err(what)) = &path {
        problems.push(Diagnostic::new("--webhook", what.to_string()));
    }

    if args.policy.new_token && built.as_ref().is_some_and(|built| !built.create_token) {
        let what = "has no effect: an address range, a token or a signature is given already";
        problems.push(Diagnostic::new("--new-token", what));
    }

    let (Some(application), Some(built), Some(Ok(path)), true) =
        (application, built, path, problems.is_empty())
    else {
        return Ok(Err(Diagnostics(problems)));
    };
    let mut messages: Vec<Event> = built.notes.into_iter().map(Event::Note).collect();
    let mut policy = built.policy;
    let mut created_token = None;

    if built.create_token {
        let (token, new) = state.token(args.public.host.as_deref(), args.policy.new_token)?;
        policy = policy.with_token(&TokenCheck::created(&token.digest()));
        if new {
            let text = "created a token; it is part of the webhook URL and stays the same until --new-token";
            messages.push(Event::Note(text.to_owned()));
        }
        created_token = Some(token);
    }

    messages.extend(upstream_warnings(&application, args, &policy).map(Event::Warning));
    messages.extend(policy.warnings(clock.now()).into_iter().map(Event::Warning));

    Ok(Ok(Plan {
        application,
        policy,
        created_token,
        messages,
        path,
    }))
}

/// Returns the error of a host that is neither a label nor a host name.
fn host_error(host: &str) -> Option<Diagnostic> {
    let is_valid = AgentName::parse(host).is_some() || HostName::parse(host).is_some();
    (!is_valid).then(|| {
        let what = "is not a host name; write a label such as flexdeploy, or a whole name";
        Diagnostic::new("--host", format!("{host:?} {what}"))
    })
}

/// Returns warnings about the connection to the application.
fn upstream_warnings(
    application: &Application,
    args: &HttpArgs,
    policy: &Policy,
) -> impl Iterator<Item = String> {
    let clear_text = !application.address.is_local() && application.tls.is_none();
    let no_websocket = application.http2 && policy.routes.iter().any(|route| route.websocket);

    [
        clear_text.then(|| format!("requests go to {application} in clear text, over the network")),
        args.upstream.upstream_insecure.then(|| {
            "--upstream-insecure: the application's certificate is not verified; \
             a third party in between can read and change everything"
                .to_owned()
        }),
        no_websocket.then(|| {
            "--websocket has no effect with --upstream-http2: WebSockets need HTTP/1.1".to_owned()
        }),
    ]
    .into_iter()
    .flatten()
}

/// Returns the path of the printed URL: the first route's up to its first wildcard, plus the
/// webhook. A webhook that the route would refuse is an error.
fn webhook_path(policy: &Policy, webhook: Option<&str>) -> Result<String, Reason> {
    let paths = policy
        .routes
        .first()
        .map(|route| route.paths.as_slice())
        .unwrap_or_default();
    let first = paths.first().map_or("/", String::as_str);
    let base = policy.webhook_path();
    let Some(webhook) = webhook else {
        return Ok(base.to_owned());
    };
    let path = format!("{}/{webhook}", base.trim_end_matches('/'));
    let shaped = !webhook.contains('?')
        && syntax::check(
            path.as_bytes(),
            &http::HeaderMap::new(),
            EscapedSlashes::Refused,
        )
        .is_ok();

    let matches = |pattern: &String| {
        PathPattern::parse(pattern).is_ok_and(|pattern| pattern.matches(path.as_bytes(), false))
    };
    if shaped && paths.iter().any(matches) {
        return Ok(path);
    }

    Err(format!(
        "{path:?} would be refused by {first:?}; write the path below the webhook resource, such as git/push"
    ).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookward_gate::policy::Route;

    #[test]
    fn a_printed_url_is_one_that_passes() {
        let path = |pattern: &str, webhook| {
            webhook_path(
                &Policy::new(vec![Route::new("r", vec![pattern.to_owned()])]),
                webhook,
            )
        };
        assert_eq!(
            path("/v1/**", Some("git/push")).as_deref(),
            Ok("/v1/git/push")
        );

        assert_eq!(path("/v1/**", None).as_deref(), Ok("/v1"));
        assert_eq!(path("/**", None).as_deref(), Ok("/"));
        assert_eq!(path("/a/*/c", Some("b/c")).as_deref(), Ok("/a/b/c"));

        for (pattern, webhook) in [
            ("/v1/**", "/x"),
            ("/v1/**", "../x"),
            ("/v1/**", "a//b"),
            ("/v1/**", "a?b"),
            ("/v1", "x"),
        ] {
            assert!(path(pattern, Some(webhook)).is_err(), "{pattern} {webhook}");
        }
    }
}
