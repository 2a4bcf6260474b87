//! Signed, unique webhooks at a rate or flat out, at any ghfe: what it takes, how fast it answers, and whether every
//! delivery it answered with 2xx is in the database.
//!
//! `cargo run --release -p sim --bin load -- [OPTIONS]`; see [`USAGE`].

use std::{
    net::{SocketAddr, ToSocketAddrs},
    process::ExitCode,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep_until, timeout},
};

const USAGE: &str = "usage: cargo run --release -p sim --bin load -- [OPTIONS]
  --to HOST:PORT     where ghfe listens (default 127.0.0.1:8080)
  --rate N           webhooks a second; without it flat out
  --connections N    at once, each with one request at a time (default 64; 1 to 10000)
  --seconds N        stop after so long (default 10; 1 to 3600)
  --count N          stop after so many webhooks (default 200000; 1 to 5000000)
  --bytes N          pad bodies to at least so many bytes (default 7168; at most 1000000)
  --schema NAME      where ghfe keeps its rows: prod or staging (default prod)
  --json             print the report as JSON
  --anywhere         allow an address that is not this machine's own
GHAPP_WEBHOOK_SECRET in the environment: the secret to sign with. POSTGRES_URL: look up that each 2xx has its row.
Ends 0 when every webhook was answered 2xx and has its row, 1 when not, 2 on a mistake in the options.";

/// A job's number in a body, for the real one to be written over: as many digits, and nowhere else in it.
const MARK: &str = "7700000000000077";
/// Jobs a connection has begun before it goes on with the first.
const AHEAD: u64 = 8;
/// One answer may take so long.
const PATIENCE: Duration = Duration::from_secs(15);
const FIXTURES: [&str; 3] = [
    include_str!("../../fixtures/webhooks/workflow_job.queued-organization.json"),
    include_str!("../../fixtures/webhooks/workflow_job.in_progress-organization.json"),
    include_str!("../../fixtures/webhooks/workflow_job.completed-organization.json"),
];
const ACTIONS: [&str; 3] = ["queued", "in_progress", "completed"];

#[derive(Clone)]
struct Options {
    to: String,
    rate: Option<f64>,
    connections: u64,
    seconds: u64,
    count: u64,
    bytes: usize,
    schema: String,
    json: bool,
    anywhere: bool,
}

fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display>(
    name: &str,
    text: &str,
    least: T,
    most: T,
) -> Result<T, String> {
    let parsed = text.parse().ok().filter(|number| *number >= least && *number <= most);
    parsed.ok_or_else(|| format!("{name} wants a number from {least} to {most}"))
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        to: "127.0.0.1:8080".to_owned(),
        rate: None,
        connections: 64,
        seconds: 10,
        count: 200_000,
        bytes: 7168,
        schema: "prod".to_owned(),
        json: false,
        anywhere: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--to" => options.to = value()?,
            "--rate" => options.rate = Some(number(&arg, &value()?, 0.1, 1_000_000.0)?),
            "--connections" => options.connections = number(&arg, &value()?, 1, 10_000)?,
            "--seconds" => options.seconds = number(&arg, &value()?, 1, 3_600)?,
            "--count" => options.count = number(&arg, &value()?, 1, 5_000_000)?,
            "--bytes" => options.bytes = number(&arg, &value()?, 0, 1_000_000)?,
            "--schema" => options.schema = value()?,
            "--json" => options.json = true,
            "--anywhere" => options.anywhere = true,
            "--help" | "-h" => return Err(String::new()),
            other => return Err(format!("{other} is not an option")),
        }
    }
    if !["prod", "staging"].contains(&options.schema.as_str()) {
        return Err("--schema wants prod or staging".to_owned());
    }
    Ok(options)
}

/// Resolves the address, and refuses any that is not this machine's own unless told otherwise.
fn address(options: &Options) -> Result<SocketAddr, String> {
    let mut found = options.to.to_socket_addrs().map_err(|_| "--to wants HOST:PORT")?;
    let addr = found.next().ok_or("--to names no address")?;
    if !addr.ip().is_loopback() && !options.anywhere {
        return Err(format!("{addr} is not this machine's own: say --anywhere if it is yours to load"));
    }
    Ok(addr)
}

