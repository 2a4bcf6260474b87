//! demand_match: reserve a worker for each pending job that lacks one, oldest first, while caps and nodes allow.
//!
//! The specification's loop visits every pending job in FIFO order. This visits only those that get a worker: each
//! pool keeps its wanting groups, whose owners have room, in a queue by their oldest pending job, and a group that got
//! one moves on to its next pending job for the rest of the decision.

use alloc::{boxed::Box, collections::BTreeSet};

use crate::{
    decide::Turn,
    decision::{Action, Reason, Write},
    facts::{Status, Worker},
    governor::{Prepaid, Use},
    ids::{EntityType, InstallationId, JobId, Time, WorkerName},
    snapshot::{Flight, Gx, JobEntry, Key, Stage, found},
};

pub(crate) fn run(turn: &mut Turn<'_>) {
    turn.each_due(|due| &mut due.groups, |turn, &gx| release(turn, gx));
    if !sees_all(turn) {
        return;
    }
    let mut visited = BTreeSet::new();
    while let Some((at, id, gx)) = oldest(turn) {
        visited.insert(gx);
        visit(turn, gx, (at, id));
        turn.s.refresh(gx);
    }
    for gx in visited {
        for line in &mut turn.s.groups[gx as usize].lines {
            line.visited = None;
        }
        turn.s.refresh(gx);
    }
}

/// Whether any job is to get a worker now, whatever is due.
pub(crate) fn has_turn(turn: &Turn<'_>) -> bool {
    sees_all(turn) && oldest(turn).is_some()
}

/// Without a view of nodes, pods and rows there is no telling what fits (S16).
fn sees_all(turn: &Turn<'_>) -> bool {
    turn.s.nodes_known && turn.s.pods_at.is_some() && turn.s.synced_at.is_some()
}

/// A group that was held back may take its turn again, unless the store's refusal still holds it.
fn release(turn: &mut Turn<'_>, gx: Gx) {
    let group = &mut turn.s.groups[gx as usize];
    group.throttled = None;
    let held = group.held.until;
    turn.s.refresh(gx);
    if held > turn.now {
        turn.s.wake(Key::Group(gx), held);
    }
}

/// The oldest pending job that a free place and its owner's cap would serve.
fn oldest(turn: &Turn<'_>) -> Option<(Time, JobId, Gx)> {
    turn.s.pools.iter().filter(|pool| pool.free() > 0).filter_map(|pool| pool.queue.first()).min().copied()
}

fn visit(turn: &mut Turn<'_>, gx: Gx, key: (Time, JobId)) {
    let (now, governor) = (turn.now, turn.policy.governor);
    // The entity's: a delivery that does not say whose it is, is served as soon as any other of the entity has said.
    let installation = turn.s.scopes[turn.s.groups[gx as usize].scope].scope.installation;
    if installation.0 == 0 {
        for line in &mut turn.s.groups[gx as usize].lines {
            line.visited = line.pending.last();
        }
        return;
    }
    let ready = turn.s.installation(installation).allowance.ready_at(Use::Mint, &governor, now);
    if ready > now {
        return throttle(turn, gx, installation, ready);
    }
    let Some(job) = turn.s.jobs.get(&key.1).cloned() else { return };
    let pool = turn.s.place(&job).px;
    if let Some(line) = turn.s.groups[gx as usize].line_mut(pool) {
        line.visited = Some(key);
    }
    reserve(turn, key.1, &job, installation);
}

/// Takes a group out of the queue until its installation's limits allow another runner.
fn throttle(turn: &mut Turn<'_>, gx: Gx, installation: InstallationId, until: Time) {
    turn.s.groups[gx as usize].throttled = Some(until);
    turn.s.installation(installation).throttled.insert(gx);
    turn.s.wake(Key::Group(gx), until);
}

fn reserve(turn: &mut Turn<'_>, id: JobId, job: &JobEntry, installation: InstallationId) {
    let (now, governor) = (turn.now, turn.policy.governor);
    let draw = turn.s.draw();
    let group = &turn.s.groups[job.group as usize];
    let place = turn.s.place(job);
    let worker = Worker {
        name: WorkerName::compose(turn.policy.realm, group.key.entity, draw),
        entity: group.key.entity,
        entity_name: turn.s.scopes[group.scope].scope.entity_name.clone(),
        entity_type: group.entity_type,
        owner: group.owner,
        installation,
        repo: (group.entity_type == EntityType::User).then(|| place.repo.clone()),
        labels: group.key.labels.clone(),
        pool: place.pool.clone(),
        image: place.image.clone(),
        node: None,
        status: Status::Pending,
        failure: None,
        created_at: now,
        running_at: None,
        completed_at: None,
    };
    let (gx, scope) = (job.group, group.scope);
    let (cap, phantoms) = (turn.policy.cap(worker.owner), turn.s.phantoms(gx));
    let write = Write::Reserve { worker: Box::new(worker.clone()), cap, phantoms };
    let name = worker.name.clone();
    let mut entry = found(worker, false);
    entry.stage = Stage::Reserving;
    entry.in_flight = true;
    entry.mint_paid = Some(Prepaid::Whole);
    entry.reserve = Some(write.clone());
    turn.s.installation(installation).allowance.spend(Use::Mint, &governor, now);
    turn.s.scopes[scope].workers.insert(name.clone());
    turn.s.insert_worker(name.clone(), entry);
    let reason = Reason::Demand { job: id };
    turn.act(Flight::WorkerWrite(name, write.clone()), Action::Write { write, diagnose: None }, reason);
}
