//! What must always hold, each invariant by its name, written against the models' truth and the committed rows.
//!
//! Nothing here asks the engine. Safety is judged at every commit and at every call's effect; liveness every few seconds
//! from when the plan's faults have stopped, with an eye for when waiting is legitimate.

mod cluster;
mod github;
mod liveness;
mod rows;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use engine::{
    facts::Status,
    ids::{JobId, OwnerId, Time, WorkerName},
};
use serde_json::Value;
use simulation::run::{HOUR, MINUTE};

use super::world::{Node, World, lock};
use crate::world::{
    github::GitHub,
    kubernetes::{self, Cluster, Key, Phase, Pod},
};

pub use cluster::{before_cluster, break_watches, capacity_changed, replaced, watches_broken};
pub use github::{
    after_github, answered, before_github, blocked, clock_jumps, delivered, github_called, reinstalled, shown,
    suspension_ends, told_to_wait, told_until, unheard_mint, untold,
};
pub use liveness::{end, ends, look, troubled};
pub use rows::{
    accepted, after_write, before_write, fenced, granted, installation_failed, jobs_written, read, recording, what,
    writing,
};

/// What a call of an installation weighed (S14).
#[derive(Debug)]
struct Spent {
    at: i64,
    points: i64,
    /// Whose JIT call it is.
    minted: Option<WorkerName>,
    /// Until when a row tells a new leader of it, by the world's time in milliseconds since 1970.
    told_until: i64,
}

/// Memory of what was, to hold what is against.
#[derive(Debug, Default)]
pub struct Judge {
    jobs: BTreeMap<JobId, Status>,
    workers: BTreeMap<WorkerName, Status>,
    accepted: BTreeMap<i64, Told>,
    /// Pods that somebody made in place of ours: the latest uid of each.
    replaced: BTreeMap<String, String>,
    /// How often each delivery was repeated on request.
    repeated: BTreeMap<String, u32>,
    /// When each installation may be called again, as it told all and as it told each caller in its life.
    blocked: BTreeMap<i64, i64>,
    told: BTreeMap<(Node, u64, i64), (i64, i64)>,
    /// Until when an account is in trouble that is not the service's.
    trouble: BTreeMap<i64, i64>,
    untold: BTreeMap<i64, Untold>,
    points: BTreeMap<i64, VecDeque<Spent>>,
    /// When each job was failed.
    failed_at: BTreeMap<JobId, i64>,
    /// By account, since when this leader has been answered what is left of the hour. Until then it can only guess.
    shown: BTreeMap<i64, i64>,
    /// Names under which GitHub has made a runner.
    minted: BTreeSet<WorkerName>,
    /// By account, runners that GitHub made of calls that nobody waited for any more: each is deleted, and another asked for.
    unheard_mints: BTreeMap<i64, i64>,
    /// Workers whose JIT configurations are among those.
    unheard: BTreeSet<String>,
    /// When leadership was granted last.
    granted_at: i64,
    /// What nodes offered at each change, latest last.
    offered: VecDeque<(i64, BTreeMap<String, i64>)>,
    /// Watches are refused until then.
    watches: i64,
    requeued: BTreeSet<JobId>,
    /// Later installations that deliveries have named wrongly, by entity, as this leader has read.
    misleading: BTreeSet<(i64, i64)>,
    /// Since when rows have named an entity's installation rightly.
    named: BTreeMap<(i64, i64), i64>,
    /// By entity, the installations that were read of since the leader leads.
    heard: BTreeSet<(i64, i64)>,
    held: BTreeMap<(&'static str, i64), i64>,
    /// When each owner's rows last changed: decisions lag behind them.
    moved: BTreeMap<OwnerId, i64>,
    /// When a reservation of a group was last refused, by entity and labels.
    refused: BTreeMap<(i64, i64), i64>,
    /// When each account was last suspended no more.
    back: BTreeMap<i64, i64>,
    /// How long a job whose end was lost waits for those that were asked about before it.
    turns: BTreeMap<i64, i64>,
    last_change: i64,
    /// Pods that calls made whose callers had given them up, and when.
    late_pods: BTreeMap<String, i64>,
    /// Since when all is done, and whether that is so of accounts in trouble as well.
    done_at: Option<(i64, bool)>,
    /// What was asked for since then, by kind.
    done_since: BTreeMap<&'static str, u64>,
}

/// L6: something is asked for. With all done that is no more than the periodic reads.
fn asked(world: &World, what: &'static str) {
    let mut judge = lock(&world.judge);
    if judge.done_at.is_some_and(|(at, _)| world.now() > at + MINUTE) {
        *judge.done_since.entry(what).or_default() += 1;
    }
}

/// What a job's accepted deliveries say, all together: the same in whatever order and however often they came.
#[derive(Clone, Debug)]
pub struct Told {
    pub status: Status,
    pub installation: i64,
    pub started: Option<Time>,
    pub ended: Option<Time>,
    /// The greatest names of its repository and its owner.
    pub named: (String, String),
}

/// An account that was refused without being told until when.
#[derive(Debug, Default)]
struct Untold {
    /// How often in a row.
    times: u32,
    /// When it last was, not counting those of the same minute: by the world's clock, and by whose own.
    last: Option<(i64, Node, i64)>,
    /// Until when it is advised to wait.
    until: i64,
    /// When a call was answered since.
    answered: Option<i64>,
}

/// After the faults have stopped, this long is allowed before service is back to normal (L7).
const RECOVERY: i64 = 2 * MINUTE;
/// JIT calls that an installation's points of a minute allow, beside those for what else is asked: a crowd is served at that rate.
const JIT_A_MINUTE: i64 = 160;
/// Of an hour's calls, so many percent are kept for provisioning.
const RESERVED: i64 = 30;
/// The grace period (S12).
const GRACE: i64 = 6 * HOUR;

fn pod<'a>(cluster: &'a Cluster, name: &str) -> Option<&'a Pod> {
    cluster.pods.get(&Key::new("default", name))
}

