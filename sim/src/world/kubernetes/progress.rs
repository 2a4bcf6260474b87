//! What the cluster does: create, delete, schedule, start, end, collect.

use std::sync::Arc;

use engine::ids::{Span, Time};
use serde_json::{Value, json};

use super::{
    Cluster, Ending, Event, Fate, Key, Kind, Namespace, Phase, Pod, Refusal, Secret, render, requested, secret_ref,
};

/// How long an orphaned Secret stays: the garbage collector is not instant.
const COLLECT: Span = Span::secs(2);
/// How much longer a pod stays that is stuck Terminating.
const STUCK: Span = Span::mins(20);
/// By how much a pod's end shows late.
const LATE: Span = Span::secs(30);
/// `activeDeadlineSeconds` and eviction use these reasons.
const DEADLINE: &str = "DeadlineExceeded";
/// `terminationGracePeriodSeconds` where a pod does not say.
const GRACE: i64 = 30;

impl Cluster {
    /// POST …/pods.
    pub fn create_pod(&mut self, namespace: &str, mut body: Value, now: Time) -> Result<Value, Refusal> {
        let name = self.admit("Pod", namespace, &body)?;
        let key = Key::new(namespace, &name);
        if self.pods.contains_key(&key) {
            return Err(Refusal::AlreadyExists);
        }
        if self.quota.is_some_and(|quota| self.pods.len() >= quota) {
            let (used, quota) = (self.pods.len(), self.quota.unwrap_or_default());
            let message = format!(
                "pods {name:?} is forbidden: exceeded quota: runners, requested: pods=1, used: pods={used}, limited: pods={quota}"
            );
            return Err(Refusal::Forbidden(message));
        }
        if body.pointer("/spec/containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            return Err(Refusal::Invalid(format!("Pod {name:?} is invalid: spec.containers: Required value")));
        }
        let queued = self.next_fates.pop_front().flatten();
        let fate = self.fates.get(&name).copied().or(queued);
        let (uid, version) = (self.new_uid(), self.bump());
        let pod = Pod {
            uid,
            version,
            created: now,
            metadata: Arc::new(body["metadata"].take()),
            spec: Arc::new(with_defaults(body["spec"].take())),
            node: None,
            phase: Phase::Pending,
            scheduled: None,
            pulled: None,
            started: None,
            ending: None,
            ends: None,
            evicted: false,
            deleting: None,
            grace: GRACE,
            waiting: None,
            fate,
        };
        self.pods.insert(key.clone(), pod);
        self.pods_created += 1;
        self.note_pod(&key);
        self.tick(now);
        Ok(self.pods.get(&key).map_or(Value::Null, |pod| render::pod(&key, pod)))
    }

    /// DELETE …/pods/{name}: graceful, gone a little later; at once when it was never scheduled, or with `grace` 0.
    pub fn delete_pod(
        &mut self,
        key: &Key,
        uid: Option<&str>,
        grace: Option<i64>,
        now: Time,
    ) -> Result<Value, Refusal> {
        let pod = self.pods.get_mut(key).ok_or(Refusal::NotFound)?;
        if uid.is_some_and(|uid| uid != pod.uid) {
            let message = format!(
                "Operation cannot be fulfilled on pods {:?}: the UID in the precondition ({}) does not match the UID in record ({}). The object might have been deleted and then recreated",
                key.name,
                uid.unwrap_or(""),
                pod.uid
            );
            return Err(Refusal::Conflict(message));
        }
        let grace = grace.or_else(|| pod.spec.get("terminationGracePeriodSeconds")?.as_i64()).unwrap_or(GRACE);
        if pod.deleting.is_none() || grace < pod.grace {
            pod.deleting.get_or_insert(now);
            pod.grace = grace;
            self.touch_pod(key);
        }
        let object = self.pods.get(key).map_or(Value::Null, |pod| render::pod(key, pod));
        if grace == 0 {
            self.remove_pod(key);
        } else {
            self.advance(key, now);
        }
        Ok(object)
    }

