//! reconcile_runners: keep GitHub's runners and our workers the same set.
//!
//! - A runner whose worker has ended, or that no worker owns, is deleted.
//! - A pod that stays Pending, a runner that never comes online or stays away, and a runner that nobody needs are
//!   removed: the runner entry first, then the row is failed with its diagnostics, and its pod goes (`cleanup_pods`).
//! - Which scope to list next is chosen within the budget.

use alloc::vec::Vec;
use core::mem;

use super::removal::{self, Clearance};
use crate::{
    decide::Turn,
    decision::{Action, Reason, WorkerFailure, Write},
    facts::{PodPhase, Status},
    governor::Use,
    ids::{EntityId, JobId, Span, Time, WorkerName},
    snapshot::{Flight, Key, PodEntry, ScopeEntry, Stage, WorkerEntry},
};

/// A pod found without its Secret is left this long: the leader that made it may still be about to add it.
const SECRET_PROOF: Span = Span::secs(60);
/// GitHub's `busy` may lag this far behind a job's start; only then does an idle-looking runner contradict a row.
const BUSY_LAG: Span = Span::secs(60);
/// A runner that has looked idle this long next to a pending job of its own group raises doubt about that job.
const UNTAKEN: Span = Span::secs(30);

/// GitHub lists at most this many runners on one page.
const RUNNERS_A_PAGE: u32 = 100;

pub(crate) fn run(turn: &mut Turn<'_>) {
    turn.each_due_name(health);
    let scopes = mem::take(&mut turn.s.due.scopes);
    let mut due: Vec<(Option<Time>, EntityId)> = Vec::new();
    for &entity in &scopes {
        // A listing is gone through once, not whenever one of its entity's workers moves on.
        let news = turn.s.scopes.get_mut(&entity).is_some_and(|scope| mem::take(&mut scope.news));
        if news {
            delete_leftovers(turn, entity);
            raise_doubts(turn, entity);
        }
        if is_due(turn, entity) {
            due.push((turn.s.scopes.get(&entity).and_then(|scope| scope.listed_at), entity));
        }
    }
    turn.s.due.scopes = scopes;
    // Who was listed least lately is listed first: scopes of one installation share what it may be asked, and where that is
    // little one that always has a wish would keep others from ever being listed.
    due.sort_unstable();
    for (_, entity) in due {
        list(turn, entity);
    }
}

/// Judges one active worker.
fn health(turn: &mut Turn<'_>, name: &WorkerName) {
    let now = turn.now;
    let Some(worker) = turn.s.worker(name) else { return };
    if !worker.is_active() || worker.in_flight {
        return;
    }
    if let Some(failure) = worker.removing {
        return remove(turn, name, failure);
    }
    let Some(pod) = turn.s.pod(name) else { return };
    // A pod on a lost node hangs, being deleted or Unknown, for as long as the node is away: it is judged like any other.
    let verdict = match pod.fact.phase {
        PodPhase::Pending => judge_pending(turn, worker, pod),
        PodPhase::Running | PodPhase::Unknown if !turn.s.is_named(name) => judge_running(turn, worker, pod),
        PodPhase::Running | PodPhase::Succeeded | PodPhase::Failed | PodPhase::Unknown => Verdict::Fine,
    };
    let entity = worker.row.entity;
    match verdict {
        Verdict::Fine => {}
        Verdict::Until(at) => turn.s.wake(Key::Name(name.clone()), at.max(now + Span(1))),
        Verdict::Listing(asked_at) => {
            if let Some(scope) = turn.s.scopes.get_mut(&entity) {
                scope.want(asked_at);
            }
            turn.s.wake(Key::Scope(entity), asked_at);
        }
        Verdict::Remove(failure) => {
            turn.s.recount_worker(name, |worker| worker.removing = Some(failure));
            remove(turn, name, failure);
        }
    }
}

enum Verdict {
    /// Nothing to say until something changes.
    Fine,
    /// Nothing to say before then.
    Until(Time),
    /// A listing asked for at or after this must be seen first.
    Listing(Time),
    /// To be removed.
    Remove(WorkerFailure),
}

/// POD_STUCK_PENDING of the specification; and a pod whose Secret nobody will make any more.
fn judge_pending(turn: &Turn<'_>, worker: &WorkerEntry, pod: &PodEntry) -> Verdict {
    let since = pod.fact.created_at.max(worker.row.created_at);
    let timeouts = &turn.policy.timeouts;
    // The cluster's clock and this one may disagree: a part of the time must have passed before our eyes.
    let stuck = (since + timeouts.pending).max(pod.phase_seen_at + timeouts.registration);
    if turn.now >= stuck {
        return Verdict::Remove(WorkerFailure::PodStuckPending);
    }
    let abandoned = worker.stage == Stage::Found && pod.fact.waiting.as_deref() == Some("CreateContainerConfigError");
    if abandoned {
        let proof = pod.seen_at.max(since) + SECRET_PROOF;
        if turn.now >= proof {
            return Verdict::Remove(WorkerFailure::ProvisioningInterrupted);
        }
        return Verdict::Until(proof.min(stuck));
    }
    Verdict::Until(stuck)
}

