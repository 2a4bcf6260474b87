//! What an App's installation may ask and do: limits, faults, and each call's effect.

use engine::{
    facts::{
        App, Assignment, Budget, Delivery, GitHubAnswer, GitHubError, JobView, Minted, Runner, RunnerListing,
        RunnerScope, Worker,
    },
    ids::{InstallationId, JobId, RunnerId, Time, WorkerName},
    labels::LabelSet,
};

use super::{Account, Attempt, Entry, JobState, Spent};
use crate::{
    judge::Call,
    register::{Fault, Rare},
    run::{Event, HOUR, MINUTE, SECOND, Sim},
    trace::number,
};

/// Ids from here on are of jobs that are not in the plan.
const IN_THE_WAY: i64 = 1_000_000;
/// Points an installation may spend a minute.
const POINTS: u32 = 900;
/// When GitHub goes on after it stood still: all that lay there is counted within so long, in milliseconds.
pub(crate) const STALL_ENDS: i64 = 50;
/// Runners on one page.
const PAGE: usize = 100;

impl Sim {
    /// A call of an installation: limits, faults, and what is left of the hour.
    pub(crate) fn github_call<T>(
        &mut self,
        installation: InstallationId,
        call: Call,
        act: impl FnOnce(&mut Self, usize) -> (Result<T, GitHubError>, u32),
    ) -> GitHubAnswer<T> {
        let now = self.now;
        let account = self.github.accounts.iter().position(|it| it.installation == installation.0);
        let refused = |error| GitHubAnswer { result: Err(error), budget: None, calls: 1 };
        let Some(account) = account else { return refused(GitHubError::InstallationGone) };
        let entry = &mut self.github.accounts[account];
        if entry.removed {
            return refused(GitHubError::InstallationGone);
        }
        if entry.suspended {
            return refused(GitHubError::InstallationSuspended);
        }
        entry.renew(now);
        if self.strikes(Fault::GithubBefore) {
            return refused(GitHubError::Unavailable { message: String::from("502") });
        }
        let blocked = self.github.accounts[account].blocked;
        if now < blocked {
            let until = Some(self.told_time(blocked));
            return refused(GitHubError::RateLimited { until });
        }
        if self.strikes(Fault::RateLimitedTold) {
            let until = now + self.rng.between(MINUTE, 5 * MINUTE);
            self.github.accounts[account].blocked = until;
            self.note("limits", account as i64, until, || format!("account {account} until {} s", until / SECOND));
            return refused(GitHubError::RateLimited { until: Some(self.told_time(until)) });
        }
        if self.strikes(Fault::RateLimitedUntold) {
            self.judge.note_untold(account, now);
            self.note("limits", account as i64, 0, || format!("account {account}, without a time"));
            return refused(GitHubError::RateLimited { until: None });
        }
        let entry = &self.github.accounts[account];
        if entry.used >= entry.limit {
            let budget = self.budget(account);
            let until = Some(self.told_time(entry.reset_at));
            return GitHubAnswer { result: Err(GitHubError::RateLimited { until }), budget: Some(budget), calls: 1 };
        }
        self.judge_reserve(account, call);
        let (mut result, calls) = act(self, account);
        let entry = &mut self.github.accounts[account];
        entry.used += calls;
        entry.calls += u64::from(calls);
        let points = if call.is_write() { 5 } else { calls };
        let told_until = match call {
            Call::Delete { failed_at } => failed_at.map_or(0, |at| at + MINUTE),
            Call::Poll | Call::List | Call::Mint => i64::MAX,
        };
        // No leader knows what an earlier one has sent to a GitHub that stands still (S14).
        if !self.unknown_call {
            entry.points.push_back(Spent { at: now, points, told_until });
            entry.points_sum += points;
        }
        while let Some(spent) = entry.points.pop_front_if(|spent| now - spent.at >= MINUTE) {
            entry.points_sum -= spent.points;
        }
        let sum = entry.points_sum;
        if sum > POINTS {
            self.breaks("S14 budget", format!("account {account} spent {sum} points within a minute"));
        }
        let budget = Some(self.budget(account));
        if self.strikes(Fault::GithubAfter) {
            result = Err(GitHubError::Unavailable { message: String::from("502") });
            return GitHubAnswer { result, budget: None, calls };
        }
        if !self.late_call {
            self.judge.note_shown(account, now, self.caller_ahead);
        }
        GitHubAnswer { result, budget, calls }
    }

