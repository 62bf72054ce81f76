//! A spectator of all partitions of one kind, which never becomes their owner.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Acquire},
};

use futures::FutureExt;
use shop_domain::kind::Kind;
use shop_nats::log::{Logs, SharedLog};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use crate::{
    kind_host::{KindError, KindHost, PartitionView, View},
    partition::role::{Decision, Role, RoleWatch},
    snapshot::Snapshots,
    store::{SharedPartitionStore, Store, StoreError},
};

/// Follows one kind.
#[derive(Debug)]
pub(super) struct Standby {
    kind: Kind,
    store: Arc<dyn Store>,
    view: watch::Receiver<Arc<View>>,
    running: Option<JoinHandle<Result<(), KindError>>>,
    stop: CancellationToken,
    /// Nothing of it ever changes.
    _decided: (Vec<Decision>, watch::Sender<BTreeSet<u16>>),
}

impl Standby {
    /// Begins with the newest snapshots that there are, and then follows the log.
    pub(super) fn begin(
        kind: Kind,
        log: &SharedLog,
        logs: &Logs,
        store: Arc<dyn Store>,
        snapshots: &Snapshots,
    ) -> Self {
        let identity = logs[&kind];
        let (decisions, roles): (Vec<_>, Vec<_>) = (0..identity.partitions).map(|_| RoleWatch::new()).unzip();
        for Decision { role, .. } in &decisions {
            role.send_replace(Role::Spectator);
        }
        let (hold, held) = watch::channel((0..identity.partitions).collect());
        let (view, seen) = watch::channel(Arc::default());
        // A spectator answers nobody.
        let (replies, _) = mpsc::channel(1);
        let host = KindHost {
            kind,
            log: log.clone(),
            identity,
            logs: logs.clone(),
            store: Arc::clone(&store),
            snapshots: Some(snapshots.clone()),
            replies,
            view,
            roles,
            held,
            admissions: None,
        };
        let stop = CancellationToken::new();
        let running = Some(tokio::spawn(host.run(stop.clone())));
        Self { kind, store, view: seen, running, stop, _decided: (decisions, hold) }
    }

    /// Whether the checkpoints of so many partitions hold all of the log up to there.
    pub(super) fn is_at(&self, last: u64, partitions: u16) -> bool {
        let view = self.view.borrow();
        let is_read = view.dispatched.as_ref().is_some_and(|dispatched| *dispatched.borrow() >= last);
        // What came since is another matter.
        let is_saved = |one: &PartitionView| *one.handle.saved.borrow() >= one.assigned.load(Acquire).min(last);
        is_read && view.partitions.len() == usize::from(partitions) && view.partitions.values().all(is_saved)
    }

    /// Which partition does not go on, and why, if there is one.
    pub(super) fn parked(&self) -> Option<String> {
        let view = self.view.borrow();
        let parked = view.parked.iter().next();
        parked.map(|(partition, parked)| {
            format!("{}/{partition} is parked at sequence {}: {}", self.kind, parked.sequence, parked.reason)
        })
    }

    /// Says why it does not follow any more, if it does not.
    pub(super) fn still_follows(&mut self) -> Result<(), KindError> {
        match self.running.as_mut().and_then(FutureExt::now_or_never) {
            None => Ok(()),
            Some(ended) => {
                self.running = None;
                flatten(self.kind, ended)
            }
        }
    }

    /// Stops following, with a last checkpoint.
    pub(super) async fn stop(&mut self) -> Result<(), KindError> {
        self.stop.cancel();
        match self.running.take() {
            Some(running) => flatten(self.kind, running.await),
            None => Ok(()),
        }
    }

    /// The checkpoint of a partition.
    pub(super) fn partition(&self, partition: u16) -> Result<SharedPartitionStore, StoreError> {
        match self.view.borrow().partitions.get(&partition) {
            Some(one) => Ok(Arc::clone(&one.partition_store)),
            None => self.store.partition(partition),
        }
    }

    /// The checkpoints of so many partitions.
    pub(super) fn partition_stores(&self, partitions: u16) -> Result<Vec<SharedPartitionStore>, StoreError> {
        (0..partitions).map(|partition| self.partition(partition)).collect()
    }
}

/// How it ended; one that is cancelled has no more to say.
fn flatten(kind: Kind, ended: Result<Result<(), KindError>, JoinError>) -> Result<(), KindError> {
    match ended {
        Ok(outcome) => outcome,
        Err(error) if error.is_cancelled() => Ok(()),
        Err(panic) => Err(KindError::Bug(kind, panic)),
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
