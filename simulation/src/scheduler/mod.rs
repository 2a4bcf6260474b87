//! One scheduler process: what the production adapters do around the engine, in simulated time.
//!
//! It takes and renews leadership, reads the store's changes by cursor, keeps a watch, carries each action out as a call
//! that has its effect some time later and is answered some time after that, and writes to the store in batches, one
//! at a time. It can be killed, paused and stopped at any moment, with calls under way.

mod calls;

pub(crate) use calls::Reached;

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    check::check,
    decide::decide,
    decision::{Action, Write},
    facts::{Change, Job, Outcome, Worker},
    ids::{Epoch, InstallationId, Span, Time, WorkerName},
    snapshot::Snapshot,
};

use crate::{
    plan::{Deed, What},
    register::{Fault, Rare},
    run::{Event, MINUTE, SECOND, Sim},
};

use times::{FINISH, LEASE, READ_PAUSE, RENEW_AGAIN, RENEW_EVERY, STAND_BY, TICK};

/// What production's scheduler waits for, and how long (milliseconds): the crate that knows both holds these against it.
pub mod times {
    use crate::run::SECOND;

    /// For how long leadership is held.
    pub const LEASE: i64 = 15 * SECOND;
    /// How often it is renewed.
    pub const RENEW_EVERY: i64 = 5 * SECOND;
    /// When it is tried again after a failure.
    pub const RENEW_AGAIN: i64 = SECOND;
    /// How often a process that does not lead tries to.
    pub const STAND_BY: i64 = 3 * SECOND;
    /// The loop turns at least this often.
    pub const TICK: i64 = 15 * SECOND;
    /// The pause after a failed reading of the store.
    pub const READ_PAUSE: i64 = 2 * SECOND;
    /// What is under way when a process is told to stop may take this long.
    pub const FINISH: i64 = 20 * SECOND;
    /// A call to GitHub or the cluster that takes longer is given up.
    pub const CALL_LIMIT: i64 = 30 * SECOND;
    /// Writes in one transaction.
    pub const WRITES_AT_ONCE: usize = 500;
}

/// How often a clock that drifts is off by more.
pub(crate) const DRIFT_STEP: i64 = 10 * SECOND;
/// So many deliveries on their way at once are a storm.
const STORM: usize = 30;

/// One process.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// It exists.
    pub alive: bool,
    /// It does not, since it was killed.
    killed: bool,
    /// It stands still.
    pub paused: bool,
    /// When it last stood still no more.
    woke_at: Option<i64>,
    /// Its wall clock, less the true time.
    pub offset: i64,
    /// Decisions it made.
    pub decisions: u64,
    held: Vec<Event>,
    term: u64,
    epoch: Option<Epoch>,
    lease_until: i64,
    /// Since then renewals are taken for made, one every five seconds, without an event for each.
    renews_since: Option<i64>,
    /// Renewals that were planned; the latest counts.
    renewals: u64,
    /// Looks at whether the lease is over that were planned; the latest counts.
    lease_looks: u64,
    /// Attempts to lead; the latest counts.
    attempt: u64,
    /// It stands by without asking, since then.
    waits_since: Option<i64>,
    snapshot: Option<Box<Snapshot>>,
    cursor: Option<u64>,
    writes: Vec<(u64, Write)>,
    writing: bool,
    /// JIT configurations by worker: of which runner, and since when.
    vault: BTreeMap<WorkerName, (i64, i64)>,
    /// When it decides next by itself.
    wake: i64,
    /// When the earliest event for that is planned.
    alarm: i64,
    reading: bool,
    /// Readings that were planned; the latest counts.
    readings: u64,
    read_again: bool,
    watch: u64,
    watching: bool,
    seen_at: i64,
    stopping: Option<i64>,
    /// Installations it was told not to call, by its own clock.
    blocked: BTreeMap<InstallationId, Time>,
    /// Until when GitHub advises it to wait after a refusal that named no time.
    advised: BTreeMap<InstallationId, Time>,
    /// Installations of which the last answer said that the App is suspended there.
    suspended: BTreeSet<InstallationId>,
    /// The latest its clock has shown: one that jumps back stands still for it.
    latest: Time,
}

