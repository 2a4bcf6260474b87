//! Every answer to "why does this job wait", and that the next decisions agree with it.

mod support;

use engine::{
    decision::{Action, JobFailure},
    explain::{Refuser, WaitingOn, WorkerState, explain},
    facts::*,
    ids::*,
    labels::LabelSet,
    policy::{OwnerPolicy, Staging},
    snapshot::Snapshot,
};
use proptest::prelude::*;
use support::*;

fn why(bench: &Bench, id: i64) -> WaitingOn {
    explain(&bench.snapshot, &bench.policy, JobId(id), bench.now).waiting_on
}

fn place(bench: &Bench, id: i64) -> Option<u64> {
    match why(bench, id) {
        WaitingOn::Capacity { place, .. } => Some(place),
        _ => None,
    }
}

fn cap(bench: &mut Bench, owner: i64, max_workers: Option<u32>) {
    bench.policy.owners.insert(OwnerId(owner), OwnerPolicy { name: String::new(), max_workers, staging: Staging::No });
}

fn waiting(slots: u32, jobs: &[i64]) -> Bench {
    let mut bench = Bench::new(slots);
    for &id in jobs {
        bench.apply(Change::Job(job(id, 1)));
    }
    bench
}

/// The state of the only worker that job 1 waits for.
#[track_caller]
fn state(bench: &Bench) -> WorkerState {
    match why(bench, 1) {
        WaitingOn::Workers { workers } => workers[0].1,
        other => panic!("expected workers, got {other:?}"),
    }
}

#[test]
fn a_job_that_does_not_wait() {
    let mut bench = waiting(0, &[]);
    assert_eq!(why(&bench, 1), WaitingOn::Nothing, "nobody knows it");
    let running = |assignment| Job { status: Status::Running, assignment, ..job(1, 1) };
    bench.apply(Change::Job(running(None)));
    assert_eq!(why(&bench, 1), WaitingOn::Running { runner: None });
    bench.apply(Change::Job(running(on("r", START))));
    assert_eq!(why(&bench, 1), WaitingOn::Running { runner: Some("r".into()) });
    bench.apply(Change::Job(Job { requeued_at: Some(START), ..running(on("r", START)) }));
    assert!(place(&bench, 1).is_some(), "it is back in the queue");
    bench.apply(Change::Job(Job { status: Status::Completed, ..job(1, 1) }));
    assert_eq!(why(&bench, 1), WaitingOn::Nothing);
}

#[test]
fn views_that_are_missing_are_named() {
    let policy = engine::policy::Policy::bare(Realm::Prod);
    let mut snapshot = Snapshot::new(1, &policy);
    snapshot.apply(Change::Job(job(1, 1)), START);
    let steps = [
        (Change::StoreSynced { asked_at: START }, vec!["jobs and workers", "pods", "nodes"]),
        (Change::Pods(PodListing { asked_at: START, pods: vec![] }), vec!["pods", "nodes"]),
        (Change::Nodes(vec![]), vec!["nodes"]),
    ];
    let unknown = |snapshot: &Snapshot| explain(snapshot, &policy, JobId(2), START).waiting_on;
    assert_eq!(
        unknown(&snapshot),
        WaitingOn::Views { missing: vec!["jobs and workers"] },
        "it may be in a row not read yet"
    );
    for (change, missing) in steps {
        let said = explain(&snapshot, &policy, JobId(1), START).waiting_on;
        assert_eq!(said, WaitingOn::Views { missing });
        snapshot.apply(change, START);
    }
    assert!(!matches!(explain(&snapshot, &policy, JobId(1), START).waiting_on, WaitingOn::Views { .. }));
    assert_eq!(unknown(&snapshot), WaitingOn::Nothing);
}

#[test]
fn an_installation_that_is_unknown_or_gone() {
    let mut bench = Bench::new(1);
    bench.apply(Change::Job(Job { installation: InstallationId(0), ..job(1, 1) }));
    assert_eq!(why(&bench, 1), WaitingOn::UnknownInstallation);
    for (error, failure) in [
        (GitHubError::InstallationGone, JobFailure::InstallationGone),
        (GitHubError::InstallationSuspended, JobFailure::InstallationSuspended),
    ] {
        let mut bench = waiting(0, &[1]);
        bench.tick(Span::mins(3));
        let poll = bench.expect("a poll", |action| matches!(action, Action::PollJob { .. }));
        bench.answer(poll.id, Outcome::JobPolled { asked_at: bench.now, answer: refused(error) });
        assert_eq!(why(&bench, 1), WaitingOn::Installation(failure));
    }
}

