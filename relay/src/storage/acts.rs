//! Administrative acts on the state file that the relay has not yet recorded. The command
//! `hookward-relay agent` changes the file in another process, also while no relay runs.

use hookward_core::clock::UnixMillis;
use hookward_observe::audit::Actor;
use rusqlite::{Connection, params};

use super::{StorageError, Store, millis};

/// An act that waits for its audit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingAct {
    /// Number of the act, which grows.
    pub id: i64,
    pub at: UnixMillis,
    /// Event of the record, such as `agent_added`.
    pub event: String,
    pub agent: String,
    pub actor: Actor,
    /// Host that moved to the agent, with its previous owner.
    pub details: Option<String>,
}

/// Maximum number of acts to read at once.
const BATCH: i64 = 256;

impl Store {
    /// Returns the acts that wait, oldest first, up to a batch, without those up to a number.
    pub(crate) fn pending_acts(&self, after: i64) -> Result<Vec<PendingAct>, StorageError> {
        self.read(move |db| {
            let mut query = db.prepare(
                "SELECT id, time_ms, event, agent, actor, details FROM acts WHERE id > ?2 ORDER BY id LIMIT ?1",
            )?;
            let rows = query.query_map([BATCH, after], |row| {
                let at: i64 = row.get(1)?;
                let actor: String = row.get(4)?;
                Ok(PendingAct {
                    id: row.get(0)?,
                    at: UnixMillis(u64::try_from(at).unwrap_or_default()),
                    event: row.get(2)?,
                    agent: row.get(3)?,
                    actor: Actor::stored(&actor),
                    details: row.get(5)?,
                })
            })?;
            rows.collect()
        })
    }

    /// Removes acts up to this number, which were recorded.
    pub(crate) fn forget_acts(&self, last: i64) -> Result<(), StorageError> {
        self.write(move |db| db.execute("DELETE FROM acts WHERE id <= ?1", [last]))
            .map(drop)
    }
}

/// Adds an act in the transaction of its change.
pub(super) fn add(
    db: &Connection,
    event: &str,
    agent: &str,
    actor: &Actor,
    details: Option<&str>,
    now: UnixMillis,
) -> rusqlite::Result<()> {
    let insert =
        "INSERT INTO acts (time_ms, event, agent, actor, details) VALUES (?1, ?2, ?3, ?4, ?5)";
    let values = params![millis(now), event, agent, actor.to_string(), details];
    db.execute(insert, values).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hookward_core::names::AgentName;
    use hookward_core::secret::Secret;

    #[test]
    fn a_change_and_its_act_are_stored_together() {
        let store = Store::in_memory().unwrap();
        let name = AgentName::parse("jira").unwrap();
        let admin = store.acting_as(Actor::stored("uid 0"));
        admin
            .add_agent(&name, &Secret::generate().unwrap(), UnixMillis(7))
            .unwrap();
        assert!(admin.remove_agent(&name, UnixMillis(8)).unwrap());
        assert!(!admin.remove_agent(&name, UnixMillis(9)).unwrap());

        let acts = store.pending_acts(0).unwrap();
        let seen: Vec<_> = acts
            .iter()
            .map(|act| (act.event.as_str(), act.agent.as_str(), act.at.0))
            .collect();
        assert_eq!(
            seen,
            [("agent_added", "jira", 7), ("agent_removed", "jira", 8)]
        );
        assert_eq!(acts[0].actor, Actor::stored("uid 0"));

        assert_eq!(store.pending_acts(acts[0].id).unwrap(), acts[1..]);
        store.forget_acts(acts[0].id).unwrap();
        assert_eq!(store.pending_acts(0).unwrap(), acts[1..]);
    }
}
