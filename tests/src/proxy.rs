//! A TCP proxy that can be a bad line: cut, closed, silent, slow, or deaf in one direction.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
    time::sleep,
};

/// How much is carried at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// How the line behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Line {
    /// Carries everything at once.
    #[default]
    Good,
    /// Ends whoever connects, at once. Those who are connected stay.
    Closed,
    /// Carries nothing, and nobody is told.
    Silent,
    /// Carries everything, each piece after this pause.
    Slow(Duration),
    /// Carries what is asked, and loses what is answered.
    Unanswered,
}

/// A proxy in front of one address. Dropping it cuts all connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    cuts: watch::Sender<u64>,
    _connections: JoinSet<()>,
}

impl Proxy {
    /// A good line to `target`.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("a listener knows where it listens");
        let (line, cuts) = (watch::Sender::new(Line::Good), watch::Sender::new(0));
        let mut connections = JoinSet::new();
        connections.spawn(accept(listener, target, line.subscribe(), cuts.subscribe()));
        Self { address, line, cuts, _connections: connections }
    }

    /// Where to connect instead of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the line is like this.
    pub fn set(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Cuts all connections that there are.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, line: watch::Receiver<Line>, cuts: watch::Receiver<u64>) {
    let mut connections = JoinSet::new();
    loop {
        // Those that have ended are forgotten.
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else { continue };
        if *line.borrow() != Line::Closed {
            connections.spawn(carry(client, target, line.clone(), cuts.clone()));
        }
    }
}

async fn carry(client: TcpStream, target: SocketAddr, line: watch::Receiver<Line>, mut cuts: watch::Receiver<u64>) {
    cuts.mark_unchanged();
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _best_effort = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // Whatever ends first ends both directions.
    tokio::select! {
        _ = pump(from_client, to_server, line.clone(), false) => {}
        _ = pump(from_server, to_client, line, true) => {}
        _ = cuts.changed() => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    is_answer: bool,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let bytes = from.read(&mut chunk).await?;
        if bytes == 0 {
            return Ok(());
        }
        let now = *line.wait_for(|line| *line != Line::Silent).await.map_err(io::Error::other)?;
        match now {
            Line::Unanswered if is_answer => continue,
            Line::Slow(pause) => sleep(pause).await,
            Line::Good | Line::Closed | Line::Silent | Line::Unanswered => {}
        }
        to.write_all(&chunk[..bytes]).await?;
    }
}
