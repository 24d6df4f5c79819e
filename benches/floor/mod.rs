//! The floors, by hand: the fewest system calls that read the same replies, or start the same servers.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than the slowest machine needs to start a hundred servers.
const PATIENCE: Duration = Duration::from_secs(120);

/// How to talk to one server.
pub struct Login {
    pub socket: PathBuf,
    pub password: String,
}

/// Connects to all, logs in to all, then asks all: three rounds, in each of which every server works before the first
/// reply is awaited. `AUTH` goes alone, as it must.
pub fn read_all(logins: &[Login]) {
    let mut buffer = Vec::with_capacity(1 << 16);
    let mut streams: Vec<UnixStream> = logins.iter().map(|login| UnixStream::connect(&login.socket).expect("a server")).collect();
    for (stream, login) in streams.iter_mut().zip(logins) {
        send(stream, &command(&["AUTH", "valkeeper", &login.password]));
    }
    streams.iter_mut().for_each(|stream| receive(stream, 1, &mut buffer));
    let ask = command(&["INFO"]) + &command(&["CONFIG", "GET", "*"]) + &command(&["ACL", "LIST"]);
    streams.iter_mut().for_each(|stream| send(stream, &ask));
    streams.iter_mut().for_each(|stream| receive(stream, 3, &mut buffer));
}

pub fn read_all_on_each_core(logins: &[Login]) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for share in logins.chunks(logins.len().div_ceil(cores)) {
            scope.spawn(|| read_all(share));
        }
    });
}

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

fn command(words: &[&str]) -> String {
    let tail: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{tail}", words.len())
}

fn send(stream: &mut UnixStream, text: &str) {
    stream.write_all(text.as_bytes()).expect("a server that reads");
}

/// Reads this many whole replies.
fn receive(stream: &mut UnixStream, replies: usize, buffer: &mut Vec<u8>) {
    let mut chunk = [0; 1 << 16];
    buffer.clear();
    loop {
        let read = stream.read(&mut chunk).expect("a reply");
        assert!(read > 0, "the server hung up");
        buffer.extend_from_slice(&chunk[..read]);
        if (0..replies).try_fold(0, |at, _| end_of_reply(buffer, at)).is_some() {
            return;
        }
    }
}

/// Where the reply that begins at `at` ends, if it is whole.
fn end_of_reply(bytes: &[u8], at: usize) -> Option<usize> {
    let line = bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
    let text = std::str::from_utf8(&bytes[at..at + line]).expect("text");
    let after = at + line + 2;
    let number = || text[1..].parse::<usize>().expect("a number");
    match text.as_bytes()[0] {
        b'$' => Some(after + number() + 2).filter(|end| *end <= bytes.len()),
        b'*' => (0..number()).try_fold(after, |at, _| end_of_reply(bytes, at)),
        b'+' | b':' => Some(after),
        _ => panic!("an error: {text}"),
    }
}
