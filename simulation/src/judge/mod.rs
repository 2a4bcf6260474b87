//! What must always hold, each invariant by its name, written against the world's truth and the store's rows.
//!
//! Nothing here asks the engine. Safety is judged at every effect; liveness from the moment the plan's faults have
//! stopped, with an eye for when waiting is legitimate.

mod cluster;
mod github;
mod liveness;
mod rows;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use engine::{
    facts::{Job, Status},
    ids::{EntityId, JobId, OwnerId, PodUid, Time, WorkerName},
    labels::LabelSet,
};

use crate::run::{HOUR, MINUTE, SECOND};

/// Which call of an installation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// One job.
    Poll,
    /// A scope's runners.
    List,
    /// A JIT configuration.
    Mint,
    /// A runner's deletion.
    Delete {
        /// When its worker had failed, if a row says so.
        failed_at: Option<i64>,
    },
}

impl Call {
    /// Writes cost five points.
    pub fn is_write(self) -> bool {
        matches!(self, Call::Mint | Call::Delete { .. })
    }
}

/// What did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The invariant's name.
    pub invariant: &'static str,
    /// When, in milliseconds since the world's start.
    pub at: i64,
    /// What happened.
    pub what: String,
}

/// After the faults have stopped, this long is allowed before service is back to normal (L7).
const RECOVERY: i64 = 2 * MINUTE;
/// JIT calls that an installation's points of a minute allow, beside those for what else is asked: a crowd is served at that rate.
const JIT_A_MINUTE: i64 = 160;
/// Of an hour's calls, so many percent are kept for provisioning.
const RESERVED: i64 = 30;
/// Runners are listed every two minutes; one that is busy with what nobody told of counts as taken 90 s later.
const LISTED: i64 = 3 * MINUTE + 45 * SECOND;
/// The grace period (S12).
const GRACE: i64 = 6 * HOUR;
/// GitHub's advice for a refusal that names no time: at least so long (S14).
const ADVISED: i64 = MINUTE;
/// All calls of one moment, and those that were on their way then, are refused together.
const ON_ITS_WAY: i64 = 10 * SECOND;

/// What a job's accepted deliveries say, all together: the same in whatever order and however often they came.
#[derive(Debug)]
struct Told {
    status: Status,
    installation: i64,
    started: Option<Time>,
    ended: Option<Time>,
    /// Its repository, and its owner.
    named: (Arc<str>, Arc<str>),
}

