//! Worlds that must come to the same end: one drawn from a seed, and others made from it by a change that may alter when
//! things happen, and nothing else.
//!
//! Compared is what is left when a world is over: of each job, whether GitHub has ended it and what its row says without
//! the times and the runner that took it (status, failure, entity, owner, repository, installation, labels, pool, image,
//! page, and when GitHub created it); and what there still is of workers that have not ended, runner entries, and pods that
//! have not ended: nothing. What a job's owner is called is left out where it was renamed in the job's life: deliveries that
//! were lost, and whose news polls have brought, would have told another name. A shifted epoch changes not even when things
//! happen: there every event of the trace is compared.
//!
//! The world that is changed is the seed's without the deeds and faults after which a job's end rightly depends on when
//! something was noticed: an App that is taken away, a job whose repository is deleted, deliveries that name no installation
//! or an old one, jobs that are queued whenever the service deletes something. All other faults stay: whatever goes wrong on
//! the way, the end is the same.

use std::sync::Arc;

use crate::{
    plan::{Deed, Plan, What, Window},
    register::Fault,
    report::{End, Outcome},
    rng::Rng,
    run::{SECOND, run},
};

/// A change of a world that leaves its end the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// Every delivery comes twice.
    Duplicated,
    /// Every delivery waits for up to a minute, so that they come in another order.
    Permuted,
    /// All schedulers are killed at one moment, and started again.
    Restarted,
    /// The world begins at another time: nothing at all is different but the times.
    Shifted,
    /// Everything takes other times.
    Retimed,
}

impl Relation {
    /// All of them.
    pub const ALL: [Relation; 5] =
        [Relation::Duplicated, Relation::Permuted, Relation::Restarted, Relation::Shifted, Relation::Retimed];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Relation::Duplicated => "duplicated deliveries",
            Relation::Permuted => "permuted deliveries",
            Relation::Restarted => "added restart",
            Relation::Shifted => "shifted epoch",
            Relation::Retimed => "other latencies",
        }
    }

    /// The changed world.
    fn of(self, plan: &Plan) -> Plan {
        let mut plan = plan.clone();
        let mut rng = Rng::new(plan.seed ^ 0x3e7a);
        match self {
            Relation::Duplicated => always(&mut plan, Fault::WebhookDuplicated),
            Relation::Permuted => always(&mut plan, Fault::WebhookReordered),
            Relation::Restarted => {
                let at = rng.between(0, plan.quiet_at);
                for scheduler in 0..plan.world.schedulers {
                    let what = What::Kill { scheduler, lasts: rng.between(SECOND, 20 * SECOND) };
                    plan.deed.push(Deed { at, what });
                }
                plan.deed.sort_by_key(|deed| deed.at);
            }
            // Up to thirty years, forth or back, and not by whole seconds.
            Relation::Shifted => plan.epoch += rng.between(-946_684_800_000, 946_684_800_000),
            Relation::Retimed => plan.seed = rng.bits(),
        }
        plan.name = format!("{}, {}", plan.name, self.as_str());
        plan
    }
}

fn always(plan: &mut Plan, fault: Fault) {
    plan.window.retain(|window| window.fault != fault);
    plan.window.push(Window { from: 0, until: plan.quiet_at, fault, chance: 100 });
}

/// A world without what makes a job's end depend on when something was noticed.
pub fn settled(mut plan: Plan) -> Plan {
    let matters = |what: &What| {
        matches!(what, What::Uninstall { .. } | What::Reinstall { .. } | What::Suspend { .. } | What::Forget { .. })
    };
    plan.deed.retain(|deed| !matters(&deed.what));
    // The last of these queues jobs at moments that the service's own calls choose.
    let untold = [Fault::WebhookNoInstallation, Fault::WebhookOldInstallation, Fault::JobInTheWay];
    plan.window.retain(|window| !untold.contains(&window.fault));
    // Ended pods are no part of the end.
    plan.long = false;
    plan
}

