//! One production host in simulation, between its start and its end.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use shop_actors::{
    kind_host::{KindError, KindHost, View},
    outbox::Logs,
    store::{Store, memory::MemoryStore},
    turn::Turn,
};
use shop_domain::{entity::Reply, kind::Kind};
use shop_nats::{log::Log, memory::MemoryLog};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    chaos::Keep,
    life::{Cellar, Life},
    trace::Fault,
};

/// Answers that wait for whoever takes them.
const REPLIES: usize = 64;
/// How long a host may take to say that it does not start.
const START: Duration = Duration::from_secs(10);

/// A host of one kind.
pub(crate) struct Host {
    pub(crate) kind: Kind,
    pub(crate) life: Arc<Life>,
    pub(crate) cellar: Cellar,
    pub(crate) view: watch::Receiver<Arc<View>>,
    pub(crate) stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Host {
    /// Starts a host that finds these checkpoints.
    pub(crate) fn start(life: Arc<Life>, log: &MemoryLog, store: MemoryStore) -> Self {
        let kind = life.kind;
        let cellar = Cellar::new(Arc::clone(&life), store);
        let (view, seen) = watch::channel(Arc::new(View::default()));
        let (replies, given) = mpsc::channel(REPLIES);
        tokio::spawn(Arc::clone(&life).answer(given));
        let (log, stop) = (log.under(life.clone()), CancellationToken::new());
        let (lives, store, stopped) = (Arc::clone(&life), Arc::new(cellar.clone()), stop.clone());
        let task = tokio::spawn(async move {
            let host = production(kind, log, store, replies, view).await;
            lives.ended(host.run(stopped).await);
        });
        Self { kind, life, cellar, view: seen, stop, task }
    }

    /// Kills it.
    pub(crate) fn kill(&self) {
        self.life.end(Keep::Latest);
        self.task.abort();
    }

    /// What is not done yet when it is killed now.
    pub(crate) fn leaves(&self, log: &MemoryLog) -> BTreeSet<Fault> {
        let mut windows = BTreeSet::new();
        for partition in self.view.borrow().partitions.values() {
            let handle = &partition.handle;
            let cursor = handle.memory.look(|look| Ok(look.cursor())).expect("memory can be read");
            let (settled, saved) = (*handle.settled.borrow(), *handle.saved.borrow());
            let last = last(log, self.kind, handle.number);
            windows.extend((last > cursor).then_some(Fault::CrashUnread));
            windows.extend((cursor > settled).then_some(Fault::CrashUnsettled));
            windows.extend((settled > saved).then_some(Fault::CrashUnsaved));
            windows.extend((saved == last && last > 0).then_some(Fault::CrashSaved));
        }
        windows
    }

    /// Whether it runs all its partitions and has settled all that their logs hold.
    pub(crate) fn is_settled(&self, log: &MemoryLog, partitions: u16) -> bool {
        let view = self.view.borrow();
        let settled = |number, at: u64| at >= last(log, self.kind, number);
        view.parked.is_empty()
            && view.partitions.len() == usize::from(partitions)
            && view.partitions.values().all(|one| settled(one.handle.number, *one.handle.settled.borrow()))
    }
}

/// Runs a host from these checkpoints for a while; returns why it did not go on, if it did not.
pub(crate) async fn attempt(kind: Kind, log: &MemoryLog, store: MemoryStore) -> Option<KindError> {
    let ((view, _), (replies, _)) = (watch::channel(Arc::new(View::default())), mpsc::channel(REPLIES));
    let host = production(kind, log.clone(), Arc::new(store), replies, view).await;
    timeout(START, host.run(CancellationToken::new())).await.ok().and_then(Result::err)
}

async fn production(
    kind: Kind,
    log: MemoryLog,
    store: Arc<dyn Store>,
    replies: mpsc::Sender<Reply>,
    view: watch::Sender<Arc<View>>,
) -> KindHost {
    let mut logs = Logs::new();
    for kind in Kind::ALL {
        logs.insert(kind, log.identity(kind).await.expect("the log in memory answers"));
    }
    let identity = logs[&kind];
    let turns = vec![Turn::alone(); usize::from(identity.partitions)];
    let held = watch::channel((0..identity.partitions).collect()).1;
    KindHost { kind, identity, logs, log: Arc::new(log), store, snapshots: None, replies, view, turns, held }
}

/// The sequence of a partition's last record.
fn last(log: &MemoryLog, kind: Kind, partition: u16) -> u64 {
    log.records(kind).iter().rfind(|record| record.partition == partition).map_or(0, |record| record.sequence)
}
