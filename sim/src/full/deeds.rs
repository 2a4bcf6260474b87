//! What a plan has happen: the models' world as it is set up, as it moves on, and the deeds in it.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use adapters::{github::GROUP_NAME, ports::Clock};
use engine::ids::Span;
use serde_json::json;
use simulation::{
    plan::What,
    register::Fault,
    run::{MINUTE, SECOND},
    strangers,
};
use tokio::time::sleep;

use super::{
    judge, nodes,
    register::More,
    trouble::FullPlan,
    world::{Node, World, lock},
};
use crate::{
    credentials::{APPS, ModelKey, TOKEN},
    http::{
        github::{GitHubFace, RegisteredApp},
        kubernetes::KubernetesFace,
    },
    world::{
        github::{AccountKind, DEFAULT_GROUP, GitHub, JobState, Runner, Scope},
        kubernetes::{Cluster, Fate, Key, RUNNER_RESOURCE, Timing},
    },
};

/// The models' world moves on this often.
const STEP: Duration = Duration::from_millis(250);
/// Jobs that no deed queues have numbers from here on.
const IN_THE_WAY: i64 = 1_000_000;
/// Repositories of each account.
const REPOS: i64 = 2;
/// The label of a node that names its boards.
const BOARD_LABEL: &str = "riseproject.dev/board";

/// A repository's id.
fn repo_id(account: i64, repo: i64) -> i64 {
    account * 100 + repo
}

fn node_name(plan: &FullPlan, (pool, node): (usize, usize)) -> String {
    format!("{}-{node}", plan.plan.world.pool[pool].name)
}

/// Both models behind their faces, as they are at the start.
///
/// `clock` is GitHub's.
pub fn set_up(
    plan: &FullPlan,
    keys: &(ModelKey, ModelKey),
    clock: Clock,
    clock_of_cluster: Clock,
) -> (Arc<GitHubFace>, Arc<KubernetesFace>) {
    let world = &plan.plan.world;
    let now = clock_of_cluster();
    let mut github = GitHub::new(plan.plan.seed);
    github.mischief.busy_lag = Span(world.busy_lag);
    github.mischief.newest_first = world.newest_first;
    for account in &world.account {
        let kind = if account.user { AccountKind::User } else { AccountKind::Organization };
        let login = format!("owner-{}", account.id);
        github.add_account(kind, account.id, &login, account.installation);
        if let Some(known) = github.accounts.get_mut(&account.id) {
            known.quota.limit = account.limit;
        }
        for repo in 1..=REPOS {
            github.add_repo(repo_id(account.id, repo), account.id, &format!("{login}/repo-{repo}"));
        }
    }
    let mut cluster = Cluster::new(plan.plan.seed & 0xffff);
    cluster.timing = Timing { pull: Span(world.pull), ..Timing::default() };
    for (i, pool) in world.pool.iter().enumerate() {
        for (j, runners) in pool.nodes.iter().enumerate() {
            cluster.set_node(&node_name(plan, (i, j)), &pool.name, *runners, now);
        }
    }
    if let Some(strangers) = &world.strangers {
        for (name, runs) in strangers::pods(&plan.plan) {
            let (fate, runners) = if runs { (Fate::NeverConnects, "1") } else { (Fate::FailsAtStart(0), "0") };
            cluster.fates.insert(name.clone(), fate);
            let board = if runs { json!({ BOARD_LABEL: world.pool[strangers.pool].name }) } else { json!({}) };
            let limits = json!({ RUNNER_RESOURCE: runners });
            let container = json!({ "name": "runner", "image": "somebody/else:1", "resources": { "limits": limits } });
            let metadata = json!({ "name": name, "labels": { "app": "rise-riscv-runner" } });
            let body = json!({ "metadata": metadata, "spec": { "nodeSelector": board, "containers": [container] } });
            // Nothing has these names.
            let _ = cluster.create_pod("default", body, now);
        }
    }
    for account in &world.account {
        let entity = strangers::entity(account);
        let scope = if account.user { Scope::Repository(entity) } else { Scope::Organization(entity) };
        for (i, it) in strangers::runners(&plan.plan, entity).into_iter().enumerate() {
            // Staging's, the first, is in the group that the service uses.
            let shares = i == 0 && !account.user;
            let group = if shares { github.create_group(entity, GROUP_NAME).ok() } else { None };
            let group = group.unwrap_or(DEFAULT_GROUP);
            github.add_lasting_runner(scope, group, &it.name, &it.labels, it.online);
        }
    }
    let app = |id, kind, key: &ModelKey| RegisteredApp { id, kind, public_key: key.public.clone() };
    let apps = vec![app(APPS.0, AccountKind::Organization, &keys.0), app(APPS.1, AccountKind::User, &keys.1)];
    (GitHubFace::new(github, clock, apps), KubernetesFace::new(cluster, clock_of_cluster, TOKEN))
}

