//! kubectl against the model cluster: the requests it makes, replayed by a plain client in every run; and, where kubectl
//! is installed, the real one (`dev/kubectl`, which `dev/test` calls).

use std::{
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use engine::ids::{Span, Time};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use sim::{
    harness::{Models, TOKEN},
    testing::rows::START,
    world::{
        github::GitHub,
        kubernetes::{Cluster, Fate, Key},
    },
};

/// What kubectl accepts where it shows a table.
const TABLE: &str =
    "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
const DISCOVERY: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
const TYPED: &str = "application/vnd.kubernetes.protobuf,application/json";
const PLAIN: &str = "application/json";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A cluster with a pod in each state that people look at: its clock has stood still since.
struct Scene {
    models: Models,
    clock: Arc<AtomicI64>,
}

impl Scene {
    async fn new() -> Self {
        let clock = Arc::new(AtomicI64::new(START.0));
        let read = clock.clone();
        let mut cluster = Cluster::new(1);
        cluster.set_node("board-1", "scw-em-rv1", 3, START);
        cluster.set_node("board-2", "scw-em-rv1", 1, START);
        cluster.edit_node("board-2", |node| node.cordoned = true);
        let fates = [Fate::NeverConnects, Fate::OutOfMemory, Fate::ImagePullBackOff, Fate::Unschedulable];
        for (name, fate) in ["runs", "dies", "stuck", "waits"].into_iter().zip(fates) {
            cluster.fates.insert(name.to_owned(), fate);
            cluster.create_pod("default", pod(name), START).unwrap();
            let secret = json!({ "metadata": { "name": name }, "stringData": { "jitconfig": "secret" } });
            cluster.create_secret("default", secret, START).unwrap();
        }
        let clocked: adapters::ports::Clock = Arc::new(move || Time(read.load(Ordering::Relaxed)));
        let models = Models::start(GitHub::new(1), cluster, clocked).await.unwrap();
        let scene = Self { models, clock };
        (0..30).for_each(|_| scene.pass(Span::secs(1)));
        scene
    }

    fn pass(&self, span: Span) {
        self.clock.fetch_add(span.0, Ordering::Relaxed);
        self.models.step();
    }

    /// One request as kubectl makes it; the answer's status, content type and body.
    async fn ask(&self, method: &str, path: &str, accept: &str, body: Option<Value>) -> (u16, String, String) {
        let mut roots = rustls::RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.models.cluster_certificate.as_bytes()).unwrap();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let socket = tokio::net::TcpStream::connect(self.models.cluster_addr).await.unwrap();
        let name = ServerName::from(self.models.cluster_addr.ip());
        let stream = connector.connect(name, socket).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.models.cluster_addr.to_string())
            .header("user-agent", "kubectl/v1.32.4 (linux/amd64) kubernetes/59526cd")
            .header("kubectl-command", "kubectl get")
            .header("accept", accept)
            .header("authorization", format!("Bearer {TOKEN}"));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let answer = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let kind = answer.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn json(&self, method: &str, path: &str, accept: &str, body: Option<Value>) -> (u16, Value) {
        let (status, kind, text) = self.ask(method, path, accept, body).await;
        assert_eq!(kind, "application/json", "{method} {path}");
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{method} {path}: {error}: {text}")))
    }

    /// The cells of the named columns, row by row.
    async fn table(&self, path: &str, columns: &[&str]) -> Vec<Vec<String>> {
        let (status, table) = self.json("GET", path, TABLE, None).await;
        assert_eq!((status, &table["kind"]), (200, &json!("Table")), "{path}: {table}");
        let at = |name: &&str| {
            let all = table["columnDefinitions"].as_array().unwrap();
            all.iter().position(|it| it["name"] == **name).unwrap_or_else(|| panic!("{path}: no column {name}"))
        };
        let at: Vec<usize> = columns.iter().map(at).collect();
        let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
        let rows = table["rows"].as_array().unwrap().iter();
        rows.map(|row| {
            assert_eq!(row["object"]["kind"], "PartialObjectMetadata", "kubectl takes names from here");
            assert_eq!(row["cells"].as_array().unwrap().len(), table["columnDefinitions"].as_array().unwrap().len());
            at.iter().map(|&at| text(&row["cells"][at])).collect()
        })
        .collect()
    }
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": "rise-riscv-runner", "which": name } },
        "spec": {
            "nodeSelector": { "riseproject.dev/board": "scw-em-rv1" },
            "initContainers": [{ "name": "dind", "image": "dind", "restartPolicy": "Always" }],
            "containers": [{
                "name": "runner", "image": "runner", "resources": { "limits": { "riseproject.com/runner": "1" } },
                "env": [{ "name": "ACTIONS_RUNNER_INPUT_JITCONFIG",
                          "valueFrom": { "secretKeyRef": { "name": name, "key": "jitconfig" } } }],
            }],
        },
    })
}

