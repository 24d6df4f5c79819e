//! A proxy in the way from one host to the instances of another one. It takes connections, sends on what is asked, and can
//! swallow what is answered: unlike a network that fails, it lets nobody know.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::host::Host;
use crate::site;

/// How soon a connection in which nothing is said notices that it is over.
const NOTICE: Duration = Duration::from_millis(100);

struct Way {
    /// The config of the instance there: its port is not known before it is made.
    config: PathBuf,
    address: String,
    swallows: AtomicBool,
    swallowed_bytes: AtomicU64,
}

pub struct Proxy(Arc<Way>);

impl Proxy {
    /// In the way from the first host to this instance on the second one, for as long as the first has power.
    pub fn between(from: &Host, to: &Host, instance: &str, gateway: &str) -> Self {
        let way = Arc::new(Way {
            config: to.file(&format!("/etc/valkey/instances/{instance}.conf")),
            address: to.address.clone(),
            swallows: AtomicBool::new(false),
            swallowed_bytes: AtomicU64::new(0),
        });
        let listener = TcpListener::bind((gateway, 0)).unwrap();
        let proxy = listener.local_addr().unwrap();
        from.rule_packets(&format!(
            "add table ip lab\nadd chain ip lab out {{ type nat hook output priority -100; }}\n\
             add rule ip lab out ip daddr {} tcp dport 6400-6499 dnat to {proxy}\n",
            to.address
        ));
        let serving = Arc::clone(&way);
        // It ends with the tests.
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, way) = (client.unwrap(), Arc::clone(&serving));
                thread::spawn(move || way.carry(&client));
            }
        });
        Self(way)
    }

    /// From now on no answer gets through. Nothing that is asked is lost.
    pub fn swallow_replies(&self) {
        self.0.swallows.store(true, Ordering::SeqCst);
    }

    /// Connections from which something is missing are closed; others go on. Says how much was swallowed.
    pub fn let_through(&self) -> u64 {
        self.0.swallows.store(false, Ordering::SeqCst);
        self.0.swallowed_bytes.swap(0, Ordering::SeqCst)
    }
}

impl Way {
    fn carry(&self, client: &TcpStream) {
        let Some(port) = site::port_in(&self.config) else { return };
        let server = SocketAddr::new(self.address.parse().unwrap(), port);
        let Ok(server) = TcpStream::connect_timeout(&server, Duration::from_secs(2)) else { return };
        thread::scope(|scope| {
            scope.spawn(|| pass(client, &server, |_| Some(true)));
            let mut is_torn = false;
            pass(&server, client, |bytes| {
                let swallows = self.swallows.load(Ordering::SeqCst);
                if swallows {
                    self.swallowed_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
                    is_torn |= bytes > 0;
                }
                (swallows || !is_torn).then_some(!swallows)
            });
        });
    }
}

/// Passes on what comes, until one side hangs up. `may`: so many bytes pass, are swallowed, or end it.
fn pass(from: &TcpStream, to: &TcpStream, mut may: impl FnMut(usize) -> Option<bool>) {
    from.set_read_timeout(Some(NOTICE)).unwrap();
    let (mut from_it, mut to_it) = (from, to);
    let mut piece = [0; 1 << 16];
    loop {
        let came = match from_it.read(&mut piece) {
            Ok(0) => break,
            Ok(came) => came,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
            Err(_hung_up) => break,
        };
        match may(came) {
            None => break,
            Some(true) if to_it.write_all(&piece[..came]).is_err() => break,
            Some(_) => {}
        }
    }
    // The other direction ends too.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
