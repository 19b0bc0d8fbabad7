//! Delivery of a route's webhooks: straight to the application, or stored first.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::validate::Mistake;
use super::{Route, SecretAt};
use crate::providers::ValueLocator;
use hookward_core::reason::Reason;

/// Delivery of a route's webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// Relation of the sender's response to the delivery.
    pub mode: DeliveryMode,
    /// Order of stored deliveries.
    #[serde(default, skip_serializing_if = "DeliveryOrder::is_none")]
    pub order: DeliveryOrder,
    /// Maximum age of a delivery that the agent accepts, in milliseconds.
    pub max_age_ms: u64,
    /// Time after which a request without a response is stored, in milliseconds; `None` for the
    /// provider's own limit less a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback_after_ms: Option<u64>,
    /// Statuses of the application after which the webhook is stored.
    pub fallback_on: Vec<StatusPattern>,
    /// Statuses of the application after which a delivery is tried again.
    pub retry_on: Vec<StatusPattern>,
}

/// Relation of the sender's response to the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryMode {
    /// The sender gets the application's response. Nothing is stored.
    Direct,
    /// The webhook is stored, the sender gets 202, and the delivery follows.
    Queue,
    /// The sender gets the application's response. Without one, the webhook is stored.
    Fallback,
    /// [`DeliveryMode::Fallback`] where the relay stores webhooks, otherwise direct.
    Preset,
}

/// A status of the application, or a class of them: `503` or `5xx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StatusText", into = "String")]
pub enum StatusPattern {
    /// One status.
    One(u16),
    /// All statuses with this first digit.
    Class(u16),
}

/// A pattern as a number or as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum StatusText {
    Number(u16),
    Text(String),
}

/// Order of a tunnel's stored deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeliveryOrder {
    /// No order.
    #[default]
    None,
    /// All deliveries of the tunnel, one after another.
    Tunnel,
    /// Deliveries with the same value, one after another.
    Value(Box<ValueLocator>),
}

impl Delivery {
    /// Creates the delivery of a mode, with the defaults.
    #[must_use]
    pub fn new(mode: DeliveryMode) -> Self {
        Self {
            mode,
            order: DeliveryOrder::None,
            max_age_ms: MAX_AGE_MS,
            fallback_after_ms: None,
            fallback_on: FALLBACK_ON.to_vec(),
            retry_on: RETRY_ON.to_vec(),
        }
    }

    /// Returns `true` if webhooks may be stored.
    #[must_use]
    pub const fn stores(&self) -> bool {
        !matches!(self.mode, DeliveryMode::Direct)
    }

    /// Returns `true` if the webhook is stored after this status of the application.
    #[must_use]
    pub fn falls_back(&self, status: u16) -> bool {
        self.fallback_on.iter().any(|pattern| pattern.has(status))
    }

    /// Returns `true` if a delivery is tried again after this status of the application.
    #[must_use]
    pub fn retries(&self, status: u16) -> bool {
        self.retry_on.iter().any(|pattern| pattern.has(status))
    }
}

impl StatusPattern {
    /// Returns `true` if the status matches.
    #[must_use]
    pub const fn has(self, status: u16) -> bool {
        match self {
            Self::One(one) => one == status,
            Self::Class(class) => class == status / 100,
        }
    }
}

impl TryFrom<StatusText> for StatusPattern {
    type Error = Reason;

    fn try_from(text: StatusText) -> Result<Self, Reason> {
        let text = match text {
            StatusText::Number(status) => status.to_string(),
            StatusText::Text(text) => text,
        };
        let class = text.strip_suffix("xx").and_then(|class| class.parse().ok());
        let (pattern, first) = match (class, text.parse()) {
            (Some(class), _) => (Self::Class(class), class),
            (None, Ok(status)) => (Self::One(status), status / 100),
            (None, Err(_)) => return Err(not_a_status(&text)),
        };
        match (3..=5).contains(&first) {
            true => Ok(pattern),
            false => Err(not_a_status(&text)),
        }
    }
}

fn not_a_status(text: &str) -> Reason {
    format!("{text:?} is not a status from 300 to 599, such as 503 or \"5xx\"").into()
}

impl From<StatusPattern> for String {
    fn from(pattern: StatusPattern) -> Self {
        match pattern {
            StatusPattern::One(status) => status.to_string(),
            StatusPattern::Class(class) => format!("{class}xx"),
        }
    }
}

impl DeliveryMode {
    /// Returns the name in policies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Queue => "queue",
            Self::Fallback | Self::Preset => "fallback",
        }
    }

    /// Parses a name.
    ///
    /// # Errors
    /// The mistake.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        match text {
            "direct" => Ok(Self::Direct),
            "queue" => Ok(Self::Queue),
            "fallback" => Ok(Self::Fallback),
            _ => Err(format!("{text:?} is not a delivery; write direct, queue or fallback").into()),
        }
    }
}

