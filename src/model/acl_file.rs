//! The text of an ACL file: one `user …` line each, always a closed `default`, hashes only.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::acl::{AclUser, parse_server_line};
use super::action::WantedUsers;
use super::name::{DEFAULT_USER, OPERATOR_USER, UserName};
use super::operator;
use super::password::PasswordHash;

/// Renders a whole ACL file. A file without a `default` line would open that user to everyone (facts B.3).
///
/// `kept` are lines of users that nobody declared.
pub fn render(operator: &PasswordHash, users: &WantedUsers, kept: &[String]) -> String {
    let mut lines = vec![
        AclUser::closed().file_line(DEFAULT_USER, &[]),
        operator::user(operator.fingerprint(), None).file_line(OPERATOR_USER, std::slice::from_ref(operator)),
    ];
    lines.extend(users.iter().map(|(name, wanted)| wanted.user.file_line(name.as_str(), &wanted.hashes)));
    lines.extend(kept.iter().cloned());
    lines.sort_unstable();
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// The lines of users that are not in `known`: they are carried over when the file is written anew.
pub fn undeclared_lines(text: &str, known: impl Fn(&str) -> bool) -> Vec<String> {
    let keep = |line: &&str| parse_server_line(line).is_ok_and(|(name, _)| !known(name));
    text.lines().filter(keep).map(ToOwned::to_owned).collect()
}

/// Reads an ACL file.
///
/// # Errors
/// The first line that is not a user, by its number: the server would not start from such a file.
pub fn parse(text: &str) -> Result<BTreeMap<UserName, Arc<AclUser>>, String> {
    let mut users = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = |problem: String| format!("line {}: {problem}", number + 1);
        let (name, user) = parse_server_line(line.trim()).map_err(|error| place(error.to_string()))?;
        let name = UserName::new(name).map_err(|error| place(error.to_string()))?;
        users.insert(name, Arc::new(user));
    }
    if users.contains_key(DEFAULT_USER) {
        Ok(users)
    } else {
        Err("there is no line for the user \"default\", so a server would open it to everyone".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rendered_file_reads_back_with_default_closed() {
        let operator = PasswordHash::of_password(b"op");
        let text = render(&operator, &WantedUsers::new(), &["user stray on ~* +@all".to_owned()]);
        let users = parse(&text).unwrap();
        assert_eq!(users.len(), 3);
        assert_eq!(*users[DEFAULT_USER], AclUser::closed());
        assert_eq!(undeclared_lines(&text, |name| name != "stray").len(), 1);
    }

    #[test]
    fn nonsense_names_its_line() {
        assert!(parse("user default off\nwhat\n").unwrap_err().starts_with("line 2"));
        assert!(parse("").unwrap_err().contains("default"));
    }
}
