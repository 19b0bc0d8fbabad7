//! Makes a policy of what was written in flags or in a file, and collects all mistakes with their
//! origins.

use hookward_core::address::parse_network;
use hookward_core::clock::UnixMillis;
use hookward_core::diagnostics::{Origin, Origins, parse_duration};
use hookward_core::ip_sets;
use hookward_core::json::JsonPath;
use hookward_core::rate::Rate;
use hookward_core::secret::{SecretDigest, SecretReader, SecretSource};
use http::HeaderName;

use super::raw::{
    RawAccept, RawDelivery, RawPolicy, RawRoute, RawSecret, RawSignature, RawToken, RawValueRule,
    Unprotected,
};
use super::validate::{MAX_ROUTE_NAME, Mistake};
use crate::policy::{
    Accept, ActiveSecret, ActiveToken, Addresses, BodyRule, Delivery, DeliveryMode, DeliveryOrder,
    HeaderRule, Mode, Policy, Route, SignatureCheck, TokenCheck, TokenLocation,
};
use crate::providers;

/// A policy, and notes about its secrets.
pub struct LoadedPolicy {
    /// The policy. Without the token, if one must be created.
    pub policy: Policy,
    /// `true` if a token must be created, because no other check refuses unknown senders.
    pub create_token: bool,
    /// Notes, such as a trailing newline that was removed from a secret.
    pub notes: Vec<String>,
}

/// A mistake with its origin.
#[derive(Debug, Clone)]
pub struct LocatedMistake {
    /// Origin of the value.
    pub origin: Origin,
    /// Cause of the error, and the remedy.
    pub reason: String,
}

/// Makes a policy of what was written.
///
/// # Errors
/// All mistakes.
pub fn resolve(
    raw: RawPolicy,
    secrets: &dyn SecretReader,
    now: UnixMillis,
) -> Result<LoadedPolicy, Vec<LocatedMistake>> {
    let mut resolver = Resolver {
        secrets,
        now,
        notes: Vec::new(),
        mistakes: Vec::new(),
        create_token: false,
    };

    let general = raw.origins.clone();
    let policy = Policy {
        client_rate: resolver.rate(&general, "client_rate", raw.client_rate.as_deref()),
        rate: resolver.rate(&general, "rate", raw.rate.as_deref()),
        lockout: raw.lockout,
        routes: Vec::new(),
    };
    let routes = raw.routes.into_iter().map(|route| resolver.route(route));
    let policy = Policy {
        routes: routes.collect(),
        ..policy
    };

    let Resolver {
        notes,
        mut mistakes,
        create_token,
        ..
    } = resolver;
    if mistakes.is_empty() {
        // Each route was checked; this finds what only the whole policy shows.
        let complete = match create_token {
            true => policy.with_token(&created_token()),
            false => policy.clone(),
        };
        mistakes.extend(
            complete
                .errors(now)
                .into_iter()
                .map(|reason| LocatedMistake {
                    origin: general.table().clone(),
                    reason,
                }),
        );
    }

    match mistakes.is_empty() {
        true => Ok(LoadedPolicy {
            policy,
            create_token,
            notes,
        }),
        false => Err(mistakes),
    }
}

/// Returns a check in the place of the token that will be created.
fn created_token() -> TokenCheck {
    TokenCheck::created(&SecretDigest::of(b""))
}

struct Resolver<'s> {
    secrets: &'s dyn SecretReader,
    now: UnixMillis,
    notes: Vec<String>,
    mistakes: Vec<LocatedMistake>,
    create_token: bool,
}

