//! State of each certificate: what is in force, and what follows.

use std::time::Instant;

use instant_acme::CertificateIdentifier;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::files::IssuedCertificate;
use super::schedule::renewal_time;

/// A certificate that is kept, or wanted.
pub(super) struct Managed {
    pub names: Vec<String>,
    pub issued: Option<Issued>,
    pub failures: u32,
    /// Time of the next attempt after a failure.
    pub retry_at: Option<Instant>,
    pub last_error: Option<String>,
    /// Way that has proved the names.
    pub way: usize,
    /// Certificate that is in force, and could not be written.
    pub unsaved: Option<Zeroizing<String>>,
}

/// Schedule of a certificate in force.
pub(super) struct Issued {
    pub id: Option<CertificateIdentifier<'static>>,
    /// Times in seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// Time of the renewal, in seconds since 1970.
    pub renewal_s: i64,
    /// Number from 0 to 1 that spreads renewals.
    pub random: f64,
    /// Time of the next request for the server's suggestion; `None` if it makes none.
    pub suggestion_at: Option<Instant>,
    /// `true` once the server has suggested a time: it accepts what a certificate replaces.
    pub has_suggestion: bool,
}

impl Managed {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self {
            names,
            issued: None,
            failures: 0,
            retry_at: None,
            last_error: None,
            way: 0,
            unsaved: None,
        }
    }
}

impl Issued {
    pub(super) fn of(certificate: &IssuedCertificate) -> Self {
        let first = certificate.pair.chain.first();
        let digest = Sha256::digest(first.map_or(&[][..], |first| first.as_ref()));
        let random = digest.first().map_or(0.0, |byte| share(*byte));
        Self {
            id: first.and_then(|first| CertificateIdentifier::try_from(first).ok()),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            renewal_s: renewal_time(certificate.not_before, certificate.not_after, random),
            random,
            suggestion_at: Some(Instant::now()),
            has_suggestion: false,
        }
    }
}

/// Returns a byte as a number from 0 to 1.
pub(super) fn share(byte: u8) -> f64 {
    f64::from(byte) / f64::from(u8::MAX)
}
