//! Who asks, whether that caller may, and how often: decided before anything of a request but its head is looked at.
//!
//! A bridge knows callers by a token (`token.rs`, checked with the issuer's keys of `jwks.rs`), by a key of a program
//! (`api_keys.rs`), or by the word of a gateway (`proxy.rs`). Each route needs a scope (`scope.rs`, the column in
//! `routes.rs`). What is whose is not decided here: doors are told who asks, and what the scope covers,
//! and refuse what is another's.
//!
//! A bridge without any of that has no guard at all, and pays nothing.

mod api_keys;
mod fetch;
mod identity;
mod jwks;
mod key_set;
pub mod new_key;
pub(crate) mod numbers;
mod options;
mod proxy;
mod rate;
mod refusal;
mod ring;
mod token;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use futures::FutureExt;
use shop_domain::caller::Caller;
use shop_nats::private;
use tokio_util::task::AbortOnDropHandle;
use warp::http::{HeaderMap, HeaderName, header::AUTHORIZATION};

use api_keys::{ApiKeys, KEY_PREFIX};
use fetch::Fetcher;
pub use fetch::{InvalidJwksUrl, JwksUrl};
use identity::Identity;
pub(crate) use identity::Means;
use jwks::{FAR_INTERVAL, Jwks, NEAR_INTERVAL, Source};
pub use options::{Mode, Options, TokenAlgorithm};
use proxy::{IdentityHeaders, Proxies};
pub use proxy::{InvalidNetwork, Network};
use rate::Rates;
pub(crate) use rate::Standing;
pub(crate) use refusal::Denial;
use refusal::Refusal;
use token::{Demands, Tokens};

use crate::routes::Route;

/// What other programs send keys in; here they come in `Authorization`.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// Largest file with keys of an issuer, in bytes.
const JWKS_BYTES_MAX: u64 = 262_144;

/// Decides who is let in.
pub struct Guard {
    tokens: Option<Tokens>,
    api_keys: Option<ApiKeys>,
    proxies: Proxies,
    rates: Rates,
    /// Whether who asks must say who it is.
    asks_who: bool,
    _fresh: Option<AbortOnDropHandle<()>>,
}

/// Why a bridge cannot know who asks, and does not start.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// An option is missing, or does not fit the others.
    #[error("{0}")]
    Options(&'static str),
    /// A file cannot be used.
    #[error("cannot use {} ({option}): {why}", file.display())]
    File {
        /// What names it.
        option: &'static str,
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There is no TLS.
    #[error("cannot prepare TLS: {0}")]
    Tls(String),
    /// Other machines could come in, and it is not known who asks.
    #[error(
        "{0} can be reached from other machines, and there is no login: whoever reaches it may do everything; listen on \
         127.0.0.1, say with --auth or --api-keys how it is known who asks, or say --allow-anonymous if something in \
         front lets in only whom it should"
    )]
    Exposed(SocketAddr),
}

impl AuthError {
    fn file(option: &'static str, file: &Path, why: &dyn fmt::Display) -> Self {
        Self::File { option, file: file.to_owned(), why: why.to_string() }
    }
}

/// What became of a request at the guard.
pub(crate) struct Admission {
    pub(crate) caller: Result<(Means, Option<Caller>), Denial>,
    pub(crate) standing: Standing,
}

/// Refuses to listen where other machines can come in while it is not known who asks.
pub fn check_address(address: SocketAddr, options: &Options) -> Result<(), AuthError> {
    let is_open = !address.ip().to_canonical().is_loopback();
    if is_open && !options.asks_who() && !options.allow_anonymous { Err(AuthError::Exposed(address)) } else { Ok(()) }
}

impl Guard {
    /// One that goes by these options; none where nothing is to be decided.
    pub async fn open(options: &Options) -> Result<Option<Arc<Self>>, AuthError> {
        check_options(options)?;
        let rates = Rates::new(options.rate_per_caller(), options.rate_per_address());
        if !options.asks_who() && rates.is_empty() {
            return Ok(None);
        }
        let jwks = jwks(options)?.map(Arc::new);
        if let Some(jwks) = &jwks
            && !jwks.load().await
            && let Some(file) = &options.jwks_file
        {
            // A source that is away may come back; a file that is wrong is a mistake.
            return Err(AuthError::file("--jwks-file", file, &"no key of it can be used, as the log says"));
        }
        let fresh =
            jwks.clone().map(|jwks| AbortOnDropHandle::new(tokio::spawn(async move { jwks.keep_fresh().await })));
        let demands = Demands {
            issuer: options.jwt_issuer.clone().unwrap_or_default(),
            audiences: options.jwt_audiences.clone(),
            user_claim: options.jwt_user_claim.clone(),
        };
        let tokens = jwks.map(|jwks| Tokens::new(demands, jwks));
        let headers = IdentityHeaders {
            user: options.identity_header.clone(),
            scopes: options.scopes_header.clone(),
            is_believed: tokens.is_none(),
        };
        let headers = Some(headers).filter(|_| options.auth == Mode::Gateway);
        let proxies = Proxies::new(options.trusted_proxies.clone(), headers);
        let api_keys = options.api_keys.clone().map(ApiKeys::open).transpose()?;
        let asks_who = options.asks_who();
        Ok(Some(Arc::new(Self { tokens, api_keys, proxies, rates, asks_who, _fresh: fresh })))
    }

    /// Whether it asks callers who they are.
    pub(crate) fn asks_who(&self) -> bool {
        self.asks_who
    }

    /// Lets a request of that peer in, or not.
    pub(crate) async fn admit(&self, route: &Route, headers: &HeaderMap, peer: Option<IpAddr>) -> Admission {
        let mut standing = Standing::default();
        let caller = self.decide(route, headers, peer, &mut standing).await;
        Admission { caller, standing }
    }

