//! Signed text of Amazon SNS.

use crate::providers::error::SignatureError;
use crate::providers::locator::{SignatureParams, ValueLocator};
use crate::request::Request;
use hookward_core::json::JsonPath;

/// Signed fields of Amazon SNS's messages, of any kind.
pub(crate) const SNS_FIELDS: [&str; 8] = [
    "Message",
    "MessageId",
    "SubscribeURL",
    "Subject",
    "Timestamp",
    "Token",
    "TopicArn",
    "Type",
];

/// Returns the signed text of Amazon SNS: names and values of the signed fields, each followed by a
/// line feed (docs.aws.amazon.com/sns, "Verifying the signatures of Amazon SNS messages").
pub(in crate::providers) fn sns(request: &Request<'_>) -> Result<Vec<u8>, SignatureError> {
    let field = |name: &str| {
        let place = JsonPath::parse(name).map_err(|_| SignatureError::Missing(name.to_owned()))?;
        let value = ValueLocator::Json(place).read(request, &SignatureParams::default())?;
        let text = value.map(|value| String::from_utf8(value.into_owned()));
        text.transpose()
            .map_err(|_| SignatureError::Malformed(format!("json:{name}"), "it is not UTF-8"))
    };
    let kind = field("Type")?.unwrap_or_default();
    let names: &[&str] = match kind.as_str() {
        "Notification" => &[
            "Message",
            "MessageId",
            "Subject",
            "Timestamp",
            "TopicArn",
            "Type",
        ],
        "SubscriptionConfirmation" | "UnsubscribeConfirmation" => &[
            "Message",
            "MessageId",
            "SubscribeURL",
            "Timestamp",
            "Token",
            "TopicArn",
            "Type",
        ],
        _ => {
            return Err(SignatureError::Malformed(
                "json:Type".to_owned(),
                "it is not a message of Amazon SNS",
            ));
        }
    };

    let mut text = String::new();
    for name in names {
        match field(name)? {
            // A line feed in a value could move bytes between fields; only the message may contain
            // some.
            Some(value) if *name != "Message" && value.contains('\n') => {
                return Err(SignatureError::Malformed(
                    format!("json:{name}"),
                    "it has several lines",
                ));
            }
            Some(value) => text.push_str(&format!("{name}\n{value}\n")),
            None if *name == "Subject" => {}
            None => return Err(SignatureError::Missing(format!("json:{name}"))),
        }
    }

    Ok(text.into_bytes())
}