fn test(run: impl AsyncFnOnce(Scene)) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { run(Scene::new().await).await });
}

#[test]
fn discovery_names_what_there_is() {
    test(async |scene| {
        let (status, versions) = scene.json("GET", "/api?timeout=32s", DISCOVERY, None).await;
        assert_eq!((status, &versions["kind"], &versions["versions"]), (200, &json!("APIVersions"), &json!(["v1"])));
        let (status, groups) = scene.json("GET", "/apis?timeout=32s", DISCOVERY, None).await;
        assert_eq!((status, &groups["kind"], &groups["groups"]), (200, &json!("APIGroupList"), &json!([])));
        let (_, resources) = scene.json("GET", "/api/v1?timeout=32s", PLAIN, None).await;
        let listed = resources["resources"].as_array().unwrap();
        for (name, kind, namespaced) in [
            ("pods", "Pod", true),
            ("pods/log", "Pod", true),
            ("nodes", "Node", false),
            ("secrets", "Secret", true),
            ("events", "Event", true),
            ("namespaces", "Namespace", false),
        ] {
            let found = listed.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!((&found["kind"], &found["namespaced"]), (&json!(kind), &json!(namespaced)));
        }
        let (_, version) = scene.json("GET", "/version?timeout=5s", "application/json, */*", None).await;
        assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("33")));
        let (status, unknown) = scene.json("GET", "/apis/metrics.k8s.io/v1beta1/nodes", PLAIN, None).await;
        assert_eq!((status, &unknown["reason"]), (404, &json!("NotFound")));
    });
}

#[test]
fn get_shows_tables() {
    test(async |scene| {
        let all = format!("{PODS}?limit=500");
        assert_eq!(
            scene.table(&all, &["Name", "Ready", "Status", "Restarts", "Age", "Node"]).await,
            [
                ["dies", "0/2", "OOMKilled", "0", "30s", "board-1"],
                ["runs", "2/2", "Running", "0", "30s", "board-1"],
                ["stuck", "0/2", "ImagePullBackOff", "0", "30s", "board-1"],
                ["waits", "0/2", "Pending", "0", "30s", "<none>"],
            ]
        );
        for (query, names) in [
            ("labelSelector=app%3Drise-riscv-runner&limit=500", vec!["dies", "runs", "stuck", "waits"]),
            ("labelSelector=which+in+%28runs%2Cdies%29&limit=500", vec!["dies", "runs"]),
            ("fieldSelector=status.phase%3DRunning&limit=500", vec!["runs"]),
            ("fieldSelector=spec.nodeName%3D&limit=500", vec!["waits"]),
            ("labelSelector=app%3Dother&limit=500", vec![]),
        ] {
            let found = scene.table(&format!("{PODS}?{query}"), &["Name"]).await;
            assert_eq!(found.concat(), names, "{query}");
        }
        assert_eq!(scene.table(&format!("{PODS}/runs"), &["Name", "Status"]).await, [["runs", "Running"]]);
        assert_eq!(
            scene.table("/api/v1/nodes?limit=500", &["Name", "Status", "Version"]).await,
            [["board-1", "Ready", "v1.33.0-model"], ["board-2", "Ready,SchedulingDisabled", "v1.33.0-model"]]
        );
        let secrets = scene.table("/api/v1/namespaces/default/secrets?limit=500", &["Name", "Type", "Data"]).await;
        assert_eq!(secrets[0], ["dies", "Opaque", "1"]);
        assert_eq!(scene.table("/api/v1/namespaces?limit=500", &["Name", "Status"]).await, [["default", "Active"]]);
        let events = scene.table("/api/v1/namespaces/default/events?limit=500", &["Type", "Reason", "Object"]).await;
        assert!(
            events.contains(&["Warning", "FailedScheduling", "pod/waits"].map(str::to_owned).to_vec()),
            "{events:?}"
        );
        assert_eq!(scene.table("/api/v1/pods?limit=500", &["Name"]).await.len(), 4, "--all-namespaces");

        let (status, missing) = scene.json("GET", &format!("{PODS}/nope"), TABLE, None).await;
        assert_eq!((status, &missing["message"]), (404, &json!("pods \"nope\" not found")));
        assert_eq!((&missing["details"]["name"], &missing["details"]["kind"]), (&json!("nope"), &json!("pods")));
        let (status, refused) = scene.json("GET", &format!("{PODS}?fieldSelector=spec.image%3Dx"), TABLE, None).await;
        assert_eq!((status, &refused["reason"]), (400, &json!("BadRequest")));
    });
}

