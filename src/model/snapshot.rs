//! A move by snapshot: what the markers of its two members remember of it, its parts as steps, and their effects.
//!
//! Never decides which part is next: that is `plan/snapshot.rs`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::action::{self, Action, RoleStage};
use super::change::{Half, Twin};
use super::effect::Effect;
use super::live::{MemberFacts, Server};
use super::marker::Marker;
use super::name::NodeName;
use super::password::Fingerprint;
use super::plan::Step;
use super::role::Overlay;
use super::size::show_size;

/// The most that is carried in one piece. Bytes; as text it still is a small part of a frame (`wire::REQUEST_BYTES_MAX`).
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Hex digits of the name of a snapshot: 128 random bits.
const ID_DIGITS: usize = 32;

/// Which snapshot; a part of a file's name too, so it is never anything but hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SnapshotId(String);

impl SnapshotId {
    pub fn new(text: &str) -> Option<Self> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == ID_DIGITS && text.bytes().all(digit)).then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands for the name of a snapshot that is not written yet.
    fn foreseen(marker: &Marker) -> Self {
        let half = Fingerprint::of(format!("{}\0{}", marker.uid, marker.machine).as_bytes());
        Self(format!("{half}{half}"))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SnapshotId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text).ok_or_else(|| format!("the name of a snapshot has {ID_DIGITS} hex digits"))
    }
}

impl From<SnapshotId> for String {
    fn from(id: SnapshotId) -> Self {
        id.0
    }
}

/// How far the snapshot of a member is that gives its data away. The note goes before the fence is lifted: what was written
/// before later writes is not the data any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Snapshot {
    /// The server said that it began one for us. What it was like before tells ours from others' (facts D).
    Begun {
        /// Which run of the server.
        run: String,
        /// How many snapshots it had tried before.
        saves: u64,
        /// What the file was before: inode and time of change.
        file: String,
        fenced: bool,
    },
    /// It was written, is good, and is kept under a name of its own.
    Saved {
        fenced: bool,
    },
    Made(Made),
}

/// A finished snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub id: SnapshotId,
    /// 64 hex digits.
    pub sha256: String,
    pub bytes: u64,
    /// The member took no writes since before it was begun: it is all that there is.
    pub fenced: bool,
}

impl Snapshot {
    pub fn made(&self) -> Option<&Made> {
        match self {
            Self::Made(made) => Some(made),
            Self::Begun { .. } | Self::Saved { .. } => None,
        }
    }

    /// Was it taken under the fence?
    pub fn is_fenced(&self) -> bool {
        match self {
            Self::Begun { fenced, .. } | Self::Saved { fenced } | Self::Made(Made { fenced, .. }) => *fenced,
        }
    }
}

/// Where the data of a member comes from that was made for a move by snapshot. Until it is opened, nothing that it holds is
/// its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Seed {
    /// From nowhere yet.
    Awaited,
    /// From nowhere yet: what arrived of this snapshot is not what its source summed up, so another one is needed.
    Spoiled { id: SnapshotId },
    /// From this snapshot.
    Placed { id: SnapshotId },
    /// The same, and it takes writes, or is about to: the member that gave it away never does again.
    Opened { id: SnapshotId },
}

impl Seed {
    /// The seed of a member that is made in this role: a fenced primary is made for nothing else.
    pub fn of_new(role: &Overlay) -> Option<Self> {
        (*role == Overlay::FENCED).then_some(Self::Awaited)
    }

    pub fn opened(&self) -> Option<&SnapshotId> {
        match self {
            Self::Opened { id } => Some(id),
            Self::Awaited | Self::Spoiled { .. } | Self::Placed { .. } => None,
        }
    }
}

impl Marker {
    /// Was it made for a move by snapshot, and has it not been opened yet? It holds nothing of its own then.
    pub fn is_vessel(&self) -> bool {
        match &self.seed {
            Some(Seed::Awaited | Seed::Spoiled { .. } | Seed::Placed { .. }) => true,
            Some(Seed::Opened { .. }) | None => false,
        }
    }

    /// Enters another role: what a snapshot says ends with the fence under which it was written, or with whose data it is.
    pub(super) fn enter_role(&mut self, stage: RoleStage, was: &Overlay, role: &Overlay) {
        if stage == RoleStage::Attach && *role == Overlay::FENCED {
            (self.seed, self.snapshot) = (Some(Seed::Awaited), None);
        }
        let is_void = |note: &Snapshot| *role != Overlay::FENCED || (*was != Overlay::FENCED && note.is_fenced());
        if self.snapshot.as_ref().is_some_and(is_void) {
            self.snapshot = None;
        }
        match &self.seed {
            Some(Seed::Placed { id } | Seed::Opened { id }) if role.is_open() => {
                self.seed = Some(Seed::Opened { id: id.clone() })
            }
            // It follows, or is opened as what it is: nothing comes from a snapshot.
            Some(_) if role.follows.is_some() || role.is_open() => self.seed = None,
            Some(_) | None => {}
        }
    }
}

/// The parts of a move by snapshot that are no changes of role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shipping {
    /// Writes a snapshot and makes sure of it. `fenced`: only while no writes are taken.
    Take { fenced: bool },
    /// Brings it from its source to this node, and seeds the member here with it: the controller's to do.
    Carry { source: NodeName, made: Made },
    /// Starts the member anew from what was carried to its node.
    Seed { made: Made },
}