impl Scheduler {
    /// Whether it believes that it leads.
    pub fn is_leading(&self) -> bool {
        self.alive && self.snapshot.is_some()
    }

    /// Whether it has a worker's JIT configuration.
    pub(crate) fn has_jit_of(&self, name: &WorkerName) -> bool {
        self.vault.contains_key(name)
    }

    /// The workers whose JIT configurations it has, and since when.
    pub(crate) fn jits(&self) -> impl Iterator<Item = (&WorkerName, i64)> {
        self.vault.iter().map(|(name, (_, since))| (name, *since))
    }

    /// It was refused without being told until when: GitHub's advice is a minute at the least.
    fn heed(&mut self, installation: InstallationId) {
        // What was refused together with it is no further refusal.
        let advised = self.advised.entry(installation).or_insert(self.latest);
        if self.latest >= *advised {
            *advised = self.latest + Span(MINUTE);
        }
        let until = self.blocked.entry(installation).or_insert(*advised);
        *until = (*until).max(*advised);
    }

    /// What it knows.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }
}

/// What a reading of the store brought.
#[derive(Debug)]
pub struct Reading {
    jobs: Vec<Job>,
    workers: Vec<Worker>,
    cursor: u64,
    asked_at: Time,
}

/// What is addressed to a process, and waits while it stands still.
#[derive(Debug)]
pub enum Inbox {
    /// Try to lead, if this is the attempt of this number.
    Acquire(u64),
    /// Renew leadership, if this is the renewal of this number.
    Renew(u64),
    /// The lease may be over, if this is the look of this number.
    LeaseOver(u64),
    /// Read the store, if this is the reading of this number.
    Read(u64),
    /// The rows that changed.
    Rows(Box<Reading>),
    /// The watch saw something.
    Seen(u64, Box<Change>),
    /// The watch begins anew.
    Relist(u64),
    /// The time that a decision named, unless a later one named another.
    Wake(i64),
    /// A call ended.
    Answer(u64, Box<Action>, Box<Outcome>),
    /// Writes are waiting.
    Pump,
    /// Diagnostics are collected; the write may go.
    Queue(u64, Box<Write>),
    /// Whether everything under way is over.
    Finish,
}

impl Sim {
    pub(crate) fn set_up_schedulers(&mut self) {
        for i in 0..self.plan.world.schedulers {
            let offset = self.plan.world.skew.get(i).copied().unwrap_or(0);
            if offset != 0 {
                self.counts.fault(Fault::ClockSkewed);
            }
            self.schedulers.push(Scheduler { alive: true, offset, ..Scheduler::default() });
            self.try_to_lead(i, i as i64 * 200);
        }
    }

    /// A process's own wall clock.
    fn clock(&self, s: usize) -> Time {
        Time(self.plan.epoch + self.now + self.schedulers[s].offset)
    }

    /// Sends something to a process, for its current term.
    fn to(&mut self, s: usize, wait: i64, inbox: Inbox) {
        let term = self.schedulers[s].term;
        self.after(wait, Event::To { scheduler: s, term, inbox });
    }

