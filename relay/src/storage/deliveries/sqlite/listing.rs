//! Lists of deliveries for people, newest first.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hookward_core::clock::UnixMillis;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};
use uuid::Uuid;

use super::{disk, millis, time_of};
use crate::storage::StorageError;
use crate::storage::agents::AgentId;
use crate::storage::deliveries::{
    DeliveryDetail, DeliveryFilter, DeliveryRow, DeliveryState, LastResponse, Page,
};
use hookward_runtime::sqlite;

const COLUMNS: &str = "d.seq, d.id, t.host, d.route, d.provider, d.event, d.state, d.attempts, \
    d.redelivered, d.last_status, d.last_error, d.received_ms, d.ended_ms, d.bytes, \
    (SELECT due_ms FROM lanes l WHERE l.tunnel = d.tunnel AND l.lane = d.lane AND d.state = 0), \
    EXISTS (SELECT 1 FROM payloads p WHERE p.seq = d.seq)";

fn read_row(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    let time = |column: usize| {
        let millis = row.get::<_, Option<i64>>(column)?;
        Ok::<_, rusqlite::Error>(millis.map(time_of))
    };
    let id = Uuid::from_bytes(row.get(1)?);
    // A redelivery by hand makes the row young again; the id keeps the time of receipt.
    let received = id.get_timestamp().map(|time| {
        let (seconds, nanos) = time.to_unix();
        UnixMillis(seconds * 1000 + u64::from(nanos) / 1_000_000)
    });
    Ok(DeliveryRow {
        seq: row.get(0)?,
        id,
        tunnel: row.get(2)?,
        route: row.get(3)?,
        provider: row.get(4)?,
        event: row.get(5)?,
        state: DeliveryState::of(row.get(6)?),
        attempts: row.get(7)?,
        redelivered: row.get(8)?,
        last_status: row.get(9)?,
        last_error: row.get(10)?,
        received: received.unwrap_or(time_of(row.get(11)?)),
        ended: time(12)?,
        bytes: row.get::<_, i64>(13)?.unsigned_abs(),
        due: time(14)?,
        has_payload: row.get(15)?,
    })
}

/// Conditions of a query, and their values.
#[derive(Default)]
struct Conditions {
    text: String,
    values: Vec<Value>,
}

impl Conditions {
    fn add(&mut self, condition: &str, value: impl Into<Value>) {
        self.values.push(value.into());
        let number = self.values.len();
        self.text.push_str(" AND ");
        self.text
            .push_str(&condition.replace('?', &format!("?{number}")));
    }

    fn of(filter: &DeliveryFilter, before: i64) -> Self {
        let mut conditions = Self::default();
        conditions.add("d.seq < ?", before);
        for (column, value) in [
            ("d.route = ?", &filter.route),
            ("d.provider = ?", &filter.provider),
            ("d.event = ?", &filter.event),
        ] {
            if let Some(value) = value {
                conditions.add(column, value.clone());
            }
        }
        if let Some(owner) = filter.owner {
            conditions.add("d.owner = ?", owner.0);
        }
        if let Some(id) = filter.id {
            conditions.add("d.id = ?", id.as_bytes().to_vec());
        }
        if let Some(since) = filter.since {
            conditions.add("d.received_ms >= ?", millis(since));
        }
        if let Some(until) = filter.until {
            conditions.add("d.received_ms < ?", millis(until));
        }
        if let Some(text) = &filter.text {
            conditions.add(
                "(instr(coalesce(d.last_error, ''), ?) > 0 OR EXISTS \
                 (SELECT 1 FROM payloads p WHERE p.seq = d.seq AND instr(p.body, CAST(? AS BLOB)) > 0))",
                text.clone(),
            );
        }
        conditions
    }
}

