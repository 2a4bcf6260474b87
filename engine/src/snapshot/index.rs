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
use core::mem;

use super::fifo::{Fifo, Place};
use super::{Gx, InstallationEntry, JobEntry, JobPlace, Key, Px, Row, ScopeEntry, Snapshot, WorkerEntry};
use crate::{
    decision::WorkerFailure,
    facts::{Job, RunnerScope, Status, Worker},
    governor::Backoff,
    ids::{self, EntityId, EntityType, Image, InstallationId, JobId, OwnerId, Pool, Time, WorkerName},
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
    /// Its entity's row.
    pub(crate) scope: Row,
    pub(crate) entity_type: EntityType,
    /// What its jobs have in common by repository, pool and image: rows of the snapshot's places.
    pub(crate) places: BTreeMap<JobPlace, u32>,
    /// The one that was asked for last: the next job is most often from the same.
    pub(crate) last_place: Option<u32>,
    /// Its owner has room under its cap.
    pub(crate) has_room: bool,
    /// Pending and requeued jobs by the pool that each job's label rule names. Rules may name an owner's repositories, so jobs of one
    /// group may want different boards; each gets its worker on its own. Few, and in no order.
    pub(crate) lines: Vec<Line>,
    /// Running jobs whose runner is unknown.
    pub(crate) anonymous: u32,
    /// Workers pending or running.
    pub(crate) active: u32,
    /// Of those, named by a running job.
    pub(crate) busy: u32,
    /// Of those, long busy with a job nobody has named.
    pub(crate) phantom: u32,
    /// Their names, once somebody has asked for them and until they change.
    phantoms: Option<Arc<[WorkerName]>>,
    /// Of those that are active, being retired because nobody needs them.
    pub(crate) retiring: u32,
    /// Of those, neither: their pods do not run yet.
    pub(crate) starting: u32,
    /// Since when there are more free workers than jobs.
    pub(crate) surplus_since: Option<Time>,
    /// No reservation before then: the store refused the last one.
    pub(crate) held: Backoff,
    /// Held back until its installation's limits allow another runner.
    pub(crate) throttled: Option<Time>,
    /// When the rules are to look at it by themselves; [`Time::NEVER`]: never.
    pub(super) timer: Time,
}

/// A group's jobs that one pool is to serve.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The pool.
    pub pool: Px,
    /// Pending and requeued jobs, oldest first.
    pub pending: Fifo,
    /// In this decision, jobs up to here have been considered.
    pub visited: Option<(Time, JobId)>,
    /// The group's key in the pool's queue, while it is in it.
    pub queued: Option<(Time, JobId)>,
}

