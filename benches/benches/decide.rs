//! A decision in which every rule has something to do: jobs to poll, runners to list, pods to follow, workers to provision.

use benches::{NOW, Size, policy, settled};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::{
    decide::decide,
    ids::{Span, Time},
};

/// So long after the reservations that polls, listings and reservations whose answers are missing are all due.
const LATER: Time = Time(NOW.0 + Span::mins(20).0);

fn all_rules(c: &mut Criterion) {
    let policy = policy();
    let mut group = c.benchmark_group("decide/all rules");
    group.sample_size(10);
    for jobs in [1_000, 10_000, 100_000] {
        let size = Size { jobs, entities: (jobs / 100).max(1), pools: 64, places: 10 };
        let snapshot = settled(size, &policy);
        let actions = decide(&mut snapshot.clone(), &policy, LATER).actions.len();
        assert!(actions > 0, "nothing was due");
        group.throughput(Throughput::Elements(actions as u64));
        group.bench_function(BenchmarkId::from_parameter(jobs), |b| {
            b.iter_batched_ref(
                || snapshot.clone(),
                |snapshot| decide(snapshot, &policy, LATER),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, all_rules);
criterion_main!(benches);