#[test]
fn get_pages_and_watches_in_tables() {
    test(async |scene| {
        let (_, first) = scene.json("GET", &format!("{PODS}?limit=3"), TABLE, None).await;
        assert_eq!(first["metadata"]["remainingItemCount"], 1);
        let token = first["metadata"]["continue"].as_str().unwrap();
        let rest = scene.table(&format!("{PODS}?continue={token}&limit=3"), &["Name"]).await;
        assert_eq!(rest, [["waits"]]);
        let version = first["metadata"]["resourceVersion"].as_str().unwrap();
        scene.models.cluster.with(|cluster, now| {
            cluster.delete_pod(&Key::new("default", "waits"), None, None, now).unwrap();
        });
        let path = format!("{PODS}?resourceVersion={version}&timeoutSeconds=1&watch=true");
        let (status, _, lines) = scene.ask("GET", &path, TABLE, None).await;
        assert_eq!(status, 200);
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let last = lines.last().unwrap();
        assert_eq!((&last["type"], &last["object"]["kind"]), (&json!("DELETED"), &json!("Table")));
        assert_eq!(last["object"]["rows"][0]["cells"][0], "waits");
    });
}

#[test]
fn describe_reads_the_pod_and_its_events() {
    test(async |scene| {
        let (_, pod) = scene.json("GET", &format!("{PODS}/stuck"), TYPED, None).await;
        assert_eq!((&pod["kind"], &pod["status"]["phase"]), (&json!("Pod"), &json!("Pending")));
        let uid = pod["metadata"]["uid"].as_str().unwrap();
        let about =
            format!("involvedObject.uid%3D{uid}%2CinvolvedObject.name%3Dstuck%2CinvolvedObject.namespace%3Ddefault");
        let path = format!("/api/v1/namespaces/default/events?fieldSelector={about}&limit=500");
        let (_, events) = scene.json("GET", &path, TYPED, None).await;
        let mut reasons: Vec<_> =
            events["items"].as_array().unwrap().iter().map(|it| it["reason"].as_str().unwrap()).collect();
        reasons.sort_unstable();
        assert_eq!((&events["kind"], reasons), (&json!("EventList"), vec!["Failed", "Scheduled"]));
    });
}

#[test]
fn logs_are_text() {
    test(async |scene| {
        let accept = "application/json, */*";
        let uid = scene.models.cluster.with(|cluster, _| {
            let objects = cluster.objects(sim::world::kubernetes::Kind::Pod, None);
            objects.iter().find(|it| it["metadata"]["name"] == "runs").unwrap()["metadata"]["uid"].clone()
        });
        let times = ["zwei", "drei"].map(|line| {
            scene.pass(Span::mins(10));
            scene.models.cluster.with(|cluster, now| {
                cluster.append_log(uid.as_str().unwrap(), "runner", line, now);
                jiff::Timestamp::from_millisecond(now.0).unwrap()
            })
        });
        let stamped = |at: jiff::Timestamp, line: &str| format!("{at:.9} {line}\n");
        let first = "Connected to the container engine\n";
        for (query, text) in [
            ("container=runner", format!("{first}zwei\ndrei\n")),
            ("container=runner&tailLines=1", "drei\n".to_owned()),
            ("container=runner&tailLines=0", String::new()),
            ("container=runner&tailLines=9", format!("{first}zwei\ndrei\n")),
            ("container=runner&limitBytes=9", "Connected".to_owned()),
            ("container=runner&sinceSeconds=60", "drei\n".to_owned()),
            ("container=runner&sinceSeconds=660", "zwei\ndrei\n".to_owned()),
            (&format!("container=runner&sinceTime={}", times[0]), "zwei\ndrei\n".to_owned()),
            ("container=runner&tailLines=1&timestamps=true", stamped(times[1], "drei")),
            ("container=dind", "API listen on [::]:2376\n".to_owned()),
            ("", format!("{first}zwei\ndrei\n")),
        ] {
            let (status, kind, body) = scene.ask("GET", &format!("{PODS}/runs/log?{query}"), accept, None).await;
            assert_eq!((status, body), (200, text), "{query}");
            assert!(kind.starts_with("text/plain"), "{kind}");
        }
        for (pod, query, status, message) in [
            ("stuck", "container=runner", 400, "waiting to start"),
            (
                "runs",
                "container=runner&previous=true",
                400,
                "previous terminated container \"runner\" in pod \"runs\" not found",
            ),
            ("runs", "container=runner&sinceTime=yesterday", 400, "sinceTime"),
            ("runs", "container=other", 400, "container other is not valid for pod runs"),
            ("nope", "container=runner", 404, "pods \"nope\" not found"),
        ] {
            let (got, answer) = scene.json("GET", &format!("{PODS}/{pod}/log?{query}"), accept, None).await;
            assert_eq!(got, status, "{pod}");
            assert!(answer["message"].as_str().unwrap().contains(message), "{answer}");
        }
        // --follow ends with the container.
        let path = format!("{PODS}/runs/log?container=runner&follow=true&tailLines=1");
        let (followed, ()) = tokio::join!(scene.ask("GET", &path, accept, None), async {
            let uid = uid.as_str().unwrap();
            scene.models.cluster.with(|cluster, now| cluster.append_log(uid, "runner", "vier", now));
            scene.models.cluster.with(|cluster, now| {
                cluster.finish_runner(&Key::new("default", "runs"), uid, 0, now);
            });
        });
        assert!(followed.2.ends_with("vier\n"), "{followed:?}");
    });
}

