//! A state repository with many instances on one local node, and the servers that come of it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::floor::Login;

/// The folder of the text, with the node's folder in it. Its servers end with it.
pub struct World {
    folder: TempDir,
    count: usize,
}

impl World {
    pub fn new(count: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let world = Self { folder, count };
        world.write("");
        world
    }

    /// Writes the text; `more` are further rights of the first user.
    pub fn write(&self, more: &str) {
        let mut text = "[fleet]\nname = \"bench\"\n[nodes.here]\nlocal = \"./state\"\n\
                        [shards.main]\nnodes = [\"here\"]\nports = \"21000-21999\"\n"
            .to_owned();
        for number in 0..self.count {
            let more = if number == 0 { more } else { "" };
            let _infallible = write!(
                text,
                "\n[instances.i{number}]\nshard = \"main\"\nconfig = {{ timeout = 300 }}\n[instances.i{number}.users.app]\n\
                 password_sha256 = \"{:064x}\"\nprivileges = [\"+@all\", \"-@dangerous\"{more}]\nkey_pattern = \"~app:*\"\n",
                number + 1
            );
        }
        fs::write(self.path().join("desired.toml"), text).expect("a file");
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn names(&self) -> Vec<String> {
        (0..self.count).map(|number| format!("i{number}")).collect()
    }

    pub fn valkeeper(&self, command: &str, words: &[&str]) {
        let program = env!("CARGO_BIN_EXE_valkeeper");
        let output = Command::new(program).arg(command).args(words).arg(self.path()).output().expect("valkeeper");
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{told}");
    }

    pub fn apply(&self) {
        self.valkeeper("apply", &["--yes"]);
    }

    pub fn logins(&self) -> Vec<Login> {
        let state = self.state();
        let login = |name: String| Login {
            socket: state.join("run").join(format!("{name}.sock")),
            password: operator_password(&state.join("instances").join(format!("{name}.toml"))),
        };
        self.names().into_iter().map(login).collect()
    }

    pub fn stop(&self) {
        stop_below(&self.state());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `operator_password = "…"` of a marker.
fn operator_password(marker: &Path) -> String {
    let text = fs::read_to_string(marker).expect("a marker");
    let line = text.lines().find(|line| line.starts_with("operator_password")).expect("a password");
    line.split('"').nth(1).expect("a password").to_owned()
}

/// Ends the servers that work below this folder, and no others, and waits until they are gone.
fn stop_below(folder: &Path) {
    let Ok(root) = fs::canonicalize(folder) else { return };
    let ours = || -> Vec<String> {
        let works_below = |pid: &String| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at.starts_with(&root));
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(works_below).collect()
    };
    loop {
        let pids = ours();
        if pids.is_empty() {
            return;
        }
        let _some_are_gone_already = Command::new("kill").arg("-9").args(&pids).output();
        std::thread::sleep(Duration::from_millis(20));
    }
}
