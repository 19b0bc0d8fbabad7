//! The policy as a TOML file.
//!
//! ```toml
//! [[route]]
//! name = "git"                                # optional: the first path otherwise
//! path = "/flexdeploy/webhooks/v1/**"         # or a list
//! methods = ["POST"]                          # optional: all that may pass at all
//! deny_ips = ["192.0.2.66"]                   # optional, wins over every alternative
//! max_body = "25MiB"                          # of a body that a check must read
//! answer_timeout = "60s"                      # for the head of the application's answer
//! websocket = false
//! keep_token = false
//! observe_until = 2026-12-01                  # optional: show failed checks, let them pass
//!
//!   [[route.accept]]                          # alternatives: one must accept
//!   allow_ips = ["192.30.252.0/22"]
//!   token = "env:HOOK_TOKEN"                  # or { at = "header:X-Token", secrets = ["env:A", "env:B"] }
//!   verify = { provider = "github", secret = "env:GITHUB_SECRET" }   # secret_at = "agent"
//! ```

use time::OffsetDateTime;

use crate::clock::UnixMillis;
use crate::config::{Document, Problems, Reader};
use crate::gate::address::parse_network;
use crate::policy::{Accept, Mode, Policy, Route, SecretAt, SignatureCheck, TOKEN_NAME, TokenCheck, TokenPlace};
use crate::secret::{Secret, SecretReader};

/// A policy as it was read, with what the user should be told.
pub struct LoadedPolicy {
    /// The policy.
    pub policy: Policy,
    /// Notes, such as a newline that was taken off a secret.
    pub notes: Vec<String>,
}

/// Reads a policy file. `name` is the file's name in messages.
///
/// # Errors
/// All mistakes of the file in one run.
pub fn read(name: &str, text: &str, secrets: &dyn SecretReader, now: UnixMillis) -> Result<LoadedPolicy, Problems> {
    let document = Document::new(name, text);
    let mut loader = Loader { secrets, notes: Vec::new() };
    let mut policy = Policy { routes: Vec::new() };
    {
        let table = document.parse();
        let mut top = Reader::new(&document, &table);
        for route in top.tables("route") {
            let place = route.offset();
            let route = loader.route(route);
            // A route alone is a policy of its own, so that its mistakes get its line.
            let alone = Policy { routes: vec![route.clone()] };
            for mistake in alone.mistakes(now) {
                document.problem_at(place, mistake);
            }
            policy.routes.push(route);
        }
        top.finish();
    }
    let mut problems = document.into_problems();
    if problems.is_empty() {
        let whole = policy.mistakes(now).into_iter().map(|what| crate::config::Problem::new(name, what));
        problems.extend(whole);
    }
    if problems.is_empty() { Ok(LoadedPolicy { policy, notes: loader.notes }) } else { Err(Problems(problems)) }
}

struct Loader<'s> {
    secrets: &'s dyn SecretReader,
    notes: Vec<String>,
}

impl Loader<'_> {
    fn route(&mut self, mut reader: Reader<'_>) -> Route {
        let paths = reader.strings("path").unwrap_or_default();
        let name = reader.string("name").or_else(|| paths.first().cloned()).unwrap_or_default();
        let mut route = Route::new(name, paths);
        if let Some(methods) = reader.strings("methods") {
            if methods.is_empty() {
                reader.problem_with("methods", "the list is empty; leave the key out to admit all");
            }
            route.methods = methods;
        }
        if let Some(ips) = reader.strings("deny_ips") {
            route.deny_ips = networks(&reader, "deny_ips", &ips);
        }
        if let Some(size) = reader.size("max_body") {
            route.max_body = size;
        }
        if let Some(time) = reader.duration("answer_timeout") {
            route.answer_timeout_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        }
        route.websocket = reader.boolean("websocket").unwrap_or(route.websocket);
        route.keep_token = reader.boolean("keep_token").unwrap_or(route.keep_token);
        if let Some(day) = reader.day("observe_until") {
            let at = OffsetDateTime::new_utc(day, time::Time::MIDNIGHT).unix_timestamp();
            route.mode = Mode::Observe { until: u64::try_from(at).unwrap_or_default() };
        }
        for accept in reader.tables("accept") {
            let accept = self.accept(accept);
            route.accept.push(accept);
        }
        reader.finish();
        route
    }

    fn accept(&mut self, mut reader: Reader<'_>) -> Accept {
        let mut accept = Accept { open: reader.boolean("open").unwrap_or(false), ..Accept::default() };
        if let Some(ips) = reader.strings("allow_ips") {
            accept.allow_ips = Some(networks(&reader, "allow_ips", &ips));
        }
        accept.token = self.token(&mut reader);
        if reader.has("verify")
            && let Some(verify) = reader.table("verify")
        {
            accept.verify = self.verify(verify);
        }
        reader.finish();
        accept
    }

    /// `token = "env:NAME"`, or a table with `at`, and `secret` or `secrets`.
    fn token(&mut self, reader: &mut Reader<'_>) -> Option<TokenCheck> {
        if !reader.has("token") {
            return None;
        }
        if reader.is_table("token") {
            let mut table = reader.table("token")?;
            let at = table.string("at").unwrap_or_else(|| TOKEN_NAME.to_owned());
            let place = TokenPlace::parse(&at).map_err(|what| table.problem_with("at", what)).ok();
            let secrets = self.secrets_of(&mut table);
            table.finish();
            return Some(TokenCheck { place: place?, digests: secrets.iter().map(Secret::digest).collect() });
        }
        let source = reader.string("token")?;
        let secret = self.load(reader, "token", &source)?;
        Some(TokenCheck { place: TokenPlace::Query(TOKEN_NAME.to_owned()), digests: vec![secret.digest()] })
    }

    fn verify(&mut self, mut reader: Reader<'_>) -> Option<SignatureCheck> {
        let provider = reader.string("provider");
        if provider.is_none() {
            reader.problem("provider is missing; write for example provider = \"github\"");
        }
        let secret_at = match reader.string("secret_at").as_deref() {
            None | Some("relay") => SecretAt::Relay,
            Some("agent") => SecretAt::Agent,
            Some(_) => {
                reader.problem_with("secret_at", "expected \"relay\" or \"agent\"");
                SecretAt::Agent
            }
        };
        let secrets = self.secrets_of(&mut reader);
        reader.finish();
        Some(SignatureCheck { provider: provider?, secret_at, secrets })
    }

    /// `secret = "…"` or `secrets = ["…", "…"]`; one of them must be there.
    fn secrets_of(&mut self, reader: &mut Reader<'_>) -> Vec<Secret> {
        let mut sources: Vec<(&str, String)> = Vec::new();
        sources.extend(reader.string("secret").map(|source| ("secret", source)));
        sources.extend(reader.strings("secrets").unwrap_or_default().into_iter().map(|source| ("secrets", source)));
        if sources.is_empty() {
            reader.problem("no secret is given; write for example secret = \"env:NAME\"");
        }
        sources.iter().filter_map(|(key, source)| self.load(reader, key, source)).collect()
    }

    fn load(&mut self, reader: &Reader<'_>, key: &str, source: &str) -> Option<Secret> {
        match self.secrets.load(source) {
            Ok(loaded) => {
                self.notes.extend(loaded.note);
                Some(loaded.secret)
            }
            Err(error) => {
                reader.problem_with(key, error);
                None
            }
        }
    }
}

