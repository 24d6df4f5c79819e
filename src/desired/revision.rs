//! Names a desired state by what it says: a digest over its values, whatever the layout, comments and order of the text.
//!
//! Passwords enter as fingerprints. Structs are taken apart without `..`, so that a new field must be thought about.

use sha2::{Digest as _, Sha256};

use crate::model::desired::{
    Desired, DesiredInstance, DesiredNode, DesiredSelector, DesiredUser, Ensure, Guard, Mode, MoveBy, Reach, Shard,
    UndeclaredUsers, WithoutRoom,
};

/// How many hex digits name a revision: 48 bits, enough to tell the revisions of one fleet apart.
const DIGITS: usize = 12;
/// Text is handed to the hash in pieces of about this size. Bytes.
const BUFFER_BYTES: usize = 1 << 16;

/// The digest of all that is declared.
pub(super) fn revision(desired: &Desired) -> String {
    let Desired { fleet, revision: _, mode, guard, nodes, shards, tenants, instances } = desired;
    let mut text = Canonical { hash: Sha256::new(), buffer: String::with_capacity(BUFFER_BYTES * 2) };
    text.line("fleet", &[fleet.as_str(), mode_word(*mode)]);
    add_guard(&mut text, guard);
    for (name, DesiredNode { at: _, reach, address, drain }) in nodes {
        let (kind, place) = match reach {
            Reach::Local(folder) => ("local", folder),
            Reach::Ssh(destination) => ("ssh", destination),
        };
        let address = address.map(|address| address.to_string()).unwrap_or_default();
        text.line("node", &[name.as_str(), kind, place, &address]);
        if *drain {
            text.line("drain", &[]);
        }
    }
    for (name, Shard { at: _, nodes, ports }) in shards {
        text.line("shard", &[name.as_str(), &ports.start().to_string(), &ports.end().to_string()]);
        nodes.iter().for_each(|node| text.line("of", &[node.as_str()]));
    }
    tenants.iter().for_each(|tenant| text.line("tenant", &[tenant.as_str()]));
    for (name, instance) in instances {
        add_instance(&mut text, name.as_str(), instance);
    }
    text.finish()
}

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Correct => "correct",
        Mode::Observe => "observe",
    }
}

fn add_guard(text: &mut Canonical, guard: &Guard) {
    let Guard { prune, max_deletes, max_restarts, retain_deleted, handover_grace, undeclared_users, without_room } = guard;
    let undeclared = match undeclared_users {
        UndeclaredUsers::Keep => "keep",
        UndeclaredUsers::Remove => "remove",
    };
    let numbers = [max_deletes.to_string(), max_restarts.to_string(), retain_deleted.as_millis().to_string()];
    let [deletes, restarts, retain] = &numbers;
    text.line("guard", &[yes(*prune), deletes, restarts, retain, undeclared]);
    // The usual one is left out, so that a text keeps the name it had before there was this key.
    if *handover_grace != Guard::default().handover_grace {
        text.line("handover_grace", &[&handover_grace.as_millis().to_string()]);
    }
    match without_room {
        WithoutRoom::Hold => {}
        WithoutRoom::Warn => text.line("without_room", &["warn"]),
    }
}

fn add_instance(text: &mut Canonical, name: &str, instance: &DesiredInstance) {
    let DesiredInstance { at: _, tenant, shard, ensure, protect, mode, port, primary, move_by, settings, users } = instance;
    let ensure = match ensure {
        Ensure::Present => "present",
        Ensure::Absent => "absent",
    };
    let tenant = tenant.as_ref().map_or("", |tenant| tenant.as_str());
    let port = port.map(|port| port.to_string()).unwrap_or_default();
    text.line("instance", &[name, tenant, shard.as_str(), ensure, yes(*protect), mode_word(*mode), &port]);
    if let Some(primary) = primary {
        text.line("primary", &[primary.as_str()]);
    }
    match move_by {
        MoveBy::Replication => {}
        MoveBy::Snapshot => text.line("move", &["snapshot"]),
        MoveBy::SnapshotUnfenced => text.line("move", &["snapshot-unfenced"]),
    }
    for (setting, value) in settings {
        text.line("set", &[setting.as_str(), &value.value]);
    }
    for (name, user) in users {
        let DesiredUser { at: _, enabled, root, selectors, wanted: _ } = user;
        text.line("user", &[name.as_str(), yes(*enabled)]);
        for password in user.passwords() {
            text.line("password", &[&password.fingerprint().to_string()]);
        }
        add_rights(text, "root", root);
        selectors.iter().for_each(|selector| add_rights(text, "selector", selector));
    }
}

