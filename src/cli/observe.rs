//! `valkeeper observe`: what the nodes show, as TOML.

use clap::Args;

use super::exit::Exit;
use super::{SourceArgs, live_file, load, out};
use crate::fleet::Observe as _;
use crate::model::live::Observed;

#[derive(Debug, Args)]
#[command(after_help = "Prints no secret: password hashes as short fingerprints, which still compare equal.

Exits with 0 when all nodes were seen, 4 when some could not be, 1 on an error.")]
pub(crate) struct ObserveArgs {
    #[command(flatten)]
    pub source: SourceArgs,
}

pub(crate) async fn observe(args: ObserveArgs) -> anyhow::Result<Exit> {
    let Some(loaded) = load::load_without_secrets(&args.source)? else { return Ok(Exit::Error) };
    let live = load::fleet(&loaded, &args.source)?.observe().await;
    out::print(live_file::render(&live)?)?;
    let unseen = live.nodes.values().any(|node| matches!(node, Observed::Unseen { .. }));
    Ok(if unseen { Exit::Unseen } else { Exit::Ok })
}
