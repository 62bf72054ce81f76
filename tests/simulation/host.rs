//! One production host in simulation, between its start and its end.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures::{FutureExt, future::OptionFuture};
use shop_actors::{
    host::snapshotter::{Keeper, Schedule},
    kind_host::{KindError, KindHost, View, caught_up},
    partition::role::{Role, RoleWatch},
    store::{Store, memory::MemoryStore},
};
use shop_domain::{entity::Reply, kind::Kind};
use shop_nats::{
    hosts::membership::HostState,
    log::{Identity, Log, Logs},
    memory::MemoryLog,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    chaos::Keep,
    hearsay::Member,
    life::{Cellar, Life},
    reads::Reads,
    sim::Event,
    trace::Fault,
    vault::Vault,
};

/// Answers that wait for whoever takes them.
const REPLIES: usize = 64;
/// How long a host may take to say that it does not start.
const START: Duration = Duration::from_secs(10);

/// A host of one kind.
pub(crate) struct Host {
    pub(crate) kind: Kind,
    /// Of the layout under which it began, and into how many partitions its kind is cut there.
    pub(crate) generation: u32,
    pub(crate) partitions: u16,
    /// When it looks which layout is in force.
    pub(crate) looks_at: Option<Instant>,
    pub(crate) life: Arc<Life>,
    pub(crate) cellar: Cellar,
    pub(crate) view: watch::Receiver<Arc<View>>,
    /// Itself among the others; none if it believes that it is the only one.
    pub(crate) member: Option<Member>,
    pub(crate) reads: Reads,
    /// Resolved when it has caught up with the log.
    catching_up: JoinHandle<()>,
    /// When it stops that has told the others that it will.
    leaves_at: Option<Instant>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What there is around a host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// How many standbys a partition is to have; none if the host believes that it is the only one.
    pub(crate) standbys: Option<usize>,
    /// How often it writes snapshots, if there are any.
    pub(crate) schedule: Option<Schedule>,
}

/// Whose turn it is to send, and which partitions are held, on a host that knows of no others.
fn alone(identity: &Identity) -> (Vec<RoleWatch>, watch::Receiver<BTreeSet<u16>>) {
    let all = 0..identity.partitions;
    (all.clone().map(|_| RoleWatch::alone()).collect(), watch::channel(all.collect()).1)
}

impl Host {
    /// Starts a host that finds these checkpoints.
    pub(crate) fn start(life: Arc<Life>, log: &MemoryLog, store: MemoryStore, setting: Setting) -> Self {
        let kind = life.kind;
        let decided = log.layouts().conform().now_or_never().and_then(Result::ok);
        let decided = decided.expect("the logs in memory answer at once");
        let (generation, former) = (decided.generation(), decided.former(kind).to_vec());
        let log = &log.of_generation(generation);
        let identity = identities(log)[&kind];
        store.forget(&former);
        let cellar = Cellar::new(Arc::clone(&life), store);
        let (view, seen) = watch::channel(Arc::new(View::default()));
        let (replies, given) = mpsc::channel(REPLIES);
        tokio::spawn(Arc::clone(&life).answer(given));
        let (member, (roles, held)) = match setting.standbys {
            None => (None, alone(&identity)),
            Some(standbys) => {
                let (member, roles, held) = Member::join(&life, &identity, standbys);
                (Some(member), (roles, held))
            }
        };
        let reads = Reads::new(&life, log, &identity, generation, &seen);
        let (log, logs, stop) = (log.under(life.clone()), log.clone(), CancellationToken::new());
        let (lives, store, stopped) = (Arc::clone(&life), Arc::new(cellar.clone()), stop.clone());
        let mut host = production(kind, log.clone(), store, replies, view, (roles, held));
        host.snapshots = setting.schedule.map(|_| Vault::snapshots(&life));
        let keeper = host.snapshots.clone().zip(setting.schedule);
        let keeper = keeper.map(|(vault, schedule)| {
            Keeper::new(kind, identity, Arc::new(log), (vault, schedule), seen.clone()).forgetting(&former)
        });
        let task = tokio::spawn(async move {
            let stop_keeping = CancellationToken::new();
            let keep = |keeper: Keeper| AbortOnDropHandle::new(tokio::spawn(keeper.run(stop_keeping.clone())));
            let keeping = keeper.map(keep);
            let outcome = host.run(stopped).await;
            lives.world().exchange.leave(lives.number);
            stop_keeping.cancel();
            if let Some(Err(panic)) = OptionFuture::from(keeping).await {
                lives.observer().report(format!("snapshots of {kind} could not be written: {panic}"));
            }
            lives.ended(outcome, logs.generation() != generation);
        });
        let catching_up = tokio::spawn(caught_up(seen.clone(), 0));
        let (partitions, looks_at, leaves_at) = (identity.partitions, None, None);
        Self {
            kind,
            generation,
            partitions,
            looks_at,
            life,
            cellar,
            view: seen,
            member,
            reads,
            catching_up,
            leaves_at,
            stop,
            task,
        }
    }

