//! Instances that move as a snapshot, on real servers: two nodes on this machine that do not replicate.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::moves::{Pair, kill};
use crate::site::Client;
use crate::writers::Writers;

const SNAPSHOT: &str = "move = \"snapshot\"";
const NO_AOF: &str = "move = \"snapshot\"\nconfig = { appendonly = \"no\", save = \"3600 1\" }";

/// Where carried snapshots lie on a node.
fn cargo(pair: &Pair, node: &str) -> Vec<PathBuf> {
    let found = fs::read_dir(pair.site.path(&format!("{node}/set-aside"))).into_iter().flatten().flatten();
    found.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "rdb")).collect()
}

fn moved(keys: &str) {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", keys);
    pair.site.applied();
    let writers = Writers::start(&pair.places());
    std::thread::sleep(Duration::from_millis(300));
    pair.declare("\"n1\"", "b", keys);
    pair.site.applied();
    std::thread::sleep(Duration::from_millis(200));
    let account = writers.end();
    eprintln!("{account:?}");
    assert_eq!((account.lost, account.twice, account.both_open), (0, 0, 0), "{account:?}");
    assert!(account.acknowledged > 200, "{account:?}");
    pair.site.applied();
    pair.site.settled();
    assert!(!pair.config("n1").exists());
    assert_eq!((cargo(&pair, "n1"), cargo(&pair, "n2")), (vec![], vec![]));
    // What was carried is on disk, and what came since.
    let before = pair.client("n2").ask("LLEN log:0");
    kill(&pair, "n2");
    pair.site.applied();
    if !keys.contains("appendonly") {
        assert_eq!(pair.client("n2").ask("LLEN log:0"), before);
    }
}

#[test]
fn an_instance_moves_as_a_snapshot_and_loses_nothing() {
    moved(SNAPSHOT);
}

#[test]
fn an_instance_without_aof_moves_as_a_snapshot_and_loses_nothing() {
    moved(NO_AOF);
}
