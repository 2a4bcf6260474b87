//! A plan: everything about one simulated world that is decided before it begins. Plain data, so that a failing seed can
//! be shrunk, written down and run again.

use engine::{
    ids::{Image, OwnerId, Pool as PoolName, Realm, Time},
    labels::{LabelRule, Matcher, Source},
    policy::{OwnerPolicy, Policy, Staging},
};
use serde::{Deserialize, Serialize};

use crate::register::Fault;

/// When every world begins, unless its plan says otherwise: 2026-05-13T15:06:40Z.
pub const EPOCH: i64 = 1_778_684_800_000;

/// One world with its workload and faults. Times are milliseconds after the world's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Draws latencies and single faults during the run.
    pub seed: u64,
    /// What it was drawn as, for people.
    #[serde(default)]
    pub name: String,
    /// The world's start, milliseconds since 1970.
    #[serde(default = "epoch")]
    pub epoch: i64,
    /// No fault begins after this, and every window has ended: from here on liveness is demanded.
    pub quiet_at: i64,
    /// The run ends when all is done after `quiet_at`, or at this time.
    pub end: i64,
    /// Also lets the grace period of ended pods pass.
    #[serde(default)]
    pub long: bool,
    /// What there is.
    pub world: World,
    /// What happens, in order of time.
    #[serde(default)]
    pub deed: Vec<Deed>,
    /// When calls go wrong.
    #[serde(default)]
    pub window: Vec<Window>,
}

fn epoch() -> i64 {
    EPOCH
}

/// What there is at the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// Schedulers, 1 to 3.
    pub schedulers: usize,
    /// How far each scheduler's clock is off, in milliseconds.
    #[serde(default)]
    pub skew: Vec<i64>,
    /// Cap of owners without one of their own; absent is unlimited.
    #[serde(default)]
    pub default_cap: Option<u32>,
    /// How long `busy` lags, in milliseconds.
    #[serde(default)]
    pub busy_lag: i64,
    /// GitHub gives jobs to the newest idle runner, not the oldest.
    #[serde(default)]
    pub newest_first: bool,
    /// From a pod's placement to its containers' start, in milliseconds.
    pub pull: i64,
    /// Accounts that have installed the App.
    pub account: Vec<Account>,
    /// Boards.
    pub pool: Vec<Pool>,
    /// Label sets that jobs carry.
    pub labels: Vec<Vec<String>>,
    /// The pool of each label set, by index.
    pub pool_of: Vec<usize>,
    /// Runners and pods that are not production's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strangers: Option<Strangers>,
}

/// What there is beside production's: in each account runner entries of staging's, of its own, and some that are named much
/// like ours; in the cluster a pod of staging's that runs, and one of somebody's that has ended. Nobody may touch them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strangers {
    /// The accounts' own runners carry this label set, by index, and take its jobs.
    #[serde(default)]
    pub takes: Option<usize>,
    /// Staging's pod holds a place of this pool, by index,
    pub pool: usize,
    /// until then.
    pub until: i64,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// GitHub's id.
    pub id: i64,
    /// A personal account: runners are registered to repositories.
    #[serde(default)]
    pub user: bool,
    /// The installation's id.
    pub installation: i64,
    /// A cap of its own.
    #[serde(default)]
    pub cap: Option<u32>,
    /// Calls an hour.
    pub limit: u32,
    /// Its repositories' full names, where they matter; the others are called after its id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repos: Vec<String>,
}

