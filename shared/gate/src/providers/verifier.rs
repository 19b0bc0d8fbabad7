//! Verification of requests by [`Scheme`]s and their keys: one interpreter for all providers.
//!
//! Its rules:
//! 1. It verifies the bytes as received, before any charset, compression or JSON step.
//! 2. It compares signatures as decoded bytes, in constant time; hex in either case.
//! 3. It rejects empty keys, empty signatures, and repeated signature or timestamp headers, except
//!    for providers that repeat them.
//! 4. The timestamp is signed as the received text; the window has two sides.
//! 5. A signed value does not contain the separator after it (see `signing_input.rs`).
//! 6. The URL is the tunnel's public one, or the policy's; never the request's.
//! 7. A token is no signature: it identifies the sender, and does not cover the body.
//! 8. Adjacent values without a separator are closed (see `joints.rs`), so that the text can be
//!    split in only one way.
//! 9. A text that a challenge signs for anyone is no event, whatever its signature.
//!
//! A provider may have equivalent schemes (two names of one header, two slots for keys): one match
//! is sufficient. Weaker schemes are variants, which a policy must name.

mod active_key;
mod scheme_verifier;

use sha2::{Digest as _, Sha256};

use self::active_key::ActiveKey;
use self::scheme_verifier::{MAX_PUBLIC, SchemeVerifier, VerifyContext};
use crate::inspection::{Inspection, KeyId};
use crate::providers::Provider;
use crate::providers::challenge::{Challenge, ChallengeAction, ChallengeGuard};
use crate::providers::error::SignatureError;
use crate::providers::key::{SecretParts, SecretShape, VerifyingKey};
use crate::providers::scheme::{Algorithm, Scheme, SchemeError};
use crate::request::Request;
use hookward_core::clock::UnixMillis;
use hookward_core::fetched_keys::FetchedKeys;
use hookward_core::secret::Secret;
use hookward_core::url::HttpsUrl;

/// Result of a successful verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Position of the matching secret; `None` for a fetched key.
    pub secret: Option<usize>,
    /// Digest that is unique for the signed content, regardless of the secret, if requested; `None` for
    /// a token, which signs nothing.
    pub proof: Option<[u8; 32]>,
    /// Position of the matching scheme.
    pub way: usize,
    /// `true` if the scheme is a signature, and not a token.
    pub signs: bool,
}

/// Schemes of a provider, with their keys. One match by one key is sufficient; several keys are
/// valid during a rotation.
pub struct SignatureVerifier {
    schemes: Vec<SchemeVerifier>,
    origin: Option<String>,
    /// Guards of the texts that the provider's challenges sign for any sender.
    chosen_messages: Vec<ChallengeGuard>,
}

impl SignatureVerifier {
    /// Creates a verifier of these schemes and secrets. `origin` replaces the tunnel's public origin if
    /// the URL is signed.
    ///
    /// # Errors
    /// If a scheme contradicts itself, or a secret has the wrong format.
    pub fn new(
        schemes: &[Scheme],
        shape: &SecretShape,
        secrets: &[Secret],
        origin: Option<String>,
    ) -> Result<Self, SchemeError> {
        let parts = secrets
            .iter()
            .map(|secret| shape.split(secret))
            .collect::<Result<Vec<_>, _>>()?;
        let mut ways = Vec::with_capacity(schemes.len());
        let mut last_missing = None;

        for scheme in schemes {
            scheme.check()?;
            let mut live = Vec::new();

            for (index, parts) in parts.iter().enumerate() {
                match ActiveKey::new(scheme, index, parts) {
                    Ok(one) => live.push(one),
                    // A secret may suit one scheme and not another: it lacks a part, or has another
                    // format.
                    Err(error @ (SchemeError::MissingPart(_) | SchemeError::Key(_))) => {
                        last_missing = Some(error)
                    }
                    Err(error) => return Err(error),
                }
            }

            if parts.is_empty() && scheme.fetch.is_some() {
                live.push(ActiveKey::fetched(scheme)?);
            }

            ways.push(SchemeVerifier::new(scheme, live));
        }

        for index in 0..parts.len() {
            let used = ways
                .iter()
                .flat_map(|way| &way.active)
                .any(|live| live.secret == Some(index));
            if !used {
                return Err(last_missing.unwrap_or(SchemeError::EmptyKey));
            }
        }

        Ok(Self {
            schemes: ways,
            origin,
            chosen_messages: Vec::new(),
        })
    }