/// A body with marks where the job's number goes.
struct Template {
    body: Vec<u8>,
    marks: Vec<usize>,
}

impl Template {
    /// The real body of an action, in one of eight organisations, as long as asked for.
    fn new(action: usize, organisation: u64, bytes: usize) -> Result<Self, serde_json::Error> {
        let mut body: Value = serde_json::from_str(FIXTURES[action])?;
        let id: u64 = 7_700_000_000_000_077;
        let runner = (action > 0).then(|| format!("load-{MARK}"));
        body["action"] = json!(ACTIONS[action]);
        let job = &mut body["workflow_job"];
        job["id"] = json!(id);
        job["html_url"] = json!(format!("https://github.com/load-{organisation}/repo/actions/runs/{MARK}/job/{MARK}"));
        job["labels"] = json!(["ubuntu-24.04-riscv"]);
        job["runner_name"] = json!(runner);
        job["steps"] = json!([]);
        job["created_at"] = json!("2026-01-01T00:00:00Z");
        job["started_at"] = json!("2026-01-01T00:01:00Z");
        job["completed_at"] = json!((action == 2).then_some("2026-01-01T00:02:00Z"));
        let repository = &mut body["repository"];
        repository["id"] = json!(9_000 + organisation);
        repository["full_name"] = json!(format!("load-{organisation}/repo"));
        repository["owner"]["id"] = json!(8_000 + organisation);
        repository["owner"]["login"] = json!(format!("load-{organisation}"));
        repository["owner"]["type"] = json!("Organization");
        body["installation"] = json!({ "id": 7_000 + organisation });
        let missing = bytes.saturating_sub(body.to_string().len() + r#","padding":"""#.len());
        body["padding"] = json!("x".repeat(missing));
        let body = body.to_string();
        let marks = body.match_indices(MARK).map(|(at, _)| at).collect();
        Ok(Self { body: body.into_bytes(), marks })
    }

    /// Writes the body of one job into `out`.
    fn fill(&self, job: u64, out: &mut Vec<u8>) {
        let from = out.len();
        out.extend_from_slice(&self.body);
        let digits = format!("{job:016}");
        for at in &self.marks {
            out[from + at..from + at + MARK.len()].copy_from_slice(digits.as_bytes());
        }
    }
}

/// One webhook to send: signed beforehand, so that signing costs the measurement nothing.
struct Planned {
    template: usize,
    job: u64,
    signature: [u8; 32],
}

/// One connection's webhooks: each job is queued, runs and completes, several at a time. Of every ten one is cancelled
/// before it starts, and one completes before it is told to run.
fn plan(templates: &[Template], connection: u64, count: u64, base: u64, key: &aws_lc_rs::hmac::Key) -> Vec<Planned> {
    let mut steps: Vec<(u64, u64)> = Vec::with_capacity(count as usize + 3);
    let mut step = 0;
    while (steps.len() as u64) < count {
        steps.push((0, step));
        if let Some(job) = step.checked_sub(AHEAD) {
            steps.push((if job % 10 >= 8 { 2 } else { 1 }, job));
        }
        if let Some(job) = step.checked_sub(2 * AHEAD).filter(|job| job % 10 != 9) {
            steps.push((if job % 10 == 8 { 1 } else { 2 }, job));
        }
        step += 1;
    }
    steps.truncate(count as usize);
    let mut body = Vec::new();
    let planned = steps.into_iter().map(|(action, job)| {
        let id = base + connection * 10_000_000 + job;
        let template = (action * 8 + id % 8) as usize;
        body.clear();
        templates[template].fill(id, &mut body);
        let mut signature = [0; 32];
        signature.copy_from_slice(aws_lc_rs::hmac::sign(key, &body).as_ref());
        Planned { template, job: id, signature }
    });
    planned.collect()
}

/// What became of one connection's webhooks.
#[derive(Default)]
struct Outcome {
    /// Microseconds until the answer, from when each was due.
    latencies: Vec<u32>,
    /// Answers by status; 0 stands for none.
    statuses: std::collections::BTreeMap<u16, u64>,
    /// 503 answers that said when to come again.
    retry_after: u64,
    /// Jobs and actions that were answered 2xx.
    accepted: Vec<(u64, u8)>,
}

struct Answer {
    status: u16,
    retry_after: bool,
}

/// Reads one answer, which must say its length.
async fn answer(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Answer> {
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let header = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length: usize = header("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
        while buffer.len() < head + 4 + length {
            if stream.read_buf(buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        return Ok(Answer { status, retry_after: header("retry-after:").is_some() });
    }
}

/// Sends one connection's webhooks, one after the other; `every` is the time between two when there is a rate.
async fn send(
    addr: SocketAddr,
    templates: &[Template],
    planned: Vec<Planned>,
    (start, every, end): (Instant, Option<Duration>, Instant),
) -> Outcome {
    let mut outcome = Outcome::default();
    let (mut request, mut buffer) = (Vec::new(), Vec::new());
    let mut stream: Option<TcpStream> = None;
    for (i, webhook) in planned.into_iter().enumerate() {
        let due = every.map(|every| start + every * i as u32);
        if let Some(due) = due {
            sleep_until(due.into()).await;
        }
        // With a rate, time lost waiting for one answer counts for those that were due meanwhile.
        let begun = due.unwrap_or_else(Instant::now);
        if Instant::now() >= end {
            break;
        }
        let template = &templates[webhook.template];
        request.clear();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: {addr}\r\ncontent-type: application/json\r\nx-github-event: workflow_job\r\n\
             x-github-delivery: load-{}-{}\r\nx-hub-signature-256: sha256={}\r\ncontent-length: {}\r\n\r\n",
            webhook.job,
            webhook.template / 8,
            hex::encode(webhook.signature),
            template.body.len(),
        );
        request.extend_from_slice(head.as_bytes());
        template.fill(webhook.job, &mut request);
        let exchange = async {
            let open = match stream.take() {
                Some(open) => open,
                None => TcpStream::connect(addr).await?,
            };
            open.set_nodelay(true)?;
            let open = stream.insert(open);
            open.write_all(&request).await?;
            answer(open, &mut buffer).await
        };
        match timeout(PATIENCE, exchange).await {
            Ok(Ok(answer)) => {
                *outcome.statuses.entry(answer.status).or_default() += 1;
                outcome.retry_after += u64::from(answer.retry_after && answer.status == 503);
                if (200..300).contains(&answer.status) {
                    outcome.accepted.push((webhook.job, (webhook.template / 8) as u8));
                }
            }
            Ok(Err(_)) | Err(_) => {
                stream = None;
                *outcome.statuses.entry(0).or_default() += 1;
            }
        }
        outcome.latencies.push(u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX));
    }
    outcome
}

/// How many accepted webhooks' rows are missing, or behind what was accepted.
async fn missing_rows(schema: &str, accepted: &[(u64, u8)]) -> Result<u64, Box<dyn std::error::Error>> {
    let Ok(url) = std::env::var("POSTGRES_URL") else { return Err("POSTGRES_URL is not set".into()) };
    let mut connection = PgConnection::connect(&url).await.map_err(|_| "POSTGRES_URL cannot be reached")?;
    let mut furthest = std::collections::BTreeMap::new();
    for &(job, action) in accepted {
        let known = furthest.entry(job as i64).or_insert(action);
        *known = (*known).max(action);
    }
    let jobs: Vec<(i64, u8)> = furthest.into_iter().collect();
    let mut missing = 0;
    for part in jobs.chunks(10_000) {
        let ids: Vec<i64> = part.iter().map(|&(job, _)| job).collect();
        let actions: Vec<i32> = part.iter().map(|&(_, action)| i32::from(action)).collect();
        // The schema is one of two words of ours.
        let count = format!(
            "SELECT count(*) FROM UNNEST($1::bigint[], $2::int[]) AS e (id, least)
             LEFT JOIN {schema}.jobs j ON j.job_id = e.id
             WHERE j.job_id IS NULL OR array_position(ARRAY['pending', 'running', 'completed', 'failed'], j.status::text) <= e.least"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(count)).bind(&ids).bind(&actions).fetch_one(&mut connection).await?;
        missing += row.try_get::<i64, _>(0)?.unsigned_abs();
    }
    Ok(missing)
}

fn percentile(sorted: &[u32], percent: f64) -> f64 {
    let at = ((sorted.len() as f64 * percent / 100.0).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).map_or(0.0, |&micros| f64::from(micros) / 1000.0)
}

async fn run(options: Options, addr: SocketAddr, secret: &str) -> Result<bool, Box<dyn std::error::Error>> {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let mut templates = Vec::new();
    for action in 0..3 {
        for organisation in 0..8 {
            templates.push(Template::new(action, organisation, options.bytes)?);
        }
    }
    let bytes = templates.iter().map(|template| template.body.len()).sum::<usize>() / templates.len();
    let templates = std::sync::Arc::new(templates);
    // Later runs have greater numbers, so each run's jobs are its own.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64;
    let base = 1_000_000_000_000_000 + now % 1_000_000_000_000 * 1_000;
    let (each, more) = (options.count / options.connections, options.count % options.connections);
    let plans: Vec<Vec<Planned>> = (0..options.connections)
        .map(|connection| plan(&templates, connection, each + u64::from(connection < more), base, &key))
        .collect();
    let every = options.rate.map(|rate| Duration::from_secs_f64(options.connections as f64 / rate));
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for (i, planned) in plans.into_iter().enumerate() {
        let start = begun + every.unwrap_or_default().mul_f64(i as f64 / options.connections as f64);
        let (templates, end) = (templates.clone(), begun + Duration::from_secs(options.seconds));
        tasks.push(tokio::spawn(async move { send(addr, &templates, planned, (start, every, end)).await }));
    }
    let mut all = Outcome::default();
    for task in tasks {
        let one = task.await?;
        all.latencies.extend(one.latencies);
        all.accepted.extend(one.accepted);
        all.retry_after += one.retry_after;
        for (status, count) in one.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    all.latencies.sort_unstable();
    let (sent, accepted) = (all.latencies.len(), all.accepted.len());
    let missing = match std::env::var_os("POSTGRES_URL") {
        Some(_) => Some(missing_rows(&options.schema, &all.accepted).await?),
        None => None,
    };
    let ms = |percent| percentile(&all.latencies, percent);
    let statuses: serde_json::Map<String, Value> =
        all.statuses.iter().map(|(status, count)| (status.to_string(), json!(count))).collect();
    let report = json!({
        "sent": sent, "accepted": accepted, "seconds": seconds, "rate": accepted as f64 / seconds, "bytes": bytes,
        "connections": options.connections, "p50_ms": ms(50.0), "p90_ms": ms(90.0), "p99_ms": ms(99.0),
        "p999_ms": ms(99.9), "max_ms": ms(100.0), "statuses": statuses, "retry_after": all.retry_after,
        "rows_missing": missing,
    });
    if options.json {
        println!("{report}");
    } else {
        println!(
            "{accepted} of {sent} webhooks of {bytes} bytes accepted in {seconds:.1} s: {:.0} a second",
            accepted as f64 / seconds
        );
        println!(
            "latency in ms: p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, most {:.1}",
            ms(50.0),
            ms(90.0),
            ms(99.0),
            ms(99.9),
            ms(100.0)
        );
        println!(
            "answers by status (0: none): {}; with Retry-After: {}",
            Value::Object(report["statuses"].as_object().cloned().unwrap_or_default()),
            all.retry_after
        );
        match missing {
            Some(missing) => println!("rows missing or behind what was answered: {missing}"),
            None => println!("rows were not looked up: POSTGRES_URL is not set"),
        }
    }
    Ok(accepted == sent && sent > 0 && missing.unwrap_or(0) == 0)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let asked = options().and_then(|options| Ok((address(&options)?, options)));
    let (addr, options) = match asked {
        Ok(asked) => asked,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let Ok(secret) = std::env::var("GHAPP_WEBHOOK_SECRET") else {
        eprintln!("GHAPP_WEBHOOK_SECRET is not set: ghfe's own secret is needed to sign");
        return ExitCode::from(2);
    };
    match run(options, addr, &secret).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}
