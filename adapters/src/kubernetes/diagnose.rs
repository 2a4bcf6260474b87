//! What can be learned of a failed pod before it is deleted: `failure_info` of version 2, without `reason`.

use std::{pin::pin, time::Duration};

use engine::ids::{PodUid, WorkerName};
use futures::AsyncReadExt as _;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::{
    Api, Client,
    api::{ListParams, LogParams},
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};

use crate::quote::quotable;

/// A diagnosis as a whole; each question may take half of it. What is not answered by then is null.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Logs are kept whole up to this; of a longer one the end is kept, where failures show.
const LOG_LIMIT: usize = 256 * 1024;
/// How much of a log is read at once.
const READ_AT_ONCE: usize = 64 * 1024;
/// What is asked of the API for one log.
const LOG_LINES: i64 = 20_000;

/// Questions, and what came of those that were not answered.
struct Questions {
    each: Duration,
    until: Instant,
    errors: Vec<String>,
}

pub(super) async fn diagnose(
    client: &Client,
    namespace: &str,
    name: &WorkerName,
    uid: &PodUid,
    patience: Duration,
) -> Value {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut info = Map::new();
    let mut questions = Questions { each: patience / 2, until: Instant::now() + patience, errors: Vec::new() };
    let pod = questions.ask("pod", pods.get(name.as_str())).await;
    let pod = match pod {
        Some(pod) if pod.metadata.uid.as_deref() != Some(uid.as_str()) => {
            questions.errors.push("pod: another one has its name now".to_owned());
            None
        }
        pod => pod,
    };
    let status = pod.as_ref().and_then(|pod| pod.status.as_ref());
    info.insert("pod_reason".into(), json!(status.and_then(|status| status.reason.clone())));
    info.insert("pod_message".into(), json!(status.and_then(|status| status.message.clone())));
    let mut containers = Vec::new();
    let init = status.and_then(|status| status.init_container_statuses.clone()).unwrap_or_default();
    let main = status.and_then(|status| status.container_statuses.clone()).unwrap_or_default();
    for (container, is_init) in init.iter().map(|it| (it, true)).chain(main.iter().map(|it| (it, false))) {
        let params =
            LogParams { container: Some(container.name.clone()), tail_lines: Some(LOG_LINES), ..LogParams::default() };
        let what = format!("log of {}", container.name);
        let log = questions.ask(&what, read_log(&pods, name.as_str(), &params)).await;
        containers.push(describe(container, is_init, log));
    }
    info.insert("containers".into(), if pod.is_some() { json!(containers) } else { Value::Null });
    info.insert("events".into(), events(client, namespace, name, uid, &mut questions).await);
    info.insert("errors".into(), json!(questions.errors));
    Value::Object(info)
}

/// A log or its end, which may hold anything: what is no text of it has U+FFFD in its place. Lines may be long, and many pods
/// may end together: no more than twice [`LOG_LIMIT`] of each is held while it is read.
async fn read_log(pods: &Api<Pod>, name: &str, params: &LogParams) -> kube::Result<String> {
    let mut stream = pin!(pods.log_stream(name, params).await?);
    let (mut log, mut left_out, mut part) = (Vec::new(), 0, vec![0; READ_AT_ONCE]);
    loop {
        let read = stream.read(&mut part).await.map_err(kube::Error::ReadEvents)?;
        if read == 0 {
            return Ok(keep_end(&String::from_utf8_lossy(&log), left_out));
        }
        log.extend_from_slice(&part[..read]);
        if log.len() > 2 * LOG_LIMIT - READ_AT_ONCE {
            // Not in the middle of a letter.
            let mut too_much = log.len() - LOG_LIMIT;
            too_much += log[too_much..].iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count();
            log.drain(..too_much);
            left_out += too_much;
        }
    }
}

impl Questions {
    /// One question; its failure is noted and nothing else.
    async fn ask<T>(&mut self, what: &str, question: impl Future<Output = kube::Result<T>>) -> Option<T> {
        let limit = self.until.saturating_duration_since(Instant::now()).min(self.each);
        match timeout(limit, question).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(kube::Error::Api(status))) => {
                let message: String = quotable(&status.message).chars().take(super::MESSAGE_LIMIT).collect();
                self.errors.push(format!("{what}: {}: {message}", status.code));
                None
            }
            Ok(Err(error)) => {
                self.errors.push(format!("{what}: {}", super::reason(&error)));
                None
            }
            Err(_) => {
                self.errors.push(format!("{what}: no answer in time"));
                None
            }
        }
    }
}