impl Line {
    fn of(pool: Px) -> Self {
        Self { pool, pending: Fifo::default(), visited: None, queued: None }
    }

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
        self.lines.iter().map(|line| line.pending.len()).sum()
    }

    fn count(&mut self, kind: Kind) -> Option<&mut u32> {
        match kind {
            Kind::Busy => Some(&mut self.busy),
            Kind::Phantom => Some(&mut self.phantom),
            Kind::Starting => Some(&mut self.starting),
            Kind::Started => None,
        }
    }

    /// Its jobs that one pool is to serve.
    pub(crate) fn line(&self, pool: Px) -> Option<&Line> {
        self.lines.iter().find(|line| line.pool == pool)
    }

    /// The same, to change.
    pub(crate) fn line_mut(&mut self, pool: Px) -> Option<&mut Line> {
        self.lines.iter_mut().find(|line| line.pool == pool)
    }

    fn line_or_new(&mut self, pool: Px) -> &mut Line {
        let at = self.lines.iter().position(|line| line.pool == pool).unwrap_or_else(|| {
            self.lines.push(Line::of(pool));
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }

    /// How many of them come before `place`.
    pub fn rank(&self, place: Place) -> usize {
        self.lines.iter().map(|line| line.pending.rank(place)).sum()
    }

    /// The one that `index` others come before.
    pub fn nth(&self, index: usize) -> Option<Place> {
        // In which line it is, is not known; within each a job's place in the group grows with its place in the line.
        self.lines.iter().find_map(|line| {
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
    pub(crate) groups: Vec<Gx>,
    /// The cap as of the last decision; `None` is unlimited.
    pub(crate) cap: Option<u32>,
}

impl Default for OwnerState {
    /// No room until a decision has read its cap from the policy.
    fn default() -> Self {
        Self { active: 0, groups: Vec::new(), cap: Some(0) }
    }
}

impl OwnerState {
    /// Whether one more worker fits under the cap.
    pub fn has_room(&self) -> bool {
        self.cap.is_none_or(|cap| self.active < cap)
    }
}

/// One pool's capacity.
#[derive(Clone, Debug)]
pub struct PoolState {
    /// Its name.
    pub(crate) name: Pool,
    /// What its usable nodes offer.
    pub(crate) slots: i64,
    /// Of that, taken by pods in view; with those that are on no node yet.
    pub(crate) pods: i64,
    /// Active workers without a pod in view.
    pub(crate) unplaced: i64,
    /// Groups that lack a runner and whose owner has room, by their oldest pending job.
    pub(crate) queue: BTreeSet<(Time, JobId, Gx)>,
    pub(crate) short: Short,
}

/// Workers that found no place for their pods, since places were lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Short {
    pub names: BTreeSet<WorkerName>,
    /// How many places were free then, which is less than none: when more are, they are looked at.
    pub free: i64,
}

impl PoolState {
    /// Runners that still fit.
    pub fn free(&self) -> i64 {
        self.slots - self.pods - self.unplaced
    }

    /// Places left for workers without a pod, of which there are `unmade`: all others have theirs.
    pub(crate) fn left_for_pods(&self, unmade: i64) -> i64 {
        self.free() + unmade
    }
}

/// How a job counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Counts {
    /// In this pool's line, at this place.
    Pending(Px, Time),
    Anonymous,
    On(Arc<str>),
    Not,
}

/// What an active worker adds to the counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Contribution {
    group: Gx,
    owner: Row,
    /// Its pool, while no pod of it is in view.
    unplaced: Option<Px>,
    kind: Kind,
    /// It is being retired as surplus.
    retiring: bool,
}

/// Which count of its group an active worker is in, beside `active`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A running job names it.
    Busy,
    Phantom,
    Starting,
    Started,
}

impl Kind {
    /// Of a worker that no running job names.
    fn unnamed(worker: &WorkerEntry) -> Self {
        match (worker.phantom, worker.row.status) {
            (true, _) => Self::Phantom,
            (false, Status::Pending) => Self::Starting,
            (false, _) => Self::Started,
        }
    }
}

impl Snapshot {
    /// How a job counts in its group.
    pub(super) fn counts(&self, job: &JobEntry) -> Counts {
        if job.ending || job.status.is_ended() {
            return Counts::Not;
        }
        if job.status == Status::Pending || job.requeued {
            return Counts::Pending(self.place(job).px, job.created_at);
        }
        match job.assignment() {
            Some(assignment) => Counts::On(assignment.runner.clone()),
            None => Counts::Anonymous,
        }
    }

    /// The group of a scope's jobs and workers with these labels; made when it is new.
    fn group_in(&mut self, scope: Row, labels: &LabelSet, owner: OwnerId, kind: EntityType) -> Gx {
        let entry = &self.scopes[scope];
        if let Some(gx) = entry.last_group.filter(|&gx| self.groups[gx as usize].key.labels == *labels) {
            return gx;
        }
        let gx = match entry.groups.get(labels) {
            Some(&gx) => gx,
            None => self.make_group(scope, labels, owner, kind),
        };
        self.scopes[scope].last_group = Some(gx);
        gx
    }

