//! Programs of others that judge what we write: Prometheus' `promtool`, systemd's `systemd-analyze`.
//!
//! `scripts/install-missing` brings them. A machine for which it has no packages says what it did not check.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// Runs `promtool` in the root of the project; fails unless it is content and silent about the input.
pub fn promtool(args: &[&str], input: &str) {
    let Some(output) = run("promtool", args, input) else { return };
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {args:?} says:\n{said}");
    if args.starts_with(&["check", "metrics"]) {
        assert_eq!(said, "", "promtool {args:?}");
    }
}

/// Runs a program; nothing if it is not here and nobody can bring it.
pub fn run(program: &str, args: &[&str], input: &str) -> Option<Output> {
    let spawned = Command::new(program)
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if Command::new("apt-get").arg("--version").output().is_ok() => {
            panic!("{program}: {error}: scripts/install-missing brings it");
        }
        Err(error) => {
            // Past the capture of the test's output: a check that did not happen is said, also when all is well.
            let _ = writeln!(std::io::stderr(), "NOT CHECKED: {program} {args:?}: {error}");
            return None;
        }
    };
    let mut stdin = child.stdin.take().unwrap();
    // It may judge without reading everything.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    Some(child.wait_with_output().unwrap())
}
