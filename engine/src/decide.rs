//! The ordered list of rules, and nothing else.

use alloc::vec::Vec;
use core::mem;

use crate::{
    decision::{Action, Chosen, Decision, Reason},
    ids::{Time, WorkerName},
    policy::Policy,
    rules::{cleanup_pods, demand_match, provision, reconcile_jobs, reconcile_runners, redeliver},
    snapshot::{Due, Flight, Snapshot},
};

/// Chooses what to do at `now`.
///
/// Deterministic in (snapshot, policy, now). The snapshot notes what was chosen as under way, so that deciding again
/// at once chooses nothing; each chosen action must be answered by one [`crate::facts::Change::Outcome`]. Cost: what
/// changed, what is due and what is chosen, never how many jobs there are.
pub fn decide(snapshot: &mut Snapshot, policy: &Policy, now: Time) -> Decision {
    let mut turn = Turn::begin(snapshot, policy, now);
    for round in 0..ROUNDS {
        turn.s.touch_short();
        let due = turn.s.take_due(turn.now);
        // Space may have come free without anything being due; the first round serves all whom it is for.
        if !due && (round > 0 || !demand_match::has_turn(&turn)) {
            break;
        }
        reconcile_jobs::run(&mut turn);
        reconcile_runners::run(&mut turn);
        cleanup_pods::run(&mut turn);
        demand_match::run(&mut turn);
        provision::run(&mut turn);
        redeliver::run(&mut turn);
    }
    turn.end()
}

/// A rule may make something due for a rule before it (a removal wants a listing), so the list is gone through until
/// nothing is due. Two rounds are usual; the bound only keeps a mistake from hanging the service, and what is left over
/// then is due in the next decision.
const ROUNDS: usize = 8;

/// One decision in the making.
pub(crate) struct Turn<'a> {
    pub s: &'a mut Snapshot,
    pub policy: &'a Policy,
    pub now: Time,
    actions: Vec<Chosen>,
}

impl<'a> Turn<'a> {
    fn begin(s: &'a mut Snapshot, policy: &'a Policy, now: Time) -> Self {
        // Time never runs backwards for the rules, whatever the clock does.
        let now = s.now.max(now);
        s.now = now;
        s.adopt_caps(policy);
        Self { s, policy, now, actions: Vec::new() }
    }

    fn end(self) -> Decision {
        Decision { actions: self.actions, wake_at: self.s.next_due() }
    }

    /// Chooses an action and notes it as under way.
    pub fn act(&mut self, flight: Flight, action: Action, reason: Reason) {
        let id = self.s.begin(flight);
        self.actions.push(Chosen { id, action, reason });
    }

    /// Has a rule look at each name that is due, in order.
    pub fn each_due_name(&mut self, look: impl Fn(&mut Self, &WorkerName)) {
        self.each_due(|due| &mut due.names, look);
    }

    /// Has a rule look at each key of one kind that is due, in order.
    pub fn each_due<T>(&mut self, kind: impl Fn(&mut Due) -> &mut Vec<T>, look: impl Fn(&mut Self, &T)) {
        if kind(&mut self.s.due).is_empty() {
            return;
        }
        let keys = mem::take(kind(&mut self.s.due));
        for key in &keys {
            look(self, key);
        }
        *kind(&mut self.s.due) = keys;
    }
}
