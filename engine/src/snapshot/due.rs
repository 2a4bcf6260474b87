//! What the rules are to look at, and when.
//!
//! Each key is due once, at the earliest time that anybody asked for. Where a key names a row, the row itself says when it
//! is due, so that asking again for what is due already costs nothing but a look at the row.

use alloc::vec::Vec;

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

/// What is due in one decision: keys of each kind, in order.
#[derive(Debug, Default)]
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
            Key::Job(id) => self.jobs.push(id),
            Key::Polls(id) => self.polls.push(id),
            Key::Scope(id) => self.scopes.push(id),
            Key::Name(name) => self.names.push(name),
            Key::PodList => self.pod_list = true,
            Key::Deliveries(app) => self.deliveries.push(app),
            Key::Group(gx) => self.groups.push(gx),
        }
    }

    fn sort(&mut self) {
        self.jobs.sort_unstable();
        self.polls.sort_unstable();
        self.scopes.sort_unstable();
        self.names.sort_unstable();
        self.deliveries.sort_unstable();
        self.groups.sort_unstable();
    }
}

impl Snapshot {
    /// Has the rules look at `key` in the next decision.
    pub(crate) fn touch(&mut self, key: Key) {
        self.wake(key, Time::ZERO);
    }

    /// Has the rules look at `key` at `at`, or earlier if it is due earlier already.
    pub(crate) fn wake(&mut self, key: Key, at: Time) {
        let known = self.due_at(&key);
        // No rule has anything to look at in a scope that nobody has heard of.
        let unknown = matches!(&key, Key::Scope(entity) if !self.scopes.contains_key(entity));
        if at >= known || unknown {
            return;
        }
        if known != Time::NEVER {
            self.due.remove(&(known, key.clone()));
        }
        self.set_due_at(&key, at);
        self.due.insert((at, key));
    }

    /// The same for the polls of an installation whose row is at hand.
    pub(super) fn wake_polls(&mut self, row: Row, at: Time) {
        if self.installations[row].due_at.is_none_or(|known| at < known) {
            self.wake(Key::Polls(self.installations.id_of(row)), at);
        }
    }

    /// When `key` is due; [`Time::NEVER`] when it is not.
    pub(super) fn due_at(&self, key: &Key) -> Time {
        let known = match key {
            Key::Polls(id) => self.installations.get(id).and_then(|entry| entry.due_at),
            Key::Scope(id) => self.scopes.get(id).map(|scope| scope.due_at),
            Key::Group(gx) => Some(self.groups[*gx as usize].due_at),
            Key::Job(_) | Key::Name(_) | Key::PodList | Key::Deliveries(_) => self.due_by_key.get(key).copied(),
        };
        known.unwrap_or(Time::NEVER)
    }

    fn set_due_at(&mut self, key: &Key, at: Time) {
        match key {
            Key::Polls(id) => self.installation(*id).due_at = Some(at).filter(|&at| at != Time::NEVER),
            Key::Scope(id) => {
                if let Some(scope) = self.scopes.get_mut(id) {
                    scope.due_at = at;
                }
            }
            Key::Group(gx) => self.groups[*gx as usize].due_at = at,
            Key::Job(_) | Key::Name(_) | Key::PodList | Key::Deliveries(_) => {
                if at == Time::NEVER {
                    self.due_by_key.remove(key);
                } else {
                    self.due_by_key.insert(key.clone(), at);
                }
            }
        }
    }

    /// Takes everything that is due at `now`; `None` when nothing is.
    pub(crate) fn take_due(&mut self, now: Time) -> Option<Due> {
        let mut taken: Option<Due> = None;
        while let Some((at, _)) = self.due.first()
            && *at <= now
        {
            let Some((_, key)) = self.due.pop_first() else { break };
            self.set_due_at(&key, Time::NEVER);
            taken.get_or_insert_default().note(key);
        }
        if let Some(due) = &mut taken {
            due.sort();
        }
        taken
    }

    /// When the next thing falls due.
    pub fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }
}
