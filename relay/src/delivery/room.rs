//! Memory for the payloads of attempts in progress.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use crate::storage::agents::AgentId;

/// Room for the payloads of all attempts. Small ones need none: the number of attempts bounds them.
pub(super) struct Room {
    /// Units that are free.
    free: Semaphore,
    // A std mutex: it guards a small map, and nothing waits while it is held.
    owners: Mutex<HashMap<AgentId, u32>>,
}

/// Share of an agent in the room, for one payload.
pub(super) struct RoomShare {
    room: Arc<Room>,
    owner: AgentId,
    units: u32,
}

impl Room {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            free: Semaphore::new(UNITS as usize),
            owners: Mutex::default(),
        })
    }

    /// Takes a share for a payload. Returns `None` if the agent has its part of the room, so that a
    /// slow application delays no other agent.
    pub(super) fn share(self: &Arc<Self>, owner: AgentId, bytes: u64) -> Option<RoomShare> {
        let units = u32::try_from(bytes / UNIT).unwrap_or(UNITS).min(UNITS);
        let mut owners = self.lock();
        let held = owners.entry(owner).or_default();
        // A payload that is larger than the part is alone.
        if units > 0 && *held > 0 && held.saturating_add(units) > UNITS / OWNERS {
            return None;
        }
        *held += units;
        Some(RoomShare {
            room: Arc::clone(self),
            owner,
            units,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, u32>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RoomShare {
    /// Runs an attempt once there is room for its payload.
    pub(super) async fn run<T>(self, attempt: impl Future<Output = T>) -> T {
        // The semaphore is never closed.
        let _free = self.room.free.acquire_many(self.units).await;
        attempt.await
    }
}

impl Drop for RoomShare {
    fn drop(&mut self) {
        let mut owners = self.room.lock();
        if let Some(held) = owners.get_mut(&self.owner) {
            *held = held.saturating_sub(self.units);
            if *held == 0 {
                owners.remove(&self.owner);
            }
        }
    }
}

/// Unit of the room, in bytes. Smaller payloads need no room.
const UNIT: u64 = 64 * 1024;

/// Room for the payloads of all attempts in progress, in units: 64 MiB.
const UNITS: u32 = 1024;

/// Divisor of the room: an agent has a quarter.
const OWNERS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_a_part_of_the_room() {
        let (room, quarter) = (Room::new(), UNIT * u64::from(UNITS / OWNERS));
        let large = room.share(AgentId::default(), 2 * quarter);
        assert!(large.is_some(), "alone");
        assert!(room.share(AgentId::default(), UNIT).is_none());
        assert!(room.share(AgentId::default(), UNIT - 1).is_some(), "small");
        drop(large);
        let share = room.share(AgentId::default(), quarter);
        assert!(share.is_some());
        assert!(room.share(AgentId::default(), UNIT).is_none());
    }
}
