//! What is written: the store's rows, at each write.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    decision::{JobFailure, Write},
    facts::{Job, PodPhase, Status, Worker, Written},
    ids::{EntityId, Epoch, JobId, OwnerId, Span, Time, WorkerName},
    labels::LabelSet,
};

use crate::{
    cluster::{Pod, Whose},
    github::{self, Entry, JobState},
    plan::{What, Window},
    register::Rare,
    run::{HOUR, MINUTE, SECOND, Sim},
};

use super::{JIT_A_MINUTE, LISTED, RECOVERY, Told, is_requeued, is_set_of, is_waiting};

/// What changed within this time may not have been read yet, or not been when the decision was made.
const FRESH: i64 = 2 * SECOND;
/// So long it may take until a later installation that a delivery named is found to be none.
const MISLED: i64 = 3 * MINUTE;
/// What rows have said for so long, every leader has read.
const NAMED: i64 = 10 * MINUTE;

/// What a write found before it was made.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// Jobs of the reservation's group that wait, and free workers that could serve them.
    demand: Option<(i64, i64)>,
    /// The row was there already; a job's had ended already. The write repeats one whose answer was lost, and changes nothing.
    repeated: bool,
}

impl Sim {
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
            if row.status == Status::Failed {
                self.judge.failed_at.entry(id).or_insert(self.now);
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
        let named = (said.repo.clone(), said.entity_name.clone());
        let new = Told {
            status: said.status,
            installation: said.installation.0,
            started: None,
            ended: None,
            named: named.clone(),
        };
        let told = self.judge.accepted.entry(id).or_insert(new);
        told.status = told.status.max(said.status);
        told.installation = told.installation.max(said.installation.0);
        if named > told.named {
            told.named = named;
        }
        told.started = told.started.max(said.assignment.as_ref().map(|it| it.started_at));
        told.ended = [told.ended, said.completed_at].into_iter().flatten().min();
        let Told { status, installation, started, ended, .. } = *told;
        let called = told.named.clone();
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
        // The greatest name that any delivery has brought, one that was recorded without an answer among them.
        let same = (&row.repo, &row.entity_name) >= (&called.0, &called.1)
            && row.entity.0 == self.entity_of(job)
            && row.labels == job.labels
            && row.created_at == self.abs(job.created)
            && self.account_of(row.entity.0) == Some(job.account);
        if !same {
            self.breaks("S3 order-free", format!("job {id} is not what any of its deliveries say it is"));
        }
    }

