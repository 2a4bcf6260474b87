//! TLS for the model cluster, with a certificate made anew for every world.

use std::{io, net::SocketAddr, sync::Arc};

use axum::serve::Listener;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// Connections that may wait to be served.
const WAITING: usize = 256;

/// A listener that speaks TLS.
pub struct TlsListener {
    addr: SocketAddr,
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    accepting: JoinHandle<()>,
}

impl TlsListener {
    /// Speaks TLS on `listener`; with it, the PEM certificate that clients must trust.
    pub fn new(listener: TcpListener) -> Result<(Self, String), Box<dyn std::error::Error + Send + Sync>> {
        let addr = listener.local_addr()?;
        let made = rcgen::generate_simple_self_signed(vec![addr.ip().to_string(), "localhost".to_owned()])?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)?;
        let (connected, ready) = mpsc::channel(WAITING);
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(Arc::new(config)), connected));
        Ok((Self { addr, ready, accepting }, made.cert.pem()))
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Shakes hands beside each other: a client that is slow to keeps nobody waiting.
async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connected: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let (acceptor, connected) = (acceptor.clone(), connected.clone());
        tokio::spawn(async move {
            // Who does not speak TLS, or does not trust the certificate, has gone away by itself.
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = connected.send((stream, peer)).await;
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.addr)
    }
}
