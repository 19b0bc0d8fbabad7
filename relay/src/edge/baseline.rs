//! The operator's baseline policy: a policy file of the relay that every request must pass before
//! the policy of its tunnel. No tunnel can relax it.

use hookward_core::reason::Reason;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use hookward_core::clock::Clock;
use hookward_core::diagnostics::{Diagnostic, Diagnostics};
use hookward_gate::engine::{Gate, Side};
use hookward_gate::policy::summary::Summary;
use hookward_gate::policy::{Accept, Delivery, DeliveryMode, Mode, Policy, file};
use hookward_observe::audit::{Actor, AuditLog};
use hookward_runtime::reload::Reloads;
use hookward_runtime::secrets::VettedSecrets;
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::fetch::ip_sets::IpSetUpdater;

/// The baseline policy in use; clones share it.
#[derive(Clone)]
pub(crate) struct BaselinePolicy {
    loaded: Arc<ArcSwapOption<LoadedBaseline>>,
}

/// A baseline policy, with its summary for the audit log.
struct LoadedBaseline {
    gate: Arc<Gate>,
    summary: Summary,
}

impl BaselinePolicy {
    /// Loads the baseline policy of this file, or none.
    ///
    /// # Errors
    /// All mistakes of the file.
    pub(crate) fn load(
        path: Option<&Path>,
        clock: &Clock,
        lists: &IpSetUpdater,
    ) -> Result<Self, Diagnostics> {
        let loaded = path.map(|path| read(path, clock, lists)).transpose()?;
        Ok(Self {
            loaded: Arc::new(ArcSwapOption::from_pointee(loaded)),
        })
    }

    /// Returns the gate, if there is a baseline policy.
    #[must_use]
    pub(crate) fn gate(&self) -> Option<Arc<Gate>> {
        let loaded = self.loaded.load();
        loaded.as_ref().map(|loaded| Arc::clone(&loaded.gate))
    }

    /// Returns digest and content of the baseline policy, for the audit log and the admin API.
    pub(crate) fn summary(&self) -> Option<serde_json::Value> {
        let loaded = self.loaded.load();
        loaded.as_ref().map(|loaded| {
            let Summary { digest, lines, .. } = &loaded.summary;
            json!({ "policy": digest, "lets_in": lines })
        })
    }

    /// Rereads the file when it changes, until `stop` is cancelled. After an error the previous
    /// baseline policy remains in force.
    pub(crate) async fn watch(
        self,
        path: PathBuf,
        clock: Clock,
        lists: IpSetUpdater,
        mut reloads: Reloads,
        audit: AuditLog,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = reloads.next() => {}
                () = stop.cancelled() => return,
            }

            let (file, now, wanted) = (path.clone(), clock.clone(), lists.clone());
            // Commands that print secrets may take seconds.
            let reading = spawn_blocking(move || read(&file, &now, &wanted));
            let loaded = tokio::select! {
                // It fails only after a panic, which is reported.
                read = reading => match read {
                    Ok(loaded) => loaded,
                    Err(_) => continue,
                },
                () = stop.cancelled() => return,
            };
            match loaded {
                Ok(loaded) => {
                    self.loaded.store(Some(Arc::new(loaded)));
                    tracing::warn!(event = "baseline_policy_loaded", path = %path.display(), "baseline policy reloaded");
                    audit.act("baseline_policy_loaded", Actor::program(), self.summary());
                }
                Err(problems) => {
                    let details = json!({ "reason": problems.to_string() });
                    audit.act("baseline_policy_refused", Actor::program(), details);
                    tracing::error!(event = "baseline_policy_refused", path = %path.display(), %problems, "the new baseline policy is invalid; the previous one stays in force");
                }
            }
        }
    }
}

/// Checks the file of a baseline policy.
///
/// # Errors
/// All mistakes.
pub(crate) fn check_file(path: &Path, clock: &Clock) -> Result<(), Diagnostics> {
    compile(path, clock).map(drop)
}

fn read(path: &Path, clock: &Clock, lists: &IpSetUpdater) -> Result<LoadedBaseline, Diagnostics> {
    let loaded = compile(path, clock)?;
    lists.want(&loaded.gate.named_sets());
    Ok(loaded)
}

fn compile(path: &Path, clock: &Clock) -> Result<LoadedBaseline, Diagnostics> {
    let name = path.display().to_string();
    let problem = |what: String| Diagnostics(vec![Diagnostic::new(&name, what)]);
    let text = std::fs::read_to_string(path)
        .map_err(|error| problem(format!("can't be read: {error}")))?;
    let now = clock.now();
    let loaded = file::read(&name, &text, &VettedSecrets, now)?;
    check(&loaded.policy).map_err(|reason| problem(reason.into()))?;

    let gate = Gate::compile(&loaded.policy, Side::Relay, now)
        .map_err(|mistakes| problem(mistakes.join("; ")))?;
    Ok(LoadedBaseline {
        gate: Arc::new(gate),
        summary: Summary::of(&loaded.policy),
    })
}

/// Rejects settings that have no meaning in a baseline policy.
fn check(policy: &Policy) -> Result<(), Reason> {
    let error = |text: &str| Err(text.to_owned());
    if policy
        .routes
        .iter()
        .any(|route| route.mode != Mode::Enforce)
    {
        return error("observe_until: a baseline policy does not observe: no tunnel may relax it")
            .map_err(Reason::from);
    }

    let requires_token = |accept: &Accept| accept.token.is_some() || accept.basic.is_some();
    if policy
        .routes
        .iter()
        .flat_map(|route| &route.accept)
        .any(requires_token)
    {
        return error(
            "token, basic: a baseline policy requires no token: it would be forwarded to every application",
        ).map_err(Reason::from);
    }

    if policy.rate.is_some() || policy.routes.iter().any(|route| route.rate.is_some()) {
        return error(
            "rate: a baseline policy comes before the tunnel's own policy, so unknown senders would use it up for everyone; \
             write client_rate, or policy_rate in the relay's limits",
        ).map_err(Reason::from);
    }

    let is_own = |delivery: &Delivery| delivery.mode != DeliveryMode::Preset;
    if policy
        .routes
        .iter()
        .any(|route| route.delivery.as_ref().is_some_and(is_own))
    {
        return error("delivery: it belongs to each tunnel's policy").map_err(Reason::from);
    }
    if policy.routes.iter().any(|route| route.replay.is_some()) {
        return error("replay: replay protection belongs to each tunnel's policy")
            .map_err(Reason::from);
    }

    Ok(())
}
