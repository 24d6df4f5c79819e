//! An Ansible playbook that does the same work: unit template, folders, configs, limits, users, services.
//!
//! It is written to be fast as playbooks go: pipelining, kept connections, no facts gathered, hosts side by side, one
//! start for each instance. It does less: it never looks at what runs, only at files and units.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::hosts::{APP_HASH, Hosts, READER_HASH, names};
use crate::run;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/ansible");
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/valkey@.service");
/// Of the password "admin": the playbook's own user in each server.
const ADMIN_HASH: &str = "8c6976e5b5410415bde908bd4dee15dfb167a9c873fc4bb8a81f6f2ab448a918";
/// A playbook took a minute on this work.
const RUN_MAX: Duration = Duration::from_mins(15);

pub struct Playbook<'a> {
    hosts: &'a Hosts,
    program: PathBuf,
}

impl<'a> Playbook<'a> {
    /// The hosts get Python for it.
    pub fn new(hosts: &'a Hosts) -> Result<Self, String> {
        let program =
            program().ok_or("there is no ansible-playbook on PATH, and ANSIBLE_PLAYBOOK names none: install ansible-core")?;
        thread::scope(|scope| {
            for host in &hosts.lab.hosts {
                scope.spawn(|| install_python(&host.root));
            }
        });
        let playbook = Self { hosts, program };
        playbook.write();
        Ok(playbook)
    }

    fn folder(&self) -> PathBuf {
        self.hosts.lab.folder().join("ansible")
    }

    fn write(&self) {
        let folder = self.folder();
        fs::create_dir(&folder).expect("a folder");
        let ssh = self.hosts.lab.folder().join("ssh");
        let config = format!(
            "[defaults]\nforks = 10\ngathering = explicit\nlocal_tmp = {0}/tmp\nhome = {0}\n[ssh_connection]\npipelining = true\n\
             ssh_executable = {1}\ncontrol_path_dir = {0}/cp\n",
            folder.display(),
            ssh.display()
        );
        fs::write(folder.join("ansible.cfg"), config).expect("a file");
        // The same hardening, under other names: the two do not meet.
        let unit = fs::read_to_string(UNIT).expect("the unit template");
        let unit = unit.replace("/etc/valkey/instances", "/etc/valkey/play").replace("/var/lib/valkey", "/var/lib/valkey-play");
        fs::write(folder.join("valkey-play@.service"), unit.replace("valkey-%i", "valkey-play-%i")).expect("a file");
        let instance = |(number, name): (usize, String)| {
            let users = json!([
                {"name": "admin", "sha256": ADMIN_HASH, "patterns": "~*", "rules": "+@all"},
                {"name": "app", "sha256": APP_HASH, "patterns": "~app:*", "rules": "+@all -@dangerous"},
                {"name": "reader", "sha256": READER_HASH, "patterns": "~public:*", "rules": "+@read -@dangerous"},
            ]);
            json!({"name": name, "port": 6400 + number, "max_memory_mb": 64, "timeout": 300, "users": users})
        };
        let host = |name: &str| -> Value { json!({"instances": names(name).enumerate().map(instance).collect::<Vec<_>>()}) };
        let hosts: serde_json::Map<_, _> = self.hosts.lab.hosts.iter().map(|one| (one.name.clone(), host(&one.name))).collect();
        let vars = json!({"unit_file": folder.join("valkey-play@.service"), "ansible_python_interpreter": "/usr/bin/python3", "admin_password": "admin"});
        let inventory = json!({"valkey": {"hosts": hosts, "vars": vars}});
        fs::write(folder.join("inventory.json"), inventory.to_string()).expect("a file");
    }

    /// What it says at its end.
    pub fn run(&self) -> String {
        let mut command = self.hosts.lab.command("timeout");
        command.arg(RUN_MAX.as_secs().to_string()).arg(&self.program).arg("-i").arg(self.folder().join("inventory.json"));
        command.arg(format!("{FOLDER}/playbook.yml")).env("ANSIBLE_CONFIG", self.folder().join("ansible.cfg"));
        run::must(&mut command)
    }

    /// A run that changes nothing.
    pub fn run_idle(&self) {
        let said = self.run();
        assert_eq!(said.matches("changed=0").count(), self.hosts.lab.hosts.len(), "{said}");
    }
}

fn program() -> Option<PathBuf> {
    let named = env::var_os("ANSIBLE_PLAYBOOK").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    named.or_else(|| env::split_paths(&path).map(|folder| folder.join("ansible-playbook")).find(|program| program.is_file()))
}

/// From this machine, which has a way to the archive: the hosts have none.
fn install_python(root: &std::path::Path) {
    fs::copy("/etc/resolv.conf", root.join("etc/resolv.conf")).expect("this machine's resolver");
    for words in [&["update"][..], &["install", "--yes", "--no-install-recommends", "python3"]] {
        let mut apt = run::within(RUN_MAX, "chroot");
        run::must(apt.arg(root).args(["apt-get", "--quiet"]).args(words).env("DEBIAN_FRONTEND", "noninteractive"));
    }
}
