//! The loop: one queue of events in simulated time, and everything that they change.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use engine::{
    decision::{Action, Write},
    explain::explain,
    ids::{Epoch, PodUid, Time, WorkerName},
    policy::Policy,
};

use crate::{
    cluster::Cluster,
    github::GitHub,
    judge::{Broken, Judge},
    panics::{PANIC, caught},
    plan::{Plan, What},
    register::{Counts, Fault, Rare},
    report::{Called, Meter, Outcome},
    rng::Rng,
    scheduler::{Inbox, Reached, Scheduler},
    store::Store,
    trace::Trace,
};

/// One second, in milliseconds.
pub const SECOND: i64 = 1000;
/// One minute.
pub const MINUTE: i64 = 60 * SECOND;
/// One hour.
pub const HOUR: i64 = 60 * MINUTE;
/// What two runs of one plan break that differ.
pub const DETERMINISM: &str = "determinism";
/// How often liveness is looked at once the faults have stopped.
pub(crate) const LOOK: i64 = 15 * SECOND;

/// Something that happens at a time.
#[derive(Debug)]
pub enum Event {
    /// A deed of the plan, by index.
    Deed(usize),
    /// What a deed began is over.
    Over(usize),
    /// A held job is queued.
    Release(i64),
    /// A job has been in the queue for a day.
    QueueLimit(i64),
    /// A job ends.
    JobEnds {
        /// Which.
        job: i64,
        /// Which attempt of it.
        attempt: u32,
    },
    /// A job that was not acknowledged goes back.
    Requeue {
        /// Which.
        job: i64,
        /// Which attempt of it.
        attempt: u32,
        /// The runner that had it.
        runner: i64,
    },
    /// A delivery reaches ghfe.
    Deliver {
        /// Which attempt.
        attempt: usize,
        /// It is not a mere duplicate.
        counts: bool,
    },
    /// GitHub learns how a delivery fared.
    Delivered {
        /// Which attempt.
        attempt: usize,
        /// The answer; 0 is none.
        status: u16,
    },
    /// A runner process ends by itself.
    RunnerExits {
        /// Its pod.
        pod: WorkerName,
        /// Its entry.
        runner: i64,
        /// Its exit code.
        code: i32,
    },
    /// A pod's images are there.
    Pulled(WorkerName),
    /// A pod's containers may start.
    StartPod(WorkerName),
    /// A runner process connects.
    Connect(WorkerName),
    /// A pod's end shows at last.
    PodEnds(WorkerName, i32),
    /// A lost node's pod is given up.
    PodLost(WorkerName),
    /// A deleted pod is gone.
    PodGone(WorkerName, PodUid),
    /// Something is addressed to a scheduler.
    To {
        /// Which.
        scheduler: usize,
        /// For its term of this number alone.
        term: u64,
        /// What.
        inbox: Inbox,
    },
    /// A call reaches what it calls.
    Reach {
        /// Whose.
        scheduler: usize,
        /// In its term of this number.
        term: u64,
        /// The action's id.
        id: u64,
        /// The action.
        action: Box<Action>,
        /// Nobody waits for the answer any more.
        mute: bool,
        /// It has lain there while what it calls stood still.
        lay: bool,
    },
    /// A batch of writes reaches the store.
    Write {
        /// Whose.
        scheduler: usize,
        /// In its term of this number.
        term: u64,
        /// Under this epoch.
        epoch: Epoch,
        /// Ids and writes.
        batch: Vec<(u64, Write)>,
    },
    /// A scheduler starts.
    Start(usize),
    /// A scheduler goes on.
    Resume(usize),
    /// A scheduler's clock is off by a little more.
    Drift {
        /// Whose.
        scheduler: usize,
        /// By so many milliseconds more.
        by: i64,
        /// It goes on until then.
        until: i64,
    },
    /// Liveness is looked at.
    Look,
    /// The same once more between two looks: a time is up.
    LookAgain,
}

impl Event {
    /// Whether it may change anything that liveness is judged by: all do that are not known to change nothing but what
    /// a scheduler knows.
    fn touches_the_world(&self) -> bool {
        match self {
            Event::To { .. } | Event::Look | Event::LookAgain | Event::Drift { .. } => false,
            Event::Reach { action, .. } => !action_only_reads(action),
            _ => true,
        }
    }
}

