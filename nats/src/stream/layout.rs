//! The layout: into how many partitions each kind is cut, and from where on its log is read under that count.
//!
//! It is decided in one place, by one append: the last message of the stream `SHOP_LAYOUT` says which
//! one is in force; while there is none, each log is as it was made. Whoever appends names the message that he
//! has seen last, so that of two who want different things one is refused.
//!
//! The streams of the kinds follow. A layout has a *generation*, which is part of the subjects that
//! its logs are appended to. Giving a stream the next generation's subjects therefore fences
//! it: a host of the generation before, even one that was frozen or cut off and knows of nothing, cannot append any
//! more. A new layout comes into force like this, and until the third step everything may stop at any moment:
//!
//! 1. [`Layouts::fence`]: all streams get the subjects of the next generation. Nobody appends to those yet.
//! 2. [`Layouts::seal`]: each log gets a record that the server takes only if the log still ends where the
//!    new layout lets it begin.
//! 3. [`Layouts::decide`]: the layout is appended to `SHOP_LAYOUT`.
//! 4. [`Layouts::conform`]: the streams say the same. Whoever starts does that as well, in either
//!    direction: if a fenced stream is ahead of what was decided, he first decides once more for what is
//!    in force, so that whoever fenced it comes too late with his third step.
//!
//! A stream is changed by whoever has just seen what is in force. That it still is when the server changes it nobody
//! can promise: no request says "unless anybody has decided". Whoever is frozen right there gives a stream back
//! the subjects of a former generation until somebody else sees to it. What is appended under those meanwhile
//! counts for nothing, whoever reads it (see [`crate::jetstream::JetStreamLog`]).

mod nats_server;

use std::{collections::BTreeMap, fmt::Debug, sync::Arc, time::Duration};

use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use shop_domain::kind::Kind;
use tokio::time::{Instant, sleep};

pub(crate) use self::nats_server::decided;
use crate::{
    connection::{
        Connection,
        start::{PATIENCE, Wait},
    },
    log::{
        Identity,
        frame::{self, Upgrade},
    },
    stream::topology::{self, PARTITIONS_MAX, SEQUENCE_MAX, TopologyError},
    subject,
};

/// Into how many partitions each kind is cut, and from where on its log is read under that count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// How often there was another one before.
    pub generation: u32,
    /// Each kind's part.
    pub kinds: BTreeMap<Kind, KindLayout>,
}

/// How one kind is cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindLayout {
    /// Into so many partitions.
    pub partitions: u16,
    /// The epoch of the log from there on.
    pub epoch: u64,
    /// The sequence at which the log begins: snapshots stand for all before it.
    pub begins_at: u64,
    /// The number of the logic version that it begins with.
    pub logic: u32,
    /// The epochs that it had before: what is left of their checkpoints and snapshots is of no use any more.
    pub former: Vec<u64>,
    /// How it was cut before, from the beginning on. Not all of it where an older version has decided, which did not
    /// say so.
    #[serde(default)]
    pub before: Vec<Stretch>,
}

/// What of a log was written under one layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// Its first sequence.
    pub begins_at: u64,
    /// In how many partitions the kind was cut.
    pub partitions: u16,
    /// The epoch of the log.
    pub epoch: u64,
    /// The epoch by which links knew it.
    pub link_epoch: u64,
    /// The number of the logic version that it began with.
    pub logic: u32,
}

/// What was decided last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decided {
    /// The layout in force; none when the streams are as they were made.
    pub layout: Option<Layout>,
    /// The sequence at which that was said last; 0 when it never was.
    pub at: u64,
}

/// A message in `SHOP_LAYOUT`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Decision {
    /// What is in force from now on, which may be what was in force before.
    pub(crate) layout: Option<Layout>,
}

