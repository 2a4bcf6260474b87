//! From one webhook delivery to a job event, and the lattice in which any order of deliveries meets.
//!
//! Every delivery is turned into the job's row as that delivery alone would leave it ([`Job`]). Rows of one job are
//! joined by [`join`], which is commutative, associative and idempotent in everything that deliveries may change, so
//! any order and any number of duplicates ends in the same row (S3).

use alloc::{string::String, sync::Arc, vec::Vec};
use core::fmt;

use crate::{
    decision::JobFailure,
    facts::{Assignment, Job, Status},
    ids::{EntityId, EntityType, InstallationId, JobId, OwnerId, Time},
    labels::{self, LabelSet},
    policy::Policy,
};

/// The most labels a job may carry. GitHub's own limit is far below; beyond this a body is a mistake or an attack.
pub const MAX_LABELS: usize = 100;
/// Bytes that all labels of a job may have together: the store keeps an index over them, whose rows have at most 2704.
pub const MAX_LABEL_BYTES: usize = 2048;
/// Bytes a name or an address may have. GitHub's longest are a few hundred; the store indexes some of them.
pub const MAX_TEXT_BYTES: usize = 1024;

/// What a `workflow_job` body says, before anything is checked. Absent and empty are both `None`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WorkflowJob<'a> {
    /// `action`.
    pub action: &'a str,
    /// `workflow_job.id`.
    pub job_id: Option<i64>,
    /// `workflow_job.html_url`.
    pub html_url: Option<&'a str>,
    /// `workflow_job.labels`; null is empty.
    pub labels: Vec<&'a str>,
    /// `workflow_job.created_at`.
    pub created_at: Option<Time>,
    /// `workflow_job.started_at`.
    pub started_at: Option<Time>,
    /// `workflow_job.completed_at`.
    pub completed_at: Option<Time>,
    /// `workflow_job.runner_name`.
    pub runner_name: Option<&'a str>,
    /// `repository.id`.
    pub repo_id: Option<i64>,
    /// `repository.full_name`.
    pub repo_full_name: Option<&'a str>,
    /// `repository.owner.id`.
    pub owner_id: Option<i64>,
    /// `repository.owner.login`.
    pub owner_login: Option<&'a str>,
    /// `repository.owner.type`.
    pub owner_type: Option<&'a str>,
    /// `installation.id`.
    pub installation_id: Option<i64>,
}

/// What to do about a delivery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Intake {
    /// Record this.
    Record(Job),
    /// Nothing to record.
    Ignore(Ignored),
}

/// Why a delivery is answered 200 and not recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ignored {
    /// An action other than queued, in_progress and completed.
    Action,
    /// No label rule takes the job.
    Labels,
}

