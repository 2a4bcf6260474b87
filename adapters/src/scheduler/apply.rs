//! Carrying actions out: each becomes one call, and each call's end becomes one fact.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use engine::{
    decision::{Action, Chosen, Write},
    facts::{Change, ClusterError, GitHubAnswer, GitHubError, Outcome, StoreError},
    ids::WorkerName,
};
use secrecy::SecretString;
use tokio::{sync::mpsc, time::timeout};

use super::{
    Scheduler,
    lead::{Fact, Facts},
};
use crate::ports::{Lease, StoreWrite};

/// A call to GitHub or the cluster that takes longer is given up; whether it had its effect is then unknown.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// A listing may have many pages.
const LIST_LIMIT: Duration = Duration::from_secs(120);
/// One write transaction to the store.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Writes in one transaction: enough to share a commit in a burst, few enough to keep it short.
const WRITES_AT_ONCE: usize = 500;

/// JIT configurations between `MintJit` and `CreateSecret`, in memory alone (S10).
type Vault = Arc<Mutex<BTreeMap<WorkerName, SecretString>>>;

/// What carries actions out.
pub(super) struct Hands {
    scheduler: Scheduler,
    facts: Facts,
    vault: Vault,
    writes: mpsc::UnboundedSender<(u64, StoreWrite)>,
}

impl Hands {
    pub fn new(scheduler: Scheduler, lease: Arc<Lease>, facts: Facts) -> Self {
        let (writes, queue) = mpsc::unbounded_channel();
        tokio::spawn(write_store(scheduler.clone(), lease, queue, facts.clone()));
        Self { scheduler, facts, vault: Vault::default(), writes }
    }

    pub fn put_back(&self, fact: Fact) {
        // The loop that owns the other end is the caller.
        let _ = self.facts.send(fact);
    }

    /// Begins an action; its end arrives as a fact.
    pub fn carry_out(&self, chosen: Chosen) {
        let Chosen { id, action, .. } = chosen;
        let end = End { action: id, facts: self.facts.clone(), sent: false };
        let Scheduler { github, cluster, .. } = self.scheduler.clone();
        let vault = self.vault.clone();
        match action {
            Action::Write { write, diagnose: None } => self.write(end, write, None),
            Action::Write { write, diagnose: Some((pod, uid)) } => {
                let writes = self.writes.clone();
                forget_secret(&vault, &write);
                tokio::spawn(async move {
                    let diagnostics = timeout(CALL_LIMIT, cluster.diagnose(&pod, &uid)).await.ok();
                    queue(&writes, end, StoreWrite { write, diagnostics });
                });
            }
            Action::PollJob { id, repo, installation, app } => {
                let asked_at = (self.scheduler.clock)();
                spawn(
                    end,
                    CALL_LIMIT,
                    async move {
                        let answer = github.job(app, installation, &repo, id).await;
                        Outcome::JobPolled { asked_at, answer }
                    },
                    move || Outcome::JobPolled { asked_at, answer: too_slow() },
                );
            }
            Action::ListRunners(scope) => {
                spawn(end, LIST_LIMIT, async move { Outcome::RunnersListed(github.runners(&scope).await) }, || {
                    Outcome::RunnersListed(too_slow())
                });
            }
            Action::MintJit(worker) => {
                spawn(
                    end,
                    CALL_LIMIT,
                    async move {
                        let answer = github.mint(&worker).await;
                        let result = answer.result.map(|jit| {
                            lock(&vault).insert(worker.name, jit.config);
                            jit.minted
                        });
                        Outcome::JitMinted(GitHubAnswer { result, budget: answer.budget, calls: answer.calls })
                    },
                    || Outcome::JitMinted(too_slow()),
                );
            }
            Action::CreatePod(worker) => {
                spawn(end, CALL_LIMIT, async move { Outcome::PodCreated(cluster.create_pod(&worker).await) }, || {
                    Outcome::PodCreated(Err(slow_cluster()))
                });
            }
            Action::CreateSecret { worker, pod } => {
                let Some(config) = lock(&vault).get(&worker).cloned() else { return end.send(Outcome::Lost) };
                spawn(
                    end,
                    CALL_LIMIT,
                    async move {
                        let result = cluster.create_secret(&worker, &pod, &config).await;
                        if matches!(result, Ok(()) | Err(ClusterError::AlreadyExists)) {
                            lock(&vault).remove(&worker);
                        }
                        Outcome::SecretCreated(result)
                    },
                    || Outcome::SecretCreated(Err(slow_cluster())),
                );
            }
            Action::DeleteRunner { scope, id, .. } => {
                spawn(
                    end,
                    CALL_LIMIT,
                    async move { Outcome::RunnerDeleted(github.delete_runner(&scope, id).await) },
                    || Outcome::RunnerDeleted(too_slow()),
                );
            }
            Action::DeletePod { name, uid } => {
                spawn(
                    end,
                    CALL_LIMIT,
                    async move { Outcome::PodDeleted(cluster.delete_pod(&name, &uid).await) },
                    || Outcome::PodDeleted(Err(slow_cluster())),
                );
            }
            Action::ListPods => {
                spawn(end, LIST_LIMIT, async move { Outcome::PodsListed(cluster.list_pods().await) }, || {
                    Outcome::PodsListed(Err(slow_cluster()))
                });
            }
            Action::ListDeliveries { app, since } => {
                spawn(
                    end,
                    LIST_LIMIT,
                    async move { Outcome::DeliveriesListed(github.deliveries(app, since).await) },
                    || Outcome::DeliveriesListed(too_slow()),
                );
            }
            Action::Redeliver { app, delivery, .. } => {
                spawn(
                    end,
                    CALL_LIMIT,
                    async move { Outcome::Redelivered(github.redeliver(app, delivery).await) },
                    || Outcome::Redelivered(too_slow()),
                );
            }
        }
    }

