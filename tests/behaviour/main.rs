//! All end-to-end tests, in modules named by behaviour.

/// Runs a test over every transport; senders must not notice a difference.
macro_rules! over_all_transports {
    ($($name:ident)+) => {
        mod quic {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Transport::Quic).await;
            })+
        }
        mod tcp {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Transport::Tcp).await;
            })+
        }
    };
}

mod acme;
mod admin;
mod audit;
mod availability;
mod browser;
mod certificates;
mod challenges;
mod checks;
mod conformance;
mod console;
mod corpora;
mod damaged;
mod deliveries;
mod delivery_commands;
mod diagnose;
mod documents;
mod edge;
mod fetched;
mod front_proxies;
mod gate;
mod grant;
mod http;
mod identities;
mod inspector;
mod judge;
mod layers;
mod limits;
mod names;
mod networks;
mod observability;
mod observe;
mod ownership;
mod pictures;
mod programs;
mod properties;
mod providers;
mod reload;
mod replay;
mod restarts;
mod second_gate;
mod settings;
mod streams;
mod tools;
mod tunnel;
mod upstreams;
mod work;
