//! Not by chance: one order of two lines, and everything that can go wrong at every moment of it.
//!
//! A run without trouble tells its moments; each trouble that is possible at each of them makes a
//! run of its own, and the moments of that run after the trouble make the pairs.

use std::fmt;

use shop_domain::{
    order::Status::{self, Confirmed, Rejected},
    wallet,
};
use tokio::time::Duration;

use crate::{
    chaos::{Act, Harm, Keep, Moment, Script, Trouble},
    check,
    plan::{create, money, place},
    sim::{Shape, Sim},
    trace::Trace,
};

/// How long the order may take until it is left to come to its end.
const STORY: Duration = Duration::from_secs(12);

/// The second trouble of the pairs that are tried each time, at any later moment.
pub(crate) const CANCEL: Trouble = Trouble::Act(Act::Cancel);
/// Those that are tried each time at the very next moment: a host that comes back with nothing, and
/// a message that comes again. All others are tried by `just sim-all`.
pub(crate) const RIGHT_BEHIND: [Trouble; 2] =
    [Trouble::Harm(Harm::CrashBefore(Keep::Nothing)), Trouble::Harm(Harm::Unacknowledged)];

/// What the order finds, and how it then ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// What the wallet holds, if there is one. The order costs 50.
    balance: Option<u64>,
    /// Price and stock of the two products, if they are on sale. The order takes two at 10 and three at 10.
    products: [Option<(u64, u64)>; 2],
    /// What the order comes to when nothing else happens.
    ends: Status,
    /// Hosts of each kind: the owner of its partition, and standbys.
    hosts: u16,
}

const ENOUGH: Option<(u64, u64)> = Some((10, 3));
const OUT: Option<(u64, u64)> = Some((10, 1));
const DEARER: Option<(u64, u64)> = Some((11, 3));

/// Every step refused in turn, for every reason there is.
pub(crate) const SCENARIOS: [Scenario; 10] = [
    Scenario { name: "confirmed", balance: Some(50), products: [ENOUGH, ENOUGH], ends: Confirmed, hosts: 1 },
    Scenario { name: "balance-too-small", balance: Some(49), products: [ENOUGH, ENOUGH], ends: Rejected, hosts: 1 },
    Scenario { name: "no-wallet", balance: None, products: [ENOUGH, ENOUGH], ends: Rejected, hosts: 1 },
    Scenario { name: "first-out-of-stock", balance: Some(50), products: [OUT, ENOUGH], ends: Rejected, hosts: 1 },
    Scenario { name: "second-out-of-stock", balance: Some(50), products: [ENOUGH, OUT], ends: Rejected, hosts: 1 },
    Scenario { name: "both-out-of-stock", balance: Some(50), products: [OUT, OUT], ends: Rejected, hosts: 1 },
    Scenario { name: "first-dearer", balance: Some(50), products: [DEARER, ENOUGH], ends: Rejected, hosts: 1 },
    Scenario { name: "second-dearer", balance: Some(50), products: [ENOUGH, DEARER], ends: Rejected, hosts: 1 },
    Scenario { name: "first-missing", balance: Some(50), products: [None, ENOUGH], ends: Rejected, hosts: 1 },
    Scenario { name: "second-missing", balance: Some(50), products: [ENOUGH, None], ends: Rejected, hosts: 1 },
];

/// With two hosts of each kind.
const IN_COMPANY: [Scenario; 2] = [
    Scenario { name: "confirmed-in-company", hosts: 2, ..SCENARIOS[0] },
    Scenario { name: "second-out-of-stock-in-company", hosts: 2, ..SCENARIOS[4] },
];

/// With one host of each kind, and then with two.
pub(crate) fn all_scenarios() -> impl Iterator<Item = Scenario> {
    SCENARIOS.into_iter().chain(IN_COMPANY)
}

/// One run: what it finds, and what goes wrong. Written as `confirmed 3:lost 7:cancel`.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) scenario: Scenario,
    pub(crate) script: Script,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scenario.name)?;
        self.script.iter().try_for_each(|(at, trouble)| write!(f, " {at}:{trouble}"))
    }
}

impl Case {
    /// Reads what was printed.
    pub(crate) fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let name = words.next().expect("a case begins with its scenario");
        let scenario = all_scenarios().find(|scenario| scenario.name == name).expect("there is such a scenario");
        let trouble = |word: &str| {
            let (at, trouble) = word.split_once(':').expect("a trouble stands behind its moment");
            (at.parse().expect("a moment is a number"), trouble.parse().expect("there is such a trouble"))
        };
        Self { scenario, script: words.map(trouble).collect() }
    }

    /// The same with one more trouble at each moment from `from` on that `moments` names.
    pub(crate) fn with_one_more(&self, moments: &[Moment], from: usize) -> impl Iterator<Item = Self> {
        let later = moments.iter().copied().enumerate().skip(from);
        let is_possible = |(_, trouble): &(usize, Trouble)| match trouble {
            Trouble::Harm(_) => true,
            Trouble::Act(act) => self.scenario.hosts > 1 || !act.needs_company(),
        };
        let troubles = later.flat_map(|(at, moment)| moment.troubles().map(move |trouble| (at, trouble)));
        let troubles = troubles.filter(is_possible);
        troubles.map(|(at, trouble)| {
            let script = self.script.iter().copied().chain([(at, trouble)]).collect();
            Self { script, ..*self }
        })
    }

    /// Whether the last of two troubles is tried behind each other one: among several hosts only what they do to
    /// each other.
    pub(crate) fn is_worth_a_pair(&self) -> bool {
        let is_company = |trouble: &Trouble| match trouble {
            Trouble::Harm(_) => false,
            Trouble::Act(act) => act.needs_company() || *act == Act::Stop,
        };
        self.scenario.hosts == 1 || self.script.last().is_some_and(|(_, trouble)| is_company(trouble))
    }

    /// The moment after the last trouble.
    pub(crate) fn next_moment(&self) -> usize {
        self.script.last().map_or(0, |(at, _)| at + 1)
    }

    /// Plays it and checks all; returns the moments that it had as well.
    pub(crate) async fn play(&self) -> (Trace, Vec<Moment>) {
        let Scenario { balance, products, .. } = self.scenario;
        let standbys = usize::from(self.scenario.hosts) - 1;
        let shape = Shape { hosts: self.scenario.hosts, standbys, ..Shape::SMALL };
        let mut sim = Sim::new(fastrand::Rng::with_seed(0), shape);
        if let Some(balance) = balance {
            sim.ask("alice", wallet::Message::Open { balance: money(balance) });
        }
        for (name, product) in ["apple", "pear"].into_iter().zip(products) {
            if let Some((price, stock)) = product {
                sim.ask(name, create(price, stock));
            }
        }
        sim.pass(Duration::from_secs(1)).await;
        sim.follow(self.script.clone());
        sim.ask("o-1", place("alice", &[("apple", 2, 10), ("pear", 3, 10)]));
        sim.pass(STORY).await;
        sim.heal().await;
        if self.script.is_empty() {
            assert_eq!(check::status(&sim, "o-1"), self.scenario.ends, "{}", self.scenario.name);
        }
        check::everything(&mut sim).await;
        (sim.trace(), sim.moments)
    }
}
