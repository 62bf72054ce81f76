//! What lets programs and customers in where not everybody is let in: keys and certificates for nats-servers, as
//! `shop nats keygen` and `certificates.sh` make them, and an issuer of tokens for bridges.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use async_nats::ConnectOptions;
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair as CertificateKey};
use serde_json::json;
use shop_local::{
    keys::{KeyName, Keys},
    nats_server::Setup,
};

use crate::{
    client::Caller,
    folder::Folder,
    issuer::{Issuer, claims, now},
    machines,
};

/// The scopes of a customer.
pub const CUSTOMER: &str = "orders:read orders:write wallets:read";
/// The scopes of who may do everything.
pub const STAFF: &str =
    "catalog:write deliveries:write orders:read:any orders:write:any wallets:read:any wallets:fund:any";
/// The member of the staff who has a token and a key.
pub const MEMBER: &str = "mary";
/// Who runs the nats-servers and may do everything there, which the shop itself never needs.
pub const ADMINISTRATOR: &str = "administrator";

/// Keys, certificates and an issuer, in a folder of their own.
#[derive(Debug)]
pub struct Login {
    keys: Keys,
    administrator: KeyPair,
    issuer: Issuer,
    folder: Folder,
}

impl Login {
    /// New ones: a key for each role, for the staff and for each of these customers.
    pub fn new(customers: impl IntoIterator<Item = String>) -> Self {
        let (folder, issuer) = (Folder::new(), Issuer::new("tests"));
        let named = customers.into_iter().map(|customer| format!("customer-{customer}"));
        let named = named.chain([format!("staff-{MEMBER}")]).map(|name| name.parse().expect("it names a role first"));
        let names: Vec<_> = KeyName::of_all_roles().into_iter().chain(named).collect();
        let keys = Keys::make(&folder.path().join("keys"), &names).unwrap_or_else(|error| panic!("{error}"));
        make_certificates(folder.path());
        Self { keys, administrator: KeyPair::new_user(), issuer, folder }
    }

    /// A nats-server that encrypts, and lets in who has one of the keys and nobody else.
    pub fn guard(&self, setup: Setup) -> Setup {
        let setup = setup.with_keys(&self.keys).unwrap_or_else(|error| panic!("{error}"));
        setup.with_certificates(self.folder.path()).configured(|configuration| {
            let users = "jetstream: enabled\n        users: [\n";
            assert_eq!(configuration.matches(users).count(), 1, "there is one account with the logs: {configuration}");
            let administrator = self.administrator.public_key();
            configuration.replace(users, &format!("{users}            {{ nkey: {administrator} }}\n"))
        })
    }

    /// What a program is told that comes to the nats-servers with the key of that name.
    pub fn options(&self, key: &str) -> Vec<String> {
        let (nkey, ca) = (self.seed_file(key).display().to_string(), self.ca().display().to_string());
        ["--nats-nkey", &nkey, "--nats-ca", &ca].map(str::to_owned).into()
    }

    /// What a bridge is told that asks who comes, and lets each come as often as it can.
    pub fn bridge_options(&self) -> Vec<String> {
        let options = self.issuer.options(&self.folder.path().join("issuer.json"));
        options.into_iter().chain(["--rate-per-caller", "0"].map(str::to_owned)).collect()
    }

    /// With the key of that name.
    pub fn connect_options(&self, key: &str) -> ConnectOptions {
        let (seed, public) = if key == ADMINISTRATOR {
            (self.administrator.seed().expect("it was made with its seed"), self.administrator.public_key())
        } else {
            let (file, known) = (self.seed_file(key), self.keys.known().iter().find(|known| known.name == key));
            let seed = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            (seed.trim().to_owned(), known.expect("what has a seed is known").public.clone())
        };
        let options = ConnectOptions::with_nkey(seed).custom_inbox_prefix(format!("_INBOX.{public}.tests"));
        options.add_root_certificates(self.ca()).require_tls(true)
    }

    /// Who sees and moves what is the caller's own.
    pub fn customer(&self, name: &str) -> Caller {
        self.caller(name, CUSTOMER)
    }

    /// Who may do everything.
    pub fn staff(&self) -> Caller {
        self.caller(MEMBER, STAFF)
    }

    /// Who may do what these scopes cover.
    pub fn caller(&self, name: &str, scopes: &str) -> Caller {
        let mut claims = claims(name, scopes);
        // Longer than any run.
        claims["exp"] = json!(now() + 86_400);
        Caller::new(name, &self.issuer.sign("EdDSA", claims))
    }

    /// Who signs the tokens.
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// Who vouches for the nats-servers.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// The file with the seed of a key.
    pub fn seed_file(&self, key: &str) -> PathBuf {
        self.keys.folder().join(format!("{key}.nk"))
    }
}

/// A nats-server as it is, or one that a login guards.
pub fn guarded(login: Option<&Login>, setup: Setup) -> Setup {
    match login {
        Some(login) => login.guard(setup),
        None => setup,
    }
}

/// Writes a file that only its owner can read.
pub fn write_private(file: &Path, text: &str) {
    let write = || -> io::Result<()> {
        let mut open = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(file)?;
        // One that was there keeps its mode.
        open.set_permissions(Permissions::from_mode(0o600))?;
        open.write_all(text.as_bytes())
    };
    write().unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
}

/// A certificate of an authority, and one for all nats-servers, wherever tests start them.
fn make_certificates(folder: &Path) {
    let key = || CertificateKey::generate().expect("there is randomness");
    let addresses = machines::addresses().chain([Ipv4Addr::LOCALHOST.into()]);
    let names: Vec<_> = addresses.map(|address: IpAddr| address.to_string()).collect();
    let mut params = CertificateParams::new([]).expect("no names are no wrong ones");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, key()).expect("an authority can vouch for itself");
    let (params, key) = (CertificateParams::new(names).expect("addresses are names"), key());
    let server = params.signed_by(&key, &ca).expect("an authority can vouch for a server");
    for (file, pem) in [("ca.crt", ca.pem()), ("server.crt", server.pem()), ("server.key", key.serialize_pem())] {
        write_private(&folder.join(file), &pem);
    }
}
