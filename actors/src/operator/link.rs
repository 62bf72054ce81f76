//! `shop link repair`: gets links going again that count further than their senders do.
//!
//! Messages from one partition to another are numbered by the sender, and the receiver skips numbers that it has had. What
//! somebody else appends under the next numbers of a link is let in, and what the sender then sends under them is
//! skipped: the orders that wait for it wait for ever. The log of the sender says what it has sent, that of the receiver what
//! came. So both are compared, link by link, and what was skipped though it never was let in is written into the receiver's
//! log once more, in a record of its own, which also sets the link back to where its sender is.
//!
//! Nothing is done twice by it. A message is written only if nothing of its content was let in under its number, and only
//! behind what is known to have come: the server takes the record only if the partition's log still ends there. Whoever
//! repairs again finds it there.

mod ledger;

use std::{collections::BTreeMap, io::Write, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::jetstream::JetStreamLog;
use tokio::time::sleep;

use self::ledger::{Ledgers, Mend};
use super::{Answered, Common, NO, OperatorError, Out, Progress, consent::Consent, no, say, words};
use crate::replay::{Replay, merged_log::MergedLog};

/// How often is tried to write behind what is known, while the doors hold: the messages under way come to an end meanwhile.
const TRIES_MAX: usize = 200;
/// Pause before the logs are looked at again.
const PAUSE: Duration = Duration::from_millis(50);
/// Most messages of a link that are named; all are counted.
const NAMED_MAX: usize = 20;

/// What to do with links.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Bring what was swallowed because somebody else used its numbers, and set links back to where their senders are.
    ///
    /// Compares the logs of senders and receivers, and says what it will do before it does it. The doors hold what changes
    /// something for a moment. What it writes is a record in the receiver's log, which `log` shows; older programs stop
    /// there. What the forged messages have done themselves stays: `audit` says whether that adds up.
    Repair {
        #[command(flatten)]
        consent: Consent,
        #[command(flatten)]
        common: Common,
    },
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let What::Repair { consent, common } = options.what;
    let connection = common.connect("link").await?;
    let (merged_log, replay) = common.begin(&connection, &Kind::ALL).await?.replay()?;
    let ledgers = Ledgers::new(&replay);
    let mut books = Books { merged_log, replay, ledgers };
    let mut progress = Progress::of(&books.merged_log);
    books.read(|| progress.step()).await?;
    drop(progress);
    let ends = books.go_on().await?;
    if let Some((place, parked)) = books.replay.parked().iter().next() {
        return Ok(no(&format!("{}: what it would have sent is not known", words::parked(*place, parked))));
    }
    for (from, to) in books.ledgers.unknown() {
        say(&format_args!(
            "what was let in on the link from {} to {} goes beyond what was sent, but came before what the logs still \
             hold: it cannot be repaired",
            words::place(from),
            words::place(to)
        ));
    }
    let mends = books.mends(&ends);
    if mends.is_empty() {
        say(&"nothing to repair");
        let is_whole = books.ledgers.unknown().next().is_none();
        return Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(NO) });
    }
    mends.iter().try_for_each(|mend| tell(mend, common.json, out))?;
    if let Some(code) = consent.ask(out)? {
        return Ok(code);
    }
    let log = JetStreamLog::open(&connection, &connection).await?;
    let holding = connection.hold_doors();
    let done = books.mend(&log).await;
    connection.open_doors(holding).await;
    let count = done?;
    let Some(count) = count else {
        return Ok(no("the logs do not come to rest: some links may not be repaired yet; the same command goes on"));
    };
    say(&format_args!("repaired with {count} record(s); the orders that waited go on"));
    Ok(ExitCode::SUCCESS)
}

/// The logs, and what they say of the links.
struct Books {
    merged_log: MergedLog,
    replay: Replay,
    ledgers: Ledgers,
}

impl Books {
    async fn read(&mut self, mut step: impl FnMut()) -> Result<(), OperatorError> {
        while let Some((kind, record)) = self.merged_log.next().await? {
            step();
            let step = self.replay.apply(kind, &record)?;
            self.ledgers.enter(&step);
        }
        Ok(())
    }

    /// Reads on. Returns where the logs ended before: what came up to there has its cause in what is read now, because a
    /// cause is in its log before what it causes.
    async fn go_on(&mut self) -> Result<BTreeMap<Kind, u64>, OperatorError> {
        let ends = self.merged_log.ends().collect();
        self.merged_log.extend().await?;
        self.read(|| {}).await?;
        Ok(ends)
    }

    fn mends(&self, ends: &BTreeMap<Kind, u64>) -> Vec<Mend> {
        self.ledgers.mends(self.replay.acceptor(), ends)
    }

    /// Repairs, and looks again, until there is nothing more to repair. Returns how many records that took.
    async fn mend(&mut self, log: &JetStreamLog) -> Result<Option<usize>, OperatorError> {
        let mut count = 0;
        for _ in 0..TRIES_MAX {
            let ends = self.go_on().await?;
            let mends = self.mends(&ends);
            if mends.is_empty() {
                return Ok(Some(count));
            }
            for mend in mends {
                let (kind, partition) = mend.to;
                let written = log.append_behind(kind, partition, mend.record().encode(), ends[&kind]).await?;
                count += usize::from(written.is_some());
            }
            sleep(PAUSE).await;
        }
        Ok(None)
    }
}

fn tell(mend: &Mend, json: bool, out: &mut Out) -> std::io::Result<()> {
    let Mend { from, to, accepted, sent, swallowed, .. } = mend;
    let (from, to) = (words::place(*from), words::place(*to));
    if json {
        let message = |(number, envelope): (u64, &shop_domain::message::Envelope)| json!({ "number": number, "entity": envelope.to, "message": words::json_of(&envelope.message) });
        let messages: Vec<_> = mend.messages().map(message).collect();
        let line = json!({ "from": from, "to": to, "accepted": accepted, "sent": sent, "swallowed": messages });
        return writeln!(out, "{line}");
    }
    writeln!(
        out,
        "from {from} to {to}: number {accepted} was let in last, and number {sent} is the last one that was sent. \
         {} message(s) of those that were sent were not let in. A record in the log of {to} will let them in, and from \
         there on number {} comes next:",
        swallowed.len(),
        sent + 1,
    )?;
    for (number, envelope) in mend.messages().take(NAMED_MAX) {
        writeln!(out, "- {number:>6}  {}  {}", envelope.to, words::line_of(&envelope.message))?;
    }
    match swallowed.len().saturating_sub(NAMED_MAX) {
        0 => Ok(()),
        more => writeln!(out, "- … and {more} more"),
    }
}