    /// POST …/secrets.
    pub fn create_secret(&mut self, namespace: &str, mut body: Value, now: Time) -> Result<Value, Refusal> {
        let name = self.admit("Secret", namespace, &body)?;
        let key = Key::new(namespace, &name);
        if self.secrets.contains_key(&key) {
            return Err(Refusal::AlreadyExists);
        }
        render::store_string_data(&mut body);
        let owners = body.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
        let owners = owners.filter_map(|owner| Some(owner.get("uid")?.as_str()?.to_owned())).collect();
        let (uid, version) = (self.new_uid(), self.bump());
        self.orphans = true;
        self.secrets.insert(key.clone(), Secret { uid, version, created: now, body: Arc::new(body), owners });
        self.note_secret(&key);
        self.tick(now);
        Ok(self.secrets.get(&key).map_or(Value::Null, |secret| render::secret(&key, secret)))
    }

    /// DELETE …/secrets/{name}.
    pub fn delete_secret(&mut self, key: &Key) -> Result<(), Refusal> {
        if !self.secrets.contains_key(key) {
            return Err(Refusal::NotFound);
        }
        self.bump();
        self.secrets.remove(key);
        self.note_secret(key);
        Ok(())
    }

    /// POST /api/v1/namespaces.
    pub fn create_namespace(&mut self, name: &str, now: Time) -> Result<Value, Refusal> {
        legal_name("Namespace", name)?;
        if self.namespaces.contains_key(name) {
            return Err(Refusal::AlreadyExists);
        }
        let (uid, version) = (self.new_uid(), self.bump());
        let namespace = Namespace { uid, version, created: now };
        let object = render::namespace(name, &namespace);
        self.namespaces.insert(name.to_owned(), namespace);
        self.note(Kind::Namespace, &Key::new("", name), Some(object.clone()));
        Ok(object)
    }

    /// DELETE /api/v1/namespaces/{name}: gone at once, with all that is in it.
    pub fn delete_namespace(&mut self, name: &str) -> Result<Value, Refusal> {
        let namespace = self.namespaces.remove(name).ok_or(Refusal::NotFound)?;
        for key in self.pod_keys().into_iter().filter(|key| key.namespace == name) {
            self.remove_pod(&key);
        }
        let secrets: Vec<Key> = self.secrets.keys().filter(|key| key.namespace == name).cloned().collect();
        for key in secrets {
            // It was there a moment ago; nothing else removes it.
            let _ = self.delete_secret(&key);
        }
        self.events.retain(|_, event| event.about.namespace != name);
        self.bump();
        self.note(Kind::Namespace, &Key::new("", name), None);
        Ok(render::namespace(name, &namespace))
    }

    /// What every new object must be: of this kind, of a legal name, in a namespace that exists. Its name.
    fn admit(&self, kind: &str, namespace: &str, body: &Value) -> Result<String, Refusal> {
        if body.get("kind").and_then(Value::as_str).is_some_and(|said| said != kind) {
            return Err(Refusal::BadRequest(format!("the object provided is not a {kind}")));
        }
        let within = body.pointer("/metadata/namespace").and_then(Value::as_str);
        if within.is_some_and(|within| within != namespace) {
            let message = "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Refusal::BadRequest(message.to_owned()));
        }
        if !self.namespaces.contains_key(namespace) {
            return Err(Refusal::NoNamespace(namespace.to_owned()));
        }
        let name = body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        legal_name(kind, name)?;
        Ok(name.to_owned())
    }

    /// Lets everything happen that is due. Call after time has moved.
    pub fn tick(&mut self, now: Time) {
        let moves = |pod: &Pod| pod.deleting.is_some() || !matches!(pod.phase, Phase::Succeeded | Phase::Failed);
        let moving: Vec<Key> = self.pods.iter().filter(|(_, pod)| moves(pod)).map(|(key, _)| key.clone()).collect();
        for key in moving {
            self.advance(&key, now);
        }
        if self.orphans {
            self.collect_secrets(now);
        }
    }

