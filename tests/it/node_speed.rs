//! How fast a node is seen and filled, as ratios to doing the bare minimum by hand. Run with `--ignored`, in release.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use valkeeper::model::outcome::Outcome;

use crate::support::*;

fn command(words: &[&str]) -> String {
    let tail: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{tail}", words.len())
}

/// Reads until `replies` whole replies have come; gives the bytes.
fn replies(stream: &mut UnixStream, replies: usize) -> usize {
    let mut bytes = Vec::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0);
        bytes.extend_from_slice(&chunk[..read]);
        let mut at = Some(0);
        for _ in 0..replies {
            at = at.and_then(|at| end_of_reply(&bytes, at));
        }
        if let Some(end) = at {
            return end;
        }
    }
}

fn end_of_reply(bytes: &[u8], at: usize) -> Option<usize> {
    let line = bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
    let text = std::str::from_utf8(&bytes[at..at + line]).unwrap();
    let after = at + line + 2;
    match text.as_bytes()[0] {
        b'$' => {
            let end = after + text[1..].parse::<usize>().unwrap() + 2;
            (bytes.len() >= end).then_some(end)
        }
        b'*' => (0..text[1..].parse::<usize>().unwrap()).try_fold(after, |at, _| end_of_reply(bytes, at)),
        b'+' | b':' => Some(after),
        _ => panic!("{text}"),
    }
}

fn floor(world: &World, names: &[String]) -> Duration {
    let passwords: Vec<String> = names
        .iter()
        .map(|name| {
            let marker = fs::read_to_string(world.file(&format!("instances/{name}.toml"))).unwrap();
            let line = marker.lines().find(|line| line.starts_with("operator_password")).unwrap();
            line.split('"').nth(1).unwrap().to_owned()
        })
        .collect();
    let begin = Instant::now();
    let mut streams: Vec<UnixStream> =
        names.iter().map(|name| UnixStream::connect(world.file(&format!("run/{name}.sock"))).unwrap()).collect();
    for (stream, password) in streams.iter_mut().zip(&passwords) {
        stream.write_all(command(&["AUTH", "valkeeper", password]).as_bytes()).unwrap();
    }
    streams.iter_mut().for_each(|stream| {
        replies(stream, 1);
    });
    let ask = command(&["INFO"]) + &command(&["CONFIG", "GET", "*"]) + &command(&["ACL", "LIST"]);
    streams.iter_mut().for_each(|stream| stream.write_all(ask.as_bytes()).unwrap());
    streams.iter_mut().for_each(|stream| {
        replies(stream, 3);
    });
    begin.elapsed()
}

async fn create_all(world: &World, names: &[String]) -> Duration {
    for name in names {
        assert_eq!(world.enter(name).await, Outcome::Done);
    }
    let specs: Vec<_> = names.iter().map(|_| with(&plain(free_port()), &[("appendonly", "yes")])).collect();
    let begin = Instant::now();
    let creating = names.iter().zip(&specs).map(|(name, spec)| world.on(name, creation(spec, app_user())));
    for outcome in futures_util::future::join_all(creating).await {
        assert_eq!(outcome, Outcome::Done);
    }
    begin.elapsed()
}

/// The same servers from the same files, started by hand side by side until their sockets answer.
fn start_directly(world: &World, names: &[String]) -> Duration {
    stop_all(&world.state);
    let copy = tempfile::tempdir().unwrap();
    let to = copy.path().display().to_string();
    let root = fs::canonicalize(&world.state).unwrap();
    for folder in ["run", "log", "data", "config"] {
        fs::create_dir(copy.path().join(folder)).unwrap();
    }
    for name in names {
        fs::create_dir(copy.path().join("data").join(name)).unwrap();
        let (acl, config) = (format!("data/{name}/users.acl"), format!("config/{name}.conf"));
        fs::copy(root.join(&acl), copy.path().join(&acl)).unwrap();
        let text = fs::read_to_string(root.join(&config)).unwrap().replace(root.to_str().unwrap(), &to);
        fs::write(copy.path().join(&config), text).unwrap();
    }
    let begin = Instant::now();
    let mut children: Vec<_> = names
        .iter()
        .map(|name| {
            let config = copy.path().join("config").join(format!("{name}.conf"));
            let log = fs::File::create(copy.path().join("log").join(format!("{name}.out"))).unwrap();
            Command::new(SERVER).arg(config).stdin(Stdio::null()).stdout(log).spawn().unwrap()
        })
        .collect();
    for name in names {
        let socket = copy.path().join("run").join(format!("{name}.sock"));
        while !answers(&socket) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let elapsed = begin.elapsed();
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    elapsed
}

fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    stream.write_all(command(&["AUTH", "app", "secret"]).as_bytes()).unwrap();
    replies(&mut stream, 1) > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, for release builds"]
async fn looking_and_creating_are_near_the_floor() {
    let count: usize = std::env::var("COUNT").map_or(100, |count| count.parse().unwrap());
    let world = World::new().await;
    let names: Vec<String> = (0..count).map(|number| format!("i{number}")).collect();
    let created = create_all(&world, &names).await;
    world.look().await;
    let (mut looks, mut floors) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        let begin = Instant::now();
        world.look().await;
        looks.push(begin.elapsed());
        floors.push(floor(&world, &names));
    }
    looks.sort();
    floors.sort();
    let direct = start_directly(&world, &names);
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    eprintln!("look {:?}, floor {:?}: {:.2}", looks[3], floors[3], ratio(looks[3], floors[3]));
    eprintln!("create {created:?}, direct {direct:?}: {:.2}", ratio(created, direct));
    assert!(ratio(looks[3], floors[3]) < 3.0 && ratio(created, direct) < 2.0);
}
