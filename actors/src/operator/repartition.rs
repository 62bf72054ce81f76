//! `shop repartition`: cuts kinds into another number of partitions, while the shop goes on.
//!
//! All hosts have to take part: one that keeps no snapshots could not begin anew from those that are written
//! here, and an older one would not hold its doors. So all are asked first.

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::{Args, builder::RangedI64ValueParser};
use serde_json::json;
use shop_domain::kind::Kind;
use shop_nats::{
    connection::Connection,
    log::Logs,
    rpc::discovery::Announced,
    stream::{layout::Layout, topology::PARTITIONS_MAX},
};

use super::{Answered, Common, NO, OperatorError, Out, UNKNOWN, hosts, no, say, snapshots_of};
use crate::{
    repartition::{self, GetsOn, Repartition, RepartitionError, Written},
    snapshot::Snapshots,
};

/// How often they are asked whether they have begun anew.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long they may take: each reads its snapshots.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);

/// What is to be cut, and into how many partitions.
#[derive(Debug, Args)]
pub struct Options {
    /// Which kinds, separated by commas [default: all].
    #[arg(long, value_delimiter = ',', value_name = "KINDS")]
    kind: Vec<Kind>,
    /// Into how many partitions.
    #[arg(long, value_parser = RangedI64ValueParser::<u16>::new().range(1..=i64::from(PARTITIONS_MAX)))]
    to: u16,
    /// A folder with room for all that the shop knows, three times; what is put there is removed at the end
    /// [default: one of its own where temporary files go].
    #[arg(long, value_name = "FOLDER")]
    work_dir: Option<PathBuf>,
    /// Though no host says that it could go on: they were all stopped for it.
    #[arg(long)]
    without_hosts: bool,
    #[command(flatten)]
    common: Common,
}

/// How long each part took.
struct Times {
    /// Until it knew all that the shop knows; nobody notices that.
    followed: Duration,
    /// Until nothing was under way any more.
    settled: Duration,
    /// Until all was written.
    written: Duration,
    /// Until hosts of all kinds served under the new count.
    begun: Duration,
    /// From the first to the last moment at which doors held.
    held: Duration,
}

pub(super) async fn run(options: Options, out: &mut Out) -> Answered {
    let Options { kind, to, work_dir, without_hosts, common } = options;
    let hosts = hosts(&common.connect("repartition").await?).await?;
    let snapshots = match common.named_snapshots() {
        Some(url) => Some(Snapshots::find(url)?),
        None => snapshots_of(&hosts)?,
    };
    if let Some(obstacle) = obstacle(&hosts, snapshots.as_ref(), without_hosts) {
        return Ok(no(&obstacle));
    }
    let Some(snapshots) = snapshots else {
        return Ok(no("what is cut anew is written as snapshots; say where the hosts keep theirs with --snapshots"));
    };
    let kinds = if kind.is_empty() { Kind::ALL.to_vec() } else { kind };
    let partitions = kinds.into_iter().map(|kind| (kind, to)).collect();
    match cut_anew(&common, &snapshots, work_dir, partitions, !without_hosts).await {
        Ok(Some(done)) => {
            if common.json {
                done.for_programs(out)?
            } else {
                done.for_people(&snapshots, out)?
            }
            Ok(ExitCode::SUCCESS)
        }
        Ok(None) => Ok(no(&format!("there are {to} partitions already; nothing was changed"))),
        Err(error) => Ok(failed(&error)),
    }
}

/// Says why it did not come to a good end, and what that means for the shop.
fn failed(error: &RepartitionError) -> ExitCode {
    let unchanged = if matches!(error, RepartitionError::InDoubt { .. }) { "" } else { "; nothing was changed" };
    say(&format_args!("{error}{unchanged}"));
    ExitCode::from(if error.is_refusal() { NO } else { UNKNOWN })
}

/// What speaks against beginning, if anything does.
fn obstacle(hosts: &[Announced], snapshots: Option<&Snapshots>, without_hosts: bool) -> Option<String> {
    for Announced { kind, id, version, snapshots: place, .. } in hosts {
        let why = match place {
            None => "it keeps no snapshots (--snapshots), or is of an older version".to_owned(),
            Some(place) if snapshots.is_some_and(|snapshots| *place != snapshots.place()) => {
                format!("it keeps its snapshots in {place}")
            }
            Some(_) => continue,
        };
        return Some(format!("a host of {kind} (version {version}, service id {id}) could not go on: {why}"));
    }
    let is_missing = |kind: &Kind| !without_hosts && hosts.iter().all(|host| host.kind != *kind);
    Kind::ALL.into_iter().find(is_missing).map(|kind| {
        let advice = "start one, or say --without-hosts if all are stopped for this";
        format!("no host of {kind} says that it could go on: {advice}")
    })
}

