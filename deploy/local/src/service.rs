//! A part of the shop that runs as a task until it is told to stop.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinHandle},
    time::timeout,
};

/// Resolves when the part is to finish what it has begun and return.
pub(crate) type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;
/// How a part ended.
pub(crate) type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// Why a part of the shop does not run any more.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It ended though nobody asked it to.
    #[error("{name} ended: {reason}")]
    Ended {
        /// Which part.
        name: String,
        /// What it said.
        reason: String,
    },
    /// It was asked to end, and could not finish what it had begun.
    #[error("{name} could not finish what it had begun: {reason}")]
    Unfinished {
        /// Which part.
        name: String,
        /// What it said.
        reason: String,
    },
    /// There is no thread for it.
    #[error("cannot start {name}: {source}")]
    NoThread {
        /// Which part.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// It was asked to end and had to be cut off.
    #[error("{name} did not stop within {limit:?} and was cut off")]
    CutOff {
        /// Which part.
        name: String,
        /// How long it had.
        limit: Duration,
    },
}

/// A running part. Dropping it cuts it off.
#[derive(Debug)]
pub(crate) struct Service {
    name: String,
    stop: oneshot::Sender<()>,
    stopping: Arc<AtomicBool>,
    work: CutOff,
    outcome: JoinHandle<Result<(), String>>,
}

/// Ends a task when it is dropped.
#[derive(Debug)]
struct CutOff(AbortHandle);

impl Drop for CutOff {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Service {
    /// Runs `work` as a task of its own. Should it end unasked, `failures` hears of it.
    pub(crate) fn spawn<F>(name: String, failures: mpsc::Sender<ServiceError>, work: impl FnOnce(Shutdown) -> F) -> Self
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        Self::new(name, failures, work, |work| tokio::spawn(work))
    }

    /// The same, with all tasks that `work` spawns on one thread of its own: what hands messages on
    /// from task to task all the time is faster where no other processor has to be woken for it, and
    /// does not queue behind the tasks of other parts.
    pub(crate) fn spawn_on_thread<F>(
        name: String,
        failures: mpsc::Sender<ServiceError>,
        work: impl FnOnce(Shutdown) -> F,
    ) -> Result<Self, ServiceError>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let no_thread = |source| ServiceError::NoThread { name: name.clone(), source };
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(no_thread)?;
        let tasks = runtime.handle().clone();
        let (ended, end) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name(name.clone());
        thread.spawn(move || runtime.block_on(async { drop(end.await) })).map_err(no_thread)?;
        Ok(Self::new(name, failures, work, |work| {
            tasks.spawn(async move {
                // Dropped with the task, however that ends.
                let _ended = ended;
                work.await
            })
        }))
    }

    fn new<F>(
        name: String,
        failures: mpsc::Sender<ServiceError>,
        work: impl FnOnce(Shutdown) -> F,
        spawn: impl FnOnce(F) -> JoinHandle<Outcome>,
    ) -> Self {
        let (stop, stopped) = oneshot::channel();
        // A stop is a dropped sender, so that nothing can be sent too late.
        let work = spawn(work(Box::pin(async move { drop(stopped.await) })));
        let cut_off = CutOff(work.abort_handle());
        let stopping = Arc::new(AtomicBool::new(false));
        let outcome = tokio::spawn(watch(name.clone(), work, Arc::clone(&stopping), failures));
        Self { name, stop, stopping, work: cut_off, outcome }
    }

    /// Asks it to finish, and waits for that at most `limit`.
    pub(crate) async fn stop(self, limit: Duration) -> Result<(), ServiceError> {
        let Self { name, stop, stopping, work, outcome } = self;
        stopping.store(true, Ordering::Release);
        drop(stop);
        match timeout(limit, outcome).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(reason))) => Err(ServiceError::Unfinished { name, reason }),
            Ok(Err(error)) => Err(ServiceError::Unfinished { name, reason: error.to_string() }),
            Err(_) => {
                drop(work);
                Err(ServiceError::CutOff { name, limit })
            }
        }
    }
}

async fn watch(
    name: String,
    work: JoinHandle<Outcome>,
    stopping: Arc<AtomicBool>,
    failures: mpsc::Sender<ServiceError>,
) -> Result<(), String> {
    let outcome = match work.await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if !stopping.load(Ordering::Acquire) {
        let reason = outcome.clone().err().unwrap_or_else(|| "it returned though nobody asked it to".to_owned());
        // Full or closed: somebody knows already that the shop is broken.
        drop(failures.try_send(ServiceError::Ended { name, reason }));
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_part_that_is_asked_to_stop_finishes_its_work() {
        let (failures, mut failed) = mpsc::channel(1);
        let (done, finished) = oneshot::channel();
        let service = Service::spawn("the till".to_owned(), failures, |shutdown| async move {
            shutdown.await;
            done.send(()).map_err(|()| "nobody listens".into())
        });
        service.stop(LIMIT).await.unwrap();
        finished.await.unwrap();
        assert!(failed.recv().await.is_none(), "an end that was asked for is no failure");
    }

    #[tokio::test]
    async fn all_of_a_part_with_a_thread_of_its_own_runs_on_that_thread() {
        let (failures, _failed) = mpsc::channel(1);
        let (say, heard) = oneshot::channel();
        let service = Service::spawn_on_thread("the till".to_owned(), failures, |shutdown| async move {
            let name = || std::thread::current().name().map(str::to_owned);
            let spawned = tokio::spawn(async move { name() }).await?;
            say.send((name(), spawned)).map_err(|_| "nobody listens")?;
            shutdown.await;
            Ok(())
        });
        let till = Some("the till".to_owned());
        assert_eq!(heard.await.unwrap(), (till.clone(), till));
        service.unwrap().stop(LIMIT).await.unwrap();
    }

    #[tokio::test]
    async fn a_part_that_ends_or_panics_unasked_is_reported() {
        for (panics, expected) in [(false, "the till ended: out of paper"), (true, "the till ended: task")] {
            let (failures, mut failed) = mpsc::channel(1);
            let _service = Service::spawn("the till".to_owned(), failures, |_| async move {
                assert!(!panics);
                Err("out of paper".into())
            });
            let failure = failed.recv().await.unwrap().to_string();
            assert!(failure.starts_with(expected), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_part_that_does_not_stop_is_cut_off() {
        let (failures, _failed) = mpsc::channel(1);
        let service = Service::spawn("the till".to_owned(), failures, |_| std::future::pending());
        let error = service.stop(Duration::ZERO).await.unwrap_err().to_string();
        assert_eq!(error, "the till did not stop within 0ns and was cut off");
    }
}
