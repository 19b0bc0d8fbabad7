//! `hookward providers`: the catalog of signing schemes.

use hookward_core::ip_sets;
use hookward_gate::providers::scheme::{Algorithm, Encoding, KeyForm, Pick};
use hookward_gate::providers::{self, Coverage, Provider, Scheme};

use crate::cli::{LogFormat, ProvidersArgs, ProvidersCommand};
use crate::commands::{CommandError, print, print_error};
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// If standard output fails.
pub(super) fn run(args: &ProvidersArgs) -> Result<Exit, CommandError> {
    let name = match &args.command {
        Some(ProvidersCommand::Show { name }) => Some(name),
        None => args.name.as_ref(),
    };
    let text = match name {
        None => list(),
        Some(name) => match providers::find(name) {
            Some(provider) => show(provider),
            None => {
                print_error(LogFormat::Text, &providers::unknown(name));
                return Ok(Exit::Usage);
            }
        },
    };
    print(&text)?;

    Ok(Exit::Done)
}

fn list() -> String {
    let mut text = String::new();
    for provider in providers::all() {
        let covers = match provider.coverage() {
            Coverage::Body => "whole body",
            Coverage::Part => "part of body",
            Coverage::Nothing => "no body",
        };
        text.push_str(&format!(
            "{:<24} {covers:<13} {}\n",
            provider.id, provider.name
        ));
    }

    text.push_str("\nNot verifiable (naming one is an error with the reason):\n");
    for row in providers::unverifiable() {
        text.push_str(&format!("{:<24} {}: {}\n", row.id, row.name, row.reason));
    }

    text
}

fn show(provider: &Provider) -> String {
    let variable = format!("{}_SECRET", provider.id.to_ascii_uppercase());
    let mut text = format!("{}\n", provider.id);
    let mut row = |what: &str, value: &str| text.push_str(&format!("  {what:<12} {value}\n"));
    row("name", &provider.name);

    if !provider.aliases.is_empty() {
        row("also called", &provider.aliases.join(", "));
    }

    if let Some(setup) = &provider.setup {
        row("set up", setup);
    } else {
        row(
            "set up",
            "enter the webhook URL that `hookward http` prints, and the same secret on both sides",
        );
    }

    for (what, value) in description(provider.scheme()) {
        row(what, &value);
    }

    for (number, scheme) in provider.schemes().iter().enumerate().skip(1) {
        row(&format!("or ({})", number + 1), &in_short(scheme));
    }

    for (name, scheme) in &provider.variants {
        row("variant", &format!("{name}: {}", in_short(scheme)));
    }

    for (part, what) in provider.shape().parts {
        row("secret part", &format!("{part}: {what}"));
    }

    if !provider.delivery.is_empty() {
        let places: Vec<_> = provider.delivery.iter().map(ToString::to_string).collect();
        row("delivery id", &places.join(" with "));
    }

    for (what, value) in optional_rows(provider) {
        row(what, &value);
    }

    row("source", &provider.source);
    text.push_str(&snippet(provider, &variable));
    text
}

/// Returns the rows of a provider that only some have.
fn optional_rows(provider: &Provider) -> Vec<(&'static str, String)> {
    let set = provider.addresses.as_deref().and_then(ip_sets::find);
    let rows = [
        ("event", provider.event.as_ref().map(ToString::to_string)),
        ("limits", provider.limits.clone()),
        ("addresses", set.map(addresses)),
        ("challenge", challenge(provider).map(str::to_owned)),
        (
            "refused with",
            provider.refused_with.map(|status| status.to_string()),
        ),
        ("note", provider.note.clone()),
    ];
    rows.into_iter()
        .filter_map(|(what, value)| Some((what, value?)))
        .collect()
}

/// Describes a named address set.
fn addresses(set: &ip_sets::NamedSet) -> String {
    let copy = match (set.ranges.len(), &set.dated) {
        (0, _) => "empty until the relay has read the list".to_owned(),
        (count, Some(day)) => format!("a copy of {count} ranges of {day}"),
        (count, None) => format!("an undated copy of {count} ranges"),
    };
    format!("--allow-ip {}; {copy}", set.name)
}

/// Describes the provider's challenge, if it sends one.
fn challenge(provider: &Provider) -> Option<&'static str> {
    let mut challenges = provider.challenges.iter();
    challenges.len().gt(&0).then(
        || match challenges.any(|challenge| challenge.pair.is_some()) {
            true => "sends its secret once: `hookward pair`",
            false => "answered with --challenge",
        },
    )
}

/// Returns the flags and the policy lines for a provider.
fn snippet(provider: &Provider, variable: &str) -> String {
    let id = &provider.id;
    let needs_secret = provider
        .schemes()
        .iter()
        .all(|scheme| scheme.fetch.is_none())
        || !provider.shape().parts.is_empty();
    let (flag, key) = if needs_secret {
        (
            format!("{id}=env:{variable}"),
            format!(", secret = \"env:{variable}\""),
        )
    } else {
        (id.clone(), String::new())
    };

    // For providers that send the secret in a challenge, only `hookward pair` answers.
    let answers = provider
        .challenges
        .iter()
        .any(|challenge| challenge.pair.is_none());
    let (challenge, answering) = if answers {
        (", challenge = true", " --challenge")
    } else {
        ("", "")
    };

    let mut object = String::new();
    if !provider.shape().parts.is_empty() {
        let parts: Vec<_> = provider
            .shape()
            .parts
            .keys()
            .map(|part| format!("\"{part}\": \"…\""))
            .collect();

        let plain = provider
            .shape()
            .plain
            .map(|part| format!(" (or the {part} alone)"))
            .unwrap_or_default();
        object = format!(
            "The secret is a JSON object{plain}:\n  {{{}}}\n",
            parts.join(", ")
        );
    }

    format!(
        "\n{object}On the command line:\n  --verify {flag}{answering}\nIn a policy file:\n  [[route.accept]]\n  \
         verify = {{ provider = \"{id}\"{key}{challenge} }}\n"
    )
}

