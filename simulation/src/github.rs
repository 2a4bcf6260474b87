//! GitHub, as lean as a fast simulation needs it: jobs, runners, deliveries, limits.
//!
//! What it does and when is from GitHub's documentation: jobs go to any idle online runner that carries all their labels;
//! a runner takes one job and is gone; `busy` lags; a delivery is sent once, and its log tells how it fared.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use engine::{
    facts::{
        App, Assignment, Budget, Delivery, GitHubAnswer, GitHubError, JobView, Minted, Runner, RunnerListing,
        RunnerScope, Status, Worker,
    },
    ids::{InstallationId, JobId, RunnerId, Time, WorkerName},
    intake::{self, Intake, WorkflowJob},
    labels::LabelSet,
};

use crate::{
    judge::Call,
    register::{Fault, Rare},
    run::{Event, HOUR, MINUTE, SECOND, Sim},
    trace::number,
};

/// A queued job that no runner takes fails after this.
const QUEUE_LIMIT: i64 = 24 * HOUR;
/// A job whose runner does not acknowledge it is queued again after this.
const ACKNOWLEDGE: i64 = MINUTE;
/// A job whose runner is gone fails after this.
const RUNNER_LOST: i64 = 10 * MINUTE;
/// Ids from here on are of jobs that are not in the plan.
const IN_THE_WAY: i64 = 1_000_000;
/// Points an installation may spend a minute.
const POINTS: u32 = 900;
/// Runners on one page.
const PAGE: usize = 100;

/// Where a job stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobState {
    /// Held by an environment rule.
    Held,
    /// In the queue.
    Queued,
    /// On a runner.
    Running,
    /// Over.
    Done,
}

/// One workflow job. Times are milliseconds since the world's start.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its account, by index.
    pub account: usize,
    /// Its repository's id.
    pub repo: i64,
    /// Its repository's full name.
    repo_name: String,
    /// Its page.
    url: String,
    /// What its runner must carry.
    pub labels: LabelSet,
    /// The label set's index in the plan.
    pub set: usize,
    /// How long it runs.
    pub runs: i64,
    /// Where it stands.
    pub state: JobState,
    /// When it was created, in whole seconds.
    pub created: i64,
    /// When it started, the last time it did.
    pub started: Option<i64>,
    /// When it ended.
    pub ended: Option<i64>,
    /// Its runner, id and name.
    pub runner: Option<(i64, Arc<str>)>,
    /// Attempts to run it: a requeue makes another.
    pub attempt: u32,
    /// How its deliveries fared.
    pub posted: Posted,
}

/// Attempts to deliver what concerns one job, and can be understood.
#[derive(Clone, Copy, Default, Debug)]
pub struct Posted {
    /// All of them.
    pub sent: u32,
    /// Still on their way.
    pub open: u32,
    /// Answered 4xx.
    pub refused: u32,
}

/// One runner entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: WorkerName,
    /// Where it is registered.
    pub entity: i64,
    /// What it carries.
    pub labels: LabelSet,
    /// When it was made.
    pub created: i64,
    /// Its process is connected.
    pub online: bool,
    /// Since when it has been online without a job.
    pub idle_since: Option<i64>,
    /// The job it executes.
    pub job: Option<i64>,
    /// From when on that shows.
    pub busy_from: i64,
    /// It is none of ours.
    pub strange: bool,
}

/// What a delivery says.
#[derive(Clone, Debug)]
pub enum Body {
    /// A workflow job.
    Job {
        /// `queued`, `in_progress` or `completed`.
        action: &'static str,
        /// Which.
        job: i64,
        /// `installation.id`.
        installation: Option<i64>,
        /// When it started.
        started: Option<i64>,
        /// When it ended.
        ended: Option<i64>,
        /// On which runner.
        runner: Option<Arc<str>>,
    },
    /// An installation.
    Installation {
        /// `deleted` or `suspend`.
        action: &'static str,
        /// Which.
        installation: i64,
    },
}

