//! Questions the rules ask of a snapshot.

use super::{InstallationEntry, PodEntry, Snapshot, WorkerEntry, index::worker_key};
use crate::{
    ids::{InstallationId, JobId, Pool, Time, WorkerName},
    snapshot::{Gx, PoolState},
};

impl Snapshot {
    pub(crate) fn worker(&self, name: &WorkerName) -> Option<&WorkerEntry> {
        self.workers.get(name)
    }

    pub(crate) fn pod(&self, name: &WorkerName) -> Option<&PodEntry> {
        self.pods.get(name)
    }

    pub(crate) fn group_of_row(&self, row: &crate::facts::Worker) -> Option<Gx> {
        self.group_ix.get(&worker_key(row)).copied()
    }

    pub(crate) fn installation(&mut self, id: InstallationId) -> &mut InstallationEntry {
        self.installations.entry(id).or_default()
    }

    /// Whether the pod listing is younger than `moment`: only then does a missing pod not exist (S16).
    pub(crate) fn pods_known_since(&self, moment: Time) -> bool {
        self.pods_at.is_some_and(|at| at > moment)
    }

    /// Whether the store was read in full after `moment`: only then does a missing row not exist (S16).
    pub(crate) fn store_known_since(&self, moment: Time) -> bool {
        self.synced_at.is_some_and(|at| at > moment)
    }

    /// A pool's capacity: (offered, taken).
    pub fn capacity(&self, pool: &Pool) -> (i64, i64) {
        self.pools.get(pool).map_or((0, 0), |state: &PoolState| (state.slots, state.pods + state.unplaced))
    }

    /// Pending and running jobs.
    pub fn active_jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Workers pending or running.
    pub fn active_workers(&self) -> usize {
        self.active_workers as usize
    }

    /// Workers that are remembered, ended ones too.
    pub fn known_workers(&self) -> usize {
        self.workers.len()
    }

    /// Whether this job is pending or running as far as is known.
    pub fn knows_job(&self, id: JobId) -> bool {
        self.jobs.contains_key(&id)
    }

    /// Actions without an outcome yet.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }
}
