//! What no decision may ever do, as code of its own: it counts from rows and views, not from the rules' indexes.
//!
//! Used after every decision in tests and simulations, on the snapshot as it was before.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};

use crate::{
    decision::{Action, Decision, Write},
    facts::{Status, Worker},
    ids::{JobId, NodeName, OwnerId, Pool, Span, Time, WorkerName},
    labels::LabelSet,
    policy::Policy,
    snapshot::{JobEntry, Snapshot, WorkerEntry},
};

/// One broken promise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The invariant's name, as in the list of invariants.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
}

/// Holds `decision`, which `decide` made from `before` at `now`, against the safety invariants that one decision can
/// break. Empty when it holds.
pub fn check(before: &Snapshot, policy: &Policy, decision: &Decision, now: Time) -> Vec<Violation> {
    // As `decide` has it: time never runs backwards.
    let now = before.now.max(now);
    let mut found = Vec::new();
    let mut tally = Tally::count(before);
    let named = runners_of_jobs(before, decision);
    for chosen in &decision.actions {
        match &chosen.action {
            Action::Write { write, diagnose } => {
                check_write(before, policy, &mut tally, write, diagnose.is_some(), &mut found);
            }
            Action::DeletePod { name, .. } => check_pod_deletion(before, policy, &named, name, now, &mut found),
            Action::DeleteRunner { name, .. } => check_runner_deletion(policy, &named, name, &mut found),
            Action::MintJit(_)
            | Action::CreatePod(_)
            | Action::CreateSecret { .. }
            | Action::PollJob { .. }
            | Action::ListRunners(_)
            | Action::ListPods
            | Action::ListDeliveries { .. }
            | Action::Redeliver { .. } => {}
        }
    }
    found
}

/// The runners that running jobs name, but for those whose job ends by this very decision: GitHub has said that it is
/// over.
fn runners_of_jobs<'a>(s: &'a Snapshot, decision: &Decision) -> BTreeSet<&'a str> {
    let ends = |action: &Action| match action {
        Action::Write { write: Write::JobCompleted { id, .. } | Write::JobFailed { id, .. }, .. } => Some(*id),
        _ => None,
    };
    let over: BTreeSet<JobId> = decision.actions.iter().filter_map(|chosen| ends(&chosen.action)).collect();
    let runs = |id: &JobId, job: &JobEntry| {
        job.status == Status::Running && !job.requeued && !job.ending && !over.contains(id)
    };
    let running = s.jobs.iter().filter(|(id, job)| runs(id, job));
    running.filter_map(|(_, job)| job.assignment().map(|assignment| &*assignment.runner)).collect()
}

/// Plain counts, taken by walking every row.
struct Tally {
    owners: BTreeMap<OwnerId, i64>,
    pools: BTreeMap<Pool, i64>,
    offered: BTreeMap<Pool, i64>,
    reserved: BTreeMap<(i64, LabelSet), i64>,
}

impl Tally {
    fn count(s: &Snapshot) -> Self {
        let mut owners = BTreeMap::new();
        let mut pools = BTreeMap::new();
        for (name, worker) in s.workers.iter().filter(|(_, worker)| worker.is_active()) {
            *owners.entry(worker.row.owner).or_default() += 1;
            if !s.pods.contains_key(name) {
                *pools.entry(worker.row.pool.clone()).or_default() += 1;
            }
        }
        let mut there: BTreeMap<&NodeName, i64> = BTreeMap::new();
        for pod in s.pods.values().map(|pod| &pod.fact).filter(|pod| !pod.phase.is_ended()) {
            match (&pod.node, &pod.pool) {
                (Some(node), _) => *there.entry(node).or_default() += 1,
                (None, Some(pool)) => *pools.entry(pool.clone()).or_default() += 1,
                (None, None) => {}
            }
        }
        let mut offered = BTreeMap::new();
        for node in s.nodes.values().filter(|node| node.usable) {
            if let Some(pool) = &node.pool {
                let runners = i64::from(node.runners);
                *offered.entry(pool.clone()).or_default() += runners;
                *pools.entry(pool.clone()).or_default() += runners.min(there.remove(&node.name).unwrap_or(0));
            }
        }
        Self { owners, pools, offered, reserved: BTreeMap::new() }
    }

