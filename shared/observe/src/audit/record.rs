//! Fields of the records.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;

use hookward_core::clock::UnixMillis;
use hookward_core::text::printable;
use serde::Serialize;

/// Person or program that performed an administrative act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Actor(String);

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Actor {
    /// Returns the user that runs this process: its user id, the user id of the login, and the user
    /// of sudo.
    #[must_use]
    pub fn current_user() -> Self {
        /// Value of a process without a login (proc(5)).
        const NO_LOGIN: &str = "4294967295";

        let uid = std::fs::metadata("/proc/self").map_or_else(
            |_| "unknown user".to_owned(),
            |process| format!("uid {}", process.uid()),
        );
        let login = std::fs::read_to_string("/proc/self/loginuid").ok();
        let login = login
            .filter(|login| login != NO_LOGIN && !login.is_empty())
            .map(|login| format!("login uid {login}"));
        let sudo = std::env::var("SUDO_USER")
            .ok()
            .map(|user| format!("sudo user {user}"));

        let by: Vec<_> = login.into_iter().chain(sudo).collect();
        Self::stored(&match by.is_empty() {
            true => uid,
            false => format!("{uid} ({})", by.join(", ")),
        })
    }

    /// Returns the client of an API.
    #[must_use]
    pub fn api(client: impl fmt::Display) -> Self {
        Self(format!("admin API, {client}"))
    }

    /// Returns an agent.
    #[must_use]
    pub fn agent(name: impl fmt::Display) -> Self {
        Self(format!("agent {name}"))
    }

    /// Returns the program itself, as after a signal or a changed file.
    #[must_use]
    pub fn program() -> Self {
        Self("this program".to_owned())
    }

    /// Wraps the text of an actor that was stored, or made elsewhere.
    #[must_use]
    pub fn stored(text: &str) -> Self {
        Self(printable(text).chars().take(ACTOR_CHARS).collect())
    }
}

/// Maximum length of an actor, in characters.
const ACTOR_CHARS: usize = 200;

/// An administrative act.
#[derive(Debug, Clone, Serialize)]
pub struct Act<D> {
    /// Person or program that performed it.
    pub actor: Actor,
    /// Fields of the act.
    #[serde(flatten)]
    pub details: D,
}

/// Returns the JSON object of a record, without its chain. `fields` must serialize as an object.
pub(super) fn encode(
    now: UnixMillis,
    event: &str,
    fields: &impl Serialize,
) -> serde_json::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(RECORD_BYTES);
    line.extend_from_slice(b"{\"time\":\"");
    line.extend_from_slice(now.to_rfc3339().as_bytes());
    line.extend_from_slice(b"\",\"event\":");
    serde_json::to_writer(&mut line, event)?;

    let start = line.len();
    serde_json::to_writer(&mut line, fields)?;
    match line.get(start..) {
        Some(b"{}") => line.truncate(start),
        // The fields follow those before them.
        _ => {
            if let Some(brace) = line.get_mut(start) {
                *brace = b',';
            }
            line.pop();
        }
    }
    line.push(b'}');
    match line.len() <= MAX_RECORD_BYTES {
        true => Ok(line),
        false => encode(now, event, &TooLong { bytes: line.len() }),
    }
}

/// Fields of a record that would be too long.
#[derive(Serialize)]
struct TooLong {
    #[serde(rename = "omitted_bytes")]
    bytes: usize,
}

/// Size that usual records do not exceed, in bytes.
const RECORD_BYTES: usize = 1024;

/// Maximum size of a record without its chain, in bytes. It fits in a datagram of syslog.
pub(super) const MAX_RECORD_BYTES: usize = 60 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_record_is_one_line_and_cannot_be_forged_by_its_text() {
        let hostile = "a\"}\n{\"seq\":9,\"event\":\"forwarded\"}\u{2028}\u{1b}[2J";
        let line = encode(
            UnixMillis(1_800_000_000_123),
            "refused",
            &json!({ "reason": hostile }),
        )
        .unwrap();
        assert!(!line.contains(&b'\n'));
        let back: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(back["reason"], hostile);
        assert_eq!(back["time"], "2027-01-15T08:00:00.123Z");
        assert_eq!(back["event"], "refused");

        let long = json!({ "reason": "\u{7}".repeat(MAX_RECORD_BYTES) });
        let long = encode(UnixMillis(0), "refused", &long).unwrap();
        let back: serde_json::Value = serde_json::from_slice(&long).unwrap();
        assert!(back["omitted_bytes"].as_u64() > Some(6 * MAX_RECORD_BYTES as u64));

        let empty = encode(UnixMillis(0), "stopped", &json!({})).unwrap();
        assert_eq!(
            empty,
            br#"{"time":"1970-01-01T00:00:00.000Z","event":"stopped"}"#
        );
    }

    #[test]
    fn an_actor_is_bounded_and_printable() {
        let actor = Actor::stored(&"\u{1b}x".repeat(1000));
        assert!(actor.to_string().chars().count() <= 200);
        assert!(!actor.to_string().contains('\u{1b}'));
        assert!(Actor::current_user().to_string().starts_with("uid "));
    }
}
