//! What all nodes of one simulated world share: the plan, the draws, the truth, and what is noted of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use adapters::{ghfe::Readers, ports::Clock, scheduler::Health};
use engine::{
    ids::{Span, Time},
    policy::Policy,
};
use serde::{Deserialize, Serialize};
use simulation::{
    judge::Broken,
    register::{Fault, Rare},
    rng::Rng,
    trace::Trace,
};
use tokio::sync::{oneshot, watch};

use super::{
    judge::Judge,
    postgres::Database,
    register::{More, Tally},
    trouble::FullPlan,
};
use crate::{
    credentials::ModelKey,
    http::{github::GitHubFace, kubernetes::KubernetesFace},
    world::runners::Runners,
};

/// One machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// api.github.com, and where webhooks come from.
    GitHub,
    /// The Kubernetes API.
    Cluster,
    /// The database.
    Postgres,
    /// A replica of ghfe.
    Ghfe(u8),
    /// A scheduler.
    Scheduler(u8),
}

impl Node {
    /// Where it listens.
    pub fn addr(self) -> SocketAddr {
        let (ip, port) = match self {
            Node::GitHub => ([10, 0, 0, 9], 80),
            Node::Cluster => ([10, 0, 0, 6], 6443),
            Node::Postgres => ([10, 0, 0, 5], 5432),
            Node::Ghfe(i) => ([10, 0, 1, 1 + i], 8080),
            Node::Scheduler(i) => ([10, 0, 2, 1 + i], 8080),
        };
        SocketAddr::from((ip, port))
    }

    /// Reads what [`fmt::Display`] writes.
    pub fn parse(name: &str) -> Option<Self> {
        let number = |rest: &str| rest.parse().ok();
        match name {
            "github" => Some(Node::GitHub),
            "cluster" => Some(Node::Cluster),
            "postgres" => Some(Node::Postgres),
            _ => match name.split_once('-')? {
                ("ghfe", i) => Some(Node::Ghfe(number(i)?)),
                ("scheduler", i) => Some(Node::Scheduler(number(i)?)),
                _ => None,
            },
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::GitHub => f.write_str("github"),
            Node::Cluster => f.write_str("cluster"),
            Node::Postgres => f.write_str("postgres"),
            Node::Ghfe(i) => write!(f, "ghfe-{i}"),
            Node::Scheduler(i) => write!(f, "scheduler-{i}"),
        }
    }
}

/// One process's state as its supervisor knows it.
pub struct Process {
    /// It is up.
    pub alive: bool,
    /// It stands still.
    pub paused: bool,
    /// When it last stood still no more.
    pub woken: i64,
    /// Told to stop, at this time.
    pub stopping: Option<i64>,
    /// Tells it to stop; a new one for each start.
    pub stop: watch::Sender<bool>,
    /// What a scheduler shows of itself.
    pub health: Arc<Health>,
    /// Counts its starts.
    pub life: u64,
    /// A ghfe's places for readers, and how many it has turned away since its start.
    pub readers: Readers,
    pub turned_away: u64,
}

impl Default for Process {
    fn default() -> Self {
        let (stop, _) = watch::channel(false);
        let (health, readers) = (Arc::default(), Readers::default());
        Self { alive: true, paused: false, woken: 0, stopping: None, stop, health, life: 0, readers, turned_away: 0 }
    }
}

/// What is noted, and drawn; nothing else is locked while this is.
pub struct Notes {
    rng: Rng,
    trace: Trace,
    counts: Tally,
    broken: Option<Broken>,
    cuts: BTreeMap<(Node, Node), u32>,
    /// When the last event was.
    last: i64,
    /// The last lines of the trace, when somebody may want to read them.
    recent: Option<VecDeque<(i64, String)>>,
}

/// How much of a trace's text is kept; the hash is over all of it in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeps {
    /// None: a sweep wants the hash alone, and most of a run's lines are never read.
    Nothing,
    /// The last lines, for a failure's report.
    Recent,
    /// All of it.
    All,
}

/// How many of the last lines are kept for a failure's report.
const RECENT: usize = 4000;

/// One simulated world.
pub struct World {
    /// What it was made from.
    pub plan: FullPlan,
    /// What the service runs with.
    pub policy: Arc<Policy>,
    /// The Apps' keys.
    pub keys: (ModelKey, ModelKey),
    /// GitHub.
    pub github: Arc<GitHubFace>,
    /// The cluster.
    pub cluster: Arc<KubernetesFace>,
    /// What joins the two. Locked before either of them.
    pub runners: Mutex<Runners>,
    /// What Postgres has committed. Never locked while a model is.
    pub database: Mutex<Database>,
    /// What must hold.
    pub judge: Mutex<Judge>,
    /// What runs on each node.
    pub processes: Mutex<BTreeMap<Node, Process>>,
    notes: Mutex<Notes>,
    offsets: BTreeMap<Node, Arc<AtomicI64>>,
    started: Instant,
    /// Names of runners and pods that are not ours.
    pub strangers: BTreeSet<String>,
    /// What each process is in the middle of: steps of provisioning, by the rare state that it is to be killed then.
    steps: Mutex<BTreeMap<(Node, Rare), u32>>,
    /// Which scheduler was the last to hear that it leads.
    pub leader: Mutex<Option<Node>>,
    /// Counts the hosts of Postgres that vanished.
    pub vanished: AtomicU64,
    /// With which status GitHub refuses what is about runner groups, and until when.
    pub groups_refused: Mutex<(u16, i64)>,
    /// Is told who is the next to make a pod, and kills it.
    pub orphans_a_pod: Mutex<Option<oneshot::Sender<Node>>>,
    /// Turns true when an invariant broke.
    pub over: watch::Sender<bool>,
}

