//! Replay of captures: what GitHub once sent, played in simulated time against a chosen capacity and policy.
//!
//! A capture is what ghfe writes under `CAPTURE` (a line a delivery: at, headers, body), or deliveries as GitHub's
//! `GET /app/hook/deliveries/{id}` returns them (one after the other, or in an array). Of each job it takes when it was
//! queued, how long it ran, and whether it was cancelled before; everything else is the simulation's.

mod read;
mod setting;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::Arc,
};

use engine::{
    ids::OwnerId,
    labels::{self, LabelSet},
};
use serde_json::{Value, json};

pub use read::{Played, Told, read, read_all, write};
pub use setting::Setting;

use crate::{
    plan::{Account, Deed, EPOCH, Plan, Pool, What, World},
    report::{Calls, Meter, Outcome, Served},
    run::{HOUR, MINUTE, SECOND, run_with},
};

/// The world of a capture under a setting, and how many of its jobs no rule takes.
pub fn plan(jobs: &[Played], setting: &Setting, seed: u64) -> (Plan, usize) {
    let start = jobs.first().map_or(0, |job| job.queued);
    let pools: Vec<&String> = setting.boards.keys().collect();
    let mut accounts: Vec<Account> = Vec::new();
    let mut sets: Vec<(LabelSet, usize)> = Vec::new();
    let mut deeds = Vec::new();
    let mut ignored = 0;
    for job in jobs {
        let taken = labels::resolve(&setting.policy.label_rules, job.owner, &job.repo, &job.labels);
        let pool = taken.and_then(|(pool, _)| pools.iter().position(|name| name.as_str() == pool.as_str()));
        let Some(pool) = pool else {
            ignored += 1;
            continue;
        };
        let account = accounts.iter().position(|it| it.id == job.owner).unwrap_or_else(|| {
            accounts.push(Account {
                id: job.owner,
                user: job.user,
                installation: job.installation,
                cap: setting.policy.cap(OwnerId(job.owner)),
                limit: 5_000,
                repos: Vec::new(),
            });
            accounts.len() - 1
        });
        let repos = &mut accounts[account].repos;
        let repo = repos.iter().position(|name| *name == job.repo).unwrap_or_else(|| {
            repos.push(job.repo.clone());
            repos.len() - 1
        });
        let set = sets.iter().position(|it| *it == (job.labels.clone(), pool)).unwrap_or_else(|| {
            sets.push((job.labels.clone(), pool));
            sets.len() - 1
        });
        let at = job.queued - start;
        let what = What::Queue { job: job.id, account, repo: repo as i64 + 1, labels: set, runs: job.runs, held: 0 };
        deeds.push(Deed { at, what });
        if let Some(after) = job.cancelled {
            deeds.push(Deed { at: at + after, what: What::Cancel { job: job.id } });
        }
    }
    deeds.sort_by_key(|deed| deed.at);
    let quiet_at = deeds.last().map_or(0, |deed| deed.at) + MINUTE;
    let work: i64 = jobs.iter().map(|job| job.runs + MINUTE).sum();
    let world = World {
        schedulers: 1,
        skew: Vec::new(),
        default_cap: setting.policy.default_max_workers,
        busy_lag: 0,
        newest_first: false,
        pull: 10 * SECOND,
        account: accounts,
        pool: setting
            .boards
            .iter()
            .map(|(name, boards)| Pool { name: name.clone(), nodes: vec![1; *boards as usize] })
            .collect(),
        labels: sets.iter().map(|(set, _)| set.iter().map(str::to_owned).collect()).collect(),
        pool_of: sets.iter().map(|(_, pool)| *pool).collect(),
        strangers: None,
    };
    let plan = Plan {
        seed,
        name: format!("replay under {}", setting.name),
        epoch: if start > 0 { start } else { EPOCH },
        quiet_at,
        end: quiet_at + work + HOUR,
        long: false,
        world,
        deed: deeds,
        window: Vec::new(),
    };
    (plan, ignored)
}

/// How one pool or owner fared under one setting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fared {
    /// Jobs.
    pub jobs: usize,
    /// Seconds from queued to started: the median, the 95th and the 99th percentile, of jobs that started.
    pub queue: [i64; 3],
    /// Seconds from reservation to connection, the same.
    pub start: [i64; 3],
    /// Percent of the pool's board time, from the first job to the last job's end, in which a board ran a job; of pools: no
    /// board is an owner's.
    pub utilisation: Option<f64>,
    /// Percent of the time from the making of its pods to their ends in which they ran a job, when there were any.
    pub in_use: Option<f64>,
    /// Minutes that runners were connected and had no job.
    pub idle_minutes: f64,
    /// Calls to GitHub; of a pool without listings.
    pub calls: Calls,
}

/// What a replay comes to.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The setting's name.
    pub name: String,
    /// By pool.
    pub pools: BTreeMap<String, Fared>,
    /// By owner's id.
    pub owners: BTreeMap<i64, Fared>,
    /// Calls to GitHub per job, all in.
    pub calls_per_job: f64,
    /// Jobs that no rule takes.
    pub ignored: usize,
    /// The run itself.
    pub outcome: Outcome,
}

