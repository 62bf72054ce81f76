//! A shop of real processes: nats-servers of its own, hosts for any kinds, and the bridge.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::ConnectOptions;
use shop_domain::kind::Kind;
use shop_local::nats_server::{NatsServer, Setup};

use crate::{
    client::Client,
    disk::Disks,
    folder::Folder,
    login::{Login, guarded},
    machines::Machines,
    process::{Launcher, Process},
    proxy::Proxy,
    servers::{SERVERS, Servers},
    wait::until,
};

/// How long a nats-server may take for one answer before another one is tried.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How long a repartitioning may take on a busy machine.
const REPARTITION_LIMIT: Duration = Duration::from_secs(120);

/// All kinds in one host.
pub const ALL_KINDS: &str = "wallet,product,order,delivery,mypage";

/// A host for every kind, each with its name.
pub const A_PROCESS_PER_KIND: [(&str, &str); 5] = [
    ("wallets", "wallet"),
    ("products", "product"),
    ("orders", "order"),
    ("deliveries", "delivery"),
    ("mypages", "mypage"),
];

/// Two hosts for every kind, each with its name: one can always go on for the other.
pub const TWO_PROCESSES_PER_KIND: [(&str, &str); 10] = [
    ("wallets-1", "wallet"),
    ("wallets-2", "wallet"),
    ("products-1", "product"),
    ("products-2", "product"),
    ("orders-1", "order"),
    ("orders-2", "order"),
    ("deliveries-1", "delivery"),
    ("deliveries-2", "delivery"),
    ("mypages-1", "mypage"),
    ("mypages-2", "mypage"),
];

/// The lines between the shop's processes and their nats-server.
#[derive(Debug)]
pub struct Lines {
    /// That of all hosts that have none of their own.
    pub hosts: Proxy,
    /// Those of single hosts.
    pub of_hosts: BTreeMap<&'static str, Proxy>,
    /// That of the bridge.
    pub bridge: Proxy,
}

impl Lines {
    /// Good ones, none for single hosts.
    async fn to(server: SocketAddr) -> Self {
        Self { hosts: Proxy::to(server).await, of_hosts: BTreeMap::new(), bridge: Proxy::to(server).await }
    }
}

/// The processes of one shop, and the folder that they share.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they are dropped.
    hosts: BTreeMap<&'static str, Host>,
    bridge: Option<Process>,
    servers: Servers,
    /// Where the logs and the checkpoints of all hosts lie, unless that is the folder itself.
    disks: Option<Disks>,
    lines: Option<Lines>,
    /// The machines on which its servers and hosts are, one each, by number.
    machines: Option<Machines>,
    /// What lets programs and customers in, where not everybody is let in.
    login: Option<Login>,
    /// How hosts are started.
    launcher: Launcher,
    /// In how many partitions every kind is to be cut, if that is said.
    partitions: Option<u16>,
    /// Whether hosts keep snapshots.
    keeps_snapshots: bool,
    /// How long bridges serve after SIGTERM, for those who choose between them.
    leave_time: Duration,
    /// Where the bridge was at its first start; it stays there.
    http: SocketAddr,
    /// Where it can be seen how the bridge is.
    inside: SocketAddr,
    folder: Folder,
}

#[derive(Debug)]
struct Host {
    kinds: &'static str,
    process: Option<Process>,
}

impl Cluster {
    /// Starts a nats-server, these hosts, each a name and its kinds, and the bridge; waits until
    /// they are ready.
    pub async fn start(partitions: u16, hosts: &[(&'static str, &'static str)]) -> Self {
        Self::without_processes(partitions).await.with(hosts).await
    }

    /// Starts nothing but a nats-server.
    pub async fn without_processes(partitions: u16) -> Self {
        Self::without_processes_behind(None, partitions).await
    }

    /// The same, with a login or without.
    pub async fn without_processes_behind(login: Option<Login>, partitions: u16) -> Self {
        let folder = Folder::new();
        let nats = NatsServer::start_as(guarded(login.as_ref(), Setup::alone(0)), &folder.path().join("nats")).await;
        let nats = nats.unwrap_or_else(|error| panic!("{error}"));
        Self::of(Servers::one(nats), folder, Some(partitions)).with_login(login)
    }

