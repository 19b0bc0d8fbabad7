//! `hookward trust`: how clients trust a relay's self-signed certificate.

use std::path::Path;

use crate::cli::{LogFormat, TrustArgs};
use crate::commands::{CommandError, print, print_error};
use crate::config::state_dir::StateDir;
use crate::exit::Exit;

/// Certificate of the relay of `--local` in its state directory.
const LOCAL_CERTIFICATE: &str = "edge.pem";

/// Runs the command.
///
/// # Errors
/// Failure that ends with [`Exit::Failed`].
pub(super) fn run(args: &TrustArgs) -> Result<Exit, CommandError> {
    let path = match &args.certificate {
        Some(path) => path.clone(),
        None => {
            let state = StateDir::open(args.common.state_dir.as_deref())?.local()?;
            state.path().join(LOCAL_CERTIFICATE)
        }
    };
    let Ok(path) = std::path::absolute(&path).and_then(|path| path.metadata().map(|_| path)) else {
        let what = format!(
            "{} is missing: `hookward http PORT --local` makes it, or name the relay's edge.pem",
            path.display()
        );
        print_error(LogFormat::Text, &what);
        return Ok(Exit::Usage);
    };
    print(&steps(&path)).map(|()| Exit::Done)
}

/// Returns the steps for each client. Clients trust the certificate itself, which is no authority for
/// other names.
fn steps(path: &Path) -> String {
    let path = quoted(&path.display().to_string());
    format!(
        "\
curl
  curl --cacert {path} https://flexdeploy.localhost:8443/

Java (a keystore of the JDK; the password is changeit unless you have changed it)
  keytool -importcert -noprompt -alias hookward -file {path} -cacerts -storepass changeit

Python (for this shell; requests reads the first variable, the ssl module the second)
  export REQUESTS_CA_BUNDLE={path} SSL_CERT_FILE={path}

Node.js
  export NODE_EXTRA_CA_CERTS={path}

Debian and Ubuntu, for programs that use the system's certificates
  sudo cp {path} /usr/local/share/ca-certificates/hookward.crt && sudo update-ca-certificates

Chrome and Chromium on Linux (certutil is in libnss3-tools)
  certutil -d sql:$HOME/.pki/nssdb -A -t P,, -n hookward -i {path}

Firefox
  Settings, Privacy & Security, View Certificates, Servers, Add Exception: the URL of the relay

macOS
  security add-trusted-cert -r trustAsRoot -k ~/Library/Keychains/login.keychain-db {path}

Windows
  certutil -user -addstore Root {path}

Remove it again when the trial is over. Webhook providers do not trust it: a public relay needs a
certificate of an authority (hookward-relay serve --acme EMAIL).
"
    )
}

/// Returns a word of the shell.
fn quoted(path: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "/._-+".contains(char);
    match path.chars().all(is_plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}