    fn advance(&mut self, key: &Key, now: Time) {
        let Some(pod) = self.pods.get(key) else { return };
        let node_lost = pod.node.as_ref().is_some_and(|node| self.nodes.get(node).is_none_or(|node| !node.ready));
        if let Some(since) = pod.deleting {
            let stuck = if pod.fate == Some(Fate::StuckTerminating) { STUCK } else { Span::ZERO };
            let over =
                pod.node.is_none() || (now.since(since) >= Span(self.timing.terminate.0 + stuck.0) && !node_lost);
            if over {
                self.remove_pod(key);
            }
            return;
        }
        match pod.phase {
            Phase::Pending if pod.node.is_none() => self.schedule(key, now),
            Phase::Pending => self.start(key, now),
            Phase::Running if node_lost => self.edit_pod(key, |pod| pod.phase = Phase::Unknown),
            Phase::Unknown if !node_lost => self.edit_pod(key, |pod| pod.phase = Phase::Running),
            Phase::Running => self.keep_running(key, now),
            Phase::Succeeded | Phase::Failed | Phase::Unknown => {}
        }
    }

    fn schedule(&mut self, key: &Key, now: Time) {
        let Some(pod) = self.pods.get(key) else { return };
        let wanted = requested(&pod.spec);
        let used = self.used();
        let selector = pod.spec.get("nodeSelector").and_then(Value::as_object);
        let fits = |(name, node): &(&String, &super::Node)| {
            let matches = selector.into_iter().flatten().all(|(label, value)| match label.as_str() {
                "riseproject.dev/board" => value.as_str() == Some(node.board.as_str()),
                "kubernetes.io/hostname" => value.as_str() == Some(name.as_str()),
                _ => false,
            });
            node.ready
                && !node.cordoned
                && matches
                && used.get(name.as_str()).copied().unwrap_or(0) + wanted <= node.runners
        };
        let node = if pod.fate == Some(Fate::Unschedulable) {
            None
        } else {
            self.nodes.iter().find(fits).map(|(name, _)| name.clone())
        };
        let Some(node) = node else {
            let message =
                format!("0/{} nodes are available: insufficient {}.", self.nodes.len(), super::RUNNER_RESOURCE);
            if pod.waiting.is_none() {
                self.edit_pod(key, |pod| pod.waiting = Some(("Unschedulable".to_owned(), message.clone())));
                self.event(key, "FailedScheduling", &message, true, now);
            }
            return;
        };
        let message = format!("Successfully assigned {}/{} to {node}", key.namespace, key.name);
        self.edit_pod(key, |pod| {
            pod.node = Some(node);
            pod.scheduled = Some(now);
            pod.waiting = Some(("ContainerCreating".to_owned(), String::new()));
        });
        self.event(key, "Scheduled", &message, false, now);
        self.start(key, now);
    }

    /// Runners in use, by node.
    fn used(&self) -> std::collections::BTreeMap<&str, u32> {
        let mut used = std::collections::BTreeMap::new();
        for pod in self.pods.values().filter(|pod| !matches!(pod.phase, Phase::Succeeded | Phase::Failed)) {
            if let Some(node) = &pod.node {
                *used.entry(node.as_str()).or_default() += requested(&pod.spec);
            }
        }
        used
    }

    fn start(&mut self, key: &Key, now: Time) {
        let Some(pod) = self.pods.get(key) else { return };
        let (Some(scheduled), fate) = (pod.scheduled, pod.fate) else { return };
        if now.since(scheduled) < self.timing.pull {
            return;
        }
        if fate == Some(Fate::ImagePullBackOff) {
            return self.wait_for(key, "ImagePullBackOff", "Back-off pulling image", "Failed", now);
        }
        let pulled = pod.pulled.unwrap_or(now);
        if pod.pulled.is_none() {
            self.edit_pod(key, |pod| pod.pulled = Some(now));
            self.event(key, "Pulled", "Container image already present on machine", false, now);
        }
        let Some(pod) = self.pods.get(key) else { return };
        if let Some((secret, _)) = secret_ref(&pod.spec)
            && !self.secrets.contains_key(&Key::new(&key.namespace, &secret))
        {
            let message = format!("secret \"{secret}\" not found");
            return self.wait_for(key, "CreateContainerConfigError", &message, "Failed", now);
        }
        if now.since(pulled) < self.timing.start {
            return;
        }
        let uid = pod.uid.clone();
        self.edit_pod(key, |pod| {
            pod.phase = Phase::Running;
            pod.started = Some(now);
            pod.waiting = None;
        });
        self.event(key, "Started", "Started container runner", false, now);
        self.append_log(&uid, "dind", "API listen on [::]:2376", now);
        self.append_log(&uid, "runner", "Connected to the container engine", now);
        match fate {
            Some(Fate::FailsAtStart(code)) => self.finish(key, code, "Error", "the runner could not start", now),
            Some(Fate::OutOfMemory) => self.finish(key, 137, "OOMKilled", "", now),
            Some(
                Fate::ImagePullBackOff
                | Fate::Unschedulable
                | Fate::NeverConnects
                | Fate::StuckTerminating
                | Fate::LateStatus,
            )
            | None => {}
        }
    }

