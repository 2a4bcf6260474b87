//! What must always hold, each invariant by its name, written against the models' truth and the committed rows.
//!
//! Nothing here asks the engine. Safety is judged at every commit and at every call's effect; liveness every few seconds
//! from when the plan's faults have stopped, with an eye for when waiting is legitimate.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use engine::{
    decision::{JobFailure, WorkerFailure, Write},
    facts::{Job, Status, Worker, Written},
    ids::{Epoch, JobId, OwnerId, Time, WorkerName},
};
use serde_json::Value;
use simulation::{
    register::{Fault, Rare},
    run::{HOUR, MINUTE, SECOND},
    trace::number,
};

use super::{
    faces::Call,
    logs,
    postgres::{Database, is_waiting},
    world::{Node, World, lock},
};
use crate::world::{
    github::{GitHub, JobState, Scope},
    kubernetes::{Cluster, Key, Phase},
};

/// After the faults have stopped, this long is allowed before service is back to normal (L7).
const RECOVERY: i64 = 2 * MINUTE;
/// How long all calls of one request may take, at most.
const REQUEST: i64 = MINUTE;
/// A worker for every job that has room (L1): 30 s, and the longest pause after a failed call.
const SERVED: i64 = 30 * SECOND + MINUTE;
/// A lost delivery is made up for (L2), and its repetition takes its way.
const MADE_UP: i64 = 5 * MINUTE + 2 * MINUTE;
/// From so many refusals on a delivery may wait up to an hour for its next repetition.
const OFTEN: u32 = 5;
/// Of an hour's calls, so many percent are kept for provisioning.
const RESERVED: i64 = 30;
/// Deliveries that an App can have repeated in a minute: 900 points at 5 points each, and some are needed twice.
const REPEATED: i64 = 150;
/// A lost `completed` of a job on one of our runners (L2).
const ENDED: i64 = 60 * SECOND + 15 * SECOND;
/// A change that only the sweep over all jobs finds: its period, and a little.
const SWEPT: i64 = 3 * MINUTE + 30 * SECOND;
/// An App's end is proven by calls over 15 s, and all its jobs are failed (L2).
const GONE: i64 = SWEPT;
/// Runners are listed where it matters.
const LISTED: i64 = 2 * MINUTE + 15 * SECOND;
/// Orphans are gone (L4), surplus is retired (L5).
const CLEAN: i64 = 10 * MINUTE;
/// A new leader acts (L8).
const LED: i64 = 15 * SECOND + 15 * SECOND;
/// How long nothing may happen for the world to count as quiet (L6).
const QUIET: i64 = 6 * MINUTE;
/// The grace period (S12).
const GRACE: i64 = 6 * HOUR;
/// Views may lag this much behind nodes that come and go (S6).
const VIEW_LAG: i64 = 4 * MINUTE;
/// A call on its way when an answer named a time is no call after it (S14).
const ON_ITS_WAY: i64 = 2 * SECOND;
/// Points an installation may spend a minute (S14): a read costs 1, a write 5.
const POINTS: i64 = 900;
/// A process exits this soon after it is told to stop (L9).
const EXIT: i64 = 30 * SECOND;

/// What a write found before it was made.
#[derive(Debug, Default)]
pub struct Before {
    /// Jobs of the reservation's group that wait, and free workers that could serve them.
    demand: Option<(i64, i64)>,
    /// Workers that the reservation counted as taken by nobody knew what; they may have been named since.
    unnamed: i64,
    /// The row was there already.
    repeated: bool,
}

/// Memory of what was, to hold what is against.
#[derive(Debug, Default)]
pub struct Judge {
    jobs: BTreeMap<JobId, Status>,
    workers: BTreeMap<WorkerName, Status>,
    accepted: BTreeSet<i64>,
    /// When each installation may be called again, as it told all and as it told each caller in its life.
    blocked: BTreeMap<i64, i64>,
    told: BTreeMap<(Node, u64, i64), (i64, i64)>,
    /// Until when an account is in trouble that is not the service's.
    trouble: BTreeMap<i64, i64>,
    untold: BTreeMap<i64, Untold>,
    points: BTreeMap<i64, VecDeque<(i64, i64)>>,
    /// What pools offered at each change, latest last.
    offered: VecDeque<(i64, BTreeMap<String, i64>)>,
    /// Watches are refused until then.
    watches: i64,
    requeued: BTreeSet<JobId>,
    held: BTreeMap<(&'static str, i64), i64>,
    last_change: i64,
    /// Pods that calls made whose callers had given them up, and when.
    late_pods: BTreeMap<String, i64>,
    /// Since when all is done, and whether that is so of accounts in trouble as well.
    done_at: Option<(i64, bool)>,
}

/// An account that was refused without being told until when.
#[derive(Debug, Default)]
struct Untold {
    /// How often in a row.
    times: u32,
    /// When it last was, not counting those of the same minute.
    last: Option<i64>,
    /// Until when it is advised to wait.
    until: i64,
    /// When a call was answered since.
    answered: Option<i64>,
}

// ---- the store's rows

/// A delivery's row is about to be recorded.
pub fn recording(world: &World, database: &Database, event: &Job) {
    if database.rows.job(event.id).is_some() {
        return;
    }
    match event.status {
        Status::Completed | Status::Failed => world.rare(Rare::CompletedFirst),
        Status::Running => world.rare(Rare::RunningFirst),
        Status::Pending => {}
    }
}

/// S2 for jobs.
pub fn jobs_written(world: &World, database: &Database, ids: &[JobId]) {
    for &id in ids {
        let Some(row) = database.rows.job(id) else { continue };
        let mut judge = lock(&world.judge);
        let old = judge.jobs.insert(id, row.status);
        if old != Some(row.status) {
            judge.last_change = world.now();
        }
        drop(judge);
        if let Some(old) = old {
            let back = row.status < old && !(row.status == Status::Completed && old == Status::Failed);
            if back || (old.is_ended() && row.status != old) {
                world.breaks("S2 forward-only", format!("job {id} went from {old:?} to {:?}", row.status));
            }
        }
    }
}

/// S1: a delivery was answered 2xx.
pub fn accepted(world: &World, id: i64) {
    lock(&world.judge).accepted.insert(id);
    if lock(&world.database).rows.job(JobId(id)).is_none() {
        world.breaks("S1 no-lost-job", format!("job {id} was accepted and is not in the store"));
    }
}

/// S13: leadership is granted to one after the other.
pub fn granted(world: &World, database: &mut Database, epoch: Epoch) {
    if epoch.0 <= database.granted {
        world.breaks("S13 fenced", format!("epoch {epoch} is granted twice"));
    }
    database.granted = epoch.0;
}

/// S13: a write is made under this epoch.
pub fn writing(world: &World, database: &Database, epoch: Epoch) {
    if epoch.0 != database.granted {
        let what = format!("a write under epoch {epoch} is made while {} leads", database.granted);
        world.breaks("S13 fenced", what);
    }
}

/// A leader whose time is over was refused.
pub fn fenced(world: &World) {
    world.rare(Rare::FencedWrite);
}

/// What there is before a write.
pub fn before_write(world: &World, database: &Database, write: &Write) -> Before {
    match write {
        Write::Reserve { worker, phantom, .. } => Before {
            demand: Some(demand(world, database, worker)),
            unnamed: i64::from(*phantom),
            repeated: database.rows.worker(&worker.name).is_some(),
        },
        _ => Before::default(),
    }
}

/// Waiting jobs of a worker's group, and workers that serve or will serve them: active, named by no running job, and not
/// executing one either, as far as could be known.
fn demand(world: &World, database: &Database, like: &Worker) -> (i64, i64) {
    let group = |job: &&Job| job.entity == like.entity && job.labels == like.labels;
    let waiting = database.rows.jobs().filter(group).filter(|job| is_waiting(job)).count() as i64;
    let running = |job: &&Job| job.status == Status::Running && !job.is_requeued();
    let named: BTreeSet<&str> = database
        .rows
        .jobs()
        .filter(running)
        .filter_map(|job| job.assignment.as_ref().map(|assignment| &*assignment.runner))
        .collect();
    let candidates: Vec<&Worker> = database
        .rows
        .workers()
        .filter(|it| it.entity == like.entity && it.labels == like.labels && !it.status.is_ended())
        .filter(|it| !named.contains(it.name.as_str()))
        .collect();
    let free = candidates.into_iter().filter(|it| !was_busy_lately(world, it.name.as_str())).count() as i64;
    (waiting, free)
}

fn was_busy_lately(world: &World, name: &str) -> bool {
    match world.github.peek(|github| github.runners.values().find(|it| it.name == name).map(|it| it.job.is_some())) {
        Some(busy) => busy,
        // Its one job may be over, and its end not known yet.
        None => world.cluster.peek(|cluster| pod(cluster, name).is_some_and(|pod| pod.started.is_some())),
    }
}

fn pod<'a>(cluster: &'a Cluster, name: &str) -> Option<&'a crate::world::kubernetes::Pod> {
    cluster.pods.get(&Key::new("default", name))
}

