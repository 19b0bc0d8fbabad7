//! The signature doctor. After a mismatch it tries likely causes, and reports what would have
//! matched to the tunnel's owner, never to the sender. Its work is counted in bytes and bounded.

mod causes;
mod rewrites;

use std::sync::Arc;

use crate::inspection::{Inspection, Kind, Work};
use crate::policy::{ActiveSecret, SignatureCheck};
use crate::providers::SecretShape;
use crate::providers::SignatureError;
use crate::providers::scheme::Scheme;
use crate::providers::verifier::SignatureVerifier;
use crate::request::Request;
use hookward_core::clock::UnixMillis;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::limits::DOCTOR_BYTES;
use hookward_core::secret::Secret;

/// Maximum number of other providers to try.
const MAX_PROVIDERS: usize = 8;

/// Finds causes of a wrong signature. Returns none if the signature matches, or no cause was found.
#[must_use]
pub(crate) fn diagnose(
    check: &SignatureCheck,
    request: &Request<'_>,
    fetched: &FetchedKeys,
    others: &[ActiveSecret],
    now: UnixMillis,
) -> Vec<String> {
    if request.body.len() > BODY_BYTES {
        return Vec::new();
    }

    let (Ok(schemes), shape) = (check.schemes(), check.shape()) else {
        return Vec::new();
    };
    let secrets: Vec<Secret> = check
        .secrets
        .iter()
        .map(|live| live.secret.clone())
        .collect();
    let Ok(keyed) = check.verifier(&schemes, &secrets) else {
        return Vec::new();
    };
    let Err(fault) = keyed.verify(request, fetched, now) else {
        return Vec::new();
    };

    let work = request.inspection.map_or_else(
        || Work::up_to(DOCTOR_BYTES),
        |inspection| Arc::clone(inspection.work()),
    );
    let mut doctor = Doctor {
        check,
        schemes: &schemes,
        shape: &shape,
        secrets: &secrets,
        fetched,
        now,
        work,
        found: Vec::new(),
    };

    doctor.examine(&fault, &keyed, request, others);

    doctor.found
}

/// Maximum body size to try, in bytes, because each try hashes the whole body.
const BODY_BYTES: usize = 256 * 1024;

struct Doctor<'d> {
    check: &'d SignatureCheck,
    schemes: &'d [Scheme],
    shape: &'d SecretShape,
    secrets: &'d [Secret],
    fetched: &'d FetchedKeys,
    now: UnixMillis,
    work: Arc<Work>,
    found: Vec<String>,
}

impl Doctor<'_> {
    /// Tries the causes that match this error.
    fn examine(
        &mut self,
        fault: &SignatureError,
        keyed: &SignatureVerifier,
        request: &Request<'_>,
        others: &[ActiveSecret],
    ) {
        match fault {
            SignatureError::Missing(_) | SignatureError::Required(_) => {
                self.weaker_header(request);
                self.other_provider(request);
            }
            SignatureError::Malformed(..) => self.other_provider(request),
            SignatureError::OtherToken => {
                self.secrets(request, others);
                if self.found.is_empty() {
                    self.token(request);
                    self.other_provider(request);
                }
            }
            SignatureError::Stale(..) | SignatureError::Future(..) => self.clock(keyed, request),
            SignatureError::Mismatch => {
                self.secrets(request, others);
                self.body(request);
                self.url(request);
                self.clock(keyed, request);
                self.compressed(request);

                if self.found.is_empty() {
                    self.other_provider(request);
                    self.odd_secrets();
                }
            }
            _ => {}
        }
    }

    /// Returns `true` if the request verifies with these schemes and secrets.
    fn fits(
        &self,
        schemes: &[Scheme],
        shape: &SecretShape,
        secrets: &[Secret],
        request: &Request<'_>,
    ) -> bool {
        self.fits_at(schemes, shape, secrets, self.check.origin.clone(), request)
    }

    /// Like [`Self::fits`], with another URL.
    fn fits_at(
        &self,
        schemes: &[Scheme],
        shape: &SecretShape,
        secrets: &[Secret],
        origin: Option<String>,
        request: &Request<'_>,
    ) -> bool {
        let keyed = SignatureVerifier::new(schemes, shape, secrets, origin);
        keyed.is_ok_and(|keyed| self.verifies(&keyed, request, self.now))
    }

    /// Returns `true` if the request verifies at that time, and work is left.
    fn verifies(&self, keyed: &SignatureVerifier, request: &Request<'_>, at: UnixMillis) -> bool {
        // Charges the body even if nothing of it is hashed, so that every try counts.
        if self
            .work
            .spend(Kind::Parsed, request.body.len() + ATTEMPT_BYTES)
            .is_err()
        {
            return false;
        }

        let inspection = Inspection::new(Arc::default(), Arc::clone(&self.work));
        keyed
            .verify(&request.inspected(&inspection), self.fetched, at)
            .is_ok()
    }

    fn say(&mut self, what: impl Into<String>) {
        self.found.push(what.into());
    }
}

