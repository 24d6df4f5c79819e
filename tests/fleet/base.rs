//! The root file systems that hosts share, kept between runs in `${XDG_CACHE_HOME:-~/.cache}/valkeeper/lab/`. Each is named
//! by its suite and by the hash of its recipe (`tests/fleet/base`); the recipe makes it. Never changed once it is there.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::run;

const RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/base");

/// Longer than a build takes (half a minute) by what a slow mirror may need.
const BUILD_MAX: Duration = Duration::from_mins(10);

/// Which Debian a host is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suite {
    /// systemd 247, glibc 2.31, no Valkey: the oldest that our program is promised to run on.
    Bullseye,
    /// systemd 252, Valkey 8.0.1 from its backports.
    Bookworm,
    /// systemd 257, Valkey 8.1.
    Trixie,
}

impl Suite {
    pub fn named(name: &str) -> Option<Self> {
        [Self::Bullseye, Self::Bookworm, Self::Trixie].into_iter().find(|suite| suite.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// A base that is there, and stays there as long as this value lives.
pub struct Base {
    pub root: PathBuf,
    _in_use: File,
}

impl Base {
    /// Makes it if it is not there. Of two runs that want the same one, the second waits.
    pub fn of(suite: Suite) -> Self {
        let root = cache().join(format!("{}-{}", suite.name(), recipe_hash()));
        fs::create_dir_all(cache()).unwrap();
        let lock = lock_of(&root);
        loop {
            let in_use = File::create(&lock).unwrap();
            in_use.lock_shared().unwrap();
            if root.is_dir() {
                remove_older(suite, &root);
                return Self { root, _in_use: in_use };
            }
            drop(in_use);
            build(suite, &root, &lock);
        }
    }
}

/// The lock is held by the recipe's own processes: they may outlive a run that is killed.
fn build(suite: Suite, root: &Path, lock: &Path) {
    eprintln!("lab: making the base image {} (once, about half a minute)", root.display());
    let mut recipe = run::within(BUILD_MAX, "flock");
    recipe.arg(lock).arg(RECIPE).arg(suite.name()).arg(root);
    run::must(&mut recipe);
}

/// Images of older recipes, unless somebody uses them: a run of the lab, which holds the lock, or a host made by hand.
fn remove_older(suite: Suite, current: &Path) {
    for entry in fs::read_dir(cache()).unwrap() {
        let path = entry.unwrap().path();
        let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(suite.name()));
        if !ours || path == current || !path.is_dir() || path.extension().is_some() {
            continue;
        }
        let lock = File::create(lock_of(&path)).unwrap();
        let mounted = fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!("lowerdir={},", path.display()));
        if !mounted && lock.try_lock().is_ok() {
            gone(fs::remove_dir_all(&path));
            gone(fs::remove_file(lock_of(&path)));
        }
    }
}

/// Two runs may remove the same thing.
fn gone(result: io::Result<()>) {
    if let Err(error) = result {
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}");
    }
}

fn lock_of(root: &Path) -> PathBuf {
    root.with_extension("lock")
}

fn cache() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").filter(|set| !set.is_empty()).map(PathBuf::from);
    cache.unwrap_or_else(|| PathBuf::from(env::var_os("HOME").expect("HOME is set")).join(".cache")).join("valkeeper/lab")
}

fn recipe_hash() -> String {
    let digest = Sha256::digest(fs::read(RECIPE).unwrap());
    base16ct::lower::encode_string(&digest)[..12].to_owned()
}
