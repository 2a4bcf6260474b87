//! From a failing plan to a small one that fails the same way.
//!
//! What is left out or made simpler stays so if the plan still fails without it. Nothing is drawn: the same plan shrinks to
//! the same. What makes a plan one that could have been drawn stays: a pool has a node, deeds and windows are over when
//! liveness is demanded, and there is time for all jobs until the end.

use std::{ops::Range, sync::Arc};

use crate::{
    judge::Broken,
    panics::{PANIC, place},
    plan::{Plan, What, Window},
    profile::enough_time,
    register::Fault,
    run::{DETERMINISM, MINUTE, SECOND, play, play_twice},
};

/// Calls an hour that no small world uses up.
const RICH: u32 = 5_000;
/// A time from a pod's placement to its start that nothing depends on.
const PULL: i64 = SECOND;
/// How long a job runs when that does not matter: the first that will do.
const RUNS: [i64; 2] = [10 * SECOND, MINUTE];

/// Makes a plan smaller for as long as it fails in the same way: the same invariant breaks, it panics in the same place, or
/// two runs of it differ. `check`: the engine's own check looks on. `tell` hears of each smaller plan.
pub fn shrink(plan: &Plan, broken: &Broken, check: bool, tell: impl FnMut(&Plan)) -> Plan {
    let fails = |plan: &Plan| {
        let plan = Arc::new(plan.clone());
        let differs = broken.invariant == DETERMINISM;
        let outcome = if differs { play_twice(&plan, check) } else { play(&plan, false, check) };
        outcome.broken.is_some_and(|it| fails_alike(&it, broken))
    };
    shrink_by(plan, fails, tell)
}

fn fails_alike(one: &Broken, other: &Broken) -> bool {
    one.invariant == other.invariant && (one.invariant != PANIC || place(&one.what) == place(&other.what))
}

/// Makes a plan smaller for as long as it still `fails`, however that is found out.
pub fn shrink_by(plan: &Plan, fails: impl Fn(&Plan) -> bool, mut tell: impl FnMut(&Plan)) -> Plan {
    let mut best = plan.clone();
    loop {
        let before = size(&best);
        leave_out_of(&mut best, |plan| &mut plan.deed, &fails);
        leave_out_of(&mut best, |plan| &mut plan.window, &fails);
        simplify(&mut best, &fails);
        drop_unused(&mut best, &fails);
        simplify_jobs(&mut best, &fails);
        narrow_windows(&mut best, &fails);
        shorten(&mut best, &fails);
        tell(&best);
        if size(&best) >= before {
            return best;
        }
    }
}

/// What is left of a plan: deeds, windows, what its world has, and what each of them has that could be simpler. A length of
/// time counts as the binary digits of its seconds.
pub fn size(plan: &Plan) -> usize {
    let world = &plan.world;
    let nodes = world.pool.iter().flat_map(|pool| &pool.nodes);
    let things = plan.deed.len()
        + plan.window.len()
        + nodes.map(|runners| *runners as usize).sum::<usize>()
        + world.schedulers
        + world.skew.len()
        + world.account.len()
        + world.account.iter().map(|account| account.repos.len()).sum::<usize>()
        + world.labels.len()
        + world.pool.len();
    let accounts = world.account.iter().map(|it| usize::from(it.cap.is_some()) + usize::from(it.limit != RICH));
    let features = [
        world.busy_lag != 0,
        world.newest_first,
        plan.long,
        world.pull != PULL,
        world.default_cap.is_some(),
        world.strangers.is_some(),
        plan.end > enough_time(plan),
    ];
    things
        + accounts.sum::<usize>()
        + features.iter().filter(|on| **on).count()
        + plan.deed.iter().map(|deed| complexity(&deed.what)).sum::<usize>()
        + plan.window.iter().map(vagueness).sum::<usize>()
        + digits(plan.quiet_at - troubled_until(plan))
}

