//! The state language as one table of keys: the only place that says which keys there are and what they take.
//!
//! Three things follow from it: which keys are unknown ([`super::reader`]), the wording of "takes …", and the JSON
//! Schema ([`super::json_schema`]). It knows nothing of values that were written.

use std::collections::BTreeSet;

use crate::model::name::{DEFAULT_USER, OPERATOR_USER, REPLICA_USER};

/// The largest memory limit, in MiB: its bytes still fit the server's signed 64 bits.
pub const MEMORY_MB_MAX: i64 = i64::MAX >> 20;
/// The lowest port: those below need root, and instances run without it.
pub const PORT_MIN: i64 = 1024;
pub const PORT_MAX: i64 = 65535;
/// Users that cannot be declared, because valkeeper keeps them itself.
pub const RESERVED_USERS: &[&str] = &[DEFAULT_USER, OPERATOR_USER, REPLICA_USER];

/// One TOML table: its keys, and what must hold between them.
#[derive(Debug)]
pub struct Table {
    pub about: &'static str,
    /// How it is written, in messages.
    pub form: &'static str,
    pub keys: &'static [&'static Key],
    /// Exactly one of these keys must be there.
    pub exactly_one: &'static [&'static str],
    /// At least one of these keys must be there.
    pub at_least_one: &'static [&'static str],
    /// Where the first key is, the second must be too.
    pub needs: Option<(&'static str, &'static str)>,
}

/// One key of a table.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    /// A sentence for editors.
    pub about: &'static str,
    pub shape: Shape,
    pub required: bool,
    /// The value that stands if the key is left out, as TOML.
    pub default: Option<&'static str>,
}

