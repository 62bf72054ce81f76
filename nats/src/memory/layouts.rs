//! The layout of the logs in memory: decided and followed as on a nats-server, by the same code.

use async_nats::jetstream::stream::Config;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use shop_domain::kind::Kind;
use tokio::time::sleep;

use super::{MemoryLog, Under};
use crate::{
    stream::{
        layout::{Decided, Decision, Layout, LayoutError, Layouts, Server, Stream, Stretch},
        topology,
    },
    subject,
};

impl MemoryLog {
    /// Where it is decided how the logs are cut, as long as whoever asks is there.
    pub fn layouts(&self) -> Layouts {
        Layouts::on(self.clone())
    }

    /// What was decided last.
    pub fn decided(&self) -> Decided {
        self.decided.lock().expect("nobody panics while changing it").clone()
    }

    /// The generation of the layout in force.
    pub fn generation(&self) -> u32 {
        self.decided.lock().expect("nobody panics while changing it").generation()
    }

    /// Into how many partitions a kind is cut under the layout in force.
    pub fn partitions(&self, kind: Kind) -> u16 {
        let decided = self.decided().of(kind).map(|cut| cut.partitions);
        decided.unwrap_or_else(|| self.identity_now(kind).partitions)
    }

    /// The same logs under the layout of that generation, and no other.
    #[must_use]
    pub fn of_generation(&self, generation: u32) -> Self {
        Self { under: Under::Generation(generation), ..self.clone() }
    }

    /// The same logs, each record of which is read under the layout that counts there.
    #[must_use]
    pub fn whole(&self) -> Self {
        Self { under: Under::WhicheverCounts, ..self.clone() }
    }

    /// Gives the stream of a kind back the subjects of the layout before the one in force: as whoever does that was
    /// frozen right before it, until somebody sees to it.
    pub fn give_back(&self, kind: Kind) {
        let decided = self.decided();
        let before = decided.before(kind).and_then(<[Stretch]>::last);
        let Some((before, generation)) = before.zip(decided.generation().checked_sub(1)) else { return };
        let mut logs = self.logs();
        let log = logs.get_mut(&kind).expect("every kind has a log");
        log.config.subjects = subject::logs(kind, generation, before.partitions);
    }

    /// Whether a record was appended under a layout that did not count there any more.
    pub fn is_skipped(&self, kind: Kind, sequence: u64) -> bool {
        let logs = self.logs();
        let Some(log) = logs.get(&kind) else { return false };
        log.stored_at(sequence).is_some_and(|stored| stored.generation < log.counts_at(sequence))
    }

    /// A question on its way to whoever keeps the streams, or the answer.
    async fn way(&self) {
        self.thawed().await;
        let way = self.chaos.way();
        if !way.is_zero() {
            sleep(way).await;
            self.thawed().await;
        }
    }

    fn decide(&self, layout: Option<Layout>, after: u64) -> Result<u64, String> {
        let mut decided = self.decided.lock().expect("nobody panics while changing it");
        if decided.at != after {
            return Err(format!("wrong last sequence: {}", decided.at));
        }
        *decided = Decided { layout, at: after + 1 };
        for (kind, log) in self.logs().iter_mut() {
            let cut = decided.of(*kind);
            let before = cut.iter().flat_map(|cut| &cut.before).skip(1).map(|stretch| stretch.begins_at);
            log.layouts = before.chain(cut.map(|cut| cut.begins_at)).collect();
        }
        Ok(decided.at)
    }
}

impl Server for MemoryLog {
    fn decided(&self) -> BoxFuture<'_, Result<Decided, LayoutError>> {
        async {
            self.way().await;
            let decided = self.decided();
            self.way().await;
            Ok(decided)
        }
        .boxed()
    }

    fn take_in(&self, decision: Decision, after: u64) -> BoxFuture<'_, Result<u64, String>> {
        async move {
            self.way().await;
            let decided = self.decide(decision.layout, after);
            self.way().await;
            decided
        }
        .boxed()
    }

    fn stream(&self, kind: Kind) -> BoxFuture<'_, Result<Option<Stream>, LayoutError>> {
        async move {
            self.way().await;
            let stream =
                self.logs().get(&kind).map(|log| Stream { config: log.config.clone(), log: Ok(log.identity()) });
            self.way().await;
            Ok(stream)
        }
        .boxed()
    }

    fn change(&self, config: Config) -> BoxFuture<'_, Result<(), LayoutError>> {
        async move {
            self.way().await;
            for log in self.logs().values_mut().filter(|log| log.config.name == config.name) {
                log.identity = topology::described(&config)?;
                log.config = config.clone();
            }
            self.way().await;
            Ok(())
        }
        .boxed()
    }

    fn seal(&self, kind: Kind, subject: String, record: Bytes, after: u64) -> BoxFuture<'_, Result<(), LayoutError>> {
        async move {
            self.way().await;
            if !self.takes(kind, &subject) {
                let stream = subject::stream(kind);
                return Err(LayoutError::Server { stream, reason: format!("nobody takes what is for {subject}") });
            }
            let (generation, partition) = subject::place(kind, &subject).expect("it is that of a log");
            if self.identity_now(kind).last_sequence != after {
                return Err(LayoutError::WentOn(kind));
            }
            self.store_under(generation, kind, partition, record, None);
            self.way().await;
            Ok(())
        }
        .boxed()
    }
}
