//! No password leaves its place. Canaries are planted wherever passwords may stand, and looked for wherever one could be seen:
//! in the arguments and environments of all processes on both sides while something is applied, in logs, journals, plans,
//! metrics and files that others may read.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sha2::{Digest as _, Sha256};

use crate::base::Suite;
use crate::daemon::{Daemon, is_settled};
use crate::ran::finish;
use crate::site::Site;

const FROM_ENV: &str = "canary-env-7Qn3vT1x";
const FROM_FILE: &str = "canary-file-Zp84wLk2";
const NAME: &str = "CANARY_PASSWORD";

fn has(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}

/// All that this machine can see of processes, those of its hosts included, where any of these words stands. The environment of
/// `given` was given to it by the person who started it; between fork and exec, a child of it shows the same.
fn seen_in_processes(canaries: &[String], given: u32) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let own = fs::read(format!("/proc/{given}/cmdline")).unwrap_or_default();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // In this order: a process that has become another by its second look had done so by its first.
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_given = pid == given || pid == std::process::id() || arguments == own;
        for (what, bytes) in [("arguments", &arguments), ("environment", &environment)] {
            if what == "environment" && is_given {
                continue;
            }
            if let Some(canary) = canaries.iter().find(|canary| has(bytes, canary)) {
                found.insert(format!("{canary} in {what} of {}", String::from_utf8_lossy(&arguments).replace('\0', " ")));
            }
        }
    }
    found
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn no_password_leaves_its_place() {
    let site = Site::of([Suite::Bookworm]);
    let host = &site.lab.hosts[0];
    let user =
        |name: &str, password: &str| format!("[instances.one.users.{name}]\npassword = {password}\nprivileges = [\"+@all\"]\n");
    let (by_env, by_file) = (user("by-env", &format!("{{ env = \"{NAME}\" }}")), user("by-file", "{ file = \"secret\" }"));
    site.write("secret", format!("{FROM_FILE}\n"));
    site.declare(&format!("[instances.one]\nshard = \"on-n1\"\n{by_env}{by_file}"));
    let mut canaries = vec![FROM_ENV.to_owned(), FROM_FILE.to_owned()];

    let mut said = Vec::new();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let apply =
            site.command(&["apply", "--yes", "--json"]).env(NAME, FROM_ENV).env("VALKEEPER_LOG", "trace").spawn().unwrap();
        let (but, done, canaries) = (apply.id(), &done, &canaries);
        let watch = scope.spawn(move || {
            let (mut found, mut rounds) = (BTreeSet::new(), 0);
            while !done.load(Ordering::Relaxed) {
                found.append(&mut seen_in_processes(canaries, but));
                rounds += 1;
            }
            (found, rounds)
        });
        let ran = finish(apply);
        done.store(true, Ordering::Relaxed);
        let (found, rounds) = watch.join().unwrap();
        assert!(rounds > 5, "{rounds} looks are not worth much");
        assert_eq!(found, BTreeSet::new());
        assert_eq!(ran.code, Some(0), "{}", ran.all());
        said.push(("apply", ran.all()));
    });
    assert_eq!(site.client_as("n1", "one", "by-env", FROM_ENV).ask("PING"), "+PONG");
    assert_eq!(site.client_as("n1", "one", "by-file", FROM_FILE).ask("PING"), "+PONG");

    // From now on there is also the operator's password, which the node made itself.
    let marker = fs::read_to_string(host.file("/var/lib/valkeeper/instances/one.toml")).unwrap();
    let operator = marker.lines().find_map(|line| line.strip_prefix("operator_password = \"")).unwrap().trim_end_matches('"');
    canaries.push(operator.to_owned());
    // What a plan carries is less than the hash of a password: with that, and time, it could be found.
    let hashes: Vec<_> = [FROM_ENV, FROM_FILE, operator]
        .iter()
        .map(|password| base16ct::lower::encode_string(&Sha256::digest(password)))
        .collect();

    site.declare(&format!(
        "[instances.one]\nshard = \"on-n1\"\n{by_env}{by_file}[instances.two]\nshard = \"on-n1\"\n{}",
        user("by-env", &format!("{{ env = \"{NAME}\" }}")).replace("instances.one", "instances.two")
    ));
    let with_env =
        |arguments: &[&str]| finish(site.command(arguments).env(NAME, FROM_ENV).env("VALKEEPER_LOG", "trace").spawn().unwrap());
    for arguments in [&["plan"][..], &["plan", "--json", "--out", "saved"], &["plan", "--markdown"], &["observe"]] {
        said.push(("command", with_env(arguments).all()));
    }
    said.push(("saved plan", fs::read_to_string(site.path("saved")).unwrap()));
    // The daemon may read files below its own root only, and environment that it was given.
    let daemon = Daemon::start_with(
        &site,
        "d",
        &["--secrets-root", site.folder().to_str().unwrap()],
        &[(NAME, FROM_ENV), ("VALKEEPER_LOG", "trace")],
    );
    daemon.until("settled", is_settled);
    said.push(("status", daemon.say(&["status", "--json"]).all()));
    said.push(("metrics", daemon.metrics()));
    assert_eq!(seen_in_processes(&canaries, daemon.pid()), BTreeSet::new());
    said.push(("log of the daemon", daemon.log()));
    drop(daemon);
    said.push(("journal", host.journal()));
    for (what, words) in &said {
        for secret in canaries.iter().chain(&hashes) {
            assert!(!words.contains(secret.as_str()), "{secret} in {what}:\n{words}");
        }
    }
    files_keep_it(host, &canaries, &hashes);
}

/// On the node, passwords and their hashes stand only where root, or the one server, may read.
fn files_keep_it(host: &crate::host::Host, canaries: &[String], hashes: &[String]) {
    let mut seen = BTreeSet::new();
    for folder in ["/etc", "/var/lib", "/var/log", "/usr/local", "/root", "/tmp", "/var/tmp"] {
        walk(&host.file(folder), &mut |path| {
            let Ok(bytes) = fs::read(path) else { return };
            if canaries.iter().chain(hashes).any(|secret| has(&bytes, secret)) {
                let mode = fs::metadata(path).unwrap().permissions().mode() & 0o777;
                let below = Path::new("/").join(path.strip_prefix(&host.root).unwrap());
                assert_eq!(mode & 0o077, 0, "{} may be read by others ({mode:o})", below.display());
                seen.insert(below.display().to_string());
            }
        });
    }
    let expected = ["one", "two"]
        .iter()
        .flat_map(|name| [format!("/var/lib/valkeeper/instances/{name}.toml"), format!("/var/lib/valkey/{name}/users.acl")]);
    let unexpected: Vec<_> = seen.into_iter().filter(|path| !expected.clone().any(|known| known == *path)).collect();
    assert_eq!(unexpected, Vec::<String>::new());
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            walk(&entry.path(), visit);
        } else if kind.is_file() {
            visit(&entry.path());
        }
    }
}
