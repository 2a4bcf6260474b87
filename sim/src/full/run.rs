//! One run: a world, from its start to its end.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use madsim::runtime::{Handle, Runtime};
use simulation::{judge::Broken, register::Fault};
use tokio::time::sleep;

use super::{
    bridge, deeds, judge, jwt, logs, nodes,
    register::{More, Tally},
    trouble::FullPlan,
    world::{Keeps, World},
};
use crate::{credentials::ModelKey, world::github::JobState};

/// How often liveness is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How often the real runtime's timers are looked after when nothing else does.
const PUMP: Duration = Duration::from_millis(500);

/// How far the run is, for whoever waits for it: a thread outside of the simulation reads this.
pub static PROGRESS: Progress = Progress::new();

/// How far a run is.
pub struct Progress {
    /// Simulated milliseconds.
    pub sim_ms: AtomicI64,
    /// Jobs that GitHub has had so far.
    pub jobs: AtomicUsize,
    /// Those of them that are over.
    pub over: AtomicUsize,
}

impl Progress {
    const fn new() -> Self {
        Self { sim_ms: AtomicI64::new(0), jobs: AtomicUsize::new(0), over: AtomicUsize::new(0) }
    }

    fn note(&self, world: &World) {
        let (jobs, over) = world.github.peek(|github| {
            let over = github.jobs.values().filter(|job| matches!(job.state, JobState::Completed(_)));
            (github.jobs.len(), over.count())
        });
        self.sim_ms.store(world.now(), Ordering::Relaxed);
        self.jobs.store(jobs, Ordering::Relaxed);
        self.over.store(over, Ordering::Relaxed);
    }
}

/// What a run came to.
pub struct Outcome {
    /// The invariant that broke, if one did.
    pub broken: Option<Broken>,
    /// The hash over every event.
    pub hash: u64,
    /// How many events.
    pub events: u64,
    /// Simulated milliseconds.
    pub sim_ms: i64,
    /// A hash over every job and the status of its row at the end, and what is left over then: runners, pods, workers.
    pub ends: (u64, usize),
    /// Faults and rare states.
    pub tally: Tally,
    /// The trace's text, when it was kept.
    pub lines: Vec<(i64, String)>,
    /// The last lines of it, when they were kept.
    pub recent: Vec<(i64, String)>,
}

/// Runs a world. One run a process: statics of the clients' crates outlive it.
pub fn run(plan: FullPlan, keys: (ModelKey, ModelKey), keeps: Keeps) -> Outcome {
    jwt::install();
    let runtime = Runtime::with_seed_and_config(plan.plan.seed, madsim::Config::default());
    let held = std::cell::RefCell::new(None);
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let world = World::new(plan, keys, keeps);
            *held.borrow_mut() = Some(world.clone());
            live(&world).await;
            world.now()
        })
    }));
    let world: Option<Arc<World>> = held.into_inner();
    let Some(world) = world else { panic!("the world could not be made") };
    let counts = world.github.peek(|github| [github.stolen, github.taken, github.expired]);
    for (fault, count) in [Fault::JobStolen, Fault::StrangerWorked, Fault::JobExpired].into_iter().zip(counts) {
        (0..count).for_each(|_| world.fault(fault));
    }
    let (mut broken, trace, tally, recent, sim_ms) = world.take_notes();
    if ended.is_err() && broken.is_none() {
        broken = Some(Broken { invariant: "no panic", at: sim_ms, what: "a task panicked; see above".to_owned() });
    }
    let outcome = Outcome {
        broken,
        hash: trace.hash(),
        events: trace.events(),
        sim_ms: ended.unwrap_or(sim_ms),
        ends: judge::ends(&world),
        tally,
        lines: trace.lines().to_vec(),
        recent,
    };
    // The world's nodes refer to it and it to them; the process ends soon.
    std::mem::forget(runtime);
    outcome
}

async fn live(world: &Arc<World>) {
    logs::watch(world);
    judge::capacity_changed(world);
    let plan = &world.plan.plan.world;
    if plan.busy_lag > 0 {
        world.fault(Fault::BusyLag);
    }
    if plan.skew.iter().any(|skew| *skew != 0) {
        world.fault(Fault::ClockSkewed);
    }
    if world.plan.cluster_ahead != 0 {
        world.more(More::ClusterClockSkewed);
    }
    tokio::spawn(async {
        let mut turns = 0u64;
        loop {
            bridge::pump();
            sleep(PUMP).await;
            turns += 1;
            if turns.is_multiple_of(1000) {
                // Lets the simulator forget tasks that have ended.
                let _ = Handle::current().metrics().num_tasks();
            }
        }
    });
    nodes::start_all(world);
    tokio::spawn(deeds::move_on(world.clone()));
    tokio::spawn(deeds::play(world.clone()));
    tokio::spawn(deeds::let_strangers_end(world.clone()));
    tokio::spawn(deeds::upset(world.clone()));
    let mut over = world.over.subscribe();
    loop {
        tokio::select! {
            biased;
            _ = over.wait_for(|over| *over) => return,
            () = sleep(LOOK) => {}
        }
        PROGRESS.note(world);
        if judge::look(world) {
            return;
        }
        if world.now() > world.plan.plan.end {
            return judge::end(world);
        }
    }
}
