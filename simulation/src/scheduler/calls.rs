//! What becomes of the actions that an engine chose: calls that have their effect later, and writes in batches.

use engine::{
    decision::{Action, Chosen, Reason, Write},
    facts::{ClusterError, GitHubAnswer, GitHubError, Outcome, StoreError},
    ids::{Epoch, InstallationId, Time},
};

use super::{
    Inbox,
    times::{CALL_LIMIT, WRITES_AT_ONCE},
};
use crate::{
    github::STALL_ENDS,
    register::{Fault, Rare},
    run::{Event, SECOND, Sim},
    store::{away, kind},
    trace::number,
};

fn is_github(action: &Action) -> bool {
    matches!(
        action,
        Action::PollJob { .. }
            | Action::ListRunners(_)
            | Action::MintJit(_)
            | Action::DeleteRunner { .. }
            | Action::ListDeliveries { .. }
            | Action::Redeliver { .. }
    )
}

fn installation_of(action: &Action) -> Option<InstallationId> {
    match action {
        Action::PollJob { installation, .. } => Some(*installation),
        Action::ListRunners(scope) | Action::DeleteRunner { scope, .. } => Some(scope.installation),
        Action::MintJit(worker) => Some(worker.installation),
        _ => None,
    }
}

/// What a call that was never answered comes to.
fn no_answer(action: &Action) -> Outcome {
    fn github<T>() -> GitHubAnswer<T> {
        GitHubAnswer {
            result: Err(GitHubError::Unavailable { message: String::from("no answer") }),
            budget: None,
            calls: 1,
        }
    }
    fn cluster<T>() -> Result<T, ClusterError> {
        Err(ClusterError::Unavailable { message: String::from("no answer") })
    }
    match action {
        Action::Write { .. } => Outcome::Written(Err(StoreError::Unavailable { message: String::from("no answer") })),
        Action::PollJob { .. } => Outcome::JobPolled { asked_at: Time::ZERO, answer: github() },
        Action::ListRunners(_) => Outcome::RunnersListed(github()),
        Action::MintJit(_) => Outcome::JitMinted(github()),
        Action::CreatePod(_) => Outcome::PodCreated(cluster()),
        Action::CreateSecret { .. } => Outcome::SecretCreated(cluster()),
        Action::DeleteRunner { .. } => Outcome::RunnerDeleted(github()),
        Action::DeletePod { .. } => Outcome::PodDeleted(cluster()),
        Action::ListPods => Outcome::PodsListed(cluster()),
        Action::ListDeliveries { .. } => Outcome::DeliveriesListed(github()),
        Action::Redeliver { .. } => Outcome::Redelivered(github()),
    }
}

/// How an installation's call ended: with success (`Some(None)`) or an error; `None` for any other outcome.
fn answer_of(outcome: &Outcome) -> Option<Option<&GitHubError>> {
    match outcome {
        Outcome::JobPolled { answer, .. } => Some(answer.result.as_ref().err()),
        Outcome::RunnersListed(answer) => Some(answer.result.as_ref().err()),
        Outcome::JitMinted(answer) => Some(answer.result.as_ref().err()),
        Outcome::RunnerDeleted(answer) => Some(answer.result.as_ref().err()),
        _ => None,
    }
}

/// The installation that a runner is made for, or a place is taken for. A reservation whose answer was lost is repeated
/// whatever else is known: its row may be there.
fn provisions_for(action: &Action, reason: &Reason) -> Option<InstallationId> {
    match (action, reason) {
        (Action::MintJit(worker), _) => Some(worker.installation),
        (Action::Write { write: Write::Reserve { worker, .. }, .. }, Reason::Demand { .. }) => {
            Some(worker.installation)
        }
        _ => None,
    }
}

/// A call that reaches what it calls.
pub(crate) struct Reached {
    pub scheduler: usize,
    pub term: u64,
    pub id: u64,
    /// Nobody waits for the answer any more.
    pub mute: bool,
    /// It has lain there while what it calls stood still.
    pub lay: bool,
}