/// Judges a write that was made.
pub fn after_write(world: &World, database: &Database, write: &Write, written: Written, before: Before) {
    match (write, written) {
        (Write::Reserve { .. }, Written::RefusedCap) => world.rare(Rare::RefusedCap),
        (Write::Reserve { .. }, Written::RefusedDemand) => world.rare(Rare::RefusedDemand),
        _ => {}
    }
    if written != Written::Done {
        return;
    }
    match write {
        Write::Reserve { worker, .. } => reserved(world, database, worker, &before),
        Write::WorkerRunning { name, .. } | Write::WorkerCompleted { name, .. } => worker_row(world, database, name),
        Write::WorkerFailed { name, failure, .. } => {
            worker_failed(world, database, name, *failure);
            worker_row(world, database, name);
        }
        Write::JobRunning { id, .. } | Write::JobCompleted { id, .. } => jobs_written(world, database, &[*id]),
        Write::JobRequeued { id, at } => {
            lock(&world.judge).requeued.insert(*id);
            // S16: it has left what it started on before then.
            let started = world.github.peek(|github| github.jobs.get(&id.0).and_then(|job| job.started));
            if started.is_some_and(|started| started < *at) {
                world.breaks("S16 silence", format!("job {id} is taken for queued again, which is not so"));
            }
            jobs_written(world, database, &[*id]);
        }
        Write::JobFailed { id, failure, .. } => {
            match failure {
                JobFailure::JobNotFound => world.rare(Rare::UnknownJobFailed),
                JobFailure::InstallationGone | JobFailure::InstallationSuspended => {
                    world.rare(Rare::InstallationJobFailed);
                }
            }
            job_failed(world, database, *id, *failure);
            jobs_written(world, database, &[*id]);
        }
    }
}

/// S1: a job is failed only for a reason that is true.
fn job_failed(world: &World, database: &Database, id: JobId, failure: JobFailure) {
    let known = world.github.peek(|github| {
        let job = github.jobs.get(&id.0)?;
        let account = github.account_of_repo(job.repo)?;
        Some((account.removed, account.installation))
    });
    let Some((removed, installation)) = known else { return };
    let row = database.rows.job(id).map(|row| row.installation.0);
    let untrue = match failure {
        JobFailure::JobNotFound => true,
        JobFailure::InstallationGone => !removed && row == Some(installation),
        // It may have ended while the proof was on its way.
        JobFailure::InstallationSuspended => false,
    };
    if untrue {
        world.breaks("S1 no-lost-job", format!("job {id} is failed as {failure}, which is not so"));
    }
}

/// S2 for one worker.
fn worker_row(world: &World, database: &Database, name: &WorkerName) {
    let Some(status) = database.rows.worker(name).map(|row| row.status) else { return };
    let old = {
        let mut judge = lock(&world.judge);
        let old = judge.workers.insert(name.clone(), status);
        if old != Some(status) {
            judge.last_change = world.now();
        }
        old
    };
    if let Some(old) = old
        && (status < old || (old.is_ended() && status != old))
    {
        world.breaks("S2 forward-only", format!("worker {name} went from {old:?} to {status:?}"));
    }
}

fn reserved(world: &World, database: &Database, worker: &Worker, before: &Before) {
    if before.repeated {
        return world.rare(Rare::ReservedTwice);
    }
    worker_row(world, database, &worker.name);
    if let Some((waiting, free)) = before.demand
        && waiting + before.unnamed <= free
    {
        let what = format!("{} is reserved for {waiting} waiting jobs and {free} free workers", worker.name);
        world.breaks("S5 no-over-provision", what);
    }
    let cap = cap(world, worker.owner);
    let owned = database.rows.workers().filter(|it| it.owner == worker.owner && !it.status.is_ended()).count();
    if cap.is_some_and(|cap| owned > cap as usize) {
        world.breaks("S4 cap", format!("owner {} has {owned} workers, its cap is {cap:?}", worker.owner));
    }
    let fits = |job: &&Job| job.entity == worker.entity && job.labels == worker.labels && job.pool == worker.pool;
    if !database.rows.jobs().any(|job| fits(&job) && !job.status.is_ended()) {
        let what = format!("{} [{}] on {} is like no job", worker.name, worker.labels, worker.pool);
        world.breaks("S9 exact-labels", what);
    }
}

fn cap(world: &World, owner: OwnerId) -> Option<u32> {
    let plan = &world.plan.plan.world;
    let account = plan.account.iter().find(|account| account.id == owner.0);
    account.and_then(|account| account.cap).or(plan.default_cap)
}

