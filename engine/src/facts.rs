//! What is known: rows of the store, and what GitHub and Kubernetes said.

use alloc::{string::String, sync::Arc, vec::Vec};

use crate::{
    decision::{JobFailure, WorkerFailure},
    ids::{
        EntityId, EntityType, Epoch, Image, InstallationId, JobId, NodeName, OwnerId, PodUid, Pool, RunnerId, Time,
        WorkerName,
    },
    labels::LabelSet,
};

/// Where a job or a worker stands. Moves forward only (S2): pending, running, then one of the two ends.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Status {
    /// Waiting: a job for its runner, a worker for its pod to run.
    Pending,
    /// Under way.
    Running,
    /// Ended as it should.
    Completed,
    /// Ended by a failure, whose reason the row carries.
    Failed,
}

impl Status {
    /// Whether this is one of the two ends.
    pub fn is_ended(self) -> bool {
        matches!(self, Status::Completed | Status::Failed)
    }

    /// The word of the store's `status_enum`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
        }
    }

    /// Reads the store's word.
    pub fn parse(word: &str) -> Option<Self> {
        [Status::Pending, Status::Running, Status::Completed, Status::Failed]
            .into_iter()
            .find(|status| status.as_str() == word)
    }
}

/// Which runner took a job, and when: the part of a job's row that later deliveries may improve.
///
/// The order of two assignments is that of (`started_at`, `runner`): after a requeue the later start wins.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Assignment {
    /// When GitHub says the job started.
    pub started_at: Time,
    /// The runner's name; ours when it is a worker's name.
    pub runner: Arc<str>,
}

/// One workflow job: a row of `jobs`, and equally what one webhook delivery claims of it (see `intake`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    /// GitHub's id.
    pub id: JobId,
    /// How far it has come.
    pub status: Status,
    /// Where its runner must be registered.
    pub entity: EntityId,
    /// The organisation's or user's login.
    pub entity_name: Arc<str>,
    /// What kind of account.
    pub entity_type: EntityType,
    /// Whose cap it counts against.
    pub owner: OwnerId,
    /// `owner/name`.
    pub repo: Arc<str>,
    /// Whose token reads it; 0 when no delivery has said.
    pub installation: InstallationId,
    /// What a runner must carry.
    pub labels: LabelSet,
    /// The boards that run it.
    pub pool: Pool,
    /// The operating system it gets.
    pub image: Image,
    /// The job's page on GitHub.
    pub html_url: Option<Arc<str>>,
    /// When GitHub queued it; the first key of the FIFO order.
    pub created_at: Time,
    /// Which runner took it, once one has.
    pub assignment: Option<Assignment>,
    /// When it ended.
    pub completed_at: Option<Time>,
    /// When GitHub last reported a running job queued again. It is demand until it starts later than this.
    pub requeued_at: Option<Time>,
    /// Why it failed, when this service failed it.
    pub failure: Option<JobFailure>,
}

impl Job {
    /// Whether a running job is back in GitHub's queue: its runner never acknowledged it.
    pub fn is_requeued(&self) -> bool {
        self.status == Status::Running
            && self.requeued_at.is_some_and(|at| self.assignment.as_ref().is_none_or(|a| a.started_at <= at))
    }
}

/// One runner that was asked for: a row of `workers`. Rows are never deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Worker {
    /// Row key, pod name and runner name in one.
    pub name: WorkerName,
    /// Where its runner is registered.
    pub entity: EntityId,
    /// The organisation's or user's login.
    pub entity_name: Arc<str>,
    /// What kind of account.
    pub entity_type: EntityType,
    /// Whose cap it counts against.
    pub owner: OwnerId,
    /// Whose token registers it.
    pub installation: InstallationId,
    /// `owner/name` for a personal account's runner; `None` for an organisation's.
    pub repo: Option<Arc<str>>,
    /// What the runner carries: exactly its job group's labels (S9).
    pub labels: LabelSet,
    /// The boards it may run on.
    pub pool: Pool,
    /// Its operating system.
    pub image: Image,
    /// The node its pod was placed on.
    pub node: Option<NodeName>,
    /// How far it has come.
    pub status: Status,
    /// Why it failed.
    pub failure: Option<WorkerFailure>,
    /// When it was reserved.
    pub created_at: Time,
    /// When its container started.
    pub running_at: Option<Time>,
    /// When it ended.
    pub completed_at: Option<Time>,
}

impl Worker {
    /// Where this worker's runner is registered and who may ask about it.
    pub fn scope(&self) -> RunnerScope {
        RunnerScope {
            entity: self.entity,
            entity_name: self.entity_name.clone(),
            entity_type: self.entity_type,
            installation: self.installation,
            repo: self.repo.clone(),
        }
    }
}

