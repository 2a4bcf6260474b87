//! Captures: of which jobs their deliveries tell.

use std::collections::{BTreeMap, btree_map::Entry};

use engine::labels::LabelSet;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::run::{MINUTE, SECOND};

/// A job whose end is not in the capture runs this long.
const UNKNOWN: i64 = 2 * MINUTE;

/// One job of a capture. Milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// GitHub's id.
    pub id: i64,
    /// The owner's id.
    pub owner: i64,
    /// Whether that is a person.
    pub user: bool,
    /// The repository, `owner/name`.
    pub repo: String,
    /// The installation's id.
    pub installation: i64,
    /// What it asks for.
    pub labels: LabelSet,
    /// When it was queued, milliseconds since 1970.
    pub queued: i64,
    /// How long it ran.
    pub runs: i64,
    /// It was cancelled this long after it was queued, before it ran.
    pub cancelled: Option<i64>,
}

/// What a capture tells of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its jobs, by when they were queued.
    pub jobs: Vec<Played>,
    /// How many of its deliveries are not played, by why not.
    pub left_out: BTreeMap<&'static str, usize>,
}

impl Told {
    fn leaves_out(&mut self, why: &'static str) {
        *self.left_out.entry(why).or_default() += 1;
    }
}

/// Reads a capture: its jobs, by when they were queued.
///
/// # Errors
/// As [`read_all`].
pub fn read(text: &str) -> Result<Vec<Played>, String> {
    read_all(text).map(|told| told.jobs)
}

/// Reads a capture: its jobs, and what there is beside them. ghfe takes in, and so captures, bodies of which it reads next to
/// nothing; what is not played is not looked into here either, as in `sim/src/capture.rs`.
///
/// # Errors
/// Which delivery cannot be understood, counted from 1, and why; or that there is no job in it.
pub fn read_all(text: &str) -> Result<Told, String> {
    let mut deliveries: Vec<&RawValue> = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let next = deliveries.len() + 1;
        let value = value.map_err(|error| format!("delivery {next}: {error}"))?;
        if value.get().starts_with('[') {
            let values: Vec<&RawValue> =
                serde_json::from_str(value.get()).map_err(|error| format!("delivery {next}: {error}"))?;
            deliveries.extend(values);
        } else {
            deliveries.push(value);
        }
    }
    let mut told = Told::default();
    let mut jobs: BTreeMap<i64, Played> = BTreeMap::new();
    let mut ends = Vec::new();
    for (i, delivery) in deliveries.into_iter().enumerate() {
        let wrong = |what: &str| format!("delivery {}: {what}", i + 1);
        let (body, event, at) = parts(delivery).map_err(|what| wrong(&what))?;
        if event != "workflow_job" {
            told.leaves_out("of events other than workflow_job");
            continue;
        }
        let head: Head = serde_json::from_str(body).map_err(|error| wrong(&error.to_string()))?;
        let action = head.action.unwrap_or_default();
        if !matches!(&*action, "queued" | "completed") {
            told.leaves_out("of actions other than queued and completed");
            continue;
        }
        let body: Value = serde_json::from_str(body).map_err(|error| wrong(&error.to_string()))?;
        let id = body.pointer("/workflow_job/id").and_then(Value::as_i64).filter(|id| *id > 0);
        let id = id.ok_or_else(|| wrong("workflow_job.id is missing or not positive"))?;
        if action == "completed" {
            ends.push((id, body, at));
            continue;
        }
        match jobs.entry(id) {
            Entry::Vacant(free) => {
                free.insert(queued(id, &body, at).map_err(|what| wrong(&what))?);
            }
            Entry::Occupied(_) => told.leaves_out("of jobs that were queued before"),
        }
    }
    for (id, body, at) in ends {
        let Some(played) = jobs.get_mut(&id) else {
            told.leaves_out("of jobs of which no delivery says that they were queued");
            continue;
        };
        let job = &body["workflow_job"];
        let ran = job["runner_name"].as_str().is_some_and(|name| !name.is_empty());
        match (ran, time(&job["started_at"]), time(&job["completed_at"])) {
            (true, Some(from), Some(to)) => played.runs = (to - from).max(SECOND),
            (true, ..) => {}
            (false, _, to) => played.cancelled = Some((to.unwrap_or(at) - played.queued).max(0)),
        }
    }
    told.jobs = jobs.into_values().collect();
    told.jobs.sort_by_key(|job| (job.queued, job.id));
    if told.jobs.is_empty() {
        return Err(String::from("the capture holds no queued workflow_job delivery"));
    }
    Ok(told)
}

