//! Access to the API.
//!
//! A request over TCP needs a bearer token (RFC 6750), or the token as the password of Basic
//! authentication (RFC 7617), for which browsers ask, and which they keep apart for each port. A Unix
//! socket is protected by its mode instead.
//! A page of another site must not reach the API through the user's browser, so the `Host` of a
//! request is an address or `localhost` (DNS rebinding), and its `Origin`, if there is one, is the
//! same host (CSRF). Other sites can only link to the pages of a navigation.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use hookward_core::secret::{Secret, SecretDigest};
use hookward_core::text::{Escaped, shown_path};
use hookward_runtime::process::{self, OtherUsers};
use serde_json::json;

use super::local_user::LocalUser;
use super::slots::Slot;
use crate::audit::{AuditLog, Causer, LimitedKind};

/// Peer of a connection. The server adds it to every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// Client over TCP.
    Tcp(SocketAddr),
    /// Process that opened the Unix socket, by its user id.
    Unix(Option<u32>),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(peer) => write!(f, "token from {}", peer.ip()),
            Self::Unix(Some(uid)) => write!(f, "Unix socket, uid {uid}"),
            Self::Unix(None) => write!(f, "Unix socket"),
        }
    }
}

/// Tokens that grant access.
#[derive(Clone)]
pub struct Tokens {
    /// Grants everything.
    pub full: SecretDigest,
    /// Grants metrics and the reasons of health checks.
    pub metrics: SecretDigest,
}

/// Guard of an API.
pub struct Guard {
    /// Tokens that grant access.
    pub tokens: Tokens,
    /// Audit log, which records refused calls.
    pub audit: AuditLog,
}

/// Access that a route needs.
#[derive(Clone)]
pub struct Access {
    guard: Arc<Guard>,
    needs: Needs,
    /// `true` for a listener that has a name in the network.
    has_name: bool,
    /// Pages, for which a browser asks for the token; `None` for programs.
    pages: Option<ProtectedPages>,
}

/// Pages that need the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtectedPages {
    /// Name of the pages, such as `Hookward inspector`.
    pub product: &'static str,
    /// Paths to which other sites can link, each with its name: pages without an act.
    pub links: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing but a harmless `Host` and `Origin`.
    Nothing,
    /// A process of the own user or of root on this machine, or the token for everything.
    OwnUser,
    Metrics,
    Full,
}

impl Access {
    /// Lets every caller in that passes the checks of `Host` and `Origin`.
    #[must_use]
    pub fn open(guard: &Arc<Guard>) -> Self {
        Self::new(guard, Needs::Nothing)
    }

    /// Lets processes of the own user and of root in; others need the token for everything.
    #[must_use]
    pub fn own_user(guard: &Arc<Guard>) -> Self {
        Self::new(guard, Needs::OwnUser)
    }

    /// Needs one of the tokens.
    #[must_use]
    pub fn metrics(guard: &Arc<Guard>) -> Self {
        Self::new(guard, Needs::Metrics)
    }

    /// Needs the token for everything.
    #[must_use]
    pub fn full(guard: &Arc<Guard>) -> Self {
        Self::new(guard, Needs::Full)
    }

    fn new(guard: &Arc<Guard>, needs: Needs) -> Self {
        Self {
            guard: Arc::clone(guard),
            needs,
            has_name: false,
            pages: None,
        }
    }

    /// Lets a browser ask for the token of these pages.
    #[must_use]
    pub fn for_pages(self, pages: ProtectedPages) -> Self {
        Self {
            pages: Some(pages),
            ..self
        }
    }

    /// Accepts every `Host`, for a listener that other machines reach by name.
    #[must_use]
    pub fn under_any_name(self) -> Self {
        Self {
            has_name: true,
            ..self
        }
    }

    /// Returns `true` if the request has the token for metrics, or for everything.
    #[must_use]
    pub fn is_known(&self, caller: Option<&Caller>, headers: &HeaderMap) -> bool {
        self.grants(Needs::Metrics, caller, headers)
    }

