//! How a worker or a pod is taken away without ever killing a job (S8).
//!
//! A runner entry on GitHub exists for as long as its runner may take or executes a job, and GitHub refuses to delete a
//! busy one. So the entry goes first; only when it is gone, by GitHub's own word, may what is alive in the cluster go.

use crate::{
    decide::Turn,
    decision::{Action, Reason, WorkerFailure},
    governor::Use,
    ids::{EntityId, Span, Time, WorkerName},
    snapshot::{Flight, Key},
};

/// Whether what goes by a name may be taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Clearance {
    /// No runner entry exists, as of a listing or a deletion after `since`; or the App has not been installed for as long
    /// as a job may take.
    Clear,
    /// It executes a job.
    Busy,
    /// GitHub is being asked, or must be first; the name is looked at again when it answers.
    Asking,
    /// GitHub cannot be asked: the App is not installed any more, and was not long ago, or the scope is unknown.
    CannotAsk,
}

/// Finds out, asking GitHub for what is missing. `since`: no entry can have been made after this.
pub(crate) fn clear_runner(
    turn: &mut Turn<'_>,
    name: &WorkerName,
    entity: EntityId,
    since: Time,
    reason: Reason,
) -> Clearance {
    if turn.s.is_named(name) {
        return Clearance::Busy;
    }
    let gone_at = turn.s.workers.get(name).and_then(|worker| worker.runner_gone_at);
    let (now, limit) = (turn.now, turn.policy.timeouts.gone);
    let Some(scope) = turn.s.scopes.get_mut(&entity) else { return Clearance::CannotAsk };
    if scope.gone.is_some_and(|since| now.since(since) >= limit) {
        return Clearance::Clear;
    }
    if let Some(runner) = scope.runners.get(name) {
        return match (runner.busy, runner.in_flight) {
            (true, _) => Clearance::Busy,
            (false, true) => Clearance::Asking,
            (false, false) if scope.gone.is_some() => Clearance::CannotAsk,
            (false, false) => {
                delete_runner(turn, entity, name, reason);
                Clearance::Asking
            }
        };
    }
    let proof = gone_at.max(scope.listed_at);
    if proof.is_some_and(|at| at > since) {
        return Clearance::Clear;
    }
    if scope.gone.is_some() {
        return Clearance::CannotAsk;
    }
    scope.want(since + Span(1));
    turn.s.touch(Key::Scope(entity));
    Clearance::Asking
}

/// Deletes a listed runner entry, when limits and pauses allow it now; else looks again when they do.
pub(crate) fn delete_runner(turn: &mut Turn<'_>, entity: EntityId, name: &WorkerName, reason: Reason) {
    let (now, governor) = (turn.now, turn.policy.governor);
    let Some(scope) = turn.s.scopes.get(&entity) else { return };
    let Some(runner) = scope.runners.get(name) else { return };
    if runner.in_flight {
        return;
    }
    if now < runner.backoff.until {
        let at = runner.backoff.until;
        return look_again(turn, entity, name, at);
    }
    let (target, id) = (scope.scope.clone(), runner.id);
    let allowance = &mut turn.s.installation(target.installation).allowance;
    let at = allowance.ready_at(Use::Delete, &governor, now);
    if at > now {
        // With the most calls under way, any answer of the installation makes room; look again shortly.
        let at = if at == Time::NEVER { now + turn.policy.timeouts.backoff } else { at };
        return look_again(turn, entity, name, at);
    }
    allowance.spend(Use::Delete, &governor, now);
    if let Some(runner) = turn.s.scopes.get_mut(&entity).and_then(|scope| scope.runners.get_mut(name)) {
        runner.in_flight = true;
    }
    let installation = target.installation;
    let action = Action::DeleteRunner { scope: target, id, name: name.text().clone() };
    turn.act(Flight::DeleteRunner(entity, name.clone(), installation), action, reason);
}

/// Whoever asked for the deletion, a rule about names or one about listings, asks again at `at`.
fn look_again(turn: &mut Turn<'_>, entity: EntityId, name: &WorkerName, at: Time) {
    if let Some(scope) = turn.s.scopes.get_mut(&entity) {
        scope.news = true;
    }
    turn.s.wake(Key::Name(name.clone()), at);
    turn.s.wake(Key::Scope(entity), at);
}

/// The reason a removal gives to GitHub's side of it.
pub(crate) fn before_pod(failure: WorkerFailure) -> Reason {
    Reason::RunnerBeforePod(failure)
}
