//! What is wanted of one member, judged and brought to canonical form by the node's own server.

use std::net::IpAddr;
use std::sync::LazyLock;

use crate::model::acl::{WordError, check_known};
use crate::model::action::{WantedUser, WantedUsers};
use crate::model::binary::{BinaryFacts, nearest};
use crate::model::desired::{DesiredInstance, DesiredUser, Located, Origin};
use crate::model::name::{NodeName, SettingName};
use crate::model::plan::Refusal;
use crate::model::setting::Settings;
use crate::model::spec::InstanceSpec;

/// The declared settings in canonical form, without `port` and `bind`, and the users.
#[derive(Debug)]
pub(super) struct Wanted {
    pub settings: Settings,
    pub users: WantedUsers,
}

impl Wanted {
    /// What the config file is to declare; it takes the settings out.
    pub(super) fn take_spec(&mut self, port: u16, address: Option<IpAddr>) -> InstanceSpec {
        let mut spec = InstanceSpec::new(std::mem::take(&mut self.settings));
        spec.set(&PORT, port.to_string());
        spec.set(&BIND, bind(address));
        spec
    }
}

static PORT: LazyLock<SettingName> = LazyLock::new(|| SettingName::known("port"));
static BIND: LazyLock<SettingName> = LazyLock::new(|| SettingName::known("bind"));

/// Loopback, and the node's address where others reach it. `-` lets a server start on a host without IPv6.
fn bind(address: Option<IpAddr>) -> String {
    match address.filter(|address| !address.is_loopback()) {
        Some(address) => format!("127.0.0.1 -::1 {address}"),
        None => "127.0.0.1 -::1".to_owned(),
    }
}

/// Judges a declaration by the node's own server.
///
/// # Errors
/// All that this server would refuse, each at its place.
pub(super) fn wanted(instance: &DesiredInstance, node: &NodeName, binary: &BinaryFacts) -> Result<Wanted, Vec<Refusal>> {
    let judge = Judge { node, binary };
    let mut refused = Vec::new();
    let mut settings = Settings::new();
    for (name, value) in &instance.settings {
        match judge.setting(name, value) {
            Ok((name, value)) => {
                if settings.insert(name.clone(), value).is_some() {
                    refused.push(judge.said_twice(&name, instance));
                }
            }
            Err(refusal) => refused.push(refusal),
        }
    }
    let mut users = WantedUsers::new();
    for (name, user) in &instance.users {
        match judge.user(user, &mut refused) {
            Some(user) => drop(users.insert(name.clone(), user)),
            None => continue,
        }
    }
    if refused.is_empty() { Ok(Wanted { settings, users }) } else { Err(refused) }
}

struct Judge<'a> {
    node: &'a NodeName,
    binary: &'a BinaryFacts,
}

impl Judge<'_> {
    fn server(&self) -> String {
        format!("valkey-server {} on node {}", self.binary.version, self.node)
    }

    fn setting(&self, name: &SettingName, value: &Located<String>) -> Result<(SettingName, String), Refusal> {
        match self.binary.canonical(name, &value.value) {
            Some(Ok(form)) => Ok(form),
            Some(Err(error)) => Err(Refusal {
                at: value.at,
                problem: format!("{name} cannot be {:?}", value.value),
                cure: format!("{}: {name} {error}", self.server()),
            }),
            None => {
                let hint = self.binary.nearest_setting(name.as_str()).map(|near| format!("; did you mean {near}?"));
                Err(Refusal {
                    at: value.at,
                    problem: format!("unknown setting {name}"),
                    cure: format!("{} has no such setting{}", self.server(), hint.unwrap_or_default()),
                })
            }
        }
    }

    fn said_twice(&self, name: &SettingName, instance: &DesiredInstance) -> Refusal {
        let spellings: Vec<&str> =
            instance.settings.keys().map(SettingName::as_str).filter(|other| self.is(name, other)).collect();
        let at = instance.settings.iter().find(|(other, _)| self.is(name, other.as_str())).map(|(_, value)| value.at);
        Refusal {
            at: at.unwrap_or(instance.at),
            problem: format!("{name} is set twice"),
            cure: format!("{} mean the same setting: keep one", spellings.join(" and ")),
        }
    }

    fn is(&self, name: &SettingName, other: &str) -> bool {
        name.as_str() == other || self.binary.aliases.get(other) == Some(name)
    }

    /// The words are in the server's form already; whether it knows them is asked here.
    fn user(&self, user: &DesiredUser, refused: &mut Vec<Refusal>) -> Option<WantedUser> {
        let before = refused.len();
        for word in std::iter::once(&user.root).chain(&user.selectors).flat_map(|selector| &selector.privileges) {
            if let Err(error) = check_known(&word.value, &self.binary.acl) {
                refused.push(self.refusal(&error, &word.value, word.at));
            }
        }
        match user.wanted() {
            Ok(wanted) => (refused.len() == before).then(|| wanted.clone()),
            Err(error) => {
                refused.push(self.refusal(error, "", user.at));
                None
            }
        }
    }

    fn refusal(&self, error: &WordError, word: &str, at: Origin) -> Refusal {
        let acl = &self.binary.acl;
        let commands = || acl.commands().iter().map(|name| &**name);
        let near = match error {
            WordError::UnknownCommand(name) | WordError::UnknownSubcommand(name) => nearest(name, commands()),
            WordError::UnknownCategory(name) => nearest(name, acl.categories().chain(["all"])),
            WordError::Refused { .. } => None,
        };
        let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        let (problem, cure) = match error {
            WordError::UnknownCommand(name) => (format!("unknown command {name:?}"), "has no such command"),
            WordError::UnknownSubcommand(name) => (format!("unknown subcommand {name:?}"), "has no such subcommand"),
            WordError::UnknownCategory(name) => (format!("unknown category {name:?}"), "has no such category"),
            WordError::Refused { word: _, problem } => (format!("{word:?}: {problem}"), "would refuse it"),
        };
        Refusal { at, problem, cure: format!("{} {cure}{hint}", self.server()) }
    }
}
