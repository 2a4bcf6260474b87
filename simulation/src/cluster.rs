//! The cluster, as lean as a fast simulation needs it: pods, nodes, placement, and what watches see of them.

use std::{collections::BTreeMap, sync::Arc};

use engine::{
    facts::{Change, ClusterError, Node as NodeFact, Pod as PodFact, PodListing, PodPhase, Worker},
    ids::{NodeName, PodUid, Pool, Time, WorkerName},
};

use crate::{
    register::{Fault, Rare},
    run::{Event, MINUTE, SECOND, Sim},
    trace::number,
};

/// From a node's silence to its pods' failure.
const NODE_PATIENCE: i64 = 5 * MINUTE;

/// What is wrong with a pod from the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Nothing.
    Fine,
    /// Its image cannot be pulled.
    ImagePull,
    /// It fits nowhere.
    Unschedulable,
    /// Its container ends at once.
    StartFails,
    /// It runs and never reaches GitHub.
    NeverConnects,
}

/// One pod. Times are milliseconds since the world's start.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its uid.
    pub uid: PodUid,
    /// Its pool, by index.
    pub pool: usize,
    /// Its phase.
    pub phase: PodPhase,
    /// Its node: its pool and its place there.
    pub node: Option<(usize, usize)>,
    /// When it was made, in whole seconds.
    pub created: i64,
    /// When its container started.
    pub started: Option<i64>,
    /// When its container ended.
    pub finished: Option<i64>,
    /// `deletionTimestamp` is set.
    pub deleting: bool,
    /// Images are pulled; only the Secret may be missing.
    pub pulled: bool,
    /// The runner entry that its JIT configuration made.
    pub secret: Option<i64>,
    /// The runner its process is connected as.
    pub connected: Option<i64>,
    /// What is wrong with it.
    pub fate: Fate,
    /// It was made by a call that nobody waited for any more.
    pub late: bool,
    /// Since when its phase has been what it is.
    pub since: i64,
    /// Whose it is.
    pub whose: Whose,
}

/// Who made a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whose {
    /// The service.
    Ours,
    /// Somebody, in place of one of ours and under its name.
    Replaced,
    /// Somebody, and it is none of ours.
    Strangers,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// Runners it offers.
    pub runners: u32,
    /// It answers.
    pub ready: bool,
    /// Nothing new is placed there.
    pub cordoned: bool,
}

impl Node {
    fn is_usable(&self) -> bool {
        self.ready && !self.cordoned
    }
}

/// The cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Pods by name.
    pub pods: BTreeMap<WorkerName, Pod>,
    /// Nodes by pool.
    pub nodes: Vec<Vec<Node>>,
    /// Pools' names.
    pub pools: Vec<Pool>,
    /// Nodes' names, by pool.
    names: Vec<Vec<NodeName>>,
    /// Pods on each node that have not ended, by pool.
    used: Vec<Vec<u32>>,
    /// Pods of each pool that have not ended.
    live: Vec<i64>,
    uids: u64,
    /// Pods made over the whole run.
    pub made: u64,
}

impl Cluster {
    /// What each node of a pool offers.
    pub fn offers(&self, pool: usize) -> impl Iterator<Item = i64> {
        self.nodes[pool].iter().map(|node| if node.is_usable() { i64::from(node.runners) } else { 0 })
    }

    /// Places of a pool that are free where its nodes offer this: a node's pods that have not ended take no more than it
    /// offers, and each that is on no node yet takes one.
    pub fn free(&self, pool: usize, offers: &[i64]) -> i64 {
        let nodes = offers.iter().zip(&self.used[pool]);
        let placed: u32 = self.used[pool].iter().sum();
        let there = nodes.map(|(offer, used)| (offer - i64::from(*used)).max(0));
        there.sum::<i64>() - (self.live[pool] - i64::from(placed))
    }

    /// Places of a pool that are free.
    pub fn free_now(&self, pool: usize) -> i64 {
        self.free(pool, &self.offers(pool).collect::<Vec<_>>())
    }

    /// A pod ends, or goes without having ended.
    fn give_back(&mut self, pool: usize, node: Option<(usize, usize)>) {
        self.live[pool] -= 1;
        if let Some((pool, i)) = node {
            self.used[pool][i] -= 1;
        }
    }
}

