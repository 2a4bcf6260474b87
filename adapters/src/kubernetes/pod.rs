//! The pod of a worker, as spec'd in the reference's facts ("The pod").

use std::collections::BTreeSet;

use engine::{facts::Worker, ids::Pool};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// What marks a pod as ours.
pub(super) const APP_LABEL: &str = "app";
/// Its value.
pub(super) const APP_VALUE: &str = "rise-riscv-runner";
/// A node's kind of board.
pub(super) const BOARD_NODE_LABEL: &str = "riseproject.dev/board";
/// The extended resource that boards offer.
pub(super) const RUNNER_RESOURCE: &str = "riseproject.com/runner";
/// The container that runs the job.
pub(super) const CONTAINER: &str = "runner";
/// The Secret's one key.
pub(super) const JIT_KEY: &str = "jitconfig";
/// 6 days and 2 hours: longer than any job may run (5 days), so that it ends only what was forgotten.
const DEADLINE_SECONDS: i64 = 525_600;
/// The overlay network's MTU. Without it TLS handshakes inside jobs' containers hang.
const DIND_MTU: &str = "--mtu=1450";
/// The runner reads its configuration from ACTIONS_RUNNER_INPUT_JITCONFIG: it is in no argument.
const START: &str = r#"
cached="/home/runner/actions-runner/cached/${RUNNER_VERSION:-}"
if [ -n "${RUNNER_VERSION:-}" ] && [ -d "$cached" ]; then cd "$cached"; fi
if [ -x ./run.sh ]; then exec ./run.sh; fi
echo "no runner found: neither $cached/run.sh nor $PWD/run.sh exists" >&2
exit 1
"#;

/// What every pod shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSettings {
    /// Where pods are created.
    pub namespace: String,
    /// Images are `{registry}/riscv-runner:{image}-{tag}`.
    pub registry: String,
    /// `latest` or `staging`.
    pub tag: String,
    /// Pools whose pod network has no DNS.
    pub host_network: BTreeSet<Pool>,
}

/// A legal label value made of any text: at most 63 of [A-Za-z0-9._-], alphanumeric at both ends.
pub fn label_value(text: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let cut: String = text.chars().map(legal).take(63).collect();
    cut.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

/// The pod.
pub(super) fn build(worker: &Worker, settings: &PodSettings) -> Result<Pod, serde_json::Error> {
    let image = |name: &str| format!("{}/riscv-runner:{name}-{}", settings.registry, settings.tag);
    let body = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": worker.name.as_str(),
            "namespace": settings.namespace,
            "labels": {
                APP_LABEL: APP_VALUE,
                "riseproject.com/entity_id": worker.entity.to_string(),
                "riseproject.com/entity_name": label_value(&worker.entity_name),
                "riseproject.com/board": label_value(worker.pool.as_str()),
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "hostNetwork": settings.host_network.contains(&worker.pool),
            "automountServiceAccountToken": false,
            "nodeSelector": { BOARD_NODE_LABEL: worker.pool.as_str() },
            "initContainers": [dind(&image("dind"))],
            "containers": [runner(worker, &image(worker.image.as_str()))],
            "volumes": [
                { "name": "docker-certs", "emptyDir": {} },
                { "name": "docker-storage", "emptyDir": {} },
                { "name": "workspace", "emptyDir": {} },
            ],
        },
    });
    serde_json::from_value(body)
}

/// Docker for the job, as a sidecar: an init container that goes on.
fn dind(image: &str) -> Value {
    json!({
        "name": "dind", "image": image, "imagePullPolicy": "IfNotPresent", "restartPolicy": "Always",
        "args": [DIND_MTU],
        "securityContext": { "privileged": true },
        "env": [{ "name": "DOCKER_TLS_CERTDIR", "value": "/docker-certs" }],
        "volumeMounts": [
            { "name": "docker-certs", "mountPath": "/docker-certs" },
            { "name": "docker-storage", "mountPath": "/var/lib/docker" },
            { "name": "workspace", "mountPath": "/home/runner/_work" },
        ],
    })
}

fn runner(worker: &Worker, image: &str) -> Value {
    json!({
        "name": CONTAINER, "image": image, "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/bash", "-c", START],
        "securityContext": { "privileged": true },
        "env": [
            { "name": "ACTIONS_RUNNER_INPUT_JITCONFIG",
              "valueFrom": { "secretKeyRef": { "name": worker.name.as_str(), "key": JIT_KEY } } },
            { "name": "GITHUB_ACTIONS_RUNNER_TRACE", "value": "1" },
            { "name": "RUNNER_WAIT_FOR_DOCKER_IN_SECONDS", "value": "60" },
            { "name": "DOCKER_HOST", "value": "tcp://localhost:2376" },
            { "name": "DOCKER_TLS_CERTDIR", "value": "/docker-certs" },
            { "name": "DOCKER_TLS_VERIFY", "value": "1" },
            { "name": "DOCKER_CERT_PATH", "value": "/docker-certs/client" },
        ],
        "volumeMounts": [
            { "name": "docker-certs", "mountPath": "/docker-certs", "readOnly": true },
            { "name": "workspace", "mountPath": "/home/runner/_work" },
        ],
        "resources": { "limits": { RUNNER_RESOURCE: "1" } },
    })
}

#[cfg(test)]
mod tests {
    use super::label_value;

    #[test]
    fn any_text_becomes_a_legal_label_value() {
        for (text, value) in [
            ("octo-org", "octo-org"),
            ("-odd name!", "odd-name"),
            ("", ""),
            ("___", ""),
            (&"x".repeat(80), &"x".repeat(63)),
            ("ünï", "n"),
        ] {
            assert_eq!(label_value(text), value, "{text:?}");
        }
    }
}
