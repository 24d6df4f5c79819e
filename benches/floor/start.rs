//! The floor of creating, by hand: servers started from the same files.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::floor::{command, send};

/// Longer than the slowest machine needs to start a hundred servers.
const PATIENCE: Duration = Duration::from_secs(120);

/// Servers that end with this, however the benchmark ends.
pub struct Started(Vec<Child>);

impl Drop for Started {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _gone_already = child.kill();
            let _gone_already = child.wait();
        }
    }
}

/// Starts all servers, then waits until each answers.
pub fn start_all(folder: &Path, names: &[String]) -> Started {
    let server = std::env::var_os("VALKEY_SERVER").unwrap_or_else(|| "valkey-server".into());
    let start = |name: &String| {
        let log = File::create(folder.join("log").join(format!("{name}.out"))).expect("a log");
        let config = folder.join("config").join(format!("{name}.conf"));
        Command::new(&server).arg(config).stdin(Stdio::null()).stdout(log).spawn().expect("a server")
    };
    let started = Started(names.iter().map(start).collect());
    let begun = Instant::now();
    for name in names {
        let socket = folder.join("run").join(format!("{name}.sock"));
        while !answers(&socket) {
            assert!(begun.elapsed() < PATIENCE, "{} does not answer", socket.display());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    started
}

/// That it refuses a password is an answer.
fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    send(&mut stream, &command(&["AUTH", "app", "wrong"]));
    let mut reply = [0];
    stream.read_exact(&mut reply).expect("an answer");
    true
}
