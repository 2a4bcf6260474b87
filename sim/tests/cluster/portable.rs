//! Promises that any cluster keeps.

use std::collections::BTreeSet;

use adapters::{
    kubernetes::{KubernetesClient, first_view},
    ports::{Cluster as _, ClusterEvent},
};
use engine::{
    facts::{ClusterError, PodPhase},
    ids::{PodUid, Pool, Span, WorkerName},
};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
};
use secrecy::SecretString;

use super::bed::{NO_BOARD, against_both, client, plain_pod, stray};

#[test]
fn a_pod_is_made_once_seen_and_deleted() {
    against_both("a_pod_is_made_once_seen_and_deleted", async |bed| {
        let asked = (bed.clock)();
        let made = bed.cluster.create_pod(&stray("one")).await.unwrap();
        assert_eq!((made.name.as_str(), made.phase, made.deleting), ("one", PodPhase::Pending, false));
        assert_eq!((&made.node, &made.started_at, &made.finished_at), (&None, &None, &None));
        assert_eq!(made.pool, Some(Pool::from(NO_BOARD)));
        let apart = made.created_at.since(asked).0.abs();
        assert!(apart < Span::mins(2).0, "clocks are {apart} ms apart: the suite cannot judge creation times");
        assert_eq!(bed.cluster.create_pod(&stray("one")).await, Err(ClusterError::AlreadyExists));
        let found = bed.listed_pod("one").await;
        assert_eq!((&found.uid, found.created_at), (&made.uid, made.created_at));

        let other = PodUid::from("00000000-0000-4000-8000-000000000000");
        assert_eq!(bed.cluster.delete_pod(&made.name, &other).await, Ok(()), "another uid's pod is gone");
        assert!(!bed.listed_pod("one").await.deleting, "and this one is left alone");
        assert_eq!(bed.cluster.delete_pod(&made.name, &made.uid).await, Ok(()));
        bed.eventually("it is gone", async || bed.listed().await.is_empty()).await;
        assert_eq!(bed.cluster.delete_pod(&made.name, &made.uid).await, Ok(()), "what is gone is deleted");
        assert!(bed.pods().get("one").await.unwrap_err().to_string().contains("not found"));

        let again = bed.cluster.create_pod(&stray("one")).await.unwrap();
        assert_ne!(again.uid, made.uid, "a name can return, a uid cannot");
        assert_eq!(bed.cluster.delete_pod(&made.name, &made.uid).await, Ok(()), "the first is as gone as before");
        assert_eq!(bed.listed_pod("one").await.uid, again.uid, "the second lives");
    });
}

#[test]
fn an_illegal_pod_is_refused_with_the_reason() {
    against_both("an_illegal_pod_is_refused_with_the_reason", async |bed| {
        let Err(ClusterError::Refused { status, message }) = bed.cluster.create_pod(&stray("Not_Legal")).await else {
            panic!("it is refused");
        };
        assert_eq!(status, 422);
        assert!(message.contains("metadata.name"), "{message}");
    });
}

#[test]
fn a_secret_lives_as_long_as_its_pod() {
    against_both("a_secret_lives_as_long_as_its_pod", async |bed| {
        let pod = bed.cluster.create_pod(&stray("owner")).await.unwrap();
        let config = SecretString::from("the-jit-configuration");
        assert_eq!(bed.cluster.create_secret(&pod.name, &pod.uid, &config).await, Ok(()));
        let again = bed.cluster.create_secret(&pod.name, &pod.uid, &config).await;
        assert_eq!(again, Err(ClusterError::AlreadyExists));

        let secret = bed.secrets().get("owner").await.unwrap();
        assert_eq!(secret.data.unwrap()["jitconfig"].0, b"the-jit-configuration");
        assert_eq!(secret.type_.as_deref(), Some("Opaque"));
        assert_eq!(secret.metadata.labels.unwrap()["app"], "rise-riscv-runner");
        let owners = secret.metadata.owner_references.unwrap();
        assert_eq!((owners[0].kind.as_str(), owners[0].uid.as_str()), ("Pod", pod.uid.as_str()));
        let text = serde_json::to_string(&bed.pods().get("owner").await.unwrap()).unwrap();
        assert!(!text.contains("the-jit-configuration"), "the pod only names its Secret");

        assert_eq!(bed.cluster.delete_pod(&pod.name, &pod.uid).await, Ok(()));
        bed.eventually("the garbage collector takes it", async || {
            bed.secrets().get_opt("owner").await.unwrap().is_none()
        })
        .await;
        let late = PodUid::from(pod.uid.as_str());
        assert_eq!(bed.cluster.create_secret(&pod.name, &late, &config).await, Ok(()), "the owner is not looked at");
        bed.eventually("an orphan is taken too", async || bed.secrets().get_opt("owner").await.unwrap().is_none())
            .await;
    });
}

