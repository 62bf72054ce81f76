//! What the machine can do at all: what no shop on it can do better.

use std::{
    fs::File,
    io::Write,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, stream::Config};
use futures::{StreamExt, stream};
use shop_tests::{
    bench::report::{Fsyncs, Healthz, Limits, Publishes, Sync},
    folder::Folder,
};

use crate::{load, nats::Nats, options::Options, shop::OpenShop};

/// About a frame of one message.
const MESSAGE: &[u8] = &[0x5a; 120];
/// About a frame of forty: unlike a short one, it always makes the file system find a new block,
/// which then has to be on disk as well.
const PAGE: &[u8] = &[0x5a; 4_096];
/// Publishes on their way: one after the other, and many at a time.
const IN_FLIGHT: [usize; 2] = [1, 1_000];
/// Callers of `GET /healthz`.
const CALLERS: [u32; 3] = [1, 64, 256];

/// Disk, JetStream and bridge, each alone.
pub(crate) async fn measure(options: &Options) -> Limits {
    let time = Duration::from_secs(options.seconds.div_ceil(2).into());
    let folder = Folder::within(&options.folder);
    let fsyncs = [MESSAGE, PAGE].map(|what| {
        let per_second = fsyncs(&folder, what, time);
        eprintln!("limits: {per_second:.0} fsyncs/s, each after {} bytes", what.len());
        Fsyncs { bytes: what.len(), per_second }
    });
    let mut jetstream = Vec::new();
    for sync in [Sync::Always, Sync::Default] {
        let nats = Nats::start(&folder.path().join(format!("nats-{sync:?}")), sync).await;
        for in_flight in IN_FLIGHT {
            let per_second = publishes(&nats, in_flight, time).await;
            eprintln!("limits: {per_second:.0} publishes/s, {sync:?}, {in_flight} in flight");
            jetstream.push(Publishes { sync, in_flight, per_second });
        }
    }
    let shop = OpenShop::start(options, Sync::Always).await;
    let mut healthz = Vec::new();
    for connections in CALLERS {
        let per_second = load::healthz(&shop, connections, time.as_secs() as u32).await;
        healthz.push(Healthz { connections, per_second });
    }
    shop.stop().await;
    Limits { fsyncs: fsyncs.into(), jetstream, healthz }
}

fn fsyncs(folder: &Folder, what: &[u8], time: Duration) -> f64 {
    let mut file = File::create(folder.path().join("fsyncs")).expect("a new folder can be written to");
    let (start, mut count) = (Instant::now(), 0_u32);
    while start.elapsed() < time {
        file.write_all(what).and_then(|()| file.sync_all()).expect("there should be room for some messages");
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

async fn publishes(nats: &Nats, in_flight: usize, time: Duration) -> f64 {
    let client = async_nats::connect(nats.url()).await.expect("the nats-server was just there");
    let context = &jetstream::ContextBuilder::new().max_ack_inflight(in_flight).build(client);
    let subject = format!("raw.{in_flight}");
    let stream = Config { name: format!("RAW{in_flight}"), subjects: vec![subject.clone()], ..Config::default() };
    context.create_stream(stream).await.expect("a stream can be made");
    let start = Instant::now();
    let due = stream::repeat(subject).take_while(|_| std::future::ready(start.elapsed() < time));
    let acknowledged = due.map(async |subject| {
        let sent = context.publish(subject, MESSAGE.into()).await.expect("the connection stands");
        sent.await.expect("the stream takes the message")
    });
    let count = acknowledged.buffer_unordered(in_flight).count().await;
    count as f64 / start.elapsed().as_secs_f64()
}
