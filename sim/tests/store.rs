//! One contract for both stores, and random sequences of operations that must give the same answers on both.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use adapters::{
    memory::MemoryStore,
    ports::{Changes, HistoryQuery, Lease, Store, StoreWrite},
    postgres::PgStore,
};
use engine::{
    decision::{JobFailure, WorkerFailure, Write},
    facts::*,
    ids::*,
    intake::join,
    labels::LabelSet,
};
use futures::StreamExt;
use serde_json::json;
use sim::testing::{postgres, rows::*};

const TTL: Span = Span::secs(15);
/// Leadership that has run out as soon as it is granted.
const OVER: Span = Span(-1);

/// A store under test, with what only a test may look at.
struct Bench {
    store: Arc<dyn Store>,
    postgres: Option<Arc<PgStore>>,
    memory: Option<Arc<MemoryStore>>,
}

impl Bench {
    fn memory() -> Self {
        // Time for leadership alone; it never passes by itself.
        let clock = Arc::new(AtomicI64::new(START.0));
        let memory = MemoryStore::new(Arc::new(move || Time(clock.load(Ordering::Relaxed))));
        Self { store: memory.clone(), postgres: None, memory: Some(memory) }
    }

    async fn postgres() -> Self {
        let store = PgStore::connect(&postgres::database().await, Realm::Prod).await.unwrap();
        Self { store: store.clone(), postgres: Some(store), memory: None }
    }

    async fn failure_info(&self, name: &str) -> Option<serde_json::Value> {
        if let Some(memory) = &self.memory {
            return memory.failure_info(&WorkerName::from(name));
        }
        let pool = self.postgres.as_ref().unwrap().pool();
        sqlx::query_scalar("SELECT failure_info FROM workers WHERE pod_name = $1")
            .bind(name)
            .fetch_one(pool)
            .await
            .unwrap()
    }

    async fn lead(&self) -> Lease {
        self.store.acquire("test", TTL).await.unwrap().expect("nobody leads")
    }

    async fn write(&self, lease: &Lease, write: Write) -> Written {
        let writes = vec![StoreWrite { write, diagnostics: None }];
        self.store.write(lease, writes).await.unwrap()[0]
    }

