//! The daemon's own configuration: TOML that is checked like the state language, with the same kinds of problems.

use std::net::SocketAddr;
use std::time::Duration;

use super::problem::{self, Problem};
use super::reader::{Field, Fields, Path, Reader};
use super::schema::{Key, Shape, Table, Text, key, table, text};
use super::source::Source;
use super::syntax;
use crate::model::desired::Origin;
use crate::model::size::parse_duration;

/// What a configuration file says; what it leaves out is for the command line, or the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceConfig {
    pub repo: Option<String>,
    pub path: Option<String>,
    pub branch: Option<String>,
    pub folder: Option<String>,
    pub poll: Option<Duration>,
    pub verify_head: Option<bool>,
    pub allowed_signers: Option<String>,
    pub openpgp_keys: Option<String>,
    pub token_file: Option<String>,
    pub ca_file: Option<String>,
    pub ssh_key: Option<String>,
    pub known_hosts: Option<String>,
    pub cache: Option<String>,
    pub hook_secret_file: Option<String>,
    pub listen: Option<SocketAddr>,
    pub socket: Option<String>,
    pub local_root: Option<String>,
    pub secrets_root: Option<String>,
    pub log_json: Option<bool>,
}

static PATH: Text = text("a path", Some("^.+$"));
static REPO: Text = text("a git repository: a path, an ssh or https URL, or [USER@]HOST:PATH", Some("^[^-].*$"));
static BRANCH_NAME: Text = text("the name of a branch", Some("^[^-].*$"));
static DURATION: Text = text("a duration such as \"60s\"", None);
static SOCKET_ADDRESS: Text = text("an address and a port such as \"127.0.0.1:9464\"", None);

static ROOT: Table = table("The configuration of a valkeeper daemon.", &[&SOURCE, &HOOKS, &METRICS, &CONTROL, &ROOTS, &LOG]);
static SOURCE: Key = key("source", "Which state repository is followed.", Shape::Table(&SOURCE_TABLE));
static HOOKS: Key = key("hooks", "Pushes that are announced over HTTP.", Shape::Table(&HOOKS_TABLE));
static METRICS: Key = key("metrics", "Where metrics, health and hooks are served.", Shape::Table(&METRICS_TABLE));
static CONTROL: Key = key("control", "Where people talk to the daemon.", Shape::Table(&CONTROL_TABLE));
static ROOTS: Key = key("roots", "What the state repository may name on this machine.", Shape::Table(&ROOTS_TABLE));
static LOG: Key = key("log", "What is logged how.", Shape::Table(&LOG_TABLE));

static SOURCE_TABLE: Table = Table {
    exactly_one: &["repo", "path"],
    ..table(
        "Which state repository is followed.",
        &[
            &REPO_KEY,
            &PATH_KEY,
            &BRANCH,
            &FOLDER,
            &POLL,
            &VERIFY,
            &ALLOWED_SIGNERS,
            &OPENPGP_KEYS,
            &TOKEN_FILE,
            &CA_FILE,
            &SSH_KEY,
            &KNOWN_HOSTS,
            &CACHE,
        ],
    )
};
static REPO_KEY: Key = key("repo", "The git repository.", Shape::Text(&REPO));
static PATH_KEY: Key = key("path", "A plain folder of TOML, without git.", Shape::Text(&PATH));
static BRANCH: Key = key("branch", "The branch that is followed.", Shape::Text(&BRANCH_NAME)).default("\"main\"");
static FOLDER: Key = key("folder", "The folder in the repository.", Shape::Text(&PATH)).default("\".\"");
static POLL: Key =
    key("poll", "The time between two looks when nothing else asks for one.", Shape::Text(&DURATION)).default("\"60s\"");
static VERIFY: Key =
    key("verify", "Whether the newest commit must be signed.", Shape::Choice(&["off", "head"])).default("\"off\"");
