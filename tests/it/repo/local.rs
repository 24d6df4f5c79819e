//! A repository on this machine, read in place.

use std::fs;
use std::os::unix::fs::symlink;

use valkeeper::repo::{EntryFault, Location, Repo, RepoError, Revision};

use super::{World, head, texts};

#[tokio::test]
async fn a_working_copy_and_a_bare_repository_read_alike() {
    let world = World::new();
    let bare = Repo::open(world.spec(Location::Local(world.bare()))).unwrap();
    for repo in [world.local(), bare] {
        let newest = repo.head().await.unwrap();
        assert_eq!(newest.revision, world.at("HEAD"));
        assert_eq!((newest.summary.as_str(), newest.author.as_str()), ("change", "Anna"));
        assert!(newest.committed_at.is_some());
        let sources = repo.read(&newest.revision).await.unwrap();
        let names: Vec<_> = sources.iter().map(|source| source.name.clone()).collect();
        let short = newest.revision.short();
        assert_eq!(names, [format!("{short}:a.toml"), format!("{short}:b.toml")]);
        assert_eq!(sources[0].text, "a = 1\n");
    }
}

#[tokio::test]
async fn what_is_not_committed_is_not_read() {
    let world = World::new();
    world.write("a.toml", "half writ");
    let repo = world.local();
    assert_eq!(texts(&repo, &head(&repo).await).await, "a = 1\nb = 1\n");
}

#[tokio::test]
async fn a_packed_branch_is_found() {
    let world = World::new();
    world.git(&["branch", "team/live"]);
    world.git(&["pack-refs", "--all"]);
    world.git(&["gc", "--quiet"]);
    let mut spec = world.spec(Location::Local(world.work()));
    spec.branch = "team/live".into();
    assert_eq!(head(&Repo::open(spec).unwrap()).await, world.at("HEAD"));
}

#[tokio::test]
async fn a_branch_that_is_gone_is_told_with_those_that_are_there() {
    let world = World::new();
    let repo = world.local();
    let before = head(&repo).await;
    world.git(&["branch", "-m", "main", "trunk"]);
    let error = repo.head().await.unwrap_err();
    assert!(matches!(error, RepoError::NoBranch { .. }), "{error}");
    assert!(error.to_string().contains("\"main\"") && error.to_string().contains("trunk"), "{error}");
    assert_eq!(texts(&repo, &before).await, "a = 1\nb = 1\n", "the last good revision stays readable");
}

#[tokio::test]
async fn a_repository_without_a_commit_has_no_branch() {
    let world = World::empty();
    let error = world.local().head().await.unwrap_err();
    assert!(matches!(error, RepoError::NoBranch { .. }), "{error}");
}

#[tokio::test]
async fn a_repository_that_vanishes_is_told_and_found_again() {
    let world = World::new();
    let repo = world.local();
    fs::rename(world.work(), world.path("away")).unwrap();
    let error = repo.head().await.unwrap_err();
    assert!(matches!(error, RepoError::NoRepository { .. }), "{error:?}");
    fs::create_dir(world.work()).unwrap();
    assert!(matches!(repo.head().await.unwrap_err(), RepoError::NoRepository { .. }), "a folder is no repository");
    fs::remove_dir(world.work()).unwrap();
    fs::rename(world.path("away"), world.work()).unwrap();
    assert_eq!(head(&repo).await, world.at("HEAD"));
}

#[tokio::test]
async fn a_repository_above_is_not_taken_for_this_one() {
    let world = World::new();
    world.commit(&[("sub/c.toml", "")]);
    let repo = Repo::open(world.spec(Location::Local(world.work().join("sub")))).unwrap();
    assert!(matches!(repo.head().await.unwrap_err(), RepoError::NoRepository { .. }));
}

