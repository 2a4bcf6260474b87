//! What GitHub sends, how ghfe answers it, and the log of both.

use std::{borrow::Cow, sync::Arc};

use engine::{
    ids::{InstallationId, JobId},
    intake::{self, Intake, WorkflowJob},
    labels::LabelSet,
};

use super::{Attempt, Body, Posted};
use crate::{
    register::{Fault, Rare},
    run::{Event, HOUR, MINUTE, SECOND, Sim},
};

impl Sim {
    pub(super) fn send_job(&mut self, id: i64, action: &'static str) {
        let Some(job) = self.github.jobs.get(&id) else { return };
        let account = job.account;
        let (started, ended) = (job.started, job.ended);
        let runner = job.runner.as_ref().map(|(_, name)| name.clone());
        let mut installation = Some(self.github.accounts[account].installation);
        if self.strikes(Fault::WebhookNoInstallation) {
            installation = None;
        } else if self.strikes(Fault::WebhookOldInstallation) {
            installation = installation.map(|real| wrong_installation(real, id));
        }
        let login = self.github.accounts[account].login.clone();
        self.send(account, Body::Job { action, job: id, installation, started, ended, runner, login });
    }

    pub(super) fn send(&mut self, account: usize, body: Body) {
        let entry = &self.github.accounts[account];
        let about_itself = matches!(body, Body::Installation { .. });
        if (entry.removed || entry.suspended) && !about_itself {
            return;
        }
        let guid = Arc::from(format!("guid-{}", self.github.next_id()));
        let app = self.app_of(account);
        self.github.log.push(Attempt {
            guid,
            app,
            at: self.now,
            body,
            over: false,
            ok: false,
            refused: false,
            again: false,
        });
        self.post(self.github.log.len() - 1);
    }

    pub(super) fn post(&mut self, attempt: usize) {
        self.github.under_way += 1;
        if let Some(posted) = self.posted(attempt) {
            posted.sent += 1;
            posted.open += 1;
        }
        let mut wait = self.rng.between(20, 800);
        if self.strikes(Fault::WebhookReordered) {
            wait += self.rng.between(SECOND, MINUTE);
        }
        if self.strikes(Fault::WebhookHoursLate) {
            wait += self.rng.between(HOUR / 2, 2 * HOUR);
        }
        if self.strikes(Fault::WebhookDuplicated) {
            let later = wait + self.rng.between(0, 20 * SECOND);
            self.after(later, Event::Deliver { attempt, counts: false });
        }
        self.after(wait, Event::Deliver { attempt, counts: true });
    }

    /// A delivery reaches ghfe, or does not. `counts`: it is the attempt itself, not a duplicate of it.
    pub(crate) fn deliver(&mut self, attempt: usize, counts: bool) {
        let status = if self.strikes(Fault::WebhookFailed) {
            None
        } else if self.strikes(Fault::WebhookBadSignature) {
            Some(401)
        } else if self.strikes(Fault::WebhookTruncated) {
            Some(400)
        } else {
            Some(self.ghfe(attempt))
        };
        let again = self.github.log[attempt].again;
        self.note("deliver", attempt as i64, status.map_or(0, i64::from), || format!("attempt {attempt}: {status:?}"));
        if counts {
            if again && status == Some(200) {
                self.counts.rare(Rare::Redelivered);
            }
            let wait = if status.is_some() { 50 } else { 10 * SECOND };
            self.after(wait, Event::Delivered { attempt, status: status.unwrap_or(0) });
        }
    }

    pub(crate) fn delivered(&mut self, attempt: usize, status: u16) {
        self.github.under_way -= 1;
        let entry = &mut self.github.log[attempt];
        entry.at = self.now;
        entry.over = true;
        entry.ok = status == 200;
        entry.refused = (400..500).contains(&status);
        let refused = u32::from(entry.refused);
        let ok = entry.ok;
        if ok || entry.refused {
            self.github.unanswered.remove(&entry.guid);
        } else {
            self.github.unanswered.insert(entry.guid.clone());
        }
        if ok {
            self.judge_delivered();
        }
        if let Some(posted) = self.posted(attempt) {
            posted.open -= 1;
            posted.refused += refused;
        }
    }

    /// Of a delivery that names its installation: without one nobody can serve the job.
    fn posted(&mut self, attempt: usize) -> Option<&mut Posted> {
        let Body::Job { job, installation: Some(_), .. } = &self.github.log[attempt].body else { return None };
        self.github.jobs.get_mut(job).map(|job| &mut job.posted)
    }

    /// What ghfe does with it: the engine's intake, and a commit.
    fn ghfe(&mut self, attempt: usize) -> u16 {
        let body = self.github.log[attempt].body.clone();
        match body {
            Body::Installation { action, installation } => match intake::installation(action) {
                Some(failure) => self.store_fails_installation(InstallationId(installation), failure),
                None => 200,
            },
            Body::Job { action, job, installation, started, ended, runner, login } => {
                let Some(known) = self.github.jobs.get(&job) else { return 200 };
                let account = &self.plan.world.account[known.account];
                let time = |at: i64| self.abs(at);
                let labels = spelled(&known.labels, job);
                let facts = WorkflowJob {
                    action,
                    job_id: Some(job),
                    html_url: Some(&known.url),
                    labels: labels.iter().map(AsRef::as_ref).collect(),
                    created_at: Some(time(known.created)),
                    started_at: started.map(time),
                    completed_at: ended.map(time),
                    runner_name: runner.as_deref(),
                    repo_id: Some(known.repo),
                    repo_full_name: Some(&known.repo_name),
                    owner_id: Some(account.id),
                    owner_login: Some(&login),
                    owner_type: Some(if account.user { "User" } else { "Organization" }),
                    installation_id: installation,
                };
                match intake::read(&facts, &self.policy, self.abs(self.now)) {
                    Ok(Intake::Record(row)) => {
                        let first = self.store.rows.job(JobId(job)).is_none();
                        if first && action == "completed" {
                            self.counts.rare(Rare::CompletedFirst);
                        }
                        if first && action == "in_progress" {
                            self.counts.rare(Rare::RunningFirst);
                        }
                        self.store_records(row)
                    }
                    Ok(Intake::Ignore(_)) => 200,
                    Err(_) => 400,
                }
            }
        }
    }
}

/// A job's labels as its workflow writes them: every other one in capitals, and in another order. To GitHub they are the same.
fn spelled(labels: &LabelSet, job: i64) -> Vec<Cow<'_, str>> {
    let mut spelled: Vec<Cow<'_, str>> = labels.iter().map(Cow::from).collect();
    if job % 2 != 0 {
        spelled.reverse();
        spelled.iter_mut().for_each(|label| *label = label.to_uppercase().into());
    }
    spelled
}

/// The installation that a delivery of this job names in place of the real one: an earlier one, or a later one that no App of
/// ours has (another App's, say).
pub fn wrong_installation(real: i64, job: i64) -> i64 {
    if job % 2 == 0 { real - 1 } else { real + 1_000_000 }
}