/// S16 and S8 for a worker that is failed: is what was concluded true? S10 and S12 for its diagnostics.
fn worker_failed(world: &World, database: &Database, name: &WorkerName, failure: WorkerFailure) {
    let busy =
        world.github.peek(|github| github.runners.values().any(|it| it.name == name.as_str() && it.job.is_some()));
    let (alive, existed) = world.cluster.peek(|cluster| match pod(cluster, name.as_str()) {
        Some(pod) => (!is_ended(pod.phase) && pod.deleting.is_none(), true),
        None => (false, false),
    });
    let (rare, untrue) = match failure {
        WorkerFailure::PodVanished => (Some(Rare::PodVanished), alive),
        WorkerFailure::RunnerNeverRegistered => (Some(Rare::NeverRegistered), busy),
        WorkerFailure::RunnerLost => (Some(Rare::RunnerLost), busy),
        WorkerFailure::PodStuckPending => (Some(Rare::StuckPending), busy),
        // GitHub shows the runner of a pod that vanished as busy for a while.
        WorkerFailure::ProvisioningInterrupted => (Some(Rare::InterruptedWorkerFailed), busy && alive),
        WorkerFailure::Surplus => (Some(if existed { Rare::SurplusRetired } else { Rare::SurplusBeforeStart }), busy),
        WorkerFailure::JitRefused => (Some(Rare::JitGivenUp), false),
        WorkerFailure::PodRefused => (Some(Rare::PodGivenUp), false),
        WorkerFailure::NameTaken | WorkerFailure::PodFailed | WorkerFailure::InstallationGone => (None, false),
    };
    if let Some(rare) = rare {
        world.rare(rare);
    }
    if untrue {
        world.breaks("S16 silence", format!("{name} is failed as {failure}, which is not so"));
    }
    let Some(info) = database.failure_info.get(name) else {
        return world.breaks("S12 grace", format!("{name} is failed without diagnostics"));
    };
    if logs::leaks(&info.to_string()) {
        world.breaks("S10 one-jit-one-pod", format!("the diagnostics of {name} show a secret"));
    }
}

fn is_ended(phase: Phase) -> bool {
    matches!(phase, Phase::Succeeded | Phase::Failed)
}

/// A write as a number and in words.
pub fn what(write: &Write) -> (i64, String) {
    match write {
        Write::Reserve { worker, .. } => {
            (number(worker.name.as_str()), format!("reserve {} [{}]", worker.name, worker.labels))
        }
        Write::WorkerRunning { name, .. } => (number(name.as_str()) ^ 1, format!("{name} running")),
        Write::WorkerCompleted { name, .. } => (number(name.as_str()) ^ 2, format!("{name} completed")),
        Write::WorkerFailed { name, failure, .. } => {
            (number(name.as_str()) ^ 3 ^ ((*failure as i64) << 8), format!("{name} failed: {failure}"))
        }
        Write::JobRunning { id, .. } => (id.0 ^ (1 << 40), format!("job {id} running")),
        Write::JobCompleted { id, .. } => (id.0 ^ (2 << 40), format!("job {id} completed")),
        Write::JobFailed { id, failure, .. } => (id.0 ^ (3 << 40), format!("job {id} failed: {failure}")),
        Write::JobRequeued { id, .. } => (id.0 ^ (4 << 40), format!("job {id} requeued")),
    }
}

// ---- GitHub

/// Which start of a caller this is: what it was told before the last one it has forgotten. A new term is no excuse.
fn life(world: &World, caller: Node) -> u64 {
    world.process(caller, |process| process.life).unwrap_or(0)
}

/// S14: an installation named a time, in seconds from now.
pub fn told_to_wait(world: &World, caller: Node, account: i64, seconds: i64) {
    let until = world.now() + seconds * SECOND;
    {
        let mut judge = lock(&world.judge);
        let known = judge.blocked.entry(account).or_insert(until);
        *known = (*known).max(until);
    }
    told_in(world, caller, account, seconds * SECOND);
}

/// S14: an installation named a time to a caller, by GitHub's clock in milliseconds since 1970.
pub fn told_until(world: &World, caller: Node, account: i64, until: i64) {
    told_in(world, caller, account, until - world.time().0);
}

fn told_in(world: &World, caller: Node, account: i64, wait: i64) {
    let life = life(world, caller);
    let now = world.now();
    // The caller counts from when it hears of it, by its own clock.
    let own = (world.clock(caller))().0 + wait;
    let mut judge = lock(&world.judge);
    judge.told.insert((caller, life, account), (now, own));
    // An hour that is used up; a bucket of another's clock may be a little later.
    let until = now + wait + RECOVERY;
    let trouble = judge.trouble.entry(account).or_insert(until);
    *trouble = (*trouble).max(until);
}

/// GitHub's advice for a refusal that names no time: a minute, and twice as long after each further one.
pub fn untold(world: &World, account: i64) {
    let now = world.now();
    let mut judge = lock(&world.judge);
    let untold = judge.untold.entry(account).or_default();
    // A request of several calls is one to the engine: it hears of its end, and not of what was answered before. Answers
    // of one moment come in any order; so what is refused a minute later is a further refusal, whatever pause was due.
    let over = untold.answered.take().is_some_and(|at| now - at > REQUEST);
    untold.times = if over { 0 } else { untold.times };
    if untold.last.is_none_or(|last| now - last >= MINUTE - SECOND) {
        untold.until = untold.until.max(now + (MINUTE << untold.times.min(5)));
        untold.times += 1;
        untold.last = Some(now);
    }
}

/// An installation answered.
pub fn answered(world: &World, account: i64) {
    let now = world.now();
    let mut judge = lock(&world.judge);
    if let Some(untold) = judge.untold.get_mut(&account).filter(|it| now >= it.until) {
        untold.answered = Some(now);
    }
}

/// ghfe accepted a delivery: what it tells changes rows by right, so that quiet is looked for anew.
pub fn delivered(world: &World) {
    lock(&world.judge).done_at = None;
}

/// An account has a new installation, which has told nobody to wait.
pub fn reinstalled(world: &World, account: i64) {
    let mut judge = lock(&world.judge);
    judge.blocked.remove(&account);
    judge.told.retain(|(_, _, told), _| *told != account);
}

/// How many seconds an account still refuses calls, if it does.
pub fn blocked(world: &World, account: i64) -> Option<i64> {
    let left = lock(&world.judge).blocked.get(&account)? - world.now();
    (left > 0).then_some((left + SECOND - 1) / SECOND)
}

/// A process's clock is about to jump: what is over by it is over, however late it is by the new one.
pub fn clock_jumps(world: &World, node: Node) {
    let own = (world.clock(node))().0;
    lock(&world.judge).told.retain(|(caller, ..), (_, until)| *caller != node || own < *until);
}

