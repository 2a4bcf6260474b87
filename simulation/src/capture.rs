//! What worlds of the profile `capture` have their jobs from: stretches of deliveries that were once captured.

use std::sync::LazyLock;

use engine::labels::Source;

use crate::{
    plan::Plan,
    replay::{self, Played, Setting},
    rng::Rng,
    run::{MINUTE, SECOND},
};

/// The capture, with the fields that [`replay::read`] reads. Where it is from says `simulation/data/README.md`.
pub const CAPTURE: &str = include_str!("../data/capture.jsonl");

/// Jobs of a stretch, at least and at most.
const JOBS: (i64, i64) = (10, 60);
/// The jobs of a stretch are queued within this time.
const LONGEST: i64 = 15 * MINUTE;
/// A plan's jobs have numbers from here on, as those of other profiles.
const FIRST_JOB: i64 = 100;

/// Its jobs, by when they were queued, and the rules that they are served by.
static KNOWN: LazyLock<(Vec<Played>, Setting)> = LazyLock::new(|| {
    let known = || {
        let mut setting = Setting::built_in()?;
        // A plan sends the same labels to one pool, whoever asks.
        setting.policy.label_rules.iter_mut().for_each(|rule| rule.source = Source::Everybody);
        Ok::<_, String>((replay::read(CAPTURE)?, setting))
    };
    known().unwrap_or_else(|error| panic!("simulation/data/capture.jsonl: {error}"))
});

/// A stretch of the capture as a plan: whose jobs, in which repositories, with which labels, when, for how long, and when
/// somebody cancels one. All its times are shorter by one drawn factor. Accounts have no caps, and pools many boards.
pub(crate) fn stretch(rng: &mut Rng) -> Plan {
    let (jobs, setting) = &*KNOWN;
    let count = rng.between(JOBS.0, JOBS.1).min(jobs.len() as i64);
    let from = rng.between(0, jobs.len() as i64 - count);
    let mut jobs = jobs[from as usize..(from + count) as usize].to_vec();
    let (first, last) = (jobs[0].queued, jobs[jobs.len() - 1].queued);
    let percent = rng.between(20, 100);
    let shorter = |time: i64| time * percent / 100;
    // A long capture's gaps are shortened further.
    let length = shorter(last - first).max(LONGEST);
    for (i, job) in jobs.iter_mut().enumerate() {
        job.id = FIRST_JOB + i as i64;
        job.queued = first + shorter(job.queued - first) * LONGEST / length;
        job.runs = shorter(job.runs).max(SECOND);
        job.cancelled = job.cancelled.map(shorter);
    }
    let (mut plan, _) = replay::plan(&jobs, setting, 0);
    for (i, account) in plan.world.account.iter_mut().enumerate() {
        // Far apart: faults make others of them.
        account.installation = 1000 * (i as i64 + 1);
    }
    for pool in (0..plan.world.pool.len()).rev() {
        crate::shrink::drop_pool(&mut plan, pool);
    }
    plan
}

#[cfg(test)]
mod tests {
    use engine::labels::{self, LabelSet};

    use super::*;
    use crate::{
        plan::{Deed, What},
        profile::{Profile, draw},
    };

    #[test]
    fn it_holds_jobs_of_organisations_and_of_a_person_in_several_repositories() {
        let (jobs, _) = &*KNOWN;
        assert!(jobs.len() >= 200, "{}", jobs.len());
        assert!(jobs.iter().any(|job| job.user) && jobs.iter().any(|job| !job.user));
        assert!(jobs.iter().any(|job| job.cancelled.is_some()));
    }

    #[test]
    fn its_worlds_are_stretches_of_it_in_which_nothing_has_the_id_of_something_else() {
        for seed in 0..300 {
            let plan = draw(Profile::Capture, seed);
            plan.check().unwrap();
            let world = &plan.world;
            let queued =
                |deed: &Deed| if let What::Queue { job, .. } = deed.what { Some((deed.at, job)) } else { None };
            let jobs: Vec<(i64, i64)> = plan.deed.iter().filter_map(queued).collect();
            assert!((JOBS.0..=JOBS.1).contains(&(jobs.len() as i64)), "{} jobs", jobs.len());
            assert!(jobs.windows(2).all(|two| two[0] < two[1]) && jobs[jobs.len() - 1].0 <= LONGEST);
            // The full depth has two repositories of each account; a person's are numbered within 100 of its id.
            assert!(world.account.iter().all(|account| (1..=2).contains(&account.repos.len())));
            let ids = world.account.iter().flat_map(|account| {
                let repos = (1..=2).map(|repo| account.id * 100 + repo);
                repos.chain([account.id])
            });
            let mut ids: Vec<i64> = ids.collect();
            ids.sort_unstable();
            assert!(ids.windows(2).all(|two| two[0] < two[1]), "{ids:?}");
            let policy = plan.policy();
            for (set, pool) in world.labels.iter().zip(&world.pool_of) {
                let taken = labels::resolve(&policy.label_rules, 1, "", &LabelSet::new(set));
                assert_eq!(taken.unwrap().0.as_str(), world.pool[*pool].name);
            }
            assert!((0..world.pool.len()).all(|pool| world.pool_of.contains(&pool)), "a pool for nobody");
        }
    }
}
