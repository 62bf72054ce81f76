//! A place on loopback where an issuer's keys are.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_util::task::AbortOnDropHandle;

/// Where an issuer's keys are: says what it is told to, and counts who asks.
pub(super) struct Place {
    pub(super) url: String,
    says: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Place {
    /// With this answer.
    pub(super) async fn open(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        let (says, asked) = (Arc::new(Mutex::new(answer)), Arc::<AtomicUsize>::default());
        let (answers, counts) = (Arc::clone(&says), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 4_096];
                let read = socket.read(&mut request).await.unwrap_or_default();
                assert!(request[..read].starts_with(b"GET /keys HTTP/1.1\r\n"));
                counts.fetch_add(1, Relaxed);
                let answer = answers.lock().unwrap().clone();
                let _told = socket.write_all(answer.as_bytes()).await;
            }
        });
        Self { url: format!("http://{address}/keys"), says, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    /// From now on it answers so.
    pub(super) fn say(&self, answer: String) {
        *self.says.lock().unwrap() = answer;
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Relaxed)
    }
}

/// An answer of HTTP with that body.
pub(super) fn found(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}
