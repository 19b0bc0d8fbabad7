//! Verification of the log's files: finds lines that were changed, removed, inserted or cut off.
//!
//! The chain alone cannot show that the last lines are missing, or that all lines after one were
//! written anew. A head that was kept elsewhere shows both: in `NAME.head`, in the metrics, or in the
//! program's log.

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::chain::{ChainFields, ChainHead, KeptHead, ROTATED, hash, parse_hash};
use super::error::AuditError;
use super::file::read_head;

/// Result of a verification.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The files, in the order of their records.
    pub files: Vec<PathBuf>,
    /// Number of records.
    pub records: u64,
    /// Number of the first record; more than 1 if earlier files were not given.
    pub first: Option<u64>,
    /// Number and hash of the last record.
    pub last: Option<String>,
    /// Time of the last record.
    pub last_time: Option<String>,
    /// Everything that is wrong, in order; at most `FLAWS`.
    pub flaws: Vec<Flaw>,
    /// Number of all flaws.
    pub flaw_count: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for flaw in &self.flaws {
            let file = flaw.file.display();
            match flaw.line {
                0 => writeln!(f, "{file}: {}", flaw.reason)?,
                line => writeln!(f, "{file}:{line}: {}", flaw.reason)?,
            }
        }
        let listed = self.flaws.len() as u64;
        if self.flaw_count > listed {
            writeln!(f, "and {} flaws more", self.flaw_count - listed)?;
        }

        let verdict = match self.flaw_count {
            0 => "intact",
            _ => "NOT INTACT",
        };
        write!(f, "{verdict}: {} records", self.records)?;
        if let (Some(first), Some(last), Some(time)) = (self.first, &self.last, &self.last_time) {
            write!(
                f,
                ", the first is number {first}, the last {last} of {time}"
            )?;
        }
        Ok(())
    }
}

/// A place where the log is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Flaw {
    /// The file.
    pub file: PathBuf,
    /// Line in the file, from 1; 0 for the file as a whole.
    pub line: u64,
    /// Reason in words.
    pub reason: String,
}

/// Maximum number of flaws in a report.
pub(super) const FLAWS: usize = 100;

/// Verifies files of one log, in any order. `heads` are heads that were kept elsewhere. Those beside the
/// files are read, also where they are named as files (`audit.log*`). The files must begin with the
/// record `from`; without it, with the oldest record that the rotations left.
///
/// # Errors
/// If a file is unreadable.
pub fn verify(
    files: &[PathBuf],
    heads: &[KeptHead],
    from: Option<u64>,
) -> Result<Report, AuditError> {
    let is_record_file = |path: &&PathBuf| {
        let name = path.to_string_lossy();
        !name.ends_with(".head") && !name.ends_with(".head.new")
    };
    let mut ordered = Vec::new();
    for path in files.iter().filter(is_record_file) {
        ordered.push((first_number(path)?, path.clone()));
    }
    ordered.sort();

    let kept = ordered.iter().filter_map(|(_, path)| read_head(path));
    let mut walk = Walk {
        heads: heads
            .iter()
            .cloned()
            .chain(kept.map(KeptHead::from))
            .collect(),
        ..Walk::default()
    };
    for (_, path) in &ordered {
        walk.file(path)?;
    }
    let named: Vec<_> = heads.iter().map(|head| head.seq).collect();
    walk.check_ends(&ordered, from, &named);

    Ok(Report {
        files: ordered.into_iter().map(|(_, path)| path).collect(),
        records: walk.records,
        first: walk.first,
        last: walk.last.map(|head| head.to_string()),
        last_time: walk.last_time,
        flaws: walk.flaws,
        flaw_count: walk.flaw_count,
    })
}

#[derive(Default)]
struct Walk {
    heads: Vec<KeptHead>,
    records: u64,
    /// Number of the oldest record that the last rotation left.
    oldest: Option<u64>,
    first: Option<u64>,
    last: Option<ChainHead>,
    last_time: Option<String>,
    flaws: Vec<Flaw>,
    flaw_count: u64,
}

