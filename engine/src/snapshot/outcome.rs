//! How actions end, and what their ends say.

use alloc::vec::Vec;

use super::{Failed, Finding, Flight, Gone, Key, RunnerEntry, Snapshot, Stage};
use crate::{
    decision::{JobFailure, WorkerFailure, Write},
    facts::{
        App, ClusterError, Delivery, GitHubAnswer, GitHubError, JobView, Minted, Outcome, Pod, RunnerListing, Status,
        StoreError, Written,
    },
    governor::Use,
    ids::{EntityId, InstallationId, JobId, Span, Time, WorkerName},
};

impl Snapshot {
    pub(crate) fn apply_outcome(&mut self, action: u64, outcome: Outcome) {
        let Some(flight) = self.flights.remove(&action) else { return };
        match (flight, outcome) {
            (Flight::WorkerWrite(name, write), Outcome::Written(result)) => {
                self.worker_written(&name, write, Some(result))
            }
            (Flight::WorkerWrite(name, write), _) => self.worker_written(&name, write, None),
            (Flight::JobWrite(id, write), Outcome::Written(result)) => self.job_written(id, write, Some(result)),
            (Flight::JobWrite(id, write), _) => self.job_written(id, write, None),
            (Flight::Poll(id, at), Outcome::JobPolled { asked_at, answer }) => {
                self.job_polled(id, at, asked_at, answer)
            }
            (Flight::Poll(id, at), _) => self.job_polled(id, at, self.now, lost()),
            (Flight::List(entity, at, usage), Outcome::RunnersListed(answer)) => {
                self.runners_listed(entity, at, usage, answer);
            }
            (Flight::List(entity, at, usage), _) => self.runners_listed(entity, at, usage, lost()),
            (Flight::Mint(name, at), Outcome::JitMinted(answer)) => self.minted(&name, at, answer),
            (Flight::Mint(name, at), _) => self.minted(&name, at, lost()),
            (Flight::CreatePod(name), Outcome::PodCreated(result)) => self.pod_created(&name, result),
            (Flight::CreatePod(name), _) => self.interrupted(&name),
            (Flight::CreateSecret(name), Outcome::SecretCreated(result)) => self.secret_created(&name, result),
            (Flight::CreateSecret(name), _) => self.interrupted(&name),
            (Flight::DeleteRunner(entity, name, at), Outcome::RunnerDeleted(answer)) => {
                self.runner_deleted(entity, &name, at, answer);
            }
            (Flight::DeleteRunner(entity, name, at), _) => self.runner_deleted(entity, &name, at, lost()),
            (Flight::DeletePod(name), Outcome::PodDeleted(result)) => self.pod_deleted(&name, result.is_ok()),
            (Flight::DeletePod(name), _) => self.pod_deleted(&name, false),
            (Flight::ListPods, Outcome::PodsListed(Ok(listing))) => {
                self.pods_in_flight = false;
                self.pods_backoff.clear();
                self.apply_pods(listing);
                self.touch(Key::PodList);
            }
            (Flight::ListPods, _) => {
                self.pods_in_flight = false;
                self.pods_backoff.fail(self.now, &self.timeouts);
                self.touch(Key::PodList);
            }
            (Flight::Deliveries(app), Outcome::DeliveriesListed(answer)) => self.deliveries_listed(app, answer),
            (Flight::Deliveries(app), _) => self.deliveries_listed(app, lost()),
            (Flight::Redeliver(app, guid), Outcome::Redelivered(answer)) => self.redelivered(app, &guid, answer),
            (Flight::Redeliver(app, guid), _) => self.redelivered(app, &guid, lost()),
        }
    }

