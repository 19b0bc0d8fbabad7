//! The policy that flags describe, in the same form as that of a file.

use hookward_core::diagnostics::{Diagnostic, Origin, Origins};
use hookward_core::json::JsonPath;
use hookward_gate::policy::file::REPLAY_WINDOW_MS;
use hookward_gate::policy::raw::{
    RawAccept, RawDelivery, RawPolicy, RawRoute, RawSecret, RawSignature, RawToken, RawValueRule,
    Unprotected,
};
use hookward_gate::policy::{PRESET_PATHS, ReplayProtection, SecretAt, TOKEN_NAME, TokenLocation};
use hookward_gate::providers;

use crate::cli::PolicyFlags;

/// Flags of the settings of a policy, by their keys in a file.
const FLAGS: [(&str, &str); 20] = [
    ("path", "--path"),
    ("methods", "--method"),
    ("allow_ips", "--allow-ip"),
    ("deny_ips", "--deny-ip"),
    ("token", "--token"),
    ("at", "--token"),
    ("basic", "--basic"),
    ("keep_token", "--keep-token"),
    ("content_type", "--content-type"),
    ("headers", "--require-header"),
    ("body", "--require-body"),
    ("verify", "--verify"),
    ("replay", "--on-duplicate"),
    ("client_rate", "--client-rate"),
    ("rate", "--rate"),
    ("websocket", "--websocket"),
    ("encoded_slashes", "--encoded-slashes"),
    ("answer_timeout", "--answer-timeout"),
    ("delivery", "--delivery"),
    ("order", "--order"),
];

/// Returns the policy of flags, and the mistakes in their form.
pub(super) fn policy(args: &PolicyFlags) -> (RawPolicy, Vec<Diagnostic>) {
    let mut reader = FlagReader {
        origins: Origins::of_flags("flags", &FLAGS),
        mistakes: Vec::new(),
    };
    let route = reader.route(args);
    let raw = RawPolicy {
        client_rate: args.client_rate.clone(),
        rate: args.rate.clone(),
        routes: vec![route],
        origins: reader.origins,
        ..RawPolicy::default()
    };
    (raw, reader.mistakes)
}

struct FlagReader {
    origins: Origins,
    mistakes: Vec<Diagnostic>,
}

impl FlagReader {
    fn report(&mut self, flag: &str, what: impl Into<String>) {
        self.mistakes.push(Diagnostic::new(flag, what));
    }

    fn route(&mut self, args: &PolicyFlags) -> RawRoute {
        let paths = match args.path.is_empty() {
            true => PRESET_PATHS.map(str::to_owned).to_vec(),
            false => args.path.clone(),
        };
        let replay = args.on_duplicate.map(|on_duplicate| ReplayProtection {
            on_duplicate: on_duplicate.into(),
            window_ms: REPLAY_WINDOW_MS,
        });

        RawRoute {
            origins: self.origins.clone(),
            paths,
            methods: Some(args.method.clone()),
            deny_ips: args.deny_ip.clone(),
            answer_timeout: args.answer_timeout.clone(),
            websocket: args.websocket,
            keep_token: args.keep_token,
            encoded_slashes: args.encoded_slashes,
            replay,
            delivery: (args.delivery.is_some() || args.order.is_some()).then(|| RawDelivery {
                origins: self.origins.clone(),
                mode: args.delivery.clone(),
                mode_key: "delivery",
                order: args.order.clone(),
                ..RawDelivery::default()
            }),
            accept: self.accept_rules(args),
            ..RawRoute::default()
        }
    }

    /// Returns one accept rule for each provider, all with the same address ranges and token.
    fn accept_rules(&mut self, args: &PolicyFlags) -> Vec<RawAccept> {
        let before = self.mistakes.len();
        let mut common = RawAccept {
            origins: self.origins.clone(),
            unprotected: match args.no_token {
                // The user has chosen an open route.
                true => Unprotected::OpenByDefault,
                false => Unprotected::CreateToken,
            },
            allow_ips: (!args.allow_ip.is_empty()).then(|| args.allow_ip.clone()),
            token: self.token(&args.token),
            basic: (!args.basic.is_empty()).then(|| args.basic.clone()),
            content_types: args.content_type.clone(),
            headers: self.value_rules(
                "--require-header",
                &args.require_header,
                "X-GitHub-Event=push",
            ),
            body: self.value_rules("--require-body", &args.require_body, "ref=refs/heads/main"),
            ..RawAccept::default()
        };

        let signatures = self.signatures(args);
        common.is_readable = self.mistakes.len() == before;
        if signatures.is_empty() {
            return vec![common];
        }

        let rules = signatures.into_iter().map(|check| RawAccept {
            verify: vec![check],
            ..common.clone()
        });
        rules.collect()
    }

