//! The command and category names one server knows.
//!
//! Read from the server itself (`ACL CAT`), because they differ by version and by loaded modules; never a static table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The names one server's ACL engine knows, all in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(from = "Categories", into = "Categories")]
pub struct AclNames {
    /// Sorted: `get`, `config`, `config|get`, …
    commands: Vec<Box<str>>,
    /// Each category with the sorted indices of its commands.
    categories: BTreeMap<Box<str>, Vec<u16>>,
}

type Categories = BTreeMap<String, Vec<String>>;

impl AclNames {
    /// From the replies of `ACL CAT <category>`. Every command is in exactly one of `fast` and `slow` (facts A.2), so the
    /// union of all categories is the list of all commands.
    pub fn new(categories: &BTreeMap<String, Vec<String>>) -> Self {
        let mut commands: Vec<Box<str>> = categories.values().flatten().map(|name| name.to_ascii_lowercase().into()).collect();
        commands.sort_unstable();
        commands.dedup();
        let index = |name: &String| commands.binary_search(&name.to_ascii_lowercase().into()).ok();
        let categories = categories
            .iter()
            .map(|(category, members)| {
                let mut members: Vec<u16> = members.iter().filter_map(index).map(narrow).collect();
                members.sort_unstable();
                (category.to_ascii_lowercase().into(), members)
            })
            .collect();
        Self { commands, categories }
    }

    pub fn has_command(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    pub fn has_category(&self, name: &str) -> bool {
        self.categories.contains_key(name)
    }

    /// Does this command have subcommands (`config`, `client`)?
    pub fn is_container(&self, name: &str) -> bool {
        !self.subcommands(name).is_empty()
    }

    pub fn commands(&self) -> &[Box<str>] {
        &self.commands
    }

    pub fn categories(&self) -> impl Iterator<Item = &str> {
        self.categories.keys().map(|name| &**name)
    }

    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.commands.binary_search_by(|known| (**known).cmp(name)).ok()
    }

    pub(super) fn members(&self, category: &str) -> &[u16] {
        self.categories.get(category).map_or(&[], Vec::as_slice)
    }

    /// The positions of `name|…`.
    pub(super) fn subcommands(&self, name: &str) -> std::ops::Range<usize> {
        // '|' sorts after every character of a command name, so the subcommands stand together, if not right behind it.
        let start = self.commands.partition_point(|known| (**known) < *format!("{name}|"));
        let count = self.commands.iter().skip(start).take_while(|known| is_sub_of(known, name)).count();
        start..start + count
    }
}

fn is_sub_of(known: &str, name: &str) -> bool {
    known.strip_prefix(name).is_some_and(|rest| rest.starts_with('|'))
}

/// A server has a few hundred commands; a hostile one may claim more, and those are left out of the categories.
fn narrow(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

impl From<Categories> for AclNames {
    fn from(categories: Categories) -> Self {
        Self::new(&categories)
    }
}

impl From<AclNames> for Categories {
    fn from(names: AclNames) -> Self {
        let name = |index: &u16| names.commands.get(usize::from(*index)).map(ToString::to_string);
        names
            .categories
            .iter()
            .map(|(category, members)| (category.to_string(), members.iter().filter_map(name).collect()))
            .collect()
    }
}
