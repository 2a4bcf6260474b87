//! `check` itself: for each invariant it names, a decision by hand that it must catch, and its like that it lets pass.

mod support;

use std::collections::BTreeSet;

use engine::{
    check::check,
    decision::{Action, Chosen, Decision, Reason, WorkerFailure, Write},
    facts::*,
    ids::*,
    labels::LabelSet,
};
use support::*;

/// Which invariants it finds broken when the engine had chosen this.
fn broken(bench: &Bench, actions: impl IntoIterator<Item = Action>) -> BTreeSet<&'static str> {
    let chosen = (1..).zip(actions).map(|(id, action)| Chosen { id, action, reason: Reason::NextStep });
    let decision = Decision { actions: chosen.collect(), wake_at: None };
    check(&bench.snapshot, &bench.policy, &decision, bench.now).into_iter().map(|it| it.invariant).collect()
}

fn write(write: Write) -> Action {
    Action::Write { write, diagnose: None }
}

fn reserve(suffix: char, change: impl FnOnce(&mut Worker)) -> Action {
    let name = format!("rise-riscv-runner-1-{}", String::from(suffix).repeat(9));
    let mut worker = worker(&name, 1, START);
    change(&mut worker);
    write(Write::Reserve { worker: Box::new(worker), cap: Some(20), phantoms: [].into() })
}

fn delete_pod(name: &str) -> Action {
    Action::DeletePod { name: name.into(), uid: PodUid::from(format!("uid-{name}")) }
}

fn delete_runner(name: &str) -> Action {
    Action::DeleteRunner { scope: worker(OURS, 1, START).scope(), id: RunnerId(1), name: name.into() }
}

/// Two pending jobs and room for two.
fn wanting() -> Bench {
    let mut bench = Bench::new(2);
    bench.apply(Change::Job(job(1, 1)));
    bench.apply(Change::Job(job(2, 1)));
    bench
}

/// A worker whose runner is online and free.
fn idle() -> Bench {
    let mut bench = Bench::new(4);
    bench.later(Span::secs(1));
    bench.find_worker(Status::Running, PodPhase::Running);
    bench.listed(&[(OURS, true, false)]);
    bench
}

fn running(runner: &str) -> Job {
    Job { status: Status::Running, assignment: on(runner, START), ..job(7, 1) }
}

#[test]
fn what_the_rules_would_choose_passes() {
    assert_eq!(broken(&wanting(), [reserve('a', |_| {}), reserve('b', |_| {})]), BTreeSet::new());
    let bench = idle();
    assert_eq!(broken(&bench, [delete_runner(OURS), delete_pod(OURS)]), BTreeSet::new());
}

#[test]
fn s2_an_ended_worker_is_written_again() {
    for status in [Status::Completed, Status::Failed] {
        let mut bench = Bench::new(1);
        bench.apply(Change::Worker(Worker { status, completed_at: Some(START), ..worker(OURS, 1, START) }));
        let (name, at) = (|| WorkerName::from(OURS), START);
        for again in [
            Write::WorkerRunning { name: name(), at, node: None },
            Write::WorkerCompleted { name: name(), at, running_at: None, node: None },
            failed(name(), at, WorkerFailure::Surplus),
        ] {
            assert_eq!(broken(&bench, [write(again)]), BTreeSet::from(["S2 forward-only"]));
        }
    }
}

#[test]
fn s4_more_workers_than_the_cap_or_a_cap_that_is_not_the_policys() {
    let mut bench = wanting();
    bench.policy.default_max_workers = Some(1);
    let capped = |suffix| match reserve(suffix, |_| {}) {
        Action::Write { write: Write::Reserve { worker, .. }, .. } => {
            write(Write::Reserve { worker, cap: Some(1), phantoms: [].into() })
        }
        other => other,
    };
    assert_eq!(broken(&bench, [capped('a')]), BTreeSet::new());
    assert_eq!(broken(&bench, [capped('a'), capped('b')]), BTreeSet::from(["S4 cap"]));
    assert_eq!(broken(&bench, [reserve('a', |_| {})]), BTreeSet::from(["S4 cap"]), "the store would be told 20");
    // What the same decision ends makes room.
    bench.apply(Change::Worker(worker(OURS, 1, START)));
    assert_eq!(broken(&bench, [capped('a')]), BTreeSet::from(["S4 cap"]));
    let name = WorkerName::from(OURS);
    let ends = write(failed(name, START, WorkerFailure::JitRefused));
    assert_eq!(broken(&bench, [ends, capped('a')]), BTreeSet::new());
}

#[test]
fn s5_more_workers_than_jobs_that_nobody_serves() {
    let three = ['a', 'b', 'c'].map(|suffix| reserve(suffix, |_| {}));
    let mut bench = wanting();
    bench.nodes(5);
    assert_eq!(broken(&bench, three), BTreeSet::from(["S5 no-over-provision"]));
    let mut bench = idle();
    bench.apply(Change::Job(job(1, 1)));
    assert_eq!(broken(&bench, [reserve('a', |_| {})]), BTreeSet::from(["S5 no-over-provision"]), "one is idle");
    bench.apply(Change::Job(running(OURS)));
    assert_eq!(broken(&bench, [reserve('a', |_| {})]), BTreeSet::new(), "it runs another job");
}

