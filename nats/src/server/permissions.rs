//! Who may do what on a nats-server that knows its clients by keys: role × way × subject, all on one screen.
//!
//! The configuration of the servers is made from this table (see [`crate::server`]), and a test holds every row of it
//! against a nats-server, what is allowed and what is not.
//!
//! Two things no list of subjects says. First, whoever may ask JetStream anything names the subject that the answer goes
//! to, and the server does not check that one: an answer to `shop.log.wallet.0` is a record of that log. So roles that
//! only read come from accounts of their own, to which answers are brought by *service imports*: there is no log there.
//! Second, a consumer is delivered to wherever its maker says. So only hosts make consumers, and tools read by requests.

use std::{fmt, str::FromStr};

use shop_domain::kind::Kind;

use self::{
    Role::{Bridge, Customer, Feed, Host, Operator, Reader, Staff},
    Way::{Ask, AskMany, Hear, Publish, Subscribe},
};

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// `shop serve`: doors, logs, streams.
    Host,
    /// `shop bridge`, and any other program that is trusted to say for whom it asks: knocks at doors, and nothing else.
    Bridge,
    /// A program that orders over NATS as one customer, whose name the key has: sees and moves what is that customer's.
    Customer,
    /// A program of one member of the staff, whose name the key has: sees and moves what is anybody's.
    Staff,
    /// The tools that change something: `upgrade`, `dead requeue`, `dead skip`, `link repair`, `trim`, `backup`, `restore`,
    /// `repartition`.
    Operator,
    /// The tools that look: `log`, `audit`, `trace`, `why`, `at`, `dead list`, and `nats` on a terminal.
    Reader,
    /// A process that follows the logs and appends events.
    Feed,
}

/// How a client uses a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Publishes there.
    Publish,
    /// Listens there.
    Subscribe,
    /// From an account of its own: asks there, and one answer is brought to it.
    Ask,
    /// From an account of its own: asks there, and gets any number of answers.
    AskMany,
    /// From an account of its own: listens to what is said there.
    Hear,
}

/// Everything that is allowed; nothing else is. `<kind>` stands for each kind, `<key>` for the client's public key,
/// `<name>` for the name that the key has.
const TABLE: [(Role, Way, &[&str]); 26] = [
    // Answers go to inboxes of clients of its own account, and by way of the server to those of others (`_R_`).
    (Host, Publish, &["_INBOX.>", "_R_.>", "shop.<kind>.*", "shop.<kind>.*.*", "shop.nobody.status"]),
    (Host, Publish, &["shop.log.>", "shop.dead.>", "shop.layout", "shop.hosts.>", "shop.holders.>"]),
    (Host, Publish, &["$JS.API.INFO", "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*"]),
    (Host, Publish, &["$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.PURGE.*"]),
    (Host, Publish, &["$JS.API.CONSUMER.CREATE.*.>", "$JS.API.CONSUMER.MSG.NEXT.*.*"]),
    (Host, Subscribe, &["_INBOX.<key>.>", "shop.<kind>.>", "shop.hosts.>", "shop.holders.>", "shop.hold"]),
    (Host, Subscribe, &["shop.by.*.<kind>.>", "shop.staff.*.<kind>.>", "shop.callers.<kind>.>"]),
    (Host, Publish, &["shop.by.*.<kind>.>", "shop.staff.*.<kind>.>", "shop.callers.<kind>.*"]),
    (Host, Subscribe, &["shop.servers.status", "$SRV.>", ELECTIONS]),
    // A whole shop in one process, bridge and all, on a nats-server of its own.
    (Host, Publish, &["shop.servers.status"]),
    // Of JetStream, nothing.
    (Bridge, Publish, &["shop.<kind>.*", "shop.<kind>.*.*", "shop.nobody.status", "shop.servers.status"]),
    (Bridge, Publish, &["shop.by.*.<kind>.>", "shop.staff.*.<kind>.>", "shop.callers.<kind>.bundle"]),
    (Bridge, Subscribe, &["_INBOX.<key>.>", "shop.hold"]),
    (Customer, Publish, &["shop.by.<name>.<kind>.*", "shop.by.<name>.<kind>.*.*", "shop.nobody.status"]),
    (Customer, Subscribe, &["_INBOX.<key>.>"]),
    (Staff, Publish, &["shop.staff.<name>.<kind>.*", "shop.staff.<name>.<kind>.*.*", "shop.nobody.status"]),
    (Staff, Subscribe, &["_INBOX.<key>.>"]),
    (Operator, Publish, &["shop.log.>", "shop.dead.>", "shop.layout", "shop.hold", "$SRV.>", "shop.nobody.status"]),
    (Operator, Publish, &["shop.<kind>.*.get", "shop.<kind>.status", "shop.wallet.*.statement", "shop.product.list"]),
    (Operator, Publish, &["$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.*"]),
    (Operator, Publish, &["$JS.API.STREAM.MSG.GET.*", "$JS.API.DIRECT.GET.*", "$JS.API.STREAM.CREATE.*"]),
    (Operator, Publish, &["$JS.API.STREAM.UPDATE.*", "$JS.API.STREAM.PURGE.*", "$JS.API.STREAM.DELETE.*"]),
    (Operator, Subscribe, &["_INBOX.<key>.>", ELECTIONS]),
    (Reader, Ask, &["shop.<kind>.*.get", "shop.<kind>.status", "shop.wallet.*.statement", "shop.product.list"]),
    (Reader, AskMany, &["$SRV.>"]),
    (Feed, Ask, &["shop.event.>"]),
];

