//! Demand and supply, counted as changes arrive.
//!
//! A group is one (entity, labels). What it lacks is
//!
//! ```text
//! want = pending - idle
//! idle = starting + max(0, started - max(running jobs without a known runner, workers busy with a job nobody named))
//! ```
//!
//! where pending includes requeued jobs, and a worker is free when it is pending or running and no running job names it:
//! starting while its pod has not been seen running, started after. A worker that is starting cannot have taken a job.
//! When no runner is known this is the specification's jobs(pending|running) - workers(pending|running), as long as the
//! running jobs have workers. When runners are known, a running job whose runner is not one of our active workers is no
//! demand, and a worker busy with another group's job is no supply.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};

use super::fifo::{Fifo, Place};
use super::{Gx, JobEntry, JobPlace, Key, ScopeEntry, Snapshot, WorkerEntry};
use crate::{
    facts::{Job, RunnerScope, Status},
    governor::Backoff,
    ids::{EntityId, EntityType, Image, InstallationId, JobId, OwnerId, Pool, Time, WorkerName},
    labels::LabelSet,
    policy::Policy,
};

/// What demand and supply are matched by.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GroupKey {
    /// Where the runners are registered.
    pub entity: EntityId,
    /// What they carry.
    pub labels: LabelSet,
}

/// One (entity, labels): its demand and its supply.
#[derive(Clone, Debug)]
pub struct Group {
    pub(crate) key: GroupKey,
    pub(crate) owner: OwnerId,
    pub(crate) entity_name: Arc<str>,
    pub(crate) entity_type: EntityType,
    /// What its jobs have in common by repository, pool and image.
    pub(crate) places: BTreeSet<Arc<JobPlace>>,
    /// Pending and requeued jobs by the pool that each job's label rule names. Rules may name an owner's repositories, so jobs of one
    /// group may want different boards; each gets its worker on its own.
    pub(crate) lines: BTreeMap<Pool, Line>,
    /// Running jobs whose runner is unknown.
    pub(crate) anonymous: u32,
    /// Workers pending or running.
    pub(crate) active: u32,
    /// Of those, named by a running job.
    pub(crate) busy: u32,
    /// Of those, long busy with a job nobody has named.
    pub(crate) phantom: u32,
    /// Of those, neither: their pods do not run yet.
    pub(crate) starting: u32,
    /// Since when there are more free workers than jobs.
    pub(crate) surplus_since: Option<Time>,
    /// No reservation before then: the store refused the last one.
    pub(crate) held: Backoff,
    /// Held back until its installation's limits allow another runner.
    pub(crate) throttled: Option<Time>,
}

/// A group's jobs that one pool is to serve.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    /// Pending and requeued jobs, oldest first.
    pub pending: Fifo,
    /// In this decision, jobs up to here have been considered.
    pub visited: Option<(Time, JobId)>,
    /// The group's key in the pool's queue, while it is in it.
    pub queued: Option<(Time, JobId)>,
}

impl Line {
    /// The oldest job not considered yet.
    fn next(&self) -> Option<(Time, JobId)> {
        match self.visited {
            None => self.pending.first(),
            Some(place) => self.pending.after(place),
        }
    }
}

impl Group {
    /// Workers that no running job names.
    pub fn free(&self) -> i64 {
        i64::from(self.active) - i64::from(self.busy)
    }

    /// Free workers that are sure to be busy with a job nobody has connected to them.
    pub fn taken(&self) -> u32 {
        self.anonymous.max(self.phantom)
    }

    /// Free workers that no running job accounts for: each serves one pending job, now or soon.
    pub fn idle(&self) -> i64 {
        let starting = i64::from(self.starting);
        starting + (self.free() - starting - i64::from(self.taken())).max(0)
    }

    /// Runners it lacks; negative when it has some to spare. Never more than it has pending jobs (S5).
    pub fn want(&self) -> i64 {
        self.waiting() as i64 - self.idle()
    }

    /// Pending and requeued jobs.
    pub fn waiting(&self) -> usize {
        self.lines.values().map(|line| line.pending.len()).sum()
    }

    /// How many of them come before `place`.
    pub fn rank(&self, place: Place) -> usize {
        self.lines.values().map(|line| line.pending.rank(place)).sum()
    }

