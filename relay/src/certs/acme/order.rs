//! One order: proves the names by challenges, and gets a certificate.

use instant_acme::{
    Account, AuthorizationHandle, AuthorizationStatus, CertificateIdentifier, Challenge,
    ChallengeStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::AcmeError;
use super::challenges::{Challenges, OfferedChallenge};
use super::dns_hook::{DnsHook, DnsRecord};
use hookward_core::names::HostName;
use std::time::Duration;

/// Ways to prove a name.
#[derive(Clone)]
pub(super) struct Solvers {
    pub challenges: Challenges,
    /// `true` if the relay listens for HTTP-01.
    pub has_http: bool,
    /// Command for DNS-01. All names are proved by it, because its user has no other way.
    pub dns_hook: Option<DnsHook>,
}

/// Names of an order, and how they are proved.
pub(super) struct OrderRequest<'r> {
    pub names: &'r [String],
    /// Certificate that the new one replaces (RFC 9773 §5).
    pub replaces: Option<CertificateIdentifier<'static>>,
    /// Number of the way to prove the names, of [`Solvers::ways`].
    pub way: usize,
}

/// A challenge that the server may validate, until it is dropped.
enum Offered {
    Here { _guard: OfferedChallenge },
    Dns(DnsRecord),
}

impl Solvers {
    /// Returns the number of ways to prove a name.
    pub(super) fn ways(&self) -> usize {
        self.kinds(false).len()
    }

    fn kinds(&self, is_wildcard: bool) -> &'static [ChallengeType] {
        match (&self.dns_hook, is_wildcard, self.has_http) {
            (Some(_), ..) => &[ChallengeType::Dns01],
            (None, true, _) => &[],
            (None, false, true) => &[ChallengeType::TlsAlpn01, ChallengeType::Http01],
            (None, false, false) => &[ChallengeType::TlsAlpn01],
        }
    }

    /// Returns the challenge of this way, or the first one that the server offers.
    fn choose(
        &self,
        is_wildcard: bool,
        offered: &[Challenge],
        way: usize,
    ) -> Option<ChallengeType> {
        let is_offered = |kind: &&ChallengeType| offered.iter().any(|one| one.r#type == **kind);
        let possible = self.kinds(is_wildcard).iter().filter(is_offered);
        let possible: Vec<_> = possible.collect();
        let chosen = possible.get(way).or_else(|| possible.first());
        chosen.map(|kind| (*kind).clone())
    }

    async fn solve(
        &self,
        mut authorization: AuthorizationHandle<'_>,
        way: usize,
        offered: &mut Vec<Offered>,
    ) -> Result<(), AcmeError> {
        let is_wildcard = authorization.wildcard;
        let Identifier::Dns(name) = authorization.identifier().identifier.clone() else {
            return Err(AcmeError::Server(
                "an identifier that is not a DNS name".to_owned(),
            ));
        };
        let kind = self.choose(is_wildcard, &authorization.challenges, way);
        let kind = kind.ok_or_else(|| AcmeError::NoChallenge {
            name: name.clone(),
            is_wildcard,
        })?;
        let mut challenge = authorization
            .challenge(kind.clone())
            .ok_or_else(|| AcmeError::Server(format!("no challenge for {name}")))?;

        let text = challenge.key_authorization();
        let challenge_here = match kind {
            ChallengeType::Dns01 => {
                let hook = self
                    .dns_hook
                    .as_ref()
                    .ok_or_else(|| AcmeError::NoChallenge {
                        name: name.clone(),
                        is_wildcard,
                    })?;
                Offered::Dns(hook.add(&name, &text.dns_value()).await?)
            }
            ChallengeType::Http01 => Offered::Here {
                _guard: self.challenges.offer_text(&challenge.token, text.as_str()),
            },
            _ => {
                let host = HostName::parse(&name)
                    .ok_or_else(|| AcmeError::Server(format!("{name} is not a host name")))?;
                let offered = self
                    .challenges
                    .offer_certificate(&host, text.digest().as_ref());
                Offered::Here {
                    _guard: offered.map_err(AcmeError::Certificate)?,
                }
            }
        };
        // Withdrawn by the caller, whatever happens next.
        offered.push(challenge_here);
        challenge.set_ready().await.map_err(AcmeError::Order)
    }
}

