//! Plays a capture against the whole service on loopback: both models, ghfe and scheduler, real HTTP between them.
//!
//! `cargo demo [-- --once] [--capture FILE] [--listen ADDR] [--speed X]`

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use adapters::{
    config,
    memory::MemoryStore,
    ports::{HistoryQuery, Store, system_clock},
};
use engine::{
    decision::JobFailure,
    facts::Status,
    ids::{Realm, Span},
    policy::Policy,
};
use sim::{
    capture::{self, Playable, PlayedJob},
    harness::{Error, Models, Service, Setup},
    play::{self, Player, faster},
    world::github::{Job as GitHubJob, JobState},
};

const USAGE: &str = "usage: cargo demo [-- OPTIONS]
  --once            end when every job of the capture is completed; the last line is JSON
  --capture FILE    play this capture (ghfe's CAPTURE) instead of the built-in one
  --print-capture   print the built-in capture and end: for `cargo sim replay`
  --listen ADDR     where ghfe listens (default: a free loopback port)
  --speed X         time runs X times as fast (default 20; 1 to 200)
POSTGRES_URL in the environment: keep the state there instead of in memory; a database takes a capture once";

struct Options {
    once: bool,
    capture: Option<PathBuf>,
    listen: Option<SocketAddr>,
    speed: f64,
}

fn options() -> Result<Options, String> {
    let mut options = Options { once: false, capture: None, listen: None, speed: 20.0 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--once" => options.once = true,
            "--print-capture" => {
                print!("{}", capture::built_in());
                std::process::exit(0);
            }
            "--capture" => options.capture = Some(PathBuf::from(value()?)),
            "--listen" => {
                options.listen = Some(value()?.parse().map_err(|_| "--listen wants an address such as 127.0.0.1:8080")?)
            }
            "--speed" => options.speed = value()?.parse().map_err(|_| "--speed wants a number")?,
            // The alias ends with one already.
            "--" => {}
            "--help" | "-h" => {
                println!("{USAGE}");
                std::process::exit(0);
            }
            other => return Err(format!("{other} is not an option")),
        }
    }
    if !(1.0..=200.0).contains(&options.speed) {
        return Err("--speed wants a number from 1 to 200".to_owned());
    }
    Ok(options)
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let level = std::env::var("LOGLEVEL").unwrap_or_else(|_| "error".to_owned()).to_lowercase();
    let filter = tracing_subscriber::EnvFilter::try_new(level).unwrap_or_default();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match play(options).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The service's own timeouts, and GitHub's limits, at the demo's speed.
fn sped_up(mut policy: Policy, speed: f64) -> Policy {
    let timeouts = &mut policy.timeouts;
    for span in [
        &mut timeouts.registration,
        &mut timeouts.pending,
        &mut timeouts.surplus,
        &mut timeouts.idle_proof,
        &mut timeouts.jit,
        &mut timeouts.phantom,
        &mut timeouts.gone,
        &mut timeouts.backoff,
        &mut timeouts.backoff_max,
        &mut timeouts.pods_relist,
        &mut timeouts.pods_doubt,
        &mut timeouts.deliveries,
    ] {
        *span = faster(*span, speed);
    }
    let governor = &mut policy.governor;
    for span in [&mut governor.doubt_every, &mut governor.sweep_every, &mut governor.list_every] {
        *span = faster(*span, speed);
    }
    governor.jit_per_minute = (f64::from(governor.jit_per_minute) * speed) as u32;
    policy
}

async fn store() -> Result<(Arc<dyn Store>, &'static str), Error> {
    match std::env::var("POSTGRES_URL").ok().filter(|url| !url.is_empty()) {
        None => Ok((MemoryStore::new(system_clock()), "memory")),
        Some(url) => Ok((adapters::postgres::PgStore::connect(&url.into(), Realm::Prod).await?, "Postgres")),
    }
}

async fn play(options: Options) -> Result<ExitCode, Error> {
    let text = match &options.capture {
        Some(path) => std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?,
        None => capture::built_in(),
    };
    let (policy, pods) = config::built_in(Realm::Prod)?;
    let Playable { jobs, left_out } = capture::playable(capture::read(&text)?, &policy)?;
    let (store, kept) = store().await?;
    // What ended in an earlier play ends no more: nothing would be played, and all of it look completed.
    let old = rows(&*store, &jobs).await?.len();
    if old > 0 {
        eprintln!(
            "demo: POSTGRES_URL names a database that has {old} of the capture's {} jobs already: name one without them, \
             or play without POSTGRES_URL, which keeps the state in memory",
            jobs.len()
        );
        return Ok(ExitCode::from(2));
    }
    if let Some(why) = in_use(&*store).await? {
        eprintln!(
            "demo: POSTGRES_URL names a database that is in use: {why}. The demo would take it over, and fail what it does \
             not know: name one of its own, or play without POSTGRES_URL, which keeps the state in memory"
        );
        return Ok(ExitCode::from(2));
    }
    let cluster = play::cluster(options.speed, options.capture.is_none());
    let mut models = Models::start(play::github(&jobs, options.speed), cluster, system_clock()).await?;
    let setup = Setup {
        store: store.clone(),
        policy: sped_up(policy, options.speed),
        pods,
        listen: options.listen,
        capture: None,
        seed: (system_clock())().0.unsigned_abs(),
        check: true,
    };
    let service = Service::start(&models, setup).await?;
    models.deliver_to(format!("http://{}/", service.ghfe));
    let kubeconfig = PathBuf::from("target/demo/kubeconfig");
    std::fs::create_dir_all("target/demo")?;
    std::fs::write(&kubeconfig, models.kubeconfig())?;
    println!("{} jobs at {} times real speed; state in {kept}", jobs.len(), options.speed);
    left_out.iter().for_each(|why| println!("{why}"));
    println!("usage      http://{}/usage", service.ghfe);
    println!("history    http://{}/history", service.ghfe);
    println!("scheduler  http://{}/status", service.scheduler);
    println!("cluster    KUBECONFIG={} kubectl get pods", kubeconfig.display());
    let done = run(&models, &*store, Player::new(jobs, options.speed), options.once).await?;
    let violations = service.violations();
    if !violations.is_empty() {
        return Err(format!("decisions were made that may never be made: {violations:#?}").into());
    }
    if options.once {
        service.stop().await?;
    }
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Why a store is somebody else's: it has active rows, or somebody leads there.
async fn in_use(store: &dyn Store) -> Result<Option<String>, Error> {
    let usage = store.usage().await.map_err(|error| format!("{error:?}"))?;
    if !usage.jobs.is_empty() || !usage.workers.is_empty() {
        let (jobs, workers) = (usage.jobs.len(), usage.workers.len());
        return Ok(Some(format!("{jobs} jobs and {workers} workers are pending or running")));
    }
    let lease = store.acquire("demo", Span::secs(5)).await.map_err(|error| format!("{error:?}"))?;
    let Some(lease) = lease else { return Ok(Some("a scheduler leads there, or did 15 s ago".to_owned())) };
    store.release(&lease).await.map_err(|error| format!("{error:?}"))?;
    Ok(None)
}

/// Plays to the end, and shows how it goes.
async fn run(models: &Models, store: &dyn Store, mut player: Player, once: bool) -> Result<bool, Error> {
    let mut shown = Instant::now();
    loop {
        player.step(models);
        if shown.elapsed() >= Duration::from_secs(1) {
            shown = Instant::now();
            show(store, &player).await?;
        }
        let told = if player.is_over() { rows(store, player.jobs()).await? } else { BTreeMap::new() };
        let done = completed(models, &told);
        let all = done == player.jobs().len();
        // A job that the service has failed is not completed however long one waits.
        let ended = told.len() == player.jobs().len() && told.values().all(|(status, _)| status.is_ended());
        let hopeless = ended && told.values().any(|(status, _)| *status == Status::Failed);
        let late = player.elapsed() > player.limit();
        if once && (all || late || hopeless) {
            if !all {
                tell_missing(models, &player, &told);
            }
            println!("\n{}", player.report(models, done));
            return Ok(all);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The rows of the capture's jobs: how each stands, and why it was failed.
type Told = BTreeMap<i64, (Status, Option<JobFailure>)>;

fn is_over(job: &GitHubJob) -> bool {
    matches!(job.state, JobState::Completed(_))
}

/// How many of these jobs are completed, for GitHub and in the store.
fn completed(models: &Models, told: &Told) -> usize {
    let recorded = told.iter().filter(|(_, (status, _))| *status == Status::Completed);
    models.github.with(|github, _| recorded.filter(|(id, _)| github.jobs.get(id).is_some_and(is_over)).count())
}

/// Says which jobs were not completed, and how they stand.
fn tell_missing(models: &Models, player: &Player, told: &Told) {
    const SHOWN: usize = 20;
    eprintln!("demo: not every job was completed within {:.0} s:", player.elapsed().as_secs_f64());
    let lines = models.github.with(|github, _| {
        let line = |job: &PlayedJob| {
            let for_github = github.jobs.get(&job.id).map_or("unknown".to_owned(), |job| format!("{:?}", job.state));
            let row = match told.get(&job.id) {
                Some((Status::Completed, _)) if github.jobs.get(&job.id).is_some_and(is_over) => return None,
                Some((status, Some(failure))) => format!("{} ({failure})", status.as_str()),
                Some((status, None)) => status.as_str().to_owned(),
                None => "not recorded".to_owned(),
            };
            Some(format!("job {}: {row} in the store, {for_github} for GitHub", job.id))
        };
        player.jobs().iter().filter_map(line).collect::<Vec<_>>()
    });
    lines.iter().take(SHOWN).for_each(|line| eprintln!("  {line}"));
    if lines.len() > SHOWN {
        eprintln!("  and {} more", lines.len() - SHOWN);
    }
}

/// These jobs' rows.
async fn rows(store: &dyn Store, jobs: &[PlayedJob]) -> Result<Told, Error> {
    let ids: BTreeSet<i64> = jobs.iter().map(|job| job.id).collect();
    let query = |page| HistoryQuery { start: None, end: None, page, per_page: 1000 };
    let (mut page, mut found) = (0, Told::new());
    loop {
        let part = store.history(query(page)).await.map_err(|error| format!("{error:?}"))?;
        let ours = part.jobs.iter().filter(|job| ids.contains(&job.id.0));
        found.extend(ours.map(|job| (job.id.0, (job.status, job.failure))));
        page += 1;
        if u64::from(page) * 1000 >= part.total {
            return Ok(found);
        }
    }
}

async fn show(store: &dyn Store, player: &Player) -> Result<(), Error> {
    let usage = store.usage().await.map_err(|error| format!("{error:?}"))?;
    let count = |status| usage.jobs.iter().filter(|job| job.status == status).count();
    let line = format!(
        "{:5.0}s  queued {}/{}  pending {}  running {}  workers {}",
        player.elapsed().as_secs_f64(),
        player.queued(),
        player.jobs().len(),
        count(Status::Pending),
        count(Status::Running),
        usage.workers.len(),
    );
    if std::io::stdout().is_terminal() {
        print!("\r{line:<78}");
        std::io::stdout().flush()?;
    } else {
        println!("{line}");
    }
    Ok(())
}
