//! What people are told about a text that is not sound: a golden folder per rule, and thousands of broken texts.

use std::fs;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use valkeeper::cli::{check, problems};
use valkeeper::desired::{self, Problem, Secrets, Source};
use valkeeper::model::desired::Desired;
use valkeeper::roots;

fn golden_cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/problems");
    let mut cases: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

/// A case as `check` reads it: a folder, with file names relative to it.
fn read_case(case: &Path) -> Vec<Source> {
    let mut sources = roots::read(case).unwrap();
    for source in &mut sources {
        source.name = Path::new(&source.name).file_name().unwrap().to_str().unwrap().to_owned();
    }
    sources
}

fn parse(sources: &[Source]) -> Result<Desired, Vec<Problem>> {
    desired::parse(sources, &Secrets::Placeholder)
}

#[test]
fn each_problem_is_told_with_its_place_and_cure() {
    let cases = golden_cases();
    assert!(cases.len() >= 30, "only {} golden cases", cases.len());
    let bless = std::env::var_os("BLESS").is_some();
    let mut different = Vec::new();
    for case in cases {
        let sources = read_case(&case);
        let found = parse(&sources).err().unwrap_or_default();
        assert!(!found.is_empty(), "{}: no problem was found", case.display());
        let told = problems::render(&found, &sources, false);
        assert!(!told.contains("hunter2"), "{}: a secret is shown:\n{told}", case.display());
        let file = case.join("problems.txt");
        if bless {
            fs::write(&file, &told).unwrap();
        } else if fs::read_to_string(&file).ok().as_deref() != Some(&told) {
            different.push(format!("{}:\n{told}", case.display()));
        }
    }
    assert!(different.is_empty(), "BLESS=1 accepts these:\n{}", different.join("\n"));
}

#[test]
fn the_examples_are_sound() {
    let desired = parse(&[example("desired.toml")]).unwrap();
    assert_eq!((desired.instances.len(), desired.nodes.len()), (2, 1));
    assert!(desired.instances.values().all(|instance| !instance.users.is_empty()));
    let desired = parse(&[example("fleet.toml")]).unwrap();
    assert_eq!((desired.instances.len(), desired.nodes.len(), desired.shards.len()), (6, 4, 6));
}

