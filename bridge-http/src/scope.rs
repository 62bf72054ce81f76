//! What a caller may have been given, as tokens, keys and gateways name it.
//!
//! A scope covers what is its holder's own; with `:any` behind it, it covers everybody's. What has no owner (the
//! catalogue), or is no customer's to move (a delivery), is always everybody's.

use shop_domain::caller::Reach;

/// One thing that a caller may be allowed. Each has a route that needs it, see [`crate::routes::ROUTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// See orders, their deliveries, and the page of a customer.
    OrdersRead,
    /// Place orders, and cancel them.
    OrdersWrite,
    /// See wallets and their statements.
    WalletsRead,
    /// Open wallets and pay money in: for what has taken a payment.
    WalletsFund,
    /// Make products, change and restock them.
    CatalogWrite,
    /// Dispatch and deliver.
    DeliveriesWrite,
}

/// What lifts "own only" from a scope.
const ANY: &str = ":any";

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::OrdersRead,
        Self::OrdersWrite,
        Self::WalletsRead,
        Self::WalletsFund,
        Self::CatalogWrite,
        Self::DeliveriesWrite,
    ];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::OrdersRead => "orders:read",
            Self::OrdersWrite => "orders:write",
            Self::WalletsRead => "wallets:read",
            Self::WalletsFund => "wallets:fund",
            Self::CatalogWrite => "catalog:write",
            Self::DeliveriesWrite => "deliveries:write",
        }
    }

    /// Whether without `:any` it covers only what is its holder's own.
    pub const fn is_of_owners(self) -> bool {
        match self {
            Self::OrdersRead | Self::OrdersWrite | Self::WalletsRead | Self::WalletsFund => true,
            Self::CatalogWrite | Self::DeliveriesWrite => false,
        }
    }
}

/// What one caller was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scopes {
    /// By place in [`Scope::ALL`], one bit each.
    own: u8,
    any: u8,
}

impl Scopes {
    /// Adds the scope of that name; whether there is one.
    pub(crate) fn add(&mut self, name: &str) -> bool {
        let (stem, is_any) = name.strip_suffix(ANY).map_or((name, false), |stem| (stem, true));
        let Some(scope) = Scope::ALL.into_iter().find(|scope| scope.name() == stem) else { return false };
        let bits = if is_any || !scope.is_of_owners() { &mut self.any } else { &mut self.own };
        *bits |= bit(scope);
        true
    }

    /// Those that are known of a text with spaces between them (RFC 6749, section 3.3): what others mean by the rest is
    /// not for this shop.
    pub(crate) fn known_of(text: &str) -> Self {
        let mut scopes = Self::default();
        for name in text.split_ascii_whitespace() {
            scopes.add(name);
        }
        scopes
    }

    /// With those of the other one as well.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { own: self.own | other.own, any: self.any | other.any }
    }

    /// How far that scope reaches for who has these, if it is among them.
    pub(crate) fn reach(self, scope: Scope) -> Option<Reach> {
        if self.any & bit(scope) != 0 { Some(Reach::Any) } else { (self.own & bit(scope) != 0).then_some(Reach::Own) }
    }
}

fn bit(scope: Scope) -> u8 {
    1 << scope as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::ROUTES;

    #[test]
    fn a_scope_covers_what_is_its_holders_own_unless_it_says_any_or_has_no_owner() {
        let scopes = Scopes::known_of("openid orders:read wallets:read:any catalog:write  deliveries:write:any");
        for (scope, reach) in [
            (Scope::OrdersRead, Some(Reach::Own)),
            (Scope::OrdersWrite, None),
            (Scope::WalletsRead, Some(Reach::Any)),
            (Scope::WalletsFund, None),
            (Scope::CatalogWrite, Some(Reach::Any)),
            (Scope::DeliveriesWrite, Some(Reach::Any)),
        ] {
            assert_eq!(scopes.reach(scope), reach, "{scope:?}");
        }
    }

    #[test]
    fn what_only_looks_like_a_scope_is_none() {
        for name in ["", "orders", "orders:", ":any", "orders:read:", "ORDERS:READ", "orders:read:any:any", "orders:*"]
        {
            assert!(!Scopes::default().add(name), "{name:?}");
            assert_eq!(Scopes::known_of(name), Scopes::default(), "{name:?}");
        }
    }

    #[test]
    fn each_scope_has_a_route_that_needs_it_and_only_products_are_read_by_everybody() {
        for scope in Scope::ALL {
            assert!(ROUTES.iter().any(|route| route.scope == Some(scope)), "{scope:?}");
        }
        for route in ROUTES.iter().filter(|route| route.scope.is_none()) {
            assert!(!route.is_write() && route.collection() == "products", "{} {}", route.method, route.path);
        }
    }
}
