//! Takes connections in, as many as there is room for, in all and from one address, and tells the others so.
//!
//! Never ends, and never takes the processor for a connection that it cannot take: not when there are no file handles
//! left either. What strikes is counted by who listens, and said in the log at most once a second.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use crate::files;

/// Pause after a connection could not be taken, nor turned away.
const RETRY: Duration = Duration::from_millis(100);
/// How often the log says that connections are turned away.
const SAY_INTERVAL: Duration = Duration::from_secs(1);
/// So many that are turned away at a time, fewer where the process may open only few files, are waited for until they
/// have read why; the others may not see it.
const LINGERING_MAX: usize = 64;
/// How long they are waited for, and how much is read of what they send.
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 65_536;
/// How long a connection may take that is known to wait.
const AT_ONCE: Duration = Duration::from_millis(20);

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// In all; fewer where the process may not open so many files.
    pub in_all: usize,
    /// From one address, which of IPv6 is a network of 64 bits: one machine has a whole one.
    pub of_address: usize,
}

/// Which limit a connection ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Full {
    /// There are as many as there may be.
    InAll,
    /// There are as many from that address as there may be.
    OfAddress,
    /// The process has as many files open as it may.
    Files,
}

/// Where connections come in.
pub struct Listener<F> {
    socket: TcpListener,
    places: Arc<Places>,
    /// Those who are turned away and have not read why.
    lingering: Arc<Semaphore>,
    /// What a client is told that is turned away.
    refusal: Arc<[u8]>,
    /// Hears of each that is.
    full: F,
    /// A file for the moment in which no other can be opened.
    spare: Option<File>,
    said: [Said; 3],
}

/// The place of one connection, until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    address: IpAddr,
}

#[derive(Debug)]
struct Places {
    room: Room,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    of_address: HashMap<IpAddr, usize>,
}

/// When the log was last told, and how often it was not since.
#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl<F: Fn(Full)> Listener<F> {
    /// On this socket, with so much room.
    pub fn new(socket: TcpListener, room: Room, refusal: impl Into<Arc<[u8]>>, full: F) -> Self {
        let room = Room { in_all: files::room_for(room.in_all), ..room };
        Self {
            socket,
            places: Arc::new(Places { room, taken: Mutex::default() }),
            lingering: Arc::new(Semaphore::new(files::room_beside(LINGERING_MAX))),
            refusal: refusal.into(),
            full,
            spare: spare(),
            said: Default::default(),
        }
    }

    /// The next connection for which there is a place.
    pub async fn accept(&mut self) -> (TcpStream, Place) {
        loop {
            match self.socket.accept().await {
                Ok((socket, peer)) => match self.places.take(peer.ip()) {
                    Ok(place) => return (socket, place),
                    Err(full) => {
                        self.strikes(full, None);
                        self.turn_away(socket);
                    }
                },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.strikes(Full::Files, Some(&error));
                    self.turn_away_without_a_file().await;
                }
            }
        }
    }

    /// How many there are now.
    pub fn connections(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let places = Arc::clone(&self.places);
        move || places.taken().in_all
    }

    fn strikes(&mut self, full: Full, error: Option<&io::Error>) {
        (self.full)(full);
        let Room { in_all, of_address } = self.places.room;
        let Some(times) = self.said[full as usize].is_to_be_said() else { return };
        match (full, error) {
            (Full::InAll, _) => {
                tracing::warn!("turned away {times} connection(s): there are {in_all}, the most there may be")
            }
            (Full::OfAddress, _) => {
                tracing::warn!(
                    "turned away {times} connection(s): there are {of_address} from the same address, the most there may be"
                );
            }
            (Full::Files, Some(error)) => tracing::error!("cannot accept {times} connection(s): {error}"),
            (Full::Files, None) => {
                tracing::error!("cannot accept {times} connection(s): there are no file handles left")
            }
        }
    }

    /// Tells a client that there is no room. A socket that is closed while there is something to read resets the
    /// connection, so that some are waited for.
    fn turn_away(&self, mut socket: TcpStream) {
        let Ok(place) = Arc::clone(&self.lingering).try_acquire_owned() else {
            return close(socket, &self.refusal);
        };
        let refusal = Arc::clone(&self.refusal);
        tokio::spawn(async move {
            let told = async {
                socket.write_all(&refusal).await?;
                socket.shutdown().await?;
                let mut rest = socket.take(LINGER_BYTES_MAX);
                tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
            };
            // A client that went away needs to be told nothing.
            let _told = timeout(LINGER_TIME_MAX, told).await;
            drop(place);
        });
    }

    /// With the file that is kept for it, one that waits is turned away instead of being left to wait until it gives up.
    async fn turn_away_without_a_file(&mut self) {
        let is_kept = self.spare.take().is_some();
        match timeout(AT_ONCE, self.socket.accept()).await {
            Ok(Ok((socket, _))) if is_kept => close(socket, &self.refusal),
            // There was a file again.
            Ok(Ok((socket, _))) => self.turn_away(socket),
            Ok(Err(_)) | Err(_) => sleep(RETRY).await,
        }
        self.spare = spare();
    }
}