    async fn all(&self) -> Changes {
        let mut all = self.store.changes(None).await.unwrap();
        all.jobs.sort_by_key(|job| job.id);
        all.workers.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// Runs a case against both stores; the test's name says which.
macro_rules! contract {
    ($($name:ident)*) => {
        mod in_memory { $( #[tokio::test] async fn $name() { super::$name(super::Bench::memory()).await } )* }
        mod in_postgres { $( #[tokio::test] async fn $name() { super::$name(super::Bench::postgres().await).await } )* }
    };
}

contract! {
    deliveries_meet_in_the_lattice
    a_batch_may_hold_one_job_several_times
    odd_labels_come_back_as_they_were
    statuses_only_move_forward
    what_ends_a_worker_says_since_when_and_where_it_ran
    only_one_leads_at_a_time
    a_deposed_leader_writes_nothing
    leadership_can_be_given_up_and_only_by_its_holder
    a_reservation_repeated_is_the_same_reservation
    a_reservation_beyond_the_cap_is_refused
    a_reservation_without_demand_is_refused
    a_name_in_use_is_refused
    a_batch_is_counted_as_it_goes
    phantom_runners_are_no_supply
    the_failure_is_kept_with_its_diagnostics
    a_gone_installations_pending_jobs_are_failed
    a_job_is_not_failed_by_who_has_not_read_that_its_row_names_a_later_installation
    changes_since_a_cursor_lose_nothing
    a_first_reading_holds_what_is_active_and_what_ended_lately
    a_wake_comes_at_once_and_after_each_record
    usage_and_history_are_in_order
    the_history_is_sorted_by_status_and_then_newest_first
}

fn reserve(name: &str, org: i64, cap: Option<u32>) -> Write {
    Write::Reserve { worker: Box::new(worker(name, org)), cap, phantoms: [].into() }
}

fn failed(name: &str, at: Time, failure: WorkerFailure) -> Write {
    Write::WorkerFailed { name: WorkerName::from(name), at, running_at: None, node: None, failure }
}

/// Within a day of now, by Postgres' own clock and by the memory store's.
fn lately() -> Time {
    Time(jiff::Timestamp::now().as_millisecond().max(START.0))
}

async fn deliveries_meet_in_the_lattice(bench: Bench) {
    let mut running = job(1, 7);
    running.status = Status::Running;
    running.assignment = on("r-1", Time(START.0 + 50));
    running.installation = InstallationId(0);
    running.html_url = None;
    let mut again = running.clone();
    again.assignment = on("r-2", Time(START.0 + 90));
    let mut completed = again.clone();
    completed.status = Status::Completed;
    completed.completed_at = Some(Time(START.0 + 100));
    let mut late = job(1, 7);
    late.created_at = Time(START.0 - 5);
    let deliveries = [job(1, 7), running, again, completed, late];
    let expected = deliveries.iter().skip(1).fold(deliveries[0].clone(), |row, event| join(&row, event));
    // Every rotation, forwards and backwards, with everything twice.
    for turn in 0..deliveries.len() {
        let id = 100 + turn as i64;
        for (backwards, id) in [(false, id), (true, id + 50)] {
            let mut order: Vec<Job> = deliveries.iter().cycle().skip(turn).take(10).cloned().collect();
            if backwards {
                order.reverse();
            }
            for mut event in order {
                event.id = JobId(id);
                bench.store.record(vec![event]).await.unwrap();
            }
            let row = bench.store.history(newest(1000)).await.unwrap().jobs.into_iter().find(|job| job.id == JobId(id));
            assert_eq!(row, Some(Job { id: JobId(id), ..expected.clone() }));
        }
    }
}

fn newest(per_page: u32) -> HistoryQuery {
    HistoryQuery { start: None, end: None, page: 0, per_page }
}

async fn a_batch_may_hold_one_job_several_times(bench: Bench) {
    let mut ended = job(1, 7);
    ended.status = Status::Completed;
    ended.completed_at = Some(START);
    bench.store.record(vec![ended.clone(), job(2, 7), job(1, 7), ended.clone()]).await.unwrap();
    let history = bench.store.history(newest(10)).await.unwrap();
    assert_eq!(history.total, 2);
    assert_eq!(history.jobs[1], join(&ended, &job(1, 7)));
}

async fn odd_labels_come_back_as_they_were(bench: Bench) {
    let odd = Job { labels: LabelSet::new(["\"quoted\"", "back\\slash", "line\nbreak", "🦀", "<b>"]), ..job(1, 7) };
    bench.store.record(vec![odd.clone()]).await.unwrap();
    assert_eq!(bench.all().await.jobs, vec![odd.clone()]);
    assert_eq!(bench.store.usage().await.unwrap().jobs, [odd]);
}

async fn statuses_only_move_forward(bench: Bench) {
    let lease = bench.lead().await;
    let name = || WorkerName::from("w");
    let at = lately();
    let running = || Write::WorkerRunning { name: name(), at, node: Some(NodeName::from("n1")) };
    let completed = || Write::WorkerCompleted { name: name(), at, running_at: None, node: None };
    let failed = || failed("w", at, WorkerFailure::PodFailed);
    assert_eq!(bench.write(&lease, running()).await, Written::RefusedState, "no such worker");
    bench.store.record(vec![job(1, 7)]).await.unwrap();
    assert_eq!(bench.write(&lease, reserve("w", 7, None)).await, Written::Done);
    assert_eq!(bench.write(&lease, running()).await, Written::Done);
    assert_eq!(bench.write(&lease, running()).await, Written::Done, "again is the same");
    assert_eq!(bench.write(&lease, completed()).await, Written::Done);
    assert_eq!(bench.write(&lease, running()).await, Written::RefusedState);
    assert_eq!(bench.write(&lease, failed()).await, Written::RefusedState);
    let row = bench.all().await.workers.remove(0);
    assert_eq!((row.status, row.running_at, row.node), (Status::Completed, Some(at), Some(NodeName::from("n1"))));

    let id = JobId(1);
    let jobs = [
        (Write::JobRequeued { id, at }, Written::RefusedState),
        (Write::JobRunning { id, assignment: on("w", at) }, Written::Done),
        (Write::JobRequeued { id, at: Time(at.0 + 5) }, Written::Done),
        (Write::JobFailed { id, at, failure: JobFailure::JobNotFound, named: InstallationId(507) }, Written::Done),
        (Write::JobFailed { id, at, failure: JobFailure::JobNotFound, named: InstallationId(507) }, Written::Done),
        (Write::JobCompleted { id, assignment: None, at }, Written::RefusedState),
        (Write::JobRunning { id, assignment: None }, Written::RefusedState),
        (Write::JobRunning { id: JobId(99), assignment: None }, Written::RefusedState),
    ];
    for (write, expected) in jobs {
        assert_eq!(bench.write(&lease, write.clone()).await, expected, "{write:?}");
    }
    let row = bench.store.history(newest(1)).await.unwrap().jobs.remove(0);
    assert_eq!((row.status, row.failure), (Status::Failed, Some(JobFailure::JobNotFound)));
    assert_eq!((row.assignment, row.requeued_at), (on("w", at), Some(Time(at.0 + 5))));
    // A late delivery changes no end.
    let mut late = job(1, 7);
    late.status = Status::Completed;
    bench.store.record(vec![late]).await.unwrap();
    assert_eq!(bench.store.history(newest(1)).await.unwrap().jobs[0].status, Status::Failed);
}

async fn what_ends_a_worker_says_since_when_and_where_it_ran(bench: Bench) {
    let lease = bench.lead().await;
    let at = lately();
    let completed = |name: &str, running_at, node| Write::WorkerCompleted { name: name.into(), at, running_at, node };
    let failed = |name: &str, running_at, node| {
        let failure = WorkerFailure::PodFailed;
        Write::WorkerFailed { name: name.into(), at, running_at, node, failure }
    };
    let node = || Some(NodeName::from("n1"));
    let told = [
        ("a", completed("a", Some(at), node()), (Some(at), node())),
        ("b", completed("b", None, None), (None, None)),
        ("c", failed("c", Some(at), node()), (Some(at), node())),
        ("d", failed("d", None, None), (None, None)),
    ];
    bench.store.record((1..=4).map(|id| job(id, 7)).collect()).await.unwrap();
    for (name, end, _) in &told {
        assert_eq!(bench.write(&lease, reserve(name, 7, None)).await, Written::Done);
        assert_eq!(bench.write(&lease, end.clone()).await, Written::Done);
    }
    let rows = bench.all().await.workers.into_iter().map(|row| (row.running_at, row.node));
    assert_eq!(rows.collect::<Vec<_>>(), told.map(|(_, _, told)| told));
}

async fn only_one_leads_at_a_time(bench: Bench) {
    let first = bench.lead().await;
    assert_eq!(bench.store.acquire("other", TTL).await.unwrap(), None);
    assert!(bench.store.renew(&first, OVER).await.unwrap());
    let second = bench.store.acquire("other", TTL).await.unwrap().expect("the first one's time is over");
    assert!(second.epoch() > first.epoch());
    assert!(!bench.store.renew(&first, TTL).await.unwrap());
    assert!(bench.store.renew(&second, TTL).await.unwrap());
}

async fn a_deposed_leader_writes_nothing(bench: Bench) {
    bench.store.record(vec![job(1, 7), job(2, 7)]).await.unwrap();
    let first = bench.store.acquire("first", OVER).await.unwrap().unwrap();
    let second = bench.lead().await;
    let writes = vec![StoreWrite { write: reserve("w", 7, None), diagnostics: None }];
    let refused = bench.store.write(&first, writes.clone()).await;
    assert_eq!(refused, Err(StoreError::Fenced { epoch: first.epoch() }));
    assert_eq!(bench.all().await.workers, []);
    assert_eq!(bench.store.write(&second, writes).await, Ok(vec![Written::Done]));
}

async fn leadership_can_be_given_up_and_only_by_its_holder(bench: Bench) {
    let first = bench.store.acquire("first", OVER).await.unwrap().unwrap();
    let second = bench.lead().await;
    bench.store.release(&first).await.unwrap();
    assert_eq!(bench.store.acquire("third", TTL).await.unwrap(), None, "a deposed leader gives nothing up");
    bench.store.release(&second).await.unwrap();
    let fenced = bench.store.write(&second, vec![]).await;
    assert_eq!(fenced, Err(StoreError::Fenced { epoch: second.epoch() }), "who gave it up writes no more");
    let third = bench.store.acquire("third", TTL).await.unwrap().expect("it is free");
    assert!(third.epoch() > second.epoch());
}

async fn a_reservation_repeated_is_the_same_reservation(bench: Bench) {
    let lease = bench.lead().await;
    bench.store.record(vec![job(1, 7)]).await.unwrap();
    assert_eq!(bench.write(&lease, reserve("w", 7, Some(1))).await, Written::Done);
    assert_eq!(bench.write(&lease, reserve("w", 7, Some(1))).await, Written::Done);
    assert_eq!(bench.all().await.workers, [worker("w", 7)]);
}

async fn a_reservation_beyond_the_cap_is_refused(bench: Bench) {
    let lease = bench.lead().await;
    // The cap is the owner's, over the repositories of a user.
    let of = |id: i64, entity: i64| Job { entity: EntityId(entity), owner: OwnerId(9), ..job(id, entity) };
    bench.store.record(vec![of(1, 71), of(2, 72)]).await.unwrap();
    let on = |name: &str, entity: i64| {
        let worker = Worker { owner: OwnerId(9), ..worker(name, entity) };
        Write::Reserve { worker: Box::new(worker), cap: Some(1), phantoms: [].into() }
    };
    assert_eq!(bench.write(&lease, on("a", 71)).await, Written::Done);
    assert_eq!(bench.write(&lease, on("b", 72)).await, Written::RefusedCap);
    let failed = failed("a", START, WorkerFailure::Surplus);
    assert_eq!(bench.write(&lease, failed).await, Written::Done);
    assert_eq!(bench.write(&lease, on("b", 72)).await, Written::Done, "an ended worker takes no room");
}

async fn a_reservation_without_demand_is_refused(bench: Bench) {
    let lease = bench.lead().await;
    assert_eq!(bench.write(&lease, reserve("w", 7, None)).await, Written::RefusedDemand, "no job at all");
    let mut running = job(1, 7);
    running.status = Status::Running;
    running.assignment = on("elsewhere", START);
    let other_labels = Job { labels: LabelSet::new(["other"]), ..job(2, 7) };
    bench.store.record(vec![running.clone(), other_labels]).await.unwrap();
    assert_eq!(bench.write(&lease, reserve("w", 7, None)).await, Written::RefusedDemand, "none pending in the group");
    bench.store.record(vec![job(3, 7)]).await.unwrap();
    assert_eq!(bench.write(&lease, reserve("w", 7, None)).await, Written::Done);
    assert_eq!(bench.write(&lease, reserve("x", 7, None)).await, Written::RefusedDemand, "the worker serves it");
    let requeued = Write::JobRequeued { id: running.id, at: Time(START.0 + 1) };
    assert_eq!(bench.write(&lease, requeued).await, Written::Done);
    assert_eq!(bench.write(&lease, reserve("x", 7, None)).await, Written::Done, "a requeued job is demand again");
    // Job 3 starts on w: x still serves the requeued one, and nothing else is lacking.
    let taken = Write::JobRunning { id: JobId(3), assignment: on("w", START) };
    assert_eq!(bench.write(&lease, taken).await, Written::Done);
    assert_eq!(bench.write(&lease, reserve("y", 7, None)).await, Written::RefusedDemand);
}

async fn a_name_in_use_is_refused(bench: Bench) {
    let lease = bench.lead().await;
    bench.store.record(vec![job(1, 7), job(2, 8)]).await.unwrap();
    assert_eq!(bench.write(&lease, reserve("w", 7, None)).await, Written::Done);
    assert_eq!(bench.write(&lease, reserve("w", 8, None)).await, Written::RefusedName);
}

async fn a_batch_is_counted_as_it_goes(bench: Bench) {
    let lease = bench.lead().await;
    bench.store.record((1..=5).map(|id| job(id, 7)).collect()).await.unwrap();
    let writes = ["a", "b", "c"].map(|name| StoreWrite { write: reserve(name, 7, Some(2)), diagnostics: None });
    let written = bench.store.write(&lease, writes.to_vec()).await.unwrap();
    assert_eq!(written, [Written::Done, Written::Done, Written::RefusedCap]);
    assert_eq!(bench.all().await.workers.len(), 2, "a refusal undoes nothing else of its batch");
}

async fn phantom_runners_are_no_supply(bench: Bench) {
    let lease = bench.lead().await;
    bench.store.record(vec![job(1, 7)]).await.unwrap();
    assert_eq!(bench.write(&lease, reserve("w", 7, None)).await, Written::Done);
    assert_eq!(bench.write(&lease, reserve("x", 7, None)).await, Written::RefusedDemand);
    let busy = |name: &str, phantoms: &[&str]| {
        let phantoms = phantoms.iter().map(|name| WorkerName::from(*name)).collect();
        Write::Reserve { worker: Box::new(worker(name, 7)), cap: None, phantoms }
    };
    assert_eq!(bench.write(&lease, busy("x", &["elsewhere"])).await, Written::RefusedDemand, "not of this group");
    assert_eq!(bench.write(&lease, busy("x", &["w"])).await, Written::Done);
    // By the time of the write it has ended, or a job names it: it is not to be counted twice.
    bench.store.record(vec![job(2, 7)]).await.unwrap();
    assert_eq!(bench.write(&lease, busy("y", &["w"])).await, Written::Done);
    bench.write(&lease, failed("w", START, WorkerFailure::PodVanished)).await;
    assert_eq!(bench.write(&lease, busy("z", &["w"])).await, Written::RefusedDemand, "it has ended");
    bench.store.record(vec![Job { status: Status::Running, assignment: on("x", START), ..job(1, 7) }]).await.unwrap();
    assert_eq!(bench.write(&lease, busy("z", &["x"])).await, Written::RefusedDemand, "a job names it");
}

async fn the_failure_is_kept_with_its_diagnostics(bench: Bench) {
    let lease = bench.lead().await;
    bench.store.record(vec![job(1, 7)]).await.unwrap();
    bench.write(&lease, reserve("w", 7, None)).await;
    let fail = |failure| failed("w", START, failure);
    // A log may hold what no text column takes.
    let containers = json!([{ "log": "a\0b" }]);
    let diagnostics = Some(json!({ "events": [], "containers": containers, "reason": "not this one", "version": 1 }));
    let write = StoreWrite { write: fail(WorkerFailure::PodStuckPending), diagnostics };
    assert_eq!(bench.store.write(&lease, vec![write]).await, Ok(vec![Written::Done]));
    let containers = json!([{ "log": "a\u{fffd}b" }]);
    let expected = json!({ "version": 2, "reason": "pod_stuck_pending", "events": [], "containers": containers });
    assert_eq!(bench.failure_info("w").await, Some(expected.clone()));
    // A second reason comes too late.
    bench.write(&lease, fail(WorkerFailure::PodFailed)).await;
    assert_eq!(bench.failure_info("w").await, Some(expected));
    assert_eq!(
        bench.all().await.workers.len(),
        usize::from(bench.memory.is_some()),
        "Postgres reads ended rows of a day"
    );
}

async fn a_gone_installations_pending_jobs_are_failed(bench: Bench) {
    let running = Job { status: Status::Running, assignment: on("w", START), ..job(2, 7) };
    bench.store.record(vec![job(1, 7), running, job(3, 8), job(4, 7)]).await.unwrap();
    let gone = JobFailure::InstallationGone;
    let mut failed = bench.store.fail_installation(InstallationId(507), gone, START).await.unwrap();
    failed.sort();
    assert_eq!(failed, [JobId(1), JobId(4)]);
    let rows = bench.store.history(newest(10)).await.unwrap().jobs;
    let of = |id| rows.iter().find(|job| job.id == JobId(id)).map(|job| (job.status, job.failure, job.completed_at));
    assert_eq!(of(1), Some((Status::Failed, Some(gone), Some(START))));
    assert_eq!(of(2), Some((Status::Running, None, None)));
    assert_eq!(of(3), Some((Status::Pending, None, None)));
    assert_eq!(bench.store.fail_installation(InstallationId(507), gone, START).await.unwrap(), []);
    // Word of an old installation's end comes late: the App was installed anew, and serves the entity's jobs.
    let anew = Job { installation: InstallationId(600), ..job(6, 7) };
    bench.store.record(vec![job(5, 7), anew.clone()]).await.unwrap();
    assert_eq!(bench.store.fail_installation(InstallationId(507), gone, START).await.unwrap(), []);
    let ended = Job { status: Status::Completed, completed_at: Some(START), ..anew };
    bench.store.record(vec![ended]).await.unwrap();
    assert_eq!(bench.store.fail_installation(InstallationId(507), gone, START).await.unwrap(), [JobId(5)]);
}

async fn a_job_is_not_failed_by_who_has_not_read_that_its_row_names_a_later_installation(bench: Bench) {
    let lease = bench.lead().await;
    bench.store.record(vec![job(1, 7), job(2, 7), job(4, 7)]).await.unwrap();
    // A delivery has told of the right one, and the leader has not read that yet.
    bench.store.record(vec![Job { installation: InstallationId(600), ..job(1, 7) }]).await.unwrap();
    let failed = |id, named| Write::JobFailed {
        id: JobId(id),
        at: START,
        failure: JobFailure::InstallationGone,
        named: InstallationId(named),
    };
    let cases = [
        (failed(1, 507), Written::RefusedState),
        (failed(2, 507), Written::Done),
        (failed(2, 600), Written::Done),
        // Rows only ever come to name later ones.
        (failed(4, 600), Written::Done),
        (failed(1, 600), Written::Done),
        (failed(1, 507), Written::Done),
        (failed(3, 507), Written::RefusedState),
    ];
    let writes = cases.iter().map(|(write, _)| StoreWrite { write: write.clone(), diagnostics: None }).collect();
    assert_eq!(bench.store.write(&lease, writes).await.unwrap(), cases.map(|(_, expected)| expected));
    let rows = bench.store.history(newest(3)).await.unwrap().jobs;
    assert!(rows.iter().all(|job| job.status == Status::Failed), "{rows:?}");
}

async fn changes_since_a_cursor_lose_nothing(bench: Bench) {
    let lease = bench.lead().await;
    let first = bench.store.changes(None).await.unwrap();
    bench.store.record(vec![job(1, 7)]).await.unwrap();
    let second = bench.store.changes(Some(first.cursor)).await.unwrap();
    assert!(second.jobs.contains(&job(1, 7)));
    bench.write(&lease, reserve("w", 7, None)).await;
    let mut ended = job(1, 7);
    ended.status = Status::Completed;
    ended.completed_at = Some(START);
    bench.store.record(vec![ended.clone()]).await.unwrap();
    let third = bench.store.changes(Some(second.cursor)).await.unwrap();
    assert!(third.jobs.contains(&ended), "an ended row is a change too: {third:?}");
    assert!(third.workers.contains(&worker("w", 7)));
    // Rows may repeat while any transaction of the server is open, but only as they were.
    let quiet = bench.store.changes(Some(third.cursor)).await.unwrap();
    assert!(quiet.jobs.iter().all(|job| *job == ended), "{quiet:?}");
    assert!(quiet.workers.iter().all(|it| *it == worker("w", 7)), "{quiet:?}");
    assert!(bench.postgres.is_some() || quiet.jobs.is_empty());
}

async fn a_first_reading_holds_what_is_active_and_what_ended_lately(bench: Bench) {
    let lease = bench.lead().await;
    let ended = Job { status: Status::Completed, completed_at: Some(START), ..job(3, 7) };
    bench.store.record(vec![job(1, 7), job(2, 7), ended]).await.unwrap();
    bench.write(&lease, reserve("w", 7, None)).await;
    bench.write(&lease, reserve("x", 7, None)).await;
    let done = Write::WorkerCompleted { name: WorkerName::from("x"), at: lately(), running_at: None, node: None };
    bench.write(&lease, done).await;
    let all = bench.all().await;
    assert_eq!(all.jobs, [job(1, 7), job(2, 7)]);
    assert_eq!(all.workers.iter().map(|worker| worker.name.as_str()).collect::<Vec<_>>(), ["w", "x"]);
}

async fn a_wake_comes_at_once_and_after_each_record(bench: Bench) {
    let mut wakes = bench.store.wakes();
    assert_eq!(wakes.next().await, Some(()));
    bench.store.record(vec![job(1, 7)]).await.unwrap();
    assert_eq!(wakes.next().await, Some(()));
    bench.store.fail_installation(InstallationId(507), JobFailure::InstallationGone, START).await.unwrap();
    assert_eq!(wakes.next().await, Some(()));
}

async fn usage_and_history_are_in_order(bench: Bench) {
    let lease = bench.lead().await;
    bench.store.record([5, 3, 4, 1, 2].map(|id| job(id, 7)).to_vec()).await.unwrap();
    let ended = Job { status: Status::Completed, completed_at: Some(START), ..job(4, 7) };
    bench.store.record(vec![ended]).await.unwrap();
    bench.write(&lease, reserve("w", 7, None)).await;
    let usage = bench.store.usage().await.unwrap();
    assert_eq!(usage.jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), [1, 2, 3, 5]);
    assert_eq!(usage.workers, [worker("w", 7)]);
    let page = |page, start, end| HistoryQuery { start, end, page, per_page: 2 };
    let ids = async |query| {
        let page = bench.store.history(query).await.unwrap();
        (page.jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), page.total)
    };
    assert_eq!(ids(page(0, None, None)).await, (vec![5, 3], 5));
    assert_eq!(ids(page(2, None, None)).await, (vec![4], 5));
    assert_eq!(ids(page(9, None, None)).await, (vec![], 5));
    assert_eq!(ids(page(0, Some(START.0 + 2), Some(START.0 + 4))).await, (vec![3, 2], 2));
}

/// Pending, running, ended, each newest first over all pages, and a job that failed among the completed ones; jobs of
/// the same moment by their ids.
async fn the_history_is_sorted_by_status_and_then_newest_first(bench: Bench) {
    let at = |id, ms, status| Job { created_at: Time(START.0 + ms), status, ..job(id, 7) };
    let failing = Job { installation: InstallationId(999), ..at(5, 30, Status::Pending) };
    let jobs = [
        at(1, 10, Status::Completed),
        at(2, 50, Status::Completed),
        at(3, 40, Status::Running),
        at(4, 60, Status::Running),
        failing,
        at(6, 5, Status::Pending),
        at(7, 5, Status::Pending),
        at(8, 20, Status::Pending),
    ];
    bench.store.record(jobs.to_vec()).await.unwrap();
    bench.store.fail_installation(InstallationId(999), JobFailure::InstallationGone, START).await.unwrap();
    for per_page in [1, 3, 8] {
        let mut seen = Vec::new();
        for page in 0..8_u32.div_ceil(per_page) {
            let query = HistoryQuery { start: None, end: None, page, per_page };
            seen.extend(bench.store.history(query).await.unwrap().jobs.into_iter().map(|job| job.id.0));
        }
        assert_eq!(seen, [8, 7, 6, 4, 3, 2, 5, 1], "{per_page} a page");
    }
}

#[tokio::test]
async fn a_write_that_postgres_can_never_store_is_told_apart_and_takes_its_batch_with_it() {
    let bench = Bench::postgres().await;
    let lease = bench.lead().await;
    bench.store.record(vec![job(1, 7), job(2, 7)]).await.unwrap();
    for name in ["w1", "w2"] {
        bench.write(&lease, reserve(name, 7, None)).await;
    }
    let running = |name: &str, node: &str| Write::WorkerRunning {
        name: WorkerName::from(name),
        at: START,
        node: Some(NodeName::from(node)),
    };
    let batch = [running("w1", "n1"), running("w2", "n\0")];
    let batch = batch.map(|write| StoreWrite { write, diagnostics: None }).to_vec();
    let refused = bench.store.write(&lease, batch).await;
    assert!(matches!(refused, Err(StoreError::Unstorable { .. })), "{refused:?}");
    let pending = bench.all().await.workers.iter().all(|worker| worker.status == Status::Pending);
    assert!(pending, "a batch is written whole or not at all");
}

mod differential {
    //! Random sequences of operations: the same answers, and the same rows at the end.

    use proptest::{prelude::*, test_runner::TestRunner};

    use super::*;

    #[derive(Debug, Clone)]
    enum Op {
        Record(Vec<Job>),
        Acquire { over: bool },
        Renew { old: bool, over: bool },
        Release { old: bool },
        Write { old: bool, writes: Vec<Write> },
        FailInstallation(i64),
    }

    fn event() -> impl Strategy<Value = Job> {
        let runner = proptest::option::of((0..3usize, 0..5i64));
        let name = prop_oneof![Just("org"), Just("Org"), Just("ôrg")];
        (1..8i64, 1..3i64, 0..3usize, runner, 0..4i64, any::<bool>(), name).prop_map(
            |(id, org, status, runner, at, url, name)| {
                let mut event = job(id, org);
                event.status = [Status::Pending, Status::Running, Status::Completed][status];
                if event.status != Status::Pending {
                    event.assignment = runner.and_then(|(i, at)| on(["a", "b", "é"][i], Time(START.0 + at)));
                }
                event.completed_at = event.status.is_ended().then_some(Time(START.0 + 10 + at));
                event.created_at = Time(START.0 + at);
                // What identifies a job is the same in every delivery of it.
                event.entity = EntityId(id % 2);
                event.owner = OwnerId(id % 2);
                // What it is called may change.
                event.entity_name = name.into();
                event.repo = format!("{name}/repo").into();
                event.installation = InstallationId(org);
                event.html_url = event.html_url.filter(|_| url);
                event
            },
        )
    }

    fn write() -> impl Strategy<Value = Write> {
        let name = (0..4usize).prop_map(|i| WorkerName::from(["a", "b", "c", "d"][i]));
        let at = (0..20i64).prop_map(|at| Time(START.0 + at));
        let id = (1..8i64).prop_map(JobId);
        let assignment = proptest::option::of((0..2usize, 0..5i64))
            .prop_map(|it| it.and_then(|(i, at)| on(["a", "b"][i], Time(START.0 + at))));
        let reserve = (name.clone(), 0..2i64, proptest::option::of(0..3u32), proptest::option::of(name.clone()))
            .prop_map(|(name, org, cap, phantom)| Write::Reserve {
                worker: Box::new(worker(name.as_str(), org)),
                cap,
                phantoms: phantom.into_iter().collect(),
            });
        prop_oneof![
            4 => reserve,
            2 => (name.clone(), at.clone()).prop_map(|(name, at)| Write::WorkerRunning { name, at, node: Some(NodeName::from("n")) }),
            1 => (name.clone(), at.clone(), proptest::option::of(at.clone()))
                .prop_map(|(name, at, running_at)| Write::WorkerCompleted { name, at, running_at, node: None }),
            1 => (name, at.clone(), proptest::option::of(at.clone()), proptest::option::of(Just("n2")), 0..11usize)
                .prop_map(|(name, at, running_at, node, i)| {
                    let (node, failure) = (node.map(NodeName::from), WorkerFailure::ALL[i]);
                    Write::WorkerFailed { name, at, running_at, node, failure }
                }),
            1 => (id.clone(), assignment.clone()).prop_map(|(id, assignment)| Write::JobRunning { id, assignment }),
            1 => (id.clone(), assignment, at.clone()).prop_map(|(id, assignment, at)| Write::JobCompleted { id, assignment, at }),
            1 => (id.clone(), at.clone(), 0..3usize, 1..3i64).prop_map(|(id, at, i, named)| {
                Write::JobFailed { id, at, failure: JobFailure::ALL[i], named: InstallationId(named) }
            }),
            1 => (id, at).prop_map(|(id, at)| Write::JobRequeued { id, at }),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => proptest::collection::vec(event(), 1..4).prop_map(Op::Record),
            1 => any::<bool>().prop_map(|over| Op::Acquire { over }),
            1 => (any::<bool>(), any::<bool>()).prop_map(|(old, over)| Op::Renew { old, over }),
            1 => proptest::bool::weighted(0.8).prop_map(|old| Op::Release { old }),
            6 => (proptest::bool::weighted(0.1), proptest::collection::vec(write(), 1..4)).prop_map(|(old, writes)| Op::Write { old, writes }),
            1 => (1..3i64).prop_map(Op::FailInstallation),
        ]
    }

    /// One store's side of a case: its leases, and everything it answered.
    struct Side {
        bench: Bench,
        leases: Vec<Lease>,
    }

    impl Side {
        fn lease(&self, old: bool) -> Option<Lease> {
            let mut newest_first = self.leases.iter().rev();
            if old { newest_first.nth(1).cloned() } else { newest_first.next().cloned() }
        }

        async fn run(&mut self, op: &Op) -> String {
            let store = self.bench.store.clone();
            let ttl = |over: bool| if over { OVER } else { TTL };
            match op.clone() {
                Op::Record(events) => format!("{:?}", store.record(events).await),
                Op::Acquire { over } => {
                    let lease = store.acquire("test", ttl(over)).await.unwrap();
                    self.leases.extend(lease.clone());
                    format!("{}", lease.is_some())
                }
                Op::Renew { old, over } => match self.lease(old) {
                    Some(lease) => format!("{:?}", store.renew(&lease, ttl(over)).await),
                    None => String::new(),
                },
                Op::Release { old } => match self.lease(old) {
                    Some(lease) => format!("{:?}", store.release(&lease).await),
                    None => String::new(),
                },
                Op::Write { old, writes } => match self.lease(old) {
                    Some(lease) => {
                        let writes = writes.into_iter().map(|write| StoreWrite { write, diagnostics: None }).collect();
                        match store.write(&lease, writes).await {
                            Err(StoreError::Fenced { .. }) => "fenced".to_owned(),
                            other => format!("{other:?}"),
                        }
                    }
                    None => String::new(),
                },
                Op::FailInstallation(id) => {
                    let failed = store.fail_installation(InstallationId(id), JobFailure::InstallationGone, START).await;
                    let mut failed = failed.unwrap();
                    failed.sort();
                    format!("{failed:?}")
                }
            }
        }

        async fn rows(&self) -> (Vec<Job>, Vec<Worker>, Vec<Job>) {
            let usage = self.bench.store.usage().await.unwrap();
            let history = self.bench.store.history(newest(1000)).await.unwrap();
            (usage.jobs, usage.workers, history.jobs)
        }
    }

    #[test]
    fn both_stores_answer_alike() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let postgres = runtime.block_on(Bench::postgres()).postgres.unwrap();
        let config = ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() };
        let mut cases = TestRunner::new(config);
        let result = cases.run(&proptest::collection::vec(op(), 1..25), |ops| {
            runtime.block_on(async {
                let clean = "TRUNCATE jobs, workers; UPDATE leadership SET epoch = 0, holder = NULL";
                sqlx::raw_sql(clean).execute(postgres.pool()).await.unwrap();
                let real = Bench { store: postgres.clone(), postgres: Some(postgres.clone()), memory: None };
                let mut sides = [Bench::memory(), real].map(|bench| Side { bench, leases: Vec::new() });
                for op in &ops {
                    let [memory, postgres] = &mut sides;
                    prop_assert_eq!(memory.run(op).await, postgres.run(op).await, "{:?}", op);
                }
                prop_assert_eq!(sides[0].rows().await, sides[1].rows().await);
                Ok(())
            })
        });
        if let Err(error) = result {
            panic!("{error}");
        }
    }
}

mod only_in_postgres {
    //! What sessions do to each other.

    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_row_that_commits_late_is_not_missed_by_a_reader_in_between() {
        let bench = Bench::postgres().await;
        let pool = bench.postgres.as_ref().unwrap().pool().clone();
        bench.store.record(vec![job(1, 7), job(2, 7)]).await.unwrap();
        let cursor = bench.store.changes(None).await.unwrap().cursor;
        // This transaction gets its id first and commits last.
        let mut slow = pool.begin().await.unwrap();
        sqlx::query("UPDATE jobs SET status = 'running', changed_xid = pg_current_xact_id() WHERE job_id = 1")
            .execute(&mut *slow)
            .await
            .unwrap();
        let quick = Job { status: Status::Running, ..job(2, 7) };
        bench.store.record(vec![quick.clone()]).await.unwrap();
        let between = bench.store.changes(Some(cursor)).await.unwrap();
        assert!(between.jobs.contains(&quick), "{between:?}");
        assert!(between.jobs.iter().all(|it| it.id != JobId(1) || it.status == Status::Pending), "{between:?}");
        slow.commit().await.unwrap();
        let after = bench.store.changes(Some(between.cursor)).await.unwrap();
        assert!(after.jobs.iter().any(|it| it.id == JobId(1) && it.status == Status::Running), "{after:?}");
    }

    #[tokio::test]
    async fn of_many_who_ask_at_once_one_leads() {
        let bench = Bench::postgres().await;
        let asked = (0..8).map(|_| bench.store.acquire("test", TTL));
        let granted: Vec<Lease> =
            futures::future::join_all(asked).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(granted.len(), 1);
    }

    #[tokio::test]
    async fn a_successor_waits_for_a_write_under_way_and_the_next_write_is_refused() {
        let bench = Bench::postgres().await;
        let pool = bench.postgres.as_ref().unwrap().pool().clone();
        let first = bench.store.acquire("first", OVER).await.unwrap().unwrap();
        // A write of the first leader that has not committed yet holds the row of leadership.
        let mut under_way = pool.begin().await.unwrap();
        sqlx::query("SELECT epoch FROM leadership FOR SHARE").execute(&mut *under_way).await.unwrap();
        let store = bench.store.clone();
        let mut successor = tokio::spawn(async move { store.acquire("second", TTL).await.unwrap() });
        // There is no event for "it waits": a short while without an answer has to do.
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut successor).await.is_err());
        under_way.commit().await.unwrap();
        assert!(successor.await.unwrap().is_some());
        assert_eq!(bench.store.write(&first, vec![]).await, Err(StoreError::Fenced { epoch: first.epoch() }));
    }

