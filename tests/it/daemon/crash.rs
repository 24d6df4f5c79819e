//! The daemon killed at any moment, while commits arrive and somebody meddles: the next one settles, and nothing is lost.
//!
//! `VALKEEPER_SOAK=1` takes 200 rounds instead of 20; `VALKEEPER_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{Daemon, PASSWORD, Post, instance};
use crate::chance::{seed, soak};
use crate::support::signal;

const INSTANCES: [&str; 3] = ["a", "b", "c"];

struct Story {
    post: Post,
    random: StdRng,
    /// The good revisions, in the order in which they were committed.
    order: BTreeMap<String, usize>,
    good: String,
    hz: BTreeMap<&'static str, u32>,
    /// How many keys each server has.
    keys: BTreeMap<&'static str, usize>,
    logs: Vec<std::path::PathBuf>,
}

impl Story {
    /// Servers are killed as well: what they confirm must be on disk, or a lost key would be the server's own.
    fn text(&self) -> String {
        self.hz.iter().map(|(name, hz)| instance(name, &format!("hz = {hz}, appendfsync = \"always\""))).collect()
    }

    fn commit(&mut self) {
        let name = INSTANCES[self.random.random_range(0..INSTANCES.len())];
        if self.random.random_bool(0.2) {
            self.post.git.commit(&[("fleet.toml", "[instances.a\n")]);
            return;
        }
        self.hz.insert(name, self.random.random_range(10..90));
        self.good = self.post.commit(&self.text());
        self.order.insert(self.good.clone(), self.order.len());
    }

    fn meddle(&mut self) {
        let name = INSTANCES[self.random.random_range(0..INSTANCES.len())];
        // The server may be down, or about to be made.
        if !self.post.site.path(&format!("state/config/{name}.conf")).exists() {
            return;
        }
        let Ok(mut client) = self.post.site.client_or_refusal(name, "app", PASSWORD) else { return };
        match self.random.random_range(0..4) {
            0 => drop(client.try_ask("CONFIG SET hz 99 maxmemory-samples 9")),
            1 => drop(client.try_ask("ACL SETUSER guest on nopass +@all ~*")),
            2 => {
                let keys = self.keys.entry(name).or_default();
                if client.try_ask(&format!("SET key:{keys} {keys}")).as_deref() == Some("+OK") {
                    *keys += 1;
                }
            }
            _ => {
                let pid = fs::read_to_string(self.post.site.path(&format!("state/run/{name}.pid")));
                let pid = pid.ok().and_then(|text| text.trim().parse::<u32>().ok());
                if let Some(pid) = pid.filter(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
                    signal(pid, "-9");
                }
            }
        }
    }

    fn start(&mut self) -> Daemon {
        let daemon = self.post.start();
        self.logs.push(daemon.log.clone());
        daemon
    }

    /// Everything is as declared, and every key is there.
    fn check(&self, round: usize) {
        for name in INSTANCES {
            let mut client = self.post.site.client(name, "app", PASSWORD);
            assert_eq!(client.ask("CONFIG GET hz"), format!("hz {}", self.hz[name]), "round {round} {name}");
            let keys = self.keys.get(name).copied().unwrap_or_default();
            assert_eq!(client.ask("DBSIZE"), format!(":{keys}"), "round {round} {name}: keys were lost");
        }
    }

    /// No step was taken for a revision older than one that was settled before.
    fn check_order(&self) {
        let mut settled = 0;
        let mut steps = 0;
        for log in &self.logs {
            for line in fs::read_to_string(log).unwrap().lines() {
                let Some(revision) = line.split("revision=").nth(1).map(|rest| rest.trim_matches('"')) else { continue };
                let Some(at) = revision.get(..40).and_then(|revision| self.order.get(revision)) else { continue };
                if line.contains("INFO valkeeper::daemon::pass: settled") {
                    settled = settled.max(*at);
                } else if line.contains(" step=") {
                    steps += 1;
                    assert!(*at >= settled, "a step for an older revision than one settled ({settled}): {line}");
                }
            }
        }
        eprintln!("{steps} steps in {} lives, the last settled is {settled} of {}", self.logs.len(), self.order.len());
        assert!(steps > self.logs.len());
        assert_eq!(settled + 1, self.order.len());
    }
}

#[test]
fn a_kill_at_any_moment_is_healed_by_the_next_daemon() {
    let rounds = if soak() { 200 } else { 20 };
    let hz = INSTANCES.map(|name| (name, 11)).into();
    let random = StdRng::seed_from_u64(seed());
    let (post, order, keys) = (Post::bare(), BTreeMap::new(), BTreeMap::new());
    let mut story = Story { post, random, order, good: String::new(), hz, keys, logs: Vec::new() };
    story.hz.insert("a", 10);
    story.good = story.post.commit(&story.text());
    story.order.insert(story.good.clone(), 0);
    let mut daemon = story.start();
    let (mut passes_max, mut took_max) = (0, Duration::ZERO);
    for round in 0..rounds {
        let life = Duration::from_millis(story.random.random_range(0..400));
        let begun = Instant::now();
        while begun.elapsed() < life {
            if story.random.random_bool(0.4) {
                story.commit();
            } else {
                story.meddle();
            }
        }
        daemon.kill();
        daemon = story.start();
        let begun = Instant::now();
        let status = daemon.until("settled", |status| {
            status["settled"]["revision"] == story.good
                && status["source"]["desired"] == story.good
                && status["last_pass"]["result"] == "settled"
        });
        took_max = took_max.max(begun.elapsed());
        passes_max = passes_max.max(status["last_pass"]["number"].as_u64().unwrap());
        story.check(round);
    }
    eprintln!("{rounds} kills; at most {passes_max} passes and {took_max:?} until settled");
    assert!(passes_max <= 4, "one pass acts, and the next one sees that it is settled");
    drop(daemon);
    story.check_order();
}
