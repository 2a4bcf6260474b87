//! GitHub, as lean as a fast simulation needs it: jobs, runners, deliveries, limits.
//!
//! What it does and when is from GitHub's documentation: jobs go to any idle online runner that carries all their labels;
//! a runner takes one job and is gone; `busy` lags; a delivery is sent once, and its log tells how it fared.

mod calls;
mod deliveries;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use engine::{
    facts::{App, Status},
    ids::{JobId, WorkerName},
    labels::LabelSet,
};

use crate::{
    register::{Fault, Rare},
    run::{Event, HOUR, MINUTE, SECOND, Sim},
};

pub(crate) use calls::STALL_ENDS;
pub use deliveries::wrong_installation;

/// A queued job that no runner takes fails after this.
const QUEUE_LIMIT: i64 = 24 * HOUR;
/// A job whose runner does not acknowledge it is queued again after this.
const ACKNOWLEDGE: i64 = MINUTE;
/// A job whose runner is gone fails after this.
const RUNNER_LOST: i64 = 10 * MINUTE;

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
        /// What its owner was called when it was sent.
        login: Arc<str>,
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
    /// What it is called now.
    login: Arc<str>,
    /// What the client has found out that it is called.
    found_as: Arc<str>,
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
    points: VecDeque<Spent>,
    points_sum: u32,
    /// Calls over the whole run.
    pub calls: u64,
}

/// What a call weighed.
#[derive(Clone, Copy, Debug)]
struct Spent {
    at: i64,
    points: u32,
    /// Until when a row tells a new leader of it.
    told_until: i64,
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
            login: Arc::from(format!("owner-{}", account.id)),
            found_as: Arc::from(""),
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
        let (worker, name) = (entry.name.clone(), entry.name.text().clone());
        let labels = entry.labels.clone();
        let strange = entry.strange;
        self.judge_started(&worker);
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

    pub(crate) fn rename(&mut self, account: usize) {
        self.counts.fault(Fault::Renamed);
        let id = self.plan.world.account[account].id;
        let entry = &mut self.github.accounts[account];
        entry.login = Arc::from(format!("owner-{id}-since-{}", self.now));
        self.note("renamed", id, self.now, || format!("account {id}"));
    }

    /// Calls that it takes to learn what an organisation is called now, when it is asked for by this name: GitHub does not
    /// find it by an old one, and its installation tells the new one. A personal account's calls name a repository, and are
    /// sent on to where that has moved.
    pub(super) fn find_by_name(&mut self, account: usize, name: &str) -> u32 {
        let user = self.is_user(account);
        let known = &mut self.github.accounts[account];
        let asked = if known.found_as.is_empty() { name } else { &known.found_as };
        if user || *known.login == *asked {
            return 0;
        }
        known.found_as = known.login.clone();
        self.rare(Rare::NameLookedUp);
        1
    }

    pub(crate) fn reinstall(&mut self, account: usize, installation: i64) {
        self.judge.note_back(account);
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
            self.judge.note_back(account);
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
        // All, or all but some that are kept for provisioning (S14).
        let some = self.rng.chance(50);
        let entry = &mut self.github.accounts[account];
        entry.renew(now);
        let left = if some { entry.limit / 10 } else { 0 };
        entry.used = entry.used.max(entry.limit - left);
        self.judge.note_used_up(account, now);
    }
}
