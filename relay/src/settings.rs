//! The relay's settings: a TOML file and flags, resolved, with all mistakes reported at once.
//!
//! ```toml
//! domain = "hooks.example.com"
//! listen = "[::]:443"                  # HTTPS (TCP) and the tunnel (UDP)
//! public_port = 443                    # the port in public URLs, when it is another one
//! tunnel_address = "hooks.example.com:443"   # under which agents reach this relay, if another
//! data_dir = "/var/lib/hookward"
//! certificate = "/etc/hookward/chain.pem"
//! key = "/etc/hookward/key.pem"
//! trusted_proxies = ["10.0.0.0/8"]
//! forwarded = "x-forwarded-for"        # the field that they write: or "forwarded" (RFC 7239)
//! proxy_protocol = false               # they begin each connection with PROXY protocol v1 or v2
//! baseline_policy = "/etc/hookward/baseline.toml"   # a policy that every request must pass first
//!
//! [acme]                               # certificates of Let's Encrypt, see settings/acme.rs
//! email = "you@example.com"
//!
//! [fetch]                              # public keys and lists of addresses
//! hosts = ["keys.example.com"]         # where keys of schemes in policies may come from
//! ca = "/etc/hookward/proxy-ca.pem"    # certificates to trust beside the system's
//! [fetch.resolve]                      # addresses for names, instead of looking them up
//! "api.github.com" = "10.0.0.5:443"
//!
//! [hosts]                              # exact hosts: the bare domain, a CNAME
//! "hooks.example.com" = "flexdeploy"
//!
//! [admin]
//! listen = "127.0.0.1:4041"            # loopback only, or "off"
//!
//! [monitoring]
//! listen = "10.0.0.5:4042"             # health and metrics for other machines
//!
//! [audit]                              # see hookward_observe::audit
//! file = "/var/log/hookward/audit.log"
//!
//! [delivery]                           # stored webhooks, see settings/delivery.rs
//! max_bytes = "1GiB"
//!
//! [limits]                             # every bound of shared/core/src/limits.rs, by its name
//! profile = "1GiB"                     # memory of the machine, from which some follow
//! request_head_timeout = "9s"
//! ```
//!
//! [`keys`] describes the keys for `hookward-relay config`, and [`watch`] rereads the file on SIGHUP.

mod acme;
mod delivery;
pub(crate) mod keys;
mod raw;
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use hookward_core::limits::Limits;
use hookward_core::names::{AgentName, HostName};
use hookward_observe::audit::AuditSettings;
use ipnet::IpNet;
use serde_json::{Value, json};

pub use self::acme::AcmeSettings;
pub(crate) use self::acme::RawAcme;
pub use self::delivery::DeliverySettings;
pub(crate) use self::raw::{RawSettings, read_file};
use crate::admin::listeners::{AdminListen, AdminSettings, PRESET};
use crate::edge::client_address::ForwardedField;
use crate::fetch::client::FetchSettings;

/// Default of `listen`: all addresses of both families.
pub(crate) const LISTEN: &str = "[::]:443";
/// Maximum of `max_head_bytes`: a head must fit into one frame of the tunnel, with spare room.
const MAX_HEAD_BYTES: u64 = 60 * 1024;
/// Default of `data_dir`.
pub(crate) const DATA_DIR: &str = "/var/lib/hookward";

/// Default file of the audit log in the data directory.
pub(crate) const AUDIT_FILE: &str = "audit.log";

/// Validated settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Domain below which tunnels have their hosts.
    pub domain: HostName,
    /// Address of the HTTPS listener.
    pub listen: SocketAddr,
    /// Address of the tunnel's listener; equal to `listen` on a VM.
    pub tunnel_listen: SocketAddr,
    /// Port in public URLs; `None` for the listener's own.
    pub public_port: Option<u16>,
    /// Host and port under which agents reach this relay; `None` for the domain and the public
    /// port.
    pub tunnel_address: Option<String>,
    /// Directory of the relay's state.
    pub data_dir: PathBuf,
    /// Certificate chain and key of the edge; `None` for a self-signed one.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Settings of certificates from an ACME server; `None` without one.
    pub acme: Option<AcmeSettings>,
    /// Networks whose forwarding header field is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Header field that trusted proxies write.
    pub forwarded: ForwardedField,
    /// `true` if connections of trusted proxies begin with the PROXY protocol.
    pub proxy_protocol: bool,
    /// Policy file of the baseline policy.
    pub baseline_policy: Option<PathBuf>,
    /// Settings for fetching.
    pub fetch: FetchSettings,
    /// Exact hosts, and the agents that own them.
    pub hosts: BTreeMap<HostName, AgentName>,
    /// Settings of the admin API and of monitoring.
    pub admin: AdminSettings,
    /// Settings of the audit log.
    pub audit: AuditSettings,
    /// Settings of stored deliveries.
    pub delivery: DeliverySettings,
    /// `true` to replace damaged or missing files of the data directory.
    pub reset: bool,
    /// Limits, with their defaults.
    pub limits: Limits,
}

