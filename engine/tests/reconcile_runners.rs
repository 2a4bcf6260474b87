//! reconcile_runners: a table of every branch.

mod support;

use engine::{
    decide::decide,
    decision::{Action, Reason, WorkerFailure, Write},
    facts::*,
    ids::*,
};
use support::*;

use WorkerFailure as F;

const HOUR: Span = Span::hours(1);
const OTHER: &str = "rise-riscv-runner-1-bbbbbbbbb";
const OFFLINE: &[(&str, bool, bool)] = &[(OURS, false, false)];
const IDLE: &[(&str, bool, bool)] = &[(OURS, true, false)];
const BUSY: &[(&str, bool, bool)] = &[(OURS, true, true)];

/// The entry goes first, and only when GitHub has agreed the row, with a look at the pod.
#[track_caller]
fn removed(bench: &mut Bench, failure: F, runners: &[(&str, bool, bool)], most: Span) {
    let Some(chosen) = bench.until(&Reason::RunnerBeforePod(failure), Some(runners), most) else {
        panic!("the entry stays: {:#?}", bench.open)
    };
    assert!(matches!(&chosen.action, Action::DeleteRunner { name, .. } if &**name == OURS), "{chosen:?}");
    assert_eq!(bench.why(&Reason::WorkerFailed(failure)), None, "not before GitHub agreed");
    bench.answer(chosen.id, Outcome::RunnerDeleted(ok(())));
    let Some(chosen) = bench.until(&Reason::WorkerFailed(failure), Some(&[]), Span::mins(1)) else {
        panic!("the row stays: {:#?}", bench.open)
    };
    assert!(matches!(&chosen.action, Action::Write { diagnose: Some(_), .. }), "S12: {chosen:?}");
}

/// Not a word of a removal for this long.
#[track_caller]
fn stays(bench: &mut Bench, failure: F, runners: &[(&str, bool, bool)], span: Span) {
    assert_eq!(bench.until(&Reason::RunnerBeforePod(failure), Some(runners), span), None);
    assert!(!bench.reasons.contains(&Reason::WorkerFailed(failure)), "{failure}");
}

fn ended(bench: &mut Bench) {
    let completed_at = Some(bench.now);
    bench.apply(Change::Worker(Worker { status: Status::Completed, completed_at, ..worker(OURS, 1, START) }));
    bench.tick(Span(1));
}

/// A worker of entity 1 whose pod runs and whose runner is not online yet, decided about.
fn awaited(bench: &mut Bench, name: &str) {
    let running_at = Some(bench.now);
    bench.apply(Change::Worker(Worker { status: Status::Running, running_at, ..worker(name, 1, bench.now) }));
    bench.see(pod(name, PodPhase::Running, bench.now));
    bench.decide();
}

/// A worker of this leader whose calls for a JIT configuration are answered so.
fn reserved(bench: &mut Bench, jit: impl Fn() -> GitHubAnswer<Minted>, span: Span) {
    bench.apply(Change::Job(job(1, 1)));
    bench.decide();
    bench.answer_writes();
    let end = bench.now + span;
    while bench.now < end {
        bench.tick(Span::secs(5));
        for chosen in bench.open.clone() {
            if matches!(chosen.action, Action::MintJit(_)) {
                bench.answer(chosen.id, Outcome::JitMinted(jit()));
            }
        }
        bench.decide();
    }
}

