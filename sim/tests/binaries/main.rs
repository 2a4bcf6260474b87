//! The programs themselves: processes with the documented environment, real Postgres, and the models for the rest.

mod process;

use std::{path::PathBuf, process::Command, time::Duration};

use adapters::{
    ports::{Store, system_clock},
    postgres::PgStore,
};
use bytes::Bytes;
use engine::ids::{Realm, Span};
use http_body_util::Full;
use process::{Process, ask, get, page, until};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sim::{
    credentials::{WEBHOOK_SECRET, signature},
    harness::Models,
    play,
    testing::postgres,
    world::github::{AccountKind, GitHub},
};
use sqlx::PgPool;

/// L9: how long a process may take to stop.
const STOP: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);
const LABEL: &str = "ubuntu-24.04-riscv";

/// The models, a database, and the environment for both programs.
struct World {
    models: Models,
    env: Vec<(&'static str, String)>,
    pool: PgPool,
}

impl World {
    async fn new() -> Self {
        let mut github = GitHub::new(1);
        github.add_account(AccountKind::Organization, 7, "an-org", 507);
        github.add_repo(101, 7, "an-org/repo");
        github.add_account(AccountKind::User, 8, "a-user", 508);
        github.add_repo(201, 8, "a-user/own");
        let models = Models::start(github, play::cluster(50.0, false), system_clock()).await.unwrap();
        let url = postgres::database().await;
        let pool = PgPool::connect(url.expose_secret()).await.unwrap();
        let mut env = models.environment();
        env.push(("POSTGRES_URL", url.expose_secret().to_owned()));
        env.push(("LISTEN", "127.0.0.1:0".to_owned()));
        Self { models, env, pool }
    }

    fn with(&self, changes: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let mut env = self.env.clone();
        for (name, value) in changes {
            env.retain(|(known, _)| known != name);
            env.push((name, (*value).to_owned()));
        }
        env
    }

    fn queue(&self, ids: std::ops::RangeInclusive<i64>, runs: Span) {
        for id in ids {
            let repo = if id % 4 == 0 { 201 } else { 101 };
            self.models.github.with(|github, now| github.queue_job(id, repo, &[LABEL], runs, now));
        }
    }

    /// Jobs of a status in production's schema; 0 while there is none.
    async fn count(&self, status: &str) -> i64 {
        let count = "SELECT count(*) FROM prod.jobs WHERE status::text = $1";
        sqlx::query_scalar(count).bind(status).fetch_one(&self.pool).await.unwrap_or(0)
    }

