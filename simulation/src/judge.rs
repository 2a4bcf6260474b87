//! What must always hold, each invariant by its name, written against the world's truth and the store's rows.
//!
//! Nothing here asks the engine. Safety is judged at every effect; liveness from the moment the plan's faults have
//! stopped, with an eye for when waiting is legitimate.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use engine::{
    decision::{JobFailure, WorkerFailure, Write},
    facts::{Job, PodPhase, Status, Worker, Written},
    ids::{EntityId, Epoch, JobId, OwnerId, PodUid, Span, Time, WorkerName},
    labels::LabelSet,
};

use crate::{
    cluster::Whose,
    github::{Entry, JobState},
    register::Rare,
    run::{HOUR, MINUTE, SECOND, Sim},
    store::is_waiting,
};

/// Which call of an installation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// One job.
    Poll,
    /// A scope's runners.
    List,
    /// A JIT configuration.
    Mint,
    /// A runner's deletion.
    Delete,
}

impl Call {
    /// Writes cost five points.
    pub fn is_write(self) -> bool {
        matches!(self, Call::Mint | Call::Delete)
    }
}

/// What did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The invariant's name.
    pub invariant: &'static str,
    /// When, in milliseconds since the world's start.
    pub at: i64,
    /// What happened.
    pub what: String,
}

/// After the faults have stopped, this long is allowed before service is back to normal (L7).
const RECOVERY: i64 = 2 * MINUTE;
/// A worker for every job that has room (L1): 30 s, and the longest pause after a failed call.
const SERVED: i64 = 30 * SECOND + MINUTE;
/// JIT calls that an installation's points of a minute allow, beside those for what else is asked: a crowd is served at that rate.
const JIT_A_MINUTE: i64 = 160;
/// A lost delivery is made up for (L2), and its repetition takes its way.
const MADE_UP: i64 = 5 * MINUTE + 2 * MINUTE;
/// From so many refusals on a delivery may wait up to an hour for its next repetition.
const OFTEN: u32 = 5;
/// Of an hour's calls, so many percent are kept for provisioning.
const RESERVED: i64 = 30;
/// A lost `completed` of a job on one of our runners (L2).
const ENDED: i64 = 60 * SECOND + 15 * SECOND;
/// A change that only the sweep over all jobs finds: its period, and a little.
const SWEPT: i64 = 3 * MINUTE + 30 * SECOND;
/// An App's end is proven by calls over 15 s, and all its jobs are failed (L2).
const GONE: i64 = SWEPT;
/// Runners are listed every two minutes; one that is busy with what nobody told of counts as taken 90 s later.
const LISTED: i64 = 3 * MINUTE + 45 * SECOND;
/// Orphans are gone (L4), surplus is retired (L5).
const CLEAN: i64 = 10 * MINUTE;
/// A new leader acts (L8).
const LED: i64 = 15 * SECOND + 15 * SECOND;
/// How long nothing may happen for the world to count as quiet (L6).
const QUIET: i64 = 6 * MINUTE;
/// The grace period (S12).
const GRACE: i64 = 6 * HOUR;
/// What changed within this time may not have been read yet, or not been when the decision was made.
const FRESH: i64 = 2 * SECOND;
/// Views may lag this much behind nodes that come and go (S6).
const VIEW_LAG: i64 = 4 * MINUTE;
/// So long it may take until a later installation that a delivery named is found to be none.
const MISLED: i64 = 3 * MINUTE;
/// What rows have said for so long, every leader has read.
const NAMED: i64 = 10 * MINUTE;

/// What a write found before it was made.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// Jobs of the reservation's group that wait, and free workers that could serve them.
    demand: Option<(i64, i64)>,
    /// Workers that the reservation counted as taken by nobody knew what; they may have been named since.
    unnamed: i64,
    /// The row was there already; a job's had ended already. The write repeats one whose answer was lost, and changes nothing.
    repeated: bool,
}

/// Which accounts and entities can be looked after.
#[derive(Debug)]
struct Sight {
    /// By account: nothing is wrong with it.
    healthy: Vec<bool>,
    /// By account: the App is not there, and time alone does not bring it back.
    gone: Vec<bool>,
    /// Entities of which a delivery has told with the installation that they have now.
    told: Vec<i64>,
    /// When time alone makes one healthy.
    changes_at: i64,
}

/// What a group with waiting jobs has and may have.
#[derive(Debug)]
struct Supply {
    key: i64,
    entity: i64,
    labels: String,
    waiting: i64,
    free: i64,
    /// Under its owner's cap.
    room: bool,
    /// In its pool.
    place: bool,
    /// How long it takes to serve all jobs that its account has ever had.
    crowd: i64,
    /// A job of the entity was failed.
    failed: bool,
}

/// What is seen of one pod, by the invariants that it may break.
#[derive(Debug)]
struct PodLook {
    name: WorkerName,
    key: i64,
    unregistered: bool,
    pending: bool,
    orphan: bool,
    old: bool,
}

/// What a job's accepted deliveries say, all together: the same in whatever order and however often they came.
#[derive(Debug)]
struct Told {
    status: Status,
    installation: i64,
    started: Option<Time>,
    ended: Option<Time>,
}

/// Memory of what was, to hold what is against.
#[derive(Debug, Default)]
pub struct Judge {
    jobs: BTreeMap<JobId, Job>,
    workers: BTreeMap<WorkerName, Status>,
    accepted: BTreeMap<JobId, Told>,
    jit: BTreeMap<i64, PodUid>,
    repeated: BTreeMap<Arc<str>, u32>,
    /// What pools offered before each change, latest last.
    offered: VecDeque<(i64, Vec<i64>)>,
    /// Entries that were online and without a job for some time when they were deleted.
    deleted_idle: BTreeMap<WorkerName, i64>,
    /// How long each job whose end was lost waits for those that were lost before it.
    turns: BTreeMap<i64, i64>,
    /// What holds that must not for long, and since when.
    held: BTreeMap<(i64, &'static str), i64>,
    /// Something has happened in the world since the last whole look at it.
    pub(crate) dirty: bool,
    /// What the last whole look found stays so until then, if nothing happens.
    stale_at: i64,
    /// It found that all that can end has ended.
    settled: bool,
    trouble: BTreeMap<usize, i64>,
    refused: BTreeMap<(EntityId, i64), i64>,
    /// When each owner's room or demand last changed: decisions lag behind the rows.
    moved: BTreeMap<OwnerId, i64>,
    last_change: i64,
    done_at: Option<i64>,
    decisions_at_done: u64,
    /// Workers had not ended then that the leader cannot look after.
    left_at_done: bool,
    reachable: Vec<bool>,
    /// Until when calls may still go by a later installation that a delivery named wrongly, by account; and which ones this
    /// leader has read of, by entity.
    misled: BTreeMap<usize, i64>,
    misleading: BTreeSet<(EntityId, i64)>,
    /// Since when rows have named an entity's installation rightly.
    named: BTreeMap<(EntityId, i64), i64>,
    /// By entity, the installations that the leader has read of.
    heard: BTreeSet<(EntityId, i64)>,
    /// By account, how often it was refused without being told until when, and until when it is advised to wait. A caller
    /// may not hear of the answers in between.
    untold: BTreeMap<usize, (u32, i64)>,
}

impl Judge {
    pub(crate) fn note_used_up(&mut self, account: usize, now: i64) {
        self.trouble.insert(account, now);
    }

