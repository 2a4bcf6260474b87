//! How facts change the snapshot. Every change is safe to repeat, and to arrive late.

use alloc::{collections::BTreeSet, vec::Vec};

use super::fifo::Fifo;
use super::outcome::LATE_EFFECT;
use super::{Gx, InstallationEntry, JobEntry, Key, PodEntry, Row, Snapshot, Stage, WorkerEntry};
use crate::{
    facts::{Assignment, Change, Job, Node, Pod, PodListing, PodPhase, Status, Worker},
    governor::Backoff,
    ids::{JobId, NodeName, PodUid, Pool, Span, Time, WorkerName},
};

/// No listing is that long on its way.
const LISTED_LATE: Span = Span::mins(3);
/// Rows that are looked at ahead of their changes: enough for waits to overlap, few enough to be in the nearest cache still.
const LOOK_AHEAD: usize = 32;

impl Snapshot {
    /// Takes a change in. `now` is when it became known.
    pub fn apply(&mut self, change: Change, now: Time) {
        self.now = self.now.max(now);
        match change {
            Change::Job(job) => self.apply_job(&job),
            Change::Jobs(jobs) => self.apply_jobs(&jobs),
            Change::Worker(worker) => self.apply_worker(worker),
            Change::StoreSynced { asked_at } => self.apply_synced(asked_at),
            Change::Pods(listing) => self.apply_pods(listing),
            Change::PodSeen(pod) => self.apply_pod(pod),
            Change::PodGone { name, uid } => {
                self.apply_pod_gone(&name, &uid);
                self.note_gone_pod(uid);
            }
            Change::Nodes(nodes) => self.apply_nodes(nodes),
            Change::NodeSeen(node) => self.apply_node(node),
            Change::NodeGone(name) => self.apply_node_gone(&name),
            Change::Outcome { action, outcome } => self.apply_outcome(action, outcome),
        }
    }

    fn apply_synced(&mut self, asked_at: Time) {
        let first = self.synced_at.is_none();
        self.synced_at = Some(self.synced_at.map_or(asked_at, |known| known.max(asked_at)));
        if first {
            for entry in self.installations.values_mut() {
                entry.allowance.inherit_reads(&self.governor, self.now);
            }
            self.touch_all_names();
        }
    }

    /// What an earlier leader spent on a worker is spent. A row says only by when its JIT call was made at the latest:
    /// while it is pending that may have been a moment ago.
    fn inherit_worker(&mut self, row: &Worker) {
        let now = self.now;
        let latest = match row.status {
            Status::Pending if now.since(row.created_at) > self.timeouts.jit => return,
            Status::Pending => now,
            Status::Running | Status::Completed | Status::Failed => {
                row.running_at.or(row.completed_at).unwrap_or(row.created_at)
            }
        };
        let governor = self.governor;
        let allowance = &mut self.installation(row.installation).allowance;
        allowance.inherit_worker(latest, &governor, now);
        if row.status == Status::Failed {
            allowance.inherit_deletion(row.completed_at.unwrap_or(latest), now);
        }
    }

    /// The first complete views let rules conclude what they could not before.
    fn touch_all_names(&mut self) {
        let names: BTreeSet<WorkerName> = self.workers.keys().chain(self.pods.keys()).cloned().collect();
        for name in names {
            self.touch(Key::Name(name));
        }
    }

    /// A million rows would each wait for memory several times over; looking a few rows ahead lets those waits overlap.
    fn apply_jobs(&mut self, jobs: &[Job]) {
        for few in jobs.chunks(LOOK_AHEAD) {
            self.look_ahead(few);
            for job in few {
                self.apply_job(job);
            }
        }
    }

    /// Reads what changes to these jobs are going to read, each step for all of them.
    fn look_ahead(&self, jobs: &[Job]) {
        let (mut rows, mut groups) = ([None; LOOK_AHEAD], [None; LOOK_AHEAD]);
        for (row, job) in rows.iter_mut().zip(jobs) {
            *row = self.jobs.row_of(&job.id);
        }
        for ((group, row), job) in groups.iter_mut().zip(rows).zip(jobs) {
            *group = match row {
                Some(row) => Some(self.jobs[row].group),
                None => self.scopes.get(&job.entity).and_then(|scope| scope.last_group),
            };
        }
        let mut lists = [None; LOOK_AHEAD];
        for (lists, &gx) in lists.iter_mut().zip(groups.iter().flatten()) {
            let group = &self.groups[gx as usize];
            *lists = Some((group.lines.first(), self.installations[self.scopes[group.scope].home].polls.calm()));
        }
        let ends = |list: &Fifo| (list.first(), list.last());
        for (line, polls) in lists.iter().flatten() {
            core::hint::black_box((line.map(|line| ends(&line.pending)), ends(polls)));
        }
    }

