//! The nodes: what runs on each, and how each is killed, paused, stopped, started and cut off.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use adapters::{
    ghfe::{Ghfe, Readers, Room, Verifier, router},
    github::{AppKey, Caller, GitHubClient},
    ingest::Ingest,
    kubernetes::{KubernetesClient, PodSettings},
    notices::Notices,
    ports::{Cluster, ClusterEvent},
    scheduler::{Health, Inspect, LEASE, Scheduler},
};
use bytes::Bytes;
use engine::{
    check::check,
    facts::{ClusterError, Pod, PodListing, Worker},
    ids::{PodUid, WorkerName},
};
use futures::{future::BoxFuture, stream::BoxStream};
use http_body_util::{BodyExt, Full};
use madsim::{net::NetSim, runtime::Handle};
use secrecy::SecretString;
use simulation::register::{Fault, Rare};
use tokio::{
    sync::{oneshot, watch},
    time::{sleep, timeout},
};

use super::{
    bridge, faces,
    net::{Dial, serve, told},
    postgres,
    register::More,
    trouble::Upset,
    webhooks,
    world::{Node, Process, World, lock},
};
use crate::credentials::{APPS, Error, ModelKey, WEBHOOK_SECRET};

/// How long a reader waits for a page.
const PATIENCE: Duration = Duration::from_secs(40);
/// What a ghfe tells a reader whom it turns away for want of a place.
const CROWDED: &str = "too many pages are being read";
/// Deliveries that may wait for the store at once, as in production.
const WAITING: usize = 20_000;

/// So many deliveries on their way at once are a storm.
const STORM: usize = 30;

/// Starts every node.
pub fn start_all(world: &Arc<World>) {
    let all: Vec<Node> = lock(&world.processes).keys().copied().collect();
    for node in all {
        let init_world = world.clone();
        Handle::current()
            .create_node()
            .name(node.to_string())
            .ip(node.addr().ip())
            .init(move || run(init_world.clone(), node))
            .build();
    }
}

async fn run(world: Arc<World>, node: Node) {
    let stop = begin(&world, node);
    match node {
        Node::GitHub => {
            let routes = faces::github(world.clone());
            tokio::spawn(webhooks::send(world));
            serve(node, routes, stop).await;
        }
        Node::Cluster => serve(node, faces::kubernetes(world), stop).await,
        Node::Postgres => postgres::serve(world).await,
        Node::Ghfe(_) => {
            let router = router(ghfe(&world, node));
            serve(node, router, stop).await;
            // Requests under way end first.
            sleep(Duration::from_secs(10)).await;
            ended(&world, node);
        }
        Node::Scheduler(_) => {
            let mut stop = stop;
            let scheduler = scheduler(&world, node).expect("its parts are made of constants");
            let routes = adapters::scheduler::router(scheduler.health.clone(), scheduler.clock.clone());
            tokio::spawn(serve(node, routes, stop.clone()));
            let stopped = Box::pin(async move { told(&mut stop).await });
            scheduler.run(stopped).await.expect("no task of a scheduler ends before it");
            ended(&world, node);
        }
    }
}

/// A process begins: with a new life, and a new way to be told to stop.
fn begin(world: &World, node: Node) -> watch::Receiver<bool> {
    world.note("start", i64::from(node.addr().port()), 0, || node.to_string());
    let (stop, stopped) = watch::channel(false);
    world.process(node, |process| {
        process.alive = true;
        process.paused = false;
        process.stopping = None;
        process.health = Arc::new(Health::default());
        process.stop = stop;
        process.life += 1;
    });
    stopped
}

/// A process has ended by itself.
fn ended(world: &World, node: Node) {
    world.note("end", i64::from(node.addr().port()), 0, || node.to_string());
    world.more(More::StoppedInTime);
    world.process(node, |process| process.alive = false);
    // Whatever it left running ends with it.
    Handle::current().kill(node.to_string());
}

fn ghfe(world: &Arc<World>, node: Node) -> Ghfe {
    let readers = Readers::default();
    world.process(node, |process| {
        process.readers = readers.clone();
        process.turned_away = 0;
    });
    let store = postgres::Client::new(world.clone(), node);
    Ghfe {
        ingest: Ingest::new(store.clone(), WAITING),
        room: Room::default(),
        readers: readers.clone(),
        store,
        policy: world.policy.clone(),
        clock: world.clock(node),
        verifier: Verifier::new(&SecretString::from(WEBHOOK_SECRET)),
        proxy: None,
        capture: None,
        public_url: None,
    }
}

