//! Tokens of an issuer: signed, for this shop, of this moment, and for whom.
//!
//! Which algorithm a token is checked with is said by the key, never by the token: a token that names another one than
//! its key is for is refused before anything is computed. A token that was found good is known by its hash until it
//! expires, so that its next request costs a hash and not a signature.

use std::{
    collections::HashSet,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, decode, decode_header,
    errors::{Error, ErrorKind},
    get_current_timestamp,
};
use lru::LruCache;
use ring::digest::{SHA256, digest};
use serde_json::{Map, Value};
use shop_domain::id::Id;

use super::{
    identity::Identity,
    jwks::Jwks,
    key_set::Search,
    refusal::{Denial, Refusal},
};
use crate::scope::Scopes;

/// How far clocks may be apart, in seconds: a token is taken so long after its `exp` and before its `nbf`.
pub(crate) const LEEWAY_SECONDS: u64 = 60;
/// Longest token, in bytes: many times what issuers make.
const TOKEN_BYTES_MAX: usize = 8_192;
/// How many good tokens are known at a time; the one that was used longest ago is forgotten first. About 4 MB.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("it is not zero");
/// What kinds of tokens are taken, in lower case (RFC 8725, section 3.11): access tokens, also those that do not say so.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// What a token must say.
#[derive(Clone, Debug)]
pub(crate) struct Demands {
    pub(crate) issuer: String,
    /// One of these.
    pub(crate) audiences: Vec<String>,
    /// Where it says for whom it is.
    pub(crate) user_claim: String,
}

/// Checks tokens.
pub(crate) struct Tokens {
    demands: Demands,
    jwks: Arc<Jwks>,
    known: Mutex<LruCache<[u8; 32], GoodToken>>,
}

struct GoodToken {
    identity: Arc<Identity>,
    /// In seconds since 1970.
    expires_at: u64,
    /// The generation of keys that vouches for it.
    generation: u64,
}

impl Tokens {
    pub(crate) fn new(demands: Demands, jwks: Arc<Jwks>) -> Self {
        super::ring::install();
        Self { demands, jwks, known: Mutex::new(LruCache::new(KNOWN_MAX)) }
    }

    /// The keys that they are checked with.
    pub(crate) fn jwks(&self) -> &Jwks {
        &self.jwks
    }

    /// How many are known to be good.
    pub(crate) fn known(&self) -> usize {
        self.lock().len()
    }

    /// For whom a token is.
    pub(crate) async fn check(&self, token: &str) -> Result<Arc<Identity>, Denial> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Unreadable.into());
        }
        let hash = hash_of(token);
        if let Some(identity) = self.recall(&hash) {
            return Ok(identity);
        }
        let header = decode_header(token).map_err(|_| Refusal::Unreadable)?;
        check_header(&header)?;
        let mut keys = self.jwks.current();
        if let Search::UnknownName = keys.find(&header) {
            keys = self.jwks.refreshed(keys.generation).await;
        }
        let (key, algorithm) = match keys.find(&header) {
            Search::Key(key, algorithm) => (key, algorithm),
            Search::UnknownName if keys.is_empty() => return Err(Refusal::NoKeys.into()),
            Search::UnknownName | Search::OtherAlgorithm => return Err(Refusal::UnknownKey.into()),
        };
        let (identity, expires_at) = self.decode(token, key, algorithm)?;
        let identity = Arc::new(identity);
        let good = GoodToken { identity: Arc::clone(&identity), expires_at, generation: keys.generation };
        self.lock().put(hash, good);
        Ok(identity)
    }

    fn recall(&self, hash: &[u8; 32]) -> Option<Arc<Identity>> {
        let generation = self.jwks.current().generation;
        let mut known = self.lock();
        let good = known.get(hash)?;
        if good.generation == generation && get_current_timestamp() <= good.expires_at.saturating_add(LEEWAY_SECONDS) {
            return Some(Arc::clone(&good.identity));
        }
        known.pop(hash);
        None
    }

    fn decode(&self, token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<(Identity, u64), Denial> {
        let mut rules = Validation::new(algorithm);
        rules.leeway = LEEWAY_SECONDS;
        rules.validate_nbf = true;
        rules.set_issuer(&[&self.demands.issuer]);
        rules.aud = Some(self.demands.audiences.iter().cloned().collect::<HashSet<_>>());
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims = decode::<Map<String, Value>>(token, key, &rules).map_err(|error| reason(&error))?.claims;
        // Of what is one value, a list is something else (RFC 7519, section 4.1.1).
        if !claims["iss"].is_string() {
            return Err(Refusal::Issuer.into());
        }
        let expires_at = claims["exp"].as_u64().or_else(|| claims["exp"].as_f64().map(|seconds| seconds as u64));
        let claim = &self.demands.user_claim;
        let name = claims.get(claim).and_then(Value::as_str).ok_or(Refusal::Name)?;
        let name: Id = name.parse().map_err(|error| Denial::name(claim, &error))?;
        let identity = Identity { name, scopes: scopes_of(&claims) };
        Ok((identity, expires_at.ok_or(Refusal::Claims)?))
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<[u8; 32], GoodToken>> {
        self.known.lock().expect("nobody panics with the lock")
    }
}

/// SHA-256.
pub(crate) fn hash_of(secret: &str) -> [u8; 32] {
    digest(&SHA256, secret.as_bytes()).as_ref().try_into().expect("it has 32 bytes")
}

fn check_header(header: &Header) -> Result<(), Refusal> {
    let kind = header.typ.as_ref().map(|kind| kind.to_ascii_lowercase());
    if kind.is_some_and(|kind| !TYPES.contains(&&*kind)) {
        return Err(Refusal::Type);
    }
    if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
        return Err(Refusal::Critical);
    }
    Ok(())
}

/// `scope` has them in one text (RFC 8693), `scp` also in a list, as some issuers write it.
fn scopes_of(claims: &Map<String, Value>) -> Scopes {
    let of = |claim: &str| match claims.get(claim) {
        Some(Value::String(text)) => Scopes::known_of(text),
        Some(Value::Array(list)) => {
            let texts = list.iter().filter_map(Value::as_str).map(Scopes::known_of);
            texts.fold(Scopes::default(), Scopes::and)
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Scopes::default(),
    };
    of("scope").and(of("scp"))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library has more kinds than callers can tell apart")]
fn reason(error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => Refusal::Signature,
        ErrorKind::ExpiredSignature => Refusal::Expired,
        ErrorKind::ImmatureSignature => Refusal::Early,
        ErrorKind::InvalidIssuer => Refusal::Issuer,
        ErrorKind::InvalidAudience => Refusal::Audience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Refusal::Claims,
        _ => Refusal::Unreadable,
    }
}
