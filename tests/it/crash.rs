//! The program killed at any moment of creating, changing and deleting: one more apply settles, and nothing is lost.
//!
//! `VALKEEPER_SOAK=1` takes 200 rounds instead of 40; `VALKEEPER_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::chance::{seed, soak};
use crate::site::{Client, Site};
use crate::support::signal;

const PASSWORD: &str = "crash-test-secret";
const INSTANCES: [&str; 3] = ["a", "b", "c"];
const KEYS: usize = 300;

fn hash() -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(PASSWORD).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What one round declares of an instance; everything that a round can change is here.
#[derive(Debug, Clone)]
struct Wanted {
    hz: u32,
    databases: u32,
    aof: bool,
    rights: &'static str,
    guest: bool,
}

impl Wanted {
    fn random(random: &mut StdRng) -> Self {
        let rights = ["\"+@all\"", "\"+@all\", \"-flushall\"", "\"+@all\", \"-@dangerous\", \"+keys\", \"+debug\", \"+info\""];
        Self {
            hz: random.random_range(10..20),
            databases: random.random_range(1..4),
            aof: random.random_bool(0.6),
            rights: rights[random.random_range(0..rights.len())],
            guest: random.random_bool(0.5),
        }
    }

    fn toml(&self, name: &str, absent: bool) -> String {
        let Self { hz, databases, aof, rights, guest } = self;
        let hash = hash();
        let ensure = if absent { "ensure = \"absent\"\n" } else { "" };
        let guest = if *guest {
            format!("[instances.{name}.users.guest]\npassword_sha256 = \"{hash}\"\nprivileges = [\"+@read\"]\n")
        } else {
            String::new()
        };
        format!(
            "[instances.{name}]\nshard = \"a\"\n{ensure}config = {{ hz = {hz}, databases = {databases}, appendonly = {aof}, \
             appendfsync = \"always\" }}\n[instances.{name}.users.app]\npassword_sha256 = \"{hash}\"\nprivileges = [{rights}]\n{guest}"
        )
    }
}

struct Fleet {
    site: Site,
    wanted: BTreeMap<&'static str, Wanted>,
    absent: Option<&'static str>,
    /// What a digest of each instance's data was when it was last known to be on disk.
    data: BTreeMap<&'static str, String>,
}

impl Fleet {
    fn declare(&self) {
        let tables: String = self.wanted.iter().map(|(name, wanted)| wanted.toml(name, self.absent == Some(name))).collect();
        self.site.declare(&format!("[guard]\nmax_restarts = 3\n{tables}"));
    }

    fn present(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.wanted.keys().copied().filter(|name| self.absent != Some(name))
    }

    /// Everything is as declared, and every key is there.
    fn check(&mut self, round: &str) {
        self.site.run(&["plan"]).expect(0).says("No changes.");
        for name in self.present().collect::<Vec<_>>() {
            let mut client = self.site.client(name, "app", PASSWORD);
            let wanted = &self.wanted[name];
            let shown = client_settings(&mut self.site.operator(name));
            assert_eq!(shown["hz"], wanted.hz.to_string(), "{round} {name}");
            assert_eq!(shown["databases"], wanted.databases.to_string(), "{round} {name}");
            assert_eq!(shown["appendonly"], if wanted.aof { "yes" } else { "no" }, "{round} {name}");
            let guest = self.site.client_or_refusal(name, "guest", PASSWORD);
            assert_eq!(guest.is_ok(), wanted.guest, "{round} {name}");
            if let Some(before) = self.data.get(name) {
                assert_eq!(&digest(&mut client), before, "{round} {name}: keys were lost");
            }
            one_server(&self.site, name, round);
        }
    }

    /// New keys in every instance, on disk whatever its mode.
    fn write(&mut self, random: &mut StdRng) {
        for name in self.present().collect::<Vec<_>>() {
            let mut client = self.site.client(name, "app", PASSWORD);
            let tag: u32 = random.random();
            let commands: String = (0..KEYS).map(|key| format!("SET key:{key} {tag}-{key}\r\n")).collect();
            client.ask_many(&commands, KEYS);
            client.ask(&format!("SET tag {tag}"));
            if !self.wanted[name].aof {
                let saved = self.site.operator(name).ask("BGSAVE");
                assert!(saved.contains("saving started"), "{saved}");
                while !self.site.operator(name).ask("INFO persistence").contains("rdb_bgsave_in_progress:0") {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            self.data.insert(name, digest(&mut client));
        }
    }
}

fn client_settings(client: &mut Client) -> BTreeMap<String, String> {
    let reply = client.ask("CONFIG GET hz databases appendonly");
    let words: Vec<&str> = reply.split(' ').collect();
    words.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
}

/// The order of keys is the server's own, so they are sorted here.
fn digest(client: &mut Client) -> String {
    let keys: Vec<String> = (0..KEYS).map(|key| format!("key:{key}")).collect();
    let values = client.ask(&format!("MGET {} tag", keys.join(" ")));
    format!("{} {values}", client.ask("DBSIZE"))
}

fn one_server(site: &Site, name: &str, round: &str) {
    let data = fs::canonicalize(site.path(&format!("state/data/{name}"))).unwrap();
    let servers = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let of = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let is_server = of("comm").trim() == "valkey-server"
            && !of("cmdline").contains("rdb-bgsave")
            && !of("cmdline").contains("aof-rewrite");
        is_server && fs::read_link(entry.path().join("cwd")).is_ok_and(|folder| folder == data)
    });
    assert_eq!(servers.count(), 1, "{round} {name}");
}

