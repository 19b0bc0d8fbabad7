//! Facts about requests for display: their provider and event, and the locations of their secrets.

use hookward_core::secret::names::is_secret_name;
use hookward_core::secret::{Secret, SecretDigest};

use super::{Policy, Route, TokenLocation};
use crate::providers::locator::HeaderField;
use crate::providers::scheme::Algorithm;
use crate::providers::template::ValueSource;
use crate::providers::{self, Provider, Scheme, ValueLocator};
use crate::request::Request;

/// Provider and event of a request, for display. Senders can forge both.
#[derive(Debug, Clone)]
pub struct RequestSender {
    /// Provider of the route, or of the catalog.
    pub provider: &'static Provider,
    /// Type of the event, as written.
    pub event: Option<String>,
}

impl Policy {
    /// Returns the provider that a request names: one that its route verifies, or else the first of
    /// the catalog whose header with the event type it has.
    #[must_use]
    pub fn sender_of(&self, route: Option<&str>, request: &Request<'_>) -> Option<RequestSender> {
        let provider = self
            .verified_provider(route, request)
            .or_else(|| provider_by_event(request))?;
        let event = provider.event.as_ref().and_then(|at| at.text(request));
        Some(RequestSender { provider, event })
    }

    fn verified_provider(
        &self,
        route: Option<&str>,
        request: &Request<'_>,
    ) -> Option<&'static Provider> {
        let routes = self.routes.iter();
        let routes = routes.filter(|known| route.is_none_or(|name| known.name == name));
        let checks = routes
            .flat_map(|route| &route.accept)
            .flat_map(|accept| &accept.verify);

        checks
            .filter_map(|check| Some((check.row()?, check.schemes().ok()?)))
            .find(|(_, schemes)| {
                let mut places = schemes.iter().map(|scheme| &scheme.sig.at);
                places.any(|place| place.may_stand_in(request.head))
            })
            .map(|(row, _)| row)
    }

    /// Returns the locations at which requests carry secrets: tokens, and signatures that are the
    /// secret itself. Basic authentication is in the field `Authorization`, which is always secret.
    #[must_use]
    pub fn secret_locations(&self) -> Vec<ValueLocator> {
        self.routes
            .iter()
            .flat_map(Route::secret_locations)
            .collect()
    }

    /// Returns the digests of all tokens, and of the credentials of Basic authentication.
    #[must_use]
    pub fn token_digests(&self) -> Vec<SecretDigest> {
        let rules = self.routes.iter().flat_map(|route| &route.accept);
        let checks = rules.flat_map(|rule| rule.token.iter().chain(&rule.basic));
        let tokens = checks.flat_map(|check| &check.active);
        tokens.map(|token| token.digest.clone()).collect()
    }

    /// Returns the values that rules allow for header fields and body values whose names say that they
    /// are secret.
    #[must_use]
    pub fn secret_values(&self) -> Vec<String> {
        let rules = self.routes.iter().flat_map(|route| &route.accept);
        let values = rules.flat_map(|rule| {
            let headers = rule.headers.iter();
            let headers = headers.filter(|header| is_secret_name(header.name.as_str().as_bytes()));
            let body = rule.body.iter();
            let body = body.filter(|value| is_secret_name(value.path.to_string().as_bytes()));
            let allowed = headers.map(|header| &header.allowed);
            allowed.chain(body.map(|value| &value.allowed)).flatten()
        });
        values.cloned().collect()
    }

    /// Returns the secrets of all signature checks.
    pub fn signing_secrets(&self) -> impl Iterator<Item = &Secret> {
        let rules = self.routes.iter().flat_map(|route| &route.accept);
        let secrets = rules
            .flat_map(|rule| &rule.verify)
            .flat_map(|check| &check.secrets);
        secrets.map(|active| &active.secret)
    }
}

impl Route {
    fn secret_locations(&self) -> Vec<ValueLocator> {
        let tokens = self.accept.iter().filter_map(|rule| rule.token.as_ref());
        let tokens = tokens.filter_map(|token| match &token.location {
            TokenLocation::Query(name) => Some(ValueLocator::Query(name.clone())),
            TokenLocation::Header(name) => HeaderField::parse(name.as_str())
                .ok()
                .map(ValueLocator::Header),
            TokenLocation::Basic => None,
        });

        let checks = self.accept.iter().flat_map(|rule| &rule.verify);
        let schemes = checks.flat_map(|check| check.schemes().unwrap_or_default());
        tokens
            .chain(schemes.flat_map(|scheme| scheme.secret_locations()))
            .collect()
    }
}

impl Scheme {
    /// Returns the locations at which the sender writes the secret itself.
    fn secret_locations(&self) -> Vec<ValueLocator> {
        let signature = (self.alg == Algorithm::Equals).then(|| self.sig.at.clone());
        let required = self.require.iter().filter(|required| {
            let template = required.is.as_ref();
            template.is_some_and(|template| {
                let mut sources = template.sources();
                sources.any(|source| matches!(source, ValueSource::Secret(_)))
            })
        });
        signature
            .into_iter()
            .chain(required.map(|required| required.at.clone()))
            .collect()
    }
}

/// Returns the first provider whose header with the event type the request has.
fn provider_by_event(request: &Request<'_>) -> Option<&'static Provider> {
    providers::all().iter().find(|row| {
        let event = row.event.as_ref();
        event.is_some_and(|at| {
            matches!(at, ValueLocator::Header(_)) && at.may_stand_in(request.head)
        })
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::policy::{Accept, SignatureCheck, TokenCheck};
    use crate::request::RequestHead;

    fn policy(checks: Vec<SignatureCheck>) -> Policy {
        let mut route = Route::new("hooks", vec!["/**".to_owned()]);
        route.accept.push(Accept {
            verify: checks,
            token: Some(TokenCheck::created(
                &hookward_core::secret::SecretDigest::of(b"x"),
            )),
            ..Accept::default()
        });
        Policy::new(vec![route])
    }

    fn sender(
        policy: &Policy,
        fields: &[(&'static str, &'static str)],
    ) -> Option<(String, Option<String>)> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let head = RequestHead {
            method: &Method::POST,
            target: b"/",
            headers: &headers,
            origin: "https://h",
        };
        let found = policy.sender_of(None, &Request::new(head, b"{}"))?;
        Some((found.provider.id.clone(), found.event))
    }

    #[test]
    fn the_provider_of_the_route_comes_first() {
        let gitlab = policy(vec![SignatureCheck::by("gitlab")]);
        let github = [("x-github-event", "push")];
        let both = [
            ("x-github-event", "push"),
            ("x-gitlab-token", "t"),
            ("x-gitlab-event", "Push Hook"),
        ];
        assert_eq!(
            sender(&gitlab, &both),
            Some(("gitlab_token".to_owned(), Some("Push Hook".to_owned())))
        );
        assert_eq!(
            sender(&gitlab, &github),
            Some(("github".to_owned(), Some("push".to_owned())))
        );
        assert_eq!(sender(&gitlab, &[("x-other", "1")]), None);
    }

    #[test]
    fn secrets_are_located() {
        let places = policy(vec![
            SignatureCheck::by("gitlab"),
            SignatureCheck::by("github"),
        ]);
        let places: Vec<_> = places
            .secret_locations()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(places.contains(&"query:token".to_owned()), "{places:?}");
        assert!(
            places
                .iter()
                .any(|place| place.eq_ignore_ascii_case("header:x-gitlab-token")),
            "{places:?}"
        );
        assert!(
            !places.iter().any(|place| place.contains("ignature-256")),
            "{places:?}"
        );
    }
}
