//! Actors of the end-to-end tests: a [`stage`] with a relay and an agent in this process, a
//! [`sender`] that writes raw bytes over real TLS, a recording [`application`], and the two
//! programs as [`process`]es. [`wait`] has the only way to wait.
#![doc = ""]
#![doc = include_str!("../README.md")]

pub mod acme;
pub mod application;
pub mod browser;
pub mod corpus;
pub mod h2_frames;
pub mod initials;
pub mod inspector;
pub mod link;
pub mod network;
pub mod ports;
pub mod private_api;
pub mod process;
pub mod proxy;
pub mod publisher;
pub mod rogue;
pub mod sender;
pub mod stage;
pub mod upstream;
pub mod wait;
