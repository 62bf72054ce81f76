//! `/healthz`, `/readyz` and `/metrics` of a process, over HTTP/1.1, for those who run it.
//!
//! Owns connections and the three paths. What there is to see, the parts say.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use http_body_util::Full as Body;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use serde_json::{Value, json};
use shop_limits::listener::{Full, Listener, Room};
use tokio::{net::TcpListener, time::timeout};

use crate::{Numbers, Page};

/// Most who look at a time, and from one address: another one, which is told so, may be the one that restarts the process.
const ROOM: Room = Room { in_all: 64, of_address: 48 };
/// How long a client may take to say what to look at.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16_384;
/// How long all of it may take, until the client has read the answer.
const TIME_MAX: Duration = Duration::from_secs(30);
/// What a client is told for whom there is no room.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 46\r\nretry-after: 1\r\nconnection: close\r\n\r\ntoo many look at this process now; try again\r\n";
/// The limits of who looks, in the order in which a listener knows them.
const LIMITS: [&str; 3] = ["connections", "address", "files"];

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLimit {
    limit: &'static str,
}

/// The parts that are looked at together, the one first that says most.
type Parts = Arc<[Arc<dyn Observable>]>;

/// Answers for ever, about these parts together. Who may ask is for the address to decide: any `Host` is served. A
/// connection is for one request: so none of them is idle.
pub async fn serve(listener: TcpListener, parts: Vec<Arc<dyn Observable>>) {
    let parts: Parts = parts.into();
    let (mut own, turned_away) = (Registry::with_prefix("shop"), Family::<OfLimit, Counter>::default());
    let times = LIMITS.map(|limit| turned_away.get_or_create_owned(&OfLimit { limit }));
    own.register("observe_limit_reached", "Connections to these pages that were turned away", turned_away);
    let own = Arc::new(own);
    let full = move |full: Full| {
        times[full as usize].inc();
    };
    let mut listener = Listener::new(listener, ROOM, NO_ROOM, full);
    loop {
        let (socket, place) = listener.accept().await;
        let (parts, own) = (Arc::clone(&parts), Arc::clone(&own));
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(request, Arc::clone(&parts), Arc::clone(&own)));
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
            connection.max_buf_size(HEAD_BYTES_MAX).keep_alive(false);
            // A client that went away has seen enough, and one that does not read does not want to see.
            let _ = timeout(TIME_MAX, connection.serve_connection(TokioIo::new(socket), answer)).await;
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    parts: Parts,
    own: Arc<Registry>,
) -> Result<Response<Body<Bytes>>, Infallible> {
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
            let mut numbers = join_all(parts.iter().map(|part| part.numbers())).await;
            numbers.push(Numbers::of(&own));
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

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body<Bytes>> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    let response = response.header(X_CONTENT_TYPE_OPTIONS, "nosniff").header(CACHE_CONTROL, "no-store");
    response.body(Body::new(body.into())).expect("the headers are right")
}

#[cfg(test)]
mod tests {
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