    /// Returns the verifier for this provider, which rejects texts that the provider's challenges
    /// sign.
    #[must_use]
    pub(crate) fn of_provider(self, row: &Provider) -> Self {
        let signing = row.challenges.iter().filter(|challenge| challenge.signs());
        Self {
            chosen_messages: signing.map(|challenge| challenge.guard.clone()).collect(),
            ..self
        }
    }

    /// Returns the codes and digests over the body that one request may need: pairs of key and
    /// signed text. Equal ones are computed once.
    pub(crate) fn body_hashes(&self) -> impl Iterator<Item = (KeyId, String, usize)> {
        self.schemes
            .iter()
            .filter(|way| way.scheme.alg != Algorithm::Equals)
            .flat_map(|way| {
                let each = if way.scheme.alg.is_public() {
                    MAX_PUBLIC
                } else {
                    1
                };
                let times = each + usize::from(way.scheme.url_ports) + usize::from(way.proves);
                let reads = way.scheme.needs_body();
                let id = |live: &ActiveKey| {
                    live.id
                        .unwrap_or_else(|| VerifyingKey::id(&way.scheme, b"fetched"))
                };

                way.active
                    .iter()
                    .filter(move |_| reads)
                    .map(move |live| (id(live), way.scheme.msg.to_string(), times))
            })
    }

    /// Returns the verifier that also computes proofs ([`Verified::proof`]). Each hashes the signed
    /// content once more.
    #[must_use]
    pub(crate) fn with_proof(mut self, proves: bool) -> Self {
        self.schemes.iter_mut().for_each(|way| way.proves = proves);
        self
    }

    /// Returns the action for a challenge of this provider, if the request is one.
    ///
    /// # Errors
    /// If it must not be answered.
    pub(crate) fn react(
        &self,
        challenge: &Challenge,
        request: &Request<'_>,
        has_body: bool,
    ) -> Result<Option<ChallengeAction>, SignatureError> {
        let mut outcome = Ok(None);
        let none = SecretParts::none();
        let live = self
            .schemes
            .iter()
            .take(1)
            .flat_map(|way| &way.active)
            .map(|live| (&live.parts, live.key.as_ref()));

        // While pairing there is no secret yet.
        let unkeyed = self
            .schemes
            .iter()
            .all(|way| way.active.is_empty())
            .then_some((&none, None));
        for (parts, key) in live.chain(unkeyed) {
            if challenge.matches(request, parts, has_body) {
                outcome = challenge.react(request, parts, key).map(Some);
                if outcome.is_ok() {
                    break;
                }
            }
        }

        outcome
    }

    /// Returns `true` if a scheme needs the body.
    #[must_use]
    pub(crate) fn needs_body(&self) -> bool {
        self.schemes.iter().any(|way| way.scheme.needs_body())
    }

    /// Returns the URLs of the keys for this request.
    ///
    /// # Errors
    /// If the request names a URL that is not the provider's.
    pub(crate) fn wanted(&self, request: &Request<'_>) -> Result<Vec<HttpsUrl>, SignatureError> {
        let mut urls = Vec::new();
        let each = self
            .schemes
            .iter()
            .flat_map(|way| way.active.iter().map(move |live| (way, live)));
        for (way, live) in each.filter(|(_, live)| live.key.is_none()) {
            let Some(source) = &way.scheme.fetch else {
                continue;
            };

            match way.holds(request, &live.parts) {
                Ok(()) => match source.address(request) {
                    Ok(url) => urls.push(url),
                    Err(_) if self.schemes.len() > 1 => {}
                    Err(fault) => return Err(fault),
                },
                Err(_) if self.schemes.len() > 1 => {}
                Err(fault) => return Err(fault),
            }
        }

        Ok(urls)
    }

