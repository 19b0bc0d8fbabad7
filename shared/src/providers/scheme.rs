//! A signing scheme, declared as data, and the one interpreter for all of them.
//!
//! Rules of the interpreter:
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
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock::UnixMillis;
use crate::secret::{Secret, SecretDigest};

/// How a provider signs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scheme {
    /// The algorithm.
    pub alg: Algorithm,
    /// What the secret's text means.
    #[serde(default)]
    pub key: KeyForm,
    /// Where the signature stands.
    pub sig: SignatureField,
    /// What is signed.
    #[serde(default)]
    pub msg: Template,
    /// Where the time of signing stands, if it is signed.
    #[serde(default)]
    pub ts: Option<Timestamp>,
}

/// A message authentication code (RFC 2104), a signature that a public key verifies, or a shared token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// No signature: the field is the secret itself.
    #[serde(rename = "equals")]
    Equals,
    /// HMAC with SHA-1: weak as a hash, sound in HMAC; some providers have nothing else.
    #[serde(rename = "hmac-sha1")]
    HmacSha1,
    /// HMAC with SHA-256.
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC with SHA-384.
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC with SHA-512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
    /// Ed25519 (RFC 8032): the provider signs, the public key verifies.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ECDSA over P-256 with SHA-256, the signature in DER (RFC 3279 §2.2.3).
    #[serde(rename = "ecdsa-p256-sha256")]
    EcdsaP256Sha256,
    /// RSA with SHA-256 (PKCS #1 v1.5, RFC 8017 §8.2).
    #[serde(rename = "rsa-sha256")]
    RsaSha256,
}

impl Algorithm {
    /// Whether the key is a public one: it verifies and can't sign.
    #[must_use]
    pub const fn is_public(self) -> bool {
        matches!(self, Self::Ed25519 | Self::EcdsaP256Sha256 | Self::RsaSha256)
    }
}

/// What the secret's text means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyForm {
    /// Its bytes are the key.
    #[default]
    Utf8,
    /// It is the base64 of the key.
    Base64,
    /// It is the hex of the key.
    Hex,
    /// A public key in PEM (RFC 7468).
    Pem,
    /// The base64 of a public key (SubjectPublicKeyInfo, RFC 5280 §4.1.2.7).
    SpkiBase64,
    /// Standard Webhooks: an optional `v1,`, an optional `whsec_`, then base64.
    Whsec,
}

/// Where the signature stands, and how it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureField {
    /// The header.
    pub header: String,
    /// The encoding of the signature's bytes.
    pub enc: Encoding,
    /// Text before the signature: required, compared exactly.
    #[serde(default)]
    pub prefix: String,
    /// What separates the members of a list.
    #[serde(default)]
    pub split: Option<char>,
    /// What separates a member's key from its value.
    #[serde(default)]
    pub kv: Option<char>,
    /// The key of the members that are signatures.
    #[serde(default)]
    pub pick: Option<String>,
}

/// How a signature's bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// Hexadecimal, in either case.
    Hex,
    /// Base64 (RFC 4648 §4), strict.
    Base64,
    /// Base64 with `-` and `_`, without padding (RFC 4648 §5), strict.
    Base64url,
    /// As it is: tokens only.
    Text,
}

/// The time of signing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timestamp {
    /// `header:NAME`, or `sig:KEY` for a member of the signature's list.
    pub at: TimestampPlace,
    /// Its unit.
    pub unit: TimeUnit,
    /// Seconds that it may lie before or after the time of the check; absent where the provider
    /// names no bound (it may send a delivery again, days later, with its first timestamp).
    #[serde(default)]
    pub tolerance: Option<u64>,
}

/// Where a timestamp stands.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum TimestampPlace {
    /// In a header of its own.
    Header(String),
    /// In the signature's list, under this key.
    Signature(String),
}

impl TryFrom<String> for TimestampPlace {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.split_once(':') {
            Some(("header", name)) => Ok(Self::Header(name.to_owned())),
            Some(("sig", key)) => Ok(Self::Signature(key.to_owned())),
            _ => Err("a timestamp stands at header:NAME or sig:KEY"),
        }
    }
}

/// How a time is written: a number of these units since 1970, or a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TimeUnit {
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Not a number but a date and time (RFC 3339); without an offset it is UTC.
    #[serde(rename = "iso8601")]
    Iso8601,
}

impl TimeUnit {
    /// Seconds since 1970; `None` for a text that is no time of this kind.
    fn seconds(self, text: &str) -> Option<u64> {
        let number = || text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        match self {
            Self::Seconds => number(),
            Self::Milliseconds => number().map(|number| number / 1000),
            Self::Iso8601 => {
                let date = OffsetDateTime::parse(text, &Rfc3339);
                let date = date.or_else(|_| OffsetDateTime::parse(&format!("{text}Z"), &Rfc3339)).ok()?;
                u64::try_from(date.unix_timestamp()).ok()
            }
        }
    }
}