    pub(crate) fn receive(&mut self, s: usize, term: u64, inbox: Inbox) {
        let process = &mut self.schedulers[s];
        if !process.alive || process.term != term {
            return;
        }
        if process.paused {
            return process.held.push(Event::To { scheduler: s, term, inbox });
        }
        // A process that was paused may have lost its term without knowing: it must not act on it.
        if process.snapshot.is_some() && self.now >= process.lease_until {
            // It may have been cut off from the store as well: that is no rare state.
            if process.woke_at.is_some_and(|at| at >= process.lease_until) {
                self.counts.rare(Rare::SteppedDown);
            }
            return self.step_down(s);
        }
        match inbox {
            Inbox::Acquire(attempt) => {
                if self.schedulers[s].attempt == attempt {
                    self.acquire(s);
                }
            }
            Inbox::Renew(number) => {
                if self.schedulers[s].renewals == number {
                    self.renew(s);
                }
            }
            Inbox::LeaseOver(number) => {
                // Renewed meanwhile: it is over later.
                if self.schedulers[s].snapshot.is_some() && self.schedulers[s].lease_looks == number {
                    self.look_for_the_lease(s);
                }
            }
            Inbox::Read(number) => {
                if self.schedulers[s].readings == number {
                    self.read(s);
                }
            }
            Inbox::Rows(reading) => self.take_rows(s, *reading),
            Inbox::Seen(watch, change) => {
                if self.schedulers[s].watch == watch {
                    self.learn(s, *change);
                }
            }
            Inbox::Relist(watch) => self.relist(s, watch),
            Inbox::Wake(at) => {
                if self.schedulers[s].alarm == at {
                    self.schedulers[s].alarm = i64::MAX;
                    if self.schedulers[s].wake <= self.now {
                        self.turn(s);
                    } else {
                        self.set_alarm(s);
                    }
                }
            }
            Inbox::Answer(id, action, outcome) => {
                self.keep(s, &action, &outcome);
                self.learn(s, Change::Outcome { action: id, outcome: *outcome });
            }
            Inbox::Pump => self.pump(s),
            Inbox::Queue(id, write) => {
                self.schedulers[s].writes.push((id, *write));
                self.pump(s);
            }
            Inbox::Finish => self.finish(s),
        }
    }

    // ---- leadership

    fn acquire(&mut self, s: usize) {
        self.schedulers[s].waits_since = None;
        if self.schedulers[s].snapshot.is_some() || self.schedulers[s].stopping.is_some() {
            return;
        }
        match self.store_acquires(Span(LEASE)) {
            Ok(Some(epoch)) => self.begin_term(s, epoch),
            Ok(None) => {
                // It asks every three seconds. While another's lease holds, and no question can go wrong, all answers
                // are alike: the next one that may differ is asked.
                let held_for = self.store.lease_until - self.now;
                let differs = (held_for + STAND_BY - 1).div_euclid(STAND_BY).max(1);
                let questions = differs.min(1 + self.store_calm_for() / STAND_BY);
                if questions > 1 {
                    self.schedulers[s].waits_since = Some(self.now);
                }
                self.try_to_lead(s, questions * STAND_BY);
            }
            Err(_) => self.try_to_lead(s, STAND_BY),
        }
    }

    fn try_to_lead(&mut self, s: usize, wait: i64) {
        self.schedulers[s].attempt += 1;
        let attempt = self.schedulers[s].attempt;
        self.to(s, wait, Inbox::Acquire(attempt));
    }

    /// What a process that stands by took for granted may not be so any more: it asks when it would have asked next.
    pub(crate) fn ask_again(&mut self, s: usize) {
        if let Some(since) = self.schedulers[s].waits_since.take() {
            self.try_to_lead(s, STAND_BY - (self.now - since).rem_euclid(STAND_BY));
        }
    }

    fn begin_term(&mut self, s: usize, epoch: Epoch) {
        let seed = self.rng.bits();
        let snapshot = Snapshot::new(seed, &self.policy);
        let (until, clock) = (self.now + LEASE, self.clock(s));
        let process = &mut self.schedulers[s];
        process.term += 1;
        process.latest = clock;
        process.epoch = Some(epoch);
        process.lease_until = until;
        process.snapshot = Some(Box::new(snapshot));
        process.cursor = None;
        process.writes.clear();
        process.writing = false;
        process.vault.clear();
        process.blocked.clear();
        process.advised.clear();
        process.suspended.clear();
        process.wake = i64::MAX;
        process.alarm = i64::MAX;
        process.reading = false;
        process.read_again = false;
        process.watching = false;
        process.watch += 1;
        process.seen_at = 0;
        let watch = process.watch;
        if self.schedulers.iter().filter(|it| it.is_leading()).count() > 1 {
            self.counts.rare(Rare::TwoLeaders);
        }
        self.note("leads", s as i64, epoch.0, || format!("scheduler {s} under epoch {epoch}"));
        self.plan_renewal(s, RENEW_EVERY);
        self.look_for_the_lease(s);
        let wait = self.rng.between(10, 200);
        self.to(s, wait, Inbox::Relist(watch));
        self.wake_reader(s);
        self.turn(s);
    }