fn scheduler(world: &Arc<World>, node: Node) -> Result<Scheduler, Error> {
    let clock = world.clock(node);
    let settings = PodSettings {
        namespace: "default".to_owned(),
        registry: "registry.example".to_owned(),
        tag: "latest".to_owned(),
        host_network: Default::default(),
    };
    let dial = |to| Dial { world: world.clone(), from: node, to };
    let kube = || kube::Client::new(dial(Node::Cluster), "default");
    let cluster = Arc::new(Bridged(bridge::enter(|| KubernetesClient::new(kube(), settings, clock.clone()))));
    let base =
        octocrab::service::middleware::base_uri::BaseUriLayer::new(http::Uri::from_static("http://api.github.com"));
    let crab = octocrab::OctocrabBuilder::new_empty()
        .with_service(dial(Node::GitHub))
        .with_layer(&base)
        .with_executor(Box::new(|worker| {
            madsim::task::spawn_local(worker);
        }))
        .with_auth(octocrab::AuthState::None)
        .build()?;
    let key = |key: &ModelKey, id| -> Result<AppKey, Error> {
        Ok(AppKey { id, key: jsonwebtoken::EncodingKey::from_rsa_pem(key.pem.as_bytes())? })
    };
    let caller = Caller::new(crab, clock.clone(), key(&world.keys.0, APPS.0)?, key(&world.keys.1, APPS.1)?);
    let health = world.process(node, |process| process.health.clone()).unwrap_or_default();
    let drawn = world.clone();
    Ok(Scheduler {
        store: postgres::Client::new(world.clone(), node),
        github: GitHubClient::new(caller),
        cluster,
        policy: world.policy.clone(),
        clock,
        holder: node.to_string(),
        seed: Arc::new(move || drawn.bits()),
        health,
        inspect: Some(inspector(world, node)),
    })
}

/// Holds every decision against the engine's own check, beside this depth's judge, which knows nothing of it.
fn inspector(world: &Arc<World>, node: Node) -> Inspect {
    let world = Arc::downgrade(world);
    Arc::new(move |before, policy, decision, now| {
        for violation in check(before, policy, decision, now) {
            if let Some(world) = world.upgrade() {
                world.breaks(violation.invariant, format!("{node}, by the engine's own check: {}", violation.what));
            }
        }
    })
}

/// The production client of the cluster, with the real runtime that kube's insides want.
struct Bridged(Arc<KubernetesClient>);

impl Cluster for Bridged {
    fn watch(&self, notices: Arc<Notices>) -> BoxStream<'static, ClusterEvent> {
        bridge::stream(bridge::enter(|| self.0.watch(notices)))
    }

    fn list_pods(&self) -> BoxFuture<'_, Result<PodListing, ClusterError>> {
        bridge::future(self.0.list_pods())
    }

    fn create_pod<'a>(&'a self, worker: &'a Worker) -> BoxFuture<'a, Result<Pod, ClusterError>> {
        bridge::future(self.0.create_pod(worker))
    }

    fn create_secret<'a>(
        &'a self,
        worker: &'a WorkerName,
        pod: &'a PodUid,
        config: &'a SecretString,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        bridge::future(self.0.create_secret(worker, pod, config))
    }

    fn delete_pod<'a>(&'a self, name: &'a WorkerName, uid: &'a PodUid) -> BoxFuture<'a, Result<(), ClusterError>> {
        bridge::future(self.0.delete_pod(name, uid))
    }

    fn diagnose<'a>(&'a self, name: &'a WorkerName, uid: &'a PodUid) -> BoxFuture<'a, serde_json::Value> {
        bridge::future(self.0.diagnose(name, uid))
    }
}

// ---- what happens to them

