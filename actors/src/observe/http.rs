//! `/healthz`, `/readyz` and `/metrics` of a host, over HTTP/1.1.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use shop_metrics::Page;
use tokio::{net::TcpListener, sync::Semaphore};

use super::{Observed, metrics::numbers, ready};

/// Most who look at a time; one more waits until another has gone.
const CONNECTIONS_MAX: usize = 64;
/// How long somebody may take to say what to look at.
const HEADER_WAIT: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted: most likely there are no file handles left.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Answers for ever, about these hosts together.
pub async fn serve(listener: TcpListener, hosts: Vec<Arc<Observed>>) {
    let hosts: Arc<[_]> = hosts.into();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&room).acquire_owned().await.expect("the semaphore is never closed");
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!("cannot accept whoever looks at the host: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let hosts = Arc::clone(&hosts);
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(request, Arc::clone(&hosts)));
            let mut connection = http1::Builder::new();
            connection.timer(TokioTimer::new()).header_read_timeout(HEADER_WAIT);
            // Whoever went away has seen enough.
            let _ = connection.serve_connection(TokioIo::new(socket), answer).await;
            drop(permit);
        });
    }
}

async fn answer(request: Request<Incoming>, hosts: Arc<[Arc<Observed>]>) -> Result<Response<Full<Bytes>>, Infallible> {
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
            let Page { content_type, text } = Page::new("host", &numbers(&hosts).await, accept);
            page(StatusCode::OK, content_type, text)
        }
        _ => page(StatusCode::NOT_FOUND, TEXT, "there are /healthz, /readyz and /metrics\n"),
    })
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, content_type);
    response.body(Full::new(body.into())).expect("the header is right")
}