    fn grants(&self, needs: Needs, caller: Option<&Caller>, headers: &HeaderMap) -> bool {
        if needs == Needs::Nothing || matches!(caller, Some(Caller::Unix(_))) {
            return true;
        }
        let Some(token) = token_in(headers) else {
            return false;
        };
        let is_full = self.guard.tokens.full.matches(&token);
        is_full || needs == Needs::Metrics && self.guard.tokens.metrics.matches(&token)
    }

    /// Checks that no foreign page sends the request. Links of other sites lead to some pages.
    fn check_source(&self, request: &Request) -> Result<(), &'static str> {
        let headers = request.headers();
        check_host(headers, self.has_name)?;
        let path = request.uri().path();
        let mut linked = self.pages.iter().flat_map(|pages| pages.links);
        let is_linked = linked.any(|(linked, _)| *linked == path);
        match is_linked && is_link(request.method(), headers) {
            true => Ok(()),
            false => check_origin(headers, self.has_name),
        }
    }

    fn record_refusal(&self, request: &Request, reason: &'static str) {
        let Some(Caller::Tcp(peer)) = request.extensions().get::<Caller>() else {
            return;
        };
        let kind = LimitedKind {
            event: "api_refused",
            reason,
        };
        let details = || {
            json!({
                "address": peer.ip(),
                "reason": reason,
                "method": Escaped(request.method().as_str().as_bytes()).to_string(),
                "path": shown_path(request.uri().path().as_bytes()),
            })
        };
        self.guard
            .audit
            .limited(Causer::Stranger, peer.ip(), kind, details);
    }
}

/// Returns the bearer token, or the password of Basic authentication. Any user name will do.
fn token_in(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let space = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = value.split_at_checked(space)?;
    let credentials = rest.get(1..)?;
    if scheme.eq_ignore_ascii_case(b"Bearer") {
        return Some(Cow::Borrowed(credentials));
    }
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let decoded = BASE64.decode(credentials).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(Cow::Owned(decoded.get(colon + 1..)?.to_vec()))
}

/// Middleware that refuses requests without access.
pub async fn check(State(access): State<Access>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let caller = request.extensions().get::<Caller>();
    if let Some(Caller::Tcp(_)) = caller
        && let Err(reason) = access.check_source(&request)
    {
        access.record_refusal(&request, "origin");
        return private(problem(StatusCode::FORBIDDEN, reason));
    }
    let user = request.extensions().get::<LocalUser>();
    let is_own = access.needs == Needs::OwnUser && user.is_some_and(|user| user.is_own());
    if !is_own && !access.grants(access.needs, caller, headers) {
        access.record_refusal(&request, "token");
        return private(unauthorized(access.pages));
    }
    if access.needs != Needs::Nothing
        && let Some(slot) = request.extensions().get::<Arc<Slot>>()
    {
        slot.mark_known();
    }
    private(next.run(request).await)
}

/// Adds the fields that keep a response out of caches and out of other sites.
fn private(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    let nosniff = header::HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    headers.insert(
        header::HeaderName::from_static("cross-origin-resource-policy"),
        header::HeaderValue::from_static("same-origin"),
    );
    response
}

