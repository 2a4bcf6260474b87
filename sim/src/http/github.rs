//! GitHub's REST API over the model: the routes that the service uses.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adapters::ports::Clock;
use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use engine::ids::Time;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::faults::{Faults, layered};
use crate::world::github::{AccountKind, ApiError, GitHub, Quota, Runner, Scope, payload};

/// One App as GitHub knows it.
pub struct RegisteredApp {
    /// Its id.
    pub id: u64,
    /// Which accounts install it.
    pub kind: AccountKind,
    /// Its public key, PKCS#1 DER.
    pub public_key: Vec<u8>,
}

/// The model behind its API.
pub struct GitHubFace {
    model: Mutex<GitHub>,
    clock: Clock,
    apps: Vec<RegisteredApp>,
    sent: watch::Sender<u64>,
    /// What goes wrong, and what was called.
    pub faults: Arc<Faults>,
}

impl GitHubFace {
    /// The two Apps sign in with keys that fit `apps`.
    pub fn new(model: GitHub, clock: Clock, apps: Vec<RegisteredApp>) -> Arc<Self> {
        Arc::new(Self { model: Mutex::new(model), clock, apps, sent: watch::Sender::new(0), faults: Arc::default() })
    }

    /// Looks at the model or changes it, as of now.
    pub fn with<T>(&self, act: impl FnOnce(&mut GitHub, Time) -> T) -> T {
        let now = (self.clock)();
        let out = act(&mut self.lock(), now);
        self.sent.send_modify(|count| *count += 1);
        out
    }

    /// Looks at the model as it is, and rings no bell.
    pub fn peek<T>(&self, look: impl FnOnce(&GitHub) -> T) -> T {
        look(&self.lock())
    }

    /// Deliveries that were made since the last call. Rings no bell.
    pub fn take_outbox(&self) -> Vec<crate::world::github::Outgoing> {
        self.lock().take_outbox()
    }

    /// How a delivery was answered. Rings no bell.
    pub fn delivered(&self, id: i64, status: Option<u16>) {
        let now = (self.clock)();
        self.lock().delivered(id, status, now);
    }

    /// A delivery says something else than it should. Rings no bell.
    pub fn garble(&self, id: i64, body: String, names: bool) {
        self.lock().garble(id, body, names);
    }

