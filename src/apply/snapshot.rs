//! The effects of a move by snapshot on one node: writing one and making sure of it, giving and taking pieces, starting from it.
//!
//! Never sends anything anywhere: the controller asks for pieces and brings them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::process::Child;

use super::server::{Acting, Halt, failed};
use crate::host::cargo::{self, Sums};
use crate::host::clock::{Deadline, Poll};
use crate::host::files::{self, Stamp, stamp};
use crate::host::held::lock;
use crate::host::machine;
use crate::host::valkey::info_field;
use crate::model::marker::Marker;
use crate::model::name::InstanceName;
use crate::model::size::show_size;
use crate::model::snapshot::{CHUNK_BYTES_MAX, Made, Seed, Ship, Snapshot, SnapshotId};
use crate::observe::disk::{self, MarkerOnDisk};
use crate::observe::{LocalNode, chain};

/// How long one step waits for a server that saves: only a look tells the status and the metrics how many keys are written, and
/// nothing takes writes meanwhile.
const SAVING: Duration = Duration::from_secs(3);

/// What goes on from step to step, because it may take longer than one has.
#[derive(Debug, Default)]
pub struct Snapshots {
    sums: Sums,
    checks: Mutex<BTreeMap<InstanceName, Child>>,
}

impl Snapshots {
    pub(super) async fn take(&self, effect: &Ship, acting: &mut Acting) -> Result<(), Halt> {
        match effect {
            Ship::BeginSave { fenced } => begin_save(acting, *fenced).await,
            Ship::AwaitSave => await_save(acting).await,
            Ship::Sum => self.sum_up(acting).await,
            Ship::Check(made) => self.check_arrived(acting, made).await,
            Ship::DropData => drop_data(acting).await,
            Ship::Place(id) => place(acting, id.clone()).await,
        }
    }

    /// Has the server's own tool read it, where there is one; then names it, and says what it is.
    async fn sum_up(&self, acting: &mut Acting) -> Result<(), Halt> {
        let path = acting.node.layout.leaving(&acting.name);
        // No writes are taken meanwhile, so both at once.
        let sum = self.sums.sum(&path, acting.end, &acting.tell);
        let (checked, sum) = tokio::join!(self.check_with_tool(acting, &path), sum);
        checked?;
        let Some((sha256, bytes)) = sum? else {
            return Err(Halt::Pending("the snapshot to be summed up".to_owned()));
        };
        self.sums.forget(&path);
        let marker = acting.marker().await?.marker;
        let Some(Snapshot::Saved { fenced }) = marker.snapshot else {
            return failed("the note of the snapshot changed while it was summed up");
        };
        let Some(id) = SnapshotId::new(&machine::new_name()) else { return failed("the snapshot cannot be named") };
        let made = Made { id, sha256, bytes, fenced };
        acting.write_marker(Marker { snapshot: Some(Snapshot::Made(made)), ..marker }).await
    }

    async fn check_with_tool(&self, acting: &Acting, path: &Path) -> Result<(), Halt> {
        let tool = acting.binary.path.with_file_name("valkey-check-rdb");
        if !files::exists(&tool) {
            return Ok(());
        }
        let known = lock(&self.checks).remove(&acting.name);
        let mut child = match known {
            Some(child) => child,
            None => cargo::begin_check(&tool, path, acting.node.server_user)?,
        };
        match acting.end.bound(child.wait()).await {
            None => {
                lock(&self.checks).insert(acting.name.clone(), child);
                Err(Halt::Pending("valkey-check-rdb to read the snapshot".to_owned()))
            }
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(status)) => {
                acting.note_snapshot(None).await?;
                failed(format!("valkey-check-rdb finds the snapshot broken ({status}); it is written anew"))
            }
            Some(Err(error)) => failed(format!("valkey-check-rdb cannot be waited for: {error}")),
        }
    }

    /// What was carried here is what its source said it is; if not, it is carried again.
    async fn check_arrived(&self, acting: &Acting, made: &Made) -> Result<(), Halt> {
        let path = acting.node.layout.arriving(&acting.name, &made.id);
        match self.sums.sum(&path, acting.end, &acting.tell).await? {
            None => Err(Halt::Pending("what was carried here to be summed up".to_owned())),
            Some((sum, bytes)) if (sum.as_str(), bytes) == (made.sha256.as_str(), made.bytes) => {
                self.sums.forget(&path);
                Ok(())
            }
            Some(_) => {
                self.sums.forget(&path);
                acting.on_disk(move |_, _| Ok(files::remove(&path)?)).await?;
                // Carried again it might be as broken: nobody knows on which side it was spoiled.
                let marker = acting.marker().await?.marker;
                acting.write_marker(Marker { seed: Some(Seed::Spoiled { id: made.id.clone() }), ..marker }).await?;
                Err(Halt::Pending("another snapshot to be written: what arrived has another checksum".to_owned()))
            }
        }
    }
}

