//! The operator has the least rights that every action needs: with all of them everything works, and without any one of
//! them something does not.

use valkeeper::model::action::Action;
use valkeeper::model::live::Server;
use valkeeper::model::operator;
use valkeeper::model::outcome::Outcome;

use crate::support::*;

/// Everything that is done to a running member, until something fails; what it was.
async fn first_failure(world: &World, lost: Option<&str>) -> Option<&'static str> {
    let spec = plain(free_port());
    assert_eq!(world.create("a", &spec, app_user()).await, Outcome::Done);
    assert_eq!(world.cli("a", "app", "secret", &["set", "app:x", "1"]), "OK");
    let _client = Client::polling(world);
    connection_id(world).await;
    if let Some(right) = lost {
        let less = right.replacen('+', "-", 1);
        assert_eq!(world.operator("a", &["acl", "setuser", "valkeeper", &less]), "OK", "{right}");
    }
    if !matches!(world.member("a").await.server, Server::Up(_)) {
        return Some("look");
    }
    let aof = with(&spec, &[("appendonly", "yes"), ("hz", "20")]);
    if world.change("a", &aof, false).await != Outcome::Done {
        return Some("change settings");
    }
    if world.change("a", &spec, false).await != Outcome::Done {
        return Some("switch the AOF off");
    }
    if world.set_user("a", "app", &wanted("secret", "~app:* +get"), true).await != Outcome::Done {
        return Some("take rights away");
    }
    let before = world.member("a").await.users["app"].clone();
    let remove = Action::RemoveUser { user: user_name("app"), before };
    if world.on("a", remove).await != Outcome::Done {
        return Some("remove a user");
    }
    if world.follow("a").await != Outcome::Done {
        return Some("follow another server");
    }
    // Last, because a restart brings the right back.
    if world.change("a", &aof, false).await != Outcome::Done {
        return Some("switch the AOF on again");
    }
    let fewer = world.change("a", &with(&aof, &[("databases", "4")]), true).await;
    (fewer != Outcome::Done).then_some("take databases away")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_right_of_the_operator_is_needed_and_they_are_enough() {
    assert_eq!(first_failure(&World::new().await, None).await, None);
    for right in operator::RIGHTS {
        let failed = first_failure(&World::new().await, Some(right)).await;
        assert!(failed.is_some(), "the operator does not need {right}");
    }
}
