//! What organisations are called now.
//!
//! Calls about a repository are sent on to where it has moved. An organisation that was renamed is not found by its old name,
//! and rows may name no other for as long as nobody queues a job: what its installation says it is called counts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use engine::{
    facts::{GitHubError, RunnerScope},
    ids::{EntityType, InstallationId},
};

use super::{GitHubClient, app_of, http::As, wire::Installation};

/// Names that installations have told, of organisations that were not found by the one they were asked for.
#[derive(Default)]
pub(super) struct Names(Mutex<BTreeMap<InstallationId, Arc<str>>>);

impl Names {
    /// The scope by the name that its organisation is known to have.
    pub fn apply(&self, scope: &RunnerScope) -> RunnerScope {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(&scope.installation) {
            Some(name) if scope.entity_type == EntityType::Organization => {
                RunnerScope { entity_name: name.clone(), ..scope.clone() }
            }
            Some(_) | None => scope.clone(),
        }
    }

    fn note(&self, installation: InstallationId, name: Arc<str>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(installation, name);
    }
}

impl GitHubClient {
    /// The scope by its organisation's new name, where the call about it found nothing by the one that was known: it is to be
    /// made once more. What its installation could not be asked for is the call's result.
    pub(super) async fn renamed<T: Send>(
        &self,
        scope: &RunnerScope,
        result: &mut Result<T, GitHubError>,
    ) -> Option<RunnerScope> {
        // Whoever has taken the old name meanwhile says that we may not.
        if !matches!(result, Err(GitHubError::NotFound | GitHubError::Refused { status: 403, .. })) {
            return None;
        }
        match self.look_up(scope).await {
            Ok(renamed) => renamed,
            Err(error) => {
                *result = Err(error);
                None
            }
        }
    }

    /// The scope by its organisation's new name, if that has another one than `scope` says.
    async fn look_up(&self, scope: &RunnerScope) -> Result<Option<RunnerScope>, GitHubError> {
        if scope.entity_type != EntityType::Organization {
            return Ok(None);
        }
        // The App asks: its calls are no part of the installation's hour.
        let mut session = self.caller.session(As::App(app_of(scope.entity_type)));
        let path = format!("/app/installations/{}", scope.installation);
        let installation = match session.get::<Installation>(&path).await {
            Err(GitHubError::NotFound) => return Err(GitHubError::InstallationGone),
            other => other?,
        };
        // An installation of another account's was named wrongly, and says nothing of this one.
        let other = |name: &&str| !name.eq_ignore_ascii_case(&scope.entity_name);
        let Some(name) = installation.login_of(scope.entity).filter(other) else { return Ok(None) };
        tracing::info!(from = %scope.entity_name, to = name, "an organisation was renamed");
        let name: Arc<str> = name.into();
        self.names.note(scope.installation, name.clone());
        Ok(Some(RunnerScope { entity_name: name, ..scope.clone() }))
    }
}
