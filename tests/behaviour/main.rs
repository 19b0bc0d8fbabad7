//! All end-to-end tests, in modules named by behaviour.

mod availability;
mod challenges;
mod checks;
mod corpora;
mod fetched;
mod gate;
mod http;
mod judge;
mod limits;
mod networks;
mod programs;
mod properties;
mod reload;
mod replay;
mod second_gate;
mod tools;
mod tunnel;
mod upstreams;
