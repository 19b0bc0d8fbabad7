//! Stored deliveries as the APIs of both programs show them.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Filter of deliveries; all conditions must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
pub struct FilterQuery {
    /// Public id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Public host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// Name of the route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Id of the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Type of the event, as the provider names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// `pending`, `delivered`, `dead` or `dropped`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Earliest time of receipt, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Time of receipt before which all match, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<u64>,
    /// Text in the body or in the last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Number of the delivery before which the page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<i64>,
    /// Maximum number of deliveries in a page (default 100, at most 1,000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Maximum number of changes a second (default 50).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// `true` for an export with secrets and whole bodies, which can be imported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete: Option<bool>,
}

/// Some deliveries, newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeliveryPage {
    /// Deliveries.
    pub deliveries: Vec<DeliveryStatus>,
    /// `before` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// A delivery.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DeliveryStatus {
    /// Public id (`hookward-delivery-id`).
    pub id: Uuid,
    /// Public host of the tunnel.
    pub tunnel: String,
    /// Name of the route.
    pub route: String,
    /// Id of the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Type of the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// `pending`, `delivered`, `dead` or `dropped`.
    pub state: String,
    /// Number of attempts that have begun.
    pub attempts: u32,
    /// Number of redeliveries by hand.
    pub redelivered: u32,
    /// Status of the last response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_status: Option<u16>,
    /// Reason of the last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Time of receipt, in milliseconds since 1970.
    pub received_ms: u64,
    /// Time of the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Time of the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_ms: Option<u64>,
    /// Size in the store, in bytes.
    pub bytes: u64,
    /// `true` while its content is stored.
    pub has_content: bool,
}

/// A delivery with its content, without secrets.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeliveryContent {
    /// The delivery.
    pub delivery: DeliveryStatus,
    /// The webhook, while it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<StoredRequest>,
    /// Last response of a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<StoredResponse>,
}

/// A stored webhook. Tokens, credentials, signatures and the query are left out.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StoredRequest {
    /// Client address.
    pub client: String,
    /// Method.
    pub method: String,
    /// Path, without the query.
    pub path: String,
    /// Header fields in order.
    pub headers: Vec<(String, String)>,
    /// Size of the body, in bytes.
    pub body_bytes: u64,
    /// Beginning of the body, as text.
    pub body: String,
}

/// A response of the application.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct StoredResponse {
    /// Status and header fields, one a line.
    pub head: String,
    /// Beginning of the body, as text.
    pub body: String,
}

/// A change of many deliveries in the background.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobStatus {
    /// Number of the job.
    pub job: u64,
    /// `redeliver` or `drop`.
    pub change: String,
    /// Start, in milliseconds since 1970.
    pub started_ms: u64,
    /// Number of deliveries that matched so far.
    pub matched: u64,
    /// Number of deliveries that the change applied to.
    pub changed: u64,
    /// `true` once it has ended.
    pub has_ended: bool,
    /// Reason why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A tunnel whose deliveries are paused or resumed.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct TunnelQuery {
    /// Public host.
    pub tunnel: String,
}

/// Result of an act, in words.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// Description for people.
    pub message: String,
}
