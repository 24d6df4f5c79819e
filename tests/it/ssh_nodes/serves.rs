//! What works with nodes behind ssh as it does with local ones, and what happens when the connection does not hold.

use std::fs;
use std::time::{Duration, Instant};

use super::{Hosts, INSTANCES};
use crate::site::finish;

#[test]
fn a_fleet_behind_ssh_is_planned_applied_and_then_as_declared() {
    let hosts = Hosts::new();
    hosts.run(&["plan"]).expect(2).says("node n1").says("Plan: 2 to add");
    assert!(!hosts.state("n1", "instances").exists(), "a plan writes nothing");
    hosts.apply().expect(0).says("Applied: 4 done");
    hosts.run(&["plan"]).expect(0).says("No changes.");
    hosts.run(&["observe"]).expect(0).says("[nodes.n1.members.one.").says("[nodes.n2.members.two.");
    // A mix with a local node, and a user whose password must arrive.
    let user = "[instances.one.users.app]\npassword = { env = \"APP_PASSWORD\" }\nprivileges = [\"+ping\"]\n";
    hosts.declare("", &format!("{INSTANCES}{user}[nodes.here]\nlocal = \"./here\"\n"));
    let mut apply = hosts.command(&["apply", "--yes"]);
    finish(apply.env("APP_PASSWORD", "correct-horse").spawn().unwrap()).expect(0);
    let port: u16 = hosts.site.first_port;
    let mut client = crate::site::Client::to(port).unwrap();
    assert_eq!(client.ask("AUTH app correct-horse"), "+OK");
    assert_eq!(client.ask("PING"), "+PONG");
}

#[test]
fn an_unreachable_node_is_unseen_and_the_others_are_not() {
    let mut hosts = Hosts::new();
    hosts.apply().expect(0);
    hosts.lets_in("n2", "exit 3");
    hosts.run(&["plan"]).expect(4).says("n2").says("ssh ended").says("without a word");
    hosts.stop_sshd();
    hosts.run(&["plan"]).expect(4).says("Connection refused");
    hosts.start_sshd();
    hosts.lets_in("n2", &hosts.agent("n2"));
    hosts.run(&["plan"]).expect(0).says("No changes.");
}

#[test]
fn a_login_shell_may_print_what_it_likes_first() {
    let hosts = Hosts::new();
    hosts.lets_in("n1", &format!("echo Welcome to n1; echo; {}", hosts.agent("n1")));
    hosts.run(&["plan"]).expect(2).says("Plan: 2 to add");
}

#[test]
fn an_agent_that_may_only_look_refuses_to_act() {
    let hosts = Hosts::new();
    hosts.lets_in("n1", &format!("{} --read-only", hosts.agent("n1")));
    hosts.run(&["plan"]).expect(2).says("Plan: 2 to add");
    hosts.apply().expect(1).says("--read-only");
    assert!(!hosts.state("n1", "instances").exists());
}

/// The right to act is the agent's: it ends with the agent, and that ends with the controller.
#[test]
fn a_controller_that_was_killed_leaves_no_right_to_act_behind() {
    let hosts = Hosts::new();
    let mut tables = INSTANCES.to_owned();
    for round in 0..6_u64 {
        tables.push_str(&format!("[instances.n{round}]\nshard = \"a\"\n"));
        hosts.declare("", &tables);
        let mut apply = hosts.command(&["apply", "--yes"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(150 * round));
        let _ended_already = apply.kill();
        apply.wait().unwrap();
        // What the agent had begun it finishes; meanwhile it says who acts.
        let since = Instant::now();
        loop {
            let again = hosts.apply();
            if again.code == Some(0) {
                break;
            }
            assert!(again.all().contains("held by valkeeper apply"), "{}", again.all());
            assert!(since.elapsed() < Duration::from_secs(60), "{}", again.all());
        }
        hosts.run(&["plan"]).expect(0).says("No changes.");
    }
}

#[test]
fn two_controllers_do_not_act_at_once() {
    let hosts = Hosts::new();
    hosts.apply().expect(0);
    // An agent that somebody started by hand, and that has the right to act.
    let holder = fs::OpenOptions::new().read(true).write(true).open(hosts.state("n1", "lock")).unwrap();
    // The agent of the command before may be about to end.
    holder.lock().unwrap();
    fs::write(hosts.state("n1", "lock"), "valkeeper run (process 7)").unwrap();
    hosts.declare("", &format!("{INSTANCES}[instances.three]\nshard = \"a\"\n"));
    hosts.apply().expect(1).says("held by valkeeper run (process 7)");
}
