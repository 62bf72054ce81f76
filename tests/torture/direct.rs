//! A customer who asks over NATS, with a key that lets it speak on subjects of its own.

use std::time::{Duration, Instant};

use async_nats::{Client, HeaderMap as NatsHeaders, Message};
use hyper::{HeaderMap, header::HeaderValue};
use serde_json::{Map, Value};
use shop_bridge_http::routes::{About, Found, ROUTES, Route, find};
use shop_tests::client::{Answer, Ask};
use tokio::time::timeout;

/// How long an answer may take before the request is repeated; nobody else repeats it here.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// One connection, and what the subjects of its requests begin with.
#[derive(Debug)]
pub(crate) struct Direct {
    nats: Client,
    prefix: String,
}

impl Direct {
    pub(crate) fn new(nats: Client, prefix: String) -> Self {
        Self { nats, prefix }
    }

    /// Asks what would be asked over HTTP, and says what would be answered there.
    pub(crate) async fn exchange(&self, ask: &Ask) -> Result<Answer, String> {
        let (path, query) = ask.path.split_once('?').unwrap_or((&ask.path, ""));
        let Found::Route { number, id } = find(&ask.method, path) else { panic!("{ask} has no route") };
        let route = &ROUTES[number];
        let id = match route.about {
            About::New => ask.body.as_ref().and_then(|body| body["id"].as_str()).unwrap_or_else(|| panic!("{ask}")),
            About::Existing | About::Whole => id,
        };
        let parts = [&*self.prefix, route.kind.as_str(), id, route.verb];
        let subject = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
        let start = Instant::now();
        let request = self.nats.request_with_headers(subject, headers(ask), arguments(ask, query).into());
        let answer = timeout(ANSWER_LIMIT, request).await;
        let answer = answer.map_err(|_| format!("no answer over NATS within {ANSWER_LIMIT:?}"))?;
        Ok(read(&answer.map_err(|error| error.to_string())?, route, start.elapsed()))
    }

    /// Says something on any subject, and waits for nothing: of what is not its own the server lets nobody hear.
    pub(crate) async fn say(&self, subject: String, key: &str, body: &Value) {
        let headers =
            [("Idempotency-Key", key)].into_iter().map(|(name, value)| (name.parse().expect("a name"), value.into()));
        // What cannot even be sent does no harm.
        let _sent = self.nats.publish_with_headers(subject, headers.collect(), body.to_string().into()).await;
    }
}

fn headers(ask: &Ask) -> NatsHeaders {
    let key = ask.key.as_deref().map(|key| ("Idempotency-Key", key));
    let prefer = Some(("Prefer", ask.prefer)).filter(|(_, prefer)| prefer.contains("respond-async"));
    let headers = key.into_iter().chain(prefer);
    headers.map(|(name, value)| (name.parse().expect("it is a name of a header"), value.into())).collect()
}

/// The body; of a list, what the query says, all of it as text.
fn arguments(ask: &Ask, query: &str) -> String {
    if query.is_empty() {
        return ask.body.as_ref().map(Value::to_string).unwrap_or_default();
    }
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let arguments: Map<_, _> = pairs.map(|(name, value)| (name.to_owned(), value.into())).collect();
    Value::Object(arguments).to_string()
}

fn read(message: &Message, route: &Route, took: Duration) -> Answer {
    let header =
        |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str());
    let status = match header("Nats-Service-Error-Code") {
        Some(code) => code.parse().unwrap_or_else(|_| panic!("{code:?} is no status: {message:?}")),
        None if header("Preference-Applied").is_some() => 202,
        None => route.success,
    };
    let mut headers = HeaderMap::new();
    for (over_nats, over_http) in [("Idempotency-Replayed", "idempotency-replayed"), ("Retry-After", "retry-after")] {
        if let Some(value) = header(over_nats) {
            headers.insert(over_http, HeaderValue::from_str(value).expect("it came in a header"));
        }
    }
    Answer { status, headers, bytes: message.payload.clone(), took }
}
