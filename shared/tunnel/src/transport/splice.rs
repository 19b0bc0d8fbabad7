//! Carries an upgraded connection (WebSocket) over an exchange: bytes in both directions, until
//! both sides have ended or the connection is idle for too long. Forwards an end as an end, and an
//! abort as an abort.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::protocol::frame::Frame;
use crate::transport::stream::{MessageReader, MessageWriter};

/// A direction failed: both halves are dropped, which resets the stream.
struct SpliceError;

/// Time of the last activity of both directions.
struct SpliceActivity {
    begin: Instant,
    last_ms: AtomicU64,
}

impl SpliceActivity {
    fn note(&self) {
        self.last_ms.store(self.now(), Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Resolves when both directions were idle for this time.
    async fn over(&self, idle: Duration) {
        loop {
            let quiet = Duration::from_millis(
                self.now()
                    .saturating_sub(self.last_ms.load(Ordering::Relaxed)),
            );
            match idle.checked_sub(quiet) {
                Some(left) if !left.is_zero() => sleep(left).await,
                _ => return,
            }
        }
    }
}

/// Copies bytes between a connection and the tunnel. The directions are independent: a blocked
/// write does not stop the other direction.
pub async fn splice<S>(connection: S, writer: MessageWriter, reader: MessageReader, idle: Duration)
where
    S: AsyncRead + AsyncWrite,
{
    let (incoming, outgoing) = tokio::io::split(connection);
    let activity = SpliceActivity {
        begin: Instant::now(),
        last_ms: AtomicU64::new(0),
    };

    let both = async {
        tokio::try_join!(
            send(incoming, writer, &activity),
            receive(outgoing, reader, &activity)
        )
    };
    tokio::select! {
        _ = both => {}
        () = activity.over(idle) => {}
    }
}

async fn send(
    mut from: impl AsyncRead + Unpin,
    mut to: MessageWriter,
    activity: &SpliceActivity,
) -> Result<(), SpliceError> {
    let mut buffer = BytesMut::with_capacity(PIECE);
    while from.read_buf(&mut buffer).await.map_err(|_| SpliceError)? > 0 {
        activity.note();
        to.data(buffer.split().freeze())
            .await
            .map_err(|_| SpliceError)?;
        buffer.reserve(PIECE);
    }
    to.finish().await.map_err(|_| SpliceError)
}

/// Size of the read buffer, in bytes.
const PIECE: usize = 16 * 1024;

async fn receive(
    mut to: impl AsyncWrite + Unpin,
    mut from: MessageReader,
    activity: &SpliceActivity,
) -> Result<(), SpliceError> {
    loop {
        match from.next().await.map_err(|_| SpliceError)? {
            Frame::Data(data) => {
                activity.note();
                to.write_all(&data).await.map_err(|_| SpliceError)?;
                // TLS buffers what a full socket rejects, and nothing may follow that would send
                // it.
                to.flush().await.map_err(|_| SpliceError)?;
            }
            Frame::End => return to.shutdown().await.map_err(|_| SpliceError),
            Frame::Head(_) | Frame::Trailers(_) => return Err(SpliceError),
        }
    }
}
