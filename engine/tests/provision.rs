//! provision: a table of every branch; demand_match's reason with it.

mod support;

use engine::{
    decision::{Action, Reason, WorkerFailure, Write},
    facts::*,
    ids::*,
};
use support::*;

/// A job whose worker is reserved.
fn reserved(bench: &mut Bench) -> WorkerName {
    bench.apply(Change::Job(job(1, 1)));
    bench.decide();
    bench.reservations().remove(0).0.name
}

#[track_caller]
fn answer(bench: &mut Bench, step: &str, outcome: Outcome) {
    let chosen = bench.expect(step, |action| name_of(action) == step);
    bench.answer(chosen.id, outcome);
    bench.decide();
}

fn name_of(action: &Action) -> &'static str {
    match action {
        Action::Write { write: Write::Reserve { .. }, .. } => "reserve",
        Action::MintJit(_) => "mint",
        Action::CreatePod(_) => "pod",
        Action::CreateSecret { .. } => "secret",
        _ => "",
    }
}

/// The provisioning step under way.
fn step(bench: &Bench) -> &'static str {
    bench.open.iter().map(|chosen| name_of(&chosen.action)).find(|name| !name.is_empty()).unwrap_or("none")
}

fn done() -> Outcome {
    Outcome::Written(Ok(Written::Done))
}

fn minted() -> Outcome {
    Outcome::JitMinted(ok(Minted { runner: RunnerId(9) }))
}

fn made(bench: &Bench, name: &WorkerName) -> Outcome {
    Outcome::PodCreated(Ok(pod(name.as_str(), PodPhase::Pending, bench.now)))
}

