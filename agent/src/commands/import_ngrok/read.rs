//! Reading of a configuration file of ngrok.

use hookward_core::address::parse_network;
use hookward_core::reason::Reason;
use hookward_core::text::printable;
use hookward_gate::providers;
use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::{Yaml, YamlLoader};

/// Content of a file, as far as Hookward has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Import {
    pub tunnels: Vec<ImportedTunnel>,
    /// Settings that Hookward lacks, in the words of the file.
    pub notes: Vec<String>,
}

/// A tunnel or endpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ImportedTunnel {
    pub name: String,
    pub application: String,
    pub host: Option<String>,
    pub upstream_host: Option<String>,
    pub is_http2: bool,
    pub allow_ips: Vec<String>,
    pub deny_ips: Vec<String>,
    /// `USER:PASSWORD` of each credential.
    pub basic: Vec<String>,
    /// Providers with their secrets.
    pub verify: Vec<(String, String)>,
    /// `true` if a check of ngrok is missing here, so that a token replaces it.
    pub needs_token: bool,
}

/// Reads a file.
///
/// # Errors
/// The text is no YAML.
pub(super) fn read(text: &str) -> Result<Import, Reason> {
    // An alias that repeats aliases takes all memory.
    let mut parser = Parser::new_from_str(text);
    loop {
        match parser.next_token().map_err(|error| error.to_string())? {
            (Event::Alias(_), _) => return Err("aliases (*name) are not read".into()),
            (Event::StreamEnd, _) => break,
            _ => {}
        }
    }
    let documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    let mut import = Import::default();
    let Some(root) = documents.first() else {
        return Ok(import);
    };

    for (key, value) in entries(root) {
        match key.as_str() {
            "version" => {}
            "endpoints" => {
                for endpoint in value.as_vec().into_iter().flatten() {
                    read_endpoint(endpoint, &mut import);
                }
            }
            "tunnels" => {
                for (name, tunnel) in entries(value) {
                    read_tunnel(&name, tunnel, &mut import);
                }
            }
            "agent" => {
                let keys = entries(value);
                let keys = keys.iter().map(|(key, _)| format!("agent.{key}"));
                let notes: Vec<_> = keys.map(|key| agent_note(&key)).collect();
                import.notes.extend(notes);
            }
            key => import.notes.push(agent_note(key)),
        }
    }
    Ok(import)
}

fn agent_note(key: &str) -> String {
    let hint = match key.trim_start_matches("agent.") {
        "authtoken" => ": join your relay with `hookward join -`",
        "web_addr" => ": hookward start --inspect ADDRESS",
        "log" | "log_format" | "log_level" => ": hookward start --log FILE, HOOKWARD_LOG=debug",
        "proxy_url" => ": set HTTPS_PROXY",
        "region" | "server_addr" | "connect_url" => ": the relay is your own",
        _ => "",
    };
    format!("{}{hint}", printable(key))
}

/// Reads an entry of `endpoints` of version 3.
fn read_endpoint(endpoint: &Yaml, import: &mut Import) {
    let mut tunnel = ImportedTunnel {
        name: text(get(endpoint, "name")).unwrap_or_else(|| "endpoint".to_owned()),
        ..ImportedTunnel::default()
    };
    let mut notes = Vec::new();
    for (key, value) in entries(endpoint) {
        match key.as_str() {
            "name" | "description" | "metadata" => {}
            "url" => match text(value) {
                Some(url) if is_http(&url) => tunnel.host = host(&url, &mut notes),
                Some(url) => {
                    let (name, url) = (printable(&tunnel.name), printable(&url));
                    import.notes.push(format!(
                        "{name}: {url}: Hookward forwards webhooks over HTTPS only"
                    ));
                    return;
                }
                None => {}
            },
            "upstream" => {
                for (key, value) in entries(value) {
                    match key.as_str() {
                        "url" => tunnel.application = text(value).unwrap_or_default(),
                        "protocol" => tunnel.is_http2 = text(value).as_deref() == Some("http2"),
                        other => notes.push(format!("upstream.{}", printable(other))),
                    }
                }
            }
            "traffic_policy" => read_policy(value, &mut tunnel, &mut notes),
            "pooling_enabled" => notes.push("pooling_enabled: hookward start --pool".to_owned()),
            other => lose(other, &mut tunnel, &mut notes),
        }
    }
    add(tunnel, notes, import);
}