fn complexity(what: &What) -> usize {
    let What::Queue { runs, held, .. } = what else { return 0 };
    let simpler = RUNS.iter().filter(|simple| runs > simple).count() + usize::from(runs % SECOND != 0);
    simpler + usize::from(*held > 0)
}

fn vagueness(window: &Window) -> usize {
    let odd = [window.chance != 100, window.from % SECOND != 0, window.until % SECOND != 0];
    digits(window.until - window.from) + odd.iter().filter(|odd| **odd).count()
}

/// How long a time is: the binary digits of its seconds.
pub fn digits(time: i64) -> usize {
    (i64::BITS - (time.max(0) / SECOND).leading_zeros()) as usize
}

/// When the last deed and the last window are over, after the world's start. A job may come in the way at any time.
fn troubled_until(plan: &Plan) -> i64 {
    let deeds = plan.deed.iter().map(|deed| deed.at + deed.what.lasts());
    let windows = plan.window.iter().filter(|it| it.fault != Fault::JobInTheWay).map(|it| it.until);
    deeds.chain(windows).max().unwrap_or(0)
}

/// Changes what `still` fails with the change; says whether it did.
pub fn attempt<P: Clone + PartialEq>(best: &mut P, still: &impl Fn(&P) -> bool, change: impl FnOnce(&mut P)) -> bool {
    let mut smaller = best.clone();
    change(&mut smaller);
    let taken = smaller != *best && still(&smaller);
    if taken {
        *best = smaller;
    }
    taken
}

/// Leaves parts of a list out, many at once first.
pub fn leave_out_of<P: Clone + PartialEq, T>(
    best: &mut P,
    list: impl Fn(&mut P) -> &mut Vec<T>,
    still: &impl Fn(&P) -> bool,
) {
    let count = |it: &mut P| list(it).len();
    leave_out(best, count, |it, range| drop(list(it).drain(range)), still);
}

/// Leaves out what there are `count` of, many at once first: `without` takes a range away, or changes nothing.
fn leave_out<P: Clone + PartialEq>(
    best: &mut P,
    count: impl Fn(&mut P) -> usize,
    without: impl Fn(&mut P, Range<usize>),
    still: &impl Fn(&P) -> bool,
) {
    let mut chunk = count(best).div_ceil(2).max(1);
    loop {
        let mut from = 0;
        while from < count(best) {
            let to = (from + chunk).min(count(best));
            if !attempt(best, still, |it| without(it, from..to)) {
                from += chunk;
            }
        }
        if chunk == 1 {
            return;
        }
        chunk = chunk.div_ceil(2);
    }
}

/// Brings a time as near to `goal` as it still fails: all the way, or by halves down to a second.
pub fn approach<P: Clone + PartialEq>(
    best: &mut P,
    time: impl Fn(&mut P) -> &mut i64,
    goal: i64,
    still: &impl Fn(&P) -> bool,
) {
    if attempt(best, still, |it| *time(it) = goal) {
        return;
    }
    let (mut near, mut too_far) = (*time(best), goal);
    while (too_far - near).abs() > SECOND {
        // Whole seconds away, and at least one.
        let half = (too_far - near) / 2 / SECOND * SECOND;
        let next = near + if half == 0 { (too_far - near).signum() * SECOND } else { half };
        if attempt(best, still, |it| *time(it) = next) {
            near = next;
        } else {
            too_far = next;
        }
    }
}

/// Takes features of the world away, one at a time.
fn simplify(best: &mut Plan, fails: &impl Fn(&Plan) -> bool) {
    let steps: [fn(&mut Plan); 8] = [
        |plan| plan.world.strangers = None,
        |plan| plan.world.strangers.iter_mut().for_each(|it| it.takes = None),
        |plan| plan.world.skew.clear(),
        |plan| plan.world.busy_lag = 0,
        |plan| plan.world.newest_first = false,
        |plan| plan.long = false,
        |plan| plan.world.pull = PULL,
        |plan| plan.world.default_cap = None,
    ];
    for step in steps {
        attempt(best, fails, step);
    }
    for i in 0..best.world.account.len() {
        attempt(best, fails, |plan| plan.world.account[i].cap = None);
        attempt(best, fails, |plan| plan.world.account[i].limit = RICH);
    }
}

