//! What operators read in the log, at its usual level, while GitHub, the cluster or Postgres is away, refuses, or answers
//! nonsense: a line when it begins, a line when it is over, and none for each call in between.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use adapters::{
    config,
    ports::{Store, system_clock},
    postgres::PgStore,
};
use engine::{
    facts::Status,
    ids::{Realm, Span},
};
use futures::StreamExt;
use serde_json::Value;
use sim::{
    harness::{Error, Models, Service, Setup, WEBHOOK_SECRET},
    http::faults::Fault,
    testing::{
        postgres,
        service::{REPO, World, run_test},
    },
    world::{
        github::GitHub,
        kubernetes::{Cluster, Fate},
    },
};

const BOARD: &str = "scw-em-rv1";
const LABEL: &str = "ubuntu-24.04-riscv";
const FOR_EVER: usize = usize::MAX;
const LOST: &str = "Postgres: cannot listen for new jobs; they are seen within 15 s meanwhile";
const REGAINED: &str = "Postgres: listening for new jobs again";
/// How long a condition may take in real time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The log, as a process at its usual level writes it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One test at a time: they share the process's log. Begins with an empty one.
fn log() -> (Log, MutexGuard<'static, ()>) {
    static LOG: OnceLock<Log> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let log = LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        let filter = tracing_subscriber::EnvFilter::new(config::log_filter("info"));
        let subscriber = tracing_subscriber::fmt().json().with_env_filter(filter);
        subscriber.with_writer(move || writer.clone()).init();
        log
    });
    log.0.lock().unwrap().clear();
    (log.clone(), turn)
}

impl Log {
    /// The troubles told of: (level, message, error, advice).
    fn troubles(&self) -> Vec<[String; 4]> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        lines
            .filter(|line| word(&line["target"]) == "adapters::notices")
            .map(|line| {
                let fields = &line["fields"];
                [word(&line["level"]), word(&fields["message"]), word(&fields["error"]), word(&fields["advice"])]
            })
            .collect()
    }

    /// Exactly one trouble of this began and, as far as `is_over`, ended; its error and advice.
    #[track_caller]
    fn only(&self, what: &str, is_over: bool) -> (String, String) {
        let mut told = self.troubles();
        assert!(told.len() <= 4, "a flood: {told:#?}");
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let libraries: Vec<&str> = text.lines().filter(|line| !line.contains("\"target\":\"adapters::")).collect();
        assert!(libraries.is_empty(), "libraries tell of it too: {libraries:#?}");
        told.retain(|line| line[1].starts_with(what));
        // A connection that breaks is one error, and that none can be made is another.
        told.retain(|line| line[1] != format!("{what}: trouble goes on, with another error"));
        let (begun, over) = (format!("{what}: trouble begins"), format!("{what}: trouble is over"));
        let expected: Vec<(&str, &str)> =
            [("WARN", begun.as_str()), ("INFO", over.as_str())].into_iter().take(1 + usize::from(is_over)).collect();
        let lines: Vec<(&str, &str)> = told.iter().map(|line| (line[0].as_str(), line[1].as_str())).collect();
        assert_eq!(lines, expected, "{told:#?}");
        (told[0][2].clone(), told[0][3].clone())
    }

    fn shows_no_secret(&self) {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        for secret in ["ghs_", "jit-", "PRIVATE KEY", WEBHOOK_SECRET, "Bearer"] {
            assert!(!text.contains(secret), "the log shows {secret}");
        }
    }
}

/// The App that the tests' organisation has installed, in the log's words.
const APP: &str = "GitHub, as the App for organisations";

