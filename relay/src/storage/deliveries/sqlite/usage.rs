//! Numbers and sizes of stored deliveries, by tunnel and by agent. The writer changes them with each
//! commit.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;

use crate::storage::agents::AgentId;
use crate::storage::deliveries::{NewDelivery, StoreLimits, StoreRefusal};

/// Number and size of deliveries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Number of pending deliveries.
    pub pending: u64,
    /// Number of dead letters.
    pub dead: u64,
    /// Size of their payloads, in bytes.
    pub bytes: u64,
}

/// Stored deliveries of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TunnelHeld {
    pub host: Arc<str>,
    pub held: Held,
    /// `true` if its attempts are paused.
    pub paused: bool,
}

/// Change of [`Held`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeldChange {
    pub pending: i64,
    pub dead: i64,
    pub bytes: i64,
}

/// Row of a tunnel in the file.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct TunnelRow {
    pub id: i64,
    /// Agent whose webhook was stored last.
    pub owner: AgentId,
    pub epoch: i64,
    pub paused: bool,
}

/// A tunnel, which has a row once a webhook of it is stored.
#[derive(Debug, Clone, Copy, Default)]
struct TunnelUsage {
    row: Option<TunnelRow>,
    owner: AgentId,
    held: Held,
}

/// All tunnels, by host.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage {
    tunnels: HashMap<Arc<str>, TunnelUsage>,
    /// Number and size of the deliveries of each agent's tunnels.
    owners: HashMap<AgentId, Held>,
    /// Webhooks that wait for the disk, by tunnel, with the agent of the last one. The other numbers
    /// include them.
    reserved: HashMap<Arc<str>, (AgentId, HeldChange)>,
    pub total: Held,
}

impl Held {
    fn apply(&mut self, change: HeldChange) {
        self.pending = self.pending.saturating_add_signed(change.pending);
        self.dead = self.dead.saturating_add_signed(change.dead);
        self.bytes = self.bytes.saturating_add_signed(change.bytes);
    }

    fn as_change(self) -> HeldChange {
        let signed = |number| i64::try_from(number).unwrap_or(i64::MAX);
        HeldChange {
            pending: signed(self.pending),
            dead: signed(self.dead),
            bytes: signed(self.bytes),
        }
    }

    /// Returns the number of deliveries with a payload.
    pub(crate) const fn count(&self) -> u64 {
        self.pending.saturating_add(self.dead)
    }
}

impl HeldChange {
    /// Returns the change by a webhook that is stored.
    pub(super) fn added(delivery: &NewDelivery) -> Self {
        Self {
            pending: 1,
            dead: 0,
            bytes: i64::try_from(delivery.payload.bytes()).unwrap_or(i64::MAX),
        }
    }
}

impl std::ops::Neg for HeldChange {
    type Output = Self;

    fn neg(self) -> Self {
        Self {
            pending: -self.pending,
            dead: -self.dead,
            bytes: -self.bytes,
        }
    }
}

impl std::ops::Add for HeldChange {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl std::ops::AddAssign for HeldChange {
    fn add_assign(&mut self, other: Self) {
        self.pending += other.pending;
        self.dead += other.dead;
        self.bytes += other.bytes;
    }
}

impl Usage {
    /// Returns the reason why one more payload of this size exceeds a bound.
    pub(super) fn refusal(
        &self,
        limits: &StoreLimits,
        tunnel: &str,
        owner: AgentId,
        bytes: u64,
    ) -> Option<StoreRefusal> {
        let exceeds = |held: Held, most_bytes: u64, most_count: u64| {
            held.bytes.saturating_add(bytes) > most_bytes || held.count() >= most_count
        };

        let exceeds_share = |held| exceeds(held, limits.tunnel_bytes, limits.tunnel_count);
        if exceeds_share(self.of(tunnel)) {
            return Some(StoreRefusal::TunnelFull);
        }
        if exceeds_share(self.owners.get(&owner).copied().unwrap_or_default()) {
            return Some(StoreRefusal::AgentFull);
        }
        exceeds(self.total, limits.bytes, limits.count).then_some(StoreRefusal::Full)
    }

    /// Reserves the bounds for a webhook.
    ///
    /// # Errors
    /// The bound that it would exceed.
    pub(super) fn reserve(
        &mut self,
        limits: &StoreLimits,
        delivery: &NewDelivery,
    ) -> Result<(), StoreRefusal> {
        let bytes = delivery.payload.bytes() as u64;
        if let Some(refusal) = self.refusal(limits, &delivery.tunnel, delivery.owner, bytes) {
            return Err(refusal);
        }

        let added = HeldChange::added(delivery);
        self.set_owner(&delivery.tunnel, delivery.owner);
        self.apply(&delivery.tunnel, added);
        let reserved = self.reserved.entry(Arc::clone(&delivery.tunnel));
        let (owner, change) = reserved.or_default();
        (*owner, *change) = (delivery.owner, *change + added);
        Ok(())
    }

