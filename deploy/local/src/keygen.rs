//! `shop nats keygen`: keys for a nats-server of your own, and the configuration that knows them.

use std::{fmt::Write, path::PathBuf, process::ExitCode};

use shop_nats::server::{self, permissions::Role};

use crate::keys::{KeyName, Keys, KeysError, write_private};

/// What there is to do for a nats-server.
#[derive(Debug, clap::Subcommand)]
pub enum Nats {
    /// Make a key for each role, and a configuration for nats-servers that lets in those keys and no others.
    ///
    /// Keys that are there stay as they are: run it again with another --key, give all servers the new configuration
    /// and reload them (nats-server --signal reload), and processes with the old keys notice nothing.
    Keygen(Keygen),
}

/// Where, and for what.
#[derive(Debug, clap::Args)]
pub struct Keygen {
    /// The folder for seeds and configuration; it is made so that only its owner can look into it
    #[arg(long, value_name = "FOLDER", default_value = "keys")]
    out: PathBuf,

    /// One more key: its role, or its role and a name, as in bridge-2; of a customer or of staff, whose it is, as in
    /// customer-alice; may be given several times. With a key of its own a process has inboxes that no other one can hear
    #[arg(long = "key", value_name = "NAME")]
    more: Vec<KeyName>,

    /// For three servers that keep the logs together, with TLS, instead of one on this machine
    #[arg(long)]
    cluster: bool,

    /// With --cluster, where ca.crt, server.crt and server.key lie on the machines of the servers
    #[arg(long, value_name = "FOLDER", default_value = server::CERTIFICATES)]
    certificates: PathBuf,
}

impl Nats {
    /// Does it, and says what is where.
    pub fn run(self) -> ExitCode {
        let Self::Keygen(keygen) = self;
        match keygen.write() {
            Ok(said) => {
                print!("{said}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("shop: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

impl Keygen {
    fn write(self) -> Result<String, KeysError> {
        let names: Vec<_> = KeyName::of_all_roles().into_iter().chain(self.more).collect();
        let keys = Keys::make(&self.out, &names)?;
        let (name, configuration) = if self.cluster {
            let with_certificates = server::with_certificates(server::CLUSTER, &self.certificates);
            ("cluster.conf", server::with_keys(&with_certificates, keys.known()))
        } else {
            ("local.conf", server::with_keys(server::LOCAL, keys.known()))
        };
        let file = self.out.join(name);
        write_private(&file, &configuration)?;
        said(&keys, &file.display().to_string(), self.cluster)
    }
}

fn said(keys: &Keys, configuration: &str, cluster: bool) -> Result<String, KeysError> {
    let mut text = String::new();
    let mut line = |what: String| {
        let _ = writeln!(text, "{what}");
    };
    for key in keys.known() {
        line(format!("{:<12} {}  {}", key.name, key.public, keys.seed(key).display()));
    }
    line(format!("\n{configuration} lets them in, and nobody else. For example:\n"));
    let seed = |role| keys.of(role).map(|key| keys.seed(key).display().to_string());
    let (start, options) = if cluster {
        ("", " --nats-url tls://nats-1:4222,tls://nats-2:4222,tls://nats-3:4222 --nats-ca ca.crt")
    } else {
        ("SHOP_NATS_FOLDER=$PWD/.shop/nats ", "")
    };
    line(format!("    {start}nats-server --config {configuration}"));
    line(format!("    shop serve{options} --nats-nkey {}", seed(Role::Host)?));
    line(format!("    shop bridge{options} --nats-nkey {}", seed(Role::Bridge)?));
    line(format!("    shop audit{options} --nats-nkey {}", seed(Role::Reader)?));
    line(format!("    shop upgrade{options} --nats-nkey {}", seed(Role::Operator)?));
    let reader = keys.of(Role::Reader)?;
    line(format!(
        "    nats --nkey {} --inbox-prefix _INBOX.{} req shop.wallet.alice.get ''",
        keys.seed(reader).display(),
        reader.public
    ));
    Ok(text)
}
