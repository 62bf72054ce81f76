//! What others see of the partitions that run here.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};
use shop_domain::kind::Kind;
use tokio::sync::watch;

use crate::{
    counts::SharedCounts,
    partition::{Handle, role::Role},
    snapshot::NewestSnapshot,
    store::SharedPartitionStore,
};

/// What others see of a kind on this host.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Its partitions, by number; a parked one is missing.
    pub partitions: BTreeMap<u16, PartitionView>,
    /// Partitions that are stopped until somebody mends the bug.
    pub parked: BTreeMap<u16, Parked>,
    /// Where the log ended when they were started.
    pub began_at: u64,
    /// The sequence up to which the log was read and handed to the partitions.
    pub dispatched: Option<watch::Receiver<u64>>,
    /// What the kind has done since it started.
    pub counts: SharedCounts,
}

impl View {
    /// Waits until partitions of it have settled all that the log held up to `last`, or have ended before that.
    pub async fn has_settled(&self, partitions: impl IntoIterator<Item = &PartitionView>, last: u64) -> bool {
        let wait = async {
            self.dispatched.clone()?.wait_for(|dispatched| *dispatched >= last).await.ok()?;
            for PartitionView { handle, assigned, .. } in partitions {
                let assigned = assigned.load(Ordering::Acquire);
                handle.settled.clone().wait_for(|settled| *settled >= assigned).await.ok()?;
            }
            Some(())
        };
        wait.await.is_some()
    }

    /// The number of the newest logic version that one of its partitions is at; 0 without partitions.
    pub fn newest_logic(&self) -> u32 {
        self.partitions.values().map(|partition| partition.handle.logic.load(Ordering::Relaxed)).max().unwrap_or(0)
    }

    /// The kind and each of its partitions, in JSON.
    pub fn describe(&self, kind: Kind) -> Value {
        let running = self.partitions.values().map(|PartitionView { handle, .. }| {
            let (settled, saved) = (*handle.settled.borrow(), *handle.saved.borrow());
            let role = match handle.role.now() {
                Role::Owner => "owner",
                Role::Standby => "standby",
                Role::Spectator => "spectator",
            };
            json!({ "partition": handle.number, "role": role, "settled": settled, "checkpoint": saved })
        });
        let parked = self.parked.iter().map(|(number, Parked { sequence, reason })| {
            json!({ "partition": number, "parked_at": sequence, "reason": reason })
        });
        let status = if self.parked.is_empty() { "ready" } else { "parked" };
        json!({ "kind": kind, "status": status, "partitions": running.chain(parked).collect::<Vec<_>>() })
    }
}

/// A partition that is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The sequence at which it stopped.
    pub sequence: u64,
    /// Why.
    pub reason: String,
}

/// What others see of a partition.
#[derive(Clone, Debug)]
pub struct PartitionView {
    /// What it knows and how far it is.
    pub handle: Handle,
    /// The sequence of the last record that was handed to it.
    pub assigned: Arc<AtomicU64>,
    /// Its checkpoint.
    pub partition_store: SharedPartitionStore,
    /// Its newest snapshot, as far as this host knows.
    pub snapshot: Arc<NewestSnapshot>,
}

/// Waits until every partition that runs has settled all that the log held when they were started, and all that is
/// in it up to `end`.
pub async fn caught_up(mut view: watch::Receiver<Arc<View>>, end: u64) {
    loop {
        let now = Arc::clone(&view.borrow_and_update());
        // Of what is held by others nothing is read.
        let is_idle = now.dispatched.is_some() && now.partitions.is_empty();
        if is_idle
            || now.has_settled(now.partitions.values(), now.began_at.max(end)).await
            || view.changed().await.is_err()
        {
            return;
        }
    }
}
