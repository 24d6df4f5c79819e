//! Where a source is, as people write it, and whether that is safe to hand to git. Never looks whether it is there.

use std::path::{Component, Path, PathBuf};

use super::error::SpecError;
use super::{Access, Spec, Verify};

/// How the tokens of GitHub and GitLab begin: people write one in place of the user.
const TOKEN_BEGINNINGS: &[&str] = &["ghp_", "gho_", "ghu_", "ghs_", "github_pat_", "glpat-", "gldt-", "glcbt-"];

/// Where the text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A git repository on this machine, bare or not: read in place.
    Local(PathBuf),
    /// An `https://` or `ssh://` URL, or `[USER@]HOST:PATH`.
    Remote(String),
    /// A plain folder of TOML files (or one such file), without git.
    Folder(PathBuf),
}

impl Location {
    /// Reads what people type after `--repo`, by git's own rules (gitglossary, git-fetch(1) "GIT URLS"): a colon before the
    /// first slash makes it a remote.
    ///
    /// # Errors
    /// When it is an address that must not be used.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let before_slash = text.split('/').next().unwrap_or(text);
        if text.is_empty() || text.starts_with('-') {
            return Err(SpecError::Address(text.to_owned()));
        }
        if before_slash.contains(':') {
            check_remote(text)?;
            return Ok(Self::Remote(text.to_owned()));
        }
        Ok(Self::Local(PathBuf::from(text)))
    }

    /// As people may see it.
    pub fn show(&self) -> String {
        match self {
            Self::Local(path) | Self::Folder(path) => path.display().to_string(),
            Self::Remote(url) => url.clone(),
        }
    }
}

impl std::str::FromStr for Location {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::parse(text)
    }
}

/// Refuses an address that could be read as an option, run a program, or carry a password to where others read it.
fn check_remote(url: &str) -> Result<(), SpecError> {
    // A password first, so that no other message shows it.
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let is_secret = |user: &str| user.contains(':') || TOKEN_BEGINNINGS.iter().any(|begin| user.starts_with(begin));
    // A repository needs no query; what stands there is a token.
    if user.is_some_and(is_secret) || (url.contains("://") && url.contains('?')) {
        return Err(SpecError::PasswordInAddress);
    }
    let address_error = || SpecError::Address(url.to_owned());
    if url.starts_with('-') || url.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return Err(address_error());
    }
    match url.split_once("://") {
        Some(("https" | "ssh", _)) => {}
        Some((scheme, _)) => return Err(SpecError::Protocol(format!("{scheme}://"))),
        // git runs the program `git-remote-NAME` for `NAME::ADDRESS`.
        None => match url.split_once("::") {
            Some((helper, _)) if !helper.contains('[') => return Err(SpecError::Protocol(format!("{helper}::"))),
            Some(_) | None => {}
        },
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let is_option = |part: &str| part.starts_with('-');
    if host.is_empty() || host.starts_with(':') || is_option(host) || user.is_some_and(is_option) {
        return Err(address_error());
    }
    Ok(())
}

/// Checks a whole spec, and brings its folder into one form: without `.`, `//` and a slash at the end.
pub(super) fn check(spec: &mut Spec) -> Result<(), SpecError> {
    match &spec.location {
        Location::Remote(url) => check_remote(url)?,
        Location::Local(_) | Location::Folder(_) => {}
    }
    make_absolute(spec);
    spec.folder = tidy_folder(&spec.folder).ok_or_else(|| SpecError::Folder(spec.folder.clone()))?;
    // A name that begins so would be an option in other places where people type it.
    if spec.branch.starts_with('-') || !git2::Reference::is_valid_name(&format!("refs/heads/{}", spec.branch)) {
        return Err(SpecError::Branch(spec.branch.clone()));
    }
    check_access(spec)?;
    match (&spec.verify, &spec.location) {
        (Verify::Off, _) => Ok(()),
        (Verify::Head { .. }, Location::Folder(_)) => Err(SpecError::FolderIsNotSigned),
        (Verify::Head { allowed_signers: None, openpgp_keys: None }, _) => Err(SpecError::NobodyMaySign),
        (Verify::Head { .. }, _) => Ok(()),
    }
}

/// Programs are started in the root folder, where a relative path means another one.
fn make_absolute(spec: &mut Spec) {
    let Access { token_file, ca_file, ssh_key, known_hosts, askpass } = &mut spec.access;
    let (signers, keys) = match &mut spec.verify {
        Verify::Off => (None, None),
        Verify::Head { allowed_signers, openpgp_keys } => (allowed_signers.as_mut(), openpgp_keys.as_mut()),
    };
    let access = [token_file, ca_file, ssh_key, known_hosts, askpass].into_iter().filter_map(Option::as_mut);
    for path in access.chain(signers).chain(keys).chain([&mut spec.cache]) {
        // It fails for an empty path, and where there is no current folder: then the path is wrong as it stands.
        if let Ok(absolute) = std::path::absolute(&*path) {
            *path = absolute;
        }
    }
}

fn check_access(spec: &Spec) -> Result<(), SpecError> {
    let access = &spec.access;
    let https = [("token_file", &access.token_file), ("ca_file", &access.ca_file)];
    let ssh = [("ssh_key", &access.ssh_key), ("known_hosts", &access.known_hosts)];
    let is_https = match &spec.location {
        Location::Remote(url) => Some(url.starts_with("https://")),
        Location::Local(_) | Location::Folder(_) => None,
    };
    for (of_https, key, path) in
        https.map(|(key, path)| (true, key, path)).into_iter().chain(ssh.map(|(key, path)| (false, key, path)))
    {
        let Some(path) = path else { continue };
        match is_https {
            None => return Err(SpecError::Meaningless { key, what: "a repository on this machine" }),
            Some(true) if !of_https => return Err(SpecError::Meaningless { key, what: "a repository over https" }),
            Some(false) if of_https => return Err(SpecError::Meaningless { key, what: "a repository over ssh" }),
            Some(_) => {}
        }
        if !is_plain(path) {
            return Err(SpecError::Path { key, path: path.clone() });
        }
    }
    Ok(())
}

