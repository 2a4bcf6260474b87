//! A toy world around the engine: jobs come, runners take them, calls fail, get lost or come late. Faults first; then
//! everything works for an hour, and nothing may be left undone.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    decision::{Action, Write},
    explain::{WaitingOn, explain},
    facts::*,
    ids::*,
    labels::LabelSet,
    policy::{OwnerPolicy, Staging},
};
use support::*;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

#[derive(Clone, Debug)]
struct RealPod {
    pod: Pod,
    secret: bool,
    /// Never comes online.
    mute: bool,
}

#[derive(Clone, Debug)]
struct RealRunner {
    id: i64,
    entity: EntityId,
    labels: LabelSet,
    online: bool,
    job: Option<JobId>,
    ends_at: Time,
}

/// What is really so, beyond what the engine has been told.
struct World {
    bench: Bench,
    dice: Dice,
    faults: bool,
    jobs: BTreeMap<JobId, Job>,
    workers: BTreeMap<WorkerName, Worker>,
    /// GitHub's own view: whether a job waits, runs or is over.
    github: BTreeMap<JobId, JobView>,
    runners: BTreeMap<WorkerName, RealRunner>,
    pods: BTreeMap<WorkerName, RealPod>,
    minted: BTreeSet<WorkerName>,
    names: BTreeSet<WorkerName>,
    /// Outcomes that are on their way: when, which action, what.
    coming: Vec<(Time, u64, Outcome)>,
    /// Changes that are on their way.
    rumours: Vec<(Time, Change)>,
    next_runner: i64,
    calls: BTreeMap<&'static str, usize>,
}

const ORGS: i64 = 3;
const LABELS: [&str; 2] = [LABEL, "riscv-big"];

impl World {
    fn new(seed: u64) -> Self {
        let mut bench = Bench::new(5);
        for (org, cap) in [(1, Some(2)), (2, Some(6)), (3, None)] {
            let entry = OwnerPolicy { name: String::new(), max_workers: cap, staging: Staging::No };
            bench.policy.owners.insert(OwnerId(org), entry);
        }
        let mut world = World {
            bench,
            dice: Dice(seed),
            faults: true,
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            github: BTreeMap::new(),
            runners: BTreeMap::new(),
            pods: BTreeMap::new(),
            minted: BTreeSet::new(),
            names: BTreeSet::new(),
            coming: Vec::new(),
            rumours: Vec::new(),
            next_runner: 1,
            calls: BTreeMap::new(),
        };
        world.bench.open.clear();
        world
    }

    fn now(&self) -> Time {
        self.bench.now
    }

    /// GitHub's answer to a poll.
    fn view(&self, id: JobId) -> JobView {
        match &self.github[&id] {
            JobView::Queued { .. } => JobView::Queued { said_at: Some(self.now()) },
            view => view.clone(),
        }
    }

    fn new_job(&mut self) {
        let id = self.jobs.len() as i64 + 1;
        let org = self.dice.roll(ORGS as u64) as i64 + 1;
        let mut new = job(id, org);
        new.created_at = self.now();
        new.labels = LabelSet::new([LABELS[self.dice.roll(2) as usize]]);
        self.github.insert(new.id, JobView::Queued { said_at: None });
        self.store_job(new);
    }

    /// The row changes; the scheduler hears of it sooner or later, perhaps twice.
    fn store_job(&mut self, row: Job) {
        self.jobs.insert(row.id, row.clone());
        let times = if self.faults && self.dice.one_in(8) { 2 } else { 1 };
        for _ in 0..times {
            let late = Span(self.dice.roll(2_000) as i64);
            self.rumours.push((self.now() + late, Change::Job(row.clone())));
        }
    }

    fn store_worker(&mut self, row: Worker) {
        self.workers.insert(row.name.clone(), row.clone());
        let late = Span(self.dice.roll(2_000) as i64);
        self.rumours.push((self.now() + late, Change::Worker(row)));
    }

    /// A webhook: lost once in a while.
    fn deliver(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        if self.faults && self.dice.one_in(5) {
            return;
        }
        let mut row = self.jobs[&id].clone();
        if row.status.is_ended() {
            return;
        }
        change(&mut row);
        self.store_job(row);
    }

    fn see(&mut self, name: &WorkerName) {
        if self.faults && self.dice.one_in(6) {
            return;
        }
        let change = match self.pods.get(name) {
            Some(real) => Change::PodSeen(real.pod.clone()),
            None => Change::PodGone { name: name.clone(), uid: PodUid::from(format!("uid-{name}")) },
        };
        self.bench.apply(change);
    }

