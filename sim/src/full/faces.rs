//! What goes wrong between the service and the two APIs, and what the judge wants to know of each call.

use std::{sync::Arc, time::Duration};

use adapters::scheduler::CALL_LIMIT;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderValue, StatusCode},
    middleware::{Next, from_fn_with_state, map_response_with_state},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::BodyExt;
use serde_json::Value;
use simulation::{
    register::{Fault, Rare},
    trace::number,
};
use tokio::time::sleep;

use super::{
    deeds, judge,
    net::CALLER,
    nodes,
    register::More,
    world::{Node, World, lock},
};
use crate::{
    http::{github, kubernetes},
    world::kubernetes::Fate,
};

/// Longer than any caller waits.
const NEVER: i64 = 600_000;

/// No answer, until the caller has long given up or faults stop.
async fn hang(world: &World) {
    let left = (world.plan.plan.quiet_at - world.now()).max(0) + 1_000;
    sleep(Duration::from_millis(left.min(NEVER).unsigned_abs())).await;
}

/// One call to an API.
pub struct Call {
    pub caller: Node,
    pub method: http::Method,
    pub path: String,
    pub body: Bytes,
    /// The installation's account, if it is an installation's call.
    pub account: Option<i64>,
}

/// GitHub's API with its faults.
pub fn github(world: Arc<World>) -> Router {
    let face = world.github.clone();
    let judged = github::router(face.clone()).layer(from_fn_with_state(world, before_github));
    judged.layer(map_response_with_state(face, github::dated))
}

/// The Kubernetes API with its faults.
pub fn kubernetes(world: Arc<World>) -> Router {
    kubernetes::router(world.cluster.clone()).layer(from_fn_with_state(world, before_cluster))
}

/// Reads a request whole, so that it can be judged and passed on.
async fn read(world: &World, request: Request) -> Option<(Call, Request)> {
    let caller = request.headers().get(CALLER)?.to_str().ok().and_then(Node::parse)?;
    let account = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .and_then(|token| world.github.peek(|github| github.tokens.get(token).map(|(account, _)| *account)));
    let (method, path) = (request.method().clone(), request.uri().to_string());
    let (parts, body) = request.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    let call = Call { caller, method, path, body: body.clone(), account };
    Some((call, Request::from_parts(parts, Body::from(body))))
}

fn refuse(status: u16, body: &'static str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [("content-type", "application/json")], body).into_response()
}

const BAD_GATEWAY: &str =
    r#"{"message":"a fault","kind":"Status","status":"Failure","reason":"InternalError","code":502}"#;
const LIMITED: &str = r#"{"message":"You have exceeded a secondary rate limit"}"#;
const NO_GROUPS: &str = r#"{"message":"Runner groups are not available for this organization's plan"}"#;
const QUOTA: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"exceeded quota: runners","reason":"Forbidden","code":403}"#;

async fn before_github(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    let Some((call, request)) = read(&world, request).await else { return refuse(400, BAD_GATEWAY) };
    let response = answer_github(&world, &call, request, next).await;
    let status = i64::from(response.status().as_u16());
    world.note("github", number(&call.path) ^ number(call.method.as_str()), status, || {
        format!("{} {} {} -> {status}", call.caller, call.method, call.path)
    });
    response
}

