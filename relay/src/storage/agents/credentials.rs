//! Credentials of agents: issued for a join token, renewed by the agent before they expire, rotated
//! and revoked by the administrator.

use hookward_core::clock::UnixMillis;
use hookward_core::names::AgentName;
use hookward_core::secret::{Secret, SecretDigest};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::scope::{self, AgentScope};
use super::{Agent, AgentId};
use crate::storage::{StorageError, Store, acts, millis, note_agents_changed};

/// An agent with a valid credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownAgent {
    pub agent: Agent,
    /// Limits of its tunnels.
    pub scope: AgentScope,
    /// `true` if it should renew the credential now.
    pub is_renewal_due: bool,
}

/// Result of the check of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// The credential is valid.
    Known(KnownAgent),
    /// The credential was valid until this time.
    Expired(UnixMillis),
    /// No agent has it, or it was revoked.
    Unknown,
}

impl Authentication {
    /// Returns the agent of a valid credential.
    #[must_use]
    pub fn known(self) -> Option<KnownAgent> {
        match self {
            Self::Known(known) => Some(known),
            Self::Expired(_) | Self::Unknown => None,
        }
    }
}

/// Result of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The new credential is valid. The old one stays so until its own end.
    Renewed,
    /// The old credential is not due.
    NotDue,
    /// The agent has as many credentials as it may.
    TooMany,
    /// The old credential is unknown, revoked or expired, or another agent has the new one.
    Refused,
}

/// Maximum number of valid credentials of one agent, which copies of its files may each renew.
const CREDENTIALS_PER_AGENT: i64 = 16;

impl Store {
    /// Exchanges a join token's secret for a credential, and invalidates the token and the agent's
    /// other credentials. Only the same credential may use the token again, because an agent may
    /// have missed the response or failed to store it. Returns `None` if the token is unknown, used
    /// by another credential, or expired.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn join(
        &self,
        secret: &Secret,
        credential: &SecretDigest,
        now: UnixMillis,
    ) -> Result<Option<KnownAgent>, StorageError> {
        let (digest, credential) = (secret.digest(), credential.clone());
        self.write(move |tx| {
            let find = "SELECT agent, used_by FROM join_tokens
                        WHERE digest = ?1 AND expires_ms > ?2 AND (used_by IS NULL OR used_by = ?3)";
            let found = params![digest.as_bytes(), millis(now), credential.as_bytes()];
            let found = tx.query_row(find, found, |row| {
                Ok((row.get(0)?, row.get::<_, Option<Vec<u8>>>(1)?.is_some()))
            });
            let Some((agent, is_used)): Option<(i64, bool)> = found.optional()? else {
                return Ok(None);
            };
            // Repeated by the agent that has used it: nothing changes.
            if is_used {
                return known(tx, &credential, now).map(Authentication::known);
            }
            if issue(tx, agent, &credential, now)? != Some(agent) {
                return Ok(None);
            }

            let others = "DELETE FROM credentials WHERE agent = ?1 AND digest <> ?2";
            tx.execute(others, params![agent, credential.as_bytes()])?;
            let used = "UPDATE join_tokens SET used_by = ?2 WHERE digest = ?1";
            tx.execute(used, params![digest.as_bytes(), credential.as_bytes()])?;
            note_agents_changed(tx)?;
            known(tx, &credential, now).map(Authentication::known)
        })
    }

    /// Returns the agent with this credential.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn authenticate(
        &self,
        credential: &SecretDigest,
        now: UnixMillis,
    ) -> Result<Authentication, StorageError> {
        let credential = credential.clone();
        self.read(move |db| known(db, &credential, now))
    }

    /// Adds the credential that replaces another one, which is due.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn renew(
        &self,
        old: &SecretDigest,
        new: &SecretDigest,
        now: UnixMillis,
    ) -> Result<Renewal, StorageError> {
        let (old, new) = (old.clone(), new.clone());
        self.write(move |tx| {
            let Authentication::Known(known) = known(tx, &old, now)? else {
                return Ok(Renewal::Refused);
            };
            if !known.is_renewal_due {
                return Ok(Renewal::NotDue);
            }

            let agent = known.agent.id.0;
            let expired = "DELETE FROM credentials WHERE agent = ?1 AND expires_ms <= ?2";
            tx.execute(expired, params![agent, millis(now)])?;
            let valid = "SELECT count(*) FROM credentials WHERE agent = ?1 AND digest <> ?2";
            let valid: i64 =
                tx.query_row(valid, params![agent, new.as_bytes()], |row| row.get(0))?;
            if valid >= CREDENTIALS_PER_AGENT {
                return Ok(Renewal::TooMany);
            }
            // Several connections of the agent add the same one.
            match issue(tx, agent, &new, now)? == Some(agent) {
                true => Ok(Renewal::Renewed),
                false => Ok(Renewal::Refused),
            }
        })
    }

    /// Withdraws the credentials and join tokens of an agent, which keeps its hosts. Returns `false`
    /// if there is none of this name.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn revoke_agent(&self, name: &AgentName, now: UnixMillis) -> Result<bool, StorageError> {
        let (name, actor) = (name.clone(), self.actor.clone());
        self.write(move |db| {
            let Some(agent) = id_of(db, &name)? else {
                return Ok(false);
            };
            db.execute("DELETE FROM credentials WHERE agent = ?1", [agent])?;
            db.execute("DELETE FROM join_tokens WHERE agent = ?1", [agent])?;
            note_agents_changed(db)?;
            acts::add(db, "agent_revoked", name.as_str(), &actor, None, now)?;
            Ok(true)
        })
    }

    /// Makes the credentials of an agent due for renewal, and ends them after `overlap_ms`. Returns
    /// their number, or `None` if there is no agent of this name.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub fn rotate_credentials(
        &self,
        name: &AgentName,
        overlap_ms: u64,
        now: UnixMillis,
    ) -> Result<Option<usize>, StorageError> {
        let (name, actor) = (name.clone(), self.actor.clone());
        self.write(move |db| {
            let Some(agent) = id_of(db, &name)? else {
                return Ok(None);
            };
            let count = bound(db, agent, (0, overlap_ms), now)?;
            if count > 0 {
                note_agents_changed(db)?;
                acts::add(db, "credential_rotated", name.as_str(), &actor, None, now)?;
            }
            Ok(Some(count))
        })
    }
}

