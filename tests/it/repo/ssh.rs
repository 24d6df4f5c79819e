//! A remote over ssh: the real sshd, on a loopback port of its own.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use valkeeper::repo::{FetchFault, Location, Repo, RepoError, Spec, Verify};

use super::{World, head, run, texts};
use crate::support::{free_port, signal};

/// An sshd that lets the user of this test in with the key `user_key`; ends with the test.
pub struct Sshd {
    pub port: u16,
    process: Child,
}

impl Sshd {
    pub fn start(world: &World) -> Self {
        for key in ["host_key", "user_key", "other_key"] {
            run("ssh-keygen", world.folder.path(), &["-q", "-t", "ed25519", "-N", "", "-f", key], &[]);
        }
        fs::copy(world.path("user_key.pub"), world.path("authorized_keys")).unwrap();
        let port = free_port();
        let folder = world.folder.path().display();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\n\
             PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        );
        fs::write(world.path("sshd_config"), config).unwrap();
        // sshd's own privilege separation: Debian makes the folder when the service starts, which it does not here.
        let _ = fs::create_dir("/run/sshd");
        let log = fs::File::create(world.path("sshd.log")).unwrap();
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(world.path("sshd_config")).stdin(Stdio::null()).stderr(log);
        let mut process = command.spawn().expect("sshd is missing: run scripts/install-missing");
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || fs::read_to_string(world.path("sshd.log")).unwrap_or_default();
            assert!(process.try_wait().unwrap().is_none() && since.elapsed() < Duration::from_secs(20), "sshd: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let host_key = fs::read_to_string(world.path("host_key.pub")).unwrap();
        fs::write(world.path("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        Self { port, process }
    }
}

impl Sshd {
    /// It takes connections and says nothing, as a host does that hangs.
    pub fn hangs(&self, hangs: bool) {
        signal(self.process.id(), if hangs { "-STOP" } else { "-CONT" });
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn user() -> String {
    run("id", &PathBuf::from("/"), &["-un"], &[])
}

fn spec(world: &World, port: u16) -> Spec {
    let url = format!("ssh://{}@127.0.0.1:{port}{}", user(), world.path("bare.git").display());
    let mut spec = world.spec(Location::parse(&url).unwrap());
    spec.access.ssh_key = Some(world.path("user_key"));
    spec.access.known_hosts = Some(world.path("known_hosts"));
    spec
}

/// A repository that an sshd serves, and the same followed through it.
fn remote() -> (World, Sshd, Repo) {
    let world = World::new();
    world.bare();
    let sshd = Sshd::start(&world);
    let repo = Repo::open(spec(&world, sshd.port)).unwrap();
    (world, sshd, repo)
}

async fn fault(spec: Spec) -> FetchFault {
    match Repo::open(spec).unwrap().head().await {
        Err(RepoError::Fetch { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_remote_is_followed_over_ssh() {
    let (world, _sshd, repo) = remote();
    let first = head(&repo).await;
    assert_eq!(first, world.at("HEAD"));
    assert_eq!(texts(&repo, &first).await, "a = 1\nb = 1\n");

    let second = world.commit(&[("a.toml", "a = 2\n")]);
    assert_eq!(head(&repo).await, first, "not pushed yet");
    world.push(&["main"]);
    assert_eq!(head(&repo).await, second);
    assert!(repo.descends(&second, &first).await.unwrap());

    // Rewound by force: the mirror follows, and the old commit is still there to compare with.
    world.git(&["reset", "--quiet", "--hard", first.as_str()]);
    let third = world.commit(&[("a.toml", "a = 3\n")]);
    world.push(&["--force", "main"]);
    assert_eq!(head(&repo).await, third);
    assert!(!repo.descends(&third, &second).await.unwrap());

    world.push(&["--delete", "main"]);
    let error = repo.head().await.unwrap_err();
    assert!(matches!(&error, RepoError::Fetch { fault: FetchFault::NoBranch { .. }, .. }), "{error}");
    assert_eq!(texts(&repo, &third).await, "a = 3\nb = 1\n", "the last good revision stays readable");
}

#[tokio::test]
async fn fetches_into_one_cache_take_turns() {
    let world = World::new();
    world.git(&["checkout", "--quiet", "-b", "main-2"]);
    let other = world.commit(&[("a.toml", "a = 2\n")]);
    world.git(&["checkout", "--quiet", "main"]);
    world.bare();
    let sshd = Sshd::start(&world);
    let main = Repo::open(spec(&world, sshd.port)).unwrap();
    let branch = main.on_branch("main-2").unwrap();
    let heads = tokio::join!(main.head(), branch.head(), main.head(), branch.head());
    let [one, two, three, four] = [heads.0, heads.1, heads.2, heads.3].map(|head| head.unwrap().revision);
    assert_eq!((&one, &two), (&world.at("main"), &other));
    assert_eq!((one, two), (three, four));
}

#[tokio::test]
async fn a_signature_is_checked_in_the_mirror_as_well() {
    let world = World::new();
    world.bare();
    let sshd = Sshd::start(&world);
    let key = super::signed::ssh_key(&world, "anna");
    fs::write(world.path("allowed_signers"), format!("anna@example.com {key}\n")).unwrap();
    let mut spec = spec(&world, sshd.port);
    spec.verify = Verify::Head { allowed_signers: Some(world.path("allowed_signers")), openpgp_keys: None };
    let repo = Repo::open(spec).unwrap();
    let unsigned = head(&repo).await;
    assert!(repo.verify(&unsigned).await.is_err());
    super::signed::sign_with_ssh(&world, "anna", None);
    world.push(&["main"]);
    let signed = head(&repo).await;
    assert_eq!(repo.verify(&signed).await.unwrap().signer, "anna@example.com");
}

/// What a power cut, a killed git or a full disk leave in the mirror must not need a person at night.
#[tokio::test]
async fn a_damaged_mirror_mends_itself() {
    let (world, _sshd, repo) = remote();
    head(&repo).await;
    let mirror = world.path("cache/mirror.git");
    let reference = || fs::read_dir(mirror.join("refs/valkeeper")).unwrap().next().unwrap().unwrap().path();
    let damages: [&dyn Fn(); 5] = [
        &|| fs::write(reference().with_extension("lock"), "").unwrap(),
        &|| fs::write(reference(), "").unwrap(),
        &|| fs::remove_file(mirror.join("HEAD")).unwrap(),
        &|| fs::write(mirror.join("config"), "[core\n").unwrap(),
        &|| {
            // An object that is half there: what is fetched next cannot stand on it.
            fs::remove_dir_all(mirror.join("objects")).unwrap();
            fs::create_dir(mirror.join("objects")).unwrap();
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        let newest = world.commit(&[("a.toml", &format!("a = {number}\n"))]);
        world.push(&["main"]);
        let found = repo.head().await;
        assert_eq!(found.unwrap_or_else(|error| panic!("damage {number}: {error:?}")).revision, newest);
        assert_eq!(texts(&repo, &newest).await, format!("a = {number}\nb = 1\n"));
    }
}

/// git believes that it has what its branch stands on, and would never fetch it again.
#[tokio::test]
async fn a_mirror_with_holes_mends_itself_without_a_new_commit() {
    let (world, _sshd, repo) = remote();
    let newest = head(&repo).await;
    for name in ["HEAD", "HEAD^{tree}", "HEAD:a.toml"] {
        let id = world.git(&["rev-parse", name]);
        fs::remove_file(world.path("cache/mirror.git/objects").join(&id[..2]).join(&id[2..])).unwrap();
        assert!(repo.read(&newest).await.is_err(), "{name}");
        assert_eq!(head(&repo).await, newest, "{name}");
        assert_eq!(texts(&repo, &newest).await, "a = 1\nb = 1\n", "{name}");
    }
}

#[tokio::test]
async fn a_hook_or_setting_in_the_mirror_is_not_run() {
    let (world, _sshd, repo) = remote();
    head(&repo).await;
    let mirror = world.path("cache/mirror.git");
    let mark = world.path("mark");
    fs::create_dir_all(mirror.join("hooks")).unwrap();
    let hook = mirror.join("hooks/reference-transaction");
    fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", mark.display())).unwrap();
    run("chmod", &mirror, &["+x", hook.to_str().unwrap()], &[]);
    let newest = world.commit(&[("a.toml", "a = 2\n")]);
    world.push(&["main"]);
    assert_eq!(head(&repo).await, newest);
    assert!(!mark.exists());
}

#[tokio::test]
async fn each_way_to_fail_is_told_apart() {
    let world = World::new();
    world.bare();
    let sshd = Sshd::start(&world);
    let with = |change: &dyn Fn(&mut Spec)| {
        let mut spec = spec(&world, sshd.port);
        change(&mut spec);
        spec
    };
    let denied = with(&|spec| spec.access.ssh_key = Some(world.path("other_key")));
    let found = fault(denied).await;
    assert!(matches!(found, FetchFault::Denied { .. }), "{found:?}");

    let missing = format!("ssh://{}@127.0.0.1:{}/nowhere/at/all.git", user(), sshd.port);
    let found = fault(with(&|spec| spec.location = Location::Remote(missing.clone()))).await;
    assert!(matches!(found, FetchFault::NotFound { .. }), "{found:?}");

    let found = fault(with(&|spec| spec.branch = "team/live".into())).await;
    assert_eq!(found, FetchFault::NoBranch { branch: "team/live".into() });

    fs::write(world.path("known_hosts"), "").unwrap();
    assert_eq!(fault(spec(&world, sshd.port)).await, FetchFault::HostKeyUnknown);

    let other = fs::read_to_string(world.path("other_key.pub")).unwrap();
    fs::write(world.path("known_hosts"), format!("[127.0.0.1]:{} {other}", sshd.port)).unwrap();
    assert_eq!(fault(spec(&world, sshd.port)).await, FetchFault::HostKeyChanged);

    let found = fault(spec(&world, free_port())).await;
    assert!(matches!(found, FetchFault::Unreachable { .. }), "{found:?}");
}

/// It takes the connection and says nothing, as a host does whose disk is gone.
#[tokio::test]
async fn a_remote_that_hangs_is_given_up_at_the_deadline() {
    let world = World::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    run("ssh-keygen", world.folder.path(), &["-q", "-t", "ed25519", "-N", "", "-f", "user_key"], &[]);
    fs::write(world.path("known_hosts"), "").unwrap();
    let mut spec = spec(&world, silent.local_addr().unwrap().port());
    // Shorter than the time that ssh itself takes to give up.
    spec.deadline = Duration::from_millis(900);
    let since = Instant::now();
    let found = fault(spec).await;
    assert!(matches!(found, FetchFault::Deadline(_) | FetchFault::Unreachable { .. }), "{found:?}");
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    processes_end(world.folder.path().to_str().unwrap()).await;
}

/// Whoever waits for a fetch may lose interest: a shutdown does.
#[tokio::test]
async fn a_fetch_that_is_dropped_leaves_no_process() {
    let world = World::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    fs::write(world.path("known_hosts"), "").unwrap();
    fs::write(world.path("user_key"), "").unwrap();
    let repo = Repo::open(spec(&world, silent.local_addr().unwrap().port())).unwrap();
    let here = world.folder.path().to_str().unwrap();
    let dropped = tokio::time::timeout(Duration::from_millis(1500), async {
        let _ = tokio::join!(repo.head(), async {
            while processes_naming(here) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    });
    assert!(dropped.await.is_err(), "it hangs");
    processes_end(here).await;
}

/// A process that was killed is gone a moment later.
async fn processes_end(naming: &str) {
    let since = Instant::now();
    while processes_naming(naming) > 0 {
        assert!(since.elapsed() < Duration::from_secs(3), "git or ssh is left behind");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How many processes have this text among their arguments.
fn processes_naming(text: &str) -> usize {
    let names = |pid: PathBuf| String::from_utf8_lossy(&fs::read(pid.join("cmdline")).unwrap_or_default()).contains(text);
    fs::read_dir("/proc").unwrap().flatten().filter(|entry| names(entry.path())).count()
}
