//! Nodes of different kinds in one fleet: two releases of Valkey, and a folder on the controller's own machine.

use std::fs::File;
use std::io::Write as _;

use crate::base::Suite;
use crate::daemon::{Daemon, is_settled};
use crate::site::{Site, instance};

/// A setting that came with Valkey 8.1.
const NEW: &str = "commandlog-reply-larger-than = 2048";

#[test]
#[ignore = "boots hosts: make test-fleet"]
fn nodes_of_every_kind_are_one_fleet() {
    let site = Site::of([Suite::Bookworm, Suite::Trixie]);
    let here = "[nodes.here]\nlocal = \"./here\"\n[shards.on-here]\nnodes = [\"here\"]\nports = \"23450-23459\"\n";
    let three = |on_n1: &str, on_n2: &str| {
        format!("{here}{}{}{}", instance("old", "n1", on_n1), instance("new", "n2", on_n2), instance("own", "here", ""))
    };
    site.declare(&three(NEW, NEW));
    let refused = site.run(&["plan"]).expect(1);
    assert!(refused.all().contains("commandlog-reply-larger-than") && refused.all().contains("8.0.1"), "{}", refused.all());
    site.declare(&three("", NEW));
    site.applied();
    site.settled();
    let observed = site.run(&["observe"]).expect(0);
    for member in ["[nodes.n1.members.old.", "[nodes.n2.members.new.", "[nodes.here.members.own."] {
        assert!(observed.all().contains(member), "{member}");
    }
    assert_eq!(site.operator("n2", "new").ask("CONFIG GET commandlog-reply-larger-than"), "commandlog-reply-larger-than 2048");
    let daemon = Daemon::start(&site, "mixed");
    daemon.until("settled", is_settled);
    daemon
        .say(&["status"])
        .expect(0)
        .says("n1: seen, valkey-server 8.0.1")
        .says("n2: seen, valkey-server 8.1")
        .says("here: seen");
    drop(daemon);

    another_build_of_the_server_is_a_planned_restart(&site);
    // The servers of the local node are no part of any host.
    site.declare(&three("", NEW).replace("[instances.own]\n", "[instances.own]\nensure = \"absent\"\n"));
    site.applied();
}

/// As after an upgrade of the package: another file, of which the running server knows nothing.
fn another_build_of_the_server_is_a_planned_restart(site: &Site) {
    let host = site.host("n1");
    assert_eq!(site.client("n1", "old").ask("SET kept yes"), "+OK");
    let pid = || host.ssh(&["systemctl", "show", "-P", "MainPID", "valkey@old.service"]);
    let before = pid();
    host.ssh(&["cp", "/usr/bin/valkey-server", "/usr/bin/valkey-server.new"]);
    let mut program = File::options().append(true).open(host.file("/usr/bin/valkey-server.new")).unwrap();
    program.write_all(b"another build").unwrap();
    drop(program);
    host.ssh(&["mv", "/usr/bin/valkey-server.new", "/usr/bin/valkey-server"]);
    let plan = site.run(&["plan"]).expect(2);
    assert!(plan.all().contains("restart") && plan.all().contains("1 to change"), "{}", plan.all());
    site.applied();
    site.settled();
    assert_ne!(pid(), before);
    assert_eq!(site.client("n1", "old").ask("GET kept"), "yes");
}
