//! `shop dead requeue`: puts a dead letter's bytes into its log once more.
//!
//! Only if that makes a difference: if this program can read them as a frame for one partition of
//! that log, and if that partition would accept a message of it. The link's numbers tell, as they
//! do for a host, so that what was applied before falls away and nothing is done twice.

use std::{collections::BTreeSet, process::ExitCode, sync::Arc};

use shop_domain::kind::Kind;
use shop_nats::{
    connection::Connection,
    jetstream::{
        JetStreamLog,
        dead::{DeadLetter, DeadLetters, Kept},
    },
    log::{
        Record, SharedLog,
        frame::{Frame, Payload},
    },
    subject::{self, partition_of},
};

use super::super::{Answered, Common, NO, OperatorError, Out, Progress, log, no, say};
use crate::replay::{Fate, Replay, merged_log::MergedLog};

/// A dead letter that can be read now.
struct Readable {
    kind: Kind,
    frame: Frame,
    /// As it was in the log, but for the partition that its messages are for.
    record: Record,
}

pub(super) async fn run(common: &Common, sequence: u64, out: &mut Out) -> Answered {
    let connection = common.connect("dead").await?;
    let dead = connection.dead_letters().await?;
    let letter = match dead.get(sequence).await? {
        Some(Kept::Letter(letter)) => letter,
        Some(Kept::Requeued { .. }) | None => return Ok(no(&format!("there is no dead letter {sequence}"))),
    };
    let log: SharedLog = Arc::new(JetStreamLog::open(&connection, &connection).await?);
    match read(&log, &letter).await? {
        Ok(readable) => put_back(common, &connection, &log, &dead, &letter, readable, out).await,
        Err(why) => Ok(no(&format!("dead letter {sequence} stays where it is: {why}"))),
    }
}

/// Reads a dead letter where it came from, or says why it cannot be put back there.
async fn read(log: &SharedLog, letter: &DeadLetter) -> Result<Result<Readable, String>, OperatorError> {
    let Some((kind, epoch, origin)) = subject::origin_of_dead(&letter.subject) else {
        return Ok(Err("it does not say from which log it is".into()));
    };
    let identity = log.identity(kind).await?;
    if identity.epoch != epoch {
        return Ok(Err(format!("it is from a log of {kind} that is gone (epoch {epoch:016x})")));
    }
    // A large one is not kept whole.
    let Some(record) = log.record(kind, origin).await? else {
        return Ok(Err(format!("the log of {kind} does not hold sequence {origin} any more")));
    };
    let frame = match record.read(kind) {
        Ok(Payload::Frame(frame)) => frame,
        Ok(Payload::Upgrade(_)) => return Ok(Err("it is an upgrade, which `shop upgrade` repeats".into())),
        Ok(Payload::Repair(_)) => return Ok(Err("it is a repair, which `shop link repair` repeats".into())),
        Err(error) => {
            let again = "it would only be a dead letter again";
            return Ok(Err(format!("this program cannot read it as a frame for the log of {kind} ({error}): {again}")));
        }
    };
    let partitions = frame.messages.iter().map(|envelope| partition_of(&envelope.to, identity.partitions));
    Ok(match partitions.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()[..] {
        [partition] => Ok(Readable { kind, frame, record: Record { partition, ..record } }),
        [] => Err("it holds no messages".into()),
        ref several => Err(format!("its messages are for the partitions {several:?} of {kind}, a frame is for one")),
    })
}

async fn put_back(
    common: &Common,
    connection: &Connection,
    log: &SharedLog,
    dead: &DeadLetters,
    letter: &DeadLetter,
    readable: Readable,
    out: &mut Out,
) -> Answered {
    let Readable { kind, frame, record } = readable;
    let (mut merged_log, mut replay) = common.begin(connection, &[kind]).await?.replay()?;
    read_to_the_end(&mut merged_log, &mut replay).await?;
    let acceptor = replay.acceptor();
    let would_be = acceptor.clone().read(kind, &record)?;
    if !would_be.any(|arrival| arrival.fate == Fate::Accepted) {
        let (number, last) = (frame.first, acceptor.accepted((kind, record.partition), frame.source));
        let why = if number > last + 1 {
            format!("its first message has the number {number} on its link, and number {} has not come yet", last + 1)
        } else {
            "all of its messages have come since".to_owned()
        };
        return Ok(no(&format!("dead letter {} stays where it is: {why}, so nothing would follow", letter.sequence)));
    }
    let sequence = log.append(kind, record.partition, record.payload).await?.await?;
    if let Err(error) = dead.note(letter, (kind, sequence)).await {
        say(&format_args!("it is in the log now, but that could not be noted: {error}"));
    }
    merged_log.extend().await?;
    while let Some((kind, record)) = merged_log.next().await? {
        let step = replay.apply_and_look(kind, &record, log::look)?;
        if record.sequence == sequence {
            log::one(&step, common.json, out)?;
            return Ok(if step.any(|(arrival, _)| arrival.fate == Fate::Accepted) {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(NO)
            });
        }
    }
    Ok(no(&format!("the log of {kind} does not show sequence {sequence}, which it has acknowledged")))
}

async fn read_to_the_end(merged_log: &mut MergedLog, replay: &mut Replay) -> Result<(), OperatorError> {
    let mut progress = Progress::of(merged_log);
    while let Some((kind, record)) = merged_log.next().await? {
        progress.step();
        replay.apply(kind, &record)?;
    }
    Ok(())
}
