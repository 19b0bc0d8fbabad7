//! The keys of the settings file, for `hookward-relay config`. Their kinds come from the code that
//! reads them.

use hookward_core::diagnostics::{KnownKey, describe};
use hookward_core::limits::Limits;

use super::raw::read_table;

/// A key of the settings file.
#[derive(Debug, Clone)]
pub(crate) struct SettingKey {
    /// Path and kind.
    pub known: KnownKey,
    /// Name of its flag, without `--`.
    pub flag: Option<&'static str>,
    /// Default, in TOML; a remark in parentheses if it is no value.
    pub default: String,
    /// Example, in TOML, for a key without a default value.
    pub example: &'static str,
    /// Description.
    pub about: String,
}

impl SettingKey {
    /// Returns the value for an example file.
    pub(crate) fn sample(&self) -> &str {
        match self.example {
            "" => &self.default,
            example => example,
        }
    }
}

/// Returns all keys, in the order of the example file.
pub(crate) fn all() -> Vec<SettingKey> {
    let limits = Limits::table();
    let known = describe(|table| {
        let _ = read_table(table);
    });
    let described = known.into_iter().map(|known| {
        let row = KEYS.iter().find(|(path, ..)| *path == known.path);
        let limit = known.path.strip_prefix("limits.");
        let limit = limit.and_then(|name| limits.iter().find(|row| row.0 == name));
        match (row, limit) {
            (Some((_, flag, default, example, about)), _) => SettingKey {
                flag: (!flag.is_empty()).then_some(*flag),
                default: (*default).to_owned(),
                example,
                about: (*about).to_owned(),
                known,
            },
            (None, Some((_, default, about))) => SettingKey {
                flag: None,
                default: quoted(default),
                example: "",
                about: about.clone(),
                known,
            },
            // A test finds it.
            (None, None) => SettingKey {
                flag: None,
                default: String::new(),
                example: "",
                about: String::new(),
                known,
            },
        }
    });
    let mut keys: Vec<_> = described.collect();
    // In a TOML file, keys of the root come before those of tables.
    keys.sort_by_key(|key| key.known.path.contains('.'));
    keys
}

/// Returns a limit in TOML: a number as it is, a duration or a size in quotes.
fn quoted(value: &str) -> String {
    match value.bytes().all(|byte| byte.is_ascii_digit()) {
        true => value.to_owned(),
        false => format!("{value:?}"),
    }
}