/// A kind of board.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Runners that each node offers.
    pub nodes: Vec<u32>,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deed {
    /// When.
    pub at: i64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum What {
    /// A job is queued.
    Queue {
        /// GitHub's id of it.
        job: i64,
        /// Whose, by index.
        account: usize,
        /// Which of its repositories.
        repo: i64,
        /// Its label set, by index.
        labels: usize,
        /// How long it runs.
        runs: i64,
        /// Held by an environment rule for this long, then queued once more.
        #[serde(default)]
        held: i64,
    },
    /// Somebody cancels a job.
    Cancel {
        /// Which.
        job: i64,
    },
    /// A job is run again: a new job like it.
    Rerun {
        /// Which.
        job: i64,
        /// The new one's id.
        again: i64,
    },
    /// A node stops answering, and comes back.
    NodeLost {
        /// Its pool and its place there.
        node: (usize, usize),
        /// For how long.
        lasts: i64,
    },
    /// A node is cordoned, and uncordoned.
    Cordon {
        /// Its pool and its place there.
        node: (usize, usize),
        /// For how long.
        lasts: i64,
    },
    /// Some running pod is evicted.
    Evict,
    /// Somebody deletes some running pod by force: it is gone at once.
    Vanish,
    /// A queued job is deleted on GitHub with its repository: GitHub does not know it any more.
    Forget {
        /// Which.
        job: i64,
    },
    /// The App is uninstalled.
    Uninstall {
        /// Where, by index.
        account: usize,
    },
    /// An organisation is renamed: GitHub knows it by its new name alone.
    Rename {
        /// Which, by index.
        account: usize,
    },
    /// The App is installed again, under a new id.
    Reinstall {
        /// Where, by index.
        account: usize,
        /// The new installation.
        installation: i64,
    },
    /// The App is suspended for a while.
    Suspend {
        /// Where, by index.
        account: usize,
        /// For how long.
        lasts: i64,
    },
    /// Others use up an installation's hour.
    UseUp {
        /// Whose, by index.
        account: usize,
    },
    /// A scheduler is killed and started again.
    Kill {
        /// Which.
        scheduler: usize,
        /// For how long it is gone.
        lasts: i64,
    },
    /// A scheduler stands still.
    Pause {
        /// Which.
        scheduler: usize,
        /// For how long.
        lasts: i64,
    },
    /// A scheduler is told to stop, and started again.
    Stop {
        /// Which.
        scheduler: usize,
        /// For how long it is gone.
        lasts: i64,
    },
    /// A scheduler's clock jumps.
    Clock {
        /// Which.
        scheduler: usize,
        /// By this many milliseconds.
        by: i64,
    },
    /// A scheduler's clock runs too fast, or too slowly.
    Drift {
        /// Which.
        scheduler: usize,
        /// By so many milliseconds in ten seconds.
        by: i64,
        /// For how long.
        lasts: i64,
    },
    /// Somebody deletes some running pod by force, and makes another of its name without its Secret.
    Replace,
}

/// A time in which calls go wrong with some chance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// From.
    pub from: i64,
    /// Until.
    pub until: i64,
    /// How they go wrong.
    pub fault: Fault,
    /// Percent.
    pub chance: u32,
}

/// The matcher that gives a label set its pool: a set of one is matched exactly, a larger one by what its labels share.
fn matcher(labels: &[String]) -> Matcher {
    match labels {
        [only] if !only.starts_with("wide") => Matcher::Exactly(only.clone()),
        [first, ..] => Matcher::AnyContaining(first.clone()),
        [] => Matcher::AnyContaining(String::new()),
    }
}

impl Plan {
    /// The policy this world runs with.
    pub fn policy(&self) -> Policy {
        let mut policy = Policy::bare(Realm::Prod);
        policy.default_max_workers = self.world.default_cap;
        for account in self.world.account.iter().filter(|account| account.cap.is_some()) {
            let entry = OwnerPolicy { name: String::new(), max_workers: account.cap, staging: Staging::No };
            policy.owners.insert(OwnerId(account.id), entry);
        }
        for (labels, pool) in self.world.labels.iter().zip(&self.world.pool_of) {
            policy.label_rules.push(LabelRule {
                source: Source::Everybody,
                matchers: vec![matcher(labels)],
                pool: PoolName::from(self.world.pool[*pool].name.as_str()),
                image: Image::from("ubuntu-24.04"),
            });
        }
        policy
    }

