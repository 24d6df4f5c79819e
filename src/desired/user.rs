//! Reads ACL users: passwords, privileges, key patterns, channels, selectors. No message repeats a password or a hash.

use toml::de::DeTable;

use super::draft::{UserDraft, WrittenUser};
use super::problem::{Problem, quoted};
use super::reader::{Entry, Field, Fields, Path, Reader};
use super::schema::{self, Key};
use super::secret::SecretRef;
use crate::model::acl;
use crate::model::desired::{DesiredSelector, Located, Origin};
use crate::model::name::{DECLARED_USER_RULE, DEFAULT_USER, OPERATOR_USER, REPLICA_USER, UserName, is_declarable_user};
use crate::model::password::PasswordHash;

const MAKE_A_HASH: &str = "`valkeeper hash-password` prints it";

/// Reads one user of an instance.
pub(super) fn read(reader: &mut Reader<'_>, instance: &str, entry: &Entry<'_>) -> Option<UserDraft> {
    let path = ["instances", instance, "users", entry.name];
    let fields = reader.open(Path(&path), entry.table, &schema::USER_TABLE, entry.at);
    let enabled = reader.get(fields, &schema::ENABLED).and_then(|field| reader.boolean(field)).unwrap_or(true);
    let hashes = reader.get(fields, &schema::PASSWORD_SHA256);
    let passwords = hashes.map_or_else(Vec::new, |field| read_hashes(reader, field));
    let references = reader.get(fields, &schema::PASSWORD);
    let secrets = references.map_or_else(Vec::new, |field| read_references(reader, &path, field));
    let unreadable =
        |key: &Key| reader.is_partial() || !fields.has(key.name) && fields.has_or_means(key.name, &schema::USER_TABLE);
    let given =
        has_entries(hashes) || has_entries(references) || unreadable(&schema::PASSWORD_SHA256) || unreadable(&schema::PASSWORD);
    if enabled && !given {
        let title = format!("user {} has no password", quoted(entry.name));
        let problem = Problem::new(title, entry.at, "nobody could log in as this user");
        reader.push(problem.help(format!("add password_sha256 ({MAKE_A_HASH}), or say enabled = false")));
    }
    let root = read_rights(reader, fields, &schema::PRIVILEGES, &schema::KEY_PATTERN, Some("~*"));
    let selectors = reader.get(fields, &schema::SELECTORS).map_or_else(Vec::new, |field| read_selectors(reader, &path, field));
    let name = read_name(reader, entry)?;
    let user = WrittenUser { at: entry.at, enabled, passwords, root, selectors };
    Some(UserDraft { name, user, secrets })
}

/// Was anything written there, right or wrong?
fn has_entries(field: Option<Field<'_>>) -> bool {
    field.is_some_and(|field| !field.value().as_array().is_some_and(|items| items.is_empty()))
}

fn read_name(reader: &mut Reader<'_>, entry: &Entry<'_>) -> Option<UserName> {
    let (problem, help) = match entry.name {
        DEFAULT_USER => (
            Problem::new("user \"default\" is reserved", entry.at, "valkeeper keeps this user closed"),
            "every client that does not log in is \"default\"; declare a user with a name of its own",
        ),
        OPERATOR_USER => (
            Problem::new("user \"valkeeper\" is reserved", entry.at, "valkeeper itself logs in as this user"),
            "choose another name",
        ),
        REPLICA_USER => (
            Problem::new("user \"valkeeper-replica\" is reserved", entry.at, "replicas follow their primary as this user"),
            "choose another name",
        ),
        name if !is_declarable_user(name) => {
            let problem = Problem::new(format!("user name {} is not allowed", quoted(name)), entry.at, DECLARED_USER_RULE);
            (problem, "anything else could break out of the line of the ACL file")
        }
        name => return UserName::new(name).ok(),
    };
    reader.push(problem.help(help));
    None
}

fn read_hashes(reader: &mut Reader<'_>, field: Field<'_>) -> Vec<PasswordHash> {
    let mut hashes = Vec::new();
    for written in reader.strings(field) {
        match PasswordHash::from_hex(written.value) {
            Some(hash) if hash == PasswordHash::of_password(b"") => {
                let problem = Problem::new("password_sha256 is the hash of the empty password", written.at, "refused");
                reader.push(problem.help(format!("choose a password; {MAKE_A_HASH}")));
            }
            Some(hash) => hashes.push(hash),
            None => {
                let lower = PasswordHash::from_hex(&written.value.to_ascii_lowercase()).is_some();
                let (label, help) = if lower {
                    ("upper-case hex digits", "write it in lower case: the server takes no other form".to_owned())
                } else {
                    ("not 64 hex digits", MAKE_A_HASH.to_owned())
                };
                let title = format!("password_sha256 takes {}", field.key.shape.expected());
                reader.push(Problem::new(title, written.at, label).help(help));
            }
        }
    }
    hashes
}

fn read_references(reader: &mut Reader<'_>, path: &[&str; 4], field: Field<'_>) -> Vec<Located<SecretRef>> {
    let mut references = Vec::new();
    for item in reader.items(field) {
        if let Some(table) = item.value().as_table() {
            references.extend(read_reference(reader, path, table, item.at));
        } else if item.value().is_str() {
            let problem = Problem::new("a password must not stand in this file", item.at, "a clear password");
            reader.push(problem.help(format!(
                "take it out of the file and its history, choose a new one, and write password_sha256 ({MAKE_A_HASH}) \
                 or password = {{ file = \"…\" }}"
            )));
        } else {
            reader.mismatch(item);
        }
    }
    references
}

