//! A Kubernetes cluster: pods, nodes, Secrets and events, a scheduler, kubelets and a garbage collector.
//!
//! Objects are kept lean; what the API shows of them is made in `render`. Facts about real clusters: the Kubernetes
//! API reference and concepts pages on the pod lifecycle, garbage collection and the watch protocol.

mod progress;
mod render;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use engine::ids::{Span, Time};
use serde_json::Value;

pub use render::Kind;

/// Watch events kept; a watch that asks for older ones is told 410 Gone, as etcd's compaction does.
const LOG: usize = 4096;
/// The extended resource a board's device plugin offers.
pub const RUNNER_RESOURCE: &str = "riseproject.com/runner";

/// The version the API and the kubelets name.
pub const VERSION: &str = "v1.33.0-model";

/// How long things take in this cluster.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From scheduling to images pulled.
    pub pull: Span,
    /// From images pulled (and the Secret there) to containers running.
    pub start: Span,
    /// From deletion to gone.
    pub terminate: Span,
}

impl Default for Timing {
    fn default() -> Self {
        Self { pull: Span::secs(5), start: Span::secs(2), terminate: Span::secs(3) }
    }
}

/// What goes wrong with one pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its image cannot be pulled.
    ImagePullBackOff,
    /// No node ever fits.
    Unschedulable,
    /// Its runner container ends at once with this code.
    FailsAtStart(i32),
    /// Its runner container is killed for memory as soon as it runs.
    OutOfMemory,
    /// It runs, but nothing in it ever reaches GitHub.
    NeverConnects,
    /// Deleted, it stays Terminating for twenty minutes.
    StuckTerminating,
    /// Its end shows half a minute late.
    LateStatus,
}

/// An object's name in the API.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Empty for nodes.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// `namespace/name`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// A pod's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

/// How the runner container ended.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub code: i32,
    pub at: Time,
    pub reason: String,
    pub message: String,
}

/// One line of a container's log.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// When it was written.
    pub at: Time,
    /// It, without its end.
    pub text: String,
}

/// One pod.
#[derive(Debug, Clone)]
pub struct Pod {
    pub(crate) uid: String,
    pub(crate) version: u64,
    pub(crate) created: Time,
    pub(crate) metadata: Arc<Value>,
    pub(crate) spec: Arc<Value>,
    pub(crate) node: Option<String>,
    pub(crate) phase: Phase,
    pub(crate) scheduled: Option<Time>,
    pub(crate) pulled: Option<Time>,
    pub(crate) started: Option<Time>,
    pub(crate) ending: Option<Ending>,
    /// An end that does not show yet: when it will, and the exit code.
    pub(crate) ends: Option<(Time, i32)>,
    pub(crate) evicted: bool,
    pub(crate) deleting: Option<Time>,
    /// The grace period its deletion was asked with, in seconds.
    pub(crate) grace: i64,
    pub(crate) waiting: Option<(String, String)>,
    pub(crate) fate: Option<Fate>,
}

/// One node.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) version: u64,
    pub(crate) created: Time,
    /// `riseproject.dev/board`.
    pub board: String,
    /// Allocatable runners.
    pub runners: u32,
    /// `Ready` is true.
    pub ready: bool,
    /// Cordoned.
    pub cordoned: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Secret {
    pub uid: String,
    pub version: u64,
    pub created: Time,
    pub body: Arc<Value>,
    pub owners: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    pub uid: String,
    pub version: u64,
    pub created: Time,
}

#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub version: u64,
    pub about: Key,
    pub about_uid: String,
    pub reason: String,
    pub message: String,
    pub warning: bool,
    pub count: u32,
    pub first: Time,
    pub last: Time,
}

/// One line of the watch log.
#[derive(Debug, Clone)]
pub struct WatchEvent {
    /// The resource version after it.
    pub version: u64,
    /// What kind of object.
    pub kind: Kind,
    /// Which.
    pub key: Key,
    /// The object before; `None` when it was made.
    pub before: Option<Arc<Value>>,
    /// The object after, with this version; `None` when it was deleted.
    pub after: Option<Arc<Value>>,
}