    fn worker_written(&mut self, name: &WorkerName, write: Write, result: Option<Result<Written, StoreError>>) {
        let (now, timeouts) = (self.now, self.timeouts);
        let done = matches!(result, Some(Ok(Written::Done)));
        let refused = matches!(result, Some(Ok(_))) && !done;
        // The row has ended otherwise, or is not there. Until it is read, the end that claims the least stands for it.
        let over = matches!(result, Some(Ok(Written::RefusedState)));
        if let Write::Reserve { worker, .. } = &write {
            let gx = self.group_of_row(worker);
            if refused {
                self.forget_worker(name);
            }
            if let Some(gx) = gx {
                let held = &mut self.groups[gx as usize].held;
                if refused {
                    held.fail(now, &timeouts)
                } else if done {
                    held.clear()
                }
                let until = held.until;
                self.refresh(gx);
                self.wake(Key::Group(gx), until);
            }
        }
        self.edit_worker(name, |entry| {
            entry.in_flight = false;
            entry.ending = false;
            if done {
                entry.backoff.clear()
            } else {
                entry.backoff.fail(now, &timeouts)
            }
            let row = &mut entry.row;
            if over && !row.status.is_ended() {
                row.status = Status::Completed;
                row.completed_at = Some(now);
            }
            if !done {
                return;
            }
            match write {
                Write::Reserve { .. } => {
                    entry.stage = Stage::Reserved;
                    entry.reserve = None;
                }
                Write::WorkerRunning { at, node, .. } if row.status == Status::Pending => {
                    row.status = Status::Running;
                    row.running_at = Some(at);
                    row.node = node.or(row.node.take());
                }
                Write::WorkerCompleted { at, running_at, node, .. } if !row.status.is_ended() => {
                    row.status = Status::Completed;
                    row.completed_at = Some(at);
                    row.running_at = row.running_at.or(running_at);
                    row.node = node.or(row.node.take());
                }
                Write::WorkerFailed { at, running_at, node, failure, .. } if !row.status.is_ended() => {
                    row.status = Status::Failed;
                    row.completed_at = Some(at);
                    row.running_at = row.running_at.or(running_at);
                    row.node = node.or(row.node.take());
                    row.failure = Some(failure);
                }
                Write::WorkerRunning { .. } | Write::WorkerCompleted { .. } | Write::WorkerFailed { .. } => {}
                Write::JobRunning { .. }
                | Write::JobCompleted { .. }
                | Write::JobFailed { .. }
                | Write::JobRequeued { .. } => {}
            }
        });
    }

    /// Drops a worker that never came to be, or that is over and gone everywhere.
    pub(crate) fn forget_worker(&mut self, name: &WorkerName) {
        self.refund_mint(name);
        let Some(entry) = self.workers.remove(name) else { return };
        let counted = self.contribution(name, &entry);
        self.count_worker(counted, -1);
        if let Some(scope) = self.scopes.get_mut(&entry.row.entity) {
            scope.workers.remove(name);
        }
    }

    fn job_written(&mut self, id: JobId, write: Write, result: Option<Result<Written, StoreError>>) {
        let now = self.now;
        let retry = now + self.timeouts.backoff;
        let Some(Ok(written)) = result else {
            self.edit_job(id, |job| {
                job.in_flight = false;
                job.ending = false;
            });
            self.wake(Key::Job(id), retry);
            return;
        };
        let ended = matches!(write, Write::JobCompleted { .. } | Write::JobFailed { .. });
        if ended && written == Written::Done {
            self.remove_job(id);
            return;
        }
        let every = match &write {
            Write::JobRunning { assignment, .. } if written == Written::Done => {
                self.poll_every(Status::Running, false, assignment.as_ref())
            }
            _ => self.governor.wait_every,
        };
        self.edit_job(id, |job| {
            job.in_flight = false;
            job.ending = false;
            job.edit_rest(|rest| rest.finding = None);
            job.doubtful = false;
            job.poll_due = now + every;
            if written != Written::Done {
                return;
            }
            match write {
                Write::JobRunning { assignment, .. } => {
                    job.status = Status::Running;
                    job.edit_rest(|rest| rest.assignment = rest.assignment.take().max(assignment));
                }
                Write::JobRequeued { at, .. } => {
                    job.edit_rest(|rest| rest.requeued_at = rest.requeued_at.max(Some(at)));
                }
                Write::Reserve { .. }
                | Write::WorkerRunning { .. }
                | Write::WorkerCompleted { .. }
                | Write::WorkerFailed { .. }
                | Write::JobCompleted { .. }
                | Write::JobFailed { .. } => {}
            }
            let restarted = job.assignment().is_some_and(|a| job.requeued_at().is_some_and(|at| a.started_at > at));
            job.requeued = job.status == Status::Running && job.requeued_at().is_some() && !restarted;
        });
    }

