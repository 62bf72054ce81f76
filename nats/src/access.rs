//! Where NATS is, and what lets a program in: the same options for every one of them.

use std::{io, path::PathBuf};

use async_nats::{ConnectOptions, ServerAddr};
use clap::Args;

/// Where NATS is, and what lets a program in.
#[derive(Args, Clone, Debug)]
pub struct Access {
    /// Where NATS is; several servers separated by commas, each with or without `user:password@`.
    #[arg(long = "nats-url", env = "SHOP_NATS_URL", value_name = "URL", default_value = "nats://127.0.0.1:4222")]
    pub url: String,
    /// What lets it in.
    #[command(flatten)]
    pub credentials: Credentials,
}

/// What lets a program in where not everybody is.
#[derive(Args, Clone, Debug, Default)]
pub struct Credentials {
    /// A file with the seed of the nkey (SU…) as which to come [default: none].
    #[arg(long = "nats-nkey", env = "SHOP_NATS_NKEY", value_name = "FILE")]
    pub nkey: Option<PathBuf>,
    /// A file with the certificates (PEM) of who vouches for the servers; with it, nothing is said that is not
    /// encrypted [default: those of the system, where a server asks for encryption].
    #[arg(long = "nats-ca", env = "SHOP_NATS_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
}

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source} ({option} names it)", .file.display())]
pub struct FileError {
    file: PathBuf,
    option: &'static str,
    source: io::Error,
}

impl Access {
    /// For servers that let everybody in, or whoever has the password that is in the address.
    pub fn to(url: impl Into<String>) -> Self {
        Self { url: url.into(), credentials: Credentials::default() }
    }

    /// The addresses, one by one.
    pub(crate) fn servers(&self) -> Vec<String> {
        self.url.split(',').map(|server| server.trim().to_owned()).collect()
    }

    /// What a client needs to be let in.
    pub(crate) fn options(&self) -> Result<ConnectOptions, FileError> {
        // The client does not look for a password in the addresses.
        let options = match self.servers().iter().find_map(|server| user_and_password(server)) {
            Some((user, password)) => ConnectOptions::with_user_and_password(user, password),
            None => ConnectOptions::new(),
        };
        let Credentials { nkey, ca } = &self.credentials;
        let options = match nkey {
            Some(file) => {
                let seed = std::fs::read_to_string(file);
                let failed = |source| FileError { file: file.clone(), option: "--nats-nkey", source };
                options.nkey(seed.map_err(failed)?.trim().to_owned())
            }
            None => options,
        };
        match ca {
            Some(file) => {
                // The client would not say which file it cannot read.
                let failed = |source| FileError { file: file.clone(), option: "--nats-ca", source };
                std::fs::File::open(file).map_err(failed)?;
                Ok(options.add_root_certificates(file.clone()).require_tls(true))
            }
            None => Ok(options),
        }
    }

    /// The addresses as they may be shown to anybody.
    pub(crate) fn shown(&self) -> String {
        let shown = self.url.split(',').map(|server| match (server.split_once("://"), server.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            (None, Some((_, host))) => host.to_owned(),
            (_, None) => server.to_owned(),
        });
        shown.collect::<Vec<_>>().join(",")
    }
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
        let shown = |url: &str| Access::to(url).shown();
        let url = "nats://bridge:secret@nats-1:4222,nats://nats-2:4222, nats://bridge:secret@nats-3:4222";
        assert_eq!(shown(url), "nats://nats-1:4222,nats://nats-2:4222, nats://nats-3:4222");
        assert_eq!(shown("bridge:secret@nats-1"), "nats-1");
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
}
