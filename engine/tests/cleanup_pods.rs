//! cleanup_pods: a table of every branch.

mod support;

use engine::{
    decide::decide,
    decision::{Action, Reason, WorkerFailure, Write},
    facts::*,
    ids::*,
};
use support::*;

const HOUR: Span = Span::hours(1);

fn written(bench: &Bench) -> Vec<Write> {
    let writes = bench.open.iter().filter_map(|chosen| match &chosen.action {
        Action::Write { write, .. } => Some(write.clone()),
        _ => None,
    });
    writes.collect()
}

fn ended(bench: &mut Bench, failure: Option<WorkerFailure>, phase: PodPhase) {
    let status = if failure.is_some() { Status::Failed } else { Status::Completed };
    let completed_at = Some(bench.now);
    bench.apply(Change::Worker(Worker { status, failure, completed_at, ..worker(OURS, 1, START) }));
    bench.see(Pod { finished_at: phase.is_ended().then_some(bench.now), ..pod(OURS, phase, START) });
    bench.tick(Span(1));
}

#[track_caller]
fn deletes(chosen: Option<engine::decision::Chosen>) {
    let expected = Action::DeletePod { name: OURS.into(), uid: PodUid::from(format!("uid-{OURS}")) };
    assert_eq!(chosen.map(|chosen| chosen.action), Some(expected));
}

/// The only place is a pod's that the watch saw go. A listing has it still, asked for so many seconds later. Workers that
/// are reserved then.
fn listed_after_it_went(bench: &mut Bench, seconds: i64) -> usize {
    bench.nodes(1);
    bench.find_worker(Status::Pending, PodPhase::Pending);
    ended(bench, Some(WorkerFailure::PodStuckPending), PodPhase::Pending);
    let pods = bench.cluster.clone();
    bench.later(Span::mins(1));
    bench.apply(Change::PodGone { name: OURS.into(), uid: PodUid::from(format!("uid-{OURS}")) });
    let asked_at = bench.now + Span::secs(seconds);
    bench.later(Span::secs(2));
    bench.apply(Change::Pods(PodListing { asked_at, pods }));
    bench.apply(Change::Job(job(1, 1)));
    bench.decide();
    bench.reservations().len()
}

