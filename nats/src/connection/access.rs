//! Where NATS is, and what lets a program in: the same options for every one of them.

use std::{
    convert::Infallible,
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use async_nats::{ConnectOptions, ServerAddr};
use clap::Args;
use nkeys::KeyPair;

use crate::{connection::inbox, private};

/// Where NATS is, and what lets a program in.
#[derive(Args, Clone, Debug)]
pub struct Access {
    /// Where NATS is; several servers separated by commas, each with or without `user:password@` [env: SHOP_NATS_URL=].
    // The variable may hold a password, so that clap must not show it.
    #[arg(
        long = "nats-url",
        env = "SHOP_NATS_URL",
        hide_env = true,
        value_name = "URL",
        default_value = "nats://127.0.0.1:4222"
    )]
    pub url: NatsUrl,
    /// What lets it in.
    #[command(flatten)]
    pub credentials: Credentials,
}

/// What lets a program in where not everybody is.
#[derive(Args, Clone, Debug, Default)]
pub struct Credentials {
    /// A file with the seed of the nkey (SU…) as which to come, that only its owner can read [default: none].
    #[arg(long = "nats-nkey", env = "SHOP_NATS_NKEY", value_name = "FILE")]
    pub nkey: Option<PathBuf>,
    /// A file with the certificates (PEM) of who vouches for the servers; with it, nothing is said that is not
    /// encrypted [default: those of the system, where a server asks for encryption].
    #[arg(long = "nats-ca", env = "SHOP_NATS_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// The addresses of nats-servers, which may hold a password: it is shown without.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsUrl(String);

/// What lets a program in cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A file cannot be read.
    #[error("cannot read {}: {source} ({option} names it)", .file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// The option that names it.
        option: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner may read a seed.
    #[error(
        "{} may be read by others than its owner (its mode is {mode:03o}), and whoever reads a seed can come as it; \
         close it: chmod 600 {} (and make a new key if others were on this machine: shop nats keygen)",
        .file.display(), .file.display()
    )]
    Open {
        /// Which file.
        file: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// What is in a file is no seed.
    #[error("{} holds no seed of a user's nkey (SU…); --nats-nkey names it", .0.display())]
    NoSeed(PathBuf),
}

impl Access {
    /// For servers that let everybody in, or whoever has the password that is in the address.
    pub fn to(url: impl Into<NatsUrl>) -> Self {
        Self { url: url.into(), credentials: Credentials::default() }
    }

    /// The addresses, one by one, without what is secret in them: the client logs them.
    pub(crate) fn servers(&self) -> Vec<String> {
        self.url.servers().map(|server| without_user(server.trim()).concat()).collect()
    }

    /// What a client needs to be let in, and what its inboxes begin with.
    pub(crate) fn options(&self) -> Result<(ConnectOptions, String), FileError> {
        // The client does not look for a password in the addresses.
        let options = match self.url.servers().find_map(|server| user_and_password(server.trim())) {
            Some((user, password)) => ConnectOptions::with_user_and_password(user, password),
            None => ConnectOptions::new(),
        };
        let Credentials { nkey, ca } = &self.credentials;
        let (options, inboxes) = match nkey {
            Some(file) => {
                let (seed, public_key) = read_seed(file)?;
                (options.nkey(seed), inbox::prefix(Some(&public_key)))
            }
            None => (options, inbox::prefix(None)),
        };
        match ca {
            Some(file) => {
                // The client would not say which file it cannot read.
                std::fs::File::open(file).map_err(|source| unreadable(file, "--nats-ca", source))?;
                if let Ok(Some(mode)) = private::writable_by_others(file) {
                    let file = file.display();
                    tracing::warn!(
                        "{file} can be changed by others than its owner (its mode is {mode:03o}), who could put a server \
                         of theirs in between (--nats-ca names it); close it: chmod go-w {file}"
                    );
                }
                Ok((options.add_root_certificates(file.clone()).require_tls(true), inboxes))
            }
            None => Ok((options, inboxes)),
        }
    }
}

impl NatsUrl {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn servers(&self) -> impl Iterator<Item = &str> {
        self.0.split(',')
    }
}

/// As anybody may see it.
impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.servers().map(without_password).collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl From<String> for NatsUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl From<&str> for NatsUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl FromStr for NatsUrl {
    type Err = Infallible;

    fn from_str(url: &str) -> Result<Self, Infallible> {
        Ok(Self(url.to_owned()))
    }
}