/// RUNNER_NEVER_REGISTERED of the specification, a runner that went away, and one that nobody needs.
fn judge_running(turn: &Turn<'_>, worker: &WorkerEntry, pod: &PodEntry) -> Verdict {
    let (now, timeouts) = (turn.now, &turn.policy.timeouts);
    let Some(scope) = turn.s.scopes.get(&worker.row.entity) else { return Verdict::Fine };
    if let Some(since) = scope.gone {
        let limit = since + timeouts.gone;
        return if now < limit { Verdict::Until(limit) } else { Verdict::Remove(WorkerFailure::InstallationGone) };
    }
    let (away_since, failure) = match (worker.registered, worker.offline_since) {
        (false, _) => (Some(pod.phase_seen_at), WorkerFailure::RunnerNeverRegistered),
        (true, Some(since)) => (Some(since), WorkerFailure::RunnerLost),
        (true, None) => (None, WorkerFailure::RunnerLost),
    };
    let Some(away_since) = away_since else { return judge_surplus(turn, worker) };
    let deadline = away_since + timeouts.registration;
    if now < deadline {
        return Verdict::Until(deadline);
    }
    let Some(listed_at) = scope.listed_at.filter(|&at| at >= deadline) else { return Verdict::Listing(deadline) };
    let Some(offline_since) = worker.offline_since else {
        return Verdict::Listing(listed_at + turn.policy.governor.doubt_every);
    };
    // A worker found after a restart may be one whose job has just ended: its entry is gone, its pod about to end.
    let proof = offline_since + turn.policy.governor.doubt_every;
    if worker.stage == Stage::Found && listed_at < proof {
        return Verdict::Listing(proof);
    }
    Verdict::Remove(failure)
}

/// Idle in two listings far enough apart, unneeded for long enough, and not more of them than are unneeded.
fn judge_surplus(turn: &Turn<'_>, worker: &WorkerEntry) -> Verdict {
    let timeouts = &turn.policy.timeouts;
    let Some(gx) = turn.s.group_of_row(&worker.row) else { return Verdict::Fine };
    let group = &turn.s.groups[gx as usize];
    let Some(surplus_since) = group.surplus_since else { return Verdict::Fine };
    let ripe = surplus_since + timeouts.surplus;
    if turn.now < ripe {
        return Verdict::Until(ripe);
    }
    let listed_at = turn.s.scopes.get(&worker.row.entity).and_then(|scope| scope.listed_at);
    let (Some(idle_since), Some(listed_at)) = (worker.idle_since, listed_at) else { return Verdict::Listing(turn.now) };
    if listed_at.since(idle_since) < timeouts.idle_proof {
        return Verdict::Listing(idle_since + timeouts.idle_proof);
    }
    if i64::from(group.retiring) >= -group.want() {
        return Verdict::Fine;
    }
    Verdict::Remove(WorkerFailure::Surplus)
}

/// Takes the next step of a removal.
fn remove(turn: &mut Turn<'_>, name: &WorkerName, failure: WorkerFailure) {
    let now = turn.now;
    let Some(worker) = turn.s.worker(name) else { return };
    let (entity, since) = (worker.row.entity, worker.touched_at);
    let pod = turn.s.pod(name).map(|pod| (pod.fact.uid.clone(), pod.fact.phase));
    if failure == WorkerFailure::Surplus && still_wanted(turn, name) {
        give_up_removal(turn, name);
        return;
    }
    let ran = worker.row.status == Status::Running;
    let ended = pod.as_ref().map_or(ran, |(_, phase)| phase.is_ended());
    let unregistered = worker.runner_gone_at.is_some_and(|at| at > since);
    let of_runner =
        matches!(failure, WorkerFailure::Surplus | WorkerFailure::RunnerLost | WorkerFailure::RunnerNeverRegistered);
    if of_runner && ended && !unregistered {
        // It ended by itself, perhaps of a job that nobody told of: its pod's phase says how, or that it vanished.
        return turn.s.recount_worker(name, |worker| worker.removing = None);
    }
    let alive = pod.as_ref().is_some_and(|(_, phase)| !phase.is_ended());
    let clearance = if alive {
        removal::clear_runner(turn, name, entity, since, removal::before_pod(failure))
    } else {
        Clearance::Clear
    };
    let not_started = pod.as_ref().is_none_or(|(_, phase)| *phase == PodPhase::Pending);
    let failure = match clearance {
        Clearance::Clear => failure,
        Clearance::CannotAsk if not_started => WorkerFailure::InstallationGone,
        Clearance::Busy => return give_up_removal(turn, name),
        // Its answer brings the name up again, unless the answer is that nobody can be asked.
        Clearance::Asking => return turn.s.wake(Key::Name(name.clone()), now + turn.policy.governor.doubt_every),
        Clearance::CannotAsk => return turn.s.wake(Key::Name(name.clone()), now + turn.policy.timeouts.backoff_max),
    };
    let diagnose = pod.map(|(uid, _)| (name.clone(), uid));
    fail(turn, name, failure, diagnose);
}

