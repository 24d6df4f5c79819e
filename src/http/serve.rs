//! Accepts connections and serves them, each within its limits: how many, how long, and how they end.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::Site;
use super::routes::routes;

/// A handful of scrapers, probes and forges, and room for as many again that hang.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may take to send the head of a request.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection may last in all, so that who asks and never reads the answer does not keep its place: the time for a
/// head, for an answer (`routes`), and as much again as for a head to take the answer.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(20);
/// How long requests that are under way may take once the daemon stops.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(3);
/// How long to wait when no connection can be accepted, as when the process has too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Serves until `stop` ends, then lets the requests that are under way finish, for a few seconds. A connection shows the
/// site as it was when it came.
///
/// Dropping the future closes every connection at once.
pub async fn serve(listener: TcpListener, site: watch::Receiver<Site>, stop: impl Future<Output = ()>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let graceful = GracefulShutdown::new();
    // Dropped with this future, and its tasks with it.
    let mut connections = JoinSet::new();
    let mut refused = false;
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &room) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                refused = false;
                let service = TowerToHyperService::new(routes(site.borrow().clone()));
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIME_MAX)
                    // One request each: none is then cut off because others came before it.
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service);
                let served = graceful.watch(served);
                connections.spawn(async move {
                    match tokio::time::timeout(CONNECTION_TIME_MAX, served).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%error, "a connection ended early"),
                        Err(_late) => debug!("a connection was closed that lasted too long"),
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                if !std::mem::replace(&mut refused, true) {
                    warn!(%error, "connections cannot be accepted; it is tried again");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(FAREWELL_TIME_MAX, graceful.shutdown()).await.is_err() {
        debug!("connections that did not end are closed");
    }
}

/// Waits for room first: those for whom there is none wait in the kernel's queue.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}
