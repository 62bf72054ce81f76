//! How the faults strike: signals, checkpoints, disks and lines.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use shop_tests::{
    cluster::delete,
    process::Signal,
    proxy::{Line, Proxy},
    wait::Patience,
};
use tokio::time::{Instant, sleep, timeout};

use super::{Skipped, Stage, Survived};

/// How long a nats-server may take for an order once its disk has room again; then it is started
/// again, as a supervisor does that asks for its health.
const SELF_HELP: Duration = Duration::from_secs(3);
/// How often ended hosts are started again meanwhile: about as a supervisor does.
const REVIVE_INTERVAL: Duration = Duration::from_millis(250);

impl Stage<'_> {
    pub(super) fn some_host(&mut self) -> &'static str {
        let names = self.cluster.host_names();
        names[self.rng.usize(..names.len())]
    }

    /// Waits until some more orders are confirmed: the fault strikes at work, not at rest.
    pub(crate) async fn some_orders(&mut self) {
        let wanted = *self.confirmed.borrow() + self.orders;
        let patience = Patience::new();
        while *self.confirmed.borrow_and_update() < wanted {
            patience.pause("some orders are confirmed").await;
        }
    }

    pub(super) async fn kill_host(&mut self, name: &'static str) -> Survived {
        self.cluster.take_host(name).kill().await;
        self.cluster.start_host(name);
        Survived { kills: 1, ..Survived::default() }
    }

    pub(super) async fn kill_some_hosts(&mut self) -> Survived {
        let kills = self.rng.u64(2..=4);
        for _ in 0..kills {
            let name = self.some_host();
            self.kill_host(name).await;
            // Some strike while the one before is still starting.
            if self.rng.bool() {
                sleep(Duration::from_millis(self.rng.u64(..500))).await;
            }
        }
        Survived { kills, ..Survived::default() }
    }

    pub(super) async fn kill_everything(&mut self) -> Survived {
        let names = self.cluster.host_names();
        let hosts: Vec<_> = names.iter().map(|name| self.cluster.take_host(name).kill()).collect();
        let bridge = self.cluster.take_bridge().kill();
        tokio::join!(self.cluster.servers().kill(), bridge, futures::future::join_all(hosts));
        self.start_nats_servers().await;
        for name in &names {
            self.cluster.start_host(name);
        }
        self.cluster.start_bridge().await;
        let kills = 1 + names.len() + self.cluster.servers().all().len();
        Survived { kills: kills as u64, ..Survived::default() }
    }

    pub(super) async fn kill_bridge(&mut self) -> Survived {
        self.cluster.take_bridge().kill().await;
        self.cluster.start_bridge().await;
        Survived { kills: 1, ..Survived::default() }
    }

    pub(super) async fn kill_nats_server(&mut self) -> Survived {
        self.cluster.nats().kill().await;
        self.start_nats_servers().await;
        Survived { kills: 1, ..Survived::default() }
    }

    pub(super) async fn start_nats_servers(&mut self) {
        self.cluster.servers().start_again().await;
    }

    /// The zombie: it wakes up with all that it had been given, when another one has done its work.
    pub(super) async fn freeze_host(&mut self) -> Survived {
        let name = self.some_host();
        self.cluster.host(name).signal(Signal::STOP);
        let (kinds, partitions) = (self.cluster.kinds_of(name), self.cluster.partitions());
        let own_folder = self.cluster.folder().join(format!("{name}-double"));
        let double = format!("{name}-double");
        let mut double = self.cluster.spawn_host(&double, kinds, &own_folder, partitions);
        let is_served = |log: &str| log.contains(" is served").then_some(());
        let (_, ()) = tokio::join!(sleep(self.hold), double.says("that its kind is served", is_served));
        self.cluster.host(name).signal(Signal::CONT);
        self.some_orders().await;
        if self.rng.bool() {
            double.kill().await;
        } else {
            self.kill_host(name).await;
            self.cluster.wait_for_host(name).await;
            double.kill().await;
        }
        Survived { kills: 1, ..Survived::default() }
    }

    pub(super) async fn delete_checkpoints(&mut self) -> Survived {
        let name = self.some_host();
        self.cluster.take_host(name).kill().await;
        delete_contents(&self.cluster.checkpoints(name));
        self.cluster.start_host(name);
        Survived { kills: 1, ..Survived::default() }
    }

    pub(super) async fn restore_old_checkpoints(&mut self) -> Survived {
        let name = self.some_host();
        let (checkpoints, copy) = (self.cluster.checkpoints(name), self.cluster.folder().join("old-checkpoints"));
        self.cluster.take_host(name).kill().await;
        copy_contents(&checkpoints, &copy).unwrap_or_else(|error| panic!("cannot copy checkpoints: {error}"));
        self.cluster.start_host(name);
        self.cluster.wait_for_host(name).await;
        self.some_orders().await;
        self.cluster.take_host(name).kill().await;
        delete_contents(&checkpoints);
        copy_contents(&copy, &checkpoints).unwrap_or_else(|error| panic!("cannot copy checkpoints: {error}"));
        delete(&copy);
        self.cluster.start_host(name);
        Survived { kills: 2, ..Survived::default() }
    }

    /// Processes may end meanwhile, with a clear error; they are started again. In the end, what
    /// does not find back by itself is as well.
    pub(super) async fn fill_disk(&mut self, folder: &Path, host: Option<&'static str>) -> Result<Survived, Skipped> {
        let Some(disks) = self.cluster.disks() else {
            return Err(Skipped(self.no_disks.unwrap_or("there are no disks").to_owned()));
        };
        disks.fill(folder).await;
        let mut survived = Survived::default();
        // Some crash on top of it, and have to start on a full disk, or cannot.
        if self.rng.bool() {
            survived = match host {
                Some(host) => self.kill_host(host).await,
                None => self.kill_nats_server_on_a_full_disk().await,
            };
        }
        let end = Instant::now() + self.hold.min(Duration::from_secs(5));
        while Instant::now() < end {
            sleep(REVIVE_INTERVAL).await;
            survived.restarted.extend(self.cluster.start_ended_hosts().into_iter().map(str::to_owned));
        }
        if let Some(disks) = self.cluster.disks() {
            disks.make_room(folder).await;
        }
        self.start_nats_servers().await;
        survived.restarted.extend(self.cluster.start_ended_hosts().into_iter().map(str::to_owned));
        if timeout(SELF_HELP, self.some_orders()).await.is_err() {
            survived.restarted.insert("nats-server".to_owned());
            self.cluster.nats().stop().await;
            self.start_nats_servers().await;
            survived.restarted.extend(self.cluster.start_ended_hosts().into_iter().map(str::to_owned));
        }
        Ok(survived)
    }

    pub(super) async fn kill_nats_server_on_a_full_disk(&mut self) -> Survived {
        self.cluster.nats().kill().await;
        // It may not start before there is room.
        let _outcome = timeout(SELF_HELP, self.cluster.nats().start_again()).await;
        Survived { kills: 1, ..Survived::default() }
    }

    pub(super) async fn cut_connections(&mut self) -> Survived {
        let cuts = self.rng.u64(3..=8);
        for _ in 0..cuts {
            for line in self.some_lines() {
                line.cut();
            }
            sleep(Duration::from_millis(self.rng.u64(..400))).await;
        }
        Survived::default()
    }

    pub(super) async fn bad_line(&mut self, bad: Line) -> Survived {
        let hold = self.hold.min(Duration::from_secs(8));
        let lines = self.some_lines();
        for line in &lines {
            line.set(bad);
            if bad == Line::Closed {
                line.cut();
            }
        }
        sleep(hold).await;
        for line in &lines {
            line.set(Line::Good);
        }
        Survived::default()
    }

    /// That of the hosts, that of the bridge, or both.
    fn some_lines(&mut self) -> Vec<&Proxy> {
        let choice = self.rng.u8(0..3);
        let lines = self.cluster.lines();
        match choice {
            0 => vec![&lines.hosts],
            1 => vec![&lines.bridge],
            _ => vec![&lines.hosts, &lines.bridge],
        }
    }
}

/// Not the folder itself: it may be where a disk is mounted.
fn delete_contents(folder: &Path) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    let folders: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    assert!(!folders.is_empty(), "there are no checkpoints in {}", folder.display());
    folders.iter().for_each(|folder| delete(folder));
}

fn copy_contents(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (entry, target) = (entry?, to);
        let target = target.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_contents(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
