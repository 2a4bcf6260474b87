//! What GitHub is asked, and what it told its callers.

use std::collections::BTreeSet;

use engine::{
    facts::{Job, Status},
    ids::{JobId, Span, WorkerName},
};
use serde_json::Value;
use simulation::{
    register::{Fault, Rare},
    run::{MINUTE, SECOND},
};

use super::{
    super::{
        faces::Call,
        trouble::Upset,
        world::{Node, World, lock},
    },
    RECOVERY, RESERVED, Spent, account_of, asked, parts, touched,
};
use crate::world::github::{Account, GitHub, JobState, Scope};

/// How long all calls of one request may take, at most.
const REQUEST: i64 = MINUTE;
/// A call on its way when an answer named a time is no call after it (S14).
const ON_ITS_WAY: i64 = 2 * SECOND;
/// An answer is read this long after it was given, at the latest.
const READ: i64 = 30 * SECOND;
/// Points an installation may spend a minute (S14): a read costs 1, a write 5.
const POINTS: i64 = 900;

/// Which start of a caller this is: what it was told before the last one it has forgotten. A new term is no excuse.
fn life(world: &World, caller: Node) -> u64 {
    world.process(caller, |process| process.life).unwrap_or(0)
}

/// S14: an installation named a time, in seconds from now.
pub fn told_to_wait(world: &World, caller: Node, account: i64, seconds: i64) {
    let until = world.now() + seconds * SECOND;
    {
        let mut judge = lock(&world.judge);
        let known = judge.blocked.entry(account).or_insert(until);
        *known = (*known).max(until);
    }
    told_in(world, caller, account, seconds * SECOND);
}

/// S14: an installation named a time to a caller, by GitHub's clock in milliseconds since 1970.
pub fn told_until(world: &World, caller: Node, account: i64, until: i64) {
    told_in(world, caller, account, until - world.time().0);
}

fn told_in(world: &World, caller: Node, account: i64, wait: i64) {
    let life = life(world, caller);
    let now = world.now();
    // The caller counts from when it hears of it, by its own clock.
    let own = (world.clock(caller))().0 + wait;
    let mut judge = lock(&world.judge);
    // The longest counts.
    let told = judge.told.entry((caller, life, account)).or_insert((now, own));
    if own >= told.1 {
        *told = (now, own);
    }
    // An hour that is used up; a bucket of another's clock may be a little later.
    let until = now + wait + RECOVERY;
    let trouble = judge.trouble.entry(account).or_insert(until);
    *trouble = (*trouble).max(until);
}

/// GitHub's advice for a refusal that names no time: a minute, and twice as long after each further one.
pub fn untold(world: &World, caller: Node, account: i64) {
    let (now, own) = (world.now(), (world.clock(caller))().0);
    let mut judge = lock(&world.judge);
    let untold = judge.untold.entry(account).or_default();
    // A request of several calls is one to the engine: it hears of its end, and not of what was answered before. Answers
    // of one moment come in any order; so what is refused a minute later is a further refusal, whatever pause was due. The
    // caller's minute is shorter when its clock jumps, and no call is under way for longer than that.
    let over = untold.answered.take().is_some_and(|at| now - at > REQUEST);
    untold.times = if over { 0 } else { untold.times };
    // By which clock that minute is over first; that it was refused so often makes only the judge patient.
    let passed = |(last, whose, by_own): (i64, Node, i64)| {
        let by_own = if whose == caller { own - by_own } else { 0 };
        (now - last).max(by_own)
    };
    if untold.last.is_none_or(|last| passed(last) >= MINUTE - 10 * SECOND) {
        untold.until = untold.until.max(now + (MINUTE << untold.times.min(5)));
        untold.times += 1;
        untold.last = Some((now, caller, own));
    }
}

/// An installation answered.
pub fn answered(world: &World, account: i64) {
    let now = world.now();
    let mut judge = lock(&world.judge);
    if let Some(untold) = judge.untold.get_mut(&account).filter(|it| now >= it.until) {
        untold.answered = Some(now);
    }
}

