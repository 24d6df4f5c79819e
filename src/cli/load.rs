//! From the command line to what is desired, and to the nodes it names.

use anyhow::Context as _;

use super::SourceArgs;
use super::check::Failure;
use super::{out, problems};
use crate::desired::{self, Secrets, Source, refusals_to_problems};
use crate::fleet::nodes::Nodes;
use crate::model::desired::{Desired, Reach};
use crate::model::plan::Plan;
use crate::roots::{self, Roots};

/// What is desired, with the text it was read from, so that later problems can show their place.
#[derive(Debug)]
pub(super) struct Loaded {
    pub desired: Desired,
    sources: Vec<Source>,
}

/// Reads and checks the declared state, passwords included. Problems are printed; nothing is given then.
pub(super) fn load(args: &SourceArgs) -> anyhow::Result<Option<Loaded>> {
    let roots = roots(args);
    read(args, |text| roots::read_secrets(&text.secret_refs().into_iter().collect::<Vec<_>>(), &roots))
}

/// The same for a command that compares no password, so that it works where the secrets are not.
pub(super) fn load_without_secrets(args: &SourceArgs) -> anyhow::Result<Option<Loaded>> {
    read(args, |_| Secrets::Placeholder)
}

fn read(args: &SourceArgs, secrets: impl FnOnce(&desired::Read) -> Secrets) -> anyhow::Result<Option<Loaded>> {
    let failure = match roots::read(&args.path) {
        Err(errors) => Failure::Unreadable(errors),
        Ok(sources) => {
            let text = desired::read(&sources);
            let secrets = secrets(&text);
            match text.check(&secrets) {
                Ok(desired) => return Ok(Some(Loaded { desired, sources })),
                Err(problems) => Failure::Unsound { problems, sources },
            }
        }
    };
    out::complain(failure.render(true));
    Ok(None)
}

/// Prints what the nodes' own servers would refuse, if anything.
pub(super) fn refused(loaded: &Loaded, plan: &Plan) -> bool {
    if plan.refused.is_empty() {
        return false;
    }
    let found = refusals_to_problems(&plan.refused);
    let count = problems::count(found.len(), "problem");
    let shown = problems::render(&found, &loaded.sources, true);
    out::complain(format_args!("{shown}{count}; nothing was changed\n"));
    true
}

fn roots(args: &SourceArgs) -> Roots {
    Roots::new(&args.path, args.secrets_root.clone(), args.local_root.clone())
}

/// The nodes that are named, as far as this release reaches them.
pub(super) fn fleet(loaded: &Loaded, args: &SourceArgs) -> anyhow::Result<Nodes> {
    let roots = roots(args);
    for (name, node) in &loaded.desired.nodes {
        if let Reach::Local(folder) = &node.reach {
            let usable = roots::local_folder(folder, &roots).map_err(anyhow::Error::msg);
            usable.with_context(|| format!("node {name}"))?;
        }
    }
    Ok(roots::fleet(&loaded.desired, &roots::places(&loaded.desired, &roots), None))
}