    fn apply_job(&mut self, job: &Job) {
        match self.jobs.row_of(&job.id) {
            Some(row) => self.apply_known_job(row, job),
            None => self.apply_new_job(job),
        }
    }

    fn apply_new_job(&mut self, job: &Job) {
        let group = self.group_of_job(job);
        self.note_runner(job);
        if job.status.is_ended() {
            return;
        }
        let (id, requeued, assigned) = (job.id, job.is_requeued(), job.assignment.is_some());
        let installation = self.home_of(group);
        let mut entry = JobEntry {
            created_at: job.created_at,
            poll_due: job.created_at + self.poll_every(job.status, requeued, job.assignment.as_ref()),
            polled: super::NEVER_POLLED,
            rest: None,
            group,
            place: self.place_of(group, &job.repo, &job.pool, &job.image),
            installation,
            named: self.row_named(installation, job),
            status: job.status,
            requeued,
            ending: false,
            doubtful: false,
            in_flight: false,
        };
        entry.set_told(job);
        self.count_job(id, group, self.counts(&entry), 1);
        self.schedule_poll(id, entry.poll_key());
        self.jobs.insert_new(id, entry);
        if assigned {
            self.doubt_if_runner_is_gone(id);
        }
    }

    fn apply_known_job(&mut self, row: Row, job: &Job) {
        let id = job.id;
        let (group, installation) = self.home_of_known(row, job);
        let known = &self.jobs[row];
        if job.status.is_ended() {
            self.remove_job(id);
            return self.note_runner(job);
        }
        // A reading that was overtaken by a later write says nothing new.
        if known.status > job.status {
            return;
        }
        let repo = self.places[known.place as usize].repo.clone();
        let place = self.place_of(group, &repo, &job.pool, &job.image);
        self.note_runner(job);
        let assigned = job.assignment.is_some();
        let named = self.row_named(installation, job);
        self.change_job(row, |entry| {
            entry.group = group;
            entry.installation = installation;
            entry.named = named;
            entry.place = place;
            entry.status = job.status;
            entry.requeued = job.is_requeued();
            entry.created_at = job.created_at;
            entry.set_told(job);
        });
        if assigned {
            self.doubt_if_runner_is_gone(id);
        }
    }

    /// The row of the installation that a job's row names: nearly always that which serves it.
    fn row_named(&mut self, home: Row, job: &Job) -> Row {
        if self.installations.id_of(home) == job.installation {
            return home;
        }
        self.installations.row_or_insert_with(job.installation, InstallationEntry::default)
    }

    /// The group and the installation's row of a job that is known already.
    fn home_of_known(&mut self, row: Row, job: &Job) -> (Gx, Row) {
        let known = &self.jobs[row];
        let (gx, installation) = (known.group, known.installation);
        let group = &self.groups[gx as usize];
        // Nearly always it names the installation that is known, or none. While a job is under way that may have been
        // overtaken.
        let same = group.key.entity == job.entity
            && group.key.labels == job.labels
            && group.entity_type == job.entity_type
            && !known.in_flight
            && (self.installations.id_of(installation) == job.installation || job.installation.0 == 0);
        if same {
            return (gx, installation);
        }
        let gx = self.group_of_job(job);
        (gx, self.home_of(gx))
    }

    /// A job that names a runner proves that the runner registered. One that has ended is counted no more as what keeps it
    /// busy, and keeps others from it all the same: a runner takes one job in its life, and its pod ends a moment later. (A
    /// gone App's jobs are failed, and GitHub runs them when it is installed anew.)
    fn note_runner(&mut self, job: &Job) {
        let Some(assignment) = &job.assignment else { return };
        let name = WorkerName::new(assignment.runner.clone());
        let Some(worker) = self.workers.get_mut(&name) else { return };
        worker.registered = true;
        if job.status.is_ended() && worker.is_active() && worker.spent_at.is_none() {
            let now = self.now;
            self.edit_worker(&name, |worker| {
                worker.spent_at = Some(now);
                worker.phantom = true;
            });
        }
    }

    /// How long a job may go without being asked about.
    pub(super) fn poll_every(&self, status: Status, requeued: bool, on: Option<&Assignment>) -> Span {
        let on_ours = |on: &Assignment| {
            self.workers.get(&WorkerName::new(on.runner.clone())).is_some_and(|worker| worker.is_active())
        };
        if status == Status::Running && !requeued && on.is_some_and(on_ours) {
            self.governor.sweep_every
        } else {
            self.governor.wait_every
        }
    }