/// ghfe accepted a delivery: what it tells changes rows by right, so that quiet is looked for anew.
pub fn delivered(world: &World) {
    lock(&world.judge).done_at = None;
}

/// An account has a new installation, which has told nobody to wait.
pub fn reinstalled(world: &World, account: i64) {
    let mut judge = lock(&world.judge);
    judge.blocked.remove(&account);
    judge.told.retain(|(_, _, told), _| *told != account);
}

/// An account's App is suspended no more: have jobs waited for that?
pub fn suspension_ends(world: &World, account: i64) {
    // That its App is suspended no more is found out by a call a minute (L7).
    lock(&world.judge).back.insert(account, world.now());
    let database = lock(&world.database);
    let waits = world.github.peek(|github| {
        let is_queued = |id: &JobId| github.jobs.get(&id.0).is_some_and(|job| job.state == JobState::Queued);
        let is_its = |row: &Job| account_of(github, row.entity.0) == Some(account);
        database.rows.jobs().any(|row| row.status == Status::Pending && is_queued(&row.id) && is_its(row))
    });
    if waits {
        world.rare(Rare::OutlivedSuspension);
    }
}

/// How many seconds an account still refuses calls, if it does.
pub fn blocked(world: &World, account: i64) -> Option<i64> {
    let left = lock(&world.judge).blocked.get(&account)? - world.now();
    (left > 0).then_some((left + SECOND - 1) / SECOND)
}

/// A process's clock is about to jump: what is over by it is over, however late it is by the new one. It counts its minutes
/// by that clock, so the minute in which it jumps may be shorter.
pub fn clock_jumps(world: &World, node: Node) {
    let own = (world.clock(node))().0;
    let mut judge = lock(&world.judge);
    judge.told.retain(|(caller, ..), (_, until)| *caller != node || own < *until);
    if matches!(node, Node::Scheduler(_)) {
        judge.points.clear();
        // It takes the hour for over too early, or too late, until it is told anew.
        judge.shown.clear();
    }
}

/// From when until when GitHub stands still, or stood.
pub(super) fn stood_still(world: &World) -> impl Iterator<Item = (i64, i64)> {
    let full = &world.plan;
    let paused = full.trouble.iter().filter(|it| it.upset == Upset::Pause(Node::GitHub));
    let stalled = full.plan.window.iter().filter(|it| it.fault == Fault::GithubStalled);
    paused.map(|it| (it.at, it.at + it.lasts)).chain(stalled.map(|it| (it.from, it.until)))
}

/// Until when a row tells a new leader of a call: of a deletion as long as its worker has failed within the last minute.
fn row_tells_until(world: &World, call: &Call) -> i64 {
    if call.method != http::Method::DELETE {
        return i64::MAX;
    }
    let id = parts(&call.path).last().and_then(|id| id.parse::<i64>().ok());
    let known = |id| world.github.peek(|github| github.runners.get(&id).map(|it| WorkerName::from(it.name.as_str())));
    let name = id.and_then(known);
    let database = lock(&world.database);
    let failed_at = name.and_then(|name| database.rows.worker(&name)?.completed_at);
    failed_at.map_or(0, |at| (at + Span::mins(1)).0)
}

/// Whose JIT configuration a call asks for.
fn minted(call: &Call) -> Option<WorkerName> {
    let asks = call.method == http::Method::POST && parts(&call.path).last() == Some(&"generate-jitconfig");
    let body: Value = serde_json::from_slice(&call.body).ok().filter(|_| asks)?;
    body["name"].as_str().map(WorkerName::from)
}

