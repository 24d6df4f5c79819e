//! What crosses between the controller and the agent of a node: a greeting, then JSON in frames that say their length.
//!
//! Owns the messages, their limits and the numbers of the protocol. Never a command line: what an agent can be asked is
//! listed here in full. A message that means something new gets a new number (docs/decisions/0010).

mod chunk;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use futures_util::{SinkExt as _, StreamExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use crate::model::binary::BinaryFacts;
use crate::model::live::{BinaryId, NodeFacts};
use crate::model::name::{FleetName, InstanceName};
use crate::model::outcome::Outcome;
use crate::model::password::Fingerprint;
use crate::model::plan::Step;
use crate::model::record::FleetRecord;
use crate::model::role::{Endpoint, Replication};
use crate::model::snapshot::SnapshotId;

pub use chunk::Chunk;

/// The protocols that this release speaks. Nothing was released before, so there is one. The first message that an older agent
/// could misread makes it `1..=2`: a release speaks its own and that of the release before, so that upgrades roll.
pub const PROTOCOLS: RangeInclusive<u32> = 1..=1;
/// The largest request, in bytes: a step with the users of one instance.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;
/// The largest reply, in bytes: the facts of a node are some 6 KiB an instance, so this is for 5,000 of them.
pub const REPLY_BYTES_MAX: usize = 32 << 20;
/// What a login shell may print before the agent speaks. Bytes.
pub const NOISE_BYTES_MAX: u64 = 64 << 10;
/// The line after which an agent speaks in frames.
const GREETING: &str = "valkeeper agent";

/// Who speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub release: String,
    pub oldest: u32,
    pub newest: u32,
}

impl Hello {
    pub fn of_this_release() -> Self {
        let (oldest, newest) = PROTOCOLS.into_inner();
        Self { release: env!("CARGO_PKG_VERSION").to_owned(), oldest, newest }
    }

    /// The newest protocol that both know.
    pub fn agree(&self, other: &Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// A request; its number comes back with the reply.
#[derive(Debug, Serialize, Deserialize)]
pub struct Asked {
    pub id: u64,
    pub request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Look at everything. The facts of these binaries, and the records of fleets that read like these, need not be sent
    /// again: every node has a copy of the whole fleet's record.
    Observe {
        known: BTreeSet<BinaryId>,
        #[serde(default)]
        records: BTreeMap<FleetName, Fingerprint>,
    },
    /// Take the right to act on the node for this holder, until it is released, or nothing is heard for a while.
    Acquire {
        holder: String,
    },
    Release,
    /// Put in place what all instances of the node share: the unit template. Needs no right to act: no server is touched.
    Prepare,
    /// Remove all that is ours from the node, if no member stands on it. `set_aside`: data of deleted members as well.
    Leave {
        set_aside: bool,
    },
    /// Take this step, if the right to act is held. `fleet`: whose members may be touched.
    Perform {
        step: Box<Step>,
        fleet: Option<FleetName>,
    },
    /// How the replication of this instance's member stands.
    Position {
        instance: InstanceName,
    },
    /// Can a server there be reached from the node?
    TryWay {
        to: Endpoint,
    },
    /// A piece of this instance's snapshot from this byte on; needs the right to act, as the next two do.
    Piece {
        instance: InstanceName,
        snapshot: SnapshotId,
        from: u64,
    },
    /// How many bytes of a snapshot have arrived here.
    Arrived {
        instance: InstanceName,
        snapshot: SnapshotId,
    },
    /// Keep a piece of a snapshot of `total` bytes, which begins at `from`.
    Store {
        instance: InstanceName,
        snapshot: SnapshotId,
        total: u64,
        from: u64,
        piece: Chunk,
    },
    /// The controller is still there. Has no reply.
    Beat,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Answered {
    pub id: u64,
    pub reply: Reply,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    Observed {
        facts: Box<NodeFacts>,
        /// The facts of its binary, unless they are known.
        binary: Option<Box<BinaryFacts>>,
        /// The fleets whose records are there and read as was said.
        #[serde(default)]
        same: BTreeSet<FleetName>,
    },
    /// The node as a whole could not be looked at: why.
    Unseen(String),
    Turn(Turn),
    Released,
    /// What was asked for is done; or why not.
    Done(Result<(), String>),
    Performed(Outcome),
    /// A step is at this; its end comes later, with the same number.
    Progress(String),
    /// How it stands; or why that cannot be told.
    Position(Result<Replication, String>),
    /// It can; or why not.
    Tried(Result<(), String>),
    /// A piece; or why there is none.
    Piece(Result<Chunk, String>),
    /// How many bytes of a snapshot are there (now); or why that cannot be told, or none could be kept.
    Arrived(Result<u64, String>),
    /// The right to act is not held over this connection.
    NoRight,
    /// The request makes no sense to this agent: why.
    NotUnderstood(String),
}

/// What became of asking for the right to act.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turn {
    Taken,
    /// Somebody else has it; their own words.
    Held(String),
    /// The node cannot be written to: why.
    Unable(String),
}

/// What a record reads like: equal records have equal fingerprints.
pub fn print_of(record: &FleetRecord) -> Fingerprint {
    // The maps of a record are ordered, so its JSON is one text.
    Fingerprint::of(&serde_json::to_vec(record).unwrap_or_default())
}

/// Why the other side cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the connection ended")]
    Ended,
    /// What was there instead of the greeting, cut short.
    #[error("there is no valkeeper agent at the other end; it said: {0:?}")]
    NoAgent(String),
    #[error(
        "its agent is of valkeeper {theirs}, which speaks no protocol that {ours} knows: \
         bring both to neighbouring releases, with `valkeeper node upgrade` or a newer controller"
    )]
    Strangers { theirs: String, ours: String },
    #[error("its agent answers what nobody asked")]
    Unasked,
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
    #[error("a frame that makes no sense")]
    Nonsense(#[source] serde_json::Error),
}