async fn answer_github(world: &Arc<World>, call: &Call, request: Request, next: Next) -> Response {
    let mints = call.method == http::Method::POST && call.path.ends_with("/generate-jitconfig");
    let _step = mints.then(|| world.step(call.caller, Rare::KilledMinting));
    if let Some(until) = world.struck(Fault::GithubStalled) {
        let rest = Duration::from_millis((until - world.now()).unsigned_abs());
        sleep(rest).await;
        if let Some(account) = call.account.filter(|_| mints && rest > CALL_LIMIT) {
            judge::unheard_mint(world, account, &call.body);
        }
    }
    judge::github_called(world, call);
    if world.strikes(Fault::GithubTimeout) {
        if world.chance(50) {
            sleep(world.span(0, 40_000)).await;
            pass_github(world, call, request, next).await;
        }
        hang(world).await;
        return refuse(504, BAD_GATEWAY);
    }
    if world.strikes(Fault::GithubBefore) {
        return refuse(502, BAD_GATEWAY);
    }
    if let Some(account) = call.account {
        if let Some(left) = judge::blocked(world, account) {
            return told(world, call, account, left);
        }
        if world.strikes(Fault::RateLimitedTold) {
            return told(world, call, account, world.between(60, 300));
        }
        if world.strikes(Fault::RateLimitedUntold) {
            judge::untold(world, call.caller, account);
            return refuse(if world.chance(50) { 403 } else { 429 }, LIMITED);
        }
    }
    let (status, until) = *lock(&world.groups_refused);
    if call.account.is_some() && world.now() < until && call.path.contains("/runner-groups") {
        world.more(More::GroupsRefused);
        return refuse(status, NO_GROUPS);
    }
    let response = pass_github(world, call, request, next).await;
    // A token that GitHub does not know any more is nobody's.
    if response.status() == StatusCode::UNAUTHORIZED && call.account.is_none() && !call.path.starts_with("/app/") {
        world.more(More::TokenRefused);
    }
    if world.strikes(Fault::GithubAfter) {
        return refuse(502, BAD_GATEWAY);
    }
    let exhausted = response.status() == StatusCode::FORBIDDEN && header(&response, "x-ratelimit-remaining") == Some(0);
    let reset = header(&response, "x-ratelimit-reset").filter(|_| exhausted);
    if let Some(account) = call.account.filter(|_| response.status().is_success()) {
        judge::answered(world, account);
        judge::shown(world, account);
    }
    if let (Some(account), Some(reset)) = (call.account, reset) {
        judge::told_until(world, call.caller, account, reset * 1000);
    }
    response
}

/// 403 that says until when, in seconds from now.
fn told(world: &World, call: &Call, account: i64, seconds: i64) -> Response {
    judge::told_to_wait(world, call.caller, account, seconds);
    let mut response = refuse(403, LIMITED);
    response.headers_mut().insert("retry-after", HeaderValue::from(seconds));
    response
}

/// The call has its effect.
async fn pass_github(world: &Arc<World>, call: &Call, request: Request, next: Next) -> Response {
    if let Some(taken) = deleted(call, "runners") {
        deeds::job_in_the_way(world, |id, _| id.to_string() == taken);
    }
    let listing = call.method == http::Method::GET && call.path.contains("/runners");
    let stale = listing && world.strikes(Fault::StaleListing);
    judge::before_github(world, call);
    world.github.with(|github, _| github.mischief.stale = stale);
    let response = next.run(request).await;
    world.github.with(|github, _| github.mischief.stale = false);
    let status = response.status().as_u16();
    judge::after_github(world, call, status);
    if listing && status == 200 && world.strikes(Fault::PagesDisagree) {
        return one_more(response).await;
    }
    response
}

fn header(response: &Response, name: &str) -> Option<i64> {
    response.headers().get(name)?.to_str().ok()?.parse().ok()
}

/// A page whose total does not fit.
async fn one_more(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut value: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(total) = value.get_mut("total_count") {
        *total = Value::from(total.as_i64().unwrap_or(0) + 1);
    }
    let mut response = Response::from_parts(parts, Body::from(value.to_string()));
    response.headers_mut().remove("content-length");
    response
}

/// The head of an answer and the first half of its body, and then nothing more.
async fn stalled(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let mut body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    body.truncate(body.len() / 2);
    parts.headers.remove("content-length");
    let half = futures::stream::iter([Ok::<_, std::convert::Infallible>(body)]);
    Response::from_parts(parts, Body::from_stream(half.chain(futures::stream::pending())))
}

async fn before_cluster(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    let Some((call, request)) = read(&world, request).await else { return refuse(400, BAD_GATEWAY) };
    let call = Arc::new(call);
    let response = answer_cluster(&world, &call, request, next).await;
    let status = i64::from(response.status().as_u16());
    world.note("cluster", number(&call.path) ^ number(call.method.as_str()), status, || {
        format!("{} {} {} -> {status}", call.caller, call.method, call.path)
    });
    response
}