/// Notes a key or an action that Hookward does not have. One that may have refused requests is replaced
/// by a token.
fn lose(what: &str, tunnel: &mut ImportedTunnel, notes: &mut Vec<String>) {
    tunnel.needs_token |= !HARMLESS.contains(&what);
    let token = if tunnel.needs_token {
        "; the route needs a token instead"
    } else {
        ""
    };
    notes.push(format!("{}{token}", printable(what)));
}

/// End of the note of a protection that is lost.
pub(super) const NEEDS_TOKEN: &str = "; the route needs a token instead";

/// Keys and actions that refuse no request.
const HARMLESS: [&str; 20] = [
    "add-headers",
    "agent_tls_termination",
    "bindings",
    "circuit_breaker",
    "circuit-breaker",
    "compress-response",
    "compression",
    "crt",
    "forward-internal",
    "inspect",
    "key",
    "labels",
    "log",
    "rate-limit",
    "remove-headers",
    "request_header",
    "response_header",
    "set-vars",
    "url-rewrite",
    "websocket_tcp_converter",
];

/// Reads an entry of `tunnels`.
fn read_tunnel(name: &str, value: &Yaml, import: &mut Import) {
    let mut tunnel = ImportedTunnel {
        name: name.to_owned(),
        ..ImportedTunnel::default()
    };
    let mut notes = Vec::new();
    for (key, value) in entries(value) {
        match key.as_str() {
            "proto" => {
                let proto = text(value).unwrap_or_default();
                if !matches!(proto.as_str(), "http" | "https") {
                    import.notes.push(format!(
                        "{name}: proto {proto}: Hookward forwards webhooks over HTTPS only"
                    ));
                    return;
                }
            }
            "addr" => tunnel.application = text(value).unwrap_or_default(),
            "domain" | "hostname" | "subdomain" | "url" => {
                tunnel.host = text(value).and_then(|url| host(&url, &mut notes));
            }
            "host_header" => {
                // Any other value is a host, as ours.
                tunnel.upstream_host = text(value).filter(|value| value != "preserve");
            }
            "basic_auth" | "auth" => tunnel.basic.extend(texts(value)),
            "ip_restriction" => {
                tunnel.allow_ips.extend(texts(get(value, "allow_cidrs")));
                tunnel.deny_ips.extend(texts(get(value, "deny_cidrs")));
            }
            "verify_webhook" => read_verify(value, &mut tunnel, &mut notes),
            "traffic_policy" | "policy" => read_policy(value, &mut tunnel, &mut notes),
            "schemes" | "inspect" | "metadata" => {}
            other => lose(other, &mut tunnel, &mut notes),
        }
    }
    add(tunnel, notes, import);
}

fn add(mut tunnel: ImportedTunnel, mut notes: Vec<String>, import: &mut Import) {
    // The name becomes a part of file names.
    let is_plain = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
    tunnel.name = tunnel.name.replace(|char| !is_plain(char), "-");
    let is_taken = |name: &str| import.tunnels.iter().any(|other| other.name == name);
    while is_taken(&tunnel.name) {
        tunnel.name.push_str("-2");
    }
    let mut is_lost = false;
    for addresses in [&mut tunnel.allow_ips, &mut tunnel.deny_ips] {
        addresses.retain(|text| {
            let parsed = parse_network(text);
            if let Err(what) = &parsed {
                is_lost = true;
                notes.push(format!("address {what}{NEEDS_TOKEN}"));
            }
            parsed.is_ok()
        });
    }
    tunnel.needs_token |= is_lost;
    let name = &tunnel.name;
    if tunnel.host.as_ref().is_some_and(|host| host.contains('*')) {
        import.notes.push(format!(
            "{name}: a wildcard host: name each host in a tunnel of its own"
        ));
        return;
    }
    if tunnel.application.is_empty() {
        import.notes.push(format!(
            "{name}: it names no application (upstream.url, addr)"
        ));
        return;
    }
    let notes = notes.into_iter().map(|note| format!("{name}: {note}"));
    import.notes.extend(notes);
    import.tunnels.push(tunnel);
}

/// Reads a traffic policy (ngrok.com/docs/traffic-policy).
fn read_policy(policy: &Yaml, tunnel: &mut ImportedTunnel, notes: &mut Vec<String>) {
    if policy.as_hash().is_none() {
        return lose("a traffic policy that is no table", tunnel, notes);
    }
    for (phase, rules) in entries(policy) {
        if !matches!(
            phase.as_str(),
            "on_http_request" | "inbound" | "on_tcp_connect"
        ) {
            lose(&format!("traffic policy {phase}"), tunnel, notes);
            continue;
        }
        for rule in rules.as_vec().into_iter().flatten() {
            let conditions = texts(get(rule, "expressions"));
            for action in get(rule, "actions").as_vec().into_iter().flatten() {
                let kind = text(get(action, "type")).unwrap_or_default();
                read_action(&kind, get(action, "config"), &conditions, tunnel, notes);
            }
        }
    }
}

