//! A fleet: three hosts with 60 instances against floors and against an Ansible playbook that does the same work, and a
//! controller with 1,000 nodes. Prints figures and ratios; asserts no time.
//!
//! The hosts are those of `tests/fleet/`, which need root; where they cannot be booted that is said, and the controller is
//! measured all the same. `cargo bench --bench fleet -- hosts` leaves the controller out, and `moves` takes the moves between two hosts alone. `ANSIBLE_PLAYBOOK` names the `ansible-playbook` to use; nothing: the one of `PATH`.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock, starts programs, and fails loudly"
)]

mod ansible;
#[expect(dead_code, reason = "shared with tests/fleet, which uses more of it")]
#[path = "../tests/fleet/base.rs"]
mod base;
#[path = "../tests/fleet/cgroup.rs"]
mod cgroup;
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/it/client.rs"]
mod client;
mod control;
mod controller;
#[expect(dead_code, reason = "shared with tests/fleet, which uses more of it")]
#[path = "../tests/fleet/host.rs"]
mod host;
mod hosts;
#[expect(dead_code, reason = "shared with tests/fleet, which uses more of it")]
#[path = "../tests/fleet/lab.rs"]
mod lab;
#[path = "../tests/fleet/run.rs"]
mod run;
mod settled;
mod support;

use std::time::Duration;

use ansible::Playbook;
use hosts::{Daemon, Hosts, INSTANCES};
use support::{compare, median, timed};

const LOOK_ROUNDS: usize = 15;
const CREATE_ROUNDS: usize = 3;

fn main() {
    if controller::is_a_part() {
        return;
    }
    let asked = |part: &str| std::env::args().any(|argument| argument == part);
    if !asked("hosts") && !asked("moves") {
        controller::measure();
    }
    if let Some(why) = hosts::unable() {
        eprintln!("{why}");
        return;
    }
    let hosts = Hosts::new();
    if asked("moves") {
        return hosts::moves::measure(&hosts);
    }
    let created = creating(&hosts);
    let looked = looking(&hosts);
    passes(&hosts);
    hosts.declare("absent");
    hosts.valkeeper(&["apply", "--yes"]);
    hosts::moves::measure(&hosts);
    match Playbook::new(&hosts) {
        Ok(playbook) => against(&playbook, created, looked),
        Err(why) => println!("not compared with Ansible: {why}"),
    }
}

/// `valkeeper apply` that makes all instances, against `systemctl start` of the units that it made.
fn creating(hosts: &Hosts) -> Duration {
    let (mut applies, mut floors) = (Vec::new(), Vec::new());
    for round in 0..CREATE_ROUNDS {
        if round > 0 {
            hosts.declare("absent");
            hosts.valkeeper(&["apply", "--yes"]);
        }
        hosts.declare("present");
        applies.push(timed(|| hosts.valkeeper(&["apply", "--yes"])).1);
        hosts.each("stop", "exec systemctl stop 'valkey@*.service'");
        floors.push(timed(|| hosts.start_units()).1);
    }
    let what = format!("valkeeper apply, {INSTANCES} new instances on 3 hosts, the whole process");
    compare(&what, &applies, "systemctl start of their units over ssh", &floors, "2.5");
    median(&applies)
}

/// `valkeeper plan` with nothing to do, over new connections, against reading the same replies by valkey-cli.
fn looking(hosts: &Hosts) -> Duration {
    let floor = hosts.look_by_hand();
    let (mut plans, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..LOOK_ROUNDS {
        plans.push(timed(|| hosts.valkeeper(&["plan"])).1);
        floors.push(timed(|| floor.run()).1);
    }
    let what = format!("valkeeper plan, {INSTANCES} instances on 3 hosts, new connections, the whole process (target 0.5 s)");
    compare(&what, &plans, "INFO, ACL LIST and CONFIG GET * by valkey-cli over ssh", &floors, "none");
    median(&plans)
}

/// What the daemon takes for a pass with nothing to do, from asking for it to the answer.
fn passes(hosts: &Hosts) {
    let daemon = Daemon::start(hosts);
    let times: Vec<Duration> = (0..4 * LOOK_ROUNDS).map(|_| timed(|| daemon.sync()).1).collect();
    let (time, most) = (median(&times).as_secs_f64(), times.iter().max().expect("a time").as_secs_f64());
    println!("a pass with nothing to do, {INSTANCES} instances on 3 hosts: {time:.4} s, {most:.4} s at most (target 0.030)");
    for (program, kib) in daemon.memory() {
        println!("  memory of {program}: {} KiB resident, of which {} KiB are its own", kib.resident, kib.own);
    }
}

fn against(playbook: &Playbook, created: Duration, looked: Duration) {
    let first = timed(|| playbook.run()).1;
    let idle = [timed(|| playbook.run_idle()).1, timed(|| playbook.run_idle()).1];
    let ratio = |slow: Duration, fast: Duration| slow.as_secs_f64() / fast.as_secs_f64();
    let creates = first.as_secs_f64();
    println!(
        "a playbook that makes {INSTANCES} instances: {creates:.1} s; valkeeper is {:.0} times faster (target 20)",
        ratio(first, created)
    );
    let finds = median(&idle);
    println!(
        "that playbook finding nothing to do: {:.1} s; valkeeper is {:.0} times faster (target 60)",
        finds.as_secs_f64(),
        ratio(finds, looked)
    );
}