    /// Kills it.
    pub(crate) fn kill(&self) {
        self.life.end(Keep::Latest);
        self.catching_up.abort();
        self.reads.end();
        self.task.abort();
    }

    /// Looks which layout is in force.
    pub(crate) fn look(&mut self, log: &MemoryLog) {
        self.looks_at = None;
        let (life, layouts) = (Arc::clone(&self.life), log.under(self.life.clone()).layouts());
        tokio::spawn(async move {
            match layouts.conform().await {
                Ok(decided) => {
                    let looked = Event::Looked(life.number, decided.generation());
                    let _the_run_is_over = life.world().events.send(looked);
                }
                Err(error) => life.observer().report(format!("who looks how the logs are cut is told: {error}")),
            }
        });
    }

    /// Ends, to begin anew under the layout in force.
    pub(crate) fn begin_anew(&self) {
        self.stop.cancel();
    }

    /// Asks it to stop: at once, or when the others have had some time to take over.
    pub(crate) fn stop(&mut self, after: Duration) {
        let view = self.view.borrow().clone();
        match &mut self.member {
            None => self.stop.cancel(),
            Some(_) if self.leaves_at.is_some() => {}
            Some(member) => {
                member.enter(HostState::Leaving, &view);
                self.leaves_at = Some(Instant::now() + after);
            }
        }
    }

    /// Lets it go on to the state that it is in by now.
    pub(crate) fn go_on(&mut self) {
        let view = self.view.borrow().clone();
        let Some(member) = &mut self.member else { return };
        match member.announcement().state {
            HostState::Joining if self.catching_up.is_finished() => member.enter(HostState::Ready, &view),
            HostState::Leaving if self.leaves_at.is_some_and(|at| at <= Instant::now()) => {
                if !self.stop.is_cancelled() && is_holding(&view) {
                    self.life.count(Fault::StopHolding);
                }
                self.stop.cancel();
            }
            HostState::Joining | HostState::Ready | HostState::Leaving => {}
        }
    }

