//! The command line of valkeeper: set-up, then [`valkeeper::cli`].

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // git starts this program again in order to ask it for a token; then there is nothing else to do.
    if let Some(code) = valkeeper::repo::askpass::answer() {
        return code;
    }
    // Standard output belongs to plans and facts; what is logged goes beside it.
    let filter = EnvFilter::try_from_env("VALKEEPER_LOG").unwrap_or_else(|_unset| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    valkeeper::cli::run()
}
