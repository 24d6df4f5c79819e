//! `valkeeper node`: look at hosts, make them nodes, keep their program the same as ours, and leave them again.

#![expect(clippy::disallowed_methods, reason = "which program this is, is asked here")]

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};

use super::exit::Exit;
use super::load::{self, Loaded};
use super::{SourceArgs, confirm, out, remember};
use crate::fleet::session::Session;
use crate::fleet::{Execute as _, Observe as _};
use crate::host::ssh::{Destination, REMOTE_PROGRAM};
use crate::model::desired::Reach;
use crate::model::live::Observed;
use crate::model::name::NodeName;
use crate::model::size::show_size;
use crate::observe::chain;
use crate::prepare::program::{self, Program};
use crate::prepare::survey::{Finding, Grade, Survey, survey};
use crate::roots;

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// Look at what nodes have of what they need; changes nothing
    Check(CheckArgs),
    /// Make a host a node: check it, and install our program and the unit of its instances
    Add(AddArgs),
    /// Bring our program on nodes to the one here, one node after the other
    Upgrade(UpgradeArgs),
    /// Leave a node: take away all that is ours; refused while instances are on it
    Remove(RemoveArgs),
}

/// Where nodes are declared.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The TOML file, or folder of them, that declares the nodes
    #[arg(long, value_name = "PATH", default_value = ".")]
    config: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Exits with 0 when every node is fit, 1 when one is not, 4 when one could not be reached.")]