/// Why a layout is not as it should be, or was not changed.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The server did not do what it was asked.
    #[error("cannot read or change how the stream {stream} is cut: {reason}")]
    Server {
        /// Which stream.
        stream: String,
        /// Why.
        reason: String,
    },
    /// The streams are not such as can be asked.
    #[error(transparent)]
    Topology(TopologyError),
    /// Somebody else has decided meanwhile.
    #[error("somebody else, or a host that was just started, has decided meanwhile how the logs are cut")]
    Overtaken,
    /// A log does not end any more where it did.
    #[error("the log of {0} has gone on beyond what was rewritten")]
    WentOn(Kind),
    /// It was decided about another log than the one that is there.
    #[error(
        "the stream {0} is not the one that SHOP_LAYOUT speaks of: it was made since, with an epoch of its own. If the \
         shop is to begin afresh, stop all hosts and remove all of its streams, SHOP_LAYOUT as well: nats stream rm \
         SHOP_LAYOUT. If not, its log is lost: restore a backup"
    )]
    OtherLog(String),
}

impl From<TopologyError> for LayoutError {
    fn from(error: TopologyError) -> Self {
        if let TopologyError::Server { stream, reason } = error {
            return Self::Server { stream, reason };
        }
        Self::Topology(error)
    }
}

/// Pause before.
const PAUSE: Duration = Duration::from_millis(250);

/// Where layouts are decided, and the streams that follow them: on a nats-server, or in memory in simulations.
#[derive(Clone, Debug)]
pub struct Layouts(Arc<dyn Server>);

/// What whoever keeps the streams can be asked to do, one thing at a time.
pub(crate) trait Server: Debug + Send + Sync {
    /// What was decided last.
    fn decided(&self) -> BoxFuture<'_, Result<Decided, LayoutError>>;

    /// Takes a decision in, if the last one is at `after`; returns where it is.
    fn take_in(&self, decision: Decision, after: u64) -> BoxFuture<'_, Result<u64, String>>;

    /// The stream of a kind's log; none when there is none yet.
    fn stream(&self, kind: Kind) -> BoxFuture<'_, Result<Option<Stream>, LayoutError>>;

    /// Makes a stream as this says.
    fn change(&self, config: Config) -> BoxFuture<'_, Result<(), LayoutError>>;

    /// Appends a record to a kind's log, if that ends at `after`.
    fn seal(&self, kind: Kind, subject: String, record: Bytes, after: u64) -> BoxFuture<'_, Result<(), LayoutError>>;
}

/// The stream of a log.
#[derive(Debug)]
pub(crate) struct Stream {
    /// How it is made.
    pub(crate) config: Config,
    /// Which log it is.
    pub(crate) log: Result<Identity, TopologyError>,
}

/// What a record is to a reader of one layout, that was appended under a later one, or behind such a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It counts as it is: under the reader's own layout, or it is what a layout has left that came to nothing.
    Counts,
    /// Another layout is in force: neither it nor what follows is for this reader any more.
    CutAnew,
    /// What only somebody can tell who knows better what is in force.
    Unknown,
}

impl Standing {
    /// Of a record of that `generation`, when that one is `in_force` of which is known after it was read. A layout that
    /// came to nothing has left no more than an upgrade that changes nothing; behind one that is in force nothing is for
    /// a reader of the `own` layout any more, also if it was let in under that by mistake. Messages are appended under
    /// no other, so that whoever says then that the own one is in force does not know better yet.
    pub(crate) fn of(own: u32, in_force: u32, generation: u32, payload: &[u8]) -> Self {
        match in_force == own {
            false => Self::CutAnew,
            true if generation <= own || frame::is_known_upgrade(payload) => Self::Counts,
            true => Self::Unknown,
        }
    }
}

impl Decided {
    /// The generation of the layout in force.
    pub fn generation(&self) -> u32 {
        self.layout.as_ref().map_or(0, |layout| layout.generation)
    }

    /// The epochs that a kind's log had before.
    pub fn former(&self, kind: Kind) -> &[u64] {
        self.of(kind).map_or(&[], |cut| &cut.former)
    }

    /// How a kind's log was cut before, from its beginning on; none if an older version has cut it, which did not say.
    pub fn before(&self, kind: Kind) -> Option<&[Stretch]> {
        let before = self.of(kind).map_or(&[][..], |cut| &cut.before);
        (before.len() == self.generation() as usize).then_some(before)
    }