/// S14 for a call that arrives.
pub fn github_called(world: &World, call: &Call) {
    let Some(account) = call.account else { return };
    let life = life(world, call.caller);
    let now = world.now();
    let own = (world.clock(call.caller))().0;
    let mut judge = lock(&world.judge);
    let told = judge.told.get(&(call.caller, life, account)).copied();
    let points = judge.points.entry(account).or_default();
    let cost = if call.method == http::Method::GET { 1 } else { 5 };
    points.push_back((now, cost));
    while points.front().is_some_and(|(at, _)| now - at >= MINUTE) {
        points.pop_front();
    }
    let sum: i64 = points.iter().map(|(_, points)| points).sum();
    drop(judge);
    if let Some((at, until)) = told
        && now - at > ON_ITS_WAY
        && own + SECOND < until
    {
        let what = format!(
            "{} calls account {account} {} s before the time it was told: {} {}",
            call.caller,
            (until - own) / SECOND,
            call.method,
            call.path
        );
        world.breaks("S14 budget", what);
    }
    if sum > POINTS {
        world.breaks("S14 budget", format!("account {account} is asked for {sum} points within a minute"));
    }
}

fn parts(path: &str) -> Vec<&str> {
    path.split('?').next().unwrap_or_default().trim_matches('/').split('/').collect()
}

/// Where runners of this path are registered.
fn scope(github: &GitHub, parts: &[&str]) -> Option<Scope> {
    match parts {
        ["orgs", login, ..] => {
            let account = github.accounts.values().find(|it| it.login.eq_ignore_ascii_case(login))?;
            Some(Scope::Organization(account.id))
        }
        ["repos", owner, name, ..] => {
            let name = format!("{owner}/{name}");
            Some(Scope::Repository(github.repos.values().find(|it| it.full_name == name)?.id))
        }
        _ => None,
    }
}

