//! The store's contract as a pure value: rows, forward-only writes, the guards of a reservation, the cursor, and
//! leadership. The in-memory store is this behind a lock; Postgres is held to it by a differential test.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use crate::{
    decision::{JobFailure, Write},
    facts::{Job, Status, Worker, Written},
    ids::{EntityId, Epoch, InstallationId, JobId, Span, Time, WorkerName},
    intake::join,
};

/// How long an ended worker is part of a first reading.
const RECENT: Span = Span::hours(24);

/// All rows of one realm. Every change gives its row a new version; nothing is ever deleted.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    version: u64,
    jobs: BTreeMap<JobId, (u64, Job)>,
    workers: BTreeMap<WorkerName, (u64, Worker)>,
    epoch: i64,
    leader: Option<Time>,
}

impl Rows {
    /// Every job, by id.
    pub fn jobs(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().map(|(_, job)| job)
    }

    /// Every worker, by name.
    pub fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().map(|(_, worker)| worker)
    }

    /// One job.
    pub fn job(&self, id: JobId) -> Option<&Job> {
        self.jobs.get(&id).map(|(_, job)| job)
    }

    /// One worker.
    pub fn worker(&self, name: &WorkerName) -> Option<&Worker> {
        self.workers.get(name).map(|(_, worker)| worker)
    }

    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Joins what one delivery says with its job's row.
    pub fn record(&mut self, event: Job) {
        let row = self.jobs.get(&event.id).map_or_else(|| event.clone(), |(_, row)| join(row, &event));
        self.put_job(row);
    }

    /// Fails an installation's pending jobs; which. Those of an entity of which an active row names a later installation are
    /// spared: its App was installed anew, and they are served through that.
    pub fn fail_installation(&mut self, installation: InstallationId, failure: JobFailure, at: Time) -> Vec<JobId> {
        let later = |job: &&Job| !job.status.is_ended() && job.installation > installation;
        let anew: BTreeSet<EntityId> = self.jobs().filter(later).map(|job| job.entity).collect();
        let pending = |job: &&Job| {
            job.installation == installation && job.status == Status::Pending && !anew.contains(&job.entity)
        };
        let failed: Vec<JobId> = self.jobs().filter(pending).map(|job| job.id).collect();
        for &id in &failed {
            self.write(Write::JobFailed { id, at, failure, named: installation });
        }
        failed
    }

    /// Gives leadership until `now + ttl`, when nobody has it or the holder's time is over. The epoch grows by one.
    pub fn acquire(&mut self, now: Time, ttl: Span) -> Option<Epoch> {
        if self.leader.is_some_and(|until| now < until) {
            return None;
        }
        self.epoch += 1;
        self.leader = Some(now + ttl);
        Some(Epoch(self.epoch))
    }

    /// Whether this epoch still leads: not given up, and no later one granted.
    pub fn is_current(&self, epoch: Epoch) -> bool {
        self.epoch == epoch.0 && self.leader.is_some()
    }

    /// Prolongs leadership; `false` when it was lost.
    pub fn renew(&mut self, epoch: Epoch, now: Time, ttl: Span) -> bool {
        let current = self.is_current(epoch);
        if current {
            self.leader = Some(now + ttl);
        }
        current
    }

    /// Gives leadership up, if it is still held.
    pub fn release(&mut self, epoch: Epoch) {
        if self.is_current(epoch) {
            self.leader = None;
        }
    }

    /// Rows changed at or after `since`, or without it every active row and the workers that ended within a day; and
    /// the cursor to go on from.
    pub fn changes(&self, since: Option<u64>, now: Time) -> (Vec<Job>, Vec<Worker>, u64) {
        // Nothing has changed since then.
        if since.is_some_and(|since| since > self.version) {
            return (Vec::new(), Vec::new(), self.version + 1);
        }
        let recent = |worker: &&Worker| {
            !worker.status.is_ended() || worker.completed_at.is_some_and(|at| now.since(at) < RECENT)
        };
        let (jobs, workers) = match since {
            None => (
                self.jobs().filter(|job| !job.status.is_ended()).cloned().collect(),
                self.workers().filter(recent).cloned().collect(),
            ),
            Some(since) => (
                self.jobs.values().filter(|(version, _)| *version >= since).map(|(_, job)| job.clone()).collect(),
                self.workers.values().filter(|(version, _)| *version >= since).map(|(_, w)| w.clone()).collect(),
            ),
        };
        (jobs, workers, self.version + 1)
    }

    fn put_job(&mut self, job: Job) {
        if self.jobs.get(&job.id).is_none_or(|(_, known)| *known != job) {
            self.version += 1;
            self.jobs.insert(job.id, (self.version, job));
        }
    }

    fn put_worker(&mut self, worker: Worker) {
        if self.workers.get(&worker.name).is_none_or(|(_, known)| *known != worker) {
            self.version += 1;
            self.workers.insert(worker.name.clone(), (self.version, worker));
        }
    }

    /// Makes one write, as far as forward-only rules and guards let it. Whoever calls it holds leadership.
    pub fn write(&mut self, write: Write) -> Written {
        match write {
            Write::Reserve { worker, cap, phantoms } => self.reserve(*worker, cap, &phantoms),
            Write::WorkerRunning { name, at, node } => self.edit_worker(&name, Status::Running, |worker| {
                worker.running_at = Some(at);
                worker.node = node.or(worker.node.take());
            }),
            Write::WorkerCompleted { name, at, running_at, node } => {
                self.edit_worker(&name, Status::Completed, |worker| {
                    worker.completed_at = Some(at);
                    worker.running_at = worker.running_at.or(running_at);
                    worker.node = node.or(worker.node.take());
                })
            }
            Write::WorkerFailed { name, at, running_at, node, failure } => {
                self.edit_worker(&name, Status::Failed, |worker| {
                    worker.completed_at = Some(at);
                    worker.running_at = worker.running_at.or(running_at);
                    worker.node = node.or(worker.node.take());
                    worker.failure = Some(failure);
                })
            }
            Write::JobRunning { id, assignment } => self.edit_job(id, Status::Running, |job| {
                job.assignment = job.assignment.take().max(assignment);
            }),
            Write::JobCompleted { id, assignment, at } => self.edit_job(id, Status::Completed, |job| {
                job.assignment = job.assignment.take().max(assignment);
                job.completed_at = Some(at);
            }),
            Write::JobFailed { id, at, failure, named } => {
                let row = self.job(id).map(|job| (job.status, job.installation));
                match Move::of_failed_job(row, named) {
                    Move::Answer(written) => written,
                    Move::Change => self.edit_job(id, Status::Failed, |job| {
                        job.completed_at = Some(at);
                        job.failure = Some(failure);
                    }),
                }
            }
            Write::JobRequeued { id, at } => match self.jobs.get(&id) {
                Some((_, job)) if Move::of_requeue(Some(job.status)) == Move::Change => {
                    let mut job = job.clone();
                    job.requeued_at = job.requeued_at.max(Some(at));
                    self.put_job(job);
                    Written::Done
                }
                Some(_) | None => Written::RefusedState,
            },
        }
    }

    fn edit_worker(&mut self, name: &WorkerName, to: Status, edit: impl FnOnce(&mut Worker)) -> Written {
        let Some((_, worker)) = self.workers.get(name) else { return Written::RefusedState };
        if let Move::Answer(written) = Move::of_worker(Some(worker.status), to) {
            return written;
        }
        let mut worker = worker.clone();
        worker.status = to;
        edit(&mut worker);
        self.put_worker(worker);
        Written::Done
    }

    fn edit_job(&mut self, id: JobId, to: Status, edit: impl FnOnce(&mut Job)) -> Written {
        let Some((_, job)) = self.jobs.get(&id) else { return Written::RefusedState };
        if let Move::Answer(written) = Move::of_job(Some(job.status), to) {
            return written;
        }
        let mut job = job.clone();
        job.status = job.status.max(to);
        edit(&mut job);
        self.put_job(job);
        Written::Done
    }

    fn reserve(&mut self, worker: Worker, cap: Option<u32>, phantoms: &[WorkerName]) -> Written {
        if let Some((_, known)) = self.workers.get(&worker.name) {
            let same =
                known.entity == worker.entity && known.created_at == worker.created_at && known.labels == worker.labels;
            return if same { Written::Done } else { Written::RefusedName };
        }
        let active = |worker: &&Worker| !worker.status.is_ended();
        let owned = self.workers.values().map(|(_, w)| w).filter(active).filter(|w| w.owner == worker.owner).count();
        if let Some(refused) = self.demand(&worker, phantoms).refusal(owned as i64, cap) {
            return refused;
        }
        self.put_worker(worker);
        Written::Done
    }

    /// What the worker's group has, of whose workers `phantoms` are said to be busy with what nobody has named.
    fn demand(&self, like: &Worker, phantoms: &[WorkerName]) -> Demand {
        let in_group = |worker: &&Worker| {
            !worker.status.is_ended() && worker.entity == like.entity && worker.labels == like.labels
        };
        let mut free: Vec<&str> = self.workers().filter(in_group).map(|worker| worker.name.as_str()).collect();
        free.sort_unstable();
        let (mut pending, mut anonymous) = (0, 0);
        for job in self.jobs().filter(|job| !job.status.is_ended()) {
            let waits = job.status == Status::Pending || job.is_requeued();
            if job.entity == like.entity && job.labels == like.labels {
                pending += i64::from(waits);
                anonymous += i64::from(!waits && job.assignment.is_none());
            }
            if !waits
                && let Some(assignment) = &job.assignment
                && let Ok(at) = free.binary_search(&&*assignment.runner)
            {
                free.remove(at);
            }
        }
        let phantom = phantoms.iter().filter(|name| free.binary_search(&name.as_str()).is_ok()).count() as i64;
        Demand { pending, anonymous, phantom, free: free.len() as i64 }
    }
}

