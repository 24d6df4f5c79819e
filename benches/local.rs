//! A node on this machine against its floors: looking at 200 running instances, and creating 100. Real servers, all below
//! one temporary folder. Prints figures and ratios; asserts no time.
//!
//! The floors do nothing that valkeeper exists for (no files, no comparison, no proof): they are what the servers cost.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "a benchmark reads the clock, starts programs, and fails loudly"
)]

mod floor;
mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use floor::Login;
use support::{compare, timed};
use tempfile::TempDir;
use valkeeper::desired::{self, Secrets};
use valkeeper::fleet::local::{LocalFleet, Place};
use valkeeper::model::desired::Desired;
use valkeeper::model::name::NodeName;
use valkeeper::observe::{Limits, Surroundings};
use valkeeper::reconcile;
use valkeeper::roots;

const LOOKED_AT: usize = 200;
const CREATED: usize = 100;
const LOOK_ROUNDS: usize = 15;
const CREATE_ROUNDS: usize = 5;

fn main() {
    looking();
    creating();
}

/// `valkeeper plan` with nothing to do, against reading the same replies from the same sockets.
fn looking() {
    let world = World::new(LOOKED_AT);
    world.apply();
    let logins = world.logins();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let desired = world.desired();
    let fleet = world.fleet();
    let (mut processes, mut looks, mut floors, mut parallel) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LOOK_ROUNDS {
        processes.push(timed(|| world.valkeeper("plan", &[])).1);
        floors.push(timed(|| floor::read_all(&logins)).1);
        looks.push(
            timed(|| {
                let look = runtime.block_on(reconcile::look(&desired, &fleet));
                assert!(look.plan.steps.is_empty() && look.plan.is_settled(), "there is nothing to do");
            })
            .1,
        );
        parallel.push(timed(|| floor::read_all_on_each_core(&logins)).1);
    }
    let floor = "INFO, CONFIG GET * and ACL LIST by hand";
    let least: Vec<Duration> = if support::median(&parallel) < support::median(&floors) { parallel } else { floors };
    compare(&format!("valkeeper plan, {LOOKED_AT} instances, the whole process"), &processes, floor, &least, "3");
    compare(&format!("looking and planning in process, {LOOKED_AT} instances"), &looks, floor, &least, "3");
}

/// `valkeeper apply` on an empty folder, against starting as many servers from the files that it made.
fn creating() {
    let (mut applies, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..CREATE_ROUNDS {
        let world = World::new(CREATED);
        applies.push(timed(|| world.apply()).1);
        world.stop();
        let files = world.files_to_start_from();
        let (started, took) = timed(|| floor::start_all(files.path(), &world.names()));
        floors.push(took);
        drop(started);
    }
    let floor = "starting them directly, side by side, from the same files";
    compare(&format!("valkeeper apply, {CREATED} new instances, the whole process"), &applies, floor, &floors, "2");
}

/// A state repository, and the folder of its one node.
struct World {
    folder: TempDir,
    count: usize,
}

impl World {
    fn new(count: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut text = "[fleet]\nname = \"bench\"\n[nodes.here]\nlocal = \"./state\"\n\
                        [shards.main]\nnodes = [\"here\"]\nports = \"21000-21999\"\n"
            .to_owned();
        for number in 0..count {
            let _infallible = write!(
                text,
                "\n[instances.i{number}]\nshard = \"main\"\nconfig = {{ timeout = 300 }}\n[instances.i{number}.users.app]\n\
                 password_sha256 = \"{:064x}\"\nprivileges = [\"+@all\", \"-@dangerous\"]\nkey_pattern = \"~app:*\"\n",
                number + 1
            );
        }
        fs::write(folder.path().join("desired.toml"), text).expect("a file");
        Self { folder, count }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn names(&self) -> Vec<String> {
        (0..self.count).map(|number| format!("i{number}")).collect()
    }

    fn valkeeper(&self, command: &str, words: &[&str]) {
        let program = env!("CARGO_BIN_EXE_valkeeper");
        let output = Command::new(program).arg(command).args(words).arg(self.folder.path()).output().expect("valkeeper");
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{told}");
    }

    fn apply(&self) {
        self.valkeeper("apply", &["--yes"]);
    }

    fn desired(&self) -> Desired {
        let sources = roots::read(self.folder.path()).expect("files");
        desired::parse(&sources, &Secrets::Placeholder).expect("no problem")
    }

    fn fleet(&self) -> LocalFleet {
        let places = [(NodeName::new("here").expect("a name"), Place::Folder(self.state()))].into();
        LocalFleet::new(&places, &Surroundings::of_this_process(Limits::default()))
    }

    fn logins(&self) -> Vec<Login> {
        let state = self.state();
        let login = |name: String| Login {
            socket: state.join("run").join(format!("{name}.sock")),
            password: operator_password(&state.join("instances").join(format!("{name}.toml"))),
        };
        self.names().into_iter().map(login).collect()
    }

    fn stop(&self) {
        stop_below(&self.state());
    }

    /// The files of every instance as valkeeper made them, without data, in a folder of their own.
    fn files_to_start_from(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a folder");
        let (from, to) = (fs::canonicalize(self.state()).expect("the state"), fs::canonicalize(copy.path()).expect("the copy"));
        for folder in ["run", "log", "data", "config"] {
            fs::create_dir(to.join(folder)).expect("a folder");
        }
        for name in self.names() {
            fs::create_dir(to.join("data").join(&name)).expect("a folder");
            let (acl, config) = (format!("data/{name}/users.acl"), format!("config/{name}.conf"));
            fs::copy(from.join(&acl), to.join(&acl)).expect("the users");
            let text = fs::read_to_string(from.join(&config)).expect("the config");
            let text = text.replace(&from.display().to_string(), &to.display().to_string());
            fs::write(to.join(&config), text).expect("the config");
        }
        copy
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `operator_password = "…"` of a marker.
fn operator_password(marker: &Path) -> String {
    let text = fs::read_to_string(marker).expect("a marker");
    let line = text.lines().find(|line| line.starts_with("operator_password")).expect("a password");
    line.split('"').nth(1).expect("a password").to_owned()
}

/// Ends the servers that work below this folder, and no others, and waits until they are gone.
fn stop_below(folder: &Path) {
    let Ok(root) = fs::canonicalize(folder) else { return };
    let ours = || -> Vec<String> {
        let works_below = |pid: &String| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at.starts_with(&root));
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(works_below).collect()
    };
    loop {
        let pids = ours();
        if pids.is_empty() {
            return;
        }
        let _some_are_gone_already = Command::new("kill").arg("-9").args(&pids).output();
        std::thread::sleep(Duration::from_millis(20));
    }
}
