//! An issuer of tokens with a key of each sort, who signs whatever a test wants, and a place on loopback where its keys
//! are.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::SystemTime,
};

use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::task::AbortOnDropHandle;

pub(super) const ISSUER: &str = "https://issuer.example";
pub(super) const AUDIENCE: &str = "shop";
/// Made for these tests, and for nothing else.
const RSA: &[u8] = include_bytes!("rsa.pk8");

/// What a token says it is signed with.
pub(super) const ALGORITHMS: [&str; 3] = ["EdDSA", "ES256", "RS256"];

pub(super) struct Issuer {
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
    /// What the names of its keys begin with.
    name: String,
}

impl Issuer {
    /// With keys of its own, but for that of RSA, which takes long to make.
    pub(super) fn new(name: &str) -> Self {
        let random = SystemRandom::new();
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self {
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
            ec: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).unwrap(),
            rsa: RsaKeyPair::from_pkcs8(RSA).unwrap(),
            name: name.to_owned(),
        }
    }

    /// The name of its key for that algorithm.
    pub(super) fn kid(&self, algorithm: &str) -> String {
        format!("{}-{algorithm}", self.name)
    }

    /// Its public keys, and some that are for something else.
    pub(super) fn jwks(&self) -> String {
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

    fn rsa_parts(&self) -> (Vec<u8>, Vec<u8>) {
        let RsaPublicKeyComponents { n, e } = self.rsa.public().into();
        (n, e)
    }

    /// The bytes of its public keys: what a forger has.
    pub(super) fn public_bytes(&self) -> Vec<Vec<u8>> {
        vec![
            self.ed.public_key().as_ref().to_vec(),
            self.ec.public_key().as_ref().to_vec(),
            self.rsa.public().as_ref().to_vec(),
            self.rsa_parts().0,
            self.jwks().into_bytes(),
        ]
    }

    /// A token for that user with these scopes, good for an hour.
    pub(super) fn token(&self, user: &str, scopes: &str) -> String {
        self.sign("EdDSA", claims(user, scopes))
    }

    /// A token with these claims, signed as its header says.
    pub(super) fn sign(&self, algorithm: &str, claims: Value) -> String {
        self.sign_as(algorithm, json!({ "typ": "JWT", "alg": algorithm, "kid": self.kid(algorithm) }), claims)
    }

    /// Signed with this key, whatever the header says.
    pub(super) fn sign_as(&self, algorithm: &str, header: Value, claims: Value) -> String {
        let message = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
        let random = SystemRandom::new();
        let signature = match algorithm {
            "EdDSA" => self.ed.sign(message.as_bytes()).as_ref().to_vec(),
            "ES256" => self.ec.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            "RS256" => {
                let mut signature = vec![0; self.rsa.public().modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            other => panic!("no key for {other}"),
        };
        format!("{message}.{}", base64(&signature))
    }
}

/// What a good token says.
pub(super) fn claims(user: &str, scopes: &str) -> Value {
    json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": user, "scope": scopes, "exp": now() + 3_600 })
}

/// In seconds since 1970.
pub(super) fn now() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64
}

/// For URLs, without padding.
pub(super) fn base64(bytes: &[u8]) -> String {
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

/// Where an issuer's keys are: says what it is told to, and counts who asks.
pub(super) struct Place {
    pub(super) url: String,
    says: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Place {
    /// With this answer.
    pub(super) async fn open(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let (says, asked) = (Arc::new(Mutex::new(answer)), Arc::<AtomicUsize>::default());
        let (answers, counts) = (Arc::clone(&says), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 4_096];
                let read = socket.read(&mut request).await.unwrap_or_default();
                assert!(request[..read].starts_with(b"GET /keys HTTP/1.1\r\n"));
                counts.fetch_add(1, Relaxed);
                let answer = answers.lock().unwrap().clone();
                let _told = socket.write_all(answer.as_bytes()).await;
            }
        });
        Self { url: format!("http://{address}/keys"), says, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    /// From now on it answers so.
    pub(super) fn say(&self, answer: String) {
        *self.says.lock().unwrap() = answer;
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

/// An answer of HTTP with that body.
pub(super) fn found(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
