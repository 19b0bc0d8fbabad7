//! The pages of a program as a whole: name, navigation and files.

use askama::Template;

use crate::assets::{Asset, SHARED};

/// Pages of a program.
#[derive(Debug)]
pub struct Site {
    /// Name of the pages, such as `Hookward inspector`.
    pub product: &'static str,
    /// Pages of the navigation, each with its path and its name. The first is the start page.
    pub links: &'static [(&'static str, &'static str)],
    /// Scripts beside the files of every page.
    pub scripts: &'static [Asset],
}

/// A page: the frame around its content.
#[derive(Template)]
#[template(path = "layout.html")]
struct Layout<'p> {
    title: &'p str,
    product: &'p str,
    links: &'p [(&'p str, &'p str)],
    /// Path of the current page of the navigation.
    current: &'p str,
    scripts: &'p [&'p str],
    /// Content in HTML.
    content: &'p str,
}

impl Layout<'_> {
    fn is_current(&self, path: &str) -> bool {
        path == self.current
    }
}

impl Site {
    /// Returns a whole page with this content. `current` is the path of the page in the navigation, or
    /// of the page above it.
    ///
    /// # Errors
    /// A failure of the template, which is a bug.
    pub fn page(
        &self,
        title: &str,
        current: &str,
        scripts: &[&str],
        content: &impl Template,
    ) -> askama::Result<String> {
        let layout = Layout {
            title,
            product: self.product,
            links: self.links,
            current,
            scripts,
            content: &content.render()?,
        };
        layout.render()
    }

    /// Returns an embedded file.
    pub(crate) fn asset(&self, name: &str) -> Option<&Asset> {
        let mut all = SHARED.iter().chain(self.scripts);
        all.find(|asset| asset.name == name)
    }
}

/// Returns a path with the parameters that are not empty.
#[must_use]
pub fn path_with(path: &str, parameters: &[(&str, &str)]) -> String {
    let set = parameters.iter().filter(|(_, value)| !value.is_empty());
    match serde_urlencoded::to_string(set.collect::<Vec<_>>()) {
        Ok(query) if !query.is_empty() => format!("{path}?{query}"),
        _ => path.to_owned(),
    }
}
