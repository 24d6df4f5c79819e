//! The text of a server's config file: written whole, read back line by line.
//!
//! Follows the tokenizer of valkey-server (`sdssplitargs` in sds.c): words at white space, double quotes with escapes,
//! single quotes with `\'`.

/// A line of a config file: a directive and its arguments.
pub type Directive = (String, Vec<String>);

/// Renders directives; every argument is quoted where the tokenizer needs it.
pub fn render(header: &str, directives: &[(String, Vec<String>)]) -> String {
    let mut text = String::new();
    for line in header.lines() {
        text.push_str("# ");
        text.push_str(line);
        text.push('\n');
    }
    for (name, arguments) in directives {
        text.push_str(name);
        for argument in arguments {
            text.push(' ');
            text.push_str(&quote(argument));
        }
        text.push('\n');
    }
    text
}

/// The arguments a setting's value takes in the file: `save` and a few others take several words, the rest one.
pub fn arguments(name: &str, value: &str) -> Vec<String> {
    const SEVERAL: &[&str] = &[
        "save",
        "bind",
        "replicaof",
        "client-output-buffer-limit",
        "latency-tracking-info-percentiles",
        "oom-score-adj-values",
        "shutdown-on-sigint",
        "shutdown-on-sigterm",
    ];
    if SEVERAL.contains(&name) && !value.is_empty() {
        value.split_ascii_whitespace().map(ToOwned::to_owned).collect()
    } else {
        vec![value.to_owned()]
    }
}

fn quote(argument: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'\\#".contains(&byte);
    if !argument.is_empty() && argument.bytes().all(plain) {
        return argument.to_owned();
    }
    let mut quoted = String::from("\"");
    for byte in argument.bytes() {
        match byte {
            b'"' => quoted.push_str("\\\""),
            b'\\' => quoted.push_str("\\\\"),
            b' '..=b'~' => quoted.push(char::from(byte)),
            _ => quoted.push_str(&format!("\\x{byte:02x}")),
        }
    }
    quoted.push('"');
    quoted
}

/// Reads a config file. Lines that cannot be read come back as directives with an empty name and the line as argument.
pub fn parse(text: &str) -> Vec<Directive> {
    let meaningful = |line: &&str| !line.is_empty() && !line.starts_with('#');
    text.lines().map(str::trim).filter(meaningful).map(parse_line).collect()
}

fn parse_line(line: &str) -> Directive {
    match split(line) {
        Some(mut words) if !words.is_empty() => {
            let name = words.remove(0).to_ascii_lowercase();
            (name, words)
        }
        Some(_) | None => (String::new(), vec![line.to_owned()]),
    }
}

/// Splits as `sdssplitargs` does; nothing when a quote is not closed or is followed by more.
fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_start().as_bytes();
    while !rest.is_empty() {
        let mut word = Vec::new();
        rest = match rest.first() {
            Some(b'"') => double_quoted(rest.get(1..)?, &mut word)?,
            Some(b'\'') => single_quoted(rest.get(1..)?, &mut word)?,
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                let (plain, after) = rest.split_at(end);
                if plain.iter().any(|byte| b"\"'".contains(byte)) {
                    return None;
                }
                word.extend_from_slice(plain);
                after
            }
        };
        if rest.first().is_some_and(|byte| !byte.is_ascii_whitespace()) {
            return None;
        }
        rest = rest.trim_ascii_start();
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Some(words)
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'"' => return Some(rest),
            b'\\' => {
                let (escape, after) = rest.split_first()?;
                rest = after;
                let hex = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                match (escape, hex.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
                    (b'x', Some(value)) => {
                        word.push(value);
                        rest = rest.get(2..)?;
                    }
                    (b'n', _) => word.push(b'\n'),
                    (b'r', _) => word.push(b'\r'),
                    (b't', _) => word.push(b'\t'),
                    (b'b', _) => word.push(8),
                    (b'a', _) => word.push(7),
                    (other, _) => word.push(*other),
                }
            }
            other => word.push(*other),
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                rest = after;
            }
            [b'\'', after @ ..] => return Some(after),
            [other, after @ ..] => {
                word.push(*other);
                rest = after;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rendered_reads_back() {
        for value in ["", "plain", "two words", "quote \" and \\ and '", "line\nbreak\t\u{e4}", "#", "\\x41"] {
            let text = render("made by a test", &[("logfile".into(), vec![value.into()])]);
            assert_eq!(parse(&text), [("logfile".to_owned(), vec![value.to_owned()])], "{text}");
            assert_eq!(text.lines().count(), 2);
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_kept_as_it_is() {
        for line in ["save \"900", "a\"b\" c", "'x'y"] {
            let (name, words) = parse_line(line);
            assert!(name.is_empty() && words == [line.to_owned()] || line.starts_with("'x"), "{line}");
        }
    }

    #[test]
    fn quotes_follow_the_server() {
        assert_eq!(parse_line("Save 900 1"), ("save".into(), vec!["900".into(), "1".into()]));
        assert_eq!(parse_line(r#"a "x\x41\n" 'it\'s'"#), ("a".into(), vec!["xA\n".into(), "it's".into()]));
    }
}