    async fn completed(&self, jobs: i64) {
        until("every job completed", 2 * MINUTE, async || (self.count("completed").await == jobs).then_some(())).await;
    }
}

/// One of these that leads.
async fn leader(addresses: &[String]) -> Option<usize> {
    let mut leading = Vec::new();
    for (i, address) in addresses.iter().enumerate() {
        let status = get(address, "/status").await.unwrap_or_default();
        if status.contains("\"leading\":true") {
            leading.push(i);
        }
    }
    assert!(leading.len() < 2, "two lead");
    leading.pop()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_each_serve_every_job_though_the_leader_is_killed() {
    let mut world = World::new().await;
    let mut ghfes = vec![Process::start("ghfe", &world.env), Process::start("ghfe", &world.env)];
    for ghfe in &mut ghfes {
        let address = ghfe.address().await;
        until("ready", MINUTE, async || get(&address, "/ready").await).await;
        world.models.deliver_to(format!("http://{address}/"));
    }
    let mut schedulers = vec![Process::start("scheduler", &world.env), Process::start("scheduler", &world.env)];
    let mut addresses = Vec::new();
    for scheduler in &mut schedulers {
        addresses.push(scheduler.address().await);
    }
    world.queue(1..=8, Span::secs(1));
    world.completed(8).await;

    world.queue(9..=20, Span::secs(3));
    until("one runs", MINUTE, async || (world.count("running").await > 0).then_some(())).await;
    let first = leader(&addresses).await.expect("somebody leads, for jobs run");
    schedulers[first].signal("-KILL");
    addresses.remove(first);
    let (status, _) = schedulers.remove(first).ended(STOP).await;
    assert_eq!(status.code(), None, "killed");
    world.queue(21..=24, Span::secs(1));
    until("another leads", STOP, async || leader(&addresses).await).await;
    world.completed(24).await;
    let all: i64 = sqlx::query_scalar("SELECT count(*) FROM prod.jobs").fetch_one(&world.pool).await.unwrap();
    assert_eq!(all, 24, "no job is lost, and none is made up");

    // A job runs while everybody is told to stop.
    world.queue(25..=25, Span::mins(10));
    until("it runs", MINUTE, async || (world.count("running").await == 1).then_some(())).await;
    for process in ghfes.into_iter().chain(schedulers) {
        process.signal("-TERM");
        let (status, errors) = process.ended(STOP).await;
        assert_eq!(status.code(), Some(0), "{errors}");
        assert_eq!(errors.matches("\"stopping\"").count(), 1, "it is told once: {errors}");
        for secret in [WEBHOOK_SECRET, "PRIVATE KEY", sim::credentials::TOKEN] {
            assert!(!errors.contains(secret), "{secret}: {errors}");
        }
    }
    assert_eq!(world.count("running").await, 1);
    let alive = world.models.cluster.with(|cluster, _| {
        let keys = cluster.pod_keys();
        keys.iter().filter(|key| cluster.is_running(key)).count()
    });
    assert_eq!(alive, 1, "its pod is left alone");
}

fn delivery(address: &str, id: i64) -> http::Request<Full<Bytes>> {
    let body = json!({
        "action": "queued", "installation": { "id": 507 },
        "workflow_job": { "id": id, "html_url": "https://github.com/an-org/repo/job/1", "labels": [LABEL] },
        "repository": { "id": 101, "full_name": "an-org/repo", "owner": { "id": 7, "login": "an-org", "type": "Organization" } },
    });
    signed(address, "workflow_job", &body)
}

fn signed(address: &str, event: &str, body: &Value) -> http::Request<Full<Bytes>> {
    let body = body.to_string();
    http::Request::post(format!("http://{address}/"))
        .header("x-github-event", event)
        .header("x-hub-signature-256", signature(WEBHOOK_SECRET, body.as_bytes()))
        .body(Full::new(Bytes::from(body)))
        .unwrap()
}

/// The connection string of something that takes connections, says this to each, and nothing more.
async fn stranger(words: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgresql://user:a-password@{}/db", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, words.as_bytes()).await;
            held.push(socket);
        }
    });
    url
}

