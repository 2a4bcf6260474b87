//! Plays a capture into the models: the world it needs, and what happens in it when.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use adapters::ports::system_clock;
use engine::ids::Span;

use crate::{
    capture::{self, PlayedJob},
    harness::Models,
    world::{
        github::GitHub,
        kubernetes::{Cluster, Timing},
    },
};

/// `span` at `speed` times real speed; never nothing.
pub fn faster(span: Span, speed: f64) -> Span {
    Span(((span.0 as f64 / speed) as i64).max(1))
}

/// A GitHub that knows a capture's accounts and repositories, its limits at this speed.
pub fn github(jobs: &[PlayedJob], speed: f64) -> GitHub {
    let mut github = GitHub::new(1);
    capture::introduce(&mut github, jobs);
    for account in github.accounts.values_mut() {
        account.quota.limit = (f64::from(account.quota.limit) * speed) as u32;
    }
    github
}

/// A cluster with boards of four kinds at this speed; for the built-in capture its pods fail as that wants it.
pub fn cluster(speed: f64, built_in: bool) -> Cluster {
    let mut cluster = Cluster::new(1);
    let now = (system_clock())();
    let timing = Timing::default();
    cluster.timing = Timing {
        pull: faster(timing.pull, speed),
        start: faster(timing.start, speed),
        terminate: faster(timing.terminate, speed),
    };
    for (board, nodes) in [("scw-em-rv1", 14), ("cloudv10x-pioneer", 3), ("cloudv10x-rvv", 3), ("cloudv10x-jupiter", 6)]
    {
        for i in 1..=nodes {
            cluster.set_node(&format!("{board}-{i}"), board, 1, now);
        }
    }
    if built_in {
        cluster.next_fates = capture::fates().into();
    }
    cluster
}

/// A capture being played, from the moment it was made.
pub struct Player {
    jobs: Vec<PlayedJob>,
    speed: f64,
    begun: Instant,
    queued: usize,
    /// When, in the capture's milliseconds, and which job.
    cancels: BTreeSet<(i64, i64)>,
}

impl Player {
    /// Begins now.
    pub fn new(jobs: Vec<PlayedJob>, speed: f64) -> Self {
        Self { jobs, speed, begun: Instant::now(), queued: 0, cancels: BTreeSet::new() }
    }

    /// Does whatever is due.
    pub fn step(&mut self, models: &Models) {
        let due_ms = (self.begun.elapsed().as_secs_f64() * 1000.0 * self.speed) as i64;
        while let Some(job) = self.jobs.get(self.queued).filter(|job| job.queued.0 <= due_ms) {
            self.queued += 1;
            if let Some(after) = job.cancelled {
                self.cancels.insert((job.queued.0 + after.0, job.id));
            }
            let labels: Vec<&str> = job.labels.iter().map(String::as_str).collect();
            let duration = faster(job.duration, self.speed);
            models.github.with(|github, now| github.queue_job(job.id, job.repo.0, &labels, duration, now));
        }
        while let Some(&(at, id)) = self.cancels.first().filter(|(at, _)| *at <= due_ms) {
            self.cancels.remove(&(at, id));
            models.github.with(|github, now| github.cancel_job(id, now));
        }
    }

    /// Nothing of the capture is left to come.
    pub fn is_over(&self) -> bool {
        self.queued == self.jobs.len() && self.cancels.is_empty()
    }

    /// Its jobs.
    pub fn jobs(&self) -> &[PlayedJob] {
        &self.jobs
    }

    /// How many of them are queued so far.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Within this everything should be completed: ten times as long as the capture itself, and some for the timeouts
    /// that its faults need.
    pub fn limit(&self) -> Duration {
        let end = |job: &PlayedJob| job.queued.0 + job.duration.0;
        let longest = self.jobs.iter().map(end).max().unwrap_or(0) as f64 / 1000.0;
        Duration::from_secs_f64(60.0 + 10.0 * (longest + 1200.0) / self.speed)
    }

    /// The last line of a run that ends: JSON.
    pub fn report(&self, models: &Models, completed: usize) -> String {
        let webhooks = models.github.with(|github, _| github.log.len());
        let workers = models.cluster.with(|cluster, _| cluster.pods_created);
        let (jobs, calls, seconds) = (self.jobs.len(), models.github.faults.count(), self.elapsed().as_secs());
        format!(
            "{{\"jobs\":{jobs},\"completed\":{completed},\"workers\":{workers},\"webhooks\":{webhooks},\"github_calls\":{calls},\"seconds\":{seconds}}}"
        )
    }
}
