//! The store's contract as a value: guards, forward-only writes, the cursor, leadership.

mod support;

use engine::{
    decision::{JobFailure, WorkerFailure, Write},
    facts::*,
    ids::*,
    labels::LabelSet,
    rows::Rows,
};
use support::{START, failed, job, on, worker};

const ENDED: Time = Time(START.0 + 60_000);

/// Rows come to be by events and reservations alone: each worker is made for a job of its own that is then over.
fn rows(jobs: impl IntoIterator<Item = Job>, workers: impl IntoIterator<Item = Worker>) -> Rows {
    let mut rows = Rows::default();
    let mut before: Vec<WorkerName> = Vec::new();
    for (id, row) in (900..).zip(workers) {
        let mut own = Job { owner: row.owner, labels: row.labels.clone(), ..job(id, row.entity.0) };
        rows.record(own.clone());
        let fresh = Worker { status: Status::Pending, ..row.clone() };
        let others: Vec<&str> = before.iter().map(WorkerName::as_str).collect();
        assert_eq!(rows.write(reserve(fresh, None, &others)), Written::Done);
        before.push(row.name.clone());
        own.status = Status::Completed;
        rows.record(own);
        let name = row.name;
        let write = match row.status {
            Status::Pending => continue,
            Status::Running => Write::WorkerRunning { name, at: START, node: None },
            Status::Completed => Write::WorkerCompleted { name, at: ENDED, running_at: None, node: None },
            Status::Failed => failed(name, ENDED, WorkerFailure::PodFailed),
        };
        assert_eq!(rows.write(write), Written::Done);
    }
    for job in jobs {
        rows.record(job);
    }
    rows
}

fn reserve(worker: Worker, cap: Option<u32>, phantoms: &[&str]) -> Write {
    let phantoms = phantoms.iter().map(|name| WorkerName::from(*name)).collect();
    Write::Reserve { worker: Box::new(worker), cap, phantoms }
}

fn workers(names: &[(&str, Status)]) -> Vec<Worker> {
    names.iter().map(|&(name, status)| Worker { status, ..worker(name, 1, START) }).collect()
}

fn running(id: i64, runner: Option<&str>) -> Job {
    Job { status: Status::Running, assignment: runner.and_then(|runner| on(runner, START)), ..job(id, 1) }
}