    /// GitHub's advice for a refusal that names no time: a minute, and twice as long after each further one.
    pub(crate) fn note_untold(&mut self, account: usize, now: i64) {
        let (times, until) = self.untold.entry(account).or_default();
        // Whether a refusal counts as one more depends on when the earlier ones were heard of; here each does.
        *until = (*until).max(now + (MINUTE << (*times).min(5)));
        *times += 1;
    }
}

fn number(name: &WorkerName) -> i64 {
    crate::trace::number(name.as_str())
}

impl Sim {
    // ---- the store's rows

    /// S2 for one job.
    pub(crate) fn judge_job_row(&mut self, id: JobId) {
        let Some(row) = self.store.rows.job(id).cloned() else { return };
        if let Some(old) = self.judge.jobs.get(&id) {
            let back = row.status < old.status && !(row.status == Status::Completed && old.status == Status::Failed);
            let revived = old.status.is_ended() && row.status != old.status;
            if back || revived {
                let what = format!("job {id} went from {:?} to {:?}", old.status, row.status);
                self.breaks("S2 forward-only", what);
            }
        }
        if self.judge.jobs.get(&id) != Some(&row) {
            self.judge.last_change = self.now;
            self.judge.moved.insert(row.owner, self.now);
            if is_waiting(&row) {
                self.judge_needed(&row);
            }
            if let Some(account) = self.account_of(row.entity.0) {
                let (named, real) = (row.installation.0, self.github.accounts[account].installation);
                if named == real {
                    self.judge.named.entry((row.entity, named)).or_insert(self.now);
                } else if named > real && self.judge.misleading.insert((row.entity, named)) {
                    self.judge.misled.insert(account, self.now + MISLED);
                }
            }
            self.judge.jobs.insert(id, row);
        }
    }

    /// L5 begins anew for a group's free runners when a job of it waits, for however short a time: a look may miss it.
    fn judge_needed(&mut self, row: &Job) {
        if self.judge.held.is_empty() {
            return;
        }
        let group = |entry: &Entry| entry.entity == row.entity.0 && entry.labels == row.labels;
        for (&id, _) in self.github.runners.iter().filter(|(_, entry)| group(entry)) {
            self.judge.held.remove(&(id, "L5 surplus"));
        }
    }

    /// S1 and S3: a delivery that says this was answered 2xx.
    pub(crate) fn judge_accepted(&mut self, said: &Job) {
        let id = said.id;
        let new = Told { status: said.status, installation: said.installation.0, started: None, ended: None };
        let told = self.judge.accepted.entry(id).or_insert(new);
        told.status = told.status.max(said.status);
        told.installation = told.installation.max(said.installation.0);
        told.started = told.started.max(said.assignment.as_ref().map(|it| it.started_at));
        told.ended = told.ended.or(said.completed_at);
        let Told { status, installation, started, ended } = *told;
        let Some(row) = self.store.rows.job(id) else {
            return self.breaks("S1 no-lost-job", format!("job {id} was accepted and is not in the store"));
        };
        // What polls and the service itself have added since may be further on; it is never less.
        let named = row.assignment.as_ref().map(|it| it.started_at);
        let as_told = match status {
            Status::Completed => row.status.is_ended() && (row.status == Status::Failed || row.completed_at == ended),
            status => row.status >= status,
        };
        if !as_told || row.installation.0 < installation || named < started {
            let what = format!(
                "job {id} is {:?} of installation {} since {named:?}; its deliveries say {status:?} of {installation} since {started:?}",
                row.status, row.installation
            );
            return self.breaks("S3 order-free", what);
        }
        let Some(job) = self.github.jobs.get(&id.0) else { return };
        let same = row.entity.0 == self.entity_of(job)
            && row.labels == job.labels
            && row.created_at == self.abs(job.created)
            && self.account_of(row.entity.0) == Some(job.account);
        if !same {
            self.breaks("S3 order-free", format!("job {id} is not what any of its deliveries say it is"));
        }
    }

    /// S1, once more when the world is over: what was accepted is there for ever.
    fn judge_kept(&mut self) {
        let lost = self.judge.accepted.keys().find(|id| self.store.rows.job(**id).is_none()).copied();
        if let Some(id) = lost {
            self.breaks("S1 no-lost-job", format!("job {id} was accepted, and is in the store no more"));
        }
    }

    /// S13: leadership is granted to one after the other.
    pub(crate) fn judge_granted(&mut self, epoch: Epoch) {
        if epoch.0 <= self.store.granted {
            self.breaks("S13 fenced", format!("epoch {epoch} is granted twice"));
        }
        self.store.granted = epoch.0;
        // It finds out anew what others have found out.
        self.judge.heard.clear();
        self.judge.misleading.clear();
        let accounts: BTreeSet<usize> = self
            .store
            .rows
            .jobs()
            .filter_map(|row| {
                let account = self.account_of(row.entity.0)?;
                (row.installation.0 > self.github.accounts[account].installation).then_some(account)
            })
            .collect();
        self.judge.misled.extend(accounts.into_iter().map(|account| (account, self.now + MISLED)));
    }

    /// The leader has read these rows.
    pub(crate) fn judge_read(&mut self, jobs: &[Job], workers: &[Worker]) {
        let named = jobs.iter().map(|job| (job.entity, job.installation.0));
        self.judge.heard.extend(named.chain(workers.iter().map(|worker| (worker.entity, worker.installation.0))));
    }

    /// S13: a write is made under this epoch.
    pub(crate) fn judge_written(&mut self, epoch: Epoch) {
        if epoch.0 != self.store.granted {
            let what = format!("a write under epoch {epoch} is made while {} leads", self.store.granted);
            self.breaks("S13 fenced", what);
        }
    }

    pub(crate) fn judge_before_write(&mut self, write: &Write) -> Before {
        match write {
            Write::Reserve { worker, phantom, .. } => Before {
                demand: Some(self.demand(worker.entity, &worker.labels, 0)),
                unnamed: i64::from(*phantom),
                repeated: self.store.rows.worker(&worker.name).is_some(),
            },
            Write::JobFailed { id, .. } => {
                let repeated = self.store.rows.job(*id).is_some_and(|row| row.status.is_ended());
                Before { repeated, ..Before::default() }
            }
            _ => Before::default(),
        }
    }

    /// A group's waiting jobs.
    fn waiting_jobs(&self, entity: EntityId, labels: &LabelSet) -> i64 {
        let group = |job: &&Job| job.entity == entity && is_waiting(job) && job.labels == *labels;
        self.store.rows.jobs().filter(group).count() as i64
    }

