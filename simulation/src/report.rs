//! What a run comes to.

use std::collections::BTreeMap;

use engine::{
    decision::Action,
    facts::Job,
    ids::{JobId, Time, WorkerName},
};

use crate::{
    cluster::Whose,
    github::JobState,
    judge::Broken,
    panics::PANIC,
    register::Counts,
    run::{SECOND, Sim},
};

/// One run's end.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The invariant that broke, if one did.
    pub broken: Option<Broken>,
    /// The hash over every event.
    pub hash: u64,
    /// How many events.
    pub events: u64,
    /// Simulated milliseconds.
    pub sim_ms: i64,
    /// Faults and rare states.
    pub counts: Counts,
    /// The trace's text, when it was kept.
    pub lines: Vec<(i64, String)>,
    /// Each job: (queued, started, ended, pool, owner), seconds since the world's start.
    pub jobs: BTreeMap<i64, Served>,
    /// How each job ended, for comparing runs.
    pub ends: BTreeMap<i64, End>,
    /// What has not ended: workers, runner entries, pods.
    pub left: Vec<String>,
    /// Calls to GitHub on behalf of installations.
    pub calls: u64,
    /// Pods made.
    pub pods: u64,
    /// What supply cost, by pool and owner.
    pub meters: BTreeMap<(String, i64), Meter>,
    /// What those calls were for, when that was counted: in replays.
    pub called: Option<Called>,
}

/// Calls to GitHub by what they are for.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Calls {
    /// About single jobs.
    pub polls: u64,
    /// For JIT configurations.
    pub mints: u64,
    /// To delete runners.
    pub deletions: u64,
    /// Pages of listings of runners.
    pub listings: u64,
}

impl Calls {
    /// Those that are about one job or one runner.
    pub fn single(&self) -> u64 {
        self.polls + self.mints + self.deletions
    }

    /// All of them.
    pub fn all(&self) -> u64 {
        self.single() + self.listings
    }
}

/// Whom calls to GitHub were made for.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Called {
    /// By owner's id.
    pub owners: BTreeMap<i64, Calls>,
    /// By pool. A listing is of all runners of an organisation or a repository: it is no pool's.
    pub pools: BTreeMap<String, Calls>,
}

/// An installation's call that is about to reach GitHub: whose it is, what it is for, and how many its account made before.
pub(crate) struct Asked {
    account: usize,
    pool: Option<String>,
    kind: fn(&mut Calls) -> &mut u64,
    before: u64,
}

/// What the runners of one pool and owner cost. Milliseconds.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Meter {
    /// From each runner's reservation to its connection.
    pub starts: Vec<i64>,
    /// Connected and without a job, all runners together.
    pub idle: i64,
    /// From a pod's creation to its end, all pods together.
    pub live: i64,
}

/// How one job ended: GitHub's word, and its row without what depends on when and on which runner it ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// It is over on GitHub.
    pub done: bool,
    /// Its row; `created_at` is milliseconds since the world's start.
    pub row: Option<Job>,
}

/// How one job fared. Seconds since the world's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// When it was queued.
    pub queued: i64,
    /// When it started, if it did.
    pub started: Option<i64>,
    /// When it ended, if it did.
    pub ended: Option<i64>,
    /// Its pool.
    pub pool: String,
    /// Its owner's id.
    pub owner: i64,
}

impl Sim {
    /// Whose call this is, when that is counted.
    pub(crate) fn asks(&self, action: &Action) -> Option<Asked> {
        self.called.as_ref()?;
        let rows = &self.store.rows;
        let kind: fn(&mut Calls) -> &mut u64 = match action {
            Action::PollJob { .. } => |calls| &mut calls.polls,
            Action::MintJit(_) => |calls| &mut calls.mints,
            Action::DeleteRunner { .. } => |calls| &mut calls.deletions,
            Action::ListRunners(_) => |calls| &mut calls.listings,
            _ => return None,
        };
        let (installation, pool) = match action {
            Action::PollJob { id, installation, .. } => (*installation, rows.job(*id).map(|row| &row.pool)),
            Action::MintJit(worker) => (worker.installation, Some(&worker.pool)),
            Action::DeleteRunner { scope, name, .. } => {
                (scope.installation, rows.worker(&WorkerName::new(name.clone())).map(|row| &row.pool))
            }
            Action::ListRunners(scope) => (scope.installation, None),
            _ => return None,
        };
        let account = self.github.accounts.iter().position(|it| it.installation == installation.0)?;
        let before = self.github.accounts[account].calls;
        Some(Asked { account, pool: pool.map(|pool| pool.to_string()), kind, before })
    }

