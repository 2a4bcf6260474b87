//! Kubernetes' objects as the engine's facts.

use engine::{
    facts::{Node as NodeFact, Pod as PodFact, PodPhase},
    ids::{NodeName, PodUid, Pool, Time, WorkerName},
};
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time as Stamp,
};

use super::pod::{BOARD_NODE_LABEL, CONTAINER, RUNNER_RESOURCE};

fn time(stamp: &Stamp) -> Time {
    Time(stamp.0.as_millisecond())
}

/// `None` for an object without name or uid: the API never sends one.
pub(super) fn pod(pod: &Pod) -> Option<PodFact> {
    let name = WorkerName::from(pod.metadata.name.as_deref()?);
    let uid = PodUid::from(pod.metadata.uid.as_deref()?);
    let status = pod.status.as_ref();
    let spec = pod.spec.as_ref();
    let runner = status.and_then(|status| status.container_statuses.as_ref()?.iter().find(|it| it.name == CONTAINER));
    let state = runner.and_then(|runner| runner.state.as_ref());
    let ended = state.and_then(|state| state.terminated.as_ref());
    let started = state.and_then(|state| state.running.as_ref()?.started_at.as_ref());
    Some(PodFact {
        name,
        uid,
        pool: spec
            .and_then(|spec| spec.node_selector.as_ref()?.get(BOARD_NODE_LABEL))
            .map(|pool| Pool::from(pool.as_str())),
        phase: phase(status.and_then(|status| status.phase.as_deref())),
        node: spec.and_then(|spec| spec.node_name.as_deref()).map(NodeName::from),
        created_at: pod.metadata.creation_timestamp.as_ref().map_or(Time::ZERO, time),
        started_at: started.or_else(|| ended.and_then(|ended| ended.started_at.as_ref())).map(time),
        finished_at: ended.and_then(|ended| ended.finished_at.as_ref()).map(time),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        waiting: waiting(pod),
    })
}

fn phase(word: Option<&str>) -> PodPhase {
    match word {
        Some("Running") => PodPhase::Running,
        Some("Succeeded") => PodPhase::Succeeded,
        Some("Failed") => PodPhase::Failed,
        Some("Unknown") => PodPhase::Unknown,
        // A pod that was just created has no phase yet.
        Some(_) | None => PodPhase::Pending,
    }
}

/// Why the pod waits: its runner container's reason, else another container's, else why it is not scheduled.
fn waiting(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let reason = |container: &ContainerStatus| container.state.as_ref()?.waiting.as_ref()?.reason.clone();
    let containers = status.container_statuses.iter().flatten();
    let init = status.init_container_statuses.iter().flatten();
    let of_runner = containers.clone().filter(|it| it.name == CONTAINER).find_map(reason);
    of_runner.or_else(|| containers.chain(init).find_map(reason)).or_else(|| {
        let conditions = status.conditions.iter().flatten();
        let unscheduled = |condition: &&k8s_openapi::api::core::v1::PodCondition| {
            condition.type_ == "PodScheduled" && condition.status == "False"
        };
        conditions.into_iter().find(unscheduled)?.reason.clone()
    })
}

/// A node that is not Ready, or is cordoned, offers nothing.
pub(super) fn node(node: &Node) -> Option<NodeFact> {
    let name = NodeName::from(node.metadata.name.as_deref()?);
    let status = node.status.as_ref();
    let ready = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = ready.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let runners = status.and_then(|status| status.allocatable.as_ref()?.get(RUNNER_RESOURCE));
    Some(NodeFact {
        name,
        pool: node
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(BOARD_NODE_LABEL))
            .map(|pool| Pool::from(pool.as_str())),
        runners: runners.and_then(|quantity| quantity.0.parse().ok()).unwrap_or(0),
        usable: ready && !cordoned,
    })
}
