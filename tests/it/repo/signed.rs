//! Signatures, made by the real ssh-keygen and gpg.

use std::fs;
use std::path::{Path, PathBuf};

use valkeeper::repo::{Location, Repo, RepoError, Revision, Signature, SignatureFault, SignatureKind, Verify};

use super::{World, head, run};

pub fn ssh_key(world: &World, name: &str) -> String {
    run("ssh-keygen", world.folder.path(), &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name], &[]);
    fs::read_to_string(world.path(&format!("{name}.pub"))).unwrap().trim().to_owned()
}

/// A commit that is signed with an ssh key, by hand: what is configured is what the test says.
pub fn sign_with_ssh(world: &World, key: &str, date: Option<&str>) -> Revision {
    let key = format!("user.signingkey={}", world.text(&format!("{key}.pub")));
    let env: Vec<(&str, &str)> = date.map(|date| ("GIT_COMMITTER_DATE", date)).into_iter().collect();
    let args = ["-c", "gpg.format=ssh", "-c", &key, "commit", "--quiet", "--allow-empty", "-S", "-m", "signed"];
    run("git", &world.work(), &args, &env);
    world.at("HEAD")
}

fn open(world: &World, allowed_signers: Option<PathBuf>, openpgp_keys: Option<PathBuf>) -> Repo {
    let mut spec = world.spec(Location::Local(world.work()));
    spec.verify = Verify::Head { allowed_signers, openpgp_keys };
    Repo::open(spec).unwrap()
}

/// The repository with a file of signers made of these lines.
fn allowing(world: &World, lines: &str) -> Repo {
    let signers = world.path("allowed_signers");
    fs::write(&signers, lines).unwrap();
    open(world, Some(signers), None)
}

async fn fault(repo: &Repo, revision: &Revision) -> SignatureFault {
    match repo.verify(revision).await {
        Err(RepoError::Signature { fault, .. }) => fault,
        other => panic!("{other:?}"),
    }
}

/// The commit with another message under the old signature.
fn tamper(world: &World, revision: &Revision) -> Revision {
    let object = world.git(&["cat-file", "commit", revision.as_str()]).replace("signed", "forged") + "\n";
    fs::write(world.path("object"), object).unwrap();
    let forged = world.git(&["hash-object", "-t", "commit", "-w", &world.text("object")]);
    Revision::new(&forged).unwrap()
}

#[tokio::test]
async fn a_commit_signed_by_an_allowed_ssh_key_is_good() {
    let world = World::new();
    let key = ssh_key(&world, "anna");
    let signed = sign_with_ssh(&world, "anna", None);
    let Signature { kind, signer, key } = allowing(&world, &format!("anna@example.com {key}\n")).verify(&signed).await.unwrap();
    assert_eq!((kind, signer.as_str()), (SignatureKind::Ssh, "anna@example.com"));
    assert!(key.starts_with("SHA256:"), "{key}");
}

#[tokio::test]
async fn a_commit_that_is_not_signed_is_refused() {
    let world = World::new();
    let repo = allowing(&world, "");
    assert_eq!(fault(&repo, &head(&repo).await).await, SignatureFault::None);
}

#[tokio::test]
async fn a_signature_of_somebody_else_is_refused() {
    let world = World::new();
    let (anna, _) = (ssh_key(&world, "anna"), ssh_key(&world, "mallory"));
    let signed = sign_with_ssh(&world, "mallory", None);
    for lines in [format!("anna@example.com {anna}\n"), String::new()] {
        let found = fault(&allowing(&world, &lines), &signed).await;
        assert!(matches!(found, SignatureFault::UnknownSigner { .. }), "{found:?}");
    }
}

#[tokio::test]
async fn a_commit_that_was_tampered_with_is_refused() {
    let world = World::new();
    let key = ssh_key(&world, "anna");
    let forged = tamper(&world, &sign_with_ssh(&world, "anna", None));
    assert_eq!(fault(&allowing(&world, &format!("* {key}\n")), &forged).await, SignatureFault::Bad);
}

