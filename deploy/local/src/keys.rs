//! Keys for the parts of a shop: a folder of seeds that only their owner can read, one file per key.
//!
//! A file is called after its role, `bridge.nk`, or after its role and a name, `bridge-2.nk`: each process may have a key
//! of its own, and then inboxes that no other one can hear.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use nkeys::KeyPair;
use shop_nats::{
    connection::access::{Access, Credentials, FileError, NatsUrl, read_seed},
    private,
    server::{
        Key,
        permissions::{NoRole, Role},
    },
};

/// Where JetStream keeps the logs of a shop without keys, and of one with keys: it has a folder for each account.
const ACCOUNT_WITHOUT_KEYS: &str = "$G";
const ACCOUNT_WITH_KEYS: &str = Role::Host.account();

/// The keys in a folder.
#[derive(Clone, Debug)]
pub struct Keys {
    folder: PathBuf,
    keys: Vec<Key>,
}

/// What a key is called, which says what it is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName {
    role: Role,
    name: String,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file or folder cannot be made or read.
    #[error("cannot use {}: {source}", .path.display())]
    System {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder is open to others.
    #[error("{} is open to others than its owner; seeds want a folder that is not: chmod 700 {}", .0.display(), .0.display())]
    Open(PathBuf),
    /// A seed cannot be used.
    #[error(transparent)]
    Seed(#[from] FileError),
    /// A key cannot be made.
    #[error("cannot make a key: {0}")]
    Make(String),
    /// No key for a part of the shop.
    #[error("there is no {role}.nk in {}: shop nats keygen --out {} makes it", .folder.display(), .folder.display())]
    Missing {
        /// For what.
        role: Role,
        /// Where it should be.
        folder: PathBuf,
    },
}

/// A name that says no role.
#[derive(Debug, thiserror::Error)]
pub enum NameError {
    /// It begins with something else.
    #[error(transparent)]
    NoRole(#[from] NoRole),
    /// It holds what files are not called.
    #[error("{0:?} is no name for a key: a role, or a role, `-` and letters, digits, `-` or `_`, as in bridge-2")]
    Characters(String),
    /// It does not say for whom the key speaks.
    #[error("a key of a {0} is called after whom it speaks for, as in {0}-alice")]
    Nobody(Role),
}

impl Keys {
    /// Makes a key for each name that has none yet, and reads all that are in the folder.
    pub fn make(folder: &Path, names: &[KeyName]) -> Result<Self, KeysError> {
        let failed = |source| KeysError::System { path: folder.to_owned(), source };
        if folder.exists() {
            if private::open_to_others(folder).map_err(failed)?.is_some() {
                return Err(KeysError::Open(folder.to_owned()));
            }
        } else {
            private::make_folder(folder).map_err(failed)?;
        }
        for KeyName { name, .. } in names {
            let file = folder.join(format!("{name}.nk"));
            if !file.exists() {
                make_seed(&file)?;
            }
        }
        Self::read(folder)
    }

    /// Reads all keys in a folder.
    pub fn read(folder: &Path) -> Result<Self, KeysError> {
        let failed = |source| KeysError::System { path: folder.to_owned(), source };
        let mut keys = vec![];
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            let is_seed = path.extension().is_some_and(|extension| extension == "nk");
            if let (true, Ok(KeyName { role, name })) = (is_seed, name.parse()) {
                let (_seed, public) = read_seed(&path)?;
                keys.push(Key { role, name, public });
            }
        }
        keys.sort();
        Ok(Self { folder: folder.to_owned(), keys })
    }

    /// All of them, without what is secret.
    pub fn known(&self) -> &[Key] {
        &self.keys
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file with the seed of a key.
    pub fn seed(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.nk", key.name))
    }

    /// The first key of a role.
    pub fn of(&self, role: Role) -> Result<&Key, KeysError> {
        let key = self.keys.iter().find(|key| key.role == role);
        key.ok_or_else(|| KeysError::Missing { role, folder: self.folder.clone() })
    }

    /// What lets a part of the shop in there.
    pub fn access(&self, role: Role, url: NatsUrl) -> Result<Access, KeysError> {
        let nkey = Some(self.seed(self.of(role)?));
        Ok(Access { url, credentials: Credentials { nkey, ca: None } })
    }
}

impl KeyName {
    /// One key for each role that speaks for all who ask.
    pub fn of_all_roles() -> Vec<Self> {
        let roles = Role::ALL.into_iter().filter(|role| !role.speaks_for_one());
        roles.map(|role| Self { role, name: role.to_string() }).collect()
    }
}

impl FromStr for KeyName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        let (role, rest) = name.split_once('-').map_or((name, None), |(role, rest)| (role, Some(rest)));
        let role: Role = role.parse()?;
        let is_plain = |rest: &str| {
            !rest.is_empty()
                && rest.len() <= 64
                && rest.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
        };
        match rest {
            None if role.speaks_for_one() => Err(NameError::Nobody(role)),
            Some(rest) if !is_plain(rest) => Err(NameError::Characters(name.to_owned())),
            None | Some(_) => Ok(Self { role, name: name.to_owned() }),
        }
    }
}

