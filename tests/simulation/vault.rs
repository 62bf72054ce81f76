//! Where the hosts of a run keep their snapshots: an object store in memory, which may refuse one, lose one
//! or keep one badly.
//!
//! Snapshots are written and read on threads of their own, and what these do in which order with
//! everything else is not up to the seed. So whoever begins with an object has to ask first, and is let
//! in when nobody else has anything left to do at that moment; time does not go on before the threads
//! are done.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, memory::InMemory, path::Path,
};
use shop_actors::snapshot::{Name, Snapshots};
use shop_nats::log::{Identity, PartitionId};
use tokio::sync::oneshot;

use crate::{chaos::Harm, life::Life, sim::Event, trace::Fault};

/// All objects of a run.
#[derive(Debug, Default)]
pub(crate) struct Vault {
    objects: InMemory,
    /// Snapshots that are damaged or gone, by partition: up to where they went.
    spoiled: Mutex<BTreeMap<PartitionId, BTreeSet<u64>>>,
}

/// What becomes of the newest snapshot of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// One of its bytes is another one.
    Flip,
    /// It ends too early.
    Truncate,
    /// It is gone.
    Lose,
}

impl Vault {
    /// Waits until nobody has anything left to do at that moment.
    pub(crate) async fn enter(life: &Arc<Life>) {
        Door::enter(Arc::clone(life)).await;
    }

    /// The snapshots as somebody sees them who lives that life.
    pub(crate) fn snapshots(life: &Arc<Life>) -> Snapshots {
        Snapshots::over(Arc::new(Door { life: Arc::clone(life) }), "the vault")
    }

    /// Spoils the newest snapshot of a partition of a log, if another one that is whole goes up to the beginning of that at
    /// least; at the byte that `chance` draws of so many.
    pub(crate) fn spoil(
        &self,
        place: PartitionId,
        Identity { epoch, first_sequence: first, .. }: Identity,
        how: Spoil,
        chance: impl FnOnce(usize) -> usize,
    ) -> bool {
        let prefix = Path::from(format!("{}/{}/{epoch:016x}", place.0, place.1));
        let listed = self.objects.list(Some(&prefix)).try_collect::<Vec<_>>().now_or_never();
        let listed = listed.and_then(Result::ok).expect("memory answers at once");
        let mut paths: Vec<_> = listed.into_iter().map(|object| object.location).collect();
        paths.sort();
        let up_to = |path: &Path| path.filename()?.split_once('-')?.0.parse::<u64>().ok();
        let mut spoiled = self.spoiled();
        let spoiled = spoiled.entry(place).or_default();
        let whole = |path: &&Path| up_to(path).is_some_and(|up_to| up_to >= first && !spoiled.contains(&up_to));
        let Some((newest, others)) = paths.split_last() else { return false };
        if others.iter().find(whole).is_none() || !whole(&newest) {
            return false;
        }
        let bytes = async { self.objects.get(newest).await?.bytes().await }.now_or_never();
        let mut bytes = bytes.and_then(Result::ok).expect("memory answers at once").to_vec();
        let at = chance(bytes.len());
        match how {
            Spoil::Flip => bytes[at] ^= 1 << (at % 8),
            Spoil::Truncate => bytes.truncate(at),
            Spoil::Lose => {}
        }
        let done = match how {
            Spoil::Flip | Spoil::Truncate => {
                async { self.objects.put(newest, bytes.into()).await.map(drop) }.now_or_never()
            }
            Spoil::Lose => self.objects.delete(newest).now_or_never(),
        };
        done.and_then(Result::ok).expect("memory answers at once");
        spoiled.extend(up_to(newest));
        true
    }

    /// Whether there is or was a newer snapshot than this one that is spoiled.
    pub(crate) fn is_newer_spoiled(&self, place: PartitionId, restored: Name) -> bool {
        self.spoiled().get(&place).is_some_and(|spoiled| spoiled.iter().any(|up_to| *up_to > restored.complete_to))
    }

    fn spoiled(&self) -> MutexGuard<'_, BTreeMap<PartitionId, BTreeSet<u64>>> {
        self.spoiled.lock().expect("nobody panics while spoiling")
    }
}

/// The vault as one host sees it, as long as it lives.
#[derive(Debug)]
struct Door {
    life: Arc<Life>,
}

impl Door {
    fn objects(&self) -> &InMemory {
        &self.life.world().vault.objects
    }

    /// Waits to be let in. Whoever is dead waits for ever.
    async fn enter(life: Arc<Life>) {
        let (let_in, entered) = oneshot::channel();
        life.thawed().await;
        let _the_run_is_over = life.world().events.send(Event::Asks(let_in));
        if entered.await.is_err() || life.kept().is_some() {
            pending::<()>().await;
        }
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the vault")
    }
}

#[async_trait]
impl ObjectStore for Door {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        Self::enter(Arc::clone(&self.life)).await;
        self.objects().put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Self::enter(Arc::clone(&self.life)).await;
        let parts = self.objects().put_multipart_opts(location, options).await?;
        Ok(Box::new(Upload { life: Arc::clone(&self.life), parts }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        Self::enter(Arc::clone(&self.life)).await;
        self.objects().get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (life, entering) = (Arc::clone(&self.life), Self::enter(Arc::clone(&self.life)));
        let deleted = entering.map(move |()| life.world().vault.objects.delete_stream(locations));
        deleted.into_stream().flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (life, entering, prefix) = (Arc::clone(&self.life), Self::enter(Arc::clone(&self.life)), prefix.cloned());
        let listed = entering.map(move |()| life.world().vault.objects.list(prefix.as_ref()));
        listed.into_stream().flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        Self::enter(Arc::clone(&self.life)).await;
        self.objects().list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        Self::enter(Arc::clone(&self.life)).await;
        self.objects().copy_opts(from, to, options).await
    }
}

/// A snapshot on its way into the vault.
#[derive(Debug)]
struct Upload {
    life: Arc<Life>,
    parts: Box<dyn MultipartUpload>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let harm = self.life.at_snapshot();
        match harm {
            Some(Harm::CrashBefore(keep)) => self.life.end(keep),
            Some(Harm::Refused) => {
                return Err(Error::Generic { store: "the vault", source: "it takes nothing".into() });
            }
            Some(_) | None => {}
        }
        if self.life.kept().is_some() {
            pending::<()>().await;
        }
        let completed = self.parts.complete().await;
        self.life.count(Fault::SnapshotWritten);
        if let Some(Harm::CrashAfter(keep)) = harm {
            self.life.end(keep);
        }
        completed
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.abort().await
    }
}
