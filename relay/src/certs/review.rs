//! Review of the edge's certificate at startup, before a sender rejects it.

use hookward_core::reason::Reason;
use std::path::Path;

use hookward_core::clock::UnixMillis;
use hookward_core::names::HostName;
use hookward_tunnel::transport::identity::crypto_provider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{CertError, CertificatePair};

/// Checks a chain and its key, and returns warnings for the administrator.
///
/// # Errors
/// [`CertError`] for what every sender rejects: a key of another certificate, or a chain in the
/// wrong order.
pub(crate) fn review(
    certified: &CertificatePair,
    files: (&Path, &Path),
    domain: &HostName,
    hosts: &[HostName],
    now: UnixMillis,
) -> Result<Vec<String>, CertError> {
    let (chain_file, key_file) = files;
    let content = |what: String| CertError::Content {
        path: chain_file.to_owned(),
        what,
    };
    check_key(certified, key_file).map_err(|reason| content(reason.into()))?;

    let Some(first) = certified.chain.first() else {
        return Ok(Vec::new());
    };
    let mut warnings = Vec::new();
    let mut warn = |what: String| warnings.push(format!("{}: {what}", chain_file.display()));

    let certificate = match X509Certificate::from_der(first) {
        Ok((_, certificate)) => certificate,
        // rustls accepts some certificates that this parser rejects.
        Err(error) => {
            warn(format!("the first certificate can't be reviewed: {error}"));
            return Ok(warnings);
        }
    };

    validity_warning(&certificate, now)
        .into_iter()
        .for_each(&mut warn);

    if let Some(what) = uncovered(first, domain, hosts) {
        warn(format!(
            "the certificate is {}, and not for {what}: senders refuse it there",
            names(&certificate)
        ));
    }

    if certified.chain.len() == 1
        && certificate.issuer() != certificate.subject()
        && !is_root(&certificate)
    {
        let issuer = certificate.issuer();
        warn(format!(
            "the chain has only the server's certificate, issued by {issuer}, which this system does not trust: \
             many senders refuse it; name the file with the whole chain (fullchain.pem)"
        ));
    }

    Ok(warnings)
}

/// Returns a warning if the certificate is not yet valid, has expired, or expires soon.
fn validity_warning(certificate: &X509Certificate<'_>, now: UnixMillis) -> Option<String> {
    let at = |time: i64| u64::try_from(time).unwrap_or_default();
    let validity = certificate.validity();
    let (begin, end, now) = (&validity.not_before, &validity.not_after, now.seconds());

    if now >= at(end.timestamp()) {
        Some(format!(
            "certificate expired on {end}: senders refuse it; renew it, and restart the relay"
        ))
    } else if now < at(begin.timestamp()) {
        Some(format!(
            "certificate is not valid before {begin}: is the clock of this machine right?"
        ))
    } else if now + NEAR_END_DAYS * DAY_SECONDS >= at(end.timestamp()) {
        Some(format!(
            "certificate expires soon, on {end}: renew it, and restart the relay"
        ))
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
fn uncovered(
    certificate: &CertificateDer<'_>,
    domain: &HostName,
    hosts: &[HostName],
) -> Option<String> {
    let entity = webpki::EndEntityCert::try_from(certificate).ok()?;
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
    match missing.is_empty() {
        false => Some(missing.join(", ")),
        true if hosts.is_empty() && !is_for(&format!("{ANY_LABEL}.{domain}")) => {
            Some(format!("*.{domain}"))
        }
        true => None,
    }
}

/// Label that no tunnel has. A certificate that covers it covers every tunnel below the domain.
const ANY_LABEL: &str = "hookward-any";

fn names(certificate: &X509Certificate<'_>) -> String {
    let names = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<_> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .map(ToString::to_string)
        .collect();
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
