//! Keys of programs: a file with the hash of each, from which no key can be made, and what is allowed to whom.
//!
//! The file is looked at again at most once a second, when a key comes. One that cannot be read, or in which a line is
//! wrong, changes nothing: the keys that are known stay, the log says what is wrong, and a metric that it is so.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use shop_domain::id::Id;
use shop_nats::private;
use subtle::ConstantTimeEq;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{AuthError, identity::Identity, refusal::Refusal, token::hash_of};
use crate::scope::Scopes;

/// What every key begins with, so that it is known for one wherever it turns up.
pub(crate) const KEY_PREFIX: &str = "shop_";
/// How often the file is looked at, at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Most keys of a file: each that comes is compared with all of them.
const KEYS_MAX: usize = 1_000;
/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1_048_576;
/// Longest key, in characters, that is worth a hash.
const KEY_LENGTH_MAX: usize = 128;

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    /// The caller's name.
    pub(crate) name: Id,
    /// The SHA-256 of the key, in hexadecimal digits.
    pub(crate) sha256: String,
    pub(crate) scopes: Vec<String>,
    /// Who answers for it: for people.
    pub(crate) owner: String,
    /// Until when it is good, RFC 3339.
    pub(crate) expires: String,
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
enum BadFile {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is larger than {FILE_BYTES_MAX} bytes")]
    Large,
    #[error("others than its owner can change it (its mode is {0:03o}); close it: chmod 600")]
    Open(u32),
    #[error("line {0}: {1}")]
    Line(usize, String),
    #[error("it has more than {KEYS_MAX} keys")]
    Many,
}

/// The keys of programs.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    file: PathBuf,
    keys: RwLock<Arc<[ApiKey]>>,
    look: Mutex<Look>,
    is_good: AtomicBool,
}

#[derive(Debug)]
struct ApiKey {
    hash: [u8; 32],
    identity: Arc<Identity>,
    expires_at: OffsetDateTime,
}

/// When the file was looked at last, and which it was.
#[derive(Debug)]
struct Look {
    at: Instant,
    seen: Option<Stamp>,
}

/// What is another one when the file is.
type Stamp = (SystemTime, u64, u64);

impl ApiKeys {
    /// Those of a file, which must be good at the beginning.
    pub(crate) fn open(file: PathBuf) -> Result<Self, AuthError> {
        let seen = stamp(&file).ok();
        let keys = read(&file).map_err(|error| AuthError::file("--api-keys", &file, &error))?;
        if let Ok(Some(mode)) = private::open_to_others(&file) {
            tracing::warn!("{} can be read by others than its owner (its mode is {mode:03o})", file.display());
        }
        let look = Mutex::new(Look { at: Instant::now(), seen });
        Ok(Self { file, keys: RwLock::new(keys.into()), look, is_good: AtomicBool::new(true) })
    }

    /// Whose key this is.
    pub(crate) fn check(&self, key: &str) -> Result<Arc<Identity>, Refusal> {
        self.look();
        if key.len() > KEY_LENGTH_MAX {
            return Err(Refusal::ApiKey);
        }
        let hash = hash_of(key);
        let keys = self.keys();
        // All of them, so that the time that it takes says nothing.
        let found = keys.iter().fold(None, |found, key| if key.hash.ct_eq(&hash).into() { Some(key) } else { found });
        let found = found.ok_or(Refusal::ApiKey)?;
        if found.expires_at <= OffsetDateTime::now_utc() {
            return Err(Refusal::ApiKeyExpired);
        }
        Ok(Arc::clone(&found.identity))
    }

    /// How many there are, and whether the file was good when it was looked at last.
    pub(crate) fn state(&self) -> (usize, bool) {
        self.look();
        (self.keys().len(), self.is_good.load(Relaxed))
    }

    fn keys(&self) -> Arc<[ApiKey]> {
        Arc::clone(&self.keys.read().expect("nobody panics with the lock"))
    }

