//! The figures of one measurement. What `--json` writes is this, field by field; units are in the names.

use serde::Serialize;

/// All that was measured, on one machine in one go.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Orders at so many connections.
    pub orders: Vec<Orders>,
    /// The same in one PostgreSQL.
    pub postgres: Vec<Postgres>,
    /// What the machine can do at all.
    pub limits: Option<Limits>,
    /// Orders by the programs of other profiles.
    pub builds: Vec<Build>,
    /// Orders with and without tokens.
    pub auth: Option<Auth>,
    /// More orders than the shop can take.
    pub overload: Option<Overload>,
    /// With more wallets, and with longer logs.
    pub growth: Vec<Growth>,
    /// From a start to ready.
    pub recovery: Vec<Recovery>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
}

/// Where and when it was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// When it began, RFC 3339.
    pub at: String,
    /// The processor, as the system calls it.
    pub cpu: String,
    /// How many of its cores there are.
    pub cores: usize,
    /// Main memory, in MB.
    pub memory_mb: u64,
    /// The system.
    pub kernel: String,
    /// The file system that the data are on.
    pub file_system: String,
    /// The programs and their versions.
    pub programs: Vec<String>,
    /// How it was measured, in a sentence.
    pub method: String,
}

/// When the nats-server syncs what it has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// Before every acknowledgement, as the shop's own server does.
    Always,
    /// Every two minutes, which is JetStream's default.
    Default,
}

/// What is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Load {
    /// Any product.
    Uniform,
    /// Always the same one.
    Hot,
}

/// How long answers took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half of them at most.
    pub p50_ms: f64,
    /// All but one in a hundred.
    pub p99_ms: f64,
    /// All but one in a thousand.
    pub p999_ms: f64,
    /// The slowest.
    pub max_ms: f64,
}

/// Orders over HTTP, in a closed loop.
#[derive(Clone, Debug, Serialize)]
pub struct Orders {
    /// Of the nats-server.
    pub sync: Sync,
    /// What was ordered.
    pub load: Load,
    /// Callers, each of whom waits for an answer before the next order.
    pub connections: u32,
    /// Confirmed orders per second.
    pub per_second: f64,
    /// Orders that were not confirmed, for whatever reason.
    pub errors: u64,
    /// From the request to the answer.
    pub latency: Latency,
    /// What it took.
    pub cost: Cost,
}

/// Orders of any product over HTTP, by the program of one of cargo's profiles.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    /// Which profile.
    pub profile: &'static str,
    /// Callers, each of whom waits for an answer before the next order.
    pub connections: u32,
    /// Confirmed orders per second.
    pub per_second: f64,
    /// Orders that were not confirmed, for whatever reason.
    pub errors: u64,
    /// From the request to the answer.
    pub latency: Latency,
}

/// The same orders where nobody says who asks, and where each customer has a token; in turns, in two shops.
#[derive(Clone, Debug, Serialize)]
pub struct Auth {
    /// Callers, each of whom waits for an answer before the next order.
    pub connections: u32,
    /// How many customers have a token, which the bridge has seen before.
    pub customers: u64,
    /// One after the other.
    pub pairs: Vec<AuthPair>,
}

/// Both, one right after the other.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AuthPair {
    /// Without tokens (`--auth none`).
    pub none: AuthRun,
    /// With tokens (`--auth jwt`).
    pub jwt: AuthRun,
}

/// One of the two.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AuthRun {
    /// Confirmed orders per second.
    pub per_second: f64,
    /// Orders that were not confirmed, for whatever reason.
    pub errors: u64,
    /// From the request to the answer.
    pub latency: Latency,
    /// CPU seconds of the shop for 1,000 orders.
    pub shop_cpu_s: f64,
}

/// What orders cost.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// CPU seconds of the shop for 1,000 orders.
    pub shop_cpu_s: f64,
    /// The same of the nats-server.
    pub nats_cpu_s: f64,
    /// The same of the load generator.
    pub load_cpu_s: f64,
    /// Most memory of the shop meanwhile, in MB.
    pub shop_peak_mb: f64,
    /// The same of the nats-server.
    pub nats_peak_mb: f64,
    /// JetStream messages per confirmed order.
    pub messages: f64,
    /// Bytes in JetStream per confirmed order.
    pub bytes: f64,
    /// fsyncs per confirmed order, of shop and nats-server; none if they cannot be counted here.
    pub fsyncs: Option<f64>,
}

