//! The daemon's TCP side, asked over loopback as scrapers, probes and forges ask.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use valkeeper::daemon::status::{PassResult, Status};
use valkeeper::http::{Hook, Limits, Moment, Site, serve};
use valkeeper::model::password::Secret;

use crate::metrics::{after_everything, everything};

/// The example in GitHub's "Validating webhook deliveries".
const SECRET: &str = "It's a Secret to Everybody";
const BODY: &str = "Hello, World!";
const SIGNATURE: &str = "x-hub-signature-256: sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

struct Server {
    at: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<()>,
    pulls: Arc<AtomicUsize>,
}

fn site(status: Status, since_beat: Duration, since_pass: Duration) -> Site {
    let moment = Moment { since_beat, since_pass, status: Arc::new(status) };
    Site {
        metrics: Arc::new(after_everything()),
        moment: Arc::new(move || moment.clone()),
        hook: None,
        limits: Limits { beat: Duration::from_secs(30), pass: Duration::from_secs(300) },
    }
}

fn healthy() -> Site {
    site(everything(), Duration::from_millis(250), Duration::from_secs(10))
}

async fn start(mut site: Site, secret: Option<&str>) -> Server {
    let pulls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pulls);
    let trigger = Arc::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    site.hook = secret.map(|secret| Hook::new(Secret::new(secret.to_owned()), trigger).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = tokio::spawn(serve(listener, watch::channel(site).1, async {
        let _ = stopped.await;
    }));
    Server { at, stop, serving, pulls }
}

impl Server {
    /// Sends bytes and gives the status, and everything that came back.
    async fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that refuses a body half-way may close without reading it.
        let _ = in_time(stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8(answer).unwrap();
        (answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_default(), answer)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    async fn push(&self, header: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let head =
            format!("POST /hooks/push HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{header}\r\n\r\n");
        self.ask(&(head + body)).await
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("it takes too long")
}

fn body(answer: &str) -> serde_json::Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

#[tokio::test]
async fn metrics_are_served_as_text() {
    let server = start(healthy(), None).await;
    let (status, answer) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{answer}");
    assert!(answer.contains("valkeeper_node_up{node=\"n1\"} 1"));
}

#[tokio::test]
async fn a_daemon_whose_loop_goes_round_is_alive() {
    let server = start(healthy(), None).await;
    let (status, answer) = server.get("/healthz").await;
    assert_eq!(
        (status, body(&answer)),
        (200, serde_json::json!({ "alive": true, "seconds_since_beat": 0.25, "version": "0.1.0" }))
    );

    let stuck = site(everything(), Duration::from_secs(31), Duration::ZERO);
    let (status, answer) = start(stuck, None).await.get("/healthz").await;
    assert_eq!(status, 503);
    assert_eq!(body(&answer)["reason"], "the loop has not gone round for more than 30 s");
}

#[tokio::test]
async fn a_daemon_is_ready_while_its_last_pass_is_recent_and_saw_a_revision() {
    let server = start(healthy(), None).await;
    let (status, answer) = server.get("/readyz").await;
    let expected = serde_json::json!({ "ready": true, "pass": 7, "result": "settled", "seconds_since_pass": 10.0 });
    assert_eq!((status, body(&answer)), (200, expected));

    let fresh = Status { last_pass: None, ..everything() };
    let mut blind = everything();
    blind.last_pass.as_mut().unwrap().result = PassResult::Blind;
    for (status, since_pass, reason) in [
        (fresh, 10, "no pass has ended yet"),
        (blind, 10, "no revision is in force yet: valkeeper status says why"),
        (everything(), 301, "the last pass ended more than 300 s ago"),
    ] {
        let site = site(status, Duration::ZERO, Duration::from_secs(since_pass));
        let (code, answer) = start(site, None).await.get("/readyz").await;
        assert_eq!((code, body(&answer)["reason"].as_str()), (503, Some(reason)));
        assert!(!answer.contains("secret-in-a-message"));
    }
}

#[tokio::test]
async fn a_push_with_a_right_proof_pulls_the_trigger() {
    let server = start(healthy(), Some(SECRET)).await;
    for header in [
        SIGNATURE,
        &SIGNATURE.replace("x-hub-signature-256: sha256=", "X-Gitea-Signature: "),
        &format!("X-Gitlab-Token: {SECRET}"),
    ] {
        let (status, answer) = server.push(header, BODY).await;
        assert_eq!((status, body(&answer)), (202, serde_json::json!({ "accepted": true })), "{header}");
    }
    assert_eq!(server.pulls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_push_without_one_does_not() {
    let server = start(healthy(), Some(SECRET)).await;
    for (header, sent) in [("x-y: z", BODY), (SIGNATURE, "Hello, World?"), ("x-gitlab-token: It's", BODY)] {
        let (status, answer) = server.push(header, sent).await;
        assert_eq!(status, 401, "{answer}");
        assert!(body(&answer)["error"].as_str().is_some());
    }
    let (status, answer) = server.push(SIGNATURE, &"x".repeat((1 << 20) + 1)).await;
    assert_eq!(status, 413, "{answer}");
    assert_eq!(server.get("/hooks/push").await.0, 405);
    assert_eq!(server.pulls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn without_a_secret_there_is_no_hook() {
    let server = start(healthy(), None).await;
    assert_eq!(server.push(SIGNATURE, BODY).await.0, 404);
}

#[tokio::test]
async fn errors_are_json() {
    let server = start(healthy(), None).await;
    let (status, answer) = server.get("/nothing").await;
    assert_eq!((status, body(&answer)), (404, serde_json::json!({ "error": "there is no such page" })));
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_keep_the_server_from_stopping() {
    let server = start(healthy(), None).await;
    let mut silent = TcpStream::connect(server.at).await.unwrap();
    silent.write_all(b"GET /metrics HT").await.unwrap();
    assert_eq!(server.get("/healthz").await.0, 200);
    let begun = Instant::now();
    server.stop.send(()).unwrap();
    in_time(server.serving).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(TcpStream::connect(server.at).await.is_err(), "the listener is closed");
}

#[tokio::test]
async fn a_flood_of_silent_connections_ends_by_itself() {
    let server = start(healthy(), None).await;
    let mut flood = Vec::new();
    for _ in 0..100 {
        flood.push(TcpStream::connect(server.at).await.unwrap());
    }
    let asked = Instant::now();
    let (status, _) = server.get("/healthz").await;
    assert_eq!(status, 200);
    assert!(asked.elapsed() < Duration::from_secs(15));
}

/// Who asks again and again on one connection and reads no answer does not keep its place: each connection has one answer.
#[tokio::test]
async fn connections_that_read_no_answer_end_by_themselves() {
    let server = start(healthy(), None).await;
    let mut flood = Vec::new();
    for _ in 0..70 {
        let mut stream = TcpStream::connect(server.at).await.unwrap();
        // More than the answer to any of them fits into.
        let asks = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(10_000);
        let _full = tokio::time::timeout(Duration::from_millis(20), stream.write_all(asks.as_bytes())).await;
        flood.push(stream);
    }
    let asked = Instant::now();
    let (status, _) = server.get("/healthz").await;
    assert_eq!(status, 200);
    assert!(asked.elapsed() < Duration::from_secs(15));
}
