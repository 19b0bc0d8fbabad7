//! The control stream: length-prefixed messages.

use crate::transport::error::StreamError;
use crate::transport::halves::{RecvHalf, SendHalf};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::poll_fn;

/// Control stream of length-prefixed JSON messages.
pub struct ControlStream {
    writer: ControlWriter,
    reader: ControlReader,
}

/// Sending half of the control stream.
pub struct ControlWriter {
    stream: SendHalf,
}

/// Receiving half of the control stream.
pub struct ControlReader {
    stream: RecvHalf,
    /// Bytes of an incomplete message.
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

    /// Splits the stream, to receive while a large message is being sent.
    #[must_use]
    pub fn split(self) -> (ControlWriter, ControlReader) {
        (self.writer, self.reader)
    }

    /// Sends a message, like [`ControlWriter::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send<M: Serialize>(&mut self, message: &M) -> Result<(), StreamError> {
        self.writer.send(message).await
    }

    /// Receives a message, like [`ControlReader::receive`].
    ///
    /// # Errors
    /// As there.
    pub async fn receive<M: DeserializeOwned>(&mut self, cap: usize) -> Result<M, StreamError> {
        self.reader.receive(cap).await
    }

    /// Ends this side, and waits until the peer has received everything or is gone.
    pub async fn finish(&mut self) {
        self.writer.stream.finish_and_settle().await;
    }
}

impl ControlWriter {
    /// Sends a message. Cancelling it makes the stream unusable.
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
    /// Returns the next message, of at most `cap` bytes. Cancel-safe.
    ///
    /// # Errors
    /// [`StreamError`]; `Aborted` also if the stream has ended.
    pub async fn receive<M: DeserializeOwned>(&mut self, cap: usize) -> Result<M, StreamError> {
        const LENGTH: usize = 4;

        loop {
            if let Some((length, rest)) = self.partial.split_first_chunk::<LENGTH>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > cap {
                    return Err(StreamError::TooLarge(length, cap));
                }

                if let Some(json) = rest.get(..length) {
                    // The text is the peer's and may be a secret, so the error does not repeat it.
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
