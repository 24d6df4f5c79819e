//! The plan as Markdown, for a comment on a pull request.

use super::{View, summary, text};

/// The summary as a heading, the text in a block; a fence longer than any in the text keeps it whole.
pub fn markdown(view: &View<'_>) -> String {
    let body = text(view);
    let longest = body.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let revision = &view.plan.revision;
    format!(
        "### valkeeper: {}\n\nFleet {}, revision {revision}\n\n{fence}diff\n{body}{fence}\n",
        summary(view.plan),
        view.plan.fleet
    )
}
