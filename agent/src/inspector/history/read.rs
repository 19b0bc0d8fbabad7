//! Queries of the history.

use std::collections::BTreeMap;

use hookward_core::clock::UnixMillis;
use hookward_gate::engine::explain::Explanation;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params_from_iter};
use serde::Serialize;
use utoipa::ToSchema;

use super::{History, HistoryError};
use crate::inspector::filter::Filter;
use crate::inspector::message::StoredMessage;

/// Columns of a [`Summary`], in its order.
const SUMMARY: &str = "r.number, r.at_ms, r.id, r.by, r.tunnel, r.client, r.method, r.path, r.verdict, \
                       r.status, r.check_name, r.code, r.reason, r.route, r.provider, r.event, \
                       r.delivery, r.source, r.again_of, r.receive_us, r.relay_us, r.gate_us, \
                       r.application_us, r.total_us, r.tunnel_us";

/// A request of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Summary {
    /// Number in the history.
    pub number: i64,
    /// Time of receipt, in milliseconds since 1970.
    pub at_ms: u64,
    /// Request id.
    pub id: String,
    /// Program whose verdict it is: `agent` or `relay`.
    pub by: String,
    /// Public host.
    pub tunnel: String,
    /// Client address.
    pub client: String,
    /// Method, escaped.
    pub method: String,
    /// Path without the query, escaped.
    pub path: String,
    /// Verdict: `forwarded`, `answered`, `refused`, `observed`, `failed` or `aborted`.
    pub verdict: String,
    /// Status of the response.
    pub status: Option<u16>,
    /// Check that refused.
    pub check: Option<String>,
    /// Stable code of a failure.
    pub code: Option<String>,
    /// Reason of the verdict.
    pub reason: Option<String>,
    /// Route of the policy.
    pub route: Option<String>,
    /// Provider that the request names.
    pub provider: Option<String>,
    /// Type of the provider's event.
    pub event: Option<String>,
    /// Id of the stored delivery.
    pub delivery: Option<String>,
    /// Origin of the request: `sender`, `again` or `sample`.
    pub source: String,
    /// Number of the request that was sent again.
    pub again_of: Option<i64>,
    /// Time in which the relay received the body that its checks read, in microseconds.
    pub receive_us: Option<u64>,
    /// Time of all else at the relay, in microseconds.
    pub relay_us: Option<u64>,
    /// Round-trip time between relay and agent, in microseconds.
    pub tunnel_us: Option<u64>,
    /// Time of the agent's gate, with the body that it reads, in microseconds.
    pub gate_us: Option<u64>,
    /// Time of the application until the head of its response, in microseconds.
    pub application_us: Option<u64>,
    /// Time of the whole exchange at the agent, in microseconds.
    pub total_us: u64,
}

/// A request with everything that is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Detail {
    pub summary: Summary,
    pub request: StoredMessage,
    pub response: Option<StoredMessage>,
    pub explanation: Option<Explanation>,
}

/// Part of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// The newest requests, newest first.
    Newest,
    /// Requests before this number, newest first.
    Before(i64),
    /// Requests after this number, oldest first.
    After(i64),
}

impl History {
    /// Returns up to `limit` requests that match a filter.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub(crate) async fn list(
        &self,
        filter: &Filter,
        page: Page,
        limit: usize,
    ) -> Result<Vec<Summary>, HistoryError> {
        let (condition, mut parameters) = filter.sql();
        let (range, order) = match page {
            Page::Newest => ("1".to_owned(), "DESC"),
            Page::Before(number) => (format!("r.number < {number}"), "DESC"),
            Page::After(number) => (format!("r.number > {number}"), "ASC"),
        };
        parameters.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
        let limit = parameters.len();
        let query = format!(
            "SELECT {SUMMARY} FROM requests r WHERE {range} AND {condition} \
             ORDER BY r.number {order} LIMIT ?{limit}"
        );
        self.read(move |db| {
            let mut statement = db.prepare(&query)?;
            let rows = statement.query_map(params_from_iter(parameters), summary)?;
            rows.collect()
        })
        .await
    }

    /// Returns the number of requests that match a filter.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub(crate) async fn count(&self, filter: &Filter) -> Result<u64, HistoryError> {
        let (condition, parameters) = filter.sql();
        let query = format!("SELECT count(*) FROM requests r WHERE {condition}");
        self.read(move |db| {
            let count = |row: &Row<'_>| row.get::<_, i64>(0);
            let count = db.query_row(&query, params_from_iter(parameters), count)?;
            Ok(u64::try_from(count).unwrap_or_default())
        })
        .await
    }

    /// Returns a request by its number, or `None` if it is not in the history.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub(crate) async fn find(&self, number: i64) -> Result<Option<Detail>, HistoryError> {
        self.read(move |db| detail(db, number)).await
    }

    /// Returns the attempts of a stored delivery, oldest first.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub(crate) async fn attempts(&self, delivery: String) -> Result<Vec<Summary>, HistoryError> {
        let query = format!(
            "SELECT {SUMMARY} FROM requests r WHERE r.delivery = ?1 ORDER BY r.number LIMIT 100"
        );
        self.read(move |db| {
            db.prepare(&query)?
                .query_map([delivery], summary)?
                .collect()
        })
        .await
    }

    /// Returns the number of the newest request with a request id.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub(crate) async fn number_of(&self, id: String) -> Result<Option<i64>, HistoryError> {
        let query = "SELECT max(number) FROM requests WHERE id = ?1";
        self.read(move |db| db.query_row(query, [id], |row| row.get(0)))
            .await
    }
}