impl DeliveryOrder {
    fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// Parses `none`, `tunnel`, or the location of a value.
    ///
    /// # Errors
    /// The mistake.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        match text {
            "none" => Ok(Self::None),
            "tunnel" => Ok(Self::Tunnel),
            _ => match ValueLocator::parse(text) {
                Ok(
                    value @ (ValueLocator::Header(_)
                    | ValueLocator::Query(_)
                    | ValueLocator::Form(_)
                    | ValueLocator::Json(_)
                    | ValueLocator::FormJson(..)),
                ) => Ok(Self::Value(Box::new(value))),
                _ => Err(format!(
                    "{text:?} is not an order; write none, tunnel, or a value such as json:repository.full_name or \
                     header:X-Key"
                )
                .into()),
            },
        }
    }
}

impl fmt::Display for DeliveryOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tunnel => f.write_str("tunnel"),
            Self::Value(value) => value.fmt(f),
        }
    }
}

impl TryFrom<String> for DeliveryOrder {
    type Error = Reason;

    fn try_from(text: String) -> Result<Self, Reason> {
        Self::parse(&text)
    }
}

impl From<DeliveryOrder> for String {
    fn from(order: DeliveryOrder) -> Self {
        order.to_string()
    }
}

impl Route {
    /// Returns the reason why the relay cannot store this route's webhooks, if there is one.
    #[must_use]
    pub fn unstorable(&self) -> Option<&'static str> {
        let checks = self.accept.iter().flat_map(|accept| &accept.verify);
        if self.websocket {
            return Some("a WebSocket needs the application's own response");
        }
        checks
            .filter(|check| check.secret_at == SecretAt::Agent)
            .map(|_| {
                "with secret_at = \"agent\" the relay cannot check the signature, and stores nothing that is not verified"
            })
            .next()
    }

    /// Returns the delivery of a route that names none: stored where that is possible.
    #[must_use]
    pub fn preset_delivery(&self) -> Option<Delivery> {
        match self.unstorable() {
            None => Some(Delivery::new(DeliveryMode::Preset)),
            Some(_) => None,
        }
    }

    /// Returns the mistakes of its delivery.
    pub(super) fn delivery_mistakes(&self) -> Vec<Mistake> {
        let Some(delivery) = self.delivery.as_ref().filter(|delivery| delivery.stores()) else {
            return Vec::new();
        };

        let mut mistakes = Vec::new();
        let mut wrong = |text: String| mistakes.push(Mistake::new("delivery", text));
        if let Some(reason) = self.unstorable() {
            wrong(format!(
                "delivery = {:?} is not possible: {reason}; write delivery = \"direct\"",
                delivery.mode.as_str()
            ));
        }
        if !AGE_MS.contains(&delivery.max_age_ms) {
            wrong("delivery: max_age lies outside 1m to 30d".to_owned());
        }
        if let Some(after) = delivery.fallback_after_ms {
            if !FALLBACK_AFTER_MS.contains(&after) {
                wrong("delivery: fallback_after lies outside 100ms to 10m".to_owned());
            }
            if delivery.mode == DeliveryMode::Queue {
                wrong("delivery: fallback_after has no effect with mode = \"queue\"".to_owned());
            }
        }
        for (key, statuses) in [
            ("fallback_on", &delivery.fallback_on),
            ("retry_on", &delivery.retry_on),
        ] {
            if statuses.len() > MAX_STATUSES {
                wrong(format!(
                    "delivery: {key} has more than {MAX_STATUSES} statuses"
                ));
            }
        }
        mistakes
    }
}

/// Default maximum age of a delivery, in milliseconds: a weekend.
const MAX_AGE_MS: u64 = 3 * 86_400_000;

/// Minimum and maximum age of a stored delivery, in milliseconds.
const AGE_MS: RangeInclusive<u64> = 60_000..=30 * 86_400_000;

/// Minimum and maximum of `fallback_after`, in milliseconds.
const FALLBACK_AFTER_MS: RangeInclusive<u64> = 100..=600_000;

/// Statuses that a proxy in front of a stopped application answers.
const FALLBACK_ON: [StatusPattern; 3] = [
    StatusPattern::One(502),
    StatusPattern::One(503),
    StatusPattern::One(504),
];

/// Statuses after which an application may accept the same webhook later.
const RETRY_ON: [StatusPattern; 4] = [
    StatusPattern::One(408),
    StatusPattern::One(425),
    StatusPattern::One(429),
    StatusPattern::Class(5),
];

/// Maximum number of statuses in a list.
const MAX_STATUSES: usize = 64;
