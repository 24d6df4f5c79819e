//! What a file may do: purity, the boundary of I/O, where ACL words stand, size.

use super::source::{Named, Source};

/// Lines of code, without blank lines, comments and the file's own tests.
const LINES_OF_CODE_MAX: usize = 500;

/// The rooms that only compute: from the same values, the same values.
const PURE: &[&str] = &["model/", "desired/", "plan/"];

/// What a pure room never names. Beginnings of paths.
const IMPURE_PATHS: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io::stderr",
    "std::io::stdin",
    "std::io::stdout",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::time::Instant",
    "std::time::SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
    "rand",
    "tokio",
    "tracing",
];

/// What a pure room never says.
const IMPURE_WORDS: &[&str] = &["async", "await", "eprint", "eprintln", "print", "println", "Instant", "SystemTime"];

/// The files that may switch off clippy's list of disallowed methods (clippy.toml), and why.
const BOUNDARY: &[(&str, &str)] = &[
    ("host/", "the primitives of one machine: files, processes, sockets"),
    ("observe/", "looks at a node: its folders, its clock"),
    ("apply/schedule.rs", "tells how long a step took; nothing depends on it"),
    ("apply/perform", "a node's clock: its deadline for a step"),
    ("apply/instance", "stamps what it makes, and draws its operator's password"),
    ("fleet/local.rs", "the node in process: its folder, its deadline"),
    ("repo/", "the source: starts git, reads a folder, keeps a mirror, watches"),
    ("daemon/control.rs", "the control socket"),
    ("daemon/doors.rs", "the port for metrics and hooks"),
    ("daemon/mod.rs", "chance between two looks"),
    ("roots.rs", "what the text names on this machine"),
    ("cli/", "files and secrets named by the person who types"),
    ("main.rs", "the process itself"),
    ("prepare/program.rs", "reads the program that is sent to nodes"),
];

/// What only ACL code says.
const ACL_WORDS: &[&str] = &["+@all", "-@all", "resetchannels", "SETUSER"];

/// The files that may, and why.
const ACL_FILES: &[(&str, &str)] = &[
    ("model/acl/", "the canonical form itself"),
    ("model/acl_file.rs", "the ACL file, with its closed default user"),
    ("model/operator.rs", "the rights of our own user"),
    ("desired/", "keys, checks and hints of the state language, where a person writes these words"),
    ("plan/acl.rs", "decides what becomes of a user"),
    ("apply/acl.rs", "performs what becomes of a user"),
    ("host/valkey", "the commands that are sent"),
];

fn stands_in<'a>(source: &Source, mut places: impl Iterator<Item = &'a str>) -> bool {
    source.below_src().is_some_and(|place| places.any(|one| place.starts_with(one)))
}

/// A file too long to be read in one go, or one that does not say what it is for.
pub fn form(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if source.lines_of_code > LINES_OF_CODE_MAX {
        found.push(format!("{}: {} lines of code, more than {LINES_OF_CODE_MAX}", source.path, source.lines_of_code));
    }
    // A file without a line of code is a module that is yet to be written.
    if !source.says_what_it_owns && source.lines_of_code > 0 {
        found.push(format!("{}: begins without //! (what it owns, and what it never does)", source.path));
    }
    found
}

/// I/O, clock, randomness, logging or async in a pure room.
pub fn impurities(source: &Source) -> Vec<String> {
    if !stands_in(source, PURE.iter().copied()) {
        return Vec::new();
    }
    let is_impure = |path: &str| {
        let begins = |with: &str| path.strip_prefix(with).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
        IMPURE_PATHS.iter().any(|with| begins(with))
    };
    let paths = source.paths.iter().filter(|named| is_impure(&named.text));
    let words = source.words.iter().filter(|named| IMPURE_WORDS.contains(&named.text.as_str()));
    paths.chain(words).map(|named| format!("{}: a pure room does not know {}", source.at(named), named.text)).collect()
}

/// Clippy's list of disallowed methods switched off away from the boundary.
pub fn hidden_doors(source: &Source) -> Vec<String> {
    if source.below_src().is_none() || stands_in(source, BOUNDARY.iter().map(|(place, _)| *place)) {
        return Vec::new();
    }
    let is_lint = |named: &&Named| named.text == "clippy::disallowed_methods";
    source.paths.iter().filter(is_lint).map(|named| format!("{}: I/O is done at the boundary only", source.at(named))).collect()
}

/// ACL words away from the ACL files.
pub fn stray_acl_words(source: &Source) -> Vec<String> {
    if source.below_src().is_none() || stands_in(source, ACL_FILES.iter().map(|(place, _)| *place)) {
        return Vec::new();
    }
    let word = |named: &Named| ACL_WORDS.iter().find(|word| named.text.contains(**word));
    source.strings.iter().filter_map(|named| word(named).map(|word| format!("{}: ACL word {word}", source.at(named)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_long_or_silent_is_found() {
        let lines = |count: usize| "//! Long.\n".to_owned() + &"const A: u8 = 1;\n\n// Why.\n".repeat(count);
        assert_eq!(form(&Source::parse("src/a.rs", &lines(LINES_OF_CODE_MAX))).len(), 0);
        assert_eq!(form(&Source::parse("src/a.rs", &lines(LINES_OF_CODE_MAX + 1))).len(), 1);
        assert_eq!(form(&Source::parse("src/a.rs", "fn f() {}")).len(), 1);
    }

    #[test]
    fn io_clock_and_async_in_a_pure_room_are_found() {
        for text in [
            "use std::fs;",
            "use std::{env, fmt};",
            "fn f() { std::time::SystemTime::now(); }",
            "fn f() { jiff::Timestamp::now(); }",
            "use std::time::{Duration, Instant};",
            "async fn f() {}",
            "fn f() { println!(\"\"); }",
            "use tracing::info;",
        ] {
            assert!(!impurities(&Source::parse("src/plan/mod.rs", text)).is_empty(), "{text}");
            assert!(impurities(&Source::parse("src/host/files.rs", text)).is_empty(), "{text}");
        }
        assert!(impurities(&Source::parse("src/plan/mod.rs", "//! Not async.\nuse std::time::Duration;")).is_empty());
    }

    #[test]
    fn a_door_away_from_the_boundary_is_found() {
        let text = "#![expect(clippy::disallowed_methods, reason = \"…\")]";
        assert_eq!(hidden_doors(&Source::parse("src/plan/mod.rs", text)).len(), 1);
        assert_eq!(hidden_doors(&Source::parse("src/host/files.rs", text)).len(), 0);
    }

    #[test]
    fn acl_words_away_from_the_acl_files_are_found() {
        let text = "const A: &str = \"on +@all\"; // SETUSER";
        assert_eq!(stray_acl_words(&Source::parse("src/plan/instance.rs", text)).len(), 1);
        assert_eq!(stray_acl_words(&Source::parse("src/model/acl/mod.rs", text)).len(), 0);
    }
}
