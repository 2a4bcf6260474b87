//! Seeds on several threads.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

/// Runs `work` for every seed from `from` up to `to`, on `jobs` threads, and `each` with what it came to, as they end:
/// until `each` says that it is enough. A seed whose run panics comes to what it said.
pub fn seeds<T: Send>(
    from: u64,
    to: u64,
    jobs: usize,
    work: impl Fn(u64) -> T + Sync,
    mut each: impl FnMut(u64, Result<T, String>) -> bool,
) {
    let (next, stop) = (AtomicU64::new(from), AtomicBool::new(false));
    let (results, inbox) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let results = results.clone();
            scope.spawn(|| {
                let results = results;
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let done = catch_unwind(AssertUnwindSafe(|| work(seed))).map_err(|panic| said(&*panic));
                    if results.send((seed, done)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        for (seed, done) in inbox {
            if !each(seed, done) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
}

/// A panic's message.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| String::from("without a word"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_run_once_and_a_panic_is_the_seeds_own() {
        let mut seen = Vec::new();
        let work = |seed: u64| if seed == 7 { panic!("seed {seed} is bad") } else { seed * 2 };
        seeds(3, 20, 3, work, |seed, done| {
            seen.push((seed, done));
            true
        });
        seen.sort();
        let expected = |seed: u64| if seed == 7 { Err(String::from("seed 7 is bad")) } else { Ok(seed * 2) };
        assert_eq!(seen, (3..20).map(|seed| (seed, expected(seed))).collect::<Vec<_>>());
    }

    #[test]
    fn enough_is_enough() {
        let mut count = 0;
        seeds(
            0,
            1_000_000,
            2,
            |seed| seed,
            |_, _| {
                count += 1;
                false
            },
        );
        assert!(count < 1_000_000, "{count}");
    }
}