    /// Lets pods, runners and jobs move on.
    fn live(&mut self) {
        let now = self.now();
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            let real = self.pods[&name].clone();
            if real.pod.deleting {
                if !self.faults || self.dice.one_in(3) {
                    self.pods.remove(&name);
                    self.stop_runner(&name);
                    self.see(&name);
                }
                continue;
            }
            match real.pod.phase {
                PodPhase::Pending if real.secret => self.start_pod(&name),
                PodPhase::Running => self.run_pod(&name, &real),
                PodPhase::Pending | PodPhase::Succeeded | PodPhase::Failed | PodPhase::Unknown => {}
            }
        }
        for (name, runner) in self.runners.clone() {
            match runner.job {
                Some(job) if runner.ends_at <= now => self.finish(&name, job),
                None if runner.online => self.take_job(&name, &runner),
                Some(_) | None => {}
            }
        }
    }

    fn start_pod(&mut self, name: &WorkerName) {
        // Some images never come.
        if self.faults && self.dice.one_in(12) {
            return;
        }
        let (now, mute) = (self.now(), self.faults && self.dice.one_in(10));
        if let Some(real) = self.pods.get_mut(name) {
            real.pod.phase = PodPhase::Running;
            real.pod.started_at = Some(now);
            real.mute = mute;
        }
        self.see(name);
    }

    fn run_pod(&mut self, name: &WorkerName, real: &RealPod) {
        if self.faults && self.dice.one_in(200) {
            return self.end_pod(name, PodPhase::Failed);
        }
        if let Some(runner) = self.runners.get_mut(name)
            && !real.mute
        {
            runner.online = true;
        }
    }

    fn end_pod(&mut self, name: &WorkerName, phase: PodPhase) {
        let now = self.now();
        if let Some(real) = self.pods.get_mut(name) {
            real.pod.phase = phase;
            real.pod.finished_at = Some(now);
        }
        self.stop_runner(name);
        self.see(name);
    }

    /// The runner's process is gone: its job fails on GitHub, and its entry is left offline.
    fn stop_runner(&mut self, name: &WorkerName) {
        let Some(runner) = self.runners.get_mut(name) else { return };
        runner.online = false;
        if let Some(job) = runner.job.take() {
            self.over(job, name);
        }
    }

    fn take_job(&mut self, name: &WorkerName, runner: &RealRunner) {
        let waiting = |(id, view): (&JobId, &JobView)| {
            let row = &self.jobs[id];
            (*view == JobView::Queued { said_at: None }
                && row.entity == runner.entity
                && runner.labels.covers(&row.labels))
            .then_some(*id)
        };
        let Some(id) = self.github.iter().find_map(waiting) else { return };
        let now = self.now();
        let minutes = self.dice.roll(8) as i64 + 1;
        let runner = self.runners.get_mut(name).expect("it takes a job");
        runner.job = Some(id);
        runner.ends_at = now + Span::mins(minutes);
        let assignment = on(name.as_str(), now);
        self.github.insert(id, JobView::InProgress { assignment: assignment.clone() });
        self.deliver(id, |row| {
            row.status = Status::Running;
            row.assignment = assignment;
        });
    }

    fn finish(&mut self, name: &WorkerName, job: JobId) {
        self.runners.remove(name);
        self.over(job, name);
        self.end_pod(name, PodPhase::Succeeded);
    }

    fn over(&mut self, job: JobId, name: &WorkerName) {
        let now = self.now();
        let assignment = match &self.github[&job] {
            JobView::InProgress { assignment } => assignment.clone(),
            _ => on(name.as_str(), now),
        };
        self.github.insert(job, JobView::Completed { assignment: assignment.clone(), completed_at: Some(now) });
        self.deliver(job, |row| {
            row.status = Status::Completed;
            row.completed_at = Some(now);
            row.assignment = assignment;
        });
    }

    /// Carries an action out, or not, and has its outcome arrive later, or never truly.
    fn carry_out(&mut self, id: u64, action: Action) {
        let kind = kind_of(&action);
        *self.calls.entry(kind).or_default() += 1;
        let done = !self.faults || !self.dice.one_in(7);
        let lost = self.faults && self.dice.one_in(10);
        let outcome = if done { Some(self.effect(&action)) } else { None };
        let outcome = match outcome {
            Some(outcome) if !lost => outcome,
            _ => self.trouble(&action),
        };
        let late = Span(self.dice.roll(if self.faults { 8_000 } else { 500 }) as i64);
        self.coming.push((self.now() + late, id, outcome.clone()));
        if self.faults && self.dice.one_in(10) {
            self.coming.push((self.now() + late + Span::secs(1), id, outcome));
        }
    }

    /// The call did not say what became of it.
    fn trouble(&mut self, action: &Action) -> Outcome {
        fn any<T>(dice: &mut Dice, now: Time) -> GitHubAnswer<T> {
            match dice.roll(8) {
                0 => refused(GitHubError::RateLimited { until: Some(now + Span::secs(40)) }),
                1 => refused(GitHubError::RateLimited { until: None }),
                2 => refused(GitHubError::Refused { status: 422, message: "no".into() }),
                _ => away(),
            }
        }
        let (now, dice) = (self.bench.now, &mut self.dice);
        let cluster = match dice.roll(3) {
            0 => ClusterError::Refused { status: 403, message: "quota".into() },
            _ => ClusterError::Unavailable { message: "away".into() },
        };
        if dice.one_in(6) {
            return Outcome::Lost;
        }
        match action {
            Action::Write { .. } => Outcome::Written(Err(StoreError::Unavailable { message: "away".into() })),
            Action::PollJob { .. } => Outcome::JobPolled { asked_at: now, answer: any(dice, now) },
            Action::ListRunners(_) => Outcome::RunnersListed(any(dice, now)),
            Action::MintJit(_) => Outcome::JitMinted(any(dice, now)),
            Action::CreatePod(_) => Outcome::PodCreated(Err(cluster)),
            Action::CreateSecret { .. } => Outcome::SecretCreated(Err(cluster)),
            Action::DeleteRunner { .. } => Outcome::RunnerDeleted(any(dice, now)),
            Action::DeletePod { .. } => Outcome::PodDeleted(Err(cluster)),
            Action::ListPods => Outcome::PodsListed(Err(cluster)),
            Action::ListDeliveries { .. } => Outcome::DeliveriesListed(any(dice, now)),
            Action::Redeliver { .. } => Outcome::Redelivered(any(dice, now)),
        }
    }

    fn effect(&mut self, action: &Action) -> Outcome {
        let now = self.now();
        match action {
            Action::Write { write, .. } => Outcome::Written(Ok(self.write(write))),
            Action::PollJob { id, .. } => Outcome::JobPolled { asked_at: now, answer: ok(self.view(*id)) },
            Action::ListRunners(scope) => Outcome::RunnersListed(ok(self.listing(scope.entity))),
            Action::MintJit(worker) => Outcome::JitMinted(self.mint(worker)),
            Action::CreatePod(worker) => Outcome::PodCreated(self.create_pod(worker)),
            Action::CreateSecret { worker, .. } => {
                if !self.minted.remove(worker) {
                    return Outcome::Lost;
                }
                match self.pods.get_mut(worker) {
                    Some(real) => real.secret = true,
                    None => return Outcome::SecretCreated(Err(ClusterError::NotFound)),
                }
                Outcome::SecretCreated(Ok(()))
            }
            Action::DeleteRunner { name, .. } => Outcome::RunnerDeleted(self.delete_runner(name)),
            Action::DeletePod { name, .. } => {
                if let Some(real) = self.pods.get_mut(name) {
                    let busy = self.runners.get(name).is_some_and(|runner| runner.job.is_some());
                    assert!(!busy || real.pod.phase.is_ended(), "S8: {name} executes a job and its pod is deleted");
                    real.pod.deleting = true;
                }
                Outcome::PodDeleted(Ok(()))
            }
            Action::ListPods => {
                let pods = self.pods.values().map(|real| real.pod.clone()).collect();
                Outcome::PodsListed(Ok(PodListing { asked_at: now, pods }))
            }
            Action::ListDeliveries { .. } => Outcome::DeliveriesListed(ok(Vec::new())),
            Action::Redeliver { .. } => Outcome::Redelivered(ok(())),
        }
    }

    fn listing(&self, entity: EntityId) -> RunnerListing {
        let ours = self.runners.iter().filter(|(_, runner)| runner.entity == entity);
        let runners = ours.map(|(name, runner)| Runner {
            id: RunnerId(runner.id),
            name: name.text().clone(),
            online: runner.online,
            // GitHub's `busy` lags.
            busy: runner.job.is_some() && !(self.faults && runner.id % 4 == 0),
        });
        RunnerListing { asked_at: self.now(), runners: runners.collect() }
    }

    fn mint(&mut self, worker: &Worker) -> GitHubAnswer<Minted> {
        if self.runners.contains_key(&worker.name) {
            return refused(GitHubError::NameTaken);
        }
        let id = self.next_runner;
        self.next_runner += 1;
        let runner = RealRunner {
            id,
            entity: worker.entity,
            labels: worker.labels.clone(),
            online: false,
            job: None,
            ends_at: Time::NEVER,
        };
        self.runners.insert(worker.name.clone(), runner);
        self.minted.insert(worker.name.clone());
        ok(Minted { runner: RunnerId(id) })
    }

    fn create_pod(&mut self, worker: &Worker) -> Result<Pod, ClusterError> {
        if self.pods.contains_key(&worker.name) {
            return Err(ClusterError::AlreadyExists);
        }
        let new = pod(worker.name.as_str(), PodPhase::Pending, self.now());
        self.pods.insert(worker.name.clone(), RealPod { pod: new.clone(), secret: false, mute: false });
        Ok(new)
    }

    fn delete_runner(&mut self, name: &str) -> GitHubAnswer<()> {
        let name = WorkerName::from(name);
        match self.runners.get(&name) {
            Some(runner) if runner.job.is_some() => refused(GitHubError::RunnerBusy),
            Some(_) => {
                self.runners.remove(&name);
                ok(())
            }
            None => refused(GitHubError::NotFound),
        }
    }

    fn write(&mut self, write: &Write) -> Written {
        match write.clone() {
            Write::Reserve { worker, .. } => {
                if self.workers.contains_key(&worker.name) {
                    return Written::Done;
                }
                if self.faults && self.dice.one_in(9) {
                    return Written::RefusedDemand;
                }
                assert!(self.names.insert(worker.name.clone()), "the name {} is drawn twice", worker.name);
                self.store_worker(*worker);
                Written::Done
            }
            Write::WorkerRunning { name, at, .. } => self.end_worker(&name, Status::Running, at, None),
            Write::WorkerCompleted { name, at, .. } => self.end_worker(&name, Status::Completed, at, None),
            Write::WorkerFailed { name, at, failure, .. } => self.end_worker(&name, Status::Failed, at, Some(failure)),
            Write::JobRunning { id, assignment } => self.move_job(id, |row| {
                row.status = Status::Running;
                row.assignment = row.assignment.take().max(assignment);
            }),
            Write::JobCompleted { id, at, .. } => self.move_job(id, |row| {
                row.status = Status::Completed;
                row.completed_at = Some(at);
            }),
            Write::JobFailed { id, at, failure, .. } => self.move_job(id, |row| {
                row.status = Status::Failed;
                row.completed_at = Some(at);
                row.failure = Some(failure);
            }),
            Write::JobRequeued { id, at } => self.move_job(id, |row| row.requeued_at = Some(at)),
        }
    }

    fn move_job(&mut self, id: JobId, change: impl FnOnce(&mut Job)) -> Written {
        let mut row = self.jobs[&id].clone();
        if row.status.is_ended() {
            return Written::RefusedState;
        }
        change(&mut row);
        self.store_job(row);
        Written::Done
    }

    fn end_worker(
        &mut self,
        name: &WorkerName,
        status: Status,
        at: Time,
        failure: Option<engine::decision::WorkerFailure>,
    ) -> Written {
        let Some(mut row) = self.workers.get(name).cloned() else { return Written::RefusedState };
        if row.status.is_ended() {
            return if row.status == status && row.failure == failure { Written::Done } else { Written::RefusedState };
        }
        row.status = status;
        row.failure = failure;
        if status == Status::Running {
            row.running_at = Some(at);
        } else {
            row.completed_at = Some(at);
        }
        self.store_worker(row);
        Written::Done
    }

    /// One step of the world: what has come due arrives, then the engine decides.
    fn step(&mut self, span: Span) {
        self.bench.later(span);
        let now = self.now();
        self.live();
        let mut rumours = std::mem::take(&mut self.rumours);
        rumours.sort_by_key(|(at, _)| *at);
        let (due, rest): (Vec<_>, Vec<_>) = rumours.into_iter().partition(|(at, _)| *at <= now);
        self.rumours.extend(rest);
        for (_, change) in due {
            self.bench.apply(change);
        }
        if self.rumours.is_empty() {
            self.bench.synced();
        }
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.coming).into_iter().partition(|it| it.0 <= now);
        self.coming = rest;
        for (_, id, outcome) in due {
            if std::env::var("TRACE").is_ok() {
                eprintln!("   {} {:?}", (now.0 - START.0) / 1000, outcome);
            }
            self.bench.answer(id, outcome);
        }
        self.hold_explanations();
        for chosen in self.bench.decide() {
            if std::env::var("TRACE").is_ok() {
                eprintln!("{} {:?} {:?}", (now.0 - START.0) / 1000, chosen.action, chosen.reason);
            }
            self.carry_out(chosen.id, chosen.action);
        }
    }

    /// Who is told that a worker is reserved next is told the truth: the next decision reserves for that group, or for
    /// an older job of the same pool.
    fn hold_explanations(&mut self) {
        let next: Vec<JobId> = (self.jobs.keys().copied())
            .filter(|&id| {
                let said = explain(&self.bench.snapshot, &self.bench.policy, id, self.bench.now);
                said.waiting_on == WaitingOn::NextDecision
            })
            .collect();
        if next.is_empty() {
            return;
        }
        let mut ahead = self.bench.snapshot.clone();
        let decision = engine::decide::decide(&mut ahead, &self.bench.policy, self.bench.now);
        let reserved: Vec<(Worker, JobId)> = (decision.actions.into_iter())
            .filter_map(|chosen| match (chosen.action, chosen.reason) {
                (
                    Action::Write { write: Write::Reserve { worker, .. }, .. },
                    engine::decision::Reason::Demand { job },
                ) => Some((*worker, job)),
                _ => None,
            })
            .collect();
        for id in next {
            let row = &self.jobs[&id];
            let older = |job: &JobId| (self.jobs[job].created_at, *job) <= (row.created_at, id);
            let served = reserved.iter().any(|(worker, job)| {
                worker.entity == row.entity && worker.labels == row.labels || worker.pool == row.pool && older(job)
            });
            assert!(served, "job {id} was told that it is next, and only {reserved:#?} came");
        }
    }
}