    /// Rings whenever there may be deliveries to send.
    pub fn bell(&self) -> watch::Receiver<u64> {
        self.sent.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, GitHub> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Face = Arc<GitHubFace>;

/// The REST API.
pub fn router(face: Face) -> Router {
    let routes = Router::new()
        .route("/app/installations/{id}/access_tokens", post(create_token))
        .route("/app/installations/{id}", get(installation))
        .route("/app/hook/deliveries", get(deliveries))
        .route("/app/hook/deliveries/{id}", get(delivery))
        .route("/app/hook/deliveries/{id}/attempts", post(redeliver))
        .route("/orgs/{org}/actions/runner-groups", get(groups).post(create_group))
        .route("/orgs/{org}/actions/runner-groups/{group}/runners", get(group_runners))
        .route("/orgs/{org}/actions/runners", get(org_runners))
        .route("/orgs/{org}/actions/runners/generate-jitconfig", post(org_jit))
        .route("/orgs/{org}/actions/runners/{id}", axum::routing::delete(delete_org_runner))
        .route("/repos/{owner}/{repo}/actions/runners", get(repo_runners))
        .route("/repos/{owner}/{repo}/actions/runners/generate-jitconfig", post(repo_jit))
        .route("/repos/{owner}/{repo}/actions/runners/{id}", axum::routing::delete(delete_repo_runner))
        .route("/repos/{owner}/{repo}/actions/jobs/{id}", get(job))
        .route("/rate_limit", get(rate_limit))
        .with_state(face.clone());
    layered(routes, face.faults.clone()).layer(axum::middleware::map_response_with_state(face, dated))
}

/// Every answer says what time it is on GitHub.
pub(crate) async fn dated(State(face): State<Arc<GitHubFace>>, mut response: Response) -> Response {
    let now = jiff::Timestamp::from_millisecond((face.clock)().0).unwrap_or_default();
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    if let Ok(date) = HeaderValue::from_str(&date) {
        response.headers_mut().insert("date", date);
    }
    response
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get("authorization")?.to_str().ok()?;
    value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("token "))
}

#[derive(Deserialize)]
struct Claims {
    iat: i64,
    exp: i64,
    iss: Value,
}

/// Which App signed this request. GitHub wants RS256, at most ten minutes, and an issue time that is not in its future.
fn app_of(face: &GitHubFace, headers: &HeaderMap) -> Result<AccountKind, ApiError> {
    let now = (face.clock)().0 / 1000;
    let token = bearer(headers).ok_or(ApiError::BadCredentials)?;
    let mut validation = Validation::new(Algorithm::RS256);
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    for app in &face.apps {
        let key = DecodingKey::from_rsa_der(&app.public_key);
        let Ok(data) = jsonwebtoken::decode::<Claims>(token, &key, &validation) else { continue };
        let issuer = data.claims.iss.as_u64().or_else(|| data.claims.iss.as_str()?.parse().ok());
        let lasts = data.claims.exp - data.claims.iat <= 600 + 60 && data.claims.exp > now && data.claims.iat <= now;
        if issuer == Some(app.id) && lasts && data.claims.exp <= now + 600 {
            return Ok(app.kind);
        }
    }
    Err(ApiError::BadCredentials)
}

fn error(refused: ApiError) -> Response {
    let (status, message) = match refused {
        ApiError::BadCredentials => (401, "Bad credentials"),
        ApiError::NotFound => (404, "Not Found"),
        ApiError::Suspended => (403, "This installation has been suspended"),
        ApiError::NoGroups => (403, "Runner groups are not available for this organization's plan"),
        ApiError::RateLimited(_) => (403, "API rate limit exceeded for installation"),
        ApiError::NameTaken => (409, "Already exists - A runner with the name exists"),
        ApiError::Invalid(message) => (422, message),
        ApiError::RunnerBusy => (422, "Bad request - Runner is currently running a job and cannot be deleted"),
    };
    let body = json!({ "message": message, "documentation_url": "https://docs.github.com/rest", "status": status.to_string() });
    let mut response = (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), Json(body)).into_response();
    if let ApiError::RateLimited(reset_at) = refused {
        let quota = Quota { limit: 5_000, used: 5_000, reset_at };
        add_quota(response.headers_mut(), quota);
    }
    response
}

fn add_quota(headers: &mut HeaderMap, quota: Quota) {
    let mut put = |name: &'static str, value: i64| {
        headers.insert(name, HeaderValue::from(value));
    };
    put("x-ratelimit-limit", i64::from(quota.limit));
    put("x-ratelimit-used", i64::from(quota.used));
    put("x-ratelimit-remaining", i64::from(quota.limit.saturating_sub(quota.used)));
    put("x-ratelimit-reset", (quota.reset_at.0 + 999) / 1000);
    headers.insert("x-ratelimit-resource", HeaderValue::from_static("core"));
}

/// Runs a call of an installation: token, limits, and the limits' headers on the answer.
fn call(
    face: &GitHubFace,
    headers: &HeaderMap,
    act: impl FnOnce(&mut GitHub, i64, Time) -> Result<Response, ApiError>,
) -> Response {
    let Some(token) = bearer(headers) else { return error(ApiError::BadCredentials) };
    face.with(|model, now| {
        model.tick(now);
        let (account, quota) = match model.authorize(token, now) {
            Ok(known) => known,
            Err(refused) => return error(refused),
        };
        let mut response = act(model, account, now).unwrap_or_else(error);
        add_quota(response.headers_mut(), quota);
        response
    })
}

async fn create_token(State(face): State<Face>, Path(id): Path<i64>, headers: HeaderMap) -> Response {
    let kind = match app_of(&face, &headers) {
        Ok(kind) => kind,
        Err(refused) => return error(refused),
    };
    match face.with(|model, now| model.create_token(kind, id, now)) {
        Ok((token, expires)) => {
            let body = json!({
                "token": token, "expires_at": payload::stamp(expires), "repository_selection": "all",
                "permissions": { "actions": "read", "administration": "write", "organization_self_hosted_runners": "write" },
            });
            (StatusCode::CREATED, Json(body)).into_response()
        }
        Err(refused) => error(refused),
    }
}

