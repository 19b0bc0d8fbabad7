//! Values of a TOML table: strings, numbers, durations, sizes, dates and lists.

use super::{KeyKind, TableReader};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::time::Duration;
use toml::de::{DeValue, ValueDeserializer};

impl<'d> TableReader<'d> {
    /// Reads a string.
    pub fn string(&mut self, key: &'static str) -> Option<String> {
        self.note(key, KeyKind::Text);
        match self.take(key)?.get_ref() {
            DeValue::String(text) => self.expand(key, text).map(Cow::into_owned),
            _ => self.wrong(key, "a text in quotes"),
        }
    }

    /// Reads a string; a number counts as its text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.note(key, KeyKind::TextOrNumber);
        match self.take(key)?.get_ref() {
            DeValue::String(text) => self.expand(key, text).map(Cow::into_owned),
            DeValue::Integer(number) if parse_integer(number).is_some() => {
                parse_integer(number).map(|number| number.to_string())
            }
            _ => self.wrong(key, "a text in quotes, or a number"),
        }
    }

    /// Reads a list of strings; a single string counts as a list of one.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.note(key, KeyKind::Texts);
        match self.take(key)?.get_ref() {
            DeValue::String(text) => Some(vec![self.expand(key, text)?.into_owned()]),
            DeValue::Array(items) => items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => self.expand(key, text).map(Cow::into_owned),
                    _ => self.wrong(key, "a list of texts in quotes"),
                })
                .collect(),
            _ => self.wrong(key, "a list of texts in quotes"),
        }
    }

    /// Reads a boolean.
    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.note(key, KeyKind::Boolean);
        let value = self.take(key)?.get_ref();
        let text = self.variable(key, value)?;
        match (value, text.as_deref()) {
            (DeValue::Boolean(value), _) => Some(*value),
            (_, Some("true")) => Some(true),
            (_, Some("false")) => Some(false),
            _ => self.wrong(key, "true or false"),
        }
    }

    /// Reads an integer of at least 1.
    pub fn count(&mut self, key: &'static str) -> Option<usize> {
        self.note(key, KeyKind::Count);
        let value = self.take(key)?.get_ref();
        let text = self.variable(key, value)?;
        let number = match (value, text) {
            (DeValue::Integer(number), _) => parse_integer(number),
            (_, Some(text)) => text.parse().ok(),
            _ => None,
        };
        match number.and_then(|number| usize::try_from(number).ok()) {
            Some(number) if number > 0 => Some(number),
            _ => self.wrong(key, "a whole number from 1 up"),
        }
    }

    /// Reads a duration such as `"500ms"`, `"10s"`, `"5m"`, `"1h"` or `"30d"`; never zero.
    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.note(key, KeyKind::Duration);
        let duration = match self.take(key)?.get_ref() {
            DeValue::String(text) => parse_duration(&self.expand(key, text)?),
            _ => None,
        };
        match duration {
            Some(duration) => Some(duration),
            None => self.wrong(
                key,
                "a time such as \"500ms\", \"10s\", \"5m\", \"1h\" or \"30d\"",
            ),
        }
    }

    /// Reads a size such as `"64KiB"` or `"25MiB"`, or a number of bytes; never zero.
    pub fn size(&mut self, key: &'static str) -> Option<u64> {
        self.note(key, KeyKind::Size);
        let size = match self.take(key)?.get_ref() {
            DeValue::String(written) => {
                let text = self.expand(key, written)?;
                // A variable may hold a number of bytes.
                let number = || text.parse().ok().filter(|_| *written != *text);
                parse_size(&text).or_else(number)
            }
            DeValue::Integer(number) => parse_integer(number).and_then(|n| u64::try_from(n).ok()),
            _ => None,
        };

        match size {
            Some(size) if size > 0 => Some(size),
            _ => self.wrong(
                key,
                "a size such as \"64KiB\" or \"25MiB\", or a number of bytes",
            ),
        }
    }

    /// Returns the value of a string with variables, such as `"${PORT}"` for a number. `None` reports a
    /// variable that is not set.
    fn variable(&self, key: &str, value: &DeValue<'_>) -> Option<Option<String>> {
        match value {
            DeValue::String(text) if self.document.variables.is_some() && text.contains("${") => {
                self.expand(key, text).map(|text| Some(text.into_owned()))
            }
            _ => Some(None),
        }
    }

    /// Reads a date without quotes: `2026-12-01`.
    pub fn day(&mut self, key: &'static str) -> Option<time::Date> {
        self.note(key, KeyKind::Day);
        let day = match self.take(key)?.get_ref() {
            DeValue::Datetime(at) if at.time.is_none() => at.date.and_then(|date| {
                let month = time::Month::try_from(date.month).ok()?;
                time::Date::from_calendar_date(i32::from(date.year), month, date.day).ok()
            }),
            _ => None,
        };
        if day.is_none() {
            return self.wrong(key, "a day without quotes, such as 2026-12-01");
        }

        day
    }

    /// Reads a value of a type that serde deserializes.
    pub fn typed<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        self.note(key, KeyKind::Any);
        let value = self.take(key)?;
        match T::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(read) => Some(read),
            Err(error) => {
                let at = error.span().map_or(value.span().start, |span| span.start);
                self.document
                    .report_at(at, self.named(&format!("{key}: {}", error.message())));
                None
            }
        }
    }

    /// Reads a table whose keys are the user's own names, each with a string or a list of strings.
    /// Numbers and booleans count as their text. Returns the offset of each key, too.
    pub fn lists(&mut self, key: &'static str) -> Vec<(String, Vec<String>, usize)> {
        self.note(key, KeyKind::Map);
        let Some(value) = self.take(key) else {
            return Vec::new();
        };
        let DeValue::Table(table) = value.get_ref() else {
            return self
                .wrong::<Vec<_>>(key, "a table of names and values")
                .unwrap_or_default();
        };

        let text = |value: &DeValue<'_>| match value {
            DeValue::String(text) => Some(text.to_string()),
            DeValue::Boolean(value) => Some(value.to_string()),
            DeValue::Integer(number) => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            _ => None,
        };

        let mut lists = Vec::new();
        for (name, value) in table.iter() {
            let texts = match value.get_ref() {
                DeValue::Array(items) => items.iter().map(|item| text(item.get_ref())).collect(),
                one => text(one).map(|text| vec![text]),
            };
            match texts {
                Some(texts) => lists.push((name.get_ref().to_string(), texts, name.span().start)),
                None => self.document.report_at(
                    value.span().start,
                    self.named(&format!(
                        "{key}.{}: expected a text, a number, or a list of them",
                        name.get_ref()
                    )),
                ),
            }
        }

        lists
    }
}

pub(super) fn parse_integer(number: &toml::de::DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Parses `500ms`, `10s`, `5m`, `1h` or `30d`. Rejects zero and other forms.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        "d" => number.checked_mul(86_400_000)?,
        _ => return None,
    };
    (millis > 0).then(|| Duration::from_millis(millis))
}

/// Parses `64KiB`, `25MiB`, `1GiB` or `512B`. Rejects zero and other forms.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let factor = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor).filter(|size| *size > 0)
}
