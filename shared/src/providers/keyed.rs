//! Verifies requests by a [`Scheme`] and its keys: the one interpreter for all providers.
//!
//! Its rules:
//! 1. The bytes are verified as received, before any charset, compression or JSON step.
//! 2. Signatures are compared as decoded bytes and in constant time; hex in either case.
//! 3. No key is empty, no signature is empty, and a repeated signature or timestamp header is refused.
//! 4. The timestamp is signed as the text that was received; the window has two sides.
//! 5. A signed header is not empty, and does not hold the text that separates it from what follows:
//!    otherwise bytes could be moved across the separator under the same signature.
//! 6. A token is no signature: it says who sends, and nothing about the body.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, VerificationAlgorithm,
};
use bytes::Bytes;
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use memchr::memmem;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq as _;

use super::scheme::{Algorithm, Encoding, KeyForm, Part, Scheme, SchemeError, Timestamp, TimestampPlace, header_name};
use crate::clock::UnixMillis;
use crate::secret::{Secret, SecretDigest};

/// Why a signature was not accepted. The text is for the tunnel's owner; it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// A header that the scheme needs is not there.
    #[error("the header {0} is missing")]
    Missing(String),
    /// A header that must stand once stands more than once.
    #[error("the header {0} stands more than once")]
    Repeated(String),
    /// The header can't be read as the scheme writes it.
    #[error("the header {0} is not written as this provider writes it: {1}")]
    Malformed(String, &'static str),
    /// The signature is too old.
    #[error("signed {0} s ago, more than the {1} s allowed (is this machine's clock right?)")]
    Stale(u64, u64),
    /// The signature is from the future.
    #[error("signed {0} s in the future, more than the {1} s allowed (is this machine's clock right?)")]
    Future(u64, u64),
    /// The token is none of the configured secrets.
    #[error("the token is another one than here")]
    OtherToken,
    /// The signature is not that of this body under any configured secret.
    #[error(
        "the signature does not fit the body: another secret at the provider than here, \
         or the body was changed on its way"
    )]
    Mismatch,
}

/// A scheme with its keys: what verifies requests. One key is enough to pass; several are live
/// during a rotation.
pub struct Keyed {
    scheme: Scheme,
    header: HeaderName,
    ts_header: Option<HeaderName>,
    template: Vec<CompiledPart>,
    keys: Vec<Key>,
}

enum CompiledPart {
    Literal(Bytes),
    Body,
    Timestamp,
    Header(HeaderName),
}

/// A key ready for use: an HMAC has taken it in, so that a request only pays for its own bytes.
enum Key {
    Token(SecretDigest),
    Public(ParsedPublicKey),
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
}

/// What the signature's header holds.
struct Candidates<'h> {
    /// The decoded signatures.
    signatures: Vec<Vec<u8>>,
    /// The timestamp's text, if it stands among them.
    timestamp: Option<&'h [u8]>,
}

impl Scheme {
    /// Whether the secret has the form that this provider's secrets have.
    ///
    /// # Errors
    /// [`SchemeError::Key`] or [`SchemeError::EmptyKey`].
    pub fn check_secret(&self, secret: &Secret) -> Result<(), SchemeError> {
        self.key(secret).map(drop)
    }

    /// The scheme with its secrets.
    ///
    /// # Errors
    /// When the scheme contradicts itself or a secret has not the provider's form.
    pub fn keyed(&self, secrets: &[Secret]) -> Result<Keyed, SchemeError> {
        self.check()?;
        let template = self.msg.0.iter().map(Part::compile).collect::<Result<_, _>>()?;
        let ts_header = match &self.ts {
            Some(Timestamp { at: TimestampPlace::Header(name), .. }) => Some(header_name(name)?),
            _ => None,
        };
        let keys = secrets.iter().map(|secret| self.key(secret)).collect::<Result<_, _>>()?;
        let header = header_name(&self.sig.header)?;
        Ok(Keyed { scheme: self.clone(), header, ts_header, template, keys })
    }

