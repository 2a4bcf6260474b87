//! HTTP over the simulated network, in both directions.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{body::Incoming, client::conn::http1, server};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use super::world::{Node, World};
use crate::credentials::{Error, TOKEN};

/// Names the caller to the models, which judge what each process does.
pub const CALLER: &str = "x-sim-node";
/// How long connecting to a node that cannot be reached takes.
const UNREACHABLE: Duration = Duration::from_secs(10);

/// A stream that flushes only what was written. The simulated one sends an empty message at each flush, which wakes its
/// peer, which flushes: two idle ends of a connection would keep each other busy for ever.
struct Quiet {
    stream: TcpStream,
    written: bool,
}

impl Quiet {
    fn new(stream: TcpStream) -> TokioIo<Self> {
        TokioIo::new(Self { stream, written: false })
    }
}

impl AsyncRead for Quiet {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.written, false) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves a router until `stop` turns true; then no connection is taken any more.
pub async fn serve(node: Node, router: axum::Router, mut stop: watch::Receiver<bool>) {
    let listener = TcpListener::bind(node.addr()).await.expect("every node binds its own address");
    loop {
        tokio::select! {
            biased;
            () = told(&mut stop) => return,
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                let service = TowerToHyperService::new(router.clone());
                tokio::spawn(async move {
                    // A broken connection is its caller's business.
                    let _ = server::conn::http1::Builder::new().serve_connection(Quiet::new(stream), service).await;
                });
            }
        }
    }
}

/// Resolves when it turns true; never, if nobody can turn it any more.
pub async fn told(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Dials one node for each request, as another.
#[derive(Clone)]
pub struct Dial {
    pub world: Arc<World>,
    pub from: Node,
    pub to: Node,
}

impl Dial {
    async fn connect<B>(&self) -> Result<http1::SendRequest<B>, Error>
    where
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Error>,
    {
        let stream = match TcpStream::connect(self.to.addr()).await {
            Ok(stream) => stream,
            Err(error) => {
                if self.world.is_cut(self.from, self.to) {
                    sleep(UNREACHABLE).await;
                }
                return Err(error.into());
            }
        };
        let (sender, connection) = http1::handshake(Quiet::new(stream)).await?;
        tokio::spawn(async move {
            // Its end shows in the request's answer.
            let _ = connection.await;
        });
        Ok(sender)
    }

    /// One request, one answer.
    pub async fn send<B>(&self, mut request: http::Request<B>) -> Result<http::Response<Incoming>, Error>
    where
        B: http_body::Body + Send + Unpin + 'static,
        B::Data: Send,
        B::Error: Into<Error>,
    {
        let mut sender = self.connect().await?;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        *request.uri_mut() = path.parse()?;
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("sim"));
        if self.to == Node::Cluster {
            let token = http::HeaderValue::from_str(&format!("Bearer {TOKEN}"))?;
            request.headers_mut().insert(http::header::AUTHORIZATION, token);
        }
        request.headers_mut().insert(CALLER, http::HeaderValue::from_str(&self.from.to_string())?);
        Ok(sender.send_request(request).await?)
    }
}

impl<B> tower::Service<http::Request<B>> for Dial
where
    B: http_body::Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Error>,
{
    type Response = http::Response<Incoming>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let dial = self.clone();
        Box::pin(async move { dial.send(request).await })
    }
}