/// Names of all runners and pods that are not ours.
pub fn strangers(plan: &FullPlan) -> BTreeSet<String> {
    let entities = plan.plan.world.account.iter().map(strangers::entity);
    let runners = entities.flat_map(|entity| strangers::runners(&plan.plan, entity)).map(|it| it.name);
    runners.chain(strangers::pods(&plan.plan).into_iter().map(|(name, _)| name)).collect()
}

/// Staging's pod ends at its time.
pub async fn let_strangers_end(world: Arc<World>) {
    let Some(strangers) = &world.plan.plan.world.strangers else { return };
    world.fault(Fault::Strangers);
    wait_until(&world, strangers.until).await;
    let running: Vec<(String, bool)> =
        strangers::pods(&world.plan.plan).into_iter().filter(|(_, runs)| *runs).collect();
    // One that waits for a place is let run first.
    let is_over = |(name, _): &(String, bool)| {
        let key = Key::new("default", name);
        world.cluster.with(|cluster, now| {
            let known = cluster.pods.get(&key).map(|pod| (pod.uid.clone(), pod.ending.is_some()));
            let Some((uid, over)) = known else { return true };
            cluster.finish_runner(&key, &uid, 0, now);
            over
        })
    };
    while !running.iter().all(is_over) {
        sleep(Duration::from_secs(5)).await;
    }
}

/// Lets the models' world move, for ever.
pub async fn move_on(world: Arc<World>) {
    let mut seen = 0;
    let mut lagging = false;
    loop {
        {
            let mut runners = lock(&world.runners);
            world.cluster.with(|cluster, now| {
                world.github.with(|github, at_github| runners.step((cluster, now), (github, at_github)));
            });
        }
        let version = world.cluster.peek(Cluster::version);
        if version != seen {
            seen = version;
            if world.strikes(Fault::WatchBroken) {
                break_watches(&world);
            }
        }
        if world.threatens(Fault::WatchLate) || lagging {
            lagging = world.strikes(Fault::WatchLate);
            let lag = if lagging { world.span(SECOND, MINUTE) } else { Duration::ZERO };
            world.cluster.lag(lag);
        }
        sleep(STEP).await;
    }
}

/// Every watch ends, and none begins for a while; some find their place in the log gone.
fn break_watches(world: &World) {
    world.note("watch", 0, 0, || "every watch breaks".to_owned());
    judge::break_watches(world, world.now() + world.between(SECOND, 2 * MINUTE));
    if world.chance(50) {
        world.more(More::WatchGone);
        world.cluster.with(|cluster, _| cluster.compact());
    }
    world.cluster.cut_watches();
}

/// Everything that the plan has happen, each at its time.
pub async fn play(world: Arc<World>) {
    for (i, deed) in world.plan.plan.deed.iter().enumerate() {
        wait_until(&world, deed.at).await;
        begin(&world, i);
    }
}

