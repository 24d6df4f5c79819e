//! What became of a step: participles.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The end of one attempt at a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Done,
    /// The node already was as the step leaves it.
    AlreadyDone,
    /// Begun and not finished; the text says what it waits for. The next look decides.
    Pending(String),
    /// Somebody changed the node since the plan was made; planning again is the answer.
    Conflict(String),
    /// Written, and read back as something else.
    NotKept(String),
    Failed(String),
    /// The node's own server does not take the settings, tried away from the data: nothing was touched, and trying again
    /// changes nothing.
    Refused(String),
    /// The node could not be reached, or did not answer in time; what happened there is unknown.
    NotReached(String),
}

impl Outcome {
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::AlreadyDone)
    }

    /// A stable word for JSON and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::AlreadyDone => "already-done",
            Self::Pending(_) => "pending",
            Self::Conflict(_) => "conflict",
            Self::NotKept(_) => "not-kept",
            Self::Failed(_) => "failed",
            Self::Refused(_) => "refused",
            Self::NotReached(_) => "not-reached",
        }
    }

    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Done | Self::AlreadyDone => None,
            Self::Pending(text)
            | Self::Conflict(text)
            | Self::NotKept(text)
            | Self::Failed(text)
            | Self::Refused(text)
            | Self::NotReached(text) => Some(text),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self {
            Self::Done => return f.write_str("done"),
            Self::AlreadyDone => return f.write_str("was already so"),
            Self::Pending(_) => "waits for",
            Self::Conflict(_) => "changed meanwhile:",
            Self::NotKept(_) => "not kept:",
            Self::Failed(_) => "failed:",
            Self::Refused(_) => "refused:",
            Self::NotReached(_) => "not reached:",
        };
        write!(f, "{word} {}", self.message().unwrap_or_default())
    }
}
