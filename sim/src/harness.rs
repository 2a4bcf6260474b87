//! The models on loopback, and the production service beside them: for the demo, and for end-to-end tests.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use adapters::{
    ghfe::{Capture, Ghfe, Readers, Room, Verifier},
    github::{AppKey, Caller, GitHubClient},
    ingest::Ingest,
    kubernetes::{KubernetesClient, PodSettings},
    ports::{Clock, Store},
    scheduler::{Broken, Health, Inspect, Scheduler},
};
use base64::Engine as _;
use bytes::Bytes;
use engine::{
    check::{Violation, check},
    policy::Policy,
};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use secrecy::SecretString;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    credentials::APPS,
    http::{
        github::{self, GitHubFace, RegisteredApp},
        kubernetes::{self, KubernetesFace},
        tls::TlsListener,
    },
    world::{
        github::{AccountKind, GitHub, Outgoing},
        kubernetes::Cluster,
        runners::Runners,
    },
};

pub use crate::credentials::{Error, ModelKey, TOKEN, WEBHOOK_SECRET, signature};

/// The world moves on this often.
const STEP: Duration = Duration::from_millis(10);
/// GitHub gives a delivery this long.
const DELIVERY_LIMIT: Duration = Duration::from_secs(10);
/// Deliveries under way at once.
const DELIVERIES: usize = 32;

/// Tasks that end with their owner.
#[derive(Default)]
pub struct Tasks(Vec<JoinHandle<()>>);

impl Tasks {
    fn add(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(task));
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// The models, served.
pub struct Models {
    /// GitHub.
    pub github: Arc<GitHubFace>,
    /// Where its REST API is.
    pub github_addr: SocketAddr,
    /// The cluster.
    pub cluster: Arc<KubernetesFace>,
    /// Where its API is.
    pub cluster_addr: SocketAddr,
    /// The certificate, in PEM form, that the cluster's clients must trust.
    pub cluster_certificate: String,
    /// The two Apps' keys: organisations, personal accounts.
    pub keys: (ModelKey, ModelKey),
    /// The wall clock everybody reads.
    pub clock: Clock,
    runners: Arc<Mutex<Runners>>,
    tasks: Tasks,
}

/// Lets everything happen in the world that is due.
fn step(runners: &Mutex<Runners>, cluster: &KubernetesFace, github: &GitHubFace) {
    let mut runners = runners.lock().unwrap_or_else(PoisonError::into_inner);
    cluster.with(|cluster, now| github.with(|github, at_github| runners.step((cluster, now), (github, at_github))));
}

async fn bind(listen: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(listen).await.map_err(|error| format!("cannot listen on {listen}: {error}").into())
}

/// Serves a router on a loopback port of the system's choice.
async fn serve(tasks: &mut Tasks, listen: SocketAddr, router: axum::Router) -> Result<SocketAddr, Error> {
    let listener = bind(listen).await?;
    let addr = listener.local_addr()?;
    tasks.add(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "a server ended");
        }
    });
    Ok(addr)
}

