//! The database away, slow, or behind: never 200, and never later than GitHub waits.

use std::{sync::OnceLock, time::Duration};

use adapters::{
    ghfe::{Readers, Room},
    ingest::Ingest,
    postgres::PgStore,
};
use engine::ids::Realm;
use sim::testing::postgres::{self, Cluster};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tower::ServiceExt as _;

use crate::bed::{Answer, Bed, ORG, body, test, test_on, test_with};

/// What GitHub waits for an answer.
const GITHUB: Duration = Duration::from_secs(10);

fn is_later(answer: &Answer, message: &str) {
    assert_eq!((answer.status, answer.text.as_str()), (503, message));
    assert_eq!(answer.header("retry-after"), "30");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_said_to_be_away_in_time() {
    let mut cluster = Some(Cluster::start().unwrap());
    let url = cluster.as_ref().unwrap().url("postgres").into();
    let store = PgStore::connect(&url, Realm::Prod).await.unwrap();
    test_on(
        store,
        |_| {},
        async |bed| {
            assert_eq!(bed.job(&body("queued", 1, ORG)).await, (200, "recorded".to_owned()));
            assert_eq!(bed.get("/ready").await.status, 200);
            drop(cluster.take());
            let deletion = r#"{"action":"deleted","installation":{"id":503}}"#;
            let (job, installation, ready, usage, history) = tokio::join!(
                bed.deliver("workflow_job", body("queued", 2, ORG).to_string()),
                bed.deliver("installation", deletion),
                bed.get("/ready"),
                bed.get("/usage"),
                bed.get("/history.json"),
            );
            is_later(&job, "the store cannot take the delivery now; deliver again later\n");
            is_later(&installation, "the store cannot take the delivery now; deliver again later\n");
            assert_eq!((ready.status, ready.text.as_str()), (503, "the store does not answer\n"));
            for page in [usage, history] {
                assert_eq!(
                    (page.status, page.text.as_str()),
                    (503, "the store cannot be read now; try again shortly\n")
                );
            }
            assert_eq!(bed.get("/health").await.text, "ok", "the process itself is well");
            let status: serde_json::Value = serde_json::from_str(&bed.get("/status").await.text).unwrap();
            let troubles = status["troubles"].as_array().unwrap();
            assert_eq!(troubles.len(), 1, "one trouble, whoever met it: {troubles:?}");
            assert!(troubles[0].as_str().unwrap().starts_with("Postgres: "), "{troubles:?}");
            assert_eq!(bed.deliver("ping", "{}").await.status, 200, "what needs no database is answered");
        },
    )
    .await;
}

/// Keeps rows from being written, as a failover or a migration does.
async fn block(bed: &Bed) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut transaction = bed.store.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE jobs IN EXCLUSIVE MODE").execute(&mut *transaction).await.unwrap();
    transaction
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_slow_is_not_waited_for_longer_than_github_waits() {
    test(async |bed| {
        let lock = block(&bed).await;
        // Connections are open before the time is taken.
        tokio::join!(bed.deliver("ping", "{}"), bed.deliver("ping", "{}"));
        let deletion = r#"{"action":"deleted","installation":{"id":503}}"#;
        let answers = async {
            tokio::join!(
                bed.deliver("workflow_job", body("queued", 1, ORG).to_string()),
                bed.deliver("installation", deletion),
            )
        };
        let (job, installation) = timeout(GITHUB, answers).await.expect("GitHub has gone");
        for answer in [&job, &installation] {
            // Whichever limit is the first to be over: for a connection, or for the commit.
            assert_eq!((answer.status, answer.header("retry-after")), (503, "30"), "{}", answer.text);
            let told = ["the store did not answer in time; ", "the store cannot take the delivery now; "];
            assert!(told.iter().any(|told| answer.text.starts_with(told)), "{}", answer.text);
        }
        lock.rollback().await.unwrap();
        assert_eq!(bed.job(&body("queued", 1, ORG)).await, (200, "recorded".to_owned()), "delivered again");
        assert_eq!(bed.rows().await, [(1, "pending".to_owned())]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bound_deliveries_are_shed_at_once_and_counted() {
    const BOUND: usize = 4;
    const SENT: u64 = 150;
    let queue = |ghfe: &mut adapters::ghfe::Ghfe| ghfe.ingest = Ingest::new(ghfe.store.clone(), BOUND);
    test_with(queue, async |bed| {
        let lock = block(&bed).await;
        let sent: Vec<_> = (1..=SENT as i64)
            .map(|id| {
                let bed = bed.clone();
                tokio::spawn(async move { bed.deliver("workflow_job", body("queued", id, ORG).to_string()).await })
            })
            .collect();
        // Batches of at most the bound are being committed, and as many wait behind them.
        while bed.ingest.status().shed < SENT - 10 * BOUND as u64 {
            tokio::task::yield_now().await;
        }
        lock.rollback().await.unwrap();
        let (mut recorded, mut shed) = (0, 0);
        for answer in sent {
            let answer = answer.await.unwrap();
            if answer.status == 200 {
                recorded += 1;
            } else {
                is_later(&answer, "too many deliveries are waiting to be stored; deliver again later\n");
                shed += 1;
            }
        }
        assert!(recorded >= BOUND && shed as u64 >= SENT - 10 * BOUND as u64, "{recorded} recorded, {shed} shed");
        assert_eq!(bed.rows().await.len(), recorded, "what was answered 200 is there, and nothing else");
        // Whatever is committed after the last one was turned away shows that the store is well.
        assert_eq!(bed.job(&body("queued", SENT as i64 + 1, ORG)).await, (200, "recorded".to_owned()));
        recorded += 1;
        let status: serde_json::Value = serde_json::from_str(&bed.get("/status").await.text).unwrap();
        let expected = serde_json::json!({
            "deliveries": { "recorded": recorded, "shed": shed, "failed": 0, "waiting": 0 },
            "bodies": { "held": 0, "shed": 0 }, "pages": { "reading": 0, "shed": 0 }, "capture_lost": null, "troubles": [],
        });
        assert_eq!(status, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_its_place_until_its_client_has_taken_it() {
    let same = OnceLock::new();
    let one = |ghfe: &mut adapters::ghfe::Ghfe| {
        ghfe.readers = Readers::new(1, Duration::from_millis(50));
        assert!(same.set(ghfe.clone()).is_ok());
    };
    let store = PgStore::connect(&postgres::database().await, Realm::Prod).await.unwrap();
    test_on(store, one, async |bed| {
        let router = adapters::ghfe::router(same.get().unwrap().clone());
        for path in ["/usage", "/usage.json", "/history", "/history.json"] {
            let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
            let page = router.clone().oneshot(request).await.unwrap();
            assert_eq!((page.status().as_u16(), bed.get("/usage").await.status), (200, 503), "{path} is not taken yet");
            drop(page);
            assert_eq!(bed.get("/usage").await.status, 200, "{path}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_leave_deliveries_their_connections() {
    const PAGES: usize = 3;
    const VISITORS: usize = 60;
    let few = |ghfe: &mut adapters::ghfe::Ghfe| ghfe.readers = Readers::new(PAGES, Duration::from_millis(200));
    test_with(few, async |bed| {
        let mut lock = bed.store.pool().begin().await.unwrap();
        // These rows are what the page is of; a delivery needs none of them.
        sqlx::query("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
        let visitors: Vec<_> = (0..VISITORS)
            .map(|i| {
                let bed = bed.clone();
                tokio::spawn(async move { bed.get(["/usage", "/usage.json"][i % 2]).await })
            })
            .collect();
        let turned_away = |status: &serde_json::Value| status["pages"]["shed"].as_u64().unwrap();
        let status = async || serde_json::from_str::<serde_json::Value>(&bed.get("/status").await.text).unwrap();
        timeout(GITHUB, async {
            while turned_away(&status().await) < (VISITORS - PAGES) as u64 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("all but three are turned away");
        assert_eq!(status().await["pages"]["reading"], PAGES);
        assert_eq!(bed.job(&body("queued", 1, ORG)).await, (200, "recorded".to_owned()));
        assert_eq!(bed.get("/ready").await.status, 200);
        lock.rollback().await.unwrap();
        let (mut read, mut shed) = (0, 0);
        for visitor in visitors {
            let page = visitor.await.unwrap();
            match page.status {
                200 => read += 1,
                503 => {
                    shed += 1;
                    assert_eq!(page.header("retry-after"), "10");
                    assert_eq!(page.text, "too many pages are being read now; try again shortly\n");
                }
                other => panic!("{other}: {}", page.text),
            }
        }
        assert_eq!((read, shed), (PAGES, VISITORS - PAGES));
        assert_eq!(bed.get("/history").await.status, 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_there_is_no_room_for_are_shed_at_once_and_counted() {
    let room = Room::new(16 << 10);
    let small = |ghfe: &mut adapters::ghfe::Ghfe| ghfe.room = room.clone();
    test_with(small, async |bed| {
        let text = |id| {
            let mut text = body("queued", id, ORG).to_string();
            text.push_str(&" ".repeat(9 << 10));
            text
        };
        let held = || room.status().held;
        // One whose row waits for the store keeps its place until it is answered.
        let lock = block(&bed).await;
        let first = tokio::spawn({
            let (bed, text) = (bed.clone(), text(1));
            async move { bed.deliver("workflow_job", text).await }
        });
        while held() < 9 << 10 {
            tokio::task::yield_now().await;
        }
        let answer = bed.deliver("workflow_job", text(2)).await;
        is_later(&answer, "too many deliveries are being read; deliver again later\n");
        // Whoever announces much and sends little takes little.
        let mut slow = TcpStream::connect(bed.address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: ghfe\r\nx-github-event: workflow_job\r\nx-hub-signature-256: none\r\n\
                    content-length: 20000000\r\n\r\nlittle";
        let before = held();
        slow.write_all(head.as_bytes()).await.unwrap();
        while held() < before + "little".len() {
            tokio::task::yield_now().await;
        }
        assert_eq!(held(), before + "little".len());
        drop(slow);
        lock.rollback().await.unwrap();
        assert_eq!(first.await.unwrap().status, 200);
        while held() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bed.deliver("workflow_job", text(2)).await.status, 200, "delivered again");
        let status: serde_json::Value = serde_json::from_str(&bed.get("/status").await.text).unwrap();
        assert_eq!(status["bodies"], serde_json::json!({ "held": 0, "shed": 1 }));
    })
    .await;
}
