//! The files of a unit: the template that all members share, and the drop-in of each. Knows where they lie and what they say;
//! [`super::systemd`] makes them count.
//!
//! Never touches a drop-in that is not ours: a person's `systemctl edit` stays.

use std::path::{Path, PathBuf};

use super::files::{self, FileError, Stamp};
use super::layout::Layout;
use super::systemd::UnitName;
use crate::model::binary::BinaryFacts;
use crate::model::name::InstanceName;
use crate::model::setting::ReplicaBuffer;
use crate::model::spec::InstanceSpec;

/// The template, as it is installed.
const TEMPLATE: &str = include_str!("../../deploy/valkey@.service");
const TEMPLATE_NAME: &str = "valkey@.service";
/// The program that the template starts.
const PROGRAM: &str = "/usr/bin/valkey-server";
/// By this name systemd hands the password file of a replica to its unit.
const CREDENTIAL: &str = "replication";
const DROP_IN: &str = "50-valkeeper.conf";
/// What `WantedBy=` of the template means on disk.
const WANTS: &str = "multi-user.target.wants";
/// Everybody may read a unit; systemd says so in its own log otherwise.
const MODE: u32 = 0o644;

/// Files that a server opens beside its clients' connections: `CONFIG_MIN_RESERVED_FDS` of server.h, without which it lowers
/// `maxclients` in silence (facts C).
const FILES_RESERVED: u64 = 32;
/// Files for what comes and goes: those of a snapshot and an AOF, and replicas.
const FILES_ROOM: u64 = 224;
/// What Debian's own unit allows (65,535), so that few instances ever need more while they run.
const FILES_MIN: u64 = 1 << 16;
/// What a server takes when it is empty, with its threads, and what the kernel counts for its sockets. Bytes.
const BASE_BYTES: u64 = 256 << 20;
/// The least for the buffer that replicas are fed from: its hard limit unless declared otherwise (valkey.conf). Bytes.
const REPLICA_BUFFER_BYTES: u64 = 256 << 20;
/// The settings that need the system call `sched_setaffinity`.
const CPU_LISTS: [&str; 4] = ["aof-rewrite-cpulist", "bgsave-cpulist", "bio-cpulist", "server-cpulist"];

/// What a unit allows its server, and hands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// `LimitNOFILE=`: open files.
    pub files: u64,
    /// `MemoryMax=`, in bytes; nothing for an instance without `maxmemory`, whose size nobody knows.
    pub memory_bytes: Option<u64>,
    /// It chooses its processors, which the template forbids: a server is killed or ignored without (facts G).
    pub cpus: bool,
    /// It follows another one, and logs in there with what lies in a file of root's.
    pub follows: bool,
}

impl Allowance {
    /// What a server with these settings needs.
    ///
    /// Memory: twice `maxmemory`, because while a snapshot or an AOF is written every page may be written to and is then there
    /// twice (valkey.io/topics/admin: "up to 2 times the memory normally used"); half of it more for a fragmented heap; the
    /// hard limit of the replicas' buffer, which `maxmemory` does not count (`freeMemoryGetNotCountedMemory` in evict.c),
    /// while buffers of clients are counted; and what an empty server takes. It is a brake for what runs away, not a share.
    pub fn of(spec: &InstanceSpec, binary: &BinaryFacts) -> Self {
        let value = |name: &str| binary.value(spec, name);
        let number = |name: &str| value(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        let replicas = value("client-output-buffer-limit").and_then(ReplicaBuffer::of).map_or(0, |limit| limit.hard_bytes);
        let max = number("maxmemory");
        let chooses = |name: &&str| spec.get(name).is_some_and(|list| !list.is_empty());
        let room = max.saturating_add(max / 2).saturating_add(replicas.max(REPLICA_BUFFER_BYTES)).saturating_add(BASE_BYTES);
        Self {
            files: files_for(number("maxclients")),
            memory_bytes: (max > 0).then(|| max.saturating_add(room)),
            cpus: CPU_LISTS.iter().any(chooses),
            follows: spec.overlay().follows.is_some(),
        }
    }
}

/// The files that all members share, as they are on disk.
#[derive(Debug, Default)]
pub struct Template {
    stamps: Vec<Stamp>,
    trouble: Option<String>,
}

impl Template {
    /// Reads them. Nothing is wrong with them where there is no systemd in the layout.
    pub fn read(layout: &Layout) -> Self {
        let Some(folder) = layout.units() else { return Self::default() };
        let (path, added) = (folder.join(TEMPLATE_NAME), folder.join(format!("{TEMPLATE_NAME}.d")));
        // Before what they say is looked at: a change that comes between is then seen by the next look.
        let stamps = [&folder, &path].map(|place| files::stamp(place)).into_iter().chain(stamps_below(&added)).collect();
        Self { stamps, trouble: differs(&path, TEMPLATE) }
    }
}

/// Of a folder and of what is in it. A folder's own stamp tells what came to it and what went.
fn stamps_below(folder: &Path) -> Vec<Stamp> {
    let names = files::names(folder).unwrap_or_default();
    names.into_iter().map(|name| files::stamp(&folder.join(name))).chain([files::stamp(folder)]).collect()
}

fn differs(path: &Path, wanted: &str) -> Option<String> {
    match files::read_bounded(path) {
        Ok(Some(text)) if text == wanted => None,
        Ok(Some(_)) => Some(format!("{} is not as valkeeper wrote it", path.display())),
        Ok(None) => Some(format!("{} is missing", path.display())),
        Err(error) => Some(error.to_string()),
    }
}

/// The unit files of one member.
#[derive(Debug)]
pub struct UnitFiles {
    unit: UnitName,
    /// Where the machine's own units lie.
    folder: PathBuf,
    drop_in: String,
}

impl UnitFiles {
    /// The files for a server with this allowance; nothing where there is no systemd in the layout.
    pub fn of(layout: &Layout, name: &InstanceName, server: &Path, allowance: Allowance) -> Option<Self> {
        let folder = layout.units()?;
        Some(Self { unit: UnitName::of(name), folder, drop_in: drop_in(layout, name, server, allowance) })
    }