/// A path that stays what it is on its way through git, a shell and ssh's own words (`%h`, `~`, spaces).
fn is_plain(path: &Path) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@,".contains(&byte);
    path.is_absolute() && path.as_os_str().as_encoded_bytes().iter().all(|byte| fits(*byte))
}

/// A folder below the root of a repository; an empty text is the root itself.
fn tidy_folder(folder: &str) -> Option<String> {
    let mut parts = Vec::new();
    for component in Path::new(folder).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    (!folder.chars().any(char::is_control)).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Repo;
    use super::*;

    fn spec(location: Location) -> Spec {
        Spec {
            location,
            branch: "main".into(),
            folder: ".".into(),
            cache: "/nowhere".into(),
            verify: Verify::Off,
            access: Access::default(),
            deadline: Duration::from_secs(1),
        }
    }

    #[test]
    fn an_address_is_read_as_git_reads_it() {
        for remote in
            ["https://h/x.git", "https://me@h:8443/x", "ssh://git@h:22/x", "git@h:a/b.git", "h:x", "[::1]:x", "u@[::1]:x"]
        {
            assert_eq!(Location::parse(remote), Ok(Location::Remote(remote.into())), "{remote}");
        }
        for local in ["/srv/x", "x", "./h:x", "a/b:c"] {
            assert_eq!(Location::parse(local), Ok(Location::Local(local.into())), "{local}");
        }
    }

    #[test]
    fn an_address_that_could_do_harm_is_refused() {
        for bad in [
            "",
            "-x",
            "--upload-pack=x",
            "-oProxyCommand=x:y",
            "ssh://-oProxyCommand=x/y",
            "ssh://-l@h/y",
            "u@-x:y",
            "https:///x",
            "http://h/x",
            "git://h/x",
            "file:///x",
            "ext::sh -c x",
            "ftp::h",
            "https://h/a b",
            "h:x\ny",
            ":x",
        ] {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_without_being_shown() {
        for url in [
            "https://glpat-hunter2@h/x",
            "https://h/x?private_token=hunter2",
            "https://u:hunter2@h/x",
            "ssh://u:hunter2@h/x",
            "http://u:hunter2@h/x",
            "https://:hunter2@h",
            "u:hunter2@h:x",
        ] {
            let error = Location::parse(url).unwrap_err();
            assert_eq!(error, SpecError::PasswordInAddress, "{url}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn a_folder_stays_in_the_repository() {
        for (written, folder) in [("", ""), (".", ""), ("a/b/", "a/b"), ("./a//b/.", "a/b")] {
            assert_eq!(tidy_folder(written).as_deref(), Some(folder));
        }
        for bad in ["..", "a/../..", "/a", "a\nb"] {
            assert_eq!(tidy_folder(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_relative_path_is_of_the_folder_we_were_started_in() {
        let mut relative = spec(Location::Remote("h:x".into()));
        relative.cache = "cache".into();
        relative.access.ssh_key = Some("keys/id".into());
        relative.verify = Verify::Head { allowed_signers: Some("signers".into()), openpgp_keys: None };
        let repo = Repo::open(relative).unwrap();
        let here = |name: &str| std::path::absolute(name).unwrap();
        assert_eq!((&repo.spec().cache, &repo.spec().access.ssh_key), (&here("cache"), &Some(here("keys/id"))));
        let signers = Verify::Head { allowed_signers: Some(here("signers")), openpgp_keys: None };
        assert_eq!(repo.spec().verify, signers);
    }

    #[test]
    fn a_spec_that_means_nothing_is_refused() {
        let refused = |change: fn(&mut Spec), location: &Location| {
            let mut spec = spec(location.clone());
            change(&mut spec);
            Repo::open(spec).unwrap_err()
        };
        let https = Location::Remote("https://h/x".into());
        let ssh = Location::Remote("h:x".into());
        let local = Location::Local("/x".into());
        for branch in ["", "-x", "a b", "a..b", "a*", "x:y"] {
            let mut spec = spec(local.clone());
            spec.branch = branch.into();
            assert_eq!(Repo::open(spec).unwrap_err(), SpecError::Branch(branch.into()));
        }
        assert!(matches!(refused(|spec| spec.access.token_file = Some("/t".into()), &ssh), SpecError::Meaningless { .. }));
        assert!(matches!(refused(|spec| spec.access.ssh_key = Some("/k".into()), &https), SpecError::Meaningless { .. }));
        assert!(matches!(refused(|spec| spec.access.ssh_key = Some("/k".into()), &local), SpecError::Meaningless { .. }));
        for path in ["", "/a b", "/a'b", "/%d/k", "/$(x)"] {
            let mut spec = spec(ssh.clone());
            spec.access.ssh_key = Some(path.into());
            assert!(matches!(Repo::open(spec).unwrap_err(), SpecError::Path { .. }), "{path}");
        }
        let nobody = Verify::Head { allowed_signers: None, openpgp_keys: None };
        for (location, error) in
            [(local, SpecError::NobodyMaySign), (Location::Folder("/x".into()), SpecError::FolderIsNotSigned)]
        {
            let mut spec = spec(location);
            spec.verify = nobody.clone();
            assert_eq!(Repo::open(spec).unwrap_err(), error);
        }
    }
}
