//! What there is beside production's, which nobody may touch: runner entries of staging's and of the accounts' own, and
//! pods of staging's and of somebody else's. Some are named much like ours.

use std::sync::Arc;

use engine::{
    facts::PodPhase,
    ids::{PodUid, WorkerName},
    labels::LabelSet,
};

use crate::{
    cluster::{Fate, Pod, Whose},
    github::Entry,
    plan::{Account, Plan},
    register::Fault,
    run::{Event, Sim},
};

/// A runner entry that is not ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Runner {
    /// Its name.
    pub name: String,
    /// What it carries.
    pub labels: Vec<String>,
    /// Its process is connected, and waits for jobs.
    pub online: bool,
}

/// The entity of an account at which strangers are registered: it, or a person's first repository.
pub fn entity(account: &Account) -> i64 {
    if account.user { account.id * 100 + 1 } else { account.id }
}

/// The entries that the entity with this id has beside ours.
pub fn runners(plan: &Plan, entity: i64) -> Vec<Runner> {
    let Some(strangers) = &plan.world.strangers else { return Vec::new() };
    let labels = |set: Option<usize>| match set {
        Some(set) => plan.world.labels[set].clone(),
        None => vec![String::from("self-hosted"), String::from("x64")],
    };
    let runner = |name: String, set, online| Runner { name, labels: labels(set), online };
    vec![
        // Staging's, which has not come up yet, of an App that shares our prefix.
        runner(format!("rise-riscv-runner-staging-{entity}-abcdefghi"), Some(0), false),
        // The account's own, which stays.
        runner(format!("builder-{entity}"), strangers.takes, true),
        // Whose owner liked our names.
        runner(format!("rise-riscv-runner-{entity}-nightly"), None, false),
        runner(format!("rise-riscv-runner-{entity}-ABCDEFGHI"), None, true),
        runner(String::from("rise-riscv-runner-999999-abcdefghi"), None, false),
        runner(String::from("rise-riscv-runner-"), None, false),
    ]
}

/// Pods beside ours: their names, and whether they run; one that does holds a place.
pub fn pods(plan: &Plan) -> Vec<(String, bool)> {
    if plan.world.strangers.is_none() {
        return Vec::new();
    }
    let first = plan.world.account.first().map_or(0, |account| account.id);
    vec![
        (format!("rise-riscv-runner-staging-{first}-abcdefghi"), true),
        (format!("rise-riscv-runner-{first}-nightly"), false),
        (String::from("builder-0"), false),
    ]
}

impl Sim {
    pub(crate) fn set_up_strangers(&mut self) {
        let plan = self.plan.clone();
        let Some(strangers) = &plan.world.strangers else { return };
        self.counts.fault(Fault::Strangers);
        for account in &plan.world.account {
            let entity = entity(account);
            for Runner { name, labels, online } in runners(&plan, entity) {
                self.github.add_stranger(Entry {
                    name: WorkerName::from(name.as_str()),
                    entity,
                    labels: LabelSet::new(&labels),
                    created: 0,
                    online,
                    idle_since: online.then_some(0),
                    job: None,
                    busy_from: 0,
                    strange: true,
                });
            }
        }
        for (i, (name, runs)) in pods(&plan).into_iter().enumerate() {
            let name = WorkerName::from(name.as_str());
            let pod = Pod {
                uid: PodUid(Arc::from(format!("strange-{i}"))),
                pool: strangers.pool,
                phase: if runs { PodPhase::Running } else { PodPhase::Succeeded },
                node: runs.then_some((strangers.pool, 0)),
                created: 0,
                started: Some(0),
                finished: (!runs).then_some(0),
                deleting: false,
                pulled: true,
                secret: None,
                connected: None,
                fate: Fate::Fine,
                late: false,
                since: 0,
                whose: Whose::Strangers,
            };
            self.add_pod_of_a_stranger(name.clone(), pod);
            if runs {
                self.after(strangers.until, Event::PodEnds(name, 0));
            }
        }
    }

    /// An account's own runner takes one job after the other: whether this is one, which is free again now.
    pub(crate) fn let_a_stranger_go_on(&mut self, runner: i64) -> bool {
        let now = self.now;
        let Some(entry) = self.github.runners.get_mut(&runner).filter(|it| it.strange) else { return false };
        entry.job = None;
        entry.idle_since = Some(now);
        true
    }

    /// S11 and S17: something that is not ours is taken away.
    pub(crate) fn judge_touched(&mut self, kind: &str, name: &WorkerName) {
        let staging = name.as_str().starts_with("rise-riscv-runner-staging-");
        let (invariant, whose) = if staging { ("S17 isolation", "staging's") } else { ("S11 owned", "not ours") };
        self.breaks(invariant, format!("{kind} {name} is {whose}, and is taken away"));
    }
}
