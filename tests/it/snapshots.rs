//! Instances that move as a snapshot, on real servers: two nodes on this machine that do not replicate.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::chance::soak;
use crate::moves::Pair;
use crate::site::Client;
use crate::writers::Writers;

const SNAPSHOT: &str = "move = \"snapshot\"";
const NO_AOF: &str = "move = \"snapshot\"\nconfig = { appendonly = \"no\", save = \"3600 1\" }";

/// Where carried snapshots lie on a node.
fn cargo(pair: &Pair, node: &str) -> Vec<PathBuf> {
    let found = fs::read_dir(pair.site().path(&format!("{node}/set-aside"))).into_iter().flatten().flatten();
    found.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "rdb")).collect()
}

fn moved(keys: &str) {
    let pair = Pair::moved_under_writers(keys);
    assert_eq!((cargo(&pair, "n1"), cargo(&pair, "n2")), (vec![], vec![]));
    // What was carried is on disk, and what came since.
    let before = pair.client("n2").ask("LLEN log:0");
    pair.kill("n2");
    pair.site().applied();
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

/// Applies it with the usual time for its clients.
fn stays_an_hour(pair: &Pair, shard: &str) {
    pair.declare("\"n1\"", shard, SNAPSHOT);
    let text = pair.site().read("fleet.toml").replace("handover_grace = \"0s\"", "handover_grace = \"1h\"");
    pair.site().write("fleet.toml", text);
    pair.site().applied();
}

#[test]
fn clients_of_a_server_that_gave_its_data_away_are_told() {
    let pair = Pair::new();
    let apply = |shard: &str| stays_an_hour(&pair, shard);
    apply("a");
    let mut reader = pair.client("n1");
    assert_eq!(reader.ask("PING"), "+PONG");
    apply("b");
    assert_eq!(reader.try_ask("PING"), None, "it is left believing");
    assert!(pair.client("n1").ask("SET key value").starts_with("-NOREPLICAS"));
}

/// Without the password it cannot, as where the network is closed.
#[test]
fn an_old_server_that_somebody_makes_follow_in_vain_leaves_in_time() {
    let pair = Pair::new();
    stays_an_hour(&pair, "a");
    stays_an_hour(&pair, "b");
    let config = fs::read_to_string(pair.config("n2")).unwrap();
    let port = config.lines().find_map(|line| line.strip_prefix("port ")).unwrap();
    assert_eq!(pair.client("n1").ask(&format!("REPLICAOF 127.0.0.1 {port}")), "+OK");
    pair.site().run(&["plan"]).says("now      leave     n1").says("leaves when guard.handover_grace is over");
    pair.declare("\"n1\"", "b", SNAPSHOT);
    pair.site().applied();
    pair.site().settled();
    assert!(!pair.config("n1").exists());
}

/// Kinds of data of every sort, in several databases.
fn fill(client: &mut Client, megabytes: u32) {
    for line in [
        "SET plain value",
        "SET late value PX 86400000",
        "SET soon value PX 300",
        "ZADD sorted 1.5 a 2 b",
        "HSET hash field value other 2",
        "PFADD count a b c d e",
        // It keeps what it counted in the value.
        "PFCOUNT count",
        "RPUSH list 1 2 3",
        "SADD set x y z",
        "XADD stream 1-1 field value",
        "XADD stream 1-2 field value",
        "XADD stream 1-3 field value",
        "XGROUP CREATE stream group 0",
        "XREADGROUP GROUP group reader COUNT 2 STREAMS stream >",
        "XACK stream group 1-1",
        "FUNCTION LOAD \"#!lua name=lib\\nserver.register_function('double', function(keys, args) return args[1] * 2 end)\"",
        "SELECT 7",
        "SET elsewhere value",
        "SELECT 15",
        "SET farthest value EX 4000",
        "SELECT 0",
    ] {
        let reply = client.ask(line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    assert_eq!(client.ask(&format!("DEBUG POPULATE {} bulk 1000", megabytes * 1000)), "+OK");
}

/// All that there is to compare.
fn shows(client: &mut Client) -> Vec<String> {
    [
        "DEBUG DIGEST",
        "XINFO STREAM stream FULL",
        "XPENDING stream group",
        "FUNCTION LIST WITHCODE",
        "FCALL double 0 21",
        "PEXPIRETIME late",
        "PFCOUNT count",
        "DBSIZE",
    ]
    .into_iter()
    .map(|line| client.ask(line))
    .collect()
}

const DEBUG: &str =
    "move = \"snapshot\"\nmax_memory_mb = 300\nconfig = { enable-debug-command = \"yes\", rdbcompression = \"no\" }";

/// An instance on n1 with data, declared on n2; it is applied until this is seen, and then killed.
fn begun(megabytes: u32, is_there: impl Fn(&Pair) -> bool) -> (Pair, Vec<String>) {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", DEBUG);
    pair.site().applied();
    let mut client = pair.client("n1");
    fill(&mut client, megabytes);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(client.ask("GET soon"), "nothing");
    let before = shows(&mut client);
    pair.declare("\"n1\"", "b", DEBUG);
    interrupt(&pair, is_there);
    (pair, before)
}

/// What is declared is applied until this is seen, and then killed.
fn interrupt(pair: &Pair, is_there: impl Fn(&Pair) -> bool) {
    let mut apply = pair.site().command(&["apply", "--yes"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let since = Instant::now();
    while !is_there(pair) {
        assert!(since.elapsed() < Duration::from_secs(20) && apply.try_wait().unwrap().is_none(), "it was not seen");
        std::thread::sleep(Duration::from_millis(1));
    }
    apply.kill().unwrap();
    apply.wait().unwrap();
}

fn marker(pair: &Pair, node: &str) -> String {
    fs::read_to_string(pair.site().path(&format!("{node}/instances/cache.toml"))).unwrap_or_default()
}

fn is_made(pair: &Pair) -> bool {
    marker(pair, "n1").contains("state = \"made\"")
}

fn is_on_its_way(pair: &Pair) -> bool {
    cargo(pair, "n2").iter().any(|file| fs::metadata(file).is_ok_and(|meta| meta.len() > 4 << 20))
}

#[test]
fn all_kinds_of_data_are_the_same_after_a_move_that_was_killed_on_the_way() {
    let (pair, before) = begun(30, is_on_its_way);
    let [begun] = <[PathBuf; 1]>::try_from(cargo(&pair, "n2")).unwrap();
    let begun = fs::metadata(begun).unwrap().ino();
    pair.site().applied();
    // What had arrived was not carried again: a piece is only ever put where the file ends.
    let placed = pair.site().path("n2/data/cache/appendonlydir/appendonly.aof.1.base.rdb");
    assert_eq!(fs::metadata(placed).unwrap().ino(), begun);
    assert_eq!(shows(&mut pair.client("n2")), before);
    assert_eq!(pair.client("n2").ask("SET plain other"), "+OK");
    pair.site().applied();
    pair.site().settled();
}

#[test]
fn a_piece_that_was_spoiled_on_the_way_is_noticed_and_carried_again() {
    for spoil in [|bytes: &mut Vec<u8>| bytes[1 << 20] ^= 1, |bytes: &mut Vec<u8>| bytes.truncate(1234)] {
        let (pair, before) = begun(30, is_on_its_way);
        let [file] = <[PathBuf; 1]>::try_from(cargo(&pair, "n2")).unwrap();
        let mut bytes = fs::read(&file).unwrap();
        spoil(&mut bytes);
        let whole = bytes.len() > 1234;
        fs::write(&file, bytes).unwrap();
        pair.site().run(&["plan"]).expect(2).says("now      carry     n1 -> n2: ").says(" MiB on n2");
        let ran = pair.site().applied();
        assert_eq!(ran.all().contains("what arrived has another checksum"), whole, "{}", ran.all());
        assert_eq!(shows(&mut pair.client("n2")), before);
    }
}

#[test]
fn a_snapshot_that_is_gone_at_its_source_is_written_again() {
    let (pair, before) = begun(5, is_made);
    cargo(&pair, "n1").iter().for_each(|file| fs::remove_file(file).unwrap());
    pair.site().applied();
    assert_eq!(shows(&mut pair.client("n2")), before);
}

#[test]
fn a_snapshot_that_is_broken_at_its_source_is_written_again() {
    let length = |pair: &Pair, node| cargo(pair, node).iter().map(|file| fs::metadata(file).unwrap().len()).sum::<u64>();
    // Where all of it arrived before the kill did, what is broken at its source is of no matter any more.
    let tries = (0..5).map(|_| begun(30, is_on_its_way)).find(|(pair, _)| length(pair, "n2") < length(pair, "n1"));
    let (pair, before) = tries.expect("a kill that comes in time");
    let [file] = <[PathBuf; 1]>::try_from(cargo(&pair, "n1")).unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.len() - 100;
    bytes[end] ^= 1;
    fs::write(&file, bytes).unwrap();
    let ran = pair.site().applied();
    assert!(ran.all().contains("another snapshot to be written: what arrived has another checksum"), "{}", ran.all());
    assert_eq!(shows(&mut pair.client("n2")), before);
}

#[test]
fn a_snapshot_after_which_somebody_lifted_the_fence_is_not_used() {
    let (pair, _) = begun(5, is_made);
    let mut client = pair.client("n1");
    assert_eq!(client.ask("CONFIG SET min-replicas-to-write 0"), "+OK");
    assert_eq!(client.ask("SET later acknowledged"), "+OK");
    assert_eq!(client.ask("CONFIG SET min-replicas-to-write 1000000"), "+OK");
    pair.site().applied();
    assert_eq!(pair.client("n2").ask("GET later"), "acknowledged");
}

#[test]
fn what_was_set_aside_does_not_give_way_to_a_member_that_never_had_data() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", DEBUG);
    pair.site().applied();
    fill(&mut pair.client("n1"), 5);
    pair.declare("\"n1\"", "b", &DEBUG.replace(SNAPSHOT, "move = \"replication\""));
    pair.site().applied();
    pair.site().applied();
    let kept = || pair.site().run(&["restore", "cache", "--list"]).expect(0).all().split(", deleted").next().unwrap().to_owned();
    let before = kept();
    assert!(before.contains("node n1") && before.contains("MiB"), "{before}");
    pair.declare("\"n1\"", "a", DEBUG);
    interrupt(&pair, |pair| marker(pair, "n1").contains("state = \"awaited\""));
    pair.declare("\"n1\"", "b", DEBUG);
    pair.site().applied();
    pair.site().settled();
    assert_eq!(kept(), before);
}

#[test]
fn a_move_that_is_reverted_before_it_opens_gives_all_of_it_back() {
    for moment in [is_made as fn(&Pair) -> bool, is_on_its_way, |pair| marker(pair, "n2").contains("state = \"placed\"")] {
        let (pair, before) = begun(30, moment);
        if pair.client_or_none("n2").is_some_and(|mut client| client.ask("SET plain value") == "+OK") {
            // It was faster than the eye: after the opening it is a new move.
            continue;
        }
        assert!(pair.client("n1").ask("SET plain other").starts_with("-NOREPLICAS"));
        pair.declare("\"n1\"", "a", DEBUG);
        let plan = std::iter::repeat_with(|| pair.site().run(&["plan"])).find(|plan| !plan.all().contains("is still loading"));
        plan.unwrap().expect(2).says("take writes again");
        pair.site().applied();
        assert_eq!(shows(&mut pair.client("n1")), before);
        assert_eq!(pair.client("n1").ask("SET plain value"), "+OK");
        assert!(!pair.config("n2").exists());
        assert!(!marker(&pair, "n1").contains("snapshot"));
        assert_eq!((cargo(&pair, "n1"), cargo(&pair, "n2")), (vec![], vec![]));
        pair.site().settled();
    }
}

/// Moves there and back again and again; controller, source and target are killed at any moment.
#[test]
fn a_move_as_a_snapshot_that_is_killed_anywhere_is_finished_and_loses_nothing() {
    let seed = std::env::var("VALKEEPER_SEED").map_or(5, |seed| seed.parse().unwrap());
    let rounds = if soak() { 300 } else { 10 };
    eprintln!("seed {seed}");
    let random = &mut StdRng::seed_from_u64(seed);
    let pair = Pair::new();
    let config = "move = \"snapshot\"\nconfig = { appendfsync = \"always\" }";
    pair.declare("\"n1\"", "a", config);
    pair.site().applied();
    let writers = Writers::start(&pair.places());
    let mut longest = Duration::from_millis(1000);
    for round in 0..rounds {
        let shard = if round % 2 == 0 { "b" } else { "a" };
        pair.declare("\"n1\"", shard, config);
        let begin = Instant::now();
        let mut apply = pair.site().command(&["apply", "--yes"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(longest.mul_f64(random.random_range(0.0..1.0)));
        for node in ["n1", "n2"] {
            if random.random_bool(0.3) {
                pair.kill(node);
            }
        }
        apply.kill().unwrap();
        apply.wait().unwrap();
        let mut tries = 0;
        while pair.site().run(&["apply", "--yes"]).code != Some(0) {
            tries += 1;
            assert!(tries < 5, "round {round} does not come to its end: {}", pair.site().apply().all());
        }
        longest = (longest * 3 + begin.elapsed()).div_f64(4.0).min(Duration::from_secs(3));
    }
    writers.end().whole(&format!("{rounds} moves as a snapshot, each killed"), 1000);
}

#[test]
fn writes_may_go_on_during_a_move_where_the_text_says_that_they_are_lost() {
    let pair = Pair::new();
    let keys = "move = \"snapshot-unfenced\"";
    pair.declare("\"n1\"", "a", keys);
    pair.site().applied();
    assert_eq!(pair.client("n1").ask("SET key value"), "+OK");
    let writers = Writers::start(&pair.places());
    pair.declare("\"n1\"", "b", keys);
    let words = "ALL WRITES AFTER THE SNAPSHOT ARE LOST";
    pair.site().run(&["plan"]).expect(2).says(words);
    assert!(pair.site().run(&["plan", "--json"]).expect(2).out.contains("writes-lost"));
    pair.site().applied();
    let account = writers.end();
    eprintln!("{account:?}");
    assert_eq!(account.both_open, 0, "{account:?}");
    assert_eq!(pair.client("n2").ask("GET key"), "value");
    pair.site().applied();
    pair.site().settled();
}

#[test]
fn a_saved_plan_of_a_move_as_a_snapshot_is_carried_through() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", "");
    pair.site().applied();
    assert_eq!(pair.client("n1").ask("SET key value"), "+OK");
    pair.declare("\"n1\"", "b", SNAPSHOT);
    pair.site().run(&["plan", "--out", "saved"]).expect(2).says("take over the snapshot from node n1");
    pair.site().run(&["apply", "saved"]).expect(0);
    assert_eq!(pair.client("n2").ask("GET key"), "value");
    pair.site().settled();
}
