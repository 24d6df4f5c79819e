//! What a member's files say: marker, config, ACL file, data folder. Reads only; every file's trouble is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::foreign;
use crate::host::cargo;
use crate::host::files;
use crate::host::layout::Layout;
use crate::model::acl::{AclUser, parse_server_line};
use crate::model::binary::BinaryFacts;
use crate::model::change::Half;
use crate::model::config_file::{self, Directive};
use crate::model::live::{DataFacts, Folder};
use crate::model::marker::{Marker, MarkerFile};
use crate::model::name::{DEFAULT_USER, InstanceName, SettingName, UserName};
use crate::model::snapshot::Snapshot;
use crate::model::spec::InstanceSpec;

/// The marker of a member.
#[derive(Debug)]
pub enum MarkerOnDisk {
    Ours(Box<MarkerFile>),
    /// Nothing of this name is here.
    Absent,
    /// Files that are not ours, or whose marker cannot be read: why.
    Unmarked(String),
}

/// Reads the marker, and looks for files that have none.
pub fn marker(layout: &Layout, name: &InstanceName) -> MarkerOnDisk {
    let path = layout.marker(name);
    let cure = "move its files away, or put the marker back from a copy";
    let text = match files::read_bounded(&path) {
        Ok(Some(text)) => text,
        Ok(None) => return unmarked(layout, name),
        Err(error) => return MarkerOnDisk::Unmarked(error.to_string()),
    };
    match toml::from_str::<MarkerFile>(&text) {
        // The error's own text would repeat the line, which may be the password's.
        Err(error) => {
            let line = error.span().and_then(|span| text.get(..span.start)).map_or(1, |before| before.lines().count().max(1));
            let what = error.message().lines().next().unwrap_or_default();
            MarkerOnDisk::Unmarked(format!("the marker {} cannot be read: line {line}: {what}; {cure}", path.display()))
        }
        Ok(file) if file.instance != *name => {
            MarkerOnDisk::Unmarked(format!("the marker {} is of instance {:?}; {cure}", path.display(), file.instance))
        }
        Ok(file) if is_link(&layout.data(name)) => MarkerOnDisk::Unmarked(format!(
            "{} is a symbolic link, and links out of the state folder of instance {} are not followed; \
             put the real folder in its place",
            layout.data(name).display(),
            file.instance
        )),
        Ok(mut file) => {
            // What the server is to let in is the password that we have; an edited marker could name another one for ever.
            file.marker.operator = file.operator_password.hash().fingerprint();
            if file.marker.snapshot.as_ref().is_some_and(|snapshot| !is_kept(layout, name, snapshot)) {
                file.marker.snapshot = None;
            }
            MarkerOnDisk::Ours(Box::new(file))
        }
    }
}

/// Is the file of a snapshot there, as its marker says? If not, another one has to be written.
fn is_kept(layout: &Layout, name: &InstanceName, snapshot: &Snapshot) -> bool {
    let length = || cargo::length(&layout.leaving(name)).ok().flatten();
    match snapshot {
        Snapshot::Begun { .. } => true,
        Snapshot::Saved { .. } => length().is_some(),
        Snapshot::Made(made) => length() == Some(made.bytes),
    }
}

fn unmarked(layout: &Layout, name: &InstanceName) -> MarkerOnDisk {
    if is_coming_back(layout, name) {
        return MarkerOnDisk::Absent;
    }
    match layout.traces(name).iter().find(|path| files::exists(path)) {
        Some(path) => MarkerOnDisk::Unmarked(format!(
            "{} is there, and no marker says that valkeeper made it; move it away, or give the instance another name",
            path.display()
        )),
        None => MarkerOnDisk::Absent,
    }
}

/// Files without a marker that a restore is bringing back: it moves the marker last.
fn is_coming_back(layout: &Layout, name: &InstanceName) -> bool {
    let begun = |folder: &String| {
        folder.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('-'))
            && files::exists(&layout.set_aside_root().join(folder).join(RESTORING))
    };
    files::names(&layout.set_aside_root()).unwrap_or_default().iter().any(begun)
}

/// In a set-aside folder: its data is being brought back.
pub const RESTORING: &str = "restoring";

fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_symlink())
}

