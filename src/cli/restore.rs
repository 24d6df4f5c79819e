//! `valkeeper restore`: list and bring back data that was set aside by a delete.

use anyhow::bail;
use clap::Args;

use super::exit::Exit;
use super::{SourceArgs, confirm, load, out};
use crate::fleet::{Execute as _, Observe as _};
use crate::host::tell::Tell;
use crate::model::action::Action;
use crate::model::desired::{Desired, Ensure};
use crate::model::live::{Live, SetAside};
use crate::model::name::{InstanceName, NodeName};
use crate::model::plan::{Cause, Step, Subject};
use crate::model::size::{show_duration, show_size};
use crate::roots;

#[derive(Debug, Args)]
#[command(after_help = "Brings the data back as an instance that is down; the next apply starts it as it is declared.")]
pub(crate) struct RestoreArgs {
    /// The instance
    pub name: String,
    #[command(flatten)]
    pub source: SourceArgs,
    /// Which data, if there is more than one
    #[arg(long)]
    pub uid: Option<String>,
    /// On which node, if several keep some of it: every member of an instance has its uid
    #[arg(long)]
    pub node: Option<String>,
    /// Only list what is kept
    #[arg(long)]
    pub list: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

pub(crate) async fn restore(args: RestoreArgs) -> anyhow::Result<Exit> {
    let Some(loaded) = load::load_without_secrets(&args.source)? else { return Ok(Exit::Error) };
    let name = InstanceName::new(&args.name)?;
    let fleet = load::fleet(&loaded, &args.source)?;
    let live = fleet.observe().await;
    let kept = kept(&loaded.desired, &live, &name);
    if kept.is_empty() {
        bail!("no data of an instance {name} is set aside on the nodes that were seen");
    }
    for (node, data) in &kept {
        out::print(format_args!("{}\n", line(&loaded.desired, &live, node, data)))?;
    }
    if args.list {
        return Ok(Exit::Ok);
    }
    let is_asked_for = |node: &NodeName, data: &SetAside| {
        args.uid.as_ref().is_none_or(|uid| *uid == data.uid) && args.node.as_ref().is_none_or(|asked| asked == node.as_str())
    };
    let chosen: Vec<_> = kept.iter().filter(|(node, data)| is_asked_for(node, data)).collect();
    let [(node, data)] = chosen.as_slice() else {
        bail!("say which one with --uid and --node: that of the primary, whom the others then follow");
    };
    may_come_back(&loaded.desired, &live, &name)?;
    if !confirm::confirm(&format!("Bring {} back on node {node}?", data.uid), args.yes)? {
        return Ok(Exit::Error);
    }
    fleet.acquire(&roots::holder("restore")).await?;
    let step = Step {
        subject: Subject::Instance(name.clone()),
        node: (*node).clone(),
        action: Action::Restore { uid: data.uid.clone() },
        cause: Cause::Requested,
        drifted: Default::default(),
        costs: Vec::new(),
    };
    let outcome = fleet.perform(&step, &Tell::nobody()).await;
    anyhow::ensure!(outcome.is_done(), "{}: {outcome}", crate::plan::show::step_line(&step));
    out::tell(format_args!("Instance {name} is back and down; \"valkeeper apply\" starts it."));
    Ok(Exit::Ok)
}

fn kept<'a>(desired: &Desired, live: &'a Live, name: &InstanceName) -> Vec<(&'a NodeName, &'a SetAside)> {
    let all = live.seen_nodes().flat_map(|(node, facts)| facts.set_aside.iter().map(move |kept| (node, kept)));
    all.filter(|(_, kept)| kept.instance == *name && kept.fleet == desired.fleet).collect()
}

fn line(desired: &Desired, live: &Live, node: &NodeName, data: &SetAside) -> String {
    let now = live.seen(node).map_or(data.deleted_at, |(facts, _)| facts.observed_at);
    let age = std::time::Duration::try_from(now.duration_since(data.deleted_at)).unwrap_or_default();
    let left = desired.guard.retain_deleted.saturating_sub(age);
    format!(
        "{}  node {node}{}, {}, deleted {} ago ({}), kept for another {}",
        data.uid,
        if data.followed { " (a replica)" } else { "" },
        show_size(data.bytes),
        show_duration(age),
        data.deleted_at,
        show_duration(left)
    )
}

fn may_come_back(desired: &Desired, live: &Live, name: &InstanceName) -> anyhow::Result<()> {
    if desired.instances.get(name).is_none_or(|instance| instance.ensure == Ensure::Absent) {
        bail!("declare instance {name} again first (without ensure = \"absent\"): what is not declared would not be started");
    }
    if let Some((node, _)) = live.seen_nodes().find(|(_, facts)| facts.members.contains_key(name)) {
        bail!(
            "an instance {name} stands on node {node} now: delete that one first (ensure = \"absent\"), its data is set aside too"
        );
    }
    Ok(())
}
