//! Starts the system's `ssh`, so that configuration, jump hosts, agents, certificates and known hosts work as people set them
//! up. Never builds a shell string: what runs at the other end is one of a few constants.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::timeout;

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

/// What `sh` does to install it. Constant: nothing is ever put into it. What it says is looked at, because a shell takes an empty
/// file for a program that did well.
const INSTALL: &str = "umask 022; new=/usr/local/bin/.valkeeper.new; \
    cat >$new && chmod 755 $new && said=$($new --version) && case $said in \
    (\"valkeeper \"*) sync $new && mv $new /usr/local/bin/valkeeper && exit 0;; (*) echo \"it is no valkeeper\" >&2;; esac; \
    rm -f $new; exit 1";
/// How long one of these may take, but for the agent: a program of some 20 MB over a slow line.
const RUN: Duration = Duration::from_secs(180);
/// How much of what is said is read. Bytes.
const SAID_BYTES_MAX: u64 = 64 << 10;

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
    /// A POSIX shell that reads what it is to ask from its input (`prepare/survey.sh`).
    Survey,
    /// Our program, from its input: put in place in one rename, after it has run once.
    Install { sudo: bool },
    /// Takes our program away.
    Remove { sudo: bool },
}

/// Why something did not run at the other end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("ssh cannot be started")]
    Start(#[source] io::Error),
    #[error("it was not done within {} s", RUN.as_secs())]
    Late,
    /// 255 is ssh's own; all others are of what ran there. `words` are of its standard error, `said` of its output.
    #[error("{words} ({status})")]
    Status { status: ExitStatus, words: String, said: String },
}

async fn text(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut said = Vec::new();
    if let Some(mut from) = from {
        // What is said beyond that is read, so that nobody waits for us, and thrown away.
        let _cut_off = (&mut from).take(SAID_BYTES_MAX).read_to_end(&mut said).await;
        let _cut_off = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&said).into_owned()
}

fn in_short(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("; ");
    lines.chars().filter(|c| !c.is_control()).take(500).collect()
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
            Self::Survey => "exec sh -s".to_owned(),
            Self::Install { sudo } => format!("exec {}sh -c '{INSTALL}'", as_root(sudo)),
            Self::Remove { sudo } => format!("exec {}rm -f {REMOTE_PROGRAM}", as_root(sudo)),
        }
    }
}

fn as_root(sudo: bool) -> &'static str {
    if sudo { "sudo -n " } else { "" }
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

    /// Runs it with this input to its end, and gives what it said.
    ///
    /// # Errors
    /// When the host cannot be reached, or it did not end well.
    pub async fn run(&self, remote: Remote, input: &[u8]) -> Result<String, RunError> {
        let mut child = self.start(remote).map_err(RunError::Start)?;
        let (to, from, error) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let work = async {
            let give = async {
                // It may end, and say why, without reading all of it.
                if let Some(mut to) = to {
                    let _not_read = to.write_all(input).await;
                }
            };
            let ((), said, words) = tokio::join!(give, text(from), text(error));
            (child.wait().await, said, words)
        };
        match timeout(RUN, work).await {
            Err(_elapsed) => Err(RunError::Late),
            Ok((Err(error), _, _)) => Err(RunError::Start(error)),
            Ok((Ok(status), said, _)) if status.success() => Ok(said),
            Ok((Ok(status), said, words)) => Err(RunError::Status { status, words: in_short(&words), said: in_short(&said) }),
        }
    }
}
