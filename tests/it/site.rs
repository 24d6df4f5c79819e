//! A person at the command line: a folder of TOML, the built program, and real servers that end with the test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

pub use crate::client::Client;
pub use crate::ran::{Ran, finish, finish_unread};
use crate::support::stop_all;

/// Ports that one site may use.
const PORTS: u16 = 40;

/// A state repository with one node, in a temporary folder.
pub struct Site {
    pub folder: TempDir,
    pub first_port: u16,
    /// Where its throwaway servers have their folders.
    pub scratch: TempDir,
    /// The server that is started, if not the one of this machine.
    server: Option<PathBuf>,
}

/// Ranges below the kernel's own ephemeral ports; those of tests that run at the same time do not meet.
fn ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 64).unwrap();
    10_000 + (process * 5 + NEXT.fetch_add(1, Ordering::Relaxed)) % 550 * PORTS
}

impl Site {
    /// With these tables behind those of the fleet, its node and its shard `a`.
    pub fn new(tables: &str) -> Self {
        Self::below(&std::env::temp_dir(), tables)
    }

    /// In a folder below this one.
    pub fn below(folder: &Path, tables: &str) -> Self {
        let (folder, scratch) = (tempfile::tempdir_in(folder).unwrap(), tempfile::tempdir().unwrap());
        let site = Self { folder, first_port: ports(), scratch, server: None };
        site.declare(tables);
        site
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }

    pub fn declare(&self, tables: &str) {
        self.write("fleet.toml", self.text("", tables));
    }

    /// The whole text; `fleet` are further keys of the fleet's own table.
    pub fn text(&self, fleet: &str, tables: &str) -> String {
        let (first, last) = (self.first_port, self.first_port + PORTS - 1);
        format!(
            "[fleet]\nname = \"prod\"\n{fleet}[nodes.here]\nlocal = \"./state\"\n[shards.a]\nnodes = [\"here\"]\nports = \"{first}-{last}\"\n\
             {tables}"
        )
    }

    pub fn write(&self, below: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(below), text).unwrap();
    }

    pub fn read(&self, below: &str) -> String {
        fs::read_to_string(self.path(below)).unwrap_or_else(|error| panic!("{below}: {error}"))
    }

    pub fn command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_valkeeper"));
        command.args(arguments).current_dir(self.folder.path()).env("TMPDIR", self.scratch.path());
        command.envs(self.server.iter().map(|server| ("VALKEY_SERVER", server)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Servers are started from this file from now on.
    pub fn serve_with(&mut self, program: &Path) {
        self.server = Some(program.to_owned());
    }

    /// Runs `valkeeper` in the folder, without a terminal.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments).spawn().unwrap())
    }

    #[track_caller]
    pub fn apply(&self) -> Ran {
        self.run(&["apply", "--yes"])
    }

    #[track_caller]
    pub fn applied(&self) -> Ran {
        self.apply().expect(0)
    }

    /// Nothing is left to do.
    #[track_caller]
    pub fn settled(&self) {
        let plan = self.run(&["plan"]).expect(0);
        assert!(plan.out.ends_with("No changes.\n"), "{}", plan.out);
    }

    /// Nothing is left to do, and something is worth telling.
    #[track_caller]
    pub fn settled_with_notes(&self) {
        self.run(&["plan"]).expect(0).says("Notes:").says("No changes.");
    }

    /// The port that an instance was given, from its config file.
    pub fn port(&self, instance: &str) -> u16 {
        let config = self.read(&format!("state/config/{instance}.conf"));
        config.lines().find_map(|line| line.strip_prefix("port ")).unwrap().parse().unwrap()
    }

    pub fn pid(&self, instance: &str) -> u32 {
        self.read(&format!("state/run/{instance}.pid")).trim().parse().unwrap()
    }

    /// A connection to an instance as one of its users.
    pub fn client(&self, instance: &str, user: &str, password: &str) -> Client {
        let mut client = Client::to(self.port(instance)).unwrap();
        assert_eq!(client.ask(&format!("AUTH {user} {password}")), "+OK");
        client
    }

    /// The same, or why it is not let in.
    pub fn client_or_refusal(&self, instance: &str, user: &str, password: &str) -> Result<Client, String> {
        let mut client = Client::to(self.port(instance)).map_err(|error| error.to_string())?;
        let reply = client.try_ask(&format!("AUTH {user} {password}")).ok_or("closed")?;
        if reply == "+OK" { Ok(client) } else { Err(reply) }
    }

    /// A connection with the rights of the operator.
    pub fn operator(&self, instance: &str) -> Client {
        let marker = self.read(&format!("state/instances/{instance}.toml"));
        let line = marker.lines().find(|line| line.starts_with("operator_password")).unwrap();
        self.client(instance, "valkeeper", line.split('"').nth(1).unwrap())
    }

    /// Every file and folder with what tells that it was written to. Logs are the servers' own.
    pub fn listing(&self) -> BTreeMap<PathBuf, (u64, i64, i64, u64)> {
        let mut found = BTreeMap::new();
        list(self.folder.path(), &mut found);
        found
    }
}

fn list(folder: &Path, found: &mut BTreeMap<PathBuf, (u64, i64, i64, u64)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let meta = fs::symlink_metadata(entry.path()).unwrap();
        found.insert(entry.path(), (meta.ino(), meta.mtime(), meta.mtime_nsec(), meta.len()));
        if meta.is_dir() {
            list(&entry.path(), found);
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        stop_all(self.folder.path());
        stop_all(self.scratch.path());
    }
}
