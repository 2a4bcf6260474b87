//! Promises whose cause only a model can be made to show: lost nodes, failing containers, forgotten watch logs.

use adapters::{
    kubernetes::KubernetesClient,
    notices::Notices,
    ports::{Cluster as _, ClusterEvent},
};
use engine::{
    facts::{ClusterError, PodPhase},
    ids::{NodeName, PodUid, Span, Time, WorkerName},
};
use futures::StreamExt;
use secrecy::SecretString;
use serde_json::{Value, json};
use sim::{http::faults::Fault, world::kubernetes::Fate};
use std::{sync::Arc, time::Duration};

use super::bed::{Bed, Model, against_model, on_board, stray};

const BOARD: &str = "scw-em-rv1";
/// The route of listings and watches of nodes.
const NODES: &str = "/api/v1/{plural}";

/// A pod with its Secret; unless it has a fate already it runs, and nothing in it ever reaches GitHub.
async fn start(bed: &Bed, model: &Model, name: &str) -> PodUid {
    model.with(|cluster, _| {
        cluster.fates.entry(name.to_owned()).or_insert(Fate::NeverConnects);
    });
    let pod = bed.cluster.create_pod(&on_board(name, BOARD)).await.unwrap();
    let config = SecretString::from(format!("jit-of-{name}"));
    bed.cluster.create_secret(&WorkerName::from(name), &pod.uid, &config).await.unwrap();
    pod.uid
}

async fn until_phase(bed: &Bed, name: &str, phase: PodPhase) {
    bed.eventually(&format!("{name} is {phase:?}"), async || bed.listed_pod(name).await.phase == phase).await;
}

fn listings(model: &Model) -> u64 {
    let made = model.models.cluster.faults.calls();
    made[&("GET".to_owned(), "/api/v1/namespaces/{namespace}/{plural}".to_owned())]
}

#[test]
fn boards_take_as_many_pods_as_they_offer_runners() {
    against_model("boards_take_as_many_pods_as_they_offer_runners", async |bed, model| {
        model.with(|cluster, now| {
            cluster.set_node("fits", BOARD, 1, now);
            cluster.set_node("another-board", "other", 5, now);
            cluster.set_node("cordoned", BOARD, 5, now);
            cluster.edit_node("cordoned", |node| node.cordoned = true);
            cluster.set_node("not-ready", BOARD, 5, now);
            cluster.edit_node("not-ready", |node| node.ready = false);
        });
        let mut events = bed.cluster.watch(Default::default());
        let told = bed.sees(&mut events, "the nodes", |event| matches!(event, ClusterEvent::Nodes(_))).await;
        let ClusterEvent::Nodes(nodes) = told else { unreachable!() };
        let told: Vec<_> = nodes.iter().map(|it| (it.name.as_str(), it.runners, it.usable)).collect();
        assert_eq!(
            told,
            [("another-board", 5, true), ("cordoned", 5, false), ("fits", 1, true), ("not-ready", 5, false)]
        );
        let (first, second) = (start(bed, model, "first").await, start(bed, model, "second").await);
        until_phase(bed, "first", PodPhase::Running).await;
        let placed = bed.listed_pod("first").await;
        assert_eq!(placed.node, Some(NodeName::from("fits")));
        assert!(placed.started_at.unwrap() > placed.created_at);
        assert_eq!(bed.listed_pod("second").await.waiting.as_deref(), Some("Unschedulable"));
        model.with(|cluster, now| cluster.finish_runner(&bed.key("first"), first.as_str(), 0, now));
        until_phase(bed, "second", PodPhase::Running).await;
        let ended = bed.listed_pod("first").await;
        assert_eq!(ended.phase, PodPhase::Succeeded);
        assert!(ended.finished_at.unwrap() >= ended.started_at.unwrap());

        model.with(|cluster, now| cluster.remove_node("fits", now));
        let gone = ClusterEvent::NodeGone(NodeName::from("fits"));
        bed.sees(&mut events, "the node goes", |event| *event == gone).await;
        until_phase(bed, "second", PodPhase::Failed).await;
        let info = bed.cluster.diagnose(&WorkerName::from("second"), &second).await;
        assert_eq!(info["pod_reason"], "NodeLost", "{info}");
        model.with(|cluster, _| cluster.edit_node("cordoned", |node| node.cordoned = false));
        let usable = |event: &ClusterEvent| matches!(event, ClusterEvent::NodeSeen(node) if node.usable);
        bed.sees(&mut events, "the cordon is lifted", usable).await;
    });
}