fn detail(db: &Connection, number: i64) -> rusqlite::Result<Option<Detail>> {
    let query = format!("SELECT {SUMMARY} FROM requests r WHERE r.number = ?1");
    let Some(summary) = db.query_row(&query, [number], summary).optional()? else {
        return Ok(None);
    };

    let query = "SELECT request_head, request_body, request_bytes, request_is_whole, request_is_redacted, \
                 response_head, response_body, response_bytes, response_is_whole, response_is_redacted, \
                 explanation \
                 FROM messages WHERE number = ?1";
    let messages = |row: &Row<'_>| {
        let request = message(row, 0)?.unwrap_or_default();
        let explanation = row.get::<_, Option<String>>(10)?;
        let explanation = explanation.and_then(|text| serde_json::from_str(&text).ok());
        Ok((request, message(row, 5)?, explanation))
    };
    let found = db.query_row(query, [number], messages).optional()?;
    let (request, response, explanation) = found.unwrap_or_default();
    Ok(Some(Detail {
        summary,
        request,
        response,
        explanation,
    }))
}

/// Reads a message from five columns; `None` without a head.
fn message(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<StoredMessage>> {
    let Some(head) = row.get::<_, Option<Vec<u8>>>(first)? else {
        return Ok(None);
    };
    let body: Vec<u8> = row.get::<_, Option<_>>(first + 1)?.unwrap_or_default();
    let body_bytes = row.get::<_, Option<i64>>(first + 2)?.unwrap_or_default();
    let body_bytes = u64::try_from(body_bytes).unwrap_or_default();
    let flag = |column| row.get::<_, Option<bool>>(column);
    Ok(Some(StoredMessage {
        head,
        body,
        body_bytes,
        is_whole: flag(first + 3)?.unwrap_or_default(),
        is_redacted: flag(first + 4)?.unwrap_or_default(),
    }))
}

fn summary(row: &Row<'_>) -> rusqlite::Result<Summary> {
    let micros = |column: usize| -> rusqlite::Result<Option<u64>> {
        let micros = row.get::<_, Option<i64>>(column)?;
        Ok(micros.and_then(|micros| u64::try_from(micros).ok()))
    };
    Ok(Summary {
        number: row.get(0)?,
        at_ms: micros(1)?.unwrap_or_default(),
        id: row.get(2)?,
        by: row.get(3)?,
        tunnel: row.get(4)?,
        client: row.get(5)?,
        method: row.get(6)?,
        path: row.get(7)?,
        verdict: row.get(8)?,
        status: row.get(9)?,
        check: row.get(10)?,
        code: row.get(11)?,
        reason: row.get(12)?,
        route: row.get(13)?,
        provider: row.get(14)?,
        event: row.get(15)?,
        delivery: row.get(16)?,
        source: row.get(17)?,
        again_of: row.get(18)?,
        receive_us: micros(19)?,
        relay_us: micros(20)?,
        gate_us: micros(21)?,
        application_us: micros(22)?,
        total_us: micros(23)?.unwrap_or_default(),
        tunnel_us: micros(24)?,
    })
}

/// Activity of the last hour, for charts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Activity {
    /// Number of requests in each minute, the oldest first.
    pub requests: Vec<u64>,
    /// Median and 99th percentile of the application's time in each minute, in microseconds.
    pub median: Vec<Option<u64>>,
    pub p99: Vec<Option<u64>>,
    /// Number of refusals by check, the most frequent first.
    pub refusals: Vec<(String, u64)>,
}

/// Minutes of an [`Activity`].
pub(crate) const MINUTES: usize = 60;

impl History {
    /// Returns the activity of the last hour before `now`.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub(crate) async fn activity(&self, now: UnixMillis) -> Result<Activity, HistoryError> {
        self.read(move |db| activity(db, now)).await
    }
}

fn activity(db: &Connection, now: UnixMillis) -> rusqlite::Result<Activity> {
    const MINUTE_MS: u64 = 60_000;

    let begin = (now.0 / MINUTE_MS + 1).saturating_sub(MINUTES as u64) * MINUTE_MS;
    let mut statement = db.prepare(
        "SELECT at_ms, application_us, verdict, check_name FROM requests WHERE at_ms >= ?1",
    )?;
    let mut rows = statement.query([i64::try_from(begin).unwrap_or(i64::MAX)])?;
    let mut requests = vec![0; MINUTES];
    let mut durations = vec![Vec::new(); MINUTES];
    let mut refusals = BTreeMap::<String, u64>::new();
    while let Some(row) = rows.next()? {
        let at = u64::try_from(row.get::<_, i64>(0)?).unwrap_or_default();
        let minute = usize::try_from(at.saturating_sub(begin) / MINUTE_MS).unwrap_or(usize::MAX);
        if let Some(count) = requests.get_mut(minute) {
            *count += 1;
        }
        if let (Some(micros), Some(all)) =
            (row.get::<_, Option<i64>>(1)?, durations.get_mut(minute))
        {
            all.push(u64::try_from(micros).unwrap_or_default());
        }
        let verdict = row.get_ref(2)?.as_str()?;
        if let (true, Some(check)) = (verdict == "refused", row.get::<_, Option<String>>(3)?) {
            *refusals.entry(check).or_default() += 1;
        }
    }

    let mut activity = Activity {
        requests,
        refusals: refusals.into_iter().collect(),
        ..Activity::default()
    };
    activity
        .refusals
        .sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for all in &mut durations {
        all.sort_unstable();
        let share = |percent: usize| {
            all.get(all.len().saturating_sub(1) * percent / 100)
                .copied()
        };
        activity.median.push(share(50));
        activity.p99.push(share(99));
    }
    Ok(activity)
}
