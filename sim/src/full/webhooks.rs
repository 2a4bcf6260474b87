//! GitHub sends what happens to the replicas of ghfe: once each, in any order, and with whatever goes wrong.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use engine::{facts::Status, ids::Time};
use http_body_util::{BodyExt, Full};
use serde::Deserialize;
use serde_json::Value;
use simulation::{
    github::wrong_installation,
    register::{Fault, Rare},
};
use tokio::time::{sleep, timeout};

use super::{
    judge,
    net::Dial,
    register::More,
    world::{Node, World},
};
use crate::{
    credentials::{WEBHOOK_SECRET, signature},
    world::github::Outgoing,
};

/// GitHub gives a delivery this long.
const LIMIT: Duration = Duration::from_secs(10);
const HOUR: i64 = 3_600_000;

/// Sends everything, for ever.
pub async fn send(world: Arc<World>) {
    let mut bell = world.github.bell();
    loop {
        for outgoing in world.github.take_outbox() {
            tokio::spawn(deliver(world.clone(), outgoing));
        }
        if bell.changed().await.is_err() {
            return;
        }
    }
}

async fn deliver(world: Arc<World>, outgoing: Outgoing) {
    let mut wait = world.span(20, 800);
    if world.strikes(Fault::WebhookReordered) {
        wait += world.span(1_000, 60_000);
    }
    if world.strikes(Fault::WebhookHoursLate) {
        wait += world.span(HOUR / 2, 2 * HOUR);
    }
    let again = world.github.peek(|github| github.log.iter().rev().any(|it| it.id == outgoing.id && it.redelivery));
    let body = if again { outgoing.body.clone() } else { edited(&world, &outgoing) };
    let outgoing = Arc::new(Outgoing { body, ..outgoing });
    if world.strikes(Fault::WebhookDuplicated) {
        let (world, outgoing) = (world.clone(), outgoing.clone());
        let later = wait + world.span(0, 20_000);
        tokio::spawn(async move {
            sleep(later).await;
            attempt(&world, &outgoing).await;
        });
    }
    sleep(wait).await;
    let status = attempt(&world, &outgoing).await;
    if again && status == Some(200) {
        world.rare(Rare::Redelivered);
    }
    world.github.delivered(outgoing.id, status);
    if status == Some(200) {
        judge::delivered(&world);
    }
}

/// The body as it is sent, now and whenever it is repeated: some lack their installation, or name an old one.
fn edited(world: &World, outgoing: &Outgoing) -> String {
    if outgoing.event != "workflow_job" {
        return outgoing.body.clone();
    }
    let (none, old) = (world.strikes(Fault::WebhookNoInstallation), world.strikes(Fault::WebhookOldInstallation));
    if !none && !old {
        return outgoing.body.clone();
    }
    let mut body: Value = serde_json::from_str(&outgoing.body).unwrap_or_default();
    if none {
        if let Some(map) = body.as_object_mut() {
            map.remove("installation");
        }
    } else if let Some(id) = body.pointer_mut("/installation/id") {
        *id = Value::from(wrong_installation(id.as_i64().unwrap_or(1), job_of(&outgoing.body).unwrap_or(0)));
    }
    let body = body.to_string();
    world.github.garble(outgoing.id, body.clone(), !none);
    body
}

/// One attempt; the answer's status, if there is one.
async fn attempt(world: &Arc<World>, outgoing: &Outgoing) -> Option<u16> {
    if world.strikes(Fault::WebhookFailed) {
        sleep(LIMIT).await;
        return None;
    }
    let replica = world.between(0, world.plan.ghfe as i64 - 1) as u8;
    let mut body = outgoing.body.clone();
    let mut signed = signature(WEBHOOK_SECRET, body.as_bytes());
    if world.strikes(Fault::WebhookBadSignature) {
        signed = signature("another secret", body.as_bytes());
    } else if world.strikes(Fault::WebhookTruncated) {
        body.truncate(body.len() / 2);
        signed = signature(WEBHOOK_SECRET, body.as_bytes());
    }
    let request = http::Request::post("/")
        .header("content-type", "application/json")
        .header("user-agent", "GitHub-Hookshot/model")
        .header("x-github-event", outgoing.event)
        .header("x-github-delivery", &outgoing.guid)
        .header("x-github-hook-id", "1")
        .header("x-hub-signature-256", signed)
        .body(Full::new(Bytes::from(body)))
        .ok()?;
    let dial = Dial { world: world.clone(), from: Node::GitHub, to: Node::Ghfe(replica) };
    let exchange = async {
        let response = dial.send(request).await.ok()?;
        let status = response.status().as_u16();
        response.into_body().collect().await.ok()?;
        Some(status)
    };
    let status = timeout(LIMIT, exchange).await.ok().flatten();
    let about = job_of(&outgoing.body);
    world.note("deliver", outgoing.id, status.map_or(0, i64::from), || {
        format!("{} of job {about:?} to ghfe-{replica}: {status:?}", action(&outgoing.body))
    });
    match status {
        Some(503) => world.more(More::Answered503),
        Some(200..300) => {
            if let Some((job, told)) = told(&outgoing.body) {
                judge::accepted(world, job, told);
            }
        }
        Some(_) | None => {}
    }
    status
}

#[derive(Deserialize)]
struct About {
    action: String,
    workflow_job: Option<Id>,
}

#[derive(Deserialize)]
struct Id {
    id: i64,
}

/// What a delivery of a job says of it.
fn told(body: &str) -> Option<(i64, judge::Told)> {
    let body: Value = serde_json::from_str(body).ok()?;
    let status = match body["action"].as_str()? {
        "queued" => Status::Pending,
        "in_progress" => Status::Running,
        "completed" => Status::Completed,
        _ => return None,
    };
    let job = &body["workflow_job"];
    let time = |at: &Value| Some(Time(at.as_str()?.parse::<jiff::Timestamp>().ok()?.as_millisecond()));
    let ran = job["runner_name"].as_str().is_some_and(|name| !name.is_empty());
    let started = time(&job["started_at"]).filter(|_| ran && status != Status::Pending);
    let ended = time(&job["completed_at"]).filter(|_| status == Status::Completed);
    let installation = body["installation"]["id"].as_i64().unwrap_or(0);
    let name = |at: &str| body.pointer(at).and_then(Value::as_str).map(str::to_owned);
    let owner = name("/organization/login").or_else(|| name("/repository/owner/login"));
    let named = (name("/repository/full_name")?, owner?);
    Some((job["id"].as_i64()?, judge::Told { status, installation, started, ended, named }))
}

fn job_of(body: &str) -> Option<i64> {
    serde_json::from_str::<About>(body).ok()?.workflow_job.map(|job| job.id)
}

fn action(body: &str) -> String {
    serde_json::from_str::<About>(body).map_or_else(|_| "?".to_owned(), |about| about.action)
}
