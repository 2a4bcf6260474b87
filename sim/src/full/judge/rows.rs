//! What is written: the committed rows, by each write.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    decision::{JobFailure, WorkerFailure, Write},
    facts::{Job, Status, Worker, Written},
    ids::{EntityId, Epoch, JobId, OwnerId, Span, Time, WorkerName},
    labels::LabelSet,
};
use simulation::{
    judge::{is_requeued, is_waiting},
    plan::What,
    register::{Fault, Rare},
    run::{MINUTE, SECOND},
    trace::number,
};

use super::{
    super::{
        logs,
        postgres::Database,
        world::{World, lock},
    },
    JIT_A_MINUTE, RECOVERY, Told, account_of, asked, cap, github as calls, is_ended, pod, troubled,
};
use crate::world::{
    github::{self, JobState},
    kubernetes::Phase,
};

/// So long it may take until a later installation that a delivery named is found to be none.
const MISLED: i64 = 3 * MINUTE;
/// What changed within this time may not have been read yet, or not been when the decision was made.
const FRESH: i64 = 2 * SECOND;
/// What rows have said for so long, every leader has read.
const NAMED: i64 = 10 * MINUTE;

/// What a write found before it was made.
#[derive(Debug, Default)]
pub struct Before {
    /// Jobs of the reservation's group that wait, and free workers that could serve them.
    demand: Option<(i64, i64)>,
    /// The row was there already.
    repeated: bool,
}

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
        let named = row.installation.0;
        let account = world.github.peek(|github| {
            let account = account_of(github, row.entity.0).and_then(|account| github.accounts.get(&account));
            account.map(|account| (account.id, account.installation))
        });
        if let Some((account, real)) = account
            && named > real
            && lock(&world.judge).misleading.insert((row.entity.0, named))
        {
            troubled(world, account, world.now() + MISLED);
        }
        let mut judge = lock(&world.judge);
        if account.is_some_and(|(_, real)| named == real) {
            judge.named.entry((row.entity.0, named)).or_insert(world.now());
        }
        let old = judge.jobs.insert(id, row.status);
        if old != Some(row.status) {
            judge.last_change = world.now();
        }
        if row.status == Status::Failed {
            judge.failed_at.entry(id).or_insert(world.now());
        }
        judge.moved.insert(row.owner, world.now());
        drop(judge);
        if let Some(old) = old {
            let back = row.status < old && !(row.status == Status::Completed && old == Status::Failed);
            if back || (old.is_ended() && row.status != old) {
                world.breaks("S2 forward-only", format!("job {id} went from {old:?} to {:?}", row.status));
            }
        }
    }
}

/// S1 and S3: a delivery that says this was answered 2xx.
pub fn accepted(world: &World, id: i64, said: Told) {
    let database = lock(&world.database);
    let told = {
        let mut judge = lock(&world.judge);
        let told = judge.accepted.entry(id).or_insert_with(|| said.clone());
        told.status = told.status.max(said.status);
        told.installation = told.installation.max(said.installation);
        told.started = told.started.max(said.started);
        told.ended = [told.ended, said.ended].into_iter().flatten().min();
        if said.named > told.named {
            told.named = said.named;
        }
        told.clone()
    };
    let Some(row) = database.rows.job(JobId(id)) else {
        return world.breaks("S1 no-lost-job", format!("job {id} was accepted and is not in the store"));
    };
    // What polls and the service itself have added since may be further on; it is never less.
    let as_told = match told.status {
        Status::Completed => row.status.is_ended() && (row.status == Status::Failed || row.completed_at == told.ended),
        status => row.status >= status,
    };
    let started = row.assignment.as_ref().map(|it| it.started_at);
    // One that was recorded without an answer may have brought a greater one.
    let named = (&*row.repo, &*row.entity_name) >= (told.named.0.as_str(), told.named.1.as_str());
    if !as_told || !named || row.installation.0 < told.installation || started < told.started {
        let (status, installation) = (row.status, row.installation);
        let what = format!(
            "job {id} of {} is {status:?} of installation {installation} since {started:?}; its deliveries say {told:?}",
            row.repo
        );
        world.breaks("S3 order-free", what);
    }
}

