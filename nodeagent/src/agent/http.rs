//! `/metrics`, `/readyz` and `/healthz` over HTTP, for Prometheus and for probes.
//!
//! Read-only, and without secrets: neither pods nor addresses nor policies are named.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Shared;
use super::drain::Stop;

/// Connections at the same time.
const AT_ONCE: usize = 32;
/// How long a peer may take to send a request, or stay silent between two.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one connection may last at all: a peer that reads nothing takes a place no longer than this.
const LIFETIME: Duration = Duration::from_mins(10);
/// The largest head of a request.
const MAX_HEAD: usize = 16 << 10;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

type Answer = Response<Full<Bytes>>;

/// Listens.
pub(super) async fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "metrics are served beyond loopback: whoever reaches the address may read them");
    }
    TcpListener::bind(address).await
}

/// Serves until told to stop.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stop: Stop) -> anyhow::Result<()> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut open = JoinSet::new();
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place?,
            () = stop.told() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.told() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let conversation = converse(stream, Arc::clone(&shared), stop.clone());
                open.spawn(async move {
                    if tokio::time::timeout(LIFETIME, conversation).await.is_err() {
                        tracing::debug!("an HTTP connection was ended for its age");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while open.try_join_next().is_some() {}
    }
    drop(listener);
    while open.join_next().await.is_some() {}
    Ok(())
}

async fn converse(stream: TcpStream, shared: Arc<Shared>, mut stop: Stop) {
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(answer(&request, shared).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let done = tokio::select! {
        done = connection.as_mut() => done,
        () = stop.told() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "an HTTP connection was dropped");
    }
}

async fn answer<B>(request: &Request<B>, shared: Arc<Shared>) -> Answer {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n".to_owned());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    match request.uri().path() {
        "/metrics" => {
            // Apart from the other tasks: the node may be busy for a moment.
            let exposition = tokio::task::spawn_blocking(move || shared.metrics.exposition(&shared)).await;
            match exposition.map_err(anyhow::Error::from).and_then(|done| done.map_err(Into::into)) {
                Ok(exposition) => {
                    let mut answer = text(StatusCode::OK, exposition);
                    answer.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
                    answer
                }
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
            }
        }
        "/readyz" => match shared.readiness.pending().as_slice() {
            [] => text(StatusCode::OK, "ready\n".to_owned()),
            pending => {
                let tasks: Vec<String> = pending.iter().map(ToString::to_string).collect();
                text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n", tasks.join(", ")))
            }
        },
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "there is /metrics, /readyz and /healthz\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