static ALLOWED_SIGNERS: Key = key("allowed_signers", "Who may sign with ssh keys: see ssh-keygen(1).", Shape::Text(&PATH));
static OPENPGP_KEYS: Key = key("openpgp_keys", "A file of OpenPGP public keys that may sign.", Shape::Text(&PATH));
static TOKEN_FILE: Key = key("token_file", "A file with a token for https.", Shape::Text(&PATH));
static CA_FILE: Key = key("ca_file", "A file of CA certificates for https.", Shape::Text(&PATH));
static SSH_KEY: Key = key("ssh_key", "The private key for ssh.", Shape::Text(&PATH));
static KNOWN_HOSTS: Key = key("known_hosts", "The file of host keys for ssh.", Shape::Text(&PATH));
static CACHE: Key =
    key("cache", "Where the mirror of a remote is kept.", Shape::Text(&PATH)).default("\"/var/lib/valkeeper/cache\"");

static HOOKS_TABLE: Table = table("Pushes that are announced over HTTP.", &[&SECRET_FILE]);
static SECRET_FILE: Key = key("secret_file", "A file with the secret that signs them.", Shape::Text(&PATH)).required();
static METRICS_TABLE: Table = table("Where metrics, health and hooks are served.", &[&LISTEN]);
static LISTEN: Key = key("listen", "The address and port.", Shape::Text(&SOCKET_ADDRESS)).default("\"127.0.0.1:9464\"");
static CONTROL_TABLE: Table = table("Where people talk to the daemon.", &[&SOCKET]);
static SOCKET: Key = key("socket", "The control socket.", Shape::Text(&PATH)).default("\"/run/valkeeper/valkeeper.sock\"");
static ROOTS_TABLE: Table = table("What the state repository may name on this machine.", &[&LOCAL, &SECRETS]);
static LOCAL: Key = key("local", "Where local nodes may keep their state.", Shape::Text(&PATH));
static SECRETS: Key = key("secrets", "Where password files may be.", Shape::Text(&PATH));
static LOG_TABLE: Table = table("What is logged how.", &[&FORMAT]);
static FORMAT: Key = key("format", "For people or for programs.", Shape::Choice(&["human", "json"])).default("\"human\"");

/// Every key that there is, as `table.key`, with its default as TOML. For those who check what is written about them.
pub fn keys() -> Vec<(String, Option<&'static str>)> {
    let of = |table: &'static Key| match &table.shape {
        Shape::Table(inner) => inner.keys.iter().map(|key| (format!("{}.{}", table.name, key.name), key.default)).collect(),
        Shape::Text(_)
        | Shape::Boolean
        | Shape::Integer { .. }
        | Shape::Choice(_)
        | Shape::List { .. }
        | Shape::OneOrMany(_)
        | Shape::Settings
        | Shape::Tables(_)
        | Shape::Named(..) => vec![(table.name.to_owned(), table.default)],
    };
    ROOT.keys.iter().flat_map(|table| of(table)).collect()
}

/// Reads a configuration.
///
/// # Errors
/// All problems, in the order of places.
pub fn read(source: &Source) -> Result<ServiceConfig, Vec<Problem>> {
    let tree = syntax::parse(0, source);
    let mut reader = Reader::new(0, source, !tree.problems.is_empty());
    let root = reader.open(Path(&[]), &tree.root, &ROOT, Origin::default());
    let config = read_tables(&mut reader, root);
    let mut problems = tree.problems;
    problems.append(&mut reader.problems);
    if problems.is_empty() {
        return Ok(config);
    }
    problem::sort(&mut problems);
    Err(problems)
}

