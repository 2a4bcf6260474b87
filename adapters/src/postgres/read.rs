//! Reading rows.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt::Display,
    sync::{Arc, Mutex, PoisonError},
};

use engine::{
    decision::{JobFailure, WorkerFailure},
    facts::{Assignment, Job, Status, Worker},
    ids::{EntityId, EntityType, Image, InstallationId, JobId, NodeName, OwnerId, Pool, Time, WorkerName},
    labels::LabelSet,
};
use futures::{Stream, TryStreamExt};
use sqlx::{
    Decode, PgPool, Postgres, Transaction, Type,
    error::BoxDynError,
    postgres::{PgTypeInfo, PgValueFormat, PgValueRef},
};
use tokio::sync::mpsc;

use crate::ports::{Changes, Cursor, HistoryPage, HistoryQuery, Usage};

/// Rows in one part of a reading: a few megabytes of facts.
const ROWS_A_PART: usize = 4096;

struct JobRow {
    job_id: i64,
    status: String,
    entity_id: i64,
    entity_name: String,
    entity_type: String,
    owner_id: i64,
    repo_full_name: String,
    installation_id: i64,
    labels: String,
    k8s_pool: String,
    k8s_image: String,
    html_url: Option<String>,
    runner_name: Option<String>,
    created_at: Stamp,
    started_at: Option<Stamp>,
    completed_at: Option<Stamp>,
    requeued_at: Option<Stamp>,
    failure: Option<String>,
}

struct WorkerRow {
    pod_name: String,
    status: String,
    entity_id: i64,
    entity_name: String,
    entity_type: String,
    owner_id: i64,
    installation_id: i64,
    repo_full_name: Option<String>,
    labels: String,
    k8s_pool: String,
    k8s_image: String,
    k8s_node: Option<String>,
    created_at: Stamp,
    running_at: Option<Stamp>,
    completed_at: Option<Stamp>,
    failure: Option<String>,
}

/// A point in time as it comes over the wire: microseconds since 2000. Converting it here spares the server a
/// calculation with decimal numbers for every row.
struct Stamp(Time);

/// 2000-01-01T00:00:00Z in milliseconds since 1970.
const EPOCH_2000_MS: i64 = 946_684_800_000;

impl Type<Postgres> for Stamp {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("timestamptz")
    }
}

impl<'r> Decode<'r, Postgres> for Stamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        if value.format() != PgValueFormat::Binary {
            return Err("a time came as text".into());
        }
        let micros = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        Ok(Self(Time(micros.saturating_add(500).div_euclid(1000).saturating_add(EPOCH_2000_MS))))
    }
}

/// Cells told of so far; beyond that none is, so that a broken import is no flood.
const CELLS_TOLD: usize = 1000;
/// As much of a cell's value as the log shows.
const VALUE_SHOWN: usize = 100;

/// Cells that hold what this service never writes. Each is told of once by a process, though it is read again and again;
/// its row is read all the same, for a row that nobody sees would be a worse riddle.
#[derive(Default)]
pub(super) struct OddCells(Mutex<BTreeSet<(&'static str, String, &'static str)>>);

impl OddCells {
    fn tell(&self, table: &'static str, row: &dyn Display, column: &'static str, value: &str, taken_for: &str) {
        let row = row.to_string();
        let is_news = {
            let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            told.len() < CELLS_TOLD && told.insert((table, row.clone(), column))
        };
        if is_news {
            let value: String = value.chars().take(VALUE_SHOWN).collect();
            let what = "a row holds what this service never writes; correct or delete it";
            tracing::error!(table, row, column, value, taken_for, "{what}");
        }
    }
}

/// Texts that many rows of one reading share, and where odd cells are told of.
struct Shared {
    texts: HashSet<Arc<str>>,
    /// By the column's text; `None` for what is no list of texts.
    labels: HashMap<String, Option<LabelSet>>,
    odd: Arc<OddCells>,
}

impl Shared {
    fn new(odd: &Arc<OddCells>) -> Self {
        Self { texts: HashSet::new(), labels: HashMap::new(), odd: odd.clone() }
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let text: Arc<str> = Arc::from(text);
        self.texts.insert(text.clone());
        text
    }

    /// The set in a column's JSON text. Of anything else the empty set, which no runner is made for: the store makes no
    /// reservation without a job of exactly these labels.
    fn labels(&mut self, table: &'static str, row: &dyn Display, json: &str) -> LabelSet {
        if !self.labels.contains_key(json) {
            // Owned: a label that JSON must escape cannot be borrowed from its text.
            let labels = serde_json::from_str::<Vec<String>>(json).ok().map(LabelSet::new);
            self.labels.insert(json.to_owned(), labels);
        }
        self.labels.get(json).cloned().flatten().unwrap_or_else(|| {
            self.odd.tell(table, row, "job_labels", json, "no labels");
            LabelSet::new::<&str>([])
        })
    }