pub(super) fn id_of(db: &Connection, name: &AgentName) -> rusqlite::Result<Option<i64>> {
    let find = "SELECT id FROM agents WHERE name = ?1";
    db.query_row(find, [name.as_str()], |row| row.get(0))
        .optional()
}

impl Store {
    /// Returns `true` if an agent has a valid credential that is not due for renewal.
    ///
    /// # Errors
    /// [`StorageError::State`].
    pub(crate) fn has_fresh_credential(
        &self,
        name: &AgentName,
        now: UnixMillis,
    ) -> Result<bool, StorageError> {
        let name = name.clone();
        self.read(move |db| {
            let select = "SELECT EXISTS (
                SELECT 1 FROM credentials JOIN agents ON agents.id = agent
                WHERE name = ?1 AND coalesce(renew_ms, ?2 + 1) > ?2
                AND coalesce(expires_ms, ?2 + 1) > ?2)";
            db.query_row(select, params![name.as_str(), millis(now)], |row| {
                row.get(0)
            })
        })
    }
}

fn known(
    db: &Connection,
    credential: &SecretDigest,
    now: UnixMillis,
) -> rusqlite::Result<Authentication> {
    // Lookup by digest: timing can reveal only a digest, from which a 256-bit credential cannot be
    // found.
    let select = "SELECT agents.id, name, scope, renew_ms, expires_ms
                  FROM credentials JOIN agents ON agents.id = agent WHERE digest = ?1";
    let found = db
        .prepare_cached(select)?
        .query_row([credential.as_bytes()], |row| {
            let time = |column| {
                let at: Option<i64> = row.get(column)?;
                Ok::<_, rusqlite::Error>(at.map(|at| UnixMillis(at.unsigned_abs())))
            };
            let name: String = row.get(1)?;
            let scope = scope::read(row, 2)?;
            Ok((row.get(0)?, name, scope, time(3)?, time(4)?))
        })
        .optional()?;

    let Some((id, name, scope, renew, expires)) = found else {
        return Ok(Authentication::Unknown);
    };
    if let Some(expires) = expires.filter(|expires| *expires <= now) {
        return Ok(Authentication::Expired(expires));
    }
    let Some(name) = AgentName::parse(&name) else {
        return Ok(Authentication::Unknown);
    };
    Ok(Authentication::Known(KnownAgent {
        agent: Agent {
            id: AgentId(id),
            name,
        },
        scope,
        is_renewal_due: renew.is_some_and(|renew| renew <= now),
    }))
}

