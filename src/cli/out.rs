//! What is printed. A reader that went away (`| head`), or a full disk behind the output, is never a panic: before anything
//! was done it ends the command, and while steps are taken it is passed over.

use std::borrow::Cow;
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

/// Text from a file or a server must not steer the terminal: control characters and marks of writing direction are spelt out.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let harmful =
        |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let spell = |c: char| if harmful(c) { c.escape_unicode().to_string() } else { c.to_string() };
    if text.contains(harmful) { text.chars().map(spell).collect() } else { Cow::Borrowed(text) }
}

/// The same for a text of several lines, such as a plan.
pub(super) fn printable_lines(text: &str) -> String {
    text.lines().flat_map(|line| [printable(line), Cow::Borrowed("\n")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_moves_the_cursor() {
        assert_eq!(printable_lines("- key ~k\u{1b}[2K\u{1b}[1A1\n! \u{202e}\n"), "- key ~k\\u{1b}[2K\\u{1b}[1A1\n! \\u{202e}\n");
        assert_eq!(printable("größer"), "größer");
    }
}
