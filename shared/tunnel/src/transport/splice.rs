//! Carries an upgraded connection (WebSocket) over an exchange: bytes both ways, until both sides
//! have ended or nothing moves for too long. An end passes on as an end, a break as a break.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::protocol::frame::Frame;
use crate::transport::stream::{MessageReader, MessageWriter};

/// Something broke: both halves are dropped, which resets the stream.
struct SpliceError;

/// When something moved last, for both directions.
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

    /// Resolves when nothing has moved for this long.
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

/// Carries bytes between a connection and the tunnel. The two directions are independent: one that
/// can't write does not keep the other from reading.
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

/// Bytes that are read at once.
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
                // TLS keeps what a full socket does not take, and nothing may follow that would
                // send it.
                to.flush().await.map_err(|_| SpliceError)?;
            }
            Frame::End => return to.shutdown().await.map_err(|_| SpliceError),
            Frame::Head(_) | Frame::Trailers(_) => return Err(SpliceError),
        }
    }
}
