//! Following a source, against real git, sshd, an https server, ssh-keygen and gpg.

mod folder;
pub mod https;
mod local;
pub mod signed;
pub mod ssh;
mod watch;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use valkeeper::repo::{Access, Location, Repo, Revision, Spec, Verify};

/// A program's output; fails with its words.
pub fn run(program: &str, folder: &Path, args: &[&str], env: &[(&str, &str)]) -> String {
    let mut command = Command::new(program);
    command.current_dir(folder).args(args).envs(env.iter().copied());
    // Whoever runs the tests has a set-up of their own, which is not what is tested.
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env_remove("GIT_DIR");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "Anna").env(format!("GIT_{who}_EMAIL"), "anna@example.com");
    }
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}: run scripts/install-missing"));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {err}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A repository with a working copy, and room beside it.
pub struct World {
    pub folder: TempDir,
}

impl World {
    /// One commit on `main`, with two files.
    pub fn new() -> Self {
        let world = Self::empty();
        world.commit(&[("a.toml", "a = 1\n"), ("b.toml", "b = 1\n"), ("README.md", "hello\n")]);
        world
    }

    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder };
        std::fs::create_dir(world.work()).unwrap();
        world.git(&["init", "--quiet", "--initial-branch=main"]);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn work(&self) -> PathBuf {
        self.path("work")
    }

    pub fn git(&self, args: &[&str]) -> String {
        run("git", &self.work(), args, &[])
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.work().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn commit(&self, files: &[(&str, &str)]) -> Revision {
        files.iter().for_each(|(name, text)| self.write(name, text));
        self.commit_all()
    }

    pub fn commit_all(&self) -> Revision {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "change\n\nmore"]);
        self.at("HEAD")
    }

    pub fn at(&self, name: &str) -> Revision {
        Revision::new(&self.git(&["rev-parse", name])).unwrap()
    }

    /// A bare repository beside the working copy, that it pushes to.
    pub fn bare(&self) -> PathBuf {
        let bare = self.path("bare.git");
        self.git(&["clone", "--quiet", "--bare", ".", bare.to_str().unwrap()]);
        self.git(&["remote", "add", "origin", bare.to_str().unwrap()]);
        run("git", &bare, &["config", "receive.denyDeleteCurrent", "ignore"], &[]);
        bare
    }

    pub fn push(&self, args: &[&str]) {
        self.git(&[&["push", "--quiet", "origin"], args].concat());
    }

    pub fn spec(&self, location: Location) -> Spec {
        Spec {
            location,
            branch: "main".into(),
            folder: ".".into(),
            cache: self.path("cache"),
            verify: Verify::Off,
            access: Access::default(),
            deadline: Duration::from_secs(20),
        }
    }

    pub fn local(&self) -> Repo {
        Repo::open(self.spec(Location::Local(self.work()))).unwrap()
    }
}

pub async fn head(repo: &Repo) -> Revision {
    repo.head().await.unwrap().revision
}

/// The texts of a revision, one after the other.
pub async fn texts(repo: &Repo, revision: &Revision) -> String {
    repo.read(revision).await.unwrap().into_iter().map(|source| source.text).collect()
}