impl Sim {
    /// What the adapter keeps of an answer: JIT configurations, and until when an installation may not be called.
    pub(super) fn keep(&mut self, s: usize, action: &Action, outcome: &Outcome) {
        let now = self.now;
        let process = &mut self.schedulers[s];
        match (action, outcome) {
            (Action::MintJit(worker), Outcome::JitMinted(GitHubAnswer { result: Ok(minted), .. })) => {
                process.vault.insert(worker.name.clone(), (minted.runner.0, now));
            }
            (
                Action::CreateSecret { worker, .. },
                Outcome::SecretCreated(Ok(()) | Err(ClusterError::AlreadyExists)),
            ) => {
                process.vault.remove(worker);
            }
            _ => {}
        }
        let (Some(error), Some(installation)) = (answer_of(outcome), installation_of(action)) else { return };
        match error {
            Some(GitHubError::RateLimited { until: Some(until) }) => {
                let known = process.blocked.entry(installation).or_insert(*until);
                *known = (*known).max(*until);
            }
            Some(GitHubError::RateLimited { until: None }) => process.heed(installation),
            Some(GitHubError::Unavailable { .. }) => {}
            Some(GitHubError::InstallationSuspended) => {
                process.suspended.insert(installation);
            }
            Some(_) | None => {
                process.suspended.remove(&installation);
            }
        }
    }

    pub(super) fn carry_out(&mut self, s: usize, chosen: Chosen) {
        let Chosen { id, action, reason } = chosen;
        let number = id as i64 ^ object_of(&action).rotate_left(8);
        self.note("chose", number, s as i64, || format!("#{id} {} because {reason:?}", name_of(&action)));
        if let Some(installation) = installation_of(&action)
            && let Some(&until) = self.schedulers[s].blocked.get(&installation)
            && self.schedulers[s].latest < until
        {
            let what = format!("scheduler {s} calls for installation {installation} before the time it was told");
            self.breaks("S14 budget", what);
        }
        if let Some(installation) = provisions_for(&action, &reason)
            && self.schedulers[s].suspended.contains(&installation)
        {
            let what = format!("scheduler {s} provisions for installation {installation}, which is suspended");
            self.breaks("S14 budget", what);
        }
        self.judge_chosen(&action);
        let term = self.schedulers[s].term;
        match action {
            Action::Write { write, diagnose } => {
                if let Write::WorkerFailed { name, .. } = &write {
                    self.schedulers[s].vault.remove(name);
                }
                if let Some((_, uid)) = &diagnose {
                    self.judge_diagnosed(uid);
                    let wait = self.rng.between(50, 2 * SECOND);
                    return self.to(s, wait, Inbox::Queue(id, Box::new(write)));
                }
                self.schedulers[s].writes.push((id, write));
                // What one decision chose goes together.
                self.to(s, 0, Inbox::Pump);
            }
            action => {
                let github = is_github(&action);
                let timeout = if github { Fault::GithubTimeout } else { Fault::ClusterTimeout };
                if self.strikes(timeout) {
                    let outcome = Box::new(no_answer(&action));
                    self.to(s, CALL_LIMIT, Inbox::Answer(id, Box::new(action.clone()), outcome));
                    if self.rng.chance(50) {
                        // It arrives all the same, perhaps after its caller has given it up.
                        let wait = self.rng.between(0, CALL_LIMIT + 10 * SECOND);
                        self.after(
                            wait,
                            Event::Reach { scheduler: s, term, id, action: Box::new(action), mute: true, lay: false },
                        );
                    }
                    return;
                }
                let wait = if github { self.rng.between(30, 400) } else { self.rng.between(3, 60) };
                self.after(
                    wait,
                    Event::Reach { scheduler: s, term, id, action: Box::new(action), mute: false, lay: false },
                );
            }
        }
    }