    fn schedule_poll(&mut self, id: JobId, key: Option<(Row, bool, Time)>) {
        let Some((installation, doubtful, due)) = key else { return };
        self.installations[installation].polls.insert(doubtful, due, id);
        self.wake_polls(installation, due);
    }

    fn unschedule_poll(&mut self, id: JobId, key: Option<(Row, bool, Time)>) {
        let Some((installation, doubtful, due)) = key else { return };
        self.installations[installation].polls.remove(doubtful, due, id);
    }

    /// Forgets a job, with all that it counted for.
    pub(crate) fn remove_job(&mut self, id: JobId) {
        let Some(job) = self.jobs.remove(&id) else { return };
        self.unschedule_poll(id, job.poll_key());
        self.count_job(id, job.group, self.counts(&job), -1);
    }

    /// Changes a job's entry, keeping every index right.
    pub(crate) fn edit_job(&mut self, id: JobId, edit: impl FnOnce(&mut JobEntry)) {
        let Some(row) = self.jobs.row_of(&id) else { return };
        let home = self.home_of(self.jobs[row].group);
        self.change_job(row, |job| {
            edit(job);
            job.installation = home;
        });
    }

    fn change_job(&mut self, row: Row, edit: impl FnOnce(&mut JobEntry)) {
        let id = self.jobs.id_of(row);
        let look = |s: &Self| {
            let job = &s.jobs[row];
            ((job.group, s.counts(job)), job.poll_key())
        };
        let (counted, polled) = look(self);
        edit(&mut self.jobs[row]);
        let (counts, polls) = look(self);
        if counted != counts {
            self.count_job(id, counted.0, counted.1, -1);
            self.count_job(id, counts.0, counts.1, 1);
        }
        if polled != polls {
            self.unschedule_poll(id, polled);
            self.schedule_poll(id, polls);
        }
    }