impl Settings {
    /// Returns the keys of the settings file whose values differ, without those that change while the
    /// relay runs.
    pub(crate) fn needing_restart(&self, other: &Self) -> Vec<String> {
        let keys = [
            ("domain", self.domain == other.domain),
            ("listen", self.listen == other.listen),
            ("public_port", self.public_port == other.public_port),
            (
                "tunnel_address",
                self.tunnel_address == other.tunnel_address,
            ),
            ("data_dir", self.data_dir == other.data_dir),
            ("certificate, key", self.certificate == other.certificate),
            ("[acme]", self.acme == other.acme),
            (
                "trusted_proxies",
                self.trusted_proxies == other.trusted_proxies,
            ),
            ("forwarded", self.forwarded == other.forwarded),
            (
                "proxy_protocol",
                self.proxy_protocol == other.proxy_protocol,
            ),
            (
                "baseline_policy",
                self.baseline_policy == other.baseline_policy,
            ),
            ("[fetch]", self.fetch == other.fetch),
            ("[admin], [monitoring]", self.admin == other.admin),
            ("[audit]", self.audit == other.audit),
            ("[delivery]", self.delivery == other.delivery),
        ];
        let differ = keys.into_iter().filter(|(_, is_same)| !is_same);
        let mut names: Vec<_> = differ.map(|(key, _)| key.to_owned()).collect();
        let (mine, theirs) = (self.limits.values(), other.limits.values());
        let limits = mine.into_iter().zip(theirs);
        let differ = limits.filter(|(mine, theirs)| mine != theirs);
        names.extend(differ.map(|((name, _), _)| format!("limits.{name}")));
        names
    }

