//! Making a backup: a snapshot of every partition first, then the dead letters, then the cut, then the logs up to
//! there, then the manifest.
//!
//! In this order, so that nothing in it goes beyond the cut: whatever a snapshot or a dead letter is about was in the
//! logs before their ends are looked for. A partition that begins at a snapshot again need not send again what it
//! had sent up to there, because a checkpoint is written only when the logs have that: which is before the cut as
//! well. Nor need it bury again what it had found to be dead up to there: that was kept before the checkpoint.

use std::collections::BTreeMap;

use shop_domain::kind::Kind;
use shop_nats::{
    connection::Connection,
    jetstream::restore::Stored,
    log::{Identity, Logs, PartitionId, SharedLog},
};
use tokio::sync::mpsc;

use super::{
    BackupError, cut,
    file::{self, Header, Log},
    place::{self, Backup, File, Manifest},
};
use crate::{
    blob::object::{ObjectError, Take},
    operator::{Progress, say, words},
    replay::merged_log::MergedLog,
    snapshot::{
        self, Kept, Name, SnapshotError, Snapshots, Usable,
        candidates::{Candidates, Order},
        usable,
    },
};

/// Messages that wait between whoever reads them and the file.
const MESSAGES_WAITING: usize = 64;

/// What is in a backup that was made.
pub(super) struct Made {
    pub(super) manifest: Manifest,
    pub(super) logs: Logs,
    pub(super) snapshots: BTreeMap<PartitionId, Name>,
    pub(super) letters: u64,
}

/// Makes a backup of all that there is.
pub(super) async fn make(
    connection: &Connection,
    log: &SharedLog,
    snapshots: Option<&Snapshots>,
    backup: &Backup,
) -> Result<Made, BackupError> {
    let mut files = BTreeMap::new();
    let copied = copy_snapshots(log, snapshots, backup, &mut files).await?;
    let (letters, file) = copy_letters(connection, backup).await?;
    files.insert(place::LETTERS.to_owned(), file);
    let mut logs = cut::find(log).await?;
    logs.iter().try_for_each(|(kind, identity)| stand(&copied, *kind, identity))?;
    let mut progress = Progress::new("copying the logs", logs.values().map(messages).sum());
    for kind in Kind::ALL {
        // Hosts may have cut it while others were copied.
        let first_sequence = log.identity(kind).await?.first_sequence;
        let Some(identity) = logs.get_mut(&kind) else { continue };
        identity.first_sequence = first_sequence;
        let identity = *identity;
        stand(&copied, kind, &identity)?;
        let file = copy_log(log, kind, &identity, &logs, backup, &mut progress).await?;
        files.insert(place::log(kind), file);
    }
    drop(progress);
    Ok(Made { manifest: backup.finish(files).await?, logs, snapshots: copied, letters })
}

/// Whether snapshots stand for all that was cut off a log.
fn stand(copied: &BTreeMap<PartitionId, Name>, kind: Kind, identity: &Identity) -> Result<(), BackupError> {
    let first = identity.first_sequence;
    let stands = |partition: &u16| copied.get(&(kind, *partition)).map_or(0, |name| name.complete_to) + 1 >= first;
    match (0..identity.partitions).find(|partition| !stands(partition)) {
        Some(partition) => Err(BackupError::NoSnapshot { kind, first, place: words::place((kind, partition)) }),
        None => Ok(()),
    }
}

fn messages(log: &Identity) -> u64 {
    log.last_sequence + 1 - log.first_sequence
}

async fn copy_letters(connection: &Connection, backup: &Backup) -> Result<(u64, File), BackupError> {
    let dead = connection.dead_letters().await?;
    let header = Header { log: None, first: dead.first, last: dead.last.max(dead.first - 1) };
    let (letters, received) = mpsc::channel(MESSAGES_WAITING);
    let written = write(backup, place::LETTERS.to_owned(), header, received);
    let read = async move {
        for sequence in header.first..=header.last {
            let letter = dead.stored(sequence).await?.ok_or(BackupError::NoLetter(sequence))?;
            if letters.send(letter).await.is_err() {
                break;
            }
        }
        Ok::<_, BackupError>(())
    };
    let (written, read) = tokio::join!(written, read);
    read?;
    Ok((header.messages(), written?))
}

/// The newest snapshot of every partition that has one which is whole and of this log.
async fn copy_snapshots(
    log: &SharedLog,
    snapshots: Option<&Snapshots>,
    backup: &Backup,
    files: &mut BTreeMap<String, File>,
) -> Result<BTreeMap<PartitionId, Name>, BackupError> {
    let mut copied = BTreeMap::new();
    for kind in Kind::ALL {
        let identity = log.identity(kind).await?;
        for partition in 0..identity.partitions {
            let (place, Some(snapshots)) = ((kind, partition), snapshots) else { continue };
            let mut candidates = Candidates::list(snapshots, place, identity.epoch, Order::NewestFirst).await?;
            while let Some(Kept { name, .. }) = candidates.next().await? {
                let file = copy_snapshot(snapshots, place, name, backup);
                match usable(log, snapshots, place, name, &identity, file).await? {
                    Usable::Is(file) => {
                        files.insert(place::snapshot(place), file);
                        copied.insert(place, name);
                        break;
                    }
                    Usable::IsNot(why) => {
                        say(&format_args!("{name} of {} is of no use: {why}", words::place(place)));
                    }
                    Usable::Gone => candidates.is_gone(),
                }
            }
        }
    }
    Ok(copied)
}

async fn copy_snapshot(
    snapshots: &Snapshots,
    place: PartitionId,
    name: Name,
    backup: &Backup,
) -> Result<File, SnapshotError> {
    let stored = snapshots.open_stored(place, name).await?;
    let copy = move |take: Take<'_>| snapshot::format::copy(stored, Ok, take);
    Ok(backup.write(&place::snapshot(place), copy).await?)
}

async fn copy_log(
    log: &SharedLog,
    kind: Kind,
    identity: &Identity,
    logs: &Logs,
    backup: &Backup,
    progress: &mut Progress,
) -> Result<File, BackupError> {
    let Identity { epoch, link_epoch, partitions, logic, first_sequence: first, last_sequence: last, .. } = *identity;
    let header = Header { log: Some(Log { kind, epoch, link_epoch, partitions, logic }), first, last };
    let mut merged_log = MergedLog::of_all_that_is_there(log.clone(), &Logs::from([(kind, *identity)]));
    let (records, received) = mpsc::channel(MESSAGES_WAITING);
    let written = write(backup, place::log(kind), header, received);
    let read = async move {
        while let Some((_, record)) = merged_log.next().await? {
            progress.step();
            if let Some(cause) = cut::cause(&record, logs) {
                super::belongs(kind, record.sequence, cause, logs.get(&cause.kind).map_or(0, |log| log.last_sequence))?;
            }
            if records.send(Stored::of(kind, partitions, record)).await.is_err() {
                break;
            }
        }
        Ok::<_, BackupError>(())
    };
    let (written, read) = tokio::join!(written, read);
    read?;
    Ok(written?)
}

async fn write(
    backup: &Backup,
    name: String,
    header: Header,
    messages: mpsc::Receiver<Stored>,
) -> Result<File, ObjectError> {
    backup.write(&name, move |take| file::write(header, messages, take)).await
}