/// What the data folder holds. Whether a server works in it is for the server's own look to say.
pub fn data(layout: &Layout, name: &InstanceName, marker: &Marker) -> DataFacts {
    let folder = layout.data(name);
    let arrived_bytes = if marker.is_vessel() { cargo::arrived(layout, name) } else { None };
    if !folder.is_dir() {
        return DataFacts { arrived_bytes, ..DataFacts::MISSING };
    }
    // `appenddirname`, `appendfilename` and `dbfilename` are never set, so these are the server's own names.
    let aof = folder.join("appendonlydir/appendonly.aof.manifest").exists() || folder.join("appendonly.aof").exists();
    DataFacts { folder: Folder::Present, aof, rdb: folder.join("dump.rdb").exists(), arrived_bytes }
}

/// The users in the ACL file, and what is wrong with it as a whole.
#[derive(Debug, Default)]
pub struct UsersOnDisk {
    pub users: BTreeMap<UserName, Arc<AclUser>>,
    pub broken: Option<String>,
    /// A line could not be read, so a user that is not in `users` may be in the file all the same.
    pub unreadable: bool,
}

pub fn users(layout: &Layout, name: &InstanceName) -> UsersOnDisk {
    let path = layout.acl(name);
    match files::read_bounded(&path) {
        Ok(Some(text)) => parse_users(&text),
        Ok(None) => UsersOnDisk { broken: Some(format!("{} is missing", path.display())), ..UsersOnDisk::default() },
        Err(error) => UsersOnDisk { broken: Some(error.to_string()), unreadable: true, ..UsersOnDisk::default() },
    }
}

fn parse_users(text: &str) -> UsersOnDisk {
    let mut found = UsersOnDisk::default();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = parse_server_line(line.trim()).map_err(|error| error.to_string());
        let named =
            parsed.and_then(|(name, user)| UserName::new(name).map(|name| (name, user)).map_err(|error| error.to_string()));
        match named {
            Ok((name, user)) => {
                if found.users.insert(name, Arc::new(user)).is_some() {
                    found.broken.get_or_insert(format!("line {} of the ACL file names a user again", number + 1));
                }
            }
            Err(problem) => {
                found.unreadable = true;
                found.broken.get_or_insert(format!("line {} of the ACL file: {problem}", number + 1));
            }
        }
    }
    if !found.users.contains_key(DEFAULT_USER) {
        let open = "the ACL file has no line for the user \"default\", so a server would open it to everyone";
        found.broken.get_or_insert(open.to_owned());
    }
    found
}

/// What the config file says.
pub fn spec(layout: &Layout, name: &InstanceName, binary: &BinaryFacts) -> Half<InstanceSpec> {
    match files::read_bounded(&layout.config(name)) {
        Ok(Some(text)) => Half::Seen(parse_spec(&text, &layout.directives(name), &layout.credential_include(name), binary)),
        Ok(None) => Half::Absent,
        Err(error) => Half::Unseen { unseen: error.to_string() },
    }
}

/// `include`: the line that belongs into the file of a replica.
fn parse_spec(text: &str, layout: &[Directive], include: &Directive, binary: &BinaryFacts) -> InstanceSpec {
    let mut spec = InstanceSpec::default();
    let mut values: BTreeMap<SettingName, String> = BTreeMap::new();
    let mut missing: BTreeSet<&str> = layout.iter().map(|(name, _)| name.as_str()).collect();
    let mut included = false;
    for (name, arguments) in config_file::parse(text) {
        if (&name, &arguments) == (&include.0, &include.1) {
            included = true;
            continue;
        }
        if let Some((ours, expected)) = layout.iter().find(|(ours, _)| *ours == name) {
            missing.remove(ours.as_str());
            if arguments != *expected {
                spec.foreign.push(format!("{name} is {:?} instead of {:?}", arguments.join(" "), expected.join(" ")));
            }
            continue;
        }
        let known = SettingName::new(&name).ok().and_then(|name| binary.setting(&name).map(|(current, _)| current.clone()));
        match known {
            Some(current) => gather(&mut values, current, &arguments),
            None => spec.foreign.push(foreign::directive(&name, &arguments)),
        }
    }
    for (name, value) in values {
        match binary.canonical(&name, &value) {
            Some(Ok((name, form))) => {
                let form = foreign::shown(name.as_str(), form);
                spec.settings.insert(name, form);
            }
            Some(Err(error)) => spec.foreign.push(format!("{name} {}: {error}", foreign::shown(name.as_str(), value))),
            // It was found by this name a moment ago.
            None => {}
        }
    }
    spec.foreign.extend(missing.into_iter().map(|name| format!("missing: {name}")));
    match (spec.overlay().follows, included) {
        (Some(_), false) => spec.foreign.push("missing: include of the password with which it follows".to_owned()),
        (None, true) => spec.foreign.push(format!("include {}, though it follows nobody", include.1.join(" "))),
        (Some(_), true) | (None, false) => {}
    }
    spec
}