#[test]
fn a_reservation_is_made_only_where_cap_and_demand_allow() {
    use Status::*;
    use Written::*;
    let requeued = Job { requeued_at: Some(Time(START.0 + 5)), ..running(1, Some("w1")) };
    let again = Job { assignment: on("w1", Time(START.0 + 9)), ..requeued.clone() };
    let other = |change: fn(&mut Job)| {
        let mut other = job(2, 1);
        change(&mut other);
        other
    };
    type Case<'a> = (&'a str, Vec<Job>, &'a [(&'a str, Status)], Option<u32>, &'a [&'a str], Written);
    let cases: Vec<Case<'_>> = vec![
        ("a pending job and nobody", vec![job(1, 1)], &[], None, &[], Done),
        ("no job", vec![], &[], None, &[], RefusedDemand),
        ("a cap of none at all", vec![job(1, 1)], &[], Some(0), &[], RefusedCap),
        ("room under the cap", vec![job(1, 1), job(2, 1)], &[("w1", Pending)], Some(2), &[], Done),
        ("at the cap", vec![job(1, 1), job(2, 1)], &[("w1", Pending)], Some(1), &[], RefusedCap),
        ("ended workers do not count", vec![job(1, 1)], &[("w1", Failed), ("w2", Completed)], Some(1), &[], Done),
        ("a worker that starts serves it", vec![job(1, 1)], &[("w1", Pending)], None, &[], RefusedDemand),
        ("a worker that runs serves it", vec![job(1, 1)], &[("w1", Running)], None, &[], RefusedDemand),
        ("the worker runs another job", vec![job(1, 1), running(2, Some("w1"))], &[("w1", Running)], None, &[], Done),
        ("or one whose runner is unknown", vec![job(1, 1), running(2, None)], &[("w1", Running)], None, &[], Done),
        (
            "one of two is free",
            vec![job(1, 1), running(2, Some("w1"))],
            &[("w1", Running), ("w2", Running)],
            None,
            &[],
            RefusedDemand,
        ),
        ("phantom: it is busy with a job nobody named", vec![job(1, 1)], &[("w1", Running)], None, &["w1"], Done),
        (
            "a phantom that a job has named since is counted once",
            vec![job(1, 1), running(2, Some("w1"))],
            &[("w1", Running), ("w2", Running)],
            None,
            &["w1"],
            RefusedDemand,
        ),
        (
            "one that has ended since is not counted",
            vec![job(1, 1)],
            &[("w1", Completed), ("w2", Running)],
            None,
            &["w1"],
            RefusedDemand,
        ),
        (
            "phantom and unknown are the same worker",
            vec![job(1, 1), running(2, None)],
            &[("w1", Running), ("w2", Running)],
            None,
            &["w1"],
            RefusedDemand,
        ),
        ("phantoms without a pending job", vec![running(2, None)], &[("w1", Running)], None, &["w1"], RefusedDemand),
        ("a running job is no demand", vec![running(1, Some("elsewhere"))], &[], None, &[], RefusedDemand),
        ("a requeued one is", vec![requeued.clone()], &[], None, &[], Done),
        ("until it starts again", vec![again], &[], None, &[], RefusedDemand),
        ("its old runner is free", vec![requeued], &[("w1", Running)], None, &[], RefusedDemand),
        ("another group's job", vec![other(|j| j.labels = LabelSet::new(["x"]))], &[], None, &[], RefusedDemand),
        ("another entity's job", vec![other(|j| j.entity = EntityId(2))], &[], None, &[], RefusedDemand),
        ("an ended job", vec![other(|j| j.status = Completed)], &[], None, &[], RefusedDemand),
    ];
    for (name, jobs, known, cap, phantoms, expected) in cases {
        let mut rows = rows(jobs, workers(known));
        let before = rows.version();
        assert_eq!(rows.write(reserve(worker("new", 1, START), cap, phantoms)), expected, "{name}");
        assert_eq!(rows.version() > before, expected == Done, "{name}: the version");
        assert_eq!(rows.worker(&WorkerName::from("new")).is_some(), expected == Done, "{name}");
    }
}

#[test]
fn a_cap_counts_the_owners_workers_over_all_entities_and_labels() {
    let mine = [(2, "a"), (3, "b")];
    let mine = mine.map(|(entity, label)| Worker {
        owner: OwnerId(1),
        labels: LabelSet::new([label]),
        ..worker(label, entity, START)
    });
    let mut rows = rows([job(1, 1)], mine);
    assert_eq!(rows.write(reserve(worker("new", 1, START), Some(2), &[])), Written::RefusedCap);
    assert_eq!(rows.write(reserve(worker("new", 1, START), Some(3), &[])), Written::Done);
}

#[test]
fn a_repeated_reservation_is_done_whatever_the_counts_say_and_another_of_the_name_is_refused() {
    let mut rows = rows([job(1, 1)], workers(&[("w1", Status::Pending)]));
    let version = rows.version();
    assert_eq!(rows.write(reserve(worker("w1", 1, START), Some(0), &[])), Written::Done);
    for other in [
        worker("w1", 2, START),
        worker("w1", 1, Time(START.0 + 1)),
        Worker { labels: LabelSet::new(["x"]), ..worker("w1", 1, START) },
    ] {
        assert_eq!(rows.write(reserve(other, None, &[])), Written::RefusedName);
    }
    assert_eq!(rows.version(), version);
}

#[test]
fn workers_move_forward_only() {
    use Status::*;
    let name = || WorkerName::from("w1");
    let writes = |at: Time| {
        [
            (Running, Write::WorkerRunning { name: name(), at, node: None }),
            (Completed, Write::WorkerCompleted { name: name(), at, running_at: Some(START), node: None }),
            (Failed, failed(name(), at, WorkerFailure::RunnerLost)),
        ]
    };
    for from in [Pending, Running, Completed, Failed] {
        for (to, write) in writes(Time(ENDED.0 + 1)) {
            let mut rows = rows([], workers(&[("w1", from)]));
            let before = rows.worker(&name()).cloned();
            let written = rows.write(write.clone());
            let after = rows.worker(&name()).cloned();
            let moves = !from.is_ended() && from < to;
            assert_eq!(written == Written::Done, moves || from == to, "{from:?} to {to:?}: {written:?}");
            assert_eq!(after.as_ref().map(|row| row.status), Some(if moves { to } else { from }), "{from:?} to {to:?}");
            assert_eq!(after == before, !moves, "{from:?} to {to:?}");
            assert_eq!(rows.write(write), written, "the same again is answered the same: {from:?} to {to:?}");
        }
    }
    for (_, write) in writes(ENDED) {
        assert_eq!(rows([], []).write(write), Written::RefusedState, "no such worker");
    }
}

