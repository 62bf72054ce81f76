//! What a stream is in a backup: [parts](crate::blob::container), of which the first is the [`Header`]; the others are messages
//! one behind the other, without a gap. All is MessagePack.

use std::io::{self, Read};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use shop_domain::{encode, kind::Kind, timestamp::Timestamp};
use shop_nats::{jetstream::restore::Stored, stream::topology::PARTITIONS_MAX, subject};
use tokio::sync::mpsc;

use crate::{
    blob::{
        container::{self, Line, PART_BYTES, Writer},
        object::{ObjectError, Take},
    },
    link::NUMBER_MAX,
};

const LINE: &Line = b"shop backup v 1\n";

/// What stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Which log; none for the dead letters.
    pub(crate) log: Option<Log>,
    /// The sequence of the first message.
    pub(crate) first: u64,
    /// The sequence of the last one; `first - 1` when there is none.
    pub(crate) last: u64,
}

/// What log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Log {
    /// Whose.
    pub(crate) kind: Kind,
    /// Its epoch.
    pub(crate) epoch: u64,
    /// The epoch by which links know it.
    pub(crate) link_epoch: u64,
    /// In how many partitions the kind is cut.
    pub(crate) partitions: u16,
    /// The number of the logic version that it begins with.
    pub(crate) logic: u32,
}

impl Header {
    /// Whether a stream can be like this.
    fn is_possible(&self) -> bool {
        let partitions = self.log.map_or(1, |log| log.partitions);
        let goes_on = self.last.checked_add(1).is_some_and(|next| (1..=next).contains(&self.first));
        goes_on && self.last <= NUMBER_MAX && (1..=PARTITIONS_MAX).contains(&partitions)
    }

    /// How many messages there are.
    pub(crate) fn messages(&self) -> u64 {
        self.last + 1 - self.first
    }
}

/// As it is stored; times are milliseconds since the Unix epoch.
type Item = (u64, String, u64, Vec<(String, String)>, ByteBuf);

/// Writes messages until there are no more; returns the digest.
pub(super) fn write(header: Header, mut messages: mpsc::Receiver<Stored>, take: Take<'_>) -> Result<u64, ObjectError> {
    let mut writer = Writer::begin(LINE, take)?;
    writer.part(&rmp_serde::to_vec_named(&header).expect("a header always encodes"))?;
    let mut part = Vec::with_capacity(PART_BYTES * 2);
    while let Some(Stored { sequence, subject, time, headers, payload }) = messages.blocking_recv() {
        let item = (sequence, &subject, time.unix_ms(), &headers, serde_bytes::Bytes::new(&payload));
        rmp_serde::encode::write(&mut part, &item).expect("a message always encodes");
        if part.len() >= PART_BYTES {
            writer.part(&part)?;
            part.clear();
        }
    }
    if !part.is_empty() {
        writer.part(&part)?;
    }
    writer.end()
}

/// Reads messages: all that the header names, and last of all, as an error, that they are not as they were written.
pub(crate) struct Reader<R> {
    parts: container::Reader<R>,
    header: Header,
    part: io::Cursor<Vec<u8>>,
    next: u64,
    is_over: bool,
}

impl<R: Read> Reader<R> {
    /// Reads up to behind the header.
    pub(crate) fn begin(bytes: R) -> Result<Self, ObjectError> {
        let mut parts = container::Reader::begin(LINE, "a part of a backup", bytes)?;
        let header = parts.part()?.ok_or_else(|| ObjectError::damaged("it has no header"))?;
        let header: Header =
            encode::decode(&header).map_err(|error| ObjectError::damaged(format!("its header: {error}")))?;
        if !header.is_possible() {
            return Err(ObjectError::damaged("no stream can be as its header says"));
        }
        Ok(Self { parts, next: header.first, header, part: io::Cursor::new(vec![]), is_over: false })
    }

    /// What stream it says to be.
    pub(crate) fn header(&self) -> Header {
        self.header
    }

