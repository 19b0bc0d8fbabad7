//! Signing with a private key, for providers that have one.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use crate::providers::scheme::{Algorithm, JwtAlgorithm};
use crate::sign::SignError;

/// Private key of an algorithm.
#[derive(Clone, Copy)]
pub(crate) enum Signer {
    Ed25519,
    Ecdsa(&'static EcdsaSigningAlgorithm),
    Rsa(&'static dyn RsaEncoding),
}

impl Signer {
    /// Returns the signer of a separate signature; an elliptic-curve signature is in DER.
    pub(crate) const fn of(alg: Algorithm) -> Result<Self, SignError> {
        Ok(match alg {
            Algorithm::Ed25519 => Self::Ed25519,
            Algorithm::EcdsaP256Sha256 => Self::Ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
            Algorithm::RsaSha256 => Self::Rsa(&RSA_PKCS1_SHA256),
            Algorithm::RsaSha512 => Self::Rsa(&RSA_PKCS1_SHA512),
            // The library verifies such signatures for old providers, and creates none.
            Algorithm::RsaSha1 => return Err(SignError::RsaSha1),
            _ => return Err(SignError::PrivateKey),
        })
    }

    /// Returns the signer of a JSON Web Token; an elliptic-curve signature is its two numbers (RFC
    /// 7518 §3.4). `None` if the key is a shared secret.
    pub(crate) const fn of_token(alg: JwtAlgorithm) -> Option<Self> {
        Some(match alg {
            JwtAlgorithm::HS256 | JwtAlgorithm::HS384 | JwtAlgorithm::HS512 => return None,
            JwtAlgorithm::RS256 => Self::Rsa(&RSA_PKCS1_SHA256),
            JwtAlgorithm::RS384 => Self::Rsa(&RSA_PKCS1_SHA384),
            JwtAlgorithm::RS512 => Self::Rsa(&RSA_PKCS1_SHA512),
            JwtAlgorithm::ES256 => Self::Ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            JwtAlgorithm::ES384 => Self::Ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
            JwtAlgorithm::EdDSA => Self::Ed25519,
        })
    }

    /// Signs a message with a private key in PEM. Returns `None` for another kind of key.
    pub(crate) fn sign(self, pem: &[u8], message: &[u8]) -> Option<Vec<u8>> {
        let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
        let der = key.secret_der();
        let random = SystemRandom::new();

        match self {
            Self::Ed25519 => Some(
                Ed25519KeyPair::from_pkcs8(der)
                    .ok()?
                    .sign(message)
                    .as_ref()
                    .to_vec(),
            ),
            Self::Ecdsa(algorithm) => {
                let pair = EcdsaKeyPair::from_private_key_der(algorithm, der).ok()?;
                Some(pair.sign(&random, message).ok()?.as_ref().to_vec())
            }
            Self::Rsa(padding) => {
                let pair = RsaKeyPair::from_pkcs8(der)
                    .or_else(|_| RsaKeyPair::from_der(der))
                    .ok()?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
        }
    }
}
