//! The control stream: messages behind their length.

use crate::transport::error::StreamError;
use crate::transport::halves::{RecvHalf, SendHalf};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::poll_fn;

/// The control stream: JSON messages behind their length.
pub struct ControlStream {
    writer: ControlWriter,
    reader: ControlReader,
}

/// The half of it that says something.
pub struct ControlWriter {
    stream: SendHalf,
}

/// The half of it that hears something.
pub struct ControlReader {
    stream: RecvHalf,
    /// Bytes of a message that has not arrived whole.
    partial: Vec<u8>,
}

impl ControlStream {
    pub(crate) const fn new(send: SendHalf, recv: RecvHalf) -> Self {
        Self {
            writer: ControlWriter { stream: send },
            reader: ControlReader {
                stream: recv,
                partial: Vec::new(),
            },
        }
    }

    /// Both halves, for who has to hear while a large message is on its way.
    pub const fn halves(&mut self) -> (&mut ControlWriter, &mut ControlReader) {
        (&mut self.writer, &mut self.reader)
    }

    /// [`ControlWriter::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send<M: Serialize>(&mut self, message: &M) -> Result<(), StreamError> {
        self.writer.send(message).await
    }

    /// [`ControlReader::receive`].
    ///
    /// # Errors
    /// As there.
    pub async fn receive<M: DeserializeOwned>(&mut self, cap: usize) -> Result<M, StreamError> {
        self.reader.receive(cap).await
    }

    /// Ends this side and waits until the peer has taken everything, or is gone.
    pub async fn finish(mut self) {
        self.writer.stream.finish_and_settle().await;
    }
}

impl ControlWriter {
    /// Sends a message. Cancelled in its middle, nothing can be said any more.
    ///
    /// # Errors
    /// [`StreamError`].
    pub async fn send<M: Serialize>(&mut self, message: &M) -> Result<(), StreamError> {
        let json = serde_json::to_vec(message)
            .map_err(|error| StreamError::Protocol(error.to_string()))?;
        let length = u32::try_from(json.len())
            .map_err(|_| StreamError::TooLarge(json.len(), u32::MAX as usize))?;
        let mut pieces = [
            Bytes::copy_from_slice(&length.to_be_bytes()),
            Bytes::from(json),
        ];

        self.stream.write(&mut pieces, false).await
    }
}

impl ControlReader {
    /// The next message of at most `cap` bytes. Cancelling it loses nothing.
    ///
    /// # Errors
    /// [`StreamError`]; `Aborted` also when the stream has ended.
    pub async fn receive<M: DeserializeOwned>(&mut self, cap: usize) -> Result<M, StreamError> {
        const LENGTH: usize = 4;

        loop {
            if let Some((length, rest)) = self.partial.split_first_chunk::<LENGTH>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > cap {
                    return Err(StreamError::TooLarge(length, cap));
                }

                if let Some(json) = rest.get(..length) {
                    // What stands in the message is the peer's, and may be a secret: it is not
                    // repeated.
                    let message = serde_json::from_slice(json).map_err(|error| {
                        let (line, column) = (error.line(), error.column());
                        StreamError::Protocol(format!(
                            "a message that can't be read ({:?}, {line}:{column})",
                            error.classify()
                        ))
                    });

                    self.partial.drain(..LENGTH + length);
                    return message;
                }
            }

            match poll_fn(|cx| self.stream.poll_read(cx)).await? {
                Some(bytes) => self.partial.extend_from_slice(&bytes),
                None => return Err(StreamError::Aborted),
            }
        }
    }
}