const CASES: &[Case] = &[
    ("row, JIT configuration, pod, Secret: one after the other, each once", |bench| {
        let name = reserved(bench);
        assert_eq!(step(bench), "reserve");
        answer(bench, "reserve", done());
        assert_eq!(step(bench), "mint");
        answer(bench, "mint", minted());
        assert_eq!(step(bench), "pod");
        let pod = made(bench, &name);
        answer(bench, "pod", pod);
        let secret = bench.expect("a Secret", |action| matches!(action, Action::CreateSecret { .. }));
        let uid = PodUid::from(format!("uid-{name}"));
        assert_eq!(secret.action, Action::CreateSecret { worker: name, pod: uid });
        answer(bench, "secret", Outcome::SecretCreated(Ok(())));
        bench.tick(Span::mins(1));
        assert_eq!(step(bench), "none");
        assert_eq!(bench.reasons.iter().filter(|reason| **reason == Reason::NextStep).count(), 3);
    }),
    ("the store did not answer: the same reservation again, after a pause", |bench| {
        reserved(bench);
        let first = bench.expect("it", |action| name_of(action) == "reserve").action;
        answer(bench, "reserve", Outcome::Written(Err(StoreError::Unavailable { message: "away".into() })));
        assert_eq!(step(bench), "none");
        bench.tick(Span::secs(5));
        assert_eq!(bench.expect("it", |action| name_of(action) == "reserve").action, first);
    }),
    ("and for as long as it takes: the row may be there", |bench| {
        reserved(bench);
        for _ in 0..30 {
            if step(bench) == "reserve" {
                answer(bench, "reserve", Outcome::Lost);
            }
            bench.tick(Span::mins(1));
        }
        assert_eq!(step(bench), "reserve");
        assert_eq!(bench.snapshot.active_workers(), 1);
    }),
    ("the row is read before its write is answered", |bench| {
        reserved(bench);
        let row = bench.reservations().remove(0).0;
        bench.apply(Change::Worker(row));
        answer(bench, "reserve", done());
        assert_eq!(step(bench), "mint");
    }),
    ("its job is over before anything was made", |bench| {
        reserved(bench);
        bench.apply(Change::Job(Job { status: Status::Completed, ..job(1, 1) }));
        answer(bench, "reserve", done());
        assert_eq!(step(bench), "none");
        assert!(bench.why(&Reason::WorkerFailed(WorkerFailure::Surplus)).is_some());
    }),
    ("it ends for want of a job and nobody says whether that is written: it ends, though a job waits again", |bench| {
        let name = reserved(bench);
        bench.apply(Change::Job(Job { status: Status::Completed, ..job(1, 1) }));
        answer(bench, "reserve", done());
        let failed = Reason::WorkerFailed(WorkerFailure::Surplus);
        let write = bench.why(&failed).expect("nobody needs it");
        bench.answer(write.id, Outcome::Written(Err(StoreError::Unavailable { message: "away".into() })));
        bench.apply(Change::Job(job(2, 1)));
        bench.decide();
        assert_ne!(step(bench), "mint");
        bench.tick(Span::secs(5));
        assert_ne!(step(bench), "mint");
        let again = bench.why(&failed).expect("it is repeated");
        assert!(matches!(again.action, Action::Write { write, .. } if write.worker() == Some(&name)));
    }),
    ("JIT refused: again after a pause", |bench| {
        reserved(bench);
        answer(bench, "reserve", done());
        let no = GitHubError::Refused { status: 403, message: "no".into() };
        answer(bench, "mint", Outcome::JitMinted(refused(no)));
        assert_eq!(step(bench), "none");
        bench.tick(Span::secs(5));
        assert_eq!(step(bench), "mint");
    }),
    ("JIT put off: at the time that GitHub gave", |bench| {
        reserved(bench);
        answer(bench, "reserve", done());
        let until = Some(bench.now + Span::mins(3));
        answer(bench, "mint", Outcome::JitMinted(refused(GitHubError::RateLimited { until })));
        bench.tick(Span(Span::mins(3).0 - 1));
        assert_eq!(step(bench), "none", "S14");
        bench.tick(Span(1));
        assert_eq!(step(bench), "mint");
    }),
    ("its organisation is renamed: what the newest job calls it counts, for what is reserved already, too", |bench| {
        reserved(bench);
        bench.apply(Change::Job(Job { entity_name: "renamed".into(), ..job(2, 1) }));
        bench.apply(Change::Job(Job { entity_name: "before-that".into(), ..job(0, 1) }));
        answer(bench, "reserve", done());
        let mint = bench.expect("a JIT call", |action| name_of(action) == "mint");
        let Action::MintJit(worker) = &mint.action else { panic!("{mint:?}") };
        assert_eq!(&*worker.entity_name, "renamed");
        bench.nodes(3);
        bench.decide();
        let rows = bench.reservations();
        assert!(!rows.is_empty() && rows.iter().all(|(row, _)| &*row.entity_name == "renamed"), "{rows:?}");
        bench.listed(&[]);
        bench.tick(Span::mins(6));
        let listing = bench.expect("a listing", |action| matches!(action, Action::ListRunners(_)));
        assert!(matches!(&listing.action, Action::ListRunners(scope) if &*scope.entity_name == "renamed"));
    }),
    ("a new leader reads the old name in workers' rows first, and the new one in a job's", |bench| {
        let before = worker("rise-riscv-runner-1-before", 1, START);
        bench.apply(Change::Worker(Worker { status: Status::Failed, completed_at: Some(START), ..before }));
        bench.apply(Change::Job(Job { entity_name: "renamed".into(), ..job(1, 1) }));
        bench.decide();
        assert_eq!(&*bench.reservations().remove(0).0.entity_name, "renamed");
    }),
    ("a job from before its organisation was renamed is told of last", |bench| {
        bench.apply(Change::Job(Job { entity_name: "renamed".into(), ..job(2, 1) }));
        bench.apply(Change::Job(job(1, 1)));
        bench.decide();
        assert_eq!(&*bench.reservations().remove(0).0.entity_name, "renamed");
    }),
    ("a person's repository is renamed: its listing goes by the new name", |bench| {
        let of = |id, name: &str| Job { entity_type: EntityType::User, repo: name.into(), ..job(id, 1) };
        bench.apply(Change::Job(of(1, "person/old")));
        bench.decide();
        bench.apply(Change::Job(of(2, "person/new")));
        bench.tick(Span::mins(6));
        let listed =
            |action: &Action| matches!(action, Action::ListRunners(it) if it.repo.as_deref() == Some("person/new"));
        for _ in 0..3 {
            bench.listed(&[]);
            bench.tick(Span::mins(6));
        }
        bench.expect("a listing", listed);
    }),
    ("the installation that it was reserved for is left for another: the call goes through that", |bench| {
        let name = reserved(bench);
        bench.apply(Change::Job(Job { installation: InstallationId(999), ..job(2, 1) }));
        answer(bench, "reserve", done());
        let mut through = Vec::new();
        while step(bench) != "pod" {
            assert!(bench.now < START + Span::mins(2), "asked through {through:?}");
            if let Some(chosen) = bench.open.iter().find(|chosen| name_of(&chosen.action) == "mint") {
                let Action::MintJit(worker) = &chosen.action else { unreachable!() };
                assert_eq!(worker.name, name);
                through.push(worker.installation.0);
                let gone = worker.installation.0 == 999;
                let outcome = if gone { Outcome::JitMinted(refused(GitHubError::InstallationGone)) } else { minted() };
                let id = chosen.id;
                bench.answer(id, outcome);
                bench.decide();
            }
            bench.tick(Span::secs(5));
        }
        through.dedup();
        assert_eq!(through, [999, 501], "the latest first, and when that is none the one before");
    }),
    (
        "the App is suspended: its place goes to others, and no worker is reserved before GitHub answers otherwise",
        |bench| {
            let name = reserved(bench);
            answer(bench, "reserve", done());
            answer(bench, "mint", Outcome::JitMinted(refused(GitHubError::InstallationSuspended)));
            let failed = Reason::WorkerFailed(WorkerFailure::InstallationSuspended);
            let write = bench.why(&failed).expect("no runner can be made");
            assert!(
                matches!(write.action, Action::Write { write: Write::WorkerFailed { name: it, .. }, .. } if it == name)
            );
            bench.answer_writes();
            let answer_reads = |bench: &mut Bench, error: Option<GitHubError>| {
                let mut reads = 0;
                for chosen in bench.open.clone() {
                    let (asked_at, error) = (bench.now, error.clone());
                    let outcome = match chosen.action {
                        Action::PollJob { .. } => {
                            let answer = error.map_or_else(|| ok(JobView::Queued { said_at: None }), refused);
                            Outcome::JobPolled { asked_at, answer }
                        }
                        Action::ListRunners(_) => Outcome::RunnersListed(
                            error.map_or_else(|| ok(RunnerListing { asked_at, runners: vec![] }), refused),
                        ),
                        _ => continue,
                    };
                    reads += 1;
                    bench.answer(chosen.id, outcome);
                }
                bench.decide();
                reads
            };
            answer_reads(bench, Some(GitHubError::InstallationSuspended));
            for minute in 0..30 {
                bench.tick(Span::mins(1));
                assert_eq!(bench.reservations(), [], "minute {minute}");
                assert_eq!(answer_reads(bench, Some(GitHubError::InstallationSuspended)), 1, "one call a minute");
            }
            bench.tick(Span::mins(1));
            assert_eq!(answer_reads(bench, None), 1, "and one finds out that the App is back");
            assert_eq!(bench.reservations().len(), 1);
        },
    ),
    ("the pod exists already: a listing shows it, and its Secret is next", |bench| {
        let name = reserved(bench);
        answer(bench, "reserve", done());
        answer(bench, "mint", minted());
        bench.later(Span::secs(20));
        answer(bench, "pod", Outcome::PodCreated(Err(ClusterError::AlreadyExists)));
        assert_eq!(step(bench), "none");
        assert!(bench.why(&Reason::PodViewDoubt).is_some());
        bench.see(pod(name.as_str(), PodPhase::Pending, bench.now));
        bench.tick(Span::secs(5));
        assert_eq!(step(bench), "secret");
    }),
    ("the cluster refuses the pod: again after a pause, with the same configuration", |bench| {
        reserved(bench);
        answer(bench, "reserve", done());
        answer(bench, "mint", minted());
        answer(bench, "pod", Outcome::PodCreated(Err(ClusterError::Refused { status: 403, message: "quota".into() })));
        assert_eq!(step(bench), "none");
        bench.tick(Span::secs(5));
        assert_eq!(step(bench), "pod", "S10: no second configuration");
    }),
    ("its node has gone since: no pod that fits nowhere", |bench| {
        reserved(bench);
        answer(bench, "reserve", done());
        bench.nodes(0);
        answer(bench, "mint", minted());
        bench.tick(Span::mins(1));
        assert_eq!(step(bench), "none", "S6");
        bench.nodes(1);
        bench.tick(Span::secs(5));
        assert_eq!(step(bench), "pod");
    }),
    ("the Secret exists already: nothing is left to do", |bench| {
        let name = reserved(bench);
        answer(bench, "reserve", done());
        answer(bench, "mint", minted());
        let pod = made(bench, &name);
        answer(bench, "pod", pod);
        answer(bench, "secret", Outcome::SecretCreated(Err(ClusterError::AlreadyExists)));
        bench.tick(Span::mins(1));
        assert_eq!(step(bench), "none");
    }),
    ("the Secret's answer was lost: again", |bench| {
        let name = reserved(bench);
        answer(bench, "reserve", done());
        answer(bench, "mint", minted());
        let pod = made(bench, &name);
        answer(bench, "pod", pod);
        let away = ClusterError::Unavailable { message: "away".into() };
        answer(bench, "secret", Outcome::SecretCreated(Err(away)));
        bench.tick(Span::secs(5));
        assert_eq!(step(bench), "secret");
    }),
    ("the configuration is gone with who held it: the worker is given up, and its job served anew", |bench| {
        reserved(bench);
        answer(bench, "reserve", done());
        answer(bench, "mint", minted());
        answer(bench, "pod", Outcome::Lost);
        assert!(bench.why(&Reason::WorkerFailed(WorkerFailure::ProvisioningInterrupted)).is_some());
        assert_eq!(step(bench), "reserve");
    }),
];