    /// Rows tell a new leader of one JIT call for each worker, and of one deletion for each that has failed within the last
    /// minute. How often a call was tried, when it was counted that reached GitHub late, after it had stood still, and that a
    /// runner was deleted of a worker that had failed before, they do not tell: that is no part of what it may spend (S14).
    pub(crate) fn forget_what_no_row_tells(&mut self) {
        let now = self.now;
        let stalls = self.plan.window.iter().filter(|it| it.fault == Fault::GithubStalled);
        let ends: Vec<i64> = stalls.map(|it| it.until.min(self.plan.quiet_at)).collect();
        for entry in &mut self.github.accounts {
            entry.points.retain(|spent| {
                let late = ends.iter().any(|&until| (until..until + STALL_ENDS).contains(&spent.at));
                let forgotten = late || spent.told_until <= now;
                entry.points_sum -= if forgotten { spent.points } else { 0 };
                !forgotten
            });
        }
    }

    /// A time that GitHub tells, as the adapter brings it to the caller's clock by the answer's date.
    fn told_time(&self, at: i64) -> Time {
        self.abs(at + self.caller_ahead)
    }

    fn budget(&self, account: usize) -> Budget {
        let entry = &self.github.accounts[account];
        let remaining = entry.limit.saturating_sub(entry.used);
        Budget { limit: entry.limit, remaining, reset_at: self.told_time(entry.reset_at) }
    }

    pub(crate) fn poll_job(&mut self, id: JobId, installation: InstallationId) -> GitHubAnswer<JobView> {
        self.github_call(installation, Call::Poll, |sim, account| {
            let Some(job) = sim.github.jobs.get(&id.0).filter(|job| job.account == account) else {
                return (Err(GitHubError::NotFound), 1);
            };
            let assignment = job
                .runner
                .as_ref()
                .zip(job.started)
                .map(|((_, name), at)| Assignment { started_at: sim.abs(at), runner: name.clone() });
            // `Date` is in whole seconds.
            let said_at = Time(sim.abs(sim.now).0 / 1000 * 1000);
            let view = match job.state {
                JobState::Held | JobState::Queued => JobView::Queued { said_at: Some(said_at) },
                JobState::Running => JobView::InProgress { assignment },
                JobState::Done => JobView::Completed { assignment, completed_at: job.ended.map(|at| sim.abs(at)) },
            };
            if job.state == JobState::Done && sim.store.rows.job(id).is_some_and(|row| !row.status.is_ended()) {
                sim.counts.rare(Rare::PollFoundCompleted);
            }
            (Ok(view), 1)
        })
    }

    pub(crate) fn list_runners(&mut self, scope: &RunnerScope, asked_at: Time) -> GitHubAnswer<RunnerListing> {
        let entity = scope.entity.0;
        self.github_call(scope.installation, Call::List, |sim, account| {
            let now = sim.now;
            let looked_up = sim.find_by_name(account, &scope.entity_name);
            let stale = sim.strikes(Fault::StaleListing);
            let here = sim.github.runners.iter().filter(|(_, it)| it.entity == entity);
            let fresh = here.filter(|(_, it)| !stale || now - it.created > 5 * SECOND);
            let mut runners: Vec<Runner> = fresh
                .map(|(&id, it)| Runner {
                    id: RunnerId(id),
                    name: it.name.text().clone(),
                    online: it.online,
                    busy: it.job.is_some() && now >= it.busy_from,
                })
                .collect();
            if stale {
                let lately = sim.github.gone.iter().filter(|(at, it, _)| it.entity == entity && now - at < 5 * SECOND);
                runners.extend(lately.map(|(_, it, id)| Runner {
                    id: RunnerId(*id),
                    name: it.name.text().clone(),
                    online: false,
                    busy: false,
                }));
            }
            let calls = looked_up + runners.len().div_ceil(PAGE).max(1) as u32;
            if sim.strikes(Fault::PagesDisagree) {
                return (Err(GitHubError::Torn), calls);
            }
            (Ok(RunnerListing { asked_at, runners }), calls)
        })
    }

    pub(crate) fn mint(&mut self, worker: &Worker) -> GitHubAnswer<Minted> {
        let (name, entity, labels) = (worker.name.clone(), worker.entity.0, worker.labels.clone());
        self.github_call(worker.installation, Call::Mint, |sim, account| {
            let looked_up = sim.find_by_name(account, &worker.entity_name);
            if sim.github.runner_of(&name).is_some_and(|it| it.entity == entity) {
                sim.counts.rare(Rare::NameTakenAfterLostAnswer);
                return (Err(GitHubError::NameTaken), 1 + looked_up);
            }
            let id = sim.github.next_id();
            let created = sim.now;
            let entry = Entry {
                name: name.clone(),
                entity,
                labels,
                created,
                online: false,
                idle_since: None,
                job: None,
                busy_from: 0,
                strange: false,
            };
            let waited = sim.store.rows.worker(&name).map_or(0, |row| sim.plan.epoch + sim.now - row.created_at.0);
            if waited > 2 * SECOND && sim.github.accounts[account].points_sum > POINTS - 50 {
                sim.counts.rare(Rare::Throttled);
            }
            sim.judge_minted(account, &entry);
            sim.github.runners.insert(id, entry);
            sim.github.by_name.insert(name.clone(), id);
            sim.note("mint", id, number(name.as_str()), || format!("runner {id} for {name}"));
            (Ok(Minted { runner: RunnerId(id) }), 1 + looked_up)
        })
    }

