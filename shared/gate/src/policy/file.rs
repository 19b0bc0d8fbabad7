//! The policy as a TOML file.
//!
//! ```toml
//! client_rate = "50/s"                        # optional, of one client address; the relay counts
//! rate = "200/s"                              # optional, of the whole tunnel
//! lockout = { failures = 20, within = "1m", for = "5m" }   # optional: addresses that keep failing
//!
//! [[route]]
//! name = "git"                                # optional: the first path otherwise
//! path = "/flexdeploy/webhooks/v1/**"         # or a list
//! methods = ["POST"]                          # optional: all that may pass at all
//! deny_ips = ["192.0.2.66"]                   # optional, wins over every accept rule
//! max_body = "25MiB"                          # of a body that a check must read
//! answer_timeout = "60s"                      # for the head of the application's answer
//! websocket = false
//! keep_token = false
//! encoded_slashes = false                     # %2F below the final /** reaches the application untouched
//! rate = "100/s"                              # optional, of this route
//! delivery = "fallback"                       # or "direct", "queue", or a table:
//! # delivery = { mode = "queue", order = "json:repository.full_name", max_age = "3d", retry_on = [429, "5xx"] }
//! replay = { on_duplicate = "acknowledge", window = "24h" }   # or refuse, forward
//! observe_until = 2026-12-01                  # optional: show failed checks, let them pass
//!
//!   [[route.accept]]                          # accept rules: one must accept
//!   allow_ips = ["192.30.252.0/22", "github"] # ranges, and named sets
//!   token = "env:HOOK_TOKEN"                  # or { at = "header:X-Token", secrets = ["env:A", "env:B"] }
//!   basic = "env:USER_AND_PASSWORD"           # user:password
//!   jwt = { algs = ["RS256"], key = "pem", secret = "file:public.pem", iss = "me", aud = "you" }
//!   content_type = ["application/json"]
//!   headers = { X-GitHub-Event = ["push", "ping"] }
//!   verify = { provider = "github", secret = "env:GITHUB_SECRET" }   # secret_at = "agent"
//!   body = { ref = "refs/heads/main" }        # values of a JSON body
//! ```
//!
//! A scheme of one's own stands in place of the provider:
//! `verify = { scheme = { alg = "hmac-sha256", sig = { at = "header:X-Signature", enc = "hex" } }, secret = "env:S" }`,
//! with the fields of [`crate::providers::scheme`].

mod checks;
mod values;

use time::OffsetDateTime;

pub use self::values::REPLAY_WINDOW_MS;
use self::values::{lockout, replay, value_rules};
use super::raw::{RawAccept, RawPolicy, RawRoute, Unprotected};
use super::resolve::{LoadedPolicy, resolve};
use crate::policy::Mode;
use hookward_core::clock::UnixMillis;
use hookward_core::diagnostics::{Diagnostics, TableReader, TomlDocument};
use hookward_core::secret::SecretReader;

/// Reads a policy file. `name` is the file's name in messages.
///
/// # Errors
/// All mistakes of the file in one run.
pub fn read(
    name: &str,
    text: &str,
    secrets: &dyn SecretReader,
    now: UnixMillis,
) -> Result<LoadedPolicy, Diagnostics> {
    let document = TomlDocument::new(name, text);
    let raw = policy(&document);
    let resolved = resolve(raw, secrets, now);
    if let Err(mistakes) = &resolved {
        for mistake in mistakes {
            document.report(&mistake.origin, &mistake.reason);
        }
    }

    let problems = document.into_diagnostics();
    match resolved {
        Ok(loaded) if problems.is_empty() => Ok(loaded),
        _ => Err(Diagnostics(problems)),
    }
}

/// Reads the tables of a file. Reports values of a wrong type, and unknown keys.
fn policy(document: &TomlDocument<'_>) -> RawPolicy {
    let table = document.parse();
    let mut top = TableReader::new(document, &table);
    if top.has("tunnel") {
        top.report_value(
            "tunnel",
            "this is a file for `hookward start`; a policy has tables [[route]]",
        );
    }

    let raw = RawPolicy {
        client_rate: top.string("client_rate"),
        rate: top.string("rate"),
        lockout: lockout(&mut top),
        routes: top.tables("route").into_iter().map(route).collect(),
        origins: top.origins(),
    };
    top.finish();
    raw
}