/// Whether a surplus worker is needed after all and its runner still exists.
fn still_wanted(turn: &Turn<'_>, name: &WorkerName) -> bool {
    let Some(worker) = turn.s.worker(name) else { return false };
    let listed = turn.s.scopes.get(&worker.row.entity).and_then(|scope| scope.runners.get(name));
    let wanted = turn.s.group_of_row(&worker.row).is_some_and(|gx| turn.s.groups[gx as usize].want() >= 0);
    wanted && listed.is_some_and(|runner| !runner.in_flight)
}

/// It works after all.
fn give_up_removal(turn: &mut Turn<'_>, name: &WorkerName) {
    let at = turn.now + turn.policy.timeouts.backoff_max;
    turn.s.recount_worker(name, |worker| {
        worker.removing = None;
        worker.registered = true;
        if worker.stage != Stage::Found {
            // Whatever its provisioning still waited for, it has.
            worker.stage = Stage::Ready;
        }
        worker.offline_since = None;
        worker.idle_since = None;
    });
    turn.s.wake(Key::Name(name.clone()), at);
}

/// Fails a worker's row. Without diagnostics to collect first it is no supply from this moment on.
pub(crate) fn fail(
    turn: &mut Turn<'_>,
    name: &WorkerName,
    failure: WorkerFailure,
    diagnose: Option<(WorkerName, crate::ids::PodUid)>,
) {
    let now = turn.now;
    let Some(worker) = turn.s.worker(name) else { return };
    if now < worker.backoff.until {
        let at = worker.backoff.until;
        return turn.s.wake(Key::Name(name.clone()), at);
    }
    let pod = turn.s.pod(name).map(|pod| &pod.fact);
    let write = Write::WorkerFailed {
        name: name.clone(),
        at: now,
        running_at: pod.and_then(|pod| pod.started_at),
        node: pod.and_then(|pod| pod.node.clone()),
        failure,
    };
    turn.s.refund_mint(name);
    let ending = diagnose.is_none();
    turn.s.edit_worker(name, |worker| {
        worker.in_flight = true;
        worker.ending = ending;
    });
    let flight = Flight::WorkerWrite(name.clone(), write.clone());
    turn.act(flight, Action::Write { write, diagnose }, Reason::WorkerFailed(failure));
}

/// Deletes runner entries of ours whose worker has ended or does not exist.
fn delete_leftovers(turn: &mut Turn<'_>, entity: EntityId) {
    let Some(scope) = turn.s.scopes.get(&entity) else { return };
    let Some(listed_at) = scope.listed_at else { return };
    let ours = |name: &WorkerName| WorkerName::entity_of(name.as_str(), turn.policy.realm) == Some(entity);
    let mut doomed: Vec<(WorkerName, Reason)> = Vec::new();
    for (name, runner) in scope.runners.iter().filter(|(name, runner)| !runner.busy && !runner.in_flight && ours(name))
    {
        match turn.s.worker(name) {
            Some(worker) if !worker.row.status.is_ended() => {}
            Some(worker) if worker.row.completed_at.is_some_and(|at| listed_at > at) => {
                doomed.push((name.clone(), Reason::RunnerOfEndedWorker));
            }
            None if turn.s.store_known_since(runner.seen_at) => doomed.push((name.clone(), Reason::OrphanRunner)),
            Some(_) | None => {}
        }
    }
    for (name, reason) in doomed {
        if !turn.s.is_named(&name) {
            removal::delete_runner(turn, entity, &name, reason);
        }
    }
}