/// Takes away what the world has and nothing names.
fn drop_unused(best: &mut Plan, fails: &impl Fn(&Plan) -> bool) {
    while attempt(best, fails, drop_last_scheduler) {}
    for i in (0..best.world.account.len()).rev() {
        attempt(best, fails, |plan| drop_account(plan, i));
    }
    for i in (0..best.world.labels.len()).rev() {
        attempt(best, fails, |plan| drop_labels(plan, i));
    }
    for i in (0..best.world.pool.len()).rev() {
        attempt(best, fails, |plan| drop_pool(plan, i));
    }
    for pool in 0..best.world.pool.len() {
        let count = |plan: &mut Plan| plan.world.pool[pool].nodes.len();
        leave_out(best, count, |plan, nodes| drop_nodes(plan, pool, nodes), fails);
        for node in 0..best.world.pool[pool].nodes.len() {
            attempt(best, fails, |plan| plan.world.pool[pool].nodes[node] = plan.world.pool[pool].nodes[node].min(1));
        }
    }
    for account in 0..best.world.account.len() {
        attempt(best, fails, |plan| plan.world.account[account].repos.clear());
        for repo in (0..best.world.account[account].repos.len()).rev() {
            attempt(best, fails, |plan| drop_repo(plan, account, repo));
        }
    }
}

fn drop_last_scheduler(plan: &mut Plan) {
    let last = plan.world.schedulers - 1;
    if last > 0 && !plan.deed.iter().any(|deed| deed.what.names_scheduler(last)) {
        plan.world.schedulers = last;
        plan.world.skew.truncate(last);
    }
}

/// The index of what stood at `index` before `gone` went.
fn step_down(index: &mut usize, gone: usize) {
    *index -= usize::from(*index > gone);
}

fn drop_account(plan: &mut Plan, i: usize) {
    let named = plan.deed.iter_mut().any(|deed| deed.what.account_mut().is_some_and(|it| *it == i));
    if named || plan.world.account.len() == 1 {
        return;
    }
    plan.world.account.remove(i);
    plan.deed.iter_mut().filter_map(|deed| deed.what.account_mut()).for_each(|it| step_down(it, i));
}

fn drop_labels(plan: &mut Plan, i: usize) {
    let set = |what: &What| if let What::Queue { labels, .. } = what { Some(*labels) } else { None };
    let strangers = plan.world.strangers.as_ref().and_then(|it| it.takes);
    if strangers == Some(i) || plan.world.labels.len() == 1 || plan.deed.iter().any(|deed| set(&deed.what) == Some(i)) {
        return;
    }
    plan.world.labels.remove(i);
    plan.world.pool_of.remove(i);
    plan.world.strangers.iter_mut().filter_map(|it| it.takes.as_mut()).for_each(|set| step_down(set, i));
    for deed in &mut plan.deed {
        if let What::Queue { labels, .. } = &mut deed.what {
            step_down(labels, i);
        }
    }
}

/// Takes a pool away to which no label set goes and of whose nodes no deed is.
pub(crate) fn drop_pool(plan: &mut Plan, i: usize) {
    let named = plan.deed.iter_mut().any(|deed| deed.what.node_mut().is_some_and(|node| node.0 == i))
        || plan.world.strangers.as_ref().is_some_and(|it| it.pool == i);
    if named || plan.world.pool.len() == 1 || plan.world.pool_of.contains(&i) {
        return;
    }
    plan.world.pool.remove(i);
    plan.world.pool_of.iter_mut().for_each(|pool| step_down(pool, i));
    plan.world.strangers.iter_mut().for_each(|it| step_down(&mut it.pool, i));
    plan.deed.iter_mut().filter_map(|deed| deed.what.node_mut()).for_each(|node| step_down(&mut node.0, i));
}

