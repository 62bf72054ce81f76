//! What comes of a task that was spawned.
//!
//! A task that is cancelled has not panicked: whoever runs it is ending, or somebody wants it no more.

use std::{future::pending, panic::resume_unwind};

use tokio::task::JoinError;

/// What a task has come to, unless it was cancelled. Goes on with its panic, if that is what it was.
pub fn unless_cancelled<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended.map_err(JoinError::try_into_panic) {
        Ok(outcome) => Some(outcome),
        Err(Ok(panic)) => resume_unwind(panic),
        Err(Err(_cancelled)) => None,
    }
}

/// Waits for a task that only the end of the runtime cancels, with which whoever waits ends as well: so that is waited
/// for.
pub async fn joined<T>(task: impl Future<Output = Result<T, JoinError>>) -> T {
    match unless_cancelled(task.await) {
        Some(outcome) => outcome,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::runtime;

    use super::*;

    #[tokio::test]
    async fn what_was_cancelled_has_come_to_nothing_and_what_panicked_panics_here() {
        assert_eq!(joined(tokio::spawn(async { 7 })).await, 7);
        let cancelled = tokio::spawn(pending::<()>());
        cancelled.abort();
        assert_eq!(unless_cancelled(cancelled.await), None);
        let panicked = tokio::spawn(async { panic!("on purpose") }).await;
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| unless_cancelled::<()>(panicked)));
        assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"on purpose"));
    }

    #[test]
    fn work_that_the_end_of_a_runtime_cancels_panics_nobody_who_waits_for_it() {
        let ended = runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let its = ended.handle().clone();
        ended.shutdown_background();
        let still_here = runtime::Builder::new_current_thread().build().unwrap();
        let cancelled = still_here.block_on(its.spawn_blocking(|| ()));
        assert!(cancelled.unwrap_err().is_cancelled());
        let waiting = joined(its.spawn_blocking(|| ()));
        assert!(still_here.block_on(async { waiting.now_or_never() }).is_none());
    }
}
