//! Messages of the control stream, from either side. A policy of any agent must compile or be
//! refused.
#![no_main]

use hookward_core::clock::UnixMillis;
use hookward_gate::engine::{Gate, Side};
use hookward_gate::policy::Policy;
use hookward_tunnel::protocol::control::{AgentMessage, RelayMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    if let Ok(AgentMessage::Open { policy, .. }) =
        serde_json::from_slice::<AgentMessage<Policy>>(message)
        && let Err(mistakes) = Gate::compile(&policy, Side::Relay, UnixMillis(1_700_000_000_000))
    {
        assert!(!mistakes.is_empty());
    }
    let _ = serde_json::from_slice::<RelayMessage>(message);
});