fn words(stamp: Stamp) -> String {
    stamp.map_or_else(String::new, |(inode, seconds, nanoseconds)| format!("{inode} {seconds} {nanoseconds}"))
}

fn dump(acting: &Acting) -> PathBuf {
    acting.node.layout.data(&acting.name).join("dump.rdb")
}

/// Begins a snapshot that is ours, and notes what tells it from others.
async fn begin_save(acting: &mut Acting, fenced: bool) -> Result<(), Halt> {
    let file = dump(acting);
    let (saves, before) = acting.begin_snapshot(&file).await?;
    let run = run(acting).await?;
    acting.note_snapshot(Some(Snapshot::Begun { run, saves, file: words(before), fenced })).await
}

async fn run(acting: &mut Acting) -> Result<String, Halt> {
    let info = acting.info("server").await?;
    Ok(info_field(&info, "run_id").unwrap_or_default().to_owned())
}

/// Waits for the snapshot that was begun, and makes sure of it by everything that can be seen (facts D).
async fn await_save(acting: &mut Acting) -> Result<(), Halt> {
    let Some(Snapshot::Begun { run: of, saves, file: before, fenced }) = acting.marker().await?.marker.snapshot else {
        return failed("the note of the snapshot changed while it was written");
    };
    if run(acting).await? != of {
        acting.note_snapshot(None).await?;
        return Err(Halt::Pending("another snapshot: the server was restarted while it wrote this one".to_owned()));
    }
    let file = dump(acting);
    let (end, mut poll) = (Deadline::after(SAVING.min(acting.end.left())), Poll::default());
    loop {
        let info = acting.info("persistence").await?;
        let field = |name| info_field(&info, name).unwrap_or_default();
        if field("rdb_bgsave_in_progress") == "0" {
            let counted = field("rdb_saves").parse::<u64>().is_ok_and(|now| now == saves + 1);
            let good = field("rdb_last_bgsave_status") == "ok" && words(stamp(&file)) != before;
            if good && counted {
                break;
            }
            acting.note_snapshot(None).await?;
            return match good {
                true => Err(Halt::Pending("a snapshot of its own: the server wrote another one meanwhile".to_owned())),
                false => failed("the snapshot did not come about; see the log of the server"),
            };
        }
        let (keys, total) = (field("current_save_keys_processed"), field("current_save_keys_total"));
        let share = format!("{keys} of {total} keys, {} s", field("rdb_current_bgsave_time_sec"));
        acting.tell.say(format!("writing the snapshot ({share})"));
        if !poll.again(end).await {
            return Err(Halt::Pending(format!("the snapshot to be written ({share})")));
        }
    }
    // The next one that the server writes by itself takes the name, and this file keeps its own.
    acting.on_disk(move |node, name| Ok(cargo::keep(&file, &node.layout.leaving(name))?)).await?;
    acting.note_snapshot(Some(Snapshot::Saved { fenced })).await
}

/// Removes the data of a stopped vessel: it is nobody's.
async fn drop_data(acting: &Acting) -> Result<(), Halt> {
    acting.drop_aof().await?;
    acting.on_disk(|node, name| Ok(files::remove(&node.layout.data(name).join("dump.rdb"))?)).await
}

/// Where the server loads it from: as the base of its AOF, the manifest last, or as `dump.rdb` where the AOF is off. Beside an
/// AOF a `dump.rdb` is not read (facts D).
async fn place(acting: &Acting, id: SnapshotId) -> Result<(), Halt> {
    let binary = acting.binary.clone();
    acting
        .on_disk(move |node, name| {
            let (data, arrived) = (node.layout.data(name), node.layout.arriving(name, &id));
            let owner = node.owned_by_servers();
            let aof = disk::spec(&node.layout, name, &binary.facts).seen().is_some_and(crate::model::spec::InstanceSpec::aof);
            if !aof {
                return Ok(cargo::place(&arrived, &data.join("dump.rdb"), 0o640, owner)?);
            }
            // `appenddirname` and `appendfilename` are never set: these are the server's own names.
            let folder = data.join("appendonlydir");
            match owner {
                Some(owner) => files::make_folder_for(&folder, 0o750, Some(owner))?,
                None => files::make_folder(&folder)?,
            }
            cargo::place(&arrived, &folder.join("appendonly.aof.1.base.rdb"), 0o640, owner)?;
            let manifest = folder.join("appendonly.aof.manifest");
            Ok(files::replace_for(&manifest, b"file appendonly.aof.1.base.rdb seq 1 type b\n", 0o640, owner)?)
        })
        .await
}