struct CheckArgs {
    /// The nodes [default: all that are reached over ssh]
    names: Vec<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct AddArgs {
    /// The node, as it is declared
    name: String,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    program: ProgramArgs,
}

#[derive(Debug, Args)]
struct UpgradeArgs {
    /// The nodes, as they are declared
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All nodes that are reached over ssh
    #[arg(long, conflicts_with = "names")]
    all: bool,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    program: ProgramArgs,
}

#[derive(Debug, Args)]
struct ProgramArgs {
    /// The build of valkeeper to install [default: valkeeper-linux-MACHINE beside this program, or this program]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// The node, as it is declared
    name: String,
    #[command(flatten)]
    config: ConfigArgs,
    /// The node is gone for good: forget it without touching it, with the instances that are on it alone
    #[arg(long, conflicts_with = "discard_set_aside")]
    lost: bool,
    /// Also remove data of deleted instances that is still kept there
    #[arg(long)]
    discard_set_aside: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// A node over ssh.
struct Host {
    name: NodeName,
    to: Destination,
}

impl Host {
    /// What its agent said, or an error that names it.
    fn said<T>(&self, said: Result<T, String>) -> anyhow::Result<T> {
        said.map_err(anyhow::Error::msg).with_context(|| format!("node {}", self.name))
    }
}

pub(crate) async fn node(args: NodeArgs) -> anyhow::Result<Exit> {
    match args.command {
        NodeCommand::Check(args) => check(args).await,
        NodeCommand::Add(args) => add(args).await,
        NodeCommand::Upgrade(args) => upgrade(args).await,
        NodeCommand::Remove(args) => remove(args).await,
    }
}

fn load(config: &ConfigArgs) -> anyhow::Result<Option<Loaded>> {
    load::load_without_secrets(&source(config))
}

fn source(config: &ConfigArgs) -> SourceArgs {
    SourceArgs { path: config.config.clone(), local_root: None, secrets_root: None }
}

/// The hosts of these names; of all ssh nodes if there is none.
fn hosts(loaded: &Loaded, names: &[String]) -> anyhow::Result<Vec<Host>> {
    let ssh = roots::ssh();
    let host = |name: &NodeName, destination: &str| Host { name: name.clone(), to: ssh.to(destination) };
    if names.is_empty() {
        let all = loaded.desired.nodes.iter().filter_map(|(name, node)| match &node.reach {
            Reach::Ssh(destination) => Some(host(name, destination)),
            Reach::Local(_) => None,
        });
        return Ok(all.collect());
    }
    let one = |name: &String| {
        let (name, node) = loaded.desired.nodes.get_key_value(name.as_str()).with_context(|| {
            format!("there is no node {name} in the TOML: declare it first, as [nodes.{name}] with ssh and address")
        })?;
        match &node.reach {
            Reach::Ssh(destination) => Ok(host(name, destination)),
            Reach::Local(_) => bail!("node {name} is a folder on this machine: there is nothing to prepare"),
        }
    };
    names.iter().map(one).collect()
}

fn show(host: &Host, survey: &Survey) -> anyhow::Result<()> {
    let mut text = format!("Node {}:\n", host.name);
    for Finding { what, grade, found, cure } in survey.findings() {
        let mark = match grade {
            Grade::Good => "ok  ",
            Grade::Warning => "warn",
            Grade::Bad => "BAD ",
        };
        text.push_str(&format!("  {mark}  {what}: {found}\n"));
        text.extend(cure.map(|cure| format!("        {cure}\n")));
    }
    let ours = survey.program.as_ref().map_or("not installed", |(_, version)| version);
    text.push_str(&format!("  {REMOTE_PROGRAM}: {ours}\n"));
    Ok(out::print(out::printable_lines(&text))?)
}

async fn check(args: CheckArgs) -> anyhow::Result<Exit> {
    let Some(loaded) = load(&args.config)? else { return Ok(Exit::Error) };
    let mut exit = Exit::Ok;
    for host in hosts(&loaded, &args.names)? {
        let survey = match survey(&host.to).await {
            Ok(survey) => survey,
            Err(error) => {
                out::complain(out::printable_lines(&format!("node {}: {}", host.name, chain(&error))));
                exit = Exit::Unseen;
                continue;
            }
        };
        show(&host, &survey)?;
        if !survey.is_fit() {
            exit = if exit == Exit::Ok { Exit::Error } else { exit };
        } else if survey.program.is_some() {
            let session = Session::new(host.to.clone());
            match session.look().await {
                Ok(look) => out::print(format_args!("  ok    agent: sees {} members\n", look.facts.members.len()))?,
                Err(why) => {
                    out::print(out::printable_lines(&format!("  BAD   agent: {why}\n")))?;
                    exit = if exit == Exit::Ok { Exit::Error } else { exit };
                }
            }
        }
    }
    Ok(exit)
}

async fn add(args: AddArgs) -> anyhow::Result<Exit> {
    let AddArgs { name, config, program } = args;
    let Some(loaded) = load(&config)? else { return Ok(Exit::Error) };
    for host in hosts(&loaded, &[name])? {
        let survey = survey(&host.to).await.with_context(|| format!("node {}", host.name))?;
        show(&host, &survey)?;
        ensure!(survey.is_fit(), "node {} lacks what is marked BAD above; nothing was changed", host.name);
        if !bring(&host, &survey, &program).await? {
            return Ok(Exit::Error);
        }
    }
    Ok(Exit::Ok)
}

async fn upgrade(args: UpgradeArgs) -> anyhow::Result<Exit> {
    let UpgradeArgs { names, all: _, config, program } = args;
    let Some(loaded) = load(&config)? else { return Ok(Exit::Error) };
    // One after the other: when the new program is no good on one, the others keep the old one.
    for host in hosts(&loaded, &names)? {
        let survey = survey(&host.to).await.with_context(|| format!("node {}", host.name))?;
        ensure!(survey.program.is_some(), "node {} has no valkeeper yet: prepare it with `valkeeper node add {0}`", host.name);
        if !bring(&host, &survey, &program).await? {
            return Ok(Exit::Error);
        }
    }
    Ok(Exit::Ok)
}

/// Brings program and unit to a host, after asking. False: the person said no.
async fn bring(host: &Host, survey: &Survey, args: &ProgramArgs) -> anyhow::Result<bool> {
    let own = std::env::current_exe().context("it cannot be told which program this is")?;
    let program = Program::choose(args.program.as_deref(), &own, survey)?;
    let there = program.is_there(survey);
    if there {
        out::print(format_args!("Node {}: {REMOTE_PROGRAM} is the one here already.\n", host.name))?;
    } else {
        let instead = survey.program.as_ref().map(|(_, version)| format!(" in place of {version}")).unwrap_or_default();
        let (from, size) = (program.path.display(), show_size(program.size_bytes()));
        out::print(format_args!("Node {}: will install {from} ({size}) as {REMOTE_PROGRAM}{instead},\n", host.name))?;
        out::print("  and the unit template /etc/systemd/system/valkey@.service if it is not there. No server is touched.\n")?;
        if !confirm::confirm("Do this?", args.yes)? {
            return Ok(false);
        }
        program.install(&host.to, survey).await.with_context(|| format!("node {}", host.name))?;
    }
    let session = Session::new(host.to.clone());
    host.said(session.prepare().await)?;
    let look = host.said(session.look().await)?;
    let (version, members) = (&look.binary.version, look.facts.members.len());
    out::print(format_args!("Node {}: ready, with valkey-server {version} and {members} members.\n", host.name))?;
    Ok(true)
}

async fn remove(args: RemoveArgs) -> anyhow::Result<Exit> {
    let RemoveArgs { name, config, lost, discard_set_aside, yes } = args;
    let Some(loaded) = load(&config)? else { return Ok(Exit::Error) };
    if lost {
        return forget(&loaded, &source(&config), &NodeName::new(&name)?, yes).await;
    }
    let live = load::fleet(&loaded, &source(&config))?.observe().await;
    let [host] = <[Host; 1]>::try_from(hosts(&loaded, &[name])?).map_err(|_| anyhow::anyhow!("name one node"))?;
    // What the fleet remembers of this node may stand on any other.
    let (seen, unseen): (Vec<_>, Vec<_>) = live.nodes.iter().partition(|(_, node)| matches!(node, Observed::Seen(_)));
    if let Some((node, _)) = unseen.first() {
        bail!("node {node} cannot be seen, and it may know of instances on {}: try again when it is back", host.name);
    }
    for (node, facts) in live.seen_nodes() {
        let named = facts.records.values().flat_map(|record| &record.roster).find(|(_, seat)| seat.nodes.contains(&host.name));
        if let Some((instance, _)) = named {
            bail!("the fleet places instance {instance} on {} (says {node}): delete or move it first", host.name);
        }
    }
    let Some((facts, _)) = live.seen(&host.name) else { bail!("{} of {} nodes were seen", seen.len(), live.nodes.len()) };
    ensure!(facts.members.is_empty(), "instances stand on {}: {}", host.name, join(facts.members.keys()));
    let kept: Vec<_> = facts.set_aside.iter().map(|kept| kept.instance.to_string()).collect();
    ensure!(
        kept.is_empty() || discard_set_aside,
        "data of deleted instances is still kept on {}: {}; bring it back with `valkeeper restore`, or give --discard-set-aside",
        host.name,
        kept.join(", ")
    );
    let survey = survey(&host.to).await.with_context(|| format!("node {}", host.name))?;
    out::print(format_args!(
        "Node {}: will remove {REMOTE_PROGRAM}, the unit template, and all below /var/lib/valkeeper and /etc/valkey/instances.\n",
        host.name
    ))?;
    if !kept.is_empty() {
        out::print(format_args!("  Data of {} deleted instances goes for good: {}.\n", kept.len(), kept.join(", ")))?;
    }
    if !confirm::confirm("Do this?", yes)? {
        return Ok(Exit::Error);
    }
    let session = Session::new(host.to.clone());
    host.said(session.leave(discard_set_aside).await)?;
    program::remove(&host.to, &survey).await.with_context(|| format!("node {}", host.name))?;
    out::print(format_args!("Node {}: nothing of ours is left. Take its block out of the TOML.\n", host.name))?;
    Ok(Exit::Ok)
}

/// What the fleet remembers of a node goes; on the node nothing is done.
async fn forget(loaded: &Loaded, source: &SourceArgs, name: &NodeName, yes: bool) -> anyhow::Result<Exit> {
    let desired = &loaded.desired;
    let fleet = load::fleet(loaded, source)?;
    let live = fleet.observe().await;
    let unseen = crate::plan::plan(desired, &live).unseen;
    let declared = desired.nodes.contains_key(name);
    ensure!(
        !declared || unseen.contains_key(name),
        "node {name} is there and is the machine that the fleet knows: remove it without --lost"
    );
    let record = crate::plan::remembered(desired, &live);
    let alone = record.roster.iter().filter(|(_, seat)| seat.nodes.iter().eq([name])).map(|(instance, _)| instance);
    let alone = join(alone);
    if alone.is_empty() {
        out::print(format_args!("The fleet will forget node {name}; no instance was on it alone.\n"))?;
    } else {
        out::print(format_args!(
            "The fleet will forget node {name}. These instances were on it alone, and where they are declared they will be made anew, EMPTY: \
             {alone}.\n"
        ))?;
    }
    if !confirm::confirm("Is it gone for good?", yes)? {
        return Ok(Exit::Error);
    }
    fleet.acquire(&roots::holder("node remove")).await?;
    let steps = crate::plan::forget(desired, &live, name);
    remember::remember(desired, &fleet, &live, steps, "that the node is gone").await?;
    out::print(format_args!("Node {name} is forgotten. Take its block out of the TOML, or let it lead to the new machine.\n"))?;
    Ok(Exit::Ok)
}

fn join<T: ToString>(names: impl Iterator<Item = T>) -> String {
    names.map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}
