//! Production hands staging's deliveries on, as they came.

use std::sync::{Arc, Mutex};

use adapters::ghfe::{HttpProxy, StagingProxy};
use axum::{Router, extract::State, response::IntoResponse};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::bed::{Answer, Bed, ORG, SECRET, body, test_with};

/// What staging was sent, and what it answers.
#[derive(Clone)]
struct Staging {
    seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    answer: Arc<Mutex<(StatusCode, String)>>,
}

async fn receive(State(staging): State<Staging>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    staging.seen.lock().unwrap().push((headers, body));
    staging.answer.lock().unwrap().clone()
}

async fn staging() -> (Staging, Arc<dyn StagingProxy>) {
    let staging = Staging { seen: Arc::default(), answer: Arc::new(Mutex::new((StatusCode::OK, "taken".to_owned()))) };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let router = Router::new().route("/hook", axum::routing::post(receive)).with_state(staging.clone());
    tokio::spawn(axum::serve(listener, router).into_future());
    (staging, proxy(&url))
}

fn proxy(url: &str) -> Arc<dyn StagingProxy> {
    Arc::new(HttpProxy::new(url.parse().unwrap()).unwrap())
}

/// A job of a repository that the built-in configuration marks as staging's.
fn staged(action: &str, id: i64) -> Value {
    let mut body = body(action, id, 152_654_596);
    body["repository"]["owner"]["login"] = json!("riseproject-dev");
    body["repository"]["full_name"] = json!("riseproject-dev/riscv-runner-sample");
    body
}

fn said(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.text.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_gets_the_delivery_as_it_came_and_its_answer_is_the_answer() {
    let (staging, proxy) = staging().await;
    test_with(
        |ghfe| ghfe.proxy = Some(proxy),
        async |bed: Bed| {
            let text = staged("queued", 1).to_string();
            let request = bed.delivery("workflow_job", text.clone());
            let sent = request.headers().clone();
            assert_eq!(said(&bed.send(request).await), (200, "taken"));
            let (headers, forwarded) = staging.seen.lock().unwrap().pop().unwrap();
            assert_eq!(forwarded, text);
            for (name, value) in &sent {
                assert_eq!(headers.get(name), Some(value), "{name}");
            }
            assert_ne!(headers["host"], format!("{}", bed.address), "Host is staging's own");
            // In pieces, as it may come.
            let mut request = bed.delivery("workflow_job", text.clone());
            request.headers_mut().insert("transfer-encoding", "chunked".try_into().unwrap());
            request.headers_mut().insert("connection", "close".try_into().unwrap());
            assert_eq!(said(&bed.send(request).await), (200, "taken"));
            assert_eq!(staging.seen.lock().unwrap().pop().unwrap().1, text);
            for (status, message) in [(400, "not like this"), (503, "away"), (302, "elsewhere")] {
                *staging.answer.lock().unwrap() = (StatusCode::from_u16(status).unwrap(), message.to_owned());
                assert_eq!(said(&bed.deliver("workflow_job", text.clone()).await), (status, message));
            }
            assert_eq!(staging.seen.lock().unwrap().len(), 3);
            assert_eq!(bed.rows().await, [], "production records nothing of it");
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_forwarded_that_is_not_signed_or_not_stagings() {
    let (staging, proxy) = staging().await;
    test_with(
        |ghfe| ghfe.proxy = Some(proxy),
        async |bed: Bed| {
            let text = staged("queued", 1).to_string();
            for forged in ["", "sha256=00", &sim::harness::signature("another secret", text.as_bytes())] {
                let mut request = bed.delivery("workflow_job", text.clone());
                request.headers_mut().insert("x-hub-signature-256", forged.try_into().unwrap());
                let status = if forged.is_empty() { 400 } else { 401 };
                assert_eq!(bed.send(request).await.status, status);
            }
            let mut other_repository = staged("queued", 2);
            other_repository["repository"]["full_name"] = json!("riseproject-dev/something");
            assert_eq!(bed.job(&other_repository).await, (200, "recorded".to_owned()));
            assert_eq!(bed.job(&body("queued", 3, ORG)).await, (200, "recorded".to_owned()));
            assert_eq!(bed.deliver("ping", text).await.text, "pong");
            assert_eq!(bed.rows().await.len(), 2);
            assert_eq!(staging.seen.lock().unwrap().len(), 0);
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn staging_away_is_a_clear_answer_and_production_goes_on() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", gone.local_addr().unwrap());
    drop(gone);
    test_with(
        |ghfe| ghfe.proxy = Some(proxy(&url)),
        async |bed: Bed| {
            let answer = bed.deliver("workflow_job", staged("queued", 1).to_string()).await;
            assert_eq!(said(&answer), (502, "staging did not take the delivery\n"));
            assert_eq!(bed.job(&body("queued", 2, ORG)).await, (200, "recorded".to_owned()));
            assert_eq!(bed.rows().await, [(2, "pending".to_owned())]);
        },
    )
    .await;
    assert!(!url.contains(SECRET));
}
