//! Keys of signatures: parsing of a secret's text, and comparison.

mod secret_parts;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, VerificationAlgorithm,
};
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use sha1::{Digest as _, Sha1};
use sha2::{Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq as _;
use unicode_normalization::UnicodeNormalization as _;

pub(crate) use self::secret_parts::SecretParts;
pub use self::secret_parts::SecretShape;
use crate::inspection::{KeyId, Kind, Numbered, WorkLimitExceeded};
use crate::providers::jwt_key::JwtKey;
use crate::providers::scheme::{Algorithm, KeyForm, Scheme, SchemeError};
use crate::request::Request;
use hookward_core::secret::{Secret, SecretDigest};

/// A key that is ready for use. An HMAC has processed it, so that a request only pays for its own
/// bytes.
pub(crate) enum VerifyingKey {
    Token(SecretDigest),
    Public(ParsedPublicKey),
    Jwt(JwtKey),
    Md5(Hmac<Md5>),
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
    /// A plain digest; the secret is part of the message.
    DigestSha1,
    DigestSha256,
}

impl VerifyingKey {
    /// Parses the key from this text, as the scheme defines.
    pub(crate) fn new(scheme: &Scheme, text: &[u8]) -> Result<Self, SchemeError> {
        if let Some(rules) = &scheme.jwt {
            return JwtKey::new(rules, scheme.key, &decoded(scheme.key, text)?).map(Self::Jwt);
        }

        let key = Secret::new(decoded(scheme.key, text)?).ok_or(SchemeError::EmptyKey)?;
        // HMAC accepts keys of every length; the empty one is rejected above.
        let mac = match scheme.alg {
            Algorithm::Equals => return Ok(Self::Token(key.digest())),
            Algorithm::Sha1 => return Ok(Self::DigestSha1),
            Algorithm::Sha256 => return Ok(Self::DigestSha256),
            Algorithm::Ed25519 => return public_key(&ED25519, &key),
            Algorithm::EcdsaP256Sha256 => return public_key(&ECDSA_P256_SHA256_ASN1, &key),
            Algorithm::RsaSha1 => {
                return public_key(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, &key);
            }
            Algorithm::RsaSha256 => return public_key(&RSA_PKCS1_2048_8192_SHA256, &key),
            Algorithm::RsaSha512 => return public_key(&RSA_PKCS1_2048_8192_SHA512, &key),
            Algorithm::Jwt => {
                return Err(SchemeError::Contradiction(
                    "alg = \"jwt\" and jwt go together",
                ));
            }
            Algorithm::HmacMd5 => Hmac::new_from_slice(key.expose()).map(Self::Md5),
            Algorithm::HmacSha1 => Hmac::new_from_slice(key.expose()).map(Self::Sha1),
            Algorithm::HmacSha256 => Hmac::new_from_slice(key.expose()).map(Self::Sha256),
            Algorithm::HmacSha384 => Hmac::new_from_slice(key.expose()).map(Self::Sha384),
            Algorithm::HmacSha512 => Hmac::new_from_slice(key.expose()).map(Self::Sha512),
        };
        mac.map_err(|_| SchemeError::EmptyKey)
    }

    /// Returns `true` if one of the candidates matches. Reads the message once for symmetric keys,
    /// and once for each candidate for public keys. The time does not reveal a near match. `id` is
    /// the key's, if it has one.
    pub(crate) fn verify(
        &self,
        id: Option<KeyId>,
        message: &Numbered,
        candidates: &[Vec<u8>],
        request: &Request<'_>,
    ) -> Result<bool, WorkLimitExceeded> {
        Ok(match self {
            Self::Token(token) => any(candidates, |sent| token.matches(sent)),
            Self::Public(key) => {
                if let Some(inspection) = request.inspection {
                    inspection.work().spend(
                        Kind::Hashed,
                        message.1.len().saturating_mul(candidates.len()),
                    )?;
                }

                let whole;
                let message = match message.1.slices(request.body).as_slice() {
                    [only] => *only,
                    pieces => {
                        whole = pieces.concat();
                        &whole
                    }
                };

                any(candidates, |candidate| {
                    key.verify_sig(message, candidate).is_ok()
                })
            }
            // `jwt.rs` checks these, by their claims.
            Self::Jwt(_) => false,
            _ => {
                let make = || {
                    self.sign(&message.1.slices(request.body))
                        .unwrap_or_default()
                };
                let mac = match request.inspection {
                    Some(inspection) => inspection.mac(message, id, make)?,
                    None => make().into(),
                };

                !mac.is_empty() && any(candidates, |candidate| bool::from(mac.ct_eq(candidate)))
            }
        })
    }

    /// Returns the id of a key and its algorithm, so that equal keys are used once.
    pub(crate) fn id(scheme: &Scheme, text: &[u8]) -> KeyId {
        let mut digest = Sha256::new();
        digest.update(format!("{:?}/{:?}/", scheme.alg, scheme.key));
        digest.update(text);
        digest.finalize().into()
    }

    /// Signs a message, if the key can sign.
    pub(crate) fn sign(&self, message: &[impl AsRef<[u8]>]) -> Option<Vec<u8>> {
        fn mac<M: Mac + Clone>(mac: &M, message: &[impl AsRef<[u8]>]) -> Vec<u8> {
            let mut mac = mac.clone();
            message.iter().for_each(|part| mac.update(part.as_ref()));
            mac.finalize().into_bytes().to_vec()
        }

        fn digest<D: sha1::Digest>(message: &[impl AsRef<[u8]>]) -> Vec<u8> {
            let mut digest = D::new();
            message.iter().for_each(|part| digest.update(part.as_ref()));
            digest.finalize().to_vec()
        }

        Some(match self {
            Self::Md5(key) => mac(key, message),
            Self::Sha1(key) => mac(key, message),
            Self::Sha256(key) => mac(key, message),
            Self::Sha384(key) => mac(key, message),
            Self::Sha512(key) => mac(key, message),
            Self::DigestSha1 => digest::<Sha1>(message),
            Self::DigestSha256 => digest::<Sha256>(message),
            Self::Token(_) | Self::Public(_) | Self::Jwt(_) => return None,
        })
    }
}

fn any(candidates: &[Vec<u8>], fits: impl Fn(&[u8]) -> bool) -> bool {
    candidates
        .iter()
        .fold(false, |found, candidate| found | fits(candidate))
}

pub(crate) fn decoded(form: KeyForm, text: &[u8]) -> Result<Vec<u8>, SchemeError> {
    let wrong = |what| SchemeError::Key(what);
    Ok(match form {
        KeyForm::Utf8 | KeyForm::TsUtf8 | KeyForm::Jwks => text.to_vec(),
        KeyForm::Utf8Amp => [text, b"&"].concat(),
        KeyForm::Utf8Nfkd => {
            let text = std::str::from_utf8(text).map_err(|_| wrong("text in UTF-8"))?;
            text.nfkd().collect::<String>().into_bytes()
        }
        KeyForm::Base64 => BASE64.decode(text).map_err(|_| wrong("base64"))?,
        KeyForm::Hex => HEXLOWER_PERMISSIVE.decode(text).map_err(|_| wrong("hex"))?,
        KeyForm::Sha1 => Sha1::digest(text).to_vec(),
        KeyForm::Sha256 => Sha256::digest(text).to_vec(),
        KeyForm::Pem => pem(text).ok_or(wrong("a public key or a certificate in PEM"))?,
        KeyForm::SpkiBase64 => BASE64
            .decode(text)
            .map_err(|_| wrong("the base64 of a public key"))?,
        KeyForm::Whsec => {
            let text = text.strip_prefix(b"v1,").unwrap_or(text);
            let text = text.strip_prefix(b"whsec_").unwrap_or(text);
            BASE64
                .decode(text)
                .map_err(|_| wrong("whsec_ and base64"))?
        }
        KeyForm::Whpk => {
            let text = text
                .strip_prefix(b"whpk_")
                .ok_or(wrong("whpk_ and base64"))?;
            BASE64.decode(text).map_err(|_| wrong("whpk_ and base64"))?
        }
    })
}

/// Returns the public key of a PEM text: the key itself, or that of a certificate.
fn pem(text: &[u8]) -> Option<Vec<u8>> {
    if let Ok(key) = SubjectPublicKeyInfoDer::from_pem_slice(text) {
        return Some(key.to_vec());
    }
    let certificate = CertificateDer::from_pem_slice(text).ok()?;
    let certificate = webpki::EndEntityCert::try_from(&certificate).ok()?;
    Some(certificate.subject_public_key_info().to_vec())
}

fn public_key(
    algorithm: &'static dyn VerificationAlgorithm,
    key: &Secret,
) -> Result<VerifyingKey, SchemeError> {
    ParsedPublicKey::new(algorithm, key.expose())
        .map(VerifyingKey::Public)
        .map_err(|_| SchemeError::PublicKey)
}
