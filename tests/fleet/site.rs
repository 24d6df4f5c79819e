//! A person who keeps a fleet of lab hosts: a folder of TOML, the built program, and the nodes that it reaches by ssh.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::client::Client;
use crate::host::Host;
use crate::lab::{Lab, Wanted};
use crate::ran::{Ran, finish};
use crate::writers::Places;

/// Of the users that [`instance`] declares.
pub const PASSWORD: &str = "lab-battery-staple";

/// A fleet whose nodes are the hosts of a lab, each with a shard of its name.
pub struct Site {
    pub lab: Lab,
}

impl Site {
    /// Hosts on which nothing of ours is yet.
    pub fn bare<W: Into<Wanted>>(wanted: impl IntoIterator<Item = W>) -> Self {
        let site = Self { lab: Lab::of(wanted) };
        fs::create_dir(site.folder()).unwrap();
        site.declare("");
        site
    }

    /// Hosts that are nodes already.
    pub fn of<W: Into<Wanted>>(wanted: impl IntoIterator<Item = W>) -> Self {
        let site = Self::bare(wanted);
        thread::scope(|scope| {
            for host in &site.lab.hosts {
                scope.spawn(|| site.add(&host.name).expect(0));
            }
        });
        site
    }

    pub fn host(&self, name: &str) -> &Host {
        self.lab.hosts.iter().find(|host| host.name == name).expect("a host of this lab")
    }

    pub fn folder(&self) -> PathBuf {
        self.lab.folder().join("site")
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.folder().join(below)
    }

    pub fn write(&self, below: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(below), text).unwrap();
    }

    /// All hosts as nodes, each with a shard, and these tables.
    pub fn declare(&self, tables: &str) {
        self.declare_with("", tables);
    }

    /// `fleet`: what stands behind the fleet's name, such as the table of the brakes.
    pub fn declare_with(&self, fleet: &str, tables: &str) {
        let nodes: String = self.lab.hosts.iter().map(|host| node(&host.name, &host.name, &host.address)).collect();
        self.write("fleet.toml", format!("[fleet]\nname = \"prod\"\n{fleet}{nodes}{tables}"));
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.command(env!("CARGO_BIN_EXE_valkeeper"));
        command.args(arguments).current_dir(self.folder()).env("TMPDIR", self.lab.folder());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ran {
        finish(self.command(arguments).spawn().unwrap())
    }

    /// Makes a host a node, with the build for nodes.
    #[track_caller]
    pub fn add(&self, node: &str) -> Ran {
        self.run(&["node", "add", node, "--yes", "--program", portable().to_str().unwrap()])
    }

    #[track_caller]
    pub fn apply(&self) -> Ran {
        self.run(&["apply", "--yes"])
    }

    #[track_caller]
    pub fn applied(&self) -> Ran {
        self.apply().expect(0)
    }

    /// Nothing is left to do.
    #[track_caller]
    pub fn settled(&self) {
        self.run(&["plan"]).expect(0).says("No changes.");
    }

    /// Where writers find an instance, whichever host it is on. Its user `app` may read the fence.
    pub fn places(&self, instance: &str) -> Places {
        let file = format!("/etc/valkey/instances/{instance}.conf");
        let configs = self.lab.hosts.iter().map(|host| (host.file(&file), host.address.parse().unwrap())).collect();
        Places { configs, user: "app", password: PASSWORD, patience: Duration::from_secs(2) }
    }

    /// A connection to an instance as its user `app`.
    #[track_caller]
    pub fn client(&self, node: &str, instance: &str) -> Client {
        self.client_as(node, instance, "app", PASSWORD)
    }

    /// One with the rights of the operator.
    #[track_caller]
    pub fn operator(&self, node: &str, instance: &str) -> Client {
        let marker = fs::read_to_string(self.host(node).file(&format!("/var/lib/valkeeper/instances/{instance}.toml"))).unwrap();
        let line = marker.lines().find(|line| line.starts_with("operator_password")).unwrap();
        self.client_as(node, instance, "valkeeper", line.split('"').nth(1).unwrap())
    }

    #[track_caller]
    pub fn client_as(&self, node: &str, instance: &str, user: &str, password: &str) -> Client {
        let host = self.host(node);
        let port = port(host, instance);
        let mut client = Client::at((host.address.parse::<std::net::IpAddr>().unwrap(), port).into()).unwrap();
        assert_eq!(client.ask(&format!("AUTH {user} {password}")), "+OK");
        client
    }
}

/// The port that an instance was given, from its config file.
pub fn port(host: &Host, instance: &str) -> u16 {
    port_in(&host.file(&format!("/etc/valkey/instances/{instance}.conf"))).unwrap()
}

/// Nothing, if there is no such file.
pub fn port_in(config: &Path) -> Option<u16> {
    let config = fs::read_to_string(config).ok()?;
    config.lines().find_map(|line| line.strip_prefix("port "))?.parse().ok()
}

/// The block of a node, and of a shard `on-NAME` for it.
pub fn node(name: &str, destination: &str, address: &str) -> String {
    format!(
        "[nodes.{name}]\nssh = \"{destination}\"\naddress = \"{address}\"\n[shards.on-{name}]\nnodes = [\"{name}\"]\nports = \"6400-6499\"\n"
    )
}

/// An instance with the user `app`, who may do everything in it but look after it. `settings`: as in `config = { … }`.
pub fn instance(name: &str, node: &str, settings: &str) -> String {
    let hash = hash(PASSWORD);
    format!(
        "[instances.{name}]\nshard = \"on-{node}\"\nconfig = {{ {settings} }}\n[instances.{name}.users.app]\n\
         password_sha256 = \"{hash}\"\nprivileges = [\"+@all\", \"-@admin\"]\n"
    )
}

pub fn hash(password: &str) -> String {
    base16ct::lower::encode_string(&Sha256::digest(password))
}

/// The build of valkeeper that runs on any host. It has to be as new as what is tested.
pub fn portable() -> PathBuf {
    let name = format!("valkeeper-linux-{}", std::env::consts::ARCH);
    let path = Path::new(env!("CARGO_BIN_EXE_valkeeper")).with_file_name(name);
    let cure = "run `scripts/build-portable debug`, as `make test-fleet` does";
    let built = |path: &Path| fs::metadata(path).and_then(|found| found.modified());
    let own = built(&path).unwrap_or_else(|error| panic!("{}: {error}: {cure}", path.display()));
    let newest = newest(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")));
    assert!(own >= newest, "{} is older than src/: {cure}", path.display());
    path
}

fn newest(folder: &Path) -> std::time::SystemTime {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let time = |path: PathBuf| if path.is_dir() { newest(&path) } else { fs::metadata(path).unwrap().modified().unwrap() };
    entries.map(time).max().unwrap()
}

/// Says how long something took, for those who look after the lab's own time.
pub fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let since = Instant::now();
    let result = work();
    eprintln!("lab: {what}: {:.1?}", since.elapsed());
    result
}

/// Fails unless it took less than this.
#[track_caller]
pub fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> T {
    let since = Instant::now();
    let result = work();
    assert!(since.elapsed() < limit, "it took {:.1?}, longer than {limit:?}", since.elapsed());
    result
}