    fn key(&self, secret: &Secret) -> Result<Key, SchemeError> {
        let text = secret.expose();
        let key = match self.key {
            KeyForm::Utf8 => text.to_vec(),
            KeyForm::Base64 => BASE64.decode(text).map_err(|_| SchemeError::Key("base64"))?,
            KeyForm::Hex => HEXLOWER_PERMISSIVE.decode(text).map_err(|_| SchemeError::Key("hex"))?,
            KeyForm::Pem => SubjectPublicKeyInfoDer::from_pem_slice(text)
                .map(|key| key.to_vec())
                .map_err(|_| SchemeError::Key("a public key in PEM"))?,
            KeyForm::SpkiBase64 => BASE64.decode(text).map_err(|_| SchemeError::Key("the base64 of a public key"))?,
            KeyForm::Whsec => {
                let text = text.strip_prefix(b"v1,").unwrap_or(text);
                let text = text.strip_prefix(b"whsec_").unwrap_or(text);
                BASE64.decode(text).map_err(|_| SchemeError::Key("whsec_ and base64"))?
            }
        };
        let key = Secret::new(key).ok_or(SchemeError::EmptyKey)?;
        // HMAC takes keys of every length; the empty one is ruled out above.
        let mac = match self.alg {
            Algorithm::Equals => return Ok(Key::Token(key.digest())),
            Algorithm::Ed25519 => return public_key(&ED25519, &key),
            Algorithm::EcdsaP256Sha256 => return public_key(&ECDSA_P256_SHA256_ASN1, &key),
            Algorithm::RsaSha256 => return public_key(&RSA_PKCS1_2048_8192_SHA256, &key),
            Algorithm::HmacSha1 => Hmac::new_from_slice(key.expose()).map(Key::Sha1),
            Algorithm::HmacSha256 => Hmac::new_from_slice(key.expose()).map(Key::Sha256),
            Algorithm::HmacSha384 => Hmac::new_from_slice(key.expose()).map(Key::Sha384),
            Algorithm::HmacSha512 => Hmac::new_from_slice(key.expose()).map(Key::Sha512),
        };
        mac.map_err(|_| SchemeError::EmptyKey)
    }
}

impl Part {
    fn compile(&self) -> Result<CompiledPart, SchemeError> {
        Ok(match self {
            Self::Literal(text) => CompiledPart::Literal(Bytes::copy_from_slice(text.as_bytes())),
            Self::Body => CompiledPart::Body,
            Self::Timestamp => CompiledPart::Timestamp,
            Self::Header(name) => CompiledPart::Header(header_name(name)?),
        })
    }
}

impl Key {
    /// Whether one of the candidates is right. The message is read once, however many there are; the
    /// time taken does not tell which came close.
    fn verify(&self, message: &[&[u8]], candidates: &[Vec<u8>]) -> bool {
        fn run<M: Mac + Clone>(mac: &M, message: &[&[u8]], candidates: &[Vec<u8>]) -> bool {
            let mut mac = mac.clone();
            for part in message {
                mac.update(part);
            }
            let right = mac.finalize().into_bytes();
            any(candidates, |candidate| bool::from(right.ct_eq(candidate)))
        }
        fn any(candidates: &[Vec<u8>], fits: impl Fn(&[u8]) -> bool) -> bool {
            candidates.iter().fold(false, |found, candidate| found | fits(candidate))
        }
        match self {
            Self::Token(token) => any(candidates, |candidate| token.matches(candidate)),
            Self::Public(key) => {
                let message = message.concat();
                any(candidates, |candidate| key.verify_sig(&message, candidate).is_ok())
            }
            Self::Sha1(mac) => run(mac, message, candidates),
            Self::Sha256(mac) => run(mac, message, candidates),
            Self::Sha384(mac) => run(mac, message, candidates),
            Self::Sha512(mac) => run(mac, message, candidates),
        }
    }
}

