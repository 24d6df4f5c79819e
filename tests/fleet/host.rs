//! One host: a Debian with its own systemd, disk, address and keys, in a container of systemd-nspawn. What happens to hosts
//! happens here: they reboot, lose power, are cut off, run out of disk.
//!
//! One thing cannot be had without a virtual machine: what the kernel had not written when the power went is not lost.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Output};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Pid;

use crate::base::Base;
use crate::lab::{Place, Wanted, until};
use crate::{cgroup, run};

/// What nspawn ends with when its host wants to boot again (systemd-nspawn's unit has it as its restart status).
const WANTS_REBOOT: i32 = 133;

pub struct Host {
    pub name: String,
    pub address: String,
    /// Its files, seen from this machine. Memory file systems such as `/run` are not in it.
    pub root: PathBuf,
    machine: String,
    ssh: PathBuf,
    /// Its control groups, and those of what this machine does for the lab.
    groups: Vec<PathBuf>,
    ours: Vec<PathBuf>,
    bridge: String,
    process: Mutex<Option<Child>>,
    _base: Base,
}

impl Host {
    /// Its files are there, and it has no power yet.
    pub fn made(place: &Place, number: u8, wanted: Wanted) -> Self {
        let name = format!("n{number}");
        let base = Base::of(wanted.suite);
        let folder = place.folder().join(&name);
        let host = Self {
            address: place.address(10 + number),
            root: folder.join("root"),
            machine: place.machine(number),
            ssh: place.folder().join("ssh"),
            groups: place.groups(&name),
            ours: place.groups("run"),
            bridge: place.bridge(),
            process: Mutex::new(None),
            name,
            _base: base,
        };
        host.mount(&folder, wanted);
        host.write_identity(&place.folder(), number);
        host
    }

    fn mount(&self, folder: &Path, wanted: Wanted) {
        let [upper, work] = ["upper", "work"].map(|name| folder.join(name));
        for made in [&upper, &work, &self.root] {
            fs::create_dir_all(made).unwrap();
        }
        let (lower, upper, work) = (self._base.root.display(), upper.display(), work.display());
        let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        run::must(run::program("mount").args(["-t", "overlay", "-o", &layers, "valkeeper-lab"]).arg(&self.root));
        let Some(bytes) = wanted.data_bytes else { return };
        let data = self.root.join("var/lib/valkey");
        fs::create_dir_all(&data).unwrap();
        run::must(
            run::program("mount").args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=755"), "valkeeper-lab"]).arg(&data),
        );
    }