    /// Verifies the request by one of the schemes and one of the keys, at the time `now`.
    ///
    /// # Errors
    /// [`SignatureError`], for the tunnel's owner.
    pub fn verify(
        &self,
        request: &Request<'_>,
        fetched: &FetchedKeys,
        now: UnixMillis,
    ) -> Result<Verified, SignatureError> {
        let own;
        let request = match request.inspection {
            Some(_) => *request,
            None => {
                own = Inspection::default();
                request.inspected(&own)
            }
        };
        let origin = self.origin.as_deref().unwrap_or(request.head.origin);

        let mut furthest: Option<SignatureError> = None;
        for (index, way) in self.schemes.iter().enumerate() {
            let oracles = self.chosen_messages.as_slice();
            match way.verify(&VerifyContext {
                request: &request,
                origin,
                fetched,
                now,
                chosen_messages: oracles,
            }) {
                Ok((secret, proof)) => {
                    return Ok(Verified {
                        secret,
                        proof,
                        way: index,
                        signs: way.scheme.signs(),
                    });
                }
                Err(fault) => {
                    if furthest
                        .as_ref()
                        .is_none_or(|other| other.progress() < fault.progress())
                    {
                        furthest = Some(fault);
                    }
                }
            }
        }

        Err(furthest.unwrap_or(SignatureError::Mismatch))
    }
}

/// Returns the digest that identifies a token. It excludes an elliptic-curve signature, which has
/// two valid forms.
fn signed_of(token: &[u8], detached: Option<&[u8]>) -> [u8; 32] {
    let signed = token
        .iter()
        .rposition(|byte| *byte == b'.')
        .and_then(|end| token.get(..end))
        .unwrap_or(token);
    let mut digest = Sha256::new();
    digest.update(signed);
    digest.update(detached.unwrap_or_default());

    digest.finalize().into()
}