/// Of what has no node nothing can come: one stays.
fn drop_nodes(plan: &mut Plan, pool: usize, nodes: Range<usize>) {
    let mut of_it = plan.deed.iter_mut().filter_map(|deed| deed.what.node_mut()).filter(|node| node.0 == pool);
    if nodes.len() == plan.world.pool[pool].nodes.len() || of_it.any(|node| nodes.contains(&node.1)) {
        return;
    }
    let after = plan.deed.iter_mut().filter_map(|deed| deed.what.node_mut());
    let after = after.filter(|node| node.0 == pool && node.1 >= nodes.end);
    after.for_each(|node| node.1 -= nodes.len());
    plan.world.pool[pool].nodes.drain(nodes);
}

/// Repositories are counted from 1.
fn drop_repo(plan: &mut Plan, of: usize, i: usize) {
    let queued = plan.deed.iter_mut().filter_map(|deed| match &mut deed.what {
        What::Queue { account, repo, .. } if *account == of => Some(repo),
        _ => None,
    });
    let mut queued: Vec<&mut i64> = queued.collect();
    let number = i as i64 + 1;
    if queued.iter().any(|repo| **repo == number) {
        return;
    }
    queued.iter_mut().filter(|repo| ***repo > number).for_each(|repo| **repo -= 1);
    plan.world.account[of].repos.remove(i);
}

/// Jobs run for a simple time, and nothing holds them up: all of them, or those of which that does not matter.
fn simplify_jobs(best: &mut Plan, fails: &impl Fn(&Plan) -> bool) {
    let runs_at_most = |plan: &mut Plan, jobs: Range<usize>, time: i64| {
        for deed in &mut plan.deed[jobs] {
            if let What::Queue { runs, .. } = &mut deed.what {
                *runs = time.min(*runs);
            }
        }
    };
    let all = 0..best.deed.len();
    for time in RUNS {
        attempt(best, fails, |plan| runs_at_most(plan, all.clone(), time));
    }
    for i in all {
        for time in RUNS {
            attempt(best, fails, |plan| runs_at_most(plan, i..i + 1, time));
        }
        attempt(best, fails, |plan| {
            if let What::Queue { runs, .. } = &mut plan.deed[i].what {
                *runs = (*runs / SECOND * SECOND).max(SECOND);
            }
        });
        attempt(best, fails, |plan| {
            if let What::Queue { held, .. } = &mut plan.deed[i].what {
                *held = 0;
            }
        });
    }
}

/// Windows begin and end at whole seconds, strike always, and are no longer than they must be.
fn narrow_windows(best: &mut Plan, fails: &impl Fn(&Plan) -> bool) {
    let up = |time: i64| (time + SECOND - 1).div_euclid(SECOND) * SECOND;
    let down = |time: i64| time.div_euclid(SECOND) * SECOND;
    for i in 0..best.window.len() {
        attempt(best, fails, |plan| plan.window[i].chance = 100);
        for round in [up, down] {
            attempt(best, fails, |plan| {
                let window = &mut plan.window[i];
                window.from = Some(round(window.from)).filter(|from| *from < window.until).unwrap_or(window.from);
            });
        }
        for round in [down, up] {
            attempt(best, fails, |plan| {
                let window = &mut plan.window[i];
                let until = round(window.until).min(plan.quiet_at.max(window.until));
                window.until = Some(until).filter(|until| window.from < *until).unwrap_or(window.until);
            });
        }
        let from = best.window[i].from;
        let goal = from.max(best.window[i].until - SECOND);
        approach(best, |plan| &mut plan.window[i].from, goal, fails);
        let until = best.window[i].until;
        let goal = until.min(best.window[i].from + SECOND);
        approach(best, |plan| &mut plan.window[i].until, goal, fails);
    }
}