/// The same order in one PostgreSQL, without HTTP in front of it.
#[derive(Clone, Debug, Serialize)]
pub struct Postgres {
    /// The pgbench script: `uniform` and `hot` call a stored procedure, `statements` sends it statement by statement.
    pub script: &'static str,
    /// Clients, each of whom waits for an answer before the next order.
    pub connections: u32,
    /// Orders per second.
    pub per_second: f64,
    /// From the request to the answer.
    pub latency: Latency,
}

/// What the machine can do at all.
#[derive(Clone, Debug, Serialize)]
pub struct Limits {
    /// Appends to a file.
    pub fsyncs: Vec<Fsyncs>,
    /// Publishes to one JetStream stream.
    pub jetstream: Vec<Publishes>,
    /// `GET /healthz` through the bridge.
    pub healthz: Vec<Healthz>,
}

/// Appends to a file, each followed by an fsync.
#[derive(Clone, Debug, Serialize)]
pub struct Fsyncs {
    /// Bytes that each append adds.
    pub bytes: usize,
    /// Appends per second.
    pub per_second: f64,
}

/// Publishes of 120 bytes to one stream.
#[derive(Clone, Debug, Serialize)]
pub struct Publishes {
    /// Of the nats-server.
    pub sync: Sync,
    /// Publishes that are not acknowledged yet, at most.
    pub in_flight: usize,
    /// Acknowledged publishes per second.
    pub per_second: f64,
}

/// `GET /healthz` in a closed loop.
#[derive(Clone, Debug, Serialize)]
pub struct Healthz {
    /// Callers.
    pub connections: u32,
    /// Answers per second.
    pub per_second: f64,
}

/// More orders than the shop can take, sent on time whatever is answered.
#[derive(Clone, Debug, Serialize)]
pub struct Overload {
    /// What it confirms per second when everybody waits for an answer.
    pub peak_per_second: f64,
    /// What was to be sent per second.
    pub offered_per_second: f64,
    /// What was sent per second: less, when the generator or its connections are exhausted.
    pub sent_per_second: f64,
    /// Orders confirmed per second meanwhile.
    pub confirmed_per_second: f64,
    /// Requests that were answered 503, per second.
    pub refused_per_second: f64,
    /// Of these, how many carried no `Retry-After`.
    pub refused_without_retry_after: u64,
    /// How long a refusal took.
    pub refused: Latency,
    /// How long a confirmation took.
    pub confirmed: Latency,
    /// Any other answer, or none.
    pub errors: u64,
    /// Memory of the shop before it, in MB.
    pub memory_before_mb: f64,
    /// Most memory of the shop meanwhile, in MB.
    pub memory_peak_mb: f64,
    /// From the last request until an order is confirmed within 100 ms again.
    pub recovered_after_ms: f64,
}

/// A shop with more in it.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// Wallets that were opened.
    pub wallets: u64,
    /// Messages in the logs when the measurement began.
    pub messages: u64,
    /// Confirmed orders per second.
    pub per_second: f64,
    /// Confirmed orders per second of a new shop with few wallets, just before.
    pub small_per_second: f64,
    /// From the request to the answer.
    pub latency: Latency,
    /// Memory of the shop at the end of it, in MB.
    pub shop_mb: f64,
    /// Most memory of the shop since it was started, in MB.
    pub shop_peak_mb: f64,
    /// Memory of the nats-server, in MB.
    pub nats_mb: f64,
    /// The checkpoints on disk, in MB.
    pub checkpoints_mb: f64,
}

impl Growth {
    /// How many times as many orders as in the small shop.
    pub fn times_small(&self) -> f64 {
        self.per_second / self.small_per_second
    }
}

/// A start of the shop.
#[derive(Clone, Debug, Serialize)]
pub struct Recovery {
    /// How it ended before.
    pub after: Before,
    /// Messages in the logs.
    pub messages: u64,
    /// From the start of the process until the bridge answers: the nats-server is up.
    pub answering_ms: f64,
    /// From the start of the process until every kind is ready.
    pub ready_ms: f64,
    /// CPU seconds of the shop until then.
    pub shop_cpu_s: f64,
}

/// What a shop that starts finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Before {
    /// Checkpoints as they are after SIGTERM.
    Terminated,
    /// Checkpoints as they are after SIGKILL in a rush.
    Killed,
    /// No checkpoints.
    CheckpointsDeleted,
}

