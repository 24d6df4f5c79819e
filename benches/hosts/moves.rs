//! Moves between two of the hosts, over ssh: ten at once against one by one, and the memory of all who take part in one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use super::{APP_HASH, Hosts};
use crate::client::Client;
use crate::support::{compare, timed};

const ROUNDS: usize = 3;
/// So many instances move at once, with so much data each.
const AT_ONCE: usize = 10;
const MEGABYTES_EACH: usize = 20;
/// Of the one instance whose snapshot is carried.
const MEGABYTES: [usize; 3] = [20, 200, 500];
/// Peaks stay with their process until its end, which is not missed by much.
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// After so long a server has forgotten how fast it was filled. Who is written to that fast is not joined (`buffer-too-small`).
const CALM: Duration = Duration::from_secs(4);

pub fn measure(hosts: &Hosts) {
    ten(hosts);
    memory(hosts);
}

/// Ten moves in one apply, against ten applies of one move.
fn ten(hosts: &Hosts) {
    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("ten-{number}")).collect();
    let go_to = |nodes: &[&str]| {
        let of = |(name, node): (&String, &&str)| instance(name, node, "max_memory_mb = 100");
        hosts.write(GUARD, &names.iter().zip(nodes).map(of).collect::<String>());
        hosts.valkeeper(&["apply", "--yes"]);
    };
    go_to(&["n1"; AT_ONCE]);
    names.iter().for_each(|name| fill(hosts, "n1", name, 0..MEGABYTES_EACH));
    let (mut together, mut apart) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        together.push(timed(|| go_to(&["n2"; AT_ONCE])).1);
        let mut nodes = ["n2"; AT_ONCE];
        let one_by_one = || {
            for number in 0..AT_ONCE {
                nodes[number] = "n1";
                go_to(&nodes);
            }
        };
        apart.push(timed(one_by_one).1);
    }
    let what = format!("{AT_ONCE} moves of {MEGABYTES_EACH} MB at once between two hosts");
    compare(&what, &together, "one by one", &apart, "less than 1");
    remove(hosts, &names);
}

/// The most memory that each program has in a move, by replication and by snapshot, by the size of what is moved.
fn memory(hosts: &Hosts) {
    for way in ["replication", "snapshot"] {
        let name = format!("by-{way}");
        // As large on its way as it is in memory.
        let keys = format!("max_memory_mb = 1000\nmove = \"{way}\"");
        let go_to = |node: &str| hosts.write(GUARD, &instance(&name, node, &keys));
        go_to("n1");
        hosts.valkeeper(&["apply", "--yes"]);
        let mut there = 0;
        for (megabytes, [source, target]) in MEGABYTES.into_iter().zip([["n1", "n2"], ["n2", "n1"]].into_iter().cycle()) {
            fill(hosts, source, &name, there..megabytes);
            there = megabytes;
            thread::sleep(CALM);
            go_to(target);
            let (most, took) = timed(|| peaks(hosts));
            let most: Vec<String> = most.into_iter().map(|(program, kib)| format!("{program} {kib}")).collect();
            println!("a move by {way} of {megabytes} MB: {:.1} s; KiB at most: {}", took.as_secs_f64(), most.join(", "));
        }
        remove(hosts, &[name]);
    }
}

const GUARD: &str = "handover_grace = \"0s\"\nretain_deleted = \"1s\"\n";

fn instance(name: &str, node: &str, keys: &str) -> String {
    format!(
        "[instances.{name}]\nshard = \"{node}\"\n{keys}\nconfig = {{ save = \"\", rdbcompression = \"no\" }}\n\
         [instances.{name}.users.app]\npassword_sha256 = \"{APP_HASH}\"\nprivileges = [\"+@all\"]\n"
    )
}

fn remove(hosts: &Hosts, names: &[String]) {
    let mut text = String::new();
    for name in names {
        let _infallible = write!(text, "[instances.{name}]\nshard = \"n1\"\nensure = \"absent\"\n");
    }
    hosts.write(GUARD, &text);
    hosts.valkeeper(&["apply", "--yes"]);
}

/// A thousand values of 1,000 bytes for each megabyte.
fn fill(hosts: &Hosts, node: &str, instance: &str, megabytes: std::ops::Range<usize>) {
    let host = hosts.lab.hosts.iter().find(|host| host.name == node).expect("a host");
    let config = fs::read_to_string(host.file(&format!("/etc/valkey/instances/{instance}.conf"))).expect("its config");
    let port = config.lines().find_map(|line| line.strip_prefix("port ")).expect("a port").parse().expect("a number");
    let address: IpAddr = host.address.parse().expect("an address");
    let mut client = Client::at(SocketAddr::new(address, port)).expect("a server");
    assert_eq!(client.ask("AUTH app test"), "+OK");
    let value = "x".repeat(1000);
    for batch in megabytes {
        let lines: String = (0..1000).map(|key| format!("SET key:{batch}:{key} {value}\r\n")).collect();
        client.ask_many(&lines, 1000);
    }
}

/// Applies, and gives the most that each program of the lab took meanwhile. KiB, by program and host.
fn peaks(hosts: &Hosts) -> BTreeMap<String, u64> {
    let said = hosts.lab.folder().join("apply.log");
    let log = File::create(&said).expect("a log");
    let mut apply = hosts.command(&["apply", "--yes"]);
    let mut apply = apply.stdout(log.try_clone().expect("a log")).stderr(log).spawn().expect("valkeeper");
    let ours = format!("/valkeeper-lab.{}/", hosts.lab.place().number());
    let mut most = BTreeMap::new();
    loop {
        for entry in fs::read_dir("/proc").expect("processes").flatten() {
            let Some((program, kib)) = peak(&entry.path(), &ours) else { continue };
            let known: &mut u64 = most.entry(program).or_default();
            *known = kib.max(*known);
        }
        if let Some(status) = apply.try_wait().expect("an end") {
            assert!(status.success(), "a move ended with {status}: {}", fs::read_to_string(said).unwrap_or_default());
            return most;
        }
        thread::sleep(BETWEEN_LOOKS);
    }
}

/// Of a process of ours in the lab: its name and where it runs, and `VmHWM` of proc_pid_status(5).
fn peak(process: &std::path::Path, ours: &str) -> Option<(String, u64)> {
    let groups = fs::read_to_string(process.join("cgroup")).ok()?;
    let (_, below) = groups.split_once(ours)?;
    let place = below.split(['/', '\n']).next()?;
    let status = fs::read_to_string(process.join("status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let kib = field("VmHWM:")?.strip_suffix(" kB")?.parse().ok()?;
    let program = match (field("Name:")?, place) {
        ("valkeeper", "run") => "the controller".to_owned(),
        ("valkeeper", host) => format!("agent of {host}"),
        ("ssh", "run") => "ssh".to_owned(),
        ("sshd", host) => format!("sshd of {host}"),
        (_, _) => return None,
    };
    Some((program, kib))
}
