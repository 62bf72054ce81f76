//! Not some orders of events but all of them: whatever message may come next does so, in one branch
//! of a search through every state that the shop can be in.
//!
//! Messages from one entity to another kind keep their order, nothing else does; commands come at
//! any time. Time stands still, so that branches that come to the same are followed once.

use std::collections::HashSet;

use shop_domain::{
    delivery,
    order::Status::{self, Cancelled, Confirmed, Rejected},
};

use crate::world::{World, cancel, place};

/// What a search has seen.
#[derive(Debug, Default)]
struct Search {
    states: HashSet<u128>,
    /// The ends that nothing leads on from: the statuses of all orders in each.
    ends: Vec<Vec<Status>>,
}

impl Search {
    /// Goes through all that can follow, and checks each state, and each end.
    fn through(mut shop: World, orders: &[&str], callers: &[&str]) -> Self {
        let mut search = Self::default();
        let totals = shop.check();
        shop.stands_still = true;
        let mut open = vec![shop];
        while let Some(shop) = open.pop() {
            if !search.states.insert(shop.digest()) {
                continue;
            }
            shop.check_always();
            let links = shop.open_links();
            for link in 0..links {
                let mut next = shop.clone();
                next.step(|_| link);
                open.push(next);
            }
            if links == 0 {
                assert_eq!(shop.check(), totals);
                for caller in callers {
                    assert_eq!(shop.answer_bytes(caller).len(), 1, "{caller} gets one answer");
                }
                search.ends.push(orders.iter().map(|order| shop.order(order).status).collect());
            }
        }
        println!("{} states, {} ends", search.states.len(), search.ends.len());
        search
    }

    /// The different ends, sorted.
    fn ends(&self) -> Vec<&[Status]> {
        let mut ends: Vec<_> = self.ends.iter().map(Vec::as_slice).collect();
        ends.sort_by_key(|statuses| format!("{statuses:?}"));
        ends.dedup();
        ends
    }
}

#[test]
fn of_two_orders_for_the_last_unit_exactly_one_is_confirmed_whoever_comes_first() {
    let mut shop = World::with(&[("apple", 10, 1)], &[("alice", 10), ("bob", 10)]);
    shop.ask_some_time("o-1", place("alice", &[("apple", 1, 10)]), "one");
    shop.ask_some_time("o-2", place("bob", &[("apple", 1, 10)]), "two");
    let search = Search::through(shop, &["o-1", "o-2"], &["one", "two"]);
    assert_eq!(search.ends(), [[Confirmed, Rejected], [Rejected, Confirmed]]);
}

#[test]
fn of_two_orders_for_the_last_won_exactly_one_is_confirmed_whoever_comes_first() {
    let mut shop = World::with(&[("apple", 10, 5), ("pear", 10, 5)], &[("alice", 19)]);
    shop.ask_some_time("o-1", place("alice", &[("apple", 1, 10)]), "one");
    shop.ask_some_time("o-2", place("alice", &[("pear", 1, 10)]), "two");
    let search = Search::through(shop, &["o-1", "o-2"], &["one", "two"]);
    assert_eq!(search.ends(), [[Confirmed, Rejected], [Rejected, Confirmed]]);
}

#[test]
fn two_orders_that_want_the_same_two_last_units_never_share_them() {
    let mut shop = World::with(&[("apple", 10, 1), ("pear", 10, 1)], &[("alice", 20), ("bob", 20)]);
    shop.ask_some_time("o-1", place("alice", &[("apple", 1, 10), ("pear", 1, 10)]), "one");
    shop.ask_some_time("o-2", place("bob", &[("pear", 1, 10), ("apple", 1, 10)]), "two");
    let search = Search::through(shop, &["o-1", "o-2"], &["one", "two"]);
    // Each may get what the other one wanted; then both go without.
    assert_eq!(search.ends(), [[Confirmed, Rejected], [Rejected, Confirmed], [Rejected, Rejected]]);
}

#[test]
fn a_cancel_may_cross_a_fight_for_the_last_unit_at_any_moment() {
    let mut shop = World::with(&[("apple", 10, 1)], &[("alice", 10), ("bob", 10)]);
    shop.ask_some_time("o-1", place("alice", &[("apple", 1, 10)]), "one");
    shop.ask_some_time("o-2", place("bob", &[("apple", 1, 10)]), "two");
    shop.ask_some_time("o-1", cancel(), "three");
    let search = Search::through(shop, &["o-1", "o-2"], &["one", "two", "three"]);
    // The cancel may come before the order, or after it was rejected: then it changes nothing.
    let ends = [[Cancelled, Confirmed], [Cancelled, Rejected], [Confirmed, Rejected], [Rejected, Confirmed]];
    assert_eq!(search.ends(), ends);
}

#[test]
fn an_order_of_two_lines_is_placed_twice_cancelled_twice_and_dispatched_in_any_order() {
    let mut shop = World::with(&[("apple", 10, 2), ("pear", 10, 3)], &[("alice", 50)]);
    let lines = [("apple", 2, 10), ("pear", 3, 10)];
    shop.ask_some_time("o-1", place("alice", &lines), "one");
    shop.ask_some_time("o-1", place("alice", &lines), "two");
    shop.ask_some_time("o-1", cancel(), "three");
    shop.ask_some_time("o-1", cancel(), "four");
    shop.ask_some_time("o-1", delivery::Message::Dispatch, "five");
    let search = Search::through(shop, &["o-1"], &["one", "two", "three", "four", "five"]);
    assert_eq!(search.ends(), [[Cancelled], [Confirmed]]);
}

#[test]
fn every_message_of_two_rivals_delivered_twice_changes_nothing_in_any_order() {
    let mut shop = World::with(&[("apple", 10, 1), ("pear", 10, 2)], &[("alice", 20), ("bob", 20)]);
    shop.stutters = true;
    shop.ask_some_time("o-1", place("alice", &[("apple", 1, 10), ("pear", 1, 10)]), "one");
    shop.ask_some_time("o-2", place("bob", &[("apple", 1, 10), ("pear", 1, 10)]), "two");
    // Placed twice is asked twice: both get an answer, so nobody counts them here.
    let search = Search::through(shop, &["o-1", "o-2"], &[]);
    assert_eq!(search.ends(), [[Confirmed, Rejected], [Rejected, Confirmed]]);
}

#[test]
#[ignore = "a minute or more; `just sim-all`"]
fn two_rivals_of_two_lines_are_both_cancelled_at_any_moment() {
    let mut shop = World::with(&[("apple", 10, 1), ("pear", 10, 1)], &[("alice", 20), ("bob", 20)]);
    shop.ask_some_time("o-1", place("alice", &[("apple", 1, 10), ("pear", 1, 10)]), "one");
    shop.ask_some_time("o-2", place("bob", &[("pear", 1, 10), ("apple", 1, 10)]), "two");
    shop.ask_some_time("o-1", cancel(), "three");
    shop.ask_some_time("o-2", cancel(), "four");
    let search = Search::through(shop, &["o-1", "o-2"], &["one", "two", "three", "four"]);
    let all = [Cancelled, Confirmed, Rejected].map(|one| [Cancelled, Confirmed, Rejected].map(|two| [one, two]));
    let possible: Vec<_> = all.into_iter().flatten().filter(|ends| *ends != [Confirmed, Confirmed]).collect();
    assert_eq!(search.ends(), possible);
}