/// The seed in a file that only its owner can read, and the public key that goes with it.
pub fn read_seed(file: &Path) -> Result<(String, String), FileError> {
    let text = std::fs::read_to_string(file).map_err(|source| unreadable(file, "--nats-nkey", source))?;
    let open = private::secret_open_to_others(file).map_err(|source| unreadable(file, "--nats-nkey", source))?;
    if let Some(mode) = open {
        return Err(FileError::Open { file: file.to_owned(), mode });
    }
    let seed = text.trim().to_owned();
    let pair = KeyPair::from_seed(&seed).ok().filter(|_| seed.starts_with("SU"));
    let public_key = pair.ok_or_else(|| FileError::NoSeed(file.to_owned()))?.public_key();
    Ok((seed, public_key))
}

fn unreadable(file: &Path, option: &'static str, source: io::Error) -> FileError {
    FileError::Unreadable { file: file.to_owned(), option, source }
}

/// A server's address as anybody may see it. What is no address may be a piece of a password with a comma in it.
fn without_password(server: &str) -> String {
    let [scheme, host] = without_user(server);
    let is_address = host.trim().parse::<ServerAddr>().is_ok();
    format!("{scheme}{}", if is_address { host } else { "…" })
}

/// The scheme of a server's address, and what comes behind user and password.
fn without_user(server: &str) -> [&str; 2] {
    let (scheme, rest) = server.split_at(server.find("://").map_or(0, |at| at + "://".len()));
    [scheme, rest.rsplit_once('@').map_or(rest, |(_, host)| host)]
}

/// User and password in a server's address.
fn user_and_password(server: &str) -> Option<(String, String)> {
    let address: ServerAddr = server.parse().ok()?;
    Some((address.username()?.to_owned(), address.password().unwrap_or_default().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_address_is_used_and_not_shown() {
        let shown = |url: &str| Access::to(url).url.to_string();
        let url = "nats://bridge:secret@nats-1:4222,nats://nats-2:4222, nats://bridge:secret@nats-3:4222";
        assert_eq!(shown(url), "nats://nats-1:4222,nats://nats-2:4222, nats://nats-3:4222");
        assert_eq!(shown("bridge:secret@nats-1"), "nats-1");
        assert_eq!(shown("nats://[::1]:4222"), "nats://[::1]:4222");
        for url in
            ["nats://bridge:sec,ret@nats-1", "bridge:sec,ret@nats-1:4222", "nats://bridge:secret", "a:b@c:secret"]
        {
            let text = format!("{} {:?}", shown(url), Access::to(url));
            assert!(!text.contains("sec"), "{text}");
        }
        let access = Access::to(url);
        assert!(!format!("{access:?}").contains("secret"), "{access:?}");
        assert_eq!(access.servers(), ["nats://nats-1:4222", "nats://nats-2:4222", "nats://nats-3:4222"]);
        let used = user_and_password("nats://bridge:secret@nats-1:4222");
        assert_eq!(used, Some(("bridge".into(), "secret".into())));
        assert_eq!(user_and_password("nats://nats-2:4222"), None);
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_its_option() {
        for (option, credentials) in [
            ("--nats-nkey", Credentials { nkey: Some("/no/such/seed".into()), ca: None }),
            ("--nats-ca", Credentials { nkey: None, ca: Some("/no/such/ca.pem".into()) }),
        ] {
            let access = Access { credentials, ..Access::to("nats://127.0.0.1:4222") };
            let error = access.options().map(drop).expect_err("it is not there").to_string();
            assert!(error.contains("/no/such/") && error.contains(option), "{error}");
        }
    }

    #[test]
    fn a_seed_that_others_can_read_is_refused_with_the_way_out() {
        use std::os::unix::fs::PermissionsExt;
        let file = std::env::temp_dir().join(format!("seed-{}", uuid::Uuid::new_v4().simple()));
        let key = KeyPair::new_user();
        std::fs::write(&file, format!("{}\n", key.seed().unwrap())).unwrap();
        let read_with = |mode| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            read_seed(&file).map_err(|error| error.to_string())
        };
        for mode in [0o644, 0o640, 0o604, 0o622] {
            let refused = read_with(mode).unwrap_err();
            assert!(refused.contains("chmod 600"), "{refused}");
        }
        let read = read_with(0o600);
        std::fs::write(&file, "not a seed").unwrap();
        let refused = read_with(0o600).unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(read, Ok((key.seed().unwrap(), key.public_key())));
        assert!(refused.contains("holds no seed"), "{refused}");
    }
}
