//! The Kubernetes API of the model: what the service, kube and kubectl use of it.

mod selector;
mod status;
mod table;
mod watching;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use adapters::ports::Clock;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use engine::ids::{Span, Time};
use futures::stream;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use self::{selector::Selector, status::About};
use super::faults::{Faults, layered};
use crate::world::kubernetes::{Cluster, Key, Kind, LogLine, Refusal, VERSION};

/// How often a log that is followed is looked at.
const FOLLOW: Duration = Duration::from_millis(50);

/// One kind of call, in the words of RBAC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// `get`, `list`, `watch`, `create`, `delete`, …
    pub verb: std::borrow::Cow<'static, str>,
    /// `pods`, or with its subresource `pods/log`.
    pub resource: String,
    /// The namespace; `None` for what spans the cluster.
    pub namespace: Option<String>,
}

/// The model behind its API.
pub struct KubernetesFace {
    model: Mutex<Cluster>,
    clock: Clock,
    token: String,
    changed: watch::Sender<u64>,
    cuts: watch::Sender<u64>,
    bookmarks: watch::Sender<u64>,
    lag: Mutex<Duration>,
    made: Mutex<BTreeSet<Call>>,
    /// What goes wrong, and what was called.
    pub faults: Arc<Faults>,
}

impl KubernetesFace {
    /// Callers must show `token` as their bearer token.
    pub fn new(model: Cluster, clock: Clock, token: &str) -> Arc<Self> {
        Arc::new(Self {
            model: Mutex::new(model),
            clock,
            token: token.to_owned(),
            changed: watch::Sender::new(0),
            cuts: watch::Sender::new(0),
            bookmarks: watch::Sender::new(0),
            lag: Mutex::default(),
            made: Mutex::default(),
            faults: Arc::default(),
        })
    }

    /// Looks at the model or changes it, as of now; watchers hear of changes at once.
    pub fn with<T>(&self, act: impl FnOnce(&mut Cluster, engine::ids::Time) -> T) -> T {
        let now = (self.clock)();
        let mut model = self.lock();
        let before = model.version();
        let out = act(&mut model, now);
        let after = model.version();
        drop(model);
        if before != after {
            self.changed.send_replace(after);
        }
        out
    }

    /// Looks at the model as it is.
    pub fn peek<T>(&self, look: impl FnOnce(&Cluster) -> T) -> T {
        look(&self.lock())
    }

    /// From now on watches show what happens this much later.
    pub fn lag(&self, by: Duration) {
        *self.lag.lock().unwrap_or_else(PoisonError::into_inner) = by;
    }

    /// Ends every watch under way.
    pub fn cut_watches(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Sends a bookmark to every watch under way that wants them, as the API server does every minute or so.
    pub fn send_bookmarks(&self) {
        self.bookmarks.send_modify(|bookmarks| *bookmarks += 1);
    }

    /// How many watches are under way.
    pub fn watches(&self) -> usize {
        self.cuts.receiver_count()
    }

    /// Every kind of call that was made so far, whatever its answer.
    pub fn made(&self) -> BTreeSet<Call> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Face = Arc<KubernetesFace>;

/// The API server.
pub fn router(face: Face) -> Router {
    let guarded = Router::new()
        .route("/api/v1/namespaces/{namespace}/{plural}", get(list).post(create))
        .route("/api/v1/namespaces/{namespace}/{plural}/{name}", get(read).delete(remove))
        .route("/api/v1/namespaces/{namespace}/{plural}/{name}/log", get(logs))
        .route("/api/v1/{plural}", get(list_all).post(create_global))
        .route("/api/v1/{plural}/{name}", get(read_global).delete(remove_global))
        .route(
            "/api",
            get(|| async {
                Json(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }))
            }),
        )
        .route("/apis", get(|| async { Json(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [] })) }))
        .route("/api/v1", get(resources))
        .method_not_allowed_fallback(|| async { not_allowed() })
        .fallback(|| async { unknown_resource() })
        .layer(from_fn_with_state(face.clone(), authorized));
    let open = Router::new().route("/version", get(version));
    layered(guarded.merge(open).with_state(face.clone()), face.faults.clone())
}

async fn version() -> Json<Value> {
    Json(json!({
        "major": "1", "minor": "33", "gitVersion": VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "",
        "goVersion": "", "compiler": "", "platform": "linux/riscv64",
    }))
}

async fn authorized(State(face): State<Face>, request: Request, next: Next) -> Response {
    let expected = format!("Bearer {}", face.token);
    let shown = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    if shown != Some(expected.as_str()) {
        return status::answer(401, "Unauthorized", "Unauthorized");
    }
    if let Some(call) = call_of(&request) {
        face.made.lock().unwrap_or_else(PoisonError::into_inner).insert(call);
    }
    next.run(request).await
}

