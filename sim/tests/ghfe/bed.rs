//! What every test here stands on.
//!
//! At the end of each test, no answer and no log line may have held the webhook secret or a signature that a body should
//! have had.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
};

use adapters::{
    config,
    ghfe::{Ghfe, Readers, Room, Verifier, router},
    ingest::Ingest,
    ports::system_clock,
    postgres::PgStore,
};
use bytes::Bytes;
use engine::ids::Realm;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use sim::{harness::signature, testing::postgres};
use tokio::net::TcpListener;

pub const SECRET: &str = "a-webhook-secret-that-nobody-may-see";
pub const ORG: i64 = 9001;
/// Its jobs may carry any labels beside the platform's.
pub const PYTORCH: i64 = 21_003_710;

/// Everything that is logged by this process, at the finest level.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logs() -> &'static Logs {
    static LOGS: OnceLock<Logs> = OnceLock::new();
    LOGS.get_or_init(|| {
        let logs = Logs::default();
        let writer = logs.clone();
        let subscriber = tracing_subscriber::fmt().json().with_max_level(tracing::Level::TRACE);
        subscriber.with_writer(move || writer.clone()).init();
        logs
    })
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A running front end with a database of its own.
#[derive(Clone)]
pub struct Bed {
    pub address: SocketAddr,
    pub store: Arc<PgStore>,
    pub ingest: Ingest,
    http: Client<HttpConnector, Full<Bytes>>,
    /// Digests that would have been right for what was sent.
    right: Arc<Mutex<Vec<String>>>,
}

/// Runs a test against a front end that `change` may have changed.
pub async fn test_with(change: impl FnOnce(&mut Ghfe), test: impl AsyncFnOnce(Bed)) {
    let store = PgStore::connect(&postgres::database().await, Realm::Prod).await.unwrap();
    test_on(store, change, test).await;
}

/// Runs a test against the front end as RISE runs it.
pub async fn test(test: impl AsyncFnOnce(Bed)) {
    test_with(|_| {}, test).await;
}

/// Runs a test on a store that the caller may break.
pub async fn test_on(store: Arc<PgStore>, change: impl FnOnce(&mut Ghfe), test: impl AsyncFnOnce(Bed)) {
    let before = logs().0.lock().unwrap().len();
    let (policy, _) = config::built_in(Realm::Prod).unwrap();
    let mut ghfe = Ghfe {
        ingest: Ingest::new(store.clone(), 1000),
        room: Room::default(),
        readers: Readers::default(),
        store: store.clone(),
        policy: Arc::new(policy),
        clock: system_clock(),
        verifier: Verifier::new(&SecretString::from(SECRET)),
        proxy: None,
        capture: None,
        public_url: None,
    };
    change(&mut ghfe);
    let ingest = ghfe.ingest.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(axum::serve(listener, router(ghfe)).into_future());
    let http = Client::builder(TokioExecutor::new()).build_http();
    let bed = Bed { address, store, ingest, http, right: Arc::default() };
    test(bed.clone()).await;
    server.abort();
    let log = String::from_utf8_lossy(&logs().0.lock().unwrap()[before..]).into_owned();
    assert!(!log.is_empty(), "the log is being kept");
    bed.shows_no_secret("the log", &log);
}

impl Bed {
    fn shows_no_secret(&self, what: &str, text: &str) {
        assert!(!text.contains(SECRET), "{what} holds the secret");
        let right = self.right.lock().unwrap();
        for digits in text.split(|c: char| !c.is_ascii_hexdigit()).filter(|digits| digits.len() >= 64) {
            let shown = right.iter().find(|right| digits.contains(right.as_str()));
            assert_eq!(shown, None, "{what} holds a signature");
        }
    }

    /// A request to the front end; the answer must show no secret.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.http.request(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        self.shows_no_secret("an answer", &text);
        self.shows_no_secret("an answer's headers", &format!("{headers:?}"));
        Answer { status, headers, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(format!("http://{}{path}", self.address)).body(Full::default()).unwrap()).await
    }

    /// A delivery as GitHub sends it, before it is sent.
    pub fn delivery(&self, event: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        let body = body.into();
        let right = signature(SECRET, &body);
        self.right.lock().unwrap().push(right.strip_prefix("sha256=").unwrap().to_owned());
        Request::post(format!("http://{}/", self.address))
            .header("content-type", "application/json")
            .header("user-agent", "GitHub-Hookshot/test")
            .header("x-github-event", event)
            .header("x-github-delivery", "0b989ba4-242f-11e5-81e1-c7b6966d2516")
            .header("x-github-hook-id", "292430182")
            .header("x-hub-signature-256", right)
            .body(Full::new(body))
            .unwrap()
    }

    pub async fn deliver(&self, event: &str, body: impl Into<Bytes>) -> Answer {
        self.send(self.delivery(event, body)).await
    }

    /// A `workflow_job` delivery; status and text of the answer.
    pub async fn job(&self, body: &Value) -> (u16, String) {
        let answer = self.deliver("workflow_job", body.to_string()).await;
        (answer.status, answer.text)
    }

    /// Every job's id and status, by id.
    pub async fn rows(&self) -> Vec<(i64, String)> {
        let rows = sqlx::query_as("SELECT job_id, status::text FROM jobs ORDER BY job_id");
        rows.fetch_all(self.store.pool()).await.unwrap()
    }

    /// Every column of every job but those that say when it was written.
    pub async fn whole_rows(&self) -> Vec<Value> {
        let rows = "SELECT to_jsonb(jobs) - 'updated_at' - 'changed_xid' FROM jobs ORDER BY job_id";
        sqlx::query_scalar(rows).fetch_all(self.store.pool()).await.unwrap()
    }
}

/// GitHub's own example of a body, made into one of `owner`'s for a job that the service takes.
pub fn body(action: &str, id: i64, owner: i64) -> Value {
    let example = match action {
        "completed" => include_str!("../../fixtures/webhooks/workflow_job.completed-organization.json"),
        "in_progress" => include_str!("../../fixtures/webhooks/workflow_job.in_progress-organization.json"),
        _ => include_str!("../../fixtures/webhooks/workflow_job.queued-organization.json"),
    };
    let mut body: Value = serde_json::from_str(example).unwrap();
    body["action"] = json!(action);
    body["workflow_job"]["id"] = json!(id);
    body["workflow_job"]["labels"] = json!(["ubuntu-24.04-riscv"]);
    body["repository"]["id"] = json!(31);
    body["repository"]["full_name"] = json!("octo-org/app");
    body["repository"]["owner"]["id"] = json!(owner);
    body["repository"]["owner"]["login"] = json!("octo-org");
    body["installation"] = json!({ "id": 503 });
    body
}
