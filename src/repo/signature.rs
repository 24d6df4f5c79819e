//! Who signed a commit, as the `git` program finds with ssh-keygen or gpg, against the keys that the spec names and no others.
//!
//! Expiry, revocation and the formats are theirs to judge. Never asks the configuration of the repository or of the user: what is
//! trusted stands in the spec. An ssh key's validity is looked up at the time that the commit claims (git's own rule), so a
//! key that was stolen has to be taken out of the file, not only ended.

#![expect(clippy::disallowed_methods, reason = "tells a missing file of signers from a wrong signature; makes a keyring for gpg")]

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::process::Command;

use super::error::{RepoError, SignatureFault};
use super::git::{self, RunError};
use super::tree::{self, At};
use super::{Revision, Spec, Verify, blocking, one_line};

/// How much of a signer's name, a key or an error is shown. Characters.
const SHOWN_CHARS_MAX: usize = 200;
/// A key is as good as the keyring says of it, whoever signed it. No agent is needed to check, so none is left running.
const GPG_CONF: &str = "trust-model direct\nno-autostart\nno-auto-key-retrieve\n";

/// gpg's number for a key that is trusted by itself (its doc/DETAILS, "ownertrust").
const ULTIMATE: u8 = 6;

/// A good signature of somebody who may sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    pub kind: SignatureKind,
    /// The principal of the `allowed_signers` file, or the user id of the OpenPGP key; without control characters.
    pub signer: String,
    /// The key's fingerprint (ssh) or id (OpenPGP).
    pub key: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureKind {
    Ssh,
    OpenPgp,
}

/// Checks the signature of one commit.
pub(super) async fn verify(spec: &Spec, at: At, revision: &Revision) -> Result<Signature, RepoError> {
    let bad = |fault| RepoError::Signature { revision: revision.clone(), fault };
    let (at_there, revision_there) = (at.clone(), revision.clone());
    let (folder, block) =
        blocking(move || Ok((tree::git_folder(&at_there)?, tree::signature_block(&at_there, &revision_there)?))).await?;
    let Some(block) = block else { return Err(bad(SignatureFault::None)) };
    let (ssh, openpgp) = match &spec.verify {
        Verify::Off => (None, None),
        Verify::Head { allowed_signers, openpgp_keys } => (allowed_signers.as_deref(), openpgp_keys.as_deref()),
    };
    let kind = kind(&block).ok_or_else(|| bad(cannot("it is neither an ssh nor an OpenPGP signature")))?;
    // Lives as long as git needs it.
    let keyring;
    let mut command = match (kind, ssh, openpgp) {
        (SignatureKind::Ssh, Some(signers), _) => {
            readable(signers)?;
            with_ssh(&folder, signers)
        }
        (SignatureKind::OpenPgp, _, Some(keys)) => {
            readable(keys)?;
            keyring = import(spec, keys, revision).await?;
            with_openpgp(&folder, keyring.path())
        }
        (SignatureKind::Ssh, None, _) => return Err(bad(unknown("an ssh key (no allowed_signers are named)"))),
        (SignatureKind::OpenPgp, _, None) => return Err(bad(unknown("an OpenPGP key (no openpgp_keys are named)"))),
    };
    command.args(["log", "-1", "--no-show-signature", "--format=%G?%x00%GS%x00%GK%x00%GF"]).arg(revision.as_str());
    let finished = git::run(command, spec.deadline).await.map_err(|error| not_run("git", error, &folder, revision))?;
    if !finished.status.success() {
        return Err(bad(cannot(&finished.err)));
    }
    judge(kind, &finished.out, &finished.err).map_err(bad)
}

/// By the first line of the block (gitformat-signature(5)).
fn kind(block: &str) -> Option<SignatureKind> {
    let first = block.trim_start().lines().next()?.trim_end();
    match first {
        "-----BEGIN SSH SIGNATURE-----" => Some(SignatureKind::Ssh),
        "-----BEGIN PGP SIGNATURE-----" | "-----BEGIN PGP MESSAGE-----" => Some(SignatureKind::OpenPgp),
        _other => None,
    }
}

/// A git whose trust comes from us alone: the settings given here go before those of the repository.
fn trusting_us(folder: &Path) -> Command {
    let mut command = git::git(folder);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.env("GIT_ALLOW_PROTOCOL", "none");
    // Its owner was checked when libgit2 opened it, with the user's own list of exceptions.
    command.args(["-c", "safe.directory=*", "-c", "gpg.minTrustLevel=undefined", "-c", "gpg.x509.program=false"]);
    command
}

fn with_ssh(folder: &Path, signers: &Path) -> Command {
    let mut command = trusting_us(folder);
    command.args(["-c", "gpg.ssh.program=ssh-keygen", "-c", "gpg.program=false", "-c", "gpg.openpgp.program=false"]);
    command.arg("-c").arg(setting("gpg.ssh.allowedSignersFile", signers));
    command
}

fn with_openpgp(folder: &Path, keyring: &Path) -> Command {
    let mut command = trusting_us(folder);
    command.args(["-c", "gpg.program=gpg", "-c", "gpg.openpgp.program=gpg", "-c", "gpg.ssh.program=false"]);
    command.env("GNUPGHOME", keyring);
    command
}

fn setting(key: &str, path: &Path) -> std::ffi::OsString {
    let mut text = std::ffi::OsString::from(format!("{key}="));
    text.push(path);
    text
}

fn readable(path: &Path) -> Result<(), RepoError> {
    let opened = fs::File::open(path);
    let not_read = |cause| RepoError::Io { doing: "the keys of those who may sign cannot be read", path: path.to_owned(), cause };
    opened.map(drop).map_err(not_read)
}

