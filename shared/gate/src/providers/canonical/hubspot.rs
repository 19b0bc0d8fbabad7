//! Signed URL of HubSpot.

/// Returns HubSpot's signed URL, with these twelve escapes decoded, and no others
/// (developers.hubspot.com, "Validating requests", v3).
pub(in crate::providers) fn hubspot(url: &str) -> String {
    const DECODED: [(&str, &str); 12] = [
        ("%3A", ":"),
        ("%2F", "/"),
        ("%3F", "?"),
        ("%40", "@"),
        ("%21", "!"),
        ("%24", "$"),
        ("%27", "'"),
        ("%28", "("),
        ("%29", ")"),
        ("%2A", "*"),
        ("%2C", ","),
        ("%3B", ";"),
    ];

    DECODED
        .iter()
        .fold(url.to_owned(), |url, (escape, character)| {
            url.replace(escape, character)
        })
}
