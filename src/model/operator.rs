//! The operator: the user as which valkeeper itself logs in, over the unix socket.

use super::acl::{AclNames, AclUser};
use super::password::Fingerprint;

/// The least rights that every action needs (a test takes each away and sees an action fail): no key, no channel.
///
/// `acl|setuser` lets it grant anything, so its password is as good as root on the instance; it stays in the marker,
/// mode 0600, and the socket is closed to others. New ones come last: a beginning of the list is what an earlier release gave.
pub const RIGHTS: &[&str] = &[
    "+info",
    "+config|get",
    "+config|set",
    "+acl|list",
    "+acl|setuser",
    "+acl|deluser",
    "+acl|save",
    "+client|list",
    "+client|kill",
    "+bgsave",
    "+bgrewriteaof",
    "+multi",
    "+exec",
    "+replicaof",
    "+client|pause",
    "+client|unpause",
];

/// Is this user the operator with this password? `rights`: [`user`] of any password, so that it is built once for many.
pub fn is(found: &AclUser, rights: &AclUser, password: Fingerprint) -> bool {
    let flags = |user: &AclUser| (user.enabled, user.nopass, user.skip_sanitize);
    flags(found) == flags(rights)
        && found.root == rights.root
        && found.selectors() == rights.selectors()
        && found.passwords() == [password]
}

/// Is this the operator with this password as an earlier release made it?
pub fn is_earlier(found: &AclUser, password: Fingerprint) -> bool {
    (1..RIGHTS.len()).any(|count| *found == with(RIGHTS.get(..count).unwrap_or_default(), password, None))
}

/// The operator as a server shows it; `names` only if a server must judge the words (they are the same on every version).
pub fn user(password: Fingerprint, names: Option<&AclNames>) -> AclUser {
    with(RIGHTS, password, names)
}

fn with(rights: &[&str], password: Fingerprint, names: Option<&AclNames>) -> AclUser {
    let mut user = AclUser::closed();
    user.enabled = true;
    user.add_password(password);
    for word in rights {
        // A server that lacks one of these commands has an operator without it, and the action that needs it says so.
        let _unknown_on_this_server = user.root.apply(word, names);
    }
    user
}
