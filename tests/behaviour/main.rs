//! All end-to-end tests, in modules named by behaviour.

mod availability;
mod corpora;
mod gate;
mod http;
mod judge;
mod limits;
mod programs;
mod second_gate;
