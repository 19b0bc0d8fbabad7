//! Facts about a permitted request that is stored: its order, its provider, and its event.

use std::sync::Arc;
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use sha2::{Digest as _, Sha256};

use super::grant::{Grant, RequestDigest};
use super::permit::RouteSettings;
use super::signature::VerifiedSignature;
use super::token::TokenSpan;
use super::{Gate, Permit};
use crate::policy::{Delivery, DeliveryOrder};
use crate::providers::Provider;
use crate::request::Request;

/// Facts about a permitted request that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryFacts {
    /// Place in the order.
    pub order: OrderingKey,
    /// Id of the provider whose signature was checked.
    pub provider: Option<String>,
    /// Type of the event, as the provider names it.
    pub event: Option<String>,
}

/// Place of a delivery in the order of its tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderingKey {
    /// No order.
    None,
    /// Deliveries with this hash keep their order.
    Hash(u64),
}

/// Facts of a permit that outlive it, for storing its request. They permit nothing.
#[derive(Debug, Clone)]
pub struct PermitRecord {
    gate: Arc<Gate>,
    route: usize,
    rule: usize,
    tokens: Vec<TokenSpan>,
    signatures: Vec<VerifiedSignature>,
}

impl Permit {
    /// Returns what is needed for storing the request later.
    #[must_use]
    pub fn record(&self) -> PermitRecord {
        PermitRecord {
            gate: Arc::clone(&self.gate),
            route: self.route,
            rule: self.rule,
            tokens: self.tokens.clone(),
            signatures: self.signatures.clone(),
        }
    }
}

impl PermitRecord {
    /// Returns the grant, for storing the request.
    #[must_use]
    pub fn grant(&self, request: &Request<'_>, received: UnixMillis) -> Grant {
        Grant {
            received,
            request: RequestDigest::of(request),
            settings: self.settings().clone(),
            tokens: self.tokens.clone(),
            signatures: self.signatures.clone(),
            is_requested: false,
        }
    }

    /// Returns the delivery of the route; `None` for direct.
    #[must_use]
    pub fn delivery(&self) -> Option<&Delivery> {
        self.settings().delivery.as_ref()
    }

    /// Returns `true` if the route's deliveries keep an order.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        let delivery = self.delivery();
        delivery.is_some_and(|delivery| delivery.order != DeliveryOrder::None)
    }

    /// Returns the timeout for the head of the application's response.
    #[must_use]
    pub fn answer_timeout(&self) -> Duration {
        self.settings().answer_timeout
    }

    fn settings(&self) -> &RouteSettings {
        self.gate.settings_of(self.route)
    }

    /// Returns the facts for storing the request. A request without the value that orders them
    /// counts as one with an empty value.
    #[must_use]
    pub fn delivery_facts(&self, request: &Request<'_>) -> DeliveryFacts {
        let provider = self.provider();
        let order = self.delivery().map(|delivery| &delivery.order);
        let event = provider.and_then(|provider| provider.event.as_ref());
        let event = event.and_then(|locator| locator.text(request));
        DeliveryFacts {
            order: match order {
                None | Some(DeliveryOrder::None) => OrderingKey::None,
                Some(DeliveryOrder::Tunnel) => OrderingKey::of("", ""),
                Some(DeliveryOrder::Value(locator)) => {
                    let value = locator.text(request).unwrap_or_default();
                    OrderingKey::of(&locator.to_string(), &value)
                }
            },
            provider: provider.map(|provider| provider.id.clone()),
            event: event.map(|event| event.chars().take(EVENT_CHARS).collect()),
        }
    }

    /// Returns the time without a response after which the request is stored: that of the policy,
    /// or the limit of the provider less a second.
    #[must_use]
    pub fn fallback_after(&self) -> Duration {
        let in_policy = self
            .delivery()
            .and_then(|delivery| delivery.fallback_after_ms);
        if let Some(millis) = in_policy {
            return Duration::from_millis(millis);
        }

        let limit = self.provider().and_then(|provider| provider.answer_seconds);
        limit.map_or(FALLBACK_AFTER, |seconds| {
            Duration::from_secs(seconds)
                .saturating_sub(RESERVE)
                .max(SHORTEST)
        })
    }

    fn provider(&self) -> Option<&'static Provider> {
        let route = self.gate.routes.get(self.route)?;
        route.accept.get(self.rule)?.provider()
    }
}

impl OrderingKey {
    fn of(locator: &str, value: &str) -> Self {
        let digest = Sha256::new()
            .chain_update((locator.len() as u64).to_be_bytes())
            .chain_update(locator)
            .chain_update(value)
            .finalize();
        let hash = digest
            .iter()
            .take(8)
            .fold(0, |hash, byte| hash << 8 | u64::from(*byte));
        Self::Hash(hash)
    }
}

/// Time without a response after which a request is stored, if its provider's limit is unknown.
const FALLBACK_AFTER: Duration = Duration::from_secs(8);

/// Part of the provider's limit for the commit and the way of the response.
const RESERVE: Duration = Duration::from_secs(1);

/// Shortest time, for providers that wait for a second only.
const SHORTEST: Duration = Duration::from_millis(500);

/// Maximum length of an event's name, in characters.
const EVENT_CHARS: usize = 100;
