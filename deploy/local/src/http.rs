//! A small HTTP client with JSON bodies, for the demo, for waiting until the shop is ready, and
//! for tests.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::timeout;

/// How long an answer may take: the longest wait that a caller can ask for is 30 seconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(35);

/// A client for one server. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Http {
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    authorization: Option<HeaderValue>,
}

/// What the server answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The JSON body; `null` when there is none or it is not JSON.
    pub body: Value,
    /// From the request to the last byte of the answer.
    pub took: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("{method} {path} failed: {reason}")]
pub struct HttpError {
    method: Method,
    path: String,
    reason: String,
}

impl Http {
    /// A client for the server at `address`; connects when it is first used.
    pub fn new(address: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        // Head and body leave as two writes; without this the second waits 40 ms for an
        // acknowledgement of the first.
        connector.set_nodelay(true);
        Self { address, client: Client::builder(TokioExecutor::new()).build(connector), authorization: None }
    }

    /// The same, for a server that asks who it is: it says so in `Authorization`.
    #[must_use]
    pub fn authorized(self, authorization: Option<HeaderValue>) -> Self {
        Self { authorization, ..self }
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> Result<Answer, HttpError> {
        self.send(Method::GET, path, None).await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Answer, HttpError> {
        self.send(Method::POST, path, Some(body)).await
    }

    /// A request that may be repeated under this key. `path` begins with `/`.
    pub async fn send_with_key(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        key: &str,
    ) -> Result<Answer, HttpError> {
        self.exchange(method, path, Some(body), Some(key)).await
    }

    /// Any request. `path` begins with `/`.
    pub async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, HttpError> {
        self.exchange(method, path, body, None).await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Answer, HttpError> {
        let failed = |reason: String| HttpError { method: method.clone(), path: path.to_owned(), reason };
        let mut request = Request::builder().method(method.clone()).uri(format!("http://{}{path}", self.address));
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.body(Full::new(bytes)).map_err(|error| failed(error.to_string()))?;

        let start = Instant::now();
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| failed(explain(&error)))?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| failed(explain(&error)))?.to_bytes();
            Ok(Answer { status, body: serde_json::from_slice(&body).unwrap_or_default(), took: start.elapsed() })
        };
        timeout(ANSWER_LIMIT, exchange).await.map_err(|_| failed(format!("no answer within {ANSWER_LIMIT:?}")))?
    }
}

/// hyper's errors keep what happened in their sources.
fn explain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
