//! Machines with a network between them that can be cut: network namespaces of our own, joined by a bridge in one more,
//! the hub, from which the shop is looked at. Nothing of it can be seen outside of them.
//!
//! Other than a line that is cut, a network that is cut says nothing: what is on its way is gone, and nobody is told.

use std::{
    env,
    ffi::OsString,
    fs,
    net::{IpAddr, Ipv4Addr},
    process::{Command, ExitStatus, Output},
};

use crate::servers::SERVERS;

/// What a process within the hub is told: what the names of the namespaces begin with.
const AROUND_US: &str = "SHOP_TEST_MACHINES";
/// Where the names of namespaces are.
const NAMES: &str = "/run/netns";
const PREFIX: &str = "shop-machines-";

/// Some machines and their hub.
#[derive(Debug)]
pub struct Machines {
    /// What the names of their namespaces begin with.
    prefix: String,
    /// Whether we have made them.
    is_ours: bool,
}

impl Machines {
    /// Those in whose hub this process runs, if it does.
    pub fn around_us() -> Option<Self> {
        Some(Self { prefix: env::var(AROUND_US).ok()?, is_ours: false })
    }

    /// New ones, as many as there are servers; or why there can be none here.
    pub fn make() -> Result<Self, String> {
        remove_left_overs();
        let machines = Self { prefix: format!("{PREFIX}{}-", std::process::id()), is_ours: true };
        let hub = machines.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        ip(&["-n", &hub, "link", "add", "hub", "type", "bridge"])?;
        ip(&["-n", &hub, "addr", "add", &format!("{}/24", address(0)), "dev", "hub"])?;
        ip(&["-n", &hub, "link", "set", "hub", "up"])?;
        for number in 0..SERVERS {
            let (machine, port) = (machines.name(number), port(number));
            ip(&["netns", "add", &machine])?;
            ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &machine])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "hub"])?;
            ip(&["-n", &hub, "link", "set", &port, "up"])?;
            ip(&["-n", &machine, "link", "set", "lo", "up"])?;
            ip(&["-n", &machine, "addr", "add", &format!("{}/24", machines.address(number)), "dev", "eth0"])?;
            ip(&["-n", &machine, "link", "set", "eth0", "up"])?;
        }
        Ok(machines)
    }

    /// Runs this program in the hub, with these arguments; it finds the machines around itself.
    pub fn run_again<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let program = env::current_exe().expect("a program knows where it is");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.hub()]).arg(program).args(arguments).env(AROUND_US, &self.prefix);
        command
    }

    /// The address of a machine, for the others and for the hub.
    pub fn address(&self, number: usize) -> IpAddr {
        address(number + 1)
    }

    /// What a program is started by on a machine.
    pub fn launcher(&self, number: usize) -> Vec<OsString> {
        ["ip", "netns", "exec", &self.name(number)].map(OsString::from).into()
    }

    /// From now on nothing reaches a machine, and nothing comes from it.
    pub fn cut_off(&self, number: usize) {
        self.set(number, "down");
    }

    /// From now on all can be reached again.
    pub fn join(&self) {
        (0..SERVERS).for_each(|number| self.set(number, "up"));
    }

    fn set(&self, number: usize, state: &str) {
        let set = ip(&["-n", &self.hub(), "link", "set", &port(number), state]);
        set.unwrap_or_else(|error| panic!("{error}"));
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    fn name(&self, number: usize) -> String {
        format!("{}{}", self.prefix, number + 1)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        if self.is_ours {
            let namespaces = (0..SERVERS).map(|number| self.name(number)).chain([self.hub()]);
            // With the last process in it, a namespace is gone, and its devices with it.
            namespaces.for_each(|name| drop(ip(&["netns", "delete", &name])));
        }
    }
}

/// The addresses that machines have, wherever they are made.
pub fn addresses() -> impl Iterator<Item = IpAddr> {
    (0..SERVERS).map(|number| address(number + 1))
}

/// In the hub the bridge has the first address, and each machine the next one.
fn address(number: usize) -> IpAddr {
    Ipv4Addr::new(10, 77, 0, number as u8 + 1).into()
}

/// Where the cable of a machine ends in the hub.
fn port(number: usize) -> String {
    format!("port-{}", number + 1)
}

/// What a run has left that was killed.
fn remove_left_overs() {
    for name in fs::read_dir(NAMES).into_iter().flatten().flatten() {
        let name = name.file_name().to_string_lossy().into_owned();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            // Somebody else may be faster.
            drop(ip(&["netns", "delete", &name]));
        }
    }
}

/// Runs `ip`, or says why it did not do it.
fn ip(arguments: &[&str]) -> Result<(), String> {
    let line = format!("ip {}", arguments.join(" "));
    match Command::new("ip").args(arguments).output() {
        Ok(Output { status, .. }) if status.success() => Ok(()),
        Ok(Output { status, stderr, .. }) => Err(failed(&line, status, &stderr)),
        Err(error) => Err(format!("{line}: {error} (it is in the package iproute2)")),
    }
}

fn failed(line: &str, status: ExitStatus, stderr: &[u8]) -> String {
    format!("{line}: {} ({status}; it takes root)", String::from_utf8_lossy(stderr).trim())
}
