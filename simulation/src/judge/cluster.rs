//! What the cluster is asked, and why workers are failed.

use engine::{
    decision::{Action, Chosen, Decision, WorkerFailure},
    facts::{PodPhase, Status, Worker},
    ids::{PodUid, WorkerName},
};

use crate::{
    cluster::{Pod, Whose},
    plan::What,
    register::Rare,
    run::{HOUR, MINUTE, SECOND, Sim},
};

use super::{GRACE, liveness::YOUNG};

/// Views lag this much behind the cluster when watches and calls fare badly, or whoever looks stands still (S6).
const VIEW_LAG: i64 = 4 * MINUTE;
/// And so much when all is well.
const BRIEF_LAG: i64 = 10 * SECOND;

impl Sim {
    pub(crate) fn judge_capacity_changes(&mut self) {
        let offered = (0..self.cluster.nodes.len()).map(|pool| self.cluster.offers(pool).collect()).collect();
        self.judge.offered.push_back((self.now, offered));
    }

    /// How old what a leader knows of the cluster may be.
    fn view_lag(&self) -> i64 {
        let lately = |from: i64, until: i64| from <= self.now && self.now < until + VIEW_LAG;
        let slow = self.plan.window.iter().any(|it| it.fault.ages_views() && lately(it.from, it.until));
        let paused = self.plan.deed.iter().any(|it| match it.what {
            What::Pause { lasts, .. } => lately(it.at, it.at + lasts),
            _ => false,
        });
        if slow || paused { VIEW_LAG } else { BRIEF_LAG }
    }

    /// S7 for the pods that a leader is going to ask for: where places were lost, whoever was reserved first gets its pod
    /// first.
    pub(crate) fn judge_pods_chosen(&mut self, s: usize, decision: &Decision) {
        let mut chosen = Vec::new();
        for Chosen { action, .. } in &decision.actions {
            if let Action::CreatePod(worker) = action
                && self.judge.pods_asked.insert(worker.name.clone())
            {
                chosen.push(worker);
            }
        }
        // One whose create was refused waits for its own time.
        let waits =
            |(name, since): &(&WorkerName, i64)| self.now - since > SECOND && !self.judge.pods_asked.contains(*name);
        for worker in chosen {
            let waiting = self.schedulers[s].jits().filter(waits).filter_map(|(name, _)| self.store.rows.worker(name));
            let passed = waiting.filter(|row| row.pool == worker.pool && row.status == Status::Pending).find(|row| {
                let before = (row.created_at, &row.name) < (worker.created_at, &worker.name);
                let young = self.now - (row.created_at.0 - self.plan.epoch) < YOUNG - self.most_skew();
                let account = self.account_of(row.entity.0).map(|account| &self.github.accounts[account]);
                before && young && account.is_none_or(|it| it.removed_at == 0 && !it.suspended && it.back_at.is_none())
            });
            if let Some(name) = passed.map(|row| row.name.clone()) {
                let what = format!("{} gets its pod while {name}, which was reserved before it, waits", worker.name);
                return self.breaks("S7 fifo", what);
            }
        }
    }

    /// S6, S9 and S11 for a new pod.
    pub(crate) fn judge_pod_created(&mut self, worker: &Worker, pool: usize) {
        self.judge.last_change = self.now;
        let lag = self.view_lag();
        // Which places are free depends on which nodes whoever asked had in view: those of now, or of a moment ago.
        let views = self.judge.offered.iter().filter(|(at, _)| self.now - at < lag).map(|(_, all)| &all[pool]);
        let now = self.cluster.offers(pool).collect();
        let free = views.chain([&now]).map(|offers| self.cluster.free(pool, offers)).max().unwrap_or(0);
        // A pod whose maker was gone, or had given it up, when it came: its place was given to another, and who leads
        // knows of it only once a view shows it. It is deleted as an orphan.
        let late = |it: &&Pod| it.late && it.pool == pool && !it.phase.is_ended() && self.now - it.created < VIEW_LAG;
        let excused = || i64::from(self.late_call) + self.cluster.pods.values().filter(late).count() as i64;
        if free < 1 && free + excused() >= 1 {
            self.rare(Rare::LatePod);
        } else if free < 1 {
            let what = format!("pod {} is one of {} too many in its pool", worker.name, 1 - free);
            self.breaks("S6 capacity", what);
        }
        match self.store.rows.worker(&worker.name) {
            None => self.breaks("S11 owned", format!("pod {} has no worker row", worker.name)),
            Some(row) if row.pool != worker.pool => {
                self.breaks("S9 exact-labels", format!("pod {} is for another pool than its row", worker.name));
            }
            Some(_) => {}
        }
    }

    /// S10: one configuration, one pod.
    pub(crate) fn judge_jit_used(&mut self, jit: i64, uid: &PodUid) {
        let known = self.judge.jit.entry(jit).or_insert_with(|| uid.clone());
        if known != uid {
            let what = format!("JIT configuration {jit} is given to a second pod");
            self.breaks("S10 one-jit-one-pod", what);
        }
    }