/// The same over TLS; with it, the certificate that clients must trust.
async fn serve_tls(tasks: &mut Tasks, listen: SocketAddr, router: axum::Router) -> Result<(SocketAddr, String), Error> {
    let listener = bind(listen).await?;
    let addr = listener.local_addr()?;
    let (listener, certificate) = TlsListener::new(listener)?;
    tasks.add(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "a server ended");
        }
    });
    Ok((addr, certificate))
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Models {
    /// Serves both models on loopback, and lets their world move.
    pub async fn start(github: GitHub, cluster: Cluster, clock: Clock) -> Result<Self, Error> {
        let keys = (ModelKey::generate()?, ModelKey::generate()?);
        let apps = vec![
            RegisteredApp { id: APPS.0, kind: AccountKind::Organization, public_key: keys.0.public.clone() },
            RegisteredApp { id: APPS.1, kind: AccountKind::User, public_key: keys.1.public.clone() },
        ];
        let github = GitHubFace::new(github, clock.clone(), apps);
        let cluster = KubernetesFace::new(cluster, clock.clone(), TOKEN);
        let mut tasks = Tasks::default();
        let github_addr = serve(&mut tasks, loopback(), github::router(github.clone())).await?;
        let (cluster_addr, cluster_certificate) =
            serve_tls(&mut tasks, loopback(), kubernetes::router(cluster.clone())).await?;
        let runners = Arc::new(Mutex::new(Runners::default()));
        let (moving, moving_github, moving_cluster) = (runners.clone(), github.clone(), cluster.clone());
        tasks.add(async move {
            loop {
                step(&moving, &moving_cluster, &moving_github);
                sleep(STEP).await;
            }
        });
        Ok(Self { github, github_addr, cluster, cluster_addr, cluster_certificate, keys, clock, runners, tasks })
    }

    /// Lets everything happen now that is due, without waiting for the world's own next step.
    pub fn step(&self) {
        step(&self.runners, &self.cluster, &self.github);
    }

    /// Which pods, by uid, have used each JIT configuration.
    pub fn jit_uses(&self) -> BTreeMap<String, Vec<String>> {
        self.runners.lock().unwrap_or_else(PoisonError::into_inner).used.clone()
    }

    /// Sends what happens to `url`, signed, from now on. Several receivers share the deliveries.
    pub fn deliver_to(&mut self, url: String) {
        self.deliver_signed(url, WEBHOOK_SECRET.to_owned());
    }

    /// The same, signed with a secret of the caller's.
    pub fn deliver_signed(&mut self, url: String, secret: String) {
        self.tasks.add(deliver(self.github.clone(), url, secret));
    }

    /// The cluster's kubeconfig.
    pub fn kubeconfig(&self) -> String {
        let certificate = base64::engine::general_purpose::STANDARD.encode(&self.cluster_certificate);
        format!(
            "apiVersion: v1
kind: Config
current-context: model
clusters:
- name: model
  cluster:
    server: https://{}
    certificate-authority-data: {certificate}
contexts:
- name: model
  context:
    cluster: model
    user: service
    namespace: default
users:
- name: service
  user:
    token: {TOKEN}
",
            self.cluster_addr
        )
    }

    /// The environment that points ghfe and scheduler at these models.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PROD", "true".to_owned()),
            // Nobody listens there: the models have no staging.
            ("STAGING_URL", "http://127.0.0.1:9/".to_owned()),
            ("GITHUB_API_URL", format!("http://{}", self.github_addr)),
            ("K8S_KUBECONFIG", self.kubeconfig()),
            ("GHAPP_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
            ("GHAPP_ORG_PRIVATE_KEY", self.keys.0.pem.clone()),
            ("GHAPP_PERSONAL_PRIVATE_KEY", self.keys.1.pem.clone()),
        ]
    }

    /// The production GitHub client, pointed at the model.
    pub fn github_client(&self) -> Result<Arc<GitHubClient>, Error> {
        let crab = octocrab::OctocrabBuilder::new().base_uri(format!("http://{}", self.github_addr))?.build()?;
        let key = |key: &ModelKey, id| -> Result<AppKey, Error> {
            Ok(AppKey { id, key: jsonwebtoken::EncodingKey::from_rsa_pem(key.pem.as_bytes())? })
        };
        let caller = Caller::new(crab, self.clock.clone(), key(&self.keys.0, APPS.0)?, key(&self.keys.1, APPS.1)?);
        Ok(GitHubClient::new(caller))
    }

    /// The production Kubernetes client, pointed at the model.
    pub async fn cluster_client(&self, settings: PodSettings) -> Result<Arc<KubernetesClient>, Error> {
        let config = kube::config::Kubeconfig::from_yaml(&self.kubeconfig())?;
        let options = kube::config::KubeConfigOptions::default();
        let mut config = kube::Config::from_custom_kubeconfig(config, &options).await?;
        // The models are on loopback, whatever proxy the environment names for the rest.
        config.proxy_url = None;
        let client = adapters::kubernetes::connect(config)?;
        Ok(KubernetesClient::new(client, settings, self.clock.clone()))
    }
}

async fn deliver(github: Arc<GitHubFace>, url: String, secret: String) {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let places = Arc::new(Semaphore::new(DELIVERIES));
    let mut bell = github.bell();
    loop {
        for outgoing in github.take_outbox() {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (client, url, secret, github) = (client.clone(), url.clone(), secret.clone(), github.clone());
            tokio::spawn(async move {
                let status = post(&client, &url, &secret, &outgoing).await;
                github.delivered(outgoing.id, status);
                drop(place);
            });
        }
        if bell.changed().await.is_err() {
            return;
        }
    }
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    url: &str,
    secret: &str,
    outgoing: &Outgoing,
) -> Option<u16> {
    let request = http::Request::post(url)
        .header("content-type", "application/json")
        .header("user-agent", "GitHub-Hookshot/model")
        .header("x-github-event", outgoing.event)
        .header("x-github-delivery", &outgoing.guid)
        .header("x-github-hook-id", "1")
        .header("x-hub-signature-256", signature(secret, outgoing.body.as_bytes()))
        .body(Full::new(Bytes::from(outgoing.body.clone())))
        .ok()?;
    let response = timeout(DELIVERY_LIMIT, client.request(request)).await.ok()?.ok()?;
    Some(response.status().as_u16())
}