/// What a key takes.
#[derive(Debug)]
pub enum Shape {
    Text(&'static Text),
    Boolean,
    Integer {
        min: i64,
        max: i64,
    },
    Choice(&'static [&'static str]),
    /// A list; `at_least` is how many entries it must have.
    List {
        of: &'static Shape,
        at_least: usize,
    },
    /// One value, or a list of them.
    OneOrMany(&'static Shape),
    /// Server settings by name.
    Settings,
    Table(&'static Table),
    /// A list of tables, written `[[…]]`.
    Tables(&'static Table),
    /// Tables by name, written `[nodes.NAME]`.
    Named(&'static Text, &'static Table),
}

/// A kind of string.
#[derive(Debug)]
pub struct Text {
    /// What it is, with its article.
    pub what: &'static str,
    /// A regular expression (ECMA 262) for editors; what counts is the check in Rust.
    pub pattern: Option<&'static str>,
    /// Strings of this form that are refused all the same.
    pub except: &'static [&'static str],
}

pub(super) const fn text(what: &'static str, pattern: Option<&'static str>) -> Text {
    Text { what, pattern, except: &[] }
}

const SLUG: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
static FLEET_NAME: Text = text("a fleet name", Some(SLUG));
static NODE_NAME: Text = text("a node name", Some(SLUG));
static SHARD_NAME: Text = text("a shard name", Some(SLUG));
static TENANT_NAME: Text = text("a tenant name", Some(SLUG));
static INSTANCE_NAME: Text = text("an instance name", Some(SLUG));
static USER_NAME: Text = Text { what: "a user name", pattern: Some("^[A-Za-z0-9_.:@-]{1,128}$"), except: RESERVED_USERS };
static DURATION: Text = text("a duration such as \"7d\" or \"12h 30m\"", None);
static DESTINATION: Text = text("an ssh destination such as \"root@n1.example.com\"", Some("^[^-\\s][^\\s]*$"));
static FOLDER: Text = text("a folder such as \"./state\"", Some("^.+$"));
static ADDRESS: Text = text("an IP address such as \"10.0.0.11\"", Some("^[0-9A-Fa-f:.]+$"));
static PORTS: Text = text("a range of ports such as \"6400-6499\"", Some("^[0-9]{4,5}-[0-9]{4,5}$"));
static POLICY: Text = text("an eviction policy such as \"allkeys-lru\"", None);
static HASH: Text = text("a SHA-256 of 64 lower-case hex digits", Some("^[0-9a-f]{64}$"));
static FILE_NAME: Text = text("the name of a file", Some("^.+$"));
static VARIABLE: Text = text("the name of an environment variable", Some("^[A-Za-z_][A-Za-z0-9_]*$"));
static PRIVILEGE: Text =
    text("a command rule such as \"+@read\" or \"-flushall\"", Some("^([+-]@?[A-Za-z0-9_.|-]+|allcommands|nocommands)$"));
static KEY_PATTERN_TEXT: Text =
    text("a key pattern such as \"~app:*\"; \"%R~…\" for reading only", Some("^(%[RrWw]{1,2})?~[^\\s\"']+$"));
static CHANNEL: Text = text("a channel pattern such as \"&events:*\"", Some("^&[^\\s\"']+$"));

pub(super) const fn key(name: &'static str, about: &'static str, shape: Shape) -> Key {
    Key { name, about, shape, required: false, default: None }
}

impl Key {
    pub(super) const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    pub(super) const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }
}

pub(super) const fn table(about: &'static str, keys: &'static [&'static Key]) -> Table {
    Table { about, form: "a table", keys, exactly_one: &[], at_least_one: &[], needs: None }
}

pub static ROOT: Table = table(
    "The wanted state of a fleet of Valkey instances.",
    &[&FLEET, &GUARD, &NODES, &SHARDS, &TENANTS, &DEFAULTS, &INSTANCES],
);
pub static FLEET: Key = key("fleet", "Which fleet this is.", Shape::Table(&FLEET_TABLE)).required();
pub static GUARD: Key = key("guard", "The brakes.", Shape::Table(&GUARD_TABLE));
pub static NODES: Key = key("nodes", "The hosts, by name.", Shape::Named(&NODE_NAME, &NODE_TABLE));
pub static SHARDS: Key = key("shards", "Lists of nodes that carry instances, by name.", Shape::Named(&SHARD_NAME, &SHARD_TABLE));
pub static TENANTS: Key = key("tenants", "Who instances belong to, by name.", Shape::Named(&TENANT_NAME, &TENANT_TABLE));
pub static DEFAULTS: Key = key("defaults", "Settings for every instance.", Shape::Table(&DEFAULTS_TABLE));
pub static INSTANCES: Key =
    key("instances", "The instances, by name: one dataset each.", Shape::Named(&INSTANCE_NAME, &INSTANCE_TABLE));

pub static FLEET_TABLE: Table = table("Which fleet this is.", &[&NAME, &MODE]);
pub static NAME: Key =
    key("name", "The name of the fleet. Nodes remember it: data of another fleet is never touched.", Shape::Text(&FLEET_NAME))
        .required();

pub static MODE: Key = key(
    "mode",
    "What happens to differences: they are put right, or only reported (nothing is changed then).",
    Shape::Choice(&["correct", "observe"]),
)
.default("\"correct\"");

pub static GUARD_TABLE: Table = table(
    "The brakes.",
    &[&PRUNE, &MAX_DELETES, &MAX_RESTARTS, &RETAIN_DELETED, &HANDOVER_GRACE, &UNDECLARED_USERS, &WITHOUT_ROOM],
);
pub static PRUNE: Key =
    key("prune", "Delete an instance whose block vanished from the text; otherwise it is reported and kept.", Shape::Boolean)
        .default("false");
pub static MAX_DELETES: Key = key(
    "max_deletes",
    "How many instances one revision may delete; one that deletes more waits for an approval.",
    Shape::Integer { min: 0, max: 1_000_000 },
)
.default("1");
pub static MAX_RESTARTS: Key =
    key("max_restarts", "How many servers may be restarted at once, over the whole fleet. One counts until it is up, and a replica until it follows again.", Shape::Integer { min: 1, max: 1_000_000 }).default("1");
pub static RETAIN_DELETED: Key =
    key("retain_deleted", "How long the data of a deleted instance is set aside, at most 100 years.", Shape::Text(&DURATION))
        .default("\"7d\"");
pub static HANDOVER_GRACE: Key = key(
    "handover_grace",
    "How long the old server of an instance that was moved stays up and sends its clients to the new one, at most 100 years.",
    Shape::Text(&DURATION),
)
.default("\"1h\"");
pub static UNDECLARED_USERS: Key = key(
    "undeclared_users",
    "What happens to users that nobody declared and valkeeper did not create.",
    Shape::Choice(&["keep", "remove"]),
)
.default("\"keep\"");

pub static WITHOUT_ROOM: Key = key(
    "without_room",
    "What happens where the instances of a node may take more memory together than it has, or a new one has no room on its disk for two copies of its data.",
    Shape::Choice(&["hold", "warn"]),
)
.default("\"hold\"");

pub static NODE_TABLE: Table = Table {
    exactly_one: &["ssh", "local"],
    needs: Some(("ssh", "address")),
    ..table("A host: this machine (local), or one reached over ssh.", &[&SSH, &LOCAL, &NODE_ADDRESS, &DRAIN])
};
pub static SSH: Key =
    key("ssh", "Where to reach the host: a destination that ssh_config understands.", Shape::Text(&DESTINATION));
pub static LOCAL: Key = key(
    "local",
    "A folder on this machine: servers run below it without root, systemd or ssh. Relative to the folder of this file, or to --local-root.",
    Shape::Text(&FOLDER),
);
pub static NODE_ADDRESS: Key =
    key("address", "Where other nodes and clients reach its instances; they listen on loopback and here.", Shape::Text(&ADDRESS));

pub static DRAIN: Key =
    key("drain", "Place nothing new on it; what is there stays until it is moved or deleted.", Shape::Boolean).default("false");

pub static SHARD_TABLE: Table = table("A list of nodes that carry instances.", &[&SHARD_NODES, &SHARD_PORTS]);
pub static SHARD_NODES: Key = key(
    "nodes",
    "The nodes; the first is the primary of a new instance.",
    Shape::List { of: &Shape::Text(&NODE_NAME), at_least: 1 },
)
.required();
pub static SHARD_PORTS: Key = key(
    "ports",
    "The ports that its instances are given, first and last; local nodes share the ports of this machine.",
    Shape::Text(&PORTS),
)
.required();

pub static TENANT_TABLE: Table = table("Who an instance belongs to.", &[]);

pub static DEFAULTS_TABLE: Table = table("Settings for every instance.", &[&MAX_MEMORY_MB, &MAXMEMORY_POLICY, &CONFIG]);
pub static MAX_MEMORY_MB: Key =
    key("max_memory_mb", "Memory for data, in MiB.", Shape::Integer { min: 1, max: MEMORY_MB_MAX }).default("64");
pub static MAXMEMORY_POLICY: Key =
    key("maxmemory_policy", "What is evicted when the memory is full.", Shape::Text(&POLICY)).default("\"allkeys-lru\"");
pub static CONFIG: Key = key(
    "config",
    "Any other server setting by its own name, as in valkey.conf. The node's own server judges it.",
    Shape::Settings,
);

pub static INSTANCE_TABLE: Table = table(
    "One dataset.",
    &[&TENANT, &SHARD, &MAX_MEMORY_MB, &MAXMEMORY_POLICY, &PORT, &PRIMARY, &MOVE, &PROTECT, &MODE, &ENSURE, &CONFIG, &USERS],
);
pub static TENANT: Key = key("tenant", "Who it belongs to: a name in [tenants].", Shape::Text(&TENANT_NAME));
pub static SHARD: Key = key("shard", "Where it lives: a name in [shards].", Shape::Text(&SHARD_NAME)).required();
pub static PORT: Key = key(
    "port",
    "The port, also outside the range of its shard; if left out, the lowest free one of that range, which then stays.",
    Shape::Integer { min: PORT_MIN, max: PORT_MAX },
);
pub static PRIMARY: Key =
    key("primary", "The node that shall be primary: a planned switch-over. One of the shard's nodes.", Shape::Text(&NODE_NAME));
pub static MOVE: Key = key(
    "move",
    "How its data goes to another shard: by replication; or, where the nodes cannot reach each other, as a snapshot, without writes \
     meanwhile, or with writes that are then lost (\"snapshot-unfenced\").",
    Shape::Choice(&["replication", "snapshot", "snapshot-unfenced"]),
)
.default("\"replication\"");
pub static PROTECT: Key =
    key("protect", "Never delete it, even if this block goes; kept with the instance on its nodes.", Shape::Boolean)
        .default("false");
pub static ENSURE: Key =
    key("ensure", "\"absent\" is the explicit way to delete it.", Shape::Choice(&["present", "absent"])).default("\"present\"");
pub static USERS: Key = key("users", "Its ACL users, by name.", Shape::Named(&USER_NAME, &USER_TABLE));

pub static USER_TABLE: Table = Table {
    at_least_one: &["privileges", "selectors"],
    ..table("An ACL user.", &[&ENABLED, &PASSWORD_SHA256, &PASSWORD, &PRIVILEGES, &KEY_PATTERN, &CHANNELS, &SELECTORS])
};
pub static ENABLED: Key = key("enabled", "Whether it may log in.", Shape::Boolean).default("true");
pub static PASSWORD_SHA256: Key = key(
    "password_sha256",
    "The SHA-256 of its password, or several while passwords are exchanged; `valkeeper hash-password` makes one.",
    Shape::OneOrMany(&Shape::Text(&HASH)),
);
pub static PASSWORD: Key = key(
    "password",
    "Where its password is read from; only the hash leaves the controller.",
    Shape::OneOrMany(&Shape::Table(&SECRET_TABLE)),
);
pub static PRIVILEGES: Key = key(
    "privileges",
    "Command rules in order, as in ACL SETUSER: later ones win.",
    Shape::List { of: &Shape::Text(&PRIVILEGE), at_least: 0 },
);
pub static KEY_PATTERN: Key =
    key("key_pattern", "The keys it may use.", Shape::OneOrMany(&Shape::Text(&KEY_PATTERN_TEXT))).default("\"~*\"");
pub static CHANNELS: Key =
    key("channels", "The Pub/Sub channels it may use.", Shape::List { of: &Shape::Text(&CHANNEL), at_least: 0 }).default("[]");
pub static SELECTORS: Key = key("selectors", "Further sets of rights, each for keys of its own.", Shape::Tables(&SELECTOR_TABLE));

pub static SECRET_TABLE: Table = Table {
    form: "{ file = \"…\" } or { env = \"…\" }",
    exactly_one: &["file", "env"],
    ..table("Where a password is read from on the controller.", &[&SECRET_FILE, &SECRET_ENV])
};
pub static SECRET_FILE: Key =
    key("file", "A file that holds it, relative to the folder of this file, or to --secrets-root.", Shape::Text(&FILE_NAME));
pub static SECRET_ENV: Key = key("env", "An environment variable that holds it.", Shape::Text(&VARIABLE));

pub static SELECTOR_TABLE: Table =
    table("A further set of rights of a user.", &[&SELECTOR_PRIVILEGES, &SELECTOR_KEY_PATTERN, &CHANNELS]);
pub static SELECTOR_PRIVILEGES: Key = key(
    "privileges",
    "Command rules in order, as in ACL SETUSER: later ones win.",
    Shape::List { of: &Shape::Text(&PRIVILEGE), at_least: 0 },
)
.required();
pub static SELECTOR_KEY_PATTERN: Key =
    key("key_pattern", "The keys that these rights are for.", Shape::OneOrMany(&Shape::Text(&KEY_PATTERN_TEXT))).default("[]");

/// The names of all keys, whatever their table.
pub fn key_names() -> BTreeSet<&'static str> {
    fn add(table: &'static Table, names: &mut BTreeSet<&'static str>) {
        for key in table.keys {
            names.insert(key.name);
            key.shape.tables().into_iter().for_each(|inner| add(inner, names));
        }
    }
    let mut names = BTreeSet::new();
    add(&ROOT, &mut names);
    names
}

impl Shape {
    /// The tables that stand below a key of this shape.
    fn tables(&self) -> Option<&'static Table> {
        match self {
            Self::Table(inner) | Self::Tables(inner) | Self::Named(_, inner) => Some(inner),
            Self::OneOrMany(of) | Self::List { of, .. } => of.tables(),
            Self::Text(_) | Self::Boolean | Self::Integer { .. } | Self::Choice(_) | Self::Settings => None,
        }
    }

