//! Reading a backup from its first to its last byte, before anything is made of it.

use std::collections::{BTreeMap, BTreeSet};

use shop_domain::kind::Kind;
use shop_nats::{
    log::{PartitionId, frame::Cause},
    subject,
};

use super::{
    BackupError, belongs,
    file::{self, Header, Log},
    place::{self, Backup, File, Manifest},
};
use crate::{
    blob::object::{ObjectError, Received},
    joined::joined,
    operator::{Progress, words},
    snapshot,
};

/// What a backup holds that is whole.
pub(crate) struct Contents {
    /// When it was made.
    pub(crate) made: String,
    /// The logs.
    pub(crate) logs: BTreeMap<Kind, (Log, Header)>,
    /// The dead letters.
    pub(crate) letters: Header,
    /// What stands for logs that were cut, and saves replaying the others.
    pub(crate) snapshots: BTreeMap<PartitionId, snapshot::Header>,
}

impl Contents {
    /// How many messages there are.
    pub(crate) fn messages(&self) -> u64 {
        self.logs.values().map(|(_, header)| header.messages()).sum()
    }

    /// A kind whose log can be restored only together with snapshots.
    pub(crate) fn cut(&self) -> Option<Kind> {
        self.logs.iter().find(|(_, (_, header))| header.first > 1).map(|(kind, _)| *kind)
    }
}

/// Reads all of a backup, or says what is wrong with it.
pub(crate) async fn check(backup: &Backup) -> Result<Contents, BackupError> {
    let manifest = backup.manifest().await?;
    let mut logs = BTreeMap::new();
    let mut latest = BTreeMap::new();
    let bytes = manifest.files.values().map(|file| file.bytes).sum();
    let mut progress = Progress::new("checking the backup", bytes);
    for kind in Kind::ALL {
        let name = place::log(kind);
        let Checked { header, causes } = check_messages(backup, &manifest, &name).await?;
        let wrong = |why: &str| BackupError::Wrong { file: name.clone(), why: why.to_owned() };
        let log = header.log.filter(|log| log.kind == kind).ok_or_else(|| wrong("it is another log"))?;
        logs.insert(kind, (log, header));
        latest.insert(kind, causes);
        progress.steps(file(&manifest, &name)?.bytes);
    }
    let letters = check_messages(backup, &manifest, place::LETTERS).await?.header;
    if letters.log.is_some() {
        return Err(BackupError::Wrong { file: place::LETTERS.to_owned(), why: "it is a log".to_owned() });
    }
    for (kind, causes) in latest {
        for (sequence, cause) in causes.into_values() {
            let (log, header) = &logs[&cause.kind];
            // A link from a log that is gone leads nowhere.
            if cause.epoch == log.link_epoch {
                belongs(kind, sequence, cause, header.last)?;
            }
        }
    }
    let mut snapshots = BTreeMap::new();
    for (kind, (log, header)) in &logs {
        for partition in 0..log.partitions {
            let place = (*kind, partition);
            match check_snapshot(backup, &manifest, place, log, header).await? {
                Some(found) => drop(snapshots.insert(place, found)),
                None if header.first == 1 => {}
                None => return Err(BackupError::Missing(place::snapshot(place))),
            }
        }
    }
    Ok(Contents { made: manifest.made, logs, letters, snapshots })
}

fn file<'m>(manifest: &'m Manifest, name: &str) -> Result<&'m File, BackupError> {
    manifest.files.get(name).ok_or_else(|| BackupError::Missing(name.to_owned()))
}

/// What a file of messages holds.
struct Checked {
    header: Header,
    /// By the log from which they come: the latest cause, and who has it.
    causes: BTreeMap<(Kind, u64), (u64, Cause)>,
}

async fn check_messages(backup: &Backup, manifest: &Manifest, name: &str) -> Result<Checked, BackupError> {
    let expected = file(manifest, name)?;
    let read = |stored: Received| {
        let mut reader = file::Reader::begin(stored)?;
        let header = reader.header();
        let mut causes = BTreeMap::<_, (u64, Cause)>::new();
        let of_log = |log: Log| (0..log.partitions).map(move |partition| subject::log(log.kind, 0, partition));
        let subjects: BTreeSet<String> = header.log.into_iter().flat_map(of_log).collect();
        for message in &mut reader {
            let message = message?;
            if header.log.is_none() {
                continue;
            }
            if !subjects.contains(&message.subject) {
                return Err(ObjectError::damaged(format!("it holds a message to {}", message.subject)));
            }
            let Some(cause) = message.cause() else { continue };
            let latest = causes.entry((cause.kind, cause.epoch)).or_insert((message.sequence, cause));
            if cause.sequence > latest.1.sequence {
                *latest = (message.sequence, cause);
            }
        }
        Ok((Checked { header, causes }, reader.digest()))
    };
    let (checked, digest) = read_file(backup, name, read).await?;
    same(name, expected, digest)?;
    Ok(checked)
}

async fn check_snapshot(
    backup: &Backup,
    manifest: &Manifest,
    place: PartitionId,
    log: &Log,
    Header { first, last, .. }: &Header,
) -> Result<Option<snapshot::Header>, BackupError> {
    let name = place::snapshot(place);
    let Some(expected) = manifest.files.get(&name) else { return Ok(None) };
    let read = |stored: Received| {
        let mut reader = snapshot::format::Reader::begin(stored)?;
        for item in &mut reader {
            item.map_err(|error| ObjectError::damaged(error.to_string()))?;
        }
        Ok((reader.header().clone(), reader.digest()))
    };
    let (header, digest) = read_file(backup, &name, read).await?;
    same(&name, expected, digest)?;
    let meta = &header.meta;
    let why = if (header.kind, header.partition) != place || meta.epoch != log.epoch {
        format!("it is of {}, of a log of epoch {:016x}", words::place((header.kind, header.partition)), meta.epoch)
    } else if meta.needs_from() < *first || meta.needs_from() - 1 > *last {
        format!("it goes up to {}, its log from {first} to {last}", meta.needs_from() - 1)
    } else {
        return Ok(Some(header));
    };
    Err(BackupError::Wrong { file: name, why })
}

/// A file may be whole and of another backup.
fn same(name: &str, expected: &File, digest: u64) -> Result<(), BackupError> {
    let digest = format!("{digest:016x}");
    if digest == expected.digest {
        return Ok(());
    }
    let why = format!("its digest is {digest}, that in the manifest {}", expected.digest);
    Err(BackupError::Wrong { file: name.to_owned(), why })
}

async fn read_file<T: Send + 'static>(
    backup: &Backup,
    name: &str,
    read: impl FnOnce(Received) -> Result<T, ObjectError> + Send + 'static,
) -> Result<T, BackupError> {
    let failed = |error| BackupError::File { file: name.to_owned(), error };
    let stored = backup.open(name).await.map_err(failed)?;
    let read = joined(tokio::task::spawn_blocking(move || read(stored))).await;
    read.map_err(failed)
}
