//! What is printed. A reader that went away (`| head`), or a full disk behind the output, is never a panic: before anything
//! was done it ends the command, and while steps are taken it is passed over.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Prints what the command is there to show.
///
/// # Errors
/// When it cannot be written.
pub(super) fn print(text: impl Display) -> io::Result<()> {
    let mut out = anstream::stdout();
    write!(out, "{text}").and_then(|()| out.flush())
}

/// Says a line about what is being done; the work goes on, whoever listens.
pub(super) fn tell(line: impl Display) {
    let _nobody_reads = print(format_args!("{line}\n"));
}

/// Says what is wrong, beside the output.
pub(super) fn complain(text: impl Display) {
    let _nobody_reads = write!(anstream::stderr(), "{text}");
}
