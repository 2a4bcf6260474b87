//! Limits and timeouts: plain data, each default with its reason.

use alloc::{collections::BTreeMap, string::String, vec::Vec};

use crate::{
    ids::{OwnerId, Realm, Span},
    labels::LabelRule,
};

/// What one owner may have, and whether staging serves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnerPolicy {
    /// A name for people; never used to decide.
    pub name: String,
    /// Concurrent workers over all pools and, for a personal account, all repositories. `None` is unlimited.
    pub max_workers: Option<u32>,
    /// Whose deliveries production forwards to staging.
    pub staging: Staging,
}

/// Which of an owner's repositories are served by staging.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Staging {
    /// None.
    No,
    /// All.
    All,
    /// These names (without the owner), lower-case.
    Only(Vec<String>),
}

/// Everything that can be tuned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Which world this process serves.
    pub realm: Realm,
    /// Owners with an entry of their own.
    pub owners: BTreeMap<OwnerId, OwnerPolicy>,
    /// The cap of everybody else. 20 in the reference.
    pub default_max_workers: Option<u32>,
    /// Labels to pool and image, tried in order.
    pub label_rules: Vec<LabelRule>,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// How GitHub's limits are shared out.
    pub governor: Governor,
}

/// How long things may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// Running without being online on GitHub: RUNNER_REGISTRATION_TIMEOUT_SECONDS of the specification, 120 s.
    pub registration: Span,
    /// Pending, from creation: POD_PENDING_TIMEOUT_SECONDS of the specification, 600 s.
    pub pending: Span,
    /// How long an ended pod is kept for its logs: POD_DELETE_GRACE_SECONDS of the specification, 6 h.
    pub grace: Span,
    /// How long a runner must have been free and unneeded before it is retired. 5 minutes: a new job of the same
    /// group is likely within that time and starts at once; longer wastes a board.
    pub surplus: Span,
    /// At least this long between the two listings that show a runner idle before it is retired. GitHub's `busy`
    /// can lag by 25 to 60 s; 90 s is beyond that.
    pub idle_proof: Span,
    /// How long JIT configuration may be tried for one worker before it is failed and its place given back.
    pub jit: Span,
    /// How long a runner may be busy with a job nobody has told us of before it stops counting as supply: long enough
    /// for the in_progress delivery, or a poll, to name the job.
    pub phantom: Span,
    /// How long a runner may still run that GitHub cannot be asked about, because its App's installation is gone. 6 h:
    /// GitHub's own default limit of a job that began before. Nobody there is owed a board for longer.
    pub gone: Span,
    /// The pause after a first failed call to something; it doubles to `backoff_max`.
    pub backoff: Span,
    /// The longest such pause. L7 wants service within 2 minutes of an outage's end; half of that.
    pub backoff_max: Span,
    /// How often the full pod listing is taken when nothing is in doubt: bounds what a silently dead watch can hide.
    pub pods_relist: Span,
    /// The same while a worker's pod is missing from view.
    pub pods_doubt: Span,
    /// How often each App's delivery log is read. L2 wants a lost delivery made up for within 5 minutes.
    pub deliveries: Span,
    /// How far back the first reading of the log goes. GitHub keeps 3 days.
    pub deliveries_back: Span,
}

/// How an installation's limits are shared out. GitHub's numbers are in its REST rate-limit documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Governor {
    /// JIT configurations a minute and installation: 900 points at 5 points a write.
    pub jit_per_minute: u32,
    /// Calls in flight per installation. GitHub allows 100; the rest is for tokens and groups.
    pub in_flight: u32,
    /// Share of the hourly limit, in percent, that polls of jobs may use.
    pub poll_percent: u32,
    /// Share of the hourly limit, in percent, that listings of runners may use.
    pub list_percent: u32,
    /// Reads stop when less than this share of the hourly limit, in percent, remains: the rest is provisioning's.
    pub reserve_percent: u32,
    /// The hourly limit assumed until GitHub has told: 5,000.
    pub assumed_limit: u32,
    /// The shortest time between two polls of a doubtful job, and between two listings of a scope: 15 s.
    pub doubt_every: Span,
    /// The shortest time between two polls of a job whose end its delivery alone would tell: one that waits, or runs on no
    /// worker of ours.
    pub wait_every: Span,
    /// The shortest time between two polls of a job that runs on a worker of ours, which ends with it.
    pub sweep_every: Span,
    /// Time between listings of a scope where nothing is expected to change.
    pub list_every: Span,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            registration: Span::secs(120),
            pending: Span::secs(600),
            grace: Span::hours(6),
            surplus: Span::mins(5),
            idle_proof: Span::secs(90),
            jit: Span::secs(600),
            phantom: Span::secs(90),
            gone: Span::hours(6),
            backoff: Span::secs(5),
            backoff_max: Span::secs(60),
            pods_relist: Span::mins(5),
            pods_doubt: Span::secs(15),
            deliveries: Span::mins(2),
            deliveries_back: Span::hours(6),
        }
    }
}

impl Default for Governor {
    fn default() -> Self {
        Self {
            jit_per_minute: 180,
            in_flight: 90,
            poll_percent: 25,
            list_percent: 15,
            reserve_percent: 30,
            assumed_limit: 5_000,
            doubt_every: Span::secs(15),
            wait_every: Span::secs(45),
            sweep_every: Span::mins(2),
            list_every: Span::mins(2),
        }
    }
}

impl Policy {
    /// A policy without owners or rules of its own: cap 20 for everybody.
    pub fn bare(realm: Realm) -> Self {
        Self {
            realm,
            owners: BTreeMap::new(),
            default_max_workers: Some(20),
            label_rules: Vec::new(),
            timeouts: Timeouts::default(),
            governor: Governor::default(),
        }
    }

    /// An owner's cap; `None` is unlimited.
    pub fn cap(&self, owner: OwnerId) -> Option<u32> {
        match self.owners.get(&owner) {
            Some(entry) => entry.max_workers,
            None => self.default_max_workers,
        }
    }

    /// Whether production forwards this repository's deliveries to staging.
    pub fn is_staging(&self, owner: OwnerId, repo_full_name: &str) -> bool {
        let Some(entry) = self.owners.get(&owner) else { return false };
        match &entry.staging {
            Staging::No => false,
            Staging::All => true,
            Staging::Only(names) => {
                let name = repo_full_name.rsplit('/').next().unwrap_or_default().to_lowercase();
                names.contains(&name)
            }
        }
    }
}