/// How RBAC sees a request; `None` for what no role is asked for.
fn call_of(request: &Request) -> Option<Call> {
    let path = request.uri().path().strip_prefix("/api/v1/")?;
    let mut parts: Vec<&str> = path.split('/').collect();
    let mut namespace = None;
    if parts.len() > 2 && parts[0] == "namespaces" {
        namespace = Some(parts[1].to_owned());
        parts.drain(..2);
    }
    let named = parts.len() > 1;
    let watches = request.uri().query().is_some_and(|query| query.split('&').any(|it| it.starts_with("watch=")));
    let verb = match (request.method().as_str(), named) {
        ("GET", true) => "get",
        ("GET", false) if watches => "watch",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        _ => return None,
    };
    let resource = match parts.get(2) {
        Some(sub) => format!("{}/{sub}", parts[0]),
        None => parts[0].to_owned(),
    };
    Some(Call { verb: verb.into(), resource, namespace })
}

async fn resources() -> Json<Value> {
    let resource = |kind: Kind, verbs: &[&str], short: &str, categories: &[&str]| {
        json!({
            "name": kind.plural(), "singularName": kind.name().to_lowercase(), "kind": kind.name(),
            "namespaced": kind.namespaced(), "verbs": verbs, "shortNames": [short], "categories": categories,
        })
    };
    let (all, seen) = (["create", "delete", "get", "list", "watch"], ["get", "list", "watch"]);
    Json(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "v1", "resources": [
        resource(Kind::Pod, &all, "po", &["all"]),
        json!({ "name": "pods/log", "singularName": "", "kind": "Pod", "namespaced": true, "verbs": ["get"] }),
        resource(Kind::Node, &seen, "no", &[]),
        resource(Kind::Secret, &all, "secret", &[]),
        resource(Kind::Event, &seen, "ev", &[]),
        resource(Kind::Namespace, &all, "ns", &[]),
    ] }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListQuery {
    label_selector: Option<String>,
    field_selector: Option<String>,
    watch: Option<String>,
    resource_version: Option<String>,
    allow_watch_bookmarks: Option<String>,
    timeout_seconds: Option<u64>,
    limit: Option<usize>,
    #[serde(rename = "continue")]
    continue_: Option<String>,
}

/// kubectl asks for tables, and says so in what it accepts.
fn wants_table(headers: &HeaderMap) -> bool {
    let accept = headers.get("accept").and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').next().is_some_and(|first| first.contains("as=Table") && first.contains("v=v1"))
}

async fn list(
    State(face): State<Face>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Response {
    listing(face, Some(namespace), &plural, query, &headers)
}

async fn list_all(
    State(face): State<Face>,
    Path(plural): Path<String>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Response {
    listing(face, None, &plural, query, &headers)
}

/// `?dryRun=All`: everything is checked, and nothing done.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DryRun {
    dry_run: Option<String>,
}

impl DryRun {
    fn on<T>(&self, face: &Face, act: impl FnOnce(&mut Cluster, engine::ids::Time) -> T) -> T {
        let dry = self.dry_run.is_some();
        face.with(|model, now| if dry { act(&mut model.clone(), now) } else { act(model, now) })
    }
}

/// The kind that a path names, where it may be named.
fn kind_at(namespace: Option<&str>, plural: &str) -> Option<Kind> {
    Kind::parse(plural).filter(|kind| kind.namespaced() || namespace.is_none())
}

fn unknown_resource() -> Response {
    status::answer(404, "NotFound", "the server could not find the requested resource")
}

fn not_allowed() -> Response {
    status::answer(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
}

fn listing(face: Face, namespace: Option<String>, plural: &str, query: ListQuery, headers: &HeaderMap) -> Response {
    let Some(kind) = kind_at(namespace.as_deref(), plural) else { return unknown_resource() };
    let selector = match Selector::parse(kind, query.label_selector.as_deref(), query.field_selector.as_deref()) {
        Ok(selector) => selector,
        Err(message) => return status::answer(400, "BadRequest", &message),
    };
    let as_table = wants_table(headers);
    if matches!(query.watch.as_deref(), Some("true" | "1")) {
        return watching::answer(face, namespace, kind, selector, &query, as_table);
    }
    match page(&face, namespace.as_deref(), kind, &selector, &query) {
        Err(refused) => status::refuse(&refused, About { plural, name: "" }),
        Ok((metadata, items)) if as_table => Json(table::of(kind, &items, metadata, (face.clock)())).into_response(),
        Ok((metadata, items)) => Json(json!({
            "apiVersion": "v1", "kind": format!("{}List", kind.name()), "metadata": metadata, "items": items,
        }))
        .into_response(),
    }
}

/// Where a listing goes on: the version of its first page, and the last key it has shown.
#[derive(Deserialize, serde::Serialize)]
struct Continue {
    version: u64,
    after: (String, String),
}

fn page(
    face: &Face,
    namespace: Option<&str>,
    kind: Kind,
    selector: &Selector,
    query: &ListQuery,
) -> Result<(Value, Vec<Value>), Refusal> {
    let begun: Option<Continue> = match query.continue_.as_deref().filter(|token| !token.is_empty()) {
        None => None,
        Some(token) => {
            let read = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            Some(read.ok_or_else(|| Refusal::BadRequest("continue key is not valid".to_owned()))?)
        }
    };
    let (now, remembered, all) = face.with(|model, now| {
        model.tick(now);
        let remembered = begun.as_ref().is_none_or(|begun| model.remembers(begun.version));
        (model.version(), remembered, model.objects(kind, namespace))
    });
    if !remembered {
        return Err(Refusal::Gone);
    }
    let key = |object: &Value| {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        (text("namespace"), text("name"))
    };
    let mut items: Vec<Value> = all.into_iter().filter(|object| selector.matches(object)).collect();
    items.sort_by_cached_key(key);
    if let Some(begun) = &begun {
        items.retain(|object| key(object) > begun.after);
    }
    let version = begun.map_or(now, |begun| begun.version);
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    let limit = query.limit.filter(|&limit| limit > 0).unwrap_or(usize::MAX);
    if items.len() > limit {
        let left = items.split_off(limit).len();
        let after = items.last().map(key).unwrap_or_default();
        let token = serde_json::to_vec(&Continue { version, after }).unwrap_or_default();
        metadata["continue"] = json!(URL_SAFE_NO_PAD.encode(token));
        metadata["remainingItemCount"] = json!(left);
    }
    Ok((metadata, items))
}

async fn read(
    State(face): State<Face>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    reading(&face, Some(&namespace), &plural, &name, &headers)
}

async fn read_global(
    State(face): State<Face>,
    Path((plural, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    reading(&face, None, &plural, &name, &headers)
}

fn reading(face: &Face, namespace: Option<&str>, plural: &str, name: &str, headers: &HeaderMap) -> Response {
    let Some(kind) = kind_at(namespace, plural) else { return unknown_resource() };
    let objects = face.with(|model, now| {
        model.tick(now);
        model.objects(kind, namespace)
    });
    match objects.into_iter().find(|object| object["metadata"]["name"].as_str() == Some(name)) {
        None => status::refuse(&Refusal::NotFound, About { plural, name }),
        Some(object) if wants_table(headers) => {
            let metadata = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
            Json(table::of(kind, &[object], metadata, (face.clock)())).into_response()
        }
        Some(object) => Json(object).into_response(),
    }
}

async fn create(
    State(face): State<Face>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(dry): Query<DryRun>,
    body: Bytes,
) -> Response {
    creating(&face, Some(&namespace), &plural, &dry, &body)
}

async fn create_global(
    State(face): State<Face>,
    Path(plural): Path<String>,
    Query(dry): Query<DryRun>,
    body: Bytes,
) -> Response {
    creating(&face, None, &plural, &dry, &body)
}

fn creating(face: &Face, namespace: Option<&str>, plural: &str, dry: &DryRun, body: &Bytes) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return status::answer(400, "BadRequest", "the object provided is unrecognized: it is not JSON");
    };
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let created = dry.on(face, |model, now| match (Kind::parse(plural), namespace) {
        (Some(Kind::Pod), Some(namespace)) => Some(model.create_pod(namespace, body, now)),
        (Some(Kind::Secret), Some(namespace)) => Some(model.create_secret(namespace, body, now)),
        (Some(Kind::Namespace), None) => Some(model.create_namespace(&name, now)),
        _ => None,
    });
    match created {
        Some(Ok(object)) => (StatusCode::CREATED, Json(object)).into_response(),
        Some(Err(refused)) => status::refuse(&refused, About { plural, name: &name }),
        None => not_allowed(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteOptions {
    grace_period_seconds: Option<i64>,
    dry_run: Vec<String>,
    preconditions: Preconditions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
}

async fn remove(
    State(face): State<Face>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(dry): Query<DryRun>,
    body: Bytes,
) -> Response {
    removing(&face, Some(&namespace), &plural, &name, (&dry, &body))
}

async fn remove_global(
    State(face): State<Face>,
    Path((plural, name)): Path<(String, String)>,
    Query(dry): Query<DryRun>,
    body: Bytes,
) -> Response {
    removing(&face, None, &plural, &name, (&dry, &body))
}

fn removing(
    face: &Face,
    namespace: Option<&str>,
    plural: &str,
    name: &str,
    (dry, body): (&DryRun, &Bytes),
) -> Response {
    let options = if body.is_empty() { Ok(DeleteOptions::default()) } else { serde_json::from_slice(body) };
    let Ok(options) = options else {
        return status::answer(400, "BadRequest", "the object provided is unrecognized: it is no DeleteOptions");
    };
    let uid = options.preconditions.uid.as_deref();
    let dry = DryRun { dry_run: dry.dry_run.clone().or_else(|| options.dry_run.first().cloned()) };
    let removed = dry.on(face, |model, now| match (Kind::parse(plural), namespace) {
        (Some(Kind::Pod), Some(namespace)) => {
            Some(model.delete_pod(&Key::new(namespace, name), uid, options.grace_period_seconds, now))
        }
        (Some(Kind::Secret), Some(namespace)) => Some(model.delete_secret(&Key::new(namespace, name)).map(|()| {
            let mut done = status::body(200, "", "");
            done["details"] = json!({ "name": name, "kind": plural });
            done
        })),
        (Some(Kind::Namespace), None) => Some(model.delete_namespace(name)),
        _ => None,
    });
    match removed {
        Some(Ok(object)) => Json(object).into_response(),
        Some(Err(refused)) => status::refuse(&refused, About { plural, name }),
        None => not_allowed(),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogQuery {
    container: Option<String>,
    tail_lines: Option<usize>,
    limit_bytes: Option<usize>,
    since_seconds: Option<i64>,
    since_time: Option<String>,
    timestamps: Option<String>,
    previous: Option<String>,
    follow: Option<String>,
}

/// Whether a query's switch is on.
fn is_on(value: Option<&String>) -> bool {
    value.is_some_and(|value| matches!(value.as_str(), "true" | "1"))
}

async fn logs(
    State(face): State<Face>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Response {
    if plural != "pods" {
        return unknown_resource();
    }
    let key = Key::new(&namespace, &name);
    let container = query.container.as_deref();
    let (exists, known, log, now) = face.with(|model, now| {
        let log = model.container_log(&key, container);
        (model.pod_keys().contains(&key), model.has_container(&key, container), log, now)
    });
    let shown = container.unwrap_or("runner");
    let bad = |message: &str| status::answer(400, "BadRequest", message);
    let since = match (query.since_seconds, query.since_time.as_deref().map(str::parse::<jiff::Timestamp>)) {
        (_, Some(Err(error))) => return bad(&format!("sinceTime is no RFC 3339 time: {error}")),
        (_, Some(Ok(at))) => Time(at.as_millisecond()),
        (Some(seconds), None) => now - Span::secs(seconds),
        (None, None) => Time::ZERO,
    };
    match log {
        _ if !exists => status::refuse(&Refusal::NotFound, About { plural: "pods", name: &name }),
        _ if !known => bad(&format!("container {shown} is not valid for pod {name}")),
        // Nothing restarts a runner's containers.
        _ if is_on(query.previous.as_ref()) => {
            bad(&format!("previous terminated container {shown:?} in pod {name:?} not found"))
        }
        None => bad(&format!("container {shown:?} in pod {name:?} is waiting to start: ContainerCreating")),
        Some(log) => {
            let first = log.partition_point(|line| line.at < since);
            let first = first.max(log.len().saturating_sub(query.tail_lines.unwrap_or(usize::MAX)));
            let timestamps = is_on(query.timestamps.as_ref());
            if is_on(query.follow.as_ref()) {
                let container = query.container.clone();
                let followed = Followed { face, key, container, timestamps, sent: first };
                return Body::from_stream(stream::unfold(followed, follow)).into_response();
            }
            let mut text = written(&log[first..], timestamps);
            text.truncate(text.floor_char_boundary(query.limit_bytes.unwrap_or(usize::MAX)));
            text.into_response()
        }
    }
}

/// Lines of a log as the API writes them, each with the time of its writing where that is asked for.
fn written(lines: &[LogLine], timestamps: bool) -> String {
    let mut text = String::new();
    for line in lines {
        if timestamps {
            let at = jiff::Timestamp::from_millisecond(line.at.0).unwrap_or_default();
            text.push_str(&format!("{at:.9} "));
        }
        text.push_str(&line.text);
        text.push('\n');
    }
    text
}

struct Followed {
    face: Face,
    key: Key,
    container: Option<String>,
    timestamps: bool,
    /// Lines.
    sent: usize,
}

async fn follow(mut it: Followed) -> Option<(Result<String, std::convert::Infallible>, Followed)> {
    loop {
        let (log, running) =
            it.face.with(|model, _| (model.container_log(&it.key, it.container.as_deref()), model.is_running(&it.key)));
        let log = log?;
        if let Some(new) = log.get(it.sent..).filter(|new| !new.is_empty()) {
            it.sent = log.len();
            return Some((Ok(written(new, it.timestamps)), it));
        }
        if !running {
            return None;
        }
        tokio::time::sleep(FOLLOW).await;
    }
}
