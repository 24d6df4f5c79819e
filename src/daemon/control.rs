//! The control socket: HTTP with JSON over a unix socket that only its owner may open. It hears people; the loop answers.

#![expect(clippy::disallowed_methods, reason = "the control socket is made and listened on here")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::command::{Command, What};
use super::shared::Shared;
use crate::model::name::InstanceName;

/// Why nobody can talk to the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("the control socket {} cannot be made", .0.display())]
    Socket(PathBuf, #[source] std::io::Error),
    #[error("another daemon listens on {}", .0.display())]
    Taken(PathBuf),
}

/// What a request carries; each uses what it needs.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Request {
    pub name: Option<InstanceName>,
    pub by: Option<String>,
    pub reason: Option<String>,
    pub until: Option<Timestamp>,
    pub revision: Option<String>,
    pub wait: bool,
    pub reference: Option<String>,
    pub json: bool,
}

/// What comes back, but for `status`, which is a [`super::status::Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub ok: bool,
    pub message: String,
}

#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Command>,
}

/// Stops listening and removes the socket when dropped.
#[derive(Debug)]
pub struct Control {
    socket: PathBuf,
    listening: JoinHandle<()>,
}

impl Drop for Control {
    fn drop(&mut self) {
        // Who was let in already is still answered.
        self.listening.abort();
        let _gone_already = std::fs::remove_file(&self.socket);
    }
}

/// Listens; requests go to the loop.
///
/// # Errors
/// When the socket cannot be made, or belongs to a daemon that lives.
pub fn serve(socket: &Path, shared: Arc<Shared>, requests: mpsc::Sender<Command>) -> Result<Control, ControlError> {
    let failed = |error| ControlError::Socket(socket.to_owned(), error);
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Err(ControlError::Taken(socket.to_owned()));
    }
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    // Bound under a name that nobody looks for, so that it is never open to others, not even for a moment.
    let hidden = socket.with_extension("new");
    let _left_over = std::fs::remove_file(&hidden);
    let listener = UnixListener::bind(&hidden).map_err(failed)?;
    std::fs::set_permissions(&hidden, Permissions::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&hidden, socket).map_err(failed)?;
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/plan", get(plan))
        .route("/v1/{action}", post(act))
        .with_state(Door { shared, requests });
    let listening = tokio::spawn(async move {
        // It ends only with the runtime, or aborted.
        let _never = axum::serve(listener, router).await;
    });
    Ok(Control { socket: socket.to_owned(), listening })
}

async fn status(State(door): State<Door>) -> Response {
    Json((*door.shared.status()).clone()).into_response()
}

async fn plan(State(door): State<Door>, Query(request): Query<Request>) -> Response {
    match request.reference {
        Some(reference) => ask(&door, What::Plan { reference, json: request.json }).await,
        None => refuse(StatusCode::BAD_REQUEST, "say which branch, as reference"),
    }
}

async fn act(
    State(door): State<Door>,
    axum::extract::Path(action): axum::extract::Path<String>,
    Json(request): Json<Request>,
) -> Response {
    let Request { name, by, reason, until, revision, wait, reference: _, json: _ } = request;
    let what = match (action.as_str(), reason, until, revision) {
        ("sync", ..) => What::Sync { wait },
        ("retry", ..) => What::Retry { name },
        ("resume", ..) => What::Resume { name },
        ("suspend", Some(reason), Some(until), _) => {
            What::Suspend { name, by: by.unwrap_or_else(|| "somebody".to_owned()), reason, until }
        }
        ("suspend", ..) => return refuse(StatusCode::BAD_REQUEST, "say reason and until"),
        ("accept", _, _, Some(revision)) => What::Accept { revision },
        ("approve", _, _, Some(revision)) => What::Approve { revision },
        ("accept" | "approve", ..) => return refuse(StatusCode::BAD_REQUEST, "say revision"),
        _ => return refuse(StatusCode::NOT_FOUND, "there is no such request"),
    };
    if what == (What::Sync { wait: false }) {
        door.shared.trigger.notify_one();
        return Json(Answer { ok: true, message: "a pass is asked for".to_owned() }).into_response();
    }
    ask(&door, what).await
}

async fn ask(door: &Door, what: What) -> Response {
    let (answer, said) = oneshot::channel();
    if door.requests.try_send(Command { what, answer }).is_err() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait: come again");
    }
    match said.await {
        Ok(Ok(message)) => Json(Answer { ok: true, message }).into_response(),
        Ok(Err(message)) => refuse(StatusCode::CONFLICT, &message),
        Err(_ended) => refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending"),
    }
}

fn refuse(code: StatusCode, message: &str) -> Response {
    (code, Json(Answer { ok: false, message: message.to_owned() })).into_response()
}
