//! A connection that is made anew when it has ended for good.
//!
//! The client reconnects by itself when a connection is lost. But it panics over what it cannot read (see
//! [`Connection::ended`]), and every client that may publish can have it read that.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

use crate::connection::Connection;

/// Pause before it is connected anew: whatever it was may come again at once.
const PAUSE: Duration = Duration::from_millis(250);

/// What there is of a connection now, `T`.
#[derive(Clone, Debug)]
pub(crate) struct Lasting<T> {
    current: watch::Receiver<T>,
}

impl<T: Clone + Send + Sync + 'static> Lasting<T> {
    /// Over this connection, and over another one like it whenever that has ended. Ends with the last copy.
    pub(crate) fn over(connection: Connection, make: impl Fn(&Connection) -> T + Send + Sync + 'static) -> Self {
        let (current, of_it) = watch::channel(make(&connection));
        tokio::spawn(keep(connection, current, make));
        Self { current: of_it }
    }

    /// What there is now.
    pub(crate) fn now(&self) -> T {
        self.current.borrow().clone()
    }

    /// Waits until there is something else than at the last call, of this copy; for ever once it was closed.
    pub(crate) async fn changed(&mut self) {
        if self.current.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

async fn keep<T>(mut connection: Connection, current: watch::Sender<T>, make: impl Fn(&Connection) -> T) {
    loop {
        tokio::select! {
            () = connection.ended() => {}
            () = current.closed() => return,
        }
        if connection.is_closed() {
            return;
        }
        tracing::error!("a connection to NATS has ended for good; connecting anew");
        connection = loop {
            sleep(PAUSE).await;
            if current.is_closed() {
                return;
            }
            match connection.again().await {
                Ok(connection) => break connection,
                Err(error) => tracing::warn!("{error}; trying again"),
            }
        };
        current.send_replace(make(&connection));
    }
}
