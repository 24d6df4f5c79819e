//! The command line of valkeeper: set-up, then [`valkeeper::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    // git starts this program again in order to ask it for a token; then there is nothing else to do.
    if let Some(code) = valkeeper::repo::askpass::answer() {
        return code;
    }
    valkeeper::cli::run()
}