fn route(mut reader: TableReader<'_>) -> RawRoute {
    let mut raw = RawRoute {
        paths: reader.strings("path").unwrap_or_default(),
        name: reader.string("name"),
        methods: methods(&mut reader),
        deny_ips: reader.strings("deny_ips").unwrap_or_default(),
        max_body: reader.size("max_body"),
        websocket: reader.boolean("websocket").unwrap_or_default(),
        keep_token: reader.boolean("keep_token").unwrap_or_default(),
        encoded_slashes: reader.boolean("encoded_slashes").unwrap_or_default(),
        answer_timeout: reader.string("answer_timeout"),
        rate: reader.string("rate"),
        ..RawRoute::default()
    };

    if reader.has("replay") {
        raw.replay = reader.table("replay").and_then(replay);
    }

    raw.delivery = values::delivery(&mut reader);
    raw.mode = reader.day("observe_until").map(|day| {
        let at = OffsetDateTime::new_utc(day, time::Time::MIDNIGHT).unix_timestamp();
        Mode::Observe {
            until: u64::try_from(at).unwrap_or_default(),
        }
    });

    for table in reader.tables("accept") {
        let before = reader.diagnostics();
        let mut accept = accept(table);
        accept.is_readable = reader.diagnostics() == before;
        raw.accept.push(accept);
    }

    raw.origins = reader.origins();
    reader.finish();
    raw
}

fn accept(mut reader: TableReader<'_>) -> RawAccept {
    let open = reader.boolean("open").unwrap_or_default();
    let mut raw = RawAccept {
        unprotected: match open {
            true => Unprotected::Open,
            false => Unprotected::Mistake,
        },
        allow_ips: reader.strings("allow_ips"),
        token: checks::token(&mut reader),
        basic: reader.strings("basic"),
        content_types: reader.strings("content_type").unwrap_or_default(),
        headers: value_rules(&mut reader, "headers"),
        ..RawAccept::default()
    };

    if reader.has("jwt") {
        raw.verify.extend(reader.table("jwt").and_then(checks::jwt));
    }
    for table in reader.tables("verify") {
        raw.verify.push(checks::verify(table));
    }
    raw.body = value_rules(&mut reader, "body");

    raw.origins = reader.origins();
    reader.finish();
    raw
}