/// Describes a scheme in one line.
fn in_short(scheme: &Scheme) -> String {
    let signed = match scheme.coverage() {
        Coverage::Nothing => "nothing of the body".to_owned(),
        _ => scheme.msg.to_string(),
    };
    format!("{}, {}, of {signed}", algorithm(scheme), scheme.sig.at)
}

fn algorithm(scheme: &Scheme) -> String {
    match scheme.alg {
        Algorithm::Equals if scheme.sig.prefix == "Basic " => "none: user and password",
        Algorithm::Equals => "none: a shared token",
        Algorithm::HmacMd5 => "HMAC-MD5",
        Algorithm::HmacSha1 => "HMAC-SHA-1",
        Algorithm::HmacSha256 => "HMAC-SHA-256",
        Algorithm::HmacSha384 => "HMAC-SHA-384",
        Algorithm::HmacSha512 => "HMAC-SHA-512",
        Algorithm::Sha1 => "SHA-1 with the secret inside (no HMAC)",
        Algorithm::Sha256 => "SHA-256 with the secret inside (no HMAC)",
        Algorithm::Ed25519 => "Ed25519",
        Algorithm::EcdsaP256Sha256 => "ECDSA P-256 with SHA-256",
        Algorithm::RsaSha1 => "RSA with SHA-1",
        Algorithm::RsaSha256 => "RSA with SHA-256",
        Algorithm::RsaSha512 => "RSA with SHA-512",
        Algorithm::Jwt => {
            let algs = scheme
                .jwt
                .iter()
                .flat_map(|rules| &rules.algs)
                .map(|alg| format!("{alg:?}"));
            return format!("JSON Web Token ({})", algs.collect::<Vec<_>>().join(", "));
        }
    }
    .to_owned()
}

/// Describes a scheme: pairs of a short name and a text.
fn description(scheme: &Scheme) -> Vec<(&'static str, String)> {
    let sig = &scheme.sig;
    let public = scheme.alg.is_public();
    let secret = secret_text(scheme.key, public);
    let fetched = if scheme.fetch.is_some() {
        "; without it the relay fetches it"
    } else {
        ""
    };

    let encoding = match sig.enc {
        Encoding::Hex => "hex",
        Encoding::Base64 => "base64",
        Encoding::Base64url => "base64url",
        Encoding::Text => "token",
    };

    let signed = match (scheme.coverage(), &scheme.jwt) {
        (Coverage::Body, Some(_)) => "the token, which holds a digest of the whole body".to_owned(),
        (Coverage::Body, None) => format!("{} (the whole body)", scheme.msg),
        (Coverage::Part, _) => format!(
            "{} (a part of the body: other fields may be anything)",
            scheme.msg
        ),
        (Coverage::Nothing, _) if scheme.alg == Algorithm::Equals => {
            "nothing: anyone with the token can send any body".to_owned()
        }
        (Coverage::Nothing, Some(_)) => "the token, and nothing of the body".to_owned(),
        (Coverage::Nothing, None) => format!("{} (nothing of the body)", scheme.msg),
    };

    let mut written = format!("{}<{encoding}>", sig.prefix);
    match (&sig.kv, &sig.pick) {
        (Some(kv), Some(Pick::Key(key) | Pick::Part(key))) => {
            written = format!("{key}{kv}{written} among others")
        }
        (_, Some(Pick::From(first))) => written = format!("{written} from position {first} on"),
        _ => {}
    }

    let time = scheme.ts.as_ref().map(|ts| match ts.tolerance {
        Some(seconds) => format!("{}, within {seconds} s", ts.at),
        None => format!("{}, of any age", ts.at),
    });
    let mut rows = vec![
        ("algorithm", algorithm(scheme)),
        ("secret", format!("{secret}{fetched}")),
        ("signature", format!("{}: {written}", sig.at)),
        ("signed", signed),
    ];
    rows.extend(time.map(|time| ("time", time)));

    rows
}

/// Describes the format of a secret.
const fn secret_text(key: KeyForm, public: bool) -> &'static str {
    match key {
        KeyForm::Base64 if public => "the provider's public key, in base64",
        KeyForm::Hex if public => "the provider's public key, in hex",
        KeyForm::Pem => "the provider's public key, or a certificate with it, in PEM",
        KeyForm::SpkiBase64 => "the provider's public key (SubjectPublicKeyInfo), in base64",
        KeyForm::Whpk => "the provider's public key: whpk_ and base64",
        KeyForm::Jwks => "the provider's JSON Web Key Set",
        KeyForm::Utf8 | KeyForm::Utf8Amp | KeyForm::Utf8Nfkd | KeyForm::TsUtf8 => {
            "text, used as it is"
        }
        KeyForm::Sha1 | KeyForm::Sha256 => "text; its digest is the key",
        KeyForm::Base64 => "base64 of the key",
        KeyForm::Hex => "hex of the key",
        KeyForm::Whsec => "whsec_ and base64 of the key",
    }
}