    fn renew(&mut self, s: usize) {
        let Some(epoch) = self.schedulers[s].epoch else { return };
        let (mut sure, mut pause) = (0, RENEW_EVERY);
        self.schedulers[s].renews_since = None;
        match self.store_renews(epoch, Span(LEASE)) {
            Ok(true) => {
                // While none can go wrong, all renewals are alike: they are made at once.
                sure = self.store_calm_for() / RENEW_EVERY * RENEW_EVERY;
                if sure > 0 {
                    self.schedulers[s].renews_since = Some(self.now);
                    self.store_is_led_until(epoch, self.now + sure + LEASE);
                }
                self.schedulers[s].lease_until = self.now + sure + LEASE;
            }
            Ok(false) => return self.step_down(s),
            Err(_) => pause = RENEW_AGAIN,
        }
        self.plan_renewal(s, sure + pause);
    }

    fn plan_renewal(&mut self, s: usize, wait: i64) {
        self.schedulers[s].renewals += 1;
        self.to(s, wait, Inbox::Renew(self.schedulers[s].renewals));
    }

    fn look_for_the_lease(&mut self, s: usize) {
        self.schedulers[s].lease_looks += 1;
        self.to(s, self.schedulers[s].lease_until - self.now, Inbox::LeaseOver(self.schedulers[s].lease_looks));
    }

    /// Something may keep a leader from renewing: of the renewals that were taken for made, those until now were.
    fn renew_no_more(&mut self, s: usize) {
        let Some(since) = self.schedulers[s].renews_since.take() else { return };
        let Some(epoch) = self.schedulers[s].epoch else { return };
        let last = since + (self.now - since) / RENEW_EVERY * RENEW_EVERY;
        self.schedulers[s].lease_until = last + LEASE;
        self.store_is_led_until(epoch, last + LEASE);
        self.plan_renewal(s, last + RENEW_EVERY - self.now);
        self.look_for_the_lease(s);
        for other in 0..self.schedulers.len() {
            self.ask_again(other);
        }
    }

    fn step_down(&mut self, s: usize) {
        self.renew_no_more(s);
        self.note("stands by", s as i64, 0, || format!("scheduler {s}"));
        let process = &mut self.schedulers[s];
        process.term += 1;
        process.epoch = None;
        process.snapshot = None;
        process.vault.clear();
        if process.stopping.is_some() {
            return self.exit(s);
        }
        self.try_to_lead(s, STAND_BY);
    }

    // ---- life

    pub(crate) fn kill(&mut self, s: usize, lasts: i64) {
        if !self.schedulers[s].alive {
            return;
        }
        self.counts.fault(Fault::Killed);
        if self.github.under_way >= STORM {
            self.rare(Rare::KilledInStorm);
        }
        self.note("killed", s as i64, 0, || format!("scheduler {s}"));
        self.gone(s);
        self.schedulers[s].killed = true;
        self.after(lasts, Event::Start(s));
    }

    fn gone(&mut self, s: usize) {
        self.renew_no_more(s);
        let process = &mut self.schedulers[s];
        process.alive = false;
        process.paused = false;
        process.waits_since = None;
        process.held.clear();
        process.term += 1;
        process.epoch = None;
        process.snapshot = None;
        process.vault.clear();
        process.stopping = None;
    }

    pub(crate) fn start(&mut self, s: usize) {
        if !self.schedulers[s].alive {
            self.schedulers[s].alive = true;
            self.schedulers[s].killed = false;
            self.try_to_lead(s, 500);
        }
    }

    pub(crate) fn pause(&mut self, s: usize, lasts: i64) {
        if self.schedulers[s].alive && !self.schedulers[s].paused {
            if lasts > LEASE {
                self.counts.fault(Fault::Paused);
            }
            self.renew_no_more(s);
            self.ask_again(s);
            self.schedulers[s].paused = true;
            self.after(lasts, Event::Resume(s));
        }
    }

