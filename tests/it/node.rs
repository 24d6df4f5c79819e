//! The node side against real servers: what is done to a node is what it shows afterwards.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use valkeeper::fleet::{Execute as _, Observe as _};
use valkeeper::model::action::Action;
use valkeeper::model::binary::BinaryFacts;
use valkeeper::model::change::{Half, Twin};
use valkeeper::model::live::{Folder, Observed, Server};
use valkeeper::model::outcome::Outcome;
use valkeeper::observe::binary::BinaryMemory;

use crate::support::*;

async fn facts() -> BinaryFacts {
    let scratch = tempfile::tempdir().unwrap();
    let asked = BinaryMemory::default().get(Path::new(SERVER), scratch.path(), scratch.path(), Duration::from_secs(5)).await;
    (*asked.unwrap().facts).clone()
}

/// `UPDATE=1` writes the golden file anew.
#[tokio::test]
async fn a_binary_says_what_the_golden_file_holds() {
    let facts = facts().await;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/binaries/{}.json", facts.version));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&golden, serde_json::to_string_pretty(&facts).unwrap() + "\n").unwrap();
    }
    let known: BinaryFacts = serde_json::from_str(&fs::read_to_string(golden).unwrap()).unwrap();
    assert!(facts == known, "this binary is another build of the same version, or the probe changed");
}

#[tokio::test]
async fn what_is_created_is_what_is_seen() {
    let world = World::new().await;
    let begin = Instant::now();
    let spec = plain(free_port());
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    eprintln!("created in {:?}", begin.elapsed());
    let member = world.member("a").await;
    let (_, binary) = world.look().await;
    assert_eq!(member.spec.disk, Half::Seen(spec.clone()));
    assert_eq!(member.spec.memory.seen().unwrap().settings, binary.without_defaults(&spec.settings));
    assert_eq!(member.spec.memory.seen().unwrap().foreign, [""; 0]);
    assert_eq!(member.acl_file_broken, None);
    assert_eq!(member.users.len(), 3);
    for (name, twin) in &member.users {
        assert_eq!(twin.disk, twin.memory, "{name}");
    }
    assert_eq!(member.users["app"], Twin::both(Arc::clone(&app_user()[&user_name("app")].user)));
    assert!(world.cli("a", "default", "", &["ping"]).contains("NOAUTH"));
    assert_eq!(world.cli("a", "app", "secret", &["set", "app:x", "1"]), "OK");
    assert_eq!(world.on("a", creation(&spec, app_user())).await, Outcome::AlreadyDone);
}