/// Returns up to `most` deliveries that match, newest first, older than the one with number `before`.
///
/// # Errors
/// [`StorageError`], also if the search takes too long.
pub(super) fn page(
    path: &Path,
    filter: &DeliveryFilter,
    before: Option<i64>,
    most: usize,
) -> Result<Page, StorageError> {
    let db = open(path)?;
    let search = Search {
        db: &db,
        path,
        filter,
        before,
        most,
        deadline: Instant::now() + QUERY_TIMEOUT,
    };
    let find = || {
        // Each tunnel has an index by state and number: one query for each pair needs no sorting.
        let tunnels: Vec<i64> = {
            let select = "SELECT id FROM tunnels WHERE (?1 IS NULL OR host = ?1) \
                          AND (?2 IS NULL OR owner = ?2)";
            let mut select = db.prepare(select)?;
            let owner = filter.owner.map(|owner| owner.0);
            let rows = select.query_map(params![filter.tunnel, owner], |row| row.get(0))?;
            rows.collect::<rusqlite::Result<_>>()?
        };

        let mut rows = Vec::new();
        let states = DeliveryState::ALL.into_iter();
        let states: Vec<_> = states
            .filter(|state| filter.state.is_none_or(|wanted| wanted == *state))
            .collect();
        let places = tunnels.into_iter().flat_map(|tunnel| {
            let states = states.iter();
            states.map(move |state| (tunnel, state.number()))
        });
        for place in places {
            search.place(place, &mut rows)?;
        }

        rows.sort_by_key(|row| std::cmp::Reverse(row.seq));
        let has_more = rows.len() > most;
        rows.truncate(most);
        Ok(Page { rows, has_more })
    };
    find().map_err(|error| StorageError::Deliveries(sqlite::failed(path)(error)))
}

/// A search, whose queries have one deadline together.
struct Search<'s> {
    db: &'s Connection,
    path: &'s Path,
    filter: &'s DeliveryFilter,
    before: Option<i64>,
    most: usize,
    deadline: Instant,
}

impl Search<'_> {
    /// Searches the deliveries of a tunnel in one state, newest first. Reads them in windows, because a
    /// long query keeps SQLite from using its log again, which then grows (sqlite.org/wal.html).
    fn place(
        &self,
        (tunnel, state): (i64, i64),
        rows: &mut Vec<DeliveryRow>,
    ) -> rusqlite::Result<()> {
        let Self {
            db, filter, most, ..
        } = *self;
        let (mut before, mut found) = (self.before.unwrap_or(i64::MAX), 0);
        // A text is searched in whole payloads.
        let (mut window, widest) = match filter.text {
            Some(_) => (1, 1),
            None => (FIRST_WINDOW, WIDEST_WINDOW),
        };
        while found <= most {
            self.wait_for_log()?;
            let end = "SELECT min(seq) FROM (SELECT seq FROM deliveries \
                   WHERE tunnel = ?1 AND state = ?2 AND seq < ?3 ORDER BY seq DESC LIMIT ?4)";
            let end = db
                .prepare_cached(end)?
                .query_row(params![tunnel, state, before, window], |row| row.get(0));
            let Some(end) = end? else {
                break;
            };

            let mut conditions = Conditions::of(filter, before);
            conditions.add("d.tunnel = ?", tunnel);
            conditions.add("d.state = ?", state);
            conditions.add("d.seq >= ?", end);
            let query = format!(
                "SELECT {COLUMNS} FROM deliveries d JOIN tunnels t ON t.id = d.tunnel \
             WHERE 1{} ORDER BY d.seq DESC LIMIT {}",
                conditions.text,
                most - found + 1
            );
            let mut query = db.prepare_cached(&query)?;
            let matches = query.query_map(params_from_iter(conditions.values), read_row)?;
            for row in matches {
                rows.push(row?);
                found += 1;
            }
            (before, window) = (end, (window * 4).min(widest));
        }
        Ok(())
    }

    /// Waits while the log is so large that no query may keep it from being used again.
    ///
    /// # Errors
    /// The error of a query that was interrupted, after the deadline.
    fn wait_for_log(&self) -> rusqlite::Result<()> {
        while Instant::now() < self.deadline {
            if disk::log_bytes(self.path) <= LARGE_LOG_BYTES {
                return Ok(());
            }
            std::thread::sleep(LOG_WAIT);
        }
        let interrupted = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_INTERRUPT);
        Err(rusqlite::Error::SqliteFailure(interrupted, None))
    }
}

