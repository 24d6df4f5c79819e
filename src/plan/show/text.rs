//! The plan as text, in Terraform's symbols and wording where it has any; readable without colour.

use super::{Verb, View, by_subject, diff, moves, summary, words};
use crate::model::action::{Action, Creation, Opening, UserChange};
use crate::model::binary::BinaryFacts;
use crate::model::change::{Half, Twin};
use crate::model::desired::{Desired, Reach};
use crate::model::live::{Live, Server};
use crate::model::marker::Marker;
use crate::model::name::InstanceName;
use crate::model::plan::{Cause, Step, Subject};
use crate::model::size::show_duration;

/// Renders a plan. The last line is [`super::summary`].
pub fn text(view: &View<'_>) -> String {
    let mut out = Page::default();
    let View { desired, live: _, plan, rest } = view;
    let groups = by_subject(plan);
    let instances = groups.iter().filter_map(|(subject, steps)| match subject {
        Subject::Instance(name) => Some((name, steps)),
        Subject::Fleet => None,
    });
    for (name, steps) in instances {
        let verb = Verb::of(plan, name, steps);
        out.line(1, &format!("{} instance {name}{}", verb.sign(), place(desired, name, steps)));
        let is_spread = steps.iter().any(|step| steps.first().is_some_and(|first| first.node != step.node));
        let mut on = None;
        for step in steps {
            if is_spread && on != Some(&step.node) {
                on = Some(&step.node);
                out.line(2, &format!("on node {}:", step.node));
            }
            show_step(&mut out, step, view);
        }
        out.blank();
    }
    records(&mut out, &groups);
    section(&mut out, "Not seen:", plan.unseen.iter().map(|(node, why)| format!("! node {node}: {why}")));
    section(&mut out, "Moves:", plan.moves.iter().flat_map(moves::lines));
    held_back(&mut out, view);
    section(&mut out, "Notes:", plan.notes.iter().map(|note| format!(". {}", words::note(note))));
    let then = rest.iter().enumerate().flat_map(|(pass, later)| {
        later
            .steps
            .iter()
            .filter(|step| step.subject != Subject::Fleet)
            .map(move |step| format!("{}. {}", pass + 1, step_line(step)))
    });
    section(&mut out, "Then, once that is done:", then);
    out.line(0, &summary(plan));
    out.text
}

/// A step in one line, for progress and for what follows later.
pub fn step_line(step: &Step) -> String {
    let (node, what) = (&step.node, step.action.imperative());
    match &step.subject {
        Subject::Instance(name) => format!("{name}: {what} (node {node})"),
        Subject::Fleet => format!("{what} on node {node}"),
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, depth: usize, line: &str) {
        self.text.push_str(&"  ".repeat(depth));
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }
}

fn section(out: &mut Page, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return;
    }
    out.line(0, title);
    lines.for_each(|line| out.line(1, &line));
    out.blank();
}

/// What is held, why, and what it would do: a reviewer approves that.
fn held_back(out: &mut Page, view: &View<'_>) {
    let plan = view.plan;
    if plan.held.is_empty() {
        return;
    }
    out.line(0, "Held back:");
    for held in &plan.held {
        out.line(1, &format!("! instance {}: {}: {}", held.instance, held.what, words::held_reason(&held.reason)));
        for step in held.withheld.iter().filter(|step| step.cause != Cause::Bookkeeping) {
            show_step(out, step, view);
        }
    }
    out.blank();
}

fn records(out: &mut Page, groups: &std::collections::BTreeMap<&Subject, Vec<&Step>>) {
    let steps = groups.get(&Subject::Fleet).map_or(0, Vec::len);
    if steps > 0 {
        out.line(
            1,
            &format!(". the fleet's own record is brought up to date on {steps} node{}", if steps == 1 { "" } else { "s" }),
        );
        out.blank();
    }
}

fn place(desired: &Desired, name: &InstanceName, steps: &[&Step]) -> String {
    let mut parts = Vec::new();
    if let Some(instance) = desired.instances.get(name) {
        parts.extend(instance.tenant.iter().map(|tenant| format!("tenant {tenant}")));
        parts.push(format!("shard {}", instance.shard));
    }
    let nodes: std::collections::BTreeSet<&str> = steps.iter().map(|step| step.node.as_str()).collect();
    let nodes: Vec<&str> = nodes.into_iter().collect();
    parts.push(format!("{} {}", if nodes.len() == 1 { "node" } else { "nodes" }, nodes.join(", ")));
    format!(" ({})", parts.join(", "))
}

