//! Connections: accepted, served with limits, and ended in good order.
//!
//! Owns sockets. Must not know what requests mean: what answers them is given.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use hyper::{
    Request,
    body::{Body, Incoming},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use shop_domain::problem::{Code, Problem};
use shop_limits::listener::{Full, Listener, Place, Room};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use warp::{Filter, reply::Response};

use crate::{
    gateway::Gateway,
    head::Head,
    limits::{Limit, Limits},
    reply::Cut,
    wire::{Line, Wire},
};

/// How many connections may wait to be accepted: a rush of clients that connect at once. Linux takes
/// no more by default.
const BACKLOG: i32 = 4_096;
/// Of HTTP/2: how often a connection is asked whether the client is still there, and how long that may take.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIME_MAX: Duration = Duration::from_secs(10);
/// Requests of a connection that the client may take back before they are looked at, and that may break its rules; one
/// more ends the connection.
const RESETS_MAX: usize = 16;
const MISTAKES_MAX: usize = 64;
/// How much of a body, and of all bodies of a connection, may come before it is read, in bytes.
const BODY_WINDOW: u32 = 65_535;
const CONNECTION_WINDOW: u32 = 262_144;
/// How much of an answer may wait until the client takes it, in bytes.
const ANSWER_BUFFER: usize = 65_536;

/// Has rushes of connections wait their turn, and sets `TCP_NODELAY`, which connections inherit: an answer must not
/// wait for the acknowledgement of the one before.
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    // Listening once more changes nothing but how many may wait.
    socket.listen(BACKLOG)
}

/// Serves what `front` answers until `stop`, then lets connections finish what they have begun.
pub(crate) async fn serve<F>(
    listener: TcpListener,
    front: F,
    gateway: Arc<Gateway>,
    limits: Arc<Limits>,
    stop: impl Future<Output = ()>,
) where
    F: Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    let graceful = GracefulShutdown::new();
    let room =
        Room { in_all: limits.connections_max as usize, of_address: limits.connections_per_address_max as usize };
    let counting = Arc::clone(&gateway);
    let full = move |full: Full| {
        counting.strikes(match full {
            Full::InAll => Limit::Connections,
            Full::OfAddress => Limit::Address,
            Full::Files => Limit::Files,
        });
    };
    let mut listener = Listener::new(listener, room, &*no_room(), full);
    gateway.count_connections(listener.connections());
    let mut stop = std::pin::pin!(stop);
    loop {
        let (socket, place) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let (gateway, limits) = (Arc::clone(&gateway), Arc::clone(&limits));
        tokio::spawn(serve_connection(socket, place, front.clone(), gateway, limits, graceful.watcher()));
    }
    drop(listener);
    graceful.shutdown().await;
}

/// HTTP/1.1, and if that is switched on HTTP/2 with clients that begin with it.
pub(crate) fn connections(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut connections = auto::Builder::new(TokioExecutor::new());
    if !limits.http2 {
        connections = connections.http1_only();
    }
    connections.http1().max_buf_size(limits.head_bytes_max as usize);
    let mut http2 = connections.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PING_TIME_MAX);
    http2.max_header_list_size(limits.head_bytes_max).max_concurrent_streams(limits.http2_streams_max);
    http2.max_pending_accept_reset_streams(RESETS_MAX).max_local_error_reset_streams(MISTAKES_MAX);
    http2.initial_stream_window_size(BODY_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    http2.max_send_buf_size(ANSWER_BUFFER);
    connections
}

async fn serve_connection<F>(
    socket: TcpStream,
    place: Place,
    front: F,
    gateway: Arc<Gateway>,
    limits: Arc<Limits>,
    watcher: hyper_util::server::graceful::Watcher,
) where
    F: Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    let (line, server) = (Arc::<Line>::default(), connections(&limits));
    let peer = socket.peer_addr().ok().map(|peer| peer.ip());
    let told = move |limit: Option<Limit>, code: Option<Code>| {
        limit.into_iter().for_each(|limit| gateway.strikes(limit));
        code.into_iter().for_each(|code| gateway.refused_unread(code));
    };
    let wire = Wire::new(socket, Arc::clone(&line), limits, told);
    let front = TowerToHyperService::new(warp::service(front));
    let answer = service_fn(move |mut request: Request<Incoming>| {
        let exchange = line.begin();
        let head = Head::of(&request, !request.body().is_end_stream(), peer);
        request.extensions_mut().insert(head);
        let answer = front.call(request);
        async move {
            let mut response = answer.await?;
            if response.extensions_mut().remove::<Cut>().is_some() {
                exchange.cut();
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = watcher.watch(server.serve_connection(TokioIo::new(wire), answer));
    if let Err(error) = connection.await {
        tracing::debug!("a connection broke off: {error}");
    }
    drop(place);
}

/// What a client is told for whose connection there is no room.
fn no_room() -> Vec<u8> {
    let detail = "as many connections are open as one bridge holds, in all or from this address; try again";
    let body = Problem::new(Code::OVERLOADED, detail).to_json();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

#[cfg(test)]
mod tests {
    use futures::future;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn accepted_connections_inherit_tcp_nodelay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        prepare(&listener).unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        assert!(accepted.unwrap().0.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_rush_of_connections_waits_its_turn_without_being_sent_away() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        prepare(&listener).unwrap();
        let address = listener.local_addr().unwrap();
        // Nobody accepts any of them: each waits in the backlog, or tries again after a second, for ever.
        let rush = future::join_all((0..400).map(|_| TcpStream::connect(address)));
        let connected = timeout(Duration::from_secs(20), rush).await.expect("there should be room for all");
        assert!(connected.iter().all(Result::is_ok));
    }
}