/// A runner container that runs, with what it was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunnerProcess {
    /// The pod.
    pub pod: Key,
    /// Its uid.
    pub uid: String,
    /// The JIT configuration it read from its environment.
    pub jit_config: String,
}

/// Why the API says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// 404.
    NotFound,
    /// 404: the namespace.
    NoNamespace(String),
    /// 409 AlreadyExists.
    AlreadyExists,
    /// 409 Conflict: a precondition does not hold.
    Conflict(String),
    /// 403: quota.
    Forbidden(String),
    /// 422.
    Invalid(String),
    /// 400.
    BadRequest(String),
    /// 410: the resource version is too old.
    Gone,
}

/// The cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(crate) version: u64,
    uids: u64,
    pub(crate) pods: BTreeMap<Key, Pod>,
    pub(crate) nodes: BTreeMap<String, Node>,
    pub(crate) secrets: BTreeMap<Key, Secret>,
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    /// By the uid of what they are about, and their reason.
    pub(crate) events: BTreeMap<(String, String), Event>,
    pub(crate) logs: BTreeMap<(String, String), Vec<LogLine>>,
    /// Every object as watchers last saw it.
    shown: BTreeMap<(Kind, Key), Arc<Value>>,
    log: VecDeque<WatchEvent>,
    /// Events up to this version are forgotten.
    floor: u64,
    /// A pod went: its Secret may be an orphan.
    pub(crate) orphans: bool,
    /// How long things take.
    pub timing: Timing,
    /// What happens to pods by name.
    pub fates: BTreeMap<String, Fate>,
    /// What happens to the next pods created, in order; `None` is nothing.
    pub next_fates: VecDeque<Option<Fate>>,
    /// Pods created so far.
    pub pods_created: u64,
    /// Pods that may exist; beyond it creating one is forbidden.
    pub quota: Option<usize>,
}

impl Cluster {
    /// A cluster with nothing but the namespace `default`. `seed` varies uids.
    pub fn new(seed: u64) -> Self {
        let mut cluster = Self {
            version: 1,
            uids: seed << 20,
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            events: BTreeMap::new(),
            shown: BTreeMap::new(),
            logs: BTreeMap::new(),
            log: VecDeque::new(),
            floor: 0,
            orphans: false,
            timing: Timing::default(),
            fates: BTreeMap::new(),
            next_fates: VecDeque::new(),
            pods_created: 0,
            quota: None,
        };
        // Nothing has this name yet.
        let _ = cluster.create_namespace("default", Time::ZERO);
        cluster
    }