    /// How a kind is cut, if that was ever decided.
    pub fn of(&self, kind: Kind) -> Option<&KindLayout> {
        self.layout.as_ref()?.kinds.get(&kind)
    }
}

impl Layout {
    /// Whether logs can be cut like this. Who may append to the stream may say anything.
    fn is_possible(&self) -> bool {
        let is_stretch = |begins_at: u64, partitions: u16| {
            (1..=SEQUENCE_MAX).contains(&begins_at) && (1..=PARTITIONS_MAX).contains(&partitions)
        };
        let is_cut = |cut: &KindLayout| {
            let mut stretches = cut.before.iter();
            is_stretch(cut.begins_at, cut.partitions)
                && stretches.all(|before| is_stretch(before.begins_at, before.partitions))
        };
        self.generation < u32::MAX && self.kinds.values().all(is_cut)
    }
}

impl KindLayout {
    /// The log goes on behind its last record, cut into so many partitions.
    pub fn behind(log: &Identity, now: Option<&Self>, partitions: u16, epoch: u64, last: u64, logic: u32) -> Self {
        let (mut former, mut before) = now.map(|now| (now.former.clone(), now.before.clone())).unwrap_or_default();
        former.push(log.epoch);
        before.push(Stretch::of(log, now.map_or(1, |now| now.begins_at)));
        Self { partitions, epoch, begins_at: last + 1, logic, former, before }
    }
}

impl Stretch {
    fn of(log: &Identity, begins_at: u64) -> Self {
        let Identity { epoch, link_epoch, partitions, logic, .. } = *log;
        Self { begins_at, partitions, epoch, link_epoch, logic }
    }

    /// What the log was then that is `now` this one.
    pub fn identity(self, now: &Identity) -> Identity {
        let Self { begins_at, partitions, epoch, link_epoch, logic } = self;
        Identity { first_sequence: begins_at, partitions, epoch, link_epoch, logic, ..*now }
    }
}

impl Connection {
    /// Which layout is in force.
    pub async fn decided(&self) -> Result<Decided, LayoutError> {
        self.layouts().decided().await
    }

    /// Which layout is in force, once all streams are as it says.
    pub async fn conform(&self) -> Result<Decided, LayoutError> {
        self.layouts().conform().await
    }
}

impl Layouts {
    pub(crate) fn on(server: impl Server + 'static) -> Self {
        Self(Arc::new(server))
    }

    /// Which layout is in force.
    pub async fn decided(&self) -> Result<Decided, LayoutError> {
        patiently(|| self.0.decided()).await
    }

    /// Which layout is in force, once all streams are as it says.
    pub async fn conform(&self) -> Result<Decided, LayoutError> {
        loop {
            match patiently(|| self.conform_to_the_last()).await {
                Err(LayoutError::Overtaken) => {}
                outcome => return outcome,
            }
        }
    }

    /// Makes the streams as was decided last, unless anybody decides meanwhile.
    async fn conform_to_the_last(&self) -> Result<Decided, LayoutError> {
        let generations = self.generations().await?;
        let mut decided = self.0.decided().await?;
        let is_ahead = generations.into_iter().max() > Some(decided.generation());
        if is_ahead {
            tracing::warn!("a repartitioning was not finished; the logs stay as they are cut");
            decided.at = self.decide(decided.layout.as_ref(), decided.at).await?;
        }
        self.follow(&decided, if is_ahead { Follow::InForceAfterAll } else { Follow::InForce }).await?;
        Ok(decided)
    }

