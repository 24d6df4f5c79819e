//! Starting programs: argv arrays, a deadline for each, and a failure that says what was run. Never a shell.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A program that is ended when it takes longer than any of ours should on a busy machine.
pub fn program(name: &str) -> Command {
    within(Duration::from_secs(60), name)
}

/// A program that is ended after so long (by coreutils, which then says 124).
pub fn within(limit: Duration, name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=5", &limit.as_secs().to_string(), name]).stdin(Stdio::null());
    command
}

/// What a program said, which must succeed.
pub fn must(command: &mut Command) -> String {
    let output = output(command);
    assert!(output.status.success(), "{}", told(command, &output));
    String::from_utf8(output.stdout).unwrap()
}

/// What a program said, however it ended.
pub fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"))
}

pub fn told(command: &Command, output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{command:?}: {}\n{out}{err}", output.status)
}