/// S9, S11 and S17 for a call that is about to have its effect.
pub fn before_github(world: &World, call: &Call) {
    let parts = parts(&call.path);
    if call.method == http::Method::POST && parts.last() == Some(&"generate-jitconfig") {
        lock(&world.judge).last_change = world.now();
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        if world.strikes(Fault::RunnerDeaf) {
            world.github.with(|github, _| github.mischief.deaf.insert(name.clone()));
        }
        let labels: BTreeSet<&str> =
            body["labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let scope = world.github.peek(|github| scope(github, &parts));
        let database = lock(&world.database);
        let Some(row) = database.rows.worker(&WorkerName::from(name.as_str())) else {
            drop(database);
            return world.breaks("S11 owned", format!("a JIT configuration is made for {name}, which has no row"));
        };
        let here = match scope {
            Some(Scope::Organization(id) | Scope::Repository(id)) => id == row.entity.0,
            None => true,
        };
        let right = row.labels.iter().collect::<BTreeSet<_>>() == labels && here;
        drop(database);
        if !right {
            world.breaks("S9 exact-labels", format!("runner {name} differs from its row: {labels:?}"));
        }
    } else if call.method == http::Method::DELETE
        && let Some(id) = parts.last().and_then(|id| id.parse::<i64>().ok())
    {
        let known = world.github.peek(|github| github.runners.get(&id).map(|it| (it.name.clone(), it.job.is_some())));
        let Some((name, busy)) = known else { return };
        if busy {
            return world.rare(Rare::BusyRunnerKept);
        }
        lock(&world.judge).last_change = world.now();
        if !is_ours(&name) {
            world.breaks("S17 isolation", format!("runner {name} is not production's"));
        }
        let row = lock(&world.database).rows.worker(&WorkerName::from(name.as_str())).map(|row| row.status);
        if row.is_none_or(Status::is_ended) {
            world.rare(Rare::OrphanRunnerDeleted);
        }
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("rise-riscv-runner-") && !name.starts_with("rise-riscv-runner-staging-")
}

/// What a call came to.
pub fn after_github(world: &World, call: &Call, status: u16) {
    let parts = parts(&call.path);
    if status == 409 && parts.last() == Some(&"generate-jitconfig") {
        world.rare(Rare::NameTakenAfterLostAnswer);
    }
    if status == 200
        && let ["repos", _, _, "actions", "jobs", id] = parts.as_slice()
        && let Ok(id) = id.parse::<i64>()
    {
        let done = world
            .github
            .peek(|github| github.jobs.get(&id).is_some_and(|job| matches!(job.state, JobState::Completed(_))));
        if done && lock(&world.database).rows.job(JobId(id)).is_some_and(|row| !row.status.is_ended()) {
            world.rare(Rare::PollFoundCompleted);
        }
    }
}

// ---- the cluster

/// Notes what pools offer now.
pub fn capacity_changed(world: &World) {
    let offered = world.cluster.peek(offered);
    let now = world.now();
    lock(&world.judge).offered.push_back((now, offered));
}

fn offered(cluster: &Cluster) -> BTreeMap<String, i64> {
    let mut offered = BTreeMap::new();
    for node in cluster.nodes.values() {
        let usable = node.ready && !node.cordoned;
        *offered.entry(node.board.clone()).or_default() += if usable { i64::from(node.runners) } else { 0 };
    }
    offered
}

fn board(pod: &crate::world::kubernetes::Pod) -> &str {
    pod.spec.pointer("/nodeSelector/riseproject.dev~1board").and_then(Value::as_str).unwrap_or_default()
}

fn live(cluster: &Cluster, pool: &str) -> i64 {
    cluster.pods.values().filter(|pod| !is_ended(pod.phase) && board(pod) == pool).count() as i64
}

/// Whether watches are refused now.
pub fn watches_broken(world: &World) -> bool {
    world.now() < lock(&world.judge).watches
}

/// Watches are refused for this long.
pub fn break_watches(world: &World, until: i64) {
    lock(&world.judge).watches = until;
}

/// S6, S8, S9, S10, S11, S12 and S17 for a call that is about to have its effect.
///
/// `late`: nobody waits for its answer any more.
pub fn before_cluster(world: &World, call: &Call, late: bool) {
    let parts = parts(&call.path);
    match (call.method.as_str(), parts.as_slice()) {
        ("POST", [.., "pods"]) => pod_created(world, call, late),
        ("POST", [.., "secrets"]) => secret_created(world, call),
        ("DELETE", [.., "pods", name]) => pod_deleted(world, call, name),
        _ => {}
    }
}

fn pod_created(world: &World, call: &Call, late: bool) {
    lock(&world.judge).last_change = world.now();
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let pool = body.pointer("/spec/nodeSelector/riseproject.dev~1board").and_then(Value::as_str).unwrap_or_default();
    if logs::leaks(&String::from_utf8_lossy(&call.body)) {
        world.breaks("S10 one-jit-one-pod", format!("the pod {name} shows its JIT configuration"));
    }
    let (exists, live, now_offered) = world.cluster.peek(|cluster| {
        (pod(cluster, name).is_some(), live(cluster, pool) + 1, offered(cluster).get(pool).copied().unwrap_or(0))
    });
    if exists {
        return;
    }
    let now = world.now();
    let recent = {
        let mut judge = lock(&world.judge);
        // The state before the first of the changes that count is one that counts.
        while judge.offered.len() > 1 && judge.offered.get(1).is_some_and(|(at, _)| now - at > VIEW_LAG) {
            judge.offered.pop_front();
        }
        judge.offered.iter().filter_map(|(_, all)| all.get(pool)).max().copied().unwrap_or(0)
    };
    let most = recent.max(now_offered);
    // A call that its caller had given up took effect a moment before: whoever places now may not have seen it yet.
    let unseen = {
        let mut judge = lock(&world.judge);
        if late {
            judge.late_pods.insert(name.to_owned(), now);
        }
        let fresh = |(key, pod): &(&Key, &crate::world::kubernetes::Pod)| {
            let came = judge.late_pods.get(&key.name).is_some_and(|at| now - at < VIEW_LAG);
            came && !is_ended(pod.phase) && board(pod) == pool
        };
        world.cluster.peek(|cluster| cluster.pods.iter().filter(fresh).count() as i64)
    };
    if live > most && (late || live - unseen <= most) {
        // Its caller had given it up, and its place was given to another: it is deleted as an orphan.
        world.rare(Rare::LatePod);
    } else if live > most {
        world.breaks("S6 capacity", format!("pod {name} is number {live} of {most} in its pool"));
    }
    let row = lock(&world.database).rows.worker(&WorkerName::from(name)).map(|row| row.pool.clone());
    match row {
        None => world.breaks("S11 owned", format!("pod {name} has no worker row")),
        Some(row) if row.as_str() != pool => {
            world.breaks("S9 exact-labels", format!("pod {name} is for another pool than its row"));
        }
        Some(_) => {}
    }
}

/// S10: a JIT configuration goes to the worker it was made for.
fn secret_created(world: &World, call: &Call) {
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let jit = body.pointer("/stringData/jitconfig").and_then(Value::as_str).unwrap_or_default();
    let whose = world.github.peek(|github| github.runners.values().find(|it| it.jit == jit).map(|it| it.name.clone()));
    if whose.as_ref().is_some_and(|whose| whose != name) {
        world.breaks("S10 one-jit-one-pod", format!("the Secret {name} holds the configuration of {whose:?}"));
    }
}

fn pod_deleted(world: &World, call: &Call, name: &str) {
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let uid = body.pointer("/preconditions/uid").and_then(Value::as_str);
    let known = world.cluster.peek(|cluster| {
        let pod = pod(cluster, name).filter(|pod| uid.is_none_or(|uid| uid == pod.uid))?;
        Some((pod.phase, pod.deleting.is_some(), pod.ending.as_ref().map(|ending| ending.at)))
    });
    let Some((phase, deleting, ended)) = known else { return };
    if deleting {
        return;
    }
    if !is_ended(phase) {
        lock(&world.judge).last_change = world.now();
    }
    if !is_ours(name) {
        world.breaks("S17 isolation", format!("pod {name} is not production's"));
    }
    let busy =
        world.github.peek(|github| github.runners.values().any(|it| it.name == name && it.job.is_some() && it.online));
    // A job may take six hours by default: whose App has been gone for longer, is owed no board.
    let gone = world.github.peek(|github| {
        let entity = name.trim_start_matches("rise-riscv-runner-").split('-').next().and_then(|id| id.parse().ok());
        let account = entity.and_then(|entity| account_of(github, entity)).and_then(|id| github.accounts.get(&id));
        account.is_some_and(|it| it.removed && world.time().since(it.removed_at).0 > 6 * HOUR)
    });
    if busy && !gone && phase == Phase::Running {
        world.breaks("S8 never-kill-busy", format!("pod {name} is deleted while its runner executes a job"));
    }
    let row = lock(&world.database).rows.worker(&WorkerName::from(name)).map(|row| (row.status, row.failure));
    let Some((status, failure)) = row else { return world.rare(Rare::OrphanPodDeleted) };
    if !status.is_ended() {
        return world.breaks("S12 grace", format!("pod {name} is deleted before its row has ended"));
    }
    let quick = failure.is_some_and(|it| !matches!(it, WorkerFailure::PodFailed | WorkerFailure::PodVanished));
    let ended_for = ended.map_or(0, |at| world.time().since(Time(at.0 / SECOND * SECOND)).0);
    if is_ended(phase) && !quick && ended_for < GRACE - world.most_skew() {
        world.breaks("S12 grace", format!("pod {name} is deleted {} minutes after its end", ended_for / MINUTE));
    }
}

// ---- liveness

/// Everything that liveness is judged by, at one time.
struct Look<'a> {
    world: &'a World,
    now: i64,
    database: std::sync::MutexGuard<'a, Database>,
    /// Entities and the installations that rows of theirs name.
    named: BTreeSet<(i64, i64)>,
}

/// Notes trouble that is not the service's.
pub fn troubled(world: &World, account: i64, until: i64) {
    let mut judge = lock(&world.judge);
    let known = judge.trouble.entry(account).or_insert(until);
    *known = (*known).max(until);
}

/// Looks at everything; whether the run is over.
pub fn look(world: &World) -> bool {
    let database = lock(&world.database);
    let named = database.rows.jobs().map(|job| (job.entity.0, job.installation.0)).collect();
    let look = Look { world, now: world.now(), database, named };
    look.at_processes();
    look.at_jit_uses();
    if look.now < world.plan.plan.quiet_at {
        return false;
    }
    look.at_leadership();
    if look.now >= world.plan.plan.quiet_at + RECOVERY {
        look.at_jobs();
        look.at_supply();
        look.at_runners();
        look.at_pods();
        look.at_workers();
    }
    look.for_the_end()
}

/// Accounts by what is being looked at.
fn account_of(github: &GitHub, entity: i64) -> Option<i64> {
    match github.accounts.get(&entity) {
        Some(account) => Some(account.id),
        None => github.repos.get(&entity).map(|repo| repo.account),
    }
}

/// How the deliveries about one job fared.
#[derive(Clone, Copy, Default)]
struct Posted {
    sent: bool,
    open: bool,
    refused: u32,
}

/// `calm`: since when nothing is late any more. What is on its way since then is no excuse.
fn posted(github: &GitHub, calm: Time) -> BTreeMap<i64, Posted> {
    let mut posted: BTreeMap<i64, Posted> = BTreeMap::new();
    for delivery in &github.log {
        if let Some(job) = delivery.job() {
            let known = posted.entry(job).or_default();
            known.sent = true;
            known.open |= !delivery.over && delivery.at < calm;
            known.refused += u32::from((400..500).contains(&delivery.status));
        }
    }
    posted
}

/// Accounts with more jobs than can be polled with what GitHub still grants within their hour, less what is kept for
/// provisioning.
fn poor(github: &GitHub, now: Time) -> BTreeSet<i64> {
    let mut open: BTreeMap<i64, i64> = BTreeMap::new();
    for job in github.jobs.values().filter(|job| !matches!(job.state, JobState::Completed(_))) {
        if let Some(repo) = github.repos.get(&job.repo) {
            *open.entry(repo.account).or_default() += 1;
        }
    }
    let granted = |account: &i64| {
        let Some(quota) = github.accounts.get(account).map(|it| &it.quota) else { return 0 };
        let limit = i64::from(quota.limit);
        let spare = (limit - i64::from(quota.used) - limit * RESERVED / 100).max(0);
        if now < quota.reset_at { limit.min(spare * HOUR / quota.reset_at.since(now).0) } else { limit }
    };
    open.into_iter().filter(|(account, jobs)| jobs * 40 > granted(account)).map(|(account, _)| account).collect()
}

impl Look<'_> {
    /// Notes that `holds`; breaks `invariant` when it has held for longer than `limit`.
    fn hold(&self, invariant: &'static str, key: i64, holds: bool, limit: i64, what: impl FnOnce() -> String) {
        let key = (invariant, key);
        let mut judge = lock(&self.world.judge);
        if !holds {
            judge.held.remove(&key);
            return;
        }
        let since = *judge.held.entry(key).or_insert(self.now);
        drop(judge);
        if self.now - since > limit {
            self.world.breaks(invariant, format!("for {} s: {}", (self.now - since) / SECOND, what()));
        }
    }

    fn calm(&self) -> Time {
        Time(self.world.plan.plan.epoch + self.world.plan.plan.quiet_at)
    }

    fn is_healthy(&self, github: &GitHub, account: i64) -> bool {
        has_app(github, account) && self.is_well(account)
    }

    /// Whether GitHub takes an account's calls as they come.
    fn is_well(&self, account: i64) -> bool {
        let judge = lock(&self.world.judge);
        let blocked = judge.blocked.get(&account).copied().unwrap_or(0);
        let until = blocked.max(judge.untold.get(&account).filter(|it| it.answered.is_none()).map_or(0, |it| it.until));
        let waits = until > 0 && self.now < until + RECOVERY;
        !waits && judge.trouble.get(&account).is_none_or(|until| self.now > *until)
    }

    /// Whether an entity's runners can be looked after now: they are ours to look after, and nothing is wrong with its
    /// account.
    fn is_reachable(&self, github: &GitHub, entity: i64) -> bool {
        account_of(github, entity).is_none_or(|account| self.is_healthy(github, account))
            && self.is_ours(github, entity)
    }

    /// Whether an entity's runners are ours to look after, if not now then when a limit is over: its account has the App,
    /// and a delivery told of the installation that it has now.
    fn is_ours(&self, github: &GitHub, entity: i64) -> bool {
        let Some(account) = account_of(github, entity) else { return true };
        let installation = github.accounts.get(&account).map_or(0, |it| it.installation);
        has_app(github, account) && self.named.contains(&(entity, installation))
    }

    /// L9: who is told to stop ends in time.
    fn at_processes(&self) {
        let mut leaders = 0;
        for (node, process) in lock(&self.world.processes).iter() {
            let waits = process.alive && !process.paused && process.stopping.is_some();
            let since = process.stopping.unwrap_or(self.now);
            if waits && self.now - since > EXIT {
                self.world.breaks(
                    "L9 exit",
                    format!("{node} is up {} s after it was told to stop", (self.now - since) / SECOND),
                );
            }
            let led = process.alive && process.health.status(self.world.time()).epoch.is_some();
            leaders += usize::from(led);
        }
        if leaders > 1 {
            self.world.rare(Rare::TwoLeaders);
        }
    }

    /// S10: one configuration, one pod.
    fn at_jit_uses(&self) {
        let twice = lock(&self.world.runners).used.values().find(|uids| uids.len() > 1).cloned();
        if let Some(uids) = twice {
            self.world.breaks("S10 one-jit-one-pod", format!("one configuration is used by {}", uids.join(" and ")));
        }
    }

    fn at_leadership(&self) {
        let (mut able, mut led) = (false, false);
        for (node, process) in lock(&self.world.processes).iter() {
            if matches!(node, Node::Scheduler(_)) && process.alive && !process.paused && process.stopping.is_none() {
                able = true;
                led |= process.health.status(self.world.time()).epoch.is_some();
            }
        }
        self.hold("L8 failover", 0, able && !led, LED, || "nobody leads".to_owned());
    }

    /// L2: rows follow GitHub.
    fn at_jobs(&self) {
        self.world.github.peek(|github| {
            let posted = posted(github, self.calm());
            // An App may repeat so many a minute: very many that were lost take their time.
            let lost = github.log.iter().filter(|it| it.over && !(200..300).contains(&it.status)).count() as i64;
            let backlog = lost * MINUTE / REPEATED;
            let poor = poor(github, self.world.time());
            for (&id, job) in &github.jobs {
                let Some(account) = github.repos.get(&job.repo).map(|repo| repo.account) else { continue };
                if !self.is_healthy(github, account) {
                    continue;
                }
                let posted = posted.get(&id).copied().unwrap_or_default();
                let row = self.database.rows.job(JobId(id));
                let unknown = row.is_none() && posted.sent && !posted.open;
                // What is refused again and again is repeated ever more rarely.
                let limit = MADE_UP + backlog + if posted.refused >= OFTEN { HOUR } else { 0 };
                self.hold("L2 made-up", id, unknown, limit, || format!("job {id} is not known"));
                let Some(row) = row else { continue };
                let done = matches!(job.state, JobState::Completed(_));
                let named = row.assignment.as_ref().map(|it| WorkerName::new(it.runner.clone()));
                let ours =
                    named.is_some_and(|name| self.database.rows.worker(&name).is_some_and(|it| it.status.is_ended()));
                let poor = poor.contains(&account);
                // All that wait are asked about in turn.
                let open = github.jobs.values().filter(|it| !matches!(it.state, JobState::Completed(_)));
                let a_minute = github.accounts.get(&account).map_or(1, |it| i64::from(it.quota.limit) / 240).max(1);
                let of_it = |it: &&crate::world::github::Job| {
                    github.repos.get(&it.repo).is_some_and(|repo| repo.account == account)
                };
                let round = open.filter(of_it).count() as i64 * MINUTE / a_minute;
                // While its account is poor a job's time does not run; an hour must do all the same.
                let asked = ENDED + round;
                let limit = if ours || row.status == Status::Pending { asked } else { asked.max(SWEPT) };
                let late = done && !row.status.is_ended();
                for (key, holds, limit) in [(id, late && !poor, limit), (-id, late, limit + HOUR)] {
                    self.hold("L2 ended", key, holds, limit, || {
                        format!("job {id} has ended and its row says {:?}", row.status)
                    });
                }
                let waits = job.state == JobState::Queued && row.status == Status::Running && !row.is_requeued();
                for (key, holds, limit) in [(id, waits && !poor, asked.max(SWEPT)), (-id, waits, asked + HOUR)] {
                    self.hold("L2 requeued", key, holds, limit, || {
                        format!("job {id} is queued again and its row runs")
                    });
                }
                if matches!(job.state, JobState::InProgress) && lock(&self.world.judge).requeued.remove(&JobId(id)) {
                    self.world.rare(Rare::RequeuedServed);
                }
            }
            for row in self.database.rows.jobs().filter(|row| !row.status.is_ended()) {
                self.at_gone_app(github, row, &poor);
                let account = account_of(github, row.entity.0);
                let able =
                    account.is_some_and(|account| self.is_reachable(github, row.entity.0) && !poor.contains(&account));
                let unknown = able && !github.jobs.contains_key(&row.id.0);
                self.hold("L2 forgotten", row.id.0, unknown, SWEPT, || {
                    format!("job {} is {:?} and GitHub does not know it", row.id, row.status)
                });
            }
        });
    }

    /// L2: jobs of an App that is not there any more are failed, all of them.
    fn at_gone_app(&self, github: &GitHub, row: &Job, poor: &BTreeSet<i64>) {
        let Some(account) = account_of(github, row.entity.0) else { return };
        let removed = github.accounts.get(&account).filter(|it| it.removed);
        let gone = removed.is_some_and(|it| it.installation == row.installation.0);
        let able = self.is_well(account) && !poor.contains(&account);
        self.hold("L2 gone", row.id.0, gone && able, GONE, || {
            format!("job {} is {:?} and its App is gone", row.id, row.status)
        });
    }

    /// L1: whoever has room gets a worker.
    fn at_supply(&self) {
        let waiting: Vec<i64> = self.world.github.peek(|github| {
            let able = |(id, job): (&i64, &crate::world::github::Job)| {
                let account = github.repos.get(&job.repo)?.account;
                (job.state == JobState::Queued && self.is_healthy(github, account)).then_some(*id)
            };
            github.jobs.iter().filter_map(able).collect()
        });
        let mut groups: BTreeMap<(i64, String), &Job> = BTreeMap::new();
        for id in waiting {
            if let Some(row) = self.database.rows.job(JobId(id)).filter(|row| is_waiting(row)) {
                groups.entry((row.entity.0, row.labels.to_string())).or_insert(row);
            }
        }
        let mut keys = BTreeSet::new();
        for ((entity, labels), row) in groups {
            let (waiting, free) = demand(self.world, &self.database, &like(row));
            let owned =
                self.database.rows.workers().filter(|it| it.owner == row.owner && !it.status.is_ended()).count();
            let room = cap(self.world, row.owner).is_none_or(|cap| owned < cap as usize);
            let place = self.world.cluster.peek(|cluster| {
                let unplaced = |it: &&Worker| {
                    !it.status.is_ended() && it.pool == row.pool && pod(cluster, it.name.as_str()).is_none()
                };
                let unplaced = self.database.rows.workers().filter(unplaced).count() as i64;
                let offered = offered(cluster).get(row.pool.as_str()).copied().unwrap_or(0);
                offered > live(cluster, row.pool.as_str()) + unplaced
            });
            if !room {
                self.world.rare(Rare::AtCap);
            }
            if !place {
                self.world.rare(Rare::PoolFull);
            }
            let key = entity ^ number(&labels);
            keys.insert(key);
            let unmet = waiting > free && room && place;
            // A runner that a job took whose row was failed shows as busy in the next listing only.
            let lately = |row: &Job| row.entity.0 == entity && row.status == Status::Failed;
            let limit = SERVED + if self.database.rows.jobs().any(lately) { LISTED } else { 0 };
            self.hold("L1 served", key, unmet, limit, || {
                format!("[{labels}] of {entity}: {waiting} jobs wait, {free} workers are free, and there is room")
            });
        }
        lock(&self.world.judge).held.retain(|it, _| it.0 != "L1 served" || keys.contains(&it.1));
    }

    /// L4 and L5: what GitHub has of ours.
    fn at_runners(&self) {
        let entries = self.world.github.peek(|github| {
            let entry = |(id, it): (&i64, &crate::world::github::Runner)| {
                let entity = match it.scope {
                    Scope::Organization(id) | Scope::Repository(id) => id,
                };
                (*id, it.name.clone(), it.online, it.job.is_some(), self.is_reachable(github, entity))
            };
            github.runners.iter().map(entry).collect::<Vec<_>>()
        });
        for (id, name, online, busy, healthy) in entries {
            let row = self.database.rows.worker(&WorkerName::from(name.as_str()));
            let orphan = row.is_none_or(|row| row.status.is_ended()) && !busy && healthy;
            self.hold("L4 orphan runner", id, orphan, CLEAN, || format!("runner {name} has no worker"));
            let surplus =
                row.is_some_and(|row| online && !busy && healthy && demand(self.world, &self.database, row).0 == 0);
            self.hold("L5 surplus", id, surplus, CLEAN, || format!("runner {name} is needed by nobody"));
        }
    }

    /// L3 and L4: what the cluster has of ours.
    fn at_pods(&self) {
        struct Seen {
            key: Key,
            phase: Phase,
            deleting: bool,
        }
        let pods: Vec<Seen> = self.world.cluster.peek(|cluster| {
            let seen = |(key, pod): (&Key, &crate::world::kubernetes::Pod)| Seen {
                key: key.clone(),
                phase: pod.phase,
                deleting: pod.deleting.is_some(),
            };
            cluster.pods.iter().map(seen).collect()
        });
        for Seen { key: pod, phase, deleting } in pods {
            let name = pod.name.as_str();
            let key = number(name);
            let ended = is_ended(phase);
            let row = self.database.rows.worker(&WorkerName::from(name));
            let active = row.is_some_and(|row| !row.status.is_ended());
            self.hold(
                "S12 kept too long",
                key,
                ended && !deleting,
                GRACE + 10 * MINUTE + self.world.most_skew(),
                || format!("pod {name} has ended and is still there"),
            );
            let (entry, healthy) = self.world.github.peek(|github| {
                let entry = github.runners.values().find(|it| it.name == name).map(|it| (it.online, it.job.is_some()));
                (entry, row.is_none_or(|row| self.is_reachable(github, row.entity.0)))
            });
            let (online, busy) = entry.unwrap_or_default();
            // What a row says to run on it may run there, until a poll has told otherwise (L2 judges when it must have).
            let works = self.database.rows.jobs().any(|job| {
                let on_it = job.assignment.as_ref().is_some_and(|it| *it.runner == *name);
                on_it && job.status == Status::Running && !job.is_requeued()
            });
            let unregistered = phase == Phase::Running && !online && !busy && !works && active && healthy && !deleting;
            // 120 s, and 30 s; then the listing that proves it, the deletion of its entry, and the write.
            self.hold("L3 never-registered", key, unregistered, 3 * MINUTE, || {
                format!("{name} runs and is not registered")
            });
            let pending = phase == Phase::Pending && active && healthy && !deleting;
            self.hold("L3 stuck-pending", key, pending, 10 * MINUTE + 90 * SECOND, || format!("{name} is pending"));
            let orphan = !ended && !deleting && !active && healthy && !busy;
            self.hold("L4 orphan pod", key, orphan, CLEAN, || format!("pod {name} has no active worker"));
        }
    }

    /// L4: what the store has of ours.
    fn at_workers(&self) {
        for row in self.database.rows.workers().filter(|it| !it.status.is_ended()) {
            let healthy = self.world.github.peek(|github| self.is_reachable(github, row.entity.0));
            let ended = self
                .world
                .cluster
                .peek(|cluster| pod(cluster, row.name.as_str()).is_none_or(|pod| is_ended(pod.phase)));
            self.hold("L4 orphan worker", number(row.name.as_str()), ended && healthy, CLEAN + 2 * MINUTE, || {
                format!("worker {} is {:?} and has no pod", row.name, row.status)
            });
        }
    }

    /// Whether all that can end has ended, and it has been quiet since.
    fn for_the_end(&self) -> bool {
        let rows = &self.database.rows;
        let done = self.world.github.peek(|github| {
            let posted = posted(github, self.calm());
            // What a limit keeps from being done now is done when the limit is over, and is waited for.
            let free = |entity: i64| self.is_ours(github, entity);
            let jobs = github.jobs.iter().all(|(id, job)| {
                let account = github.repos.get(&job.repo).map_or(0, |repo| repo.account);
                let row = rows.job(JobId(*id));
                let given_up = row.is_some_and(|row| row.status == Status::Failed);
                !has_app(github, account)
                    // Queued while the App was not installed: nobody ever told us.
                    || !posted.contains_key(id)
                    || (matches!(job.state, JobState::Completed(_)) && row.is_none_or(|row| row.status.is_ended()))
                    || (job.state == JobState::Queued && given_up)
            });
            let workers = rows.workers().all(|it| it.status.is_ended() || !free(it.entity.0));
            let runners = github.runners.values().all(|it| match it.scope {
                Scope::Organization(id) | Scope::Repository(id) => !free(id),
            });
            let pods = self.world.cluster.peek(|cluster| {
                cluster.pods.iter().all(|(key, pod)| {
                    let row = rows.worker(&WorkerName::from(key.name.as_str()));
                    is_ended(pod.phase) || row.is_some_and(|row| !free(row.entity.0))
                })
            });
            jobs && workers && runners && pods && github.log.iter().all(|it| it.over)
        });
        let strict = self.world.github.peek(|github| github.runners.is_empty())
            && rows.workers().all(|it| it.status.is_ended())
            && self.world.cluster.peek(|cluster| cluster.pods.values().all(|pod| is_ended(pod.phase)));
        let done = done && self.now >= self.world.plan.plan.quiet_at + RECOVERY;
        let mut judge = lock(&self.world.judge);
        if !done {
            judge.done_at = None;
            return false;
        }
        let (done_at, strict) = *judge.done_at.get_or_insert((self.now, strict));
        let (quiet_for, changed) = (self.now - done_at, judge.last_change);
        drop(judge);
        let grace = self.world.plan.plan.long && self.world.cluster.peek(|cluster| !cluster.pods.is_empty());
        if quiet_for < QUIET || grace {
            return false;
        }
        let healthy =
            self.world.github.peek(|github| github.accounts.keys().all(|account| self.is_healthy(github, *account)));
        if !self.world.plan.plan.long && healthy && strict && changed > done_at + MINUTE {
            let what = format!("something changed {} s after all was done", (changed - done_at) / SECOND);
            self.world.breaks("L6 quiet", what);
        }
        true
    }
}

