//! Who may speak of whom: the import table of the design, and the one home of each external crate.

use super::source::{Named, Source};

/// A room of the house and the rooms it may import from. The longest name that fits a module is its room; a room may
/// always import from itself. Imports never run upward, so `cli` and `main` appear in no list.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("desired", &["model"]),
    ("plan", &["model"]),
    ("host", &["model"]),
    ("observe", &["host", "model"]),
    ("apply", &["observe", "host", "model"]),
    ("apply::schedule", &["fleet", "host", "model"]),
    ("wire", &["model"]),
    ("fleet", &["host", "model"]),
    ("fleet::local", &["fleet", "apply", "observe", "host", "wire", "model"]),
    ("fleet::connection", &["observe", "wire", "host", "model"]),
    ("fleet::known", &["fleet", "host", "wire", "model"]),
    ("fleet::session", &["fleet", "fleet::known", "fleet::connection", "host", "wire", "model"]),
    ("fleet::nodes", &["fleet", "fleet::local", "fleet::session", "observe", "host", "wire", "model"]),
    ("agent", &["fleet::local", "fleet", "observe", "host", "wire", "model"]),
    ("repo", &["desired", "host", "model"]),
    ("reconcile", &["desired", "plan", "apply::schedule", "fleet", "host", "model"]),
    ("prepare", &["host", "model"]),
    ("roots", &["fleet::nodes", "repo", "desired", "observe", "host", "model"]),
    (
        "daemon",
        &[
            "reconcile",
            "daemon::status",
            "metrics",
            "http",
            "roots",
            "repo",
            "desired",
            "plan",
            "apply::schedule",
            "fleet::nodes",
            "fleet",
            "observe",
            "host",
            "model",
        ],
    ),
    ("daemon::status", &["model"]),
    ("metrics", &["daemon::status", "model"]),
    ("http", &["metrics", "daemon::status", "model"]),
    (
        "cli",
        &[
            "daemon",
            "daemon::status",
            "reconcile",
            "roots",
            "repo",
            "desired",
            "plan",
            "apply::schedule",
            "apply",
            "agent",
            "fleet::local",
            "fleet::session",
            "prepare",
            "fleet::nodes",
            "fleet",
            "observe",
            "host",
            "model",
        ],
    ),
];

/// Crates that any room may use, because they change nothing outside of the value at hand.
const EVERYWHERE: &[&str] = &["serde", "thiserror"];

/// Every other dependency, and the places below `src/` that may use it.
const HOMES: &[(&str, &[&str])] = &[
    ("annotate-snippets", &["cli/problems.rs"]),
    ("anstream", &["cli/", "main.rs"]),
    ("anstyle", &["cli/", "main.rs"]),
    ("anyhow", &["cli/", "main.rs"]),
    ("axum", &["http/", "daemon/control.rs"]),
    ("base16ct", &["host/", "model/password.rs", "desired/revision.rs", "http/hook.rs", "repo/folder.rs", "prepare/program.rs"]),
    ("base64ct", &["wire/chunk.rs"]),
    ("clap", &["cli/", "main.rs"]),
    // Its one function that is used is safe to call: it marks, and closes nothing.
    ("close_fds", &["host/process.rs"]),
    ("dialoguer", &["cli/"]),
    ("futures-util", &["host/", "observe/", "apply/", "fleet/", "wire.rs", "reconcile.rs", "cli/"]),
    ("git2", &["repo/"]),
    ("hmac", &["http/hook.rs"]),
    ("http-body-util", &["cli/client.rs"]),
    ("humantime", &["model/size.rs"]),
    // axum's own server sets no limit on how long the head of a request may take; these two are what it is made of.
    ("hyper", &["http/serve.rs", "cli/client.rs"]),
    ("hyper-util", &["http/serve.rs", "cli/client.rs"]),
    ("indicatif", &["cli/"]),
    // Stamps and ages as values; reading the clock is another matter (clippy.toml, and the test of the pure rooms).
    ("jiff", &["model/", "plan/", "host/", "observe/", "apply/", "repo/", "daemon/", "metrics/", "http/", "cli/"]),
    ("notify", &["repo/watch.rs"]),
    ("prometheus", &["metrics/"]),
    ("rand", &["host/", "apply/", "daemon/"]),
    ("redis", &["host/valkey"]),
    ("rustix", &["host/", "repo/git.rs"]),
    ("sd-notify", &["daemon/systemd.rs"]),
    (
        "serde_json",
        &["desired/json_schema.rs", "plan/show/", "wire.rs", "host/", "observe/", "apply/", "http/", "daemon/", "cli/"],
    ),
    (
        "sha2",
        &["host/cargo.rs", "model/password.rs", "desired/revision.rs", "http/hook.rs", "repo/folder.rs", "prepare/program.rs"],
    ),
    ("similar", &["plan/show/"]),
    ("strsim", &["model/"]),
    ("subtle", &["http/hook.rs"]),
    ("tempfile", &["host/", "repo/signature.rs"]),
    (
        "tokio",
        &[
            "host/",
            "observe/",
            "apply/",
            "fleet/",
            "wire.rs",
            "agent.rs",
            "repo/",
            "reconcile.rs",
            "daemon/",
            "http/",
            "cli/",
            "main.rs",
        ],
    ),
    ("tokio-util", &["wire.rs"]),
    // The state language; and our own files: markers, records, manifests, a saved observation.
    ("toml", &["desired/", "host/", "observe/", "apply/", "cli/"]),
    ("tracing", &["host/", "observe/", "apply/", "fleet/", "repo/", "reconcile.rs", "daemon/", "http/", "cli/", "main.rs"]),
    ("tracing-subscriber", &["cli/", "main.rs"]),
    ("zbus", &["host/systemd.rs"]),
];

