//! What people type: clap types, and one short file for each command.

mod apply;
mod approve;
pub mod check;
mod confirm;
mod exit;
pub mod hash_password;
pub mod live_file;
mod load;
mod mask;
mod observe;
mod out;
mod plan;
pub mod problems;
mod progress;
mod restore;
mod saved;
pub mod schema;
pub mod source;

use std::io::{self, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::observe::chain;
use exit::Exit;

/// GitOps for Valkey on plain Linux hosts: TOML in, plan out, instances and users applied and kept.
#[derive(Debug, Parser)]
#[command(name = "valkeeper", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Parse and check only: no node is looked at
    Check(CheckArgs),
    /// Look at the nodes and print what would be done; never writes
    Plan(plan::PlanArgs),
    /// Plan, ask, act, and repeat until the nodes are as declared
    Apply(apply::ApplyArgs),
    /// Print what the nodes show, as TOML
    Observe(observe::ObserveArgs),
    /// Let a revision pass the guard that holds it
    Approve(approve::ApproveArgs),
    /// List and bring back the data of a deleted instance
    Restore(restore::RestoreArgs),
    /// Print the JSON Schema of the state language
    Schema,
    /// Read a password and print its hash for password_sha256
    HashPassword,
}

#[derive(Debug, Args)]
#[command(after_help = "Exits with 0 when there is no problem, 1 otherwise.")]
struct CheckArgs {
    /// A TOML file, or a folder of them
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Print the problems as JSON
    #[arg(long)]
    json: bool,
}

/// Where the state is declared.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    /// A TOML file, or a folder of them
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// Where local nodes may keep their state: `local = "…"` is taken relative to it and may not leave it
    /// [default: the folder of the TOML]
    #[arg(long, value_name = "DIR")]
    pub local_root: Option<PathBuf>,
    /// Where `password = { file = "…" }` may read: taken relative to it and may not leave it
    /// [default: the folder of the TOML]
    #[arg(long, value_name = "DIR")]
    pub secrets_root: Option<PathBuf>,
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let command = Cli::parse().command;
    let exit = match command {
        Command::Check(CheckArgs { path, json }) => {
            let sound = check::check(&path, json, &mut anstream::stdout(), &mut anstream::stderr());
            sound.map(|sound| if sound { Exit::Ok } else { Exit::Error }).map_err(Into::into)
        }
        Command::Schema => done(schema::schema(&mut stdout())),
        Command::HashPassword => done(hash_password::hash_password(&mut stdout())),
        Command::Plan(args) => with_runtime(plan::plan(args)),
        Command::Apply(args) => with_runtime(apply::apply(args)),
        Command::Observe(args) => with_runtime(observe::observe(args)),
        Command::Approve(args) => with_runtime(approve::approve(args)),
        Command::Restore(args) => with_runtime(restore::restore(args)),
    };
    match exit {
        Ok(exit) => exit.into(),
        Err(error) => {
            // Whoever closed the pipe has read enough.
            if error.downcast_ref().is_none_or(|error: &io::Error| error.kind() != io::ErrorKind::BrokenPipe) {
                out::complain(format_args!("error: {}\n", chain(error.as_ref())));
            }
            Exit::Error.into()
        }
    }
}

fn done<E: Into<anyhow::Error>>(result: Result<(), E>) -> anyhow::Result<Exit> {
    result.map(|()| Exit::Ok).map_err(Into::into)
}

fn with_runtime(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let exit = runtime.block_on(command);
    // A step that is stuck on a dead disk must not keep the command from ending.
    runtime.shutdown_background();
    exit
}
