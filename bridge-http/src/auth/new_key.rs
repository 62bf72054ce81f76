//! `shop keys new`: makes the key of a program, which is shown once, and the line that lets it in.

use std::{error::Error, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use ring::rand::{SecureRandom, SystemRandom};
use shop_domain::id::Id;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    api_keys::{KEY_PREFIX, Line, hex},
    token::hash_of,
};
use crate::scope::Scope;

/// Bytes of chance in a key.
const CHANCE_BYTES: usize = 32;

/// What there is to do for keys of programs.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key for a program, and the line that lets it in, for the file of --api-keys.
    ///
    /// The key is the first line on the standard output, and is kept nowhere; the second is for the file, and no key can
    /// be made from it.
    New(New),
}

/// For which program.
#[derive(Debug, Args)]
pub struct New {
    /// The name under which the program asks
    #[arg(long, value_name = "NAME")]
    name: Id,
    /// What it may do, as in deliveries:write,orders:read:any
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', required = true, value_parser = known_scope)]
    scopes: Vec<String>,
    /// Who answers for it, in words
    #[arg(long, value_name = "OWNER")]
    owner: String,
    /// For how many days it is good
    #[arg(long, value_name = "COUNT", default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    days: u64,
}

impl Keys {
    /// Does it.
    pub fn run(self) -> ExitCode {
        let Self::New(new) = self;
        match new.make() {
            Ok((key, line)) => {
                println!("{key}\n{line}");
                eprintln!(
                    "the first line is the key, and is shown this once; add the second to the file of --api-keys"
                );
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("shop: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

impl New {
    fn make(self) -> Result<(String, String), Box<dyn Error>> {
        let mut chance = [0; CHANCE_BYTES];
        SystemRandom::new().fill(&mut chance).map_err(|_| "the system has no chance to make a key from")?;
        let key = format!("{KEY_PREFIX}{}", hex(&chance));
        let expires_at = OffsetDateTime::now_utc() + Duration::from_secs(self.days * 86_400);
        let expires = expires_at.replace_nanosecond(0)?.format(&Rfc3339)?;
        let Self { name, scopes, owner, .. } = self;
        let line = Line { name, sha256: hex(&hash_of(&key)), scopes, owner, expires };
        Ok((key, serde_json::to_string(&line)?))
    }
}

fn known_scope(text: &str) -> Result<String, String> {
    let is_known = crate::scope::Scopes::default().add(text);
    let names: Vec<_> = Scope::ALL.into_iter().map(Scope::name).collect();
    is_known
        .then(|| text.to_owned())
        .ok_or_else(|| format!("a scope is one of {}, or one with :any behind it", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::auth::{api_keys::ApiKeys, refusal::Refusal};

    #[test]
    fn a_new_key_is_let_in_by_its_line_and_no_other_is() {
        let new = || New {
            name: "warehouse".parse().unwrap(),
            scopes: vec!["deliveries:write".to_owned()],
            owner: "logistics".to_owned(),
            days: 1,
        };
        let ((key, line), (other, _)) = (new().make().unwrap(), new().make().unwrap());
        let file = std::env::temp_dir().join(format!("keys-{}", uuid::Uuid::new_v4().simple()));
        fs::write(&file, line).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let keys = ApiKeys::open(file.clone()).unwrap();
        assert_eq!(keys.check(&key).unwrap().name.as_str(), "warehouse");
        for wrong in [&other, &key[..key.len() - 1], &format!("{key}0"), KEY_PREFIX, &"x".repeat(10_000)] {
            assert_eq!(keys.check(wrong).unwrap_err(), Refusal::ApiKey);
        }
        fs::remove_file(&file).unwrap();
    }
}
