//! The facts of the node's own server binary, asked once and remembered: in memory, and beside the state if there is one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::probe::probe;
use crate::host::files;
use crate::host::scratch::{self, Bench, Scratch, ScratchError};
use crate::host::valkey::ValkeyError;
use crate::model::binary::BinaryFacts;
use crate::model::live::BinaryId;
use crate::model::password::Fingerprint;

/// Why the binary of a node is unknown.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    #[error(
        "there is no valkey-server on this machine: install it with `apt-get install -t bookworm-backports valkey-server`, \
         or name the program in VALKEY_SERVER"
    )]
    NotInstalled,
    #[error("{0}, which VALKEY_SERVER or PATH names, cannot be used as valkey-server")]
    Unusable(PathBuf, #[source] io::Error),
    #[error("a throwaway server of {0} could not be asked")]
    Start(PathBuf, #[source] ScratchError),
    #[error("a throwaway server of {0} could not be asked")]
    Ask(PathBuf, #[source] ValkeyError),
}

/// A binary that was asked.
#[derive(Debug, Clone)]
pub struct Binary {
    pub id: BinaryId,
    pub path: PathBuf,
    pub facts: Arc<BinaryFacts>,
}

/// The binary of a node, asked when it is first needed, and anew when the file changes (an upgrade of the package).
#[derive(Debug, Default)]
pub struct BinaryMemory {
    known: Mutex<Option<(Fingerprint, Binary)>>,
}

/// What is kept beside the state.
#[derive(Serialize, Deserialize)]
struct Cached {
    /// The form of this file; another form is asked anew.
    format: u32,
    file: Fingerprint,
    facts: BinaryFacts,
}

const FORMAT: u32 = 1;

impl BinaryMemory {
    /// The facts of the binary at this path. `root`: the state folder, where a copy is kept if the folder exists.
    ///
    /// # Errors
    /// When it is not a server, or cannot be started.
    pub async fn get(&self, path: &Path, root: &Path, bench: &Bench, limit: Duration) -> Result<Binary, BinaryError> {
        let file = identity(path).map_err(|error| BinaryError::Unusable(path.to_owned(), error))?;
        // Held while asking, so that many looks at once ask once.
        let mut known = self.known.lock().await;
        if let Some((of, binary)) = &*known
            && *of == file
        {
            return Ok(binary.clone());
        }
        if known.is_none() {
            let (bench, path) = (bench.clone(), path.to_owned());
            // It only tidies up; what it could not do is tried again next time.
            let _swept = tokio::task::spawn_blocking(move || scratch::sweep(&bench, &path)).await;
        }
        let cache = root.join(format!("binary-{file}.json"));
        let facts = match cached(&cache, file) {
            Some(facts) => facts,
            None => {
                let facts = ask(path, bench, limit).await?;
                keep(&cache, file, &facts);
                facts
            }
        };
        let id = BinaryId(format!("{}-{file}", facts.version));
        let binary = Binary { id, path: path.to_owned(), facts: Arc::new(facts) };
        *known = Some((file, binary.clone()));
        Ok(binary)
    }
}

/// Which file this is: another build has another inode, size or time.
fn identity(path: &Path) -> io::Result<Fingerprint> {
    let path = fs::canonicalize(path)?;
    let meta = fs::metadata(&path)?;
    let seed = format!("{}\0{}\0{}\0{}\0{}", path.display(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec());
    Ok(Fingerprint::of(seed.as_bytes()))
}

async fn ask(path: &Path, bench: &Bench, limit: Duration) -> Result<BinaryFacts, BinaryError> {
    let start = Scratch::start(path, bench, &[], limit).await;
    let mut server = start.map_err(|error| BinaryError::Start(path.to_owned(), error))?;
    probe(&mut server).await.map_err(|error| BinaryError::Ask(path.to_owned(), error))
}

/// A copy that is missing, cut off or of another form is as good as none.
fn cached(path: &Path, file: Fingerprint) -> Option<BinaryFacts> {
    let text = files::read_bounded(path).ok()??;
    let cached: Cached = serde_json::from_str(&text).ok()?;
    (cached.format == FORMAT && cached.file == file).then_some(cached.facts)
}

/// Keeping a copy only saves time, so that it cannot be written is no error; and looking makes no state folder.
fn keep(path: &Path, file: Fingerprint, facts: &BinaryFacts) {
    let exists = path.parent().is_some_and(Path::is_dir);
    let cached = Cached { format: FORMAT, file, facts: facts.clone() };
    if let (true, Ok(text)) = (exists, serde_json::to_string(&cached))
        && let Err(error) = files::replace(path, text.as_bytes(), 0o600)
    {
        tracing::debug!(%error, "the facts of the binary are not kept");
    }
}
