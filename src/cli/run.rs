//! `valkeeper run`: the daemon.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use super::exit::Exit;
use super::{out, problems};
use crate::daemon::{self, Options};
use crate::desired::Source;
use crate::desired::service::{self, ServiceConfig};
use crate::model::password::Secret;
use crate::model::size::parse_duration;
use crate::repo::{Access, FETCH_DEADLINE, Location, Spec, Verify};
use crate::roots;
use crate::roots::Roots;

/// What the command line says goes before what the configuration file says. SIGHUP asks for a look and reads the
/// configuration again; SIGTERM ends the daemon, and the servers run on
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// The daemon's own configuration (deploy/valkeeper.toml is one)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The git repository to follow: a path, an ssh or https URL, or `[USER@]HOST:PATH`
    #[arg(long, value_name = "PATH|URL", conflicts_with = "path")]
    pub repo: Option<String>,
    /// A plain folder of TOML to follow, for people without git
    #[arg(long, value_name = "DIR")]
    pub path: Option<String>,
    /// The branch to follow [default: main]
    #[arg(long)]
    pub branch: Option<String>,
    /// The folder in the repository [default: its root]
    #[arg(long)]
    pub folder: Option<String>,
    /// The time between two looks when nothing else asks for one [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub poll: Option<String>,
    /// Where metrics, health and hooks are served [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// The control socket [default: /run/valkeeper/valkeeper.sock]
    #[arg(long, value_name = "FILE", env = "VALKEEPER_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Where local nodes may keep their state [default: the current folder]
    #[arg(long, value_name = "DIR")]
    pub local_root: Option<String>,
    /// Where `password = { file = "…" }` may read; needed for a repository that uses it
    #[arg(long, value_name = "DIR")]
    pub secrets_root: Option<String>,
    /// Where the mirror of a remote is kept [default: /var/lib/valkeeper/cache]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<String>,
    /// How to log
    #[arg(long, value_enum)]
    pub log: Option<LogFormat>,
}

/// For people, or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Human,
    Json,
}

/// A hook's secret is one line.
const SECRET_BYTES_MAX: usize = 4096;

pub(crate) async fn run(args: RunArgs) -> anyhow::Result<Exit> {
    let Some(config) = read_config(args.config.as_deref())? else { return Ok(Exit::Error) };
    let options = options(&args, config)?;
    super::start_log(options.log_json, "info");
    daemon::run(options, move || reread(&args)).await?;
    Ok(Exit::Ok)
}

fn read_config(file: Option<&Path>) -> anyhow::Result<Option<ServiceConfig>> {
    let Some(file) = file else { return Ok(Some(ServiceConfig::default())) };
    let text = roots::read_ours(file)?;
    let text = Source { name: file.display().to_string(), text };
    match service::read(&text) {
        Ok(config) => Ok(Some(config)),
        Err(found) => {
            out::complain(format_args!(
                "{}{}\n",
                problems::render(&found, &[text], true),
                problems::count(found.len(), "problem")
            ));
            Ok(None)
        }
    }
}

/// What the daemon is told now, or why that cannot be used, in one line.
fn reread(args: &RunArgs) -> Result<Options, String> {
    let config = match &args.config {
        Some(file) => {
            let text = roots::read_ours(file).map_err(|error| crate::observe::chain(&error))?;
            let name = file.display().to_string();
            service::read(&Source { name: name.clone(), text }).map_err(|problems| match problems.as_slice() {
                [] => name,
                [only] => format!("{name}: {}", only.title),
                [first, more @ ..] => format!("{name}: {}, and {}", first.title, problems::count(more.len(), "more problem")),
            })?
        }
        None => ServiceConfig::default(),
    };
    options(args, config).map_err(|error| format!("{error:#}"))
}

fn options(args: &RunArgs, config: ServiceConfig) -> anyhow::Result<Options> {
    let location = match (args.repo.clone(), args.path.clone(), config.repo, config.path) {
        (Some(repo), ..) => Location::parse(&repo)?,
        (None, Some(path), ..) => Location::Folder(path.into()),
        (None, None, Some(repo), _) => Location::parse(&repo)?,
        (None, None, None, Some(path)) => Location::Folder(path.into()),
        (None, None, None, None) => bail!("say what to follow: --repo PATH|URL, --path DIR, or --config FILE with a [source]"),
    };
    let path = |named: Option<String>| named.map(PathBuf::from);
    let poll = match &args.poll {
        Some(text) => {
            let poll = parse_duration(text).filter(|poll| *poll >= Duration::from_secs(1));
            poll.with_context(|| format!("--poll: {text:?} is not a duration of at least 1s"))?
        }
        None => config.poll.unwrap_or(Duration::from_secs(60)),
    };
    let verify = match config.verify_head {
        Some(true) => Verify::Head { allowed_signers: path(config.allowed_signers), openpgp_keys: path(config.openpgp_keys) },
        Some(false) | None => Verify::Off,
    };
    let access = Access {
        token_file: path(config.token_file),
        ca_file: path(config.ca_file),
        ssh_key: path(config.ssh_key),
        known_hosts: path(config.known_hosts),
        askpass: None,
    };
    let text_root = match &location {
        Location::Folder(folder) => Some(folder.clone()),
        Location::Local(_) | Location::Remote(_) => None,
    };
    let here = || text_root.clone().unwrap_or_else(|| PathBuf::from("."));
    let roots = Roots {
        local: path(args.local_root.clone().or(config.local_root)).unwrap_or_else(here),
        // A repository may name no file of this machine unless somebody at this machine says where.
        secrets: path(args.secrets_root.clone().or(config.secrets_root)).or(text_root.clone()),
    };
    let spec = Spec {
        location,
        branch: args.branch.clone().or(config.branch).unwrap_or_else(|| "main".to_owned()),
        folder: args.folder.clone().or(config.folder).unwrap_or_else(|| ".".to_owned()),
        cache: path(args.cache.clone().or(config.cache)).unwrap_or_else(|| "/var/lib/valkeeper/cache".into()),
        verify,
        access,
        deadline: FETCH_DEADLINE,
    };
    let hook_secret = config.hook_secret_file.map(|file| roots::read_secret_line(Path::new(&file), SECRET_BYTES_MAX)).transpose();
    Ok(Options {
        source: spec,
        roots,
        poll,
        listen: args.listen.or(config.listen).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9464))),
        socket: args.socket.clone().or(path(config.socket)).unwrap_or_else(|| "/run/valkeeper/valkeeper.sock".into()),
        hook_secret: hook_secret?.map(Secret::new),
        log_json: args.log.map_or(config.log_json.unwrap_or(false), |log| log == LogFormat::Json),
    })
}