/// S1, once more when the world is over: what was accepted is there for ever.
pub fn kept(world: &World, database: &Database) {
    let judge = lock(&world.judge);
    let lost = judge.accepted.keys().find(|id| database.rows.job(JobId(**id)).is_none()).copied();
    drop(judge);
    if let Some(id) = lost {
        world.breaks("S1 no-lost-job", format!("job {id} was accepted, and is in the store no more"));
    }
    let jobs = database.rows.jobs().map(|row| format!("{row:?}"));
    if let Some(row) = jobs.chain(database.rows.workers().map(|row| format!("{row:?}"))).find(|row| logs::leaks(row)) {
        world.breaks("S10 one-jit-one-pod", format!("a row shows a secret: {row}"));
    }
    for (node, process) in lock(&world.processes).iter() {
        let (counted, seen) = (process.readers.status().shed, process.turned_away);
        if counted < seen {
            world.breaks("S15 bounded", format!("{node} turned {seen} readers away, and counted {counted}"));
        }
    }
}

/// S13: leadership is granted to one after the other.
pub fn granted(world: &World, database: &mut Database, epoch: Epoch) {
    if epoch.0 <= database.granted {
        world.breaks("S13 fenced", format!("epoch {epoch} is granted twice"));
    }
    database.granted = epoch.0;
    // It finds out anew what others have found out.
    {
        let mut judge = lock(&world.judge);
        judge.heard.clear();
        judge.shown.clear();
        judge.misleading.clear();
        // Rows tell it of one JIT call for each worker, and of one deletion for each that has failed within the last minute. How
        // often a call was tried, and when it was counted while GitHub stood still, they do not tell: that is no part of what it
        // may spend (S14).
        let now = world.now();
        if calls::stood_still(world).any(|(_, until)| (until..until + MINUTE).contains(&now)) {
            judge.points.clear();
        }
        let time = world.time().0;
        judge.points.values_mut().for_each(|points| points.retain(|spent| spent.told_until > time));
        judge.granted_at = now;
    }
    let misled: BTreeSet<i64> = world.github.peek(|github| {
        let named_wrongly = |row: &Job| {
            let account = github.accounts.get(&account_of(github, row.entity.0)?)?;
            (row.installation.0 > account.installation).then_some(account.id)
        };
        database.rows.jobs().filter_map(named_wrongly).collect()
    });
    for account in misled {
        troubled(world, account, world.now() + MISLED);
    }
}

/// These rows were read.
pub fn read(world: &World, jobs: &[Job], workers: &[Worker]) {
    let named = jobs.iter().map(|job| (job.entity.0, job.installation.0));
    let named = named.chain(workers.iter().map(|worker| (worker.entity.0, worker.installation.0)));
    lock(&world.judge).heard.extend(named);
}

/// S13: a write is made under this epoch.
pub fn writing(world: &World, database: &Database, epoch: Epoch) {
    asked(world, "something is written");
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
        Write::Reserve { worker, .. } => Before {
            demand: Some(demand_but_for_spent(world, database, worker)),
            repeated: database.rows.worker(&worker.name).is_some(),
        },
        _ => Before::default(),
    }
}

/// Waiting jobs of a worker's group, and workers that serve or will serve them: active, named by no running job, and not
/// executing one either, as far as could be known.
pub(super) fn demand(world: &World, database: &Database, like: &Worker) -> (i64, i64) {
    supply_less(database, like, |name| was_busy_lately(world, name))
}

/// The same without workers whose runner has had its one job, known or not: they take no other.
fn demand_but_for_spent(world: &World, database: &Database, like: &Worker) -> (i64, i64) {
    let spent = |name: &str| world.github.peek(|github| github.spent.contains(name));
    supply_less(database, like, |name| spent(name) || was_busy_lately(world, name))
}

fn supply_less(database: &Database, like: &Worker, busy: impl Fn(&str) -> bool) -> (i64, i64) {
    let group = |job: &&Job| job.entity == like.entity && job.labels == like.labels;
    let waiting = database.rows.jobs().filter(group).filter(|job| is_waiting(job)).count() as i64;
    let running = |job: &&Job| job.status == Status::Running && !is_requeued(job);
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
    let free = candidates.into_iter().filter(|it| !busy(it.name.as_str())).count() as i64;
    (waiting, free)
}

