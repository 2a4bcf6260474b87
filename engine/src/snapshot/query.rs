//! Questions the rules ask of a snapshot.

use super::{InstallationEntry, JobEntry, JobPlace, PodEntry, Snapshot, WorkerEntry};
use crate::{
    ids::{InstallationId, JobId, Pool, Time, WorkerName},
    snapshot::{Gx, PoolState, Stage},
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

    /// Whether a worker's pod fits into its pool, with all others that are there, are being made or may have been. Only where
    /// places were lost after workers had been promised them may it not.
    pub(crate) fn has_place_for_pod(&self, name: &WorkerName, pool: &Pool) -> bool {
        let Some(state) = self.pool_state(pool) else { return true };
        if state.free() >= 0 {
            return true;
        }
        state.slots - state.pods - (state.unplaced - self.without_pod(pool, Some(name)).count() as i64) > 0
    }

    /// A pool's workers, by name, that are sure to have no pod yet, and `also`, whatever it has.
    pub(crate) fn without_pod<'a>(
        &'a self,
        pool: &'a Pool,
        also: Option<&'a WorkerName>,
    ) -> impl Iterator<Item = &'a WorkerEntry> {
        let unmade = move |(name, worker): &(&WorkerName, &WorkerEntry)| {
            worker.row.pool == *pool
                && worker.is_active()
                && (also == Some(*name) || self.is_before_its_pod(worker))
                && !self.pods.contains_key(*name)
        };
        self.workers.iter().filter(unmade).map(|(_, worker)| worker)
    }

    /// Whether no pod can have been made for a worker, whose pod is out of view: none has been asked for, or it was refused, or
    /// a listing would show it.
    fn is_before_its_pod(&self, worker: &WorkerEntry) -> bool {
        match worker.stage {
            Stage::Reserving | Stage::Reserved => true,
            Stage::Minted => {
                !worker.in_flight && (worker.pod_until == Time::ZERO || self.pods_known_since(worker.pod_until))
            }
            Stage::Found | Stage::PodMade(_) | Stage::Ready => false,
        }
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
