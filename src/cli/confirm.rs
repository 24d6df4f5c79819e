//! Asking before acting.

use std::io::{IsTerminal as _, stdin};

use anyhow::{Context as _, bail};

/// Asks, unless `yes` was given.
///
/// # Errors
/// Without a terminal there is nobody to ask.
pub(crate) fn confirm(question: &str, yes: bool) -> anyhow::Result<bool> {
    if yes {
        return Ok(true);
    }
    if !stdin().is_terminal() {
        bail!("there is no terminal to ask on: read the plan, then run this again with --yes");
    }
    dialoguer::Confirm::new().with_prompt(question).default(false).interact().context("the question could not be asked")
}