    /// A group's waiting jobs, and workers that serve or will serve them: active, named by no running job, and not
    /// executing one either, as far as could be known `lag` milliseconds later.
    fn demand(&self, entity: EntityId, labels: &LabelSet, lag: i64) -> (i64, i64) {
        let waiting = self.waiting_jobs(entity, labels);
        let mut free: Vec<&WorkerName> = self
            .store
            .rows
            .workers()
            .filter(|it| it.entity == entity && !it.status.is_ended() && it.labels == *labels)
            .map(|it| &it.name)
            .filter(|name| !self.is_busy_for(name, lag))
            .collect();
        if free.is_empty() {
            return (waiting, 0);
        }
        // Rows are in order of their names.
        for job in self.store.rows.jobs().filter(|job| job.status == Status::Running && !job.is_requeued()) {
            if let Some(assignment) = &job.assignment
                && let Ok(at) = free.binary_search(&&WorkerName::new(assignment.runner.clone()))
            {
                free.remove(at);
            }
        }
        (waiting, free.len() as i64)
    }

    /// Whether a worker's runner has had its one job for this long.
    fn is_busy_for(&self, name: &WorkerName, lag: i64) -> bool {
        match self.github.runner_of(name) {
            Some(entry) => {
                let since = entry.job.and_then(|job| self.github.jobs.get(&job)).and_then(|job| job.started);
                since.is_some_and(|since| self.now - since >= lag)
            }
            // Its one job may be over, and its end not known yet.
            None => lag == 0 && self.cluster.pods.get(name).is_some_and(|pod| pod.connected.is_some()),
        }
    }

    pub(crate) fn judge_after_write(&mut self, write: &Write, written: Written, before: Before) {
        if written != Written::Done {
            if let Write::Reserve { worker, .. } = write {
                let key = (worker.entity, crate::trace::number(&worker.labels.to_string()));
                self.judge.refused.insert(key, self.now);
            }
            return;
        }
        match write {
            Write::Reserve { worker, .. } => self.judge_reserved(worker, &before),
            Write::WorkerRunning { name, .. } | Write::WorkerCompleted { name, .. } => self.judge_worker_row(name),
            Write::WorkerFailed { name, failure, .. } => {
                self.judge_failure(name, *failure);
                self.judge_worker_row(name);
            }
            Write::JobRunning { id, .. } | Write::JobCompleted { id, .. } => self.judge_job_row(*id),
            Write::JobRequeued { id, at } => {
                self.judge_requeued(*id, *at);
                self.judge_job_row(*id);
            }
            Write::JobFailed { .. } if before.repeated => {}
            Write::JobFailed { id, failure, .. } => {
                match failure {
                    JobFailure::JobNotFound => self.rare(Rare::UnknownJobFailed),
                    JobFailure::InstallationGone | JobFailure::InstallationSuspended => {
                        self.rare(Rare::InstallationJobFailed);
                    }
                }
                self.judge_job_failed(*id, *failure);
                self.judge_job_row(*id);
            }
        }
    }

    /// S16 for a job that is queued again: has it left what it started on before then?
    fn judge_requeued(&mut self, id: JobId, at: Time) {
        let started = self.github.jobs.get(&id.0).and_then(|job| job.started);
        if started.is_some_and(|started| self.abs(started) < at) {
            self.breaks("S16 silence", format!("job {id} is taken for queued again, which is not so"));
        }
    }

    /// S1: a job is failed only for a reason that is true.
    pub(crate) fn judge_job_failed(&mut self, id: JobId, failure: JobFailure) {
        let Some(job) = self.github.jobs.get(&id.0) else { return };
        let account = &self.github.accounts[job.account];
        let row = self.store.rows.job(id).map(|row| row.installation.0);
        let untrue = match failure {
            JobFailure::JobNotFound => true,
            JobFailure::InstallationGone => {
                let real = account.installation;
                !account.removed && (row == Some(real) || self.was_named(id, real))
            }
            // GitHub keeps a job for a day, and the App may be back by then.
            JobFailure::InstallationSuspended => {
                self.store.rows.job(id).is_none_or(|row| self.abs(self.now).since(row.created_at) < Span::hours(24))
            }
        };
        if untrue {
            self.breaks("S1 no-lost-job", format!("job {id} is failed as {failure}, which is not so"));
        }
    }

    /// Whether rows have long named the installation that is there: then one that names another says nothing of the App.
    fn was_named(&self, id: JobId, real: i64) -> bool {
        let Some(entity) = self.store.rows.job(id).map(|row| row.entity) else { return false };
        let since = self.judge.named.get(&(entity, real));
        let names = |row: &Job| row.entity == entity && row.installation.0 == real && !row.status.is_ended();
        since.is_some_and(|since| self.now - since > NAMED) && self.store.rows.jobs().any(names)
    }

    /// S2 for one worker.
    fn judge_worker_row(&mut self, name: &WorkerName) {
        let Some((status, owner)) = self.store.rows.worker(name).map(|row| (row.status, row.owner)) else { return };
        let old = self.judge.workers.insert(name.clone(), status);
        if old != Some(status) {
            self.judge.last_change = self.now;
        }
        if status.is_ended() {
            self.judge.moved.insert(owner, self.now);
        }
        if let Some(old) = old
            && (status < old || (old.is_ended() && status != old))
        {
            self.breaks("S2 forward-only", format!("worker {name} went from {old:?} to {status:?}"));
        }
    }

    fn judge_reserved(&mut self, worker: &Worker, before: &Before) {
        if before.repeated {
            return self.rare(Rare::ReservedTwice);
        }
        self.judge_worker_row(&worker.name);
        if let Some((waiting, free)) = before.demand
            && waiting + before.unnamed <= free
        {
            let what = format!("{} is reserved for {waiting} waiting jobs and {free} free workers", worker.name);
            self.breaks("S5 no-over-provision", what);
        }
        // Whose it is, by the world's word and not by the row's.
        let owner = self.account_of(worker.entity.0);
        let cap = owner.map_or(self.cap(worker.owner), |it| self.cap(OwnerId(self.plan.world.account[it].id)));
        let same = |it: &&Worker| self.account_of(it.entity.0) == owner && !it.status.is_ended();
        let owned = self.store.rows.workers().filter(same).count() as i64;
        if cap.is_some_and(|cap| owned > i64::from(cap)) {
            let what = format!("owner {} has {owned} workers, its cap is {cap:?}", worker.owner);
            self.breaks("S4 cap", what);
        }
        let fits = |job: &&Job| job.entity == worker.entity && job.labels == worker.labels && job.pool == worker.pool;
        if !self.store.rows.jobs().any(|job| fits(&job) && !job.status.is_ended()) {
            let what = format!("{} [{}] on {} is like no job", worker.name, worker.labels, worker.pool);
            self.breaks("S9 exact-labels", what);
        }
        let world = &self.plan.world;
        // Rules may send the same labels of several owners to several pools.
        let sets =
            world.labels.iter().zip(&world.pool_of).filter(|(labels, _)| LabelSet::new(*labels) == worker.labels);
        let pools: Vec<&str> = sets.map(|(_, pool)| world.pool[*pool].name.as_str()).collect();
        if !pools.is_empty() && !pools.contains(&worker.pool.as_str()) {
            let what = format!("{} [{}] is for {}, a pool of other labels", worker.name, worker.labels, worker.pool);
            self.breaks("S9 exact-labels", what);
        }
        if !worker.name.as_str().starts_with(&format!("rise-riscv-runner-{}-", worker.entity)) {
            self.breaks("S17 isolation", format!("{} is not a name of production's", worker.name));
        }
        self.judge_fifo(worker);
    }

