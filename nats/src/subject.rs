//! Every subject and stream name of the shop.

use shop_domain::{
    caller::{Caller, Reach},
    id::Id,
    kind::Kind,
};

/// The verb for a bundle of requests; no kind has another one of that name.
pub(crate) const BUNDLE_VERB: &str = "bundle";

/// Where bytes go that could not be read as a frame.
pub const DEAD_STREAM: &str = "SHOP_DEAD";

/// Where it is decided into how many partitions the kinds are cut.
pub const LAYOUT_STREAM: &str = "SHOP_LAYOUT";

/// The one subject of that stream.
pub(crate) const LAYOUT: &str = "shop.layout";

/// Where hosts are told that their doors are to hold what changes something.
pub(crate) const HOLD: &str = "shop.hold";

/// Where bridges ask hosts whether the servers of the cluster still have a common leader: JetStream itself they may not
/// ask, because it answers wherever who asks says, also into a log.
pub(crate) const SERVERS: &str = "shop.servers.status";

/// Where the servers of a cluster say which of them leads a stream from now on.
pub(crate) const ELECTIONS: &str = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED.*";

/// Where nobody listens, and everybody may ask: the status of a kind that there is not.
pub(crate) const NOBODY: &str = "shop.nobody.status";

/// `shop.<kind>.<id>.<verb>`: where a request about one entity goes.
pub fn door(kind: Kind, id: &str, verb: &str) -> String {
    format!("shop.{kind}.{id}.{verb}")
}

/// `shop.<kind>.<verb>`: where a request about a whole kind goes: `list` (products), `status`.
pub fn door_of_kind(kind: Kind, verb: &str) -> String {
    format!("shop.{kind}.{verb}")
}

/// The same for a caller: `shop.by.<caller>.<kind>.…` for whom sees and moves only what is its own, and
/// `shop.staff.<caller>.<kind>.…` for whom sees and moves all. `door` is the subject without a caller.
pub fn door_for(caller: Option<&Caller>, door: &str) -> String {
    match (caller, door.strip_prefix("shop.")) {
        (Some(Caller { name, reach }), Some(door)) => format!("{}.{name}.{door}", prefix_of(*reach)),
        (_, _) => door.to_owned(),
    }
}

/// What the subjects begin with on which callers with that reach speak.
const fn prefix_of(reach: Reach) -> &'static str {
    match reach {
        Reach::Own => "shop.by",
        Reach::Any => "shop.staff",
    }
}

/// `shop.<kind>.bundle`: where a bridge sends bundles of requests whose subjects begin with `prefix`, `shop.<kind>.`.
pub(crate) fn bundle(prefix: &str) -> String {
    format!("{prefix}{}", BUNDLE_VERB)
}

/// `shop.callers.<kind>.bundle`: the same of requests for callers. A host from before there were callers, which would
/// take each for the bridge's own, does not listen there.
pub(crate) fn bundle_for_callers(prefix: &str) -> String {
    let kind = prefix.strip_prefix("shop.").unwrap_or(prefix);
    format!("shop.callers.{kind}{}", BUNDLE_VERB)
}

/// All that the doors of a kind listen to: `shop.<kind>.>`; and for callers `shop.by.*.<kind>.>`,
/// `shop.staff.*.<kind>.>` and `shop.callers.<kind>.>`. Each with a subject of it that nobody else uses or minds.
pub(crate) fn doors(kind: Kind) -> [(String, String); 4] {
    let for_callers = |prefix: &str, any: &str, one: &str| {
        (format!("{prefix}{any}.{kind}.>"), format!("{prefix}{one}.{kind}.leaving"))
    };
    [
        for_callers("shop", "", ""),
        for_callers(prefix_of(Reach::Own), ".*", ".leaving"),
        for_callers(prefix_of(Reach::Any), ".*", ".leaving"),
        for_callers("shop.callers", "", ""),
    ]
}

/// What stands behind `shop.<kind>.` in the subject of a request, and the caller that it names, unchecked.
pub(crate) fn target(kind: Kind, subject: &str) -> (Option<(&str, Reach)>, &str) {
    for reach in [Reach::Own, Reach::Any] {
        let rest = subject.strip_prefix(prefix_of(reach)).and_then(|rest| rest.strip_prefix('.'));
        let named = rest.and_then(|rest| rest.split_once('.'));
        if let Some((name, target)) = named.and_then(|(name, rest)| Some((name, behind(kind, rest)?))) {
            return (Some((name, reach)), target);
        }
    }
    let plain = subject.strip_prefix("shop.").and_then(|rest| behind(kind, rest));
    let bundle = || (subject == bundle_for_callers(&format!("shop.{kind}."))).then_some(BUNDLE_VERB);
    (None, plain.or_else(bundle).unwrap_or_default())
}

