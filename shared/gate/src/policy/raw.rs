//! A policy as it is written, in flags or in a file. Both produce a [`RawPolicy`], most of whose
//! values are still text, and [`super::resolve()`] makes the policy of it. Every table remembers the origin of
//! its values, so that each mistake names a flag, or a line and column.

use hookward_core::diagnostics::{Origin, Origins};

use crate::policy::delivery::StatusPattern;
use crate::policy::{Lockout, Mode, ReplayProtection, SecretAt};
use crate::providers::Scheme;

/// A policy as it is written.
#[derive(Clone, Default)]
pub struct RawPolicy {
    /// Origins of the general settings.
    pub origins: Origins,
    /// Rate of one client address.
    pub client_rate: Option<String>,
    /// Rate of permitted requests.
    pub rate: Option<String>,
    /// Lockout of addresses that keep failing.
    pub lockout: Option<Lockout>,
    /// Routes in order.
    pub routes: Vec<RawRoute>,
}

/// A route as it is written.
#[derive(Clone, Default)]
pub struct RawRoute {
    /// Origins of its settings.
    pub origins: Origins,
    /// Display name; `None` for the first path.
    pub name: Option<String>,
    /// Path patterns.
    pub paths: Vec<String>,
    /// Methods, in any case; `None` for all allowed methods.
    pub methods: Option<Vec<String>>,
    /// Client addresses that are always refused.
    pub deny_ips: Vec<String>,
    /// Maximum size of a body that a check reads, in bytes.
    pub max_body: Option<u64>,
    /// Timeout for the head of the application's response.
    pub answer_timeout: Option<String>,
    /// `true` if WebSockets are allowed.
    pub websocket: bool,
    /// `true` if the token is forwarded.
    pub keep_token: bool,
    /// `true` if escaped slashes may occur.
    pub encoded_slashes: bool,
    /// Rate of permitted requests.
    pub rate: Option<String>,
    /// Delivery; `None` for the preset.
    pub delivery: Option<RawDelivery>,
    /// Replay protection.
    pub replay: Option<ReplayProtection>,
    /// Mode of failed checks; `None` to enforce.
    pub mode: Option<Mode>,
    /// Accept rules.
    pub accept: Vec<RawAccept>,
}

/// Delivery of a route as it is written.
#[derive(Clone, Default)]
pub struct RawDelivery {
    /// Origins of its settings.
    pub origins: Origins,
    /// `direct`, `queue` or `fallback`.
    pub mode: Option<String>,
    /// Key of the mode: `mode` of a table, otherwise `delivery`.
    pub mode_key: &'static str,
    /// `none`, `tunnel`, or the location of a value.
    pub order: Option<String>,
    /// Maximum age of a delivery.
    pub max_age: Option<String>,
    /// Time without a response after which a webhook is stored.
    pub fallback_after: Option<String>,
    /// Statuses after which a webhook is stored.
    pub fallback_on: Option<Vec<StatusPattern>>,
    /// Statuses after which a delivery is tried again.
    pub retry_on: Option<Vec<StatusPattern>>,
}

/// An accept rule as it is written.
#[derive(Clone, Default)]
pub struct RawAccept {
    /// Origins of its settings.
    pub origins: Origins,
    /// Meaning of a rule without a check that authenticates the sender.
    pub unprotected: Unprotected,
    /// Address ranges and named sets; `None` for all addresses.
    pub allow_ips: Option<Vec<String>>,
    /// Token.
    pub token: Option<RawToken>,
    /// Sources of users and passwords; `None` without Basic authentication.
    pub basic: Option<Vec<String>>,
    /// Media types.
    pub content_types: Vec<String>,
    /// Header fields with their allowed values.
    pub headers: Vec<RawValueRule>,
    /// JSON paths with their allowed values.
    pub body: Vec<RawValueRule>,
    /// Signatures.
    pub verify: Vec<RawSignature>,
    /// `false` if a value of the table had a mistake, so that nothing counts as missing.
    pub is_readable: bool,
}

/// Meaning of an accept rule without an address range, a token or a signature.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unprotected {
    /// A mistake.
    #[default]
    Mistake,
    /// Anyone may send (`open = true`). A mistake beside a check.
    Open,
    /// Anyone may send, unless there is a check (`--no-token`).
    OpenByDefault,
    /// A token is created.
    CreateToken,
}

/// A token as it is written.
#[derive(Clone)]
pub struct RawToken {
    /// Origins of its settings.
    pub origins: Origins,
    /// Location, such as `header:X-Token`, or a query parameter.
    pub location: String,
    /// Sources of the tokens.
    pub secrets: Vec<RawSecret>,
}

/// Source of a secret, and the key that names it.
#[derive(Clone)]
pub struct RawSecret {
    /// Key of the setting: `secret` or `secrets`.
    pub key: &'static str,
    /// Source, such as `env:NAME`.
    pub source: String,
}

/// A rule about a header field or a body value, as it is written.
#[derive(Clone)]
pub struct RawValueRule {
    /// Origin of the name.
    pub origin: Origin,
    /// Header name, or JSON path.
    pub name: String,
    /// Allowed values.
    pub allowed: Vec<String>,
}

/// A signature check as it is written.
#[derive(Clone, Default)]
pub struct RawSignature {
    /// Origins of its settings.
    pub origins: Origins,
    /// Id of a provider.
    pub provider: Option<String>,
    /// Variant of the provider's scheme.
    pub variant: Option<String>,
    /// Custom scheme.
    pub scheme: Option<Box<Scheme>>,
    /// Side that has the secret.
    pub secret_at: SecretAt,
    /// Public origin, if it differs from the tunnel's.
    pub origin: Option<String>,
    /// `true` if the provider's challenges are answered.
    pub challenge: bool,
    /// Sources of the secrets.
    pub secrets: Vec<RawSecret>,
}
