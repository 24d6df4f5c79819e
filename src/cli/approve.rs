//! `valkeeper approve`: let one revision pass the guard.

use clap::Args;

use super::client::SocketArgs;
use super::exit::Exit;
use super::{SourceArgs, load, out, remember};
use crate::daemon::control::Request;
use crate::fleet::{Execute as _, Observe as _};
use crate::roots;

#[derive(Debug, Args)]
#[command(
    after_help = "The approval is kept in the fleet's record on its nodes. It lets this one revision delete more instances than \
guard.max_deletes, and restart instances that keep nothing on disk. It ends when the revision is settled."
)]
pub(crate) struct ApproveArgs {
    /// The revision, as `plan` shows it
    pub revision: String,
    #[command(flatten)]
    pub source: SourceArgs,
    /// Ask the running daemon, whose revisions are commits, instead of reading PATH
    #[arg(long)]
    pub daemon: bool,
    #[command(flatten)]
    pub socket: SocketArgs,
}

pub(crate) async fn approve(args: ApproveArgs) -> anyhow::Result<Exit> {
    if args.daemon {
        let request = Request { revision: Some(args.revision), ..Request::default() };
        out::print(args.socket.ask("approve", &request).await? + "\n")?;
        return Ok(Exit::Ok);
    }
    let Some(loaded) = load::load(&args.source)? else { return Ok(Exit::Error) };
    let desired = &loaded.desired;
    anyhow::ensure!(
        args.revision == desired.revision,
        "{} is at revision {}, not {}: look at its plan before approving it",
        args.source.path.display(),
        desired.revision,
        args.revision
    );
    let fleet = load::fleet(&loaded, &args.source)?;
    fleet.acquire(&roots::holder("approve")).await?;
    let live = fleet.observe().await;
    let steps = crate::plan::approve(desired, &live);
    remember::remember(desired, &fleet, &live, steps, "the approval").await?;
    out::tell(format_args!("Revision {} of fleet {} is approved.", desired.revision, desired.fleet));
    Ok(Exit::Ok)
}