impl Sim {
    pub(crate) fn set_up_cluster(&mut self) {
        for (p, pool) in self.plan.world.pool.iter().enumerate() {
            let node = |&runners: &u32| Node { runners, ready: true, cordoned: false };
            self.cluster.nodes.push(pool.nodes.iter().map(node).collect());
            self.cluster.pools.push(Pool::from(pool.name.as_str()));
            let names = (0..pool.nodes.len()).map(|i| NodeName::from(format!("node-{p}-{i}")));
            self.cluster.names.push(names.collect());
            self.cluster.used.push(vec![0; pool.nodes.len()]);
            self.cluster.live.push(0);
        }
    }

    pub(crate) fn add_pod_of_a_stranger(&mut self, name: WorkerName, pod: Pod) {
        if let Some((pool, node)) = pod.node {
            self.cluster.live[pool] += 1;
            self.cluster.used[pool][node] += 1;
        }
        self.cluster.pods.insert(name, pod);
    }

    fn pod_fact(&self, name: &WorkerName, pod: &Pod) -> PodFact {
        // Kubernetes writes whole seconds.
        let time = |at: i64| self.abs(at / SECOND * SECOND);
        PodFact {
            name: name.clone(),
            uid: pod.uid.clone(),
            pool: Some(self.cluster.pools[pod.pool].clone()),
            phase: pod.phase,
            node: pod.node.map(|(pool, i)| self.cluster.names[pool][i].clone()),
            created_at: time(pod.created),
            started_at: pod.started.map(time),
            finished_at: pod.finished.map(time),
            deleting: pod.deleting,
            waiting: self.waiting(pod).map(str::to_owned),
        }
    }

