//! Whether a message is under way between any two partitions.

use std::collections::BTreeMap;

use shop_nats::log::{
    Logs, PartitionId,
    frame::{Origin, Source},
};

use crate::store::Meta;

/// The first link on which not exactly what was sent has been accepted, if there is one.
///
/// Both numbers are what the checkpoints say, and these depend on nothing but the logs: so it is certain.
pub(super) fn under_way(logs: &Logs, metas: &BTreeMap<PartitionId, Meta>) -> Option<String> {
    let mut links: BTreeMap<(PartitionId, PartitionId), (u64, u64)> = BTreeMap::new();
    for (place, meta) in metas {
        for (target, number) in meta.links.all_sent() {
            if logs[&target.kind].link_epoch == target.epoch {
                links.entry((*place, (target.kind, target.partition))).or_default().0 = number;
            }
        }
        for (source, number) in meta.links.all_accepted() {
            match source {
                Source { origin: Origin::Partition(kind, partition), epoch } if logs[&kind].link_epoch == epoch => {
                    links.entry(((kind, partition), *place)).or_default().1 = number;
                }
                Source { origin: Origin::Partition(..) | Origin::Door, .. } => {}
            }
        }
    }
    let unequal = links.into_iter().find(|(_, (sent, accepted))| sent != accepted);
    unequal.map(|((from, to), (sent, accepted))| {
        format!("{}/{} has sent {sent} messages to {}/{}, which has had {accepted}", from.0, from.1, to.0, to.1)
    })
}

#[cfg(test)]
mod tests {
    use shop_domain::kind::Kind;
    use shop_nats::log::Identity;

    use super::*;
    use crate::link::Target;

    const ORDER: PartitionId = (Kind::Order, 0);
    const WALLET: PartitionId = (Kind::Wallet, 1);

    fn identity(epoch: u64) -> Identity {
        Identity { epoch: 1, partitions: 2, ..Identity::new(epoch) }
    }

    /// What orders have sent to wallets, and what wallets have accepted, of the epochs that these name.
    fn links(sent: &[(u64, usize)], accepted: &[(u64, usize)]) -> Option<String> {
        let logs: Logs = Kind::ALL.map(|kind| (kind, identity(7))).into();
        let mut metas = BTreeMap::from([ORDER, WALLET].map(|place| (place, Meta::new(&identity(7)))));
        for (epoch, count) in sent {
            let target = Target { kind: WALLET.0, partition: WALLET.1, epoch: *epoch };
            metas.get_mut(&ORDER).unwrap().links.number(target, *count);
        }
        for (epoch, count) in accepted {
            let source = Source { origin: Origin::Partition(ORDER.0, ORDER.1), epoch: *epoch };
            metas.get_mut(&WALLET).unwrap().links.accept(source, 1, *count, 1);
        }
        under_way(&logs, &metas)
    }

    #[test]
    fn nothing_is_under_way_when_every_link_has_brought_what_was_sent() {
        assert_eq!(links(&[], &[]), None);
        assert_eq!(links(&[(7, 3)], &[(7, 3)]), None);
        let under_way = "order/0 has sent 3 messages to wallet/1, which has had 2";
        assert_eq!(links(&[(7, 3)], &[(7, 2)]).as_deref(), Some(under_way));
        assert!(links(&[(7, 3)], &[]).is_some());
        assert!(links(&[], &[(7, 1)]).is_some(), "nobody has sent what came");
    }

    #[test]
    fn links_of_logs_that_are_gone_do_not_count() {
        assert_eq!(links(&[(6, 3), (7, 1)], &[(6, 2), (7, 1)]), None);
    }
}