    /// Counts what a call came to.
    pub(crate) fn meter_calls(&mut self, asked: Asked) {
        let Some(called) = &mut self.called else { return };
        let calls = self.github.accounts[asked.account].calls - asked.before;
        let owner = called.owners.entry(self.plan.world.account[asked.account].id).or_default();
        *(asked.kind)(owner) += calls;
        if let Some(pool) = asked.pool {
            *(asked.kind)(called.pools.entry(pool).or_default()) += calls;
        }
    }

    fn meter(&mut self, name: &WorkerName) -> Option<(&mut Meter, i64)> {
        let row = self.store.rows.worker(name)?;
        let created = row.created_at.0 - self.plan.epoch;
        Some((self.meters.entry((row.pool.to_string(), row.owner.0)).or_default(), created))
    }

    pub(crate) fn meter_online(&mut self, runner: i64) {
        let now = self.now;
        let Some(name) = self.github.runners.get(&runner).map(|it| it.name.clone()) else { return };
        if let Some((meter, created)) = self.meter(&name) {
            meter.starts.push(now - created);
        }
    }

    /// A runner's time without a job is over.
    pub(crate) fn meter_idle(&mut self, runner: i64) {
        let now = self.now;
        let Some(entry) = self.github.runners.get_mut(&runner) else { return };
        let (Some(since), name) = (entry.idle_since.take(), entry.name.clone()) else { return };
        if let Some((meter, _)) = self.meter(&name) {
            meter.idle += now - since;
        }
    }

    pub(crate) fn meter_pod(&mut self, name: &WorkerName, lived: i64) {
        if let Some((meter, _)) = self.meter(name) {
            meter.live += lived;
        }
    }
}

impl Outcome {
    /// Of a world that could not be made.
    pub(crate) fn panicked(what: String) -> Self {
        Self { broken: Some(Broken { invariant: PANIC, at: 0, what }), ..Self::default() }
    }

    pub(crate) fn of(sim: Sim) -> Self {
        let mut jobs = BTreeMap::new();
        let mut ends = BTreeMap::new();
        for (&id, job) in &sim.github.jobs {
            let pool = &sim.plan.world.pool[sim.plan.world.pool_of[job.set]].name;
            let served = Served {
                queued: job.created / SECOND,
                started: job.started.map(|at| at / SECOND),
                ended: job.ended.map(|at| at / SECOND),
                pool: pool.clone(),
                owner: sim.plan.world.account[job.account].id,
            };
            jobs.insert(id, served);
            let row = sim.store.rows.job(JobId(id)).map(|row| Job {
                created_at: Time(row.created_at.0 - sim.plan.epoch),
                assignment: None,
                completed_at: None,
                requeued_at: None,
                ..row.clone()
            });
            ends.insert(id, End { done: job.state == JobState::Done, row });
        }
        let workers = sim.store.rows.workers().filter(|it| !it.status.is_ended());
        let pods = sim.cluster.pods.iter().filter(|(_, pod)| !pod.phase.is_ended() && pod.whose != Whose::Strangers);
        let left = workers
            .map(|it| format!("worker {} {:?}", it.name, it.status))
            .chain(sim.github.ours().map(|(_, it)| format!("runner {}", it.name)))
            .chain(pods.map(|(name, pod)| format!("pod {name} {:?}", pod.phase)))
            .collect();
        Self {
            broken: sim.broken().cloned(),
            hash: sim.trace.hash(),
            events: sim.trace.events(),
            sim_ms: sim.now,
            counts: sim.counts.clone(),
            lines: sim.trace.lines().to_vec(),
            jobs,
            ends,
            left,
            calls: sim.github.accounts.iter().map(|it| it.calls).sum(),
            pods: sim.cluster.made,
            meters: sim.meters.clone(),
            called: sim.called,
        }
    }
}
