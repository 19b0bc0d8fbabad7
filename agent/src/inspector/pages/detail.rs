//! One request: verdict, timing, request and response.

use askama::Template;
use hookward_core::reason::Check;
use hookward_gate::engine::explain::{CheckOutcome, Explanation};
use hookward_pages::site::path_with;
use hookward_pages::text::{date_time, duration, visible};

use super::REQUESTS;
use super::body::BodyView;
use super::list::request_path;
use super::verdict_class;
use crate::inspector::capture::BODY_BYTES;
use crate::inspector::curl;
use crate::inspector::history::{Detail, Summary};
use crate::inspector::message::StoredMessage;
use crate::inspector::remedy::Remedy;
use crate::inspector::rule::Rule;
use hookward_gate::redaction::REDACTED;

/// Page of a request.
#[derive(Template)]
#[template(path = "request.html")]
pub(crate) struct RequestPage {
    number: i64,
    title: String,
    /// Facts with their names.
    facts: Vec<(&'static str, String)>,
    verdict: String,
    class: &'static str,
    status: Option<u16>,
    reason: Option<String>,
    /// Doctor's advice: what would have made the signature match.
    hints: Vec<String>,
    notes: Vec<String>,
    checks: Vec<CheckRow>,
    /// Reason why there are no checks.
    unexplained: Option<String>,
    phases: Vec<Phase>,
    request: Option<MessageView>,
    response: Option<MessageView>,
    again_of: Option<i64>,
    curl: Option<String>,
    /// `true` if the history has all of the request.
    is_whole: bool,
    /// `true` if a check refused it, so that its content is a stranger's.
    is_refused: bool,
    rule: Option<Rule>,
    /// Reason why it cannot be sent again.
    stuck: Option<String>,
    delivery: Option<DeliveryView>,
    /// Ways to let the request pass, if it was refused.
    pub remedies: Vec<Remedy>,
    /// Filter of the list that the user came from.
    pub filter: String,
    /// Numbers of the next requests of that list.
    pub newer: Option<i64>,
    pub older: Option<i64>,
    /// Result of an action.
    pub notice: Option<String>,
    /// Failure of an action.
    pub problem: Option<String>,
}

/// Facts of the agent for the commands on a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestPlace<'p> {
    /// File of the relay's self-signed certificate.
    pub ca: Option<&'p str>,
    /// Application of the tunnel.
    pub application: &'p str,
}

/// Stored delivery of a request.
pub(crate) struct DeliveryView {
    id: String,
    /// State at the relay.
    state: Option<String>,
    /// Reason why the relay does not show it.
    problem: Option<String>,
    /// Attempts in the history: number, time, result.
    attempts: Vec<(i64, String, String)>,
}

impl DeliveryView {
    /// Creates the view of a delivery: its state at the relay, or the reason why it is not known.
    pub(crate) fn new(id: &str, state: Result<String, String>, attempts: &[Summary]) -> Self {
        let attempts = attempts.iter().map(|attempt| {
            let status = attempt.status.map(|status| format!(" {status}"));
            (
                attempt.number,
                date_time(attempt.at_ms),
                format!("{}{}", attempt.verdict, status.unwrap_or_default()),
            )
        });
        Self {
            id: id.to_owned(),
            attempts: attempts.collect(),
            problem: state.as_ref().err().cloned(),
            state: state.ok(),
        }
    }
}

struct CheckRow {
    outcome: &'static str,
    class: &'static str,
    check: Check,
    rule: Option<usize>,
    reason: String,
}

/// Phase of the timing bar.
struct Phase {
    number: usize,
    name: &'static str,
    took: String,
    /// Position and width in percent.
    x: f64,
    width: f64,
}

/// Request or response.
struct MessageView {
    start_line: String,
    fields: Vec<(String, String, bool)>,
    body: String,
}