    fn cap(&self, owner: OwnerId) -> Option<u32> {
        let account = self.plan.world.account.iter().find(|account| account.id == owner.0);
        account.and_then(|account| account.cap).or(self.plan.world.default_cap)
    }

    fn owner_has_room(&self, owner: OwnerId) -> bool {
        let owned = self.store.rows.workers().filter(|it| it.owner == owner && !it.status.is_ended()).count();
        self.cap(owner).is_none_or(|cap| owned < cap as usize)
    }

    /// A group's waiting jobs, oldest first. As many of them as it has free workers lack nothing.
    fn line(&self, entity: EntityId, labels: &LabelSet) -> Vec<(Time, JobId)> {
        let group = |job: &&Job| job.entity == entity && job.labels == *labels && is_waiting(job);
        let mut line: Vec<_> = self.store.rows.jobs().filter(group).map(|job| (job.created_at, job.id)).collect();
        line.sort_unstable();
        line
    }

    /// S7: was an older job passed over that the same place and its owner's cap would have served?
    fn judge_fifo(&mut self, worker: &Worker) {
        let now = self.now;
        // What its own jobs did since the decision is not the decision's fault.
        if self.judge.moved.get(&worker.owner).is_some_and(|at| now - at < FRESH) {
            return;
        }
        // The specification's loop: a group's turn is that of its oldest waiting job.
        let Some(&served) = self.line(worker.entity, &worker.labels).first() else { return };
        let mut others: BTreeMap<(EntityId, &LabelSet), &Job> = BTreeMap::new();
        let waiting = self.store.rows.jobs().filter(|job| job.pool == worker.pool && is_waiting(job));
        for job in waiting.filter(|job| (job.created_at, job.id) < served) {
            if job.entity != worker.entity || job.labels != worker.labels {
                others.insert((job.entity, &job.labels), job);
            }
        }
        let mut passed = None;
        for ((entity, labels), job) in others {
            let account = self.github.jobs.get(&job.id.0).map_or(usize::MAX, |it| it.account);
            let Some(state) = self.github.accounts.get(account) else { continue };
            let troubled = state.removed || state.suspended || self.is_troubled(account);
            let key = (entity, crate::trace::number(&labels.to_string()));
            let refused = self.judge.refused.get(&key).is_some_and(|at| now - at < 3 * MINUTE);
            let moved = self.judge.moved.get(&job.owner).is_some_and(|at| now - at < FRESH);
            if troubled || refused || moved || !self.owner_has_room(job.owner) {
                continue;
            }
            // Who took a job is known at the latest by the next listing.
            let (_, free) = self.demand(entity, labels, LISTED);
            if let Some((_, id)) = self.line(entity, labels).get(free as usize).filter(|it| **it < served) {
                // An App that was installed anew is known to be there once a delivery of the entity has told.
                if !self.told().contains(&entity.0) {
                    continue;
                }
                passed = Some(*id);
                break;
            }
        }
        if let Some(id) = passed {
            let what = format!("{} is reserved while job {id}, which is older, waits for the same pool", worker.name);
            self.breaks("S7 fifo", what);
        }
    }

    /// Whether something has lately been wrong between us and an account, so that its jobs rightly wait.
    fn is_troubled(&self, account: usize) -> bool {
        let faulty = self.now < self.plan.quiet_at + RECOVERY && !self.plan.window.is_empty();
        let told = self.judge.trouble.get(&account).is_some_and(|at| self.now - at < HOUR + 10 * MINUTE);
        let blocked = self.github.accounts[account].blocked.max(self.judge.untold.get(&account).map_or(0, |it| it.1));
        // A leader whose clock is behind waits for the time that it was told by its own.
        let misled = self.judge.misled.get(&account).is_some_and(|until| self.now < *until);
        // That its App is suspended no more is found out by a call a minute (L7).
        let suspended = self.github.accounts[account].back_at.is_some_and(|at| self.now - at < RECOVERY);
        faulty || told || misled || suspended || self.now < blocked + MINUTE + self.most_skew()
    }

    // ---- GitHub

    /// S9: the runner carries its row's labels; S11: it has a row.
    pub(crate) fn judge_minted(&mut self, _account: usize, entry: &Entry) {
        self.judge.last_change = self.now;
        let Some(row) = self.store.rows.worker(&entry.name) else {
            return self.breaks("S11 owned", format!("runner {} has no worker row", entry.name));
        };
        if row.labels != entry.labels || row.entity.0 != entry.entity {
            let what = format!("runner {} has labels that differ from its row's", entry.name);
            self.breaks("S9 exact-labels", what);
        }
    }

    pub(crate) fn judge_runner_deleted(&mut self, name: &WorkerName) {
        self.judge.last_change = self.now;
        if name.as_str().starts_with("rise-riscv-runner-staging-") || !name.as_str().starts_with("rise-riscv-runner-") {
            self.breaks("S17 isolation", format!("runner {name} is not production's"));
        }
        let idle = self.github.runner_of(name).and_then(|it| it.idle_since);
        if let Some(since) = idle {
            self.judge.deleted_idle.insert(name.clone(), self.now - since);
        }
        let row = self.store.rows.worker(name).map(|row| row.status);
        match row {
            None => self.rare(Rare::OrphanRunnerDeleted),
            Some(status) if status.is_ended() => self.rare(Rare::OrphanRunnerDeleted),
            Some(_) => {}
        }
    }

    /// S15: a delivery is not repeated without end.
    pub(crate) fn judge_redelivered(&mut self, guid: &Arc<str>) {
        let count = self.judge.repeated.entry(guid.clone()).or_default();
        *count += 1;
        // Each leader may try anew, and one that is not answered is repeated every two minutes.
        let bound = 6 * self.store.granted.max(1) + self.now / (100 * SECOND);
        if i64::from(*count) > bound {
            let what = format!("delivery {guid} is repeated {count} times");
            self.breaks("S15 bounded", what);
        }
    }