    /// Counts what a tunnel holds as that of this agent.
    fn set_owner(&mut self, host: &Arc<str>, owner: AgentId) {
        let tunnel = self.tunnels.entry(Arc::clone(host)).or_default();
        if tunnel.owner == owner {
            return;
        }

        let held = tunnel.held.as_change();
        let before = std::mem::replace(&mut tunnel.owner, owner);
        if let Some(before) = self.owners.get_mut(&before) {
            before.apply(-held);
        }
        self.owners.entry(owner).or_default().apply(held);
        self.owners.retain(|_, held| *held != Held::default());
    }

    /// Ends the reservation of a webhook that was not stored.
    pub(super) fn undo(&mut self, delivery: &NewDelivery) {
        let added = HeldChange::added(delivery);
        self.apply(&delivery.tunnel, -added);
        self.confirm(&delivery.tunnel, added);
    }

    /// Counts webhooks that were reserved as those of the file.
    pub(super) fn confirm(&mut self, host: &str, added: HeldChange) {
        if let Some((_, reserved)) = self.reserved.get_mut(host) {
            *reserved += -added;
            if reserved.pending <= 0 {
                self.reserved.remove(host);
            }
        }
    }

    /// Replaces the numbers by those of the file, and keeps what waits for the disk.
    pub(super) fn replace_committed(&mut self, committed: Self) {
        let reserved = std::mem::take(&mut self.reserved);
        *self = committed;
        for (host, (owner, change)) in &reserved {
            self.set_owner(host, *owner);
            self.apply(host, *change);
        }
        self.reserved = reserved;
    }

    /// Returns the number of bytes that a tunnel may still hold, after a change that is not yet
    /// applied.
    pub(super) fn room(&self, limits: &StoreLimits, tunnel: &str, change: HeldChange) -> u64 {
        let usage = self.tunnels.get(tunnel).copied().unwrap_or_default();
        let of_agent = self.owners.get(&usage.owner).copied().unwrap_or_default();
        let held = usage.held.bytes.max(of_agent.bytes);
        let of_agent = limits.tunnel_bytes.saturating_sub(held);
        let of_all = limits.bytes.saturating_sub(self.total.bytes);
        of_agent.min(of_all).saturating_add_signed(-change.bytes)
    }

    /// Returns the row of a tunnel.
    pub(super) fn row(&self, tunnel: &str) -> Option<TunnelRow> {
        self.tunnels.get(tunnel).and_then(|tunnel| tunnel.row)
    }

    /// Replaces the row of a tunnel.
    pub(super) fn set_row(&mut self, host: Arc<str>, row: TunnelRow) {
        self.tunnels.entry(host).or_default().row = Some(row);
    }

    /// Returns what a tunnel holds.
    pub(super) fn of(&self, tunnel: &str) -> Held {
        self.tunnels
            .get(tunnel)
            .map(|tunnel| tunnel.held)
            .unwrap_or_default()
    }

    /// Returns the row of a tunnel, unless it is paused.
    pub(super) fn active_tunnel(&self, tunnel: &str) -> Option<i64> {
        self.row(tunnel).filter(|row| !row.paused).map(|row| row.id)
    }

    /// Returns all tunnels, by host.
    pub(super) fn list(&self) -> Vec<TunnelHeld> {
        let tunnels = self.tunnels.iter().map(|(host, tunnel)| TunnelHeld {
            host: Arc::clone(host),
            held: tunnel.held,
            paused: tunnel.row.is_some_and(|row| row.paused),
        });
        let mut tunnels: Vec<_> = tunnels.collect();
        tunnels.sort_by(|one, other| one.host.cmp(&other.host));
        tunnels
    }

    /// Returns the hosts of the tunnels with pending deliveries.
    pub(super) fn with_pending(&self) -> Vec<Arc<str>> {
        let pending = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| tunnel.held.pending > 0);
        pending.map(|(host, _)| Arc::clone(host)).collect()
    }

    /// Applies the changes of a commit.
    pub(super) fn apply(&mut self, host: &str, change: HeldChange) {
        self.total.apply(change);
        if let Some(tunnel) = self.tunnels.get_mut(host) {
            tunnel.held.apply(change);
            self.owners.entry(tunnel.owner).or_default().apply(change);
        }
    }
}

/// Reads the numbers that each commit has kept.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<Usage> {
    let columns = "SELECT host, id, pending, dead, bytes, epoch, paused, owner FROM tunnels";
    let mut query = connection.prepare(columns)?;
    let rows = query.query_map([], |row| {
        let count = |column| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column)?.unsigned_abs());
        let held = Held {
            pending: count(2)?,
            dead: count(3)?,
            bytes: count(4)?,
        };
        let in_file = TunnelRow {
            id: row.get(1)?,
            epoch: row.get(5)?,
            paused: row.get::<_, i64>(6)? != 0,
            owner: AgentId(row.get(7)?),
        };
        let tunnel = TunnelUsage {
            row: Some(in_file),
            owner: in_file.owner,
            held,
        };
        Ok((Arc::from(row.get::<_, String>(0)?), tunnel))
    })?;

    let mut usage = Usage::default();
    for row in rows {
        let (host, tunnel) = row?;
        let held = tunnel.held.as_change();
        usage.total.apply(held);
        usage.owners.entry(tunnel.owner).or_default().apply(held);
        usage.tunnels.insert(host, tunnel);
    }
    Ok(usage)
}
