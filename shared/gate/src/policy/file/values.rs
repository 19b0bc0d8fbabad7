//! Reads lockouts, replay protection and value rules.

use crate::policy::raw::{RawDelivery, RawValueRule};
use crate::policy::{Lockout, OnDuplicate, ReplayProtection};
use hookward_core::diagnostics::TableReader;

/// Default time for which deliveries are remembered, in milliseconds: providers retry for one to
/// three days.
pub const REPLAY_WINDOW_MS: u64 = 3 * 86_400_000;

pub(super) fn replay(mut reader: TableReader<'_>) -> Option<ReplayProtection> {
    let on_duplicate = match reader.string("on_duplicate").as_deref() {
        Some("refuse") => Some(OnDuplicate::Refuse),
        Some("acknowledge") => Some(OnDuplicate::Acknowledge),
        Some("forward") => Some(OnDuplicate::Forward),
        _ => {
            reader.report_value(
                "on_duplicate",
                "expected \"refuse\", \"acknowledge\" or \"forward\"",
            );
            None
        }
    };

    let window = reader.duration("window").map_or(REPLAY_WINDOW_MS, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    });
    reader.finish();

    Some(ReplayProtection {
        on_duplicate: on_duplicate?,
        window_ms: window,
    })
}

/// Reads `delivery = "queue"`, or a table with `mode`.
pub(super) fn delivery(reader: &mut TableReader<'_>) -> Option<RawDelivery> {
    if !reader.has("delivery") {
        return None;
    }
    if !reader.is_table("delivery") {
        return Some(RawDelivery {
            mode: reader.string("delivery"),
            mode_key: "delivery",
            origins: reader.origins(),
            ..RawDelivery::default()
        });
    }

    let mut table = reader.table("delivery")?;
    let raw = RawDelivery {
        mode: table.string("mode"),
        mode_key: "mode",
        order: table.string("order"),
        max_age: table.string("max_age"),
        fallback_after: table.string("fallback_after"),
        fallback_on: table.typed("fallback_on"),
        retry_on: table.typed("retry_on"),
        origins: table.origins(),
    };
    table.finish();
    Some(raw)
}

pub(super) fn lockout(top: &mut TableReader<'_>) -> Option<Lockout> {
    if !top.has("lockout") {
        return None;
    }

    let mut table = top.table("lockout")?;
    let failures = table.count("failures");
    let (within, span) = (table.duration("within"), table.duration("for"));
    for key in ["failures", "within", "for"] {
        if !table.has(key) {
            table.problem(format!(
                "{key} is missing; write for example {{ failures = 20, within = \"1m\", for = \"5m\" }}"
            ));
        }
    }

    table.finish();
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Some(Lockout {
        failures: u32::try_from(failures?).unwrap_or(u32::MAX),
        within_ms: millis(within?),
        for_ms: millis(span?),
    })
}

/// Reads a table of names with their allowed values.
pub(super) fn value_rules(reader: &mut TableReader<'_>, key: &'static str) -> Vec<RawValueRule> {
    let lists = reader.lists(key).into_iter();
    lists
        .map(|(name, allowed, offset)| RawValueRule {
            origin: reader.origin_at(offset, key),
            name,
            allowed,
        })
        .collect()
}
