//! Join token, which an administrator carries from the relay to the agent's host, once.
//!
//! The token contains the relay's address, the pin of the relay's key, and a secret that works once and for
//! 24 hours. Its text is `hookward1.` and the base64url of a JSON object.

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

/// The text is not a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is not a complete join token; it begins with {PREFIX}, is one line, and is printed by `hookward-relay agent add NAME`"
)]
pub struct JoinTokenError;

impl JoinToken {
    /// Returns the token as text, to be shown once.
    #[must_use]
    pub fn to_text(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{PREFIX}{}", BASE64URL_NOPAD.encode(&json))
    }

    /// Returns `true` if the text begins like a join token, complete or damaged.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.trim().starts_with(PREFIX)
    }

    /// Parses a token.
    ///
    /// # Errors
    /// If the text is not a join token; the error does not repeat it.
    pub fn parse(text: &str) -> Result<Self, JoinTokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(JoinTokenError)?;
        let json = BASE64URL_NOPAD
            .decode(encoded.as_bytes())
            .map_err(|_| JoinTokenError)?;
        let token: Self = serde_json::from_slice(&json).map_err(|_| JoinTokenError)?;

        // The text is shown to the user before the relay is authenticated.
        if token.relay.chars().any(char::is_control) {
            Err(JoinTokenError)
        } else {
            Ok(token)
        }
    }
}

/// Prefix by which people and secret scanners recognise a join token.
const PREFIX: &str = "hookward1.";