    /// Notes what an answer to a call for `usage` says about its installation.
    fn answered<T>(&mut self, installation: InstallationId, usage: Use, answer: &GitHubAnswer<T>) {
        let (now, governor, timeouts) = (self.now, self.governor, self.timeouts);
        let entry = self.installation(installation);
        entry.allowance.answered(usage, answer, (&governor, &timeouts), now);
        let gone = matches!(answer.result, Err(GitHubError::InstallationGone));
        // Whatever else GitHub says to a call, it says to an installation that exists; silence says nothing.
        let silent = is_silent(answer);
        entry.gone = if gone {
            Some(Gone { since: entry.gone.map_or(now, |gone| gone.since), last: now })
        } else {
            entry.gone.filter(|_| silent)
        };
        entry.failing_since = match &answer.result {
            Err(GitHubError::Unavailable { .. } | GitHubError::RateLimited { .. }) => entry.failing_since.or(Some(now)),
            // An answer to a call that was under way already ends no pause.
            Ok(_) | Err(_) => entry.failing_since.filter(|_| now < entry.allowance.blocked.until),
        };
        self.release_throttled(installation);
    }

    /// A call less under way: whatever waits for this installation's limits may try again.
    fn release_throttled(&mut self, installation: InstallationId) {
        self.touch(Key::Polls(installation));
        let throttled = core::mem::take(&mut self.installation(installation).throttled);
        for gx in throttled {
            self.touch(Key::Group(gx));
        }
    }

    /// Gives back what a reservation took of its installation's limits, when its JIT call will not be made.
    pub(crate) fn refund_mint(&mut self, name: &WorkerName) {
        let Some(worker) = self.workers.get_mut(name) else { return };
        let Some(paid) = worker.mint_paid.take() else { return };
        let (installation, governor) = (worker.row.installation, self.governor);
        self.installation(installation).allowance.refund(paid, &governor);
        self.release_throttled(installation);
    }

    fn job_polled(&mut self, id: JobId, installation: InstallationId, asked_at: Time, answer: GitHubAnswer<JobView>) {
        self.answered(installation, Use::Poll, &answer);
        let retry = self.now + self.timeouts.backoff;
        let Some(job) = self.jobs.get(&id) else { return };
        let next = self.now + self.poll_every(job.status, job.requeued, job.assignment());
        let suspended = self.installations.get(&installation).and_then(|entry| entry.allowance.suspended_since());
        let finding = match &answer.result {
            Ok(view) => news(job, view, asked_at),
            Err(GitHubError::NotFound) => {
                Some(Finding::Failed { failure: JobFailure::JobNotFound, through: installation })
            }
            Err(GitHubError::InstallationSuspended) if is_out_of_queue(job, suspended, self.now) => {
                Some(Finding::Failed { failure: JobFailure::InstallationSuspended, through: installation })
            }
            // Its installation may have been found gone by another call meanwhile.
            Err(_) => job.finding().cloned(),
        };
        let found = finding.is_some();
        let failed = answer.result.is_err() && !found;
        self.edit_job(id, |job| {
            job.in_flight = false;
            job.poll_due = if failed { retry } else { next };
            job.doubtful &= failed;
            if !failed {
                job.polled = asked_at;
            }
            job.edit_rest(|rest| rest.finding = finding);
        });
        if found {
            self.touch(Key::Job(id));
        }
    }

    fn runners_listed(
        &mut self,
        entity: EntityId,
        installation: InstallationId,
        usage: Use,
        answer: GitHubAnswer<RunnerListing>,
    ) {
        let (now, timeouts) = (self.now, self.timeouts);
        let Some(scope) = self.scopes.get_mut(&entity) else { return };
        scope.in_flight = false;
        match &answer.result {
            Ok(_) => {
                scope.backoff.clear();
                scope.pages = answer.calls.max(1);
            }
            Err(_) => scope.backoff.fail(now, &timeouts),
        }
        // Silence says nothing of the App.
        if !is_silent(&answer) {
            self.note_gone(entity, installation, matches!(answer.result, Err(GitHubError::InstallationGone)));
        }
        self.answered(installation, usage, &answer);
        if let Ok(listing) = answer.result {
            self.apply_runners(entity, &listing);
        }
        self.touch(Key::Scope(entity));
    }