/// Returns the response to a request without access.
fn unauthorized(pages: Option<ProtectedPages>) -> Response {
    // A browser keeps the answer for this port alone, and forgets it at its end.
    let (challenge, detail) = match pages {
        Some(ProtectedPages { product, .. }) => (
            format!(
                "Basic realm=\"{product}: any name, and the token as password\", charset=\"UTF-8\""
            ),
            "the page needs the token of the token file as password, with any name; programs send it \
             as Authorization: Bearer TOKEN",
        ),
        None => (
            "Bearer".to_owned(),
            "send the token of the token file: Authorization: Bearer TOKEN",
        ),
    };
    let mut response = problem(StatusCode::UNAUTHORIZED, detail);
    if let Ok(challenge) = header::HeaderValue::from_str(&challenge) {
        let headers = response.headers_mut();
        headers.insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// Returns `true` if the user follows a link of another site, whose page sees nothing of the answer
/// (Fetch Metadata, W3C).
fn is_link(method: &Method, headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|found| found == value);
    *method == Method::GET
        && is("sec-fetch-mode", "navigate")
        && is("sec-fetch-dest", "document")
        && is("sec-fetch-user", "?1")
        && !headers.contains_key(header::ORIGIN)
}

/// Checks the name under which the server is called. A listener `has_name` if other machines reach it by
/// one, and then every `Host` is fine.
fn check_host(headers: &HeaderMap, has_name: bool) -> Result<(), &'static str> {
    let is_repeated = |name: &header::HeaderName| headers.get_all(name).iter().count() > 1;
    if is_repeated(&header::HOST) || is_repeated(&header::ORIGIN) {
        return Err("a request has one Host, and at most one Origin");
    }
    if !has_name && !is_local_name(host_of(headers)) {
        return Err("the Host of a request is localhost or an IP address (DNS rebinding)");
    }
    Ok(())
}

fn host_of(headers: &HeaderMap) -> &str {
    let host = headers.get(header::HOST);
    host.and_then(|host| host.to_str().ok()).unwrap_or_default()
}

/// Checks that no page of another site or origin sends the request.
fn check_origin(headers: &HeaderMap, has_name: bool) -> Result<(), &'static str> {
    let host = host_of(headers);
    let site = headers
        .get("sec-fetch-site")
        .map(header::HeaderValue::as_bytes);
    if matches!(site, Some(b"cross-site" | b"same-site")) {
        return Err("a page of another site must not use this API (CSRF)");
    }
    match headers.get(header::ORIGIN).map(|origin| origin.to_str()) {
        None => Ok(()),
        Some(Ok(origin)) if origin.strip_prefix("http://") == Some(host) => Ok(()),
        // A server in front may speak https.
        Some(Ok(origin)) if has_name && origin.strip_prefix("https://") == Some(host) => Ok(()),
        Some(_) => Err("a page of another origin must not use this API (CSRF)"),
    }
}

/// Returns `true` for `localhost` and IP addresses, with or without a port: names that no foreign
/// DNS server resolves.
fn is_local_name(host: &str) -> bool {
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let address = host.parse::<SocketAddr>().map(|address| address.ip());
    let address = address.or_else(|_| bracketed.unwrap_or(host).parse::<IpAddr>());
    if let Ok(address) = address {
        // Browsers send no fetch metadata to these, which lead to this machine, too.
        return !address.to_canonical().is_unspecified();
    }
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    name.eq_ignore_ascii_case("localhost") && port.parse::<u16>().is_ok()
}

/// Returns problem details (RFC 9457).
#[must_use]
pub fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or("Error");
    let json = json!({
        "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail,
    });
    let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, content_type, json.to_string()).into_response()
}

/// Failure of a token file.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file failed.
    #[error("token file {}: {source}", .path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// Every user can read the file.
    #[error("every user can read the token file {}: chmod 600 {}", .0.display(), .0.display())]
    Open(PathBuf),
    /// The token is missing, or can be guessed.
    #[error(
        "token file {}: a token has at least {TOKEN_BYTES} characters; remove the file, and the next \
         start creates one", .0.display()
    )]
    Short(PathBuf),
    /// The system's random number generator failed.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// Minimum length of a token, in bytes: 96 bits in Base64.
const TOKEN_BYTES: usize = 16;