#[test]
fn deletion_is_graceful_and_can_hang() {
    against_model("deletion_is_graceful_and_can_hang", async |bed, model| {
        model.with(|cluster, now| cluster.set_node("node", BOARD, 2, now));
        let uid = start(bed, model, "hangs").await;
        until_phase(bed, "hangs", PodPhase::Running).await;
        let name = WorkerName::from("hangs");
        assert_eq!(bed.cluster.delete_pod(&name, &uid).await, Ok(()));
        assert!(bed.listed_pod("hangs").await.deleting, "graceful: it is there for a while");
        assert_eq!(bed.cluster.delete_pod(&name, &uid).await, Ok(()), "asking again is no error");
        model.with(|cluster, _| cluster.edit_node("node", |node| node.ready = false));
        model.pass(Span::hours(1));
        assert!(bed.listed_pod("hangs").await.deleting, "a lost node confirms nothing");
        let mut events = bed.cluster.watch(Default::default());
        bed.sees(&mut events, "the listing", |event| matches!(event, ClusterEvent::Pods(_))).await;
        model.with(|cluster, _| cluster.edit_node("node", |node| node.ready = true));
        let gone = ClusterEvent::PodGone { name, uid };
        bed.sees(&mut events, "the node is back", |event| *event == gone).await;
        assert!(bed.listed().await.is_empty());
    });
}

#[test]
fn failing_pods_say_how() {
    against_model("failing_pods_say_how", async |bed, model| {
        model.with(|cluster, now| {
            cluster.set_node("node", BOARD, 9, now);
            for (name, fate) in [
                ("unpullable", Fate::ImagePullBackOff),
                ("exits", Fate::FailsAtStart(3)),
                ("greedy", Fate::OutOfMemory),
            ] {
                cluster.fates.insert(name.to_owned(), fate);
            }
        });
        let mut uids = std::collections::BTreeMap::new();
        for name in ["unpullable", "exits", "greedy", "evicted"] {
            uids.insert(name, start(bed, model, name).await);
        }
        model.with(|cluster, _| cluster.fates.insert("no-secret".to_owned(), Fate::NeverConnects));
        let lonely = bed.cluster.create_pod(&on_board("no-secret", BOARD)).await.unwrap();
        bed.eventually("the image cannot be pulled", async || {
            bed.listed_pod("unpullable").await.waiting.as_deref() == Some("ImagePullBackOff")
        })
        .await;
        bed.eventually("its Secret is missing", async || {
            bed.listed_pod("no-secret").await.waiting.as_deref() == Some("CreateContainerConfigError")
        })
        .await;
        bed.cluster.create_secret(&lonely.name, &lonely.uid, &SecretString::from("late")).await.unwrap();
        until_phase(bed, "no-secret", PodPhase::Running).await;
        until_phase(bed, "exits", PodPhase::Failed).await;
        until_phase(bed, "greedy", PodPhase::Failed).await;
        until_phase(bed, "evicted", PodPhase::Running).await;
        model.with(|cluster, now| cluster.evict(&bed.key("evicted"), "Evicted", now));
        until_phase(bed, "evicted", PodPhase::Failed).await;

        for (name, pod_reason, code, reason) in [
            ("exits", Value::Null, json!(3), json!("Error")),
            ("greedy", Value::Null, json!(137), json!("OOMKilled")),
            ("evicted", json!("Evicted"), json!(137), json!("Evicted")),
            ("unpullable", Value::Null, Value::Null, json!("ImagePullBackOff")),
        ] {
            let info = bed.cluster.diagnose(&WorkerName::from(name), &uids[name]).await;
            assert_eq!(info["pod_reason"], pod_reason, "{info}");
            let runner = &info["containers"][1];
            assert_eq!((&runner["name"], &runner["init"]), (&json!("runner"), &json!(false)), "{info}");
            assert_eq!((&runner["exit_code"], &runner["reason"]), (&code, &reason), "{info}");
            let log = runner["log"].as_str();
            if name == "unpullable" {
                assert_eq!(log, None, "it never ran");
                assert!(info["errors"].to_string().contains("waiting to start"), "{info}");
                assert!(info["events"].to_string().contains("Back-off pulling image"), "{info}");
            } else {
                assert!(log.unwrap().contains("Connected to the container engine"), "{info}");
                assert!(info["containers"][0]["log"].as_str().unwrap().contains("API listen"), "the sidecar's too");
                assert_eq!(info["errors"], json!([]));
            }
        }
    });
}