    fn waiting(&self, pod: &Pod) -> Option<&'static str> {
        match (pod.phase, pod.fate) {
            (PodPhase::Pending, Fate::ImagePull) if pod.node.is_some() => Some("ImagePullBackOff"),
            (PodPhase::Pending, _) if pod.pulled && pod.secret.is_none() => Some("CreateContainerConfigError"),
            (PodPhase::Pending, _) if pod.node.is_none() => Some("Unschedulable"),
            _ => None,
        }
    }

    fn node_fact(&self, at: (usize, usize)) -> NodeFact {
        let node = &self.cluster.nodes[at.0][at.1];
        NodeFact {
            name: self.cluster.names[at.0][at.1].clone(),
            pool: Some(self.cluster.pools[at.0].clone()),
            runners: node.runners,
            usable: node.is_usable(),
        }
    }

    pub(crate) fn all_pods(&self, asked_at: Time) -> PodListing {
        let pods = self.cluster.pods.iter().map(|(name, pod)| self.pod_fact(name, pod)).collect();
        PodListing { asked_at, pods }
    }

    pub(crate) fn all_nodes(&self) -> Vec<NodeFact> {
        let pools = self.cluster.nodes.iter().enumerate();
        pools.flat_map(|(pool, nodes)| (0..nodes.len()).map(move |i| (pool, i))).map(|at| self.node_fact(at)).collect()
    }

    fn show_pod(&mut self, name: &WorkerName) {
        let Some(pod) = self.cluster.pods.get(name) else { return };
        let (uid, phase) = (number(pod.uid.as_str()), pod.phase);
        let (deleting, waiting) = (pod.deleting, self.waiting(pod));
        let fact = self.is_watched().then(|| self.pod_fact(name, pod));
        self.note("pod", uid, phase as i64, || format!("{name} {phase:?} deleting={deleting} {waiting:?}"));
        if let Some(fact) = fact {
            self.watchers_see(&Change::PodSeen(fact));
        }
    }

    // ---- the API

    pub(crate) fn create_pod(&mut self, worker: &Worker) -> Result<PodFact, ClusterError> {
        let name = &worker.name;
        if self.strikes(Fault::ClusterBefore) {
            return Err(ClusterError::Unavailable { message: String::from("500") });
        }
        if self.strikes(Fault::QuotaDenied) {
            return Err(ClusterError::Refused { status: 403, message: String::from("exceeded quota") });
        }
        if self.cluster.pods.contains_key(name) {
            self.counts.rare(Rare::PodFoundAfterLostAnswer);
            return Err(ClusterError::AlreadyExists);
        }
        let Some(pool) = self.cluster.pools.iter().position(|pool| *pool == worker.pool) else {
            return Err(ClusterError::Refused { status: 422, message: String::from("no such board") });
        };
        let fates = [
            (Fault::ImagePull, Fate::ImagePull),
            (Fault::Unschedulable, Fate::Unschedulable),
            (Fault::StartFails, Fate::StartFails),
            (Fault::NeverConnects, Fate::NeverConnects),
        ];
        let mut fate = Fate::Fine;
        for (fault, its) in fates {
            if fate == Fate::Fine && self.strikes(fault) {
                fate = its;
            }
        }
        self.cluster.uids += 1;
        self.cluster.made += 1;
        let pod = Pod {
            uid: PodUid(Arc::from(format!("uid-{}", self.cluster.uids))),
            pool,
            phase: PodPhase::Pending,
            node: None,
            created: self.now / SECOND * SECOND,
            started: None,
            finished: None,
            deleting: false,
            pulled: false,
            secret: None,
            connected: None,
            fate,
            late: self.late_call,
            since: self.now,
            whose: Whose::Ours,
        };
        self.judge_pod_created(worker, pool);
        let fact = self.pod_fact(name, &pod);
        self.cluster.pods.insert(name.clone(), pod);
        self.cluster.live[pool] += 1;
        self.show_pod(name);
        self.place(name.clone());
        if self.strikes(Fault::ClusterAfter) {
            return Err(ClusterError::Unavailable { message: String::from("500") });
        }
        Ok(fact)
    }

    pub(crate) fn create_secret(&mut self, name: &WorkerName, uid: &PodUid, jit: i64) -> Result<(), ClusterError> {
        if self.strikes(Fault::ClusterBefore) {
            return Err(ClusterError::Unavailable { message: String::from("500") });
        }
        match self.cluster.pods.get_mut(name) {
            Some(pod) if pod.uid == *uid => {
                if pod.secret.is_some() {
                    return Err(ClusterError::AlreadyExists);
                }
                pod.secret = Some(jit);
            }
            // Its owner is gone: the garbage collector takes it at once.
            Some(_) | None => return Ok(()),
        }
        self.judge_jit_used(jit, uid);
        let wait = self.rng.between(SECOND, 2 * SECOND);
        self.after(wait, Event::StartPod(name.clone()));
        if self.strikes(Fault::ClusterAfter) {
            return Err(ClusterError::Unavailable { message: String::from("500") });
        }
        Ok(())
    }

    pub(crate) fn delete_pod(&mut self, name: &WorkerName, uid: &PodUid) -> Result<(), ClusterError> {
        if self.strikes(Fault::ClusterBefore) {
            return Err(ClusterError::Unavailable { message: String::from("500") });
        }
        self.job_in_the_way(name);
        let exists = self.cluster.pods.get(name).is_some_and(|pod| pod.uid == *uid && !pod.deleting);
        if exists {
            self.judge_pod_deleted(name);
            if let Some(pod) = self.cluster.pods.get_mut(name) {
                pod.deleting = true;
            }
            self.show_pod(name);
            let stuck = if self.strikes(Fault::StuckTerminating) { 8 * MINUTE } else { 0 };
            let wait = self.rng.between(SECOND, 5 * SECOND) + stuck;
            self.after(wait, Event::PodGone(name.clone(), uid.clone()));
            self.stop_process(name);
        }
        if self.strikes(Fault::ClusterAfter) {
            return Err(ClusterError::Unavailable { message: String::from("500") });
        }
        Ok(())
    }

    // ---- what the cluster does by itself

    /// Places a pod if some node has room.
    fn place(&mut self, name: WorkerName) {
        let Some(pod) = self.cluster.pods.get(&name) else { return };
        if pod.node.is_some() || pod.phase != PodPhase::Pending || pod.fate == Fate::Unschedulable || pod.deleting {
            return;
        }
        let pool = pod.pool;
        let fits = |i: &usize| {
            let node = &self.cluster.nodes[pool][*i];
            node.is_usable() && self.cluster.used[pool][*i] < node.runners
        };
        let Some(node) = (0..self.cluster.nodes[pool].len()).find(fits) else { return };
        if let Some(pod) = self.cluster.pods.get_mut(&name) {
            pod.node = Some((pool, node));
            self.cluster.used[pool][node] += 1;
        }
        self.show_pod(&name);
        let wait = self.plan.world.pull + self.rng.between(0, 3 * SECOND);
        self.after(wait, Event::Pulled(name));
    }

    pub(crate) fn place_all(&mut self) {
        let waiting = |(_, pod): &(&WorkerName, &Pod)| pod.phase == PodPhase::Pending && pod.node.is_none();
        let names: Vec<WorkerName> = self.cluster.pods.iter().filter(waiting).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.place(name);
        }
    }

    pub(crate) fn pulled(&mut self, name: WorkerName) {
        let Some(pod) = self.cluster.pods.get_mut(&name) else { return };
        if pod.fate != Fate::ImagePull {
            pod.pulled = true;
        }
        self.show_pod(&name);
        self.after(SECOND, Event::StartPod(name));
    }

    pub(crate) fn start_pod(&mut self, name: WorkerName) {
        let now = self.now;
        let Some(pod) = self.cluster.pods.get_mut(&name) else { return };
        if pod.phase != PodPhase::Pending || !pod.pulled || pod.secret.is_none() || pod.deleting {
            return;
        }
        if pod.node.is_some_and(|(pool, i)| !self.cluster.nodes[pool][i].ready) {
            return;
        }
        pod.phase = PodPhase::Running;
        pod.started = Some(now);
        pod.since = now;
        let fate = pod.fate;
        self.show_pod(&name);
        match fate {
            Fate::StartFails => self.end_pod(&name, PodPhase::Failed),
            Fate::NeverConnects => {}
            Fate::Fine | Fate::ImagePull | Fate::Unschedulable => {
                let wait = self.rng.between(SECOND, 4 * SECOND);
                self.after(wait, Event::Connect(name));
            }
        }
    }

    pub(crate) fn connect_pod(&mut self, name: WorkerName) {
        let Some(pod) = self.cluster.pods.get(&name) else { return };
        if pod.phase != PodPhase::Running || pod.deleting || pod.connected.is_some() {
            return;
        }
        let Some(runner) = pod.secret else { return };
        if let Some(pod) = self.cluster.pods.get_mut(&name) {
            pod.connected = Some(runner);
        }
        if !self.connect(runner) {
            self.end_pod(&name, PodPhase::Failed);
        }
    }

    /// The runner process of a pod ends.
    pub(crate) fn runner_exits(&mut self, name: &WorkerName, runner: i64, code: i32) {
        if self.cluster.pods.get(name).is_none_or(|pod| pod.connected != Some(runner)) {
            return;
        }
        if self.strikes(Fault::LateStatus) {
            let wait = self.rng.between(10 * SECOND, MINUTE);
            return self.after(wait, Event::PodEnds(name.clone(), code));
        }
        self.pod_ends(name, code);
    }

    pub(crate) fn pod_ends(&mut self, name: &WorkerName, code: i32) {
        // One that was made in its place meanwhile has not begun.
        if self.cluster.pods.get(name).is_some_and(|pod| pod.started.is_none()) {
            return;
        }
        self.end_pod(name, if code == 0 { PodPhase::Succeeded } else { PodPhase::Failed });
    }

    fn end_pod(&mut self, name: &WorkerName, phase: PodPhase) {
        let now = self.now;
        let Some(pod) = self.cluster.pods.get_mut(name).filter(|pod| !pod.phase.is_ended()) else { return };
        pod.phase = phase;
        pod.finished = Some(now);
        pod.since = now;
        let (connected, created, pool, node) = (pod.connected, pod.created, pod.pool, pod.node);
        self.cluster.give_back(pool, node);
        self.meter_pod(name, now - created);
        if let Some(runner) = connected {
            self.disconnect(runner);
        }
        self.show_pod(name);
        self.place_all();
    }

    fn stop_process(&mut self, name: &WorkerName) {
        if let Some(runner) = self.cluster.pods.get(name).and_then(|pod| pod.connected) {
            self.disconnect(runner);
        }
    }

    pub(crate) fn pod_gone(&mut self, name: &WorkerName, uid: &PodUid) {
        if self.cluster.pods.get(name).is_none_or(|pod| pod.uid != *uid) {
            return;
        }
        if let Some(pod) = self.cluster.pods.remove(name).filter(|pod| !pod.phase.is_ended()) {
            self.cluster.give_back(pod.pool, pod.node);
            self.meter_pod(name, self.now - pod.created);
        }
        self.note("pod-gone", number(uid.as_str()), 0, || format!("{name}"));
        self.watchers_see(&Change::PodGone { name: name.clone(), uid: uid.clone() });
        self.place_all();
    }

    pub(crate) fn evict(&mut self) {
        let Some(name) = self.some_running_pod() else { return };
        self.counts.fault(Fault::Evicted);
        self.end_pod(&name, PodPhase::Failed);
    }

    pub(crate) fn vanish(&mut self) {
        let Some(name) = self.some_running_pod() else { return };
        self.counts.fault(Fault::PodTaken);
        self.stop_process(&name);
        let Some(uid) = self.cluster.pods.get(&name).map(|pod| pod.uid.clone()) else { return };
        self.pod_gone(&name, &uid);
    }

    /// Some running pod is deleted by force, and another made under its name: who restores what was there before, say.
    pub(crate) fn replace(&mut self) {
        let Some(name) = self.some_running_pod() else { return };
        self.counts.fault(Fault::NameReused);
        self.stop_process(&name);
        let Some(pod) = self.cluster.pods.get(&name).cloned() else { return };
        self.pod_gone(&name, &pod.uid);
        self.cluster.uids += 1;
        let another = Pod {
            uid: PodUid(Arc::from(format!("uid-{}", self.cluster.uids))),
            phase: PodPhase::Pending,
            node: None,
            created: self.now / SECOND * SECOND,
            started: None,
            pulled: false,
            secret: None,
            connected: None,
            fate: Fate::Fine,
            late: true,
            since: self.now,
            whose: Whose::Replaced,
            ..pod
        };
        self.cluster.live[another.pool] += 1;
        self.cluster.pods.insert(name.clone(), another);
        self.show_pod(&name);
        self.place(name);
    }

    fn some_running_pod(&mut self) -> Option<WorkerName> {
        let running: Vec<WorkerName> = self
            .cluster
            .pods
            .iter()
            .filter(|(_, pod)| pod.phase == PodPhase::Running && !pod.deleting && pod.whose == Whose::Ours)
            .map(|(name, _)| name.clone())
            .collect();
        if running.is_empty() {
            return None;
        }
        let chosen = self.rng.below(running.len() as u64) as usize;
        running.into_iter().nth(chosen)
    }

    pub(crate) fn set_ready(&mut self, node: (usize, usize), ready: bool) {
        if !ready {
            self.counts.fault(Fault::NodeLost);
        }
        self.judge_capacity_changes();
        self.cluster.nodes[node.0][node.1].ready = ready;
        let fact = self.node_fact(node);
        self.note("node", node.0 as i64, i64::from(ready), || format!("{} usable={}", fact.name, fact.usable));
        let fact = self.node_fact(node);
        self.watchers_see(&Change::NodeSeen(fact));
        let on_it: Vec<WorkerName> = self
            .cluster
            .pods
            .iter()
            .filter(|(_, pod)| pod.node == Some(node) && !pod.phase.is_ended())
            .map(|(name, _)| name.clone())
            .collect();
        for name in on_it {
            if ready {
                // What ran there did not survive.
                let lost = self.cluster.pods.get(&name).is_some_and(|pod| pod.phase == PodPhase::Unknown);
                if lost {
                    self.end_pod(&name, PodPhase::Failed);
                } else {
                    self.after(SECOND, Event::StartPod(name));
                }
            } else {
                self.stop_process(&name);
                if let Some(pod) = self.cluster.pods.get_mut(&name).filter(|pod| pod.phase == PodPhase::Running) {
                    pod.phase = PodPhase::Unknown;
                    self.show_pod(&name);
                    self.after(NODE_PATIENCE, Event::PodLost(name));
                }
            }
        }
        self.place_all();
    }

    pub(crate) fn pod_lost(&mut self, name: &WorkerName) {
        if self.cluster.pods.get(name).is_some_and(|pod| pod.phase == PodPhase::Unknown) {
            self.end_pod(name, PodPhase::Failed);
        }
    }

    pub(crate) fn set_cordoned(&mut self, node: (usize, usize), cordoned: bool) {
        if cordoned {
            self.counts.fault(Fault::NodeCordoned);
        }
        self.judge_capacity_changes();
        self.cluster.nodes[node.0][node.1].cordoned = cordoned;
        let fact = self.node_fact(node);
        self.watchers_see(&Change::NodeSeen(fact));
        self.place_all();
    }
}