/// One attempt to deliver.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The same for every attempt of one delivery.
    pub guid: Arc<str>,
    /// Whose log it is in.
    pub app: App,
    /// When it was sent; once it is over, when it arrived or was given up: that is the time the log shows.
    pub at: i64,
    /// What it says.
    pub body: Body,
    /// It is over, and the log shows it.
    pub over: bool,
    /// It was answered 2xx.
    pub ok: bool,
    /// It was answered 4xx.
    pub refused: bool,
    /// Whether it repeats an earlier one on our request.
    pub again: bool,
}

/// An account's side of things.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name.
    login: String,
    /// Its installation now.
    pub installation: i64,
    /// Not installed any more.
    pub removed: bool,
    /// When that was.
    pub removed_at: i64,
    /// Suspended.
    pub suspended: bool,
    /// When it was last suspended no more.
    pub(crate) back_at: Option<i64>,
    /// Calls an hour.
    pub limit: u32,
    pub(crate) used: u32,
    pub(crate) reset_at: i64,
    /// A limit that was told in an answer: no call before then.
    pub(crate) blocked: i64,
    points: VecDeque<(i64, u32)>,
    points_sum: u32,
    /// Calls over the whole run.
    pub calls: u64,
}

/// GitHub.
#[derive(Clone, Debug, Default)]
pub struct GitHub {
    /// By the plan's index.
    pub accounts: Vec<Account>,
    /// Jobs by id.
    pub jobs: BTreeMap<i64, Job>,
    /// Runner entries by id.
    pub runners: BTreeMap<i64, Entry>,
    /// Jobs in the queue, oldest first.
    pub queue: BTreeSet<(i64, i64)>,
    /// Every attempt, in the order sent.
    pub log: Vec<Attempt>,
    /// Attempts that are not over.
    pub under_way: usize,
    /// Deliveries whose last attempt nobody answered, by GUID.
    pub unanswered: BTreeSet<Arc<str>>,
    /// Runner entries' ids by their names.
    by_name: BTreeMap<WorkerName, i64>,
    /// Entries that are gone, for listings that lag: (when, entry, id).
    gone: VecDeque<(i64, Entry, i64)>,
    serial: i64,
}

impl GitHub {
    /// An entry that nobody of ours made.
    pub(crate) fn add_stranger(&mut self, entry: Entry) {
        let id = self.next_id();
        self.by_name.insert(entry.name.clone(), id);
        self.runners.insert(id, entry);
    }

    /// Entries of ours.
    pub(crate) fn ours(&self) -> impl Iterator<Item = (&i64, &Entry)> {
        self.runners.iter().filter(|(_, entry)| !entry.strange)
    }

    /// The entry of this name.
    pub(crate) fn runner_of(&self, name: &WorkerName) -> Option<&Entry> {
        self.runners.get(self.by_name.get(name)?)
    }

    fn next_id(&mut self) -> i64 {
        self.serial += 1;
        self.serial
    }
}

impl Sim {
    pub(crate) fn set_up_github(&mut self) {
        let made = |account: &crate::plan::Account| Account {
            login: format!("owner-{}", account.id),
            installation: account.installation,
            removed: false,
            removed_at: 0,
            suspended: false,
            back_at: None,
            limit: account.limit,
            used: 0,
            reset_at: 0,
            blocked: 0,
            points: VecDeque::new(),
            points_sum: 0,
            calls: 0,
        };
        self.github.accounts = self.plan.world.account.iter().map(made).collect();
    }

    fn is_user(&self, account: usize) -> bool {
        self.plan.world.account[account].user
    }

    fn app_of(&self, account: usize) -> App {
        if self.is_user(account) { App::Personal } else { App::Organization }
    }

    /// The id that runners for this job are registered to.
    pub(crate) fn entity_of(&self, job: &Job) -> i64 {
        if self.is_user(job.account) { job.repo } else { self.plan.world.account[job.account].id }
    }

