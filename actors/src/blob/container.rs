//! What snapshots and backups are in bytes: a line that says so, parts, and a digest.
//!
//! A part is its length (4 bytes, the least first), then so many bytes, which are LZ4. Behind the last
//! one come a length of 0 and the XXH3 (64 bit, 8 bytes, the least first) of all bytes before it.
//!
//! LZ4, because what is read for a snapshot was LZ4 in its run and compresses no worse here, and
//! because both directions are so fast that a restore waits for the disk and not for the processor.

use std::{
    hash::Hasher as _,
    io::{self, Read},
};

use twox_hash::xxhash3_64::Hasher;

use crate::blob::object::{ObjectError, Take};

/// A part is closed once it has so many bytes: what either side holds at a time.
pub const PART_BYTES: usize = 256 * 1024;
/// Most bytes of a part: it may end with one thing more, of which the largest are far below this.
const PART_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// What a file begins with: another version of it would be another line.
pub type Line = [u8; 16];

/// Writes parts.
pub struct Writer<'a> {
    hasher: Hasher,
    take: Take<'a>,
}

impl<'a> Writer<'a> {
    /// Begins with a line.
    pub fn begin(line: &Line, take: Take<'a>) -> Result<Self, ObjectError> {
        let mut writer = Self { hasher: Hasher::new(), take };
        writer.write(line.to_vec())?;
        Ok(writer)
    }

    /// Writes a part.
    pub fn part(&mut self, bytes: &[u8]) -> Result<(), ObjectError> {
        self.stored_part(&lz4_flex::compress_prepend_size(bytes))
    }

    /// Writes a part as it was stored elsewhere.
    pub fn stored_part(&mut self, stored: &[u8]) -> Result<(), ObjectError> {
        self.write([&(stored.len() as u32).to_le_bytes()[..], stored].concat())
    }

    /// Writes the digest, and returns it.
    pub fn end(mut self) -> Result<u64, ObjectError> {
        self.write(0_u32.to_le_bytes().to_vec())?;
        let digest = self.hasher.finish();
        self.write(digest.to_le_bytes().to_vec())?;
        Ok(digest)
    }

    fn write(&mut self, bytes: Vec<u8>) -> Result<(), ObjectError> {
        self.hasher.write(&bytes);
        (self.take)(bytes.into())
    }
}

/// Reads parts. What was read is to be believed once [`Reader::part`] has returned none.
pub struct Reader<R> {
    bytes: R,
    hasher: Hasher,
}

impl<R: Read> Reader<R> {
    /// Reads the line, which must be this one; `what` names what begins so.
    pub fn begin(line: &Line, what: &str, bytes: R) -> Result<Self, ObjectError> {
        let mut reader = Self { bytes, hasher: Hasher::new() };
        let mut found = Line::default();
        reader.read(&mut found)?;
        if found == *line { Ok(reader) } else { Err(ObjectError::damaged(format!("it does not begin as {what} does"))) }
    }

    /// The next part; none at the end, if the digest is right.
    pub fn part(&mut self) -> Result<Option<Vec<u8>>, ObjectError> {
        let Some(stored) = self.stored_part()? else { return Ok(None) };
        // It says first how long it was: a wrong number must not take all memory.
        let said = stored.first_chunk().map_or(u32::MAX, |said| u32::from_le_bytes(*said));
        if said > PART_BYTES_MAX {
            return Err(ObjectError::damaged("a part that is no LZ4"));
        }
        let part = lz4_flex::decompress_size_prepended(&stored);
        part.map(Some).map_err(|error| ObjectError::damaged(error.to_string()))
    }

    /// The same as it is stored.
    pub fn stored_part(&mut self) -> Result<Option<Vec<u8>>, ObjectError> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        match u32::from_le_bytes(length) {
            0 => self.check_digest().map(|()| None),
            length if length > PART_BYTES_MAX => Err(ObjectError::damaged(format!("a part of {length} bytes"))),
            length => {
                let mut stored = vec![0; length as usize];
                self.read(&mut stored)?;
                Ok(Some(stored))
            }
        }
    }

    fn check_digest(&mut self) -> Result<(), ObjectError> {
        let expected = self.hasher.finish();
        let mut digest = [0; 8];
        self.bytes.read_exact(&mut digest).map_err(unreadable)?;
        if u64::from_le_bytes(digest) != expected {
            return Err(ObjectError::damaged("its digest is another one"));
        }
        match self.bytes.read(&mut [0]).map_err(unreadable)? {
            0 => Ok(()),
            _ => Err(ObjectError::damaged("it goes on behind its digest")),
        }
    }

    /// The digest of what was read so far, but for that itself.
    pub fn digest(&self) -> u64 {
        self.hasher.finish()
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), ObjectError> {
        self.bytes.read_exact(into).map_err(unreadable)?;
        self.hasher.write(into);
        Ok(())
    }
}

fn unreadable(error: io::Error) -> ObjectError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        ObjectError::damaged("it ends too early")
    } else {
        ObjectError::Store(error.to_string())
    }
}
