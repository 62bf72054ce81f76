//! `shop audit`: replays all logs through the domain code, in memory, and holds everything
//! against everything else.
//!
//! Where a log was cut, the replay begins at the snapshots of its partitions. These are of different moments,
//! so that of some messages only the cause or only the arrival is replayed: their numbers are compared.
//!
//! The shop may be open meanwhile. What is compared is therefore fixed first, and whatever is on
//! its way there is given the time to arrive:
//!
//! 1. *The cut.* The last sequence of every log is taken, and the logs are replayed up to there.
//!    The five positions are not of one moment, so that of some messages the cut holds the cause
//!    but not yet the arrival, or the arrival but not the cause: the `messages` on their way.
//! 2. *The `books`* are made up at the cut. An order that is not settled, or that a message on
//!    its way belongs to, is under way: it is counted, and nothing is expected of it. All other
//!    money and pieces must belong to orders as these say.
//! 3. *The `hosts`* are asked for every entity that there is at the cut. A host answers when it
//!    has applied all that the log held when it was asked, so its answer is of the cut or later.
//! 4. *The tail*, all that the logs took meanwhile, is replayed. An answer that was not that of
//!    the cut must be one of the states that the entity went through in the tail. Every message
//!    that had arrived at the cut must have its cause by now, because a cause is in its log before
//!    what it causes; and every message that was caused at the cut must have arrived. The hosts
//!    that send those are given a little more time, a bounded number of times. Messages of a kind
//!    that nobody serves wait for its host: they are counted.
//!
//! What came from *doors* is let in, or has come before: anything else is a difference.

mod books;
mod doors;
mod hosts;
mod messages;

use std::{collections::BTreeMap, io::Write, process::ExitCode, time::Duration};

use clap::Args;
use serde::Serialize;
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::connection::Connection;

use self::{books::Books, doors::Doors, hosts::Hosts, messages::Messages};
use super::{Answered, Common, NO, OperatorError, Out, Progress, words};
use crate::replay::{Content, Fate, Handled, Replay, Step, merged_log::MergedLog};

/// Most differences that are named; all are counted.
const NAMED_MAX: usize = 50;
/// How often the tail is read once more for messages that have not arrived, and the pause before:
/// together far longer than a host that serves takes to send what it has caused.
const TAILS_MAX: u64 = 40;
const TAIL_PAUSE: Duration = Duration::from_millis(250);

/// How to audit.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
}

/// What does not add up: the first ones by name, all by number.
#[derive(Debug, Default, Serialize)]
struct Differences {
    count: usize,
    named: Vec<String>,
}