/// Why a delivery is answered 400.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rejected {
    /// A field that is needed is absent, null or empty.
    Missing(&'static str),
    /// An id that is zero, negative, or no number of 64 bits.
    NotPositive(&'static str),
    /// An owner that is neither an organisation nor a user.
    OwnerType(String),
    /// More labels than any job has.
    TooManyLabels(usize),
    /// Text longer than any of GitHub's: the field, its bytes, and how many it may have.
    TooLong(&'static str, usize, usize),
    /// A NUL character, which no name holds and no store takes.
    Nul(&'static str),
    /// No name that GitHub gives: it could not stand in the path of a call.
    NotAName(&'static str),
    /// A time before 1970.
    TooEarly(&'static str),
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ignored::Action => "ignored: only queued, in_progress and completed are recorded",
            Ignored::Labels => "ignored: no platform has these labels",
        })
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::Missing(field) => write!(f, "{field} is missing or empty"),
            Rejected::NotPositive(field) => write!(f, "{field} must be a whole number from 1 to {}", i64::MAX),
            Rejected::OwnerType(word) => {
                write!(f, "repository.owner.type is {word:?}, expected \"Organization\" or \"User\"")
            }
            Rejected::TooManyLabels(count) => {
                write!(f, "workflow_job.labels has {count} entries, at most {MAX_LABELS}")
            }
            Rejected::TooLong(field, bytes, most) => write!(f, "{field} has {bytes} bytes, at most {most}"),
            Rejected::Nul(field) => write!(f, "{field} holds a NUL character"),
            Rejected::NotAName(field) => {
                write!(f, "{field} is no name of GitHub's: letters, digits, \"-\", \"_\" and \".\" alone")
            }
            Rejected::TooEarly(field) => write!(f, "{field} lies before 1970"),
        }
    }
}

fn text<'a>(field: &'static str, value: Option<&'a str>) -> Result<&'a str, Rejected> {
    value.filter(|text| !text.is_empty()).ok_or(Rejected::Missing(field))
}

fn id(field: &'static str, value: Option<i64>) -> Result<i64, Rejected> {
    match value {
        None => Err(Rejected::Missing(field)),
        Some(id) if id <= 0 => Err(Rejected::NotPositive(field)),
        Some(id) => Ok(id),
    }
}

/// Reads one delivery. `received` stands in for a missing `created_at`.
///
/// Needed for every action: owner id and type, job id, repository id and full name; for queued also installation id,
/// owner login and the job's html_url: what the first implementation answers 400 without.
pub fn read(body: &WorkflowJob<'_>, policy: &Policy, received: Time) -> Result<Intake, Rejected> {
    let status = match body.action {
        "queued" => Status::Pending,
        "in_progress" => Status::Running,
        "completed" => Status::Completed,
        _ => return Ok(Intake::Ignore(Ignored::Action)),
    };
    let job = id("workflow_job.id", body.job_id)?;
    let repo = text("repository.full_name", body.repo_full_name)?;
    let repo_id = id("repository.id", body.repo_id)?;
    let owner = id("repository.owner.id", body.owner_id)?;
    let owner_type = text("repository.owner.type", body.owner_type)?;
    let entity_type = EntityType::parse(owner_type).ok_or_else(|| Rejected::OwnerType(String::from(owner_type)))?;
    if status == Status::Pending {
        id("installation.id", body.installation_id)?;
        text("repository.owner.login", body.owner_login)?;
        text("workflow_job.html_url", body.html_url)?;
    }
    let labels = LabelSet::new(&body.labels);
    let Some((pool, image)) = labels::resolve(&policy.label_rules, owner, repo, &labels) else {
        return Ok(Intake::Ignore(Ignored::Labels));
    };
    if body.labels.len() > MAX_LABELS {
        return Err(Rejected::TooManyLabels(body.labels.len()));
    }
    let login = body.owner_login.filter(|login| !login.is_empty());
    let ended = status == Status::Completed;
    let job = Job {
        id: JobId(job),
        status,
        entity: EntityId(if entity_type == EntityType::Organization { owner } else { repo_id }),
        entity_name: Arc::from(login.unwrap_or_else(|| repo.split('/').next().unwrap_or(repo))),
        entity_type,
        owner: OwnerId(owner),
        repo: Arc::from(repo),
        installation: InstallationId(body.installation_id.filter(|&id| id > 0).unwrap_or(0)),
        labels,
        pool: pool.clone(),
        image: image.clone(),
        html_url: body.html_url.filter(|url| !url.is_empty()).map(Arc::from),
        created_at: body.created_at.unwrap_or(received),
        assignment: assignment(status, body),
        completed_at: ended.then(|| body.completed_at.unwrap_or(received)),
        requeued_at: None,
        failure: None,
    };
    storable(&job)?;
    Ok(Intake::Record(job))
}

/// Rows share commits: one that the store would refuse must never come to it.
fn storable(job: &Job) -> Result<(), Rejected> {
    let runner = job.assignment.as_ref().map(|it| &*it.runner);
    for (field, text) in [
        ("repository.owner.login", Some(&*job.entity_name)),
        ("repository.full_name", Some(&*job.repo)),
        ("workflow_job.html_url", job.html_url.as_deref()),
        ("workflow_job.runner_name", runner),
    ] {
        let text = text.unwrap_or("");
        if text.contains('\0') {
            return Err(Rejected::Nul(field));
        }
        if text.len() > MAX_TEXT_BYTES {
            return Err(Rejected::TooLong(field, text.len(), MAX_TEXT_BYTES));
        }
    }
    if !is_name(&job.entity_name) {
        return Err(Rejected::NotAName("repository.owner.login"));
    }
    if !job.repo.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name)) {
        return Err(Rejected::NotAName("repository.full_name"));
    }
    if job.labels.iter().any(|label| label.contains('\0')) {
        return Err(Rejected::Nul("workflow_job.labels"));
    }
    let bytes = job.labels.iter().map(str::len).sum();
    if bytes > MAX_LABEL_BYTES {
        return Err(Rejected::TooLong("workflow_job.labels", bytes, MAX_LABEL_BYTES));
    }
    for (field, at) in [
        ("workflow_job.created_at", Some(job.created_at)),
        ("workflow_job.started_at", job.assignment.as_ref().map(|it| it.started_at)),
        ("workflow_job.completed_at", job.completed_at),
    ] {
        if at.is_some_and(|at| at < Time::ZERO) {
            return Err(Rejected::TooEarly(field));
        }
    }
    Ok(())
}

/// Whether GitHub could have given an account or a repository this name. Names become parts of paths.
fn is_name(text: &str) -> bool {
    let dots = text.chars().all(|c| c == '.');
    !dots && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// A queued delivery's runner fields mean nothing; a job cancelled before it started has none.
fn assignment(status: Status, body: &WorkflowJob<'_>) -> Option<Assignment> {
    if status == Status::Pending {
        return None;
    }
    let runner = body.runner_name.filter(|name| !name.is_empty())?;
    Some(Assignment { started_at: body.started_at.or(body.created_at)?, runner: Arc::from(runner) })
}

/// Joins what two deliveries, or a row and a delivery, say of one job.
///
/// Status moves up pending < running < completed; a failed row stays failed. The assignment is the greater of the two,
/// unknown fields are filled, the installation is the greater id (a later installation has one), `created_at` and
/// `completed_at` the earlier. A repository or its owner may be renamed between two deliveries, and nothing in them says
/// which is the later: the greater name stands, whichever came first. What identifies a job (entity, owner, labels, pool)
/// is `row`'s: GitHub's deliveries of one job agree on it.
pub fn join(row: &Job, event: &Job) -> Job {
    debug_assert_eq!(row.id, event.id);
    let mut out = row.clone();
    if !row.status.is_ended() {
        out.status = row.status.max(event.status);
    }
    out.assignment = row.assignment.clone().max(event.assignment.clone());
    out.installation = row.installation.max(event.installation);
    out.html_url = row.html_url.clone().max(event.html_url.clone());
    if (&event.repo, &event.entity_name) > (&row.repo, &row.entity_name) {
        (out.repo, out.entity_name) = (event.repo.clone(), event.entity_name.clone());
    }
    out.created_at = row.created_at.min(event.created_at);
    out.requeued_at = row.requeued_at.max(event.requeued_at);
    out.completed_at = match (row.completed_at, event.completed_at) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    out.failure = row.failure.or(event.failure);
    out
}

/// What an `installation` event means for the jobs of that installation: the reason to fail the pending ones, if any.
/// A suspended App's jobs wait: GitHub keeps them for a day, and the App may be back by then.
pub fn installation(action: &str) -> Option<JobFailure> {
    match action {
        "deleted" => Some(JobFailure::InstallationGone),
        _ => None,
    }
}
