//! `meta.k8s.io/v1 Table`: the columns that kubectl shows.

use engine::ids::Time;
use serde_json::{Value, json};

use crate::world::kubernetes::Kind;

/// A column: its name, its type, and from which width on it is shown (0 is always).
type Column = (&'static str, &'static str, u8);

fn columns(kind: Kind) -> &'static [Column] {
    match kind {
        Kind::Pod => &[
            ("Name", "string", 0),
            ("Ready", "string", 0),
            ("Status", "string", 0),
            ("Restarts", "string", 0),
            ("Age", "string", 0),
            ("IP", "string", 1),
            ("Node", "string", 1),
            ("Nominated Node", "string", 1),
            ("Readiness Gates", "string", 1),
        ],
        Kind::Node => &[
            ("Name", "string", 0),
            ("Status", "string", 0),
            ("Roles", "string", 0),
            ("Age", "string", 0),
            ("Version", "string", 0),
        ],
        Kind::Secret => &[("Name", "string", 0), ("Type", "string", 0), ("Data", "integer", 0), ("Age", "string", 0)],
        Kind::Namespace => &[("Name", "string", 0), ("Status", "string", 0), ("Age", "string", 0)],
        Kind::Event => &[
            ("Last Seen", "string", 0),
            ("Type", "string", 0),
            ("Reason", "string", 0),
            ("Object", "string", 0),
            ("Message", "string", 0),
        ],
    }
}

/// Objects of one kind as a table; `metadata` is that of the list.
pub(super) fn of(kind: Kind, objects: &[Value], metadata: Value, now: Time) -> Value {
    let definitions: Vec<Value> = columns(kind)
        .iter()
        .map(|(name, of, priority)| {
            let format = if *name == "Name" { "name" } else { "" };
            json!({ "name": name, "type": of, "format": format, "description": "", "priority": priority })
        })
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let partial = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
            });
            json!({ "cells": cells(kind, object, now), "object": partial })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": definitions,
        "rows": rows,
    })
}

fn cells(kind: Kind, object: &Value, now: Time) -> Value {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or("<none>");
    let name = text("/metadata/name");
    let age = since(text("/metadata/creationTimestamp"), now);
    match kind {
        Kind::Pod => {
            let (ready, all) = readiness(object);
            json!([
                name,
                format!("{ready}/{all}"),
                pod_status(object),
                "0",
                age,
                "<none>",
                text("/spec/nodeName"),
                "<none>",
                "<none>",
            ])
        }
        Kind::Node => json!([name, node_status(object), "<none>", age, text("/status/nodeInfo/kubeletVersion")]),
        Kind::Secret => {
            let data = object["data"].as_object().map_or(0, serde_json::Map::len);
            json!([name, text("/type"), data, age])
        }
        Kind::Namespace => json!([name, text("/status/phase"), age]),
        Kind::Event => {
            let about = format!("pod/{}", text("/involvedObject/name"));
            json!([since(text("/lastTimestamp"), now), text("/type"), text("/reason"), about, text("/message")])
        }
    }
}

fn list<'a>(object: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> {
    object.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

/// Containers that are ready, and all: a sidecar is an init container that is restarted always.
fn readiness(pod: &Value) -> (usize, usize) {
    let sidecars: Vec<&str> = list(pod, "/spec/initContainers")
        .filter(|it| it["restartPolicy"].as_str() == Some("Always"))
        .filter_map(|it| it["name"].as_str())
        .collect();
    let statuses = list(pod, "/status/containerStatuses").chain(
        list(pod, "/status/initContainerStatuses")
            .filter(|it| it["name"].as_str().is_some_and(|name| sidecars.contains(&name))),
    );
    let ready = statuses.filter(|it| it["ready"].as_bool() == Some(true)).count();
    (ready, list(pod, "/spec/containers").count() + sidecars.len())
}

fn pod_status(pod: &Value) -> String {
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        return "Terminating".to_owned();
    }
    if let Some(reason) = pod.pointer("/status/reason").and_then(Value::as_str) {
        return reason.to_owned();
    }
    let of_containers = list(pod, "/status/containerStatuses").find_map(|it| {
        let waiting = it.pointer("/state/waiting/reason").or_else(|| it.pointer("/state/terminated/reason"))?;
        waiting.as_str().filter(|reason| !reason.is_empty())
    });
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("Unknown");
    of_containers.unwrap_or(phase).to_owned()
}

fn node_status(node: &Value) -> String {
    let ready = list(node, "/status/conditions")
        .any(|it| it["type"].as_str() == Some("Ready") && it["status"].as_str() == Some("True"));
    let cordoned = node.pointer("/spec/unschedulable").and_then(Value::as_bool) == Some(true);
    let word = if ready { "Ready" } else { "NotReady" };
    if cordoned { format!("{word},SchedulingDisabled") } else { word.to_owned() }
}

/// How long ago, as kubectl writes it.
fn since(stamp: &str, now: Time) -> String {
    let Ok(at) = stamp.parse::<jiff::Timestamp>() else { return "<unknown>".to_owned() };
    let seconds = (now.0 / 1000 - at.as_second()).max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{minutes}m{}s", seconds % 60),
        120..10_800 => format!("{minutes}m"),
        10_800..28_800 if minutes % 60 != 0 => format!("{hours}h{}m", minutes % 60),
        10_800..172_800 => format!("{hours}h"),
        _ => format!("{}d", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_writes_them() {
        let begun = "2026-05-13T15:06:40Z";
        let start: jiff::Timestamp = begun.parse().unwrap();
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (660, "11m"),
            (11_000, "3h3m"),
            (30_000, "8h"),
            (200_000, "2d"),
        ] {
            assert_eq!(since(begun, Time((start.as_second() + seconds) * 1000)), text, "{seconds}");
        }
        assert_eq!(since("no time", Time(0)), "<unknown>");
    }
}
