//! reconcile_jobs: bring job rows in line with what GitHub says of them.
//!
//! Webhooks tell almost everything; polls make up for those that were lost. Which job to ask about next is chosen
//! within the installation's budget: doubtful jobs first, then the one longest not looked at.

use alloc::vec::Vec;

use crate::{
    decide::Turn,
    decision::{Action, JobFailure, Reason, Write},
    facts::{App, Status},
    governor::Use,
    ids::{EntityType, InstallationId, JobId, Span},
    snapshot::{Finding, Flight, Gone, JobEntry, Key, ScopeEntry},
};

/// An installation is taken for gone when calls found it so over at least this long: one 404 may be a glitch, and
/// failing every job of an organisation on a glitch could not be undone.
const GONE_PROOF: Span = Span::secs(15);

pub(crate) fn run(turn: &mut Turn<'_>) {
    turn.each_due(|due| &mut due.jobs, |turn, &id| write_finding(turn, id));
    turn.each_due(
        |due| &mut due.polls,
        |turn, &id| {
            leave_gone_installation(turn, id);
            poll(turn, id);
        },
    );
}

fn write_finding(turn: &mut Turn<'_>, id: JobId) {
    let now = turn.now;
    let Some(job) = turn.s.jobs.get(&id) else { return };
    if job.in_flight {
        return;
    }
    let Some(finding) = job.finding().cloned() else { return };
    if let Finding::Failed { failure, through } = finding
        && (told_better(&turn.s.scopes[turn.s.groups[job.group as usize].scope], failure, through)
            || left_the_queue(job, failure))
    {
        return turn.s.edit_job(id, |job| job.edit_rest(|rest| rest.finding = None));
    }
    let (write, reason) = match finding {
        Finding::Failed { failure, .. } => {
            let reason = match failure {
                JobFailure::JobNotFound => Reason::GitHubSays,
                JobFailure::InstallationGone | JobFailure::InstallationSuspended => Reason::Installation(failure),
            };
            (Write::JobFailed { id, at: now, failure, named: turn.s.installations.id_of(job.named) }, reason)
        }
        Finding::Ended { assignment, at } => (Write::JobCompleted { id, assignment, at }, Reason::GitHubSays),
        Finding::Started(assignment) => (Write::JobRunning { id, assignment }, Reason::GitHubSays),
        Finding::Requeued { at } => (Write::JobRequeued { id, at }, Reason::GitHubSays),
    };
    let ending = matches!(write, Write::JobCompleted { .. } | Write::JobFailed { .. });
    turn.s.edit_job(id, |job| {
        job.in_flight = true;
        job.ending = ending;
    });
    turn.act(Flight::JobWrite(id, write.clone()), Action::Write { write, diagnose: None }, reason);
}

/// A delivery has told of a later installation since, whose predecessor's end says nothing any more; or of another one,
/// when all that were known of were gone.
fn told_better(scope: &ScopeEntry, failure: JobFailure, through: InstallationId) -> bool {
    through < scope.scope.installation || failure == JobFailure::InstallationGone && scope.untried().is_some()
}

/// It was failed because it could only wait, and waits no more.
fn left_the_queue(job: &JobEntry, failure: JobFailure) -> bool {
    failure == JobFailure::InstallationSuspended && job.status != Status::Pending
}

/// A gone installation's jobs can never be served or looked at through it. They are through another one that deliveries
/// have named; where none of those is there either, they are failed with that reason.
fn leave_gone_installation(turn: &mut Turn<'_>, installation: InstallationId) {
    let now = turn.now;
    let entry = turn.s.installation(installation);
    let is_proof = |gone: &Gone| gone.last.since(gone.since) >= GONE_PROOF && now.since(gone.last) < GONE_PROOF;
    if !entry.gone.as_ref().is_some_and(is_proof) {
        return;
    }
    entry.gone = None;
    let mut jobs: Vec<JobId> = entry.polls.jobs().collect();
    // It is proven of those, too, that are being asked about: unless they are answered for, they are failed when that call
    // has ended.
    jobs.extend(turn.s.flights.values().filter_map(|flight| match flight {
        Flight::Poll(id, through) if *through == installation => Some(*id),
        _ => None,
    }));
    let lost = turn.s.fall_back(installation);
    for id in jobs {
        let Some(job) = turn.s.jobs.get(&id) else { continue };
        let scope = turn.s.groups[job.group as usize].scope;
        if !lost.contains(&scope) {
            continue;
        }
        let through = turn.s.scopes[scope].scope.installation;
        let finding = Finding::Failed { failure: JobFailure::InstallationGone, through };
        turn.s.edit_job(id, |job| job.edit_rest(|rest| rest.finding = Some(finding)));
        write_finding(turn, id);
    }
}

/// Asks about jobs whose turn it is, while the budget allows.
fn poll(turn: &mut Turn<'_>, installation: InstallationId) {
    let (now, governor) = (turn.now, turn.policy.governor);
    if installation.0 == 0 {
        return;
    }
    loop {
        let entry = turn.s.installation(installation);
        let Some((due, id)) = entry.polls.next(now) else { break };
        if due > now {
            turn.s.wake(Key::Polls(installation), due);
            break;
        }
        let at = entry.allowance.ready_at(Use::Poll, &governor, now);
        if at > now {
            turn.s.wake(Key::Polls(installation), at);
            break;
        }
        if turn.s.jobs.contains_key(&id) {
            ask(turn, installation, id);
        } else {
            let polls = &mut turn.s.installation(installation).polls;
            polls.remove(true, due, id);
            polls.remove(false, due, id);
        }
    }
}

fn ask(turn: &mut Turn<'_>, installation: InstallationId, id: JobId) {
    let (now, governor) = (turn.now, turn.policy.governor);
    let Some(job) = turn.s.jobs.get(&id) else { return };
    let repo = turn.s.place(job).repo.clone();
    let reason = if job.doubtful { Reason::Doubt } else { Reason::Sweep };
    let app = app_of(turn.s.groups[job.group as usize].entity_type);
    turn.s.installation(installation).allowance.spend(Use::Poll, &governor, now);
    turn.s.edit_job(id, |job| job.in_flight = true);
    turn.act(Flight::Poll(id, installation), Action::PollJob { id, repo, installation, app }, reason);
}

/// Which App serves an entity.
pub(crate) fn app_of(entity_type: EntityType) -> App {
    match entity_type {
        EntityType::Organization => App::Organization,
        EntityType::User => App::Personal,
    }
}
