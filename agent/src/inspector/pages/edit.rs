//! The page to edit a request, or a sample, and to send it.

use askama::Template;

/// Page with a draft.
#[derive(Template)]
#[template(path = "edit.html")]
pub(crate) struct EditPage {
    pub title: String,
    /// Page to return to.
    pub back: String,
    /// Target of the form.
    pub action: String,
    /// Hosts of the tunnels to choose from, with the chosen one first.
    pub tunnels: Vec<String>,
    pub method: String,
    pub target: String,
    pub fields: String,
    /// Body, if it is text.
    pub body: Option<String>,
    pub signs: bool,
    /// Values that were redacted.
    pub missing: Vec<String>,
    /// Failure of the last attempt.
    pub problem: Option<String>,
}
