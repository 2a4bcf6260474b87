//! What the store's statements cost: how many there are, and whether they find their rows by an index.
//!
//! Postgres itself tells, through `auto_explain`, the plan of each statement as it is executed, with its real arguments.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use adapters::{
    ports::{HistoryQuery, Lease, Store, StoreWrite},
    postgres::PgStore,
};
use engine::{
    decision::{JobFailure, WorkerFailure, Write},
    facts::{Job, Status},
    ids::{InstallationId, JobId, NodeName, Realm, Span, Time, WorkerName},
};
use secrecy::{ExposeSecret, SecretString};
use sim::testing::{postgres, rows::*};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// Everything the database client logged, a line of JSON each.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Log;

    fn make_writer(&'a self) -> Log {
        self.clone()
    }
}

impl Log {
    /// Hears this thread's events until the guard is dropped.
    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let filter = EnvFilter::new("sqlx::query=debug,sqlx::postgres::notice=trace");
        let subscriber = tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(self.clone());
        tracing::subscriber::set_default(subscriber.finish())
    }

    /// The messages of one target since the last look at it; forgets all others.
    fn take(&self, target: &str) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        let events = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let of_target = events.filter(|event| event["target"] == target);
        of_target.map(|event| event["fields"].to_string()).collect()
    }
}

struct Bench {
    store: Arc<PgStore>,
    lease: Lease,
    log: Log,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Bench {
    /// A store whose sessions are opened with these settings.
    async fn new(settings: &[(&str, &str)]) -> Self {
        let log = Log::default();
        let _guard = log.listen();
        let url = postgres::database().await;
        let options: String = settings.iter().map(|(name, value)| format!("%20-c%20{name}%3D{value}")).collect();
        let url = SecretString::from(format!("{}&options={}", url.expose_secret(), options.trim_start_matches("%20")));
        let store = PgStore::connect(&url, Realm::Prod).await.unwrap();
        let lease = store.acquire("test", Span::hours(1)).await.unwrap().unwrap();
        Self { store, lease, log, _guard }
    }

    /// 100,000 jobs, of which 4,000 are active in 40 organisations, and 50,000 workers, of which 800 are active.
    async fn fill(&self) {
        let fill = "INSERT INTO jobs (job_id, status, entity_id, entity_name, entity_type, owner_id, repo_full_name,
                  installation_id, job_labels, k8s_pool, k8s_image, runner_name, started_at, completed_at, created_at)
                SELECT i, (CASE WHEN i > 96000 THEN CASE WHEN i % 5 = 0 THEN 'running' ELSE 'pending' END
                           ELSE 'completed' END)::status_enum,
                  i % 40, 'org', 'Organization', i % 40, 'org/repo', 500 + i % 40, '[\"ubuntu-24.04-riscv\"]', 'scw-em-rv1',
                  'ubuntu-24.04', CASE WHEN i % 5 = 0 THEN 'w-' || i / 2 END, CASE WHEN i % 5 = 0 THEN now() END,
                  CASE WHEN i <= 96000 THEN now() - interval '30 days' END, now() - interval '1 second' * (100000 - i)
                FROM generate_series(1, 100000) i;
                INSERT INTO workers (pod_name, status, entity_id, entity_name, entity_type, owner_id, installation_id,
                  job_labels, k8s_pool, k8s_image, completed_at, created_at)
                SELECT 'w-' || i, (CASE WHEN i > 49200 THEN 'running' ELSE 'completed' END)::status_enum, i % 40, 'org',
                  'Organization', i % 40, 500 + i % 40, '[\"ubuntu-24.04-riscv\"]', 'scw-em-rv1', 'ubuntu-24.04',
                  CASE WHEN i <= 49200 THEN now() - interval '30 days' END, now()
                FROM generate_series(1, 50000) i;
                ANALYZE jobs; ANALYZE workers";
        sqlx::raw_sql(fill).execute(self.store.pool()).await.unwrap();
    }