/// The frames that come in.
pub type Incoming<R> = FramedRead<R, LengthDelimitedCodec>;
/// The frames that go out.
pub type Outgoing<W> = FramedWrite<W, LengthDelimitedCodec>;

/// Frames from the other side, refused where one is larger than this. Bytes.
pub fn incoming<R: AsyncRead>(from: R, limit: usize) -> Incoming<R> {
    FramedRead::new(from, LengthDelimitedCodec::builder().max_frame_length(limit).new_codec())
}

/// Frames to the other side.
pub fn outgoing<W: AsyncWrite>(to: W) -> Outgoing<W> {
    FramedWrite::new(to, LengthDelimitedCodec::builder().max_frame_length(REPLY_BYTES_MAX).new_codec())
}

/// A message as it goes into a frame.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    serde_json::to_vec(message).map_err(WireError::Nonsense)
}

/// Sends what [`encode`] made.
///
/// # Errors
/// When it is too large, or nobody reads it any more.
pub async fn send<W: AsyncWrite + Unpin>(to: &mut Outgoing<W>, message: Vec<u8>) -> Result<(), WireError> {
    to.send(message.as_slice()).await.map_err(WireError::Broken)
}

/// The next message.
///
/// # Errors
/// When the other side ended, or what it says is too large or makes no sense.
pub async fn receive<R: AsyncRead + Unpin, T: DeserializeOwned>(from: &mut Incoming<R>) -> Result<T, WireError> {
    match from.next().await {
        None => Err(WireError::Ended),
        Some(Err(error)) => Err(WireError::Broken(error)),
        Some(Ok(frame)) => serde_json::from_slice(&frame).map_err(WireError::Nonsense),
    }
}

/// Says that an agent speaks from here on.
///
/// # Errors
/// When nobody reads it.
pub async fn greet<W: AsyncWrite + Unpin>(to: &mut W) -> Result<(), WireError> {
    to.write_all(format!("\n{GREETING}\n").as_bytes()).await.map_err(WireError::Broken)
}

/// Reads on until an agent greets: login shells print what they like first.
///
/// # Errors
/// What was there instead.
pub async fn await_greeting<R: AsyncBufRead + Unpin>(from: &mut R) -> Result<(), WireError> {
    let mut from = from.take(NOISE_BYTES_MAX);
    let mut noise = String::new();
    loop {
        let mut line = Vec::new();
        let count = from.read_until(b'\n', &mut line).await.map_err(WireError::Broken)?;
        let line = String::from_utf8_lossy(&line);
        match line.trim_end() {
            GREETING => return Ok(()),
            _ if count == 0 && noise.is_empty() => return Err(WireError::Ended),
            _ if count == 0 => return Err(WireError::NoAgent(noise)),
            "" => {}
            words if noise.is_empty() => noise = words.chars().take(120).collect(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(oldest: u32, newest: u32) -> Hello {
        Hello { release: String::new(), oldest, newest }
    }

    #[test]
    fn neighbours_agree_on_the_newest_protocol_that_both_know() {
        assert_eq!(hello(1, 2).agree(&hello(2, 3)), Some(2));
        assert_eq!(hello(2, 3).agree(&hello(1, 2)), Some(2));
        assert_eq!(hello(3, 4).agree(&hello(1, 2)), None);
        assert_eq!(hello(1, 1).agree(&hello(1, 9)), Some(1));
    }

    #[tokio::test]
    async fn what_a_login_shell_prints_is_passed_over() {
        let mut said: &[u8] = b"Last login: never\nmotd without end\nvalkeeper agent\nrest";
        await_greeting(&mut said).await.unwrap();
        assert_eq!(said, b"rest");
        let mut other: &[u8] = b"\nsh: 1: valkeeper: not found\n";
        assert!(await_greeting(&mut other).await.unwrap_err().to_string().contains("not found"));
        let mut flood = tokio::io::BufReader::new(tokio::io::repeat(b'x'));
        assert!(matches!(await_greeting(&mut flood).await, Err(WireError::NoAgent(_))));
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_is_refused_before_it_is_read() {
        let mut said: &[u8] = &[0x40, 0, 0, 0, b'{'];
        let refused = receive::<_, Answered>(&mut incoming(&mut said, REPLY_BYTES_MAX)).await;
        assert!(matches!(refused, Err(WireError::Broken(_))), "{refused:?}");
    }
}