#[test]
fn logs_are_kept_whole_or_their_end() {
    against_model("logs_are_kept_whole_or_their_end", async |bed, model| {
        model.with(|cluster, now| cluster.set_node("node", BOARD, 1, now));
        let uid = start(bed, model, "chatty").await;
        until_phase(bed, "chatty", PodPhase::Running).await;
        let log = async || {
            let info = bed.cluster.diagnose(&WorkerName::from("chatty"), &uid).await;
            info["containers"][1]["log"].as_str().unwrap().to_owned()
        };
        let whole = log().await;
        assert!(!whole.contains("left out"), "{whole}");
        let line = "ü".repeat(500);
        model.with(|cluster, now| (0..1_500).for_each(|_| cluster.append_log(uid.as_str(), "runner", &line, now)));
        model.with(|cluster, now| cluster.append_log(uid.as_str(), "runner", "the last words", now));
        let log = log().await;
        assert!(log.len() < 260 * 1024, "{}", log.len());
        assert!(log.starts_with("[the first ") && log.ends_with("the last words\n"), "{}", &log[..60]);
        let (first, kept) = log.split_once(" bytes are left out]\n").unwrap();
        let left_out: usize = first.trim_start_matches("[the first ").parse().unwrap();
        assert!(!kept.contains('\u{fffd}'), "no letter is torn");
        assert_eq!(left_out + kept.len(), whole.len() + 1_500 * (line.len() + 1) + "the last words\n".len());
    });
}

#[test]
fn a_diagnosis_is_what_can_be_had_in_time() {
    against_model("a_diagnosis_is_what_can_be_had_in_time", async |bed, model| {
        model.with(|cluster, now| cluster.set_node("node", BOARD, 1, now));
        let uid = start(bed, model, "sick").await;
        until_phase(bed, "sick", PodPhase::Running).await;
        let hasty = KubernetesClient::with_patience(
            bed.client.clone(),
            bed.settings.clone(),
            bed.clock.clone(),
            Duration::from_secs(2),
        );
        let faults = &model.models.cluster.faults;
        faults.plan("GET", "log?&container=dind", 1, Fault::Before(500, Vec::new()));
        faults.plan("GET", "log?&container=runner", 1, Fault::Delay(Duration::from_secs(600)));
        let begun = std::time::Instant::now();
        let info = hasty.diagnose(&WorkerName::from("sick"), &uid).await;
        assert_eq!(faults.left(), 0, "both faults happened");
        assert!(begun.elapsed() < Duration::from_secs(10), "not for ever");
        assert_eq!(info["containers"].as_array().unwrap().len(), 2);
        assert_eq!((&info["containers"][0]["log"], &info["containers"][1]["log"]), (&Value::Null, &Value::Null));
        assert!(!info["events"].as_array().unwrap().is_empty(), "the rest is there: {info}");
        let errors = info["errors"].to_string();
        assert!(errors.contains("log of dind: 500") && errors.contains("log of runner: no answer in time"), "{errors}");
    });
}

#[test]
fn a_full_quota_is_a_refusal_with_its_reason() {
    against_model("a_full_quota_is_a_refusal_with_its_reason", async |bed, model| {
        model.with(|cluster, _| cluster.quota = Some(1));
        bed.cluster.create_pod(&stray("fits")).await.unwrap();
        let refused = bed.cluster.create_pod(&stray("one-too-many")).await.unwrap_err();
        let ClusterError::Refused { status: 403, message } = &refused else { panic!("{refused:?}") };
        assert!(message.contains("exceeded quota"), "{message}");
        model.with(|cluster, _| cluster.quota = None);
        bed.cluster.create_pod(&stray("one-too-many")).await.unwrap();
    });
}

#[test]
fn a_conflict_says_nothing_of_what_is_there() {
    against_model("a_conflict_says_nothing_of_what_is_there", async |bed, model| {
        let pod = bed.cluster.create_pod(&stray("here")).await.unwrap();
        let conflict = || {
            let said = json!({ "kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409,
                "message": "Operation cannot be fulfilled on resourcequotas: the object has been modified" });
            Fault::Say(409, "application/json", said.to_string())
        };
        let faults = &model.models.cluster.faults;
        faults.plan("POST", "/pods", 1, conflict());
        faults.plan("POST", "/secrets", 1, conflict());
        // Two calls have wanted one quota at once: neither the pod nor the Secret is there, and both are to be tried again.
        let error = bed.cluster.create_pod(&stray("new")).await.unwrap_err();
        assert!(matches!(error, ClusterError::Unavailable { .. }), "{error:?}");
        let secret = async || {
            bed.cluster.create_secret(&WorkerName::from("here"), &pod.uid, &SecretString::from("jit".to_owned())).await
        };
        let error = secret().await.unwrap_err();
        assert!(matches!(error, ClusterError::Unavailable { .. }), "{error:?}");
        assert_eq!(faults.left(), 0, "each call met it");
        bed.cluster.create_pod(&stray("new")).await.unwrap();
        secret().await.unwrap();
    });
}

