//! The snapshot: built from rows, and kept current by each kind of change; and explanations.

use benches::{NOW, Size, job, policy, settled, views};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use engine::{
    explain::explain,
    facts::{Assignment, Change, Job, Pod, PodPhase, Status},
    ids::{JobId, NodeName, PodUid, Pool, Time, WorkerName},
};

fn size(jobs: i64) -> Size {
    Size { jobs, entities: (jobs / 100).max(1), pools: 64, places: 10 }
}

fn build(c: &mut Criterion) {
    let policy = policy();
    let mut group = c.benchmark_group("snapshot/build");
    group.sample_size(10);
    let largest = if std::env::args().any(|arg| arg == "--test") { 10_000 } else { 1_000_000 };
    for jobs in [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|&jobs| jobs <= largest) {
        let size = size(jobs);
        let rows: Vec<Job> = (1..=jobs).map(|id| job(size, id, Status::Pending)).collect();
        group.throughput(Throughput::Elements(jobs.unsigned_abs()));
        group.bench_function(BenchmarkId::from_parameter(jobs), |b| {
            b.iter_batched(
                || rows.clone(),
                |rows| {
                    let mut snapshot = views(size, &policy);
                    for row in rows {
                        snapshot.apply(Change::Job(row), NOW);
                    }
                    snapshot
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn apply(c: &mut Criterion) {
    let policy = policy();
    let mut group = c.benchmark_group("snapshot/apply");
    for jobs in [10_000, 100_000] {
        let size = size(jobs);
        let mut snapshot = settled(size, &policy);
        let mut running = job(size, jobs / 2, Status::Running);
        running.assignment = Some(Assignment { started_at: NOW, runner: "elsewhere".into() });
        let pod = |phase| Pod {
            name: WorkerName::from("rise-riscv-runner-1-abcdefghi"),
            uid: PodUid::from("uid"),
            pool: Some(Pool::from("pool-1")),
            node: Some(NodeName::from("node-1")),
            phase,
            deleting: false,
            waiting: None,
            created_at: NOW,
            started_at: None,
            finished_at: None,
        };
        let changes = [
            ("a job again", Change::Job(job(size, jobs / 3, Status::Pending))),
            ("a job runs", Change::Job(running)),
            ("a pod", Change::PodSeen(pod(PodPhase::Pending))),
            ("the store was read", Change::StoreSynced { asked_at: Time(NOW.0 + 1) }),
        ];
        group.throughput(Throughput::Elements(1));
        for (name, change) in changes {
            group.bench_function(BenchmarkId::new(name, jobs), |b| {
                b.iter_batched(|| change.clone(), |change| snapshot.apply(change, NOW), BatchSize::SmallInput);
            });
        }
        group.bench_function(BenchmarkId::new("explain", jobs), |b| {
            b.iter(|| explain(&snapshot, &policy, JobId(jobs - 1), NOW));
        });
    }
    group.finish();
}

criterion_group!(benches, build, apply);
criterion_main!(benches);