fn behind(kind: Kind, rest: &str) -> Option<&str> {
    rest.strip_prefix(kind.as_str())?.strip_prefix('.')
}

/// `shop.hosts.<kind>`: where the hosts of a kind tell each other that they are there.
pub(crate) fn hosts(kind: Kind) -> String {
    format!("shop.hosts.{kind}")
}

/// `shop.hosts.<kind>.<host>`: where one host answers those who see whether it is still there.
pub(crate) fn host(kind: Kind, host: &str) -> String {
    format!("shop.hosts.{kind}.{host}")
}

/// `shop.holders.<kind>.<partition>`: where those who hold a partition are asked about it by the other hosts; once the
/// shop was repartitioned, `shop.holders.<kind>.<generation>.<partition>`, because a partition of that number is
/// another one under each layout.
pub fn holders(kind: Kind, generation: u32, partition: u16) -> String {
    match generation {
        0 => format!("shop.holders.{kind}.{partition}"),
        generation => format!("shop.holders.{kind}.{generation}.{partition}"),
    }
}

/// `SHOP_<KIND>`: the stream that is the log of a kind.
pub fn stream(kind: Kind) -> String {
    format!("SHOP_{}", kind.as_str().to_uppercase())
}

/// The kind whose log has another leader, as such a message's subject says.
pub(crate) fn elected(election: &str) -> Option<Kind> {
    let (_, stream_name) = election.rsplit_once('.')?;
    Kind::ALL.into_iter().find(|kind| stream(*kind) == stream_name)
}

/// Where JetStream is asked for the next records of a kind's log.
pub(crate) fn next_records(kind: Kind) -> String {
    format!("$JS.API.DIRECT.GET.{}", stream(kind))
}

/// `shop.log.<kind>.<partition>`: the part of a kind's log that belongs to one partition; once the shop was
/// repartitioned, `shop.log.<kind>.<generation>.<partition>`.
pub fn log(kind: Kind, generation: u32, partition: u16) -> String {
    match generation {
        0 => format!("shop.log.{kind}.{partition}"),
        generation => format!("shop.log.{kind}.{generation}.{partition}"),
    }
}

/// All subjects of a kind's log. One by one, so that nothing is taken that is for no partition.
pub(crate) fn logs(kind: Kind, generation: u32, partitions: u16) -> Vec<String> {
    (0..partitions).map(|partition| log(kind, generation, partition)).collect()
}

/// The generation and the partition that the subject of a record names; none when it is no subject of a log of that
/// kind.
pub(crate) fn place(kind: Kind, subject: &str) -> Option<(u32, u16)> {
    let place = subject.strip_prefix("shop.log.")?.strip_prefix(kind.as_str())?.strip_prefix('.')?;
    let (generation, partition) = place.split_once('.').unwrap_or(("0", place));
    let (generation, partition) = (generation.parse().ok()?, partition.parse().ok()?);
    // Numbers can be written in several ways, and only one of them is a log's.
    (log(kind, generation, partition) == subject).then_some((generation, partition))
}

/// Whether a subject is one of the stream of dead letters, and of one of them only.
pub fn is_of_dead(subject: &str) -> bool {
    let is_token = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let tokens = subject.strip_prefix("shop.dead.").map(|rest| rest.split('.'));
    tokens.is_some_and(|mut tokens| tokens.all(|token| is_token(token) && !["*", ">"].contains(&token)))
}

/// `shop.dead.<kind>.<epoch>.<sequence>`: the dead letter from one place in one log.
pub fn dead(kind: Kind, epoch: u64, sequence: u64) -> String {
    format!("shop.dead.{kind}.{epoch:016x}.{sequence}")
}

/// `shop.dead.<kind>.skipped.<sequence>`: where it is noted that a record of a log is skipped.
pub(crate) fn skipped(kind: Kind, sequence: u64) -> String {
    format!("shop.dead.{kind}.skipped.{sequence}")
}

