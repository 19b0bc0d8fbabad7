//! Content of the console's pages.

use std::borrow::Cow;
use std::sync::Arc;

use askama::Template;
use hookward_pages::chart::Ranking;
use hookward_pages::text::{bytes, date_time, visible};

use crate::admin::overview::Overview;
use crate::admin::status::{
    AddressSetStatus, AgentStatus, CertificateStatus, HeldDeliveries, LimitStatus, RelayStatus,
    TunnelStatus,
};

/// Part of a limit from which its use is a warning, in percent.
const NEARLY_FULL: u64 = 80;

/// State of the relay.
#[derive(Template)]
#[template(path = "console.html")]
pub(super) struct Console {
    status: RelayStatus,
    tunnels: Vec<TunnelStatus>,
    sets: Vec<AddressSetStatus>,
    /// Charts in HTML.
    charts: String,
}

impl Console {
    /// Reads the state.
    pub(super) async fn read(overview: &Arc<Overview>) -> Result<Self, super::PageError> {
        let status = overview.status().await?;
        Ok(Self {
            charts: charts(overview, &status)?,
            status,
            tunnels: overview.tunnels().await?,
            sets: overview.address_sets(),
        })
    }

    fn at(&self, at_ms: &u64) -> String {
        date_time(*at_ms)
    }

    fn day(&self, seconds: &i64) -> String {
        let at_ms = u64::try_from(*seconds).unwrap_or_default() * 1000;
        date_time(at_ms).chars().take(10).collect()
    }

    fn shown<'t>(&self, text: &'t str) -> Cow<'t, str> {
        visible(text)
    }

    /// Returns the connection of an agent in words.
    fn connection(&self, agent: &AgentStatus) -> String {
        let parts = [
            agent.transport.clone(),
            agent.address.clone(),
            agent.rtt_ms.map(|rtt| format!("{rtt:.0} ms")),
            agent.version.clone(),
        ];
        let parts: Vec<_> = parts.into_iter().flatten().collect();
        visible(&parts.join(" · ")).into_owned()
    }

    fn size(&self, held: &HeldDeliveries) -> String {
        bytes(held.bytes)
    }

    /// Returns the use of a limit in words.
    fn usage(&self, limit: &LimitStatus) -> String {
        match limit.unit.as_str() {
            "bytes" => format!("{} of {}", bytes(limit.used), bytes(limit.limit)),
            _ => format!("{} of {}", limit.used, limit.limit),
        }
    }

    fn is_nearly_full(&self, limit: &LimitStatus) -> bool {
        let percent = limit.used.saturating_mul(100) / limit.limit.max(1);
        percent >= NEARLY_FULL
    }

    /// Returns the next step of a certificate in words.
    fn next_step(&self, certificate: &CertificateStatus) -> String {
        match (&certificate.last_error, certificate.renewal_s) {
            (Some(error), _) => format!(
                "{} failed: {}",
                match certificate.failures {
                    1 => "1 order has".to_owned(),
                    failures => format!("{failures} orders have"),
                },
                visible(error)
            ),
            (None, Some(renewal)) => format!("renewal on {}", self.day(&renewal)),
            (None, None) => "no automatic renewal".to_owned(),
        }
    }
}

fn charts(overview: &Overview, status: &RelayStatus) -> askama::Result<String> {
    let verdicts: Vec<_> = status
        .requests
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(verdict, count)| (verdict.as_str(), *count))
        .collect();
    let refusals = overview.refusals();
    let mut refusals: Vec<_> = refusals
        .iter()
        .filter(|refusal| refusal.count > 0)
        .map(|refusal| (refusal.check.as_str(), refusal.count))
        .collect();
    refusals.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let clients = overview.clients();
    let clients: Vec<_> = clients
        .iter()
        .map(|client| {
            let name = client.client.as_deref().unwrap_or("others");
            (name, client.requests)
        })
        .collect();

    let charts = [
        Ranking::new("Requests since the start", "No requests yet.", &verdicts),
        Ranking::new("Refusals since the start", "No refusals.", &refusals),
        Ranking::new("Clients, this minute and the last", "No clients.", &clients),
    ];
    charts.iter().map(Template::render).collect()
}

/// A question before an action.
#[derive(Template)]
#[template(path = "confirmation.html")]
pub(super) struct Confirmation {
    pub question: String,
    pub consequence: String,
    /// Path to which the form is posted.
    pub action: String,
    pub button: String,
    /// Path of the page without the action.
    pub back: &'static str,
}
