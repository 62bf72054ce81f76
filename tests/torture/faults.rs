//! The faults: each strikes once, lasts as long as it is told to, and leaves a shop in which
//! everything runs again.

mod garbage;
mod hosts;
mod machines;
mod servers;
mod strikes;

use std::{collections::BTreeSet, time::Duration};

use fastrand::Rng;
use shop_tests::{cluster::Cluster, proxy::Line, servers::From};
use tokio::sync::watch;

/// How slow a slow line is.
const SLOW: Duration = Duration::from_millis(40);

/// What can happen to a shop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillWallets,
    KillProducts,
    KillOrders,
    KillDeliveries,
    KillMypages,
    KillSomeHosts,
    KillEverything,
    KillBridge,
    KillNatsServer,
    FreezeHost,
    DeleteCheckpoints,
    RestoreOldCheckpoints,
    FillCheckpointDisk,
    FillLogDisk,
    CutConnections,
    RefuseConnections,
    SilenceConnections,
    SlowConnections,
    PublishGarbage,
    KillLeader,
    KillEachServer,
    StepDownLeaders,
    FreezeServer,
    CutOffFromServers,
    CutOffFromEverybody,
    LoseHost,
    LeaveHost,
    FreezeOneHost,
    CutOffOneHost,
    LoseAllHostsButOne,
    LieAboutHosts,
    HostsComeAndGo,
    RepartitionBehindFrozenHost,
    CutOffMachine,
    CutOffLeadersMachine,
    CutOffAllMachines,
    CutOffAgainAndAgain,
}

/// How it went.
#[derive(Debug, Default)]
pub(crate) struct Survived {
    /// Processes that were killed.
    pub(crate) kills: u64,
    /// What had to be started again by somebody.
    pub(crate) restarted: BTreeSet<String>,
    /// What was published that is no frame for where it was published.
    pub(crate) dead_letters: u64,
}

/// Why a fault cannot strike on this machine.
pub(crate) struct Skipped(pub(crate) String);

/// Where faults strike.
pub(crate) struct Stage<'s> {
    pub(crate) cluster: &'s mut Cluster,
    /// Why there are no disks that can be filled.
    pub(crate) no_disks: Option<&'s str>,
    pub(crate) rng: &'s mut Rng,
    /// How long a fault lasts that lasts.
    pub(crate) hold: Duration,
    /// Confirmed orders after which the shop counts as being back.
    pub(crate) orders: u64,
    /// How many orders are confirmed.
    pub(crate) confirmed: watch::Receiver<u64>,
}

impl Fault {
    /// What can happen to a shop with one nats-server.
    pub(crate) const ALL: [Self; 19] = [
        Self::KillWallets,
        Self::KillProducts,
        Self::KillOrders,
        Self::KillDeliveries,
        Self::KillMypages,
        Self::KillSomeHosts,
        Self::KillEverything,
        Self::KillBridge,
        Self::KillNatsServer,
        Self::FreezeHost,
        Self::DeleteCheckpoints,
        Self::RestoreOldCheckpoints,
        Self::FillCheckpointDisk,
        Self::FillLogDisk,
        Self::CutConnections,
        Self::RefuseConnections,
        Self::SilenceConnections,
        Self::SlowConnections,
        Self::PublishGarbage,
    ];

    /// What can happen to a shop with three.
    pub(crate) const ON_THREE_SERVERS: [Self; 10] = [
        Self::KillLeader,
        Self::KillEachServer,
        Self::StepDownLeaders,
        Self::FreezeServer,
        Self::CutOffFromServers,
        Self::CutOffFromEverybody,
        Self::KillSomeHosts,
        Self::KillBridge,
        Self::KillEverything,
        Self::DeleteCheckpoints,
    ];

