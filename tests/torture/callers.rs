//! Who asks where there is a login: the customer, the staff, and as whom a thief would come.

use serde_json::json;
use shop_tests::{
    client::{Ask, Caller},
    cluster::Cluster,
    issuer::{Issuer, claims, now},
    login::{CUSTOMER, Login, MEMBER, STAFF},
};

use crate::direct::Direct;

/// What one customer has.
#[derive(Debug)]
pub(crate) struct Callers {
    pub(crate) own: Caller,
    pub(crate) staff: Caller,
    /// The customer, who may pay in as well.
    pub(crate) payer: Caller,
    /// Tokens that are none: nobody's, of another issuer, and one that is over.
    pub(crate) bad: [Caller; 3],
    /// The same over NATS, each with a key.
    pub(crate) own_direct: Direct,
    staff_direct: Direct,
}

impl Callers {
    /// Those of a customer of this shop, if it has a login; its key was made with that.
    pub(crate) async fn of(cluster: &Cluster, user: &str) -> Option<Self> {
        Self::with_scopes(cluster, user, CUSTOMER).await
    }

    /// The same of a customer who sees and moves what is anybody's.
    pub(crate) async fn of_thief(cluster: &Cluster, user: &str) -> Option<Self> {
        Self::with_scopes(cluster, user, STAFF).await
    }

    async fn with_scopes(cluster: &Cluster, user: &str, scopes: &str) -> Option<Self> {
        let login = cluster.login()?;
        let connect = async |key: String, prefix: String| Direct::new(cluster.connect(&key).await, prefix);
        Some(Self {
            own: login.caller(user, scopes),
            staff: login.staff(),
            payer: login.caller(user, &format!("{CUSTOMER} wallets:fund")),
            bad: bad(login, user),
            own_direct: connect(format!("customer-{user}"), format!("shop.by.{user}")).await,
            staff_direct: connect(format!("staff-{MEMBER}"), format!("shop.staff.{MEMBER}")).await,
        })
    }

    /// Where a request may go over NATS, if there is a key for who asks.
    pub(crate) fn direct(&self, ask: &Ask) -> Option<&Direct> {
        match &ask.caller {
            None => Some(&self.own_direct),
            Some(caller) if caller.name() == self.staff.name() => Some(&self.staff_direct),
            Some(_) => None,
        }
    }
}

fn bad(login: &Login, user: &str) -> [Caller; 3] {
    let of_another_issuer = Issuer::new("tests").token(user, STAFF);
    let mut over = claims(user, STAFF);
    over["exp"] = json!(now() - 3_600);
    let over = login.issuer().sign("EdDSA", over);
    ["nobodys", &of_another_issuer, &over].map(|token| Caller::new(user, token))
}
