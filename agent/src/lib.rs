//! Hookward's agent: the private side. It keeps a tunnel to the relay ([`connection`]), checks every
//! request that comes out of it by its own copy of the policy and replays it ([`replay`]) to the
//! application ([`upstream`]), and says what happens ([`report`], [`terminal`]).
//!
//! [`Agent`] is a value: start it, stop it. The program `hookward` is wiring around it.

pub mod cli;
pub mod commands;
pub mod connection;
pub mod exit;
pub mod flags;
pub mod replay;
pub mod report;
pub mod request;
pub mod state;
pub mod terminal;
pub mod upstream;

use std::sync::Arc;
use std::time::Duration;

use hookward_shared::budget::BodyBudget;
use hookward_shared::clock::Clock;
use hookward_shared::config::{Problem, Problems};
use hookward_shared::current::Current;
use hookward_shared::gate::rate::Meter;
use hookward_shared::gate::{Gate, Side, State};
use hookward_shared::limits::AGENT_BODY_BUDGET;
use hookward_shared::policy::Policy;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::policies::{Offer, Policies};
use crate::connection::{ConnectionError, Connector, Opened, Relay};
use crate::replay::{Pairing, Replay};
use crate::report::Reporter;
use crate::upstream::letter_case::LetterCases;
use crate::upstream::pool::{Application, Pool};

/// What an agent needs to know.
pub struct AgentSettings {
    /// The relay.
    pub relay: Relay,
    /// The public host to ask for.
    pub host: Option<String>,
    /// What may pass.
    pub policy: Policy,
    /// Where it goes.
    pub application: Application,
    /// For requests to end when the agent is stopped.
    pub drain: Duration,
    /// Where a secret goes that a provider tells in its handshake; only while pairing.
    pub pairing: Option<Pairing>,
}

/// A running agent.
pub struct Agent {
    /// `None` once it has been waited for.
    running: Option<JoinHandle<Result<(), ConnectionError>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
    policies: watch::Sender<Arc<Offer>>,
    clock: Clock,
}

/// A policy ready to be offered to the relay.
fn offer(policy: &Policy, clock: &Clock) -> Result<Arc<Offer>, Problems> {
    let gate = Gate::compile(policy, Side::Agent, clock.now())
        .map_err(|mistakes| Problems(mistakes.into_iter().map(|what| Problem::new("policy", what)).collect()))?;
    Ok(Arc::new(Offer { policy: policy.for_relay(), gate: Arc::new(gate) }))
}

impl Agent {
    /// Starts an agent. `on_open` is called whenever a tunnel has been opened.
    ///
    /// # Errors
    /// Every reason for which the policy can't be used.
    pub fn start(
        settings: AgentSettings,
        clock: Clock,
        reporter: Reporter,
        on_open: impl Fn(Opened) + Send + Sync + 'static,
    ) -> Result<Self, Problems> {
        let first = offer(&settings.policy, &clock)?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let replay = Replay {
            gate: Current::new(Arc::clone(&first.gate)),
            state: State::default(),
            pairing: settings.pairing,
            clock: clock.clone(),
            pool: Pool::new(settings.application, tasks.clone(), stop.clone()),
            diagnoses: Meter::default(),
            cases: LetterCases::default(),
            reporter: reporter.clone(),
            budget: BodyBudget::new(AGENT_BODY_BUDGET),
        };
        let (policies, wanted) = watch::channel(first);
        let connector = Connector {
            relay: settings.relay,
            host: settings.host,
            policies: Policies::new(wanted),
            replay: Arc::new(replay),
            reporter,
            exchanges: TaskTracker::new(),
            drain: settings.drain,
            on_open: Box::new(on_open),
        };
        let running = tokio::spawn(connector.run(stop.clone()));
        Ok(Self { running: Some(running), stop, tasks, policies, clock })
    }

    /// Offers another policy to the relay. It is in force, on both sides, once the relay has taken it; until
    /// then, and if it does not, the old one is.
    ///
    /// # Errors
    /// Every reason for which the policy can't be used.
    pub fn replace_policy(&self, policy: &Policy) -> Result<(), Problems> {
        let offer = offer(policy, &self.clock)?;
        // An agent that has ended has no use for it.
        let _ = self.policies.send(offer);
        Ok(())
    }

    /// Waits for the agent to end by itself, which it only does when the relay refuses it.
    ///
    /// # Errors
    /// What the relay said.
    pub async fn ended(&mut self) -> Result<(), ConnectionError> {
        let Some(running) = &mut self.running else { return Ok(()) };
        let ended = running.await;
        self.running = None;
        ended.unwrap_or_else(|panic| Err(ConnectionError::Ended(panic.to_string())))
    }

    /// Stops: takes no more requests, ends those under way, closes the tunnel.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Some(running) = self.running {
            let _ = running.await;
        }
        self.tasks.close();
        self.tasks.wait().await;
    }
}
