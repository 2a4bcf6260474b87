//! New states of jobs and workers, many in one statement.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    decision::Write,
    facts::{Assignment, Status, Written},
    ids::InstallationId,
    rows::Move,
};
use serde_json::Value;
use sqlx::PgConnection;

use crate::{memory::failure_info, ports::StoreWrite};

/// A worker's new state.
#[derive(Default)]
struct WorkerRows {
    at: Vec<usize>,
    names: Vec<String>,
    to: Vec<Status>,
    running: Vec<Option<i64>>,
    completed: Vec<Option<i64>>,
    nodes: Vec<Option<String>>,
    failures: Vec<Option<Value>>,
}

/// A job's new state.
#[derive(Default)]
struct JobRows {
    at: Vec<usize>,
    ids: Vec<i64>,
    to: Vec<Status>,
    started: Vec<Option<i64>>,
    runners: Vec<Option<String>>,
    completed: Vec<Option<i64>>,
    requeued: Vec<Option<i64>>,
    failures: Vec<Option<Value>>,
    /// The installation that a failed job's row named when it was read, by `at`.
    named: BTreeMap<usize, InstallationId>,
}

/// Everything but reservations, in order. Writes to different rows do not meet, so all go at once; a row that is
/// written several times takes as many rounds.
pub(super) async fn write(
    c: &mut PgConnection,
    writes: &[(usize, &StoreWrite)],
    written: &mut [Written],
) -> sqlx::Result<()> {
    let mut left: Vec<(usize, &StoreWrite)> = writes.to_vec();
    while !left.is_empty() {
        let (mut workers, mut jobs) = (WorkerRows::default(), JobRows::default());
        let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
        let mut again = Vec::new();
        for &(at, write) in &left {
            let first = match (write.write.worker(), write.write.job()) {
                (Some(name), _) => names.insert(name.clone()),
                (None, Some(id)) => ids.insert(id),
                (None, None) => true,
            };
            if first { sort(at, write, &mut workers, &mut jobs) } else { again.push((at, write)) }
        }
        workers.write(c, written).await?;
        jobs.write(c, written).await?;
        left = again;
    }
    Ok(())
}

fn sort(at: usize, write: &StoreWrite, workers: &mut WorkerRows, jobs: &mut JobRows) {
    let text = |text: &dyn std::fmt::Display| text.to_string();
    match &write.write {
        // Reservations are written apart.
        Write::Reserve { .. } => {}
        Write::WorkerRunning { name, at: when, node } => {
            workers.add(at, name.as_str(), Status::Running, Some(when.0), None, node.as_ref().map(|it| text(it)), None);
        }
        Write::WorkerCompleted { name, at: when, running_at, node } => {
            let (running, node) = (running_at.map(|at| at.0), node.as_ref().map(|it| text(it)));
            workers.add(at, name.as_str(), Status::Completed, running, Some(when.0), node, None);
        }
        Write::WorkerFailed { name, at: when, running_at, node, failure } => {
            let (running, node) = (running_at.map(|at| at.0), node.as_ref().map(|it| text(it)));
            let info = failure_info(failure.as_str(), write.diagnostics.clone());
            workers.add(at, name.as_str(), Status::Failed, running, Some(when.0), node, Some(info));
        }
        Write::JobRunning { id, assignment } => {
            jobs.add(at, id.0, Status::Running, assignment.as_ref(), None, None, None);
        }
        Write::JobCompleted { id, assignment, at: when } => {
            jobs.add(at, id.0, Status::Completed, assignment.as_ref(), Some(when.0), None, None);
        }
        Write::JobFailed { id, at: when, failure, named } => {
            let info = failure_info(failure.as_str(), None);
            jobs.add(at, id.0, Status::Failed, None, Some(when.0), None, Some(info));
            jobs.named.insert(at, *named);
        }
        Write::JobRequeued { id, at: when } => jobs.add(at, id.0, Status::Running, None, None, Some(when.0), None),
    }
}

/// Keeps of each column what `keep` says.
fn keep<T>(column: Vec<T>, keep: &[bool]) -> Vec<T> {
    column.into_iter().zip(keep).filter(|(_, keep)| **keep).map(|(value, _)| value).collect()
}

fn words(statuses: &[Status]) -> Vec<String> {
    statuses.iter().map(|status| status.as_str().to_owned()).collect()
}

impl WorkerRows {
    #[allow(clippy::too_many_arguments)]
    fn add(
        &mut self,
        at: usize,
        name: &str,
        to: Status,
        running: Option<i64>,
        completed: Option<i64>,
        node: Option<String>,
        failure: Option<Value>,
    ) {
        self.at.push(at);
        self.names.push(name.to_owned());
        self.to.push(to);
        self.running.push(running);
        self.completed.push(completed);
        self.nodes.push(node);
        self.failures.push(failure);
    }

