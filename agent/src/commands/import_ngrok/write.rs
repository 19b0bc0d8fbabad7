//! Files of `hookward start`, from what a file of ngrok says.

use std::path::Path;

use super::read::{Import, ImportedTunnel};

/// File of the tunnels.
pub(super) const TUNNELS_FILE: &str = "hookward.toml";

/// A file to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OutputFile {
    pub name: String,
    pub text: String,
    /// `true` for a file that only its owner may read.
    pub is_secret: bool,
}

/// Returns the files for a directory. `token` creates a secret for a tunnel that ngrok left open.
///
/// # Errors
/// Those of `token`.
pub(super) fn files<E>(
    import: &Import,
    directory: &Path,
    mut token: impl FnMut() -> Result<String, E>,
) -> Result<Vec<OutputFile>, E> {
    let tables: Vec<_> = import.tunnels.iter().map(tunnel_table).collect();
    let mut files = vec![public(TUNNELS_FILE.to_owned(), tables.join("\n"))];
    for tunnel in &import.tunnels {
        add_policy(
            &mut files,
            tunnel,
            &directory.display().to_string(),
            &mut token,
        )?;
    }
    Ok(files)
}

const fn public(name: String, text: String) -> OutputFile {
    OutputFile {
        name,
        text,
        is_secret: false,
    }
}

fn tunnel_table(tunnel: &ImportedTunnel) -> String {
    let mut lines = vec![
        "[[tunnel]]".to_owned(),
        format!("application = {}", quoted(&tunnel.application)),
    ];
    if let Some(host) = &tunnel.host {
        lines.push(format!("host = {}", quoted(host)));
    }
    lines.push(format!("policy = {}", quoted(&policy_file(tunnel))));
    if let Some(host) = &tunnel.upstream_host {
        lines.push(format!("upstream_host = {}", quoted(host)));
    }
    if tunnel.is_http2 {
        lines.push("upstream_http2 = true".to_owned());
    }
    lines.join("\n") + "\n"
}

fn add_policy<E>(
    files: &mut Vec<OutputFile>,
    tunnel: &ImportedTunnel,
    directory: &str,
    token: &mut impl FnMut() -> Result<String, E>,
) -> Result<(), E> {
    let mut secrets = Vec::new();
    let mut secret = |kind: &str, text: String| {
        let name = format!("{}.{kind}.secret", tunnel.name);
        let source = quoted(&format!("file:{directory}/{name}"));
        secrets.push(OutputFile {
            name,
            text,
            is_secret: true,
        });
        source
    };

    let mut route = vec![
        "[[route]]".to_owned(),
        "path = \"/**\" # ngrok exposed every path: name those of the webhooks".to_owned(),
    ];
    if !tunnel.deny_ips.is_empty() {
        route.push(format!("deny_ips = {}", list(&tunnel.deny_ips)));
    }

    let mut accept = vec![String::new(), "[[route.accept]]".to_owned()];
    if !tunnel.allow_ips.is_empty() {
        accept.push(format!("allow_ips = {}", list(&tunnel.allow_ips)));
    }
    if !tunnel.basic.is_empty() {
        let pairs = tunnel.basic.iter().enumerate();
        let sources =
            pairs.map(|(number, pair)| secret(&format!("basic{}", number + 1), pair.clone()));
        let sources: Vec<_> = sources.collect();
        accept.push(format!("basic = [{}]", sources.join(", ")));
    }
    let is_open = tunnel.allow_ips.is_empty() && tunnel.basic.is_empty();
    if tunnel.needs_token || is_open && tunnel.verify.is_empty() {
        accept.push(format!("token = {}", secret("token", token()?)));
    }
    for (number, (provider, value)) in tunnel.verify.iter().enumerate() {
        let kind = format!("{provider}{}", number + 1);
        accept.push(String::new());
        accept.push("[[route.accept.verify]]".to_owned());
        accept.push(format!("provider = {}", quoted(provider)));
        accept.push(format!("secret = {}", secret(&kind, value.clone())));
    }

    route.extend(accept);
    files.push(public(policy_file(tunnel), route.join("\n") + "\n"));
    files.extend(secrets);
    Ok(())
}

fn policy_file(tunnel: &ImportedTunnel) -> String {
    format!("{}.policy.toml", tunnel.name)
}

/// Returns a TOML string.
fn quoted(text: &str) -> String {
    // JSON escapes as TOML does (toml.io/en/v1.0.0#string). ngrok has no variables here.
    serde_json::Value::String(text.replace("${", "$${")).to_string()
}