    #[tokio::test]
    async fn deliveries_of_the_same_jobs_recorded_at_once_all_count() {
        let bench = Bench::postgres().await;
        let status = |n: i64| [Status::Pending, Status::Running, Status::Completed][n as usize % 3];
        let batch = |n: i64| {
            let mut events: Vec<Job> = (1..=20).map(|id| Job { status: status(n + id), ..job(id, 7) }).collect();
            if n % 2 == 0 {
                events.reverse();
            }
            bench.store.record(events)
        };
        for result in futures::future::join_all((0..9).map(batch)).await {
            result.unwrap();
        }
        let rows = bench.store.history(newest(100)).await.unwrap();
        assert_eq!(rows.total, 20);
        assert!(rows.jobs.iter().all(|job| job.status == Status::Completed), "{rows:?}");
    }

    #[tokio::test]
    async fn a_restarted_server_is_found_again_and_its_listener_wakes() {
        // A cluster of its own: the others' sessions are not to end.
        let cluster = postgres::Cluster::start().unwrap();
        let url = secrecy::SecretString::from(cluster.url("postgres"));
        let store: Arc<dyn Store> = PgStore::connect(&url, Realm::Staging).await.unwrap();
        let mut wakes = store.wakes();
        wakes.next().await;
        store.record(vec![job(1, 7)]).await.unwrap();
        wakes.next().await;
        cluster.restart().unwrap();
        // The first item after a restart says that the connection is back; what came meanwhile is read by the cursor.
        assert_eq!(wakes.next().await, Some(()));
        let mut kept = store.usage().await;
        for _ in 0..10 {
            if kept.is_ok() {
                break;
            }
            kept = store.usage().await;
        }
        assert_eq!(kept.unwrap().jobs, [job(1, 7)]);
        store.record(vec![job(2, 7)]).await.unwrap();
        assert_eq!(wakes.next().await, Some(()));
    }

