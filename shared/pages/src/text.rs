//! Text of strangers, and times, for people.

use std::borrow::Cow;

use hookward_core::text::is_invisible;
use time::OffsetDateTime;
use time::macros::format_description;

/// Returns text in which invisible characters, and those that change how others are shown, are
/// visible: `U+202E` as `⟨U+202E⟩`. Keeps tabs and line feeds. The result still needs HTML escaping.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    let is_hidden = |letter: char| !matches!(letter, '\n' | '\t') && is_invisible(letter);
    if !text.chars().any(is_hidden) {
        return Cow::Borrowed(text);
    }

    let mut shown = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\r' if letters.peek() == Some(&'\n') => {}
            letter if is_hidden(letter) => {
                shown.push_str(&format!("⟨U+{:04X}⟩", u32::from(letter)));
            }
            letter => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

/// Returns a number of bytes with a unit.
#[must_use]
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

/// Returns a number with a noun: `1 agent`, `2 agents`.
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// Returns microseconds with a unit.
#[must_use]
pub fn duration(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..10_000 => format!("{:.1} ms", micros as f64 / 1000.0),
        10_000..1_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{:.1} s", micros as f64 / 1_000_000.0),
    }
}

/// Returns the time of day in UTC, as `14:03:07`.
#[must_use]
pub fn clock(at_ms: u64) -> String {
    let format = format_description!("[hour]:[minute]:[second]");
    let clock = moment(at_ms).and_then(|at| at.format(format).ok());
    clock.unwrap_or_default()
}

/// Returns day and time in UTC, as `01-31 14:03`.
#[must_use]
pub fn day_and_minute(at_ms: u64) -> String {
    let format = format_description!("[month]-[day] [hour]:[minute]");
    let day = moment(at_ms).and_then(|at| at.format(format).ok());
    day.unwrap_or_default()
}

/// Returns date and time in UTC, as `2026-01-31T14:03:07.250Z`.
#[must_use]
pub fn date_time(at_ms: u64) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let date = moment(at_ms).and_then(|at| at.format(format).ok());
    date.unwrap_or_default()
}

fn moment(at_ms: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_ms) * 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_text_is_visible() {
        for (text, expected) in [
            ("plain ü\tx\ny", "plain ü\tx\ny"),
            ("a\r\nb", "a\nb"),
            ("a\u{202e}b\0c\u{1b}[31m", "a⟨U+202E⟩b⟨U+0000⟩c⟨U+001B⟩[31m"),
            ("a\rb\u{200b}", "a⟨U+000D⟩b⟨U+200B⟩"),
        ] {
            assert_eq!(visible(text), expected);
        }
    }

    #[test]
    fn numbers_have_units() {
        assert_eq!(
            [bytes(0), bytes(1536), bytes(3 << 20)],
            ["0 B", "1.5 KiB", "3.0 MiB"]
        );
        assert_eq!(
            [
                duration(7),
                duration(1500),
                duration(42_000),
                duration(1_500_000)
            ],
            ["7 µs", "1.5 ms", "42 ms", "1.5 s"]
        );
        assert_eq!(
            counted(1, "agent") + &counted(0, "range"),
            "1 agent0 ranges"
        );
        assert_eq!(clock(1_769_868_187_250), "14:03:07");
        assert_eq!(date_time(1_769_868_187_250), "2026-01-31T14:03:07.250Z");
    }
}