#[test]
fn delete_is_graceful_forced_or_a_rehearsal() {
    test(async |scene| {
        let background = json!({ "propagationPolicy": "Background" });
        let path = format!("{PODS}/runs");
        let dry = format!("{path}?dryRun=All");
        let (status, shown) = scene.json("DELETE", &dry, PLAIN, Some(background.clone())).await;
        assert_eq!((status, &shown["kind"]), (200, &json!("Pod")));
        let rehearsed = json!({ "propagationPolicy": "Background", "dryRun": ["All"] });
        let (status, _) = scene.json("DELETE", &path, PLAIN, Some(rehearsed)).await;
        assert_eq!(status, 200);
        let (_, pod) = scene.json("GET", &path, PLAIN, None).await;
        assert_eq!(pod["metadata"]["deletionTimestamp"], Value::Null, "a rehearsal does nothing");

        let (status, pod) = scene.json("DELETE", &path, PLAIN, Some(background)).await;
        assert_eq!((status, &pod["metadata"]["deletionGracePeriodSeconds"]), (200, &json!(30)));
        assert_eq!(scene.table(&path, &["Status"]).await, [["Terminating"]]);
        // Then it waits: a listing of the one pod, and a watch until it is gone.
        let only = "fieldSelector=metadata.name%3Druns";
        let (_, list) = scene.json("GET", &format!("{PODS}?{only}&limit=500&resourceVersion=0"), PLAIN, None).await;
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        let version = list["metadata"]["resourceVersion"].as_str().unwrap();
        let watch =
            format!("{PODS}?allowWatchBookmarks=true&{only}&resourceVersion={version}&timeoutSeconds=3&watch=true");
        let (seen, ()) = tokio::join!(scene.ask("GET", &watch, PLAIN, None), async { scene.pass(Span::secs(5)) });
        assert!(seen.2.lines().any(|line| line.contains("\"DELETED\"")), "{}", seen.2);
        assert_eq!(scene.json("GET", &path, PLAIN, None).await.0, 404);

        // --force --grace-period=0, for a pod on a lost node.
        scene.models.cluster.with(|cluster, _| cluster.edit_node("board-1", |node| node.ready = false));
        let path = format!("{PODS}/stuck");
        let (status, _) = scene.json("DELETE", &path, PLAIN, Some(json!({ "propagationPolicy": "Background" }))).await;
        assert_eq!(status, 200);
        scene.pass(Span::mins(5));
        assert_eq!(scene.table(&path, &["Status"]).await, [["Terminating"]]);
        let force = json!({ "gracePeriodSeconds": 0, "propagationPolicy": "Background" });
        assert_eq!(scene.json("DELETE", &path, PLAIN, Some(force.clone())).await.0, 200);
        let (status, gone) = scene.json("DELETE", &path, PLAIN, Some(force)).await;
        assert_eq!((status, &gone["reason"]), (404, &json!("NotFound")));
        let (status, _) = scene.json("PATCH", &format!("{PODS}/dies"), PLAIN, Some(json!({}))).await;
        assert_eq!(status, 405, "what is not served is refused as the API refuses it");
    });
}

