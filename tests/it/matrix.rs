//! The crash matrix: an instance is moved (by replication, and as a snapshot), restarted member by member, and switched over, and after each effect of that
//! somebody is killed: the controller, the agents, the servers, and several of them at once. Then the daemon runs, and has
//! to settle by itself; no acknowledged write is lost, and no two members are open at one moment.
//!
//! The effects tell themselves (`apply --json`): the kill follows the n-th of these lines at once, or some milliseconds
//! later, so that it meets the effect before, during or after its work. All settings say `appendfsync always`: a server
//! that is killed loses nothing that it has confirmed, so what is lost is ours.
//!
//! Without `VALKEEPER_SOAK=1` 60 cases are taken; `VALKEEPER_SEED` chooses which. `VALKEEPER_CASE` takes those whose description has
//! these words: `Move Case { victims: [Target], effect: 3`.

use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::chance::{seed, soak};
use crate::daemon;
use crate::moves::Pair;
use crate::ran::follow;
use crate::support::{free_port, signal};
use crate::writers::Writers;

/// A daemon that has not settled by then is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// The log of a daemon that takes longer is worth a look.
const SLOW: Duration = Duration::from_secs(12);

/// Tracks at once: with more of them the writers get too little of this machine.
const AT_ONCE: usize = 3;

/// What is done while somebody is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Move,
    RollingRestart,
    SwitchOver,
    SnapshotMove,
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Controller,
    /// The server that takes writes when the work begins, and the other one.
    Source,
    Target,
    SourceAgent,
    TargetAgent,
}

use Victim::{Controller, Source, SourceAgent, Target, TargetAgent};

const WITH_SERVERS: &[&[Victim]] = &[
    &[Controller],
    &[Source],
    &[Target],
    &[Controller, Source],
    &[Controller, Target],
    &[Source, Target],
    &[Controller, Source, Target],
];
const WITH_AGENTS: &[&[Victim]] = &[
    &[Controller],
    &[SourceAgent],
    &[TargetAgent],
    &[SourceAgent, TargetAgent],
    &[Controller, SourceAgent],
    &[Controller, TargetAgent],
    &[SourceAgent, Source],
    &[TargetAgent, Target],
    &[SourceAgent, Target],
    &[TargetAgent, Source],
    &[Controller, SourceAgent, TargetAgent, Source, Target],
];

/// Kills these after the n-th effect began, this much later.
#[derive(Debug, Clone)]
struct Case {
    victims: &'static [Victim],
    effect: usize,
    later: Duration,
}

/// One pair of nodes on which one kind of work is done again and again.
struct Track {
    work: Work,
    pair: Pair,
    round: usize,
    daemons: usize,
}

/// What all of them came to.
#[derive(Default)]
struct Sum {
    cases: AtomicUsize,
    writes: AtomicUsize,
}

#[test]
fn whoever_is_killed_after_whichever_effect_the_daemon_settles_and_nothing_is_lost() {
    let seed = seed();
    let (begun, sum) = (Instant::now(), Sum::default());
    // Behind ssh a case takes three times as long: `make soak` takes half of them, by its seed.
    let tracks = [
        (Work::Move, true, 6, 150),
        (Work::Move, false, 18, usize::MAX),
        (Work::SnapshotMove, false, 8, usize::MAX),
        (Work::SnapshotMove, true, 3, 80),
        (Work::RollingRestart, false, 12, usize::MAX),
        (Work::RollingRestart, true, 4, 90),
        (Work::SwitchOver, false, 8, usize::MAX),
        (Work::SwitchOver, true, 4, 50),
    ];
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((work, ssh, few, many)) = tracks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let random = StdRng::seed_from_u64(seed.wrapping_add(u64::from(*ssh) * 4 + *work as u64));
                    Track::new(*work, *ssh).run(random, if soak() { *many } else { *few }, &sum);
                }
            });
        }
    });
    let (cases, writes) = (sum.cases.into_inner(), sum.writes.into_inner());
    eprintln!("{cases} cases, {writes} acknowledged writes, none lost, in {:?}", begun.elapsed());
    // A few cases are over before their effect comes: what was looked at had changed by itself.
    let enough = if soak() { 300 } else { 50 };
    assert!(cases >= enough || std::env::var_os("VALKEEPER_CASE").is_some());
}

