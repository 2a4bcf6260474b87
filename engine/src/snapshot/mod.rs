//! All that is known, with the indexes that `decide` needs, kept current by [`Change`](crate::facts::Change)s.
//!
//! A snapshot also holds what the engine has set in motion: which actions are under way, and for whom. `decide` notes
//! its own actions here, so that deciding twice chooses nothing twice; every action's outcome comes back as a change.
//!
//! Cost: a change costs a few look-ups; nothing here ever walks all jobs. Jobs, scopes, installations and owners stand in
//! tables and name each other by row, so that a change to a job finds its group, its line and its
//! installation without a search.

mod apply;
mod audit;
mod due;
mod fifo;
mod index;
mod outcome;
mod polls;
mod query;
mod table;

use alloc::{
    boxed::Box,
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    vec::Vec,
};

pub(crate) use apply::found;
pub(crate) use due::{Due, Key};
pub use index::{Group, GroupKey, OwnerState, PoolState};
pub(crate) use outcome::MAX_FAILED;
pub(crate) use polls::Polls;
pub(crate) use table::Row;

use crate::{
    decision::{JobFailure, WorkerFailure, Write},
    facts::{App, Assignment, Delivery, Job, Node, Pod, RunnerScope, Status, Worker},
    governor::{Allowance, Backoff, Prepaid, Use},
    ids::{EntityId, Image, InstallationId, JobId, NodeName, OwnerId, PodUid, Pool, Realm, RunnerId, Time, WorkerName},
    labels::LabelSet,
    policy::{Governor, Policy, Timeouts},
};
use table::Table;

/// A group's place in the table of groups.
pub(crate) type Gx = u32;

/// A pool's place in the table of pools.
pub(crate) type Px = u32;

/// One job that is pending or running. A million of them are kept, each in a line of the processor's cache.
#[derive(Clone, Debug)]
pub(crate) struct JobEntry {
    pub created_at: Time,
    pub poll_due: Time,
    /// The last poll's time; [`NEVER_POLLED`] before the first.
    polled: Time,
    /// What most jobs, which wait for a runner and nothing else, have nothing of.
    rest: Option<Box<JobRest>>,
    pub group: Gx,
    /// Where it is from and where it is to run: a row of the snapshot's places.
    pub place: u32,
    /// The row of the installation that serves it.
    pub installation: Row,
    /// The row of the installation that its own row in the store named when that was read last, 0 for none. A wrong delivery
    /// may have named another one than that which serves it.
    pub named: Row,
    pub status: Status,
    pub requeued: bool,
    /// An ending write is under way: no demand any more.
    pub ending: bool,
    pub doubtful: bool,
    /// A poll or a write is under way.
    pub in_flight: bool,
}

/// Before any time that is told.
const NEVER_POLLED: Time = Time(i64::MIN);

/// Where a job is from and where it is to run: one for all jobs of a group that agree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct JobPlace {
    pub repo: Arc<str>,
    /// The boards that its label rule names.
    pub pool: Pool,
    /// That pool's place in the table of pools.
    pub px: Px,
    /// The operating system that its label rule names.
    pub image: Image,
}

/// The rarer part of a job.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct JobRest {
    pub assignment: Option<Assignment>,
    pub requeued_at: Option<Time>,
    /// What GitHub said and the row does not say yet.
    pub finding: Option<Finding>,
}

impl JobEntry {
    /// Under which key it waits to be asked about; `None` while something about it is under way.
    pub fn poll_key(&self) -> Option<(Row, bool, Time)> {
        (!self.in_flight && !self.ending).then_some((self.installation, self.doubtful, self.poll_due))
    }

    pub fn assignment(&self) -> Option<&Assignment> {
        self.rest.as_ref()?.assignment.as_ref()
    }

    pub fn requeued_at(&self) -> Option<Time> {
        self.rest.as_ref()?.requeued_at
    }

    pub fn finding(&self) -> Option<&Finding> {
        self.rest.as_ref()?.finding.as_ref()
    }

    pub fn polled_at(&self) -> Option<Time> {
        Some(self.polled).filter(|&at| at != NEVER_POLLED)
    }

    /// Takes over what a row says in the rarer part.
    fn set_told(&mut self, job: &Job) {
        if self.rest.is_none() && job.assignment.is_none() && job.requeued_at.is_none() {
            return;
        }
        self.edit_rest(|rest| {
            rest.assignment = job.assignment.clone();
            rest.requeued_at = job.requeued_at;
        });
    }

    /// Changes the rarer part, which takes no memory while there is nothing in it.
    pub fn edit_rest(&mut self, edit: impl FnOnce(&mut JobRest)) {
        let mut rest = self.rest.take().unwrap_or_default();
        edit(&mut rest);
        self.rest = Some(rest).filter(|rest| **rest != JobRest::default());
    }
}

