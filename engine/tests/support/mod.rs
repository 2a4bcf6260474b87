//! The one helper that knows the engine's API: facts go in by short calls, every decision is checked.
#![allow(dead_code)] // each test file uses a part of it

use engine::{
    check::check,
    decide::decide,
    decision::{Action, Chosen, JobFailure, Reason, WorkerFailure, Write},
    facts::*,
    ids::*,
    labels::LabelSet,
    policy::Policy,
    snapshot::Snapshot,
};

pub const START: Time = Time(1_800_000_000_000);
pub const LABEL: &str = "ubuntu-24.04-riscv";

/// A snapshot with its clock; every view complete from the start.
pub struct Bench {
    pub snapshot: Snapshot,
    pub policy: Policy,
    pub now: Time,
    /// Actions chosen and not answered yet.
    pub open: Vec<Chosen>,
    /// Every reason given so far.
    pub reasons: Vec<Reason>,
    /// What a listing of pods shows.
    pub cluster: Vec<Pod>,
}

/// A worker's name as production gives it to entity 1.
pub const OURS: &str = "rise-riscv-runner-1-abcdefghi";

/// One case of a rule's table: what it shows, and how.
pub type Case = (&'static str, fn(&mut Bench));

/// Plays every case on a bench of its own, and holds that together they gave each of these reasons.
#[track_caller]
pub fn play(slots: u32, cases: &[Case], reasons: &[Reason]) {
    let mut seen = Vec::new();
    for (name, case) in cases {
        eprintln!("case: {name}");
        let mut bench = Bench::new(slots);
        case(&mut bench);
        seen.extend(bench.reasons);
    }
    let missing: Vec<_> = reasons.iter().filter(|reason| !seen.contains(reason)).collect();
    assert!(missing.is_empty(), "no case of the table gives {missing:?}");
}

/// Which rule gives a reason, the first it comes to; a new variant needs a table that gives it.
pub fn reasons_of(rule: &str) -> Vec<Reason> {
    use WorkerFailure as F;
    let home = |reason: &Reason| match reason {
        Reason::Sweep | Reason::Doubt | Reason::GitHubSays => &["reconcile_jobs"][..],
        Reason::Installation(JobFailure::JobNotFound) => &[],
        Reason::Installation(JobFailure::InstallationGone | JobFailure::InstallationSuspended) => &["reconcile_jobs"],
        Reason::ListingDue | Reason::RunnerOfEndedWorker | Reason::OrphanRunner => &["reconcile_runners"],
        Reason::RunnerBeforePod(
            F::RunnerNeverRegistered
            | F::RunnerLost
            | F::PodStuckPending
            | F::ProvisioningInterrupted
            | F::PodRefused
            | F::Surplus,
        ) => &["reconcile_runners"],
        // Either nothing has been made for them yet, or their pod has ended, or nobody can be asked.
        Reason::RunnerBeforePod(
            F::PodFailed
            | F::PodVanished
            | F::JitRefused
            | F::NameTaken
            | F::InstallationGone
            | F::InstallationSuspended,
        ) => &[],
        Reason::WorkerFailed(F::PodFailed | F::PodVanished) => &["cleanup_pods"],
        Reason::WorkerFailed(F::ProvisioningInterrupted) => &["cleanup_pods", "reconcile_runners"],
        Reason::WorkerFailed(F::Surplus) => &["provision", "reconcile_runners"],
        Reason::WorkerFailed(
            F::RunnerNeverRegistered
            | F::RunnerLost
            | F::PodStuckPending
            | F::JitRefused
            | F::NameTaken
            | F::PodRefused
            | F::InstallationGone
            | F::InstallationSuspended,
        ) => &["reconcile_runners"],
        Reason::PodPhase | Reason::GraceOver | Reason::OrphanPod | Reason::PodViewDoubt => &["cleanup_pods"],
        Reason::NoGrace(failure) if failure.keeps_pod() => &[],
        Reason::NoGrace(_) => &["cleanup_pods"],
        Reason::Demand { .. } => &["demand_match"],
        Reason::NextStep => &["provision"],
        Reason::DeliveryLogDue | Reason::NotDelivered => &["redeliver"],
    };
    let mut all = vec![
        Reason::Sweep,
        Reason::Doubt,
        Reason::GitHubSays,
        Reason::ListingDue,
        Reason::RunnerOfEndedWorker,
        Reason::OrphanRunner,
        Reason::PodPhase,
        Reason::GraceOver,
        Reason::OrphanPod,
        Reason::PodViewDoubt,
        Reason::Demand { job: JobId(1) },
        Reason::NextStep,
        Reason::DeliveryLogDue,
        Reason::NotDelivered,
    ];
    all.extend(JobFailure::ALL.map(Reason::Installation));
    all.extend(F::ALL.map(Reason::RunnerBeforePod));
    all.extend(F::ALL.map(Reason::WorkerFailed));
    all.extend(F::ALL.map(Reason::NoGrace));
    all.retain(|reason| home(reason).contains(&rule));
    all
}

pub fn job(id: i64, org: i64) -> Job {
    Job {
        id: JobId(id),
        status: Status::Pending,
        entity: EntityId(org),
        entity_name: format!("org-{org}").into(),
        entity_type: EntityType::Organization,
        owner: OwnerId(org),
        repo: format!("org-{org}/repo").into(),
        installation: InstallationId(org + 500),
        labels: LabelSet::new([LABEL]),
        pool: Pool::from("pool"),
        image: Image::from("ubuntu-24.04"),
        html_url: None,
        created_at: Time(START.0 + id),
        assignment: None,
        completed_at: None,
        requeued_at: None,
        failure: None,
    }
}

pub fn worker(name: &str, org: i64, at: Time) -> Worker {
    Worker {
        name: WorkerName::from(name),
        entity: EntityId(org),
        entity_name: format!("org-{org}").into(),
        entity_type: EntityType::Organization,
        owner: OwnerId(org),
        installation: InstallationId(org + 500),
        repo: None,
        labels: LabelSet::new([LABEL]),
        pool: Pool::from("pool"),
        image: Image::from("ubuntu-24.04"),
        node: None,
        status: Status::Pending,
        failure: None,
        created_at: at,
        running_at: None,
        completed_at: None,
    }
}

/// A worker whose pod nobody saw fails.
pub fn failed(name: WorkerName, at: Time, failure: WorkerFailure) -> Write {
    Write::WorkerFailed { name, at, running_at: None, node: None, failure }
}

pub fn on(runner: &str, at: Time) -> Option<Assignment> {
    Some(Assignment { started_at: at, runner: runner.into() })
}

pub fn pod(name: &str, phase: PodPhase, created_at: Time) -> Pod {
    let started = matches!(phase, PodPhase::Running | PodPhase::Succeeded | PodPhase::Failed);
    Pod {
        name: WorkerName::from(name),
        uid: PodUid::from(format!("uid-{name}")),
        pool: Some(Pool::from("pool")),
        phase,
        node: Some(NodeName::from("node")),
        created_at,
        started_at: started.then_some(created_at),
        finished_at: None,
        deleting: false,
        waiting: None,
    }
}

pub fn ok<T>(value: T) -> GitHubAnswer<T> {
    GitHubAnswer { result: Ok(value), budget: None, calls: 1 }
}

pub fn refused<T>(error: GitHubError) -> GitHubAnswer<T> {
    GitHubAnswer { result: Err(error), budget: None, calls: 1 }
}

pub fn away<T>() -> GitHubAnswer<T> {
    refused(GitHubError::Unavailable { message: "away".into() })
}

impl Bench {
    /// `slots` places in one pool; the delivery logs are empty.
    pub fn new(slots: u32) -> Self {
        let policy = Policy::bare(Realm::Prod);
        let mut bench = Bench {
            snapshot: Snapshot::new(1, &policy),
            policy,
            now: START,
            open: Vec::new(),
            reasons: Vec::new(),
            cluster: Vec::new(),
        };
        bench.nodes(slots);
        bench.decide();
        bench.answer_reads();
        bench.synced();
        bench.decide();
        bench
    }

    pub fn apply(&mut self, change: Change) {
        self.snapshot.apply(change, self.now);
        self.audit();
    }

    /// Every index agrees with the rows, and whatever waits will be woken.
    #[track_caller]
    pub fn audit(&self) {
        let differences = self.snapshot.audit();
        assert!(differences.is_empty(), "{differences:#?}");
    }

    pub fn nodes(&mut self, slots: u32) {
        let node = Node { name: NodeName::from("node"), pool: Some(Pool::from("pool")), runners: slots, usable: true };
        self.apply(Change::Nodes(vec![node]));
    }

    pub fn synced(&mut self) {
        self.apply(Change::StoreSynced { asked_at: self.now });
    }

    pub fn later(&mut self, span: Span) {
        self.now = self.now + span;
    }

    /// Decides, holds the decision against `check`, and holds that deciding again chooses nothing.
    pub fn decide(&mut self) -> Vec<Chosen> {
        let before = self.snapshot.clone();
        let decision = decide(&mut self.snapshot, &self.policy, self.now);
        let violations = check(&before, &self.policy, &decision, self.now);
        assert!(violations.is_empty(), "{violations:#?}\n{decision:#?}");
        let again = decide(&mut self.snapshot, &self.policy, self.now);
        assert!(again.actions.is_empty(), "deciding again chose {:#?}", again.actions);
        self.audit();
        if let Some(at) = again.wake_at {
            assert!(at > self.now, "nothing was chosen, and yet something is due");
        }
        self.open.extend(decision.actions.iter().cloned());
        self.reasons.extend(decision.actions.iter().map(|chosen| chosen.reason.clone()));
        decision.actions
    }

    pub fn answer(&mut self, id: u64, outcome: Outcome) {
        self.open.retain(|chosen| chosen.id != id);
        self.apply(Change::Outcome { action: id, outcome });
    }

    /// The first open action that fits.
    pub fn find(&self, fits: impl Fn(&Action) -> bool) -> Option<Chosen> {
        self.open.iter().find(|chosen| fits(&chosen.action)).cloned()
    }

    #[track_caller]
    pub fn expect(&self, what: &str, fits: impl Fn(&Action) -> bool) -> Chosen {
        self.find(fits).unwrap_or_else(|| panic!("expected {what}; open: {:#?}", self.open))
    }

    /// Every open write is done.
    pub fn answer_writes(&mut self) -> Vec<Write> {
        let mut done = Vec::new();
        for chosen in self.open.clone() {
            if let Action::Write { write, .. } = chosen.action {
                self.answer(chosen.id, Outcome::Written(Ok(Written::Done)));
                done.push(write);
            }
        }
        done
    }

    /// Listings are empty, logs too.
    pub fn answer_reads(&mut self) {
        for chosen in self.open.clone() {
            let outcome = match chosen.action {
                Action::ListPods => Outcome::PodsListed(Ok(PodListing { asked_at: self.now, pods: Vec::new() })),
                Action::ListDeliveries { .. } => Outcome::DeliveriesListed(ok(Vec::new())),
                _ => continue,
            };
            self.answer(chosen.id, outcome);
        }
    }

    /// A listing of a scope's runners: (name, online, busy).
    pub fn listed(&mut self, runners: &[(&str, bool, bool)]) {
        let chosen = self.expect("a listing", |action| matches!(action, Action::ListRunners(_)));
        let runners = runners
            .iter()
            .enumerate()
            .map(|(i, &(name, online, busy))| Runner { id: RunnerId(i as i64 + 1), name: name.into(), online, busy })
            .collect();
        self.answer(chosen.id, Outcome::RunnersListed(ok(RunnerListing { asked_at: self.now, runners })));
    }

    pub fn pods(&mut self, pods: Vec<Pod>) {
        self.apply(Change::Pods(PodListing { asked_at: self.now, pods }));
    }

    /// Reservations among the open actions: (worker, the job that asked).
    pub fn reservations(&self) -> Vec<(Worker, JobId)> {
        let reserve = |chosen: &Chosen| match (&chosen.action, &chosen.reason) {
            (Action::Write { write: Write::Reserve { worker, .. }, .. }, engine::decision::Reason::Demand { job }) => {
                Some(((**worker).clone(), *job))
            }
            _ => None,
        };
        self.open.iter().filter_map(reserve).collect()
    }

    /// Takes one worker for a job through all its steps; its name.
    pub fn provision(&mut self) -> WorkerName {
        self.decide();
        let (worker, _) = self.reservations().remove(0);
        self.answer_writes();
        self.decide();
        let mint = self.expect("a JIT call", |action| matches!(action, Action::MintJit(_)));
        self.answer(mint.id, Outcome::JitMinted(ok(Minted { runner: RunnerId(99) })));
        self.decide();
        let create = self.expect("a pod", |action| matches!(action, Action::CreatePod(_)));
        self.answer(create.id, Outcome::PodCreated(Ok(pod(worker.name.as_str(), PodPhase::Pending, self.now))));
        self.decide();
        let secret = self.expect("a Secret", |action| matches!(action, Action::CreateSecret { .. }));
        self.answer(secret.id, Outcome::SecretCreated(Ok(())));
        self.decide();
        worker.name
    }

    /// The pod runs, and the row says so.
    pub fn run_pod(&mut self, name: &WorkerName) {
        self.apply(Change::PodSeen(pod(name.as_str(), PodPhase::Running, self.now)));
        self.decide();
        self.answer_writes();
        self.decide();
    }

    /// Decides after this long.
    pub fn tick(&mut self, span: Span) {
        self.later(span);
        self.decide();
    }

    /// The cluster has this pod, and the watch says so.
    pub fn see(&mut self, pod: Pod) {
        self.cluster.retain(|known| known.name != pod.name);
        self.cluster.push(pod.clone());
        self.apply(Change::PodSeen(pod));
    }

    /// A worker of entity 1 that another leader made, with its pod.
    pub fn find_worker(&mut self, status: Status, phase: PodPhase) {
        let running_at = (status == Status::Running).then_some(self.now);
        self.apply(Change::Worker(Worker { status, running_at, ..worker(OURS, 1, self.now) }));
        self.see(pod(OURS, phase, self.now));
        self.tick(Span(1));
    }

    /// An open action of this reason.
    pub fn why(&self, reason: &Reason) -> Option<Chosen> {
        self.open.iter().find(|chosen| chosen.reason == *reason).cloned()
    }

    /// Time passes while GitHub lists these runners (`None`: its installation is gone), the cluster its pods, and the
    /// store does as it is told, until an action of this reason is chosen. `None` when that takes longer than `most`.
    pub fn until(&mut self, reason: &Reason, runners: Option<&[(&str, bool, bool)]>, most: Span) -> Option<Chosen> {
        let end = self.now + most;
        loop {
            self.decide();
            if let Some(chosen) = self.why(reason) {
                return Some(chosen);
            }
            let mut answered = false;
            for chosen in self.open.clone() {
                let outcome = match (&chosen.action, runners) {
                    (Action::ListRunners(_), Some(runners)) => {
                        self.listed(runners);
                        answered = true;
                        continue;
                    }
                    (Action::ListRunners(_), None) => Outcome::RunnersListed(refused(GitHubError::InstallationGone)),
                    (Action::ListPods, _) => {
                        let pods = self.cluster.clone();
                        Outcome::PodsListed(Ok(PodListing { asked_at: self.now, pods }))
                    }
                    (Action::ListDeliveries { .. }, _) => Outcome::DeliveriesListed(ok(Vec::new())),
                    (Action::Write { .. }, _) => Outcome::Written(Ok(Written::Done)),
                    _ => continue,
                };
                self.answer(chosen.id, outcome);
                answered = true;
            }
            if !answered {
                if self.now >= end {
                    return None;
                }
                self.later(Span::secs(5));
                self.synced();
            }
        }
    }
}