impl AuthPair {
    /// How many times as many orders with tokens.
    pub fn times_none(&self) -> f64 {
        self.jwt.per_second / self.none.per_second
    }
}

impl Auth {
    /// The pair with the middle ratio; none if there are no pairs.
    pub fn middle(&self) -> Option<AuthPair> {
        let mut pairs = self.pairs.clone();
        pairs.sort_by(|one, other| one.times_none().total_cmp(&other.times_none()));
        pairs.get(pairs.len() / 2).copied()
    }

    /// Orders that were not confirmed, with and without tokens.
    pub fn errors(&self) -> u64 {
        self.pairs.iter().map(|pair| pair.none.errors + pair.jwt.errors).sum()
    }
}

impl Latency {
    /// Of times in microseconds, in order; none if there are none.
    pub fn of_sorted_us(times: &[u64]) -> Option<Self> {
        let last = times.len().checked_sub(1)?;
        // The smallest time that so many per mille are not above.
        let at = |per_mille: usize| times[(times.len() * per_mille).div_ceil(1000).saturating_sub(1).min(last)];
        let [p50_ms, p99_ms, p999_ms, max_ms] = [at(500), at(990), at(999), times[last]].map(|us| us as f64 / 1e3);
        Some(Self { p50_ms, p99_ms, p999_ms, max_ms })
    }
}

impl Recovery {
    /// Messages per second of the time between the first answer and ready.
    pub fn per_second(&self) -> f64 {
        self.messages as f64 / ((self.ready_ms - self.answering_ms) / 1e3)
    }

    /// Messages per second that one core was busy.
    pub fn per_core_second(&self) -> f64 {
        self.messages as f64 / self.shop_cpu_s
    }
}

impl Report {
    /// The orders at so many connections.
    pub fn orders_at(&self, sync: Sync, load: Load, connections: u32) -> Option<&Orders> {
        self.orders.iter().find(|orders| (orders.sync, orders.load, orders.connections) == (sync, load, connections))
    }

    /// What PostgreSQL does of a script at so many connections.
    pub fn postgres_at(&self, script: &str, connections: u32) -> Option<&Postgres> {
        self.postgres.iter().find(|run| (run.script, run.connections) == (script, connections))
    }

    /// What PostgreSQL does of a script where it does most.
    pub fn postgres_best(&self, script: &str) -> Option<&Postgres> {
        let runs = self.postgres.iter().filter(|run| run.script == script);
        runs.max_by(|a, b| a.per_second.total_cmp(&b.per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_time_that_so_many_did_not_exceed() {
        let thousand: Vec<u64> = (1..=1_000).map(|ms| ms * 1_000).collect();
        let latency = Latency::of_sorted_us(&thousand).unwrap();
        assert_eq!(latency, Latency { p50_ms: 500.0, p99_ms: 990.0, p999_ms: 999.0, max_ms: 1_000.0 });
        let one = Latency::of_sorted_us(&[7_000]).unwrap();
        assert_eq!(one, Latency { p50_ms: 7.0, p99_ms: 7.0, p999_ms: 7.0, max_ms: 7.0 });
        assert_eq!(Latency::of_sorted_us(&[]), None);
    }

    #[test]
    fn of_pairs_that_differ_the_one_with_the_middle_ratio_counts() {
        let run = |per_second| AuthRun { per_second, errors: 1, latency: Latency::default(), shop_cpu_s: 0.1 };
        let pair = |none, jwt| AuthPair { none: run(none), jwt: run(jwt) };
        let pairs = vec![pair(1_000.0, 2_000.0), pair(9_000.0, 8_900.0), pair(8_000.0, 7_600.0)];
        let auth = Auth { connections: 256, customers: 10, pairs };
        assert_eq!(auth.middle().unwrap().none.per_second, 9_000.0);
        assert_eq!(auth.errors(), 6);
        assert!(Auth { pairs: vec![], ..auth }.middle().is_none());
    }

    #[test]
    fn what_is_replayed_counts_from_when_the_server_is_up() {
        let (answering_ms, ready_ms) = (500.0, 2_500.0);
        let after = Before::CheckpointsDeleted;
        let recovery = Recovery { after, messages: 400_000, answering_ms, ready_ms, shop_cpu_s: 4.0 };
        assert_eq!((recovery.per_second(), recovery.per_core_second()), (200_000.0, 100_000.0));
    }
}