#[test]
fn s6_more_workers_than_places() {
    let mut bench = wanting();
    bench.nodes(1);
    let two = || ['a', 'b'].map(|suffix| reserve(suffix, |_| {}));
    assert_eq!(broken(&bench, two()), BTreeSet::from(["S6 capacity"]));
    bench.apply(Change::Nodes(Vec::new()));
    assert_eq!(broken(&bench, [reserve('a', |_| {})]), BTreeSet::from(["S6 capacity"]));
    bench.nodes(2);
    bench.see(pod("somebody-elses", PodPhase::Running, START));
    assert_eq!(broken(&bench, two()), BTreeSet::from(["S6 capacity"]), "a pod in view takes a place");
}

#[test]
fn s8_what_executes_a_job_is_taken_away() {
    let mut bench = idle();
    bench.apply(Change::Job(running(OURS)));
    assert_eq!(broken(&bench, [delete_pod(OURS)]), BTreeSet::from(["S8 never-kill-busy"]));
    assert_eq!(broken(&bench, [delete_runner(OURS)]), BTreeSet::from(["S8 never-kill-busy"]));
    let over = write(Write::JobCompleted { id: JobId(7), assignment: None, at: START });
    assert_eq!(broken(&bench, [over, delete_pod(OURS)]), BTreeSet::new(), "the job is over by the same decision");
    let mut bench = Bench::new(1);
    bench.later(Span::secs(1));
    bench.find_worker(Status::Running, PodPhase::Running);
    bench.listed(&[(OURS, true, true)]);
    assert_eq!(broken(&bench, [delete_pod(OURS)]), BTreeSet::from(["S8 never-kill-busy"]), "GitHub says it is busy");
}

#[test]
fn s8_a_listing_from_before_the_app_went_keeps_a_pod_for_as_long_as_a_job_may_take() {
    let mut bench = Bench::new(1);
    bench.later(Span::secs(1));
    bench.find_worker(Status::Running, PodPhase::Running);
    bench.listed(&[(OURS, true, true)]);
    let listing = |action: &Action| matches!(action, Action::ListRunners(_));
    bench.tick(Span::mins(2));
    let chosen = bench.expect("the next listing", listing);
    bench.answer(chosen.id, Outcome::RunnersListed(refused(GitHubError::InstallationGone)));
    bench.later(Span(bench.policy.timeouts.gone.0 - 1));
    assert_eq!(broken(&bench, [delete_pod(OURS)]), BTreeSet::from(["S8 never-kill-busy"]), "it may still run");
    bench.later(Span(1));
    assert_eq!(broken(&bench, [delete_pod(OURS)]), BTreeSet::new(), "no job runs for so long, and nobody can be asked");
    bench.decide();
    let chosen = bench.expect("another listing", listing);
    bench.answer(chosen.id, Outcome::RunnersListed(away()));
    assert_eq!(broken(&bench, [delete_pod(OURS)]), BTreeSet::new(), "silence says nothing");
    // Once anything else is answered it counts again.
    while bench.find(listing).is_none() {
        bench.tick(Span::secs(5));
    }
    bench.listed(&[(OURS, true, true)]);
    assert_eq!(broken(&bench, [delete_pod(OURS)]), BTreeSet::from(["S8 never-kill-busy"]));
}

#[test]
fn s9_a_worker_that_no_job_asked_for() {
    let wrong: [fn(&mut Worker); 2] =
        [|worker| worker.image = Image::from("ubuntu-26.04"), |worker| worker.pool = Pool::from("other")];
    for change in wrong {
        assert!(broken(&wanting(), [reserve('a', change)]).contains("S9 exact-labels"));
    }
    let labels = reserve('a', |worker| worker.labels = LabelSet::new([LABEL, "more"]));
    assert!(broken(&wanting(), [labels]).contains("S9 exact-labels"));
}

#[test]
fn s12_an_ended_pod_goes_before_its_grace_is_over() {
    let ended = |failure: Option<WorkerFailure>, hours: i64| {
        let mut bench = Bench::new(1);
        let status = if failure.is_some() { Status::Failed } else { Status::Completed };
        bench.apply(Change::Worker(Worker { status, failure, completed_at: Some(START), ..worker(OURS, 1, START) }));
        bench.see(Pod { finished_at: Some(START), ..pod(OURS, PodPhase::Failed, START) });
        bench.later(Span::hours(hours));
        broken(&bench, [delete_pod(OURS)])
    };
    assert_eq!(ended(None, 5), BTreeSet::from(["S12 grace"]));
    assert_eq!(ended(None, 6), BTreeSet::new());
    for failure in WorkerFailure::ALL {
        assert_eq!(ended(Some(failure), 1).contains("S12 grace"), failure.keeps_pod(), "{failure}");
    }
}

#[test]
fn s17_what_is_not_ours_is_made_or_touched() {
    for name in ["web-1", "rise-riscv-runner-staging-1-abcdefghi"] {
        assert_eq!(broken(&wanting(), [delete_pod(name)]), BTreeSet::from(["S17 isolation"]));
        assert_eq!(broken(&wanting(), [delete_runner(name)]), BTreeSet::from(["S17 isolation"]));
        let named = reserve('a', |worker| worker.name = name.into());
        assert_eq!(broken(&wanting(), [named]), BTreeSet::from(["S17 isolation"]));
    }
    let other = reserve('a', |worker| worker.name = "rise-riscv-runner-2-abcdefghi".into());
    assert_eq!(broken(&wanting(), [other]), BTreeSet::from(["S17 isolation"]), "another entity's name");
}
