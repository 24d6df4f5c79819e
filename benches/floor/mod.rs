//! The floor of looking, by hand: the fewest system calls that read the same replies.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

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

pub fn command(words: &[&str]) -> String {
    let tail: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{tail}", words.len())
}

pub fn send(stream: &mut UnixStream, text: &str) {
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