    /// Calls made as the App for organisations reach no account of another kind.
    fn entity_type(&self, table: &'static str, row: &dyn Display, word: &str) -> EntityType {
        EntityType::parse(word).unwrap_or_else(|| {
            self.odd.tell(table, row, "entity_type", word, EntityType::Organization.as_str());
            EntityType::Organization
        })
    }

    /// The column is an enum; a word that somebody added to it is none of ours, so that nothing is done for the row.
    fn status(&self, table: &'static str, row: &dyn Display, word: &str) -> Status {
        Status::parse(word).unwrap_or_else(|| {
            self.odd.tell(table, row, "status", word, Status::Failed.as_str());
            Status::Failed
        })
    }
}

impl JobRow {
    fn into_fact(self, shared: &mut Shared) -> Job {
        let (table, runner) = ("jobs", self.runner_name.map(Arc::from));
        Job {
            id: JobId(self.job_id),
            status: shared.status(table, &self.job_id, &self.status),
            entity: EntityId(self.entity_id),
            entity_name: shared.text(&self.entity_name),
            entity_type: shared.entity_type(table, &self.job_id, &self.entity_type),
            owner: OwnerId(self.owner_id),
            repo: shared.text(&self.repo_full_name),
            installation: InstallationId(self.installation_id),
            labels: shared.labels(table, &self.job_id, &self.labels),
            pool: Pool(shared.text(&self.k8s_pool)),
            image: Image(shared.text(&self.k8s_image)),
            html_url: self.html_url.map(Arc::from),
            created_at: self.created_at.0,
            assignment: runner.zip(self.started_at).map(|(runner, at)| Assignment { started_at: at.0, runner }),
            completed_at: self.completed_at.map(|at| at.0),
            requeued_at: self.requeued_at.map(|at| at.0),
            failure: self.failure.as_deref().and_then(JobFailure::parse),
        }
    }
}

impl WorkerRow {
    fn into_fact(self, shared: &mut Shared) -> Worker {
        let (table, name) = ("workers", self.pod_name);
        Worker {
            entity: EntityId(self.entity_id),
            entity_name: shared.text(&self.entity_name),
            entity_type: shared.entity_type(table, &name, &self.entity_type),
            owner: OwnerId(self.owner_id),
            installation: InstallationId(self.installation_id),
            repo: self.repo_full_name.map(|repo| shared.text(&repo)),
            labels: shared.labels(table, &name, &self.labels),
            pool: Pool(shared.text(&self.k8s_pool)),
            image: Image(shared.text(&self.k8s_image)),
            node: self.k8s_node.map(|node| NodeName(shared.text(&node))),
            status: shared.status(table, &name, &self.status),
            failure: self.failure.as_deref().and_then(WorkerFailure::parse),
            created_at: self.created_at.0,
            running_at: self.running_at.map(|at| at.0),
            completed_at: self.completed_at.map(|at| at.0),
            name: WorkerName::from(name),
        }
    }
}

/// Job rows by what follows FROM.
macro_rules! jobs {
    ($tail:tt $(, $arg:expr)*) => {
        sqlx::query_as!(
            JobRow,
            r#"SELECT job_id, status::text AS "status!", entity_id, entity_name, entity_type, owner_id, repo_full_name,
                      installation_id, job_labels::text AS "labels!", k8s_pool, k8s_image, html_url, runner_name,
                      created_at AS "created_at!: Stamp", started_at AS "started_at?: Stamp",
                      completed_at AS "completed_at?: Stamp", requeued_at AS "requeued_at?: Stamp",
                      failure_info ->> 'reason' AS failure
               FROM jobs "# + $tail
            $(, $arg)*
        )
    };
}

/// Worker rows by what follows FROM.
macro_rules! workers {
    ($tail:tt $(, $arg:expr)*) => {
        sqlx::query_as!(
            WorkerRow,
            r#"SELECT pod_name, status::text AS "status!", entity_id, entity_name, entity_type, owner_id, installation_id,
                      repo_full_name, job_labels::text AS "labels!", k8s_pool, k8s_image, k8s_node,
                      created_at AS "created_at!: Stamp", running_at AS "running_at?: Stamp",
                      completed_at AS "completed_at?: Stamp",
                      failure_info ->> 'reason' AS failure
               FROM workers "# + $tail
            $(, $arg)*
        )
    };
}

/// A reading under way: where its parts go.
struct Parts {
    to: mpsc::Sender<sqlx::Result<Changes>>,
    shared: Shared,
    part: Changes,
}

/// Nobody reads on.
struct Dropped;

impl Parts {
    /// Hands a part on once there are `at_least` rows in it.
    async fn flush(&mut self, at_least: usize) -> Result<(), Dropped> {
        if self.part.jobs.len() + self.part.workers.len() < at_least {
            return Ok(());
        }
        let empty = Changes { jobs: Vec::new(), workers: Vec::new(), cursor: self.part.cursor };
        self.to.send(Ok(std::mem::replace(&mut self.part, empty))).await.map_err(|_| Dropped)
    }

