//! What `decide` says: actions, each with the reason it was chosen.

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::fmt;

use crate::{
    facts::{App, Assignment, RunnerScope, Worker},
    ids::{InstallationId, JobId, NodeName, PodUid, RunnerId, Time, WorkerName},
};

/// Why this service failed a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum JobFailure {
    /// GitHub no longer knows the job (404).
    JobNotFound,
    /// The App was uninstalled.
    InstallationGone,
    /// The App is suspended, and was for so long that GitHub has taken the job out of its queue.
    InstallationSuspended,
}

impl JobFailure {
    /// Every reason, for tables and parsers.
    pub const ALL: [JobFailure; 3] =
        [JobFailure::JobNotFound, JobFailure::InstallationGone, JobFailure::InstallationSuspended];

    /// The word in `jobs.failure_info`.
    pub fn as_str(self) -> &'static str {
        match self {
            JobFailure::JobNotFound => "job_not_found",
            JobFailure::InstallationGone => "installation_gone",
            JobFailure::InstallationSuspended => "installation_suspended",
        }
    }

    /// Reads the store's word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.as_str() == word)
    }
}

/// Why a worker failed: `reason` in its `failure_info`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WorkerFailure {
    /// The pod's phase is Failed.
    PodFailed,
    /// Running for longer than the registration timeout and not online on GitHub.
    RunnerNeverRegistered,
    /// Was online once, and has been offline for longer than the registration timeout without a job.
    RunnerLost,
    /// Pending for longer than the pending timeout.
    PodStuckPending,
    /// The pod is gone, and its runner with it.
    PodVanished,
    /// A scheduler stopped between the steps of provisioning; nothing can take them up again.
    ProvisioningInterrupted,
    /// GitHub gave no JIT configuration for too long, or refused for good.
    JitRefused,
    /// The runner's name was taken on GitHub.
    NameTaken,
    /// The cluster refused the pod or its Secret.
    PodRefused,
    /// Nothing left to do for it: retired before it took a job.
    Surplus,
    /// Its installation is gone.
    InstallationGone,
    /// Its installation is suspended: no runner can be made.
    InstallationSuspended,
}

impl WorkerFailure {
    /// Every reason, for tables and parsers.
    pub const ALL: [WorkerFailure; 12] = [
        WorkerFailure::PodFailed,
        WorkerFailure::RunnerNeverRegistered,
        WorkerFailure::RunnerLost,
        WorkerFailure::PodStuckPending,
        WorkerFailure::PodVanished,
        WorkerFailure::ProvisioningInterrupted,
        WorkerFailure::JitRefused,
        WorkerFailure::NameTaken,
        WorkerFailure::PodRefused,
        WorkerFailure::Surplus,
        WorkerFailure::InstallationGone,
        WorkerFailure::InstallationSuspended,
    ];

    /// The word in `workers.failure_info`.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerFailure::PodFailed => "pod_failed",
            WorkerFailure::RunnerNeverRegistered => "runner_never_registered",
            WorkerFailure::RunnerLost => "runner_lost",
            WorkerFailure::PodStuckPending => "pod_stuck_pending",
            WorkerFailure::PodVanished => "pod_vanished",
            WorkerFailure::ProvisioningInterrupted => "provisioning_interrupted",
            WorkerFailure::JitRefused => "jit_refused",
            WorkerFailure::NameTaken => "name_taken",
            WorkerFailure::PodRefused => "pod_refused",
            WorkerFailure::Surplus => "surplus",
            WorkerFailure::InstallationGone => "installation_gone",
            WorkerFailure::InstallationSuspended => "installation_suspended",
        }
    }

    /// Reads the store's word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|failure| failure.as_str() == word)
    }

    /// Whether the pod's logs are worth 6 hours of keeping. A pod that stands in the way of a retry goes at once (S12).
    pub fn keeps_pod(self) -> bool {
        match self {
            WorkerFailure::PodFailed | WorkerFailure::PodVanished => true,
            WorkerFailure::RunnerNeverRegistered
            | WorkerFailure::RunnerLost
            | WorkerFailure::PodStuckPending
            | WorkerFailure::ProvisioningInterrupted
            | WorkerFailure::JitRefused
            | WorkerFailure::NameTaken
            | WorkerFailure::PodRefused
            | WorkerFailure::Surplus
            | WorkerFailure::InstallationGone
            | WorkerFailure::InstallationSuspended => false,
        }
    }
}