/// A trouble begins.
pub fn upset(world: &Arc<World>, upset: &Upset, lasts: i64) {
    world.note("upset", lasts, 0, || format!("{upset:?} for {lasts} ms"));
    match *upset {
        Upset::Kill(node) => kill(world, node, lasts),
        Upset::KillLeader => kill_leader(world, lasts),
        Upset::Vanish => vanish(world, lasts),
        Upset::Pause(node) => pause(world, node, lasts),
        Upset::Stop(node) => stop(world, node, lasts),
        Upset::Cut(a, b) => cut(world, a, b, lasts),
        Upset::Clock(node, by) => jump(world, node, by),
        Upset::Visit(node, pages) => visit(world, node, pages),
        Upset::RevokeTokens => world.github.with(|github, _| github.revoke_tokens()),
        Upset::RefuseGroups(status) => *lock(&world.groups_refused) = (status, world.now() + lasts),
        Upset::DropGroups => drop_groups(world),
        Upset::OrphanPod => orphan_pod(world, lasts),
    }
}

/// Our runner groups are deleted, if there are any yet.
fn drop_groups(world: &World) {
    let any = world.github.with(|github, _| {
        let any = !github.groups.is_empty();
        github.remove_groups();
        any
    });
    if any {
        world.more(More::GroupsDeleted);
    }
}

/// Readers come to a ghfe, all at once.
fn visit(world: &Arc<World>, node: Node, pages: u32) {
    world.more(More::Visited);
    // From where GitHub is: outside.
    let Some(outside) = Handle::current().get_node(Node::GitHub.to_string()) else { return };
    for page in 0..pages {
        let dial = Dial { world: world.clone(), from: Node::GitHub, to: node };
        outside.spawn(async move { read_page(dial, page as usize).await });
    }
}

/// One reader; whoever is not answered in time goes away.
async fn read_page(dial: Dial, page: usize) {
    let path = ["/usage", "/history.json", "/usage.json", "/history", "/ready"][page % 5];
    let Ok(request) = http::Request::get(path).body(Full::<Bytes>::default()) else { return };
    let exchange = async {
        let response = dial.send(request).await.ok()?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, body))
    };
    let world = &dial.world;
    let life = world.process(dial.to, |process| process.life);
    let (status, body) = timeout(PATIENCE, exchange).await.ok().flatten().unzip();
    let crowded = body.is_some_and(|body| String::from_utf8_lossy(&body).contains(CROWDED));
    if crowded && world.process(dial.to, |process| process.life) == life {
        world.process(dial.to, |process| process.turned_away += 1);
    }
    world.note("visit", page as i64, status.map_or(0, i64::from), || format!("{path} of {}: {status:?}", dial.to));
    match status {
        Some(503) => world.more(More::PageRefused),
        Some(200) | None => {}
        Some(other) => world.breaks("pages", format!("{path} of {} is answered {other}", dial.to)),
    }
}

fn later(world: &Arc<World>, wait: i64, act: impl FnOnce(&Arc<World>) + Send + 'static) {
    let world = world.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(wait.unsigned_abs())).await;
        act(&world);
    });
}

/// Whether a process is up, not paused and not on its way out.
pub fn is_up(world: &World, node: Node) -> bool {
    world.process(node, |it| it.alive && !it.paused && it.stopping.is_none()) == Some(true)
}

fn start(world: &Arc<World>, node: Node) {
    if world.process(node, |it| it.alive) != Some(true) {
        // Its sockets go with what it was; starting it again alone leaves them.
        Handle::current().kill(node.to_string());
        Handle::current().restart(node.to_string());
    }
}

/// A node dies, and is started again.
pub fn kill(world: &Arc<World>, node: Node, lasts: i64) {
    if !is_up(world, node) {
        return;
    }
    match node {
        Node::Scheduler(_) => world.fault(Fault::Killed),
        Node::Ghfe(_) => world.more(More::GhfeKilled),
        Node::Postgres => world.more(More::Failover),
        Node::Cluster => world.more(More::ClusterKilled),
        Node::GitHub => world.more(More::GithubKilled),
    }
    world.dies(node);
    if matches!(node, Node::Scheduler(_))
        && world.github.peek(|it| it.log.iter().filter(|it| !it.over).count() >= STORM)
    {
        world.rare(Rare::KilledInStorm);
    }
    world.process(node, |process| {
        process.alive = false;
        process.health = Arc::default();
    });
    Handle::current().kill(node.to_string());
    if node == Node::GitHub {
        world.github.with(|github, now| github.give_up_deliveries(now));
    }
    later(world, lasts.max(1), move |world| start(world, node));
}

