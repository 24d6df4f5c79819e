//! A remote over https: git's own http-backend behind a small server with a CA of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use valkeeper::repo::{FetchFault, Location, Repo, RepoError, Spec};

use super::{World, head, run, texts};

pub const TOKEN: &str = "hunter2-0123456789abcdef";

/// Ends with the test.
pub struct Server {
    pub port: u16,
    process: Child,
}

impl Server {
    pub fn start(world: &World) -> Self {
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem"];
        let names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"];
        let args = [&["req", "-x509", "-days", "2", "-out", "ca.pem"][..], &key, &names].concat();
        run("openssl", world.folder.path(), &args, &[]);
        fs::write(world.path("token"), format!("{TOKEN}\n")).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/repo/https_server.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(world.folder.path()).args(["ca.pem", "key.pem", "token"].map(|name| world.path(name)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).env("GIT_CONFIG_GLOBAL", "/dev/null");
        let mut process = command.spawn().expect("python3 is missing: run scripts/install-missing");
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { port: port.trim().parse().expect("the server prints its port"), process }
    }

    fn url(&self, path: &str) -> Location {
        Location::Remote(format!("https://127.0.0.1:{}/{path}", self.port))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spec(world: &World, location: Location) -> Spec {
    let mut spec = world.spec(location);
    spec.access.token_file = Some(world.path("token"));
    spec.access.ca_file = Some(world.path("ca.pem"));
    spec.access.askpass = Some(env!("CARGO_BIN_EXE_valkeeper").into());
    spec
}

async fn fault(spec: Spec) -> FetchFault {
    let error = Repo::open(spec).unwrap().head().await.unwrap_err();
    assert!(!error.to_string().contains(TOKEN) && !format!("{error:?}").contains(TOKEN), "{error}");
    let text = error.to_string();
    let RepoError::Fetch { fault, .. } = error else { panic!("{text}") };
    fault
}

#[tokio::test]
async fn a_remote_is_followed_over_https_with_a_token() {
    let world = World::new();
    world.bare();
    let server = Server::start(&world);
    let repo = Repo::open(spec(&world, server.url("bare.git"))).unwrap();
    assert_eq!(texts(&repo, &head(&repo).await).await, "a = 1\nb = 1\n");
    let second = world.commit(&[("a.toml", "a = 2\n")]);
    world.push(&["main"]);
    assert_eq!(head(&repo).await, second);
}

#[tokio::test]
async fn each_way_to_fail_is_told_apart() {
    let world = World::new();
    world.bare();
    let server = Server::start(&world);
    let good = spec(&world, server.url("bare.git"));

    let found = fault(spec(&world, server.url("nowhere.git"))).await;
    assert!(matches!(found, FetchFault::NotFound { .. }), "{found:?}");

    let mut strange = good.clone();
    strange.access.ca_file = None;
    let found = fault(strange).await;
    assert!(matches!(found, FetchFault::Certificate { .. }), "{found:?}");

    let mut without = good.clone();
    without.access.token_file = None;
    let found = fault(without).await;
    assert!(matches!(found, FetchFault::Denied { .. }), "{found:?}");

    fs::write(world.path("token"), "wrong\n").unwrap();
    let found = fault(good.clone()).await;
    assert!(matches!(found, FetchFault::Denied { .. }), "{found:?}");

    fs::remove_file(world.path("token")).unwrap();
    let error = Repo::open(good.clone()).unwrap().head().await.unwrap_err();
    assert!(matches!(error, RepoError::Io { .. }) && error.to_string().contains("token"), "{error}");

    fs::write(world.path("token"), TOKEN).unwrap();
    drop(server);
    let found = fault(good).await;
    assert!(matches!(found, FetchFault::Unreachable { .. }), "{found:?}");
}

#[tokio::test]
async fn a_host_that_one_is_sent_to_does_not_get_the_token() {
    let world = World::new();
    world.bare();
    let server = Server::start(&world);
    // The same server by another name is another origin.
    let moved = format!("moved/localhost:{}/bare.git", server.port);
    let found = fault(spec(&world, server.url(&moved))).await;
    assert!(matches!(found, FetchFault::Denied { .. }), "{found:?}");
    let seen = fs::read_to_string(world.path("seen")).unwrap();
    assert!(seen.contains("localhost") && !seen.contains(TOKEN), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_is_in_no_argument_and_no_environment() {
    let world = World::new();
    world.bare();
    let server = Server::start(&world);
    let repo = Repo::open(spec(&world, server.url("slow/bare.git"))).unwrap();
    let ended = AtomicBool::new(false);
    let looked = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut gits = 0;
            while !ended.load(Ordering::Relaxed) {
                gits += look_for_token();
            }
            gits
        });
        let fetched = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(repo.head()));
        ended.store(true, Ordering::Relaxed);
        fetched.unwrap();
        looking.join().unwrap()
    });
    assert!(looked > 0, "the fetch was over before anybody looked");
    let mirror = run("grep", world.folder.path(), &["-rlF", TOKEN, "."], &[]);
    assert_eq!(mirror.lines().filter(|line| line.contains("cache")).count(), 0, "{mirror}");
}

/// Looks at every process; gives how many had the path of the token file, which is where the token would be as well.
fn look_for_token() -> usize {
    let mut gits = 0;
    for process in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            let bytes = fs::read(process.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains(TOKEN), "{}: {text}", process.path().join(file).display());
            gits += usize::from(text.contains("VALKEEPER_ASKPASS_FILE="));
        }
    }
    gits
}