/// Where runners are registered: an organisation's runner group, or one repository.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RunnerScope {
    /// The entity: organisation id or repository id.
    pub entity: EntityId,
    /// The organisation's or user's login.
    pub entity_name: Arc<str>,
    /// What kind of account.
    pub entity_type: EntityType,
    /// Whose token asks.
    pub installation: InstallationId,
    /// `owner/name` for a personal account.
    pub repo: Option<Arc<str>>,
}

/// Kubernetes' `status.phase`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PodPhase {
    /// Accepted; not all containers run yet.
    Pending,
    /// Bound, at least one container runs.
    Running,
    /// All containers ended well.
    Succeeded,
    /// A container ended badly, or the pod was evicted.
    Failed,
    /// The node does not answer.
    Unknown,
}

impl PodPhase {
    /// Whether the pod has ended for good.
    pub fn is_ended(self) -> bool {
        matches!(self, PodPhase::Succeeded | PodPhase::Failed)
    }
}

/// One pod that carries our `app` label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pod {
    /// Its name: the worker's, when it is ours.
    pub name: WorkerName,
    /// Its uid.
    pub uid: PodUid,
    /// The pool its nodeSelector names.
    pub pool: Option<Pool>,
    /// Its phase.
    pub phase: PodPhase,
    /// Where it was placed.
    pub node: Option<NodeName>,
    /// `metadata.creationTimestamp`.
    pub created_at: Time,
    /// When the `runner` container started.
    pub started_at: Option<Time>,
    /// When the `runner` container ended.
    pub finished_at: Option<Time>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Why a container waits (`ImagePullBackOff`, `CreateContainerConfigError`, …) or why the pod is unschedulable.
    pub waiting: Option<String>,
}

/// A complete listing of pods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodListing {
    /// When it was asked for: it says nothing of what came later.
    pub asked_at: Time,
    /// All pods with our `app` label.
    pub pods: Vec<Pod>,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name.
    pub name: NodeName,
    /// Its `riseproject.dev/board` label.
    pub pool: Option<Pool>,
    /// Allocatable `riseproject.com/runner`.
    pub runners: u32,
    /// Ready and not cordoned; any other node offers nothing.
    pub usable: bool,
}

/// One runner registered on GitHub.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Runner {
    /// GitHub's id.
    pub id: RunnerId,
    /// Its name.
    pub name: Arc<str>,
    /// Its process is connected.
    pub online: bool,
    /// GitHub says it executes a job. This can lag by up to a minute after a job starts.
    pub busy: bool,
}

/// A complete listing of one scope's runners. A listing that is not known to be complete is an error instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunnerListing {
    /// When the first page was asked for.
    pub asked_at: Time,
    /// Every runner of the scope, whosever it is.
    pub runners: Vec<Runner>,
}

/// What GitHub says of one job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JobView {
    /// Queued, waiting, requested or pending.
    Queued {
        /// GitHub's clock when it answered, if its answer showed it. What a job's row says of times is by that clock too.
        said_at: Option<Time>,
    },
    /// Running on a runner.
    InProgress {
        /// When, and on which runner, when GitHub said both.
        assignment: Option<Assignment>,
    },
    /// It has a conclusion, whatever its status says.
    Completed {
        /// When, and on which runner, when GitHub said both.
        assignment: Option<Assignment>,
        /// When it ended.
        completed_at: Option<Time>,
    },
}

/// What is left of an installation's hourly limit, from a response's headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// `x-ratelimit-limit`.
    pub limit: u32,
    /// `x-ratelimit-remaining`.
    pub remaining: u32,
    /// `x-ratelimit-reset`, by the clock of whoever asked: two answers within one hour may differ by some seconds.
    pub reset_at: Time,
}

/// A JIT configuration was made; the configuration itself stays with the adapter (S10).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Minted {
    /// The offline runner entry that GitHub made for it.
    pub runner: RunnerId,
}

/// Why a call to GitHub did not give what was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GitHubError {
    /// The installation is gone: 404 on its token.
    InstallationGone,
    /// The installation is suspended: 403 on its token, or on a call, with those words.
    InstallationSuspended,
    /// Out of budget: no call before then.
    RateLimited {
        /// When calls may go on; `None` when GitHub did not say.
        until: Option<Time>,
    },
    /// The thing asked about does not exist (404).
    NotFound,
    /// The runner's name is taken (409).
    NameTaken,
    /// The runner executes a job and may not be deleted (422).
    RunnerBusy,
    /// A listing changed while its pages were read: GitHub answered, and what it said does not fit together.
    Torn,
    /// GitHub understood and said no.
    Refused {
        /// HTTP status.
        status: u16,
        /// GitHub's message; never a secret.
        message: String,
    },
    /// No answer, a 5xx, or nonsense: the effect may or may not have happened.
    Unavailable {
        /// What happened, for people; never a secret.
        message: String,
    },
}

