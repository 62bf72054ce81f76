//! siege: many customers who ask for the same few things over and over again, and count.

use std::{fmt, path::Path, time::Duration};

use serde::Deserialize;

use crate::{client::Caller, login::write_private, process::Process};

/// Whether customers keep their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    /// One for each customer.
    Kept,
    /// One for each request.
    New,
}

impl Connections {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::New => "new",
        }
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "keep-alive",
            Self::New => "a new connection for each request",
        })
    }
}

/// What siege says at its end, as far as it matters. `availability` alone does not see answers of 4xx.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Figures {
    /// Requests that were answered.
    pub transactions: u64,
    /// The part of all requests that was, in percent.
    pub availability: f64,
    /// Answers below 400.
    pub successful_transactions: u64,
    /// Requests without an answer, or with one of 5xx.
    pub failed_transactions: u64,
    /// The longest time to an answer, in seconds.
    pub longest_transaction: f64,
}

/// How many customers, for how long.
#[derive(Clone, Copy, Debug)]
pub struct Siege {
    /// How many.
    pub customers: u16,
    /// How long; whole seconds.
    pub time: Duration,
    /// Their connections.
    pub connections: Connections,
}

impl Siege {
    /// Starts siege, with requests as it reads them: an address, or an address, `POST` and a body of JSON. All of them are
    /// of this caller, or of nobody.
    pub fn start(self, program: &Path, folder: &Path, requests: &[String], caller: Option<&Caller>) -> Process {
        let (rc, urls) = (folder.join("siegerc"), folder.join("urls"));
        for (file, text) in [(&rc, self.rc()), (&urls, requests.join("\n"))] {
            write_private(file, &text);
        }
        let (customers, time) = (self.customers.to_string(), format!("{}S", self.time.as_secs()));
        let mut arguments = vec!["-R".into(), rc.into_os_string(), "-f".into(), urls.into_os_string()];
        arguments.extend(["-c", &customers, "-t", &time, "-T", "application/json"].map(Into::into));
        if let Some(caller) = caller {
            arguments.extend([format!("--header=Authorization: {}", caller.authorization()).into()]);
        }
        Process::spawn_other(program, folder, "siege", arguments)
    }

    fn rc(self) -> String {
        let connection = match self.connections {
            Connections::Kept => "keep-alive",
            Connections::New => "close",
        };
        format!(
            "protocol = HTTP/1.1\nconnection = {connection}\njson_output = true\nverbose = false\nshow-logfile = false\n\
             logging = false\nparser = false\nfailures = 1000000\nlimit = 1000\nbenchmark = true\n"
        )
    }
}

impl Figures {
    /// What siege has printed.
    pub fn read(printed: &str) -> Option<Self> {
        let json = printed.get(printed.find('{')?..=printed.rfind('}')?)?;
        serde_json::from_str(json).ok()
    }

    /// Whether every request was answered as it should be.
    pub fn is_flawless(&self) -> bool {
        let Self { transactions, availability, successful_transactions, failed_transactions, .. } = *self;
        availability == 100.0 && failed_transactions == 0 && successful_transactions == transactions && transactions > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(transactions: u64, successful: u64, failed: u64, availability: f64) -> Figures {
        let printed = format!(
            "\n{{\t\"transactions\":\t\t\t {transactions},\n\t\"availability\":\t {availability:.2},\n\t\"elapsed_time\": 59.3,\n\
             \t\"successful_transactions\": {successful},\n\t\"failed_transactions\": {failed},\n\
             \t\"longest_transaction\": 1.04,\n\t\"shortest_transaction\": 0.00\n}}\n"
        );
        Figures::read(&printed).unwrap()
    }

    #[test]
    fn only_a_siege_whose_every_request_was_answered_well_is_flawless() {
        assert!(said(100, 100, 0, 100.0).is_flawless());
        assert!(!said(100, 100, 1, 99.01).is_flawless());
        assert!(!said(100, 99, 0, 100.0).is_flawless(), "an answer of 4xx");
        assert!(!said(0, 0, 0, 100.0).is_flawless(), "nobody asked");
        assert!(Figures::read("siege aborted").is_none());
    }
}
