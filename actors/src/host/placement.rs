//! The hosts of one kind, and which of them owns and which of them holds which partition.
//!
//! Every host works that out by itself from what it hears. Two may disagree for a while: then both
//! send the same, and what comes second falls away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, future::pending, stream::FuturesUnordered};
use shop_domain::kind::Kind;
use shop_nats::{
    connection::Connection,
    hosts::membership::{Announcement, HostState, Membership},
    rpc::service::ListenError,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;
use twox_hash::XxHash3_64;

use crate::{
    kind_host::{View, readiness::Ready},
    partition::role::{Decision, Role},
};

/// How often a host says that it is there, and sees who else is.
const BEAT: Duration = Duration::from_millis(250);
/// A host that was not heard of for so long does not count any more: some beats, so that a busy
/// machine is not taken for a dead one.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// Whoever has not heard itself for so long, two beats, may hear nothing at all, and does not judge others.
const DEAFNESS: Duration = BEAT.saturating_mul(2);
/// How often an owner says how far it is while it works: reads of a standby wait for it.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(5);
/// Most hosts of a kind beside this one: far more than a kind needs.
const OTHERS_MAX: usize = 256;
/// How long a host that joins others listens to what they say, before it takes something up.
const INTRODUCTION: Duration = Duration::from_millis(100);

/// What is known of the hosts of a kind.
#[derive(Debug)]
pub struct Placement {
    kind: Kind,
    /// What this host says of itself.
    pub me: Announcement,
    /// Hosts that hold a partition beside its owner.
    standbys: usize,
    others: BTreeMap<String, Other>,
    /// When the owner of each partition was heard of last.
    owners: BTreeMap<u16, Instant>,
}

/// What is known of another host. Forgotten as a whole: what it said of itself has no weight without it.
#[derive(Debug)]
struct Other {
    state: HostState,
    /// When it was heard of last.
    heard: Instant,
    /// The sequence up to which it has settled each partition, as it says.
    settled: BTreeMap<u16, u64>,
    /// The newest receipt that it says that it has read of each partition.
    receipts: BTreeMap<u16, u64>,
}

/// What a host of a kind is to be told.
#[derive(Debug)]
pub struct Here {
    /// What it calls itself.
    pub host: String,
    /// Which kind.
    pub kind: Kind,
    /// The epoch of its log.
    pub epoch: u64,
    /// Whether this host has caught up.
    pub ready: watch::Receiver<Ready>,
    /// Where it is counted how often the others have not heard of it for too long.
    pub absences: watch::Sender<u64>,
    /// What its partitions do.
    pub view: watch::Receiver<Arc<View>>,
    /// Hosts that hold a partition beside its owner, if there are so many.
    pub standbys: usize,
    /// Where it is decided what it is to each partition.
    pub decisions: Vec<Decision>,
    /// Where it is decided which partitions it holds.
    pub held: watch::Sender<BTreeSet<u16>>,
}

impl Here {
    /// Joins the others, and decides on until `stop` and then until the host is gone.
    pub async fn join(
        self,
        connection: Connection,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = ()> + Send + 'static, ListenError> {
        let mut members = Placement::new(self.kind, self.host.clone(), self.epoch, self.standbys);
        let (mut membership, first) = connection.join(self.kind, &members.me).await?;
        if let Some(first) = first {
            members.hear(&first, &self.decisions);
            let until = Instant::now() + INTRODUCTION;
            while let Ok(Some(heard)) = timeout_at(until, membership.next()).await {
                members.hear(&heard, &self.decisions);
            }
        }
        members.decide(&self.decisions, &self.held);
        Ok(self.run(members, membership, connection, stop))
    }

    async fn run(
        mut self,
        mut members: Placement,
        mut membership: Membership,
        connection: Connection,
        stop: CancellationToken,
    ) {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probes = JoinSet::new();
        let mut next_progress = Instant::now();
        let mut echo = Echo(Instant::now());
        loop {
            let mut is_myself = false;
            let is_leaving = members.me.state == HostState::Leaving;
            let has_changed = tokio::select! {
                heard = membership.next() => match heard {
                    Some(heard) => {
                        is_myself = heard.host == members.me.host;
                        members.hear(&heard, &self.decisions)
                    }
                    None => return,
                },
                _ = beat.tick() => {
                    if echo.is_recent() {
                        members.forget_silent(&self.decisions);
                    }
                    for other in members.others().cloned() {
                        let (connection, kind) = (connection.clone(), self.kind);
                        probes.spawn(async move { (connection.is_host_gone(kind, &other).await, other) });
                    }
                    true
                }
                Some(Ok((true, gone))) = probes.join_next() => members.forget(&gone, &self.decisions),
                Ok(()) = self.ready.changed(), if !is_leaving => true,
                () = stop.cancelled(), if !is_leaving => true,
                () = progress(&mut self.view, &members.me.settled, next_progress), if !members.others.is_empty() => {
                    next_progress = Instant::now() + PROGRESS_INTERVAL;
                    true
                }
            };
            // Before anything is said: whoever was frozen or cut off does not own what it owned before.
            if echo.was_missing() {
                self.absences.send_modify(|absences| *absences += 1);
                members.was_away();
            }
            if is_myself {
                echo = Echo(Instant::now());
            }
            let before = members.me.state;
            let is_ready = *self.ready.borrow() == Some(*self.absences.borrow());
            members.me.state = match (stop.is_cancelled(), is_ready) {
                (true, _) => HostState::Leaving,
                (false, true) => HostState::Ready,
                (false, false) => HostState::Joining,
            };
            let taken_over = members.decide(&self.decisions, &self.held);
            taken_over.into_iter().for_each(|silent_for| self.view.borrow().counts.hand_over(silent_for));
            // Also when something else woke it at the very moment at which it was stopped.
            if has_changed || members.me.state != before {
                (members.me.settled, members.me.receipts) = progress_of(&self.view.borrow(), &self.decisions);
                membership.announce(&members.me).await;
            }
        }
    }
}

/// When a host has heard of itself last: as long as it hears nothing of itself, neither do the others.
#[derive(Debug)]
struct Echo(Instant);

impl Echo {
    fn is_recent(&self) -> bool {
        self.0.elapsed() < DEAFNESS
    }

    /// Whether it was missing for so long that the others do not count this host any more. Tells it once, and again
    /// when it is missing for as long once more.
    fn was_missing(&mut self) -> bool {
        let was_missing = self.0.elapsed() > SILENCE_MAX;
        if was_missing {
            *self = Self(Instant::now());
        }
        was_missing
    }
}

impl Placement {
    /// What a host knows that joins under a name that nobody else has.
    pub fn new(kind: Kind, host: String, epoch: u64, standbys: usize) -> Self {
        let (settled, receipts) = Default::default();
        let me = Announcement { host, epoch, state: HostState::Joining, settled, receipts };
        Self { kind, me, standbys, others: BTreeMap::new(), owners: BTreeMap::new() }
    }

    /// Takes in what was announced; whether that was by a host that was not known.
    pub fn hear(&mut self, heard: &Announcement, decisions: &[Decision]) -> bool {
        if heard.host == self.me.host || heard.epoch != self.me.epoch {
            return false;
        }
        let is_new = !self.others.contains_key(&heard.host);
        // Each is asked now and then whether it is still there, also one that was made up.
        if is_new && self.others.len() >= OTHERS_MAX {
            tracing::warn!("more than {OTHERS_MAX} hosts of {} say that they are there; not counted", self.kind);
            return false;
        }
        let other = self.others.entry(heard.host.clone()).or_insert_with(|| Other {
            state: heard.state,
            heard: Instant::now(),
            settled: BTreeMap::new(),
            receipts: BTreeMap::new(),
        });
        (other.state, other.heard) = (heard.state, Instant::now());
        let is_partition = |(number, _): &(&u16, &u64)| usize::from(**number) < decisions.len();
        for (number, settled) in heard.settled.iter().filter(is_partition) {
            self.owners.insert(*number, Instant::now());
            let known = other.settled.entry(*number).or_default();
            *known = (*known).max(*settled);
        }
        other.receipts = heard.receipts.iter().filter(is_partition).map(|(number, at)| (*number, *at)).collect();
        self.pass_on(decisions);
        is_new
    }

    /// Tells the partitions how far others say that they are.
    fn pass_on(&self, decisions: &[Decision]) {
        for (number, decision) in (0..).zip(decisions) {
            let furthest = |said: fn(&Other) -> &BTreeMap<u16, u64>| {
                self.others.values().filter_map(|other| said(other).get(&number)).copied().max().unwrap_or(0)
            };
            set(&decision.settled, furthest(|other| &other.settled));
            set(&decision.receipt, furthest(|other| &other.receipts));
        }
    }

    /// The names of the other hosts.
    pub fn others(&self) -> impl Iterator<Item = &String> {
        self.others.keys()
    }

    /// Does not count a host any more that is gone; whether it was known.
    pub fn forget(&mut self, host: &str, decisions: &[Decision]) -> bool {
        let was_there = self.others.remove(host).is_some();
        if was_there {
            tracing::warn!("a host of {} is gone: {host}", self.kind);
            self.pass_on(decisions);
        }
        was_there
    }

    /// Takes in that this host was not there for a while: that it has not heard of the others says nothing of them.
    pub fn was_away(&mut self) {
        self.others.values_mut().for_each(|other| other.heard = Instant::now());
    }

    /// Does not count those any more that were not heard of for too long.
    pub fn forget_silent(&mut self, decisions: &[Decision]) {
        let silent = self.others.iter().filter(|(_, other)| other.heard.elapsed() > SILENCE_MAX);
        for host in silent.map(|(host, _)| host.clone()).collect::<Vec<_>>() {
            self.forget(&host, decisions);
        }
    }

    /// Decides what this host is to each partition, and which ones it holds. Returns how long nothing was heard of
    /// the owners of those that it takes over.
    pub fn decide(&self, decisions: &[Decision], held: &watch::Sender<BTreeSet<u16>>) -> Vec<Duration> {
        let mut taken_over = Vec::new();
        for (partition, decision) in (0..).zip(decisions) {
            set(&decision.is_followed, !self.others.is_empty());
            let role = self.role(partition);
            if set(&decision.role, role) && role == Role::Owner {
                taken_over.extend(self.owners.get(&partition).map(Instant::elapsed));
            }
        }
        // Who leaves keeps what it has, for those who still ask.
        if self.me.state != HostState::Leaving {
            let partitions = (0..).zip(decisions).map(|(partition, _)| partition);
            let to_hold: BTreeSet<u16> =
                partitions.filter(|partition| self.rank(*partition) <= self.standbys).collect();
            set(held, to_hold);
        }
        taken_over
    }

    /// What this host is to a partition: while none is ready, all that are there work.
    fn role(&self, partition: u16) -> Role {
        let is_anybody_ready = self.ready().next().is_some() || self.me.state == HostState::Ready;
        let is_first = self.me.state == HostState::Ready && self.rank(partition) == 0;
        if is_first || !is_anybody_ready { Role::Owner } else { Role::Standby }
    }

    /// How many of the ready hosts come before this one for a partition, or would if it were ready. They come by
    /// their hash for it (rendezvous hashing: Thaler and Ravishankar, 1998), so that no more partitions move
    /// than have to. The first one owns it, and those after it are its standbys: when it goes, the second
    /// one has all that is needed.
    fn rank(&self, partition: u16) -> usize {
        let mine = self.score(&self.me.host, partition);
        self.ready().filter(|host| self.score(host, partition) > mine).count()
    }

    fn ready(&self) -> impl Iterator<Item = &String> {
        self.others.iter().filter(|(_, other)| other.state == HostState::Ready).map(|(host, _)| host)
    }

    fn score(&self, host: &str, partition: u16) -> u64 {
        XxHash3_64::oneshot(format!("{host}/{}/{partition}", self.kind).as_bytes())
    }
}

/// Sets what others look at; whether it was something else before.
fn set<T: PartialEq>(shown: &watch::Sender<T>, now: T) -> bool {
    shown.send_if_modified(|before| {
        let is_other = *before != now;
        *before = now;
        is_other
    })
}

/// How far the partitions are that this host owns, as far as it knows of itself and from the log, and the newest
/// receipt of each.
pub fn progress_of(view: &View, decisions: &[Decision]) -> (BTreeMap<u16, u64>, BTreeMap<u16, u64>) {
    let is_owned = |partition: u16| {
        decisions.get(usize::from(partition)).is_some_and(|decision| *decision.role.borrow() == Role::Owner)
    };
    let owned = view.partitions.iter().filter(|(partition, _)| is_owned(**partition));
    owned.map(|(number, one)| ((*number, *one.handle.proven.borrow()), (*number, *one.handle.receipt.borrow()))).unzip()
}

/// Waits until a partition has settled more than was announced of it, at least until `earliest`.
async fn progress(view: &mut watch::Receiver<Arc<View>>, announced: &BTreeMap<u16, u64>, earliest: Instant) {
    sleep_until(earliest).await;
    let mut owned: Vec<_> = {
        let view = view.borrow_and_update();
        let proven = |(partition, announced)| Some((view.partitions.get(partition)?.handle.proven.clone(), announced));
        announced.iter().filter_map(proven).collect()
    };
    let further =
        owned.iter_mut().map(async |(proven, announced)| proven.wait_for(|now| now > *announced).await.is_ok());
    let mut further: FuturesUnordered<_> = further.collect();
    tokio::select! {
        Some(true) = further.next() => {}
        // All partitions start anew.
        Ok(()) = view.changed() => {}
        // None will any more.
        else => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTITIONS: u16 = 64;

    fn announcement(host: &str, state: HostState) -> Announcement {
        let (settled, receipts) = Default::default();
        Announcement { host: host.to_owned(), epoch: 1, state, settled, receipts }
    }

    fn members(me: &str, others: &[&str]) -> Placement {
        let me = announcement(me, HostState::Ready);
        let mut members =
            Placement { kind: Kind::Wallet, me, standbys: 1, others: BTreeMap::new(), owners: BTreeMap::new() };
        for other in others {
            assert!(members.hear(&announcement(other, HostState::Ready), &[]));
        }
        members
    }

    fn owned(members: &Placement) -> Vec<u16> {
        (0..PARTITIONS).filter(|partition| members.role(*partition) == Role::Owner).collect()
    }

    fn held(members: &Placement) -> BTreeSet<u16> {
        let (decisions, _turns): (Vec<_>, Vec<_>) =
            (0..PARTITIONS).map(|_| crate::partition::role::RoleWatch::new()).unzip();
        let (held, _) = watch::channel(BTreeSet::new());
        members.decide(&decisions, &held);
        held.borrow().clone()
    }

    #[test]
    fn each_partition_is_held_by_its_owner_and_by_whoever_would_own_it_next() {
        let hosts = ["a", "b", "c", "d"];
        let others = |me: &str| hosts.into_iter().filter(|host| *host != me).collect::<Vec<_>>();
        let all = hosts.map(|me| members(me, &others(me)));
        for partition in 0..PARTITIONS {
            assert_eq!(all.iter().filter(|members| held(members).contains(&partition)).count(), 2);
        }
        for mut members in all {
            assert!(owned(&members).iter().all(|partition| held(&members).contains(partition)));
            let before = held(&members);
            for gone in others(&members.me.host.clone()) {
                let (kept, _) = (members.others.remove(gone), ());
                assert!(owned(&members).iter().all(|partition| before.contains(partition)), "when {gone} is gone");
                members.others.insert(gone.to_owned(), kept.unwrap());
            }
        }
    }

    #[test]
    fn a_host_that_joins_takes_up_what_it_will_hold_and_one_that_leaves_keeps_what_it_has() {
        let mut members = members("a", &["b", "c"]);
        let when_ready = held(&members);
        members.me.state = HostState::Joining;
        assert_eq!((held(&members), owned(&members).len()), (when_ready, 0));
        members.me.state = HostState::Leaving;
        assert_eq!((held(&members).len(), owned(&members).len()), (0, 0), "nothing is decided any more");
    }

    #[test]
    fn every_partition_has_one_owner_and_each_host_its_share() {
        let shares = [members("a", &["b", "c"]), members("b", &["c", "a"]), members("c", &["a", "b"])];
        let shares = shares.map(|members| owned(&members));
        assert!(shares.iter().all(|share| share.len() > usize::from(PARTITIONS) / 6), "{shares:?}");
        let mut all = shares.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..PARTITIONS));
    }

    #[test]
    fn what_a_host_owned_goes_to_the_others_when_it_leaves_and_nothing_else_moves() {
        let (mut a, mut b) = (members("a", &["b", "c"]), members("b", &["a", "c"]));
        let (a_before, b_before) = (owned(&a), owned(&b));
        for members in [&mut a, &mut b] {
            assert!(!members.hear(&announcement("c", HostState::Leaving), &[]), "c was known");
        }
        let (a_after, b_after) = (owned(&a), owned(&b));
        assert_eq!(a_after.len() + b_after.len(), usize::from(PARTITIONS));
        assert!(a_before.iter().all(|partition| a_after.contains(partition)));
        assert!(b_before.iter().all(|partition| b_after.contains(partition)));
    }

    #[test]
    fn while_nobody_is_ready_everybody_works() {
        let mut members = members("a", &[]);
        members.me.state = HostState::Joining;
        members.hear(&announcement("b", HostState::Joining), &[]);
        assert_eq!(owned(&members).len(), usize::from(PARTITIONS));
        members.hear(&announcement("b", HostState::Ready), &[]);
        assert!(owned(&members).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_was_not_heard_of_for_a_while_does_not_count() {
        let mut members = members("a", &["b"]);
        tokio::time::advance(SILENCE_MAX).await;
        members.forget_silent(&[]);
        assert_ne!(owned(&members).len(), usize::from(PARTITIONS));
        tokio::time::advance(BEAT).await;
        members.forget_silent(&[]);
        assert_eq!(owned(&members).len(), usize::from(PARTITIONS));
    }

    #[test]
    fn hosts_that_are_made_up_without_end_are_not_counted_without_end() {
        let mut members = members("a", &[]);
        for number in 0..2 * OTHERS_MAX {
            members.hear(&announcement(&format!("ghost{number}"), HostState::Ready), &[]);
        }
        assert_eq!(members.others().count(), OTHERS_MAX);
        assert!(!members.hear(&announcement("ghost0", HostState::Leaving), &[]), "it was known");
        assert!(members.forget("ghost0", &[]));
        assert!(members.hear(&announcement("b", HostState::Ready), &[]));
    }

    #[test]
    fn a_host_of_another_epoch_is_not_listened_to() {
        let (decision, role) = crate::partition::role::RoleWatch::new();
        let mut members = members("a", &[]);
        let settled = BTreeMap::from([(0, 9)]);
        let other = Announcement { epoch: 2, settled, ..announcement("b", HostState::Ready) };
        assert!(!members.hear(&other, std::slice::from_ref(&decision)));
        assert_eq!((owned(&members).len(), *decision.settled.borrow()), (usize::from(PARTITIONS), 0));
        assert!(members.hear(&Announcement { epoch: 1, ..other }, std::slice::from_ref(&decision)));
        assert_eq!((role.now(), *decision.settled.borrow()), (Role::Owner, 9));
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_partition_over_knows_how_long_its_owner_was_silent() {
        let (decisions, _turns): (Vec<_>, Vec<_>) = (0..1).map(|_| crate::partition::role::RoleWatch::new()).unzip();
        let (held, _) = watch::channel(BTreeSet::new());
        let mut members = members("a", &[]);
        members.me.state = HostState::Joining;
        let settled = BTreeMap::from([(0, 9)]);
        members.hear(&Announcement { settled, ..announcement("b", HostState::Ready) }, &decisions);
        assert!(members.decide(&decisions, &held).is_empty());
        members.me.state = HostState::Ready;
        tokio::time::advance(BEAT).await;
        members.forget("b", &decisions);
        assert_eq!(members.decide(&decisions, &held), [BEAT]);
        assert!(members.decide(&decisions, &held).is_empty());
    }

    #[test]
    fn an_owner_is_never_taken_to_be_behind_what_it_said() {
        let (decision, _turn) = crate::partition::role::RoleWatch::new();
        let decisions = [decision];
        let mut members = members("a", &["b"]);
        for settled in [9, 4] {
            let settled = BTreeMap::from([(0, settled), (7, 1)]);
            members.hear(&Announcement { settled, ..announcement("b", HostState::Ready) }, &decisions);
        }
        assert_eq!(*decisions[0].settled.borrow(), 9);
    }

    #[test]
    fn what_a_host_said_has_no_weight_when_it_is_gone() {
        let (decision, role) = crate::partition::role::RoleWatch::new();
        let (decisions, held) = ([decision], watch::channel(BTreeSet::new()).0);
        let mut members = members("a", &["b"]);
        let says = |host: &str, at: u64| Announcement {
            settled: [(0, at)].into(),
            receipts: [(0, at)].into(),
            ..announcement(host, HostState::Ready)
        };
        members.hear(&says("b", 7), &decisions);
        members.hear(&says("ghost", 1 << 63), &decisions);
        members.decide(&decisions, &held);
        let known = || (*decisions[0].settled.borrow(), *decisions[0].receipt.borrow());
        assert_eq!((known(), *decisions[0].is_followed.borrow()), ((1 << 63, 1 << 63), true));
        members.forget("ghost", &decisions);
        assert_eq!(known(), (7, 7));
        members.forget("b", &decisions);
        members.decide(&decisions, &held);
        assert_eq!((known(), *decisions[0].is_followed.borrow(), role.now()), ((0, 0), false, Role::Owner));
    }
}
