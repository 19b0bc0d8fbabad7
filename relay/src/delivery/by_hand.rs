//! Acts of people on one delivery, or on one tunnel.

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
    /// Changes one delivery.
    ///
    /// # Errors
    /// The storage's error.
    pub(crate) async fn change_one(
        &self,
        id: Uuid,
        change: Change,
        requester: &Requester,
    ) -> Result<ChangeResult, StorageError> {
        let filter = DeliveryFilter {
            owner: requester.owner(),
            id: Some(id),
            ..DeliveryFilter::default()
        };
        let details = json!({ "filter": filter.summary(), "changed": 1 });
        let store = self.store();
        let page = store.page(filter, None, 1).await?;
        let Some(row) = page.rows.into_iter().next() else {
            return Ok(ChangeResult::NotFound);
        };
        if store.change(vec![row.seq], change).await? == 0 {
            return Ok(ChangeResult::Unchanged);
        }
        requester.record(self.0.parts.observer.audit(), change.event(), details);
        self.notify(&row.tunnel.as_str().into());
        Ok(ChangeResult::Changed)
    }

    /// Pauses or resumes the attempts of a tunnel.
    ///
    /// # Errors
    /// The storage's error.
    pub(crate) async fn pause(
        &self,
        tunnel: &str,
        paused: bool,
        requester: &Requester,
    ) -> Result<(), StorageError> {
        self.0.parts.store.pause(tunnel, paused).await?;
        let event = match paused {
            true => "deliveries_paused",
            false => "deliveries_resumed",
        };
        let audit = self.0.parts.observer.audit();
        requester.record(audit, event, json!({ "tunnel": tunnel }));
        self.notify(&tunnel.into());
        Ok(())
    }
}