    /// What is taken, as the object of "takes".
    pub fn expected(&self) -> String {
        match self {
            Self::Text(text) => text.what.to_owned(),
            Self::Boolean => "true or false".to_owned(),
            Self::Integer { min, max: MEMORY_MB_MAX } => format!("a whole number from {min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Choice([words @ .., last]) if words.len() > 1 => {
                let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                format!("{} or \"{last}\"", words.join(", "))
            }
            Self::Choice(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
            Self::List { of, at_least: 0 } => format!("a list; each entry is {}", of.expected()),
            Self::List { of, at_least } => format!("a list of at least {at_least}; each entry is {}", of.expected()),
            Self::OneOrMany(of) => format!("{}, or a list of such", of.expected()),
            Self::Settings => "a table of server settings such as { appendfsync = \"everysec\" }".to_owned(),
            Self::Table(table) => table.form.to_owned(),
            Self::Tables(_) => "a list of tables, written with [[…]]".to_owned(),
            Self::Named(text, _) => format!("tables, each under {}", text.what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each_table(table: &'static Table, seen: &mut Vec<&'static Table>) {
        seen.push(table);
        for key in table.keys {
            key.shape.tables().into_iter().for_each(|inner| each_table(inner, seen));
        }
    }

    #[test]
    fn what_holds_between_keys_names_keys_of_the_table() {
        let mut tables = Vec::new();
        each_table(&ROOT, &mut tables);
        assert_eq!(tables.len(), 11);
        for table in tables {
            let names: Vec<_> = table.keys.iter().map(|key| key.name).collect();
            let needs = table.needs.map(|(a, b)| [a, b]);
            for name in table.exactly_one.iter().chain(table.at_least_one).chain(needs.iter().flatten()) {
                assert!(names.contains(name), "{name}");
            }
            assert!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1), "{names:?}");
            assert!(table.keys.iter().all(|key| key.about.ends_with('.')), "{names:?}");
        }
    }
}
