//! What the cluster is asked.

use engine::{
    decision::WorkerFailure,
    facts::Worker,
    ids::{Span, Time, WorkerName},
};
use serde_json::Value;
use simulation::{
    plan::What,
    register::{Fault, Rare},
    run::{HOUR, MINUTE, SECOND},
};

use super::{
    super::{
        faces::Call,
        logs,
        trouble::Upset,
        world::{World, lock},
    },
    GRACE, account_of, asked, board, free, is_ended, offers, parts, pod, touched,
};
use crate::world::kubernetes::{Key, Phase};

/// Views may lag this much behind nodes that come and go when watches and calls fare badly, or nodes do (S6).
const VIEW_LAG: i64 = 4 * MINUTE;
/// And so much while calls find no answer in time: a list is given up after half a minute and asked for again up to twenty
/// seconds later, and a dozen may fail in a row.
const UNANSWERED_LAG: i64 = 10 * MINUTE;
/// And so much when all is well.
const BRIEF_LAG: i64 = 10 * SECOND;

/// How old what a leader knows of the cluster may be.
fn view_lag(world: &World) -> i64 {
    let now = world.now();
    let upsets = |upset: &Upset| {
        use Upset::{Clock, DropGroups, RefuseGroups, RevokeTokens, Visit};
        !matches!(upset, Clock(..) | DropGroups | RefuseGroups(_) | RevokeTokens | Visit(..))
    };
    let lately = |from: i64, until: i64| from <= now && now < until + VIEW_LAG;
    if world.plan.plan.window.iter().any(|it| it.fault == Fault::ClusterTimeout && lately(it.from, it.until)) {
        return UNANSWERED_LAG;
    }
    let slow = world.plan.plan.window.iter().any(|it| it.fault.ages_views() && lately(it.from, it.until));
    let upset = world.plan.trouble.iter().any(|it| upsets(&it.upset) && lately(it.at, it.at + it.lasts));
    let paused = world.plan.plan.deed.iter().any(|it| match it.what {
        What::Kill { lasts, .. } | What::Pause { lasts, .. } | What::Stop { lasts, .. } => lately(it.at, it.at + lasts),
        _ => false,
    });
    if slow || upset || paused { VIEW_LAG } else { BRIEF_LAG }
}

/// Notes what nodes offer now.
pub fn capacity_changed(world: &World) {
    let offered = world.cluster.peek(offers);
    let now = world.now();
    lock(&world.judge).offered.push_back((now, offered));
}

/// Whether watches are refused now.
pub fn watches_broken(world: &World) -> bool {
    world.now() < lock(&world.judge).watches
}

/// Somebody takes a pod away and makes another under its name, of which nobody knows at once.
pub fn replaced(world: &World, name: &str, uid: String) {
    let mut judge = lock(&world.judge);
    judge.late_pods.insert(name.to_owned(), world.now());
    judge.replaced.insert(name.to_owned(), uid);
}

/// Watches are refused for this long.
pub fn break_watches(world: &World, until: i64) {
    lock(&world.judge).watches = until;
}

/// S6, S8, S9, S10, S11, S12 and S17 for a call that is about to have its effect.
///
/// `late`: nobody waits for its answer any more.
pub fn before_cluster(world: &World, call: &Call, late: bool) {
    let parts = parts(&call.path);
    match (call.method.as_str(), parts.as_slice()) {
        ("POST", [.., "pods"]) => {
            asked(world, "a pod is made");
            pod_created(world, call, late);
        }
        ("POST", [.., "secrets"]) => {
            asked(world, "a Secret is made");
            secret_created(world, call);
        }
        ("DELETE", [.., "pods", name]) => pod_deleted(world, call, name),
        _ => {}
    }
}

