//! The canonical forms of settings against a real server: what we write is what it shows, or it would differ for ever.

use valkeeper::host::scratch::{Bench, Scratch};
use valkeeper::host::valkey::{Reply, ValkeyError};
use valkeeper::model::binary::{BinaryFacts, ours};
use valkeeper::model::setting::Kind;

use crate::support::*;

/// Values worth trying for a kind, good and bad.
fn values(name: &str, kind: &Kind, default: &str) -> Vec<String> {
    let own: &[&str] = match name {
        "save" => &["", "900 1", "300 10 900 1", "900  1", "900", "0 1", "900 -1", "900 0"],
        "client-output-buffer-limit" => {
            &["replica 1mb 0 0", "normal 1 2 3 pubsub 64mb 0 0", "normal 1 2", "what 1 2 3", "master 0 0 0"]
        }
        "notify-keyspace-events" => &["KEA", "K$lg", "", "KEg$lshzxetd", "AKEm", "Kn", "q", "KEAn", "En"],
        "latency-tracking-info-percentiles" => &["50.0 99.10", "", "100", "0", "99.999", "101", "-1", "x"],
        "shutdown-on-sigterm" | "shutdown-on-sigint" => &["force now", "NOSAVE force", "save", "default now"],
        "oom-score-adj-values" => &["0 200 800", "0 0 0", "1 2", "800 200 0"],
        _ => &[],
    };
    let by_kind: Vec<String> = match kind {
        Kind::Boolean => ["yes", "NO", "1", "true", ""].map(str::to_owned).into(),
        Kind::Integer { min, max } => {
            let near = [Some(*min), Some(*max), min.checked_sub(1), max.checked_add(1), default.parse().ok()];
            let texts = ["007", "1k", "", "+1", " 1"].map(str::to_owned);
            near.into_iter().flatten().map(|number| number.to_string()).chain(texts).collect()
        }
        Kind::Memory { min, max } => {
            let near = [Some(*min), min.checked_sub(1), Some((*max).min(1 << 40)), Some(65536)];
            let texts = ["64mb", "64m", "1K", "1kb", "010", "1.5gb", "1 mb", "1tb", "-1", ""].map(str::to_owned);
            near.into_iter().flatten().map(|bytes| bytes.to_string()).chain(texts).collect()
        }
        Kind::MemoryOrPercent => ["5%", "0%", "100%", "101%", "64mb", "-5%", "%", "05%"].map(str::to_owned).into(),
        Kind::Words(words) => {
            let upper = words.iter().map(|(word, _)| word.to_ascii_uppercase());
            words.iter().map(|(word, _)| word.clone()).chain(upper).chain(["what".to_owned()]).collect()
        }
        Kind::Text => vec![default.to_owned()],
    };
    own.iter().map(|value| (*value).to_owned()).chain(by_kind).collect()
}

/// Settings whose acceptance hangs on more than the value: other settings, rights or the machine.
const DEPENDS: &[&str] = &[
    "activedefrag",
    "tls-cluster",
    "tls-replication",
    "maxclients",
    "oom-score-adj",
    "oom-score-adj-values",
    "tls-port",
    "port",
    "bind",
    "tls-auth-clients",
];

#[tokio::test]
async fn every_value_we_take_is_shown_as_we_write_it_and_what_we_refuse_is_refused() {
    let bench = Bench { below: surroundings().scratch, account: None };
    let mut server = Scratch::start(SERVER.as_ref(), &bench, &[], surroundings().limits.step).await.unwrap();
    let facts: BinaryFacts = serde_json::from_str(include_str!("../golden/binaries/8.0.1.json")).unwrap();
    let mut wrong = Vec::new();
    let mut tried = 0;
    for (name, setting) in facts.settings.iter().filter(|(name, setting)| setting.runtime && ours(name.as_str()).is_none()) {
        for value in values(name.as_str(), &setting.kind, &setting.default) {
            tried += 1;
            let (_, form) =
                facts.canonical(name, &value).unwrap().map_or((name.clone(), None), |(name, form)| (name, Some(form)));
            // From the default, because a partial value leaves the rest as it was.
            server.connection.ask(vec!["CONFIG", "SET", name.as_str(), &setting.default]).await.unwrap();
            let written = form.clone().unwrap_or(value.clone());
            let set = server.connection.ask(vec!["CONFIG", "SET", name.as_str(), &written]).await;
            let shown = server.connection.ask(vec!["CONFIG", "GET", name.as_str()]).await.and_then(Reply::into_texts).unwrap();
            let depends = DEPENDS.contains(&name.as_str());
            match (form, set) {
                (Some(form), Ok(_)) if shown[1] == form => {}
                (Some(form), Ok(_)) => wrong.push(format!("{name} {value:?}: we write {form:?}, it shows {:?}", shown[1])),
                (Some(_), Err(_)) if depends => {}
                (Some(form), Err(ValkeyError::Said(why))) => wrong.push(format!("{name} {value:?} as {form:?}: it says {why}")),
                (None, Ok(_)) | (None, Err(ValkeyError::Said(_))) => {}
                (_, Err(error)) => panic!("{name} {value:?}: {error}"),
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 1000, "{tried}");
}