    pub(crate) fn repo_id(&self, account: usize, repo: i64) -> i64 {
        self.plan.world.account[account].id * 100 + repo
    }

    fn repo_name(&self, account: usize, repo: i64) -> String {
        let account = &self.plan.world.account[account];
        let named = usize::try_from(repo - 1).ok().and_then(|i| account.repos.get(i)).cloned();
        named.unwrap_or_else(|| format!("owner-{}/repo-{repo}", account.id))
    }

    // ---- jobs

    pub(crate) fn queue_job(&mut self, id: i64, account: usize, repo: i64, set: usize, runs: i64, held: i64) {
        let repo_name = self.repo_name(account, repo);
        let job = Job {
            account,
            repo: self.repo_id(account, repo),
            url: format!("https://github.com/{repo_name}/actions/runs/1/job/{id}"),
            repo_name,
            labels: LabelSet::new(&self.plan.world.labels[set]),
            set,
            runs,
            state: JobState::Queued,
            created: self.now / SECOND * SECOND,
            started: None,
            ended: None,
            runner: None,
            attempt: 0,
            posted: Posted::default(),
        };
        self.github.jobs.insert(id, job);
        self.note("queue", id, account as i64, || format!("job {id}"));
        self.send_job(id, "queued");
        if held > 0 {
            if let Some(job) = self.github.jobs.get_mut(&id) {
                job.state = JobState::Held;
            }
            self.counts.fault(Fault::Held);
            return self.after(held, Event::Release(id));
        }
        self.enqueue(id);
    }

    pub(crate) fn release_job(&mut self, id: i64) {
        let Some(job) = self.github.jobs.get_mut(&id).filter(|job| job.state == JobState::Held) else { return };
        job.state = JobState::Queued;
        self.send_job(id, "queued");
        self.enqueue(id);
    }

    fn enqueue(&mut self, id: i64) {
        let Some(job) = self.github.jobs.get(&id) else { return };
        self.github.queue.insert((job.created, id));
        self.after(QUEUE_LIMIT, Event::QueueLimit(id));
        self.assign();
    }

    pub(crate) fn queue_limit(&mut self, id: i64) {
        if self.github.jobs.get(&id).is_some_and(|job| job.state == JobState::Queued) {
            self.counts.fault(Fault::JobExpired);
            self.end_job(id);
        }
    }

    /// Its repository is deleted: nobody is told.
    pub(crate) fn forget_job(&mut self, id: i64) {
        let waits = |job: &&Job| matches!(job.state, JobState::Queued | JobState::Held);
        let Some(created) = self.github.jobs.get(&id).filter(waits).map(|job| job.created) else { return };
        self.counts.fault(Fault::JobForgotten);
        self.note("forget", id, 0, || format!("job {id}"));
        self.github.queue.remove(&(created, id));
        self.github.jobs.remove(&id);
    }

    pub(crate) fn cancel_job(&mut self, id: i64) {
        let Some(job) = self.github.jobs.get(&id) else { return };
        if matches!(job.state, JobState::Queued | JobState::Held) {
            self.counts.fault(Fault::CancelledEarly);
        }
        self.end_job(id);
    }

    /// Gives queued jobs, oldest first, to idle runners that carry all their labels.
    pub(crate) fn assign(&mut self) {
        let idle: Vec<i64> =
            self.github.runners.iter().filter(|(_, it)| it.online && it.job.is_none()).map(|(id, _)| *id).collect();
        if idle.is_empty() || self.github.queue.is_empty() {
            return;
        }
        for (at, id) in self.github.queue.iter().copied().collect::<Vec<_>>() {
            let Some(job) = self.github.jobs.get(&id) else { continue };
            let entity = self.entity_of(job);
            let fits = |runner: &&i64| {
                self.github
                    .runners
                    .get(runner)
                    .is_some_and(|it| it.job.is_none() && it.entity == entity && it.labels.covers(&job.labels))
            };
            let chosen =
                if self.plan.world.newest_first { idle.iter().rev().find(fits) } else { idle.iter().find(fits) };
            if let Some(&runner) = chosen {
                self.github.queue.remove(&(at, id));
                self.start_job(id, runner);
            }
        }
    }

