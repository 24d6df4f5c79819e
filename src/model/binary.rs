//! What one build of valkey-server says about itself: the plan's only source of setting and ACL names.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::acl::AclNames;
use super::name::SettingName;
use super::setting::{Kind, Settings, ValueError, canonical};
use super::spec::InstanceSpec;

/// The facts of one binary, found by asking a throwaway server of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinaryFacts {
    /// Such as `8.0.1`.
    pub version: String,
    /// Every setting that `CONFIG GET` shows, by its current name.
    pub settings: BTreeMap<SettingName, SettingFacts>,
    /// Other spellings of a setting, such as `slave-priority`.
    pub aliases: BTreeMap<SettingName, SettingName>,
    pub acl: AclNames,
}

/// One setting of one binary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingFacts {
    pub default: String,
    /// Can be changed by `CONFIG SET`; otherwise by a restart.
    pub runtime: bool,
    pub kind: Kind,
}

impl BinaryFacts {
    /// A setting by its current name or another spelling.
    pub fn setting(&self, name: &SettingName) -> Option<(&SettingName, &SettingFacts)> {
        let current = self.aliases.get(name).unwrap_or(name);
        self.settings.get_key_value(current)
    }

    /// The canonical form of a value.
    ///
    /// # Errors
    /// When the server would refuse the value.
    pub fn canonical(&self, name: &SettingName, value: &str) -> Option<Result<(SettingName, String), ValueError>> {
        let (name, facts) = self.setting(name)?;
        Some(canonical(name.as_str(), &facts.kind, &facts.default, value).map(|form| (name.clone(), form)))
    }

    pub fn default_of(&self, name: &SettingName) -> Option<&str> {
        self.settings.get(name).map(|facts| facts.default.as_str())
    }

    /// As these settings have it, or this binary's default.
    pub fn value<'a>(&'a self, spec: &'a InstanceSpec, name: &str) -> Option<&'a str> {
        spec.get(name).or_else(|| self.settings.get(name).map(|facts| facts.default.as_str()))
    }

    /// A setting that is a number: as these settings have it, or this binary's default.
    pub fn number(&self, spec: &InstanceSpec, name: &str) -> Option<u64> {
        self.value(spec, name)?.parse().ok()
    }

    /// Does a server with these settings write a snapshot when it is stopped?
    pub fn snapshots(&self, spec: &InstanceSpec) -> bool {
        let usual = self.settings.get("save").map(|facts| facts.default.as_str());
        spec.get("save").or(usual).is_some_and(|points| !points.is_empty())
    }

    /// Does a server with these settings keep its data over a stop?
    pub fn persists(&self, spec: &InstanceSpec) -> bool {
        spec.aof() || self.snapshots(spec)
    }

    /// Only what differs from this binary's defaults: the form in which memory is compared.
    pub fn without_defaults(&self, settings: &Settings) -> Settings {
        let differs = |(name, value): &(&SettingName, &String)| self.default_of(name) != Some(value.as_str());
        settings.iter().filter(differs).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// Does a memory that shows only what differs from the defaults show what is declared, and nothing else?
    pub fn is_in_force(&self, memory: &InstanceSpec, declared: &InstanceSpec) -> bool {
        let differs = |(name, value): &(&SettingName, &String)| self.default_of(name) != Some(value.as_str());
        memory.foreign.is_empty() && memory.settings.iter().eq(declared.settings.iter().filter(differs))
    }

    /// The known name most like this one, for "did you mean".
    pub fn nearest_setting(&self, name: &str) -> Option<&str> {
        nearest(name, self.settings.keys().map(Borrow::borrow))
    }
}

/// The candidate most like `name`, if it is like enough: one letter differs, or fewer than a third do.
pub fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| {
            let letters = name.chars().count().max(candidate.chars().count());
            *distance * 3 < letters || (*distance == 1 && letters > 2)
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Settings that valkeeper itself sets, each with where to say what is meant instead.
///
/// The sources are facts B.3 (one ACL file, never `requirepass`), C (paths), E.3 (roles are facts).
pub const OURS: &[(&str, &str)] = &[
    ("aclfile", "declare users in [instances.X.users.Y]"),
    ("appenddirname", "it is fixed inside the instance's data folder"),
    ("appendfilename", "it is fixed inside the instance's data folder"),
    ("bind", "say address in [nodes.X]"),
    ("cluster-config-file", "cluster mode is not offered: valkeeper keeps primaries and replicas"),
    ("cluster-enabled", "cluster mode is not offered: valkeeper keeps primaries and replicas"),
    ("cluster-port", "cluster mode is not offered: valkeeper keeps primaries and replicas"),
    ("daemonize", "the node's supervisor starts the server"),
    ("dbfilename", "it is fixed inside the instance's data folder"),
    ("dir", "the data folder follows from the node and the instance's name"),
    ("enable-protected-configs", "it would let a client move the data folder"),
    ("include", "say every setting in config"),
    ("loadmodule", "modules are not offered yet"),
    ("logfile", "the log goes to the node's own place: the journal, or log/ in a local state folder"),
    ("masterauth", "replication credentials are made on the nodes"),
    ("masteruser", "replication credentials are made on the nodes"),
    ("maxmemory", "say max_memory_mb"),
    ("maxmemory-policy", "say maxmemory_policy"),
    ("pidfile", "the node's supervisor knows the process"),
    ("port", "say port of the instance, or ports of the shard"),
    ("primaryauth", "replication credentials are made on the nodes"),
    ("primaryuser", "replication credentials are made on the nodes"),
    ("rename-command", "take the command away with a privilege such as \"-flushall\""),
    ("replica-read-only", "a replica that takes writes loses them: write to the primary"),
    ("replicaof", "list several nodes in the shard"),
    ("requirepass", "declare users in [instances.X.users.Y]; the default user stays closed"),
    ("slave-read-only", "a replica that takes writes loses them: write to the primary"),
    ("slaveof", "list several nodes in the shard"),
    ("supervised", "the node's supervisor starts the server"),
    (
        "tls-key-file-pass",
        "a secret has no place in a setting; use a key file without a pass phrase, readable by the server only",
    ),
    ("unixsocket", "the socket's place follows from the node and the instance's name"),
    ("unixsocketgroup", "the socket is for valkeeper alone"),
    ("unixsocketperm", "the socket is for valkeeper alone"),
    ("user", "declare users in [instances.X.users.Y]"),
];

/// Where to say it instead, if this setting is valkeeper's own to set.
pub fn ours(name: &str) -> Option<&'static str> {
    OURS.iter().find(|(known, _)| *known == name).map(|(_, instead)| *instead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        let known = ["maxmemory", "maxclients", "timeout"];
        assert_eq!(nearest("maxmemroy", known.into_iter()), Some("maxmemory"));
        assert_eq!(nearest("colour", known.into_iter()), None);
        assert_eq!(nearest("nosuch", ["touch"].into_iter()), None);
        assert_eq!(nearest("gte", ["get"].into_iter()), Some("get"));
    }

    #[test]
    fn our_settings_are_sorted_and_once() {
        assert!(OURS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
