//! The whole shop, seen from outside.

mod backup;
mod bundles;
mod concurrency;
mod contract;
mod entity_tags;
mod errors;
mod examples;
mod first_run;
mod golden;
mod holders;
mod http_hygiene;
mod idempotency;
mod input;
mod metrics;
mod nats_face;
mod operator;
mod orders;
mod processes;
mod promises;
mod readme;
mod reads;
mod repartition;
mod shop;
mod snapshots;
mod story;
mod upgrade;