    async fn workers(
        &mut self,
        rows: impl Stream<Item = sqlx::Result<WorkerRow>>,
    ) -> sqlx::Result<Result<(), Dropped>> {
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await? {
            self.part.workers.push(row.into_fact(&mut self.shared));
            if self.flush(ROWS_A_PART).await.is_err() {
                return Ok(Err(Dropped));
            }
        }
        Ok(Ok(()))
    }

    async fn jobs(&mut self, rows: impl Stream<Item = sqlx::Result<JobRow>>) -> sqlx::Result<Result<(), Dropped>> {
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await? {
            self.part.jobs.push(row.into_fact(&mut self.shared));
            if self.flush(ROWS_A_PART).await.is_err() {
                return Ok(Err(Dropped));
            }
        }
        Ok(Ok(()))
    }
}

/// Everything that changed since `since`, as of one moment, part by part. The last part may be empty; each has the
/// cursor. A reader that takes its time slows the reading down: what is in memory is bounded.
///
/// A row carries the id of the transaction that last wrote it. Whatever is not visible in this reading belongs to a
/// transaction that was still running, so its id is at least the reading's xmin: that is the next cursor. Commit order
/// and clocks do not matter; rows between xmin and now are read twice.
pub(super) async fn changes(
    pool: PgPool,
    odd: Arc<OddCells>,
    since: Option<Cursor>,
    to: mpsc::Sender<sqlx::Result<Changes>>,
) {
    if let Err(error) = read(&pool, &odd, since, to.clone()).await {
        // Whoever gave up reading needs no error.
        let _ = to.send(Err(error)).await;
    }
}

async fn read(
    pool: &PgPool,
    odd: &Arc<OddCells>,
    since: Option<Cursor>,
    to: mpsc::Sender<sqlx::Result<Changes>>,
) -> sqlx::Result<()> {
    let mut transaction: Transaction<'_, Postgres> =
        pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let xmin = sqlx::query_scalar!(r#"SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS "xmin!""#)
        .fetch_one(&mut *transaction)
        .await?;
    let cursor =
        xmin.parse().map(Cursor).map_err(|_| sqlx::Error::Protocol(format!("{xmin} is not a transaction id")))?;
    let part = Changes { jobs: Vec::new(), workers: Vec::new(), cursor };
    let mut parts = Parts { to, shared: Shared::new(odd), part };
    // Workers first: a job that names a runner then finds it.
    let (workers, jobs) = match since {
        None => (
            parts.workers(workers!("WHERE status IN ('pending', 'running') OR (status IN ('completed', 'failed') AND completed_at > now() - interval '1 day')").fetch(&mut *transaction)).await?,
            parts.jobs(jobs!("WHERE status IN ('pending', 'running')").fetch(&mut *transaction)).await?,
        ),
        Some(Cursor(since)) => {
            let since = since.to_string();
            (
                parts.workers(workers!("WHERE changed_xid >= $1::text::xid8", since).fetch(&mut *transaction)).await?,
                parts.jobs(jobs!("WHERE changed_xid >= $1::text::xid8", since).fetch(&mut *transaction)).await?,
            )
        }
    };
    transaction.commit().await?;
    if workers.is_ok() && jobs.is_ok() {
        // A reader that has gone has no use for the last part.
        let _ = parts.flush(0).await;
    }
    Ok(())
}

pub(super) async fn usage(pool: &PgPool, odd: &Arc<OddCells>) -> sqlx::Result<Usage> {
    let jobs = jobs!("WHERE status IN ('pending', 'running') ORDER BY created_at, job_id").fetch_all(pool).await?;
    let workers =
        workers!("WHERE status IN ('pending', 'running') ORDER BY created_at, pod_name").fetch_all(pool).await?;
    let mut shared = Shared::new(odd);
    Ok(Usage {
        jobs: jobs.into_iter().map(|row| row.into_fact(&mut shared)).collect(),
        workers: workers.into_iter().map(|row| row.into_fact(&mut shared)).collect(),
    })
}

pub(super) async fn history(pool: &PgPool, odd: &Arc<OddCells>, query: HistoryQuery) -> sqlx::Result<HistoryPage> {
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "total!" FROM jobs
           WHERE ($1::bigint IS NULL OR created_at >= from_ms($1)) AND ($2::bigint IS NULL OR created_at < from_ms($2))"#,
        query.start,
        query.end,
    )
    .fetch_one(pool)
    .await?;
    let skip = i64::from(query.page) * i64::from(query.per_page);
    let jobs = jobs!(
        "WHERE ($1::bigint IS NULL OR created_at >= from_ms($1)) AND ($2::bigint IS NULL OR created_at < from_ms($2)) ORDER BY LEAST(status, 'completed'), created_at DESC, job_id DESC LIMIT $3 OFFSET $4",
        query.start,
        query.end,
        i64::from(query.per_page),
        skip
    )
    .fetch_all(pool)
    .await?;
    let mut shared = Shared::new(odd);
    let jobs = jobs.into_iter().map(|row| row.into_fact(&mut shared)).collect();
    Ok(HistoryPage { jobs, total: total.unsigned_abs() })
}
