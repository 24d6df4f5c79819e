//! Which ACL words a person may declare, judged without a server.
//!
//! Refuses what crashes or poisons a server or breaks out of an ACL line (facts A.3), and what has a key of its own in
//! the state language, each with where to say it instead.

/// Why a declared word is refused, and the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordRefusal {
    pub problem: String,
    pub cure: String,
}

fn refuse(problem: impl Into<String>, cure: impl Into<String>) -> WordRefusal {
    WordRefusal { problem: problem.into(), cure: cure.into() }
}

/// Bytes that a pattern may hold: printable, no white space, no quotes (facts A.3).
fn check_bytes(text: &str) -> Result<(), WordRefusal> {
    let bad = |c: char| c.is_whitespace() || c.is_control();
    if let Some(found) = text.chars().find(|c| bad(*c)) {
        return Err(refuse(
            format!("{found:?} would break out of the ACL line"),
            "leave white space and control characters out; one list entry is one word",
        ));
    }
    if text.contains(['"', '\'']) {
        return Err(refuse(
            "a quote is read by the server as quoting, and is not written back",
            "use the glob '?' for that character",
        ));
    }
    if text.ends_with(')') {
        return Err(refuse("a word ending in ')' cannot be loaded back from an ACL file", "use the glob '?' for that character"));
    }
    Ok(())
}

/// A key pattern: `~app:*`, `%R~app:*`, `%W~app:*`. Gives it back as the server would write it.
///
/// # Errors
/// With the reason and the cure.
pub fn check_key_pattern(word: &str) -> Result<String, WordRefusal> {
    let cure = || format!("write \"~{word}\"; \"%R~…\" allows reading only and \"%W~…\" writing only");
    if word == "allkeys" {
        return Err(refuse("\"allkeys\" is not a key pattern here", "write \"~*\""));
    }
    let Some((flags, pattern)) = word.split_once('~') else {
        return Err(if word.starts_with('%') {
            refuse("a '%' without '~' crashes valkey-server 8.0", "write \"%R~pattern\", \"%W~pattern\" or \"~pattern\"")
        } else {
            refuse("a key pattern starts with '~', '%R~' or '%W~'", cure())
        });
    };
    let flags = match flags.to_ascii_uppercase().as_str() {
        "" | "%RW" | "%WR" => "",
        "%R" => "%R",
        "%W" => "%W",
        _ => {
            return Err(refuse("a key pattern starts with '~', '%R~' or '%W~'", "the flags are R for reading and W for writing"));
        }
    };
    if pattern.is_empty() {
        return Err(refuse("an empty key pattern matches only the empty key", "write \"~*\" for every key"));
    }
    check_bytes(pattern)?;
    if pattern == "*" && !flags.is_empty() {
        // Two halves of `~*` are shown by the server as `~*` but are not the same (facts A.3); one half alone is sound.
        return Ok(format!("{flags}~*"));
    }
    Ok(format!("{flags}~{pattern}"))
}

/// A Pub/Sub channel pattern: `&events:*`.
///
/// # Errors
/// With the reason and the cure.
pub fn check_channel(word: &str) -> Result<(), WordRefusal> {
    let Some(pattern) = word.strip_prefix('&') else {
        let cure = if word == "allchannels" { "write \"&*\"".to_owned() } else { format!("write \"&{word}\"") };
        return Err(refuse("a channel pattern starts with '&'", cure));
    };
    if pattern.is_empty() {
        return Err(refuse("an empty channel pattern matches only the empty channel", "write \"&*\" for every channel"));
    }
    check_bytes(pattern)
}

/// A command rule: `+get`, `-flushall`, `+@read`, `+config|get`, `+select|0`, `allcommands`, `nocommands`.
///
/// Whether the names exist is the node's own server's to say, at plan time.
///
/// # Errors
/// With the reason and the cure.
pub fn check_privilege(word: &str) -> Result<(), WordRefusal> {
    if matches!(word, "allcommands" | "nocommands") {
        return Ok(());
    }
    let Some(name) = word.strip_prefix(['+', '-']) else {
        return Err(misplaced(word));
    };
    let name = name.strip_prefix('@').unwrap_or(name);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.is_empty() {
        return Err(refuse("a rule without a name", "write \"+command\", \"-command\", \"+@category\" or \"-@category\""));
    }
    let parts: Vec<&str> = name.split('|').collect();
    if parts.len() > 2 || parts.iter().any(|part| part.is_empty() || !part.chars().all(allowed)) {
        return Err(refuse(
            "only letters, digits and _ . - may stand in a command rule, with one '|' before a subcommand; \
             white space or a quote in a first argument crashes valkey-server 8.0",
            "one rule is one list entry, such as \"+config|get\"",
        ));
    }
    Ok(())
}

/// A word that belongs under another key, or nowhere.
fn misplaced(word: &str) -> WordRefusal {
    let problem = "a command rule starts with '+' or '-'";
    let cure = match word.as_bytes().first() {
        Some(b'~' | b'%') => "say key patterns in key_pattern".to_owned(),
        Some(b'&') => "say channels in channels".to_owned(),
        Some(b'>' | b'#' | b'<' | b'!') => "say passwords in password_sha256 or password".to_owned(),
        Some(b'(') => "say selectors in [[…selectors]], each with privileges, key_pattern and channels".to_owned(),
        _ => match word {
            "on" | "off" => "say enabled = true or enabled = false".to_owned(),
            "nopass" => "a user without a password is not offered: everyone who reaches the port would be that user".to_owned(),
            "reset" | "resetkeys" | "resetchannels" | "resetpass" | "clearselectors" => {
                "leave it out: a user always starts from nothing".to_owned()
            }
            "allkeys" => "say key_pattern = \"~*\"".to_owned(),
            "allchannels" => "say channels = [\"&*\"]".to_owned(),
            _ => format!("write \"+{word}\" to allow it or \"-{word}\" to take it away"),
        },
    };
    // A word that looks like a password is not repeated.
    refuse(problem, cure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_crash_or_poison_a_server_are_refused() {
        for bad in ["%", "%R", "%RW", "%X~a", "~a b", "~a\"", "~a'", "~a)", "~", "~a\n", "~a\0", "a", "allkeys"] {
            assert!(check_key_pattern(bad).is_err(), "{bad:?}");
        }
        for bad in ["+select|a b", "+select|\"", "+", "-", "+@", "+a|b|c", "+a|", "on", "~a", "nopass", "", "+get\n", "+ä"] {
            assert!(check_privilege(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "&", "a", "&a b", "&'", "allchannels"] {
            assert!(check_channel(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_for_both_take_the_plain_form() {
        for (word, form) in [("%RW~x", "~x"), ("%rw~x", "~x"), ("~x", "~x"), ("%r~x", "%R~x"), ("%W~*", "%W~*")] {
            assert_eq!(check_key_pattern(word).as_deref(), Ok(form));
        }
    }
}
