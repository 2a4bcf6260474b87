//! GitHub over octocrab: both Apps, installation tokens, runner groups, every page of every listing.

mod http;
mod names;
mod wire;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use engine::{
    facts::{App, Delivery, GitHubAnswer, GitHubError, JobView, Minted, RunnerListing, RunnerScope, Worker},
    ids::{EntityType, InstallationId, JobId, RunnerId, Span, Time},
};
use futures::future::BoxFuture;
use secrecy::SecretString;
use serde_json::json;

pub use http::{AppKey, Caller};
use http::{As, Session};
use names::{Found, Names};
use wire::{Groups, Jit, JobBody, LogLine, Runners};

use crate::ports::{GitHub, JitConfig};

/// The runner group of organisations. The default group, 1, serves where creating one is refused.
pub const GROUP_NAME: &str = "RISE RISC-V Runners";
/// GitHub's id of every organisation's default group, and of the one group repositories have.
const DEFAULT_GROUP: i64 = 1;
/// Where groups are refused they are asked for again after so long: a plan may change, and one 404 may be a glitch.
const GROUPS_AGAIN: Span = Span::mins(10);
/// Runners of ours may be outside our group for as long as a call that would make one there may still have its effect.
const SETTLED: Span = Span::mins(2);
/// After so many listings of all runners that changed while they were read, our group's serves meanwhile where nothing says that
/// runners of ours are elsewhere: an organisation with many runners of its own may never hold still.
const TORN_TRIES: u32 = 3;
/// And all are listed again after so long: an earlier leader may have left some in the default group all the same.
const TORN_AGAIN: Span = Span::mins(5);
/// GitHub's largest page.
const PER_PAGE: usize = 100;
/// GitHub allows 10,000 runners in a group; a listing beyond that many pages is nonsense.
const MOST_PAGES: usize = 100;
/// Where a runner keeps its work, below its own folder.
const WORK_FOLDER: &str = "_work";

/// The production client.
pub struct GitHubClient {
    caller: Caller,
    /// Runner groups by organisation, lower-case.
    groups: Mutex<BTreeMap<String, GroupSlot>>,
    names: Names,
}

/// One organisation's runner group; locked while it is looked up, so that concurrent calls share that.
type GroupSlot = Arc<tokio::sync::Mutex<KnownGroup>>;

/// What is known of an organisation's runner groups.
struct KnownGroup {
    /// Ours, once it was found or made.
    ours: Option<i64>,
    /// Groups were refused, and are asked for again then. Until then the default group serves.
    refused_until: Option<Time>,
    /// Where runners of ours may be.
    spread: Spread,
}

/// Where an organisation's runners of ours may be. Unless they are all in our group, all runners of the organisation are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spread {
    /// Nobody has looked in this term: an earlier leader may have made them in the default group.
    Unknown {
        /// Since then.
        since: Time,
        /// Listings that changed while they were read.
        torn: u32,
        /// When the last of them was asked for.
        torn_at: Time,
    },
    /// In the default group too: it served then, or our group was deleted, by which its runners go there.
    Scattered(Time),
    /// All are in our group.
    Together,
}

impl GitHubClient {
    /// Calls through `caller`.
    pub fn new(caller: Caller) -> Arc<Self> {
        Arc::new(Self { caller, groups: Mutex::default(), names: Names::default() })
    }

    /// As whom calls about a scope are made, and by which name of its organisation.
    async fn session_about(&self, scope: &RunnerScope) -> (Session<'_>, RunnerScope) {
        let who = As::Installation(app_of(scope.entity_type), scope.installation);
        (self.caller.session(who), self.names.apply(scope).await)
    }

    fn group_slot(&self, org: &str) -> GroupSlot {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = || {
            let since = self.caller.now();
            let spread = Spread::Unknown { since, torn: 0, torn_at: since };
            KnownGroup { ours: None, refused_until: None, spread }
        };
        groups.entry(org.to_lowercase()).or_insert_with(|| Arc::new(tokio::sync::Mutex::new(unknown()))).clone()
    }

    /// Our group was deleted: it is looked up anew when it is next needed. Where groups are refused there was none to delete.
    async fn forget_group(&self, org: &str) {
        let slot = self.group_slot(org);
        let mut known = slot.lock().await;
        known.ours = None;
        known.spread = Spread::Scattered(self.caller.now());
    }