    /// A call has its effect. Its caller may be gone by then.
    pub(crate) fn reach(&mut self, call: Reached, action: Action) {
        let Reached { scheduler: s, term, id, mute, lay } = call;
        let again = |action, mute, lay| Event::Reach { scheduler: s, term, id, action: Box::new(action), mute, lay };
        let process = &mut self.schedulers[s];
        let listens = process.alive && process.term == term;
        if process.paused && listens && !lay && self.rng.chance(50) {
            // It had not left the process yet.
            return self.schedulers[s].held.push(again(action, mute, lay));
        }
        if is_github(&action)
            && let Some(until) = self.struck(Fault::GithubStalled)
        {
            let rest = until - self.now;
            let given_up = rest > CALL_LIMIT;
            if given_up && listens && !mute {
                let outcome = Box::new(no_answer(&action));
                self.to(s, CALL_LIMIT, Inbox::Answer(id, Box::new(action.clone()), outcome));
            }
            let wait = rest + self.rng.between(0, STALL_ENDS - 1);
            return self.after(wait, again(action, mute || given_up, true));
        }
        if self.schedulers[s].killed {
            self.cut_short(&action);
        }
        if !listens && self.rng.chance(50) {
            return;
        }
        let process = &self.schedulers[s];
        // One that woke after its lease does not know yet that another leads.
        let deposed = process.epoch.is_none_or(|epoch| epoch.0 != self.store.granted);
        self.late_call = !listens || mute || deposed;
        self.unknown_call = lay && (!listens || deposed);
        let outcome = self.effect(s, &action);
        (self.late_call, self.unknown_call) = (false, false);
        if !listens || mute {
            return;
        }
        let wait = if is_github(&action) { self.rng.between(20, 300) } else { self.rng.between(2, 40) };
        self.to(s, wait, Inbox::Answer(id, Box::new(action), Box::new(outcome)));
    }

    /// A call whose caller was killed: at which step of provisioning?
    fn cut_short(&mut self, action: &Action) {
        match action {
            Action::MintJit(_) => self.rare(Rare::KilledMinting),
            Action::CreatePod(_) => self.rare(Rare::KilledCreatingPod),
            Action::CreateSecret { .. } => self.rare(Rare::KilledCreatingSecret),
            _ => {}
        }
    }

    fn effect(&mut self, s: usize, action: &Action) -> Outcome {
        let asked_at = self.clock(s);
        self.caller_ahead = self.schedulers[s].offset;
        match action {
            Action::PollJob { id, installation, .. } => {
                Outcome::JobPolled { asked_at, answer: self.poll_job(*id, *installation) }
            }
            Action::ListRunners(scope) => Outcome::RunnersListed(self.list_runners(scope, asked_at)),
            Action::MintJit(worker) => Outcome::JitMinted(self.mint(worker)),
            Action::CreatePod(worker) => Outcome::PodCreated(self.create_pod(worker)),
            Action::CreateSecret { worker, pod } => match self.schedulers[s].vault.get(worker).copied() {
                Some((jit, _)) => Outcome::SecretCreated(self.create_secret(worker, pod, jit)),
                None => Outcome::Lost,
            },
            Action::DeleteRunner { scope, id, .. } => Outcome::RunnerDeleted(self.delete_runner(scope, *id)),
            Action::DeletePod { name, uid } => Outcome::PodDeleted(self.delete_pod(name, uid)),
            Action::ListPods => {
                if self.strikes(Fault::ClusterBefore) {
                    return no_answer(action);
                }
                Outcome::PodsListed(Ok(self.all_pods(asked_at)))
            }
            Action::ListDeliveries { app, since } => {
                if self.strikes(Fault::GithubBefore) {
                    return no_answer(action);
                }
                Outcome::DeliveriesListed(self.list_deliveries(*app, *since))
            }
            Action::Redeliver { delivery, .. } => {
                if self.strikes(Fault::GithubBefore) {
                    return no_answer(action);
                }
                Outcome::Redelivered(self.redeliver(*delivery))
            }
            Action::Write { .. } => Outcome::Lost,
        }
    }

