//! How a command ends: the exit codes of every command in one place.

use std::process::ExitCode;

/// The end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Nothing to do, or everything done.
    Ok,
    Error,
    /// `plan`: there are changes to make.
    Changes,
    /// `apply FILE`: desired or live moved since the plan was saved.
    Stale,
    /// Some nodes, or servers, could not be seen.
    Unseen,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Error => 1,
            Exit::Changes => 2,
            Exit::Stale => 3,
            Exit::Unseen => 4,
        })
    }
}
