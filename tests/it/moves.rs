//! Instances with replicas, and instances that move, on real servers: two nodes on this machine.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::site::{Client, Site};
use crate::ssh_nodes::Hosts;
use crate::support::signal;
use crate::writers::{Account, Places, Writers};

pub const PASSWORD: &str = "secret";
/// SHA-256 of "secret".
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

/// A fleet of two nodes with one instance.
pub struct Pair {
    ground: Ground,
}

enum Ground {
    Folders(Site),
    Ssh(Hosts),
}

impl Pair {
    pub fn new() -> Self {
        Self { ground: Ground::Folders(Site::new("")) }
    }

    /// The same with nodes behind ssh, each with its agent.
    pub fn behind_ssh() -> Self {
        Self { ground: Ground::Ssh(Hosts::new()) }
    }

    /// One whose instance, with these keys, was moved while it was written to.
    pub fn moved_under_writers(keys: &str) -> Self {
        let pair = Pair::new();
        pair.declare("\"n1\"", "a", keys);
        pair.site().applied();
        let writers = Writers::start(&pair.places());
        std::thread::sleep(Duration::from_millis(300));
        pair.declare("\"n1\"", "b", keys);
        pair.site().applied();
        std::thread::sleep(Duration::from_millis(200));
        let account = writers.end().whole("a move", 200);
        assert_eq!(account.twice_in_doubt, 0, "every connection had its answer before it was closed: {account:?}");
        pair.site().applied();
        pair.site().settled();
        assert!(!pair.config("n1").exists());
        pair
    }

    pub fn site(&self) -> &Site {
        match &self.ground {
            Ground::Folders(site) => site,
            Ground::Ssh(hosts) => &hosts.site,
        }
    }

    pub fn is_behind_ssh(&self) -> bool {
        matches!(self.ground, Ground::Ssh(_))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        match &self.ground {
            Ground::Folders(site) => site.command(arguments),
            Ground::Ssh(hosts) => hosts.command(arguments),
        }
    }

    /// `nodes` of shard a, the shard of the instance, and further keys of it.
    pub fn declare(&self, nodes: &str, shard: &str, keys: &str) {
        let (first, last) = (self.site().first_port, self.site().first_port + 9);
        let user = format!("password_sha256 = \"{HASH}\"\nprivileges = [\"+@all\"]\n");
        let node = |name: &str| match self.is_behind_ssh() {
            true => format!("[nodes.{name}]\nssh = \"{name}\"\naddress = \"127.0.0.1\"\n"),
            false => format!("[nodes.{name}]\nlocal = \"./{name}\"\n"),
        };
        let text = format!(
            "[fleet]\nname = \"prod\"\n[guard]\nhandover_grace = \"0s\"\n{}{}\
             [shards.a]\nnodes = [{nodes}]\nports = \"{first}-{last}\"\n\
             [shards.b]\nnodes = [\"n2\"]\nports = \"{first}-{last}\"\n\
             [instances.cache]\nshard = \"{shard}\"\n{keys}\n[instances.cache.users.app]\n{user}",
            node("n1"),
            node("n2"),
        );
        // At once: a daemon may be watching.
        self.site().write(".fleet.toml.new", text);
        fs::rename(self.site().path(".fleet.toml.new"), self.site().path("fleet.toml")).unwrap();
    }

    pub fn config(&self, node: &str) -> PathBuf {
        self.site().path(&format!("{node}/config/cache.conf"))
    }

    pub fn port(&self, node: &str) -> u16 {
        let config = self.site().read(&format!("{node}/config/cache.conf"));
        config.lines().find_map(|line| line.strip_prefix("port ")).unwrap().parse().unwrap()
    }

    pub fn client(&self, node: &str) -> Client {
        let mut client = Client::to(self.port(node)).unwrap();
        assert_eq!(client.ask(&format!("AUTH app {PASSWORD}")), "+OK");
        client
    }

    /// The same, if it is there and lets anybody in.
    pub fn client_or_none(&self, node: &str) -> Option<Client> {
        let config = fs::read_to_string(self.config(node)).ok()?;
        let port = config.lines().find_map(|line| line.strip_prefix("port "))?.parse().ok()?;
        let mut client = Client::to(port).ok()?;
        (client.try_ask(&format!("AUTH app {PASSWORD}"))? == "+OK").then_some(client)
    }

