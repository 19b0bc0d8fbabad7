//! Builds a policy from flags, and collects all errors.

use crate::cli::PolicyFlags;
use hookward_core::diagnostics::Diagnostic;
use hookward_core::json::JsonPath;
use hookward_core::rate::Rate;
use hookward_core::secret::{Secret, SecretReader};
use hookward_gate::policy::file::{self};
use hookward_gate::policy::{
    ActiveSecret, ActiveToken, Addresses, BodyRule, HeaderRule, SecretAt, SignatureCheck,
    TOKEN_NAME, TokenCheck, TokenLocation,
};
use hookward_gate::providers;
use http::HeaderName;

pub(super) struct PolicyBuilder<'s> {
    pub(super) secrets: &'s dyn SecretReader,
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) notes: Vec<String>,
}

impl PolicyBuilder<'_> {
    pub(super) fn problem(&mut self, flag: &str, what: impl Into<String>) {
        self.diagnostics.push(Diagnostic::new(flag, what));
    }

    pub(super) fn addresses(&mut self, flag: &str, texts: &[String]) -> Addresses {
        file::read_addresses(texts, |what| self.problem(flag, what))
    }

    pub(super) fn rate(&mut self, flag: &str, text: Option<&str>) -> Option<Rate> {
        Rate::parse(text?)
            .map_err(|what| self.problem(flag, what))
            .ok()
    }

    /// Reads all `--basic` flags: one or more valid pairs of user and password.
    pub(super) fn basic(&mut self, sources: &[String]) -> Option<TokenCheck> {
        let mut live = Vec::new();
        for source in sources {
            let Some(secret) = self.load("--basic", source) else {
                continue;
            };
            if secret.expose().contains(&b':') {
                live.push(ActiveToken {
                    name: source.clone(),
                    digest: secret.digest(),
                });
            } else {
                self.problem("--basic", format!("{source} holds no user:password"));
            }
        }

        (!sources.is_empty()).then_some(TokenCheck {
            location: TokenLocation::Basic,
            active: live,
        })
    }

    /// Reads all `--require-header` flags; the same name again allows another value.
    pub(super) fn header_rules(&mut self, texts: &[String]) -> Vec<HeaderRule> {
        let mut rules: Vec<HeaderRule> = Vec::new();
        for (name, value) in self.pairs("--require-header", texts, "X-GitHub-Event=push") {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => match rules.iter_mut().find(|rule| rule.name == name) {
                    Some(rule) => rule.allowed.push(value),
                    None => rules.push(HeaderRule {
                        name,
                        allowed: vec![value],
                    }),
                },
                Err(_) => {
                    self.problem("--require-header", format!("{name:?} is not a header name"))
                }
            }
        }

        rules
    }

    /// Reads all `--require-body` flags; the same path again allows another value.
    pub(super) fn body_rules(&mut self, texts: &[String]) -> Vec<BodyRule> {
        let mut rules: Vec<BodyRule> = Vec::new();
        for (path, value) in self.pairs("--require-body", texts, "ref=refs/heads/main") {
            match JsonPath::parse(&path) {
                Ok(path) => match rules.iter_mut().find(|rule| rule.path == path) {
                    Some(rule) => rule.allowed.push(value),
                    None => rules.push(BodyRule {
                        path,
                        allowed: vec![value],
                    }),
                },
                Err(what) => self.problem("--require-body", what),
            }
        }

        rules
    }

    fn pairs(&mut self, flag: &str, texts: &[String], example: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for text in texts {
            match text.split_once('=') {
                Some((name, value)) => pairs.push((name.to_owned(), value.to_owned())),
                None => self.problem(flag, format!("{text:?}: write for example {example}")),
            }
        }

        pairs
    }

    /// Reads all `--token` flags: one location, one or more valid tokens.
    pub(super) fn token(&mut self, texts: &[String]) -> Option<TokenCheck> {
        let mut check: Option<TokenCheck> = None;
        for text in texts {
            // A source may contain `=`. The error never repeats other text, which may be the
            // secret.
            let bare = text.starts_with("env:") || text.starts_with("file:");
            let (name, source) = match text.split_once('=').filter(|_| !bare) {
                Some((name, source)) => (name, source),
                None => (TOKEN_NAME, text.as_str()),
            };
            let place = match TokenLocation::parse(name) {
                Ok(place) => place,
                Err(_) => {
                    let what = "write [NAME=]env:VAR or [NAME=]file:PATH; NAME is a query parameter (letters, digits, \
                                - _ .) or header:X-Token";
                    self.problem("--token", what);
                    continue;
                }
            };

            let Some(secret) = self.load("--token", source) else {
                continue;
            };
            let live = ActiveToken {
                name: source.to_owned(),
                digest: secret.digest(),
            };

            match &mut check {
                None => {
                    check = Some(TokenCheck {
                        location: place,
                        active: vec![live],
                    })
                }
                Some(check) if check.location == place => check.active.push(live),
                Some(_) => self.problem(
                    "--token",
                    "all tokens must stand in the same place; name one parameter or header",
                ),
            }
        }

        check
    }

    /// Reads all `--verify` flags, grouped by provider and variant.
    pub(super) fn signatures(&mut self, args: &PolicyFlags) -> Vec<SignatureCheck> {
        let mut checks: Vec<SignatureCheck> = Vec::new();
        for text in &args.verify {
            let (name, source) = match text.split_once('=') {
                Some((name, source)) => (name, Some(source)),
                None => (text.as_str(), None),
            };
            let (id, variant) = match name.split_once('/') {
                Some((id, variant)) => (id, Some(variant.to_owned())),
                None => (name, None),
            };
            let Some(provider) = providers::find(id) else {
                // A name without `=` may be the secret itself, so the error does not repeat it.
                match source {
                    Some(_) => self.problem("--verify", providers::unknown(name)),
                    None => self.problem(
                        "--verify",
                        "write PROVIDER=env:NAME, such as github=env:GITHUB_SECRET",
                    ),
                }

                continue;
            };

            if source.is_none()
                && provider
                    .schemes()
                    .iter()
                    .all(|scheme| scheme.fetch.is_none())
            {
                self.problem(
                    "--verify",
                    format!(
                        "write {}=env:NAME: {} has a secret",
                        provider.id, provider.name
                    ),
                );
                continue;
            }

            let secret = match source {
                Some(source) => match self.load("--verify", source) {
                    Some(secret) => Some(ActiveSecret {
                        name: source.to_owned(),
                        secret,
                    }),
                    None => continue,
                },
                None => None,
            };

            let same = |check: &&mut SignatureCheck| {
                check.provider.as_deref() == Some(&provider.id) && check.variant == variant
            };
            match checks.iter_mut().find(same) {
                Some(check) => check.secrets.extend(secret),
                None => checks.push(SignatureCheck {
                    variant,
                    secret_at: if args.secret_at_agent {
                        SecretAt::Agent
                    } else {
                        SecretAt::Relay
                    },
                    secrets: secret.into_iter().collect(),
                    origin: args.origin.clone(),
                    challenge: args.challenge,
                    ..SignatureCheck::by(&provider.id)
                }),
            }
        }

        checks
    }

    fn load(&mut self, flag: &str, source: &str) -> Option<Secret> {
        match self.secrets.load(source) {
            Ok(loaded) => {
                self.notes.extend(loaded.notes);
                Some(loaded.secret)
            }
            Err(error) => {
                self.problem(flag, error.to_string());
                None
            }
        }
    }
}