    /// Reads rules such as `X-GitHub-Event=push`; the same name again allows another value.
    fn value_rules(
        &mut self,
        flag: &'static str,
        texts: &[String],
        example: &str,
    ) -> Vec<RawValueRule> {
        let mut rules: Vec<RawValueRule> = Vec::new();
        for text in texts {
            let Some((name, value)) = text.split_once('=') else {
                self.report(flag, format!("{text:?}: write for example {example}"));
                continue;
            };

            // Header names have no case, and a JSON path has several forms.
            let same = |rule: &&mut RawValueRule| match flag {
                "--require-header" => rule.name.eq_ignore_ascii_case(name),
                _ => match (JsonPath::parse(&rule.name), JsonPath::parse(name)) {
                    (Ok(one), Ok(other)) => one == other,
                    _ => false,
                },
            };
            match rules.iter_mut().find(same) {
                Some(rule) => rule.allowed.push(value.to_owned()),
                None => rules.push(RawValueRule {
                    origin: Origin::Flag(flag),
                    name: name.to_owned(),
                    allowed: vec![value.to_owned()],
                }),
            }
        }
        rules
    }

    /// Reads all `--token` flags: one location, one or more valid tokens.
    fn token(&mut self, texts: &[String]) -> Option<RawToken> {
        let mut token: Option<RawToken> = None;
        for text in texts {
            // A source may contain `=`. The error never repeats other text, which may be the
            // secret.
            let bare = text.starts_with("env:") || text.starts_with("file:");
            let (name, source) = match text.split_once('=').filter(|_| !bare) {
                Some((name, source)) => (name, source),
                None => (TOKEN_NAME, text.as_str()),
            };
            let Ok(location) = TokenLocation::parse(name) else {
                let what = "write [NAME=]env:VAR or [NAME=]file:PATH; NAME is a query parameter (letters, digits, \
                            - _ .) or header:X-Token";
                self.report("--token", what);
                continue;
            };

            let secret = RawSecret {
                key: "token",
                source: source.to_owned(),
            };
            match &mut token {
                None => {
                    token = Some(RawToken {
                        origins: self.origins.clone(),
                        location: name.to_owned(),
                        secrets: vec![secret],
                    });
                }
                Some(token) if TokenLocation::parse(&token.location) == Ok(location) => {
                    token.secrets.push(secret);
                }
                Some(_) => self.report(
                    "--token",
                    "all tokens must stand in the same place; name one parameter or header",
                ),
            }
        }
        token
    }

    /// Reads all `--verify` flags, grouped by provider and variant.
    fn signatures(&mut self, args: &PolicyFlags) -> Vec<RawSignature> {
        let mut checks: Vec<RawSignature> = Vec::new();
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
                    Some(_) => self.report("--verify", providers::unknown(name)),
                    None => self.report(
                        "--verify",
                        "write PROVIDER=env:NAME, such as github=env:GITHUB_SECRET",
                    ),
                }
                continue;
            };

            let secret = source.map(|source| RawSecret {
                key: "verify",
                source: source.to_owned(),
            });
            let same = |check: &&mut RawSignature| {
                check.provider.as_deref() == Some(&provider.id) && check.variant == variant
            };
            match checks.iter_mut().find(same) {
                // Without a secret, one of the two flags would have no effect.
                Some(check) if secret.is_none() || check.secrets.is_empty() => {
                    let what = format!("write {name} once, or a secret with each");
                    self.report("--verify", what);
                }
                Some(check) => check.secrets.extend(secret),
                None => checks.push(RawSignature {
                    origins: Origins::of_flags("--verify", &[]),
                    provider: Some(provider.id.clone()),
                    variant,
                    secret_at: match args.secret_at_agent {
                        true => SecretAt::Agent,
                        false => SecretAt::Relay,
                    },
                    origin: args.origin.clone(),
                    challenge: args.challenge,
                    secrets: secret.into_iter().collect(),
                    ..RawSignature::default()
                }),
            }
        }
        checks
    }
}
