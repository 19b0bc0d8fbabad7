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
//! deny_ips = ["192.0.2.66"]                   # optional, wins over every alternative
//! max_body = "25MiB"                          # of a body that a check must read
//! answer_timeout = "60s"                      # for the head of the application's answer
//! websocket = false
//! keep_token = false
//! encoded_slashes = false                     # %2F below the final /** reaches the application untouched
//! rate = "100/s"                              # optional, of this route
//! replay = { on_duplicate = "acknowledge", window = "24h" }   # or refuse, forward
//! observe_until = 2026-12-01                  # optional: show failed checks, let them pass
//!
//!   [[route.accept]]                          # alternatives: one must accept
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

use http::HeaderName;
use time::OffsetDateTime;

use crate::policy::{
    Accept, ActiveSecret, ActiveToken, Addresses, BodyRule, HeaderRule, Lockout, Mode, OnDuplicate,
    Policy, ReplayProtection, Route, SecretAt, SignatureCheck, TOKEN_NAME, TokenCheck,
    TokenLocation,
};
use crate::providers::scheme::{Algorithm, Encoding, JwtRules, KeyForm, KeySource, SignatureField};
use crate::providers::{Scheme, ValueLocator};
use hookward_core::address::parse_network;
use hookward_core::clock::UnixMillis;
use hookward_core::diagnostics::{Diagnostics, TableReader, TomlDocument};
use hookward_core::json::JsonPath;
use hookward_core::rate::Rate;
use hookward_core::secret::SecretReader;

/// For how long deliveries are remembered when nobody says otherwise: providers retry for up to a
/// day or three, in milliseconds.
pub const REPLAY_WINDOW_MS: u64 = 3 * 86_400_000;

/// A policy as it was read, with what the user should be told.
pub struct LoadedPolicy {
    /// The policy that was read.
    pub policy: Policy,
    /// Notes, such as a newline that was taken off a secret.
    pub notes: Vec<String>,
}

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
    let mut loader = Loader {
        secrets,
        notes: Vec::new(),
    };
    let mut policy = Policy::default();

    {
        let table = document.parse();
        let mut top = TableReader::new(&document, &table);
        if top.has("tunnel") {
            top.report_value(
                "tunnel",
                "this is a file for `hookward start`; a policy has tables [[route]]",
            );
        }

        policy.client_rate = rate(&mut top, "client_rate");
        policy.rate = rate(&mut top, "rate");
        policy.lockout = lockout(&mut top);

        for route in top.tables("route") {
            let place = route.offset();
            let (route, accepts) = loader.route(route);
            // Each mistake gets the line of what it is about.
            for mistake in route
                .own_mistakes(now)
                .into_iter()
                .chain(route.excessive_work())
            {
                document.report_at(place, format!("route {:?}: {mistake}", route.name));
            }

            for (accept, (place, could_be_read)) in route.accept.iter().zip(accepts) {
                // What could not be read is told already, and lacks nothing.
                let lacks = if could_be_read {
                    accept.lacks()
                } else {
                    Vec::new()
                };

                for mistake in lacks
                    .into_iter()
                    .chain(accept.mistakes(&route.deny_ips.set()))
                {
                    document.report_at(place, format!("route {:?}: {mistake}", route.name));
                }
            }

            policy.routes.push(route);
        }

        top.finish();
    }

    let mut problems = document.into_diagnostics();
    if problems.is_empty() {
        let whole = policy
            .errors(now)
            .into_iter()
            .map(|what| hookward_core::diagnostics::Diagnostic::new(name, what));
        problems.extend(whole);
    }

    if problems.is_empty() {
        Ok(LoadedPolicy {
            policy,
            notes: loader.notes,
        })
    } else {
        Err(Diagnostics(problems))
    }
}

struct Loader<'s> {
    secrets: &'s dyn SecretReader,
    notes: Vec<String>,
}

