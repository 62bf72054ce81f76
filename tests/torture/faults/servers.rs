//! How the faults strike that need three nats-servers.

use std::time::Duration;

use shop_tests::{
    leaders::{Leaders, streams},
    process::Signal,
    proxy::Line,
    servers::{From, SERVERS},
};
use tokio::time::{Instant, sleep};

use super::{Stage, Survived};

/// Longest pause between two elections.
const STEP_DOWN_PAUSE_MS_MAX: u64 = 700;

impl Stage<'_> {
    pub(super) async fn kill_leader(&mut self) -> Survived {
        let leader = self.some_leader().await;
        self.kill_server(leader).await;
        Survived { kills: 1, ..Survived::default() }
    }

    pub(super) async fn kill_each_server(&mut self) -> Survived {
        let mut numbers: Vec<usize> = (0..SERVERS).collect();
        self.rng.shuffle(&mut numbers);
        for number in numbers {
            self.kill_server(number).await;
        }
        Survived { kills: SERVERS as u64, ..Survived::default() }
    }

    /// What was published to a leader that steps down is lost without a word: this makes holes.
    pub(super) async fn step_down_leaders(&mut self) -> Survived {
        let leaders = self.leaders().await;
        let end = Instant::now() + self.hold;
        while Instant::now() < end {
            leaders.step_down_all().await;
            sleep(Duration::from_millis(self.rng.u64(..STEP_DOWN_PAUSE_MS_MAX))).await;
        }
        leaders.wait_until_whole().await;
        Survived::default()
    }

    pub(super) async fn freeze_server(&mut self) -> Survived {
        let leader = self.some_leader().await;
        self.cluster.servers().signal(leader, Signal::STOP);
        sleep(self.hold).await;
        self.cluster.servers().signal(leader, Signal::CONT);
        self.leaders().await.wait_until_whole().await;
        Survived::default()
    }

    /// What was sent meanwhile arrives late, or never.
    pub(super) async fn cut_off(&mut self, from: From) -> Survived {
        let leader = self.some_leader().await;
        let line = if self.rng.bool() { Line::Silent } else { Line::Closed };
        self.cluster.servers().set_lines(leader, from, line);
        sleep(self.hold).await;
        self.cluster.servers().set_lines(leader, from, Line::Good);
        self.leaders().await.wait_until_whole().await;
        Survived::default()
    }

    /// Kills one, lets the others do the work for a while, and starts it again.
    async fn kill_server(&mut self, number: usize) {
        self.cluster.servers().get(number).kill().await;
        self.some_orders().await;
        self.start_nats_servers().await;
        self.leaders().await.wait_until_whole().await;
    }

    pub(super) async fn some_leader(&mut self) -> usize {
        let streams = streams();
        let stream = &streams[self.rng.usize(..streams.len())];
        let leader = self.leaders().await.of(stream).await;
        self.cluster.servers().number_of(&leader)
    }

    pub(super) async fn leaders(&mut self) -> Leaders {
        Leaders::at(self.cluster).await
    }
}