/// Locks; a panic elsewhere ends the whole run anyway.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// To be made inside the simulation, whose time begins now.
    pub fn new(plan: FullPlan, keys: (ModelKey, ModelKey), keeps: Keeps) -> Arc<Self> {
        let started = Instant::now();
        let by_clock = |ahead: i64| clock(plan.plan.epoch, started, Arc::new(AtomicI64::new(ahead)));
        let (github, cluster) = super::deeds::set_up(&plan, &keys, by_clock(0), by_clock(plan.cluster_ahead));
        let services = (0..plan.plan.world.schedulers as u8)
            .map(Node::Scheduler)
            .chain((0..plan.ghfe as u8).map(Node::Ghfe))
            .collect::<Vec<_>>();
        let skew = |node: &Node| match node {
            Node::Scheduler(i) => plan.plan.world.skew.get(usize::from(*i)).copied().unwrap_or(0),
            _ => 0,
        };
        let clocks = services.iter().copied().chain([Node::Postgres]);
        let offsets = clocks.map(|node| (node, Arc::new(AtomicI64::new(skew(&node))))).collect();
        let notes = Notes {
            rng: Rng::new(plan.plan.seed ^ 0x5eed),
            trace: Trace::new(keeps == Keeps::All),
            counts: Tally::default(),
            broken: None,
            cuts: BTreeMap::new(),
            last: 0,
            recent: (keeps != Keeps::Nothing).then(VecDeque::new),
        };
        Arc::new(Self {
            policy: Arc::new(plan.plan.policy()),
            keys,
            github,
            cluster,
            runners: Mutex::default(),
            database: Mutex::default(),
            judge: Mutex::default(),
            processes: Mutex::new(
                [Node::GitHub, Node::Cluster, Node::Postgres]
                    .into_iter()
                    .chain(services)
                    .map(|node| (node, Process::default()))
                    .collect(),
            ),
            notes: Mutex::new(notes),
            offsets,
            started,
            strangers: super::deeds::strangers(&plan),
            steps: Mutex::default(),
            leader: Mutex::default(),
            vanished: AtomicU64::new(0),
            groups_refused: Mutex::default(),
            orphans_a_pod: Mutex::default(),
            over: watch::channel(false).0,
            plan,
        })
    }

    /// Milliseconds since the world's start.
    pub fn now(&self) -> i64 {
        self.started.elapsed().as_millis() as i64
    }

    /// Now, as the engine knows times.
    pub fn time(&self) -> Time {
        Time(self.plan.plan.epoch + self.now())
    }

    /// A node's own clock.
    pub fn clock(&self, node: Node) -> Clock {
        let offset = self.offsets.get(&node).cloned().unwrap_or_default();
        clock(self.plan.plan.epoch, self.started, offset)
    }

    /// A node's clock jumps.
    pub fn jump(&self, node: Node, by: i64) {
        if let Some(offset) = self.offsets.get(&node) {
            offset.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// By how much one of our clocks is off from GitHub's or the cluster's at the most, in milliseconds. That of Postgres
    /// counts leases, and for which ended workers a new leader reads.
    pub fn most_skew(&self) -> i64 {
        let ours = self.offsets.iter().filter(|(node, _)| **node != Node::Postgres);
        let most = ours.map(|(_, offset)| offset.load(Ordering::Relaxed).abs()).max().unwrap_or(0);
        most + self.plan.cluster_ahead.abs()
    }

    /// A time that the cluster tells, by the world's clock.
    pub fn by_cluster(&self, at: Time) -> Time {
        at - Span(self.plan.cluster_ahead)
    }

    // ---- draws

    /// From `low` to `high`.
    pub fn between(&self, low: i64, high: i64) -> i64 {
        lock(&self.notes).rng.between(low, high)
    }

    /// A time from `low` to `high` milliseconds.
    pub fn span(&self, low: i64, high: i64) -> Duration {
        Duration::from_millis(self.between(low, high).unsigned_abs())
    }

    /// True in `percent` of 100 draws.
    pub fn chance(&self, percent: u32) -> bool {
        lock(&self.notes).rng.chance(percent)
    }

    /// Sixty-four random bits.
    pub fn bits(&self) -> u64 {
        lock(&self.notes).rng.bits()
    }

    /// Whether a kind of fault may strike at all now.
    pub fn threatens(&self, fault: Fault) -> bool {
        let (now, plan) = (self.now(), &self.plan.plan);
        now < plan.quiet_at && plan.window.iter().any(|it| it.fault == fault && it.from <= now && now < it.until)
    }

    /// Whether a fault strikes now.
    pub fn strikes(&self, fault: Fault) -> bool {
        self.struck(fault).is_some()
    }

    /// Whether it does, and when its window ends.
    pub fn struck(&self, fault: Fault) -> Option<i64> {
        let (now, plan) = (self.now(), &self.plan.plan);
        // A job may come at any time: that is no trouble that a quiet world is without.
        if now >= plan.quiet_at && fault != Fault::JobInTheWay {
            return None;
        }
        let window = plan.window.iter().find(|it| it.fault == fault && it.from <= now && now < it.until);
        let (chance, until) = window.map(|it| (it.chance, it.until.min(plan.quiet_at)))?;
        let mut notes = lock(&self.notes);
        let strikes = notes.rng.chance(chance);
        if strikes {
            notes.counts.shared.fault(fault);
        }
        strikes.then_some(until)
    }

    // ---- the network

    /// Nothing passes between two nodes, or does again.
    pub fn cut(&self, a: Node, b: Node, on: bool) {
        let mut notes = lock(&self.notes);
        for key in [(a, b), (b, a)] {
            let count = notes.cuts.entry(key).or_default();
            *count = if on { *count + 1 } else { count.saturating_sub(1) };
        }
    }

    /// Whether nothing passes between two nodes.
    pub fn is_cut(&self, a: Node, b: Node) -> bool {
        lock(&self.notes).cuts.get(&(a, b)).is_some_and(|count| *count > 0)
    }

    // ---- notes

    /// Notes an event in the trace.
    pub fn note(&self, kind: &'static str, a: i64, b: i64, text: impl FnOnce() -> String) {
        let now = self.now();
        let mut notes = lock(&self.notes);
        let notes = &mut *notes;
        notes.last = now;
        let Some(recent) = &mut notes.recent else { return notes.trace.note(now, kind, a, b, text) };
        let text = text();
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back((now, format!("{kind:<10} {text}")));
        notes.trace.note(now, kind, a, b, || text);
    }

    /// A fault happened.
    pub fn fault(&self, fault: Fault) {
        lock(&self.notes).counts.shared.fault(fault);
    }

    /// A rare state was reached.
    pub fn rare(&self, rare: Rare) {
        lock(&self.notes).counts.shared.rare(rare);
    }

    /// Something that only the full depth knows happened.
    pub fn more(&self, more: More) {
        lock(&self.notes).counts.more(more);
    }

    /// An invariant does not hold. The first counts; the run ends.
    pub fn breaks(&self, invariant: &'static str, what: String) {
        self.note("BROKEN", 0, 0, || format!("{invariant}: {what}"));
        let at = self.now();
        lock(&self.notes).broken.get_or_insert(Broken { invariant, at, what });
        self.over.send_replace(true);
    }

    /// What a run came to: what broke, the trace, the counts, the last lines, and when the last event was.
    pub fn take_notes(&self) -> (Option<Broken>, Trace, Tally, Vec<(i64, String)>, i64) {
        let notes = lock(&self.notes);
        let recent = notes.recent.iter().flatten().cloned().collect();
        (notes.broken.clone(), notes.trace.clone(), notes.counts.clone(), recent, notes.last)
    }

    // ---- steps

    /// A process is in the middle of a step, for as long as what is returned lives.
    pub fn step(self: &Arc<Self>, node: Node, killed: Rare) -> Step {
        *lock(&self.steps).entry((node, killed)).or_default() += 1;
        Step { world: self.clone(), node, killed }
    }

    /// A process is about to die: in the middle of what?
    pub fn dies(&self, node: Node) {
        let steps: Vec<Rare> = lock(&self.steps)
            .iter()
            .filter(|((of, _), count)| *of == node && **count > 0)
            .map(|((_, it), _)| *it)
            .collect();
        steps.into_iter().for_each(|step| self.rare(step));
    }

    // ---- processes

    /// Looks at a process or changes it.
    pub fn process<T>(&self, node: Node, act: impl FnOnce(&mut Process) -> T) -> Option<T> {
        lock(&self.processes).get_mut(&node).map(act)
    }
}

/// A step that a process is in the middle of.
pub struct Step {
    world: Arc<World>,
    node: Node,
    killed: Rare,
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(count) = lock(&self.world.steps).get_mut(&(self.node, self.killed)) {
            *count -= 1;
        }
    }
}

fn clock(epoch: i64, started: Instant, offset: Arc<AtomicI64>) -> Clock {
    Arc::new(move || Time(epoch + started.elapsed().as_millis() as i64 + offset.load(Ordering::Relaxed)))
}