fn show_step(out: &mut Page, step: &Step, view: &View<'_>) {
    let View { desired, live, plan, rest: _ } = view;
    let stays = matches!(&step.subject, Subject::Instance(name) if plan.stays.contains(name));
    let binary = live.seen(&step.node).map(|(_, binary)| binary);
    let cause = words::cause(step.cause);
    let costs = words::costs(step);
    let tail = if costs.is_empty() { format!("[{cause}]") } else { format!("[{cause}; {costs}]") };
    match &step.action {
        Action::WriteRecord(_) => {}
        Action::CreateInstance(creation) => create(out, creation, desired, step, binary),
        Action::StartInstance(opening) => open(out, "start the server, which is down", &tail, opening, step, live),
        Action::UpgradeInstance(upgrade) => open(out, &words::upgrade(upgrade), &tail, &upgrade.opening, step, live),
        Action::RepairUnit { why } => out.line(3, &format!("~ its systemd unit is put right: {why} {tail}")),
        Action::RepairCredential { why } => {
            out.line(3, &format!("~ the file of its replication password is put right: {why} {tail}"));
        }
        Action::ReopenInstance(opening) => open(out, "let valkeeper's own user in again", &tail, opening, step, live),
        Action::ChangeInstance(change) => {
            out.line(3, &format!("~ settings {tail}"));
            if let Some(why) = diff::file_gone(change) {
                out.line(5, &format!("~ its config file is written anew: {why}"));
            }
            for line in diff::settings(change, &|name| step.drifted.contains(name), binary) {
                let drift = if line.drift && step.cause != Cause::Drift { " (drift)" } else { "" };
                let place = if line.place.is_empty() { String::new() } else { format!(" {}", line.place) };
                out.line(5, &format!("~ {}: {} -> {}{place}{drift}", line.name, line.before, line.after));
            }
        }
        Action::ChangeRole(_) | Action::CutOver(_) | Action::Ship(_) => {
            out.line(3, &format!("~ the server on node {}: {} {tail}", step.node, step.action.imperative()));
        }
        Action::SetUser(change) => {
            let new = change.change.before().memory.is_absent();
            let by_hand = if meddled_with(step, change, live) { " (drift too: somebody changed it by hand)" } else { "" };
            out.line(3, &format!("{} user {} {tail}{by_hand}", if new { '+' } else { '~' }, change.user));
            diff::user(change.change.before(), &change.wanted.user).iter().for_each(|line| out.line(5, line));
            if let Some(taken) = diff::taken(change.change.before(), &change.wanted.user, binary) {
                out.line(5, &format!("! takes away {taken}"));
            }
        }
        Action::RemoveUser { user, before: _ } => out.line(3, &format!("- user {user} {tail}")),
        Action::SaveUsers { wrong, why } => {
            let names: Vec<&str> = wrong.iter().map(crate::model::name::UserName::as_str).collect();
            let why = why.clone().unwrap_or_else(|| format!("it differs from memory for {}", names.join(", ")));
            out.line(3, &format!("~ the ACL file is written anew: {why} {tail}"));
        }
        Action::Mark(change) => mark(out, change.before(), change.after(), &tail),
        Action::DeleteInstance { uid: _ } => {
            let what = if stays { "this member; the instance stays" } else { "everything" };
            out.line(3, &format!("- {what} {tail}"));
            out.line(5, &format!("its data is set aside for {}", show_duration(desired.guard.retain_deleted)));
        }
        Action::Purge { uid } => {
            out.line(3, &format!("- the data set aside as {uid} {tail}"));
            out.line(5, &format!("it is older than {} (guard.retain_deleted)", show_duration(desired.guard.retain_deleted)));
        }
        Action::Restore { uid } => out.line(3, &format!("+ the data set aside as {uid} {tail}")),
    }
}

/// Did somebody change or remove the user of whom something else is asked now?
fn meddled_with(step: &Step, change: &UserChange, live: &Live) -> bool {
    let Subject::Instance(name) = &step.subject else { return false };
    let member = live.seen(&step.node).and_then(|(facts, _)| facts.member(name));
    let applied = member.and_then(|member| member.marker.applied.users.get(&change.user));
    step.cause == Cause::Requested && applied.is_some_and(|applied| change.change.before().memory.seen() != Some(applied))
}