async fn answer_cluster(world: &Arc<World>, call: &Arc<Call>, request: Request, next: Next) -> Response {
    let watch = call.path.contains("watch=true");
    let makes_secret = call.method == http::Method::POST && path_of(call).ends_with("/secrets");
    let makes = [(is_new_pod(call), Rare::KilledCreatingPod), (makes_secret, Rare::KilledCreatingSecret)];
    let _step = makes.into_iter().find(|(makes, _)| *makes).map(|(_, killed)| world.step(call.caller, killed));
    if watch && judge::watches_broken(world) {
        return refuse(500, BAD_GATEWAY);
    }
    if is_new_pod(call) && is_orphaned(world, call) {
        let wait = world.span(20_000, 50_000);
        pass_late(world, call, request, next, wait, Some(More::PodOrphaned)).await;
        return refuse(504, BAD_GATEWAY);
    }
    if world.strikes(Fault::ClusterTimeout) {
        if call.method == http::Method::GET && !watch && world.chance(30) {
            world.more(More::AnswerStalled);
            return stalled(pass_cluster(world, call, request, next, true).await).await;
        }
        if world.chance(50) {
            let wait = world.span(0, 40_000);
            pass_late(world, call, request, next, wait, None).await;
        }
        hang(world).await;
        return refuse(504, BAD_GATEWAY);
    }
    if world.strikes(Fault::ClusterBefore) {
        return refuse(500, BAD_GATEWAY);
    }
    if is_new_pod(call) && world.strikes(Fault::QuotaDenied) {
        return refuse(403, QUOTA);
    }
    let response = pass_cluster(world, call, request, next, false).await;
    if !watch && world.strikes(Fault::ClusterAfter) {
        return refuse(500, BAD_GATEWAY);
    }
    response
}

/// Whether somebody waits for a pod to be asked for, to kill who asks: what was sent goes on.
fn is_orphaned(world: &World, call: &Call) -> bool {
    if !nodes::is_up(world, call.caller) {
        return false;
    }
    let killer = lock(&world.orphans_a_pod).take();
    killer.is_some_and(|killer| killer.send(call.caller).is_ok())
}

/// The call has its effect a while from now, whether or not anybody is there any more who waits for it.
async fn pass_late(
    world: &Arc<World>,
    call: &Arc<Call>,
    request: Request,
    next: Next,
    wait: Duration,
    counts: Option<More>,
) {
    let (world, call) = (world.clone(), call.clone());
    let effect = tokio::spawn(async move {
        sleep(wait).await;
        let status = i64::from(pass_cluster(&world, &call, request, next, true).await.status().as_u16());
        world.note("late", number(&call.path), status, || {
            format!("{} {} {} -> {status}", call.caller, call.method, path_of(&call))
        });
        counts.into_iter().for_each(|more| world.more(more));
    });
    // Who waits for it waits for nothing else.
    let _ = effect.await;
}

/// The last part of the path of a call that deletes one of `kind`.
fn deleted<'a>(call: &'a Call, kind: &str) -> Option<&'a str> {
    let (collection, one) = call.path.split('?').next()?.rsplit_once('/')?;
    (call.method == http::Method::DELETE && collection.rsplit('/').next() == Some(kind)).then_some(one)
}

fn path_of(call: &Call) -> &str {
    call.path.split('?').next().unwrap_or_default()
}

fn is_new_pod(call: &Call) -> bool {
    call.method == http::Method::POST && path_of(call).ends_with("/pods")
}

async fn pass_cluster(world: &Arc<World>, call: &Call, request: Request, next: Next, late: bool) -> Response {
    if is_new_pod(call) {
        let fate = fate(world);
        world.cluster.with(|cluster, _| {
            cluster.next_fates.clear();
            cluster.next_fates.push_back(fate);
        });
    }
    if let Some(taken) = deleted(call, "pods") {
        deeds::job_in_the_way(world, |_, runner| runner.name == taken);
    }
    judge::before_cluster(world, call, late);
    let response = next.run(request).await;
    let status = response.status().as_u16();
    if is_new_pod(call) && status == 409 {
        world.rare(Rare::PodFoundAfterLostAnswer);
    }
    response
}

/// What happens to the next pod.
fn fate(world: &World) -> Option<Fate> {
    let kinds = [
        (Fault::ImagePull, Fate::ImagePullBackOff),
        (Fault::Unschedulable, Fate::Unschedulable),
        (Fault::StartFails, Fate::FailsAtStart(1)),
        (Fault::NeverConnects, Fate::NeverConnects),
        (Fault::StuckTerminating, Fate::StuckTerminating),
        (Fault::LateStatus, Fate::LateStatus),
        (Fault::OutOfMemory, Fate::OutOfMemory),
    ];
    kinds.into_iter().find(|(fault, _)| world.strikes(*fault)).map(|(_, fate)| fate)
}
