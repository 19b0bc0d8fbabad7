//! Rates and lockouts of clients, before other checks.

use super::Gate;
use super::accept::AcceptRule;
use super::evaluation::Evaluation;
use super::state::{Counted, GateState};
use hookward_core::address::source;
use hookward_core::rate::Rate;
use hookward_core::reason::{Check, Code, Refusal};
use std::net::IpAddr;

/// Maximum number of unsigned challenges a second of one client address. Providers send one when a
/// webhook is registered, and some repeat it every hour.
pub(super) const CHALLENGES_PER_SECOND: u32 = 5;

/// Maximum number of signed requests a second of a client that is locked out or exceeds its rate.
/// Providers send fewer retries, and each costs a body of up to `max_body`.
pub(super) const BARRED_ATTEMPTS_PER_SECOND: u32 = 20;

impl Gate {
    /// Records a refusal by a check that only unknown senders fail. Repeated failures cause a
    /// lockout.
    pub fn note_refusal(&self, refusal: &Refusal, evaluation: Evaluation<'_>) {
        let Evaluation {
            client, now, state, ..
        } = evaluation;
        let Some(lockout) = self.lockout else { return };
        let by_stranger = refusal.check == Check::Token || refusal.is_unverified;
        if by_stranger && !self.allows(client, state) {
            state.note_failure(client, lockout, now.steady);
        }
    }

    pub(super) fn admit_client(&self, evaluation: Evaluation<'_>) -> Result<(), Refusal> {
        let Evaluation {
            client, now, state, ..
        } = evaluation;
        if self.lockout.is_some()
            && let Some(wait) = state.locked_out(client, now.steady)
        {
            let reason = format!(
                "{client} failed too often, and is locked out for {} s more",
                wait.div_ceil(1000)
            );
            return Err(Refusal::new(Check::Lockout, Code::RateLimited, reason).after(wait));
        }

        let Some(rate) = self.client_rate else {
            return Ok(());
        };

        self.admit_at(Counted::Client(source(client)), rate, evaluation)
    }

    pub(super) fn admit_at(
        &self,
        what: Counted,
        rate: Rate,
        evaluation: Evaluation<'_>,
    ) -> Result<(), Refusal> {
        let Evaluation {
            client, now, state, ..
        } = evaluation;
        state.admit(what, rate, now.steady).map_err(|wait| {
            let reason = format!("{client} sends more than {rate}");
            Refusal::new(Check::ClientRate, Code::RateLimited, reason).after(wait)
        })
    }

    /// Counts against the rates of the route and the tunnel, which unknown senders cannot use up.
    pub(super) fn count(&self, route: usize, evaluation: Evaluation<'_>) -> Result<(), Refusal> {
        let route_rate = self.routes.get(route).and_then(|route| route.rate);
        let rates = [
            (Counted::Route(route), route_rate, "this route"),
            (Counted::Tunnel, self.rate, "this tunnel"),
            (
                Counted::Operator,
                self.operators_rate,
                "every tunnel of this relay",
            ),
            (
                Counted::Agent,
                self.agents_rate,
                "every tunnel of this agent",
            ),
        ];
        for (what, rate, whose) in rates {
            let Some(rate) = rate else { continue };
            let admitted = evaluation.state.admit(what, rate, evaluation.now.steady);
            admitted.map_err(|wait| {
                Refusal::new(
                    Check::Rate,
                    Code::RateLimited,
                    format!("{whose} gets more than {rate}"),
                )
                .after(wait)
            })?;
        }

        Ok(())
    }

    /// Returns `true` if an accept rule allows this address by set or range. Such an address is
    /// never locked out.
    pub(super) fn allows(&self, client: IpAddr, state: &GateState) -> bool {
        let rules = self.routes.iter().flat_map(|route| &route.accept);
        rules
            .filter_map(AcceptRule::allowed)
            .any(|rule| rule.contains(client, state))
    }
}
