//! Hides secrets in text that is about to be shown: every byte that may belong to a password becomes `*`.
//!
//! Works on text and not on TOML, because what is shown is often text that is not TOML. It hides too much rather than too
//! little, and keeps every position, so that marks still point at the right place.

use std::collections::BTreeSet;

use crate::desired::{nearest, schema};

/// What a key holds if it is to be hidden: our own keys, and settings such as `requirepass` and `primaryauth`.
const SECRET_WORDS: &[&str] = &["pass", "pwd", "secret", "token", "auth", "sha256"];

/// The text with secrets hidden, byte for byte as long as before.
pub fn mask(text: &str) -> String {
    let known_keys = schema::key_names();
    let mut shown = text.as_bytes().to_vec();
    let mut rest = shown.as_mut_slice();
    let mut open = Open::default();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |newline| newline + 1);
        let (line, after) = rest.split_at_mut(end);
        open = mask_line(line, open, &known_keys);
        rest = after;
    }
    String::from_utf8(shown).unwrap_or_else(|_| "*".repeat(text.len()))
}

/// What of a secret value is still open at the end of a line.
#[derive(Clone, Copy, Default)]
struct Open {
    brackets: usize,
    /// The quote of a `"""` or `'''` string.
    triple: Option<u8>,
    /// The value has not begun yet.
    awaited: bool,
}

impl Open {
    fn is_open(self) -> bool {
        self.brackets > 0 || self.triple.is_some() || self.awaited
    }
}

fn mask_line(line: &mut [u8], open: Open, known_keys: &BTreeSet<&str>) -> Open {
    if is_header(line) {
        return Open::default();
    }
    if open.is_open() {
        return mask_value(line, open);
    }
    match secret_value(line, known_keys) {
        Some(start) => {
            let (before, value) = line.split_at_mut(start);
            mask_signed_words(before);
            mask_value(value, Open { awaited: before.ends_with(b"="), ..Open::default() })
        }
        None => {
            mask_signed_words(line);
            Open::default()
        }
    }
}

/// A table's header ends whatever was left open above it.
fn is_header(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let name = line.strip_prefix(b"[").map(|rest| rest.strip_prefix(b"[").unwrap_or(rest));
    let starts = |name: &[u8]| {
        let is_name = |key: &&&schema::Key| name.trim_ascii_start().starts_with(key.name.as_bytes());
        schema::ROOT.keys.iter().find(is_name).is_some()
    };
    name.is_some_and(starts) && line.ends_with(b"]")
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-\\".contains(&byte)
}

fn is_secret_key(key: &[u8], known_keys: &BTreeSet<&str>) -> bool {
    let Ok(key) = std::str::from_utf8(key) else { return true };
    let key = key.to_ascii_lowercase();
    // An escape can spell any key.
    key.contains('\\')
        || SECRET_WORDS.iter().any(|word| key.contains(word))
        || (!known_keys.contains(key.as_str()) && nearest(&key, ["password", "password_sha256"].into_iter()).is_some())
}

/// Where the value of the first secret key of a line starts. Looks at each byte a bounded number of times.
fn secret_value(line: &[u8], known_keys: &BTreeSet<&str>) -> Option<usize> {
    let mut from = 0;
    // Keys joined by dots and blanks share what follows them: the end of the chain, and whether that is a '='.
    let mut chain = (0, false);
    let mut first = true;
    while let Some(offset) = line.get(from..).and_then(|rest| rest.iter().position(|byte| is_key_byte(*byte))) {
        let start = from + offset;
        let length = |bytes: &[u8], inside: fn(&u8) -> bool| bytes.iter().position(|byte| !inside(byte)).unwrap_or(bytes.len());
        let end = start + length(line.get(start..).unwrap_or_default(), |byte| is_key_byte(*byte));
        if end > chain.0 {
            let chain_end = end + length(line.get(end..).unwrap_or_default(), |byte| is_key_byte(*byte) || is_join(*byte));
            chain = (chain_end, line.get(chain_end) == Some(&b'='));
        }
        let leads = first && line.get(..start).unwrap_or_default().iter().all(|byte| is_join(*byte));
        if (leads || chain.1) && is_secret_key(line.get(start..end).unwrap_or_default(), known_keys) {
            return Some(if chain.1 { chain.0 + 1 } else { end });
        }
        first = false;
        from = end;
    }
    None
}

fn is_join(byte: u8) -> bool {
    b" \t\"'.".contains(&byte)
}

/// Hides a value, or what of it stands in this line; keeps the marks of its structure.
fn mask_value(line: &mut [u8], mut open: Open) -> Open {
    let mut place = 0;
    while let Some(byte) = line.get(place).copied() {
        let rest = line.get_mut(place..).unwrap_or_default();
        if let Some(quote) = open.triple {
            let end = find_triple(rest, quote);
            hide(rest.get_mut(..end.unwrap_or(usize::MAX).min(rest.len())));
            open.triple = if end.is_some() { None } else { open.triple };
            place += end.map_or(rest.len(), |end| end + 3);
            continue;
        }
        open.awaited &= byte.is_ascii_whitespace() || byte == b'#';
        place += match byte {
            b'[' | b'{' => {
                open.brackets += 1;
                1
            }
            b']' | b'}' => {
                open.brackets = open.brackets.saturating_sub(1);
                1
            }
            b'"' | b'\'' if rest.starts_with(&[byte; 3]) => {
                open.triple = Some(byte);
                3
            }
            b'"' | b'\'' => mask_string(rest),
            b'#' => {
                hide(rest.get_mut(1..));
                rest.len()
            }
            b',' | b'=' => 1,
            _ if byte.is_ascii_whitespace() => 1,
            _ => mask_bare(rest),
        };
    }
    open
}