impl Track {
    fn new(work: Work, ssh: bool) -> Self {
        let pair = if ssh { Pair::behind_ssh() } else { Pair::new() };
        let track = Self { work, pair, round: 0, daemons: 0 };
        track.declare();
        track
    }

    /// What is declared in this round is something else than in the one before.
    fn declare(&self) {
        let odd = self.round % 2 == 1;
        let settings = |databases: u32| format!("config = {{ appendfsync = \"always\", databases = {databases} }}\n");
        match self.work {
            Work::Move => self.pair.declare("\"n1\"", if odd { "b" } else { "a" }, &settings(16)),
            Work::SnapshotMove => {
                let keys = format!("move = \"snapshot\"\n{}", settings(16));
                self.pair.declare("\"n1\"", if odd { "b" } else { "a" }, &keys);
            }
            Work::RollingRestart => self.pair.declare("\"n1\", \"n2\"", "a", &settings(if odd { 32 } else { 16 })),
            Work::SwitchOver => {
                let primary = if odd { "primary = \"n2\"\n" } else { "primary = \"n1\"\n" };
                self.pair.declare("\"n1\", \"n2\"", "a", &format!("{}{primary}", settings(16)));
            }
        }
    }

    fn run(mut self, mut random: StdRng, quota: usize, sum: &Sum) {
        self.settle("at first");
        // How many effects there are: the most that an undisturbed round has, there and back again.
        let mut effects = 0;
        for _ in 0..2 {
            self.round += 1;
            self.declare();
            let mut apply = self.apply();
            effects = effects.max(follow(&mut apply, |_| {}));
            if !apply.wait().unwrap().success() {
                // A server may be too busy for one look, on a machine that is; a daemon goes on.
                eprintln!("{:?} without anybody killed: {}", self.work, self.pair.site().run(&["plan"]).all());
                self.settle("behind an apply that nobody disturbed");
            }
        }
        let victims = if self.pair.is_behind_ssh() { WITH_AGENTS } else { WITH_SERVERS };
        let mut cases: Vec<Case> = victims
            .iter()
            .flat_map(|victims| (1..=effects).map(|effect| Case { victims, effect, later: Duration::ZERO }))
            .collect();
        cases.shuffle(&mut random);
        for case in &mut cases {
            let later = if random.random_bool(0.5) { 0 } else { random.random_range(0..8_000) };
            case.later = Duration::from_micros(later);
        }
        let asked = std::env::var("VALKEEPER_CASE").ok();
        let (work, place) = (self.work, if self.pair.is_behind_ssh() { " behind ssh" } else { "" });
        let told = cases.into_iter().map(|case| (format!("{work:?}{place} {case:?}"), case));
        let told = told.filter(|(told, _)| asked.as_ref().is_none_or(|asked| told.contains(asked.as_str())));
        for (told, case) in told.take(quota) {
            self.round += 1;
            self.take(&case, &told, sum);
        }
    }

