//! Sixty instances on three hosts that reboot, lose their power or their network while something is applied, or run out of disk.
//! After each trouble the daemon alone has to settle it, and everything that was written before is there.

use std::fs::{self, File};
use std::thread;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::base::Suite;
use crate::chance::seed;
use crate::daemon::Daemon;
use crate::host::Host;
use crate::lab::{Wanted, until};
use crate::ran::{finish, follow};
use crate::site::{Site, instance, timed, within};

/// Instances of each host that are there from the beginning.
const EACH: usize = 20;
/// The first ones of each host restart in each round.
const RESTARTED: usize = 2;
/// Disks are small here on purpose.
const FORGIVING: &str = "[guard]\nwithout_room = \"warn\"\n";

/// The sixty, and what comes to them.
struct Sixty {
    site: Site,
    /// What is set for all of them; and for the first ones of each host, which restart for it.
    timeout: usize,
    databases: usize,
    /// Instances that came later: host and name.
    more: Vec<(&'static str, String)>,
    /// The keys that were written to each of the sixty.
    written: usize,
}

impl Sixty {
    fn new() -> Self {
        // It is filled through memory.
        let small = Wanted { suite: Suite::Bookworm, data_bytes: Some(256 << 20) };
        let site = Site::of([Suite::Bookworm.into(), Suite::Bookworm.into(), small]);
        let mut sixty = Self { site, timeout: 100, databases: 16, more: Vec::new(), written: 0 };
        sixty.declare();
        timed("sixty careful instances are made", || sixty.site.applied());
        sixty.write();
        sixty
    }

    /// Instances that lose nothing that they have acknowledged.
    fn declare(&self) {
        let one = |host: &Host, number: usize| {
            let databases = if number <= RESTARTED { self.databases } else { 16 };
            let settings = format!("appendfsync = \"always\", timeout = {}, databases = {databases}", self.timeout);
            instance(&name(host, number), &host.name, &settings)
        };
        let all = self.site.lab.hosts.iter().flat_map(|host| (1..=EACH).map(move |number| one(host, number)));
        let more = self.more.iter().map(|(node, name)| instance(name, node, ""));
        let tables: String = all.chain(more).collect();
        self.site.declare_with(FORGIVING, &tables);
    }

    /// Other settings for all.
    fn change(&mut self) {
        self.timeout += 1;
        self.databases += 1;
        self.declare();
    }

    /// One more instance.
    fn come(&mut self, node: &'static str, name: &str) {
        self.more.push((node, name.to_owned()));
        self.declare();
    }

    /// A key more in each of the sixty.
    fn write(&mut self) {
        self.written += 1;
        let line = format!("SET key:{} kept", self.written);
        self.each(|host, number| assert_eq!(self.site.client(&host.name, &name(host, number)).ask(&line), "+OK"));
    }

    fn each(&self, mut look: impl FnMut(&Host, usize)) {
        self.site.lab.hosts.iter().for_each(|host| (1..=EACH).for_each(|number| look(host, number)));
    }

    fn has_timeout(&self, node: &str, number: usize) {
        let found = self.site.operator(node, &name(self.site.host(node), number)).ask("CONFIG GET timeout");
        assert_eq!(found, format!("timeout {}", self.timeout), "instance {number} of {node}");
    }

    /// Applies what is declared, and does this to the hosts when that effect of it begins. Gives how it ended.
    fn apply_struck_at(&self, effect: usize, strike: impl FnOnce(&Host)) -> Option<i32> {
        let said = self.site.lab.folder().join("apply.err");
        let mut apply = self.site.command(&["apply", "--yes", "--json"]).stderr(File::create(&said).unwrap()).spawn().unwrap();
        let mut strike = Some(strike);
        let effects = follow(&mut apply, |number| {
            if number == effect {
                strike.take().unwrap()(self.site.host("n1"));
            }
        });
        assert!(strike.is_none(), "it had only {effects} effects, and was to be struck at {effect}");
        let said = fs::read_to_string(said).unwrap();
        assert!(!said.contains("panicked"), "{said}");
        apply.wait().unwrap().code()
    }