    fn release(&mut self, s: &Snapshot, name: &WorkerName) {
        let Some(worker) = s.workers.get(name).filter(|worker| worker.is_active()) else { return };
        *self.owners.entry(worker.row.owner).or_default() -= 1;
        if !s.pods.contains_key(name) {
            *self.pools.entry(worker.row.pool.clone()).or_default() -= 1;
        }
    }
}

fn check_write(
    s: &Snapshot,
    policy: &Policy,
    tally: &mut Tally,
    write: &Write,
    diagnosing: bool,
    found: &mut Vec<Violation>,
) {
    match write {
        Write::Reserve { worker, cap, .. } => {
            if s.workers.contains_key(&worker.name) {
                // A repeated reservation, whose first answer was lost.
                return;
            }
            check_reservation(s, policy, tally, worker, *cap, found);
        }
        Write::WorkerCompleted { name, .. } | Write::WorkerFailed { name, .. } => {
            check_worker_forward(s, name, found);
            if !diagnosing {
                tally.release(s, name);
            }
        }
        Write::WorkerRunning { name, .. } => check_worker_forward(s, name, found),
        Write::JobRunning { .. } | Write::JobCompleted { .. } | Write::JobFailed { .. } | Write::JobRequeued { .. } => {
        }
    }
}

/// S2, as far as one decision shows it.
fn check_worker_forward(s: &Snapshot, name: &WorkerName, found: &mut Vec<Violation>) {
    if s.workers.get(name).is_some_and(|worker| worker.row.status.is_ended()) {
        found.push(Violation { invariant: "S2 forward-only", what: format!("{name} has ended and is written again") });
    }
}

/// S4, S5, S6, S9 and S17 for one new worker.
fn check_reservation(
    s: &Snapshot,
    policy: &Policy,
    tally: &mut Tally,
    worker: &Worker,
    cap: Option<u32>,
    found: &mut Vec<Violation>,
) {
    let mut broken = |invariant, what| found.push(Violation { invariant, what });
    let name = &worker.name;
    let active = tally.owners.entry(worker.owner).or_default();
    *active += 1;
    if cap != policy.cap(worker.owner) || cap.is_some_and(|cap| *active > i64::from(cap)) {
        broken("S4 cap", format!("{name} is number {active} of owner {} whose cap is {cap:?}", worker.owner));
    }
    let taken = tally.pools.entry(worker.pool.clone()).or_default();
    *taken += 1;
    let offered = tally.offered.get(&worker.pool).copied().unwrap_or(0);
    if *taken > offered {
        broken("S6 capacity", format!("{name} is number {taken} of {offered} in pool {}", worker.pool));
    }
    let reserved = tally.reserved.entry((worker.entity.0, worker.labels.clone())).or_default();
    *reserved += 1;
    let unserved = unserved_jobs(s, worker);
    if *reserved > unserved {
        broken(
            "S5 no-over-provision",
            format!("{name} is number {reserved} for {unserved} unserved jobs of its group"),
        );
    }
    if WorkerName::entity_of(name.as_str(), policy.realm) != Some(worker.entity) {
        broken("S17 isolation", format!("{name} is not a name that {} gives", policy.realm.as_str()));
    }
    let asks = |job: &JobEntry| {
        let key = &s.groups[job.group as usize].key;
        key.entity == worker.entity
            && key.labels == worker.labels
            && s.place(job).pool == worker.pool
            && s.place(job).image == worker.image
    };
    if !s.jobs.values().any(asks) {
        broken("S9 exact-labels", format!("{name} has labels {} and pool {} of no job", worker.labels, worker.pool));
    }
}

