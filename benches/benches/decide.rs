//! A decision in which every rule has something to do: rows to write, pods to provision and to take away, jobs to poll, runners
//! and deliveries to list.

use std::{collections::BTreeSet, mem::discriminant};

use benches::{NOW, Size, policy, served::Served};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::{
    decide::decide,
    decision::Reason,
    facts::Change,
    ids::{Span, Time},
    policy::Policy,
    snapshot::Snapshot,
};

/// So long after the first pods have ended that their grace is over, and that polls and listings are due.
const LATER: Time = Time(NOW.0 + Span::hours(7).0);

/// A world in which of the pods a third has ended long ago, and another third just now.
fn busy(size: Size, policy: &Policy) -> Snapshot {
    let mut served = Served::new(size, policy, NOW);
    let pods: Vec<i64> = served.pods.keys().copied().collect();
    for &pod in pods.iter().step_by(3) {
        let seen = served.ends(pod, NOW).expect("it has not ended yet");
        served.snapshot.apply(seen, NOW);
    }
    served.settle(policy, NOW);
    for &pod in pods.iter().skip(1).step_by(3) {
        let seen = served.ends(pod, LATER).expect("it has not ended yet");
        served.snapshot.apply(seen, LATER);
    }
    served.snapshot.apply(Change::StoreSynced { asked_at: LATER }, LATER);
    served.snapshot
}

fn all_rules(c: &mut Criterion) {
    let policy = policy();
    let mut group = c.benchmark_group("decide/all rules");
    group.sample_size(10);
    for jobs in [1_000, 10_000, 100_000] {
        let size = Size { jobs, entities: (jobs / 100).max(1), pools: 64, places: 10 };
        let snapshot = busy(size, &policy);
        let chosen = decide(&mut snapshot.clone(), &policy, LATER).actions;
        let has = |reason: &Reason| chosen.iter().any(|it| discriminant(&it.reason) == discriminant(reason));
        let (demand, sweep, listing) =
            (has(&Reason::Demand { job: engine::ids::JobId(0) }), has(&Reason::Sweep), has(&Reason::ListingDue));
        assert!(
            demand && sweep && listing && has(&Reason::PodPhase) && has(&Reason::GraceOver),
            "{:?}",
            reasons(&chosen)
        );
        group.throughput(Throughput::Elements(chosen.len() as u64));
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

fn reasons(chosen: &[engine::decision::Chosen]) -> BTreeSet<String> {
    chosen
        .iter()
        .map(|it| format!("{:?}", it.reason))
        .map(|it| it.split([' ', '(']).next().unwrap_or_default().to_owned())
        .collect()
}

criterion_group!(benches, all_rules);
criterion_main!(benches);
