//! A cluster that is away, slow or answers nonsense: a clear error without any secret, and all is well afterwards.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use adapters::{kubernetes::KubernetesClient, ports::Cluster as _};
use engine::{
    facts::ClusterError,
    ids::{PodUid, WorkerName},
};
use secrecy::SecretString;
use serde_json::json;
use sim::http::faults::Fault;
use tokio::time::timeout;
use tracing::instrument::WithSubscriber;

use super::bed::{Bed, against_model, client, stray};

const JIT: &str = "very-secret-jit-configuration";
/// The same in base64, as an answer shows it.
const JIT_BASE64: &str = "dmVyeS1zZWNyZXQtaml0LWNvbmZpZ3VyYXRpb24";

/// Everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

fn wrong_answers() -> Vec<(&'static str, Fault)> {
    let wrong_types = r#"{"kind":"Pod","metadata":{"name":7},"items":{}}"#;
    vec![
        ("a web page", Fault::Say(200, "text/html", "<html>a login page</html>".to_owned())),
        ("a proxy's error page", Fault::Say(502, "text/html", "<html>Bad Gateway</html>".repeat(1000))),
        ("a proxy that does not know the path", Fault::Say(404, "text/html", "<html>Not Found</html>".to_owned())),
        ("wrong types", Fault::Say(200, "application/json", wrong_types.to_owned())),
        ("half an answer", Fault::Truncate),
        ("a broken answer", Fault::Break),
        ("nothing", Fault::Say(200, "application/json", String::new())),
    ]
}

async fn every_call(bed: &Bed, name: &str, uid: &PodUid) -> Vec<(&'static str, Option<ClusterError>)> {
    let name = WorkerName::from(name);
    vec![
        ("GET", bed.cluster.list_pods().await.err()),
        ("POST", bed.cluster.create_pod(&stray("new")).await.err()),
        ("POST", bed.cluster.create_secret(&name, uid, &SecretString::from(JIT)).await.err()),
    ]
}

#[test]
fn nonsense_is_told_without_what_it_was() {
    against_model("nonsense_is_told_without_what_it_was", async |bed, model| {
        let log = Log::default();
        let written = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_writer(move || written.clone())
            .finish();
        async {
            let pod = bed.cluster.create_pod(&stray("here")).await.unwrap();
            for (what, fault) in wrong_answers() {
                let faults = &model.models.cluster.faults;
                for method in ["GET", "POST"] {
                    faults.plan(method, "/pods", 1, fault.clone());
                }
                faults.plan("POST", "/secrets", 1, fault.clone());
                for (method, error) in every_call(bed, "here", &pod.uid).await {
                    // A Secret's answer is not read at all: its status says enough.
                    let Some(error) = error else {
                        assert_eq!(method, "POST", "{what}");
                        continue;
                    };
                    let ClusterError::Unavailable { message } = &error else { panic!("{what}: {error:?}") };
                    assert!(message.len() < 400 && !message.is_empty(), "{what}: {message}");
                    assert!(!message.contains("very-secret"), "{what}: {message}");
                }
                assert_eq!(faults.left(), 0, "{what}: each call met it");
                // And all is well again, whatever had its effect.
                assert!(bed.listed().await.contains_key("here"), "{what}");
                for (name, uid) in bed.listed().await.into_iter().filter(|(name, _)| name == "new") {
                    bed.cluster.delete_pod(&WorkerName::from(name.as_str()), &uid.uid).await.unwrap();
                }
                model.with(|cluster, _| {
                    let _ = cluster.delete_secret(&bed.key("here"));
                });
            }
        }
        .with_subscriber(subscriber)
        .await;
        let text = log.text();
        for secret in [JIT, JIT_BASE64, sim::harness::TOKEN] {
            assert!(!text.contains(secret), "the log shows {secret}: {text}");
        }
    });
}

