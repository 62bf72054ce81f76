//! The nats-servers of a shop: one by itself, or three that keep every log together, each
//! reached by lines of its own that can be cut.

use std::{net::SocketAddr, path::Path};

use futures::future::try_join_all;
use rustix::process::{Pid, Signal, kill_process};
use shop_local::nats_server::{Member, NatsServer, NatsServerError, Setup};
use tokio::net::TcpSocket;

use crate::{
    login::{Login, guarded},
    machines::Machines,
    proxy::{Line, Proxy},
};

/// How many servers keep a log together.
pub const SERVERS: usize = 3;
/// Where a server listens that has a machine of its own, for clients and for the other servers.
const PORT: u16 = 4222;
const CLUSTER_PORT: u16 = 6222;

/// The servers, by number.
#[derive(Debug)]
pub struct Servers {
    servers: Vec<NatsServer>,
    lines: Option<Lines>,
    /// Keeps the ports from everybody else while their server does not run.
    _ports: Vec<TcpSocket>,
}

/// All lines to and between three servers.
#[derive(Debug)]
struct Lines {
    /// To each server, from hosts, bridges and tools.
    clients: Vec<Proxy>,
    /// From each server (and to itself: unused) to each.
    routes: Vec<Vec<Proxy>>,
}

/// From whom a server is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// From the other servers; hosts and bridges still reach it.
    Servers,
    /// From everybody.
    Everybody,
}

impl Servers {
    /// One by itself.
    pub fn one(server: NatsServer) -> Self {
        Self { servers: vec![server], lines: None, _ports: vec![] }
    }

    /// Three on free ports, each with a folder of its own in `folder`; with lines that can be cut
    /// or without; guarded by a login, or not. They do not have to be new: whatever they kept is there again.
    pub async fn three(folder: &Path, with_lines: bool, login: Option<&Login>) -> Result<Self, NatsServerError> {
        let ports: Vec<TcpSocket> = (0..2 * SERVERS).map(|_| reserve()).collect();
        let addresses: Vec<SocketAddr> = ports.iter().map(address_of).collect();
        let (for_clients, for_servers) = addresses.split_at(SERVERS);
        let lines = if with_lines { Some(Lines::to(for_clients, for_servers).await) } else { None };
        let start = |number: usize| {
            let member = Member {
                name: name(number),
                host: for_clients[number].ip(),
                port: for_clients[number].port(),
                cluster_port: for_servers[number].port(),
                routes: lines.as_ref().map_or_else(|| for_servers.to_vec(), |lines| lines.from(number)),
                keeps_to_routes: with_lines,
            };
            let (setup, folder) = (guarded(login, Setup::member(member)), folder.join(name(number)));
            async move { NatsServer::start_as(setup, &folder).await }
        };
        let servers = try_join_all((0..SERVERS).map(start)).await?;
        Ok(Self { servers, lines, _ports: ports })
    }

    /// Three, one on each of these machines; guarded by a login, or not.
    pub async fn on(machines: &Machines, folder: &Path, login: Option<&Login>) -> Result<Self, NatsServerError> {
        let routes: Vec<_> =
            (0..SERVERS).map(|number| SocketAddr::new(machines.address(number), CLUSTER_PORT)).collect();
        let start = |number: usize| {
            let member = Member {
                name: name(number),
                host: machines.address(number),
                port: PORT,
                cluster_port: CLUSTER_PORT,
                routes: routes.clone(),
                keeps_to_routes: false,
            };
            let setup = guarded(login, Setup::member(member)).by(machines.launcher(number));
            let folder = folder.join(name(number));
            async move { NatsServer::start_as(setup, &folder).await }
        };
        let servers = try_join_all((0..SERVERS).map(start)).await?;
        Ok(Self { servers, lines: None, _ports: vec![] })
    }

