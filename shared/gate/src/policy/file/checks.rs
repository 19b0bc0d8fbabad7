//! Reads the checks of an accept rule.

use crate::policy::raw::{RawSecret, RawSignature, RawToken};
use crate::policy::{SecretAt, TOKEN_NAME};
use crate::providers::scheme::{Algorithm, Encoding, JwtRules, KeyForm, KeySource, SignatureField};
use crate::providers::{Scheme, ValueLocator};
use hookward_core::diagnostics::TableReader;

/// Reads `token = "env:NAME"`, or a table with `at`, and `secret` or `secrets`.
pub(super) fn token(reader: &mut TableReader<'_>) -> Option<RawToken> {
    if !reader.has("token") {
        return None;
    }

    if reader.is_table("token") {
        let mut table = reader.table("token")?;
        let location = table.string("at");
        let secrets = secrets(&mut table);
        if secrets.is_empty() {
            table.problem("no secret is given; write for example secret = \"env:NAME\"");
        }

        let origins = table.origins();
        table.finish();
        return Some(RawToken {
            origins,
            location: location.unwrap_or_else(|| TOKEN_NAME.to_owned()),
            secrets,
        });
    }

    let source = reader.string("token")?;
    Some(RawToken {
        origins: reader.origins(),
        location: TOKEN_NAME.to_owned(),
        secrets: vec![RawSecret {
            key: "token",
            source,
        }],
    })
}

pub(super) fn verify(mut reader: TableReader<'_>) -> RawSignature {
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

    let raw = RawSignature {
        provider,
        variant: reader.string("variant"),
        scheme,
        secret_at,
        origin: reader.string("origin"),
        challenge: reader.boolean("challenge").unwrap_or(false),
        secrets: secrets(&mut reader),
        origins: reader.origins(),
    };
    reader.finish();
    raw
}

/// Reads a JSON Web Token of any issuer, which is a short form of a custom scheme.
pub(super) fn jwt(mut reader: TableReader<'_>) -> Option<RawSignature> {
    let at = reader
        .typed("at")
        .or_else(|| ValueLocator::parse("header:Authorization").ok());
    let usual = if reader.has("at") { "" } else { "Bearer " };
    let prefix = reader.string("prefix").unwrap_or_else(|| usual.to_owned());

    let rules = jwt_rules(&mut reader);
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

    let (secrets, origins) = (secrets(&mut reader), reader.origins());
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

    Some(RawSignature {
        origins,
        scheme: Some(Box::new(scheme)),
        secrets,
        ..RawSignature::default()
    })
}

fn jwt_rules(reader: &mut TableReader<'_>) -> JwtRules {
    let algs = reader.typed("algs");
    if algs.is_none() && !reader.has("algs") {
        reader.problem("algs is missing; write for example algs = [\"RS256\"]");
    }

    JwtRules {
        algs: algs.unwrap_or_default(),
        iss: reader.string("iss"),
        aud: reader.string("aud"),
        leeway: reader.typed("leeway").unwrap_or(5),
        expires: reader.boolean("expires").unwrap_or(true),
        max_age: reader.duration("max_age").map(|age| age.as_secs()),
        claims: reader.typed("claims").unwrap_or_default(),
        detached: false,
        unless_empty: None,
    }
}

/// Reads `secret = "…"` and `secrets = ["…", "…"]`.
fn secrets(reader: &mut TableReader<'_>) -> Vec<RawSecret> {
    let one = reader.string("secret").into_iter();
    let one = one.map(|source| RawSecret {
        key: "secret",
        source,
    });
    let several = reader.strings("secrets").unwrap_or_default().into_iter();
    let several = several.map(|source| RawSecret {
        key: "secrets",
        source,
    });
    one.chain(several).collect()
}

/// Reads a custom scheme. The mistake of each field has its own location.
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