/// One guarded, forward-only write to the store. A batch of them is one transaction under one epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// Insert a pending worker, if the store's own counts agree on cap and demand.
    Reserve {
        /// The row.
        worker: Box<Worker>,
        /// The owner's cap; `None` is unlimited.
        cap: Option<u32>,
        /// Workers of the group that GitHub shows busy with jobs nobody has named: no supply, whatever the rows say. By
        /// name: one that a job names by now, or that has ended, is not to be counted twice.
        phantoms: Arc<[WorkerName]>,
    },
    /// pending → running.
    WorkerRunning {
        /// Which worker.
        name: WorkerName,
        /// When the container started.
        at: Time,
        /// Where.
        node: Option<NodeName>,
    },
    /// pending|running → completed.
    WorkerCompleted {
        /// Which worker.
        name: WorkerName,
        /// When the container ended.
        at: Time,
        /// When it had started, for a worker never seen running.
        running_at: Option<Time>,
        /// Where.
        node: Option<NodeName>,
    },
    /// pending|running → failed, with diagnostics in `failure_info`.
    WorkerFailed {
        /// Which worker.
        name: WorkerName,
        /// When it was decided: not every failed worker has a container that ended.
        at: Time,
        /// When it had started, for a worker never seen running; `None` if its container has not started.
        running_at: Option<Time>,
        /// Where, as far as its pod is in view.
        node: Option<NodeName>,
        /// Why.
        failure: WorkerFailure,
    },
    /// pending → running, as GitHub's own answer says.
    JobRunning {
        /// Which job.
        id: JobId,
        /// On which runner.
        assignment: Option<Assignment>,
    },
    /// pending|running → completed, as GitHub's own answer says.
    JobCompleted {
        /// Which job.
        id: JobId,
        /// On which runner.
        assignment: Option<Assignment>,
        /// When.
        at: Time,
    },
    /// pending|running → failed.
    JobFailed {
        /// Which job.
        id: JobId,
        /// When.
        at: Time,
        /// Why.
        failure: JobFailure,
        /// The installation that its row named when it was read last, 0 for none. A row that names a later one by now is
        /// not failed: a delivery has told of one that was not tried.
        named: InstallationId,
    },
    /// A running job is back in GitHub's queue.
    JobRequeued {
        /// Which job.
        id: JobId,
        /// By GitHub's clock: what it started on before then it has left.
        at: Time,
    },
}

impl Write {
    /// The worker it is about.
    pub fn worker(&self) -> Option<&WorkerName> {
        match self {
            Write::Reserve { worker, .. } => Some(&worker.name),
            Write::WorkerRunning { name, .. }
            | Write::WorkerCompleted { name, .. }
            | Write::WorkerFailed { name, .. } => Some(name),
            Write::JobRunning { .. }
            | Write::JobCompleted { .. }
            | Write::JobFailed { .. }
            | Write::JobRequeued { .. } => None,
        }
    }

    /// The job it is about.
    pub fn job(&self) -> Option<JobId> {
        match self {
            Write::JobRunning { id, .. }
            | Write::JobCompleted { id, .. }
            | Write::JobFailed { id, .. }
            | Write::JobRequeued { id, .. } => Some(*id),
            Write::Reserve { .. }
            | Write::WorkerRunning { .. }
            | Write::WorkerCompleted { .. }
            | Write::WorkerFailed { .. } => None,
        }
    }
}

