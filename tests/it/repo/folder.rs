//! A plain folder of TOML, without git.

use std::fs;

use valkeeper::repo::{Location, Repo, RepoError};

use super::{World, head, texts};

#[tokio::test]
async fn a_folder_has_a_new_revision_when_its_text_changes() {
    let world = World::new();
    let repo = Repo::open(world.spec(Location::Folder(world.work()))).unwrap();
    let first = head(&repo).await;
    world.write("README.md", "changed");
    assert_eq!(head(&repo).await, first, "not a TOML file");
    world.write("a.toml", "a = 2\n");
    let error = repo.read(&first).await.unwrap_err();
    assert!(matches!(error, RepoError::Changing { .. }), "{error}");
    let second = head(&repo).await;
    assert_eq!(texts(&repo, &second).await, "a = 2\nb = 1\n");
    assert!(repo.descends(&second, &first).await.unwrap());
    assert_eq!(repo.earlier(&second, 5).await.unwrap(), []);
}

#[tokio::test]
async fn a_folder_that_is_empty_or_gone_is_an_error() {
    let world = World::new();
    let repo = Repo::open(world.spec(Location::Folder(world.work()))).unwrap();
    for name in ["a.toml", "b.toml"] {
        fs::remove_file(world.work().join(name)).unwrap();
    }
    assert!(matches!(repo.head().await.unwrap_err(), RepoError::Empty { .. }));
    fs::remove_dir_all(world.work()).unwrap();
    assert!(matches!(repo.head().await.unwrap_err(), RepoError::Files(_)));
}
