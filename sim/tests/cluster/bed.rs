//! What a test of the Kubernetes port stands on.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use adapters::{
    kubernetes::{KubernetesClient, PodSettings, connect},
    ports::{Clock, Cluster as _, ClusterEvent, system_clock},
};
use engine::{
    facts::{Pod as PodFact, Worker},
    ids::{EntityId, Pool, Span, Time},
};
use futures::{FutureExt, StreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
    config::Kubeconfig,
};
use serde_json::json;
use sim::{
    harness::Models,
    testing::rows::{START, worker},
    world::{
        github::GitHub,
        kubernetes::{Cluster, Key},
    },
};
use tokio::time::{Instant, timeout};

/// A board that no cluster has.
pub const NO_BOARD: &str = "contract-suite-no-board";
/// Where a real cluster's kubeconfig is, if there is one.
const UNDER_TEST: &str = "KUBECONFIG_UNDER_TEST";
/// Nothing in a test takes longer than this in real time.
const PATIENCE: Duration = Duration::from_secs(30);

/// The model behind a test.
pub struct Model {
    pub models: Models,
    clock: Arc<AtomicI64>,
}

impl Model {
    pub fn with<T>(&self, act: impl FnOnce(&mut Cluster, Time) -> T) -> T {
        self.models.cluster.with(act)
    }

    /// Moves the world's time on.
    pub fn pass(&self, span: Span) {
        self.clock.fetch_add(span.0, Ordering::Relaxed);
        self.models.step();
    }
}

/// A cluster, the production client of it, and a plain one to look with.
pub struct Bed {
    pub cluster: Arc<KubernetesClient>,
    pub client: Client,
    pub kubeconfig: Kubeconfig,
    pub settings: PodSettings,
    pub clock: Clock,
    model: Option<Model>,
}

