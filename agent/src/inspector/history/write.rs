//! The writer of the history: inserts requests, and removes the oldest ones.

use std::path::PathBuf;

use hookward_core::clock::{Clock, UnixMillis};
use hookward_runtime::sqlite::writer::Work;
use hookward_runtime::sqlite::{self, SqliteError};
use rusqlite::{Connection, Transaction, params};
use tokio::sync::{oneshot, watch};

use super::{KEPT_MS, KEPT_OTHERS, KEPT_REFUSED, Record, RecordedBy, open_or_set_aside};
use crate::inspector::capture::{Dropped, Source};
use crate::inspector::message::StoredMessage;

/// Maximum number of old requests that one commit removes.
const SWEEP_REQUESTS: i64 = 512;

/// Number of free pages from which some are given back to the disk, and their number.
const RELEASED_PAGES: u32 = 256;

/// Size of a step of an explanation without its reason, in bytes.
const STEP_BYTES: usize = 60;

/// Size of a row without its texts and messages, in bytes.
const ROW_BYTES: usize = 400;

pub(super) enum Request {
    Insert(Vec<Record>),
    /// Removes all requests. Answers with their number, or `None` if the file cannot be written.
    Clear(oneshot::Sender<Option<u64>>),
}

pub(super) struct HistoryWork {
    path: PathBuf,
    clock: Clock,
    committed: watch::Sender<i64>,
    dropped: Dropped,
    /// `true` while commits fail.
    is_failing: bool,
    /// `true` if the log still has what was deleted.
    must_truncate: bool,
}

/// Results of a batch, which count once it is committed.
pub(super) struct BatchResults {
    newest: Option<i64>,
    cleared: u64,
}

impl HistoryWork {
    pub(super) const fn new(
        path: PathBuf,
        clock: Clock,
        committed: watch::Sender<i64>,
        dropped: Dropped,
    ) -> Self {
        Self {
            path,
            clock,
            committed,
            dropped,
            is_failing: false,
            must_truncate: false,
        }
    }
}

impl Work for HistoryWork {
    type Request = Request;
    type Replies = BatchResults;

    fn writes(&self, _: &Request) -> bool {
        true
    }

    fn bytes(request: &Request) -> usize {
        match request {
            Request::Insert(records) => records.iter().map(size_of).sum(),
            Request::Clear(_) => 0,
        }
    }

    fn idle(&mut self, db: &Connection) {
        if std::mem::take(&mut self.must_truncate) {
            let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
            let truncated = db.query_row(truncate, [], |row| row.get::<_, bool>(0));
            // Another program reads the log; the next idle time comes.
            self.must_truncate = !matches!(truncated, Ok(false));
        }
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
                    self.must_truncate = true;
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
                let _ = answer.send(Some(results.cleared));
            }
        }
        self.is_failing = false;
        if let Some(newest) = results.newest {
            self.committed.send_replace(newest);
        }
    }

    fn failed(&mut self, batch: Vec<Request>, error: &rusqlite::Error) -> Vec<Request> {
        let mut lost = 0;
        for request in batch {
            match request {
                Request::Insert(records) => lost += records.len() as u64,
                Request::Clear(answer) => {
                    let _ = answer.send(None);
                }
            }
        }
        self.dropped.add(lost);
        // A disk that stays full would fill the log.
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(%error, "the history of requests cannot be written; they are not kept");
        }
        Vec::new()
    }

    fn ends_connection(error: &rusqlite::Error) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};

        let code = error.sqlite_error_code();
        matches!(code, Some(DatabaseCorrupt | NotADatabase))
    }

    fn reopen(&mut self) -> Result<Connection, SqliteError> {
        let (connection, _) = open_or_set_aside(&self.path, &self.clock)?;
        Ok(connection)
    }
}

/// Returns the size of a record, in bytes.
fn size_of(record: &Record) -> usize {
    let message = |message: &StoredMessage| message.head.len() + message.body.len();
    let texts = [
        Some(&record.method),
        Some(&record.path),
        record.reason.as_ref(),
        record.route.as_ref(),
        record.event.as_ref(),
    ];
    let texts = texts.into_iter().flatten().map(String::len);
    let explanation = record.explanation.as_ref();
    let explanation = explanation.map_or(0, |explained| {
        let reasons = explained
            .checks
            .iter()
            .map(|step| step.reason.len() + STEP_BYTES);
        let others = explained
            .hints
            .iter()
            .chain(&explained.notes)
            .map(String::len);
        reasons.chain(others).sum::<usize>()
    });
    let messages = message(&record.request) + record.response.as_ref().map_or(0, message);
    ROW_BYTES + messages + texts.sum::<usize>() + explanation
}