/// Returns the origin with the port of https added or removed.
fn other_port(origin: &str) -> Option<String> {
    const PORT: &str = ":443";

    let authority = origin.strip_prefix("https://")?;
    match authority.strip_suffix(PORT) {
        Some(host) => Some(format!("https://{host}")),
        None if authority.contains(':') => authority
            .split_once(':')
            .map(|(host, _)| format!("https://{host}")),
        None => Some(format!("{origin}{PORT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method};
    use std::collections::BTreeMap;

    use crate::providers::scheme::Coverage;
    use crate::request::RequestHead;

    fn scheme(text: &str) -> Scheme {
        toml::from_str(text).unwrap()
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.as_bytes().to_vec()).unwrap()
    }

    fn keyed(schemes: &[&str], secrets: &[&str]) -> Result<SignatureVerifier, SchemeError> {
        let schemes: Vec<_> = schemes.iter().map(|text| scheme(text)).collect();
        let secrets: Vec<_> = secrets.iter().map(|text| secret(text)).collect();
        SignatureVerifier::new(&schemes, &SecretShape::default(), &secrets, None)
    }

    fn judge(
        keyed: &SignatureVerifier,
        target: &str,
        headers: &[(&'static str, &str)],
        body: &[u8],
        now: u64,
    ) -> Result<Verified, SignatureError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }

        let head = RequestHead {
            method: &Method::POST,
            target: target.as_bytes(),
            headers: &map,
            origin: "https://h.example",
        };

        keyed.verify(
            &Request::new(head, body),
            &FetchedKeys::default(),
            UnixMillis(now),
        )
    }

    fn verify(
        scheme: &str,
        key: &str,
        headers: &[(&'static str, &str)],
        now: u64,
    ) -> Result<(), SignatureError> {
        judge(
            &keyed(&[scheme], &[key]).unwrap(),
            "/x",
            headers,
            b"body",
            now,
        )
        .map(drop)
    }

    // Digests by Python's hmac: hmac.new(key, message, hash).
    #[test]
    fn algorithms_keys_and_encodings() {
        let cases = [
            (
                "alg='hmac-sha1'\nsig={at='header:x', enc='hex'}",
                "key",
                "6f6f41b9c7a2ed6da4ed8dc9a1f5c0b1d6f6a2d7",
                false,
            ),
            (
                "alg='hmac-sha256'\nkey='hex'\nsig={at='header:x', enc='hex'}",
                "6b6579",
                SHA256_HEX,
                true,
            ),
            (
                "alg='hmac-sha256'\nkey='base64'\nsig={at='header:x', enc='hex'}",
                "a2V5",
                SHA256_HEX,
                true,
            ),
            (
                "alg='hmac-sha256'\nkey='whsec'\nsig={at='header:x', enc='base64'}",
                "whsec_a2V5",
                SHA256_BASE64,
                true,
            ),
            (
                "alg='hmac-sha384'\nsig={at='header:x', enc='hex'}",
                "key",
                SHA384_HEX,
                true,
            ),
            (
                "alg='hmac-sha512'\nsig={at='header:x', enc='hex'}",
                "key",
                SHA512_HEX,
                true,
            ),
            (
                "alg='hmac-sha1'\nsig={at='header:x', enc='hex'}",
                "key",
                SHA1_HEX,
                true,
            ),
            (
                "alg='hmac-md5'\nsig={at='header:x', enc='hex'}",
                "key",
                MD5_HEX,
                true,
            ),
        ];

        for (text, secret, signature, fits) in cases {
            assert_eq!(
                verify(text, secret, &[("x", signature)], 0).is_ok(),
                fits,
                "{text}"
            );
        }
    }

    const MD5_HEX: &str = "5a3cfaf24aa41bb683c6dc14209b7ee5";
    const SHA1_HEX: &str = "70bbf6819d1037aa94ca7e7f537cbea25fe49283";
    const SHA256_HEX: &str = "515aae133b435d4000956731f68ae5cf5eb85d4f0dc6a546d2bfcd3595ec1ae1";
    const SHA256_BASE64: &str = "UVquEztDXUAAlWcx9orlz164XU8NxqVG0r/NNZXsGuE=";
    const SHA384_HEX: &str = "9af5e5a8f0a932a9f2d4d4f20b9465aa742b5ad36b921661b00d7ce1dea803702c214535e7ed29f5fcbc495b363c999c";
    const SHA512_HEX: &str = "b71e82b42ece244182aae00f5c418d84b5b0ac844874765e658e91b26261b32df39e9fcbf44424d0e3b53bab192e78a4936224ec940cf953164b70aacdd4c845";
    const TIMED_HEX: &str = "4b4c33baaf7e01ce0531c272cc07b1a3b5176303cc161c2d7184747952322bd3";

    #[test]
    fn lists_with_a_timestamp_inside() {
        let scheme = "alg='hmac-sha256'\nmsg='{header:x-id}.{ts}.{body}'\nts={at='sig:t', unit='ms', tolerance=300}\n\
                      sig={at='header:x', enc='hex', split=',', kv='=', pick='v1'}";
        let now = 1_700_000_000_000;
        let signed =
            |list: String, now| verify(scheme, "key", &[("x", &list), ("x-id", "id")], now);
        let good = format!("t={now},v0=00,v1=00,v1={TIMED_HEX}");
        assert_eq!(signed(good.clone(), now), Ok(()));

        assert_eq!(
            signed(good.replace(',', ", "), now),
            Ok(()),
            "WorkOS writes a blank after the comma"
        );
        assert_eq!(
            signed(good.clone(), now + 301_000),
            Err(SignatureError::Stale(301, 300))
        );

        assert_eq!(
            signed(good.clone(), now - 301_000),
            Err(SignatureError::Future(301, 300))
        );

        for bad in [
            format!("v1={TIMED_HEX}"),
            format!("t={now}"),
            format!("t={now},t={now},v1={TIMED_HEX}"),
            format!("{good}0"),
        ] {
            assert!(signed(bad.clone(), now).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_signed_can_be_cut_in_one_way_only() {
        let scheme =
            "alg='hmac-sha256'\nmsg='{header:x-id}.{body}'\nsig={at='header:x', enc='hex'}";
        let signature = "eb675fc20edfa3706cb9ffb98805725461ba672ac6af22c4f313b396df1c1275"; // of `id.body`
        assert_eq!(
            verify(scheme, "key", &[("x", signature), ("x-id", "id")], 0),
            Ok(())
        );

        for id in ["", "i.d"] {
            let fault = verify(scheme, "key", &[("x", signature), ("x-id", id)], 0).unwrap_err();
            assert!(
                matches!(fault, SignatureError::Malformed(..)),
                "{id}: {fault}"
            );
        }
    }

    #[test]
    fn a_token_is_compared_whole() {
        let token = "alg='equals'\nsig={at='header:x', enc='text', prefix='Bearer '}";
        assert_eq!(scheme(token).coverage(), Coverage::Nothing);
        assert_eq!(verify(token, "key", &[("x", "Bearer key")], 0), Ok(()));

        for wrong in ["Bearer ke", "Bearer keys", "Bearer KEY", "key", "Bearer "] {
            assert!(verify(token, "key", &[("x", wrong)], 0).is_err(), "{wrong}");
        }

        let basic = "alg='equals'\nsig={at='header:x', enc='base64', prefix='Basic '}";
        assert_eq!(
            verify(basic, "user:pass", &[("x", "Basic dXNlcjpwYXNz")], 0),
            Ok(())
        );
        assert_eq!(
            verify(basic, "user:pass", &[("x", "Basic dXNlcjpwYXN6")], 0),
            Err(SignatureError::OtherToken)
        );
    }

    #[test]
    fn every_item_of_a_batch_must_be_right() {
        let batch = keyed(
            &["alg='equals'\neach='value[*]'\nsig={at='json:state', enc='text'}"],
            &["key"],
        )
        .unwrap();
        let fits = |body: &str| judge(&batch, "/x", &[], body.as_bytes(), 0).is_ok();
        assert!(fits(r#"{"value":[{"state":"key"},{"state":"key"}]}"#));

        for bad in [
            r#"{"value":[{"state":"key"},{"state":"other"}]}"#,
            r#"{"value":[{"state":"key"},{}]}"#,
            r#"{"value":[]}"#,
            r#"{}"#,
        ] {
            assert!(!fits(bad), "{bad}");
        }
    }

    #[test]
    fn a_batch_counts_its_items_once_and_in_any_order() {
        let batch =
            "alg='hmac-sha256'\neach='items[*]'\nmsg='{item:n}'\nsig={at='json:sig', enc='hex'}";
        let batch = keyed(&[batch], &["key"]).unwrap().with_proof(true);
        // By Python's hmac.
        let one =
            r#"{"n":"1","sig":"6da91fb91517be1f5cdcf3af91d7d40c717dd638a306157606fb2e584f7ae926"}"#;
        let two =
            r#"{"n":"2","sig":"ae7b3ee87b8c9214f714df1c2042c7a985b9d711e9938a063937ad1636775a88"}"#;

        let proof = |items: &str| {
            judge(
                &batch,
                "/x",
                &[],
                format!(r#"{{"items":[{items}]}}"#).as_bytes(),
                0,
            )
            .map(|v| v.proof)
        };
        let both = proof(&format!("{one},{two}")).unwrap();
        assert!(both.is_some());

        assert_eq!(proof(&format!("{two},{one}")).unwrap(), both);
        assert!(matches!(
            proof(&format!("{one},{one}")),
            Err(SignatureError::Repeated(_))
        ));
    }

    #[test]
    fn parts_of_a_secret_are_compared_as_they_are() {
        let way = "alg='equals'\nrequire=[{at='header:id', is='{secret:id}'}, {at='header:kind', is='Event'}]\n\
                   part='token'\nsig={at='header:x', enc='text'}";
        let shape = SecretShape {
            parts: BTreeMap::from([
                ("id".to_owned(), String::new()),
                ("token".to_owned(), String::new()),
            ]),
            plain: None,
        };

        let keyed = SignatureVerifier::new(
            &[scheme(way)],
            &shape,
            &[secret(r#"{"id":"AbC","token":"t"}"#)],
            None,
        )
        .unwrap();

        let fits = |id: &str| {
            judge(
                &keyed,
                "/",
                &[("id", id), ("kind", "event"), ("x", "t")],
                b"",
                0,
            )
            .is_ok()
        };
        assert!(fits("AbC"));

        assert!(!fits("abc") && !fits("aBc"));
    }

    #[test]
    fn a_token_is_known_by_what_is_signed() {
        let (one, other) = (signed_of(b"h.p.sig", None), signed_of(b"h.p.gis", None));
        assert_eq!(
            one, other,
            "the signature of a curve can be written in two ways"
        );
        assert_ne!(one, signed_of(b"h.q.sig", None));
        assert_ne!(
            signed_of(b"h..sig", Some(b"a")),
            signed_of(b"h..sig", Some(b"b"))
        );
    }

    #[test]
    fn conditions_and_which_secret_matched() {
        let form = "alg='equals'\nrequire=[{at='header:kind', begins='form'}]\nsig={at='header:x', enc='text'}";
        let keyed = keyed(&[form], &["old", "new"]).unwrap();
        let by =
            |kind: &str, token: &str| judge(&keyed, "/x", &[("kind", kind), ("x", token)], b"", 0);
        assert_eq!(by("Form; a", "new").unwrap().secret, Some(1));
        assert_eq!(by("Form", "old").unwrap().secret, Some(0));
        assert!(matches!(
            by("json", "new"),
            Err(SignatureError::Required(_))
        ));

        assert_eq!(by("form", "neither"), Err(SignatureError::OtherToken));
    }

    #[test]
    fn parts_of_a_secret() {
        let shape = SecretShape {
            parts: BTreeMap::from([
                ("first".to_owned(), String::new()),
                ("second".to_owned(), String::new()),
            ]),
            plain: None,
        };

        let ways = ["first", "second"].map(|part| {
            scheme(&format!(
                "alg='equals'\npart='{part}'\nsig={{at='header:{part}', enc='text'}}"
            ))
        });
        let make = |text: &str| SignatureVerifier::new(&ways, &shape, &[secret(text)], None);
        let both = make(r#"{"first":"a","second":"b"}"#).unwrap();
        assert_eq!(judge(&both, "/", &[("first", "a")], b"", 0).unwrap().way, 0);

        assert_eq!(
            judge(&both, "/", &[("first", "x"), ("second", "b")], b"", 0)
                .unwrap()
                .way,
            1
        );
        assert!(judge(&both, "/", &[("first", "b"), ("second", "a")], b"", 0).is_err());
        assert!(make(r#"{"second":"b"}"#).is_ok());

        for bad in [
            "a",
            "{}",
            r#"{"third":"x"}"#,
            r#"{"first":""}"#,
            r#"{"first":1}"#,
        ] {
            assert!(make(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_of_another_form_are_refused() {
        let whsec = "alg='hmac-sha256'\nkey='whsec'\nsig={at='header:x', enc='hex'}";
        assert!(keyed(&[whsec], &["v1,whsec_a2V5"]).is_ok());
        for secret in ["whsec_", "not base64"] {
            assert!(keyed(&[whsec], &[secret]).is_err(), "{secret}");
        }
    }

    #[test]
    fn the_url_with_its_port_and_without() {
        assert_eq!(other_port("https://a").as_deref(), Some("https://a:443"));
        assert_eq!(other_port("https://a:443").as_deref(), Some("https://a"));
        assert_eq!(other_port("https://a:8443").as_deref(), Some("https://a"));
    }
}
