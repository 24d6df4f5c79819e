//! An instance that moves between two hosts, or whose two members are restarted one by one, while their network fails or they
//! lose their power, when an effect of it begins. Then the daemon runs, and has to settle by itself. Writers follow the instance
//! all the while; whatever was acknowledged is there in the end, and no two members were open at one moment.
//!
//! A few cases are taken, and with `VALKEEPER_SOAK=1` each trouble at each effect; `VALKEEPER_SEED` chooses which, and in what order.

use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::base::Suite;
use crate::chance::{seed, soak};
use crate::daemon::Daemon;
use crate::host::Host;
use crate::proxy::Proxy;
use crate::ran::follow;
use crate::site::{PASSWORD, Site, hash};
use crate::writers::Writers;

/// Long enough for TCP to notice, and too short for ssh to give up.
const CUT: Duration = Duration::from_secs(3);

/// What is done while something fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Move,
    RollingRestart,
}

/// What fails. Source: who takes writes when the work begins; target: the other host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Nothing,
    SourceCutOff,
    TargetCutOff,
    /// What the target sends to the source gets nowhere, and the other way there is nothing wrong.
    TargetUnheard,
    SourceUnheard,
    /// All answers, and the data, by a proxy that keeps the connections.
    RepliesSwallowed,
    SourceWithoutPower,
    TargetWithoutPower,
    BothWithoutPower,
}

use Trouble::{
    BothWithoutPower, Nothing, RepliesSwallowed, SourceCutOff, SourceUnheard, SourceWithoutPower, TargetCutOff, TargetUnheard,
    TargetWithoutPower,
};

impl Trouble {
    fn strike(self, source: &Host, target: &Host, proxies: &[Proxy]) {
        match self {
            Nothing => {}
            RepliesSwallowed => proxies.iter().for_each(Proxy::swallow_replies),
            SourceCutOff => source.cut_network(),
            TargetCutOff => target.cut_network(),
            TargetUnheard => target.loses_what_it_sends_to(source),
            SourceUnheard => source.loses_what_it_sends_to(target),
            SourceWithoutPower => source.cut_power(),
            TargetWithoutPower => target.cut_power(),
            BothWithoutPower => [source, target].iter().for_each(|host| host.cut_power()),
        }
    }

    fn pass(self, source: &Host, target: &Host, proxies: &[Proxy]) {
        if matches!(self, SourceCutOff | TargetCutOff | TargetUnheard | SourceUnheard | RepliesSwallowed) {
            thread::sleep(CUT);
        }
        match self {
            Nothing => {}
            RepliesSwallowed => {
                let bytes: u64 = proxies.iter().map(Proxy::let_through).sum();
                eprintln!("lab: {bytes} bytes were swallowed");
            }
            SourceCutOff => source.heal_network(),
            TargetCutOff => target.heal_network(),
            TargetUnheard => target.sends_again_to(source),
            SourceUnheard => source.sends_again_to(target),
            SourceWithoutPower => source.boot(),
            TargetWithoutPower => target.boot(),
            BothWithoutPower => [source, target].iter().for_each(|host| host.boot()),
        }
    }
}

/// An instance with which the same is done again and again.
struct Traveller {
    site: Site,
    work: Work,
    /// In the ways between the hosts, where some are.
    proxies: Vec<Proxy>,
    round: usize,
    /// How many effects an undisturbed round has, at most.
    effects: usize,
}

impl Traveller {
    fn new(work: Work) -> Self {
        let site = Site::of([Suite::Bookworm; 2]);
        let mut traveller = Self { site, work, proxies: Vec::new(), round: 0, effects: 0 };
        traveller.declare();
        traveller.settle();
        for _ in 0..2 {
            let mut apply = traveller.set_out();
            traveller.effects = traveller.effects.max(follow(&mut apply, |_| {}));
            assert!(apply.wait().unwrap().success(), "{work:?} that nothing disturbs");
            traveller.settle();
        }
        traveller
    }

    fn declare(&self) {
        let odd = self.round % 2 == 1;
        let (shard, databases) = match self.work {
            Work::Move => (if odd { "on-n2" } else { "on-n1" }, 16),
            Work::RollingRestart => ("both", if odd { 32 } else { 16 }),
        };
        // What is confirmed has to outlive its host.
        let cache = format!(
            "[shards.both]\nnodes = [\"n1\", \"n2\"]\nports = \"6400-6499\"\n\
             [instances.cache]\nshard = \"{shard}\"\nconfig = {{ appendfsync = \"always\", databases = {databases} }}\n\
             [instances.cache.users.app]\npassword_sha256 = \"{}\"\nprivileges = [\"+@all\"]\n",
            hash(PASSWORD)
        );
        self.site.declare_with("[guard]\nhandover_grace = \"0s\"\n", &cache);
    }

