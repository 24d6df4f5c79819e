//! A move as those see it who watch: the script in the status, the scrape and the plan, and what becomes of the clients.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use super::{Daemon, PASSWORD, Post, instance};
use crate::client::Client;

/// The instance on this shard, with two nodes; clients of a server that leaves have this time.
pub(super) fn tables(post: &Post, shard: &str, grace: &str) -> String {
    let (first, last) = (post.site.first_port, post.site.first_port + 9);
    let cache = instance("cache", "").replace("shard = \"a\"", &format!("shard = \"{shard}\""));
    format!(
        "[guard]\nhandover_grace = \"{grace}\"\n[nodes.there]\nlocal = \"./there\"\n[shards.b]\nnodes = [\"there\"]\n\
         ports = \"{first}-{last}\"\n{cache}channels = [\"&*\"]\n"
    )
}

pub(super) fn client(post: &Post, folder: &str) -> Client {
    let config = post.site.read(&format!("{folder}/config/cache.conf"));
    let port = config.lines().find_map(|line| line.strip_prefix("port ")).unwrap().parse().unwrap();
    let mut client = Client::to(port).unwrap();
    assert_eq!(client.ask(&format!("AUTH app {PASSWORD}")), "+OK");
    client
}

pub(super) fn moving(status: &Value) -> &Value {
    &status["instances"]["cache"]["moving"]
}

/// The stage that is now.
pub(super) fn stage(moving: &Value) -> Option<&str> {
    let script = moving["script"].as_array()?;
    script.iter().find(|act| act["progress"] == "now").and_then(|act| act["stage"].as_str())
}

fn stages(moving: &Value) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    moving["script"].as_array().unwrap().iter().map(|act| (word(&act["stage"]), word(&act["progress"]))).collect()
}

/// A server that sends its data slowly: 20 ms for each of 300 keys (`rdb-key-save-delay`, a setting for tests of the server).
pub(super) fn made_slow(post: &Post) {
    let mut client = client(post, "state");
    // Nothing that the server could make smaller.
    let random = &mut StdRng::seed_from_u64(1);
    let mut value = || (0..20_000).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect::<String>();
    let sets: String = (0..300).map(|key| format!("SET key:{key} {}\r\n", value())).collect();
    client.ask_many(&sets, 300);
    assert_eq!(client.ask("CONFIG SET rdb-key-save-delay 20000"), "+OK");
}

#[test]
fn a_move_is_visible_all_the_way_until_its_clients_have_gone() {
    let post = Post::bare();
    let first = post.commit(&tables(&post, "a", "1h"));
    let daemon = post.start();
    daemon.settles(&first);
    assert!(!daemon.metrics().contains("valkeeper_move_"));
    made_slow(&post);
    let (mut idle, mut subscriber) = (client(&post, "state"), client(&post, "state"));
    assert!(subscriber.ask("SUBSCRIBE news").starts_with("subscribe"));

    post.commit(&tables(&post, "b", "1h"));
    let is_measured =
        |status: &Value| stage(moving(status)) == Some("catch-up") && moving(status)["pace"]["per_second"].as_u64() > Some(0);
    let status = daemon.until("catching up at some rate", is_measured);
    while_it_catches_up(&post, &daemon, moving(&status));

    let status = daemon.until("at its last stage", |status| stage(moving(status)) == Some("leave"));
    let leaves = moving(&status);
    assert!(stages(leaves).iter().all(|(stage, progress)| (stage == "leave") == (progress == "now")), "{leaves:#}");
    assert_eq!((&leaves["from"]["node"], &leaves["to"]["node"]), (&"here".into(), &"there".into()));
    assert_ne!(leaves["from"]["address"], leaves["to"]["address"]);

    // Nobody is left believing.
    assert_eq!(idle.try_ask("PING"), None);
    assert_eq!(subscriber.try_ask("PING"), None);
    let mut old = client(&post, "state");
    assert!(old.ask("SET key:1 value").starts_with("-READONLY"));
    assert_eq!(client(&post, "there").ask("STRLEN key:1"), ":20000");
    daemon.sync();
    let status = daemon.until("counting who remains", |status| moving(status)["remaining"][0]["connections"] == 1);
    assert!(moving(&status)["remaining"][0]["until"].is_string(), "{status:#}");
    let remains = "valkeeper_move_remaining_connections{instance=\"cache\",node=\"here\"}";
    assert_eq!(daemon.series(remains), Some(1.0));
    assert_eq!(daemon.series("valkeeper_replica_link_up{instance=\"cache\",node=\"here\"}"), Some(1.0));

    let last = post.commit(&tables(&post, "b", "0s"));
    daemon.settles(&last);
    daemon.until("at rest", |status| moving(status).is_null());
    let scrape = daemon.metrics();
    assert!(!scrape.contains("valkeeper_move_") && !scrape.contains("valkeeper_replica_"), "{scrape}");
}

/// Status, scrape and plan say the same.
fn while_it_catches_up(post: &Post, daemon: &Daemon, moving: &Value) {
    let names = ["join", "catch-up", "cut-over", "promote", "open", "demote", "leave"];
    assert_eq!(stages(moving).iter().map(|(stage, _)| stage.as_str()).collect::<Vec<_>>(), names);
    assert_eq!(moving["amount"]["of"], "dataset-of-unknown-size");
    assert_eq!(daemon.series("valkeeper_move_stage{instance=\"cache\",stage=\"catch-up\"}"), Some(1.0));
    assert_eq!(daemon.series("valkeeper_replica_link_up{instance=\"cache\",node=\"there\"}"), Some(0.0));
    assert!(daemon.series("valkeeper_move_done_bytes{instance=\"cache\"}") > Some(0.0));
    assert_eq!(daemon.series("valkeeper_move_attempt{instance=\"cache\"}"), Some(1.0));
    let said = daemon.say(&post.site, &["status"]).all();
    assert!(said.contains("now      catch-up  there: ") && said.contains("/s, "), "{said}");
    let plan = post.site.run(&["plan", "--json"]).json();
    assert_eq!(stages(&plan["moves"][0]), stages(moving));
    assert!(plan["moves"][0].get("pace").is_none(), "one look has no pace");
}