    /// Nobody but the daemon does anything, and in the end all is as declared, nothing is lost, and nothing else is there.
    fn settles_by_itself(&self, after: &str) {
        timed(&format!("settled after {after}"), || Daemon::start(&self.site, "d").settles());
        self.is_whole();
    }

    fn is_whole(&self) {
        self.site.settled();
        for host in &self.site.lab.hosts {
            let mut expected: Vec<_> = (1..=EACH).map(|number| name(host, number)).collect();
            expected.extend(self.more.iter().filter(|(node, _)| *node == host.name).map(|(_, name)| name.clone()));
            expected.sort();
            let units = host.ssh(&["systemctl", "list-units", "--all", "--plain", "--no-legend", "valkey*@*", "valkeeper*"]);
            let expected_units: Vec<_> =
                expected.iter().map(|name| format!("valkey@{name}.service loaded active running")).collect();
            let words = |line: &str| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
            let mut units: Vec<_> = units.lines().filter(|line| !line.contains(".slice ")).map(words).collect();
            units.sort();
            assert_eq!(units, expected_units, "units of {}", host.name);
            let mut folders: Vec<_> = fs::read_dir(host.file("/var/lib/valkey"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            folders.retain(|name| !name.starts_with('.'));
            folders.sort();
            assert_eq!(folders, expected, "data on {}", host.name);
            let scratch = host.ssh(&["find", "/run", "-path", "/run/valkeeper/*"]);
            assert_eq!(scratch, "", "throwaway servers of {}", host.name);
        }
        self.each(|host, number| {
            let keys: String = (1..=self.written).map(|key| format!(" key:{key}")).collect();
            let found = self.site.client(&host.name, &name(host, number)).ask(&format!("EXISTS{keys}"));
            assert_eq!(found, format!(":{}", self.written), "{}", name(host, number));
        });
    }
}

fn name(host: &Host, number: usize) -> String {
    format!("{}-{number:02}", host.name)
}

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn sixty_instances_outlive_what_happens_to_their_hosts() {
    let sixty = &mut Sixty::new();
    timed("a reboot", || after_a_reboot_instances_are_back_by_themselves(sixty));
    timed("lost power", || power_that_is_lost_in_an_apply_costs_no_key(sixty));
    timed("a network cut before", || a_network_that_is_cut_before_a_step_costs_only_time(sixty));
    timed("a network cut in a step", || a_network_that_is_cut_in_a_step_costs_only_time(sixty));
    timed("an answer that is lost", || a_step_whose_answer_is_lost_is_not_done_again(sixty));
    timed("a full disk", || a_full_disk_stops_what_needs_room_and_nothing_else(sixty));
}

fn after_a_reboot_instances_are_back_by_themselves(sixty: &mut Sixty) {
    sixty.write();
    sixty.site.host("n1").reboot();
    // Servers that came back load their data first.
    until("a plan says that there is nothing to do", || sixty.site.run(&["plan"]).code == Some(0));
    sixty.is_whole();
}

fn power_that_is_lost_in_an_apply_costs_no_key(sixty: &mut Sixty) {
    let mut random = StdRng::seed_from_u64(seed());
    for new in ["new-1", "new-2"] {
        sixty.write();
        sixty.change();
        sixty.come("n1", new);
        // Each of the sixty has one effect at least.
        let effect = random.random_range(1..=3 * EACH);
        let code = sixty.apply_struck_at(effect, |host| {
            host.cut_power();
            host.boot();
        });
        eprintln!("lab: power lost at effect {effect}: apply ended with {code:?}");
        sixty.settles_by_itself("power was lost");
    }
}

fn a_network_that_is_cut_before_a_step_costs_only_time(sixty: &mut Sixty) {
    sixty.write();
    sixty.site.host("n1").cut_network();
    sixty.change();
    // The plan is there in time, without steps for what is not seen, and the others get theirs.
    let plan = within(Duration::from_secs(20), || sixty.site.run(&["plan"]).expect(4));
    assert!(plan.all().contains("node n1") && plan.all().contains("37 to change, 0 to remove, 25 held"), "{}", plan.all());
    within(Duration::from_secs(60), || sixty.site.apply().expect(4));
    (1..=EACH).for_each(|number| sixty.has_timeout("n2", number));
    sixty.site.host("n1").heal_network();
    sixty.settles_by_itself("the network was cut before");
}

fn a_network_that_is_cut_in_a_step_costs_only_time(sixty: &mut Sixty) {
    sixty.write();
    sixty.change();
    sixty.come("n1", "cut");
    let effect = StdRng::seed_from_u64(seed()).random_range(1..=EACH);
    let code = within(Duration::from_secs(110), || sixty.apply_struck_at(effect, Host::cut_network));
    assert!(matches!(code, Some(1 | 4)), "{code:?}");
    sixty.site.host("n1").heal_network();
    // What the agent was asked for it finishes; it gives up after 30 seconds of silence, and then another may act.
    sixty.settles_by_itself(&format!("the network was cut at effect {effect}"));
}

/// The node does all that it was asked for, and nothing of it gets to the controller.
fn a_step_whose_answer_is_lost_is_not_done_again(sixty: &mut Sixty) {
    sixty.write();
    sixty.come("n1", "unheard");
    let (site, host) = (&sixty.site, sixty.site.host("n1"));
    let config = host.file("/etc/valkey/instances/unheard.conf");
    let controller = site.lab.place().address(1);
    let started = || host.ssh(&["systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", "valkey@unheard.service"]);
    let lost = thread::scope(|scope| {
        let apply = scope.spawn(|| site.apply());
        // The agent has begun, and no answer has left yet: that one comes when the server runs.
        until("the step has begun", || config.exists());
        host.rule_packets(&format!(
            "add table ip unheard\nadd chain ip unheard out {{ type filter hook output priority 0; }}\n\
             add rule ip unheard out ip daddr {controller} counter drop\n"
        ));
        // ssh takes a connection for dead after 15 seconds without an answer.
        thread::sleep(Duration::from_secs(17));
        let lost = host.rule_packets("list table ip unheard\n");
        host.rule_packets("delete table ip unheard\n");
        let ran = apply.join().unwrap();
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
        eprintln!("lab: answers were lost: apply ended with {:?}, {}", ran.code, ran.all().lines().last().unwrap_or_default());
        lost
    });
    let packets = lost.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(packets > Some(0), "nothing was lost: {lost}");
    let before = started();
    sixty.settles_by_itself("an answer was lost");
    assert_eq!(started(), before, "what was done is not done again");
}

fn a_full_disk_stops_what_needs_room_and_nothing_else(sixty: &mut Sixty) {
    sixty.write();
    sixty.site.host("n3").fill_disk();
    sixty.site.settled();
    sixty.timeout += 1;
    sixty.come("n3", "no-room");
    let forgiving = fs::read_to_string(sixty.site.path("fleet.toml")).unwrap();
    sixty.site.write("fleet.toml", forgiving.replace(FORGIVING, ""));
    sixty.site.run(&["plan"]).says("instance no-room: create").says("free some").says("0 to add, 60 to change");
    sixty.site.write("fleet.toml", forgiving);
    sixty.site.apply().expect(1).says("no space is left on its disk; free some");
    sixty.each(|host, number| sixty.has_timeout(&host.name, number));
    // A server that cannot save its data does not end, and is told to until it can.
    sixty.databases += 1;
    sixty.declare();
    let apply = sixty.site.command(&["apply", "--yes"]).spawn().unwrap();
    let host = sixty.site.host("n3");
    until("a server refuses to end", || host.ssh(&["systemctl", "list-units", "valkey@*"]).contains("deactivating"));
    host.free_disk();
    let ran = finish(apply);
    assert!(!ran.all().contains("n3-01: change settings, restart (node n3): failed"), "{}", ran.all());
    sixty.settles_by_itself("its disk was full");
    sixty.write();
}
