//! Carrying actions out: each becomes one call, and each call's end becomes one fact.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use engine::{
    decision::{Action, Chosen, Write},
    facts::{App, Change, ClusterError, GitHubAnswer, GitHubError, Outcome, RunnerScope, StoreError, Written},
    ids::{InstallationId, WorkerName},
};
use secrecy::SecretString;
use tokio::{sync::mpsc, time::timeout};

use super::{
    Scheduler,
    health::Health,
    lead::{Fact, Facts, begin},
    slow_store,
};
use crate::{
    github::app_of,
    kubernetes::LIST_PODS,
    notices::Notices,
    ports::{Lease, Store, StoreWrite},
};

/// A call to GitHub or the cluster that takes longer is given up; whether it had its effect is then unknown.
pub const CALL_LIMIT: Duration = Duration::from_secs(30);
/// A listing may have many pages.
const LIST_LIMIT: Duration = Duration::from_secs(120);
/// One write transaction to the store.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Writes in one transaction: enough to share a commit in a burst, few enough to keep it short.
pub const WRITES_AT_ONCE: usize = 500;

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
        begin("writes to the store", write_store(scheduler.clone(), lease, queue, facts.clone()), &facts);
        Self { scheduler, facts, vault: Vault::default(), writes }
    }

    /// Begins an action; its end arrives as a fact.
    pub fn carry_out(&self, chosen: Chosen) {
        let Chosen { id, action, .. } = chosen;
        let asked = Asked::of(&action);
        let end =
            End { action: id, facts: self.facts.clone(), sent: false, asked, health: self.scheduler.health.clone() };
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
    asked: Asked,
    health: Arc<Health>,
}

