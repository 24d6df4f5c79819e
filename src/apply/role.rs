//! The effects on a member's role: whom its server follows.

use super::server::{Acting, Halt};
use crate::model::name::{REPLICA_USER, UserName};
use crate::model::role::Endpoint;

impl Acting {
    /// Follows another member, as the user that all members have for that; or nobody, and then no password stays behind.
    pub(super) async fn follow(&mut self, primary: Option<&Endpoint>) -> Result<(), Halt> {
        let Some(primary) = primary else {
            self.say(vec!["REPLICAOF", "NO", "ONE"]).await?;
            return self.say(vec!["CONFIG", "SET", "primaryuser", "", "primaryauth", ""]).await.map(|_ok| ());
        };
        self.introduce_itself().await?;
        self.say(replica_of(primary)).await.map(|_ok| ())
    }

    /// As [`Self::follow`], from being a primary: clients of these users are told by the end of their connections. Neither those
    /// of replicas, whoever's, nor those of other users are touched.
    pub(super) async fn step_down(&mut self, primary: &Endpoint, told: &[UserName]) -> Result<(), Halt> {
        self.introduce_itself().await?;
        let mut transaction = vec![vec!["MULTI"], replica_of(primary)];
        for user in told {
            let kill = |kind| vec!["CLIENT", "KILL", "USER", user.as_str(), "TYPE", kind];
            transaction.extend(["normal", "pubsub"].map(kill));
        }
        transaction.push(vec!["EXEC"]);
        self.transact(&transaction).await
    }

    /// The password goes to the server's memory only, never to a file (facts B.3).
    async fn introduce_itself(&mut self) -> Result<(), Halt> {
        let password = self.marker().await?.replication_password();
        let words = vec!["CONFIG", "SET", "primaryuser", REPLICA_USER, "primaryauth", password.reveal()];
        self.say(words).await.map(|_ok| ())
    }
}

fn replica_of(primary: &Endpoint) -> Vec<&str> {
    let mut words = vec!["REPLICAOF"];
    words.extend(primary.words());
    words
}