/// Plays a capture under a setting.
pub fn replay(jobs: &[Played], setting: &Setting, seed: u64) -> Replayed {
    let (plan, ignored) = plan(jobs, setting, seed);
    let outcome = run_with(&Arc::new(plan), setting.policy.clone(), false);
    let begun = outcome.jobs.values().map(|job| job.queued).min().unwrap_or(0);
    let over = outcome.jobs.values().filter_map(|job| job.ended).max().unwrap_or(begun);
    let names: BTreeSet<&String> = outcome.jobs.values().map(|job| &job.pool).collect();
    let ids: BTreeSet<i64> = outcome.jobs.values().map(|job| job.owner).collect();
    let pools = names.into_iter().map(|name| {
        let mut fared = fared(&outcome, |job| job.pool == *name, |key| key.0 == *name);
        fared.calls = outcome.called.as_ref().and_then(|it| it.pools.get(name)).copied().unwrap_or_default();
        let busy: i64 = outcome.jobs.values().filter(|job| job.pool == *name).filter_map(ran).sum();
        let offered = (over - begun) * i64::from(setting.boards[name]);
        fared.utilisation = (offered > 0).then(|| 100.0 * busy as f64 / offered as f64);
        (name.clone(), fared)
    });
    let owners = ids.into_iter().map(|id| {
        let mut fared = fared(&outcome, |job| job.owner == id, |key| key.1 == id);
        fared.calls = outcome.called.as_ref().and_then(|it| it.owners.get(&id)).copied().unwrap_or_default();
        (id, fared)
    });
    Replayed {
        name: setting.name.clone(),
        pools: pools.collect(),
        owners: owners.collect(),
        calls_per_job: outcome.calls as f64 / outcome.jobs.len().max(1) as f64,
        ignored,
        outcome,
    }
}

/// The same play's trace: simulated milliseconds and what happened.
pub fn trace(jobs: &[Played], setting: &Setting, seed: u64) -> Vec<(i64, String)> {
    run_with(&Arc::new(plan(jobs, setting, seed).0), setting.policy.clone(), true).lines
}

fn ran(job: &Served) -> Option<i64> {
    Some(job.ended? - job.started?)
}

fn fared(outcome: &Outcome, job: impl Fn(&Served) -> bool, meter: impl Fn(&(String, i64)) -> bool) -> Fared {
    let jobs: Vec<&Served> = outcome.jobs.values().filter(|it| job(it)).collect();
    let meters: Vec<&Meter> = outcome.meters.iter().filter(|(key, _)| meter(key)).map(|(_, it)| it).collect();
    let waited = jobs.iter().filter_map(|job| Some(job.started? - job.queued)).collect();
    let starts = meters.iter().flat_map(|meter| &meter.starts).map(|ms| ms / SECOND).collect();
    let idle: i64 = meters.iter().map(|meter| meter.idle).sum();
    let live: i64 = meters.iter().map(|meter| meter.live).sum();
    let busy: i64 = jobs.iter().filter_map(|job| ran(job)).sum();
    Fared {
        jobs: jobs.len(),
        queue: percentiles(waited),
        start: percentiles(starts),
        utilisation: None,
        in_use: (live > 0).then(|| 100.0 * (busy * SECOND) as f64 / live as f64),
        idle_minutes: idle as f64 / MINUTE as f64,
        calls: Calls::default(),
    }
}

impl Fared {
    /// Of calls, how many there were for each job.
    fn per_job(&self, calls: u64) -> f64 {
        calls as f64 / self.jobs.max(1) as f64
    }
}

/// The median, the 95th and the 99th percentile, by nearest rank; zeros of nothing.
fn percentiles(mut values: Vec<i64>) -> [i64; 3] {
    values.sort_unstable();
    [50, 95, 99].map(|percent| {
        let rank = (values.len() * percent).div_ceil(100).max(1);
        values.get(rank - 1).copied().unwrap_or(0)
    })
}

/// Settings side by side, for people.
pub fn table(all: &[Replayed]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<32} {:<20} {:>6} {:>21} {:>19} {:>6} {:>7} {:>9} {:>10}",
        "pool or owner",
        "policy",
        "jobs",
        "queue p50/p95/p99 s",
        "start p50/p95/p99 s",
        "busy%",
        "in use%",
        "idle min",
        "calls/job"
    );
    let mut line = |what: &str, name: &str, it: &Fared, calls: u64| {
        let three = |[p50, p95, p99]: [i64; 3]| format!("{p50}/{p95}/{p99}");
        let percent = |percent: Option<f64>| percent.map_or(String::new(), |percent| format!("{percent:.1}"));
        let _ = writeln!(
            text,
            "{what:<32} {name:<20} {:>6} {:>21} {:>19} {:>6} {:>7} {:>9.1} {:>10.2}",
            it.jobs,
            three(it.queue),
            three(it.start),
            percent(it.utilisation),
            percent(it.in_use),
            it.idle_minutes,
            it.per_job(calls)
        );
    };
    let pools: BTreeSet<&String> = all.iter().flat_map(|it| it.pools.keys()).collect();
    for pool in pools {
        for it in all {
            if let Some(fared) = it.pools.get(pool) {
                line(pool, &it.name, fared, fared.calls.single());
            }
        }
    }
    let owners: BTreeSet<&i64> = all.iter().flat_map(|it| it.owners.keys()).collect();
    for owner in owners {
        for it in all {
            if let Some(fared) = it.owners.get(owner) {
                line(&format!("owner {owner}"), &it.name, fared, fared.calls.all());
            }
        }
    }
    for it in all {
        let _ = writeln!(
            text,
            "{}: {:.2} calls to GitHub per job, {} jobs that no rule takes",
            it.name, it.calls_per_job, it.ignored
        );
    }
    text.push_str(
        "busy%: of all boards' time. in use%: of the time that pods were there. idle min: runners connected without a job.\n\
         calls/job of a pool: without listings of runners, which are an owner's and no pool's.\n",
    );
    text
}