#[test]
fn every_branch_and_every_reason() {
    let mut reasons = reasons_of("provision");
    reasons.extend(reasons_of("demand_match"));
    play(1, CASES, &reasons);
}

/// What is under way of this step.
fn under_way(bench: &Bench, step: &str) -> Vec<u64> {
    bench.open.iter().filter(|chosen| name_of(&chosen.action) == step).map(|chosen| chosen.id).collect()
}

/// The one pod that is being made: by which action, and whose.
fn one_pod(bench: &Bench) -> (u64, WorkerName) {
    let made = |chosen: &engine::decision::Chosen| match &chosen.action {
        Action::CreatePod(row) => Some((chosen.id, row.name.clone())),
        _ => None,
    };
    let mut pods: Vec<_> = bench.open.iter().filter_map(made).collect();
    assert_eq!(pods.len(), 1, "S6, and yet the place that there is is used: {pods:?}");
    pods.remove(0)
}

/// Two workers whose configurations are asked for, and as many places.
fn two_reserved() -> Bench {
    let mut bench = Bench::new(2);
    for id in [1, 2] {
        bench.apply(Change::Job(job(id, 1)));
    }
    bench.decide();
    bench.answer_writes();
    bench.decide();
    bench
}

#[test]
fn of_two_workers_with_one_place_left_one_gets_its_pod() {
    let mut bench = two_reserved();
    bench.nodes(1);
    for (runner, call) in (9..).zip(under_way(&bench, "mint")) {
        bench.answer(call, Outcome::JitMinted(ok(Minted { runner: RunnerId(runner) })));
    }
    bench.decide();
    let first = one_pod(&bench);
    bench.tick(Span::secs(30));
    assert_eq!(one_pod(&bench), first, "it may be made");
    let refused = ClusterError::Refused { status: 403, message: "quota".into() };
    bench.answer(first.0, Outcome::PodCreated(Err(refused)));
    bench.decide();
    let (_, placed) = one_pod(&bench);
    assert_ne!(placed, first.1, "while the first waits to try again the place is the other's");
    // Whose create was not answered may have its pod: it is asked for once more, and the other waits.
    for _ in 0..5 {
        let (call, name) = one_pod(&bench);
        assert_eq!(name, placed);
        bench.answer(call, Outcome::PodCreated(Err(ClusterError::Unavailable { message: "away".into() })));
        bench.tick(Span::secs(60));
    }
    let (call, name) = one_pod(&bench);
    bench.answer(call, Outcome::PodCreated(Ok(pod(name.as_str(), PodPhase::Pending, bench.now))));
    bench.tick(Span::mins(1));
    assert_eq!(under_way(&bench, "pod"), [], "there is no place for the other");
    bench.nodes(2);
    bench.tick(Span::secs(10));
    assert_ne!(one_pod(&bench).1, placed);
}

