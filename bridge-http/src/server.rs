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
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use warp::{Filter, reply::Response};

use crate::{
    gateway::Gateway,
    head::Head,
    reply::Cut,
    wire::{HEAD_BYTES_MAX, Line, Wire},
};

/// How many connections may wait to be accepted: a rush of clients that connect at once. Linux takes
/// no more by default.
const BACKLOG: i32 = 4_096;
/// Pause after a connection could not be accepted: most likely there are no file handles left.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// Has rushes of connections wait their turn, and sets `TCP_NODELAY`, which connections inherit: an answer must not
/// wait for the acknowledgement of the one before.
pub(crate) fn prepare(listener: &TcpListener) -> io::Result<()> {
    let socket = SockRef::from(listener);
    socket.set_tcp_nodelay(true)?;
    // Listening once more changes nothing but how many may wait.
    socket.listen(BACKLOG)
}

/// Serves what `front` answers until `stop`, then lets connections finish what they have begun.
pub(crate) async fn serve<F>(listener: TcpListener, front: F, gateway: Arc<Gateway>, stop: impl Future<Output = ()>)
where
    F: Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((socket, _)) => {
                let connection = serve_connection(socket, front.clone(), Arc::clone(&gateway), graceful.watcher());
                tokio::spawn(connection);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!("cannot accept connections: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

/// HTTP/1.1, and HTTP/2 with clients that begin with it.
pub(crate) fn connections(executor: TokioExecutor) -> auto::Builder<TokioExecutor> {
    let mut connections = auto::Builder::new(executor);
    connections.http1().max_buf_size(HEAD_BYTES_MAX);
    connections.http2().max_header_list_size(HEAD_BYTES_MAX as u32);
    connections
}

async fn serve_connection<F>(
    socket: TcpStream,
    front: F,
    gateway: Arc<Gateway>,
    watcher: hyper_util::server::graceful::Watcher,
) where
    F: Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static,
    F::Future: Send,
{
    let line = Arc::<Line>::default();
    let wire = Wire::new(socket, Arc::clone(&line), move |code| gateway.refused_unread(code));
    let front = TowerToHyperService::new(warp::service(front));
    let answer = service_fn(move |mut request: Request<Incoming>| {
        let exchange = line.begin();
        let head = Head::of(&request, !request.body().is_end_stream());
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
    let server = connections(TokioExecutor::new());
    let connection = watcher.watch(server.serve_connection(TokioIo::new(wire), answer));
    if let Err(error) = connection.await {
        tracing::debug!("a connection broke off: {error}");
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
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