    /// The latest resource version.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn new_uid(&mut self) -> String {
        self.uids += 1;
        format!("{:08x}-0000-4000-8000-{:012x}", self.uids >> 32, self.uids & 0xffff_ffff_ffff)
    }

    pub(crate) fn bump(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Notes for watchers how an object is now; `None` when it is gone. Call after it holds its new version.
    pub(crate) fn note(&mut self, kind: Kind, key: &Key, object: Option<Value>) {
        if self.log.len() == LOG
            && let Some(forgotten) = self.log.pop_front()
        {
            self.floor = forgotten.version;
        }
        let after = object.map(Arc::new);
        let id = (kind, key.clone());
        let before = match &after {
            Some(after) => self.shown.insert(id, after.clone()),
            None => self.shown.remove(&id),
        };
        self.log.push_back(WatchEvent { version: self.version, kind, key: key.clone(), before, after });
    }

    /// What happened to objects of `kind` after `version`.
    pub fn since(&self, kind: Kind, version: u64) -> Result<Vec<WatchEvent>, Refusal> {
        if version < self.floor {
            return Err(Refusal::Gone);
        }
        Ok(self.log.iter().filter(|event| event.kind == kind && event.version > version).cloned().collect())
    }

    /// Whether a listing as of `version` can still be gone on with.
    pub fn remembers(&self, version: u64) -> bool {
        version >= self.floor
    }

    /// Forgets the watch log, so that every watch that resumes is told 410 Gone.
    pub fn compact(&mut self) {
        self.floor = self.bump();
        self.log.clear();
    }

    /// Adds a node, or changes it.
    pub fn set_node(&mut self, name: &str, board: &str, runners: u32, now: Time) {
        let version = self.bump();
        let node = Node { version, created: now, board: board.to_owned(), runners, ready: true, cordoned: false };
        self.nodes.insert(name.to_owned(), node);
        self.note_node(name);
    }

    /// Changes a node in place.
    pub fn edit_node(&mut self, name: &str, edit: impl FnOnce(&mut Node)) {
        let version = self.bump();
        let Some(node) = self.nodes.get_mut(name) else { return };
        edit(node);
        node.version = version;
        self.note_node(name);
    }

    /// Removes a node; its pods fail.
    pub fn remove_node(&mut self, name: &str, now: Time) {
        self.bump();
        self.nodes.remove(name);
        self.note_node(name);
        let lost: Vec<Key> =
            self.pods.iter().filter(|(_, pod)| pod.node.as_deref() == Some(name)).map(|(key, _)| key.clone()).collect();
        for key in lost {
            self.evict(&key, "NodeLost", now);
        }
    }

    fn note_node(&mut self, name: &str) {
        let object = self.nodes.get(name).map(|node| render::node(name, node));
        self.note(Kind::Node, &Key::new("", name), object);
    }

    /// Names of all pods.
    pub fn pod_keys(&self) -> Vec<Key> {
        self.pods.keys().cloned().collect()
    }

    /// Runner containers that run and were given a JIT configuration they can use; without those whose uid is `known`.
    pub fn started_runners(&self, known: impl Fn(&str) -> bool) -> Vec<RunnerProcess> {
        let connects = |pod: &&Pod| pod.phase == Phase::Running && pod.fate != Some(Fate::NeverConnects);
        self.pods
            .iter()
            .filter(|(_, pod)| connects(pod) && !known(&pod.uid))
            .filter_map(|(key, pod)| {
                let jit_config = self.jit_config(key, pod)?;
                Some(RunnerProcess { pod: key.clone(), uid: pod.uid.clone(), jit_config })
            })
            .collect()
    }

    /// The pod of this name and uid, while its runner container runs.
    pub fn runs(&self, key: &Key, uid: &str) -> bool {
        self.pods.get(key).is_some_and(|pod| pod.uid == uid && pod.phase == Phase::Running)
    }

    fn jit_config(&self, key: &Key, pod: &Pod) -> Option<String> {
        let (name, field) = secret_ref(&pod.spec)?;
        let secret = self.secrets.get(&Key::new(&key.namespace, &name))?;
        render::secret_value(&secret.body, &field)
    }

    /// Appends a line to a container's log, without its end.
    pub fn append_log(&mut self, uid: &str, container: &str, line: &str, now: Time) {
        let log = self.logs.entry((uid.to_owned(), container.to_owned())).or_default();
        log.push(LogLine { at: now, text: line.to_owned() });
    }
}

/// The Secret and key that the runner container's environment names.
fn secret_ref(spec: &Value) -> Option<(String, String)> {
    let containers = spec.get("containers")?.as_array()?;
    let env = containers.iter().filter_map(|container| container.get("env")?.as_array()).flatten();
    let secret = env
        .filter(|var| var.get("name").and_then(Value::as_str) == Some("ACTIONS_RUNNER_INPUT_JITCONFIG"))
        .find_map(|var| var.pointer("/valueFrom/secretKeyRef"))?;
    Some((secret.get("name")?.as_str()?.to_owned(), secret.get("key")?.as_str()?.to_owned()))
}

/// Runners that a pod asks for.
pub(crate) fn requested(spec: &Value) -> u32 {
    let containers = spec.get("containers").and_then(Value::as_array).into_iter().flatten();
    containers
        .filter_map(|container| {
            container.get("resources")?.get("limits")?.get(RUNNER_RESOURCE)?.as_str()?.parse::<u32>().ok()
        })
        .sum()
}