/// The connection string of something that takes connections and closes them, as a forwarder does whose server is away.
async fn forwarder_to_nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgresql://user:a-password@{}/db", listener.local_addr().unwrap());
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    url
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_ghfe_answers_the_delivery_it_holds_and_staging_keeps_to_its_schema() {
    let world = World::new().await;
    let capture = file("stopping.jsonl");
    let _ = std::fs::remove_file(&capture);
    let env = world.with(&[("PROD", "false"), ("STAGING_URL", ""), ("CAPTURE", capture.to_str().unwrap())]);
    let mut ghfe = Process::start("ghfe", &env);
    let address = ghfe.address().await;
    until("ready", MINUTE, async || get(&address, "/ready").await).await;
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE staging.jobs IN EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    let held = tokio::spawn(ask(delivery(&address, 1)));
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'staging.jobs'::regclass";
    until("the delivery waits", MINUTE, async || {
        let count: i64 = sqlx::query_scalar(waiting).fetch_one(&world.pool).await.unwrap();
        (count > 0).then_some(())
    })
    .await;
    ghfe.signal("-TERM");
    until("it is stopping", MINUTE, async || ghfe.errors().contains("stopping").then_some(())).await;
    lock.rollback().await.unwrap();
    assert_eq!(held.await.unwrap(), Some((200, "recorded".to_owned())));
    let (status, errors) = ghfe.ended(STOP).await;
    assert_eq!(status.code(), Some(0), "{errors}");
    let rows: Vec<i64> = sqlx::query_scalar("SELECT job_id FROM staging.jobs").fetch_all(&world.pool).await.unwrap();
    assert_eq!(rows, [1]);
    let schemas = "SELECT count(*) FROM information_schema.schemata WHERE schema_name = 'prod'";
    assert_eq!(sqlx::query_scalar::<_, i64>(schemas).fetch_one(&world.pool).await.unwrap(), 0);
    let captured = std::fs::read_to_string(&capture).unwrap();
    assert_eq!(sim::capture::read(&captured).unwrap().len(), 1, "{captured}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_program_from_starting_is_told_and_nothing_starts() {
    let world = World::new().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().map(|address| (address.to_string(), taken)).unwrap();
    let unwritable = file("no-such-directory/capture.jsonl");
    // One that is no Postgres, and a database that there is not.
    let babbling = stranger("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let missing = postgres::cluster().url("no-such-database");
    // Its program says the token where an ExecCredential should be, and complains of it.
    let token = sim::credentials::TOKEN;
    let telltale = format!(
        "current-context: c\nclusters: [{{name: k, cluster: {{server: \"https://127.0.0.1:1\"}}}}]\n\
         contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
         users: [{{name: u, user: {{exec: {{command: /bin/sh, args: [-c, \"echo {token}; echo {token} >&2\"]}}}}}}]\n"
    );
    let unwritable_message =
        format!("  - CAPTURE names {}, which cannot be opened for appending", unwritable.display());
    let taken_message = format!("LISTEN names {}, where this process cannot listen: Address already in use", taken.0);
    type Case<'a> = (&'a str, Vec<(&'static str, &'a str)>, Vec<&'a str>);
    let cases: Vec<Case<'_>> = vec![
        (
            "ghfe",
            vec![("PROD", "maybe"), ("LISTEN", "here"), ("GHAPP_WEBHOOK_SECRET", ""), ("CONFIG", "/nowhere.toml")],
            vec![
                "the configuration has 4 mistake(s):",
                "  - PROD is \"maybe\": write true or false",
                "  - LISTEN is \"here\": write an address and a port, such as 0.0.0.0:8080",
                "  - GHAPP_WEBHOOK_SECRET is not set: it must hold the webhooks' shared secret",
                "  - CONFIG names \"/nowhere.toml\", which cannot be read",
            ],
        ),
        (
            "scheduler",
            vec![
                ("K8S_KUBECONFIG", "no"),
                ("GHAPP_ORG_PRIVATE_KEY", "no"),
                ("GITHUB_API_URL", "no"),
                ("LOGLEVEL", "no"),
            ],
            vec![
                "the configuration has 4 mistake(s):",
                "  - K8S_KUBECONFIG is not a kubeconfig",
                "  - GHAPP_ORG_PRIVATE_KEY is not an RSA private key",
                "  - GITHUB_API_URL is not an address",
                "  - LOGLEVEL is \"no\"",
            ],
        ),
        (
            "scheduler",
            vec![("K8S_KUBECONFIG", &telltale), ("GITHUB_API_URL", "no"), ("HTTPS_PROXY", "http://u:a-password@proxy")],
            vec![
                "the configuration has 3 mistake(s):",
                "  - HTTPS_PROXY is set, but no proxy is used for the Kubernetes API",
                "  - K8S_KUBECONFIG cannot be used: the program that gives its user's token wrote something else",
                "  - GITHUB_API_URL is not an address",
            ],
        ),
        ("ghfe", vec![("CAPTURE", unwritable.to_str().unwrap())], vec![&unwritable_message]),
        ("ghfe", vec![("LISTEN", &taken.0)], vec![&taken_message]),
        ("scheduler", vec![("LISTEN", &taken.0)], vec![&taken_message]),
        ("ghfe", vec![("POSTGRES_URL", &babbling)], vec!["Postgres refuses, or is none"]),
        ("scheduler", vec![("POSTGRES_URL", &missing)], vec!["Postgres refuses, or is none: database"]),
    ];
    for (name, changes, messages) in cases {
        let (status, errors) = Process::start(name, &world.with(&changes)).ended(STOP).await;
        assert_eq!(status.code(), Some(1), "{name}: {errors}");
        for message in messages {
            let told = errors.lines().find(|line| line.starts_with(message));
            let told = told.unwrap_or_else(|| panic!("{name}: {message}: {errors}"));
            assert!(!told.starts_with("Postgres") || told.contains("POSTGRES_URL"), "it says what to look at: {told}");
        }
        for secret in [WEBHOOK_SECRET, "PRIVATE KEY", "a-password", sim::credentials::TOKEN] {
            assert!(!errors.contains(secret), "{secret}: {errors}");
        }
    }
}

/// A process that ended instead would be away itself when the database is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_nobody_finds_at_the_start_is_waited_for() {
    let world = World::new().await;
    let server = postgres::Cluster::start().unwrap();
    server.stop().unwrap();
    let url = server.url("postgres");
    let start = |name, url: &str| Process::start(name, &world.with(&[("POSTGRES_URL", url)]));
    let (mut ghfe, mut scheduler) = (start("ghfe", &url), start("scheduler", &url));
    let (front, health) = (ghfe.address().await, scheduler.address().await);
    let later = (503, "the store has not been reached yet; deliver again later\n".to_owned());
    assert_eq!(ask(delivery(&front, 1)).await, Some(later.clone()));
    assert_eq!(page(&front, "/ready").await, Some(later));
    assert_eq!(page(&front, "/health").await, Some((200, "ok".to_owned())), "a restart mends nothing");
    for address in [&front, &health] {
        until("a trouble", MINUTE, async || {
            let status: Value = serde_json::from_str(&get(address, "/status").await?).unwrap();
            let trouble = status["troubles"].get(0)?.as_str()?.to_owned();
            trouble.starts_with("Postgres: connection: ").then_some(())
        })
        .await;
    }
    assert_eq!(page(&health, "/health").await, Some((200, "ok".to_owned())));
    server.resume().unwrap();
    until("recorded", MINUTE, async || ask(delivery(&front, 1)).await.filter(|answer| answer.0 == 200)).await;
    until("a leader", MINUTE, async || leader(std::slice::from_ref(&health)).await).await;
    for process in [ghfe, scheduler] {
        process.signal("-TERM");
        let (status, errors) = process.ended(STOP).await;
        assert_eq!(status.code(), Some(0), "{errors}");
        let lines = errors.lines().filter(|line| line.contains("Postgres")).count();
        assert_eq!(lines, 2, "when it began and when it was over: {errors}");
    }
    // Whoever never comes is waited for until the process is told to stop, and what is wrong is in its log.
    let password = "postgresql://user:a-password@";
    for (name, url, what) in [
        ("ghfe", format!("{password}127.0.0.1:1/db"), "connection refused"),
        ("scheduler", format!("{password}{}.invalid/db", "a".repeat(64)), "the host cannot be found"),
        ("scheduler", stranger("").await, "no answer within 5 s"),
        ("ghfe", forwarder_to_nobody().await, "unexpected response from SSLRequest"),
    ] {
        let process = start(name, &url);
        until(what, MINUTE, async || process.errors().contains(what).then_some(())).await;
        process.signal("-TERM");
        let (status, errors) = process.ended(STOP).await;
        assert_eq!(status.code(), Some(0), "{errors}");
        assert!(errors.contains("POSTGRES_URL") && !errors.contains("a-password"), "{errors}");
    }
}

/// The demo, to its end: exit code, output, errors.
async fn run_demo(args: &[&str], postgres: Option<&str>) -> (Option<i32>, String, String) {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.args(args).env_remove("POSTGRES_URL").envs(postgres.map(|url| ("POSTGRES_URL", url)));
    // Whoever is behind a proxy has it in the environment; what is on loopback needs none.
    demo.env("HTTPS_PROXY", "http://127.0.0.1:9");
    demo.current_dir(env!("CARGO_TARGET_TMPDIR"));
    let out = tokio::task::spawn_blocking(move || demo.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code(), text(out.stdout), text(out.stderr))
}

/// `demo --once` with POSTGRES_URL: ends 0 with every job completed, and the rows are as the specification says. Run again
/// on them it refuses.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_on_postgres_leaves_the_specifications_rows() {
    let url = postgres::database().await;
    // Somebody's own: the demo would lead there, and fail what the models know nothing of.
    let store = PgStore::connect(&url, Realm::Prod).await.unwrap();
    let in_use = async |why: &str| {
        let (code, text, errors) = run_demo(&["--once", "--speed", "60"], Some(url.expose_secret())).await;
        assert_eq!((code, text.as_str()), (Some(2), ""), "{errors}");
        assert!(
            errors.starts_with(&format!("demo: POSTGRES_URL names a database that is in use: {why}. ")),
            "{errors}"
        );
    };
    let lease = store.acquire("somebody", Span::hours(1)).await.unwrap().unwrap();
    in_use("a scheduler leads there, or did 15 s ago").await;
    store.release(&lease).await.unwrap();
    store.record(vec![sim::testing::rows::job(1, 7)]).await.unwrap();
    in_use("1 jobs and 0 workers are pending or running").await;
    sqlx::query("DELETE FROM prod.jobs").execute(store.pool()).await.unwrap();
    let (code, text, errors) = run_demo(&["--once", "--speed", "60"], Some(url.expose_secret())).await;
    assert_eq!(code, Some(0), "{text}\n{errors}");
    let report: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let keys = ["jobs", "completed", "workers", "webhooks", "github_calls", "seconds"];
    let places = keys.map(|key| text.lines().last().unwrap().find(&format!("\"{key}\":")));
    assert!(places.is_sorted() && places[0] == Some(1) && report.as_object().unwrap().len() == keys.len(), "{report}");
    assert_eq!(report["completed"], report["jobs"]);
    assert_eq!(report["jobs"], sim::capture::BUILT_IN_JOBS);
    let pool = PgPool::connect(url.expose_secret()).await.unwrap();
    let count = async |what: &str| -> i64 {
        let query = format!("SELECT count(*) FROM {what}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&pool).await.unwrap()
    };
    assert_eq!(count("prod.jobs WHERE status = 'completed'::prod.status_enum").await, report["jobs"]);
    assert_eq!(count("prod.jobs").await, report["jobs"]);
    for absent in [
        "prod.workers WHERE (status IN ('completed', 'failed')) <> (completed_at IS NOT NULL)",
        "prod.workers WHERE (status = 'failed') <> (failure_info IS NOT NULL)",
        "prod.workers WHERE failure_info IS NOT NULL AND failure_info ->> 'version' <> '2'",
        "prod.workers WHERE (entity_type = 'User') <> (repo_full_name IS NOT NULL)",
        "prod.workers WHERE pod_name !~ '^rise-riscv-runner-[0-9]+-[a-z0-9]{9}$'",
        "prod.workers WHERE running_at IS NOT NULL AND k8s_node IS NULL",
        "prod.workers WHERE status = 'completed' AND running_at IS NULL",
        "prod.workers WHERE failure_info ->> 'reason' IN ('pod_failed', 'runner_never_registered') AND running_at IS NULL",
        "prod.workers WHERE running_at < created_at - interval '1 second' OR completed_at < running_at",
        "prod.jobs WHERE entity_type NOT IN ('Organization', 'User') OR (entity_type = 'Organization') <> (entity_id = owner_id)",
        "prod.jobs WHERE job_labels <> (SELECT jsonb_agg(label ORDER BY label) FROM jsonb_array_elements(job_labels) label)",
        "prod.jobs WHERE k8s_image NOT LIKE 'ubuntu-2_.04' OR html_url NOT LIKE 'https://github.com/%'",
        "information_schema.schemata WHERE schema_name = 'staging'",
    ] {
        assert_eq!(count(absent).await, 0, "{absent}");
    }
    let reasons = "SELECT DISTINCT failure_info ->> 'reason' FROM prod.workers WHERE status = 'failed' ORDER BY 1";
    let reasons: Vec<String> = sqlx::query_scalar(reasons).fetch_all(&pool).await.unwrap();
    for reason in ["pod_failed", "pod_stuck_pending", "runner_never_registered"] {
        assert!(reasons.iter().any(|known| known == reason), "{reason} among {reasons:?}");
    }

    // A second time nothing would be played. One row is enough, whatever its status is.
    for left in [sim::capture::BUILT_IN_JOBS, 1] {
        let delete =
            "DELETE FROM prod.jobs WHERE job_id NOT IN (SELECT job_id FROM prod.jobs ORDER BY job_id LIMIT $1)";
        sqlx::query(delete).bind(left).execute(&pool).await.unwrap();
        let (code, text, errors) = run_demo(&["--once", "--speed", "60"], Some(url.expose_secret())).await;
        assert_eq!((code, text.as_str()), (Some(2), ""), "{errors}");
        let expected = format!(
            "demo: POSTGRES_URL names a database that has {left} of the capture's 240 jobs already: name one without them, \
             or play without POSTGRES_URL, which keeps the state in memory\n"
        );
        assert_eq!(errors, expected);
        assert_eq!(count("prod.jobs").await, left);
    }
}

/// What one ghfe captured is played by the demo: jobs that run and jobs that are cancelled, of an organisation and of a
/// personal account, among deliveries of other events and about jobs that the service ignores.
#[tokio::test(flavor = "multi_thread")]
async fn the_demo_plays_what_a_running_ghfe_captured() {
    let world = World::new().await;
    let path = file("round-trip.jsonl");
    let _ = std::fs::remove_file(&path);
    let mut ghfe = Process::start("ghfe", &world.with(&[("CAPTURE", path.to_str().unwrap())]));
    let address = ghfe.address().await;
    until("ready", MINUTE, async || get(&address, "/ready").await).await;
    // Real bodies, as GitHub's model sends them.
    let mut github = GitHub::new(1);
    github.add_account(AccountKind::Organization, 7, "an-org", 507);
    github.add_repo(101, 7, "an-org/repo");
    github.add_account(AccountKind::User, 8, "a-user", 508);
    github.add_repo(201, 8, "a-user/own");
    let start = (system_clock())();
    for id in 1..=12 {
        let labels: &[&str] = if id % 4 == 3 { &["ubuntu-latest"] } else { &[LABEL] };
        github.queue_job(id, if id % 2 == 0 { 201 } else { 101 }, labels, Span::secs(90), start);
        match id % 5 {
            0 => github.cancel_job(id, start + Span::secs(8)),
            // Its end was never told of.
            1 => {}
            _ => github.run_to_end(id, start + Span::secs(30)),
        }
    }
    let mut sent = 0;
    for outgoing in github.take_outbox() {
        let body: Value = serde_json::from_str(&outgoing.body).unwrap();
        let (status, text) = ask(signed(&address, outgoing.event, &body)).await.unwrap();
        assert_eq!(status, 200, "{text}");
        sent += 1;
    }
    assert_eq!(ask(signed(&address, "ping", &json!({ "zen": "…" }))).await.unwrap().0, 200);
    let gone = json!({ "action": "deleted", "installation": { "id": 999 } });
    assert_eq!(ask(signed(&address, "installation", &gone)).await.unwrap().0, 200);
    // Accepted and ignored, though there is little in them.
    let null = |key: &str, id: i64| {
        let mut body = json!({
            "action": "queued", "installation": { "id": 507 }, "workflow_job": { "id": id, "html_url": "x" },
            "repository": { "id": 101, "full_name": "an-org/repo",
                            "owner": { "id": 7, "login": "an-org", "type": "Organization" } },
        });
        body["workflow_job"][key] = Value::Null;
        body
    };
    assert_eq!(ask(signed(&address, "workflow_job", &null("labels", 98))).await.unwrap().0, 200);
    assert_eq!(ask(signed(&address, "workflow_job", &json!({}))).await.unwrap().0, 200);
    assert_eq!(ask(signed(&address, "workflow_job", &null("id", 99))).await.unwrap().0, 400, "refused, not kept");
    ghfe.signal("-TERM");
    assert_eq!(ghfe.ended(STOP).await.0.code(), Some(0));
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(kept.lines().count(), sent + 4, "{kept}");

    let (code, text, errors) = run_demo(&["--once", "--speed", "60", "--capture", path.to_str().unwrap()], None).await;
    assert_eq!(code, Some(0), "{text}\n{errors}");
    let report: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&report["jobs"], &report["completed"]), (&9.into(), &9.into()), "{text}");
    assert!(text.contains("left out: 4 of the capture's jobs, whose labels the service ignores"), "{text}");

    // A delivery that names another account's installation: GitHub does not know the job there, and it is failed.
    let mut stray: Value = serde_json::from_str(kept.lines().next().unwrap()).unwrap();
    assert_eq!(stray["body"]["action"], "queued");
    stray["body"]["workflow_job"]["id"] = 50.into();
    let owner = json!({ "id": 9, "login": "other", "type": "Organization" });
    stray["body"]["repository"] = json!({ "id": 901, "full_name": "other/repo", "owner": owner });
    let path = file("stray.jsonl");
    std::fs::write(&path, format!("{kept}{stray}\n")).unwrap();
    let (code, text, errors) = run_demo(&["--once", "--speed", "60", "--capture", path.to_str().unwrap()], None).await;
    assert_eq!(code, Some(1), "{text}\n{errors}");
    assert!(errors.contains("  job 50: failed (job_not_found) in the store, Queued for GitHub\n"), "{errors}");
    assert_eq!(errors.matches("  job ").count(), 1, "{errors}");
    let report: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&report["jobs"], &report["completed"]), (&10.into(), &9.into()), "{text}");
}