fn is_ended(phase: Phase) -> bool {
    matches!(phase, Phase::Succeeded | Phase::Failed)
}

/// How many workers an owner may have, if there is a limit.
fn cap(world: &World, owner: OwnerId) -> Option<u32> {
    let plan = &world.plan.plan.world;
    let account = plan.account.iter().find(|account| account.id == owner.0);
    account.and_then(|account| account.cap).or(plan.default_cap)
}

/// S11 and S17: something that is not ours is taken away.
fn touched(world: &World, kind: &str, name: &str) {
    let staging = name.starts_with("rise-riscv-runner-staging-");
    let (invariant, whose) = if staging { ("S17 isolation", "staging's") } else { ("S11 owned", "not ours") };
    world.breaks(invariant, format!("{kind} {name} is {whose}, and is taken away"));
}

/// A path's parts, without its query.
fn parts(path: &str) -> Vec<&str> {
    path.split('?').next().unwrap_or_default().trim_matches('/').split('/').collect()
}

/// What a node offers.
fn offer(node: &kubernetes::Node) -> i64 {
    if node.ready && !node.cordoned { i64::from(node.runners) } else { 0 }
}

/// What each node offers, by its name.
fn offers(cluster: &Cluster) -> BTreeMap<String, i64> {
    cluster.nodes.iter().map(|(name, node)| (name.clone(), offer(node))).collect()
}

fn board(pod: &Pod) -> &str {
    pod.spec.pointer("/nodeSelector/riseproject.dev~1board").and_then(Value::as_str).unwrap_or_default()
}

/// Places of a pool that are free where its nodes offer this: a node's pods that have not ended take no more than it offers,
/// and each that is on no node yet takes one.
fn free(cluster: &Cluster, pool: &str, offers: &BTreeMap<String, i64>) -> i64 {
    let (mut waiting, mut there) = (0, BTreeMap::<&str, i64>::new());
    for pod in cluster.pods.values().filter(|pod| !is_ended(pod.phase)) {
        match &pod.node {
            Some(node) => *there.entry(node).or_default() += 1,
            None if board(pod) == pool => waiting += 1,
            None => {}
        }
    }
    let left = |name: &String| {
        let offer = offers.get(name).copied().unwrap_or(0);
        (offer - there.get(name.as_str()).copied().unwrap_or(0)).max(0)
    };
    let nodes = cluster.nodes.iter().filter(|(_, node)| node.board == pool);
    nodes.map(|(name, _)| left(name)).sum::<i64>() - waiting
}

/// Accounts by what is being looked at.
fn account_of(github: &GitHub, entity: i64) -> Option<i64> {
    match github.accounts.get(&entity) {
        Some(account) => Some(account.id),
        None => github.repos.get(&entity).map(|repo| repo.account),
    }
}