#[test]
fn a_worker_on_its_way_and_what_it_is_doing() {
    let mut bench = waiting(1, &[1]);
    assert_eq!(why(&bench, 1), WaitingOn::NextDecision);
    let name = bench.provision();
    assert_eq!(state(&bench), WorkerState::Starting);
    bench.run_pod(&name);
    assert_eq!(state(&bench), WorkerState::Registering);
    bench.later(Span::secs(1));
    bench.listed(&[(name.as_str(), true, false)]);
    assert_eq!(state(&bench), WorkerState::Idle);
    let mut bench = waiting(1, &[1]);
    bench.decide();
    assert_eq!(state(&bench), WorkerState::Provisioning);
    let mut bench = waiting(1, &[1]);
    bench.find_worker(Status::Pending, PodPhase::Pending);
    bench.until(&engine::decision::Reason::ListingDue, Some(&[]), Span::secs(1));
    bench.tick(Span::mins(11));
    assert_eq!(state(&bench), WorkerState::Leaving);
}

#[test]
fn its_owners_cap_comes_before_a_full_pool() {
    let mut bench = waiting(1, &[1, 2]);
    cap(&mut bench, 1, Some(1));
    bench.decide();
    assert_eq!(why(&bench, 2), WaitingOn::Cap { active: 1, cap: 1 });
    cap(&mut bench, 1, Some(2));
    let expected = WaitingOn::Capacity { pool: Pool::from("pool"), taken: 1, offered: 1, place: 1 };
    assert_eq!(why(&bench, 2), expected);
}

#[test]
fn the_store_and_githubs_limits() {
    let mut bench = waiting(1, &[1]);
    bench.decide();
    let write = bench.expect("a reservation", |action| matches!(action, Action::Write { .. }));
    bench.answer(write.id, Outcome::Written(Ok(Written::RefusedDemand)));
    bench.decide();
    assert_eq!(why(&bench, 1), WaitingOn::Store { until: bench.now + Span::secs(5) });
    for (error, until) in [
        (GitHubError::RateLimited { until: Some(START + Span::mins(30)) }, Some(START + Span::mins(30))),
        (GitHubError::Unavailable { message: "away".into() }, None),
    ] {
        let mut bench = waiting(0, &[1]);
        bench.tick(Span::mins(3));
        let poll = bench.expect("a poll", |action| matches!(action, Action::PollJob { .. }));
        bench.answer(poll.id, Outcome::JobPolled { asked_at: bench.now, answer: refused(error) });
        bench.nodes(1);
        let (installation, failing_since) = (InstallationId(501), Some(bench.now));
        let limited = until.is_some();
        let until = until.or(Some(bench.now + Span::secs(5)));
        assert_eq!(why(&bench, 1), WaitingOn::GitHub { installation, failing_since, limited, until });
    }
}

/// A worker reserved for each job, its JIT call under way.
fn reserved(jobs: &[i64]) -> Bench {
    let mut bench = waiting(jobs.len() as u32, jobs);
    bench.decide();
    bench.answer_writes();
    bench.decide();
    bench
}

/// Answers the first JIT call that is under way.
#[track_caller]
fn minted(bench: &mut Bench, answer: GitHubAnswer<Minted>) -> WorkerName {
    let call = bench.expect("a JIT call", |action| matches!(action, Action::MintJit(_)));
    let Action::MintJit(worker) = &call.action else { unreachable!() };
    bench.answer(call.id, Outcome::JitMinted(answer));
    worker.name.clone()
}

