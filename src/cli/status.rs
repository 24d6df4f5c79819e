//! `valkeeper status`: what the daemon follows, what it settled, and where each instance stands.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use super::client::SocketArgs;
use super::exit::Exit;
use super::problems;
use crate::daemon::status::{InstanceStatus, MemberRole, MemberStatus, NodeStatus, PassResult, PassStatus, State, Status};
use crate::model::size::{show_duration, show_size};
use crate::plan::show;

/// Exits with 0 when settled, 4 when some nodes could not be seen, 1 otherwise
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Print the status as JSON
    #[arg(long, conflicts_with = "short")]
    pub json: bool,
    /// Print one line, for a shell prompt
    #[arg(long)]
    pub short: bool,
    /// Print it again whenever it changed, until interrupted
    #[arg(long)]
    pub watch: bool,
}

/// How often `--watch` looks.
const WATCH: Duration = Duration::from_millis(500);

pub(crate) async fn status(args: StatusArgs) -> anyhow::Result<Exit> {
    let mut shown = String::new();
    loop {
        let status = args.socket.status().await?;
        let text = if args.json {
            serde_json::to_string_pretty(&status)? + "\n"
        } else if args.short {
            short(&status) + "\n"
        } else {
            text(&status, crate::host::clock::now())
        };
        if text != shown {
            super::out::print(super::out::printable_lines(&text))?;
            shown = text;
        }
        if !args.watch {
            return Ok(exit(&status));
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// How commands end that ask whether all is well.
pub(super) fn exit(status: &Status) -> Exit {
    let settled = status.last_pass.as_ref().is_some_and(|pass| pass.result == PassResult::Settled);
    if status.nodes.values().any(|node| !node.seen) {
        Exit::Unseen
    } else if settled && status.source.problem.is_none() {
        Exit::Ok
    } else {
        Exit::Error
    }
}

/// One line: fleet, revision, what is amiss.
fn short(status: &Status) -> String {
    let fleet = status.fleet.as_deref().unwrap_or("?");
    let revision = brief(status.source.desired.as_deref().unwrap_or("no revision"));
    let mut amiss = Vec::new();
    if let Some(problem) = &status.source.problem {
        amiss.push(format!("source {}", problem.kind.word()));
    }
    for state in [State::Failed, State::Provisioning, State::Deleting, State::Pending] {
        let count = status.instances.values().filter(|instance| instance.state == state).count();
        if count > 0 {
            amiss.push(format!("{count} {}", state.word()));
        }
    }
    let unseen = status.nodes.values().filter(|node| !node.seen).count();
    if unseen > 0 {
        amiss.push(format!("{unseen} nodes unseen"));
    }
    if status.suspended.is_some() {
        amiss.push("suspended".to_owned());
    }
    let result = status.last_pass.as_ref().map_or("starting", |pass| pass.result.word());
    let amiss = if amiss.is_empty() { String::new() } else { format!(" ({})", amiss.join(", ")) };
    format!("{fleet}@{revision} {result}{amiss}")
}

fn brief(revision: &str) -> &str {
    revision.get(..12).unwrap_or(revision)
}

/// The whole of it for people.
pub(super) fn text(status: &Status, now: Timestamp) -> String {
    let mut out = String::new();
    let ago = |at: Timestamp| show_duration(Duration::try_from(now.duration_since(at)).unwrap_or_default());
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(out, "{}", text.trim_end());
    };
    let Status {
        version: _,
        fleet,
        started: _,
        configuration,
        source,
        settled,
        watching,
        suspended,
        last_pass,
        next_pass,
        nodes,
        instances,
    } = status;
    line(format!("fleet    {}", fleet.as_deref().unwrap_or("not known yet")));
    let branch = source.branch.as_ref().map(|branch| format!(", branch {branch}")).unwrap_or_default();
    let folder = if matches!(source.folder.as_str(), "" | ".") { String::new() } else { format!(", folder {}", source.folder) };
    line(format!("source   {}{branch}{folder}", source.location));
    let desired = source.desired.as_deref().unwrap_or("none yet");
    let signed = source.signed_by.as_ref().map(|by| format!(", signed by {by}")).unwrap_or_default();
    line(format!("desired  {desired}{signed}"));
    match settled {
        Some(settled) => line(format!("settled  {} ({} ago)", settled.revision, ago(settled.at))),
        None => line("settled  never".to_owned()),
    }
    if let Some(problem) = &source.problem {
        line(format!(
            "! source ({}, for {}, {}): {}",
            problem.kind.word(),
            ago(problem.since),
            problems::count(usize::try_from(problem.count).unwrap_or(usize::MAX), "time"),
            problem.message
        ));
    }
    if let Some(since) = source.asked_since {
        line(format!("! source: no answer for {}; what was read of it before stays in force", ago(since)));
    }
    if let Some(problem) = &configuration.refused {
        line(format!("! configuration (the one of {} ago stays): {problem}", ago(configuration.read)));
    }
    if let Some(why) = watching {
        line(format!("! only watching: {why}"));
    }
    if let Some(suspension) = suspended {
        line(format!("! suspended by {} until {:.0}: {}", suspension.by, suspension.until, suspension.reason));
    }
    if let Some(pass) = last_pass {
        let next = next_pass.map(|at| show_duration(Duration::try_from(at.duration_since(now)).unwrap_or_default()));
        let next = next.map(|next| format!(", next in {next}")).unwrap_or_default();
        let PassStatus { number, at, seconds, result, done: _, failed: _, held: _ } = pass;
        line(format!("pass     {number} {} ago: {} in {seconds:.2} s{next}", ago(*at), result.word()));
    }
    nodes.iter().for_each(|(name, seen)| line(node(name.as_str(), seen, &ago)));
    let rows: Vec<[String; 6]> = instances.iter().map(|(name, instance)| row(name.as_str(), instance, &ago)).collect();
    if !rows.is_empty() {
        line(String::new());
        table(&rows).lines().for_each(|row| line(row.to_owned()));
    }
    for it in instances.values().filter_map(|instance| instance.moving.as_ref()) {
        line(String::new());
        show::move_lines(it).into_iter().for_each(&mut line);
    }
    out
}

fn node(name: &str, node: &NodeStatus, ago: &dyn Fn(Timestamp) -> String) -> String {
    match &node.message {
        None => format!("node     {name}: seen, valkey-server {}", node.version.as_deref().unwrap_or("?")),
        Some(message) => format!("node     {name}: unseen for {}: {message}", ago(node.since)),
    }
}

fn row(name: &str, instance: &InstanceStatus, ago: &dyn Fn(Timestamp) -> String) -> [String; 6] {
    let mut what = Vec::new();
    if instance.drift > 0 {
        what.push(format!("drift: {} steps", instance.drift));
    }
    if instance.requested > 0 {
        what.push(format!("requested: {} steps", instance.requested));
    }
    let told = instance.held.iter().any(|held| held.reason == "suspended");
    if let Some(suspension) = instance.suspended.as_ref().filter(|_| !told) {
        what.push(format!("suspended by {} until {:.0}: {}", suspension.by, suspension.until, suspension.reason));
    }
    what.extend(instance.held.iter().map(|held| format!("held: {}: {}", held.what, held.message)));
    let replicas: Vec<String> = instance.members.iter().filter_map(|(node, it)| replica(node.as_str(), it)).collect();
    if !replicas.is_empty() {
        what.push(replicas.join(", "));
    }
    if instance.attempts > 0 {
        let due = instance.retry_at.map(|at| format!(", again at {at}")).unwrap_or_default();
        what.push(format!("{} ({} attempts{due})", instance.message.as_deref().unwrap_or("failed"), instance.attempts));
    }
    [
        name.to_owned(),
        instance.state.word().to_owned(),
        ago(instance.since),
        instance.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        instance.port.map(|port| port.to_string()).unwrap_or_default(),
        what.join("; "),
    ]
}

/// A member that is not the primary in a few words.
fn replica(node: &str, member: &MemberStatus) -> Option<String> {
    let MemberStatus { role, link_up, lag_bytes, fenced_seconds } = member;
    match role {
        MemberRole::Primary => None,
        MemberRole::Replica => {
            let link = if *link_up == Some(true) { "up" } else { "link down" };
            let lag = lag_bytes.filter(|lag| *lag > 0).map(|lag| format!(", {} behind", show_size(lag))).unwrap_or_default();
            Some(format!("replica {node} {link}{lag}"))
        }
        MemberRole::Fenced => {
            let held = fenced_seconds.map(|seconds| format!(" for {}", show_duration(Duration::from_secs(seconds))));
            Some(format!("{node} fenced{}", held.unwrap_or_default()))
        }
        MemberRole::Unknown => Some(format!("{node} {}", role.word())),
    }
}

fn table(rows: &[[String; 6]]) -> String {
    const HEAD: [&str; 6] = ["INSTANCE", "STATE", "FOR", "NODE", "PORT", "WHAT"];
    let mut widths = HEAD.map(str::len);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let show = |cells: [&str; 6]| -> String {
        cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}  ")).collect::<String>().trim_end().to_owned() + "\n"
    };
    let mut out = show(HEAD);
    for row in rows {
        out.push_str(&show(row.each_ref().map(String::as_str)));
    }
    out
}
