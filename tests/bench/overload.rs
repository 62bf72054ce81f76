//! Twice the orders that the shop can take, sent on time whatever is answered: an open loop, as
//! customers are, who do not wait for each other.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, RETRY_AFTER},
};
use hyper_util::rt::TokioIo;
use shop_tests::bench::report::{Latency, Overload, Sync};
use tokio::{net::TcpStream, task::JoinSet, time::sleep};

use crate::{
    load::{Orders, PRICE},
    matrix::SIZE,
    options::Options,
    shop::OpenShop,
    tokens::Tokens,
    usage,
};

type Connection = SendRequest<Full<Bytes>>;

/// Callers of the closed loop whose rate is doubled.
const PEAK_CONNECTIONS: u32 = 256;
/// Requests without an answer, at most: each takes a connection. One more is not sent, which the
/// figures show.
const WAITING_MAX: usize = 9_000;
/// How often what is due is sent.
const TICK: Duration = Duration::from_millis(1);
/// How fast an order is confirmed when all is well again, and how often one tries.
const WELL: Duration = Duration::from_millis(100);
const TRY_INTERVAL: Duration = Duration::from_millis(5);
/// How long one waits for that.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// Sends orders, each on a connection that has nothing else to do. Clones share them.
#[derive(Clone, Debug)]
struct Caller {
    address: SocketAddr,
    prefix: String,
    size: (u64, u64),
    /// Of the customers, where the bridge asks who they are.
    tokens: Option<Arc<Vec<String>>>,
    idle: Arc<Mutex<Vec<Connection>>>,
}

/// What became of an order.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    answered: Instant,
    took: Duration,
    status: u16,
    has_retry_after: bool,
}

/// Finds the peak, doubles it, and looks how the shop gets over it.
pub(crate) async fn measure(options: &Options) -> Overload {
    let mut shop = OpenShop::start_with(options, Sync::Always, SIZE.0, SIZE.1).await;
    let orders = Orders::uniform(options, PEAK_CONNECTIONS);
    orders.warm_up(&mut shop).await;
    let (run, _) = orders.send(&mut shop).await.unwrap_or_else(|error| panic!("{error}"));
    shop.at_rest().await;
    let (peak_per_second, offered_per_second) = (run.per_second(), 2.0 * run.per_second());
    eprintln!("overload: sending {offered_per_second:.0} orders/s");

    let memory_before_mb = usage::memory_mb(shop.pid());
    usage::forget_peak(shop.pid());
    let (address, size) = (shop.http, (shop.customers(), shop.products));
    let tokens = shop.tokens().map(Tokens::all);
    let caller = Caller { address, prefix: shop.next_prefix(), size, tokens, idle: Arc::default() };
    let time = Duration::from_secs(options.seconds.into());
    let mut flood = Flood::default();
    flood.send(&caller, offered_per_second, time).await;
    let end = Instant::now();
    let recovered_after = recover(&Caller { prefix: shop.next_prefix(), ..caller }).await;
    eprintln!("overload: recovered after {recovered_after:?}");
    flood.wait().await;
    let memory_peak_mb = usage::peak_mb(shop.pid());
    shop.stop().await;

    let per_second = |count: usize| count as f64 / time.as_secs_f64();
    let with = |status: u16| flood.outcomes.iter().filter(move |outcome| outcome.status == status);
    let in_time = |status| with(status).filter(|outcome| outcome.answered <= end).count();
    let (confirmed, refused) = (with(201).count(), with(503).count());
    Overload {
        peak_per_second,
        offered_per_second,
        sent_per_second: per_second(flood.sent),
        confirmed_per_second: per_second(in_time(201)),
        refused_per_second: per_second(in_time(503)),
        refused_without_retry_after: with(503).filter(|outcome| !outcome.has_retry_after).count() as u64,
        refused: latency(with(503)),
        confirmed: latency(with(201)),
        errors: (flood.sent - confirmed - refused) as u64,
        memory_before_mb,
        memory_peak_mb,
        recovered_after_ms: recovered_after.as_secs_f64() * 1e3,
    }
}

