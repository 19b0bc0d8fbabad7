//! Sending a captured request again: as it was, or edited; signed anew by the secrets of its route.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use bytes::Bytes;
use hookward_core::clock::UnixMillis;
use hookward_gate::engine::RequestHead;
use hookward_gate::policy::SignatureCheck;
use hookward_gate::sign::{self, DraftRequest, SignError};
use hookward_tunnel::protocol::head::HeaderCaseBuilder;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::capture::Source;
use super::history::Detail;
use crate::exchange::TunnelBinding;
use crate::exchange::owner::OwnerRequest;
use hookward_gate::redaction::{REDACTED, REDACTED_ESCAPED};

/// A request to send, as its user sees and edits it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header fields, one a line: `Name: value`.
    pub fields: String,
    pub body: Vec<u8>,
}

/// A draft, and what it lacks of the captured request.
pub(crate) struct Restored {
    pub draft: Draft,
    /// Names of header fields and query parameters whose values were redacted, and other places.
    pub missing: Vec<String>,
}

/// Reason why a draft cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DraftError {
    /// The relay did not send the request.
    #[error("the history does not have the request, only its verdict")]
    NoRequest,
    /// The body is cut off.
    #[error("the history has only the first {0} of {1} bytes of the body")]
    CutOff(usize, u64),
    #[error("{0:?} is not a method")]
    Method(String),
    #[error("{0:?} is not a path; it begins with / and has no spaces")]
    Target(String),
    #[error("line {0} is not a header field: write NAME: VALUE")]
    Field(usize),
    #[error("it could not be signed: {0}; send it without a new signature")]
    Sign(#[from] SignError),
}

impl Restored {
    /// Restores a captured request.
    ///
    /// # Errors
    /// [`DraftError`], if a part of it is not in the history.
    pub(crate) fn of(detail: &Detail) -> Result<Self, DraftError> {
        let request = &detail.request;
        if request.head.is_empty() {
            return Err(DraftError::NoRequest);
        }
        if !request.is_whole {
            return Err(DraftError::CutOff(request.body.len(), request.body_bytes));
        }

        let head = request.parts();
        let method = head.start_line.split(' ').next();
        let mut missing = Vec::new();
        let target = without_redacted(head.target().unwrap_or("/"), &mut missing);

        let mut fields = String::new();
        for (name, value) in &head.fields {
            if value == REDACTED {
                missing.push(name.clone());
            } else if !is_computed(name) {
                fields.push_str(&format!("{name}: {value}\n"));
            }
        }
        if request.is_redacted {
            missing.push("values in the body".to_owned());
        }
        Ok(Self {
            draft: Draft {
                method: method.unwrap_or("POST").to_owned(),
                target,
                fields,
                body: request.body.clone(),
            },
            missing,
        })
    }
}

/// Returns `true` for fields that follow from the body.
fn is_computed(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding")
}

/// Removes redacted parameters from a target, and adds their names to `missing`.
fn without_redacted(target: &str, missing: &mut Vec<String>) -> String {
    let Some((path, query)) = target.split_once('?') else {
        return target.to_owned();
    };
    let mut kept = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some((name, REDACTED_ESCAPED)) => missing.push(name.to_owned()),
            _ => kept.push(pair),
        }
    }
    match kept.is_empty() {
        true => path.to_owned(),
        false => format!("{path}?{}", kept.join("&")),
    }
}

/// A draft that is ready to be sent.
pub(crate) struct Prepared {
    pub request: OwnerRequest,
    /// Names of the providers as which it was signed.
    pub signed_by: Vec<String>,
}

impl Draft {
    /// Prepares the draft for a tunnel. With `signs`, it is signed by the secrets of its route, where
    /// the agent has them and they can sign.
    ///
    /// # Errors
    /// [`DraftError`].
    pub(crate) fn prepare(
        self,
        tunnel: &TunnelBinding,
        signs: bool,
        client: Option<IpAddr>,
        (source, now): (Source, UnixMillis),
    ) -> Result<Prepared, DraftError> {
        let method = Method::from_bytes(self.method.trim().as_bytes())
            .map_err(|_| DraftError::Method(self.method.clone()))?;
        let target = self.target.trim().to_owned();
        let is_target =
            target.starts_with('/') && target.bytes().all(|byte| byte > b' ' && byte != 0x7f);
        if !is_target {
            return Err(DraftError::Target(target));
        }
        let (headers, written) = self.headers()?;
        let mut draft = DraftRequest {
            origin: tunnel.origin.to_string(),
            target,
            method,
            headers,
            body: self.body,
        };

        let id = format!("msg_{}", now.0);
        let mut signed_by = Vec::new();
        if signs {
            for check in signing_checks(tunnel, &draft) {
                if let Some(signed) = sign::sign_by(&check, &draft, now, &id)? {
                    draft = signed;
                    signed_by.push(check.title());
                }
            }
        }

        // Equal names are adjacent in the map, as the encoding of their case requires.
        let mut case = HeaderCaseBuilder::new();
        for (name, _) in &draft.headers {
            let spelled = written.get(name).map_or(name.as_str(), String::as_str);
            case.add(spelled.as_bytes(), name);
        }
        let unknown = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Ok(Prepared {
            request: OwnerRequest {
                method: draft.method,
                target: draft.target.into(),
                headers: draft.headers,
                header_case: case.finish(),
                body: Bytes::from(draft.body),
                client: client.unwrap_or(unknown),
                source,
            },
            signed_by,
        })
    }

    /// Parses the header fields. Returns them with their names as written.
    fn headers(&self) -> Result<(HeaderMap, HashMap<HeaderName, String>), DraftError> {
        let (mut headers, mut written) = (HeaderMap::new(), HashMap::new());
        for (number, line) in self.fields.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let wrong = || DraftError::Field(number + 1);
            let (name, value) = line.split_once(':').ok_or_else(wrong)?;
            let spelled = name.trim();
            let name = HeaderName::from_bytes(spelled.as_bytes()).map_err(|_| wrong())?;
            // The host is the tunnel's.
            let is_set = name == header::CONNECTION || name == header::HOST;
            if is_computed(name.as_str()) || is_set {
                continue;
            }
            let value = HeaderValue::from_bytes(value.trim().as_bytes()).map_err(|_| wrong())?;
            written.insert(name.clone(), spelled.to_owned());
            headers.append(name, value);
        }
        Ok((headers, written))
    }
}

/// Returns the checks that a request of this draft's route must pass: those of the first accept rule
/// that has some.
fn signing_checks(tunnel: &TunnelBinding, draft: &DraftRequest) -> Vec<SignatureCheck> {
    let head = RequestHead {
        method: &draft.method,
        target: draft.target.as_bytes(),
        headers: &draft.headers,
        origin: &draft.origin,
    };
    let gate = tunnel.gate.current();
    let policy = tunnel.gate.policy();
    let Some(settings) = gate.settings_for(head) else {
        return Vec::new();
    };

    let routes = policy.policy.routes.iter();
    let mut rules = routes
        .filter(|route| route.name == settings.name)
        .flat_map(|route| &route.accept)
        .map(|rule| rule.verify.clone());
    rules.find(|checks| !checks.is_empty()).unwrap_or_default()
}
