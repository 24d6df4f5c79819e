//! Two connections that write 5,000 times a second together, and follow the instance from one place to the other.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::Client;

const CONNECTIONS: u32 = 2;
const EACH: Duration = Duration::from_micros(200 * CONNECTIONS as u64);

/// Where it may be reached.
#[derive(Clone)]
pub enum Places {
    /// Config files of valkeeper's, with the user `app`.
    Configs(Vec<PathBuf>),
    /// Servers that let everybody in.
    Ports(Vec<u16>),
}

impl Places {
    pub fn client(&self, place: usize) -> Option<Client> {
        match self {
            Self::Ports(ports) => Client::to(ports[place % ports.len()]).ok(),
            Self::Configs(configs) => {
                let config = fs::read_to_string(&configs[place % configs.len()]).ok()?;
                let port = config.lines().find_map(|line| line.strip_prefix("port "))?.parse().ok()?;
                let mut client = Client::to(port).ok()?;
                (client.try_ask("AUTH app secret")? == "+OK").then_some(client)
            }
        }
    }
}

pub struct Writers {
    over: Arc<AtomicBool>,
    begun: Instant,
    threads: Vec<JoinHandle<(u64, Duration)>>,
}

pub struct Written {
    pub rate: u64,
    pub longest_gap: Duration,
}

impl Writers {
    pub fn start(places: Places) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let spawn = |number: u32| {
            let (places, over) = (places.clone(), Arc::clone(&over));
            std::thread::spawn(move || write(&places, number, &over))
        };
        Self { begun: Instant::now(), threads: (0..CONNECTIONS).map(spawn).collect(), over }
    }

    pub fn end(self) -> Written {
        self.over.store(true, Ordering::Relaxed);
        let took = self.begun.elapsed();
        let each: Vec<(u64, Duration)> = self.threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let all: u64 = each.iter().map(|(count, _)| count).sum();
        let longest_gap = each.into_iter().map(|(_, gap)| gap).max().unwrap();
        Written { rate: (all as f64 / took.as_secs_f64()) as u64, longest_gap }
    }
}

fn write(places: &Places, number: u32, over: &AtomicBool) -> (u64, Duration) {
    let (mut count, mut longest, mut place, mut client) = (0, Duration::ZERO, 0, None);
    let mut last = Instant::now();
    let mut due = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let Some(open) = &mut client else {
            client = places.client(place);
            place += usize::from(client.is_none());
            continue;
        };
        if Client::try_ask(open, &format!("RPUSH log:{number} {count}")).is_some_and(|reply| reply.starts_with(':')) {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            count += 1;
            // What was missed is not made up for.
            due = (due + EACH).max(last);
            std::thread::sleep(due - last);
        } else {
            (client, place) = (None, place + 1);
        }
    }
    (count, longest)
}