    fn template(&self) -> PathBuf {
        self.folder.join(TEMPLATE_NAME)
    }

    fn own_folder(&self) -> PathBuf {
        self.folder.join(format!("{}.d", self.unit))
    }

    fn own(&self) -> PathBuf {
        self.own_folder().join(DROP_IN)
    }

    /// What is wrong with them on disk, if anything, and with what all members share.
    pub fn trouble(&self, template: &Template) -> Option<String> {
        let instead = self.folder.join(self.unit.as_str());
        if files::exists(&instead) {
            return Some(format!(
                "{} takes the place of the template: the unit is masked or was made anew by hand",
                instead.display()
            ));
        }
        if !self.is_enabled() {
            return Some(format!("{} is not enabled, so it would not come back with the machine", self.unit));
        }
        template.trouble.clone().or_else(|| differs(&self.own(), &self.drop_in))
    }

    /// Of all that systemd reads for this unit from the machine's own folder: with another content it has another stamp.
    pub fn stamps(&self, template: &Template) -> Vec<Stamp> {
        template.stamps.iter().copied().chain(stamps_below(&self.own_folder())).collect()
    }

    /// Does it come up with the machine?
    pub fn is_enabled(&self) -> bool {
        files::exists(&self.folder.join(WANTS).join(self.unit.as_str()))
    }

    /// Is something in the place of the template, such as a mask?
    pub fn is_masked(&self) -> bool {
        files::exists(&self.folder.join(self.unit.as_str()))
    }

    /// Writes what is not right.
    ///
    /// # Errors
    /// When a file cannot be written, or a person's own unit is in the place of the template.
    pub fn write(&self) -> Result<(), FileError> {
        for (path, text) in [(self.template(), TEMPLATE), (self.own(), self.drop_in.as_str())] {
            if files::read_bounded(&path).ok().flatten().as_deref() != Some(text) {
                path.parent().map_or(Ok(()), files::make_open_folder)?;
                files::replace(&path, text.as_bytes(), MODE)?;
            }
        }
        Ok(())
    }

    /// Removes the drop-in, and its folder if nothing else is in it. The template stays: other members use it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(layout: &Layout, name: &InstanceName) -> Result<(), FileError> {
        let Some(folder) = layout.units() else { return Ok(()) };
        let own = folder.join(format!("{}.d", UnitName::of(name)));
        files::remove(&own.join(DROP_IN))?;
        files::remove_empty_folder(&own);
        Ok(())
    }
}

/// How many files a server for so many clients may open.
pub fn files_for(clients: u64) -> u64 {
    clients.saturating_add(FILES_RESERVED + FILES_ROOM).max(FILES_MIN)
}

/// Writes the template that all members share; a person's own one is not overwritten by this.
///
/// # Errors
/// When it cannot be written.
pub fn write_template(layout: &Layout) -> Result<(), FileError> {
    let Some(folder) = layout.units() else { return Ok(()) };
    let path = folder.join(TEMPLATE_NAME);
    if files::read_bounded(&path)?.is_some() {
        return Ok(());
    }
    files::make_open_folder(&folder)?;
    files::replace(&path, TEMPLATE.as_bytes(), MODE)
}

/// Removes the template.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_template(layout: &Layout) -> Result<(), FileError> {
    layout.units().map_or(Ok(()), |folder| files::remove(&folder.join(TEMPLATE_NAME)))
}

