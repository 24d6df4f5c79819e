//! The rules of the house that a machine can keep, by reading the tree. CONTRIBUTING.md says them in words.
//!
//! Each rule is a function from a file to its breaches, and beside each rule a test plants a breach and sees it found.

mod conduct;
mod imports;
mod papers;
mod source;

use std::path::{Path, PathBuf};

use source::Source;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for name in papers::names_in(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            rust_files(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        rust_files(&root.join(folder), &mut files);
    }
    assert!(files.len() > 20, "the tree was not found: {files:?}");
    files.iter().map(|file| Source::read(&root, file)).collect()
}

fn check(rule: fn(&Source) -> Vec<String>) {
    none(sources().iter().flat_map(rule).collect());
}

fn none(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "\n{}\n", breaches.join("\n"));
}

fn text_of(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn every_file_is_short_and_says_what_it_owns() {
    check(conduct::form);
}

#[test]
fn imports_never_run_upward() {
    check(imports::forbidden_imports);
}

#[test]
fn every_crate_has_one_home() {
    check(imports::homeless_crates);
    none(imports::unlisted_crates(&text_of("Cargo.toml")));
}

#[test]
fn model_desired_and_plan_are_pure() {
    check(conduct::impurities);
}

#[test]
fn io_is_let_in_at_the_boundary_only() {
    check(conduct::hidden_doors);
}

#[test]
fn acl_words_stand_in_the_acl_files_only() {
    check(conduct::stray_acl_words);
}

#[test]
fn every_golden_folder_is_whole() {
    none(papers::unwhole_cases(&root(), "tests/golden/plans", papers::plan_case));
    none(papers::unwhole_cases(&root(), "tests/golden/problems", papers::problem_case));
}

#[test]
fn every_decision_is_linked() {
    none(papers::unlinked(&text_of("docs/decisions/README.md"), &papers::names_in(&root().join("docs/decisions"))));
}

#[test]
fn documents_name_only_what_exists() {
    let decisions = papers::names_in(&root().join("docs/decisions")).into_iter().map(|name| format!("docs/decisions/{name}"));
    let pages = papers::names_in(&root()).into_iter().filter(|name| name.ends_with(".md"));
    for document in pages.chain(decisions) {
        let folder = root().join(&document).parent().unwrap().to_owned();
        let exists = |path: &str| [&folder, &root(), &root().join("src")].iter().any(|base| base.join(path).exists());
        none(papers::dangling(&document, &text_of(&document), exists));
    }
}

#[test]
fn the_architecture_page_is_short() {
    let page = root().join("ARCHITECTURE.md");
    if page.exists() {
        none(papers::too_long(&text_of("ARCHITECTURE.md")));
    }
}
