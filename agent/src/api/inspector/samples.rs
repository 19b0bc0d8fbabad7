//! Sample events of providers: a list, a form, and sending.

use std::sync::Arc;

use axum::extract::{Extension, Form, Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Redirect, Response};
use hookward_gate::policy::Route;
use hookward_gate::providers;
use hookward_gate::providers::samples::{self, Sample};
use hookward_observe::api::access::{Caller, problem};
use hookward_observe::audit::Actor;
use serde::Deserialize;

use super::InspectorApiError;
use super::request::{SIGNED_BY, Wish};
use crate::api::status::AgentView;
use crate::exchange::TunnelBinding;
use crate::inspector::again::Draft;
use crate::inspector::capture::Source;
use crate::inspector::pages::edit::EditPage;
use crate::inspector::pages::samples::{SampleGroup, SamplesPage};
use crate::inspector::pages::{INSPECTOR, SAMPLES};

pub(super) async fn list(
    State(view): State<Arc<AgentView>>,
) -> Result<Html<String>, InspectorApiError> {
    let tunnels = view.opened();
    let verified = |sample: &Sample| {
        tunnels
            .iter()
            .any(|tunnel| verifies(tunnel, &sample.provider))
    };
    let (own, others): (Vec<_>, Vec<_>) =
        samples::all().iter().partition(|sample| verified(sample));
    let page = SamplesPage {
        own: groups(&own),
        others: groups(&others),
        has_tunnel: !tunnels.is_empty(),
    };
    Ok(Html(INSPECTOR.page(
        "Sample events",
        SAMPLES,
        &[],
        &page,
    )?))
}

/// Returns samples by their providers.
fn groups(samples: &[&'static Sample]) -> Vec<SampleGroup> {
    let mut groups: Vec<SampleGroup> = Vec::new();
    for sample in samples {
        let name = providers::find(&sample.provider).map_or(&sample.provider, |row| &row.name);
        match groups.last_mut().filter(|group| group.provider == *name) {
            Some(group) => group.samples.push(sample),
            None => groups.push(SampleGroup {
                provider: name.clone(),
                samples: vec![sample],
            }),
        }
    }
    groups
}

/// Returns `true` if a route of the tunnel verifies this provider.
fn verifies(tunnel: &TunnelBinding, provider: &str) -> bool {
    let policy = tunnel.gate.policy();
    policy
        .policy
        .routes
        .iter()
        .any(|route| route_verifies(route, provider))
}

fn route_verifies(route: &Route, provider: &str) -> bool {
    let mut checks = route.accept.iter().flat_map(|rule| &rule.verify);
    checks.any(|check| {
        let named = check.provider.as_deref().and_then(providers::find);
        named.is_some_and(|row| row.id == provider)
    })
}

/// Name of a sample.
#[derive(Deserialize)]
pub(super) struct SampleQuery {
    provider: String,
    event: String,
}

fn find(query: &SampleQuery) -> Option<&'static Sample> {
    let mut all = samples::all().iter();
    all.find(|sample| sample.provider == query.provider && sample.event == query.event)
}

pub(super) async fn edit(
    State(view): State<Arc<AgentView>>,
    Query(query): Query<SampleQuery>,
) -> Result<Response, InspectorApiError> {
    let Some(sample) = find(&query) else {
        return Ok(problem(StatusCode::NOT_FOUND, "there is no such sample"));
    };
    let mut tunnels = view.opened();
    // The tunnel that verifies the provider comes first.
    tunnels.sort_by_key(|tunnel| !verifies(tunnel, &sample.provider));
    let target = tunnels
        .first()
        .map_or("/".to_owned(), |tunnel| target_of(tunnel, &sample.provider));

    let headers = sample
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\n"));
    let fields = format!(
        "Content-Type: {}\n{}",
        sample.content_type,
        headers.collect::<String>()
    );
    let page = EditPage {
        title: format!("Sample event: {} {}", sample.provider, sample.event),
        back: "/samples".to_owned(),
        action: "/samples/send".to_owned(),
        tunnels: tunnels
            .iter()
            .map(|tunnel| tunnel.host.to_string())
            .collect(),
        method: "POST".to_owned(),
        target,
        fields,
        body: Some(sample.body.clone()),
        signs: true,
        missing: Vec::new(),
        problem: None,
    };
    Ok(Html(INSPECTOR.page(&page.title, SAMPLES, &[], &page)?).into_response())
}

/// Returns a path that the route of a provider covers, or else the first route.
pub(super) fn target_of(tunnel: &TunnelBinding, provider: &str) -> String {
    let policy = tunnel.gate.policy();
    let routes = &policy.policy.routes;
    let own = routes.iter().find(|route| route_verifies(route, provider));
    let path = own.or(routes.first()).and_then(|route| route.paths.first());
    let path = path.map_or("/", String::as_str);
    match path.strip_suffix("/**") {
        Some(prefix) => format!("{prefix}/test"),
        None => path.to_owned(),
    }
    .replace('*', "test")
}

/// Fields of a sample to send.
#[derive(Deserialize)]
pub(super) struct SampleForm {
    tunnel: String,
    method: String,
    target: String,
    fields: String,
    #[serde(default)]
    body: String,
    sign: Option<String>,
}

pub(super) async fn send(
    State(view): State<Arc<AgentView>>,
    Extension(caller): Extension<Caller>,
    Form(form): Form<SampleForm>,
) -> Result<Response, InspectorApiError> {
    let signs = form.sign.is_some();
    let draft = Draft {
        method: form.method,
        target: form.target,
        fields: form.fields,
        // Browsers send each line break as CR LF.
        body: form.body.replace("\r\n", "\n").into_bytes(),
    };
    let wish = Wish {
        host: &form.tunnel,
        client: None,
        source: Source::Sample,
        signs,
    };
    match view.send(draft.clone(), wish, Actor::api(caller)).await {
        Ok(sent) => {
            let place = match sent.number {
                Some(number) => {
                    let signed = sent.signed_by.join(SIGNED_BY);
                    let query = [("sent", "true"), ("signed", &signed)];
                    let query = serde_urlencoded::to_string(query).unwrap_or_default();
                    format!("/requests/{number}?{query}")
                }
                None => "/".to_owned(),
            };
            Ok(Redirect::to(&place).into_response())
        }
        Err(reason) => {
            let page = EditPage {
                title: "Sample event".to_owned(),
                back: "/samples".to_owned(),
                action: "/samples/send".to_owned(),
                tunnels: vec![form.tunnel],
                method: draft.method,
                target: draft.target,
                fields: draft.fields,
                body: String::from_utf8(draft.body).ok(),
                signs,
                missing: Vec::new(),
                problem: Some(reason),
            };
            let html = INSPECTOR.page(&page.title, SAMPLES, &[], &page)?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, Html(html)).into_response())
        }
    }
}
