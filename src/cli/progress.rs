//! What is shown while steps are taken: a line for each instance on a terminal, plain lines elsewhere, or JSON lines.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::out;
use crate::apply::schedule::Event;
use crate::model::moves::{Move, MoveStage};
use crate::model::name::InstanceName;
use crate::model::outcome::Outcome;
use crate::model::plan::{Step, Subject};
use crate::plan::show::{identity, move_progress, step_line};

/// Where events go.
#[derive(Debug)]
pub(super) enum Progress {
    Terminal { lines: MultiProgress, active: BTreeMap<Subject, ProgressBar> },
    Plain { said: Said },
    Json { said: Said },
}

/// What was said last of each move, and when: its stage, and how long it was at it.
type Said = BTreeMap<InstanceName, (Option<MoveStage>, u64)>;

/// Between two lines about one move where lines stay. Seconds.
const SAY_AGAIN: u64 = 5;

impl Progress {
    pub(super) fn new(json: bool) -> Self {
        if json {
            Self::Json { said: Said::new() }
        } else if stderr().is_terminal() {
            Self::Terminal { lines: MultiProgress::new(), active: BTreeMap::new() }
        } else {
            Self::Plain { said: Said::new() }
        }
    }

    /// Takes away what was only for the time being.
    pub(super) fn end(&mut self) {
        match self {
            Self::Terminal { lines: _, active } => {
                active.values().for_each(ProgressBar::finish_and_clear);
                active.clear();
            }
            Self::Plain { said: _ } | Self::Json { said: _ } => {}
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
            (Self::Terminal { lines, active }, Event::Moves { moves }) => {
                // A move that ended has no line any more.
                active.retain(|subject, line| {
                    let stays = moves.iter().any(|it| *subject == Subject::Instance(it.instance.clone()));
                    if !stays {
                        line.finish_and_clear();
                    }
                    stays
                });
                for (it, text) in moves.iter().filter_map(|it| Some((it, move_progress(it)?))) {
                    let line = active.entry(Subject::Instance(it.instance.clone())).or_insert_with(|| lines.add(spinner()));
                    line.set_message(out::printable(&text).into_owned());
                }
            }
            (Self::Plain { said }, Event::Moves { moves }) => {
                let texts = moves.iter().filter(|it| is_news(said, it, SAY_AGAIN)).filter_map(move_progress);
                texts.for_each(|text| out::tell(out::printable(&format!("  {text}"))));
            }
            (Self::Json { said }, Event::Moves { moves }) => {
                let news = moves.iter().filter(|it| is_news(said, it, 1));
                news.for_each(|it| out::tell(json!({ "event": "move", "move": it })));
            }
            (Self::Plain { said: _ }, Event::Begun { .. } | Event::Progress { .. }) => {}
            (Self::Plain { said: _ }, Event::Ended { step, attempt: _, outcome, took, again }) => {
                out::tell(ended(step, outcome, took, again));
            }
            (Self::Json { said: _ }, Event::Begun { step, attempt }) => {
                out::tell(json!({ "event": "begun", "attempt": attempt, "step": identity(step) }));
            }
            (Self::Json { said: _ }, Event::Progress { step, doing }) => {
                out::tell(json!({ "event": "progress", "step": identity(step), "doing": doing }));
            }
            (Self::Json { said: _ }, Event::Ended { step, attempt, outcome, took, again }) => {
                out::tell(json!({
                    "event": "ended", "attempt": attempt, "step": identity(step), "outcome": outcome.kind(),
                    "message": outcome.message(), "seconds": took.as_secs_f64(), "again": again,
                }));
            }
        }
    }
}

/// Another stage, or so many seconds since it was last spoken of.
fn is_news(said: &mut Said, it: &Move, every: u64) -> bool {
    let now = (it.now().map(|act| act.stage), it.pace.map_or(0, |pace| pace.seconds_in_stage));
    let is_news = said.get(&it.instance).is_none_or(|(stage, at)| *stage != now.0 || now.1 >= at.saturating_add(every));
    if is_news {
        said.insert(it.instance.clone(), now);
    }
    is_news
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
