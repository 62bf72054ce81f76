//! The shop that is besieged: its processes, its balancer, what customers ask for, and its books.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use shop_local::nats_server::{NatsServer, Setup};
use shop_tests::{
    balancer::Balancer,
    client::{Caller, Client},
    cluster::{Cluster, TWO_PROCESSES_PER_KIND},
    folder::Folder,
    login::{Login, guarded},
    process::Process,
    servers::{Servers, address_of, reserve},
};
use tokio::net::TcpSocket;

use crate::Access;

/// How many customers buy.
pub(crate) const CUSTOMERS: usize = 20;
/// How many products there are to buy.
pub(crate) const PRODUCTS: usize = 10;
/// How long a bridge serves after SIGTERM. haproxy asks it five times a second whether it is ready.
const LEAVE_TIME: Duration = Duration::from_secs(1);
/// More than anybody can buy.
const ENOUGH: u64 = 1_000_000_000_000;
/// How many orders are looked at at a time.
const LOOKS: usize = 16;
/// How long an audit may take: it replays everything.
const AUDIT_LIMIT: Duration = Duration::from_secs(300);
const BRIDGE: &str = "bridge-1";
const SECOND_BRIDGE: &str = "bridge-2";

/// All that is restarted: the hosts, and the bridges.
pub(crate) fn processes() -> Vec<&'static str> {
    TWO_PROCESSES_PER_KIND.iter().map(|(name, _)| *name).chain([BRIDGE, SECOND_BRIDGE]).collect()
}

/// What a customer is called.
pub(crate) fn customer(number: usize) -> String {
    format!("customer-{number}")
}

/// Partitions of each kind on one nats-server: more than one, for two hosts.
const PARTITIONS: u16 = 4;

/// How a process comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Terminated,
    Killed,
}

impl End {
    /// For ids.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Terminated => "term",
            Self::Killed => "kill",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminated => "SIGTERM",
            Self::Killed => "kill -9",
        })
    }
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Shop {
    balancer: Balancer,
    second: Option<Process>,
    second_at: SocketAddr,
    cluster: Cluster,
    _ports: [TcpSocket; 2],
}

impl Shop {
    pub(crate) async fn open(haproxy: &Path, on_three_servers: bool, access: Access) -> Self {
        let folder = Folder::new();
        let login = (access == Access::Keys).then(|| Login::new([]));
        let servers = if on_three_servers {
            Servers::three(folder.path(), false, login.as_ref()).await
        } else {
            let setup = guarded(login.as_ref(), Setup::alone(0));
            NatsServer::start_as(setup, &folder.path().join("nats")).await.map(Servers::one)
        };
        let servers = servers.unwrap_or_else(|error| panic!("{error}"));
        let partitions = (!on_three_servers).then_some(PARTITIONS);
        let cluster = Cluster::of(servers, folder, partitions).apart().whose_bridges_leave_in(LEAVE_TIME);
        let cluster = cluster.with_login(login).with(&TWO_PROCESSES_PER_KIND).await;
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (second, second_at) = cluster.spawn_bridge(SECOND_BRIDGE, anywhere).await;
        let ports = [reserve(), reserve()];
        let addresses = [address_of(&ports[0]), address_of(&ports[1])];
        let bridges = [cluster.client().address(), second_at];
        let balancer = Balancer::start(haproxy, cluster.folder(), addresses, &bridges).await;
        let shop = Self { balancer, second: Some(second), second_at, cluster, _ports: ports };
        shop.stock_up().await;
        shop
    }

    async fn stock_up(&self) {
        let client = self.client();
        for number in 0..CUSTOMERS {
            let wallet = json!({ "id": customer(number), "balance": ENOUGH });
            client.post("/wallets", &wallet).await.json(201);
        }
        for number in 0..PRODUCTS {
            let id = format!("product-{number}");
            let product = json!({ "id": id, "name": id, "price": 100, "stock": ENOUGH });
            client.post("/products", &product).await.json(201);
        }
    }

    /// A client of both bridges; where there is a login, of who may do everything.
    pub(crate) fn client(&self) -> Client {
        self.balancer.client().by(self.login().map(Login::staff))
    }