/// One thing to do. Every action ends in exactly one `Change::Outcome` with its id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Write to the store; batched by the adapter. With `diagnose`, that pod's diagnostics are collected first.
    Write {
        /// What.
        write: Write,
        /// A pod whose logs and events belong in the row's `failure_info`.
        diagnose: Option<(WorkerName, PodUid)>,
    },
    /// Ask GitHub about one job.
    PollJob {
        /// Which.
        id: JobId,
        /// `owner/name`.
        repo: Arc<str>,
        /// Whose token.
        installation: InstallationId,
        /// Which App.
        app: App,
    },
    /// List all runners of a scope.
    ListRunners(RunnerScope),
    /// Make a JIT configuration, and keep it for `CreateSecret`.
    MintJit(Box<Worker>),
    /// Create the worker's pod.
    CreatePod(Box<Worker>),
    /// Create the Secret with the kept JIT configuration, owned by the pod; then forget the configuration.
    CreateSecret {
        /// Whose.
        worker: WorkerName,
        /// The pod it belongs to.
        pod: PodUid,
    },
    /// Delete a runner entry on GitHub.
    DeleteRunner {
        /// Where.
        scope: RunnerScope,
        /// Which.
        id: RunnerId,
        /// Its name, for people.
        name: Arc<str>,
    },
    /// Delete exactly this pod.
    DeletePod {
        /// Its name.
        name: WorkerName,
        /// Its uid.
        uid: PodUid,
    },
    /// List all our pods, from the cluster and not from a cache.
    ListPods,
    /// Read an App's delivery log back to this time.
    ListDeliveries {
        /// Which App.
        app: App,
        /// How far back.
        since: Time,
    },
    /// Ask GitHub to deliver again.
    Redeliver {
        /// Which App.
        app: App,
        /// The failed attempt.
        delivery: i64,
        /// Its GUID, for people.
        guid: Arc<str>,
    },
}

/// Why an action was chosen. One variant a rule's branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// reconcile_jobs: it is this job's turn to be looked at.
    Sweep,
    /// reconcile_jobs: something does not fit: a free runner and a waiting job, or a running job without a runner.
    Doubt,
    /// reconcile_jobs: GitHub's answer differs from the row.
    GitHubSays,
    /// reconcile_jobs: the installation is gone or suspended.
    Installation(JobFailure),
    /// reconcile_runners: this scope's listing is due.
    ListingDue,
    /// reconcile_runners: the runner's worker has ended.
    RunnerOfEndedWorker,
    /// reconcile_runners: no worker has the runner's name.
    OrphanRunner,
    /// reconcile_runners: the runner stands in the way of a worker's removal.
    RunnerBeforePod(WorkerFailure),
    /// reconcile_runners, cleanup_pods, provision: the worker failed.
    WorkerFailed(WorkerFailure),
    /// cleanup_pods: the pod's phase moved on.
    PodPhase,
    /// cleanup_pods: the grace period is over.
    GraceOver,
    /// cleanup_pods: the pod's worker failed in a way that keeps no pod.
    NoGrace(WorkerFailure),
    /// cleanup_pods: no worker has the pod's name.
    OrphanPod,
    /// cleanup_pods: a worker's pod is not in view, or the view is due for a check.
    PodViewDoubt,
    /// demand_match: this pending job lacks a runner.
    Demand {
        /// The job that asked.
        job: JobId,
    },
    /// provision: the next step for a reserved worker.
    NextStep,
    /// redeliver: the log is due.
    DeliveryLogDue,
    /// redeliver: the receiver did not answer 2xx.
    NotDelivered,
}

/// One chosen action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// Its id, unique within a snapshot's life.
    pub id: u64,
    /// What to do.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

/// What one call of `decide` chose, and when to call again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// In the order chosen; they may be carried out concurrently.
    pub actions: Vec<Chosen>,
    /// When something falls due even if nothing changes.
    pub wake_at: Option<Time>,
}

impl fmt::Display for WorkerFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for JobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