const CASES: &[Case] = &[
    (
        "a worker's scope is listed at once, again in 15 s while its runner is awaited, and then every 2 minutes",
        |bench| {
            bench.find_worker(Status::Running, PodPhase::Running);
            bench.answer_writes();
            bench.decide();
            assert!(bench.why(&Reason::ListingDue).is_some());
            bench.listed(&[]);
            bench.tick(Span(Span::secs(15).0 - 1));
            assert_eq!(bench.why(&Reason::ListingDue), None);
            bench.tick(Span(1));
            bench.listed(IDLE);
            bench.tick(Span(Span::mins(2).0 - 1));
            assert_eq!(bench.why(&Reason::ListingDue), None);
            bench.tick(Span(1));
            assert!(bench.why(&Reason::ListingDue).is_some());
        },
    ),
    ("no listing before the shortest pause is over, however many runners begin to be awaited", |bench| {
        awaited(bench, OURS);
        let listed_at = bench.now;
        bench.listed(&[]);
        for suffix in 'a'..='n' {
            awaited(bench, &format!("rise-riscv-runner-1-{}", String::from(suffix).repeat(9)));
            bench.tick(Span::secs(1));
            assert_eq!(bench.why(&Reason::ListingDue), None, "{suffix}");
        }
        let wakes = decide(&mut bench.snapshot, &bench.policy, bench.now).wake_at;
        assert_eq!(wakes, Some(listed_at + Span::secs(15)), "it is not slept through");
        bench.tick(Span(listed_at.0 + 15_000 - bench.now.0));
        assert!(bench.why(&Reason::ListingDue).is_some());
    }),
    ("one that begins to be awaited once that pause is over: at once", |bench| {
        awaited(bench, OURS);
        bench.tick(Span::secs(1));
        bench.listed(BUSY);
        bench.tick(Span::secs(60));
        assert_eq!(bench.why(&Reason::ListingDue), None, "nobody is awaited");
        awaited(bench, OTHER);
        assert!(bench.why(&Reason::ListingDue).is_some());
    }),
    ("a listing is gone through once, not whenever one of its entity's workers moves on", |bench| {
        awaited(bench, OURS);
        // Its turn to be asked about anyway comes later.
        let created_at = START + HOUR;
        bench.apply(Change::Job(Job { status: Status::Running, assignment: on(OURS, START), created_at, ..job(1, 1) }));
        bench.tick(Span::mins(2));
        // An entry without a worker, which the store has not confirmed yet, and a job whose runner is idle.
        bench.listed(&[(OURS, true, false), (OTHER, true, false)]);
        bench.tick(Span::secs(1));
        let asked = |bench: &Bench| bench.reasons.iter().filter(|reason| **reason == Reason::Doubt).count();
        assert_eq!(asked(bench), 1, "what it shows is asked about");
        let poll = bench.expect("a poll", |action| matches!(action, Action::PollJob { .. }));
        let view = JobView::InProgress { assignment: on(OURS, START) };
        bench.answer(poll.id, Outcome::JobPolled { asked_at: bench.now, answer: ok(view) });
        for suffix in 'c'..='h' {
            bench.tick(Span::secs(15));
            bench.synced();
            let name = format!("rise-riscv-runner-1-{}", String::from(suffix).repeat(9));
            bench.apply(Change::Worker(worker(&name, 1, bench.now)));
            bench.decide();
        }
        assert_eq!(asked(bench), 1, "until the next listing");
        assert!(!bench.reasons.contains(&Reason::OrphanRunner), "as for entries");
        let chosen =
            bench.until(&Reason::OrphanRunner, Some(&[(OURS, true, false), (OTHER, true, false)]), Span::mins(2));
        assert!(chosen.is_some(), "the next one is gone through");
    }),
    ("nobody of an entity: it is not listed", |bench| {
        bench.nodes(0);
        bench.apply(Change::Job(job(1, 1)));
        bench.tick(HOUR);
        assert_eq!(bench.why(&Reason::ListingDue), None);
    }),
    ("the runner of a worker that has ended", |bench| {
        ended(bench);
        let chosen = bench.until(&Reason::RunnerOfEndedWorker, Some(OFFLINE), Span::secs(1)).expect("it goes");
        assert!(matches!(&chosen.action, Action::DeleteRunner { id: RunnerId(1), name, .. } if &**name == OURS));
    }),
    ("not while it is busy", |bench| {
        ended(bench);
        assert_eq!(bench.until(&Reason::RunnerOfEndedWorker, Some(BUSY), HOUR), None);
    }),
    ("nor while a running job names it", |bench| {
        bench.apply(Change::Job(Job { status: Status::Running, assignment: on(OURS, START), ..job(1, 1) }));
        ended(bench);
        assert_eq!(bench.until(&Reason::RunnerOfEndedWorker, Some(OFFLINE), HOUR), None);
    }),
    ("a runner of ours that no worker has, once the store has been read after it was seen", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        bench.listed(&[(OTHER, true, false)]);
        bench.tick(Span::secs(10));
        assert_eq!(bench.why(&Reason::OrphanRunner), None, "S16");
        let chosen = bench.until(&Reason::OrphanRunner, Some(&[(OTHER, true, false)]), Span::mins(5)).expect("it goes");
        assert!(matches!(&chosen.action, Action::DeleteRunner { name, .. } if &**name == OTHER));
    }),
    ("a runner that is not ours, or another realm's, or another entity's", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        let foreign = [
            ("builder-7", false, false),
            ("rise-riscv-runner-staging-1-abcdefghi", false, false),
            ("rise-riscv-runner-2-abcdefghi", false, false),
            ("rise-riscv-runner-1-abcdefghij", false, false),
            (OURS, true, true),
        ];
        assert_eq!(bench.until(&Reason::OrphanRunner, Some(&foreign), HOUR), None);
        assert_eq!(bench.find(|action| matches!(action, Action::DeleteRunner { .. })), None);
    }),
    ("never registered: 120 s after it started, and once a listing has said so since", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        stays(bench, F::RunnerNeverRegistered, OFFLINE, Span::secs(115));
        removed(bench, F::RunnerNeverRegistered, OFFLINE, Span::secs(30));
    }),
    ("never registered, and without an entry: nothing to delete first", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        let reason = Reason::WorkerFailed(F::RunnerNeverRegistered);
        assert!(bench.until(&reason, Some(&[]), Span::secs(150)).is_some());
    }),
    ("never registered, and GitHub does not answer: nothing is concluded", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        for _ in 0..60 {
            bench.tick(Span::mins(1));
            for chosen in bench.open.clone() {
                if matches!(chosen.action, Action::ListRunners(_)) {
                    bench.answer(chosen.id, Outcome::RunnersListed(away()));
                }
            }
        }
        assert!(!bench.reasons.contains(&Reason::WorkerFailed(F::RunnerNeverRegistered)), "S16");
    }),
    ("online at last: it stays", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        stays(bench, F::RunnerNeverRegistered, OFFLINE, Span::secs(100));
        stays(bench, F::RunnerNeverRegistered, BUSY, HOUR);
    }),
    ("lost: it was online, and has been away for 120 s", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        stays(bench, F::RunnerLost, BUSY, Span::mins(3));
        stays(bench, F::RunnerLost, OFFLINE, Span::secs(115));
        removed(bench, F::RunnerLost, OFFLINE, Span::mins(5));
    }),
    ("away, and a running job names it: it may be back", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        bench.apply(Change::Job(Job { status: Status::Running, assignment: on(OURS, START), ..job(1, 1) }));
        stays(bench, F::RunnerLost, OFFLINE, HOUR);
    }),
    ("stuck pending: 600 s after it was made", |bench| {
        bench.find_worker(Status::Pending, PodPhase::Pending);
        stays(bench, F::PodStuckPending, OFFLINE, Span::secs(595));
        removed(bench, F::PodStuckPending, OFFLINE, Span::secs(30));
    }),
    ("a pod whose Secret another leader never made: after a minute", |bench| {
        bench.apply(Change::Worker(worker(OURS, 1, START)));
        let waiting = Some("CreateContainerConfigError".to_owned());
        bench.see(Pod { waiting, ..pod(OURS, PodPhase::Pending, START) });
        stays(bench, F::ProvisioningInterrupted, OFFLINE, Span::secs(55));
        removed(bench, F::ProvisioningInterrupted, OFFLINE, Span::secs(30));
    }),
    ("surplus: idle and unneeded for 5 minutes", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        stays(bench, F::Surplus, IDLE, Span::secs(290));
        removed(bench, F::Surplus, IDLE, Span::mins(5));
    }),
    ("a job of its group waits: it is not surplus", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        bench.apply(Change::Job(job(1, 1)));
        stays(bench, F::Surplus, IDLE, HOUR);
    }),
    ("it takes a job just then: GitHub refuses, and it stays", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        let reason = Reason::RunnerBeforePod(F::Surplus);
        let chosen = bench.until(&reason, Some(IDLE), Span::mins(10)).expect("it is surplus");
        bench.answer(chosen.id, Outcome::RunnerDeleted(refused(GitHubError::RunnerBusy)));
        stays(bench, F::Surplus, BUSY, HOUR);
    }),
    ("its pod ends by itself before GitHub has agreed: it ends as its pod did", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        let reason = Reason::RunnerBeforePod(F::RunnerNeverRegistered);
        let chosen = bench.until(&reason, Some(OFFLINE), Span::mins(10)).expect("it never registers");
        bench.see(pod(OURS, PodPhase::Failed, START));
        bench.answer(chosen.id, Outcome::RunnerDeleted(away()));
        bench.decide();
        assert_eq!(bench.why(&Reason::WorkerFailed(F::RunnerNeverRegistered)), None);
        assert!(bench.why(&Reason::WorkerFailed(F::PodFailed)).is_some());
    }),
    ("a surplus one's pod ends by itself meanwhile: it ends as its pod did", |bench| {
        for phase in [PodPhase::Failed, PodPhase::Succeeded] {
            let mut bench = Bench::new(4);
            bench.find_worker(Status::Running, PodPhase::Running);
            let reason = Reason::RunnerBeforePod(F::Surplus);
            let chosen = bench.until(&reason, Some(IDLE), Span::mins(10)).expect("it is surplus");
            bench.answer(chosen.id, Outcome::RunnerDeleted(away()));
            bench.see(pod(OURS, phase, START));
            bench.decide();
            assert_eq!(bench.why(&Reason::WorkerFailed(F::Surplus)), None);
            let failed = bench.why(&Reason::WorkerFailed(F::PodFailed)).is_some();
            assert_eq!((failed, bench.why(&Reason::PodPhase).is_some()), (phase == PodPhase::Failed, !failed));
        }
        let _ = bench;
    }),
    ("its pod vanishes meanwhile: it ends as vanished", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        let reason = Reason::RunnerBeforePod(F::RunnerNeverRegistered);
        let chosen = bench.until(&reason, Some(OFFLINE), Span::mins(10)).expect("it never registers");
        let gone = pod(OURS, PodPhase::Running, START);
        bench.apply(Change::PodGone { name: gone.name, uid: gone.uid });
        bench.answer(chosen.id, Outcome::RunnerDeleted(away()));
        bench.decide();
        assert_eq!(bench.why(&Reason::WorkerFailed(F::RunnerNeverRegistered)), None);
        assert!(bench.until(&Reason::WorkerFailed(F::PodVanished), Some(OFFLINE), Span::mins(10)).is_some());
    }),
    ("its deletion was not answered: it is tried again, and nothing else is done to it", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        let reason = Reason::RunnerBeforePod(F::Surplus);
        let chosen = bench.until(&reason, Some(IDLE), Span::mins(10)).expect("it is surplus");
        bench.answer(chosen.id, Outcome::RunnerDeleted(away()));
        bench.decide();
        assert_eq!(bench.why(&reason), None);
        removed(bench, F::Surplus, IDLE, Span::mins(5));
    }),
    ("no JIT configuration for 10 minutes", |bench| {
        let no = || refused(GitHubError::Refused { status: 422, message: "no".into() });
        reserved(bench, no, Span::secs(595));
        assert!(!bench.reasons.contains(&Reason::WorkerFailed(F::JitRefused)));
        assert!(bench.until(&Reason::WorkerFailed(F::JitRefused), Some(&[]), Span::secs(65)).is_some());
    }),
    (
        "no JIT configuration for 10 minutes, of the hour in which GitHub gives none: its place is another's meanwhile",
        |bench| {
            let until = bench.now + Span::mins(55);
            reserved(bench, || refused(GitHubError::RateLimited { until: Some(until) }), Span::secs(595));
            assert!(!bench.reasons.contains(&Reason::WorkerFailed(F::JitRefused)));
            assert!(bench.until(&Reason::WorkerFailed(F::JitRefused), Some(&[]), Span::secs(10)).is_some());
        },
    ),
    ("its name is taken: after a pause, so that no name is tried right after another", |bench| {
        reserved(bench, || refused(GitHubError::NameTaken), Span::secs(4));
        assert!(!bench.reasons.contains(&Reason::WorkerFailed(F::NameTaken)));
        assert_eq!(bench.snapshot.active_workers(), 1, "it counts as supply meanwhile");
        assert!(bench.until(&Reason::WorkerFailed(F::NameTaken), Some(&[]), Span::secs(5)).is_some());
    }),
    ("its App is suspended: at once", |bench| {
        reserved(bench, || refused(GitHubError::InstallationSuspended), Span::secs(5));
        assert!(bench.why(&Reason::WorkerFailed(F::InstallationSuspended)).is_some());
    }),
    ("a JIT call that nobody answered makes its entry after the listing that lacked it: it is listed again", |bench| {
        reserved(bench, away, Span::secs(20));
        bench.apply(Change::Job(Job { status: Status::Completed, completed_at: Some(bench.now), ..job(1, 1) }));
        bench.tick(Span::secs(20));
        let failed = bench.why(&Reason::WorkerFailed(F::Surplus)).expect("nobody needs it");
        let Action::Write { write: Write::WorkerFailed { name, .. }, .. } = failed.action else { panic!("{failed:?}") };
        bench.answer_writes();
        bench.tick(Span::secs(1));
        bench.listed(&[]);
        let late = [(name.as_str(), false, false)];
        assert!(bench.until(&Reason::RunnerOfEndedWorker, Some(&late), Span::mins(4)).is_some());
    }),
    ("the cluster refuses its Secret for 10 minutes: its entry and its pod go", |bench| {
        bench.apply(Change::Job(job(1, 1)));
        bench.decide();
        let name = bench.reservations().remove(0).0.name;
        let end = bench.now + Span::secs(595);
        let no = || ClusterError::Refused { status: 403, message: "quota".into() };
        let mut minted = 0;
        while bench.now < end {
            for chosen in bench.open.clone() {
                let outcome = match chosen.action {
                    Action::Write { .. } => Outcome::Written(Ok(Written::Done)),
                    Action::MintJit(_) => {
                        minted += 1;
                        Outcome::JitMinted(ok(Minted { runner: RunnerId(9) }))
                    }
                    Action::CreatePod(_) => {
                        let made = pod(name.as_str(), PodPhase::Pending, bench.now);
                        bench.cluster.push(made.clone());
                        Outcome::PodCreated(Ok(made))
                    }
                    Action::CreateSecret { .. } => Outcome::SecretCreated(Err(no())),
                    _ => continue,
                };
                bench.answer(chosen.id, outcome);
            }
            bench.tick(Span::secs(5));
        }
        assert_eq!(minted, 1, "S10");
        assert!(!bench.reasons.contains(&Reason::RunnerBeforePod(F::PodRefused)));
        let runners = [(name.as_str(), false, false)];
        let reason = Reason::RunnerBeforePod(F::PodRefused);
        let chosen = bench.until(&reason, Some(&runners), Span::secs(30)).expect("its entry goes");
        bench.answer(chosen.id, Outcome::RunnerDeleted(ok(())));
        assert!(bench.until(&Reason::WorkerFailed(F::PodRefused), Some(&[]), Span::mins(1)).is_some());
    }),
    ("stuck, and the App is not installed any more: nobody can be asked, and nothing has started in it", |bench| {
        bench.find_worker(Status::Pending, PodPhase::Pending);
        assert!(bench.until(&Reason::WorkerFailed(F::InstallationGone), None, Span::mins(12)).is_some());
    }),
    ("running, and the App is not installed any more: it may still work, for 6 hours", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        let reason = Reason::WorkerFailed(F::InstallationGone);
        assert_eq!(bench.until(&reason, None, Span(6 * HOUR.0 - 60_000)), None);
        assert!(bench.until(&reason, None, Span::mins(5)).is_some());
    }),
    ("and a listing that nobody answers meanwhile does not begin that time anew", |bench| {
        bench.find_worker(Status::Running, PodPhase::Running);
        let reason = Reason::WorkerFailed(F::InstallationGone);
        assert_eq!(bench.until(&reason, None, Span(3 * HOUR.0)), None);
        let listing = |action: &Action| matches!(action, Action::ListRunners(_));
        while bench.find(listing).is_none() {
            bench.tick(Span::secs(5));
        }
        let chosen = bench.expect("a listing", listing);
        bench.answer(chosen.id, Outcome::RunnersListed(away()));
        assert!(bench.until(&reason, None, Span(3 * HOUR.0 + 300_000)).is_some());
    }),
];

