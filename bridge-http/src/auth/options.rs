//! What can be set of who may ask.

use std::{num::NonZeroU32, path::PathBuf};

use clap::{Args, Command, FromArgMatches, ValueEnum, builder::FalseyValueParser};
use jsonwebtoken::Algorithm;
use warp::http::HeaderName;

use super::{fetch::JwksUrl, proxy::Network, rate::Rate};

/// How often a caller may ask in a second where callers are known, unless it was said.
const RATE_PER_CALLER: u32 = 200;

/// How it is known who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// It is not: who reaches the bridge may do everything.
    #[default]
    None,
    /// By a token that an issuer has signed.
    Jwt,
    /// By what a gateway in front says, or by the token that it hands on.
    Gateway,
}

/// What a token may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TokenAlgorithm {
    /// Ed25519.
    #[value(name = "EdDSA")]
    EdDsa,
    /// ECDSA with P-256 and SHA-256.
    #[value(name = "ES256")]
    Es256,
    /// RSA (PKCS #1) with SHA-256.
    #[value(name = "RS256")]
    Rs256,
}

/// Who may ask, and how often.
#[derive(Args, Clone, Debug)]
#[group(id = "auth-options")]
pub struct Options {
    /// How it is known who asks: not at all, by a token of an issuer, or by a gateway in front
    #[arg(long, value_enum, value_name = "MODE", env = "SHOP_AUTH", default_value = "none")]
    pub auth: Mode,
    /// Serves other machines though it is not known who asks: who reaches the port may then do everything
    #[arg(long, env = "SHOP_ALLOW_ANONYMOUS", value_parser = FalseyValueParser::new())]
    pub allow_anonymous: bool,
    /// What the claim `iss` of a token must be [default: none]
    #[arg(long, value_name = "ISSUER", env = "SHOP_JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// What the claim `aud` of a token must be, or have; may be given several times, for any of them [default: none]
    #[arg(long = "jwt-audience", value_name = "AUDIENCE", env = "SHOP_JWT_AUDIENCE", value_delimiter = ',')]
    pub jwt_audiences: Vec<String>,
    /// Where the issuer's keys are (a JWK set); https, or http on this machine [default: nowhere]
    #[arg(long, value_name = "URL", env = "SHOP_JWKS_URL", hide_env_values = true)]
    #[arg(conflicts_with = "jwks_file")]
    pub jwks_url: Option<JwksUrl>,
    /// The same as a file, which is read anew each minute [default: none]
    #[arg(long, value_name = "FILE", env = "SHOP_JWKS_FILE")]
    pub jwks_file: Option<PathBuf>,
    /// A certificate that vouches for where the keys are, beside those that the system trusts [default: none]
    #[arg(long, value_name = "FILE", env = "SHOP_JWKS_CA", requires = "jwks_url")]
    pub jwks_ca: Option<PathBuf>,
    /// The claim that names the caller: of a customer, the id of the wallet
    #[arg(long, value_name = "CLAIM", env = "SHOP_JWT_USER_CLAIM", default_value = "sub")]
    pub jwt_user_claim: String,
    /// What a token may be signed with; may be given several times
    #[arg(long = "jwt-algorithm", value_enum, value_name = "ALGORITHM", env = "SHOP_JWT_ALGORITHM")]
    #[arg(value_delimiter = ',', default_value = "EdDSA,ES256,RS256")]
    pub jwt_algorithms: Vec<TokenAlgorithm>,
    /// An address or network of proxies that are believed, as in 10.0.0.0/8; may be given several times [default: none]
    #[arg(long = "trusted-proxy", value_name = "NETWORK", env = "SHOP_TRUSTED_PROXY", value_delimiter = ',')]
    pub trusted_proxies: Vec<Network>,
    /// The header in which a gateway names the caller
    #[arg(long, value_name = "HEADER", env = "SHOP_IDENTITY_HEADER", default_value = "x-shop-user")]
    pub identity_header: HeaderName,
    /// The header in which it says what the caller may do, as scopes with spaces between them
    #[arg(long, value_name = "HEADER", env = "SHOP_SCOPES_HEADER", default_value = "x-shop-scopes")]
    pub scopes_header: HeaderName,
    /// The keys of programs, a line each, as `shop keys new` makes them; read anew when it changes [default: none]
    #[arg(long, value_name = "FILE", env = "SHOP_API_KEYS")]
    pub api_keys: Option<PathBuf>,
    /// Requests that one caller may send in a second; 0: any [default: 200, with --auth none any]
    #[arg(long, value_name = "COUNT", env = "SHOP_RATE_PER_CALLER")]
    pub rate_per_caller: Option<u32>,
    /// Requests that may come from one address in a second (of IPv6, from one network of 64 bits); 0: any
    #[arg(long, value_name = "COUNT", env = "SHOP_RATE_PER_ADDRESS", default_value_t = 0)]
    pub rate_per_address: u32,
    /// How many seconds' worth of them may come at once
    #[arg(long, value_name = "SECONDS", env = "SHOP_RATE_BURST", default_value = "2")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub rate_burst: u32,
}

impl Options {
    /// Whether who asks must say who it is.
    pub fn asks_who(&self) -> bool {
        self.auth != Mode::None || self.api_keys.is_some()
    }

    pub(crate) fn rate_per_caller(&self) -> Option<Rate> {
        let default = if self.asks_who() { RATE_PER_CALLER } else { 0 };
        self.rate(self.rate_per_caller.unwrap_or(default))
    }

    pub(crate) fn rate_per_address(&self) -> Option<Rate> {
        self.rate(self.rate_per_address)
    }

    fn rate(&self, per_second: u32) -> Option<Rate> {
        let burst_seconds = NonZeroU32::new(self.rate_burst)?;
        Some(Rate { per_second: NonZeroU32::new(per_second)?, burst_seconds })
    }

    pub(crate) fn algorithms(&self) -> Vec<Algorithm> {
        let algorithms = self.jwt_algorithms.iter().map(|algorithm| match algorithm {
            TokenAlgorithm::EdDsa => Algorithm::EdDSA,
            TokenAlgorithm::Es256 => Algorithm::ES256,
            TokenAlgorithm::Rs256 => Algorithm::RS256,
        });
        algorithms.collect()
    }
}

impl Default for Options {
    fn default() -> Self {
        // What the environment says is for a command line.
        let command = Self::augment_args(Command::new("auth")).mut_args(|argument| argument.env(None::<&str>));
        let matches = command.try_get_matches_from(["auth"]).expect("each has a default");
        Self::from_arg_matches(&matches).expect("each has a default")
    }
}
