//! An instance that moves between two hosts while their network fails, or one of them loses its power. Writers follow it all
//! the while; whatever was acknowledged is there in the end, and no two members were open at one moment.
//!
//! `VALKEEPER_SOAK=1` takes ten rounds.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rand::RngExt as _;

use crate::base::Suite;
use crate::host::Host;
use crate::lab::until;
use crate::site::{PASSWORD, Site, instance};
use crate::writers::{Places, Writers};

/// Long enough for TCP to notice, and too short for ssh to give up.
const CUT: Duration = Duration::from_secs(3);

/// An instance that is moved to and fro.
struct Traveller {
    site: Site,
    on: &'static str,
    effects: usize,
}

impl Traveller {
    fn new() -> Self {
        let site = Site::of([Suite::Bookworm; 2]);
        let mut traveller = Self { site, on: "n1", effects: 0 };
        traveller.declare();
        traveller.site.applied();
        for _ in 0..2 {
            let mut apply = traveller.set_out();
            traveller.effects = traveller.effects.max(follow(&mut apply, |_| {}));
            assert!(apply.wait().unwrap().success(), "a move that nothing disturbs");
        }
        traveller
    }

    fn declare(&self) {
        // What is confirmed has to outlive its host.
        let cache = instance("cache", self.on, "appendfsync = \"always\"").replace(", \"-@admin\"", "");
        self.site.declare_with("[guard]\nhandover_grace = \"0s\"\n", &cache);
    }

    /// Begins to move it to the other host.
    fn set_out(&mut self) -> Child {
        self.on = if self.on == "n1" { "n2" } else { "n1" };
        self.declare();
        self.site.command(&["apply", "--yes", "--json"]).stderr(Stdio::null()).spawn().unwrap()
    }

    fn source(&self) -> &Host {
        self.site.host(if self.on == "n1" { "n2" } else { "n1" })
    }

    fn target(&self) -> &Host {
        self.site.host(self.on)
    }

    fn writers(&self) -> Writers {
        let config = |host: &Host| (host.file("/etc/valkey/instances/cache.conf"), host.address.parse().unwrap());
        let configs = self.site.lab.hosts.iter().map(config).collect();
        Writers::start(&Places { configs, user: "app", password: PASSWORD, patience: Duration::from_secs(2) })
    }

    /// One move, in which something happens when some effect begins, and ends later.
    fn travel(&mut self, what: &str, happens: impl Fn(&Self), ends: impl FnOnce(&Self)) {
        let writers = self.writers();
        let effect = rand::rng().random_range(1..=self.effects);
        let mut apply = self.set_out();
        let begun = Instant::now();
        thread::scope(|scope| {
            let this = &*self;
            let (told, hear) = std::sync::mpsc::channel();
            let listener = scope.spawn(move || {
                follow(&mut apply, |number| {
                    if number == effect {
                        let _nobody_listens = told.send(());
                    }
                });
                drop(told);
                apply.wait().unwrap()
            });
            // An apply that has less to do than the ones before ends without it.
            if hear.recv().is_ok() {
                happens(this);
                ends(this);
            }
            let status = listener.join().unwrap();
            eprintln!(
                "lab: {what} at effect {effect} of {}: apply ended with {:?} after {:?}",
                this.effects,
                status.code(),
                begun.elapsed()
            );
        });
        until("apply settles it", || self.site.apply().code == Some(0));
        self.site.settled();
        let settled = begun.elapsed();
        let account = writers.end();
        eprintln!("lab: {what} at effect {effect}: settled after {settled:?}, {account:?}");
        assert_eq!((account.lost, account.both_open), (0, 0), "{what} at effect {effect}: {account:?}");
        assert!(!self.source().file("/etc/valkey/instances/cache.conf").exists(), "{what}: it was not left");
    }
}

fn rounds() -> usize {
    if std::env::var_os("VALKEEPER_SOAK").is_some() { 10 } else { 1 }
}

/// Reads what an apply says until it ends, and tells each effect by its number. Gives how many there were.
fn follow(apply: &mut Child, mut on: impl FnMut(usize)) -> usize {
    let mut effects = 0;
    for line in BufReader::new(apply.stdout.take().unwrap()).lines() {
        if line.unwrap().contains("\"event\":\"progress\"") {
            effects += 1;
            on(effects);
        }
    }
    effects
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn a_move_over_a_network_that_fails_is_finished_and_loses_nothing() {
    let traveller = &mut Traveller::new();
    let wait = || thread::sleep(CUT);
    for _ in 0..rounds() {
        traveller.travel("source cut off", |on| on.source().cut_network(), |on| (wait(), on.source().heal_network()).1);
        traveller.travel("target cut off", |on| on.target().cut_network(), |on| (wait(), on.target().heal_network()).1);
        traveller.travel(
            "target not heard by the source",
            |on| on.target().loses_what_it_sends_to(on.source()),
            |on| (wait(), on.target().sends_again_to(on.source())).1,
        );
        // As a proxy that swallows replies, and the data.
        traveller.travel(
            "source not heard by the target",
            |on| on.source().loses_what_it_sends_to(on.target()),
            |on| (wait(), on.source().sends_again_to(on.target())).1,
        );
    }
    // 20 MB that cannot be compressed take eight seconds at 20 Mbit/s, in which writers go on.
    let mut client = traveller.site.client(traveller.on, "cache");
    let value = || (0..63).map(|_| format!("{:016x}", rand::random::<u64>())).collect::<String>();
    for batch in 0..20 {
        let lines: String = (0..1000).map(|key| format!("SET key:{batch}:{key} {}\r\n", value())).collect();
        client.ask_many(&lines, 1000);
    }
    traveller.target().slow_network(Some("20mbit"));
    traveller.source().slow_network(Some("20mbit"));
    traveller.travel("a slow link", |_| {}, |_| {});
    assert_eq!(traveller.site.client(traveller.on, "cache").ask("EXISTS key:0:0 key:19:999"), ":2");
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn power_that_is_lost_in_a_move_costs_no_write() {
    let traveller = &mut Traveller::new();
    let lose = |host: &Host| {
        host.cut_power();
        host.boot();
    };
    for _ in 0..rounds() {
        traveller.travel("source without power", |on| lose(on.source()), |_| {});
        traveller.travel("target without power", |on| lose(on.target()), |_| {});
    }
    traveller.travel(
        "both without power",
        |on| [on.source(), on.target()].iter().for_each(|host| host.cut_power()),
        |on| {
            [on.source(), on.target()].iter().for_each(|host| host.boot());
        },
    );
}