    /// Starts three nats-servers with lines that can be cut, these hosts, and the bridge, with a login or without. Every
    /// kind has the partitions that it has by default.
    pub async fn start_on_three_servers(hosts: &[(&'static str, &'static str)], login: Option<Login>) -> Self {
        let folder = Folder::new();
        let servers = Servers::three(folder.path(), true, login.as_ref()).await;
        let servers = servers.unwrap_or_else(|error| panic!("{error}"));
        Self::of(servers, folder, None).with_login(login).with(hosts).await
    }

    /// Starts three nats-servers and these hosts, one of each on each machine, and the bridge in the hub; with a login or
    /// without.
    pub async fn start_on_machines(
        machines: Machines,
        hosts: &[(&'static str, &'static str); SERVERS],
        login: Option<Login>,
    ) -> Self {
        let folder = Folder::new();
        let servers = Servers::on(&machines, folder.path(), login.as_ref()).await;
        let servers = servers.unwrap_or_else(|error| panic!("{error}"));
        let cluster = Self::of(servers, folder, None).with_login(login);
        Self { machines: Some(machines), ..cluster }.with(hosts).await
    }

    /// Nothing but these nats-servers.
    pub fn of(servers: Servers, folder: Folder, partitions: Option<u16>) -> Self {
        let http = SocketAddr::from(([127, 0, 0, 1], 0));
        let (hosts, launcher) = (BTreeMap::new(), Launcher::default());
        let (bridge, disks, lines, machines, login) = (None, None, None, None, None);
        let (keeps_snapshots, leave_time) = (false, Duration::ZERO);
        Self {
            hosts,
            bridge,
            servers,
            disks,
            lines,
            machines,
            login,
            launcher,
            partitions,
            keeps_snapshots,
            leave_time,
            http,
            inside: http,
            folder,
        }
    }

