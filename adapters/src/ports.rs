//! What the service needs from the outside world, in the domain's words.
//!
//! Each port has a production client (`postgres`, `github`, `kubernetes`) and, for the store, an in-memory one. All
//! are held to one contract suite each. Ports report facts; they decide nothing about jobs or workers.

use std::{cmp::Reverse, sync::Arc};

use engine::{
    decision::{JobFailure, Write},
    facts::{
        App, ClusterError, Delivery, GitHubAnswer, Job, JobView, Minted, Node, Pod, PodListing, RunnerListing,
        RunnerScope, Status, StoreError, Worker, Written,
    },
    ids::{Epoch, InstallationId, JobId, NodeName, PodUid, RunnerId, Span, Time, WorkerName},
};
use futures::{future::BoxFuture, stream::BoxStream};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::notices::Notices;

/// The wall clock, as a port: the simulator has its own, and can skew it per node.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// The real wall clock.
pub fn system_clock() -> Clock {
    Arc::new(|| Time(jiff::Timestamp::now().as_millisecond()))
}

/// Proof of leadership: only [`Store::acquire`] makes one, and every write asks for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    epoch: Epoch,
}

impl Lease {
    /// For implementations of [`Store::acquire`] alone.
    pub fn granted(epoch: Epoch) -> Self {
        Self { epoch }
    }

    /// The term's number.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

/// Where a reader of changes stands. Opaque; `None` in [`Store::changes`] means from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub u64);

/// What changed since a cursor. Rows may repeat; none is ever left out, whatever order transactions commit in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Changed job rows; from the start: every pending or running one.
    pub jobs: Vec<Job>,
    /// Changed worker rows; from the start: every pending or running one, and those that ended within a day.
    pub workers: Vec<Worker>,
    /// Where to go on.
    pub cursor: Cursor,
}

/// One write with the diagnostics that go into `failure_info` (WorkerFailed only).
#[derive(Debug, Clone, PartialEq)]
pub struct StoreWrite {
    /// The write.
    pub write: Write,
    /// `failure_info`, version 2, without `reason`, which the write names.
    pub diagnostics: Option<serde_json::Value>,
}

/// The state store.
pub trait Store: Send + Sync + 'static {
    /// Records what deliveries said, all in one transaction with one NOTIFY, joining each with its row by the lattice of
    /// [`engine::intake::join`]. Returns only after the commit: what returned `Ok` is never lost (S1).
    fn record(&self, events: Vec<Job>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Fails an installation's pending jobs. Returns which.
    fn fail_installation(
        &self,
        installation: InstallationId,
        failure: JobFailure,
        at: Time,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>>;

    /// Takes leadership for `ttl` if nobody holds it or the holder's time is over; the epoch grows by one.
    fn acquire<'a>(&'a self, holder: &'a str, ttl: Span) -> BoxFuture<'a, Result<Option<Lease>, StoreError>>;

    /// Prolongs leadership; `false` when it was lost.
    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Span) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Gives leadership up, so that another need not wait. Without effect when it was lost already.
    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>>;

    /// What changed.
    fn changes(&self, since: Option<Cursor>) -> BoxFuture<'_, Result<Changes, StoreError>>;

    /// The same part by part, so that a reading of any size needs little memory: at least one part, each with the same
    /// cursor. Only when the last part has come, and none was an error, may the reading go on from that cursor.
    fn parts(&self, since: Option<Cursor>) -> BoxStream<'_, Result<Changes, StoreError>> {
        Box::pin(futures::stream::once(self.changes(since)))
    }

    /// Writes a batch in one transaction, in order, fenced by the lease's epoch. One outcome per write.
    /// [`StoreError::Fenced`] when the epoch is not the current one: then nothing was written.
    fn write<'a>(
        &'a self,
        lease: &'a Lease,
        writes: Vec<StoreWrite>,
    ) -> BoxFuture<'a, Result<Vec<Written>, StoreError>>;

    /// Wakes: one item whenever a job was recorded, and one whenever the connection came (back) up. Carries no data.
    /// Never ends; reconnects by itself.
    fn wakes(&self) -> BoxStream<'static, ()>;

    /// Active jobs and workers, for `/usage`.
    fn usage(&self) -> BoxFuture<'_, Result<Usage, StoreError>>;

    /// A page of jobs, in [`history_order`], for `/history`.
    fn history(&self, query: HistoryQuery) -> BoxFuture<'_, Result<HistoryPage, StoreError>>;

    /// Whether the store answers.
    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// Active jobs and workers.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// Pending and running, oldest first.
    pub jobs: Vec<Job>,
    /// Pending and running, oldest first.
    pub workers: Vec<Worker>,
}