    /// Notes whether a scope's App is installed, as a call through `installation` has shown. It may have been installed
    /// anew since that call.
    fn note_gone(&mut self, entity: EntityId, installation: InstallationId, gone: bool) {
        let now = self.now;
        let Some(scope) = self.scopes.get_mut(&entity).filter(|scope| scope.scope.installation == installation) else {
            return;
        };
        let known = scope.gone;
        scope.gone = gone.then(|| known.unwrap_or(now));
        scope.gone_before = scope.gone_before.filter(|_| gone);
        if gone != known.is_some() {
            self.touch_workers_of(entity);
        }
    }

    /// What is judged by whether an entity's runners can be asked about is to be judged anew.
    pub(super) fn touch_workers_of(&mut self, entity: EntityId) {
        let names: Vec<WorkerName> =
            self.scopes.get(&entity).into_iter().flat_map(|it| it.workers.iter().cloned()).collect();
        for name in names {
            self.touch(Key::Name(name));
        }
    }

    fn apply_runners(&mut self, entity: EntityId, listing: &RunnerListing) {
        let asked_at = listing.asked_at;
        let Some(scope) = self.scopes.get_mut(&entity) else { return };
        scope.listed_at = Some(asked_at);
        scope.news = true;
        if scope.wanted.is_some_and(|wanted| wanted <= asked_at) {
            scope.wanted = None;
        }
        let mut old = core::mem::take(&mut scope.runners);
        for runner in &listing.runners {
            let name = WorkerName::new(runner.name.clone());
            if WorkerName::entity_of(name.as_str(), self.realm) != Some(entity) {
                continue;
            }
            // Pages that overlap may name a runner twice: it is busy if either says so.
            if let Some(twice) = scope.runners.get_mut(&name) {
                twice.online |= runner.online;
                twice.busy |= runner.busy;
                continue;
            }
            let known = old.remove(&name).filter(|known| known.id == runner.id);
            let entry = match known {
                Some(known) => RunnerEntry { online: runner.online, busy: runner.busy, ..known },
                None => RunnerEntry {
                    id: runner.id,
                    online: runner.online,
                    busy: runner.busy,
                    seen_at: asked_at,
                    in_flight: false,
                    backoff: crate::governor::Backoff::default(),
                },
            };
            scope.runners.insert(name, entry);
        }
        // An entry made while the listing was under way is not in it, and exists all the same.
        for (name, runner) in old.into_iter().filter(|(_, runner)| runner.seen_at >= asked_at) {
            scope.runners.entry(name).or_insert(runner);
        }
        // Observing a worker makes none and forgets none.
        let workers = core::mem::take(&mut scope.workers);
        for name in &workers {
            self.observe_runner(entity, name, asked_at);
        }
        if let Some(scope) = self.scopes.get_mut(&entity) {
            scope.workers = workers;
        }
    }

    /// What the listing asked for at `asked_at` says of one worker's runner.
    fn observe_runner(&mut self, entity: EntityId, name: &WorkerName, asked_at: Time) {
        let Some(runner) = self.scopes.get(&entity).map(|scope| scope.runners.get(name)) else { return };
        let (listed, online, busy) = runner.map_or((false, false, false), |r| (true, r.online, r.busy));
        let (phantom_after, idle_proof) = (self.timeouts.phantom, self.timeouts.idle_proof);
        let since = |known: Option<Time>, holds: bool| if holds { known.or(Some(asked_at)) } else { None };
        // Even a listing that says nothing of it may have been the one it waited for: it is to ask for the next.
        self.touch(Key::Name(name.clone()));
        let Some(worker) = self.workers.get(name) else { return };
        if worker.touched_at >= asked_at {
            return;
        }
        let busy_since = since(worker.busy_since, busy);
        // GitHub's `busy` lags; what still looks idle after that is free, whatever a job's row said.
        let free = |at: Time| online && !busy && asked_at.since(at) >= idle_proof;
        let spent_at = worker.spent_at.filter(|&at| !free(at));
        let phantom = spent_at.is_some() || busy_since.is_some_and(|at| asked_at.since(at) >= phantom_after);
        let changed = worker.phantom != phantom;
        let edit = |entry: &mut super::WorkerEntry| {
            entry.registered |= online;
            entry.offline_since = since(entry.offline_since, !online);
            entry.idle_since = since(entry.idle_since, online && !busy);
            entry.busy_since = busy_since;
            entry.spent_at = spent_at;
            entry.phantom = phantom;
            if !listed {
                entry.runner_gone_at = Some(asked_at);
            }
        };
        if changed {
            self.edit_worker(name, edit);
        } else if let Some(entry) = self.workers.get_mut(name) {
            edit(entry);
        }
        // Busy with what nobody has told of: whether it still is then decides whether it counts as supply.
        if let Some(at) = busy_since.filter(|_| !phantom && !self.is_named(name))
            && let Some(scope) = self.scopes.get_mut(&entity)
        {
            scope.want(at + phantom_after);
            self.wake(Key::Scope(entity), at + phantom_after);
        }
    }

