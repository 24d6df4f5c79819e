//! What is found in a config and is not ours, in words; secrets are shown as fingerprints.

use crate::model::password::Fingerprint;

/// Settings whose value is a secret in clear text (facts B.3).
const SECRETS: &[&str] = &["masterauth", "primaryauth", "requirepass", "tls-client-key-file-pass", "tls-key-file-pass"];

/// A value as it may be shown and compared.
pub(super) fn shown(name: &str, value: String) -> String {
    if SECRETS.contains(&name) && !value.is_empty() { format!("(secret {})", Fingerprint::of(value.as_bytes())) } else { value }
}

/// A directive as it may be shown. Of `user` and of what is unknown only the first word is safe to repeat.
pub(super) fn directive(name: &str, arguments: &[String]) -> String {
    let first = arguments.first().map(String::as_str).unwrap_or_default();
    match name {
        "include" | "rename-command" | "loadmodule" => format!("{name} {}", arguments.join(" ")),
        "user" => format!("{name} {first} …"),
        "" => format!("a line that cannot be read: {} …", first.split_ascii_whitespace().next().unwrap_or_default()),
        _ => format!("{name} … (unknown)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_repeated() {
        assert!(!shown("requirepass", "hunter2".into()).contains("hunter2"));
        assert_eq!(shown("requirepass", String::new()), "");
        for (name, arguments) in [("user", "a on >hunter2 +@all"), ("requirepas", "hunter2"), ("", "requirepass \"hunter2")] {
            let words: Vec<String> =
                if name.is_empty() { vec![arguments.to_owned()] } else { arguments.split(' ').map(str::to_owned).collect() };
            assert!(!directive(name, &words).contains("hunter2"), "{name}");
        }
    }
}