    fn wait_for(&mut self, key: &Key, reason: &str, message: &str, event: &str, now: Time) {
        let waits =
            self.pods.get(key).is_some_and(|pod| pod.waiting.as_ref().is_some_and(|(known, _)| known == reason));
        if waits {
            return;
        }
        self.edit_pod(key, |pod| pod.waiting = Some((reason.to_owned(), message.to_owned())));
        self.event(key, event, &format!("Error: {reason}: {message}"), true, now);
    }

    fn keep_running(&mut self, key: &Key, now: Time) {
        let Some(pod) = self.pods.get(key) else { return };
        if let Some((_, code)) = pod.ends.filter(|(at, _)| now >= *at) {
            return self.finish(key, code, if code == 0 { "Completed" } else { "Error" }, "", now);
        }
        let deadline = pod.spec.get("activeDeadlineSeconds").and_then(Value::as_i64);
        let over = deadline.zip(pod.started).is_some_and(|(limit, started)| now.since(started) >= Span::secs(limit));
        if over {
            self.finish(key, 137, DEADLINE, "Pod was active on the node longer than the specified deadline", now);
        }
    }

    /// The runner container ends; the pod with it.
    pub fn finish_runner(&mut self, key: &Key, uid: &str, code: i32, now: Time) {
        if !self.runs(key, uid) {
            return;
        }
        let late = self.pods.get(key).is_some_and(|pod| pod.fate == Some(Fate::LateStatus));
        match self.pods.get_mut(key).filter(|_| late) {
            Some(pod) => pod.ends = pod.ends.or(Some((now + LATE, code))),
            None => self.finish(key, code, if code == 0 { "Completed" } else { "Error" }, "", now),
        }
    }

    fn finish(&mut self, key: &Key, code: i32, reason: &str, message: &str, now: Time) {
        let ending = Ending { code, at: now, reason: reason.to_owned(), message: message.to_owned() };
        self.edit_pod(key, |pod| {
            pod.phase = if code == 0 { Phase::Succeeded } else { Phase::Failed };
            pod.evicted = ending.reason == DEADLINE;
            pod.ending = Some(ending);
        });
    }

    /// The kubelet evicts a pod, or its node is gone.
    pub fn evict(&mut self, key: &Key, reason: &str, now: Time) {
        let ending = Ending {
            code: 137,
            at: now,
            reason: reason.to_owned(),
            message: "The node was low on resource".to_owned(),
        };
        let ended = self.pods.get(key).is_none_or(|pod| matches!(pod.phase, Phase::Succeeded | Phase::Failed));
        if ended {
            return;
        }
        self.edit_pod(key, |pod| {
            pod.phase = Phase::Failed;
            pod.evicted = true;
            pod.ending = Some(ending);
        });
        self.event(key, reason, "The node was low on resource", true, now);
    }

    /// A pod goes at once, as with force: a node that never came back.
    pub fn remove_pod(&mut self, key: &Key) {
        self.bump();
        self.orphans = true;
        if let Some(pod) = self.pods.remove(key) {
            self.logs.retain(|(uid, _), _| *uid != pod.uid);
        }
        self.note_pod(key);
    }

