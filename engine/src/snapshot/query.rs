//! Questions the rules ask of a snapshot.

use super::{InstallationEntry, JobEntry, JobPlace, PodEntry, Snapshot, WorkerEntry};
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
        let scope = self.scopes.get(&row.entity)?;
        let last = scope.last_group.filter(|&gx| self.groups[gx as usize].key.labels == row.labels);
        last.or_else(|| scope.groups.get(&row.labels).copied())
    }

    pub(crate) fn installation(&mut self, id: InstallationId) -> &mut InstallationEntry {
        let row = self.installations.row_or_insert_with(id, InstallationEntry::default);
        &mut self.installations[row]
    }

    /// Whether the pod listing is younger than `moment`: only then does a missing pod not exist (S16).
    pub(crate) fn pods_known_since(&self, moment: Time) -> bool {
        self.pods_at.is_some_and(|at| at > moment)
    }

    /// Whether the store was read in full after `moment`: only then does a missing row not exist (S16).
    pub(crate) fn store_known_since(&self, moment: Time) -> bool {
        self.synced_at.is_some_and(|at| at > moment)
    }

    /// A pool, when anything is known of it.
    pub(crate) fn pool_state(&self, pool: &Pool) -> Option<&PoolState> {
        self.pool_ix.get(pool).map(|&px| &self.pools[px as usize])
    }

    /// Where a job is from and where it is to run.
    pub(crate) fn place(&self, job: &JobEntry) -> &JobPlace {
        &self.places[job.place as usize]
    }

    /// A pool's capacity: (offered, taken).
    pub fn capacity(&self, pool: &Pool) -> (i64, i64) {
        self.pool_state(pool).map_or((0, 0), |state| (state.slots, state.pods + state.unplaced))
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