#[tokio::test]
async fn a_key_that_had_ended_when_it_signed_is_refused() {
    let world = World::new();
    let key = ssh_key(&world, "anna");
    let repo = allowing(&world, &format!("* valid-before=\"20240101\" {key}\n"));
    let late = sign_with_ssh(&world, "anna", Some("2024-06-01T00:00:00Z"));
    let found = fault(&repo, &late).await;
    assert!(matches!(found, SignatureFault::UnknownSigner { .. } | SignatureFault::Expired { .. }), "{found:?}");
    let early = sign_with_ssh(&world, "anna", Some("2023-06-01T00:00:00Z"));
    assert!(repo.verify(&early).await.is_ok());
}

/// Whoever can write to the repository could write its configuration, if it is a local one.
#[tokio::test]
async fn what_the_repository_configures_is_not_trusted() {
    let world = World::new();
    let (anna, mallory) = (ssh_key(&world, "anna"), ssh_key(&world, "mallory"));
    let signed = sign_with_ssh(&world, "mallory", None);
    fs::write(world.path("theirs"), format!("* {mallory}\n")).unwrap();
    let yes = world.path("yes");
    fs::write(&yes, "#!/bin/sh\ntouch \"$0.ran\"\necho 'Good \"git\" signature for a@x with ED25519 key SHA256:x'\n").unwrap();
    run("chmod", world.folder.path(), &["+x", "yes"], &[]);
    world.git(&["config", "gpg.ssh.allowedSignersFile", &world.text("theirs")]);
    for key in ["gpg.ssh.program", "gpg.program", "gpg.openpgp.program", "core.fsmonitor", "core.pager", "core.hooksPath"] {
        world.git(&["config", key, yes.to_str().unwrap()]);
    }
    world.git(&["config", "log.showSignature", "true"]);
    let found = fault(&allowing(&world, &format!("* {anna}\n")), &signed).await;
    assert!(matches!(found, SignatureFault::UnknownSigner { .. }), "{found:?}");
    let good = allowing(&world, &format!("* {mallory}\n")).verify(&signed).await;
    assert!(good.is_ok(), "{good:?}");
    assert!(!world.path("yes.ran").exists());
}

/// `git replace` shows one commit under the name of another.
#[tokio::test]
async fn a_replaced_commit_is_judged_as_itself() {
    let world = World::new();
    let (anna, _) = (ssh_key(&world, "anna"), ssh_key(&world, "mallory"));
    let good = sign_with_ssh(&world, "anna", None);
    world.commit(&[("a.toml", "a = 2\n")]);
    let bad = sign_with_ssh(&world, "mallory", None);
    world.git(&["replace", bad.as_str(), good.as_str()]);
    let repo = allowing(&world, &format!("* {anna}\n"));
    let found = fault(&repo, &bad).await;
    assert!(matches!(found, SignatureFault::UnknownSigner { .. }), "{found:?}");
    assert_eq!(super::texts(&repo, &bad).await, "a = 2\nb = 1\n");
}

#[tokio::test]
async fn a_missing_file_of_signers_is_not_a_wrong_signature() {
    let world = World::new();
    ssh_key(&world, "anna");
    let signed = sign_with_ssh(&world, "anna", None);
    let error = open(&world, Some(world.path("nowhere")), None).verify(&signed).await.unwrap_err();
    assert!(matches!(error, RepoError::Io { .. }) && error.to_string().contains("nowhere"), "{error}");
    let found = fault(&open(&world, None, Some(world.path("nowhere"))), &signed).await;
    assert!(matches!(found, SignatureFault::UnknownSigner { .. }), "ssh is not allowed at all: {found:?}");
}

/// A keyring of somebody who signs; its agent ends with it.
pub struct Gpg(tempfile::TempDir);