    /// Where hosts and bridges reach them, separated by commas.
    pub fn url(&self) -> String {
        let urls: Vec<_> = match &self.lines {
            Some(lines) => lines.clients.iter().map(|line| format!("nats://{}", line.address())).collect(),
            None => self.servers.iter().map(NatsServer::url).collect(),
        };
        urls.join(",")
    }

    /// All of them.
    pub fn all(&self) -> &[NatsServer] {
        &self.servers
    }

    /// One of them.
    pub fn get(&mut self, number: usize) -> &mut NatsServer {
        &mut self.servers[number]
    }

    /// Which one has a name.
    pub fn number_of(&self, server: &str) -> usize {
        let found = (0..self.servers.len()).find(|number| name(*number) == server);
        found.unwrap_or_else(|| panic!("there is no server {server}"))
    }

    /// Sends one of them a signal.
    pub fn signal(&self, number: usize, signal: Signal) {
        let pid = self.servers[number].pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let pid = pid.unwrap_or_else(|| panic!("{} does not run", name(number)));
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{} did not get {signal:?}: {error}", name(number)));
    }

    /// From now on the lines from and to a server are like this, and with [`Line::Closed`] the
    /// connections that there are end.
    pub fn set_lines(&self, number: usize, from: From, line: Line) {
        let lines = self.lines.as_ref().expect("the servers were started with lines");
        let others = (0..SERVERS).filter(|other| *other != number);
        let mut bad: Vec<&Proxy> =
            others.flat_map(|other| [&lines.routes[number][other], &lines.routes[other][number]]).collect();
        if from == From::Everybody {
            bad.push(&lines.clients[number]);
        }
        for proxy in bad {
            proxy.set(line);
            if line == Line::Closed {
                proxy.cut();
            }
        }
    }

    /// Stops all of them in good order.
    pub async fn stop(&mut self) {
        futures::future::join_all(self.servers.iter_mut().map(NatsServer::stop)).await;
    }

    /// Kills all of them at once.
    pub async fn kill(&mut self) {
        futures::future::join_all(self.servers.iter_mut().map(NatsServer::kill)).await;
    }

    /// Starts those again that do not run. They have to be started at the same time: one alone
    /// of three is not ready.
    pub async fn start_again(&mut self) {
        let started = try_join_all(self.servers.iter_mut().map(NatsServer::start_again)).await;
        started.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts those again that have ended by themselves, and returns their names.
    pub async fn revive(&mut self) -> Vec<String> {
        let mut ended = Vec::new();
        for (number, server) in self.servers.iter_mut().enumerate() {
            if server.has_ended() {
                server.kill().await;
                ended.push(name(number));
            }
        }
        if !ended.is_empty() {
            self.start_again().await;
        }
        ended
    }
}

impl Lines {
    async fn to(clients: &[SocketAddr], servers: &[SocketAddr]) -> Self {
        let mut lines = Self { clients: vec![], routes: vec![] };
        for address in clients {
            lines.clients.push(Proxy::to(*address).await);
            let mut routes = vec![];
            for address in servers {
                routes.push(Proxy::to(*address).await);
            }
            lines.routes.push(routes);
        }
        lines
    }

    /// Where a server reaches the others.
    fn from(&self, number: usize) -> Vec<SocketAddr> {
        let others = self.routes[number].iter().enumerate().filter(|(other, _)| *other != number);
        others.map(|(_, route)| route.address()).collect()
    }
}

/// What a server is called: in its folder's name, in what the others say, and as a stream's leader.
pub fn name(number: usize) -> String {
    format!("nats-{}", number + 1)
}

/// An address on loopback that is nobody else's for as long as the socket is there. A server may listen there all the same: both sides allow the
/// address to be used again, and this one does not listen.
pub fn reserve() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("there are sockets");
    socket.set_reuseaddr(true).expect("an address may be used again");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("there is a free port");
    socket
}

/// Where that is.
pub fn address_of(socket: &TcpSocket) -> SocketAddr {
    socket.local_addr().expect("a bound socket knows where it is")
}