    pub fn places(&self) -> Places {
        let configs = ["n1", "n2"].map(|node| (self.config(node), [127, 0, 0, 1].into()));
        Places { configs: configs.into(), user: "app", password: PASSWORD, patience: Duration::from_secs(10) }
    }

    /// Ends a server as a crash would, if it runs.
    pub fn kill(&self, node: &str) {
        let pid = fs::read_to_string(self.site().path(&format!("{node}/run/cache.pid"))).unwrap_or_default();
        let data = self.site().path(&format!("{node}/data/cache")).canonicalize();
        let works_there = data.is_ok_and(|data| fs::read_link(format!("/proc/{}/cwd", pid.trim())).is_ok_and(|cwd| cwd == data));
        if works_there {
            let _gone_already = Command::new("kill").args(["-9", pid.trim()]).status();
        }
    }

    /// Ends the agents of a node as a crash would.
    pub fn kill_agent(&self, node: &str) {
        let folder = self.site().path(node);
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            if words.windows(3).any(|words| words == [&b"agent"[..], b"--folder", folder.as_os_str().as_encoded_bytes()]) {
                let _gone_already = Command::new("kill").arg("-9").arg(entry.file_name()).status();
            }
        }
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
    pair.site().applied();
    pair.site().settled();
    assert_eq!(pair.client("n1").ask("SET key value"), "+OK");
    let mut replica = pair.client("n2");
    until("the key did not come to the replica", || replica.ask("GET key") == "value");
    assert!(replica.ask("SET key other").starts_with("-READONLY"));

    // A setting and a user come to both.
    pair.declare("\"n1\", \"n2\"", "a", "config = { hz = 20 }");
    pair.site().applied();
    for node in ["n1", "n2"] {
        assert_eq!(pair.client(node).ask("CONFIG GET hz"), "hz 20", "{node}");
    }
    pair.site().settled();

    // A replica leaves when its node does.
    pair.declare("\"n1\"", "a", "");
    pair.site().applied();
    assert!(!pair.config("n2").exists());
    assert_eq!(pair.client("n1").ask("GET key"), "value");
    pair.site().applied();
    pair.site().settled();
}

/// As systemd or a boot starts it again: from its config file, and nobody of ours about.
#[test]
fn a_replica_that_is_started_again_without_valkeeper_follows_by_itself() {
    let pair = Pair::new();
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site().applied();
    for (primary, replica) in [("n1", "n2"), ("n2", "n1")] {
        pair.declare("\"n1\", \"n2\"", "a", &format!("primary = \"{primary}\""));
        pair.site().applied();
        pair.kill(replica);
        until("the killed server has its port still", || Client::to(pair.port(replica)).is_err());
        assert_eq!(pair.client(primary).ask(&format!("SET since {replica}")), "+OK");
        let mut by_hand = Command::new("valkey-server").arg(pair.config(replica)).stdout(Stdio::null()).spawn().unwrap();
        until("the server does not come up", || Client::to(pair.port(replica)).is_ok());
        until("the replica does not follow", || pair.client(replica).ask("GET since") == replica);
        pair.site().settled();
        pair.kill(replica);
        by_hand.wait().unwrap();
        pair.site().applied();
    }
}

