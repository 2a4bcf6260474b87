//! Rows to begin with, each with what matters changed by the caller.

use engine::{
    facts::{Assignment, Job, Status, Worker},
    ids::{EntityId, EntityType, Image, InstallationId, JobId, OwnerId, Pool, Time, WorkerName},
    labels::LabelSet,
};

/// 2026-05-13T15:06:40Z.
pub const START: Time = Time(1_778_684_800_000);
/// The label of the plainest job.
pub const LABEL: &str = "ubuntu-24.04-riscv";

/// A pending job of organisation `org`, created `id` milliseconds after [`START`].
pub fn job(id: i64, org: i64) -> Job {
    Job {
        id: JobId(id),
        status: Status::Pending,
        entity: EntityId(org),
        entity_name: format!("org-{org}").into(),
        entity_type: EntityType::Organization,
        owner: OwnerId(org),
        repo: format!("org-{org}/repo").into(),
        installation: InstallationId(org + 500),
        labels: LabelSet::new([LABEL]),
        pool: Pool::from("scw-em-rv1"),
        image: Image::from("ubuntu-24.04"),
        html_url: Some(format!("https://github.com/org-{org}/repo/actions/runs/1/job/{id}").into()),
        created_at: Time(START.0 + id),
        assignment: None,
        completed_at: None,
        requeued_at: None,
        failure: None,
    }
}

/// A pending worker of organisation `org`, reserved at [`START`].
pub fn worker(name: &str, org: i64) -> Worker {
    let job = job(1, org);
    Worker {
        name: WorkerName::from(name),
        entity: job.entity,
        entity_name: job.entity_name,
        entity_type: job.entity_type,
        owner: job.owner,
        installation: job.installation,
        repo: None,
        labels: job.labels,
        pool: job.pool,
        image: job.image,
        node: None,
        status: Status::Pending,
        failure: None,
        created_at: START,
        running_at: None,
        completed_at: None,
    }
}

/// On this runner, since `at`.
pub fn on(runner: &str, at: Time) -> Option<Assignment> {
    Some(Assignment { started_at: at, runner: runner.into() })
}
