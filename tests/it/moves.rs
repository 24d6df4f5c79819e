//! Instances with replicas, and instances that move, on real servers: two nodes on this machine.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::site::{Client, Site};
use crate::writers::{Places, Writers};

const PASSWORD: &str = "secret";
/// SHA-256 of "secret".
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// A fleet of two nodes with one instance.
struct Pair {
    site: Site,
}

impl Pair {
    fn new() -> Self {
        Self { site: Site::new("") }
    }

    /// `nodes` of shard a, the shard of the instance, and further keys of it.
    fn declare(&self, nodes: &str, shard: &str, keys: &str) {
        let (first, last) = (self.site.first_port, self.site.first_port + 9);
        let user = format!("password_sha256 = \"{HASH}\"\nprivileges = [\"+@all\"]\n");
        self.site.write(
            "fleet.toml",
            format!(
                "[fleet]\nname = \"prod\"\n[guard]\nhandover_grace = \"0s\"\n[nodes.n1]\nlocal = \"./n1\"\n[nodes.n2]\nlocal = \"./n2\"\n\
                 [shards.a]\nnodes = [{nodes}]\nports = \"{first}-{last}\"\n\
                 [shards.b]\nnodes = [\"n2\"]\nports = \"{first}-{last}\"\n\
                 [instances.cache]\nshard = \"{shard}\"\n{keys}\n[instances.cache.users.app]\n{user}"
            ),
        );
    }

    fn config(&self, node: &str) -> PathBuf {
        self.site.path(&format!("{node}/config/cache.conf"))
    }

    fn client(&self, node: &str) -> Client {
        let config = self.site.read(&format!("{node}/config/cache.conf"));
        let port = config.lines().find_map(|line| line.strip_prefix("port ")).unwrap().parse().unwrap();
        let mut client = Client::to(port).unwrap();
        assert_eq!(client.ask(&format!("AUTH app {PASSWORD}")), "+OK");
        client
    }

    fn places(&self) -> Places {
        Places { configs: vec![self.config("n1"), self.config("n2")], user: "app", password: PASSWORD }
    }
}

/// Ends a server as a crash would, if it runs.
fn kill(pair: &Pair, node: &str) {
    let pid = fs::read_to_string(pair.site.path(&format!("{node}/run/cache.pid"))).unwrap_or_default();
    let data = pair.site.path(&format!("{node}/data/cache")).canonicalize();
    let works_there = data.is_ok_and(|data| fs::read_link(format!("/proc/{}/cwd", pid.trim())).is_ok_and(|cwd| cwd == data));
    if works_there {
        let _gone_already = Command::new("kill").args(["-9", pid.trim()]).status();
    }
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_shard_of_two_nodes_is_a_primary_and_its_replica() {
    let pair = Pair::new();
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site.applied();
    pair.site.settled();
    assert_eq!(pair.client("n1").ask("SET key value"), "+OK");
    let mut replica = pair.client("n2");
    until("the key did not come to the replica", || replica.ask("GET key") == "value");
    assert!(replica.ask("SET key other").starts_with("-READONLY"));

    // A setting and a user come to both.
    pair.declare("\"n1\", \"n2\"", "a", "config = { hz = 20 }");
    pair.site.applied();
    for node in ["n1", "n2"] {
        assert_eq!(pair.client(node).ask("CONFIG GET hz"), "hz 20", "{node}");
    }
    pair.site.settled();

    // A replica leaves when its node does.
    pair.declare("\"n1\"", "a", "");
    pair.site.applied();
    assert!(!pair.config("n2").exists());
    assert_eq!(pair.client("n1").ask("GET key"), "value");
    pair.site.applied();
    pair.site.settled();
}

#[test]
fn a_node_that_joins_a_shard_gets_a_replica() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", "");
    pair.site.applied();
    assert_eq!(pair.client("n1").ask("SET key value"), "+OK");
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site.applied();
    pair.site.settled();
    assert_eq!(pair.client("n2").ask("GET key"), "value");
}

#[test]
fn an_instance_moves_under_writers_and_loses_nothing() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", "");
    pair.site.applied();
    let writers = Writers::start(&pair.places());
    std::thread::sleep(Duration::from_millis(300));
    pair.declare("\"n1\"", "b", "");
    pair.site.applied();
    std::thread::sleep(Duration::from_millis(200));
    let account = writers.end();
    eprintln!("{account:?}");
    assert_eq!((account.lost, account.twice, account.both_open), (0, 0, 0), "{account:?}");
    assert!(account.acknowledged > 200, "{account:?}");
    pair.site.applied();
    pair.site.settled();
    assert!(!pair.config("n1").exists());
}

#[test]
fn a_saved_plan_of_a_move_is_carried_through() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", "");
    pair.site.applied();
    assert_eq!(pair.client("n1").ask("SET key value"), "+OK");
    pair.declare("\"n1\"", "b", "");
    pair.site.run(&["plan", "--out", "saved"]).expect(2).says("hand over to node n2").says("delete (node n1)");
    pair.site.run(&["apply", "saved"]).expect(0);
    assert_eq!(pair.client("n2").ask("GET key"), "value");
    assert!(!pair.config("n1").exists());
    pair.site.settled();
}

