//! The manifests of what was set aside, read once: they never change, and a node may have as many as it deleted instances.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::host::files::{self, Stamp};
use crate::host::held;
use crate::model::live::SetAside;

/// What was read, and of which file.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    known: Mutex<BTreeMap<PathBuf, (Stamp, SetAside)>>,
}

impl Manifests {
    /// Nothing if it is not there or cannot be read.
    pub(super) fn read(&self, manifest: &Path) -> Option<SetAside> {
        let stamp = files::stamp(manifest);
        if let Some((of, kept)) = held::lock(&self.known).get(manifest)
            && *of == stamp
        {
            return Some(kept.clone());
        }
        let text = files::read_bounded(manifest).ok().flatten()?;
        let kept: SetAside = toml::from_str(&text).ok()?;
        held::lock(&self.known).insert(manifest.to_owned(), (stamp, kept.clone()));
        Some(kept)
    }

    /// Forgets those that are not there any more, if more are known than there `are`: a look that finds them all asks for none again.
    pub(super) fn forget_gone(&self, are: usize) {
        let mut known = held::lock(&self.known);
        if known.len() > are {
            known.retain(|manifest, _| files::exists(manifest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_was_replaced_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.toml");
        let text = |uid: &str| {
            let of = "fleet = \"prod\"\ninstance = \"a\"\nbytes = 0\ndeleted_at = \"2026-11-01T00:00:00Z\"\n";
            format!("{of}uid = \"{uid}\"\n")
        };
        let manifests = Manifests::default();
        assert_eq!(manifests.read(&path), None);
        for uid in ["1", "2"] {
            files::replace(&path, text(uid).as_bytes(), files::PRIVATE).unwrap();
            assert_eq!((0..2).map(|_| manifests.read(&path).unwrap().uid).collect::<Vec<_>>(), [uid, uid]);
        }
        files::remove(&path).unwrap();
        manifests.forget_gone(0);
        assert!(manifests.known.lock().unwrap().is_empty());
    }
}
