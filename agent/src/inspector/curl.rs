//! A captured request as a command of curl. A stranger may have chosen every byte of it.

use hookward_core::text::is_invisible;

use super::message::StoredMessage;

/// Returns the command that sends a request to its public host, whose certificate is that of the file
/// `ca`. `None` if a command cannot. Redacted values stay redacted.
pub(super) fn command(request: &StoredMessage, host: &str, ca: Option<&str>) -> Option<String> {
    let head = request.parts();
    let method = head.start_line.split(' ').next().unwrap_or("POST");
    // Otherwise it would name another host.
    let target = head.target().filter(|target| target.starts_with('/'))?;

    let mut parts = vec![format!(
        "curl --globoff --path-as-is -X {} {}",
        quoted(method),
        quoted(&format!("https://{}{target}", request.authority(host)))
    )];
    if let Some(ca) = ca {
        parts.push(format!("--cacert {}", quoted(ca)));
    }
    for (name, value) in &head.fields {
        let is_computed = ["host", "content-length", "transfer-encoding", "connection"]
            .iter()
            .any(|computed| name.eq_ignore_ascii_case(computed));
        if !is_computed {
            parts.push(format!("-H {}", quoted(&format!("{name}: {value}"))));
        }
    }
    if !request.body.is_empty() {
        parts.push(match std::str::from_utf8(&request.body) {
            // `--data-binary` would read a file that the body names.
            Ok(body) => format!("--data-raw {}", quoted(body)),
            Err(_) => "--data-binary @body.bin".to_owned(),
        });
    }
    Some(parts.join(" \\\n  "))
}

/// Returns a text as a word of a POSIX shell, quoted if it must be.
pub(super) fn shell_word(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/:._-".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_plain) {
        true => text.to_owned(),
        false => quoted(text),
    }
}

/// Quotes a text for a POSIX shell. Invisible characters cannot end the quotation, but could control
/// the terminal or hide text, so they are written by `printf`.
fn quoted(text: &str) -> String {
    let is_hidden = |letter: char| is_invisible(letter) && letter != '\n';
    if text.chars().any(is_hidden) {
        let escaped: String = text
            .bytes()
            .map(|byte| match byte {
                b'\\' => "\\\\".to_owned(),
                b'%' => "%%".to_owned(),
                b'\'' => "\\047".to_owned(),
                0x20..=0x7e => char::from(byte).to_string(),
                _ => format!("\\{byte:03o}"),
            })
            .collect();
        return format!("\"$(printf '{escaped}')\"");
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_the_request() {
        let request = StoredMessage {
            head: b"POST /a?b='c' HTTP/1.1\r\nHost: h.example.com:8443\r\nX-A: it's\r\nContent-Length: 3\r\n"
                .to_vec(),
            body: b"{\"a\": \"$(id) `id` 'x'\"}".to_vec(),
            ..StoredMessage::default()
        };
        assert_eq!(
            command(&request, "h.example.com", Some("/edge.pem")).unwrap(),
            "curl --globoff --path-as-is -X 'POST' 'https://h.example.com:8443/a?b='\\''c'\\''' \\\n  --cacert '/edge.pem' \\\n  -H 'X-A: it'\\''s' \\\n  \
             --data-raw '{\"a\": \"$(id) `id` '\\''x'\\''\"}'"
        );
        assert_eq!(quoted("a\u{202e}"), "\"$(printf 'a\\342\\200\\256')\"");
        let foreign = StoredMessage {
            head: b"POST @evil.example/x HTTP/1.1\r\n".to_vec(),
            ..StoredMessage::default()
        };
        assert_eq!(command(&foreign, "h.example.com", None), None);
        assert_eq!(quoted("a\x1b'%"), "\"$(printf 'a\\033\\047%%')\"");
    }
}
