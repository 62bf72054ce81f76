//! Whether a bridge can serve: by itself, as balancers are told, and with every kind that is behind it, as those who run
//! it see.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future;
use serde_json::{Map, Value, json};
use shop_domain::kind::Kind;
use shop_nats::{connection::Connection, rpc::request::Request, subject};

use crate::prefer::WAIT_SECONDS_MAX;

/// What a living process says.
pub(crate) const HEALTHY: &str = r#"{"status":"ok"}"#;

/// How long a kind may take to say how it is: longer is as good as not at all.
const STATUS_WAIT: Duration = Duration::from_secs(1);

/// Since when a bridge was seen without NATS, by those who look at it.
#[derive(Debug, Default)]
pub(crate) struct WithoutNats {
    /// After how many connects it was so first, and when.
    since: Mutex<Option<(u64, Instant)>>,
}

impl WithoutNats {
    /// Whether the bridge has been without NATS for longer than any client can have it wait: from then on it can do
    /// nothing for clients, and another bridge may be able to.
    pub(crate) fn outlasts_waits(&self, is_connected: bool, connects: u64, now: Instant) -> bool {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        match *since {
            _ if is_connected => *since = None,
            Some((before, first)) if before == connects => {
                return now.saturating_duration_since(first) > Duration::from_secs(WAIT_SECONDS_MAX);
            }
            // It has been connected in between, or is looked at for the first time.
            _ => *since = Some((connects, now)),
        }
        false
    }
}

/// Ready when NATS is connected and any kind is served. One that is down is told (`degraded`) but does
/// not make the bridge unready: my page must stay within reach when orders are down.
///
/// While the doors are held, reads are answered and orders are promised, so that it says so and stays ready.
pub(crate) async fn of(connection: &Connection, held: Option<Duration>) -> (bool, Value) {
    if !connection.is_connected() {
        return (false, json!({ "status": "unavailable", "nats": "disconnected" }));
    }
    let statuses = future::join_all(Kind::ALL.map(|kind| status_of(kind, connection))).await;
    let ready = statuses.iter().filter(|status| *status == "ready").count();
    let kinds: Map<String, Value> = Kind::ALL.iter().map(Kind::to_string).zip(statuses).collect();
    let status = match ready {
        0 => "unavailable",
        ready if ready < Kind::ALL.len() => "degraded",
        _ => "ready",
    };
    let mut body = json!({ "status": status, "nats": "connected", "kinds": kinds });
    if let Some(held) = held {
        body["held_seconds"] = held.as_secs().into();
    }
    (ready > 0, body)
}

async fn status_of(kind: Kind, connection: &Connection) -> Value {
    let request = Request::new(subject::door_of_kind(kind, "status"), Bytes::new());
    let reply = connection.request(request, STATUS_WAIT).await.ok().filter(|reply| reply.error.is_none());
    let answer: Option<Value> = reply.and_then(|reply| serde_json::from_slice(&reply.body).ok());
    answer.and_then(|answer| answer.get("status").cloned()).unwrap_or_else(|| "unavailable".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_without_nats_is_left_out_once_no_client_can_wait_any_longer() {
        let (bridge, begin) = (WithoutNats::default(), Instant::now());
        let outlasts = |is_connected, connects, seconds| {
            bridge.outlasts_waits(is_connected, connects, begin + Duration::from_secs(seconds))
        };
        assert!(!outlasts(true, 1, 0));
        assert!(!outlasts(false, 1, 10));
        assert!(!outlasts(false, 1, 40), "a client that came at first may still wait");
        assert!(outlasts(false, 1, 41));
        assert!(!outlasts(true, 2, 42));
        assert!(!outlasts(false, 2, 43), "it was connected meanwhile");
        assert!(!outlasts(false, 3, 80), "it was connected meanwhile, though nobody looked then");
        assert!(outlasts(false, 3, 111));
    }
}
