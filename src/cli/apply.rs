//! `valkeeper apply`: plan, ask, act, and repeat until settled.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::sync::watch;

use super::exit::Exit;
use super::load::{self, Loaded};
use super::progress::{Progress, coloured};
use super::saved::{self, Saved};
use super::{SourceArgs, confirm, out, plan};
use crate::apply::schedule;
use crate::fleet::Execute as _;
use crate::fleet::nodes::Nodes;
use crate::model::desired::Desired;
use crate::model::plan::{Plan, Subject};
use crate::model::size::{parse_duration, show_duration};
use crate::plan::show::{self, Authority, View, step_line};
use crate::reconcile::{self, Applied, Look};
use crate::roots;

#[derive(Debug, Args)]
#[command(after_help = "PATH may also be a plan that `valkeeper plan --out` saved: then that is done and nothing else, unasked.

Exits with 0 when settled, 1 on an error or when something is left, 3 when a saved plan is stale, 4 when some nodes or servers could \
not be seen.")]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub source: SourceArgs,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Print one JSON object a line; needs --yes
    #[arg(long, requires = "yes")]
    pub json: bool,
    /// How long to wait for a replica that makes no progress, such as 10m
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = patience)]
    pub patience: Duration,
}

fn patience(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "it is a number with s, m or h, such as 60s".to_owned())
}

pub(crate) async fn apply(args: ApplyArgs) -> anyhow::Result<Exit> {
    let saved = saved::load(&args.source.path)?;
    let source = saved.as_ref().map_or_else(|| args.source.clone(), Saved::source);
    let Some(loaded) = load::load(&source)? else { return Ok(Exit::Error) };
    let fleet = load::fleet(&loaded, &source)?;
    fleet.acquire(&roots::holder("apply")).await?;
    let look = reconcile::look(&loaded.desired, &fleet).await;
    if load::refused(&loaded, &look.plan) {
        return Ok(Exit::Error);
    }
    let authority = match &saved {
        Some(saved) => match authority(saved, &loaded, &look.plan, &args.source.path) {
            Some(authority) => Some(authority),
            None => return Ok(Exit::Stale),
        },
        None => None,
    };
    let rest = crate::plan::rest(&loaded.desired, &look.live, &look.plan);
    let view = View { desired: &loaded.desired, live: &look.live, plan: &look.plan, rest: &rest };
    if args.json {
        out::print(format_args!("{}\n", json!({ "event": "plan", "plan": show::json(&view) })))?;
    } else {
        out::print(coloured(&source.with_options(&show::text(&view), &look.plan.revision)))?;
    }
    let nothing_to_do = look.plan.steps.is_empty();
    if nothing_to_do && !reconcile::waits(&look.plan) {
        let exit = end_of(&look.plan);
        if args.json {
            close(&Applied::nothing(look), &source, &args);
        }
        return Ok(exit);
    }
    if !confirm::confirm("Apply this?", args.yes || saved.is_some() || nothing_to_do)? {
        out::tell("Nothing was changed.");
        return Ok(Exit::Error);
    }
    let progress = Mutex::new(Progress::new(args.json));
    let listen = Mutex::new(|event: schedule::Event<'_>| {
        if let Ok(mut progress) = progress.lock() {
            progress.show(event);
        }
    });
    let stop = stop_on_signal();
    let applied = match (&authority, args.yes) {
        (None, false) => settle_as_shown(&loaded.desired, &fleet, (&source, args.patience), (look, rest), &stop, &listen).await?,
        (None, true) | (Some(_), _) => {
            reconcile::settle(&loaded.desired, &fleet, look, authority.as_ref(), args.patience, &stop, &listen).await
        }
    };
    if let Ok(mut progress) = progress.lock() {
        progress.end();
    }
    close(&applied, &source, &args);
    Ok(exit(&applied))
}

