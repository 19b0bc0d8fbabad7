//! Algorithms, and encodings of keys.

use serde::{Deserialize, Serialize};

/// Message authentication code (RFC 2104), digest that includes the secret, public-key signature,
/// JSON Web Token (RFC 7519), or shared token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// No signature: the value is the secret itself.
    #[serde(rename = "equals")]
    Equals,
    /// HMAC with MD5: a weak hash, for a provider without an alternative.
    #[serde(rename = "hmac-md5")]
    HmacMd5,
    /// HMAC with SHA-1: a weak hash, but sound in HMAC; some providers have no alternative.
    #[serde(rename = "hmac-sha1")]
    HmacSha1,
    /// HMAC with SHA-256 (RFC 2104).
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC with SHA-384 (RFC 2104).
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC with SHA-512 (RFC 2104).
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
    /// SHA-1 of a text that contains the secret.
    #[serde(rename = "sha1")]
    Sha1,
    /// SHA-256 of a text that contains the secret.
    #[serde(rename = "sha256")]
    Sha256,
    /// Ed25519 (RFC 8032): the provider signs, the public key verifies.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ECDSA over P-256 with SHA-256, the signature in DER (RFC 3279 §2.2.3).
    #[serde(rename = "ecdsa-p256-sha256")]
    EcdsaP256Sha256,
    /// RSA with SHA-1 (PKCS #1 v1.5, RFC 8017 §8.2), for providers without an alternative.
    #[serde(rename = "rsa-sha1")]
    RsaSha1,
    /// RSA with SHA-256 (PKCS #1 v1.5).
    #[serde(rename = "rsa-sha256")]
    RsaSha256,
    /// RSA with SHA-512 (PKCS #1 v1.5).
    #[serde(rename = "rsa-sha512")]
    RsaSha512,
    /// JSON Web Token, signed by an algorithm of `JwtRules`.
    #[serde(rename = "jwt")]
    Jwt,
}

impl Algorithm {
    /// Returns `true` if the key is public: it verifies and cannot sign.
    #[must_use]
    pub const fn is_public(self) -> bool {
        matches!(
            self,
            Self::Ed25519
                | Self::EcdsaP256Sha256
                | Self::RsaSha1
                | Self::RsaSha256
                | Self::RsaSha512
        )
    }

    /// Returns `true` for a plain digest, whose text must contain the secret.
    #[must_use]
    pub(crate) const fn is_digest(self) -> bool {
        matches!(self, Self::Sha1 | Self::Sha256)
    }
}

/// Encoding of the secret's text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyForm {
    /// The text's bytes are the key.
    #[default]
    Utf8,
    /// The text's bytes and an `&` are the key (OAuth 1.0).
    Utf8Amp,
    /// The timestamp's text followed by the text's bytes is the key, computed for each request.
    TsUtf8,
    /// The text's bytes in Unicode's form NFKD are the key.
    Utf8Nfkd,
    /// The text is base64 of the key.
    Base64,
    /// The text is hex of the key.
    Hex,
    /// The SHA-1 of the text is the key.
    Sha1,
    /// The SHA-256 of the text is the key.
    Sha256,
    /// A public key, or a certificate, in PEM (RFC 7468).
    Pem,
    /// The base64 of a public key (SubjectPublicKeyInfo, RFC 5280 §4.1.2.7).
    SpkiBase64,
    /// Standard Webhooks: an optional `v1,`, an optional `whsec_`, then base64.
    Whsec,
    /// Standard Webhooks: `whpk_` and the base64 of a public key.
    Whpk,
    /// A set of public keys (RFC 7517 §5), chosen by the token's `kid`.
    Jwks,
}
