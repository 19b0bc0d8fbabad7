//! The join token: what an administrator carries from the relay to the agent's host, once.
//!
//! It holds the relay's address, the pin of the relay's key, and a secret that works once and for
//! 24 hours. As text: `hookward1.` and the base64url of a JSON object.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use crate::transport::identity::Pin;
use hookward_core::secret::Secret;

/// Token that an administrator carries from the relay to the agent's host.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// Host and port of the relay's tunnel listener.
    pub relay: String,
    /// Pin of the relay's key.
    pub pin: Pin,
    /// Secret that the relay exchanges for a credential, once.
    pub secret: Secret,
}

/// A text that is no join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no whole join token; it begins with {PREFIX}, is one line, and is printed by `hookward-relay agent add NAME`"
)]
pub struct JoinTokenError;

impl JoinToken {
    /// The token as text, to be shown once.
    #[must_use]
    pub fn to_text(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&json))
    }

    /// Returns `true` if the text begins like a join token, whole or damaged.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.trim().starts_with(PREFIX)
    }

    /// Reads a token.
    ///
    /// # Errors
    /// When the text is no join token; the text is not repeated.
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(JoinTokenError)?;
        let json = BASE64URL_NOPAD
            .decode(encoded.as_bytes())
            .map_err(|_| JoinTokenError)?;
        let token: Self = serde_json::from_slice(&json).map_err(|_| JoinTokenError)?;

        // It is shown to the user before anybody has proved anything.
        if token.relay.chars().any(char::is_control) {
            Err(JoinTokenError)
        } else {
            Ok(token)
        }
    }
}

/// Prefix of a join token, by which people and scanners for leaked secrets recognize it.
const PREFIX: &str = "hookward1.";
