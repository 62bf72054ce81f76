//! From the one reader of a log to its partitions.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use shop_domain::kind::Kind;
use shop_nats::log::{LogError, Record};
use tokio::sync::{mpsc, watch};

use crate::admissions::Admissions;

/// Where the records of each partition go, and the sequence of the last one that went there.
pub(super) type Routes = BTreeMap<u16, (mpsc::Sender<Record>, Arc<AtomicU64>)>;

/// Hands every record of a kind to its partition, of which there are so many, and tells the door what became of its own;
/// returns when the log cannot be read any more.
pub(super) async fn dispatch(
    mut records: mpsc::Receiver<Result<Record, LogError>>,
    routes: &Routes,
    (kind, partitions): (Kind, u16),
    dispatched: &watch::Sender<u64>,
    admissions: Option<&Admissions>,
) -> LogError {
    loop {
        let record = match records.recv().await {
            Some(Ok(record)) => record,
            Some(Err(error)) => return error,
            // It ends only after its last error, unless it has panicked.
            None => return LogError::Failed { kind, reason: "its reader has ended".to_owned() },
        };
        let sequence = record.sequence;
        if let Some(admissions) = admissions {
            admissions.read(&record);
        }
        // The first partition buries what is for none.
        let number = if record.partition < partitions { record.partition } else { 0 };
        // One that is parked, or held by other hosts, has no route: it reads on from its checkpoint when it is back.
        if let Some((partition, assigned)) = routes.get(&number) {
            if partition.send(record).await.is_err() {
                // It has ended: nobody must take it for one that has caught up with what comes.
                return std::future::pending().await;
            }
            assigned.store(sequence, Ordering::Release);
        }
        dispatched.send_replace(sequence);
    }
}