/// What every call to GitHub brings back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GitHubAnswer<T> {
    /// The answer, or why there is none.
    pub result: Result<T, GitHubError>,
    /// The installation's budget as the last response told it.
    pub budget: Option<Budget>,
    /// How many HTTP requests it took.
    pub calls: u32,
}

/// Why a call to the cluster did not give what was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClusterError {
    /// An object of that name exists (409 on create).
    AlreadyExists,
    /// The thing is gone (404).
    NotFound,
    /// The cluster understood and said no: quota, RBAC, an invalid object.
    Refused {
        /// HTTP status.
        status: u16,
        /// The cluster's message; never a secret.
        message: String,
    },
    /// No answer, a 5xx, or nonsense: the effect may or may not have happened.
    Unavailable {
        /// What happened, for people; never a secret.
        message: String,
    },
}

/// Why the store did not do what was asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// Away, slow, or failing: the effect may or may not have happened. Try again.
    Unavailable {
        /// What happened, for people; never a secret.
        message: String,
    },
    /// Another leader has taken over: this process may write nothing any more (S13).
    Fenced {
        /// The epoch that was refused.
        epoch: Epoch,
    },
    /// Some of what was given can never be stored, so nothing was: trying again cannot help.
    Unstorable {
        /// What the store says of it, for people; never a secret.
        message: String,
    },
}

/// How one write of a batch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// The row is as the write wanted it, now or already before.
    Done,
    /// A reservation was refused: its owner is at the cap by the store's own count.
    RefusedCap,
    /// A reservation was refused: by the store's own count no pending job of the group lacks a runner.
    RefusedDemand,
    /// The name is in use by another row.
    RefusedName,
    /// The row has ended or does not exist: forward-only (S2).
    RefusedState,
}

/// Which of the two GitHub Apps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum App {
    /// The App for organisations.
    Organization,
    /// The App for personal accounts.
    Personal,
}

/// One line of an App's webhook delivery log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// The attempt's id.
    pub id: i64,
    /// The delivery's GUID, the same for every attempt.
    pub guid: Arc<str>,
    /// When GitHub sent it.
    pub delivered_at: Time,
    /// Whether the receiver answered 2xx.
    pub ok: bool,
    /// Whether it answered 4xx: it took no offence at the moment, but at what the delivery says.
    pub refused: bool,
}

/// Something that happened, as the snapshot learns of it. Any order and repetition is safe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A job's row as the store has it.
    Job(Job),
    /// Rows that one reading of the store brought; the same as one after the other, and faster.
    Jobs(Vec<Job>),
    /// A worker's row as the store has it.
    Worker(Worker),
    /// Everything the store had committed by then has been handed over.
    StoreSynced {
        /// When the reading began.
        asked_at: Time,
    },
    /// A complete listing of pods, from a watch's start or a `ListPods` action.
    Pods(PodListing),
    /// The watch saw this pod.
    PodSeen(Pod),
    /// The watch saw this pod go.
    PodGone {
        /// Its name.
        name: WorkerName,
        /// Its uid: another pod of the name is not meant.
        uid: PodUid,
    },
    /// All nodes.
    Nodes(Vec<Node>),
    /// The watch saw this node.
    NodeSeen(Node),
    /// The watch saw this node go.
    NodeGone(NodeName),
    /// The action of this id ended so.
    Outcome {
        /// The id the decision gave it.
        action: u64,
        /// How it ended.
        outcome: Outcome,
    },
}

/// How an action ended, with what it brought back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A write to the store.
    Written(Result<Written, StoreError>),
    /// `PollJob`.
    JobPolled {
        /// When it was asked.
        asked_at: Time,
        /// What GitHub said.
        answer: GitHubAnswer<JobView>,
    },
    /// `ListRunners`.
    RunnersListed(GitHubAnswer<RunnerListing>),
    /// `MintJit`.
    JitMinted(GitHubAnswer<Minted>),
    /// `CreatePod`.
    PodCreated(Result<Pod, ClusterError>),
    /// `CreateSecret`.
    SecretCreated(Result<(), ClusterError>),
    /// `DeleteRunner`.
    RunnerDeleted(GitHubAnswer<()>),
    /// `DeletePod`: accepted, or the pod was gone already.
    PodDeleted(Result<(), ClusterError>),
    /// `ListPods`.
    PodsListed(Result<PodListing, ClusterError>),
    /// `ListDeliveries`.
    DeliveriesListed(GitHubAnswer<Vec<Delivery>>),
    /// `Redeliver`.
    Redelivered(GitHubAnswer<()>),
    /// The adapter could not carry the action out at all (a secret that only it held is gone).
    Lost,
}
