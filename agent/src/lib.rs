//! Hookward's agent: the private side. It keeps a tunnel to the relay (`relay_link`), checks every
//! request by its own copy of the policy (`exchange`), forwards it to the application (`upstream`),
//! reports events ([`events`], `terminal`), counts and records them (`observe`), keeps the last requests
//! for the user (`inspector`), and shows its state (`api`).
//!
//! [`Agent`] is a value: start it, stop it. The program `hookward` is wiring around it.
#![doc = ""]
#![doc = include_str!("../README.md")]

mod agent;
mod api;
mod cli;
mod commands;
mod config;
pub mod events;
mod exchange;
mod exit;
mod inspector;
mod observe;
mod relay_link;
mod terminal;
mod upstream;

pub use agent::{Agent, AgentSettings, TunnelSettings};
pub use cli::{Cli, LogFormat, UpstreamArgs};
pub use commands::{CommandError, print_error, run};
pub use config::policy_args::application;
pub use config::state_dir::{Credential, StateDir};
pub use exchange::{InFlight, Pairing};
pub use exit::Exit;
pub use inspector::capture::Capture;
pub use observe::AgentObserver;
pub use relay_link::proxy::Proxies;
pub use relay_link::{
    ConnectionError, LinkSettings, OpenedTunnel, RelayEndpoint, TransportMode, join,
};
pub use terminal::lines::text as event_text;
pub use upstream::application::{Address, Application, HostField};
