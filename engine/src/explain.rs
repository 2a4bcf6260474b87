//! Why one job is waiting, and its place in the queue: not acting is explained too.

use alloc::{
    string::{String, ToString},
    sync::Arc,
    vec,
    vec::Vec,
};
use core::fmt;

use crate::{
    decision::JobFailure,
    facts::Status,
    governor::Use,
    ids::{InstallationId, JobId, Pool, Time, WorkerName},
    policy::Policy,
    snapshot::{Group, JobEntry, Px, Snapshot, Stage, WorkerEntry},
};

/// What a job waits for. The first that applies, in the order the rules would find it; a worker that cannot be started
/// is no answer: what keeps it from its start is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WaitingOn {
    /// Not a pending or running job as far as is known.
    Nothing,
    /// It runs; on this runner if that is known.
    Running {
        /// The runner's name.
        runner: Option<Arc<str>>,
    },
    /// Views that decisions need are not complete yet.
    Views {
        /// Which: "jobs and workers", "pods", "nodes".
        missing: Vec<&'static str>,
    },
    /// No delivery has said which installation it belongs to.
    UnknownInstallation,
    /// GitHub says that the App is not installed, or is suspended.
    Installation(JobFailure),
    /// Workers of its group are free or on their way; it gets the first that GitHub gives it to.
    Workers {
        /// They and what each is doing.
        workers: Vec<(WorkerName, WorkerState)>,
    },
    /// Its owner is at its cap.
    Cap {
        /// Workers now.
        active: u32,
        /// The cap.
        cap: u32,
    },
    /// No node offers a place.
    Capacity {
        /// The pool.
        pool: Pool,
        /// Places taken.
        taken: i64,
        /// Places offered by usable nodes.
        offered: i64,
        /// Its place in the pool's line, from 1: among the jobs that lack a runner, or, where its runner lacks a place that
        /// was lost, among such runners.
        place: u64,
    },
    /// GitHub's limits, or GitHub being out of reach, hold provisioning back.
    GitHub {
        /// Whose.
        installation: InstallationId,
        /// Limited or out of reach since; `None`: only the pace of this service's own calls is held back.
        failing_since: Option<Time>,
        /// The last answer was a limit; otherwise there was none, or nonsense.
        limited: bool,
        /// The next attempt; `None`: when a call under way ends.
        until: Option<Time>,
    },
    /// A worker is reserved for it, but GitHub says no to the runner, or the cluster does not take the pod.
    Refused {
        /// Which worker.
        worker: WorkerName,
        /// By whom.
        by: Refuser,
        /// Attempts that failed, one after the other.
        attempts: u32,
        /// Since the worker was reserved, which is at most a call's length before the first refusal.
        since: Time,
        /// The next attempt.
        until: Time,
    },
    /// The store refused the last reservation for its group, or did not answer; the next attempt is then.
    Store {
        /// When.
        until: Time,
    },
    /// Nothing: a worker is reserved in the next decision.
    NextDecision,
}

/// Who stands between a reserved worker and its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refuser {
    /// GitHub makes no JIT configuration for it.
    GitHub,
    /// The cluster makes neither its pod nor its Secret.
    Cluster,
}

/// What a worker that a job waits for is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WorkerState {
    /// Being reserved, or waiting for its JIT configuration, pod or Secret.
    Provisioning,
    /// Its pod is pending.
    Starting,
    /// Its runner is up but not yet registered.
    Registering,
    /// Online and free.
    Idle,
    /// Being taken away.
    Leaving,
}

/// One job's explanation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The job.
    pub job: JobId,
    /// What it waits for.
    pub waiting_on: WaitingOn,
}

/// How the view of the store's rows is called.
const ROWS: &str = "jobs and workers";

/// Explains one job as of `now`. Reads only; the cost is that of its group and of its pool's line.
pub fn explain(snapshot: &Snapshot, policy: &Policy, job: JobId, now: Time) -> Explanation {
    let waiting_on = match snapshot.jobs.get(&job) {
        Some(entry) => waiting_on(snapshot, policy, job, entry, now),
        // Only a reading of all rows tells that there is none.
        None if snapshot.synced_at.is_none() => WaitingOn::Views { missing: vec![ROWS] },
        None => WaitingOn::Nothing,
    };
    Explanation { job, waiting_on }
}