impl Walk {
    fn file(&mut self, path: &Path) -> Result<(), AuditError> {
        let failed = AuditError::read(path);
        let mut reader = BufReader::new(File::open(path).map_err(&failed)?);
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line).map_err(&failed)? == 0 {
                return Ok(());
            }
            number += 1;
            match line.strip_suffix(b"\n") {
                Some(whole) => self.line(path, number, whole),
                None => self.flaw(path, number, "the line is cut off"),
            }
        }
    }

    fn line(&mut self, path: &Path, number: u64, line: &[u8]) {
        let Ok(fields) = serde_json::from_slice::<ChainFields>(line) else {
            return self.flaw(path, number, "the line is not an audit record");
        };
        let head = ChainHead {
            seq: fields.seq,
            hash: hash(line),
        };
        self.records += 1;

        // The first record of the oldest file may follow a deleted one.
        let expected = match self.last {
            Some(last) => Some(last),
            None if fields.seq == 1 => Some(ChainHead::default()),
            None => None,
        };
        if let Some(expected) = expected {
            self.check_link(path, number, &fields, expected);
        }

        if self.heads.iter().any(|kept| kept.differs(&head)) {
            let reason = format!("record {} is not the one whose hash was kept", head.seq);
            self.flaw(path, number, &reason);
        }
        self.first.get_or_insert(fields.seq);
        if fields.event == ROTATED {
            self.oldest = fields.oldest.or(self.oldest);
        }
        self.last = Some(head);
        self.last_time = Some(fields.time);
    }

    /// Checks that a record follows the one before it.
    fn check_link(&mut self, path: &Path, number: u64, fields: &ChainFields, before: ChainHead) {
        let next = before.seq.saturating_add(1);
        if fields.seq > next {
            let reason = format!("{} missing before this line", range(next, fields.seq - 1));
            self.flaw(path, number, &reason);
        } else if fields.seq < next {
            let reason = format!(
                "record {} where {next} is expected: a repeated line, or another log",
                fields.seq
            );
            self.flaw(path, number, &reason);
        } else if parse_hash(&fields.prev) != Some(before.hash) {
            let reason = format!(
                "record {} was changed, or this line was (the hashes differ)",
                before.seq
            );
            self.flaw(path, number, &reason);
        }
    }

    /// Checks that the records begin and end where they must. `named` are the records that the caller
    /// named.
    fn check_ends(&mut self, files: &[(u64, PathBuf)], from: Option<u64>, named: &[u64]) {
        let (Some((_, oldest)), Some((_, newest))) = (files.first(), files.last()) else {
            return;
        };
        let (Some(first), Some(last)) = (self.first, self.last) else {
            return self.flaw(newest, 0, "there is no record; give the older files, too");
        };

        let begin = from.or(self.oldest).unwrap_or(1);
        if first > begin {
            let reason = format!(
                "{} missing at the beginning; give the files that have them, or --from {first}",
                range(begin, first - 1)
            );
            self.flaw(oldest, 0, &reason);
        }
        if let Some(seq) = named.iter().find(|seq| **seq < first) {
            let reason = format!("record {seq} of --last is not in these files");
            self.flaw(oldest, 0, &reason);
        }

        let beyond = self.heads.iter().map(|kept| kept.seq);
        if let Some(seq) = beyond.filter(|seq| *seq > last.seq).max() {
            let reason = format!("{} missing at the end", range(last.seq + 1, seq));
            self.flaw(newest, 0, &reason);
        }
    }

    fn flaw(&mut self, file: &Path, line: u64, reason: &str) {
        self.flaw_count += 1;
        if self.flaws.len() < FLAWS {
            self.flaws.push(Flaw {
                file: file.to_owned(),
                line,
                reason: reason.to_owned(),
            });
        }
    }
}

/// Returns records in words, with their verb.
fn range(first: u64, last: u64) -> String {
    match first == last {
        true => format!("record {first} is"),
        false => format!("records {first} to {last} are"),
    }
}