    /// The one that `index` others come before.
    pub fn nth(&self, index: usize) -> Option<Place> {
        // In which line it is, is not known; within each a job's place in the group grows with its place in the line.
        self.lines.values().find_map(|line| {
            let (mut low, mut high) = (0, line.pending.len());
            while low < high {
                let middle = low.midpoint(high);
                let before = line.pending.nth(middle).is_some_and(|place| self.rank(place) < index);
                if before { low = middle + 1 } else { high = middle }
            }
            line.pending.nth(low).filter(|&place| self.rank(place) == index)
        })
    }
}

/// One owner's workers over all groups.
#[derive(Clone, Debug)]
pub struct OwnerState {
    /// Workers pending or running.
    pub(crate) active: u32,
    pub(crate) groups: BTreeSet<Gx>,
    /// The cap as of the last decision; `None` is unlimited.
    pub(crate) cap: Option<u32>,
}

impl Default for OwnerState {
    /// No room until a decision has read its cap from the policy.
    fn default() -> Self {
        Self { active: 0, groups: BTreeSet::new(), cap: Some(0) }
    }
}

impl OwnerState {
    /// Whether one more worker fits under the cap.
    pub fn has_room(&self) -> bool {
        self.cap.is_none_or(|cap| self.active < cap)
    }
}

/// One pool's capacity.
#[derive(Clone, Debug, Default)]
pub struct PoolState {
    /// What its usable nodes offer.
    pub(crate) slots: i64,
    /// Pods in view that have not ended.
    pub(crate) pods: i64,
    /// Active workers without a pod in view.
    pub(crate) unplaced: i64,
    /// Groups that lack a runner and whose owner has room, by their oldest pending job.
    pub(crate) queue: BTreeSet<(Time, JobId, Gx)>,
}

impl PoolState {
    /// Runners that still fit.
    pub fn free(&self) -> i64 {
        self.slots - self.pods - self.unplaced
    }
}

/// How a job counts.
pub(super) enum Counts {
    Pending,
    Anonymous,
    On(Arc<str>),
    Not,
}

pub(super) fn counts(job: &JobEntry) -> Counts {
    if job.ending || job.status.is_ended() {
        return Counts::Not;
    }
    if job.status == Status::Pending || job.requeued {
        return Counts::Pending;
    }
    match job.assignment() {
        Some(assignment) => Counts::On(assignment.runner.clone()),
        None => Counts::Anonymous,
    }
}

impl Snapshot {
    /// The group of a job's or worker's row; made when it is new.
    pub(crate) fn group_of(&mut self, key: GroupKey, make: impl FnOnce(GroupKey) -> Group) -> Gx {
        if let Some(&gx) = self.group_ix.get(&key) {
            return gx;
        }
        let gx = self.groups.len() as Gx;
        let group = make(key.clone());
        let owner = self.owners.entry(group.owner).or_insert_with(|| {
            self.new_owners.insert(group.owner);
            OwnerState::default()
        });
        owner.groups.insert(gx);
        self.group_ix.insert(key, gx);
        self.groups.push(group);
        gx
    }

    pub(crate) fn group_of_job(&mut self, job: &Job) -> Gx {
        let gx = self.group_of(GroupKey { entity: job.entity, labels: job.labels.clone() }, |key| {
            empty_group(key, job.owner, job.entity_name.clone(), job.entity_type)
        });
        // Nearly always it is known already: then there is nothing to learn.
        let known = self.scopes.get(&job.entity).is_some_and(|known| {
            known.scope.installation >= job.installation && known.scope.entity_type == job.entity_type
        });
        if !known {
            self.learn_scope(job_scope(job));
        }
        gx
    }

    /// What a job has in common with others of its group.
    pub(crate) fn place_of(&mut self, gx: Gx, repo: Arc<str>, pool: Pool, image: Image) -> Arc<JobPlace> {
        let places = &mut self.groups[gx as usize].places;
        let place = JobPlace { repo, pool, image };
        if let Some(known) = places.get(&place) {
            return known.clone();
        }
        let place = Arc::new(place);
        places.insert(place.clone());
        place
    }

    pub(crate) fn group_of_worker(&mut self, worker: &crate::facts::Worker) -> Gx {
        self.group_of(GroupKey { entity: worker.entity, labels: worker.labels.clone() }, |key| {
            empty_group(key, worker.owner, worker.entity_name.clone(), worker.entity_type)
        })
    }

