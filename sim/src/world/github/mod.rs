//! GitHub: accounts, installations, workflow jobs, self-hosted runners, webhook deliveries.
//!
//! What it does and when is from GitHub's documentation of self-hosted runners, webhooks and REST limits. It sends what
//! happens as webhook deliveries; whether and when they arrive is the harness's business.

mod api;
pub(crate) mod payload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use engine::ids::{Span, Time};

pub use api::{ApiError, DEFAULT_GROUP, Quota};

/// A queued job that no runner takes fails after this.
const QUEUE_LIMIT: Span = Span::hours(24);
/// An unused runner entry is removed after this.
const UNUSED_LIMIT: Span = Span::hours(24);
/// A job whose runner went away fails after this.
const RUNNER_LOST: Span = Span::mins(1);
/// A job whose runner does not acknowledge goes back to the queue after this.
const ACKNOWLEDGE: Span = Span::mins(1);
/// By how much a stale listing lags.
pub(crate) const LAG: Span = Span::secs(5);
/// How long deliveries are kept.
const KEPT: Span = Span::hours(72);

/// What kind of account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountKind {
    /// An organisation.
    Organization,
    /// A personal account.
    User,
}

/// An account with its installation of the App for its kind.
#[derive(Debug, Clone)]
pub struct Account {
    /// GitHub's id.
    pub id: i64,
    /// Its login.
    pub login: String,
    /// What that was before.
    pub former_logins: Vec<String>,
    /// What kind.
    pub kind: AccountKind,
    /// The installation's id.
    pub installation: i64,
    /// The App is suspended there.
    pub suspended: bool,
    /// The App is not installed any more.
    pub removed: bool,
    /// Since when.
    pub removed_at: Time,
    /// Whether it may create runner groups: a paid plan.
    pub groups: bool,
    pub(crate) group: Option<i64>,
    /// The hourly limit.
    pub quota: Quota,
}

/// A repository.
#[derive(Debug, Clone)]
pub struct Repo {
    /// GitHub's id.
    pub id: i64,
    /// Its owner's id.
    pub account: i64,
    /// `owner/name`.
    pub full_name: String,
    /// What that was before.
    pub former_names: Vec<String>,
}

/// Where a runner is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// An organisation, by account id.
    Organization(i64),
    /// A repository, by id.
    Repository(i64),
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// Held by an environment rule.
    Waiting,
    /// In the queue.
    Queued,
    /// On a runner.
    InProgress,
    /// It has a conclusion.
    Completed(&'static str),
}

/// One workflow job.
#[derive(Debug, Clone)]
pub struct Job {
    /// GitHub's id.
    pub id: i64,
    /// Whose.
    pub repo: i64,
    /// What its runner must carry.
    pub labels: Vec<String>,
    /// How long it runs once it has a runner.
    pub duration: Span,
    /// Where it stands.
    pub state: JobState,
    pub(crate) created: Time,
    pub(crate) started: Option<Time>,
    pub(crate) ended: Option<Time>,
    /// Its runner: (id, name).
    pub runner: Option<(i64, String)>,
    pub(crate) due: Option<(Time, &'static str)>,
}

/// One runner entry.
#[derive(Debug, Clone)]
pub struct Runner {
    /// Its name.
    pub name: String,
    /// Where it is registered.
    pub scope: Scope,
    /// Its runner group there: 1 is the default one, and the only one of a repository.
    pub group: i64,
    /// What it carries, lower-case.
    pub labels: Vec<String>,
    pub(crate) jit: String,
    pub(crate) created: Time,
    /// Its process is connected.
    pub online: bool,
    /// The job it executes.
    pub job: Option<i64>,
    pub(crate) shows_busy: Time,
    pub(crate) deaf: Option<Time>,
    /// Its entry goes with its one job.
    pub(crate) ephemeral: bool,
}

/// A delivery to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The attempt's id in the log.
    pub id: i64,
    /// Its GUID.
    pub guid: String,
    /// `X-GitHub-Event`.
    pub event: &'static str,
    /// The body.
    pub body: String,
}