/// The next to make a pod dies of it.
fn orphan_pod(world: &Arc<World>, lasts: i64) {
    let (killer, asks) = oneshot::channel();
    {
        let mut armed = lock(&world.orphans_a_pod);
        if armed.as_ref().is_some_and(|killer| !killer.is_closed()) {
            return;
        }
        *armed = Some(killer);
    }
    let world = world.clone();
    tokio::spawn(async move {
        if let Ok(Ok(node)) = timeout(Duration::from_millis(lasts.unsigned_abs()), asks).await {
            kill(&world, node, world.between(20_000, 60_000));
        }
    });
}

/// Whoever leads is killed: a storm is nothing without.
fn kill_leader(world: &Arc<World>, lasts: i64) {
    let leader = *lock(&world.leader);
    match leader {
        Some(node) if is_up(world, node) => kill(world, node, lasts),
        _ => world.breaks("L8 failover", "nobody leads who could be killed".to_owned()),
    }
}

/// Postgres' host is gone without a word; its standby takes over at its address.
fn vanish(world: &Arc<World>, lasts: i64) {
    if is_up(world, Node::Postgres) {
        world.more(More::Vanished);
        world.vanished.fetch_add(1, Ordering::Relaxed);
        kill(world, Node::Postgres, lasts);
    }
}

/// A process stands still.
pub fn pause(world: &Arc<World>, node: Node, lasts: i64) {
    if !is_up(world, node) {
        return;
    }
    match node {
        Node::Scheduler(_) if lasts <= LEASE.0 => {}
        Node::Scheduler(_) => world.fault(Fault::Paused),
        Node::Ghfe(_) => world.more(More::GhfePaused),
        Node::GitHub => world.more(More::GithubPaused),
        Node::Cluster => world.more(More::ClusterPaused),
        Node::Postgres => world.more(More::PostgresPaused),
    }
    let life = world.process(node, |process| {
        process.paused = true;
        process.life
    });
    Handle::current().pause(node.to_string());
    later(world, lasts, move |world| {
        let same = world.process(node, |process| process.life) == life;
        let now = world.now();
        let wake = |process: &mut Process| {
            process.woken = now;
            std::mem::replace(&mut process.paused, false)
        };
        if same && world.process(node, wake) == Some(true) {
            Handle::current().resume(node.to_string());
        }
    });
}

/// A process is told to stop, and started again once it is gone.
pub fn stop(world: &Arc<World>, node: Node, lasts: i64) {
    if !is_up(world, node) {
        return;
    }
    match node {
        Node::Scheduler(_) => world.fault(Fault::Stopped),
        _ => world.more(More::GhfeStopped),
    }
    let now = world.now();
    world.process(node, |process| {
        process.stopping = Some(now);
        process.stop.send_replace(true);
    });
    let again = world.clone();
    tokio::spawn(async move {
        sleep(Duration::from_millis(lasts.unsigned_abs())).await;
        while again.process(node, |process| process.alive) == Some(true) {
            sleep(Duration::from_secs(1)).await;
        }
        start(&again, node);
    });
}

/// A clock jumps.
pub fn jump(world: &World, node: Node, by: i64) {
    match node {
        Node::Scheduler(_) => world.fault(Fault::ClockJumped),
        Node::Postgres => world.more(More::PostgresClockJumped),
        _ => world.more(More::GhfeClockJumped),
    }
    super::judge::clock_jumps(world, node);
    world.jump(node, by);
}

/// Nothing passes between two nodes for a while.
fn cut(world: &Arc<World>, a: Node, b: Node, lasts: i64) {
    world.more(More::Partitioned);
    let set = move |world: &World, on: bool| {
        world.cut(a, b, on);
        if on == world.is_cut(a, b) {
            let handle = Handle::current();
            let id = |node: Node| handle.get_node(node.to_string()).map(|node| node.id());
            if let (Some(a), Some(b)) = (id(a), id(b)) {
                let net = NetSim::current();
                if on {
                    net.clog_link(a, b);
                    net.clog_link(b, a);
                } else {
                    net.unclog_link(a, b);
                    net.unclog_link(b, a);
                }
            }
        }
    };
    set(world, true);
    later(world, lasts, move |world| set(world, false));
}
