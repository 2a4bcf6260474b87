//! Questions the rules ask of a snapshot.

use alloc::{collections::BTreeSet, vec::Vec};
use core::mem;

use super::index::Short;
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

    /// Whether a worker's pod fits into its pool, with all others that are there, are being made or may have been. Only where
    /// places were lost after workers had been promised them may it not. Of those that could have their pods now, whoever was
    /// reserved first comes first; one that may have its pod already keeps its place.
    pub(crate) fn has_place_for_pod(&self, worker: &WorkerEntry) -> bool {
        let pool = &worker.row.pool;
        let Some(state) = self.pool_state(pool).filter(|state| state.free() < 0) else { return true };
        let in_line = self.is_before_its_pod(worker);
        let (mut unmade, mut before) = (i64::from(!in_line), 0);
        for other in self.without_pod(pool) {
            unmade += 1;
            before += i64::from(in_line && self.waits_for_pod(other) && order(other) < order(worker));
        }
        state.left_for_pods(unmade) > before
    }

    /// A pool's workers that are sure to have no pod yet.
    fn without_pod<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = &'a WorkerEntry> {
        let unmade = move |(name, worker): &(&WorkerName, &WorkerEntry)| {
            worker.row.pool == *pool
                && worker.is_active()
                && self.is_before_its_pod(worker)
                && !self.pods.contains_key(*name)
        };
        self.workers.iter().filter(unmade).map(|(_, worker)| worker)
    }

    /// Whether a worker without a pod could have it now.
    fn waits_for_pod(&self, worker: &WorkerEntry) -> bool {
        worker.stage == Stage::Minted && worker.removing.is_none() && worker.backoff.until <= self.now
    }

    /// A worker's place, from 1, among those of its pool that have their configurations and no pods, as they were reserved.
    pub(crate) fn line_for_pod(&self, worker: &WorkerEntry) -> u64 {
        let waits = |other: &&WorkerEntry| other.stage == Stage::Minted && other.removing.is_none();
        let before = |other: &&WorkerEntry| order(other) < order(worker);
        1 + self.without_pod(&worker.row.pool).filter(waits).filter(before).count() as u64
    }

    /// This worker found no place for its pod: it is looked at when there is one more.
    pub(crate) fn note_short(&mut self, name: &WorkerName, pool: &Pool) {
        let px = self.pool(pool);
        let state = &mut self.pools[px as usize];
        let free = state.free();
        let short = &mut state.short;
        short.free = if short.names.is_empty() { free } else { free.min(short.free) };
        short.names.insert(name.clone());
        self.is_short = true;
    }

    /// A place is another's without one more being free: whoever had it waits for something else now.
    pub(crate) fn stir_short(&mut self, pool: &Pool) {
        let px = self.pool(pool);
        self.pools[px as usize].short.free = i64::MIN;
    }

    /// Has those looked at that found no place and have one now.
    pub(crate) fn touch_short(&mut self) {
        if !mem::take(&mut self.is_short) {
            return;
        }
        for px in 0..self.pools.len() {
            let state = &self.pools[px];
            self.is_short |= !state.short.names.is_empty();
            if state.short.names.is_empty() || state.free() <= state.short.free {
                continue;
            }
            let (free, pool) = (state.free(), state.name.clone());
            let (mut unmade, mut waiting) = (0, Vec::new());
            for worker in self.without_pod(&pool) {
                unmade += 1;
                if self.waits_for_pod(worker) {
                    waiting.push(order(worker));
                }
            }
            waiting.sort_unstable();
            let served = usize::try_from(state.left_for_pods(unmade)).unwrap_or(0);
            let rest = if free < 0 { waiting.get(served..).unwrap_or_default() } else { &[] };
            let rest: BTreeSet<WorkerName> = rest.iter().map(|(_, name)| (*name).clone()).collect();
            let short = mem::replace(&mut self.pools[px].short, Short { names: rest, free });
            for name in short.names {
                if !self.pools[px].short.names.contains(&name) {
                    self.touch(Key::Name(name));
                }
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

/// As workers were reserved.
fn order(worker: &WorkerEntry) -> (Time, &WorkerName) {
    (worker.row.created_at, &worker.row.name)
}
