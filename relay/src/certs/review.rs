//! Review of the edge's certificate, before a sender rejects it.

use std::fmt;
use std::path::{Path, PathBuf};

use hookward_core::reason::Reason;

use hookward_core::clock::UnixMillis;
use hookward_core::names::HostName;
use hookward_tunnel::transport::identity::crypto_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{CertError, CertificatePair};

/// Names that the certificate must cover: the domain, and the hosts that are served.
pub(crate) struct WantedNames {
    pub domain: HostName,
    /// `None` if the store failed, so that the names are unknown.
    pub hosts: Option<Vec<HostName>>,
}

/// Something that senders will reject in a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    file: PathBuf,
    kind: FindingKind,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum FindingKind {
    /// Expired, or not valid yet.
    Invalid,
    /// Names that are not covered.
    Names(Vec<String>),
    /// Most senders accept it now.
    Warning,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.text)
    }
}

impl Finding {
    /// Logs the finding as a warning.
    pub(crate) fn log(&self) {
        tracing::warn!("{self}");
    }

    /// Returns `true` if senders reject the certificate.
    pub(crate) const fn is_fault(&self) -> bool {
        !matches!(self.kind, FindingKind::Warning)
    }

    /// Returns `true` if this fault of the certificate in use includes a fault of a new one.
    pub(crate) fn is_same_fault(&self, new: &Self) -> bool {
        match (&self.kind, &new.kind) {
            (FindingKind::Names(old), FindingKind::Names(new)) => {
                new.iter().all(|name| old.contains(name))
            }
            (old, new) => old == new,
        }
    }
}

/// Checks a chain and its key, and returns findings for the administrator.
///
/// # Errors
/// [`CertError`] for what every sender rejects: a key of another certificate, or a chain in the
/// wrong order.
pub(crate) fn review(
    certified: &CertificatePair,
    files: (&Path, &Path),
    wanted: &WantedNames,
    now: UnixMillis,
) -> Result<Vec<Finding>, CertError> {
    let (chain_file, key_file) = files;
    let content = |what: String| CertError::Content {
        path: chain_file.to_owned(),
        what,
    };
    check_key(certified, key_file).map_err(|reason| content(reason.into()))?;

    Ok(findings(&certified.chain, chain_file, wanted, now))
}

