//! demand_match against the specification's loop, transcribed naively, over random histories.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    decision::{Chosen, Reason, WorkerFailure},
    facts::*,
    ids::*,
    labels::LabelSet,
    policy::{OwnerPolicy, Staging},
};
use proptest::prelude::*;
use support::*;

/// What the oracle sees: plain rows.
#[derive(Clone, Debug, Default)]
struct Rows {
    jobs: BTreeMap<i64, Job>,
    workers: BTreeMap<WorkerName, Worker>,
    /// Workers whose runner has had its job.
    spent: BTreeSet<WorkerName>,
    slots: i64,
}

impl Rows {
    fn active(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().filter(|worker| !worker.status.is_ended())
    }

    /// The specification, "Scheduler provisioning": visit pending jobs in FIFO order; skip where demand is met, where the
    /// owner is at its cap, where the pool is full; otherwise provision. With the refinements of the design (a runner that
    /// has had its job is no supply), and never more than the pending jobs that no idle worker serves.
    fn oracle(&self, cap: impl Fn(OwnerId) -> Option<u32>) -> Vec<JobId> {
        let mut rows = self.clone();
        let mut pending: Vec<Job> = rows.jobs.values().filter(|job| job.status == Status::Pending).cloned().collect();
        pending.sort_by_key(|job| (job.created_at, job.id));
        let mut provisioned = Vec::new();
        for job in pending {
            let group = |entity: EntityId, labels: &LabelSet| entity == job.entity && *labels == job.labels;
            let waiting =
                rows.jobs.values().filter(|it| it.status == Status::Pending && group(it.entity, &it.labels)).count()
                    as i64;
            let running = |it: &&Job| it.status == Status::Running;
            let named = |name: &WorkerName| {
                rows.jobs
                    .values()
                    .filter(running)
                    .any(|it| it.assignment.as_ref().is_some_and(|a| *a.runner == *name.as_str()))
            };
            let anonymous = rows
                .jobs
                .values()
                .filter(running)
                .filter(|it| group(it.entity, &it.labels) && it.assignment.is_none())
                .count() as i64;
            let free = || rows.active().filter(|it| group(it.entity, &it.labels) && !named(&it.name));
            let spent = free().filter(|it| rows.spent.contains(&it.name)).count() as i64;
            let unspent = |started: bool| {
                let of = |it: &&Worker| !rows.spent.contains(&it.name) && (it.status == Status::Running) == started;
                free().filter(of).count() as i64
            };
            // A job whose runner is unknown may be what had the runner that is spent.
            let idle = unspent(false) + (unspent(true) + spent - anonymous.max(spent)).max(0);
            if waiting <= idle {
                continue;
            }
            let owned = rows.active().filter(|it| it.owner == job.owner).count();
            if cap(job.owner).is_some_and(|cap| owned >= cap as usize) {
                continue;
            }
            if rows.active().filter(|it| it.pool == job.pool).count() as i64 >= rows.slots {
                continue;
            }
            let mut new = worker(&format!("new-{}", job.id), job.entity.0, START);
            new.labels = job.labels.clone();
            rows.workers.insert(new.name.clone(), new);
            provisioned.push(job.id);
        }
        provisioned
    }
}

#[derive(Clone, Debug)]
enum Step {
    Queue { id: i64, org: i64, label: usize },
    Start { id: i64, named: Option<usize> },
    End { id: i64 },
    WorkerStarts { index: usize },
    WorkerEnds { index: usize },
    Slots(u32),
    Decide,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..40i64, 1..4i64, 0..2usize).prop_map(|(id, org, label)| Step::Queue { id, org, label }),
        3 => (1..40i64, proptest::option::of(0..8usize)).prop_map(|(id, named)| Step::Start { id, named }),
        2 => (1..40i64).prop_map(|id| Step::End { id }),
        2 => (0..8usize).prop_map(|index| Step::WorkerStarts { index }),
        2 => (0..8usize).prop_map(|index| Step::WorkerEnds { index }),
        1 => (0..12u32).prop_map(Step::Slots),
        4 => Just(Step::Decide),
    ]
}

const LABELS: [&str; 2] = [LABEL, "other"];

