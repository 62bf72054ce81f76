//! `shop at`: an entity as callers would have seen it at some moment.
//!
//! Its log is replayed up to there; of the log, only what is for its partition counts.

use std::io::Write;

use clap::Args;
use shop_domain::{id::Id, kind::Kind, timestamp::Timestamp};
use shop_nats::{
    jetstream::JetStreamLog,
    log::{Log, LogError, Record},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Answered, Common, Out, Progress, name_parked, no, words};

/// Which entity, and when.
#[derive(Debug, Args)]
pub struct Options {
    /// wallet, product, order, delivery or mypage.
    kind: Kind,
    /// The entity's id.
    id: Id,
    #[command(flatten)]
    moment: Moment,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Moment {
    /// After the message at this sequence of the kind's log.
    #[arg(long)]
    seq: Option<u64>,
    /// At this time, in RFC 3339: 2026-11-22T15:15:12.184Z.
    #[arg(long, value_parser = timestamp)]
    time: Option<Timestamp>,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { kind, id, moment, common } = options;
    let connection = common.connect("at").await?;
    let beginning = common.begin(&connection, &[kind]).await?;
    let last = beginning.merged_log.ends().map(|(_, end)| end).next().unwrap_or(0);
    if let Some(seq) = moment.seq.filter(|seq| *seq > last) {
        return Ok(no(&format!("the log of {kind} ends at sequence {last}: {seq} is yet to come")));
    }
    let gaps = words::gaps(beginning.gaps());
    if let (Some(known), Some(gaps)) = (beginning.known(kind, &id), gaps)
        && moment.is_unknown(&JetStreamLog::open(&connection, &connection).await?, kind, known).await?
    {
        return Ok(no(&format!("what was before sequence {known} of {kind} cannot be told any more: {gaps}")));
    }
    let (mut merged_log, mut replay) = beginning.replay()?;
    let mut progress = Progress::of(&merged_log);
    while let Some((kind, record)) = merged_log.next().await? {
        progress.step();
        if moment.is_before(&record) {
            break;
        }
        replay.apply_for(&id, kind, &record)?;
    }
    drop(progress);
    let Some(view) = words::view(kind, &id, replay.entity(kind, &id), usize::MAX) else {
        return Ok(no(&format!("there was no {kind} {id} then")));
    };
    if common.json {
        writeln!(out, "{view}")?
    } else {
        writeln!(out, "{view:#}")?
    }
    Ok(name_parked(&replay))
}

impl Moment {
    /// Whether it is before the snapshot that goes up to `known`.
    async fn is_unknown(&self, log: &JetStreamLog, kind: Kind, known: u64) -> Result<bool, LogError> {
        let Some(time) = self.time else { return Ok(self.seq.is_some_and(|seq| seq < known)) };
        let first = log.identity(kind).await?.first_sequence;
        // Where others had the last word, the log may begin behind it.
        let record = log.record(kind, known.max(first)).await?;
        Ok(record.is_some_and(|record| record.time > time))
    }

    fn is_before(&self, record: &Record) -> bool {
        self.seq.is_some_and(|seq| record.sequence > seq) || self.time.is_some_and(|time| record.time > time)
    }
}

fn timestamp(text: &str) -> Result<Timestamp, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| error.to_string())?;
    let ms = u64::try_from(time.unix_timestamp_nanos() / 1_000_000);
    ms.map(Timestamp::from_unix_ms).map_err(|_| "must not be before 1970".to_owned())
}
