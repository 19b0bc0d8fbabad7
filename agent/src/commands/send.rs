//! `hookward send`: signs a test webhook as a provider does, and sends it.

use hookward_core::reason::Reason;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hookward_core::clock::Clock;
use hookward_core::secret::SecretReader as _;
use hookward_core::text::printable;
use hookward_gate::providers;
use hookward_gate::sign::{self, DraftRequest, SignError};
use hookward_runtime::secrets::ProcessSecrets;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::cli::{LogFormat, SendArgs};
use crate::commands::request_input::{self, RequestInputError};
use crate::commands::{CommandError, print, print_error};
use crate::exit::Exit;
use crate::upstream::tls;

/// Error of the command line.
#[derive(Debug, thiserror::Error)]
enum SendCommandError {
    #[error(transparent)]
    Given(#[from] RequestInputError),
    #[error("{0}")]
    Provider(Reason),
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// Runs the command.
///
/// # Errors
/// If standard output fails.
pub(super) async fn run(args: SendArgs) -> Result<Exit, CommandError> {
    let prepared = match prepare(&args) {
        Ok(prepared) => prepared,
        Err(wrong) => {
            print_error(LogFormat::Text, &wrong.to_string());
            return Ok(Exit::Usage);
        }
    };

    if args.dry_run {
        print(&shown(&prepared))?;
        return Ok(Exit::Done);
    }

    let connect_to = args.connect_to.as_deref();
    let sending = exchange(prepared, connect_to, args.cacert.as_deref());
    match timeout(TIMEOUT, sending).await {
        Ok(Ok((status, body))) => {
            let body = String::from_utf8_lossy(&body)
                .lines()
                .map(printable)
                .collect::<Vec<_>>()
                .join("\n");
            print(&format!("{status}\n{body}\n"))?;

            Ok(if status.is_success() {
                Exit::Done
            } else {
                Exit::Failed
            })
        }
        Ok(Err(what)) => {
            print_error(LogFormat::Text, &what.to_string());
            Ok(Exit::Failed)
        }
        Err(_) => {
            print_error(
                LogFormat::Text,
                &format!("no response within {} s", TIMEOUT.as_secs()),
            );
            Ok(Exit::Failed)
        }
    }
}

/// Timeout of the whole exchange; no provider waits longer.
const TIMEOUT: Duration = Duration::from_secs(60);

fn prepare(args: &SendArgs) -> Result<DraftRequest, SendCommandError> {
    let (name, variant) = match args.provider.split_once('/') {
        Some((name, variant)) => (name, Some(variant)),
        None => (args.provider.as_str(), None),
    };
    let row = providers::find(name)
        .ok_or_else(|| SendCommandError::Provider(providers::unknown(name).into()))?;
    let schemes = row.pinned(variant).map_err(SendCommandError::Provider)?;
    let secret = ProcessSecrets
        .load(&args.secret)
        .map_err(|error| SendCommandError::Provider(error.to_string().into()))?
        .secret;

    let (origin, target) = request_input::split_url(&args.url)?;
    let (method, body) = (
        request_input::method(&args.method)?,
        request_input::data(&args.data)?,
    );
    let draft = DraftRequest {
        origin,
        target,
        method,
        headers: request_input::fields(&args.header)?,
        body: body.to_vec(),
    };

    let now = Clock::System.now();
    let id = format!("msg_{}", now.0);
    // The first of the provider's schemes that applies to this request.
    let mut first = None;

    for scheme in &schemes {
        match sign::sign(scheme, &row.shape(), &secret, draft.clone(), now, &id) {
            Ok(signed) => return Ok(signed),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }

    Err(first.map_or_else(
        || SendCommandError::Provider(format!("{} has no way of signing", row.name).into()),
        SendCommandError::Sign,
    ))
}

fn shown(draft: &DraftRequest) -> String {
    let DraftRequest {
        origin,
        target,
        method,
        headers,
        body,
    } = draft;
    let host = origin
        .split_once("://")
        .map_or(origin.as_str(), |(_, host)| host);
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n");

    for (name, value) in headers {
        text.push_str(&format!(
            "{name}: {}\r\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }

    text.push_str(&format!(
        "Content-Length: {}\r\n\r\n{}",
        body.len(),
        String::from_utf8_lossy(body)
    ));

    text
}

async fn exchange(
    prepared: DraftRequest,
    connect_to: Option<&str>,
    ca: Option<&Path>,
) -> Result<(http::StatusCode, Bytes), Reason> {
    let (scheme, authority) = prepared
        .origin
        .split_once("://")
        .ok_or("the URL has no scheme")?;
    let (https, preset) = if scheme == "https" {
        (true, 443)
    } else {
        (false, 80)
    };

    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (
            host,
            port.parse()
                .map_err(|_| format!("{port:?} is not a port"))?,
        ),
        _ => (authority, preset),
    };

    let authority = authority.to_owned();
    let failed = |error: &dyn std::fmt::Display| format!("{authority}: {error}");
    let connecting = async {
        match connect_to {
            Some(address) => TcpStream::connect(address).await,
            None => connect(host, port).await,
        }
    };
    let stream = connecting.await.map_err(|error| failed(&error))?;

    if !https {
        return converse(stream, &authority, prepared).await;
    }

    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|error| failed(&error))?;
    let tls = tls::trusting(ca, "--cacert").map_err(|problem| problem.to_string())?;
    let connector = TlsConnector::from(Arc::new(tls));
    let stream = connector.connect(name, stream).await.map_err(|error| {
        let hint = if tls::is_of_unknown_issuer(&error) {
            "; for a self-signed relay: --cacert edge.pem"
        } else {
            ""
        };
        format!("{}{hint}", failed(&error))
    })?;
    converse(stream, &authority, prepared).await
}

/// Connects to the host. Names below `localhost` are this machine (RFC 6761 §6.3), which not every
/// resolver knows.
async fn connect(host: &str, port: u16) -> std::io::Result<TcpStream> {
    if host == "localhost" || host.ends_with(".localhost") {
        return TcpStream::connect((IpAddr::V4(Ipv4Addr::LOCALHOST), port)).await;
    }
    TcpStream::connect((host.trim_matches(['[', ']']), port)).await
}

async fn converse<S>(
    stream: S,
    authority: &str,
    prepared: DraftRequest,
) -> Result<(http::StatusCode, Bytes), Reason>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: &dyn std::fmt::Display| format!("{authority}: {error}");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let mut request = Request::builder()
        .method(prepared.method)
        .uri(&prepared.target)
        .header(header::HOST, authority);
    if let Some(headers) = request.headers_mut() {
        headers.extend(prepared.headers);
    }

    let request = request
        .body(Full::new(Bytes::from(prepared.body)))
        .map_err(|error| failed(&error))?;
    let asking = async {
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| failed(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), RESPONSE_BYTES)
            .collect()
            .await;

        Ok((status, body.map(|body| body.to_bytes()).unwrap_or_default()))
    };

    // The end of the connection does not end the response, which may still be buffered.
    let driving = async {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the relay failed");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = asking => answer,
        () = driving => Err(failed(&"the connection ended").into()),
    }
}

/// Maximum number of bytes of the response to show.
const RESPONSE_BYTES: usize = 64 * 1024;
