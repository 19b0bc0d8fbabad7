//! A captured request as a command of curl.

use super::history::Message;

/// Returns the command that sends a request to its public host. Redacted values stay redacted.
pub(super) fn command(request: &Message, host: &str) -> String {
    let head = String::from_utf8_lossy(&request.head);
    let mut lines = head.split("\r\n").filter(|line| !line.is_empty());
    let mut start = lines.next().unwrap_or_default().split(' ');
    let method = start.next().unwrap_or("POST");
    let target = start.next().unwrap_or("/");

    let mut parts = vec![format!(
        "curl -X {} {}",
        quoted(method),
        quoted(&format!("https://{host}{target}"))
    )];
    for line in lines {
        let name = line.split(':').next().unwrap_or_default();
        let is_computed = ["host", "content-length", "transfer-encoding", "connection"]
            .iter()
            .any(|computed| name.eq_ignore_ascii_case(computed));
        if !is_computed {
            parts.push(format!("-H {}", quoted(line)));
        }
    }
    if !request.body.is_empty() {
        parts.push(match std::str::from_utf8(&request.body) {
            Ok(body) => format!("--data-binary {}", quoted(body)),
            Err(_) => "--data-binary @body.bin".to_owned(),
        });
    }
    parts.join(" \\\n  ")
}

/// Quotes a text for a POSIX shell. Control characters cannot end the quotation, but could control
/// the terminal, so they are written by `printf`.
fn quoted(text: &str) -> String {
    let is_control = |letter: char| letter.is_control() && letter != '\n';
    if text.chars().any(is_control) {
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
        let request = Message {
            head: b"POST /a?b='c' HTTP/1.1\r\nHost: h\r\nX-A: it's\r\nContent-Length: 3\r\n"
                .to_vec(),
            body: b"{\"a\": \"$(id) `id` 'x'\"}".to_vec(),
            ..Message::default()
        };
        assert_eq!(
            command(&request, "h.example.com"),
            "curl -X 'POST' 'https://h.example.com/a?b='\\''c'\\''' \\\n  -H 'X-A: it'\\''s' \\\n  \
             --data-binary '{\"a\": \"$(id) `id` '\\''x'\\''\"}'"
        );
        assert_eq!(quoted("a\x1b'%"), "\"$(printf 'a\\033\\047%%')\"");
    }
}