    /// Has a job polled soon: something about it does not fit.
    pub(crate) fn doubt_job(&mut self, id: JobId, not_before: Time) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.doubtful && job.poll_due <= not_before {
            return;
        }
        self.edit_job(id, |job| {
            job.poll_due = if job.doubtful { job.poll_due.min(not_before) } else { not_before };
            job.doubtful = true;
        });
    }

    /// A running job whose runner is a worker of ours that has ended has most likely ended too: its delivery is late
    /// or lost.
    fn doubt_if_runner_is_gone(&mut self, id: JobId) {
        let Some(job) = self.jobs.get(&id) else { return };
        if job.status != Status::Running || job.requeued {
            return;
        }
        let Some(assignment) = job.assignment() else { return };
        let name = WorkerName::new(assignment.runner.clone());
        if let Some(worker) = self.workers.get(&name)
            && worker.row.status.is_ended()
        {
            // Its pod's end is told by the node's clock, which may be ahead.
            let ended_at = worker.row.completed_at.unwrap_or(self.now).min(self.now);
            self.doubt_job(id, ended_at + self.governor.doubt_every);
        }
    }

    fn apply_worker(&mut self, worker: Worker) {
        let name = worker.name.clone();
        let scope = self.learn_scope(worker.scope());
        let Some(known) = self.workers.get(&name) else {
            self.scopes[scope].workers.insert(name.clone());
            self.inherit_worker(&worker);
            let mut entry = found(worker, self.is_named(&name));
            // Whoever made it may have made a JIT call for it whose answer nobody saw.
            entry.mint_until = entry.row.completed_at.unwrap_or(self.now) + LATE_EFFECT;
            return self.insert_worker(name, entry);
        };
        // Mostly it is this leader's own write that comes back.
        if known.row == worker && known.stage != Stage::Reserving {
            return;
        }
        self.edit_worker(&name, |entry| {
            // A reading that was overtaken by a later write says nothing new.
            if entry.row.status > worker.status {
                return;
            }
            if entry.stage == Stage::Reserving {
                entry.stage = Stage::Reserved;
            }
            entry.row = worker;
        });
    }

    /// Takes a worker in that was not known.
    pub(crate) fn insert_worker(&mut self, name: WorkerName, entry: WorkerEntry) {
        self.make_places_for(&entry.row);
        let counted = self.contribution(&name, &entry);
        self.workers.insert(name.clone(), entry);
        self.count_worker(counted, 1);
        self.worker_changed(&name);
    }

    /// Changes a worker's entry, keeping every index right.
    pub(crate) fn edit_worker(&mut self, name: &WorkerName, edit: impl FnOnce(&mut WorkerEntry)) {
        self.recount_worker(name, edit);
        self.worker_changed(name);
    }

    /// The same where nothing else follows from it: what is being done with it changes, and not what it is.
    pub(crate) fn recount_worker(&mut self, name: &WorkerName, edit: impl FnOnce(&mut WorkerEntry)) {
        let Some(entry) = self.workers.get(name) else { return };
        let before = self.contribution(name, entry);
        let Some(entry) = self.workers.get_mut(name) else { return };
        edit(entry);
        let Some(entry) = self.workers.get(name) else { return };
        let after = self.contribution(name, entry);
        if before != after {
            if let (Some(before), None) = (before, after) {
                // What the store refused may have been refused because of this one.
                self.lift_hold(before);
            }
            self.count_worker(before, -1);
            self.count_worker(after, 1);
        }
    }

    /// What follows from any change of a worker.
    fn worker_changed(&mut self, name: &WorkerName) {
        let Some(worker) = self.workers.get(name) else { return };
        let entity = worker.row.entity;
        if worker.row.status.is_ended() {
            self.refund_mint(name);
            let jobs: Vec<_> = self.runner_jobs.get(name).into_iter().flatten().copied().collect();
            for id in jobs {
                self.doubt_if_runner_is_gone(id);
            }
        }
        self.touch(Key::Scope(entity));
        self.touch(Key::Name(name.clone()));
    }

    pub(crate) fn apply_pods(&mut self, listing: PodListing) {
        let listed: BTreeSet<WorkerName> = listing.pods.iter().map(|pod| pod.name.clone()).collect();
        let gone: Vec<(WorkerName, PodUid)> = self
            .pods
            .iter()
            .filter(|(name, pod)| !listed.contains(*name) && pod.seen_at < listing.asked_at)
            .map(|(name, pod)| (name.clone(), pod.fact.uid.clone()))
            .collect();
        for (name, uid) in gone {
            self.apply_pod_gone(&name, &uid);
        }
        let later = self.pods_gone.partition_point(|(at, _)| *at < listing.asked_at);
        for pod in listing.pods {
            if !self.pods_gone.range(later..).any(|(_, uid)| *uid == pod.uid) {
                self.apply_pod(pod);
            }
        }
        let first = self.pods_at.is_none();
        self.pods_at = Some(self.pods_at.map_or(listing.asked_at, |known| known.max(listing.asked_at)));
        if first {
            self.touch_all_names();
        } else {
            self.touch_workers_without_pod();
        }
    }

    /// A new listing may prove a pod's absence.
    fn touch_workers_without_pod(&mut self) {
        let missing: Vec<WorkerName> = self
            .workers
            .iter()
            .filter(|(name, worker)| worker.is_active() && !self.pods.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in missing {
            self.touch(Key::Name(name));
        }
    }

    pub(crate) fn apply_pod(&mut self, pod: Pod) {
        let (name, after, now) = (pod.name.clone(), space_of(&pod), self.now);
        let before = match self.pods.get_mut(&name) {
            // Listings and watches overtake each other: a pod that was seen further along is not taken back. And most of
            // what they say is known.
            Some(known) if is_older(&pod, &known.fact) || known.fact == pod => return,
            Some(known) if known.fact.uid == pod.uid => {
                let before = space_of(&known.fact);
                if known.fact.phase != pod.phase {
                    known.phase_seen_at = now;
                }
                known.fact = pod;
                before
            }
            known => {
                let (placed, before) = (known.is_some(), known.and_then(|known| space_of(&known.fact)));
                let backoff = Backoff::default();
                let entry = PodEntry { fact: pod, seen_at: now, phase_seen_at: now, in_flight: false, backoff };
                self.pods.insert(name.clone(), entry);
                if !placed {
                    self.uncount_placed(&name, -1);
                }
                before
            }
        };
        if before != after {
            self.count_space(before, -1);
            self.count_space(after, 1);
        }
        self.touch(Key::Name(name));
    }

    fn apply_pod_gone(&mut self, name: &WorkerName, uid: &PodUid) {
        if self.pods.get(name).is_none_or(|pod| pod.fact.uid != *uid) {
            return;
        }
        if let Some(pod) = self.pods.remove(name) {
            self.count_space(space_of(&pod.fact), -1);
        }
        self.uncount_placed(name, 1);
        self.touch(Key::Name(name.clone()));
        self.touch(Key::PodList);
    }

    fn note_gone_pod(&mut self, uid: PodUid) {
        let now = self.now;
        while self.pods_gone.front().is_some_and(|(at, _)| now.since(*at) >= LISTED_LATE) {
            self.pods_gone.pop_front();
        }
        self.pods_gone.push_back((now, uid));
    }

    fn count_space(&mut self, space: Option<Space>, sign: i64) {
        match space {
            Some(Space::On(node)) => self.edit_node(&node, |s| {
                let bound = s.bound.entry(node.clone()).or_default();
                *bound += sign;
                if *bound == 0 {
                    s.bound.remove(&node);
                }
            }),
            Some(Space::Of(pool)) => {
                let px = self.pool(&pool);
                self.pools[px as usize].pods += sign;
            }
            None => {}
        }
    }

    /// A worker with a pod in view is placed: the pod takes the space instead of it.
    fn uncount_placed(&mut self, name: &WorkerName, sign: i64) {
        if let Some(worker) = self.workers.get(name)
            && worker.is_active()
        {
            let pool = worker.row.pool.clone();
            let px = self.pool(&pool);
            self.pools[px as usize].unplaced += sign;
        }
    }

    fn apply_nodes(&mut self, nodes: Vec<Node>) {
        let known: Vec<NodeName> = self.nodes.keys().cloned().collect();
        let listed: BTreeSet<&NodeName> = nodes.iter().map(|node| &node.name).collect();
        for name in known.iter().filter(|name| !listed.contains(*name)) {
            self.apply_node_gone(name);
        }
        for node in nodes {
            self.apply_node(node);
        }
        self.nodes_known = true;
    }

    fn apply_node(&mut self, node: Node) {
        self.edit_node(&node.name.clone(), |s| {
            s.nodes.insert(node.name.clone(), node);
        });
    }

    fn apply_node_gone(&mut self, name: &NodeName) {
        self.edit_node(name, |s| {
            s.nodes.remove(name);
        });
    }

    /// Changes what is known of a node, or of the pods on it, with the counts that depend on that.
    fn edit_node(&mut self, name: &NodeName, edit: impl FnOnce(&mut Self)) {
        self.count_node(name, -1);
        edit(self);
        self.count_node(name, 1);
    }

    fn count_node(&mut self, name: &NodeName, sign: i64) {
        if let Some((pool, slots)) = self.nodes.get(name).and_then(offer) {
            let taken = self.bound.get(name).map_or(0, |&bound| bound.min(slots));
            let px = self.pool(&pool);
            let pool = &mut self.pools[px as usize];
            pool.slots += sign * slots;
            pool.pods += sign * taken;
        }
    }
}