/// Gets a certificate. Returns chain and key in PEM, the key first.
///
/// # Errors
/// [`AcmeError`].
pub(super) async fn order(
    account: &Account,
    request: OrderRequest<'_>,
    solvers: &Solvers,
) -> Result<Zeroizing<String>, AcmeError> {
    let identifiers: Vec<_> = request
        .names
        .iter()
        .map(|name| Identifier::Dns(name.clone()))
        .collect();
    let mut new = NewOrder::new(&identifiers);
    if let Some(replaces) = request.replaces {
        new = new.replaces(replaces);
    }
    let ordering = timeout(ORDER_TIMEOUT, account.new_order(&new)).await;
    let ordering = ordering.map_err(|_| AcmeError::Timeout)?;
    let mut order = ordering.map_err(AcmeError::NewOrder)?;

    let mut offered = Vec::new();
    let proving = prove(&mut order, solvers, request.way, &mut offered);
    let proved = timeout(ORDER_TIMEOUT, proving).await;
    for challenge in offered {
        if let Offered::Dns(record) = challenge {
            record.remove().await;
        }
    }
    proved.map_err(|_| AcmeError::Timeout)??;

    let issuing = issue(&mut order, request.names);
    let issued = timeout(ORDER_TIMEOUT, issuing).await;
    issued.map_err(|_| AcmeError::Timeout)?
}

/// Gets the certificate of an order whose names are proved.
async fn issue(order: &mut Order, names: &[String]) -> Result<Zeroizing<String>, AcmeError> {
    let key = KeyPair::generate().map_err(|error| AcmeError::Certificate(error.to_string()))?;
    let csr = CertificateParams::new(names.to_vec()).and_then(|mut params| {
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&key)
    });
    let csr = csr.map_err(|error| AcmeError::Certificate(error.to_string()))?;
    order
        .finalize_csr(csr.der())
        .await
        .map_err(AcmeError::Order)?;
    let chain = order
        .poll_certificate(&POLLING)
        .await
        .map_err(AcmeError::Order)?;
    let key = Zeroizing::new(key.serialize_pem());
    Ok(Zeroizing::new(format!("{}{chain}", *key)))
}

/// Solves all challenges, and waits until the server has validated them.
async fn prove(
    order: &mut Order,
    solvers: &Solvers,
    way: usize,
    offered: &mut Vec<Offered>,
) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let authorization = authorization.map_err(AcmeError::Order)?;
        if authorization.status == AuthorizationStatus::Pending {
            solvers.solve(authorization, way, offered).await?;
        }
    }

    match order.poll_ready(&POLLING).await {
        Ok(OrderStatus::Ready) => Ok(()),
        Ok(_) => Err(rejection(order).await),
        // The order has a general error; those of the challenges say what to mend.
        Err(instant_acme::Error::Api(problem)) => match rejection(order).await {
            AcmeError::Rejected { names } if names.is_empty() => {
                Err(AcmeError::Order(instant_acme::Error::Api(problem)))
            }
            rejected => Err(rejected),
        },
        Err(error) => Err(AcmeError::Order(error)),
    }
}

/// Returns the reasons for which the server did not validate names.
async fn rejection(order: &mut Order) -> AcmeError {
    let mut names = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let failed = authorization
            .challenges
            .iter()
            .filter(|challenge| challenge.status == ChallengeStatus::Invalid);
        for challenge in failed {
            let error = challenge.error.as_ref();
            let detail = error.and_then(|error| error.detail.clone());
            names.push(format!(
                "{} by {}: {}",
                authorization.identifier(),
                name_of(&challenge.r#type),
                detail.unwrap_or_else(|| "no reason given".to_owned())
            ));
        }
    }
    AcmeError::Rejected { names }
}

/// Returns the name of a challenge (RFC 8555 §9.7.8).
fn name_of(kind: &ChallengeType) -> &'static str {
    match kind {
        ChallengeType::Http01 => "http-01",
        ChallengeType::Dns01 => "dns-01",
        ChallengeType::TlsAlpn01 => "tls-alpn-01",
        _ => "another challenge",
    }
}

/// Waits for the server: it validates within seconds, and some queue for a minute.
const POLLING: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_secs(1))
    .backoff(1.0)
    .timeout(Duration::from_secs(120));

/// Maximum time of each step of an order: a DNS hook has two records to add.
pub(super) const ORDER_TIMEOUT: Duration = Duration::from_secs(900);