/// What must be written about a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// It runs, and GitHub may have said where.
    Started(Option<Assignment>),
    /// It has ended.
    Ended { assignment: Option<Assignment>, at: Time },
    /// It is queued again: what it started on before `at` it has left.
    Requeued { at: Time },
    /// It must be failed, as calls through this installation have shown.
    Failed { failure: JobFailure, through: InstallationId },
}

/// How far this leader has brought a worker's provisioning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Read from the store: another leader, or this one before a restart, made it.
    Found,
    /// The reservation is being written.
    Reserving,
    /// The row is committed; no JIT configuration yet.
    Reserved,
    /// The JIT configuration is in the adapter's hands.
    Minted,
    /// The pod exists; its Secret does not yet.
    PodMade(PodUid),
    /// Nothing left to provision.
    Ready,
}

/// One worker, ended or not.
#[derive(Clone, Debug)]
pub(crate) struct WorkerEntry {
    pub row: Worker,
    pub stage: Stage,
    /// An action on this worker is under way.
    pub in_flight: bool,
    /// What its reservation took of its installation's limits; until its JIT call is made.
    pub mint_paid: Option<Prepaid>,
    /// Its ending is being written without a look at its pod first: it is no supply any more.
    pub ending: bool,
    /// The reservation that is being written, for repeating it.
    pub reserve: Option<Write>,
    pub backoff: Backoff,
    /// When this leader last changed something in the cluster for it: older views say nothing about it.
    pub touched_at: Time,
    /// A job has named it, or GitHub has shown it online.
    pub registered: bool,
    /// GitHub has confirmed, as of then, that no runner entry exists.
    pub runner_gone_at: Option<Time>,
    /// A listing that was asked for before then may lack its runner entry, though that is there or will be: a JIT call whose
    /// end nobody saw may make it until then, and one that was just made may not be listed yet.
    pub mint_until: Time,
    /// Until when a call for its pod that did not say what became of it may have its effect.
    pub pod_until: Time,
    /// Asked at: the first of the latest unbroken row of listings that show it offline or not at all.
    pub offline_since: Option<Time>,
    /// Asked at: the first of the latest unbroken row of listings that show it idle.
    pub idle_since: Option<Time>,
    /// Asked at: the first of the latest unbroken row of listings that show it busy.
    pub busy_since: Option<Time>,
    /// Its removal has begun, for this reason.
    pub removing: Option<WorkerFailure>,
    /// When a job that has ended was first heard to have had its runner. A runner takes one job in its life.
    pub spent_at: Option<Time>,
    /// Busy for long with a job nobody has named, or spent.
    pub phantom: bool,
}

impl WorkerEntry {
    /// Whether GitHub has confirmed, since its end, that no runner entry exists and that none will come.
    pub fn is_gone_there(&self) -> bool {
        let over = self.row.completed_at.unwrap_or(self.mint_until).max(self.mint_until);
        self.runner_gone_at.is_some_and(|at| at >= over)
    }

    /// Whether it is supply: pending or running, and not being ended.
    pub fn is_active(&self) -> bool {
        !self.row.status.is_ended() && !self.ending
    }
}

/// A pod in view.
#[derive(Clone, Debug)]
pub(crate) struct PodEntry {
    pub fact: Pod,
    /// When the engine first heard of it.
    pub seen_at: Time,
    /// When the engine first saw it in this phase: how long that has lasted is told by one clock alone, however far the
    /// cluster's is off.
    pub phase_seen_at: Time,
    /// A deletion is under way.
    pub in_flight: bool,
    pub backoff: Backoff,
}

/// A runner in the last listing.
#[derive(Clone, Debug)]
pub(crate) struct RunnerEntry {
    pub id: RunnerId,
    pub online: bool,
    pub busy: bool,
    /// Asked at: the first listing that showed it.
    pub seen_at: Time,
    pub in_flight: bool,
    pub backoff: Backoff,
}

