//! reconcile_jobs: a table of every branch.

mod support;

use std::collections::BTreeSet;

use engine::{
    decision::{Action, Chosen, JobFailure, Reason, Write},
    facts::*,
    ids::*,
};
use support::*;

const SWEEP: Span = Span::mins(2);
const WAIT: Span = Span::secs(45);

fn polls(bench: &Bench) -> Vec<i64> {
    let polled = |chosen: &Chosen| match chosen.action {
        Action::PollJob { id, .. } => Some(id.0),
        _ => None,
    };
    bench.open.iter().filter_map(polled).collect()
}

fn writes(bench: &Bench) -> Vec<Write> {
    let written = |chosen: &Chosen| match &chosen.action {
        Action::Write { write, .. } if write.job().is_some() => Some(write.clone()),
        _ => None,
    };
    bench.open.iter().filter_map(written).collect()
}

/// Every open poll is answered so, as of now; then the engine decides.
fn answer(bench: &mut Bench, view: impl Fn() -> GitHubAnswer<JobView>) {
    for chosen in bench.open.clone() {
        if matches!(chosen.action, Action::PollJob { .. }) {
            bench.answer(chosen.id, Outcome::JobPolled { asked_at: bench.now, answer: view() });
        }
    }
    bench.decide();
}

fn running(id: i64, runner: Option<&str>) -> Job {
    Job { status: Status::Running, assignment: runner.and_then(|name| on(name, START)), ..job(id, 1) }
}

/// A job that has just been asked about.
fn polled(bench: &mut Bench, row: Job) {
    bench.apply(Change::Job(row));
    bench.tick(Span(SWEEP.0 + 10));
    assert_eq!(polls(bench), [1]);
}

/// A pending job of the first organisation whose delivery named this installation.
fn through(id: i64, installation: i64) -> Change {
    Change::Job(Job { installation: InstallationId(installation), ..job(id, 1) })
}

/// The jobs that are being failed, with the installation that each one's row is said to have named.
fn named_in_failed(bench: &Bench) -> BTreeSet<(i64, i64)> {
    let all = writes(bench);
    let failed = all.iter().filter_map(|write| match write {
        Write::JobFailed { id, named, .. } => Some((id.0, named.0)),
        _ => None,
    });
    failed.collect()
}

/// For `span`, GitHub knows these installations and no others; through which ones was it asked?
fn by_installation(bench: &mut Bench, there: &[i64], span: Span) -> BTreeSet<i64> {
    let (mut asked, until) = (BTreeSet::new(), bench.now + span);
    while bench.now < until {
        for chosen in bench.open.clone() {
            let Action::PollJob { installation, .. } = chosen.action else { continue };
            asked.insert(installation.0);
            let known = there.contains(&installation.0);
            let queued = || ok(JobView::Queued { said_at: None });
            let answer = if known { queued() } else { refused(GitHubError::InstallationGone) };
            bench.answer(chosen.id, Outcome::JobPolled { asked_at: bench.now, answer });
        }
        bench.decide();
        bench.tick(Span::secs(5));
    }
    asked
}

