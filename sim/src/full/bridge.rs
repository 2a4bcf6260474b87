//! kube's buffers and kube-runtime's timers want a real tokio runtime. One current-thread runtime with a paused clock is
//! entered while their futures are polled, and its clock follows simulated time; it never blocks and reads no real time.

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use futures::{
    Stream, StreamExt,
    future::{BoxFuture, FutureExt},
    stream::BoxStream,
};
use tokio_real::runtime::{Builder, Runtime};

struct Bridge {
    runtime: Runtime,
    at: Cell<Instant>,
}

thread_local! {
    static BRIDGE: Rc<Bridge> = Rc::new(Bridge {
        runtime: Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O needs nothing of the system"),
        at: Cell::new(Instant::now()),
    });
}

/// Runs `f` inside the real runtime, for constructors that spawn.
pub fn enter<R>(f: impl FnOnce() -> R) -> R {
    BRIDGE.with(|bridge| {
        let _entered = bridge.runtime.enter();
        f()
    })
}

/// Moves the real runtime's clock up to simulated time, and lets its tasks run.
pub fn pump() {
    BRIDGE.with(|bridge| {
        // Simulated time: the simulator answers for the system's clock.
        let now = Instant::now();
        let passed = now.saturating_duration_since(bridge.at.replace(now));
        bridge.runtime.block_on(async {
            if !passed.is_zero() {
                tokio_real::time::advance(passed).await;
            }
            tokio_real::task::yield_now().await;
        });
    });
}

/// A future whose insides may use the real runtime.
struct Bridged<'a, T>(BoxFuture<'a, T>);

impl<T> Future for Bridged<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let Poll::Ready(out) = enter(|| self.0.poll_unpin(cx)) {
            return Poll::Ready(out);
        }
        pump();
        enter(|| self.0.poll_unpin(cx))
    }
}

/// A stream whose insides may use the real runtime.
struct BridgedStream<T>(BoxStream<'static, T>);

impl<T> Stream for BridgedStream<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if let Poll::Ready(out) = enter(|| self.0.poll_next_unpin(cx)) {
            return Poll::Ready(out);
        }
        pump();
        enter(|| self.0.poll_next_unpin(cx))
    }
}

/// Lets a future use the real runtime.
pub fn future<'a, T: 'a>(inner: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
    Box::pin(Bridged(inner))
}

/// Lets a stream use the real runtime.
pub fn stream<T: 'static>(inner: BoxStream<'static, T>) -> BoxStream<'static, T> {
    Box::pin(BridgedStream(inner))
}
