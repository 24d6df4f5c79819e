//! A plan in a file: it names its source and authorises its steps. It holds no secret, and no declaration: those are read
//! again, and must not have moved.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SourceArgs;
use crate::model::desired::Desired;
use crate::model::plan::{Plan, Step};
use crate::plan::show;
use crate::roots;

/// What tells a saved plan from other JSON.
const KIND: &str = "valkeeper-saved-plan";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    kind: String,
    format_version: String,
    path: PathBuf,
    local_root: Option<PathBuf>,
    secrets_root: Option<PathBuf>,
    pub fleet: String,
    pub revision: String,
    /// What is done first: it has to be exactly what is planned again.
    pub steps: Vec<Value>,
    /// What was foreseen to follow.
    pub then: Vec<Value>,
}

impl Saved {
    pub(super) fn source(&self) -> SourceArgs {
        SourceArgs { path: self.path.clone(), local_root: self.local_root.clone(), secrets_root: self.secrets_root.clone() }
    }
}

pub(super) fn identities<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<Value> {
    steps.map(show::identity).collect()
}

pub(super) fn save(file: &Path, args: &SourceArgs, desired: &Desired, plan: &Plan, rest: &[Plan]) -> anyhow::Result<()> {
    anyhow::ensure!(
        !roots::is_file(file) || matches!(load(file), Ok(Some(_))),
        "{} is there and is no saved plan: name another file",
        file.display()
    );
    let absolute = |path: &PathBuf| std::path::absolute(path).with_context(|| format!("{}", path.display()));
    let saved = Saved {
        kind: KIND.to_owned(),
        format_version: show::FORMAT_VERSION.to_owned(),
        path: absolute(&args.path)?,
        local_root: args.local_root.as_ref().map(absolute).transpose()?,
        secrets_root: args.secrets_root.as_ref().map(absolute).transpose()?,
        fleet: desired.fleet.to_string(),
        revision: desired.revision.clone(),
        steps: identities(plan.steps.iter()),
        then: identities(rest.iter().flat_map(|plan| &plan.steps)),
    };
    let text = serde_json::to_string_pretty(&saved)?;
    crate::host::files::replace(file, text.as_bytes(), 0o600)
        .with_context(|| format!("the plan could not be saved as {}", file.display()))
}

/// The saved plan in this file, if it is one.
pub(super) fn load(path: &Path) -> anyhow::Result<Option<Saved>> {
    if path.extension().is_some_and(|extension| extension == "toml") || !roots::is_file(path) {
        return Ok(None);
    }
    let text = roots::read_ours(path)?;
    if !text.trim_start().starts_with('{') {
        return Ok(None);
    }
    let place = || format!("{} is not a plan that \"valkeeper plan --out\" saved", path.display());
    let saved: Saved = serde_json::from_str(&text).with_context(place)?;
    anyhow::ensure!(saved.kind == KIND, place());
    anyhow::ensure!(
        saved.format_version == show::FORMAT_VERSION,
        "{} was saved in format {}, and this valkeeper reads {}: plan again",
        path.display(),
        saved.format_version,
        show::FORMAT_VERSION
    );
    Ok(Some(saved))
}