#[test]
fn places_that_come_back_go_to_whoever_was_reserved_first() {
    let mut bench = Bench::new(4);
    let mut reserved = Vec::new();
    for id in 1..=4 {
        bench.apply(Change::Job(job(id, 1)));
        bench.decide();
        bench.answer_writes();
        bench.tick(Span::secs(1));
        let names = bench.open.iter().filter_map(|chosen| match &chosen.action {
            Action::MintJit(row) => Some(row.name.clone()),
            _ => None,
        });
        reserved.extend(names.filter(|name| !reserved.contains(name)).collect::<Vec<_>>());
    }
    bench.nodes(1);
    let mint = |bench: &mut Bench, call, runner| {
        bench.answer(call, Outcome::JitMinted(ok(Minted { runner: RunnerId(runner) })));
    };
    // The last to be reserved has its configuration first, and may have its pod: it keeps its place.
    let mut calls: Vec<u64> = under_way(&bench, "mint");
    let last = reserved.pop();
    calls.pop().into_iter().for_each(|call| mint(&mut bench, call, 9));
    bench.decide();
    let (call, placed) = one_pod(&bench);
    assert_eq!(Some(&placed), last.as_ref());
    bench.answer(call, Outcome::PodCreated(Err(ClusterError::Unavailable { message: "away".into() })));
    for (runner, call) in (10..).zip(calls) {
        mint(&mut bench, call, runner);
    }
    bench.tick(Span::secs(30));
    let (call, again) = one_pod(&bench);
    assert_eq!(again, placed);
    bench.answer(call, Outcome::PodCreated(Ok(pod(placed.as_str(), PodPhase::Pending, bench.now))));
    // The others have theirs in the order of their reservations.
    for (places, name) in (2..).zip(&reserved) {
        bench.nodes(places);
        bench.decide();
        let (call, placed) = one_pod(&bench);
        assert_eq!(placed, *name, "place {places} of {reserved:?}");
        bench.answer(call, Outcome::PodCreated(Ok(pod(name.as_str(), PodPhase::Pending, bench.now))));
        bench.decide();
    }
}

