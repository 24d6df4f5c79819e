//! What is refused until a person has looked, brought about by hand on real servers: the plan says why, an apply and a daemon
//! touch nothing, and the alarm is in the scrape. When the person has put it right, all goes on by itself.

use std::fs;

use super::moving::client;
use super::{Post, instance};
use crate::client::Client;
use crate::support::signal;

/// The instance on this shard: `both`, or only there (`b`).
fn tables(post: &Post, shard: &str, keys: &str) -> String {
    let (first, last) = (post.site.first_port, post.site.first_port + 9);
    let ports = format!("ports = \"{first}-{last}\"");
    let cache = instance("cache", "").replace("shard = \"a\"", &format!("shard = \"{shard}\"\n{keys}"));
    format!(
        "[guard]\nhandover_grace = \"0s\"\n[nodes.there]\nlocal = \"./there\"\n[shards.both]\nnodes = [\"here\", \"there\"]\n{ports}\n\
         [shards.b]\nnodes = [\"there\"]\n{ports}\n{cache}"
    )
}

/// The folders of the two nodes.
const NODES: [&str; 2] = ["state", "there"];

/// The files of both members, and the roles of these.
fn state(post: &Post, who_answer: &[&str]) -> Vec<String> {
    let files = NODES.iter().flat_map(|node| ["config/cache.conf", "instances/cache.toml"].map(|file| format!("{node}/{file}")));
    let files = files.map(|file| fs::read_to_string(post.site.path(&file)).unwrap_or_default());
    let role = |mut client: Client| {
        let info = client.try_ask("INFO replication").unwrap_or_default();
        let telling = ["role:", "master_host:", "master_port:", "master_failover_state:"];
        let role: Vec<&str> = info.lines().filter(|line| telling.iter().any(|name| line.starts_with(name))).collect();
        format!("{role:?} {:?} {:?}", client.try_ask("CONFIG GET min-replicas-to-write"), client.try_ask("DBSIZE"))
    };
    let is_up = |node: &&str| post.site.path(&format!("{node}/config/cache.conf")).exists();
    let roles: Vec<String> = who_answer.iter().copied().filter(is_up).map(|node| role(client(post, node))).collect();
    files.chain(roles).collect()
}

/// It is held for this reason, in these words, and whoever tries does nothing.
#[track_caller]
fn is_refused(post: &Post, reason: &str, words: &str) {
    is_refused_where(post, &NODES, reason, words);
}

#[track_caller]
fn is_refused_where(post: &Post, who_answer: &[&str], reason: &str, words: &str) {
    let before = state(post, who_answer);
    post.site.run(&["plan"]).says(words).says("Plan: 0 to add, 0 to change, 0 to remove, 1 held");
    assert!(post.site.run(&["plan", "--json"]).out.contains(&format!("\"{reason}\"")), "{reason}");
    let ran = post.site.apply();
    assert!(!matches!(ran.code, None | Some(0)), "{reason}: {}", ran.all());
    let daemon = post.start();
    daemon.until(&format!("refused: {reason}"), |status| {
        let held = status["instances"]["cache"]["held"].as_array();
        held.is_some_and(|held| held.iter().any(|held| held["reason"] == reason))
    });
    daemon.sync();
    let series = format!("valkeeper_role_refused{{instance=\"cache\",reason=\"{reason}\"}}");
    assert_eq!(daemon.series(&series), Some(1.0), "{series}\n{}", daemon.metrics());
    drop(daemon);
    assert_eq!(state(post, who_answer), before, "{reason}");
}

/// One apply puts right what is left to do, and the alarm is over.
#[track_caller]
fn goes_on(post: &Post) {
    post.site.applied();
    let revision = post.git.at("HEAD").to_string();
    let daemon = post.start();
    daemon.settles(&revision);
    assert!(!daemon.metrics().contains("valkeeper_role_refused{"), "{}", daemon.metrics());
}

#[test]
fn what_could_lose_data_is_refused_until_a_person_has_looked() {
    let post = Post::bare();
    post.commit(&tables(&post, "both", ""));
    post.site.applied();
    let port = |node: &str| {
        let config = post.site.read(&format!("{node}/config/cache.conf"));
        config.lines().find_map(|line| line.strip_prefix("port ")).unwrap().to_owned()
    };
    let follow = format!("REPLICAOF 127.0.0.1 {}", port("state"));
    assert_eq!(client(&post, "state").ask("SET key value"), "+OK");
    let there = |words: &str| assert_eq!(client(&post, "there").ask(words), "+OK", "{words}");

    // Somebody promotes the replica, and lets clients write to it.
    there("REPLICAOF NO ONE");
    there("CONFIG SET min-replicas-to-write 0");
    is_refused(&post, "two-primaries", "both take writes");
    there(&follow);
    goes_on(&post);

    // Somebody detaches the replica, and then the primary loses its keys.
    there("REPLICAOF NO ONE");
    assert_eq!(client(&post, "state").ask("FLUSHALL"), "+OK");
    is_refused(&post, "fuller-member", "has what it lacks");
    assert_eq!(client(&post, "state").ask("SET key again"), "+OK");
    goes_on(&post);
    assert_eq!(client(&post, "state").ask("GET key"), "again");

    a_failover_by_hand_is_left_alone(&post, &port("there"));
    nobody_takes_over_unseen(&post);
}

fn a_failover_by_hand_is_left_alone(post: &Post, target: &str) {
    let replica = post.site.read("there/run/cache.pid").trim().parse().unwrap();
    // It waits for a replica that does not answer any more.
    signal(replica, "-STOP");
    let mut primary = client(post, "state");
    assert_eq!(primary.ask("SET key later"), "+OK");
    assert_eq!(primary.ask(&format!("FAILOVER TO 127.0.0.1 {target}")), "+OK");
    is_refused_where(post, &["state"], "foreign-failover", "somebody began a FAILOVER");
    assert_eq!(primary.ask("FAILOVER ABORT"), "+OK");
    signal(replica, "-CONT");
    goes_on(post);
}

/// A record that cannot be read hides a node.
fn nobody_takes_over_unseen(post: &Post) {
    post.commit(&tables(post, "both", "primary = \"there\""));
    let record = post.site.path("state/fleet-prod.toml");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, "nonsense").unwrap();
    is_refused(post, "promotion-unseen", "nobody takes over before all members are");
    fs::write(&record, text).unwrap();
    goes_on(post);
    assert!(client(post, "there").ask("INFO replication").contains("role:master"));
}

#[test]
fn a_target_that_holds_foreign_data_is_left_alone() {
    let post = Post::bare();
    let alone = tables(&post, "both", "").replace("[\"here\", \"there\"]", "[\"here\"]");
    post.commit(&alone);
    post.site.applied();
    assert_eq!(client(&post, "state").ask("SET key value"), "+OK");
    let foreign = post.site.path("there/data/cache");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("dump.rdb"), "of somebody else").unwrap();
    post.commit(&alone.replace("shard = \"both\"", "shard = \"b\""));
    is_refused(&post, "foreign-target", "is not ours to touch");
    assert_eq!(fs::read_to_string(foreign.join("dump.rdb")).unwrap(), "of somebody else");
    fs::remove_dir_all(&foreign).unwrap();
    goes_on(&post);
    assert_eq!(client(&post, "there").ask("GET key"), "value");
}