/// What the log of a kind holds, up to the cut.
#[derive(Debug, Default, Serialize)]
struct Tally {
    sequence: u64,
    entities: usize,
    messages: u64,
    duplicates: u64,
    beyond_holes: u64,
    dead_letters: u64,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let connection = options.common.connect("audit").await?;
    let beginning = options.common.begin(&connection, &Kind::ALL).await?;
    let cut = words::gaps(beginning.gaps());
    let (merged_log, replay) = beginning.replay()?;
    let report = Audit::new(merged_log, replay, cut).run(&connection).await?;
    if options.common.json {
        report.for_programs(out)?
    } else {
        report.for_people(out)?
    }
    Ok(if report.differences.count == 0 { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

/// An audit under way.
struct Audit {
    merged_log: MergedLog,
    replay: Replay,
    messages: Messages,
    doors: Doors,
    differences: Differences,
    progress: Option<Progress>,
    /// Which logs were cut.
    cut: Option<String>,
}

/// What came out.
struct Report {
    cut: Option<String>,
    tallies: BTreeMap<Kind, Tally>,
    books: Books,
    messages: Messages,
    /// Messages that wait for the host of their sender.
    waiting: usize,
    hosts: Hosts,
    differences: Differences,
}

impl Audit {
    fn new(merged_log: MergedLog, replay: Replay, cut: Option<String>) -> Self {
        let messages = Messages::new(&replay);
        let (doors, differences) = (Doors::default(), Differences::default());
        Self { merged_log, replay, messages, doors, differences, progress: None, cut }
    }

    async fn run(mut self, connection: &Connection) -> Result<Report, OperatorError> {
        let mut tallies: BTreeMap<Kind, Tally> = Kind::ALL.map(|kind| (kind, Tally::default())).into();
        self.progress = Some(Progress::of(&self.merged_log));
        self.read(|step, _| tallies.entry(step.kind).or_default().count(step)).await?;
        self.progress = None;
        for (kind, tally) in &mut tallies {
            tally.entities = self.replay.entities(*kind).count();
        }
        let cut: BTreeMap<Kind, u64> = self.merged_log.ends().collect();
        let under_way = self.messages.orders();
        let books = Books::make_up(&self.replay, &under_way, &mut self.differences);

        let mut hosts = Hosts::ask(connection, &self.replay).await;
        let mut waiting = Progress::new("waiting for messages", TAILS_MAX);
        for tail in 0..=TAILS_MAX {
            if tail > 0 {
                tokio::time::sleep(TAIL_PAUSE).await;
                waiting.step();
            }
            self.merged_log.extend().await?;
            self.read(|step, replay| hosts.compare(step, replay)).await?;
            if self.messages.missing(&cut).all(|message| !hosts.serve(message.from.0)) {
                break;
            }
        }
        for (place, parked) in self.replay.parked() {
            self.differences.name(|| words::parked(*place, parked));
        }
        drop(waiting);
        hosts.name(&mut self.differences);
        self.messages.name_unexpected(&cut, &mut self.differences);
        self.messages.name_wrong(&mut self.differences);
        self.messages.name_lost(&mut self.differences);
        self.doors.name(&mut self.differences);
        let mut waiting = 0;
        for message in self.messages.missing(&cut) {
            if hosts.serve(message.from.0) {
                self.differences.name(|| format!("{message} was caused but is not in the log"));
            } else {
                waiting += 1;
            }
        }
        let Self { messages, differences, cut, .. } = self;
        Ok(Report { cut, tallies, books, messages, waiting, hosts, differences })
    }

    /// Replays up to the end of the merged log.
    async fn read(&mut self, mut seen: impl FnMut(&Step<Handled>, &Replay)) -> Result<(), OperatorError> {
        while let Some((kind, record)) = self.merged_log.next().await? {
            self.progress.iter_mut().for_each(Progress::step);
            let step = self.replay.apply(kind, &record)?;
            self.messages.enter(&step, &mut self.differences);
            self.doors.enter(&step);
            seen(&step, &self.replay);
        }
        Ok(())
    }
}

impl Differences {
    fn name(&mut self, difference: impl FnOnce() -> String) {
        self.count += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(difference());
        }
    }
}

impl Tally {
    fn count(&mut self, step: &Step<Handled>) {
        self.sequence = step.sequence;
        match &step.content {
            Content::Upgrade(_) => {}
            Content::Dead { .. } => self.dead_letters += 1,
            Content::Frame { messages, .. } => {
                for handled in messages {
                    match handled.arrival.fate {
                        Fate::Accepted => self.messages += 1,
                        Fate::Duplicate => self.duplicates += 1,
                        Fate::BeyondHole => self.beyond_holes += 1,
                    }
                }
            }
        }
    }
}

impl Report {
    fn for_people(&self, out: &mut Out) -> std::io::Result<()> {
        writeln!(
            out,
            "{:<9} {:>9} {:>9} {:>9} {:>11} {:>14} {:>13}",
            "kind", "sequence", "entities", "messages", "duplicates", "beyond a hole", "dead letters"
        )?;
        for (kind, tally) in &self.tallies {
            let Tally { sequence, entities, messages, duplicates, beyond_holes, dead_letters } = tally;
            let kind = kind.as_str();
            writeln!(
                out,
                "{kind:<9} {sequence:>9} {entities:>9} {messages:>9} {duplicates:>11} {beyond_holes:>14} {dead_letters:>13}"
            )?;
        }
        let Books { put_in, balances, charged, stock, taken, orders } = &self.books;
        writeln!(out)?;
        writeln!(out, "money     put in {put_in} = balances {balances} + charged {charged}")?;
        writeln!(out, "pieces    came in {} = stock {stock} + taken {taken}", stock + taken)?;
        writeln!(
            out,
            "orders    {} confirmed, {} rejected, {} cancelled, {} under way",
            orders.confirmed, orders.rejected, orders.cancelled, orders.under_way
        )?;
        write!(out, "messages  {} between partitions arrived as they were sent", self.messages.matched)?;
        if self.waiting > 0 {
            write!(out, ", {} wait for the host of their sender", self.waiting)?;
        }
        if self.messages.mended > 0 {
            write!(out, ", {} were put right by repairs", self.messages.mended)?;
        }
        writeln!(out)?;
        if let Some(cut) = &self.cut {
            writeln!(out, "snapshots stand for what came before: {cut}")?;
        }
        let Hosts { agreed, unanswered, .. } = &self.hosts;
        writeln!(out, "hosts     {agreed} entities are as their hosts say")?;
        for (kind, (count, why)) in unanswered {
            writeln!(out, "          {count} of {kind} could not be compared: {why}")?;
        }
        writeln!(out)?;
        let Differences { count, named } = &self.differences;
        if *count == 0 {
            return writeln!(out, "no differences");
        }
        writeln!(out, "{count} {}", if *count == 1 { "difference" } else { "differences" })?;
        named.iter().try_for_each(|difference| writeln!(out, "- {difference}"))?;
        match count - named.len() {
            0 => Ok(()),
            more => writeln!(out, "- … and {more} more"),
        }
    }

    fn for_programs(&self, out: &mut Out) -> std::io::Result<()> {
        let Hosts { agreed, unanswered, .. } = &self.hosts;
        let unanswered: BTreeMap<_, _> =
            unanswered.iter().map(|(kind, (count, why))| (kind, json!({ "entities": count, "why": why }))).collect();
        let report = json!({
            "cut": self.cut,
            "clean": self.differences.count == 0,
            "kinds": self.tallies,
            "books": self.books,
            "messages": { "arrived_as_sent": self.messages.matched, "waiting": self.waiting, "mended": self.messages.mended },
            "hosts": { "agreed": agreed, "not_compared": unanswered },
            "differences": self.differences,
        });
        writeln!(out, "{report}")
    }
}