    /// Until no transaction of the server is open that began before the rows were written: for so long a cursor stays
    /// before them, and all of them count as changed.
    async fn settle(&self) {
        loop {
            let cursor = self.store.changes(None).await.unwrap().cursor;
            if self.store.changes(Some(cursor)).await.unwrap().jobs.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn write(&self, writes: Vec<Write>) {
        let writes = writes.into_iter().map(|write| StoreWrite { write, diagnostics: None }).collect();
        self.store.write(&self.lease, writes).await.unwrap();
    }
}

/// One write of each kind, `n` times, each about another row.
fn batch(n: i64, from: i64) -> Vec<Write> {
    let at = Time(START.0 + 1);
    let name = |i: i64| WorkerName::from(format!("w-{i}"));
    let mut writes = Vec::new();
    for i in from..from + n {
        let (job, worker_) = (JobId(96_000 + 4 * i), 49_200 + 3 * i);
        writes.extend([
            Write::WorkerRunning { name: name(worker_ + 1), at, node: Some(NodeName::from("n")) },
            Write::WorkerCompleted { name: name(worker_ + 2), at, running_at: None, node: None },
            Write::WorkerFailed {
                name: name(worker_ + 3),
                at,
                running_at: Some(at),
                node: Some(NodeName::from("n")),
                failure: WorkerFailure::PodFailed,
            },
            Write::JobRunning { id: JobId(job.0 + 1), assignment: on("elsewhere", at) },
            Write::JobCompleted { id: JobId(job.0 + 2), assignment: None, at },
            Write::JobFailed {
                id: JobId(job.0 + 3),
                at,
                failure: JobFailure::JobNotFound,
                named: InstallationId(500 + (job.0 + 3) % 40),
            },
            Write::JobRequeued { id: JobId(job.0 + 4), at },
        ]);
    }
    writes.extend((from..from + n).map(|i| Write::Reserve {
        worker: Box::new(worker(&format!("new-{i}"), 1 + i % 4)),
        cap: None,
        phantoms: [].into(),
    }));
    writes
}

#[tokio::test]
async fn the_number_of_statements_does_not_grow_with_the_rows() {
    let bench = Bench::new(&[]).await;
    bench.fill().await;
    let mut counts = Vec::new();
    for (n, from) in [(1, 0), (100, 100)] {
        bench.log.take("");
        let cursor = bench.store.changes(None).await.unwrap().cursor;
        let load = bench.log.take("sqlx::query").len();
        bench.write(batch(n, from)).await;
        let write = bench.log.take("sqlx::query").len();
        let changed = bench.store.changes(Some(cursor)).await.unwrap();
        assert!(changed.jobs.len() as i64 >= 3 * n && changed.workers.len() as i64 >= 2 * n, "the rows were written");
        let read = bench.log.take("sqlx::query").len();
        bench.store.record((1..=n).map(|i| job(1_000_000 + from + i, 7)).collect()).await.unwrap();
        let record = bench.log.take("sqlx::query").len();
        counts.push([load, write, read, record]);
    }
    assert_eq!(counts[0], counts[1], "load, write, read, record");
    assert!(counts[0].iter().all(|&count| count > 0), "nothing was counted: {counts:?}");
    assert!(counts[0].iter().all(|&count| count <= 12), "{counts:?}");
}

#[tokio::test]
async fn every_statement_finds_its_rows_by_an_index() {
    for mode in ["auto", "force_generic_plan"] {
        let settings = [
            ("plan_cache_mode", mode),
            ("session_preload_libraries", "auto_explain"),
            ("auto_explain.log_min_duration", "0"),
            ("auto_explain.log_level", "notice"),
            ("client_min_messages", "notice"),
        ];
        let bench = Bench::new(&settings).await;
        bench.fill().await;
        let store = &bench.store;
        let plans = |what: &str, indexes: &[&str]| {
            let plans = bench.log.take("sqlx::postgres::notice").join("\n").replace("\\n", "\n");
            assert!(plans.contains("Query Text"), "{mode}, {what}: Postgres told no plan");
            for table in ["jobs", "workers"] {
                assert!(!plans.contains(&format!("Seq Scan on {table}")), "{mode}, {what}: {plans}");
            }
            for index in indexes {
                assert!(plans.contains(index), "{mode}, {what} does not use {index}: {plans}");
            }
        };
        bench.settle().await;
        bench.log.take("");
        let cursor = store.changes(None).await.unwrap().cursor;
        plans("a first reading", &["Index Scan on jobs_", "Index Scan on workers_", "workers_ended"]);
        store.changes(Some(cursor)).await.unwrap();
        plans("a reading of changes", &["jobs_changed", "workers_changed"]);
        store.usage().await.unwrap();
        plans("usage", &["Index Scan on jobs_", "Index Scan on workers_"]);
        let events = (96_001..96_101).map(|id| Job { status: Status::Running, ..job(id, 7) });
        store.record(events.collect()).await.unwrap();
        plans("record", &["Conflict Arbiter Indexes: jobs_pkey"]);
        for (n, from) in [(1, 0), (100, 100)] {
            bench.write(batch(n, from)).await;
            plans("a batch", &["jobs_pkey", "workers_pkey", "workers_by_owner", "jobs_by_runner", "jobs_active"]);
        }
        let gone = JobFailure::InstallationGone;
        store.fail_installation(InstallationId(507), gone, START).await.unwrap();
        plans("a gone installation", &["jobs_by_installation"]);
        // How many there are in all is counted over all of them; the page itself is not sorted anew.
        store.history(HistoryQuery { start: None, end: None, page: 3, per_page: 100 }).await.unwrap();
        let page = bench.log.take("sqlx::postgres::notice");
        let page = page.iter().find(|plan| plan.contains("LIMIT")).expect("the plan of a page");
        assert!(page.contains("jobs_history") && !page.contains("Sort"), "{mode}, a page of the history: {page}");
    }
}
