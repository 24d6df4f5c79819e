//! Starts the system's `ssh`, so that configuration, jump hosts, agents, certificates and known hosts work as people set them
//! up. Never builds a shell string: what runs at the other end is one of a few constants.

use std::ffi::OsString;
use std::io;
use std::process::Stdio;

use tokio::process::{Child, Command};

/// What `ssh` may see of our environment: where a person's set-up is. Everything else stays here, because it may hold secrets.
const INHERITED: &[&str] =
    &["PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK", "KRB5CCNAME", "DBUS_SESSION_BUS_ADDRESS"];
/// Never a prompt, a terminal or a forwarding; a peer that is gone is noticed within 15 s (`ssh_config(5)`).
const OPTIONS: &[&str] = &[
    "-T",
    "-oBatchMode=yes",
    "-oConnectTimeout=10",
    "-oServerAliveInterval=5",
    "-oServerAliveCountMax=3",
    "-oClearAllForwardings=yes",
    "-oPermitLocalCommand=no",
    "-oForwardAgent=no",
    "-oForwardX11=no",
];
/// Where our program lies on a node.
pub const REMOTE_PROGRAM: &str = "/usr/local/bin/valkeeper";

/// The `ssh` of this machine.
#[derive(Debug, Clone)]
pub struct Ssh {
    program: OsString,
}

/// What runs at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// The agent.
    Agent,
    /// A POSIX shell that reads what it is to do from its input.
    Shell,
}

/// One host behind ssh.
#[derive(Debug, Clone)]
pub struct Destination {
    program: OsString,
    host: String,
}

impl Ssh {
    /// `program`: as it is called; nothing: `ssh` of `PATH`.
    pub fn new(program: Option<OsString>) -> Self {
        Self { program: program.unwrap_or_else(|| "ssh".into()) }
    }

    pub fn to(&self, destination: &str) -> Destination {
        Destination { program: self.program.clone(), host: destination.to_owned() }
    }
}

impl Remote {
    /// `exec`, so that the shell of the login is not kept; sshd gives the line to that shell.
    fn line(self) -> String {
        match self {
            Self::Agent => format!("exec {REMOTE_PROGRAM} agent"),
            Self::Shell => "exec sh -s".to_owned(),
        }
    }
}

impl Destination {
    /// Starts it, with all three of its streams for us. It ends when the child is dropped.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn start(&self, remote: Remote) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        // Its messages are shown, in the one language that our documents know.
        command.env("LC_ALL", "C").current_dir("/");
        command.args(OPTIONS).arg("--").arg(&self.host).arg(remote.line());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that our Ctrl-C does not cut off the steps under way.
        command.process_group(0).kill_on_drop(true);
        command.spawn()
    }

    pub fn host(&self) -> &str {
        &self.host
    }
}