#[test]
fn what_ends_a_worker_says_since_when_and_where_it_ran_where_its_row_does_not_yet() {
    let (name, node) = (|| WorkerName::from("w1"), |node| Some(NodeName::from(node)));
    let (started, failure) = (Time(START.0 + 5), WorkerFailure::PodFailed);
    let ends = |running_at: Option<Time>, node: Option<NodeName>| {
        [
            Write::WorkerCompleted { name: name(), at: ENDED, running_at, node: node.clone() },
            Write::WorkerFailed { name: name(), at: ENDED, running_at, node, failure },
        ]
    };
    let ended = |before: Option<Write>, end: Write| {
        let mut rows = rows([], workers(&[("w1", Status::Pending)]));
        before.into_iter().chain([end]).for_each(|write| assert_eq!(rows.write(write), Written::Done));
        let row = rows.worker(&name()).expect("it was reserved");
        (row.running_at, row.node.clone(), row.completed_at)
    };
    let running = || Write::WorkerRunning { name: name(), at: START, node: node("first") };
    for end in ends(Some(started), node("n")) {
        assert_eq!(ended(None, end.clone()), (Some(started), node("n"), Some(ENDED)));
        assert_eq!(ended(Some(running()), end), (Some(START), node("n"), Some(ENDED)));
    }
    for end in ends(None, None) {
        assert_eq!(ended(None, end.clone()), (None, None, Some(ENDED)));
        assert_eq!(ended(Some(running()), end), (Some(START), node("first"), Some(ENDED)));
    }
}

#[test]
fn jobs_move_forward_only() {
    use Status::*;
    let (id, at) = (JobId(1), ENDED);
    let writes = [
        (Running, Write::JobRunning { id, assignment: on("w1", START) }),
        (Completed, Write::JobCompleted { id, assignment: on("w1", START), at }),
        (Failed, Write::JobFailed { id, at, failure: JobFailure::JobNotFound, named: job(1, 1).installation }),
    ];
    for from in [Pending, Running, Completed, Failed] {
        for (to, write) in &writes {
            let mut rows = rows([Job { status: from, ..job(1, 1) }], []);
            let written = rows.write(write.clone());
            let after = rows.job(id).expect("it was recorded").clone();
            let moves = !from.is_ended();
            assert_eq!(written == Written::Done, moves || from == *to, "{from:?} to {to:?}: {written:?}");
            assert_eq!(after.status, if moves { from.max(*to) } else { from }, "{from:?} to {to:?}");
            assert_eq!(rows.write(write.clone()), written, "the same again is answered the same");
            assert_eq!(rows.job(id), Some(&after));
        }
        let mut rows = rows([Job { status: from, ..job(1, 1) }], []);
        let expected = if from == Running { Written::Done } else { Written::RefusedState };
        assert_eq!(rows.write(Write::JobRequeued { id, at }), expected, "{from:?} requeued");
        let row = rows.job(id).expect("it was recorded");
        assert_eq!((row.status, row.is_requeued()), (from, from == Running));
    }
    for write in writes.map(|(_, write)| write).into_iter().chain([Write::JobRequeued { id, at }]) {
        assert_eq!(rows([], []).write(write), Written::RefusedState, "no such job");
    }
}

#[test]
fn a_job_is_not_failed_by_who_has_not_read_that_its_row_names_a_later_installation() {
    use Status::*;
    let named = job(1, 1).installation;
    let (earlier, later) = (InstallationId(named.0 - 1), InstallationId(named.0 + 1));
    for from in [Pending, Running, Completed, Failed] {
        for (read, moves) in [(named, !from.is_ended()), (later, !from.is_ended()), (earlier, false)] {
            let mut rows = rows([Job { status: from, ..job(1, 1) }], []);
            let failed =
                Write::JobFailed { id: JobId(1), at: ENDED, failure: JobFailure::InstallationGone, named: read };
            let expected = if moves || from == Failed { Written::Done } else { Written::RefusedState };
            assert_eq!(rows.write(failed), expected, "{from:?}, {read:?} was read");
            assert_eq!(rows.job(JobId(1)).map(|row| row.status), Some(if moves { Failed } else { from }));
        }
    }
}