/// Who was asked, and for what: for people.
#[derive(Clone, Copy)]
enum Asked {
    GitHub(&'static str, App, Option<InstallationId>),
    Cluster(&'static str),
    Store,
}

impl Asked {
    fn of(action: &Action) -> Self {
        let of_scope =
            |what, scope: &RunnerScope| Asked::GitHub(what, app_of(scope.entity_type), Some(scope.installation));
        match action {
            Action::Write { .. } => Asked::Store,
            Action::PollJob { installation, app, .. } => Asked::GitHub("ask about a job", *app, Some(*installation)),
            Action::ListRunners(scope) => of_scope("list runners", scope),
            Action::MintJit(worker) => {
                Asked::GitHub("make a JIT configuration", app_of(worker.entity_type), Some(worker.installation))
            }
            Action::DeleteRunner { scope, .. } => of_scope("delete a runner", scope),
            Action::ListDeliveries { app, .. } => Asked::GitHub("read the delivery log", *app, None),
            Action::Redeliver { app, .. } => Asked::GitHub("have a delivery repeated", *app, None),
            Action::CreatePod(_) => Asked::Cluster("create a pod"),
            Action::CreateSecret { .. } => Asked::Cluster("create a Secret"),
            Action::DeletePod { .. } => Asked::Cluster("delete a pod"),
            Action::ListPods => Asked::Cluster(LIST_PODS),
        }
    }

    /// Tells the operators, if there is something to tell.
    fn tell(self, notices: &Notices, outcome: &Outcome) {
        match self {
            Asked::GitHub(what, app, installation) => match outcome {
                Outcome::JobPolled { answer, .. } => notices.github(what, app, installation, &answer.result),
                Outcome::RunnersListed(answer) => notices.github(what, app, installation, &answer.result),
                Outcome::JitMinted(answer) => notices.github(what, app, installation, &answer.result),
                Outcome::RunnerDeleted(answer) | Outcome::Redelivered(answer) => {
                    notices.github(what, app, installation, &answer.result);
                }
                Outcome::DeliveriesListed(answer) => notices.github(what, app, installation, &answer.result),
                Outcome::Written(_)
                | Outcome::PodCreated(_)
                | Outcome::SecretCreated(_)
                | Outcome::PodDeleted(_)
                | Outcome::PodsListed(_)
                | Outcome::Lost => {}
            },
            Asked::Cluster(what) => match outcome {
                Outcome::PodCreated(result) => notices.cluster(what, result),
                Outcome::SecretCreated(result) | Outcome::PodDeleted(result) => notices.cluster(what, result),
                Outcome::PodsListed(result) => notices.cluster(what, result),
                Outcome::Written(_)
                | Outcome::JobPolled { .. }
                | Outcome::RunnersListed(_)
                | Outcome::JitMinted(_)
                | Outcome::RunnerDeleted(_)
                | Outcome::DeliveriesListed(_)
                | Outcome::Redelivered(_)
                | Outcome::Lost => {}
            },
            // Whole batches are told of, not each write.
            Asked::Store => {}
        }
    }
}

impl End {
    fn send(mut self, outcome: Outcome) {
        self.sent = true;
        self.asked.tell(self.health.notices(), &outcome);
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
        if !write_all(&*scheduler.store, &lease, reservations_last(ids, writes), &facts, scheduler.health.notices())
            .await
        {
            let _ = facts.send(Fact::Fenced);
            return;
        }
    }
}

/// Stands in `failure_info` for diagnostics that could not be stored.
const NOT_KEPT: &str = "diagnostics_not_stored";

type Batch = (Vec<u64>, Vec<StoreWrite>);

/// Somebody waits for it: that it gets no runner is not left to its row alone.
fn tell_of_failed_job(write: &Write, written: Written) {
    if let (Write::JobFailed { id, failure, .. }, Written::Done) = (write, written) {
        tracing::warn!(job = %id, reason = failure.as_str(), "a job is failed: it gets no runner");
    }
}

/// One batch, in one transaction. Where one write makes the store refuse all of them, halves of it one after the other,
/// until that one stands alone: it must not keep the others from being written. If what cannot be stored are a failed
/// worker's diagnostics, the failure is written without them. `false`: another leads.
async fn write_all(store: &dyn Store, lease: &Lease, batch: Batch, facts: &Facts, notices: &Notices) -> bool {
    let mut parts = vec![batch];
    while let Some((mut ids, mut writes)) = parts.pop() {
        let result = timeout(WRITE_LIMIT, store.write(lease, writes.clone()))
            .await
            .unwrap_or_else(|_| Err(slow_store(WRITE_LIMIT)));
        notices.store("write", &result);
        for (write, written) in writes.iter().zip(result.as_deref().unwrap_or_default()) {
            tell_of_failed_job(&write.write, *written);
        }
        if ids.len() > 1 && matches!(result, Err(StoreError::Unstorable { .. })) {
            let half = ids.len() / 2;
            parts.push((ids.split_off(half), writes.split_off(half)));
            parts.push((ids, writes));
            continue;
        }
        if let (Err(StoreError::Unstorable { message }), [alone]) = (&result, &mut *writes)
            && alone.diagnostics.as_ref().is_some_and(|known| known.get(NOT_KEPT).is_none())
        {
            let worker = alone.write.worker().map(WorkerName::as_str);
            tracing::warn!(
                worker,
                error = message,
                "a failed pod's diagnostics cannot be stored; the failure is, without them"
            );
            alone.diagnostics = Some(serde_json::json!({ NOT_KEPT: message }));
            parts.push((ids, writes));
            continue;
        }
        tell(&result, &writes);
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
            // What is left of the batch ends with the term.
            return false;
        }
    }
    true
}

/// Says which workers have failed, and what became of a batch that was not written.
fn tell(result: &Result<Vec<Written>, StoreError>, writes: &[StoreWrite]) {
    match (result, writes) {
        (Ok(outcomes), _) => {
            for (write, written) in writes.iter().zip(outcomes) {
                if let (Write::WorkerFailed { name, failure, .. }, Written::Done) = (&write.write, written) {
                    tracing::info!(worker = name.as_str(), reason = %failure, "a worker has failed");
                }
            }
        }
        (Err(StoreError::Unstorable { message }), [alone]) => {
            let (worker, job) = (alone.write.worker().map(WorkerName::as_str), alone.write.job().map(|id| id.0));
            let what = "a row cannot be stored as it is; all others are. It is tried again, but only a change of what it \
                        is about can help";
            tracing::error!(worker, job, error = message, "{what}");
        }
        (Err(error), _) => tracing::debug!(?error, writes = writes.len(), "writes to the store failed"),
    }
}

/// Reservations after all else: what has ended makes room for them, and the store takes each kind at one go. Writes that
/// are under way together are about different rows, so their order means nothing else.
fn reservations_last(ids: Vec<u64>, writes: Vec<StoreWrite>) -> Batch {
    let mut batch: Vec<(u64, StoreWrite)> = ids.into_iter().zip(writes).collect();
    batch.sort_by_key(|(_, write)| matches!(write.write, Write::Reserve { .. }));
    batch.into_iter().unzip()
}

#[cfg(test)]
mod tests {
    use engine::{
        decision::{JobFailure, WorkerFailure},
        facts::Job,
        ids::{Epoch, JobId, Span, Time},
    };
    use futures::{future::BoxFuture, stream::BoxStream};
    use serde_json::{Value, json};

