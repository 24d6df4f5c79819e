//! The effects on a member's role: whom its server follows, and whether its writers wait.

use std::time::Duration;

use super::server::{Acting, Halt};
use crate::model::name::{REPLICA_USER, UserName};
use crate::model::role::Endpoint;

/// How long writers wait at most: what a cut-over may take (facts E.3). Milliseconds.
const PAUSE_MS: &str = "1500";
/// Between the pause and the fence: a fenced server refuses a write before it would hold it back (`processCommand` of server.c),
/// so whoever writes at least this often is held back first.
const HELD_BACK_WITHIN: Duration = Duration::from_millis(10);

impl Acting {
    /// Holds writes back; who only reads goes on.
    pub(super) async fn pause_writers(&mut self) -> Result<(), Halt> {
        self.say(vec!["CLIENT", "PAUSE", PAUSE_MS, "WRITE"]).await?;
        tokio::time::sleep(HELD_BACK_WITHIN).await;
        Ok(())
    }

    /// Ends a pause, or nothing.
    pub(super) async fn resume_writers(&mut self) -> Result<(), Halt> {
        self.say(vec!["CLIENT", "UNPAUSE"]).await.map(|_ok| ())
    }

    /// Follows another member, as the user that all members have for that; or nobody, and then no password stays behind.
    pub(super) async fn follow(&mut self, primary: Option<&Endpoint>) -> Result<(), Halt> {
        let Some(primary) = primary else {
            self.say(vec!["REPLICAOF", "NO", "ONE"]).await?;
            return self.say(vec!["CONFIG", "SET", "primaryuser", "", "primaryauth", ""]).await.map(|_ok| ());
        };
        let password = self.marker().await?.replication_password();
        self.say(vec!["CONFIG", "SET", "primaryuser", REPLICA_USER, "primaryauth", password.reveal()]).await?;
        let mut words = vec!["REPLICAOF"];
        words.extend(primary.words());
        self.say(words).await.map(|_ok| ())
    }

    /// Closes the connections of these users. Neither those of replicas, whoever's, nor those of other users are touched.
    pub(super) async fn dismiss(&mut self, users: &[UserName]) -> Result<(), Halt> {
        let kill = |user, kind| vec!["CLIENT", "KILL", "USER", user, "TYPE", kind];
        let kills = users.iter().flat_map(|user| ["normal", "pubsub"].map(|kind| kill(user.as_str(), kind)));
        for killed in self.ask(&kills.collect::<Vec<_>>()).await? {
            killed?;
        }
        Ok(())
    }
}