/// Memory of what was, to hold what is against.
#[derive(Debug, Default)]
pub struct Judge {
    jobs: BTreeMap<JobId, Job>,
    workers: BTreeMap<WorkerName, Status>,
    accepted: BTreeMap<JobId, Told>,
    jit: BTreeMap<i64, PodUid>,
    repeated: BTreeMap<Arc<str>, u32>,
    /// What each node of each pool offered before each change, latest last.
    offered: VecDeque<(i64, Vec<Vec<i64>>)>,
    /// Workers whose entry was made on GitHub at some time.
    minted: BTreeSet<WorkerName>,
    /// Workers whose runner has had a job.
    spent: BTreeSet<WorkerName>,
    /// Pods whose diagnostics were collected before their worker was failed.
    diagnosed: BTreeSet<PodUid>,
    /// When each job was failed.
    failed_at: BTreeMap<JobId, i64>,
    /// By account, runners that GitHub made of calls that nobody waited for any more: each is deleted, and another asked for.
    unheard_mints: BTreeMap<usize, i64>,
    /// Entries that were online and without a job for some time when they were deleted.
    deleted_idle: BTreeMap<WorkerName, i64>,
    /// How long each job whose end was lost waits for those that were lost before it.
    turns: BTreeMap<i64, i64>,
    /// What holds that must not for long, and since when.
    held: BTreeMap<(i64, &'static str), i64>,
    /// Something has happened in the world since the last whole look at it.
    pub(crate) dirty: bool,
    /// What the last whole look found stays so until then, if nothing happens.
    stale_at: i64,
    /// It found that all that can end has ended.
    settled: bool,
    trouble: BTreeMap<usize, i64>,
    refused: BTreeMap<(EntityId, i64), i64>,
    /// When each owner's room or demand last changed: decisions lag behind the rows.
    moved: BTreeMap<OwnerId, i64>,
    last_change: i64,
    done_at: Option<i64>,
    decisions_at_done: u64,
    /// What was done since then that a quiet world has none of, by what it was.
    done_since: BTreeMap<&'static str, u64>,
    /// Workers had not ended then that the leader cannot look after.
    left_at_done: bool,
    reachable: Vec<bool>,
    /// Until when calls may still go by a later installation that a delivery named wrongly, by account; and which ones this
    /// leader has read of, by entity.
    misled: BTreeMap<usize, i64>,
    misleading: BTreeSet<(EntityId, i64)>,
    /// Since when rows have named an entity's installation rightly.
    named: BTreeMap<(EntityId, i64), i64>,
    /// By entity, the installations that the leader has read of.
    heard: BTreeSet<(EntityId, i64)>,
    /// By account, since when this leader has been answered what is left of the hour. Until then it can only guess.
    shown: BTreeMap<usize, Shown>,
    /// Accounts that were refused without being told until when.
    untold: BTreeMap<usize, Untold>,
    /// Workers whose pods have been asked for.
    pods_asked: BTreeSet<WorkerName>,
}

/// What a leader has been told of an account's hour.
#[derive(Debug)]
struct Shown {
    /// Since when.
    since: i64,
    /// By how much its clock was ahead then, at the least.
    ahead: i64,
}

/// An account that was refused without being told until when.
#[derive(Debug, Default)]
struct Untold {
    /// How often in a row. A caller may not hear of the answers in between.
    times: u32,
    /// When it last was, those not counted that were refused together with it.
    last: Option<i64>,
    /// Until when it is advised to wait.
    until: i64,
}

impl Judge {
    /// Others have used up most of an account's hour, or all of it: nobody knows before the next answer.
    pub(crate) fn note_used_up(&mut self, account: usize, now: i64) {
        self.trouble.insert(account, now);
        self.shown.remove(&account);
    }

    /// An account's App is back. That it is suspended no more a call a minute finds out, out of what is kept (S14): nothing
    /// could be provisioned before. Of a new installation nobody knows what it has left.
    pub(crate) fn note_back(&mut self, account: usize) {
        self.shown.remove(&account);
    }

    /// What is left of an account's hour was answered.
    pub(crate) fn note_shown(&mut self, account: usize, now: i64, ahead: i64) {
        let it = self.shown.entry(account).or_insert(Shown { since: now, ahead });
        it.ahead = it.ahead.min(ahead);
    }

    /// GitHub's advice for a refusal that names no time: a minute, and twice as long after each further one.
    pub(crate) fn note_untold(&mut self, account: usize, now: i64) {
        let untold = self.untold.entry(account).or_default();
        if untold.last.is_none_or(|last| now - last >= ON_ITS_WAY) {
            untold.until = untold.until.max(now + (ADVISED << untold.times.min(5)));
            untold.times += 1;
            untold.last = Some(now);
        }
    }

    /// When the next of what holds has held for as long as it may.
    pub(crate) fn next_up(&self) -> Option<i64> {
        (self.stale_at != i64::MAX && self.stale_at != 0).then_some(self.stale_at)
    }

    /// Until when an account is advised to wait, though it was not told.
    fn advised_until(&self, account: usize) -> i64 {
        self.untold.get(&account).map_or(0, |it| it.until)
    }
}

fn number(name: &WorkerName) -> i64 {
    crate::trace::number(name.as_str())
}

/// Whether a row counts as waiting for a runner.
pub fn is_waiting(job: &Job) -> bool {
    job.status == Status::Pending || is_requeued(job)
}

/// Whether a row says that its job runs, and that GitHub has it queued again since it was given to its runner.
pub fn is_requeued(job: &Job) -> bool {
    let given = job.assignment.as_ref().map(|it| it.started_at);
    job.status == Status::Running && job.requeued_at.is_some_and(|at| given <= Some(at))
}

/// Whether these labels are those of a job that asks for `asked`, however that spells and orders them.
fn is_set_of(labels: &LabelSet, asked: &[String]) -> bool {
    let asked: BTreeSet<String> = asked.iter().map(|label| label.to_lowercase()).collect();
    labels.iter().eq(asked.iter().map(String::as_str))
}