#[test]
fn a_namespace_that_does_not_exist_is_told() {
    against_both("a_namespace_that_does_not_exist_is_told", async |bed| {
        let mut settings = bed.settings.clone();
        settings.namespace = "contract-suite-no-namespace".to_owned();
        let lost = KubernetesClient::new(bed.client.clone(), settings, bed.clock.clone());
        assert_eq!(lost.create_pod(&stray("a")).await, Err(ClusterError::NotFound));
        let secret = lost.create_secret(&WorkerName::from("a"), &PodUid::from("u"), &SecretString::from("s")).await;
        assert_eq!(secret, Err(ClusterError::NotFound));
    });
}

#[test]
fn a_wrong_token_is_refused_and_not_shown() {
    against_both("a_wrong_token_is_refused_and_not_shown", async |bed| {
        let mut kubeconfig = bed.kubeconfig.clone();
        for user in &mut kubeconfig.auth_infos {
            user.auth_info = Some(kube::config::AuthInfo {
                token: Some(SecretString::from("hunter2-wrong-token")),
                ..kube::config::AuthInfo::default()
            });
        }
        let client = client(&kubeconfig).await;
        let stranger = KubernetesClient::new(client, bed.settings.clone(), bed.clock.clone());
        for error in [
            stranger.list_pods().await.unwrap_err(),
            stranger.create_pod(&stray("a")).await.unwrap_err(),
            stranger
                .create_secret(&WorkerName::from("a"), &PodUid::from("u"), &SecretString::from("s"))
                .await
                .unwrap_err(),
        ] {
            let ClusterError::Refused { status, message } = &error else { panic!("{error:?}") };
            assert_eq!(*status, 401, "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    });
}

#[test]
fn listings_select_and_page() {
    against_both("listings_select_and_page", async |bed| {
        for name in ["a", "b", "c"] {
            bed.cluster.create_pod(&stray(name)).await.unwrap();
        }
        bed.pods().create(&PostParams::default(), &plain_pod("not-ours")).await.unwrap();
        let names = |pods: &[Pod]| -> Vec<String> { pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect() };
        assert_eq!(bed.listed().await.into_keys().collect::<Vec<_>>(), ["a", "b", "c"], "only ours");
        let ours = "app=rise-riscv-runner";
        for (labels, fields, expected) in [
            ("", "", vec!["a", "b", "c", "not-ours"]),
            ("app!=something-else", "", vec!["a", "b", "c"]),
            ("app in (something-else, x),!gone", "", vec!["not-ours"]),
            ("riseproject.com/entity_id", "", vec!["a", "b", "c"]),
            (ours, "metadata.name=b", vec!["b"]),
            (ours, "metadata.name!=b,status.phase=Pending", vec!["a", "c"]),
            (ours, "status.phase=Running", vec![]),
            (ours, "spec.nodeName=", vec!["a", "b", "c"]),
        ] {
            let found = bed.pods().list(&ListParams::default().labels(labels).fields(fields)).await.unwrap();
            assert_eq!(names(&found.items), expected, "{labels:?} {fields:?}");
        }
        let wrong = [("", "spec.image=x"), ("a b", ""), ("bad===x", ""), ("a=-b", ""), ("", "metadata.name===b")];
        for (labels, fields) in wrong {
            let refused = bed.pods().list(&ListParams::default().labels(labels).fields(fields)).await.unwrap_err();
            let kube::Error::Api(status) = refused else { panic!("{refused}") };
            assert_eq!(status.code, 400, "{}", status.message);
        }
        let (mut seen, mut versions) = (Vec::new(), BTreeSet::new());
        let mut params = ListParams::default().limit(3);
        loop {
            let page = bed.pods().list(&params).await.unwrap();
            assert!(page.items.len() <= 3);
            seen.extend(names(&page.items));
            versions.insert(page.metadata.resource_version.clone());
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break,
            }
        }
        assert_eq!(seen, ["a", "b", "c", "not-ours"]);
        assert_eq!(versions.len(), 1, "all pages are of one moment: {versions:?}");
    });
}

#[test]
fn a_watch_goes_on_from_a_listing_and_sends_bookmarks() {
    against_both("a_watch_goes_on_from_a_listing_and_sends_bookmarks", async |bed| {
        let first = bed.cluster.create_pod(&stray("first")).await.unwrap();
        let params = ListParams::default().labels("app=rise-riscv-runner");
        let version = bed.pods().list(&params).await.unwrap().metadata.resource_version.unwrap();
        // Both changes are made before the watch begins: it must know of them all the same.
        assert_eq!(bed.cluster.delete_pod(&first.name, &first.uid).await, Ok(()));
        bed.eventually("it is gone", async || bed.listed().await.is_empty()).await;
        bed.cluster.create_pod(&stray("second")).await.unwrap();
        bed.pods().create(&PostParams::default(), &plain_pod("not-ours")).await.unwrap();

        let watch = WatchParams::default().labels("app=rise-riscv-runner").timeout(3);
        let events: Vec<WatchEvent<Pod>> =
            bed.pods().watch(&watch, &version).await.unwrap().try_collect().await.unwrap();
        let mut told = Vec::new();
        let mut bookmark = None;
        for event in &events {
            match event {
                WatchEvent::Added(pod) => told.push(("added", pod.metadata.name.clone().unwrap())),
                WatchEvent::Deleted(pod) => told.push(("deleted", pod.metadata.name.clone().unwrap())),
                WatchEvent::Modified(_) => {}
                WatchEvent::Bookmark(mark) => bookmark = mark.metadata.resource_version.parse::<u64>().ok(),
                WatchEvent::Error(status) => panic!("{status:?}"),
            }
        }
        assert_eq!(told, [("deleted", "first".to_owned()), ("added", "second".to_owned())]);
        assert!(bookmark.unwrap() > version.parse().unwrap(), "a bookmark before the end, and a later one");

        let from_now: Vec<_> = bed.pods().watch(&watch.timeout(1), "0").await.unwrap().try_collect().await.unwrap();
        let added = from_now.iter().filter(|event| matches!(event, WatchEvent::Added(_))).count();
        assert_eq!(added, 1, "without a version a watch begins with what there is");
    });
}

#[test]
fn the_ports_watch_tells_all_at_first_and_then_changes() {
    against_both("the_ports_watch_tells_all_at_first_and_then_changes", async |bed| {
        let before = bed.cluster.create_pod(&stray("before")).await.unwrap();
        let asked = (bed.clock)();
        let (pods, nodes) = first_view(&*bed.cluster).await.unwrap();
        assert!(pods.asked_at >= asked);
        assert_eq!(pods.pods.iter().map(|pod| &pod.uid).collect::<Vec<_>>(), [&before.uid]);
        assert!(nodes.iter().all(|node| node.pool.is_some()), "nodes without our label are nobody's");

        let mut events = bed.cluster.watch(Default::default());
        bed.sees(&mut events, "the listing", |event| matches!(event, ClusterEvent::Pods(_))).await;
        let after = bed.cluster.create_pod(&stray("after")).await.unwrap();
        bed.pods().create(&PostParams::default(), &plain_pod("not-ours")).await.unwrap();
        let uid = after.uid.clone();
        bed.sees(&mut events, "it comes", |event| matches!(event, ClusterEvent::PodSeen(pod) if pod.uid == uid)).await;
        assert_eq!(bed.cluster.delete_pod(&after.name, &after.uid).await, Ok(()));
        let gone = ClusterEvent::PodGone { name: after.name.clone(), uid: after.uid.clone() };
        bed.sees(&mut events, "it goes", |event| *event == gone).await;
    });
}

#[test]
fn what_no_node_takes_waits_and_says_why() {
    against_both("what_no_node_takes_waits_and_says_why", async |bed| {
        let pod = bed.cluster.create_pod(&stray("waits")).await.unwrap();
        bed.eventually("it says so", async || {
            bed.listed_pod("waits").await.waiting.as_deref() == Some("Unschedulable")
        })
        .await;
        let events: Api<Event> = Api::namespaced(bed.client.clone(), &bed.settings.namespace);
        let about = ListParams::default().fields(&format!("involvedObject.uid={}", pod.uid));
        bed.eventually("an event tells", async || !events.list(&about).await.unwrap().items.is_empty()).await;
        let info = bed.cluster.diagnose(&pod.name, &pod.uid).await;
        assert_eq!(info["events"][0]["reason"], "FailedScheduling", "{info}");
        assert_eq!(info["events"][0]["type"], "Warning");
        assert!(info["events"][0]["message"].as_str().is_some_and(|message| message.contains("nodes")), "{info}");
        assert_eq!((&info["containers"], &info["errors"]), (&serde_json::json!([]), &serde_json::json!([])));
        let nodes: Api<Node> = Api::all(bed.client.clone());
        let none = nodes.list(&ListParams::default().labels(&format!("riseproject.dev/board={NO_BOARD}"))).await;
        assert_eq!(none.unwrap().items.len(), 0);
        // The stream of the log of a container that never ran is refused, not empty.
        assert!(bed.pods().logs("waits", &kube::api::LogParams::default()).await.is_err());
    });
}

#[test]
fn a_pod_of_another_uid_is_not_diagnosed() {
    against_both("a_pod_of_another_uid_is_not_diagnosed", async |bed| {
        let pod = bed.cluster.create_pod(&stray("known")).await.unwrap();
        for (name, uid, error) in [
            ("known", "00000000-0000-4000-8000-000000000000", "another one has its name now"),
            ("unknown", pod.uid.as_str(), "404"),
        ] {
            let info = bed.cluster.diagnose(&WorkerName::from(name), &PodUid::from(uid)).await;
            assert_eq!(info["containers"], serde_json::Value::Null);
            let errors = info["errors"].to_string();
            assert!(errors.contains(error), "{errors}");
        }
    });
}

#[test]
fn two_watches_are_independent() {
    against_both("two_watches_are_independent", async |bed| {
        let (mut kept, dropped) = (bed.cluster.watch(Default::default()), bed.cluster.watch(Default::default()));
        bed.sees(&mut kept, "the listing", |event| matches!(event, ClusterEvent::Pods(_))).await;
        drop(dropped);
        let pod = bed.cluster.create_pod(&stray("seen")).await.unwrap();
        bed.sees(&mut kept, "it comes", |event| matches!(event, ClusterEvent::PodSeen(it) if it.uid == pod.uid)).await;
        drop(kept.next());
    });
}
