//! Asking a running daemon: HTTP over its control socket.

#![expect(clippy::disallowed_methods, reason = "the control socket is called here")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::daemon::control::{Answer, Request as Asked};
use crate::daemon::status::Status;

/// How long an answer may take: a pass may be under way, and a step has 30 s.
const ANSWER: Duration = Duration::from_secs(120);

/// Which daemon.
#[derive(Debug, Clone, Args)]
pub(crate) struct SocketArgs {
    /// The control socket of the daemon
    #[arg(long, value_name = "FILE", env = "VALKEEPER_SOCKET", default_value = "/run/valkeeper/valkeeper.sock")]
    pub socket: PathBuf,
}

impl SocketArgs {
    /// The daemon's status.
    pub(super) async fn status(&self) -> anyhow::Result<Status> {
        let (code, body) = self.send("GET", "/v1/status", None).await?;
        if code != StatusCode::OK {
            bail!("{}", message(&body));
        }
        serde_json::from_slice(&body).context("the daemon's status could not be read: is it another version?")
    }

    /// Asks for something to be done; gives what the daemon says.
    pub(super) async fn ask(&self, action: &str, asked: &Asked) -> anyhow::Result<String> {
        let body = serde_json::to_vec(asked)?;
        self.answer("POST", &format!("/v1/{action}"), Some(body)).await
    }

    /// The plan of another branch.
    pub(super) async fn plan(&self, reference: &str, json: bool) -> anyhow::Result<String> {
        let encoded: String = reference.bytes().map(encode).collect();
        self.answer("GET", &format!("/v1/plan?reference={encoded}&json={json}"), None).await
    }

    async fn answer(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> anyhow::Result<String> {
        let (code, body) = self.send(method, path, body).await?;
        if code.is_success() { Ok(message(&body)) } else { bail!("{}", message(&body)) }
    }

    async fn send(&self, method: &str, path: &str, body: Option<Vec<u8>>) -> anyhow::Result<(StatusCode, Bytes)> {
        let place =
            || format!("no daemon answers on {}: is it running, and is this its socket (--socket)?", self.socket.display());
        let stream = UnixStream::connect(&self.socket).await.with_context(place)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.with_context(place)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "valkeeper")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let code = response.status();
            anyhow::Ok((code, response.into_body().collect().await?.to_bytes()))
        };
        tokio::time::timeout(ANSWER, exchange).await.context("the daemon did not answer in time")?.with_context(place)
    }
}

/// What may not stand in a query as it is (RFC 3986 section 2.3).
fn encode(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    }
}

fn message(body: &[u8]) -> String {
    serde_json::from_slice::<Answer>(body).map_or_else(|_| String::from_utf8_lossy(body).into_owned(), |answer| answer.message)
}
