//! The whole service in one test: signed webhooks into the real router, real Postgres, models for the rest, and a clock
//! that moves only when the test says so.
//!
//! ```ignore
//! run_test(World::new().nodes("scw-em-rv1", 2), async |ctx| {
//!     ctx.queue(1, REPO, &["ubuntu-24.04-riscv"], Span::mins(3));
//!     ctx.until("it runs", Span::mins(1), async |ctx| ctx.job(1).await.status == Status::Running).await
//! })
//! ```
//!
//! Every decision is held against `engine::check`. At the end nothing may have been called that the models do not serve,
//! and nothing refused that was not expected.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use adapters::{
    config,
    ports::{HistoryQuery, Store},
    postgres::PgStore,
};
use bytes::Bytes;
use engine::{
    facts::{Job, Worker},
    ids::{JobId, Realm, Span, Time},
    policy::Policy,
};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::{postgres, rows::START};
use crate::{
    harness::{Error, Models, Service, Setup, WEBHOOK_SECRET, signature},
    world::{
        github::{AccountKind, GitHub},
        kubernetes::Cluster,
    },
};

/// An organisation's repository that every world has: (id, `owner/name`, owner id).
pub const REPO: i64 = 101;
/// Its owner.
pub const ORG: i64 = 7;
/// A personal account's repository that every world has.
pub const OWN_REPO: i64 = 201;
/// Its owner.
pub const USER: i64 = 8;
/// How far the clock moves at once while a test waits: finer than any timeout.
const STEP: Span = Span(500);
/// What a quiet service may take in real time to become quiet, before the test gives up.
const SETTLE: Duration = Duration::from_secs(30);

/// A test's world before it starts.
pub struct World {
    /// GitHub, with [`ORG`] and [`USER`] and a repository of each.
    pub github: GitHub,
    /// The cluster, without nodes.
    pub cluster: Cluster,
    /// The built-in policy.
    pub policy: Policy,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Two accounts and no nodes.
    pub fn new() -> Self {
        let mut github = GitHub::new(1);
        github.add_account(AccountKind::Organization, ORG, "an-org", 507);
        github.add_repo(REPO, ORG, "an-org/repo");
        github.add_account(AccountKind::User, USER, "a-user", 508);
        github.add_repo(OWN_REPO, USER, "a-user/own");
        // What the built-in file says is held to the specification elsewhere.
        let policy = config::built_in(Realm::Prod).map_or_else(|_| Policy::bare(Realm::Prod), |(policy, _)| policy);
        Self { github, cluster: Cluster::new(1), policy }
    }

    /// Adds nodes of one board, each for one runner.
    pub fn nodes(mut self, board: &str, count: usize) -> Self {
        for i in 0..count {
            self.cluster.set_node(&format!("{board}-{i}"), board, 1, START);
        }
        self
    }

    /// Caps one owner.
    pub fn cap(mut self, owner: i64, max_workers: u32) -> Self {
        let entry = engine::policy::OwnerPolicy {
            name: "capped".to_owned(),
            max_workers: Some(max_workers),
            staging: engine::policy::Staging::No,
        };
        self.policy.owners.insert(engine::ids::OwnerId(owner), entry);
        self
    }
}