    fn minted(&mut self, name: &WorkerName, installation: InstallationId, answer: GitHubAnswer<Minted>) {
        self.answered(installation, Use::Mint, &answer);
        let (now, timeouts) = (self.now, self.timeouts);
        let blocked = self.installation(installation).allowance.blocked.until;
        let mut made = None;
        self.edit_worker(name, |entry| {
            entry.in_flight = false;
            entry.touched_at = now;
            if matches!(answer.result, Err(GitHubError::Unavailable { .. })) {
                entry.mint_until = now + LATE_EFFECT;
            }
            match answer.result {
                Ok(minted) => {
                    entry.backoff.clear();
                    entry.stage = Stage::Minted;
                    entry.mint_until = entry.mint_until.max(now + LISTED);
                    made = Some((entry.row.entity, minted.runner));
                }
                Err(GitHubError::NameTaken) => {
                    // Its row is failed after a pause, and so is made anew: where every name is said to be taken, the next one
                    // would be asked for at once, and the next.
                    entry.removing = Some(WorkerFailure::NameTaken);
                    entry.backoff.fail(now, &timeouts);
                }
                // No runner can be made for it now, and others could have its place.
                Err(GitHubError::InstallationSuspended) => entry.removing = Some(WorkerFailure::InstallationSuspended),
                Err(
                    GitHubError::Unavailable { .. } | GitHubError::RateLimited { .. } | GitHubError::InstallationGone,
                ) => entry.backoff.until = blocked,
                Err(
                    GitHubError::NotFound | GitHubError::RunnerBusy | GitHubError::Torn | GitHubError::Refused { .. },
                ) => {
                    entry.backoff.fail(now, &timeouts);
                }
            }
        });
        let Some((entity, id)) = made else { return };
        self.note_gone(entity, installation, false);
        if let Some(scope) = self.scopes.get_mut(&entity) {
            let entry = RunnerEntry {
                id,
                online: false,
                busy: false,
                seen_at: now,
                in_flight: false,
                backoff: crate::governor::Backoff::default(),
            };
            scope.runners.insert(name.clone(), entry);
        }
    }

    fn pod_created(&mut self, name: &WorkerName, result: Result<Pod, ClusterError>) {
        let (now, timeouts) = (self.now, self.timeouts);
        let created = result.as_ref().ok().map(|pod| pod.uid.clone());
        self.edit_worker(name, |entry| {
            entry.in_flight = false;
            entry.touched_at = now;
            match result {
                Err(ClusterError::Unavailable { .. }) => entry.pod_until = now + LATE_EFFECT,
                Err(ClusterError::AlreadyExists) => entry.pod_until = entry.pod_until.max(now),
                Ok(_) | Err(ClusterError::NotFound | ClusterError::Refused { .. }) => {}
            }
            match created {
                Some(uid) => {
                    entry.backoff.clear();
                    entry.stage = Stage::PodMade(uid);
                }
                None => entry.backoff.fail(now, &timeouts),
            }
        });
        match result {
            Ok(pod) => self.apply_pod(pod),
            // It may exist all the same; a listing will tell.
            Err(ClusterError::AlreadyExists | ClusterError::Unavailable { .. }) => self.touch(Key::PodList),
            // Its place is free while it waits to try again.
            Err(ClusterError::NotFound | ClusterError::Refused { .. }) => {
                if let Some(pool) = self.workers.get(name).map(|worker| worker.row.pool.clone()) {
                    self.stir_short(&pool);
                }
            }
        }
    }

