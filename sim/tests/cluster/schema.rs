//! The model's answers follow the published schemas: each reads as its k8s-openapi type, and nothing in it is unknown
//! to that type.

use adapters::ports::Cluster as _;
use engine::ids::WorkerName;
use k8s_openapi::{
    List,
    api::core::v1::{Event, Namespace, Node, Pod, Secret},
    apimachinery::pkg::{
        apis::meta::v1::{APIGroupList, APIResourceList, APIVersions, Status, WatchEvent},
        version::Info,
    },
};
use secrecy::SecretString;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sim::world::kubernetes::Fate;

use super::bed::{Bed, against_model, on_board, stray};

const BOARD: &str = "scw-em-rv1";

async fn get(bed: &Bed, path: &str) -> String {
    let request = http::Request::get(path).body(kube::client::Body::empty()).unwrap();
    let answer = bed.client.send(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// What `whole` says that `part` does not; fields that a schema leaves out when empty are nothing.
fn missing(whole: &Value, part: &Value, path: &str, found: &mut Vec<String>) {
    match (whole, part) {
        (Value::Object(whole), part) => {
            for (name, value) in whole {
                missing(value, part.get(name).unwrap_or(&Value::Null), &format!("{path}.{name}"), found);
            }
        }
        (Value::Array(whole), Value::Array(part)) if whole.len() == part.len() => {
            for (i, (value, part)) in whole.iter().zip(part).enumerate() {
                missing(value, part, &format!("{path}[{i}]"), found);
            }
        }
        (Value::Array(whole), Value::Null) if whole.is_empty() => {}
        (whole, part) if whole != part => found.push(format!("{path}: {whole} is read as {part}")),
        _ => {}
    }
}

fn follows<T: DeserializeOwned + Serialize>(what: &str, text: &str) -> Value {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{what}: {error}: {text}"));
    let read: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{what}: {error}: {text}"));
    let mut found = Vec::new();
    missing(&value, &serde_json::to_value(&read).unwrap(), "", &mut found);
    assert_eq!(found, Vec::<String>::new(), "{what}");
    value
}

#[test]
fn every_answer_follows_the_published_schema() {
    against_model("every_answer_follows_the_published_schema", async |bed, model| {
        model.with(|cluster, now| {
            cluster.set_node("node", BOARD, 9, now);
            for (name, fate) in
                [("runs", Fate::NeverConnects), ("dies", Fate::OutOfMemory), ("stuck", Fate::ImagePullBackOff)]
            {
                cluster.fates.insert(name.to_owned(), fate);
            }
        });
        for name in ["runs", "dies", "stuck", "evicted", "going"] {
            let pod = bed.cluster.create_pod(&on_board(name, BOARD)).await.unwrap();
            bed.cluster.create_secret(&pod.name, &pod.uid, &SecretString::from("jit")).await.unwrap();
        }
        bed.cluster.create_pod(&stray("waits")).await.unwrap();
        (0..20).for_each(|_| model.pass(engine::ids::Span::secs(1)));
        model.with(|cluster, now| cluster.evict(&bed.key("evicted"), "Evicted", now));
        let going = bed.listed_pod("going").await;
        model.with(|cluster, _| cluster.edit_node("node", |node| node.ready = false));
        bed.cluster.delete_pod(&WorkerName::from("going"), &going.uid).await.unwrap();

        let within = |plural: &str| format!("/api/v1/namespaces/default/{plural}");
        let pods = follows::<List<Pod>>("pods", &get(bed, &within("pods")).await);
        assert_eq!(pods["items"].as_array().unwrap().len(), 6);
        for name in ["runs", "dies", "stuck", "evicted", "going", "waits"] {
            follows::<Pod>(name, &get(bed, &within(&format!("pods/{name}"))).await);
        }
        follows::<List<Secret>>("secrets", &get(bed, &within("secrets")).await);
        follows::<Secret>("a secret", &get(bed, &within("secrets/stuck")).await);
        let events = follows::<List<Event>>("events", &get(bed, &within("events")).await);
        assert!(events["items"].as_array().unwrap().len() > 6);
        follows::<List<Node>>("nodes", &get(bed, "/api/v1/nodes").await);
        follows::<Node>("a node", &get(bed, "/api/v1/nodes/node").await);
        follows::<List<Namespace>>("namespaces", &get(bed, "/api/v1/namespaces").await);
        follows::<Namespace>("a namespace", &get(bed, "/api/v1/namespaces/default").await);
        follows::<APIVersions>("/api", &get(bed, "/api").await);
        follows::<APIGroupList>("/apis", &get(bed, "/apis").await);
        follows::<APIResourceList>("/api/v1", &get(bed, "/api/v1").await);
        follows::<Info>("/version", &get(bed, "/version").await);
        for path in
            ["/api/v1/namespaces/default/pods/none", "/api/v1/nothing", "/nowhere", "/api/v1/pods?labelSelector=a+b"]
        {
            let status = follows::<Status>(path, &get(bed, path).await);
            assert_eq!(status["status"], "Failure");
        }
        let watch = get(bed, "/api/v1/pods?watch=true&timeoutSeconds=3&allowWatchBookmarks=true").await;
        let mut kinds = Vec::new();
        for line in watch.lines() {
            serde_json::from_str::<WatchEvent<Pod>>(line).unwrap();
            let mut event: Value = serde_json::from_str(line).unwrap();
            if event["type"] == "ADDED" {
                follows::<Pod>("a watch", &event["object"].to_string());
            }
            kinds.push(event["type"].take());
        }
        assert_eq!(kinds.iter().filter(|kind| *kind == "ADDED").count(), 6);
        assert_eq!(kinds.last().unwrap(), "BOOKMARK");
        model.with(|cluster, _| cluster.compact());
        let old = get(bed, "/api/v1/pods?watch=true&resourceVersion=1").await;
        serde_json::from_str::<WatchEvent<Pod>>(&old).unwrap();
        let error: Value = serde_json::from_str(&old).unwrap();
        assert_eq!((&error["type"], &error["object"]["code"]), (&"ERROR".into(), &410.into()));
        follows::<Status>("its status", &error["object"].to_string());
    });
}