#[test]
fn a_wished_primary_takes_over_under_writers() {
    let pair = Pair::new();
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site.applied();
    let writers = Writers::start(&pair.places());
    for primary in ["n2", "n1"] {
        pair.declare("\"n1\", \"n2\"", "a", &format!("primary = \"{primary}\""));
        pair.site.applied();
        assert!(pair.client(primary).ask("INFO replication").contains("role:master"), "{primary}");
    }
    let account = writers.end();
    eprintln!("{account:?}");
    assert_eq!((account.lost, account.both_open), (0, 0), "{account:?}");
    pair.site.settled();
}

#[test]
fn a_rolling_restart_hands_over_before_the_primary_goes() {
    let pair = Pair::new();
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site.applied();
    let writers = Writers::start(&pair.places());
    pair.declare("\"n1\", \"n2\"", "a", "config = { databases = 32 }");
    let ran = pair.site.applied();
    let account = writers.end();
    eprintln!("{account:?}");
    assert_eq!((account.lost, account.both_open), (0, 0), "{account:?}");
    assert!(ran.all().contains("hand over to node n2"), "{}", ran.all());
    assert!(pair.client("n2").ask("INFO replication").contains("role:master"));
    for node in ["n1", "n2"] {
        assert_eq!(pair.client(node).ask("CONFIG GET databases"), "databases 32", "{node}");
    }
    pair.site.settled();
}

/// A primary that sends nothing of its data for ten seconds (`rdb-key-save-delay`, a setting for tests of the server).
#[test]
fn an_apply_of_what_makes_no_progress_says_so_and_another_one_goes_on() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", "");
    pair.site.applied();
    let mut old = pair.client("n1");
    (0..5).for_each(|key| assert_eq!(old.ask(&format!("SET key:{key} value")), "+OK"));
    assert_eq!(old.ask("CONFIG SET rdb-key-save-delay 2000000"), "+OK");
    pair.declare("\"n1\"", "b", "");
    let ran = pair.site.run(&["apply", "--yes", "--json", "--patience", "1s"]).expect(1);
    let lines = ran.json_lines();
    let told = lines.iter().filter(|line| line["event"] == "move").map(|line| &line["move"]);
    let last = told.collect::<Vec<_>>().pop().expect("it says nothing of the move");
    let now = last["script"].as_array().unwrap().iter().find(|act| act["progress"] == "now").unwrap();
    assert_eq!((&now["stage"], &last["pace"]["attempt"]), (&"catch-up".into(), &1.into()), "{last:#}");
    assert!(last["waits_for"].as_str().unwrap().contains("waits for its replica on node n2"), "{last:#}");
    assert_eq!(lines.last().unwrap()["stalled"], true);

    let said = pair.site.applied().all();
    assert!(said.contains("now      catch-up  n2") && said.contains("cache: catch-up: "), "{said}");
    assert_eq!(pair.client("n2").ask("GET key:0"), "value");
    pair.site.applied();
    pair.site.settled();
}

/// Moves there and back again and again; controller, source and target are killed at any moment.
#[test]
fn a_move_that_is_killed_anywhere_is_finished_and_loses_nothing() {
    let seed = std::env::var("VALKEEPER_SEED").map_or(7, |seed| seed.parse().unwrap());
    let rounds = if std::env::var_os("VALKEEPER_SOAK").is_some() { 300 } else { 20 };
    eprintln!("seed {seed}");
    let random = &mut StdRng::seed_from_u64(seed);
    let pair = Pair::new();
    let config = "config = { appendfsync = \"always\" }";
    pair.declare("\"n1\"", "a", config);
    pair.site.applied();
    let writers = Writers::start(&pair.places());
    let mut longest = Duration::from_millis(800);
    for round in 0..rounds {
        let shard = if round % 2 == 0 { "b" } else { "a" };
        pair.declare("\"n1\"", shard, config);
        let begin = Instant::now();
        let mut apply = pair.site.command(&["apply", "--yes"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(longest.mul_f64(random.random_range(0.0..1.0)));
        for node in ["n1", "n2"] {
            if random.random_bool(0.3) {
                kill(&pair, node);
            }
        }
        apply.kill().unwrap();
        apply.wait().unwrap();
        // A server that was killed while a step spoke with it makes that step fail: what is left is for the next one.
        let mut tries = 0;
        while pair.site.run(&["apply", "--yes"]).code != Some(0) {
            tries += 1;
            assert!(tries < 5, "round {round} does not come to its end: {}", pair.site.apply().all());
        }
        longest = (longest * 3 + begin.elapsed()).div_f64(4.0).min(Duration::from_secs(3));
    }
    let account = writers.end();
    eprintln!("{account:?}");
    assert_eq!((account.lost, account.both_open), (0, 0), "{account:?}");
    assert!(account.acknowledged > 1000, "{account:?}");
}
