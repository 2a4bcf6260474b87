//! The engine's targets at one glance: least of several runs each, and what the snapshot takes of memory.
//!
//! `cargo run --release -p benches --bin numbers [JOBS [ENTITIES [POOLS]]]`

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use benches::{NOW, Size, job, policy, served::Served, settled, views, world};
use engine::{
    decide::decide,
    explain::explain,
    facts::{Change, Job, Status},
    ids::JobId,
    policy::Policy,
    snapshot::Snapshot,
};

/// The least time of `times` runs of `run`, each with a fresh input.
fn least<I, O>(times: usize, mut fresh: impl FnMut() -> I, mut run: impl FnMut(I) -> O) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..times {
        let input = fresh();
        let begun = Instant::now();
        let output = black_box(run(black_box(input)));
        best = best.min(begun.elapsed());
        drop(output);
    }
    best
}

/// Rows in one part of a reading, as the scheduler takes them in.
const PART: usize = 4096;

/// Resident memory in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// A hundred changes that come again and again: fifty jobs end, fifty others are queued.
fn changes(size: Size, round: i64) -> Vec<Job> {
    let ended = (1..=50).map(|i| job(size, round * 50 + i, Status::Completed));
    let queued = (1..=50).map(|i| job(size, size.jobs + round * 50 + i, Status::Pending));
    ended.chain(queued).collect()
}

/// A hundred changes and a decision where runners end and others take their places; and how many actions it has.
fn with_runners(size: Size, policy: &Policy) -> (Duration, usize) {
    let mut served = Served::new(size, policy, NOW);
    let (mut best, mut made) = (Duration::MAX, 0);
    for round in 1..=200 {
        let changes = served.hundred_changes(size, round, NOW);
        let begun = Instant::now();
        for change in changes {
            served.snapshot.apply(change, NOW);
        }
        let decision = black_box(decide(&mut served.snapshot, policy, NOW));
        let took = begun.elapsed();
        if took < best {
            (best, made) = (took, decision.actions.len());
        }
        served.carry_out(decision.actions, policy, NOW);
    }
    (best, made)
}

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<i64>());
    let jobs = args.next().and_then(Result::ok).unwrap_or(1_000_000).max(1_000);
    let entities = args.next().and_then(Result::ok).unwrap_or(10_000).clamp(1, jobs);
    let pools = args.next().and_then(Result::ok).unwrap_or(64).clamp(1, entities);
    let size = Size { jobs, entities, pools, places: 10 };
    let policy = policy();
    println!("{jobs} jobs, {entities} entities, {} pools of {} places", size.pools, size.places);

    // The rows as they come from the store: their texts shared.
    let rows: Vec<Job> = (1..=jobs).map(|id| job(size, id, Status::Pending)).collect();
    let before = resident();
    let mut kept = views(size, &policy);
    for row in &rows {
        kept.apply(Change::Job(row.clone()), NOW);
    }
    let per_job = resident().saturating_sub(before) as f64 / jobs as f64;
    println!("memory a job in the snapshot    {per_job:.0} B");
    drop(kept);

    // In parts, as a reading of the store brings them.
    let parts = || rows.chunks(PART).map(<[Job]>::to_vec).collect::<Vec<_>>();
    let build = |parts: Vec<Vec<Job>>| -> Snapshot {
        let mut snapshot = views(size, &policy);
        for part in parts {
            snapshot.apply(Change::Jobs(part), NOW);
        }
        snapshot.apply(Change::StoreSynced { asked_at: NOW }, NOW);
        snapshot
    };
    let times = if jobs > 200_000 { 3 } else { 10 };
    let built = least(times, parts, build);
    println!("build                           {built:.1?}, {:.0} ns a job", built.as_nanos() as f64 / jobs as f64);
    let first = least(
        times,
        || build(parts()),
        |mut snapshot| {
            let decision = decide(&mut snapshot, &policy, NOW);
            (snapshot, decision)
        },
    );
    println!("first decision                  {first:.1?}, {:.1} ns a job", first.as_nanos() as f64 / jobs as f64);
    println!("cold: build and first decision  {:.1?}", built + first);
    drop(rows);

    let mut snapshot = settled(size, &policy);
    let idle = least(1_000, || (), |()| decide(&mut snapshot, &policy, NOW));
    println!("decision, nothing changed       {idle:.1?}");
    let mut round = 0;
    let warm = least(
        200,
        || {
            round += 1;
            changes(size, round)
        },
        |changes| {
            snapshot.apply(Change::Jobs(changes), NOW);
            decide(&mut snapshot, &policy, NOW)
        },
    );
    println!("100 changes and a decision      {warm:.1?}");
    let (served, made) = with_runners(size, &policy);
    println!("the same where runners end      {served:.1?}, with {made} actions");
    let mut id = 0;
    let mut worst = Duration::ZERO;
    for _ in 0..50 {
        id = (id + jobs / 53) % jobs;
        let job = JobId(id.max(20_000.min(jobs)));
        worst = worst.max(least(5, || (), |()| explain(&snapshot, &policy, job, NOW)));
    }
    println!("explain one job, worst of 50    {worst:.1?}");
    drop(world(Size { jobs: 1, entities: 1, pools: 1, places: 1 }, &policy));
}
