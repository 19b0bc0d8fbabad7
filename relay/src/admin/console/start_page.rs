//! Start page of the console: the state of the relay.

use std::borrow::Cow;
use std::sync::Arc;

use askama::Template;
use hookward_core::reason::Check;
use hookward_pages::chart::{Bars, Lines, Ranking, RowsOfBars};
use hookward_pages::text::{bytes, counted, date_time, duration, visible};

use crate::admin::overview::Overview;
use crate::admin::status::{
    AddressSetStatus, AgentStatus, CertificateStatus, HeldDeliveries, LimitStatus, RelayStatus,
    TunnelStatus,
};
use crate::observe::activity::MinuteCounts;

/// Part of a limit from which its use is a warning, in percent.
const NEARLY_FULL: u64 = 80;

/// Maximum number of rows of a table.
const ROWS: usize = 200;

/// The page.
#[derive(Template)]
#[template(path = "start_page.html")]
pub(super) struct StartPage {
    status: RelayStatus,
    tunnels: Vec<TunnelStatus>,
    /// Address sets that rules use, and the others.
    used_sets: Vec<AddressSetStatus>,
    other_sets: Vec<AddressSetStatus>,
    /// Charts in HTML.
    charts: String,
    /// Result of an act.
    notice: Option<String>,
    /// Time at which the page was made.
    made: String,
    /// Number of rows beyond those that are shown, of each table.
    more_agents: u64,
    more_tunnels: u64,
    more_deliveries: u64,
    more_certificates: u64,
}

impl StartPage {
    /// Reads the state.
    ///
    /// # Errors
    /// The storage's error.
    pub(super) async fn read(
        overview: &Arc<Overview>,
        revoked: Option<&str>,
    ) -> Result<Self, super::ConsoleError> {
        let mut status = overview.status().await?;
        let hosts = status.agents.iter();
        let hosts = hosts.map(|agent| (agent.name.as_str(), &agent.hosts));
        let mut tunnels = overview.tunnels_of(hosts);
        let (used_sets, other_sets) = overview
            .address_sets()
            .into_iter()
            .partition(|set| set.is_used);

        // A link may name an act that nobody has done.
        let revoked = status.agents.iter().find(|agent| {
            let is_named = revoked.is_some_and(|revoked| revoked == agent.name);
            is_named && !agent.joined
        });
        let notice = revoked.map(|agent| {
            let name = &agent.name;
            format!("Agent {name} is revoked. Its sessions end within seconds.")
        });
        Ok(Self {
            charts: charts(overview, &status)?,
            notice,
            made: date_time(overview.clock.now().0),
            more_agents: limit(&mut status.agents),
            more_tunnels: limit(&mut tunnels),
            more_deliveries: limit(&mut status.deliveries),
            more_certificates: limit(&mut status.certificates),
            status,
            tunnels,
            used_sets,
            other_sets,
        })
    }

    fn counted(&self, count: &u64, noun: &str) -> String {
        counted(*count, noun)
    }

    /// Returns `true` for agents that had a credential once.
    fn is_revoked(&self, agent: &AgentStatus) -> bool {
        !agent.joined && agent.last_seen_ms.is_some()
    }

    /// Returns the origin of an address set in words.
    fn origin(&self, set: &AddressSetStatus) -> String {
        match (set.fetched_ms, set.ranges) {
            (Some(at), ranges) => {
                format!("{}, fetched {}", counted(ranges, "range"), date_time(at))
            }
            (None, 0) => "not loaded: the relay fetches it once a rule names it".to_owned(),
            (None, ranges) => format!("{}, built in", counted(ranges, "range")),
        }
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
            (None, None) if certificate.expires_s.is_none() => "ordered".to_owned(),
            (None, None) => "no automatic renewal".to_owned(),
        }
    }
}

/// Keeps the first [`ROWS`] rows. Returns the number of the others.
fn limit<T>(rows: &mut Vec<T>) -> u64 {
    let more = rows.len().saturating_sub(ROWS);
    rows.truncate(ROWS);
    more as u64
}

fn charts(overview: &Overview, status: &RelayStatus) -> askama::Result<String> {
    let verdicts: Vec<_> = status
        .requests
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(verdict, count)| (verdict.as_str(), *count))
        .collect();
    let clients = overview.clients();
    let clients: Vec<_> = clients
        .iter()
        .map(|client| {
            let name = client.client.as_deref().unwrap_or("others");
            (name, client.requests)
        })
        .collect();

    let rankings = [
        Ranking::new("Requests since the start", "No requests yet.", &verdicts),
        Ranking::new("Clients, this minute and the last", "No clients.", &clients),
    ];
    let rankings: askama::Result<String> = rankings.iter().map(Template::render).collect();
    Ok(charts_of_hour(&overview.edge.observer.last_hour())? + &rankings?)
}

/// Returns the charts of these minutes, the oldest first.
fn charts_of_hour(hour: &[MinuteCounts]) -> askama::Result<String> {
    let counts: Vec<_> = hour.iter().map(|minute| minute.requests).collect();
    let highest = counts.iter().copied().max().unwrap_or_default();
    let most = format!("up to {highest} a minute");
    let total = counted(counts.iter().sum(), "request");
    let summary = format!("{total} in the last hour, {most}");
    let requests = Bars::new("Requests, last hour", &summary, &most, &counts);

    let percentile = |part| hour.iter().map(|minute| minute.percentile(part)).collect();
    let series: [(_, Vec<_>); 2] = [("p50", percentile(0.5)), ("p99", percentile(0.99))];
    let longest = series.iter().flat_map(|(_, values)| values).flatten().max();
    let longest = longest.map_or("none".to_owned(), |micros| {
        format!("up to {}", duration(*micros))
    });
    let summary = format!("Duration of forwarded requests in the last hour, {longest}");
    let durations = Lines::new("Forwarded requests", &summary, &longest, &series);

    let of_check = |check: &Check| {
        let counts = hour.iter().map(|minute| minute.refusals(*check));
        (check.as_str(), counts.collect::<Vec<_>>())
    };
    let mut refusals: Vec<_> = Check::ALL.iter().map(of_check).collect();
    refusals.retain(|(_, counts)| counts.iter().any(|count| *count > 0));
    refusals.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.iter().sum::<u64>()));
    let highest = refusals.iter().flat_map(|(_, counts)| counts).max();
    let most = highest.map_or(String::new(), |highest| format!("up to {highest} a minute"));
    let title = "Refusals by check, last hour";
    let refusals = RowsOfBars::new(title, "No refusals.", &most, &refusals);
    Ok(requests.render()? + &durations.render()? + &refusals.render()?)
}
