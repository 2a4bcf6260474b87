//! A world that does what it is asked: rows are written, GitHub makes runners, the cluster runs pods.

use std::{collections::BTreeMap, sync::Arc};

use engine::{
    decide::decide,
    decision::{Action, Chosen},
    facts::{
        Change, GitHubAnswer, JobView, Minted, Outcome, Pod, PodListing, PodPhase, Runner, RunnerListing, Status,
        Worker, Written,
    },
    ids::{EntityId, NodeName, PodUid, RunnerId, Time},
    policy::Policy,
    snapshot::Snapshot,
};

use crate::{Size, job, world};

/// A snapshot, and what it is a snapshot of.
pub struct Served {
    /// What the engine knows.
    pub snapshot: Snapshot,
    /// Our pods that have not ended, in the order in which they were made.
    pub pods: BTreeMap<i64, Pod>,
    runners: BTreeMap<EntityId, Vec<Runner>>,
    made: i64,
}

impl Served {
    /// A world of `size` in which whatever fits has its runner, online and without a job, and the rest waits.
    pub fn new(size: Size, policy: &Policy, now: Time) -> Self {
        let snapshot = world(size, policy);
        let mut served = Self { snapshot, pods: BTreeMap::new(), runners: BTreeMap::new(), made: 0 };
        served.settle(policy, now);
        served
    }

    /// Decides and answers until nothing more is chosen.
    pub fn settle(&mut self, policy: &Policy, now: Time) {
        self.carry_out(Vec::new(), policy, now);
    }

    /// The same after a decision's actions are answered.
    pub fn carry_out(&mut self, actions: Vec<Chosen>, policy: &Policy, now: Time) {
        let mut actions = actions;
        loop {
            for chosen in actions {
                self.answer(chosen, now);
            }
            actions = decide(&mut self.snapshot, policy, now).actions;
            if actions.is_empty() {
                return;
            }
        }
    }

    /// A hundred changes of one moment: a third are runners' pods that end, a third the oldest jobs, a third are jobs that are
    /// queued. `round` counts from 1; no job comes twice.
    pub fn hundred_changes(&mut self, size: Size, round: i64, now: Time) -> Vec<Change> {
        let pods: Vec<i64> = self.pods.keys().copied().take(34).collect();
        let ended: Vec<Change> = pods.into_iter().filter_map(|pod| self.ends(pod, now)).collect();
        let job = |id, status| Change::Job(job(size, id, status));
        let over = (1..=33).map(|i| job(round * 33 + i, Status::Completed));
        let queued = (1..=33).map(|i| job(size.jobs + round * 33 + i, Status::Pending));
        ended.into_iter().chain(over).chain(queued).collect()
    }

    /// A pod ends well, and is none of `pods` any more: what the watch saw of it.
    pub fn ends(&mut self, pod: i64, now: Time) -> Option<Change> {
        let mut pod = self.pods.remove(&pod)?;
        (pod.phase, pod.finished_at) = (PodPhase::Succeeded, Some(now));
        Some(Change::PodSeen(pod))
    }

    fn answer(&mut self, chosen: Chosen, now: Time) {
        let outcome = match chosen.action {
            Action::Write { .. } => Outcome::Written(Ok(Written::Done)),
            Action::PollJob { .. } => {
                Outcome::JobPolled { asked_at: now, answer: well(JobView::Queued { said_at: None }) }
            }
            Action::ListRunners(scope) => {
                let runners = self.runners.get(&scope.entity).cloned().unwrap_or_default();
                Outcome::RunnersListed(well(RunnerListing { asked_at: now, runners }))
            }
            Action::MintJit(worker) => {
                self.made += 1;
                let runner = RunnerId(self.made);
                let name: Arc<str> = worker.name.text().clone();
                let entry = Runner { id: runner, name, online: true, busy: false };
                self.runners.entry(worker.entity).or_default().push(entry);
                Outcome::JitMinted(well(Minted { runner }))
            }
            Action::CreatePod(worker) => {
                self.made += 1;
                let pod = pod(&worker, self.made, now);
                self.pods.insert(self.made, pod.clone());
                Outcome::PodCreated(Ok(pod))
            }
            Action::CreateSecret { worker, .. } => {
                let runs = self.pods.values_mut().rev().find(|pod| pod.name == worker);
                if let Some(pod) = runs {
                    (pod.phase, pod.started_at) = (PodPhase::Running, Some(now));
                    self.snapshot.apply(Change::PodSeen(pod.clone()), now);
                }
                Outcome::SecretCreated(Ok(()))
            }
            Action::DeleteRunner { scope, id, .. } => {
                self.runners.entry(scope.entity).or_default().retain(|it| it.id != id);
                Outcome::RunnerDeleted(well(()))
            }
            Action::DeletePod { name, uid } => {
                self.snapshot.apply(Change::PodGone { name, uid }, now);
                Outcome::PodDeleted(Ok(()))
            }
            Action::ListPods => {
                Outcome::PodsListed(Ok(PodListing { asked_at: now, pods: self.pods.values().cloned().collect() }))
            }
            Action::ListDeliveries { .. } => Outcome::DeliveriesListed(well(Vec::new())),
            Action::Redeliver { .. } => Outcome::Redelivered(well(())),
        };
        self.snapshot.apply(Change::Outcome { action: chosen.id, outcome }, now);
    }
}

fn well<T>(answer: T) -> GitHubAnswer<T> {
    GitHubAnswer { result: Ok(answer), budget: None, calls: 1 }
}

fn pod(worker: &Worker, number: i64, now: Time) -> Pod {
    Pod {
        name: worker.name.clone(),
        uid: PodUid::from(format!("uid-{number}")),
        pool: Some(worker.pool.clone()),
        phase: PodPhase::Pending,
        node: Some(NodeName::from(worker.pool.as_str().replace("pool", "node"))),
        created_at: now,
        started_at: None,
        finished_at: None,
        deleting: false,
        waiting: None,
    }
}
