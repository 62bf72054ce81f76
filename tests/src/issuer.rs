//! An issuer of tokens with a key of each sort, which signs whatever a test wants.

use std::{fmt, path::Path, time::SystemTime};

use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};

use crate::login::write_private;

/// What a good token says of who has made it.
pub const ISSUER: &str = "https://issuer.example";
/// For whom.
pub const AUDIENCE: &str = "shop";
/// Made for these tests, and for nothing else.
const RSA: &[u8] = include_bytes!("issuer/rsa.pk8");

/// What a token says it is signed with.
pub const ALGORITHMS: [&str; 3] = ["EdDSA", "ES256", "RS256"];

/// Who signs tokens.
pub struct Issuer {
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
    /// What the names of its keys begin with.
    name: String,
}

impl Issuer {
    /// With keys of its own, but for that of RSA, which takes long to make.
    pub fn new(name: &str) -> Self {
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).expect("there is randomness");
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("there is randomness");
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random);
        Self {
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).expect("it was just made"),
            ec: ec.expect("it was just made"),
            rsa: RsaKeyPair::from_pkcs8(RSA).expect("the file holds a key"),
            name: name.to_owned(),
        }
    }

    /// The name of its key for that algorithm.
    pub fn kid(&self, algorithm: &str) -> String {
        format!("{}-{algorithm}", self.name)
    }

    /// Its public keys, and some that are for something else.
    pub fn jwks(&self) -> String {
        let point = self.ec.public_key().as_ref();
        let (modulus, exponent) = self.rsa_parts();
        let [ed, ec, rs] = ALGORITHMS.map(|algorithm| self.kid(algorithm));
        json!({ "keys": [
            { "kty": "OKP", "crv": "Ed25519", "kid": ed, "use": "sig", "alg": "EdDSA", "x": base64(self.ed.public_key().as_ref()) },
            { "kty": "EC", "crv": "P-256", "kid": ec, "x": base64(&point[1..33]), "y": base64(&point[33..]) },
            { "kty": "RSA", "kid": rs, "key_ops": ["verify"], "n": base64(&modulus), "e": base64(&exponent) },
            { "kty": "oct", "kid": "secret", "k": "AAAA" },
            { "kty": "RSA", "kid": "for-encryption", "use": "enc", "n": base64(&modulus), "e": base64(&exponent) },
            { "kty": "RSA", "kid": "for-another", "alg": "PS256", "n": base64(&modulus), "e": base64(&exponent) },
            { "kty": "EC", "crv": "P-521", "kid": "unknown-curve" },
            "no key",
        ] })
        .to_string()
    }

    /// What a bridge is told that lets in who has a token of this issuer, whose keys it finds in that file.
    pub fn options(&self, file: &Path) -> Vec<String> {
        write_private(file, &self.jwks());
        let file = file.display().to_string();
        let options = ["--auth", "jwt", "--jwks-file", &file, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE];
        options.map(str::to_owned).into()
    }

    fn rsa_parts(&self) -> (Vec<u8>, Vec<u8>) {
        let RsaPublicKeyComponents { n, e } = self.rsa.public().into();
        (n, e)
    }

    /// The bytes of its public keys: what a forger has.
    pub fn public_bytes(&self) -> Vec<Vec<u8>> {
        vec![
            self.ed.public_key().as_ref().to_vec(),
            self.ec.public_key().as_ref().to_vec(),
            self.rsa.public().as_ref().to_vec(),
            self.rsa_parts().0,
            self.jwks().into_bytes(),
        ]
    }

    /// A token for that user with these scopes, good for an hour.
    pub fn token(&self, user: &str, scopes: &str) -> String {
        self.sign("EdDSA", claims(user, scopes))
    }

    /// A token with these claims, signed as its header says.
    pub fn sign(&self, algorithm: &str, claims: Value) -> String {
        self.sign_as(algorithm, json!({ "typ": "JWT", "alg": algorithm, "kid": self.kid(algorithm) }), claims)
    }

    /// Signed with this key, whatever the header says.
    pub fn sign_as(&self, algorithm: &str, header: Value, claims: Value) -> String {
        let message = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match algorithm {
            "EdDSA" => self.ed.sign(message.as_bytes()).as_ref().to_vec(),
            "ES256" => self.ec.sign(&random, message.as_bytes()).expect("there is randomness").as_ref().to_vec(),
            "RS256" => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                let signed = self.rsa.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature);
                signed.expect("there is room for the signature");
                signature
            }
            other => panic!("no key for {other}"),
        };
        format!("{message}.{}", base64(&signature))
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a good token says.
pub fn claims(user: &str, scopes: &str) -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": user, "scope": scopes, "exp": now() + 3_600 })
}

/// In seconds since 1970.
pub fn now() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970").as_secs() as i64
}

/// For URLs, without padding.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        let digits = (0..=chunk.len()).map(|place| DIGITS[(bits >> (18 - 6 * place)) as usize & 63]);
        text.extend(digits.map(char::from));
    }
    text
}
