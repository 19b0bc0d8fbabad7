//! Acts of people on one delivery, or on one tunnel.

use std::sync::Arc;

use hookward_observe::audit::AuditLog;
use serde_json::json;
use uuid::Uuid;

use super::{Deliveries, Requester};
use crate::storage::StorageError;
use crate::storage::deliveries::{Change, DeliveryFilter};

/// Result of a change of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChangeResult {
    Changed,
    /// The change does not apply to its state.
    Unchanged,
    NotFound,
}

impl Deliveries {
    /// Changes one delivery. The change goes on if the caller does not wait for it.
    ///
    /// # Errors
    /// The storage's error.
    pub(crate) async fn change_one(
        &self,
        id: Uuid,
        change: Change,
        requester: Requester,
    ) -> Result<ChangeResult, StorageError> {
        let filter = DeliveryFilter {
            owner: requester.owner(),
            id: Some(id),
            ..DeliveryFilter::default()
        };
        let summary = filter.summary();
        let page = self.store().page(filter, None, 1).await?;
        let Some(row) = page.rows.into_iter().next() else {
            return Ok(ChangeResult::NotFound);
        };

        let requested = json!({ "filter": summary });
        requester.record(self.audit(), change.requested_event(), requested);
        let deliveries = self.clone();
        let changing = self.0.parts.tasks.spawn(async move {
            let changed = deliveries.store().change(vec![row.seq], change).await;
            let done = json!({
                "filter": summary,
                "changed": changed.as_ref().ok(),
                "failure": changed.as_ref().err().map(ToString::to_string),
            });
            requester.record(deliveries.audit(), change.event(), done);
            deliveries.notify(&row.tunnel.as_str().into());
            changed
        });
        match changing.await.map_err(|_| StorageError::Stopping)?? {
            0 => Ok(ChangeResult::Unchanged),
            _ => Ok(ChangeResult::Changed),
        }
    }

    /// Pauses or resumes the attempts of a tunnel. The change goes on if the caller does not wait for
    /// it.
    ///
    /// # Errors
    /// The storage's error.
    pub(crate) async fn pause(
        &self,
        tunnel: &str,
        paused: bool,
        requester: Requester,
    ) -> Result<(), StorageError> {
        let (deliveries, tunnel) = (self.clone(), Arc::<str>::from(tunnel));
        let changing = self.0.parts.tasks.spawn(async move {
            deliveries.store().pause(&tunnel, paused).await?;
            let event = match paused {
                true => "deliveries_paused",
                false => "deliveries_resumed",
            };
            requester.record(deliveries.audit(), event, json!({ "tunnel": *tunnel }));
            deliveries.notify(&tunnel);
            Ok(())
        });
        changing.await.map_err(|_| StorageError::Stopping)?
    }

    fn audit(&self) -> &AuditLog {
        self.0.parts.observer.audit()
    }
}
