//! Deliveries as they come: twice, in any order, many at once, one of them poisoned.

use adapters::ingest::IngestError;
use engine::{facts::StoreError, labels::LabelSet};
use serde_json::{Value, json};
use sim::testing::rows;

use crate::bed::{Bed, ORG, body, test};

/// The three deliveries of one job, in GitHub's order.
fn life(id: i64) -> [Value; 3] {
    let mut deliveries = ["queued", "in_progress", "completed"].map(|action| body(action, id, ORG));
    for (delivery, runner) in deliveries.iter_mut().zip([Value::Null, json!("r-1"), json!("r-1")]) {
        let job = &mut delivery["workflow_job"];
        job["runner_name"] = runner;
        job["created_at"] = json!("2026-01-01T00:00:00Z");
        job["started_at"] = json!("2026-01-01T00:01:00Z");
        job["html_url"] = json!("https://github.com/octo-org/app/actions/runs/1/job/1");
    }
    deliveries[2]["workflow_job"]["completed_at"] = json!("2026-01-01T00:05:00Z");
    deliveries
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_and_any_repetition_leaves_the_same_row() {
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    test(async |bed| {
        for (i, order) in ORDERS.iter().enumerate() {
            for (times, id) in [(1, 100 + i as i64), (3, 200 + i as i64)] {
                let deliveries = life(id);
                for &which in order.iter().cycle().take(3 * times) {
                    assert_eq!(bed.job(&deliveries[which]).await, (200, "recorded".to_owned()), "{order:?}");
                }
            }
        }
        let mut rows = bed.whole_rows().await;
        assert_eq!(rows.len(), 12);
        for row in &mut rows {
            row["job_id"] = json!(0);
        }
        assert_eq!(rows[0]["status"], "completed");
        assert_eq!(rows[0]["runner_name"], "r-1");
        assert!(rows.iter().all(|row| *row == rows[0]), "{rows:#?}");
    })
    .await;
}

/// Holds a lock that keeps every delivery from being committed, until it is dropped.
async fn hold(bed: &Bed) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut transaction = bed.store.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE jobs IN EXCLUSIVE MODE").execute(&mut *transaction).await.unwrap();
    transaction
}

#[tokio::test(flavor = "multi_thread")]
async fn one_poisoned_row_does_not_take_its_batch_mates_with_it() {
    test(async |bed| {
        let lock = hold(&bed).await;
        // As many as are committed at once, one after the other, and one that has to wait: what follows joins it.
        let mut first = Vec::new();
        while bed.ingest.status().waiting == 0 {
            let (under_way, id) = (waiting_for_lock(&bed).await, 100 + first.len() as i64);
            let asking = bed.clone();
            first.push(tokio::spawn(async move { asking.ingest.record(rows::job(id, ORG)).await }));
            while bed.ingest.status().waiting == 0 && waiting_for_lock(&bed).await == under_way {
                tokio::task::yield_now().await;
            }
        }
        let others: Vec<_> = (2..=40)
            .map(|id| {
                let mut job = rows::job(id, ORG);
                if id == 7 {
                    job.labels = LabelSet::new(["a\0b"]);
                }
                if id == 23 {
                    job.repo = "octo-org/\0".into();
                }
                let bed = bed.clone();
                tokio::spawn(async move { (id, bed.ingest.record(job).await) })
            })
            .collect();
        while bed.ingest.status().waiting <= others.len() {
            tokio::task::yield_now().await;
        }
        lock.rollback().await.unwrap();
        let others_sent = others.len();
        let ahead = first.len();
        for first in first {
            assert_eq!(first.await.unwrap(), Ok(()));
        }
        for other in others {
            let (id, result) = other.await.unwrap();
            if id == 7 || id == 23 {
                assert!(matches!(result, Err(IngestError::Unstorable(StoreError::Unstorable { .. }))), "{result:?}");
            } else {
                assert_eq!(result, Ok(()), "{id}");
            }
        }
        let stored = ahead + others_sent - 2;
        assert_eq!(bed.rows().await.len(), stored);
        let status = bed.ingest.status();
        assert_eq!((status.recorded, status.failed, status.shed, status.waiting), (stored as u64, 2, 0, 0));
    })
    .await;
}

async fn waiting_for_lock(bed: &Bed) -> i64 {
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'jobs'::regclass";
    sqlx::query_scalar(waiting).fetch_one(bed.store.pool()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gone_installation_fails_its_pending_jobs_and_no_others() {
    test(async |bed| {
        for id in 1..=3 {
            let mut queued = body("queued", id, ORG);
            queued["installation"]["id"] = json!(if id == 3 { 502 } else { 503 });
            assert_eq!(bed.job(&queued).await.0, 200);
        }
        assert_eq!(bed.job(&body("in_progress", 2, ORG)).await.0, 200);
        let event = include_str!("../../fixtures/webhooks/installation.deleted.json");
        let mut event: Value = serde_json::from_str(event).unwrap();
        event["installation"]["id"] = json!(503);
        let answer = bed.deliver("installation", event.to_string()).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "1 pending jobs failed: installation_gone"));
        let statuses: Vec<String> = bed.rows().await.into_iter().map(|(_, status)| status).collect();
        assert_eq!(statuses, ["failed", "running", "pending"]);
        assert_eq!(bed.whole_rows().await[0]["failure_info"]["reason"], "installation_gone");
    })
    .await;
}