fn describe(container: &ContainerStatus, is_init: bool, log: Option<String>) -> Value {
    let state = container.state.as_ref();
    let ended = state.and_then(|state| state.terminated.as_ref());
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let reason = ended.and_then(|it| it.reason.clone()).or_else(|| waiting.and_then(|it| it.reason.clone()));
    let message = ended.and_then(|it| it.message.clone()).or_else(|| waiting.and_then(|it| it.message.clone()));
    json!({
        "name": container.name, "init": is_init, "exit_code": ended.map(|it| it.exit_code), "reason": reason,
        "message": message, "log": log,
    })
}

/// The end of a log of which so many bytes are left out already.
fn keep_end(log: &str, left_out: usize) -> String {
    let mut from = log.len().saturating_sub(LOG_LIMIT);
    while !log.is_char_boundary(from) {
        from += 1;
    }
    let kept = &log[from..];
    match left_out + from {
        0 => kept.to_owned(),
        bytes => format!("[the first {bytes} bytes are left out]\n{kept}"),
    }
}

async fn events(client: &Client, namespace: &str, name: &WorkerName, uid: &PodUid, questions: &mut Questions) -> Value {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().fields(&format!("involvedObject.name={name},involvedObject.uid={uid}"));
    let Some(list) = questions.ask("events", api.list(&params)).await else { return Value::Null };
    list.items.into_iter().map(show).collect()
}

/// Newer components leave `firstTimestamp`, `lastTimestamp` and `count` out and say the same in `eventTime` and `series`; an
/// event without a series has been seen once.
fn show(event: Event) -> Value {
    let (series, at) = (event.series, event.event_time.map(|at| at.0));
    let last = series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|at| at.0).or(at);
    let count = event.count.or(series.and_then(|series| series.count)).or(at.map(|_| 1));
    json!({
        "type": event.type_, "reason": event.reason, "message": event.message, "count": count,
        "first_seen": event.first_timestamp.map(|at| at.0).or(at).map(|at| at.to_string()),
        "last_seen": event.last_timestamp.map(|at| at.0).or(last).map(|at| at.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job writes what it likes.
    #[tokio::test]
    async fn of_a_log_that_is_no_text_all_is_kept_that_is() {
        let service = tower::service_fn(|request: http::Request<kube::client::Body>| async move {
            assert_eq!(request.uri().path(), "/api/v1/namespaces/ours/pods/a/log");
            let log: &[u8] = b"caf\xe9\nand the rest\n";
            Ok::<_, kube::Error>(http::Response::new(kube::client::Body::from(log.to_vec())))
        });
        let pods: Api<Pod> = Api::default_namespaced(Client::new(service, "ours"));
        let log = read_log(&pods, "a", &LogParams::default()).await.unwrap();
        assert_eq!(log, "caf\u{fffd}\nand the rest\n");
    }

    #[test]
    fn an_events_times_and_count_are_shown_in_whichever_fields_they_are() {
        let (first, last) = ("2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z");
        let micro = "2026-01-01T00:00:00.000000Z";
        for (fields, expected) in [
            (json!({ "firstTimestamp": first, "lastTimestamp": last, "count": 4 }), json!([first, last, 4])),
            (
                json!({ "firstTimestamp": null, "lastTimestamp": null, "eventTime": micro,
                        "series": { "count": 4, "lastObservedTime": "2026-01-01T00:05:00.000000Z" } }),
                json!([first, last, 4]),
            ),
            (json!({ "eventTime": micro }), json!([first, first, 1])),
            (json!({ "eventTime": micro, "series": {} }), json!([first, first, 1])),
            (
                json!({ "firstTimestamp": first, "lastTimestamp": last, "count": 4, "eventTime": null }),
                json!([first, last, 4]),
            ),
            (json!({}), json!([null, null, null])),
        ] {
            let mut event = json!({ "metadata": {}, "involvedObject": {}, "reason": "FailedScheduling" });
            event.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let shown = show(serde_json::from_value(event).unwrap());
            assert_eq!(shown["reason"], "FailedScheduling");
            assert_eq!(json!([shown["first_seen"], shown["last_seen"], shown["count"]]), expected, "{fields}");
        }
    }
}