/// One entity's registered runners.
#[derive(Clone, Debug)]
pub(crate) struct ScopeEntry {
    pub scope: RunnerScope,
    /// When the job was made, and which it is, that has told what its account and its repository are called now: an older one
    /// does not tell better. All zero: a worker's row has.
    pub named_by: (Time, JobId),
    /// Its installation's row.
    pub home: Row,
    /// Other installations that deliveries have named: earlier ones, and wrong ones. No more than [`MAX_OTHERS`] (S15).
    pub others: Vec<Other>,
    /// Ours, by name.
    pub runners: BTreeMap<WorkerName, RunnerEntry>,
    /// When the last complete listing was asked for.
    pub listed_at: Option<Time>,
    /// Pages of that listing.
    pub pages: u32,
    pub in_flight: bool,
    pub backoff: Backoff,
    /// A rule needs a listing asked for at or after this.
    pub wanted: Option<Time>,
    /// What the last listing and deletions showed has not been looked at yet, or is to be looked at again.
    pub news: bool,
    /// Workers of this entity that are pending or running.
    pub active: u32,
    /// Workers of this entity, ended ones too.
    pub workers: BTreeSet<WorkerName>,
    /// Its installation was gone then, and whatever has been answered since has said so, too.
    pub gone: Option<Time>,
    /// The same of the one before, while another is tried.
    pub gone_before: Option<Time>,
    /// Its groups by their labels.
    pub groups: BTreeMap<LabelSet, Gx>,
    /// The group that was asked for last: the next job is most often of the same.
    pub last_group: Option<Gx>,
    /// When the rules are to look at it by themselves; [`Time::NEVER`]: never.
    timer: Time,
}

/// An installation that a delivery has named and that is not taken for the present one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Other {
    pub id: InstallationId,
    /// Calls have shown that our App has no such installation.
    pub gone: bool,
}

/// How many other installations are kept in mind for one scope.
pub(crate) const MAX_OTHERS: usize = 8;

impl ScopeEntry {
    /// Whether there is nothing to learn from a delivery that names this installation; 0 when it names none.
    pub fn knows(&self, id: InstallationId) -> bool {
        id == self.scope.installation || id.0 == 0 || self.others.iter().any(|other| other.id == id)
    }

    /// The greatest other one that a delivery has named and nothing has shown to be gone.
    pub fn untried(&self) -> Option<InstallationId> {
        self.others.iter().filter(|other| !other.gone).map(|other| other.id).max()
    }

    /// The greatest installation that a delivery has named.
    pub fn latest(&self) -> InstallationId {
        self.others.iter().map(|other| other.id).fold(self.scope.installation, InstallationId::max)
    }

    /// Keeps another installation in mind, in place of the least when there are too many.
    fn note_other(&mut self, id: InstallationId, gone: bool) {
        if id.0 == 0 {
            return;
        }
        self.others.retain(|other| other.id != id);
        self.others.push(Other { id, gone });
        if self.others.len() > MAX_OTHERS {
            self.others.sort_by_key(|other| core::cmp::Reverse((!other.gone, other.id)));
            self.others.truncate(MAX_OTHERS);
        }
    }

    /// Asks for a listing asked for at or after `moment`. The earliest wish is kept: whoever wished for a later one is
    /// looked at when the listing is there, and wishes again.
    pub fn want(&mut self, moment: Time) {
        self.wanted = Some(self.wanted.map_or(moment, |known| known.min(moment)));
    }
}

/// One installation.
#[derive(Clone, Debug, Default)]
pub(crate) struct InstallationEntry {
    pub allowance: Allowance,
    /// Active jobs by when they should be polled.
    pub polls: Polls,
    /// Calls in a row that found the installation gone.
    pub gone: Option<Gone>,
    /// Unreachable since.
    pub failing_since: Option<Time>,
    /// Groups that wait for its limits.
    pub throttled: BTreeSet<Gx>,
    /// When the rules are to look at its polls by themselves; `None`: never.
    timer: Option<Time>,
}

/// Calls in a row that found an installation gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gone {
    /// When the first of them ended.
    pub since: Time,
    /// When the last of them ended.
    pub last: Time,
}

/// What an action under way is about.
#[derive(Clone, Debug)]
pub(crate) enum Flight {
    WorkerWrite(WorkerName, Write),
    JobWrite(JobId, Write),
    Poll(JobId, InstallationId),
    /// With the pages that were paid for.
    List(EntityId, InstallationId, Use),
    Mint(WorkerName, InstallationId),
    CreatePod(WorkerName),
    CreateSecret(WorkerName),
    DeleteRunner(EntityId, WorkerName, InstallationId),
    DeletePod(WorkerName),
    ListPods,
    Deliveries(App),
    /// By its GUID: while the call is under way the log may show a newer attempt.
    Redeliver(App, Arc<str>),
}

/// One App's delivery log.
#[derive(Clone, Debug, Default)]
pub(crate) struct AppEntry {
    pub in_flight: bool,
    pub backoff: Backoff,
    /// What the App itself may still be asked: repeating deliveries is no installation's call.
    pub allowance: Allowance,
    /// When the log was last asked for.
    pub read_at: Option<Time>,
    /// Read up to here, by the deliveries' own times.
    pub read_to: Option<Time>,
    /// Failed deliveries still to be repeated, by GUID: the attempt to repeat, when it was, and how often we tried.
    pub failed: BTreeMap<Arc<str>, Failed>,
}

