//! The shop's HTTP face: turns HTTP into NATS requests and back.
//!
//! `routes.rs` is the whole API on one screen. `gateway.rs` does the turning, `reply.rs` alone picks
//! statuses. There is no business rule here, no knowledge of streams, and no state: any number of
//! bridges may run side by side. `server.rs` and `wire.rs` have the connections; a warp filter is the front;
//! the table behind it does the routing.

pub mod auth;
mod body;
mod browser;
pub mod cli;
mod cors;
mod docs;
mod doors;
mod entity;
mod fate;
mod gateway;
mod head;
mod host;
pub mod limits;
mod metrics;
mod observe;
mod pause;
mod prefer;
mod query;
mod readiness;
mod reply;
pub mod routes;
pub mod scope;
mod server;
mod wire;

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use futures::future;
use shop_nats::connection::Connection;
use tokio::{net::TcpListener, sync::oneshot};
use warp::{Filter, Rejection, http::Method};

use auth::Guard;
pub use cors::{InvalidOrigin, Origin};
use gateway::{Call, Gateway};
pub use host::{Host, InvalidHost};
use limits::Limits;
pub use observe::Observed;

/// How long requests that are under way may take to finish after the stop signal. Whoever waits
/// longer than that for a settled answer can ask again.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(10);

/// What can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// What it takes at a time, and for how long it waits for a client.
    pub limits: Limits,
    /// How long to go on asking for an order that a customer was told is accepted; the time in which doors are held does
    /// not count, nor does that after the stop signal.
    pub insistence: Duration,
    /// How long to serve after the stop signal, while `/readyz` says that the bridge is leaving: as long
    /// as balancers need to notice. They go by what they know, so that it makes no difference whether
    /// anybody is connected.
    pub leave_time: Duration,
    /// What knows who asks, if anything does.
    pub guard: Option<Arc<Guard>>,
    /// Whose pages may use the shop from a browser.
    pub cors_origins: Vec<Origin>,
    /// The hosts under which the bridge may be asked, beside this machine's own names and where it listens.
    pub allow_hosts: Vec<Host>,
}

impl Default for Config {
    /// A minute of insistence: longer than a host takes that
    /// replays its log. No balancer is waited for, nobody asked who it is, and no page of another site let in.
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            insistence: Duration::from_secs(60),
            leave_time: Duration::ZERO,
            guard: None,
            cors_origins: Vec::new(),
            allow_hosts: Vec::new(),
        }
    }
}

/// Serves HTTP on `listener` until `stop` and for the `leave_time` after it, then finishes what is
/// under way and what it has promised, in at most 10 s.
pub async fn run(
    config: Config,
    connection: Connection,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    run_observed(config, Observed::new(), connection, listener, stop).await;
}

/// The same, of a bridge that can be looked at.
pub async fn run_observed(
    config: Config,
    observed: Arc<Observed>,
    connection: Connection,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    shop_limits::files::raise();
    if let Err(error) = server::prepare(&listener) {
        tracing::warn!("cannot set up the socket: {error}");
    }
    if let Ok(address) = listener.local_addr() {
        tracing::info!("listening on http://{address}");
        let asks_who = config.guard.as_ref().is_some_and(|guard| guard.asks_who());
        if let Some(warning) = without_login(address).filter(|_| !asks_who) {
            tracing::warn!("{warning}");
        }
    }
    let address = listener.local_addr().ok().map(|address| address.ip());
    let (gateway, limits) = (Arc::new(Gateway::new(connection, &config, address)), Arc::new(config.limits));
    observed.begins(&gateway);
    let [leaving, hearing, finishing, serving] = [(); 4].map(|()| Arc::clone(&gateway));
    let query = warp::filters::query::raw().or(warp::any().map(String::new)).unify();
    let front = with_a_path()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::get())
        .and(warp::body::stream())
        .then(move |method, path, query, headers, head, body| {
            let gateway = Arc::clone(&gateway);
            async move { gateway.answer(Call { method, path, query, headers, head, body }).await }
        })
        .or(warp::any().map(reply::no_proxy))
        .unify();

    let (stopping, stopped) = oneshot::channel();
    let graceful = async move {
        stop.await;
        leaving.leave();
        tokio::time::sleep(config.leave_time).await;
        leaving.close();
        let _nobody_listens_after_the_end = stopping.send(());
    };
    let serve = async {
        server::serve(listener, front, serving, limits, graceful).await;
        finishing.finish().await;
    };
    let out_of_time = async {
        let _signal = stopped.await;
        tokio::time::sleep(STOP_TIME_MAX).await;
    };
    tokio::select! {
        () = serve => {}
        () = hearing.listen() => {}
        () = out_of_time => tracing::warn!("not all that was under way has finished within {STOP_TIME_MAX:?}"),
    }
}

/// What it means to listen there, if other machines can come in.
fn without_login(address: SocketAddr) -> Option<String> {
    let is_open = !address.ip().to_canonical().is_loopback();
    is_open.then(|| {
        format!(
            "there is no login: whoever can reach {address} may use the shop and see what is in it; listen on \
             127.0.0.1, or let only what asks for a login through to it"
        )
    })
}

/// Lets pass all but CONNECT, which has no path: warp's path filters panic on it (warp 0.4.3, http 1.5).
fn with_a_path() -> impl Filter<Extract = (Method,), Error = Rejection> + Copy {
    let check =
        |method| future::ready(if method == Method::CONNECT { Err(warp::reject::reject()) } else { Ok(method) });
    warp::method().and_then(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_where_other_machines_can_come_in_is_warned_that_there_is_no_login() {
        for (address, is_open) in [
            ("127.0.0.1:8080", false),
            ("127.1.2.3:1", false),
            ("[::1]:8080", false),
            ("[::ffff:127.0.0.1]:8080", false),
            ("0.0.0.0:8080", true),
            ("[::]:8080", true),
            ("[::ffff:10.0.0.1]:80", true),
            ("192.168.1.2:8080", true),
        ] {
            let warning = without_login(address.parse().unwrap());
            assert_eq!(warning.is_some(), is_open, "{address}");
            assert!(
                warning.is_none_or(|warning| warning.contains("no login") && warning.contains(" may use the shop"))
            );
        }
    }
}
