//! The effects on ACL users: in the server's memory, and in its ACL file.

use std::sync::Arc;

use super::server::{Acting, Halt, failed, read_marker};
use crate::host::files;
use crate::host::valkey::Reply;
use crate::model::acl::AclUser;
use crate::model::acl_file;
use crate::model::action::WantedUsers;
use crate::model::effect::UserWords;
use crate::model::name::{DEFAULT_USER, OPERATOR_USER, UserName};

impl Acting {
    /// The ACL file of a server that is not running. Users that nobody declared stay, except those in `without`.
    pub(super) async fn write_users(&self, users: &WantedUsers, without: &[UserName]) -> Result<(), Halt> {
        let (users, without) = (users.clone(), without.to_vec());
        self.on_disk(move |node, name| {
            let operator = read_marker(node, name)?.operator_password.hash();
            let path = node.layout.acl(name);
            // Of a file that cannot be read nothing can be kept, and a server would not start from it.
            let old = files::read_bounded(&path).ok().flatten().unwrap_or_default();
            let kept = acl_file::undeclared_lines(&old, |user| {
                matches!(user, DEFAULT_USER | OPERATOR_USER)
                    || users.contains_key(user)
                    || without.iter().any(|gone| gone.as_str() == user)
            });
            let text = acl_file::render(&operator, &users, &kept);
            Ok(files::replace_for(&path, text.as_bytes(), 0o600, node.owned_by_servers())?)
        })
        .await
    }

    /// Sets a user in one command, from nothing (`reset`). Where something is taken away, its connections are closed in the
    /// same transaction, so that a crash cannot leave the half (facts B.1).
    pub(super) async fn set_user(
        &mut self,
        user: &UserName,
        to: &Arc<AclUser>,
        words: &UserWords,
        close: bool,
    ) -> Result<(), Halt> {
        let rules = match words {
            UserWords::Given(wanted) => wanted.user.server_words(&wanted.hashes),
            UserWords::Operator => to.server_words(&[self.marker().await?.operator_password.hash()]),
        };
        let mut set = vec!["ACL", "SETUSER", user.as_str()];
        set.extend(rules.iter().map(String::as_str));
        if !close {
            return self.say(set).await.map(|_ok| ());
        }
        let transaction = [vec!["MULTI"], set, vec!["CLIENT", "KILL", "USER", user.as_str()], vec!["EXEC"]];
        let replies = self.ask(&transaction).await?;
        let mut last = Reply::Nothing;
        for reply in replies {
            last = reply?;
        }
        match last {
            Reply::List(_) => Ok(()),
            Reply::Text(_) | Reply::Number(_) | Reply::Nothing => failed("the server gave up the transaction"),
        }
    }

    /// Removes a user; the server closes its connections.
    pub(super) async fn drop_user(&mut self, user: &UserName) -> Result<(), Halt> {
        self.say(vec!["ACL", "DELUSER", user.as_str()]).await.map(|_count| ())
    }

    /// Writes the users in memory to the ACL file.
    pub(super) async fn save_users(&mut self) -> Result<(), Halt> {
        let before = self.node.supervisor.attempt(self.server());
        match self.say(vec!["ACL", "SAVE"]).await {
            Ok(_) => Ok(()),
            Err(Halt::Failed(why)) => failed(format!("{why}; its log: {}", self.words(&before).await)),
            Err(other @ (Halt::Pending(_) | Halt::Refused(_))) => Err(other),
        }
    }
}