#[test]
fn every_branch_and_every_reason() {
    play(1, CASES, &reasons_of("reconcile_runners"));
}

#[test]
fn of_several_idle_runners_no_more_are_retired_than_nobody_needs() {
    let names: Vec<String> =
        ('a'..='d').map(|c| format!("rise-riscv-runner-1-{}", String::from(c).repeat(9))).collect();
    let mut bench = Bench::new(4);
    for name in &names {
        let status = Status::Running;
        bench.apply(Change::Worker(Worker { status, running_at: Some(START), ..worker(name, 1, START) }));
        bench.see(pod(name, PodPhase::Running, START));
    }
    bench.apply(Change::Job(job(1, 1)));
    let runners: Vec<(&str, bool, bool)> = names.iter().map(|name| (name.as_str(), true, false)).collect();
    let reason = Reason::RunnerBeforePod(F::Surplus);
    assert!(bench.until(&reason, Some(&runners), Span::mins(10)).is_some());
    bench.tick(Span::mins(10));
    assert_eq!(bench.open.iter().filter(|chosen| chosen.reason == reason).count(), 3, "one job waits");
}

/// GitHub's listings may be of a few seconds ago: one that lacks a runner that was just made is no proof that it is gone.
#[test]
fn a_runner_that_dies_young_is_looked_for_once_more() {
    let mut bench = Bench::new(1);
    bench.apply(Change::Job(job(1, 1)));
    let name = bench.provision();
    bench.later(Span::secs(3));
    bench.see(pod(name.as_str(), PodPhase::Failed, bench.now));
    bench.apply(Change::Job(Job { status: Status::Completed, ..job(1, 1) }));
    bench.decide();
    bench.answer_writes();
    bench.tick(Span::secs(1));
    bench.listed(&[]);
    let deleted = |bench: &Bench| bench.open.iter().any(|it| matches!(it.action, Action::DeleteRunner { .. }));
    for _ in 0..60 {
        bench.tick(Span::secs(10));
        if bench.open.iter().any(|chosen| matches!(chosen.action, Action::ListRunners(_))) {
            bench.listed(&[(name.as_str(), false, false)]);
            bench.decide();
        }
        if deleted(&bench) {
            return;
        }
    }
    panic!("its entry stays");
}