/// Whether the App is there, and may be used.
fn has_app(github: &GitHub, account: i64) -> bool {
    github.accounts.get(&account).is_some_and(|it| !it.removed && !it.suspended)
}

/// The worker that a job's group would get.
fn like(row: &Job) -> Worker {
    Worker {
        name: WorkerName::from(""),
        entity: row.entity,
        entity_name: row.entity_name.clone(),
        entity_type: row.entity_type,
        owner: row.owner,
        installation: row.installation,
        repo: None,
        labels: row.labels.clone(),
        pool: row.pool.clone(),
        image: row.image.clone(),
        node: None,
        status: Status::Pending,
        failure: None,
        created_at: row.created_at,
        running_at: None,
        completed_at: None,
    }
}

/// What a run came to, for those who compare two: a hash over every job and its row's status, and how many runners, live
/// pods and active workers are left over.
pub fn ends(world: &World) -> (u64, usize) {
    let database = lock(&world.database);
    let (mut hash, mut left) = (0xcbf2_9ce4_8422_2325_u64, 0);
    world.github.peek(|github| {
        for id in github.jobs.keys() {
            let status = database.rows.job(JobId(*id)).map_or("none", |row| row.status.as_str());
            hash = (hash ^ *id as u64 ^ number(status) as u64).wrapping_mul(0x100_0000_01b3);
        }
        left += github.runners.len();
    });
    left += world.cluster.peek(|cluster| cluster.pods.values().filter(|pod| !is_ended(pod.phase)).count());
    left += database.rows.workers().filter(|it| !it.status.is_ended()).count();
    (hash, left)
}

/// The plan's time is over and not all is done.
pub fn end(world: &World) {
    let database = lock(&world.database);
    let jobs = world.github.peek(|github| {
        let posted = posted(github, Time::NEVER);
        let open = |job: &&crate::world::github::Job| {
            !matches!(job.state, JobState::Completed(_)) && posted.contains_key(&job.id)
        };
        let open = github.jobs.values().filter(open);
        let jobs = open.map(|job| format!("job {} {:?}", job.id, job.state));
        let runners = github.runners.values().map(|it| format!("runner {}", it.name));
        jobs.chain(runners).take(8).collect::<Vec<_>>()
    });
    let workers = database.rows.workers().filter(|it| !it.status.is_ended());
    let workers = workers.map(|it| format!("worker {} {:?}", it.name, it.status)).take(8);
    let open: Vec<String> = jobs.into_iter().chain(workers).collect();
    world.breaks("L1 done", format!("the plan's time is over, and there are {}", open.join(", ")));
}