    pub(crate) fn login(&self) -> Option<&Login> {
        self.cluster.login()
    }

    /// Who the customers are, by number, where there is a login.
    pub(crate) fn customers(&self) -> Vec<Option<Caller>> {
        (0..CUSTOMERS).map(|number| self.login().map(|login| login.customer(&customer(number)))).collect()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.cluster.folder().to_owned()
    }

    /// What customers ask for, one after the other: mostly they order, and leave the id to the shop.
    pub(crate) fn requests(&self) -> Vec<String> {
        let shop = format!("http://{}", self.client().address());
        let mut requests = vec![];
        for number in 0..CUSTOMERS {
            let (user, product) = (customer(number), format!("product-{}", number % PRODUCTS));
            let order = json!({ "user": user, "product": product, "quantity": 1 });
            let place = format!("{shop}/orders POST {order}");
            requests.extend([place.clone(), format!("{shop}/products/{product}"), place.clone()]);
            requests.extend([format!("{shop}/wallets/{user}"), place, format!("{shop}/mypages/{user}?limit=5")]);
        }
        requests
    }

    /// Ends a process, starts it again, and waits until it is there for everybody.
    pub(crate) async fn restart(&mut self, name: &'static str, end: End) {
        let ended = match name {
            BRIDGE => self.cluster.take_bridge(),
            SECOND_BRIDGE => self.second.take().expect("the second bridge runs"),
            host => self.cluster.take_host(host),
        };
        match end {
            End::Terminated => ended.terminate().await,
            End::Killed => ended.kill().await,
        }
        match name {
            BRIDGE => self.cluster.start_bridge().await,
            SECOND_BRIDGE => self.second = Some(self.cluster.spawn_bridge(name, self.second_at).await.0),
            host => {
                self.cluster.start_host(host);
                self.cluster.wait_for_host(host).await;
            }
        }
        self.balancer.wait_until_all_are_up().await;
    }

    /// Holds the books against what customers were told, and returns what differs. Of so many orders
    /// siege may not have waited for the answer.
    pub(crate) async fn lost(&mut self, told: &[(String, Bytes)], again: usize, broken_off: u64) -> Vec<String> {
        let client = self.client();
        let looks = stream::iter(told).map(|(id, words)| {
            let client = &client;
            async move {
                let shown = client.read(&format!("/orders/{id}")).await;
                (shown.bytes != *words).then(|| format!("{id} is not as its customer was told: {shown:?}"))
            }
        });
        let mut wrong: Vec<String> = looks.buffer_unordered(LOOKS).filter_map(async |differs| differs).collect().await;
        let (audit, is_clean) = self.audit().await;
        let confirmed = audit["books"]["orders"]["confirmed"].as_u64().unwrap_or_default();
        let answered = self.balancer.orders_answered().await;
        println!(
            "{confirmed} orders are confirmed, {answered} were answered with 2xx; of {} the observer was told, and they \
             are as it was told\nshop audit: {} differences",
            told.len(),
            audit["differences"]["count"]
        );
        if !is_clean {
            wrong.push(format!("the audit is not clean: {audit}"));
        }
        // An order that is placed again under its id is answered more than once.
        let at_least = answered.saturating_sub(again as u64);
        if !(at_least..=answered + broken_off).contains(&confirmed) {
            wrong.push(format!("{confirmed} orders are confirmed, and {answered} were answered"));
        }
        wrong
    }

    async fn audit(&self) -> (Value, bool) {
        let arguments = ["audit", "--json"].map(str::to_owned).into_iter().chain(self.cluster.nats_options("reader"));
        let mut audit = Process::spawn(self.cluster.folder(), "audit", arguments);
        let status = audit.ends_within(AUDIT_LIMIT).await;
        let report: Value = serde_json::from_str(audit.stdout().trim()).unwrap_or_default();
        let is_clean = status.success() && report["clean"] == true;
        (report, is_clean)
    }

    pub(crate) async fn close(mut self) {
        if let Some(second) = self.second.take() {
            second.terminate().await;
        }
        self.cluster.stop().await;
    }
}
