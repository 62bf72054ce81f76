//! Which orders hold something of an entity: pieces that they took and have not put back, money that they were charged
//! and have not got back.

use std::collections::{BTreeMap, HashMap};

use shop_domain::id::OrderId;

use super::Place;

/// The orders that hold something of one entity, in the turn in which they came by it.
#[derive(Debug, Default)]
pub(super) struct Holders {
    by_turn: BTreeMap<u64, (OrderId, Place)>,
    turns: HashMap<OrderId, u64>,
    last_turn: u64,
}

impl Holders {
    /// An order has taken something there.
    pub(super) fn take(&mut self, order: &OrderId, place: Place) {
        self.give_back(order);
        self.last_turn += 1;
        self.turns.insert(order.clone(), self.last_turn);
        self.by_turn.insert(self.last_turn, (order.clone(), place));
    }

    /// It holds nothing of it any more.
    pub(super) fn give_back(&mut self, order: &OrderId) {
        if let Some(turn) = self.turns.remove(order) {
            self.by_turn.remove(&turn);
        }
    }

    /// The last to take something of those that still hold it.
    pub(super) fn last(&self) -> Option<&(OrderId, Place)> {
        self.by_turn.values().next_back()
    }
}

#[cfg(test)]
mod tests {
    use shop_domain::timestamp::Timestamp;

    use super::*;

    #[test]
    fn only_who_still_holds_something_counts_and_of_those_the_last() {
        let (one, two): (OrderId, OrderId) = ("o-1".parse().unwrap(), "o-2".parse().unwrap());
        let at = |sequence| Place { sequence, time: Timestamp::from_unix_ms(sequence) };
        let mut holders = Holders::default();
        let last = |holders: &Holders| holders.last().map(|(order, place)| (order.to_string(), place.sequence));
        assert_eq!(last(&holders), None);
        holders.take(&one, at(1));
        holders.take(&two, at(2));
        assert_eq!(last(&holders), Some(("o-2".to_owned(), 2)));
        holders.give_back(&two);
        holders.give_back(&two);
        assert_eq!(last(&holders), Some(("o-1".to_owned(), 1)));
        holders.give_back(&one);
        assert_eq!(last(&holders), None);
    }
}