/// What is wrong with the file of the password with which it follows, if anything. `spec`: what its config file says.
pub fn credential(layout: &Layout, name: &InstanceName, marker: &MarkerFile, spec: &InstanceSpec) -> Option<String> {
    let path = layout.credential(name);
    let shown = path.display();
    let follows = spec.overlay().follows.is_some();
    match files::read_bounded(&path) {
        Err(error) => Some(error.to_string()),
        Ok(None) => follows.then(|| format!("{shown} is missing, so a server that is restarted could not log in at its primary")),
        Ok(Some(_)) if !follows => Some(format!("{shown} is there, though it follows nobody")),
        Ok(Some(text)) if text != marker.credential().reveal() => Some(format!("{shown} is not as valkeeper wrote it")),
        Ok(Some(_)) if !files::is_private(&path) => Some(format!("others may read {shown}")),
        Ok(Some(_)) => None,
    }
}

/// The last line counts, except for the two settings that accumulate (`save` until `save ""`; facts C).
fn gather(values: &mut BTreeMap<SettingName, String>, name: SettingName, arguments: &[String]) {
    let text = arguments.join(" ");
    let accumulates = matches!(name.as_str(), "save" | "client-output-buffer-limit") && !text.is_empty();
    match values.get_mut(name.as_str()).filter(|_| accumulates) {
        Some(before) if before.is_empty() => *before = text,
        Some(before) => {
            before.push(' ');
            before.push_str(&text);
        }
        None => {
            values.insert(name, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary() -> BinaryFacts {
        serde_json::from_str(include_str!("../../tests/golden/binaries/8.0.1.json")).unwrap()
    }

    fn spec_of(text: &str) -> InstanceSpec {
        let include = ("include".to_owned(), vec!["x".to_owned()]);
        parse_spec(text, &[("dir".to_owned(), vec!["/x y".to_owned()])], &include, &binary())
    }

    #[test]
    fn only_a_replica_includes_its_password() {
        let foreign = |text: &str| spec_of(&format!("dir \"/x y\"\n{text}")).foreign;
        assert_eq!(foreign("replicaof 127.0.0.1 1\ninclude x\n"), [""; 0]);
        assert_eq!(foreign("replicaof 127.0.0.1 1\n").len(), 1);
        assert_eq!(foreign("include x\n").len(), 1);
        assert_eq!(foreign("replicaof 127.0.0.1 1\ninclude y\n").len(), 2);
    }

    #[test]
    fn a_config_is_read_in_canonical_form() {
        let spec = spec_of(
            "dir \"/x y\"\nmaxmemory 64mb\nslave-priority 5\nsave 900 1\nsave 300 10\n\
             client-output-buffer-limit replica 1mb 0 0\nclient-output-buffer-limit pubsub 1mb 0 0\n",
        );
        assert_eq!(spec.foreign, [""; 0]);
        assert_eq!(spec.get("maxmemory"), Some("67108864"));
        assert_eq!(spec.get("replica-priority"), Some("5"));
        assert_eq!(spec.get("save"), Some("900 1 300 10"));
        let limits = "normal 0 0 0 slave 1048576 0 0 pubsub 1048576 0 0";
        assert_eq!(spec.get("client-output-buffer-limit"), Some(limits));
        assert_eq!(spec_of("dir \"/x y\"\nsave 900 1\nsave \"\"\n").get("save"), Some(""));
    }

    #[test]
    fn what_is_not_ours_is_named_without_its_secrets() {
        let spec = spec_of("dir /y\nuser a on >hunter2\nrequirepass hunter2\nwhat hunter2\ntimeout \"x\nhz 9999\n");
        assert_eq!(spec.foreign.len(), 5, "{:?}", spec.foreign);
        assert!(!format!("{spec:?}").contains("hunter2"));
        assert!(spec_of("").foreign.contains(&"missing: dir".to_owned()));
    }

    #[test]
    fn a_broken_acl_file_keeps_its_good_lines() {
        let found = parse_users("user a on ~* +@all\nrubbish\n");
        assert!(found.users.contains_key("a") && found.unreadable);
        assert!(found.broken.unwrap().contains("line 2"));
        assert!(parse_users("user a on +@all\n").broken.unwrap().contains("default"));
    }
}
