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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

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