/// Minimum cost of a try, in bytes, for creating a key.
const ATTEMPT_BYTES: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::RequestHead;
    use http::{HeaderMap, HeaderValue, Method};

    use crate::sign::{DraftRequest, sign};

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn draft(origin: &str, body: &[u8]) -> DraftRequest {
        let (target, headers) = ("/x".to_owned(), HeaderMap::new());
        DraftRequest {
            origin: origin.to_owned(),
            target,
            method: Method::POST,
            headers,
            body: body.to_vec(),
        }
    }

    /// Returns the doctor's hints when a provider signs one body with a secret, and another body
    /// arrives.
    fn say(
        provider: &str,
        signed_with: &[u8],
        here: &[u8],
        signed: &[u8],
        arrived: &[u8],
    ) -> String {
        let row = crate::providers::find(provider).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("inner:8080"));

        let secret = Secret::new(signed_with.to_vec()).unwrap();
        let draft = DraftRequest {
            headers,
            ..draft("https://h.example", signed)
        };
        let made = sign(row.scheme(), &row.shape(), &secret, draft, NOW, "id").unwrap();
        let Request { head, .. } = made.request();
        let live = ActiveSecret {
            name: "env:A".into(),
            secret: Secret::new(here.to_vec()).unwrap(),
        };

        let check = SignatureCheck {
            secrets: vec![live],
            ..SignatureCheck::by(provider)
        };

        diagnose(
            &check,
            &Request::new(head, arrived),
            &FetchedKeys::default(),
            &[],
            NOW,
        )
        .join("; ")
    }

    #[test]
    fn what_is_wrong_with_the_secret() {
        for (signed_with, here, expected) in [
            (&b"key\n"[..], &b"key"[..], "a newline behind it"),
            (b"key", b"a2V5", "decoded as base64"),
            (b"key", b"6b6579", "decoded as hex"),
            (b"key", b" key", "without the space"),
            (b"key", b"\"key\"", "without the quotes"),
            (b"key", b"\xef\xbb\xbfkey", "byte order mark"),
            (b"key", b"\xff\xfek\0e\0y\0\r\0\n\0", "UTF-16"),
            (
                b"key",
                b"ghp_0123456789abcdefghijklmnopqrstuvwxyz",
                "an API key",
            ),
        ] {
            let said = say("github", signed_with, here, b"{}", b"{}");
            assert!(said.contains(expected), "{said}");
        }

        assert_eq!(
            say("github", b"key", b"key", b"{}", b"{}"),
            "",
            "a right one needs no doctor"
        );
    }

    #[test]
    fn what_was_done_to_the_body() {
        for (signed, arrived, expected) in [
            (
                &b"{\"a\": 1, \"b\": \"x, y: \\\"z\"}"[..],
                &b"{\"a\":1,\"b\":\"x, y: \\\"z\"}"[..],
                "with a space",
            ),
            (b"{\"a\":1}", b"{\n  \"a\": 1\n}", "without spaces"),
            (b"{\"a\":1}\n", b"{\"a\":1}", "with a newline"),
            (b"{\"a\":1}", b"{\"a\":1}\r\n", "without the newline"),
            (
                b"{\"a\":\"\\u00e9\"}",
                "{\"a\":\"é\"}".as_bytes(),
                "escaped",
            ),
        ] {
            let said = say("github", b"key", b"key", signed, arrived);
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn which_provider_url_and_time_it_is() {
        let row = |provider: &str| crate::providers::find(provider).unwrap();
        let secret = Secret::new(b"key".to_vec()).unwrap();
        let judged = |check: &str, signer: &str, origin: &str, signed_at: UnixMillis| {
            let (scheme, shape) = (row(signer).scheme(), row(signer).shape());
            let made = sign(
                scheme,
                &shape,
                &secret,
                draft(origin, b"{}"),
                signed_at,
                "id",
            )
            .unwrap();

            let head = RequestHead {
                origin: "https://h.example",
                ..made.request().head
            };
            let live = ActiveSecret {
                name: "env:A".into(),
                secret: secret.clone(),
            };
            let check = SignatureCheck {
                secrets: vec![live],
                ..SignatureCheck::by(check)
            };

            diagnose(
                &check,
                &Request::new(head, b"{}"),
                &FetchedKeys::default(),
                &[],
                NOW,
            )
            .join("; ")
        };
        let said = judged("github", "slack", "https://h.example", NOW);

        assert!(said.contains("provider = \"slack\""), "{said}");
        let said = judged("square", "square", "http://h.example", NOW);
        assert!(said.contains("http instead of https"), "{said}");

        let said = judged(
            "slack",
            "slack",
            "https://h.example",
            UnixMillis(NOW.0 - 3_600_000),
        );
        assert!(said.contains("3600 s ahead"), "{said}");

        let mut headers = HeaderMap::new();
        headers.insert("x-hub-signature", HeaderValue::from_static("sha1=00"));
        let head = RequestHead {
            method: &Method::POST,
            target: b"/x",
            headers: &headers,
            origin: "https://h.example",
        };

        let live = ActiveSecret {
            name: "env:A".into(),
            secret,
        };
        let check = SignatureCheck {
            secrets: vec![live],
            ..SignatureCheck::by("github")
        };

        let said = diagnose(
            &check,
            &Request::new(head, b""),
            &FetchedKeys::default(),
            &[],
            NOW,
        )
        .join("; ");
        assert!(said.contains("SHA-1"), "{said}");
    }

    #[test]
    fn another_secret_of_the_policy() {
        let live = |name: &str, key: &[u8]| ActiveSecret {
            name: name.into(),
            secret: Secret::new(key.to_vec()).unwrap(),
        };
        let row = crate::providers::find("github").unwrap();
        let secret = live("", b"other").secret;

        let made = sign(
            row.scheme(),
            &row.shape(),
            &secret,
            draft("", b"{}"),
            NOW,
            "id",
        )
        .unwrap();

        let check = SignatureCheck {
            secrets: vec![live("env:A", b"key")],
            ..SignatureCheck::by("github")
        };
        let others = [live("env:A", b"key"), live("env:B", b"other")];

        let said = diagnose(
            &check,
            &made.request(),
            &FetchedKeys::default(),
            &others,
            NOW,
        )
        .join("; ");
        assert!(said.contains("env:B"), "{said}");
    }
}
