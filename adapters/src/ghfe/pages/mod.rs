//! `/usage` and `/history`, for people and for programs.

mod html;
mod links;

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};
use engine::{
    facts::{Job, StoreError, Worker},
    ids::Time,
};
use html::stamp;
use links::{Links, Params, Range};
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::Ghfe;
use crate::ports::{HistoryPage, Usage};

/// Pages run no script and load nothing from elsewhere.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    accept.contains("application/json") && !accept.contains("text/html")
}

/// Active jobs and workers; a store that does not give them is told of as of any other call to it.
async fn read_usage(ghfe: &Ghfe) -> Result<Usage, StoreError> {
    let usage = ghfe.store.usage().await;
    ghfe.ingest.notices().store_once("read for /usage", &usage);
    usage
}

fn later(why: &'static str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], why).into_response()
}

fn unavailable() -> Response {
    later("the store cannot be read now; try again shortly\n")
}

fn crowded() -> Response {
    later("too many pages are being read now; try again shortly\n")
}

/// An answer that keeps its reader's place until it is sent: what clients are slow to take is bounded, too.
async fn held(place: OwnedSemaphorePermit, response: Response) -> Response {
    struct Held(Bytes, #[expect(dead_code, reason = "held for as long as the bytes are")] OwnedSemaphorePermit);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let (parts, body) = response.into_parts();
    match axum::body::to_bytes(body, usize::MAX).await {
        Ok(bytes) => Response::from_parts(parts, Body::from(Bytes::from_owner(Held(bytes, place)))),
        Err(_) => unavailable(),
    }
}

fn html(status: StatusCode, page: String) -> Response {
    let mut response = (status, Html(page)).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

pub(super) async fn usage(State(ghfe): State<Ghfe>, headers: HeaderMap) -> Response {
    if wants_json(&headers) {
        return usage_json(State(ghfe)).await;
    }
    let Some(place) = ghfe.readers.page().await else { return crowded() };
    let now = (ghfe.clock)();
    match read_usage(&ghfe).await {
        Ok(usage) => {
            let page = html::page("Usage", now, Some("/usage.json"), &html::usage(&usage, now));
            held(place, html(StatusCode::OK, page)).await
        }
        Err(_) => unavailable(),
    }
}

pub(super) async fn usage_json(State(ghfe): State<Ghfe>) -> Response {
    let Some(place) = ghfe.readers.page().await else { return crowded() };
    match read_usage(&ghfe).await {
        Ok(usage) => {
            let jobs: Vec<Value> = usage.jobs.iter().map(job_json).collect();
            let workers: Vec<Value> = usage.workers.iter().map(worker_json).collect();
            held(place, Json(json!({ "jobs": jobs, "workers": workers })).into_response()).await
        }
        Err(_) => unavailable(),
    }
}

fn stamp_or_null(at: Option<Time>) -> Value {
    at.map_or(Value::Null, |at| json!(stamp(at)))
}

fn job_json(job: &Job) -> Value {
    json!({
        "job_id": job.id.0, "status": job.status.as_str(), "entity_id": job.entity.0, "entity_name": &*job.entity_name,
        "entity_type": job.entity_type.as_str(), "owner_id": job.owner.0, "repo_full_name": &*job.repo,
        "installation_id": job.installation.0, "job_labels": job.labels.iter().collect::<Vec<_>>(),
        "k8s_pool": job.pool.as_str(), "k8s_image": job.image.as_str(), "html_url": job.html_url.as_deref(),
        "created_at": stamp(job.created_at), "started_at": stamp_or_null(job.assignment.as_ref().map(|it| it.started_at)),
        "runner_name": job.assignment.as_ref().map(|it| &*it.runner), "completed_at": stamp_or_null(job.completed_at),
        "failure": job.failure.map(engine::decision::JobFailure::as_str),
    })
}

fn worker_json(worker: &Worker) -> Value {
    json!({
        "pod_name": worker.name.as_str(), "status": worker.status.as_str(), "entity_id": worker.entity.0,
        "entity_name": &*worker.entity_name, "entity_type": worker.entity_type.as_str(), "owner_id": worker.owner.0,
        "repo_full_name": worker.repo.as_deref(), "job_labels": worker.labels.iter().collect::<Vec<_>>(),
        "k8s_pool": worker.pool.as_str(), "k8s_image": worker.image.as_str(),
        "k8s_node": worker.node.as_ref().map(engine::ids::NodeName::as_str), "created_at": stamp(worker.created_at),
        "running_at": stamp_or_null(worker.running_at), "completed_at": stamp_or_null(worker.completed_at),
    })
}

/// The page that is asked for, or the answer that says why there is none.
async fn read(
    ghfe: &Ghfe,
    params: Result<Query<Params>, QueryRejection>,
    refuse: impl Fn(&str) -> Response,
) -> Result<(Range, HistoryPage), Response> {
    let Query(params) =
        params.map_err(|_| refuse("the query cannot be read: give start, end, page and per_page once at most"))?;
    let range = params.read((ghfe.clock)()).map_err(|message| refuse(&message))?;
    let page = ghfe.store.history(range.query).await;
    ghfe.ingest.notices().store_once("read for /history", &page);
    Ok((range, page.map_err(|_| unavailable())?))
}

pub(super) async fn history(
    State(ghfe): State<Ghfe>,
    headers: HeaderMap,
    params: Result<Query<Params>, QueryRejection>,
) -> Response {
    if wants_json(&headers) {
        return history_json(State(ghfe), params).await;
    }
    let Some(place) = ghfe.readers.page().await else { return crowded() };
    let now = (ghfe.clock)();
    let refuse = |message: &str| html(StatusCode::BAD_REQUEST, html::mistake("History", now, message));
    match read(&ghfe, params, refuse).await {
        Ok((range, page)) => {
            let links = Links::new(&range, page.total, "/history");
            let json =
                format!("/history.json?page={}&per_page={}{}", range.query.page, range.query.per_page, range.days());
            let content = html::history(&page, &range, &links, now);
            held(place, html(StatusCode::OK, html::page("History", now, Some(&json), &content))).await
        }
        Err(response) => response,
    }
}

pub(super) async fn history_json(State(ghfe): State<Ghfe>, params: Result<Query<Params>, QueryRejection>) -> Response {
    let Some(place) = ghfe.readers.page().await else { return crowded() };
    let refuse = |message: &str| (StatusCode::BAD_REQUEST, format!("{message}\n")).into_response();
    let (range, page) = match read(&ghfe, params, refuse).await {
        Ok(read) => read,
        Err(response) => return response,
    };
    let query = range.query;
    let jobs: Vec<Value> = page.jobs.iter().map(job_json).collect();
    let base = format!("{}/history.json", ghfe.public_url.as_deref().unwrap_or("").trim_end_matches('/'));
    let links = Links::new(&range, page.total, &base);
    let link: Vec<String> = links.all.iter().map(|(rel, url)| format!("<{url}>; rel=\"{rel}\"")).collect();
    let body = json!({ "jobs": jobs, "total": page.total, "page": query.page, "per_page": query.per_page });
    let mut response = Json(body).into_response();
    if let Ok(value) = HeaderValue::from_str(&link.join(", ")) {
        response.headers_mut().insert(header::LINK, value);
    }
    held(place, response).await
}
