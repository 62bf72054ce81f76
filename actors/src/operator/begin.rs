//! Where a tool begins to read: at the beginning of a log or, where that was cut off, at the snapshots of its
//! partitions; at the oldest ones from which the log goes on, so that as much as can be is looked at.

use std::{collections::BTreeMap, sync::Arc};

use shop_domain::kind::Kind;
use shop_nats::{
    connection::Connection,
    jetstream::JetStreamLog,
    log::{Identity, SharedLog},
};

use super::{Common, OperatorError, say, words};
use crate::{
    outbox::Logs,
    replay::{self, Acceptor, Entities, Place, Replay},
    snapshot::{Header, Kept, Name, SnapshotError, Snapshots, Usable, usable},
    store::{Items, Meta},
    tape::Tape,
};

/// What is read, and what is known before.
pub(super) struct Beginning {
    /// What is read.
    pub(super) tape: Tape,
    logs: Logs,
    /// Of the partitions whose logs were cut.
    restored: BTreeMap<Place, (Meta, Entities)>,
}

/// How much of a snapshot is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The numbers of its links.
    Links,
    /// And all entities.
    Entities,
}

impl Common {
    /// Begins to read the logs of these kinds.
    pub(super) async fn begin(
        &self,
        connection: &Connection,
        kinds: &[Kind],
        wanted: Wanted,
    ) -> Result<Beginning, OperatorError> {
        let log: SharedLog = Arc::new(JetStreamLog::open(connection, connection).await?);
        let (mut logs, mut restored) = (Logs::new(), BTreeMap::new());
        for kind in kinds.iter().copied() {
            let identity = log.identity(kind).await?;
            logs.insert(kind, identity);
            for partition in (0..identity.partitions).filter(|_| identity.first_sequence > 1) {
                let first = identity.first_sequence;
                let snapshots = self.snapshots()?.ok_or(OperatorError::Cut { kind, first })?;
                let oldest = oldest(&log, &snapshots, (kind, partition), &identity, wanted).await?;
                let none = || OperatorError::NoSnapshot { kind, partition, first, url: snapshots.url().to_owned() };
                restored.insert((kind, partition), oldest.ok_or_else(none)?);
            }
        }
        let known = restored.iter().map(|(place, (meta, _))| (*place, meta.cursor)).collect();
        Ok(Beginning { tape: Tape::behind(log, &logs, &known), logs, restored })
    }
}

impl Beginning {
    /// The kinds whose logs were cut, and where these begin.
    pub(super) fn cut(&self) -> impl Iterator<Item = (Kind, u64)> {
        let is_cut = |(_, log): &(&Kind, &Identity)| log.first_sequence > 1;
        self.logs.iter().filter(is_cut).map(|(kind, log)| (*kind, log.first_sequence))
    }

    /// Up to where a partition was known before.
    pub(super) fn known(&self, place: Place) -> Option<u64> {
        self.restored.get(&place).map(|(meta, _)| meta.cursor)
    }

    /// The tape, and the entities where it begins.
    pub(super) fn replay(self) -> Result<(Tape, Replay), OperatorError> {
        let mut replay = Replay::new(self.logs);
        for (place, (meta, entities)) in self.restored {
            replay.restore(place, &meta, entities)?;
        }
        Ok((self.tape, replay))
    }

    /// The tape, and the links where it begins.
    pub(super) fn acceptor(self) -> Result<(Tape, Acceptor), OperatorError> {
        let mut acceptor = Acceptor::new(self.logs);
        for (place, (meta, _)) in &self.restored {
            acceptor.restore(*place, meta)?;
        }
        Ok((self.tape, acceptor))
    }
}

/// The oldest snapshot of a partition that is whole and from which the log goes on.
async fn oldest(
    log: &SharedLog,
    snapshots: &Snapshots,
    place: Place,
    identity: &Identity,
    wanted: Wanted,
) -> Result<Option<(Meta, Entities)>, OperatorError> {
    for Kept { name, .. } in snapshots.list(place, identity.epoch).await?.into_iter().rev() {
        match usable(log, snapshots, place, name, identity, read(snapshots, place, name, wanted)).await? {
            Usable::Is(known) => return Ok(Some(known)),
            Usable::IsNot(why) => say(&format_args!("{name} of {} is of no use: {why}", words::place(place))),
            Usable::Gone => {}
        }
    }
    Ok(None)
}

async fn read(
    snapshots: &Snapshots,
    place: Place,
    name: Name,
    wanted: Wanted,
) -> Result<(Meta, Entities), SnapshotError> {
    let read = move |header: &Header, items: &mut Items<'_>| {
        let mut entities = Entities::new();
        for item in items {
            let item = item?;
            if wanted == Wanted::Entities {
                let inserted = replay::insert(&mut entities, place.0, item);
                inserted.map_err(|error| SnapshotError::Damaged(format!("a state: {error}")))?;
            }
        }
        Ok((header.meta.clone(), entities))
    };
    snapshots.read(place, name, read).await
}
