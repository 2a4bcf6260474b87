//! From a failing plan to a small one that fails the same way.

use std::sync::Arc;

use crate::{plan::Plan, run::run};

/// Makes a plan smaller for as long as `invariant` still breaks. `tell` hears of each smaller plan.
pub fn shrink(plan: &Plan, invariant: &str, tell: impl FnMut(&Plan)) -> Plan {
    let fails = |plan: &Plan| {
        let outcome = run(&Arc::new(plan.clone()), false);
        outcome.broken.is_some_and(|broken| broken.invariant == invariant)
    };
    shrink_by(plan, fails, tell)
}

/// Makes a plan smaller for as long as it still `fails`, however that is found out.
pub fn shrink_by(plan: &Plan, fails: impl Fn(&Plan) -> bool, mut tell: impl FnMut(&Plan)) -> Plan {
    let mut best = plan.clone();
    loop {
        let before = size(&best);
        drop_parts(&mut best, |plan| &mut plan.deed, &fails);
        drop_parts(&mut best, |plan| &mut plan.window, &fails);
        simplify(&mut best, &fails);
        tell(&best);
        if size(&best) == before {
            return best;
        }
    }
}

/// What is left of a plan: deeds, windows, and everything its world has.
pub fn size(plan: &Plan) -> usize {
    let nodes: usize = plan.world.pool.iter().map(|pool| pool.nodes.len()).sum();
    plan.deed.len() + plan.window.len() + nodes + plan.world.schedulers + plan.world.skew.len()
}

/// Leaves parts of a list out, large ones first.
fn drop_parts<T: Clone>(best: &mut Plan, list: impl Fn(&mut Plan) -> &mut Vec<T>, fails: &impl Fn(&Plan) -> bool) {
    let mut chunk = list(best).len().div_ceil(2).max(1);
    loop {
        let mut from = 0;
        while from < list(best).len() {
            let mut smaller = best.clone();
            let items = list(&mut smaller);
            let to = (from + chunk).min(items.len());
            items.drain(from..to);
            if fails(&smaller) {
                *best = smaller;
            } else {
                from += chunk;
            }
        }
        if chunk == 1 {
            return;
        }
        chunk = chunk.div_ceil(2);
    }
}

/// Takes features of the world away, one at a time.
fn simplify(best: &mut Plan, fails: &impl Fn(&Plan) -> bool) {
    let steps: [fn(&mut Plan); 8] = [
        |plan| plan.world.skew.clear(),
        |plan| plan.world.busy_lag = 0,
        |plan| plan.world.newest_first = false,
        |plan| plan.long = false,
        |plan| {
            let used = |i: usize| plan.deed.iter().any(|deed| deed.what.names_scheduler(i));
            if plan.world.schedulers > 1 && !used(plan.world.schedulers - 1) {
                plan.world.schedulers -= 1;
            }
        },
        |plan| plan.world.account.iter_mut().for_each(|account| account.cap = None),
        |plan| plan.world.pull = 1000,
        |plan| plan.world.default_cap = None,
    ];
    for step in steps {
        let mut smaller = best.clone();
        step(&mut smaller);
        if smaller != *best && fails(&smaller) {
            *best = smaller;
        }
    }
}
