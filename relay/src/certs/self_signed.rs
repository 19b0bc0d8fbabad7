//! The self-signed certificate of a relay without one in its settings.

use std::fs;
use std::path::Path;
use std::time::Duration;

use hookward_core::clock::UnixMillis;
use hookward_core::names::HostName;
use rcgen::{CertificateParams, KeyPair};
use time::OffsetDateTime;

use super::pem::read_pem;
use super::{CertError, CertificatePair, named, review, write_secret};

/// Files of the self-signed certificate in the data directory: the certificate, its key, its names.
pub(crate) const EDGE_FILE: &str = "edge.pem";
pub(crate) const EDGE_KEY_FILE: &str = "edge-key.pem";
pub(crate) const EDGE_NAMES_FILE: &str = "edge.names";

/// Returns the self-signed certificate for these names (wildcards allowed). Makes a new one when
/// the names change or its expiry is near.
///
/// # Errors
/// [`CertError`].
pub(crate) fn self_signed(
    dir: &Path,
    names: &[String],
    now: UnixMillis,
) -> Result<CertificatePair, CertError> {
    let (certificate, key, note) = (
        dir.join(EDGE_FILE),
        dir.join(EDGE_KEY_FILE),
        dir.join(EDGE_NAMES_FILE),
    );
    let end = now.seconds() + EDGE_LIFETIME.as_secs();
    let wanted = names.join("\n");

    let kept = fs::read_to_string(&note).ok().and_then(|text| {
        let (kept_end, kept_names) = text.split_once('\n')?;
        Some(
            kept_names == wanted
                && kept_end.parse::<u64>().ok()? > now.seconds() + EDGE_RENEW_BEFORE.as_secs(),
        )
    });

    let damage =
        match (certificate.exists() && key.exists()).then(|| check_pair(&certificate, &key)) {
            None | Some(Ok(())) => None,
            Some(Err(error @ CertError::Content { .. })) => Some(error),
            // An unreadable file may be intact, so it is not replaced.
            Some(Err(error)) => return Err(error),
        };
    if let Some(error) = &damage {
        tracing::warn!(%error, "made a new self-signed certificate; clients must trust the new one");
    }

    if kept != Some(true) || damage.is_some() || !certificate.exists() || !key.exists() {
        let pair = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.to_vec())?;
        params.distinguished_name = named("Hookward self-signed");

        let at = |seconds: u64| {
            let seconds = i64::try_from(seconds).unwrap_or_default();
            OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
        };
        params.not_before = at(now.seconds().saturating_sub(86_400)); // clocks differ
        params.not_after = at(end);

        let made = params.self_signed(&pair)?;
        write_secret(&key, &pair.serialize_pem())?;
        write_secret(&certificate, &made.pem())?;
        write_secret(&note, &format!("{end}\n{wanted}"))?;
    }

    read_pem(&certificate, &key)
}

/// Lifetime of a self-signed edge certificate: the maximum for public ones.
const EDGE_LIFETIME: Duration = Duration::from_secs(397 * 86_400);

/// Remaining lifetime at which the relay renews its self-signed certificate.
const EDGE_RENEW_BEFORE: Duration = Duration::from_secs(30 * 86_400);

/// Checks that both files are readable and belong together.
fn check_pair(certificate: &Path, key: &Path) -> Result<(), CertError> {
    let certified = read_pem(certificate, key)?;
    let content = |what: String| CertError::Content {
        path: certificate.to_owned(),
        what,
    };
    review::check_key(&certified, key).map_err(|reason| content(reason.into()))
}

/// Returns the names of a relay's self-signed certificate: its domain, one label below it, and the
/// reserved hosts. Those below the domain are listed in full as well: clients reject a wildcard
/// directly below a top-level name such as `localhost`.
#[must_use]
pub(crate) fn names_of<'h>(
    domain: &HostName,
    given: impl Iterator<Item = &'h HostName>,
) -> Vec<String> {
    let mut names = vec![domain.to_string(), format!("*.{domain}")];
    for host in given.filter(|host| *host != domain) {
        names.push(host.to_string());
    }
    names
}