#[test]
fn a_lost_answer_leaves_a_pod_that_is_found() {
    against_model("a_lost_answer_leaves_a_pod_that_is_found", async |bed, model| {
        model.models.cluster.faults.plan("POST", "/pods", 1, Fault::After(504));
        let lost = bed.cluster.create_pod(&stray("made")).await.unwrap_err();
        assert!(matches!(lost, ClusterError::Unavailable { .. }), "whether it was made is not known: {lost:?}");
        assert_eq!(bed.cluster.create_pod(&stray("made")).await, Err(ClusterError::AlreadyExists));
        let found = bed.listed_pod("made").await;
        model.models.cluster.faults.plan("POST", "/secrets", 1, Fault::After(504));
        let config = SecretString::from("jit");
        let lost = bed.cluster.create_secret(&found.name, &found.uid, &config).await.unwrap_err();
        assert!(matches!(lost, ClusterError::Unavailable { .. }), "{lost:?}");
        let again = bed.cluster.create_secret(&found.name, &found.uid, &config).await;
        assert_eq!(again, Err(ClusterError::AlreadyExists));
    });
}

#[test]
fn after_410_gone_everything_is_told_anew() {
    against_model("after_410_gone_everything_is_told_anew", async |bed, model| {
        let old = bed.cluster.create_pod(&stray("old")).await.unwrap();
        let mut events = bed.cluster.watch(Default::default());
        bed.first_views(&mut events).await;
        // While the watch is cut a pod goes, another takes its name, and the log that told is forgotten.
        model.models.cluster.faults.plan("GET", "watch=true", 1, Fault::Before(503, Vec::new()));
        model.models.cluster.cut_watches();
        model.with(|cluster, now| {
            cluster.delete_pod(&bed.key("old"), None, Some(0), now).unwrap();
        });
        let new = bed.cluster.create_pod(&stray("old")).await.unwrap();
        model.with(|cluster, _| cluster.compact());
        model.pass(Span::secs(5));
        let asked = (bed.clock)();
        let told = bed.sees(&mut events, "a new listing", |event| matches!(event, ClusterEvent::Pods(_))).await;
        let ClusterEvent::Pods(listing) = told else { unreachable!() };
        assert!(listing.asked_at >= asked, "its age is that of the new listing");
        assert_eq!(listing.pods.iter().map(|pod| &pod.uid).collect::<Vec<_>>(), [&new.uid]);
        assert_ne!(new.uid, old.uid);
    });
}

#[test]
fn a_broken_watch_goes_on_where_its_bookmark_was() {
    against_model("a_broken_watch_goes_on_where_its_bookmark_was", async |bed, model| {
        let mut events = bed.cluster.watch(Default::default());
        bed.first_views(&mut events).await;
        bed.cluster.create_pod(&stray("one")).await.unwrap();
        bed.sees(&mut events, "one", |event| matches!(event, ClusterEvent::PodSeen(_))).await;
        // Much happens that this watch is not told of; only the bookmark keeps it from being too old.
        for i in 0..50 {
            bed.cluster
                .create_secret(
                    &WorkerName::from(format!("s{i}").as_str()),
                    &PodUid::from("u"),
                    &SecretString::from("x"),
                )
                .await
                .unwrap();
        }
        model.models.cluster.send_bookmarks();
        bed.cluster.create_pod(&stray("two")).await.unwrap();
        bed.sees(&mut events, "two", |event| matches!(event, ClusterEvent::PodSeen(it) if it.name.as_str() == "two"))
            .await;
        let before = listings(model);
        model.models.cluster.cut_watches();
        bed.cluster.create_pod(&stray("three")).await.unwrap();
        let mut told = Vec::new();
        while !told.iter().any(|name| name == "three") {
            let event = bed.sees(&mut events, "three", |event| !matches!(event, ClusterEvent::NodeSeen(_))).await;
            match event {
                ClusterEvent::PodSeen(pod) => told.push(pod.name.to_string()),
                other => panic!("a resumed watch tells changes alone: {other:?}"),
            }
        }
        let watches_again = 1;
        assert_eq!(listings(model) - before, watches_again, "one watch more, and no listing");
    });
}