#[tokio::test]
async fn history_that_was_rewound_does_not_descend() {
    let world = World::new();
    let repo = world.local();
    let first = head(&repo).await;
    let second = world.commit(&[("a.toml", "a = 2\n")]);
    assert!(repo.descends(&second, &first).await.unwrap());
    assert!(repo.descends(&second, &second).await.unwrap());
    assert!(!repo.descends(&first, &second).await.unwrap(), "rewound");
    world.git(&["commit", "--quiet", "--amend", "-m", "other"]);
    assert!(!repo.descends(&head(&repo).await, &second).await.unwrap(), "replaced");
    let stranger = Revision::new(&"1".repeat(40)).unwrap();
    let error = repo.descends(&second, &stranger).await.unwrap_err();
    assert!(matches!(error, RepoError::UnknownCommit { .. }), "{error}");
    assert!(matches!(repo.read(&stranger).await.unwrap_err(), RepoError::UnknownCommit { .. }));
}

#[tokio::test]
async fn history_follows_first_parents_only() {
    let world = World::new();
    let first = world.at("HEAD");
    world.git(&["checkout", "--quiet", "-b", "side"]);
    let side = world.commit(&[("side.toml", "")]);
    world.git(&["checkout", "--quiet", "main"]);
    let second = world.commit(&[("a.toml", "a = 2\n")]);
    world.git(&["merge", "--quiet", "--no-ff", "-m", "merge", "side"]);
    let repo = world.local();
    let merge = head(&repo).await;
    assert_eq!(repo.earlier(&merge, 10).await.unwrap(), [second.clone(), first.clone()]);
    assert!(repo.descends(&merge, &side).await.unwrap());
    assert_eq!(repo.earlier(&merge, 1).await.unwrap(), std::slice::from_ref(&second));
    assert_eq!(repo.earlier(&first, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_folder_of_the_tree_is_read_and_nothing_below_it() {
    let world = World::new();
    let revision = world.commit(&[("env/live/c.toml", "c\n"), ("env/live/deep/d.toml", "d\n"), ("env/live/.e.toml", "e\n")]);
    let open = |folder: &str| {
        let mut spec = world.spec(Location::Local(world.work()));
        spec.folder = folder.into();
        Repo::open(spec).unwrap()
    };
    let sources = open("./env/live/").read(&revision).await.unwrap();
    assert_eq!(sources.len(), 1);
    assert_eq!(sources[0].name, format!("{}:env/live/c.toml", revision.short()));
    for folder in ["nowhere", "README.md", "env/live/nowhere"] {
        let error = open(folder).read(&revision).await.unwrap_err();
        assert!(matches!(error, RepoError::NoFolder { .. }), "{folder}: {error}");
    }
    assert!(matches!(open("env").read(&revision).await.unwrap_err(), RepoError::Empty { .. }));
}

#[tokio::test]
async fn an_empty_tree_is_an_error_and_not_an_empty_text() {
    let world = World::new();
    world.git(&["rm", "--quiet", "-r", "."]);
    let empty = world.commit_all();
    let error = world.local().read(&empty).await.unwrap_err();
    assert!(matches!(error, RepoError::Empty { .. }), "{error}");
}

#[tokio::test]
async fn entries_that_are_no_text_are_all_told() {
    let world = World::new();
    symlink("/etc/passwd", world.work().join("c.toml")).unwrap();
    world.write("d.toml", b"x = 1\ny = \"\xff\"\n");
    world.write("e.toml/x", "");
    world.git(&["add", "--all"]);
    let submodule = format!("160000,{},f.toml", world.at("HEAD"));
    world.git(&["update-index", "--add", "--cacheinfo", &submodule]);
    world.git(&["commit", "--quiet", "-m", "strange"]);
    let error = world.local().read(&world.at("HEAD")).await.unwrap_err();
    let text = error.to_string();
    let RepoError::Entries(faults) = error else { panic!("{text}") };
    assert!(matches!(
        faults[..],
        [EntryFault::Symlink { .. }, EntryFault::Text(_), EntryFault::Folder { .. }, EntryFault::Submodule { .. }]
    ));
    for place in ["c.toml: a symbolic link", "d.toml:2: not UTF-8", "e.toml: a folder", "f.toml: a submodule"] {
        assert!(text.contains(place), "{text}");
    }
}

#[tokio::test]
async fn a_file_that_is_too_large_is_refused_before_it_is_unpacked() {
    let world = World::new();
    world.write("c.toml", vec![b' '; (32 << 20) + 1]);
    let revision = world.commit_all();
    let error = world.local().read(&revision).await.unwrap_err();
    assert!(error.to_string().contains("c.toml: larger than 32 MiB"), "{error}");
}