/// What came out differently.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Differs {
    /// After which change.
    pub relation: &'static str,
    /// What.
    pub what: String,
}

/// Holds a world against those made from it.
///
/// # Errors
/// The first thing that is not as it must be.
pub fn compare(plan: &Plan) -> Result<(), Differs> {
    let told = |relation: &'static str| move |what: String| Differs { relation, what };
    let plan = settled(plan.clone());
    let first = run(&Arc::new(plan.clone()), false);
    over(&first).map_err(told("no change"))?;
    for relation in Relation::ALL {
        let changed = run(&Arc::new(relation.of(&plan)), false);
        let alike = |one: &End, two: &End| is_alike(&plan, one, two);
        over(&changed).and_then(|()| same(relation, &first, &changed, alike)).map_err(told(relation.as_str()))?;
    }
    Ok(())
}

/// Whether a world came to an end, and nothing is left.
fn over(outcome: &Outcome) -> Result<(), String> {
    if let Some(broken) = &outcome.broken {
        return Err(format!("{} broke at {} s: {}", broken.invariant, broken.at / SECOND, broken.what));
    }
    match outcome.left.first() {
        Some(left) => Err(format!("{left} is left")),
        None => Ok(()),
    }
}

/// Whether two ends are the same, as far as they must be.
fn is_alike(plan: &Plan, one: &End, two: &End) -> bool {
    let is_renamed = |entity: i64| {
        plan.deed
            .iter()
            .any(|deed| matches!(deed.what, What::Rename { account } if plan.world.account[account].id == entity))
    };
    let mut two = two.clone();
    if let (Some(row), Some(other)) = (&one.row, &mut two.row)
        && is_renamed(row.entity.0)
    {
        other.entity_name = row.entity_name.clone();
    }
    *one == two
}

fn same(relation: Relation, one: &Outcome, two: &Outcome, alike: impl Fn(&End, &End) -> bool) -> Result<(), String> {
    if relation == Relation::Shifted && (one.hash, one.events) != (two.hash, two.events) {
        return Err(format!(
            "{} events with hash {:016x} became {} with {:016x}",
            one.events, one.hash, two.events, two.hash
        ));
    }
    if !one.ends.keys().eq(two.ends.keys()) {
        return Err(format!("{} jobs became {}", one.ends.len(), two.ends.len()));
    }
    let differing = one.ends.iter().zip(two.ends.values()).find(|((_, a), b)| !alike(a, b));
    differing.map_or(Ok(()), |((id, a), b)| Err(format!("job {id} ended {}, and then {}", words(a), words(b))))
}

/// An end, as short as it can be told.
fn words(end: &End) -> String {
    let row = end.row.as_ref().map_or_else(|| String::from("without a row"), |row| format!("as {row:?}"));
    format!("{} on GitHub and here {row}", if end.done { "over" } else { "open" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Profile, draw};

    #[test]
    fn worlds_that_differ_in_time_alone_end_alike() {
        for profile in [Profile::Mixed, Profile::Failover, Profile::Outage] {
            for seed in 0..4 {
                let plan = draw(profile, seed);
                assert_eq!(compare(&plan), Ok(()), "{}", plan.name);
            }
        }
    }

    #[test]
    fn an_end_that_differs_is_told() {
        let plan = settled(draw(Profile::Steady, 1));
        let one = run(&Arc::new(plan.clone()), false);
        let mut without = plan.clone();
        let at = without.deed.iter().position(|deed| matches!(deed.what, What::Queue { .. })).unwrap();
        let What::Queue { job, .. } = without.deed[at].what else { unreachable!() };
        let mut longer = plan;
        longer.deed[at].at += 5 * SECOND;
        without.deed.remove(at);
        let two = run(&Arc::new(without), false);
        let same = |two: &Outcome| same(Relation::Retimed, &one, two, |a, b| a == b);
        assert!(same(&two).unwrap_err().contains("jobs became"));
        let three = run(&Arc::new(longer), false);
        assert!(same(&three).unwrap_err().contains(&format!("job {job} ended")));
    }
}