/// Returns the token of a file. Creates the file, for its owner alone, if there is none.
///
/// # Errors
/// [`TokenError`].
pub fn token_of(path: &Path) -> Result<Secret, TokenError> {
    let failed = |source| TokenError::File {
        path: path.to_owned(),
        source,
    };
    match create_token(path) {
        Ok(token) => return Ok(token?),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }

    if process::access_of_others(path).map_err(failed)? == OtherUsers::Read {
        return Err(TokenError::Open(path.to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let token = text.trim().as_bytes();
    let token = (token.len() >= TOKEN_BYTES).then(|| Secret::new(token.to_vec()));
    token
        .flatten()
        .ok_or_else(|| TokenError::Short(path.to_owned()))
}

/// Creates a file with a new token. Of two programs that start at the same time, one creates it.
fn create_token(path: &Path) -> io::Result<Result<Secret, getrandom::Error>> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let token = match Secret::generate() {
        Ok(token) => token,
        Err(error) => return Ok(Err(error)),
    };
    file.write_all(token.expose())?;
    file.sync_all()?;
    Ok(Ok(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_names_are_hosts() {
        for host in [
            "localhost",
            "LOCALHOST:4041",
            "127.0.0.1",
            "127.0.0.1:4041",
            "[::1]:4041",
            "[::1]",
            "10.0.0.5:4042",
        ] {
            assert!(is_local_name(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:4041",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "localhost:x",
            "[evil]",
            "0.0.0.0:4041",
            "[::]:4041",
            "[::ffff:0.0.0.0]:4041",
            "[::]",
        ] {
            assert!(!is_local_name(host), "{host}");
        }
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let check = |fields: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, "127.0.0.1:4041".parse().unwrap());
            for (name, value) in fields {
                headers.insert(*name, value.parse().unwrap());
            }
            check_origin(&headers, false).is_ok()
        };
        assert!(check(&[]));
        assert!(check(&[
            ("origin", "http://127.0.0.1:4041"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(!check(&[("origin", "https://evil.example")]));
        assert!(!check(&[("origin", "null")]));
        assert!(!check(&[("origin", "http://127.0.0.1:8000")]));
        assert!(!check(&[("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn links_of_other_sites_lead_to_pages() {
        let passes = |method: Method, dest: &str, user: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("sec-fetch-site", "cross-site".parse().unwrap());
            headers.insert("sec-fetch-mode", "navigate".parse().unwrap());
            headers.insert("sec-fetch-dest", dest.parse().unwrap());
            headers.insert("sec-fetch-user", user.parse().unwrap());
            is_link(&method, &headers)
        };
        assert!(passes(Method::GET, "document", "?1"));
        assert!(!passes(Method::GET, "document", "?0"));
        assert!(!passes(Method::POST, "document", "?1"));
        assert!(!passes(Method::GET, "iframe", "?1"));
    }

    #[test]
    fn a_token_is_a_bearer_token_or_a_password() {
        let token = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            token_in(&headers).map(|token| String::from_utf8(token.into_owned()).unwrap())
        };
        let basic = |text: &str| format!("Basic {}", BASE64.encode(text.as_bytes()));
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("bearer abc").as_deref(), Some("abc"));
        assert_eq!(token(&basic("me:a:b")).as_deref(), Some("a:b"));
        assert_eq!(token(&basic(":abc")).as_deref(), Some("abc"));
        for wrong in ["abc", "Basic abc", &basic("abc"), "Digest abc"] {
            assert_eq!(token(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_named_listener_takes_its_own_pages_only() {
        let passes = |host: &str, origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            check_origin(&headers, true).is_ok()
        };
        assert!(passes("relay.example", "https://relay.example"));
        assert!(passes("relay.example:4041", "http://relay.example:4041"));
        assert!(!passes("relay.example", "https://evil.example"));
        assert!(!passes("relay.example", "null"));
    }

    #[test]
    fn a_token_file_is_private_and_stays() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("admin-token");
        let token = token_of(&path).unwrap();
        assert_eq!(token.expose().len(), 43);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(token_of(&path).unwrap().digest() == token.digest());

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(token_of(&path), Err(TokenError::Open(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, "hunter2\n").unwrap();
        assert!(matches!(token_of(&path), Err(TokenError::Short(_))));
    }
}