/// S14 for a call that arrives.
pub fn github_called(world: &World, call: &Call) {
    let parts = parts(&call.path);
    match (call.method.as_str(), parts.as_slice()) {
        ("GET", ["repos", _, _, "actions", "jobs", _]) => asked(world, "a job is asked about"),
        ("POST", [.., "generate-jitconfig"]) => asked(world, "a runner is made"),
        ("DELETE", _) => asked(world, "a runner is deleted"),
        _ => {}
    }
    let Some(account) = call.account else { return };
    let life = life(world, call.caller);
    let now = world.now();
    let own = (world.clock(call.caller))().0;
    let told_until = row_tells_until(world, call);
    let minted = minted(call);
    let mut judge = lock(&world.judge);
    let told = judge.told.get(&(call.caller, life, account)).copied();
    // No leader knows what an earlier one has sent to a GitHub that stands still.
    let granted_at = judge.granted_at;
    let unknown = stood_still(world).any(|(from, until)| (until..until + SECOND).contains(&now) && from <= granted_at);
    let points = judge.points.entry(account).or_default();
    let cost = if call.method == http::Method::GET { 1 } else { 5 };
    // A row tells of one JIT call, however often it was tried: where a group is gone, all of a crowd are tried once more.
    if minted.is_some() {
        points.iter_mut().filter(|spent| spent.minted == minted).for_each(|spent| spent.told_until = 0);
    }
    if !unknown {
        points.push_back(Spent { at: now, points: cost, minted, told_until });
    }
    while points.pop_front_if(|spent| now - spent.at >= MINUTE).is_some() {}
    let sum: i64 = points.iter().map(|spent| spent.points).sum();
    drop(judge);
    // Who stood still hears of it when it goes on.
    let woken = world.process(call.caller, |process| process.woken).unwrap_or(0);
    if let Some((at, until)) = told
        && now - at.max(woken) > ON_ITS_WAY
        && own + SECOND < until
    {
        let what = format!(
            "{} calls account {account} {} s before the time it was told: {} {}",
            call.caller,
            (until - own) / SECOND,
            call.method,
            call.path
        );
        world.breaks("S14 budget", what);
    }
    if sum > POINTS {
        world.breaks("S14 budget", format!("account {account} is asked for {sum} points within a minute"));
    }
}

/// Where runners of this path are registered.
fn scope(github: &GitHub, parts: &[&str]) -> Option<Scope> {
    match parts {
        ["orgs", login, ..] => {
            let account = github.accounts.values().find(|it| it.login.eq_ignore_ascii_case(login))?;
            Some(Scope::Organization(account.id))
        }
        ["repos", owner, name, ..] => {
            let name = format!("{owner}/{name}");
            Some(Scope::Repository(github.repos.values().find(|it| it.full_name == name)?.id))
        }
        _ => None,
    }
}

/// A runner is made of a call that nobody waits for any more.
pub fn unheard_mint(world: &World, account: i64, body: &[u8]) {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut judge = lock(&world.judge);
    *judge.unheard_mints.entry(account).or_default() += 1;
    judge.unheard.extend(body["name"].as_str().map(str::to_owned));
}

/// An answer to an installation's call told what is left of its hour.
pub fn shown(world: &World, account: i64) {
    let now = world.now();
    lock(&world.judge).shown.entry(account).or_insert(now);
}

/// S14: of an hour's calls some are kept for provisioning, which polls do not touch.
fn reserve(world: &World, account: i64) {
    let now = world.now();
    let knows = lock(&world.judge).shown.get(&account).is_some_and(|&shown| now - shown > READ);
    // A clock that runs too fast takes the hour for over a little too early.
    let time = world.time() + Span(world.most_skew());
    let quota = world.github.peek(|github| github.accounts.get(&account).map(|it| it.quota));
    let Some(quota) = quota.filter(|quota| knows && time < quota.reset_at) else { return };
    let (left, limit) = (i64::from(quota.limit) - i64::from(quota.used), i64::from(quota.limit));
    // With none left it is refused.
    if left > 0 && left < limit * (RESERVED - 10) / 100 {
        let what = format!("a job of account {account} is asked about with {left} of {limit} calls left");
        world.breaks("S14 budget", what);
    }
}

