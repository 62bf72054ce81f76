//! How the faults strike that need machines with a network between them.

use std::time::Duration;

use shop_tests::servers::SERVERS;
use tokio::time::{Instant, sleep};

use super::{Stage, Survived};

/// Longest time for which a cable is out, and in, that somebody keeps touching: now longer, now shorter than it takes to
/// notice, and than it takes to elect.
const TOUCH_MS_MAX: u64 = 6_000;

impl Stage<'_> {
    pub(super) async fn cut_off_a_machine(&mut self) -> Survived {
        let machine = self.rng.usize(..SERVERS);
        self.cut_off_these(&[machine]).await
    }

    pub(super) async fn cut_off_a_leaders_machine(&mut self) -> Survived {
        let machine = self.some_leader().await;
        self.cut_off_these(&[machine]).await
    }

    /// Nobody can do anything then.
    pub(super) async fn cut_off_all_machines(&mut self) -> Survived {
        self.cut_off_these(&[0, 1, 2]).await
    }

    pub(super) async fn cut_off_again_and_again(&mut self) -> Survived {
        let end = Instant::now() + self.hold;
        while Instant::now() < end {
            let machine = self.rng.usize(..SERVERS);
            self.cluster.machines().cut_off(machine);
            self.a_moment().await;
            self.cluster.machines().join();
            self.a_moment().await;
        }
        self.leaders().await.wait_until_whole().await;
        Survived::default()
    }

    async fn cut_off_these(&mut self, machines: &[usize]) -> Survived {
        machines.iter().for_each(|machine| self.cluster.machines().cut_off(*machine));
        sleep(self.hold).await;
        self.cluster.machines().join();
        self.leaders().await.wait_until_whole().await;
        Survived::default()
    }

    async fn a_moment(&mut self) {
        sleep(Duration::from_millis(self.rng.u64(..TOUCH_MS_MAX))).await;
    }
}
