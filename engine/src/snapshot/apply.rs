//! How facts change the snapshot. Every change is safe to repeat, and to arrive late.

use alloc::{collections::BTreeSet, vec::Vec};

use super::{JobEntry, Key, PodEntry, Snapshot, Stage, WorkerEntry, index::worker_key};
use crate::{
    facts::{Change, Job, Node, Pod, PodListing, PodPhase, Status, Worker},
    governor::Backoff,
    ids::{JobId, NodeName, PodUid, Pool, Time, WorkerName},
};

impl Snapshot {
    /// Takes a change in. `now` is when it became known.
    pub fn apply(&mut self, change: Change, now: Time) {
        self.now = self.now.max(now);
        match change {
            Change::Job(job) => self.apply_job(job),
            Change::Worker(worker) => self.apply_worker(worker),
            Change::StoreSynced { asked_at } => self.apply_synced(asked_at),
            Change::Pods(listing) => self.apply_pods(listing),
            Change::PodSeen(pod) => self.apply_pod(pod),
            Change::PodGone { name, uid } => self.apply_pod_gone(&name, &uid),
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
            self.touch_all_names();
        }
    }

    /// The first complete views let rules conclude what they could not before.
    fn touch_all_names(&mut self) {
        let names: BTreeSet<WorkerName> = self.workers.keys().chain(self.pods.keys()).cloned().collect();
        for name in names {
            self.touch(Key::Name(name));
        }
    }

    fn apply_job(&mut self, job: Job) {
        let id = job.id;
        let gx = self.group_of_job(&job);
        let old = self.jobs.remove(&id);
        // Of an entity's installations only the latest exists; one that a delivery left out is the same.
        let installation = self.installation_of(gx).unwrap_or(job.installation);
        if let Some(old) = &old {
            self.count_job(id, old, -1);
            self.unschedule_poll(id, old);
        }
        if job.status.is_ended() || old.as_ref().is_some_and(|old| old.status > job.status) {
            // A reading that was overtaken by a later write says nothing new.
            if let Some(old) = old.filter(|_| !job.status.is_ended()) {
                self.insert_job(id, old);
            } else {
                self.note_runner(&job);
            }
            return;
        }
        self.note_runner(&job);
        let requeued = job.is_requeued();
        let mut entry = match old {
            Some(old) => JobEntry {
                group: gx,
                status: job.status,
                requeued,
                created_at: job.created_at,
                installation,
                place: self.place_of(gx, old.place.repo.clone(), job.pool, job.image),
                ..old
            },
            None => JobEntry {
                group: gx,
                status: job.status,
                requeued,
                ending: false,
                doubtful: false,
                in_flight: false,
                created_at: job.created_at,
                installation,
                place: self.place_of(gx, job.repo, job.pool, job.image),
                poll_due: job.created_at + self.governor.sweep_every,
                polled: super::NEVER_POLLED,
                rest: None,
            },
        };
        entry.edit_rest(|rest| {
            rest.assignment = job.assignment;
            rest.requeued_at = job.requeued_at;
        });
        let named = entry.assignment().is_some();
        self.insert_job(id, entry);
        if named {
            self.doubt_if_runner_is_gone(id);
        }
    }

    /// A job that names a runner proves that the runner registered.
    fn note_runner(&mut self, job: &Job) {
        let Some(assignment) = &job.assignment else { return };
        let name = WorkerName(assignment.runner.clone());
        if let Some(worker) = self.workers.get_mut(&name) {
            worker.registered = true;
        }
    }

    pub(crate) fn insert_job(&mut self, id: JobId, entry: JobEntry) {
        self.count_job(id, &entry, 1);
        self.schedule_poll(id, &entry);
        self.jobs.insert(id, entry);
    }

    fn schedule_poll(&mut self, id: JobId, entry: &JobEntry) {
        if entry.in_flight || entry.ending {
            return;
        }
        let polls = &mut self.installations.entry(entry.installation).or_default().polls;
        polls.insert((!entry.doubtful, entry.poll_due, id));
        self.wake(Key::Polls(entry.installation), entry.poll_due);
    }

    fn unschedule_poll(&mut self, id: JobId, entry: &JobEntry) {
        if let Some(installation) = self.installations.get_mut(&entry.installation) {
            installation.polls.remove(&(!entry.doubtful, entry.poll_due, id));
        }
    }

    /// Changes a job's entry, keeping every index right.
    pub(crate) fn edit_job(&mut self, id: JobId, edit: impl FnOnce(&mut JobEntry)) {
        let Some(mut entry) = self.jobs.remove(&id) else { return };
        self.count_job(id, &entry, -1);
        self.unschedule_poll(id, &entry);
        edit(&mut entry);
        entry.installation = self.installation_of(entry.group).unwrap_or(entry.installation);
        self.insert_job(id, entry);
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
        let name = WorkerName(assignment.runner.clone());
        if let Some(worker) = self.workers.get(&name)
            && worker.row.status.is_ended()
        {
            let at = worker.row.completed_at.unwrap_or(self.now) + self.governor.doubt_every;
            self.doubt_job(id, at);
        }
    }

