//! The manifests under deploy/: they follow the published schemas, their probes are answered, and the scheduler's role
//! grants exactly the calls that it makes, no more and no fewer.

use std::{collections::BTreeSet, path::PathBuf};

use engine::{facts::Status, ids::Span};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Container, Service},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use sim::{
    harness::Error,
    http::kubernetes::Call,
    testing::service::{OWN_REPO, REPO, World, run_test},
    world::kubernetes::Fate,
};

const BOARD: &str = "scw-em-rv1";
const LABEL: &str = "ubuntu-24.04-riscv";

fn manifests(file: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The one manifest of a kind, as its published type; nothing in it may be unknown to that type.
fn manifest<T: DeserializeOwned + Serialize>(file: &str, kind: &str) -> T {
    let mut found: Vec<Value> = manifests(file).into_iter().filter(|it| it["kind"] == kind).collect();
    let (Some(value), true) = (found.pop(), found.is_empty()) else { panic!("{file} has not one {kind}") };
    let read: T = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{file}, {kind}: {error}"));
    let again = serde_json::to_value(&read).unwrap();
    assert_eq!(again, value, "{file}, {kind}: a field is not known");
    read
}

fn container(process: &str) -> (Deployment, Container) {
    let deployment: Deployment = manifest(&format!("base/{process}.yaml"), "Deployment");
    let pod = deployment.spec.template.spec.clone().unwrap();
    assert_eq!(pod.containers.len(), 1);
    (deployment, pod.containers[0].clone())
}

#[test]
fn two_of_each_process_are_deployed_and_may_do_nothing_else() {
    for process in ["ghfe", "scheduler"] {
        let (deployment, container) = container(process);
        let spec = deployment.spec;
        assert_eq!(spec.replicas, Some(2), "{process}");
        let template = spec.template;
        let labels = template.metadata.unwrap().labels;
        assert_eq!(spec.selector.match_labels, labels, "{process}");
        let service: Service = manifest(&format!("base/{process}.yaml"), "Service");
        assert_eq!(service.spec.unwrap().selector, labels, "{process}: its service finds its pods");
        let pod = template.spec.unwrap();
        // L9: a process ends within 30 s.
        assert!(pod.termination_grace_period_seconds.unwrap() > 30, "{process}");
        assert_eq!(pod.automount_service_account_token, Some(false), "{process}");
        assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true), "{process}");
        let security = container.security_context.unwrap();
        assert_eq!(security.read_only_root_filesystem, Some(true), "{process}");
        assert_eq!(security.allow_privilege_escalation, Some(false), "{process}");
        assert_eq!(security.capabilities.unwrap().drop.unwrap(), ["ALL"], "{process}");
        assert_eq!(container.image.as_deref(), Some(process), "the overlays put the registry and the tag in");
        assert_eq!(container.image_pull_policy.as_deref(), Some("Always"), "{process}: its tags move");
        let names: Vec<String> = container.env.unwrap().into_iter().map(|it| it.name).collect();
        let known: &[&str] = if process == "ghfe" { &["LISTEN"] } else { &["LISTEN", "GLIBC_TUNABLES"] };
        assert_eq!(names, known, "{process}: no secret is in a manifest");
    }
    for (overlay, prod, tag) in [("production", "\"true\"", "latest"), ("staging", "\"false\"", "staging")] {
        let overlay = &manifests(&format!("{overlay}/kustomization.yaml"))[0];
        assert_eq!(overlay["resources"], serde_json::json!(["../base"]));
        let images = overlay["images"].as_array().unwrap();
        let named: Vec<_> =
            images.iter().map(|it| (it["name"].as_str().unwrap(), it["newTag"].as_str().unwrap())).collect();
        assert_eq!(named, [("ghfe", tag), ("scheduler", tag)]);
        let patch = overlay["patches"][0]["patch"].as_str().unwrap();
        assert!(patch.contains(&format!("name: PROD, value: {prod}")), "{patch}");
    }
}

#[test]
fn every_probe_is_answered() {
    run_test(World::new(), async |ctx| {
        let client = Client::builder(TokioExecutor::new()).build_http();
        for (process, address) in [("ghfe", ctx.service.ghfe), ("scheduler", ctx.service.scheduler)] {
            let (_, container) = container(process);
            let port = &container.ports.as_ref().unwrap()[0];
            let env = container.env.unwrap();
            let listen = env.iter().find(|it| it.name == "LISTEN").unwrap().value.clone().unwrap();
            assert!(listen.ends_with(&format!(":{}", port.container_port)), "{process} listens where it is asked");
            for probe in [container.liveness_probe.unwrap(), container.readiness_probe.unwrap()] {
                let get = probe.http_get.unwrap();
                let url = format!("http://{address}{}", get.path.unwrap());
                let answer = client.request(http::Request::get(&url).body(Empty::<bytes::Bytes>::new())?).await?;
                let status = answer.status().as_u16();
                let body = answer.into_body().collect().await?.to_bytes();
                assert_eq!(status, 200, "{process}: {url}: {body:?}");
            }
        }
        Ok::<(), Error>(())
    });
}

