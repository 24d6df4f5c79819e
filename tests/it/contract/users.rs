//! Random users go the whole way: declared words, plan, server, and back. The form that was predicted is the form that
//! the server shows, byte for byte, and what it refuses is what was predicted to be refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use valkeeper::fleet::Observe as _;
use valkeeper::host::layout::Layout;
use valkeeper::host::valkey::{Connection, ValkeyError, reach};
use valkeeper::model::acl::{AclNames, Selector};
use valkeeper::model::action::{Action, WantedUsers};
use valkeeper::model::name::OPERATOR_USER;
use valkeeper::model::password::PasswordHash;
use valkeeper::observe::disk::{self, MarkerOnDisk};
use valkeeper::plan::plan;

use super::{count, parse, seeded, settle};
use crate::support::*;

/// As many as one ACL file is written with at a time.
const BATCH: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_random_user_is_kept_as_it_was_predicted() {
    let mut rng = seeded("users");
    let world = World::patient().await;
    let port = free_port();
    let names = world.look().await.1.acl.clone();
    // Each batch is other rights for the same users: the first goes in by the ACL file, the others by ACL SETUSER.
    for batch in 0..count(400, 5_000).div_ceil(BATCH) {
        let text = fleet_text(port, &(0..BATCH).map(|number| user_text(&mut rng, &names, number)).collect::<String>());
        let desired = parse(&text);
        let mut predicted = WantedUsers::new();
        let plan = plan(&desired, &world.fleet.observe().await);
        for step in plan.steps {
            if let Action::CreateInstance(creation) = step.action {
                predicted.extend(creation.users.clone());
            } else if let Action::SetUser(change) = step.action {
                predicted.insert(change.user.clone(), change.wanted.clone());
            }
        }
        assert!(predicted.len() > BATCH * 9 / 10, "batch {batch} plans only {} users: {:?}", predicted.len(), plan.held);
        settle(&desired, &world.fleet).await;
        let shown = acl_list(&world).await;
        for (name, wanted) in &predicted {
            let line = wanted.user.file_line(name.as_str(), &wanted.hashes);
            assert_eq!(
                shown.get(name.as_str()),
                Some(&line),
                "batch {batch}: declared as\n{}",
                declared_as(&text, name.as_str())
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdict_on_a_word_is_the_servers() {
    let mut rng = seeded("words");
    let world = World::patient().await;
    settle(&parse(&fleet_text(free_port(), "")), &world.fleet).await;
    let names = world.look().await.1.acl.clone();
    let mut connection = log_in(&world).await;
    let words: Vec<String> = (0..count(2_000, 20_000)).map(|_| any_rule(&mut rng, &names)).collect();
    let mut refused = 0;
    for word in words {
        let ours = Selector::nothing().apply(&word, Some(&names));
        let theirs = connection.ask(vec!["ACL", "SETUSER", "tried", "reset", &word]).await;
        assert!(matches!(theirs, Ok(_) | Err(ValkeyError::Said(_))), "{word:?}: {theirs:?}");
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{word:?}: we say {ours:?}, the server says {theirs:?}");
        refused += usize::from(ours.is_err());
    }
    assert!(refused > 100, "only {refused} words were refused: the generator is too tame");
}

fn fleet_text(port: u16, users: &str) -> String {
    format!(
        "[fleet]\nname = \"test\"\n[nodes.here]\nlocal = \"./state\"\n[shards.s]\nnodes = [\"here\"]\nports = \"1024-65535\"\n\
         [instances.a]\nshard = \"s\"\nport = {port}\nconfig = {{ appendonly = false, save = \"\" }}\n{users}"
    )
}

fn declared_as<'a>(text: &'a str, user: &str) -> &'a str {
    let start = text.find(&format!("[instances.a.users.{user}]")).unwrap_or_default();
    let end = text[start + 1..].find("\n[instances.").map_or(text.len(), |end| start + 1 + end);
    &text[start..end]
}

fn user_text(rng: &mut StdRng, names: &AclNames, number: usize) -> String {
    let mut text = format!("[instances.a.users.u{number}]\n");
    let passwords: Vec<String> = (0..rng.random_range(1..4)).map(|_| hash(rng)).collect();
    if rng.random_bool(0.1) {
        text.push_str("enabled = false\n");
    }
    writeln!(text, "password_sha256 = {passwords:?}").unwrap();
    text.push_str(&rights_text(rng, names));
    for _ in 0..*[0, 0, 0, 1, 2, 3].choose(rng).unwrap() {
        writeln!(text, "[[instances.a.users.u{number}.selectors]]").unwrap();
        text.push_str(&rights_text(rng, names));
    }
    text
}

fn hash(rng: &mut StdRng) -> String {
    PasswordHash::of_password(&rng.random::<u64>().to_le_bytes()).reveal()
}

fn rights_text(rng: &mut StdRng, names: &AclNames) -> String {
    let privileges: Vec<String> = (0..rng.random_range(0..10)).map(|_| good_rule(rng, names)).collect();
    let keys = patterns(rng, &["~", "~", "~", "%R~", "%W~", "%RW~", "%r~", "%wr~"], "~*");
    let channels = patterns(rng, &["&"], "&*");
    format!("privileges = {privileges:?}\nkey_pattern = {keys:?}\nchannels = {channels:?}\n")
}

/// Different patterns, or the one for everything.
fn patterns(rng: &mut StdRng, signs: &[&str], all: &str) -> Vec<String> {
    if rng.random_bool(0.15) {
        return vec![all.to_owned()];
    }
    let mut bodies = ["a", "b:*", "app:*", "x?y", "[a-c]*", "\\*", "%R~x", "&y", "(x", "ü:*", "A", "**", "a|b", "+get", "~", "#"];
    bodies.shuffle(rng);
    let number = rng.random_range(0..5);
    bodies.iter().take(number).map(|body| format!("{}{body}", signs.choose(rng).unwrap())).collect()
}

fn good_rule(rng: &mut StdRng, names: &AclNames) -> String {
    loop {
        let rule = any_rule(rng, names);
        if Selector::nothing().apply(&rule, Some(names)).is_ok() {
            return rule;
        }
    }
}

/// A command rule that may or may not exist, in any letter case; never one that would hurt the server (facts A.3).
fn any_rule(rng: &mut StdRng, names: &AclNames) -> String {
    let sign = *["+", "-"].choose(rng).unwrap();
    let command = names.commands().choose(rng).unwrap().to_string();
    let category = names.categories().collect::<Vec<_>>().choose(rng).unwrap().to_string();
    let argument = *["0", "1", "set", "GET", "x.y-z_1"].choose(rng).unwrap();
    let rule = match rng.random_range(0..20) {
        0 => "+@all".to_owned(),
        1 => "-@all".to_owned(),
        2 => (*["allcommands", "nocommands"].choose(rng).unwrap()).to_owned(),
        3..=7 => format!("{sign}@{category}"),
        8..=10 => format!("{sign}{command}|{argument}"),
        11 => format!("{sign}{command}x"),
        12 => format!("{sign}@{category}x"),
        _ => format!("{sign}{command}"),
    };
    // `allcommands` is declared in lower case only.
    match rng.random_range(0..4) {
        0 if rule.starts_with(['+', '-']) => rule.to_ascii_uppercase(),
        1 if rule.starts_with(['+', '-']) => {
            rule.chars().map(|c| if rng.random_bool(0.5) { c.to_ascii_uppercase() } else { c }).collect()
        }
        _ => rule,
    }
}

async fn log_in(world: &World) -> Connection {
    let layout = Layout::new(std::fs::canonicalize(&world.state).unwrap()).unwrap();
    let MarkerOnDisk::Ours(marker) = disk::marker(&layout, &name("a")) else { panic!("there is no marker") };
    let limit = Duration::from_secs(10);
    let stream = reach(&layout.socket(&name("a")), limit).await.unwrap();
    let mut connection = Connection::over(stream, limit).await.unwrap();
    connection.log_in(OPERATOR_USER, &marker.operator_password).await.unwrap();
    connection
}

/// The lines of `ACL LIST` by user.
async fn acl_list(world: &World) -> BTreeMap<String, String> {
    let lines = log_in(world).await.ask(vec!["ACL", "LIST"]).await.unwrap().into_texts().unwrap();
    lines.into_iter().map(|line| (line.split(' ').nth(1).unwrap().to_owned(), line)).collect()
}
