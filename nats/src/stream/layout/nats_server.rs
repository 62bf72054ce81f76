//! The layout on a nats-server.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    context::PublishErrorKind,
    message::PublishMessage,
    stream::{Config, DiscardPolicy, StorageType},
};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use shop_domain::kind::Kind;

use super::{Decided, Decision, LayoutError, Layouts, Server, Stream, patiently, server};
use crate::{
    connection::Connection,
    stream::{
        stored::last_of,
        topology::{self, identity_of},
    },
    subject,
};

/// How long one answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);

impl Connection {
    /// Where layouts are decided, and the streams that follow them.
    pub fn layouts(&self) -> Layouts {
        Layouts::on(NatsServer { context: layout_context(self) })
    }

    /// Makes the stream in which is decided, with as many copies as the logs have.
    pub async fn ensure_layout_stream(&self) -> Result<(), LayoutError> {
        let context = layout_context(self);
        patiently(|| make_stream(&context)).await
    }
}

fn layout_context(connection: &Connection) -> jetstream::Context {
    let mut context = jetstream::new(connection.client().clone());
    context.set_timeout(TIMEOUT);
    context
}

/// A nats-server, or several that agree.
#[derive(Debug)]
struct NatsServer {
    context: jetstream::Context,
}

impl Server for NatsServer {
    fn decided(&self) -> BoxFuture<'_, Result<Decided, LayoutError>> {
        decided(&self.context).boxed()
    }

    fn take_in(&self, decision: Decision, after: u64) -> BoxFuture<'_, Result<u64, String>> {
        let bytes = serde_json::to_vec(&decision).expect("a layout always encodes");
        let message = PublishMessage::build().payload(bytes.into()).expected_last_subject_sequence(after);
        async move { publish(&self.context, subject::LAYOUT, message).await.map_err(|error| error.to_string()) }.boxed()
    }

    fn stream(&self, kind: Kind) -> BoxFuture<'_, Result<Option<Stream>, LayoutError>> {
        async move {
            let info = topology::find(&self.context, &subject::stream(kind)).await?;
            Ok(info.map(|info| Stream { log: identity_of(&info), config: info.config }))
        }
        .boxed()
    }

    fn change(&self, config: Config) -> BoxFuture<'_, Result<(), LayoutError>> {
        async move {
            let name = config.name.clone();
            let changed = self.context.update_stream(config).await;
            changed.map(drop).map_err(|error| server(&name, error.to_string()))
        }
        .boxed()
    }

    fn seal(&self, kind: Kind, subject: String, record: Bytes, after: u64) -> BoxFuture<'_, Result<(), LayoutError>> {
        let message = PublishMessage::build().payload(record).expected_last_sequence(after);
        async move {
            let sealed = publish(&self.context, &subject, message).await;
            sealed.map(drop).map_err(|error| match error.kind() {
                PublishErrorKind::WrongLastSequence => LayoutError::WentOn(kind),
                PublishErrorKind::StreamNotFound
                | PublishErrorKind::WrongLastMessageId
                | PublishErrorKind::TimedOut
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending
                | PublishErrorKind::MaxPayloadExceeded
                | PublishErrorKind::Other => server(&subject::stream(kind), error.to_string()),
            })
        }
        .boxed()
    }
}

/// Makes the stream in which is decided, unless there is one.
async fn make_stream(context: &jetstream::Context) -> Result<(), LayoutError> {
    let logs = stream_config(context, Kind::Order).await?;
    let config = Config {
        name: subject::LAYOUT_STREAM.into(),
        description: Some("into how many partitions the shop's kinds are cut".into()),
        subjects: vec![subject::LAYOUT.into()],
        storage: StorageType::File,
        num_replicas: logs.num_replicas,
        discard: DiscardPolicy::New,
        deny_delete: true,
        deny_purge: true,
        ..Config::default()
    };
    let made = context.get_or_create_stream(config).await;
    made.map(drop).map_err(|error| server(subject::LAYOUT_STREAM, error.to_string()))
}

/// Which layout is in force, as the leader of its stream says.
pub(crate) async fn decided(context: &jetstream::Context) -> Result<Decided, LayoutError> {
    let failed = |reason: String| server(subject::LAYOUT_STREAM, reason);
    let last = last_of(context, subject::LAYOUT_STREAM, subject::LAYOUT).await.map_err(failed)?;
    let Some(message) = last else { return Ok(Decided::default()) };
    let decision: Decision = serde_json::from_slice(&message.payload).map_err(|error| failed(error.to_string()))?;
    match decision.layout {
        Some(layout) if !layout.is_possible() => Err(failed("it says of a log what none can be".to_owned())),
        layout => Ok(Decided { layout, at: message.sequence }),
    }
}

async fn stream_config(context: &jetstream::Context, kind: Kind) -> Result<Config, LayoutError> {
    let stream = subject::stream(kind);
    let info = topology::find(context, &stream).await?;
    info.map(|info| info.config).ok_or_else(|| server(&stream, "there is none".into()))
}

async fn publish(
    context: &jetstream::Context,
    subject: &str,
    message: PublishMessage,
) -> Result<u64, async_nats::error::Error<PublishErrorKind>> {
    Ok(context.send_publish(subject.to_owned(), message).await?.await?.sequence)
}
