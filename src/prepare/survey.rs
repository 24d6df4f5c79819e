//! What a host has of what a node needs: asked over ssh before anything of ours is there, judged here.

use crate::host::ssh::{Destination, Remote, RunError};
use crate::model::size::show_size;

/// Read by a POSIX shell from its standard input.
const SCRIPT: &str = include_str!("survey.sh");
const BEGIN: &str = "valkeeper survey";
const END: &str = "end of survey";
/// The oldest systemd that hardens units as ours, but for one pair of settings: `ProtectProc=` and `ProcSubset=` came with it
/// (its NEWS). `NoExecPaths=` and `ExecPaths=` came with 248: 247 (Debian 11) warns of them in its journal, and goes on without.
const SYSTEMD_MIN: u32 = 247;
/// The oldest server whose ACLs have one canonical form (facts A).
const VALKEY_MAJOR_MIN: u32 = 8;
/// Less free disk than this is worth a warning. Bytes.
const DISK_FREE_MIN: u64 = 1 << 30;
/// Less available memory than this is worth a warning: one instance of the default size, and the fork that saves it. Bytes.
const MEMORY_AVAILABLE_MIN: u64 = 128 << 20;

/// What a host said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub user: String,
    pub root: Root,
    /// Such as `Linux` and `x86_64`, as `uname` says.
    pub system: String,
    pub machine: String,
    pub release: String,
    systemd: Option<u32>,
    server: String,
    server_version: String,
    account: bool,
    disk_free_bytes: Option<u64>,
    memory_total_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
    overcommit: String,
    hugepages: String,
    /// Of our program there: its SHA-256 in hex, and what it says of itself.
    pub program: Option<(String, String)>,
}

/// How root's rights are had there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    Is,
    BySudo,
    /// By sudo, and for the agent only: enough to work, not to prepare the host.
    ForAgent,
    No,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub what: &'static str,
    pub grade: Grade,
    pub found: String,
    /// What to do about it.
    pub cure: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    Good,
    /// It works, and could work better.
    Warning,
    /// It does not work like this.
    Bad,
}

/// Why a host could not be surveyed.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(
        "the login there runs no shell, so the host cannot be prepared through it: {0:?}; prepare it with a login that has one, \
         and keep the forced command for the daemon"
    )]
    NoShell(String),
}

/// Asks a host. Changes nothing.
///
/// # Errors
/// When it cannot be reached, or its login has no shell.
pub async fn survey(to: &Destination) -> Result<Survey, SurveyError> {
    let said = match to.run(Remote::Survey, SCRIPT.as_bytes()).await {
        Ok(said) => said,
        // A forced command, or a shell that turns people away, has its own opinion of the script.
        Err(RunError::Status { status: _, words: _, said }) if !said.is_empty() && !said.contains(BEGIN) => said,
        Err(error) => return Err(error.into()),
    };
    read(&said).ok_or_else(|| SurveyError::NoShell(said.chars().filter(|c| !c.is_control()).take(120).collect()))
}

fn read(said: &str) -> Option<Survey> {
    let (_noise, rest) = said.split_once(BEGIN)?;
    let (lines, _) = rest.split_once(END)?;
    let value = |key: &str| {
        let mut found = lines.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        found.next().unwrap_or_default().trim().to_owned()
    };
    let kib = |text: &str| text.parse::<u64>().ok().map(|kib| kib.saturating_mul(1024));
    let (digest, ours) = (value("digest"), value("ours"));
    Some(Survey {
        user: value("user"),
        root: match value("root").as_str() {
            "yes" => Root::Is,
            "sudo" => Root::BySudo,
            "agent" => Root::ForAgent,
            _ => Root::No,
        },
        system: value("system"),
        machine: value("machine"),
        release: value("release"),
        // `systemd 252 (252.39-1~deb12u1)`; on another init its tools may still be there.
        systemd: (value("init") == "systemd").then(|| value("systemd").split(' ').nth(1)?.parse().ok()).flatten(),
        server: value("server"),
        server_version: value("version"),
        account: !value("account").is_empty(),
        // The fourth column of POSIX `df -P`: available.
        disk_free_bytes: value("disk").split_ascii_whitespace().nth(3).and_then(kib),
        memory_total_bytes: kib(&value("memory")),
        memory_available_bytes: kib(&value("available")),
        overcommit: value("overcommit"),
        hugepages: value("hugepages"),
        program: (!digest.is_empty()).then_some((digest, ours)),
    })
}

impl Survey {
    /// All that was looked at, in the order in which it matters.
    pub fn findings(&self) -> Vec<Finding> {
        vec![self.rights(), self.init(), self.server(), self.disk(), self.memory(), self.overcommit(), self.hugepages()]
    }

    /// Nothing that was found keeps it from being a node.
    pub fn is_fit(&self) -> bool {
        self.findings().iter().all(|finding| finding.grade != Grade::Bad)
    }

    fn rights(&self) -> Finding {
        let found = format!("{} on {} ({})", self.user, self.release, self.machine);
        match self.root {
            Root::Is => good("login", found),
            Root::BySudo => good("login", format!("{found}, root by sudo")),
            Root::ForAgent => good("login", format!("{found}, root by sudo for the agent only")),
            Root::No => bad("login", found, "log in as root, or let this user run valkeeper by sudo (deploy/sudoers-valkeeper)"),
        }
    }

    fn init(&self) -> Finding {
        match self.systemd {
            Some(version) if version >= SYSTEMD_MIN => good("systemd", version.to_string()),
            Some(version) => bad("systemd", version.to_string(), "version 247 or newer is needed"),
            None => bad("systemd", "not the init of this host".to_owned(), "instances run under systemd"),
        }
    }