    fn apply_worker(&mut self, worker: Worker) {
        let name = worker.name.clone();
        self.learn_scope(worker.scope());
        self.scope_of(worker.scope()).workers.insert(name.clone());
        let old = self.workers.remove(&name);
        if let Some(old) = &old {
            self.count_worker(&name, old, -1);
        }
        let entry = match old {
            // A reading that was overtaken by a later write says nothing new.
            Some(old) if old.row.status > worker.status => old,
            Some(old) => {
                let stage = if old.stage == Stage::Reserving { Stage::Reserved } else { old.stage.clone() };
                WorkerEntry { row: worker, stage, ..old }
            }
            None => found(worker, self.is_named(&name)),
        };
        self.insert_worker(name, entry);
    }

    pub(crate) fn insert_worker(&mut self, name: WorkerName, entry: WorkerEntry) {
        self.group_of_worker(&entry.row);
        self.count_worker(&name, &entry, 1);
        let ended = entry.row.status.is_ended();
        let entity = entry.row.entity;
        self.workers.insert(name.clone(), entry);
        if ended {
            self.refund_mint(&name);
            let jobs: Vec<_> = self.runner_jobs.get(&name.0).into_iter().flatten().copied().collect();
            for id in jobs {
                self.doubt_if_runner_is_gone(id);
            }
            if let Some(gx) = self.workers.get(&name).and_then(|w| self.group_ix.get(&worker_key(&w.row)).copied()) {
                self.refresh(gx);
            }
        }
        self.touch(Key::Scope(entity));
        self.touch(Key::Name(name));
    }

    /// Changes a worker's entry, keeping every index right.
    pub(crate) fn edit_worker(&mut self, name: &WorkerName, edit: impl FnOnce(&mut WorkerEntry)) {
        let Some(mut entry) = self.workers.remove(name) else { return };
        self.count_worker(name, &entry, -1);
        edit(&mut entry);
        self.insert_worker(name.clone(), entry);
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
        for pod in listing.pods {
            self.apply_pod(pod);
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
        let name = pod.name.clone();
        // Listings and watches overtake each other: a pod that was seen further along is not taken back.
        if self.pods.get(&name).is_some_and(|known| is_older(&pod, &known.fact)) {
            return;
        }
        self.count_pod(&name, -1);
        let entry = match self.pods.remove(&name) {
            Some(old) if old.fact.uid == pod.uid => {
                let phase_seen_at = if old.fact.phase == pod.phase { old.phase_seen_at } else { self.now };
                PodEntry { fact: pod, phase_seen_at, ..old }
            }
            Some(_) | None => PodEntry {
                fact: pod,
                seen_at: self.now,
                phase_seen_at: self.now,
                in_flight: false,
                backoff: Backoff::default(),
            },
        };
        self.pods.insert(name.clone(), entry);
        self.count_pod(&name, 1);
        self.touch(Key::Name(name));
    }

    fn apply_pod_gone(&mut self, name: &WorkerName, uid: &PodUid) {
        if self.pods.get(name).is_none_or(|pod| pod.fact.uid != *uid) {
            return;
        }
        self.count_pod(name, -1);
        self.pods.remove(name);
        self.uncount_placed(name, 1);
        self.touch(Key::Name(name.clone()));
        self.touch(Key::PodList);
    }

    /// What a pod takes of its pool. A worker with a pod in view is placed: the pod counts instead of it.
    fn count_pod(&mut self, name: &WorkerName, sign: i64) {
        let Some(pod) = self.pods.get(name) else {
            if sign < 0 {
                // No pod was in view: the worker is about to be placed.
                self.uncount_placed(name, -1);
            }
            return;
        };
        if pod.fact.phase.is_ended() {
            return;
        }
        if let Some(pool) = pod.fact.pool.clone() {
            self.pools.entry(pool).or_default().pods += sign;
        }
    }

    fn uncount_placed(&mut self, name: &WorkerName, sign: i64) {
        if let Some(worker) = self.workers.get(name)
            && worker.is_active()
        {
            self.pools.entry(worker.row.pool.clone()).or_default().unplaced += sign;
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
        self.apply_node_gone(&node.name.clone());
        if let Some((pool, slots)) = offer(&node) {
            self.pools.entry(pool).or_default().slots += slots;
        }
        self.nodes.insert(node.name.clone(), node);
    }

    fn apply_node_gone(&mut self, name: &NodeName) {
        if let Some((pool, slots)) = self.nodes.remove(name).as_ref().and_then(offer) {
            self.pools.entry(pool).or_default().slots -= slots;
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
        offline_since: None,
        idle_since: None,
        busy_since: None,
        removing: None,
        phantom: false,
    }
}