fn list(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::read::read;
    use super::*;

    const FILE: &str = "
version: 3
agent:
  authtoken: 2abc
endpoints:
  - name: flexdeploy
    url: https://flex.ngrok.app
    upstream: { url: 8000, protocol: http2 }
    traffic_policy:
      on_http_request:
        - expressions: [\"req.method == 'POST'\"]
          actions:
            - { type: verify-webhook, config: { provider: github, secret: a github secret } }
        - actions:
            - { type: restrict-ips, config: { allow: [192.0.2.0/24], deny: [192.0.2.1] } }
            - { type: basic-auth, config: { credentials: ['user:a \"password\"'] } }
            - { type: rate-limit, config: { capacity: 10 } }
  - { name: shell, url: 'tcp://1.tcp.ngrok.io:22', upstream: { url: 22 } }
tunnels:
  open: { proto: http, addr: 9000, hostname: hooks.example.org, host_header: rewrite }
";

    fn file(name: &str) -> String {
        let import = read(FILE).unwrap();
        let token = || Ok::<_, ()>("a token".to_owned());
        let files = files(&import, Path::new("/etc/hookward"), token).unwrap();
        let found = files.into_iter().find(|file| file.name == name);
        found.map(|file| file.text).unwrap_or_default()
    }

    #[test]
    fn endpoints_and_tunnels_become_tunnels() {
        let expected = r#"[[tunnel]]
application = "8000"
host = "flex"
policy = "flexdeploy.policy.toml"
upstream_http2 = true

[[tunnel]]
application = "9000"
host = "hooks.example.org"
policy = "open.policy.toml"
upstream_host = "rewrite"
"#;
        assert_eq!(file(TUNNELS_FILE), expected);
    }

    #[test]
    fn actions_become_checks_and_secrets_files() {
        let policy = file("flexdeploy.policy.toml");
        for line in [
            "deny_ips = [\"192.0.2.1\"]",
            "allow_ips = [\"192.0.2.0/24\"]",
            "basic = [\"file:/etc/hookward/flexdeploy.basic1.secret\"]",
            "provider = \"github\"",
            "secret = \"file:/etc/hookward/flexdeploy.github1.secret\"",
        ] {
            assert!(policy.contains(line), "{line} in\n{policy}");
        }
        assert_eq!(file("flexdeploy.basic1.secret"), "user:a \"password\"");
        assert_eq!(file("flexdeploy.github1.secret"), "a github secret");
        // Closed by default, unlike ngrok.
        assert!(
            file("open.policy.toml").contains("token = \"file:/etc/hookward/open.token.secret\"")
        );
    }

    #[test]
    fn what_is_lost_is_named() {
        let notes = read(FILE).unwrap().notes.join("\n");
        for note in [
            "agent.authtoken: join your relay",
            "flexdeploy: the condition of verify-webhook",
            "flexdeploy: rate-limit",
            "flexdeploy: the domain of flex.ngrok.app",
            "shell: tcp://1.tcp.ngrok.io:22",
            "open: the DNS record of hooks.example.org",
        ] {
            assert!(notes.contains(note), "{note} in\n{notes}");
        }
        assert!(read("a: [").is_err());
    }

    /// A check that Hookward lacks must not leave the tunnel more open.
    #[test]
    fn a_check_that_is_lost_is_replaced_by_a_token() {
        let needs_token = |more: &str| {
            let text = format!("tunnels:\n  a: {{ proto: http, addr: 1, {more} }}");
            let import = read(&text).unwrap();
            assert_eq!(import.notes.len(), 1, "{:?}", import.notes);
            import.tunnels[0].needs_token
        };
        for lost in [
            "oauth: { provider: google }",
            "mutual_tls_cas: ca.pem",
            "traffic_policy: { on_http_request: [{ actions: [{ type: jwt-validation }] }] }",
            "traffic_policy: { on_http_request: [{ actions: [{ type: custom-response }] }] }",
            "traffic_policy: { on_event_destination: [] }",
            "ip_restriction: { allow_cidrs: [192.0.2.0/24, nowhere] }",
            "verify_webhook: { provider: unheard-of, secret: x }",
        ] {
            assert!(needs_token(lost), "{lost}");
        }
        assert!(!needs_token("compression: true"));
    }

    #[test]
    fn names_are_files_of_their_own() {
        let text = "endpoints:\n- { name: a, upstream: { url: 1 } }\n- { name: a, upstream: { url: 2 } }\n\
                    - { name: ../a-2, upstream: { url: 3 } }\n- { name: a-2, upstream: { url: 4 } }";
        let import = read(text).unwrap();
        let names: Vec<_> = import
            .tunnels
            .iter()
            .map(|tunnel| tunnel.name.as_str())
            .collect();
        assert_eq!(names, ["a", "a-2", "---a-2", "a-2-2"]);
    }
}