/// Three minutes of trouble with GitHub while a job waits, and its end: what the log said and advised, and what the
/// scheduler said of the job.
fn github_trouble(what: &str, path: &str, fault: Fault) -> (String, String, String) {
    let (log, _turn) = log();
    let mut said = None;
    run_test(World::new().nodes(BOARD, 1), async |ctx| {
        for method in ["GET", "POST", "DELETE"] {
            ctx.models.github.faults.plan(method, path, FOR_EVER, fault.clone());
        }
        ctx.queue(1, REPO, &[LABEL], Span::mins(3));
        ctx.pass(Span::mins(3)).await?;
        let why = ctx.why(1).await?;
        let (error, advice) = log.only(what, false);
        let status = ctx.ask_scheduler("/status").await?.1;
        assert!(status.contains(&format!("{what}: ")), "{status}");
        assert_eq!(ctx.ask_scheduler("/health").await?, (200, "ok".to_owned()), "it is not the scheduler that is ill");
        ctx.models.github.faults.clear();
        ctx.until("the job runs", Span::mins(5), async |ctx| ctx.job(1).await.status == Status::Running).await?;
        // Everything that failed has worked again; the delivery log is read every other minute.
        let over = format!("{what}: trouble is over");
        ctx.until("it is told to be over", Span::mins(5), async |_| log.troubles().iter().any(|it| it[1] == over))
            .await?;
        log.only(what, true);
        assert!(!ctx.ask_scheduler("/status").await?.1.contains(&format!("{what}: ")));
        said = Some((error, advice, why));
        Ok::<(), Error>(())
    });
    log.shows_no_secret();
    said.unwrap()
}

#[test]
fn github_away_is_told_once_and_the_job_says_since_when() {
    let (error, advice, why) = github_trouble(APP, "/", Fault::Before(503, vec![]));
    assert!(error.starts_with("503"), "{error}");
    assert!(advice.contains("GITHUB_API_URL"), "{advice}");
    assert!(why.starts_with("GitHub cannot be reached for installation 507 since 20"), "{why}");
}

#[test]
fn a_key_that_github_refuses_is_told_once_with_its_variable() {
    let (error, advice, why) = github_trouble(APP, "/access_tokens", Fault::Before(401, vec![]));
    assert!(error.starts_with("401"), "{error}");
    assert!(advice.contains("GHAPP_ORG_PRIVATE_KEY"), "{advice}");
    assert!(why.starts_with("GitHub cannot be reached for installation 507 since 20"), "{why}");
}

#[test]
fn github_answering_nonsense_is_told_once() {
    let nonsense = Fault::Say(200, "text/html", "<html>Welcome to our hotel</html>".to_owned());
    let (error, _, why) = github_trouble(APP, "/", nonsense);
    assert!(error.starts_with("the answer is not what GitHub documents"), "{error}");
    assert!(why.starts_with("GitHub cannot be reached for installation 507 since 20"), "{why}");
}

#[test]
fn a_limit_is_told_once_and_the_job_says_since_when() {
    let limited = Fault::Before(429, vec![("retry-after", "60".to_owned())]);
    let (error, _, why) = github_trouble("GitHub, for installation 507", "/orgs/", limited);
    assert!(error.starts_with("a limit is reached until 20"), "{error}");
    assert!(why.starts_with("GitHub's limits hold calls back for installation 507 since 20"), "{why}");
}