/// Jobs as a capture in the form of `CAPTURE`, with the fields that [`read`] reads, which reads it as the same jobs.
pub fn write(jobs: &[Played]) -> String {
    let mut lines: Vec<(i64, String)> = Vec::new();
    for job in jobs {
        let kind = if job.user { "User" } else { "Organization" };
        let labels: Vec<&str> = job.labels.iter().collect();
        let queued = json!({
            "action": "queued", "installation": { "id": job.installation },
            "repository": { "full_name": job.repo, "owner": { "id": job.owner, "type": kind } },
            "workflow_job": { "id": job.id, "labels": labels },
        });
        // That it began to run when it was queued is told of nobody: how long it ran is.
        let over = job.queued + job.cancelled.unwrap_or(job.runs);
        let completed = match job.cancelled {
            Some(_) => json!({ "id": job.id, "completed_at": stamp(over) }),
            None => json!({
                "id": job.id, "runner_name": "a", "started_at": stamp(job.queued), "completed_at": stamp(over),
            }),
        };
        let completed = json!({ "action": "completed", "workflow_job": completed });
        for (at, body) in [(job.queued, queued), (over, completed)] {
            let headers = json!({ "x-github-event": "workflow_job" });
            lines.push((at, json!({ "at": stamp(at), "headers": headers, "body": body }).to_string()));
        }
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line + "\n").collect()
}

fn stamp(time: i64) -> String {
    jiff::Timestamp::from_millisecond(time).map_or_else(|_| String::new(), |at| at.to_string())
}

/// A delivery in either form, with nothing looked into yet.
#[derive(Deserialize)]
struct Delivery<'a> {
    #[serde(borrow)]
    at: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    delivered_at: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Headers {
    #[serde(rename = "x-github-event")]
    event: Option<String>,
}

#[derive(Deserialize)]
struct Head {
    action: Option<String>,
}

/// What a part holds, if it is of that kind.
fn part<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

/// A delivery's body, event and time, in either form.
fn parts(delivery: &RawValue) -> Result<(&str, String, i64), String> {
    let neither = "it has neither request.payload (GitHub's log) nor at, headers and body (CAPTURE)";
    let it: Delivery<'_> = serde_json::from_str(delivery.get()).map_err(|_| neither)?;
    let at = |raw| part(raw).and_then(|text: Value| time(&text));
    if let Some(payload) = part(it.request).and_then(|request: Request<'_>| request.payload) {
        let at = at(it.delivered_at).ok_or("delivered_at is no time")?;
        return Ok((payload.get(), part(it.event).ok_or("event is missing")?, at));
    }
    let at = at(it.at).ok_or(neither)?;
    let event = part(it.headers).and_then(|headers: Headers| headers.event).unwrap_or_default();
    Ok((it.body.map_or("null", RawValue::get), event, at))
}

fn time(value: &Value) -> Option<i64> {
    Some(value.as_str()?.parse::<jiff::Timestamp>().ok()?.as_millisecond())
}

