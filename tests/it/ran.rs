//! How a command ended and what it said. Of the lab (`tests/fleet/`) as well.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

/// No command of these tests takes longer, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);
/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Fails with all that was said unless the command ended like this.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "\n{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.all().contains(words), "{words:?} is missing in:\n{}", self.all());
        self
    }

    pub fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}\n{}", self.all()))
    }

    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }
}

/// Waits for a command to end and gives all that it said.
#[track_caller]
pub fn finish(mut child: Child) -> Ran {
    let out = child.stdout.take();
    finish_with(child, out.map(|stream| Box::new(stream) as _))
}

/// The same for a command whose output nobody reads any more.
#[track_caller]
pub fn finish_unread(child: Child) -> Ran {
    finish_with(child, Some(Box::new(std::io::empty())))
}

/// Reads what an `apply --json` says until it ends, and tells each effect by its number. Gives how many there were.
pub fn follow(apply: &mut Child, mut on: impl FnMut(usize)) -> usize {
    let mut effects = 0;
    for line in BufReader::new(apply.stdout.take().unwrap()).lines() {
        if line.unwrap().contains("\"event\":\"progress\"") {
            effects += 1;
            on(effects);
        }
    }
    effects
}

#[track_caller]
fn finish_with(mut child: Child, out: Option<Box<dyn std::io::Read + Send>>) -> Ran {
    let err = child.stderr.take();
    let read = |stream: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stream.unwrap().read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = read(out);
    let err = read(err.map(|stream| Box::new(stream) as _));
    let begin = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begin.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("the command did not end");
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    Ran { code: status.code(), out: out.join().unwrap(), err: err.join().unwrap() }
}
