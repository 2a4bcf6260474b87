//! What the API shows of the cluster's objects.

use engine::ids::{Span, Time};
use serde_json::{Map, Value, json};

use super::{Cluster, Event, Key, LogLine, Namespace, Node, Phase, Pod, Secret};

/// The kinds of objects this cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// v1 Pod.
    Pod,
    /// v1 Node.
    Node,
    /// v1 Secret.
    Secret,
    /// v1 Event.
    Event,
    /// v1 Namespace.
    Namespace,
}

impl Kind {
    /// By the plural in paths.
    pub fn parse(plural: &str) -> Option<Self> {
        match plural {
            "pods" => Some(Kind::Pod),
            "nodes" => Some(Kind::Node),
            "secrets" => Some(Kind::Secret),
            "events" => Some(Kind::Event),
            "namespaces" => Some(Kind::Namespace),
            _ => None,
        }
    }

    /// The plural in paths.
    pub fn plural(self) -> &'static str {
        match self {
            Kind::Pod => "pods",
            Kind::Node => "nodes",
            Kind::Secret => "secrets",
            Kind::Event => "events",
            Kind::Namespace => "namespaces",
        }
    }

    /// Whether its objects are in namespaces.
    pub fn namespaced(self) -> bool {
        matches!(self, Kind::Pod | Kind::Secret | Kind::Event)
    }

    /// `kind` in bodies.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Pod => "Pod",
            Kind::Node => "Node",
            Kind::Secret => "Secret",
            Kind::Event => "Event",
            Kind::Namespace => "Namespace",
        }
    }
}

/// RFC 3339 with seconds, as Kubernetes writes times.
pub(crate) fn stamp(at: Time) -> String {
    let seconds = at.0.div_euclid(1000);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| String::from("1970-01-01T00:00:00Z"), |at| at.to_string())
}

pub(super) fn pod(key: &Key, pod: &Pod) -> Value {
    let mut metadata = pod.metadata.as_object().cloned().unwrap_or_default();
    metadata.insert("name".into(), json!(key.name));
    metadata.insert("namespace".into(), json!(key.namespace));
    metadata.insert("uid".into(), json!(pod.uid));
    metadata.insert("resourceVersion".into(), json!(pod.version.to_string()));
    metadata.insert("creationTimestamp".into(), json!(stamp(pod.created)));
    if let Some(at) = pod.deleting {
        metadata.insert("deletionTimestamp".into(), json!(stamp(at + Span::secs(pod.grace))));
        metadata.insert("deletionGracePeriodSeconds".into(), json!(pod.grace));
    }
    let mut spec = pod.spec.as_object().cloned().unwrap_or_default();
    if let Some(node) = &pod.node {
        spec.insert("nodeName".into(), json!(node));
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status(pod) })
}

fn status(pod: &Pod) -> Value {
    let phase = match pod.phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
        Phase::Unknown => "Unknown",
    };
    let mut status = Map::new();
    status.insert("phase".into(), json!(phase));
    status.insert("qosClass".into(), json!("BestEffort"));
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        let mut condition = json!({ "type": kind, "status": if holds { "True" } else { "False" } });
        for (name, text) in [("reason", reason), ("message", message)] {
            if !text.is_empty() {
                condition[name] = json!(text);
            }
        }
        condition
    };
    let (reason, message) = pod.waiting.clone().unwrap_or_default();
    let scheduled = pod.node.is_some();
    let why = if scheduled { ("", "") } else { (reason.as_str(), message.as_str()) };
    let ready = pod.phase == Phase::Running;
    status.insert(
        "conditions".into(),
        json!([condition("PodScheduled", scheduled, why.0, why.1), condition("Ready", ready, "", "")]),
    );
    if let Some(at) = pod.scheduled {
        status.insert("startTime".into(), json!(stamp(at)));
    }
    if pod.evicted
        && let Some(ending) = &pod.ending
    {
        status.insert("reason".into(), json!(ending.reason));
        status.insert("message".into(), json!(ending.message));
    }
    if scheduled {
        status.insert("containerStatuses".into(), container_statuses(pod, "containers"));
        status.insert("initContainerStatuses".into(), container_statuses(pod, "initContainers"));
    }
    Value::Object(status)
}

fn container_statuses(pod: &Pod, list: &str) -> Value {
    let containers = pod.spec.get(list).and_then(Value::as_array).into_iter().flatten();
    let (reason, message) = pod.waiting.clone().unwrap_or(("ContainerCreating".into(), String::new()));
    let state = match (pod.started, &pod.ending) {
        (started, Some(ending)) => json!({ "terminated": {
            "exitCode": ending.code, "reason": ending.reason, "message": ending.message,
            "startedAt": stamp(started.unwrap_or(ending.at)), "finishedAt": stamp(ending.at),
        } }),
        (Some(started), None) => json!({ "running": { "startedAt": stamp(started) } }),
        (None, None) => json!({ "waiting": { "reason": reason, "message": message } }),
    };
    containers
        .map(|container| {
            json!({
                "name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0,
                "ready": pod.phase == Phase::Running, "started": pod.started.is_some(), "state": state,
            })
        })
        .collect()
}

