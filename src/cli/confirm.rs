//! Asking before acting.

use std::io::{IsTerminal as _, stdin};

use anyhow::{Context as _, bail};

use super::out;

/// Asks, unless `yes` was given. A plain line is read: the terminal stays as it is, whatever signal ends the wait.
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
    out::print(format_args!("{question} [y/N] "))?;
    let mut answer = String::new();
    stdin().read_line(&mut answer).context("the answer could not be read")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
