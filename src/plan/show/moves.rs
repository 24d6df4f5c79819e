//! Moves in words: a block for each, the same in plan and status.

use std::time::Duration;

use crate::model::moves::{Act, Amount, Flow, Move, MoveStage, Pace, Progress, Remaining, Site, Unit};
use crate::model::name::NodeName;
use crate::model::size::{show_duration, show_size};

/// The script, a stage a line, with what is known of the present one.
pub fn lines(it: &Move) -> Vec<String> {
    let mut lines = vec![head(it)];
    for act in &it.script {
        let Act { stage, nodes, progress } = act;
        let arrow = if matches!(stage, MoveStage::Carry | MoveStage::CutOver) { " -> " } else { ", " };
        let nodes = nodes.iter().map(NodeName::as_str).collect::<Vec<_>>().join(arrow);
        let mut more = if *progress == Progress::Now { present(it) } else { String::new() };
        // Why is told once, among all that is held.
        if *progress == Progress::Now && *stage != MoveStage::Leave && it.waits_for.is_some() {
            more.push_str(" (held)");
        }
        lines.push(format!("  {:7}  {:8}  {nodes}{more}", progress.word(), stage.word()).trim_end().to_owned());
    }
    lines.extend(it.remaining.iter().map(remaining));
    lines
}

/// The present stage in one line, for progress; nothing where the script is through.
pub fn progress(it: &Move) -> Option<String> {
    let act = it.now()?;
    let waits = it.waits_for.iter().map(|wait| format!("; {}", wait.why)).collect::<String>();
    Some(format!("{}: {}{}{waits}", it.instance, act.stage.word(), present(it)))
}

fn head(it: &Move) -> String {
    match (&it.from, &it.to) {
        (Some(from), Some(to)) => format!("instance {}: from {} to {}", it.instance, site(from), site(to)),
        (Some(_) | None, _) => format!("instance {}", it.instance),
    }
}

fn site(site: &Site) -> String {
    match &site.address {
        Some(address) => format!("node {} ({address})", site.node),
        None => format!("node {}", site.node),
    }
}

fn present(it: &Move) -> String {
    let amount = it.amount.iter().map(amount);
    let unit = it.amount.as_ref().map_or(Unit::Bytes, |amount| amount.of.unit());
    let pace = it.pace.iter().flat_map(|it| pace(it, unit));
    let parts: Vec<String> = amount.chain(pace).collect();
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) }
}

fn amount(amount: &Amount) -> String {
    let Amount { node, of, done, total } = amount;
    match of {
        Flow::Dataset => format!("{} of {} on {node}", show_size(*done), show_size(*total)),
        Flow::DatasetOfUnknownSize => format!("{} of at most {} on {node}", show_size(*done), show_size(*total)),
        Flow::Stream => match amount.left() {
            0 => format!("{node} has all {total} B of the stream"),
            left => format!("{node} is at {done} of {total} B of the stream, {} behind", show_size(left)),
        },
        Flow::Keys => format!("{done} of {total} keys of {node} written"),
    }
}

fn pace(pace: &Pace, unit: Unit) -> Vec<String> {
    let Pace { seconds_in_stage, attempt, per_second, seconds_left } = *pace;
    let lasts = |seconds: u64| show_duration(Duration::from_secs(seconds));
    let mut parts = Vec::new();
    parts.extend(per_second.map(|much| match unit {
        Unit::Bytes => format!("{}/s", show_size(much)),
        Unit::Keys => format!("{much} keys/s"),
    }));
    parts.extend(seconds_left.map(|seconds| format!("{} left", lasts(seconds))));
    parts.extend((seconds_in_stage > 0).then(|| format!("for {}", lasts(seconds_in_stage))));
    parts.extend((attempt > 1).then(|| format!("attempt {attempt}")));
    parts
}

fn remaining(remaining: &Remaining) -> String {
    let Remaining { node, address, answers, connections, until } = remaining;
    let plural = if *connections == 1 { "" } else { "s" };
    let until = until.map(|until| format!(" until {until:.0}")).unwrap_or_default();
    format!("  {connections} connection{plural} left at {address} (node {node}), which answers {answers}{until}")
}