    fn make_group(&mut self, scope: Row, labels: &LabelSet, owner: OwnerId, kind: EntityType) -> Gx {
        let gx = self.groups.len() as Gx;
        let ox = self.owner(owner);
        self.owners[ox].groups.push(gx);
        self.groups.push(Group {
            key: GroupKey { entity: self.scopes.id_of(scope), labels: labels.clone() },
            owner,
            scope,
            entity_type: kind,
            places: BTreeMap::new(),
            last_place: None,
            has_room: self.owners[ox].has_room(),
            lines: Vec::new(),
            anonymous: 0,
            active: 0,
            busy: 0,
            phantom: 0,
            phantoms: None,
            retiring: 0,
            starting: 0,
            surplus_since: None,
            held: Backoff::default(),
            throttled: None,
            timer: Time::NEVER,
        });
        self.scopes[scope].groups.insert(labels.clone(), gx);
        gx
    }

    /// An owner's row.
    fn owner(&mut self, id: OwnerId) -> Row {
        if let Some(ox) = self.owners.row_of(&id) {
            return ox;
        }
        let ox = self.owners.insert_new(id, OwnerState::default());
        self.new_owners.push(ox);
        ox
    }

    /// A pool's place in the table of pools.
    pub(crate) fn pool(&mut self, name: &Pool) -> Px {
        if let Some(&px) = self.pool_ix.get(name) {
            return px;
        }
        let px = self.pools.len() as Px;
        self.pool_ix.insert(name.clone(), px);
        self.pools.push(PoolState {
            name: name.clone(),
            slots: 0,
            pods: 0,
            unplaced: 0,
            queue: BTreeSet::new(),
            short: Short::default(),
        });
        px
    }

    pub(crate) fn group_of_job(&mut self, job: &Job) -> Gx {
        // Nearly always it is known already: then there is nothing to learn.
        let known = self.scopes.row_of(&job.entity).filter(|&row| {
            let scope = &self.scopes[row];
            scope.knows(job.installation) && scope.scope.entity_type == job.entity_type
        });
        let row = match known {
            Some(row) => row,
            None => {
                let is_new = self.scopes.row_of(&job.entity).is_none();
                let row = self.learn_scope(job_scope(job));
                if is_new {
                    self.scopes[row].named_by = (job.created_at, job.id);
                }
                row
            }
        };
        self.name_scope(row, job);
        self.group_in(row, &job.labels, job.owner, job.entity_type)
    }

    /// Accounts and repositories are renamed, and GitHub knows an organisation by its new name alone: what the newest job
    /// calls them counts. Rows of workers, and of jobs from before, keep the old one.
    fn name_scope(&mut self, row: Row, job: &Job) {
        let scope = &self.scopes[row].scope;
        let renamed = !ids::same(&scope.entity_name, &job.entity_name);
        let moved = scope.repo.as_ref().is_some_and(|repo| !ids::same(repo, &job.repo));
        if !renamed && !moved {
            return;
        }
        let entry = &mut self.scopes[row];
        if (job.created_at, job.id) < entry.named_by || job.entity_type != entry.scope.entity_type {
            return;
        }
        entry.named_by = (job.created_at, job.id);
        entry.scope.entity_name = job.entity_name.clone();
        entry.scope.repo = entry.scope.repo.as_ref().map(|_| job.repo.clone());
        // What was refused under the old name says nothing of this one.
        entry.backoff.clear();
        self.touch(Key::Scope(job.entity));
    }

    /// What a job has in common with others of its group.
    pub(crate) fn place_of(&mut self, gx: Gx, repo: &Arc<str>, pool: &Pool, image: &Image) -> u32 {
        let is_it = |place: &JobPlace| ids::same(&place.repo, repo) && place.pool == *pool && place.image == *image;
        if let Some(last) = self.groups[gx as usize].last_place.filter(|&last| is_it(&self.places[last as usize])) {
            return last;
        }
        let place = JobPlace { repo: repo.clone(), pool: pool.clone(), px: self.pool(pool), image: image.clone() };
        let group = &mut self.groups[gx as usize];
        let at = *group.places.entry(place.clone()).or_insert(self.places.len() as u32);
        group.last_place = Some(at);
        if at as usize == self.places.len() {
            self.places.push(place);
        }
        at
    }

