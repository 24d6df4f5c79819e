//! The operator's least rights: each is needed by some action. (That they are enough, every other test shows.)

use std::time::Duration;

use valkeeper::model::action::Action;
use valkeeper::model::live::Server;
use valkeeper::model::operator::RIGHTS;

use crate::node::Client;
use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn every_right_of_the_operator_is_needed() {
    let failed = what_fails_without(None).await;
    assert!(failed.is_empty(), "with all its rights the operator fails to {failed:?}");
    for right in RIGHTS {
        let failed = what_fails_without(Some(right)).await;
        println!("without {right}: {failed:?}");
        assert!(!failed.is_empty(), "nothing needs {right}");
    }
}

/// The actions that do not succeed when this right is taken from the operator of a running server with a client.
async fn what_fails_without(right: Option<&str>) -> Vec<&'static str> {
    let world = World::patient().await;
    let spec = with(&plain(free_port()), &[("appendonly", "yes")]);
    assert!(world.create("a", &spec, app_user()).await.is_done());
    let _client = Client::polling(&world);
    until_connected(&world).await;
    if let Some(right) = right {
        let taken = right.replace('+', "-");
        assert_eq!(world.operator("a", &["acl", "setuser", "valkeeper", &taken]), "OK");
    }

    let mut done = Vec::new();
    done.push(("see the server", matches!(world.member("a").await.server, Server::Up(_))));
    let declared = with(&spec, &[("timeout", "30")]);
    done.push(("change a setting", world.change("a", &declared, false).await.is_done()));
    let more = wanted("secret", "~* +@all");
    done.push(("grant a right", world.set_user("a", "app", &more, false).await.is_done()));
    let less = wanted("secret", "~app:* +get");
    done.push(("take a right and close connections", world.set_user("a", "app", &less, true).await.is_done()));
    let before = world.member("a").await.users.get("app").cloned().unwrap_or_default();
    done.push(("remove a user", world.on("a", Action::RemoveUser { user: user_name("app"), before }).await.is_done()));
    let without_aof = with(&declared, &[("appendonly", "no")]);
    done.push(("switch the AOF off", world.change("a", &without_aof, false).await.is_done()));
    done.into_iter().filter(|(_, succeeded)| !succeeded).map(|(what, _)| what).collect()
}

async fn until_connected(world: &World) {
    for _ in 0..500 {
        if let Server::Up(running) = world.member("a").await.server
            && running.connections.total > 0
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the client does not connect");
}