    /// Somebody deletes a pod by force, and makes another like it without its Secret: its uid.
    pub fn replace_pod(&mut self, key: &Key, now: Time) -> Option<String> {
        let pod = self.pods.get(key)?.clone();
        self.remove_pod(key);
        // Nothing else has its name.
        let _ = self.delete_secret(key);
        let body = serde_json::json!({ "metadata": *pod.metadata, "spec": *pod.spec });
        let fates = std::mem::take(&mut self.next_fates);
        let _ = self.create_pod(&key.namespace, body, now);
        self.next_fates = fates;
        self.pods.get(key).map(|pod| pod.uid.clone())
    }

    fn collect_secrets(&mut self, now: Time) {
        let alive: std::collections::BTreeSet<&str> = self.pods.values().map(|pod| pod.uid.as_str()).collect();
        let owned = |secret: &Secret| {
            secret.owners.is_empty() || secret.owners.iter().any(|owner| alive.contains(owner.as_str()))
        };
        let orphans: Vec<(Key, Time)> = self
            .secrets
            .iter()
            .filter(|(_, secret)| !owned(secret))
            .map(|(key, secret)| (key.clone(), secret.created))
            .collect();
        self.orphans = false;
        for (key, created) in orphans {
            if now.since(created) < COLLECT {
                self.orphans = true;
                continue;
            }
            // It was there a moment ago; nothing else removes it.
            let _ = self.delete_secret(&key);
        }
    }

    fn edit_pod(&mut self, key: &Key, edit: impl FnOnce(&mut Pod)) {
        let Some(pod) = self.pods.get_mut(key) else { return };
        edit(pod);
        self.touch_pod(key);
    }

    fn touch_pod(&mut self, key: &Key) {
        let version = self.bump();
        if let Some(pod) = self.pods.get_mut(key) {
            pod.version = version;
        }
        self.note_pod(key);
    }

    fn note_pod(&mut self, key: &Key) {
        let object = self.pods.get(key).map(|pod| render::pod(key, pod));
        self.note(Kind::Pod, key, object);
    }

    fn note_secret(&mut self, key: &Key) {
        let object = self.secrets.get(key).map(|secret| render::secret(key, secret));
        self.note(Kind::Secret, key, object);
    }

    fn event(&mut self, key: &Key, reason: &str, message: &str, warning: bool, now: Time) {
        let uid = self.pods.get(key).map_or_else(String::new, |pod| pod.uid.clone());
        let version = self.bump();
        let id = (uid.clone(), reason.to_owned());
        let event = self.events.entry(id.clone()).or_insert_with(|| Event {
            version,
            about: key.clone(),
            about_uid: uid,
            reason: reason.to_owned(),
            message: message.to_owned(),
            warning,
            count: 0,
            first: now,
            last: now,
        });
        event.count += 1;
        event.last = now;
        event.version = version;
        let (name, object) = (render::event_name(event), render::event(event));
        self.note(Kind::Event, &Key::new(&key.namespace, &name), Some(object));
    }
}

/// What the API fills in where a pod does not say.
fn with_defaults(mut spec: Value) -> Value {
    let defaults = json!({
        "restartPolicy": "Always", "terminationGracePeriodSeconds": GRACE, "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler", "serviceAccountName": "default", "serviceAccount": "default",
        "securityContext": {}, "enableServiceLinks": true,
    });
    if let (Some(spec), Some(defaults)) = (spec.as_object_mut(), defaults.as_object()) {
        for (name, value) in defaults {
            spec.entry(name).or_insert_with(|| value.clone());
        }
    }
    spec
}

fn legal_name(kind: &str, name: &str) -> Result<(), Refusal> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let legal = name.len() <= 253
        && name.bytes().all(|b| inner(b) || b == b'-' || b == b'.')
        && name.bytes().next().is_some_and(inner)
        && name.bytes().next_back().is_some_and(inner);
    let message = || {
        format!(
            "{kind} {name:?} is invalid: metadata.name: Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'"
        )
    };
    if legal { Ok(()) } else { Err(Refusal::Invalid(message())) }
}
