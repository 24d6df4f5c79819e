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
#[path = "floor/start.rs"]
mod start;
mod support;
mod world;

use std::fs;
use std::time::Duration;

use support::{compare, timed};
use tempfile::TempDir;
use valkeeper::desired::{self, Secrets};
use valkeeper::fleet::nodes::{Means, Nodes, Place};
use valkeeper::host::ssh::Ssh;
use valkeeper::model::desired::Desired;
use valkeeper::model::name::NodeName;
use valkeeper::observe::{Limits, Surroundings};
use valkeeper::reconcile;
use valkeeper::roots;
use world::World;

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
    let desired = desired(&world);
    let fleet = fleet(&world);
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
        let files = files_to_start_from(&world);
        let (started, took) = timed(|| start::start_all(files.path(), &world.names()));
        floors.push(took);
        drop(started);
    }
    let floor = "starting them directly, side by side, from the same files";
    compare(&format!("valkeeper apply, {CREATED} new instances, the whole process"), &applies, floor, &floors, "2");
}

fn desired(world: &World) -> Desired {
    let sources = roots::read(world.path()).expect("files");
    desired::parse(&sources, &Secrets::Placeholder).expect("no problem")
}

fn fleet(world: &World) -> Nodes {
    let places = [(NodeName::new("here").expect("a name"), Place::Folder(world.state()))].into();
    Nodes::new(&places, &Means { surroundings: Surroundings::of_this_process(Limits::default()), ssh: Ssh::new(None) })
}

/// The files of every instance as valkeeper made them, without data, in a folder of their own.
fn files_to_start_from(world: &World) -> TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    let (from, to) = (fs::canonicalize(world.state()).expect("the state"), fs::canonicalize(copy.path()).expect("the copy"));
    for folder in ["run", "log", "data", "config"] {
        fs::create_dir(to.join(folder)).expect("a folder");
    }
    for name in world.names() {
        fs::create_dir(to.join("data").join(&name)).expect("a folder");
        let (acl, config) = (format!("data/{name}/users.acl"), format!("config/{name}.conf"));
        fs::copy(from.join(&acl), to.join(&acl)).expect("the users");
        let text = fs::read_to_string(from.join(&config)).expect("the config");
        let text = text.replace(&from.display().to_string(), &to.display().to_string());
        fs::write(to.join(&config), text).expect("the config");
    }
    copy
}
