//! Two nodes on this machine, and instances that move from one to the other. Their servers end with it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::client::Client;
use crate::writers::Places;

/// SHA-256 of "secret".
const HASH: &str = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

pub struct Pair {
    folder: TempDir,
    count: usize,
}

impl Pair {
    pub fn new(count: usize) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), count }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    /// Applies with each instance on the shard that is given for it, and gives the most memory that took. kB.
    pub fn apply(&self, shards: &[&str]) -> u64 {
        let mut text = "[fleet]\nname = \"bench\"\n[guard]\nhandover_grace = \"0s\"\n[nodes.n1]\nlocal = \"./n1\"\n[nodes.n2]\nlocal = \"./n2\"\n\
                        [shards.a]\nnodes = [\"n1\"]\nports = \"22000-22099\"\n[shards.b]\nnodes = [\"n2\"]\nports = \"22100-22199\"\n"
            .to_owned();
        assert_eq!(shards.len(), self.count);
        for (number, shard) in shards.iter().enumerate() {
            let _infallible = write!(
                text,
                "[instances.i{number}]\nshard = \"{shard}\"\nmax_memory_mb = {}\nconfig = {{ save = \"\" }}\n[instances.i{number}.users.app]\n\
                 password_sha256 = \"{HASH}\"\nprivileges = [\"+@all\"]\n",
                1000 / self.count
            );
        }
        fs::write(self.path("desired.toml"), text).unwrap();
        let program = env!("CARGO_BIN_EXE_valkeeper");
        let log = fs::File::create(self.path("log")).unwrap();
        let mut command = Command::new(program);
        command.args(["apply", "--yes"]).arg(self.path("desired.toml")).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        let mut most = 0;
        loop {
            most = most.max(peak(child.id()));
            if let Some(status) = child.try_wait().unwrap() {
                assert!(status.success(), "{}", fs::read_to_string(self.path("log")).unwrap());
                return most;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Writes so much data, in values of 1,000 bytes.
    pub fn fill(&self, instance: &str, megabytes: usize) {
        let client = &mut self.places(instance).client(0).unwrap();
        fill(client, megabytes);
    }

    pub fn places(&self, instance: &str) -> Places {
        let config = |node: &str| self.path(&format!("{node}/config/{instance}.conf"));
        Places::Configs(vec![config("n1"), config("n2")])
    }
}

pub fn fill(client: &mut Client, megabytes: usize) {
    let value = "x".repeat(1000);
    for batch in 0..megabytes {
        let lines = |key: usize| format!("SET key:{batch}:{key} {value}\r\n");
        client.ask_many(&(0..1000).map(lines).collect::<String>(), 1000);
    }
}

fn peak(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

impl Drop for Pair {
    fn drop(&mut self) {
        stop_below(self.folder.path());
    }
}

/// Ends the servers that work below this folder, and no others.
pub fn stop_below(folder: &Path) {
    let Ok(root) = fs::canonicalize(folder) else { return };
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if fs::read_link(entry.path().join("cwd")).is_ok_and(|at| at.starts_with(&root)) {
            let _gone_already = Command::new("kill").arg("-9").arg(entry.file_name()).output();
        }
    }
}
