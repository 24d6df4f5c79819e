//! The daemon with 200 running instances: a pass with nothing to do against its floor, a commit until it is settled, memory
//! and open files over many passes, and the processor time of an idle hour. Prints figures and ratios; asserts no time.
//!
//! It is the real `valkeeper run` on a git repository, asked for passes over its control socket. What is timed is the whole
//! request: `sync` that waits for its pass. `VALKEEPER_SOAK=1` takes 5,000 passes instead of 300.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "a benchmark reads the clock, starts programs, and fails loudly"
)]

mod control;
mod floor;
mod support;
mod world;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{compare, median, timed};
use world::World;

const INSTANCES: usize = 200;
const ROUNDS: usize = 15;
const COMMITS: usize = 9;
const PASSES: usize = 300;
const PASSES_SOAK: usize = 5_000;
/// The default poll, and how far it varies (`JITTER` of the daemon): after one pass, this long holds exactly one more.
const POLL: Duration = Duration::from_secs(60);
const ONE_PERIOD: Duration = Duration::from_secs(64);
/// `USER_HZ`: what /proc/PID/stat counts in (proc(5)); 100 on every Linux that valkey is built for.
const TICKS_PER_SECOND: f64 = 100.0;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let world = World::new(INSTANCES);
    world.apply();
    git(&world, &["init", "-q", "-b", "main"]);
    commit(&world);
    let daemon = Daemon::start(&world);
    let at_start = daemon.footprint();
    passes(&world, &daemon);
    commits(&world, &daemon);
    let count = if std::env::var_os("VALKEEPER_SOAK").is_some() { PASSES_SOAK } else { PASSES };
    memory(&daemon, at_start, count);
    idle(&daemon);
}

fn passes(world: &World, daemon: &Daemon) {
    let logins = world.logins();
    let (mut passes, mut floors, mut parallel) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        passes.push(timed(|| daemon.sync()).1);
        floors.push(timed(|| floor::read_all(&logins)).1);
        parallel.push(timed(|| floor::read_all_on_each_core(&logins)).1);
    }
    let least = if median(&parallel) < median(&floors) { parallel } else { floors };
    let floor = "INFO, CONFIG GET * and ACL LIST by hand";
    compare(&format!("a pass with nothing to do, {INSTANCES} instances"), &passes, floor, &least, "3");
}

/// From before `git commit` until the daemon says that this commit is settled.
fn commits(world: &World, daemon: &Daemon) {
    let settled = |round: usize| {
        world.write(if round.is_multiple_of(2) { ", \"+info\"" } else { "" });
        let begun = Instant::now();
        let revision = commit(world);
        daemon.await_settled(&revision);
        begun.elapsed()
    };
    let times: Vec<Duration> = (0..COMMITS).map(settled).collect();
    let (time, most) = (median(&times).as_secs_f64(), times.iter().max().expect("a time").as_secs_f64());
    println!(
        "a commit that changes one user among {INSTANCES} instances, until it is settled: {time:.3} s, {most:.3} s at most (target 1)"
    );
}

fn memory(daemon: &Daemon, at_start: Footprint, passes: usize) {
    let before = daemon.footprint();
    let (cpu, begun) = (daemon.cpu(), Instant::now());
    let mut middle = before;
    for pass in 0..passes {
        daemon.sync();
        if pass == passes / 2 {
            middle = daemon.footprint();
        }
    }
    let (after, took) = (daemon.footprint(), begun.elapsed().as_secs_f64());
    for (when, footprint) in [
        ("at its first settled pass".to_owned(), at_start),
        (format!("before {passes} passes"), before),
        (format!("after {} of them", passes / 2), middle),
        ("after all of them".to_owned(), after),
    ] {
        println!("the daemon {when}: {:.1} MiB resident, {} files open", footprint.resident_mib, footprint.files);
    }
    println!("memory after {passes} passes against before: ratio {:.3}", after.resident_mib / before.resident_mib);
    let cpu = daemon.cpu() - cpu;
    println!("{passes} passes: {took:.1} s, {:.1} ms of processor time each", cpu * 1000.0 / passes as f64);
}

/// One period of the default poll: its one pass, and all the waiting.
fn idle(daemon: &Daemon) {
    daemon.sync();
    let (cpu, number) = (daemon.cpu(), daemon.passes());
    std::thread::sleep(ONE_PERIOD);
    let (cpu, taken) = (daemon.cpu() - cpu, daemon.passes() - number);
    assert_eq!(taken, 1, "one pass in one period");
    let hour = cpu * 3600.0 / POLL.as_secs_f64();
    println!(
        "an idle hour at the default poll of {} s, {INSTANCES} instances: {hour:.1} s of processor time ({:.2} % of a core)",
        POLL.as_secs(),
        hour / 36.0
    );
}

#[derive(Clone, Copy)]
struct Footprint {
    resident_mib: f64,
    files: usize,
}

/// `valkeeper run`; ends with this.
struct Daemon {
    process: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its folder goes too, so this is the last chance to learn what happened.
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let end: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("how the daemon ended, if it did by itself: {:?}; the end of its log:", self.process.try_wait());
            end.into_iter().rev().for_each(|line| eprintln!("  {line}"));
        }
        let _gone_already = self.process.kill();
        let _gone_already = self.process.wait();
    }
}

impl Daemon {
    fn start(world: &World) -> Self {
        let listen = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").to_string();
        let socket = world.path().join("control.sock");
        let log = world.path().join("daemon.log");
        let process = Command::new(env!("CARGO_BIN_EXE_valkeeper"))
            .arg("run")
            .arg("--repo")
            .arg(world.path())
            .arg("--local-root")
            .arg(world.path())
            .arg("--socket")
            .arg(&socket)
            .args(["--listen", &listen])
            .stdin(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("valkeeper");
        let daemon = Self { process, socket, log };
        let begun = Instant::now();
        while !daemon.socket.exists() {
            assert!(begun.elapsed() < PATIENCE, "the daemon does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        daemon.await_settled(&head(world));
        daemon
    }

    fn sync(&self) {
        control::sync(&self.socket);
    }

    fn status(&self) -> Value {
        control::ask(&self.socket, "GET", "/v1/status", "")
    }

    fn passes(&self) -> u64 {
        self.status()["last_pass"]["number"].as_u64().unwrap_or_default()
    }

    fn await_settled(&self, revision: &str) {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if status["settled"]["revision"] == revision && status["last_pass"]["result"] == "settled" {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "not settled: {}", status["source"]);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn footprint(&self) -> Footprint {
        let status = fs::read_to_string(self.proc("status")).expect("a process");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        let kib: f64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
        let files = fs::read_dir(self.proc("fd")).expect("its files").count();
        Footprint { resident_mib: kib / 1024.0, files }
    }

    /// Seconds of processor time, its own and the kernel's for it: fields 14 and 15 of /proc/PID/stat (proc(5)).
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(self.proc("stat")).expect("a process");
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks: f64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().expect("a number")).sum();
        ticks / TICKS_PER_SECOND
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.process.id().to_string()).join(file)
    }
}

/// Commits the text as it is; gives the new revision.
fn commit(world: &World) -> String {
    git(world, &["add", "desired.toml"]);
    git(world, &["-c", "user.name=bench", "-c", "user.email=bench@example.org", "commit", "-q", "-m", "bench"]);
    head(world)
}

fn head(world: &World) -> String {
    git(world, &["rev-parse", "HEAD"])
}

fn git(world: &World, words: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(world.path()).args(words).output().expect("git");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