/// Tries to get in without a password, at every port of the site, all the time.
fn poll_for_open_doors(site: &Site, over: &Arc<AtomicBool>) -> std::thread::JoinHandle<(u64, Vec<String>)> {
    let (first, over) = (site.first_port, Arc::clone(over));
    std::thread::spawn(move || {
        let (mut refused, mut served) = (0, Vec::new());
        while !over.load(Ordering::Relaxed) {
            for port in first..first + 6 {
                let Some(reply) = Client::to(port).ok().and_then(|mut client| client.try_ask("DBSIZE")) else { continue };
                if reply.contains("NOAUTH") {
                    refused += 1;
                } else {
                    served.push(format!("{port}: {reply}"));
                }
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        (refused, served)
    })
}

/// Begins an apply and kills it, and sometimes a server as well.
fn crash(fleet: &Fleet, random: &mut StdRng, longest: Duration) {
    let mut child = fleet.site.command(&["apply", "--yes"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(longest.mul_f64(random.random_range(0.0..1.0)));
    child.kill().unwrap();
    child.wait().unwrap();
    if random.random_bool(0.25) {
        let name = INSTANCES[random.random_range(0..INSTANCES.len())];
        let pidfile = fleet.site.path(&format!("state/run/{name}.pid"));
        let pid = fs::read_to_string(pidfile).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(pid) = pid.filter(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            signal(pid, "-9");
        }
    }
}

#[test]
fn a_kill_at_any_moment_is_healed_by_one_apply() {
    let random = &mut StdRng::seed_from_u64(seed());
    let rounds = if soak() { 200 } else { 40 };
    let wanted = INSTANCES.map(|name| (name, Wanted::random(random)));
    let mut fleet = Fleet { site: Site::new(""), wanted: wanted.into(), absent: None, data: BTreeMap::new() };
    let over = Arc::new(AtomicBool::new(false));
    let poller = poll_for_open_doors(&fleet.site, &over);
    fleet.declare();
    let mut longest = Duration::from_millis(300);
    for round in 0..rounds {
        crash(&fleet, random, longest);
        let begin = Instant::now();
        fleet.site.applied();
        // Half of the kills shall come before an apply like this one has ended.
        longest = (longest + begin.elapsed() * 2).div_f64(2.0).clamp(Duration::from_millis(60), Duration::from_secs(1));
        fleet.check(&format!("round {round}"));
        fleet.write(random);
        if let Some(name) = fleet.absent.take() {
            // It was deleted: what comes next under the name is new.
            fleet.data.remove(name);
        }
        for name in INSTANCES {
            if random.random_bool(0.7) {
                fleet.wanted.insert(name, Wanted::random(random));
            }
        }
        if random.random_bool(0.25) {
            fleet.absent = Some(INSTANCES[random.random_range(0..INSTANCES.len())]);
        }
        fleet.declare();
    }
    over.store(true, Ordering::Relaxed);
    let (refused, served) = poller.join().unwrap();
    eprintln!("{refused} strangers refused");
    assert!(refused > 0, "nobody ever knocked");
    assert_eq!(served, [""; 0], "a server was open");
}

fn throwaway_folders(site: &Site) -> Vec<std::path::PathBuf> {
    fs::read_dir(site.scratch.path()).unwrap().flatten().map(|entry| entry.path()).collect()
}

#[test]
fn throwaway_servers_of_a_killed_apply_are_ended_by_the_next() {
    let site = Site::new(&Wanted::random(&mut StdRng::seed_from_u64(1)).toml("a", false));
    let mut child = site.command(&["apply", "--yes"]).spawn().unwrap();
    let begin = Instant::now();
    while !throwaway_folders(&site).iter().any(|folder| folder.join("s.sock").exists()) {
        assert!(begin.elapsed() < Duration::from_secs(30));
        std::thread::sleep(Duration::from_micros(100));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = throwaway_folders(&site);
    assert!(!left.is_empty());
    for folder in &left {
        // Only what is old is taken for left behind.
        let long_ago = std::time::SystemTime::now() - Duration::from_secs(600);
        fs::File::open(folder).unwrap().set_modified(long_ago).unwrap();
    }
    site.applied();
    assert_eq!(throwaway_folders(&site), [""; 0].map(std::path::PathBuf::from));
    let root = fs::canonicalize(site.scratch.path()).unwrap();
    let below = |entry: &fs::DirEntry| fs::read_link(entry.path().join("cwd")).is_ok_and(|folder| folder.starts_with(&root));
    assert_eq!(fs::read_dir("/proc").unwrap().flatten().filter(below).count(), 0, "a throwaway server still runs");
}