    pub(crate) fn resume(&mut self, s: usize) {
        self.schedulers[s].paused = false;
        self.schedulers[s].woke_at = Some(self.now);
        for event in core::mem::take(&mut self.schedulers[s].held) {
            self.after(0, event);
        }
    }

    pub(crate) fn stop(&mut self, s: usize, lasts: i64) {
        if !self.schedulers[s].alive || self.schedulers[s].stopping.is_some() {
            return;
        }
        self.counts.fault(Fault::Stopped);
        self.schedulers[s].stopping = Some(self.now + FINISH);
        self.after(lasts.max(FINISH + SECOND), Event::Start(s));
        self.to(s, 0, Inbox::Finish);
    }

    fn finish(&mut self, s: usize) {
        let process = &self.schedulers[s];
        let Some(limit) = process.stopping else { return };
        let under_way = process.snapshot.as_ref().map_or(0, |snapshot| snapshot.in_flight());
        if under_way > 0 && self.now < limit {
            return self.to(s, 100, Inbox::Finish);
        }
        let epoch = process.epoch;
        // Where calls are answered and nobody stands still, none is given up. That the process itself is gone in time is the
        // full depth's to judge: here it is this loop's own doing.
        let stands_still = |deed: &Deed| matches!(deed.what, What::Pause { .. });
        if under_way > 0 && self.plan.window.is_empty() && !self.plan.deed.iter().any(stands_still) {
            self.breaks("L9 exit", format!("scheduler {s} ends with {under_way} calls under way"));
        }
        self.renew_no_more(s);
        if let Some(epoch) = epoch {
            self.store_releases(epoch);
        }
        self.exit(s);
    }

    fn exit(&mut self, s: usize) {
        self.note("stopped", s as i64, 0, || format!("scheduler {s}"));
        self.gone(s);
        // It may have taken longer than whoever stopped it meant to wait before starting it anew.
        self.after(5 * SECOND, Event::Start(s));
    }

    pub(crate) fn jump(&mut self, s: usize, by: i64) {
        self.counts.fault(Fault::ClockJumped);
        self.schedulers[s].offset += by;
    }

    /// A clock that runs wrongly is off by a little more every ten seconds.
    pub(crate) fn drift(&mut self, s: usize, by: i64, until: i64) {
        self.schedulers[s].offset += by;
        if self.now + DRIFT_STEP <= until {
            self.after(DRIFT_STEP, Event::Drift { scheduler: s, by, until });
        }
    }

    // ---- views

    pub(crate) fn wake_reader(&mut self, s: usize) {
        let process = &mut self.schedulers[s];
        if process.reading {
            process.read_again = true;
            return;
        }
        process.reading = true;
        let wait = self.rng.between(1, 20);
        self.plan_reading(s, wait);
    }

    fn plan_reading(&mut self, s: usize, wait: i64) {
        self.schedulers[s].readings += 1;
        self.to(s, wait, Inbox::Read(self.schedulers[s].readings));
    }

    fn read(&mut self, s: usize) {
        self.schedulers[s].reading = true;
        if self.strikes(Fault::StoreAway) || self.strikes(Fault::StoreBefore) {
            return self.plan_reading(s, READ_PAUSE);
        }
        let asked_at = self.clock(s);
        let now = self.abs(self.now);
        let (jobs, workers, cursor) = self.store.rows.changes(self.schedulers[s].cursor, now);
        let mut wait = self.rng.between(1, 20);
        if self.strikes(Fault::StoreSlow) {
            wait += self.rng.between(SECOND, 20 * SECOND);
        }
        self.to(s, wait, Inbox::Rows(Box::new(Reading { jobs, workers, cursor, asked_at })));
    }

    fn take_rows(&mut self, s: usize, reading: Reading) {
        let now = self.clock(s);
        let process = &mut self.schedulers[s];
        process.reading = false;
        let again = core::mem::take(&mut process.read_again);
        process.cursor = Some(reading.cursor);
        if process.epoch.is_some_and(|epoch| epoch.0 == self.store.granted) {
            self.judge_read(&reading.jobs, &reading.workers);
        }
        if let Some(snapshot) = &mut self.schedulers[s].snapshot {
            for worker in reading.workers {
                snapshot.apply(Change::Worker(worker), now);
            }
            for job in reading.jobs {
                snapshot.apply(Change::Job(job), now);
            }
            snapshot.apply(Change::StoreSynced { asked_at: reading.asked_at }, now);
        }
        if again {
            self.wake_reader(s);
        } else {
            let wait = TICK + self.rng.between(1, 20);
            self.plan_reading(s, wait);
        }
        self.turn(s);
    }