fn read_reference<'t>(
    reader: &mut Reader<'_>,
    path: &[&str; 4],
    table: &'t DeTable<'t>,
    at: Origin,
) -> Option<Located<SecretRef>> {
    let [instances, instance, users, user] = *path;
    let fields = reader.open(Path(&[instances, instance, users, user, "password"]), table, &schema::SECRET_TABLE, at);
    let field = |key| reader.get(fields, key);
    let (file, env) = (field(&schema::SECRET_FILE), field(&schema::SECRET_ENV));
    if let Some(field) = file {
        let file = reader.text(field)?;
        if file.value.is_empty() || file.value.chars().any(char::is_control) {
            reader.push(Problem::new("file takes the name of a file", file.at, "empty, or with a control character"));
            return None;
        }
        return Some(Located { value: SecretRef::File(file.value.to_owned()), at });
    }
    let variable = reader.text(env?)?;
    let well_formed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if variable.value.is_empty()
        || !variable.value.chars().all(well_formed)
        || variable.value.starts_with(|c: char| c.is_ascii_digit())
    {
        let problem = Problem::new("env takes the name of an environment variable", variable.at, "not such a name");
        reader.push(problem.help("letters, digits and '_': the name of the variable, not the password"));
        return None;
    }
    Some(Located { value: SecretRef::Env(variable.value.to_owned()), at })
}

fn read_selectors(reader: &mut Reader<'_>, path: &[&str; 4], field: Field<'_>) -> Vec<DesiredSelector> {
    let [instances, instance, users, user] = *path;
    let mut selectors = Vec::new();
    for item in reader.items(field) {
        let Some(table) = item.value().as_table() else {
            reader.mismatch(item);
            continue;
        };
        let path = Path(&[instances, instance, users, user, "selectors"]);
        let fields = reader.open(path, table, &schema::SELECTOR_TABLE, item.at);
        selectors.push(read_rights(reader, fields, &schema::SELECTOR_PRIVILEGES, &schema::SELECTOR_KEY_PATTERN, None));
    }
    selectors
}

/// Privileges, key patterns and channels: of the user itself, or of a selector.
fn read_rights(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    privileges: &'static Key,
    key_pattern: &'static Key,
    default_keys: Option<&str>,
) -> DesiredSelector {
    let mut words = Vec::new();
    for word in strings(reader, fields, privileges).unwrap_or_default() {
        match acl::check_privilege(word.value) {
            Ok(()) => words.push(Located { value: word.value.to_owned(), at: word.at }),
            Err(refusal) => reader.push(Problem::of_word("privileges", &word, refusal)),
        }
    }
    let mut keys: Vec<Located<String>> = Vec::new();
    let written = strings(reader, fields, key_pattern);
    let default_keys = if written.is_none() { default_keys } else { None };
    for word in written.unwrap_or_default() {
        match acl::check_key_pattern(word.value) {
            Ok(pattern) => keys.push(Located { value: pattern, at: word.at }),
            Err(refusal) => reader.push(Problem::of_word("key_pattern", &word, refusal)),
        }
    }
    let mut channels: Vec<Located<String>> = Vec::new();
    for word in strings(reader, fields, &schema::CHANNELS).unwrap_or_default() {
        match acl::check_channel(word.value) {
            Ok(()) => channels.push(Located { value: word.value.to_owned(), at: word.at }),
            Err(refusal) => reader.push(Problem::of_word("channels", &word, refusal)),
        }
    }
    for (key, patterns) in [("key_pattern", &keys), ("channels", &channels)] {
        if patterns.len() > 1 {
            check_patterns(reader, key, patterns);
        }
    }
    let plain = |words: Vec<Located<String>>| words.into_iter().map(|word| word.value);
    DesiredSelector {
        privileges: words,
        keys: plain(keys).chain(default_keys.map(ToOwned::to_owned)).collect(),
        channels: plain(channels).collect(),
    }
}

fn strings<'t>(reader: &mut Reader<'_>, fields: Fields<'t>, key: &'static Key) -> Option<Vec<Located<&'t str>>> {
    reader.get(fields, key).map(|field| reader.strings(field))
}

/// Finds patterns that repeat another, and patterns beside one that already stands for everything.
///
/// Two halves of one key pattern (`%R~a`, `%W~a`) count as a repetition: to a server they are the whole, except for `~*`,
/// where they poison it (facts A.3).
fn check_patterns(reader: &mut Reader<'_>, key: &str, patterns: &[Located<String>]) {
    let bare =
        |word: &Located<String>| word.value.split_once('~').map_or_else(|| word.value.clone(), |(_, bare)| bare.to_owned());
    let mut sorted: Vec<(String, &Located<String>)> = patterns.iter().map(|word| (bare(word), word)).collect();
    sorted.sort_by(|a, b| (&a.0, a.1.at).cmp(&(&b.0, b.1.at)));
    for pair in sorted.windows(2) {
        let [(one, first), (other, second)] = pair else { continue };
        if one == other {
            let title = format!("{key}: the same pattern twice");
            let problem = Problem::new(title, second.at, "again here").other(first.at, "first here");
            let halves = first.value != second.value;
            let whole = format!("write {}: it allows reading and writing", quoted(&format!("~{one}")));
            reader.push(problem.help(if halves { whole } else { "keep one of the two".to_owned() }));
        }
    }
    let everything = |word: &&Located<String>| word.value == "~*" || word.value == "&*";
    if let Some(all) = patterns.iter().find(everything)
        && let Some(other) = patterns.iter().find(|word| bare(word) != bare(all))
    {
        let title = format!("{key}: a pattern beside one that already allows everything");
        let problem = Problem::new(title, other.at, "without effect").other(all.at, "this allows everything");
        reader.push(problem.help("keep one of the two"));
    }
}