/// Runs the real kubectl, while the model's time passes quickly.
fn kubectl(kubeconfig: &std::path::Path, arguments: &str) -> (bool, String) {
    let made = Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig).args(arguments.split(' ')).output();
    let Output { status, stdout, stderr } = match made {
        Ok(output) => output,
        Err(error) => panic!("kubectl cannot be run ({error}): install it, or leave this test out"),
    };
    let text = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    println!("$ kubectl {arguments}\n{text}");
    (status.success(), text)
}

#[test]
#[ignore = "needs kubectl: run dev/kubectl"]
fn the_real_kubectl_gets_describes_logs_and_deletes() {
    test(async |scene| {
        let dir = std::env::temp_dir().join(format!("kubectl-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let kubeconfig = dir.join("kubeconfig");
        std::fs::write(&kubeconfig, scene.models.kubeconfig()).unwrap();
        let scene = Arc::new(scene);
        let moving = scene.clone();
        let time = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                moving.pass(Span(200));
            }
        });
        let cases: &[(&str, bool, &[&str], &[&str])] = &[
            ("get pods", true, &["NAME", "READY", "STATUS", "RESTARTS", "AGE", "2/2", "ImagePullBackOff"], &["NODE"]),
            ("get pods -o wide", true, &["NODE", "board-1", "<none>"], &[]),
            ("get pods -l which=runs", true, &["runs"], &["dies", "stuck"]),
            ("get pods -l which!=runs,app", true, &["dies", "stuck"], &["runs"]),
            ("get pods --field-selector status.phase=Running", true, &["runs"], &["dies"]),
            ("get po/runs -o jsonpath={.status.phase}", true, &["Running"], &[]),
            ("get pods -A -o name", true, &["pod/runs", "pod/waits"], &[]),
            ("get pods --chunk-size=1 -o name", true, &["pod/dies", "pod/runs", "pod/stuck", "pod/waits"], &[]),
            ("get nodes", true, &["board-1", "Ready,SchedulingDisabled"], &[]),
            ("get events", true, &["FailedScheduling", "pod/waits"], &[]),
            ("get pods nope", false, &["Error from server (NotFound): pods \"nope\" not found"], &[]),
            ("get pods --field-selector spec.image=x", false, &["field label not supported"], &[]),
            ("describe pod stuck", true, &["ImagePullBackOff", "Back-off pulling image", "board-1", "dind:"], &[]),
            ("describe pods -l which=waits", true, &["FailedScheduling", "Node-Selectors:"], &["runs"]),
            ("logs runs", true, &["Connected to the container engine"], &[]),
            ("logs runs -c dind --tail=1", true, &["API listen"], &["Connected"]),
            ("logs -l which=runs --all-containers", true, &["API listen", "Connected"], &[]),
            ("logs runs --timestamps --since=1h --tail=1", true, &["Z Connected"], &[]),
            ("logs runs --previous", false, &["previous terminated container \"runner\""], &[]),
            ("logs stuck", false, &["waiting to start"], &[]),
            ("delete pod runs --dry-run=server", true, &["deleted (server dry run)"], &[]),
            ("delete pods -l which=runs", true, &["pod \"runs\" deleted"], &[]),
            ("get pod runs", false, &["NotFound"], &[]),
            ("delete pod stuck --grace-period=0 --force", true, &["force deleted"], &[]),
            ("delete pod nope", false, &["pods \"nope\" not found"], &[]),
            ("delete pods --all", true, &["\"dies\" deleted", "\"waits\" deleted"], &[]),
            ("get pods", true, &["No resources found in default namespace."], &[]),
        ];
        for (arguments, succeeds, present, absent) in cases {
            let (kubeconfig, asked) = (kubeconfig.clone(), (*arguments).to_owned());
            let (success, text) = tokio::task::spawn_blocking(move || kubectl(&kubeconfig, &asked)).await.unwrap();
            assert_eq!(success, *succeeds, "kubectl {arguments}: {text}");
            present.iter().for_each(|it| assert!(text.contains(it), "kubectl {arguments} lacks {it:?}: {text}"));
            absent.iter().for_each(|it| assert!(!text.contains(it), "kubectl {arguments} shows {it:?}: {text}"));
        }
        time.abort();
        std::fs::remove_dir_all(&dir).unwrap();
    });
}