fn read_action(
    kind: &str,
    config: &Yaml,
    conditions: &[String],
    tunnel: &mut ImportedTunnel,
    notes: &mut Vec<String>,
) {
    match kind {
        "verify-webhook" | "restrict-ips" | "basic-auth"
            if text(get(config, "enforce")).as_deref() == Some("false") =>
        {
            notes.push(format!("{kind} with enforce: false, which refused nothing"));
            return;
        }
        "verify-webhook" => read_verify(config, tunnel, notes),
        "restrict-ips" => {
            // ngrok requires both lists, and one route has one.
            if !tunnel.allow_ips.is_empty() && !texts(get(config, "allow")).is_empty() {
                return lose("a second restrict-ips", tunnel, notes);
            }
            tunnel.allow_ips.extend(texts(get(config, "allow")));
            tunnel.deny_ips.extend(texts(get(config, "deny")));
        }
        "basic-auth" if !tunnel.basic.is_empty() => {
            return lose("a second basic-auth", tunnel, notes);
        }
        "basic-auth" => tunnel.basic.extend(texts(get(config, "credentials"))),
        other => {
            lose(other, tunnel, notes);
            return;
        }
    }
    // Without the condition, the action refuses more than before.
    if !conditions.is_empty() {
        let conditions = printable(&conditions.join(" && "));
        notes.push(format!(
            "the condition of {kind}, which now applies to every request: {conditions}"
        ));
    }
}

fn read_verify(config: &Yaml, tunnel: &mut ImportedTunnel, notes: &mut Vec<String>) {
    let named = text(get(config, "provider")).unwrap_or_default();
    let secret = text(get(config, "secret")).unwrap_or_default();
    match providers::find(&named.replace('-', "_")) {
        Some(provider) => tunnel.verify.push((provider.id.clone(), secret)),
        None => {
            tunnel.needs_token = true;
            let unknown = providers::unknown(&named);
            notes.push(format!(
                "verify-webhook: {unknown}; the route needs a token instead"
            ));
        }
    }
}

fn is_http(url: &str) -> bool {
    match url.split_once("://") {
        Some((scheme, _)) => matches!(scheme, "http" | "https"),
        None => true,
    }
}

/// Returns the host of a URL: its first label if ngrok owns the domain.
fn host(url: &str, notes: &mut Vec<String>) -> Option<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', ':']).next().unwrap_or_default();
    let is_ngrok = [
        "ngrok.app",
        "ngrok.dev",
        "ngrok.io",
        "ngrok-free.app",
        "ngrok-free.dev",
        "ngrok.pro",
        "internal",
    ]
    .iter()
    .any(|domain| host.ends_with(&format!(".{domain}")));
    let label = host.split('.').next().unwrap_or_default();
    match (is_ngrok, host.contains('.')) {
        (true, _) => {
            notes.push(format!(
                "the domain of {host}: the tunnel is {label} below the relay's domain"
            ));
            Some(label.to_owned())
        }
        (false, true) => {
            notes.push(format!(
                "the DNS record of {host}: it must lead to the relay"
            ));
            Some(host.to_owned())
        }
        (false, false) => (!host.is_empty()).then(|| host.to_owned()),
    }
}

/// Returns the entries of a table.
fn entries(value: &Yaml) -> Vec<(String, &Yaml)> {
    let entries = value.as_hash().into_iter().flatten();
    let named = entries.filter_map(|(key, value)| Some((text(key)?, value)));
    named.collect()
}

fn get<'y>(value: &'y Yaml, key: &str) -> &'y Yaml {
    let found = value
        .as_hash()
        .and_then(|table| table.get(&Yaml::String(key.to_owned())));
    found.unwrap_or(&Yaml::BadValue)
}

fn text(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(number) => Some(number.to_string()),
        Yaml::Boolean(value) => Some(value.to_string()),
        _ => None,
    }
}

/// Returns the strings of a list, or the one that stands for a list.
fn texts(value: &Yaml) -> Vec<String> {
    match value.as_vec() {
        Some(items) => items.iter().filter_map(text).collect(),
        None => text(value).into_iter().collect(),
    }
}
