//! What is done to a node as a whole: put in place what all its members share, or leave nothing of ours.

use std::sync::Arc;

use crate::host::files::{self, FileError};
use crate::host::layout::Room;
use crate::host::unit;
use crate::model::live::Member;
use crate::observe::{LocalNode, chain, node};

/// How the names of our own files at the top of a node begin.
const OURS: [&str; 3] = ["fleet-", "binary-", "lock"];

/// The folders of the node, which the first change makes.
///
/// # Errors
/// What cannot be made.
pub fn make_folders(node: &LocalNode) -> Result<(), FileError> {
    files::make_folder(node.layout.root())?;
    node.layout.folders().iter().try_for_each(|(folder, room)| match room {
        Room::Own => files::make_folder(folder),
        Room::ServersRead => files::make_folder_for(folder, 0o750, node.readable_by_servers()),
    })
}

/// Makes what the first change would make, and the template of the units. Touches no server.
///
/// # Errors
/// What cannot be written.
pub async fn prepare(node: &Arc<LocalNode>) -> Result<(), String> {
    on_disk(node, |node| {
        make_folders(node)?;
        unit::write_template(&node.layout)
    })
    .await?;
    node.supervisor.reload().await.map_err(|error| chain(&error))
}

/// Removes all that is ours. `set_aside`: data of deleted members as well.
///
/// # Errors
/// Why something has to stay: a member, data that is kept; or what cannot be removed.
pub async fn leave(node: &Arc<LocalNode>, set_aside: bool) -> Result<(), String> {
    let (facts, _) = node::look(node).await.map_err(|error| chain(&error))?;
    let ours = |(name, member): (_, &Arc<Member>)| match &**member {
        Member::Marked(_) => Some(name),
        Member::Unmarked { .. } => None,
    };
    if let Some(name) = facts.members.iter().find_map(ours) {
        return Err(format!("the instance {name} stands here"));
    }
    if let (false, Some(kept)) = (set_aside, facts.set_aside.first()) {
        return Err(format!("data of the deleted instance {} is kept here", kept.instance));
    }
    on_disk(node, |node| {
        let layout = &node.layout;
        files::remove_folder(&layout.set_aside_root())?;
        for name in files::names(layout.root())? {
            if OURS.iter().any(|ours| name.starts_with(ours)) {
                files::remove(&layout.root().join(name))?;
            }
        }
        // What somebody else put there stays, and so does its folder.
        layout.folders().iter().for_each(|(folder, _)| files::remove_empty_folder(folder));
        files::remove_empty_folder(layout.root());
        layout.scratch().iter().for_each(|folder| files::remove_empty_folder(folder));
        unit::remove_template(layout)
    })
    .await?;
    node.supervisor.reload().await.map_err(|error| chain(&error))
}

async fn on_disk(
    node: &Arc<LocalNode>,
    work: impl FnOnce(&LocalNode) -> Result<(), FileError> + Send + 'static,
) -> Result<(), String> {
    let node = Arc::clone(node);
    match tokio::task::spawn_blocking(move || work(&node)).await {
        Ok(done) => done.map_err(|error| chain(&error)),
        Err(error) => Err(format!("working with files failed: {error}")),
    }
}