    #[tokio::test]
    async fn a_delivery_that_says_nothing_new_changes_no_row() {
        let bench = Bench::postgres().await;
        let pool = bench.postgres.as_ref().unwrap().pool();
        let written = async || -> String {
            sqlx::query_scalar("SELECT changed_xid::text FROM jobs").fetch_one(pool).await.unwrap()
        };
        let ended = Job { status: Status::Completed, completed_at: Some(START), ..job(1, 7) };
        bench.store.record(vec![ended.clone()]).await.unwrap();
        let before = written().await;
        for event in [ended, job(1, 7)] {
            bench.store.record(vec![event]).await.unwrap();
        }
        assert_eq!(written().await, before);
    }

    #[tokio::test]
    async fn each_realm_has_a_schema_of_its_own() {
        let url = postgres::database().await;
        let prod = PgStore::connect(&url, Realm::Prod).await.unwrap();
        let staging = PgStore::connect(&url, Realm::Staging).await.unwrap();
        prod.record(vec![job(1, 7)]).await.unwrap();
        assert_eq!(staging.usage().await.unwrap().jobs, []);
        assert_eq!(prod.usage().await.unwrap().jobs, [job(1, 7)]);
        // Opening it once more applies no migration twice.
        PgStore::connect(&url, Realm::Prod).await.unwrap();
    }

