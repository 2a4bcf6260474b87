//! What both processes do the same way: log, listen, stop.

use std::{future::IntoFuture, net::SocketAddr, process::ExitCode, time::Duration};

use axum::Router;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

/// Whatever ends a process early.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// L9: everything is over within 30 s of SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(25);

/// Runs a process; what ends it early is told on standard error.
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
pub fn log(level: &str) {
    let filter =
        tracing_subscriber::EnvFilter::try_new(level).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
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
    tracing::info!("stopping");
}

/// Serves until told to stop, and then lets requests under way end.
pub async fn serve_until_stopped(listener: TcpListener, router: Router) -> Result<(), Error> {
    let (told, mut stopping) = tokio::sync::watch::channel(false);
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        stopped().await;
        told.send_replace(true);
    });
    let mut server = tokio::spawn(server.into_future());
    tokio::select! {
        biased;
        ended = &mut server => return Ok(ended??),
        _ = stopping.wait_for(|stop| *stop) => {}
    }
    if timeout(STOP_LIMIT, &mut server).await.is_err() {
        tracing::warn!("stopping with requests under way");
    }
    Ok(())
}
