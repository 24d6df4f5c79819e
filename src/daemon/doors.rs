//! Where the daemon is reached, and where it hears of changes: the control socket, the port for metrics and hooks, the watch
//! on a source of this machine. Opened at the start, and anew where the configuration says so. Never judges what it hears.

#![expect(clippy::disallowed_methods, reason = "the port for metrics and hooks is listened on here")]

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::warn;

use super::command::Command;
use super::control::{self, Control};
use super::shared::Shared;
use super::{BEAT, DaemonError, Options};
use crate::http;
use crate::observe::chain;
use crate::repo;

/// All of them; closed when dropped.
pub struct Doors {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Command>,
    site: watch::Sender<http::Site>,
    _port: Port,
    _control: Control,
    _watcher: Option<repo::Watcher>,
}

/// A port that is listened on until this is dropped.
struct Port {
    _stop: oneshot::Sender<()>,
}

impl Doors {
    pub async fn open(options: &Options, shared: Arc<Shared>, requests: mpsc::Sender<Command>) -> Result<Self, DaemonError> {
        let site = watch::Sender::new(site(options, &shared)?);
        let control = control::serve(&options.socket, Arc::clone(&shared), requests.clone())?;
        let port = listen(options.listen, &site).await?;
        let watcher = watch_source(options, &shared);
        Ok(Self { shared, requests, site, _port: port, _control: control, _watcher: watcher })
    }

    /// Opens what is elsewhere now, and only then closes what it replaces.
    ///
    /// # Errors
    /// When a new place cannot be opened; then everything stays as it was.
    pub async fn change(&mut self, before: &Options, after: &Options) -> Result<(), DaemonError> {
        let site = site(after, &self.shared)?;
        let port = if after.listen == before.listen { None } else { Some(listen(after.listen, &self.site).await?) };
        let moved = after.socket != before.socket;
        let control =
            moved.then(|| control::serve(&after.socket, Arc::clone(&self.shared), self.requests.clone())).transpose()?;
        self.site.send_replace(site);
        if let Some(port) = port {
            self._port = port;
        }
        if let Some(control) = control {
            self._control = control;
        }
        if after.source != before.source {
            self._watcher = watch_source(after, &self.shared);
        }
        Ok(())
    }
}

fn watch_source(options: &Options, shared: &Arc<Shared>) -> Option<repo::Watcher> {
    let woken = Arc::clone(shared);
    match repo::watch(&options.source, move || woken.trigger.notify_one()) {
        Ok(watcher) => watcher,
        Err(error) => {
            warn!("changes are not seen at once, only by the poll: {}", chain(&error));
            None
        }
    }
}

fn site(options: &Options, shared: &Arc<Shared>) -> Result<http::Site, DaemonError> {
    let hook = match &options.hook_secret {
        Some(secret) => {
            let woken = Arc::clone(shared);
            let hook = http::Hook::new(secret.clone(), Arc::new(move || woken.trigger.notify_one()));
            Some(hook.map_err(|_empty| DaemonError::Hook)?)
        }
        None => None,
    };
    let asked = Arc::clone(shared);
    Ok(http::Site {
        metrics: Arc::clone(&shared.metrics),
        moment: Arc::new(move || asked.moment()),
        hook,
        // A pass comes with every poll; three that did not end are too many.
        limits: http::Limits { beat: BEAT, pass: options.poll * 3 + BEAT },
    })
}

async fn listen(address: SocketAddr, site: &watch::Sender<http::Site>) -> Result<Port, DaemonError> {
    let listener = TcpListener::bind(address).await.map_err(|error| DaemonError::Listen(address, error))?;
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async move { stopped.await.unwrap_or_default() };
    tokio::spawn(http::serve(listener, site.subscribe(), until));
    Ok(Port { _stop: stop })
}