fn kind_of(action: &Action) -> &'static str {
    match action {
        Action::Write { .. } => "write",
        Action::PollJob { .. } => "poll",
        Action::ListRunners(_) => "list",
        Action::MintJit(_) => "mint",
        Action::CreatePod(_) => "pod",
        Action::CreateSecret { .. } => "secret",
        Action::DeleteRunner { .. } => "delete runner",
        Action::DeletePod { .. } => "delete pod",
        Action::ListPods => "list pods",
        Action::ListDeliveries { .. } => "log",
        Action::Redeliver { .. } => "redeliver",
    }
}

fn run(seed: u64) -> BTreeMap<&'static str, usize> {
    let mut world = World::new(seed);
    for _ in 0..120 {
        if world.jobs.len() < 25 && world.dice.one_in(3) {
            world.new_job();
        }
        if world.dice.one_in(15) {
            let slots = world.dice.roll(7) as u32;
            world.bench.nodes(slots);
        }
        let span = Span(world.dice.roll(20_000) as i64 + 1);
        world.step(span);
    }
    world.faults = false;
    world.bench.nodes(5);
    for _ in 0..360 {
        world.step(Span::secs(10));
    }
    settled(&world, seed);
    // The graces and the memories of what has ended run out.
    for _ in 0..480 {
        world.step(Span::mins(1));
    }
    assert_eq!(world.pods.len(), 0, "seed {seed}: pods are left: {:#?}", world.pods);
    assert_eq!(world.bench.snapshot.known_workers(), 0, "seed {seed}: ended workers are remembered");
    world.calls
}

