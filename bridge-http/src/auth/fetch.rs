//! Fetches the keys of an issuer: one GET, over TLS, with limits of size and time. A redirection is not followed: who
//! names an issuer's keys names where they are.

use std::{fmt, io, net::IpAddr, path::Path, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1,
    header::{ACCEPT, HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::AuthError;

/// How long all of it may take.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);
/// Most bytes of a set of keys: many times what issuers have.
const SET_BYTES_MAX: usize = 262_144;

/// Where an issuer's keys are: `https`, or `http` on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwksUrl {
    uri: Uri,
    host: String,
    is_secure: bool,
}

/// Why a text is no place for keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwksUrl {
    /// Not a URL with a host.
    #[error("{0:?} is no URL with a host, as in https://issuer.example/jwks.json")]
    NoUrl(String),
    /// Whoever is on the way could put keys of their own there.
    #[error("{0:?} is neither https nor on this machine: who is on the way could put other keys there")]
    Insecure(String),
}

impl FromStr for JwksUrl {
    type Err = InvalidJwksUrl;

    fn from_str(text: &str) -> Result<Self, InvalidJwksUrl> {
        let no_url = || InvalidJwksUrl::NoUrl(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| no_url())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(no_url)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        match uri.scheme_str() {
            Some("https") => Ok(Self { uri, host, is_secure: true }),
            Some("http") if is_here => Ok(Self { uri, host, is_secure: false }),
            Some("http") => Err(InvalidJwksUrl::Insecure(text.to_owned())),
            Some(_) | None => Err(no_url()),
        }
    }
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without what may be a password in the query.
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let authority = authority.rsplit('@').next().unwrap_or_default();
        write!(f, "{}://{authority}{}", self.uri.scheme_str().unwrap_or_default(), self.uri.path())
    }
}

/// What fetches from there.
#[derive(Clone)]
pub(crate) struct Fetcher {
    url: JwksUrl,
    tls: Option<TlsConnector>,
}

impl Fetcher {
    /// With the certificates that the system trusts, and that one.
    pub(crate) fn new(url: JwksUrl, authority: Option<&Path>) -> Result<Self, AuthError> {
        let tls = if url.is_secure { Some(connector(authority)?) } else { None };
        Ok(Self { url, tls })
    }

    /// What is there.
    pub(crate) async fn fetch(&self) -> Result<Bytes, String> {
        let fetched = timeout(FETCH_TIME_MAX, self.get()).await;
        fetched.unwrap_or_else(|_| Err(format!("nothing came within {FETCH_TIME_MAX:?}")))
    }

    async fn get(&self) -> Result<Bytes, String> {
        let JwksUrl { uri, host, is_secure } = &self.url;
        let port = uri.port_u16().unwrap_or(if *is_secure { 443 } else { 80 });
        let connected = TcpStream::connect((host.as_str(), port)).await;
        let socket = connected.map_err(|error| format!("cannot connect: {error}"))?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
                let socket = tls.connect(name, socket).await;
                self.ask(socket.map_err(|error| format!("cannot connect over TLS: {error}"))?).await
            }
            None => self.ask(socket).await,
        }
    }

    async fn ask(&self, socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Bytes, String> {
        let failed = |error: hyper::Error| format!("cannot ask: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(failed)?;
        let target = self.url.uri.path_and_query().map_or("/", |target| target.as_str());
        let authority = self.url.uri.authority().map_or("", |authority| authority.as_str());
        let request = Request::get(target)
            .header(HOST, authority.rsplit('@').next().unwrap_or_default())
            .header(ACCEPT, "application/jwk-set+json, application/json")
            .header(USER_AGENT, "shop-bridge")
            .body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(failed)?;
            if answer.status() != StatusCode::OK {
                return Err(format!("the answer is {}, and not 200", answer.status()));
            }
            let body = Limited::new(answer.into_body(), SET_BYTES_MAX).collect().await;
            body.map(|body| body.to_bytes()).map_err(|error| format!("cannot read the answer: {error}"))
        };
        // The connection moves what the exchange sends and reads, and is dropped with it.
        let (exchange, connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
        match futures::future::select(exchange, connection).await {
            futures::future::Either::Left((answer, _)) => answer,
            futures::future::Either::Right((_, exchange)) => exchange.await,
        }
    }
}

fn connector(authority: Option<&Path>) -> Result<TlsConnector, AuthError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = authority {
        let unreadable = |error: io::Error| AuthError::file("--jwks-ca", file, &error);
        let certificates = CertificateDer::pem_file_iter(file).map_err(|error| unreadable(io::Error::other(error)))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| unreadable(io::Error::other(error)))?;
            roots.add(certificate).map_err(|error| unreadable(io::Error::other(error)))?;
        }
    }
    let tls = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let tls = tls.map_err(|error| AuthError::Tls(error.to_string()))?;
    Ok(TlsConnector::from(Arc::new(tls.with_root_certificates(roots).with_no_client_auth())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_tls_or_from_this_machine() {
        for (text, is_fine) in [
            ("https://issuer.example/.well-known/jwks.json", true),
            ("https://issuer.example", true),
            ("http://127.0.0.1:9/keys", true),
            ("http://localhost/keys", true),
            ("http://[::1]:9/keys", true),
            ("http://issuer.example/keys", false),
            ("http://10.0.0.7/keys", false),
            ("http://localhost.evil.example/keys", false),
            ("file:///etc/passwd", false),
            ("ftp://127.0.0.1/keys", false),
            ("/keys", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<JwksUrl>().is_ok(), is_fine, "{text}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_not_shown() {
        let url: JwksUrl = "https://me:secret@issuer.example:8443/keys?token=secret".parse().unwrap();
        assert_eq!(url.to_string(), "https://issuer.example:8443/keys");
    }
}
