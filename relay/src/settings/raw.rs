//! Settings as written, in a file or as flags.

mod resolve;

use hookward_core::diagnostics::{Diagnostic, TableReader, TomlDocument, Variables};
use hookward_core::limits::Limits;
use hookward_observe::audit::RawAudit;
use std::path::PathBuf;

use super::{DeliverySettings, RawAcme};

/// Settings as written, in a file or as flags. A flag wins over the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RawSettings {
    pub domain: Option<String>,
    /// Address and port of the listeners.
    pub listen: Option<String>,
    /// Port in public URLs.
    pub public_port: Option<u16>,
    /// Host and port under which agents reach this relay.
    pub tunnel_address: Option<String>,
    /// Directory of the relay's state.
    pub data_dir: Option<PathBuf>,
    /// PEM file with the edge's certificate chain.
    pub certificate: Option<PathBuf>,
    /// PEM file with its key.
    pub key: Option<PathBuf>,
    /// Certificates from an ACME server.
    pub acme: RawAcme,
    /// Networks whose forwarding header field is trusted.
    pub trusted_proxies: Vec<String>,
    /// Exact hosts, and the agents that own them.
    pub hosts: Vec<(String, String)>,
    /// Header field that trusted proxies write.
    pub forwarded: Option<String>,
    /// `true` if connections of trusted proxies begin with the PROXY protocol.
    pub proxy_protocol: Option<bool>,
    /// Policy file of the baseline policy.
    pub baseline_policy: Option<PathBuf>,
    pub fetch_hosts: Vec<String>,
    /// Certificates to trust when fetching.
    pub fetch_ca: Option<PathBuf>,
    pub fetch_resolve: Vec<(String, String)>,
    /// Address of the admin API, or `off`.
    pub admin: Option<String>,
    /// Address of health and metrics for other machines.
    pub monitoring: Option<String>,
    /// Settings of the audit log.
    pub audit: RawAudit,
    /// Settings of stored deliveries; of the file only.
    pub delivery: DeliverySettings,
    /// `true` to replace damaged or missing files of the data directory; a flag only.
    pub reset: bool,
}

/// Reads a settings file. Adds errors to `problems`, and returns the valid settings.
pub(crate) fn read_file(
    name: &str,
    text: &str,
    problems: &mut Vec<Diagnostic>,
) -> (RawSettings, Limits) {
    let variable = |name: &str| std::env::var(name).ok();
    let document = TomlDocument::new(name, text).with_variables(Variables::new(&variable));
    let read = {
        let table = document.parse();
        let mut top = TableReader::new(&document, &table);
        let read = read_table(&mut top);
        top.finish();
        read
    };

    problems.extend(document.into_diagnostics());
    read
}

/// Reads the keys of the file.
pub(super) fn read_table(top: &mut TableReader<'_>) -> (RawSettings, Limits) {
    let mut written = RawSettings::default();
    let mut limits = Limits::default();
    written.domain = top.string("domain");
    written.listen = top.string("listen");
    written.public_port = top.count("public_port").and_then(|port| {
        let port = u16::try_from(port).ok();
        if port.is_none() {
            top.report_value("public_port", "a port is between 1 and 65535");
        }
        port
    });

    written.tunnel_address = top.string("tunnel_address");
    written.data_dir = top.string("data_dir").map(PathBuf::from);
    written.certificate = top.string("certificate").map(PathBuf::from);
    written.key = top.string("key").map(PathBuf::from);
    written.trusted_proxies = top.strings("trusted_proxies").unwrap_or_default();
    written.forwarded = top.string("forwarded");
    written.proxy_protocol = top.boolean("proxy_protocol");
    written.baseline_policy = top.string("baseline_policy").map(PathBuf::from);

    if let Some(mut fetch) = top.table("fetch") {
        written.fetch_hosts = fetch.strings("hosts").unwrap_or_default();
        written.fetch_ca = fetch.string("ca").map(PathBuf::from);
        if let Some(mut resolve) = fetch.table("resolve") {
            written.fetch_resolve = resolve.entries();
        }
        fetch.finish();
    }

    if let Some(mut hosts) = top.table("hosts") {
        written.hosts = hosts.entries();
    }

    if let Some(mut table) = top.table("admin") {
        written.admin = table.string("listen");
        table.finish();
    }

    if let Some(mut table) = top.table("monitoring") {
        written.monitoring = table.string("listen");
        table.finish();
    }

    if let Some(mut table) = top.table("audit") {
        written.audit = RawAudit::read(&mut table);
        table.finish();
    }

    if let Some(mut table) = top.table("acme") {
        written.acme = RawAcme::read(&mut table);
        table.finish();
    }

    if let Some(mut table) = top.table("delivery") {
        written.delivery = DeliverySettings::read(&mut table);
        table.finish();
    }

    if let Some(mut table) = top.table("limits") {
        limits = Limits::read(&mut table);
        table.finish();
    }

    (written, limits)
}

impl RawSettings {
    /// Returns these settings; those of `file` fill the gaps.
    #[must_use]
    pub(crate) fn merge_over(self, file: Self) -> Self {
        Self {
            domain: self.domain.or(file.domain),
            listen: self.listen.or(file.listen),
            public_port: self.public_port.or(file.public_port),
            tunnel_address: self.tunnel_address.or(file.tunnel_address),
            data_dir: self.data_dir.or(file.data_dir),
            certificate: self.certificate.or(file.certificate),
            key: self.key.or(file.key),
            acme: self.acme.merge_over(file.acme),
            trusted_proxies: [file.trusted_proxies, self.trusted_proxies].concat(),
            hosts: [file.hosts, self.hosts].concat(),
            forwarded: self.forwarded.or(file.forwarded),
            proxy_protocol: self.proxy_protocol.or(file.proxy_protocol),
            baseline_policy: self.baseline_policy.or(file.baseline_policy),
            fetch_hosts: [file.fetch_hosts, self.fetch_hosts].concat(),
            fetch_ca: self.fetch_ca.or(file.fetch_ca),
            fetch_resolve: [file.fetch_resolve, self.fetch_resolve].concat(),
            admin: self.admin.or(file.admin),
            monitoring: self.monitoring.or(file.monitoring),
            audit: file.audit.with_file(self.audit.file),
            delivery: file.delivery,
            reset: self.reset,
        }
    }
}