impl Loader<'_> {
    /// A route, and where its alternatives stand and whether they could be read.
    fn route(&mut self, mut reader: TableReader<'_>) -> (Route, Vec<(usize, bool)>) {
        let paths = reader.strings("path").unwrap_or_default();
        let name = reader
            .string("name")
            .or_else(|| paths.first().cloned())
            .unwrap_or_default();
        let mut route = Route::new(name, paths);

        if let Some(methods) = reader.strings("methods") {
            if methods.is_empty() {
                reader.report_value(
                    "methods",
                    "the list is empty; leave the key out to admit all",
                );
            }

            route.methods = methods
                .iter()
                .map(|method| method.to_ascii_uppercase())
                .collect();
        }

        if let Some(ips) = reader.strings("deny_ips") {
            route.deny_ips = addresses(&reader, "deny_ips", &ips);
        }

        if let Some(size) = reader.size("max_body") {
            route.max_body = size;
        }

        if let Some(time) = reader.duration("answer_timeout") {
            route.answer_timeout_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        }

        route.websocket = reader.boolean("websocket").unwrap_or(route.websocket);
        route.keep_token = reader.boolean("keep_token").unwrap_or(route.keep_token);
        route.encoded_slashes = reader
            .boolean("encoded_slashes")
            .unwrap_or(route.encoded_slashes);
        route.rate = rate(&mut reader, "rate");

        if let Some(table) = reader
            .has("replay")
            .then(|| reader.table("replay"))
            .flatten()
        {
            route.replay = replay(table);
        }

        if let Some(day) = reader.day("observe_until") {
            let at = OffsetDateTime::new_utc(day, time::Time::MIDNIGHT).unix_timestamp();
            route.mode = Mode::Observe {
                until: u64::try_from(at).unwrap_or_default(),
            };
        }

        let mut places = Vec::new();
        for accept in reader.tables("accept") {
            let (place, before) = (accept.offset(), reader.diagnostics());
            route.accept.push(self.accept(accept));
            places.push((place, reader.diagnostics() == before));
        }

        reader.finish();
        (route, places)
    }

    fn accept(&mut self, mut reader: TableReader<'_>) -> Accept {
        let mut accept = Accept {
            open: reader.boolean("open").unwrap_or(false),
            ..Accept::default()
        };

        if let Some(ips) = reader.strings("allow_ips") {
            accept.allow_ips = Some(addresses(&reader, "allow_ips", &ips));
        }

        accept.token = self.token(&mut reader);
        accept.basic = self.basic(&mut reader);
        accept.content_types = reader.strings("content_type").unwrap_or_default();

        for (name, allowed, at) in reader.lists("headers") {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => accept.headers.push(HeaderRule { name, allowed }),
                Err(_) => reader.report_at(at, format!("headers: {name:?} is not a header name")),
            }
        }

        if let Some(table) = reader.has("jwt").then(|| reader.table("jwt")).flatten() {
            accept.verify.extend(self.jwt(table));
        }

        for table in reader.tables("verify") {
            accept.verify.extend(self.verify(table));
        }

        for (path, allowed, at) in reader.lists("body") {
            match JsonPath::parse(&path) {
                Ok(path) => accept.body.push(BodyRule { path, allowed }),
                Err(what) => reader.report_at(at, format!("body: {what}")),
            }
        }

        reader.finish();
        accept
    }

    /// `token = "env:NAME"`, or a table with `at`, and `secret` or `secrets`.
    fn token(&mut self, reader: &mut TableReader<'_>) -> Option<TokenCheck> {
        if !reader.has("token") {
            return None;
        }

        if reader.is_table("token") {
            let mut table = reader.table("token")?;
            let at = table.string("at").unwrap_or_else(|| TOKEN_NAME.to_owned());
            let place = TokenLocation::parse(&at)
                .map_err(|what| table.report_value("at", what))
                .ok();
            let secrets = self.secrets_of(&mut table, true);

            table.finish();
            return Some(TokenCheck {
                location: place?,
                active: tokens(secrets),
            });
        }

        let source = reader.string("token")?;
        let secret = self.load(reader, "token", &source)?;
        Some(TokenCheck {
            location: TokenLocation::Query(TOKEN_NAME.to_owned()),
            active: tokens(vec![secret]),
        })
    }

    /// `basic = "env:NAME"`, or a list of such.
    fn basic(&mut self, reader: &mut TableReader<'_>) -> Option<TokenCheck> {
        let sources = reader.strings("basic")?;
        let mut live = Vec::new();

        for source in &sources {
            let Some(secret) = self.load(reader, "basic", source) else {
                continue;
            };
            if secret.secret.expose().contains(&b':') {
                live.extend(tokens(vec![secret]));
            } else {
                reader.report_value("basic", format!("{source} holds no user:password"));
            }
        }

        Some(TokenCheck {
            location: TokenLocation::Basic,
            active: live,
        })
    }

    fn verify(&mut self, mut reader: TableReader<'_>) -> Option<SignatureCheck> {
        let provider = reader.string("provider");
        let scheme = if reader.has("scheme") {
            reader.table("scheme").and_then(scheme).map(Box::new)
        } else {
            None
        };
        if provider.is_none() && !reader.has("scheme") {
            reader.problem("provider is missing; write for example provider = \"github\"");
        }

        let secret_at = match reader.string("secret_at").as_deref() {
            None | Some("relay") => SecretAt::Relay,
            Some("agent") => SecretAt::Agent,
            Some(_) => {
                reader.report_value("secret_at", "expected \"relay\" or \"agent\"");
                SecretAt::Agent
            }
        };

        let mut check = SignatureCheck {
            variant: reader.string("variant"),
            origin: reader.string("origin"),
            challenge: reader.boolean("challenge").unwrap_or(false),
            provider,
            scheme,
            secret_at,
            ..SignatureCheck::default()
        };
        // Where the key is fetched, none need be given.
        let fetched = check
            .schemes()
            .is_ok_and(|schemes| schemes.iter().any(|scheme| scheme.fetch.is_some()));

        check.secrets = self.secrets_of(&mut reader, !fetched);
        reader.finish();
        (check.provider.is_some() || check.scheme.is_some()).then_some(check)
    }

    /// A JSON Web Token that anybody issues: a scheme of one's own, in short.
    fn jwt(&mut self, mut reader: TableReader<'_>) -> Option<SignatureCheck> {
        let at = reader
            .typed("at")
            .or_else(|| ValueLocator::parse("header:Authorization").ok());
        let bearer = !reader.has("at");
        let prefix = reader.string("prefix").unwrap_or_else(|| {
            if bearer {
                "Bearer ".to_owned()
            } else {
                String::new()
            }
        });

        let algs = reader.typed("algs");
        if algs.is_none() && !reader.has("algs") {
            reader.problem("algs is missing; write for example algs = [\"RS256\"]");
        }

        let rules = JwtRules {
            algs: algs.unwrap_or_default(),
            iss: reader.string("iss"),
            aud: reader.string("aud"),
            leeway: reader.typed("leeway").unwrap_or(5),
            expires: reader.boolean("expires").unwrap_or(true),
            max_age: reader.duration("max_age").map(|age| age.as_secs()),
            claims: reader.typed("claims").unwrap_or_default(),
            detached: false,
            unless_empty: None,
        };

        let url = reader.string("jwks");
        let key = reader.typed("key").unwrap_or(if url.is_some() {
            KeyForm::Jwks
        } else {
            KeyForm::Utf8
        });

        let fetch = url.map(|url| KeySource {
            url: Some(url),
            from: None,
            hosts: Vec::new(),
            path: String::new(),
            pick: None,
        });
        let secrets = self.secrets_of(&mut reader, fetch.is_none());

        reader.finish();
        let sig = SignatureField {
            at: at?,
            enc: Encoding::Text,
            prefix,
            split: None,
            kv: None,
            pick: None,
            repeats: false,
        };

        let scheme = Scheme {
            alg: Algorithm::Jwt,
            key,
            part: None,
            sig,
            msg: Default::default(),
            ts: None,
            require: Vec::new(),
            each: None,
            jwt: Some(rules),
            url_ports: false,
            json_body: false,
            fetch,
        };

        Some(SignatureCheck {
            scheme: Some(Box::new(scheme)),
            secrets,
            ..SignatureCheck::default()
        })
    }

    /// `secret = "…"` or `secrets = ["…", "…"]`; one of them must be there, where they are
    /// `needed`.
    fn secrets_of(&mut self, reader: &mut TableReader<'_>, needed: bool) -> Vec<ActiveSecret> {
        let mut sources: Vec<(&str, String)> = Vec::new();
        sources.extend(reader.string("secret").map(|source| ("secret", source)));
        sources.extend(
            reader
                .strings("secrets")
                .unwrap_or_default()
                .into_iter()
                .map(|source| ("secrets", source)),
        );

        if sources.is_empty() && needed {
            reader.problem("no secret is given; write for example secret = \"env:NAME\"");
        }

        sources
            .iter()
            .filter_map(|(key, source)| self.load(reader, key, source))
            .collect()
    }

    fn load(&mut self, reader: &TableReader<'_>, key: &str, source: &str) -> Option<ActiveSecret> {
        match self.secrets.load(source) {
            Ok(loaded) => {
                self.notes.extend(loaded.notes);
                Some(ActiveSecret {
                    name: source.to_owned(),
                    secret: loaded.secret,
                })
            }
            Err(error) => {
                reader.report_value(key, error);
                None
            }
        }
    }
}