    /// Begins the next round.
    fn set_out(&mut self) -> Child {
        self.round += 1;
        self.declare();
        self.site.command(&["apply", "--yes", "--json"]).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The daemon runs until nothing is left to do.
    fn settle(&self) {
        Daemon::start(&self.site, "d").settles();
        self.site.settled();
    }

    /// One round, with this trouble from the moment when this effect begins.
    fn travel(&mut self, trouble: Trouble, effect: usize) {
        let places = self.site.places("cache");
        let open = (0..2).find(|place| places.is_open(*place) == Some(true)).expect("one takes writes");
        let writers = Writers::start(&places);
        let mut apply = self.set_out();
        let told = format!("{:?}, {trouble:?} at effect {effect} of {}", self.work, self.effects);
        let (source, target) = (&self.site.lab.hosts[open], &self.site.lab.hosts[1 - open]);
        let begun = Instant::now();
        let (mut struck, mut ended) = (false, None);
        thread::scope(|scope| {
            let (tell, hear) = std::sync::mpsc::channel();
            let listener = scope.spawn(move || {
                follow(&mut apply, |number| {
                    if number == effect {
                        let _nobody_listens = tell.send(());
                    }
                });
                drop(tell);
                apply.wait().unwrap()
            });
            // An apply that has less to do than the ones before ends without it.
            if hear.recv().is_ok() {
                trouble.strike(source, target, &self.proxies);
                struck = true;
                trouble.pass(source, target, &self.proxies);
            }
            ended = listener.join().unwrap().code();
        });
        let applied = begun.elapsed();
        self.settle();
        let settled = begun.elapsed();
        let reached = if struck { "struck" } else { "NOT STRUCK" };
        let all = format!("lab: {told}: {reached}, apply ended with {ended:?} after {applied:.1?}, settled after {settled:.1?}");
        writers.end().whole(&all, 50);
        if self.work == Work::Move {
            assert!(!source.file("/etc/valkey/instances/cache.conf").exists(), "{told}: it was not left");
        }
    }

    /// Each trouble at one effect or, in a soak, at all of them.
    fn through(&mut self, troubles: &[Trouble]) {
        let mut random = StdRng::seed_from_u64(seed());
        let mut cases: Vec<(Trouble, usize)> = Vec::new();
        for trouble in troubles {
            if soak() {
                cases.extend((1..=self.effects).map(|effect| (*trouble, effect)));
            } else {
                cases.push((*trouble, random.random_range(1..=self.effects)));
            }
        }
        cases.shuffle(&mut random);
        let count = cases.len();
        cases.into_iter().for_each(|(trouble, effect)| self.travel(trouble, effect));
        eprintln!("lab: {count} cases of {:?} went by and nothing was lost", self.work);
    }
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn a_move_over_a_network_that_fails_is_finished_and_loses_nothing() {
    let traveller = &mut Traveller::new(Work::Move);
    traveller.through(&[SourceCutOff, TargetCutOff, TargetUnheard, SourceUnheard]);
    // 20 MB that cannot be compressed take eight seconds at 20 Mbit/s, in which writers go on.
    let source = if traveller.round % 2 == 1 { "n2" } else { "n1" };
    let mut client = traveller.site.client(source, "cache");
    let value = || (0..63).map(|_| format!("{:016x}", rand::random::<u64>())).collect::<String>();
    for batch in 0..20 {
        let lines: String = (0..1000).map(|key| format!("SET key:{batch}:{key} {}\r\n", value())).collect();
        client.ask_many(&lines, 1000);
    }
    traveller.site.lab.hosts.iter().for_each(|host| host.slow_network(Some("20mbit")));
    traveller.travel(Nothing, 1);
    let target = if source == "n1" { "n2" } else { "n1" };
    assert_eq!(traveller.site.client(target, "cache").ask("EXISTS key:0:0 key:19:999"), ":2");
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn replies_that_are_swallowed_in_a_move_cost_no_write() {
    let traveller = &mut Traveller::new(Work::Move);
    let (gateway, hosts) = (traveller.site.lab.place().address(1), &traveller.site.lab.hosts);
    let proxy = |from: usize, to: usize| Proxy::between(&hosts[from], &hosts[to], "cache", &gateway);
    traveller.proxies = vec![proxy(0, 1), proxy(1, 0)];
    traveller.through(&[RepliesSwallowed, RepliesSwallowed]);
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn power_that_is_lost_in_a_move_costs_no_write() {
    Traveller::new(Work::Move).through(&[SourceWithoutPower, TargetWithoutPower, BothWithoutPower]);
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn a_rolling_restart_of_hosts_that_fail_costs_no_write() {
    Traveller::new(Work::RollingRestart).through(&[SourceWithoutPower, TargetWithoutPower, BothWithoutPower, SourceCutOff]);
}