#[test]
fn the_file_of_a_replicas_password_is_kept_right_and_shown_nowhere() {
    let pair = Pair::new();
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site().applied();
    let (path, others) = (pair.site().path("n2/instances/cache.replication"), pair.site().path("n1/instances/cache.replication"));
    let right = fs::read_to_string(&path).unwrap();
    let password = right.lines().find_map(|line| line.strip_prefix("primaryauth ")).unwrap();
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), others.exists()), (0o600, false));
    let open = fs::Permissions::from_mode(0o644);
    let spoilt: [(&str, &dyn Fn()); 4] = [
        ("is missing", &|| fs::remove_file(&path).unwrap()),
        ("is not as valkeeper wrote it", &|| fs::write(&path, "primaryauth other\n").unwrap()),
        ("others may read", &|| fs::set_permissions(&path, open.clone()).unwrap()),
        ("though it follows nobody", &|| fs::write(&others, &right).unwrap()),
    ];
    for (words, spoil) in spoilt {
        spoil();
        let plan = pair.site().run(&["plan"]).expect(2).says(words);
        assert!(plan.all().contains("Plan: 0 to add, 1 to change, 0 to remove."), "{}", plan.all());
        let said = [plan, pair.site().run(&["plan", "--json"]), pair.site().run(&["observe"]), pair.site().applied()];
        said.iter().for_each(|ran| assert!(!ran.all().contains(password), "{words}: {}", ran.all()));
        pair.site().settled();
        assert_eq!((mode(&path), others.exists()), (0o600, false));
        assert_eq!(fs::read_to_string(&path).unwrap(), right);
    }
    // Without the line that includes it the file is good for nothing.
    let config = fs::read_to_string(pair.config("n2")).unwrap();
    assert!(!config.contains(password), "{config}");
    let without: String = config.lines().filter(|line| !line.starts_with("include")).map(|line| format!("{line}\n")).collect();
    fs::write(pair.config("n2"), without).unwrap();
    pair.site().run(&["plan"]).expect(2).says("include of the password");
    pair.site().applied();
    pair.site().settled();
    assert_eq!(fs::read_to_string(pair.config("n2")).unwrap(), config);
    // A member that leaves takes it along.
    pair.declare("\"n1\"", "a", "");
    pair.site().applied();
    pair.site().applied();
    assert!(!path.exists());
}

#[test]
fn a_node_that_joins_a_shard_gets_a_replica() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", "");
    pair.site().applied();
    assert_eq!(pair.client("n1").ask("SET key value"), "+OK");
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site().applied();
    pair.site().settled();
    assert_eq!(pair.client("n2").ask("GET key"), "value");
}

#[test]
fn an_instance_moves_under_writers_and_loses_nothing() {
    Pair::moved_under_writers("");
}

#[test]
fn a_cache_that_keeps_nothing_moves_when_that_is_approved() {
    let pair = Pair::new();
    let nothing = "config = { appendonly = false, save = \"\" }";
    pair.declare("\"n1\"", "a", nothing);
    pair.site().applied();
    assert_eq!(pair.client("n1").ask("SET key value"), "+OK");
    pair.declare("\"n1\"", "b", nothing);
    let plan = pair.site().run(&["plan"]).expect(2).says("join: its server on node n1 keeps nothing on disk").all();
    pair.site().apply();
    assert!(!pair.config("n2").exists());
    let revision = plan.split("valkeeper approve ").nth(1).unwrap().split('"').next().unwrap();
    pair.site().run(&["approve", revision]).expect(0);
    pair.site().applied();
    assert_eq!(pair.client("n2").ask("GET key"), "value");
}

#[test]
fn a_saved_plan_of_a_move_is_carried_through() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", "");
    pair.site().applied();
    assert_eq!(pair.client("n1").ask("SET key value"), "+OK");
    pair.declare("\"n1\"", "b", "");
    pair.site().run(&["plan", "--out", "saved"]).expect(2).says("hand over to node n2").says("delete (node n1)");
    pair.site().run(&["apply", "saved"]).expect(0);
    assert_eq!(pair.client("n2").ask("GET key"), "value");
    assert!(!pair.config("n1").exists());
    pair.site().settled();
}

#[test]
fn a_wished_primary_takes_over_under_writers() {
    let pair = Pair::new();
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site().applied();
    let writers = Writers::start(&pair.places());
    for primary in ["n2", "n1"] {
        pair.declare("\"n1\", \"n2\"", "a", &format!("primary = \"{primary}\""));
        pair.site().applied();
        assert!(pair.client(primary).ask("INFO replication").contains("role:master"), "{primary}");
    }
    let account = writers.end().whole("two switch-overs", 200);
    // Writers are held back, and then hear READONLY. On a machine that is busy elsewhere some of the sixteen come too late.
    assert!(account.refused < 8, "{account:?}");
    pair.site().settled();
}

