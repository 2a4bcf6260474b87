//! The store: the engine's own rows, behind a session that can fail before or after the commit.

use engine::{
    decision::{JobFailure, Write},
    facts::{Job, StoreError, Written},
    ids::{Epoch, InstallationId, Span},
    rows::Rows,
};

use crate::{
    plan::Window,
    register::{Fault, Rare},
    run::{HOUR, Sim},
    trace::number,
};

/// The rows and when the server is away.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// The rows.
    pub rows: Rows,
    /// The epoch of the latest leadership granted, counted apart from the rows.
    pub granted: i64,
    /// Until when leadership is held as far as its holder has told; milliseconds since the world's start.
    pub lease_until: i64,
}

pub(crate) fn away<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable { message: String::from("away") })
}

impl Sim {
    /// Runs a statement: before it, or after it, the session may break.
    fn statement<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> Result<T, StoreError> {
        if self.strikes(Fault::StoreAway) || self.strikes(Fault::StoreBefore) {
            return away();
        }
        let done = run(self);
        if self.strikes(Fault::StoreLostAck) {
            return away();
        }
        Ok(done)
    }

    pub(crate) fn store_records(&mut self, row: Job) -> u16 {
        let id = row.id;
        let said = row.clone();
        let recorded = self.statement(|sim| {
            sim.store.rows.record(row);
            sim.judge_job_row(id);
            sim.notify();
        });
        if recorded.is_ok() {
            self.judge_accepted(&said);
            200
        } else {
            503
        }
    }

    pub(crate) fn store_fails_installation(&mut self, installation: InstallationId, failure: JobFailure) -> u16 {
        let at = self.abs(self.now);
        let failed = self.statement(|sim| {
            let failed = sim.store.rows.fail_installation(installation, failure, at);
            for id in failed {
                sim.judge_job_failed(id, failure);
                sim.judge_job_row(id);
            }
            sim.notify();
        });
        if failed.is_ok() { 200 } else { 503 }
    }

    pub(crate) fn store_acquires(&mut self, ttl: Span) -> Result<Option<Epoch>, StoreError> {
        let now = self.abs(self.now);
        self.statement(|sim| {
            let granted = sim.store.rows.acquire(now, ttl);
            if let Some(epoch) = granted {
                sim.store.lease_until = sim.now + ttl.0;
                sim.judge_granted(epoch);
                sim.note("granted", epoch.0, 0, || format!("epoch {epoch}"));
            }
            granted
        })
    }

    pub(crate) fn store_renews(&mut self, epoch: Epoch, ttl: Span) -> Result<bool, StoreError> {
        let now = self.abs(self.now);
        self.statement(|sim| {
            let renewed = sim.store.rows.renew(epoch, now, ttl);
            if renewed {
                sim.store.lease_until = sim.now + ttl.0;
            }
            renewed
        })
    }

    /// The leader of this epoch renews in time, and the latest renewal holds until then.
    pub(crate) fn store_is_led_until(&mut self, epoch: Epoch, until: i64) {
        if self.store.rows.renew(epoch, self.abs(until), Span::ZERO) {
            self.store.lease_until = until;
        }
    }

    pub(crate) fn store_releases(&mut self, epoch: Epoch) {
        // If it is lost the lease runs out by itself.
        let _ = self.statement(|sim| {
            sim.store.rows.release(epoch);
            sim.store.lease_until = sim.now;
            for s in 0..sim.schedulers.len() {
                sim.ask_again(s);
            }
        });
    }

    /// For how many milliseconds from now on no statement can go wrong: at most an hour.
    pub(crate) fn store_calm_for(&self) -> i64 {
        let faults = [Fault::StoreAway, Fault::StoreBefore, Fault::StoreLostAck];
        let strikes = |it: &&Window| faults.contains(&it.fault) && self.now < it.until.min(self.plan.quiet_at);
        let next =
            self.plan.window.iter().filter(strikes).map(|it| it.from).filter(|it| *it < self.plan.quiet_at).min();
        next.map_or(HOUR, |from| (from - 1 - self.now).clamp(0, HOUR))
    }

    pub(crate) fn store_writes(&mut self, epoch: Epoch, writes: &[(u64, Write)]) -> Result<Vec<Written>, StoreError> {
        let written = self.statement(|sim| {
            if !sim.store.rows.is_current(epoch) {
                sim.counts.rare(Rare::FencedWrite);
                return None;
            }
            sim.judge_written(epoch);
            Some(writes.iter().map(|(_, write)| sim.write_one(write)).collect())
        })?;
        written.ok_or(StoreError::Fenced { epoch })
    }

    fn write_one(&mut self, write: &Write) -> Written {
        let before = self.judge_before_write(write);
        let written = self.store.rows.write(write.clone());
        self.note("write", kind(write), written as i64, || format!("{written:?} {}", what(write)));
        self.judge_after_write(write, written, before);
        match (write, written) {
            (Write::Reserve { .. }, Written::RefusedCap) => self.counts.rare(Rare::RefusedCap),
            (Write::Reserve { .. }, Written::RefusedDemand) => self.counts.rare(Rare::RefusedDemand),
            _ => {}
        }
        written
    }

    /// Wakes every leader, unless the notification is lost.
    fn notify(&mut self) {
        for scheduler in 0..self.schedulers.len() {
            if self.schedulers[scheduler].is_leading() && !self.strikes(Fault::NotifyLost) {
                self.wake_reader(scheduler);
            }
        }
    }
}

/// A write as a number, for the trace's hash: what it is, and of whom.
pub(crate) fn kind(write: &Write) -> i64 {
    match write {
        Write::Reserve { worker, phantoms, .. } => number(worker.name.as_str()) ^ ((phantoms.len() as i64) << 8),
        Write::WorkerRunning { name, .. } => number(name.as_str()) ^ 1,
        Write::WorkerCompleted { name, .. } => number(name.as_str()) ^ 2,
        Write::WorkerFailed { name, failure, .. } => number(name.as_str()) ^ 3 ^ ((*failure as i64) << 8),
        Write::JobRunning { id, .. } => id.0 ^ (1 << 40),
        Write::JobCompleted { id, .. } => id.0 ^ (2 << 40),
        Write::JobFailed { id, .. } => id.0 ^ (3 << 40),
        Write::JobRequeued { id, .. } => id.0 ^ (4 << 40),
    }
}

/// A write in words.
pub(crate) fn what(write: &Write) -> String {
    match write {
        Write::Reserve { worker, phantoms, .. } => {
            format!("reserve {} [{}] phantoms={}", worker.name, worker.labels, phantoms.len())
        }
        Write::WorkerRunning { name, .. } => format!("{name} running"),
        Write::WorkerCompleted { name, .. } => format!("{name} completed"),
        Write::WorkerFailed { name, failure, .. } => format!("{name} failed: {failure}"),
        Write::JobRunning { id, .. } => format!("job {id} running"),
        Write::JobCompleted { id, .. } => format!("job {id} completed"),
        Write::JobFailed { id, failure, .. } => format!("job {id} failed: {failure}"),
        Write::JobRequeued { id, .. } => format!("job {id} requeued"),
    }
}