#[test]
fn an_older_assignment_takes_nothing_back_and_an_older_requeue_neither() {
    let mut rows = rows([running(1, Some("w1"))], []);
    let (id, later) = (JobId(1), Time(START.0 + 10));
    rows.write(Write::JobRequeued { id, at: later });
    rows.write(Write::JobRequeued { id, at: START });
    assert_eq!(rows.job(id).and_then(|job| job.requeued_at), Some(later));
    rows.write(Write::JobRunning { id, assignment: on("w2", Time(later.0 + 1)) });
    rows.write(Write::JobRunning { id, assignment: on("w1", START) });
    rows.write(Write::JobRunning { id, assignment: None });
    let row = rows.job(id).expect("it was recorded");
    assert_eq!((row.assignment.clone(), row.is_requeued()), (on("w2", Time(later.0 + 1)), false));
}

#[test]
fn an_installations_end_fails_its_pending_jobs_alone() {
    let mut rows = rows([job(1, 1), running(2, None), job(3, 2), job(4, 1)], []);
    let failed = rows.fail_installation(InstallationId(501), JobFailure::InstallationGone, ENDED);
    assert_eq!(failed, [JobId(1), JobId(4)]);
    let of = |id| rows.job(JobId(id)).map(|job| (job.status, job.failure, job.completed_at));
    assert_eq!(of(1), Some((Status::Failed, Some(JobFailure::InstallationGone), Some(ENDED))));
    assert_eq!(of(2), Some((Status::Running, None, None)));
    assert_eq!(of(3), Some((Status::Pending, None, None)));
    assert_eq!(rows.fail_installation(InstallationId(501), JobFailure::InstallationGone, ENDED), []);
}

#[test]
fn the_cursor_shows_each_change_once_and_the_first_reading_what_still_matters() {
    let mut rows = rows(
        [job(1, 1), Job { status: Status::Completed, ..job(2, 1) }],
        workers(&[("w1", Status::Running), ("w2", Status::Failed)]),
    );
    let names = |workers: Vec<Worker>| workers.into_iter().map(|row| row.name.to_string()).collect::<Vec<_>>();
    let (jobs, workers, cursor) = rows.changes(None, ENDED);
    assert_eq!(jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), [1]);
    assert_eq!(names(workers), ["w1", "w2"]);
    let (_, workers, _) = rows.changes(None, ENDED + Span::hours(24));
    assert_eq!(names(workers), ["w1"], "what ended a day ago matters no more");
    assert_eq!(rows.changes(Some(cursor), ENDED), (vec![], vec![], cursor));
    rows.record(job(1, 1));
    assert_eq!(rows.changes(Some(cursor), ENDED), (vec![], vec![], cursor), "nothing new is no change");
    rows.record(running(1, None));
    let (jobs, workers, next) = rows.changes(Some(cursor), ENDED);
    assert_eq!((jobs.len(), workers.len()), (1, 0));
    assert_eq!(rows.changes(Some(next), ENDED), (vec![], vec![], next));
}

#[test]
fn one_leads_at_a_time_and_each_term_has_a_greater_epoch() {
    let (mut rows, ttl) = (Rows::default(), Span::secs(30));
    let first = rows.acquire(START, ttl).expect("nobody leads");
    assert_eq!(rows.acquire(START + Span::secs(29), ttl), None);
    assert!(rows.renew(first, START + Span::secs(20), ttl));
    assert_eq!(rows.acquire(START + Span::secs(49), ttl), None, "it was prolonged");
    let second = rows.acquire(START + Span::secs(50), ttl).expect("its time is over");
    assert!(second > first && rows.is_current(second) && !rows.is_current(first));
    assert!(!rows.renew(first, START + Span::secs(51), ttl), "S13: another leads");
    rows.release(first);
    assert!(rows.is_current(second), "S13: what is not held is not given up");
    rows.release(second);
    assert!(!rows.is_current(second) && !rows.renew(second, START + Span::secs(52), ttl));
    assert!(rows.acquire(START + Span::secs(52), ttl).is_some_and(|third| third > second));
}
