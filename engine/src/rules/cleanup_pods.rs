//! cleanup_pods: carry pod phases into worker rows, and take away pods whose time is over.

use super::{reconcile_runners::fail, removal};
use crate::{
    decide::Turn,
    decision::{Action, Reason, WorkerFailure, Write},
    facts::{Pod, PodPhase, Status},
    ids::{Span, Time, WorkerName},
    snapshot::{Flight, Key, Stage, WorkerEntry},
};

/// GitHub forgets an ephemeral runner that is offline for a day.
const FORGOTTEN_THERE: Span = Span::hours(25);
/// How long the engine remembers a worker after it ended and nothing of it is left: long enough for late views.
const REMEMBER: Span = Span::mins(10);
/// An orphan that runs and cannot be asked about is looked at again this often.
const ORPHAN_LOOK: Span = Span::mins(1);

pub(crate) fn run(turn: &mut Turn<'_>) {
    turn.each_due_name(look);
    if turn.s.due.pod_list {
        list_pods(turn);
    }
}

fn look(turn: &mut Turn<'_>, name: &WorkerName) {
    let Some(worker) = turn.s.worker(name) else { return orphan(turn, name) };
    if worker.in_flight || worker.ending {
        return;
    }
    if worker.row.status.is_ended() {
        return ended(turn, name);
    }
    match turn.s.pod(name).map(|pod| pod.fact.clone()) {
        Some(pod) => sync(turn, name, &pod),
        None => missing(turn, name),
    }
}

/// Worker row follows pod phase.
fn sync(turn: &mut Turn<'_>, name: &WorkerName, pod: &Pod) {
    let now = turn.now;
    let Some(worker) = turn.s.worker(name) else { return };
    if now < worker.backoff.until {
        let at = worker.backoff.until;
        return turn.s.wake(Key::Name(name.clone()), at);
    }
    let (name_, node) = (name.clone(), pod.node.clone());
    match pod.phase {
        PodPhase::Running if worker.row.status == Status::Pending => {
            let at = pod.started_at.unwrap_or(now);
            write(turn, name, Write::WorkerRunning { name: name_, at, node });
        }
        PodPhase::Succeeded => {
            let at = pod.finished_at.unwrap_or(now);
            write(turn, name, Write::WorkerCompleted { name: name_, at, running_at: pod.started_at, node });
        }
        PodPhase::Failed => fail(turn, name, WorkerFailure::PodFailed, Some((name_, pod.uid.clone()))),
        PodPhase::Pending | PodPhase::Running | PodPhase::Unknown => {}
    }
}

fn write(turn: &mut Turn<'_>, name: &WorkerName, write: Write) {
    let ending = matches!(write, Write::WorkerCompleted { .. });
    turn.s.edit_worker(name, |worker| {
        worker.in_flight = true;
        worker.ending = ending;
    });
    turn.act(
        Flight::WorkerWrite(name.clone(), write.clone()),
        Action::Write { write, diagnose: None },
        Reason::PodPhase,
    );
}

/// An active worker without a pod in view. It is failed only when a complete listing, asked for after anything was last
/// done for it, lacks its pod (S16).
fn missing(turn: &mut Turn<'_>, name: &WorkerName) {
    let Some(worker) = turn.s.worker(name) else { return };
    let Some(failure) = lost_as(worker) else { return };
    if turn.s.pods_known_since(worker.touched_at) {
        return fail(turn, name, failure, None);
    }
    turn.s.touch(Key::PodList);
}

/// What it means that this worker has no pod; `None` while its pod is not due yet.
fn lost_as(worker: &WorkerEntry) -> Option<WorkerFailure> {
    match worker.stage {
        Stage::Reserving | Stage::Reserved | Stage::Minted => None,
        Stage::Found if worker.row.status == Status::Pending => Some(WorkerFailure::ProvisioningInterrupted),
        Stage::Found | Stage::PodMade(_) | Stage::Ready => Some(WorkerFailure::PodVanished),
    }
}

/// A worker that has ended: its pod goes after the grace period, or at once when it stands in the way.
fn ended(turn: &mut Turn<'_>, name: &WorkerName) {
    let Some(worker) = turn.s.worker(name) else { return };
    let row = &worker.row;
    let completed_at = row.completed_at.or(row.running_at).unwrap_or(row.created_at);
    let Some(pod) = turn.s.pod(name) else { return forget_later(turn, name, completed_at) };
    let finished_at = pod.fact.finished_at.unwrap_or(completed_at);
    // One that had ended by itself when its worker was failed held nobody up, and shows how it ended (S12). The cluster
    // tells whole seconds.
    let failed_alive = finished_at + Span::secs(1) >= completed_at;
    let quick = worker.row.failure.filter(|failure| !failure.keeps_pod() && failed_alive);
    let (entity, since) = (worker.row.entity, worker.touched_at);
    if !pod.fact.phase.is_ended() {
        let reason = quick.map_or(Reason::OrphanPod, Reason::NoGrace);
        return delete_alive(turn, name, entity, since, reason);
    }
    match quick {
        Some(failure) => delete_pod(turn, name, Reason::NoGrace(failure)),
        None => delete_at(turn, name, finished_at.max(completed_at) + turn.policy.timeouts.grace, Reason::GraceOver),
    }
}