/// Returns the number of the first record in a file, to put files in order. An empty file is the last.
fn first_number(path: &Path) -> Result<u64, AuditError> {
    let failed = AuditError::read(path);
    let mut line = Vec::new();
    let mut reader = BufReader::new(File::open(path).map_err(&failed)?);
    reader.read_until(b'\n', &mut line).map_err(&failed)?;
    let fields = serde_json::from_slice::<ChainFields>(line.trim_ascii_end());
    Ok(fields.map_or(u64::MAX, |fields| fields.seq))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// Writes a log of two files, and returns their paths and the last head.
    fn log(dir: &TempDir) -> (Vec<PathBuf>, ChainHead) {
        let (mut head, mut files) = (ChainHead::default(), Vec::new());
        for name in ["b.log", "a.log"] {
            let mut text = Vec::new();
            for n in 0..10 {
                let fields =
                    format!("{{\"time\":\"2027-01-15T08:00:00Z\",\"event\":\"test\",\"n\":{n}}}");
                head.seal(fields.as_bytes(), &mut text);
            }
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            files.push(path);
        }
        (files, head)
    }

    /// Changes the lines of a file, and returns the reasons of the flaws.
    fn flaws(
        edit: impl Fn(&mut Vec<String>),
        heads: impl Fn(ChainHead) -> Vec<ChainHead>,
    ) -> Vec<String> {
        let dir = TempDir::new().unwrap();
        let (files, head) = log(&dir);
        let text = std::fs::read_to_string(&files[1]).unwrap();
        let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
        edit(&mut lines);
        std::fs::write(&files[1], lines.concat()).unwrap();
        let kept: Vec<_> = heads(head).into_iter().map(KeptHead::from).collect();
        let report = verify(&files, &kept, None).unwrap();
        report
            .flaws
            .into_iter()
            .map(|flaw| format!("{}: {}", flaw.line, flaw.reason))
            .collect()
    }

    #[test]
    fn an_untouched_log_has_no_flaw() {
        let dir = TempDir::new().unwrap();
        let (mut files, head) = log(&dir);
        files.reverse();
        let report = verify(&files, &[head.into()], None).unwrap();
        assert!(report.flaws.is_empty(), "{:?}", report.flaws);
        assert_eq!(
            (report.records, report.first, report.last),
            (20, Some(1), Some(head.to_string()))
        );

        let later = verify(&files[..1], &[], Some(11)).unwrap();
        assert_eq!((later.flaws.len(), later.first), (0, Some(11)));
    }

    #[test]
    fn missing_records_at_the_beginning_are_found() {
        let dir = TempDir::new().unwrap();
        let (files, mut head) = log(&dir);
        let flaws = |files: &[PathBuf], heads: &[KeptHead]| {
            let report = verify(files, heads, None).unwrap();
            let reasons = report.flaws.into_iter().map(|flaw| flaw.reason);
            reasons.collect::<Vec<_>>()
        };
        let later = flaws(&files[1..], &[]);
        assert!(later[0].starts_with("records 1 to 10 are missing at the beginning"));
        let named = flaws(&files[1..], &["3:000000000000".parse().unwrap()]);
        assert!(named.contains(&"record 3 of --last is not in these files".to_owned()));

        // A rotation that deleted the first file says where the log begins.
        let mut text = std::fs::read(&files[1]).unwrap();
        let rotated = br#"{"time":"t","event":"audit_rotated","oldest":11}"#;
        head.seal(rotated, &mut text);
        std::fs::write(&files[1], text).unwrap();
        assert_eq!(flaws(&files[1..], &[]), Vec::<String>::new());

        std::fs::write(&files[1], "").unwrap();
        assert!(flaws(&files[1..], &[])[0].starts_with("there is no record"));
    }

    #[test]
    fn changed_removed_inserted_and_cut_lines_are_found() {
        let none = |_| Vec::new();
        let changed = flaws(
            |lines| lines[4] = lines[4].replace("\"n\":4", "\"n\":5"),
            none,
        );
        assert_eq!(
            changed,
            ["6: record 15 was changed, or this line was (the hashes differ)"]
        );
        let removed = flaws(|lines| drop(lines.remove(4)), none);
        assert_eq!(removed, ["5: record 15 is missing before this line"]);
        let several = flaws(|lines| drop(lines.drain(2..5)), none);
        assert_eq!(
            several,
            ["3: records 13 to 15 are missing before this line"]
        );
        let repeated = flaws(|lines| lines.insert(4, lines[3].clone()), none);
        assert!(repeated[0].contains("a repeated line"), "{repeated:?}");
        let foreign = flaws(|lines| lines[4] = "x\n".to_owned(), none);
        assert!(foreign[0].contains("not an audit record"), "{foreign:?}");
        let cut = flaws(|lines| lines[9].truncate(30), none);
        assert_eq!(cut, ["10: the line is cut off"]);
    }

    #[test]
    fn a_head_of_the_metrics_has_fewer_digits() {
        let dir = TempDir::new().unwrap();
        let (files, head) = log(&dir);
        let digits = &head.hash_text()[..12];
        let kept = |text: &str| text.parse::<KeptHead>().unwrap();
        assert_eq!(
            verify(&files, &[kept(&format!("20:{digits}"))], None)
                .unwrap()
                .flaw_count,
            0
        );
        assert_eq!(
            verify(&files, &[kept("20:000000000000")], None)
                .unwrap()
                .flaw_count,
            1
        );
        assert!("20:abc".parse::<KeptHead>().is_err());
    }

    #[test]
    fn a_kept_head_shows_what_the_chain_cannot() {
        let kept = |head| vec![head];
        let shortened = |lines: &mut Vec<String>| lines.truncate(8);
        assert!(flaws(shortened, |_| Vec::new()).is_empty());
        assert_eq!(
            flaws(shortened, kept),
            ["0: records 19 to 20 are missing at the end"]
        );

        // A whole new chain after record 10, by somebody who knows the format.
        let rewritten = |lines: &mut Vec<String>| {
            let start: ChainFields = serde_json::from_str(&lines[0]).unwrap();
            let mut head = ChainHead {
                seq: 10,
                hash: parse_hash(&start.prev).unwrap(),
            };
            for line in lines.iter_mut() {
                let mut out = Vec::new();
                head.seal(b"{\"time\":\"t\",\"event\":\"forged\"}", &mut out);
                *line = String::from_utf8(out).unwrap();
            }
        };
        assert!(flaws(rewritten, |_| Vec::new()).is_empty());
        assert_eq!(
            flaws(rewritten, kept),
            ["10: record 20 is not the one whose hash was kept"]
        );
    }
}