/// Whether a call asks and does nothing. A refusal that it meets is drawn, and none is after the faults have stopped.
fn action_only_reads(action: &Action) -> bool {
    matches!(action, Action::PollJob { .. } | Action::ListRunners(_) | Action::ListPods | Action::ListDeliveries { .. })
}

/// What is planned, earliest first; of one time, what was planned first.
///
/// The heap moves small keys and no events: those lie still in `slots`.
#[derive(Default)]
struct Queue {
    heap: BinaryHeap<Planned>,
    slots: Vec<Option<Event>>,
    free: Vec<u32>,
    serial: u64,
}

/// When an event comes, and where it lies.
struct Planned {
    /// Its time, and when it was planned among those of one time.
    key: u64,
    slot: u32,
}

impl Ord for Planned {
    /// The heap gives the greatest first: that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.key.cmp(&self.key)
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Planned {}

impl Queue {
    /// Bits of a key that say when its event was planned, among those of one time: more than a run has.
    const SERIAL: u32 = 28;
    /// The latest time that a key can say, two years: nothing later happens in any world.
    const LATEST: i64 = (1 << (63 - Self::SERIAL)) - 1;

    fn push(&mut self, at: i64, event: Event) {
        let slot = self.free.pop().unwrap_or(self.slots.len() as u32);
        match self.slots.get_mut(slot as usize) {
            Some(free) => *free = Some(event),
            None => self.slots.push(Some(event)),
        }
        self.serial += 1;
        assert!(self.serial < 1 << Self::SERIAL, "a run of more events than their order can be told of");
        self.heap.push(Planned { key: (at.min(Self::LATEST) as u64) << Self::SERIAL | self.serial, slot });
    }

