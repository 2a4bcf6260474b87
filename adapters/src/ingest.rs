//! Shared commits: whatever arrives while one commit runs is the next one. No timers, and a bound on what may wait.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use engine::facts::{Job, StoreError};
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{notices::Notices, ports::Store};

/// Rows in one commit: enough that a storm needs few commits, few enough that one stays short.
const ROWS_A_COMMIT: usize = 512;
/// A commit that takes longer is given up. Its askers were answered by then; those behind it must not wait for a host that
/// is gone without a word, of which nothing is heard for a quarter of an hour.
const COMMIT_LIMIT: Duration = Duration::from_secs(8);

/// Why a delivery was not recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IngestError {
    /// As many deliveries as allowed are waiting for the store already.
    #[error("too many deliveries are waiting to be stored; deliver again later")]
    Full,
    /// The store did not take it, or not for sure.
    #[error("the store cannot take the delivery now; deliver again later")]
    Store(StoreError),
    /// The store will never take it.
    #[error("the delivery holds a value that cannot be stored")]
    Unstorable(StoreError),
}

/// What has come through so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IngestStatus {
    /// Deliveries committed.
    pub recorded: u64,
    /// Turned away because too many were waiting.
    pub shed: u64,
    /// Not committed: the store was away, or could never take them.
    pub failed: u64,
    /// Waiting for the next commit now.
    pub waiting: usize,
}

#[derive(Debug, Default)]
struct Counts {
    recorded: AtomicU64,
    shed: AtomicU64,
    failed: AtomicU64,
}

type Waiting = (Job, oneshot::Sender<Result<(), StoreError>>);

/// Records job events in shared commits. Clones share one queue; its task ends when the last clone is gone.
#[derive(Clone)]
pub struct Ingest {
    queue: mpsc::Sender<Waiting>,
    counts: Arc<Counts>,
    notices: Arc<Notices>,
}

impl Ingest {
    /// At most `bound` deliveries wait at once.
    pub fn new(store: Arc<dyn Store>, bound: usize) -> Self {
        let (queue, waiting) = mpsc::channel(bound);
        let counts = Arc::new(Counts::default());
        let notices = Arc::new(Notices::default());
        tokio::spawn(commit(store, waiting, counts.clone(), notices.clone()));
        Self { queue, counts, notices }
    }

    /// Returns when the event is committed.
    pub async fn record(&self, event: Job) -> Result<(), IngestError> {
        let (done, committed) = oneshot::channel();
        if self.queue.try_send((event, done)).is_err() {
            self.counts.shed.fetch_add(1, Ordering::Relaxed);
            let message =
                format!("{} deliveries are waiting to be stored; more are turned away", self.queue.max_capacity());
            self.notices.store::<()>("record deliveries", &Err(StoreError::Unavailable { message }));
            return Err(IngestError::Full);
        }
        match committed.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error @ StoreError::Unstorable { .. })) => Err(IngestError::Unstorable(error)),
            Ok(Err(error)) => Err(IngestError::Store(error)),
            Err(_) => {
                let message = "the recording task ended".to_owned();
                Err(IngestError::Store(StoreError::Unavailable { message }))
            }
        }
    }

    /// Resolves when the task that records is over, by a panic: from then on nothing is recorded, and the process must be
    /// started anew.
    pub async fn ended(&self) {
        self.queue.closed().await;
    }

    /// What the process tells its operators of the store.
    pub(crate) fn notices(&self) -> &Notices {
        &self.notices
    }

    /// The numbers as of now.
    pub fn status(&self) -> IngestStatus {
        IngestStatus {
            recorded: self.counts.recorded.load(Ordering::Relaxed),
            shed: self.counts.shed.load(Ordering::Relaxed),
            failed: self.counts.failed.load(Ordering::Relaxed),
            waiting: self.queue.max_capacity() - self.queue.capacity(),
        }
    }
}

/// One commit after the other, each with whatever arrived while the last one ran. Two at once would each hold half of
/// that, and cost the store more than they gain (PERFORMANCE.md).
async fn commit(
    store: Arc<dyn Store>,
    mut waiting: mpsc::Receiver<Waiting>,
    counts: Arc<Counts>,
    notices: Arc<Notices>,
) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, ROWS_A_COMMIT).await > 0 {
        commit_all(&*store, mem::take(&mut batch), &counts, &notices).await;
    }
}

/// One commit. Where one event makes the store refuse all of them, halves of it, until that one stands alone.
async fn commit_all(store: &dyn Store, batch: Vec<Waiting>, counts: &Counts, notices: &Notices) {
    let mut parts = vec![batch];
    while let Some(mut part) = parts.pop() {
        let events = part.iter().map(|(event, _)| event.clone()).collect();
        let result = timeout(COMMIT_LIMIT, store.record(events)).await.unwrap_or_else(|_| {
            let message = format!("no commit within {} s", COMMIT_LIMIT.as_secs());
            Err(StoreError::Unavailable { message })
        });
        notices.store("record deliveries", &result);
        if part.len() > 1 && matches!(result, Err(StoreError::Unstorable { .. })) {
            parts.push(part.split_off(part.len() / 2));
            parts.push(part);
            continue;
        }
        let count = if result.is_ok() { &counts.recorded } else { &counts.failed };
        count.fetch_add(part.len() as u64, Ordering::Relaxed);
        for (_, asker) in part {
            // An asker that gave up is answered by GitHub's next delivery of the same.
            let _ = asker.send(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::intake::{self, Intake, WorkflowJob};

    use super::*;
    use crate::frail::{Frail, Panics};

    fn job() -> Job {
        let facts = WorkflowJob {
            action: "queued",
            job_id: Some(1),
            html_url: Some("https://github.com/o/r/actions/runs/1/job/1"),
            labels: vec!["ubuntu-24.04-riscv"],
            created_at: None,
            started_at: None,
            completed_at: None,
            runner_name: None,
            repo_id: Some(2),
            repo_full_name: Some("o/r"),
            owner_id: Some(3),
            owner_login: Some("o"),
            owner_type: Some("Organization"),
            installation_id: Some(4),
        };
        let (policy, _) = crate::config::built_in(engine::ids::Realm::Prod).unwrap();
        match intake::read(&facts, &policy, engine::ids::Time::ZERO) {
            Ok(Intake::Record(job)) => job,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn when_the_recording_task_dies_its_deliveries_are_not_answered_2xx_and_the_process_learns_of_it() {
        let ingest = Ingest::new(Arc::new(Frail(Panics::Recording)), 10);
        assert!(timeout(Duration::from_millis(10), ingest.ended()).await.is_err(), "it lives");
        let answer = ingest.record(job()).await;
        assert!(matches!(answer, Err(IngestError::Store(StoreError::Unavailable { .. }))), "{answer:?}");
        ingest.ended().await;
        assert!(ingest.record(job()).await.is_err(), "nor are later ones");
    }

    #[tokio::test]
    async fn a_store_that_is_away_does_not_end_it() {
        let ingest = Ingest::new(Arc::new(Frail(Panics::Reading)), 10);
        for _ in 0..3 {
            assert!(matches!(ingest.record(job()).await, Err(IngestError::Store(_))));
        }
        assert!(timeout(Duration::from_millis(10), ingest.ended()).await.is_err());
    }
}