    fn start_job(&mut self, id: i64, runner: i64) {
        let (now, lag) = (self.now, self.plan.world.busy_lag);
        let deaf = self.strikes(Fault::RunnerDeaf);
        self.meter_idle(runner);
        let Some(entry) = self.github.runners.get_mut(&runner) else { return };
        entry.job = Some(id);
        entry.idle_since = None;
        entry.busy_from = now + lag;
        let name = entry.name.text().clone();
        let labels = entry.labels.clone();
        let strange = entry.strange;
        let Some(job) = self.github.jobs.get_mut(&id) else { return };
        job.state = JobState::Running;
        job.started = Some(now / SECOND * SECOND);
        job.runner = Some((runner, name.clone()));
        job.attempt += 1;
        let (attempt, runs, stolen) = (job.attempt, job.runs, job.labels != labels);
        let (account, repo) = (job.account, job.repo);
        if lag > 0 {
            self.counts.fault(Fault::BusyLag);
        }
        if strange {
            self.counts.fault(Fault::StrangerWorked);
        } else if stolen {
            self.counts.fault(Fault::JobStolen);
            let same = |other: &&Job| other.account == account && other.repo == repo && other.labels == labels;
            if self.github.queue.iter().filter_map(|(_, id)| self.github.jobs.get(id)).any(|it| same(&it)) {
                self.counts.rare(Rare::StolenServed);
            }
        }
        if attempt > 1 {
            self.counts.rare(Rare::RequeuedServed);
        }
        self.note("start", id, runner, || format!("job {id} on {name}"));
        self.send_job(id, "in_progress");
        if deaf {
            self.after(ACKNOWLEDGE, Event::Requeue { job: id, attempt, runner });
        } else {
            self.after(runs, Event::JobEnds { job: id, attempt });
            if !strange && self.strikes(Fault::OutOfMemory) {
                let wait = self.rng.between(0, runs - 1);
                self.after(wait, Event::PodEnds(WorkerName::new(name), 137));
            }
        }
    }

    /// The runner never acknowledged: the job goes back, the runner is no good.
    pub(crate) fn requeue(&mut self, id: i64, attempt: u32, runner: i64) {
        let Some(job) = self.github.jobs.get_mut(&id) else { return };
        if job.state != JobState::Running || job.attempt != attempt {
            return;
        }
        job.state = JobState::Queued;
        job.started = None;
        job.runner = None;
        if let Some(entry) = self.github.runners.get_mut(&runner) {
            entry.job = None;
            entry.online = false;
        }
        self.note("requeue", id, runner, || format!("job {id}"));
        self.enqueue(id);
    }

    pub(crate) fn job_ends(&mut self, id: i64, attempt: u32) {
        if self.github.jobs.get(&id).is_some_and(|job| job.state == JobState::Running && job.attempt == attempt) {
            self.end_job(id);
        }
    }

    fn end_job(&mut self, id: i64) {
        let now = self.now;
        let Some(job) = self.github.jobs.get_mut(&id).filter(|job| job.state != JobState::Done) else { return };
        job.state = JobState::Done;
        job.ended = Some(now / SECOND * SECOND);
        let (created, runner) = (job.created, job.runner.clone());
        self.github.queue.remove(&(created, id));
        self.note("end", id, 0, || format!("job {id}"));
        if let Some((runner, name)) = runner {
            if self.let_a_stranger_go_on(runner) {
                self.send_job(id, "completed");
                return self.assign();
            }
            // Ephemeral: the entry goes with its one job, and the process ends.
            self.forget_runner(runner);
            let wait = self.rng.between(SECOND, 3 * SECOND);
            self.after(wait, Event::RunnerExits { pod: WorkerName::new(name), runner, code: 0 });
        }
        self.send_job(id, "completed");
    }

