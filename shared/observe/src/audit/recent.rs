//! The last records, for readers that follow the log. Memory is bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::chain::ChainFields;
use super::lock;

/// A record as the sinks have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentRecord {
    /// Number of the record.
    pub seq: u64,
    /// Its line, without the line feed.
    pub line: Arc<str>,
}

/// The last records, oldest first.
pub(super) struct RecentRecords {
    // A std mutex: it guards a short list, and nothing waits while it is held.
    records: Mutex<VecDeque<RecentRecord>>,
    newest: watch::Sender<u64>,
}

/// Maximum number of records: two pages of the console.
const RECORDS: usize = 200;

/// Maximum size of the records, in bytes: most have a few hundred.
pub(super) const RECENT_BYTES: usize = 512 * 1024;

impl Default for RecentRecords {
    fn default() -> Self {
        Self {
            records: Mutex::default(),
            newest: watch::Sender::new(0),
        }
    }
}

impl RecentRecords {
    /// Adds new lines, each with a line feed. The last one has the number `last`, as has the last record
    /// without lines.
    pub(super) fn add(&self, lines: &[u8], last: u64) {
        let newest_first = (0..=last).rev().zip(last_lines(lines));
        let added = newest_first.map(|(seq, line)| RecentRecord {
            seq,
            line: String::from_utf8_lossy(line).into(),
        });
        self.extend(added.collect(), last);
    }

    /// Adds lines of an earlier run. The chain may have gaps, and each line has its number.
    pub(super) fn restore(&self, lines: &[u8], last: u64) {
        let record = |line: &[u8]| {
            let fields: ChainFields = serde_json::from_slice(line).ok()?;
            Some(RecentRecord {
                seq: fields.seq,
                line: String::from_utf8_lossy(line).into(),
            })
        };
        self.extend(last_lines(lines).filter_map(record).collect(), last);
    }

    fn extend(&self, newest_first: Vec<RecentRecord>, last: u64) {
        let mut records = lock(&self.records);
        records.extend(newest_first.into_iter().rev());
        let mut bytes: usize = records.iter().map(|record| record.line.len()).sum();
        while (records.len() > RECORDS || bytes > RECENT_BYTES)
            && let Some(oldest) = records.pop_front()
        {
            bytes -= oldest.line.len();
        }
        // With the lock, so that no reader has records beyond the newest number.
        self.newest.send_replace(last);
    }

    /// Returns the records after this number, oldest first.
    pub(super) fn after(&self, seq: u64) -> Vec<RecentRecord> {
        let records = lock(&self.records);
        let later = records.iter().filter(|record| record.seq > seq);
        later.cloned().collect()
    }

    /// Returns the number of the newest record, and its changes.
    pub(super) fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// Returns the last lines that are kept, the newest first.
fn last_lines(lines: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = lines.strip_suffix(b"\n").unwrap_or(lines);
    let newest_first = lines.rsplit(|byte| *byte == b'\n').take(RECORDS);
    newest_first.filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_records_are_kept_in_their_order() {
        let recent = RecentRecords::default();
        recent.add(b"", 0);
        recent.add(b"one\ntwo\n", 2);
        recent.add(b"three\n", 3);
        let lines = |after| {
            let records = recent.after(after).into_iter();
            let lines = records.map(|record| (record.seq, record.line.to_string()));
            lines.collect::<Vec<_>>()
        };
        assert_eq!(lines(1), [(2, "two".to_owned()), (3, "three".to_owned())]);
        assert_eq!(*recent.newest().borrow(), 3);

        let many: String = (0..1000).map(|n| format!("{n}\n")).collect();
        recent.add(many.as_bytes(), 1003);
        assert_eq!(lines(0).len(), RECORDS);
        assert_eq!(lines(1002), [(1003, "999".to_owned())]);

        // An earlier run had a gap after its first record.
        let recent = RecentRecords::default();
        let record =
            |seq| format!("{{\"seq\":{seq},\"prev\":\"\",\"time\":\"\",\"event\":\"\"}}\n");
        recent.restore((record(3) + &record(7)).as_bytes(), 9);
        let seqs: Vec<_> = recent.after(0).iter().map(|record| record.seq).collect();
        assert_eq!((seqs, *recent.newest().borrow()), (vec![3, 7], 9));

        let recent = RecentRecords::default();
        let large = "x".repeat(RECENT_BYTES / 2 + 1);
        recent.add(format!("{large}\n{large}\n").as_bytes(), 2);
        assert_eq!(recent.after(0).len(), 1);
    }
}