/// `shop.dead.foreign.<sequence>`: where a backup puts what stood at that place among the dead letters and was none.
pub(crate) fn foreign_dead(sequence: u64) -> String {
    format!("shop.dead.foreign.{sequence}")
}

/// The log, its epoch and the sequence that a dead letter's subject names.
pub fn origin_of_dead(subject: &str) -> Option<(Kind, u64, u64)> {
    let mut tokens = subject.strip_prefix("shop.dead.")?.splitn(3, '.');
    let (kind, epoch, sequence) = (tokens.next()?, tokens.next()?, tokens.next()?);
    Some((kind.parse().ok()?, u64::from_str_radix(epoch, 16).ok()?, sequence.parse().ok()?))
}

/// The partition of an entity: FNV-1a (32 bit) of its id modulo the number of partitions, which
/// is what the server's own `{{partition()}}` subject mapping computes.
pub fn partition_of(id: &Id, partitions: u16) -> u16 {
    let hash =
        id.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash % u32::from(partitions)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_is_about_one_kind_or_none() {
        let election = |stream: &str| ELECTIONS.replace('*', stream);
        for kind in Kind::ALL {
            assert_eq!(elected(&election(&stream(kind))), Some(kind));
        }
        assert_eq!(elected(&election(DEAD_STREAM)), None);
    }

    #[test]
    fn a_request_for_a_caller_names_it_in_its_subject() {
        let alice = |reach| Caller { name: "alice".parse().unwrap(), reach };
        let order = door(Kind::Order, "o-1", "get");
        for (caller, subject) in [
            (None, "shop.order.o-1.get"),
            (Some(alice(Reach::Own)), "shop.by.alice.order.o-1.get"),
            (Some(alice(Reach::Any)), "shop.staff.alice.order.o-1.get"),
        ] {
            assert_eq!(door_for(caller.as_ref(), &order), subject);
            let named = caller.as_ref().map(|caller| (caller.name.as_str(), caller.reach));
            assert_eq!(target(Kind::Order, subject), (named, "o-1.get"));
            assert_eq!(target(Kind::Wallet, subject), (None, ""));
        }
        assert_eq!(target(Kind::Order, "shop.callers.order.bundle"), (None, "bundle"));
        for other in ["shop.callers.order.o-1.get", "shop.by.order.o-1.get", "shop.by.a.b.order.o-1.get", "shop"] {
            assert_eq!(target(Kind::Order, other), (None, ""), "{other}");
        }
    }

    #[test]
    fn a_records_subject_says_of_which_generation_and_partition_it_is() {
        for (generation, partition, subject) in [(0, 7, "shop.log.order.7"), (3, 11, "shop.log.order.3.11")] {
            assert_eq!(log(Kind::Order, generation, partition), subject);
            assert_eq!(place(Kind::Order, subject), Some((generation, partition)));
            assert_eq!(place(Kind::Wallet, subject), None);
        }
        for other in [
            "shop.log.order",
            "shop.log.order.x",
            "shop.log.order.1.2.3",
            "shop.log.order.0.1",
            "shop.log.order.01",
            "shop.log.order.+1",
            "shop.log.order.65536",
            "shop.order.o-1.get",
            "shop.dead.order.0.1",
        ] {
            assert_eq!(place(Kind::Order, other), None, "{other}");
        }
    }

    #[test]
    fn the_subject_of_a_dead_letter_says_where_it_is_from() {
        let subject = dead(Kind::Wallet, 0xbeef, 17);
        assert_eq!(subject, "shop.dead.wallet.000000000000beef.17");
        assert_eq!(origin_of_dead(&subject), Some((Kind::Wallet, 0xbeef, 17)));
        for other in ["shop.dead.wallet.0", "shop.dead.wallet.beef.17.1", "shop.dead.wallet.xyz.1", "shop.log.wallet.0"]
        {
            assert_eq!(origin_of_dead(other), None, "{other}");
        }
    }

    #[test]
    fn the_partition_of_an_id_is_what_the_server_computes() {
        // FNV-1a 32-bit test vectors: http://www.isthe.com/chongo/tech/comp/fnv/
        let hash = |id: &str| u32::from(partition_of(&id.parse().unwrap(), u16::MAX));
        assert_eq!(hash("a"), 0xe40c_292c % 65_535);
        assert_eq!(hash("foobar"), 0xbf9c_f968 % 65_535);
        assert_eq!(partition_of(&"alice".parse().unwrap(), 1), 0);
    }
}
