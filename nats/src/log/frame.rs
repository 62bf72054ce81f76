//! Frames: the messages that one sender had for one partition at one moment, as one JetStream message.
//!
//! A frame is a version byte and a MessagePack map with field names: `source`, `cause` (not of doors), `first`,
//! `messages`.
//! A frame without messages is a [receipt](receipt). Beside frames, a partition's log may hold upgrades, whose map has
//! the one field `upgrade`; and repairs, which begin as an upgrade to a version that there never is, so that a program
//! from before there were repairs stops there, and go on with a map `source`, `cause`, `accepted`, `first`, `messages`.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shop_domain::{
    encode::{self, encode},
    kind::Kind,
    logic::Logic,
    message::Envelope,
};

/// The version byte that leads every frame and every upgrade.
const VERSION: u8 = 1;
/// What an upgrade goes on with: a map of one field. A frame has more.
const UPGRADE_MAP: u8 = 0x81;
/// How a repair begins: an upgrade to a version that there never is.
const REPAIR: &[u8] = b"\x81\xa7upgrade\xce\xff\xff\xff\xff";

/// Most bytes of messages in one frame. Well below the server's default `max_payload` (1 MiB), with
/// room for one message of the largest size after the limit is all but reached.
pub const FRAME_BYTES_MAX: usize = 512 * 1024;

/// Who numbered the messages of a frame. A stream that was made anew, and a door that was started
/// anew, count from 1 again: the epoch tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Source {
    /// The sender.
    pub origin: Origin,
    /// For a partition, the link epoch of its log; for a door, a number drawn when it began to count.
    pub epoch: u64,
}

/// Who sends frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A door: commands from outside.
    Door,
    /// A partition of a kind: messages from its entities.
    Partition(Kind, u16),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Door => write!(f, "door {:016x}", self.epoch),
            Origin::Partition(kind, partition) => write!(f, "{kind}/{partition} of epoch {:016x}", self.epoch),
        }
    }
}

/// A frame as it is read from the log.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Frame {
    /// Who sent it.
    pub source: Source,
    /// For a partition, the sequence in its log up to which all that its messages follow from is. It may be beyond
    /// that, as another host may have applied more at once. None for a door, and from before there was this.
    #[serde(default)]
    pub cause: Option<u64>,
    /// The number of its first message on the link from the source to this partition.
    pub first: u64,
    /// The messages, numbered one by one from `first`.
    pub messages: Vec<Envelope>,
}

impl Frame {
    /// Up to which sequence a frame at `sequence` of a partition's own log, which is that of `source`, vouches that all
    /// that follows is in the logs; nothing unless it is a [`receipt`].
    pub fn vouches(&self, source: Source, sequence: u64) -> Option<u64> {
        let is_receipt = self.source == source && self.messages.is_empty();
        // Of what comes behind it, it can know nothing.
        is_receipt.then(|| self.cause.unwrap_or(0).min(sequence))
    }
}

/// From here on the partition behaves by another logic version. It is not numbered, because
/// saying so twice is harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// The number of the version.
    #[serde(rename = "upgrade")]
    pub logic: u32,
}

/// What an operator has written into the log of a partition that has taken in, under the numbers of a link, what the
/// sender has not sent: from here on the link counts as the sender does, and these messages are let in, which had those
/// numbers in truth and were skipped. It is written once, behind what was known to have come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Repair {
    /// Whose messages the link brings.
    pub source: Source,
    /// The sequence in the log of the source up to which all is that its messages follow from, if there are some.
    pub cause: Option<u64>,
    /// The number of the last message that counts as accepted from here on.
    pub accepted: u64,
    /// The number of the first of the messages.
    pub first: u64,
    /// The messages, numbered one by one from `first`; there may be none.
    pub messages: Vec<Envelope>,
}

/// What a partition's log holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// Messages for its entities.
    Frame(Frame),
    /// Numbers of a link that are put right.
    Repair(Repair),
    /// A change of their behaviour.
    Upgrade(Upgrade),
}

