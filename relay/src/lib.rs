//! Hookward's relay: the public side. `edge` receives webhooks over HTTPS, the gate of the tunnel
//! decides about each, and `forward` sends permitted ones to the agent whose session serves the
//! host (`sessions`).
//!
//! [`Relay`] is a value: start it, read its addresses, shut it down. The program `hookward-relay`
//! and the agent's `--local` are wiring around it.
#![doc = ""]
#![doc = include_str!("../README.md")]

mod admin;
mod body;
mod certs;
mod cli;
mod commands;
mod data_dir;
mod delivery;
mod edge;
mod fetch;
mod forward;
mod observe;
mod overload;
mod server;
mod sessions;
mod settings;
mod storage;

pub use admin::listeners::{AdminAddresses, AdminError, AdminListen, AdminSettings};
pub use certs::TunnelIdentity;
pub use cli::{Cli, LogFormat};
pub use commands::{CommandError, run};
pub use data_dir::DataDirError;
pub use edge::client_address::{ForwardedField, client_address};
pub use edge::proxy_protocol;
pub use fetch::client::{FetchError, FetchSettings, Fetcher};
pub use observe::{
    EventStamp, RelayEvent, RelayEventKind, RequestRecord, Subscription, SubscriptionItem,
};
pub use server::{Relay, StartError};
pub use settings::{AcmeSettings, DeliverySettings, Settings};
pub use storage::{CommitStats, StorageError, Store};
