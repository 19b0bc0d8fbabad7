//! Filter of the history: words and `key:value` terms, all of which must match.
//!
//! ```text
//! provider:github status:5xx -event:ping body:"refs/heads/main" since:10m
//! ```

pub(crate) mod shown;

use std::str::FromStr;
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use rusqlite::types::Value;
use time::format_description::well_known::Rfc3339;
use time::{Date, OffsetDateTime, Time, macros::format_description};

/// Maximum number of terms.
const MAX_TERMS: usize = 20;

/// Maximum length of a filter, in bytes.
const MAX_BYTES: usize = 1000;

/// Keys, for people.
pub(crate) const KEYS: &str = "method, path, status, provider, event, verdict, check, route, client, tunnel, id, \
                    delivery, by, header, body, since, until, is";

/// Filter of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    is_negated: bool,
    condition: Condition,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// Text anywhere in the request or the response.
    Text(String),
    /// Text in a column of the table `requests`.
    Column(&'static str, String),
    /// Whole value of a column.
    Exact(&'static str, String),
    /// Range of the status, both ends included.
    Status(u16, u16),
    /// Text in the head of the request.
    Header(String),
    /// Text in the body of the request or the response.
    Body(String),
    /// Time of receipt, in milliseconds since 1970.
    Since(UnixMillis),
    Until(UnixMillis),
    /// Requests that the user sent: again, or as a sample.
    Again,
    Sample,
    /// Attempts of stored deliveries.
    Stored,
}

/// A filter that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("the filter has more than {MAX_BYTES} bytes or {MAX_TERMS} terms")]
    TooLong,
    #[error("there is no key {0:?}; keys are {KEYS}. Quote a text with a colon")]
    Key(String),
    #[error("{0:?} is not a status; write 404, 5xx, >=400 or <300")]
    Status(String),
    #[error(
        "{0:?} is not a time; write 10m, 2h, 3d, 14:30, 2026-01-31 or 2026-01-31T14:30:00Z (UTC)"
    )]
    Time(String),
    #[error("is:{0} is unknown; write is:again, is:sample or is:stored")]
    Is(String),
    #[error("{0}: has no value")]
    Empty(String),
}

impl Filter {
    /// Parses a filter; times are relative to `now`.
    ///
    /// # Errors
    /// [`FilterError`].
    pub(crate) fn parse(text: &str, now: UnixMillis) -> Result<Self, FilterError> {
        if text.len() > MAX_BYTES {
            return Err(FilterError::TooLong);
        }
        let words = words(text);
        if words.len() > MAX_TERMS {
            return Err(FilterError::TooLong);
        }
        let terms = words.into_iter().map(|word| Term::parse(&word, now));
        Ok(Self {
            terms: terms.collect::<Result<_, _>>()?,
        })
    }

    /// Returns the filter for one tunnel.
    pub(crate) fn of_tunnel(host: &str) -> Self {
        Self {
            terms: vec![Term {
                is_negated: false,
                condition: Condition::Exact("tunnel", host.to_owned()),
            }],
        }
    }

    /// Returns the condition in SQL on `requests AS r`, and its parameters.
    pub(super) fn sql(&self) -> (String, Vec<Value>) {
        let mut parameters = Vec::new();
        let conditions = self.terms.iter().map(|term| {
            let condition = term.condition.sql(&mut parameters);
            match term.is_negated {
                true => format!("NOT ifnull({condition}, 0)"),
                false => condition,
            }
        });
        let conditions: Vec<_> = conditions.collect();
        match conditions.is_empty() {
            true => ("1".to_owned(), parameters),
            false => (conditions.join(" AND "), parameters),
        }
    }
}

/// A word of a filter, with the quoted part of it.
struct Word {
    text: String,
    /// Position of the first quotation mark.
    quoted_at: Option<usize>,
}

/// Splits a filter at spaces outside quotation marks.
fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word = Word {
        text: String::new(),
        quoted_at: None,
    };
    let mut is_quoted = false;
    for letter in text.chars().chain([' ']) {
        match letter {
            '"' => {
                word.quoted_at.get_or_insert(word.text.len());
                is_quoted = !is_quoted;
            }
            letter if letter.is_whitespace() && !is_quoted => {
                let next = Word {
                    text: String::new(),
                    quoted_at: None,
                };
                let whole = std::mem::replace(&mut word, next);
                if !whole.text.is_empty() {
                    words.push(whole);
                }
            }
            letter => word.text.push(letter),
        }
    }
    if !word.text.is_empty() {
        words.push(word);
    }
    words
}

