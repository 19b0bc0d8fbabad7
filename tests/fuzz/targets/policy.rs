//! The policy file: every mistake has a location, and a valid file compiles on both sides.
#![no_main]

use std::sync::Arc;

use hookward_core::clock::UnixMillis;
use hookward_core::secret::{SecretError, SecretReader, SecretSource};
use hookward_gate::engine::{Gate, Side};
use hookward_gate::policy::file;
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

/// The same secret for every name.
struct OneSecret;

impl SecretReader for OneSecret {
    fn read(&self, _: &SecretSource) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        Ok(Zeroizing::new(b"a secret that is long enough\n".to_vec()))
    }
}

fuzz_target!(|text: &str| {
    let now = UnixMillis(1_700_000_000_000);
    match file::read("policy.toml", text, &OneSecret, now) {
        Ok(loaded) => {
            for (side, policy) in [
                (Side::Agent, loaded.policy.clone()),
                (Side::Relay, loaded.policy.for_relay()),
            ] {
                let gate = Gate::compile(&policy, side, now).expect("what was read can be used");
                let _ = Arc::new(gate).named_sets();
            }
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