/// Tokens of which only the digests are kept.
fn tokens(secrets: Vec<ActiveSecret>) -> Vec<ActiveToken> {
    secrets
        .into_iter()
        .map(|live| ActiveToken {
            digest: live.secret.digest(),
            name: live.name,
        })
        .collect()
}

/// A scheme of the user's own. Each field's mistake gets its own place.
fn scheme(mut reader: TableReader<'_>) -> Option<Scheme> {
    for needed in ["alg", "sig"] {
        if !reader.has(needed) {
            reader.problem(format!(
                "{needed} is missing; the fields of a scheme stand in the README"
            ));
        }
    }

    let (alg, sig) = (reader.typed("alg"), reader.typed("sig"));
    let (msg, ts) = (reader.typed("msg"), reader.typed("ts"));
    let scheme = Scheme {
        key: reader.typed("key").unwrap_or_default(),
        part: reader.string("part"),
        msg: msg.unwrap_or_default(),
        ts,
        require: reader.typed("require").unwrap_or_default(),
        each: reader.typed("each"),
        jwt: reader.typed("jwt"),
        url_ports: reader.boolean("url_ports").unwrap_or(false),
        json_body: reader.boolean("json_body").unwrap_or(false),
        fetch: reader.typed("fetch"),
        alg: alg.unwrap_or(Algorithm::HmacSha256),
        sig: match (alg, sig) {
            (Some(_), Some(sig)) => sig,
            _ => {
                reader.finish();
                return None;
            }
        },
    };

    reader.finish();
    Some(scheme)
}