    /// The process of a runner is gone; its job, if it had one, fails later.
    pub(crate) fn disconnect(&mut self, runner: i64) {
        self.meter_idle(runner);
        let Some(entry) = self.github.runners.get_mut(&runner) else { return };
        entry.online = false;
        entry.idle_since = None;
        if let Some(job) = entry.job {
            let attempt = self.github.jobs.get(&job).map_or(0, |job| job.attempt);
            self.after(RUNNER_LOST, Event::JobEnds { job, attempt });
        }
    }

    /// A process connects; `false` when its entry is gone.
    pub(crate) fn connect(&mut self, runner: i64) -> bool {
        let now = self.now;
        let Some(entry) = self.github.runners.get_mut(&runner) else { return false };
        entry.online = true;
        entry.idle_since = Some(now);
        self.meter_online(runner);
        self.note("online", runner, 0, || format!("runner {runner}"));
        self.assign();
        true
    }

    pub(crate) fn forget_runner(&mut self, id: i64) {
        self.meter_idle(id);
        if let Some(entry) = self.github.runners.remove(&id) {
            self.github.by_name.remove(&entry.name);
            self.github.gone.push_back((self.now, entry, id));
            if self.github.gone.len() > 64 {
                self.github.gone.pop_front();
            }
        }
    }

    // ---- accounts

    pub(crate) fn uninstall(&mut self, account: usize) {
        self.counts.fault(Fault::Uninstalled);
        let installation = self.github.accounts[account].installation;
        self.github.accounts[account].removed = true;
        self.github.accounts[account].removed_at = self.now;
        self.send(account, Body::Installation { action: "deleted", installation });
    }

    pub(crate) fn reinstall(&mut self, account: usize, installation: i64) {
        self.counts.fault(Fault::Reinstalled);
        let entry = &mut self.github.accounts[account];
        entry.removed = false;
        entry.suspended = false;
        entry.installation = installation;
    }

    pub(crate) fn suspend(&mut self, account: usize, on: bool) {
        if on {
            self.counts.fault(Fault::Suspended);
            let installation = self.github.accounts[account].installation;
            self.send(account, Body::Installation { action: "suspend", installation });
        } else {
            self.github.accounts[account].back_at = Some(self.now);
            if self.waits_in(account) {
                self.counts.rare(Rare::OutlivedSuspension);
            }
        }
        self.github.accounts[account].suspended = on;
    }

    /// Whether a job of the account waits, as its row says and GitHub too.
    fn waits_in(&self, account: usize) -> bool {
        let waits = |id: &JobId| {
            self.github.jobs.get(&id.0).is_some_and(|job| job.account == account && job.started.or(job.ended).is_none())
        };
        self.store.rows.jobs().any(|row| row.status == Status::Pending && waits(&row.id))
    }

    pub(crate) fn use_up(&mut self, account: usize) {
        self.counts.fault(Fault::HourUsedUp);
        let now = self.now;
        let entry = &mut self.github.accounts[account];
        entry.renew(now);
        entry.used = entry.limit;
        self.judge.note_used_up(account, now);
    }

    // ---- deliveries

    fn send_job(&mut self, id: i64, action: &'static str) {
        let Some(job) = self.github.jobs.get(&id) else { return };
        let account = job.account;
        let (started, ended) = (job.started, job.ended);
        let runner = job.runner.as_ref().map(|(_, name)| name.clone());
        let mut installation = Some(self.github.accounts[account].installation);
        if self.strikes(Fault::WebhookNoInstallation) {
            installation = None;
        } else if self.strikes(Fault::WebhookOldInstallation) {
            installation = installation.map(|real| wrong_installation(real, id));
        }
        self.send(account, Body::Job { action, job: id, installation, started, ended, runner });
    }