const CASES: &[Case] = &[
    ("a job that waits is asked about 45 s after it was queued, and every 45 s, by its entity's App", |bench| {
        bench.apply(Change::Job(job(1, 1)));
        bench.tick(WAIT);
        assert_eq!(polls(bench), []);
        bench.tick(Span(1));
        let chosen = bench.why(&Reason::Sweep).expect("a poll");
        let (installation, app) = (InstallationId(501), App::Organization);
        assert_eq!(chosen.action, Action::PollJob { id: JobId(1), repo: "org-1/repo".into(), installation, app });
        answer(bench, || ok(JobView::Queued { said_at: None }));
        assert_eq!(writes(bench), [], "as the row says");
        bench.tick(Span(WAIT.0 - 1));
        assert_eq!(polls(bench), []);
        bench.tick(Span(1));
        assert_eq!(polls(bench), [1]);
    }),
    ("one that runs on a worker of ours, every 2 minutes; on any other runner, every 45 s", |bench| {
        bench.apply(Change::Worker(Worker { status: Status::Running, ..worker(OURS, 1, START) }));
        for (runner, every) in [(OURS, SWEEP), ("another", WAIT)] {
            bench.apply(Change::Job(running(1, Some(runner))));
            bench.tick(Span(SWEEP.0 + 10));
            let view = || ok(JobView::InProgress { assignment: on(runner, START) });
            answer(bench, view);
            bench.tick(Span(every.0 - 1));
            assert_eq!(polls(bench), [], "{runner}");
            bench.tick(Span(1));
            assert_eq!(polls(bench), [1], "{runner}");
            answer(bench, || ok(JobView::Completed { assignment: None, completed_at: Some(START) }));
            bench.answer_writes();
        }
    }),
    ("a user's job by the other App", |bench| {
        bench.apply(Change::Job(Job { entity_type: EntityType::User, ..job(1, 1) }));
        bench.tick(Span(SWEEP.0 + 1));
        let personal = |action: &Action| matches!(action, Action::PollJob { app: App::Personal, .. });
        assert!(bench.find(personal).is_some());
    }),
    ("nobody knows its installation: it cannot be asked about", |bench| {
        bench.apply(Change::Job(Job { installation: InstallationId(0), ..job(1, 1) }));
        bench.tick(Span::hours(1));
        assert_eq!(polls(bench), []);
    }),
    ("a job whose runner has ended is asked about 15 s later, before all others", |bench| {
        for id in 2..4 {
            bench.apply(Change::Job(job(id, 1)));
        }
        bench.apply(Change::Job(running(1, Some(OURS))));
        let completed_at = Some(bench.now);
        bench.apply(Change::Worker(Worker { status: Status::Completed, completed_at, ..worker(OURS, 1, START) }));
        // A leader's first reading is answered before there is a second.
        bench.decide();
        bench.listed(&[]);
        bench.tick(Span(Span::secs(15).0 - 1));
        assert_eq!(polls(bench), []);
        bench.tick(Span(1));
        assert_eq!(polls(bench), [1]);
        assert!(bench.why(&Reason::Doubt).is_some());
    }),
    ("GitHub says that it runs", |bench| {
        polled(bench, job(1, 1));
        answer(bench, || ok(JobView::InProgress { assignment: on("r", START) }));
        assert_eq!(writes(bench), [Write::JobRunning { id: JobId(1), assignment: on("r", START) }]);
        assert!(bench.why(&Reason::GitHubSays).is_some());
        bench.answer_writes();
        bench.decide();
        assert_eq!(writes(bench), []);
    }),
    ("GitHub names the runner of a running job, and says the same again", |bench| {
        polled(bench, running(1, None));
        let view = || ok(JobView::InProgress { assignment: on("r", START) });
        answer(bench, view);
        assert_eq!(writes(bench), [Write::JobRunning { id: JobId(1), assignment: on("r", START) }]);
        bench.answer_writes();
        bench.tick(SWEEP);
        answer(bench, view);
        assert_eq!(writes(bench), []);
    }),
    ("GitHub says when it ended", |bench| {
        polled(bench, running(1, None));
        let (at, runner) = (START + Span::secs(50), || on("r", START));
        answer(bench, || ok(JobView::Completed { assignment: runner(), completed_at: Some(at) }));
        assert_eq!(writes(bench), [Write::JobCompleted { id: JobId(1), assignment: runner(), at }]);
        bench.answer_writes();
        assert!(!bench.snapshot.knows_job(JobId(1)));
    }),
    ("GitHub says that it ended, and not when", |bench| {
        polled(bench, job(1, 1));
        answer(bench, || ok(JobView::Completed { assignment: None, completed_at: None }));
        assert_eq!(writes(bench), [Write::JobCompleted { id: JobId(1), assignment: None, at: bench.now }]);
    }),
    ("a running job is queued again: it is demand, once", |bench| {
        polled(bench, running(1, Some("gone")));
        answer(bench, || ok(JobView::Queued { said_at: None }));
        assert_eq!(writes(bench), [Write::JobRequeued { id: JobId(1), at: bench.now - Span::secs(45) }]);
        bench.answer_writes();
        bench.tick(SWEEP);
        answer(bench, || ok(JobView::Queued { said_at: None }));
        assert_eq!(writes(bench), []);
        bench.nodes(1);
        bench.decide();
        assert_eq!(bench.reservations().len(), 1);
    }),
    ("an answer from before it started says nothing of a requeue, however far ahead this clock is", |bench| {
        polled(bench, running(1, Some("taken")));
        for late in [-1, 0, 20, 45] {
            answer(bench, || ok(JobView::Queued { said_at: Some(START + Span::secs(late)) }));
            assert_eq!(writes(bench), [], "{late}");
            bench.tick(SWEEP);
        }
        let said_at = Some(START + Span::secs(60));
        answer(bench, || ok(JobView::Queued { said_at }));
        assert_eq!(writes(bench), [Write::JobRequeued { id: JobId(1), at: START + Span::secs(15) }]);
    }),
    ("a poll from before it started says nothing of a requeue", |bench| {
        polled(bench, Job { assignment: on("r", START + Span::hours(1)), ..running(1, None) });
        answer(bench, || ok(JobView::Queued { said_at: None }));
        assert_eq!(writes(bench), []);
    }),
    ("GitHub does not know it", |bench| {
        polled(bench, job(1, 1));
        answer(bench, || refused(GitHubError::NotFound));
        let failure = JobFailure::JobNotFound;
        assert_eq!(
            writes(bench),
            [Write::JobFailed { id: JobId(1), at: bench.now, failure, named: job(1, 1).installation }]
        );
        assert!(bench.why(&Reason::GitHubSays).is_some());
    }),
    ("no answer says nothing: it is asked again in 5 s", |bench| {
        polled(bench, running(1, None));
        answer(bench, away);
        assert_eq!((writes(bench), polls(bench)), (vec![], vec![]));
        bench.tick(Span::secs(5));
        assert_eq!(polls(bench), [1]);
    }),
    ("an answer that was given up is none", |bench| {
        polled(bench, running(1, None));
        let poll = bench.why(&Reason::Sweep).expect("a poll");
        bench.answer(poll.id, Outcome::Lost);
        bench.decide();
        assert_eq!(writes(bench), []);
    }),
    ("a write whose answer was lost is repeated, one that was refused is not", |bench| {
        polled(bench, job(1, 1));
        answer(bench, || ok(JobView::Completed { assignment: None, completed_at: Some(START) }));
        let write = bench.why(&Reason::GitHubSays).expect("a write");
        bench.answer(write.id, Outcome::Written(Err(StoreError::Unavailable { message: "away".into() })));
        bench.decide();
        assert_eq!(writes(bench), []);
        bench.tick(Span::secs(5));
        let write = bench.why(&Reason::GitHubSays).expect("the same write");
        bench.answer(write.id, Outcome::Written(Ok(Written::RefusedState)));
        bench.tick(Span::secs(30));
        assert_eq!(writes(bench), []);
    }),
    ("an installation that is gone for 15 s fails its jobs, also those that run", |bench| {
        polled(bench, job(1, 1));
        bench.apply(Change::Job(running(2, None)));
        bench.apply(Change::Job(Job { created_at: bench.now, ..job(3, 9) }));
        for _ in 0..12 {
            answer(bench, || refused(GitHubError::InstallationGone));
            bench.tick(Span::secs(5));
        }
        let failure = JobFailure::InstallationGone;
        let mut failed: Vec<_> = writes(bench).iter().filter_map(Write::job).map(|id| id.0).collect();
        failed.sort();
        assert_eq!(failed, [1, 2], "and no other's");
        assert!(bench.why(&Reason::Installation(failure)).is_some());
    }),
    (
        "a job that is being asked about whenever another call finds the installation gone is failed all the same",
        |bench| {
            bench.apply(Change::Job(job(1, 1)));
            bench.nodes(1);
            bench.decide();
            bench.answer_writes();
            for _ in 0..6 {
                bench.tick(Span::secs(61));
                for chosen in bench.open.clone() {
                    if matches!(chosen.action, Action::MintJit(_)) {
                        bench.answer(chosen.id, Outcome::JitMinted(refused(GitHubError::InstallationGone)));
                        bench.decide();
                    }
                }
                answer(bench, || refused(GitHubError::InstallationGone));
            }
            assert_eq!(writes(bench).iter().filter_map(Write::job).collect::<Vec<_>>(), [JobId(1)]);
        },
    ),
    ("one such answer is a glitch", |bench| {
        polled(bench, job(1, 1));
        answer(bench, || refused(GitHubError::InstallationGone));
        bench.tick(Span::secs(6));
        answer(bench, || ok(JobView::Queued { said_at: None }));
        for _ in 0..20 {
            bench.tick(Span::secs(30));
            answer(bench, || ok(JobView::Queued { said_at: None }));
        }
        assert_eq!(writes(bench), []);
    }),
    ("all jobs of a gone installation are failed at once, whoever's answer completes the proof", |bench| {
        for id in 1..=8 {
            bench.apply(Change::Job(job(id, 1)));
        }
        bench.tick(SWEEP);
        let mut failed = BTreeSet::new();
        for _ in 0..8 {
            // One answer at a time, and a decision after each.
            for _ in 0..8 {
                let Some(poll) = bench.open.iter().find(|it| matches!(it.action, Action::PollJob { .. })) else {
                    break;
                };
                let poll = poll.id;
                bench.answer(
                    poll,
                    Outcome::JobPolled { asked_at: bench.now, answer: refused(GitHubError::InstallationGone) },
                );
                bench.decide();
                failed.extend(writes(bench).iter().filter_map(Write::job));
            }
            if !failed.is_empty() {
                break;
            }
            bench.tick(Span::secs(5));
        }
        assert_eq!(failed.len(), 8, "{failed:?}");
        assert!(writes(bench).iter().all(|it| matches!(it, Write::JobFailed { named: InstallationId(501), .. })));
    }),
    ("a job that is answered for is not failed with the others", |bench| {
        for id in [1, 2] {
            bench.apply(Change::Job(job(id, 1)));
        }
        bench.tick(SWEEP);
        // A leader's first reading is answered before there is a second.
        answer(bench, || ok(JobView::Queued { said_at: None }));
        answer(bench, || ok(JobView::Queued { said_at: None }));
        bench.tick(WAIT);
        let poll = |bench: &Bench, id| {
            let is_it = |it: &Chosen| matches!(&it.action, Action::PollJob { id: polled, .. } if *polled == JobId(id));
            bench.open.iter().find(|it| is_it(it)).map(|it| it.id)
        };
        let late = poll(bench, 2).expect("both are asked about");
        for _ in 0..12 {
            if let Some(id) = poll(bench, 1) {
                let answer = refused(GitHubError::InstallationGone);
                bench.answer(id, Outcome::JobPolled { asked_at: bench.now, answer });
            }
            bench.tick(Span::secs(5));
        }
        let failed = |bench: &Bench| writes(bench).iter().filter_map(Write::job).collect::<Vec<_>>();
        assert_eq!(failed(bench), [JobId(1)], "the other is being asked about");
        bench.answer(late, Outcome::JobPolled { asked_at: bench.now, answer: ok(JobView::Queued { said_at: None }) });
        bench.decide();
        assert_eq!(failed(bench), [JobId(1)]);
    }),
    ("what was found of an old installation says nothing once a delivery has named a later one", |bench| {
        polled(bench, job(1, 1));
        answer(bench, || refused(GitHubError::NotFound));
        let write = bench.why(&Reason::GitHubSays).expect("a write");
        let (failure, named) = (JobFailure::JobNotFound, job(1, 1).installation);
        assert_eq!(
            write.action,
            Action::Write { write: Write::JobFailed { id: JobId(1), at: bench.now, failure, named }, diagnose: None }
        );
        bench.apply(Change::Job(Job { installation: InstallationId(900), ..job(1, 1) }));
        bench.answer(write.id, Outcome::Written(Err(StoreError::Unavailable { message: "away".into() })));
        bench.decide();
        bench.tick(Span::secs(5));
        assert_eq!(writes(bench), []);
        bench.tick(SWEEP);
        answer(bench, || ok(JobView::Queued { said_at: None }));
        assert_eq!(writes(bench), []);
        assert!(bench.snapshot.knows_job(JobId(1)));
    }),
    ("a delivery that names an installation that is none ends nothing: the one before serves on", |bench| {
        bench.apply(Change::Job(job(1, 1)));
        bench.apply(Change::Job(job(2, 1)));
        bench.apply(through(3, 999));
        let asked = by_installation(bench, &[501], Span::mins(10));
        assert_eq!(writes(bench), []);
        assert!(asked.contains(&999), "it is the latest");
        // Named again, it is known for what it is; a later one is not.
        bench.apply(through(3, 999));
        bench.apply(through(4, 999));
        bench.apply(through(5, 501));
        assert_eq!(by_installation(bench, &[501], Span::mins(5)), [501].into());
        // Also one that is later than what serves alone: an App is installed anew after another's id has misled.
        for (id, later) in [(6, 700), (7, 1000)] {
            bench.apply(through(id, later));
            assert!(by_installation(bench, &[501, 700, 1000], Span::mins(1)).contains(&later), "{later} at once");
            assert_eq!(by_installation(bench, &[501, 700, 1000], Span::mins(5)), [later].into());
        }
        assert_eq!(writes(bench), []);
    }),
    ("whichever delivery came first", |bench| {
        bench.apply(through(3, 999));
        bench.apply(through(1, 501));
        bench.apply(through(2, 400));
        by_installation(bench, &[501], Span::mins(10));
        assert_eq!(by_installation(bench, &[501], Span::mins(2)), [501].into());
        assert_eq!(writes(bench), []);
        // A job that GitHub does not know there is failed, though its row names the one that is none; and the write says what
        // this leader has read in that very row, so that it fails no row that names another one by now.
        for chosen in bench.open.clone() {
            let answer = refused(GitHubError::NotFound);
            bench.answer(chosen.id, Outcome::JobPolled { asked_at: bench.now, answer });
        }
        bench.tick(SWEEP);
        answer(bench, || refused(GitHubError::NotFound));
        assert_eq!(named_in_failed(bench), [(1, 501), (2, 400), (3, 999)].into());
    }),
    ("another one that a delivery names while the jobs are being failed is tried first", |bench| {
        bench.apply(through(1, 999));
        bench.apply(through(2, 999));
        // The other one is being asked about, and nobody answers, while 999 is found to be none.
        bench.tick(SWEEP);
        answer(bench, || ok(JobView::Queued { said_at: None }));
        answer(bench, || ok(JobView::Queued { said_at: None }));
        bench.tick(WAIT);
        let late = bench.find(|it| matches!(it, Action::PollJob { id: JobId(2), .. })).expect("it is asked about").id;
        while writes(bench).is_empty() {
            assert!(bench.now < START + Span::mins(15), "999 is none");
            for chosen in bench.open.clone().into_iter().filter(|it| it.id != late) {
                let asked_at = bench.now;
                match chosen.action {
                    Action::PollJob { .. } => bench.answer(
                        chosen.id,
                        Outcome::JobPolled { asked_at, answer: refused(GitHubError::InstallationGone) },
                    ),
                    Action::ListRunners { .. } => {
                        bench.answer(chosen.id, Outcome::RunnersListed(refused(GitHubError::InstallationGone)));
                    }
                    _ => {}
                }
            }
            bench.tick(Span::secs(5));
        }
        assert_eq!(named_in_failed(bench), [(1, 999)].into());
        bench.apply(through(2, 501));
        let answer = refused(GitHubError::Unavailable { message: "no answer".into() });
        bench.answer(late, Outcome::JobPolled { asked_at: bench.now, answer });
        bench.decide();
        assert_eq!(named_in_failed(bench), [(1, 999)].into());
        assert!(by_installation(bench, &[501], Span::mins(5)).contains(&501));
        assert_eq!(named_in_failed(bench), [(1, 999)].into());
    }),
    ("one that is named where the latest seems to be gone is gone by at once", |bench| {
        bench.apply(through(1, 999));
        bench.apply(Change::Worker(Worker { installation: InstallationId(999), ..worker(OURS, 1, START) }));
        bench.see(pod(OURS, PodPhase::Running, bench.now));
        bench.tick(SWEEP);
        answer(bench, || refused(GitHubError::InstallationGone));
        bench.answer_writes();
        bench.tick(SWEEP);
        let listing = bench.expect("a listing", |it| matches!(it, Action::ListRunners { .. })).id;
        bench.answer(listing, Outcome::RunnersListed(refused(GitHubError::InstallationGone)));
        answer(bench, || refused(GitHubError::Unavailable { message: "no answer".into() }));
        bench.apply(through(2, 501));
        bench.decide();
        assert_eq!(by_installation(bench, &[501], Span::mins(10)), [501].into());
    }),
    ("where none of those that were named is there, the jobs are failed, and the latest is asked again", |bench| {
        for (id, installation) in [(1, 501), (2, 999), (3, 700)] {
            bench.apply(through(id, installation));
        }
        let mut asked = BTreeSet::new();
        while writes(bench).is_empty() {
            assert!(bench.now < START + Span::mins(15), "asked through {asked:?}");
            asked.extend(by_installation(bench, &[], Span::secs(5)));
        }
        assert_eq!(asked, [501, 700, 999].into());
        assert_eq!(named_in_failed(bench), [(1, 501), (2, 999), (3, 700)].into());
        bench.answer_writes();
        bench.apply(Change::Job(Job { created_at: bench.now, ..job(4, 1) }));
        assert_eq!(by_installation(bench, &[999], Span::mins(5)), [999].into());
        assert_eq!(writes(bench), []);
    }),
    ("one that is suspended fails none: its jobs wait until the App is back", |bench| {
        polled(bench, job(1, 1));
        bench.apply(Change::Job(running(2, None)));
        for _ in 0..120 {
            answer(bench, || refused(GitHubError::InstallationSuspended));
            assert_eq!(writes(bench), []);
            bench.tick(Span::mins(1));
        }
        answer(bench, || ok(JobView::Queued { said_at: None }));
        assert_eq!(writes(bench), []);
    }),
    ("but those that GitHub has taken out of its queue by then; what runs may end by itself", |bench| {
        // It was made long ago, and an environment's rule held it until now.
        polled(bench, Job { created_at: START - Span::hours(100), ..job(1, 1) });
        bench.apply(Change::Job(running(2, None)));
        let (mut begun, mut failed) = (None, None);
        for minute in 0..26 * 60 {
            let asked = polls(bench).len();
            answer(bench, || refused(GitHubError::InstallationSuspended));
            begun = begun.or((asked > 0).then_some(minute));
            let all = writes(bench);
            if !all.is_empty() {
                assert_eq!(all.iter().filter_map(Write::job).collect::<Vec<_>>(), [JobId(1)]);
                failed = Some(minute);
                break;
            }
            bench.tick(Span::mins(1));
        }
        let after = failed.expect("it is failed") - begun.unwrap();
        assert!((25 * 60..25 * 60 + 3).contains(&after), "{after} minutes after it was known to be suspended");
        assert!(bench.why(&Reason::Installation(JobFailure::InstallationSuspended)).is_some());
    }),
    ("and one that has left the queue on a runner meanwhile is not failed", |bench| {
        polled(bench, job(1, 1));
        answer(bench, || refused(GitHubError::InstallationSuspended));
        let mut last = None;
        for _ in 0..25 * 60 {
            bench.tick(Span::mins(1));
            last = bench.open.iter().find(|it| matches!(it.action, Action::PollJob { .. })).map(|it| it.id).or(last);
            if bench.now < START + Span::hours(24) {
                answer(bench, || refused(GitHubError::InstallationSuspended));
            }
        }
        bench.tick(Span::mins(30));
        let answered = Outcome::JobPolled { asked_at: bench.now, answer: refused(GitHubError::InstallationSuspended) };
        bench.answer(last.expect("a poll"), answered);
        // Read before anything is decided on that answer.
        bench.apply(Change::Job(running(1, None)));
        bench.tick(Span::secs(5));
        assert_eq!(writes(bench), []);
    }),
];

#[test]
fn every_branch_and_every_reason() {
    play(0, CASES, &reasons_of("reconcile_jobs"));
}

#[test]
fn a_nodes_clock_that_is_ahead_puts_no_question_off() {
    let mut bench = Bench::new(1);
    bench.apply(Change::Worker(Worker { status: Status::Running, ..worker(OURS, 1, START) }));
    polled(&mut bench, running(1, Some(OURS)));
    answer(&mut bench, || ok(JobView::InProgress { assignment: on(OURS, START) }));
    assert_eq!(polls(&bench), []);
    // Its pod's end is told by its node: its job has most likely ended, too, and that not in an hour.
    let completed_at = Some(bench.now + Span::hours(1));
    bench.apply(Change::Worker(Worker { status: Status::Completed, completed_at, ..worker(OURS, 1, START) }));
    let doubt = bench.policy.governor.doubt_every;
    assert!(doubt.0 < SWEEP.0, "sooner than it would be asked about anyhow");
    bench.tick(doubt);
    assert_eq!(polls(&bench), [1]);
}
