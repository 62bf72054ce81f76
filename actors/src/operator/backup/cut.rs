//! Where a backup ends: a position in each log, so that no record up to there follows from one beyond.
//!
//! A message is caused by what is in another log, and says up to where there. If a backup held the
//! message and not its cause, the sender would have forgotten after a restore that it sent it, and would give the
//! same number to another one. The other way round is harmless: what was caused and is not in the backup is
//! sent again by its sender, as after a crash.
//!
//! The logs cannot be asked for their ends all at once, but they can be asked twice. Whatever was there
//! between the two times is whole: its causes were in their logs before it, because a partition acts on
//! nothing else. So where the first answers end, nothing has to go; and of what came until the second answers,
//! every record goes whose cause is not there, and all behind it, until there is none.

use std::collections::BTreeMap;

use shop_domain::kind::Kind;
use shop_nats::log::{Logs, Record, SharedLog, frame::Cause};

use super::{BackupError, words};
use crate::replay::merged_log::MergedLog;

/// What each kind's log took while its end was looked for: the sequences and their causes.
type Tails = BTreeMap<Kind, Vec<(u64, Cause)>>;

/// The logs as they are now, each with the last sequence that belongs to the cut.
pub(super) async fn find(log: &SharedLog) -> Result<Logs, BackupError> {
    let before = identities(log).await?;
    let mut logs = identities(log).await?;
    let mut beyond = logs.clone();
    for (kind, identity) in &mut beyond {
        if before.get(kind).is_none_or(|before| before.epoch != identity.epoch) {
            return Err(BackupError::MadeAnew(*kind));
        }
        identity.first_sequence = before.get(kind).map_or(0, |before| before.last_sequence) + 1;
    }
    let mut tails = Tails::new();
    let mut merged_log = MergedLog::of_all_that_is_there(log.clone(), &beyond);
    while let Some((kind, record)) = merged_log.next().await? {
        if let Some(cause) = cause(&record, &logs) {
            if cause.sequence.is_none() {
                let place = words::place((kind, record.partition));
                return Err(BackupError::NoCause { place, sequence: record.sequence, sender: cause.kind });
            }
            tails.entry(kind).or_default().push((record.sequence, cause));
        }
    }
    close(&mut logs, &tails);
    Ok(logs)
}

/// The cause of a record, if it is in one of these logs: a link from a log that is gone leads nowhere.
pub(super) fn cause(record: &Record, logs: &Logs) -> Option<Cause> {
    record.cause().filter(|cause| logs.get(&cause.kind).is_some_and(|log| log.link_epoch == cause.epoch))
}

/// Shortens logs until no record follows from what is beyond an end.
fn close(logs: &mut Logs, tails: &Tails) {
    loop {
        let mut is_closed = true;
        for (kind, tail) in tails {
            let end = last(logs, *kind);
            let is_beyond = |(sequence, cause): &&(u64, Cause)| {
                *sequence <= end && cause.sequence.is_some_and(|cause_at| cause_at > last(logs, cause.kind))
            };
            let first = tail.iter().find(is_beyond).map(|(sequence, _)| *sequence);
            if let (Some(first), Some(log)) = (first, logs.get_mut(kind)) {
                log.last_sequence = first - 1;
                is_closed = false;
            }
        }
        if is_closed {
            return;
        }
    }
}

fn last(logs: &Logs, kind: Kind) -> u64 {
    logs.get(&kind).map_or(0, |log| log.last_sequence)
}

async fn identities(log: &SharedLog) -> Result<Logs, BackupError> {
    let mut logs = Logs::new();
    for kind in Kind::ALL {
        logs.insert(kind, log.identity(kind).await?);
    }
    Ok(logs)
}

#[cfg(test)]
mod tests {
    use shop_nats::log::Identity;

    use super::*;

    fn log(kind: Kind, last_sequence: u64) -> (Kind, Identity) {
        (kind, Identity { last_sequence, ..Identity::new(kind as u64) })
    }

    fn follows(kind: Kind, sequence: u64) -> Cause {
        Cause { epoch: kind as u64, kind, sequence: Some(sequence) }
    }

    fn ends(logs: &Logs) -> Vec<u64> {
        logs.values().map(|log| log.last_sequence).collect()
    }

    #[test]
    fn what_follows_from_what_is_beyond_the_cut_goes_and_all_behind_it() {
        let mut logs = Logs::from([log(Kind::Wallet, 9), log(Kind::Product, 9), log(Kind::Order, 9)]);
        // Wallet 8 follows from an order that is not there; so does product 7 from that, and order 8 from this.
        let tails = Tails::from([
            (
                Kind::Wallet,
                vec![(7, follows(Kind::Order, 9)), (8, follows(Kind::Order, 10)), (9, follows(Kind::Order, 3))],
            ),
            (Kind::Product, vec![(6, follows(Kind::Wallet, 7)), (7, follows(Kind::Wallet, 8))]),
            (Kind::Order, vec![(8, follows(Kind::Product, 7)), (9, follows(Kind::Product, 6))]),
        ]);
        close(&mut logs, &tails);
        // And wallet 7 from order 9, which went last.
        assert_eq!(ends(&logs), [6, 5, 7]);
    }

    /// Records that are stored at random, each of which follows from one that was there before; the ends are looked at
    /// one after the other meanwhile, twice.
    #[test]
    fn nothing_goes_that_was_there_before_and_nothing_stays_whose_cause_went() {
        let mut rng = fastrand::Rng::with_seed(81);
        let mut shortened = 0;
        for _ in 0..2_000 {
            let mut records: BTreeMap<Kind, Vec<Option<(Kind, u64)>>> = Kind::ALL.map(|kind| (kind, vec![])).into();
            let mut looks = vec![];
            while looks.len() < 2 * Kind::ALL.len() {
                if rng.u8(..) < 40 {
                    let kind = Kind::ALL[looks.len() % Kind::ALL.len()];
                    looks.push((kind, records[&kind].len() as u64));
                } else {
                    let of = rng.choice(Kind::ALL).unwrap();
                    let cause = Some((of, records[&of].len() as u64)).filter(|(_, last)| *last > 0);
                    records.get_mut(&rng.choice(Kind::ALL).unwrap()).unwrap().push(cause);
                }
            }
            let (before, after) = looks.split_at(Kind::ALL.len());
            let mut logs: Logs = after.iter().map(|(kind, last)| log(*kind, *last)).collect();
            let tail = |(kind, last): &(Kind, u64)| {
                let records = records[kind].iter().zip(1..).skip(*last as usize);
                (*kind, records.filter_map(|(cause, at)| cause.map(|(of, cause)| (at, follows(of, cause)))).collect())
            };
            close(&mut logs, &before.iter().map(tail).collect());
            for ((kind, seen), (_, seen_later)) in before.iter().zip(after) {
                let end = logs[kind].last_sequence;
                assert!((*seen..=*seen_later).contains(&end), "{kind}: {seen} {end} {seen_later}");
                shortened += u32::from(end < *seen_later);
                for (of, cause) in records[kind].iter().take(end as usize).flatten() {
                    assert!(*cause <= logs[of].last_sequence, "{kind} up to {end} follows from {of} {cause}");
                }
            }
        }
        assert!(shortened > 1_000, "the ends were looked at one after the other: {shortened}");
    }
}
