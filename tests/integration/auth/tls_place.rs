//! A place on loopback that says one thing, over TLS.

use std::{fs, path::PathBuf, sync::Arc};

use rcgen::generate_simple_self_signed;
use shop_bridge_http::auth::JwksUrl;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring::default_provider,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tokio_util::task::AbortOnDropHandle;

pub(super) struct TlsPlace {
    folder: TempDir,
    port: u16,
    _serving: AbortOnDropHandle<()>,
}

impl TlsPlace {
    pub(super) async fn open(answer: String) -> Self {
        let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.crt"), made.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let config = config.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                // Who does not trust it goes away.
                let Ok(mut socket) = acceptor.accept(socket).await else { continue };
                let _read = socket.read(&mut [0; 4_096]).await;
                let _told = socket.write_all(answer.as_bytes()).await;
                let _closed = socket.shutdown().await;
            }
        });
        Self { folder, port, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(super) fn url(&self) -> JwksUrl {
        format!("https://localhost:{}/keys", self.port).parse().unwrap()
    }

    /// The certificate that vouches for it.
    pub(super) fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }
}