    fn pop(&mut self) -> Option<(i64, Event)> {
        let Planned { key, slot } = self.heap.pop()?;
        self.free.push(slot);
        let event = self.slots[slot as usize].take()?;
        Some(((key >> Self::SERIAL) as i64, event))
    }
}

/// A simulated world.
pub struct Sim {
    /// What it was made from.
    pub plan: Arc<Plan>,
    pub(crate) policy: Policy,
    pub(crate) rng: Rng,
    /// Milliseconds since the world's start.
    pub now: i64,
    queue: Queue,
    /// Whether there is a window for each fault at all.
    armed: [bool; Fault::ALL.len()],
    /// GitHub.
    pub github: GitHub,
    /// The cluster.
    pub cluster: Cluster,
    /// The store.
    pub store: Store,
    /// The schedulers.
    pub schedulers: Vec<Scheduler>,
    /// What must hold.
    pub judge: Judge,
    /// What happened.
    pub trace: Trace,
    /// Faults and rare states.
    pub counts: Counts,
    /// What supply cost, by pool and owner.
    pub meters: BTreeMap<(String, i64), Meter>,
    /// What calls to GitHub were for, when somebody wants to know.
    pub(crate) called: Option<Called>,
    /// The call that takes effect right now is one that nobody waits for any more.
    pub(crate) late_call: bool,
    /// The call that has its effect now lay at GitHub since before another led.
    pub(crate) unknown_call: bool,
    /// How far the clock of whoever makes that call is ahead, in milliseconds.
    pub(crate) caller_ahead: i64,
    /// Each decision is held against the engine's own check, too.
    pub(crate) checks: bool,
    broken: Option<Broken>,
    done: bool,
    /// When the next look is.
    look_at: i64,
}

/// Runs a plan with its own policy. A panic ends it as an invariant does that breaks, under the name [`PANIC`].
pub fn run(plan: &Arc<Plan>, keep_text: bool) -> Outcome {
    run_as(plan, None, keep_text, false)
}

/// The same with each decision held against [`engine::check`], beside this crate's own judge, which knows nothing of it.
/// Everything else goes the same way; it takes a few times as long.
pub fn run_checked(plan: &Arc<Plan>, keep_text: bool) -> Outcome {
    run_as(plan, None, keep_text, true)
}

/// Runs a plan with a policy, and counts whom calls are for.
pub fn run_with(plan: &Arc<Plan>, policy: Policy, keep_text: bool) -> Outcome {
    run_as(plan, Some(policy), keep_text, false)
}

/// [`run_checked`], or [`run`].
pub fn play(plan: &Arc<Plan>, keep_text: bool, check: bool) -> Outcome {
    run_as(plan, None, keep_text, check)
}

/// Runs a plan twice, whatever the first run comes to: two different hashes are a failure of their own. With `check` the
/// engine's own check looks on in the first run, and in the second if the first one failed: it may be what failed it.
pub fn play_twice(plan: &Arc<Plan>, check: bool) -> Outcome {
    twice(|keep_text, check| play(plan, keep_text, check), check)
}

fn twice(mut play: impl FnMut(bool, bool) -> Outcome, check: bool) -> Outcome {
    let mut outcome = play(false, check);
    let check = check && outcome.broken.is_some();
    if play(false, check).hash != outcome.hash {
        let (one, two) = (play(true, check).lines, play(true, check).lines);
        let mut what = first_difference(&one, &two);
        if let Some(broken) = &outcome.broken {
            what = format!("{what}; one of two runs broke {}: {}", broken.invariant, broken.what);
        }
        outcome.broken = Some(Broken { invariant: DETERMINISM, at: outcome.sim_ms, what });
    }
    outcome
}

fn first_difference(one: &[(i64, String)], two: &[(i64, String)]) -> String {
    let at = one.iter().zip(two).position(|(a, b)| a != b).unwrap_or(one.len().min(two.len()));
    let line =
        |lines: &[(i64, String)]| lines.get(at).map_or("nothing".to_owned(), |(at, text)| format!("{at} {text}"));
    format!("event {at} differs: {} / {}", line(one), line(two))
}

/// With the plan's own policy when there is none.
fn run_as(plan: &Arc<Plan>, policy: Option<Policy>, keep_text: bool, checks: bool) -> Outcome {
    let called = policy.is_some().then(Called::default);
    let made = caught(|| Sim::new(plan, policy.unwrap_or_else(|| plan.policy()), keep_text));
    let mut sim = match made {
        Ok(sim) => sim,
        Err(what) => return Outcome::panicked(what),
    };
    (sim.checks, sim.called) = (checks, called);
    if let Err(what) = caught(|| sim.go()) {
        sim.panicked(what);
    }
    Outcome::of(sim)
}

impl Sim {
    fn new(plan: &Arc<Plan>, policy: Policy, keep_text: bool) -> Self {
        let mut sim = Self {
            plan: plan.clone(),
            policy,
            rng: Rng::new(plan.seed ^ 0x5eed),
            now: 0,
            queue: Queue::default(),
            armed: std::array::from_fn(|fault| plan.window.iter().any(|it| it.fault as usize == fault)),
            github: GitHub::default(),
            cluster: Cluster::default(),
            store: Store::default(),
            schedulers: Vec::new(),
            judge: Judge::default(),
            trace: Trace::new(keep_text),
            counts: Counts::default(),
            meters: BTreeMap::new(),
            called: None,
            late_call: false,
            unknown_call: false,
            caller_ahead: 0,
            checks: false,
            broken: None,
            done: false,
            look_at: 0,
        };
        sim.set_up_github();
        sim.set_up_cluster();
        sim.set_up_strangers();
        sim.set_up_schedulers();
        for (i, deed) in plan.deed.iter().enumerate() {
            sim.after(deed.at, Event::Deed(i));
        }
        sim.after(plan.quiet_at, Event::Look);
        sim
    }

    fn go(&mut self) {
        while let Some((at, event)) = self.queue.pop() {
            self.now = at;
            if self.now > self.plan.end {
                return self.judge_end();
            }
            self.happen(event);
            if self.done || self.broken.is_some() {
                return;
            }
        }
    }

    fn happen(&mut self, event: Event) {
        if event.touches_the_world() {
            self.judge.dirty = true;
        }
        match event {
            Event::Deed(i) => self.deed(i),
            Event::Over(i) => self.over(i),
            Event::Release(job) => self.release_job(job),
            Event::QueueLimit(job) => self.queue_limit(job),
            Event::JobEnds { job, attempt } => self.job_ends(job, attempt),
            Event::Requeue { job, attempt, runner } => self.requeue(job, attempt, runner),
            Event::Deliver { attempt, counts } => self.deliver(attempt, counts),
            Event::Delivered { attempt, status } => self.delivered(attempt, status),
            Event::RunnerExits { pod, runner, code } => self.runner_exits(&pod, runner, code),
            Event::Pulled(name) => self.pulled(name),
            Event::StartPod(name) => self.start_pod(name),
            Event::Connect(name) => self.connect_pod(name),
            Event::PodEnds(name, code) => self.pod_ends(&name, code),
            Event::PodLost(name) => self.pod_lost(&name),
            Event::PodGone(name, uid) => self.pod_gone(&name, &uid),
            Event::To { scheduler, term, inbox } => self.receive(scheduler, term, inbox),
            Event::Reach { scheduler, term, id, action, mute, lay } => {
                let asked = self.asks(&action);
                self.reach(Reached { scheduler, term, id, mute, lay }, *action);
                asked.into_iter().for_each(|asked| self.meter_calls(asked));
            }
            Event::Write { scheduler, term, epoch, batch } => self.write_batch(scheduler, term, epoch, batch),
            Event::Start(scheduler) => self.start(scheduler),
            Event::Resume(scheduler) => self.resume(scheduler),
            Event::Drift { scheduler, by, until } => self.drift(scheduler, by, until),
            Event::Look => {
                self.done = self.look();
                self.look_at = self.now + LOOK;
                self.after(LOOK, Event::Look);
                self.look_in_time();
            }
            Event::LookAgain => {
                self.done = self.look();
                self.look_in_time();
            }
        }
    }