fn read_tables(reader: &mut Reader<'_>, root: Fields<'_>) -> ServiceConfig {
    let mut config = ServiceConfig::default();
    if let Some(fields) = open(reader, root, &SOURCE, &SOURCE_TABLE) {
        config.repo = text_of(reader, fields, &REPO_KEY);
        config.path = text_of(reader, fields, &PATH_KEY);
        config.branch = text_of(reader, fields, &BRANCH);
        config.folder = text_of(reader, fields, &FOLDER);
        config.poll = reader.get(fields, &POLL).and_then(|field| poll(reader, field));
        config.verify_head = reader.get(fields, &VERIFY).and_then(|field| reader.choice(field)).map(|word| word == "head");
        config.allowed_signers = text_of(reader, fields, &ALLOWED_SIGNERS);
        config.openpgp_keys = text_of(reader, fields, &OPENPGP_KEYS);
        config.token_file = text_of(reader, fields, &TOKEN_FILE);
        config.ca_file = text_of(reader, fields, &CA_FILE);
        config.ssh_key = text_of(reader, fields, &SSH_KEY);
        config.known_hosts = text_of(reader, fields, &KNOWN_HOSTS);
        config.cache = text_of(reader, fields, &CACHE);
    }
    if let Some(fields) = open(reader, root, &HOOKS, &HOOKS_TABLE) {
        config.hook_secret_file = text_of(reader, fields, &SECRET_FILE);
    }
    if let Some(fields) = open(reader, root, &METRICS, &METRICS_TABLE) {
        config.listen = reader.get(fields, &LISTEN).and_then(|field| listen(reader, field));
    }
    if let Some(fields) = open(reader, root, &CONTROL, &CONTROL_TABLE) {
        config.socket = text_of(reader, fields, &SOCKET);
    }
    if let Some(fields) = open(reader, root, &ROOTS, &ROOTS_TABLE) {
        config.local_root = text_of(reader, fields, &LOCAL);
        config.secrets_root = text_of(reader, fields, &SECRETS);
    }
    if let Some(fields) = open(reader, root, &LOG, &LOG_TABLE) {
        config.log_json = reader.get(fields, &FORMAT).and_then(|field| reader.choice(field)).map(|word| word == "json");
    }
    config
}

fn open<'t>(reader: &mut Reader<'_>, root: Fields<'t>, key: &'static Key, schema: &'static Table) -> Option<Fields<'t>> {
    let field = reader.get(root, key)?;
    let table = reader.table(field)?;
    Some(reader.open(Path(&[key.name]), table, schema, field.whole))
}

fn text_of(reader: &mut Reader<'_>, fields: Fields<'_>, key: &'static Key) -> Option<String> {
    let field = reader.get(fields, key)?;
    let text = reader.text(field)?;
    if text.value.is_empty() {
        reader.push(Problem::new(format!("{} is empty", key.name), field.at, "here").help("leave it out for the default"));
        return None;
    }
    Some(text.value.to_owned())
}

/// At least a second: each look asks every node.
fn poll(reader: &mut Reader<'_>, field: Field<'_>) -> Option<Duration> {
    let text = reader.text(field)?;
    let poll = parse_duration(text.value).filter(|poll| *poll >= Duration::from_secs(1));
    if poll.is_none() {
        reader.push(Problem::new("poll takes a duration of at least 1s", text.at, "not one").help("write \"60s\""));
    }
    poll
}

fn listen(reader: &mut Reader<'_>, field: Field<'_>) -> Option<SocketAddr> {
    let text = reader.text(field)?;
    let address = text.value.parse().ok();
    if address.is_none() {
        let problem = Problem::new(format!("listen takes {}", SOCKET_ADDRESS.what), text.at, "not one");
        reader.push(problem.help("write \"127.0.0.1:9464\"; host names are not looked up"));
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<ServiceConfig, Vec<String>> {
        let source = Source { name: "valkeeper.toml".into(), text: text.into() };
        read(&source).map_err(|problems| problems.into_iter().map(|problem| problem.title).collect())
    }

    #[test]
    fn a_configuration_says_what_it_says() {
        let read =
            config("[source]\nrepo = \"/srv/state\"\npoll = \"5s\"\nverify = \"head\"\n[metrics]\nlisten = \"127.0.0.1:1\"\n");
        let read = read.unwrap();
        assert_eq!(read.repo.as_deref(), Some("/srv/state"));
        assert_eq!((read.poll, read.verify_head), (Some(Duration::from_secs(5)), Some(true)));
        assert_eq!(config(""), Ok(ServiceConfig::default()));
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let problems =
            config("[source]\nrepo = \"a\"\npath = \"b\"\npoll = \"0s\"\n[metric]\n[log]\nformat = \"xml\"\n").unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:?}");
    }
}
