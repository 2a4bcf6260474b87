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
    ids::{EntityId, EntityType, InstallationId, Span, Time},
};

use super::{GitHubClient, app_of, http::As, wire::Installation};

/// An answer of an installation serves for so long: an organisation that refuses all calls is not looked up for each of them.
const LOOKED_UP: Span = Span::mins(5);

/// What installations have told of organisations that were not found, or not shown, by the name they were asked for.
#[derive(Default)]
pub(super) struct Names(Mutex<BTreeMap<(InstallationId, EntityId), Slot>>);

/// One organisation's name; locked while it is looked up, so that concurrent calls share that.
type Slot = Arc<tokio::sync::Mutex<Option<Known>>>;

struct Known {
    /// What it is called; `None`: the installation is another account's.
    name: Option<Arc<str>>,
    /// When it told.
    at: Time,
}

/// What a call is to do about its scope's name after it found nothing.
#[derive(Debug)]
pub(super) enum Found {
    /// Its organisation is called otherwise: the call is to be made once more.
    Renamed(RunnerScope),
    /// It is called so, or calls name its repository: what is not found is not there.
    Right,
    /// Whether it is called so is not known: "not found" says nothing.
    Unknown,
}

impl Names {
    fn slot(&self, scope: &RunnerScope) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry((scope.installation, scope.entity)).or_default().clone()
    }

    /// The scope by the name that its organisation is known to have.
    pub async fn apply(&self, scope: &RunnerScope) -> RunnerScope {
        let key = (scope.installation, scope.entity);
        let slot = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let name = match slot {
            Some(slot) => slot.lock().await.as_ref().and_then(|known| known.name.clone()),
            None => None,
        };
        RunnerScope { entity_name: name.unwrap_or_else(|| scope.entity_name.clone()), ..scope.clone() }
    }
}

impl GitHubClient {
    /// What a call's result says of its scope's name. A lookup that fails leaves that open, and the result as it is.
    pub(super) async fn name_after<T: Sync>(&self, scope: &RunnerScope, result: &Result<T, GitHubError>) -> Found {
        // Whoever has taken the old name meanwhile says that we may not.
        let unknown = matches!(result, Err(GitHubError::NotFound | GitHubError::Refused { status: 403, .. }));
        if !unknown || scope.entity_type != EntityType::Organization {
            return Found::Right;
        }
        let slot = self.names.slot(scope);
        let mut known = slot.lock().await;
        let now = self.caller.now();
        let recent = known.as_ref().filter(|known| now.since(known.at) < LOOKED_UP);
        let (name, fresh) = match recent {
            Some(known) => (known.name.clone(), false),
            None => match self.look_up(scope).await {
                Ok(name) => {
                    *known = Some(Known { name: name.clone(), at: now });
                    (name, true)
                }
                Err(error) => {
                    tracing::info!(org = %scope.entity_name, ?error, "an organisation's name could not be asked for");
                    return Found::Unknown;
                }
            },
        };
        match name {
            Some(name) if !name.eq_ignore_ascii_case(&scope.entity_name) => {
                tracing::info!(from = %scope.entity_name, to = %name, "an organisation was renamed");
                Found::Renamed(RunnerScope { entity_name: name, ..scope.clone() })
            }
            // It may have been renamed since it was last looked up.
            Some(_) if fresh => Found::Right,
            Some(_) | None => Found::Unknown,
        }
    }

    /// What its organisation is called now, when the scope's installation is that one's.
    async fn look_up(&self, scope: &RunnerScope) -> Result<Option<Arc<str>>, GitHubError> {
        // The App asks: its calls are no part of the installation's hour.
        let mut session = self.caller.session(As::App(app_of(scope.entity_type)));
        let installation = session.get::<Installation>(&format!("/app/installations/{}", scope.installation)).await?;
        Ok(installation.login_of(scope.entity).map(Arc::from))
    }
}