/// A person agreed to what was shown; what comes up beside that is shown and asked for again.
async fn settle_as_shown(
    desired: &Desired,
    fleet: &Nodes,
    (source, patience): (&SourceArgs, Duration),
    (mut look, mut rest): (Look, Vec<Plan>),
    stop: &watch::Receiver<bool>,
    listen: &Mutex<impl FnMut(schedule::Event<'_>) + Send>,
) -> anyhow::Result<Applied> {
    let (mut done, mut failed) = (Vec::new(), BTreeMap::new());
    loop {
        let shown = look.plan.steps.iter().chain(rest.iter().flat_map(|plan| &plan.steps));
        let authority = Authority::new(&saved::identities(shown));
        let mut applied = reconcile::settle(desired, fleet, look, Some(&authority), patience, stop, listen).await;
        done.append(&mut applied.done);
        failed.append(&mut applied.failed);
        let mut agreed = false;
        if applied.beyond.take().is_some() {
            let Look { live, plan } = &applied.look;
            rest = crate::plan::rest(desired, live, plan);
            let text = source.with_options(&show::text(&View { desired, live, plan, rest: &rest }), &plan.revision);
            out::print(format_args!("This came up meanwhile:\n\n{}", coloured(&text)))?;
            agreed = confirm::confirm("Apply this too?", false)?;
        }
        if !agreed {
            return Ok(Applied { done, failed, ..applied });
        }
        look = applied.look;
    }
}

/// What a saved plan allows, if what it was made from has not moved.
fn authority(saved: &Saved, loaded: &Loaded, plan: &Plan, path: &Path) -> Option<Authority> {
    let stale = |what: &str| {
        out::complain(format_args!("error: {} is stale: {what}; plan again\n", path.display()));
        None
    };
    if saved.revision != loaded.desired.revision || saved.fleet != loaded.desired.fleet.as_str() {
        return stale(&format!("what is declared moved from revision {} to {}", saved.revision, loaded.desired.revision));
    }
    if saved.steps != saved::identities(plan.steps.iter()) {
        return stale("the nodes changed since it was made");
    }
    let all: Vec<_> = saved.steps.iter().chain(&saved.then).cloned().collect();
    Some(Authority::new(&all))
}

/// Turns true at the first Ctrl-C, SIGTERM or end of the terminal; a second one ends the process at once.
fn stop_on_signal() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let mut asked = false;
        loop {
            if !signalled().await {
                return;
            }
            if asked {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "asked twice to stop: what is under way is found again by the next look"
                )]
                std::process::exit(130);
            }
            asked = true;
            out::complain("finishing the steps under way; again to stop at once (applying again completes what is left)\n");
            if sender.send(true).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn signalled() -> bool {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, hangup) = (signal(SignalKind::terminate()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut hangup)) = (terminate, hangup) else { return false };
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.is_ok(),
        received = terminate.recv() => received.is_some(),
        received = hangup.recv() => received.is_some(),
    }
}

fn close(applied: &Applied, source: &SourceArgs, args: &ApplyArgs) {
    let plan = &applied.look.plan;
    if args.json {
        let failed = applied.failed.values().map(
            |(step, outcome)| json!({ "step": show::identity(step), "outcome": outcome.kind(), "message": outcome.message() }),
        );
        out::tell(json!({
            "event": "finished", "done": applied.done.len(), "failed": failed.collect::<Vec<_>>(),
            "left": plan.steps.len(), "interrupted": applied.interrupted, "stalled": applied.stalled, "settled": plan.is_settled(),
            "moves": plan.moves,
            "held": plan.held.iter().map(|held| json!({
                "instance": held.instance, "what": held.what, "message": show::held_reason(&held.reason),
            })).collect::<Vec<_>>(),
        }));
        return;
    }
    for (step, outcome) in applied.failed.values() {
        out::tell(out::printable(&format!("! {}: {outcome}", step_line(step))));
    }
    if let Some(step) = &applied.beyond {
        out::tell(format_args!("! what was agreed to does not allow: {}", step_line(step)));
    }
    for held in &plan.held {
        let line = format!("! instance {}: {}: {}", held.instance, held.what, show::held_reason(&held.reason));
        out::tell(out::printable(&source.with_options(&line, &plan.revision)));
    }
    for (node, why) in &plan.unseen {
        out::tell(format_args!("! node {node}: {why}"));
    }
    for it in &plan.moves {
        show::move_lines(it).iter().for_each(|line| out::tell(out::printable(&format!("  {line}"))));
    }
    if applied.stalled {
        let patience = show_duration(args.patience);
        out::tell(format_args!(
            "! nothing came nearer to its end for {patience} (--patience): what is left waits; applying again goes on"
        ));
    }
    let left = plan.steps.iter().filter(|step| step.subject != Subject::Fleet).count();
    let stopped = if applied.interrupted { " Stopped; applying again completes it." } else { "" };
    out::tell(format_args!(
        "Applied: {} done, {} failed, {left} left, {} held.{stopped}",
        applied.done.len(),
        applied.failed.len(),
        plan.held.len()
    ));
}

fn exit(applied: &Applied) -> Exit {
    if applied.beyond.is_some() {
        Exit::Stale
    } else if !applied.failed.is_empty() || applied.interrupted || applied.stalled {
        Exit::Error
    } else {
        end_of(&applied.look.plan)
    }
}

/// The end when nothing (more) can be done.
fn end_of(plan: &Plan) -> Exit {
    if plan.is_settled() {
        Exit::Ok
    } else if plan::unseen(plan) {
        Exit::Unseen
    } else {
        Exit::Error
    }
}