/// Does it, unless there are so many partitions already.
async fn cut_anew(
    common: &Common,
    snapshots: &Snapshots,
    work_dir: Option<PathBuf>,
    partitions: BTreeMap<Kind, u16>,
    is_served: bool,
) -> Result<Option<Done>, RepartitionError> {
    let folder = match work_dir {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let folder = folder.map_err(RepartitionError::Folder)?;
    let connection = Connection::connect(&common.access, "shop repartition").await?;
    let options = repartition::Options {
        nats: common.access.clone(),
        snapshots: snapshots.clone(),
        folder: folder.path().to_owned(),
        partitions,
    };
    let repartition = Repartition::begin(&connection, options).await?;
    if repartition.changes_nothing() {
        return Ok(None);
    }
    carry_out(&connection, repartition, is_served).await.map(Some)
}

async fn carry_out(
    connection: &Connection,
    mut repartition: Repartition,
    is_served: bool,
) -> Result<Done, RepartitionError> {
    let (begin, before) = (Instant::now(), repartition.logs().clone());
    say(&"following the logs; the shop goes on");
    repartition.catch_up().await?;
    let (followed, hold) = (begin.elapsed(), Instant::now());
    say(&"the doors hold what changes something");
    let holding = connection.hold_doors();
    let owner = holding.owner();
    let outcome = change(repartition, Arc::new(move || owner.renew())).await;
    let changed = Instant::now();
    if let Ok(Changed { next, .. }) = &outcome
        && is_served
    {
        say(&"it is in force; the hosts begin anew");
        begun(connection, next.generation).await;
    }
    connection.open_doors(holding).await;
    let Changed { next, written, settled, wrote } = outcome?;
    let (begun, held) = (changed.elapsed(), hold.elapsed());
    Ok(Done { before, next, written, times: Times { followed, settled, written: wrote, begun, held } })
}

/// Waits until hosts of all kinds serve under the new layout.
async fn begun(connection: &Connection, generation: u32) {
    let deadline = Instant::now() + BEGIN_LIMIT;
    loop {
        connection.look().await;
        // Whoever cannot be asked now is asked once more.
        let hosts = connection.hosts(LOOK_INTERVAL).await.unwrap_or_default();
        let serves = |kind: Kind| hosts.iter().any(|host| host.kind == kind && host.layout == generation);
        match Kind::ALL.into_iter().find(|kind| !serves(*kind)) {
            None => return,
            Some(kind) if Instant::now() > deadline => {
                return say(&format_args!("no host of {kind} serves under the new layout yet; look at their logs"));
            }
            Some(_) => {}
        }
    }
}

/// What came of it while the doors held, and how long that took.
struct Changed {
    next: Layout,
    written: BTreeMap<Kind, Written>,
    settled: Duration,
    wrote: Duration,
}

/// The pause of the doors is renewed whenever it `gets_on`: when it does not, they open by themselves.
async fn change(repartition: Repartition, gets_on: GetsOn) -> Result<Changed, RepartitionError> {
    let begin = Instant::now();
    let everything = repartition.settle().await?;
    let settled = begin.elapsed();
    say(&"nothing is under way any more; writing all that there is");
    gets_on();
    let ready = everything.rewrite_telling(Arc::clone(&gets_on)).await?;
    gets_on();
    let wrote = begin.elapsed() - settled;
    let (next, written) = (ready.next().clone(), ready.written.clone());
    ready.commit().await?;
    Ok(Changed { next, written, settled, wrote })
}

/// What was done.
struct Done {
    before: Logs,
    next: Layout,
    written: BTreeMap<Kind, Written>,
    times: Times,
}

impl Done {
    fn for_people(&self, snapshots: &Snapshots, out: &mut Out) -> Result<(), OperatorError> {
        let Self { before, next, written, times } = self;
        for (kind, cut) in &next.kinds {
            let Written { entities, items, bytes } = written[kind];
            let (from, to, kind) = (before[kind].partitions, cut.partitions, kind.as_str());
            let rows = items - entities;
            writeln!(
                out,
                "{kind:<9} {from:>3} -> {to:>3} partitions: {entities} entities, {rows} rows, {bytes} bytes"
            )?;
        }
        let Times { followed, settled, written, begun, held } = times;
        let [followed, settled, written, begun, held] =
            [followed, settled, written, begun, held].map(Duration::as_secs_f64);
        writeln!(out, "\nthe snapshots are in {}", snapshots.url())?;
        writeln!(out, "followed the logs for {followed:.1} s beside the shop; then the doors held for {held:.1} s:")?;
        writeln!(out, "settled in {settled:.1} s, written in {written:.1} s, the hosts began anew in {begun:.1} s")?;
        Ok(())
    }

    fn for_programs(&self, out: &mut Out) -> Result<(), OperatorError> {
        let Self { before, next, written, times } = self;
        for (kind, cut) in &next.kinds {
            let Written { entities, items, bytes } = written[kind];
            let line = json!({
                "log": kind,
                "from": before[kind].partitions,
                "to": cut.partitions,
                "begins_at": cut.begins_at,
                "entities": entities,
                "rows": items - entities,
                "bytes": bytes,
            });
            writeln!(out, "{line}")?;
        }
        let Times { followed, settled, written, begun, held } = times;
        let [followed, settled, written, begun, held] =
            [followed, settled, written, begun, held].map(Duration::as_secs_f64);
        let line = json!({
            "generation": next.generation,
            "followed_seconds": followed,
            "settled_seconds": settled,
            "written_seconds": written,
            "begun_seconds": begun,
            "held_seconds": held,
        });
        Ok(writeln!(out, "{line}")?)
    }
}

#[cfg(test)]
mod tests {
    use shop_nats::stream::layout::LayoutError;

    use super::*;

    #[test]
    fn a_no_ends_with_one_and_what_could_not_be_found_out_with_two() {
        let server = || LayoutError::Server { stream: "SHOP_LAYOUT".into(), reason: "timed out".into() };
        let in_doubt =
            RepartitionError::InDoubt { error: Box::new(LayoutError::Overtaken.into()), unanswered: server() };
        assert!(!in_doubt.to_string().contains("nothing was changed"));
        for (error, code) in [
            (RepartitionError::Unsettled("a message".into()), NO),
            (RepartitionError::Upgrading(Kind::Order), NO),
            (LayoutError::Overtaken.into(), NO),
            (LayoutError::WentOn(Kind::Order).into(), NO),
            (server().into(), UNKNOWN),
            (in_doubt, UNKNOWN),
        ] {
            assert_eq!(failed(&error), ExitCode::from(code), "{error}");
        }
    }
}
