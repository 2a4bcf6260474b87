//! What the rules are to look at, and when.
//!
//! What has just changed is *touched*: it is due in the next decision, noted in a list that takes a push and no search.
//! What is due later has a timer, at the earliest time that anybody asked for. Where a key names a row, the row itself says
//! when its timer is, so that asking again for what is due already costs nothing but a look at the row. A touch leaves the
//! timer alone, so a key may be looked at once more than needed; never too late.

use alloc::vec::Vec;
use core::mem;

use super::{Gx, Row, Snapshot};
use crate::{
    facts::App,
    ids::{EntityId, InstallationId, JobId, Time, WorkerName},
};

/// What may fall due.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    /// A job that a poll, or its installation's end, said something about.
    Job(JobId),
    /// An installation with polls waiting.
    Polls(InstallationId),
    /// An entity's listing of runners, and what the last one showed.
    Scope(EntityId),
    /// Whatever goes by this name: a worker, a pod, or both.
    Name(WorkerName),
    /// The full listing of pods.
    PodList,
    /// An App's delivery log.
    Deliveries(App),
    /// A group held back after a refused reservation, or for want of budget.
    Group(Gx),
}

/// What is due in one decision: keys of each kind, in order and each once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Due {
    pub jobs: Vec<JobId>,
    pub polls: Vec<InstallationId>,
    pub scopes: Vec<EntityId>,
    pub names: Vec<WorkerName>,
    pub pod_list: bool,
    pub deliveries: Vec<App>,
    pub groups: Vec<Gx>,
}

impl Due {
    fn note(&mut self, key: Key) {
        match key {
            Key::Job(id) => push(&mut self.jobs, id),
            Key::Polls(id) => push(&mut self.polls, id),
            Key::Scope(id) => push(&mut self.scopes, id),
            Key::Name(name) => push(&mut self.names, name),
            Key::PodList => self.pod_list = true,
            Key::Deliveries(app) => push(&mut self.deliveries, app),
            Key::Group(gx) => push(&mut self.groups, gx),
        }
    }

    fn holds(&self, key: &Key) -> bool {
        match key {
            Key::Job(id) => self.jobs.contains(id),
            Key::Polls(id) => self.polls.contains(id),
            Key::Scope(id) => self.scopes.contains(id),
            Key::Name(name) => self.names.contains(name),
            Key::PodList => self.pod_list,
            Key::Deliveries(app) => self.deliveries.contains(app),
            Key::Group(gx) => self.groups.contains(gx),
        }
    }

    fn is_empty(&self) -> bool {
        let Self { jobs, polls, scopes, names, pod_list, deliveries, groups } = self;
        let none = jobs.is_empty() && polls.is_empty() && scopes.is_empty() && names.is_empty() && !pod_list;
        none && deliveries.is_empty() && groups.is_empty()
    }

    fn clear(&mut self) {
        let Self { jobs, polls, scopes, names, pod_list, deliveries, groups } = self;
        jobs.clear();
        polls.clear();
        scopes.clear();
        names.clear();
        *pod_list = false;
        deliveries.clear();
        groups.clear();
    }

    fn sort(&mut self) {
        sort(&mut self.jobs);
        sort(&mut self.polls);
        sort(&mut self.scopes);
        sort(&mut self.names);
        sort(&mut self.deliveries);
        sort(&mut self.groups);
    }
}

/// What is touched again and again is noted once as long as nothing else comes between.
fn push<T: PartialEq>(keys: &mut Vec<T>, key: T) {
    if keys.last() != Some(&key) {
        keys.push(key);
    }
}

fn sort<T: Ord>(keys: &mut Vec<T>) {
    if keys.len() > 1 {
        keys.sort_unstable();
        keys.dedup();
    }
}

impl Snapshot {
    /// Has the rules look at `key` in the next decision.
    pub(crate) fn touch(&mut self, key: Key) {
        if !self.is_unknown(&key) {
            self.touched.note(key);
        }
    }

    /// No rule has anything to look at in a scope that nobody has heard of.
    fn is_unknown(&self, key: &Key) -> bool {
        matches!(key, Key::Scope(entity) if !self.scopes.contains_key(entity))
    }

    /// Has the rules look at `key` at `at`, or earlier if it is due earlier already.
    pub(crate) fn wake(&mut self, key: Key, at: Time) {
        if at <= self.now {
            return self.touch(key);
        }
        let known = self.timer(&key);
        if at >= known || self.is_unknown(&key) {
            return;
        }
        if known != Time::NEVER {
            self.timers.remove(&(known, key.clone()));
        }
        self.set_timer(&key, at);
        self.timers.insert((at, key));
    }

    /// The same for the polls of an installation whose row is at hand.
    pub(super) fn wake_polls(&mut self, row: Row, at: Time) {
        if self.installations[row].timer.is_none_or(|known| at < known) {
            self.wake(Key::Polls(self.installations.id_of(row)), at);
        }
    }

    /// When `key` is due: [`Time::ZERO`] for at once, [`Time::NEVER`] when it is not.
    pub(super) fn due_at(&self, key: &Key) -> Time {
        if self.touched.holds(key) { Time::ZERO } else { self.timer(key) }
    }

    /// When the timer of `key` is; [`Time::NEVER`] when there is none.
    pub(super) fn timer(&self, key: &Key) -> Time {
        let known = match key {
            Key::Polls(id) => self.installations.get(id).and_then(|entry| entry.timer),
            Key::Scope(id) => self.scopes.get(id).map(|scope| scope.timer),
            Key::Group(gx) => Some(self.groups[*gx as usize].timer),
            Key::Job(_) | Key::Name(_) | Key::PodList | Key::Deliveries(_) => self.timer_by_key.get(key).copied(),
        };
        known.unwrap_or(Time::NEVER)
    }

    fn set_timer(&mut self, key: &Key, at: Time) {
        match key {
            Key::Polls(id) => self.installation(*id).timer = Some(at).filter(|&at| at != Time::NEVER),
            Key::Scope(id) => {
                if let Some(scope) = self.scopes.get_mut(id) {
                    scope.timer = at;
                }
            }
            Key::Group(gx) => self.groups[*gx as usize].timer = at,
            Key::Job(_) | Key::Name(_) | Key::PodList | Key::Deliveries(_) => {
                if at == Time::NEVER {
                    self.timer_by_key.remove(key);
                } else {
                    self.timer_by_key.insert(key.clone(), at);
                }
            }
        }
    }

    /// Puts everything that is due at `now` into `due`, in place of what was there; whether there is anything.
    pub(crate) fn take_due(&mut self, now: Time) -> bool {
        while let Some((at, _)) = self.timers.first()
            && *at <= now
        {
            let Some((_, key)) = self.timers.pop_first() else { break };
            self.set_timer(&key, Time::NEVER);
            self.touched.note(key);
        }
        self.due.clear();
        if self.touched.is_empty() {
            return false;
        }
        mem::swap(&mut self.touched, &mut self.due);
        self.due.sort();
        true
    }

    /// When the next thing falls due; now, or earlier, when something has been touched.
    pub fn next_due(&self) -> Option<Time> {
        if !self.touched.is_empty() {
            return Some(self.now);
        }
        self.timers.first().map(|(at, _)| *at)
    }
}
