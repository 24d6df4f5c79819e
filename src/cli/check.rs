//! `valkeeper check`: is the text sound? Reaches no node and reads no secret.

use std::io::{self, Write};
use std::path::Path;

use serde_json::json;

use super::problems::{self, count};
use crate::desired::{self, Problem, Secrets, Source};
use crate::model::desired::Desired;
use crate::observe::chain;
use crate::roots::{self, ReadError};

/// Checks the text at `path`. Gives whether it is sound. Problems go to `err`, or as JSON to `out`; what goes to `err` may
/// be coloured, so let it be a stream of `anstream`.
///
/// # Errors
/// When the result cannot be written.
pub fn check(path: &Path, as_json: bool, out: &mut impl Write, err: &mut impl Write) -> io::Result<bool> {
    match read_and_check(path) {
        Ok(desired) => {
            if as_json {
                writeln!(out, "{:#}", json!({ "problems": [] }))?;
            } else {
                writeln!(out, "{}: {}: no problems", path.display(), summary(&desired))?;
            }
            Ok(true)
        }
        Err(failure) if as_json => writeln!(out, "{:#}", json!({ "problems": failure.to_json() })).map(|()| false),
        Err(failure) => write!(err, "{}", failure.render(true)).map(|()| false),
    }
}

fn read_and_check(path: &Path) -> Result<Desired, Failure> {
    let sources = roots::read(path).map_err(Failure::Unreadable)?;
    desired::parse(&sources, &Secrets::Placeholder).map_err(|problems| Failure::Unsound { problems, sources })
}

/// Why a text is not sound: the same for every command that reads one.
#[derive(Debug)]
pub enum Failure {
    /// Files that could not be read.
    Unreadable(Vec<ReadError>),
    /// Problems, with the text they are in.
    Unsound { problems: Vec<Problem>, sources: Vec<Source> },
}

impl Failure {
    /// For people; ends with how many problems there are. With `styled`, write it through `anstream`.
    pub fn render(&self, styled: bool) -> String {
        match self {
            Self::Unreadable(errors) => {
                let lines: String = errors.iter().map(|error| format!("error: {}\n", chain(error))).collect();
                format!("{lines}{}\n", count(errors.len(), "problem"))
            }
            Self::Unsound { problems, sources } => {
                format!("{}{}\n", problems::render(problems, sources, styled), count(problems.len(), "problem"))
            }
        }
    }

    /// For programs.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Unreadable(errors) => {
                let object = |error: &ReadError| json!({ "file": null, "line": null, "column": null, "title": chain(error), "label": null, "others": [], "help": null });
                errors.iter().map(object).collect()
            }
            Self::Unsound { problems, sources } => problems::to_json(problems, sources),
        }
    }
}

fn summary(desired: &Desired) -> String {
    let users = desired.instances.values().map(|instance| instance.users.len()).sum();
    let counts = [(desired.instances.len(), "instance"), (users, "user"), (desired.nodes.len(), "node")];
    counts.map(|(number, noun)| count(number, noun)).join(", ")
}