/// Every job was served, nothing is left of any worker but ended pods in their grace.
fn settled(world: &World, seed: u64) {
    let undone: Vec<_> = world.jobs.values().filter(|job| !job.status.is_ended()).collect();
    assert!(undone.is_empty(), "seed {seed}: jobs are left: {undone:#?}\n{:#?}", world.workers);
    let failed: Vec<_> = world.jobs.values().filter(|job| job.status == Status::Failed).collect();
    assert!(failed.is_empty(), "seed {seed}: jobs were failed: {failed:#?}");
    assert_eq!(world.bench.snapshot.active_jobs(), 0, "seed {seed}");
    let active: Vec<_> = world.workers.values().filter(|worker| !worker.status.is_ended()).collect();
    assert!(active.is_empty(), "seed {seed}: workers without demand: {active:#?}");
    assert_eq!(world.bench.snapshot.active_workers(), 0, "seed {seed}");
    assert!(world.runners.is_empty(), "seed {seed}: runners are left: {:#?}", world.runners);
    let alive: Vec<_> = world.pods.values().filter(|real| !real.pod.phase.is_ended()).collect();
    assert!(alive.is_empty(), "seed {seed}: pods are alive: {alive:#?}");
}

#[test]
fn whatever_happens_ends_in_order_once_everything_works() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let first = std::env::var("FIRST").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        for (kind, count) in run(seed) {
            *seen.entry(kind).or_default() += count;
        }
    }
    for kind in ["write", "poll", "list", "mint", "pod", "secret", "delete runner", "delete pod", "list pods", "log"] {
        assert!(seen.get(kind).is_some_and(|&count| count > 0), "no {kind} in any of the runs: {seen:?}");
    }
}