    /// When it has something to do.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        if let Some(at) = self.life.thaws_at() {
            return Some(at);
        }
        let beat = self.member.as_ref().map(Member::next_beat);
        let leaves_at = self.leaves_at.filter(|_| !self.stop.is_cancelled());
        beat.into_iter().chain(leaves_at).chain(self.looks_at).min()
    }

    /// Whether it can own partitions.
    pub(crate) fn is_ready(&self) -> bool {
        match &self.member {
            None => self.catching_up.is_finished(),
            Some(member) => member.announcement().state == HostState::Ready,
        }
    }

    /// Whether it owns a partition that it runs.
    pub(crate) fn owns(&self, partition: u16) -> bool {
        let view = self.view.borrow();
        view.partitions.get(&partition).is_some_and(|partition| partition.handle.role.now() == Role::Owner)
    }

    /// What is not done yet when it is killed now.
    pub(crate) fn leaves(&self, log: &MemoryLog) -> BTreeSet<Fault> {
        let mut windows = BTreeSet::new();
        let view = self.view.borrow();
        for partition in view.partitions.values() {
            let handle = &partition.handle;
            let cursor = handle.overlay.cursor();
            let (settled, saved) = (*handle.settled.borrow(), *handle.saved.borrow());
            let last = last(log, self.kind, handle.number);
            windows.extend((last > cursor).then_some(Fault::CrashUnread));
            windows.extend((cursor > settled).then_some(Fault::CrashUnsettled));
            windows.extend((settled > saved).then_some(Fault::CrashUnsaved));
            windows.extend((saved == last && last > 0).then_some(Fault::CrashSaved));
        }
        if self.member.is_some() {
            let is_owner = view.partitions.keys().any(|number| self.owns(*number));
            windows.insert(if is_owner { Fault::CrashOfOwner } else { Fault::CrashOfStandby });
            windows.extend(is_holding(&view).then_some(Fault::CrashHolding));
        }
        windows
    }

    /// What it is about.
    pub(crate) fn describe(&self, log: &MemoryLog) -> String {
        let view = self.view.borrow();
        let held: Option<BTreeSet<u16>> = self.member.as_ref().map(Member::held);
        let settled = |number| view.partitions.get(number).map(|one| *one.handle.settled.borrow());
        let partitions: Vec<_> =
            view.partitions.keys().map(|number| (number, settled(number), last(log, self.kind, *number))).collect();
        let (kind, generation, is_ready) = (self.kind, self.generation, self.is_ready());
        let (is_frozen, looks_at) = (self.life.thaws_at().is_some(), self.looks_at.is_some());
        format!(
            "a host of {kind} under layout {generation}: ready {is_ready}, frozen {is_frozen}, looks {looks_at}, to hold \
             {held:?}, settled of last {partitions:?}"
        )
    }

    /// Whether it runs all partitions that it is to hold, and has settled all that their logs hold.
    pub(crate) fn is_settled(&self, log: &MemoryLog) -> bool {
        let view = self.view.borrow();
        let settled = |number, at: u64| at >= last(log, self.kind, number);
        let partitions = identities(log)[&self.kind].partitions;
        let held = self.member.as_ref().map_or_else(|| (0..partitions).collect(), Member::held);
        self.generation == log.generation()
            && self.life.thaws_at().is_none()
            && view.parked.is_empty()
            && view.partitions.keys().copied().eq(held)
            && view.partitions.values().all(|one| settled(one.handle.number, *one.handle.settled.borrow()))
    }
}

/// Whether one of the partitions is a standby that has not let go of all that it has applied.
fn is_holding(view: &View) -> bool {
    view.partitions.values().any(|one| one.handle.role.now() == Role::Standby && one.handle.kept.load(Relaxed) > 0)
}

/// Runs a host from these checkpoints for a while; returns why it did not go on, if it did not.
pub(crate) async fn attempt(kind: Kind, log: &MemoryLog, store: MemoryStore) -> Option<KindError> {
    let ((view, _), (replies, _)) = (watch::channel(Arc::new(View::default())), mpsc::channel(REPLIES));
    let alone = alone(&identities(log)[&kind]);
    let host = production(kind, log.clone(), Arc::new(store), replies, view, alone);
    timeout(START, host.run(CancellationToken::new())).await.ok().and_then(Result::err)
}

fn production(
    kind: Kind,
    log: MemoryLog,
    store: Arc<dyn Store>,
    replies: mpsc::Sender<Reply>,
    view: watch::Sender<Arc<View>>,
    (roles, held): (Vec<RoleWatch>, watch::Receiver<BTreeSet<u16>>),
) -> KindHost {
    let logs = identities(&log);
    let identity = logs[&kind];
    KindHost {
        kind,
        identity,
        logs,
        log: Arc::new(log),
        store,
        snapshots: None,
        replies,
        view,
        roles,
        held,
        admissions: None,
    }
}

fn identities(log: &MemoryLog) -> Logs {
    let identity = |kind| log.identity(kind).now_or_never().and_then(Result::ok);
    Kind::ALL.map(|kind| (kind, identity(kind).expect("the log in memory answers at once"))).into()
}

/// The sequence of a partition's last record.
fn last(log: &MemoryLog, kind: Kind, partition: u16) -> u64 {
    log.records(kind).iter().rfind(|record| record.partition == partition).map_or(0, |record| record.sequence)
}