fn queued(id: i64, body: &Value, at: i64) -> Result<Played, String> {
    let missing = |what: &str| format!("{what} is missing");
    let owner = body.pointer("/repository/owner").ok_or_else(|| missing("repository.owner"))?;
    // As ghfe reads them: null is none.
    let labels = body.pointer("/workflow_job/labels").and_then(Value::as_array);
    let repo = body.pointer("/repository/full_name").and_then(Value::as_str);
    let installation = body.pointer("/installation/id").and_then(Value::as_i64);
    Ok(Played {
        id,
        owner: owner["id"].as_i64().ok_or_else(|| missing("repository.owner.id"))?,
        user: owner["type"].as_str() == Some("User"),
        repo: repo.ok_or_else(|| missing("repository.full_name"))?.to_owned(),
        installation: installation.ok_or_else(|| missing("installation.id"))?,
        labels: LabelSet::new(labels.into_iter().flatten().filter_map(Value::as_str)),
        queued: at,
        runs: UNKNOWN,
        cancelled: None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::{
        super::{Setting, replay},
        *,
    };

    /// A line of a capture.
    pub fn delivery(action: &str, id: i64, at: &str, more: Value) -> Value {
        let mut job = json!({ "id": id, "labels": ["ubuntu-24.04-riscv"] });
        if let (Some(job), Value::Object(more)) = (job.as_object_mut(), more) {
            job.extend(more);
        }
        json!({
            "at": at, "headers": { "x-github-event": "workflow_job" },
            "body": {
                "action": action, "workflow_job": job, "installation": { "id": 7 },
                "repository": { "full_name": "acme/app", "owner": { "id": 5, "type": "Organization" } },
            },
        })
    }

    #[test]
    fn both_forms_say_the_same() {
        let queued = delivery("queued", 1, "2026-05-13T15:00:00Z", json!({}));
        let ended =
            json!({ "runner_name": "r", "started_at": "2026-05-13T15:01:00Z", "completed_at": "2026-05-13T15:04:00Z" });
        let completed = delivery("completed", 1, "2026-05-13T15:04:01Z", ended);
        let never = delivery("completed", 2, "2026-05-13T15:00:40Z", json!({ "completed_at": "2026-05-13T15:00:30Z" }));
        let other = delivery("queued", 2, "2026-05-13T15:00:10Z", json!({}));
        let all = [queued, other, never, completed];
        let capture: String = all.iter().map(|it| format!("{it}\n")).collect();
        let log = |it: &Value| json!({ "delivered_at": it["at"], "event": "workflow_job", "request": { "payload": it["body"] } });
        let log = Value::Array(all.iter().map(log).collect()).to_string();
        let jobs = read(&capture).unwrap();
        assert_eq!(jobs, read(&log).unwrap());
        assert_eq!(
            jobs.iter().map(|job| (job.id, job.runs, job.cancelled)).collect::<Vec<_>>(),
            [(1, 180_000, None), (2, UNKNOWN, Some(20_000))]
        );
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let jobs = read(crate::capture::CAPTURE).unwrap();
        assert_eq!(read(&write(&jobs)).unwrap(), jobs);
        assert!(jobs.iter().any(|job| job.cancelled.is_some()) && jobs.iter().any(|job| job.runs % MINUTE != 0));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert_eq!(read("").unwrap_err(), "the capture holds no queued workflow_job delivery");
        assert!(read("{\"at\": 1}").unwrap_err().starts_with("delivery 1: it has neither"));
        assert!(read("{}\nnonsense").unwrap_err().starts_with("delivery 2:"));
        let mut job = delivery("queued", 1, "2026-05-13T15:00:00Z", json!({}));
        job["body"]["installation"] = Value::Null;
        assert_eq!(read(&job.to_string()).unwrap_err(), "delivery 1: installation.id is missing");
        for id in [Value::Null, json!(0)] {
            let mut job = delivery("completed", 1, "2026-05-13T15:00:00Z", json!({}));
            job["body"]["workflow_job"]["id"] = id;
            let what = "delivery 1: workflow_job.id is missing or not positive";
            assert_eq!(read(&job.to_string()).unwrap_err(), what);
        }
    }

    /// ghfe answers 200 to all of these, and captures them.
    #[test]
    fn what_is_not_played_may_be_anything_and_is_counted() {
        let at = "2026-05-13T15:00:00Z";
        let line = |event: &str, body: &str| {
            format!(r#"{{"at":"{at}","headers":{{"x-github-event":"{event}"}},"body":{body}}}"#) + "\n"
        };
        let deep = format!(r#"{{"action":"waiting","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let unlabelled = delivery("queued", 2, at, json!({ "labels": null }));
        let queued = delivery("queued", 1, at, json!({}));
        let text = [
            line("ping", r#"{"zen":1e999}"#),
            line("push", r#"{"ref":"\ud800"}"#),
            line("workflow_job", &deep),
            line("workflow_job", r#"{"action":"waiting","workflow_job":-1}"#),
            line("workflow_job", r#"{"action":"waiting"}"#),
            line("workflow_job", "{}"),
            format!("{unlabelled}\n{queued}\n{queued}\n"),
            delivery("completed", 3, at, json!({})).to_string(),
        ];
        let told = read_all(&text.concat()).unwrap();
        assert_eq!(
            told.jobs.iter().map(|job| (job.id, job.labels.iter().count())).collect::<Vec<_>>(),
            [(1, 1), (2, 0)]
        );
        let left_out: Vec<_> = told.left_out.into_iter().collect();
        let expected = [
            ("of actions other than queued and completed", 4),
            ("of events other than workflow_job", 2),
            ("of jobs of which no delivery says that they were queued", 1),
            ("of jobs that were queued before", 1),
        ];
        assert_eq!(left_out, expected);
        assert_eq!(replay(&told.jobs, &Setting::built_in().unwrap(), 1).ignored, 1);
    }
}
