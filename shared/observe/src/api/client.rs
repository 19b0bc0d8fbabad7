//! Client of the API, for the programs' own commands.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Failure of a call.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No program serves the API.
    #[error("no answer: {0}")]
    Connect(io::Error),
    /// The connection failed during the call.
    #[error("the call failed: {0}")]
    Http(String),
    /// The program did not answer in time.
    #[error("no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// The program refused the call.
    #[error("refused with status {status}: {detail}")]
    Refused {
        /// Status of the response.
        status: StatusCode,
        /// Reason in words.
        detail: String,
    },
    /// The response has another form: the program has another version.
    #[error("unexpected answer, from another version of the program: {0}")]
    Form(#[from] serde_json::Error),
}

/// Time for a call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum size of a response, in bytes: thousands of tunnels.
const RESPONSE_BYTES: usize = 16 * 1024 * 1024;

/// Calls a method of the API on a Unix socket without a body, and reads the JSON of its response. A
/// token never leaves the program, because another program could listen on a port.
///
/// # Errors
/// [`CallError`].
pub async fn call<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
) -> Result<T, CallError> {
    let calling = async {
        let stream = UnixStream::connect(socket).await;
        exchange(stream.map_err(CallError::Connect)?, method, path).await
    };
    let (status, body) = timeout(CALL_TIMEOUT, calling)
        .await
        .map_err(|_| CallError::Timeout)??;
    if !status.is_success() {
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = problem.get("detail").and_then(serde_json::Value::as_str);
        let detail = detail.unwrap_or_default().to_owned();
        return Err(CallError::Refused { status, detail });
    }
    Ok(serde_json::from_slice(&body)?)
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
) -> Result<(StatusCode, Bytes), CallError> {
    let failed = |error: hyper::Error| CallError::Http(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .body(Empty::<Bytes>::new())
        .map_err(|error| CallError::Http(error.to_string()))?;

    let answering = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), RESPONSE_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| CallError::Http(error.to_string()))?;
        Ok((status, body.to_bytes()))
    };
    tokio::select! {
        biased;
        answer = answering => answer,
        ended = connection => Err(CallError::Http(match ended {
            Ok(()) => "the connection closed early".to_owned(),
            Err(error) => error.to_string(),
        })),
    }
}