/// Gives the logs of the shop's own nats-server to the account that they have with keys.
pub(crate) fn take_over_logs(nats_folder: &Path) -> Result<(), KeysError> {
    let jetstream = nats_folder.join("jetstream");
    let (without, with) = (jetstream.join(ACCOUNT_WITHOUT_KEYS), jetstream.join(ACCOUNT_WITH_KEYS));
    if without.exists() && !with.exists() {
        fs::rename(&without, &with).map_err(|source| KeysError::System { path: without, source })?;
    }
    Ok(())
}

fn make_seed(file: &Path) -> Result<(), KeysError> {
    let seed = KeyPair::new_user().seed().map_err(|error| KeysError::Make(error.to_string()))?;
    write_private(file, &format!("{seed}\n"))
}

/// Writes a new file that only its owner can read.
pub(crate) fn write_private(file: &Path, text: &str) -> Result<(), KeysError> {
    // Complete, or not there.
    let new = file.with_extension("new");
    let write = || {
        let mut to = private::make_file(&new)?;
        to.write_all(text.as_bytes())?;
        to.sync_all()?;
        fs::rename(&new, file)
    };
    write().map_err(|source| KeysError::System { path: file.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn seeds_are_made_once_and_only_their_owner_can_read_them() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("keys");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let keys = Keys::make(&folder, &KeyName::of_all_roles()).unwrap();
        assert_eq!(
            keys.known().iter().map(|key| &*key.name).collect::<Vec<_>>(),
            ["host", "bridge", "operator", "reader", "feed"]
        );
        assert_eq!(mode(&folder), 0o700);
        for key in keys.known() {
            assert_eq!(mode(&keys.seed(key)), 0o600, "{}", key.name);
        }
        let more = Keys::make(&folder, &["bridge-2".parse().unwrap(), "host".parse().unwrap()]).unwrap();
        assert_eq!(more.known().len(), keys.known().len() + 1);
        assert!(keys.known().iter().all(|key| more.known().contains(key)), "a key was made anew");
    }

    #[test]
    fn a_folder_or_a_seed_that_is_open_to_others_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let folder = place.path().join("keys");
        let keys = Keys::make(&folder, &KeyName::of_all_roles()).unwrap();
        open(&keys.seed(&keys.known()[0]), 0o644);
        assert!(matches!(Keys::read(&folder), Err(KeysError::Seed(FileError::Open { mode: 0o644, .. }))));
        open(&folder, 0o755);
        assert!(matches!(Keys::make(&folder, &[]), Err(KeysError::Open(_))));
    }

    #[test]
    fn a_key_is_called_after_its_role() {
        for (name, role) in [
            ("host", Role::Host),
            ("bridge-2", Role::Bridge),
            ("reader-alice-phone", Role::Reader),
            ("customer-a_b", Role::Customer),
        ] {
            assert_eq!(name.parse::<KeyName>().unwrap().role, role);
        }
        for other in ["", "root", "bridge-", "bridge_2", "bridge-../host", "host-a b", "-host", "customer", "staff"] {
            assert!(other.parse::<KeyName>().is_err(), "{other}");
        }
    }
}