/// S9, S11, S14 and S17 for a call that is about to have its effect.
pub fn before_github(world: &World, call: &Call) {
    let parts = parts(&call.path);
    if let (Some(account), "GET", ["repos", _, _, "actions", "jobs", _]) =
        (call.account, call.method.as_str(), parts.as_slice())
    {
        reserve(world, account);
    }
    if call.method == http::Method::POST && parts.last() == Some(&"generate-jitconfig") {
        lock(&world.judge).last_change = world.now();
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let name = body["name"].as_str().unwrap_or_default().to_owned();
        if world.strikes(Fault::RunnerDeaf) {
            world.github.with(|github, _| github.mischief.deaf.insert(name.clone()));
        }
        let labels: BTreeSet<&str> =
            body["labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let scope = world.github.peek(|github| scope(github, &parts));
        let database = lock(&world.database);
        let Some(row) = database.rows.worker(&WorkerName::from(name.as_str())) else {
            drop(database);
            return world.breaks("S11 owned", format!("a JIT configuration is made for {name}, which has no row"));
        };
        let here = match scope {
            Some(Scope::Organization(id) | Scope::Repository(id)) => id == row.entity.0,
            None => true,
        };
        let right = row.labels.iter().collect::<BTreeSet<_>>() == labels && here;
        drop(database);
        if !right {
            world.breaks("S9 exact-labels", format!("runner {name} differs from its row: {labels:?}"));
        }
    } else if call.method == http::Method::GET
        && let ["app", "installations", id] = parts.as_slice()
    {
        let renamed = |it: &Account| it.installation.to_string() == *id && !it.former_logins.is_empty();
        if world.github.peek(|github| github.accounts.values().any(renamed)) {
            world.rare(Rare::NameLookedUp);
        }
    } else if call.method == http::Method::POST
        && let ["app", "hook", "deliveries", id, "attempts"] = parts.as_slice()
    {
        repeated(world, id.parse().unwrap_or(0));
    } else if call.method == http::Method::DELETE
        && let Some(id) = parts.last().and_then(|id| id.parse::<i64>().ok())
    {
        let known = world.github.peek(|github| github.runners.get(&id).map(|it| (it.name.clone(), it.job.is_some())));
        let Some((name, busy)) = known else { return };
        if busy {
            return world.rare(Rare::BusyRunnerKept);
        }
        lock(&world.judge).last_change = world.now();
        if world.strangers.contains(&name) {
            touched(world, "runner", &name);
        }
        let row = lock(&world.database).rows.worker(&WorkerName::from(name.as_str())).map(|row| row.status);
        if row.is_none_or(Status::is_ended) {
            world.rare(Rare::OrphanRunnerDeleted);
        }
    }
}

/// S15: a delivery is not repeated without end.
fn repeated(world: &World, id: i64) {
    let guid = world.github.peek(|github| github.log.iter().find(|it| it.id == id).map(|it| it.guid.clone()));
    let Some(guid) = guid else { return };
    let granted = lock(&world.database).granted;
    let count = {
        let mut judge = lock(&world.judge);
        let count = judge.repeated.entry(guid.clone()).or_default();
        *count += 1;
        *count
    };
    // Each leader may try anew, and one that is not answered is repeated every two minutes.
    let bound = 6 * granted.max(1) + world.now() / (100 * SECOND);
    if i64::from(count) > bound {
        world.breaks("S15 bounded", format!("delivery {guid} is repeated {count} times"));
    }
}

/// What a call came to.
pub fn after_github(world: &World, call: &Call, status: u16) {
    let parts = parts(&call.path);
    if status == 409 && parts.last() == Some(&"generate-jitconfig") {
        world.rare(Rare::NameTakenAfterLostAnswer);
    }
    if status == 201 && parts.last() == Some(&"generate-jitconfig") {
        let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        lock(&world.judge).minted.insert(WorkerName::from(body["name"].as_str().unwrap_or_default()));
    }
    if status == 200
        && let ["repos", _, _, "actions", "jobs", id] = parts.as_slice()
        && let Ok(id) = id.parse::<i64>()
    {
        let done = world
            .github
            .peek(|github| github.jobs.get(&id).is_some_and(|job| matches!(job.state, JobState::Completed(_))));
        if done && lock(&world.database).rows.job(JobId(id)).is_some_and(|row| !row.status.is_ended()) {
            world.rare(Rare::PollFoundCompleted);
        }
    }
}