const CASES: &[Case] = &[
    ("a pod runs: its worker does, since when and where", |bench| {
        bench.find_worker(Status::Pending, PodPhase::Running);
        let node = Some(NodeName::from("node"));
        assert_eq!(written(bench), [Write::WorkerRunning { name: OURS.into(), at: START, node }]);
    }),
    ("a pod that ran well: its worker is completed", |bench| {
        bench.apply(Change::Worker(worker(OURS, 1, START)));
        let at = START + Span::secs(9);
        bench.see(Pod { finished_at: Some(at), ..pod(OURS, PodPhase::Succeeded, START) });
        bench.decide();
        let (name, node) = (OURS.into(), Some(NodeName::from("node")));
        assert_eq!(written(bench), [Write::WorkerCompleted { name, at, running_at: Some(START), node }]);
    }),
    ("a pod that failed: its worker too, and its logs are saved first", |bench| {
        bench.find_worker(Status::Running, PodPhase::Failed);
        let chosen = bench.why(&Reason::WorkerFailed(WorkerFailure::PodFailed)).expect("it failed");
        let Action::Write { diagnose: Some((name, _)), .. } = chosen.action else { panic!("no diagnosis: {chosen:?}") };
        assert_eq!(name.as_str(), OURS);
    }),
    ("what failed is written with since when and where it ran, though nobody saw it run", |bench| {
        bench.apply(Change::Worker(worker(OURS, 1, START)));
        bench.see(Pod { finished_at: Some(START + Span::secs(9)), ..pod(OURS, PodPhase::Failed, START) });
        bench.decide();
        let (name, at, failure) = (OURS.into(), bench.now, WorkerFailure::PodFailed);
        let node = Some(NodeName::from("node"));
        assert_eq!(written(bench), [Write::WorkerFailed { name, at, running_at: Some(START), node, failure }]);
    }),
    ("a pod that nobody found a node for has none to tell", |bench| {
        bench.apply(Change::Worker(worker(OURS, 1, START)));
        bench.see(Pod { node: None, started_at: None, ..pod(OURS, PodPhase::Failed, START) });
        bench.decide();
        let (name, at, failure) = (OURS.into(), bench.now, WorkerFailure::PodFailed);
        assert_eq!(written(bench), [Write::WorkerFailed { name, at, running_at: None, node: None, failure }]);
    }),
    ("pending, running again or unknown: nothing to write", |bench| {
        bench.find_worker(Status::Pending, PodPhase::Pending);
        bench.see(pod(OURS, PodPhase::Unknown, START));
        bench.decide();
        assert_eq!(written(bench), []);
    }),
    ("a write that failed is repeated after a pause", |bench| {
        bench.find_worker(Status::Pending, PodPhase::Running);
        let chosen = bench.why(&Reason::PodPhase).expect("it runs");
        bench.answer(chosen.id, Outcome::Written(Err(StoreError::Unavailable { message: "away".into() })));
        bench.decide();
        assert_eq!(bench.why(&Reason::PodPhase), None);
        bench.tick(Span::secs(5));
        assert!(bench.why(&Reason::PodPhase).is_some());
    }),
    ("the store says that it has ended otherwise: nothing is written again", |bench| {
        bench.find_worker(Status::Pending, PodPhase::Running);
        let chosen = bench.why(&Reason::PodPhase).expect("it runs");
        bench.answer(chosen.id, Outcome::Written(Ok(Written::RefusedState)));
        bench.tick(Span::mins(2));
        assert_eq!(written(bench), []);
    }),
    ("an ended pod stays for 6 hours, and no longer", |bench| {
        ended(bench, None, PodPhase::Succeeded);
        bench.tick(Span(6 * HOUR.0 - 2));
        assert_eq!(bench.why(&Reason::GraceOver), None);
        bench.tick(Span(1));
        deletes(bench.why(&Reason::GraceOver));
    }),
    ("6 hours too for one that failed or is gone", |bench| {
        for failure in [WorkerFailure::PodFailed, WorkerFailure::PodVanished] {
            let mut bench = Bench::new(1);
            ended(&mut bench, Some(failure), PodPhase::Failed);
            bench.tick(Span(6 * HOUR.0 - 2));
            assert_eq!(bench.why(&Reason::GraceOver), None, "{failure}");
            bench.tick(Span(1));
            deletes(bench.why(&Reason::GraceOver));
        }
        bench.decide();
    }),
    ("an ended pod that stands in the way goes at once; each such failure", |bench| {
        for failure in WorkerFailure::ALL.into_iter().filter(|failure| !failure.keeps_pod()) {
            let mut one = Bench::new(1);
            ended(&mut one, Some(failure), PodPhase::Failed);
            deletes(one.why(&Reason::NoGrace(failure)));
            bench.reasons.extend(one.reasons);
        }
    }),
    ("it stays when it had ended by itself before its worker was failed", |bench| {
        let failure = WorkerFailure::RunnerLost;
        let row = Worker { status: Status::Failed, failure: Some(failure), ..worker(OURS, 1, START) };
        bench.apply(Change::Worker(Worker { completed_at: Some(bench.now), ..row }));
        let finished_at = Some(bench.now - Span::secs(2));
        bench.see(Pod { finished_at, ..pod(OURS, PodPhase::Succeeded, START) });
        bench.tick(Span(6 * HOUR.0 - 2));
        assert_eq!(bench.why(&Reason::NoGrace(failure)), None);
        bench.tick(Span(2));
        deletes(bench.why(&Reason::GraceOver));
    }),
    ("one that is alive goes once GitHub has shown that its runner is not there", |bench| {
        ended(bench, Some(WorkerFailure::Surplus), PodPhase::Running);
        let reason = Reason::NoGrace(WorkerFailure::Surplus);
        assert_eq!(bench.why(&reason), None, "S16: nobody has looked");
        deletes(bench.until(&reason, Some(&[]), Span::mins(1)));
    }),
    ("and not while its runner is busy", |bench| {
        ended(bench, Some(WorkerFailure::Surplus), PodPhase::Running);
        let reason = Reason::NoGrace(WorkerFailure::Surplus);
        assert_eq!(bench.until(&reason, Some(&[(OURS, true, true)]), HOUR), None);
    }),
    ("nor while a running job names it", |bench| {
        let running = Job { status: Status::Running, assignment: on(OURS, START), ..job(1, 1) };
        bench.apply(Change::Job(running));
        ended(bench, Some(WorkerFailure::Surplus), PodPhase::Running);
        assert_eq!(bench.until(&Reason::NoGrace(WorkerFailure::Surplus), Some(&[]), HOUR), None);
    }),
    ("a completed worker's pod that is alive all the same is nobody's", |bench| {
        ended(bench, None, PodPhase::Running);
        deletes(bench.until(&Reason::OrphanPod, Some(&[]), Span::mins(1)));
    }),
    ("a deletion that failed is repeated after a pause, one that was accepted is not", |bench| {
        let reason = Reason::NoGrace(WorkerFailure::Surplus);
        ended(bench, Some(WorkerFailure::Surplus), PodPhase::Failed);
        let chosen = bench.why(&reason).expect("a deletion");
        bench.answer(chosen.id, Outcome::PodDeleted(Err(ClusterError::Unavailable { message: "away".into() })));
        bench.decide();
        assert_eq!(bench.why(&reason), None);
        bench.tick(Span::secs(5));
        let chosen = bench.why(&reason).expect("another");
        bench.answer(chosen.id, Outcome::PodDeleted(Ok(())));
        bench.tick(HOUR);
        assert_eq!(bench.why(&reason), None);
    }),
    ("a pod of ours without a row: only once the store has been read after it was seen", |bench| {
        bench.see(pod(OURS, PodPhase::Pending, START));
        bench.decide();
        bench.tick(Span::mins(1));
        assert_eq!(bench.why(&Reason::OrphanPod), None, "S16");
        bench.synced();
        bench.tick(Span::mins(1));
        deletes(bench.why(&Reason::OrphanPod));
    }),
    ("one that runs, of an entity that cannot be asked about, is left alone", |bench| {
        bench.see(pod(OURS, PodPhase::Running, START));
        assert_eq!(bench.until(&Reason::OrphanPod, Some(&[]), HOUR), None);
    }),
    ("one that runs goes once its runner is known not to be there", |bench| {
        bench.apply(Change::Job(job(1, 1)));
        bench.see(pod(OURS, PodPhase::Running, START));
        deletes(bench.until(&Reason::OrphanPod, Some(&[]), Span::mins(10)));
    }),
    ("one that has ended stays for its 6 hours too", |bench| {
        bench.see(Pod { finished_at: Some(START), ..pod(OURS, PodPhase::Failed, START) });
        bench.tick(Span::secs(1));
        bench.synced();
        bench.tick(Span(6 * HOUR.0 - 1_001));
        assert_eq!(bench.why(&Reason::OrphanPod), None);
        bench.tick(Span(1));
        deletes(bench.why(&Reason::OrphanPod));
    }),
    ("what is not ours is never touched", |bench| {
        let foreign =
            ["rise-riscv-runner-staging-1-abcdefghi", "web-1", "rise-riscv-runner-1-abc", "rise-riscv-runner"];
        for name in foreign {
            bench.see(pod(name, PodPhase::Pending, START));
        }
        let touched = |bench: &Bench| bench.find(|action| matches!(action, Action::DeletePod { .. }));
        assert_eq!(bench.until(&Reason::OrphanPod, Some(&[]), Span::hours(7)), None);
        assert_eq!(touched(bench), None);
    }),
    ("a worker whose pod is gone: only once a complete listing lacks it", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        let uid = PodUid::from(format!("uid-{OURS}"));
        bench.cluster.clear();
        bench.apply(Change::PodGone { name: OURS.into(), uid });
        bench.decide();
        // The first listing of all is older than the worker is.
        let reason = Reason::WorkerFailed(WorkerFailure::PodVanished);
        assert!(bench.until(&reason, Some(&[]), Span::mins(1)).is_some());
    }),
    ("a listing that was asked for before a pod went does not bring it back: its place is free", |bench| {
        assert_eq!(listed_after_it_went(bench, -1), 1);
    }),
    ("one that was asked for later does, whatever the watch said", |bench| {
        assert_eq!(listed_after_it_went(bench, 1), 0);
    }),
    ("a worker that another leader left without a pod", |bench| {
        bench.later(Span(1));
        bench.apply(Change::Worker(worker(OURS, 1, bench.now)));
        bench.decide();
        let reason = Reason::WorkerFailed(WorkerFailure::ProvisioningInterrupted);
        assert_eq!(bench.why(&reason), None, "S16: no listing is younger than it");
        assert!(bench.until(&reason, Some(&[]), Span::secs(20)).is_some());
    }),
    ("all pods are listed every 5 minutes, and 15 s after the last time when one is out of view", |bench| {
        let listing = |action: &Action| matches!(action, Action::ListPods);
        bench.tick(Span(Span::mins(5).0 - 1));
        assert_eq!(bench.find(listing), None);
        bench.tick(Span(1));
        assert!(bench.why(&Reason::PodViewDoubt).is_some());
        bench.answer_reads();
        bench.later(Span(1));
        bench.apply(Change::Worker(worker(OURS, 1, bench.now)));
        bench.tick(Span(Span::secs(15).0 - 2));
        assert_eq!(bench.find(listing), None);
        bench.tick(Span(1));
        assert!(bench.find(listing).is_some());
    }),
    ("no listing before its shortest pause is over, however many are missed, and then one for all of them", |bench| {
        let listing = |action: &Action| matches!(action, Action::ListPods);
        bench.tick(Span::mins(5));
        bench.answer_reads();
        let listed_at = bench.now;
        for (i, suffix) in ('a'..='n').enumerate() {
            let name = format!("rise-riscv-runner-1-{}", String::from(suffix).repeat(9));
            bench.apply(Change::Worker(worker(&name, 1, listed_at + Span::secs(i as i64))));
            bench.tick(Span::secs(1));
            assert_eq!(bench.find(listing), None, "{suffix}");
        }
        let wakes = decide(&mut bench.snapshot, &bench.policy, bench.now).wake_at;
        assert_eq!(wakes, Some(listed_at + bench.policy.timeouts.pods_doubt), "it is not slept through");
        bench.tick(Span::secs(1));
        assert_eq!(bench.open.iter().filter(|chosen| listing(&chosen.action)).count(), 1);
        let lost = Reason::WorkerFailed(WorkerFailure::ProvisioningInterrupted);
        bench.answer_reads();
        bench.decide();
        assert_eq!(bench.open.iter().filter(|chosen| chosen.reason == lost).count(), 14);
    }),
    ("with nobody missed the next listing is 5 minutes away, though the shortest pause is over", |bench| {
        bench.tick(Span::mins(5));
        bench.answer_reads();
        bench.tick(Span::secs(15));
        bench.tick(Span(Span::mins(5).0 - 15_001));
        assert_eq!(bench.find(|action| matches!(action, Action::ListPods)), None);
        bench.tick(Span(1));
        assert!(bench.why(&Reason::PodViewDoubt).is_some());
    }),
    ("a worker is forgotten 10 minutes after nothing of it is left, on GitHub too", |bench| {
        ended(bench, Some(WorkerFailure::PodVanished), PodPhase::Failed);
        bench.cluster.clear();
        bench.apply(Change::PodGone { name: OURS.into(), uid: PodUid::from(format!("uid-{OURS}")) });
        bench.tick(Span::mins(20));
        assert_eq!(bench.snapshot.known_workers(), 1, "its runner may still be there");
        bench.listed(&[]);
        bench.tick(Span(1));
        assert_eq!(bench.snapshot.known_workers(), 0);
    }),
];

#[test]
fn every_branch_and_every_reason() {
    play(0, CASES, &reasons_of("cleanup_pods"));
}