fn rate(reader: &mut TableReader<'_>, key: &'static str) -> Option<Rate> {
    let text = reader.string(key)?;
    Rate::parse(&text)
        .map_err(|what| reader.report_value(key, what))
        .ok()
}

fn replay(mut reader: TableReader<'_>) -> Option<ReplayProtection> {
    let on_duplicate = match reader.string("on_duplicate").as_deref() {
        Some("refuse") => Some(OnDuplicate::Refuse),
        Some("acknowledge") => Some(OnDuplicate::Acknowledge),
        Some("forward") => Some(OnDuplicate::Forward),
        _ => {
            reader.report_value(
                "on_duplicate",
                "expected \"refuse\", \"acknowledge\" or \"forward\"",
            );
            None
        }
    };

    let window = reader.duration("window").map_or(REPLAY_WINDOW_MS, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    });
    reader.finish();

    Some(ReplayProtection {
        on_duplicate: on_duplicate?,
        window_ms: window,
    })
}

fn lockout(top: &mut TableReader<'_>) -> Option<Lockout> {
    if !top.has("lockout") {
        return None;
    }

    let mut table = top.table("lockout")?;
    let failures = table.count("failures");
    let (within, span) = (table.duration("within"), table.duration("for"));
    for key in ["failures", "within", "for"] {
        if !table.has(key) {
            table.problem(format!(
                "{key} is missing; write for example {{ failures = 20, within = \"1m\", for = \"5m\" }}"
            ));
        }
    }

    table.finish();
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Some(Lockout {
        failures: u32::try_from(failures?).unwrap_or(u32::MAX),
        within_ms: millis(within?),
        for_ms: millis(span?),
    })
}

/// Ranges and names of sets.
fn addresses(reader: &TableReader<'_>, key: &str, texts: &[String]) -> Addresses {
    read_addresses(texts, |what| reader.report_value(key, what))
}

/// Reads ranges and names of sets; mistakes go to `wrong`.
pub fn read_addresses(texts: &[String], mut wrong: impl FnMut(String)) -> Addresses {
    let name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };

    let mut addresses = Addresses::default();
    for text in texts {
        match parse_network(text) {
            Ok(network) => addresses.ranges.push(network),
            Err(_) if name(text) => {
                match hookward_core::ip_sets::find(&text.to_ascii_lowercase()) {
                    Some(set) => addresses.named.push(set.name.clone()),
                    None => wrong(hookward_core::ip_sets::unknown(text)),
                }
            }
            Err(what) => wrong(what),
        }
    }

    addresses
}

#[cfg(test)]
mod tests {
    use super::*;
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
                SecretSource::File(path) => {
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
            "p.toml:2:8: rate: \"fast\" is no rate",
            "failures: expected a whole number from 1",
            "within is missing",
            "on_duplicate: expected",
            "p.toml:8:13: route[1].accept[1]: allow_ips: \"gitlub\" is neither",
            "env:SET holds no user:password",
            "\"a b\" is not a header name",
            "\"a..b\" is no path",
            "unknown variant `none`",
            "GitHub has no variants",
            "Docker Hub can't be verified",
            "p.toml:16:22: route[1].accept[1].verify[3].scheme: alg: unknown variant `rot13`",
            "\"nowhere\" is no place",
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
