//! One question to a daemon, over its control socket.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

/// One request of HTTP.
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Value {
    let mut stream = UnixStream::connect(socket).expect("the daemon");
    let length = body.len();
    let head = "host: bench\r\nconnection: close\r\ncontent-type: application/json";
    write!(stream, "{method} {path} HTTP/1.1\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}").expect("a daemon that reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer with a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// A pass, from asking to its end.
pub fn sync(socket: &Path) {
    let said = ask(socket, "POST", "/v1/sync", "{\"wait\":true}");
    assert_eq!(said["ok"], true, "{said}");
}
