//! The parts of GitHub's bodies that are read.

use engine::{
    facts::{Assignment, Delivery, JobView},
    ids::{EntityId, Realm, RunnerId, Time, WorkerName},
};
use serde::Deserialize;

/// `GET /app/installations/{id}`.
#[derive(Deserialize)]
pub(super) struct Installation {
    account: Option<Account>,
}

#[derive(Deserialize)]
struct Account {
    id: i64,
    /// An enterprise has none.
    login: Option<String>,
}

impl Installation {
    /// What its account is called, when it is this one.
    pub fn login_of(&self, entity: EntityId) -> Option<&str> {
        self.account.as_ref().filter(|account| account.id == entity.0)?.login.as_deref()
    }
}

#[derive(Deserialize)]
pub(super) struct Group {
    pub id: i64,
    pub name: String,
}

#[derive(Deserialize)]
pub(super) struct Groups {
    pub runner_groups: Vec<Group>,
}

#[derive(Deserialize)]
pub(super) struct Runner {
    pub id: i64,
    name: String,
    status: String,
    busy: bool,
    runner_group_id: Option<i64>,
}

impl Runner {
    /// Whether it is one of this service's that is not known to be in this group.
    pub fn is_outside(&self, group: i64) -> bool {
        let is_ours = [Realm::Prod, Realm::Staging].iter().any(|it| WorkerName::entity_of(&self.name, *it).is_some());
        is_ours && self.runner_group_id != Some(group)
    }

    pub fn into_fact(self) -> engine::facts::Runner {
        engine::facts::Runner {
            id: RunnerId(self.id),
            name: self.name.into(),
            online: self.status == "online",
            busy: self.busy,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Runners {
    pub total_count: usize,
    pub runners: Vec<Runner>,
}

/// No `Debug`: it holds a secret.
#[derive(Deserialize)]
pub(super) struct Jit {
    pub runner: Runner,
    pub encoded_jit_config: String,
}

#[derive(Deserialize)]
pub(super) struct JobBody {
    status: String,
    conclusion: Option<String>,
    started_at: Option<jiff::Timestamp>,
    completed_at: Option<jiff::Timestamp>,
    runner_name: Option<String>,
}

impl JobBody {
    /// A conclusion means completed, whatever the status says. `said_at`: what GitHub's clock showed.
    pub fn into_fact(self, said_at: Option<Time>) -> JobView {
        let time = |at: jiff::Timestamp| Time(at.as_millisecond());
        let runner = self.runner_name.filter(|name| !name.is_empty());
        let assignment = runner
            .zip(self.started_at)
            .map(|(runner, started_at)| Assignment { started_at: time(started_at), runner: runner.into() });
        if self.conclusion.is_some() || self.status == "completed" {
            return JobView::Completed { assignment, completed_at: self.completed_at.map(time) };
        }
        if self.status == "in_progress" {
            return JobView::InProgress { assignment };
        }
        JobView::Queued { said_at }
    }
}

#[derive(Deserialize)]
pub(super) struct LogLine {
    id: i64,
    guid: String,
    delivered_at: jiff::Timestamp,
    status_code: Option<i64>,
}

impl LogLine {
    pub fn at(&self) -> Time {
        Time(self.delivered_at.as_millisecond())
    }

    pub fn to_fact(&self) -> Delivery {
        let status = self.status_code.unwrap_or(0);
        let (ok, refused) = ((200..300).contains(&status), (400..500).contains(&status));
        Delivery { id: self.id, guid: self.guid.as_str().into(), delivered_at: self.at(), ok, refused }
    }
}
