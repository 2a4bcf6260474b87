//! What goes wrong between a client and a model, and a record of every call.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;

/// How a call goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answered so, without effect.
    Before(u16, Vec<(&'static str, String)>),
    /// It has its effect, and is answered so.
    After(u16),
    /// It takes this much longer.
    Delay(Duration),
    /// Answered with this, without effect: (status, content type, body).
    Say(u16, &'static str, String),
    /// It has its effect; half of the answer's body arrives, as if that were all.
    Truncate,
    /// It has its effect; the connection breaks in the middle of the answer's body.
    Break,
}

/// A planned fault: for the next calls that fit.
#[derive(Debug, Clone)]
struct Planned {
    method: &'static str,
    path: String,
    times: usize,
    fault: Fault,
}

/// Planned faults and seen calls of one face.
#[derive(Debug, Default)]
pub struct Faults {
    planned: Mutex<Vec<Planned>>,
    calls: Mutex<BTreeMap<(String, String), u64>>,
    refusals: Mutex<BTreeMap<(String, String, u16), u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    /// The next `times` calls of `method` whose path and query contain `path` go wrong so.
    pub fn plan(&self, method: &'static str, path: &str, times: usize, fault: Fault) {
        lock(&self.planned).push(Planned { method, path: path.to_owned(), times, fault });
    }

    /// Nothing goes wrong any more.
    pub fn clear(&self) {
        lock(&self.planned).clear();
    }

    /// How many planned faults have not happened yet.
    pub fn left(&self) -> usize {
        lock(&self.planned).iter().map(|planned| planned.times).filter(|&times| times < usize::MAX / 2).sum()
    }

    /// Every call so far: (method, route) and how often.
    pub fn calls(&self) -> BTreeMap<(String, String), u64> {
        lock(&self.calls).clone()
    }

    /// Every answer of 400 and above that was not a planned fault: (method, route, status) and how often. A call that no
    /// route serves is here too, with its path.
    pub fn refusals(&self) -> BTreeMap<(String, String, u16), u64> {
        lock(&self.refusals).clone()
    }

    /// How many calls so far.
    pub fn count(&self) -> u64 {
        lock(&self.calls).values().sum()
    }

    fn take(&self, method: &str, path: &str) -> Option<Fault> {
        let mut planned = lock(&self.planned);
        let index = planned.iter().position(|it| it.method == method && path.contains(&it.path))?;
        let fault = planned[index].fault.clone();
        planned[index].times -= 1;
        if planned[index].times == 0 {
            planned.remove(index);
        }
        Some(fault)
    }

    fn note(&self, method: &str, route: &str) {
        *lock(&self.calls).entry((method.to_owned(), route.to_owned())).or_default() += 1;
    }
}

/// Puts planned faults and the record in front of a face.
pub fn layered(router: Router, faults: Arc<Faults>) -> Router {
    router.layer(from_fn_with_state(faults, between))
}

async fn between(State(faults): State<Arc<Faults>>, request: Request, next: Next) -> Response {
    let method = request.method().to_string();
    let path = request.uri().path().to_owned();
    let route =
        request.extensions().get::<MatchedPath>().map_or_else(|| path.clone(), |route| route.as_str().to_owned());
    faults.note(&method, &route);
    let target = request.uri().path_and_query().map_or_else(|| path.clone(), |target| target.as_str().to_owned());
    match faults.take(&method, &target) {
        None => {
            let response = next.run(request).await;
            if response.status().as_u16() >= 400 {
                *lock(&faults.refusals).entry((method, route, response.status().as_u16())).or_default() += 1;
            }
            response
        }
        Some(Fault::Before(status, headers)) => answer(status, headers),
        Some(Fault::After(status)) => {
            next.run(request).await;
            answer(status, Vec::new())
        }
        Some(Fault::Say(status, kind, body)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [("content-type", kind)], body).into_response()
        }
        Some(Fault::Truncate) => half(next.run(request).await, false).await,
        Some(Fault::Break) => half(next.run(request).await, true).await,
        Some(Fault::Delay(by)) => {
            tokio::time::sleep(by).await;
            next.run(request).await
        }
    }
}

/// The first half of an answer's body; then its end, or an error that ends the connection.
async fn half(response: Response, breaks: bool) -> Response {
    let (mut parts, body) = response.into_parts();
    let mut body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    body.truncate(body.len() / 2);
    parts.headers.remove("content-length");
    if !breaks {
        return Response::from_parts(parts, Body::from(body));
    }
    let broken = std::io::Error::other("a planned fault");
    let pieces = futures::stream::iter([Ok(body), Err(broken)]);
    Response::from_parts(parts, Body::from_stream(pieces))
}

fn answer(status: u16, headers: Vec<(&'static str, String)>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            map.insert(HeaderName::from_static(name), value);
        }
    }
    map.insert("content-type", HeaderValue::from_static("application/json"));
    // As GitHub says it: what is not found in other words is nobody's answer there.
    let message = if status == 404 { "Not Found" } else { "a planned fault" };
    let body = serde_json::json!({
        "message": message, "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": "InternalError", "code": status.as_u16(),
    });
    (status, map, body.to_string()).into_response()
}
