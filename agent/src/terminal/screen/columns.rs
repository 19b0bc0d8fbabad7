//! Columns of the list, by the width of the screen.

/// Values of the columns.
pub(super) struct Cells {
    pub method: String,
    pub path: String,
    pub status: String,
    pub took: String,
    pub client: String,
    /// Provider and event, once they are known.
    pub sender: String,
    pub verdict: &'static str,
}

/// Columns that fit into the width. The path takes what the others leave.
pub(super) struct Columns {
    path: usize,
    took: bool,
    client: bool,
    sender: bool,
}

impl Columns {
    pub(super) fn of(width: usize) -> Self {
        let (took, client) = (width >= TOOK_FROM, width >= CLIENT_FROM);
        let sender = width >= SENDER_FROM;
        let optional = |shown: bool, column: usize| if shown { column + 1 } else { 0 };
        let others = [TIME, METHOD, STATUS, VERDICT].iter().sum::<usize>() + SEPARATORS;
        let others = others + optional(took, TOOK) + optional(client, CLIENT);
        let others = others + optional(sender, SENDER);

        Self {
            path: width.saturating_sub(others).max(MIN_PATH),
            took,
            client,
            sender,
        }
    }

    pub(super) fn title(&self) -> String {
        let titles = Cells {
            method: "METHOD".to_owned(),
            path: "PATH".to_owned(),
            status: String::new(),
            took: "TOOK".to_owned(),
            client: "CLIENT".to_owned(),
            sender: "EVENT".to_owned(),
            verdict: "VERDICT",
        };
        self.row("UTC", &titles)
    }

    pub(super) fn row(&self, time: &str, cells: &Cells) -> String {
        let path_width = self.path;
        let mut row = format!(
            "{time:<TIME$} {:<METHOD$} {:<path_width$} {:>STATUS$} ",
            cut_middle(&cells.method, METHOD),
            cut_middle(&cells.path, path_width),
            cells.status,
        );

        if self.took {
            row.push_str(&format!("{:>TOOK$} ", cells.took));
        }

        if self.client {
            row.push_str(&format!("{:<CLIENT$} ", cut_middle(&cells.client, CLIENT)));
        }
        if self.sender {
            row.push_str(&format!("{:<SENDER$} ", cut_middle(&cells.sender, SENDER)));
        }
        row.push_str(cells.verdict);
        row
    }
}

/// Width of the time of day, as in 12:34:56.
pub(super) const TIME: usize = 8;

/// Width of a method. OPTIONS is the longest usual one.
const METHOD: usize = 7;

/// Width of a status.
const STATUS: usize = 3;

/// Width of a duration, as in 1000ms.
const TOOK: usize = 6;

/// Width of an IPv4 address. An IPv6 address is cut in the middle.
const CLIENT: usize = 15;

/// Width of provider and event, as in "github pull_request".
const SENDER: usize = 20;

/// Width of the longest verdict, "forwarded".
const VERDICT: usize = 9;

/// Spaces between the five columns that are always shown.
const SEPARATORS: usize = 4;

/// Minimum width of a path.
const MIN_PATH: usize = 8;

/// Width of the screen from which durations are shown.
const TOOK_FROM: usize = 60;

/// Width of the screen from which clients are shown.
const CLIENT_FROM: usize = 80;

/// Width of the screen from which provider and event are shown.
const SENDER_FROM: usize = 105;

/// Indentation of a reason: it stands below the method.
pub(super) const INDENT: usize = TIME + 1;

/// Replaces the middle of a text that is too wide: the end of a path tells most.
fn cut_middle(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }

    let kept = width.saturating_sub(1);
    let end = kept.div_ceil(2);
    let head = text.chars().take(kept - end);
    let tail = text.chars().skip(count - end);
    head.chain(['…']).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_cut() {
        assert_eq!(
            cut_middle("/flexdeploy/webhooks/v1/git/push", 15),
            "/flexde…it/push"
        );
        assert_eq!(cut_middle("/short", 15), "/short");
        assert_eq!(cut_middle("abc", 1), "…");
        assert_eq!(cut_middle("äöüß", 3), "ä…ß");
    }
}