async fn installation(State(face): State<Face>, Path(id): Path<i64>, headers: HeaderMap) -> Response {
    let kind = match app_of(&face, &headers) {
        Ok(kind) => kind,
        Err(refused) => return error(refused),
    };
    face.with(|model, now| match model.installation(kind, id) {
        Ok(account) => Json(payload::installation_of(account, now)).into_response(),
        Err(refused) => error(refused),
    })
}

#[derive(Deserialize)]
struct CursorQuery {
    per_page: Option<usize>,
    cursor: Option<i64>,
}

async fn deliveries(State(face): State<Face>, Query(query): Query<CursorQuery>, headers: HeaderMap) -> Response {
    let kind = match app_of(&face, &headers) {
        Ok(kind) => kind,
        Err(refused) => return error(refused),
    };
    let per_page = query.per_page.unwrap_or(30).clamp(1, 100);
    face.with(|model, _| {
        let log = model.deliveries(kind);
        let from = query.cursor.map_or(0, |cursor| log.iter().position(|it| it.id == cursor).unwrap_or(log.len()));
        let page: Vec<Value> = log.iter().skip(from).take(per_page).map(|it| delivery_line(it)).collect();
        let next = log.get(from + per_page).map(|it| it.id);
        let mut response = Json(page).into_response();
        if let Some(next) = next {
            let path = address(&headers, "/app/hook/deliveries");
            let link = format!("<{path}?per_page={per_page}&cursor={next}>; rel=\"next\"");
            put_link(response.headers_mut(), &link);
        }
        response
    })
}

fn delivery_line(it: &crate::world::github::Delivery) -> Value {
    let ok = (200..300).contains(&it.status);
    json!({
        "id": it.id, "guid": it.guid, "delivered_at": payload::stamp(it.at), "redelivery": it.redelivery, "duration": 0.1,
        "status": if ok { "OK" } else { "Invalid HTTP Response" }, "status_code": it.status, "event": it.event,
        "action": it.action, "installation_id": it.installation, "repository_id": null, "throttled_at": null,
    })
}

async fn delivery(State(face): State<Face>, Path(id): Path<i64>, headers: HeaderMap) -> Response {
    let kind = match app_of(&face, &headers) {
        Ok(kind) => kind,
        Err(refused) => return error(refused),
    };
    face.with(|model, _| {
        let Some(it) = model.deliveries(kind).into_iter().find(|it| it.id == id) else {
            return error(ApiError::NotFound);
        };
        let mut line = delivery_line(it);
        let payload: Value = serde_json::from_str(it.body()).unwrap_or(Value::Null);
        line["request"] =
            json!({ "headers": { "X-GitHub-Event": it.event, "X-GitHub-Delivery": it.guid }, "payload": payload });
        line["response"] = json!({ "headers": {}, "payload": "" });
        Json(line).into_response()
    })
}

async fn redeliver(State(face): State<Face>, Path(id): Path<i64>, headers: HeaderMap) -> Response {
    let kind = match app_of(&face, &headers) {
        Ok(kind) => kind,
        Err(refused) => return error(refused),
    };
    let known = |model: &GitHub| model.deliveries(kind).iter().any(|it| it.id == id);
    if face.with(|model, now| known(model) && model.redeliver(id, now)) {
        (StatusCode::ACCEPTED, Json(json!({}))).into_response()
    } else {
        error(ApiError::NotFound)
    }
}

#[derive(Deserialize, Clone, Copy)]
struct PageQuery {
    per_page: Option<usize>,
    page: Option<usize>,
}

/// A path with the host that the client has asked: GitHub's links are whole addresses.
fn address(headers: &HeaderMap, path: &str) -> String {
    let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or("api.github.com");
    format!("http://{host}{path}")
}

