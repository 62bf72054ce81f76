//! What a bridge says about itself: to everybody whether it serves, to those who run it how, and in numbers what it
//! does. The numbers are in `metrics.rs`.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use futures::future::{self, BoxFuture};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use shop_metrics::{Numbers, Observable};

use crate::gateway::Gateway;

/// What there is to see of a bridge.
#[derive(Default)]
pub struct Observed {
    gateway: OnceLock<Arc<Gateway>>,
}

impl Observed {
    /// A bridge that has not begun.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Whether it can serve, and how every kind is.
    pub async fn readiness(&self) -> (bool, Value) {
        match self.gateway.get() {
            Some(gateway) => gateway.readiness().await,
            None => (false, json!({ "status": "starting" })),
        }
    }

    /// It has begun.
    pub(crate) fn begins(&self, gateway: &Arc<Gateway>) {
        // A bridge begins once.
        let _is_first = self.gateway.set(Arc::clone(gateway));
    }
}

impl Observable for Observed {
    fn part(&self) -> &'static str {
        "bridge"
    }

    fn ready(&self) -> BoxFuture<'_, (bool, Value)> {
        Box::pin(self.readiness())
    }

    fn numbers(&self) -> BoxFuture<'_, Numbers> {
        let numbers = self.gateway.get().map_or_else(|| Numbers::of(&Registry::default()), |gateway| gateway.numbers());
        Box::pin(future::ready(numbers))
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("has_begun", &self.gateway.get().is_some()).finish()
    }
}
