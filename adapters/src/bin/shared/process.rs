//! What both processes do the same way: log, listen, stop.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    pin::{Pin, pin},
    process::ExitCode,
    sync::{Arc, Once},
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep, timeout},
};

/// Whatever ends a process early.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// L9: everything is over within 30 s of SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(25);

/// Runs a process; what ends it early is told on standard error, and makes it fail, so that whoever runs it starts it anew.
pub async fn run(process: impl Future<Output = Result<(), Error>>) -> ExitCode {
    match process.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// JSON lines on standard error.
pub fn log(filter: &str) {
    let filter =
        tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    std::panic::set_hook(Box::new(tell_panic));
}

/// A panic is a line of the log like any other. The task that it ends may be one call, of which the rest goes on, or one
/// that the process cannot do without: that one ends the process.
fn tell_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let backtrace = std::backtrace::Backtrace::capture();
    let captured = backtrace.status() == std::backtrace::BacktraceStatus::Captured;
    let backtrace = captured.then(|| backtrace.to_string());
    let payload = panic.payload();
    let message = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(|it| &**it));
    tracing::error!(panic = message, place, backtrace, "a part of this process failed; this is a bug");
}

/// Opens the port that LISTEN names.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("LISTEN names {address}, where this process cannot listen: {error}"))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    Ok(listener)
}

/// Resolves on SIGTERM or SIGINT.
pub async fn stopped() {
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "signals cannot be heard; only a kill stops this process");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        biased;
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    // The parts of a process wait for it each.
    static TOLD: Once = Once::new();
    TOLD.call_once(|| tracing::info!("stopping"));
}

/// What clients may take of a process.
struct Limits {
    /// Connections at once; more wait until one ends.
    connections: usize,
    /// What one connection may hold before it is read, in bytes.
    buffer: usize,
    /// How long a client may take to send a request's head, the time since the request before it included.
    head: Duration,
    /// How long a client may take nothing of an answer that waits for it.
    stall: Duration,
}

impl Default for Limits {
    /// At most 128 MiB in all: while a part of a body is being copied, its connection has a second buffer.
    fn default() -> Self {
        Self { connections: 8192, buffer: 8 << 10, head: Duration::from_secs(30), stall: Duration::from_secs(30) }
    }
}

/// Serves until told to stop, and then lets requests under way end.
pub async fn serve_until_stopped(listener: TcpListener, router: Router) -> Result<(), Error> {
    serve(listener, router, Limits::default(), stopped()).await;
    Ok(())
}

