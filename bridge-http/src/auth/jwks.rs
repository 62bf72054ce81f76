//! The keys of the issuer, kept fresh: read anew every hour (from a file, every minute), and when a token names one that
//! is not known, which is how an issuer's new key is noticed. Then only one request asks at a time, the others wait for
//! what it hears, and it asks at most once in 30 s, so that invented names cost the issuer nothing.
//!
//! While the source is away, or says what cannot be read, the keys that are known stay.

use std::{
    fmt,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use jsonwebtoken::Algorithm;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::key_set::KeySet;

/// How often a token with an unknown key may have the source asked.
const ASK_INTERVAL: Duration = Duration::from_secs(30);
/// How often it is asked anyway, if it is far.
pub(crate) const FAR_INTERVAL: Duration = Duration::from_secs(3_600);
/// And if it is a file, or did not answer.
pub(crate) const NEAR_INTERVAL: Duration = Duration::from_secs(60);

/// Reads what the source says now; an error is for the log.
pub(crate) type Source = Box<dyn Fn() -> BoxFuture<'static, Result<Bytes, String>> + Send + Sync>;

/// The keys of the issuer.
pub(crate) struct Jwks {
    /// What it is called in the log.
    name: String,
    source: Source,
    interval: Duration,
    allowed: Vec<Algorithm>,
    current: RwLock<Arc<KeySet>>,
    /// When a token last had the source asked.
    asked: Mutex<Option<Instant>>,
    /// What the source said last that could be read, and when.
    read: Mutex<Bytes>,
    read_at: RwLock<Option<Instant>>,
    failures: AtomicU64,
}

impl Jwks {
    pub(crate) fn new(name: String, source: Source, interval: Duration, allowed: Vec<Algorithm>) -> Self {
        Self {
            name,
            source,
            interval,
            allowed,
            current: RwLock::default(),
            asked: Mutex::default(),
            read: Mutex::default(),
            read_at: RwLock::default(),
            failures: AtomicU64::new(0),
        }
    }

    pub(crate) fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.read().expect("nobody panics with the lock"))
    }

    /// For how long they are as they are known, if they ever were.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.read_at.read().expect("nobody panics with the lock").map(|at| at.elapsed())
    }

    /// How often the source brought nothing.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// The keys, asked for anew because those of that generation lack one, unless that was done just now.
    pub(crate) async fn refreshed(&self, generation: u64) -> Arc<KeySet> {
        let mut asked = self.asked.lock().await;
        let is_new = self.current().generation != generation;
        if !is_new && asked.is_none_or(|at| at.elapsed() >= ASK_INTERVAL) {
            *asked = Some(Instant::now());
            self.load().await;
        }
        self.current()
    }

    /// Reads them anew again and again, for as long as it is polled.
    pub(crate) async fn keep_fresh(&self) {
        loop {
            let is_known = self.age().is_some_and(|age| age < self.interval);
            sleep(if is_known { self.interval } else { NEAR_INTERVAL }).await;
            self.load().await;
        }
    }

    /// Reads them; what cannot be had changes nothing. Whether it could.
    pub(crate) async fn load(&self) -> bool {
        let mut read = self.read.lock().await;
        let outcome = (self.source)().await;
        let outcome = outcome.and_then(|bytes| match KeySet::read(&bytes, &self.allowed) {
            Ok(keys) => Ok((bytes, keys)),
            Err(error) => Err(error.to_string()),
        });
        match outcome {
            Ok((bytes, keys)) => {
                *self.read_at.write().expect("nobody panics with the lock") = Some(Instant::now());
                if *read != bytes {
                    *read = bytes;
                    self.take(keys);
                }
                true
            }
            Err(error) => {
                self.failures.fetch_add(1, Relaxed);
                let kept =
                    if self.current().is_empty() { "there are none yet" } else { "the ones that are known stay" };
                tracing::warn!("cannot read the issuer's keys from {}: {error}; {kept}", self.name);
                false
            }
        }
    }

    fn take(&self, keys: KeySet) {
        let mut current = self.current.write().expect("nobody panics with the lock");
        tracing::info!("{} keys of the issuer are taken from {}", keys.count(), self.name);
        *current = Arc::new(keys.of_generation(current.generation + 1));
    }
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwks").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use futures::{FutureExt, future};

    use super::*;

    /// A source that counts, says what it is told to, and takes a second for it.
    fn source(says: &Arc<StdMutex<Result<String, String>>>, asked: &Arc<AtomicU64>) -> Source {
        let (says, asked) = (Arc::clone(says), Arc::clone(asked));
        Box::new(move || {
            let (says, asked) = (Arc::clone(&says), Arc::clone(&asked));
            async move {
                asked.fetch_add(1, Relaxed);
                sleep(Duration::from_secs(1)).await;
                says.lock().unwrap().clone().map(Bytes::from)
            }
            .boxed()
        })
    }

    fn set(name: &str) -> Result<String, String> {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        Ok(format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","kid":"{name}","x":"{x}"}}]}}"#))
    }

    /// What the source says next: keys, or why there are none.
    type Says = Arc<StdMutex<Result<String, String>>>;

    fn jwks(interval: Duration) -> (Arc<Jwks>, Says, Arc<AtomicU64>) {
        let (says, asked) = (Arc::new(StdMutex::new(set("a"))), Arc::default());
        let source = source(&says, &asked);
        (Arc::new(Jwks::new("test".to_owned(), source, interval, vec![Algorithm::EdDSA])), says, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_need_a_key_that_is_not_known_ask_once_and_not_again_within_thirty_seconds() {
        let (jwks, says, asked) = jwks(FAR_INTERVAL);
        assert!(jwks.load().await);
        *says.lock().unwrap() = set("b");
        let all = future::join_all((0..100).map(|_| jwks.refreshed(1))).await;
        assert!(all.iter().all(|keys| keys.generation == 2));
        assert_eq!(asked.load(Relaxed), 2);
        for (after, expected) in [(0, 2), (28, 2), (1, 3), (28, 3), (1, 4)] {
            sleep(Duration::from_secs(after)).await;
            let generation = jwks.refreshed(2).await.generation;
            assert_eq!((asked.load(Relaxed), generation), (expected, 2), "{after} s later");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_goes_away_takes_no_key_with_it_and_is_asked_every_minute_until_it_is_back() {
        let (jwks, says, asked) = jwks(FAR_INTERVAL);
        assert!(jwks.load().await);
        *says.lock().unwrap() = Err("gone".to_owned());
        let fresh = tokio::spawn({
            let jwks = Arc::clone(&jwks);
            async move { jwks.keep_fresh().await }
        });
        sleep(FAR_INTERVAL + Duration::from_secs(2)).await;
        assert_eq!((asked.load(Relaxed), jwks.failures(), jwks.current().generation), (2, 1, 1));
        // What is no set of keys, or one without any that can be used, is as good as nothing.
        *says.lock().unwrap() = Ok(r#"{"keys":[]}"#.to_owned());
        sleep(NEAR_INTERVAL + Duration::from_secs(1)).await;
        assert_eq!((asked.load(Relaxed), jwks.failures(), jwks.current().count()), (3, 2, 1));
        *says.lock().unwrap() = set("b");
        sleep(NEAR_INTERVAL + Duration::from_secs(1)).await;
        assert_eq!((asked.load(Relaxed), jwks.current().generation), (4, 2));
        assert!(jwks.age().unwrap() < Duration::from_secs(2));
        sleep(NEAR_INTERVAL * 2).await;
        assert_eq!(asked.load(Relaxed), 4, "what is known is not asked for before an hour is over");
        fresh.abort();
    }
}
