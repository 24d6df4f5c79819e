//! `sync`, `suspend`, `resume`, `retry`, `accept`: a word to the daemon, and what it says.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::client::SocketArgs;
use super::exit::Exit;
use crate::daemon::control::Request;
use crate::model::name::InstanceName;
use crate::model::size::parse_duration;
use crate::roots;

/// With --wait, exits with 0 when settled, 4 when some nodes could not be seen, 1 otherwise; without it, 0 when it was asked
#[derive(Debug, Args)]
pub(crate) struct SyncArgs {
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Return when a pass has ended that began after this, and nothing follows at once; say how it ended
    #[arg(long)]
    pub wait: bool,
}

/// It ends by itself, and survives a restart of the daemon: it is part of what the fleet remembers on its nodes
#[derive(Debug, Args)]
pub(crate) struct SuspendArgs {
    /// The instance; all of them if left out
    pub name: Option<String>,
    /// Why, for those who wonder
    #[arg(long)]
    pub reason: String,
    /// For how long, such as 2h
    #[arg(long = "for", value_name = "DURATION")]
    pub duration: String,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The instance; all of them if left out
    pub name: Option<String>,
    #[command(flatten)]
    pub socket: SocketArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptArgs {
    /// The full id of the revision
    pub revision: String,
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// The longest suspension: who needs longer sets mode = "observe".
const SUSPENSION_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

fn named(name: Option<&str>) -> anyhow::Result<Option<InstanceName>> {
    name.map(InstanceName::new).transpose().map_err(Into::into)
}

async fn say(socket: &SocketArgs, action: &str, request: &Request) -> anyhow::Result<Exit> {
    let said = socket.ask(action, request).await?;
    super::out::print(format_args!("{said}\n"))?;
    Ok(Exit::Ok)
}

pub(crate) async fn sync(args: SyncArgs) -> anyhow::Result<Exit> {
    let asked = say(&args.socket, "sync", &Request { wait: args.wait, ..Request::default() }).await?;
    // Nothing follows the pass that answers, so the status shows how that one ended.
    if args.wait { Ok(super::status::exit(&args.socket.status().await?)) } else { Ok(asked) }
}

pub(crate) async fn suspend(args: SuspendArgs) -> anyhow::Result<Exit> {
    let duration = parse_duration(&args.duration).filter(|duration| !duration.is_zero());
    let duration = duration.with_context(|| format!("{:?} is not a duration such as 2h or 45m", args.duration))?;
    anyhow::ensure!(duration <= SUSPENSION_MAX, "a suspension lasts 30 days at most: set mode = \"observe\" for longer");
    anyhow::ensure!(!args.reason.trim().is_empty(), "say why (--reason): those who find the instance left alone will wonder");
    let name = named(args.name.as_deref())?;
    if let Some(name) = &name {
        // With a typing error the instance that is worked on by hand would be put right under that hand.
        let known = args.socket.status().await?.instances.contains_key(name);
        anyhow::ensure!(known, "there is no instance {name}: `valkeeper status` lists them");
    }
    let until = crate::daemon::backoff::later(crate::host::clock::now(), duration);
    // People read it; nobody suspends to the nanosecond. Never shorter than asked for.
    let whole_seconds = jiff::TimestampRound::new().smallest(jiff::Unit::Second).mode(jiff::RoundMode::Ceil);
    let until = until.round(whole_seconds).unwrap_or(until);
    let request = Request { name, by: Some(roots::user()), reason: Some(args.reason), until: Some(until), ..Request::default() };
    say(&args.socket, "suspend", &request).await
}

pub(crate) async fn resume(args: NameArgs) -> anyhow::Result<Exit> {
    say(&args.socket, "resume", &Request { name: named(args.name.as_deref())?, ..Request::default() }).await
}

pub(crate) async fn retry(args: NameArgs) -> anyhow::Result<Exit> {
    say(&args.socket, "retry", &Request { name: named(args.name.as_deref())?, ..Request::default() }).await
}

pub(crate) async fn accept(args: AcceptArgs) -> anyhow::Result<Exit> {
    say(&args.socket, "accept", &Request { revision: Some(args.revision), ..Request::default() }).await
}