/// Hides a word without quotes, unless it is one of the keys that say where a secret is.
fn mask_bare(rest: &mut [u8]) -> usize {
    let ends = |byte: &u8| byte.is_ascii_whitespace() || b"[]{},=\"'#".contains(byte);
    let end = rest.iter().position(ends).unwrap_or(rest.len());
    let (word, after) = rest.split_at_mut(end);
    let is_key = after.trim_ascii_start().starts_with(b"=");
    if !(is_key && schema::SECRET_TABLE.keys.iter().any(|key| key.name.as_bytes() == word)) {
        hide(Some(word));
    }
    end.max(1)
}

/// Hides what stands between the quotes of a string; gives how far it reaches.
fn mask_string(rest: &mut [u8]) -> usize {
    let end = string_end(rest);
    hide(rest.get_mut(1..end.unwrap_or(rest.len())));
    end.map_or(rest.len(), |end| end + 1)
}

/// Where the string that starts here has its closing quote.
fn string_end(rest: &[u8]) -> Option<usize> {
    let quote = *rest.first()?;
    let mut escaped = false;
    rest.iter().enumerate().skip(1).find_map(|(place, byte)| {
        let closes = *byte == quote && !escaped;
        escaped = quote == b'"' && *byte == b'\\' && !escaped;
        closes.then_some(place)
    })
}

fn find_triple(rest: &[u8], quote: u8) -> Option<usize> {
    rest.windows(3).position(|three| three == [quote; 3])
}

/// Hides what follows the sign of an ACL word such as `>password`, wherever it stands.
fn mask_signed_words(line: &mut [u8]) {
    let mut previous = b' ';
    let mut hiding = false;
    for byte in line {
        let ends = byte.is_ascii_whitespace() || b"\"'".contains(byte);
        // A '#' that no quote stands before begins a comment.
        let sign = b"><!".contains(byte) && !previous.is_ascii_alphanumeric() || *byte == b'#' && b"\"'".contains(&previous);
        previous = *byte;
        hiding = !ends && (hiding || sign);
        if hiding {
            *byte = b'*';
        }
    }
}

fn hide(bytes: Option<&mut [u8]>) {
    for byte in bytes.into_iter().flatten().filter(|byte| !byte.is_ascii_whitespace()) {
        *byte = b'*';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown_however_it_is_written() {
        for text in [
            "password = \"hunter2\"",
            "password = [\"hunter2\", 'hunter2']",
            "password = [\n  \"hunter2\", # hunter2\n]",
            "password = \"\"\"\nhunter2\n\"\"\"",
            "password = \"hunter2",
            "password = hunter2",
            "password = hunter2 = hunter2",
            "password =\n  \"hunter2\"",
            "password \"hunter2\"",
            "password: hunter2",
            "pasword = \"hunter2\"",
            "psasword = \"hunter2\"",
            "PASSWORD = 'hunter2'",
            "\"password\" = \"hunter2\"",
            "p\\u0061ssword = \"hunter2\"",
            "password.file = \"hunter2\"",
            "password = { file = \"hunter2\" }",
            "password = { hunter2 }",
            "password_sha256 = \"hunter2\"",
            "x = { enabled = true, password = \"hunter2\", privileges = [] }",
            "config = { requirepass = \"hunter2\" }",
            "config = { maxclients = 10, primaryauth = \"hunter2\" }",
            "tls-key-file-pass = \"hunter2\"",
            "privileges = [\"+get\", \">hunter2\"]",
            "privileges = [\"+get >hunter2\"]",
            "privileges = [\">hunter2",
            "privileges = [\"+get, \">hunter2\"]",
            "privileges = ['#hunter2', '<hunter2', '!hunter2']",
            "# password = \"hunter2\"",
            "password = \"\\\"hunter2\"",
            "password = 'ä' hunter2",
        ] {
            let shown = mask(text);
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
            assert_eq!(shown.len(), text.len());
        }
    }

    #[test]
    fn everything_else_is_shown() {
        for text in [
            "[instances.a.users.password]\nprivileges = [\"+auth\"]\n",
            "# how to choose a password\nshard = \"a\"\n",
            "password = [\n[instances.a]\nshard = \"a\"\n",
            "config = { hash-max-listpack-value = 64 }\n",
        ] {
            assert_eq!(mask(text), text);
        }
        assert_eq!(mask("password = { file = \"x\" }\nshard = \"a\""), "password = { file = \"*\" }\nshard = \"a\"");
    }
}