/// Path, flag, default, example and description of each key but the limits.
const KEYS: &[(&str, &str, &str, &str, &str)] = &[
    (
        "domain",
        "domain",
        "(required)",
        "\"hooks.example.com\"",
        "Domain below which tunnels have their hosts",
    ),
    (
        "listen",
        "listen",
        "\"[::]:443\"",
        "",
        "Address and port for HTTPS (TCP) and the tunnel (UDP)",
    ),
    (
        "public_port",
        "public-port",
        "(the port of listen)",
        "443",
        "Port that senders use, behind a port forward",
    ),
    (
        "tunnel_address",
        "tunnel-address",
        "(the domain and the public port)",
        "\"hooks.example.com:443\"",
        "Address that join tokens name",
    ),
    (
        "data_dir",
        "data-dir",
        "\"/var/lib/hookward\"",
        "",
        "Directory of the relay's state; one relay at a time",
    ),
    (
        "certificate",
        "certificate",
        "(self-signed)",
        "\"/etc/hookward/chain.pem\"",
        "PEM file of the certificate chain",
    ),
    (
        "key",
        "key",
        "(self-signed)",
        "\"/etc/hookward/key.pem\"",
        "PEM file of its private key",
    ),
    (
        "trusted_proxies",
        "trusted-proxy",
        "[]",
        "[\"10.0.0.0/8\"]",
        "Networks of proxies whose statement about client addresses counts",
    ),
    (
        "forwarded",
        "",
        "\"x-forwarded-for\"",
        "",
        "Field that trusted proxies write: x-forwarded-for or forwarded",
    ),
    (
        "proxy_protocol",
        "proxy-protocol",
        "false",
        "",
        "true: connections of trusted proxies begin with a PROXY header, version 1 or 2",
    ),
    (
        "baseline_policy",
        "baseline-policy",
        "(none)",
        "\"/etc/hookward/baseline.toml\"",
        "Policy file that every request must pass first",
    ),
    (
        "fetch.hosts",
        "",
        "[]",
        "[\"keys.example.com\"]",
        "More hosts that policies may fetch keys from; * is one label",
    ),
    (
        "fetch.ca",
        "",
        "(the system's)",
        "\"/etc/hookward/proxy-ca.pem\"",
        "PEM file of certificates to trust beside the system's",
    ),
    (
        "fetch.resolve",
        "",
        "{}",
        "{ \"api.github.com\" = \"10.0.0.5:443\" }",
        "Fixed addresses of names, instead of a lookup",
    ),
    (
        "hosts",
        "reserve-host",
        "{}",
        "{ \"hooks.example.com\" = \"flexdeploy\" }",
        "Exact hosts, and the agents that own them",
    ),
    (
        "admin.listen",
        "admin",
        "\"127.0.0.1:4041\"",
        "",
        "Loopback address of the admin API, or off",
    ),
    (
        "monitoring.listen",
        "monitoring",
        "(none)",
        "\"10.0.0.5:4042\"",
        "Address of health and metrics for other machines",
    ),
    (
        "audit.file",
        "audit",
        "(audit.log in data_dir)",
        "\"/var/log/hookward/audit.log\"",
        "File of the audit log, or off",
    ),
    (
        "audit.stdout",
        "",
        "false",
        "",
        "true: records are also written to standard output",
    ),
    (
        "audit.syslog",
        "",
        "(none)",
        "\"unix:/dev/log\"",
        "Syslog server: unix:PATH, udp:HOST:PORT or tcp:HOST:PORT",
    ),
    (
        "audit.on_failure",
        "",
        "\"count\"",
        "",
        "Reaction to a failing log: count the lost records, or refuse requests",
    ),
    (
        "audit.rotate.size",
        "",
        "\"64MiB\"",
        "",
        "Size from which the file is rotated",
    ),
    (
        "audit.rotate.age",
        "",
        "(none)",
        "\"24h\"",
        "Age of the first record from which the file is rotated",
    ),
    (
        "audit.rotate.keep",
        "",
        "15",
        "",
        "Number of rotated files to keep",
    ),
    (
        "audit.rotate.keep_for",
        "",
        "(none)",
        "\"400d\"",
        "Maximum age of a rotated file",
    ),
    (
        "acme.email",
        "acme",
        "(none)",
        "\"you@example.com\"",
        "Address for warnings of the ACME server; turns ACME on",
    ),
    (
        "acme.directory",
        "acme-directory",
        "\"letsencrypt\"",
        "",
        "ACME server: letsencrypt, letsencrypt-staging, or the https:// URL of its directory",
    ),
    (
        "acme.ca",
        "acme-ca",
        "(the system's)",
        "\"/etc/hookward/acme-ca.pem\"",
        "PEM file of a private ACME server's authority",
    ),
    (
        "acme.http_listen",
        "http-listen",
        "(none)",
        "\"[::]:80\"",
        "Address for plain HTTP, for challenges by HTTP-01",
    ),
    (
        "acme.dns_hook",
        "",
        "(none)",
        "[\"/etc/hookward/dns-hook\"]",
        "Command that edits DNS records, for challenges by DNS-01",
    ),
    (
        "acme.new_names_per_day",
        "",
        "5",
        "",
        "Maximum number of first certificates a day",
    ),
    (
        "acme.external_account.id",
        "",
        "(none)",
        "\"kid-1\"",
        "Id of an external account",
    ),
    (
        "acme.external_account.key",
        "",
        "(none)",
        "\"file:/etc/hookward/eab-key\"",
        "Source of its key: env:NAME, file:PATH, cmd:COMMAND or systemd:NAME",
    ),
    (
        "delivery.enabled",
        "",
        "true",
        "",
        "true: routes may store webhooks",
    ),
    (
        "delivery.max_bytes",
        "",
        "\"1GiB\"",
        "",
        "Maximum size of all stored webhooks",
    ),
    (
        "delivery.max_count",
        "",
        "2000000",
        "",
        "Maximum number of stored webhooks",
    ),
    (
        "delivery.tunnel_max_bytes",
        "",
        "(half of max_bytes)",
        "\"512MiB\"",
        "Maximum size of the stored webhooks of one tunnel, and of one agent",
    ),
    (
        "delivery.tunnel_max_count",
        "",
        "(half of max_count)",
        "1000000",
        "Maximum number of the stored webhooks of one tunnel, and of one agent",
    ),
    (
        "delivery.concurrency",
        "",
        "8",
        "",
        "Maximum number of attempts of one tunnel at the same time",
    ),
    (
        "delivery.max_age",
        "",
        "\"3d\"",
        "",
        "Maximum age of a webhook that is still tried",
    ),
    (
        "delivery.keep_done",
        "",
        "(not kept)",
        "\"1d\"",
        "Time for which the content of a delivered webhook stays",
    ),
    (
        "delivery.keep_dead",
        "",
        "\"30d\"",
        "",
        "Time for which a dead letter stays",
    ),
    (
        "delivery.keep_history",
        "",
        "\"7d\"",
        "",
        "Time for which the list names an ended delivery",
    ),
    (
        "limits.profile",
        "",
        "\"1GiB\"",
        "",
        "Memory of the machine, from which body_memory, max_body_bytes, policy_body and max_connections follow",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// A key without a description would be missing in the example and the schema.
    #[test]
    fn every_key_is_described_once() {
        let keys = all();
        for key in &keys {
            assert!(
                !key.about.is_empty(),
                "{} has no description",
                key.known.path
            );
            assert!(
                !key.sample().is_empty(),
                "{} has no example",
                key.known.path
            );
        }
        for (path, ..) in KEYS {
            let count = keys.iter().filter(|key| key.known.path == *path).count();
            assert_eq!(count, 1, "{path}");
        }
    }
}
