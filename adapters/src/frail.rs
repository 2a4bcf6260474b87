//! For tests: a world without jobs in which GitHub and the cluster do not answer, and one part fails as it never should.

use std::sync::Arc;

use engine::{
    decision::JobFailure,
    facts::{
        App, ClusterError, Delivery, GitHubAnswer, GitHubError, Job, JobView, Pod, PodListing, RunnerListing,
        RunnerScope, StoreError, Worker, Written,
    },
    ids::{Epoch, InstallationId, JobId, PodUid, Realm, RunnerId, Span, Time, WorkerName},
    policy::Policy,
};
use futures::{
    future::BoxFuture,
    stream::{self, BoxStream, StreamExt},
};
use secrecy::SecretString;

use crate::{
    notices::Notices,
    ports::{
        Changes, Cluster, ClusterEvent, Cursor, GitHub, HistoryPage, HistoryQuery, JitConfig, Lease, Store, StoreWrite,
        Usage,
    },
    scheduler::{Health, Scheduler},
};

/// What panics.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Panics {
    Recording,
    Reading,
    Renewing,
    Watching,
    Deciding,
}

/// Everything outside a scheduler or ghfe.
pub struct Frail(pub Panics);

fn no<'a, T: Send + 'a, E: Send + 'a>(error: E) -> BoxFuture<'a, Result<T, E>> {
    Box::pin(std::future::ready(Err(error)))
}

fn away<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, StoreError>> {
    no(StoreError::Unavailable { message: "away".to_owned() })
}

fn unanswered<'a, T: Send + 'a>() -> BoxFuture<'a, GitHubAnswer<T>> {
    let result = Err(GitHubError::Unavailable { message: "away".to_owned() });
    Box::pin(std::future::ready(GitHubAnswer { result, budget: None, calls: 1 }))
}

fn silent<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, ClusterError>> {
    no(ClusterError::Unavailable { message: "away".to_owned() })
}

impl Frail {
    /// A scheduler in such a world.
    pub fn scheduler(panics: Panics) -> Scheduler {
        let frail = Arc::new(Self(panics));
        Scheduler {
            store: frail.clone(),
            github: frail.clone(),
            cluster: frail.clone(),
            policy: Arc::new(Policy::bare(Realm::Prod)),
            clock: crate::ports::system_clock(),
            holder: "test".to_owned(),
            seed: Arc::new(|| 1),
            health: Arc::new(Health::default()),
            inspect: Some(Arc::new(move |_, _, _, _| frail.fail_if(Panics::Deciding))),
        }
    }

    fn fail_if(&self, part: Panics) {
        assert!(self.0 != part, "on purpose");
    }
}

impl Store for Frail {
    fn record(&self, _: Vec<Job>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.fail_if(Panics::Recording);
        away()
    }

    fn fail_installation(
        &self,
        _: InstallationId,
        _: JobFailure,
        _: Time,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        away()
    }

    fn acquire<'a>(&'a self, _: &'a str, _: Span) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        Box::pin(std::future::ready(Ok(Some(Lease::granted(Epoch(1))))))
    }

    fn renew<'a>(&'a self, _: &'a Lease, _: Span) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.fail_if(Panics::Renewing);
        Box::pin(std::future::ready(Ok(true)))
    }

    fn release<'a>(&'a self, _: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        away()
    }

    fn changes(&self, _: Option<Cursor>) -> BoxFuture<'_, Result<Changes, StoreError>> {
        self.fail_if(Panics::Reading);
        let nothing = Changes { jobs: Vec::new(), workers: Vec::new(), cursor: Cursor(1) };
        Box::pin(std::future::ready(Ok(nothing)))
    }

    fn write<'a>(&'a self, _: &'a Lease, _: Vec<StoreWrite>) -> BoxFuture<'a, Result<Vec<Written>, StoreError>> {
        away()
    }

    fn wakes(&self) -> BoxStream<'static, ()> {
        stream::pending().boxed()
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, StoreError>> {
        away()
    }

    fn history(&self, _: HistoryQuery) -> BoxFuture<'_, Result<HistoryPage, StoreError>> {
        away()
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        away()
    }
}

impl GitHub for Frail {
    fn term_begins(&self) {}

    fn job<'a>(&'a self, _: App, _: InstallationId, _: &'a str, _: JobId) -> BoxFuture<'a, GitHubAnswer<JobView>> {
        unanswered()
    }

    fn runners<'a>(&'a self, _: &'a RunnerScope) -> BoxFuture<'a, GitHubAnswer<RunnerListing>> {
        unanswered()
    }

    fn mint<'a>(&'a self, _: &'a Worker) -> BoxFuture<'a, GitHubAnswer<JitConfig>> {
        unanswered()
    }

    fn delete_runner<'a>(&'a self, _: &'a RunnerScope, _: RunnerId) -> BoxFuture<'a, GitHubAnswer<()>> {
        unanswered()
    }

    fn deliveries(&self, _: App, _: Time) -> BoxFuture<'_, GitHubAnswer<Vec<Delivery>>> {
        unanswered()
    }

    fn redeliver(&self, _: App, _: i64) -> BoxFuture<'_, GitHubAnswer<()>> {
        unanswered()
    }
}

impl Cluster for Frail {
    fn watch(&self, _: Arc<Notices>) -> BoxStream<'static, ClusterEvent> {
        self.fail_if(Panics::Watching);
        stream::pending().boxed()
    }

    fn list_pods(&self) -> BoxFuture<'_, Result<PodListing, ClusterError>> {
        silent()
    }

    fn create_pod<'a>(&'a self, _: &'a Worker) -> BoxFuture<'a, Result<Pod, ClusterError>> {
        silent()
    }

    fn create_secret<'a>(
        &'a self,
        _: &'a WorkerName,
        _: &'a PodUid,
        _: &'a SecretString,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        silent()
    }

    fn delete_pod<'a>(&'a self, _: &'a WorkerName, _: &'a PodUid) -> BoxFuture<'a, Result<(), ClusterError>> {
        silent()
    }

    fn diagnose<'a>(&'a self, _: &'a WorkerName, _: &'a PodUid) -> BoxFuture<'a, serde_json::Value> {
        Box::pin(std::future::ready(serde_json::Value::Null))
    }
}
