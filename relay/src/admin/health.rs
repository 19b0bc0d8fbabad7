//! Readiness of the relay: it can accept requests, and its storage commits.

use std::time::Duration;

use super::overview::Overview;
use super::status::HealthCheck;

/// Time for which a relay is not ready after `accept` failed: a load balancer must not send more
/// connections at once.
const EXHAUSTED_TIME: Duration = Duration::from_secs(10);

impl Overview {
    /// Returns `true` if the relay is ready, and its checks.
    pub(super) async fn health(&self) -> (bool, Vec<HealthCheck>) {
        let checks = vec![
            self.check_accept(),
            self.check_drain(),
            self.check_storage().await,
            self.check_audit(),
        ];
        (checks.iter().all(|check| check.is_ok), checks)
    }

    fn check_accept(&self) -> HealthCheck {
        let reason = "accept failed within the last 10 s: too few open files, or no memory";
        let is_exhausted = self.edge.was_exhausted(EXHAUSTED_TIME);
        check("accept", is_exhausted.then(|| reason.to_owned()))
    }

    fn check_drain(&self) -> HealthCheck {
        let is_draining = self.edge.draining.is_cancelled();
        let reason = "the relay is stopping";
        check("running", is_draining.then(|| reason.to_owned()))
    }

    async fn check_storage(&self) -> HealthCheck {
        check(
            "storage",
            self.storage_probe
                .failure(&self.store, self.clock.now())
                .await,
        )
    }

    fn check_audit(&self) -> HealthCheck {
        let audit = self.edge.observer.audit();
        let failure = audit.status().and_then(|status| status.failure);
        // A failing log that only counts its losses does not stop the relay.
        check("audit", failure.filter(|_| !audit.accepts()))
    }
}

fn check(name: &str, reason: Option<String>) -> HealthCheck {
    HealthCheck {
        name: name.to_owned(),
        is_ok: reason.is_none(),
        reason,
    }
}