/// The same as JSON.
pub fn as_json(all: &[Replayed]) -> Value {
    let fared = |it: &Fared| {
        json!({
            "jobs": it.jobs, "queue_seconds": { "p50": it.queue[0], "p95": it.queue[1], "p99": it.queue[2] },
            "start_seconds": { "p50": it.start[0], "p95": it.start[1], "p99": it.start[2] },
            "utilisation_percent": it.utilisation, "in_use_percent": it.in_use,
            "over_provisioned_minutes": it.idle_minutes,
            "calls": { "polls": it.calls.polls, "jit": it.calls.mints, "deletions": it.calls.deletions },
            "calls_per_job_without_listings": it.per_job(it.calls.single()),
        })
    };
    let owner = |it: &Fared| {
        let mut value = fared(it);
        value["calls"]["listings"] = it.calls.listings.into();
        value["calls_per_job"] = it.per_job(it.calls.all()).into();
        value
    };
    let one = |it: &Replayed| {
        let pools: BTreeMap<_, _> = it.pools.iter().map(|(name, it)| (name.clone(), fared(it))).collect();
        let owners: BTreeMap<_, _> = it.owners.iter().map(|(id, it)| (id.to_string(), owner(it))).collect();
        json!({
            "policy": it.name, "pools": pools, "owners": owners, "calls_per_job": it.calls_per_job,
            "ignored": it.ignored, "trace_hash": format!("{:016x}", it.outcome.hash),
            "broken": it.outcome.broken.as_ref().map(|it| it.invariant),
        })
    };
    Value::Array(all.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::{read::tests::delivery, *};

    #[test]
    fn fewer_boards_mean_longer_waits_and_busier_boards() {
        let text: String =
            (1..=12).map(|i| format!("{}\n", delivery("queued", i, "2026-05-13T15:00:00Z", json!({})))).collect();
        let jobs = read(&text).unwrap();
        let mut few = Setting::built_in().unwrap();
        few.boards.insert(String::from("scw-em-rv1"), 2);
        let (many, few) = (replay(&jobs, &Setting::built_in().unwrap(), 1), replay(&jobs, &few, 1));
        assert_eq!((&many.outcome.broken, &few.outcome.broken), (&None, &None));
        let (many, few) = (&many.pools["scw-em-rv1"], &few.pools["scw-em-rv1"]);
        assert!(few.queue[2] > many.queue[2] && few.utilisation > many.utilisation, "{few:?} {many:?}");
    }

    #[test]
    fn calls_are_told_by_whom_they_are_for() {
        let jobs = read(crate::capture::CAPTURE).unwrap();
        let played = replay(&jobs, &Setting::built_in().unwrap(), 1);
        let owners: Vec<Calls> = played.owners.values().map(|it| it.calls).collect();
        let sum = |of: fn(&Calls) -> u64| -> (u64, u64) {
            let pools = played.pools.values().map(|it| of(&it.calls)).sum();
            (owners.iter().map(of).sum(), pools)
        };
        assert_eq!(sum(Calls::all).0, played.outcome.calls);
        assert_eq!(sum(|calls| calls.listings).1, 0);
        let (by_owners, by_pools) = sum(Calls::single);
        assert_eq!(by_owners, by_pools);
        assert!(sum(|calls| calls.mints).1 >= jobs.iter().filter(|job| job.cancelled.is_none()).count() as u64);
        assert!(owners.iter().all(|calls| calls.polls > 0 && calls.mints > 0 && calls.listings > 0), "{owners:?}");
        let told = as_json(std::slice::from_ref(&played));
        let (pool, owner) = (&told[0]["pools"]["scw-em-rv1"], &told[0]["owners"]["9001"]);
        assert!(pool.get("calls_per_job").is_none() && pool["calls_per_job_without_listings"].as_f64() > Some(0.0));
        assert!(owner["calls_per_job"].as_f64() > owner["calls_per_job_without_listings"].as_f64());
        for it in [pool, owner] {
            assert!((1.0..=100.0).contains(&it["in_use_percent"].as_f64().unwrap()), "{it}");
        }
        let table = table(&[played]);
        assert!(table.starts_with("pool or owner ") && table.contains("start p50/p95/p99 s"), "{table}");
    }
}