/// One line of the delivery log.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The attempt's id.
    pub id: i64,
    /// The same for every attempt.
    pub guid: String,
    /// Which App's log it is in.
    pub kind: AccountKind,
    /// When it was sent; once it is over, when that was.
    pub at: Time,
    /// Its event.
    pub event: &'static str,
    /// Its action.
    pub action: String,
    /// The answer's status; 0 when there was none.
    pub status: u16,
    /// The attempt is over; only then does the log show it.
    pub over: bool,
    /// Whether it repeats an earlier attempt.
    pub redelivery: bool,
    pub(crate) installation: i64,
    pub(crate) job: Option<i64>,
    pub(crate) body: String,
}

/// What GitHub does wrong.
#[derive(Debug, Clone, Default)]
pub struct Mischief {
    /// `busy` lags behind a job's start by this.
    pub busy_lag: Span,
    /// Deliveries with these (job id, action) are never sent, and GitHub does not know.
    pub lose: BTreeSet<(i64, String)>,
    /// Runners with these names never acknowledge the job they are given.
    pub deaf: BTreeSet<String>,
    /// Two idle runners: give the job to the one made last, not first.
    pub newest_first: bool,
    /// Listings lack the latest runners and still have those that went lately.
    pub stale: bool,
}

/// GitHub.
#[derive(Debug, Clone)]
pub struct GitHub {
    seed: u64,
    serial: i64,
    /// Accounts by id.
    pub accounts: BTreeMap<i64, Account>,
    /// Repositories by id.
    pub repos: BTreeMap<i64, Repo>,
    /// Jobs by id.
    pub jobs: BTreeMap<i64, Job>,
    /// Runner entries by id.
    pub runners: BTreeMap<i64, Runner>,
    by_jit: BTreeMap<String, i64>,
    queue: BTreeSet<(Time, i64)>,
    running: BTreeSet<i64>,
    finished: BTreeMap<i64, i32>,
    /// Entries that went lately, for listings that lag.
    pub(crate) gone: VecDeque<(Time, i64, Runner)>,
    /// When the model last moved.
    pub(crate) moved: Time,
    /// Jobs that went to a runner of another label set.
    pub stolen: u64,
    /// Jobs that went to a runner that is not ephemeral.
    pub taken: u64,
    /// Jobs that no runner took within a day.
    pub expired: u64,
    pub(crate) tokens: BTreeMap<String, (i64, Time)>,
    pub(crate) groups: BTreeMap<i64, (i64, String)>,
    outbox: VecDeque<Outgoing>,
    /// The delivery log, oldest first.
    pub log: Vec<Delivery>,
    /// Names of runners that have had their one job, whatever became of it.
    pub spent: BTreeSet<String>,
    /// What it does wrong.
    pub mischief: Mischief,
    /// Requests are counted against hourly limits and refused beyond them.
    pub limits: bool,
}