#[test]
fn a_watch_that_cannot_be_resumed_lists_anew() {
    against_model("a_watch_that_cannot_be_resumed_lists_anew", async |bed, model| {
        model.with(|cluster, now| cluster.set_node("board-1", BOARD, 1, now));
        let notices = Arc::new(Notices::default());
        let mut events = bed.cluster.watch(notices.clone());
        bed.sees(&mut events, "the node", |event| matches!(event, ClusterEvent::Nodes(nodes) if nodes[0].usable)).await;
        // Watches are refused from now on, and listings are not.
        model.models.cluster.faults.plan("GET", "watch=true", usize::MAX, Fault::Before(500, Vec::new()));
        model.models.cluster.cut_watches();
        model.with(|cluster, _| cluster.edit_node("board-1", |node| node.ready = false));
        // Between two of the client's attempts half a minute passes, however long its pauses are here.
        let attempts = || model.models.cluster.faults.calls()[&("GET".to_owned(), NODES.to_owned())];
        let time_passes = async {
            let mut seen = attempts();
            loop {
                if attempts() > seen {
                    seen = attempts();
                    model.pass(Span::secs(25));
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let lost = |event| matches!(event, Some(ClusterEvent::Nodes(nodes)) if !nodes[0].usable);
        let listed = async { while !lost(events.next().await) {} };
        tokio::select! {
            () = listed => {}
            () = time_passes => {}
        }
        // Watches are refused still, whatever else works; taken up again, they say so although nothing happens.
        notices.cluster("list pods", &Ok(()));
        let mut going_on = std::pin::pin!(async { while events.next().await.is_some() {} });
        let mut until = async |what, condition: fn(usize) -> bool| {
            tokio::select! {
                () = bed.eventually(what, async || condition(notices.now().len())) => {}
                () = &mut going_on => panic!("the watch ended before: {what}"),
            }
        };
        until("it is a trouble", |troubles| troubles == 1).await;
        model.models.cluster.faults.clear();
        until("it is over", |troubles| troubles == 0).await;
    });
}

#[test]
fn a_watch_survives_the_cluster_being_away() {
    against_model("a_watch_survives_the_cluster_being_away", async |bed, model| {
        let mut events = bed.cluster.watch(Default::default());
        bed.sees(&mut events, "the listing", |event| matches!(event, ClusterEvent::Pods(_))).await;
        let faults = &model.models.cluster.faults;
        faults.plan("GET", "/pods", 1, Fault::Break);
        faults.plan("GET", "/pods", 1, Fault::Say(200, "text/html", "<html>maintenance</html>".to_owned()));
        faults.plan("GET", "/pods", 1, Fault::Before(503, Vec::new()));
        model.models.cluster.cut_watches();
        model.with(|cluster, _| cluster.compact());
        model.with(|cluster, now| {
            cluster.create_pod("default", serde_json::to_value(super::bed::plain_pod("x")).unwrap(), now).unwrap()
        });
        let pod = bed.cluster.create_pod(&stray("meanwhile")).await.unwrap();
        let knows = |event: &ClusterEvent| match event {
            ClusterEvent::Pods(listing) => listing.pods.iter().any(|it| it.uid == pod.uid),
            ClusterEvent::PodSeen(it) => it.uid == pod.uid,
            _ => false,
        };
        bed.sees(&mut events, "it is known again", knows).await;
        assert_eq!(faults.left(), 0, "every fault happened");
    });
}

#[test]
fn a_listing_whose_pages_have_become_too_old_begins_anew() {
    against_model("a_listing_whose_pages_have_become_too_old_begins_anew", async |bed, model| {
        let made = 501;
        model.with(|cluster, now| {
            for i in 0..made {
                let mut pod = serde_json::to_value(super::bed::plain_pod(&format!("p{i:04}"))).unwrap();
                pod["metadata"]["labels"]["app"] = json!("rise-riscv-runner");
                cluster.create_pod("default", pod, now).unwrap();
            }
        });
        assert_eq!(bed.listed().await.len(), made, "every page is read");
        let faults = &model.models.cluster.faults;
        let gone = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old" });
        faults.plan("GET", "continue=", 2, Fault::Say(410, "application/json", gone.to_string()));
        assert_eq!(bed.listed().await.len(), made);
        assert_eq!(faults.left(), 0);
        faults.plan("GET", "continue=", 3, Fault::Say(410, "application/json", gone.to_string()));
        let tired = bed.cluster.list_pods().await.unwrap_err();
        assert!(matches!(tired, ClusterError::Unavailable { .. }), "{tired:?}");
        assert!((bed.clock)() > Time::ZERO);
    });
}