#[test]
fn a_refused_runner_is_told_once_and_the_job_says_so() {
    let refused =
        Fault::Say(403, "application/json", r#"{"message":"Resource not accessible by integration"}"#.to_owned());
    let (error, advice, why) = github_trouble("GitHub, for installation 507", "/generate-jitconfig", refused);
    assert_eq!(error, "refused with 403: Resource not accessible by integration");
    assert!(advice.contains("permissions"), "{advice}");
    assert!(why.starts_with("GitHub refuses a runner for rise-riscv-runner-7-"), "{why}");
}

#[test]
fn a_cluster_that_is_away_or_refuses_is_told_once() {
    for (fault, begins, advises, waits) in [
        (Fault::Before(503, vec![]), "503", "K8S_KUBECONFIG", "the cluster does not take the pod"),
        (Fault::Before(403, vec![]), "refused with 403", "quota", "the cluster does not take the pod"),
    ] {
        let (log, _turn) = log();
        run_test(World::new().nodes(BOARD, 1), async |ctx| {
            ctx.models.cluster.faults.plan("POST", "/pods", FOR_EVER, fault);
            ctx.queue(1, REPO, &[LABEL], Span::mins(3));
            ctx.pass(Span::mins(4)).await?;
            let (error, advice) = log.only("Kubernetes", false);
            assert!(error.starts_with(begins) && advice.contains(advises), "{error}: {advice}");
            let why = ctx.why(1).await?;
            assert!(why.starts_with(waits), "{why}");
            ctx.models.cluster.faults.clear();
            ctx.until("the job runs", Span::mins(5), async |ctx| ctx.job(1).await.status == Status::Running).await?;
            log.only("Kubernetes", true);
            Ok::<(), Error>(())
        });
        log.shows_no_secret();
    }
}

/// Calls and watches fail together, and that is one trouble, in the log and in `/status`.
#[test]
fn a_cluster_whose_watches_break_too_is_told_once() {
    let (log, _turn) = log();
    run_test(World::new().nodes(BOARD, 1), async |ctx| {
        for method in ["GET", "POST"] {
            ctx.models.cluster.faults.plan(method, "/", FOR_EVER, Fault::Before(503, vec![]));
        }
        ctx.models.cluster.cut_watches();
        let begun = "Kubernetes: trouble begins";
        ctx.until("it is told", Span::mins(5), async |_| log.troubles().iter().any(|it| it[1] == begun)).await?;
        let status = ctx.ask_scheduler("/status").await?.1;
        assert!(status.contains("\"Kubernetes: "), "{status}");
        ctx.queue(1, REPO, &[LABEL], Span::mins(3));
        ctx.pass(Span::mins(6)).await?;
        log.only("Kubernetes", false);
        ctx.models.cluster.faults.clear();
        ctx.until("the job runs", Span::mins(15), async |ctx| {
            ctx.jobs().await.iter().any(|job| job.status == Status::Running)
        })
        .await?;
        // The watches come back by a clock of their own.
        let over = "Kubernetes: trouble is over";
        let cleared = tokio::time::Instant::now();
        while !log.troubles().iter().any(|it| it[1] == over) {
            let status = ctx.ask_scheduler("/status").await?.1;
            assert!(cleared.elapsed() < PATIENCE, "it is not told to be over: {status} {:#?}", log.troubles());
            ctx.pass(Span::secs(5)).await?;
        }
        log.only("Kubernetes", true);
        Ok::<(), Error>(())
    });
    log.shows_no_secret();
}

/// A line of the log from one module: its level and fields.
fn lines_of(log: &Log, target: &str) -> Vec<(String, Value)> {
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ours = lines.filter(|line| line["target"] == target);
    ours.map(|line| (line["level"].as_str().unwrap().to_owned(), line["fields"].clone())).collect()
}

/// Whoever has boards that go bad sees which workers failed, and of what.
#[test]
fn a_worker_that_fails_is_told_with_its_reason() {
    let (log, _turn) = log();
    let mut world = World::new().nodes(BOARD, 1);
    world.cluster.next_fates = [Some(Fate::NeverConnects)].into();
    run_test(world, async |ctx| {
        ctx.queue(1, REPO, &[LABEL], Span::mins(1));
        ctx.until("a worker fails", Span::mins(5), async |ctx| {
            ctx.workers().await.iter().any(|worker| worker.failure.is_some())
        })
        .await?;
        let workers = ctx.workers().await;
        let worker = workers.iter().find(|worker| worker.failure.is_some()).unwrap();
        let fields = serde_json::json!({
            "message": "a worker has failed", "worker": worker.name.as_str(), "reason": "runner_never_registered",
        });
        assert_eq!(lines_of(&log, "adapters::scheduler::apply"), [("INFO".to_owned(), fields)]);
        Ok::<(), Error>(())
    });
    log.shows_no_secret();
}

/// Whoever asks why a job got no runner finds the line, also when all that is left of the job is its id.
#[test]
fn a_job_that_is_failed_is_told_with_its_reason() {
    let (log, _turn) = log();
    run_test(World::new(), async |ctx| {
        ctx.expect_refusal("GET", "/repos/{owner}/{repo}/actions/jobs/{id}", 404);
        ctx.queue(1, REPO, &[LABEL], Span::mins(1));
        ctx.until("it is recorded", Span::mins(1), async |ctx| !ctx.jobs().await.is_empty()).await?;
        assert!(ctx.github(|github, _| github.forget_job(1)));
        ctx.until("it is failed", Span::mins(5), async |ctx| ctx.job(1).await.status == Status::Failed).await?;
        let fields = serde_json::json!({ "message": "a job is failed: it gets no runner", "job": "1", "reason": "job_not_found" });
        assert_eq!(lines_of(&log, "adapters::scheduler::apply"), [("WARN".to_owned(), fields)]);
        Ok::<(), Error>(())
    });
    log.shows_no_secret();
}

/// Rows that this service never writes: each is told of once, by its place; it is shown, and stops nothing else.
#[test]
fn odd_rows_in_postgres_are_told_of_once_each_and_stop_nothing() {
    const OTHER: &str = "ubuntu-24.04-riscv-2xlarge";
    let odd = [
        (91, "job_labels", r#"'{"label": "ubuntu-24.04-riscv"}'"#),
        (92, "job_labels", "'[1, null]'"),
        (93, "job_labels", "'null'"),
        (94, "entity_type", "'Enterprise'"),
        (95, "status", "'paused'"),
        // Odd, but times all the same.
        (96, "created_at", "'infinity'"),
        (97, "created_at", "'-infinity'"),
    ];
    let (log, _turn) = log();
    run_test(World::new().nodes(BOARD, 2), async |ctx| {
        let pool = ctx.store.pool().clone();
        // They wait for a board that is not there yet.
        for (id, _, _) in odd {
            ctx.queue(id, REPO, &[OTHER], Span::secs(30));
        }
        ctx.pass(Span::secs(1)).await?;
        sqlx::query("ALTER TYPE status_enum ADD VALUE 'paused'").execute(&pool).await?;
        for (id, column, value) in odd {
            let spoil =
                format!("UPDATE jobs SET {column} = {value}, changed_xid = pg_current_xact_id() WHERE job_id = {id}");
            assert_eq!(sqlx::query(sqlx::AssertSqlSafe(spoil)).execute(&pool).await?.rows_affected(), 1);
        }
        sqlx::query(
            "INSERT INTO workers (pod_name, entity_id, owner_id, entity_name, entity_type, installation_id, job_labels,
                                  k8s_pool, k8s_image)
             VALUES ('rise-riscv-runner-7-odd000000', 7, 7, 'an-org', 'organization', 507, '\"x\"', 'scw-em-rv1', 'i')",
        )
        .execute(&pool)
        .await?;
        ctx.pass(Span::secs(1)).await?;
        ctx.cluster(|cluster, now| cluster.set_node("pioneer", "cloudv10x-pioneer", 1, now));
        ctx.queue(1, REPO, &[LABEL], Span::secs(30));
        ctx.queue(2, REPO, &[OTHER], Span::secs(30));
        ctx.pass(Span::secs(1)).await?;
        ctx.until("whatever can be served is", Span::mins(20), async |ctx| {
            let jobs = ctx.jobs().await;
            let done = |id| jobs.iter().any(|job| job.id.0 == id && job.status == Status::Completed);
            [1, 2, 94, 96, 97].into_iter().all(done)
        })
        .await?;
        let before = ctx.service.health.status(ctx.now()).actions;
        ctx.pass(Span::mins(15)).await?;
        let actions = ctx.service.health.status(ctx.now()).actions - before;
        assert!(actions < 300, "{actions} actions for rows that nothing can be done about");
        assert_eq!(ctx.jobs().await.len(), odd.len() + 2, "/history shows them all");
        for path in ["/usage", "/usage.json", "/history", "/history.json"] {
            assert_eq!(ctx.ask_ghfe(path).await?.0, 200, "{path}");
        }
        let made = "SELECT count(*) FROM workers WHERE job_labels = '[]'";
        assert_eq!(sqlx::query_scalar::<_, i64>(made).fetch_one(&pool).await?, 0, "no runner without labels");
        let told: Vec<(String, String, String)> = lines_of(&log, "adapters::postgres::read")
            .into_iter()
            .map(|(level, fields)| {
                assert_eq!(level, "ERROR");
                assert_eq!(fields["message"], "a row holds what this service never writes; correct or delete it");
                let text = |key: &str| fields[key].as_str().unwrap().to_owned();
                (format!("{} {} {}", text("table"), text("row"), text("column")), text("value"), text("taken_for"))
            })
            .collect();
        let mut places: Vec<&str> = told.iter().map(|(place, _, _)| place.as_str()).collect();
        places.sort_unstable();
        let expected = [
            "jobs 91 job_labels",
            "jobs 92 job_labels",
            "jobs 93 job_labels",
            "jobs 94 entity_type",
            "jobs 95 status",
            "workers rise-riscv-runner-7-odd000000 entity_type",
            "workers rise-riscv-runner-7-odd000000 job_labels",
        ];
        assert_eq!(places, expected, "{told:#?}");
        let first = told.iter().find(|(place, _, _)| place == "jobs 91 job_labels").unwrap();
        assert_eq!((first.1.as_str(), first.2.as_str()), (r#"{"label": "ubuntu-24.04-riscv"}"#, "no labels"));
        Ok::<(), Error>(())
    });
    log.shows_no_secret();
}

/// How many calls the first of these troubles counts.
fn failed_calls(troubles: &[String]) -> u32 {
    let words: Vec<&str> = troubles.first().map_or("", String::as_str).split(' ').collect();
    let at = words.iter().position(|&word| word == "calls)");
    at.and_then(|at| words[at - 1].parse().ok()).unwrap_or(0)
}

/// An outage may be longer than a leader's term, and each term has a listener of its own.
#[test]
fn what_one_terms_listener_lost_the_next_terms_tells_to_be_back() {
    let (log, _turn) = log();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = postgres::Cluster::start().unwrap();
        let store = PgStore::connect(&server.url("postgres").into(), Realm::Prod).await.unwrap();
        let told = || -> Vec<String> {
            let lines = lines_of(&log, "adapters::postgres").into_iter();
            lines.map(|(_, fields)| fields["message"].as_str().unwrap().to_owned()).collect()
        };
        let mut first = store.wakes();
        first.next().await.expect("it listens");
        server.stop().unwrap();
        let lost = async {
            while told().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = lost => {}
            _ = first.next() => panic!("it listens to a server that is gone"),
            () = tokio::time::sleep(PATIENCE) => panic!("it does not tell that it is lost"),
        }
        drop(first);
        server.resume().unwrap();
        let mut second = store.wakes();
        tokio::time::timeout(PATIENCE, second.next()).await.expect("in time").expect("it listens");
        assert_eq!(told(), [LOST, REGAINED]);
    });
}

/// The server goes and comes back, as in a failover: that new jobs are not heard of is told once, and that they are again; so is that
/// calls fail, and that they work again. A job that is recorded then is seen at once.
#[test]
fn a_listener_that_is_lost_and_regained_is_told_once_each() {
    let (log, _turn) = log();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = postgres::Cluster::start().unwrap();
        let store = PgStore::connect(&server.url("postgres").into(), Realm::Prod).await.unwrap();
        let (policy, pods) = config::built_in(Realm::Prod).unwrap();
        let models = Models::start(GitHub::new(1), Cluster::new(1), system_clock()).await.unwrap();
        let setup = Setup { store: store.clone(), policy, pods, listen: None, capture: None, seed: 1, check: true };
        let service = Service::start(&models, setup).await.unwrap();
        let now = || (models.clock)();
        let until = async |what: &str, condition: &dyn Fn() -> bool| {
            let begun = tokio::time::Instant::now();
            while !condition() {
                assert!(begun.elapsed() < PATIENCE, "not in time: {what}: {:#?}", lines_of(&log, "adapters::postgres"));
                tokio::task::yield_now().await;
            }
        };
        let told = || -> Vec<(String, String)> {
            let lines = lines_of(&log, "adapters::postgres").into_iter();
            lines.map(|(level, fields)| (level, fields["message"].as_str().unwrap().to_owned())).collect()
        };
        until("it leads", &|| service.health.status(now()).leading).await;
        assert_eq!(told(), []);
        server.stop().unwrap();
        let calls = || failed_calls(&service.health.status(now()).troubles) >= 4;
        until("four calls have failed", &calls).await;
        assert_eq!(told(), [("WARN".to_owned(), LOST.to_owned())], "however often it was tried");
        let lost = &lines_of(&log, "adapters::postgres")[0].1;
        assert!(lost["error"].as_str().is_some_and(|error| !error.is_empty()), "it says why: {lost}");
        log.only("Postgres", false);
        server.resume().unwrap();
        until("the listener is back", &|| told().len() > 1).await;
        assert_eq!(told()[1..], [("INFO".to_owned(), REGAINED.to_owned())]);
        until("trouble is over", &|| log.troubles().iter().any(|it| it[1] == "Postgres: trouble is over")).await;
        log.only("Postgres", true);
        assert_eq!(service.health.status(now()).troubles, Vec::<String>::new());
        until("it leads", &|| service.health.status(now()).leading).await;
        // Once more, so briefly that no call need have failed.
        server.stop().unwrap();
        server.resume().unwrap();
        until("the listener is back", &|| told().len() > 3).await;
        assert_eq!(told()[2..], [("WARN".to_owned(), LOST.to_owned()), ("INFO".to_owned(), REGAINED.to_owned())]);
        until("it leads", &|| service.health.status(now()).leading).await;
        // Heard of at once: long before the loop turns by itself.
        let heard = tokio::time::Instant::now();
        store.record(vec![sim::testing::rows::job(1, 7)]).await.unwrap();
        until("the job is known", &|| service.health.status(now()).jobs == 1).await;
        assert!(heard.elapsed() < Duration::from_secs(5), "{:?}", heard.elapsed());
        service.stop().await.unwrap();
    });
    log.shows_no_secret();
}

#[test]
fn postgres_away_is_told_once() {
    let (log, _turn) = log();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let server = postgres::Cluster::start().unwrap();
        let store = PgStore::connect(&server.url("postgres").into(), Realm::Prod).await.unwrap();
        let (policy, pods) = config::built_in(Realm::Prod).unwrap();
        let models = Models::start(GitHub::new(1), Cluster::new(1), system_clock()).await.unwrap();
        let setup = Setup { store, policy, pods, listen: None, capture: None, seed: 1, check: true };
        let service = Service::start(&models, setup).await.unwrap();
        let now = || (models.clock)();
        let begun = tokio::time::Instant::now();
        let until = async |what: &str, condition: &dyn Fn() -> bool| {
            while !condition() {
                assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
                tokio::task::yield_now().await;
            }
        };
        until("it leads", &|| service.health.status(now()).leading).await;
        drop(server);
        // Several attempts fail: to renew, to read, to ask for leadership anew.
        let calls = || failed_calls(&service.health.status(now()).troubles) >= 4;
        until("four calls have failed", &calls).await;
        let (_, advice) = log.only("Postgres", false);
        assert!(advice.contains("POSTGRES_URL"), "{advice}");
        service.stop().await.unwrap();
    });
    log.shows_no_secret();
}
