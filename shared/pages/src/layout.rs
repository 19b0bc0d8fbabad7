//! Layout of a page.

use askama::Template;

/// A page: the frame around its content.
#[derive(Template)]
#[template(path = "layout.html")]
pub struct Page<'p> {
    /// Title of the page.
    pub title: &'p str,
    /// Name of the program's pages, such as `Hookward inspector`.
    pub product: &'p str,
    /// Links of the navigation.
    pub links: &'p [Link<'p>],
    /// Names of the scripts, which are modules.
    pub scripts: &'p [&'p str],
    /// Content in HTML.
    pub content: &'p str,
}

/// A link of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link<'p> {
    /// Target.
    pub href: &'p str,
    /// Name.
    pub name: &'p str,
    /// `true` on the page itself.
    pub is_current: bool,
}