fn drop_in(layout: &Layout, name: &InstanceName, server: &Path, allowance: Allowance) -> String {
    let Allowance { files, memory_bytes, cpus, follows } = allowance;
    let mut text = String::from(
        "# Written by valkeeper from the settings of the instance. What is changed here is found by the next plan and undone.\n\
         [Service]\n",
    );
    text.push_str(&format!("LimitNOFILE={files}\n"));
    if let Some(bytes) = memory_bytes {
        text.push_str(&format!("MemoryMax={bytes}\n"));
    }
    if cpus {
        text.push_str("SystemCallFilter=sched_setaffinity\n");
    }
    if follows {
        // Not in the template: systemd mounts what it hands to a unit, and every start of any unit goes through all mounts. The
        // second line is for a moment without the file, in which the unit could not start.
        let file = layout.credential(name);
        text.push_str(&format!("LoadCredential={CREDENTIAL}:{}\nSetCredential={CREDENTIAL}:#\n", file.display()));
    }
    if server != Path::new(PROGRAM) {
        let (server, config) = (server.display(), layout.config(name));
        text.push_str(&format!("ExecStart=\nExecStart={server} {}\nExecPaths={server}\n", config.display()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::SettingName;

    fn allowance(settings: &[(&'static str, &str)]) -> Allowance {
        let binary = serde_json::from_str(include_str!("../../tests/golden/binaries/8.0.1.json")).unwrap();
        let mut spec = InstanceSpec::default();
        settings.iter().for_each(|(name, value)| spec.set(&SettingName::known(name), *value));
        Allowance::of(&spec, &binary)
    }

    #[test]
    fn an_instance_may_take_what_its_settings_need() {
        assert_eq!(allowance(&[]), Allowance { files: 65_536, memory_bytes: None, cpus: false, follows: false });
        assert_eq!(allowance(&[("maxclients", "70000")]).files, 70_256);
        assert!(allowance(&[("bio-cpulist", "0-1")]).cpus);
        assert!(allowance(&[("replicaof", "192.0.2.1 6400")]).follows);
        let gib = 1 << 30;
        let some = allowance(&[("maxmemory", "1073741824"), ("maxclients", "50")]);
        assert_eq!(some, Allowance { files: 65_536, memory_bytes: Some(gib * 5 / 2 + (512 << 20)), cpus: false, follows: false });
        let limits = "normal 0 0 0 slave 2147483648 67108864 60 pubsub 33554432 8388608 60";
        let fed = allowance(&[("maxmemory", "1073741824"), ("client-output-buffer-limit", limits)]);
        assert_eq!(fed.memory_bytes, Some(gib * 5 / 2 + gib * 2 + (256 << 20)));
        assert_eq!(allowance(&[("maxmemory", "18446744073709551615")]).memory_bytes, Some(u64::MAX));
    }

    #[test]
    fn unit_files_that_were_edited_or_removed_are_found_and_written_anew() {
        let machine = tempfile::tempdir().unwrap();
        let layout = Layout::system(machine.path()).unwrap();
        let name = InstanceName::new("a").unwrap();
        let files = UnitFiles::of(&layout, &name, Path::new(PROGRAM), allowance(&[])).unwrap();
        let trouble = || files.trouble(&Template::read(&layout));
        let wants = layout.units().unwrap().join(WANTS);
        std::fs::create_dir_all(&wants).unwrap();
        assert!(trouble().unwrap().contains("not enabled"));
        std::os::unix::fs::symlink("nowhere", wants.join("valkey@a.service")).unwrap();
        assert!(trouble().unwrap().contains("missing"));
        files.write().unwrap();
        assert_eq!(trouble(), None);
        std::fs::write(files.own(), "[Service]\nMemoryMax=1\n").unwrap();
        assert!(trouble().unwrap().contains(DROP_IN));
        files.write().unwrap();
        assert_eq!(trouble(), None);
        UnitFiles::remove(&layout, &name).unwrap();
        assert!(!files.own_folder().exists() && files.template().exists());
    }

    #[test]
    fn only_who_follows_is_handed_a_password() {
        let layout = Layout::system(Path::new("/")).unwrap();
        let text = |settings| drop_in(&layout, &InstanceName::new("a").unwrap(), Path::new(PROGRAM), allowance(settings));
        assert!(!text(&[]).contains("Credential"));
        let file = "/var/lib/valkeeper/instances/a.replication";
        assert!(text(&[("replicaof", "192.0.2.1 6400")]).contains(&format!("\nLoadCredential=replication:{file}\n")));
    }

    #[test]
    fn a_server_that_lies_elsewhere_is_started_from_there() {
        let layout = Layout::system(Path::new("/")).unwrap();
        let name = InstanceName::new("a").unwrap();
        let text = drop_in(&layout, &name, Path::new("/opt/valkey/valkey-server"), allowance(&[]));
        assert!(text.contains("ExecStart=\nExecStart=/opt/valkey/valkey-server /etc/valkey/instances/a.conf\n"), "{text}");
    }
}
