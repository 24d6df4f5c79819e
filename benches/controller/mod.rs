//! A controller with up to 1,000 nodes: the real `Nodes`, its sessions, and a child process with the real
//! wire for each. In place of `ssh` these children are agents that say what was written down for them; a host behind a
//! real `ssh` costs this and one `ssh`.
//!
//! The program is its own controller and its own agents (`is_a_part`), so that the figures are of the controller alone.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{stdin, stdout};
use tokio::runtime::{Builder, Runtime};
use valkeeper::fleet::Observe as _;
use valkeeper::fleet::nodes::{Means, Nodes, Place};
use valkeeper::host::ssh::Ssh;
use valkeeper::model::live::{Live, NodeFacts, Observed};
use valkeeper::model::name::NodeName;
use valkeeper::observe::{Limits, Surroundings};
use valkeeper::plan::plan;
use valkeeper::wire::{self, Asked, Hello, Request};

use crate::settled;
use crate::support::{median, timed};

/// Nodes, and instances on each. What a node says grows with the whole fleet, because each has the fleet's record.
const FLEETS: [(usize, usize); 4] = [(100, 10), (300, 10), (1_000, 1), (1_000, 10)];
const ROUNDS: usize = 5;
/// How this program is told to be a controller, or an agent, and where the facts are.
const CONTROLLER: &str = "--as-controller";
const AGENT: &str = "--as-agent";
/// `USER_HZ`, as in `benches/daemon.rs`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Is this process one that [`measure`] started? It is done then.
pub fn is_a_part() -> bool {
    let words: Vec<String> = env::args().collect();
    match words.get(1).map(String::as_str) {
        Some(CONTROLLER) => {
            control(Path::new(&words[2]), words[3].parse().expect("a number"), words[4].parse().expect("a number"));
        }
        Some(AGENT) => {
            let host = words.iter().skip_while(|word| *word != "--").nth(1).expect("a host");
            Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(agent(Path::new(&words[2]), host));
        }
        Some(_) | None => return false,
    }
    true
}

/// Fleets of growing size, each with a controller of its own.
pub fn measure() {
    for (nodes, each) in FLEETS {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), nodes, each);
        let program = env::current_exe().expect("this program");
        let mut controller = Command::new(program);
        controller.arg(CONTROLLER).arg(folder.path()).args([nodes.to_string(), each.to_string()]);
        let ended = controller.status().expect("a controller");
        assert!(ended.success(), "the controller ended with {ended}");
    }
}

/// What each node shows, as its agent will say it, and what stands in for ssh.
fn write(folder: &Path, nodes: usize, each: usize) {
    let desired = settled::wanted(nodes * each, each);
    let binary = settled::binary();
    let live = settled::shown(&desired, &binary);
    let mut bytes = 0;
    for (name, node) in &live.nodes {
        let Observed::Seen(facts) = node else { panic!("{name} is unseen") };
        let text = serde_json::to_string(facts).expect("facts");
        bytes += text.len();
        fs::write(folder.join(format!("{name}.json")), text).expect("a file");
    }
    let text = serde_json::to_string(&binary).expect("facts");
    println!(
        "{nodes} nodes of {each} instances: the facts of a node are {} KiB, of its binary {} KiB",
        bytes / nodes / 1024,
        text.len() / 1024
    );
    fs::write(folder.join("binary"), text).expect("a file");
    let program = env::current_exe().expect("this program");
    let script = format!("#!/bin/sh\nexec {} {AGENT} {} \"$@\"\n", program.display(), folder.display());
    let ssh = folder.join("ssh");
    fs::write(&ssh, script).expect("a file");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("a program");
}

