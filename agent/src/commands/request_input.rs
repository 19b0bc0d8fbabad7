//! A request that is not received from a network: raw bytes, or curl's flags, for `explain` and
//! `send`.

use std::convert::Infallible;
use std::io::{self, Read as _};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

#[derive(Debug, Clone)]
pub(super) struct RequestInput {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Failure to read a request.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestInputError {
    #[error("{0}: {1}")]
    File(String, io::Error),
    /// The request is too large.
    #[error("{0} has more than {REQUEST_BYTES} bytes")]
    TooLarge(String),
    /// The request is not HTTP.
    #[error("the request is not HTTP/1.1: {0}")]
    NoHttp(String),
    #[error("{0:?} is not a header field; write NAME: VALUE")]
    Field(String),
    #[error("{0:?} is not a method")]
    Method(String),
    #[error("{0:?} is not a URL such as https://hooks.example.com/flexdeploy/webhooks/v1/git/push")]
    Url(String),
}

/// Maximum size of a request, in bytes: the largest body that a check reads, and a head.
const REQUEST_BYTES: u64 = 26 * 1024 * 1024;

/// Reads `@FILE`, `@-` or the text itself.
///
/// # Errors
/// If the file is unreadable.
pub(super) fn data(text: &str) -> Result<Bytes, RequestInputError> {
    match text.strip_prefix('@') {
        Some(name) => file(name).map(Bytes::from),
        None => Ok(Bytes::copy_from_slice(text.as_bytes())),
    }
}

/// Reads a file, or `-` for standard input.
fn file(name: &str) -> Result<Vec<u8>, RequestInputError> {
    let failed = |error| {
        RequestInputError::File(
            if name == "-" {
                "standard input".to_owned()
            } else {
                name.to_owned()
            },
            error,
        )
    };

    let mut bytes = Vec::new();
    let most = REQUEST_BYTES + 1;
    let read = if name == "-" {
        io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(name).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    read.map_err(failed)?;

    if bytes.len() as u64 > REQUEST_BYTES {
        Err(RequestInputError::TooLarge(name.to_owned()))
    } else {
        Ok(bytes)
    }
}

/// Parses header fields in curl's syntax.
///
/// # Errors
/// [`RequestInputError::Field`].
pub(super) fn fields(texts: &[String]) -> Result<HeaderMap, RequestInputError> {
    let mut headers = HeaderMap::new();
    for text in texts {
        let wrong = || RequestInputError::Field(text.clone());
        let (name, value) = text.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        let value = HeaderValue::from_bytes(value.trim_matches([' ', '\t']).as_bytes())
            .map_err(|_| wrong())?;
        headers.append(name, value);
    }

    Ok(headers)
}

/// Parses a method.
///
/// # Errors
/// [`RequestInputError::Method`].
pub(super) fn method(text: &str) -> Result<Method, RequestInputError> {
    Method::from_bytes(text.as_bytes()).map_err(|_| RequestInputError::Method(text.to_owned()))
}

/// Splits a URL into origin and target, byte for byte, without its fragment.
///
/// # Errors
/// [`RequestInputError::Url`].
pub(super) fn split_url(url: &str) -> Result<(String, String), RequestInputError> {
    let wrong = || RequestInputError::Url(url.to_owned());
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if !matches!(scheme, "http" | "https") || authority.is_empty() || authority.contains('@') {
        return Err(wrong());
    }

    let target = if target.starts_with('/') {
        target.to_owned()
    } else {
        format!("/{target}")
    };
    Ok((format!("{scheme}://{authority}"), target))
}

/// Reads raw HTTP/1.1 bytes from a file or `-`, with the relay's parser.
///
/// # Errors
/// [`RequestInputError`].
pub(super) async fn raw(name: &str) -> Result<RequestInput, RequestInputError> {
    parse(&file(name)?).await
}

/// Parses raw HTTP/1.1 bytes.
///
/// # Errors
/// [`RequestInputError::NoHttp`].
pub(super) async fn parse(bytes: &[u8]) -> Result<RequestInput, RequestInputError> {
    let no_http = |what: &dyn std::fmt::Display| RequestInputError::NoHttp(what.to_string());
    // hyper at the other end of an in-memory pipe rejects exactly what the relay rejects.
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    let (found, mut finds) = mpsc::channel(1);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let found = found.clone();
        async move {
            let (parts, body) = request.into_parts();
            let given = body.collect().await.map(|body| RequestInput {
                method: parts.method,
                target: parts
                    .uri
                    .path_and_query()
                    .map_or_else(|| "/".to_owned(), ToString::to_string),
                headers: parts.headers,
                body: body.to_bytes(),
            });
            // Only the first request counts.
            let _ = found.try_send(given);

            Ok::<_, Infallible>(hyper::Response::new(Full::<Bytes>::default()))
        }
    });

    let serving = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(theirs), service);
    let writing = async {
        // A server that has rejected the request reads no more of it.
        let _ = ours.write_all(bytes).await;
        let _ = ours.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut ours, &mut answer).await;
    };
    let (served, ()) = tokio::join!(serving, writing);

    match finds.try_recv() {
        Ok(given) => given.map_err(|error| no_http(&error)),
        Err(_) => Err(no_http(&served.err().map_or_else(
            || "it is not complete".to_owned(),
            |error| error.to_string(),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn raw_bytes_are_read_as_the_relay_reads_them() {
        let given =
            parse(b"POST /a?b=%2e HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nContent-Length: 3\r\n\r\nabc")
                .await
                .unwrap();
        assert_eq!(
            (given.method, given.target.as_str(), given.body.as_ref()),
            (Method::POST, "/a?b=%2e", &b"abc"[..])
        );

        let given =
            parse(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
        assert_eq!(given.unwrap().body.as_ref(), b"abc");
        assert!(parse(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.is_ok());

        for bad in [
            &b""[..],
            b"hello",
            b"GET / HTTP/1.1\r\nHost: h",
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab",
            b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        ] {
            assert!(
                parse(bad).await.is_err(),
                "{}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn urls_are_split_byte_for_byte() {
        let split = |url| split_url(url).unwrap();
        assert_eq!(
            split("https://h:8443/a/?b=%2F#c"),
            ("https://h:8443".into(), "/a/?b=%2F".into())
        );
        assert_eq!(split("http://h"), ("http://h".into(), "/".into()));
        assert_eq!(split("http://h?x"), ("http://h".into(), "/?x".into()));

        for bad in ["h/a", "ftp://h/", "https:///a", "https://u@h/"] {
            assert!(split_url(bad).is_err(), "{bad}");
        }
    }
}
