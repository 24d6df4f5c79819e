//! Writers that follow their instance wherever it goes, and remember what was acknowledged; and a watcher that sees two
//! members take writes at once. Of the lab (`tests/fleet/`) as well.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Client;

/// Connections at once.
const WRITERS: usize = 8;
/// Between two writes of one connection: together 2,000 to 3,000 a second where the disk keeps up.
const PAUSE: Duration = Duration::from_millis(1);

/// Where an instance may be reached: the config files of its members, which say the port, and their addresses.
#[derive(Clone)]
pub struct Places {
    pub configs: Vec<(PathBuf, IpAddr)>,
    pub user: &'static str,
    pub password: &'static str,
    /// How long an answer is waited for.
    pub patience: Duration,
}

impl Places {
    fn client(&self, place: usize) -> Option<Client> {
        let (config, address) = &self.configs[place % self.configs.len()];
        let config = fs::read_to_string(config).ok()?;
        let port: u16 = config.lines().find_map(|line| line.strip_prefix("port "))?.parse().ok()?;
        let mut client = Client::within((*address, port).into(), self.patience).ok()?;
        (client.try_ask(&format!("AUTH {} {}", self.user, self.password))? == "+OK").then_some(client)
    }

    /// Takes it writes? Nothing: it cannot be told.
    pub fn is_open(&self, place: usize) -> Option<bool> {
        let mut client = self.client(place)?;
        let role = client.try_ask("INFO replication")?;
        let fence = client.try_ask("CONFIG GET min-replicas-to-write")?;
        assert!(fence.starts_with("min-replicas-to-write "), "the watcher may not see the fence: {fence}");
        Some(role.contains("role:master") && !fence.contains("1000000"))
    }
}

struct Written {
    acknowledged: Vec<u64>,
    /// Sent again, because no answer came: each try may have been done.
    in_doubt: BTreeSet<u64>,
    longest_gap: Duration,
    refused: BTreeSet<u64>,
}

/// Writers and a watcher at work.
pub struct Writers {
    /// Each has lists of its own: what was written before is not counted again.
    run: u64,
    begun: Instant,
    places: Places,
    over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Written>>,
    watcher: JoinHandle<u64>,
}

/// What came of it.
#[derive(Debug)]
pub struct Account {
    pub acknowledged: usize,
    /// How many were acknowledged in a second, gaps and all.
    pub rate: u64,
    pub lost: usize,
    /// What was sent once and is there more often.
    pub twice: usize,
    /// What is there more often because its writer had no answer, and sent it again: a client cannot know better.
    pub twice_in_doubt: usize,
    pub longest_gap: Duration,
    /// Writes that were answered with NOREPLICAS: by a fence, and not held back by a pause.
    pub refused: usize,
    /// How often two members took writes at one moment.
    pub both_open: u64,
}

impl Account {
    /// Fails unless everything that was acknowledged is there, and once, and no two members were ever open. Prints it all.
    #[track_caller]
    pub fn whole(self, told: &str, acknowledged_min: usize) -> Self {
        eprintln!("{told}: {self:?}");
        assert_eq!((self.lost, self.twice, self.both_open), (0, 0, 0), "{told}: {self:?}");
        assert!(self.acknowledged >= acknowledged_min, "{told}: too few writes to tell anything: {self:?}");
        self
    }
}

impl Writers {
    pub fn start(places: &Places) -> Self {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let over = Arc::new(AtomicBool::new(false));
        let writers = (0..WRITERS).map(|writer| {
            let (places, over) = (places.clone(), Arc::clone(&over));
            std::thread::spawn(move || write(&places, &list(run, writer), &over))
        });
        let watcher = {
            let (places, over) = (places.clone(), Arc::clone(&over));
            std::thread::spawn(move || watch(&places, &over))
        };
        Self { run, begun: Instant::now(), places: places.clone(), over: Arc::clone(&over), writers: writers.collect(), watcher }
    }

    /// Ends them, and counts at the member that takes writes.
    pub fn end(self) -> Account {
        self.over.store(true, Ordering::Relaxed);
        let written: Vec<Written> = self.writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        let both_open = self.watcher.join().unwrap();
        let took = self.begun.elapsed();
        let open = (0..self.places.configs.len()).find(|place| self.places.is_open(*place) == Some(true));
        let mut client = self.places.client(open.expect("no member takes writes")).unwrap();
        let mut account = Account {
            acknowledged: 0,
            rate: 0,
            lost: 0,
            twice: 0,
            twice_in_doubt: 0,
            longest_gap: Duration::ZERO,
            refused: 0,
            both_open,
        };
        for (writer, Written { acknowledged, in_doubt, longest_gap, refused }) in written.into_iter().enumerate() {
            let list = list(self.run, writer);
            let there = client.ask(&format!("LRANGE {list} 0 -1"));
            client.ask(&format!("UNLINK {list}"));
            let there: Vec<u64> = there.split_ascii_whitespace().map(|word| word.parse().unwrap()).collect();
            let mut unique = BTreeSet::new();
            for number in there.iter().filter(|number| !unique.insert(**number)) {
                let again = if in_doubt.contains(number) { &mut account.twice_in_doubt } else { &mut account.twice };
                *again += 1;
            }
            account.acknowledged += acknowledged.len();
            account.lost += acknowledged.iter().filter(|number| !unique.contains(number)).count();
            account.refused += refused.len();
            account.longest_gap = account.longest_gap.max(longest_gap);
        }
        account.rate = (account.acknowledged as f64 / took.as_secs_f64()) as u64;
        account
    }
}

fn list(run: u64, writer: usize) -> String {
    format!("log:{run}:{writer}")
}

fn write(places: &Places, list: &str, over: &AtomicBool) -> Written {
    let (mut number, mut place, mut client) = (0, 0, None);
    let mut written =
        Written { acknowledged: Vec::new(), in_doubt: BTreeSet::new(), longest_gap: Duration::ZERO, refused: BTreeSet::new() };
    let mut last = Instant::now();
    // What was sent is followed until it is acknowledged, so that every number is in the list in the end.
    while !over.load(Ordering::Relaxed) {
        let reply = match &mut client {
            None => {
                client = places.client(place);
                if client.is_none() {
                    place += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                continue;
            }
            Some(client) => Client::try_ask(client, &format!("RPUSH {list} {number}")),
        };
        match &reply {
            Some(reply) if reply.starts_with("-NOREPLICAS") => drop(written.refused.insert(number)),
            Some(_) => {}
            None => drop(written.in_doubt.insert(number)),
        }
        if reply.is_some_and(|reply| reply.starts_with(':')) {
            written.longest_gap = written.longest_gap.max(last.elapsed());
            last = Instant::now();
            written.acknowledged.push(number);
            number += 1;
            std::thread::sleep(PAUSE);
        } else {
            (client, place) = (None, place + 1);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    written
}

/// One is open, then another, then the first one still: there was a moment when both were.
fn watch(places: &Places, over: &AtomicBool) -> u64 {
    let mut both = 0;
    let all = places.configs.len();
    while !over.load(Ordering::Relaxed) {
        for first in 0..all {
            let others = (0..all).filter(|other| *other != first);
            if places.is_open(first) != Some(true) {
                continue;
            }
            let open: Vec<usize> = others.filter(|other| places.is_open(*other) == Some(true)).collect();
            if !open.is_empty() && places.is_open(first) == Some(true) {
                both += 1;
            }
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    both
}
