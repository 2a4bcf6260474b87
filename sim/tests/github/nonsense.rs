//! A GitHub that is away, slow or answers nonsense: a clear error without any secret, and all is well afterwards.

use std::{
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use adapters::{
    github::{AppKey, Caller, GitHubClient},
    ports::GitHub as _,
};
use engine::{
    facts::{App, GitHubError},
    ids::{InstallationId, JobId, RunnerId, Span},
};
use jsonwebtoken::EncodingKey;
use sim::http::faults::Fault;
use tokio::time::timeout;
use tracing::instrument::WithSubscriber;

use super::bed::{Bed, ORG, TOKENS, org_scope, org_worker, test, user_scope};

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

/// What each is, and the answer.
fn wrong_answers() -> Vec<(&'static str, Fault)> {
    let wrong =
        r#"{"token":["ghs_hunter2"],"encoded_jit_config":{"jit-hunter2":1},"runners":"jit-hunter2","status":7}"#;
    vec![
        ("a web page", Fault::Say(200, "text/html", "<html>a login page</html>".to_owned())),
        ("a proxy's error page", Fault::Say(502, "text/html", "<html>Bad Gateway</html>".repeat(1000))),
        ("wrong types", Fault::Say(200, "application/json", wrong.to_owned())),
        ("an empty answer", Fault::Say(200, "application/json", String::new())),
        ("half an answer", Fault::Truncate),
        ("a broken answer", Fault::Break),
    ]
}

/// Every call of the port, each under what it asks for.
async fn every_call(bed: &Bed, n: usize) -> Vec<(&'static str, Option<GitHubError>)> {
    let github = &bed.github;
    let worker = org_worker(&format!("rise-riscv-runner-7-{n:09}"));
    vec![
        ("jobs", github.job(App::Organization, InstallationId(ORG.1), "an-org/repo", JobId(1)).await.result.err()),
        ("runners", github.runners(&user_scope()).await.result.err()),
        ("group", github.runners(&org_scope()).await.result.err()),
        ("jit", github.mint(&worker).await.result.err()),
        ("delete", github.delete_runner(&org_scope(), RunnerId(1)).await.result.err()),
        ("deliveries", github.deliveries(App::Organization, bed.now() - Span::hours(1)).await.result.err()),
        ("redeliver", github.redeliver(App::Organization, 1).await.result.err()),
    ]
}

#[test]
fn nonsense_is_told_without_what_it_was() {
    test(async |bed| {
        let log = Log::default();
        let written = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || written.clone())
            .finish();
        async {
            bed.with(|github, now| github.queue_job(1, ORG.2, &["hosted"], Span::mins(1), now));
            bed.github.runners(&user_scope()).await.result.unwrap();
            bed.github.runners(&org_scope()).await.result.unwrap();
            for (n, (what, fault)) in wrong_answers().into_iter().enumerate() {
                let faults = bed.faults();
                for (method, path) in [
                    ("GET", "/actions/jobs/"),
                    ("GET", "/actions/runners?"),
                    ("GET", "/runners?"),
                    ("POST", "generate-jitconfig"),
                    ("DELETE", "/actions/runners/"),
                    ("GET", "/app/hook/deliveries?"),
                    ("POST", "/attempts"),
                ] {
                    faults.plan(method, path, 1, fault.clone());
                }
                for (call, error) in every_call(bed, n).await {
                    match (call, &fault, &error) {
                        // A refusal has no more to say than its status.
                        ("delete", Fault::Truncate | Fault::Break, None) => {}
                        ("redeliver", Fault::Truncate | Fault::Break, Some(GitHubError::NotFound)) => {}
                        (_, _, Some(GitHubError::Unavailable { message })) => {
                            assert!(!message.is_empty() && message.len() < 400, "{what}, {call}: {message}");
                            assert!(
                                !message.contains("hunter2") && !message.contains("<html>"),
                                "{what}, {call}: {message}"
                            );
                        }
                        (_, _, other) => panic!("{what}, {call}: {other:?}"),
                    }
                }
                assert_eq!(faults.left(), 0, "{what}: each call met it");
                assert!(bed.github.runners(&org_scope()).await.result.is_ok(), "{what}: all is well again");
            }
            for (what, fault) in wrong_answers() {
                bed.with(|github, _| github.revoke_tokens());
                bed.faults().plan("POST", "access_tokens", 1, fault);
                let error = bed.github.runners(&user_scope()).await.result.unwrap_err();
                let GitHubError::Unavailable { message } = &error else { panic!("a token, {what}: {error:?}") };
                assert!(!message.contains("hunter2") && !message.contains("ghs_"), "a token, {what}: {message}");
                assert!(bed.github.runners(&user_scope()).await.result.is_ok(), "a token, {what}: all is well again");
            }
        }
        .with_subscriber(subscriber)
        .await;
        let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
        for secret in ["hunter2", "ghs_", "jit-", "eyJ", "PRIVATE"] {
            assert!(!text.contains(secret), "the log shows {secret}: {text}");
        }
    });
}

#[test]
fn a_slow_github_delays_only_who_asks() {
    test(async |bed| {
        let minute = Duration::from_secs(60);
        bed.faults().plan("POST", "access_tokens", 1, Fault::Delay(minute));
        // The caller's limit: the scheduler's own is half a minute.
        assert!(timeout(Duration::from_millis(200), bed.github.runners(&user_scope())).await.is_err());
        assert!(bed.github.runners(&user_scope()).await.result.is_ok(), "a token given up holds up nobody");
        bed.faults().plan("GET", "/actions/runner-groups", 1, Fault::Delay(minute));
        assert!(timeout(Duration::from_millis(200), bed.github.runners(&org_scope())).await.is_err());
        assert!(bed.github.runners(&org_scope()).await.result.is_ok(), "nor does a look-up of the group");
        assert_eq!(bed.calls("POST", TOKENS), 3);
    });
}

#[test]
fn a_github_that_is_away_is_told_with_its_reason() {
    test(async |bed| {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", nobody.local_addr().unwrap());
        drop(nobody);
        let crab = octocrab::OctocrabBuilder::new().base_uri(url).unwrap().build().unwrap();
        let key = EncodingKey::from_rsa_pem(bed.models.keys.0.pem.as_bytes()).unwrap();
        let key = AppKey { id: 1, key };
        let away = GitHubClient::new(Caller::new(crab, bed.models.clock.clone(), key.clone(), key));
        let error = away.runners(&user_scope()).await.result.unwrap_err();
        let GitHubError::Unavailable { message } = &error else { panic!("{error:?}") };
        assert!(message.contains("refused"), "{message}");
    });
}
