//! What clients see of a move: the table of docs/moves.md, row by row, on a real server.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::moves::{PASSWORD, Pair};
use crate::site::Client;

/// Longer than any of this takes: whoever hears nothing by then was left believing.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the cut-over sets (facts E.3), and what lifts it.
const FENCE: &str = "CONFIG SET min-replicas-to-write 1000000 min-replicas-max-lag 10";
const LIFTED: &str = "CONFIG SET min-replicas-to-write 0";

/// A client of the first node's server, whatever it says.
fn patient(pair: &Pair) -> Client {
    let mut client = Client::within(([127, 0, 0, 1], pair.port("n1")).into(), PATIENCE).unwrap();
    assert_eq!(client.ask(&format!("AUTH app {PASSWORD}")), "+OK");
    client
}

/// The same, which has said that it can be redirected.
fn capable(pair: &Pair) -> Client {
    let mut client = patient(pair);
    assert_eq!(client.ask("CLIENT CAPA redirect"), "+OK");
    client
}

/// It waits for this: what it hears, and itself.
fn waiting(mut client: Client, line: &'static str) -> JoinHandle<(String, Client)> {
    std::thread::spawn(move || (client.ask(line), client))
}

/// It may still hear an answer while its connection is being closed.
fn is_closed(mut client: Client) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        if client.try_ask("PING").is_none() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Several that write until they are told something else, or are closed: what they hear, and themselves.
fn writing(pair: &Pair, client: fn(&Pair) -> Client) -> Vec<JoinHandle<(String, Client)>> {
    let writing = |mut client: Client| {
        let mut heard = client.ask("SET busy value");
        std::thread::spawn(move || {
            // In the moment between fence and pause some are refused: they go on.
            while heard == "+OK" || heard.starts_with("-NOREPLICAS") {
                let Some(reply) = client.try_ask("SET busy value") else { break };
                heard = reply;
            }
            (heard, client)
        })
    };
    (0..4).map(|_| writing(client(pair))).collect()
}

fn is_blocked(pair: &Pair, count: usize) -> bool {
    pair.client("n1").ask("INFO clients").contains(&format!("blocked_clients:{count}\r"))
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE / 2, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn declare(pair: &Pair, shard: &str) {
    pair.declare("\"n1\"", shard, "");
    let text = pair.site().read("fleet.toml").replace("handover_grace = \"0s\"", "handover_grace = \"1h\"");
    pair.site().write("fleet.toml", format!("{text}channels = [\"&*\"]\n"));
}

/// Fenced as a cut-over does it, but for longer.
fn while_it_is_fenced(pair: &Pair) {
    let (mut reader, mut queued, mut subscriber) = (patient(pair), patient(pair), patient(pair));
    assert_eq!(queued.ask("MULTI"), "+OK");
    assert_eq!(queued.ask("SET queued value"), "+QUEUED");
    assert!(subscriber.ask("SUBSCRIBE news").starts_with("subscribe"));
    let stream = waiting(patient(pair), "XREAD BLOCK 0 STREAMS stream $");
    let popper = waiting(patient(pair), "BLPOP list 0");
    until("they do not wait", || is_blocked(pair, 2));
    assert_eq!(reader.ask(FENCE), "+OK");
    assert!(reader.ask("SET key other").starts_with("-NOREPLICAS"));
    assert!(reader.ask("BLPOP list 0").starts_with("-NOREPLICAS"));
    assert_eq!(reader.ask("GET key"), "value");
    assert!(queued.ask("EXEC").starts_with("-EXECABORT"));
    assert_eq!(reader.ask("PUBLISH news word"), ":1");
    assert!(!stream.is_finished() && !popper.is_finished());
    assert_eq!(reader.ask(LIFTED), "+OK");
    assert_eq!(reader.ask("RPUSH list value"), ":1");
    assert_eq!(popper.join().unwrap().0, "list value");
    assert_eq!(reader.ask("XADD stream 1-1 field value"), "1-1");
    assert!(stream.join().unwrap().0.contains("1-1"));
}

#[test]
fn clients_of_a_moved_instance_hear_what_the_page_says() {
    let pair = Pair::new();
    declare(&pair, "a");
    pair.site().applied();
    assert_eq!(pair.client("n1").ask("SET key value"), "+OK");
    while_it_is_fenced(&pair);

    let (mut idle, mut able, mut subscriber, mut queued) = (patient(&pair), capable(&pair), patient(&pair), patient(&pair));
    assert!(subscriber.ask("SUBSCRIBE news").starts_with("subscribe"));
    assert_eq!((queued.ask("MULTI"), queued.ask("SET key other")), ("+OK".to_owned(), "+QUEUED".to_owned()));
    let (pop, read) = ("BLPOP list 0", "XREAD BLOCK 0 STREAMS stream $");
    let waiting_there = [waiting(patient(&pair), pop), waiting(patient(&pair), read)];
    until("they do not wait", || is_blocked(&pair, 2));
    let (writers, able_writers) = (writing(&pair, patient), writing(&pair, capable));
    declare(&pair, "b");
    pair.site().applied();

    // Nobody is left believing.
    for (who, client) in [("idle", &mut idle), ("able", &mut able), ("subscriber", &mut subscriber), ("queued", &mut queued)] {
        assert_eq!(client.try_ask("PING"), None, "{who}");
    }
    let redirect = format!("-REDIRECT 127.0.0.1:{}", pair.port("n2"));
    for (heard, client) in waiting_there.map(|waiting| waiting.join().unwrap()) {
        assert!(heard.starts_with("-UNBLOCKED"), "{heard}");
        assert!(is_closed(client), "{heard}");
    }
    for (hears, writers) in [("-READONLY", writers), (&redirect, able_writers)] {
        let (heard, clients): (Vec<_>, Vec<_>) = writers.into_iter().map(|writer| writer.join().unwrap()).unzip();
        // On a machine that is busy elsewhere not all of them are held back at that moment.
        assert!(heard.iter().any(|heard| heard.starts_with(hears)), "{heard:?}");
        assert!(clients.into_iter().all(is_closed), "{hears}");
    }

    // Whoever comes back to the old address.
    let (mut old, mut new) = (patient(&pair), pair.client("n2"));
    assert!(old.ask("SET key other").starts_with("-READONLY"));
    assert!(old.ask("BLPOP list 0").starts_with("-READONLY"));
    assert_eq!(old.ask("GET key"), "value");
    assert_eq!(old.ask("PUBLISH news lost"), ":0");
    let mut able = capable(&pair);
    assert_eq!((able.ask("SET key other"), able.ask("GET key")), (redirect.clone(), redirect));
    assert_eq!(able.ask("PUBLISH news lost"), ":0");
    let stream = waiting(patient(&pair), read);
    until("it does not wait", || is_blocked(&pair, 1));
    assert!(old.ask("SUBSCRIBE news").starts_with("subscribe"));
    assert_eq!(new.ask("XADD stream 2-1 field value"), "2-1");
    assert!(stream.join().unwrap().0.contains("2-1"));
    new.ask("PUBLISH news word");
    until("it hears nothing of what is published", || old.ask("PING") == "message news word");
}