async fn serve(listener: TcpListener, router: Router, limits: Limits, stopped: impl Future<Output = ()>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(limits.buffer);
    let (places, open) = (Arc::new(Semaphore::new(limits.connections)), GracefulShutdown::new());
    let mut stopped = pin!(stopped);
    loop {
        let (stream, place) = tokio::select! {
            biased;
            () = &mut stopped => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = open.watch(http.serve_connection(TokioIo::new(Flowing::new(stream, limits.stall)), service));
        tokio::spawn(async move {
            // A connection that breaks off is its client's business.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    if timeout(STOP_LIMIT, open.shutdown()).await.is_err() {
        tracing::warn!("stopping with requests under way");
    }
}

/// A connection that breaks off when its client takes nothing of what is written for too long: what waits for such a client
/// is memory, and a place.
struct Flowing {
    stream: TcpStream,
    limit: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Flowing {
    fn new(stream: TcpStream, limit: Duration) -> Self {
        Self { stream, limit, stuck: None }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = write(Pin::new(&mut self.stream), cx);
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        stuck.as_mut().poll(cx).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Flowing {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Flowing {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, |stream, cx| AsyncWrite::poll_write(stream, cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, |stream, cx| AsyncWrite::poll_write_vectored(stream, cx, parts))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    let place = places.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            // Its client has gone again.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                tracing::error!(%error, "no connection can be taken now; trying again in a second");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

    /// Serves "ok" for as long as the test runs.
    async fn serve_with(limits: Limits) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "ok" }));
        tokio::spawn(serve(listener, router, limits, std::future::pending()));
        address
    }

    async fn answer(client: &mut TcpStream) -> String {
        let mut text = vec![0; 1000];
        let read = client.read(&mut text).await.unwrap();
        String::from_utf8_lossy(&text[..read]).into_owned()
    }

    #[tokio::test]
    async fn a_client_that_sends_no_whole_head_is_let_go() {
        let head = Duration::from_millis(200);
        let address = serve_with(Limits { head, ..Limits::default() }).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        let begun = Instant::now();
        client.write_all(REQUEST).await.unwrap();
        assert!(answer(&mut client).await.ends_with("\r\n\r\nok"));
        client.write_all(&REQUEST[..10]).await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(begun.elapsed() >= head, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait_until_one_ends() {
        let address = serve_with(Limits { connections: 1, ..Limits::default() }).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(REQUEST).await.unwrap();
        assert!(answer(&mut first).await.ends_with("ok"));
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(REQUEST).await.unwrap();
        // The first one is served meanwhile as often as it asks.
        for _ in 0..3 {
            first.write_all(REQUEST).await.unwrap();
            assert!(answer(&mut first).await.ends_with("ok"));
        }
        let mut nothing = [0];
        assert_eq!(second.try_read(&mut nothing).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(first);
        assert!(answer(&mut second).await.ends_with("ok"));
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_a_long_answer_is_let_go() {
        const LONG: usize = 64 << 20;
        let dropped = Arc::new(Semaphore::new(1));
        let held = dropped.clone();
        struct Held(Vec<u8>, #[expect(dead_code, reason = "held for as long as the bytes are")] OwnedSemaphorePermit);
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let long = get(async move || {
            let permit = held.acquire_owned().await.unwrap();
            axum::body::Bytes::from_owner(Held(vec![b'x'; LONG], permit))
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { stall: Duration::from_secs(1), ..Limits::default() };
        tokio::spawn(serve(listener, Router::new().route("/", long), limits, std::future::pending()));
        // One that reads gets all of it.
        let mut reader = TcpStream::connect(address).await.unwrap();
        reader.write_all(REQUEST).await.unwrap();
        let (mut part, mut read) = (vec![0; 1 << 20], 0);
        while read < LONG {
            let more = reader.read(&mut part).await.unwrap();
            assert!(more > 0, "it was let go after {read} bytes");
            read += more;
        }
        drop(reader);
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(REQUEST).await.unwrap();
        let mut first = [0];
        idle.read_exact(&mut first).await.unwrap();
        assert_eq!(dropped.available_permits(), 0, "the answer waits for its client");
        let freed = timeout(Duration::from_secs(30), dropped.acquire()).await;
        assert!(freed.is_ok(), "the answer is still held");
    }

    #[tokio::test]
    async fn whatever_ends_a_process_early_makes_it_fail() {
        assert_eq!(run(std::future::ready(Ok(()))).await, ExitCode::SUCCESS);
        assert_eq!(run(std::future::ready(Err("broken".into()))).await, ExitCode::FAILURE);
    }

    #[test]
    fn a_panic_is_one_line_of_the_log_that_says_what_and_where() {
        let kept = Arc::new(Mutex::new(Vec::new()));
        struct Keep(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Keep {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || Keep(writer.clone())).finish();
        let before = std::panic::take_hook();
        tracing::subscriber::with_default(subscriber, || {
            std::panic::set_hook(Box::new(tell_panic));
            let _ = std::panic::catch_unwind(|| panic!("on {}", "purpose"));
        });
        std::panic::set_hook(before);
        let text = String::from_utf8(kept.lock().unwrap().clone()).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        let fields = &line["fields"];
        assert_eq!((&line["level"], &fields["panic"]), (&"ERROR".into(), &"on purpose".into()), "{text}");
        assert!(fields["place"].as_str().unwrap().contains("process.rs:"), "{text}");
        assert!(fields["message"].as_str().unwrap().contains("this is a bug"), "{text}");
    }
}
