//! Recorded logs, and what came of every record in them. What yesterday's log made, today's program
//! makes of it: a change of behaviour that has no logic version of its own is found here.
//!
//! A recording is never made anew. When there is a new logic version, another one is added:
//! `SHOP_GOLDEN_NAME=logic-3 cargo test -p shop-tests --test integration golden::record -- --ignored`.

mod recorder;

use std::{
    collections::BTreeSet,
    fs,
    hash::Hasher,
    path::{Path, PathBuf},
};

use fnv::FnvHasher;
use serde::{Deserialize, Serialize};
use shop_actors::replay::{Content, Entity, Handled, Replay, Step};
use shop_domain::{kind::Kind, logic::Logic, message::Message, timestamp::Timestamp};
use shop_nats::log::{Identity, Logs, Record, frame::Payload};

/// All logs of a shop, in the order of time.
#[derive(Debug, Serialize, Deserialize)]
struct Recording {
    logs: Vec<RecordedLog>,
    records: Vec<Recorded>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordedLog {
    kind: Kind,
    epoch: u64,
    partitions: u16,
    logic: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Recorded {
    kind: Kind,
    sequence: u64,
    partition: u16,
    unix_ms: u64,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
}

impl Recording {
    fn logs(&self) -> Logs {
        let identity =
            |log: &RecordedLog| Identity { partitions: log.partitions, logic: log.logic, ..Identity::new(log.epoch) };
        self.logs.iter().map(|log| (log.kind, identity(log))).collect()
    }

    /// Replays all of it; what came of each record.
    fn replay(&self, logs: Logs) -> Vec<(String, Step<Handled>)> {
        let mut replay = Replay::new(logs);
        let step = |one: &Recorded| {
            let (sequence, partition, time) = (one.sequence, one.partition, Timestamp::from_unix_ms(one.unix_ms));
            let payload = one.payload.clone().into();
            let record = Record { sequence, partition, time, payload, foreign: None, is_skipped: false };
            let mut digest = FnvHasher::default();
            let step = replay.apply_and_look(one.kind, &record, |handled, entity| {
                add_to(&mut digest, &handled, entity);
                handled
            });
            let step = step.expect("a recording is of a version that is known");
            (format!("{}/{partition} {sequence} {:016x}", one.kind, digest.finish()), step)
        };
        self.records.iter().map(step).collect()
    }

    fn without_upgrades(self) -> Self {
        let is_upgrade = |one: &Recorded| matches!(Payload::decode(one.kind, &one.payload), Ok(Payload::Upgrade(_)));
        Self { records: self.records.into_iter().filter(|one| !is_upgrade(one)).collect(), ..self }
    }

    /// The digests as they are written down: log and partition, sequence, digest.
    fn digests(&self) -> String {
        self.replay(self.logs()).into_iter().map(|(line, _)| line + "\n").collect()
    }
}

/// Everything that a message did: whether it was let in, the state and the rows that it left
/// behind, what was sent and under which number, who was answered and what.
fn add_to(digest: &mut FnvHasher, handled: &Handled, entity: Option<&Entity>) {
    digest.write_u64(handled.arrival.number);
    digest.write_u8(handled.arrival.fate as u8);
    if let Some(entity) = entity {
        entity.digest(digest);
    }
    for sent in &handled.sent {
        digest.write(format!("{}/{} {}", sent.to.0, sent.to.1, sent.number).as_bytes());
        digest.write(&rmp_serde::to_vec_named(&sent.envelope).unwrap());
    }
    for reply in &handled.replies {
        digest.write(reply.to.inbox.as_bytes());
        digest.write(reply.answer.error.as_deref().unwrap_or_default().as_bytes());
        digest.write(&reply.answer.body);
        digest.write_u8(reply.replayed.into());
    }
}

#[test]
fn what_recorded_logs_made_they_make_again() {
    for path in recordings() {
        let recording = read(&path);
        let expected = fs::read_to_string(path.with_extension("digests")).unwrap();
        let steps = recording.replay(recording.logs());
        assert_eq!(expected.lines().count(), steps.len(), "{}", path.display());
        for ((line, step), expected) in steps.iter().zip(expected.lines()) {
            assert_eq!(
                line,
                expected,
                "{}: this record does not do what it did. If that is meant, it needs a logic version of its own \
                 (actors/domain/src/logic.rs) and another recording; if not, it is a mistake: {step:#?}",
                path.display()
            );
        }
    }
}

#[test]
fn the_recordings_hold_thousands_of_messages_of_every_sort_and_tell_the_logic_versions_apart() {
    let recordings: Vec<_> = recordings().iter().map(|path| read(path)).collect();
    let (mut sorts, mut count) = (BTreeSet::new(), 0);
    for recording in &recordings {
        for (_, step) in recording.replay(recording.logs()) {
            match step.content {
                Content::Frame { messages, .. } => {
                    count += messages.len();
                    sorts.extend(messages.iter().map(|handled| sort_of(&handled.arrival.envelope.message)));
                }
                Content::Dead { .. } => drop(sorts.insert("dead letter".to_owned())),
                Content::Upgrade(logic) => drop(sorts.insert(format!("upgrade to {logic}"))),
            }
        }
    }
    assert!(count > 3_000, "only {count} messages are recorded");
    let missing: Vec<_> = SORTS.iter().filter(|sort| !sorts.contains(**sort)).collect();
    assert!(missing.is_empty(), "these are in no recording: {missing:?}");

    // All of what was recorded, under one version from the beginning to the end.
    let all: Vec<_> = recordings.into_iter().map(Recording::without_upgrades).collect();
    let lines = |logic: Logic| {
        let lines = all.iter().flat_map(|recording| {
            let mut logs = recording.logs();
            logs.values_mut().for_each(|log| log.logic = logic.number());
            recording.replay(logs).into_iter().map(|(line, _)| line)
        });
        lines.collect::<Vec<_>>()
    };
    for (older, newer) in Logic::ALL.into_iter().zip(Logic::ALL.into_iter().skip(1)) {
        assert!(lines(older) != lines(newer), "logic versions {older} and {newer} do the same");
    }
}

/// What there has to be in the recordings.
const SORTS: [&str; 27] = [
    "wallet open",
    "wallet top_up",
    "wallet charge",
    "wallet refund",
    "product create",
    "product restock",
    "product change",
    "product take",
    "product put_back",
    "order place",
    "order cancel",
    "order charged",
    "order charge_refused",
    "order taken",
    "order take_refused",
    "order delivery_cancelled",
    "order delivery_kept",
    "delivery schedule",
    "delivery cancel",
    "delivery dispatch",
    "delivery deliver",
    "mypage order_changed",
    "mypage delivery_changed",
    "dead letter",
    "upgrade to 2",
    "upgrade to 3",
    "upgrade to 4",
];

fn sort_of(message: &Message) -> String {
    let value = serde_json::to_value(message).unwrap();
    let (kind, message) = value.as_object().and_then(|kinds| kinds.iter().next()).expect("a message is of a kind");
    let name = message.as_str().or_else(|| message.as_object()?.keys().next().map(String::as_str));
    format!("{kind} {}", name.expect("a message has a name"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn recordings() -> Vec<PathBuf> {
    let files = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "logs")).collect();
    files.sort();
    assert!(!files.is_empty(), "there is no recording");
    files
}

fn read(path: &Path) -> Recording {
    rmp_serde::from_slice(&fs::read(path).unwrap()).unwrap()
}
