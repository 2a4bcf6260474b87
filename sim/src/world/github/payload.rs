//! Webhook bodies: real ones, filled with this world's values.

use engine::ids::Time;
use serde_json::{Value, json};

use super::{Account, AccountKind, Job, JobState, Repo};

const QUEUED: &str = include_str!("../../../fixtures/webhooks/workflow_job.queued-organization.json");
const IN_PROGRESS: &str = include_str!("../../../fixtures/webhooks/workflow_job.in_progress-organization.json");
const COMPLETED: &str = include_str!("../../../fixtures/webhooks/workflow_job.completed-organization.json");
const INSTALLATION: &str = include_str!("../../../fixtures/webhooks/installation.deleted.json");

/// RFC 3339 with seconds, as GitHub writes times.
pub(crate) fn stamp(at: Time) -> String {
    let seconds = at.0.div_euclid(1000);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::from("1970-01-01T00:00:00Z"), |at| at.to_string())
}

pub(crate) fn kind_word(kind: AccountKind) -> &'static str {
    match kind {
        AccountKind::Organization => "Organization",
        AccountKind::User => "User",
    }
}

fn template(text: &str) -> Value {
    serde_json::from_str(text).expect("the fixtures are JSON: a test reads each")
}

pub(super) fn workflow_job(job: &Job, repo: &Repo, account: &Account, action: &str) -> String {
    let mut body = template(match action {
        "in_progress" => IN_PROGRESS,
        "completed" => COMPLETED,
        _ => QUEUED,
    });
    body["action"] = json!(action);
    fill_job(&mut body["workflow_job"], job, repo);
    body["repository"]["id"] = json!(repo.id);
    body["repository"]["full_name"] = json!(repo.full_name);
    body["repository"]["name"] = json!(repo.full_name.rsplit('/').next());
    let owner = &mut body["repository"]["owner"];
    owner["id"] = json!(account.id);
    owner["login"] = json!(account.login);
    owner["type"] = json!(kind_word(account.kind));
    if let Some(map) = body.as_object_mut() {
        if account.kind == AccountKind::User {
            map.remove("organization");
        } else {
            map.insert("organization".into(), json!({ "login": account.login, "id": account.id }));
        }
        map.insert(
            "installation".into(),
            json!({ "id": account.installation, "node_id": "MDIzOkludGVncmF0aW9uSW5zdGFsbGF0aW9uMQ==" }),
        );
    }
    body.to_string()
}

/// The REST API's and the webhooks' shared part of a job.
pub(crate) fn fill_job(out: &mut Value, job: &Job, repo: &Repo) {
    let (status, conclusion) = match job.state {
        JobState::Waiting => ("waiting", Value::Null),
        JobState::Queued => ("queued", Value::Null),
        JobState::InProgress => ("in_progress", Value::Null),
        JobState::Completed(conclusion) => ("completed", json!(conclusion)),
    };
    out["id"] = json!(job.id);
    out["html_url"] =
        json!(format!("https://github.com/{}/actions/runs/{}/job/{}", repo.full_name, job.id / 10, job.id));
    out["status"] = json!(status);
    out["conclusion"] = conclusion;
    out["labels"] = json!(job.labels);
    out["created_at"] = json!(stamp(job.created));
    out["started_at"] = json!(stamp(job.started.unwrap_or(job.created)));
    out["completed_at"] = job.ended.map_or(Value::Null, |at| json!(stamp(at)));
    out["runner_id"] = job.runner.as_ref().map_or(Value::Null, |(id, _)| json!(id));
    out["runner_name"] = job.runner.as_ref().map_or(Value::Null, |(_, name)| json!(name));
    out["runner_group_id"] = Value::Null;
    out["runner_group_name"] = Value::Null;
}

pub(super) fn installation(account: &Account, action: &str) -> String {
    let mut body = template(INSTALLATION);
    body["action"] = json!(action);
    fill_installation(&mut body["installation"], account);
    body.to_string()
}

/// The REST API's account of an installation: times are texts there, and some more is told.
pub(crate) fn installation_of(account: &Account, now: Time) -> Value {
    let mut body = template(INSTALLATION)["installation"].take();
    fill_installation(&mut body, account);
    body["app_slug"] = json!("riscv-runners");
    (body["created_at"], body["updated_at"]) = (json!(stamp(now)), json!(stamp(now)));
    (body["suspended_by"], body["suspended_at"]) = (Value::Null, Value::Null);
    body
}

fn fill_installation(out: &mut Value, account: &Account) {
    out["id"] = json!(account.installation);
    out["account"]["id"] = json!(account.id);
    out["account"]["login"] = json!(account.login);
}