impl Term {
    fn parse(word: &Word, now: UnixMillis) -> Result<Self, FilterError> {
        let is_negated =
            word.text.len() > 1 && word.text.starts_with('-') && word.quoted_at != Some(0);
        let text = word.text.get(usize::from(is_negated)..).unwrap_or_default();
        let colon = text.find(':').filter(|colon| {
            let at = colon + usize::from(is_negated);
            word.quoted_at.is_none_or(|quoted| at < quoted)
        });
        let Some((key, value)) = colon.and_then(|colon| text.split_at_checked(colon)) else {
            return Ok(Self {
                is_negated,
                condition: Condition::Text(text.to_owned()),
            });
        };
        let value = value.get(1..).unwrap_or_default();
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase());
        if !is_key || value.starts_with("//") {
            return Ok(Self {
                is_negated,
                condition: Condition::Text(text.to_owned()),
            });
        }
        if value.is_empty() {
            return Err(FilterError::Empty(key.to_owned()));
        }
        Ok(Self {
            is_negated,
            condition: Condition::parse(key, value, now)?,
        })
    }
}

impl Condition {
    fn parse(key: &str, value: &str, now: UnixMillis) -> Result<Self, FilterError> {
        let owned = || value.to_owned();
        Ok(match key {
            "path" => Self::Column("path", owned()),
            "client" => Self::Column("client", owned()),
            "tunnel" => Self::Column("tunnel", owned()),
            "route" => Self::Column("route", owned()),
            "event" => Self::Column("event", owned()),
            "provider" => Self::Column("provider", owned()),
            "id" => Self::Column("id", owned()),
            "delivery" => Self::Column("delivery", owned()),
            "method" => Self::Exact("method", owned()),
            "verdict" => Self::Exact("verdict", owned()),
            "check" => Self::Exact("check_name", owned()),
            "by" => Self::Exact("by", owned()),
            "header" => Self::Header(owned()),
            "body" => Self::Body(owned()),
            "status" => {
                let (low, high) =
                    status_range(value).ok_or_else(|| FilterError::Status(owned()))?;
                Self::Status(low, high)
            }
            "since" => Self::Since(moment(value, now)?),
            "until" => Self::Until(moment(value, now)?),
            "is" => match value {
                "again" => Self::Again,
                "sample" => Self::Sample,
                "stored" => Self::Stored,
                _ => return Err(FilterError::Is(owned())),
            },
            _ => return Err(FilterError::Key(key.to_owned())),
        })
    }

    fn sql(&self, parameters: &mut Vec<Value>) -> String {
        let mut bind = |value: Value| {
            parameters.push(value);
            format!("?{}", parameters.len())
        };
        let like = |text: &str| Value::Text(format!("%{}%", escape_like(text)));
        let millis = |at: &UnixMillis| Value::Integer(i64::try_from(at.0).unwrap_or(i64::MAX));
        // The bodies are read only for rows that match the other terms.
        let in_messages = |columns: &[&str], parameter: &str| {
            let columns = columns
                .iter()
                .map(|column| format!("CAST({column} AS TEXT) LIKE {parameter} ESCAPE '\\'"))
                .collect::<Vec<_>>()
                .join(" OR ");
            format!("EXISTS (SELECT 1 FROM messages m WHERE m.number = r.number AND ({columns}))")
        };

        match self {
            Self::Text(text) => {
                let parameter = bind(like(text));
                let columns = [
                    "path", "client", "provider", "event", "verdict", "reason", "route", "id",
                    "method",
                ];
                let columns = columns
                    .iter()
                    .map(|column| format!("r.{column} LIKE {parameter} ESCAPE '\\'"))
                    .collect::<Vec<_>>()
                    .join(" OR ");
                let all = [
                    "request_head",
                    "request_body",
                    "response_head",
                    "response_body",
                ];
                format!(
                    "(ifnull({columns}, 0) OR {})",
                    in_messages(&all, &parameter)
                )
            }
            Self::Column(column, text) => {
                format!("r.{column} LIKE {} ESCAPE '\\'", bind(like(text)))
            }
            Self::Exact(column, text) => {
                let text = Value::Text(text.clone());
                format!("r.{column} = {} COLLATE NOCASE", bind(text))
            }
            Self::Status(low, high) => {
                let (low, high) = (bind(Value::from(*low)), bind(Value::from(*high)));
                format!("r.status BETWEEN {low} AND {high}")
            }
            Self::Header(text) => {
                // As in a head: `name: value`.
                let text = text.replacen('=', ": ", 1);
                let parameter = bind(like(&text));
                in_messages(&["request_head"], &parameter)
            }
            Self::Body(text) => {
                let parameter = bind(like(text));
                in_messages(&["request_body", "response_body"], &parameter)
            }
            Self::Since(at) => format!("r.at_ms >= {}", bind(millis(at))),
            Self::Until(at) => format!("r.at_ms <= {}", bind(millis(at))),
            Self::Again => "r.source = 'again'".to_owned(),
            Self::Sample => "r.source = 'sample'".to_owned(),
            Self::Stored => "r.delivery IS NOT NULL".to_owned(),
        }
    }
}