    /// Learns of a scope. When its installation is a newer one than was known, the entity's jobs are asked about and
    /// failed through that: the old one's end says nothing of them any more.
    pub(crate) fn learn_scope(&mut self, scope: RunnerScope) {
        let entity = scope.entity;
        let old = self.scopes.get(&entity).map(|known| known.scope.installation);
        let new = self.scope_of(scope).scope.installation;
        let Some(old) = old.filter(|&old| old != new) else { return };
        self.touch(Key::Scope(entity));
        let polls = self.installations.get(&old).map(|entry| &entry.polls);
        let of_entity =
            |id: &JobId| self.jobs.get(id).is_some_and(|job| self.groups[job.group as usize].key.entity == entity);
        let jobs: Vec<JobId> = polls.into_iter().flatten().map(|&(_, _, id)| id).filter(of_entity).collect();
        for id in jobs {
            self.edit_job(id, |_| {});
        }
    }

    /// The installation that serves a group, as far as is known.
    pub(crate) fn installation_of(&self, gx: Gx) -> Option<InstallationId> {
        self.scopes.get(&self.groups[gx as usize].key.entity).map(|scope| scope.scope.installation)
    }

    /// Makes a scope known, or its installation a newer one.
    pub(crate) fn scope_of(&mut self, scope: RunnerScope) -> &mut ScopeEntry {
        let entry = self.scopes.entry(scope.entity).or_insert_with(|| ScopeEntry {
            scope: scope.clone(),
            runners: BTreeMap::new(),
            listed_at: None,
            pages: 1,
            in_flight: false,
            backoff: Backoff::default(),
            wanted: None,
            active: 0,
            workers: BTreeSet::new(),
            gone: None,
        });
        // An organisation and a repository may have the same number; neither takes the other's place.
        if scope.installation > entry.scope.installation && scope.entity_type == entry.scope.entity_type {
            entry.scope = scope;
            entry.gone = None;
        }
        entry
    }

    /// Adds (`sign` 1) or takes back (-1) what a job contributes.
    pub(crate) fn count_job(&mut self, id: JobId, job: &JobEntry, sign: i32) {
        let gx = job.group;
        match counts(job) {
            Counts::Pending => {
                let group = &mut self.groups[gx as usize];
                let key = (job.created_at, id);
                if !group.lines.contains_key(&job.place.pool) {
                    group.lines.insert(job.place.pool.clone(), Line::default());
                }
                if let Some(line) = group.lines.get_mut(&job.place.pool) {
                    if sign > 0 { line.pending.insert(key) } else { line.pending.remove(key) }
                }
            }
            Counts::Anonymous => add(&mut self.groups[gx as usize].anonymous, sign),
            Counts::On(runner) => self.count_named(id, runner, sign),
            Counts::Not => {}
        }
        self.refresh(gx);
    }

    fn count_named(&mut self, id: JobId, runner: Arc<str>, sign: i32) {
        let name = WorkerName(runner.clone());
        let named_before = self.is_named(&name);
        let jobs = self.runner_jobs.entry(runner.clone()).or_default();
        if sign > 0 {
            jobs.insert(id);
        } else {
            jobs.remove(&id);
        }
        if jobs.is_empty() {
            self.runner_jobs.remove(&runner);
        }
        let named = self.is_named(&name);
        if named == named_before {
            return;
        }
        let Some(worker) = self.workers.get_mut(&name) else { return };
        if named {
            worker.registered = true;
        }
        if worker.is_active() {
            let unnamed = unnamed_count(worker);
            if let Some(gx) = self.group_ix.get(&worker_key(&worker.row)).copied() {
                let group = &mut self.groups[gx as usize];
                add(&mut group.busy, if named { 1 } else { -1 });
                if let Some(count) = unnamed {
                    add(count(group), if named { -1 } else { 1 });
                }
                self.refresh(gx);
            }
        }
        self.touch(Key::Name(name));
    }

    /// Whether a running job names this worker as its runner.
    pub(crate) fn is_named(&self, name: &WorkerName) -> bool {
        self.runner_jobs.contains_key(&name.0)
    }