/// Reads the methods of a route.
fn methods(reader: &mut TableReader<'_>) -> Option<Vec<String>> {
    let methods = reader.strings("methods")?;
    if methods.is_empty() {
        reader.report_value(
            "methods",
            "the list is empty; leave the key out to admit all",
        );
    }
    Some(methods)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{OnDuplicate, Policy, ReplayProtection};
    use hookward_core::secret::{SecretError, SecretSource};
    use zeroize::Zeroizing;

    struct Fake;

    impl SecretReader for Fake {
        fn read(&self, source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, SecretError> {
            match source {
                SecretSource::Env(name) if name == "SET" => {
                    Ok(Zeroizing::new(b"s3cret\n".to_vec()))
                }
                SecretSource::Env(name) if name == "USER" => {
                    Ok(Zeroizing::new(b"user:pass".to_vec()))
                }
                SecretSource::Env(name) if name == "NEWLINE" => Ok(Zeroizing::new(b"\n".to_vec())),
                SecretSource::Env(name) => Err(SecretError::Unset(name.clone())),
                SecretSource::File(path)
                | SecretSource::Command(path)
                | SecretSource::Systemd(path) => {
                    Err(SecretError::Unreadable(path.clone(), "gone".into()))
                }
            }
        }
    }

    const NOW: UnixMillis = UnixMillis(1_795_000_000_000); // 2026-11-18

    fn problems(text: &str) -> Vec<String> {
        match read("p.toml", text, &Fake, NOW) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_whole_policy() {
        let text = r#"
            [[route]]
            path = ["/a/**", "/b"]
            methods = ["POST"]
            observe_until = 2026-12-01
            [[route.accept]]
            allow_ips = "192.0.2.0/24"
            token = { at = "header:X-Token", secrets = ["env:SET"] }
            [[route.accept]]
            verify = { provider = "bitbucket-server", secret = "env:SET", secret_at = "agent" }
        "#;
        let Ok(loaded) = read("p.toml", text, &Fake, NOW) else {
            panic!("{:?}", problems(text))
        };

        assert_eq!(loaded.notes.len(), 2);
        let route = &loaded.policy.routes[0];
        assert_eq!(route.accept.len(), 2);
        assert!(matches!(
            route.mode,
            Mode::Observe {
                until: 1_796_083_200
            }
        ));

        assert!(
            loaded.policy.for_relay().routes[0].accept[1].verify[0]
                .secrets
                .is_empty()
        );
    }

    #[test]
    fn a_trial_that_is_over_enforces_and_says_so() {
        let text = "[[route]]\npath='/a'\nobserve_until=2026-11-01\naccept.token='env:SET'";
        let Ok(loaded) = read("p.toml", text, &Fake, NOW) else {
            panic!("{:?}", problems(text))
        };
        let said = loaded.policy.warnings(NOW);
        assert!(
            said.iter()
                .any(|warning| warning.contains("observe_until is over")),
            "{said:?}"
        );
    }

    #[test]
    fn every_mistake_in_one_run() {
        let text = r#"
[[route]]
path = "/a/**"
metods = ["POST"]
[[route.accept]]
allow_ips = ["192.0.2.7/24", "any"]
token = "hunter2"
[[route.accept]]
verify = { provider = "githup", secret = "env:UNSET" }
[[route.accept]]
token = "env:NEWLINE"
[[route]]
path = "b"
max_body = "lots"
[[route.accept]]
"#;

        let found = problems(text);
        for expected in [
            "p.toml:4:1: route[1]: unknown key \"metods\"",
            "192.0.2.7/24",
            "\"any\"",
            "never as itself",
            "githup",
            "UNSET is not set",
            "env:NEWLINE is empty",
            "must begin with a slash",
            "max_body: expected a size",
        ] {
            assert!(
                found.iter().any(|line| line.contains(expected)),
                "{expected} in {found:#?}"
            );
        }

        assert!(
            !found.iter().any(|line| line.contains("hunter2")),
            "a literal secret is not repeated"
        );

        let lacks = found
            .iter()
            .filter(|line| line.contains("open = true"))
            .count();
        assert_eq!(
            lacks, 1,
            "only the last one lacks something; the others' secrets can't be read: {found:#?}"
        );
    }

    #[test]
    fn policies_that_can_not_match() {
        let cases = [
            ("", "no route"),
            ("[[route]]\npath = '/a'", "no accept"),
            (
                "[[route]]\npath='/a/**'\naccept.token='env:SET'\n[[route]]\npath='/a/b'\naccept.token='env:SET'",
                "can't be reached",
            ),
            (
                "[[route]]\npath='/a'\ndeny_ips='10.0.0.0/8'\naccept.allow_ips='10.1.0.0/16'",
                "denied by deny_ips",
            ),
            ("[[route]]\npath='/a'\naccept.allow_ips=[]", "empty list"),
            (
                "[[route]]\npath='/a'\naccept.allow_ips='0.0.0.0/0'",
                "open = true",
            ),
            (
                "[[route]]\npath='/a'\nmethods=['TRACE']\naccept.token='env:SET'",
                "can't pass",
            ),
            (
                "[[route]]\npath='/a'\nobserve_until=2027-11-01\naccept.token='env:SET'",
                "30 days",
            ),
            (
                "[[route]]\npath='/a'\naccept.open=true\naccept.token='env:SET'",
                "beside a check",
            ),
        ];

        for (text, expected) in cases {
            let found = problems(text);
            assert!(
                found.iter().any(|line| line.contains(expected)),
                "{text}: {found:?}"
            );
        }
    }

    #[test]
    fn every_check_can_be_written() {
        let text = r#"
            client_rate = "50/s"
            rate = "200/s"
            lockout = { failures = 20, within = "1m", for = "5m" }
            [[route]]
            path = "/a"
            rate = "100/m"
            replay = { on_duplicate = "acknowledge", window = "24h" }
            [[route.accept]]
            allow_ips = ["github", "192.0.2.0/24"]
            basic = ["env:USER"]
            content_type = "application/json"
            headers = { X-GitHub-Event = ["push", "ping"], X-Other = "1" }
            verify = [
                { provider = "github", secret = "env:SET", challenge = false },
                { scheme = { alg = "hmac-sha512", sig = { at = "header:X-S", enc = "hex" }, msg = "{header:X-T}.{body}" }, secret = "env:SET" },
            ]
            body = { ref = "refs/heads/main", "commits[*].n" = [1, 2], ok = true }
            [[route.accept]]
            jwt = { algs = ["HS256"], secret = "env:SET", iss = "me", claims = { sub = "{url}" }, max_age = "5m" }
            [[route.accept]]
            verify = { provider = "aws-sns" }
        "#;

        let Ok(loaded) = read("p.toml", text, &Fake, NOW) else {
            panic!("{:#?}", problems(text))
        };
        let route = &loaded.policy.routes[0];
        assert_eq!(
            route.replay,
            Some(ReplayProtection {
                on_duplicate: OnDuplicate::Acknowledge,
                window_ms: 86_400_000
            })
        );

        let accept = &route.accept[0];
        assert_eq!(accept.allow_ips.as_ref().unwrap().named, ["github"]);
        assert_eq!(
            (accept.headers.len(), accept.verify.len(), accept.body.len()),
            (2, 2, 3)
        );
        assert!(accept.body.iter().any(|rule| rule.allowed == ["1", "2"]));
        assert_eq!(accept.verify[0].secrets[0].name, "env:SET");

        assert!(
            route.accept[1].verify[0]
                .scheme
                .as_ref()
                .unwrap()
                .jwt
                .as_ref()
                .unwrap()
                .expires
        );

        let sent = serde_json::to_string(&loaded.policy).unwrap();
        let arrived: Policy = serde_json::from_str(&sent).unwrap();
        assert_eq!(
            serde_json::to_string(&arrived).unwrap(),
            sent,
            "it travels as it is"
        );
        assert!(crate::engine::Gate::compile(&arrived, crate::engine::Side::Relay, NOW).is_ok());
    }

    #[test]
    fn mistakes_of_the_newer_checks() {
        let text = r#"
rate = "fast"
lockout = { failures = 0 }
[[route]]
path = "/a"
replay = { on_duplicate = "drop" }
[[route.accept]]
allow_ips = ["gitlub"]
basic = "env:SET"
headers = { "a b" = "x" }
body = { "a..b" = "x" }
jwt = { secret = "env:SET", algs = ["none"] }
verify = [
  { provider = "github", variant = "x", secret = "env:SET" },
  { provider = "docker_hub", secret = "env:SET" },
  { scheme = { alg = "rot13", sig = { at = "nowhere", enc = "hex" }, extra = 1 }, secret = "env:SET" },
  { provider = "github", secret = "env:SET", challenge = true, origin = "http://x" },
]
"#;

        let found = problems(text);
        for expected in [
            "p.toml:2:8: rate: \"fast\" is not a rate",
            "failures: expected a whole number from 1",
            "within is missing",
            "on_duplicate: expected",
            "p.toml:8:13: route[1].accept[1]: allow_ips: \"gitlub\" is neither",
            "env:SET holds no user:password",
            "\"a b\" is not a header name",
            "\"a..b\" is not a path",
            "unknown variant `none`",
            "GitHub has no variants",
            "Docker Hub can't be verified",
            "p.toml:16:22: route[1].accept[1].verify[3].scheme: alg: unknown variant `rot13`",
            "\"nowhere\" is not a location",
            "unknown key \"extra\"",
            "challenge has no effect",
            "origin is written https://",
        ] {
            assert!(
                found.iter().any(|line| line.contains(expected)),
                "{expected} in {found:#?}"
            );
        }
    }
}