#[test]
fn a_listing_that_contradicts_the_rows_has_their_jobs_asked_about() {
    type Given = (&'static str, Option<Job>, (bool, bool), bool);
    let named = |at| Some(Job { status: Status::Running, assignment: on(OURS, at), ..job(1, 1) });
    let late = START + Span::hours(1);
    let cases: [Given; 5] = [
        ("a job named a runner that is idle, for a minute", named(START), (true, false), true),
        ("GitHub's busy may lag that far behind its start", named(late), (true, false), false),
        ("it is busy with it", named(START), (true, true), false),
        ("a job waits and a runner has been idle for half a minute", Some(job(1, 1)), (true, false), true),
        ("a job waits and a runner is busy with nobody's", Some(job(1, 1)), (true, true), true),
    ];
    for (name, row, (online, busy), doubted) in cases {
        let mut bench = Bench::new(1);
        bench.find_worker(Status::Running, PodPhase::Running);
        // Its turn to be asked about anyway comes later.
        bench.apply(Change::Job(Job { created_at: late, ..row.expect("a job") }));
        let runners = [(OURS, online, busy)];
        let found = bench.until(&Reason::Doubt, Some(&runners), Span::secs(240)).is_some();
        assert_eq!(found, doubted, "{name}");
    }
}

/// Scopes of one installation share its listings, such as the repositories of a person. None is kept from its turn by others
/// that always have a wish.
#[test]
fn where_listings_are_few_who_was_listed_least_lately_comes_first() {
    let mut bench = Bench::new(9);
    // All that time their runners are awaited.
    bench.policy.timeouts.registration = HOUR;
    let entities = [1, 2, 3];
    for entity in entities {
        let name = format!("rise-riscv-runner-{entity}-aaaaaaaaa");
        let (status, running_at, installation) = (Status::Running, Some(START), InstallationId(501));
        bench.apply(Change::Worker(Worker { status, running_at, installation, ..worker(&name, entity, START) }));
        bench.see(pod(&name, PodPhase::Running, START));
    }
    // A listing every 48 s, and each of them wishes for one every 15 s.
    let told = |now: Time| Some(Budget { limit: 500, remaining: 400, reset_at: now + HOUR });
    let mut listed: Vec<(Time, i64)> = Vec::new();
    while bench.now < START + Span::mins(7) {
        bench.decide();
        while let Some(chosen) = bench.find(|action| matches!(action, Action::ListRunners(_))) {
            let Action::ListRunners(scope) = &chosen.action else { unreachable!("it is one") };
            listed.push((bench.now, scope.entity.0));
            let listing = RunnerListing { asked_at: bench.now, runners: vec![] };
            let answer = GitHubAnswer { result: Ok(listing), budget: told(bench.now), calls: 1 };
            bench.answer(chosen.id, Outcome::RunnersListed(answer));
        }
        bench.answer_writes();
        bench.answer_reads();
        bench.later(Span::secs(1));
    }
    // What is saved up is spent first.
    let late: Vec<i64> = listed.iter().filter(|(at, _)| *at > START + Span::mins(1)).map(|(_, it)| *it).collect();
    assert!((6..12).contains(&late.len()), "they are few: {listed:?}");
    for turn in late.chunks_exact(entities.len()) {
        let mut turn = turn.to_vec();
        turn.sort_unstable();
        assert_eq!(turn, entities, "{listed:?}");
    }
}

#[test]
fn a_runner_that_is_made_shows_that_the_app_is_there() {
    // A listing under way says that it is not, and the configuration of a worker of the same scope is made.
    let mut bench = Bench::new(1);
    bench.apply(Change::Job(job(1, 1)));
    bench.decide();
    bench.answer_writes();
    bench.decide();
    let mint = bench.expect("a JIT call", |action| matches!(action, Action::MintJit(_)));
    let listing = bench.expect("a listing", |action| matches!(action, Action::ListRunners(_)));
    bench.answer(listing.id, Outcome::RunnersListed(refused(GitHubError::InstallationGone)));
    bench.answer(mint.id, Outcome::JitMinted(ok(Minted { runner: RunnerId(9) })));
    bench.decide();
    let create = bench.expect("a pod", |action| matches!(action, Action::CreatePod(_)));
    let Action::CreatePod(row) = &create.action else { unreachable!() };
    let made = pod(row.name.as_str(), PodPhase::Pending, bench.now);
    bench.answer(create.id, Outcome::PodCreated(Ok(made.clone())));
    bench.see(made);
    bench.decide();
    let secret = bench.expect("a Secret", |action| matches!(action, Action::CreateSecret { .. }));
    bench.answer(secret.id, Outcome::SecretCreated(Ok(())));
    // Of an App that is gone nobody could delete the runner, and the stuck pod would keep its place for six hours.
    for _ in 0..130 {
        bench.tick(Span::secs(5));
    }
    assert!(bench.why(&Reason::RunnerBeforePod(F::PodStuckPending)).is_some(), "{:#?}", bench.open);
}

#[test]
fn a_deletion_that_finds_nothing_proves_nothing() {
    let mut bench = Bench::new(1);
    awaited(&mut bench, OURS);
    let before = Reason::RunnerBeforePod(F::RunnerNeverRegistered);
    let chosen = bench.until(&before, Some(OFFLINE), Span::mins(10)).expect("it never registers");
    // Perhaps it is its organisation that was not found.
    bench.answer(chosen.id, Outcome::RunnerDeleted(refused(GitHubError::NotFound)));
    bench.decide();
    assert!(bench.why(&Reason::WorkerFailed(F::RunnerNeverRegistered)).is_none(), "{:#?}", bench.open);
    let listed = bench.until(&Reason::WorkerFailed(F::RunnerNeverRegistered), Some(&[]), Span::mins(3));
    assert!(listed.is_some(), "a listing tells");
}
