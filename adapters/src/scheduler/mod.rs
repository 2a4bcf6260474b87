//! The scheduler: wake, observe, decide, apply.
//!
//! One task owns the snapshot and is the only one to decide. Everything slow happens beside it: a reader of the store, a
//! writer to it, the cluster's watch, and one task for each call to GitHub or the cluster. They talk to the owner
//! through one channel of facts, so nothing ever waits for anything but its own answer.

mod apply;
mod health;
mod lead;

use std::{sync::Arc, time::Duration};

use engine::{
    decision::Decision,
    facts::StoreError,
    ids::{Span, Time},
    policy::Policy,
    snapshot::Snapshot,
};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

pub use apply::{CALL_LIMIT, WRITES_AT_ONCE};
pub use health::{Health, Question, router};
pub use lead::{FINISH, READ_PAUSE, TICK};

use crate::ports::{Clock, Cluster, GitHub, Lease, Store};

/// How long leadership lasts without being renewed. L8 asks for a new leader within this and 15 s more. Longer than
/// any pause a healthy process makes, shorter than anybody's patience.
pub const LEASE: Span = Span::secs(15);
/// How often it is renewed.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How long the store may take for that: after one that hangs there is time for a second attempt.
pub const RENEW_LIMIT: Duration = Duration::from_secs(4);
/// When it is tried again after a failure.
pub const RENEW_AGAIN: Duration = Duration::from_secs(1);
/// How often a process that does not lead tries to.
pub const STAND_BY: Duration = Duration::from_secs(3);

/// Everything a scheduler works with.
#[derive(Clone)]
pub struct Scheduler {
    /// The state store.
    pub store: Arc<dyn Store>,
    /// GitHub.
    pub github: Arc<dyn GitHub>,
    /// Kubernetes.
    pub cluster: Arc<dyn Cluster>,
    /// Limits and timeouts.
    pub policy: Arc<Policy>,
    /// The wall clock.
    pub clock: Clock,
    /// Who this process is, for people who look at the leadership row.
    pub holder: String,
    /// Draws the seed of a term's worker names; each term must get another.
    pub seed: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// What `/health` shows, and where it asks.
    pub health: Arc<Health>,
    /// Looks at every decision before it is carried out: tests and simulations hold it against `engine::check`. It costs
    /// a copy of the snapshot each; `None` costs nothing.
    pub inspect: Option<Inspect>,
}

/// Is shown the snapshot as it was, the policy, what was decided from them, and when.
pub type Inspect = Arc<dyn Fn(&Snapshot, &Policy, &Decision, Time) + Send + Sync>;

/// Why a term ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TermEnd {
    /// Another leads now, or may.
    Lost,
    /// The process is to stop.
    Stopped,
    /// A task that the term cannot do without ended.
    Broken(&'static str),
}

/// A part of a scheduler ended that never should, by a panic: the process must be started anew. Leadership is not given
/// up, for what was under way may still have its effects; it runs out by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the scheduler cannot go on: the task that {0} ended, which is a bug")]
pub struct Broken(&'static str);

impl Scheduler {
    /// Runs until `stop` resolves: waits for leadership, leads, and when it is lost waits again. After `stop` it
    /// finishes what is under way, within 20 s, and gives leadership up.
    pub async fn run(self, stop: BoxFuture<'static, ()>) -> Result<(), Broken> {
        let mut stop = stop;
        loop {
            self.health.beat((self.clock)());
            let lease = tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                lease = self.acquire() => lease,
            };
            let Some((lease, until)) = lease else {
                tokio::select! {
                    biased;
                    () = &mut stop => return Ok(()),
                    () = sleep(STAND_BY) => continue,
                }
            };
            tracing::info!(epoch = %lease.epoch(), "leading");
            let end = lead::lead(&self, lease, until, &mut stop).await;
            self.health.led(None);
            match end {
                TermEnd::Lost => tracing::warn!("leadership lost; standing by"),
                TermEnd::Stopped => return Ok(()),
                TermEnd::Broken(task) => return Err(Broken(task)),
            }
        }
    }

    /// Tries to take leadership; with it, until when it holds by this process's own monotonic clock.
    async fn acquire(&self) -> Option<(Lease, Instant)> {
        let asked = Instant::now();
        // Of a host that is gone without a word nothing is heard for a quarter of an hour: nobody must wait for it.
        let asking = timeout(RENEW_EVERY, self.store.acquire(&self.holder, LEASE)).await;
        let answer = asking.unwrap_or_else(|_| Err(slow_store(RENEW_EVERY)));
        self.health.notices().stand_by();
        self.health.notices().store("ask for leadership", &answer);
        answer.ok().flatten().map(|lease| (lease, asked + lease_time()))
    }
}

/// What no answer within `limit` comes to.
fn slow_store(limit: Duration) -> StoreError {
    StoreError::Unavailable { message: format!("no answer within {} s", limit.as_secs()) }
}

/// [`LEASE`] as a standard duration.
fn lease_time() -> Duration {
    Duration::from_millis(LEASE.0.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frail::{Frail, Panics};

    #[tokio::test]
    async fn a_scheduler_that_lost_a_part_of_itself_ends_and_says_which() {
        for (panics, task) in [
            (Panics::Reading, "reads the store"),
            (Panics::Watching, "watches the cluster"),
            (Panics::Renewing, "renews leadership"),
        ] {
            let never = Box::pin(std::future::pending());
            let ended = Frail::scheduler(panics).run(never).await;
            assert_eq!(ended, Err(Broken(task)));
        }
        let message = Broken("reads the store").to_string();
        assert_eq!(message, "the scheduler cannot go on: the task that reads the store ended, which is a bug");
    }

    #[tokio::test]
    async fn a_panic_while_deciding_ends_the_whole_run() {
        let running = tokio::spawn(Frail::scheduler(Panics::Deciding).run(Box::pin(std::future::pending())));
        assert!(running.await.unwrap_err().is_panic());
    }
}