    fn write_identity(&self, keys: &Path, number: u8) {
        let write = |path: &str, text: &str| {
            let path = self.root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        };
        write("etc/hostname", &format!("{}\n", self.name));
        write("etc/hosts", &format!("127.0.0.1 localhost\n{} {}\n", self.address, self.name));
        write("etc/machine-id", &format!("{:032x}\n", rand::random::<u128>()));
        // A cable that is pulled out here is a network that is silent, not a host that changes its configuration.
        let link = "[Match]\nName=host0\n[Link]\nRequiredForOnline=no\n";
        let network = format!(
            "[Network]\nAddress={}/24\nIPv6AcceptRA=no\nIgnoreCarrierLoss=yes\nConfigureWithoutCarrier=yes\n",
            self.address
        );
        write("etc/systemd/network/10-lab.network", &format!("{link}{network}"));
        fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/init"), self.file("/sbin/lab-init")).unwrap();
        write("root/.ssh/authorized_keys", &fs::read_to_string(keys.join("key.pub")).unwrap());
        let key = self.root.join("etc/ssh/ssh_host_ed25519_key");
        run::must(run::program("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", &number.to_string(), "-f"]).arg(key));
    }

    pub fn public_key(&self) -> String {
        fs::read_to_string(self.root.join("etc/ssh/ssh_host_ed25519_key.pub")).unwrap()
    }

    /// A file of it, by the path that it has there.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    // --- power ---

    /// Returns when it answers by ssh: about two seconds.
    pub fn boot(&self) {
        let console = File::options().create(true).append(true).open(self.console()).unwrap();
        let mut process = self.process.lock().unwrap();
        assert!(process.is_none(), "{} runs already", self.name);
        // The kernel takes the link of a host that lost its power away in its own time.
        let _mostly_gone = run::program("ip").args(["link", "delete", &format!("vb-{}", self.machine)]).output();
        let mut nspawn = cgroup::inside(&self.groups, "systemd-nspawn");
        nspawn.args(["--quiet", "--register=no", "--keep-unit"]);
        nspawn.args(["--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe"]);
        nspawn.arg(format!("--network-bridge={}", self.bridge)).args(["-M", &self.machine, "--hostname", &self.name, "-D"]);
        // Since 256, systemd wants to be told that it may run where control groups are of the first version.
        nspawn.arg(&self.root).args(["/sbin/lab-init", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]);
        nspawn.env("SYSTEMD_NSPAWN_LOCK", "0").process_group(0);
        nspawn.stdout(console.try_clone().unwrap()).stderr(console);
        *process = Some(nspawn.spawn().unwrap());
        drop(process);
        self.wait_until_up();
    }

    pub fn wait_until_up(&self) {
        until(&format!("{} boots (see {})", self.name, self.console().display()), || {
            self.assert_running();
            self.listens()
        });
        // sshd listens before systemd lets people in.
        until(&format!("{} answers by ssh", self.name), || self.try_ssh(&["true"]).status.success());
    }

    /// That somebody takes connections for ssh there; a host that is down or cut off does not.
    pub fn listens(&self) -> bool {
        let sshd = SocketAddr::new(self.address.parse().unwrap(), 22);
        TcpStream::connect_timeout(&sshd, Duration::from_millis(500)).is_ok()
    }

    fn assert_running(&self) {
        let mut process = self.process.lock().unwrap();
        let ended = process.as_mut().and_then(|child| child.try_wait().unwrap());
        drop(process);
        let said = || fs::read_to_string(self.console()).unwrap_or_default();
        assert!(ended.is_none(), "{} does not boot: {}\n{}", self.name, ended.unwrap(), said());
    }

    fn console(&self) -> PathBuf {
        self.root.with_file_name("console")
    }

    /// Its power is gone from one moment to the next, and stays away until it is booted.
    pub fn cut_power(&self) {
        let mut child = self.process.lock().unwrap().take().expect("it has power");
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "{} ended by itself: {status}", self.name);
        // Its first process outlives nspawn, and the kernel ends all others with it.
        for process in self.groups.iter().flat_map(|group| processes(group)).filter(|process| is_first(*process)) {
            let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        }
        self.wait_until_gone();
    }

    /// `systemctl reboot`, until it answers again.
    pub fn reboot(&self) {
        let asked = self.try_ssh(&["systemctl", "reboot"]);
        let mut child = self.process.lock().unwrap().take().expect("it has power");
        let mut status = None;
        let said = String::from_utf8_lossy(&asked.stderr);
        until(&format!("{} goes down, after `systemctl reboot` ended with {}: {said}", self.name, asked.status), || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(WANTS_REBOOT), "{} went down: {status:?}", self.name);
        self.wait_until_gone();
        self.boot();
    }

    fn wait_until_gone(&self) {
        for group in &self.groups {
            until(&format!("no process of {} is left in {}", self.name, group.display()), || processes(group).is_empty());
        }
    }

    // --- network ---

    /// From now on nothing gets to it or from it. Nobody is told: packets are lost.
    pub fn cut_network(&self) {
        self.set_port("disabled", "0");
    }

    pub fn heal_network(&self) {
        self.set_port("forwarding", "3");
    }

    /// What is sent to it gets there at this rate, such as `20mbit`. Nothing: as fast as it can.
    pub fn slow_network(&self, rate: Option<&str>) {
        let link = format!("vb-{}", self.machine);
        let mut tc = run::program("tc");
        match rate {
            Some(rate) => {
                tc.args(["qdisc", "replace", "dev", &link, "root", "tbf", "rate", rate, "burst", "32k", "latency", "100ms"])
            }
            None => tc.args(["qdisc", "del", "dev", &link, "root"]),
        };
        run::must(&mut tc);
    }

    /// From now on nothing gets from it to the other one; what that one sends gets here.
    pub fn loses_what_it_sends_to(&self, other: &Self) {
        self.ssh(&["ip", "route", "replace", "blackhole", &other.address]);
    }

    pub fn sends_again_to(&self, other: &Self) {
        self.ssh(&["ip", "route", "del", "blackhole", &other.address]);
    }

    /// Has its kernel handle packets by these rules, until it loses its power. Gives what of them is to be listed.
    pub fn rule_packets(&self, rules: &str) -> String {
        let first = self.groups.iter().flat_map(|group| processes(group)).find(|process| is_first(*process));
        let first = first.expect("it has power").as_raw_nonzero().to_string();
        let file = self.root.with_file_name("rules");
        fs::write(&file, rules).unwrap();
        run::must(run::program("nsenter").args(["--net", "--target", &first, "nft", "--file"]).arg(file))
    }

    fn set_port(&self, name: &str, state: &str) {
        let link = format!("vb-{}", self.machine);
        let mut bridge = run::program("bridge");
        run::must(bridge.args(["link", "set", "dev", &link, "state", state]));
        let shown = run::must(run::program("bridge").args(["link", "show", "dev", &link]));
        assert!(shown.contains(&format!("state {name}")), "{shown}");
    }

    // --- disk ---

    /// Not a byte is left on its data disk (it needs to have one of its own: `Wanted::data_bytes`).
    pub fn fill_disk(&self) {
        let data = self.file("/var/lib/valkey");
        let mount = run::must(run::program("findmnt").args(["--noheadings", "--output", "FSTYPE", "--mountpoint"]).arg(&data));
        assert_eq!(mount.trim(), "tmpfs", "{} has no data disk of its own to fill", self.name);
        let mut zeros = File::open("/dev/zero").unwrap();
        let full = std::io::copy(&mut zeros, &mut File::create(data.join("filler")).unwrap()).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
    }

    pub fn free_disk(&self) {
        fs::remove_file(self.file("/var/lib/valkey/filler")).unwrap();
    }

    // --- commands ---

    /// What a command on it says. It must succeed.
    pub fn ssh(&self, arguments: &[&str]) -> String {
        let output = self.try_ssh(arguments);
        let said = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}: {arguments:?}: {}\n{}", self.name, output.status, said());
        String::from_utf8(output.stdout).unwrap()
    }

    /// 255 is ssh's own failure.
    pub fn try_ssh(&self, arguments: &[&str]) -> Output {
        let mut command = cgroup::inside(&self.ours, "timeout");
        command
            .args(["--foreground", "60"])
            .arg(&self.ssh)
            .args(["-T", "--", &self.name])
            .args(arguments.iter().map(|argument| quoted(argument)));
        run::output(&mut command)
    }

    /// All that its journal has, over all of its boots.
    pub fn journal(&self) -> String {
        self.ssh(&["journalctl", "--no-pager", "--quiet", "--merge", "-o", "short-precise"])
    }
}

impl Drop for Host {
    /// The guard ends its processes; this only reaps.
    fn drop(&mut self) {
        if let Some(mut child) = self.process.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// ssh hands a line to the login shell over there: each argument has to come out of it as it went in.
fn quoted(argument: &str) -> String {
    format!("'{}'", argument.replace('\'', r"'\''"))
}

fn processes(group: &Path) -> Vec<Pid> {
    let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<_> = procs.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect();
    let below = fs::read_dir(group).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    found.extend(below.filter(|path| path.is_dir()).flat_map(|path| processes(&path)));
    found
}

/// In the process namespace of a host it is number one.
fn is_first(process: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).unwrap_or_default();
    status.lines().any(|line| line.starts_with("NSpid:") && line.split_whitespace().count() == 3 && line.ends_with("\t1"))
}
