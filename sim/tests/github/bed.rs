//! What a test of the GitHub port stands on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use adapters::{
    github::{AppKey, Caller, GitHubClient},
    ports::Clock,
};
use engine::{
    facts::{RunnerScope, Worker},
    ids::{EntityId, EntityType, InstallationId, OwnerId, Span, Time},
};
use jsonwebtoken::EncodingKey;
use sim::{
    credentials::{APPS, ModelKey},
    harness::Models,
    http::faults::Faults,
    testing::rows::{START, worker},
    world::{
        github::{AccountKind, GitHub},
        kubernetes::Cluster,
    },
};
use tokio::time::timeout;

/// An organisation, its installation, and a repository of it.
pub const ORG: (i64, i64, i64) = (7, 507, 101);
/// A personal account, its installation, and a repository of it.
pub const USER: (i64, i64, i64) = (8, 508, 201);
pub const TOKENS: &str = "/app/installations/{id}/access_tokens";
pub const GROUPS: &str = "/orgs/{org}/actions/runner-groups";
pub const JOB: &str = "/repos/{owner}/{repo}/actions/jobs/{id}";
pub const JIT: &str = "/orgs/{org}/actions/runners/generate-jitconfig";

/// The model, and the production client of it.
pub struct Bed {
    pub models: Models,
    pub github: Arc<GitHubClient>,
    now: Arc<AtomicI64>,
}

/// Runs one test.
pub fn test(run: impl AsyncFnOnce(&Bed)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bed = Bed::new().await;
        timeout(Duration::from_secs(60), run(&bed)).await.expect("the test is over in time");
    });
}

impl Bed {
    async fn new() -> Self {
        let now = Arc::new(AtomicI64::new(START.0));
        let mut github = GitHub::new(1);
        github.add_account(AccountKind::Organization, ORG.0, "an-org", ORG.1);
        github.add_repo(ORG.2, ORG.0, "an-org/repo");
        github.add_account(AccountKind::User, USER.0, "a-user", USER.1);
        github.add_repo(USER.2, USER.0, "a-user/own");
        let read = now.clone();
        let clock: Clock = Arc::new(move || Time(read.load(Ordering::Relaxed)));
        let models = Models::start(github, Cluster::new(1), clock).await.unwrap();
        let github = models.github_client().unwrap();
        Self { models, github, now }
    }

    pub fn pass(&self, span: Span) {
        self.now.fetch_add(span.0, Ordering::Relaxed);
        self.models.step();
    }

    pub fn now(&self) -> Time {
        Time(self.now.load(Ordering::Relaxed))
    }

    pub fn with<T>(&self, act: impl FnOnce(&mut GitHub, Time) -> T) -> T {
        self.models.github.with(act)
    }

    pub fn faults(&self) -> &Faults {
        &self.models.github.faults
    }

    /// How often a route was called.
    pub fn calls(&self, method: &str, route: &str) -> u64 {
        self.faults().calls().get(&(method.to_owned(), route.to_owned())).copied().unwrap_or(0)
    }

    /// Another client, with a clock that is apart by `skew`, and keys of its own choice.
    pub fn client(&self, skew: Span, keys: (&ModelKey, &ModelKey)) -> Arc<GitHubClient> {
        let url = format!("http://{}", self.models.github_addr);
        let crab = octocrab::OctocrabBuilder::new().base_uri(url).unwrap().build().unwrap();
        let key = |key: &ModelKey, id| AppKey { id, key: EncodingKey::from_rsa_pem(key.pem.as_bytes()).unwrap() };
        let read = self.now.clone();
        let clock: Clock = Arc::new(move || Time(read.load(Ordering::Relaxed)) + skew);
        GitHubClient::new(Caller::new(crab, clock, key(keys.0, APPS.0), key(keys.1, APPS.1)))
    }
}

/// A worker of the organisation.
pub fn org_worker(name: &str) -> Worker {
    Worker {
        entity: EntityId(ORG.0),
        entity_name: "an-org".into(),
        owner: OwnerId(ORG.0),
        installation: InstallationId(ORG.1),
        ..worker(name, ORG.0)
    }
}

/// A worker of the personal account's repository.
pub fn user_worker(name: &str) -> Worker {
    Worker {
        entity: EntityId(USER.2),
        entity_name: "a-user".into(),
        entity_type: EntityType::User,
        owner: OwnerId(USER.0),
        installation: InstallationId(USER.1),
        repo: Some("a-user/own".into()),
        ..worker(name, USER.0)
    }
}

pub fn org_scope() -> RunnerScope {
    org_worker("any").scope()
}

pub fn user_scope() -> RunnerScope {
    user_worker("any").scope()
}