/// From which log, and from what in it at the latest, a record's messages follow; none for what is not from a
/// partition, or cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The link epoch of that log.
    pub epoch: u64,
    /// Whose log it is.
    pub kind: Kind,
    /// The sequence; none from before frames said so.
    pub sequence: Option<u64>,
}

impl Cause {
    /// The cause that a record says it has. The messages themselves are not looked at.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        /// What of a frame is of interest.
        #[derive(Deserialize)]
        struct Head {
            source: Source,
            #[serde(default)]
            cause: Option<u64>,
        }
        let body = bytes.strip_prefix(&[VERSION])?;
        let Head { source, cause: sequence } = encode::decode(body.strip_prefix(REPAIR).unwrap_or(body)).ok()?;
        match source.origin {
            Origin::Door => None,
            Origin::Partition(kind, _) => Some(Self { epoch: source.epoch, kind, sequence }),
        }
    }
}

/// Why bytes in the log are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The message has no bytes.
    #[error("no bytes")]
    Empty,
    /// It is of a version that this program does not know.
    #[error("frame version {0} instead of {VERSION}")]
    Version(u8),
    /// What follows the version byte is not a frame.
    #[error("not a frame: {0}")]
    Body(#[from] rmp_serde::decode::Error),
    /// A message for an entity of another kind.
    #[error("a message to a {found} in the log of {expected}")]
    Kind {
        /// Whose log it is.
        expected: Kind,
        /// Whom the message is for.
        found: Kind,
    },
    /// It is not from where the messages of this log come.
    #[error("it has the subject {0:?}, which is none of this log's")]
    Subject(Box<str>),
    /// It would change how entities behave, and no program of the shop has written it.
    #[error("an operator has let it be skipped")]
    Skipped,
    /// Numbers count from 1.
    #[error("messages numbered from 0")]
    Unnumbered,
}

impl Payload {
    /// Reads bytes as what the log of `kind` holds; of a record see [`Record::read`](crate::log::Record::read).
    pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Self, FrameError> {
        let (version, body) = bytes.split_first().ok_or(FrameError::Empty)?;
        if *version != VERSION {
            return Err(FrameError::Version(*version));
        }
        if body.first() == Some(&UPGRADE_MAP) {
            // What follows and cannot be read is of a newer program, and this one must not go on.
            return match body.strip_prefix(REPAIR).map(encode::decode) {
                Some(Ok(repair)) => Self::Repair(repair).checked(kind),
                Some(Err(_)) | None => Ok(Self::Upgrade(encode::decode(body)?)),
            };
        }
        Self::Frame(encode::decode(body)?).checked(kind)
    }

    /// The same, if its messages are for that kind and are numbered.
    fn checked(self, kind: Kind) -> Result<Self, FrameError> {
        let (Self::Frame(Frame { first, messages, .. }) | Self::Repair(Repair { first, messages, .. })) = &self else {
            return Ok(self);
        };
        if *first == 0 {
            return Err(FrameError::Unnumbered);
        }
        match messages.iter().map(|envelope| envelope.message.kind()).find(|found| *found != kind) {
            Some(found) => Err(FrameError::Kind { expected: kind, found }),
            None => Ok(self),
        }
    }
}

impl Repair {
    /// Its bytes in the log.
    pub fn encode(&self) -> Bytes {
        let mut bytes = [&[VERSION], REPAIR].concat();
        rmp_serde::encode::write_named(&mut bytes, self).expect("writing to memory cannot fail");
        bytes.into()
    }
}

/// Whether bytes may be a frame of a door. Where they are not, it costs next to nothing to find out: as a frame of a
/// partition begins, none of a door can.
pub fn may_be_of_a_door(bytes: &[u8]) -> bool {
    const OF_A_PARTITION: &[u8] = b"\xa6source\x82\xa6origin\x81\xa9partition";
    !bytes.get(2..).is_some_and(|body| body.starts_with(OF_A_PARTITION))
}

/// An upgrade that changes nothing, wherever it stands: there is no older version.
pub(crate) fn nothing() -> Bytes {
    Upgrade { logic: Logic::V1.number() }.encode()
}

/// Whether bytes may be an upgrade. Few records of a log are.
pub(crate) fn may_be_an_upgrade(bytes: &[u8]) -> bool {
    bytes.starts_with(&[VERSION, UPGRADE_MAP])
}

