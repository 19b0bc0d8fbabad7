//! Reads the checks of an accept rule.

use super::Loader;
use crate::policy::{
    ActiveSecret, ActiveToken, SecretAt, SignatureCheck, TOKEN_NAME, TokenCheck, TokenLocation,
};
use crate::providers::scheme::{Algorithm, Encoding, JwtRules, KeyForm, KeySource, SignatureField};
use crate::providers::{Scheme, ValueLocator};
use hookward_core::diagnostics::TableReader;

impl Loader<'_> {
    /// Reads `token = "env:NAME"`, or a table with `at`, and `secret` or `secrets`.
    pub(super) fn token(&mut self, reader: &mut TableReader<'_>) -> Option<TokenCheck> {
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

    /// Reads `basic = "env:NAME"`, or a list.
    pub(super) fn basic(&mut self, reader: &mut TableReader<'_>) -> Option<TokenCheck> {
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

    pub(super) fn verify(&mut self, mut reader: TableReader<'_>) -> Option<SignatureCheck> {
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
        // A check with a fetched key needs no secret.
        let fetched = check
            .schemes()
            .is_ok_and(|schemes| schemes.iter().any(|scheme| scheme.fetch.is_some()));

        check.secrets = self.secrets_of(&mut reader, !fetched);
        reader.finish();
        (check.provider.is_some() || check.scheme.is_some()).then_some(check)
    }

    /// Reads a JSON Web Token of any issuer, which is a short form of a custom scheme.
    pub(super) fn jwt(&mut self, mut reader: TableReader<'_>) -> Option<SignatureCheck> {
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

    /// Reads `secret = "…"` or `secrets = ["…", "…"]`; one of them is required if `needed`.
    pub(super) fn secrets_of(
        &mut self,
        reader: &mut TableReader<'_>,
        needed: bool,
    ) -> Vec<ActiveSecret> {
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

    pub(super) fn load(
        &mut self,
        reader: &TableReader<'_>,
        key: &str,
        source: &str,
    ) -> Option<ActiveSecret> {
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

/// Keeps only the digests of tokens.
pub(super) fn tokens(secrets: Vec<ActiveSecret>) -> Vec<ActiveToken> {
    secrets
        .into_iter()
        .map(|live| ActiveToken {
            digest: live.secret.digest(),
            name: live.name,
        })
        .collect()
}

/// Reads a custom scheme. The mistake of each field has its own location.
pub(super) fn scheme(mut reader: TableReader<'_>) -> Option<Scheme> {
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
