//! A move as a snapshot between nodes behind ssh: what is carried, and what a node that lies about it can do.

use std::env;
use std::fs;

use super::Hosts;
use crate::site::Client;

const GUARD: &str = "[guard]\nhandover_grace = \"0s\"\n";
/// SHA-256 of "secret".
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn declare(hosts: &Hosts, shard: &str) {
    let user = format!("[instances.one.users.app]\npassword_sha256 = \"{HASH}\"\nprivileges = [\"+@all\"]\n");
    let keys = "move = \"snapshot\"\nmax_memory_mb = 300\nconfig = { enable-debug-command = \"yes\", rdbcompression = \"no\" }";
    hosts.declare(GUARD, &format!("[instances.one]\nshard = \"{shard}\"\n{keys}\n{user}"));
}

fn client(hosts: &Hosts, node: &str) -> Client {
    let config = fs::read_to_string(hosts.state(node, "config/one.conf")).unwrap();
    let port = config.lines().find_map(|line| line.strip_prefix("port ")).unwrap().parse().unwrap();
    let mut client = Client::to(port).unwrap();
    assert_eq!(client.ask("AUTH app secret"), "+OK");
    client
}

/// `one` on n1 with some data.
fn filled() -> (Hosts, String) {
    let hosts = Hosts::new();
    declare(&hosts, "a");
    hosts.apply().expect(0);
    let mut source = client(&hosts, "n1");
    assert_eq!(source.ask("DEBUG POPULATE 20000 bulk 1000"), "+OK");
    let digest = source.ask("DEBUG DIGEST");
    declare(&hosts, "b");
    (hosts, digest)
}

#[test]
fn a_snapshot_is_carried_between_nodes_behind_ssh() {
    let (hosts, digest) = filled();
    hosts.run(&["plan"]).expect(2).says("take over the snapshot from node n1");
    hosts.apply().expect(0);
    assert_eq!(client(&hosts, "n2").ask("DEBUG DIGEST"), digest);
    assert_eq!(client(&hosts, "n2").ask("SET key value"), "+OK");
    assert!(!hosts.state("n1", "config/one.conf").exists());
    hosts.apply().expect(0);
    hosts.run(&["plan"]).expect(0).says("No changes.");
}

#[test]
fn a_node_that_lies_about_a_snapshot_is_found_out_and_nothing_is_opened() {
    for (liar, words) in [("n1", "it gives 0 bytes at 0 of"), ("n2", "bytes arrived of")] {
        let (hosts, _) = filled();
        let (folder, program) = (hosts.site.path(liar), env::current_exe().unwrap());
        let agent = format!(
            "LIE=pieces FOLDER={} exec {} --ignored --exact --nocapture ssh_nodes::lies::the_liar",
            folder.display(),
            program.display()
        );
        hosts.lets_in(liar, &agent);
        hosts.apply().expect(1).says(words);
        assert!(client(&hosts, "n2").ask("SET key value").starts_with("-NOREPLICAS"), "{liar}");
        hosts.lets_in(liar, &hosts.agent(liar));
        declare(&hosts, "a");
        hosts.apply().expect(0);
        assert_eq!(client(&hosts, "n1").ask("SET key value"), "+OK", "{liar}");
    }
}

#[test]
fn a_node_that_may_only_be_looked_at_gets_no_snapshot() {
    let (hosts, _) = filled();
    hosts.lets_in("n2", &format!("{} --read-only", hosts.agent("n2")));
    hosts.apply().expect(1).says("--read-only");
    assert_eq!(client(&hosts, "n1").ask("SET key value"), "+OK");
}
