//! `/healthz`, `/readyz` and `/metrics` of a host, over HTTP/1.1.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full as Body;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use shop_limits::listener::{Full, Listener, Room};
use shop_metrics::Page;
use tokio::{net::TcpListener, time::timeout};

use super::{
    Observed,
    metrics::{LIMITS, numbers},
    ready,
};

/// Most who look at a time, and from one address: another one, which is told so, may be the one that restarts the host.
const ROOM: Room = Room { in_all: 64, of_address: 48 };
/// How long a client may take to say what to look at.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16_384;
/// How long all of it may take, until the client has read the answer.
const TIME_MAX: Duration = Duration::from_secs(30);
/// What is told whoever comes when there is no room.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n\
    content-length: 43\r\nretry-after: 1\r\nconnection: close\r\n\r\ntoo many look at this host now; try again\r\n";

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// How often connections were turned away, by [`LIMITS`].
pub(super) type Struck = [AtomicU64; LIMITS.len()];

/// Answers for ever, about these hosts together. A connection is for one request: so none of them is idle.
pub async fn serve(listener: TcpListener, hosts: Vec<Arc<Observed>>) {
    let (hosts, struck): (Arc<[_]>, _) = (hosts.into(), Arc::<Struck>::default());
    let counting = Arc::clone(&struck);
    let full = move |full: Full| {
        counting[full as usize].fetch_add(1, Relaxed);
    };
    let mut listener = Listener::new(listener, ROOM, NO_ROOM, full);
    loop {
        let (socket, place) = listener.accept().await;
        let (hosts, struck) = (Arc::clone(&hosts), Arc::clone(&struck));
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(request, Arc::clone(&hosts), Arc::clone(&struck)));
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME_MAX);
            connection.max_buf_size(HEAD_BYTES_MAX).keep_alive(false);
            // Whoever went away has seen enough, and whoever does not read does not want to see.
            let _ = timeout(TIME_MAX, connection.serve_connection(TokioIo::new(socket), answer)).await;
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    hosts: Arc<[Arc<Observed>]>,
    struck: Arc<Struck>,
) -> Result<Response<Body<Bytes>>, Infallible> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    Ok(match request.uri().path() {
        "/healthz" | "/readyz" | "/metrics" if !is_read => page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n"),
        "/healthz" => page(StatusCode::OK, JSON, r#"{"status":"ok"}"#),
        "/readyz" => {
            let (is_ready, status) = ready(&hosts).await;
            let code = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            page(code, JSON, status.to_string())
        }
        "/metrics" => {
            let accept: Vec<_> =
                request.headers().get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok()).collect();
            let Page { content_type, text } = Page::new("host", &numbers(&hosts, &struck).await, accept);
            page(StatusCode::OK, content_type, text)
        }
        _ => page(StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz and /metrics\n"),
    })
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body<Bytes>> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    response.body(Body::new(body.into())).expect("the header is right")
}