#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub delivery: Delivery,
    pub since: Time,
    /// Attempts that ghfe refused, of those that the log has shown.
    pub refusals: u32,
    pub not_before: Time,
    pub in_flight: bool,
}

/// All that is known and under way.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) realm: Realm,
    pub(crate) timeouts: Timeouts,
    pub(crate) governor: Governor,
    draws: u64,
    next_action: u64,
    pub(crate) now: Time,
    pub(crate) flights: BTreeMap<u64, Flight>,
    pub(crate) jobs: Table<JobId, JobEntry>,
    /// Where jobs are from and where they are to run.
    pub(crate) places: Vec<JobPlace>,
    pub(crate) workers: BTreeMap<WorkerName, WorkerEntry>,
    /// How many of them are pending or running.
    pub(crate) active_workers: u32,
    pub(crate) pods: BTreeMap<WorkerName, PodEntry>,
    pub(crate) nodes: BTreeMap<NodeName, Node>,
    /// How many pods in view that have not ended are on each node, whether that is known or not; none has no entry.
    pub(crate) bound: BTreeMap<NodeName, i64>,
    pub(crate) scopes: Table<EntityId, ScopeEntry>,
    pub(crate) installations: Table<InstallationId, InstallationEntry>,
    pub(crate) apps: BTreeMap<App, AppEntry>,
    pub(crate) groups: Vec<Group>,
    pub(crate) owners: Table<OwnerId, OwnerState>,
    /// Owners whose cap has not been read from the policy yet.
    pub(crate) new_owners: Vec<Row>,
    pub(crate) pools: Vec<PoolState>,
    pub(crate) pool_ix: BTreeMap<Pool, Px>,
    /// Running jobs by the runner they name.
    pub(crate) runner_jobs: BTreeMap<WorkerName, BTreeSet<JobId>>,
    /// What this decision looks at, or the last one has looked at.
    pub(crate) due: Due,
    /// Some pool's workers may have found no place for their pods.
    is_short: bool,
    /// What the next one will look at.
    touched: Due,
    /// What is due later.
    timers: BTreeSet<(Time, Key)>,
    /// The timer of each key that has no row to say so.
    timer_by_key: BTreeMap<Key, Time>,
    /// The store has been read once in full, and when the last reading began.
    pub(crate) synced_at: Option<Time>,
    /// When the last full pod listing was asked for.
    pub(crate) pods_at: Option<Time>,
    /// Pods that the watch saw go, and when it was heard of: a listing asked for before then may have them still.
    pub(crate) pods_gone: VecDeque<(Time, PodUid)>,
    pub(crate) pods_in_flight: bool,
    pub(crate) pods_backoff: Backoff,
    /// All nodes are known.
    pub(crate) nodes_known: bool,
}

impl Snapshot {
    /// Nothing known. `seed` draws worker names: give each leader its own.
    pub fn new(seed: u64, policy: &Policy) -> Self {
        let mut snapshot = Self {
            realm: policy.realm,
            timeouts: policy.timeouts,
            governor: policy.governor,
            draws: seed,
            next_action: 0,
            now: Time::ZERO,
            flights: BTreeMap::new(),
            jobs: Table::default(),
            places: Vec::new(),
            workers: BTreeMap::new(),
            active_workers: 0,
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            bound: BTreeMap::new(),
            scopes: Table::default(),
            installations: Table::default(),
            apps: BTreeMap::new(),
            groups: Vec::new(),
            owners: Table::default(),
            new_owners: Vec::new(),
            pools: Vec::new(),
            pool_ix: BTreeMap::new(),
            runner_jobs: BTreeMap::new(),
            due: Due::default(),
            is_short: false,
            touched: Due::default(),
            timers: BTreeSet::new(),
            timer_by_key: BTreeMap::new(),
            synced_at: None,
            pods_at: None,
            pods_gone: VecDeque::new(),
            pods_in_flight: false,
            pods_backoff: Backoff::default(),
            nodes_known: false,
        };
        for app in [App::Organization, App::Personal] {
            snapshot.apps.insert(app, AppEntry::default());
            snapshot.touch(Key::Deliveries(app));
        }
        snapshot.touch(Key::PodList);
        snapshot
    }

    /// A number nobody has drawn before in this snapshot's life (SplitMix64).
    pub(crate) fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.draws;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn begin(&mut self, flight: Flight) -> u64 {
        self.next_action += 1;
        self.flights.insert(self.next_action, flight);
        self.next_action
    }
}
