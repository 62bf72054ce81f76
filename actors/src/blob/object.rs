//! Objects of any size in an object store, made and read piece by piece on threads for blocking work.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use futures::StreamExt;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, WriteMultipart, path::Path};
use tokio::sync::mpsc;

use crate::joined::joined;

/// So many bytes are handed to the object store at a time: above the 5 MiB that S3 asks for at least.
const UPLOAD_BYTES: usize = 8 * 1024 * 1024;
/// How many of those may be on their way at a time.
const UPLOADS: usize = 2;
/// Pieces that wait between the thread that makes or reads them and the object store.
const PIECES_WAITING: usize = 4;

/// Why an object is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// The object store did not do it.
    #[error("{0}")]
    Store(String),
    /// There is none.
    #[error("{0}")]
    Gone(String),
    /// It is not as it was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

impl ObjectError {
    /// It is not as it was written, because of this.
    pub fn damaged(how: impl Into<String>) -> Self {
        Self::Damaged(how.into())
    }
}

impl From<object_store::Error> for ObjectError {
    fn from(error: object_store::Error) -> Self {
        let reason = error.to_string();
        if matches!(error, object_store::Error::NotFound { .. }) { Self::Gone(reason) } else { Self::Store(reason) }
    }
}

impl From<io::Error> for ObjectError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// Where the pieces of an object go that is made.
pub type Take<'a> = &'a mut dyn FnMut(Bytes) -> Result<(), ObjectError>;

/// Writes an object: as a whole, or not at all. What `make` returns is returned.
pub async fn write<T, E>(
    store: &dyn ObjectStore,
    path: &Path,
    make: impl FnOnce(Take<'_>) -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<ObjectError> + Send + 'static,
{
    // Before anything is made that could wait for it.
    let upload = store.put_multipart(path).await.map_err(ObjectError::from)?;
    send(upload, path, make).await
}

/// Makes an object and sends it, or takes back what was sent of it.
async fn send<T, E>(
    upload: Box<dyn MultipartUpload>,
    path: &Path,
    make: impl FnOnce(Take<'_>) -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<ObjectError> + Send + 'static,
{
    let mut upload = WriteMultipart::new_with_chunk_size(upload, UPLOAD_BYTES);
    let (pieces, mut made) = mpsc::channel(PIECES_WAITING);
    let making = tokio::task::spawn_blocking(move || {
        make(&mut |piece| {
            let gone = |_| ObjectError::Store("nobody takes what is written".to_owned());
            pieces.blocking_send(piece).map_err(gone)
        })
    });
    let sent = async {
        while let Some(piece) = made.recv().await {
            upload.wait_for_capacity(UPLOADS).await?;
            upload.put(piece);
        }
        Ok(())
    };
    let sent: object_store::Result<()> = sent.await;
    // Whoever makes more than is taken ends.
    drop(made);
    let error = match (sent, joined(making).await) {
        (Ok(()), Ok(outcome)) => {
            upload.finish().await.map_err(ObjectError::from)?;
            return Ok(outcome);
        }
        (Ok(()), Err(error)) => error,
        (Err(error), _) => ObjectError::from(error).into(),
    };
    if let Err(left) = upload.abort().await {
        tracing::warn!("what was sent of {path} may still be there: {left}");
    }
    Err(error)
}

/// An object, to be read on a thread for blocking work.
#[derive(Debug)]
pub struct Received {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

/// Begins to read an object.
pub async fn open(store: &dyn ObjectStore, path: &Path) -> Result<Received, ObjectError> {
    let mut stored = store.get(path).await?.into_stream();
    let (taken, pieces) = mpsc::channel(PIECES_WAITING);
    tokio::spawn(async move {
        while let Some(piece) = stored.next().await {
            // Whoever has read enough takes no more.
            if taken.send(piece.map_err(io::Error::other)).await.is_err() {
                break;
            }
        }
    });
    Ok(Received { pieces, piece: Bytes::new() })
}

impl Read for Received {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let length = into.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut into[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    };

    use futures::future::{BoxFuture, FutureExt};
    use object_store::{PutPayload, PutResult, UploadPart};

    use super::*;

    /// It takes nothing, and what was sent cannot be taken back either.
    #[derive(Debug, Default)]
    struct Refusing {
        is_aborted: Arc<AtomicBool>,
    }

    type Make = fn(Take<'_>) -> Result<(), ObjectError>;

    fn refused<T>(what: &'static str) -> object_store::Result<T> {
        Err(object_store::Error::Generic { store: "a test", source: what.into() })
    }

    impl MultipartUpload for Refusing {
        fn put_part(&mut self, _: PutPayload) -> UploadPart {
            std::future::ready(refused("there is no room")).boxed()
        }

        fn complete<'a: 'b, 'b>(&'a mut self) -> BoxFuture<'b, object_store::Result<PutResult>> {
            std::future::ready(refused("there is nothing")).boxed()
        }

        fn abort<'a: 'b, 'b>(&'a mut self) -> BoxFuture<'b, object_store::Result<()>> {
            self.is_aborted.store(true, Relaxed);
            std::future::ready(refused("nobody answers")).boxed()
        }
    }

    #[tokio::test]
    async fn an_object_that_cannot_be_sent_is_taken_back_and_the_first_error_is_said() {
        let is_too_much = |take: Take<'_>| (0..).try_for_each(|_: u32| take(vec![0; UPLOAD_BYTES].into()));
        let is_broken = |take: Take<'_>| {
            take("a piece".into())?;
            Err(ObjectError::damaged("so"))
        };
        let both: [(Make, _); 2] = [(is_too_much, "there is no room"), (is_broken, "it is damaged: so")];
        for (make, expected) in both {
            let upload = Refusing::default();
            let is_aborted = Arc::clone(&upload.is_aborted);
            let error = send(Box::new(upload), &Path::from("it"), make).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert!(is_aborted.load(Relaxed), "after: {error}");
        }
    }
}
