//! `valkeeper agent`: the node side, which a controller starts over ssh.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio::io::{stdin, stdout};

use super::exit::Exit;
use crate::agent::{self, Access};
use crate::fleet::local::Local;
use crate::host::process;
use crate::observe::{Limits, LocalNode, Surroundings};

#[derive(Debug, Args)]
#[command(after_help = "Speaks frames on standard input and output, and ends when the controller hangs up.

Instances run under systemd, so it needs root: another user is passed on to `sudo -n` (deploy/ has the rule).")]
pub(crate) struct AgentArgs {
    /// Look only: refuse every change
    #[arg(long)]
    pub read_only: bool,
    /// Keep instances as processes below this folder, as a local node does: without systemd and root
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

pub(crate) async fn agent(args: AgentArgs) -> anyhow::Result<Exit> {
    if args.folder.is_none() && !process::is_root() {
        let again: &[&str] = if args.read_only { &["agent", "--read-only"] } else { &["agent"] };
        return Err(process::become_root(again)).context("instances under systemd need root, and sudo cannot be started");
    }
    let surroundings = Surroundings::of_this_process(Limits::default());
    let node = match &args.folder {
        Some(folder) => LocalNode::new(folder, surroundings)?,
        None => LocalNode::system(Path::new("/"), surroundings)?,
    };
    let access = if args.read_only { Access::ReadOnly } else { Access::Full };
    agent::serve(Arc::new(Local::new(node)), stdin(), stdout(), access, agent::SILENCE).await?;
    Ok(Exit::Ok)
}
