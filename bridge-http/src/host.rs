//! Under which hosts a bridge may be asked.
//!
//! A page whose name its owner lets point to 127.0.0.1, or to any machine of a network, may ask what listens there as
//! if it were of its own site ("DNS rebinding"). The browser says in `Host` which name it followed, so that a bridge
//! answers only under names that are its own. Addresses are not names: nobody can let them point elsewhere.

use std::{fmt, net::IpAddr, str::FromStr};

/// A name or an address, without a port: as which port a bridge is reached is not its own to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// In lower case, without a dot at the end.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// Why a text is no host.
#[derive(Debug)]
pub struct InvalidHost(String);

impl fmt::Display for InvalidHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no host: give a name or an address without scheme and port, as in shop.example", self.0)
    }
}

impl std::error::Error for InvalidHost {}

impl FromStr for Host {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        let is_of_names = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        match Self::of(text) {
            Self::Name(name) if name.is_empty() || !name.bytes().all(is_of_names) => Err(InvalidHost(text.to_owned())),
            host @ (Self::Name(_) | Self::Address(_)) => Ok(host),
        }
    }
}

impl Host {
    /// Of a proper host and port, as in a request.
    pub(crate) fn of_authority(authority: &str) -> Self {
        let end = if authority.starts_with('[') { authority.find(']').map(|at| at + 1) } else { authority.find(':') };
        Self::of(&authority[..end.unwrap_or(authority.len())])
    }

    fn of(host: &str) -> Self {
        let name = host.strip_suffix('.').unwrap_or(host);
        let address = name.strip_prefix('[').and_then(|literal| literal.strip_suffix(']')).unwrap_or(name);
        match address.parse::<IpAddr>() {
            Ok(address) => Self::Address(address.to_canonical()),
            Err(_) => Self::Name(name.to_ascii_lowercase()),
        }
    }
}

/// The hosts of a bridge.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    named: Vec<Host>,
    listening: Option<IpAddr>,
}

impl Hosts {
    /// Those that were named, beside this machine's own names and the address at which the bridge listens.
    pub(crate) fn new(named: Vec<Host>, listening: Option<IpAddr>) -> Self {
        Self { named, listening: listening.map(|address| address.to_canonical()) }
    }

    /// Whether a bridge may be asked under that host.
    pub(crate) fn has(&self, host: &Host) -> bool {
        let is_own = match host {
            // Browsers and resolvers do not ask anybody for these (RFC 6761).
            Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            // A bridge that listens everywhere does not know all of its addresses.
            Host::Address(address) => {
                address.is_loopback() || self.listening.is_some_and(|own| own.is_unspecified() || own == *address)
            }
        };
        is_own || self.named.contains(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served<'h>(named: &[&str], listening: &str, hosts: &[&'h str]) -> Vec<&'h str> {
        let named = named.iter().map(|host| host.parse().unwrap()).collect();
        let own = Hosts::new(named, Some(listening.parse().unwrap()));
        hosts.iter().copied().filter(|host| own.has(&Host::of_authority(host))).collect()
    }

    const OWN: [&str; 9] = [
        "localhost",
        "LOCALHOST:8080",
        "localhost.:1",
        "shop.localhost",
        "127.0.0.1:8080",
        "127.1.2.3",
        "[::1]:8080",
        "[::1]",
        "[::ffff:127.0.0.1]:80",
    ];
    const FOREIGN: [&str; 10] = [
        "evil.example",
        "localhost.evil.example",
        "notlocalhost",
        "127.0.0.1.evil.example:8080",
        "127.1",
        "0x7f.0.0.1",
        "2130706433",
        "local%68ost",
        "shop",
        "",
    ];

    #[test]
    fn this_machine_is_served_under_its_own_names_and_under_no_others() {
        for listening in ["127.0.0.1", "::1", "10.0.0.7", "0.0.0.0"] {
            assert_eq!(served(&[], listening, &OWN), OWN, "{listening}");
            assert_eq!(served(&[], listening, &FOREIGN), [""; 0], "{listening}");
        }
    }

    #[test]
    fn an_address_is_served_where_the_bridge_listens_at_it_or_everywhere() {
        let addresses = ["10.0.0.7:8080", "10.0.0.8", "[fd00::1]:8080"];
        assert_eq!(served(&[], "127.0.0.1", &addresses), [""; 0]);
        assert_eq!(served(&[], "10.0.0.7", &addresses), ["10.0.0.7:8080"]);
        assert_eq!(served(&[], "::ffff:10.0.0.7", &addresses), ["10.0.0.7:8080"]);
        assert_eq!(served(&[], "0.0.0.0", &addresses), addresses);
        assert_eq!(served(&[], "::", &addresses), addresses);
    }

    #[test]
    fn a_host_that_was_named_is_served_at_any_port_and_in_any_spelling() {
        let asked = ["shop.example", "SHOP.Example.:443", "10.0.0.8:1", "[FD00::1]", "www.shop.example", "example"];
        let named = ["Shop.example.", "10.0.0.8", "fd00::1"];
        assert_eq!(served(&named, "127.0.0.1", &asked), asked[..4]);
    }

    #[test]
    fn a_host_has_no_scheme_no_port_and_no_wildcard() {
        for host in ["", ".", "shop.example:80", "http://shop", "*", "*.shop", "a b", "[::1", "::1]:80", "me@a", "a/b"]
        {
            assert!(host.parse::<Host>().unwrap_err().to_string().contains("is no host"), "{host}");
        }
        for host in ["shop", "a_b.c", "[::1]", "::1", "127.0.0.1"] {
            assert!(host.parse::<Host>().is_ok(), "{host}");
        }
    }
}
