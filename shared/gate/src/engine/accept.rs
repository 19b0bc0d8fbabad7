//! Evaluation of one accept rule: its checks in order, all of which must pass.

mod address;
mod evidence;

use hookward_core::reason::Reason;

pub(crate) use self::address::AddressRule;
pub(crate) use self::evidence::{Evidence, token_refusal};
use crate::engine::evaluation::Evaluation;
use crate::engine::signature::{SignatureRule, VerifiedSignature, WantedKey};
use crate::engine::token::{self, TokenSpan};
use crate::engine::{Side, body_rule, header};
use crate::inspection::{BodyFieldsBuilder, Inspection};
use crate::policy::{Accept, ActiveSecret, BodyRule, HeaderRule, TokenCheck};
use crate::providers::Provider;
use crate::providers::challenge::ChallengeAction;
use crate::request::{Request, RequestHead};
use hookward_core::reason::{Check, Refusal};

/// Function that returns the signature of a rule that a retired secret has verified.
pub(crate) type Voucher<'v> = dyn Fn(&SignatureRule) -> Option<VerifiedSignature> + 'v;

/// Traces of its requests that a route keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RouteMemory {
    /// `true` if it may store webhooks.
    pub(crate) stores: bool,
    /// `true` if it refuses repeated deliveries.
    pub(crate) remembers: bool,
}

pub(crate) struct AcceptRule {
    side: Side,
    /// Number of the rule in its route.
    number: usize,
    /// `true` if permits name the verified signatures.
    names_signatures: bool,
    allow: Option<AddressRule>,
    tokens: Vec<TokenCheck>,
    content_types: Vec<String>,
    headers: Vec<HeaderRule>,
    signatures: Vec<SignatureRule>,
    body: Vec<BodyRule>,
}

impl AcceptRule {
    /// Compiles an accept rule.
    pub(crate) fn new(
        accept: &Accept,
        number: usize,
        side: Side,
        memory: RouteMemory,
    ) -> Result<Self, Reason> {
        let RouteMemory { stores, remembers } = memory;
        // The agent names them for the refusal of repeats.
        let proves = side == Side::Agent && stores && remembers;
        Ok(Self {
            side,
            number,
            names_signatures: stores && side == Side::Relay || proves,
            allow: accept.allow_ips.as_ref().map(AddressRule::new),
            tokens: accept.token.iter().chain(&accept.basic).cloned().collect(),
            content_types: accept.content_types.clone(),
            headers: accept.headers.clone(),
            signatures: accept
                .verify
                .iter()
                .map(|check| {
                    SignatureRule::new(check, side, remembers && side == Side::Relay, proves)
                })
                .collect::<Result<_, _>>()?,
            body: accept.body.clone(),
        })
    }