    fn secret_created(&mut self, name: &WorkerName, result: Result<(), ClusterError>) {
        let (now, timeouts) = (self.now, self.timeouts);
        self.edit_worker(name, |entry| {
            entry.in_flight = false;
            entry.touched_at = now;
            match result {
                Ok(()) | Err(ClusterError::AlreadyExists) => {
                    entry.backoff.clear();
                    entry.stage = Stage::Ready;
                }
                // The pod is gone; the view of pods will say so.
                Err(ClusterError::NotFound) => entry.stage = Stage::Ready,
                Err(ClusterError::Refused { .. } | ClusterError::Unavailable { .. }) => {
                    entry.backoff.fail(now, &timeouts)
                }
            }
        });
        self.touch(Key::PodList);
    }

    fn interrupted(&mut self, name: &WorkerName) {
        self.edit_worker(name, |entry| {
            entry.in_flight = false;
            entry.removing = Some(WorkerFailure::ProvisioningInterrupted);
        });
    }

    fn runner_deleted(
        &mut self,
        entity: EntityId,
        name: &WorkerName,
        installation: InstallationId,
        answer: GitHubAnswer<()>,
    ) {
        let (now, timeouts) = (self.now, self.timeouts);
        let Some(scope) = self.scopes.get_mut(&entity) else { return };
        // What is not there is told as deleted. "Not found" says something else: a listing tells.
        let gone = answer.result.is_ok();
        scope.news = true;
        if gone {
            scope.runners.remove(name);
        } else if let Some(runner) = scope.runners.get_mut(name) {
            runner.in_flight = false;
            runner.backoff.fail(now, &timeouts);
            runner.busy |= matches!(answer.result, Err(GitHubError::RunnerBusy));
            scope.want(now);
        }
        if matches!(answer.result, Err(GitHubError::InstallationGone)) {
            self.note_gone(entity, installation, true);
        }
        self.answered(installation, Use::Delete, &answer);
        if let Some(worker) = self.workers.get_mut(name).filter(|_| gone) {
            worker.runner_gone_at = Some(now);
        }
        self.touch(Key::Name(name.clone()));
        self.touch(Key::Scope(entity));
    }

    fn pod_deleted(&mut self, name: &WorkerName, accepted: bool) {
        let (now, timeouts) = (self.now, self.timeouts);
        if let Some(pod) = self.pods.get_mut(name) {
            pod.in_flight = false;
            if accepted {
                pod.fact.deleting = true;
            } else {
                pod.backoff.fail(now, &timeouts);
            }
        }
        self.touch(Key::Name(name.clone()));
        self.touch(Key::PodList);
    }

    fn deliveries_listed(&mut self, app: App, answer: GitHubAnswer<Vec<Delivery>>) {
        let (now, timeouts) = (self.now, self.timeouts);
        let Some(entry) = self.apps.get_mut(&app) else { return };
        entry.in_flight = false;
        match answer.result {
            Ok(deliveries) => {
                entry.backoff.clear();
                entry.note_deliveries(deliveries);
            }
            Err(_) => entry.backoff.fail(now, &timeouts),
        }
        self.touch(Key::Deliveries(app));
    }

    fn redelivered(&mut self, app: App, guid: &str, answer: GitHubAnswer<()>) {
        let (now, governor, timeouts) = (self.now, self.governor, self.timeouts);
        let Some(entry) = self.apps.get_mut(&app) else { return };
        entry.allowance.answered(Use::Redeliver, &answer, (&governor, &timeouts), now);
        if let Some(failed) = entry.failed.get_mut(guid) {
            failed.in_flight = false;
            // The next reading of the log shows how the repetition fared.
            failed.not_before = now + if answer.result.is_ok() { failed.pause() } else { Span::secs(30) };
        }
        self.touch(Key::Deliveries(app));
    }
}

/// The most failed deliveries that are kept in mind for one App (S15). More are read again from the log when there is
/// room.
pub(crate) const MAX_FAILED: usize = 10_000;

/// After this many refusals a delivery is repeated ever more rarely: a body that was damaged on its way is good the next
/// time, one that is wrong stays wrong.
const OFTEN: u32 = 5;

/// GitHub puts a job back into its queue 60 s after it was given to a runner that does not begin, never sooner. So an answer
/// "queued" whose date is less than this after the start that the row tells of was looked up before that start; and the next
/// start is later than that date less this, though a slow answer bears the time at which it was sent.
const REQUEUE_PROOF: Span = Span::secs(45);

