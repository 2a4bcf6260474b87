//! Transactions that lose to others: serialisation failures and deadlocks, which Postgres asks to be tried again.

use std::sync::Arc;

use adapters::{
    ports::{Lease, Store, StoreWrite},
    postgres::PgStore,
};
use engine::{decision::Write, facts::*, ids::*};
use secrecy::ExposeSecret;
use sim::testing::{postgres, rows::*};
use sqlx::{Connection, PgConnection};

const TTL: Span = Span::secs(600);

/// Runs what changes a schema or a database.
async fn run(store: &PgStore, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(store.pool()).await.unwrap();
}

/// From now on `left` transactions that touch `table` lose, with this code. A sequence is never rolled back, so that it counts
/// the tries.
async fn losing(store: &PgStore, table: &str, code: &str, left: i64) {
    run(
        store,
        format!(
            "DROP TRIGGER IF EXISTS loses ON prod.{table};
             DROP SEQUENCE IF EXISTS tries CASCADE;
             CREATE SEQUENCE tries;
             CREATE OR REPLACE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 IF nextval('tries') <= {left} THEN RAISE EXCEPTION 'lost to another' USING ERRCODE = '{code}'; END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER loses AFTER INSERT OR UPDATE ON prod.{table} FOR EACH STATEMENT EXECUTE FUNCTION lose()"
        ),
    )
    .await;
}

fn reserve(name: &str, cap: Option<u32>) -> StoreWrite {
    let write = Write::Reserve { worker: Box::new(worker(name, 7)), cap, phantoms: [].into() };
    StoreWrite { write, diagnostics: None }
}

async fn counts(store: &PgStore) -> (usize, usize) {
    let all = store.changes(None).await.unwrap();
    (all.jobs.len(), all.workers.len())
}

#[tokio::test]
async fn what_loses_to_another_is_tried_again_and_done_once() {
    let store = PgStore::connect(&postgres::database().await, Realm::Prod).await.unwrap();
    let lease = store.acquire("test", TTL).await.unwrap().expect("nobody leads");
    for (i, code) in [(1, "40001"), (2, "40P01")] {
        losing(&store, "jobs", code, 4).await;
        store.record(vec![job(i, 7)]).await.unwrap();
        losing(&store, "workers", code, 4).await;
        let written = store.write(&lease, vec![reserve(&format!("w{i}"), None)]).await.unwrap();
        assert_eq!(written, [Written::Done], "{code}");
        assert_eq!(counts(&store).await, (i as usize, i as usize), "{code}: once each");
    }
}

#[tokio::test]
async fn what_loses_time_after_time_is_told_and_leaves_nothing() {
    let store = PgStore::connect(&postgres::database().await, Realm::Prod).await.unwrap();
    let lease = store.acquire("test", TTL).await.unwrap().expect("nobody leads");
    losing(&store, "jobs", "40001", 1000).await;
    let lost = store.record(vec![job(1, 7)]).await;
    assert!(matches!(&lost, Err(StoreError::Unavailable { message }) if message == "lost to another"), "{lost:?}");
    losing(&store, "jobs", "40001", 0).await;
    store.record(vec![job(2, 7)]).await.unwrap();
    losing(&store, "workers", "40P01", 1000).await;
    let lost = store.write(&lease, vec![reserve("w1", None)]).await;
    assert!(matches!(&lost, Err(StoreError::Unavailable { .. })), "{lost:?}");
    assert_eq!(counts(&store).await, (1, 0));
    losing(&store, "workers", "40P01", 0).await;
    assert_eq!(store.write(&lease, vec![reserve("w1", None)]).await.unwrap(), [Written::Done], "it leads still");
    // An error of another kind is not tried again.
    losing(&store, "jobs", "57014", 1).await;
    let cancelled = store.record(vec![job(3, 7)]).await;
    assert!(matches!(cancelled, Err(StoreError::Unavailable { .. })), "{cancelled:?}");
    store.record(vec![job(3, 7)]).await.unwrap();
}

/// An operator may have made it the default of the database. Nothing is lost then, and the cap holds.
#[tokio::test]
async fn in_a_database_that_serialises_everything_storms_and_reservations_keep_their_promises() {
    const TASKS: i64 = 8;
    const ROUNDS: i64 = 10;
    const CAP: u32 = 5;
    let url = postgres::database().await;
    let mut connection = PgConnection::connect(url.expose_secret()).await.unwrap();
    let serialise = "DO $$ BEGIN EXECUTE format(
        'ALTER DATABASE %I SET default_transaction_isolation = ''serializable''', current_database()); END $$";
    sqlx::query(serialise).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let store = PgStore::connect(&url, Realm::Prod).await.unwrap();
    let isolation: String = sqlx::query_scalar("SHOW transaction_isolation").fetch_one(store.pool()).await.unwrap();
    assert_eq!(isolation, "serializable");
    let lease = store.acquire("test", TTL).await.unwrap().expect("nobody leads");

    let deliveries = (0..TASKS).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                // Every task tells of a job of its own, and of one that all tell of.
                let jobs = vec![job(1000 + round, 7), job(1 + task * ROUNDS + round, 7)];
                // What is answered 503 is delivered again.
                while store.record(jobs.clone()).await.is_err() {}
            }
        })
    });
    let deliveries = futures::future::join_all(deliveries);
    let reservations = tokio::spawn(reserve_all(store.clone(), lease));
    for delivered in deliveries.await {
        delivered.unwrap();
    }
    let applied = reservations.await.unwrap();
    let (jobs, workers) = counts(&store).await;
    assert_eq!(jobs as i64, TASKS * ROUNDS + ROUNDS);
    assert_eq!((applied, workers), (CAP as usize, CAP as usize));

    /// Reserves until the cap is reached and refused; how many were applied.
    async fn reserve_all(store: Arc<PgStore>, lease: Lease) -> usize {
        let mut applied = 0;
        loop {
            match store.write(&lease, vec![reserve(&format!("w{applied}"), Some(CAP))]).await.as_deref() {
                Ok([Written::Done]) => applied += 1,
                Ok([Written::RefusedCap]) => return applied,
                // There is no job yet, or it lost to a delivery each time.
                Ok([Written::RefusedDemand]) | Err(StoreError::Unavailable { .. }) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    }
}
