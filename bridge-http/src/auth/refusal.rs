//! Why a request is not let in: what its caller is told, and under which name it is counted.
//!
//! What helps whoever writes a client is told (that a token has expired); what would help whoever guesses (what the
//! issuer should have been, whether a key was nearly right) is not.

use shop_domain::{
    id::InvalidId,
    problem::{Code, Problem, SCOPE},
    text::quoted,
};
use warp::http::HeaderName;

use crate::scope::Scope;

/// One reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is nothing that says who asks.
    Missing,
    /// The header cannot be read, or there are two.
    Unclear,
    /// It is none of the kind that is asked for.
    Scheme,
    /// It is no token, or too long.
    Unreadable,
    /// A token of another kind.
    Type,
    /// What the issuer demands to be understood, and is not.
    Critical,
    /// None of the issuer's keys is named so, or has that algorithm.
    UnknownKey,
    /// It is not what the issuer signed.
    Signature,
    /// It is no longer valid.
    Expired,
    /// It is not yet valid.
    Early,
    /// Another one issued it.
    Issuer,
    /// It is for another service.
    Audience,
    /// What it says is not as it must be.
    Claims,
    /// It says for whom it is, and that is no name.
    Name,
    /// A key of a program that is not in the file.
    ApiKey,
    /// One that was, for as long as it said.
    ApiKeyExpired,
    /// There are no keys of the issuer to check with.
    NoKeys,
    /// The header of a gateway, from elsewhere or in another form.
    Identity,
    /// It is known who asks, who may not do that.
    Scope,
    /// The caller asks too often.
    CallerRate,
    /// That address asks too often.
    AddressRate,
}

impl Refusal {
    pub(crate) const ALL: [Self; 21] = [
        Self::Missing,
        Self::Unclear,
        Self::Scheme,
        Self::Unreadable,
        Self::Type,
        Self::Critical,
        Self::UnknownKey,
        Self::Signature,
        Self::Expired,
        Self::Early,
        Self::Issuer,
        Self::Audience,
        Self::Claims,
        Self::Name,
        Self::ApiKey,
        Self::ApiKeyExpired,
        Self::NoKeys,
        Self::Identity,
        Self::Scope,
        Self::CallerRate,
        Self::AddressRate,
    ];

    /// As the metrics name it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unclear => "unclear",
            Self::Scheme => "scheme",
            Self::Unreadable => "unreadable",
            Self::Type => "type",
            Self::Critical => "critical",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::Early => "early",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::Claims => "claims",
            Self::Name => "name",
            Self::ApiKey => "api_key",
            Self::ApiKeyExpired => "api_key_expired",
            Self::NoKeys => "no_keys",
            Self::Identity => "identity_header",
            Self::Scope => "scope",
            Self::CallerRate => "caller_rate",
            Self::AddressRate => "address_rate",
        }
    }

    /// What is told, without quotation marks, so that it can stand between them.
    const fn text(self) -> &'static str {
        match self {
            Self::Missing => "this needs to know who asks: Authorization: Bearer and a token, or a key",
            Self::Unclear => "there must be one line of Authorization, and in it a scheme and a token",
            Self::Scheme => "the scheme of Authorization must be Bearer",
            Self::Unreadable => "the token cannot be read, or is signed in a way that is not taken",
            Self::Type => "the token is of a kind that is not taken here",
            Self::Critical => "the token demands what is not understood here",
            Self::UnknownKey => "the token was signed with a key that its issuer does not name",
            Self::Signature => "the signature of the token does not match",
            Self::Expired => "the token has expired",
            Self::Early => "the token is not valid yet",
            Self::Issuer => "the token is of another issuer",
            Self::Audience => "the token is for another audience",
            Self::Claims => "the token lacks what it must say, or says it in another form",
            Self::Name => "the name in the token cannot be one of the shop",
            Self::ApiKey => "the key is not known",
            Self::ApiKeyExpired => "the key has expired",
            Self::NoKeys => {
                "tokens cannot be checked right now, because the keys of their issuer cannot be had; try again"
            }
            Self::Identity => "who asks is said in a way that is not taken",
            Self::Scope => "a scope is missing",
            Self::CallerRate => "this caller asks more often than it may; wait as long as Retry-After says",
            Self::AddressRate => "more comes from this address than may; wait as long as Retry-After says",
        }
    }

    const fn code(self) -> Code {
        match self {
            Self::Unclear | Self::Identity => Code::MALFORMED,
            Self::NoKeys => Code::UNAVAILABLE,
            Self::Scope => Code::FORBIDDEN,
            Self::CallerRate | Self::AddressRate => Code::RATE_LIMITED,
            Self::Missing
            | Self::Scheme
            | Self::Unreadable
            | Self::Type
            | Self::Critical
            | Self::UnknownKey
            | Self::Signature
            | Self::Expired
            | Self::Early
            | Self::Issuer
            | Self::Audience
            | Self::Claims
            | Self::Name
            | Self::ApiKey
            | Self::ApiKeyExpired => Code::UNAUTHORIZED,
        }
    }
}