fn insert(db: &Transaction<'_>, record: &Record) -> rusqlite::Result<i64> {
    let explanation = record.explanation.as_ref();
    let explanation = explanation.and_then(|explained| serde_json::to_string(explained).ok());
    let (request, response) = (&record.request, record.response.as_ref());
    let micros = |span: std::time::Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    let (source, again_of) = match record.source {
        Source::Sender => ("sender", None),
        Source::Again(number) => ("again", Some(number)),
        Source::Sample => ("sample", None),
    };

    db.prepare_cached(
        "INSERT INTO requests (at_ms, id, by, tunnel, client, method, path, verdict, status, check_name,
             code, reason, route, provider, event, delivery, source, again_of, receive_us,
             relay_us, gate_us, application_us, total_us, tunnel_us, size)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
             ?19, ?20, ?21, ?22, ?23, ?24, ?25)",
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
        record.timing.receive.map(micros),
        record.timing.relay.map(micros),
        record.timing.gate.map(micros),
        record.timing.application.map(micros),
        micros(record.timing.total),
        record.timing.tunnel.map(micros),
        i64::try_from(size_of(record)).unwrap_or(i64::MAX),
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

    for (is_refused, bounds) in [(false, KEPT_OTHERS), (true, KEPT_REFUSED)] {
        remove_surplus(db, is_refused, bounds)?;
    }
    Ok(())
}

/// Removes the oldest requests of a kind beyond their bounds.
fn remove_surplus(
    db: &Transaction<'_>,
    is_refused: bool,
    (most, most_bytes): (i64, i64),
) -> rusqlite::Result<()> {
    let usage = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    loop {
        let (requests, bytes) = db
            .prepare_cached("SELECT requests, bytes FROM usage WHERE is_refused = ?1")?
            .query_row([is_refused], usage)?;
        // A share of the bytes, so that one commit removes few requests.
        let surplus = match bytes > most_bytes {
            true => (requests / 64).max(1),
            false => (requests - most).max(0),
        };
        if surplus == 0 {
            return Ok(());
        }
        let removed = db
            .prepare_cached(
                "DELETE FROM requests WHERE number IN (SELECT number FROM requests
                     WHERE (verdict = 'refused') = ?1 ORDER BY number LIMIT ?2)",
            )?
            .execute(params![is_refused, surplus])?;
        if removed == 0 {
            // The sums have drifted from the rows.
            return count_again(db, is_refused);
        }
    }
}

fn count_again(db: &Transaction<'_>, is_refused: bool) -> rusqlite::Result<()> {
    let count = "UPDATE usage SET (requests, bytes) = (SELECT count(*), ifnull(sum(size), 0)
                     FROM requests WHERE (verdict = 'refused') = ?1) WHERE is_refused = ?1";
    db.execute(count, [is_refused]).map(drop)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::inspector::capture::Timing;
    use crate::inspector::history::SCHEMA;

    fn record(at: u64, verdict: &'static str, body: usize) -> Record {
        Record {
            at: UnixMillis(at),
            id: format!("{at:032x}"),
            by: RecordedBy::Agent,
            tunnel: "h.example".to_owned(),
            client: "192.0.2.1".to_owned(),
            method: "POST".to_owned(),
            path: "/hooks".to_owned(),
            verdict,
            status: Some(200),
            check: None,
            code: None,
            reason: None,
            route: None,
            provider: None,
            event: None,
            delivery: None,
            source: Source::Sender,
            timing: Timing {
                total: Duration::from_millis(1),
                ..Timing::default()
            },
            request: StoredMessage {
                head: b"POST /hooks HTTP/1.1\r\n".to_vec(),
                body: vec![b'x'; body],
                body_bytes: body as u64,
                is_whole: true,
                is_redacted: false,
            },
            response: None,
            explanation: None,
            _charge: None,
        }
    }

    fn numbers(db: &Transaction<'_>, verdict: &str) -> Vec<i64> {
        let query = "SELECT number FROM requests WHERE verdict = ?1 ORDER BY number";
        let mut statement = db.prepare(query).unwrap();
        let rows = statement.query_map([verdict], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    #[test]
    fn the_oldest_requests_are_removed_by_number_size_and_age() {
        let mut db = sqlite::open_in_memory(&SCHEMA).unwrap();
        let db = db.transaction().unwrap();
        for at in 1..=10 {
            insert(&db, &record(at, "forwarded", 1000)).unwrap();
            insert(&db, &record(at, "refused", 1000)).unwrap();
        }

        // A flood of refused requests leaves the others alone.
        remove_surplus(&db, true, (3, i64::MAX)).unwrap();
        assert_eq!(numbers(&db, "refused"), [16, 18, 20]);
        assert_eq!(numbers(&db, "forwarded").len(), 10);

        remove_surplus(&db, false, (100, 4000)).unwrap();
        assert_eq!(numbers(&db, "forwarded"), [17, 19]);

        remove_old(&db, UnixMillis(KEPT_MS + 10)).unwrap();
        assert_eq!(numbers(&db, "forwarded"), [19]);
        let messages = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        let left = db.query_row("SELECT count(*) FROM messages", [], messages);
        assert_eq!(left.unwrap(), 2);
    }

    #[test]
    fn sums_that_have_drifted_are_counted_again() {
        let mut db = sqlite::open_in_memory(&SCHEMA).unwrap();
        let db = db.transaction().unwrap();
        db.execute("UPDATE usage SET requests = 5, bytes = 1000", [])
            .unwrap();
        remove_surplus(&db, false, (1, 1)).unwrap();
        let bytes = "SELECT bytes FROM usage WHERE is_refused = 0";
        let left = db.query_row(bytes, [], |row| row.get::<_, i64>(0));
        assert_eq!(left.unwrap(), 0);
    }
}
