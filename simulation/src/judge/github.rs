//! What GitHub is asked.

use std::sync::Arc;

use engine::ids::WorkerName;

use crate::{
    github::Entry,
    register::Rare,
    run::{SECOND, Sim},
};

use super::{Call, RESERVED};

/// An answer is read this long after it was given, at the latest.
const ON_ITS_WAY: i64 = 30 * SECOND;

impl Sim {
    /// S9: the runner carries its row's labels; S11: it has a row.
    pub(crate) fn judge_minted(&mut self, account: usize, entry: &Entry) {
        self.judge.last_change = self.now;
        if self.late_call {
            *self.judge.unheard_mints.entry(account).or_default() += 1;
        }
        self.judge.minted.insert(entry.name.clone());
        let Some(row) = self.store.rows.worker(&entry.name) else {
            return self.breaks("S11 owned", format!("runner {} has no worker row", entry.name));
        };
        if row.labels != entry.labels || row.entity.0 != entry.entity {
            let what = format!("runner {} has labels that differ from its row's", entry.name);
            self.breaks("S9 exact-labels", what);
        }
    }

    /// A runner starts on its one job.
    pub(crate) fn judge_started(&mut self, name: &WorkerName) {
        self.judge.spent.insert(name.clone());
    }

    pub(crate) fn judge_runner_deleted(&mut self, name: &WorkerName) {
        self.judge.last_change = self.now;
        let idle = self.github.runner_of(name).and_then(|it| it.idle_since);
        if let Some(since) = idle {
            self.judge.deleted_idle.insert(name.clone(), self.now - since);
        }
        let row = self.store.rows.worker(name).map(|row| row.status);
        match row {
            None => self.rare(Rare::OrphanRunnerDeleted),
            Some(status) if status.is_ended() => self.rare(Rare::OrphanRunnerDeleted),
            Some(_) => {}
        }
    }

    /// S15: a delivery is not repeated without end.
    pub(crate) fn judge_redelivered(&mut self, guid: &Arc<str>) {
        let count = self.judge.repeated.entry(guid.clone()).or_default();
        *count += 1;
        // Each leader may try anew, and one that is not answered is repeated every two minutes.
        let bound = 6 * self.store.granted.max(1) + self.now / (100 * SECOND);
        if i64::from(*count) > bound {
            let what = format!("delivery {guid} is repeated {count} times");
            self.breaks("S15 bounded", what);
        }
    }

    /// S14: of an hour's calls some are kept for provisioning, which polls do not touch.
    pub(crate) fn judge_reserve(&mut self, account: usize, call: Call) {
        let it = &self.github.accounts[account];
        let (left, limit) = (i64::from(it.limit) - i64::from(it.used), i64::from(it.limit));
        // A clock that has gained since it was told when the hour is over takes it for over a little too early.
        let knows = self.judge.shown.get(&account).is_some_and(|shown| {
            let gained = self.caller_ahead - shown.ahead;
            self.now - shown.since > ON_ITS_WAY && self.now + gained < it.reset_at
        });
        // What its caller has given up may have been sent before that was known.
        if knows && !self.late_call && call == Call::Poll && left < limit * (RESERVED - 10) / 100 {
            let what = format!("a job of account {account} is asked about with {left} of {limit} calls left");
            self.breaks("S14 budget", what);
        }
    }
}