    /// Our runner group's id; created when it is missing. `None` where that is refused: the default group serves.
    async fn group(&self, session: &mut Session<'_>, org: &str) -> Result<Option<i64>, GitHubError> {
        let slot = self.group_slot(org);
        let mut known = slot.lock().await;
        let now = self.caller.now();
        if known.ours.is_some() {
            return Ok(known.ours);
        }
        if known.refused_until.is_some_and(|until| now < until) {
            // Whoever asks may make a runner there.
            known.spread = Spread::Scattered(now);
            return Ok(None);
        }
        let status = match self.find_or_make_group(session, org).await {
            Ok(id) => {
                (known.ours, known.refused_until) = (Some(id), None);
                return Ok(known.ours);
            }
            Err(GitHubError::Refused { status, .. }) => status,
            Err(GitHubError::NotFound) => 404,
            Err(error) => return Err(error),
        };
        if known.refused_until.is_none() {
            tracing::warn!(
                org,
                status,
                "runner groups are refused, or this installation does not serve the organisation; the default group \
                 serves, and they are asked for again in ten minutes"
            );
        }
        known.refused_until = Some(now + GROUPS_AGAIN);
        known.spread = Spread::Scattered(now);
        Ok(None)
    }

    async fn find_or_make_group(&self, session: &mut Session<'_>, org: &str) -> Result<i64, GitHubError> {
        let path = format!("/orgs/{org}/actions/runner-groups");
        if let Some(id) = self.find_group(session, &path).await? {
            return Ok(id);
        }
        let body = json!({ "name": GROUP_NAME, "visibility": "all", "allows_public_repositories": true });
        match session.post::<wire::Group>(&path, Some(&body)).await {
            Ok(group) => Ok(group.id),
            // Another scheduler created it meanwhile.
            Err(GitHubError::NameTaken) => self.find_group(session, &path).await?.ok_or(GitHubError::NotFound),
            Err(error) => Err(error),
        }
    }

    async fn find_group(&self, session: &mut Session<'_>, path: &str) -> Result<Option<i64>, GitHubError> {
        let mut path = format!("{path}?per_page={PER_PAGE}");
        for _ in 0..MOST_PAGES {
            let (groups, next) = session.get_page::<Groups>(&path).await?;
            if let Some(ours) = groups.runner_groups.iter().find(|group| group.name == GROUP_NAME) {
                return Ok(Some(ours.id));
            }
            match next {
                Some(next) => path = next,
                None => break,
            }
        }
        Ok(None)
    }

    async fn all_runners(&self, session: &mut Session<'_>, scope: &RunnerScope) -> Result<RunnerListing, GitHubError> {
        let asked_at = self.caller.now();
        let runners = match scope.entity_type {
            EntityType::Organization => self.org_runners(session, &scope.entity_name, asked_at).await?,
            EntityType::User => {
                let path = format!("{}/actions/runners", repo_path(scope.repo.as_deref())?);
                self.read_pages(session, &path).await?
            }
        };
        Ok(RunnerListing { asked_at, runners: runners.into_iter().map(wire::Runner::into_fact).collect() })
    }

    /// An organisation's runners, those of ours among them: our group's where ours are known to be there, or else all.
    async fn org_runners(
        &self,
        session: &mut Session<'_>,
        org: &str,
        asked_at: Time,
    ) -> Result<Vec<wire::Runner>, GitHubError> {
        let group = self.group(session, org).await?;
        let spread = self.group_slot(org).lock().await.spread;
        let in_group = match (group, spread) {
            (Some(group), Spread::Together) => Some(group),
            (Some(group), Spread::Unknown { torn, torn_at, .. })
                if torn >= TORN_TRIES && asked_at.since(torn_at) < TORN_AGAIN =>
            {
                Some(group)
            }
            _ => None,
        };
        let path = match in_group {
            Some(group) => format!("/orgs/{org}/actions/runner-groups/{group}/runners"),
            None => format!("/orgs/{org}/actions/runners"),
        };
        let runners = self.read_pages(session, &path).await;
        if matches!(runners, Err(GitHubError::NotFound)) {
            self.forget_group(org).await;
        } else if let (None, Some(group)) = (in_group, group) {
            self.note_spread(org, group, spread, asked_at, &runners).await;
        }
        runners
    }