    /// Decides, unless anybody has done so since `after`; returns where that is said.
    pub async fn decide(&self, layout: Option<&Layout>, after: u64) -> Result<u64, LayoutError> {
        let decision = Decision { layout: layout.cloned() };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reason = match self.0.take_in(decision.clone(), after).await {
                Ok(at) => return Ok(at),
                Err(reason) => reason,
            };
            // Also an attempt that failed may have been stored.
            let now = self.decided().await?;
            match now.at {
                at if at > after && now.layout == decision.layout => return Ok(at),
                at if at != after => return Err(LayoutError::Overtaken),
                _ if Instant::now() > deadline => return Err(server(subject::LAYOUT_STREAM, reason)),
                _ => sleep(PAUSE).await,
            }
        }
    }

    /// Lets nobody append any more under the layout in force, unless anybody has decided since `after`. Undone by
    /// [`Self::conform`].
    pub async fn fence(&self, next: &Layout, after: u64) -> Result<(), LayoutError> {
        let proposed = Decided { layout: Some(next.clone()), at: after };
        patiently(|| self.follow(&proposed, Follow::Proposed)).await
    }

    /// Appends the first record of each log under the next layout: one that changes nothing, and that
    /// the server takes only if nothing else has come.
    pub async fn seal(&self, next: &Layout) -> Result<(), LayoutError> {
        for (kind, cut) in &next.kinds {
            let last = cut.begins_at - 1;
            let record = Upgrade { logic: cut.logic }.encode();
            self.0.seal(*kind, subject::log(*kind, next.generation, 0), record, last).await?;
        }
        Ok(())
    }

    /// Gives the logs that there are the subjects of a layout and, if it is in force, what else it says; unless anybody
    /// has decided since.
    async fn follow(&self, decided: &Decided, follow: Follow) -> Result<(), LayoutError> {
        for kind in Kind::ALL {
            let Some(stream) = self.0.stream(kind).await? else { continue };
            let changed = changed(kind, stream, decided, follow);
            // What does not fit may only be newer.
            if !matches!(changed, Ok(None)) && self.0.decided().await?.at != decided.at {
                return Err(LayoutError::Overtaken);
            }
            if let Some(config) = changed? {
                self.0.change(config).await?;
            }
        }
        Ok(())
    }

    /// The generation whose subjects each log has.
    async fn generations(&self) -> Result<Vec<u32>, LayoutError> {
        let mut generations = Vec::with_capacity(Kind::ALL.len());
        for kind in Kind::ALL {
            generations.extend(self.0.stream(kind).await?.map(|stream| generation(kind, &stream.config)));
        }
        Ok(generations)
    }
}

/// What streams are made to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follow {
    /// A layout in force: they say so.
    InForce,
    /// The same, and that was decided once more since one of them was seen ahead of it: whoever has fenced that one
    /// comes too late.
    InForceAfterAll,
    /// One that may come into force: nobody else may append.
    Proposed,
}

/// How a log's stream is to be instead, if it is not as it should be.
fn changed(kind: Kind, stream: Stream, decided: &Decided, follow: Follow) -> Result<Option<Config>, LayoutError> {
    let Stream { config: before, log } = stream;
    let (cut, generation) = (decided.of(kind), generation(kind, &before));
    if cut.is_none() && generation == 0 {
        return Ok(None);
    }
    let log = log?;
    if cut.is_some_and(|cut| cut.epoch != log.epoch && !cut.former.contains(&log.epoch)) {
        return Err(LayoutError::OtherLog(before.name));
    }
    if generation > decided.generation() && follow != Follow::InForceAfterAll {
        return Err(LayoutError::Overtaken);
    }
    let mut config = before.clone();
    config.subjects = subject::logs(kind, decided.generation(), cut.map_or(log.partitions, |cut| cut.partitions));
    if let (Follow::InForce | Follow::InForceAfterAll, Some(cut)) = (follow, cut) {
        topology::describe(&mut config.metadata, cut);
    }
    let is_changed = config.subjects != before.subjects || config.metadata != before.metadata;
    Ok(is_changed.then_some(config))
}

/// The generation whose subjects a log has.
fn generation(kind: Kind, config: &Config) -> u32 {
    config.subjects.iter().filter_map(|subject| Some(subject::place(kind, subject)?.0)).max().unwrap_or(0)
}

/// Asks again what a server could not say or do: it may have to find a leader first.
async fn patiently<T, F>(mut ask: impl FnMut() -> F) -> Result<T, LayoutError>
where
    F: Future<Output = Result<T, LayoutError>>,
{
    let mut wait = Wait::begin();
    loop {
        match ask().await {
            Err(error @ LayoutError::Server { .. }) if wait.goes_on(&error).await => {}
            outcome => return outcome,
        }
    }
}

