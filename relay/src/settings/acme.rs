//! Settings of certificates from an ACME server.
//!
//! ```toml
//! [acme]
//! email = "you@example.com"            # where the server sends warnings
//! directory = "letsencrypt"            # or "letsencrypt-staging", or an https:// URL
//! ca = "/etc/hookward/ca.pem"          # certificates to trust beside the system's: a private CA
//! http_listen = "[::]:80"              # HTTP-01, and explanations for http:// URLs
//! dns_hook = ["/etc/hookward/dns"]     # DNS-01: called with add|remove NAME VALUE
//! new_names_per_day = 5                # first certificates of hosts; renewals do not count
//!
//! [acme.external_account]              # some servers: the key is base64url
//! id = "kid-1"
//! key = "file:/etc/hookward/eab-key"
//! ```

use std::net::SocketAddr;
use std::path::PathBuf;

use hookward_core::diagnostics::TableReader;
use hookward_core::secret::SecretSource;

use crate::certs::acme::dns_hook::DnsHook;

/// Directory of Let's Encrypt (letsencrypt.org/docs/client-options).
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// Default of `new_names_per_day`: Let's Encrypt issues 50 certificates a week for a domain, without
/// renewals (letsencrypt.org/docs/rate-limits).
const NEW_NAMES_PER_DAY: usize = 5;

/// Settings of certificates from an ACME server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeSettings {
    /// Address for warnings of the server.
    pub email: String,
    /// URL of the server's directory.
    pub directory: String,
    /// Certificates (PEM) to trust, beside the system's.
    pub ca: Option<PathBuf>,
    /// Address of the listener for HTTP-01.
    pub http_listen: Option<SocketAddr>,
    /// Command for DNS-01.
    pub(crate) dns_hook: Option<DnsHook>,
    /// Key id and key of an account elsewhere that the ACME account belongs to (RFC 8555 §7.3.4).
    pub external_account: Option<(String, SecretSource)>,
    /// Maximum number of first certificates a day.
    pub new_names_per_day: usize,
}

/// The settings as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RawAcme {
    /// `true` if the file has the table.
    pub is_present: bool,
    pub email: Option<String>,
    pub directory: Option<String>,
    pub ca: Option<PathBuf>,
    pub http_listen: Option<String>,
    pub dns_hook: Vec<String>,
    pub external_account: Option<(Option<String>, Option<String>)>,
    pub new_names_per_day: Option<usize>,
}

impl RawAcme {
    pub(super) fn read(table: &mut TableReader<'_>) -> Self {
        let mut raw = Self {
            is_present: true,
            email: table.string("email"),
            directory: table.string("directory"),
            ca: table.string("ca").map(PathBuf::from),
            http_listen: table.string("http_listen"),
            dns_hook: table.strings("dns_hook").unwrap_or_default(),
            external_account: None,
            new_names_per_day: table.count("new_names_per_day"),
        };
        if let Some(mut account) = table.table("external_account") {
            raw.external_account = Some((account.string("id"), account.string("key")));
            account.finish();
        }
        raw
    }

    /// Returns these settings; those of `file` fill the gaps.
    pub(super) fn merge_over(self, file: Self) -> Self {
        Self {
            is_present: file.is_present,
            email: self.email.or(file.email),
            directory: self.directory.or(file.directory),
            ca: self.ca.or(file.ca),
            http_listen: self.http_listen.or(file.http_listen),
            dns_hook: file.dns_hook,
            external_account: file.external_account,
            new_names_per_day: file.new_names_per_day,
        }
    }

    /// Validates the settings. Returns `None` without any.
    pub(super) fn resolve(self, wrong: &mut impl FnMut(&str, String)) -> Option<AcmeSettings> {
        if self == Self::default() {
            return None;
        }

        let email = self.email.unwrap_or_default();
        if !is_email(&email) {
            wrong(
                "acme.email",
                format!(
                    "{email:?} is not an e-mail address; name one, such as --acme you@example.com"
                ),
            );
        }
        let directory = match self.directory.as_deref() {
            None | Some("letsencrypt") => LETS_ENCRYPT.to_owned(),
            Some("letsencrypt-staging") => LETS_ENCRYPT_STAGING.to_owned(),
            Some(url) => {
                let is_url = url.starts_with("https://") && url.parse::<http::Uri>().is_ok();
                if !is_url {
                    wrong(
                        "acme.directory",
                        format!(
                            "{url:?} is neither \"letsencrypt\", \"letsencrypt-staging\" nor an https:// URL"
                        ),
                    );
                }
                url.to_owned()
            }
        };
        let http_listen = self.http_listen.and_then(|text| {
            let address = text.parse().ok();
            if address.is_none() {
                wrong(
                    "acme.http_listen",
                    format!("{text:?} is not an address with a port, such as [::]:80"),
                );
            }
            address
        });
        let external_account = self.external_account.and_then(|(id, key)| {
            let source = key.as_deref().map(SecretSource::parse);
            match (id, source) {
                (Some(id), Some(Ok(source))) => return Some((id, source)),
                (_, Some(Err(error))) => wrong("acme.external_account.key", error.to_string()),
                _ => wrong("acme.external_account", "needs id and key".to_owned()),
            }
            None
        });
        let has_hook = !self.dns_hook.is_empty();
        let dns_hook = DnsHook::new(self.dns_hook);
        if has_hook && dns_hook.is_none() {
            wrong("acme.dns_hook", "names no program".to_owned());
        }
        if self.new_names_per_day == Some(0) {
            wrong("acme.new_names_per_day", "must be 1 at least".to_owned());
        }

        Some(AcmeSettings {
            email,
            directory,
            ca: self.ca,
            http_listen,
            dns_hook,
            external_account,
            new_names_per_day: self.new_names_per_day.unwrap_or(NEW_NAMES_PER_DAY),
        })
    }
}

/// Returns `true` for text that is an address as far as a typing error goes.
fn is_email(text: &str) -> bool {
    let parts = text.split_once('@');
    parts.is_some_and(|(name, domain)| {
        let is_clean = |part: &str| {
            let is_bad = |char: char| char.is_whitespace() || char.is_control() || char == ',';
            !part.is_empty() && !part.contains(is_bad)
        };
        is_clean(name) && is_clean(domain) && domain.contains('.') && !domain.contains('@')
    })
}