#[test]
fn a_rolling_restart_hands_over_before_the_primary_goes() {
    let pair = Pair::new();
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site().applied();
    let writers = Writers::start(&pair.places());
    pair.declare("\"n1\", \"n2\"", "a", "config = { databases = 32 }");
    let ran = pair.site().applied();
    writers.end().whole("a rolling restart", 200);
    assert!(ran.all().contains("hand over to node n2"), "{}", ran.all());
    assert!(pair.client("n2").ask("INFO replication").contains("role:master"));
    for node in ["n1", "n2"] {
        assert_eq!(pair.client(node).ask("CONFIG GET databases"), "databases 32", "{node}");
    }
    pair.site().settled();
}

/// A primary that sends nothing of its data for ten seconds (`rdb-key-save-delay`, a setting for tests of the server).
#[test]
fn an_apply_of_what_makes_no_progress_says_so_and_another_one_goes_on() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", "");
    pair.site().applied();
    let mut old = pair.client("n1");
    (0..5).for_each(|key| assert_eq!(old.ask(&format!("SET key:{key} value")), "+OK"));
    assert_eq!(old.ask("CONFIG SET rdb-key-save-delay 2000000"), "+OK");
    pair.declare("\"n1\"", "b", "");
    let ran = pair.site().run(&["apply", "--yes", "--json", "--patience", "1s"]).expect(1);
    let lines = ran.json_lines();
    let told = lines.iter().filter(|line| line["event"] == "move").map(|line| &line["move"]);
    let last = told.collect::<Vec<_>>().pop().expect("it says nothing of the move");
    let now = last["script"].as_array().unwrap().iter().find(|act| act["progress"] == "now").unwrap();
    assert_eq!((&now["stage"], &last["pace"]["attempt"]), (&"catch-up".into(), &1.into()), "{last:#}");
    assert!(last["waits_for"]["why"].as_str().unwrap().contains("waits for its replica on node n2"), "{last:#}");
    assert_eq!(lines.last().unwrap()["stalled"], true);

    let said = pair.site().applied().all();
    assert!(said.contains("now      catch-up  n2") && said.contains("cache: catch-up: "), "{said}");
    assert_eq!(pair.client("n2").ask("GET key:0"), "value");
    pair.site().applied();
    pair.site().settled();
}

/// The server of a member, as the kernel knows it.
fn pid(pair: &Pair, node: &str) -> u32 {
    pair.site().read(&format!("{node}/run/cache.pid")).trim().parse().unwrap()
}

/// The text is put back: the source was open all the while or is again, the target has left, and nothing is lost.
fn put_back(pair: &Pair, writers: Writers) -> Account {
    pair.declare("\"n1\"", "a", "");
    pair.site().applied();
    pair.site().applied();
    pair.site().settled();
    assert!(!pair.config("n2").exists());
    let account = writers.end().whole("a move that was put back", 200);
    assert_eq!(pair.client("n1").ask("GET key:0"), "value");
    // Nobody is left who might follow.
    assert_eq!(pair.client("n1").ask("ACL GETUSER valkeeper-replica"), "nothing");
    account
}

#[test]
fn a_move_whose_target_hangs_is_reverted_and_no_write_was_refused() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", "");
    pair.site().applied();
    let mut old = pair.client("n1");
    (0..5).for_each(|key| assert_eq!(old.ask(&format!("SET key:{key} value")), "+OK"));
    let writers = Writers::start(&pair.places());
    // So that it does not get everything before it hangs.
    assert_eq!(old.ask("CONFIG SET rdb-key-save-delay 1000000"), "+OK");
    pair.declare("\"n1\"", "b", "");
    pair.site().run(&["apply", "--yes", "--patience", "1s"]).expect(1).says("now      catch-up  n2");
    let target = pid(&pair, "n2");
    signal(target, "-STOP");
    pair.declare("\"n1\"", "a", "");
    // It is not deleted unseen.
    pair.site().run(&["apply", "--yes", "--patience", "25ms"]).expect(1).says("does not answer");
    assert!(pair.config("n2").exists());
    signal(target, "-CONT");
    let account = put_back(&pair, writers);
    assert_eq!(account.refused, 0, "{account:?}");
}