fn server(stream: &str, reason: String) -> LayoutError {
    LayoutError::Server { stream: stream.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The stream of the log of orders, of that epoch and with the subjects of that generation.
    fn stream(epoch: u64, generation: u32) -> Stream {
        let mut config = topology::log(Kind::Order, epoch, 1, 1, 1);
        config.subjects = subject::logs(Kind::Order, generation, 1);
        Stream { config, log: Ok(Identity::new(epoch)) }
    }

    /// Epoch 3, which followed on the epochs 1 and 2.
    fn decided() -> Decided {
        let cut = KindLayout { partitions: 4, epoch: 3, begins_at: 10, logic: 1, former: vec![1, 2], before: vec![] };
        Decided { layout: Some(Layout { generation: 2, kinds: [(Kind::Order, cut)].into() }), at: 7 }
    }

    #[test]
    fn a_layout_that_no_log_can_have_is_not_believed() {
        let changed = |change: fn(&mut KindLayout)| {
            let mut layout = decided().layout.unwrap();
            layout.kinds.values_mut().for_each(change);
            layout.is_possible()
        };
        assert!(changed(|_| ()));
        assert!(!changed(|cut| cut.partitions = 0));
        assert!(!changed(|cut| cut.partitions = u16::MAX));
        assert!(!changed(|cut| cut.begins_at = 0));
        assert!(!changed(|cut| cut.begins_at = u64::MAX));
        let stretch = Stretch { begins_at: 1, partitions: 0, epoch: 1, link_epoch: 1, logic: 1 };
        let layout = decided().layout.unwrap();
        let before = |cut: &KindLayout| KindLayout { before: vec![stretch], ..cut.clone() };
        let kinds = layout.kinds.iter().map(|(kind, cut)| (*kind, before(cut))).collect();
        assert!(!Layout { kinds, ..layout }.is_possible());
    }

    #[test]
    fn a_stream_goes_on_to_the_layout_in_force_and_back_only_if_that_was_decided_once_more() {
        let follows = |generation, follow| {
            let changed = changed(Kind::Order, stream(2, generation), &decided(), follow)?;
            Ok::<_, LayoutError>(changed.map(|config| (config.subjects, config.metadata["shop.epoch"].clone())))
        };
        let as_it_is_in_force = Some((subject::logs(Kind::Order, 2, 4), "0000000000000003".to_owned()));
        for generation in [0, 1, 2] {
            assert_eq!(follows(generation, Follow::InForce).unwrap(), as_it_is_in_force);
        }
        assert!(matches!(follows(3, Follow::InForce), Err(LayoutError::Overtaken)));
        assert!(matches!(follows(3, Follow::Proposed), Err(LayoutError::Overtaken)));
        assert_eq!(follows(3, Follow::InForceAfterAll).unwrap(), as_it_is_in_force);
    }

    #[test]
    fn behind_what_a_later_layout_has_left_nothing_counts_before_it_is_known_that_it_came_to_nothing() {
        let (upgrade, message) = (Upgrade { logic: 1 }.encode(), b"\x01a message");
        assert_eq!(Standing::of(1, 1, 2, &upgrade), Standing::Counts);
        assert_eq!(Standing::of(1, 1, 1, message), Standing::Counts);
        assert_eq!(Standing::of(1, 1, 2, message), Standing::Unknown);
        for generation in [1, 2] {
            assert_eq!(Standing::of(1, 2, generation, &upgrade), Standing::CutAnew);
            assert_eq!(Standing::of(1, 2, generation, message), Standing::CutAnew);
        }
    }

    #[test]
    fn a_layout_is_not_put_onto_another_log_than_it_was_decided_about() {
        for follow in [Follow::InForce, Follow::InForceAfterAll, Follow::Proposed] {
            for (epoch, is_other) in [(1, false), (2, false), (3, false), (4, true)] {
                let changed = changed(Kind::Order, stream(epoch, 0), &decided(), follow);
                assert_eq!(matches!(changed, Err(LayoutError::OtherLog(_))), is_other, "epoch {epoch}, {follow:?}");
            }
        }
    }
}