    fn send(&mut self, account: usize, body: Body) {
        let entry = &self.github.accounts[account];
        let about_itself = matches!(body, Body::Installation { .. });
        if (entry.removed || entry.suspended) && !about_itself {
            return;
        }
        let guid = Arc::from(format!("guid-{}", self.github.next_id()));
        let app = self.app_of(account);
        self.github.log.push(Attempt {
            guid,
            app,
            at: self.now,
            body,
            over: false,
            ok: false,
            refused: false,
            again: false,
        });
        self.post(self.github.log.len() - 1);
    }

    fn post(&mut self, attempt: usize) {
        self.github.under_way += 1;
        if let Some(posted) = self.posted(attempt) {
            posted.sent += 1;
            posted.open += 1;
        }
        let mut wait = self.rng.between(20, 800);
        if self.strikes(Fault::WebhookReordered) {
            wait += self.rng.between(SECOND, MINUTE);
        }
        if self.strikes(Fault::WebhookHoursLate) {
            wait += self.rng.between(HOUR / 2, 2 * HOUR);
        }
        if self.strikes(Fault::WebhookDuplicated) {
            let later = wait + self.rng.between(0, 20 * SECOND);
            self.after(later, Event::Deliver { attempt, counts: false });
        }
        self.after(wait, Event::Deliver { attempt, counts: true });
    }

    /// A delivery reaches ghfe, or does not. `counts`: it is the attempt itself, not a duplicate of it.
    pub(crate) fn deliver(&mut self, attempt: usize, counts: bool) {
        let status = if self.strikes(Fault::WebhookFailed) {
            None
        } else if self.strikes(Fault::WebhookBadSignature) {
            Some(401)
        } else if self.strikes(Fault::WebhookTruncated) {
            Some(400)
        } else {
            Some(self.ghfe(attempt))
        };
        let again = self.github.log[attempt].again;
        self.note("deliver", attempt as i64, status.map_or(0, i64::from), || format!("attempt {attempt}: {status:?}"));
        if counts {
            if again && status == Some(200) {
                self.counts.rare(Rare::Redelivered);
            }
            let wait = if status.is_some() { 50 } else { 10 * SECOND };
            self.after(wait, Event::Delivered { attempt, status: status.unwrap_or(0) });
        }
    }

    pub(crate) fn delivered(&mut self, attempt: usize, status: u16) {
        self.github.under_way -= 1;
        let entry = &mut self.github.log[attempt];
        entry.at = self.now;
        entry.over = true;
        entry.ok = status == 200;
        entry.refused = (400..500).contains(&status);
        let refused = u32::from(entry.refused);
        let ok = entry.ok;
        if ok || entry.refused {
            self.github.unanswered.remove(&entry.guid);
        } else {
            self.github.unanswered.insert(entry.guid.clone());
        }
        if ok {
            self.judge_delivered();
        }
        if let Some(posted) = self.posted(attempt) {
            posted.open -= 1;
            posted.refused += refused;
        }
    }

    /// Of a delivery that names its installation: without one nobody can serve the job.
    fn posted(&mut self, attempt: usize) -> Option<&mut Posted> {
        let Body::Job { job, installation: Some(_), .. } = &self.github.log[attempt].body else { return None };
        self.github.jobs.get_mut(job).map(|job| &mut job.posted)
    }

