//! What people type: clap types, and one short file for each command.

mod agent;
mod apply;
mod approve;
pub mod check;
mod client;
mod confirm;
mod exit;
pub mod hash_password;
pub mod live_file;
mod load;
mod mask;
mod node;
mod observe;
mod out;
mod plan;
pub mod problems;
mod progress;
mod remember;
mod requests;
mod restore;
mod run;
mod saved;
pub mod schema;
mod status;

use std::io::{self, IsTerminal as _, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::host::process;
use crate::observe::chain;
use exit::Exit;
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

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
    /// Follow a git repository and keep the nodes as it says: the daemon
    Run(run::RunArgs),
    /// Print what the daemon follows, and where each instance stands
    Status(status::StatusArgs),
    /// Ask the daemon for a pass now
    Sync(requests::SyncArgs),
    /// Have the daemon leave an instance, or all, alone for a while
    Suspend(requests::SuspendArgs),
    /// End a suspension
    Resume(requests::NameArgs),
    /// Have the daemon try what failed again at once
    Retry(requests::NameArgs),
    /// Have the daemon take a revision although history was rewound
    Accept(requests::AcceptArgs),
    /// Let a revision pass the guard that holds it
    Approve(approve::ApproveArgs),
    /// List and bring back the data of a deleted instance
    Restore(restore::RestoreArgs),
    /// Check and prepare the hosts that instances live on
    Node(node::NodeArgs),
    /// Serve a controller on this node: what it starts over ssh
    Agent(agent::AgentArgs),
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

impl SourceArgs {
    /// What stands behind a command that is to see the same state: its path and its roots, quoted where a shell needs it.
    fn options(&self) -> String {
        let word = |path: &Path| {
            let text = path.display().to_string();
            let plain = |letter: char| letter.is_alphanumeric() || "/._-+:@".contains(letter);
            if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
        };
        let path = (self.path != Path::new(".")).then(|| format!(" {}", word(&self.path)));
        let local = self.local_root.as_ref().map(|root| format!(" --local-root {}", word(root)));
        let secrets = self.secrets_root.as_ref().map(|root| format!(" --secrets-root {}", word(root)));
        [path, local, secrets].into_iter().flatten().collect()
    }

    /// Text in which the command that approves this revision can be copied as it stands.
    fn with_options(&self, text: &str, revision: &str) -> String {
        let command = format!("valkeeper approve {revision}");
        text.replace(&command, &format!("{command}{}", self.options()))
    }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        // clap itself would end with 2, which says "there are changes" here.
        Err(misuse) => {
            let _nobody_reads = misuse.print();
            return if misuse.use_stderr() { Exit::Error } else { Exit::Ok }.into();
        }
    };
    process::inherit_nothing();
    process::open_many_files();
    // The daemon says how it logs in its configuration, so it begins by itself.
    if !matches!(command, Command::Run(_)) {
        start_log(false, "warn");
    }
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
        Command::Run(args) => with_runtime(run::run(args)),
        Command::Status(args) => with_runtime(status::status(args)),
        Command::Sync(args) => with_runtime(requests::sync(args)),
        Command::Suspend(args) => with_runtime(requests::suspend(args)),
        Command::Resume(args) => with_runtime(requests::resume(args)),
        Command::Retry(args) => with_runtime(requests::retry(args)),
        Command::Accept(args) => with_runtime(requests::accept(args)),
        Command::Approve(args) => with_runtime(approve::approve(args)),
        Command::Node(args) => with_runtime(node::node(args)),
        Command::Agent(args) => in_runtime(&mut Builder::new_current_thread(), agent::agent(args)),
        Command::Restore(args) => with_runtime(restore::restore(args)),
    };
    match exit {
        Ok(exit) => exit.into(),
        Err(error) => {
            // Whoever closed the pipe has read enough.
            if error.downcast_ref().is_none_or(|error: &io::Error| error.kind() != io::ErrorKind::BrokenPipe) {
                out::complain(out::printable_lines(&format!("error: {}", chain(error.as_ref()))));
            }
            Exit::Error.into()
        }
    }
}

/// Logs to standard error: standard output belongs to plans and facts. `VALKEEPER_LOG` says what is logged.
fn start_log(json: bool, usual: &str) {
    let filter = EnvFilter::try_from_env("VALKEEPER_LOG").unwrap_or_else(|_unset| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
    if json {
        log.json().flatten_event(true).init();
    } else {
        log.init();
    }
}

fn done<E: Into<anyhow::Error>>(result: Result<(), E>) -> anyhow::Result<Exit> {
    result.map(|()| Exit::Ok).map_err(Into::into)
}

fn with_runtime(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    in_runtime(&mut Builder::new_multi_thread(), command)
}

fn in_runtime(builder: &mut Builder, command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = builder.enable_all().build()?;
    let exit = runtime.block_on(command);
    // A step that is stuck on a dead disk must not keep the command from ending.
    runtime.shutdown_background();
    exit
}
