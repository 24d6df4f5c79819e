//! What an instance has is the same after a move, whatever kind of data it is, and however much.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::chance::soak;
use crate::moves::{PASSWORD, Pair};
use crate::site::Client;
use crate::writers::Writers;

/// `DEBUG` is there.
const SETTINGS: &str = "config = { enable-debug-command = \"yes\", save = \"\" }\n";

/// One of each kind, in several databases.
const WRITTEN: &[&str] = &[
    "SET string value",
    "SET bytes \"\\x00\\xff\\r\\n\"",
    "RPUSH list a b c",
    "SADD set a b c",
    "SADD numbers 1 2 3",
    "ZADD sorted 1 a 2.5 b -inf c",
    "HSET hash field value other 7",
    "SETBIT bits 1000 1",
    "PFADD guess a b c",
    "GEOADD places 13.361389 38.115556 Palermo",
    "SET soon value PXAT 4102444800123",
    "HSET lasting field value",
    "PEXPIREAT lasting 4102444800456",
    "XADD stream 1-1 field one",
    "XADD stream 1-2 field two",
    "XADD stream 2-1 field three",
    "XADD stream 3-1 field four",
    "XDEL stream 1-2",
    "XGROUP CREATE stream workers 0",
    "XGROUP CREATE stream idle $",
    "XGROUP CREATECONSUMER stream workers nobody",
    "XREADGROUP GROUP workers alice COUNT 2 STREAMS stream >",
    "XREADGROUP GROUP workers bob COUNT 1 STREAMS stream >",
    "XACK stream workers 1-1",
    "FUNCTION LOAD REPLACE \"#!lua name=sums\\nserver.register_function('add', function(keys, args) return args[1] + args[2] end)\"",
];
const DATABASES: [u32; 3] = [0, 3, 15];

#[test]
fn whatever_kind_of_data_moves_is_the_same_afterwards() {
    let pair = Pair::new();
    pair.declare("\"n1\"", "a", SETTINGS);
    pair.site().applied();
    let mut client = pair.client("n1");
    for database in DATABASES {
        client.ask(&format!("SELECT {database}"));
        for words in WRITTEN {
            let reply = client.ask(words);
            assert!(!reply.starts_with('-'), "{words}: {reply}");
        }
    }
    let before = shown(&mut client);
    assert!(before.iter().any(|shown| shown.contains("alice")), "{before:?}");
    for (shard, node) in [("b", "n2"), ("a", "n1")] {
        let writers = Writers::start(&pair.places());
        pair.declare("\"n1\"", shard, SETTINGS);
        pair.site().applied();
        // They take what they wrote away again.
        writers.end().whole(&format!("data of every kind, to {node}"), 50);
        let mut client = pair.client(node);
        assert_eq!(shown(&mut client), before, "on {node}");
    }
    let mut client = pair.client("n1");
    assert_eq!(client.ask("FCALL add 0 2 3"), ":5");
    // What was handed out and not confirmed is still bob's.
    let his = client.ask("XREADGROUP GROUP workers bob STREAMS stream 0");
    assert!(his.contains("four") && !his.contains("three"), "{his}");
}

fn shown(client: &mut Client) -> Vec<String> {
    let mut all = vec![client.ask("DEBUG DIGEST"), client.ask("FUNCTION DUMP")];
    for database in DATABASES {
        client.ask(&format!("SELECT {database}"));
        all.push(client.ask("DBSIZE"));
        all.push(client.ask("XINFO STREAM stream FULL COUNT 0"));
        all.push(client.ask("PEXPIRETIME soon"));
        all.push(client.ask("PEXPIRETIME lasting"));
    }
    all
}

/// Ten million keys; without `VALKEEPER_SOAK=1` a hundred thousand.
#[test]
fn ten_million_keys_move_and_are_the_same() {
    let each = if soak() { 1_000_000 } else { 10_000 };
    let pair = Pair::new();
    let settings = format!("max_memory_mb = 4096\n{SETTINGS}");
    pair.declare("\"n1\"", "a", &settings);
    pair.site().applied();
    for part in 0..10 {
        assert_eq!(say(&pair, "n1", &["DEBUG", "POPULATE", &each.to_string(), &format!("part{part}"), "16"]), "OK");
    }
    let before = say(&pair, "n1", &["DEBUG", "DIGEST"]);
    pair.declare("\"n1\"", "b", &settings);
    let writers = Writers::start(&pair.places());
    let begun = Instant::now();
    let log = std::fs::File::create(pair.site().path("log")).unwrap();
    let mut apply = pair.command(&["apply", "--yes"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let mut most = 0;
    let status = loop {
        most = most.max(memory(apply.id()));
        if let Some(status) = apply.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < Duration::from_secs(600), "it does not come to its end");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{}", pair.site().read("log"));
    writers.end().whole(&format!("{} keys", each * 10), 50);
    eprintln!("{} keys moved in {:?}; the controller had {most} kB at most", each * 10, begun.elapsed());
    assert_eq!(say(&pair, "n2", &["DBSIZE"]), (each * 10).to_string());
    assert_eq!(say(&pair, "n2", &["DEBUG", "DIGEST"]), before);
}

/// The most that a process had. kB.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// For what takes longer than a client of these tests waits.
fn say(pair: &Pair, node: &str, words: &[&str]) -> String {
    let config = pair.site().read(&format!("{node}/config/cache.conf"));
    let port = config.lines().find_map(|line| line.strip_prefix("port ")).unwrap();
    let mut command = Command::new("valkey-cli");
    command.env("REDISCLI_AUTH", PASSWORD).env("VALKEYCLI_AUTH", PASSWORD);
    let output = command.args(["-p", port, "--user", "app"]).args(words).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