#[test]
fn a_worker_that_github_does_not_start_is_no_answer_but_githubs_trouble_is() {
    let no = || GitHubError::Refused { status: 403, message: "no".into() };
    for (error, limited) in [
        (GitHubError::Unavailable { message: "away".into() }, false),
        (GitHubError::RateLimited { until: Some(START + Span::mins(5)) }, true),
        (GitHubError::RateLimited { until: None }, true),
    ] {
        let mut bench = reserved(&[1]);
        assert_eq!(state(&bench), WorkerState::Provisioning, "the first call is under way: nothing is wrong yet");
        let begun = bench.now;
        minted(&mut bench, refused(error.clone()));
        // For longer than one worker may take: it is given up, and another one fares no better.
        for _ in 0..30 {
            bench.tick(Span::secs(30));
            bench.answer_writes();
            bench.decide();
            let said = why(&bench, 1);
            let WaitingOn::GitHub { failing_since, limited: told, .. } = said else { panic!("{said:?}") };
            assert_eq!((failing_since, told), (Some(begun), limited), "{error:?}");
            if bench.find(|action| matches!(action, Action::MintJit(_))).is_some() {
                minted(&mut bench, refused(error.clone()));
            }
        }
    }
    // What was under way already when the limit was told, and is answered after it, ends nothing.
    let mut bench = waiting(0, &[1]);
    bench.tick(Span::mins(3));
    let poll = bench.expect("a poll", |action| matches!(action, Action::PollJob { .. }));
    bench.nodes(1);
    bench.decide();
    bench.answer_writes();
    bench.decide();
    let (begun, until) = (bench.now, bench.now + Span::mins(5));
    minted(&mut bench, refused(GitHubError::RateLimited { until: Some(until) }));
    bench.answer(poll.id, Outcome::JobPolled { asked_at: bench.now, answer: ok(JobView::Queued { said_at: None }) });
    let expected = WaitingOn::GitHub {
        installation: InstallationId(501),
        failing_since: Some(begun),
        limited: true,
        until: Some(until),
    };
    assert_eq!(why(&bench, 1), expected);
    let mut bench = reserved(&[1]);
    let since = bench.now;
    let worker = minted(&mut bench, refused(no()));
    let until = bench.now + Span::secs(5);
    let refusal = WaitingOn::Refused { worker: worker.clone(), by: Refuser::GitHub, attempts: 1, since, until };
    assert_eq!(why(&bench, 1), refusal);
    bench.tick(Span::secs(5));
    minted(&mut bench, refused(no()));
    assert!(matches!(why(&bench, 1), WaitingOn::Refused { attempts: 2, since: told, .. } if told == since));
    // When it goes at last, its worker is the answer again.
    bench.tick(Span::secs(10));
    assert_eq!(minted(&mut bench, ok(Minted { runner: RunnerId(9) })), worker);
    assert_eq!(state(&bench), WorkerState::Provisioning);
}

#[test]
fn a_store_that_does_not_answer_a_reservation_is_named() {
    let mut bench = waiting(1, &[1]);
    bench.decide();
    assert_eq!(state(&bench), WorkerState::Provisioning);
    let write = bench.expect("a reservation", |action| matches!(action, Action::Write { .. }));
    let away = StoreError::Unavailable { message: "away".into() };
    bench.answer(write.id, Outcome::Written(Err(away)));
    assert_eq!(why(&bench, 1), WaitingOn::Store { until: bench.now + Span::secs(5) });
}

#[test]
fn a_cluster_that_takes_no_pod_is_named() {
    let no = || ClusterError::Refused { status: 403, message: "quota".into() };
    let mut bench = reserved(&[1]);
    let since = bench.now;
    minted(&mut bench, ok(Minted { runner: RunnerId(9) }));
    bench.decide();
    let call = bench.expect("a pod", |action| matches!(action, Action::CreatePod(_)));
    bench.answer(call.id, Outcome::PodCreated(Err(no())));
    let said = why(&bench, 1);
    assert!(
        matches!(said, WaitingOn::Refused { by: Refuser::Cluster, attempts: 1, since: told, .. } if told == since),
        "{said:?}"
    );
    bench.tick(Span::secs(5));
    let call = bench.expect("a pod", |action| matches!(action, Action::CreatePod(_)));
    let Action::CreatePod(row) = &call.action else { unreachable!() };
    let made = pod(row.name.as_str(), PodPhase::Pending, bench.now);
    bench.answer(call.id, Outcome::PodCreated(Ok(made)));
    assert_eq!(state(&bench), WorkerState::Provisioning, "what was in the way is over");
    bench.decide();
    let call = bench.expect("a Secret", |action| matches!(action, Action::CreateSecret { .. }));
    bench.answer(call.id, Outcome::SecretCreated(Err(no())));
    let said = why(&bench, 1);
    assert!(matches!(said, WaitingOn::Refused { by: Refuser::Cluster, attempts: 1, .. }), "{said:?}");
}

#[test]
fn a_worker_whose_place_was_lost_waits_for_one() {
    let mut bench = reserved(&[1, 2]);
    for id in [9, 10] {
        minted(&mut bench, ok(Minted { runner: RunnerId(id) }));
    }
    bench.nodes(1);
    bench.decide();
    assert!(matches!(why(&bench, 1), WaitingOn::Workers { .. }), "one of them gets on: {:?}", why(&bench, 1));
    let full = WaitingOn::Capacity { pool: Pool::from("pool"), taken: 2, offered: 1, place: 1 };
    assert_eq!(why(&bench, 2), full);
}

#[test]
fn only_the_jobs_behind_the_obstacle_are_told_of_it() {
    let mut bench = reserved(&[1, 2]);
    let stuck = minted(&mut bench, refused(GitHubError::Refused { status: 422, message: "no".into() }));
    minted(&mut bench, ok(Minted { runner: RunnerId(9) }));
    // One runner is on its way, and GitHub gives it the older job.
    assert!(matches!(why(&bench, 1), WaitingOn::Workers { .. }), "{:?}", why(&bench, 1));
    let said = why(&bench, 2);
    assert!(matches!(&said, WaitingOn::Refused { worker, .. } if *worker == stuck), "{said:?}");
}