    fn take(&mut self, case: &Case, told: &str, sum: &Sum) {
        let (begun, places) = (Instant::now(), self.pair.places());
        let source = (0..2).find(|place| places.is_open(*place) == Some(true)).unwrap_or_else(|| panic!("{told}: none is open"));
        let writers = Writers::start(&places);
        self.declare();
        let mut apply = self.apply();
        let controller = apply.id();
        let mut killed = false;
        follow(&mut apply, |effect| {
            if effect == case.effect {
                std::thread::sleep(case.later);
                case.victims.iter().for_each(|victim| self.kill(*victim, source, controller));
                killed = true;
            }
        });
        apply.wait().unwrap();
        let ended = begun.elapsed();
        self.settle(told);
        let settled = begun.elapsed();
        // What is acknowledged after all that counts as well.
        std::thread::sleep(Duration::from_millis(50));
        let reached = if killed { "killed" } else { "NOT KILLED" };
        let told_all = format!("{told}: {reached} after {ended:?}, settled after {settled:?}");
        let account = writers.end().whole(&told_all, 50);
        self.check(told);
        sum.cases.fetch_add(usize::from(killed), Ordering::Relaxed);
        sum.writes.fetch_add(account.acknowledged, Ordering::Relaxed);
    }

    fn kill(&self, victim: Victim, source: usize, controller: u32) {
        let nodes = ["n1", "n2"];
        let (source, target) = (nodes[source], nodes[1 - source]);
        match victim {
            Controller => signal(controller, "-9"),
            Source => self.pair.kill(source),
            Target => self.pair.kill(target),
            SourceAgent => self.pair.kill_agent(source),
            TargetAgent => self.pair.kill_agent(target),
        }
    }

    fn apply(&self) -> Child {
        self.pair.command(&["apply", "--yes", "--json"]).stderr(Stdio::null()).spawn().unwrap()
    }

    /// A daemon runs until it says that nothing is left to do, and is killed then.
    fn settle(&mut self, told: &str) {
        self.daemons += 1;
        let site = self.pair.site();
        let (socket, log) = (site.path(&format!("d{}.sock", self.daemons)), site.path(&format!("d{}.log", self.daemons)));
        let listen = format!("127.0.0.1:{}", free_port());
        let root = site.folder.path().to_str().unwrap().to_owned();
        let mut command =
            self.pair.command(&["run", "--path", &root, "--listen", &listen, "--local-root", &root, "--poll", "1s"]);
        command.arg("--socket").arg(&socket).stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        let mut daemon = command.spawn().unwrap();
        let begun = Instant::now();
        loop {
            let status = UnixStream::connect(&socket).map(|stream| daemon::ask(stream, "GET", "/v1/status", "", "").1);
            if status.as_ref().is_ok_and(|status| status.contains("\"result\":\"settled\"")) {
                if begun.elapsed() > SLOW {
                    eprintln!("{told}: slow: {}", std::fs::read_to_string(&log).unwrap());
                }
                break;
            }
            if begun.elapsed() > PATIENCE {
                let _ended = daemon.kill();
                let log = std::fs::read_to_string(&log).unwrap();
                panic!("{told}: not settled: {status:?}\n{log}\n{}", site.run(&["plan"]).all());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// The one who is to be the primary is, and whoever follows it has what it has.
    fn check(&self, told: &str) {
        let places = self.pair.places();
        let odd = self.round % 2 == 1;
        let open: Vec<bool> = (0..2).map(|place| places.is_open(place) == Some(true)).collect();
        match self.work {
            Work::Move | Work::SnapshotMove | Work::SwitchOver => assert_eq!(open, [!odd, odd], "{told}"),
            Work::RollingRestart => assert_ne!(open[0], open[1], "{told}"),
        }
        if matches!(self.work, Work::Move | Work::SnapshotMove) {
            assert!(!self.pair.config(if odd { "n1" } else { "n2" }).exists(), "{told}: it was not left");
            return;
        }
        let begun = Instant::now();
        let offset = |node: &str| {
            let info = self.pair.client(node).ask("INFO replication");
            let up = info.contains("role:master") || info.contains("master_link_status:up");
            let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:").map(str::to_owned));
            offset.filter(|_| up)
        };
        while offset("n1").is_none() || offset("n1") != offset("n2") {
            assert!(begun.elapsed() < PATIENCE, "{told}: the replica does not follow");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(self.pair.client("n1").ask("DBSIZE"), self.pair.client("n2").ask("DBSIZE"), "{told}");
    }
}
