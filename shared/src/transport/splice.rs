//! Carries an upgraded connection (WebSocket) over an exchange: bytes both ways, until both sides have
//! ended or nothing moves for too long. An end passes on as an end, a break as a break.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::stream::{MessageReader, MessageWriter};
use crate::protocol::frame::Frame;

/// Bytes that are read at once.
const PIECE: usize = 16 * 1024;

/// Carries bytes between a connection and the tunnel.
pub async fn splice<S>(connection: S, writer: MessageWriter, mut reader: MessageReader, idle: Duration)
where
    S: AsyncRead + AsyncWrite,
{
    let (mut incoming, mut outgoing) = tokio::io::split(connection);
    let mut buffer = BytesMut::with_capacity(PIECE);
    let mut writer = Some(writer);
    let mut far_open = true;
    while writer.is_some() || far_open {
        // One wait for both directions: the connection is idle when neither moves.
        let moved = timeout(idle, async {
            tokio::select! {
                read = incoming.read_buf(&mut buffer), if writer.is_some() => match read {
                    Ok(0) => match writer.take() {
                        Some(writer) => writer.finish().await.map_err(drop),
                        None => Ok(()),
                    },
                    Ok(_) => match &mut writer {
                        Some(writer) => writer.data(buffer.split().freeze()).await.map_err(drop),
                        None => Ok(()),
                    },
                    Err(_) => Err(()),
                },
                frame = reader.next(), if far_open => match frame {
                    Ok(Frame::Data(data)) => outgoing.write_all(&data).await.map_err(drop),
                    Ok(Frame::End) => {
                        far_open = false;
                        outgoing.shutdown().await.map_err(drop)
                    }
                    Ok(Frame::Head(_) | Frame::Trailers(_)) | Err(_) => Err(()),
                },
            }
        })
        .await;
        if !matches!(moved, Ok(Ok(()))) {
            return; // dropping what is left resets the stream
        }
        buffer.reserve(PIECE);
    }
}