/// A refusal, and what is told of this one.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) refusal: Refusal,
    pub(crate) problem: Box<Problem>,
    /// The value of `WWW-Authenticate` (RFC 6750, section 3).
    pub(crate) challenge: Option<String>,
    /// In how many seconds it may be let in.
    pub(crate) retry_after: Option<u64>,
}

impl From<Refusal> for Denial {
    fn from(refusal: Refusal) -> Self {
        let error = match refusal.code() {
            // Who says nothing is not told that it said something wrong.
            Code::UNAUTHORIZED if matches!(refusal, Refusal::Missing | Refusal::Scheme) => Some(String::new()),
            Code::UNAUTHORIZED => Some("invalid_token".to_owned()),
            Code::MALFORMED => Some("invalid_request".to_owned()),
            _ => None,
        };
        let challenge = error.map(|error| match &*error {
            "" => REALM.to_owned(),
            error => format!("{REALM}, error=\"{error}\", error_description=\"{}\"", refusal.text()),
        });
        let problem = Box::new(Problem::new(refusal.code(), refusal.text()));
        Self { refusal, problem, challenge, retry_after: None }
    }
}

const REALM: &str = "Bearer realm=\"shop\"";

impl Denial {
    /// It is known who asks, who may not do that.
    pub(crate) fn scope(scope: Scope) -> Self {
        let name = scope.name();
        let problem = Problem::new(Code::FORBIDDEN, format!("the scope {name} is missing")).fact(SCOPE, name);
        let challenge = format!("{REALM}, error=\"insufficient_scope\", scope=\"{name}\"");
        Self { problem: Box::new(problem), challenge: Some(challenge), ..Refusal::Scope.into() }
    }

    /// A token is for what cannot be a name.
    pub(crate) fn name(claim: &str, error: &InvalidId) -> Self {
        Self::from(Refusal::Name)
            .because(format!("the claim {} of the token names who asks, and {error}", quoted(claim)))
    }

    /// A gateway's header is not as it must be, or not from a gateway.
    pub(crate) fn identity(header: &HeaderName, why: &str) -> Self {
        Self { challenge: None, ..Self::from(Refusal::Identity).because(format!("the header {header} {why}")) }
    }

    /// Too much in too short a time.
    pub(crate) fn rate(refusal: Refusal, retry_after: u64) -> Self {
        Self { retry_after: Some(retry_after), ..refusal.into() }
    }

    fn because(mut self, detail: String) -> Self {
        self.problem.detail = detail;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_name_of_its_own_and_words_that_can_stand_in_a_header() {
        let names: BTreeSet<_> = Refusal::ALL.into_iter().map(Refusal::name).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
        assert_eq!(Refusal::ALL.map(|refusal| Refusal::ALL[refusal as usize]), Refusal::ALL);
        for refusal in Refusal::ALL {
            let is_plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\' || c == ' ';
            assert!(refusal.text().chars().all(is_plain), "{refusal:?}");
            assert!(warp::http::HeaderValue::try_from(Denial::from(refusal).challenge.unwrap_or_default()).is_ok());
        }
    }

    #[test]
    fn who_said_nothing_is_asked_and_who_said_something_wrong_is_told_what() {
        assert_eq!(Denial::from(Refusal::Missing).challenge.unwrap(), "Bearer realm=\"shop\"");
        let expired = "Bearer realm=\"shop\", error=\"invalid_token\", error_description=\"the token has expired\"";
        assert_eq!(Denial::from(Refusal::Expired).challenge.unwrap(), expired);
        let missing = Denial::scope(Scope::OrdersRead);
        let told = "Bearer realm=\"shop\", error=\"insufficient_scope\", scope=\"orders:read\"";
        assert_eq!((missing.problem.code, missing.challenge.as_deref()), (Code::FORBIDDEN, Some(told)));
        assert_eq!(missing.problem.facts[SCOPE], "orders:read");
        assert_eq!(Denial::from(Refusal::NoKeys).challenge, None);
    }
}
