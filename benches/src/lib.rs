//! Worlds to measure the engine in: deterministic, and of any size.

pub mod served;

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use engine::{
    decide::decide,
    facts::{Change, Job, Node, PodListing, Status},
    ids::{EntityId, EntityType, Image, InstallationId, JobId, NodeName, OwnerId, Pool, Realm, Time},
    labels::LabelSet,
    policy::Policy,
    snapshot::Snapshot,
};

/// When the measured worlds begin.
pub const NOW: Time = Time(1_700_000_000_000);

/// The size of a world.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pending jobs.
    pub jobs: i64,
    /// Organisations they belong to, in turn.
    pub entities: i64,
    /// Pools they run on, by organisation.
    pub pools: i64,
    /// Places in each pool.
    pub places: u32,
}

/// Texts that the jobs of an organisation share, as rows of one reading do.
struct Texts {
    name: Arc<str>,
    repo: Arc<str>,
    labels: LabelSet,
    pool: Pool,
    image: Image,
}

fn texts(size: Size, entity: i64) -> Arc<Texts> {
    thread_local! { static KNOWN: RefCell<BTreeMap<(i64, i64), Arc<Texts>>> = const { RefCell::new(BTreeMap::new()) } }
    let make = || {
        let pool = format!("pool-{}", entity % size.pools);
        Arc::new(Texts {
            name: Arc::from(format!("org-{entity}")),
            repo: Arc::from(format!("org-{entity}/repo")),
            labels: LabelSet::new([pool.clone()]),
            pool: Pool::from(pool),
            image: Image::from("ubuntu-24.04"),
        })
    };
    KNOWN.with(|known| known.borrow_mut().entry((size.pools, entity)).or_insert_with(make).clone())
}

/// One job of a world.
pub fn job(size: Size, id: i64, status: Status) -> Job {
    let entity = id % size.entities + 1;
    let texts = texts(size, entity);
    Job {
        id: JobId(id),
        status,
        entity: EntityId(entity),
        entity_name: texts.name.clone(),
        entity_type: EntityType::Organization,
        owner: OwnerId(entity),
        repo: texts.repo.clone(),
        installation: InstallationId(entity),
        labels: texts.labels.clone(),
        pool: texts.pool.clone(),
        image: texts.image.clone(),
        html_url: None,
        created_at: Time(NOW.0 - 1_000 + id),
        assignment: None,
        completed_at: None,
        requeued_at: None,
        failure: None,
    }
}

/// The policy of the measured worlds.
pub fn policy() -> Policy {
    Policy::bare(Realm::Prod)
}

/// A snapshot that knows nodes and pods of `size`, and no row yet.
pub fn views(size: Size, policy: &Policy) -> Snapshot {
    let mut snapshot = Snapshot::new(1, policy);
    let nodes = (0..size.pools)
        .map(|i| Node {
            name: NodeName::from(format!("node-{i}")),
            pool: Some(Pool::from(format!("pool-{i}"))),
            runners: size.places,
            usable: true,
        })
        .collect();
    snapshot.apply(Change::Nodes(nodes), NOW);
    snapshot.apply(Change::Pods(PodListing { asked_at: NOW, pods: Vec::new() }), NOW);
    snapshot
}

/// A snapshot of `size`, every view complete, before its first decision.
pub fn world(size: Size, policy: &Policy) -> Snapshot {
    let mut snapshot = views(size, policy);
    snapshot.apply(Change::Jobs((1..=size.jobs).map(|id| job(size, id, Status::Pending)).collect()), NOW);
    snapshot.apply(Change::StoreSynced { asked_at: NOW }, NOW);
    snapshot
}

/// A snapshot after its first decisions: whatever fits is reserved, the rest waits.
pub fn settled(size: Size, policy: &Policy) -> Snapshot {
    let mut snapshot = world(size, policy);
    while !decide(&mut snapshot, policy, NOW).actions.is_empty() {}
    snapshot
}

/// The specification's loop as it is written, over pending jobs and no worker: every job looks at all rows. Which jobs
/// get a worker.
pub fn naive(jobs: &[Job], size: Size, cap: usize) -> Vec<JobId> {
    let mut pending: Vec<&Job> = jobs.iter().filter(|job| job.status == Status::Pending).collect();
    pending.sort_by_key(|job| (job.created_at, job.id));
    let mut made: Vec<&Job> = Vec::new();
    for job in pending {
        let group = |it: &&Job| it.entity == job.entity && it.labels == job.labels;
        let demand = jobs.iter().filter(group).count();
        let supply = made.iter().copied().filter(group).count();
        let owned = made.iter().filter(|it| it.owner == job.owner).count();
        let placed = made.iter().filter(|it| it.pool == job.pool).count();
        if demand > supply && owned < cap && placed < size.places as usize {
            made.push(job);
        }
    }
    made.iter().map(|job| job.id).collect()
}

#[cfg(test)]
mod tests {
    use engine::decision::{Action, Reason, Write};

    use super::*;

    /// What is measured against each other gives the same answer.
    #[test]
    fn the_naive_loop_and_the_engine_choose_the_same_jobs() {
        for (jobs, entities, pools, places) in [(500, 7, 3, 10), (300, 40, 5, 2), (200, 1, 1, 100)] {
            let size = Size { jobs, entities, pools, places };
            let rows: Vec<Job> = (1..=jobs).map(|id| job(size, id, Status::Pending)).collect();
            let chosen = decide(&mut world(size, &policy()), &policy(), NOW).actions;
            let mut served: Vec<JobId> = chosen
                .into_iter()
                .filter(|chosen| matches!(chosen.action, Action::Write { write: Write::Reserve { .. }, .. }))
                .filter_map(|chosen| if let Reason::Demand { job } = chosen.reason { Some(job) } else { None })
                .collect();
            served.sort();
            let mut naive = naive(&rows, size, 20);
            naive.sort();
            assert_eq!(served, naive);
            assert!(!naive.is_empty());
        }
    }
}