fn run(steps: Vec<Step>, caps: [Option<u32>; 3]) {
    let mut bench = Bench::new(6);
    for (i, max_workers) in caps.into_iter().enumerate() {
        let entry = OwnerPolicy { name: String::new(), max_workers, staging: Staging::No };
        bench.policy.owners.insert(OwnerId(i as i64 + 1), entry);
    }
    let mut rows = Rows { slots: 6, ..Rows::default() };
    for step in steps {
        match step {
            Step::Queue { id, org, label } => {
                let mut new = job(id, org);
                new.labels = LabelSet::new([LABELS[label]]);
                if rows.jobs.contains_key(&id) {
                    continue;
                }
                rows.jobs.insert(id, new.clone());
                bench.apply(Change::Job(new));
            }
            Step::Start { id, named } => {
                let names: Vec<WorkerName> = rows.active().map(|worker| worker.name.clone()).collect();
                let Some(job) = rows.jobs.get_mut(&id).filter(|job| job.status == Status::Pending) else { continue };
                job.status = Status::Running;
                let runner = named.map(|i| names.get(i).map_or("elsewhere".to_owned(), |name| name.to_string()));
                job.assignment = runner.and_then(|runner| on(&runner, START));
                bench.apply(Change::Job(job.clone()));
            }
            Step::End { id } => {
                let Some(mut job) = rows.jobs.remove(&id) else { continue };
                job.status = Status::Completed;
                let runner = job.assignment.as_ref().map(|it| WorkerName::new(it.runner.clone()));
                let active = |name: &WorkerName| rows.active().any(|worker| worker.name == *name);
                rows.spent.extend(runner.filter(active));
                bench.apply(Change::Job(job));
            }
            Step::WorkerStarts { index } => {
                let Some(name) = rows.active().nth(index).map(|worker| worker.name.clone()) else { continue };
                let Some(worker) = rows.workers.get_mut(&name) else { continue };
                worker.status = Status::Running;
                bench.apply(Change::Worker(worker.clone()));
            }
            Step::WorkerEnds { index } => {
                let Some(name) = rows.active().nth(index).map(|worker| worker.name.clone()) else { continue };
                let Some(worker) = rows.workers.get_mut(&name) else { continue };
                worker.status = Status::Completed;
                worker.completed_at = Some(bench.now);
                bench.apply(Change::Worker(worker.clone()));
            }
            Step::Slots(slots) => {
                rows.slots = i64::from(slots);
                bench.nodes(slots);
            }
            Step::Decide => {
                let policy = bench.policy.clone();
                let expected = rows.oracle(|owner| policy.cap(owner));
                bench.decide();
                let made = bench.reservations();
                let chosen: Vec<JobId> = made.iter().map(|(_, job)| *job).collect();
                assert_eq!(chosen, expected, "{rows:#?}");
                for (worker, _) in made {
                    rows.workers.insert(worker.name.clone(), worker);
                }
                // From here on their JIT calls are under way and never answered: rows move by the steps alone.
                bench.answer_writes();
                bench.decide();
                assert_eq!(bench.reservations(), []);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reserves_what_the_specifications_loop_would(
        steps in proptest::collection::vec(step(), 1..60),
        caps in [proptest::option::of(0..6u32), proptest::option::of(0..6u32), proptest::option::of(0..6u32)],
    ) {
        run(steps, caps);
    }
}

#[test]
fn the_oldest_job_gets_the_only_place() {
    let mut bench = Bench::new(1);
    for id in [3, 1, 2] {
        bench.apply(Change::Job(job(id, id)));
    }
    bench.decide();
    assert_eq!(bench.reservations().iter().map(|(_, job)| job.0).collect::<Vec<_>>(), [1]);
}

#[test]
fn a_refused_reservation_is_tried_again_after_a_pause_and_not_before() {
    for refusal in [Written::RefusedCap, Written::RefusedDemand, Written::RefusedName] {
        let mut bench = Bench::new(1);
        bench.apply(Change::Job(job(1, 1)));
        bench.decide();
        let chosen = bench
            .open
            .iter()
            .find(|chosen| matches!(chosen.action, engine::decision::Action::Write { .. }))
            .cloned()
            .unwrap();
        bench.answer(chosen.id, Outcome::Written(Ok(refusal)));
        bench.decide();
        assert!(bench.reservations().is_empty(), "{refusal:?}");
        bench.later(Span::secs(6));
        bench.decide();
        assert_eq!(bench.reservations().len(), 1, "{refusal:?}");
    }
}

/// It may have been refused because of that one.
#[test]
fn a_refused_reservation_is_tried_again_at_once_when_a_worker_of_its_group_has_ended() {
    let mut bench = Bench::new(2);
    let other = worker("rise-riscv-runner-1-other", 1, START);
    bench.apply(Change::Worker(other.clone()));
    (1..=2).for_each(|id| bench.apply(Change::Job(job(id, 1))));
    bench.decide();
    assert_eq!(bench.reservations().len(), 1);
    let reserves = |it: &&Chosen| matches!(it.reason, Reason::Demand { .. });
    let id = bench.open.iter().find(reserves).map(|it| it.id).unwrap();
    bench.answer(id, Outcome::Written(Ok(Written::RefusedDemand)));
    bench.decide();
    assert!(bench.reservations().is_empty());
    let failure = Some(WorkerFailure::PodVanished);
    let ended = Worker { status: Status::Failed, failure, completed_at: Some(bench.now), ..other };
    bench.apply(Change::Worker(ended.clone()));
    bench.decide();
    assert_eq!(bench.reservations().len(), 2);
    // What changes about it later is no reason to ask again: it has been no worker of the group for long.
    let asked: Vec<_> = bench.open.iter().filter(reserves).map(|it| it.id).collect();
    asked.into_iter().for_each(|id| bench.answer(id, Outcome::Written(Ok(Written::RefusedDemand))));
    bench.decide();
    assert_eq!(bench.reservations(), []);
    bench.apply(Change::Worker(Worker { node: Some("board-1".into()), ..ended }));
    bench.decide();
    assert_eq!(bench.reservations(), []);
}

#[test]
fn nothing_is_reserved_while_a_view_is_missing() {
    let policy = engine::policy::Policy::bare(Realm::Prod);
    let mut snapshot = engine::snapshot::Snapshot::new(1, &policy);
    snapshot.apply(Change::Job(job(1, 1)), START);
    snapshot.apply(Change::StoreSynced { asked_at: START }, START);
    let decision = engine::decide::decide(&mut snapshot, &policy, START);
    let reserves =
        decision.actions.iter().any(|chosen| matches!(chosen.action, engine::decision::Action::Write { .. }));
    assert!(!reserves, "{decision:#?}");
}

#[test]
fn a_job_without_an_installation_is_served_once_any_delivery_of_its_entity_has_told() {
    let mut bench = Bench::new(2);
    let mut unknown = job(1, 1);
    unknown.installation = InstallationId(0);
    bench.apply(Change::Job(unknown));
    bench.decide();
    assert_eq!(bench.reservations(), []);
    bench.apply(Change::Job(job(2, 1)));
    bench.decide();
    let served = bench.reservations();
    assert_eq!(served.iter().map(|(_, job)| job.0).collect::<Vec<_>>(), [1, 2]);
    assert!(served.iter().all(|(worker, _)| worker.installation == InstallationId(501)));
}

/// A runner takes one job in its life. That one has ended: its pod is about to end too, and where jobs end all the time
/// there is always one such. Or its row was failed: a gone App's jobs are, and run all the same when it is installed anew,
/// each on a runner that was made for another.
#[test]
fn a_runner_that_has_had_its_job_serves_no_other() {
    use engine::decision::JobFailure::InstallationGone;
    for (status, failure) in [(Status::Completed, None), (Status::Failed, Some(InstallationGone))] {
        let ended = |runner: &str| Job {
            status,
            assignment: on(runner, START),
            completed_at: Some(START),
            failure,
            ..job(1, 1)
        };
        had_its_job(ended);
    }
}

fn had_its_job(ended: impl Fn(&str) -> Job) {
    let listing = |bench: &mut Bench, busy: bool| {
        let find = |bench: &Bench| bench.find(|action| matches!(action, engine::decision::Action::ListRunners(_)));
        while find(bench).is_none() {
            bench.tick(Span::secs(5));
        }
        bench.listed(&[(OURS, true, busy)]);
        bench.decide();
    };
    let mut bench = Bench::new(2);
    bench.find_worker(Status::Running, PodPhase::Running);
    bench.answer_writes();
    bench.apply(Change::Job(job(2, 1)));
    bench.decide();
    assert_eq!(bench.reservations(), [], "a free runner is there");
    listing(&mut bench, false);
    bench.apply(Change::Job(ended(OURS)));
    bench.decide();
    assert_eq!(bench.reservations().iter().map(|(_, job)| job.0).collect::<Vec<_>>(), [2]);

    // GitHub's `busy` lags: a listing that shows it idle soon after says nothing against it.
    let mut bench = Bench::new(2);
    bench.find_worker(Status::Running, PodPhase::Running);
    bench.answer_writes();
    bench.apply(Change::Job(ended(OURS)));
    bench.decide();
    listing(&mut bench, false);
    bench.apply(Change::Job(job(2, 1)));
    bench.decide();
    assert_eq!(bench.reservations().len(), 1);

    // What is idle long after that is free.
    let mut bench = Bench::new(2);
    bench.find_worker(Status::Running, PodPhase::Running);
    bench.answer_writes();
    bench.apply(Change::Job(ended(OURS)));
    bench.decide();
    let told = bench.now;
    while bench.now.since(told) < bench.policy.timeouts.idle_proof {
        listing(&mut bench, false);
    }
    listing(&mut bench, false);
    bench.apply(Change::Job(job(2, 1)));
    bench.decide();
    assert_eq!(bench.reservations(), []);
}
