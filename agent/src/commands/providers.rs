//! `hookward providers`: the catalogue of signing schemes.

use std::io::{self, Write as _};

use hookward_shared::providers::scheme::{Algorithm, Encoding, KeyForm, TimestampPlace};
use hookward_shared::providers::{self, Provider, Scheme};

use crate::cli::{LogFormat, ProvidersArgs, ProvidersCommand};
use crate::commands::{CommandError, tell};
use crate::exit::Exit;

/// Runs the command.
///
/// # Errors
/// When standard output takes nothing.
pub fn run(args: &ProvidersArgs) -> Result<Exit, CommandError> {
    let text = match &args.command {
        None => list(),
        Some(ProvidersCommand::Show { name }) => match providers::find(name) {
            Some(provider) => show(provider),
            None => {
                tell(LogFormat::Text, &providers::unknown(name));
                return Ok(Exit::Usage);
            }
        },
    };
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever read the list has seen enough of it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Done),
        written => written.map(|()| Exit::Done).map_err(CommandError::system("standard output")),
    }
}

fn list() -> String {
    providers::all().iter().map(|provider| format!("{:<24} {}\n", provider.id, provider.name)).collect()
}

fn show(provider: &Provider) -> String {
    let variable = format!("{}_SECRET", provider.id.to_ascii_uppercase());
    let mut rows = vec![("name", provider.name.clone())];
    if !provider.aliases.is_empty() {
        rows.push(("also called", provider.aliases.join(", ")));
    }
    rows.extend(description(&provider.scheme));
    if let Some(delivery) = &provider.delivery {
        rows.push(("delivery id", format!("header {delivery}")));
    }
    rows.push(("source", provider.source.clone()));
    let mut text = format!("{}\n", provider.id);
    for (what, value) in rows {
        text.push_str(&format!("  {what:<12} {value}\n"));
    }
    text.push_str(&format!(
        "\nOn the command line:\n  --verify {id}=env:{variable}\nIn a policy file:\n  [[route.accept]]\n  verify = {{ provider = \"{id}\", \
         secret = \"env:{variable}\" }}\n",
        id = provider.id,
    ));
    text
}

/// What is read and what is signed, in words: pairs of a short name and a text.
fn description(scheme: &Scheme) -> impl Iterator<Item = (&'static str, String)> {
    let sig = &scheme.sig;
    let algorithm = match scheme.alg {
        Algorithm::Equals => "none: a shared token",
        Algorithm::HmacSha1 => "HMAC-SHA-1",
        Algorithm::HmacSha256 => "HMAC-SHA-256",
        Algorithm::HmacSha384 => "HMAC-SHA-384",
        Algorithm::HmacSha512 => "HMAC-SHA-512",
        Algorithm::Ed25519 => "Ed25519",
        Algorithm::EcdsaP256Sha256 => "ECDSA P-256 with SHA-256",
        Algorithm::RsaSha256 => "RSA with SHA-256",
    };
    let public = scheme.alg.is_public();
    let secret = match scheme.key {
        KeyForm::Base64 if public => "the provider's public key, in base64",
        KeyForm::Hex if public => "the provider's public key, in hex",
        KeyForm::Pem => "the provider's public key, in PEM",
        KeyForm::SpkiBase64 => "the provider's public key (SubjectPublicKeyInfo), in base64",
        KeyForm::Utf8 => "text, used as it is",
        KeyForm::Base64 => "base64 of the key",
        KeyForm::Hex => "hex of the key",
        KeyForm::Whsec => "whsec_ and base64 of the key",
    };
    let encoding = match sig.enc {
        Encoding::Hex => "hex",
        Encoding::Base64 => "base64",
        Encoding::Base64url => "base64url",
        Encoding::Text => "token",
    };
    let signed = if scheme.covers_body() {
        format!("{} (the whole body)", scheme.msg)
    } else {
        "nothing: whoever knows the token can send any body".to_owned()
    };
    let mut written = format!("{}<{encoding}>", sig.prefix);
    if let (Some(kv), Some(pick)) = (sig.kv, &sig.pick) {
        written = format!("{pick}{kv}{written} among others");
    }
    let time = scheme.ts.as_ref().map(|ts| {
        let place = match &ts.at {
            TimestampPlace::Header(name) => format!("header {name}"),
            TimestampPlace::Signature(key) => format!("{key} beside the signature"),
        };
        match ts.tolerance {
            Some(seconds) => format!("{place}, within {seconds} s"),
            None => format!("{place}, of any age"),
        }
    });
    [
        ("algorithm", Some(algorithm.to_owned())),
        ("secret", Some(secret.to_owned())),
        ("signature", Some(format!("header {}: {written}", sig.header))),
        ("signed", Some(signed)),
        ("time", time),
    ]
    .into_iter()
    .filter_map(|(what, text)| Some((what, text?)))
}