/// A running test.
pub struct Ctx {
    /// The models, with their levers.
    pub models: Models,
    /// The store.
    pub store: Arc<PgStore>,
    /// The service.
    pub service: Service,
    clock: Arc<AtomicI64>,
    expected: BTreeSet<(&'static str, &'static str, u16)>,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// Runs a test against a world of its own.
///
/// # Panics
/// When the test fails, when something was called that no model serves, or refused and not expected.
pub fn run_test(world: World, test: impl AsyncFnOnce(&mut Ctx) -> Result<(), Error>) {
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => panic!("no runtime: {error}"),
    };
    let result = runtime.block_on(async {
        let mut ctx = Ctx::start(world).await?;
        let result = test(&mut ctx).await;
        let state = ctx.state().await;
        let unexpected = ctx.unexpected();
        let (decisions, checked) = (ctx.service.health.status(ctx.now()).decisions, ctx.service.checked());
        let violations = ctx.service.violations();
        ctx.service.stop().await?;
        if checked == 0 || checked < decisions {
            return Err(format!("of {decisions} decisions only {checked} were held against engine::check").into());
        }
        if !violations.is_empty() {
            return Err(format!("decisions that may never be made: {violations:#?}\n{state}").into());
        }
        result.map_err(|error| format!("{error}\n{state}"))?;
        if unexpected.is_empty() { Ok::<(), Error>(()) } else { Err(format!("refused: {unexpected:#?}").into()) }
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

impl Ctx {
    async fn start(world: World) -> Result<Self, Error> {
        let clock = Arc::new(AtomicI64::new(START.0));
        let read = clock.clone();
        let store = PgStore::connect(&postgres::database().await, Realm::Prod).await?;
        let read: adapters::ports::Clock = Arc::new(move || Time(read.load(Ordering::Relaxed)));
        let mut models = Models::start(world.github, world.cluster, read).await?;
        let (_, pods) = config::built_in(Realm::Prod)?;
        let setup = Setup {
            store: store.clone(),
            policy: world.policy,
            pods,
            listen: None,
            capture: None,
            seed: 1,
            check: true,
        };
        let service = Service::start(&models, setup).await?;
        models.deliver_to(format!("http://{}/", service.ghfe));
        let http = Client::builder(TokioExecutor::new()).build_http();
        let ctx = Self { models, store, service, clock, expected: BTreeSet::new(), http };
        ctx.settle().await?;
        Ok(ctx)
    }

    /// The world's time.
    pub fn now(&self) -> Time {
        Time(self.clock.load(Ordering::Relaxed))
    }

    /// Refusals of this kind are part of the test: method, route as the models name it, status.
    pub fn expect_refusal(&mut self, method: &'static str, route: &'static str, status: u16) {
        self.expected.insert((method, route, status));
    }

    fn unexpected(&self) -> Vec<(String, String, u16)> {
        let all = [self.models.github.faults.refusals(), self.models.cluster.faults.refusals()];
        let known = |(method, route, status): &(String, String, u16)| {
            self.expected.iter().any(|it| it.0 == method && it.1 == route && it.2 == *status)
        };
        all.into_iter().flatten().map(|(refusal, _)| refusal).filter(|refusal| !known(refusal)).collect()
    }

    /// Queues a job on GitHub; it runs for `duration` once a runner takes it.
    pub fn queue(&self, id: i64, repo: i64, labels: &[&str], duration: Span) {
        self.models.github.with(|github, now| github.queue_job(id, repo, labels, duration, now));
    }

    /// Looks at GitHub or changes it.
    pub fn github<T>(&self, act: impl FnOnce(&mut GitHub, Time) -> T) -> T {
        self.models.github.with(act)
    }

    /// Looks at the cluster or changes it.
    pub fn cluster<T>(&self, act: impl FnOnce(&mut Cluster, Time) -> T) -> T {
        self.models.cluster.with(act)
    }

    /// Moves time on, and waits until everybody has done what is then to do.
    pub async fn pass(&self, span: Span) -> Result<(), Error> {
        let end = self.now() + span;
        while self.now() < end {
            let step = Span(end.since(self.now()).0.min(STEP.0));
            self.clock.fetch_add(step.0, Ordering::Relaxed);
            self.settle().await?;
        }
        Ok(())
    }

    /// Lets time pass until `condition` holds.
    ///
    /// # Errors
    /// It did not within `limit` of the world's time.
    pub async fn until(
        &mut self,
        what: &str,
        limit: Span,
        mut condition: impl AsyncFnMut(&mut Ctx) -> bool,
    ) -> Result<Span, Error> {
        let begun = self.now();
        loop {
            if condition(self).await {
                return Ok(self.now().since(begun));
            }
            if self.now().since(begun) >= limit {
                return Err(format!("not within {limit}: {what}").into());
            }
            self.pass(STEP).await?;
        }
    }

    /// Waits until nothing is left to do at this moment: the world has moved, every delivery is answered, the scheduler
    /// has looked at all of it, and no call is under way.
    pub async fn settle(&self) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + SETTLE;
        let mut quiet = 0;
        let mut seen = self.fingerprint();
        // A round's reading may have begun before the round did, but after the round before it; and what was written in that
        // one was written before it was found quiet.
        while quiet < 3 {
            if !self.service.violations().is_empty() {
                return Err("a decision was made that may never be made".into());
            }
            if tokio::time::Instant::now() > deadline {
                return Err("the service did not come to rest".into());
            }
            self.models.step();
            self.turn().await?;
            let now = self.fingerprint();
            let resting = self.service.health.status(self.now()).under_way == 0
                && self.models.github.with(|github, _| github.log.iter().all(|delivery| delivery.over));
            quiet = if resting && now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
        Ok(())
    }

    fn fingerprint(&self) -> (u64, u64, u64, usize) {
        let calls = self.models.github.faults.count() + self.models.cluster.faults.count();
        let version = self.models.cluster.with(|cluster, _| cluster.version());
        let log = self.models.github.with(|github, _| github.log.len());
        (calls, version, self.service.health.status(self.now()).actions, log)
    }

    /// Has the scheduler read the store and decide once more.
    async fn turn(&self) -> Result<(), Error> {
        let before = self.service.health.status(self.now());
        let read = self.service.health.readings();
        sqlx::query("SELECT pg_notify('prod_queue_event', '')").execute(self.store.pool()).await?;
        if !before.leading {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return Ok(());
        }
        // The reading it asks for, and a decision on it, follow at once; a lost notification costs one round.
        let patience = tokio::time::Instant::now() + Duration::from_millis(500);
        while self.service.health.readings() == read {
            if tokio::time::Instant::now() > patience {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// A second ghfe and a second scheduler on the same store, as in production: from now on both take deliveries, and one
    /// of the two leads.
    pub async fn replica(&mut self) -> Result<Service, Error> {
        let (policy, pods) = config::built_in(Realm::Prod)?;
        let store = self.store.clone();
        let setup = Setup { store, policy, pods, listen: None, capture: None, seed: 2, check: true };
        let service = Service::start(&self.models, setup).await?;
        self.models.deliver_to(format!("http://{}/", service.ghfe));
        Ok(service)
    }

    /// A job's row.
    ///
    /// # Panics
    /// When there is none.
    pub async fn job(&self, id: i64) -> Job {
        match self.jobs().await.into_iter().find(|job| job.id == JobId(id)) {
            Some(job) => job,
            None => panic!("no row for job {id}"),
        }
    }

    /// Every job's row.
    pub async fn jobs(&self) -> Vec<Job> {
        let query = HistoryQuery { start: None, end: None, page: 0, per_page: 1000 };
        self.store.history(query).await.map_or_else(|error| panic!("{error:?}"), |page| page.jobs)
    }

    /// Every worker's row that is active or ended within a day of real time.
    pub async fn workers(&self) -> Vec<Worker> {
        let names: Vec<(String, String, Option<String>)> = sqlx::query_as(
            "SELECT pod_name, status::text, failure_info ->> 'reason' FROM workers ORDER BY created_at, pod_name",
        )
        .fetch_all(self.store.pool())
        .await
        .unwrap_or_else(|error| panic!("{error}"));
        let active = self.store.usage().await.map_or_else(|error| panic!("{error:?}"), |usage| usage.workers);
        let made = |(name, status, failure): (String, String, Option<String>)| {
            let known = active.iter().find(|worker| worker.name.as_str() == name).cloned();
            known.unwrap_or_else(|| Worker {
                status: engine::facts::Status::parse(&status).unwrap_or(engine::facts::Status::Failed),
                failure: failure.as_deref().and_then(engine::decision::WorkerFailure::parse),
                ..super::rows::worker(&name, 0)
            })
        };
        names.into_iter().map(made).collect()
    }

    /// Posts one delivery, signed, straight to ghfe; the answer's status and text.
    pub async fn post(&self, event: &str, body: &str) -> Result<(u16, String), Error> {
        self.post_to(&self.service, event, body).await
    }

    /// The same, to another replica's.
    pub async fn post_to(&self, service: &Service, event: &str, body: &str) -> Result<(u16, String), Error> {
        let request = http::Request::post(format!("http://{}/", service.ghfe))
            .header("x-github-event", event)
            .header("x-github-delivery", "test")
            .header("x-hub-signature-256", signature(WEBHOOK_SECRET, body.as_bytes()))
            .body(Full::new(Bytes::from(body.to_owned())))?;
        self.answer(request).await
    }

    /// What the scheduler says a job is waiting for.
    pub async fn why(&self, id: i64) -> Result<String, Error> {
        let (status, text) = self.ask_scheduler(&format!("/jobs/{id}/why")).await?;
        if status != 200 {
            return Err(format!("{status}: {text}").into());
        }
        let value: serde_json::Value = serde_json::from_str(&text)?;
        Ok(value["waiting_on"].as_str().unwrap_or_default().to_owned())
    }

    /// What the scheduler answers to a GET of this path: status and text.
    pub async fn ask_scheduler(&self, path: &str) -> Result<(u16, String), Error> {
        let url = format!("http://{}{path}", self.service.scheduler);
        self.answer(http::Request::get(url).body(Full::default())?).await
    }

    /// What ghfe answers to a GET of this path: status and text.
    pub async fn ask_ghfe(&self, path: &str) -> Result<(u16, String), Error> {
        let url = format!("http://{}{path}", self.service.ghfe);
        self.answer(http::Request::get(url).body(Full::default())?).await
    }

    async fn answer(&self, request: http::Request<Full<Bytes>>) -> Result<(u16, String), Error> {
        let response = self.http.request(request).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Everything, for a failing test's message.
    async fn state(&self) -> String {
        let jobs: Vec<String> =
            self.jobs().await.iter().map(|job| format!("{} {:?} {:?}", job.id, job.status, job.assignment)).collect();
        let workers: Vec<String> =
            self.workers().await.iter().map(|it| format!("{} {:?} {:?}", it.name, it.status, it.failure)).collect();
        let now = self.now().since(START);
        let calls = self.models.github.faults.calls();
        format!("after {now}\njobs {jobs:#?}\nworkers {workers:#?}\ncalls {calls:#?}")
    }
}
