//! Recording what deliveries say.

use engine::{facts::Job, labels::LabelSet};
use serde_json::Value;
use sqlx::PgPool;

/// Labels as the column holds them.
pub(super) fn label_json(labels: &LabelSet) -> Value {
    labels.iter().collect::<Vec<_>>().into()
}

/// Joins events, one a job and in id order, with their rows: the lattice of `engine::intake::join`, in one statement
/// that commits by itself. Rows that would not change are not written; if none changes, nobody is woken.
pub(super) async fn record(pool: &PgPool, events: &[Job], channel: &str) -> sqlx::Result<()> {
    let each = |read: fn(&Job) -> i64| -> Vec<i64> { events.iter().map(read).collect() };
    let text = |read: fn(&Job) -> &str| -> Vec<String> { events.iter().map(|event| read(event).to_owned()).collect() };
    let maybe = |read: fn(&Job) -> Option<i64>| -> Vec<Option<i64>> { events.iter().map(read).collect() };
    let html_urls: Vec<Option<String>> =
        events.iter().map(|event| event.html_url.as_deref().map(str::to_owned)).collect();
    let runners: Vec<Option<String>> =
        events.iter().map(|event| event.assignment.as_ref().map(|it| it.runner.to_string())).collect();
    let labels: Vec<Value> = events.iter().map(|event| label_json(&event.labels)).collect();
    sqlx::query!(
        r#"WITH written AS (
               INSERT INTO jobs AS j (job_id, status, entity_id, entity_name, entity_type, owner_id, repo_full_name,
                   installation_id, job_labels, k8s_pool, k8s_image, html_url, runner_name, created_at, started_at,
                   completed_at)
               SELECT e.job_id, e.status::status_enum, e.entity_id, e.entity_name, e.entity_type, e.owner_id,
                      e.repo_full_name, e.installation_id, e.job_labels, e.k8s_pool, e.k8s_image, e.html_url,
                      e.runner_name, from_ms(e.created_ms), from_ms(e.started_ms), from_ms(e.completed_ms)
               FROM UNNEST($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::text[],
                           $8::bigint[], $9::jsonb[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bigint[],
                           $15::bigint[], $16::bigint[])
                    AS e (job_id, status, entity_id, entity_name, entity_type, owner_id, repo_full_name, installation_id,
                          job_labels, k8s_pool, k8s_image, html_url, runner_name, created_ms, started_ms, completed_ms)
               ON CONFLICT (job_id) DO UPDATE SET
                   status = CASE WHEN j.status IN ('completed', 'failed') THEN j.status
                                 ELSE GREATEST(j.status, EXCLUDED.status) END,
                   started_at = CASE WHEN EXCLUDED.runner_name IS NOT NULL AND (j.runner_name IS NULL
                                       OR (EXCLUDED.started_at, EXCLUDED.runner_name COLLATE "C")
                                           > (j.started_at, j.runner_name COLLATE "C"))
                                     THEN EXCLUDED.started_at ELSE j.started_at END,
                   runner_name = CASE WHEN EXCLUDED.runner_name IS NOT NULL AND (j.runner_name IS NULL
                                       OR (EXCLUDED.started_at, EXCLUDED.runner_name COLLATE "C")
                                           > (j.started_at, j.runner_name COLLATE "C"))
                                      THEN EXCLUDED.runner_name ELSE j.runner_name END,
                   installation_id = GREATEST(j.installation_id, EXCLUDED.installation_id),
                   html_url = GREATEST(j.html_url COLLATE "C", EXCLUDED.html_url COLLATE "C"),
                   entity_name = CASE WHEN (EXCLUDED.repo_full_name COLLATE "C", EXCLUDED.entity_name COLLATE "C")
                                           > (j.repo_full_name COLLATE "C", j.entity_name COLLATE "C")
                                      THEN EXCLUDED.entity_name ELSE j.entity_name END,
                   repo_full_name = GREATEST(j.repo_full_name COLLATE "C", EXCLUDED.repo_full_name COLLATE "C"),
                   created_at = LEAST(j.created_at, EXCLUDED.created_at),
                   completed_at = LEAST(j.completed_at, EXCLUDED.completed_at),
                   updated_at = now(),
                   changed_xid = pg_current_xact_id()
               WHERE (j.status < EXCLUDED.status AND j.status IN ('pending', 'running'))
                  OR (EXCLUDED.runner_name IS NOT NULL AND (j.runner_name IS NULL
                       OR (EXCLUDED.started_at, EXCLUDED.runner_name COLLATE "C")
                           > (j.started_at, j.runner_name COLLATE "C")))
                  OR EXCLUDED.installation_id > j.installation_id
                  OR EXCLUDED.html_url COLLATE "C" > COALESCE(j.html_url, '') COLLATE "C"
                  OR (EXCLUDED.repo_full_name COLLATE "C", EXCLUDED.entity_name COLLATE "C")
                      > (j.repo_full_name COLLATE "C", j.entity_name COLLATE "C")
                  OR EXCLUDED.created_at < j.created_at
                  OR (EXCLUDED.completed_at IS NOT NULL
                      AND (j.completed_at IS NULL OR EXCLUDED.completed_at < j.completed_at))
               RETURNING job_id)
           SELECT pg_notify($17, written.job_id::text) AS "woken!: ()" FROM written LIMIT 1"#,
        &each(|event| event.id.0),
        &text(|event| event.status.as_str()),
        &each(|event| event.entity.0),
        &text(|event| &event.entity_name),
        &text(|event| event.entity_type.as_str()),
        &each(|event| event.owner.0),
        &text(|event| &event.repo),
        &each(|event| event.installation.0),
        &labels,
        &text(|event| event.pool.as_str()),
        &text(|event| event.image.as_str()),
        &html_urls as &[Option<String>],
        &runners as &[Option<String>],
        &each(|event| event.created_at.0),
        &maybe(|event| event.assignment.as_ref().map(|it| it.started_at.0)) as &[Option<i64>],
        &maybe(|event| event.completed_at.map(|at| at.0)) as &[Option<i64>],
        channel,
    )
    .fetch_optional(pool)
    .await
    .map(|_| ())
}

pub(super) async fn fail_installation(
    pool: &PgPool,
    installation: i64,
    reason: &str,
    at_ms: i64,
    channel: &str,
) -> sqlx::Result<Vec<i64>> {
    let mut transaction = pool.begin().await?;
    let failed = sqlx::query_scalar!(
        r#"UPDATE jobs j SET status = 'failed', completed_at = from_ms($2), updated_at = now(),
               failure_info = jsonb_build_object('version', 2, 'reason', $3::text), changed_xid = pg_current_xact_id()
           WHERE installation_id = $1 AND status = 'pending' AND NOT EXISTS (
               SELECT FROM jobs later WHERE later.entity_id = j.entity_id AND later.installation_id > $1
                   AND later.status IN ('pending', 'running'))
           RETURNING job_id"#,
        installation,
        at_ms,
        reason,
    )
    .fetch_all(&mut *transaction)
    .await?;
    if let Some(job) = failed.first() {
        sqlx::query!(r#"SELECT pg_notify($1, $2) AS "woken!: ()""#, channel, job.to_string())
            .fetch_one(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(failed)
}
