//! The `[delivery]` table: what the relay may store, and for how long.

use std::time::Duration;

use hookward_core::diagnostics::TableReader;
use hookward_core::limits::Limits;
use serde_json::{Value, json};

use crate::storage::deliveries::StoreLimits;

const MIB: u64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(86_400);

/// Settings of stored deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverySettings {
    /// `true` if routes may store webhooks.
    pub enabled: bool,
    /// Maximum size of all stored webhooks, in bytes.
    pub max_bytes: u64,
    /// Maximum number of stored webhooks.
    pub max_count: u64,
    /// Maximum size of the stored webhooks of one tunnel, and of one agent, in bytes; `None` for
    /// half of `max_bytes`.
    pub tunnel_max_bytes: Option<u64>,
    /// Maximum number of the stored webhooks of one tunnel, and of one agent; `None` for half of
    /// `max_count`.
    pub tunnel_max_count: Option<u64>,
    /// Maximum number of attempts of one tunnel at the same time.
    pub concurrency: usize,
    /// Maximum age of a webhook that is still tried.
    pub max_age: Duration,
    /// Time for which the content of a delivered webhook stays.
    pub keep_done: Duration,
    /// Time for which a dead letter stays.
    pub keep_dead: Duration,
    /// Time for which the list names an ended delivery.
    pub keep_history: Duration,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            max_bytes: 1024 * MIB,
            max_count: 2_000_000,
            tunnel_max_bytes: None,
            tunnel_max_count: None,
            concurrency: 8,
            max_age: 3 * DAY,
            keep_done: Duration::ZERO,
            keep_dead: 30 * DAY,
            keep_history: 7 * DAY,
        }
    }
}

impl DeliverySettings {
    /// Reads the table. The reader collects the errors.
    pub(crate) fn read(table: &mut TableReader<'_>) -> Self {
        let default = Self::default();
        let count = |count: Option<usize>| count.map(|count| count as u64);
        let settings = Self {
            enabled: table.boolean("enabled").unwrap_or(default.enabled),
            max_bytes: table.size("max_bytes").unwrap_or(default.max_bytes),
            max_count: count(table.count("max_count")).unwrap_or(default.max_count),
            tunnel_max_bytes: table.size("tunnel_max_bytes"),
            tunnel_max_count: count(table.count("tunnel_max_count")),
            concurrency: table.count("concurrency").unwrap_or(default.concurrency),
            max_age: table.duration("max_age").unwrap_or(default.max_age),
            keep_done: table.duration("keep_done").unwrap_or(default.keep_done),
            keep_dead: table.duration("keep_dead").unwrap_or(default.keep_dead),
            keep_history: table
                .duration("keep_history")
                .unwrap_or(default.keep_history),
        };

        if !AGES.contains(&settings.max_age) {
            table.report_value("max_age", "lies outside 1m to 30d");
        }
        if !CONCURRENCY.contains(&settings.concurrency) {
            table.report_value("concurrency", "lies outside 1 to 256");
        }
        if settings
            .tunnel_max_bytes
            .is_some_and(|most| most > settings.max_bytes)
        {
            table.report_value("tunnel_max_bytes", "is more than max_bytes");
        }
        if settings
            .tunnel_max_count
            .is_some_and(|most| most > settings.max_count)
        {
            table.report_value("tunnel_max_count", "is more than max_count");
        }
        settings
    }

    /// Returns the bounds of the store.
    pub(crate) const fn store_limits(&self, limits: &Limits) -> StoreLimits {
        StoreLimits {
            claims: limits.max_tracked_deliveries as u64,
            bytes: self.max_bytes,
            count: self.max_count,
            tunnel_bytes: self.tunnel_bytes(),
            tunnel_count: self.tunnel_count(),
            max_age: self.max_age,
            keep_done: self.keep_done,
            keep_dead: self.keep_dead,
            keep_history: self.keep_history,
        }
    }

    /// Returns the maximum size of the stored webhooks of one tunnel or agent, in bytes.
    const fn tunnel_bytes(&self) -> u64 {
        match self.tunnel_max_bytes {
            Some(most) => most,
            None => self.max_bytes / 2,
        }
    }

    /// Returns the maximum number of the stored webhooks of one tunnel or agent.
    const fn tunnel_count(&self) -> u64 {
        match self.tunnel_max_count {
            Some(most) => most,
            None => self.max_count.div_ceil(2),
        }
    }

    /// Returns the settings for the audit log.
    pub(crate) fn summary(&self) -> Value {
        json!({
            "enabled": self.enabled,
            "max_bytes": self.max_bytes,
            "max_count": self.max_count,
            "tunnel_max_bytes": self.tunnel_bytes(),
            "tunnel_max_count": self.tunnel_count(),
            "concurrency": self.concurrency,
            "max_age_seconds": self.max_age.as_secs(),
            "keep_done_seconds": self.keep_done.as_secs(),
            "keep_dead_seconds": self.keep_dead.as_secs(),
            "keep_history_seconds": self.keep_history.as_secs(),
        })
    }
}

/// Range of `concurrency`.
const CONCURRENCY: std::ops::RangeInclusive<usize> = 1..=256;

/// Range of `max_age`.
const AGES: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(30 * 86_400);
