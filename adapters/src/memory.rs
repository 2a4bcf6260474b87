//! The store in memory: the same contract as Postgres, for the demo, tests and simulations.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use engine::{
    decision::{JobFailure, Write},
    facts::{Job, Status, StoreError, Worker, Written},
    ids::{InstallationId, JobId, Span, Time, WorkerName},
    rows::Rows,
};
use futures::{
    FutureExt,
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt},
};
use serde_json::Value;
use tokio::sync::watch;

use crate::ports::{Changes, Clock, Cursor, HistoryPage, HistoryQuery, Lease, Store, StoreWrite, Usage, history_order};

/// A store that lives as long as its process.
pub struct MemoryStore {
    clock: Clock,
    kept: Mutex<Kept>,
    bell: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    rows: Rows,
    failure_info: BTreeMap<WorkerName, Value>,
}

impl MemoryStore {
    /// An empty store; leadership runs out by `clock`.
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { clock, kept: Mutex::default(), bell: watch::Sender::new(0) })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic while the lock was held left whole rows: each change is made by one assignment.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.bell.send_modify(|rings| *rings += 1);
    }

    /// A worker's `failure_info`, as Postgres would have it.
    pub fn failure_info(&self, name: &WorkerName) -> Option<Value> {
        self.kept().failure_info.get(name).cloned()
    }

    /// Every job, whatever its status.
    pub fn jobs(&self) -> Vec<Job> {
        self.kept().rows.jobs().cloned().collect()
    }

    /// Every worker, whatever its status.
    pub fn workers(&self) -> Vec<Worker> {
        self.kept().rows.workers().cloned().collect()
    }
}

impl Kept {
    fn write(&mut self, write: StoreWrite) -> Written {
        let failing = match &write.write {
            Write::WorkerFailed { name, failure, .. } => Some((name.clone(), *failure)),
            _ => None,
        };
        let before = failing.as_ref().and_then(|(name, _)| self.rows.worker(name)).map(|worker| worker.status);
        let written = self.rows.write(write.write);
        if let Some((name, failure)) = failing
            && written == Written::Done
            && before != Some(Status::Failed)
        {
            self.failure_info.insert(name, failure_info(failure.as_str(), write.diagnostics));
        }
        written
    }
}

/// `failure_info` of version 2: the reason, with whatever diagnostics could be had.
pub(crate) fn failure_info(reason: &str, diagnostics: Option<Value>) -> Value {
    let mut info = serde_json::json!({ "version": 2, "reason": reason });
    if let (Value::Object(info), Some(Value::Object(diagnostics))) = (&mut info, diagnostics) {
        for (key, value) in diagnostics {
            info.entry(key).or_insert_with(|| without_nul(value));
        }
    }
    info
}

/// A log may hold NUL characters, which Postgres takes in no text: they become U+FFFD.
fn without_nul(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => Value::String(text.replace('\0', "\u{fffd}")),
        Value::Array(items) => items.into_iter().map(without_nul).collect(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, without_nul(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}

/// Wraps an answer that is there at once.
fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    std::future::ready(value).boxed()
}

impl Store for MemoryStore {
    fn record(&self, events: Vec<Job>) -> BoxFuture<'_, Result<(), StoreError>> {
        let mut kept = self.kept();
        for event in events {
            kept.rows.record(event);
        }
        drop(kept);
        self.ring();
        ready(Ok(()))
    }

    fn fail_installation(
        &self,
        installation: InstallationId,
        failure: JobFailure,
        at: Time,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        let failed = self.kept().rows.fail_installation(installation, failure, at);
        self.ring();
        ready(Ok(failed))
    }

    fn acquire<'a>(&'a self, _holder: &'a str, ttl: Span) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        let granted = self.kept().rows.acquire((self.clock)(), ttl);
        ready(Ok(granted.map(Lease::granted)))
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Span) -> BoxFuture<'a, Result<bool, StoreError>> {
        ready(Ok(self.kept().rows.renew(lease.epoch(), (self.clock)(), ttl)))
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        self.kept().rows.release(lease.epoch());
        ready(Ok(()))
    }

    fn changes(&self, since: Option<Cursor>) -> BoxFuture<'_, Result<Changes, StoreError>> {
        let (jobs, workers, cursor) = self.kept().rows.changes(since.map(|cursor| cursor.0), (self.clock)());
        ready(Ok(Changes { jobs, workers, cursor: Cursor(cursor) }))
    }

    fn write<'a>(
        &'a self,
        lease: &'a Lease,
        writes: Vec<StoreWrite>,
    ) -> BoxFuture<'a, Result<Vec<Written>, StoreError>> {
        let mut kept = self.kept();
        if !kept.rows.is_current(lease.epoch()) {
            return ready(Err(StoreError::Fenced { epoch: lease.epoch() }));
        }
        ready(Ok(writes.into_iter().map(|write| kept.write(write)).collect()))
    }

    fn wakes(&self) -> BoxStream<'static, ()> {
        let bell = self.bell.subscribe();
        let rings = stream::unfold(bell, |mut bell| async move { bell.changed().await.ok().map(|()| ((), bell)) });
        stream::once(std::future::ready(())).chain(rings).boxed()
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, StoreError>> {
        let kept = self.kept();
        let mut jobs: Vec<Job> = kept.rows.jobs().filter(|job| !job.status.is_ended()).cloned().collect();
        let mut workers: Vec<Worker> = kept.rows.workers().filter(|it| !it.status.is_ended()).cloned().collect();
        jobs.sort_by_key(|job| (job.created_at, job.id));
        workers.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
        ready(Ok(Usage { jobs, workers }))
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<'_, Result<HistoryPage, StoreError>> {
        let kept = self.kept();
        let within = |job: &&Job| {
            query.start.is_none_or(|start| job.created_at.0 >= start)
                && query.end.is_none_or(|end| job.created_at.0 < end)
        };
        let mut jobs: Vec<Job> = kept.rows.jobs().filter(within).cloned().collect();
        jobs.sort_by_key(history_order);
        let total = jobs.len() as u64;
        let skip = query.page as usize * query.per_page as usize;
        let jobs = jobs.into_iter().skip(skip).take(query.per_page as usize).collect();
        ready(Ok(HistoryPage { jobs, total }))
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        ready(Ok(()))
    }
}