    fn server(&self) -> Finding {
        const CURE: &str = "install valkey-server 8 or newer: apt-get install -t bookworm-backports valkey-server";
        // `Valkey server v=8.0.1 sha=…`; a Redis of the same name does not count.
        let version = self.server_version.strip_prefix("Valkey server v=").and_then(|rest| rest.split(' ').next());
        let major = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
        match (version, major) {
            (Some(version), Some(VALKEY_MAJOR_MIN..)) if self.account => {
                good("valkey-server", format!("{version} ({})", self.server))
            }
            (Some(version), Some(VALKEY_MAJOR_MIN..)) => {
                bad("valkey-server", format!("{version}, without a user valkey"), "make the user: useradd --system valkey")
            }
            (Some(version), _) => bad("valkey-server", version.to_owned(), CURE),
            (None, _) => bad("valkey-server", "not installed".to_owned(), CURE),
        }
    }

    fn disk(&self) -> Finding {
        const CURE: &str = "each instance needs room for two snapshots of its data";
        match self.disk_free_bytes {
            Some(free) if free >= DISK_FREE_MIN => good("disk", format!("{} free", show_size(free))),
            Some(free) => warning("disk", format!("{} free", show_size(free)), CURE),
            None => warning("disk", "not known".to_owned(), CURE),
        }
    }

    fn memory(&self) -> Finding {
        const CURE: &str = "an instance takes its max_memory_mb, 64 if nothing is declared, and more while it is saved";
        match (self.memory_total_bytes, self.memory_available_bytes) {
            (Some(total), Some(available)) => {
                let found = format!("{} available of {}", show_size(available), show_size(total));
                if available < MEMORY_AVAILABLE_MIN { warning("memory", found, CURE) } else { good("memory", found) }
            }
            (_, _) => warning("memory", "not known".to_owned(), CURE),
        }
    }

    fn overcommit(&self) -> Finding {
        let found = format!("vm.overcommit_memory = {}", self.overcommit);
        match self.overcommit.as_str() {
            "1" => good("overcommit", found),
            _ => warning(
                "overcommit",
                found,
                "a snapshot may fail when memory is short: sysctl -w vm.overcommit_memory=1, and in /etc/sysctl.d",
            ),
        }
    }

    fn hugepages(&self) -> Finding {
        match self.hugepages.as_str() {
            always if always.contains("[always]") => {
                const CURE: &str = "costs latency and memory while a snapshot is written: boot with transparent_hugepage=madvise";
                warning("huge pages", always.to_owned(), CURE)
            }
            other => good("huge pages", other.to_owned()),
        }
    }
}

fn good(what: &'static str, found: String) -> Finding {
    Finding { what, grade: Grade::Good, found, cure: None }
}

fn warning(what: &'static str, found: String, cure: &'static str) -> Finding {
    Finding { what, grade: Grade::Warning, found, cure: Some(cure) }
}

fn bad(what: &'static str, found: String, cure: &'static str) -> Finding {
    Finding { what, grade: Grade::Bad, found, cure: Some(cure) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "Welcome!\nvalkeeper survey\nuser root\nroot yes\nsystem Linux\nmachine x86_64\nrelease Debian GNU/Linux 12 (bookworm)\n\
        systemd systemd 252 (252.39-1~deb12u1)\ninit systemd\nserver /usr/bin/valkey-server\nversion Valkey server v=8.0.1 sha=00000000:0\n\
        account 101\ndisk /dev/vda 1000 10 2000000 1% /\nmemory 2048000\navailable 1048576\n\
        overcommit 1\nhugepages always [madvise] never\ndigest abc\nours valkeeper 0.1.0\nend of survey\n";

    fn found(from: &str, to: &str) -> Vec<Finding> {
        let survey = read(&HOST.replace(from, to)).unwrap();
        survey.findings().into_iter().filter(|finding| finding.grade != Grade::Good).collect()
    }

    #[test]
    fn a_host_that_has_everything_is_fit() {
        let survey = read(HOST).unwrap();
        assert_eq!(found("", ""), []);
        assert!(survey.is_fit());
        assert_eq!(survey.program, Some(("abc".to_owned(), "valkeeper 0.1.0".to_owned())));
    }

    #[test]
    fn what_a_host_lacks_is_named_with_its_cure() {
        for (from, to, what, grade) in [
            ("root yes", "root no", "login", Grade::Bad),
            ("systemd 252", "systemd 241", "systemd", Grade::Bad),
            ("init systemd\n", "", "systemd", Grade::Bad),
            ("v=8.0.1", "v=7.2.4", "valkey-server", Grade::Bad),
            ("Valkey server v=8.0.1 sha=00000000:0", "", "valkey-server", Grade::Bad),
            ("account 101", "account ", "valkey-server", Grade::Bad),
            ("2000000", "2000", "disk", Grade::Warning),
            ("available 1048576", "available 65536", "memory", Grade::Warning),
            // Kernels before 3.14.
            ("available 1048576", "available ", "memory", Grade::Warning),
            ("overcommit 1", "overcommit 0", "overcommit", Grade::Warning),
            ("always [madvise]", "[always] madvise", "huge pages", Grade::Warning),
        ] {
            let [finding] = found(from, to).try_into().unwrap();
            assert_eq!((finding.what, finding.grade), (what, grade), "{to}");
            assert!(finding.cure.is_some());
        }
    }

    #[test]
    fn a_login_without_a_shell_is_no_host_to_prepare() {
        assert_eq!(read("\nvalkeeper agent\n"), None);
        assert_eq!(read("valkeeper survey\nuser root\n"), None, "cut off");
    }
}