    fn look(&self) {
        // Who finds another one looking goes on with what there is.
        let Ok(mut look) = self.look.try_lock() else { return };
        if look.at.elapsed() < LOOK_INTERVAL {
            return;
        }
        look.at = Instant::now();
        let seen = stamp(&self.file).ok();
        if seen == look.seen {
            return;
        }
        look.seen = seen;
        match read(&self.file) {
            Ok(keys) => {
                tracing::info!("{} keys are taken from {}", keys.len(), self.file.display());
                *self.keys.write().expect("nobody panics with the lock") = keys.into();
                self.is_good.store(true, Relaxed);
            }
            Err(error) => {
                tracing::error!("{} is not taken: {error}; the keys that are known stay", self.file.display());
                self.is_good.store(false, Relaxed);
            }
        }
    }
}

fn stamp(file: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(file)?;
    Ok((metadata.modified()?, metadata.len(), metadata.ino()))
}

fn read(file: &Path) -> Result<Vec<ApiKey>, BadFile> {
    if let Some(mode) = private::writable_by_others(file)? {
        return Err(BadFile::Open(mode));
    }
    if fs::metadata(file)?.len() > FILE_BYTES_MAX {
        return Err(BadFile::Large);
    }
    parse(&fs::read_to_string(file)?)
}

fn parse(text: &str) -> Result<Vec<ApiKey>, BadFile> {
    let mut keys: Vec<ApiKey> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = parse_line(line).map_err(|why| BadFile::Line(number + 1, why))?;
        if keys.iter().any(|other| other.hash == key.hash) {
            return Err(BadFile::Line(number + 1, "the same sha256 stands in another line".to_owned()));
        }
        keys.push(key);
    }
    if keys.len() > KEYS_MAX { Err(BadFile::Many) } else { Ok(keys) }
}

fn parse_line(line: &str) -> Result<ApiKey, String> {
    let Line { name, sha256, scopes: names, expires, .. } =
        serde_json::from_str(line).map_err(|error| error.to_string())?;
    let mut scopes = Scopes::default();
    if let Some(unknown) = names.iter().find(|name| !scopes.add(name)) {
        return Err(format!("there is no scope {unknown:?}"));
    }
    let hash = from_hex(&sha256).ok_or("sha256 must have 64 hexadecimal digits")?;
    let expires_at = OffsetDateTime::parse(&expires, &Rfc3339)
        .map_err(|_| format!("expires must be a time like 2030-12-31T00:00:00Z, not {expires:?}"))?;
    Ok(ApiKey { hash, identity: Arc::new(Identity { name, scopes }), expires_at })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let digits: Vec<u8> = text.as_bytes().iter().map(digit).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 64).then(|| bytes.try_into().ok()).flatten()
}

/// In hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut line = serde_json::json!({
            "name": "warehouse", "sha256": hex(&hash_of("shop_a")), "scopes": ["deliveries:write"],
            "owner": "logistics", "expires": "2999-01-01T00:00:00Z",
        });
        change(&mut line);
        line.to_string()
    }

    #[test]
    fn a_file_has_a_key_a_line_and_room_for_words() {
        let text = format!(
            "# keys of programs\n\n{}\n  {}\n",
            line(|_| {}),
            line(|line| line["sha256"] = hex(&[7; 32]).into())
        );
        assert_eq!(parse(&text).unwrap().len(), 2);
    }

    #[test]
    fn what_is_wrong_in_a_file_is_told_with_its_line() {
        for (bad, says) in [
            (line(|line| line["scopes"] = ["orders:reed"].into()), "no scope \"orders:reed\""),
            (line(|line| line["sha256"] = "ab".into()), "64 hexadecimal digits"),
            (line(|line| line["sha256"] = "é".repeat(32).into()), "64 hexadecimal digits"),
            (line(|line| line["expires"] = "tomorrow".into()), "a time like"),
            (line(|line| line["name"] = "a.b".into()), "must consist of"),
            (line(|line| line["key"] = "shop_a".into()), "unknown field"),
            (line(|line| drop(line.as_object_mut().unwrap().remove("owner"))), "missing field `owner`"),
            (line(|_| {}), "the same sha256"),
            ("nonsense".to_owned(), "expected"),
        ] {
            let error = parse(&format!("{}\n{bad}\n", line(|_| {}))).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && error.contains(says), "{error}");
        }
    }
}