fn waiting_on(s: &Snapshot, policy: &Policy, id: JobId, job: &JobEntry, now: Time) -> WaitingOn {
    if job.ending {
        return WaitingOn::Nothing;
    }
    if job.status == Status::Running && !job.requeued {
        return WaitingOn::Running { runner: job.assignment().map(|assignment| assignment.runner.clone()) };
    }
    let missing = missing_views(s);
    if !missing.is_empty() {
        return WaitingOn::Views { missing };
    }
    let group = &s.groups[job.group as usize];
    let installation = s.scopes[group.scope].scope.installation;
    if installation.0 == 0 {
        return WaitingOn::UnknownInstallation;
    }
    match s.installations.get(&installation) {
        Some(entry) if entry.gone.is_some() => return WaitingOn::Installation(JobFailure::InstallationGone),
        Some(entry) if entry.allowance.is_suspended() => {
            return WaitingOn::Installation(JobFailure::InstallationSuspended);
        }
        Some(_) | None => {}
    }
    let position = group.rank((job.created_at, id)) as i64;
    if position < group.idle() {
        let free = free_workers(s, group);
        // Those that get on serve the group's older jobs; the job is with the others when it is younger than that.
        let stuck = free.iter().filter_map(|(name, _)| obstacle(s, policy, name, now));
        let mut stuck = stuck.collect::<Vec<_>>();
        let getting_on = group.idle() - stuck.len() as i64;
        if position >= getting_on && !stuck.is_empty() {
            let at = usize::try_from(position - getting_on.max(0)).unwrap_or(0).min(stuck.len() - 1);
            return stuck.swap_remove(at);
        }
        return WaitingOn::Workers { workers: free };
    }
    if let Some(owner) = s.owners.get(&group.owner) {
        let cap = policy.cap(group.owner);
        if let Some(cap) = cap.filter(|&cap| owner.active >= cap) {
            return WaitingOn::Cap { active: owner.active, cap };
        }
    }
    let to = s.place(job);
    let (offered, taken) = s.capacity(&to.pool);
    if taken >= offered {
        // The group's workers on their way serve its older jobs: what is made next for it is made at an older one's turn.
        let turn = group.nth(usize::try_from(position - group.idle()).unwrap_or(0));
        let place = place(s, to.px, turn.unwrap_or((job.created_at, id)));
        return WaitingOn::Capacity { pool: to.pool.clone(), taken, offered, place };
    }
    if group.held.until > now {
        return WaitingOn::Store { until: group.held.until };
    }
    github_holds(s, policy, installation, now).unwrap_or(WaitingOn::NextDecision)
}

/// Whether GitHub would have to wait before it is asked for a runner, and why.
fn github_holds(s: &Snapshot, policy: &Policy, installation: InstallationId, now: Time) -> Option<WaitingOn> {
    let entry = s.installations.get(&installation)?;
    let until = entry.allowance.clone().ready_at(Use::Mint, &policy.governor, now);
    if until <= now && !entry.allowance.is_tried() {
        return None;
    }
    let until = Some(until).filter(|&until| now < until && until != Time::NEVER);
    let limited = entry.failing_since.is_none() || entry.allowance.is_limited();
    Some(WaitingOn::GitHub { installation, failing_since: entry.failing_since, limited, until })
}

/// What keeps a worker from its start, or from being gone so that another can take its place, if something does.
fn obstacle(s: &Snapshot, policy: &Policy, name: &WorkerName, now: Time) -> Option<WaitingOn> {
    let worker = s.workers.get(name)?;
    let installation = worker.row.installation;
    if worker.stage == Stage::Minted
        && worker.removing.is_none()
        && !worker.in_flight
        && let Some(full) = lost_place(s, worker)
    {
        return Some(full);
    }
    let by = match worker.stage {
        Stage::Minted | Stage::PodMade(_) if worker.removing.is_none() => Refuser::Cluster,
        Stage::Found | Stage::Ready if worker.removing.is_none() => return None,
        Stage::Found | Stage::Reserving | Stage::Reserved | Stage::Minted | Stage::PodMade(_) | Stage::Ready => {
            Refuser::GitHub
        }
    };
    if by == Refuser::GitHub {
        // What holds all calls back comes before what was said to this worker's own.
        let entry = s.installations.get(&installation);
        if let Some((entry, since)) = entry.and_then(|entry| Some((entry, entry.failing_since?))) {
            let (until, limited) = (entry.allowance.blocked.until, entry.allowance.is_limited());
            let until = Some(until).filter(|&until| until > now);
            return Some(WaitingOn::GitHub { installation, failing_since: Some(since), limited, until });
        }
        if worker.stage == Stage::Reserved && !worker.in_flight && worker.mint_paid.is_none() {
            return github_holds(s, policy, installation, now).or_else(|| refused(worker, by));
        }
    }
    if worker.stage == Stage::Reserving {
        return (worker.backoff.failures > 0).then_some(WaitingOn::Store { until: worker.backoff.until });
    }
    refused(worker, by).filter(|_| worker.removing.is_none())
}

/// Its pool has lost places since it was reserved: its pod is made when one is free.
fn lost_place(s: &Snapshot, worker: &WorkerEntry) -> Option<WaitingOn> {
    if s.has_place_for_pod(worker) {
        return None;
    }
    let pool = worker.row.pool.clone();
    let (offered, taken) = s.capacity(&pool);
    Some(WaitingOn::Capacity { pool, taken, offered, place: s.line_for_pod(worker) })
}

