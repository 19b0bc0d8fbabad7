//! `hookward explain`: the gate's verdict on a request, with its reasons, offline. It runs the same
//! gate as relay and agent, and marks what only the running relay knows: rates, duplicates, and
//! updated address sets.

use hookward_core::reason::Reason;
use std::sync::Arc;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_core::reason::Check;
use hookward_core::text::printable;
use hookward_gate::engine::explain::{
    self, CheckOutcome, CheckStep, ExplainedVerdict, Explanation,
};
use hookward_gate::engine::{Evaluation, Gate, GateState, Request, RequestHead, Side};
use hookward_gate::policy::{Policy, TokenCheck};
use hookward_runtime::secrets::ProcessSecrets;
use http::header;

use crate::cli::{ExplainArgs, LogFormat};
use crate::commands::request_input::{self, RequestInput, RequestInputError};
use crate::commands::{CommandError, print, print_error};
use crate::config::policy_args;
use crate::config::state_dir::StateDir;
use crate::exit::Exit;
use crate::inspector::policy::with_all_secrets;

/// Runs the command.
///
/// # Errors
/// If the agent's files are unreadable, or standard output fails.
pub(super) async fn run(args: ExplainArgs) -> Result<Exit, CommandError> {
    let now = args.request.now.map_or_else(
        || Clock::System.now(),
        |seconds| UnixMillis(seconds.saturating_mul(1000)),
    );
    let policy = match policy(&args, now)? {
        Ok(policy) => policy,
        Err(what) => {
            print_error(LogFormat::Text, &what.to_string());
            return Ok(Exit::Usage);
        }
    };

    let gate = match Gate::compile(&with_all_secrets(policy), Side::Relay, now) {
        Ok(gate) => Arc::new(gate),
        Err(mistakes) => {
            print_error(LogFormat::Text, &mistakes.join("\n"));
            return Ok(Exit::Usage);
        }
    };

    let explanation = match given(&args).await {
        Ok((origin, given)) => {
            let head = RequestHead {
                method: &given.method,
                target: given.target.as_bytes(),
                headers: &given.headers,
                origin: &origin,
            };
            let request = Request::new(head, &given.body);
            let state = GateState::default();
            let evaluation = Evaluation::new(args.request.peer, now, &state);
            let mut explanation = explain::explain(&gate, &request, evaluation);
            explanation.notes.extend(other_path(&args, &given.target));

            explanation
        }
        // The relay would reject it, too.
        Err(RequestInputError::NoHttp(what)) => no_http(&what),
        Err(error) => {
            print_error(LogFormat::Text, &error.to_string());
            return Ok(Exit::Usage);
        }
    };

    let text = match args.format {
        LogFormat::Json => format!(
            "{}\n",
            serde_json::to_string(&explanation).unwrap_or_default()
        ),
        LogFormat::Text => text(&explanation),
    };
    print(&text)?;

    Ok(if explanation.verdict == ExplainedVerdict::Allow {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Builds the policy from the flags. Uses the stored token where `hookward http` would create one.
fn policy(args: &ExplainArgs, now: UnixMillis) -> Result<Result<Policy, Reason>, CommandError> {
    let built = match policy_args::policy(&args.policy, &ProcessSecrets, now) {
        Ok(built) => built,
        Err(problems) => return Ok(Err(problems.to_string().into())),
    };
    if !built.create_token {
        return Ok(Ok(built.policy));
    }

    let state = StateDir::open(args.common.state_dir.as_deref())?;
    let token = match state.kept_token(None)? {
        Some(token) => Some(token),
        None => state.local()?.kept_token(None)?,
    };

    Ok(match token {
        Some(token) => Ok(built.policy.with_token(&TokenCheck::created(&token.digest()))),
        None => {
            Err("no check is given, and there is no token yet: give the flags of `hookward http`, or run it once"
                .to_owned().into())
        }
    })
}

/// Returns a warning if the path of a captured request differs from that of `--url`.
fn other_path(args: &ExplainArgs, target: &str) -> Option<String> {
    let (_, path) = request_input::split_url(args.request.url.as_deref()?).ok()?;
    let differs = args.request.request.is_some() && path != "/" && path != target;
    differs.then(|| "the request has another path than --url; its own path counts".to_owned())
}

/// Reads the request, and the origin of the public URL.
async fn given(args: &ExplainArgs) -> Result<(String, RequestInput), RequestInputError> {
    let url = args
        .request
        .url
        .as_deref()
        .map(request_input::split_url)
        .transpose()?;
    if let Some(name) = &args.request.request {
        let given = request_input::raw(name).await?;
        let host = given
            .headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or("localhost");
        let origin = url.map_or_else(|| format!("https://{host}"), |(origin, _)| origin);
        return Ok((origin, given));
    }

    let (origin, target) = url.ok_or_else(|| RequestInputError::Url(String::new()))?;
    let body = args
        .request
        .data
        .as_deref()
        .map(request_input::data)
        .transpose()?;
    let preset = if body.is_some() { "POST" } else { "GET" };
    let method = request_input::method(args.request.send_method.as_deref().unwrap_or(preset))?;
    let headers = request_input::fields(&args.request.header)?;

    Ok((
        origin,
        RequestInput {
            method,
            target,
            headers,
            body: body.unwrap_or_default(),
        },
    ))
}

fn no_http(what: &str) -> Explanation {
    let reason = printable(what);
    let step = CheckStep {
        check: Check::Syntax,
        outcome: CheckOutcome::Refuse,
        reason: reason.clone(),
        accept_rule: None,
    };

    Explanation {
        verdict: ExplainedVerdict::Refuse,
        check: Some(Check::Syntax),
        reason,
        status: Some(400),
        route: None,
        secrets: Vec::new(),
        checks: vec![step],
        hints: Vec::new(),
        notes: Vec::new(),
    }
}

fn text(explanation: &Explanation) -> String {
    let mut text = match (explanation.verdict, explanation.check) {
        (ExplainedVerdict::Allow, _) => format!("allow: {}\n", explanation.reason),
        (ExplainedVerdict::Refuse, Some(check)) => {
            format!("refuse by {check}: {}\n", explanation.reason)
        }
        (ExplainedVerdict::Refuse, None) => format!("refuse: {}\n", explanation.reason),
    };

    if let Some(status) = explanation.status {
        text.push_str(&format!("  the sender gets {status}\n"));
    }

    if !explanation.secrets.is_empty() {
        text.push_str(&format!("  right: {}\n", explanation.secrets.join(", ")));
    }

    for hint in &explanation.hints {
        text.push_str(&format!("  hint: {hint}\n"));
    }

    text.push_str("checks:\n");
    for step in &explanation.checks {
        let outcome = match step.outcome {
            CheckOutcome::Pass => "pass",
            CheckOutcome::Refuse => "REFUSE",
            CheckOutcome::Observed => "observed",
            CheckOutcome::RelayOnly => "relay only",
            CheckOutcome::AgentOnly => "agent only",
        };

        let accept_rule = step
            .accept_rule
            .map(|number| format!("accept {number}: "))
            .unwrap_or_default();
        text.push_str(&format!(
            "  {outcome:<11} {:<13} {accept_rule}{}\n",
            step.check.as_str(),
            step.reason
        ));
    }

    for note in &explanation.notes {
        text.push_str(&format!("note: {note}\n"));
    }

    text
}