    async fn decide(
        &self,
        route: &Route,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        standing: &mut Standing,
    ) -> Result<(Means, Option<Caller>), Denial> {
        if self.rates.heeds_addresses()
            && let Some(peer) = peer
        {
            self.rates.count_address(self.proxies.client(peer, headers), standing)?;
        }
        if !self.asks_who {
            return Ok((Means::Nothing, None));
        }
        let Some((identity, means)) = self.identify(headers, peer).await? else {
            return if route.scope.is_none() { Ok((Means::Nothing, None)) } else { Err(Refusal::Missing.into()) };
        };
        self.rates.count_caller(&identity.name, standing)?;
        let Some(scope) = route.scope else { return Ok((means, None)) };
        let reach = identity.scopes.reach(scope).ok_or_else(|| Denial::scope(scope))?;
        Ok((means, Some(Caller { name: identity.name.clone(), reach })))
    }

    /// Who asks, if that is said: also where it need not be, what is said must be true.
    async fn identify(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Option<(Arc<Identity>, Means)>, Denial> {
        let named = self.proxies.identity(peer, headers)?;
        let bearer = bearer(headers);
        let is_key = |secret: &&str| secret.starts_with(KEY_PREFIX);
        if let Some(identity) = named {
            // What it has checked, a gateway may hand on. A key names another caller.
            return match bearer {
                Ok(secret) if secret.as_ref().is_some_and(is_key) => Err(Refusal::Unclear.into()),
                Ok(_) | Err(_) => Ok(Some((identity, Means::Gateway))),
            };
        }
        let Some(secret) = bearer? else { return Ok(None) };
        match (&self.tokens, &self.api_keys) {
            (_, Some(keys)) if is_key(&secret) => Ok(Some((keys.check(secret)?, Means::ApiKey))),
            (Some(tokens), _) if !is_key(&secret) => Ok(Some((tokens.check(secret).await?, Means::Token))),
            (Some(_), None) | (_, Some(_)) => Err(Refusal::ApiKey.into()),
            // Of a gateway that has named no caller.
            (None, None) => Ok(None),
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("asks_who", &self.asks_who).finish_non_exhaustive()
    }
}

/// What stands in `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (line, another) = (lines.next(), lines.next());
    let Some(line) = line else { return Ok(None) };
    if another.is_some() || headers.contains_key(X_API_KEY) {
        return Err(Refusal::Unclear);
    }
    let (scheme, token) = line.to_str().ok().and_then(|line| line.split_once(' ')).ok_or(Refusal::Unclear)?;
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Err(Refusal::Scheme);
    }
    let token = token.trim_matches(' ');
    // RFC 6750, section 2.1.
    let is_of_tokens = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if token.is_empty() || !token.bytes().all(is_of_tokens) { Err(Refusal::Unclear) } else { Ok(Some(token)) }
}

fn check_options(options: &Options) -> Result<(), AuthError> {
    let has_keys = options.jwks_url.is_some() || options.jwks_file.is_some();
    let demands = options.jwt_issuer.is_some() && !options.jwt_audiences.is_empty();
    let wrong = match options.auth {
        Mode::None if has_keys || options.jwt_issuer.is_some() || !options.jwt_audiences.is_empty() => {
            "tokens are checked with --auth jwt or --auth gateway only"
        }
        Mode::Jwt if !has_keys => "--auth jwt needs the keys of the issuer: --jwks-url or --jwks-file",
        Mode::Gateway if !has_keys && options.trusted_proxies.is_empty() => {
            "--auth gateway needs --trusted-proxy, or the keys of the issuer (--jwks-url or --jwks-file) to check the \
             token that is handed on"
        }
        Mode::Jwt | Mode::Gateway if has_keys && !demands => {
            "tokens need an issuer and an audience: --jwt-issuer and --jwt-audience"
        }
        Mode::Gateway if options.identity_header == options.scopes_header => {
            "--identity-header and --scopes-header must be two"
        }
        Mode::Gateway if [&options.identity_header, &options.scopes_header].contains(&&AUTHORIZATION) => {
            "Authorization cannot be the header in which a gateway names the caller"
        }
        Mode::None | Mode::Jwt | Mode::Gateway => return Ok(()),
    };
    Err(AuthError::Options(wrong))
}

fn jwks(options: &Options) -> Result<Option<Jwks>, AuthError> {
    let algorithms = options.algorithms();
    if let Some(url) = &options.jwks_url {
        let (fetcher, name) = (Fetcher::new(url.clone(), options.jwks_ca.as_deref())?, url.to_string());
        let source: Source = Box::new(move || {
            let fetcher = fetcher.clone();
            async move { fetcher.fetch().await }.boxed()
        });
        return Ok(Some(Jwks::new(name, source, FAR_INTERVAL, algorithms)));
    }
    Ok(options.jwks_file.clone().map(|file| {
        let name = file.display().to_string();
        let source: Source = Box::new(move || {
            let file = file.clone();
            async move { read_jwks(&file).await.map_err(|error| error.to_string()) }.boxed()
        });
        Jwks::new(name, source, NEAR_INTERVAL, algorithms)
    }))
}

/// Who can write there vouches for everybody.
async fn read_jwks(file: &Path) -> io::Result<bytes::Bytes> {
    if let Some(mode) = private::writable_by_others(file)? {
        return Err(io::Error::other(format!("others than its owner can change it (its mode is {mode:03o})")));
    }
    if tokio::fs::metadata(file).await?.len() > JWKS_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {JWKS_BYTES_MAX} bytes")));
    }
    tokio::fs::read(file).await.map(Into::into)
}
