//! Webhook bodies: only what is needed is read, and no tree is built of the rest.

use std::{borrow::Cow, fmt};

use engine::{ids::Time, intake::WorkflowJob};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// An id as it came. What is no number of 64 bits is 0, which the engine refuses by the field's name.
#[derive(Clone, Copy)]
struct Id(i64);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Id;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an id")
            }

            fn visit_i64<E: Error>(self, id: i64) -> Result<Id, E> {
                Ok(Id(id))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<Id, E> {
                Ok(Id(i64::try_from(id).unwrap_or(0)))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Id, E> {
                Ok(Id(0))
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Id, E> {
                Ok(Id(0))
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Id, E> {
                Ok(Id(0))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Id, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Id(0))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Id, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Id(0))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// What decides whose a delivery is, and everything of the job.
#[derive(Deserialize)]
pub(super) struct JobBody<'a> {
    #[serde(borrow)]
    action: Option<Cow<'a, str>>,
    #[serde(borrow)]
    workflow_job: Option<Job<'a>>,
    #[serde(borrow)]
    repository: Option<Repository<'a>>,
    installation: Option<Installation>,
}

#[derive(Deserialize)]
struct Job<'a> {
    id: Option<Id>,
    #[serde(borrow)]
    html_url: Option<Cow<'a, str>>,
    #[serde(borrow)]
    labels: Option<Vec<Cow<'a, str>>>,
    created_at: Option<jiff::Timestamp>,
    started_at: Option<jiff::Timestamp>,
    completed_at: Option<jiff::Timestamp>,
    #[serde(borrow)]
    runner_name: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Repository<'a> {
    id: Option<Id>,
    #[serde(borrow)]
    full_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    owner: Option<Owner<'a>>,
}

#[derive(Deserialize)]
struct Owner<'a> {
    id: Option<Id>,
    #[serde(borrow)]
    login: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Installation {
    id: Option<Id>,
}

/// An `installation` event.
#[derive(Deserialize)]
pub(super) struct InstallationBody<'a> {
    #[serde(borrow)]
    pub action: Option<Cow<'a, str>>,
    installation: Option<Installation>,
}

impl InstallationBody<'_> {
    pub fn id(&self) -> Option<i64> {
        Some(self.installation.as_ref()?.id?.0).filter(|&id| id > 0)
    }
}

impl JobBody<'_> {
    /// Owner id and repository, for the staging proxy.
    pub fn whose(&self) -> Option<(i64, &str)> {
        let repository = self.repository.as_ref()?;
        Some((repository.owner.as_ref()?.id?.0, repository.full_name.as_deref()?))
    }

    /// As the engine reads it.
    pub fn as_facts(&self) -> WorkflowJob<'_> {
        let time = |at: Option<jiff::Timestamp>| at.map(|at| Time(at.as_millisecond()));
        let number = |id: Option<Id>| id.map(|id| id.0);
        let job = self.workflow_job.as_ref();
        let repository = self.repository.as_ref();
        let owner = repository.and_then(|repository| repository.owner.as_ref());
        let labels = job.and_then(|job| job.labels.as_ref());
        WorkflowJob {
            action: self.action.as_deref().unwrap_or(""),
            job_id: number(job.and_then(|job| job.id)),
            html_url: job.and_then(|job| job.html_url.as_deref()),
            labels: labels.into_iter().flatten().map(|label| &**label).collect(),
            created_at: time(job.and_then(|job| job.created_at)),
            started_at: time(job.and_then(|job| job.started_at)),
            completed_at: time(job.and_then(|job| job.completed_at)),
            runner_name: job.and_then(|job| job.runner_name.as_deref()),
            repo_id: number(repository.and_then(|repository| repository.id)),
            repo_full_name: repository.and_then(|repository| repository.full_name.as_deref()),
            owner_id: number(owner.and_then(|owner| owner.id)),
            owner_login: owner.and_then(|owner| owner.login.as_deref()),
            owner_type: owner.and_then(|owner| owner.kind.as_deref()),
            installation_id: number(self.installation.as_ref().and_then(|installation| installation.id)),
        }
    }
}
