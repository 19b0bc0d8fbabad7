//! Carries an upgraded connection (WebSocket): bytes both ways, until one side ends it, nothing moves
//! for too long, or the relay stops.

use std::time::Duration;

use bytes::BytesMut;
use hookward_shared::protocol::frame::Frame;
use hookward_shared::transport::{MessageReader, MessageWriter};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// Carries bytes between the sender's connection and the tunnel.
pub async fn relay(
    on_upgrade: OnUpgrade,
    mut writer: MessageWriter,
    mut reader: MessageReader,
    idle: Duration,
    stop: CancellationToken,
) {
    let upgraded = match timeout(idle, on_upgrade).await {
        Ok(Ok(upgraded)) => TokioIo::new(upgraded),
        _ => return,
    };
    let (mut from_sender, mut to_sender) = tokio::io::split(upgraded);
    let mut buffer = BytesMut::with_capacity(PIECE);
    let (mut sender_open, mut agent_open) = (true, true);
    while sender_open || agent_open {
        // One wait for both directions: a connection is idle when neither moves.
        let moved = timeout(idle, async {
            tokio::select! {
                read = from_sender.read_buf(&mut buffer), if sender_open => match read {
                    Ok(0) | Err(_) => { sender_open = false; Ok(()) }
                    Ok(_) => writer.data(buffer.split().freeze()).await.map_err(drop),
                },
                frame = reader.next(), if agent_open => match frame {
                    Ok(Frame::Data(data)) => to_sender.write_all(&data).await.map_err(drop),
                    Ok(Frame::End) => { agent_open = false; to_sender.shutdown().await.map_err(drop) }
                    Ok(Frame::Head(_) | Frame::Trailers(_)) | Err(_) => Err(()),
                },
                () = stop.cancelled() => Err(()),
            }
        })
        .await;
        if !matches!(moved, Ok(Ok(()))) {
            return; // dropping both halves resets the stream
        }
        buffer.reserve(PIECE);
        if !sender_open {
            break;
        }
    }
    // The sender closed: the agent hears an end, and may still say its last words.
    if writer.finish().await.is_ok() {
        while agent_open {
            match timeout(idle, reader.next()).await {
                Ok(Ok(Frame::Data(data))) if to_sender.write_all(&data).await.is_ok() => {}
                _ => agent_open = false,
            }
        }
    }
}