/// A keyring of its own for gpg: the keys of the file, each of them trusted, and no others.
async fn import(spec: &Spec, keys: &Path, revision: &Revision) -> Result<TempDir, RepoError> {
    let io_error = |path: PathBuf| move |cause: io::Error| RepoError::Io { doing: "no keyring can be made", path, cause };
    let home = tempfile::Builder::new().prefix("valkeeper-keys-").tempdir().map_err(io_error(std::env::temp_dir()))?;
    let file = |name: &str| home.path().join(name);
    let prepared =
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).and_then(|()| fs::write(file("gpg.conf"), GPG_CONF));
    prepared.map_err(io_error(home.path().to_owned()))?;
    let bad = |said: &str| RepoError::Signature { revision: revision.clone(), fault: cannot(said) };
    let gpg = async |words: &[&str], file: Option<&Path>| {
        let mut gpg = git::program("gpg");
        gpg.env("GNUPGHOME", home.path()).args(["--batch", "--quiet", "--no-tty"]).args(words).args(file);
        let finished = git::run(gpg, spec.deadline).await.map_err(|error| not_run("gpg", error, keys, revision))?;
        if finished.status.success() {
            return Ok(finished.out);
        }
        Err(bad(&format!("{}: gpg cannot take its keys: {}", keys.display(), finished.err)))
    };
    gpg(&["--import", "--"], Some(keys)).await?;
    let listed = gpg(&["--with-colons", "--list-keys"], None).await?;
    let trust: String = primary_fingerprints(&listed).map(|fingerprint| format!("{fingerprint}:{ULTIMATE}:\n")).collect();
    fs::write(file("trust"), trust).map_err(io_error(home.path().to_owned()))?;
    gpg(&["--import-ownertrust", "--"], Some(&file("trust"))).await?;
    Ok(home)
}

/// The line after each `pub`, field 10 (gpg's doc/DETAILS). Subkeys follow their primary key's trust.
fn primary_fingerprints(listed: &str) -> impl Iterator<Item = &str> {
    let after = listed.lines().skip(1);
    let primary = listed.lines().zip(after).filter(|(line, _)| line.starts_with("pub:"));
    primary.filter_map(|(_, next)| next.strip_prefix("fpr:")?.split(':').nth(8))
}

fn not_run(program: &'static str, error: RunError, place: &Path, revision: &Revision) -> RepoError {
    error.into_repo(program, place, |deadline| RepoError::Signature {
        revision: revision.clone(),
        fault: cannot(&format!("{program} does not end within {deadline:?}")),
    })
}

/// What git's letter means (git-log(1), `%G?`). Only `G` is good: `U` is a good signature of somebody we do not know.
fn judge(kind: SignatureKind, out: &str, err: &str) -> Result<Signature, SignatureFault> {
    let mut parts = out.trim_end_matches('\n').split('\0').map(|part| one_line(part, SHOWN_CHARS_MAX));
    let mut next = || parts.next().unwrap_or_default();
    let (letter, signer, key, fingerprint) = (next(), next(), next(), next());
    let key = if key.is_empty() { fingerprint } else { key };
    let shown = || if key.is_empty() { "a key without a name".to_owned() } else { format!("key {key}") };
    match letter.as_str() {
        "G" => Ok(Signature { kind, signer, key }),
        "U" => Err(SignatureFault::UnknownSigner { key: shown() }),
        "N" => Err(SignatureFault::None),
        "B" => Err(SignatureFault::Bad),
        "X" | "Y" => Err(SignatureFault::Expired { key: shown() }),
        "R" => Err(SignatureFault::Revoked { key: shown() }),
        // gpg says so of a key that it does not have; of one that it has it would have said more.
        "E" if kind == SignatureKind::OpenPgp && !key.is_empty() => Err(SignatureFault::UnknownSigner { key: shown() }),
        _other => Err(cannot(err)),
    }
}

fn unknown(key: &str) -> SignatureFault {
    SignatureFault::UnknownSigner { key: key.to_owned() }
}

fn cannot(said: &str) -> SignatureFault {
    let said = one_line(said, SHOWN_CHARS_MAX);
    SignatureFault::CannotCheck { said: if said.is_empty() { "git does not say why".to_owned() } else { said } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_g_is_good() {
        let judged = |letter: &str| judge(SignatureKind::Ssh, &format!("{letter}\0me@x\0SHA256:k\0SHA256:k\n"), "");
        assert_eq!(judged("G"), Ok(Signature { kind: SignatureKind::Ssh, signer: "me@x".into(), key: "SHA256:k".into() }));
        for letter in ["U", "N", "B", "X", "Y", "R", "E", "", "g", "GG", "Z"] {
            assert!(judged(letter).is_err(), "{letter}");
        }
    }

    #[test]
    fn subkeys_are_no_primary_keys() {
        let listed = "tru::1:1:0:3:1:5\npub:-:255:22:AA:1:::-:::scESC:\nfpr:::::::::F1:\nuid:-::::1::H::Anna:\n\
                      sub:-:255:18:BB:1::::::e:\nfpr:::::::::F2:\npub:-:255:22:CC:1:::-:::sc:\nfpr:::::::::F3:\n";
        assert_eq!(primary_fingerprints(listed).collect::<Vec<_>>(), ["F1", "F3"]);
    }

    #[test]
    fn a_kind_is_told_by_the_first_line() {
        assert_eq!(kind("-----BEGIN SSH SIGNATURE-----\nx"), Some(SignatureKind::Ssh));
        assert_eq!(kind("-----BEGIN PGP SIGNATURE-----\nx"), Some(SignatureKind::OpenPgp));
        assert_eq!(kind("-----BEGIN SIGNED MESSAGE-----\nx"), None);
        assert_eq!(kind(""), None);
    }
}
