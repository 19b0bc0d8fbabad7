//! The certificates of a relay: where the edge's comes from, the names that it must cover, and the
//! tasks for an ACME server.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use hookward_core::names::{AgentName, HostName};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::StartError;
use crate::certs::acme::preflight::Preflight;
use crate::certs::acme::task::{AcmeParts, AcmeTask};
use crate::certs::review::WantedNames;
use crate::certs::self_signed;
use crate::certs::source::CertificateSource;
use crate::edge::http_port::HttpPort;
use crate::edge::state::EdgeState;
use crate::settings::Settings;
use crate::storage::Store;

/// Tasks for certificates of an ACME server, before they start.
pub(super) struct Acme<W> {
    task: AcmeTask<W>,
    preflight: Preflight,
    http_port: Option<HttpPort>,
}

impl<W: Fn() -> WantedNames + Clone + Send + Sync + 'static> Acme<W> {
    /// Binds the port for plain HTTP, if the settings name one, and puts kept certificates in force.
    ///
    /// # Errors
    /// [`StartError::Listen`], [`StartError::DataDir`].
    pub(super) fn prepare(parts: AcmeParts<W>, preflight: Preflight) -> Result<Self, StartError> {
        let bind = |address| {
            HttpPort::bind(address, parts.challenges.clone())
                .map_err(|source| StartError::Listen { address, source })
        };
        let http_port = parts.settings.http_listen.map(bind).transpose()?;
        let path = parts.data_dir.clone();
        let task = AcmeTask::new(parts).map_err(|source| StartError::DataDir { path, source })?;
        Ok(Self {
            task,
            preflight,
            http_port,
        })
    }

    /// Starts the tasks, which end when `stop` is cancelled.
    pub(super) fn spawn(
        self,
        edge: &Arc<EdgeState>,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        tasks.spawn(self.preflight.run(stop.clone()));
        let task = self.task.run(edge.registry.changes(), stop.clone());
        tasks.spawn(async move {
            // Its state may be broken, so it does not go on.
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(
                    event = "certificate_task_ended",
                    "the task for certificates ended through a bug: restart the relay, or they are not renewed"
                );
            }
        });
        if let Some(port) = self.http_port {
            tasks.spawn(port.serve(Arc::clone(edge), tasks.clone(), stop.clone()));
        }
    }
}

/// Returns the source of the edge's certificate. A self-signed one covers the hosts that are `given` to
/// agents.
pub(super) fn certificate_source(
    settings: &Settings,
    given: &BTreeSet<HostName>,
) -> CertificateSource {
    match &settings.certificate {
        Some((chain, key)) => CertificateSource::Files {
            chain: chain.clone(),
            key: key.clone(),
        },
        None => CertificateSource::SelfSigned {
            dir: settings.data_dir.clone(),
            names: self_signed::names_of(&settings.domain, settings.hosts.keys().chain(given)),
        },
    }
}

/// Returns a function that lists the names which the certificate must cover now.
pub(super) fn wanted_names(
    store: &Store,
    settings: &Settings,
    reserved: Arc<ArcSwap<BTreeMap<HostName, AgentName>>>,
) -> impl Fn() -> WantedNames + Clone + use<> {
    let (store, domain) = (store.clone(), settings.domain.clone());
    move || {
        // Hosts of an earlier domain are not served. If the store fails, the names are unknown.
        let owned = store.hosts().ok().zip(store.given_hosts().ok());
        let served = owned.map(|(hosts, given)| {
            let is_served = |host: &HostName| host.is_child_of(&domain) || given.contains(host);
            let served = hosts.into_iter().filter(is_served);
            served.chain(reserved.load().keys().cloned()).collect()
        });
        WantedNames {
            hosts: served,
            domain: domain.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::read_file;

    #[test]
    fn names_follow_the_reserved_hosts() {
        let mut problems = Vec::new();
        let (file, limits) = read_file("r.toml", "domain = 'hooks.test'", &mut problems);
        let settings = file.resolve(limits, problems).unwrap();
        let store = Store::in_memory().unwrap();
        let reserved = Arc::new(ArcSwap::default());
        let wanted = wanted_names(&store, &settings, Arc::clone(&reserved));
        assert_eq!(wanted().hosts, Some(Vec::new()));

        let host = HostName::parse("outside.test").unwrap();
        let owner = AgentName::parse("jira").unwrap();
        reserved.store(Arc::new([(host.clone(), owner)].into()));
        assert_eq!(wanted().hosts, Some(vec![host]));
    }
}