    /// What a listing of all runners says of where ours are.
    async fn note_spread(
        &self,
        org: &str,
        group: i64,
        before: Spread,
        asked_at: Time,
        runners: &Result<Vec<wire::Runner>, GitHubError>,
    ) {
        let (Spread::Unknown { since, .. } | Spread::Scattered(since)) = before else { return };
        let after = match (runners, before) {
            (Ok(runners), _) if runners.iter().any(|runner| runner.is_outside(group)) => Spread::Scattered(since),
            (Ok(_), _) if asked_at.since(since) >= SETTLED => Spread::Together,
            (Err(GitHubError::Torn), Spread::Unknown { since, torn, .. }) => {
                Spread::Unknown { since, torn: torn.saturating_add(1), torn_at: asked_at }
            }
            _ => return,
        };
        let slot = self.group_slot(org);
        let mut known = slot.lock().await;
        // What another call has found out meanwhile is newer.
        if known.spread == before && known.ours == Some(group) {
            known.spread = after;
        }
    }

    /// Every page of a listing of runners, or an error when they are not of one piece.
    ///
    /// A runner that goes from an early page moves all later ones up by one, and the one at the next page's head is then
    /// on neither. So all pages but the last are read once more: as long as they are what they were, nothing has moved.
    async fn read_pages(&self, session: &mut Session<'_>, path: &str) -> Result<Vec<wire::Runner>, GitHubError> {
        let first = format!("{path}?per_page={PER_PAGE}");
        let (mut path, mut runners, mut pages) = (first, Vec::new(), Vec::new());
        let total = loop {
            let (part, next) = session.get_page::<Runners>(&path).await?;
            let ids: Vec<i64> = part.runners.iter().map(|runner| runner.id).collect();
            runners.extend(part.runners);
            match next {
                Some(next) if pages.len() < MOST_PAGES => pages.push((std::mem::replace(&mut path, next), ids)),
                Some(_) | None => break part.total_count,
            }
        };
        for (path, ids) in &pages {
            let (again, _) = session.get_page::<Runners>(path).await?;
            if !again.runners.iter().map(|runner| runner.id).eq(ids.iter().copied()) {
                return Err(GitHubError::Torn);
            }
        }
        if runners.len() < total { Err(GitHubError::Torn) } else { Ok(runners) }
    }

    async fn make_jit(
        &self,
        session: &mut Session<'_>,
        scope: &RunnerScope,
        worker: &Worker,
    ) -> Result<JitConfig, GitHubError> {
        let group = match scope.entity_type {
            EntityType::Organization => self.group(session, &scope.entity_name).await?.unwrap_or(DEFAULT_GROUP),
            EntityType::User => DEFAULT_GROUP,
        };
        let path = format!("{}/actions/runners/generate-jitconfig", scope_path(scope)?);
        let labels: Vec<&str> = worker.labels.iter().collect();
        let body = json!({
            "name": worker.name.as_str(), "runner_group_id": group, "labels": labels, "work_folder": WORK_FOLDER,
        });
        let made = session.post::<Jit>(&path, Some(&body)).await;
        if matches!(made, Err(GitHubError::NotFound)) && scope.entity_type == EntityType::Organization {
            self.forget_group(&scope.entity_name).await;
        }
        let jit = made?;
        let minted = Minted { runner: RunnerId(jit.runner.id) };
        Ok(JitConfig { minted, config: SecretString::from(jit.encoded_jit_config) })
    }

    async fn log_since(&self, session: &mut Session<'_>, since: Time) -> Result<Vec<Delivery>, GitHubError> {
        let mut path = format!("/app/hook/deliveries?per_page={PER_PAGE}");
        let mut found = Vec::new();
        for _ in 0..MOST_PAGES {
            let (lines, next) = session.get_page::<Vec<LogLine>>(&path).await?;
            let older = lines.iter().any(|line| line.at() < since);
            found.extend(lines.iter().filter(|line| line.at() >= since).map(LogLine::to_fact));
            match next {
                Some(next) if !older => path = next,
                Some(_) | None => return Ok(found),
            }
        }
        tracing::warn!(
            lines = found.len(),
            "the delivery log is longer than is read at once: what failed before these is not repeated"
        );
        Ok(found)
    }
}

