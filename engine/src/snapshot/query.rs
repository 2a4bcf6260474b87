//! Questions the rules ask of a snapshot.

use core::mem;

use super::{InstallationEntry, JobEntry, JobPlace, PodEntry, Snapshot, WorkerEntry};
use crate::{
    ids::{InstallationId, JobId, Pool, Time, WorkerName},
    snapshot::{Gx, Key, PoolState, Stage},
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

    /// Which place in line a worker whose pod could be made now has for that, from 1: none when its pool has one for it, with
    /// all pods that are there, are being made or may have been. Only where places were lost after workers had been promised
    /// them has it one. Of those that could have their pods now, whoever was reserved first comes first; one that may have its
    /// pod already has a place, and is in no line.
    pub(crate) fn line_for_pod(&self, worker: &WorkerEntry) -> Option<i64> {
        let pool = &worker.row.pool;
        let state = self.pool_state(pool).filter(|state| state.free() < 0)?;
        let order = |worker: &WorkerEntry| (worker.row.created_at, worker.row.name.clone());
        let (mine, in_line) = (order(worker), self.is_before_its_pod(worker));
        let (mut unmade, mut place) = (0, 1);
        for (name, other) in &self.workers {
            let is_it = *name == worker.row.name;
            if other.row.pool != *pool
                || !other.is_active()
                || !(is_it || self.is_before_its_pod(other))
                || self.pods.contains_key(name)
            {
                continue;
            }
            unmade += 1;
            let waits = other.stage == Stage::Minted && other.removing.is_none() && other.backoff.until <= self.now;
            place += i64::from(in_line && waits && !is_it && order(other) < mine);
        }
        (place > state.slots - state.pods - (state.unplaced - unmade)).then_some(place)
    }

    /// This worker found no place for its pod: it is looked at when there is another one.
    pub(crate) fn note_short(&mut self, name: &WorkerName, pool: &Pool) {
        let px = self.pool(pool);
        let state = &mut self.pools[px as usize];
        let free = state.free();
        let (names, least) = &mut state.short;
        *least = if names.is_empty() { free } else { free.min(*least) };
        if !names.contains(name) {
            names.push(name.clone());
        }
    }

    /// Has those looked at that found no place, where places have come free since.
    pub(crate) fn touch_short(&mut self) {
        for px in 0..self.pools.len() {
            let state = &mut self.pools[px];
            if state.short.0.is_empty() || state.free() <= state.short.1 {
                continue;
            }
            for name in mem::take(&mut state.short.0) {
                self.touch(Key::Name(name));
            }
        }
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