fn networks(reader: &Reader<'_>, key: &str, texts: &[String]) -> Vec<ipnet::IpNet> {
    texts.iter().filter_map(|text| parse_network(text).map_err(|what| reader.problem_with(key, what)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{SecretError, SecretSource};
    use zeroize::Zeroizing;

    struct Fake;

    impl SecretReader for Fake {
        fn read(&self, source: &SecretSource) -> Result<Zeroizing<Vec<u8>>, SecretError> {
            match source {
                SecretSource::Env(name) if name == "SET" => Ok(Zeroizing::new(b"s3cret\n".to_vec())),
                SecretSource::Env(name) if name == "NEWLINE" => Ok(Zeroizing::new(b"\n".to_vec())),
                SecretSource::Env(name) => Err(SecretError::Unset(name.clone())),
                SecretSource::File(path) => Err(SecretError::Unreadable(path.clone(), "gone".into())),
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
        let Ok(loaded) = read("p.toml", text, &Fake, NOW) else { panic!("{:?}", problems(text)) };
        assert_eq!(loaded.notes.len(), 2);
        let route = &loaded.policy.routes[0];
        assert_eq!(route.accept.len(), 2);
        assert!(matches!(route.mode, Mode::Observe { until: 1_796_083_200 }));
        assert!(loaded.policy.for_relay().routes[0].accept[1].verify.as_ref().unwrap().secrets.is_empty());
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
            "p.toml:4: route[1]: unknown key \"metods\"",
            "192.0.2.7/24",
            "\"any\"",
            "never as itself",
            "githup",
            "UNSET is not set",
            "env:NEWLINE is empty",
            "must begin with a slash",
            "max_body: expected a size",
            "open = true",
        ] {
            assert!(found.iter().any(|line| line.contains(expected)), "{expected} in {found:#?}");
        }
        assert!(!found.iter().any(|line| line.contains("hunter2")), "a literal secret is not repeated");
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
            ("[[route]]\npath='/a'\ndeny_ips='10.0.0.0/8'\naccept.allow_ips='10.1.0.0/16'", "denied by deny_ips"),
            ("[[route]]\npath='/a'\naccept.allow_ips=[]", "empty list"),
            ("[[route]]\npath='/a'\naccept.allow_ips='0.0.0.0/0'", "open = true"),
            ("[[route]]\npath='/a'\nmethods=['TRACE']\naccept.token='env:SET'", "can't pass"),
            ("[[route]]\npath='/a'\nobserve_until=2026-11-01\naccept.token='env:SET'", "is over"),
            ("[[route]]\npath='/a'\nobserve_until=2027-11-01\naccept.token='env:SET'", "30 days"),
            ("[[route]]\npath='/a'\naccept.open=true\naccept.token='env:SET'", "beside a check"),
        ];
        for (text, expected) in cases {
            let found = problems(text);
            assert!(found.iter().any(|line| line.contains(expected)), "{text}: {found:?}");
        }
    }
}