impl GitHub {
    /// An empty GitHub. `seed` varies ids and secrets.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            serial: 1000,
            accounts: BTreeMap::new(),
            repos: BTreeMap::new(),
            jobs: BTreeMap::new(),
            runners: BTreeMap::new(),
            by_jit: BTreeMap::new(),
            queue: BTreeSet::new(),
            running: BTreeSet::new(),
            finished: BTreeMap::new(),
            gone: VecDeque::new(),
            moved: Time::ZERO,
            stolen: 0,
            taken: 0,
            expired: 0,
            tokens: BTreeMap::new(),
            groups: BTreeMap::new(),
            outbox: VecDeque::new(),
            log: Vec::new(),
            spent: BTreeSet::new(),
            mischief: Mischief::default(),
            limits: true,
        }
    }

    pub(crate) fn next_id(&mut self) -> i64 {
        self.serial += 1;
        self.serial
    }

    /// An unguessable-looking text that differs for every call.
    pub(crate) fn secret(&mut self, prefix: &str) -> String {
        let id = self.next_id().unsigned_abs();
        let mut z = self.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z ^= z >> 27;
        format!("{prefix}{z:016x}{id:08x}")
    }

    /// An account that has installed the App for its kind.
    pub fn add_account(&mut self, kind: AccountKind, id: i64, login: &str, installation: i64) {
        let account = Account {
            id,
            login: login.to_owned(),
            former_logins: Vec::new(),
            kind,
            installation,
            suspended: false,
            removed: false,
            removed_at: Time::ZERO,
            groups: true,
            group: None,
            quota: Quota::default(),
        };
        self.accounts.insert(id, account);
    }

    /// A repository of a known account.
    pub fn add_repo(&mut self, id: i64, account: i64, full_name: &str) {
        self.repos.insert(id, Repo { id, account, full_name: full_name.to_owned(), former_names: Vec::new() });
    }

    pub(crate) fn account_of_repo(&self, repo: i64) -> Option<&Account> {
        self.accounts.get(&self.repos.get(&repo)?.account)
    }

    /// Queues a job; it runs for `duration` once a runner takes it.
    pub fn queue_job(&mut self, id: i64, repo: i64, labels: &[&str], duration: Span, now: Time) {
        let labels = labels.iter().map(|label| label.to_lowercase()).collect();
        let job = Job {
            id,
            repo,
            labels,
            duration,
            state: JobState::Queued,
            created: now,
            started: None,
            ended: None,
            runner: None,
            due: None,
        };
        self.jobs.insert(id, job);
        self.queue.insert((now, id));
        self.send_job(id, "queued", now);
    }

    /// Holds a queued job back by an environment rule; [`Self::release_job`] queues it once more.
    pub fn hold_job(&mut self, id: i64) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.state == JobState::Queued) else { return };
        job.state = JobState::Waiting;
        let key = (job.created, id);
        self.queue.remove(&key);
    }

    /// Queues a held job.
    pub fn release_job(&mut self, id: i64, now: Time) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.state == JobState::Waiting) else { return };
        job.state = JobState::Queued;
        let key = (job.created, id);
        self.queue.insert(key);
        self.send_job(id, "queued", now);
    }

    /// Somebody cancels a job.
    pub fn cancel_job(&mut self, id: i64, now: Time) {
        self.end_job(id, "cancelled", now);
    }

    /// A job that waits is deleted with its repository: nobody is told. Whether there was such a job.
    pub fn forget_job(&mut self, id: i64) -> bool {
        let waits = |job: &&Job| matches!(job.state, JobState::Queued | JobState::Waiting);
        let Some(created) = self.jobs.get(&id).filter(waits).map(|job| job.created) else { return false };
        self.queue.remove(&(created, id));
        self.jobs.remove(&id);
        true
    }

    /// A job runs on some hosted runner from `at` on, to its end: for making captures.
    pub fn run_to_end(&mut self, id: i64, at: Time) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.state = JobState::InProgress;
        job.started = Some(at);
        job.runner = Some((id, format!("hosted-{id}")));
        let (created, end) = (job.created, at + job.duration);
        self.queue.remove(&(created, id));
        self.send_job(id, "in_progress", at);
        self.end_job(id, "success", end);
    }

    /// Renames an organisation, and so its repositories, which answer under their old names, too.
    pub fn rename(&mut self, account: i64, login: &str) {
        let Some(known) = self.accounts.get_mut(&account) else { return };
        known.former_logins.push(std::mem::replace(&mut known.login, login.to_owned()));
        for repo in self.repos.values_mut().filter(|repo| repo.account == account) {
            let name = repo.full_name.rsplit('/').next().unwrap_or_default();
            let new = format!("{login}/{name}");
            repo.former_names.push(std::mem::replace(&mut repo.full_name, new));
        }
    }

    /// Uninstalls the App.
    pub fn remove_installation(&mut self, account: i64, now: Time) {
        if let Some(account) = self.accounts.get_mut(&account) {
            account.removed = true;
            account.removed_at = now;
        }
        // Its tokens end with it.
        self.tokens.retain(|_, (owner, _)| *owner != account);
        self.send_installation(account, "deleted", now);
    }

    /// Installs the App again, under a new id.
    pub fn reinstall(&mut self, account: i64, installation: i64) {
        let Some(account) = self.accounts.get_mut(&account) else { return };
        account.removed = false;
        account.suspended = false;
        account.installation = installation;
    }

    /// Suspends the App, or ends that.
    pub fn suspend(&mut self, account: i64, on: bool, now: Time) {
        if on {
            self.send_installation(account, "suspend", now);
        }
        if let Some(account) = self.accounts.get_mut(&account) {
            account.suspended = on;
        }
    }

    /// Others use up an account's calls of this hour.
    pub fn use_up(&mut self, account: i64, now: Time) {
        let Some(account) = self.accounts.get_mut(&account) else { return };
        let quota = &mut account.quota;
        if now >= quota.reset_at {
            quota.reset_at = now + Span::hours(1);
        }
        quota.used = quota.limit;
    }

    /// A runner's process connects with its JIT configuration.
    pub fn connect(&mut self, jit: &str) -> Option<i64> {
        let id = *self.by_jit.get(jit)?;
        let runner = self.runners.get_mut(&id)?;
        runner.online = true;
        Some(id)
    }

    /// A runner's process is gone before its job ended.
    pub fn disconnect(&mut self, id: i64, now: Time) {
        let Some(runner) = self.runners.get_mut(&id) else { return };
        runner.online = false;
        if let Some(job) = runner.job.and_then(|job| self.jobs.get_mut(&job)) {
            job.due = Some((now + RUNNER_LOST, "failure"));
        }
    }

    /// The exit code of a connected runner whose job has ended, or whose entry was deleted; once.
    pub fn take_finished(&mut self, id: i64) -> Option<i32> {
        self.finished.remove(&id).or_else(|| (!self.runners.contains_key(&id)).then_some(1))
    }

    /// Lets everything happen that is due.
    pub fn tick(&mut self, now: Time) {
        self.moved = now;
        while self.gone.front().is_some_and(|(at, ..)| now.since(*at) > LAG) {
            self.gone.pop_front();
        }
        self.end_due_jobs(now);
        self.expire(now);
        self.assign(now);
        if let Some(oldest) = self.log.first()
            && now.since(oldest.at) > KEPT
        {
            self.log.retain(|delivery| now.since(delivery.at) <= KEPT);
        }
    }

    fn end_due_jobs(&mut self, now: Time) {
        let due: Vec<(i64, &'static str)> = self
            .running
            .iter()
            .filter_map(|id| {
                self.jobs.get(id)?.due.filter(|(at, _)| *at <= now).map(|(_, conclusion)| (*id, conclusion))
            })
            .collect();
        for (id, conclusion) in due {
            self.end_job(id, conclusion, now);
        }
        let unheard: Vec<i64> = self
            .runners
            .iter()
            .filter(|(_, runner)| runner.deaf.is_some_and(|since| now.since(since) >= ACKNOWLEDGE))
            .map(|(id, _)| *id)
            .collect();
        for id in unheard {
            self.requeue(id);
        }
    }

    fn requeue(&mut self, runner: i64) {
        let Some(entry) = self.runners.get_mut(&runner) else { return };
        entry.deaf = None;
        entry.online = false;
        let Some(id) = entry.job.take() else { return };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.state = JobState::Queued;
        job.started = None;
        job.runner = None;
        job.due = None;
        self.running.remove(&id);
        self.queue.insert((job.created, id));
    }

    fn expire(&mut self, now: Time) {
        let old: Vec<i64> =
            self.queue.iter().take_while(|(at, _)| now.since(*at) >= QUEUE_LIMIT).map(|(_, id)| *id).collect();
        for id in old {
            self.expired += 1;
            self.end_job(id, "failure", now);
        }
        let unused =
            |runner: &Runner| !runner.online && runner.job.is_none() && now.since(runner.created) >= UNUSED_LIMIT;
        let unused: Vec<i64> = self.runners.iter().filter(|(_, runner)| unused(runner)).map(|(id, _)| *id).collect();
        for id in unused {
            self.forget_runner(id);
        }
    }

    pub(crate) fn forget_runner(&mut self, id: i64) {
        if let Some(runner) = self.runners.remove(&id) {
            self.by_jit.remove(&runner.jit);
            self.gone.push_back((self.moved, id, runner));
        }
    }

    /// A runner that nobody made a JIT configuration for: it stays, and takes one job after the other while it is online.
    pub fn add_lasting_runner(&mut self, scope: Scope, group: i64, name: &str, labels: &[String], online: bool) {
        let id = self.next_id();
        let runner = Runner {
            name: name.to_owned(),
            scope,
            group,
            labels: labels.iter().map(|label| label.to_lowercase()).collect(),
            jit: format!("none, {id}"),
            created: self.moved,
            online,
            job: None,
            shows_busy: Time::ZERO,
            deaf: None,
            ephemeral: false,
        };
        self.add_runner(id, runner);
    }

    /// Whoever sends deliveries died: what was on its way is over, without an answer.
    pub fn give_up_deliveries(&mut self, now: Time) {
        let waiting: BTreeSet<i64> = self.outbox.iter().map(|it| it.id).collect();
        for delivery in self.log.iter_mut().filter(|it| !it.over && !waiting.contains(&it.id)) {
            delivery.over = true;
            delivery.at = now;
        }
    }

    pub(crate) fn add_runner(&mut self, id: i64, runner: Runner) {
        self.by_jit.insert(runner.jit.clone(), id);
        self.runners.insert(id, runner);
    }

    /// Gives queued jobs, oldest first, to idle online runners that carry all their labels.
    fn assign(&mut self, now: Time) {
        let idle = |(_, runner): &(&i64, &Runner)| runner.online && runner.job.is_none();
        let mut idle: BTreeMap<i64, &Runner> = self.runners.iter().filter(idle).map(|(id, it)| (*id, it)).collect();
        let mut chosen = Vec::new();
        for &(at, id) in &self.queue {
            if idle.is_empty() {
                break;
            }
            let Some(job) = self.jobs.get(&id) else { continue };
            let Some(account) = self.account_of_repo(job.repo) else { continue };
            let scope = match account.kind {
                AccountKind::Organization => Scope::Organization(account.id),
                AccountKind::User => Scope::Repository(job.repo),
            };
            let fits = |(_, runner): &(&i64, &&Runner)| {
                runner.scope == scope && job.labels.iter().all(|label| runner.labels.contains(label))
            };
            let mut able = idle.iter().filter(fits).map(|(id, _)| *id);
            let taken = if self.mischief.newest_first { able.next_back() } else { able.next() };
            if let Some(runner) = taken {
                idle.remove(&runner);
                chosen.push((at, id, runner));
            }
        }
        for (at, id, runner) in chosen {
            self.queue.remove(&(at, id));
            self.start(id, runner, now);
        }
    }

    fn start(&mut self, id: i64, runner_id: i64, now: Time) {
        let Some(runner) = self.runners.get_mut(&runner_id) else { return };
        runner.job = Some(id);
        runner.shows_busy = now + self.mischief.busy_lag;
        let deaf = self.mischief.deaf.contains(&runner.name);
        runner.deaf = deaf.then_some(now);
        let (name, carries, ephemeral) = (runner.name.clone(), runner.labels.len(), runner.ephemeral);
        self.spent.insert(name.clone());
        let Some(job) = self.jobs.get_mut(&id) else { return };
        self.taken += u64::from(!ephemeral);
        self.stolen += u64::from(ephemeral && job.labels.len() != carries);
        job.state = JobState::InProgress;
        job.started = Some(now);
        job.runner = Some((runner_id, name));
        job.due = (!deaf).then_some((now + job.duration, "success"));
        self.running.insert(id);
        self.send_job(id, "in_progress", now);
    }

    fn end_job(&mut self, id: i64, conclusion: &'static str, now: Time) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if matches!(job.state, JobState::Completed(_)) {
            return;
        }
        job.state = JobState::Completed(conclusion);
        job.ended = Some(now);
        job.due = None;
        let (created, runner) = (job.created, job.runner.clone());
        self.queue.remove(&(created, id));
        self.running.remove(&id);
        if let Some((runner, _)) = runner {
            match self.runners.get_mut(&runner).filter(|it| !it.ephemeral) {
                Some(stays) => stays.job = None,
                None => {
                    self.forget_runner(runner);
                    self.finished.insert(runner, 0);
                }
            }
        }
        self.send_job(id, "completed", now);
    }

    /// Deliveries that were made since the last call.
    pub fn take_outbox(&mut self) -> Vec<Outgoing> {
        self.outbox.drain(..).collect()
    }

    /// How a delivery was answered; `None` when it was not. From now on the log shows it, with this time.
    pub fn delivered(&mut self, id: i64, status: Option<u16>, now: Time) {
        if let Some(delivery) = self.log.iter_mut().rev().find(|delivery| delivery.id == id) {
            delivery.status = status.unwrap_or(0);
            delivery.over = true;
            delivery.at = now;
        }
    }

    /// A delivery says something else than it should, whenever it is sent. `names`: it still names its installation.
    pub fn garble(&mut self, id: i64, body: String, names: bool) {
        if let Some(delivery) = self.log.iter_mut().rev().find(|delivery| delivery.id == id) {
            delivery.body = body;
            delivery.job = delivery.job.filter(|_| names);
        }
    }

    /// Sends a delivery once more, with the same GUID; `false` when it is not known.
    pub fn redeliver(&mut self, id: i64, now: Time) -> bool {
        let Some(known) = self.log.iter().find(|delivery| delivery.id == id).cloned() else { return false };
        let new = self.next_id();
        let again = Delivery { id: new, at: now, status: 0, over: false, redelivery: true, ..known };
        self.outbox.push_back(Outgoing {
            id: new,
            guid: again.guid.clone(),
            event: again.event,
            body: again.body.clone(),
        });
        self.log.push(again);
        true
    }

    fn send_job(&mut self, id: i64, action: &str, now: Time) {
        if self.mischief.lose.remove(&(id, action.to_owned())) {
            return;
        }
        let Some(job) = self.jobs.get(&id) else { return };
        let Some(repo) = self.repos.get(&job.repo) else { return };
        let Some(account) = self.accounts.get(&repo.account) else { return };
        if account.removed || account.suspended {
            return;
        }
        let body = payload::workflow_job(job, repo, account, action);
        let (kind, installation) = (account.kind, account.installation);
        self.send((kind, installation), "workflow_job", action, body, Some(id), now);
    }

    fn send_installation(&mut self, account: i64, action: &str, now: Time) {
        let Some(account) = self.accounts.get(&account) else { return };
        let body = payload::installation(account, action);
        let (kind, installation) = (account.kind, account.installation);
        self.send((kind, installation), "installation", action, body, None, now);
    }

    fn send(
        &mut self,
        (kind, installation): (AccountKind, i64),
        event: &'static str,
        action: &str,
        body: String,
        job: Option<i64>,
        now: Time,
    ) {
        let id = self.next_id();
        let guid = format!("{:08x}-0000-4000-8000-{id:012x}", self.seed as u32);
        self.outbox.push_back(Outgoing { id, guid: guid.clone(), event, body: body.clone() });
        let action = action.to_owned();
        self.log.push(Delivery {
            id,
            guid,
            kind,
            at: now,
            event,
            action,
            status: 0,
            over: false,
            redelivery: false,
            installation,
            job,
            body,
        });
    }
}

impl Delivery {
    /// The job it is about, if it can be understood.
    pub fn job(&self) -> Option<i64> {
        self.job
    }

    /// What was sent.
    pub fn body(&self) -> &str {
        &self.body
    }
}