fn was_busy_lately(world: &World, name: &str) -> bool {
    match world.github.peek(|github| github.runners.values().find(|it| it.name == name).map(|it| it.job.is_some())) {
        Some(busy) => busy,
        // Its one job may be over, and its end not known yet.
        None => world.cluster.peek(|cluster| pod(cluster, name).is_some_and(|pod| pod.started.is_some())),
    }
}

/// Judges a write that was made.
pub fn after_write(world: &World, database: &Database, write: &Write, written: Written, before: Before) {
    match (write, written) {
        (Write::Reserve { .. }, Written::RefusedCap) => world.rare(Rare::RefusedCap),
        (Write::Reserve { .. }, Written::RefusedDemand) => world.rare(Rare::RefusedDemand),
        _ => {}
    }
    if let (Write::Reserve { worker, .. }, Written::RefusedCap | Written::RefusedDemand) = (write, written) {
        let key = (worker.entity.0, number(&worker.labels.to_string()));
        lock(&world.judge).refused.insert(key, world.now());
    }
    if written != Written::Done {
        return;
    }
    match write {
        Write::Reserve { worker, .. } => reserved(world, database, worker, &before),
        Write::WorkerRunning { name, .. } => {
            pod_told_of(world, name, "running", |phase| phase != Phase::Pending);
            worker_row(world, database, name);
        }
        Write::WorkerCompleted { name, .. } => {
            pod_told_of(world, name, "completed", |phase| phase == Phase::Succeeded);
            worker_row(world, database, name);
        }
        Write::WorkerFailed { name, failure, .. } => {
            worker_failed(world, database, name, *failure);
            worker_row(world, database, name);
        }
        Write::JobRunning { id, .. } => jobs_written(world, database, &[*id]),
        Write::JobCompleted { id, .. } => {
            // S16: GitHub has said so, and takes nothing back.
            let over = |job: &github::Job| matches!(job.state, JobState::Completed(_));
            if world.github.peek(|github| github.jobs.get(&id.0).is_some_and(|job| !over(job))) {
                world.breaks("S16 silence", format!("job {id} is written as completed, which is not so"));
            }
            jobs_written(world, database, &[*id]);
        }
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

/// S16 for what a worker's pod told of it. Somebody may have made another under its name since.
fn pod_told_of(world: &World, name: &WorkerName, what: &str, so: impl FnOnce(Phase) -> bool) {
    let phase = world.cluster.peek(|cluster| pod(cluster, name.as_str()).map(|pod| pod.phase));
    let replaced = lock(&world.judge).replaced.contains_key(name.as_str());
    if phase.is_some_and(|phase| !replaced && !so(phase)) {
        world.breaks("S16 silence", format!("worker {name} is written as {what}, which its pod is not"));
    }
}

/// S1 and S2 for the jobs that ghfe fails when a delivery says that their installation is gone.
pub fn installation_failed(world: &World, database: &Database, ids: &[JobId], failure: JobFailure) {
    for id in ids {
        job_failed(world, database, *id, failure);
    }
    jobs_written(world, database, ids);
}

/// S1: a job is failed only for a reason that is true.
fn job_failed(world: &World, database: &Database, id: JobId, failure: JobFailure) {
    let known = world.github.peek(|github| {
        let job = github.jobs.get(&id.0)?;
        let account = github.account_of_repo(job.repo)?;
        Some((account.removed, account.installation))
    });
    let Some((removed, installation)) = known else { return };
    let row = database.rows.job(id);
    let named =
        row.is_some_and(|row| row.installation.0 == installation || was_named(world, database, row, installation));
    let untrue = match failure {
        JobFailure::JobNotFound => true,
        JobFailure::InstallationGone => !removed && named,
        // GitHub keeps a job for a day, and the App may be back by then.
        JobFailure::InstallationSuspended => row.is_none_or(|row| world.time().since(row.created_at) < Span::hours(24)),
    };
    if untrue {
        world.breaks("S1 no-lost-job", format!("job {id} is failed as {failure}, which is not so"));
    }
}

/// Whether rows have long named the installation that is there: then one that names another says nothing of the App.
fn was_named(world: &World, database: &Database, row: &Job, real: i64) -> bool {
    let since = lock(&world.judge).named.get(&(row.entity.0, real)).copied();
    let names = |it: &Job| it.entity == row.entity && it.installation.0 == real && !it.status.is_ended();
    since.is_some_and(|since| world.now() - since > NAMED) && database.rows.jobs().any(names)
}

/// S2 for one worker.
fn worker_row(world: &World, database: &Database, name: &WorkerName) {
    let Some((status, owner)) = database.rows.worker(name).map(|row| (row.status, row.owner)) else { return };
    let old = {
        let mut judge = lock(&world.judge);
        if status.is_ended() {
            judge.moved.insert(owner, world.now());
        }
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
        && waiting <= free
    {
        let what = format!("{} is reserved for {waiting} waiting jobs and {free} free workers", worker.name);
        world.breaks("S5 no-over-provision", what);
    }
    // Whose it is, by the world's word and not by the row's.
    let (owner, owned) = world.github.peek(|github| {
        let owner = account_of(github, worker.entity.0);
        let same = |it: &&Worker| account_of(github, it.entity.0) == owner && !it.status.is_ended();
        (owner, database.rows.workers().filter(same).count())
    });
    let cap = cap(world, owner.map_or(worker.owner, OwnerId));
    if cap.is_some_and(|cap| owned > cap as usize) {
        world.breaks("S4 cap", format!("owner {} has {owned} workers, its cap is {cap:?}", worker.owner));
    }
    let fits = |job: &&Job| job.entity == worker.entity && job.labels == worker.labels && job.pool == worker.pool;
    if !database.rows.jobs().any(|job| fits(&job) && !job.status.is_ended()) {
        let what = format!("{} [{}] on {} is like no job", worker.name, worker.labels, worker.pool);
        world.breaks("S9 exact-labels", what);
    }
    fifo(world, database, worker);
}

/// A group's waiting jobs, oldest first.
fn line(database: &Database, entity: EntityId, labels: &LabelSet) -> Vec<(Time, JobId)> {
    let group = |job: &&Job| job.entity == entity && job.labels == *labels && is_waiting(job);
    let mut line: Vec<_> = database.rows.jobs().filter(group).map(|job| (job.created_at, job.id)).collect();
    line.sort_unstable();
    line
}

/// S7: was an older job passed over that the same place and its owner's cap would have served?
fn fifo(world: &World, database: &Database, worker: &Worker) {
    let now = world.now();
    let plan = &world.plan;
    let lately = |(from, until): (i64, i64)| from <= now && now < until + RECOVERY;
    let windows = plan.plan.window.iter().map(|it| (it.from, it.until));
    let faulty = windows.chain(plan.trouble.iter().map(|it| (it.at, it.at + it.lasts))).any(lately);
    // What its own jobs did since the decision is not the decision's fault; nor is what could not be known.
    let moved = |owner| lock(&world.judge).moved.get(&owner).is_some_and(|at| now - at < FRESH);
    // A leader that has just been woken decides on what it knew.
    let woke = plan.plan.deed.iter().any(|deed| match deed.what {
        What::Pause { lasts, .. } => (deed.at..deed.at + lasts + FRESH).contains(&now),
        _ => false,
    });
    if faulty || woke || moved(worker.owner) {
        return;
    }
    // The specification's loop: a group's turn is that of its oldest waiting job.
    let Some(&served) = line(database, worker.entity, &worker.labels).first() else { return };
    let waiting = database.rows.jobs().filter(|job| job.pool == worker.pool && is_waiting(job));
    let older = waiting.filter(|job| (job.created_at, job.id) < served);
    let others = older.filter(|job| job.entity != worker.entity || job.labels != worker.labels);
    let others: BTreeMap<(EntityId, &LabelSet), &Job> = others.map(|job| ((job.entity, &job.labels), job)).collect();
    for ((entity, labels), job) in others {
        let account = world.github.peek(|github| {
            let account = github.accounts.get(&account_of(github, entity.0)?)?;
            (!account.removed && !account.suspended).then_some((account.id, account.installation))
        });
        let Some((account, installation)) = account else { continue };
        let able = {
            let judge = lock(&world.judge);
            let refused = judge.refused.get(&(entity.0, number(&labels.to_string())));
            let blocked = judge.blocked.get(&account).copied().unwrap_or(0);
            let untold = judge.untold.get(&account).map_or(0, |it| it.until);
            let told = blocked.max(untold);
            let pause = if told > 0 { told + MINUTE + world.most_skew() } else { 0 };
            judge.heard.contains(&(entity.0, installation))
                && refused.is_none_or(|at| now - at > 3 * MINUTE)
                && judge.trouble.get(&account).is_none_or(|until| now > *until)
                && judge.back.get(&account).is_none_or(|at| now - at > RECOVERY)
                && now > pause
        };
        // Of a crowd some wait for the minute in which GitHub takes their calls.
        let crowd = world.github.peek(|github| {
            let its = |job: &&github::Job| github.repos.get(&job.repo).map(|it| it.account) == Some(account);
            github.jobs.values().filter(its).count() as i64 > JIT_A_MINUTE
        });
        let owned = database.rows.workers().filter(|it| it.owner == job.owner && !it.status.is_ended()).count();
        let room = cap(world, job.owner).is_none_or(|cap| owned < cap as usize);
        if !able || crowd || !room || moved(job.owner) {
            continue;
        }
        // Who took a job is known some time later: each counts as free until a row names it.
        let running = |job: &&Job| job.status == Status::Running && !is_requeued(job);
        let names = |job: &Job| job.assignment.as_ref().map(|it| it.runner.clone());
        let named: BTreeSet<_> = database.rows.jobs().filter(running).filter_map(names).collect();
        let mine = |it: &&Worker| it.entity == entity && it.labels == *labels && !it.status.is_ended();
        let free = database.rows.workers().filter(mine).filter(|it| !named.contains(it.name.text())).count();
        if let Some((_, id)) = line(database, entity, labels).get(free).filter(|it| **it < served) {
            let what = format!("{} is reserved while job {id}, which is older, waits for the same pool", worker.name);
            return world.breaks("S7 fifo", what);
        }
    }
}

/// Whether the App is there, under the installation that a worker's row names, and no delivery may have named another.
fn is_installed(world: &World, database: &Database, name: &WorkerName) -> bool {
    let misled = world.plan.plan.window.iter().any(|it| it.fault == Fault::WebhookOldInstallation);
    database.rows.worker(name).is_some_and(|row| {
        world.github.peek(|github| {
            let account = account_of(github, row.entity.0).and_then(|account| github.accounts.get(&account));
            account.is_some_and(|it| !misled && !it.removed && it.installation == row.installation.0)
        })
    })
}

/// S16 and S8 for a worker that is failed: is what was concluded true? S10 and S12 for its diagnostics.
fn worker_failed(world: &World, database: &Database, name: &WorkerName, failure: WorkerFailure) {
    let busy =
        world.github.peek(|github| github.runners.values().any(|it| it.name == name.as_str() && it.job.is_some()));
    let (alive, existed, succeeded) = world.cluster.peek(|cluster| match pod(cluster, name.as_str()) {
        Some(pod) => (!is_ended(pod.phase) && pod.deleting.is_none(), true, pod.phase == Phase::Succeeded),
        None => (false, false, false),
    });
    let replaced = lock(&world.judge).replaced.contains_key(name.as_str());
    let alive = alive && !replaced;
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
        WorkerFailure::InstallationSuspended => (Some(Rare::SuspendedBeforeStart), existed),
        WorkerFailure::PodFailed => (None, alive || succeeded && !replaced),
        WorkerFailure::NameTaken => (None, !lock(&world.judge).minted.contains(name)),
        WorkerFailure::InstallationGone => (None, is_installed(world, database, name)),
    };
    if let Some(rare) = rare {
        world.rare(rare);
    }
    if untrue {
        world.breaks("S16 silence", format!("{name} is failed as {failure}, which is not so"));
    }
    let Some(info) = database.failure_info.get(name) else {
        return world.breaks("S12 grace", format!("nothing says why {name} is failed"));
    };
    let of_its_pod = matches!(
        failure,
        WorkerFailure::PodFailed | WorkerFailure::PodStuckPending | WorkerFailure::RunnerNeverRegistered
    );
    if of_its_pod && info["diagnostics"].is_null() {
        world.breaks(
            "S12 grace",
            format!("{name} is failed as {failure}, and no diagnostics of its pod were collected"),
        );
    }
    if logs::leaks(&info.to_string()) {
        world.breaks("S10 one-jit-one-pod", format!("the diagnostics of {name} show a secret"));
    }
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
