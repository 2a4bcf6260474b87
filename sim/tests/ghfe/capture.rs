//! CAPTURE: whole lines, and nothing secret in them.

use std::{collections::BTreeSet, path::PathBuf};

use adapters::ghfe::Capture;
use serde_json::{Value, json};
use sim::harness::signature;

use crate::bed::{Bed, ORG, SECRET, body, test_with};

/// A file of the test's own in the build's directory for such things.
fn file(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_file(&path);
    path
}

fn lines(path: &PathBuf, capture: &Capture) -> Vec<Value> {
    capture.flush();
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_accepted_delivery_is_a_line_without_secrets() {
    let path = file("capture-lines.jsonl");
    let capture = Capture::open(&path).unwrap();
    let kept = capture.clone();
    test_with(|ghfe| ghfe.capture = Some(kept), async |bed: Bed| {
        let pretty = serde_json::to_string_pretty(&body("queued", 1, ORG)).unwrap();
        let mut request = bed.delivery("workflow_job", pretty.clone());
        for (name, value) in [("authorization", "Bearer secret-1"), ("cookie", "secret-2"), ("x-other", "secret-3")] {
            request.headers_mut().insert(name, value.try_into().unwrap());
        }
        assert_eq!(bed.send(request).await.status, 200);
        let url = "https://user:secret-4@ghfe.example";
        let hook = json!({ "id": 1, "config": { "secret": "secret-5", "url": url } });
        let ping = json!({ "zen": "…", "hook_id": 1, "hook": hook });
        assert_eq!(bed.deliver("ping", serde_json::to_string_pretty(&ping).unwrap()).await.status, 200);
        let meta = json!({ "action": "deleted", "hook_id": 1, "hook": hook });
        assert_eq!(bed.deliver("meta", meta.to_string()).await.status, 200);
        // Refused, in three ways: not kept.
        let mut forged = bed.delivery("workflow_job", body("queued", 2, ORG).to_string());
        forged.headers_mut().insert("x-hub-signature-256", "sha256=00".try_into().unwrap());
        assert_eq!(bed.send(forged).await.status, 401);
        assert_eq!(bed.deliver("workflow_job", "{").await.status, 400);
        assert_eq!(bed.job(&body("queued", 0, ORG)).await.0, 400);
        let lines = lines(&path, &capture);
        assert_eq!(lines.len(), 3);
        let keys: BTreeSet<&str> = lines[0].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(["at", "headers", "body"]));
        let expected = json!({
            "content-type": "application/json", "user-agent": "GitHub-Hookshot/test", "x-github-event": "workflow_job",
            "x-github-delivery": "0b989ba4-242f-11e5-81e1-c7b6966d2516", "x-github-hook-id": "292430182",
        });
        assert_eq!(lines[0]["headers"], expected);
        assert_eq!(lines[0]["body"], body("queued", 1, ORG));
        let at: jiff::Timestamp = lines[0]["at"].as_str().unwrap().parse().unwrap();
        assert!(at <= jiff::Timestamp::now());
        assert_eq!(lines[1]["headers"]["x-github-event"], "ping");
        assert_eq!(lines[1]["body"], json!({ "zen": "…", "hook_id": 1 }), "how the webhook is set is nobody's business");
        assert_eq!(lines[2]["body"], json!({ "action": "deleted", "hook_id": 1 }));
        let text = std::fs::read_to_string(&path).unwrap();
        let digest = signature(SECRET, pretty.as_bytes());
        for secret in ["secret-", SECRET, "signature", digest.strip_prefix("sha256=").unwrap()] {
            assert!(!text.contains(secret), "{secret}");
        }
        let read_back = sim::capture::read(&text).unwrap();
        assert_eq!(read_back.iter().map(|job| job.id).collect::<Vec<_>>(), [1], "the demo plays it");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_at_once_give_whole_lines() {
    let path = file("capture-many.jsonl");
    let capture = Capture::open(&path).unwrap();
    let kept = capture.clone();
    test_with(
        |ghfe| ghfe.capture = Some(kept),
        async |bed: Bed| {
            let sent: Vec<_> = (1..=200)
                .map(|id| {
                    let bed = bed.clone();
                    tokio::spawn(async move { bed.job(&body("queued", id, ORG)).await })
                })
                .collect();
            for answer in sent {
                assert_eq!(answer.await.unwrap(), (200, "recorded".to_owned()));
            }
            let ids: Vec<i64> = lines(&path, &capture)
                .iter()
                .map(|line| line["body"]["workflow_job"]["id"].as_i64().unwrap())
                .collect();
            let all: BTreeSet<i64> = (1..=200).collect();
            assert_eq!(ids.iter().copied().collect::<BTreeSet<i64>>(), all);
            assert_eq!(ids.len(), 200, "each once");
            let status: Value = serde_json::from_str(&bed.get("/status").await.text).unwrap();
            assert_eq!(status["capture_lost"], 0);
        },
    )
    .await;
}

/// What is accepted is JSON, whether anybody reads it or not, so that all of it can be kept: one body with line breaks, one
/// that is deeper than parsers go.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_accepted_is_captured_and_what_is_not_json_is_not_accepted() {
    let path = file("capture-json.jsonl");
    let capture = Capture::open(&path).unwrap();
    let kept = capture.clone();
    test_with(
        |ghfe| ghfe.capture = Some(kept),
        async |bed: Bed| {
            let deep = format!("{{\"other\":\n{}1{}\r\n}}", "[".repeat(300), "]".repeat(300));
            for (event, body, status) in [
                ("ping", "not JSON", 400),
                ("push", "", 400),
                ("push", "{\n}", 200),
                ("push", &*deep, 200),
                ("ping", &*deep, 200),
                ("ping", "[\n1]", 200),
            ] {
                assert_eq!(bed.deliver(event, body.to_owned()).await.status, status, "{event} {body}");
            }
            capture.flush();
            let text = std::fs::read_to_string(&path).unwrap();
            let bodies: Vec<&str> = text.lines().map(|line| line.split_once("\"body\":").unwrap().1).collect();
            let deep = deep.replace(['\n', '\r'], " ");
            assert_eq!(bodies, ["{ }}", &format!("{deep}}}"), "null}", "null}"], "of a ping only an object is kept");
            assert_eq!(capture.lost(), 0);
        },
    )
    .await;
}