#[test]
fn whose_time_is_over_leaves_its_place_to_the_next_at_once() {
    let mut bench = Bench::new(2);
    for (id, runner) in [(1, 9), (2, 10)] {
        bench.apply(Change::Job(job(id, 1)));
        bench.decide();
        bench.answer_writes();
        bench.decide();
        if id == 2 {
            bench.nodes(1);
        }
        for call in under_way(&bench, "mint") {
            bench.answer(call, Outcome::JitMinted(ok(Minted { runner: RunnerId(runner) })));
        }
        bench.tick(Span::secs(60));
    }
    // Nobody ever says whether the first one's pod was made.
    let (_, first) = one_pod(&bench);
    let begun = bench.now;
    while let [call] = under_way(&bench, "pod")[..] {
        if one_pod(&bench).1 != first {
            break;
        }
        bench.answer(call, Outcome::PodCreated(Err(ClusterError::Unavailable { message: "away".into() })));
        while bench.now.since(begun) < Span::mins(20) && under_way(&bench, "pod").is_empty() {
            bench.tick(Span::secs(1));
        }
    }
    assert_ne!(one_pod(&bench).1, first);
    assert_eq!(bench.now.since(begun), Span::mins(8), "its ten minutes are over, of which two had passed");
}

#[test]
fn where_two_creates_were_not_answered_and_one_place_is_left_a_listing_tells_whose_it_is() {
    let mut bench = two_reserved();
    for (runner, call) in (9..).zip(under_way(&bench, "mint")) {
        bench.answer(call, Outcome::JitMinted(ok(Minted { runner: RunnerId(runner) })));
    }
    bench.decide();
    for call in under_way(&bench, "pod") {
        bench.answer(call, Outcome::PodCreated(Err(ClusterError::Unavailable { message: "away".into() })));
    }
    bench.nodes(1);
    for _ in 0..5 {
        bench.tick(Span::secs(12));
        bench.pods(vec![]);
        assert_eq!(under_way(&bench, "pod"), [], "both may still be made");
    }
    bench.tick(Span::secs(1));
    bench.pods(vec![]);
    bench.tick(Span::secs(10));
    one_pod(&bench);
}