/// GitHub takes a job out of its queue after 24 h; an hour more is beyond doubt, whatever the clocks say.
const QUEUED_AT_MOST: Span = Span::hours(25);

/// A listing may be of a few seconds ago: one that lacks a runner of less than this age says nothing of it.
const LISTED: Span = Span::secs(15);

/// After its caller has given it up, a call may still have its effect for this long.
pub(crate) const LATE_EFFECT: Span = Span::secs(60);

impl Failed {
    pub fn is_refused_often(&self) -> bool {
        self.delivery.refused && self.refusals >= OFTEN
    }

    /// How long the next repetition waits: two minutes, and after many refusals up to an hour.
    fn pause(&self) -> Span {
        let doublings = if self.is_refused_often() { (self.refusals - OFTEN + 1).min(5) } else { 0 };
        Span::mins(2 << doublings).min(Span::hours(1))
    }
}

impl super::AppEntry {
    /// Keeps what has failed and not succeeded since.
    fn note_deliveries(&mut self, mut deliveries: Vec<Delivery>) {
        deliveries.sort_by_key(|delivery| (delivery.delivered_at, delivery.id));
        for delivery in deliveries {
            if delivery.ok {
                self.read_to = self.read_to.max(Some(delivery.delivered_at));
                self.failed.remove(&delivery.guid);
                continue;
            }
            if self.failed.len() >= MAX_FAILED && !self.failed.contains_key(&delivery.guid) {
                return;
            }
            self.read_to = self.read_to.max(Some(delivery.delivered_at));
            let failed = self.failed.entry(delivery.guid.clone()).or_insert_with(|| Failed {
                delivery: delivery.clone(),
                since: delivery.delivered_at,
                refusals: u32::from(delivery.refused),
                not_before: Time::ZERO,
                in_flight: false,
            });
            if delivery.delivered_at > failed.delivery.delivered_at {
                failed.refusals += u32::from(delivery.refused);
                failed.delivery = delivery;
            }
        }
    }
}

/// Whether GitHub has given up a waiting job by now, which it does not tell while the App is suspended. It was queued when
/// that began at the latest, though it may have been made long before: an environment's rule may have held it. What runs
/// may end by itself.
fn is_out_of_queue(job: &super::JobEntry, suspended: Option<Time>, now: Time) -> bool {
    let waits = job.status == Status::Pending;
    waits && suspended.is_some_and(|since| now.since(since.max(job.created_at)) >= QUEUED_AT_MOST)
}

/// What GitHub's word about a job says beyond its row.
fn news(job: &super::JobEntry, view: &JobView, asked_at: Time) -> Option<Finding> {
    match (job.status, view) {
        (Status::Pending, JobView::Queued { .. }) | (Status::Completed | Status::Failed, _) => None,
        (Status::Running, JobView::Queued { said_at }) => {
            // By GitHub's clock, as the start is: this machine's may be minutes off.
            let at = said_at.unwrap_or(asked_at) - REQUEUE_PROOF;
            let left = job.assignment().is_none_or(|known| known.started_at < at);
            (left && !job.requeued).then_some(Finding::Requeued { at })
        }
        (status, JobView::InProgress { assignment }) => {
            let told = assignment.as_ref().is_some_and(|told| job.assignment().is_none_or(|known| known < told));
            (status == Status::Pending || told).then(|| Finding::Started(assignment.clone()))
        }
        (_, JobView::Completed { assignment, completed_at }) => {
            Some(Finding::Ended { assignment: assignment.clone(), at: completed_at.unwrap_or(asked_at) })
        }
    }
}

/// The answer of a call that was never made, or whose end nobody saw.
fn lost<T>() -> GitHubAnswer<T> {
    GitHubAnswer {
        result: Err(GitHubError::Unavailable { message: alloc::string::String::from("the call was given up") }),
        budget: None,
        calls: 0,
    }
}

/// Whether GitHub has said nothing of what it was asked about: it was out of reach, or a limit refused the call.
fn is_silent<T>(answer: &GitHubAnswer<T>) -> bool {
    matches!(answer.result, Err(GitHubError::Unavailable { .. } | GitHubError::RateLimited { .. }))
}
