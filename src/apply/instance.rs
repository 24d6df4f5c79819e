//! The effects on an instance: its marker, its files, its process, its settings.

use std::path::Path;
use std::time::Duration;

use super::server::{Acting, Halt, failed, read_marker, write_marker, write_marker_file};
use crate::host::clock::{self, Deadline, Poll};
use crate::host::files::{self, Stamp, stamp};
use crate::host::machine;
use crate::host::process::{self, Handle, StopError};
use crate::host::supervisor::{Attempt, SupervisorError};
use crate::host::unit;
use crate::host::valkey::{Connection, ValkeyError, info_field, reach};
use crate::model::action::Creation;
use crate::model::config_file;
use crate::model::effect::applied;
use crate::model::marker::{Marker, MarkerFile, Stage};
use crate::model::setting::Settings;
use crate::model::snapshot::Seed;
use crate::model::spec::InstanceSpec;
use crate::observe::disk;

/// What a person who opens a config file should know.
const CONFIG_HEADER: &str = "Written by valkeeper, whole. What is changed here by hand is found by the next plan and undone.";

/// How long a server that hung up may take to end: it flushes its log, and has nothing to save.
const ENDING: Duration = Duration::from_secs(2);

impl Acting {
    /// A new marker with a new operator password.
    pub(super) async fn make_marker(&mut self, creation: &Creation) -> Result<(), Halt> {
        let operator_password = machine::new_password();
        let marker = Marker {
            fleet: creation.fleet.clone(),
            uid: creation.uid.clone(),
            machine: self.node.machine.clone(),
            created: clock::now(),
            stage: Stage::Provisioning,
            tenant: creation.tenant.clone(),
            protect: creation.protect,
            operator: operator_password.hash().fingerprint(),
            retiring: None,
            disturbed: None,
            owes_farewell: false,
            snapshot: None,
            seed: Seed::of_new(&creation.spec.overlay()),
            applied: applied(creation),
        };
        let file = MarkerFile { instance: self.name.clone(), operator_password, marker };
        self.on_disk(move |node, _| write_marker_file(node, &file)).await?;
        self.is_new = true;
        Ok(())
    }

    pub(super) async fn write_marker(&self, marker: Marker) -> Result<(), Halt> {
        self.on_disk(move |node, name| {
            let leaves = marker.snapshot.is_some();
            write_marker(node, name, marker)?;
            // A snapshot of which the marker says nothing is nobody's.
            if leaves { Ok(()) } else { Ok(files::remove(&node.layout.leaving(name))?) }
        })
        .await
    }

    pub(super) async fn make_data_folder(&self) -> Result<(), Halt> {
        self.on_disk(|node, name| {
            let folder = node.layout.data(name);
            match node.owned_by_servers() {
                Some(owner) => files::make_folder_for(&folder, 0o750, Some(owner))?,
                None => files::make_folder(&folder)?,
            }
            Ok(())
        })
        .await
    }

    pub(super) async fn write_config(&self, spec: &InstanceSpec) -> Result<(), Halt> {
        let settings = spec.settings.clone();
        let follows = spec.overlay().follows.is_some();
        // The password is there before a config that includes it, and goes after the last one that did.
        if follows {
            self.write_credential(true).await?;
        }
        self.on_disk(move |node, name| {
            let mut directives = node.layout.directives(name);
            let own = settings.iter().map(|(name, value)| (name.to_string(), config_file::arguments(name.as_str(), value)));
            directives.extend(own);
            directives.extend(follows.then(|| node.layout.credential_include(name)));
            let text = config_file::render(CONFIG_HEADER, &directives);
            let owner = node.readable_by_servers();
            let mode = if owner.is_some() { 0o640 } else { 0o600 };
            Ok(files::replace_for(&node.layout.config(name), text.as_bytes(), mode, owner)?)
        })
        .await?;
        if follows { Ok(()) } else { self.write_credential(false).await }
    }