fn add_rights(text: &mut Canonical, kind: &str, rights: &DesiredSelector) {
    let DesiredSelector { privileges, keys, channels } = rights;
    text.line(kind, &[]);
    privileges.iter().for_each(|word| text.line("may", &[&word.value]));
    keys.iter().for_each(|word| text.line("key", &[word]));
    channels.iter().for_each(|word| text.line("channel", &[word]));
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// Lines of words, each with its length before it, so that no two states have one text.
struct Canonical {
    hash: Sha256,
    buffer: String,
}

impl Canonical {
    fn line(&mut self, kind: &str, words: &[&str]) {
        self.buffer.push_str(kind);
        for word in words {
            self.length(word.len());
            self.buffer.push_str(word);
        }
        self.buffer.push('\n');
        if self.buffer.len() >= BUFFER_BYTES {
            self.hash.update(self.buffer.as_bytes());
            self.buffer.clear();
        }
    }

    fn length(&mut self, length: usize) {
        self.buffer.push(' ');
        self.buffer.push_str(&length.to_string());
        self.buffer.push(':');
    }

    fn finish(mut self) -> String {
        self.hash.update(self.buffer.as_bytes());
        let digest: [u8; 32] = self.hash.finalize().into();
        base16ct::lower::encode_string(&digest).chars().take(DIGITS).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::desired::{Secrets, Source, parse};

    fn revision(text: &str) -> String {
        let source = Source { name: "x.toml".to_owned(), text: text.to_owned() };
        parse(&[source], &Secrets::Placeholder).unwrap().revision
    }

    const TEXT: &str = r#"
[fleet]
name = "f"
[guard]
max_deletes = 3
[nodes.n]
local = "./n"
[nodes.m]
ssh = "m"
address = "10.0.0.1"
[shards.s]
nodes = ["n"]
ports = "6400-6401"
[tenants.t]
[instances.i]
shard = "s"
tenant = "t"
port = 6400
max_memory_mb = 5
[instances.i.users.u]
password_sha256 = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
privileges = ["+get", "-set"]
key_pattern = "~a"
channels = ["&c"]
selectors = [{ privileges = ["+ping"] }]
"#;

    #[test]
    fn layout_comments_and_what_is_default_anyway_do_not_matter() {
        let first = revision(TEXT);
        assert_eq!(first.len(), 12);
        assert_eq!(revision(&format!("# a comment\n{}", TEXT.replace(" = ", "   =  "))), first);
        assert_eq!(revision(&TEXT.replace("max_deletes = 3", "max_deletes = 3\nprune = false")), first);
        assert_eq!(revision(&TEXT.replace("port = 6400\n", "port = 6400\nensure = \"present\"\n")), first);
    }

    #[test]
    fn every_value_matters() {
        let first = revision(TEXT);
        let mut seen = vec![first];
        for (old, new) in [
            ("name = \"f\"", "name = \"g\""),
            ("max_deletes = 3", "max_deletes = 4"),
            ("max_deletes = 3", "prune = true"),
            ("max_deletes = 3", "retain_deleted = \"8d\""),
            ("max_deletes = 3", "max_restarts = 3"),
            ("max_deletes = 3", "undeclared_users = \"remove\""),
            ("max_deletes = 3", "without_room = \"warn\""),
            ("local = \"./n\"", "local = \"./n\"\ndrain = true"),
            ("\"./n\"", "\"./o\""),
            ("\"m\"", "\"mm\""),
            ("10.0.0.1", "10.0.0.2"),
            ("[\"n\"]", "[\"m\"]"),
            ("6400-6401", "6400-6402"),
            ("[tenants.t]", "[tenants.t]\n[tenants.tt]"),
            ("tenant = \"t\"\n", ""),
            ("port = 6400\n", ""),
            ("port = 6400\n", "protect = true\n"),
            ("port = 6400\n", "move = \"snapshot\"\n"),
            ("port = 6400\n", "move = \"snapshot-unfenced\"\n"),
            ("port = 6400\n", "ensure = \"absent\"\n"),
            ("max_memory_mb = 5", "max_memory_mb = 6"),
            ("max_memory_mb = 5", "config.timeout = 6"),
            ("users.u]", "users.v]"),
            ("users.u]", "users.u]\nenabled = false"),
            ("5e88", "6e88"),
            ("[\"+get\", \"-set\"]", "[\"-set\", \"+get\"]"),
            ("[\"+get\", \"-set\"]", "[\"+get\"]"),
            ("\"~a\"", "\"~b\""),
            ("\"&c\"", "\"&d\""),
            ("[\"+ping\"]", "[\"+ping\"], channels = [\"&c\"]"),
            ("selectors =", "#"),
        ] {
            assert!(TEXT.contains(old), "{old}");
            let changed = revision(&TEXT.replacen(old, new, 1));
            assert!(!seen.contains(&changed), "{old} -> {new}");
            seen.push(changed);
        }
    }
}