impl<F> std::fmt::Debug for Listener<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("socket", &self.socket).field("places", &self.places).finish_non_exhaustive()
    }
}

impl Places {
    fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let address = network_of(address);
        let mut taken = self.taken();
        if taken.in_all >= self.room.in_all {
            return Err(Full::InAll);
        }
        let of_address = taken.of_address.entry(address).or_default();
        if *of_address >= self.room.of_address {
            return Err(Full::OfAddress);
        }
        *of_address += 1;
        taken.in_all += 1;
        Ok(Place { places: Arc::clone(self), address })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("nothing panics while a place is counted")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.in_all -= 1;
        if let Some(of_address) = taken.of_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.of_address.remove(&self.address);
            }
        }
    }
}

impl Said {
    /// How often it has happened since it was said last, if it is to be said again.
    fn is_to_be_said(&mut self) -> Option<u64> {
        self.unsaid += 1;
        if self.last.is_some_and(|last| last.elapsed() < SAY_INTERVAL) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Tells what can be told at once.
fn close(socket: TcpStream, refusal: &[u8]) {
    // A client that cannot be told sees a connection that was closed.
    if let Ok(mut socket) = socket.into_std() {
        let _told = socket.write(refusal).and_then(|_| socket.shutdown(Shutdown::Write));
        let _read = socket.read(&mut [0; 4_096]);
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// What counts as one address: of IPv6 the network of 64 bits, which is what one customer of a provider has.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSAL: &[u8] = b"no room";

    #[tokio::test]
    async fn who_finds_no_place_is_told_so_and_finds_one_when_another_has_gone() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let struck = Arc::<Mutex<Vec<Full>>>::default();
        let heard = Arc::clone(&struck);
        let full = move |full| heard.lock().unwrap().push(full);
        let mut listener = Listener::new(socket, Room { in_all: 8, of_address: 2 }, REFUSAL, full);
        let count = listener.connections();
        let (_clients, mut taken) = (Vec::from([connect(address).await, connect(address).await]), Vec::new());
        for _ in 0..2 {
            taken.push(listener.accept().await);
        }
        assert_eq!(count(), 2);
        let mut third = connect(address).await;
        // What it has sent already does not keep it from reading why.
        third.write_all(&[b'x'; 10_000]).await.unwrap();
        let mut said = Vec::new();
        let told = third.read_to_end(&mut said);
        tokio::select! {
            told = told => drop(told.unwrap()),
            _ = listener.accept() => panic!("there is no place"),
        }
        assert_eq!((&*said, &**struck.lock().unwrap()), (REFUSAL, &[Full::OfAddress][..]));
        taken.pop();
        let _fourth = connect(address).await;
        taken.push(listener.accept().await);
        drop(taken);
        assert_eq!(
            (count(), listener.places.taken().of_address.len()),
            (0, 0),
            "no address is kept that has no connection"
        );
    }

    #[test]
    fn of_all_places_one_address_has_its_share_and_in_ipv6_a_machine_is_a_network() {
        let places = Arc::new(Places { room: Room { in_all: 5, of_address: 2 }, taken: Mutex::default() });
        let mut kept = Vec::new();
        for (address, expected) in [
            ("10.0.0.1", Ok(())),
            ("::ffff:10.0.0.1", Ok(())),
            ("10.0.0.1", Err(Full::OfAddress)),
            ("2001:db8::1", Ok(())),
            ("2001:db8::2:1", Ok(())),
            ("2001:db8::3", Err(Full::OfAddress)),
            ("2001:db8:0:1::1", Ok(())),
            ("10.0.0.2", Err(Full::InAll)),
        ] {
            let place = places.take(address.parse().unwrap());
            assert_eq!(place.as_ref().map(|_| ()).map_err(|full| *full), expected, "{address}");
            kept.extend(place);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_is_told_once_a_second_and_then_how_often_it_was_not() {
        let mut said = Said::default();
        assert_eq!(said.is_to_be_said(), Some(1));
        assert!((0..1_000).all(|_| said.is_to_be_said().is_none()));
        tokio::time::advance(SAY_INTERVAL).await;
        assert_eq!(said.is_to_be_said(), Some(1_001));
    }

    async fn connect(address: std::net::SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.unwrap()
    }
}