/// Everything that happens to processes and to the network.
pub async fn upset(world: Arc<World>) {
    for trouble in &world.plan.trouble {
        wait_until(&world, trouble.at).await;
        nodes::upset(&world, &trouble.upset, trouble.lasts);
    }
}

async fn wait_until(world: &World, at: i64) {
    let wait = at - world.now();
    if wait > 0 {
        sleep(Duration::from_millis(wait.unsigned_abs())).await;
    }
}

/// Has something happen later.
fn later(world: &Arc<World>, wait: i64, act: impl FnOnce(&World) + Send + 'static) {
    let world = world.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(wait.unsigned_abs())).await;
        act(&world);
    });
}

fn begin(world: &Arc<World>, i: usize) {
    let plan = &world.plan;
    let account = |account: usize| plan.plan.world.account[account].id;
    let deed = &plan.plan.deed[i];
    world.note("deed", i as i64, 0, || format!("{:?}", deed.what));
    match deed.what.clone() {
        What::Queue { job, account: whose, repo, labels, runs, held } => {
            let labels: Vec<&str> = plan.plan.world.labels[labels].iter().map(String::as_str).collect();
            let repo = repo_id(account(whose), repo);
            world.github.with(|github, now| {
                github.queue_job(job, repo, &labels, Span(runs), now);
                if held > 0 {
                    github.hold_job(job);
                }
            });
            if held > 0 {
                world.fault(Fault::Held);
                later(world, held, move |world| world.github.with(|github, now| github.release_job(job, now)));
            }
        }
        What::Cancel { job } => {
            let early = world.github.peek(|github| {
                github.jobs.get(&job).is_some_and(|it| matches!(it.state, JobState::Queued | JobState::Waiting))
            });
            if early {
                world.fault(Fault::CancelledEarly);
            }
            world.github.with(|github, now| github.cancel_job(job, now));
        }
        What::Rerun { job, again } => {
            let known = world.github.peek(|github| github.jobs.get(&job).cloned());
            if let Some(job) = known {
                world.fault(Fault::Rerun);
                let labels: Vec<&str> = job.labels.iter().map(String::as_str).collect();
                world.github.with(|github, now| github.queue_job(again, job.repo, &labels, job.duration, now));
            }
        }
        What::NodeLost { node, lasts } => {
            world.fault(Fault::NodeLost);
            set_node(world, node_name(plan, node), lasts, |node, on| node.ready = !on);
        }
        What::Cordon { node, lasts } => {
            world.fault(Fault::NodeCordoned);
            set_node(world, node_name(plan, node), lasts, |node, on| node.cordoned = on);
        }
        What::Evict => {
            if let Some(pod) = some_running_pod(world) {
                world.fault(Fault::Evicted);
                world.cluster.with(|cluster, now| cluster.evict(&pod, "Evicted", now));
            }
        }
        What::Vanish => {
            if let Some(pod) = some_running_pod(world) {
                world.fault(Fault::PodTaken);
                world.cluster.with(|cluster, _| cluster.remove_pod(&pod));
            }
        }
        What::Forget { job } => {
            if world.github.with(|github, _| github.forget_job(job)) {
                world.fault(Fault::JobForgotten);
            }
        }
        What::Uninstall { account: whose } => {
            world.fault(Fault::Uninstalled);
            world.github.with(|github, now| github.remove_installation(account(whose), now));
        }
        What::Rename { account: whose } => {
            world.fault(Fault::Renamed);
            let (id, login) = (account(whose), format!("owner-{}-since-{}", account(whose), world.now()));
            world.github.with(|github, _| github.rename(id, &login));
        }
        What::Reinstall { account: whose, installation } => {
            world.fault(Fault::Reinstalled);
            world.github.with(|github, _| github.reinstall(account(whose), installation));
            judge::reinstalled(world, account(whose));
        }
        What::Suspend { account: whose, lasts } => {
            world.fault(Fault::Suspended);
            let id = account(whose);
            world.github.with(|github, now| github.suspend(id, true, now));
            later(world, lasts, move |world| {
                judge::suspension_ends(world, id);
                world.github.with(|github, now| github.suspend(id, false, now));
            });
        }
        What::UseUp { account: whose } => {
            world.fault(Fault::HourUsedUp);
            world.github.with(|github, now| github.use_up(account(whose), now));
            judge::troubled(world, account(whose), world.now() + 62 * MINUTE);
        }
        What::Kill { scheduler, lasts } => nodes::kill(world, Node::Scheduler(scheduler as u8), lasts),
        What::Pause { scheduler, lasts } => nodes::pause(world, Node::Scheduler(scheduler as u8), lasts),
        What::Stop { scheduler, lasts } => nodes::stop(world, Node::Scheduler(scheduler as u8), lasts),
        What::Clock { scheduler, by } => nodes::jump(world, Node::Scheduler(scheduler as u8), by),
        What::Drift { scheduler, by, lasts } => {
            world.fault(Fault::ClockDrifted);
            tokio::spawn(drift(world.clone(), Node::Scheduler(scheduler as u8), by, lasts));
        }
        What::Replace => {
            if let Some(pod) = some_running_pod(world) {
                world.fault(Fault::NameReused);
                let uid = world.cluster.with(|cluster, now| cluster.replace_pod(&pod, now));
                uid.into_iter().for_each(|uid| judge::replaced(world, &pod.name, uid));
            }
        }
    }
}

