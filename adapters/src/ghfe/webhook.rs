//! `POST /`: one delivery, from its signature to its answer.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{
        HeaderMap, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use engine::{
    facts::{Job, StoreError},
    ids::{InstallationId, Time},
    intake::{self, Intake},
};
use http_body::Body as _;
use http_body_util::BodyExt;
use serde::de::IgnoredAny;
use tokio::time::timeout;

use super::{
    Ghfe,
    body::{InstallationBody, JobBody},
    room::Place,
};
use crate::ingest::IngestError;

/// GitHub's own limit for a webhook's body.
const BODY_LIMIT: usize = 25 << 20;
/// A body that has not arrived by then cannot be answered within GitHub's 10 s.
const BODY_TIME: Duration = Duration::from_secs(10);

/// GitHub gives a delivery 10 s; the store must have answered before that.
const STORE_LIMIT: Duration = Duration::from_secs(8);
/// When to deliver again, for those who ask; GitHub itself does not, and the scheduler has it repeat.
const RETRY_SECONDS: &str = "30";

type Answer = Result<(StatusCode, String), Response>;

fn refuse(status: StatusCode, message: impl Into<String>) -> Response {
    let mut message = message.into();
    message.push('\n');
    (status, message).into_response()
}

pub(super) fn away(message: &str) -> Response {
    let mut response = refuse(StatusCode::SERVICE_UNAVAILABLE, message);
    response.headers_mut().insert(RETRY_AFTER, axum::http::HeaderValue::from_static(RETRY_SECONDS));
    response
}

pub(super) async fn receive(State(ghfe): State<Ghfe>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let headers = parts.headers;
    let response = match judge(&ghfe, &headers, body).await {
        Ok((status, message)) => (status, message).into_response(),
        Err(response) => response,
    };
    let delivery = headers.get("x-github-delivery").and_then(|guid| guid.to_str().ok()).unwrap_or("-");
    tracing::info!(delivery, status = response.status().as_u16(), "delivery answered");
    response
}

/// The whole body, within its limits of size and time, in its place.
async fn read(body: Body, place: &mut Place) -> Result<Bytes, Response> {
    match timeout(BODY_TIME, collect(body, place)).await {
        Ok(whole) => whole,
        Err(_) => Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 10 s")),
    }
}

async fn collect(mut body: Body, place: &mut Place) -> Result<Bytes, Response> {
    let announced = body.size_hint().lower();
    if announced > BODY_LIMIT as u64 {
        return Err(too_large(body));
    }
    // Memory that is not written to yet takes none.
    let mut whole = Vec::with_capacity(announced as usize);
    let (mut length, mut shed) = (0, false);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| refuse(StatusCode::BAD_REQUEST, "the body did not arrive whole"))?;
        let Ok(data) = frame.into_data() else { continue };
        length += data.len();
        if length > BODY_LIMIT {
            return Err(too_large(body));
        }
        // What there is no room for is read to its end all the same.
        if shed {
            continue;
        }
        if place.take(data.len()) {
            whole.extend_from_slice(&data);
        } else {
            shed = true;
            whole = Vec::new();
            place.clear();
        }
    }
    if shed {
        return Err(away("too many deliveries are being read; deliver again later"));
    }
    Ok(Bytes::from(whole))
}

fn too_large(rest: Body) -> Response {
    discard(rest);
    refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 25 MB, GitHub's own limit")
}

/// Reads what is left of a body that is refused already, and keeps nothing of it: many clients look for an answer only when
/// they have sent everything, and find a connection that broke off instead of it.
pub(super) fn discard(mut body: Body) {
    tokio::spawn(timeout(BODY_TIME, async move { while let Some(Ok(_)) = body.frame().await {} }));
}

/// A header's text, or what it lacks.
fn header<'a>(headers: &'a HeaderMap, key: &str, name: &str) -> Result<&'a str, String> {
    let lacks = |what: &str| format!("the header {name} {what}");
    let value = headers.get(key).filter(|value| !value.is_empty()).ok_or_else(|| lacks("is missing"))?;
    value.to_str().map_err(|_| lacks("holds characters that it cannot have"))
}

async fn judge(ghfe: &Ghfe, headers: &HeaderMap, body: Body) -> Answer {
    let received = (ghfe.clock)();
    let named = header(headers, "x-github-event", "X-GitHub-Event")
        .and_then(|event| Ok((event, header(headers, "x-hub-signature-256", "X-Hub-Signature-256")?)));
    let (event, signature) = match named {
        Ok(named) => named,
        Err(message) => {
            discard(body);
            return Err(refuse(StatusCode::BAD_REQUEST, message));
        }
    };
    let mut place = ghfe.room.place();
    let body = read(body, &mut place).await?;
    if !ghfe.verifier.is_valid(&body, signature) {
        return Err(refuse(StatusCode::UNAUTHORIZED, "the signature does not fit the body: check the webhook secret"));
    }
    let text = utf8(&body)?;
    let answer = match event {
        "ping" => parse(headers, text).map(|IgnoredAny| (StatusCode::OK, "pong".to_owned())),
        "workflow_job" => workflow_job(ghfe, headers, &body, text, received).await,
        "installation" => installation(ghfe, headers, text, received).await,
        other => parse(headers, text).map(|IgnoredAny| {
            (StatusCode::OK, format!("ignored: {} is not an event this service records", other.escape_default()))
        }),
    }?;
    if let Some(capture) = &ghfe.capture {
        capture.append(event, headers, text, received);
    }
    Ok(answer)
}