    /// The world's start.
    pub fn start(&self) -> Time {
        Time(self.epoch)
    }

    /// Reads a scenario file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let plan: Plan = toml::from_str(text).map_err(|error| error.to_string())?;
        plan.check()?;
        Ok(plan)
    }

    /// As a scenario file.
    pub fn write(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# cannot be written: {error}\n"))
    }

    /// Whether everything that is named exists.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self) -> Result<(), String> {
        let world = &self.world;
        if world.labels.len() != world.pool_of.len() || world.pool_of.iter().any(|&pool| pool >= world.pool.len()) {
            return Err("world.pool_of must name a pool for each label set".to_owned());
        }
        let strangers = world.strangers.as_ref();
        if strangers
            .is_some_and(|it| it.pool >= world.pool.len() || it.takes.is_some_and(|set| set >= world.labels.len()))
        {
            return Err("world.strangers must name a pool and a label set that there are".to_owned());
        }
        if world.schedulers == 0 || world.schedulers > 8 {
            return Err("world.schedulers must be 1 to 8".to_owned());
        }
        for deed in &self.deed {
            let account = match deed.what {
                What::Queue { account, labels, .. } if labels < world.labels.len() => account,
                What::Queue { .. } => return Err(format!("at {}: no such label set", deed.at)),
                What::Rename { account } if world.account.get(account).is_some_and(|it| it.user) => {
                    return Err(format!("at {}: only organisations are renamed", deed.at));
                }
                What::Uninstall { account }
                | What::Rename { account }
                | What::Reinstall { account, .. }
                | What::Suspend { account, .. }
                | What::UseUp { account } => account,
                What::Kill { scheduler, .. }
                | What::Pause { scheduler, .. }
                | What::Stop { scheduler, .. }
                | What::Clock { scheduler, .. }
                | What::Drift { scheduler, .. }
                    if scheduler >= world.schedulers =>
                {
                    return Err(format!("at {}: no such scheduler", deed.at));
                }
                What::NodeLost { node, .. } | What::Cordon { node, .. }
                    if world.pool.get(node.0).is_none_or(|pool| node.1 >= pool.nodes.len()) =>
                {
                    return Err(format!("at {}: no such node", deed.at));
                }
                _ => 0,
            };
            if account >= world.account.len() {
                return Err(format!("at {}: no such account", deed.at));
            }
        }
        Ok(())
    }
}

impl What {
    /// For how long it is done, in milliseconds; 0 of what is done at once.
    pub fn lasts(&self) -> i64 {
        match self {
            What::NodeLost { lasts, .. }
            | What::Cordon { lasts, .. }
            | What::Suspend { lasts, .. }
            | What::Kill { lasts, .. }
            | What::Pause { lasts, .. }
            | What::Stop { lasts, .. }
            | What::Drift { lasts, .. } => *lasts,
            _ => 0,
        }
    }

    /// The account that it is about, by index.
    pub fn account_mut(&mut self) -> Option<&mut usize> {
        match self {
            What::Queue { account, .. }
            | What::Uninstall { account }
            | What::Rename { account }
            | What::Reinstall { account, .. }
            | What::Suspend { account, .. }
            | What::UseUp { account } => Some(account),
            _ => None,
        }
    }

    /// The node that it is about: its pool and its place there.
    pub fn node_mut(&mut self) -> Option<&mut (usize, usize)> {
        match self {
            What::NodeLost { node, .. } | What::Cordon { node, .. } => Some(node),
            _ => None,
        }
    }

    /// Whether it is about this scheduler.
    pub fn names_scheduler(&self, i: usize) -> bool {
        match self {
            What::Kill { scheduler, .. }
            | What::Pause { scheduler, .. }
            | What::Stop { scheduler, .. }
            | What::Clock { scheduler, .. }
            | What::Drift { scheduler, .. } => *scheduler == i,
            _ => false,
        }
    }
}
