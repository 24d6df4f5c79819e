//! Random settings go the whole way: declared in many spellings, proved, set, read back; then there is nothing to plan.

use std::collections::BTreeMap;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use valkeeper::model::binary::{BinaryFacts, SettingFacts, ours};
use valkeeper::model::name::SettingName;
use valkeeper::model::setting::Kind;

use super::{count, parse, seeded, settle};
use crate::support::*;

/// Settings that cannot take another value on the machine of a test, each with the reason.
const NOT_HERE: &[(&str, &str)] = &[
    ("activedefrag", "needs a build with its own allocator"),
    ("tls-port", "needs certificates"),
    ("tls-cluster", "needs certificates"),
    ("tls-replication", "needs certificates"),
    ("tls-ca-cert-dir", "needs certificates"),
    ("tls-ca-cert-file", "needs certificates"),
    ("tls-cert-file", "needs certificates"),
    ("tls-client-cert-file", "needs certificates"),
    ("tls-client-key-file", "needs certificates"),
    ("tls-client-key-file-pass", "a secret"),
    ("tls-dh-params-file", "needs certificates"),
    ("tls-key-file", "needs certificates"),
];

#[tokio::test(flavor = "multi_thread")]
async fn random_settings_are_kept_as_they_were_predicted() {
    let mut rng = seeded("settings");
    let world = World::patient().await;
    let port = free_port();
    let binary = world.look().await.1;
    let is_here = |name: &SettingName| !NOT_HERE.iter().any(|(known, _)| *known == name.as_str());
    let declarable = binary.settings.iter().filter(|(name, facts)| facts.runtime && ours(name.as_str()).is_none());
    let all: Vec<(&SettingName, &SettingFacts)> = declarable.filter(|(name, _)| is_here(name)).collect();
    assert!(all.len() > 100, "only {} settings", all.len());

    let sets = count(60, 2_000);
    let mut never: Vec<_> = all.clone();
    never.shuffle(&mut rng);
    for number in 0..sets {
        // Every setting is declared at least once; others join by chance, and what is not declared goes back.
        let due = never.len().div_ceil(sets - number);
        let mut set: BTreeMap<_, _> = never.drain(..due).map(|(name, facts)| (name.as_str(), facts)).collect();
        set.extend(
            (0..rng.random_range(0..12)).map(|_| all.choose(&mut rng).unwrap()).map(|(name, facts)| (name.as_str(), *facts)),
        );
        let config: String = set.iter().map(|(name, facts)| declaration(&mut rng, &binary, name, facts)).collect();
        let text = format!(
            "[fleet]\nname = \"test\"\n[nodes.here]\nlocal = \"./state\"\n[shards.s]\nnodes = [\"here\"]\nports = \"1024-65535\"\n\
             [instances.a]\nshard = \"s\"\nport = {port}\n[instances.a.config]\n{config}"
        );
        println!("set {number}:\n{config}");
        settle(&parse(&text), &world.fleet).await;
    }
    assert!(never.is_empty());
}

/// A line of TOML, by any of the setting's names.
fn declaration(rng: &mut StdRng, binary: &BinaryFacts, name: &str, facts: &SettingFacts) -> String {
    let aliases: Vec<&str> =
        binary.aliases.iter().filter(|(_, current)| current.as_str() == name).map(|(alias, _)| alias.as_str()).collect();
    let spelt = aliases.choose(rng).copied().filter(|_| rng.random_bool(0.3)).unwrap_or(name);
    let text = value(rng, name, facts);
    // What TOML has a type for may be said in it.
    match text.as_str() {
        "yes" if facts.kind == Kind::Boolean && rng.random_bool(0.3) => format!("{spelt} = true\n"),
        "no" if facts.kind == Kind::Boolean && rng.random_bool(0.3) => format!("{spelt} = false\n"),
        number if number.parse::<i64>().is_ok() && rng.random_bool(0.5) => format!("{spelt} = {number}\n"),
        text => format!("{spelt} = {text:?}\n"),
    }
}