    /// The digest that it has, once all messages were read.
    pub(crate) fn digest(&self) -> u64 {
        self.parts.digest()
    }

    fn read(&mut self) -> Result<Option<Stored>, ObjectError> {
        if self.part.position() as usize == self.part.get_ref().len() {
            match self.parts.part()? {
                Some(part) => self.part = io::Cursor::new(part),
                None if self.next.checked_sub(1) == Some(self.header.last) => return Ok(None),
                None => return Err(ObjectError::damaged(format!("it does not hold sequence {}", self.next))),
            }
        }
        let item: Result<Item, _> = encode::decode_next(&mut self.part);
        let (sequence, subject, time, headers, payload) =
            item.map_err(|error| ObjectError::damaged(format!("a message: {error}")))?;
        if sequence != self.next {
            return Err(ObjectError::damaged(format!("sequence {sequence} where {} should be", self.next)));
        }
        self.next += 1;
        if self.header.log.is_none() && !subject::is_of_dead(&subject) {
            return Err(ObjectError::damaged(format!("it holds a message to {subject} among the dead letters")));
        }
        let (time, payload) = (Timestamp::from_unix_ms(time), Bytes::from(payload.into_vec()));
        Ok(Some(Stored { sequence, subject, time, headers, payload }))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Stored, ObjectError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let message = self.read().transpose();
        self.is_over = !matches!(message, Some(Ok(_)));
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(count: u64) -> impl Iterator<Item = Stored> {
        (4..4 + count).map(|sequence| Stored {
            sequence,
            subject: format!("shop.log.wallet.{}", sequence % 3),
            time: Timestamp::from_unix_ms(1_700_000_000_000 + sequence),
            headers: vec![("Shop-Dead-Reason".to_owned(), "none".to_owned())],
            payload: Bytes::from(vec![sequence as u8; 100]),
        })
    }

    fn file(header: Header, messages: impl Iterator<Item = Stored>) -> (Vec<u8>, u64) {
        let (sender, receiver) = mpsc::channel(10_000);
        messages.for_each(|message| sender.try_send(message).unwrap());
        drop(sender);
        let mut bytes = Vec::new();
        let digest = write(header, receiver, &mut |piece| {
            bytes.extend(piece);
            Ok(())
        });
        (bytes, digest.unwrap())
    }

    fn header(count: u64) -> Header {
        let log = Log { kind: Kind::Wallet, epoch: 7, link_epoch: 6, partitions: 3, logic: 2 };
        Header { log: Some(log), first: 4, last: 3 + count }
    }

    fn read_all(bytes: &[u8]) -> Result<(Header, Vec<Stored>, u64), ObjectError> {
        let mut reader = Reader::begin(bytes)?;
        let messages = reader.by_ref().collect::<Result<Vec<_>, _>>()?;
        Ok((reader.header(), messages, reader.digest()))
    }

    #[test]
    fn messages_are_read_back_as_they_were() {
        for count in [0, 1, 5_000] {
            let (bytes, digest) = file(header(count), messages(count));
            assert_eq!(read_all(&bytes).unwrap(), (header(count), messages(count).collect(), digest));
        }
    }

    #[test]
    fn whatever_byte_is_changed_missing_or_added_it_is_not_believed() {
        let (bytes, _) = file(header(40), messages(40));
        let mut rng = fastrand::Rng::with_seed(9);
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << rng.u8(0..8);
            assert!(matches!(read_all(&changed), Err(ObjectError::Damaged(_))), "a change at {place}");
            assert!(matches!(read_all(&bytes[..place]), Err(ObjectError::Damaged(_))), "cut at {place}");
        }
        assert!(read_all(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn messages_that_are_missing_are_noticed() {
        for (missing, why) in [(4, "sequence 5 where 4"), (9, "sequence 10 where 9"), (13, "does not hold sequence 13")]
        {
            let (bytes, _) = file(header(10), messages(10).filter(|message| message.sequence != missing));
            let error = read_all(&bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