    pub(crate) fn group_of_worker(&mut self, worker: &Worker) -> Gx {
        let known = self.scopes.row_of(&worker.entity).filter(|&row| self.scopes[row].knows(worker.installation));
        let row = known.unwrap_or_else(|| self.learn_scope(worker.scope()));
        self.group_in(row, &worker.labels, worker.owner, worker.entity_type)
    }

    /// Learns of a scope. When its installation is a newer one than was known, the entity's jobs are asked about and
    /// failed through that: the old one's end says nothing of them any more.
    pub(crate) fn learn_scope(&mut self, scope: RunnerScope) -> Row {
        let old = self.scopes.get(&scope.entity).map(|known| known.scope.installation);
        let row = self.scope_of(scope);
        if let Some(old) = old {
            self.follow_home(row, old);
        }
        row
    }

    /// Has a scope's jobs, groups and workers go by its installation, when that is not `old` any more.
    fn follow_home(&mut self, row: Row, old: InstallationId) {
        let entity = self.scopes.id_of(row);
        if self.scopes[row].scope.installation == old {
            return;
        }
        self.touch(Key::Scope(entity));
        let groups: Vec<Gx> = self.scopes[row].groups.values().copied().collect();
        for gx in groups {
            self.touch(Key::Group(gx));
        }
        self.touch_workers_of(entity);
        let polls = self.installations.get(&old).map(|entry| &entry.polls);
        let of_entity = |id: &JobId| self.jobs.get(id).is_some_and(|job| self.groups[job.group as usize].scope == row);
        let jobs: Vec<JobId> = polls.into_iter().flat_map(|polls| polls.jobs()).filter(of_entity).collect();
        for id in jobs {
            self.edit_job(id, |_| {});
        }
    }

    /// Our App has no installation `gone`, as calls have proven. What went by it goes by the latest other one that a
    /// delivery has named and nothing has shown to be gone: one wrong delivery must not end all jobs of an account. The
    /// scopes that none is left for go by the latest of all again; they are returned.
    pub(crate) fn fall_back(&mut self, gone: InstallationId) -> BTreeSet<Row> {
        let mut lost = BTreeSet::new();
        let Some(old) = self.installations.row_of(&gone) else { return lost };
        let rows: Vec<Row> = (0..self.scopes.len() as Row).filter(|&row| self.scopes[row].home == old).collect();
        for row in rows {
            let scope = &mut self.scopes[row];
            scope.note_other(gone, true);
            if gone == scope.latest() && scope.others.iter().all(|other| other.gone) {
                // All were gone when they were tried last; then the latest was tried again, and now they are.
                scope.others.iter_mut().filter(|other| other.id != gone).for_each(|other| other.gone = false);
            }
            let before = scope.gone_before.or(scope.gone);
            let next = match scope.untried() {
                Some(next) => {
                    (scope.gone, scope.gone_before) = (None, before);
                    next
                }
                None => {
                    lost.insert(row);
                    scope.gone = before;
                    scope.latest()
                }
            };
            scope.others.retain(|other| other.id != next);
            scope.scope.installation = next;
            let home = self.installations.row_or_insert_with(next, InstallationEntry::default);
            self.scopes[row].home = home;
            self.follow_home(row, gone);
        }
        lost
    }

    /// The row of the installation that serves a group, as far as is known.
    pub(crate) fn home_of(&self, gx: Gx) -> Row {
        self.scopes[self.groups[gx as usize].scope].home
    }