/// What rules grant, call by call.
fn granted(rules: Option<Vec<PolicyRule>>, namespace: Option<&str>) -> BTreeSet<Call> {
    let mut calls = BTreeSet::new();
    for rule in rules.unwrap_or_default() {
        assert_eq!(rule.api_groups, Some(vec![String::new()]), "the service calls the core group alone");
        assert_eq!((&rule.resource_names, &rule.non_resource_urls), (&None, &None));
        for resource in rule.resources.unwrap_or_default() {
            for verb in &rule.verbs {
                let namespace = namespace.map(str::to_owned);
                let call = Call { verb: verb.clone().into(), resource: resource.clone(), namespace };
                assert!(calls.insert(call), "{verb} {resource} is granted twice");
            }
        }
    }
    calls
}

#[test]
fn the_schedulers_role_grants_exactly_the_calls_it_makes() {
    let file = "runners/rbac.yaml";
    let role: Role = manifest(file, "Role");
    let everywhere: ClusterRole = manifest(file, "ClusterRole");
    let namespace = role.metadata.namespace.clone().unwrap();
    for (bound, subjects, name) in [
        {
            let binding: RoleBinding = manifest(file, "RoleBinding");
            assert_eq!(binding.metadata.namespace.as_ref(), Some(&namespace));
            (binding.role_ref, binding.subjects, role.metadata.name)
        },
        {
            let binding: ClusterRoleBinding = manifest(file, "ClusterRoleBinding");
            (binding.role_ref, binding.subjects, everywhere.metadata.name)
        },
    ] {
        assert_eq!(Some(bound.name), name);
        let subject = &subjects.unwrap()[0];
        assert_eq!((subject.kind.as_str(), subject.name.as_str()), ("ServiceAccount", "runner-scheduler"));
    }
    let mut grants = granted(role.rules, Some(&namespace));
    grants.extend(granted(everywhere.rules, None));

    let mut world = World::new().nodes(BOARD, 3);
    world.policy.timeouts.grace = Span::mins(1);
    world.policy.timeouts.pending = Span::mins(1);
    // A pod that fails (its diagnosis is read), one that cannot start, one that never registers, and jobs that are done.
    world.cluster.next_fates =
        [Some(Fate::OutOfMemory), Some(Fate::ImagePullBackOff), Some(Fate::NeverConnects), None].into();
    run_test(world, async |ctx| {
        for id in 1..=4 {
            let repo = if id % 2 == 0 { REPO } else { OWN_REPO };
            ctx.queue(id, repo, &[LABEL], Span::mins(1));
        }
        // The log of the container that waits for its image is asked for, and is not to be had.
        ctx.expect_refusal("GET", "/api/v1/namespaces/{namespace}/{plural}/{name}/log", 400);
        // A runner that is to go may take a job just then, or have gone with one.
        for route in ["/orgs/{org}/actions/runners/{id}", "/repos/{owner}/{repo}/actions/runners/{id}"] {
            ctx.expect_refusal("DELETE", route, 404);
            ctx.expect_refusal("DELETE", route, 422);
        }
        ctx.until("all are done", Span::mins(30), async |ctx| {
            let jobs = ctx.jobs().await;
            jobs.len() == 4 && jobs.iter().all(|job| job.status == Status::Completed)
        })
        .await?;
        // Broken watches, and the grace after which pods are deleted.
        ctx.models.cluster.cut_watches();
        ctx.cluster(|cluster, _| cluster.compact());
        ctx.until("the last pod is deleted", Span::mins(10), async |ctx| {
            ctx.cluster(|cluster, _| cluster.pod_keys().is_empty())
        })
        .await?;
        let made = ctx.models.cluster.made();
        let text = |calls: Vec<&Call>| -> Vec<String> { calls.iter().map(|it| format!("{it:?}")).collect() };
        assert_eq!(text(made.difference(&grants).collect()), Vec::<String>::new(), "made, and not granted");
        assert_eq!(text(grants.difference(&made).collect()), Vec::<String>::new(), "granted, and never made");
        Ok(())
    });
}
