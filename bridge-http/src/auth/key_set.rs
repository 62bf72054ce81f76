//! The keys of an issuer, as RFC 7517 writes them down, each bound to the one algorithm that it is for.

use jsonwebtoken::{Algorithm, DecodingKey, Header};
use serde::Deserialize;
use serde_json::Value;

/// How many keys of a set are looked at: an issuer has a handful.
const KEYS_MAX: usize = 100;
/// Bits of an RSA modulus.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// Keys, and which time it is that they are others.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    pub(crate) generation: u64,
    keys: Vec<IssuerKey>,
}

#[derive(Debug)]
struct IssuerKey {
    name: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// What came of looking for the key of a token.
pub(crate) enum Search<'k> {
    /// This one, with the algorithm that it is for.
    Key(&'k DecodingKey, Algorithm),
    /// No key has that name.
    UnknownName,
    /// A key has, and is for another algorithm than the token says.
    OtherAlgorithm,
}

/// Why a text is no set of keys that tokens can be checked with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoKeySet {
    #[error("it is no JSON with a list \"keys\": {0}")]
    Json(#[from] serde_json::Error),
    #[error("none of its {0} keys can be used: they must be {1} and for signatures")]
    NoKey(usize, String),
}

/// One key as it is written: only what tells which key it is.
#[derive(Deserialize)]
struct Written {
    kty: String,
    crv: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

#[derive(Deserialize)]
struct WrittenSet {
    keys: Vec<Value>,
}

impl KeySet {
    /// Of the set as its issuer writes it, those for one of these algorithms.
    pub(crate) fn read(text: &[u8], allowed: &[Algorithm]) -> Result<Self, NoKeySet> {
        let WrittenSet { keys: written } = serde_json::from_slice(text)?;
        let count = written.len();
        // One that cannot be read, or is for something else, says nothing against the others.
        let keys =
            written.into_iter().take(KEYS_MAX).filter_map(|key| IssuerKey::of(serde_json::from_value(key).ok()?));
        let keys: Vec<_> = keys.filter(|key| allowed.contains(&key.algorithm)).collect();
        if keys.is_empty() {
            let names: Vec<_> = allowed.iter().map(|algorithm| format!("{algorithm:?}")).collect();
            return Err(NoKeySet::NoKey(count, names.join(" or ")));
        }
        Ok(Self { generation: 0, keys })
    }

    /// The same, as those that come after others.
    pub(crate) fn of_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn count(&self) -> usize {
        self.keys.len()
    }

    /// The key that a token names. One without a name can only be of an issuer with one key.
    pub(crate) fn find(&self, header: &Header) -> Search<'_> {
        let named: Vec<_> = match &header.kid {
            Some(name) => self.keys.iter().filter(|key| key.name.as_ref() == Some(name)).collect(),
            None if self.keys.len() == 1 => self.keys.iter().collect(),
            None => return if self.is_empty() { Search::UnknownName } else { Search::OtherAlgorithm },
        };
        match named.iter().find(|key| key.algorithm == header.alg) {
            Some(found) => Search::Key(&found.key, found.algorithm),
            None if named.is_empty() => Search::UnknownName,
            None => Search::OtherAlgorithm,
        }
    }
}

impl IssuerKey {
    fn of(written: Written) -> Option<Self> {
        let Written { kty, crv, alg, kid, purpose, key_ops, x, y, n, e } = written;
        let is_for_signatures = purpose.is_none_or(|purpose| purpose == "sig")
            && key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        if !is_for_signatures {
            return None;
        }
        let (algorithm, names, key) = match (&*kty, crv.as_deref()) {
            ("OKP", Some("Ed25519")) => {
                let key = DecodingKey::from_ed_components(&x?).ok()?;
                (Algorithm::EdDSA, ["EdDSA", "Ed25519"].as_slice(), with_length(key, 32)?)
            }
            ("EC", Some("P-256")) => {
                let key = DecodingKey::from_ec_components(&x?, &y?).ok()?;
                (Algorithm::ES256, ["ES256"].as_slice(), with_length(key, 65)?)
            }
            ("RSA", _) => {
                let key = DecodingKey::from_rsa_components(&n?, &e?).ok()?;
                (Algorithm::RS256, ["RS256"].as_slice(), with_strength(key)?)
            }
            _ => return None,
        };
        alg.is_none_or(|alg| names.contains(&&*alg)).then_some(Self { name: kid, algorithm, key })
    }
}

fn with_length(key: DecodingKey, length: usize) -> Option<DecodingKey> {
    key.try_get_as_bytes().is_ok_and(|bytes| bytes.len() == length).then_some(key)
}

/// Without the zeros that some write before the modulus.
fn with_strength(key: DecodingKey) -> Option<DecodingKey> {
    let jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() else { return None };
    let zeros = n.iter().take_while(|byte| **byte == 0).count();
    let modulus = &n[zeros..];
    let bits = (modulus.len() * 8).checked_sub(modulus.first()?.leading_zeros() as usize)?;
    RSA_BITS.contains(&bits).then(|| DecodingKey::from_rsa_raw_components(modulus, e))
}
