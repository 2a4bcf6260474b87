//! provision: take each reserved worker through its steps: JIT configuration, pod, Secret.
//!
//! Each step is repeated until its outcome is known: a JIT configuration whose answer was lost shows as a taken name,
//! a pod or a Secret as one that exists. What cannot be finished within the time limit gives its place back.

use alloc::boxed::Box;

use super::reconcile_runners::fail;
use crate::{
    decide::Turn,
    decision::{Action, Reason, WorkerFailure},
    governor::{Prepaid, Use},
    ids::{Time, WorkerName},
    snapshot::{Flight, Key, Stage},
};

pub(crate) fn run(turn: &mut Turn<'_>) {
    turn.each_due_name(step);
}

fn step(turn: &mut Turn<'_>, name: &WorkerName) {
    let now = turn.now;
    let Some(worker) = turn.s.worker(name) else { return };
    if worker.in_flight || worker.removing.is_some() || !worker.is_active() {
        return;
    }
    let expires = worker.row.created_at + turn.policy.timeouts.jit;
    let give_up = match worker.stage {
        Stage::Reserved => WorkerFailure::JitRefused,
        Stage::Minted | Stage::PodMade(_) => WorkerFailure::PodRefused,
        Stage::Reserving => WorkerFailure::ProvisioningInterrupted,
        Stage::Found | Stage::Ready => return,
    };
    if now >= expires && worker.stage != Stage::Reserving {
        turn.s.recount_worker(name, |worker| {
            worker.removing = Some(give_up);
            // What was to be paused until then, which may be GitHub's hour, is not tried again.
            worker.backoff.clear();
        });
        return turn.s.touch(Key::Name(name.clone()));
    }
    if now < worker.backoff.until {
        let at = worker.backoff.until;
        let at = if worker.stage == Stage::Reserving { at } else { at.min(expires) };
        return turn.s.wake(Key::Name(name.clone()), at);
    }
    match worker.stage.clone() {
        Stage::Reserving => reserve_again(turn, name),
        Stage::Reserved if is_needless(turn, name) => {
            // The write may be made though its answer is lost: from now on it ends, whatever is needed then.
            turn.s.recount_worker(name, |worker| worker.removing = Some(WorkerFailure::Surplus));
            fail(turn, name, WorkerFailure::Surplus, None);
        }
        // Another one's call has told.
        Stage::Reserved if is_suspended(turn, name) => {
            turn.s.recount_worker(name, |worker| worker.removing = Some(WorkerFailure::InstallationSuspended));
            turn.s.touch(Key::Name(name.clone()));
        }
        Stage::Reserved => mint(turn, name, expires),
        Stage::Minted => pod(turn, name),
        Stage::PodMade(uid) => {
            let action = Action::CreateSecret { worker: name.clone(), pod: uid };
            begin(turn, name, Flight::CreateSecret(name.clone()), action);
        }
        Stage::Found | Stage::Ready => {}
    }
}

fn begin(turn: &mut Turn<'_>, name: &WorkerName, flight: Flight, action: Action) {
    if let Some(worker) = turn.s.workers.get_mut(name) {
        worker.in_flight = true;
        worker.touched_at = turn.now;
    }
    turn.act(flight, action, Reason::NextStep);
}

/// The store did not say whether the reservation was made. Asking again is safe: the same row again is done.
fn reserve_again(turn: &mut Turn<'_>, name: &WorkerName) {
    let Some(write) = turn.s.workers.get(name).and_then(|worker| worker.reserve.clone()) else { return };
    let flight = Flight::WorkerWrite(name.clone(), write.clone());
    begin(turn, name, flight, Action::Write { write, diagnose: None });
}

/// Its job went away before anything was made for it.
fn is_needless(turn: &Turn<'_>, name: &WorkerName) -> bool {
    let Some(worker) = turn.s.worker(name) else { return false };
    turn.s.group_of_row(&worker.row).is_some_and(|gx| turn.s.groups[gx as usize].want() < 0)
}

/// Its entity's App is suspended.
fn is_suspended(turn: &Turn<'_>, name: &WorkerName) -> bool {
    let entity = turn.s.worker(name).map(|worker| worker.row.entity);
    let installation = entity.and_then(|entity| turn.s.scopes.get(&entity)).map(|scope| scope.scope.installation);
    let entry = installation.and_then(|id| turn.s.installations.get(&id));
    entry.is_some_and(|entry| entry.allowance.is_suspended())
}

/// Makes the JIT call when the limits allow; `expires` is when the worker is given up instead.
fn mint(turn: &mut Turn<'_>, name: &WorkerName, expires: Time) {
    let (now, governor) = (turn.now, turn.policy.governor);
    follow_installation(turn, name);
    let Some(worker) = turn.s.workers.get_mut(name) else { return };
    let (mut row, paid) = (worker.row.clone(), worker.mint_paid);
    if let Some(scope) = turn.s.scopes.get(&row.entity).map(|entry| &entry.scope)
        && scope.entity_type == row.entity_type
    {
        // It may have been renamed since.
        row.entity_name = scope.entity_name.clone();
        row.repo = scope.repo.clone();
    }
    let allowance = &mut turn.s.installation(row.installation).allowance;
    let at = match paid {
        Some(paid) => allowance.claim(paid, &governor, now),
        None => allowance.ready_at(Use::Mint, &governor, now),
    };
    if at > now {
        let at = if at == Time::NEVER { now + turn.policy.timeouts.backoff } else { at };
        // Its points are given up for now, its place is not.
        if let Some(worker) = turn.s.workers.get_mut(name) {
            worker.mint_paid = paid.map(|_| Prepaid::Place);
        }
        return turn.s.wake(Key::Name(name.clone()), at.min(expires));
    }
    if paid.is_none() {
        allowance.spend(Use::Mint, &governor, now);
    }
    if let Some(worker) = turn.s.workers.get_mut(name) {
        worker.mint_paid = None;
    }
    let flight = Flight::Mint(name.clone(), row.installation);
    begin(turn, name, flight, Action::MintJit(Box::new(row)));
}

/// The installation that it was reserved for may have been overtaken, or found to be none of our App's.
fn follow_installation(turn: &mut Turn<'_>, name: &WorkerName) {
    let Some(worker) = turn.s.worker(name) else { return };
    let Some(installation) = turn.s.scopes.get(&worker.row.entity).map(|scope| scope.scope.installation) else {
        return;
    };
    if worker.row.installation != installation {
        turn.s.refund_mint(name);
        turn.s.edit_worker(name, |worker| worker.row.installation = installation);
    }
}

fn pod(turn: &mut Turn<'_>, name: &WorkerName) {
    // An earlier create's answer was lost: the pod is there.
    if let Some(uid) = turn.s.pod(name).map(|pod| pod.fact.uid.clone()) {
        if let Some(worker) = turn.s.workers.get_mut(name) {
            worker.stage = Stage::PodMade(uid);
        }
        return step(turn, name);
    }
    let Some(worker) = turn.s.worker(name) else { return };
    let row = worker.row.clone();
    // Nodes have gone since its place was reserved: no pod is made that fits nowhere (S6).
    if !turn.s.has_place_for_pod(worker) {
        turn.s.note_short(name, &row.pool);
        let at = turn.now + turn.policy.timeouts.backoff;
        return turn.s.wake(Key::Name(name.clone()), at);
    }
    begin(turn, name, Flight::CreatePod(name.clone()), Action::CreatePod(Box::new(row)));
}