#[test]
fn each_answer_is_a_sentence_for_people() {
    let (pool, until) = (Pool::from("p"), START);
    let gone = WaitingOn::Installation(JobFailure::InstallationGone);
    let github = |failing_since, limited, until| {
        let installation = InstallationId(4);
        WaitingOn::GitHub { installation, failing_since, limited, until }
    };
    let refused = |by, attempts| {
        let since = START + Span::secs(3);
        WaitingOn::Refused { worker: "w".into(), by, attempts, since, until: since + Span::secs(5) }
    };
    let workers = vec![("w1".into(), WorkerState::Idle), ("w2".into(), WorkerState::Leaving)];
    let cases = [
        (WaitingOn::Nothing, "not waiting: it is neither pending nor running"),
        (WaitingOn::Running { runner: Some("r".into()) }, "running on r"),
        (WaitingOn::Running { runner: None }, "running"),
        (WaitingOn::Views { missing: vec!["pods", "nodes"] }, "the scheduler is still reading pods, nodes"),
        (WaitingOn::UnknownInstallation, "no delivery has said which App installation it belongs to"),
        (gone, "GitHub says: installation_gone"),
        (WaitingOn::Workers { workers }, "demand is met by w1 (idle), w2 (being removed)"),
        (WaitingOn::Cap { active: 3, cap: 3 }, "its owner is at its cap: 3 of 3 workers"),
        (
            WaitingOn::Capacity { pool, taken: 5, offered: 4, place: 2 },
            "pool p is full: 5 of 4 places; number 2 in line",
        ),
        (
            github(Some(START), false, Some(START + Span::mins(1))),
            "GitHub cannot be reached for installation 4 since 2027-01-15T08:00:00Z; next attempt at 2027-01-15T08:01:00Z",
        ),
        (
            github(Some(START), true, None),
            "GitHub's limits hold calls back for installation 4 since 2027-01-15T08:00:00Z",
        ),
        (github(None, true, None), "GitHub's limits hold calls back for installation 4"),
        (
            refused(Refuser::GitHub, 1),
            "GitHub refuses a runner for w, once since 2027-01-15T08:00:03Z; next attempt at 2027-01-15T08:00:08Z",
        ),
        (
            refused(Refuser::Cluster, 2),
            "the cluster does not take the pod or its Secret for w, again and again since 2027-01-15T08:00:03Z; \
             next attempt at 2027-01-15T08:00:08Z",
        ),
        (WaitingOn::Store { until }, "the store did not take the last reservation; it is tried again shortly"),
        (WaitingOn::NextDecision, "a worker is reserved for it next"),
    ];
    for (said, sentence) in cases {
        assert_eq!(said.to_string(), sentence);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// No worker is there but those that fill the pool: the line is all pending jobs in order, each owner with as many
    /// as its cap leaves. One place more serves the first, and only the first.
    #[test]
    fn the_place_in_line_is_a_plain_count_and_the_first_is_served_next(
        jobs in proptest::collection::btree_map(1..40i64, (1..4i64, any::<bool>()), 1..25),
        full in 0..3u32,
    ) {
        let mut bench = Bench::new(full);
        for owner in 1..5 {
            cap(&mut bench, owner, None);
        }
        // Workers of somebody else fill the pool.
        for id in 0..i64::from(full) {
            bench.apply(Change::Job(job(100 + id, 4)));
        }
        bench.decide();
        bench.answer_writes();
        for (&id, &(org, odd)) in &jobs {
            let labels = LabelSet::new([if odd { "odd" } else { LABEL }]);
            bench.apply(Change::Job(Job { labels, ..job(id, org) }));
        }
        bench.decide();
        for (i, &id) in jobs.keys().enumerate() {
            prop_assert_eq!(place(&bench, id), Some(i as u64 + 1), "job {}", id);
        }
        for served in 0..jobs.len() as u32 {
            // While a group's workers are on their way, its next one is asked for at its oldest pending job's turn.
            let first = jobs.keys().copied().find(|&id| place(&bench, id) == Some(1));
            let Some(id) = first else { panic!("nobody is first in line") };
            bench.nodes(full + served + 1);
            prop_assert_eq!(why(&bench, id), WaitingOn::NextDecision);
            bench.decide();
            // As in the specification's loop, what asks is its group's oldest pending job.
            let made = bench.reservations();
            let group = (EntityId(jobs[&id].0), LabelSet::new([if jobs[&id].1 { "odd" } else { LABEL }]));
            prop_assert_eq!(made.into_iter().map(|(it, _)| (it.entity, it.labels)).collect::<Vec<_>>(), [group]);
            bench.answer_writes();
        }
    }
}
