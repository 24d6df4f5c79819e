//! What is shown while steps are taken: a line for each instance on a terminal, plain lines elsewhere, or JSON lines.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::out;
use crate::apply::schedule::Event;
use crate::model::outcome::Outcome;
use crate::model::plan::{Step, Subject};
use crate::plan::show::{identity, step_line};

/// Where events go.
#[derive(Debug)]
pub(super) enum Progress {
    Terminal { lines: MultiProgress, active: BTreeMap<Subject, ProgressBar> },
    Plain,
    Json,
}

impl Progress {
    pub(super) fn new(json: bool) -> Self {
        if json {
            Self::Json
        } else if stderr().is_terminal() {
            Self::Terminal { lines: MultiProgress::new(), active: BTreeMap::new() }
        } else {
            Self::Plain
        }
    }

    pub(super) fn show(&mut self, event: Event<'_>) {
        match (self, event) {
            (Self::Terminal { lines, active }, Event::Begun { step, attempt }) => {
                let line = active.entry(step.subject.clone()).or_insert_with(|| lines.add(spinner()));
                line.set_message(format!("{}{}", step_line(step), again(attempt)));
            }
            (Self::Terminal { lines, active }, Event::Ended { step, attempt: _, outcome, took, again }) => {
                if let Some(line) = active.remove(&step.subject) {
                    line.finish_and_clear();
                }
                // A terminal that went away is no reason to stop.
                let _gone = lines.println(ended(step, outcome, took, again));
            }
            (Self::Terminal { lines: _, active }, Event::Progress { step, doing }) => {
                if let Some(line) = active.get(&step.subject) {
                    line.set_message(out::printable(&format!("{}: {doing}", step_line(step))).into_owned());
                }
            }
            (Self::Plain, Event::Begun { .. } | Event::Progress { .. }) => {}
            (Self::Plain, Event::Ended { step, attempt: _, outcome, took, again }) => {
                out::tell(ended(step, outcome, took, again));
            }
            (Self::Json, Event::Begun { step, attempt }) => {
                out::tell(json!({ "event": "begun", "attempt": attempt, "step": identity(step) }));
            }
            (Self::Json, Event::Progress { step, doing }) => {
                out::tell(json!({ "event": "progress", "step": identity(step), "doing": doing }));
            }
            (Self::Json, Event::Ended { step, attempt, outcome, took, again }) => {
                out::tell(json!({
                    "event": "ended", "attempt": attempt, "step": identity(step), "outcome": outcome.kind(),
                    "message": outcome.message(), "seconds": took.as_secs_f64(), "again": again,
                }));
            }
        }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

fn again(attempt: u32) -> String {
    if attempt > 1 { format!(", attempt {attempt}") } else { String::new() }
}

fn ended(step: &Step, outcome: &Outcome, took: Duration, again: bool) -> String {
    let again = if again { ", trying again" } else { "" };
    let line = format!("  {}: {outcome} ({:.1} s{again})", step_line(step), took.as_secs_f64());
    out::printable(&line).into_owned()
}

/// A plan with colours, for where the output takes them; the words are the same without. What people gave a server by hand
/// is among these words, so nothing of it may move the cursor.
pub(super) fn coloured(text: &str) -> String {
    use anstyle::{AnsiColor, Style};
    let styled = text.lines().map(|line| {
        let colour = match line.trim_start().as_bytes() {
            [b'+', b' ', ..] => Some(AnsiColor::Green),
            [b'-', b' ', ..] => Some(AnsiColor::Red),
            [b'~', b' ', ..] => Some(AnsiColor::Yellow),
            [b'!', b' ', ..] => Some(AnsiColor::Magenta),
            _ => None,
        };
        let style = colour.map_or(Style::new(), |colour| Style::new().fg_color(Some(colour.into())));
        format!("{style}{}{style:#}\n", out::printable(line))
    });
    styled.collect()
}
