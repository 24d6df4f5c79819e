//! Trying a config with the node's own binary before it comes near an instance.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::OnceCell;

use crate::host::held;
use crate::host::scratch::{Scratch, ScratchError};
use crate::host::valkey::{Reply, ValkeyError};
use crate::model::config_file::{self, Directive};
use crate::model::password::Fingerprint;
use crate::model::spec::InstanceSpec;
use crate::observe::binary::Binary;
use crate::observe::{LocalNode, chain};

/// What would make the throwaway server reachable, or stand in the way of the real one.
const LEFT_OUT: &[&str] = &["port", "bind", "tls-port", "replicaof"];
/// With this the server reads its certificates as it does with `tls-port` (both end in `connTypeConfigure`, in server.c),
/// and listens nowhere.
const TLS_UNHEARD: &str = "tls-replication";
/// Proofs that are remembered; beyond that all are forgotten, which costs only time.
const REMEMBERED_MAX: usize = 1000;

type Verdict = Arc<OnceCell<Result<(), Disproof>>>;

/// Why settings are not proved.
#[derive(Debug, Clone)]
pub(super) enum Disproof {
    /// The server does not take them.
    Refused(String),
    /// They could not be tried: the machine's trouble, which may pass.
    Untried(String),
}

/// Verdicts by binary and settings, so that equal instances are proved once, also when they are made side by side.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    verdicts: Mutex<HashMap<Fingerprint, Verdict>>,
}

impl Proofs {
    /// Does a server of this binary start with these settings, and show them as we write them?
    pub(super) async fn prove(&self, node: &LocalNode, binary: &Binary, spec: &InstanceSpec) -> Result<(), Disproof> {
        let own = tried(spec).map(|(name, value)| (name.to_owned(), config_file::arguments(name, value)));
        let tls = serves_tls(spec).then(|| (TLS_UNHEARD.to_owned(), vec!["yes".to_owned()]));
        let directives: Vec<Directive> = own.chain(tls).collect();
        let text = config_file::render(&binary.id.0, &directives);
        let verdict = self.verdict(Fingerprint::of(text.as_bytes()));
        let limit = node.limits().step;
        verdict.get_or_init(|| run(node, binary, spec, &directives, limit)).await.clone()
    }

    fn verdict(&self, of: Fingerprint) -> Verdict {
        let mut verdicts = held::lock(&self.verdicts);
        if verdicts.len() > REMEMBERED_MAX {
            verdicts.clear();
        }
        // A refusal may have been the machine's (a full disk), so it is tried again by the next step.
        let known = verdicts.get(&of).filter(|known| known.get().is_none_or(Result::is_ok)).cloned();
        known.unwrap_or_else(|| {
            let new = Verdict::default();
            verdicts.insert(of, Arc::clone(&new));
            new
        })
    }
}

/// The settings that are written, and read back.
fn tried(spec: &InstanceSpec) -> impl Iterator<Item = (&str, &str)> {
    let is_tried = |name: &str| !(LEFT_OUT.contains(&name) || (name == TLS_UNHEARD && serves_tls(spec)));
    spec.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).filter(move |(name, _)| is_tried(name))
}

fn serves_tls(spec: &InstanceSpec) -> bool {
    spec.get("tls-port").is_some_and(|port| port != "0")
}

async fn run(
    node: &LocalNode,
    binary: &Binary,
    spec: &InstanceSpec,
    directives: &[Directive],
    limit: Duration,
) -> Result<(), Disproof> {
    let refused = |why: String| Err(Disproof::Refused(why));
    let version = &binary.facts.version;
    let start = Scratch::start(&binary.path, &node.bench(), directives, limit).await;
    let mut server = start.map_err(|error| match error {
        ScratchError::Ended(words) => Disproof::Refused(format!("valkey-server {version} refuses the config: {words}")),
        ScratchError::Folder(..) | ScratchError::Spawn(..) | ScratchError::Silent(_) => Disproof::Untried(chain(&error)),
    })?;
    let untried = |error| Disproof::Untried(format!("the config could not be proved: {}", chain(&error)));
    let shown = shown(&mut server).await.map_err(untried)?;
    for (name, form) in tried(spec) {
        match shown.get(name) {
            Some(theirs) if theirs == form => {}
            Some(theirs) if name == "maxclients" => {
                return refused(format!(
                    "valkey-server {version} lowers maxclients {form} to {theirs}, because so many files may be open; \
                     raise the limit (ulimit -n) or declare less"
                ));
            }
            Some(theirs) => {
                return refused(format!("valkey-server {version} shows {name} as {theirs:?} where {form:?} was written"));
            }
            None => return refused(format!("valkey-server {version} does not know {name}")),
        }
    }
    Ok(())
}

async fn shown(server: &mut Scratch) -> Result<HashMap<String, String>, ValkeyError> {
    let mut words = server.connection.ask(vec!["CONFIG", "GET", "*"]).await.and_then(Reply::into_texts)?.into_iter();
    let mut shown = HashMap::new();
    while let (Some(name), Some(value)) = (words.next(), words.next()) {
        shown.insert(name, value);
    }
    Ok(shown)
}