impl Keyed {
    /// Whether the request is signed by one of the keys, at about `now`.
    ///
    /// # Errors
    /// [`SignatureFault`], for the tunnel's owner.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: UnixMillis) -> Result<(), SignatureFault> {
        let field = single(headers, &self.header)?;
        let candidates = self.candidates(field)?;
        let ts = self.timestamp(headers, candidates.timestamp, now)?;
        let mut message: Vec<&[u8]> = Vec::with_capacity(self.template.len());
        let mut parts = self.template.iter().peekable();
        while let Some(part) = parts.next() {
            message.push(match part {
                CompiledPart::Literal(text) => text,
                CompiledPart::Body => body,
                CompiledPart::Timestamp => ts.unwrap_or_default(),
                CompiledPart::Header(name) => {
                    let value = single(headers, name)?;
                    let ambiguous = match parts.peek() {
                        Some(CompiledPart::Literal(separator)) => memmem::find(value, separator).is_some(),
                        _ => false,
                    };
                    if value.is_empty() || ambiguous {
                        let why = "it is empty or holds what separates it from the rest";
                        return Err(SignatureFault::Malformed(name.to_string(), why));
                    }
                    value
                }
            });
        }
        // No early end: the time taken says nothing about which key came close.
        let fits = self.keys.iter().fold(false, |found, key| found | key.verify(&message, &candidates.signatures));
        match (fits, self.scheme.covers_body()) {
            (true, _) => Ok(()),
            (false, true) => Err(SignatureFault::Mismatch),
            (false, false) => Err(SignatureFault::OtherToken),
        }
    }

    /// The signatures in the header's value, decoded, and the timestamp if it stands among them.
    fn candidates<'h>(&self, field: &'h [u8]) -> Result<Candidates<'h>, SignatureFault> {
        /// Signatures in one header beyond which it is an attack: rotations have two or three.
        const MOST: usize = 8;
        let sig = &self.scheme.sig;
        let malformed = |why| SignatureFault::Malformed(sig.header.clone(), why);
        let members: Vec<&[u8]> = match sig.split {
            Some(separator) => field.split(|byte| char::from(*byte) == separator).collect(),
            None => vec![field],
        };
        let mut candidates = Vec::new();
        let mut timestamps = Vec::new();
        for member in members {
            let value = match (sig.kv, &sig.pick) {
                (Some(kv), Some(pick)) => {
                    let Some(at) = member.iter().position(|byte| char::from(*byte) == kv) else { continue };
                    let (key, value) = member.split_at(at);
                    if let Some(Timestamp { at: TimestampPlace::Signature(name), .. }) = &self.scheme.ts
                        && key == name.as_bytes()
                    {
                        timestamps.push(value.get(1..).unwrap_or_default());
                    }
                    if key != pick.as_bytes() {
                        continue;
                    }
                    value.get(1..).unwrap_or_default()
                }
                _ => member,
            };
            let text = value.strip_prefix(sig.prefix.as_bytes()).ok_or_else(|| malformed("the prefix is another"))?;
            let decoded = match sig.enc {
                Encoding::Hex => HEXLOWER_PERMISSIVE.decode(text).map_err(|_| malformed("not hex")),
                Encoding::Base64 => BASE64.decode(text).map_err(|_| malformed("not base64")),
                Encoding::Base64url => BASE64URL_NOPAD.decode(text).map_err(|_| malformed("not base64url")),
                Encoding::Text => Ok(text.to_vec()),
            }?;
            if decoded.is_empty() {
                return Err(malformed("the signature is empty"));
            }
            candidates.push(decoded);
        }
        match (candidates.len(), timestamps.as_slice()) {
            (0, _) => Err(malformed("no signature of the pinned version")),
            (count, _) if count > MOST => Err(malformed("too many signatures")),
            (_, []) => Ok(Candidates { signatures: candidates, timestamp: None }),
            (_, [ts]) => Ok(Candidates { signatures: candidates, timestamp: Some(ts) }),
            _ => Err(malformed("several timestamps")),
        }
    }

    /// The timestamp's text as received, once it is known to lie within the window.
    fn timestamp<'h>(
        &self,
        headers: &'h HeaderMap,
        in_list: Option<&'h [u8]>,
        now: UnixMillis,
    ) -> Result<Option<&'h [u8]>, SignatureFault> {
        let Some(declared) = &self.scheme.ts else { return Ok(None) };
        let (name, text) = match &self.ts_header {
            Some(name) => (name.as_str(), single(headers, name)?),
            None => {
                let name = self.header.as_str();
                (name, in_list.ok_or_else(|| SignatureFault::Missing(format!("{name} (its timestamp)")))?)
            }
        };
        let at = std::str::from_utf8(text)
            .ok()
            .and_then(|text| declared.unit.seconds(text))
            .ok_or_else(|| SignatureFault::Malformed(name.to_owned(), "not a timestamp"))?;
        let Some(tolerance) = declared.tolerance else { return Ok(Some(text)) };
        let now = now.seconds();
        if now.saturating_sub(at) > tolerance {
            return Err(SignatureFault::Stale(now.saturating_sub(at), tolerance));
        }
        if at.saturating_sub(now) > tolerance {
            return Err(SignatureFault::Future(at.saturating_sub(now), tolerance));
        }
        Ok(Some(text))
    }
}