/// What was said to a worker's own calls, when the last one failed.
fn refused(worker: &WorkerEntry, by: Refuser) -> Option<WaitingOn> {
    let (worker_name, attempts) = (worker.row.name.clone(), worker.backoff.failures);
    let (since, until) = (worker.row.created_at, worker.backoff.until);
    (attempts > 0).then_some(WaitingOn::Refused { worker: worker_name, by, attempts, since, until })
}

fn missing_views(s: &Snapshot) -> Vec<&'static str> {
    let views = [(s.synced_at.is_some(), ROWS), (s.pods_at.is_some(), "pods"), (s.nodes_known, "nodes")];
    views.into_iter().filter(|(known, _)| !known).map(|(_, name)| name).collect()
}

/// A group's workers that no running job names and that are not known to be taken otherwise, oldest first.
fn free_workers(s: &Snapshot, group: &Group) -> Vec<(WorkerName, WorkerState)> {
    let scope = &s.scopes[group.scope];
    let mut free: Vec<_> = scope
        .workers
        .iter()
        .filter_map(|name| s.workers.get(name).map(|worker| (name, worker)))
        .filter(|(name, worker)| {
            worker.is_active() && worker.row.labels == group.key.labels && !s.is_named(name) && !worker.phantom
        })
        .map(|(name, worker)| {
            let state = match (&worker.stage, worker.row.status, worker.registered) {
                _ if worker.removing.is_some() => WorkerState::Leaving,
                (Stage::Reserving | Stage::Reserved | Stage::Minted | Stage::PodMade(_), ..) => {
                    WorkerState::Provisioning
                }
                (_, Status::Pending, _) => WorkerState::Starting,
                (_, _, false) => WorkerState::Registering,
                (_, _, true) => WorkerState::Idle,
            };
            (worker.row.created_at, name.clone(), state)
        })
        .collect();
    free.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    free.into_iter().map(|(_, name, state)| (name, state)).collect()
}

/// How many jobs in the pool's line come before `key`, plus one. Each wanting group stands there with as many of its
/// oldest jobs as it lacks runners.
fn place(s: &Snapshot, pool: Px, key: (Time, JobId)) -> u64 {
    let before = |gx: u32| {
        let group = &s.groups[gx as usize];
        let want = usize::try_from(group.want()).unwrap_or(0);
        group.line(pool).map_or(0, |line| line.pending.rank(key).min(want) as u64)
    };
    let queue = &s.pools[pool as usize].queue;
    1 + queue.iter().take_while(|&&(at, id, _)| (at, id) < key).map(|&(_, _, gx)| before(gx)).sum::<u64>()
}

impl fmt::Display for WorkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WorkerState::Provisioning => "being provisioned",
            WorkerState::Starting => "its pod is starting",
            WorkerState::Registering => "registering",
            WorkerState::Idle => "idle",
            WorkerState::Leaving => "being removed",
        })
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitingOn::Nothing => f.write_str("not waiting: it is neither pending nor running"),
            WaitingOn::Running { runner: Some(runner) } => write!(f, "running on {runner}"),
            WaitingOn::Running { runner: None } => f.write_str("running"),
            WaitingOn::Views { missing } => write!(f, "the scheduler is still reading {}", missing.join(", ")),
            WaitingOn::UnknownInstallation => f.write_str("no delivery has said which App installation it belongs to"),
            WaitingOn::Installation(failure) => write!(f, "GitHub says: {failure}"),
            WaitingOn::Workers { workers } => {
                let list: Vec<String> =
                    workers.iter().map(|(name, state)| alloc::format!("{name} ({state})")).collect();
                write!(f, "demand is met by {}", if list.is_empty() { "a worker".to_string() } else { list.join(", ") })
            }
            WaitingOn::Cap { active, cap } => write!(f, "its owner is at its cap: {active} of {cap} workers"),
            WaitingOn::Capacity { pool, taken, offered, place } => {
                write!(f, "pool {pool} is full: {taken} of {offered} places; number {place} in line")
            }
            WaitingOn::GitHub { installation, failing_since, limited, until } => {
                let what = if *limited { "GitHub's limits hold calls back" } else { "GitHub cannot be reached" };
                write!(f, "{what} for installation {installation}")?;
                if let Some(since) = failing_since {
                    write!(f, " since {since}")?;
                }
                until.map_or(Ok(()), |until| write!(f, "; next attempt at {until}"))
            }
            WaitingOn::Refused { worker, by, attempts, since, until } => {
                let what = match by {
                    Refuser::GitHub => "GitHub refuses a runner",
                    Refuser::Cluster => "the cluster does not take the pod or its Secret",
                };
                let times = if *attempts == 1 { "once" } else { "again and again" };
                write!(f, "{what} for {worker}, {times} since {since}; next attempt at {until}")
            }
            WaitingOn::Store { .. } => {
                f.write_str("the store did not take the last reservation; it is tried again shortly")
            }
            WaitingOn::NextDecision => f.write_str("a worker is reserved for it next"),
        }
    }
}