/// What is signed: literal text and `{body}`, `{ts}`, `{header:NAME}`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Body,
    Timestamp,
    Header(String),
}

impl Default for Template {
    fn default() -> Self {
        Self(vec![Part::Body])
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text.as_str();
        while let Some((literal, after)) = rest.split_once('{') {
            let (name, tail) = after.split_once('}').ok_or("a `{` is not closed")?;
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            parts.push(match name.split_once(':') {
                None if name == "body" => Part::Body,
                None if name == "ts" => Part::Timestamp,
                Some(("header", name)) => Part::Header(name.to_owned()),
                _ => return Err(format!("unknown placeholder {{{name}}}")),
            });
            rest = tail;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        if !parts.contains(&Part::Body) {
            return Err("the body is not signed".to_owned());
        }
        Ok(Self(parts))
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Literal(text) => f.write_str(text),
            Part::Body => f.write_str("{body}"),
            Part::Timestamp => f.write_str("{ts}"),
            Part::Header(name) => write!(f, "{{header:{name}}}"),
        })
    }
}

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

/// Why a scheme or a secret can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemeError {
    /// A name in the scheme is not a header name.
    #[error("{0:?} is not a header name")]
    HeaderName(String),
    /// The fields of the scheme contradict each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// The secret has not the form that this provider gives its secrets.
    #[error("the secret is not {0}, as this provider's secrets are")]
    Key(&'static str),
    /// The key is none of the algorithm's.
    #[error("the key is no public key of this provider's algorithm")]
    PublicKey,
    /// The decoded key is empty.
    #[error("the secret holds an empty key")]
    EmptyKey,
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
    /// Whether the fields make sense together.
    ///
    /// # Errors
    /// [`SchemeError`] for the first contradiction.
    pub fn check(&self) -> Result<(), SchemeError> {
        header_name(&self.sig.header)?;
        if self.sig.kv.is_some() != self.sig.pick.is_some() {
            return Err(SchemeError::Contradiction("kv and pick go together"));
        }
        let token = self.alg == Algorithm::Equals;
        if token && (self.ts.is_some() || self.msg != Template::default()) {
            return Err(SchemeError::Contradiction("a token signs nothing: neither msg nor ts"));
        }
        let fits = match self.key {
            KeyForm::Pem | KeyForm::SpkiBase64 => self.alg.is_public(),
            KeyForm::Base64 | KeyForm::Hex => !token,
            KeyForm::Utf8 | KeyForm::Whsec => !self.alg.is_public(),
        };
        if !fits {
            return Err(SchemeError::Contradiction("the form of the key is none of the algorithm's"));
        }
        if !token && self.sig.enc == Encoding::Text {
            return Err(SchemeError::Contradiction("a signature is written in hex or base64"));
        }
        let signs_time = self.msg.0.contains(&Part::Timestamp);
        match &self.ts {
            None if signs_time => return Err(SchemeError::Contradiction("{ts} needs ts")),
            Some(_) if !signs_time => {
                return Err(SchemeError::Contradiction("a timestamp that is not signed proves nothing"));
            }
            Some(Timestamp { at: TimestampPlace::Header(name), .. }) => {
                header_name(name)?;
            }
            Some(Timestamp { at: TimestampPlace::Signature(_), .. }) if self.sig.kv.is_none() => {
                return Err(SchemeError::Contradiction("ts at sig:KEY needs kv"));
            }
            _ => {}
        }
        for part in &self.msg.0 {
            if let Part::Header(name) = part {
                header_name(name)?;
            }
        }
        Ok(())
    }

    /// Whether a right signature says anything about the body.
    #[must_use]
    pub const fn covers_body(&self) -> bool {
        !matches!(self.alg, Algorithm::Equals)
    }

    /// What is read and what is signed, in words: pairs of a short name and a text.
    pub fn description(&self) -> impl Iterator<Item = (&'static str, String)> {
        let sig = &self.sig;
        let algorithm = match self.alg {
            Algorithm::Equals => "none: a shared token",
            Algorithm::HmacSha1 => "HMAC-SHA-1",
            Algorithm::HmacSha256 => "HMAC-SHA-256",
            Algorithm::HmacSha384 => "HMAC-SHA-384",
            Algorithm::HmacSha512 => "HMAC-SHA-512",
            Algorithm::Ed25519 => "Ed25519",
            Algorithm::EcdsaP256Sha256 => "ECDSA P-256 with SHA-256",
            Algorithm::RsaSha256 => "RSA with SHA-256",
        };
        let public = self.alg.is_public();
        let secret = match self.key {
            KeyForm::Base64 if public => "the provider's public key, in base64",
            KeyForm::Hex if public => "the provider's public key, in hex",
            KeyForm::Pem => "the provider's public key, in PEM",
            KeyForm::SpkiBase64 => "the provider's public key (SubjectPublicKeyInfo), in base64",
            KeyForm::Utf8 => "text, used as it is",
            KeyForm::Base64 => "base64 of the key",
            KeyForm::Hex => "hex of the key",
            KeyForm::Whsec => "whsec_ and base64 of the key",
        };
        let encoding = match sig.enc {
            Encoding::Hex => "hex",
            Encoding::Base64 => "base64",
            Encoding::Base64url => "base64url",
            Encoding::Text => "token",
        };
        let signed = if self.covers_body() {
            format!("{} (the whole body)", self.msg)
        } else {
            "nothing: whoever knows the token can send any body".to_owned()
        };
        let mut written = format!("{}<{encoding}>", sig.prefix);
        if let (Some(kv), Some(pick)) = (sig.kv, &sig.pick) {
            written = format!("{pick}{kv}{written} among others");
        }
        let time = self.ts.as_ref().map(|ts| {
            let place = match &ts.at {
                TimestampPlace::Header(name) => format!("header {name}"),
                TimestampPlace::Signature(key) => format!("{key} beside the signature"),
            };
            match ts.tolerance {
                Some(seconds) => format!("{place}, within {seconds} s"),
                None => format!("{place}, of any age"),
            }
        });
        [
            ("algorithm", Some(algorithm.to_owned())),
            ("secret", Some(secret.to_owned())),
            ("signature", Some(format!("header {}: {written}", sig.header))),
            ("signed", Some(signed)),
            ("time", time),
        ]
        .into_iter()
        .filter_map(|(what, text)| Some((what, text?)))
    }

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

fn header_name(text: &str) -> Result<HeaderName, SchemeError> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| SchemeError::HeaderName(text.to_owned()))
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
    fn times_are_read_as_their_unit_says() {
        let at = 1_700_000_000;
        for (unit, text, expected) in [
            (TimeUnit::Seconds, "1700000000", Some(at)),
            (TimeUnit::Seconds, "+1700000000", None),
            (TimeUnit::Seconds, "1700000000.5", None),
            (TimeUnit::Milliseconds, "1700000000999", Some(at)),
            (TimeUnit::Iso8601, "2023-11-14T22:13:20Z", Some(at)),
            (TimeUnit::Iso8601, "2023-11-14T22:13:20.123456789Z", Some(at)),
            (TimeUnit::Iso8601, "2023-11-14T15:13:20-07:00", Some(at)),
            (TimeUnit::Iso8601, "2023-11-14T22:13:20.5", Some(at)),
            (TimeUnit::Iso8601, "1700000000", None),
            (TimeUnit::Iso8601, "1969-12-31T23:59:59Z", None),
            (TimeUnit::Iso8601, "", None),
        ] {
            assert_eq!(unit.seconds(text), expected, "{text}");
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
    fn contradictions_and_keys_of_another_form_are_refused() {
        for bad in [
            "alg='hmac-sha256'\nmsg='{ts}{body}'\nsig={header='x', enc='hex'}",
            "alg='hmac-sha256'\nts={at='header:t', unit='s', tolerance=1}\nsig={header='x', enc='hex'}",
            "alg='hmac-sha256'\nsig={header='x', enc='hex', kv='='}",
            "alg='hmac-sha256'\nsig={header='x y', enc='hex'}",
            "alg='hmac-sha256'\nsig={header='x', enc='text'}",
            "alg='equals'\nmsg='{header:y}{body}'\nsig={header='x', enc='text'}",
            "alg='equals'\nkey='hex'\nsig={header='x', enc='text'}",
            "alg='hmac-sha256'\nkey='pem'\nsig={header='x', enc='hex'}",
            "alg='ed25519'\nsig={header='x', enc='hex'}",
        ] {
            assert!(scheme(bad).check().is_err(), "{bad}");
        }
        for bad in ["msg='{header:x}'", "msg='{body'", "msg='{nobody}'"] {
            let text = format!("alg='hmac-sha256'\n{bad}\nsig={{header='x', enc='hex'}}");
            assert!(toml::from_str::<Scheme>(&text).is_err(), "{bad}");
        }
        let whsec = scheme("alg='hmac-sha256'\nkey='whsec'\nsig={header='x', enc='hex'}");
        assert!(whsec.check_secret(&Secret::new(b"v1,whsec_a2V5".to_vec()).unwrap()).is_ok());
        for secret in ["whsec_", "not base64"] {
            assert!(whsec.check_secret(&Secret::new(secret.as_bytes().to_vec()).unwrap()).is_err(), "{secret}");
        }
    }
}
