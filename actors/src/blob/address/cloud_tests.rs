//! S3 as it is spoken over HTTP, and somebody on loopback who speaks enough of it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use shop_domain::kind::Kind;
use shop_nats::log::Identity;
use tokio::net::TcpListener;

use super::*;
use crate::{
    snapshot::{Snapshots, Throttle},
    store::{
        Checkpoint, Meta, Store,
        delta::{Changed, Delta},
        memory::MemoryStore,
    },
};

/// What a bucket holds.
#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Bytes>,
    /// Of uploads that are not complete, by key and number.
    parts: BTreeMap<(String, u64), Bytes>,
    /// Who has asked, as the signatures of the requests say.
    askers: Vec<String>,
}

impl Bucket {
    /// Opens a bucket; returns the address of its endpoint.
    async fn open(bucket: Arc<Mutex<Self>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let bucket = Arc::clone(&bucket);
                let answer = service_fn(move |request| Self::answer(Arc::clone(&bucket), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), answer));
            }
        });
        endpoint
    }

    async fn answer(bucket: Arc<Mutex<Self>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let key = head.uri.path().trim_start_matches("/bucket").trim_start_matches('/').to_owned();
        let query: BTreeMap<String, String> =
            url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let asks = |name: &str| query.get(name).map(String::as_str);
        let mut bucket = bucket.lock().unwrap();
        bucket.askers.push(head.headers["authorization"].to_str().unwrap().to_owned());
        let answer = match (head.method, asks("uploads"), asks("partNumber"), asks("uploadId")) {
            (Method::POST, Some(_), _, _) => {
                let upload = "<UploadId>1</UploadId>";
                Some(format!("<InitiateMultipartUploadResult>{upload}</InitiateMultipartUploadResult>").into())
            }
            (Method::PUT, _, Some(number), _) => {
                bucket.parts.insert((key, number.parse().unwrap()), body);
                Some(Bytes::new())
            }
            (Method::POST, _, _, Some(_)) => {
                let parts = std::mem::take(&mut bucket.parts);
                bucket.objects.insert(key, parts.into_values().collect::<Vec<_>>().concat().into());
                let tag = "<ETag>1</ETag>";
                Some(format!("<CompleteMultipartUploadResult>{tag}</CompleteMultipartUploadResult>").into())
            }
            (Method::POST, None, None, None) => {
                let keys = String::from_utf8_lossy(&body);
                let keys = keys.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
                let delete = |(key, _)| {
                    bucket.objects.remove(key);
                    format!("<Deleted><Key>{key}</Key></Deleted>")
                };
                Some(format!("<DeleteResult>{}</DeleteResult>", keys.map(delete).collect::<String>()).into())
            }
            (Method::PUT, ..) => {
                bucket.objects.insert(key, body);
                Some(Bytes::new())
            }
            _ if asks("list-type").is_some() => Some(bucket.list(asks("prefix").unwrap_or_default())),
            _ => bucket.objects.get(&key).cloned(),
        };
        let status = if answer.is_some() { 200 } else { 404 };
        let answer = answer.unwrap_or_default();
        let response = Response::builder().status(status).header("etag", "1");
        let response = response.header("last-modified", "Sun, 22 Nov 2026 15:15:12 GMT");
        Ok(response.header("content-length", answer.len()).body(Full::new(answer)).unwrap())
    }

    fn list(&self, prefix: &str) -> Bytes {
        let objects = self.objects.iter().filter(|(key, _)| key.starts_with(prefix));
        let entry = |(key, object): (&String, &Bytes)| {
            let (size, time) = (object.len(), "2026-11-22T15:15:12.000Z");
            format!("<Contents><Key>{key}</Key><Size>{size}</Size><LastModified>{time}</LastModified></Contents>")
        };
        format!("<ListBucketResult>{}</ListBucketResult>", objects.map(entry).collect::<String>()).into()
    }
}

fn with(variables: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    variables.iter().map(owned).collect::<Vec<_>>().into_iter()
}

/// A checkpoint up to there, of one entity with this state.
fn checkpoint(cursor: u64, state: Bytes) -> Box<dyn crate::store::CheckpointView> {
    let meta = Meta { cursor, ..Meta::new(&Identity::new(2)) };
    let changes: Delta =
        [Changed { id: "alice".parse().unwrap(), state: Some(state), rows: vec![] }].into_iter().collect();
    let partition_store = MemoryStore::default().partition(0).unwrap();
    partition_store.write(&Checkpoint { meta, changes: changes.into() }).unwrap();
    partition_store.freeze().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_written_listed_read_and_pruned_in_a_bucket() {
    let bucket = Arc::new(Mutex::new(Bucket::default()));
    let endpoint = Bucket::open(Arc::clone(&bucket)).await;
    let variables = [
        ("AWS_ENDPOINT", &*endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "alice"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("HOME", "/home/alice"),
    ];
    let snapshots = Snapshots::over(remote_with("s3://bucket/shop", with(&variables)).unwrap(), "s3://bucket/shop");
    let place = (Kind::Wallet, 0);
    // One that goes up in one piece, and one that does not compress and takes several.
    let large: Bytes = {
        let mut rng = fastrand::Rng::with_seed(5);
        std::iter::repeat_with(move || rng.u8(..))
    }
    .take(20_000_000)
    .collect();
    for (cursor, state) in [(7, Bytes::from_static(b"small")), (8, large.clone())] {
        let kept = snapshots.write(place, checkpoint(cursor, state), Throttle::at_once()).await.unwrap();
        assert_eq!(kept.name.cursor, cursor);
    }
    let cursors = async || {
        let kept = snapshots.list(place, 2).await.unwrap();
        kept.into_iter().map(|kept| kept.name.cursor).collect::<Vec<_>>()
    };
    assert_eq!(cursors().await, [8, 7]);
    let newest = snapshots.list(place, 2).await.unwrap()[0];
    assert!(newest.bytes > 20_000_000);
    let items = snapshots.read(place, newest.name, |_, items| Ok(items.next().unwrap()?.value)).await.unwrap();
    assert_eq!(items, large);
    snapshots.prune(place, 2, 1).await.unwrap();
    assert_eq!(cursors().await, [8]);

    let key = bucket.lock().unwrap().objects.keys().next().unwrap().clone();
    assert!(key.starts_with("shop/wallet/0/0000000000000002/"), "{key}");
    assert!(bucket.lock().unwrap().askers.iter().all(|asker| asker.contains("Credential=alice/")));
    let damaged = [&bucket.lock().unwrap().objects[&key][..], b"x"].concat();
    bucket.lock().unwrap().objects.insert(key, damaged.into());
    assert!(snapshots.verify(place, newest.name).await.unwrap_err().to_string().starts_with("it is damaged"));
}

#[test]
fn a_bucket_or_a_container_is_reached_over_tls_as_the_environment_says() {
    for (url, variables, host) in [
        ("s3://bucket/shop", &[("AWS_REGION", "eu-central-1")][..], "bucket"),
        ("az://container/shop", &[("AZURE_STORAGE_ACCOUNT_NAME", "alice")], "alice"),
    ] {
        let store = remote_with(url, with(variables)).unwrap();
        assert!(format!("{store:?}").contains(host), "{store:?}");
    }
    let refusal = remote_with("az://container/shop", with(&[])).map(drop).unwrap_err().to_string();
    assert!(refusal.starts_with("az://container/shop is no place to keep anything: "), "{refusal}");
}