/// A pod of ours by its name, which no worker row owns.
fn orphan(turn: &mut Turn<'_>, name: &WorkerName) {
    let Some(pod) = turn.s.pod(name) else { return };
    let Some(entity) = WorkerName::entity_of(name.as_str(), turn.policy.realm) else { return };
    let (seen_at, ended) = (pod.seen_at, pod.fact.phase.is_ended());
    if !turn.s.store_known_since(seen_at) {
        let at = turn.now + turn.policy.governor.doubt_every;
        return turn.s.wake(Key::Name(name.clone()), at);
    }
    if ended {
        let at = pod.fact.finished_at.unwrap_or(pod.fact.created_at) + turn.policy.timeouts.grace;
        return delete_at(turn, name, at, Reason::OrphanPod);
    }
    delete_alive(turn, name, entity, seen_at, Reason::OrphanPod);
}

/// Deletes a pod that has not ended, once no runner of its name exists on GitHub.
fn delete_alive(turn: &mut Turn<'_>, name: &WorkerName, entity: crate::ids::EntityId, since: Time, reason: Reason) {
    let Some(pod) = turn.s.pod(name) else { return };
    if pod.fact.deleting || pod.in_flight {
        return;
    }
    let pending = pod.fact.phase == PodPhase::Pending;
    match removal::clear_runner(turn, name, entity, since, reason.clone()) {
        removal::Clearance::Clear => delete_pod(turn, name, reason),
        // Nothing has started in it, and nobody can be asked.
        removal::Clearance::CannotAsk if pending => delete_pod(turn, name, reason),
        removal::Clearance::Busy | removal::Clearance::CannotAsk => {
            let at = turn.now + ORPHAN_LOOK;
            turn.s.wake(Key::Name(name.clone()), at);
        }
        removal::Clearance::Asking => {
            let at = turn.now + turn.policy.governor.doubt_every;
            turn.s.wake(Key::Name(name.clone()), at);
        }
    }
}

fn delete_at(turn: &mut Turn<'_>, name: &WorkerName, at: Time, reason: Reason) {
    if turn.now < at {
        return turn.s.wake(Key::Name(name.clone()), at);
    }
    delete_pod(turn, name, reason);
}

fn delete_pod(turn: &mut Turn<'_>, name: &WorkerName, reason: Reason) {
    let now = turn.now;
    let Some(pod) = turn.s.pods.get_mut(name) else { return };
    if pod.fact.deleting || pod.in_flight {
        return;
    }
    if now < pod.backoff.until {
        let at = pod.backoff.until;
        return turn.s.wake(Key::Name(name.clone()), at);
    }
    pod.in_flight = true;
    let action = Action::DeletePod { name: name.clone(), uid: pod.fact.uid.clone() };
    turn.act(Flight::DeletePod(name.clone()), action, reason);
}

/// Forgets a worker once nothing of it is left and late views of it are over.
fn forget_later(turn: &mut Turn<'_>, name: &WorkerName, completed_at: Time) {
    let at = completed_at + REMEMBER;
    if turn.now < at {
        return turn.s.wake(Key::Name(name.clone()), at);
    }
    // Its runner entry may still be there, out of view while GitHub could not be asked.
    let confirmed = turn.s.worker(name).is_none_or(|worker| worker.is_gone_there());
    let forgotten_there = completed_at + FORGOTTEN_THERE;
    if !confirmed && turn.now < forgotten_there {
        return turn.s.wake(Key::Name(name.clone()), forgotten_there);
    }
    turn.s.forget_worker(name);
}

/// The full listing: now and then, and soon while a worker's pod is out of view.
fn list_pods(turn: &mut Turn<'_>) {
    let (now, timeouts) = (turn.now, turn.policy.timeouts);
    if turn.s.pods_in_flight {
        return;
    }
    let out_of_view = |(name, worker): (&WorkerName, &WorkerEntry)| {
        worker.is_active()
            && !turn.s.pods.contains_key(name)
            && (lost_as(worker).is_some() || worker.stage == Stage::Minted && worker.backoff.failures > 0)
    };
    // No listing is due before then, whoever is out of view: only then is everybody looked at.
    let soonest = turn.s.pods_at.map_or(Time::ZERO, |at| at + timeouts.pods_doubt);
    if now < soonest {
        return turn.s.wake(Key::PodList, soonest);
    }
    let due = match turn.s.pods_at {
        None => Time::ZERO,
        Some(at) if turn.s.workers.iter().any(out_of_view) => at + timeouts.pods_doubt,
        Some(at) => at + timeouts.pods_relist,
    };
    let due = due.max(turn.s.pods_backoff.until);
    if now < due {
        return turn.s.wake(Key::PodList, due);
    }
    turn.s.pods_in_flight = true;
    turn.act(Flight::ListPods, Action::ListPods, Reason::PodViewDoubt);
}