    // ---- writes

    /// Sends the next batch, if none is under way.
    pub(super) fn pump(&mut self, s: usize) {
        let process = &mut self.schedulers[s];
        if process.writing || process.writes.is_empty() {
            return;
        }
        let Some(epoch) = process.epoch else { return };
        process.writing = true;
        let count = process.writes.len().min(WRITES_AT_ONCE);
        let batch: Vec<(u64, Write)> = process.writes.drain(..count).collect();
        let term = process.term;
        let mut wait = self.rng.between(1, 30);
        if self.strikes(Fault::StoreSlow) {
            wait += self.rng.between(SECOND, 20 * SECOND);
        }
        self.after(wait, Event::Write { scheduler: s, term, epoch, batch });
    }

    /// A batch reaches the store. A killed process's transaction may still commit.
    pub(crate) fn write_batch(&mut self, s: usize, term: u64, epoch: Epoch, batch: Vec<(u64, Write)>) {
        let process = &mut self.schedulers[s];
        let listens = process.alive && process.term == term;
        if process.paused && listens && self.rng.chance(50) {
            return self.schedulers[s].held.push(Event::Write { scheduler: s, term, epoch, batch });
        }
        if self.schedulers[s].killed && batch.iter().any(|(_, write)| matches!(write, Write::Reserve { .. })) {
            self.rare(Rare::KilledReserving);
        }
        if !listens && self.rng.chance(50) {
            return;
        }
        let result = self.store_writes(epoch, &batch);
        if !listens {
            return;
        }
        self.schedulers[s].writing = false;
        if matches!(result, Err(StoreError::Fenced { .. })) {
            return self.step_down(s);
        }
        for (i, (id, write)) in batch.into_iter().enumerate() {
            let written = match &result {
                Ok(written) => Ok(written[i]),
                Err(_) => away(),
            };
            let action = Box::new(Action::Write { write, diagnose: None });
            self.to(s, 1, Inbox::Answer(id, action, Box::new(Outcome::Written(written))));
        }
        self.pump(s);
    }
}

/// An action as a number, for the trace's hash: what it is, and of whom.
fn object_of(action: &Action) -> i64 {
    let (what, object) = match action {
        Action::Write { write, .. } => (0, kind(write)),
        Action::PollJob { id, .. } => (1, id.0),
        Action::ListRunners(scope) => (2, scope.entity.0),
        Action::MintJit(worker) => (3, number(worker.name.as_str())),
        Action::CreatePod(worker) => (4, number(worker.name.as_str())),
        Action::CreateSecret { worker, .. } => (5, number(worker.as_str())),
        Action::DeleteRunner { id, .. } => (6, id.0),
        Action::DeletePod { uid, .. } => (7, number(uid.as_str())),
        Action::ListPods => (8, 0),
        Action::ListDeliveries { app, .. } => (9, *app as i64),
        Action::Redeliver { delivery, .. } => (10, *delivery),
    };
    object ^ (what << 4)
}

/// An action in words.
fn name_of(action: &Action) -> String {
    match action {
        Action::Write { write, .. } => crate::store::what(write),
        Action::PollJob { id, .. } => format!("poll job {id}"),
        Action::ListRunners(scope) => format!("list runners of {}", scope.entity),
        Action::MintJit(worker) => format!("mint for {}", worker.name),
        Action::CreatePod(worker) => format!("create pod {}", worker.name),
        Action::CreateSecret { worker, .. } => format!("create Secret {worker}"),
        Action::DeleteRunner { name, id, .. } => format!("delete runner {id} {name}"),
        Action::DeletePod { name, .. } => format!("delete pod {name}"),
        Action::ListPods => String::from("list pods"),
        Action::ListDeliveries { app, .. } => format!("list deliveries of {app:?}"),
        Action::Redeliver { delivery, .. } => format!("redeliver {delivery}"),
    }
}