    /// Whether anybody watches the cluster.
    pub(crate) fn is_watched(&self) -> bool {
        self.schedulers.iter().any(|it| it.is_leading() && it.watching)
    }

    /// What happens in the cluster reaches every watch, some time later and in order.
    pub(crate) fn watchers_see(&mut self, change: &Change) {
        for s in 0..self.schedulers.len() {
            if !self.schedulers[s].is_leading() || !self.schedulers[s].watching {
                continue;
            }
            if self.strikes(Fault::WatchBroken) {
                self.schedulers[s].watch += 1;
                self.schedulers[s].watching = false;
                let watch = self.schedulers[s].watch;
                let wait = self.rng.between(SECOND, 2 * MINUTE);
                self.to(s, wait, Inbox::Relist(watch));
                continue;
            }
            let mut lag = self.rng.between(2, 60);
            if self.strikes(Fault::WatchLate) {
                lag += self.rng.between(SECOND, MINUTE);
            }
            let at = (self.now + lag).max(self.schedulers[s].seen_at);
            self.schedulers[s].seen_at = at;
            let watch = self.schedulers[s].watch;
            self.to(s, at - self.now, Inbox::Seen(watch, Box::new(change.clone())));
        }
    }

    fn relist(&mut self, s: usize, watch: u64) {
        if self.schedulers[s].watch != watch {
            return;
        }
        self.schedulers[s].watching = true;
        let pods = self.all_pods(self.clock(s));
        let nodes = self.all_nodes();
        let now = self.clock(s);
        if let Some(snapshot) = &mut self.schedulers[s].snapshot {
            snapshot.apply(Change::Nodes(nodes), now);
            snapshot.apply(Change::Pods(pods), now);
        }
        self.turn(s);
    }

    // ---- decisions

    fn learn(&mut self, s: usize, change: Change) {
        let now = self.clock(s);
        if let Some(snapshot) = &mut self.schedulers[s].snapshot {
            snapshot.apply(change, now);
        }
        self.turn(s);
    }

    fn turn(&mut self, s: usize) {
        let now = self.clock(s);
        let process = &mut self.schedulers[s];
        if process.stopping.is_some() {
            return;
        }
        let Some(snapshot) = &mut process.snapshot else { return };
        process.decisions += 1;
        process.latest = process.latest.max(now);
        let before = self.checks.then(|| snapshot.clone());
        let decision = decide(snapshot, &self.policy, now);
        // The loop turns at least every tick, woken or not; what an earlier decision named counts no more.
        let wake = decision.wake_at.map_or(i64::MAX, |at| at.0 - self.plan.epoch - process.offset);
        process.wake = wake.max(self.now + 1).min(self.now + TICK);
        self.set_alarm(s);
        if let Some(before) = before {
            for violation in check(&before, &self.policy, &decision, now) {
                self.breaks(
                    violation.invariant,
                    format!("scheduler {s}, by the engine's own check: {}", violation.what),
                );
            }
            let differences = self.schedulers[s].snapshot.as_ref().map(|snapshot| snapshot.audit()).unwrap_or_default();
            for difference in differences {
                self.breaks("engine audit", format!("scheduler {s}: {difference}"));
            }
        }
        self.judge_pods_chosen(s, &decision);
        for chosen in decision.actions {
            self.carry_out(s, chosen);
        }
    }

    /// Plans the next decision, unless an event comes before it anyhow.
    fn set_alarm(&mut self, s: usize) {
        let process = &mut self.schedulers[s];
        let wake = process.wake;
        if wake < process.alarm {
            process.alarm = wake;
            self.to(s, wake - self.now, Inbox::Wake(wake));
        }
    }
}
