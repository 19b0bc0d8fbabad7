//! Sample events of well-known providers, to try a route. `samples.toml` has them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// A sample event, without a signature.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Id of the provider.
    pub provider: String,
    /// Type of the event.
    pub event: String,
    /// Media type of the body.
    #[serde(default = "json")]
    pub content_type: String,
    /// Header fields beside the media type and the signature.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Body.
    pub body: String,
}

fn json() -> String {
    "application/json".to_owned()
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct File {
    sample: Vec<Sample>,
}

static SAMPLES: LazyLock<File> = LazyLock::new(|| {
    // The data is part of the program, and a unit test parses it.
    toml::from_str(include_str!("samples.toml")).unwrap_or_default()
});

/// Returns all samples, those of one provider together.
#[must_use]
pub fn all() -> &'static [Sample] {
    &SAMPLES.sample
}

#[cfg(test)]
mod tests {
    use hookward_core::clock::UnixMillis;
    use hookward_core::secret::Secret;
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::*;
    use crate::policy::{ActiveSecret, Policy, SignatureCheck};
    use crate::providers;
    use crate::request::{Request, RequestHead};
    use crate::sign::{self, DraftRequest};

    #[test]
    fn every_sample_can_be_signed_and_is_recognised() {
        let samples: File = toml::from_str(include_str!("samples.toml")).unwrap();
        assert!(samples.sample.len() > 10);
        for sample in &samples.sample {
            let row = providers::find(&sample.provider).unwrap();
            assert_eq!(row.id, sample.provider);

            let mut check = SignatureCheck::by(&row.id);
            check.secrets.push(ActiveSecret {
                name: "test".to_owned(),
                secret: Secret::new(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_vec()).unwrap(),
            });
            let mut headers = HeaderMap::new();
            for (name, value) in &sample.headers {
                headers.insert(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                );
            }
            headers.insert(
                http::header::CONTENT_TYPE,
                HeaderValue::from_str(&sample.content_type).unwrap(),
            );
            let draft = DraftRequest {
                origin: "https://h.example.com".to_owned(),
                target: "/hooks".to_owned(),
                method: Method::POST,
                headers,
                body: sample.body.clone().into_bytes(),
            };
            let now = UnixMillis(1_769_860_800_000);
            let signed = sign::sign_by(&check, &draft, now, "msg_1")
                .unwrap()
                .unwrap();

            let policy = Policy::default();
            let head = RequestHead {
                method: &signed.method,
                target: signed.target.as_bytes(),
                headers: &signed.headers,
                origin: &signed.origin,
            };
            let request = Request::new(head, &signed.body);
            if let Some(sender) = policy.sender_of(None, &request) {
                let event = sender.event.unwrap_or_default();
                assert_eq!(event, sample.event, "{}", sample.provider);
            }
        }
    }
}
