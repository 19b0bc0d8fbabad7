//! Signed texts of single providers, one file each, and of forms and header lists.

pub(crate) mod atlassian;
pub(crate) mod contentful;
pub(crate) mod forms;
pub(crate) mod hubspot;
pub(crate) mod plivo;
pub(crate) mod sns;

/// Percent-encodes all bytes that are neither alphanumeric nor in `plain`.
pub(crate) fn escape(text: &[u8], plain: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || plain.contains(byte) {
            escaped.push(char::from(*byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }

    escaped
}