/// Number of rows in the first window of a search, and in the widest one.
const FIRST_WINDOW: i64 = 256;
const WIDEST_WINDOW: i64 = 4096;

/// Size of the log from which searches wait, in bytes. It is 16 MiB in operation.
const LARGE_LOG_BYTES: u64 = 128 * 1024 * 1024;

/// Interval between two looks at the log.
const LOG_WAIT: Duration = Duration::from_millis(20);

/// Returns a delivery with its payload and its last response, if it is of this agent.
///
/// # Errors
/// [`StorageError`].
pub(super) fn detail(
    path: &Path,
    id: Uuid,
    owner: Option<AgentId>,
) -> Result<Option<DeliveryDetail>, StorageError> {
    let db = open(path)?;
    let read = || {
        let query = format!(
            "SELECT {COLUMNS} FROM deliveries d JOIN tunnels t ON t.id = d.tunnel WHERE d.id = ?1 AND (?2 IS NULL OR d.owner = ?2)"
        );
        let values = params![id.as_bytes(), owner.map(|owner| owner.0)];
        let row = db.query_row(&query, values, read_row).optional()?;
        let Some(row) = row else {
            return Ok(None);
        };
        let response = "SELECT head, body FROM responses WHERE seq = ?1";
        let response = db
            .query_row(response, params![row.seq], |row| {
                Ok(LastResponse {
                    head: row.get(0)?,
                    body: Bytes::from(row.get::<_, Vec<u8>>(1)?),
                })
            })
            .optional()?;
        let payload = super::heads::payload(&db, row.seq)?;
        let lane = "SELECT lane FROM deliveries WHERE seq = ?1";
        let lane: i64 = db.query_row(lane, [row.seq], |row| row.get(0))?;
        Ok(Some(DeliveryDetail {
            row,
            order: (lane < 0).then(|| lane.cast_unsigned()),
            payload,
            response,
        }))
    };
    read().map_err(|error| StorageError::Deliveries(sqlite::failed(path)(error)))
}

/// Returns the time of receipt of the oldest pending delivery of each tunnel.
///
/// # Errors
/// [`StorageError`].
pub(super) fn oldest(path: &Path) -> Result<Vec<(String, UnixMillis)>, StorageError> {
    let db = open(path)?;
    let read = || {
        let query = "SELECT host, (SELECT received_ms FROM deliveries \
            WHERE tunnel = t.id AND state = 0 ORDER BY seq LIMIT 1) AS oldest \
            FROM tunnels t WHERE pending > 0 AND oldest IS NOT NULL";
        let mut query = db.prepare(query)?;
        let rows = query.query_map([], |row| Ok((row.get(0)?, time_of(row.get(1)?))))?;
        rows.collect::<rusqlite::Result<_>>()
    };
    read().map_err(|error| StorageError::Deliveries(sqlite::failed(path)(error)))
}

/// Opens a connection whose queries end after a while.
fn open(path: &Path) -> Result<Connection, StorageError> {
    let mut db = sqlite::open_to_read(path).map_err(StorageError::Deliveries)?;
    let deadline = Instant::now() + QUERY_TIMEOUT;
    db.progress_handler(CHECK_INTERVAL, Some(move || Instant::now() > deadline))
        .map_err(|error| StorageError::Deliveries(sqlite::failed(path)(error)))?;
    Ok(db)
}

/// Maximum time of one query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of SQLite's instructions between two looks at the clock.
const CHECK_INTERVAL: i32 = 10_000;