fn control(folder: &Path, nodes: usize, instances: usize) {
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard }).expect("files");
    let desired = settled::wanted(nodes * instances, instances);
    let places: BTreeMap<NodeName, Place> =
        desired.nodes.keys().map(|name| (name.clone(), Place::Ssh(name.to_string()))).collect();
    let means = Means {
        surroundings: Surroundings::of_this_process(Limits::default()),
        ssh: Ssh::new(Some(folder.join("ssh").into_os_string())),
    };
    let runtime = Runtime::new().expect("a runtime");
    let before = Spent::now();
    let fleet = Nodes::new(&places, &means);
    let (live, took) = timed(|| runtime.block_on(fleet.observe()));
    if let Some(unseen) = first_unseen(&live) {
        let (seen, most) = (live.seen_nodes().count(), Spent::now().peak_kib / 1024);
        println!(
            "  BEYOND THE LIMIT: {seen} of them are seen at the first look, in {:.1} s and {most} MiB; the others: {unseen}",
            took.as_secs_f64()
        );
        return;
    }
    drop(live);
    let first = Spent::now();
    println!("  a first look, with {nodes} new connections: {:.2} s", took.as_secs_f64());
    let (mut looks, mut passes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (live, look) = timed(|| runtime.block_on(fleet.observe()));
        let (made, pure) = timed(|| plan(&desired, &live));
        assert!(made.steps.is_empty() && made.unseen.is_empty() && made.held.is_empty(), "there is nothing to do");
        looks.push(look);
        passes.push(look + pure);
    }
    let after = Spent::now();
    let (look, pass) = (median(&looks).as_secs_f64(), median(&passes).as_secs_f64());
    let cpu = (after.seconds - first.seconds) / (ROUNDS as f64 * nodes as f64);
    let each = |kib: u64| kib.saturating_sub(before.resident_kib) / nodes as u64;
    println!(
        "  a look: {look:.3} s; a look and a plan: {pass:.3} s, {:.2} ms of the controller's processor time for a node; \
         its memory for a node: {} KiB after the first look, {} KiB after {ROUNDS} more, {} KiB at most; {} files",
        cpu * 1000.0,
        each(first.resident_kib),
        each(after.resident_kib),
        each(after.peak_kib),
        fs::read_dir("/proc/self/fd").expect("files").count()
    );
}

fn first_unseen(live: &Live) -> Option<&String> {
    live.nodes.values().find_map(|node| match node {
        Observed::Unseen { unseen } => Some(unseen),
        Observed::Seen(_) => None,
    })
}

/// What this process has used until now.
struct Spent {
    resident_kib: u64,
    peak_kib: u64,
    seconds: f64,
}

impl Spent {
    fn now() -> Self {
        let status = fs::read_to_string("/proc/self/status").expect("this process");
        let kib = |key: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(key)).expect("its memory");
            value.trim_start_matches(':').trim().trim_end_matches(" kB").parse().expect("a number")
        };
        // Fields 14 and 15 (proc(5)): its own time and the kernel's for it, without its children's.
        let stat = fs::read_to_string("/proc/self/stat").expect("this process");
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks: f64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().expect("a number")).sum();
        Self { resident_kib: kib("VmRSS"), peak_kib: kib("VmHWM"), seconds: ticks / TICKS_PER_SECOND }
    }
}

/// Says over the real wire what was written down.
async fn agent(folder: &Path, host: &str) {
    let facts = fs::read_to_string(folder.join(format!("{host}.json"))).expect("its facts");
    let mut to = stdout();
    wire::greet(&mut to).await.expect("a controller");
    let (mut reader, mut writer) = (wire::incoming(stdin(), wire::REQUEST_BYTES_MAX), wire::outgoing(to));
    wire::send(&mut writer, wire::encode(&Hello::of_this_release()).expect("a message")).await.expect("a controller");
    let _theirs: Hello = wire::receive(&mut reader).await.expect("a greeting");
    // What it leaves out once the controller has it, as the real agent does.
    let mut without: NodeFacts = serde_json::from_str(&facts).expect("facts");
    let prints: BTreeMap<_, _> = without.records.iter().map(|(fleet, record)| (fleet.clone(), wire::print_of(record))).collect();
    without.records.clear();
    let without = serde_json::to_string(&without).expect("facts");
    let names = serde_json::to_string(&prints.keys().collect::<Vec<_>>()).expect("names");
    while let Ok(Asked { id, request }) = wire::receive(&mut reader).await {
        let Request::Observe { known, records } = request else { continue };
        let (facts, same) = if records == prints { (&without, names.as_str()) } else { (&facts, "[]") };
        let binary = if known.is_empty() { fs::read_to_string(folder.join("binary")).expect("facts") } else { "null".to_owned() };
        let reply =
            format!("{{\"id\":{id},\"reply\":{{\"observed\":{{\"facts\":{facts},\"binary\":{binary},\"same\":{same}}}}}}}");
        if wire::send(&mut writer, reply.into_bytes()).await.is_err() {
            return;
        }
    }
}