    /// S14: of an hour's calls some are kept for provisioning, which polls do not touch.
    pub(crate) fn judge_reserve(&mut self, account: usize, call: Call) {
        let it = &self.github.accounts[account];
        let (left, limit) = (i64::from(it.limit) - i64::from(it.used), i64::from(it.limit));
        if call == Call::Poll && left < limit * (RESERVED - 10) / 100 {
            let what = format!("a job of account {account} is asked about with {left} of {limit} calls left");
            self.breaks("S14 budget", what);
        }
    }

    // ---- the cluster

    pub(crate) fn judge_capacity_changes(&mut self) {
        let offered = (0..self.cluster.nodes.len()).map(|pool| self.cluster.offered(pool)).collect();
        self.judge.offered.push_back((self.now, offered));
    }

    /// S6, S9 and S11 for a new pod.
    pub(crate) fn judge_pod_created(&mut self, worker: &Worker, pool: usize) {
        self.judge.last_change = self.now;
        let recent = self.judge.offered.iter().filter(|(at, _)| self.now - at < VIEW_LAG).map(|(_, all)| all[pool]);
        let offered = recent.max().unwrap_or(0).max(self.cluster.offered(pool));
        let live = self.cluster.live(pool) + 1;
        // A pod whose maker was gone, or had given it up, when it came: its place was given to another, and who leads
        // knows of it only once a view shows it. It is deleted as an orphan.
        let late = |it: &&crate::cluster::Pod| {
            it.late && it.pool == pool && !it.phase.is_ended() && self.now - it.created < VIEW_LAG
        };
        let excused = || i64::from(self.late_call) + self.cluster.pods.values().filter(late).count() as i64;
        if live > offered && live - excused() <= offered {
            self.rare(Rare::LatePod);
        } else if live > offered {
            self.breaks("S6 capacity", format!("pod {} is number {live} of {offered} in its pool", worker.name));
        }
        match self.store.rows.worker(&worker.name) {
            None => self.breaks("S11 owned", format!("pod {} has no worker row", worker.name)),
            Some(row) if row.pool != worker.pool => {
                self.breaks("S9 exact-labels", format!("pod {} is for another pool than its row", worker.name));
            }
            Some(_) => {}
        }
    }

    /// S10: one configuration, one pod.
    pub(crate) fn judge_jit_used(&mut self, jit: i64, uid: &PodUid) {
        let known = self.judge.jit.entry(jit).or_insert_with(|| uid.clone());
        if known != uid {
            let what = format!("JIT configuration {jit} is given to a second pod");
            self.breaks("S10 one-jit-one-pod", what);
        }
    }

    /// S8, S12 and S17 for a deletion.
    pub(crate) fn judge_pod_deleted(&mut self, name: &WorkerName) {
        let Some(pod) = self.cluster.pods.get(name) else { return };
        let (phase, finished, connected, created) = (pod.phase, pod.finished, pod.connected, pod.created);
        let whose = pod.whose;
        if !phase.is_ended() {
            // One that has ended goes when its grace is over, however quiet it is then.
            self.judge.last_change = self.now;
        }
        if name.as_str().starts_with("rise-riscv-runner-staging-") || !name.as_str().starts_with("rise-riscv-runner-") {
            self.breaks("S17 isolation", format!("pod {name} is not production's"));
        }
        let busy = connected.and_then(|runner| self.github.runners.get(&runner)).is_some_and(|it| it.job.is_some());
        // A job may take six hours by default: whose App has been gone for longer, is owed no board.
        let owed = self.store.rows.worker(name).and_then(|row| self.account_of(row.entity.0)).is_none_or(|account| {
            let account = &self.github.accounts[account];
            !account.removed || self.now - account.removed_at < 6 * HOUR
        });
        if busy && owed && !phase.is_ended() {
            self.breaks("S8 never-kill-busy", format!("pod {name} is deleted while its runner executes a job"));
        }
        let row = self.store.rows.worker(name).map(|row| (row.status, row.failure, row.completed_at));
        let Some((status, failure, completed_at)) = row else { return self.rare(Rare::OrphanPodDeleted) };
        if completed_at.is_some_and(|at| at.0 - self.plan.epoch < created) {
            self.rare(Rare::OrphanPodDeleted);
        }
        let quick =
            failure.is_some_and(|failure| !matches!(failure, WorkerFailure::PodFailed | WorkerFailure::PodVanished));
        if !status.is_ended() {
            return self.breaks("S12 grace", format!("pod {name} is deleted before its row has ended"));
        }
        if whose == Whose::Replaced {
            return;
        }
        let ended_for = finished.map_or(0, |at| self.now - at / SECOND * SECOND);
        if phase.is_ended() && !quick {
            if ended_for < GRACE - self.most_skew() {
                let what = format!("pod {name} is deleted {} minutes after its end", ended_for / MINUTE);
                self.breaks("S12 grace", what);
            }
            self.rare(Rare::GraceOver);
        }
    }

    fn most_skew(&self) -> i64 {
        self.schedulers.iter().map(|it| it.offset.abs()).max().unwrap_or(0)
    }

    /// S16 and S8 for a worker that is failed: is what was concluded true?
    fn judge_failure(&mut self, name: &WorkerName, failure: WorkerFailure) {
        let pod = self.cluster.pods.get(name);
        let alive = pod.is_some_and(|pod| !pod.phase.is_ended() && !pod.deleting && pod.whose == Whose::Ours);
        let runs_job = self.github.runner_of(name).is_some_and(|it| it.job.is_some());
        let (rare, untrue) = match failure {
            WorkerFailure::PodVanished => (Some(Rare::PodVanished), alive),
            WorkerFailure::RunnerNeverRegistered => {
                let idle = self.judge.deleted_idle.get(name).copied().unwrap_or(0);
                (Some(Rare::NeverRegistered), runs_job || idle > 90 * SECOND)
            }
            WorkerFailure::RunnerLost => {
                let idle = self.judge.deleted_idle.get(name).copied().unwrap_or(0);
                (Some(Rare::RunnerLost), runs_job || idle > 3 * MINUTE)
            }
            WorkerFailure::PodStuckPending => {
                let runs = pod.is_some_and(|pod| pod.phase == PodPhase::Running && self.now - pod.since > 2 * MINUTE);
                (Some(Rare::StuckPending), runs)
            }
            WorkerFailure::ProvisioningInterrupted => {
                let runs = pod.is_some_and(|pod| pod.phase == PodPhase::Running && self.now - pod.since > 2 * MINUTE);
                (Some(Rare::InterruptedWorkerFailed), runs)
            }
            WorkerFailure::Surplus => {
                let before = pod.is_none();
                (Some(if before { Rare::SurplusBeforeStart } else { Rare::SurplusRetired }), runs_job)
            }
            WorkerFailure::JitRefused => (Some(Rare::JitGivenUp), false),
            WorkerFailure::PodRefused => (Some(Rare::PodGivenUp), false),
            WorkerFailure::InstallationSuspended => (Some(Rare::SuspendedBeforeStart), pod.is_some()),
            WorkerFailure::NameTaken | WorkerFailure::PodFailed | WorkerFailure::InstallationGone => (None, false),
        };
        if let Some(rare) = rare {
            self.rare(rare);
        }
        if untrue {
            self.breaks("S16 silence", format!("{name} is failed as {failure}, which is not so"));
        }
    }