    pub(crate) fn delete_runner(&mut self, scope: &RunnerScope, id: RunnerId) -> GitHubAnswer<()> {
        let entity = scope.entity.0;
        let worker = self.github.runners.get(&id.0).and_then(|it| self.store.rows.worker(&it.name));
        let failed_at = worker.and_then(|row| row.completed_at).map(|at| at.0 - self.plan.epoch);
        self.github_call(scope.installation, Call::Delete { failed_at }, |sim, account| {
            let looked_up = sim.find_by_name(account, &scope.entity_name);
            if let Some(name) = sim.github.runners.get(&id.0).map(|it| it.name.clone()) {
                sim.job_in_the_way(&name);
            }
            let Some(entry) = sim.github.runners.get(&id.0).filter(|it| it.entity == entity) else {
                // Who is not there is gone.
                return (Ok(()), 1 + looked_up);
            };
            if entry.strange {
                let name = entry.name.clone();
                sim.judge_touched("runner", &name);
                return (Err(GitHubError::NotFound), 1 + looked_up);
            }
            if entry.job.is_some() {
                sim.counts.rare(Rare::BusyRunnerKept);
                return (Err(GitHubError::RunnerBusy), 1 + looked_up);
            }
            let (name, online) = (entry.name.clone(), entry.online);
            sim.judge_runner_deleted(&name);
            sim.forget_runner(id.0);
            sim.note("unregister", id.0, number(name.as_str()), || format!("runner {id} of {name}"));
            if online {
                // Its process is told, and ends.
                let wait = sim.rng.between(SECOND, 3 * SECOND);
                sim.after(wait, Event::RunnerExits { pod: name, runner: id.0, code: 1 });
            }
            (Ok(()), 1 + looked_up)
        })
    }

    /// Now and then a runner that waits for a job gets one in the very moment in which it, or its pod, is taken away.
    pub(crate) fn job_in_the_way(&mut self, name: &WorkerName) {
        let Some(entry) = self.github.runner_of(name).filter(|it| it.online && it.job.is_none()) else { return };
        let (entity, labels) = (entry.entity, &entry.labels);
        let set = self.plan.world.labels.iter().position(|set| LabelSet::new(set) == *labels);
        let user = |account: &crate::plan::Account| account.user && entity / 100 == account.id;
        let is_its = |account: &crate::plan::Account| user(account) || !account.user && entity == account.id;
        let Some(account) = self.plan.world.account.iter().position(is_its) else { return };
        let Some(set) = set.filter(|_| self.strikes(Fault::JobInTheWay)) else { return };
        let repo = if self.is_user(account) { entity % 100 } else { 1 };
        let (id, runs) = (IN_THE_WAY + self.github.next_id(), self.rng.between(10 * SECOND, 2 * MINUTE));
        self.queue_job(id, account, repo, set, runs, 0);
    }

    pub(crate) fn list_deliveries(&mut self, app: App, since: Time) -> GitHubAnswer<Vec<Delivery>> {
        let from = since.0 - self.plan.epoch;
        let seen = self.github.log.iter().enumerate().filter(|(_, it)| it.app == app && it.over && it.at >= from);
        let lines = seen.map(|(i, it)| Delivery {
            id: i as i64,
            guid: it.guid.clone(),
            delivered_at: self.abs(it.at),
            ok: it.ok,
            refused: it.refused,
        });
        GitHubAnswer { result: Ok(lines.collect()), budget: None, calls: 1 }
    }

    pub(crate) fn redeliver(&mut self, attempt: i64) -> GitHubAnswer<()> {
        let Some(known) = usize::try_from(attempt).ok().and_then(|i| self.github.log.get(i)).cloned() else {
            return GitHubAnswer { result: Err(GitHubError::NotFound), budget: None, calls: 1 };
        };
        self.judge_redelivered(&known.guid);
        self.github.log.push(Attempt { at: self.now, over: false, ok: false, refused: false, again: true, ..known });
        self.post(self.github.log.len() - 1);
        GitHubAnswer { result: Ok(()), budget: None, calls: 1 }
    }
}

impl Account {
    pub(super) fn renew(&mut self, now: i64) {
        if now >= self.reset_at {
            self.used = 0;
            self.reset_at = now + HOUR;
        }
    }
}
