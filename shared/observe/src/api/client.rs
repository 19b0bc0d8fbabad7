//! Client of the API, for the programs' own commands.

use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use hookward_core::text::printable;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
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
    /// The file for the response could not be written.
    #[error("writing failed: {0}")]
    Output(io::Error),
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
    send(socket, method, path, Bytes::new()).await
}

/// Calls a method of the API with a body, as [`call`] does without one.
///
/// # Errors
/// [`CallError`].
pub async fn send<T: DeserializeOwned>(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<T, CallError> {
    let calling = async {
        let connection = Connection::open(socket).await?;
        connection.exchange(method, path, body).await
    };
    let (status, body) = timeout(CALL_TIMEOUT, calling)
        .await
        .map_err(|_| CallError::Timeout)??;
    match status.is_success() {
        true => Ok(serde_json::from_slice(&body)?),
        false => Err(refused(status, &body)),
    }
}

/// Reads a resource of any size, and writes it to `out` while it arrives.
///
/// # Errors
/// [`CallError`].
pub async fn download(socket: &Path, path: &str, out: &mut dyn Write) -> Result<(), CallError> {
    let Connection {
        mut sender,
        mut driver,
    } = Connection::open(socket).await?;
    let request = request(Method::GET, path, Bytes::new())?;
    let mut response = driver
        .run(async { sender.send_request(request).await.map_err(failed) })
        .await?;
    let status = response.status();
    if !status.is_success() {
        let body = driver.run(whole(response.into_body())).await?;
        return Err(refused(status, &body));
    }

    while let Some(frame) = driver
        .run(async { response.frame().await.transpose().map_err(failed) })
        .await?
    {
        if let Ok(data) = frame.into_data() {
            out.write_all(&data).map_err(CallError::Output)?;
        }
    }
    Ok(())
}

fn refused(status: StatusCode, body: &[u8]) -> CallError {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let detail = problem.get("detail").and_then(serde_json::Value::as_str);
    let detail = printable(detail.unwrap_or_default());
    CallError::Refused { status, detail }
}

fn failed(error: hyper::Error) -> CallError {
    CallError::Http(error.to_string())
}

fn request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, CallError> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .body(Full::new(body))
        .map_err(|error| CallError::Http(error.to_string()))
}

async fn whole(body: Incoming) -> Result<Bytes, CallError> {
    let body = Limited::new(body, RESPONSE_BYTES).collect().await;
    let body = body.map_err(|error| CallError::Http(error.to_string()))?;
    Ok(body.to_bytes())
}

/// A connection to the Unix socket of an API.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Driver,
}

/// Future that moves the bytes of a connection. Polled beside each operation, because nothing is
/// spawned.
struct Driver(Pin<Box<dyn Future<Output = Result<(), hyper::Error>> + Send>>);

impl Connection {
    async fn open(socket: &Path) -> Result<Self, CallError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(CallError::Connect)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        Ok(Self {
            sender,
            driver: Driver(Box::pin(connection)),
        })
    }

    async fn exchange(
        self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let Self {
            mut sender,
            mut driver,
        } = self;
        let request = request(method, path, body)?;
        let answering = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            let status = response.status();
            Ok((status, whole(response.into_body()).await?))
        };
        driver.run(answering).await
    }
}

impl Driver {
    /// Runs an operation of the connection, within its deadline.
    async fn run<T>(
        &mut self,
        operation: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let operation = async {
            tokio::select! {
                biased;
                result = operation => result,
                ended = &mut self.0 => Err(match ended {
                    Ok(()) => CallError::Http("the connection closed early".to_owned()),
                    Err(error) => failed(error),
                }),
            }
        };
        let ended = timeout(CALL_TIMEOUT, operation).await;
        ended.map_err(|_| CallError::Timeout)?
    }
}