#[test]
fn check_counts_what_it_found() {
    let run = |path: &str, json: bool| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let sound = check::check(&path, json, &mut out, &mut err).unwrap();
        (sound, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let (sound, out, err) = run("examples/desired.toml", false);
    assert!(sound && err.is_empty() && out.ends_with("2 instances, 4 users, 1 node: no problems\n"), "{out}{err}");
    let (sound, out, err) = run("tests/golden/problems/unknown_shard_is_named", false);
    assert!(!sound && out.is_empty() && err.ends_with("\n1 problem\n"), "{out}{err}");
    let (sound, out, _) = run("tests/golden/problems/unknown_shard_is_named", true);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let problem = &json["problems"][0];
    assert!(!sound && problem["line"] == 9 && problem["column"] == 9, "{json:#}");
    assert_eq!(problem["help"], "did you mean \"main\"?");
    let (sound, _, err) = run("tests/golden/nowhere", false);
    assert!(!sound && err.contains("nowhere: cannot be read: No such file"), "{err}");
}

fn example(name: &str) -> Source {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    Source { name: name.to_owned(), text: fs::read_to_string(path).unwrap() }
}

const MUTATIONS: usize = 10_000;

/// Ten thousand broken texts: every one is told with places that lie in it, and nothing panics.
#[test]
fn no_text_makes_check_panic() {
    let given = std::env::var("VALKEEPER_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    println!("VALKEEPER_SEED={seed}");
    let mut texts: Vec<String> = vec![example("desired.toml").text, example("fleet.toml").text];
    texts.extend(golden_cases().iter().flat_map(|case| read_case(case)).map(|source| source.text));
    let threads = 4;
    let sound: usize = std::thread::scope(|scope| {
        let start = |thread| {
            let texts = &texts;
            scope.spawn(move || {
                (thread..MUTATIONS).step_by(threads).filter(|number| mutated_is_sound(seed, *number, texts)).count()
            })
        };
        let running: Vec<_> = (0..threads).map(start).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(sound < MUTATIONS / 2, "{sound} mutated texts were sound: the mutations are too mild");
}

fn mutated_is_sound(seed: u64, number: usize, texts: &[String]) -> bool {
    let mut random = SmallRng::seed_from_u64(seed.wrapping_add(number as u64));
    let mut text = texts[random.random_range(0..texts.len())].clone().into_bytes();
    for _ in 0..random.random_range(1..=4) {
        mutate(&mut text, &mut random, texts);
    }
    let text = String::from_utf8_lossy(&text).into_owned();
    let sources = [Source { name: "mutated.toml".to_owned(), text }];
    let found = parse(&sources).err().unwrap_or_default();
    if !found.is_empty() {
        check_places(&found, &sources, &format!("VALKEEPER_SEED={seed}, text {number}"));
    }
    found.is_empty()
}

fn check_places(found: &[Problem], sources: &[Source], context: &str) {
    assert!(!found.is_empty(), "{context}");
    for problem in found {
        for at in std::iter::once(&problem.at).chain(problem.others.iter().map(|(at, _)| at)) {
            let text = &sources[at.file as usize].text;
            assert!(text.get(at.start as usize..at.end as usize).is_some(), "{context}: {problem:?}");
        }
    }
    let told = problems::render(found, sources, true);
    assert!(told.contains("mutated.toml:"), "{context}: {told}");
    let json = problems::to_json(found, sources);
    assert!(json.as_array().unwrap().iter().all(|problem| problem["line"].is_u64()), "{context}: {json}");
}

const TOKENS: &[&str] = &[
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    ",",
    ".",
    "#",
    "\n",
    "\r\n",
    "\0",
    "\u{feff}",
    "\u{202e}",
    "ä",
    "😀",
    "99999999999999999999999",
    "-1",
    "0x7fffffffffffffff",
    "1e999",
    "nan",
    "inf",
    "1979-05-27T07:32:00Z",
    "true",
    "~*",
    "&*",
    "%",
    "[instances.x]\n",
    "[fleet]\n",
    "[[instances.x.users.y.selectors]]\n",
    "password = \"hunter2\"\n",
    "\\u0000",
    "\\",
    "instances",
    "users",
    "defaults.config.",
    "\"\" = 1\n",
    "\u{1b}[31m",
];

fn mutate(text: &mut Vec<u8>, random: &mut SmallRng, texts: &[String]) {
    let place = random.random_range(0..=text.len());
    match random.random_range(0..9) {
        0 if !text.is_empty() => {
            let place = place.min(text.len() - 1);
            text[place] = random.next_u32() as u8;
        }
        1 => text.truncate(place),
        2 => {
            let token = TOKENS[random.random_range(0..TOKENS.len())];
            text.splice(place..place, token.bytes());
        }
        3 => edit_lines(text, |lines| lines.push(lines[place % lines.len()].clone())),
        4 => edit_lines(text, |lines| {
            let line = place % lines.len();
            lines.swap(line, 0);
        }),
        5 => edit_lines(text, |lines| drop(lines.remove(place % lines.len()))),
        6 => {
            let depth = random.random_range(1..2_000);
            let open = [&b"["[..], b"{a=", b"a."][random.random_range(0..3)];
            text.splice(place..place, open.repeat(depth));
        }
        7 => {
            let other = texts[random.random_range(0..texts.len())].as_bytes();
            let from = random.random_range(0..other.len());
            text.splice(place..place, other[from..other.len().min(from + 200)].iter().copied());
        }
        _ => {
            let end = text.len().min(place + random.random_range(0..40));
            text.drain(place..end);
        }
    }
}

fn edit_lines(text: &mut Vec<u8>, edit: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let mut lines: Vec<Vec<u8>> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    edit(&mut lines);
    *text = lines.join(&b'\n');
}
