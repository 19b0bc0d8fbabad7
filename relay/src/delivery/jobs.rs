//! Changes of many deliveries in the background, at a bounded rate.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use serde_json::json;
use tokio::time::sleep;

use super::{Deliveries, Requester};
use crate::storage::StorageError;
use crate::storage::agents::AgentId;
use crate::storage::deliveries::{Change, DeliveryFilter};

/// Jobs of this process, newest last.
#[derive(Default)]
pub(super) struct Jobs {
    // A std mutex: it guards a short list, and nothing waits while it is held.
    known: Mutex<VecDeque<Arc<Job>>>,
    last: AtomicU64,
}

/// A change of many deliveries.
pub(crate) struct Job {
    /// Number of the job, from 1.
    pub number: u64,
    pub change: Change,
    /// Agent that has requested it; `None` for an administrator.
    pub owner: Option<AgentId>,
    pub started: UnixMillis,
    /// Number of deliveries that the change applied to.
    changed: AtomicU64,
    /// Number of deliveries that matched the filter.
    matched: AtomicU64,
    has_ended: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Job {
    pub(crate) fn changed(&self) -> u64 {
        self.changed.load(Ordering::Relaxed)
    }

    pub(crate) fn matched(&self) -> u64 {
        self.matched.load(Ordering::Relaxed)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Returns the reason why it ended early.
    pub(crate) fn failure(&self) -> Option<String> {
        let failure = self.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Jobs {
    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        self.lock().iter().cloned().collect()
    }

    /// Adds a job. Returns `None` while too many run.
    fn add(&self, change: Change, owner: Option<AgentId>, started: UnixMillis) -> Option<Arc<Job>> {
        let mut known = self.lock();
        let of_owner = |job: &&Arc<Job>| !job.has_ended() && job.owner == owner;
        let running = known.iter().filter(of_owner).count();
        let most = if owner.is_some() { 1 } else { RUNNING_JOBS };
        if running >= most {
            return None;
        }

        // Those that run stay in the list.
        while known.len() >= KNOWN_JOBS
            && let Some(ended) = known.iter().position(|job| job.has_ended())
        {
            known.remove(ended);
        }
        let job = Arc::new(Job {
            number: self.last.fetch_add(1, Ordering::Relaxed) + 1,
            change,
            owner,
            started,
            changed: AtomicU64::new(0),
            matched: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
            failure: Mutex::new(None),
        });
        known.push_back(Arc::clone(&job));
        Some(job)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Job>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Maximum number of an administrator's jobs at the same time. An agent has one.
const RUNNING_JOBS: usize = 4;

/// Number of jobs that are remembered.
const KNOWN_JOBS: usize = 32;

/// Wait of a job while too many queries run.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// Number of deliveries in one commit of a job.
const BATCH: usize = 100;

impl Deliveries {
    /// Starts a change of all deliveries that match now, up to `rate` a second. Returns `None` while
    /// too many jobs run.
    pub(crate) fn change(
        &self,
        filter: DeliveryFilter,
        change: Change,
        rate: u64,
        requester: Requester,
    ) -> Option<Arc<Job>> {
        let job = self
            .0
            .jobs
            .add(change, filter.owner, self.0.parts.clock.now())?;
        let audit = self.0.parts.observer.audit();
        let details = json!({ "job": job.number, "filter": filter.summary() });
        requester.record(audit, change.requested_event(), details);

        let (deliveries, running) = (self.clone(), Arc::clone(&job));
        self.0.parts.tasks.spawn(async move {
            let fields = filter.summary();
            let result = tokio::select! {
                result = deliveries.run(&running, filter, rate) => result,
                () = deliveries.0.parts.stop.cancelled() => Err("the relay stopped".to_owned()),
            };
            let failure = result.err();
            let details = json!({
                "job": running.number,
                "filter": fields,
                "changed": running.changed(),
                "failure": failure,
            });
            let audit = deliveries.0.parts.observer.audit();
            requester.record(audit, change.event(), details);
            *running
                .failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = failure;
            running.has_ended.store(true, Ordering::Relaxed);
        });
        Some(job)
    }

    /// Returns the jobs of this process, oldest first.
    pub(crate) fn jobs(&self) -> Vec<Arc<Job>> {
        self.0.jobs.all()
    }

    async fn run(&self, job: &Job, filter: DeliveryFilter, rate: u64) -> Result<(), String> {
        let batch = usize::try_from(rate).unwrap_or(BATCH).clamp(1, BATCH);
        let mut before = None;
        loop {
            let page = match self.0.parts.store.page(filter.clone(), before, batch).await {
                Ok(page) => page,
                // Other queries of people; they end.
                Err(StorageError::Busy) => {
                    sleep(BUSY_WAIT).await;
                    continue;
                }
                Err(error) => return Err(error.to_string()),
            };
            before = page.rows.last().map(|row| row.seq);
            job.matched
                .fetch_add(page.rows.len() as u64, Ordering::Relaxed);

            let seqs: Vec<_> = page.rows.iter().map(|row| row.seq).collect();
            let mut tunnels: Vec<Arc<str>> = page
                .rows
                .iter()
                .map(|row| row.tunnel.as_str().into())
                .collect();
            tunnels.sort();
            tunnels.dedup();
            let count = self.0.parts.store.change(seqs, job.change).await;
            let count = count.map_err(|error| error.to_string())?;
            job.changed.fetch_add(count as u64, Ordering::Relaxed);
            tunnels.iter().for_each(|tunnel| self.notify(tunnel));

            if !page.has_more {
                return Ok(());
            }
            sleep(Duration::from_secs(1).mul_f64(batch as f64 / rate.max(1) as f64)).await;
        }
    }

    /// Makes the task of a tunnel look into the store.
    pub(super) fn notify(&self, tunnel: &Arc<str>) {
        // A task that is busy looks anyway.
        let _ = self.queue(tunnel).try_send(super::Arrival::Later);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_cannot_take_the_jobs_of_others() {
        let jobs = Jobs::default();
        let add = |owner| jobs.add(Change::Drop, owner, UnixMillis(0));
        let first = add(Some(AgentId::for_tests(1))).unwrap();
        assert!(add(Some(AgentId::for_tests(1))).is_none());
        assert!(add(Some(AgentId::for_tests(2))).is_some());
        assert!((0..RUNNING_JOBS).all(|_| add(None).is_some()));
        assert!(add(None).is_none());

        first.has_ended.store(true, Ordering::Relaxed);
        for _ in 0..KNOWN_JOBS {
            let next = add(Some(AgentId::for_tests(1))).unwrap();
            next.has_ended.store(true, Ordering::Relaxed);
        }
        assert_eq!(jobs.all().len(), KNOWN_JOBS);
        assert!(
            jobs.all()
                .iter()
                .any(|job| job.owner == Some(AgentId::for_tests(2)))
        );
    }
}