    /// Adds (`sign` 1) or takes back (-1) what a worker contributes.
    pub(crate) fn count_worker(&mut self, name: &WorkerName, worker: &WorkerEntry, sign: i32) {
        if !worker.is_active() {
            return;
        }
        let gx = self.group_of_worker(&worker.row);
        add(&mut self.active_workers, sign);
        let named = self.is_named(name);
        let placed = self.pods.contains_key(name);
        let group = &mut self.groups[gx as usize];
        add(&mut group.active, sign);
        if named {
            add(&mut group.busy, sign);
        } else if let Some(count) = unnamed_count(worker) {
            add(count(group), sign);
        }
        let owner = self.owners.entry(worker.row.owner).or_default();
        let had_room = owner.has_room();
        add(&mut owner.active, sign);
        let has_room = owner.has_room();
        if !placed {
            self.pools.entry(worker.row.pool.clone()).or_default().unplaced += i64::from(sign);
        }
        add(&mut self.scope_of(worker.row.scope()).active, sign);
        if had_room != has_room {
            self.refresh_owner(worker.row.owner);
        }
        self.refresh(gx);
    }

    pub(crate) fn refresh_owner(&mut self, owner: OwnerId) {
        let Some(state) = self.owners.get(&owner) else { return };
        for gx in state.groups.clone() {
            self.refresh(gx);
        }
    }

    /// Brings one group's place in its pools' queues, and its surplus clock, up to date.
    pub(crate) fn refresh(&mut self, gx: Gx) {
        let now = self.now;
        let group = &mut self.groups[gx as usize];
        let want = group.want();
        if want >= 0 {
            group.surplus_since = None;
        } else if group.surplus_since.is_none() {
            group.surplus_since = Some(now);
        }
        let room = self.owners.get(&group.owner).is_some_and(OwnerState::has_room);
        let ready = want > 0 && room && group.held.until <= now && group.throttled.is_none_or(|until| until <= now);
        for (pool, line) in &mut group.lines {
            let key = if ready { line.next() } else { None };
            if line.queued == key {
                continue;
            }
            let queue = &mut self.pools.entry(pool.clone()).or_default().queue;
            if let Some((at, id)) = line.queued.take() {
                queue.remove(&(at, id, gx));
            }
            if let Some((at, id)) = key {
                queue.insert((at, id, gx));
            }
            line.queued = key;
        }
        group.lines.retain(|_, line| !line.pending.is_empty());
    }

    /// Gives owners heard of since the last decision their caps; until then they have no room.
    pub(crate) fn adopt_caps(&mut self, policy: &Policy) {
        while let Some(id) = self.new_owners.pop_first() {
            if let Some(owner) = self.owners.get_mut(&id) {
                owner.cap = policy.cap(id);
            }
            self.refresh_owner(id);
        }
    }
}

/// Which count of its group a worker that no running job names is in, beside `active`.
fn unnamed_count(worker: &WorkerEntry) -> Option<fn(&mut Group) -> &mut u32> {
    match (worker.phantom, worker.row.status) {
        (true, _) => Some(|group| &mut group.phantom),
        (false, Status::Pending) => Some(|group| &mut group.starting),
        (false, _) => None,
    }
}

pub(crate) fn worker_key(worker: &crate::facts::Worker) -> GroupKey {
    GroupKey { entity: worker.entity, labels: worker.labels.clone() }
}

fn job_scope(job: &Job) -> RunnerScope {
    RunnerScope {
        entity: job.entity,
        entity_name: job.entity_name.clone(),
        entity_type: job.entity_type,
        installation: job.installation,
        repo: (job.entity_type == EntityType::User).then(|| job.repo.clone()),
    }
}

fn empty_group(key: GroupKey, owner: OwnerId, entity_name: Arc<str>, entity_type: EntityType) -> Group {
    Group {
        key,
        owner,
        entity_name,
        entity_type,
        places: BTreeSet::new(),
        lines: BTreeMap::new(),
        anonymous: 0,
        active: 0,
        busy: 0,
        phantom: 0,
        starting: 0,
        surplus_since: None,
        held: Backoff::default(),
        throttled: None,
    }
}

fn add(count: &mut u32, sign: i32) {
    debug_assert!(sign > 0 || *count > 0, "a count fell below zero");
    *count = count.saturating_add_signed(sign);
}
