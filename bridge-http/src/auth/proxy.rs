//! What stands in front of a bridge: which addresses are believed, and what they say of who asks.
//!
//! A gateway that has checked its caller names it in a header. That header is worth something only if nothing else can
//! send it: from any other address it is refused, and so is everything that another program might take for it.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use ipnet::IpNet;
use warp::http::{HeaderMap, HeaderName, HeaderValue};

use super::{identity::Identity, refusal::Denial};
use crate::scope::Scopes;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// How many addresses are looked through from the end.
const HOPS_MAX: usize = 32;

/// An address, or all of a network: `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// Why a text is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a network, as in 10.0.0.7 or 10.0.0.0/8")]
pub struct InvalidNetwork(String);

impl FromStr for Network {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let invalid = |_| InvalidNetwork(text.to_owned());
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Self(address.to_canonical().into())),
            Err(_) => text.parse().map(Self).map_err(invalid),
        }
    }
}

/// The proxies that are believed.
#[derive(Clone, Debug)]
pub(crate) struct Proxies {
    trusted: Vec<Network>,
    /// Where they say who asks, if that is theirs to say.
    headers: Option<IdentityHeaders>,
}

/// The headers of a gateway.
#[derive(Clone, Debug)]
pub(crate) struct IdentityHeaders {
    pub(crate) user: HeaderName,
    pub(crate) scopes: HeaderName,
    /// Whether what they say counts; otherwise they are only kept out.
    pub(crate) is_believed: bool,
}

impl Proxies {
    pub(crate) fn new(trusted: Vec<Network>, headers: Option<IdentityHeaders>) -> Self {
        Self { trusted, headers }
    }

    /// From where a request comes: where a proxy that is believed says so, from there.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines: Vec<_> = headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok()).collect();
        let hops = lines.iter().rev().flat_map(|line| line.rsplit(',')).take(HOPS_MAX);
        for hop in hops {
            if !self.trusts(client) {
                break;
            }
            // What cannot be read says nothing: it is the proxy's own address that is known.
            let Some(address) = address_of(hop.trim()) else { break };
            client = address;
        }
        client
    }

    /// Whom a gateway names, if it names anybody.
    pub(crate) fn identity(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Result<Option<Arc<Identity>>, Denial> {
        let Some(names) = &self.headers else { return Ok(None) };
        let IdentityHeaders { user, scopes, is_believed } = names;
        let is_trusted = peer.is_some_and(|peer| self.trusts(peer.to_canonical()));
        for name in headers.keys() {
            let Some(meant) = [user, scopes].into_iter().find(|known| is_read_as(name, known)) else { continue };
            if !is_trusted {
                return Err(Denial::identity(meant, "is for gateways that were named with --trusted-proxy"));
            }
            if name != meant {
                return Err(Denial::identity(meant, "must be spelled so"));
            }
            if headers.get_all(name).iter().nth(1).is_some() {
                return Err(Denial::identity(meant, "is given more than once"));
            }
        }
        if !is_believed {
            return Ok(None);
        }
        let Some(name) = headers.get(user) else { return Ok(None) };
        let name = text(user, name)?.parse();
        let name = name.map_err(|error| Denial::identity(user, &format!("names who asks, and {error}")))?;
        let scopes = match headers.get(scopes) {
            Some(given) => Scopes::known_of(text(scopes, given)?),
            None => Scopes::default(),
        };
        Ok(Some(Arc::new(Identity { name, scopes })))
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|Network(network)| network.contains(&address))
    }
}

fn text<'h>(name: &HeaderName, value: &'h HeaderValue) -> Result<&'h str, Denial> {
    value.to_str().map_err(|_| Denial::identity(name, "must consist of visible ASCII characters"))
}

/// Whether some program takes the one header for the other: CGI and what follows it have `_` for `-`.
fn is_read_as(name: &HeaderName, known: &HeaderName) -> bool {
    let (name, known) = (name.as_str().as_bytes(), known.as_str().as_bytes());
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
    name.len() == known.len() && name.iter().map(plain).eq(known.iter().map(plain))
}

/// With or without a port.
fn address_of(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse::<IpAddr>().ok().or_else(|| Some(hop.parse::<SocketAddr>().ok()?.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(trusted: &[&str]) -> Proxies {
        let headers = IdentityHeaders {
            user: HeaderName::from_static("x-shop-user"),
            scopes: HeaderName::from_static("x-shop-scopes"),
            is_believed: true,
        };
        Proxies::new(trusted.iter().map(|text| text.parse().unwrap()).collect(), Some(headers))
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn a_client_is_where_the_last_proxy_that_is_believed_says() {
        let proxies = proxies(&["10.0.0.0/8", "fd00::/8"]);
        for (peer, lines, client) in [
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["1.2.3.4, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["1.2.3.4", "198.51.100.1", "10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["1.2.3.4, unknown, 10.0.0.2"], "10.0.0.2"),
            ("fd00::1", &["[2001:db8::1]:99"], "2001:db8::1"),
            ("fd00::1", &["[2001:db8::1]"], "2001:db8::1"),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("X-Forwarded-For", *line)).collect();
            assert_eq!(proxies.client(peer.parse().unwrap(), &headers(&lines)).to_string(), client, "{peer} {lines:?}");
        }
    }

    #[test]
    fn who_asks_is_what_a_trusted_gateway_says_once_in_the_one_spelling() {
        let proxies = proxies(&["10.0.0.7"]);
        let gateway = Some("10.0.0.7".parse().unwrap());
        let told = |lines: &[(&str, &str)]| proxies.identity(gateway, &headers(lines)).map_err(|denial| denial.problem);
        let alice = told(&[("X-SHOP-User", "alice"), ("X-Shop-Scopes", "orders:read")]).unwrap().unwrap();
        assert_eq!((alice.name.as_str(), alice.scopes), ("alice", Scopes::known_of("orders:read")));
        assert_eq!(told(&[]).unwrap(), None);
        for bad in [
            &[("x_shop_user", "alice")][..],
            &[("x-shop_user", "alice"), ("x-shop-user", "bob")],
            &[("x-shop-user", "alice"), ("X-Shop-User", "alice")],
            &[("x-shop-user", "alice"), ("x-shop-scopes", "a"), ("x-shop-scopes", "b")],
            &[("x-shop-user", "alice"), ("x_shop_scopes", "orders:read:any")],
            &[("x-shop-user", "alice, bob")],
            &[("x-shop-user", "")],
        ] {
            assert_eq!(told(bad).unwrap_err().code.status, 400, "{bad:?}");
            let stranger = Some("10.0.0.8".parse().unwrap());
            for peer in [stranger, None] {
                assert_eq!(proxies.identity(peer, &headers(bad)).unwrap_err().problem.code.status, 400, "{bad:?}");
            }
        }
    }

    #[test]
    fn a_network_is_an_address_or_a_prefix() {
        for (text, is_fine) in [
            ("10.0.0.7", true),
            ("10.0.0.0/8", true),
            ("::1", true),
            ("fd00::/8", true),
            ("", false),
            ("10.0.0.0/33", false),
            ("shop", false),
        ] {
            assert_eq!(text.parse::<Network>().is_ok(), is_fine, "{text}");
        }
    }
}