    /// The password of a member that follows another one, for its server's start; none for one that follows nobody.
    pub(super) async fn write_credential(&self, follows: bool) -> Result<(), Halt> {
        self.on_disk(move |node, name| {
            let path = node.layout.credential(name);
            if !follows {
                return Ok(files::remove(&path)?);
            }
            let text = read_marker(node, name)?.credential();
            Ok(files::replace(&path, text.reveal().as_bytes(), files::PRIVATE)?)
        })
        .await
    }

    /// The unit that the config on disk asks for.
    pub(super) async fn write_unit(&self) -> Result<(), Halt> {
        let binary = self.binary.clone();
        let (is_masked, is_enabled) = self
            .on_disk(move |node, name| {
                let spec = disk::spec(&node.layout, name, &binary.facts);
                let Some(unit) = node.unit_files(name, spec.seen(), &binary) else { return Ok((false, true)) };
                unit.write()?;
                Ok((unit.is_masked(), unit.is_enabled()))
            })
            .await?;
        if is_masked {
            self.node.supervisor.unmask(self.server()).await?;
        }
        if !is_enabled {
            self.node.supervisor.enable(self.server()).await?;
        }
        Ok(self.node.supervisor.reread(self.server()).await?)
    }

    /// Starts the server and waits until it has loaded its data. From then on the member is a grown one.
    pub(super) async fn start(&mut self) -> Result<(), Halt> {
        let mut attempt = self.node.supervisor.attempt(self.server());
        if self.is_new || self.find().await?.is_none() {
            self.spawn(&mut attempt).await?;
        }
        match self.await_loaded().await {
            // What it says of its end is worth more than that it hung up.
            Err(Halt::Failed(_)) if self.ended_soon().await? => {
                return failed(format!("the server ended while it read its data: {}", self.words_of_end(&attempt).await));
            }
            other => other?,
        }
        let mut marker = self.marker().await?.marker;
        if marker.stage == Stage::Provisioning {
            marker.stage = Stage::Active;
            self.write_marker(marker).await?;
        }
        Ok(())
    }

    async fn spawn(&mut self, attempt: &mut Attempt) -> Result<(), Halt> {
        self.node.supervisor.start(self.server(), attempt).await?;
        let socket = self.node.layout.socket(&self.name);
        let mut poll = Poll::default();
        loop {
            match reach(&socket, self.end.left()).await {
                Ok(_open) => return Ok(()),
                Err(ValkeyError::Absent | ValkeyError::Refused) => {}
                Err(error) => return Err(error.into()),
            }
            if self.node.supervisor.has_ended(self.server(), attempt).await? {
                return failed(format!("the server ended at once: {}", self.words_of_end(attempt).await));
            }
            if !poll.again(self.end).await {
                return Err(Halt::Pending("the server to open its socket".to_owned()));
            }
        }
    }

    async fn await_loaded(&mut self) -> Result<(), Halt> {
        self.hang_up();
        let mut poll = Poll::default();
        loop {
            let info = match self.info("persistence").await {
                // One large key keeps it from answering for longer than a step may take.
                Err(Halt::Failed(_)) if self.end.is_over() && self.still_loads().await? => {
                    return Err(Halt::Pending("the server to load its data (it answers nobody meanwhile)".to_owned()));
                }
                other => other?,
            };
            if info_field(&info, "loading") == Some("0") {
                return Ok(());
            }
            let percent = info_field(&info, "loading_loaded_perc").unwrap_or("?");
            self.tell.say(format!("loading its data ({percent} %)"));
            if !poll.again(self.end).await {
                return Err(Halt::Pending(format!("the server to load its data ({percent} %)")));
            }
        }
    }

    async fn still_loads(&self) -> Result<bool, Halt> {
        let found = self.find().await?;
        let log = self.node.layout.log(&self.name);
        Ok(found.zip(log).is_some_and(|(pid, log)| process::still_loads(&log, pid)))
    }