    /// S8, S12 and S17 for a deletion.
    pub(crate) fn judge_pod_deleted(&mut self, name: &WorkerName) {
        let Some(pod) = self.cluster.pods.get(name) else { return };
        let (phase, finished, connected, uid) = (pod.phase, pod.finished, pod.connected, pod.uid.clone());
        let (created, whose) = (pod.created, pod.whose);
        if !phase.is_ended() {
            // One that has ended goes when its grace is over, however quiet it is then.
            self.judge.last_change = self.now;
        }
        if whose == Whose::Strangers {
            return self.judge_touched("pod", name);
        }
        let busy = connected.and_then(|runner| self.github.runners.get(&runner)).is_some_and(|it| it.job.is_some());
        // A job may take six hours by default: whose App has been gone for longer, is owed no board.
        let owed = self.store.rows.worker(name).and_then(|row| self.account_of(row.entity.0)).is_none_or(|account| {
            let account = &self.github.accounts[account];
            !account.removed || self.now - account.removed_at < 6 * HOUR
        });
        if busy && owed && !phase.is_ended() {
            self.breaks("S8 never-kill-busy", format!("pod {name} is deleted while its runner executes a job"));
        }
        let row = self.store.rows.worker(name).map(|row| (row.status, row.failure, row.completed_at));
        let Some((status, failure, completed_at)) = row else { return self.rare(Rare::OrphanPodDeleted) };
        let completed_at = completed_at.map(|at| at.0 - self.plan.epoch);
        if !status.is_ended() {
            return self.breaks("S12 grace", format!("pod {name} is deleted before its row has ended"));
        }
        if completed_at.is_some_and(|at| at < created) {
            self.rare(Rare::OrphanPodDeleted);
        }
        if whose == Whose::Replaced {
            return;
        }
        let of_its_pod = matches!(
            failure,
            Some(WorkerFailure::PodFailed | WorkerFailure::PodStuckPending | WorkerFailure::RunnerNeverRegistered)
        );
        if of_its_pod && !self.judge.diagnosed.contains(&uid) {
            return self.breaks("S12 grace", format!("pod {name} is deleted, and no diagnostics of it were collected"));
        }
        // What was alive when its worker was failed is in the way, and goes as soon as it may; views may lag.
        let lag = self.view_lag() + self.most_skew();
        let was_alive = |at: i64| finished.is_none_or(|finished| finished + lag >= at);
        let quick =
            failure.is_some() && failure != Some(WorkerFailure::PodFailed) && completed_at.is_some_and(was_alive);
        let ended_for = finished.map_or(0, |at| self.now - at / SECOND * SECOND);
        if phase.is_ended() && !quick {
            if ended_for < GRACE - self.most_skew() {
                let what = format!("pod {name} is deleted {} minutes after its end", ended_for / MINUTE);
                self.breaks("S12 grace", what);
            }
            self.rare(Rare::GraceOver);
        }
    }

    /// Whether the App is there, under the installation that a worker's row names, and no delivery has named another.
    fn is_installed(&self, name: &WorkerName) -> bool {
        self.store.rows.worker(name).is_some_and(|row| {
            let Some(account) = self.account_of(row.entity.0) else { return false };
            let it = &self.github.accounts[account];
            let misled = self.judge.misled.contains_key(&account);
            !it.removed && it.installation == row.installation.0 && !misled
        })
    }

    /// A worker's failure is to be written once its pod's diagnostics are collected.
    pub(crate) fn judge_diagnosed(&mut self, uid: &PodUid) {
        self.judge.diagnosed.insert(uid.clone());
    }

    pub(super) fn most_skew(&self) -> i64 {
        self.schedulers.iter().map(|it| it.offset.abs()).max().unwrap_or(0)
    }

    /// S16 and S8 for a worker that is failed: is what was concluded true?
    pub(super) fn judge_failure(&mut self, name: &WorkerName, failure: WorkerFailure) {
        let pod = self.cluster.pods.get(name);
        let ours = pod.filter(|pod| pod.whose == Whose::Ours);
        let alive = ours.is_some_and(|pod| !pod.phase.is_ended() && !pod.deleting);
        let runs_job = self.github.runner_of(name).is_some_and(|it| it.job.is_some());
        let (rare, untrue) = match failure {
            WorkerFailure::PodVanished => (Some(Rare::PodVanished), alive),
            WorkerFailure::RunnerNeverRegistered => {
                let idle = self.judge.deleted_idle.get(name).copied().unwrap_or(0);
                (Some(Rare::NeverRegistered), runs_job || idle > 90 * SECOND)
            }
            WorkerFailure::RunnerLost => {
                let idle = self.judge.deleted_idle.get(name).copied().unwrap_or(0);
                (Some(Rare::RunnerLost), runs_job || idle > 3 * MINUTE)
            }
            WorkerFailure::PodStuckPending => {
                let runs = pod.is_some_and(|pod| pod.phase == PodPhase::Running && self.now - pod.since > 2 * MINUTE);
                (Some(Rare::StuckPending), runs)
            }
            WorkerFailure::ProvisioningInterrupted => {
                let runs = pod.is_some_and(|pod| pod.phase == PodPhase::Running && self.now - pod.since > 2 * MINUTE);
                (Some(Rare::InterruptedWorkerFailed), runs)
            }
            WorkerFailure::Surplus => {
                let before = pod.is_none();
                (Some(if before { Rare::SurplusBeforeStart } else { Rare::SurplusRetired }), runs_job)
            }
            WorkerFailure::JitRefused => (Some(Rare::JitGivenUp), false),
            WorkerFailure::PodRefused => (Some(Rare::PodGivenUp), false),
            WorkerFailure::InstallationSuspended => (Some(Rare::SuspendedBeforeStart), pod.is_some()),
            WorkerFailure::NameTaken => (None, !self.judge.minted.contains(name)),
            WorkerFailure::PodFailed => (None, alive || ours.is_some_and(|pod| pod.phase == PodPhase::Succeeded)),
            WorkerFailure::InstallationGone => (None, self.is_installed(name)),
        };
        if let Some(rare) = rare {
            self.rare(rare);
        }
        if untrue {
            self.breaks("S16 silence", format!("{name} is failed as {failure}, which is not so"));
        }
    }
}