/// Which part of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryQuery {
    /// Created at or after.
    pub start: Option<i64>,
    /// Created before. Milliseconds since the Unix epoch, as `start`.
    pub end: Option<i64>,
    /// From 0.
    pub page: u32,
    /// 1 to 1000.
    pub per_page: u32,
}

/// The order of the history over all its pages: pending, running, ended, as in the specification's table of routes, and
/// each of these newest first by (created_at, id), which every job has for good. A job that failed stands among the
/// completed ones, by its time: failures on a last page of their own would be found by nobody.
pub fn history_order(job: &Job) -> (Status, Reverse<(Time, JobId)>) {
    (job.status.min(Status::Completed), Reverse((job.created_at, job.id)))
}

/// One page of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryPage {
    /// In [`history_order`].
    pub jobs: Vec<Job>,
    /// How many there are over all pages.
    pub total: u64,
}

/// A JIT configuration: for one pod, once (S10). Its `Debug` shows no secret.
#[derive(Debug, Clone)]
pub struct JitConfig {
    /// The offline runner entry GitHub made for it.
    pub minted: Minted,
    /// What the runner starts with.
    pub config: SecretString,
}

/// GitHub.
pub trait GitHub: Send + Sync + 'static {
    /// This process begins to lead. Others may have led since it did last: what they may have changed on GitHub is known no
    /// more.
    fn term_begins(&self);

    /// The state of one job.
    fn job<'a>(
        &'a self,
        app: App,
        installation: InstallationId,
        repo: &'a str,
        job: JobId,
    ) -> BoxFuture<'a, GitHubAnswer<JobView>>;

    /// Every runner of a scope, all pages; for an organisation those of our runner group at least.
    /// `asked_at` is read from the adapter's clock before the first request.
    fn runners<'a>(&'a self, scope: &'a RunnerScope) -> BoxFuture<'a, GitHubAnswer<RunnerListing>>;

    /// A JIT configuration for a worker: its name, exactly its labels, in our runner group where there is one.
    fn mint<'a>(&'a self, worker: &'a Worker) -> BoxFuture<'a, GitHubAnswer<JitConfig>>;

    /// Deletes a runner entry; one that does not exist is deleted.
    fn delete_runner<'a>(&'a self, scope: &'a RunnerScope, id: RunnerId) -> BoxFuture<'a, GitHubAnswer<()>>;

    /// The App's delivery log back to `since`, newest first. Not an installation's call: no budget.
    fn deliveries(&self, app: App, since: Time) -> BoxFuture<'_, GitHubAnswer<Vec<Delivery>>>;

    /// Delivers once more, with the same GUID.
    fn redeliver(&self, app: App, delivery: i64) -> BoxFuture<'_, GitHubAnswer<()>>;
}

/// What a watch saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterEvent {
    /// All pods with our label, as of the watch's start.
    Pods(PodListing),
    /// A pod came or changed.
    PodSeen(Pod),
    /// A pod went.
    PodGone {
        /// Its name.
        name: WorkerName,
        /// Its uid.
        uid: PodUid,
    },
    /// All nodes.
    Nodes(Vec<Node>),
    /// A node came or changed.
    NodeSeen(Node),
    /// A node went.
    NodeGone(NodeName),
}

/// Kubernetes.
pub trait Cluster: Send + Sync + 'static {
    /// Watches pods and nodes. Never ends; reconnects by itself, with a pause that grows, and says everything anew then.
    /// How that goes is noted in `notices`, for it is the same trouble as that of any other call.
    fn watch(&self, notices: Arc<Notices>) -> BoxStream<'static, ClusterEvent>;

    /// All pods with our label, from the cluster and not from a cache, all pages. `asked_at` is read before the request.
    fn list_pods(&self) -> BoxFuture<'_, Result<PodListing, ClusterError>>;

    /// Creates a worker's pod.
    fn create_pod<'a>(&'a self, worker: &'a Worker) -> BoxFuture<'a, Result<Pod, ClusterError>>;

    /// Creates the Secret of the worker's name with its JIT configuration, owned by the pod.
    fn create_secret<'a>(
        &'a self,
        worker: &'a WorkerName,
        pod: &'a PodUid,
        config: &'a SecretString,
    ) -> BoxFuture<'a, Result<(), ClusterError>>;

    /// Deletes exactly this pod; one that is gone, or whose name another uid holds, is deleted.
    fn delete_pod<'a>(&'a self, name: &'a WorkerName, uid: &'a PodUid) -> BoxFuture<'a, Result<(), ClusterError>>;

    /// `failure_info` of version 2 without `reason`: whatever can be had within 10 s and bounded in size; what cannot is
    /// null with the error noted. Never fails.
    fn diagnose<'a>(&'a self, name: &'a WorkerName, uid: &'a PodUid) -> BoxFuture<'a, serde_json::Value>;
}