/// Reviews a chain without its key.
pub(super) fn findings(
    chain: &[CertificateDer<'static>],
    chain_file: &Path,
    wanted: &WantedNames,
    now: UnixMillis,
) -> Vec<Finding> {
    let Some(first) = chain.first() else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let mut find = |kind, text: String| {
        findings.push(Finding {
            file: chain_file.to_owned(),
            kind,
            text,
        });
    };

    let certificate = match X509Certificate::from_der(first) {
        Ok((_, certificate)) => certificate,
        // rustls accepts some certificates that this parser rejects.
        Err(error) => {
            let text = format!("the first certificate can't be reviewed: {error}");
            find(FindingKind::Warning, text);
            return findings;
        }
    };

    if let Some((kind, text)) = review_validity(&certificate, now) {
        find(kind, text);
    }

    let missing = uncovered(first, wanted);
    if !missing.is_empty() {
        let text = format!(
            "the certificate is {}, and not for {}: senders refuse it there",
            names(&certificate),
            missing.join(", ")
        );
        find(FindingKind::Names(missing), text);
    }

    if chain.len() == 1 && certificate.issuer() != certificate.subject() && !is_root(&certificate) {
        let issuer = certificate.issuer();
        let text = format!(
            "the chain has only the server's certificate, issued by {issuer}, which this system does not trust: \
             many senders refuse it; name the file with the whole chain (fullchain.pem)"
        );
        find(FindingKind::Warning, text);
    }

    findings
}

/// Returns the expiry of the first certificate, as text.
pub(super) fn expiry(pair: &CertificatePair) -> String {
    let first = pair.chain.first();
    let certificate = first.and_then(|first| X509Certificate::from_der(first).ok());
    certificate.map_or_else(
        || "unknown".to_owned(),
        |(_, certificate)| certificate.validity().not_after.to_string(),
    )
}

/// Returns a finding if the certificate is not yet valid, has expired, or expires soon.
fn review_validity(
    certificate: &X509Certificate<'_>,
    now: UnixMillis,
) -> Option<(FindingKind, String)> {
    let at = |time: i64| u64::try_from(time).unwrap_or_default();
    let validity = certificate.validity();
    let (begin, end, now) = (&validity.not_before, &validity.not_after, now.seconds());

    if now >= at(end.timestamp()) {
        let text = format!("certificate expired on {end}: senders refuse it; renew it");
        Some((FindingKind::Invalid, text))
    } else if now < at(begin.timestamp()) {
        let text =
            format!("certificate is not valid before {begin}: is the clock of this machine right?");
        Some((FindingKind::Invalid, text))
    } else if now + NEAR_END_DAYS * DAY_SECONDS >= at(end.timestamp()) {
        let text = format!("certificate expires soon, on {end}: renew it");
        Some((FindingKind::Warning, text))
    } else {
        None
    }
}

/// Remaining validity below which the relay warns.
const NEAR_END_DAYS: u64 = 14;

const DAY_SECONDS: u64 = 86_400;

/// Checks that the key is that of the first certificate.
pub(super) fn check_key(certified: &CertificatePair, key_file: &Path) -> Result<(), Reason> {
    let provider = crypto_provider();
    let fits = |chain: Vec<CertificateDer<'static>>| {
        CertifiedKey::from_der(chain, certified.key.clone_key(), &provider).map(drop)
    };
    let Err(error) = fits(certified.chain.clone()) else {
        return Ok(());
    };
    if !matches!(error, rustls::Error::InconsistentKeys(_)) {
        return Err(error.to_string().into());
    }

    let place = certified
        .chain
        .iter()
        .position(|certificate| fits(vec![certificate.clone()]).is_ok());

    Err(match place {
        Some(place) => format!(
            "the certificates stand in the wrong order: the server's own comes first, and is number {}; its issuer follows, \
             and so on (RFC 8446 §4.4.2)",
            place + 1
        ).into(),
        None => format!(
            "the private key in {} is not the key of this certificate",
            key_file.display()
        ).into(),
    })
}

/// Returns the names that the certificate should cover but does not.
fn uncovered(certificate: &CertificateDer<'_>, wanted: &WantedNames) -> Vec<String> {
    let WantedNames { domain, hosts } = wanted;
    let (Some(hosts), Ok(entity)) = (hosts, webpki::EndEntityCert::try_from(certificate)) else {
        return Vec::new();
    };
    let is_for = |name: &str| {
        ServerName::try_from(name)
            .is_ok_and(|name| entity.verify_is_valid_for_subject_name(&name).is_ok())
    };

    // Without a wildcard, the exact names are sufficient.
    let missing: Vec<_> = hosts
        .iter()
        .filter(|host| !is_for(host.as_str()))
        .map(ToString::to_string)
        .collect();
    if hosts.is_empty() && !is_for(&format!("{ANY_LABEL}.{domain}")) {
        return vec![format!("*.{domain}")];
    }

    missing
}

/// Label that no tunnel has. A certificate that covers it covers every tunnel below the domain.
pub(super) const ANY_LABEL: &str = "hookward-any";

/// Returns the names that a certificate covers.
pub(crate) fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = certificate.subject_alternative_name().ok().flatten();
    names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .map(|name| match name {
            GeneralName::DNSName(name) => (*name).to_owned(),
            other => other.to_string(),
        })
        .collect()
}

fn names(certificate: &X509Certificate<'_>) -> String {
    let names = dns_names(certificate);
    match names.is_empty() {
        true => "for no name (it has no subjectAltName)".to_owned(),
        false => format!("for {}", names.join(", ")),
    }
}

/// Returns `true` if the issuer has the name of one of the system's certificate authorities.
fn is_root(certificate: &X509Certificate<'_>) -> bool {
    let roots = rustls_native_certs::load_native_certs().certs;
    let issuer = certificate.issuer().as_raw();
    roots.iter().any(|root| {
        X509Certificate::from_der(root).is_ok_and(|(_, root)| root.subject().as_raw() == issuer)
    })
}
