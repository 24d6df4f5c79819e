//! The floor of moving: two servers that somebody starts, and the protocol of a move typed in by hand. No files are
//! written, nothing is checked, and nobody could resume it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Client;
use crate::pair::fill;
use crate::writers::Places;

const PORTS: [u16; 2] = [22_201, 22_202];
const PATIENCE: Duration = Duration::from_secs(120);

/// A server with data, and an empty one.
pub struct ByHand {
    servers: Vec<Child>,
    _folders: Vec<TempDir>,
}

impl ByHand {
    pub fn new(megabytes: usize) -> Self {
        let program = std::env::var_os("VALKEY_SERVER").unwrap_or_else(|| "valkey-server".into());
        let folders: Vec<TempDir> = PORTS.iter().map(|_| tempfile::tempdir().unwrap()).collect();
        let start = |(port, folder): (&u16, &TempDir)| {
            let mut command = Command::new(&program);
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--appendonly", "yes", "--save", ""]);
            command.args(["--maxmemory", "1gb", "--repl-diskless-sync-delay", "0"]).arg("--dir").arg(folder.path());
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
        };
        let hand = Self { servers: PORTS.iter().zip(&folders).map(start).collect(), _folders: folders };
        fill(&mut until(|| Client::to(PORTS[0]).ok()), megabytes);
        until(|| Client::to(PORTS[1]).ok());
        hand
    }

    pub fn places(&self) -> Places {
        Places::Ports(PORTS.to_vec())
    }

    /// Until the second server has everything, in memory and in its append-only file.
    pub fn sync(&self) {
        let mut target = client(1);
        say(&mut target, "CONFIG SET min-replicas-to-write 1000000 min-replicas-max-lag 10");
        say(&mut target, &format!("REPLICAOF 127.0.0.1 {}", PORTS[0]));
        until(|| {
            let info = target.ask("INFO everything");
            let is = |word: &str| info.contains(word);
            let written = is("aof_rewrite_in_progress:0") && is("aof_rewrite_scheduled:0");
            (is("master_link_status:up") && written).then_some(())
        });
    }

    /// Facts E.3, steps 3 to 6.
    pub fn cut_over(&self) {
        let (mut source, mut target) = (client(0), client(1));
        say(&mut source, "CLIENT PAUSE 1500 WRITE");
        let wanted = number(&mut source, "master_repl_offset");
        until(|| (number(&mut target, "slave_repl_offset") >= wanted).then_some(()));
        say(&mut source, "CONFIG SET min-replicas-to-write 1000000 min-replicas-max-lag 10");
        say(&mut target, "REPLICAOF NO ONE");
        say(&mut target, "CONFIG SET min-replicas-to-write 0");
        say(&mut source, &format!("REPLICAOF 127.0.0.1 {}", PORTS[1]));
        say(&mut source, "CLIENT UNPAUSE");
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _gone_already = server.kill();
            let _gone_already = server.wait();
        }
    }
}

fn client(place: usize) -> Client {
    Client::to(PORTS[place]).unwrap()
}

fn say(client: &mut Client, words: &str) {
    let reply = client.ask(words);
    assert!(!reply.starts_with('-'), "{words}: {reply}");
}

fn number(client: &mut Client, key: &str) -> u64 {
    let info = client.ask("INFO replication");
    let line = info.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap_or("0");
    line.trim().parse().unwrap()
}

fn until<T>(mut is: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = is() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}
