//! A question before an action.

use askama::Template;

/// The question, with its form.
#[derive(Template, Default)]
#[template(path = "confirmation.html")]
pub(super) struct ConfirmationPage {
    pub question: String,
    pub consequence: String,
    /// Names and values that describe the object of the action.
    pub facts: Vec<(&'static str, String)>,
    /// Path to which the form is posted.
    pub action: String,
    /// Hidden fields of the form.
    pub fields: Vec<(&'static str, String)>,
    pub button: &'static str,
    /// Path of the page without the action.
    pub back: String,
}
