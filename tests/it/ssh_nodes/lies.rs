//! An agent that speaks the protocol well and lies: about its facts, about what it did, about who it is. Its controller stays
//! within bounds, and other nodes get their due and nothing else.

use std::env;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use valkeeper::fleet::{Look, local::Local};
use valkeeper::host::tell::Tell;
use valkeeper::model::live::{Member, SetAside};
use valkeeper::model::name::{FleetName, NodeName};
use valkeeper::model::outcome::Outcome;
use valkeeper::model::record::{FleetRecord, Seat};
use valkeeper::observe::LocalNode;
use valkeeper::wire::{self, Answered, Asked, Chunk, Hello, Reply, Request, Turn};

use super::Hosts;
use crate::site::{Ran, finish};
use crate::support::{name, surroundings};

/// What the controller may take of memory, in bytes: a reply has at most 32 MiB, and as facts it is some times that.
const MEMORY_MAX: u64 = 1 << 30;

/// Not a test: what runs on the node that lies. `LIE` names the lie, `FOLDER` is where the truth would be.
#[tokio::test]
#[ignore = "an agent for the tests of this file"]
async fn the_liar() {
    let (Ok(lie), Ok(folder)) = (env::var("LIE"), env::var("FOLDER")) else { return };
    let local = Local::new(LocalNode::new(folder.as_ref(), surroundings()).unwrap());
    let mut out = tokio::io::stdout();
    wire::greet(&mut out).await.unwrap();
    let mut from = wire::incoming(tokio::io::stdin(), wire::REQUEST_BYTES_MAX);
    let mut to = wire::outgoing(out);
    wire::send(&mut to, wire::encode(&Hello::of_this_release()).unwrap()).await.unwrap();
    let _theirs: Hello = wire::receive(&mut from).await.unwrap();
    while let Ok(Asked { id, request }) = wire::receive(&mut from).await {
        let reply = match request {
            Request::Observe { .. } if lie == "drip" => {
                let mut out = to.into_inner();
                out.write_all(&u32::try_from(wire::REPLY_BYTES_MAX).unwrap().to_be_bytes()).await.unwrap();
                loop {
                    // A little less than would be a flood, and never an end.
                    out.write_all(&[b' '; 4096]).await.unwrap();
                    out.flush().await.unwrap();
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Request::Observe { .. } => observed(&lie, local.look().await.unwrap()),
            Request::Acquire { holder } if lie == "pieces" => Reply::Turn(local.acquire(&holder).await),
            Request::Perform { step, fleet } if lie == "pieces" => {
                Reply::Performed(local.perform(&step, fleet.as_ref(), &Tell::nobody()).await)
            }
            Request::Acquire { .. } => Reply::Turn(Turn::Taken),
            Request::Release => Reply::Released,
            Request::Prepare | Request::Leave { .. } => Reply::Done(Ok(())),
            Request::Perform { .. } if lie == "other-reply" => Reply::Released,
            Request::Position { instance } => Reply::Position(local.position(&instance).await),
            Request::TryWay { .. } => Reply::Tried(Err("a lie ".repeat(1000))),
            Request::Perform { .. } => Reply::Performed(Outcome::Done),
            // Nothing is as long as it says, and all of it arrived.
            Request::Piece { .. } => Reply::Piece(Ok(Chunk(Vec::new()))),
            Request::Arrived { .. } | Request::Store { .. } => Reply::Arrived(Ok(u64::MAX)),
            Request::Beat => continue,
        };
        let id = if lie == "other-id" { id + 1 } else { id };
        wire::send(&mut to, wire::encode(&Answered { id, reply }).unwrap()).await.unwrap();
    }
}

fn observed(lie: &str, look: Look) -> Reply {
    let Look { mut facts, binary } = look;
    let mut binary = Some(Box::new((*binary).clone()));
    let fleet = FleetName::new("prod").unwrap();
    let mut record = FleetRecord::new(fleet.clone());
    match lie {
        "generation" | "empty-record" => {
            record.generation = if lie == "generation" { u64::MAX } else { 1 << 40 };
            facts.records.insert(fleet, Arc::new(record));
        }
        "roster" => {
            // It has everything, the node next door is another machine, and all deletions are approved.
            record.generation = 1 << 40;
            let node = NodeName::new("n2").unwrap();
            let seat = Seat { uid: "../../../../etc".to_owned(), nodes: vec![node], port: 1, ports: Default::default() };
            record.roster.insert(name("one"), seat);
            facts.records.insert(fleet, Arc::new(record));
        }
        "members" => {
            let unmarked = Arc::new(Member::Unmarked { unmarked: String::new() });
            facts.members = (0..100_000).map(|number| (name(&format!("m{number}")), Arc::clone(&unmarked))).collect();
        }
        "set-aside" => {
            let kept = SetAside {
                instance: name("one"),
                fleet,
                uid: "../../../../../etc".to_owned(),
                deleted_at: facts.observed_at,
                bytes: u64::MAX,
                followed: false,
            };
            facts.set_aside = vec![kept; 100_000];
        }
        "clock" => facts.observed_at = jiff::Timestamp::MAX,
        "binary" => {
            if let Some(binary) = &mut binary {
                binary.settings.clear();
                binary.aliases.clear();
            }
        }
        "no-binary" => binary = None,
        _ => {}
    }
    Reply::Observed { facts: Box::new(facts), binary, same: Default::default() }
}

/// Both nodes work; then the second one lies, while a setting of the first one is changed.
fn beside(lie: &str) -> (Hosts, Ran) {
    let hosts = Hosts::new();
    let tables = |timeout: u32| {
        format!("[instances.one]\nshard = \"a\"\nconfig = {{ timeout = {timeout} }}\n[instances.two]\nshard = \"b\"\n")
    };
    hosts.declare("", &tables(1));
    hosts.apply().expect(0);
    let pid = hosts.pid("n1", "one");
    let (folder, program) = (hosts.site.path("n2"), env::current_exe().unwrap());
    let liar = format!(
        "LIE={lie} FOLDER={} exec {} --ignored --exact --nocapture ssh_nodes::lies::the_liar",
        folder.display(),
        program.display()
    );
    hosts.lets_in("n2", &liar);
    hosts.declare("", &tables(2));
    let since = Instant::now();
    let apply = hosts.command(&["apply", "--yes"]);
    let bounded = std::process::Command::new("prlimit")
        .arg(format!("--data={MEMORY_MAX}"))
        .arg(apply.get_program())
        .args(apply.get_args())
        .envs(apply.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(hosts.site.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let ran = finish(bounded.unwrap());
    assert!(since.elapsed() < Duration::from_secs(60), "{lie}: {:?}", since.elapsed());
    assert!(ran.code.is_some(), "{lie}: it was ended by a signal\n{}", ran.all());
    assert!(!ran.err.contains("panicked"), "{lie}: {}", ran.err);
    assert_eq!(hosts.pid("n1", "one"), pid, "{lie}: the server next door runs on\n{}", ran.all());
    (hosts, ran)
}

/// What the lie is about is its own node's trouble.
fn leaves_the_other_node_its_due(lie: &str) -> Ran {
    let (hosts, ran) = beside(lie);
    let config = std::fs::read_to_string(hosts.state("n1", "config/one.conf")).unwrap();
    assert!(config.contains("timeout 2"), "{lie}: {}", ran.all());
    ran
}

#[test]
fn a_node_that_lies_about_itself_keeps_no_other_from_its_due() {
    leaves_the_other_node_its_due("members");
    leaves_the_other_node_its_due("set-aside");
    leaves_the_other_node_its_due("clock");
    leaves_the_other_node_its_due("no-binary").expect(4).says("did not describe");
}

#[test]
fn a_node_that_answers_wrongly_keeps_no_other_from_its_due() {
    leaves_the_other_node_its_due("other-id").expect(4).says("answers what nobody asked");
    leaves_the_other_node_its_due("other-reply");
    leaves_the_other_node_its_due("drip").expect(4).says("did not answer within 10 s");
}

/// An apply changes nothing where a declaration is refused, so a node that knows no settings holds it up.
#[test]
fn a_node_that_lies_about_its_server_touches_no_other() {
    beside("binary").1.expect(1).says("has no such setting");
}

/// The record is the fleet's, so a lie about it can hold things up; it never destroys anything.
#[test]
fn a_node_that_lies_about_the_fleet_touches_no_other() {
    leaves_the_other_node_its_due("generation").expect(4).says("beyond what a fleet can reach");
    beside("empty-record").1.says("times in a row");
    beside("roster");
}
