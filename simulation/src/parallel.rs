//! Seeds on several threads.

use std::{
    mem,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::panics::caught;

/// Results that go together from a thread to the one that looks at them: waking that one costs more than a small world.
const TOGETHER: usize = 16;
/// Whoever watches the progress waits no longer than this for a result, and for the seed that is under way.
const SOON: Duration = Duration::from_millis(100);

/// Runs `work` for every seed from `from` up to `to`, on `jobs` threads, and `each` with what it came to, as they end:
/// until `each` says that it is enough. A seed whose run panics comes to what it said.
pub fn seeds<T: Send>(
    from: u64,
    to: u64,
    jobs: usize,
    work: impl Fn(u64) -> T + Sync,
    mut each: impl FnMut(u64, Result<T, String>) -> bool,
) {
    let run = |seed| caught(|| work(seed));
    if jobs <= 1 {
        for seed in from..to {
            if !each(seed, run(seed)) {
                break;
            }
        }
        return;
    }
    let (next, stop) = (AtomicU64::new(from), AtomicBool::new(false));
    let (results, inbox) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs {
            let results = results.clone();
            scope.spawn(|| {
                let results = results;
                let (mut done, mut sent) = (Vec::new(), Instant::now());
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = seed >= to || stop.load(Ordering::Relaxed);
                    if !over {
                        done.push((seed, run(seed)));
                    }
                    if over || done.len() >= TOGETHER || sent.elapsed() >= SOON {
                        let lost = results.send(mem::take(&mut done)).is_err();
                        sent = Instant::now();
                        if over || lost {
                            return;
                        }
                    }
                }
            });
        }
        drop(results);
        for (seed, done) in inbox.into_iter().flatten() {
            if !each(seed, done) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_run_once_and_a_panic_is_the_seeds_own() {
        let work = |seed: u64| if seed == 7 { panic!("seed {seed} is bad") } else { seed * 2 };
        let expected = |seed: u64| if seed == 7 { Err(" seed 7 is bad") } else { Ok(seed * 2) };
        for jobs in [1, 3] {
            let mut seen = Vec::new();
            seeds(3, 90, jobs, work, |seed, done| {
                seen.push((seed, done));
                true
            });
            seen.sort();
            let told = |done: &Result<u64, String>| {
                done.clone().map_err(|what| what.rsplit(':').next().unwrap_or("").to_owned())
            };
            let seen: Vec<_> = seen.iter().map(|(seed, done)| (*seed, told(done))).collect();
            let expected = |seed| expected(seed).map_err(str::to_owned);
            assert_eq!(seen, (3..90).map(|seed| (seed, expected(seed))).collect::<Vec<_>>());
        }
    }

    #[test]
    fn enough_is_enough() {
        for (jobs, most) in [(1, 1), (2, 999_999)] {
            let mut count = 0;
            let mut enough = |_, _| {
                count += 1;
                false
            };
            seeds(0, 1_000_000, jobs, |seed| seed, &mut enough);
            assert!((1..=most).contains(&count), "{jobs} jobs: {count}");
        }
    }
}