/// The same of both roles that read the logs from an account of their own.
const TABLE_OF_READERS: [(Way, &[&str]); 5] = [
    (Ask, &["$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES"]),
    (Ask, &["$JS.API.STREAM.INFO.*", "$JS.API.STREAM.MSG.GET.*"]),
    (AskMany, &["$JS.API.DIRECT.GET.*"]),
    (Hear, &[ELECTIONS]),
    (Subscribe, &["_INBOX.<key>.>"]),
];

const ELECTIONS: &str = crate::subject::ELECTIONS;

/// One thing that one role may do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// Who.
    pub role: Role,
    /// How.
    pub way: Way,
    /// Where, with `<key>` in place of a public key and `<name>` in place of a name: see
    /// [`Key::subject`](crate::server::Key::subject).
    pub subject: String,
}

/// The table, a row for each subject.
pub fn rows() -> Vec<Row> {
    let of_readers = |role| TABLE_OF_READERS.map(move |(way, subjects)| (role, way, subjects));
    // Where nobody listens, in their account either.
    let asks_nobody = |role| (role, Publish, &["shop.nobody.status"][..]);
    let readers = [Reader, Feed].into_iter().flat_map(|role| of_readers(role).into_iter().chain([asks_nobody(role)]));
    let each = |(role, way, subjects): (Role, Way, &'static [&'static str])| {
        let subjects = subjects.iter().flat_map(|subject| of_each_kind(subject));
        subjects.map(move |subject| Row { role, way, subject })
    };
    TABLE.into_iter().chain(readers).flat_map(each).collect()
}

fn of_each_kind(subject: &str) -> Vec<String> {
    match subject.contains("<kind>") {
        true => Kind::ALL.iter().map(|kind| subject.replace("<kind>", kind.as_str())).collect(),
        false => vec![subject.to_owned()],
    }
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 7] = [Host, Bridge, Customer, Staff, Operator, Reader, Feed];

    /// As files, options and configurations call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Host => "host",
            Bridge => "bridge",
            Customer => "customer",
            Staff => "staff",
            Operator => "operator",
            Reader => "reader",
            Feed => "feed",
        }
    }

    /// Whether a key of it is always called after whom it speaks for.
    pub const fn speaks_for_one(self) -> bool {
        matches!(self, Customer | Staff)
    }

    /// The account that it comes from.
    pub const fn account(self) -> &'static str {
        match self {
            Host | Bridge | Customer | Staff | Operator => ACCOUNT,
            Reader => "READER",
            Feed => "FEED",
        }
    }

    /// What it is for, in a line.
    pub(crate) const fn purpose(self) -> &'static str {
        match self {
            Host => "shop serve: doors, logs, streams",
            Bridge => "shop bridge: asks at doors for any caller, hears the answers, and whether doors are held",
            Customer => "asks at doors as the customer that it is called after",
            Staff => "asks at doors as the member of the staff that it is called after, about everybody's",
            Operator => {
                "tools that change something: upgrade, dead requeue and skip, link repair, trim, backup, restore, repartition"
            }
            Reader => "tools that look: log, audit, trace, why, at, dead list",
            Feed => "follows the logs, appends events",
        }
    }
}

/// The account of the logs.
pub(crate) const ACCOUNT: &str = "SHOP";

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// There is no such role.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no role: there are host, bridge, customer, staff, operator, reader and feed")]
pub struct NoRole(String);

impl FromStr for Role {
    type Err = NoRole;

    fn from_str(name: &str) -> Result<Self, NoRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == name).ok_or_else(|| NoRole(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_hears_its_own_inboxes_and_those_of_no_other_key() {
        for role in Role::ALL {
            let inboxes: Vec<_> = rows()
                .into_iter()
                .filter(|row| row.role == role && row.way != Publish && row.subject.starts_with('_'))
                .map(|row| row.subject)
                .collect();
            assert_eq!(inboxes, ["_INBOX.<key>.>"], "{role}");
        }
    }

    #[test]
    fn only_hosts_make_consumers_and_only_hosts_and_operators_may_ask_jetstream_where_the_logs_are() {
        for Row { role, way, subject } in rows() {
            assert!(role == Host || !subject.contains("CONSUMER"), "{role} {subject}");
            let asks = subject.starts_with("$JS.API") && way == Publish;
            assert!(!asks || [Host, Operator].contains(&role), "{role} {subject}");
        }
    }

    #[test]
    fn who_has_an_account_of_its_own_is_brought_what_it_may_have_and_who_has_none_needs_nothing_brought() {
        for Row { role, way, subject } in rows() {
            let is_brought = [Ask, AskMany, Hear].contains(&way);
            assert!(!is_brought || role.account() != ACCOUNT, "{role} {subject}");
        }
    }
}
