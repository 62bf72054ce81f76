//! haproxy in front of several bridges: it asks each whether it is ready, and sends nobody to one
//! that is not. A request that a bridge died with goes to another one, which is safe because haproxy
//! gives every write a key.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use crate::{client::Client, process::Process, wait::until};

/// What haproxy is told. Words in capitals are put in.
const CONFIG: &str = "\
global
    maxconn 4000
defaults
    mode http
    timeout connect 1s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
    retries 3
    option redispatch 1
    retry-on conn-failure empty-response
frontend shop
    bind FRONT
    # The same request, sent once more, is the same request.
    http-request set-header Idempotency-Key %[uuid()] if METH_POST !{ req.hdr(Idempotency-Key) -m found }
    use_backend orders if METH_POST { path /orders }
    default_backend others
backend orders
    option httpchk GET /readyz
    default-server check inter 200ms fall 1 rise 1
CHECKED
backend others
TRACKED
listen figures
    bind FIGURES
    stats enable
    stats uri /
";

/// A running haproxy.
#[derive(Debug)]
pub struct Balancer {
    _process: Process,
    front: SocketAddr,
    figures: Client,
}

impl Balancer {
    /// Starts it on these two addresses, the second for what it has counted, in front of these bridges.
    pub async fn start(
        program: &Path,
        folder: &Path,
        [front, figures]: [SocketAddr; 2],
        bridges: &[SocketAddr],
    ) -> Self {
        let file = folder.join("haproxy.cfg");
        let config = config(front, figures, bridges);
        fs::write(&file, config).unwrap_or_else(|error| panic!("cannot write {}: {error}", file.display()));
        let process =
            Process::spawn_other(program, folder, "haproxy", ["-db".as_ref(), "-f".as_ref(), file.as_os_str()]);
        let balancer = Self { _process: process, front, figures: Client::new(figures) };
        balancer.wait_until_all_are_up().await;
        balancer
    }

    /// Where customers ask.
    pub fn client(&self) -> Client {
        Client::new(self.front)
    }

    /// Waits until every bridge is sent customers.
    pub async fn wait_until_all_are_up(&self) {
        until("haproxy sends customers to all bridges", async || {
            let figures = self.figures().await?;
            let bridges = figures.column("status", |line| line.starts_with("orders,bridge-"));
            (!bridges.is_empty() && bridges.iter().all(|status| status.starts_with("UP"))).then_some(())
        })
        .await;
    }

    /// How many orders it has seen answered with 2xx.
    pub async fn orders_answered(&self) -> u64 {
        let figures = until("haproxy tells what it has counted", async || self.figures().await).await;
        let counted = figures.column("hrsp_2xx", |line| line.starts_with("orders,BACKEND,"));
        counted.first().and_then(|count| count.parse().ok()).expect("haproxy counts answers")
    }

    async fn figures(&self) -> Option<Figures> {
        let answer = self.figures.send(hyper::Method::GET, "/;csv", None).await.ok()?;
        Some(Figures(String::from_utf8_lossy(&answer.bytes).into_owned()))
    }
}

/// A program that is installed, where shells or administrators find it.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn config(front: SocketAddr, figures: SocketAddr, bridges: &[SocketAddr]) -> String {
    let lines = |options: &dyn Fn(usize) -> String| -> String {
        let lines = bridges.iter().enumerate().map(|(number, address)| {
            let number = number + 1;
            format!("    server bridge-{number} {address}{}\n", options(number))
        });
        lines.collect()
    };
    CONFIG
        .replace("FRONT", &front.to_string())
        .replace("FIGURES", &figures.to_string())
        .replace("CHECKED\n", &lines(&|_| String::new()))
        .replace("TRACKED\n", &lines(&|number| format!(" track orders/bridge-{number}")))
}

/// What haproxy has counted, as comma separated values under a line of names.
struct Figures(String);

impl Figures {
    /// What stands under a name in the lines that are wanted.
    fn column(&self, name: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<&str> {
        let mut lines = self.0.lines();
        let names = lines.next().unwrap_or_default().trim_start_matches("# ");
        let Some(place) = names.split(',').position(|found| found == name) else { return vec![] };
        lines.filter(|line| is_wanted(line)).filter_map(|line| line.split(',').nth(place)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bridge_is_checked_once_and_listed_twice() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let config = config(at(1), at(2), &[at(3), at(4)]);
        for line in [
            "    bind 127.0.0.1:1\n",
            "    bind 127.0.0.1:2\n",
            "    server bridge-1 127.0.0.1:3\n    server bridge-2 127.0.0.1:4\n",
            "    server bridge-2 127.0.0.1:4 track orders/bridge-2\n",
        ] {
            assert!(config.contains(line), "{line:?} is missing: {config}");
        }
        assert!(!config.contains("FRONT") && !config.contains("FIGURES") && !config.contains("CKED"), "{config}");
    }

    #[test]
    fn a_column_is_found_by_its_name() {
        let figures = "# pxname,svname,hrsp_2xx,status,\norders,bridge-1,3,UP,\norders,bridge-2,4,DOWN 1/2,\n";
        let figures = Figures(figures.to_owned());
        assert_eq!(figures.column("status", |line| line.starts_with("orders,")), ["UP", "DOWN 1/2"]);
        assert_eq!(figures.column("hrsp_2xx", |line| line.contains("bridge-2")), ["4"]);
        assert!(figures.column("rate", |_| true).is_empty());
    }
}