    async fn write(self, c: &mut PgConnection, written: &mut [Written]) -> sqlx::Result<()> {
        if self.at.is_empty() {
            return Ok(());
        }
        // Locked, in the order of their names, so that what is read here holds until the commit.
        let rows = sqlx::query!(
            r#"SELECT pod_name, status::text AS "status!" FROM workers WHERE pod_name = ANY($1)
               ORDER BY pod_name FOR NO KEY UPDATE"#,
            &self.names,
        )
        .fetch_all(&mut *c)
        .await?;
        let known: BTreeMap<&str, Option<Status>> =
            rows.iter().map(|row| (row.pod_name.as_str(), Status::parse(&row.status))).collect();
        let mut changes = Vec::with_capacity(self.at.len());
        for ((&at, name), &to) in self.at.iter().zip(&self.names).zip(&self.to) {
            let to_do = Move::of_worker(known.get(name.as_str()).copied().flatten(), to);
            changes.push(answer(to_do, &mut written[at]));
        }
        if !changes.contains(&true) {
            return Ok(());
        }
        sqlx::query!(
            r#"UPDATE workers w SET status = e.status::status_enum,
                   running_at = CASE e.status WHEN 'running' THEN from_ms(e.running_ms)
                                              ELSE COALESCE(w.running_at, from_ms(e.running_ms)) END,
                   completed_at = COALESCE(from_ms(e.completed_ms), w.completed_at),
                   k8s_node = COALESCE(e.node, w.k8s_node), failure_info = COALESCE(e.failure, w.failure_info),
                   updated_at = now(), changed_xid = pg_current_xact_id()
               FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::jsonb[])
                    AS e (name, status, running_ms, completed_ms, node, failure)
               WHERE w.pod_name = e.name"#,
            &keep(self.names, &changes),
            &words(&keep(self.to, &changes)),
            &keep(self.running, &changes) as &[Option<i64>],
            &keep(self.completed, &changes) as &[Option<i64>],
            &keep(self.nodes, &changes) as &[Option<String>],
            &keep(self.failures, &changes) as &[Option<Value>],
        )
        .execute(&mut *c)
        .await?;
        Ok(())
    }
}

impl JobRows {
    #[allow(clippy::too_many_arguments)]
    fn add(
        &mut self,
        at: usize,
        id: i64,
        to: Status,
        assignment: Option<&Assignment>,
        completed: Option<i64>,
        requeued: Option<i64>,
        failure: Option<Value>,
    ) {
        self.at.push(at);
        self.ids.push(id);
        self.to.push(to);
        self.started.push(assignment.map(|it| it.started_at.0));
        self.runners.push(assignment.map(|it| it.runner.to_string()));
        self.completed.push(completed);
        self.requeued.push(requeued);
        self.failures.push(failure);
    }

    /// Forward only; the assignment joins as the lattice says.
    async fn write(self, c: &mut PgConnection, written: &mut [Written]) -> sqlx::Result<()> {
        if self.at.is_empty() {
            return Ok(());
        }
        // Deliveries are recorded in the order of ids too, so neither waits for the other in a circle.
        let rows = sqlx::query!(
            r#"SELECT job_id, status::text AS "status!", installation_id FROM jobs WHERE job_id = ANY($1)
               ORDER BY job_id FOR NO KEY UPDATE"#,
            &self.ids,
        )
        .fetch_all(&mut *c)
        .await?;
        let known: BTreeMap<i64, (Status, InstallationId)> = rows
            .iter()
            .filter_map(|row| Some((row.job_id, (Status::parse(&row.status)?, InstallationId(row.installation_id)))))
            .collect();
        let mut changes = Vec::with_capacity(self.at.len());
        for (i, &at) in self.at.iter().enumerate() {
            let row = known.get(&self.ids[i]).copied();
            let from = row.map(|(from, _)| from);
            let to_do = match (self.requeued[i], self.named.get(&at)) {
                (Some(_), _) => Move::of_requeue(from),
                (None, Some(&named)) => Move::of_failed_job(row, named),
                (None, None) => Move::of_job(from, self.to[i]),
            };
            changes.push(answer(to_do, &mut written[at]));
        }
        if !changes.contains(&true) {
            return Ok(());
        }
        sqlx::query!(
            r#"UPDATE jobs j SET status = GREATEST(j.status, e.status::status_enum),
                   started_at = CASE WHEN e.runner IS NOT NULL AND (j.runner_name IS NULL
                                       OR (from_ms(e.started_ms), e.runner COLLATE "C") > (j.started_at, j.runner_name COLLATE "C"))
                                     THEN from_ms(e.started_ms) ELSE j.started_at END,
                   runner_name = CASE WHEN e.runner IS NOT NULL AND (j.runner_name IS NULL
                                       OR (from_ms(e.started_ms), e.runner COLLATE "C") > (j.started_at, j.runner_name COLLATE "C"))
                                      THEN e.runner ELSE j.runner_name END,
                   completed_at = COALESCE(from_ms(e.completed_ms), j.completed_at),
                   requeued_at = GREATEST(j.requeued_at, from_ms(e.requeued_ms)),
                   failure_info = COALESCE(e.failure, j.failure_info),
                   updated_at = now(), changed_xid = pg_current_xact_id()
               FROM UNNEST($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::jsonb[])
                    AS e (id, status, started_ms, runner, completed_ms, requeued_ms, failure)
               WHERE j.job_id = e.id"#,
            &keep(self.ids, &changes),
            &words(&keep(self.to, &changes)),
            &keep(self.started, &changes) as &[Option<i64>],
            &keep(self.runners, &changes) as &[Option<String>],
            &keep(self.completed, &changes) as &[Option<i64>],
            &keep(self.requeued, &changes) as &[Option<i64>],
            &keep(self.failures, &changes) as &[Option<Value>],
        )
        .execute(&mut *c)
        .await?;
        Ok(())
    }
}

/// Notes the answer; whether the row changes.
fn answer(to_do: Move, written: &mut Written) -> bool {
    *written = match to_do {
        Move::Change => Written::Done,
        Move::Answer(answer) => answer,
    };
    to_do == Move::Change
}
