//! What becomes of a deleted member: its files are set aside, brought back, or removed for good.
//!
//! The marker moves last, both ways: until then a crash leaves a member that says what was being done to it.

use std::path::{Path, PathBuf};

use super::server::{Acting, Halt, failed, read_marker, write_marker};
use crate::host::cargo;
use crate::host::clock;
use crate::host::files;
use crate::host::layout::Layout;
use crate::host::unit::UnitFiles;
use crate::model::live::SetAside;
use crate::model::marker::{Marker, MarkerFile, Stage};
use crate::model::name::InstanceName;
use crate::observe::disk::RESTORING;
use crate::observe::node::{MANIFEST, SET_ASIDE_MARKER};

const DATA: &str = "data";
const CONFIG: &str = "config.conf";
const LOG: &str = "server.log";
/// Ends the name of a folder that is being removed.
const PURGING: &str = ".purge";

/// A uid becomes part of a path, and a saved plan or an edited marker could say anything.
fn check_uid(uid: &str) -> Result<(), Halt> {
    let plain = !uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if plain { Ok(()) } else { failed(format!("{uid:?} is not the uid of a member")) }
}

impl Acting {
    /// Moves the files of a stopped member to where deleted data is kept.
    pub(super) async fn set_aside(&mut self) -> Result<(), Halt> {
        self.hang_up();
        self.node.supervisor.forget(self.server()).await?;
        self.on_disk(|node, name| {
            let layout = &node.layout;
            let marker = read_marker(node, name)?.marker;
            check_uid(&marker.uid)?;
            let kept = layout.set_aside(name, &marker.uid);
            let has_copy = files::exists(&kept.join(SET_ASIDE_MARKER));
            // What waits for a snapshot holds nothing of its own, and must not take the place of a copy from an earlier stay.
            let is_purged = marker.is_vessel() && has_copy;
            let folder = if is_purged { going(layout, name, &marker.uid) } else { kept };
            // Any other member's is the newer copy, to which the earlier one gives way. Where the data is not in its place any
            // more, it is what was set aside a moment ago.
            if has_copy && !is_purged && files::exists(&layout.data(name)) {
                remove_set_aside(layout, name, &marker.uid)?;
            }
            files::make_folder(&folder)?;
            files::remove(&folder.join(RESTORING))?;
            cargo::clear(layout, name, None)?;
            // A run before this one may have moved the data already.
            let bytes = files::folder_bytes(&layout.data(name)) + files::folder_bytes(&folder.join(DATA));
            let followed = marker.role_applied().follows.is_some();
            let (fleet, uid) = (marker.fleet, marker.uid);
            let manifest = SetAside { instance: name.clone(), fleet, uid, deleted_at: clock::now(), bytes, followed };
            let text = toml::to_string(&manifest).map_err(|error| Halt::Failed(error.to_string()))?;
            files::replace(&folder.join(MANIFEST), text.as_bytes(), 0o600)?;
            files::rename(&layout.data(name), &folder.join(DATA))?;
            files::carry(&layout.config(name), &folder.join(CONFIG))?;
            files::remove(&layout.credential(name))?;
            if let Some(log) = layout.log(name) {
                files::rename(&log, &folder.join(LOG))?;
            }
            files::remove(&layout.socket(name).path())?;
            layout.pid(name).map_or(Ok(()), |pid| files::remove(&pid))?;
            UnitFiles::remove(layout, name)?;
            files::carry(&layout.marker(name), &folder.join(SET_ASIDE_MARKER))?;
            if is_purged { Ok(files::remove_folder(&folder)?) } else { Ok(()) }
        })
        .await
    }

    /// Moves them back, as a member that is down.
    pub(super) async fn bring_back(&mut self, uid: &str) -> Result<(), Halt> {
        check_uid(uid)?;
        let uid = uid.to_owned();
        self.on_disk(move |node, name| {
            let layout = &node.layout;
            let folder = layout.set_aside(name, &uid);
            let marker = active_marker(&folder.join(SET_ASIDE_MARKER), &node.machine)?;
            if !files::exists(&folder.join(RESTORING)) {
                refuse_occupied(layout, name)?;
            }
            // From here on the files that lie there without a marker are known to be these.
            files::replace(&folder.join(RESTORING), b"", 0o600)?;
            files::rename(&folder.join(DATA), &layout.data(name))?;
            files::carry(&folder.join(CONFIG), &layout.config(name))?;
            if let Some(log) = layout.log(name) {
                files::rename(&folder.join(LOG), &log)?;
            }
            files::carry(&folder.join(SET_ASIDE_MARKER), &layout.marker(name))?;
            write_marker(node, name, marker)?;
            Ok(files::remove_folder(&folder)?)
        })
        .await
    }

    /// Removes for good what was set aside.
    pub(super) async fn purge(&mut self, uid: &str) -> Result<(), Halt> {
        check_uid(uid)?;
        let uid = uid.to_owned();
        self.on_disk(move |node, name| remove_set_aside(&node.layout, name, &uid)).await
    }
}

/// What is being removed for good; a sweep finishes what was cut off.
fn going(layout: &Layout, name: &InstanceName, uid: &str) -> PathBuf {
    layout.set_aside_root().join(format!("{name}-{uid}{PURGING}"))
}

fn remove_set_aside(layout: &Layout, name: &InstanceName, uid: &str) -> Result<(), Halt> {
    // One rename first: half of it must not look like something that can be restored.
    let going = going(layout, name, uid);
    files::rename(&layout.set_aside(name, uid), &going)?;
    Ok(files::remove_folder(&going)?)
}

/// Finishes what purges that were cut off left, and removes files that writers who were killed never finished. Only for
/// the holder of the right to act, before the first step.
pub fn sweep(layout: &Layout) {
    let (root, data) = (layout.set_aside_root(), layout.data_root());
    let below = |folder: &Path| -> Vec<PathBuf> {
        files::names(folder).unwrap_or_default().into_iter().map(|name| folder.join(name)).collect()
    };
    for going in below(&root).iter().filter(|path| path.extension().is_some_and(|end| end == "purge")) {
        if let Err(error) = files::remove_folder(going) {
            tracing::warn!(%error, "a purge that was cut off cannot be finished");
        }
    }
    let fixed = [layout.root().to_owned(), layout.markers(), layout.configs()];
    below(&data).iter().chain(&below(&root)).chain(&fixed).for_each(|folder| files::sweep_new(folder));
}

fn active_marker(path: &Path, machine: &str) -> Result<Marker, Halt> {
    let Some(text) = files::read_bounded(path)? else {
        return failed(format!("{} is not there, so nothing can be brought back from its folder", path.display()));
    };
    let read = toml::from_str::<MarkerFile>(&text).map_err(|error| error.message().to_owned());
    let file = read.map_err(|problem| Halt::Failed(format!("{} cannot be read: {problem}", path.display())))?;
    if file.marker.machine != machine {
        return failed(format!("{} is of another machine or folder", path.display()));
    }
    Ok(Marker { stage: Stage::Active, ..file.marker })
}

fn refuse_occupied(layout: &Layout, name: &InstanceName) -> Result<(), Halt> {
    let places = [layout.data(name), layout.config(name), layout.marker(name)];
    match places.iter().find(|path| files::exists(path)) {
        Some(path) => failed(format!("{} is in the way; move it elsewhere first", path.display())),
        None => Ok(()),
    }
}