/// A proxy, or a page for debugging, may answer with the request that it was sent.
#[test]
fn an_answer_that_repeats_the_request_is_told_without_its_secrets() {
    against_model("an_answer_that_repeats_the_request_is_told_without_its_secrets", async |bed, model| {
        let pod = bed.cluster.create_pod(&stray("here")).await.unwrap();
        let faults = &model.models.cluster.faults;
        for (status, code) in [(403, 403), (500, 500), (403, 0)] {
            let refusal = |said: &str| {
                let text = json!({ "kind": "Status", "status": "Failure", "message": said, "code": code }).to_string();
                Fault::Say(status, "application/json", text)
            };
            let (header, body) = (
                format!("you sent GET / authorization: Bearer {}", sim::harness::TOKEN),
                format!("you sent {{\"stringData\":{{\"jit\":\"{JIT}\"}}}}"),
            );
            faults.plan("GET", "/pods", 1, refusal(&header));
            faults.plan("POST", "/secrets", 1, refusal(&body));
            let list = bed.cluster.list_pods().await.unwrap_err();
            let secret = SecretString::from(JIT);
            let create = bed.cluster.create_secret(&WorkerName::from("here"), &pod.uid, &secret).await.unwrap_err();
            assert_eq!(faults.left(), 0, "each call met it");
            for (error, shown) in
                [(list, "you sent GET / authorization: Bearer (hidden)"), (create, "the answer repeats the request")]
            {
                let refused = matches!(&error, ClusterError::Refused { status: 403, .. });
                let (ClusterError::Refused { message, .. } | ClusterError::Unavailable { message }) = &error else {
                    panic!("{status}, {code}: {error:?}");
                };
                assert!(message.ends_with(shown), "{status}, {code}: {message}");
                assert!(refused || code != 403, "{status}, {code}: {error:?}");
                assert!(!format!("{error:?}").contains("Refused { status: 0"), "{error:?}");
            }
        }
    });
}

#[test]
fn a_slow_cluster_delays_only_who_asks() {
    against_model("a_slow_cluster_delays_only_who_asks", async |bed, model| {
        let pod = bed.cluster.create_pod(&stray("here")).await.unwrap();
        model.models.cluster.faults.plan("GET", "/pods", 1, Fault::Delay(Duration::from_secs(600)));
        // The caller's limit: the scheduler's own is half a minute.
        let slow = timeout(Duration::from_millis(200), bed.cluster.list_pods()).await;
        assert!(slow.is_err(), "it does not answer");
        assert_eq!(bed.listed_pod("here").await.uid, pod.uid, "the next call is answered at once");
    });
}

#[test]
fn a_cluster_that_is_away_is_told_with_its_reason() {
    against_model("a_cluster_that_is_away_is_told_with_its_reason", async |bed, _| {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = nobody.local_addr().unwrap();
        drop(nobody);
        let mut kubeconfig = bed.kubeconfig.clone();
        for cluster in &mut kubeconfig.clusters {
            cluster.cluster.as_mut().unwrap().server = Some(format!("https://{address}"));
        }
        let client = client(&kubeconfig).await;
        let away = KubernetesClient::new(client, bed.settings.clone(), bed.clock.clone());
        let ClusterError::Unavailable { message } = away.list_pods().await.unwrap_err() else { panic!("it is away") };
        assert!(message.contains("refused"), "{message}");
        let info = away.diagnose(&WorkerName::from("a"), &PodUid::from("u")).await;
        assert!(info["errors"].to_string().contains("refused"), "{info}");
        assert_eq!((&info["containers"], &info["events"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    });
}

#[test]
fn a_cluster_that_is_not_trusted_is_not_talked_to() {
    against_model("a_cluster_that_is_not_trusted_is_not_talked_to", async |bed, model| {
        let before = model.models.cluster.faults.count();
        let mut kubeconfig = bed.kubeconfig.clone();
        for cluster in &mut kubeconfig.clusters {
            // The system's own certificates: the model's is not among them.
            cluster.cluster.as_mut().unwrap().certificate_authority_data = None;
        }
        let client = client(&kubeconfig).await;
        let stranger = KubernetesClient::new(client, bed.settings.clone(), bed.clock.clone());
        let ClusterError::Unavailable { message } = stranger.list_pods().await.unwrap_err() else { panic!() };
        assert!(message.contains("certificate"), "{message}");
        assert_eq!(model.models.cluster.faults.count(), before, "no request, and no token, was sent");
    });
}