#[test]
fn a_pod_takes_a_place_of_the_node_that_it_is_on_and_of_no_other() {
    let node = |name: &str, runners, usable| Node { name: name.into(), pool: Some("pool".into()), runners, usable };
    let on_it =
        |name: &str, on: Option<&str>| Pod { node: on.map(NodeName::from), ..pod(name, PodPhase::Running, START) };
    // Two nodes' runners, whether the first is usable, pods on each and on none: places that are free.
    let cases = [
        ([2, 2], true, [2, 1, 0], 1),
        ([2, 2], false, [2, 1, 0], 1),
        ([2, 2], false, [2, 0, 1], 1),
        ([1, 2], true, [2, 0, 0], 2),
        ([0, 2], true, [2, 1, 0], 1),
        ([2, 2], false, [0, 2, 0], 0),
    ];
    for (runners, usable, pods, free) in cases {
        // In whatever order they are heard of.
        for nodes_first in [true, false] {
            let mut bench = Bench::new(0);
            let nodes = Change::Nodes(vec![node("one", runners[0], usable), node("two", runners[1], true)]);
            if nodes_first {
                bench.apply(nodes.clone());
            }
            let names = ["one", "two"].map(Some).into_iter().chain([None]);
            for (on, count) in names.zip(pods) {
                for i in 0..count {
                    bench.apply(Change::PodSeen(on_it(&format!("theirs-{on:?}-{i}"), on)));
                }
            }
            if !nodes_first {
                bench.apply(nodes);
            }
            for id in 1..9 {
                bench.apply(Change::Job(job(id, 1)));
            }
            bench.decide();
            assert_eq!(bench.reservations().len(), free, "{runners:?} {usable} {pods:?}");
            // A node that comes and goes leaves the counts as they were.
            bench.apply(Change::NodeGone("two".into()));
            bench.apply(Change::NodeSeen(node("two", runners[1], true)));
            bench.decide();
            assert_eq!(bench.reservations().len(), free, "{runners:?} {usable} {pods:?}");
        }
    }
}