/// Whether bytes are an upgrade to a version that this program knows.
pub(crate) fn is_known_upgrade(bytes: &[u8]) -> bool {
    let upgrade: Option<Upgrade> = bytes.strip_prefix(&[VERSION]).and_then(|body| encode::decode(body).ok());
    upgrade.is_some_and(|upgrade| Logic::try_from(upgrade.logic).is_ok())
}

impl Upgrade {
    /// Its bytes in the log.
    pub fn encode(self) -> Bytes {
        let mut bytes = vec![VERSION];
        rmp_serde::encode::write_named(&mut bytes, &self).expect("writing to memory cannot fail");
        bytes.into()
    }
}

/// A message as its bytes, ready to be put into a frame.
#[derive(Clone, Debug)]
pub struct EncodedMessage(Vec<u8>);

impl EncodedMessage {
    /// Encodes a message once, whichever frame it ends up in.
    pub fn new(envelope: &Envelope) -> Self {
        Self(encode(envelope))
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// Puts messages of a door into frames of at most [`FRAME_BYTES_MAX`] (or one message), numbered from `first`.
/// Returns each frame with the number that follows its last message.
pub fn frames(source: Source, first: u64, messages: &[EncodedMessage]) -> Vec<(Bytes, u64)> {
    frames_of(source, None, first, messages)
}

/// The same with messages that follow from what is in the log of their source up to the sequence `cause`.
pub fn frames_caused(source: Source, cause: u64, first: u64, messages: &[EncodedMessage]) -> Vec<(Bytes, u64)> {
    frames_of(source, Some(cause), first, messages)
}

/// What the owner of a partition writes into the partition's own log: a frame without messages, of the partition itself,
/// by which a standby knows that all that follows from the log up to the sequence `cause` is in the logs. Its epoch is
/// that of the log, not of its links: where a backup is restored, the logs may end before what was said of them.
/// It changes nothing, and is of no account to a program that does not know what it means.
pub fn receipt(source: Source, cause: u64) -> Bytes {
    join(source, Some(cause), 1, &[])
}

fn frames_of(source: Source, cause: Option<u64>, first: u64, messages: &[EncodedMessage]) -> Vec<(Bytes, u64)> {
    let mut frames = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, message) in messages.iter().enumerate() {
        if index > start && bytes + message.bytes() > FRAME_BYTES_MAX {
            frames.push((start, index));
            (start, bytes) = (index, 0);
        }
        bytes += message.bytes();
    }
    if start < messages.len() {
        frames.push((start, messages.len()));
    }
    frames
        .into_iter()
        .map(|(start, end)| (join(source, cause, first + start as u64, &messages[start..end]), first + end as u64))
        .collect()
}

fn join(source: Source, cause: Option<u64>, first: u64, messages: &[EncodedMessage]) -> Bytes {
    let content: usize = messages.iter().map(EncodedMessage::bytes).sum();
    let mut bytes = Vec::with_capacity(content + 96);
    bytes.push(VERSION);
    let head = "writing to memory cannot fail";
    rmp::encode::write_map_len(&mut bytes, 3 + u32::from(cause.is_some())).expect(head);
    rmp::encode::write_str(&mut bytes, "source").expect(head);
    rmp_serde::encode::write_named(&mut bytes, &source).expect(head);
    if let Some(cause) = cause {
        rmp::encode::write_str(&mut bytes, "cause").expect(head);
        rmp::encode::write_uint(&mut bytes, cause).expect(head);
    }
    rmp::encode::write_str(&mut bytes, "first").expect(head);
    rmp::encode::write_uint(&mut bytes, first).expect(head);
    rmp::encode::write_str(&mut bytes, "messages").expect(head);
    rmp::encode::write_array_len(&mut bytes, messages.len() as u32).expect(head);
    for message in messages {
        bytes.extend_from_slice(&message.0);
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use shop_domain::{message::Message, order, wallet};

    use super::*;

    const SOURCE: Source = Source { origin: Origin::Partition(Kind::Order, 3), epoch: 7 };

    fn refund(order: &str) -> Envelope {
        let message = Message::Wallet(wallet::Message::Refund { order: order.parse().unwrap() });
        Envelope { to: "alice".parse().unwrap(), message, request: None, trace: None }
    }

    #[test]
    fn what_was_framed_is_read_back() {
        let sent = [refund("o-1"), refund("o-2")];
        let encoded: Vec<_> = sent.iter().map(EncodedMessage::new).collect();
        for (frames, cause) in
            [(frames_caused(SOURCE, 17, 41, &encoded), Some(17)), (frames(SOURCE, 41, &encoded), None)]
        {
            assert_eq!(frames.len(), 1);
            assert_eq!(frames[0].1, 43);
            let frame = Frame { source: SOURCE, cause, first: 41, messages: sent.to_vec() };
            assert_eq!(Payload::decode(Kind::Wallet, &frames[0].0).unwrap(), Payload::Frame(frame));
            let expected = Cause { epoch: SOURCE.epoch, kind: Kind::Order, sequence: cause };
            assert_eq!(Cause::of(&frames[0].0), Some(expected));
        }
        let of_a_door = frames(Source { origin: Origin::Door, epoch: 1 }, 1, &encoded).remove(0).0;
        assert!(may_be_of_a_door(&of_a_door) && may_be_of_a_door(b""));
        assert!(!may_be_of_a_door(&frames_caused(SOURCE, 17, 41, &encoded).remove(0).0));
        for without in [&of_a_door[..], &Upgrade { logic: 2 }.encode(), b"", b"hello"] {
            assert_eq!(Cause::of(without), None);
        }
    }

    #[test]
    fn a_receipt_is_a_frame_without_messages_that_vouches_for_its_own_log_alone() {
        let Payload::Frame(frame) = Payload::decode(Kind::Order, &receipt(SOURCE, 17)).unwrap() else {
            panic!("no frame")
        };
        assert_eq!(frame, Frame { source: SOURCE, cause: Some(17), first: 1, messages: vec![] });
        assert_eq!((frame.vouches(SOURCE, 20), frame.vouches(SOURCE, 9)), (Some(17), Some(9)));
        let others = [Source { epoch: 8, ..SOURCE }, Source { origin: Origin::Partition(Kind::Order, 4), ..SOURCE }];
        assert!(others.iter().all(|other| frame.vouches(*other, 20).is_none()));
        let with_messages = Frame { messages: vec![refund("o-1")], ..frame };
        assert_eq!(with_messages.vouches(SOURCE, 20), None);
    }

    #[test]
    fn many_messages_are_cut_into_frames_that_number_on() {
        let reason = "x".repeat(64 * 1024);
        let message = Message::Order(order::Message::Cancel { reason: Some(reason.into()) });
        let envelope = Envelope { to: "o-1".parse().unwrap(), message, request: None, trace: None };
        let encoded: Vec<_> = std::iter::repeat_n(EncodedMessage::new(&envelope), 20).collect();
        let mut next = 1;
        for (bytes, after) in frames(SOURCE, 1, &encoded) {
            assert!(bytes.len() <= FRAME_BYTES_MAX + 128);
            let Payload::Frame(frame) = Payload::decode(Kind::Order, &bytes).unwrap() else { panic!("no frame") };
            assert_eq!(frame.first, next);
            next += frame.messages.len() as u64;
            assert_eq!(after, next);
        }
        assert_eq!(next, 21);
    }

    /// On a thread as small as those that run a host.
    #[test]
    fn bytes_that_are_nested_without_end_are_refused_and_overflow_no_stack() {
        let nested = |opening: u8, depth: usize| {
            let mut bytes = vec![VERSION, 0x82, 0xa1, b'x'];
            bytes.extend(std::iter::repeat_n(opening, depth));
            bytes
        };
        for bytes in [nested(0x91, 1_000), nested(0x91, 100_000), nested(0x81, 100_000), nested(0xdc, 100_000)] {
            assert!(Payload::decode(Kind::Wallet, &bytes).is_err());
            assert_eq!(Cause::of(&bytes), None);
            let upgrade = [&[VERSION, UPGRADE_MAP][..], &bytes[2..]].concat();
            assert!(Payload::decode(Kind::Wallet, &upgrade).is_err());
            let bundle = Bytes::copy_from_slice(&bytes[1..]);
            assert!(crate::rpc::bundle::decode_requests(&bundle, Some("_INBOX.shop.b.b3"), None).is_none());
            assert!(crate::rpc::bundle::decode_answers(&bundle).is_none());
        }
    }

    /// What says that it is longer than it is takes no memory for that.
    #[test]
    fn lengths_that_are_not_there_are_refused() {
        let says = |length: &[u8]| {
            [&b"\x01\x83\xa6source\x82\xa6origin\xa4door\xa5epoch\x01\xa5first\x01\xa8messages"[..], length].concat()
        };
        for length in
            [&b"\xdd\xff\xff\xff\xff"[..], b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"]
        {
            assert!(Payload::decode(Kind::Wallet, &says(length)).is_err());
        }
        assert!(Payload::decode(Kind::Wallet, &says(b"\x90")).is_ok());
    }

    #[test]
    fn an_upgrade_has_the_bytes_that_it_always_had() {
        let upgrade = Upgrade { logic: 2 };
        assert_eq!(&upgrade.encode()[..], b"\x01\x81\xa7upgrade\x02");
        assert_eq!(Payload::decode(Kind::Wallet, &upgrade.encode()).unwrap(), Payload::Upgrade(upgrade));
        let cut_off = &upgrade.encode()[..6];
        assert!(matches!(Payload::decode(Kind::Wallet, cut_off), Err(FrameError::Body(_))));
    }

    /// As a program reads it that knows of no repairs.
    #[test]
    fn a_repair_is_an_upgrade_without_end_to_a_program_from_before_there_were_repairs() {
        let repair = Repair {
            source: SOURCE,
            cause: Some(17),
            accepted: 9,
            first: 3,
            messages: vec![refund("o-1"), refund("o-2")],
        };
        let bytes = repair.encode();
        assert_eq!(Payload::decode(Kind::Wallet, &bytes).unwrap(), Payload::Repair(repair.clone()));
        let as_before: Upgrade = encode::decode(&bytes[1..]).unwrap();
        assert_eq!(as_before, Upgrade { logic: u32::MAX });
        assert!(Logic::try_from(as_before.logic).is_err() && !is_known_upgrade(&bytes));
        // Neither does this one go on where it is not what it knows.
        for cut_off in [&bytes[..bytes.len() - 1], &bytes[..1 + REPAIR.len()]] {
            assert_eq!(Payload::decode(Kind::Wallet, cut_off).unwrap(), Payload::Upgrade(as_before));
        }
        assert!(matches!(Payload::decode(Kind::Product, &bytes), Err(FrameError::Kind { .. })));
        let cause = Cause { epoch: SOURCE.epoch, kind: Kind::Order, sequence: Some(17) };
        assert_eq!(Cause::of(&bytes), Some(cause));
        let unnumbered = Repair { first: 0, ..repair }.encode();
        assert!(matches!(Payload::decode(Kind::Wallet, &unnumbered), Err(FrameError::Unnumbered)));
    }

    #[test]
    fn bytes_that_are_not_a_frame_are_refused_with_a_reason() {
        let frame = frames(SOURCE, 1, &[EncodedMessage::new(&refund("o-1"))]).remove(0).0;
        assert!(matches!(Payload::decode(Kind::Wallet, b""), Err(FrameError::Empty)));
        assert!(matches!(Payload::decode(Kind::Wallet, b"hello"), Err(FrameError::Version(b'h'))));
        assert!(matches!(Payload::decode(Kind::Wallet, &frame[..frame.len() - 1]), Err(FrameError::Body(_))));
        assert!(matches!(Payload::decode(Kind::Product, &frame), Err(FrameError::Kind { .. })));
        let unnumbered = frames(SOURCE, 0, &[EncodedMessage::new(&refund("o-1"))]).remove(0).0;
        assert!(matches!(Payload::decode(Kind::Wallet, &unnumbered), Err(FrameError::Unnumbered)));
    }
}