/// The production service, running in this process.
pub struct Service {
    /// Where ghfe listens.
    pub ghfe: SocketAddr,
    /// Where the scheduler listens.
    pub scheduler: SocketAddr,
    /// The scheduler's own numbers.
    pub health: Arc<Health>,
    checked: Arc<Checked>,
    stop: watch::Sender<bool>,
    running: JoinHandle<Result<(), Broken>>,
    _tasks: Tasks,
}

/// What the engine's own check found.
#[derive(Default)]
struct Checked {
    decisions: AtomicU64,
    violations: Mutex<Vec<Violation>>,
}

/// Holds decisions against `engine::check`, and keeps what it finds.
fn inspector(found: Arc<Checked>) -> Inspect {
    Arc::new(move |before, policy, decision, now| {
        found.decisions.fetch_add(1, Ordering::Relaxed);
        let violations = check(before, policy, decision, now);
        if !violations.is_empty() {
            found.violations.lock().unwrap_or_else(PoisonError::into_inner).extend(violations);
        }
    })
}

/// How a service is set up.
pub struct Setup {
    /// The state store.
    pub store: Arc<dyn Store>,
    /// Limits and timeouts.
    pub policy: Policy,
    /// How pods are made.
    pub pods: PodSettings,
    /// Where ghfe listens; a loopback port of the system's choice by default.
    pub listen: Option<SocketAddr>,
    /// Where accepted deliveries are kept.
    pub capture: Option<Capture>,
    /// Draws worker names.
    pub seed: u64,
    /// Holds every decision against `engine::check`.
    pub check: bool,
}

impl Service {
    /// Starts ghfe and a scheduler against the models.
    pub async fn start(models: &Models, setup: Setup) -> Result<Self, Error> {
        let policy = Arc::new(setup.policy);
        let mut tasks = Tasks::default();
        let ghfe = Ghfe {
            store: setup.store.clone(),
            ingest: Ingest::new(setup.store.clone(), 10_000),
            room: Room::default(),
            readers: Readers::default(),
            policy: policy.clone(),
            clock: models.clock.clone(),
            verifier: Verifier::new(&SecretString::from(WEBHOOK_SECRET)),
            proxy: None,
            capture: setup.capture,
            public_url: None,
        };
        let listen = setup.listen.unwrap_or_else(loopback);
        let ghfe = serve(&mut tasks, listen, adapters::ghfe::router(ghfe)).await?;
        let health = Arc::new(Health::default());
        let routes = adapters::scheduler::router(health.clone(), models.clock.clone());
        let scheduler_addr = serve(&mut tasks, loopback(), routes).await?;
        let seed = setup.seed;
        let checked: Arc<Checked> = Arc::default();
        let scheduler = Scheduler {
            store: setup.store,
            github: models.github_client()?,
            cluster: models.cluster_client(setup.pods).await?,
            policy,
            clock: models.clock.clone(),
            holder: "harness".to_owned(),
            seed: Arc::new(move || seed),
            health: health.clone(),
            inspect: setup.check.then(|| inspector(checked.clone())),
        };
        let (stop, mut stopped) = watch::channel(false);
        let until = Box::pin(async move {
            // Also when the sender is gone.
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        let running = tokio::spawn(scheduler.run(until));
        Ok(Self { ghfe, scheduler: scheduler_addr, health, checked, stop, running, _tasks: tasks })
    }

    /// What decisions so far did that no decision may do.
    pub fn violations(&self) -> Vec<Violation> {
        self.checked.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Decisions held against `engine::check` so far.
    pub fn checked(&self) -> u64 {
        self.checked.decisions.load(Ordering::Relaxed)
    }

    /// Asks the scheduler to stop, as SIGTERM does, and waits until it has.
    pub async fn stop(self) -> Result<(), Error> {
        self.stop.send_replace(true);
        Ok(self.running.await??)
    }
}
