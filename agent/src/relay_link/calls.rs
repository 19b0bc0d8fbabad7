//! Calls of a relay's API, for the agent's own tunnels. A link takes them and sends them over its
//! control stream.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::AgentMessage;

/// Answer of a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RelayAnswer {
    /// HTTP status.
    pub status: u16,
    /// Body in JSON.
    pub body: String,
}

/// Failure of a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayCallError {
    #[error("too many calls wait for the relay")]
    Busy,
    #[error(
        "the relay did not answer within {} s: it is not connected, or too old",
        CALL_TIMEOUT.as_secs()
    )]
    Timeout,
    #[error("the connection to the relay was lost; repeat the call")]
    Lost,
}

/// A call that waits for a connection.
pub(crate) struct RelayCall {
    pub method: String,
    /// Path and query.
    pub path: String,
    answer: oneshot::Sender<RelayAnswer>,
}

/// Calls that wait, for all links to one relay.
#[derive(Default)]
pub(crate) struct RelayCalls {
    // A std mutex: it guards a short queue, and nothing waits while it is held.
    waiting: Mutex<VecDeque<RelayCall>>,
    arrived: Notify,
}

impl RelayCalls {
    /// Calls a method, and waits for the answer.
    ///
    /// # Errors
    /// [`RelayCallError`].
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
    ) -> Result<RelayAnswer, RelayCallError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.lock();
            waiting.retain(|call| !call.answer.is_closed());
            if waiting.len() >= MAX_WAITING {
                return Err(RelayCallError::Busy);
            }
            waiting.push_back(RelayCall {
                method: method.to_owned(),
                path: path.to_owned(),
                answer,
            });
        }
        self.arrived.notify_one();

        match timeout(CALL_TIMEOUT, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(RelayCallError::Lost),
            Err(_) => Err(RelayCallError::Timeout),
        }
    }

    /// Waits for the next call. Cancel-safe.
    pub(super) async fn next(&self) -> RelayCall {
        loop {
            let (call, has_more) = {
                let mut waiting = self.lock();
                (waiting.pop_front(), !waiting.is_empty())
            };
            if has_more {
                self.arrived.notify_one();
            }
            match call {
                Some(call) if !call.answer.is_closed() => return call,
                Some(_) => {}
                None => self.arrived.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RelayCall>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls over one connection that wait for their answers. They fail with it.
#[derive(Default)]
pub(crate) struct PendingCalls {
    answers: HashMap<u64, oneshot::Sender<RelayAnswer>>,
    last: u64,
}

impl PendingCalls {
    /// Returns the message of a call.
    pub(super) fn begin(&mut self, call: RelayCall) -> AgentMessage {
        // Callers that have given up need no answer.
        self.answers.retain(|_, answer| !answer.is_closed());
        self.last += 1;
        self.answers.insert(self.last, call.answer);
        AgentMessage::Call {
            id: self.last,
            method: call.method,
            path: call.path,
        }
    }

    /// Hands an answer to its caller.
    pub(super) fn answered(&mut self, id: u64, answer: RelayAnswer) {
        if let Some(waiting) = self.answers.remove(&id) {
            // Its caller may have given up.
            let _ = waiting.send(answer);
        }
    }
}

/// Maximum number of calls that wait for a connection.
const MAX_WAITING: usize = 16;

/// Maximum time for an answer: the relay takes up to 8 s, and a client of the API waits for 10 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(9);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_call_gets_its_own_answer() {
        let calls = Arc::new(RelayCalls::default());
        let mut pending = PendingCalls::default();
        let callers: Vec<_> = ["/a", "/b"]
            .into_iter()
            .map(|path| {
                let calls = Arc::clone(&calls);
                tokio::spawn(async move { calls.call("GET", path).await })
            })
            .collect();

        let mut sent = Vec::new();
        for _ in 0..2 {
            let AgentMessage::Call { id, path, .. } = pending.begin(calls.next().await) else {
                panic!("another message");
            };
            sent.push((id, path));
        }
        for (id, path) in sent.into_iter().rev() {
            pending.answered(
                id,
                RelayAnswer {
                    status: 200,
                    body: path,
                },
            );
        }
        for (caller, path) in callers.into_iter().zip(["/a", "/b"]) {
            assert_eq!(caller.await.unwrap().unwrap().body, path);
        }
    }

    #[tokio::test]
    async fn a_lost_connection_fails_its_calls() {
        let calls = Arc::new(RelayCalls::default());
        let caller = tokio::spawn({
            let calls = Arc::clone(&calls);
            async move { calls.call("GET", "/a").await }
        });
        let mut pending = PendingCalls::default();
        let _ = pending.begin(calls.next().await);
        drop(pending);
        let lost = caller.await.unwrap();
        assert!(matches!(lost, Err(RelayCallError::Lost)));
    }
}