/// A clock that runs wrongly is off by a little more every ten seconds.
async fn drift(world: Arc<World>, node: Node, by: i64, lasts: i64) {
    for _ in 0..lasts / (10 * SECOND) {
        sleep(Duration::from_secs(10)).await;
        world.jump(node, by);
    }
}

fn set_node(world: &Arc<World>, name: String, lasts: i64, edit: fn(&mut crate::world::kubernetes::Node, bool)) {
    world.cluster.with(|cluster, _| cluster.edit_node(&name, |node| edit(node, true)));
    judge::capacity_changed(world);
    later(world, lasts, move |world| {
        world.cluster.with(|cluster, _| cluster.edit_node(&name, |node| edit(node, false)));
        judge::capacity_changed(world);
    });
}

/// Now and then a runner that waits for a job gets one in the very moment in which it, or its pod, is taken away.
pub fn job_in_the_way(world: &World, is_it: impl Fn(i64, &Runner) -> bool) {
    let found = world.github.peek(|github| {
        let waits = |(id, it): &(&i64, &Runner)| it.online && it.job.is_none() && is_it(**id, it);
        let runner = github.runners.iter().find(waits).map(|(_, it)| (it.scope, it.labels.clone()));
        runner.map(|runner| (IN_THE_WAY + github.jobs.len() as i64, runner))
    });
    let Some((id, (scope, labels))) = found else { return };
    if !world.strikes(Fault::JobInTheWay) {
        return;
    }
    let repo = match scope {
        Scope::Organization(account) => repo_id(account, 1),
        Scope::Repository(repo) => repo,
    };
    let runs = Span(world.between(10_000, 120_000));
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    world.github.with(|github, now| {
        github.queue_job(id, repo, &labels, runs, now);
        github.tick(now);
    });
}

fn some_running_pod(world: &World) -> Option<Key> {
    let running: Vec<Key> = world.cluster.peek(|cluster| {
        let runs = |(key, pod): &(&Key, &crate::world::kubernetes::Pod)| {
            let ours = !world.strangers.contains(&key.name);
            ours && pod.phase == crate::world::kubernetes::Phase::Running && pod.deleting.is_none()
        };
        cluster.pods.iter().filter(runs).map(|(key, _)| key.clone()).collect()
    });
    let last = running.len().checked_sub(1)?;
    running.into_iter().nth(world.between(0, last as i64) as usize)
}
