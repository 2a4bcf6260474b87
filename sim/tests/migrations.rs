//! The schema: made once whoever starts first, and taken over where the specification's own tables are there already.

use adapters::{
    ports::{HistoryQuery, Store},
    postgres::PgStore,
};
use engine::{
    facts::Status,
    ids::{EntityType, JobId, OwnerId, Realm},
    labels::LabelSet,
};
use secrecy::ExposeSecret;
use sim::testing::{postgres, rows};
use sqlx::{Executor, PgPool};

/// The specification's schema, word for word, with rows of every kind.
const SPECIFICATION: &str = "
CREATE SCHEMA prod;
SET search_path = prod;
CREATE TYPE status_enum AS ENUM ('pending', 'running', 'completed', 'failed');
CREATE TABLE jobs (
    job_id          BIGINT PRIMARY KEY,
    status          status_enum NOT NULL DEFAULT 'pending',
    entity_id       BIGINT NOT NULL,
    entity_name     TEXT NOT NULL,
    entity_type     TEXT NOT NULL,
    repo_full_name  TEXT NOT NULL,
    installation_id BIGINT NOT NULL,
    job_labels      JSONB NOT NULL DEFAULT '[]',
    k8s_pool        TEXT NOT NULL,
    k8s_image       TEXT NOT NULL,
    html_url        TEXT,
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at      TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE TABLE workers (
    pod_name        TEXT PRIMARY KEY,
    entity_id       BIGINT NOT NULL,
    entity_name     TEXT NOT NULL,
    entity_type     TEXT NOT NULL,
    installation_id BIGINT NOT NULL,
    repo_full_name  TEXT,
    job_labels      JSONB NOT NULL DEFAULT '[]',
    k8s_pool        TEXT NOT NULL,
    k8s_image       TEXT NOT NULL,
    k8s_node        TEXT,
    status          status_enum NOT NULL DEFAULT 'pending',
    failure_info    JSONB,
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    running_at      TIMESTAMPTZ,
    completed_at    TIMESTAMPTZ,
    updated_at      TIMESTAMPTZ NOT NULL DEFAULT now()
);
INSERT INTO jobs VALUES
    (1, 'pending', 7, 'an-org', 'Organization', 'an-org/repo', 507, '[\"linux.riscv64.xlarge\", \"Ubuntu-24.04-riscv\"]',
     'scw-em-rv1', 'ubuntu-24.04', NULL, '2026-05-13T10:00:00Z', '2026-05-13T10:00:00Z'),
    (2, 'running', 201, 'a-user', 'User', 'a-user/own', 508, '[\"ubuntu-24.04-riscv\"]',
     'scw-em-rv1', 'ubuntu-24.04', 'https://github.com/a-user/own', '2026-05-13T11:00:00Z', '2026-05-13T11:01:00Z'),
    (3, 'completed', 7, 'an-org', 'Organization', 'an-org/repo', 507, '[]',
     'scw-em-rv1', 'ubuntu-24.04', NULL, '2026-05-13T12:00:00Z', '2026-05-13T12:30:00Z'),
    (4, 'completed', 7, 'an-org', 'Organization', 'an-org/repo', 507, '{\"odd\": true}',
     'scw-em-rv1', 'ubuntu-24.04', NULL, '2026-05-13T09:00:00Z', '2026-05-13T09:30:00Z');
INSERT INTO workers VALUES
    ('rise-riscv-runner-7-abcdefghi', 7, 'an-org', 'Organization', 507, NULL, '[\"b\", \"A\", \"a\"]', 'scw-em-rv1',
     'ubuntu-24.04', 'node-1', 'running', NULL, now(), now(), NULL, now()),
    ('rise-riscv-runner-201-abcdefghi', 201, 'a-user', 'User', 508, 'a-user/own', '[\"ubuntu-24.04-riscv\"]', 'scw-em-rv1',
     'ubuntu-24.04', 'node-2', 'failed', '{\"version\": 2, \"reason\": \"pod_failed\"}', now(), now(), now(), now());
";

const ALL: HistoryQuery = HistoryQuery { start: None, end: None, page: 0, per_page: 100 };

#[tokio::test(flavor = "multi_thread")]
async fn the_specifications_own_tables_are_taken_over_with_their_rows() {
    let url = postgres::database().await;
    let before = PgPool::connect(url.expose_secret()).await.unwrap();
    before.execute(SPECIFICATION).await.unwrap();
    let store = PgStore::connect(&url, Realm::Prod).await.unwrap();
    let jobs = store.history(ALL).await.unwrap().jobs;
    let ids: Vec<(JobId, Status, OwnerId)> = jobs.iter().map(|job| (job.id, job.status, job.owner)).collect();
    let expected = [
        (JobId(1), Status::Pending, OwnerId(7)),
        (JobId(2), Status::Running, OwnerId(0)),
        (JobId(3), Status::Completed, OwnerId(7)),
        (JobId(4), Status::Completed, OwnerId(7)),
    ];
    assert_eq!(ids, expected);
    assert_eq!(jobs[2].completed_at.unwrap().since(jobs[2].created_at).as_secs(), 1800);
    assert_eq!(jobs[1].entity_type, EntityType::User);
    assert_eq!(jobs[1].completed_at, None);
    assert_eq!(jobs[0].labels, LabelSet::new(["linux.riscv64.xlarge", "ubuntu-24.04-riscv"]));
    let labels = "SELECT job_labels::text FROM prod.jobs WHERE job_id = 1";
    let labels: String = sqlx::query_scalar(labels).fetch_one(&before).await.unwrap();
    assert_eq!(labels, r#"["linux.riscv64.xlarge", "ubuntu-24.04-riscv"]"#, "as new rows have them: equal in SQL too");
    let changes = store.changes(None).await.unwrap();
    assert_eq!((changes.jobs.len(), changes.workers.len()), (2, 2), "what is active, and what ended lately");
    let failed = changes.workers.iter().find(|worker| worker.status == Status::Failed).unwrap();
    assert_eq!(failed.failure.map(|failure| failure.as_str()), Some("pod_failed"));
    let running = changes.workers.iter().find(|worker| worker.status == Status::Running).unwrap();
    assert_eq!((running.owner, &running.labels), (OwnerId(7), &LabelSet::new(["a", "b"])));
    // They go on as any other.
    let end = engine::facts::Job {
        status: Status::Completed,
        completed_at: Some(rows::START),
        installation: jobs[0].installation,
        ..jobs[0].clone()
    };
    store.record(vec![end]).await.unwrap();
    assert_eq!(store.history(ALL).await.unwrap().jobs[2].status, Status::Completed);
    drop(store);
    let again = PgStore::connect(&url, Realm::Prod).await.unwrap();
    assert_eq!(again.history(ALL).await.unwrap().total, 4, "a second start changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_start_at_once_make_one_schema_each_realm_its_own() {
    let url = postgres::database().await;
    let starting: Vec<_> = (0..12)
        .map(|i| {
            let (url, realm) = (url.clone(), if i % 3 == 0 { Realm::Staging } else { Realm::Prod });
            tokio::spawn(async move { PgStore::connect(&url, realm).await.map(|store| (realm, store)) })
        })
        .collect();
    let mut stores = Vec::new();
    for starting in starting {
        stores.push(starting.await.unwrap().unwrap());
    }
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations")).unwrap().count() as i64;
    for schema in ["prod", "staging"] {
        for (what, expected) in [("_sqlx_migrations WHERE success", files), ("leadership", 1), ("jobs", 0)] {
            let count = format!("SELECT count(*) FROM {schema}.{what}");
            let count: i64 =
                sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(stores[0].1.pool()).await.unwrap();
            assert_eq!(count, expected, "{schema}.{what}");
        }
    }
    let of = |wanted: Realm| &stores.iter().find(|(realm, _)| *realm == wanted).unwrap().1;
    of(Realm::Prod).record(vec![rows::job(1, 7)]).await.unwrap();
    assert_eq!(of(Realm::Prod).history(ALL).await.unwrap().total, 1);
    assert_eq!(of(Realm::Staging).history(ALL).await.unwrap().total, 0, "staging has its own");
}

/// Where an administrator makes the schema, the service's role needs no right to make one.
#[tokio::test]
async fn a_schema_that_is_there_need_not_be_creatable() {
    let url = postgres::database().await;
    let pool = PgPool::connect(url.expose_secret()).await.unwrap();
    // Roles are the server's, and tests share one: this one's name is its own.
    let role = format!("limited_{}", std::process::id());
    for statement in [
        format!("CREATE ROLE {role} LOGIN"),
        format!("CREATE SCHEMA prod AUTHORIZATION {role}"),
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC".to_owned(),
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    let (_, rest) = url.expose_secret().split_once('@').unwrap();
    let limited = secrecy::SecretString::from(format!("postgresql://{role}@{rest}"));
    let store = PgStore::connect(&limited, Realm::Prod).await.unwrap();
    store.record(vec![rows::job(1, 7)]).await.unwrap();
    // One that is not there is.
    let Err(error) = PgStore::connect(&limited, Realm::Staging).await else { panic!("it is made") };
    assert!(error.to_string().contains("permission denied"), "{error}");
}