/// Adds a credential, unless it is there. Returns the agent that has it.
fn issue(
    db: &Connection,
    agent: i64,
    credential: &SecretDigest,
    now: UnixMillis,
) -> rusqlite::Result<Option<i64>> {
    let life = scope::of(db, agent)?.credential_life_ms;
    let (renew, expires) = match life {
        Some(life) => {
            let (renew, expires) = times(life, credential, now);
            (Some(renew), Some(expires))
        }
        None => (None, None),
    };
    let insert = "INSERT INTO credentials (digest, agent, renew_ms, expires_ms)
                  VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    db.execute(
        insert,
        params![credential.as_bytes(), agent, renew, expires],
    )?;
    let owner = "SELECT agent FROM credentials WHERE digest = ?1";
    db.query_row(owner, [credential.as_bytes()], |row| row.get(0))
        .optional()
}

/// Returns the times of the renewal and of the end of a credential, in milliseconds: at two thirds
/// of its life, and up to a twentieth earlier, so that agents of one day do not come together.
fn times(life_ms: u64, credential: &SecretDigest, now: UnixMillis) -> (i64, i64) {
    let jitter = life_ms / 20 * u64::from(credential.as_bytes()[0]) / 255;
    let renew = life_ms / 3 * 2 - jitter;
    let at = |after: u64| millis(UnixMillis(now.0.saturating_add(after)));
    (at(renew), at(life_ms))
}

/// Makes the valid credentials of an agent due for renewal, and ends them, after these times in
/// milliseconds at the latest. Returns their number.
pub(super) fn bound(
    db: &Connection,
    agent: i64,
    (renew_ms, end_ms): (u64, u64),
    now: UnixMillis,
) -> rusqlite::Result<usize> {
    let at = |after: u64| millis(UnixMillis(now.0.saturating_add(after)));
    let update = "UPDATE credentials SET renew_ms = min(coalesce(renew_ms, ?2), ?2),
                  expires_ms = min(coalesce(expires_ms, ?3), ?3)
                  WHERE agent = ?1 AND coalesce(expires_ms, ?3) > ?4";
    let values = params![agent, at(renew_ms), at(end_ms), millis(now)];
    db.execute(update, values)
}

#[cfg(test)]
mod tests {
    use super::super::super::STATE_SCHEMA;
    use super::*;
    use hookward_core::limits::JOIN_TOKEN_LIFE_MS;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    const DAY_MS: u64 = 86_400_000;

    fn later(ms: u64) -> UnixMillis {
        UnixMillis(NOW.0 + ms)
    }

    fn digest() -> SecretDigest {
        Secret::generate().unwrap().digest()
    }

    fn name() -> AgentName {
        AgentName::parse("a").unwrap()
    }

    fn joined(store: &Store, life_ms: Option<u64>) -> SecretDigest {
        let (secret, credential) = (Secret::generate().unwrap(), digest());
        store.add_agent(&name(), &secret, NOW).unwrap();
        let scope = AgentScope {
            credential_life_ms: life_ms,
            ..AgentScope::default()
        };
        store.set_scope(&name(), scope, NOW).unwrap();
        let known = store.join(&secret, &credential, NOW).unwrap().unwrap();
        assert_eq!(known.agent.name, name());
        credential
    }

    #[test]
    fn a_join_token_works_once_and_for_a_day() {
        let store = Store::in_memory().unwrap();
        assert!(store.is_new().unwrap());
        let (old, secret, credential) = (
            Secret::generate().unwrap(),
            Secret::generate().unwrap(),
            digest(),
        );
        store.add_agent(&name(), &old, NOW).unwrap();
        let late = later(JOIN_TOKEN_LIFE_MS);
        assert!(store.join(&old, &credential, late).unwrap().is_none());
        store.add_agent(&name(), &secret, NOW).unwrap();

        let join = |token: &Secret, credential| store.join(token, credential, NOW).unwrap();
        assert!(join(&old, &credential).is_none(), "replaced");
        assert!(join(&secret, &credential).is_some());
        assert!(join(&secret, &credential).is_some(), "the same one again");
        assert!(join(&secret, &digest()).is_none(), "used");

        let known = || store.authenticate(&credential, NOW).unwrap().known();
        assert_eq!(known().unwrap().agent.name, name());
        assert!(store.remove_agent(&name(), NOW).unwrap());
        assert!(known().is_none());
    }

