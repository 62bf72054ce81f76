//! What the bridge says about itself: alive, ready, its description. Its numbers are in `metrics.rs`.

use std::time::Duration;

use bytes::Bytes;
use futures::future;
use serde_json::{Map, Value, json};
use shop_domain::kind::Kind;
use shop_nats::{connection::Connection, request::Request, subject};
use warp::reply::Response;

use crate::reply;

/// The OpenAPI document: the API with every shape, limit and error.
pub(crate) const DESCRIPTION: &str = include_str!("../openapi.json");
/// What a living process says.
pub(crate) const HEALTHY: &str = r#"{"status":"ok"}"#;

/// How long a kind may take to say how it is: longer is as good as not at all.
const STATUS_WAIT: Duration = Duration::from_secs(1);

/// Ready when NATS is connected and any kind is served. One that is down is told (`degraded`) but does
/// not make the bridge unready: my page must stay within reach when orders are down.
///
/// While the doors are held, reads are answered and orders are promised, so that it says so and stays ready.
pub(crate) async fn ready(connection: &Connection, held: Option<Duration>) -> Response {
    if !connection.is_connected() {
        return reply::unready(json!({ "status": "unavailable", "nats": "disconnected" }).to_string());
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
    let body = body.to_string();
    if ready == 0 { reply::unready(body) } else { reply::page("application/json", body) }
}

/// The bridge is about to stop: whoever chooses between bridges must choose another one, whatever this
/// one can still do.
pub(crate) fn leaving() -> Response {
    reply::unready(json!({ "status": "leaving" }).to_string())
}

async fn status_of(kind: Kind, connection: &Connection) -> Value {
    let request = Request::new(subject::door_of_kind(kind, "status"), Bytes::new());
    let reply = connection.request(request, STATUS_WAIT).await.ok().filter(|reply| reply.error.is_none());
    let answer: Option<Value> = reply.and_then(|reply| serde_json::from_slice(&reply.body).ok());
    answer.and_then(|answer| answer.get("status").cloned()).unwrap_or_else(|| "unavailable".into())
}