/// Whether `view` shows an earlier moment of the same pod than `known` does. A lost node's pod may come back from Unknown.
fn is_older(view: &Pod, known: &Pod) -> bool {
    let before = |phase: PodPhase| match phase {
        PodPhase::Pending => 0,
        PodPhase::Running | PodPhase::Unknown => 1,
        PodPhase::Succeeded | PodPhase::Failed => 2,
    };
    view.uid == known.uid && (before(view.phase), view.deleting) < (before(known.phase), known.deleting)
}

/// What a pod takes a place of.
#[derive(PartialEq, Eq)]
enum Space {
    /// The node that it is on: no more than that offers, so one that is lost or cordoned takes nothing with it.
    On(NodeName),
    /// Some node of this pool, to come.
    Of(Pool),
}

fn space_of(pod: &Pod) -> Option<Space> {
    let space = pod.node.clone().map(Space::On).or_else(|| pod.pool.clone().map(Space::Of));
    space.filter(|_| !pod.phase.is_ended())
}

/// What a node gives its pool. One that is not ready or is cordoned gives nothing.
fn offer(node: &Node) -> Option<(Pool, i64)> {
    node.pool.clone().filter(|_| node.usable).map(|pool| (pool, i64::from(node.runners)))
}

/// A worker that another leader made, or this one before a restart.
pub(crate) fn found(row: Worker, named: bool) -> WorkerEntry {
    let touched_at = row.created_at;
    WorkerEntry {
        row,
        stage: Stage::Found,
        in_flight: false,
        mint_paid: None,
        ending: false,
        reserve: None,
        backoff: Backoff::default(),
        touched_at,
        registered: named,
        runner_gone_at: None,
        mint_until: Time::ZERO,
        pod_until: Time::ZERO,
        offline_since: None,
        idle_since: None,
        busy_since: None,
        removing: None,
        spent_at: None,
        phantom: false,
    }
}