    /// What has held for as long as it may is looked at in that moment, when it comes before the next look.
    fn look_in_time(&mut self) {
        if let Some(at) = self.judge.next_up().filter(|at| self.now < *at && *at < self.look_at) {
            self.after(at - self.now, Event::LookAgain);
        }
    }

    fn deed(&mut self, i: usize) {
        let plan = self.plan.clone();
        match plan.deed[i].what {
            What::Queue { job, account, repo, labels, runs, held } => {
                self.queue_job(job, account, repo, labels, runs, held);
            }
            What::Cancel { job } => self.cancel_job(job),
            What::Rerun { job, again } => {
                if let Some(known) = self.github.jobs.get(&job).cloned() {
                    self.counts.fault(Fault::Rerun);
                    self.queue_job(again, known.account, known.repo % 100, known.set, known.runs, 0);
                }
            }
            What::NodeLost { node, lasts } => {
                self.set_ready(node, false);
                self.after(lasts, Event::Over(i));
            }
            What::Cordon { node, lasts } => {
                self.set_cordoned(node, true);
                self.after(lasts, Event::Over(i));
            }
            What::Evict => self.evict(),
            What::Vanish => self.vanish(),
            What::Forget { job } => self.forget_job(job),
            What::Uninstall { account } => self.uninstall(account),
            What::Rename { account } => self.rename(account),
            What::Reinstall { account, installation } => self.reinstall(account, installation),
            What::Suspend { account, lasts } => {
                self.suspend(account, true);
                self.after(lasts, Event::Over(i));
            }
            What::UseUp { account } => self.use_up(account),
            What::Kill { scheduler, lasts } => self.kill(scheduler, lasts),
            What::Pause { scheduler, lasts } => self.pause(scheduler, lasts),
            What::Stop { scheduler, lasts } => self.stop(scheduler, lasts),
            What::Clock { scheduler, by } => self.jump(scheduler, by),
            What::Drift { scheduler, by, lasts } => {
                self.counts.fault(Fault::ClockDrifted);
                self.drift(scheduler, by, self.now + lasts);
            }
            What::Replace => self.replace(),
        }
    }

    fn over(&mut self, i: usize) {
        match self.plan.clone().deed[i].what {
            What::NodeLost { node, .. } => self.set_ready(node, true),
            What::Cordon { node, .. } => self.set_cordoned(node, false),
            What::Suspend { account, .. } => self.suspend(account, false),
            _ => {}
        }
    }

    // ---- what every part needs

    /// Plans an event.
    pub(crate) fn after(&mut self, wait: i64, event: Event) {
        self.queue.push(self.now + wait, event);
    }

    /// A time of the world as the engine knows times.
    pub(crate) fn abs(&self, at: i64) -> Time {
        Time(self.plan.epoch + at)
    }

    /// Whether a fault strikes this call.
    pub(crate) fn strikes(&mut self, fault: Fault) -> bool {
        self.struck(fault).is_some()
    }

    /// Whether it does, and when its window ends.
    pub(crate) fn struck(&mut self, fault: Fault) -> Option<i64> {
        let (now, plan) = (self.now, &self.plan);
        // A job may come at any time: that is no trouble that a quiet world is without.
        if !self.armed[fault as usize] || now >= plan.quiet_at && fault != Fault::JobInTheWay {
            return None;
        }
        let window = plan.window.iter().find(|it| it.fault == fault && it.from <= now && now < it.until);
        let (chance, until) = window.map(|it| (it.chance, it.until.min(plan.quiet_at)))?;
        let strikes = self.rng.chance(chance);
        if strikes {
            self.counts.fault(fault);
        }
        strikes.then_some(until)
    }