    /// Makes a scope known, or its installation a newer one.
    pub(crate) fn scope_of(&mut self, scope: RunnerScope) -> Row {
        let home = self.installations.row_or_insert_with(scope.installation, InstallationEntry::default);
        let row = self.scopes.row_or_insert_with(scope.entity, || ScopeEntry {
            scope: scope.clone(),
            named_by: (Time::ZERO, JobId(0)),
            runners: BTreeMap::new(),
            listed_at: None,
            pages: 1,
            in_flight: false,
            backoff: Backoff::default(),
            wanted: None,
            news: false,
            active: 0,
            workers: BTreeSet::new(),
            gone: None,
            groups: BTreeMap::new(),
            last_group: None,
            home,
            others: Vec::new(),
            gone_before: None,
            timer: Time::NEVER,
        });
        let entry = &mut self.scopes[row];
        // An organisation and a repository may have the same number; neither takes the other's place.
        if entry.knows(scope.installation) || scope.entity_type != entry.scope.entity_type {
            return row;
        }
        // A later installation has a greater number. Greater ones that are known are proven gone. Any other one is to be tried
        // where the one that serves seems to be gone.
        let later = scope.installation > entry.scope.installation;
        if later || entry.gone.is_some() {
            let before = entry.gone_before.or(entry.gone).filter(|_| !later);
            entry.note_other(entry.scope.installation, false);
            entry.scope.installation = scope.installation;
            entry.home = home;
            (entry.gone, entry.gone_before) = (None, before);
        } else {
            entry.note_other(scope.installation, false);
        }
        row
    }

    /// Adds (`sign` 1) or takes back (-1) what a job contributes.
    pub(super) fn count_job(&mut self, id: JobId, gx: Gx, counts: Counts, sign: i32) {
        let group = &mut self.groups[gx as usize];
        match counts {
            Counts::Pending(pool, created_at) => {
                let key = (created_at, id);
                if sign > 0 {
                    let line = group.line_or_new(pool);
                    line.pending.insert(key);
                    // A group that lacks a runner lacks one more: it waits at the same place in the queue, or in none.
                    let stands = line.queued.is_some_and(|queued| queued < key);
                    if group.surplus_since.is_none() && (stands || !group.has_room) {
                        return;
                    }
                } else if let Some(line) = group.line_mut(pool) {
                    line.pending.remove(key);
                }
            }
            Counts::Anonymous => add(&mut group.anonymous, sign),
            Counts::On(runner) => self.count_named(id, runner, sign),
            Counts::Not => return,
        }
        self.refresh(gx);
    }

    fn count_named(&mut self, id: JobId, runner: Arc<str>, sign: i32) {
        let name = WorkerName::new(runner);
        let named_before = self.is_named(&name);
        let jobs = self.runner_jobs.entry(name.clone()).or_default();
        if sign > 0 {
            jobs.insert(id);
        } else {
            jobs.remove(&id);
        }
        if jobs.is_empty() {
            self.runner_jobs.remove(&name);
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
            let unnamed = Kind::unnamed(worker);
            let worker = self.workers.get(&name).map(|worker| &worker.row);
            if let Some(gx) = worker.and_then(|row| self.group_of_row(row)) {
                let group = &mut self.groups[gx as usize];
                for (kind, sign) in [(Kind::Busy, if named { 1 } else { -1 }), (unnamed, if named { -1 } else { 1 })] {
                    if let Some(count) = group.count(kind) {
                        add(count, sign);
                    }
                }
                self.refresh(gx);
            }
        }
        self.touch(Key::Name(name));
    }

    /// Whether a running job names this worker as its runner.
    pub(crate) fn is_named(&self, name: &WorkerName) -> bool {
        self.runner_jobs.contains_key(name)
    }

    /// Makes sure that there is a row for everything that a worker counts in.
    pub(super) fn make_places_for(&mut self, worker: &Worker) {
        self.group_of_worker(worker);
        self.owner(worker.owner);
        self.pool(&worker.pool);
    }