    // ---- liveness

    /// Notes that `holds`; breaks `invariant` when it has held for longer than `limit`.
    fn hold(&mut self, invariant: &'static str, key: i64, holds: bool, limit: i64, what: impl FnOnce(&Self) -> String) {
        let key = (key, invariant);
        if !holds {
            self.judge.held.remove(&key);
            return;
        }
        let since = *self.judge.held.entry(key).or_insert(self.now);
        self.judge.stale_at = self.judge.stale_at.min(since + limit + 1);
        if self.now - since > limit {
            let what = format!("for {} s: {}", (self.now - since) / SECOND, what(self));
            self.breaks(invariant, what);
        }
    }

    /// When GitHub takes an account's calls again as they come.
    fn well_at(&self, account: usize) -> i64 {
        let state = &self.github.accounts[account];
        let until = state.blocked.max(self.judge.untold.get(&account).map_or(0, |it| it.1));
        let waits_until = if until > 0 { until + RECOVERY } else { 0 };
        let troubled_until = self.judge.trouble.get(&account).map_or(0, |at| at + HOUR);
        let misled_until = self.judge.misled.get(&account).copied().unwrap_or(0);
        waits_until.max(troubled_until).max(misled_until)
    }

    /// Whether an account can be served, and when time alone changes that.
    fn health(&self, account: usize) -> (bool, i64) {
        let state = &self.github.accounts[account];
        let well_at = self.well_at(account);
        let changes_at = if self.now < well_at { well_at } else { i64::MAX };
        (!state.removed && !state.suspended && self.now >= well_at, changes_at)
    }

    fn is_healthy(&self, account: usize) -> bool {
        self.health(account).0
    }

    /// Which accounts and entities can be looked after now.
    fn sight(&self) -> Sight {
        let health: Vec<(bool, i64)> = (0..self.github.accounts.len()).map(|it| self.health(it)).collect();
        let told = self.told();
        let changes_at = health.iter().map(|it| it.1).min().unwrap_or(i64::MAX);
        let gone = self.github.accounts.iter().map(|it| it.removed || it.suspended).collect();
        Sight { healthy: health.into_iter().map(|it| it.0).collect(), gone, told, changes_at }
    }

    /// Entities of which a delivery has told with the installation that they have now.
    fn told(&self) -> Vec<i64> {
        let [mut told, mut by_the_past, mut by_others] = [const { Vec::<i64>::new() }; 3];
        for row in self.store.rows.jobs().filter(|row| row.installation.0 != 0) {
            let entity = row.entity.0;
            let Some(account) = self.account_of(entity) else { continue };
            let state = &self.github.accounts[account];
            let heard = self.judge.heard.contains(&(row.entity, state.installation));
            let is_it = row.installation.0 == state.installation;
            let entities = match (heard || is_it && !row.status.is_ended(), is_it) {
                (true, _) => &mut told,
                (false, true) if state.removed_at == 0 => &mut by_the_past,
                (false, true) => continue,
                (false, false) => &mut by_others,
            };
            if !entities.contains(&entity) {
                entities.push(entity);
            }
        }
        // A leader that began late has read of jobs that have not ended alone, and of workers: those may name what was there
        // before the App was installed anew, or what a delivery named wrongly.
        told.extend(by_the_past.into_iter().filter(|entity| !by_others.contains(entity)));
        told
    }

    /// Whether an entity's runners can be looked after: nothing is wrong with its account, and a delivery told of the
    /// installation that it has now.
    fn is_reachable(&self, sight: &Sight, entity: i64) -> bool {
        self.account_of(entity).is_none_or(|account| sight.healthy[account] && sight.told.contains(&entity))
    }

    /// Looks at everything; whether the run is over.
    pub(crate) fn look(&mut self) -> bool {
        self.look_at_leadership();
        if self.now < self.plan.quiet_at + RECOVERY {
            return false;
        }
        // Where nothing has happened and no time is up there is nothing new to see.
        if self.judge.dirty || self.now >= self.judge.stale_at {
            let sight = self.sight();
            self.judge.dirty = false;
            self.judge.stale_at = sight.changes_at;
            self.look_at_jobs(&sight);
            self.look_at_gone_apps(&sight);
            self.look_at_supply(&sight);
            self.look_at_runners(&sight);
            self.look_at_pods(&sight);
            self.look_at_workers(&sight);
            self.judge.settled = self.is_settled(&sight);
        }
        self.look_for_the_end()
    }

    fn look_at_leadership(&mut self) {
        let able = self.schedulers.iter().any(|it| it.alive && !it.paused);
        let led = self.schedulers.iter().any(|it| it.is_leading() && !it.paused);
        self.hold("L8 failover", 0, able && !led, LED, |_| String::from("nobody leads"));
    }

    /// L2: rows follow GitHub.
    fn look_at_jobs(&mut self, sight: &Sight) {
        // What has ended on both sides says nothing new, and is most of what there is.
        let open = |(id, job): &(&i64, &crate::github::Job)| {
            sight.healthy[job.account]
                && (job.state != JobState::Done
                    || self.store.rows.job(JobId(**id)).is_none_or(|row| !row.status.is_ended()))
        };
        let open: Vec<i64> = self.github.jobs.iter().filter(open).map(|(id, _)| *id).collect();
        let mut lost = vec![0; sight.healthy.len()];
        for job in open.iter().filter_map(|id| self.github.jobs.get(id)).filter(|job| job.state == JobState::Done) {
            lost[job.account] += 1;
        }
        for id in open {
            let Some(job) = self.github.jobs.get(&id) else { continue };
            let (state, account) = (job.state, job.account);
            let row = self.store.rows.job(JobId(id));
            let unknown = row.is_none() && job.posted.sent > 0 && job.posted.open == 0;
            // What is refused again and again is repeated ever more rarely.
            let limit = MADE_UP + if job.posted.refused >= OFTEN { HOUR } else { 0 };
            self.hold("L2 made-up", id, unknown, limit, |_| format!("job {id} is not known"));
            let Some(row) = self.store.rows.job(JobId(id)) else { continue };
            if !self.is_reachable(sight, row.entity.0) {
                continue;
            }
            let status = row.status;
            let late = state == JobState::Done && !status.is_ended();
            let named = row.assignment.as_ref().map(|it| WorkerName::new(it.runner.clone()));
            let ours = named.is_some_and(|name| self.store.rows.worker(&name).is_some_and(|it| it.status.is_ended()));
            let waits = state == JobState::Queued && status == Status::Running && !row.is_requeued();
            let poor = self.is_poor(account);
            // Polls have a quarter of the hour's calls, evenly: when more ends were lost than a minute has polls for, a
            // job waits for the others' turns.
            let (a_minute, others) = (i64::from(self.github.accounts[account].limit) / 240, lost[account]);
            let turns = (others - a_minute).max(0) * MINUTE / a_minute.max(1);
            // Those that were before it keep the turns that they had, though they are made up for by now.
            let turns = if late { *self.judge.turns.entry(id).or_insert(turns) } else { 0 };
            // All that wait are asked about in turn.
            let round = self.jobs_of(account) * MINUTE / a_minute.max(1);
            // While its account is poor a job's time does not run; an hour must do all the same.
            let asked = ENDED + turns + round;
            let limit = if ours || status == Status::Pending { asked } else { asked.max(SWEPT) };
            for (key, holds, limit) in [(id, late && !poor, limit), (-id, late, limit + HOUR)] {
                self.hold("L2 ended", key, holds, limit, |_| format!("job {id} has ended and its row says {status:?}"));
            }
            for (key, holds, limit) in [(id, waits && !poor, asked.max(SWEPT)), (-id, waits, asked + HOUR)] {
                self.hold("L2 requeued", key, holds, limit, |_| format!("job {id} is queued again and its row runs"));
            }
        }
    }

