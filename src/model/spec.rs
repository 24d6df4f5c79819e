//! What a `valkey-server` process is set to.

use serde::{Deserialize, Serialize};

use super::name::SettingName;
use super::setting::Settings;

/// The settings of one member, declared or found. On disk: what the config file says. In memory: what differs from the
/// binary's defaults. Paths and supervision are not part of it: they follow from the node (`host/layout.rs`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct InstanceSpec {
    #[serde(default)]
    pub settings: Settings,
    /// What was found and is not ours: lines of the config file that we did not write, or path settings that differ.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<String>,
}

impl InstanceSpec {
    pub fn new(settings: Settings) -> Self {
        Self { settings, foreign: Vec::new() }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    pub fn port(&self) -> Option<u16> {
        self.get("port").and_then(|port| port.parse().ok())
    }

    pub fn set(&mut self, name: &SettingName, value: impl Into<String>) {
        self.settings.insert(name.clone(), value.into());
    }

    pub fn aof(&self) -> bool {
        self.get("appendonly") == Some("yes")
    }
}
