//! Waiting for the first of several things of one kind.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// The first of these that is ready, with its position. Never, when there are none.
pub(crate) async fn first<T, F: Future<Output = T> + Unpin>(mut futures: Vec<F>) -> (usize, T) {
    poll_fn(|cx| {
        for (number, future) in futures.iter_mut().enumerate() {
            if let Poll::Ready(value) = Pin::new(future).poll(cx) {
                return Poll::Ready((number, value));
            }
        }
        Poll::Pending
    })
    .await
}