    /// Like [`Self::start`], with disks that can be filled and lines that can be cut, and with a login or without. Without
    /// disks where the machine does not let us mount them; then the second one says why.
    pub async fn start_on_disks_and_lines(
        partitions: u16,
        hosts: &[(&'static str, &'static str)],
        login: Option<Login>,
    ) -> (Self, Option<String>) {
        let folder = Folder::new();
        let nats = folder.path().join("nats");
        let mut mounted = vec![nats.join("jetstream")];
        mounted.extend(hosts.iter().map(|(name, _)| folder.path().join(name)));
        for folder in &mounted {
            fs::create_dir_all(folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
        }
        let (disks, why_not) = match Disks::mount(&mounted).await {
            Ok(disks) => (Some(disks), None),
            Err(why_not) => (None, Some(why_not)),
        };
        let command = disks.as_ref().map(|disks| disks.launcher().to_vec()).unwrap_or_default();
        let setup = guarded(login.as_ref(), Setup::alone(0)).by(command.clone());
        let nats = NatsServer::start_as(setup, &nats).await.unwrap_or_else(|error| panic!("{error}"));
        let server = SocketAddr::from(([127, 0, 0, 1], nats.port()));
        let mut cluster = Self::of(Servers::one(nats), folder, Some(partitions)).with_login(login);
        cluster.launcher.command = command;
        (cluster.disks, cluster.lines) = (disks, Some(Lines::to(server).await));
        (cluster.with(hosts).await, why_not)
    }

    /// Like [`Self::start`], with a line for each host that can be cut, and snapshots; with a login or without.
    pub async fn start_on_lines_of_their_own(
        partitions: u16,
        hosts: &[(&'static str, &'static str)],
        login: Option<Login>,
    ) -> Self {
        let mut cluster = Self::without_processes_behind(login, partitions).await.that_keeps_snapshots();
        let server = SocketAddr::from(([127, 0, 0, 1], cluster.nats().port()));
        let mut lines = Lines::to(server).await;
        for (name, _) in hosts {
            lines.of_hosts.insert(name, Proxy::to(server).await);
        }
        cluster.lines = Some(lines);
        cluster.with(hosts).await
    }

    /// From now on processes are started so that Ctrl-C in the terminal does not reach them.
    pub fn apart(mut self) -> Self {
        self.launcher.apart = true;
        self
    }

    /// From now on bridges are started that serve so long after SIGTERM.
    pub fn whose_bridges_leave_in(mut self, leave_time: Duration) -> Self {
        self.leave_time = leave_time;
        self
    }

    /// From now on processes are started that come with what is in this login, which guards the nats-servers.
    pub fn with_login(mut self, login: Option<Login>) -> Self {
        self.login = login;
        self
    }

    /// From now on hosts are started that keep snapshots.
    pub fn that_keeps_snapshots(mut self) -> Self {
        self.keeps_snapshots = true;
        self
    }

    /// Starts these hosts and the bridge, and waits until they are ready.
    pub async fn with(mut self, hosts: &[(&'static str, &'static str)]) -> Self {
        for (name, kinds) in hosts {
            self.hosts.insert(name, Host { kinds, process: None });
        }
        for (name, _) in hosts {
            self.start_host(name);
        }
        self.start_bridge().await;
        self.wait_until_ready().await;
        self
    }

    /// A client of the bridge: where there is a login, of who may do everything.
    pub fn client(&self) -> Client {
        Client::new(self.http).by(self.login.as_ref().map(Login::staff))
    }

    /// The login, where there is one.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// Connects to the nats-servers; where there is a login, with the key of that name.
    pub async fn connect(&self, key: &str) -> async_nats::Client {
        let servers: Vec<String> = self.servers.url().split(',').map(str::to_owned).collect();
        let options = self.connect_options(key);
        until("a nats-server can be reached", async || options.clone().connect(&servers).await.ok()).await
    }

    /// What it takes for that: one that is frozen is not waited for.
    pub fn connect_options(&self, key: &str) -> ConnectOptions {
        let options = self.login.as_ref().map_or_else(ConnectOptions::new, |login| login.connect_options(key));
        options.connection_timeout(ANSWER_LIMIT).ping_interval(ANSWER_LIMIT)
    }

    /// What a tool or a part of the shop is told that comes to the nats-servers with the key of that name.
    pub fn nats_options(&self, key: &str) -> Vec<String> {
        self.nats_options_at(self.servers.url(), key)
    }

    fn nats_options_at(&self, url: String, key: &str) -> Vec<String> {
        let login = self.login.as_ref().map_or_else(Vec::new, |login| login.options(key));
        ["--nats-url".to_owned(), url].into_iter().chain(login).collect()
    }

    /// The nats-server, to stop, kill and start it again; of several, the first.
    pub fn nats(&mut self) -> &mut NatsServer {
        self.servers.get(0)
    }

    /// All nats-servers.
    pub fn servers(&mut self) -> &mut Servers {
        &mut self.servers
    }

    /// In how many partitions every kind is cut.
    pub fn partitions(&self) -> u16 {
        self.partitions.expect("the cluster was started with a number of partitions")
    }

    /// The lines to it, where there are such.
    pub fn lines(&self) -> &Lines {
        self.lines.as_ref().expect("the cluster was started with lines")
    }

    /// The machines, where there are such.
    pub fn machines(&self) -> &Machines {
        self.machines.as_ref().expect("the cluster was started on machines")
    }

    /// The disks, where there are such.
    pub fn disks(&self) -> Option<&Disks> {
        self.disks.as_ref()
    }

    /// Where everything is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where all hosts keep their snapshots, if they do.
    pub fn snapshots(&self) -> PathBuf {
        self.folder().join("snapshots")
    }

    /// The options that tell a tool where they are.
    pub fn snapshot_options(&self) -> Vec<String> {
        let place = ["--snapshots".to_owned(), self.snapshots().display().to_string()];
        place.into_iter().filter(|_| self.keeps_snapshots).collect()
    }

    /// Where a host keeps its checkpoints.
    pub fn data_dir(&self, host: &str) -> PathBuf {
        self.folder().join(host)
    }

    /// Where a host's checkpoints are for us, also when they are on a disk that only it sees.
    pub fn checkpoints(&self, host: &str) -> PathBuf {
        let folder = self.data_dir(host);
        self.disks.as_ref().map_or_else(|| folder.clone(), |disks| disks.path(&folder))
    }

    /// Runs `shop serve` beside the cluster's own hosts.
    pub fn spawn_host(&self, name: &str, kinds: &str, data_dir: &Path, partitions: impl Into<Option<u16>>) -> Process {
        let nats_url = self.nats_url(|lines| lines.of_hosts.get(name).unwrap_or(&lines.hosts));
        let nats = self.nats_options_at(nats_url, "host");
        let partitions = partitions.into().map(|count| ["--partitions".to_owned(), count.to_string()]);
        let data_dir = data_dir.to_str().expect("a folder for tests has a plain name");
        let options = ["--kinds", kinds, "--data-dir", data_dir];
        let snapshots = self.snapshot_options();
        let more = nats.iter().chain(partitions.iter().flatten()).chain(&snapshots).map(String::as_str);
        let options = options.into_iter().chain(more);
        let number = self.hosts.keys().position(|host| *host == name);
        let command = match self.machines.as_ref().zip(number) {
            Some((machines, number)) => machines.launcher(number),
            None => self.launcher.command.clone(),
        };
        let launcher = Launcher { command, ..self.launcher.clone() };
        Process::spawn_by(&launcher, self.folder(), name, ["serve"].into_iter().chain(options))
    }

    /// Starts a host that was stopped.
    pub fn start_host(&mut self, name: &'static str) {
        let kinds = self.hosts[name].kinds;
        let process = self.spawn_host(name, kinds, &self.data_dir(name), self.partitions);
        self.host_mut(name).process = Some(process);
    }

    /// Starts one more host, and waits until it serves its kinds.
    pub async fn add_host(&mut self, name: &'static str, kinds: &'static str) {
        self.hosts.insert(name, Host { kinds, process: None });
        self.start_host(name);
        self.wait_for_host(name).await;
    }

    /// Removes a host that ran, to be ended for good.
    pub fn remove_host(&mut self, name: &str) -> Process {
        let host = self.hosts.remove(name).unwrap_or_else(|| panic!("there is no host {name}"));
        host.process.expect("the host runs")
    }

    /// The names of all hosts.
    pub fn host_names(&self) -> Vec<&'static str> {
        self.hosts.keys().copied().collect()
    }

