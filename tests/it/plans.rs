//! What people are shown of a plan: a golden folder per statement, from what is declared and what was seen to the words.
//!
//! `live.toml` is what `valkeeper observe` prints, without the facts of the server's binary, which are shared.
//! `BLESS=1` writes the expected files anew: read them as somebody who was woken by them would.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use valkeeper::cli::{live_file, problems};
use valkeeper::desired::{self, Secrets, Source, refusals_to_problems};
use valkeeper::model::live::{BinaryId, Live};
use valkeeper::plan::show::{self, View};
use valkeeper::plan::{plan, rest};
use valkeeper::roots;

use crate::world;

const CASES_MIN: usize = 60;

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plans");
    let mut cases: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// Everything a plan is shown as; the Markdown is not kept, because it is the text in a block.
struct Shown {
    files: Vec<(&'static str, String)>,
    /// Hashes that were declared: no output may hold one.
    secrets: Vec<String>,
}

fn shown(case: &Path) -> Shown {
    let text = fs::read_to_string(case.join("desired.toml")).unwrap();
    let sources = [Source { name: "desired.toml".to_owned(), text }];
    let wish = desired::parse(&sources, &Secrets::Placeholder)
        .unwrap_or_else(|found| panic!("{}:\n{}", case.display(), problems::render(&found, &sources, false)));
    let live = live(&case.join("live.toml"));
    let plan = plan(&wish, &live);
    let rest = rest(&wish, &live, &plan);
    let view = View { desired: &wish, live: &live, plan: &plan, rest: &rest };
    let files = if plan.refused.is_empty() {
        let json = serde_json::to_string_pretty(&show::json(&view)).unwrap() + "\n";
        vec![("plan.txt", show::text(&view)), ("plan.json", json), ("plan.md", show::markdown(&view))]
    } else {
        vec![("problems.txt", problems::render(&refusals_to_problems(&plan.refused), &sources, false))]
    };
    let users = wish.instances.values().flat_map(|instance| instance.users.values());
    let secrets = users.flat_map(|user| user.passwords()).map(|hash| hash.reveal()).collect();
    Shown { files, secrets }
}

fn live(path: &Path) -> Live {
    let text = roots::read_ours(path).unwrap();
    let mut live = live_file::parse(&text).unwrap_or_else(|error| panic!("{}: {error:#}", path.display()));
    assert!(live.binaries.is_empty(), "{}: the binary comes from tests/golden/binaries", path.display());
    live.binaries.insert(BinaryId("8.0.1".to_owned()), Arc::new(world::binary_once().clone()));
    live
}

#[test]
fn each_plan_reads_as_it_should() {
    let cases = cases();
    assert!(cases.len() >= CASES_MIN, "only {} golden cases", cases.len());
    let bless = std::env::var_os("BLESS").is_some();
    let mut different = Vec::new();
    for case in cases {
        let Shown { files, secrets: _ } = shown(&case);
        for known in ["plan.txt", "plan.json", "problems.txt"] {
            let file = case.join(known);
            match files.iter().find(|(name, _)| *name == known) {
                Some((_, text)) if bless => fs::write(&file, text).unwrap(),
                Some((_, text)) if fs::read_to_string(&file).ok().as_deref() == Some(text) => {}
                Some((_, text)) => different.push(format!("{}:\n{text}", file.display())),
                None if bless && file.exists() => fs::remove_file(&file).unwrap(),
                None if file.exists() => different.push(format!("{} should not be there", file.display())),
                None => {}
            }
        }
    }
    assert!(different.is_empty(), "BLESS=1 accepts these:\n{}", different.join("\n"));
}

#[test]
fn no_way_of_showing_a_plan_holds_a_password_hash() {
    let mut looked_for = 0;
    for case in cases() {
        let Shown { files, secrets } = shown(&case);
        for (secret, (name, text)) in secrets.iter().flat_map(|secret| files.iter().map(move |file| (secret, file))) {
            assert!(!text.contains(secret.get(..16).unwrap()), "{}: a hash is in {name}:\n{text}", case.display());
            looked_for += 1;
        }
    }
    assert!(looked_for > CASES_MIN, "only {looked_for} hashes were looked for");
}

#[test]
fn two_renderings_are_the_same_bytes() {
    for case in cases() {
        assert_eq!(shown(&case).files, shown(&case).files, "{}", case.display());
    }
}

/// What `observe` prints is what `plan --live` reads, to the last fact.
#[test]
fn what_is_printed_of_the_nodes_reads_back() {
    for case in cases() {
        let live = live(&case.join("live.toml"));
        let text = live_file::render(&live).unwrap();
        assert!(live_file::parse(&text).unwrap() == live, "{}", case.display());
    }
}
