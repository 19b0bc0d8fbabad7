//! The writer of the history: inserts requests, and removes the oldest ones.

use std::path::PathBuf;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_runtime::sqlite::writer::Work;
use hookward_runtime::sqlite::{self, SqliteError};
use rusqlite::{Connection, Transaction, params};
use tokio::sync::{oneshot, watch};

use super::{KEPT_BYTES, KEPT_MS, KEPT_REQUESTS, Record, RecordedBy, SCHEMA};
use crate::inspector::capture::Source;

/// Maximum number of old requests that one commit removes.
const SWEEP_REQUESTS: i64 = 512;

/// Number of free pages from which some are given back to the disk, and their number.
const RELEASED_PAGES: u32 = 256;

/// Size of a row without its messages, in bytes: the columns of most requests.
const ROW_BYTES: usize = 400;

pub(super) enum Request {
    Insert(Vec<Record>),
    Clear(oneshot::Sender<u64>),
}

pub(super) struct HistoryWork {
    path: PathBuf,
    clock: Clock,
    committed: watch::Sender<i64>,
}

/// Results of a batch, which count once it is committed.
pub(super) struct BatchResults {
    newest: Option<i64>,
    cleared: u64,
}

impl HistoryWork {
    pub(super) const fn new(path: PathBuf, clock: Clock, committed: watch::Sender<i64>) -> Self {
        Self {
            path,
            clock,
            committed,
        }
    }
}

impl Work for HistoryWork {
    type Request = Request;
    type Replies = BatchResults;

    fn writes(&self, _: &Request) -> bool {
        true
    }

    fn idle(&mut self, db: &Connection) {
        if let Err(error) = sqlite::release_pages(db, RELEASED_PAGES) {
            tracing::debug!(%error, "no pages of the history were released");
        }
    }

    fn execute(
        &mut self,
        db: &mut Transaction<'_>,
        batch: &mut [Request],
    ) -> rusqlite::Result<BatchResults> {
        let mut results = BatchResults {
            newest: None,
            cleared: 0,
        };
        for request in &*batch {
            match request {
                Request::Insert(records) => {
                    for record in records {
                        results.newest = Some(insert(db, record)?);
                    }
                }
                Request::Clear(_) => {
                    results.cleared += db.execute("DELETE FROM requests", [])? as u64;
                }
            }
        }

        remove_old(db, self.clock.now())?;
        Ok(results)
    }

    fn committed(&mut self, batch: Vec<Request>, results: BatchResults) {
        for request in batch {
            if let Request::Clear(answer) = request {
                // A user who left has no use for the number.
                let _ = answer.send(results.cleared);
            }
        }
        if let Some(newest) = results.newest {
            self.committed.send_replace(newest);
        }
    }

    fn failed(&mut self, batch: Vec<Request>, error: &rusqlite::Error) -> Vec<Request> {
        let lost = batch.iter().map(|request| match request {
            Request::Insert(records) => records.len(),
            Request::Clear(_) => 0,
        });
        tracing::warn!(%error, count = lost.sum::<usize>(), "captured requests are lost");
        Vec::new()
    }

    fn reopen(&mut self) -> Result<Connection, SqliteError> {
        sqlite::open(&self.path, &SCHEMA)
    }
}

fn insert(db: &Transaction<'_>, record: &Record) -> rusqlite::Result<i64> {
    let explanation = record.explanation.as_ref();
    let explanation = explanation.and_then(|explained| serde_json::to_string(explained).ok());
    let (request, response) = (&record.request, record.response.as_ref());
    let size = |message: &super::Message| message.head.len() + message.body.len();
    let size = ROW_BYTES
        + size(request)
        + response.map_or(0, size)
        + explanation.as_ref().map_or(0, String::len);
    let micros = |span: std::time::Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    let (source, again_of) = match record.source {
        Source::Sender => ("sender", None),
        Source::Again(number) => ("again", Some(number)),
        Source::Sample => ("sample", None),
    };

    db.prepare_cached(
        "INSERT INTO requests (at_ms, id, by, tunnel, client, method, path, verdict, status, check_name,
             code, reason, route, provider, event, delivery, source, again_of, gate_us,
             application_us, total_us, size)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
             ?19, ?20, ?21, ?22)",
    )?
    .execute(params![
        i64::try_from(record.at.0).unwrap_or(i64::MAX),
        record.id,
        match record.by {
            RecordedBy::Agent => "agent",
            RecordedBy::Relay => "relay",
        },
        record.tunnel,
        record.client,
        record.method,
        record.path,
        record.verdict,
        record.status,
        record.check,
        record.code,
        record.reason,
        record.route,
        record.provider,
        record.event,
        record.delivery.map(|id| id.to_string()),
        source,
        again_of,
        record.timing.gate.map(micros),
        record.timing.application.map(micros),
        micros(record.timing.total),
        i64::try_from(size).unwrap_or(i64::MAX),
    ])?;

    let number = db.last_insert_rowid();
    db.prepare_cached(
        "INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )?
    .execute(params![
        number,
        request.head,
        request.body,
        i64::try_from(request.body_bytes).unwrap_or(i64::MAX),
        request.is_whole,
        request.is_redacted,
        response.map(|response| &response.head),
        response.map(|response| &response.body),
        response.map(|response| i64::try_from(response.body_bytes).unwrap_or(i64::MAX)),
        response.map(|response| response.is_whole),
        response.map(|response| response.is_redacted),
        explanation,
    ])?;
    Ok(number)
}

/// Removes some of the oldest requests, if there are too many, too large or too old ones.
fn remove_old(db: &Transaction<'_>, now: UnixMillis) -> rusqlite::Result<()> {
    let oldest = i64::try_from(now.0.saturating_sub(KEPT_MS)).unwrap_or(i64::MAX);
    db.prepare_cached(
        "DELETE FROM requests WHERE number IN
             (SELECT number FROM requests WHERE at_ms < ?1 ORDER BY at_ms LIMIT ?2)",
    )?
    .execute(params![oldest, SWEEP_REQUESTS])?;

    let usage = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    loop {
        let (requests, bytes) = db
            .prepare_cached("SELECT requests, bytes FROM usage")?
            .query_row([], usage)?;
        // A share of the bytes, so that one commit removes few requests.
        let surplus = match bytes > KEPT_BYTES {
            true => (requests / 64).max(1),
            false => (requests - KEPT_REQUESTS).max(0),
        };
        if surplus == 0 {
            return Ok(());
        }
        db.prepare_cached(
            "DELETE FROM requests WHERE number IN
                 (SELECT number FROM requests ORDER BY number LIMIT ?1)",
        )?
        .execute([surplus])?;
    }
}
