//! The effects on a member's role: whom its server follows.

use super::server::{Acting, Halt};
use crate::model::name::REPLICA_USER;
use crate::model::role::Endpoint;

impl Acting {
    /// Follows another member, as the user that all members have for that; or nobody, and then no password stays behind.
    /// The password goes to the server's memory only, never to a file (facts B.3).
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
}
