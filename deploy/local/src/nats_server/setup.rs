//! What one nats-server is told when it starts: its configuration file and what is set beside it.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use shop_nats::{
    connection::access::{Access, Credentials},
    server::{self, CLUSTER, LOCAL, permissions::Role},
};

use crate::keys::{Keys, KeysError};

/// How a nats-server is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// A command, with its arguments, that becomes the program whose command line follows, for
    /// example `nsenter --target 17 --mount --`; none: the program itself.
    pub launcher: Vec<OsString>,
    /// The address that it listens at.
    pub(super) host: IpAddr,
    /// The port for clients; 0 takes any free one.
    pub port: u16,
    pub(super) file: &'static str,
    pub(super) configuration: String,
    /// What lets us in to see whether it is ready, where not everybody is; the address is not known yet.
    pub(super) access: Option<Access>,
    /// The variable of the configuration that says where the data lie.
    pub(super) folder: &'static str,
    pub(super) variables: Vec<(&'static str, String)>,
    pub(super) arguments: Vec<String>,
}

/// One of the servers of a cluster.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name, which no other one has and which it keeps for as long as its folder.
    pub name: String,
    /// The address that clients and the other servers reach it at.
    pub host: IpAddr,
    /// The port for clients.
    pub port: u16,
    /// The port for the other servers.
    pub cluster_port: u16,
    /// Where it reaches the others; itself may be among them.
    pub routes: Vec<SocketAddr>,
    /// Whether servers and clients reach each other by the addresses that they are given and no
    /// other: what one server tells them of the rest is then of no use. For lines that are to be cut.
    pub keeps_to_routes: bool,
}

impl Setup {
    /// One server by itself, as in `local.conf`.
    pub fn alone(port: u16) -> Self {
        Self {
            launcher: vec![],
            host: Ipv4Addr::LOCALHOST.into(),
            port,
            file: "local.conf",
            configuration: LOCAL.to_owned(),
            access: None,
            folder: "SHOP_NATS_FOLDER",
            variables: vec![],
            arguments: vec![],
        }
    }

    /// One of several servers, as in `cluster.conf`.
    pub fn member(Member { name, host, port, cluster_port, routes, keeps_to_routes }: Member) -> Self {
        let routes: Vec<_> = routes.iter().map(|route| format!("nats://{route}")).collect();
        let variables = [
            ("NATS_NAME", name),
            ("NATS_HOST", host.to_string()),
            ("NATS_PORT", port.to_string()),
            ("NATS_CLUSTER_PORT", cluster_port.to_string()),
            ("NATS_ROUTES", format!("[{}]", routes.join(", "))),
        ];
        // Nobody listens on port 1.
        let unreachable = ["--no_advertise", "--cluster_advertise", "127.0.0.1:1"];
        let arguments: &[&str] = if keeps_to_routes { &unreachable } else { &[] };
        Self {
            launcher: vec![],
            host,
            port,
            file: "cluster.conf",
            configuration: CLUSTER.to_owned(),
            access: None,
            folder: "NATS_STORE_DIR",
            variables: variables.into(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
        }
    }

    /// One that lets in who has one of these keys, and nobody else.
    pub fn with_keys(self, keys: &Keys) -> Result<Self, KeysError> {
        let configuration = server::with_keys(&self.configuration, keys.known());
        let access = Some(keys.access(Role::Host, "".into())?);
        Ok(Self { configuration, access: with_ca(access, self.ca()), ..self })
    }

    /// One that encrypts what is said to it, with the `server.crt` and `server.key` in that folder, for which `ca.crt`
    /// vouches.
    pub fn with_certificates(self, folder: &Path) -> Self {
        let configuration = server::with_certificates(&self.configuration, folder);
        let access = self.access.or_else(|| Some(Access::to("")));
        Self { configuration, access: with_ca(access, Some(folder.join("ca.crt"))), ..self }
    }

    /// With what is made of its configuration file.
    pub fn configured(self, change: impl FnOnce(String) -> String) -> Self {
        Self { configuration: change(self.configuration), ..self }
    }

    /// By way of this launcher.
    pub fn by(self, launcher: Vec<OsString>) -> Self {
        Self { launcher, ..self }
    }

    fn ca(&self) -> Option<PathBuf> {
        self.access.as_ref().and_then(|access| access.credentials.ca.clone())
    }
}

fn with_ca(access: Option<Access>, ca: Option<PathBuf>) -> Option<Access> {
    let with_ca = |access: Access| Access { credentials: Credentials { ca, ..access.credentials }, ..access };
    access.map(with_ca)
}