impl Gpg {
    pub fn new(user: &str) -> Self {
        let home = tempfile::Builder::new().prefix("vk-gpg-").tempdir().unwrap();
        let gpg = Self(home);
        run("chmod", gpg.0.path(), &["700", "."], &[]);
        gpg.gpg(&["--passphrase", "", "--quick-gen-key", user, "ed25519", "sign", "never"]);
        gpg
    }

    fn gpg(&self, args: &[&str]) -> String {
        run("gpg", self.0.path(), &[&["--batch", "--quiet"], args].concat(), &[("GNUPGHOME", self.home())])
    }

    fn home(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    pub fn export(&self, to: &Path) {
        fs::write(to, self.gpg(&["--armor", "--export"])).unwrap();
    }

    pub fn sign(&self, world: &World) -> Revision {
        let key = format!("user.signingkey={}", self.fingerprint());
        let args = ["-c", &key, "commit", "--quiet", "--allow-empty", "-S", "-m", "signed"];
        run("git", &world.work(), &args, &[("GNUPGHOME", self.home())]);
        world.at("HEAD")
    }

    fn fingerprint(&self) -> String {
        let listed = self.gpg(&["--with-colons", "--list-keys"]);
        listed.lines().find_map(|line| line.strip_prefix("fpr:")).unwrap().trim_matches(':').to_owned()
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        run("gpgconf", Path::new("/"), &["--kill", "gpg-agent"], &[("GNUPGHOME", self.home())]);
    }
}

#[tokio::test]
async fn an_openpgp_signature_counts_if_its_key_is_in_the_file() {
    let world = World::new();
    let (anna, mallory) = (Gpg::new("Anna <anna@example.com>"), Gpg::new("Mallory <m@example.com>"));
    let keys = world.path("keys.asc");
    anna.export(&keys);
    let repo = open(&world, None, Some(keys.clone()));

    let signed = anna.sign(&world);
    let good = repo.verify(&signed).await.unwrap();
    assert_eq!((good.kind, good.signer.as_str()), (SignatureKind::OpenPgp, "Anna <anna@example.com>"));
    assert_eq!(fault(&repo, &tamper(&world, &signed)).await, SignatureFault::Bad);

    let strange = mallory.sign(&world);
    let found = fault(&repo, &strange).await;
    assert!(matches!(found, SignatureFault::UnknownSigner { .. }), "{found:?}");

    let ssh_only = allowing(&world, "");
    assert!(matches!(fault(&ssh_only, &signed).await, SignatureFault::UnknownSigner { .. }));

    fs::write(&keys, "no keys\n").unwrap();
    assert!(matches!(fault(&repo, &signed).await, SignatureFault::CannotCheck { .. }));
}

#[tokio::test]
async fn an_openpgp_key_that_expired_or_was_revoked_is_refused() {
    let world = World::new();
    let (anna, bert) = (Gpg::new("Anna <anna@example.com>"), Gpg::new("Bert <bert@example.com>"));
    let keys = world.path("keys.asc");

    let signed = anna.sign(&world);
    anna.gpg(&["--quick-set-expire", &anna.fingerprint(), "seconds=2"]);
    anna.export(&keys);
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let found = fault(&open(&world, None, Some(keys.clone())), &signed).await;
    assert!(matches!(found, SignatureFault::Expired { .. }), "{found:?}");

    let signed = bert.sign(&world);
    let folder = Path::new(bert.home()).join("openpgp-revocs.d");
    let made = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    // gpg puts a colon before the block, so that it is not imported by mistake.
    let block = fs::read_to_string(&made).unwrap().replace("\n:-----BEGIN", "\n-----BEGIN");
    fs::write(&made, block).unwrap();
    bert.gpg(&["--import", made.to_str().unwrap()]);
    bert.export(&keys);
    let found = fault(&open(&world, None, Some(keys)), &signed).await;
    assert!(matches!(found, SignatureFault::Revoked { .. }), "{found:?}");
}
