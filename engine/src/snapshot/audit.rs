//! Holds every index of a snapshot against the rows it was made from, and every open end against what will close it.
//!
//! For tests and simulations: it walks everything. The rules never call it.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};
use core::fmt::Debug;

use super::{Flight, Gx, Key, Polls, Px, Row, Snapshot, Stage, WorkerEntry, index::Counts};
use crate::{
    decision::WorkerFailure,
    facts::{App, PodPhase, Status},
    governor::{Prepaid, Use, points_of},
    ids::{EntityId, InstallationId, JobId, OwnerId, Pool, Time, WorkerName},
};

/// The differences found so far.
#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn same<T: PartialEq + Debug>(&mut self, what: impl FnOnce() -> String, kept: T, counted: T) {
        if kept != counted {
            self.0.push(format!("{}: kept {kept:?}, counted {counted:?}", what()));
        }
    }

    fn hold(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

impl Snapshot {
    /// Recomputes every index and counter from the rows, and looks for whatever waits without anything that would wake
    /// it. Each difference is one sentence; empty when all agree. Walks everything: for tests and simulations only.
    pub fn audit(&self) -> Vec<String> {
        let mut found = Found::default();
        self.audit_groups(&mut found);
        self.audit_queues(&mut found);
        self.audit_owners(&mut found);
        self.audit_pools(&mut found);
        self.audit_scopes(&mut found);
        self.audit_jobs(&mut found);
        self.audit_flights(&mut found);
        self.audit_due(&mut found);
        self.audit_wakes(&mut found);
        found.0
    }

    fn active(&self) -> impl Iterator<Item = (&WorkerName, &WorkerEntry)> {
        self.workers.iter().filter(|(_, worker)| worker.is_active())
    }

    fn audit_groups(&self, found: &mut Found) {
        let mut pending: BTreeMap<(Gx, Px), BTreeSet<(Time, JobId)>> = BTreeMap::new();
        let mut anonymous: BTreeMap<Gx, u32> = BTreeMap::new();
        for (id, job) in self.jobs.iter() {
            match self.counts(job) {
                Counts::Pending(pool, created_at) => {
                    pending.entry((job.group, pool)).or_default().insert((created_at, *id));
                }
                Counts::Anonymous => *anonymous.entry(job.group).or_default() += 1,
                Counts::On(_) | Counts::Not => {}
            }
        }
        // active, busy, phantom, starting, retiring
        let mut workers: BTreeMap<Gx, [u32; 5]> = BTreeMap::new();
        for (name, worker) in self.active() {
            let Some(gx) = self.group_of_row(&worker.row) else {
                found.0.push(format!("{name} is of no group"));
                continue;
            };
            let named = self.is_named(name);
            let starting = !named && !worker.phantom && worker.row.status == Status::Pending;
            let of = workers.entry(gx).or_default();
            let retiring = worker.removing == Some(WorkerFailure::Surplus);
            for (count, adds) in of.iter_mut().zip([true, named, !named && worker.phantom, starting, retiring]) {
                *count += u32::from(adds);
            }
        }
        for (i, group) in self.groups.iter().enumerate() {
            let gx = i as Gx;
            let name = |what: &str| format!("group {} of entity {}: {what}", group.key.labels, group.key.entity);
            let scope = &self.scopes[group.scope];
            found.same(|| name("its entity"), self.scopes.id_of(group.scope), group.key.entity);
            found.same(|| name("its place in the table"), scope.groups.get(&group.key.labels), Some(&gx));
            let owner = self.owners.get(&group.owner);
            found.same(|| name("room"), Some(group.has_room), owner.map(super::OwnerState::has_room));
            let lines: BTreeMap<Px, Vec<(Time, JobId)>> =
                group.lines.iter().map(|line| (line.pool, line.pending.iter().collect())).collect();
            let of_group = pending.range((gx, Px::MIN)..=(gx, Px::MAX));
            let counted = of_group.map(|(&(_, pool), jobs)| (pool, jobs.iter().copied().collect())).collect();
            found.same(|| name("pending by pool"), lines, counted);
            let sizes = (group.lines.iter().map(|line| line.pending.iter().count()).sum(), group.waiting());
            found.same(|| name("how many are pending"), sizes.0, sizes.1);
            found.same(|| name("anonymous"), group.anonymous, anonymous.get(&gx).copied().unwrap_or(0));
            let kept = [group.active, group.busy, group.phantom, group.starting, group.retiring];
            let counted = workers.get(&gx).copied().unwrap_or_default();
            found.same(|| name("active, busy, phantom, starting, retiring"), kept, counted);
            found.same(|| name("surplus"), group.surplus_since.is_some(), group.want() < 0);
        }
        let named: usize = self.scopes.values().map(|scope| scope.groups.len()).sum();
        found.same(|| String::from("groups by key"), named, self.groups.len());
    }

    fn audit_queues(&self, found: &mut Found) {
        let mut queues: BTreeMap<Px, BTreeSet<(Time, JobId, Gx)>> = BTreeMap::new();
        for (i, group) in self.groups.iter().enumerate() {
            let gx = i as Gx;
            let held = group.held.until > self.now || group.throttled.is_some_and(|until| until > self.now);
            // A pause that is over is noticed by the next decision.
            let noticed = self.due_at(&Key::Group(gx)) > self.now;
            for line in &group.lines {
                let pool = &self.pools[line.pool as usize].name;
                let name = || format!("group {} of entity {} in {pool}", group.key.labels, group.key.entity);
                found.hold(line.visited.is_none(), || format!("{}: a decision left its mark", name()));
                let ready = group.want() > 0 && group.has_room && !held;
                if noticed {
                    let key = if ready { line.pending.first() } else { None };
                    found.same(|| format!("{}: its key in the queue", name()), line.queued, key);
                }
                if let Some((at, id)) = line.queued {
                    queues.entry(line.pool).or_default().insert((at, id, gx));
                }
            }
            if group.throttled.is_some() {
                let waits = self.installations.values().any(|entry| entry.throttled.contains(&gx));
                let due = self.due_at(&Key::Group(gx)) != Time::NEVER;
                found.hold(waits || due, || format!("group {gx} is throttled and nothing will release it"));
            }
            if group.held.until > self.now {
                let due = self.due_at(&Key::Group(gx)) <= group.held.until;
                found.hold(due, || format!("group {gx} is held and nothing will release it"));
            }
        }
        for (px, pool) in (0..).zip(&self.pools) {
            let counted = queues.remove(&px).unwrap_or_default();
            found.same(|| format!("queue of pool {}", pool.name), &pool.queue, &counted);
            found.same(
                || format!("pool {}: its place in the table", pool.name),
                self.pool_ix.get(&pool.name),
                Some(&px),
            );
        }
    }

    fn audit_owners(&self, found: &mut Found) {
        let mut active: BTreeMap<OwnerId, u32> = BTreeMap::new();
        for (_, worker) in self.active() {
            *active.entry(worker.row.owner).or_default() += 1;
        }
        for (id, owner) in self.owners.iter() {
            found.same(|| format!("owner {id}: active"), owner.active, active.get(id).copied().unwrap_or(0));
            let groups = (0..).zip(&self.groups).filter(|(_, group)| group.owner == *id).map(|(gx, _)| gx).collect();
            found.same(|| format!("owner {id}: groups"), &owner.groups, &groups);
        }
    }

    fn audit_pools(&self, found: &mut Found) {
        // slots, pods, unplaced
        let mut pools: BTreeMap<&Pool, [i64; 3]> = BTreeMap::new();
        let live = || self.pods.values().map(|pod| &pod.fact).filter(|pod| !pod.phase.is_ended());
        for node in self.nodes.values().filter(|node| node.usable) {
            if let Some(pool) = &node.pool {
                let there = live().filter(|pod| pod.node.as_ref() == Some(&node.name)).count() as i64;
                let [slots, pods, _] = pools.entry(pool).or_default();
                *slots += i64::from(node.runners);
                *pods += there.min(i64::from(node.runners));
            }
        }
        for pool in live().filter(|pod| pod.node.is_none()).filter_map(|pod| pod.pool.as_ref()) {
            pools.entry(pool).or_default()[1] += 1;
        }
        for (_, worker) in self.active().filter(|(name, _)| !self.pods.contains_key(*name)) {
            pools.entry(&worker.row.pool).or_default()[2] += 1;
        }
        for pool in &self.pools {
            let kept = [pool.slots, pool.pods, pool.unplaced];
            let counted = pools.remove(&pool.name).unwrap_or_default();
            found.same(|| format!("pool {}: slots, pods, unplaced", pool.name), kept, counted);
        }
        found.hold(pools.is_empty(), || format!("pools nobody knows: {pools:?}"));
    }

    fn audit_scopes(&self, found: &mut Found) {
        let mut workers: BTreeMap<EntityId, BTreeSet<WorkerName>> = BTreeMap::new();
        let mut active: BTreeMap<EntityId, u32> = BTreeMap::new();
        for (name, worker) in &self.workers {
            workers.entry(worker.row.entity).or_default().insert(name.clone());
            *active.entry(worker.row.entity).or_default() += u32::from(worker.is_active());
        }
        for (entity, scope) in self.scopes.iter() {
            found.same(
                || format!("scope {entity}: its installation"),
                self.installations.id_of(scope.home),
                scope.scope.installation,
            );
            found.same(
                || format!("scope {entity}: workers"),
                &scope.workers,
                &workers.remove(entity).unwrap_or_default(),
            );
            found.same(|| format!("scope {entity}: active"), scope.active, active.get(entity).copied().unwrap_or(0));
        }
        found.hold(workers.is_empty(), || format!("workers of scopes nobody knows: {workers:?}"));
    }

    fn audit_jobs(&self, found: &mut Found) {
        let mut runner_jobs: BTreeMap<WorkerName, BTreeSet<JobId>> = BTreeMap::new();
        let mut polls: BTreeMap<Row, Polls> = BTreeMap::new();
        for (&id, job) in self.jobs.iter() {
            if let Counts::On(runner) = self.counts(job) {
                runner_jobs.entry(WorkerName::new(runner)).or_default().insert(id);
            }
            if let Some((installation, doubtful, due)) = job.poll_key() {
                polls.entry(installation).or_default().insert(doubtful, due, id);
            }
            found.hold(job.in_flight || job.installation == self.home_of(job.group), || {
                format!("job {id} is asked about elsewhere")
            });
            found.hold(!job.status.is_ended(), || format!("job {id} has ended and is remembered"));
        }
        found.same(|| String::from("jobs by runner"), &self.runner_jobs, &runner_jobs);
        for (id, installation) in self.installations.iter() {
            let row = self.installations.row_of(id);
            let counted = row.and_then(|row| polls.remove(&row)).unwrap_or_default();
            found.same(
                || format!("installation {id}: polls"),
                installation.polls.iter().collect::<Vec<_>>(),
                counted.iter().collect(),
            );
        }
        found.hold(polls.is_empty(), || format!("polls of installations nobody knows: {polls:?}"));
    }

    /// What is marked as under way is, and what is under way is counted.
    fn audit_flights(&self, found: &mut Found) {
        // Of each installation how many there are, and their points.
        let mut calls: BTreeMap<InstallationId, (u32, u32)> = BTreeMap::new();
        let mut call = |installation: InstallationId, points: u32| {
            let counted = calls.entry(installation).or_default();
            *counted = (counted.0 + 1, counted.1 + points);
        };
        let weigh = |usage| points_of(usage, &self.governor);
        let mut jobs: BTreeSet<JobId> = BTreeSet::new();
        let mut names: Vec<&WorkerName> = Vec::new();
        let mut scopes: Vec<EntityId> = Vec::new();
        let mut deletions: BTreeSet<(&str, &WorkerName)> = BTreeSet::new();
        let (mut pods, mut logs, mut repeats): (usize, Vec<App>, Vec<(App, &str)>) = (0, Vec::new(), Vec::new());
        for flight in self.flights.values() {
            match flight {
                Flight::WorkerWrite(name, _) | Flight::CreatePod(name) | Flight::CreateSecret(name) => names.push(name),
                Flight::Mint(name, at) => {
                    names.push(name);
                    call(*at, weigh(Use::Mint));
                }
                Flight::Poll(id, at) => {
                    found.hold(jobs.insert(*id), || format!("job {id} has two actions under way"));
                    call(*at, weigh(Use::Poll));
                }
                Flight::JobWrite(id, _) => {
                    found.hold(jobs.insert(*id), || format!("job {id} has two actions under way"));
                }
                Flight::List(entity, at, usage) => {
                    scopes.push(*entity);
                    call(*at, weigh(*usage));
                }
                Flight::DeleteRunner(_, name, at) => {
                    deletions.insert(("runner", name));
                    call(*at, weigh(Use::Delete));
                }
                Flight::DeletePod(name) => {
                    deletions.insert(("pod", name));
                }
                Flight::ListPods => pods += 1,
                Flight::Deliveries(app) => logs.push(*app),
                Flight::Redeliver(app, guid) => repeats.push((*app, guid)),
            }
        }
        for (name, worker) in &self.workers {
            let under_way = names.iter().filter(|it| **it == name).count();
            found.same(|| format!("{name}: actions under way"), usize::from(worker.in_flight), under_way);
            if let Some(paid) = worker.mint_paid {
                call(worker.row.installation, if paid == Prepaid::Whole { weigh(Use::Mint) } else { 0 });
            }
        }
        for (&id, job) in self.jobs.iter() {
            found.same(|| format!("job {id}: an action under way"), job.in_flight, jobs.contains(&id));
        }
        for (entity, scope) in self.scopes.iter() {
            let under_way = scopes.iter().filter(|it| *it == entity).count();
            found.same(|| format!("scope {entity}: listings under way"), usize::from(scope.in_flight), under_way);
            for (name, _) in scope.runners.iter().filter(|(_, runner)| runner.in_flight) {
                found.hold(deletions.contains(&("runner", name)), || format!("runner {name} is not being deleted"));
            }
        }
        for (name, _) in self.pods.iter().filter(|(_, pod)| pod.in_flight) {
            found.hold(deletions.contains(&("pod", name)), || format!("pod {name} is not being deleted"));
        }
        for (id, installation) in self.installations.iter() {
            let (counted, points) = calls.remove(id).unwrap_or_default();
            found.same(|| format!("installation {id}: calls under way"), installation.allowance.in_flight, counted);
            found.same(|| format!("installation {id}: their points"), installation.allowance.open_points(), points);
        }
        found.hold(calls.is_empty(), || format!("calls of installations nobody knows: {calls:?}"));
        found.same(|| String::from("pod listings under way"), usize::from(self.pods_in_flight), pods);
        for (app, entry) in &self.apps {
            let reading = logs.iter().filter(|it| *it == app).count();
            found.same(|| format!("{app:?}: readings under way"), usize::from(entry.in_flight), reading);
            let repeating = repeats.iter().filter(|(of, _)| of == app).count();
            found.same(|| format!("{app:?}: calls under way"), entry.allowance.in_flight as usize, repeating);
            let points = repeating * weigh(Use::Redeliver) as usize;
            found.same(|| format!("{app:?}: their points"), entry.allowance.open_points() as usize, points);
            for (guid, _) in entry.failed.iter().filter(|(_, failed)| failed.in_flight) {
                found.hold(repeats.contains(&(*app, guid)), || format!("delivery {guid} is not being repeated"));
            }
        }
    }

    fn audit_due(&self, found: &mut Found) {
        for (at, key) in &self.timers {
            found.same(|| format!("the timer of {key:?}"), self.timer(key), *at);
        }
        let groups = self.groups.iter().map(|group| group.timer);
        let scopes = self.scopes.values().map(|scope| scope.timer);
        let polls = self.installations.values().filter_map(|entry| entry.timer);
        let by_row = groups.chain(scopes).chain(polls).filter(|&at| at != Time::NEVER).count();
        found.same(|| String::from("how many timers there are"), self.timers.len(), by_row + self.timer_by_key.len());
    }

    /// Whatever waits is under way, or falls due.
    fn audit_wakes(&self, found: &mut Found) {
        let due = |key: Key| self.due_at(&key) != Time::NEVER;
        found.hold(self.pods_in_flight || due(Key::PodList), || String::from("pods will never be listed again"));
        for (app, entry) in &self.apps {
            found.hold(entry.in_flight || due(Key::Deliveries(*app)), || format!("{app:?}: its log is not read again"));
        }
        for (id, installation) in self.installations.iter().filter(|(id, _)| id.0 != 0) {
            let quiet = installation.polls.is_empty() || installation.allowance.in_flight > 0;
            found.hold(quiet || due(Key::Polls(*id)), || format!("installation {id}: its jobs are not asked about"));
        }
        for (entity, scope) in self.scopes.iter().filter(|(_, scope)| scope.scope.installation.0 != 0) {
            let quiet = scope.active == 0 || scope.in_flight;
            found.hold(quiet || due(Key::Scope(*entity)), || format!("scope {entity} will not be listed again"));
        }
        for (id, job) in self.jobs.iter().filter(|(_, job)| job.finding().is_some()) {
            found.hold(job.in_flight || due(Key::Job(*id)), || format!("what GitHub said of job {id} is not written"));
        }
        for (name, worker) in self.active() {
            let awake = worker.in_flight || due(Key::Name(name.clone()));
            found.hold(awake || !self.must_be_looked_at(name, worker), || {
                format!("{name} ({:?}, removing {:?}) waits and nothing is due", worker.stage, worker.removing)
            });
        }
        for (name, worker) in self.workers.iter().filter(|(_, worker)| worker.row.status.is_ended()) {
            let leaving = self.pods.get(name).is_some_and(|pod| pod.fact.deleting || pod.in_flight);
            let awake = worker.in_flight || leaving || due(Key::Name(name.clone()));
            found.hold(awake, || format!("{name} has ended and will never be forgotten"));
        }
    }

    /// Whether nothing but the engine itself moves this worker on.
    fn must_be_looked_at(&self, name: &WorkerName, worker: &WorkerEntry) -> bool {
        let provisioning = match worker.stage {
            Stage::Reserving | Stage::Reserved | Stage::Minted | Stage::PodMade(_) => true,
            Stage::Found | Stage::Ready => false,
        };
        let pending = self.pods.get(name).is_some_and(|pod| pod.fact.phase == PodPhase::Pending);
        // Nobody can be asked about its runner, so no listing will bring it up.
        let unasked = self.scopes.get(&worker.row.entity).is_some_and(|scope| scope.gone.is_some());
        let running = self.pods.get(name).is_some_and(|pod| pod.fact.phase == PodPhase::Running);
        let forgotten = unasked && running && worker.row.status == Status::Running && !self.is_named(name);
        provisioning || worker.removing.is_some() || pending || forgotten
    }
}