    /// Notes an event in the trace.
    pub(crate) fn note(&mut self, kind: &'static str, a: i64, b: i64, text: impl FnOnce() -> String) {
        self.trace.note(self.now, kind, a, b, text);
    }

    /// An invariant does not hold. The first counts; the run ends.
    pub(crate) fn breaks(&mut self, invariant: &'static str, what: String) {
        self.note("BROKEN", 0, 0, || format!("{invariant}: {what}"));
        if self.broken.is_none() {
            self.explain_waiting();
            self.broken = Some(Broken { invariant, at: self.now, what });
        }
    }

    /// It panicked; no leader is asked what it waits for: what it knows may be half changed.
    fn panicked(&mut self, what: String) {
        self.note("BROKEN", 0, 0, || format!("{PANIC}: {what}"));
        self.broken.get_or_insert(Broken { invariant: PANIC, at: self.now, what });
    }

    /// Notes why jobs wait, in the leaders' own words: for the person who reads the trace.
    fn explain_waiting(&mut self) {
        if !self.trace.keeps_text() {
            return;
        }
        let mut lines = Vec::new();
        for (s, scheduler) in self.schedulers.iter().enumerate() {
            let Some(snapshot) = scheduler.snapshot() else { continue };
            let now = self.abs(self.now + scheduler.offset);
            for job in self.store.rows.jobs().filter(|job| crate::judge::is_waiting(job)).take(20) {
                let why = explain(snapshot, &self.policy, job.id, now).waiting_on;
                lines.push(format!("scheduler {s} says of job {}: {why:?}", job.id));
            }
        }
        for line in lines {
            self.trace.remark(self.now, "waits", &line);
        }
    }

    /// Which invariant broke.
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    pub(crate) fn rare(&mut self, rare: Rare) {
        self.counts.rare(rare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Profile, draw};

    fn plan(seed: u64) -> Arc<Plan> {
        Arc::new(draw(Profile::Steady, seed))
    }

    /// Every run is of another world than the one before.
    fn differing(plans: [Arc<Plan>; 2]) -> Outcome {
        let mut runs = 0;
        let play_next = |keep_text, check| {
            runs += 1;
            play(&plans[(runs + 1) % 2], keep_text, check)
        };
        twice(play_next, false)
    }

    #[test]
    fn two_runs_that_differ_are_a_failure_also_when_one_has_failed() {
        assert_eq!(play_twice(&plan(1), true).broken, None);
        let broken = differing([plan(1), plan(2)]).broken.unwrap();
        assert_eq!(broken.invariant, DETERMINISM);
        assert!(broken.what.starts_with("event 5 differs: 74425 queue      job 103 / "), "{}", broken.what);
        let mut fails = draw(Profile::Steady, 1);
        fails.end = SECOND;
        let broken = play_twice(&Arc::new(fails.clone()), false).broken.unwrap();
        assert_ne!(broken.invariant, DETERMINISM);
        let differs = differing([Arc::new(fails), plan(2)]).broken.unwrap();
        assert_eq!(differs.invariant, DETERMINISM);
        let told = format!("; one of two runs broke {}: {}", broken.invariant, broken.what);
        assert!(differs.what.ends_with(&told), "{}", differs.what);
    }

    #[test]
    fn a_panic_ends_a_run_as_what_breaks_does() {
        let mut plan = draw(Profile::Steady, 1);
        let at = plan.deed[0].at + SECOND;
        plan.deed.insert(1, crate::plan::Deed { at, what: What::UseUp { account: 9 } });
        let outcome = run(&Arc::new(plan.clone()), true);
        let broken = outcome.broken.clone().unwrap();
        assert_eq!((broken.invariant, broken.at, outcome.sim_ms), (PANIC, at, at));
        assert!(outcome.lines.last().unwrap().1.contains(&broken.what), "{:?}", outcome.lines.last());
        assert_eq!(run(&Arc::new(plan), false).hash, outcome.hash);
        let mut none = draw(Profile::Steady, 1);
        none.world.pool_of = vec![9];
        none.world.strangers = Some(crate::plan::Strangers { takes: None, pool: 9, until: SECOND });
        assert_eq!(run(&Arc::new(none), false).broken.unwrap().invariant, PANIC);
    }
}
