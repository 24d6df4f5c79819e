//! The node side against real servers.

use std::path::Path;
use std::time::{Duration, Instant};

use valkeeper::observe::binary::BinaryMemory;

#[tokio::test]
async fn binary_facts() {
    let scratch = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let binary = BinaryMemory::default()
        .get(Path::new("/usr/bin/valkey-server"), scratch.path(), scratch.path(), Duration::from_secs(5))
        .await
        .unwrap();
    eprintln!("{:?}", begin.elapsed());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/binaries/8.0.1.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(golden, serde_json::to_string_pretty(&*binary.facts).unwrap() + "\n").unwrap();
    }
}