    #[tokio::test]
    async fn rows_are_as_the_specification_says() {
        let bench = Bench::postgres().await;
        let lease = bench.lead().await;
        let pool = bench.postgres.as_ref().unwrap().pool();
        let labels = LabelSet::new(["b", "a"]);
        bench.store.record(vec![Job { labels: labels.clone(), ..job(1, 7) }]).await.unwrap();
        let pending = Worker { labels, ..worker("w", 7) };
        assert_eq!(
            bench.write(&lease, Write::Reserve { worker: Box::new(pending), cap: None, phantoms: [].into() }).await,
            Written::Done
        );
        let row: (serde_json::Value, String, i64) =
            sqlx::query_as("SELECT job_labels, status::text, owner_id FROM prod.jobs").fetch_one(pool).await.unwrap();
        assert_eq!(row, (json!(["a", "b"]), "pending".to_owned(), 7), "labels are sorted");
        let row: (String, String, Option<String>) =
            sqlx::query_as("SELECT pod_name, status::text, k8s_node FROM prod.workers").fetch_one(pool).await.unwrap();
        assert_eq!(row, ("w".to_owned(), "pending".to_owned(), None));
    }

    #[tokio::test]
    async fn a_wake_names_the_schemas_channel_and_a_job() {
        let bench = Bench::postgres().await;
        let pool = bench.postgres.as_ref().unwrap().pool();
        let mut listener = sqlx::postgres::PgListener::connect_with(pool).await.unwrap();
        listener.listen("prod_queue_event").await.unwrap();
        bench.store.record(vec![job(41, 7)]).await.unwrap();
        assert_eq!(listener.recv().await.unwrap().payload(), "41");
    }

    #[tokio::test]
    async fn an_unreachable_server_is_told_without_the_password() {
        let url = secrecy::SecretString::from("postgresql://service:hunter2@127.0.0.1:1/none");
        let Err(error) = PgStore::connect(&url, Realm::Prod).await else { panic!("nothing listens there") };
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("cannot be reached") && !shown.contains("hunter2"), "{shown}");
        let Err(error) = PgStore::connect(&secrecy::SecretString::from("nonsense hunter2"), Realm::Prod).await else {
            panic!("that is no connection string")
        };
        assert!(error.to_string().contains("write postgresql://") && !format!("{error:?}").contains("hunter2"));
    }
}
