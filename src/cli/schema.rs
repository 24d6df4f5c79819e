//! `valkeeper schema`: the JSON Schema of the state language, for editors.

use std::io::{self, Write};

/// Prints the schema.
///
/// # Errors
/// When it cannot be written.
pub fn schema(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:#}", crate::desired::json_schema::json_schema())
}