impl RequestPage {
    /// Creates the page of a request. `stuck` is the reason why it cannot be sent again.
    ///
    /// # Errors
    /// A failure of a template, which is a bug.
    pub(crate) fn new(
        detail: &Detail,
        stuck: Option<String>,
        delivery: Option<DeliveryView>,
        place: RequestPlace<'_>,
    ) -> askama::Result<Self> {
        let summary = &detail.summary;
        let explanation = detail.explanation.as_ref();
        let request = (!detail.request.head.is_empty()).then_some(&detail.request);
        let whole = request.filter(|request| request.is_whole);
        let sender = [&summary.provider, &summary.event];
        let sender: Vec<_> = sender
            .into_iter()
            .flatten()
            .map(|text| visible(text))
            .collect();
        let facts = [
            ("Received", Some(date_time(summary.at_ms))),
            ("Client address", Some(summary.client.clone())),
            ("Tunnel", Some(summary.tunnel.clone())),
            ("Route", summary.route.clone()),
            (
                "Provider, event",
                (!sender.is_empty()).then(|| sender.join(", ")),
            ),
            ("Request id", Some(summary.id.clone())),
            ("Verdict of", Some(format!("the {}", summary.by))),
        ];
        let facts = facts
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));

        Ok(Self {
            number: summary.number,
            title: format!("{} {}", summary.method, summary.path),
            facts: facts.collect(),
            class: verdict_class(&summary.verdict, summary.status),
            verdict: summary.verdict.clone(),
            status: summary.status,
            reason: summary.reason.as_ref().map(|reason| {
                let check = summary.check.as_ref().map(|check| format!("{check}: "));
                format!("{}{}", check.unwrap_or_default(), visible(reason))
            }),
            hints: explanation
                .map(|explained| explained.hints.clone())
                .unwrap_or_default(),
            notes: explanation
                .map(|explained| explained.notes.clone())
                .unwrap_or_default(),
            checks: explanation
                .map(|explained| {
                    checks(
                        explained,
                        summary.source != "sender" && summary.verdict == "forwarded",
                    )
                })
                .unwrap_or_default(),
            unexplained: explanation.is_none().then(|| unexplained(request)),
            phases: phases(detail),
            request: request.map(MessageView::of).transpose()?,
            response: detail.response.as_ref().map(MessageView::of).transpose()?,
            again_of: summary.again_of,
            is_refused: summary.verdict == "refused",
            curl: whole.and_then(|request| curl::command(request, &summary.tunnel, place.ca)),
            is_whole: whole.is_some(),
            rule: Rule::of(detail, place.application),
            stuck,
            delivery,
            remedies: Vec::new(),
            filter: String::new(),
            newer: None,
            older: None,
            notice: None,
            problem: None,
        })
    }
}

impl RequestPage {
    /// Returns the path of the list.
    fn list(&self) -> String {
        path_with(REQUESTS, &[("filter", &self.filter)])
    }

    /// Returns the path of another request of the list.
    fn other(&self, number: &i64) -> String {
        request_path(*number, &self.filter)
    }
}

fn unexplained(request: Option<&StoredMessage>) -> String {
    match request {
        None => {
            "The relay reported only the reason: it checked no more, or the agent did not ask for \
                 refused requests."
                .to_owned()
        }
        Some(_) => format!(
            "The checks were not repeated here: the body did not arrive whole, or has more than {} KiB.",
            BODY_BYTES / 1024
        ),
    }
}

/// Returns the checks. A request that the user has sent needs no proof of the sender.
fn checks(explanation: &Explanation, is_by_user: bool) -> Vec<CheckRow> {
    let rows = explanation.checks.iter().map(|step| {
        let (outcome, class) = match step.outcome {
            CheckOutcome::Refuse if is_by_user => ("not needed: you sent it", "quiet"),
            CheckOutcome::Pass => ("passes", "good"),
            CheckOutcome::Refuse => ("refuses", "bad"),
            CheckOutcome::Observed => ("would refuse", "warn"),
            CheckOutcome::RelayOnly => ("relay only", "quiet"),
            CheckOutcome::AgentOnly => ("agent only", "quiet"),
        };
        CheckRow {
            outcome,
            class,
            check: step.check,
            rule: step.accept_rule,
            reason: visible(&step.reason).into_owned(),
        }
    });
    rows.collect()
}

fn phases(detail: &Detail) -> Vec<Phase> {
    let summary = &detail.summary;
    let known = [
        (0, "Edge: receiving", summary.receive_us),
        (4, "Relay: gate", summary.relay_us),
        (5, "Tunnel round trip, about", summary.tunnel_us),
        (1, "Agent: gate", summary.gate_us),
        (2, "Application", summary.application_us),
    ];
    let known: Vec<_> = known
        .into_iter()
        .filter_map(|(number, name, micros)| Some((number, name, micros?)))
        .collect();
    let before = [summary.receive_us, summary.relay_us, summary.tunnel_us];
    let before: u64 = before.into_iter().flatten().sum();
    let used = summary.gate_us.unwrap_or_default() + summary.application_us.unwrap_or_default();
    let rest = summary.total_us.saturating_sub(used);
    let last = match known.is_empty() {
        true => (0, "Until the verdict", rest),
        false => (3, "Response to the tunnel", rest),
    };

    let whole = (before + summary.total_us).max(1) as f64;
    let mut x = 0.0;
    let all = known.into_iter().chain([last]);
    all.map(|(number, name, micros)| {
        let width = (micros as f64 / whole * 1000.0).round() / 10.0;
        let phase = Phase {
            number,
            name,
            took: duration(micros),
            x,
            width,
        };
        x += width;
        phase
    })
    .collect()
}

impl MessageView {
    fn of(message: &StoredMessage) -> askama::Result<Self> {
        let head = message.parts();
        let fields = head.fields.iter().map(|(name, value)| {
            (
                visible(name).into_owned(),
                visible(value).into_owned(),
                value.contains(REDACTED),
            )
        });
        Ok(Self {
            start_line: visible(&head.start_line).into_owned(),
            fields: fields.collect(),
            body: BodyView::of(message)?.render()?,
        })
    }
}
