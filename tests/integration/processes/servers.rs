//! Three nats-servers that keep every log together: killed, frozen, cut off and robbed of their
//! leadership while customers order. Any one of them may be lost, and nothing is.

use shop_domain::kind::Kind;
use shop_tests::{
    client::Client,
    cluster::{A_PROCESS_PER_KIND, Cluster},
    leaders::{Leaders, stream_of},
    market::{Market, Outcomes},
    process::{Process, Signal},
    proxy::Line,
    rush::{Rush, Told},
    seed::rng,
    servers::{From, SERVERS},
};

/// How many orders a rush has.
const ORDERS: usize = 300;

#[tokio::test]
async fn leaders_that_step_down_again_and_again_in_the_rush_leave_no_hole() {
    let mut shop = Shop::open(31).await;
    let shapes = shop.leaders.shapes().await;
    for kind in Kind::ALL {
        assert_eq!(shapes[&stream_of(kind)], (3, 12), "copies and partitions of {kind}: {shapes:?}");
    }
    let mut rush = shop.rush();
    let mut stepped_down = 0;
    for round in 1..=8 {
        rush.has_answered(ORDERS * round / 10).await;
        stepped_down += shop.leaders.step_down_all().await;
    }
    assert!(stepped_down > 20, "only {stepped_down} leaders have stepped down");
    shop.close(rush).await;
}

#[tokio::test]
async fn each_of_three_servers_is_killed_in_the_rush_the_leader_of_the_orders_first() {
    let mut shop = Shop::open(32).await;
    let mut rush = shop.rush();
    let first = shop.leader_of(Kind::Order).await;
    for victim in 0..SERVERS {
        rush.has_answered(ORDERS * (2 * victim + 1) / 8).await;
        let victim = (first + victim) % SERVERS;
        shop.cluster.servers().get(victim).kill().await;
        rush.has_answered((rush.answered() + ORDERS / 8).min(ORDERS)).await;
        shop.cluster.servers().start_again().await;
        shop.leaders.wait_until_whole().await;
    }
    shop.close(rush).await;
}

#[tokio::test]
async fn a_leader_that_is_frozen_in_the_rush_is_done_without_until_it_wakes_up() {
    let mut shop = Shop::open(33).await;
    let mut rush = shop.rush();
    rush.has_answered(ORDERS / 3).await;
    let leader = shop.leader_of(Kind::Order).await;
    shop.cluster.servers().signal(leader, Signal::STOP);
    // Whoever was connected to it has to notice first.
    rush.has_answered(ORDERS * 2 / 3).await;
    shop.cluster.servers().signal(leader, Signal::CONT);
    shop.close(rush).await;
}

#[tokio::test]
async fn a_leader_that_is_cut_off_in_the_rush_is_done_without_until_it_is_back() {
    let mut shop = Shop::open(34).await;
    let mut rush = shop.rush();
    rush.has_answered(ORDERS / 3).await;
    let leader = shop.leader_of(Kind::Order).await;
    shop.cluster.servers().set_lines(leader, From::Everybody, Line::Silent);
    rush.has_answered(ORDERS * 2 / 3).await;
    shop.cluster.servers().set_lines(leader, From::Everybody, Line::Good);
    shop.close(rush).await;
}

/// A shop on three servers, and its market.
struct Shop {
    cluster: Cluster,
    client: Client,
    market: Market,
    leaders: Leaders,
}

impl Shop {
    async fn open(seed: u64) -> Self {
        let cluster = Cluster::start_on_three_servers(&A_PROCESS_PER_KIND, None).await;
        let leaders = Leaders::at(&cluster).await;
        leaders.wait_until_whole().await;
        let client = cluster.client();
        let market = Market::open(&client, rng(seed), ORDERS).await;
        Self { cluster, client, market, leaders }
    }

    fn rush(&mut self) -> Rush {
        Rush::begin(&self.client, self.market.orders("order", ORDERS))
    }

    async fn leader_of(&mut self, kind: Kind) -> usize {
        let leader = self.leaders.of(&stream_of(kind)).await;
        self.cluster.servers().number_of(&leader)
    }

    /// Lets the rush come to its end, and compares everything; nobody had to be started again.
    async fn close(mut self, rush: Rush) {
        let told: Told = rush.finish().await;
        self.leaders.wait_until_whole().await;
        self.cluster.wait_until_ready().await;
        let Outcomes { confirmed, rejected, refunded } = self.market.audit(&self.client, &told).await;
        assert!(confirmed > 100 && rejected > 0 && refunded > 0, "{confirmed}, {rejected}, {refunded}");
        let arguments = ["audit".to_owned(), "--nats-url".to_owned(), self.cluster.servers().url()];
        let said = Process::spawn(self.cluster.folder(), "audit", arguments).explains().await;
        assert!(said.contains("no differences"), "{said}");
        self.cluster.stop().await;
    }
}