/// Pending jobs of the worker's group that no idle worker serves, counted row by row.
///
/// Workers whose end is decided in the same decision still count as idle here, so this may ask for less than the rules
/// see; a worker that is pending or running without a pod is not idle when that is what the decision found out.
fn unserved_jobs(s: &Snapshot, like: &Worker) -> i64 {
    let in_group = |worker: &&WorkerEntry| worker.row.entity == like.entity && worker.row.labels == like.labels;
    let group = |gx: u32| {
        let key = &s.groups[gx as usize].key;
        key.entity == like.entity && key.labels == like.labels
    };
    let mut pending = 0;
    for job in s.jobs.values().filter(|job| group(job.group) && !job.ending) {
        if job.status == Status::Pending || job.requeued {
            pending += 1;
        }
    }
    let running: BTreeSet<&str> = s
        .jobs
        .values()
        .filter(|job| job.status == Status::Running && !job.requeued && !job.ending)
        .filter_map(|job| job.assignment().map(|assignment| &*assignment.runner))
        .collect();
    // Only workers that are sure to be idle count against the reservation: online, free in the last listing, taken by no
    // job whose row was failed (GitHub's `busy` lags), and with a pod that runs. Those on their way serve too, but may be
    // failing in this same decision.
    let idle = s
        .workers
        .values()
        .filter(in_group)
        .filter(|worker| {
            worker.is_active() && worker.idle_since.is_some() && !running.contains(worker.row.name.as_str())
        })
        .filter(|worker| worker.removing.is_none() && worker.spent_at.is_none())
        .filter(|worker| {
            s.pods.get(&worker.row.name).is_some_and(|pod| !pod.fact.phase.is_ended() && !pod.fact.deleting)
        })
        .count() as i64;
    let anonymous = s
        .jobs
        .values()
        .filter(|job| group(job.group) && job.status == Status::Running && !job.requeued && job.assignment().is_none())
        .count() as i64;
    pending - (idle - anonymous).max(0)
}

/// S8, S12 and S17 for one pod deletion.
fn check_pod_deletion(
    s: &Snapshot,
    policy: &Policy,
    named: &BTreeSet<&str>,
    name: &WorkerName,
    now: Time,
    found: &mut Vec<Violation>,
) {
    let mut broken = |invariant, what| found.push(Violation { invariant, what });
    if WorkerName::entity_of(name.as_str(), policy.realm).is_none() {
        broken("S17 isolation", format!("pod {name} is not ours"));
    }
    let Some(pod) = s.pods.get(name) else { return };
    let worker = s.workers.get(name);
    if !pod.fact.phase.is_ended() {
        if named.contains(name.as_str()) {
            broken("S8 never-kill-busy", format!("pod {name} is alive and a running job names it"));
        }
        // What was listed before the App went, longer ago than any job lasts, says nothing any more.
        let stale = |since: Time| now.since(since) >= policy.timeouts.gone;
        let tellings = s.scopes.values().filter(|scope| !scope.gone.is_some_and(stale));
        let listed = tellings.filter_map(|scope| scope.runners.get(name)).any(|runner| runner.busy);
        if listed {
            broken("S8 never-kill-busy", format!("pod {name} is alive and its runner was busy when last listed"));
        }
        return;
    }
    let ended_before = |worker: &WorkerEntry| {
        let times = pod.fact.finished_at.zip(worker.row.completed_at);
        times.is_some_and(|(ended, failed)| ended + Span::secs(1) < failed)
    };
    let keeps = worker
        .is_none_or(|worker| worker.row.failure.is_none_or(|failure| failure.keeps_pod()) || ended_before(worker));
    let ended_at =
        pod.fact.finished_at.or(worker.and_then(|worker| worker.row.completed_at)).unwrap_or(pod.fact.created_at);
    if keeps && now.since(ended_at) < policy.timeouts.grace {
        broken("S12 grace", format!("pod {name} ended {} ago and is deleted", now.since(ended_at)));
    }
}

/// S8 and S17 for one runner deletion.
fn check_runner_deletion(policy: &Policy, named: &BTreeSet<&str>, name: &str, found: &mut Vec<Violation>) {
    if WorkerName::entity_of(name, policy.realm).is_none() {
        found.push(Violation { invariant: "S17 isolation", what: format!("runner {name} is not ours") });
    }
    if named.contains(name) {
        let what = format!("runner {name} is deleted while a running job names it");
        found.push(Violation { invariant: "S8 never-kill-busy", what });
    }
}