    /// Returns the names of its checks, in their order.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check> + use<> {
        let has = [
            (self.allow.is_some(), Check::Address),
            (!self.tokens.is_empty(), Check::Token),
            (!self.content_types.is_empty(), Check::ContentType),
            (!self.headers.is_empty(), Check::Header),
            (!self.signatures.is_empty(), Check::Signature),
            (!self.body.is_empty(), Check::BodyRule),
        ];
        has.into_iter()
            .filter_map(|(has, check)| has.then_some(check))
    }

    /// Returns `true` if the checks need the body.
    pub(crate) fn needs_body(&self) -> bool {
        !self.body.is_empty() || self.signatures.iter().any(SignatureRule::needs_body)
    }

    /// Adds the body fields that its checks read.
    pub(crate) fn add_body_fields(&self, places: &mut BodyFieldsBuilder) {
        self.signatures
            .iter()
            .for_each(|rule| rule.add_places(places));
        for rule in &self.body {
            places.json(&rule.path);
            places.form_json(body_rule::FORM_FIELD, &rule.path);
        }
    }

    /// Returns `true` if the request has a candidate signature that this side can check.
    pub(crate) fn may_be_signed(&self, head: RequestHead<'_>) -> bool {
        !self.signatures.is_empty() && self.signatures.iter().all(|rule| rule.may_be_signed(head))
    }

    /// Returns the provider of its first signature check.
    pub(crate) fn provider(&self) -> Option<&'static Provider> {
        self.signatures.iter().find_map(SignatureRule::provider)
    }

    /// Returns the allowed addresses.
    pub(crate) const fn allowed(&self) -> Option<&AddressRule> {
        self.allow.as_ref()
    }

    /// Returns the signing secrets, for the doctor.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &ActiveSecret> {
        self.signatures.iter().flat_map(SignatureRule::secrets)
    }

    pub(crate) fn check_head(
        &self,
        deny: &AddressRule,
        head: RequestHead<'_>,
        evaluation: Evaluation<'_>,
    ) -> Result<Evidence, Refusal> {
        let mut evidence = Evidence {
            rule: self.number,
            ..Evidence::default()
        };
        if let Err(refusal) = self.check_address(deny, evaluation) {
            evidence.record_or_fail(refusal, evaluation)?;
        }

        self.check_tokens(head, evaluation, &mut evidence)?;

        // A challenge also passes all checks without a signature, because some responses use the
        // key of events.
        self.check_fields(head)?;

        let no_body = Request::new(head, b"");
        if evidence.failed.is_none()
            && self
                .react(&no_body, false, false)
                .is_ok_and(|reaction| reaction.is_some())
        {
            return Ok(evidence);
        }

        if !self.needs_body() {
            self.check_signatures(&no_body, evaluation, &NO_VOUCHER, &mut evidence)?;
        }

        Ok(evidence)
    }

    pub(crate) fn check_body(
        &self,
        request: &Request<'_>,
        mut evidence: Evidence,
        evaluation: Evaluation<'_>,
    ) -> Result<Evidence, Refusal> {
        self.check_signatures(request, evaluation, &NO_VOUCHER, &mut evidence)?;
        self.check_rules(request)?;
        Ok(evidence)
    }

    /// Runs all checks of a stored request. Where a signature does not match, `vouch` may return the
    /// one that a retired secret has verified.
    pub(crate) fn check_again(
        &self,
        deny: &AddressRule,
        request: &Request<'_>,
        evaluation: Evaluation<'_>,
        vouch: &Voucher<'_>,
    ) -> Result<Evidence, Refusal> {
        let mut evidence = Evidence {
            rule: self.number,
            ..Evidence::default()
        };
        if let Err(refusal) = self.check_address(deny, evaluation) {
            evidence.record_or_fail(refusal, evaluation)?;
        }

        self.check_tokens(request.head, evaluation, &mut evidence)?;
        self.check_fields(request.head)?;
        self.check_signatures(request, evaluation, vouch, &mut evidence)?;
        self.check_rules(request)?;
        Ok(evidence)
    }

    fn check_tokens(
        &self,
        head: RequestHead<'_>,
        evaluation: Evaluation<'_>,
        evidence: &mut Evidence,
    ) -> Result<(), Refusal> {
        for check in &self.tokens {
            match token::check(check, head.target, head.headers) {
                Ok((spot, name)) => {
                    evidence.tokens.push(spot);
                    evidence.secrets.push(name.to_owned());
                }
                Err(reason) => {
                    evidence
                        .record_or_fail(token_refusal(check, reason.to_string()), evaluation)?;
                }
            }
        }
        Ok(())
    }

    /// Checks the client address. The agent has no named sets, and trusts the relay for them.
    pub(crate) fn check_address(
        &self,
        deny: &AddressRule,
        evaluation: Evaluation<'_>,
    ) -> Result<(), Refusal> {
        let Evaluation { client, state, .. } = evaluation;
        if deny.contains(client, state)
            && (self.side == Side::Relay || deny.ranges.contains(client))
        {
            return Err(Refusal::failed(
                Check::Address,
                format!("{client} is denied"),
            ));
        }

        let Some(allow) = &self.allow else {
            return Ok(());
        };
        if self.side == Side::Agent && !allow.named.is_empty() || allow.contains(client, state) {
            return Ok(());
        }

        let mut reason = format!("{client} is not in an allowed range");
        for age in allow.ages(evaluation) {
            reason.push_str(&format!(" ({age})"));
        }

        Err(Refusal::failed(Check::Address, reason))
    }

    /// Checks content type and header rules.
    pub(crate) fn check_fields(&self, head: RequestHead<'_>) -> Result<(), Refusal> {
        self.check_content_type(head)?;
        self.check_headers(head)
    }

    pub(crate) fn check_content_type(&self, head: RequestHead<'_>) -> Result<(), Refusal> {
        if self.content_types.is_empty() {
            return Ok(());
        }
        header::check_content_type(&self.content_types, head.headers)
            .map_err(|reason| Refusal::failed(Check::ContentType, reason))
    }

    pub(crate) fn check_headers(&self, head: RequestHead<'_>) -> Result<(), Refusal> {
        for rule in &self.headers {
            header::check(rule, head.headers)
                .map_err(|reason| Refusal::failed(Check::Header, reason))?;
        }
        Ok(())
    }

    pub(crate) fn check_signatures(
        &self,
        request: &Request<'_>,
        evaluation: Evaluation<'_>,
        vouch: &Voucher<'_>,
        evidence: &mut Evidence,
    ) -> Result<(), Refusal> {
        let mut unsigned = false;
        for rule in &self.signatures {
            match rule.verify(request, evaluation) {
                Ok(None) => unsigned = true,
                Ok(Some((verified, name))) => {
                    evidence.signed |= verified.signs;
                    evidence.secrets.push(name.to_owned());
                    evidence.identity.extend(rule.delivery(request, &verified));
                    if self.names_signatures && verified.signs {
                        evidence.signatures.push(VerifiedSignature {
                            scheme: rule.identity().to_owned(),
                            rule: self.number,
                            digest: rule.content_digest(request, &verified),
                        });
                    }
                }
                Err(refusal) => match vouch(rule) {
                    Some(verified) => evidence.signatures.push(verified),
                    None => {
                        unsigned = true;
                        evidence.record_or_fail(refusal, evaluation)?;
                    }
                },
            }
        }

        evidence.signed &= !unsigned;
        Ok(())
    }

    pub(crate) fn check_rules(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let own;
        let inspection = match request.inspection {
            Some(inspection) => inspection,
            None => {
                own = Inspection::default();
                &own
            }
        };

        let failed = |reason| Refusal::failed(Check::BodyRule, reason);
        self.body
            .iter()
            .try_for_each(|rule| body_rule::check(rule, request, inspection).map_err(failed))
    }

    /// Returns the action for a challenge of one of its providers, if the request is one.
    pub(crate) fn react(
        &self,
        request: &Request<'_>,
        has_body: bool,
        signed: bool,
    ) -> Result<Option<ChallengeAction>, Refusal> {
        for rule in &self.signatures {
            if let Some(reaction) = rule.react(request, has_body, signed)? {
                return Ok(Some(reaction));
            }
        }
        Ok(None)
    }

    pub(crate) fn may_want_keys(&self) -> bool {
        self.signatures.iter().any(SignatureRule::may_want_keys)
    }

    pub(crate) fn wanted_keys(&self, request: &Request<'_>) -> Vec<WantedKey> {
        self.signatures
            .iter()
            .flat_map(|rule| rule.wanted(request))
            .collect()
    }

    /// Returns the spans of valid tokens, even if other checks failed.
    pub(crate) fn find_tokens(&self, head: RequestHead<'_>) -> Vec<TokenSpan> {
        let find = |check: &TokenCheck| {
            token::check(check, head.target, head.headers)
                .ok()
                .map(|(spot, _)| spot)
        };
        self.tokens.iter().filter_map(find).collect()
    }

    pub(crate) fn diagnose(
        &self,
        request: &Request<'_>,
        others: &[ActiveSecret],
        evaluation: Evaluation<'_>,
    ) -> Vec<String> {
        self.signatures
            .iter()
            .flat_map(|rule| rule.diagnose(request, others, evaluation))
            .collect()
    }

    pub(crate) fn tokens(&self) -> &[TokenCheck] {
        &self.tokens
    }

    pub(crate) fn signatures(&self) -> &[SignatureRule] {
        &self.signatures
    }

    pub(crate) fn has_field_rules(&self) -> (bool, bool) {
        (!self.content_types.is_empty(), !self.headers.is_empty())
    }

    pub(crate) fn has_body_rules(&self) -> bool {
        !self.body.is_empty()
    }
}

/// Voucher of a request that is evaluated for the first time.
const NO_VOUCHER: fn(&SignatureRule) -> Option<VerifiedSignature> = |_| None;