/// 8 s for 2,500 keys: the server counts what it has written at each 1,024th, and a step waits 3 s.
fn saves_slowly(post: &Post) {
    let mut client = client(post, "state");
    let sets: String = (0..2500).map(|key| format!("SET key:{key} value\r\n")).collect();
    client.ask_many(&sets, 2500);
    assert_eq!(client.ask("CONFIG SET rdb-key-save-delay 3200"), "+OK");
}

/// The one stage that is measured in keys: a save of a small instance is over in milliseconds, so here it is slow.
#[test]
fn a_move_as_a_snapshot_shows_how_many_keys_are_saved() {
    let post = Post::bare();
    let tables = |shard| tables(&post, shard, "0s").replace("[instances.cache]\n", "[instances.cache]\nmove = \"snapshot\"\n");
    let first = post.commit(&tables("a"));
    let daemon = post.start();
    daemon.settles(&first);
    saves_slowly(&post);
    post.site.run(&["plan"]).expect(0);

    let last = post.commit(&tables("b"));
    let is_measured =
        |status: &Value| stage(moving(status)) == Some("save") && moving(status)["pace"]["per_second"].as_u64() > Some(0);
    let status = daemon.until("saving at some rate", is_measured);
    while_it_saves(&daemon, &post, moving(&status));
    // Not again when the old server ends.
    assert_eq!(client(&post, "state").ask("CONFIG SET rdb-key-save-delay 0"), "+OK");

    daemon.settles(&last);
    daemon.until("at rest", |status| moving(status).is_null());
    let scrape = daemon.metrics();
    assert!(!scrape.contains("valkeeper_move_"), "{scrape}");
    assert_eq!(client(&post, "there").ask("DBSIZE"), ":2500");
}

/// Status and scrape say the same, in keys and not in bytes.
fn while_it_saves(daemon: &Daemon, post: &Post, moving: &Value) {
    let names = ["join", "fence", "save", "carry", "open", "leave"];
    assert_eq!(stages(moving).iter().map(|(stage, _)| stage.as_str()).collect::<Vec<_>>(), names);
    assert_eq!((&moving["amount"]["of"], &moving["amount"]["total"]), (&"keys".into(), &2500.into()));
    let (scrape, said) = (daemon.metrics(), daemon.say(&post.site, &["status"]).all());
    let series = |name: &str| scrape.lines().find_map(|line| line.strip_prefix(&format!("{name}{{instance=\"cache\"}} ")));
    let done = moving["amount"]["done"].to_string();
    assert_eq!(series("valkeeper_move_done_keys"), Some(done.as_str()), "{scrape}");
    assert_eq!(series("valkeeper_move_total_keys"), Some("2500"));
    assert_eq!(series("valkeeper_move_attempt"), Some("1"), "a save that goes on is one");
    assert!(series("valkeeper_move_left_seconds").is_some(), "{scrape}");
    assert!(scrape.contains("valkeeper_move_stage{instance=\"cache\",stage=\"save\"} 1\n"), "{scrape}");
    for absent in ["valkeeper_move_done_bytes{", "valkeeper_move_bytes_per_second{", "valkeeper_move_waiting{"] {
        assert!(!scrape.contains(absent), "{absent} {scrape}");
    }
    assert!(said.contains("of 2500 keys of here written, ") && said.contains(" keys/s, "), "{said}");
}

/// Somebody fences the primary, and the daemon is told to leave it alone.
#[test]
fn a_fence_that_is_held_is_seen_and_lifted() {
    let post = Post::bare();
    let tables = tables(&post, "b", "0s").replace("nodes = [\"there\"]", "nodes = [\"here\", \"there\"]");
    let revision = post.commit(&tables);
    let daemon = post.start();
    daemon.settles(&revision);
    let held = "valkeeper_fence_held_seconds{instance=\"cache\",node=\"here\"}";
    assert_eq!(daemon.series(held), None);
    assert_eq!(daemon.series("valkeeper_replica_lag_bytes{instance=\"cache\",node=\"there\"}"), Some(0.0));

    daemon.say(&post.site, &["suspend", "cache", "--reason", "a test", "--for", "1h"]).expect(0);
    let fence = "CONFIG SET min-replicas-to-write 1000000 min-replicas-max-lag 10";
    assert_eq!(client(&post, "state").ask(fence), "+OK");
    daemon.sync();
    daemon.until("fenced", |status| status["instances"]["cache"]["members"]["here"]["role"] == "fenced");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    daemon.sync();
    assert!(daemon.series(held) >= Some(1.0), "{:?}", daemon.series(held));
    let said = daemon.say(&post.site, &["status"]).all();
    assert!(said.contains("here fenced for 1s") || said.contains("here fenced for 2s"), "{said}");

    daemon.say(&post.site, &["resume", "cache"]).expect(0);
    daemon.sync();
    assert_eq!(client(&post, "state").ask("SET key value"), "+OK");
    assert_eq!(daemon.series(held), None);
}
