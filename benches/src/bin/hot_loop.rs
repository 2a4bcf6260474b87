//! The hot loop by itself, for counting its instructions: `dev/hot-loop` runs it under callgrind with no rounds and with
//! many, and compares the difference with the committed baseline.
//!
//! `hot_loop ROUNDS`: a world of 20,000 jobs, and in each round 100 changes, a decision, a decision about nothing, and an
//! explanation.

use std::hint::black_box;

use benches::{NOW, Size, job, policy, settled};
use engine::{
    decide::decide,
    explain::explain,
    facts::{Change, Status},
    ids::JobId,
};

fn main() {
    let rounds = std::env::args().nth(1).and_then(|rounds| rounds.parse::<i64>().ok()).unwrap_or(0);
    let size = Size { jobs: 20_000, entities: 500, pools: 64, places: 10 };
    let policy = policy();
    let mut snapshot = settled(size, &policy);
    for round in 0..rounds {
        let ended = (1..=50).map(|i| job(size, round * 50 + i, Status::Completed));
        let queued = (1..=50).map(|i| job(size, size.jobs + round * 50 + i, Status::Pending));
        snapshot.apply(Change::Jobs(ended.chain(queued).collect()), NOW);
        black_box(decide(&mut snapshot, &policy, NOW));
        black_box(decide(&mut snapshot, &policy, NOW));
        black_box(explain(&snapshot, &policy, JobId(size.jobs / 2 + round), NOW));
    }
}