fn public_key(algorithm: &'static dyn VerificationAlgorithm, key: &Secret) -> Result<Key, SchemeError> {
    let key = ParsedPublicKey::new(algorithm, key.expose()).map_err(|_| SchemeError::PublicKey)?;
    Ok(Key::Public(key))
}

/// The value of a header that must stand exactly once.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h [u8], SignatureFault> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| SignatureFault::Missing(name.to_string()))?;
    match values.next() {
        None => Ok(value.as_bytes()),
        Some(_) => Err(SignatureFault::Repeated(name.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(text: &str) -> Scheme {
        toml::from_str(text).unwrap()
    }

    fn verify(scheme: &Scheme, secret: &str, headers: &[(&'static str, &str)], now: u64) -> Result<(), SignatureFault> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let secret = Secret::new(secret.as_bytes().to_vec()).unwrap();
        scheme.keyed(&[secret]).unwrap().verify(&map, b"body", UnixMillis(now))
    }

    // Digests by Python's hmac: hmac.new(key, message, hash).
    #[test]
    fn algorithms_keys_and_encodings() {
        let cases = [
            ("alg='hmac-sha1'\nsig={header='x', enc='hex'}", "key", "6f6f41b9c7a2ed6da4ed8dc9a1f5c0b1d6f6a2d7", false),
            ("alg='hmac-sha256'\nkey='hex'\nsig={header='x', enc='hex'}", "6b6579", SHA256_HEX, true),
            ("alg='hmac-sha256'\nkey='base64'\nsig={header='x', enc='hex'}", "a2V5", SHA256_HEX, true),
            ("alg='hmac-sha256'\nkey='whsec'\nsig={header='x', enc='base64'}", "whsec_a2V5", SHA256_BASE64, true),
            ("alg='hmac-sha384'\nsig={header='x', enc='hex'}", "key", SHA384_HEX, true),
            ("alg='hmac-sha512'\nsig={header='x', enc='hex'}", "key", SHA512_HEX, true),
            ("alg='hmac-sha1'\nsig={header='x', enc='hex'}", "key", SHA1_HEX, true),
        ];
        for (text, secret, signature, fits) in cases {
            assert_eq!(verify(&scheme(text), secret, &[("x", signature)], 0).is_ok(), fits, "{text}");
        }
    }

    const SHA1_HEX: &str = "70bbf6819d1037aa94ca7e7f537cbea25fe49283";
    const SHA256_HEX: &str = "515aae133b435d4000956731f68ae5cf5eb85d4f0dc6a546d2bfcd3595ec1ae1";
    const SHA256_BASE64: &str = "UVquEztDXUAAlWcx9orlz164XU8NxqVG0r/NNZXsGuE=";
    const SHA384_HEX: &str =
        "9af5e5a8f0a932a9f2d4d4f20b9465aa742b5ad36b921661b00d7ce1dea803702c214535e7ed29f5fcbc495b363c999c";
    const SHA512_HEX: &str = "b71e82b42ece244182aae00f5c418d84b5b0ac844874765e658e91b26261b32df39e9fcbf44424d0e3b53bab192e78a4936224ec940cf953164b70aacdd4c845";
    /// Of `id.1700000000000.body`.
    const TIMED_HEX: &str = "4b4c33baaf7e01ce0531c272cc07b1a3b5176303cc161c2d7184747952322bd3";

    #[test]
    fn lists_with_a_timestamp_inside() {
        let scheme = scheme(
            "alg='hmac-sha256'\nmsg='{header:x-id}.{ts}.{body}'\nts={at='sig:t', unit='ms', tolerance=300}\n\
             sig={header='x', enc='hex', split=',', kv='=', pick='v1'}",
        );
        let now = 1_700_000_000_000;
        let signed = |list: String, now| verify(&scheme, "key", &[("x", &list), ("x-id", "id")], now);
        let good = format!("t={now},v0=00,v1=00,v1={TIMED_HEX}");
        assert_eq!(signed(good.clone(), now), Ok(()));
        assert_eq!(signed(good.clone(), now + 301_000), Err(SignatureFault::Stale(301, 300)));
        assert_eq!(signed(good.clone(), now - 301_000), Err(SignatureFault::Future(301, 300)));
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
        let scheme = scheme("alg='hmac-sha256'\nmsg='{header:x-id}.{body}'\nsig={header='x', enc='hex'}");
        let signature = "eb675fc20edfa3706cb9ffb98805725461ba672ac6af22c4f313b396df1c1275"; // of `id.body`
        assert_eq!(verify(&scheme, "key", &[("x", signature), ("x-id", "id")], 0), Ok(()));
        for id in ["", "i.d"] {
            let fault = verify(&scheme, "key", &[("x", signature), ("x-id", id)], 0).unwrap_err();
            assert!(matches!(fault, SignatureFault::Malformed(..)), "{id}: {fault}");
        }
    }

    #[test]
    fn a_token_is_compared_whole() {
        let token = scheme("alg='equals'\nsig={header='x', enc='text', prefix='Bearer '}");
        assert!(!token.covers_body());
        assert_eq!(verify(&token, "key", &[("x", "Bearer key")], 0), Ok(()));
        for wrong in ["Bearer ke", "Bearer keys", "Bearer KEY", "key", "Bearer "] {
            assert!(verify(&token, "key", &[("x", wrong)], 0).is_err(), "{wrong}");
        }
        let basic = scheme("alg='equals'\nsig={header='x', enc='base64', prefix='Basic '}");
        assert_eq!(verify(&basic, "user:pass", &[("x", "Basic dXNlcjpwYXNz")], 0), Ok(()));
        assert_eq!(verify(&basic, "user:pass", &[("x", "Basic dXNlcjpwYXN6")], 0), Err(SignatureFault::OtherToken));
    }

    #[test]
    fn keys_of_another_form_are_refused() {
        let whsec = scheme("alg='hmac-sha256'\nkey='whsec'\nsig={header='x', enc='hex'}");
        assert!(whsec.check_secret(&Secret::new(b"v1,whsec_a2V5".to_vec()).unwrap()).is_ok());
        for secret in ["whsec_", "not base64"] {
            assert!(whsec.check_secret(&Secret::new(secret.as_bytes().to_vec()).unwrap()).is_err(), "{secret}");
        }
    }
}
