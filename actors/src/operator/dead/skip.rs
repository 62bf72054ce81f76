//! `shop dead skip`: lets a record be skipped at which every host stops, because it says that entities behave by a version
//! that no program of this shop knows.
//!
//! What tells a forged one from one by a newer program is not in the record. So it is the operator who decides, and
//! whatever speaks for a newer program stands in the way: a host that knows the version, or a snapshot that was
//! written behind it.
//!
//! It is noted among the dead letters, under a subject of its own and for good; whoever reads such a record, now or in
//! years, by whichever program, looks there. So all come to the same.

use std::{io::Write, process::ExitCode, str::FromStr, sync::Arc};

use shop_domain::{kind::Kind, logic::Logic};
use shop_nats::{
    connection::Connection,
    jetstream::JetStreamLog,
    log::{
        Record, SharedLog,
        frame::{Payload, Upgrade},
    },
    rpc::discovery::Announced,
};

use super::super::{Answered, Common, OperatorError, Out, consent::Consent, hosts, no, say, words};

/// A record of a log: `wallet/17`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    kind: Kind,
    sequence: u64,
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, sequence) = text.split_once('/').ok_or("not a log and a sequence, as wallet/17 is")?;
        let kind = kind.parse().map_err(|_| format!("there is no log of {kind:?}"))?;
        let sequence = sequence.parse().map_err(|_| format!("{sequence:?} is no sequence"))?;
        Ok(Self { kind, sequence })
    }
}

pub(super) async fn run(common: &Common, at: Position, consent: Consent, out: &mut Out) -> Answered {
    let Position { kind, sequence } = at;
    let connection = common.connect("dead").await?;
    let log: SharedLog = Arc::new(JetStreamLog::open(&connection, &connection).await?);
    let Some(record) = log.record(kind, sequence).await? else {
        return Ok(no(&format!("the log of {kind} does not hold sequence {sequence}")));
    };
    if record.is_skipped {
        say(&format_args!("{kind}/{sequence} is skipped already; nothing was written"));
        return Ok(ExitCode::SUCCESS);
    }
    let version = match record.read(kind) {
        Ok(Payload::Upgrade(Upgrade { logic })) if Logic::try_from(logic).is_err() => logic,
        Ok(Payload::Upgrade(Upgrade { logic })) => {
            return Ok(no(&format!(
                "{kind}/{sequence} is an upgrade to logic version {logic}, which this program knows"
            )));
        }
        Ok(Payload::Frame(_) | Payload::Repair(_)) => {
            return Ok(no(&format!("{kind}/{sequence} holds messages: no host stops there")));
        }
        Err(error) => return Ok(no(&format!("{kind}/{sequence} is a dead letter ({error}): no host stops there"))),
    };
    if let Some(sign) = sign_of_a_newer_program(common, &connection, &log, (kind, &record), version).await? {
        return Ok(no(&format!("{kind}/{sequence} stays in force: {sign}, so a newer program may have written it")));
    }
    writeln!(
        out,
        "{kind}/{sequence}, of {}, says that {} behaves by logic version {version} from there on. Every host of {kind} \
         that does not know that version stops there.",
        record.time,
        words::place((kind, record.partition)),
    )?;
    writeln!(
        out,
        "To skip it is for good, and for every program: {} goes on as it behaved before. If a newer program has written \
         it, and one has already gone on by it, the shop will be at odds with itself: use that program instead.",
        words::place((kind, record.partition)),
    )?;
    if let Some(code) = consent.ask(out)? {
        return Ok(code);
    }
    connection.dead_letters().await?.skip(kind, &record).await?;
    writeln!(out, "{kind}/{sequence} is skipped from now on; the hosts of {kind} go on within seconds")?;
    Ok(ExitCode::SUCCESS)
}

/// What speaks for a newer program that has written this.
async fn sign_of_a_newer_program(
    common: &Common,
    connection: &Connection,
    log: &SharedLog,
    (kind, record): (Kind, &Record),
    version: u32,
) -> Result<Option<String>, OperatorError> {
    let hosts = hosts(connection).await?;
    if let Some(host) = hosts.iter().find(|host| host.logic.is_some_and(|logic| logic >= version)) {
        let Announced { kind, id, version: program, .. } = host;
        return Ok(Some(format!(
            "a host of {kind} (version {program}, service id {id}) knows logic version {version}"
        )));
    }
    let Some(snapshots) = common.snapshots(connection).await? else { return Ok(None) };
    let epoch = log.identity(kind).await?.epoch;
    let place = (kind, record.partition);
    let beyond = snapshots.list(place, epoch).await?.into_iter().find(|kept| kept.name.cursor >= record.sequence);
    Ok(beyond.map(|kept| {
        let (place, cursor) = (words::place(place), kept.name.cursor);
        format!("there is a snapshot of {place} at sequence {cursor}, which is behind it")
    }))
}