    fn write(&self, end: End, write: Write, diagnostics: Option<serde_json::Value>) {
        forget_secret(&self.vault, &write);
        queue(&self.writes, end, StoreWrite { write, diagnostics });
    }
}

/// A failed worker's JIT configuration is used by no pod any more.
fn forget_secret(vault: &Vault, write: &Write) {
    if let Write::WorkerFailed { name, .. } = write {
        lock(vault).remove(name);
    }
}

fn queue(writes: &mpsc::UnboundedSender<(u64, StoreWrite)>, mut end: End, write: StoreWrite) {
    // From here on the writer answers for the action.
    if writes.send((end.action, write)).is_ok() {
        end.sent = true;
    }
}

fn lock(vault: &Vault) -> std::sync::MutexGuard<'_, BTreeMap<WorkerName, SecretString>> {
    vault.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Exactly one outcome an action: if its task is dropped or panics, the engine hears that it was lost.
struct End {
    action: u64,
    facts: Facts,
    sent: bool,
}

impl End {
    fn send(mut self, outcome: Outcome) {
        self.sent = true;
        // The term may be over; then nobody waits for it.
        let _ = self.facts.send(Fact::Ended(Change::Outcome { action: self.action, outcome }));
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.sent {
            let _ = self.facts.send(Fact::Ended(Change::Outcome { action: self.action, outcome: Outcome::Lost }));
        }
    }
}

fn spawn(
    end: End,
    limit: Duration,
    call: impl Future<Output = Outcome> + Send + 'static,
    late: impl FnOnce() -> Outcome + Send + 'static,
) {
    tokio::spawn(async move {
        let outcome = timeout(limit, call).await.unwrap_or_else(|_| late());
        end.send(outcome);
    });
}

fn too_slow<T>() -> GitHubAnswer<T> {
    let message = "no answer within the time limit".to_owned();
    GitHubAnswer { result: Err(GitHubError::Unavailable { message }), budget: None, calls: 1 }
}

fn slow_cluster() -> ClusterError {
    ClusterError::Unavailable { message: "no answer within the time limit".to_owned() }
}

/// Writes batches one after the other, each with whatever arrived while the last one ran. One at a time, because a
/// reservation's guard counts what earlier ones have reserved.
async fn write_store(
    scheduler: Scheduler,
    lease: Arc<Lease>,
    mut queue: mpsc::UnboundedReceiver<(u64, StoreWrite)>,
    facts: Facts,
) {
    while let Some(first) = queue.recv().await {
        let (mut ids, mut writes) = (vec![first.0], vec![first.1]);
        while writes.len() < WRITES_AT_ONCE {
            let Ok((id, write)) = queue.try_recv() else { break };
            ids.push(id);
            writes.push(write);
        }
        let (ids, writes) = reservations_last(ids, writes);
        let result = match timeout(WRITE_LIMIT, scheduler.store.write(&lease, writes)).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Unavailable { message: "no answer within the time limit".to_owned() }),
        };
        if let Err(error) = &result {
            tracing::warn!(?error, writes = ids.len(), "writes to the store failed");
        }
        let fenced = matches!(result, Err(StoreError::Fenced { .. }));
        for (i, action) in ids.into_iter().enumerate() {
            let written = match &result {
                Ok(outcomes) => outcomes.get(i).copied().ok_or_else(|| StoreError::Unavailable {
                    message: "the store answered for fewer writes than it was given".to_owned(),
                }),
                Err(error) => Err(error.clone()),
            };
            let _ = facts.send(Fact::Ended(Change::Outcome { action, outcome: Outcome::Written(written) }));
        }
        if fenced {
            let _ = facts.send(Fact::Fenced);
            return;
        }
    }
}

/// Reservations after all else: what has ended makes room for them, and the store takes each kind at one go. Writes that
/// are under way together are about different rows, so their order means nothing else.
fn reservations_last(ids: Vec<u64>, writes: Vec<StoreWrite>) -> (Vec<u64>, Vec<StoreWrite>) {
    let mut batch: Vec<(u64, StoreWrite)> = ids.into_iter().zip(writes).collect();
    batch.sort_by_key(|(_, write)| matches!(write.write, Write::Reserve { .. }));
    batch.into_iter().unzip()
}