impl Acting {
    async fn note_snapshot(&self, snapshot: Option<Snapshot>) -> Result<(), Halt> {
        let marker = self.marker().await?.marker;
        self.write_marker(Marker { snapshot, ..marker }).await
    }
}

/// A piece of the snapshot of this name from this place on, of at most [`CHUNK_BYTES_MAX`]; none where it ends.
///
/// # Errors
/// When there is no such snapshot (any more).
pub async fn piece(node: &Arc<LocalNode>, name: &InstanceName, id: &SnapshotId, from: u64) -> Result<Vec<u8>, String> {
    let id = id.clone();
    on_disk(node, name, move |node, name| {
        let marker = ours(node, name)?;
        match marker.snapshot.as_ref().and_then(Snapshot::made) {
            Some(made) if made.id == id => {
                cargo::read(&node.layout.leaving(name), from, CHUNK_BYTES_MAX).map_err(|error| error.to_string())
            }
            Some(_) | None => Err(format!("{name} has no snapshot {id} here (any more)")),
        }
    })
    .await
}

/// How much of this snapshot has arrived. Bytes.
///
/// # Errors
/// When that cannot be told.
pub async fn arrived(node: &Arc<LocalNode>, name: &InstanceName, id: &SnapshotId) -> Result<u64, String> {
    let id = id.clone();
    on_disk(node, name, move |node, name| {
        ours(node, name)?;
        let length = cargo::length(&node.layout.arriving(name, &id)).map_err(|error| error.to_string())?;
        Ok(length.unwrap_or_default())
    })
    .await
}

/// Takes a piece of a snapshot of `total` bytes; gives how much there is now. Bytes.
///
/// # Errors
/// When it does not fit to what has arrived, or the disk has no room for the whole.
pub async fn store(
    node: &Arc<LocalNode>,
    name: &InstanceName,
    id: &SnapshotId,
    total: u64,
    from: u64,
    piece: Vec<u8>,
) -> Result<u64, String> {
    let id = id.clone();
    on_disk(node, name, move |node, name| {
        let fits = from.checked_add(piece.len() as u64).is_some_and(|end| end <= total);
        if piece.len() > CHUNK_BYTES_MAX || !fits {
            return Err(format!("a piece of {} bytes at {from} of {total} makes no sense", piece.len()));
        }
        ours(node, name)?;
        let path = node.layout.arriving(name, &id);
        if from == 0 {
            cargo::clear(&node.layout, name, Some(&path)).map_err(|error| error.to_string())?;
        }
        let left = total - from;
        if let Some((_, free)) = machine::disk(&node.layout.set_aside_root()).filter(|(_, free)| *free < left) {
            let (left, free) = (show_size(left), show_size(free));
            return Err(format!("{left} of the snapshot are to come, and its disk has {free} left: free some"));
        }
        cargo::append(&path, from, &piece).map_err(|error| error.to_string())
    })
    .await
}

/// The marker of a member of this machine.
fn ours(node: &LocalNode, name: &InstanceName) -> Result<Marker, String> {
    match disk::marker(&node.layout, name) {
        MarkerOnDisk::Ours(file) if file.marker.machine == node.machine => Ok(file.marker),
        MarkerOnDisk::Ours(_) => Err(format!("the marker of {name} says that it belongs to another machine or folder")),
        MarkerOnDisk::Unmarked(why) => Err(why),
        MarkerOnDisk::Absent => Err(format!("{name} is not there")),
    }
}

async fn on_disk<T: Send + 'static>(
    node: &Arc<LocalNode>,
    name: &InstanceName,
    work: impl FnOnce(&LocalNode, &InstanceName) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (node, name) = (Arc::clone(node), name.clone());
    let done = tokio::task::spawn_blocking(move || work(&node, &name)).await;
    done.unwrap_or_else(|error| Err(format!("working with files failed: {}", chain(&error))))
}