pub(super) fn node(name: &str, node: &Node) -> Value {
    let amount =
        json!({ "cpu": "4", "memory": "16Gi", "pods": "110", "riseproject.com/runner": node.runners.to_string() });
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name, "uid": format!("node-{name}"), "resourceVersion": node.version.to_string(),
            "creationTimestamp": stamp(node.created),
            "labels": {
                "riseproject.dev/board": node.board, "kubernetes.io/hostname": name, "kubernetes.io/arch": "riscv64",
                "kubernetes.io/os": "linux",
            },
        },
        "spec": { "unschedulable": node.cordoned },
        "status": {
            "allocatable": amount, "capacity": amount,
            "conditions": [{ "type": "Ready", "status": if node.ready { "True" } else { "Unknown" } }],
            "addresses": [{ "type": "Hostname", "address": name }],
            "nodeInfo": {
                "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "6.12.0-model", "osImage": "model",
                "containerRuntimeVersion": "model://1.0", "kubeletVersion": super::VERSION, "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "riscv64",
            },
        },
    })
}

pub(super) fn secret(key: &Key, secret: &Secret) -> Value {
    let mut body = secret.body.as_object().cloned().unwrap_or_default();
    body.insert("apiVersion".into(), json!("v1"));
    body.insert("kind".into(), json!("Secret"));
    let mut metadata = body.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    metadata.insert("namespace".into(), json!(key.namespace));
    body.entry("type").or_insert_with(|| json!("Opaque"));
    metadata.insert("uid".into(), json!(secret.uid));
    metadata.insert("resourceVersion".into(), json!(secret.version.to_string()));
    metadata.insert("creationTimestamp".into(), json!(stamp(secret.created)));
    body.insert("metadata".into(), Value::Object(metadata));
    Value::Object(body)
}

/// `stringData` is for writing only: its values go into `data`, in base64.
pub(super) fn store_string_data(body: &mut Value) {
    let Some(Value::Object(texts)) = body.as_object_mut().and_then(|body| body.remove("stringData")) else { return };
    for (field, text) in texts {
        let bytes = k8s_openapi::ByteString(text.as_str().unwrap_or_default().as_bytes().to_vec());
        body["data"][field] = json!(bytes);
    }
}

/// A Secret's value, as a container's environment gets it.
pub(super) fn secret_value(body: &Value, field: &str) -> Option<String> {
    let data = body.get("data")?.get(field)?;
    let bytes: k8s_openapi::ByteString = serde_json::from_value(data.clone()).ok()?;
    String::from_utf8(bytes.0).ok()
}

/// Unique in its namespace: a pod's name can return, its uid cannot.
pub(super) fn event_name(event: &Event) -> String {
    let serial = event.about_uid.rsplit('-').next().unwrap_or_default();
    format!("{}.{serial}.{}", event.about.name, event.reason.to_lowercase())
}

pub(super) fn event(event: &Event) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {
            "name": event_name(event), "namespace": event.about.namespace, "uid": format!("event-{}", event_name(event)),
            "resourceVersion": event.version.to_string(), "creationTimestamp": stamp(event.first),
        },
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": event.about.namespace, "name": event.about.name,
            "uid": event.about_uid,
        },
        "type": if event.warning { "Warning" } else { "Normal" },
        "reason": event.reason, "message": event.message, "count": event.count,
        "firstTimestamp": stamp(event.first), "lastTimestamp": stamp(event.last),
        "source": { "component": "model" }, "reportingComponent": "model", "reportingInstance": "",
    })
}

pub(super) fn namespace(name: &str, namespace: &Namespace) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": name, "uid": namespace.uid, "resourceVersion": namespace.version.to_string(),
            "creationTimestamp": stamp(namespace.created), "labels": { "kubernetes.io/metadata.name": name },
        },
        "spec": { "finalizers": ["kubernetes"] }, "status": { "phase": "Active" },
    })
}

impl Cluster {
    /// Every object of a kind, in key order; of one namespace unless that is `None`.
    pub fn objects(&self, kind: Kind, namespace: Option<&str>) -> Vec<Value> {
        let here = |key: &Key| namespace.is_none_or(|namespace| key.namespace == namespace);
        match kind {
            Kind::Pod => self.pods.iter().filter(|(key, _)| here(key)).map(|(key, it)| pod(key, it)).collect(),
            Kind::Node => self.nodes.iter().map(|(name, it)| node(name, it)).collect(),
            Kind::Secret => self.secrets.iter().filter(|(key, _)| here(key)).map(|(key, it)| secret(key, it)).collect(),
            Kind::Namespace => self.namespaces.iter().map(|(name, it)| self::namespace(name, it)).collect(),
            Kind::Event => self.events.values().filter(|it| here(&it.about)).map(event).collect(),
        }
    }

    /// Whether a pod has such a container.
    pub fn has_container(&self, key: &Key, container: Option<&str>) -> bool {
        let Some(pod) = self.pods.get(key) else { return false };
        let lists = ["containers", "initContainers"].into_iter();
        let mut all = lists.filter_map(|list| pod.spec.get(list)?.as_array()).flatten();
        all.any(|it| it["name"].as_str() == Some(container.unwrap_or("runner")))
    }

    /// A container's log, or `None` when there is no such container or it has not run.
    pub fn container_log(&self, key: &Key, container: Option<&str>) -> Option<Vec<LogLine>> {
        let pod = self.pods.get(key)?;
        pod.started?;
        let id = (pod.uid.clone(), container.unwrap_or("runner").to_owned());
        self.has_container(key, container).then(|| self.logs.get(&id).cloned().unwrap_or_default())
    }

    /// Whether a pod of this name runs.
    pub fn is_running(&self, key: &Key) -> bool {
        self.pods.get(key).is_some_and(|pod| pod.phase == Phase::Running)
    }
}