    /// L2: jobs of an App that is not there any more are failed, all of them.
    fn look_at_gone_apps(&mut self, sight: &Sight) {
        if !sight.gone.contains(&true) {
            return;
        }
        let active = self.store.rows.jobs().filter(|row| !row.status.is_ended());
        let active: Vec<(JobId, i64, i64)> = active.map(|row| (row.id, row.entity.0, row.installation.0)).collect();
        for (id, entity, installation) in active {
            let Some(account) = self.account_of(entity) else { continue };
            let state = &self.github.accounts[account];
            let gone = state.removed && state.installation == installation;
            let able = self.now >= self.well_at(account) && !self.is_poor(account);
            self.hold("L2 gone", id.0, gone && able, GONE, |_| format!("job {id} is active and its App is gone"));
        }
    }

    /// Whether an account has more jobs than can be polled with what GitHub still grants within its hour, less what is
    /// kept for provisioning.
    fn is_poor(&self, account: usize) -> bool {
        let it = &self.github.accounts[account];
        let limit = i64::from(it.limit);
        let spare = (limit - i64::from(it.used) - limit * RESERVED / 100).max(0);
        let pace = if self.now < it.reset_at { spare * HOUR / (it.reset_at - self.now) } else { limit };
        self.jobs_of(account) * 40 > limit.min(pace)
    }

    fn jobs_of(&self, account: usize) -> i64 {
        self.github.jobs.values().filter(|job| job.account == account && job.state != JobState::Done).count() as i64
    }

    /// L1: whoever has room gets a worker.
    fn look_at_supply(&mut self, sight: &Sight) {
        // Each group with a waiting job, by its first one.
        let mut groups: Vec<&Job> = Vec::new();
        for (id, job) in &self.github.jobs {
            if job.state != JobState::Queued || !sight.healthy[job.account] {
                continue;
            }
            if let Some(row) = self.store.rows.job(JobId(*id)).filter(|row| is_waiting(row))
                && !groups.iter().any(|it| it.entity == row.entity && it.labels == row.labels)
            {
                groups.push(row);
            }
        }
        let groups: Vec<Supply> = groups.into_iter().map(|row| self.supply(row)).collect();
        for it in &groups {
            if !it.room {
                self.rare(Rare::AtCap);
            }
            if !it.place {
                self.rare(Rare::PoolFull);
            }
            let unmet = it.waiting > it.free && it.room && it.place;
            // A runner that a job took whose row was failed shows as busy in the next listing only.
            let limit = SERVED + it.crowd + if it.failed { LISTED } else { 0 };
            self.hold("L1 served", it.key, unmet, limit, |_| {
                let Supply { entity, labels, waiting, free, .. } = it;
                format!("[{labels}] of {entity}: {waiting} jobs wait, {free} workers are free, and there is room")
            });
        }
        self.judge.held.retain(|key, _| key.1 != "L1 served" || groups.iter().any(|it| it.key == key.0));
    }

    /// What the group of a waiting job has and may have.
    fn supply(&self, row: &Job) -> Supply {
        let labels = row.labels.to_string();
        let (waiting, free) = self.demand(row.entity, &row.labels, 0);
        let pool = self.cluster.pools.iter().position(|pool| *pool == row.pool);
        let place = pool.is_some_and(|pool| {
            let unplaced = |it: &&Worker| {
                !it.status.is_ended() && it.pool == row.pool && !self.cluster.pods.contains_key(&it.name)
            };
            let unplaced = self.store.rows.workers().filter(unplaced).count() as i64;
            self.cluster.offered(pool) > self.cluster.live(pool) + unplaced
        });
        let lately = |it: &Job| it.entity == row.entity && it.status == Status::Failed;
        let account = self.account_of(row.entity.0);
        let jobs = self.github.jobs.values().filter(|job| Some(job.account) == account).count() as i64;
        Supply {
            key: row.entity.0 ^ crate::trace::number(&labels),
            entity: row.entity.0,
            labels,
            waiting,
            free,
            room: self.owner_has_room(row.owner),
            place,
            crowd: jobs / JIT_A_MINUTE * MINUTE,
            failed: self.store.rows.jobs().any(lately),
        }
    }

    /// L4 and L5: what GitHub has of ours.
    fn look_at_runners(&mut self, sight: &Sight) {
        let judged = |(&id, entry): (&i64, &Entry)| {
            let healthy = self.is_reachable(sight, entry.entity) && entry.job.is_none();
            let row = self.store.rows.worker(&entry.name);
            let orphan = healthy && row.is_none_or(|row| row.status.is_ended());
            let idle = healthy && entry.idle_since.is_some();
            let surplus = idle && row.is_some_and(|row| self.waiting_jobs(row.entity, &row.labels) == 0);
            (id, orphan, surplus)
        };
        let judged: Vec<_> = self.github.ours().map(judged).collect();
        for (id, orphan, surplus) in judged {
            let name = |sim: &Self| sim.github.runners.get(&id).map_or(String::new(), |it| it.name.to_string());
            self.hold("L4 orphan runner", id, orphan, CLEAN, |sim| format!("runner {} has no worker", name(sim)));
            self.hold("L5 surplus", id, surplus, CLEAN, |sim| format!("runner {} is needed by nobody", name(sim)));
        }
    }

    fn account_of(&self, entity: i64) -> Option<usize> {
        self.plan.world.account.iter().position(|it| if it.user { entity / 100 == it.id } else { entity == it.id })
    }

