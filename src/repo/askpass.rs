//! Answers git when it asks for the user and the token of an https remote: this program, started again by git.
//!
//! So the token is in no argument and in no environment, only in its file and in a pipe to git. Answers for the one origin that
//! was asked for: a server that redirects elsewhere does not get the token there.

#![expect(clippy::disallowed_methods, reason = "runs in main's place: its question is in the arguments, its answer in a file")]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

/// Holds the path of the file with the token.
const FILE_VARIABLE: &str = "VALKEEPER_ASKPASS_FILE";
/// Holds the origin, `https://HOST[:PORT]`, that may have it.
const ORIGIN_VARIABLE: &str = "VALKEEPER_ASKPASS_ORIGIN";
/// The user's name where the address does not say one: GitHub's word for a token; GitLab and Gitea take any name. A forge that
/// wants another (Bitbucket: `x-token-auth`) has it in the address: `https://NAME@HOST/…`.
const USER: &str = "x-access-token";
/// The largest token file, in bytes. A larger one is the wrong file.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// What a git needs in its environment in order to ask us.
pub(super) fn environment(token_file: &Path, url: &str, program: OsString) -> [(&'static str, OsString); 3] {
    let origin = origin(url).unwrap_or_default();
    [("GIT_ASKPASS", program), (FILE_VARIABLE, token_file.as_os_str().to_owned()), (ORIGIN_VARIABLE, origin.into())]
}

/// Answers, if this process was started by git in order to ask. `main` calls it before anything else, and ends with the code.
pub fn answer() -> Option<ExitCode> {
    let file = std::env::var_os(FILE_VARIABLE)?;
    let allowed = std::env::var(ORIGIN_VARIABLE).unwrap_or_default();
    let question = std::env::args().nth(1).unwrap_or_default();
    let said = reply(&question, &allowed, || token(Path::new(&file))).and_then(|answer| {
        let mut out = io::stdout().lock();
        out.write_all(&answer).and_then(|()| out.write_all(b"\n")).map_err(|error| error.to_string())
    });
    Some(match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            // git passes this on, and the fetch fails with it.
            let _ = writeln!(io::stderr(), "valkeeper: {why}");
            ExitCode::FAILURE
        }
    })
}

/// The answer to `Username for 'https://host': ` and `Password for 'https://user@host': ` (git's credential.c).
fn reply(question: &str, allowed: &str, token: impl FnOnce() -> io::Result<Vec<u8>>) -> Result<Vec<u8>, String> {
    let url = question.split('\'').nth(1).unwrap_or_default();
    if allowed.is_empty() || origin(url).as_deref() != Some(allowed) {
        return Err("the token is not for the host that asks for it".to_owned());
    }
    if question.starts_with("Username for ") {
        Ok(USER.into())
    } else if question.starts_with("Password for ") {
        token().map_err(|error| format!("the token file cannot be read: {error}"))
    } else {
        Err("git asks for something else than a user and a password".to_owned())
    }
}

/// `https://host[:port]` of a URL, in lower case, without the user.
fn origin(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    (!host.is_empty()).then(|| format!("https://{}", host.to_ascii_lowercase()))
}

/// The first and only line of a token file.
pub(super) fn token(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(TOKEN_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let token = bytes.trim_ascii();
    if token.is_empty() {
        return Err(invalid("it is empty"));
    }
    if bytes.len() as u64 > TOKEN_BYTES_MAX || token.iter().any(u8::is_ascii_control) {
        return Err(invalid("it is not one line with a token"));
    }
    Ok(token.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(question: &str, allowed: &str) -> Result<String, String> {
        reply(question, allowed, || Ok(b"hunter2".to_vec())).map(|answer| String::from_utf8(answer).unwrap())
    }

    #[test]
    fn the_token_goes_to_the_host_it_is_for() {
        let allowed = origin("https://Me@Git.example.com:8443/a/b.git").unwrap();
        assert_eq!(ask("Username for 'https://git.example.com:8443': ", &allowed).as_deref(), Ok(USER));
        assert_eq!(ask("Password for 'https://me@git.example.com:8443': ", &allowed).as_deref(), Ok("hunter2"));
    }

    #[test]
    fn the_token_goes_to_nobody_else() {
        let allowed = "https://git.example.com";
        for question in [
            "Password for 'https://evil.example.com': ",
            "Password for 'http://git.example.com': ",
            "Password for 'https://git.example.com:444': ",
            "Password for 'https://git.example.com@evil.example.com': ",
            "Password for 'https://git.example.com.evil.example.com/': ",
            "Enter passphrase for key '/root/.ssh/id': ",
            "Password: ",
            "",
        ] {
            assert!(ask(question, allowed).is_err(), "{question}");
        }
        assert!(ask("Password for '': ", "").is_err());
    }

    #[test]
    fn a_token_file_is_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, " abc\r\n").unwrap();
        assert_eq!(token(&path).unwrap(), b"abc");
        for bad in ["", "\n", "a\nb\n", &"x".repeat(70_000)] {
            std::fs::write(&path, bad).unwrap();
            assert!(token(&path).is_err());
        }
    }
}