/// What a fresh listing shows that does not fit the rows: those jobs are asked about next.
fn raise_doubts(turn: &mut Turn<'_>, entity: EntityId) {
    let Some(scope) = turn.s.scopes.get(&entity) else { return };
    let Some(listed_at) = scope.listed_at else { return };
    if scope.active == 0 {
        return;
    }
    let mut doubtful: Vec<JobId> = Vec::new();
    for (name, worker) in workers_of(turn, scope).filter(|(_, worker)| worker.is_active()) {
        let busy = scope.runners.get(name).is_some_and(|runner| runner.busy);
        if let Some(jobs) = turn.s.runner_jobs.get(name) {
            let settled = |id: &&JobId| {
                let job = turn.s.jobs.get(id).and_then(|job| job.assignment());
                job.is_some_and(|assignment| listed_at.since(assignment.started_at) >= BUSY_LAG)
            };
            if !busy {
                doubtful.extend(jobs.iter().filter(settled).copied());
            }
            continue;
        }
        let untaken = worker.idle_since.is_some_and(|at| listed_at.since(at) >= UNTAKEN);
        if (untaken || busy)
            && let Some(gx) = turn.s.group_of_row(&worker.row)
        {
            doubtful.extend(turn.s.groups[gx as usize].nth(0).map(|(_, id)| id));
        }
    }
    for id in doubtful {
        let Some(job) = turn.s.jobs.get(&id) else { continue };
        let at = job.polled_at().map_or(turn.now, |at| at + turn.policy.governor.doubt_every);
        turn.s.doubt_job(id, at);
    }
}

/// A scope's workers, ended ones too. Those of all scopes stand among each other, ordered by the random part of their names.
fn workers_of<'a>(
    turn: &'a Turn<'_>,
    scope: &'a ScopeEntry,
) -> impl Iterator<Item = (&'a WorkerName, &'a WorkerEntry)> {
    scope.workers.iter().filter_map(|name| turn.s.workers.get_key_value(name))
}

/// Whether a scope is to be listed now; looks again when it is.
fn is_due(turn: &mut Turn<'_>, entity: EntityId) -> bool {
    let Some(due) = listing_due(turn, entity) else { return false };
    let Some(scope) = turn.s.scopes.get(&entity) else { return false };
    if scope.scope.installation.0 == 0 {
        return false;
    }
    let due = due.max(scope.backoff.until);
    if due > turn.now {
        turn.s.wake(Key::Scope(entity), due);
        return false;
    }
    true
}

/// Lists a scope that is due, when the budget allows.
fn list(turn: &mut Turn<'_>, entity: EntityId) {
    let (now, governor) = (turn.now, turn.policy.governor);
    let Some(scope) = turn.s.scopes.get(&entity) else { return };
    // As many pages as last time, or as the workers fill that have been made since then and are being made now.
    let pages = (scope.active + RUNNERS_A_PAGE / 2).div_ceil(RUNNERS_A_PAGE);
    // All but the last are read twice.
    let pages = scope.pages.max((2 * pages).saturating_sub(1));
    let target = scope.scope.clone();
    // Only a listing shows that a board is held by a runner that does nothing.
    let usage = if scope.active > 0 { Use::Proof { pages } } else { Use::List { pages } };
    let ready = turn.s.installation(target.installation).allowance.ready_at(usage, &governor, now);
    if ready == Time::NEVER {
        return turn.s.wake(Key::Scope(entity), now + turn.policy.timeouts.backoff);
    }
    if ready > now {
        return turn.s.wake(Key::Scope(entity), ready);
    }
    turn.s.installation(target.installation).allowance.spend(usage, &governor, now);
    if let Some(scope) = turn.s.scopes.get_mut(&entity) {
        scope.in_flight = true;
    }
    turn.act(Flight::List(entity, target.installation, usage), Action::ListRunners(target), Reason::ListingDue);
}

/// When a scope should be listed next; `None` while a listing is under way or nothing asks for one.
fn listing_due(turn: &Turn<'_>, entity: EntityId) -> Option<Time> {
    let governor = &turn.policy.governor;
    let scope = turn.s.scopes.get(&entity)?;
    // Nobody can be asked, and nobody needs to know. While another installation may be there, this one is to be proven gone.
    let nobody = scope.gone.is_some() && scope.active == 0 && scope.others.iter().all(|other| other.gone);
    if scope.in_flight || nobody {
        return None;
    }
    let Some(listed_at) = scope.listed_at else {
        return (!scope.workers.is_empty() || scope.wanted.is_some()).then_some(Time::ZERO);
    };
    let soonest = listed_at + governor.doubt_every;
    let wanted = scope.wanted.map(|wanted| wanted.max(soonest));
    let unsettled = |(name, worker): (&WorkerName, &WorkerEntry)| {
        worker.row.status == Status::Running
            && !worker.registered
            && turn.s.pod(name).is_some_and(|pod| pod.fact.phase == PodPhase::Running)
    };
    // No listing is due before then, whoever it is for: only then is everybody looked at.
    if scope.active > 0 && (turn.now < soonest || workers_of(turn, scope).any(unsettled)) {
        return Some(soonest);
    }
    let unconfirmed =
        |(_, worker): (&WorkerName, &WorkerEntry)| worker.row.status.is_ended() && !worker.is_gone_there();
    let periodic = scope.active > 0 || !scope.runners.is_empty() || workers_of(turn, scope).any(unconfirmed);
    let periodic = periodic.then_some(listed_at + governor.list_every);
    wanted.into_iter().chain(periodic).min()
}