/// A body as text: all of it, for what is not read is captured all the same.
// The error is the answer itself, made once a request.
#[allow(clippy::result_large_err)]
fn utf8(body: &[u8]) -> Result<&str, Response> {
    std::str::from_utf8(body).map_err(|error| {
        let message = format!("the body is not JSON: it is not text in UTF-8, at byte {}", error.valid_up_to() + 1);
        refuse(StatusCode::BAD_REQUEST, message)
    })
}

// The error is the answer itself, made once a request.
#[allow(clippy::result_large_err)]
fn parse<'a, T: serde::Deserialize<'a>>(headers: &HeaderMap, body: &'a str) -> Result<T, Response> {
    serde_json::from_str(body).map_err(|error| {
        let form = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-www-form-urlencoded");
        let (kind, words) = (error.is_data(), error.to_string());
        // The parser tells some kinds of mistake by its words alone; it names none but fields that are read.
        let twice = words.strip_prefix("duplicate field `").and_then(|rest| rest.split('`').next());
        let halved = ["lone leading surrogate", "unexpected end of hex escape"];
        let what = match (kind, twice) {
            (true, Some(field)) => &format!("{field} is there twice"),
            (true, None) => &format!("{} has a wrong type or value", wrong_field::<T>(body)),
            // JSON knows no largest number.
            (false, _) if words.starts_with("number out of range") => "a number is out of range",
            (false, _) if halved.iter().any(|halved| words.starts_with(halved)) => "a text holds half a character",
            (false, _) if form => "the body is not JSON: set the webhook's content type to application/json",
            (false, _) => "the body is not JSON",
        };
        let message = format!("{what}, at line {} column {}", error.line(), error.column());
        refuse(StatusCode::BAD_REQUEST, message)
    })
}

/// The field at which reading fails; by the names that are read alone, never by what the body says.
fn wrong_field<'a, T: serde::Deserialize<'a>>(body: &'a str) -> String {
    let read = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(body));
    let path = read.err().map(|error| error.path().to_string()).filter(|path| path != ".");
    path.unwrap_or_else(|| "a field".to_owned())
}

async fn workflow_job(ghfe: &Ghfe, headers: &HeaderMap, body: &Bytes, text: &str, received: Time) -> Answer {
    let parsed: JobBody<'_> = parse(headers, text)?;
    if let (Some(proxy), Some((owner, repo))) = (&ghfe.proxy, parsed.whose())
        && ghfe.policy.is_staging(engine::ids::OwnerId(owner), repo)
    {
        let (status, text) = proxy.forward(headers, body.clone()).await.map_err(|error| {
            tracing::warn!(%error, "staging did not take a delivery");
            refuse(StatusCode::BAD_GATEWAY, "staging did not take the delivery")
        })?;
        let answer = (status, text);
        return if status.is_success() { Ok(answer) } else { Err(answer.into_response()) };
    }
    let facts = parsed.as_facts();
    match intake::read(&facts, &ghfe.policy, received) {
        Err(rejected) => Err(refuse(StatusCode::BAD_REQUEST, rejected.to_string())),
        Ok(Intake::Ignore(why)) => Ok((StatusCode::OK, why.to_string())),
        Ok(Intake::Record(job)) => record(ghfe, job).await,
    }
}

/// 2xx only once the row is committed.
async fn record(ghfe: &Ghfe, job: Job) -> Answer {
    let (id, status) = (job.id, job.status);
    match timeout(STORE_LIMIT, ghfe.ingest.record(job)).await {
        Ok(Ok(())) => {
            tracing::debug!(job = %id, status = status.as_str(), "recorded");
            Ok((StatusCode::OK, "recorded".to_owned()))
        }
        Ok(Err(error)) => {
            // A store that is away is told of once, and each delivery by its answer.
            Err(match error {
                IngestError::Full | IngestError::Store(_) => {
                    tracing::debug!(job = %id, ?error, "not recorded");
                    away(&error.to_string())
                }
                IngestError::Unstorable(_) => {
                    tracing::error!(job = %id, ?error, "not recorded");
                    refuse(StatusCode::BAD_REQUEST, error.to_string())
                }
            })
        }
        Err(_) => {
            tracing::debug!(job = %id, "not recorded in time");
            Err(away("the store did not answer in time; deliver again later"))
        }
    }
}

async fn installation(ghfe: &Ghfe, headers: &HeaderMap, text: &str, received: Time) -> Answer {
    let parsed: InstallationBody<'_> = parse(headers, text)?;
    let Some(failure) = intake::installation(parsed.action.as_deref().unwrap_or("")) else {
        return Ok((StatusCode::OK, "ignored: only deleted ends jobs".to_owned()));
    };
    let id =
        parsed.id().ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "installation.id is missing or not positive"))?;
    let failing = ghfe.store.fail_installation(InstallationId(id), failure, received);
    let failed = timeout(STORE_LIMIT, failing).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable { message: format!("no answer within {} s", STORE_LIMIT.as_secs()) })
    });
    // It is delivered again, or found out by calls: whatever else works shows that this would.
    ghfe.ingest.notices().store_once("record an installation's end", &failed);
    match failed {
        Ok(jobs) => {
            tracing::info!(installation = id, jobs = jobs.len(), %failure, "failed an installation's pending jobs");
            Ok((StatusCode::OK, format!("{} pending jobs failed: {failure}", jobs.len())))
        }
        Err(error) => {
            tracing::debug!(installation = id, ?error, "an installation's end was not recorded");
            Err(away("the store cannot take the delivery now; deliver again later"))
        }
    }
}
