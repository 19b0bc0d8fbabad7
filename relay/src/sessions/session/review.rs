//! Reviews of a session: its credential, what its agent may open, and the renewal of the credential.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use hookward_core::names::HostName;
use hookward_core::secret::SecretDigest;
use hookward_observe::audit::Actor;
use hookward_tunnel::protocol::control::{RefusedReason, RelayMessage};
use serde_json::json;

use super::open::{OpenRefused, choose_host};
use super::{SessionEnd, SessionLoop, Step};
use crate::sessions::context::SessionContext;
use crate::sessions::handshake::{EXPIRED, parse_digest};
use crate::storage::Store;
use crate::storage::agents::{AgentScope, Authentication, KnownAgent, Renewal};

/// Result of a review in the store.
pub(super) struct Review {
    /// Agent of the session's credential.
    pub(super) found: Authentication,
    /// Hosts that other agents own now, with their names.
    pub(super) lost: Vec<(HostName, String)>,
}

impl SessionLoop<'_> {
    /// Checks in the store that the credential is valid and the agent still owns its hosts. The
    /// command `hookward-relay agent` changes them in another process. Returns `None` if the store fails.
    pub(super) async fn review(&self) -> Option<Review> {
        let (credential, agent) = (self.credential.clone(), self.live.agent.id);
        let now = self.context.clock.now();
        let reserved = self.context.reserved_hosts.load_full();
        let hosts: Vec<_> = self
            .opened
            .iter()
            .filter(|name| !reserved.contains_key(*name))
            .cloned()
            .collect();

        let review = move |store: &Store| {
            Ok(Review {
                found: store.authenticate(&credential, now)?,
                lost: store.lost_hosts(&hosts, agent)?,
            })
        };
        self.context.store.run(review).await.ok()
    }

    /// Ends the session of an agent that was revoked or limited, withdraws a host that moved to another
    /// agent, and requests the renewal of a credential.
    pub(super) fn on_review(&mut self, review: Option<Review>) -> Step {
        // A temporary failure of the store does not end a tunnel.
        let Some(Review { found, lost }) = review else {
            return ControlFlow::Continue(None);
        };
        let known = match found {
            Authentication::Known(known) => known,
            Authentication::Expired(_) => return refuse_credential(EXPIRED),
            Authentication::Unknown => {
                return refuse_credential(WITHDRAWN);
            }
        };
        if !known.scope.keeps_open(&self.scope) {
            // The agent connects again, and gets the reason for what it may not open any more.
            return ControlFlow::Break(SessionEnd::new(CHANGED.to_owned()));
        }
        self.scope = known.scope;

        let lost = lost.into_iter().map(|(host, owner)| {
            let message = format!("{host} belongs to the agent {owner} now");
            (host, message)
        });
        for (host, message) in lost.chain(self.withdrawn_hosts()).collect::<Vec<_>>() {
            self.context.registry.give_up(&host, &self.live);
            self.opened.remove(&host);
            tracing::info!(agent = %self.live.agent.name, message, "the agent loses a host");
            self.outgoing.push_back(RelayMessage::HostLost {
                host: host.to_string(),
                message,
            });
        }
        match known.is_renewal_due {
            true => self.request_renewal(),
            false => ControlFlow::Continue(None),
        }
    }

    /// Returns the open hosts that the agent could not open any more, with the reason. The settings may
    /// have given them to it.
    fn withdrawn_hosts(&self) -> Vec<(HostName, String)> {
        let name = &self.live.agent.name;
        let opened = self.opened.iter().filter_map(|host| {
            let chosen = choose_host(Some(host.as_str()), name, &self.scope, self.context);
            let OpenRefused(_, message) = chosen.err()?;
            Some((host.clone(), message))
        });
        opened.collect()
    }

    fn request_renewal(&mut self) -> Step {
        let is_recent = |at: Instant| at.elapsed() < RENEWAL_INTERVAL;
        if self.renewal_requested.is_some_and(is_recent) {
            return ControlFlow::Continue(None);
        }
        self.renewal_requested = Some(Instant::now());
        self.is_renewal_open = true;
        ControlFlow::Continue(Some(RelayMessage::RenewCredential))
    }

    /// Replaces the credential of the session. The agent uses it from its next connection on.
    pub(super) async fn on_renew(&mut self, digest: &str) -> Step {
        let Some(new) = parse_digest(digest) else {
            let what = "a renewal without a credential's digest".to_owned();
            return ControlFlow::Break(SessionEnd::new(what));
        };
        // One for each request of the relay, so that an agent cannot fill the logs.
        if !std::mem::take(&mut self.is_renewal_open) || new == self.credential {
            let what = "a renewal that the relay has not requested".to_owned();
            return ControlFlow::Break(SessionEnd::new(what));
        }

        let (old, wanted, now) = (
            self.credential.clone(),
            new.clone(),
            self.context.clock.now(),
        );
        let renewal = move |store: &Store| store.renew(&old, &wanted, now);
        match self.context.store.run(renewal).await {
            Ok(Renewal::Renewed) => {
                self.credential = new;
                self.renewal_requested = None;
                self.report_renewed();
                ControlFlow::Continue(Some(RelayMessage::Renewed))
            }
            // The agent keeps the old one, and the relay requests another renewal.
            Ok(refused) => {
                tracing::warn!(agent = %self.live.agent.name, ?refused, "the credential was not renewed");
                ControlFlow::Continue(None)
            }
            Err(error) => {
                tracing::error!(%error, "the state file failed: the credential was not renewed");
                ControlFlow::Continue(None)
            }
        }
    }

    fn report_renewed(&self) {
        let (name, peer) = (&self.live.agent.name, self.session.peer());
        tracing::info!(event = "credential_renewed", agent = %name, %peer, "credential renewed");
        let details = json!({ "agent": name.as_str(), "address": peer.to_string() });
        let audit = self.context.observer.audit();
        audit.act("credential_renewed", Actor::agent(name), details);
    }
}

/// Resolves once a change of agents has ended the credential, or does not include the scope.
pub(super) async fn ended_by_change(
    context: &SessionContext,
    credential: SecretDigest,
    scope: AgentScope,
) {
    let mut revision = context.agents_revision.clone();
    // The loop of the session reviews earlier ones.
    revision.mark_unchanged();
    while revision.changed().await.is_ok() {
        let (credential, now) = (credential.clone(), context.clock.now());
        let found = move |store: &Store| store.authenticate(&credential, now);
        let found = context.store.run(found).await;
        // A temporary failure of the store does not end a session.
        let goes_on = |known: KnownAgent| known.scope.keeps_open(&scope);
        if found.is_ok_and(|found| !found.known().is_some_and(goes_on)) {
            return;
        }
    }
    // The relay stops.
    std::future::pending().await
}

/// Reason of the end of a session whose agent was changed.
pub(super) const CHANGED: &str = "the administrator changed what the agent may open";

/// Reason of the end of a session whose credential was revoked.
const WITHDRAWN: &str = "the agent's credential was withdrawn; it needs a new join token (hookward-relay agent add NAME)";

pub(super) fn refuse_credential(message: &str) -> Step {
    let refusal = OpenRefused(RefusedReason::Credential, message.to_owned());
    ControlFlow::Break(SessionEnd::refused(refusal))
}

/// Interval of requests to renew a credential, which an agent may fail to store.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(60);
