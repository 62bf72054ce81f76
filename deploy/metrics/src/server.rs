//! `/healthz`, `/readyz` and `/metrics` of a process, over HTTP/1.1, for those who run it.
//!
//! Owns connections and the three paths. What there is to see, the parts say.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{Numbers, Page};

/// Most who look at a time; one more waits until another has gone.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to say what to look at.
const HEADER_WAIT: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted: most likely there are no file handles left.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// A part of the shop that can be looked at in this process: its hosts, or its bridge.
pub trait Observable: Send + Sync {
    /// What it is, as in `shop_build_info`.
    fn part(&self) -> &'static str;

    /// Whether it can serve, and how it is: an object with a `status`.
    fn ready(&self) -> BoxFuture<'_, (bool, Value)>;

    /// What it counts.
    fn numbers(&self) -> BoxFuture<'_, Numbers>;
}

/// The parts that are looked at together, the one first that says most.
type Parts = Arc<[Arc<dyn Observable>]>;

/// Answers for ever, about these parts together. Who may ask is for the address to decide: any `Host` is served.
pub async fn serve(listener: TcpListener, parts: Vec<Arc<dyn Observable>>) {
    let parts: Parts = parts.into();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!("cannot accept a client that wants to look at this process: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let parts = Arc::clone(&parts);
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(request, Arc::clone(&parts)));
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(HEADER_WAIT);
            // A client that went away has seen enough.
            let _ = connection.serve_connection(TokioIo::new(socket), answer).await;
            drop(permit);
        });
    }
}

async fn answer(request: Request<Incoming>, parts: Parts) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    Ok(match request.uri().path() {
        "/healthz" | "/readyz" | "/metrics" if !is_read => page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n"),
        "/healthz" => page(StatusCode::OK, JSON, r#"{"status":"ok"}"#),
        "/readyz" => {
            let (is_ready, status) = ready(&parts).await;
            let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            page(code, JSON, status.to_string())
        }
        "/metrics" => {
            let numbers = join_all(parts.iter().map(|part| part.numbers())).await;
            let names: Vec<_> = parts.iter().map(|part| part.part()).collect();
            let accept = request.headers().get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
            let Page { content_type, text } = Page::new(&names, &numbers, accept);
            page(StatusCode::OK, content_type, text)
        }
        _ => page(StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz and /metrics\n"),
    })
}

/// What the first part says, with a member for each of the others. All have to be ready.
async fn ready(parts: &Parts) -> (bool, Value) {
    let statuses = join_all(parts.iter().map(|part| part.ready())).await;
    let mut said = parts.iter().map(|part| part.part()).zip(statuses);
    let Some((_, (mut is_ready, mut status))) = said.next() else { return (true, json!({ "status": "ready" })) };
    for (name, (is_other_ready, other)) in said {
        if is_ready && !is_other_ready {
            status["status"] = json!("unavailable");
        }
        is_ready &= is_other_ready;
        status[name] = other;
    }
    (is_ready, status)
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    let response = response.header(X_CONTENT_TYPE_OPTIONS, "nosniff").header(CACHE_CONTROL, "no-store");
    response.body(Full::new(body.into())).expect("the headers are right")
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    struct Part(&'static str, bool);

    impl Observable for Part {
        fn part(&self) -> &'static str {
            self.0
        }

        fn ready(&self) -> BoxFuture<'_, (bool, Value)> {
            let status = if self.1 { "ready" } else { "unavailable" };
            Box::pin(async move { (self.1, json!({ "status": status })) })
        }

        fn numbers(&self) -> BoxFuture<'_, Numbers> {
            Box::pin(async { Numbers::of(&Registry::default()) })
        }
    }

    #[tokio::test]
    async fn all_parts_have_to_be_ready_and_each_says_how_it_is() {
        for (host, bridge) in [(true, true), (true, false), (false, true), (false, false)] {
            let parts: Parts = Arc::new([Arc::new(Part("host", host)), Arc::new(Part("bridge", bridge))]);
            let (is_ready, status) = ready(&parts).await;
            assert_eq!(is_ready, host && bridge);
            assert_eq!(status["status"] == "ready", is_ready, "{status}");
            assert_eq!(status["bridge"]["status"] == "ready", bridge, "{status}");
        }
    }
}