fn pod_created(world: &World, call: &Call, late: bool) {
    lock(&world.judge).last_change = world.now();
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let pool = body.pointer("/spec/nodeSelector/riseproject.dev~1board").and_then(Value::as_str).unwrap_or_default();
    if logs::leaks(&String::from_utf8_lossy(&call.body)) {
        world.breaks("S10 one-jit-one-pod", format!("the pod {name} shows its JIT configuration"));
    }
    if world.cluster.peek(|cluster| pod(cluster, name).is_some()) {
        return;
    }
    let now = world.now();
    // Which places are free depends on which nodes whoever asked had in view: those of now, or of a moment ago.
    let views: Vec<_> = {
        let mut judge = lock(&world.judge);
        // The state before the first of the changes that count is one that counts.
        while judge.offered.len() > 1 && judge.offered.get(1).is_some_and(|(at, _)| now - at > UNANSWERED_LAG) {
            judge.offered.pop_front();
        }
        let lag = view_lag(world);
        let known = judge.offered.iter().rposition(|(at, _)| now - at > lag).unwrap_or(0);
        judge.offered.iter().skip(known).map(|(_, view)| view.clone()).collect()
    };
    let left = world.cluster.peek(|cluster| {
        let views = views.into_iter().chain([offers(cluster)]);
        views.map(|view| free(cluster, pool, &view)).max().unwrap_or(0)
    });
    // A call that its caller had given up took effect a moment before: whoever places now may not have seen it yet.
    let unseen = {
        let mut judge = lock(&world.judge);
        if late {
            judge.late_pods.insert(name.to_owned(), now);
        }
        let fresh = |(key, pod): &(&Key, &crate::world::kubernetes::Pod)| {
            let came = judge.late_pods.get(&key.name).is_some_and(|at| now - at < VIEW_LAG);
            came && !is_ended(pod.phase) && board(pod) == pool
        };
        world.cluster.peek(|cluster| cluster.pods.iter().filter(fresh).count() as i64)
    };
    if left < 1 && (late || left + unseen >= 1) {
        // Its caller had given it up, and its place was given to another: it is deleted as an orphan.
        world.rare(Rare::LatePod);
    } else if left < 1 {
        world.breaks("S6 capacity", format!("pod {name} is one of {} too many in its pool", 1 - left));
    }
    let row = lock(&world.database).rows.worker(&WorkerName::from(name)).map(|row| row.pool.clone());
    match row {
        None => world.breaks("S11 owned", format!("pod {name} has no worker row")),
        Some(row) if row.as_str() != pool => {
            world.breaks("S9 exact-labels", format!("pod {name} is for another pool than its row"));
        }
        Some(_) => {}
    }
}

/// S10: a JIT configuration goes to the worker it was made for.
fn secret_created(world: &World, call: &Call) {
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let jit = body.pointer("/stringData/jitconfig").and_then(Value::as_str).unwrap_or_default();
    let whose = world.github.peek(|github| github.runners.values().find(|it| it.jit == jit).map(|it| it.name.clone()));
    if whose.as_ref().is_some_and(|whose| whose != name) {
        world.breaks("S10 one-jit-one-pod", format!("the Secret {name} holds the configuration of {whose:?}"));
    }
}

fn pod_deleted(world: &World, call: &Call, name: &str) {
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    let uid = body.pointer("/preconditions/uid").and_then(Value::as_str);
    let known = world.cluster.peek(|cluster| {
        let pod = pod(cluster, name).filter(|pod| uid.is_none_or(|uid| uid == pod.uid))?;
        let ended = pod.ending.as_ref().map(|ending| world.by_cluster(ending.at));
        Some((pod.phase, pod.deleting.is_some(), ended, world.by_cluster(pod.created)))
    });
    let Some((phase, deleting, ended, created)) = known else { return };
    if deleting {
        return;
    }
    if !is_ended(phase) {
        lock(&world.judge).last_change = world.now();
    }
    if world.strangers.contains(name) {
        return touched(world, "pod", name);
    }
    let busy =
        world.github.peek(|github| github.runners.values().any(|it| it.name == name && it.job.is_some() && it.online));
    // A job may take six hours by default: whose App has been gone for longer, is owed no board.
    let gone = world.github.peek(|github| {
        let entity = name.trim_start_matches("rise-riscv-runner-").split('-').next().and_then(|id| id.parse().ok());
        let account = entity.and_then(|entity| account_of(github, entity)).and_then(|id| github.accounts.get(&id));
        account.is_some_and(|it| it.removed && world.time().since(it.removed_at).0 > 6 * HOUR)
    });
    if busy && !gone && phase == Phase::Running {
        world.breaks("S8 never-kill-busy", format!("pod {name} is deleted while its runner executes a job"));
    }
    let row = lock(&world.database).rows.worker(&WorkerName::from(name)).cloned();
    let Some(Worker { status, failure, completed_at, .. }) = row else { return world.rare(Rare::OrphanPodDeleted) };
    if completed_at.is_some_and(|at| at < created) {
        world.rare(Rare::OrphanPodDeleted);
    }
    if !status.is_ended() {
        return world.breaks("S12 grace", format!("pod {name} is deleted before its row has ended"));
    }
    if lock(&world.judge).replaced.contains_key(name) {
        return;
    }
    // What was alive when its worker was failed is in the way, and goes as soon as it may; views may lag.
    let lag = Span(VIEW_LAG + world.most_skew());
    let was_alive = |at: Time| ended.is_none_or(|ended| ended + lag >= at);
    let quick = failure.is_some_and(|it| it != WorkerFailure::PodFailed) && completed_at.is_some_and(was_alive);
    let ended_for = ended.map_or(0, |at| world.time().since(Time(at.0 / SECOND * SECOND)).0);
    if is_ended(phase) && !quick && ended_for < GRACE - world.most_skew() {
        world.breaks("S12 grace", format!("pod {name} is deleted {} minutes after its end", ended_for / MINUTE));
    }
}