impl Shipping {
    /// Is the member before it or after it? Neither: somebody changed it.
    pub(super) fn standing(&self, member: &MemberFacts) -> (bool, bool) {
        let up = matches!(member.server, Server::Up(_));
        let found = Twin { disk: action::role(&member.spec.disk), memory: action::role(&member.spec.memory) };
        let is_fenced = found == Twin::both(Overlay::FENCED);
        match self {
            Self::Take { fenced } => {
                let made = member.marker.snapshot.as_ref().and_then(Snapshot::made);
                (made.is_some_and(|made| made.fenced == *fenced), up && (is_fenced || !fenced))
            }
            Self::Carry { source: _, made } | Self::Seed { made } => {
                let placed = member.marker.seed == Some(Seed::Placed { id: made.id.clone() });
                // Where stopping it took longer than a step, it is down by now.
                let down = matches!(member.server, Server::Down { .. }) && member.marker.is_vessel();
                let is_there = (up && is_fenced) || (down && found.disk == Half::Seen(Overlay::FENCED));
                (placed && up && is_fenced, is_there)
            }
        }
    }

    pub(super) fn effects(&self, member: &MemberFacts, unit: Option<Effect>) -> Vec<Effect> {
        match self {
            Self::Take { fenced } => {
                let sum = Effect::Ship(Ship::Sum);
                match member.marker.snapshot.as_ref().filter(|note| note.is_fenced() == *fenced) {
                    Some(Snapshot::Saved { .. }) => vec![sum],
                    Some(Snapshot::Begun { .. }) => vec![Effect::Ship(Ship::AwaitSave), sum],
                    Some(Snapshot::Made(_)) | None => {
                        vec![Effect::Ship(Ship::BeginSave { fenced: *fenced }), Effect::Ship(Ship::AwaitSave), sum]
                    }
                }
            }
            // Its parts are of two nodes.
            Self::Carry { .. } => Vec::new(),
            Self::Seed { made } => {
                let marker =
                    |seed| Effect::WriteMarker(Box::new(Marker { seed: Some(seed), snapshot: None, ..member.marker.clone() }));
                let mut effects = vec![
                    Effect::Ship(Ship::Check(made.clone())),
                    // A crash from here on leaves a member that holds nothing, and says so.
                    marker(Seed::Awaited),
                    Effect::Stop,
                    Effect::Ship(Ship::DropData),
                    Effect::Ship(Ship::Place(made.id.clone())),
                    marker(Seed::Placed { id: made.id.clone() }),
                ];
                effects.extend(unit);
                effects.push(Effect::Start);
                effects
            }
        }
    }

    /// What it does, for people.
    pub(super) fn imperative(&self) -> String {
        match self {
            Self::Take { fenced: _ } => "write a snapshot to move".to_owned(),
            Self::Carry { source, made: _ } => format!("take over the snapshot from node {source}"),
            Self::Seed { made } => format!("start with the snapshot ({})", show_size(made.bytes)),
        }
    }

    /// A stable word for JSON.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Take { .. } => "take-snapshot",
            Self::Carry { .. } => "carry-snapshot",
            Self::Seed { .. } => "seed",
        }
    }
}

impl Step {
    /// What is left of carrying a snapshot when all of it has arrived.
    pub fn seed(&self) -> Option<Self> {
        let Action::Ship(shipping) = &self.action else { return None };
        let Shipping::Carry { source: _, made } = &**shipping else { return None };
        let action = Action::Ship(Box::new(Shipping::Seed { made: made.clone() }));
        Some(Self { action, ..self.clone() })
    }
}

/// The effects of which only moves by snapshot consist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ship {
    /// Tells the server to write a snapshot, and notes that it began.
    BeginSave { fenced: bool },
    /// Waits until that is over, makes sure that it came about (facts D), and keeps the file under a name of its own.
    AwaitSave,
    /// Has the file checked, names it and sums it up.
    Sum,
    /// What was carried here is all of it, and as it was at its source.
    Check(Made),
    /// Removes the data of a stopped vessel.
    DropData,
    /// Puts what was carried here in the place from which the server loads its data (facts D).
    Place(SnapshotId),
}

impl Ship {
    /// What is being done, for people who watch.
    pub(super) fn doing(&self) -> &'static str {
        match self {
            Self::BeginSave { .. } | Self::AwaitSave => "writing the snapshot",
            Self::Sum => "checking the snapshot",
            Self::Check(_) => "checking what was carried here",
            Self::DropData => "removing what it held",
            Self::Place(_) => "putting the snapshot in place",
        }
    }

    pub(super) fn happen(&self, member: &mut MemberFacts) {
        match self {
            Self::BeginSave { fenced } => {
                let (run, file) = (String::new(), String::new());
                member.marker.snapshot = Some(Snapshot::Begun { run, saves: 0, file, fenced: *fenced });
            }
            Self::AwaitSave => {
                member.has_saved();
                let fenced = member.marker.snapshot.as_ref().is_some_and(Snapshot::is_fenced);
                member.marker.snapshot = Some(Snapshot::Saved { fenced });
            }
            Self::Sum => {
                let fenced = member.marker.snapshot.as_ref().is_some_and(Snapshot::is_fenced);
                let made = Made { id: SnapshotId::foreseen(&member.marker), sha256: String::new(), bytes: 0, fenced };
                member.marker.snapshot = Some(Snapshot::Made(made));
            }
            Self::Check(_) => {}
            Self::DropData => (member.data.aof, member.data.rdb) = (false, false),
            Self::Place(_) => {
                let aof = member.spec.disk.seen().is_some_and(super::spec::InstanceSpec::aof);
                (member.data.aof, member.data.rdb) = (aof, !aof);
            }
        }
    }
}