/// What a row does when a status is written to it: no status goes back (S2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    /// It changes.
    Change,
    /// It stays as it is, and this is the answer.
    Answer(Written),
}

impl Move {
    /// A worker's row of status `from`, or none.
    pub fn of_worker(from: Option<Status>, to: Status) -> Self {
        match from {
            Some(from) if from == to => Move::Answer(Written::Done),
            Some(from) if from.is_ended() || from > to => Move::Answer(Written::RefusedState),
            Some(_) => Move::Change,
            None => Move::Answer(Written::RefusedState),
        }
    }

    /// A job's row of status `from`, or none. One that is running already may still learn which runner took it.
    pub fn of_job(from: Option<Status>, to: Status) -> Self {
        match from {
            Some(from) if !from.is_ended() => Move::Change,
            Some(from) if from == to => Move::Answer(Written::Done),
            Some(_) | None => Move::Answer(Written::RefusedState),
        }
    }

    /// The row of a job, of this status and installation, that is to be failed by somebody who read that it named `read`.
    /// What calls have shown says nothing of the job when its row names a later installation by now.
    pub fn of_failed_job(row: Option<(Status, InstallationId)>, read: InstallationId) -> Self {
        match (Move::of_job(row.map(|(from, _)| from), Status::Failed), row) {
            (Move::Change, Some((_, named))) if named > read => Move::Answer(Written::RefusedState),
            (to_do, _) => to_do,
        }
    }

    /// The row of a job that GitHub put back into its queue: only one that runs can be.
    pub fn of_requeue(from: Option<Status>) -> Self {
        if from == Some(Status::Running) { Move::Change } else { Move::Answer(Written::RefusedState) }
    }
}

/// What the guards of a reservation count in its group of (entity, labels).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Demand {
    /// Pending and requeued jobs.
    pub pending: i64,
    /// Running jobs whose runner is unknown.
    pub anonymous: i64,
    /// Workers that are known to be busy with something else, of those that no running job names.
    pub phantom: i64,
    /// Workers pending or running that no running job names.
    pub free: i64,
}

impl Demand {
    /// Why one more worker is refused, if it is: its owner has `owned` and may have `cap` (S4), or no pending job of the
    /// group lacks a runner (S5).
    pub fn refusal(&self, owned: i64, cap: Option<u32>) -> Option<Written> {
        if cap.is_some_and(|cap| owned >= i64::from(cap)) {
            return Some(Written::RefusedCap);
        }
        let lacking = self.pending > 0 && self.pending + self.anonymous.max(self.phantom) > self.free;
        if lacking { None } else { Some(Written::RefusedDemand) }
    }
}