    use super::*;
    use crate::ports::{Changes, Cursor, HistoryPage, HistoryQuery, Usage};

    /// A store that takes everything but what `poison` names, a whole batch at a time, and keeps what it took.
    struct Picky {
        poison: fn(&StoreWrite) -> bool,
        taken: Mutex<Vec<StoreWrite>>,
        transactions: Mutex<u32>,
    }

    fn away<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, StoreError>> {
        Box::pin(std::future::ready(Err(StoreError::Unavailable { message: "only writes are served".to_owned() })))
    }

    impl Store for Picky {
        fn write<'a>(
            &'a self,
            lease: &'a Lease,
            writes: Vec<StoreWrite>,
        ) -> BoxFuture<'a, Result<Vec<Written>, StoreError>> {
            *self.transactions.lock().unwrap() += 1;
            let result = if lease.epoch() != Epoch(1) {
                Err(StoreError::Fenced { epoch: lease.epoch() })
            } else if writes.iter().any(self.poison) {
                Err(StoreError::Unstorable { message: "poison".to_owned() })
            } else {
                let written = vec![Written::Done; writes.len()];
                self.taken.lock().unwrap().extend(writes);
                Ok(written)
            };
            Box::pin(std::future::ready(result))
        }

        fn record(&self, _: Vec<Job>) -> BoxFuture<'_, Result<(), StoreError>> {
            away()
        }

        fn fail_installation(
            &self,
            _: InstallationId,
            _: JobFailure,
            _: Time,
        ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
            away()
        }

        fn acquire<'a>(&'a self, _: &'a str, _: Span) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
            away()
        }

        fn renew<'a>(&'a self, _: &'a Lease, _: Span) -> BoxFuture<'a, Result<bool, StoreError>> {
            away()
        }

        fn release<'a>(&'a self, _: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
            away()
        }

        fn changes(&self, _: Option<Cursor>) -> BoxFuture<'_, Result<Changes, StoreError>> {
            away()
        }

        fn wakes(&self) -> BoxStream<'static, ()> {
            Box::pin(futures::stream::pending())
        }

        fn usage(&self) -> BoxFuture<'_, Result<Usage, StoreError>> {
            away()
        }

        fn history(&self, _: HistoryQuery) -> BoxFuture<'_, Result<HistoryPage, StoreError>> {
            away()
        }

        fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
            away()
        }
    }

    fn failed(name: &str, diagnostics: Option<Value>) -> StoreWrite {
        let (name, failure) = (WorkerName::from(name), WorkerFailure::PodFailed);
        let write = Write::WorkerFailed { name, at: Time::ZERO, running_at: None, node: None, failure };
        StoreWrite { write, diagnostics }
    }

    /// Writes a batch; what the engine is told, by id, and what was taken in how many transactions.
    async fn run(
        poison: fn(&StoreWrite) -> bool,
        epoch: i64,
        writes: Vec<StoreWrite>,
    ) -> (bool, BTreeMap<u64, Result<Written, StoreError>>, Vec<StoreWrite>, u32) {
        let store = Picky { poison, taken: Mutex::default(), transactions: Mutex::default() };
        let (facts, mut told) = mpsc::unbounded_channel();
        let ids = (100..).take(writes.len()).collect();
        let notices = Notices::default();
        let leads = write_all(&store, &Lease::granted(Epoch(epoch)), (ids, writes), &facts, &notices).await;
        drop(facts);
        let mut answers = BTreeMap::new();
        while let Some(fact) = told.recv().await {
            let Fact::Ended(Change::Outcome { action, outcome: Outcome::Written(written) }) = fact else { panic!() };
            assert!(answers.insert(action, written).is_none(), "{action} is answered twice");
        }
        (leads, answers, store.taken.into_inner().unwrap(), store.transactions.into_inner().unwrap())
    }

    #[tokio::test]
    async fn one_row_that_cannot_be_stored_keeps_no_other_from_it() {
        for (size, poisoned) in [(1, 0), (2, 1), (7, 3), (500, 0), (500, 499), (500, 250)] {
            let names: Vec<String> =
                (0..size).map(|i| if i == poisoned { "poison".into() } else { format!("w{i}") }).collect();
            let writes = names.iter().map(|name| failed(name, None)).collect();
            let poison = |write: &StoreWrite| write.write.worker().is_some_and(|name| name.as_str() == "poison");
            let (leads, answers, taken, transactions) = run(poison, 1, writes).await;
            assert!(leads);
            assert_eq!(answers.len(), size, "each write is answered");
            for (id, answer) in answers {
                match id - 100 == poisoned as u64 {
                    true => assert!(matches!(answer, Err(StoreError::Unstorable { .. })), "{answer:?}"),
                    false => assert_eq!(answer, Ok(Written::Done)),
                }
            }
            let taken: Vec<&str> = taken.iter().map(|write| write.write.worker().unwrap().as_str()).collect();
            let expected: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != "poison").collect();
            assert_eq!(taken, expected, "in their order");
            assert!(transactions <= 2 * size.next_power_of_two().ilog2() + 1, "{transactions} for {size}");
        }
    }

    #[tokio::test]
    async fn diagnostics_that_cannot_be_stored_do_not_stop_the_transition() {
        let writes = vec![failed("a", Some(json!({ "log": "fine" }))), failed("b", Some(json!({ "log": "poison" })))];
        let poison = |write: &StoreWrite| write.diagnostics.as_ref().is_some_and(|info| info["log"] == "poison");
        let (_, answers, taken, _) = run(poison, 1, writes).await;
        assert!(answers.values().all(|answer| *answer == Ok(Written::Done)), "{answers:?}");
        assert_eq!(taken[0].diagnostics, Some(json!({ "log": "fine" })));
        assert_eq!(taken[1].diagnostics, Some(json!({ NOT_KEPT: "poison" })));
        // Where the row itself is at fault, that is where it ends.
        let (_, answers, taken, _) = run(|_| true, 1, vec![failed("b", Some(json!({})))]).await;
        assert!(matches!(answers[&100], Err(StoreError::Unstorable { .. })) && taken.is_empty());
    }

    #[tokio::test]
    async fn a_fenced_batch_is_not_halved() {
        let (leads, answers, _, transactions) = run(|_| true, 2, vec![failed("a", None), failed("b", None)]).await;
        assert!(!leads && answers.len() == 2 && transactions == 1);
    }
}
