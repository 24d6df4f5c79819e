//! Instances with replicas, and instances that move, on real servers: two nodes on this machine.

use std::path::PathBuf;
use std::time::{Duration, Instant};

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