/// Runs a test against the model, and against the cluster under test if there is one.
pub fn against_both(name: &str, test: impl AsyncFn(&Bed)) {
    block_on(async {
        test(&Bed::model().await).await;
        if let Ok(path) = std::env::var(UNDER_TEST) {
            println!("{name}: against the cluster of {path} too");
            let bed = Bed::real(&path).await;
            let result = AssertUnwindSafe(test(&bed)).catch_unwind().await;
            bed.clean_up().await;
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

/// Runs a test that needs the model's levers.
pub fn against_model(name: &str, test: impl AsyncFn(&Bed, &Model)) {
    if std::env::var(UNDER_TEST).is_ok() {
        println!("{name}: against the model ONLY: no API makes a cluster do what this test needs");
    }
    block_on(async {
        let bed = Bed::model().await;
        test(&bed, bed.model.as_ref().expect("it is one")).await;
    });
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE * 3, test).await.expect("the test is over in time") });
}

impl Bed {
    async fn model() -> Self {
        let now = Arc::new(AtomicI64::new(START.0));
        let read = now.clone();
        let clock: Clock = Arc::new(move || Time(read.load(Ordering::Relaxed)));
        let models = Models::start(GitHub::new(1), Cluster::new(1), clock.clone()).await.unwrap();
        let kubeconfig = Kubeconfig::from_yaml(&models.kubeconfig()).unwrap();
        Self::new(kubeconfig, clock, "default", Some(Model { models, clock: now })).await
    }

    async fn real(path: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let namespace = format!("runner-contract-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let bed = Self::new(kubeconfig, system_clock(), &namespace, None).await;
        let body = serde_json::from_value(json!({ "metadata": { "name": namespace } })).unwrap();
        Api::<Namespace>::all(bed.client.clone()).create(&PostParams::default(), &body).await.unwrap();
        // A new namespace takes pods only once its service account is there.
        let (dry, probe) = (PostParams { dry_run: true, ..PostParams::default() }, plain_pod("probe"));
        bed.eventually("the namespace takes pods", async || bed.pods().create(&dry, &probe).await.is_ok()).await;
        bed
    }

    async fn new(kubeconfig: Kubeconfig, clock: Clock, namespace: &str, model: Option<Model>) -> Self {
        let client = client(&kubeconfig).await;
        let settings = PodSettings {
            namespace: namespace.to_owned(),
            registry: "registry.invalid/runners".to_owned(),
            tag: "latest".to_owned(),
            host_network: [Pool::from("hosted")].into(),
        };
        let cluster = KubernetesClient::new(client.clone(), settings.clone(), clock.clone());
        Self { cluster, client, kubeconfig, settings, clock, model }
    }

    async fn clean_up(&self) {
        let all: Api<Namespace> = Api::all(self.client.clone());
        all.delete(&self.settings.namespace, &DeleteParams::default()).await.unwrap();
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    pub fn key(&self, name: &str) -> Key {
        Key::new(&self.settings.namespace, name)
    }

    /// Our pods, by the production client.
    pub async fn listed(&self) -> BTreeMap<String, PodFact> {
        let listing = self.cluster.list_pods().await.unwrap();
        listing.pods.into_iter().map(|pod| (pod.name.to_string(), pod)).collect()
    }

    pub async fn listed_pod(&self, name: &str) -> PodFact {
        self.listed().await.remove(name).unwrap_or_else(|| panic!("{name} is listed"))
    }

    /// Lets time pass: the model's, or real time.
    async fn wait(&self) {
        match &self.model {
            Some(model) => {
                model.pass(Span::secs(1));
                // What the test's own task does besides has its turn, too.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            None => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }

    /// Waits for a condition.
    pub async fn eventually(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition().await {
            assert!(Instant::now() < deadline, "never: {what}");
            self.wait().await;
        }
    }

    /// Waits until the watch has told of all pods and of all nodes, in whichever order.
    pub async fn first_views(&self, events: &mut BoxStream<'static, ClusterEvent>) {
        let view = |event: &ClusterEvent| matches!(event, ClusterEvent::Pods(_) | ClusterEvent::Nodes(_));
        let first = self.sees(events, "a first view", view).await;
        let other = |event: &ClusterEvent| {
            view(event) && matches!(event, ClusterEvent::Pods(_)) != matches!(first, ClusterEvent::Pods(_))
        };
        self.sees(events, "the other first view", other).await;
    }

    /// Waits for an event; those before it are passed over.
    pub async fn sees(
        &self,
        events: &mut BoxStream<'static, ClusterEvent>,
        what: &str,
        wanted: impl Fn(&ClusterEvent) -> bool,
    ) -> ClusterEvent {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match timeout(Duration::from_millis(50), events.next()).await {
                Ok(Some(event)) if wanted(&event) => return event,
                Ok(Some(_)) => {}
                Ok(None) => panic!("the watch ended before: {what}"),
                Err(_) => {
                    assert!(Instant::now() < deadline, "never seen: {what}");
                    self.wait().await;
                }
            }
        }
    }
}

/// The production client's own connection.
pub async fn client(kubeconfig: &Kubeconfig) -> Client {
    let options = kube::config::KubeConfigOptions::default();
    connect(kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await.unwrap()).unwrap()
}

/// A worker whose pod no node takes.
pub fn stray(name: &str) -> Worker {
    on_board(name, NO_BOARD)
}

/// A worker for a board.
pub fn on_board(name: &str, board: &str) -> Worker {
    Worker { pool: Pool::from(board), entity: EntityId(7), ..worker(name, 7) }
}

/// A pod that is not ours, and that no node takes.
pub fn plain_pod(name: &str) -> Pod {
    let body = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": "something-else" } },
        "spec": {
            "nodeSelector": { "riseproject.dev/board": NO_BOARD },
            "containers": [{ "name": "runner", "image": "registry.invalid/other" }],
        },
    });
    serde_json::from_value(body).unwrap()
}
