//! Places for readers: pages and probes share the connections to Postgres with deliveries, and leave them half.
//!
//! While the database is slow every page holds its connection for as long as a statement may take. Without a bound a few
//! dashboards that reload would hold them all, and deliveries would be answered 503. The bound also keeps the memory of
//! long pages in bounds, so a page has its place until its client has taken it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Probes that may ask the store at once.
const PROBES: usize = 2;

/// Bounds on pages and probes that read at once. Clones share them.
#[derive(Clone)]
pub struct Readers {
    pages: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    bound: usize,
    wait: Duration,
    shed: Arc<AtomicU64>,
}

/// How many read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ReadersStatus {
    /// Pages being made or sent now.
    pub reading: usize,
    /// Pages turned away because too many others were being made.
    pub shed: u64,
}

impl Default for Readers {
    /// Three pages, of the ten connections of a process; others wait for as long as for a connection.
    fn default() -> Self {
        Self::new(3, Duration::from_secs(5))
    }
}

impl Readers {
    /// At most `bound` pages at once; each further one waits for a place for at most `wait`.
    pub fn new(bound: usize, wait: Duration) -> Self {
        let (pages, probes) = (Arc::new(Semaphore::new(bound)), Arc::new(Semaphore::new(PROBES)));
        Self { pages, probes, bound, wait, shed: Arc::default() }
    }

    /// How many read.
    pub fn status(&self) -> ReadersStatus {
        let reading = self.bound - self.pages.available_permits();
        ReadersStatus { reading, shed: self.shed.load(Ordering::Relaxed) }
    }

    /// A place for a page, until it is sent; nothing, and counted, when none comes free in time.
    pub(super) async fn page(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.take(&self.pages).await;
        if place.is_none() {
            self.shed.fetch_add(1, Ordering::Relaxed);
        }
        place
    }

    /// A place for a probe.
    pub(super) async fn probe(&self) -> Option<OwnedSemaphorePermit> {
        self.take(&self.probes).await
    }

    async fn take(&self, places: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        timeout(self.wait, places.clone().acquire_owned()).await.ok()?.ok()
    }
}