/// Liveness is demanded as early as it may be, and there is no more time than all can need.
fn shorten(best: &mut Plan, fails: &impl Fn(&Plan) -> bool) {
    let quiet = troubled_until(best);
    let quiet = (quiet + SECOND - 1) / SECOND * SECOND;
    if quiet < best.quiet_at {
        approach(best, |plan| &mut plan.quiet_at, quiet, fails);
    }
    attempt(best, fails, |plan| plan.end = plan.end.min(enough_time(plan)));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{
        plan::{Account, Deed, Pool},
        profile::{Profile, draw},
        run::HOUR,
    };

    fn queue(job: i64, account: usize, labels: usize, repo: i64) -> Deed {
        Deed { at: 1_234, what: What::Queue { job, account, repo, labels, runs: 199_999, held: 7 } }
    }

    fn account(id: i64) -> Account {
        let repos = ["a", "b", "c"].map(|name| format!("owner-{id}/{name}"));
        Account { id, user: false, installation: id, cap: Some(3), limit: 400, repos: repos.into() }
    }

    /// Three of everything; one job of each account, each with labels of its own, that go to a pool of their own.
    fn three_of_all() -> Plan {
        let mut plan = draw(Profile::Steady, 1);
        plan.world.account = [10, 11, 12].map(account).into();
        plan.world.labels = ["x", "y", "z"].map(|label| vec![label.to_owned()]).into();
        plan.world.pool = ["p", "q", "r"].map(|name| Pool { name: name.to_owned(), nodes: vec![1, 2, 5, 2] }).into();
        plan.world.pool_of = vec![2, 1, 0];
        plan.deed = (0..3).map(|i| queue(100 + i as i64, i, i, 2)).collect();
        plan.check().unwrap();
        plan
    }

    /// Shrinks, and holds what must be so whatever fails.
    fn small(plan: &Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
        assert!(fails(plan));
        let one = shrink_by(plan, &fails, |_| ());
        assert!(fails(&one));
        one.check().unwrap();
        assert_eq!(one, shrink_by(plan, &fails, |_| ()), "it shrinks to the same");
        assert_eq!(size(&one), size(&shrink_by(&one, &fails, |_| ())), "nothing is left to shrink");
        one
    }

    #[test]
    fn what_no_failure_needs_is_not_there() {
        for (profile, seed) in Profile::ALL.into_iter().flat_map(|profile| (0..12).map(move |seed| (profile, seed))) {
            let plan = draw(profile, seed);
            let small = small(&plan, |plan| plan.deed.iter().any(|it| matches!(it.what, What::Queue { .. })));
            let world = &small.world;
            let account = &world.account[0];
            assert_eq!((small.deed.len(), small.window.len(), small.long), (1, 0, false), "{}", plan.name);
            assert_eq!((world.schedulers, world.skew.len(), world.busy_lag, world.pull), (1, 0, 0, PULL));
            assert_eq!((world.default_cap, world.newest_first, world.account.len()), (None, false, 1));
            assert_eq!((account.cap, account.limit, account.repos.len()), (None, RICH, 0));
            assert_eq!((world.labels.len(), &world.pool_of, world.pool.len()), (1, &vec![0], 1));
            assert_eq!(world.pool[0].nodes, [1]);
            assert!(matches!(small.deed[0].what, What::Queue { runs, held: 0, .. } if runs <= RUNS[0]));
            assert_eq!(small.quiet_at, (small.deed[0].at + SECOND - 1) / SECOND * SECOND);
            assert_eq!(small.end, enough_time(&small));
        }
    }

    #[test]
    fn what_stays_is_what_it_was_under_its_new_number() {
        let mut plan = three_of_all();
        plan.deed.push(Deed { at: 5_000, what: What::UseUp { account: 1 } });
        plan.deed.push(Deed { at: 6_000, what: What::NodeLost { node: (1, 2), lasts: 1_000 } });
        plan.deed.push(Deed { at: 7_000, what: What::Cordon { node: (2, 3), lasts: 1_000 } });
        let used_up = |plan: &Plan| {
            let of = |what: &What| matches!(what, What::UseUp { account } if plan.world.account[*account].id == 11);
            plan.deed.iter().any(|deed| of(&deed.what))
        };
        let lost = |plan: &Plan| {
            let of = |what: &What| match what {
                What::NodeLost { node: (pool, node), .. } => {
                    let pool = &plan.world.pool[*pool];
                    pool.name == "q" && pool.nodes[*node] == 5
                }
                _ => false,
            };
            plan.deed.iter().any(|deed| of(&deed.what))
        };
        let queued = |plan: &Plan| {
            let world = &plan.world;
            let of = |what: &What| match what {
                What::Queue { account, labels, repo, .. } => {
                    let (account, pool) = (&world.account[*account], &world.pool[world.pool_of[*labels]]);
                    let repo = account.repos.get(*repo as usize - 1).is_some_and(|name| name == "owner-12/b");
                    repo && account.id == 12 && world.labels[*labels] == ["z"] && pool.name == "p"
                }
                _ => false,
            };
            plan.deed.iter().any(|deed| of(&deed.what))
        };
        let small = small(&plan, |plan| used_up(plan) && lost(plan) && queued(plan));
        let world = &small.world;
        assert_eq!(small.deed.len(), 3);
        assert_eq!(world.account.iter().map(|it| it.id).collect::<Vec<_>>(), [11, 12]);
        assert_eq!(world.account[1].repos, ["owner-12/b"]);
        assert_eq!((world.labels.as_slice(), &world.pool_of), ([vec![String::from("z")]].as_slice(), &vec![0]));
        let pools: Vec<_> = world.pool.iter().map(|pool| (pool.name.as_str(), pool.nodes.as_slice())).collect();
        assert_eq!(pools, [("p", [1].as_slice()), ("q", &[5])]);
        assert!(matches!(small.deed[0].what, What::Queue { account: 1, labels: 0, repo: 1, .. }));
        assert!(matches!(small.deed[2].what, What::NodeLost { node: (1, 0), .. }));
    }

    /// Nodes go one at a time where not all can.
    #[test]
    fn as_many_nodes_stay_as_must() {
        let nodes = |plan: &Plan| plan.world.pool.iter().find(|pool| pool.name == "q").map_or(0, |it| it.nodes.len());
        let small = small(&three_of_all(), |plan| nodes(plan) >= 3);
        assert_eq!(nodes(&small), 3);
    }

    #[test]
    fn windows_are_no_longer_than_they_must_be() {
        let mut plan = three_of_all();
        plan.quiet_at = 777_777;
        let window = |from, until, fault, chance| Window { from, until, fault, chance };
        plan.window.push(window(12_345, 777_777, Fault::StoreAway, 20));
        plan.window.push(window(0, 777_777, Fault::JobInTheWay, 3));
        plan.window.push(window(55_500, 56_400, Fault::StoreSlow, 20));
        plan.window.push(window(300, 900_000, Fault::WatchLate, 20));
        let covers = |plan: &Plan, fault: Fault, from: i64, until: i64| {
            plan.window.iter().any(|it| it.fault == fault && it.from <= from && until <= it.until)
        };
        let fails = |plan: &Plan| {
            let rarely = plan.window.iter().any(|it| it.fault == Fault::WatchLate && it.chance < 50);
            covers(plan, Fault::StoreAway, 100_100, 103_500) && covers(plan, Fault::StoreSlow, 55_700, 55_800) && rarely
        };
        let small = small(&plan, fails);
        let late = small.window[2].clone();
        assert_eq!(small.window[0], window(100_000, 104_000, Fault::StoreAway, 100));
        assert_eq!(small.window[1], window(55_000, 56_000, Fault::StoreSlow, 100));
        assert_eq!((late.chance, late.until - late.from), (20, SECOND));
    }

    #[test]
    fn it_is_quiet_as_early_as_may_be_and_no_earlier() {
        let small_until = |quiet: i64| small(&three_of_all(), |plan| plan.quiet_at >= quiet && plan.deed.len() == 3);
        assert_eq!(small_until(61_500).quiet_at / SECOND, 61);
        // Not before the last deed.
        assert_eq!(small_until(0).quiet_at, 2_000);
    }

    #[test]
    fn a_job_keeps_its_time_where_that_matters() {
        let runs = |plan: &Plan| -> Vec<i64> {
            let of = |what: &What| if let What::Queue { runs, .. } = what { Some(*runs) } else { None };
            plan.deed.iter().filter_map(|deed| of(&deed.what)).collect()
        };
        let small = small(&three_of_all(), |plan| {
            let runs = runs(plan);
            runs.len() == 3 && runs[0] > 30 * SECOND && runs[1] > 2 * MINUTE
        });
        assert_eq!(runs(&small), [MINUTE, 199 * SECOND, 10 * SECOND]);
    }

    /// By running: a world that is cut off before one of its jobs has ended.
    #[test]
    fn a_world_that_breaks_an_invariant_breaks_it_when_it_is_small() {
        let mut plan = draw(Profile::Timeouts, 3);
        plan.end = plan.quiet_at + 5 * HOUR;
        let what = What::Queue { job: 99, account: 0, repo: 1, labels: 0, runs: 9 * HOUR, held: 0 };
        plan.deed.push(Deed { at: 1_000, what });
        let fails = |plan: &Plan| play(&Arc::new(plan.clone()), false, false).broken;
        let broken = fails(&plan).unwrap();
        let small = shrink(&plan, &broken, false, |_| ());
        assert_eq!(fails(&small).unwrap().invariant, broken.invariant);
        assert!(matches!(small.deed[..], [Deed { what: What::Queue { job: 99, .. }, .. }]), "{small:?}");
        assert_eq!((small.window.len(), small.world.account.len(), small.world.pool.len()), (0, 1, 1));
    }

    /// A job of an account that there is not: no plan from a file has that.
    #[test]
    fn a_world_that_panics_panics_in_the_same_place_when_it_is_small() {
        let mut plan = draw(Profile::Mixed, 4);
        let what = What::Queue { job: 99, account: 7, repo: 1, labels: 0, runs: SECOND, held: 0 };
        plan.deed.push(Deed { at: plan.quiet_at, what });
        let fails = |plan: &Plan| play_twice(&Arc::new(plan.clone()), false).broken.unwrap();
        let broken = fails(&plan);
        assert_eq!(broken.invariant, PANIC);
        assert!(broken.what.ends_with("but the index is 7"), "{}", broken.what);
        let small = shrink(&plan, &broken, false, |_| ());
        assert_eq!((small.deed.len(), small.window.len()), (1, 0), "{small:?}");
        assert!(fails_alike(&fails(&small), &broken));
        let elsewhere = Broken { what: broken.what.replace(".rs:", ".rs:1"), ..broken.clone() };
        assert!(!fails_alike(&elsewhere, &broken));
    }

    /// Each try is a run.
    #[test]
    fn it_does_not_take_many_tries() {
        let tries = Cell::new(0);
        let plan = draw(Profile::Storm, 5);
        let kept: Vec<Deed> = plan.deed.iter().step_by(plan.deed.len() / 6).take(6).cloned().collect();
        let window = plan.window.first().cloned();
        let fails = |plan: &Plan| {
            tries.set(tries.get() + 1);
            let has = |it: &Deed| plan.deed.iter().any(|deed| deed.at == it.at);
            kept.iter().all(has) && plan.window.iter().any(|it| Some(it.fault) == window.as_ref().map(|it| it.fault))
        };
        let small = shrink_by(&plan, fails, |_| ());
        assert_eq!((small.deed.len(), small.window.len()), (6, 1));
        assert!(tries.get() < 1_000, "{} tries", tries.get());
    }
}
