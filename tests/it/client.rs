//! A client of an instance, as an application is one. Of the lab (`tests/fleet/`) as well.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A plain client: one line asks, one reply comes back.
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// On this machine.
    pub fn to(port: u16) -> std::io::Result<Self> {
        Self::at(([127, 0, 0, 1], port).into())
    }

    pub fn at(address: SocketAddr) -> std::io::Result<Self> {
        Self::within(address, Duration::from_secs(10))
    }

    /// One that waits no longer for an answer.
    pub fn within(address: SocketAddr, patience: Duration) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_read_timeout(Some(patience))?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// The reply as text; nothing if the connection was closed.
    pub fn try_ask(&mut self, words: &str) -> Option<String> {
        self.reader.get_mut().write_all(format!("{words}\r\n").as_bytes()).ok()?;
        self.reply()
    }

    #[track_caller]
    pub fn ask(&mut self, words: &str) -> String {
        self.try_ask(words).unwrap_or_else(|| panic!("the connection was closed at {words:?}"))
    }

    /// Commands in one go, whose replies are all fine.
    #[track_caller]
    pub fn ask_many(&mut self, lines: &str, replies: usize) {
        self.reader.get_mut().write_all(lines.as_bytes()).unwrap();
        for _ in 0..replies {
            let reply = self.reply().unwrap();
            assert!(!reply.starts_with('-'), "{reply}");
        }
    }

    fn reply(&mut self) -> Option<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        let line = line.trim_end().to_owned();
        let number = || line.get(1..).and_then(|rest| rest.parse::<usize>().ok());
        match line.as_bytes().first()? {
            b'$' => {
                let Some(length) = number() else { return Some("nothing".to_owned()) };
                let mut bytes = vec![0; length + 2];
                self.reader.read_exact(&mut bytes).ok()?;
                bytes.truncate(length);
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            b'*' => {
                let items = (0..number()?).map(|_| self.reply()).collect::<Option<Vec<_>>>()?;
                Some(items.join(" "))
            }
            _ => Some(line),
        }
    }
}