fn escape_like(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

fn status_range(text: &str) -> Option<(u16, u16)> {
    let number = |digits: &str| u16::from_str(digits).ok();
    if let Some(digits) = text.strip_prefix(">=") {
        return Some((number(digits)?, u16::MAX));
    }
    if let Some(digits) = text.strip_prefix("<=") {
        return Some((0, number(digits)?));
    }
    if let Some(digits) = text.strip_prefix('>') {
        return Some((number(digits)?.checked_add(1)?, u16::MAX));
    }
    if let Some(digits) = text.strip_prefix('<') {
        return Some((0, number(digits)?.checked_sub(1)?));
    }
    if let Some(class) = text.strip_suffix("xx") {
        let class = number(class).filter(|class| (1..=5).contains(class))?;
        return Some((class * 100, class * 100 + 99));
    }
    let exact = number(text)?;
    Some((exact, exact))
}

/// Returns a time: so long ago, of today, or a date, in UTC.
fn moment(text: &str, now: UnixMillis) -> Result<UnixMillis, FilterError> {
    let wrong = || FilterError::Time(text.to_owned());
    if let Some((digits, seconds)) = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)]
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)))
    {
        let count = u64::from_str(digits).map_err(|_| wrong())?;
        let ago = Duration::from_secs(count.saturating_mul(seconds));
        let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        return Ok(UnixMillis(now.0.saturating_sub(ago)));
    }

    let seconds = i64::try_from(now.0 / 1000).unwrap_or_default();
    let today = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| wrong())?;
    let at = if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        at
    } else if let Ok(date) = Date::parse(text, format_description!("[year]-[month]-[day]")) {
        date.midnight().assume_utc()
    } else {
        let clock = Time::parse(text, format_description!("[hour]:[minute]"));
        today.replace_time(clock.map_err(|_| wrong())?)
    };
    let millis = u64::try_from(at.unix_timestamp()).map_err(|_| wrong())? * 1000;
    Ok(UnixMillis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-31 12:00:00 UTC.
    const NOW: UnixMillis = UnixMillis(1_769_860_800_000);

    fn conditions(text: &str) -> Result<Vec<(bool, Condition)>, FilterError> {
        let filter = Filter::parse(text, NOW)?;
        let terms = filter.terms.into_iter();
        Ok(terms
            .map(|term| (term.is_negated, term.condition))
            .collect())
    }

    #[test]
    fn terms_are_read() {
        use Condition::{Body, Column, Exact, Header, Status, Text};

        let column = |name, text: &str| Column(name, text.to_owned());
        for (text, expected) in [
            ("", vec![]),
            ("push", vec![(false, Text("push".to_owned()))]),
            ("-push", vec![(true, Text("push".to_owned()))]),
            ("-", vec![(false, Text("-".to_owned()))]),
            ("\"-a b:c\"", vec![(false, Text("-a b:c".to_owned()))]),
            ("https://x/y", vec![(false, Text("https://x/y".to_owned()))]),
            ("/a:b", vec![(false, Text("/a:b".to_owned()))]),
            (
                "provider:github  path:/x",
                vec![
                    (false, column("provider", "github")),
                    (false, column("path", "/x")),
                ],
            ),
            (
                "body:\"a b\" -header:X-A=1",
                vec![
                    (false, Body("a b".to_owned())),
                    (true, Header("X-A=1".to_owned())),
                ],
            ),
            (
                "status:5xx status:404",
                vec![(false, Status(500, 599)), (false, Status(404, 404))],
            ),
            (
                "status:>=400 status:<300",
                vec![(false, Status(400, u16::MAX)), (false, Status(0, 299))],
            ),
            (
                "verdict:refused",
                vec![(false, Exact("verdict", "refused".to_owned()))],
            ),
            (
                "since:10m",
                vec![(false, Condition::Since(UnixMillis(NOW.0 - 600_000)))],
            ),
            (
                "until:11:30",
                vec![(false, Condition::Until(UnixMillis(NOW.0 - 1_800_000)))],
            ),
            (
                "since:2026-01-31",
                vec![(false, Condition::Since(UnixMillis(NOW.0 - 43_200_000)))],
            ),
        ] {
            assert_eq!(conditions(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, part) in [
            ("statsu:500", "statsu"),
            ("status:6xx", "6xx"),
            ("since:yesterday", "yesterday"),
            ("is:new", "is:new"),
            ("path:", "path"),
        ] {
            let error = conditions(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert_eq!(conditions(&"a ".repeat(30)), Err(FilterError::TooLong));
    }
}
