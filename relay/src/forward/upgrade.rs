//! The relay's side of an upgraded connection (WebSocket).

use std::time::Duration;

use hookward_tunnel::transport::{MessageReader, MessageWriter, splice::splice};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Copies bytes between the sender's connection and the tunnel, until one side ends or the drain
/// does.
pub(crate) async fn carry(
    on_upgrade: OnUpgrade,
    writer: MessageWriter,
    reader: MessageReader,
    idle: Duration,
    stop: CancellationToken,
) {
    let Ok(Ok(upgraded)) = timeout(idle, on_upgrade).await else {
        return;
    };
    tokio::select! {
        () = splice(TokioIo::new(upgraded), writer, reader, idle) => {}
        () = stop.cancelled() => {}
    }
}
