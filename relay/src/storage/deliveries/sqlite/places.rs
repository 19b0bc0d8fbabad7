//! Places for queries of people. An agent has one, so that it leaves those of other agents free.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::storage::StorageError;
use crate::storage::agents::AgentId;

/// Places for queries of administrators, and of agents.
pub(super) struct QueryPlaces {
    of_admins: Arc<Semaphore>,
    of_agents: Arc<Semaphore>,
    // A std mutex: it guards a small map, and nothing waits while it is held.
    of_agent: Mutex<HashMap<AgentId, Arc<Semaphore>>>,
}

/// A taken place.
pub(super) struct QueryPlace {
    _shared: OwnedSemaphorePermit,
    _own: Option<OwnedSemaphorePermit>,
}

impl QueryPlaces {
    pub(super) fn new() -> Self {
        Self {
            of_admins: Arc::new(Semaphore::new(QUERIES)),
            of_agents: Arc::new(Semaphore::new(QUERIES)),
            of_agent: Mutex::default(),
        }
    }

    /// Waits for a place of this agent, or of administrators.
    ///
    /// # Errors
    /// [`StorageError::Busy`].
    pub(super) async fn take(&self, owner: Option<AgentId>) -> Result<QueryPlace, StorageError> {
        let own = owner.map(|owner| self.of(owner));
        let shared = match owner {
            Some(_) => &self.of_agents,
            None => &self.of_admins,
        };
        let taking = async {
            let own = match own {
                Some(own) => Some(own.acquire_owned().await.ok()?),
                None => None,
            };
            let shared = Arc::clone(shared).acquire_owned().await.ok()?;
            Some(QueryPlace {
                _shared: shared,
                _own: own,
            })
        };
        let taken = timeout(QUERY_WAIT, taking).await.ok().flatten();
        taken.ok_or(StorageError::Busy)
    }

    fn of(&self, owner: AgentId) -> Arc<Semaphore> {
        let mut all = self.of_agent.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of agents without a query are free, and held by the map only.
        all.retain(|_, place| Arc::strong_count(place) > 1);
        let place = all
            .entry(owner)
            .or_insert_with(|| Arc::new(Semaphore::new(1)));
        Arc::clone(place)
    }
}

/// Maximum number of queries of administrators at the same time, and of agents. Each may read a whole
/// payload.
const QUERIES: usize = 3;

/// Maximum wait for a place.
const QUERY_WAIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn an_agent_leaves_places_for_others() {
        let places = QueryPlaces::new();
        let take = |id: i64| {
            let owner = (id > 0).then_some(AgentId::for_tests(id));
            // Without a free place, it waits.
            places.take(owner).now_or_never()
        };
        let first = take(1);
        assert!(matches!(first, Some(Ok(_))));
        assert!(take(1).is_none());
        let others = [take(2), take(3)];
        assert!(others.iter().all(|place| matches!(place, Some(Ok(_)))));
        assert!(take(4).is_none());
        assert!(take(0).is_some());

        drop(first);
        assert!(take(1).is_some());
    }
}
