//! Sending half of a control stream: one message at a time, while the link does other work.

use std::pin::Pin;
use std::time::Duration;

use hookward_tunnel::transport::ControlWriter;
use tokio::time::timeout;

use super::{AgentMessage, ConnectionError};

/// Message that is being sent. Resolves to the writer, and the result.
type SendFuture =
    Pin<Box<dyn Future<Output = (ControlWriter, Result<(), ConnectionError>)> + Send>>;

/// Sending half of a control stream. It lives as long as its connection, because dropping the writer
/// would reset the stream.
pub(crate) struct Outbox {
    writer: Option<ControlWriter>,
    /// Message in transit, with the writer.
    sending: Option<SendFuture>,
    /// `true` after a partly sent message: the stream is unusable.
    is_broken: bool,
}

impl Outbox {
    pub(crate) const fn new(writer: ControlWriter) -> Self {
        Self {
            writer: Some(writer),
            sending: None,
            is_broken: false,
        }
    }

    /// Returns `true` if a message can be sent now.
    pub(crate) const fn is_ready(&self) -> bool {
        self.writer.is_some() && !self.is_broken
    }

    /// Returns `true` while a message is in transit.
    pub(crate) const fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Begins to send a message, if the outbox is ready. `silent` is the error of a relay that does
    /// not read it.
    pub(crate) fn send(&mut self, message: AgentMessage, silent: ConnectionError) {
        if self.is_broken {
            return;
        }
        let Some(mut writer) = self.writer.take() else {
            return;
        };

        self.sending = Some(Box::pin(async move {
            let sent = match timeout(SEND_TIMEOUT, writer.send(&message)).await {
                Ok(sent) => sent.map_err(ConnectionError::from),
                Err(_) => Err(silent),
            };
            (writer, sent)
        }));
    }

    /// Waits until the message in transit is sent, or forever without one. Cancel-safe.
    pub(crate) async fn sent(&mut self) -> Result<(), ConnectionError> {
        let Some(sending) = &mut self.sending else {
            return std::future::pending().await;
        };

        let (writer, sent) = sending.await;
        (self.writer, self.sending) = (Some(writer), None);
        self.is_broken |= sent.is_err();
        sent
    }
}

/// Timeout for sending a message: a policy of 3 MiB over 42 kbit/s, while the old one is in force.
const SEND_TIMEOUT: Duration = Duration::from_secs(600);