    #[test]
    fn a_credential_is_renewed_before_it_expires() {
        let store = Store::in_memory().unwrap();
        let (old, new) = (joined(&store, Some(90 * DAY_MS)), digest());
        let state = |credential, at| store.authenticate(credential, at).unwrap();
        let due = |at| state(&old, at).known().unwrap().is_renewal_due;
        assert!(!due(later(50 * DAY_MS)) && due(later(60 * DAY_MS)));

        let renew = |new, at| store.renew(&old, new, at).unwrap();
        assert_eq!(renew(&new, later(50 * DAY_MS)), Renewal::NotDue);
        assert_eq!(renew(&new, later(60 * DAY_MS)), Renewal::Renewed);
        assert_eq!(renew(&new, later(61 * DAY_MS)), Renewal::Renewed, "again");

        let end = later(90 * DAY_MS);
        assert_eq!(state(&old, end), Authentication::Expired(end));
        assert_eq!(renew(&digest(), end), Renewal::Refused);
        assert!(state(&new, end).known().is_some());
        let end = later(150 * DAY_MS);
        assert_eq!(state(&new, end), Authentication::Expired(end));
    }

    #[test]
    fn a_credential_without_an_end_stays_valid() {
        let store = Store::in_memory().unwrap();
        let credential = joined(&store, None);
        let known = store.authenticate(&credential, later(9999 * DAY_MS));
        assert!(!known.unwrap().known().unwrap().is_renewal_due);
    }

    #[test]
    fn rotation_ends_old_credentials_after_the_overlap() {
        let store = Store::in_memory().unwrap();
        let (old, new) = (joined(&store, None), digest());
        let rotated = store.rotate_credentials(&name(), 1000, NOW).unwrap();
        assert_eq!(rotated, Some(1));
        assert_eq!(store.renew(&old, &new, NOW).unwrap(), Renewal::Renewed);

        let known = |credential, at| store.authenticate(credential, at).unwrap().known();
        assert!(known(&old, later(999)).is_some());
        assert!(known(&old, later(1000)).is_none());
        assert!(!known(&new, later(1000)).unwrap().is_renewal_due);
        let unknown = AgentName::parse("b").unwrap();
        let rotated = store.rotate_credentials(&unknown, 1000, NOW).unwrap();
        assert_eq!(rotated, None);
    }

    #[test]
    fn renewals_do_not_fill_the_file() {
        let store = Store::in_memory().unwrap();
        let old = joined(&store, None);
        store.rotate_credentials(&name(), 1000, NOW).unwrap();
        let renewals = (0..100).map(|_| store.renew(&old, &digest(), NOW).unwrap());
        let renewed = renewals.filter(|renewal| *renewal == Renewal::Renewed);
        assert_eq!(renewed.count() as i64, CREDENTIALS_PER_AGENT - 1);
    }

    #[test]
    fn a_revoked_agent_keeps_its_name() {
        let store = Store::in_memory().unwrap();
        let credential = joined(&store, None);
        let before = store.agents_revision().unwrap();
        assert!(store.revoke_agent(&name(), NOW).unwrap());
        assert!(store.agents_revision().unwrap() > before);
        let state = store.authenticate(&credential, NOW).unwrap();
        assert_eq!(state, Authentication::Unknown);
        assert_eq!(store.list_agents().unwrap().len(), 1);
        assert!(
            !store
                .revoke_agent(&AgentName::parse("b").unwrap(), NOW)
                .unwrap()
        );
    }

    #[test]
    fn a_file_of_an_earlier_version_keeps_its_credentials() {
        let mut db = Connection::open_in_memory().unwrap();
        let (earlier, last) = STATE_SCHEMA.migrations.split_at(4);
        let tx = db.transaction().unwrap();
        earlier.iter().for_each(|migrate| migrate(&tx).unwrap());
        let insert = "INSERT INTO agents (id, name, credential_digest) VALUES (7, 'a', ?1)";
        let credential = digest();
        tx.execute(insert, [credential.as_bytes()]).unwrap();
        last.iter().for_each(|migrate| migrate(&tx).unwrap());
        let known = known(&tx, &credential, NOW).unwrap().known().unwrap();
        assert_eq!(known.agent.id, AgentId(7));
        assert_eq!((known.scope, known.is_renewal_due), Default::default());
    }
}