    /// What can happen to a shop with several hosts for every kind.
    pub(crate) const ON_SEVERAL_HOSTS: [Self; 12] = [
        Self::LoseHost,
        Self::LeaveHost,
        Self::FreezeOneHost,
        Self::CutOffOneHost,
        Self::LoseAllHostsButOne,
        Self::LieAboutHosts,
        Self::HostsComeAndGo,
        Self::RepartitionBehindFrozenHost,
        Self::KillNatsServer,
        Self::KillEverything,
        Self::DeleteCheckpoints,
        Self::RestoreOldCheckpoints,
    ];

    /// What can happen to a shop on three machines.
    pub(crate) const ON_THREE_MACHINES: [Self; 5] = [
        Self::CutOffMachine,
        Self::CutOffLeadersMachine,
        Self::CutOffAllMachines,
        Self::CutOffAgainAndAgain,
        Self::KillSomeHosts,
    ];

    /// In words.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::KillWallets => "kill -9 the host of wallets",
            Self::KillProducts => "kill -9 the host of products",
            Self::KillOrders => "kill -9 the host of orders",
            Self::KillDeliveries => "kill -9 the host of deliveries",
            Self::KillMypages => "kill -9 the host of my pages",
            Self::KillSomeHosts => "kill -9 some hosts, one after the other",
            Self::KillEverything => "kill -9 everything at once",
            Self::KillBridge => "kill -9 the bridge",
            Self::KillNatsServer => "kill -9 the nats-server",
            Self::FreezeHost => "freeze a host, let a double replace it, wake it",
            Self::DeleteCheckpoints => "delete the checkpoints of a host",
            Self::RestoreOldCheckpoints => "restore old checkpoints of a host",
            Self::FillCheckpointDisk => "fill the disk of a host",
            Self::FillLogDisk => "fill the disk of the nats-server",
            Self::CutConnections => "cut all connections to NATS, many times",
            Self::RefuseConnections => "cut them, and let nobody connect",
            Self::SilenceConnections => "carry nothing, and say nothing",
            Self::SlowConnections => "carry everything slowly",
            Self::PublishGarbage => "publish garbage into the logs",
            Self::KillLeader => "kill -9 the leader of a log",
            Self::KillEachServer => "kill -9 each nats-server, one after the other",
            Self::StepDownLeaders => "let all leaders step down, again and again",
            Self::FreezeServer => "freeze a nats-server, wake it",
            Self::CutOffFromServers => "cut a nats-server off from the others",
            Self::CutOffFromEverybody => "cut a nats-server off from everybody",
            Self::LoseHost => "kill -9 one of the hosts, start it later",
            Self::LeaveHost => "SIGTERM to one of the hosts, start it later",
            Self::FreezeOneHost => "freeze one of the hosts, wake it",
            Self::CutOffOneHost => "cut one of the hosts off",
            Self::LoseAllHostsButOne => "kill -9 all hosts but one",
            Self::LieAboutHosts => "tell every host that the others leave",
            Self::HostsComeAndGo => "two more hosts come and go",
            Self::RepartitionBehindFrozenHost => "freeze one of the hosts, repartition, wake it",
            Self::CutOffMachine => "cut a machine off from the network",
            Self::CutOffLeadersMachine => "cut the machine off that leads a log",
            Self::CutOffAllMachines => "cut all machines off from each other",
            Self::CutOffAgainAndAgain => "cut machines off, again and again",
        }
    }

    /// Whether it is processes that it strikes.
    pub(crate) const fn is_about_processes(self) -> bool {
        match self {
            Self::KillWallets
            | Self::KillProducts
            | Self::KillOrders
            | Self::KillDeliveries
            | Self::KillMypages
            | Self::KillSomeHosts
            | Self::KillEverything
            | Self::KillBridge
            | Self::KillNatsServer
            | Self::FreezeHost
            | Self::DeleteCheckpoints
            | Self::RestoreOldCheckpoints
            | Self::KillLeader
            | Self::KillEachServer
            | Self::FreezeServer
            | Self::LoseHost
            | Self::LeaveHost
            | Self::FreezeOneHost
            | Self::LoseAllHostsButOne
            | Self::HostsComeAndGo
            | Self::RepartitionBehindFrozenHost => true,
            Self::FillCheckpointDisk
            | Self::FillLogDisk
            | Self::CutConnections
            | Self::RefuseConnections
            | Self::SilenceConnections
            | Self::SlowConnections
            | Self::PublishGarbage
            | Self::StepDownLeaders
            | Self::CutOffFromServers
            | Self::CutOffFromEverybody
            | Self::CutOffOneHost
            | Self::LieAboutHosts
            | Self::CutOffMachine
            | Self::CutOffLeadersMachine
            | Self::CutOffAllMachines
            | Self::CutOffAgainAndAgain => false,
        }
    }

    /// Strikes, and puts right what a supervisor would put right.
    pub(crate) async fn strike(self, stage: &mut Stage<'_>) -> Result<Survived, Skipped> {
        match self {
            Self::KillWallets => Ok(stage.kill_host("wallets").await),
            Self::KillProducts => Ok(stage.kill_host("products").await),
            Self::KillOrders => Ok(stage.kill_host("orders").await),
            Self::KillDeliveries => Ok(stage.kill_host("deliveries").await),
            Self::KillMypages => Ok(stage.kill_host("mypages").await),
            Self::KillSomeHosts => Ok(stage.kill_some_hosts().await),
            Self::KillEverything => Ok(stage.kill_everything().await),
            Self::KillBridge => Ok(stage.kill_bridge().await),
            Self::KillNatsServer => Ok(stage.kill_nats_server().await),
            Self::FreezeHost => Ok(stage.freeze_host().await),
            Self::DeleteCheckpoints => Ok(stage.delete_checkpoints().await),
            Self::RestoreOldCheckpoints => Ok(stage.restore_old_checkpoints().await),
            Self::FillCheckpointDisk => {
                let host = stage.some_host();
                let folder = stage.cluster.data_dir(host);
                stage.fill_disk(&folder, Some(host)).await
            }
            Self::FillLogDisk => {
                let folder = stage.cluster.folder().join("nats/jetstream");
                stage.fill_disk(&folder, None).await
            }
            Self::CutConnections => Ok(stage.cut_connections().await),
            Self::RefuseConnections => Ok(stage.bad_line(Line::Closed).await),
            Self::SilenceConnections => Ok(stage.bad_line(Line::Silent).await),
            Self::SlowConnections => Ok(stage.bad_line(Line::Slow(SLOW)).await),
            Self::PublishGarbage => Ok(stage.publish_garbage().await),
            Self::KillLeader => Ok(stage.kill_leader().await),
            Self::KillEachServer => Ok(stage.kill_each_server().await),
            Self::StepDownLeaders => Ok(stage.step_down_leaders().await),
            Self::FreezeServer => Ok(stage.freeze_server().await),
            Self::CutOffFromServers => Ok(stage.cut_off(From::Servers).await),
            Self::CutOffFromEverybody => Ok(stage.cut_off(From::Everybody).await),
            Self::LoseHost => Ok(stage.lose_host().await),
            Self::LeaveHost => Ok(stage.leave_host().await),
            Self::FreezeOneHost => Ok(stage.freeze_one_host().await),
            Self::CutOffOneHost => Ok(stage.cut_off_one_host().await),
            Self::LoseAllHostsButOne => Ok(stage.lose_all_hosts_but_one().await),
            Self::LieAboutHosts => Ok(stage.lie_about_hosts().await),
            Self::HostsComeAndGo => Ok(stage.hosts_come_and_go().await),
            Self::RepartitionBehindFrozenHost => Ok(stage.repartition_behind_a_frozen_host().await),
            Self::CutOffMachine => Ok(stage.cut_off_a_machine().await),
            Self::CutOffLeadersMachine => Ok(stage.cut_off_a_leaders_machine().await),
            Self::CutOffAllMachines => Ok(stage.cut_off_all_machines().await),
            Self::CutOffAgainAndAgain => Ok(stage.cut_off_again_and_again().await),
        }
    }
}
