//! Names that say that their value is secret.

/// Parts of such names, in lower case and without `-` and `_`.
const PARTS: [&str; 22] = [
    "accesskey",
    "apikey",
    "appkey",
    "authorization",
    "authkey",
    "cookie",
    "credential",
    "jwt",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "pwd",
    "secret",
    "sessionid",
    "sessionkey",
    "signingkey",
    "token",
    "xapi",
    "xauth",
    "xsession",
    "xkey",
];

/// Returns `true` if a header field, parameter or member with this name carries a secret, as far as
/// its name tells. Ignores case, `-` and `_`.
#[must_use]
pub fn is_secret_name(name: &[u8]) -> bool {
    let letters = name.iter().filter(|byte| !matches!(byte, b'-' | b'_'));
    let plain: String = letters
        .map(|byte| char::from(byte.to_ascii_lowercase()))
        .collect();
    PARTS.iter().any(|part| plain.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell() {
        for name in [
            "Authorization",
            "X-Gitlab-Token",
            "user[password]",
            "db_password",
            "private_token",
            "X-Amz-Security-Token",
            "aws_secret_access_key",
            "X-Auth",
            "X-Session-Id",
            "Set-Cookie",
        ] {
            assert!(is_secret_name(name.as_bytes()), "{name}");
        }
        for name in [
            "key",
            "X-GitHub-Event",
            "X-Hub-Signature-256",
            "ref",
            "author",
            "issue.key",
        ] {
            assert!(!is_secret_name(name.as_bytes()), "{name}");
        }
    }
}
