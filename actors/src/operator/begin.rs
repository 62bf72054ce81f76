//! Where a tool begins to read: at the beginning of a log, however often it was cut into other partitions since; or,
//! where that was cut off, at the snapshots of its partitions, at the oldest ones from which the log goes on, so that as
//! much as can be is looked at.

use std::{collections::BTreeMap, fmt, sync::Arc};

use shop_domain::{id::Id, kind::Kind};
use shop_nats::{
    connection::Connection,
    jetstream::JetStreamLog,
    log::{Identity, Logs, PartitionId, SharedLog},
    stream::layout::{Decided, LayoutError, Stretch},
    subject::partition_of,
};

use super::{Common, OperatorError, say, words};
use crate::{
    replay::{self, Course, Entities, Replay, merged_log::MergedLog},
    snapshot::{
        Header, Kept, Name, SnapshotError, Snapshots, Usable,
        candidates::{Candidates, Order},
        usable,
    },
    store::{Items, Meta},
};

/// What is read, and what is known before.
pub(super) struct Beginning {
    /// What is read.
    pub(super) merged_log: MergedLog,
    course: Course,
    gaps: BTreeMap<Kind, Gap>,
    /// Of the partitions whose logs cannot be read from their beginning on.
    restored: BTreeMap<PartitionId, (Meta, Entities)>,
}

/// What of a log cannot be read: all before this sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) first: u64,
    pub(super) why: Why,
}

/// Why not all of a log can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It was trimmed.
    Trimmed,
    /// It was repartitioned, and how it was cut before is not known.
    CutByAnOlderVersion,
}

impl Common {
    /// Begins to read the logs of these kinds.
    pub(super) async fn begin(&self, connection: &Connection, kinds: &[Kind]) -> Result<Beginning, OperatorError> {
        let (log, decided) = JetStreamLog::open_whole(connection, connection).await?;
        let log: SharedLog = Arc::new(log);
        let (mut logs, mut gaps, mut restored) = (Logs::new(), BTreeMap::new(), BTreeMap::new());
        let mut snapshots = None;
        for kind in kinds.iter().copied() {
            let identity = log.identity(kind).await?;
            if decided.of(kind).is_some_and(|cut| cut.epoch != identity.epoch) {
                return Err(LayoutError::Overtaken.into());
            }
            logs.insert(kind, identity);
            let Some(gap) = Gap::of(&identity, decided.before(kind)) else { continue };
            gaps.insert(kind, gap);
            let snapshots = match &snapshots {
                Some(found) => found,
                None => snapshots.insert(self.snapshots(connection).await?.ok_or_else(|| missing(kind, gap))?),
            };
            for partition in 0..identity.partitions {
                let oldest = oldest(&log, snapshots, (kind, partition), &identity).await?;
                let none = || none(kind, partition, gap, snapshots);
                restored.insert((kind, partition), oldest.ok_or_else(none)?);
            }
        }
        let known = restored.iter().map(|(place, (meta, _))| (*place, meta.cursor)).collect();
        let merged_log = MergedLog::behind(log, &logs, &known);
        Ok(Beginning { merged_log, course: course(&decided, logs), gaps, restored })
    }
}

/// How these logs were cut, as far as it was said.
fn course(decided: &Decided, logs: Logs) -> Course {
    let of = |layout: usize| {
        let of_kind =
            |(kind, now): (&Kind, &Identity)| Some((*kind, decided.before(*kind)?.get(layout)?.identity(now)));
        logs.iter().map(of_kind).collect::<Option<Logs>>()
    };
    let before: Vec<_> = (0..decided.generation() as usize).map_while(of).collect();
    Course::new(before.into_iter().chain([logs]).collect())
}

fn missing(kind: Kind, gap: Gap) -> OperatorError {
    OperatorError::Missing { gap: gap.of_kind(kind).to_string() }
}

fn none(kind: Kind, partition: u16, gap: Gap, snapshots: &Snapshots) -> OperatorError {
    let (gap, url) = (gap.of_kind(kind).to_string(), snapshots.url().to_owned());
    OperatorError::NoSnapshot { gap, place: words::place((kind, partition)), url }
}

impl Gap {
    /// What of a log cannot be read, if anything cannot, though `before` says how it was cut, if that is known.
    fn of(log: &Identity, before: Option<&[Stretch]>) -> Option<Self> {
        let first = log.first_sequence;
        match before {
            _ if log.oldest_sequence > 1 => Some(Self { first, why: Why::Trimmed }),
            None => Some(Self { first, why: Why::CutByAnOlderVersion }),
            Some(_) => None,
        }
    }

    /// In words: the log of wallet was cut, and begins at sequence 58.
    pub(super) fn of_kind(self, kind: Kind) -> impl fmt::Display {
        let Self { first, why } = self;
        match why {
            Why::Trimmed => format!("the log of {kind} was cut, and begins at sequence {first}"),
            Why::CutByAnOlderVersion => format!(
                "the log of {kind} was repartitioned at sequence {first} by an older version, which did not say how it \
                 was cut before"
            ),
        }
    }
}

impl Beginning {
    /// The kinds of whose logs not all can be read.
    pub(super) const fn gaps(&self) -> &BTreeMap<Kind, Gap> {
        &self.gaps
    }

    /// Up to where the partition of an entity was known before.
    pub(super) fn known(&self, kind: Kind, id: &Id) -> Option<u64> {
        let log = self.course.layouts().last()?.get(&kind)?;
        let (meta, _) = self.restored.get(&(kind, partition_of(id, log.partitions)))?;
        Some(meta.cursor)
    }

    /// The merged log, and the entities where it begins.
    pub(super) fn replay(self) -> Result<(MergedLog, Replay), OperatorError> {
        let mut replay = Replay::new(self.course);
        for (place, (meta, entities)) in self.restored {
            replay.restore(place, &meta, entities)?;
        }
        Ok((self.merged_log, replay))
    }
}

/// The oldest snapshot of a partition that is whole and from which the log goes on.
async fn oldest(
    log: &SharedLog,
    snapshots: &Snapshots,
    place: PartitionId,
    identity: &Identity,
) -> Result<Option<(Meta, Entities)>, OperatorError> {
    let mut candidates = Candidates::list(snapshots, place, identity.epoch, Order::OldestFirst).await?;
    while let Some(Kept { name, .. }) = candidates.next().await? {
        match usable(log, snapshots, place, name, identity, read(snapshots, place, name)).await? {
            Usable::Is(known) => return Ok(Some(known)),
            Usable::IsNot(why) => say(&format_args!("{name} of {} is of no use: {why}", words::place(place))),
            Usable::Gone => candidates.is_gone(),
        }
    }
    Ok(None)
}

async fn read(snapshots: &Snapshots, place: PartitionId, name: Name) -> Result<(Meta, Entities), SnapshotError> {
    let read = move |header: &Header, items: &mut Items<'_>| {
        let mut entities = Entities::new();
        for item in items {
            let item = item?;
            let inserted = replay::insert(&mut entities, place.0, item);
            inserted.map_err(|error| SnapshotError::Damaged(format!("a state: {error}")))?;
        }
        Ok((header.meta.clone(), entities))
    };
    snapshots.read(place, name, read).await
}