    /// What ghfe does with it: the engine's intake, and a commit.
    fn ghfe(&mut self, attempt: usize) -> u16 {
        let body = self.github.log[attempt].body.clone();
        match body {
            Body::Installation { action, installation } => match intake::installation(action) {
                Some(failure) => self.store_fails_installation(InstallationId(installation), failure),
                None => 200,
            },
            Body::Job { action, job, installation, started, ended, runner } => {
                let Some(known) = self.github.jobs.get(&job) else { return 200 };
                let account = &self.plan.world.account[known.account];
                let time = |at: i64| self.abs(at);
                let facts = WorkflowJob {
                    action,
                    job_id: Some(job),
                    html_url: Some(&known.url),
                    labels: known.labels.iter().collect(),
                    created_at: Some(time(known.created)),
                    started_at: started.map(time),
                    completed_at: ended.map(time),
                    runner_name: runner.as_deref(),
                    repo_id: Some(known.repo),
                    repo_full_name: Some(&known.repo_name),
                    owner_id: Some(account.id),
                    owner_login: Some(&self.github.accounts[known.account].login),
                    owner_type: Some(if account.user { "User" } else { "Organization" }),
                    installation_id: installation,
                };
                match intake::read(&facts, &self.policy, self.abs(self.now)) {
                    Ok(Intake::Record(row)) => {
                        let first = self.store.rows.job(JobId(job)).is_none();
                        if first && action == "completed" {
                            self.counts.rare(Rare::CompletedFirst);
                        }
                        if first && action == "in_progress" {
                            self.counts.rare(Rare::RunningFirst);
                        }
                        self.store_records(row)
                    }
                    Ok(Intake::Ignore(_)) => 200,
                    Err(_) => 400,
                }
            }
        }
    }

    // ---- REST

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
            return refused(GitHubError::RateLimited { until: Some(self.told_time(until)) });
        }
        if self.strikes(Fault::RateLimitedUntold) {
            self.judge.note_untold(account, now);
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
        entry.points.push_back((now, points));
        entry.points_sum += points;
        while let Some(&(_, points)) = entry.points.front().filter(|(at, _)| now - at >= MINUTE) {
            entry.points_sum -= points;
            entry.points.pop_front();
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
        self.judge.note_shown(account, now);
        GitHubAnswer { result, budget, calls }
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
        self.github_call(scope.installation, Call::List, |sim, _| {
            let now = sim.now;
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
            let calls = runners.len().div_ceil(PAGE).max(1) as u32;
            if sim.strikes(Fault::PagesDisagree) {
                return (Err(GitHubError::Unavailable { message: String::from("pages") }), calls);
            }
            (Ok(RunnerListing { asked_at, runners }), calls)
        })
    }

    pub(crate) fn mint(&mut self, worker: &Worker) -> GitHubAnswer<Minted> {
        let (name, entity, labels) = (worker.name.clone(), worker.entity.0, worker.labels.clone());
        self.github_call(worker.installation, Call::Mint, |sim, account| {
            if sim.github.runner_of(&name).is_some_and(|it| it.entity == entity) {
                sim.counts.rare(Rare::NameTakenAfterLostAnswer);
                return (Err(GitHubError::NameTaken), 1);
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
            (Ok(Minted { runner: RunnerId(id) }), 1)
        })
    }

    pub(crate) fn delete_runner(&mut self, scope: &RunnerScope, id: RunnerId) -> GitHubAnswer<()> {
        let entity = scope.entity.0;
        self.github_call(scope.installation, Call::Delete, |sim, _| {
            if let Some(name) = sim.github.runners.get(&id.0).map(|it| it.name.clone()) {
                sim.job_in_the_way(&name);
            }
            let Some(entry) = sim.github.runners.get(&id.0).filter(|it| it.entity == entity) else {
                return (Err(GitHubError::NotFound), 1);
            };
            if entry.strange {
                let name = entry.name.clone();
                sim.judge_touched("runner", &name);
                return (Err(GitHubError::NotFound), 1);
            }
            if entry.job.is_some() {
                sim.counts.rare(Rare::BusyRunnerKept);
                return (Err(GitHubError::RunnerBusy), 1);
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
            (Ok(()), 1)
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
    fn renew(&mut self, now: i64) {
        if now >= self.reset_at {
            self.used = 0;
            self.reset_at = now + HOUR;
        }
    }
}

/// The installation that a delivery of this job names in place of the real one: an earlier one, or a later one that no App of
/// ours has (another App's, say).
pub fn wrong_installation(real: i64, job: i64) -> i64 {
    if job % 2 == 0 { real - 1 } else { real + 1_000_000 }
}
