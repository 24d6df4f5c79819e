//! A control group for each host, below the one that this run is in: two hosts that shared one would meet in units of the
//! same name, and what limits this run limits its hosts. Never removes any: `tests/fleet/guard` does.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The hierarchies of the first version in which systemd makes groups for its units.
const OF_SYSTEMD: &[&str] = &["name=systemd", "cpu", "cpuacct", "blkio", "memory", "devices", "pids"];

/// The group of that name in each hierarchy; made if it is not there.
pub fn made(name: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = fs::read_to_string("/proc/self/cgroup").unwrap();
    let groups = parents(&mounts, &ours).into_iter().map(|parent| parent.join(name)).collect::<Vec<_>>();
    for group in &groups {
        fs::create_dir_all(group).unwrap_or_else(|error| panic!("{}: {error}", group.display()));
    }
    groups
}

/// A program that begins in these groups, and so ends with their lab at the latest.
pub fn inside(groups: &[PathBuf], program: &str) -> Command {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/enter"));
    command.args(groups).args(["--", program]).stdin(Stdio::null());
    command
}

/// Where this run is in each hierarchy that counts.
fn parents(mounts: &str, ours: &str) -> Vec<PathBuf> {
    let at = |is: &dyn Fn(&str, &str) -> bool, path: &str| {
        let line = mounts.lines().find(|line| line.split_once(" - ").is_some_and(|(_, tail)| is_mount(tail, is)))?;
        Some(PathBuf::from(line.split(' ').nth(4)?).join(path.trim_start_matches('/')))
    };
    let group_of = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        if controllers.is_empty() {
            return at(&|kind, _| kind == "cgroup2", path);
        }
        let first = controllers.split(',').find(|one| OF_SYSTEMD.contains(one))?;
        at(&|kind, options| kind == "cgroup" && options.split(',').any(|option| option == first), path)
    };
    let mut found: Vec<_> = ours.lines().filter_map(group_of).collect();
    found.sort();
    found.dedup();
    found
}

fn is_mount(tail: &str, is: &dyn Fn(&str, &str) -> bool) -> bool {
    let mut fields = tail.split(' ');
    let kind = fields.next().unwrap_or_default();
    is(kind, fields.nth(1).unwrap_or_default())
}

#[test]
fn each_hierarchy_of_a_mixed_machine_has_its_place() {
    let mounts = "30 20 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                  31 20 0:26 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory\n\
                  32 20 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  33 20 0:28 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
                  34 20 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n";
    let ours = "5:name=systemd:/\n4:freezer:/\n3:memory:/job/7\n2:cpu,cpuacct:/\n0::/user.slice\n";
    let found = parents(mounts, ours);
    let expected = ["cpu,cpuacct", "memory/job/7", "systemd", "unified/user.slice"];
    assert_eq!(found, expected.map(|below| PathBuf::from("/sys/fs/cgroup").join(below)));
}

#[test]
fn a_machine_with_the_second_version_alone_has_one() {
    let mounts = "30 20 0:25 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    assert_eq!(parents(mounts, "0::/user.slice/a.scope\n"), [PathBuf::from("/sys/fs/cgroup/user.slice/a.scope")]);
}
