//! Nothing of a lab is left behind, however its run ends.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::lab::{Lab, Place, until};
use crate::run;

/// A run of this very program, which has booted a host and waits.
struct Victim {
    process: Child,
    place: u8,
    guard: Pid,
}

impl Victim {
    fn booted() -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", "by_hand::hosts_to_try_things_on_by_hand"]);
        command.env("VALKEEPER_LAB", "bookworm").process_group(0);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut said: Vec<_> = lines.take_while(|line| !line.contains("lab: ready")).collect();
        said.retain(|line| line.contains("lab: place "));
        let words: Vec<_> = said.first().expect("it says where it is").split(' ').rev().collect();
        let guard = Pid::from_raw(words[0].parse().unwrap()).unwrap();
        Self { place: words[2].parse().unwrap(), guard, process }
    }

    /// As Ctrl-C does: all processes of its group hear it.
    fn interrupt(&mut self) {
        kill_process_group(Pid::from_child(&self.process), Signal::INT).unwrap();
        self.process.wait().unwrap();
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Nobody else can take the place while this is held.
fn locked(place: u8) -> File {
    let lock = File::create(Place::lock(place)).unwrap();
    until("the guard is done", || lock.try_lock().is_ok());
    lock
}

/// Processes are in control groups, and those are listed.
fn remains(place: u8) -> Vec<String> {
    let mut found = Vec::new();
    let groups = run::must(run::program("find").args(["/sys/fs/cgroup", "-name", &format!("valkeeper-lab.{place}")]));
    found.extend(groups.lines().map(str::to_owned));
    let links = run::must(run::program("ip").args(["-brief", "link", "show"]));
    let ours = |line: &&str| line.starts_with(&format!("vklab{place} ")) || line.starts_with(&format!("vb-vk{place}n"));
    found.extend(links.lines().filter(ours).map(str::to_owned));
    let folder = format!("/var/lib/valkeeper-lab/{place}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(&format!("{folder}/"))).map(str::to_owned));
    found.extend(fs::exists(&folder).unwrap().then_some(folder));
    found
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn ctrl_c_leaves_nothing() {
    let mut run = Victim::booted();
    run.interrupt();
    let _held = locked(run.place);
    assert_eq!(remains(run.place), Vec::<String>::new());
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn a_killed_run_leaves_nothing() {
    let mut run = Victim::booted();
    run.kill();
    let _held = locked(run.place);
    assert_eq!(remains(run.place), Vec::<String>::new());
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn what_a_killed_guard_left_is_cleared_by_the_next_run() {
    let mut run = Victim::booted();
    kill_process(run.guard, Signal::KILL).unwrap();
    run.kill();
    let held = locked(run.place);
    assert_ne!(remains(run.place), Vec::<String>::new(), "the host runs on, alone");
    drop(held);
    // Another run of the lab may be faster; then it clears the place.
    drop(Place::take_one(run.place));
    let _held = locked(run.place);
    assert_eq!(remains(run.place), Vec::<String>::new());
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn what_a_test_starts_ends_with_its_lab() {
    let lab = Lab::of::<crate::base::Suite>([]);
    let mut child = lab.command("sleep").arg("1000").spawn().unwrap();
    drop(lab);
    assert!(!child.wait().unwrap().success());
}
