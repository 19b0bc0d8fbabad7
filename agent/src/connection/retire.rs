//! How a connection ends in order: another one has taken its place, or the agent stops.

use std::time::Duration;

use hookward_shared::limits::CONTROL_BYTES;
use hookward_shared::protocol::control::{FromAgent, FromRelay};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ConnectionError;
use super::line::{Serving, take};

/// For the relay to acknowledge that the agent leaves.
pub(super) const LEAVE: Duration = Duration::from_secs(2);

/// Ends a connection without failing a request: the relay sends nothing more, what is under way ends, then the
/// connection. Once `stop` is cancelled that takes no longer than `drain`.
pub(super) async fn retire(mut serving: Serving, drain: Duration, stop: CancellationToken) {
    if serving.relay_leaves {
        tokio::select! {
            () = serve_out(&mut serving) => return close(&serving).await,
            () = stop.cancelled() => {}
        }
    }
    let told = !serving.mute && matches!(timeout(LEAVE, say_so(&mut serving)).await, Ok(Ok(())));
    let session = serving.found.session.clone();
    let ending = async {
        if told {
            // The relay ends the connection when it has taken all answers. What it gave before it knew is still taken.
            while let Ok(exchange) = session.accept().await {
                take(exchange, &serving.terms, &serving.exchanges);
            }
        } else {
            serving.exchanges.close();
            tokio::select! {
                () = serving.exchanges.wait() => {}
                _ = session.closed() => {}
            }
        }
    };
    let stopping = async {
        stop.cancelled().await;
        sleep(drain).await;
    };
    tokio::select! {
        () = ending => {}
        () = stopping => {}
    }
    close(&serving).await;
}

/// Says that the agent leaves, until the relay has heard it.
async fn say_so(serving: &mut Serving) -> Result<(), ConnectionError> {
    serving.control.send(&FromAgent::Leave).await?;
    loop {
        tokio::select! {
            exchange = serving.found.session.accept() => take(exchange?, &serving.terms, &serving.exchanges),
            message = serving.control.receive::<FromRelay>(CONTROL_BYTES) => {
                if let FromRelay::Left = message? {
                    return Ok(());
                }
            }
        }
    }
}

/// A relay that is about to stop has requests until its last sender has gone, and ends the connection itself.
async fn serve_out(serving: &mut Serving) {
    loop {
        tokio::select! {
            exchange = serving.found.session.accept() => match exchange {
                Ok(exchange) => take(exchange, &serving.terms, &serving.exchanges),
                Err(_) => return,
            },
            // What it says now is of no use, but it must not wait for being heard.
            said = serving.control.receive::<FromRelay>(CONTROL_BYTES) => if said.is_err() { return },
        }
    }
}

async fn close(serving: &Serving) {
    serving.exchanges.close();
    serving.found.session.close("the agent is stopping");
    if let Some(endpoint) = &serving.found.endpoint {
        let _ = timeout(LEAVE, endpoint.wait_idle()).await;
    }
}