/// The controller dies at the effect that fences, and the text is put back before another one comes.
#[test]
fn a_move_that_is_reverted_in_its_cut_over_goes_back_to_the_source() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", "");
    pair.site().applied();
    assert_eq!(pair.client("n1").ask("SET key:0 value"), "+OK");
    let writers = Writers::start(&pair.places());
    pair.declare("\"n1\"", "b", "");
    let mut apply = pair.site().command(&["apply", "--yes", "--json"]).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(apply.stdout.take().unwrap()).lines().map(Result::unwrap);
    let is_at = |line: &String, doing: &str| line.contains(&format!("{{\"doing\":\"{doing}\",")) && line.contains("cut-over");
    lines.find(|line| is_at(line, "holding back its writers")).expect("it does not come to its cut-over");
    lines.find(|line| is_at(line, "setting what can be set live")).expect("it sets no fence");
    apply.kill().unwrap();
    apply.wait().unwrap();
    let fence = "min-replicas-to-write 1000000";
    assert!(fs::read_to_string(pair.config("n1")).unwrap().contains(fence), "it is not fenced");
    put_back(&pair, writers);
}

/// The new primary hangs in the cut-over, and the controller dies before it can call that off.
#[test]
fn a_fence_whose_target_hangs_is_lifted_when_it_was_held_for_too_long() {
    let pair = Pair::new();
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site().applied();
    let writers = Writers::start(&pair.places());
    pair.declare("\"n1\", \"n2\"", "a", "primary = \"n2\"");
    let mut apply = pair.site().command(&["apply", "--yes", "--json"]).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(apply.stdout.take().unwrap()).lines().map(Result::unwrap);
    let is_at = |line: &String, doing: &str| line.contains(&format!("{{\"doing\":\"{doing}\",")) && line.contains("cut-over");
    lines.find(|line| is_at(line, "writing its config file")).expect("it does not come to its cut-over");
    let target = pid(&pair, "n2");
    signal(target, "-STOP");
    lines.find(|line| is_at(line, "setting what can be set live")).expect("it sets no fence");
    std::thread::sleep(Duration::from_millis(100));
    apply.kill().unwrap();
    apply.wait().unwrap();
    let fence = || pair.client("n1").ask("CONFIG GET min-replicas-to-write");
    let once = || pair.site().run(&["apply", "--yes", "--patience", "25ms"]).expect(1);
    once().says("does not answer");
    assert_eq!(fence(), "min-replicas-to-write 1000000", "who was slow for a moment takes over yet");
    let marker = pair.site().path("n1/instances/cache.toml");
    let text = fs::read_to_string(&marker).unwrap();
    let since =
        text.lines().find(|line| line.starts_with("disturbed = ")).expect("its marker does not say since when it is fenced");
    fs::write(&marker, text.replace(since, "disturbed = \"2026-11-01T00:00:00Z\"")).unwrap();
    once().says("take writes again");
    assert_eq!(fence(), "min-replicas-to-write 0");
    signal(target, "-CONT");
    pair.site().applied();
    pair.site().settled();
    assert!(pair.client("n2").ask("INFO replication").contains("role:master"));
    let account = writers.end();
    assert_eq!((account.lost, account.twice, account.both_open), (0, 0, 0), "{account:?}");
}

#[test]
fn a_deleted_group_is_brought_back_from_its_primary() {
    let pair = Pair::new();
    pair.declare("\"n1\", \"n2\"", "a", "");
    pair.site().applied();
    assert_eq!(pair.client("n1").ask("SET kept yes"), "+OK");
    pair.declare("\"n1\", \"n2\"", "a", "ensure = \"absent\"");
    pair.site().applied();
    pair.declare("\"n1\", \"n2\"", "a", "");
    let which = pair.site().run(&["restore", "cache", "--yes"]).expect(1).says("--node");
    which.says("node n1,").says("node n2 (a replica),");
    pair.site().run(&["restore", "cache", "--node", "n1", "--yes"]).expect(0).says("is back");
    pair.site().applied();
    pair.site().settled();
    for node in ["n1", "n2"] {
        let begun = Instant::now();
        while pair.client(node).ask("GET kept") != "yes" {
            assert!(begun.elapsed() < Duration::from_secs(10), "{node}");
        }
    }
}