impl Resolver<'_> {
    fn report(&mut self, origins: &Origins, key: &str, reason: impl ToString) {
        self.report_at(origins.of(key).clone(), reason);
    }

    fn report_at(&mut self, origin: Origin, reason: impl ToString) {
        let reason = reason.to_string();
        self.mistakes.push(LocatedMistake { origin, reason });
    }

    /// Reports mistakes of a checked route or accept rule.
    fn report_checked(&mut self, origins: &Origins, route: &str, mistakes: Vec<Mistake>) {
        for Mistake { key, text } in mistakes {
            let origin = origins.of(key).clone().without_label();
            let reason = format!("route {route:?}: {text}");
            self.mistakes.push(LocatedMistake { origin, reason });
        }
    }

    fn rate(&mut self, origins: &Origins, key: &str, text: Option<&str>) -> Option<Rate> {
        Rate::parse(text?)
            .map_err(|what| self.report(origins, key, what))
            .ok()
    }

    fn addresses(&mut self, origins: &Origins, key: &str, texts: &[String]) -> Addresses {
        read_addresses(texts, |what| self.report(origins, key, what))
    }

    fn route(&mut self, raw: RawRoute) -> Route {
        let origins = &raw.origins;
        let first_path = || {
            let path = raw.paths.first()?;
            Some(path.chars().take(MAX_ROUTE_NAME).collect())
        };
        let name: Option<String> = raw.name.or_else(first_path);
        let mut route = Route::new(name.unwrap_or_default(), raw.paths);
        let methods = raw.methods.unwrap_or_default().into_iter();
        route.methods = methods.map(|method| method.to_ascii_uppercase()).collect();
        route.deny_ips = self.addresses(origins, "deny_ips", &raw.deny_ips);
        route.max_body = raw.max_body.unwrap_or(route.max_body);
        route.websocket = raw.websocket;
        route.keep_token = raw.keep_token;
        route.encoded_slashes = raw.encoded_slashes;
        route.rate = self.rate(origins, "rate", raw.rate.as_deref());
        route.replay = raw.replay;
        route.mode = raw.mode.unwrap_or(Mode::Enforce);

        if let Some(text) = raw.answer_timeout {
            let millis = self.millis(origins, "answer_timeout", &text);
            route.answer_timeout_ms = millis.unwrap_or(route.answer_timeout_ms);
        }

        // The route as it will be: with the token that the caller creates.
        let mut complete = route.clone();
        let deny = route.deny_ips.set();
        for raw in raw.accept {
            let before = self.mistakes.len();
            let (origins, is_readable) = (raw.origins.clone(), raw.is_readable);
            let has_ranges = raw.allow_ips.as_ref().is_some_and(|ips| !ips.is_empty());
            let creates_token = raw.unprotected == Unprotected::CreateToken;
            let accept = self.accept(raw);
            let mut completed = accept.clone();
            if creates_token && accept.verify.is_empty() && !accept.is_protected() {
                self.create_token = true;
                completed.token = Some(created_token());
            }

            // A value with a mistake is not missing.
            let mut mistakes = match is_readable && self.mistakes.len() == before {
                true => completed.lacks(),
                false => Vec::new(),
            };
            mistakes.extend(completed.mistakes(&deny));
            mistakes.retain(|mistake| !(has_ranges && mistake.is_empty_list()));
            self.report_checked(&origins, &route.name, mistakes);
            route.accept.push(accept);
            complete.accept.push(completed);
        }

        let is_preset = raw.delivery.is_none();
        complete.delivery = match raw.delivery {
            Some(raw) => self.delivery(raw),
            None => complete.preset_delivery(),
        };
        if is_preset && complete.excessive_work().is_some() {
            complete.delivery = None;
        }
        route.delivery.clone_from(&complete.delivery);

        let mut own = complete.own_mistakes(self.now);
        own.extend(complete.excessive_work());
        self.report_checked(origins, &route.name, own);
        route
    }

    /// Reads a duration, in milliseconds.
    fn millis(&mut self, origins: &Origins, key: &str, text: &str) -> Option<u64> {
        match parse_duration(text) {
            Some(time) => Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            None => {
                let what = format!("{text:?} is not a time such as 500ms, 10s, 5m, 1h or 30d");
                self.report(origins, key, what);
                None
            }
        }
    }

    fn delivery(&mut self, raw: RawDelivery) -> Option<Delivery> {
        let origins = &raw.origins;
        let mode = match raw.mode.as_deref().map(DeliveryMode::parse) {
            Some(Ok(mode)) => mode,
            Some(Err(what)) => {
                self.report(origins, raw.mode_key, what);
                return None;
            }
            None => DeliveryMode::Fallback,
        };

        let mut delivery = Delivery::new(mode);
        if let Some(text) = &raw.order {
            match DeliveryOrder::parse(text) {
                Ok(order) => delivery.order = order,
                Err(what) => self.report(origins, "order", what),
            }
        }
        if let Some(text) = &raw.max_age {
            let max_age = self.millis(origins, "max_age", text);
            delivery.max_age_ms = max_age.unwrap_or(delivery.max_age_ms);
        }
        if let Some(text) = &raw.fallback_after {
            delivery.fallback_after_ms = self.millis(origins, "fallback_after", text);
        }
        delivery.fallback_on = raw.fallback_on.unwrap_or(delivery.fallback_on);
        delivery.retry_on = raw.retry_on.unwrap_or(delivery.retry_on);
        Some(delivery)
    }

    fn accept(&mut self, raw: RawAccept) -> Accept {
        let origins = &raw.origins;
        let mut accept = Accept {
            open: raw.unprotected == Unprotected::Open,
            allow_ips: raw
                .allow_ips
                .map(|texts| self.addresses(origins, "allow_ips", &texts)),
            token: raw.token.and_then(|token| self.token(token)),
            basic: raw.basic.map(|sources| self.basic(origins, &sources)),
            content_types: raw.content_types,
            ..Accept::default()
        };

        for RawValueRule {
            origin,
            name,
            allowed,
        } in raw.headers
        {
            match HeaderName::from_bytes(name.as_bytes()) {
                Ok(name) => accept.headers.push(HeaderRule { name, allowed }),
                Err(_) => self.report_at(origin, format!("{name:?} is not a header name")),
            }
        }

        for RawValueRule {
            origin,
            name,
            allowed,
        } in raw.body
        {
            match JsonPath::parse(&name) {
                Ok(path) => accept.body.push(BodyRule { path, allowed }),
                Err(what) => self.report_at(origin, what),
            }
        }

        let checks = raw.verify.into_iter();
        accept.verify = checks.filter_map(|check| self.signature(check)).collect();

        if raw.unprotected == Unprotected::OpenByDefault && accept.verify.is_empty() {
            accept.open = !accept.is_protected();
        }
        accept
    }

    fn token(&mut self, raw: RawToken) -> Option<TokenCheck> {
        let location = TokenLocation::parse(&raw.location)
            .map_err(|what| self.report(&raw.origins, "at", what))
            .ok();
        let secrets = self.load_all(&raw.origins, &raw.secrets);

        Some(TokenCheck {
            location: location?,
            active: secrets.into_iter().map(token).collect(),
        })
    }

    fn basic(&mut self, origins: &Origins, sources: &[String]) -> TokenCheck {
        let mut active = Vec::new();
        for source in sources {
            let Some(secret) = self.load(origins, "basic", source) else {
                continue;
            };
            if secret.secret.expose().contains(&b':') {
                active.push(token(secret));
            } else {
                let what = format!("{} holds no user:password", secret.name);
                self.report(origins, "basic", what);
            }
        }

        TokenCheck {
            location: TokenLocation::Basic,
            active,
        }
    }

    fn signature(&mut self, raw: RawSignature) -> Option<SignatureCheck> {
        let origins = &raw.origins;
        if raw.provider.is_none() && raw.scheme.is_none() {
            return None;
        }

        let mut check = SignatureCheck {
            provider: raw.provider,
            variant: raw.variant,
            scheme: raw.scheme,
            secret_at: raw.secret_at,
            origin: raw.origin,
            challenge: raw.challenge,
            ..SignatureCheck::default()
        };
        // A check with a fetched key needs no secret.
        let schemes = check.schemes();
        let fetched = schemes.is_ok_and(|all| all.iter().any(|scheme| scheme.fetch.is_some()));
        if raw.secrets.is_empty() && !fetched {
            let what = lacks_secret(origins.table(), check.provider.as_deref());
            self.report(origins, "", what);
        }

        check.secrets = self.load_all(origins, &raw.secrets);
        Some(check)
    }

    fn load_all(&mut self, origins: &Origins, secrets: &[RawSecret]) -> Vec<ActiveSecret> {
        secrets
            .iter()
            .filter_map(|secret| self.load(origins, secret.key, &secret.source))
            .collect()
    }

    fn load(&mut self, origins: &Origins, key: &str, source: &str) -> Option<ActiveSecret> {
        let loaded = SecretSource::parse(source).and_then(|source| {
            // A command may contain a secret of its own.
            let name = source.to_string();
            Ok((name, self.secrets.load_from(source)?))
        });
        match loaded {
            Ok((name, loaded)) => {
                self.notes.extend(loaded.notes);
                Some(ActiveSecret {
                    name,
                    secret: loaded.secret,
                })
            }
            Err(error) => {
                self.report(origins, key, error);
                None
            }
        }
    }
}

/// Returns the mistake of a signature check without a secret, in the words of its origin.
fn lacks_secret(origin: &Origin, provider: Option<&str>) -> String {
    let row = provider.and_then(providers::find);
    match (origin, row) {
        (Origin::Flag(_), Some(row)) => {
            format!("write {}=env:NAME: {} has a secret", row.id, row.name)
        }
        _ => "no secret is given; write for example secret = \"env:NAME\"".to_owned(),
    }
}

/// Keeps only the digest of a token.
fn token(secret: ActiveSecret) -> ActiveToken {
    ActiveToken {
        digest: secret.secret.digest(),
        name: secret.name,
    }
}

/// Reads ranges and names of sets. Calls `wrong` with each mistake.
fn read_addresses(texts: &[String], mut wrong: impl FnMut(String)) -> Addresses {
    let name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };

    let mut addresses = Addresses::default();
    for text in texts {
        match parse_network(text) {
            Ok(network) => addresses.ranges.push(network),
            Err(_) if name(text) => match ip_sets::find(&text.to_ascii_lowercase()) {
                Some(set) => addresses.named.push(set.name.clone()),
                None => wrong(ip_sets::unknown(text)),
            },
            Err(what) => wrong(what.to_string()),
        }
    }

    addresses
}
