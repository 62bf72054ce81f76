//! Who asks, and what was given to whom.

use shop_domain::id::Id;

use crate::scope::Scopes;

/// A caller that has shown who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) name: Id,
    pub(crate) scopes: Scopes,
}

/// By what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means {
    /// A token of the issuer's.
    Token,
    /// A key of a program's.
    ApiKey,
    /// The word of a gateway.
    Gateway,
    /// Nothing, where nothing is needed.
    Nothing,
}

impl Means {
    pub(crate) const ALL: [Self; 4] = [Self::Token, Self::ApiKey, Self::Gateway, Self::Nothing];

    /// As the metrics name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Token => "by_token",
            Self::ApiKey => "by_api_key",
            Self::Gateway => "by_gateway",
            Self::Nothing => "by_nothing",
        }
    }
}