    /// L3 and L4: what the cluster has of ours.
    fn look_at_pods(&mut self, sight: &Sight) {
        // What a row says to run on it may run there, until a poll has told otherwise (L2 judges when it must have).
        let works = |name: &WorkerName| {
            let on_it = |job: &Job| job.assignment.as_ref().is_some_and(|it| it.runner == *name.text());
            self.store.rows.jobs().any(|job| job.status == Status::Running && !job.is_requeued() && on_it(job))
        };
        let judged = |(name, pod): (&WorkerName, &crate::cluster::Pod)| {
            let row = self.store.rows.worker(name);
            let active = row.is_some_and(|row| !row.status.is_ended());
            let (ended, deleting) = (pod.phase.is_ended(), pod.deleting);
            let healthy = row.is_none_or(|row| self.is_reachable(sight, row.entity.0));
            let entry = pod.connected.or(pod.secret).and_then(|id| self.github.runners.get(&id));
            let away = entry.is_none_or(|it| !it.online && it.job.is_none());
            let busy = entry.is_some_and(|it| it.job.is_some());
            PodLook {
                key: number(name),
                unregistered: pod.phase == PodPhase::Running && away && active && healthy && !deleting && !works(name),
                pending: pod.phase == PodPhase::Pending && active && healthy && !deleting,
                orphan: !ended && !deleting && !active && healthy && !busy,
                old: ended && !deleting,
                name: name.clone(),
            }
        };
        let ours = self.cluster.pods.iter().filter(|(_, pod)| pod.whose != Whose::Strangers);
        let judged: Vec<_> = ours.map(judged).collect();
        let kept = GRACE + 10 * MINUTE + self.most_skew();
        for PodLook { name, key, unregistered, pending, orphan, old } in judged {
            // 120 s, and 30 s; then the listing that proves it, the deletion of its entry, and the write.
            self.hold("L3 never-registered", key, unregistered, 3 * MINUTE, |_| {
                format!("{name} runs and is not registered")
            });
            self.hold("L3 stuck-pending", key, pending, 10 * MINUTE + 90 * SECOND, |_| format!("{name} is pending"));
            self.hold("L4 orphan pod", key, orphan, CLEAN, |_| format!("pod {name} has no active worker"));
            self.hold("S12 kept too long", key, old, kept, |_| format!("pod {name} has ended and is still there"));
        }
    }

    /// L4: what the store has of ours.
    fn look_at_workers(&mut self, sight: &Sight) {
        let active = self.store.rows.workers().filter(|it| !it.status.is_ended());
        let judged = |row: &Worker| {
            let ended = self.cluster.pods.get(&row.name).is_none_or(|pod| pod.phase.is_ended());
            (row.name.clone(), row.status, ended && self.is_reachable(sight, row.entity.0))
        };
        let judged: Vec<_> = active.map(judged).collect();
        for (name, status, orphan) in judged {
            self.hold("L4 orphan worker", number(&name), orphan, CLEAN + 2 * MINUTE, |_| {
                format!("worker {name} is {status:?} and has no pod")
            });
        }
    }

    /// Whether all that can end has ended.
    fn is_settled(&self, sight: &Sight) -> bool {
        let job = |(id, job): (&i64, &crate::github::Job)| {
            let row = self.store.rows.job(JobId(*id));
            let given_up = row.is_some_and(|row| row.status == Status::Failed);
            sight.gone[job.account]
                // Queued while the App was not installed: nobody ever told us.
                || job.posted.sent == 0
                || (job.state == JobState::Done && row.is_none_or(|row| row.status.is_ended()))
                || (job.state == JobState::Queued && given_up)
        };
        // What a limit keeps from being done now is done when the limit is over, and is waited for.
        let free = |entity: i64| {
            self.account_of(entity).is_none_or(|account| !sight.gone[account] && sight.told.contains(&entity))
        };
        let pod = |(name, pod): (&WorkerName, &crate::cluster::Pod)| {
            let over = pod.phase.is_ended() || pod.whose == Whose::Strangers;
            over || self.store.rows.worker(name).is_some_and(|row| !free(row.entity.0))
        };
        self.github.under_way == 0
            // What was not answered is still to be repeated, in its time.
            && self.github.unanswered.is_empty()
            && self.github.jobs.iter().all(job)
            && self.store.rows.workers().all(|it| it.status.is_ended() || !free(it.entity.0))
            && self.github.ours().all(|(_, it)| !free(it.entity))
            && self.cluster.pods.iter().all(pod)
    }

    /// ghfe accepted a delivery: what it tells changes rows by right, so that quiet is looked for anew.
    pub(crate) fn judge_delivered(&mut self) {
        self.judge.done_at = None;
    }

    /// Whether it has been quiet since all that can end has ended.
    fn look_for_the_end(&mut self) -> bool {
        if !self.judge.settled {
            self.judge.done_at = None;
            return false;
        }
        let decisions: u64 = self.schedulers.iter().map(|it| it.decisions).sum();
        // Whoever could not be looked after until now has just begun.
        let reachable: Vec<bool> = (0..self.github.accounts.len()).map(|account| self.is_healthy(account)).collect();
        let healthy = reachable.iter().all(|&it| it);
        if self.judge.reachable != reachable {
            self.judge.reachable = reachable;
            self.judge.done_at = None;
        }
        let Some(done_at) = self.judge.done_at else {
            self.judge.done_at = Some(self.now);
            self.judge.decisions_at_done = decisions;
            self.judge.left_at_done = self.store.rows.workers().any(|it| !it.status.is_ended());
            return false;
        };
        let quiet_for = self.now - done_at;
        let grace = self.plan.long && self.cluster.pods.values().any(|pod| pod.whose != Whose::Strangers);
        if quiet_for < QUIET || grace {
            return false;
        }
        let healthy = healthy && self.github.accounts.iter().all(|account| account.removed_at == 0);
        // Workers of whom nobody can ask are given up in time.
        if !self.plan.long && healthy && !self.judge.left_at_done && self.judge.last_change > done_at + MINUTE {
            let what =
                format!("something changed {} s after all was done", (self.judge.last_change - done_at) / SECOND);
            self.breaks("L6 quiet", what);
        }
        // A tick every 15 s, and what the periodic readings wake: some dozens a minute at most.
        let rate = (decisions - self.judge.decisions_at_done) * 60 / (quiet_for / SECOND).max(1) as u64;
        if rate > 120 {
            self.breaks("L6 quiet", format!("{rate} decisions a minute with nothing to decide"));
        }
        self.judge_kept();
        true
    }

    /// The plan's time is over and not all is done.
    pub(crate) fn judge_end(&mut self) {
        let open: Vec<String> = self
            .github
            .jobs
            .iter()
            .filter(|(_, job)| job.state != JobState::Done && job.posted.sent > 0)
            .map(|(id, job)| format!("job {id} {:?}", job.state))
            .chain(
                self.store
                    .rows
                    .workers()
                    .filter(|it| !it.status.is_ended())
                    .map(|it| format!("worker {} {:?}", it.name, it.status)),
            )
            .chain(self.github.ours().map(|(_, it)| format!("runner {}", it.name)))
            .take(8)
            .collect();
        self.breaks("L1 done", format!("the plan's time is over, and there are {}", open.join(", ")));
    }
}