    /// Returns the settings without file contents, for the audit log. They hold no secret.
    pub(crate) fn summary(&self) -> Value {
        let changed: BTreeMap<_, _> = self.limits.changed().into_iter().collect();
        let certificate = self
            .certificate
            .as_ref()
            .map(|(chain, _)| chain.display().to_string());
        let networks = self.trusted_proxies.iter().map(ToString::to_string);
        json!({
            "domain": self.domain.as_str(),
            "listen": self.listen.to_string(),
            "tunnel_address": self.tunnel_address,
            "data_dir": self.data_dir.display().to_string(),
            "certificate": certificate,
            "acme": self.acme.as_ref().map(|acme| acme.directory.as_str()),
            "trusted_proxies": networks.collect::<Vec<_>>(),
            "proxy_protocol": self.proxy_protocol,
            "hosts": self.hosts.iter().map(|(host, agent)| (host.as_str(), agent.as_str())).collect::<BTreeMap<_, _>>(),
            "audit": {
                "file": self.audit.file.as_ref().map(|file| file.path.display().to_string()),
                "stdout": self.audit.stdout,
                "syslog": self.audit.syslog.as_ref().map(ToString::to_string),
                "on_failure": self.audit.on_failure.as_str(),
            },
            "admin": match self.admin.listen {
                AdminListen::Off => "off".to_owned(),
                AdminListen::Preset => PRESET.to_string(),
                AdminListen::At(address) => address.to_string(),
            },
            "monitoring": self.admin.monitoring.map(|address| address.to_string()),
            "delivery": self.delivery.summary(),
            "limits": changed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Settings {
        let mut problems = Vec::new();
        let (file, limits) = read_file("r.toml", text, &mut problems);
        file.resolve(limits, problems).unwrap()
    }

    #[test]
    fn a_whole_file() {
        let text = "domain = 'Hooks.example.com'\nlisten = '127.0.0.1:0'\ntrusted_proxies = ['10.0.0.0/8']\n\
                    [hosts]\n'hooks.example.com' = 'flexdeploy'\n[limits]\nrequest_head_timeout = '3s'\nmax_body_bytes = '1MiB'\n";
        let mut problems = Vec::new();
        let (file, limits) = read_file("r.toml", text, &mut problems);
        let flags = RawSettings {
            public_port: Some(8443),
            ..RawSettings::default()
        };
        let settings = flags.merge_over(file).resolve(limits, problems).unwrap();
        assert_eq!(settings.domain.as_str(), "hooks.example.com");

        assert_eq!(settings.limits.max_body_bytes, 1 << 20);
        assert_eq!(settings.public_port, Some(8443));
        assert_eq!(settings.hosts.len(), 1);
    }

    #[test]
    fn the_defaults_of_the_example_are_those_of_the_code() {
        let domain = "domain = \"hooks.example.com\"\n";
        let mut text = domain.to_owned();
        for key in keys::all() {
            let is_value = !key.default.starts_with('(') && !key.default.starts_with('{');
            // Both need another key.
            let alone = ["forwarded", "acme.directory", "acme.new_names_per_day"];
            if is_value && !alone.contains(&key.known.path.as_str()) {
                text.push_str(&format!("{} = {}\n", key.known.path, key.default));
            }
        }
        let mut given = read(&text);
        // The preset takes another port if this one is taken.
        given.admin.listen = AdminListen::Preset;
        assert_eq!(given, read(domain));
    }

    #[test]
    fn a_profile_derives_limits() {
        let limits = |text: &str| {
            let mut problems = Vec::new();
            let limits = read_file("r.toml", text, &mut problems).1;
            assert!(problems.is_empty(), "{problems:?}");
            limits
        };
        assert_eq!(limits("limits.profile = '1GiB'"), Limits::default());
        let small = limits("[limits]\nprofile = '256MiB'\nmax_connections = 7");
        assert_eq!((small.body_memory, small.max_connections), (50 << 20, 7));
        assert_eq!(small.max_body_bytes, small.body_memory / 8);
        let large = limits("limits.profile = '16GiB'");
        assert_eq!(large.max_connections, 131_072);
        assert_eq!(large.max_body_bytes, Limits::default().max_body_bytes);
    }

    #[test]
    fn a_change_that_needs_a_restart_is_named() {
        let before = read("domain = 'a.test'");
        let live = read("domain = 'a.test'\nhosts = { 'a.test' = 'x' }");
        assert!(before.needing_restart(&live).is_empty());
        let after = read("domain = 'b.test'\nlimits.drain = '1s'");
        assert_eq!(before.needing_restart(&after), ["domain", "limits.drain"]);
    }

    #[test]
    fn all_mistakes_in_one_run() {
        let text = "listen = '443'\ntrusted_proxies = ['any', '::/0']\nspool = true\nkey = 'k'\n\
                    [limits]\nrequest_head_timeout = '3'\nheads = 1\n[hosts]\n'a_b' = 'x'\n";
        let mut problems = Vec::new();
        let (file, limits) = read_file("r.toml", text, &mut problems);
        let found = file.resolve(limits, problems).unwrap_err().to_string();

        for expected in [
            "r.toml:3:1: unknown key \"spool\"",
            "request_head_timeout: expected a time",
            "unknown key \"heads\"",
            "domain: missing",
            "\"443\" is not an address",
            "\"any\"",
            "trust every client's statement",
            "certificate: missing",
            "\"a_b\" is not a host name",
        ] {
            assert!(found.contains(expected), "{expected} in\n{found}");
        }
    }

    #[test]
    fn a_field_that_is_never_read_is_a_mistake() {
        let text = "domain = 'x.test'\ntrusted_proxies = ['10.0.0.0/8']\nforwarded = 'forwarded'\nproxy_protocol = true\n";
        let mut problems = Vec::new();
        let (file, limits) = read_file("r.toml", text, &mut problems);
        let found = file.resolve(limits, problems).unwrap_err().to_string();
        assert!(
            found.contains("forwarded: has no effect with proxy_protocol"),
            "{found}"
        );
    }
}
