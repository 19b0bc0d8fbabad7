//! Signs that a secret was altered, or is none. Reported when it is read, and by the signature
//! doctor if nothing else explains a mismatch.

/// Minimum length of a secret, in bytes: shorter ones can be guessed.
pub const MIN_BYTES: usize = 8;
/// Length in bytes below which a secret causes a warning: half of what HMAC-SHA-256 can use (RFC
/// 2104 §3).
pub const SHORT_BYTES: usize = 16;

/// Returns `true` for a placeholder of a secret.
#[must_use]
pub fn is_placeholder(secret: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric();
    let letters: Vec<u8> = secret
        .iter()
        .filter(|byte| plain(byte))
        .map(u8::to_ascii_lowercase)
        .collect();
    let one = secret
        .first()
        .is_some_and(|first| secret.iter().all(|byte| byte == first));

    // A variable that a compose or unit file did not expand.
    let unexpanded = secret.starts_with(b"${") && secret.ends_with(b"}");
    one || unexpanded || PLACEHOLDERS.iter().any(|word| word.as_bytes() == letters)
}

/// Placeholders that templates and programs write when there is no secret.
const PLACEHOLDERS: [&str; 20] = [
    "changeit",
    "changeme",
    "default",
    "dummy",
    "example",
    "false",
    "mysecret",
    "nil",
    "none",
    "null",
    "password",
    "replaceme",
    "secret",
    "test",
    "todo",
    "true",
    "undefined",
    "yoursecret",
    "yoursecrethere",
    "yourwebhooksecret",
];

/// Returns the oddities of a secret, in words that follow its name.
#[must_use]
pub fn oddities(secret: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    if unquoted(secret).len() < secret.len() {
        found.push("is in quotes, which are part of it: Docker's env files keep them".to_owned());
    }

    if secret.starts_with(b"\xef\xbb\xbf") {
        found.push("begins with a byte order mark, which counts".to_owned());
    }

    if from_utf16(secret).is_some() {
        found.push(
            "is UTF-16, as PowerShell's > writes it; write UTF-8 without a byte order mark"
                .to_owned(),
        );
    }

    if secret.trim_ascii().len() < secret.len() {
        found.push("has a space or a line end around it, which counts".to_owned());
    }

    let api = API_KEYS
        .iter()
        .find(|(start, _)| secret.starts_with(start.as_bytes()));
    if let Some((start, whose)) = api {
        found.push(format!(
            "looks like an API key of {whose} ({start}…), and no secret of a webhook"
        ));
    }

    found
}

/// Prefixes of keys for providers' APIs, which webhook secrets do not have (each provider's page on
/// API keys). `sk_live_…` is missing: Stripe has it, but Paystack signs webhooks by such a key.
const API_KEYS: [(&str, &str); 13] = [
    ("AKIA", "AWS"),
    ("AIza", "Google"),
    ("SG.", "SendGrid"),
    ("ghp_", "GitHub"),
    ("gho_", "GitHub"),
    ("github_pat_", "GitHub"),
    ("glpat-", "GitLab"),
    ("lin_api_", "Linear"),
    ("pk_live_", "Stripe"),
    ("pk_test_", "Stripe"),
    ("rk_live_", "Stripe"),
    ("shpat_", "Shopify"),
    ("xoxb-", "Slack"),
];

/// Returns the text without surrounding quotes.
#[must_use]
pub fn unquoted(secret: &[u8]) -> &[u8] {
    let between = |quote: u8| secret.strip_prefix(&[quote])?.strip_suffix(&[quote]);
    between(b'"')
        .or_else(|| between(b'\''))
        .filter(|inside| !inside.is_empty())
        .unwrap_or(secret)
}

/// Decodes UTF-16: with a byte order mark, or Latin letters in either byte order.
#[must_use]
pub fn from_utf16(bytes: &[u8]) -> Option<String> {
    let latin = |zero: usize| {
        bytes.len() >= 4
            && bytes
                .chunks(2)
                .all(|pair| pair.get(zero) == Some(&0) && pair.get(1 - zero) != Some(&0))
    };

    let (text, big) = match bytes {
        [0xff, 0xfe, rest @ ..] => (rest, false),
        [0xfe, 0xff, rest @ ..] => (rest, true),
        _ if latin(1) => (bytes, false),
        _ if latin(0) => (bytes, true),
        _ => return None,
    };
    if text.is_empty() || text.len() % 2 != 0 {
        return None;
    }

    let unit = |pair: &[u8]| match pair {
        [first, second] if big => u16::from_be_bytes([*first, *second]),
        [first, second] => u16::from_le_bytes([*first, *second]),
        _ => 0,
    };
    String::from_utf16(&text.chunks(2).map(unit).collect::<Vec<_>>()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_secret() {
        for word in [
            "undefined",
            "null",
            "changeme",
            "Change-Me",
            "YOUR_SECRET",
            "xxxxxxxxxxxx",
            "********",
            "password",
        ] {
            assert!(is_placeholder(word.as_bytes()), "{word}");
        }

        for word in ["hunter123", "0123456789abcdef", "secretive", "nullable"] {
            assert!(!is_placeholder(word.as_bytes()), "{word}");
        }
    }

    #[test]
    fn what_was_done_to_a_secret() {
        for (secret, expected) in [
            (&b"\"0123456789abcdef\""[..], "quotes"),
            (b"'0123456789abcdef'", "quotes"),
            (b"\xef\xbb\xbf0123456789abcdef", "byte order mark"),
            (b"\xff\xfea\0b\0c\0", "UTF-16"),
            (b"a\0b\0c\0", "UTF-16"),
            (b"0123456789abcdef\r", "line end"),
            (b" 0123456789abcdef", "space"),
            (b"rk_live_0123456789", "API key of Stripe"),
        ] {
            let found = oddities(secret).join("; ");
            assert!(found.contains(expected), "{found}");
        }

        for usual in [
            &b"0123456789abcdef"[..],
            b"whsec_0123456789",
            b"sk_live_0123456789",
            b"it's a \"secret\"",
            "p\u{e4}ssw\u{f6}rter".as_bytes(),
        ] {
            assert_eq!(oddities(usual), Vec::<String>::new());
        }
    }
}