    /// S1, once more when the world is over: what was accepted is there for ever.
    pub(super) fn judge_kept(&mut self) {
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
        self.judge.shown.clear();
        self.judge.misleading.clear();
        self.forget_what_no_row_tells();
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
            Write::Reserve { worker, .. } => Before {
                demand: Some(self.demand_but_for_spent(worker.entity, &worker.labels)),
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
    pub(super) fn waiting_jobs(&self, entity: EntityId, labels: &LabelSet) -> i64 {
        let group = |job: &&Job| job.entity == entity && is_waiting(job) && job.labels == *labels;
        self.store.rows.jobs().filter(group).count() as i64
    }

    /// A group's waiting jobs, and workers that serve or will serve them: active, named by no running job, and not
    /// executing one either, as far as could be known `lag` milliseconds later.
    pub(super) fn demand(&self, entity: EntityId, labels: &LabelSet, lag: i64) -> (i64, i64) {
        self.supply_less(entity, labels, |name| self.is_busy_for(name, lag))
    }

    /// The same without workers whose runner has had its one job, known or not: they take no other.
    fn demand_but_for_spent(&self, entity: EntityId, labels: &LabelSet) -> (i64, i64) {
        self.supply_less(entity, labels, |name| self.judge.spent.contains(name) || self.is_busy_for(name, 0))
    }

    fn supply_less(&self, entity: EntityId, labels: &LabelSet, busy: impl Fn(&WorkerName) -> bool) -> (i64, i64) {
        let waiting = self.waiting_jobs(entity, labels);
        let mut free: Vec<&WorkerName> = self
            .store
            .rows
            .workers()
            .filter(|it| it.entity == entity && !it.status.is_ended() && it.labels == *labels)
            .map(|it| &it.name)
            .filter(|name| !busy(name))
            .collect();
        if free.is_empty() {
            return (waiting, 0);
        }
        // Rows are in order of their names.
        for job in self.store.rows.jobs().filter(|job| job.status == Status::Running && !is_requeued(job)) {
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
            Write::WorkerRunning { name, .. } => {
                self.judge_pod_told_of(name, "running", |pod| pod.phase != PodPhase::Pending);
                self.judge_worker_row(name);
            }
            Write::WorkerCompleted { name, .. } => {
                self.judge_pod_told_of(name, "completed", |pod| pod.phase == PodPhase::Succeeded);
                self.judge_worker_row(name);
            }
            Write::WorkerFailed { name, failure, .. } => {
                self.judge_failure(name, *failure);
                self.judge_worker_row(name);
            }
            Write::JobRunning { id, .. } => {
                self.judge_job_told_of(*id, "running", |job| job.attempt > 0);
                self.judge_job_row(*id);
            }
            Write::JobCompleted { id, .. } => {
                self.judge_job_told_of(*id, "completed", |job| job.state == JobState::Done);
                self.judge_job_row(*id);
            }
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

    /// S16 for what a poll told of a job.
    fn judge_job_told_of(&mut self, id: JobId, what: &str, so: impl FnOnce(&github::Job) -> bool) {
        if self.github.jobs.get(&id.0).is_some_and(|job| !so(job)) {
            self.breaks("S16 silence", format!("job {id} is written as {what}, which is not so"));
        }
    }

    /// S16 for what a worker's pod told of it. Somebody may have made another under its name since.
    fn judge_pod_told_of(&mut self, name: &WorkerName, what: &str, so: impl FnOnce(&Pod) -> bool) {
        if self.cluster.pods.get(name).is_some_and(|pod| pod.whose == Whose::Ours && !so(pod)) {
            self.breaks("S16 silence", format!("worker {name} is written as {what}, which its pod is not"));
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
            && waiting <= free
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
        let sets = world.labels.iter().zip(&world.pool_of).filter(|(labels, _)| is_set_of(&worker.labels, labels));
        let pools: Vec<&str> = sets.map(|(_, pool)| world.pool[*pool].name.as_str()).collect();
        if !pools.contains(&worker.pool.as_str()) {
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

    pub(super) fn owner_has_room(&self, owner: OwnerId) -> bool {
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
        // A leader that has just stood still decides on what it knew before.
        let woke = self.plan.deed.iter().any(|deed| match deed.what {
            What::Pause { lasts, .. } => deed.at <= now && now < deed.at + lasts + FRESH,
            _ => false,
        });
        if woke {
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
            // Of a crowd some wait for the minute in which GitHub takes their calls.
            let crowd = self.github.jobs.values().filter(|it| it.account == account).count() as i64 > JIT_A_MINUTE;
            if troubled || refused || moved || crowd || !self.owner_has_room(job.owner) {
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
        let lately = |it: &Window| it.from <= self.now && self.now < it.until + RECOVERY;
        let faulty = self.plan.window.iter().any(lately);
        let told = self.judge.trouble.get(&account).is_some_and(|at| self.now - at < HOUR + 10 * MINUTE);
        let blocked = self.github.accounts[account].blocked.max(self.judge.advised_until(account));
        // A leader whose clock is behind waits for the time that it was told by its own.
        let misled = self.judge.misled.get(&account).is_some_and(|until| self.now < *until);
        // That its App is suspended no more is found out by a call a minute (L7).
        let suspended = self.github.accounts[account].back_at.is_some_and(|at| self.now - at < RECOVERY);
        faulty || told || misled || suspended || self.now < blocked + MINUTE + self.most_skew()
    }
}
