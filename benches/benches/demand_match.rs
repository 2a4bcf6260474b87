//! Demand matching: cold and warm, by jobs, entities, pools and capacity, beside the specification's loop as it is
//! written.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use benches::{NOW, Size, job, naive, policy, served::Served, settled, world};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::{
    decide::decide,
    facts::{Change, Job, Status},
    snapshot::Snapshot,
};

const SIZES: [i64; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// A hundred jobs an entity, 64 pools, all full soon.
fn size(jobs: i64) -> Size {
    Size { jobs, entities: (jobs / 100).max(1), pools: 64, places: 10 }
}

/// `--test` runs each once: then only small ones.
fn sizes() -> &'static [i64] {
    if std::env::args().any(|arg| arg == "--test") { &SIZES[..2] } else { &SIZES }
}

/// The first decision over a world just read.
fn first(snapshot: &mut Snapshot) -> usize {
    decide(snapshot, &policy(), NOW).actions.len()
}

fn cold(c: &mut Criterion) {
    let policy = policy();
    let mut group = c.benchmark_group("demand_match/cold");
    group.sample_size(10);
    for &jobs in sizes() {
        group.throughput(Throughput::Elements(jobs.unsigned_abs()));
        group.bench_with_input(BenchmarkId::new("build and decide", jobs), &size(jobs), |b, &size| {
            b.iter(|| {
                let mut snapshot = world(size, &policy);
                decide(&mut snapshot, &policy, NOW)
            });
        });
        let fresh = world(size(jobs), &policy);
        group.bench_function(BenchmarkId::new("decide", jobs), |b| {
            b.iter_batched_ref(|| fresh.clone(), first, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// The specification's loop over the same jobs, for the ratio. It visits every job for every job.
fn oracle(c: &mut Criterion) {
    let mut group = c.benchmark_group("demand_match/cold");
    group.sample_size(10);
    for jobs in [1_000, 4_000] {
        let size = size(jobs);
        let rows: Vec<Job> = (1..=jobs).map(|id| job(size, id, Status::Pending)).collect();
        group.throughput(Throughput::Elements(jobs.unsigned_abs()));
        group.bench_function(BenchmarkId::new("naive oracle", jobs), |b| b.iter(|| naive(&rows, size, 20)));
        let fresh = world(size, &policy());
        group.bench_function(BenchmarkId::new("decide, beside the oracle", jobs), |b| {
            b.iter_batched_ref(|| fresh.clone(), first, BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// A hundred changes and a decision: the fifty oldest jobs end, fifty others are queued. No id comes twice, so that each change
/// is one.
fn warm_one(c: &mut Criterion, name: &str, by: impl std::fmt::Display, size: Size) {
    let policy = policy();
    let mut group = c.benchmark_group("demand_match/warm");
    group.sample_size(10);
    group.throughput(Throughput::Elements(100));
    let mut snapshot = settled(size, &policy);
    let mut round: i64 = 0;
    group.bench_function(BenchmarkId::new(name, &by), |b| {
        b.iter_batched(
            || {
                round += 1;
                let ended = (1..=50).map(|i| job(size, round * 50 + i, Status::Completed));
                ended
                    .chain((1..=50).map(|i| job(size, size.jobs + round * 50 + i, Status::Pending)))
                    .collect::<Vec<_>>()
            },
            |changes| {
                for change in changes {
                    snapshot.apply(Change::Job(change), NOW);
                }
                decide(&mut snapshot, &policy, NOW)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function(BenchmarkId::new(format!("{name}, nothing changed"), &by), |b| {
        b.iter(|| decide(&mut snapshot, &policy, NOW));
    });
    group.finish();
}

/// The same where runners end and others take their places: a third of the changes are pods that end.
fn warm_with_runners(c: &mut Criterion, jobs: i64) {
    let policy = policy();
    let size = size(jobs);
    let mut served = Served::new(size, &policy, NOW);
    let mut round = 0;
    let mut group = c.benchmark_group("demand_match/warm");
    group.sample_size(10);
    group.throughput(Throughput::Elements(100));
    group.bench_function(BenchmarkId::new("jobs, runners end", jobs), |b| {
        b.iter_custom(|times| {
            let mut took = Duration::ZERO;
            for _ in 0..times {
                round += 1;
                let changes = served.hundred_changes(size, round, NOW);
                let begun = Instant::now();
                for change in changes {
                    served.snapshot.apply(change, NOW);
                }
                let decision = black_box(decide(&mut served.snapshot, &policy, NOW));
                took += begun.elapsed();
                assert!(decision.actions.len() > 34, "the places of those that ended are given to nobody");
                served.carry_out(decision.actions, &policy, NOW);
            }
            took
        });
    });
    group.finish();
}

fn warm(c: &mut Criterion) {
    for &jobs in sizes() {
        warm_with_runners(c, jobs);
    }
    for &jobs in sizes() {
        warm_one(c, "jobs", jobs, size(jobs));
    }
    let base = size(10_000);
    for entities in [1, 100, 10_000] {
        warm_one(c, "entities", entities, Size { entities, ..base });
    }
    for pools in [1, 8, 512] {
        warm_one(c, "pools", pools, Size { pools, ..base });
    }
    for (capacity, places) in [("none", 0), ("scarce", 1), ("plenty", 10_000)] {
        warm_one(c, "capacity", capacity, Size { places, ..base });
    }
}

criterion_group!(demand_match, cold, oracle, warm);
criterion_main!(demand_match);
