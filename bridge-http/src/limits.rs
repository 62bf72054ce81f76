//! What a bridge takes at a time, and for how long it waits for a client: each can be set, and each is counted when it
//! strikes.

use std::time::Duration;

use clap::{Args, Command, FromArgMatches};

/// How long a list waits its turn.
const LIST_WAIT_MAX: Duration = Duration::from_secs(1);

/// What a bridge takes at a time, and for how long it waits for a client.
#[derive(Args, Clone, Debug)]
pub struct Limits {
    /// Requests that may be under way to the shop at a time, from when their bodies have come; one more is answered
    /// `overloaded`. At most half of them wait for a process that is being restarted, or for doors that are held
    // A third of a second of work for one machine at its fastest, some seconds for the slowest disk.
    #[arg(long, value_name = "COUNT", env = "SHOP_IN_FLIGHT_MAX", default_value_t = 4_096)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub in_flight_max: u32,
    /// Connections that may be open at a time, fewer where the system lets the process open only so many files; one more
    /// is told 503 and closed
    #[arg(long, value_name = "COUNT", env = "SHOP_CONNECTIONS_MAX", default_value_t = 8_192)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_max: u32,
    /// And from one address (of IPv6, from one network of 64 bits). A proxy in front of the bridge is one address
    #[arg(long, value_name = "COUNT", env = "SHOP_CONNECTIONS_PER_ADDRESS_MAX", default_value_t = 6_144)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub connections_per_address_max: u32,
    /// Largest head of a request, in bytes; a larger one is 431
    #[arg(long, value_name = "BYTES", env = "SHOP_HEAD_BYTES_MAX", default_value_t = 16_384)]
    #[arg(value_parser = clap::value_parser!(u32).range(8_192..=1_048_576))]
    pub head_bytes_max: u32,
    /// Milliseconds that a head may take from its first byte on; a slower one is 408
    #[arg(long, value_name = "MS", env = "SHOP_HEAD_MS", default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub head_ms: u64,
    /// Milliseconds that a connection may do nothing, or take nothing of an answer; then it is closed. More than balancers
    /// keep theirs
    #[arg(long, value_name = "MS", env = "SHOP_IDLE_MS", default_value_t = 75_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub idle_ms: u64,
    /// Milliseconds that a body may take beside the time that it has by --body-rate-min; a slower one is 408
    // A packet that was lost comes again after one second, or three.
    #[arg(long, value_name = "MS", env = "SHOP_BODY_MS", default_value_t = 3_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub body_ms: u64,
    /// Bytes of a body that have to come each second
    #[arg(long, value_name = "BYTES", env = "SHOP_BODY_RATE_MIN", default_value_t = 8_192)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub body_rate_min: u32,
    /// Bytes of bodies that are arriving, in all; one for which nothing is left is answered `overloaded`. Half of them are
    /// for the first 4 KiB of each, so that small orders come in whatever large bodies do
    #[arg(long, value_name = "BYTES", env = "SHOP_BODIES_BYTES_MAX", default_value_t = 67_108_864)]
    #[arg(value_parser = clap::value_parser!(u32).range(131_072..))]
    pub bodies_bytes_max: u32,
    /// Lists (products, a statement, a customer's page) that are read at a time; eight times as many wait for up to a
    /// second, and one more is answered `overloaded`
    #[arg(long, value_name = "COUNT", env = "SHOP_LISTS_MAX", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub lists_max: u32,
    /// Serves HTTP/2 without TLS as well, to clients that begin with it: a balancer that speaks it
    #[arg(long, env = "SHOP_HTTP2", value_parser = clap::builder::FalseyValueParser::new())]
    pub http2: bool,
    /// Requests at a time of one connection of HTTP/2
    #[arg(long, value_name = "COUNT", env = "SHOP_HTTP2_STREAMS_MAX", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_096))]
    pub http2_streams_max: u32,
}

/// What strikes, as the metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    Connections,
    Address,
    Files,
    HeadBytes,
    HeadTime,
    Idle,
    Unread,
    Http2,
    BodyTime,
    BodyBytes,
    InFlight,
    Lists,
    Pause,
}

impl Limit {
    pub(crate) const ALL: [Self; 13] = [
        Self::Connections,
        Self::Address,
        Self::Files,
        Self::HeadBytes,
        Self::HeadTime,
        Self::Idle,
        Self::Unread,
        Self::Http2,
        Self::BodyTime,
        Self::BodyBytes,
        Self::InFlight,
        Self::Lists,
        Self::Pause,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Address => "address",
            Self::Files => "files",
            Self::HeadBytes => "head_bytes",
            Self::HeadTime => "head_time",
            Self::Idle => "idle",
            Self::Unread => "unread",
            Self::Http2 => "http2",
            Self::BodyTime => "body_time",
            Self::BodyBytes => "body_bytes",
            Self::InFlight => "in_flight",
            Self::Lists => "lists",
            Self::Pause => "pause",
        }
    }
}

impl Limits {
    pub(crate) fn head_time(&self) -> Duration {
        Duration::from_millis(self.head_ms)
    }

    pub(crate) fn idle_time(&self) -> Duration {
        Duration::from_millis(self.idle_ms)
    }

    /// How long a body may take of which so many bytes have come.
    pub(crate) fn body_time(&self, received: usize) -> Duration {
        Duration::from_millis(self.body_ms) + Duration::from_secs(received as u64) / self.body_rate_min
    }

    pub(crate) fn list_wait(&self) -> Duration {
        LIST_WAIT_MAX
    }
}

impl Default for Limits {
    fn default() -> Self {
        // What the environment says is for a command line.
        let command = Self::augment_args(Command::new("limits")).mut_args(|argument| argument.env(None::<&str>));
        let matches = command.try_get_matches_from(["limits"]).expect("each has a default");
        Self::from_arg_matches(&matches).expect("each has a default")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_the_time_that_its_bytes_take_and_a_little_more() {
        let limits = Limits::default();
        for (received, ms) in [(0, 3_000), (1, 3_000), (8_192, 4_000), (65_536, 11_000)] {
            assert_eq!(limits.body_time(received).as_millis(), ms, "{received}");
        }
    }

    #[test]
    fn each_limit_has_a_line_in_the_table_of_the_readme_and_its_own_name_in_the_metrics() {
        let (readme, metrics) = (include_str!("../README.md"), include_str!("../METRICS.md"));
        for limit in Limit::ALL {
            assert!(readme.contains(&format!("| `{}` |", limit.name())), "{limit:?} is not in the table");
        }
        assert!(metrics.contains("shop_http_limit_reached_total"));
        let limits: Vec<_> = Limit::ALL.map(Limit::name).to_vec();
        assert_eq!(Limit::ALL.map(|limit| limits[limit as usize]), Limit::ALL.map(Limit::name));
    }
}