/// `/repos/owner/name`, for a scope that has a repository.
fn repo_path(repo: Option<&str>) -> Result<String, GitHubError> {
    match repo {
        Some(repo) => Ok(format!("/repos/{repo}")),
        None => Err(GitHubError::Refused {
            status: 0,
            message: "a personal account's runner needs a repository".to_owned(),
        }),
    }
}

/// What the paths of calls about a scope begin with.
fn scope_path(scope: &RunnerScope) -> Result<String, GitHubError> {
    match scope.entity_type {
        EntityType::Organization => Ok(format!("/orgs/{}", scope.entity_name)),
        EntityType::User => repo_path(scope.repo.as_deref()),
    }
}

async fn delete(session: &mut Session<'_>, scope: &RunnerScope, id: RunnerId) -> Result<(), GitHubError> {
    session.delete(&format!("{}/actions/runners/{id}", scope_path(scope)?)).await
}

/// The App that serves accounts of this kind.
pub(crate) fn app_of(entity_type: EntityType) -> App {
    match entity_type {
        EntityType::Organization => App::Organization,
        EntityType::User => App::Personal,
    }
}

impl GitHub for GitHubClient {
    /// Another leader may have made runners in the default group.
    fn term_begins(&self) {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn job<'a>(
        &'a self,
        app: App,
        installation: InstallationId,
        repo: &'a str,
        job: JobId,
    ) -> BoxFuture<'a, GitHubAnswer<JobView>> {
        Box::pin(async move {
            let mut session = self.caller.session(As::Installation(app, installation));
            let result = session.get::<JobBody>(&format!("/repos/{repo}/actions/jobs/{job}")).await;
            let said_at = session.date();
            session.answer(result.map(|body| body.into_fact(said_at)))
        })
    }

    fn runners<'a>(&'a self, scope: &'a RunnerScope) -> BoxFuture<'a, GitHubAnswer<RunnerListing>> {
        Box::pin(async move {
            let (mut session, scope) = self.session_about(scope).await;
            let mut result = self.all_runners(&mut session, &scope).await;
            if let Found::Renamed(scope) = self.name_after(&scope, &result).await {
                result = self.all_runners(&mut session, &scope).await;
            }
            session.answer(result)
        })
    }

    fn mint<'a>(&'a self, worker: &'a Worker) -> BoxFuture<'a, GitHubAnswer<JitConfig>> {
        Box::pin(async move {
            let (mut session, scope) = self.session_about(&worker.scope()).await;
            let mut result = self.make_jit(&mut session, &scope, worker).await;
            if let Found::Renamed(scope) = self.name_after(&scope, &result).await {
                result = self.make_jit(&mut session, &scope, worker).await;
            }
            session.answer(result)
        })
    }

    fn delete_runner<'a>(&'a self, scope: &'a RunnerScope, id: RunnerId) -> BoxFuture<'a, GitHubAnswer<()>> {
        Box::pin(async move {
            let (mut session, scope) = self.session_about(scope).await;
            let mut result = delete(&mut session, &scope, id).await;
            let found = self.name_after(&scope, &result).await;
            if let Found::Renamed(scope) = &found {
                result = delete(&mut session, scope, id).await;
            }
            let result = match (result, found) {
                // The scope is called so, and does not know it: it is gone.
                (Err(GitHubError::NotFound), Found::Right | Found::Renamed(_)) => Ok(()),
                (Err(GitHubError::Refused { status: 422, .. }), _) => Err(GitHubError::RunnerBusy),
                (other, _) => other,
            };
            session.answer(result)
        })
    }

    fn deliveries(&self, app: App, since: Time) -> BoxFuture<'_, GitHubAnswer<Vec<Delivery>>> {
        Box::pin(async move {
            let mut session = self.caller.session(As::App(app));
            let result = self.log_since(&mut session, since).await;
            session.answer(result)
        })
    }

    fn redeliver(&self, app: App, delivery: i64) -> BoxFuture<'_, GitHubAnswer<()>> {
        Box::pin(async move {
            let mut session = self.caller.session(As::App(app));
            let result = session.post_empty(&format!("/app/hook/deliveries/{delivery}/attempts")).await;
            session.answer(result)
        })
    }
}