    /// The kinds of a host.
    pub fn kinds_of(&self, name: &str) -> &'static str {
        self.hosts[name].kinds
    }

    /// A host that runs.
    pub fn host(&mut self, name: &'static str) -> &mut Process {
        self.host_mut(name).process.as_mut().expect("the host runs")
    }

    /// A host that runs, to be ended.
    pub fn take_host(&mut self, name: &'static str) -> Process {
        self.host_mut(name).process.take().expect("the host runs")
    }

    /// Waits until a host says that it serves all its kinds.
    pub async fn wait_for_host(&mut self, name: &'static str) {
        let kinds = self.hosts[name].kinds.split(',').count();
        let serves_all = |log: &str| (log.matches(" is served").count() == kinds).then_some(());
        self.host(name).says("that all its kinds are served", serves_all).await;
    }

    /// Starts the bridge, where it was before.
    pub async fn start_bridge(&mut self) {
        let (mut bridge, http) = self.spawn_bridge("bridge", self.http).await;
        self.inside = bridge.says("where it can be looked at", inside_in).await;
        (self.bridge, self.http) = (Some(bridge), http);
    }

    /// Runs `shop bridge` beside the cluster's own bridge, and says where it listens.
    pub async fn spawn_bridge(&self, name: &str, http: SocketAddr) -> (Process, SocketAddr) {
        let nats = self.nats_options_at(self.nats_url(|lines| &lines.bridge), "bridge");
        let auth = self.login.as_ref().map_or_else(Vec::new, Login::bridge_options);
        let (http, leave_ms) = (http.to_string(), self.leave_time.as_millis().to_string());
        let inside = ["--observe-addr", "127.0.0.1:0"];
        let options = ["bridge", "--http-addr", &http, "--leave-ms", &leave_ms];
        let options = options.into_iter().chain(inside).chain(nats.iter().chain(&auth).map(String::as_str));
        let launcher = Launcher { command: vec![], ..self.launcher.clone() };
        let mut bridge = Process::spawn_by(&launcher, self.folder(), name, options);
        let http = bridge.says("where it listens", address_in).await;
        (bridge, http)
    }

    /// The bridge, to be ended.
    pub fn take_bridge(&mut self) -> Process {
        self.bridge.take().expect("the bridge runs")
    }

    /// Ends all processes in good order, the nats-server last.
    pub async fn stop(&mut self) {
        self.take_bridge().terminate().await;
        for process in self.hosts.values_mut().filter_map(|host| host.process.take()) {
            process.terminate().await;
        }
        self.servers.stop().await;
    }

    /// Starts every host again that has ended by itself, and returns their names. It must have
    /// ended in an orderly way, and have said why.
    pub fn start_ended_hosts(&mut self) -> Vec<&'static str> {
        let mut ended = Vec::new();
        for (name, host) in &mut self.hosts {
            let Some(process) = &mut host.process else { continue };
            let Some(status) = process.has_ended() else { continue };
            let words = process.stderr();
            assert!(status.code() == Some(1) && words.contains("ERROR"), "{name} ended with {status}: {words}");
            ended.push(*name);
        }
        for name in &ended {
            self.start_host(name);
        }
        ended
    }

    /// Starts whatever has ended again, however that came, and returns the names.
    pub async fn revive(&mut self) -> Vec<String> {
        let mut names = self.servers.revive().await;
        let has_ended = |process: &mut Process| process.has_ended().is_some();
        for name in self.host_names() {
            if self.host_mut(name).process.as_mut().is_some_and(has_ended) {
                self.start_host(name);
                names.push(name.to_owned());
            }
        }
        if self.bridge.as_mut().is_some_and(has_ended) {
            self.start_bridge().await;
            names.push("the bridge".to_owned());
        }
        names
    }

    /// Cuts every kind into so many partitions, as an operator does.
    pub async fn repartition(&mut self, partitions: u16) {
        let (nats, snapshots) = (self.nats_options("operator"), self.snapshots().display().to_string());
        let count = partitions.to_string();
        let arguments = ["repartition", "--to", &count, "--snapshots", &snapshots];
        let arguments = arguments.into_iter().chain(nats.iter().map(String::as_str));
        let mut tool = Process::spawn(self.folder(), "repartition", arguments);
        let status = tool.ends_within(REPARTITION_LIMIT).await;
        assert!(status.success(), "{}{}", tool.stdout(), tool.stderr());
        // What a host is told that is started from now on.
        self.partitions = Some(partitions);
    }

    /// Starts all processes again after [`Self::stop`].
    pub async fn start_again(&mut self) {
        self.servers.start_again().await;
        for name in self.host_names() {
            self.start_host(name);
        }
        self.start_bridge().await;
        self.wait_until_ready().await;
    }

    /// Waits until the bridge says that every kind that has a host is ready.
    pub async fn wait_until_ready(&mut self) {
        let served = |kind: &Kind| self.hosts.values().any(|host| host.kinds.split(',').any(|k| k == kind.as_str()));
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(served).collect();
        self.wait_until_kinds_are("ready", &kinds).await;
    }

    /// Waits until the bridge says this of these kinds.
    pub async fn wait_until_kinds_are(&mut self, status: &str, kinds: &[Kind]) {
        let client = Client::new(self.inside);
        until(&format!("{kinds:?} are {status}"), async || {
            for process in self.hosts.values_mut().filter_map(|host| host.process.as_mut()).chain(&mut self.bridge) {
                process.assert_running();
            }
            let answer = client.read("/readyz").await;
            let ready = answer.json(answer.status);
            kinds.iter().all(|kind| ready["kinds"][kind.as_str()] == status).then_some(())
        })
        .await;
    }

    fn nats_url(&self, line: impl Fn(&Lines) -> &Proxy) -> String {
        self.lines.as_ref().map_or_else(|| self.servers.url(), |lines| format!("nats://{}", line(lines).address()))
    }

    fn host_mut(&mut self, name: &'static str) -> &mut Host {
        self.hosts.get_mut(name).unwrap_or_else(|| panic!("there is no host {name}"))
    }
}

/// Every line in which a process in this folder says that it has panicked: whatever happened to
/// it, no process may end like that.
pub fn panics(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let outputs = files.filter(|file| file.extension().is_some_and(|end| end == "stderr"));
    let panics = |file: PathBuf| {
        let text = fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().collect();
        let panicked = lines.windows(2).filter(|lines| lines[0].contains("panicked at"));
        panicked.map(|lines| format!("{}: {}", file.display(), lines.join(" "))).collect::<Vec<_>>()
    };
    outputs.flat_map(panics).collect()
}

/// Deletes a folder, and makes sure that it was there.
pub fn delete(folder: &Path) {
    fs::remove_dir_all(folder).unwrap_or_else(|error| panic!("cannot delete {}: {error}", folder.display()));
}

fn inside_in(log: &str) -> Option<SocketAddr> {
    log.split("can be seen on http://").nth(1)?.split('/').next()?.parse().ok()
}

fn address_in(log: &str) -> Option<SocketAddr> {
    log.split("listening on http://").nth(1)?.lines().next()?.trim().parse().ok()
}