fn value(rng: &mut StdRng, name: &str, facts: &SettingFacts) -> String {
    if let Some(value) = special(rng, name) {
        return value;
    }
    match &facts.kind {
        Kind::Boolean => {
            let word = if rng.random() { "yes" } else { "no" };
            letter_case(rng, word)
        }
        Kind::Integer { min, max } => {
            let (min, max) = (*min, *max);
            let near = facts.default.parse::<i64>().unwrap_or(min).saturating_add(rng.random_range(0..100));
            [min, max, near.clamp(min, max)].choose(rng).unwrap().to_string()
        }
        Kind::Memory { min, max } => size(rng, (*min).max(1 << 20), (*max).min(1 << 34)),
        Kind::MemoryOrPercent => {
            if rng.random_bool(0.5) {
                format!("{}%", rng.random_range(10..=100))
            } else {
                size(rng, 64 << 20, 1 << 34)
            }
        }
        Kind::Words(words) if name.starts_with("shutdown-on-") => {
            let mut flags: Vec<&str> =
                words.iter().map(|(word, _)| word.as_str()).filter(|word| !["default", "save"].contains(word)).collect();
            flags.shuffle(rng);
            flags.truncate(rng.random_range(1..=flags.len()));
            letter_case(rng, &flags.join(" "))
        }
        Kind::Words(words) => {
            let (word, _) = words.choose(rng).unwrap();
            letter_case(rng, word)
        }
        Kind::Text => (*["", "x", "some-text", "with space", "a\"b", "#", "ü"].choose(rng).unwrap()).to_owned(),
    }
}

/// Values of settings that have a grammar of their own, or that would hurt the test at their bounds.
fn special(rng: &mut StdRng, name: &str) -> Option<String> {
    let pick = rng.random_range(0..usize::MAX);
    let one_of = |values: &[&str]| values.get(pick % values.len()).map(|value| (*value).to_owned());
    match name {
        "save" => one_of(&["", "900 1", "900  1 300 10", "3600 1 300 100 60 10000", " 60 1 60 1 "]),
        "client-output-buffer-limit" => one_of(&[
            "pubsub 32mb 8mb 60",
            "replica 1gb 512m 60",
            "slave 0 0 0 pubsub 1k 1kb 1",
            "Normal 0 0 0  PUBSUB 64mb 16mb 90 replica 256mb 64mb 60",
            "normal 1gb 0 0",
        ]),
        "notify-keyspace-events" => {
            let mut classes: Vec<char> = "g$lshzxetdnKEmA".chars().filter(|_| rng.random_bool(0.5)).collect();
            // 'n' beside 'A' (or beside all that it stands for) cannot be kept, and is refused.
            if classes.contains(&'A') || classes.len() > 9 {
                classes.retain(|class| *class != 'n');
            }
            classes.shuffle(rng);
            Some(classes.into_iter().collect())
        }
        "latency-tracking-info-percentiles" => one_of(&["", "50", "50.0 99.10", "0 100 99.999", "50 50", "12.5"]),
        "oom-score-adj-values" => one_of(&["0 200 800", "0  0 0", "10 20 30"]),
        "proc-title-template" => one_of(&["{title} x", "{title} {port}", "{title} {listen-addr} {server-mode}"]),
        "locale-collate" => one_of(&["", "C", "POSIX"]),
        "maxclients" => one_of(&["100", "500", "900"]),
        "hz" => one_of(&["1", "10", "100", "500"]),
        "bind-source-addr" => one_of(&["", "127.0.0.1"]),
        "cluster-announce-hostname" => one_of(&["", "node-1.example.com"]),
        "cluster-announce-human-nodename" => one_of(&["", "node-1"]),
        "cluster-announce-ip" | "replica-announce-ip" | "cluster-announce-client-ipv4" => one_of(&["", "10.0.0.1"]),
        "cluster-announce-client-ipv6" => one_of(&["", "::1"]),
        "ignore-warnings" => one_of(&["", "ARM64-COW-BUG"]),
        "repl-backlog-size" => one_of(&["16384", "1mb", "1MB", "10m"]),
        // A number of seconds after which our own connection would be closed is tried by hand in facts C.
        "timeout" => one_of(&["0", "60", "3600"]),
        "tls-ciphers" | "tls-ciphersuites" => one_of(&["", "DEFAULT"]),
        "tls-protocols" => one_of(&["", "TLSv1.2", "TLSv1.2 TLSv1.3"]),
        _ => None,
    }
}

fn letter_case(rng: &mut StdRng, text: &str) -> String {
    match rng.random_range(0..3) {
        0 => text.to_ascii_uppercase(),
        1 => text.to_owned(),
        _ => text.chars().map(|c| if rng.random_bool(0.5) { c.to_ascii_uppercase() } else { c }).collect(),
    }
}

/// A size between bounds, with any unit that keeps it there.
fn size(rng: &mut StdRng, min: u64, max: u64) -> String {
    let bytes = rng.random_range(min..=max.max(min));
    let units = [("", 1), ("b", 1), ("k", 1_000), ("kb", 1 << 10), ("m", 1_000_000), ("mb", 1 << 20), ("gb", 1 << 30)];
    let fits = units.iter().filter(|(_, factor)| (min..=max).contains(&(bytes / factor * factor))).collect::<Vec<_>>();
    match fits.choose(rng) {
        Some((unit, factor)) => letter_case(rng, &format!("{}{unit}", bytes / factor)),
        None => bytes.to_string(),
    }
}