/// The room of a module path, without `crate::`; nothing for the root of the crate.
fn room(module: &str) -> Option<&'static (&'static str, &'static [&'static str])> {
    let fits = |name: &str| module == name || module.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"));
    ROOMS.iter().filter(|(name, _)| fits(name)).max_by_key(|(name, _)| name.len())
}

/// The imports of a file that run upward or sideways.
pub fn forbidden_imports(source: &Source) -> Vec<String> {
    let Some((from, allowed)) = room(&source.module()) else { return Vec::new() };
    let breach = |named: &Named| {
        let (to, _) = room(named.text.strip_prefix("crate::")?)?;
        let fine = to == from || allowed.contains(to);
        (!fine).then(|| format!("{}: {from} must not import from {to}: {}", source.at(named), named.text))
    };
    source.paths.iter().filter_map(breach).collect()
}

/// The uses of external crates away from their homes.
pub fn homeless_crates(source: &Source) -> Vec<String> {
    let Some(place) = source.below_src() else { return Vec::new() };
    let breach = |named: &Named| {
        let head = named.text.split("::").next()?;
        let (name, homes) = HOMES.iter().find(|(name, _)| name.replace('-', "_") == head)?;
        let fine = homes.iter().any(|home| place.starts_with(home));
        (!fine).then(|| format!("{}: {name} belongs to {}: {}", source.at(named), homes.join(", "), named.text))
    };
    source.paths.iter().filter_map(breach).collect()
}

/// Where the table of homes and the dependencies in Cargo.toml differ.
pub fn unlisted_crates(cargo_toml: &str) -> Vec<String> {
    let manifest: toml::Table = cargo_toml.parse().expect("Cargo.toml is TOML");
    let dependencies = manifest["dependencies"].as_table().expect("a table");
    let listed = || HOMES.iter().map(|(name, _)| *name).chain(EVERYWHERE.iter().copied());
    let homeless = dependencies.keys().filter(|name| !listed().any(|one| one == *name));
    let gone = listed().filter(|name| !dependencies.contains_key(*name));
    homeless
        .map(|name| format!("Cargo.toml: {name} has no home yet: give it one in tests/it/tidy/imports.rs"))
        .chain(gone.map(|name| format!("tests/it/tidy/imports.rs: {name} is no dependency any more")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(path: &str, text: &str) -> usize {
        let source = Source::parse(path, text);
        forbidden_imports(&source).len() + homeless_crates(&source).len()
    }

    #[test]
    fn an_import_that_runs_upward_is_found_in_every_spelling() {
        assert_eq!(breaches("src/model/name.rs", "use crate::plan::Plan;"), 1);
        assert_eq!(breaches("src/model/name.rs", "use super::super::{host::files, desired};"), 2);
        assert_eq!(breaches("src/plan/mod.rs", "fn f() { super::desired::parse() }"), 1);
        assert_eq!(breaches("src/desired/check.rs", "use {crate::plan};"), 1);
        assert_eq!(breaches("src/apply/schedule.rs", "use crate::observe::node;"), 1);
        assert_eq!(breaches("src/apply/perform.rs", "use super::schedule;"), 1);
        assert_eq!(breaches("src/reconcile.rs", "use crate::cli::source;"), 1);
    }

    #[test]
    fn an_import_that_runs_downward_is_none_of_our_business() {
        assert_eq!(breaches("src/model/acl/parse.rs", "use super::{names, super::password}; use crate::model::name;"), 0);
        assert_eq!(breaches("src/fleet/local.rs", "use crate::{apply::perform, observe, host::lock, model::plan::Step};"), 0);
        assert_eq!(breaches("src/reconcile.rs", "use crate::apply::schedule::schedule;"), 0);
        assert_eq!(breaches("src/main.rs", "use valkeeper::cli;"), 0);
    }

    #[test]
    fn a_crate_away_from_its_home_is_found() {
        assert_eq!(breaches("src/observe/member.rs", "use redis::Client;"), 1);
        assert_eq!(breaches("src/plan/mod.rs", "#[derive(clap::Parser)] struct P;"), 1);
        assert_eq!(breaches("src/plan/mod.rs", "use {std::fmt, tokio::time};"), 1);
        assert_eq!(breaches("src/host/valkey.rs", "use redis::Client;"), 0);
    }

    #[test]
    fn a_new_dependency_needs_a_home() {
        let listed: String =
            HOMES.iter().map(|(name, _)| name).chain(EVERYWHERE).map(|name| format!("{name} = \"1\"\n")).collect();
        assert_eq!(unlisted_crates(&format!("[dependencies]\n{listed}")), [""; 0]);
        assert_eq!(unlisted_crates(&format!("[dependencies]\nchrono = \"1\"\n{listed}")).len(), 1);
    }
}