    /// Did the server end? It hangs up a moment before it does, and until then its port is taken.
    async fn ended_soon(&self) -> Result<bool, Halt> {
        let end = Deadline::after(ENDING.min(self.end.left()));
        let mut poll = Poll::default();
        while self.find().await?.is_some() {
            if !poll.again(end).await {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) async fn info(&mut self, section: &str) -> Result<String, Halt> {
        Ok(self.say(vec!["INFO", section]).await?.into_text()?)
    }

    /// The process of this member, if it runs: by its socket, or as its supervisor knows it.
    async fn find(&self) -> Result<Option<u32>, Halt> {
        let listening = match reach(&self.node.layout.socket(&self.name), self.end.left()).await {
            Ok(stream) => Connection::over(stream, self.end.left()).await.ok().and_then(|connection| connection.pid),
            Err(_) => None,
        };
        match listening.filter(|pid| process::is_server(*pid, &self.binary.path)) {
            Some(pid) => Ok(Some(pid)),
            None => Ok(self.node.supervisor.find(self.server(), None).await?),
        }
    }

    /// Ends the server, which saves its data if it is set to.
    pub(super) async fn stop(&mut self) -> Result<(), Halt> {
        self.hang_up();
        let pid = self.find().await?;
        let handle = pid.and_then(Handle::open);
        // The number may have been given to another process before the handle was opened.
        if handle.is_some() && self.find().await? != pid {
            return failed("the server ended or was replaced while it was to be stopped");
        }
        let before = self.node.supervisor.attempt(self.server());
        match self.node.supervisor.stop(self.server(), handle, self.end).await {
            Err(error @ (SupervisorError::Refuses | SupervisorError::Stop(StopError::Refuses(_)))) => {
                failed(format!("{error}; {}", self.words(&before).await))
            }
            done => Ok(done?),
        }
    }

    /// All settings at once: the server takes all or none (facts C).
    pub(super) async fn config_set(&mut self, settings: &Settings) -> Result<(), Halt> {
        self.raise_files(settings).await?;
        let mut words = vec!["CONFIG", "SET"];
        words.extend(settings.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
        match self.say(words).await {
            Ok(_) => Ok(()),
            Err(Halt::Failed(why)) => failed(format!("none of the settings was taken: {why}")),
            Err(other @ (Halt::Pending(_) | Halt::Refused(_))) => Err(other),
        }
    }

    /// A server refuses more clients than it may open files for. Its unit says the new number, but only to the next start.
    async fn raise_files(&self, settings: &Settings) -> Result<(), Halt> {
        let clients = settings.get("maxclients").and_then(|number| number.parse().ok());
        if let (Some(clients), Some(_)) = (clients, self.node.layout.units())
            && let Some(pid) = self.find().await?
        {
            process::raise_files(pid, unit::files_for(clients));
        }
        Ok(())
    }

    /// Waits until the AOF is complete: no rewrite runs or is due, and the last one went well (facts D).
    pub(super) async fn await_aof(&mut self) -> Result<(), Halt> {
        let mut poll = Poll::default();
        loop {
            let info = self.info("persistence").await?;
            let field = |name| info_field(&info, name).unwrap_or_default();
            if field("aof_enabled") != "1" {
                return failed("the append-only file is off, though it was switched on; somebody switched it off again");
            }
            let idle = field("aof_rewrite_in_progress") == "0" && field("aof_rewrite_scheduled") == "0";
            match (idle, field("aof_last_bgrewrite_status")) {
                (true, "ok") => return Ok(()),
                (true, status) => return failed(format!("the append-only file could not be written ({status}); see its log")),
                (false, _) => {}
            }
            if !poll.again(self.end).await {
                let seconds = field("aof_current_rewrite_time_sec");
                return Err(Halt::Pending(format!("the append-only file to be written (for {seconds} s now)")));
            }
        }
    }

    /// Writes the append-only file anew and waits until that is over.
    pub(super) async fn rewrite_aof(&mut self) -> Result<(), Halt> {
        let mut poll = Poll::default();
        loop {
            match self.say(vec!["BGREWRITEAOF"]).await {
                // Where a snapshot runs it is scheduled, and `await_aof` waits for that too.
                Ok(_begun) => return self.await_aof().await,
                // One that began before knows the history that is to go.
                Err(Halt::Failed(why)) if why.contains("in progress") => {}
                Err(halt) => return Err(halt),
            }
            if !poll.again(self.end).await {
                return Err(Halt::Pending("an earlier rewrite of the append-only file to end".to_owned()));
            }
        }
    }

    /// A `dump.rdb` of now, made sure of by everything that can be seen (facts D: LASTSAVE and the status alone lie).
    pub(super) async fn snapshot(&mut self) -> Result<(), Halt> {
        let file = self.node.layout.data(&self.name).join("dump.rdb");
        let (saves, old) = self.begin_snapshot(&file).await?;
        let mut poll = Poll::default();
        loop {
            let info = self.info("persistence").await?;
            let field = |name| info_field(&info, name).unwrap_or_default();
            if field("rdb_bgsave_in_progress") == "0" {
                let counted = field("rdb_saves").parse::<u64>().is_ok_and(|now| now == saves + 1);
                let good = field("rdb_last_bgsave_status") == "ok" && counted && stamp(&file) != old;
                return if good { Ok(()) } else { failed("the snapshot did not come about; see the log of the server") };
            }
            if !poll.again(self.end).await {
                let keys = field("current_save_keys_processed");
                let total = field("current_save_keys_total");
                return Err(Halt::Pending(format!("the snapshot to be written ({keys} of {total} keys)")));
            }
        }
    }

    /// Removes the AOF, in one rename first: half of one would stop a server that still reads it.
    pub(super) async fn drop_aof(&self) -> Result<(), Halt> {
        self.on_disk(|node, name| {
            let data = node.layout.data(name);
            let (aof, going) = (data.join("appendonlydir"), data.join("appendonlydir.going"));
            files::remove_folder(&going)?;
            files::rename(&aof, &going)?;
            files::remove_folder(&going)?;
            // The single file of servers before 7.0, which a server without the folder would still load.
            Ok(files::remove(&data.join("appendonly.aof"))?)
        })
        .await
    }

    /// Starts a snapshot of our own: not while another one, or a rewrite, runs. Gives the count of saves and the file before.
    pub(super) async fn begin_snapshot(&mut self, file: &Path) -> Result<(u64, Stamp), Halt> {
        let mut poll = Poll::default();
        loop {
            let info = self.info("persistence").await?;
            let field = |name| info_field(&info, name).unwrap_or_default();
            let busy = field("rdb_bgsave_in_progress") != "0" || field("aof_rewrite_in_progress") != "0";
            if !busy {
                let saves = field("rdb_saves").parse().unwrap_or_default();
                let old = stamp(file);
                match self.say(vec!["BGSAVE"]).await {
                    Ok(_started) => return Ok((saves, old)),
                    // Another one began between the two commands.
                    Err(Halt::Failed(why)) if why.contains("in progress") => {}
                    Err(halt) => return Err(halt),
                }
            }
            if !poll.again(self.end).await {
                return Err(Halt::Pending("another snapshot or rewrite to end".to_owned()));
            }
        }
    }

    /// Why a server ended at its start, with a cure where the words allow one.
    async fn words_of_end(&self, attempt: &Attempt) -> String {
        let words = self.words(attempt).await;
        let cure = if words.contains("Address already in use") {
            "; another program has the port: choose another one, or stop that program"
        } else if words.contains("Cannot assign requested address") {
            "; the address of the node is not one of this machine"
        } else {
            ""
        };
        format!("{words}{cure}")
    }
}