    /// What a worker that is in view counts as.
    pub(super) fn contribution(&self, name: &WorkerName, worker: &WorkerEntry) -> Option<Contribution> {
        if !worker.is_active() {
            return None;
        }
        let unplaced = if self.pods.contains_key(name) { None } else { self.pool_ix.get(&worker.row.pool).copied() };
        Some(Contribution {
            group: self.group_of_row(&worker.row)?,
            owner: self.owners.row_of(&worker.row.owner)?,
            unplaced,
            kind: if self.is_named(name) { Kind::Busy } else { Kind::unnamed(worker) },
            retiring: worker.removing == Some(WorkerFailure::Surplus),
        })
    }

    /// A group's workers that are long busy with a job nobody has named.
    pub(crate) fn phantoms(&mut self, gx: Gx) -> Arc<[WorkerName]> {
        let group = &self.groups[gx as usize];
        if let Some(known) = &group.phantoms {
            return known.clone();
        }
        let is_phantom = |name: &&WorkerName| {
            let counted = self.workers.get(name).and_then(|worker| self.contribution(name, worker));
            counted.is_some_and(|it| it.group == gx && it.kind == Kind::Phantom)
        };
        let found: Arc<[WorkerName]> = match group.phantom {
            0 => Arc::default(),
            _ => self.scopes[group.scope].workers.iter().filter(is_phantom).cloned().collect(),
        };
        self.groups[gx as usize].phantoms = Some(found.clone());
        found
    }

    /// A group that the store has refused may ask again at once.
    pub(super) fn lift_hold(&mut self, counted: Contribution) {
        self.groups[counted.group as usize].held.clear();
    }

    /// Adds (`sign` 1) or takes back (-1) what a worker contributes.
    pub(super) fn count_worker(&mut self, counted: Option<Contribution>, sign: i32) {
        let Some(Contribution { group: gx, owner: ox, unplaced, kind, retiring }) = counted else { return };
        add(&mut self.active_workers, sign);
        let group = &mut self.groups[gx as usize];
        add(&mut group.active, sign);
        if let Some(count) = group.count(kind) {
            add(count, sign);
        }
        if retiring {
            add(&mut group.retiring, sign);
        }
        if kind == Kind::Phantom {
            group.phantoms = None;
        }
        let scope = group.scope;
        let owner = &mut self.owners[ox];
        let had_room = owner.has_room();
        add(&mut owner.active, sign);
        let has_room = owner.has_room();
        if let Some(px) = unplaced {
            self.pools[px as usize].unplaced += i64::from(sign);
        }
        add(&mut self.scopes[scope].active, sign);
        if had_room != has_room {
            self.refresh_owner(ox);
        }
        self.refresh(gx);
    }

    /// Tells an owner's groups whether there is room under its cap.
    fn refresh_owner(&mut self, ox: Row) {
        let has_room = self.owners[ox].has_room();
        let groups = mem::take(&mut self.owners[ox].groups);
        for &gx in &groups {
            self.groups[gx as usize].has_room = has_room;
            self.refresh(gx);
        }
        self.owners[ox].groups = groups;
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
        let ready =
            want > 0 && group.has_room && group.held.until <= now && group.throttled.is_none_or(|until| until <= now);
        let mut empty = false;
        for line in &mut group.lines {
            let key = if ready { line.next() } else { None };
            empty |= line.pending.is_empty();
            if line.queued == key {
                continue;
            }
            let queue = &mut self.pools[line.pool as usize].queue;
            if let Some((at, id)) = line.queued.take() {
                queue.remove(&(at, id, gx));
            }
            if let Some((at, id)) = key {
                queue.insert((at, id, gx));
            }
            line.queued = key;
        }
        if empty {
            group.lines.retain(|line| !line.pending.is_empty());
        }
    }

    /// Gives owners heard of since the last decision their caps; until then they have no room.
    pub(crate) fn adopt_caps(&mut self, policy: &Policy) {
        for ox in mem::take(&mut self.new_owners) {
            self.owners[ox].cap = policy.cap(self.owners.id_of(ox));
            self.refresh_owner(ox);
        }
    }
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

fn add(count: &mut u32, sign: i32) {
    debug_assert!(sign > 0 || *count > 0, "a count fell below zero");
    *count = count.saturating_add_signed(sign);
}