/// All that was sent.
#[derive(Debug, Default)]
struct Flood {
    waiting: JoinSet<Option<Outcome>>,
    outcomes: Vec<Outcome>,
    sent: usize,
}

impl Flood {
    /// Sends so many per second, for so long.
    async fn send(&mut self, caller: &Caller, per_second: f64, time: Duration) {
        let (start, mut due) = (Instant::now(), 0);
        while start.elapsed() < time {
            let now_due = (start.elapsed().as_secs_f64() * per_second) as usize;
            for number in due..now_due {
                if self.waiting.len() < WAITING_MAX {
                    self.waiting.spawn(caller.clone().order(number));
                    self.sent += 1;
                }
            }
            due = now_due;
            while let Some(outcome) = self.waiting.try_join_next() {
                self.outcomes.extend(outcome.expect("a caller does not panic"));
            }
            sleep(TICK).await;
        }
    }

    /// Waits until everything is answered.
    async fn wait(&mut self) {
        while let Some(outcome) = self.waiting.join_next().await {
            self.outcomes.extend(outcome.expect("a caller does not panic"));
        }
    }
}

impl Caller {
    /// Places an order; nothing when there is no answer.
    async fn order(self, number: usize) -> Option<Outcome> {
        let start = Instant::now();
        let mut connection = self.connection().await?;
        // As unlike as any other spread over wallets and products, and the same in every run.
        let spread = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let (user, product) = (spread % self.size.0 + 1, spread % self.size.1 + 1);
        let prefix = &self.prefix;
        let body = format!(
            r#"{{"id":"{prefix}-{number}","user":"u{user}","product":"p{product}","quantity":1,"unit_price":{PRICE}}}"#
        );
        let mut request =
            Request::post("/orders").header(HOST, self.address.to_string()).header(CONTENT_TYPE, "application/json");
        if let Some(tokens) = &self.tokens {
            request = request.header(AUTHORIZATION, format!("Bearer {}", tokens[user as usize - 1]));
        }
        let request = request.body(Full::new(Bytes::from(body))).expect("a valid request");
        let response = connection.send_request(request).await.ok()?;
        let (status, has_retry_after) = (response.status().as_u16(), response.headers().contains_key(RETRY_AFTER));
        response.into_body().collect().await.ok()?;
        self.idle.lock().expect("nobody panics while holding it").push(connection);
        Some(Outcome { answered: Instant::now(), took: start.elapsed(), status, has_retry_after })
    }

    /// One that has nothing to do, or a new one.
    async fn connection(&self) -> Option<Connection> {
        let is_open = |connection: &Connection| !connection.is_closed();
        let idle = || self.idle.lock().expect("nobody panics while holding it").pop();
        while let Some(mut connection) = idle() {
            if is_open(&connection) && connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
        let socket = TcpStream::connect(self.address).await.ok()?;
        socket.set_nodelay(true).ok()?;
        let (connection, work) = http1::handshake(TokioIo::new(socket)).await.ok()?;
        // Ends with the connection; why it ended is seen by whoever waits on it.
        tokio::spawn(async move { drop(work.await) });
        Some(connection)
    }
}

/// How long until an order is confirmed as fast as ever.
async fn recover(caller: &Caller) -> Duration {
    let start = Instant::now();
    for number in 0.. {
        let outcome = caller.clone().order(number).await;
        if outcome.is_some_and(|outcome| outcome.status == 201 && outcome.took < WELL) {
            return start.elapsed();
        }
        assert!(start.elapsed() < RECOVERY_LIMIT, "no order was confirmed quickly for {RECOVERY_LIMIT:?}");
        sleep(TRY_INTERVAL).await;
    }
    unreachable!("there are enough numbers")
}

fn latency<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Latency {
    let mut times: Vec<u64> = outcomes.map(|outcome| outcome.took.as_micros() as u64).collect();
    times.sort_unstable();
    Latency::of_sorted_us(&times).unwrap_or_default()
}