fn create(out: &mut Page, creation: &Creation, desired: &Desired, step: &Step, binary: Option<&BinaryFacts>) {
    let reach = desired.nodes.get(&step.node).map(|node| match &node.reach {
        Reach::Local(folder) => format!("in {folder}"),
        Reach::Ssh(to) => format!("at {to}"),
    });
    out.line(3, &format!("+ server {} [{}]", reach.unwrap_or_default(), words::cause(step.cause)));
    step.costs.iter().for_each(|cost| out.line(5, &format!("! {}", words::cost(cost))));
    if creation.protect {
        out.line(5, "+ protected from deletion");
    }
    for (name, value) in &creation.spec.settings {
        out.line(5, &format!("+ {name}: {}", diff::value(name, value, binary)));
    }
    for (name, wanted) in &creation.users {
        out.line(3, &format!("+ user {name}"));
        diff::user(&Default::default(), &wanted.user).iter().for_each(|line| out.line(5, line));
    }
}

/// A start from files that are brought up to date first; what that changes is told as for a running server.
fn open(out: &mut Page, what: &str, tail: &str, opening: &Opening, step: &Step, live: &Live) {
    out.line(3, &format!("~ {what} {tail}"));
    let Subject::Instance(name) = &step.subject else { return };
    let Some((facts, binary)) = live.seen(&step.node) else { return };
    let Some(member) = facts.member(name) else { return };
    if let Some(why) = why_not_open(&member.server) {
        out.line(5, &format!("! {why}"));
    }
    if opening.before != opening.after {
        out.line(5, "~ its config file is written anew first");
        diff::opening(opening, Some(binary)).iter().for_each(|line| out.line(6, line));
    }
    if let Some(why) = &member.unit_broken {
        out.line(5, &format!("~ its systemd unit is put right first: {why}"));
    }
    if let Some(why) = &member.credential_broken {
        out.line(5, &format!("~ the file of its replication password is put right first: {why}"));
    }
    let Some(users) = &opening.users else { return };
    let broken = member.acl_file_broken.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    out.line(5, &format!("~ its ACL file is written anew first{broken}"));
    for (user, wanted) in users {
        let found = member.users.get(user).map(|twin| twin.disk.clone()).unwrap_or_default();
        let lines = match found.seen() {
            Some(disk) if *disk == wanted.user => continue,
            Some(_) | None => diff::user(&Twin { disk: found.clone(), memory: Half::Absent }, &wanted.user),
        };
        out.line(6, &format!("{} user {user}", if found.is_absent() { '+' } else { '~' }));
        lines.iter().for_each(|line| out.line(8, line));
    }
    for user in &opening.without {
        out.line(6, &format!("- user {user}"));
    }
}

fn why_not_open(server: &Server) -> Option<&str> {
    match server {
        Server::Down { why } => why.as_deref(),
        Server::Locked { pid: _, why } | Server::Silent { pid: _, why } => Some(why),
        Server::Up(_) => None,
    }
}

fn mark(out: &mut Page, before: &Marker, after: &Marker, tail: &str) {
    if before.tenant != after.tenant {
        let shown = |marker: &Marker| marker.tenant.as_ref().map_or("none".to_owned(), ToString::to_string);
        out.line(3, &format!("~ tenant: {} -> {} [requested; no server is touched]", shown(before), shown(after)));
    }
    if before.protect != after.protect {
        out.line(3, &format!("~ protect: {} -> {} [requested; no server is touched]", before.protect, after.protect));
    }
    if before.stage != after.stage {
        out.line(3, &format!(". its marker says {} and not {} any more [bookkeeping]", after.stage.word(), before.stage.word()));
    }
    match (before.retiring, after.retiring) {
        (None, Some(since)) => out.line(3, &format!(". its time to leave begins {since} [bookkeeping]")),
        (Some(_), None) => out.line(3, ". it stays [bookkeeping]"),
        (None, None) | (Some(_), Some(_)) => {}
    }
    if before.disturbed.is_some() && after.disturbed.is_none() {
        out.line(3, ". it is back at work [bookkeeping]");
    }
    if before.owes_farewell && !after.owes_farewell {
        out.line(3, ". its clients' connections are closed: it follows another member, and they were not told [bookkeeping]");
    }
    if before.snapshot.is_some() && after.snapshot.is_none() {
        out.line(3, ". its snapshot is of no use any more [bookkeeping]");
    }
    if after.is_vessel() && !before.is_vessel() {
        out.line(3, ". what it holds gives way to the snapshot that is to come [bookkeeping]");
    }
    if before.applied != after.applied {
        out.line(3, &format!(". what was applied is noted in the marker {tail}"));
    }
}
