//! The pages, their answers and their errors: JSON, but for the metrics.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde::Serialize;
use serde_json::json;
use tracing::{debug, warn};

use super::{Site, health};

/// Far more than the payload of a usual push. GitHub sends up to 25 MB; a push whose body is refused here is found by the
/// next poll.
const BODY_BYTES_MAX: usize = 1 << 20;
/// From the end of a request's head to its answer: a forge gives up after 10 s (GitHub).
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// The text format that Prometheus and its friends read.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn routes(site: Site) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/hooks/push", post(push))
        .fallback(async || error(StatusCode::NOT_FOUND, "there is no such page"))
        .method_not_allowed_fallback(async || error(StatusCode::METHOD_NOT_ALLOWED, "this page takes another method"))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(in_time))
        .with_state(site)
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(ANSWER_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => error(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time"),
    }
}

async fn metrics(State(site): State<Site>) -> Response {
    match site.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(problem) => {
            warn!(error = &problem as &dyn std::error::Error, "the metrics could not be rendered");
            error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered: the log says why")
        }
    }
}

async fn healthz(State(site): State<Site>) -> Response {
    let alive = health::alive(&(site.moment)(), site.limits);
    judged(alive.alive, &alive)
}

async fn readyz(State(site): State<Site>) -> Response {
    let ready = health::ready(&(site.moment)(), site.limits);
    judged(ready.ready, &ready)
}

async fn push(State(site): State<Site>, head: HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let Some(hook) = &site.hook else {
        return error(
            StatusCode::NOT_FOUND,
            "push hooks are off: the daemon's configuration names no secret ([hooks] secret_file)",
        );
    };
    let body = match body {
        Ok(body) => body,
        Err(problem) if problem.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return error(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB");
        }
        Err(_) => return error(StatusCode::BAD_REQUEST, "the body could not be read"),
    };
    if !hook.is_proved(&head, &body) {
        debug!("a push hook without a right signature was refused");
        return error(StatusCode::UNAUTHORIZED, "the signature is missing or wrong: compare the secret at both ends");
    }
    hook.pull();
    (StatusCode::ACCEPTED, Json(json!({ "accepted": true }))).into_response()
}

fn judged(fine: bool, body: &impl Serialize) -> Response {
    let status = if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}