/// One page of a list under `key`, with GitHub's Link header.
fn page(path: &str, key: &str, all: Vec<Value>, query: PageQuery) -> Response {
    let per_page = query.per_page.unwrap_or(30).clamp(1, 100);
    let number = query.page.unwrap_or(1).max(1);
    let last = all.len().div_ceil(per_page).max(1);
    let items: Vec<&Value> = all.iter().skip((number - 1) * per_page).take(per_page).collect();
    let mut response = Json(json!({ "total_count": all.len(), key: items })).into_response();
    let link = |page: usize, rel: &str| format!("<{path}?per_page={per_page}&page={page}>; rel=\"{rel}\"");
    let mut links = Vec::new();
    if number > 1 {
        links.push(link(number - 1, "prev"));
        links.push(link(1, "first"));
    }
    if number < last {
        links.push(link(number + 1, "next"));
        links.push(link(last, "last"));
    }
    if !links.is_empty() {
        put_link(response.headers_mut(), &links.join(", "));
    }
    response
}

fn put_link(headers: &mut HeaderMap, link: &str) {
    if let Ok(value) = HeaderValue::from_str(link) {
        headers.insert("link", value);
    }
}

async fn groups(
    State(face): State<Face>,
    Path(org): Path<String>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Response {
    call(&face, &headers, |model, account, _| {
        model.org(account, &org)?;
        let all = model.list_groups(account);
        let all = all.into_iter().map(|(id, name)| group(id, &name)).collect();
        Ok(page(&address(&headers, &format!("/orgs/{org}/actions/runner-groups")), "runner_groups", all, query))
    })
}

fn group(id: i64, name: &str) -> Value {
    json!({ "id": id, "name": name, "visibility": "all", "default": id == 1, "allows_public_repositories": true,
            "restricted_to_workflows": false, "selected_workflows": [], "inherited": false, "runners_url": "" })
}

async fn create_group(
    State(face): State<Face>,
    Path(org): Path<String>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    call(&face, &headers, |model, account, _| {
        model.org(account, &org)?;
        let name = body["name"].as_str().ok_or(ApiError::Invalid("name is missing"))?.to_owned();
        let id = model.create_group(account, &name)?;
        Ok((StatusCode::CREATED, Json(group(id, &name))).into_response())
    })
}

/// All runners of a scope, or those of one group.
fn runner_list(model: &GitHub, scope: Scope, group: Option<i64>, now: Time) -> Vec<Value> {
    let listed = model.list_runners(scope, now);
    let listed = listed.into_iter().filter(|it| group.is_none_or(|group| it.runner.group == group));
    listed.map(|it| runner(it.id, &it.runner, it.busy)).collect()
}

fn runner(id: i64, runner: &Runner, busy: bool) -> Value {
    let labels: Vec<Value> = runner.labels.iter().map(|label| json!({ "name": label, "type": "custom" })).collect();
    json!({ "id": id, "runner_group_id": runner.group, "name": runner.name, "os": "linux",
            "status": if runner.online { "online" } else { "offline" }, "busy": busy, "ephemeral": true, "labels": labels })
}

async fn group_runners(
    State(face): State<Face>,
    Path((org, id)): Path<(String, i64)>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Response {
    call(&face, &headers, |model, account, now| {
        model.org(account, &org)?;
        if !model.list_groups(account).iter().any(|(known, _)| *known == id) {
            return Err(ApiError::NotFound);
        }
        let all = runner_list(model, Scope::Organization(account), Some(id), now);
        Ok(page(&address(&headers, &format!("/orgs/{org}/actions/runner-groups/{id}/runners")), "runners", all, query))
    })
}

async fn org_runners(
    State(face): State<Face>,
    Path(org): Path<String>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Response {
    call(&face, &headers, |model, account, now| {
        model.org(account, &org)?;
        let all = runner_list(model, Scope::Organization(account), None, now);
        Ok(page(&address(&headers, &format!("/orgs/{org}/actions/runners")), "runners", all, query))
    })
}

async fn repo_runners(
    State(face): State<Face>,
    Path((owner, repo)): Path<(String, String)>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Response {
    call(&face, &headers, |model, account, now| {
        let id = model.repo(account, &format!("{owner}/{repo}"))?.id;
        let all = runner_list(model, Scope::Repository(id), None, now);
        Ok(page(&address(&headers, &format!("/repos/{owner}/{repo}/actions/runners")), "runners", all, query))
    })
}

#[derive(Deserialize)]
struct JitRequest {
    name: String,
    runner_group_id: i64,
    labels: Vec<String>,
}

fn jit(model: &mut GitHub, scope: Scope, request: &JitRequest, now: Time) -> Result<Response, ApiError> {
    let (id, config) = model.generate_jit_in(scope, request.runner_group_id, &request.name, &request.labels, now)?;
    let made = model.runners.get(&id).ok_or(ApiError::NotFound)?;
    let body = json!({ "runner": runner(id, made, false), "encoded_jit_config": config });
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

async fn org_jit(
    State(face): State<Face>,
    Path(org): Path<String>,
    headers: HeaderMap,
    Json(request): Json<JitRequest>,
) -> Response {
    call(&face, &headers, |model, account, now| {
        model.org(account, &org)?;
        if !model.list_groups(account).iter().any(|(known, _)| *known == request.runner_group_id) {
            return Err(ApiError::NotFound);
        }
        jit(model, Scope::Organization(account), &request, now)
    })
}

async fn repo_jit(
    State(face): State<Face>,
    Path((owner, repo)): Path<(String, String)>,
    headers: HeaderMap,
    Json(request): Json<JitRequest>,
) -> Response {
    call(&face, &headers, |model, account, now| {
        let id = model.repo(account, &format!("{owner}/{repo}"))?.id;
        if request.runner_group_id != 1 {
            return Err(ApiError::Invalid("runner_group_id must be 1 for a repository"));
        }
        jit(model, Scope::Repository(id), &request, now)
    })
}

async fn delete_org_runner(
    State(face): State<Face>,
    Path((org, id)): Path<(String, i64)>,
    headers: HeaderMap,
) -> Response {
    call(&face, &headers, |model, account, _| {
        model.org(account, &org)?;
        model.delete_runner(Scope::Organization(account), id)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
}

async fn delete_repo_runner(
    State(face): State<Face>,
    Path((owner, repo, id)): Path<(String, String, i64)>,
    headers: HeaderMap,
) -> Response {
    call(&face, &headers, |model, account, _| {
        let repo = model.repo(account, &format!("{owner}/{repo}"))?.id;
        model.delete_runner(Scope::Repository(repo), id)?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
}

async fn job(
    State(face): State<Face>,
    Path((owner, repo, id)): Path<(String, String, i64)>,
    headers: HeaderMap,
) -> Response {
    call(&face, &headers, |model, account, _| {
        let repo = model.repo(account, &format!("{owner}/{repo}"))?.clone();
        let api =
            address(&headers, &format!("/repos/{owner}/{}", repo.full_name.rsplit('/').next().unwrap_or_default()));
        let mut body = json!({
            "run_id": id / 10, "run_url": format!("{api}/actions/runs/{}", id / 10), "run_attempt": 1, "node_id": "CR_",
            "head_sha": "0", "head_branch": "main", "workflow_name": "CI", "url": format!("{api}/actions/jobs/{id}"),
            "name": "build", "steps": [], "check_run_url": format!("{api}/check-runs/{id}"),
        });
        payload::fill_job(&mut body, model.job(repo.id, id)?, &repo);
        Ok(Json(body).into_response())
    })
}

async fn rate_limit(State(face): State<Face>, headers: HeaderMap) -> Response {
    call(&face, &headers, |model, account, _| {
        let quota = model.accounts.get(&account).map(|account| account.quota).unwrap_or_default();
        let core = json!({ "limit": quota.limit, "used": quota.used, "remaining": quota.limit.saturating_sub(quota.used), "reset": quota.reset_at.0 / 1000 });
        let search = json!({ "limit": 30, "used": 0, "remaining": 30, "reset": quota.reset_at.0 / 1000 });
        Ok(Json(json!({ "resources": { "core": core, "search": search }, "rate": core })).into_response())
    })
}
