//! Notices changes of agents in the state file, which the command `hookward-relay agent` makes in
//! another process.

use std::time::Duration;

use hookward_runtime::interval::every;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::storage::Store;

/// Sends the number of changes whenever it grows, until `stop` is cancelled.
pub(crate) async fn watch(store: Store, revision: watch::Sender<u64>, stop: CancellationToken) {
    let mut reads = every(READ_INTERVAL);
    loop {
        tokio::select! {
            _ = reads.tick() => {}
            () = stop.cancelled() => return,
        }
        // Each session reviews its agent every few seconds in any case.
        if let Ok(read) = store.run(Store::agents_revision).await {
            revision.send_if_modified(|known| std::mem::replace(known, read) != read);
        }
    }
}

/// Interval of reads: sessions of a revoked agent end within a second.
const READ_INTERVAL: Duration = Duration::from_millis(250);
