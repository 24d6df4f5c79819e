//! One instance as it will be: base settings, `[defaults]` and its own, in that order; passwords in the place of references.

use super::draft::{InstanceDraft, UserDraft, WrittenSettings, WrittenUser};
use super::problem::{Problem, quoted};
use super::secret::Secrets;
use crate::model::desired::{BASE_SETTINGS, DesiredInstance, DesiredUser, Located, Origin};
use crate::model::name::{SettingName, UserName};

/// What every instance gets unless it says otherwise.
pub(super) struct Merge {
    base: Vec<(SettingName, &'static str)>,
    defaults: WrittenSettings,
}

impl Merge {
    pub(super) fn new(defaults: WrittenSettings) -> Self {
        let base = BASE_SETTINGS.iter().filter_map(|(name, value)| Some((SettingName::new(name).ok()?, *value)));
        Self { base: base.collect(), defaults }
    }

    /// Nothing only where a problem was found before: an instance without a shard.
    pub(super) fn instance(
        &self,
        at: Origin,
        draft: InstanceDraft,
        secrets: &Secrets,
        problems: &mut Vec<Problem>,
    ) -> Option<DesiredInstance> {
        let InstanceDraft { tenant, shard, primary, move_by, port, protect, mode, ensure, mut settings, users } = draft;
        for (name, value) in &self.defaults {
            if !settings.contains_key(name) {
                settings.insert(name.clone(), value.clone());
            }
        }
        for (name, value) in &self.base {
            if !settings.contains_key(name) {
                settings.insert(name.clone(), Located { value: (*value).to_owned(), at });
            }
        }
        Some(DesiredInstance {
            at,
            tenant: tenant.map(|tenant| tenant.value),
            shard: shard?.value,
            ensure,
            protect,
            mode,
            port: port.map(|port| port.value),
            primary: primary.map(|primary| primary.value),
            move_by,
            settings,
            users: users.into_iter().map(|user| with_passwords(user, secrets, problems)).collect(),
        })
    }
}

fn with_passwords(draft: UserDraft, secrets: &Secrets, problems: &mut Vec<Problem>) -> (UserName, DesiredUser) {
    let UserDraft { name, user, secrets: references } = draft;
    let WrittenUser { at, enabled, mut passwords, root, selectors } = user;
    for reference in references {
        match secrets.get(&reference.value) {
            Ok(hash) => passwords.push(hash),
            Err(why) => {
                let title = format!("the password of user {} could not be read", quoted(name.as_str()));
                problems.push(Problem::new(title, reference.at, why));
            }
        }
    }
    // A password may be given twice while it moves from the text to a file; to a server it is one.
    passwords.sort_unstable();
    passwords.dedup();
    (name, DesiredUser::new(at, enabled, passwords, root, selectors))
}
