//! Many jobs queued at once, with room for all: how soon each has its runner pod, beside what GitHub's limits allow, and how
//! many calls to GitHub a job takes, all in. The whole service on loopback, in real time.
//!
//! `cargo run --release -p sim --bin burst -- [--jobs N] [--organisations N] [--no-limits] [--seconds N]`

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use adapters::{
    config,
    memory::MemoryStore,
    ports::{HistoryQuery, Store, system_clock},
};
use engine::{
    facts::Status,
    ids::{Realm, Span},
};
use serde_json::json;
use sim::{
    harness::{Error, Models, Service, Setup},
    world::{
        github::{AccountKind, GitHub},
        kubernetes::Cluster,
    },
};

const USAGE: &str = "usage: cargo run --release -p sim --bin burst -- [OPTIONS]
  --jobs N            queued at once, over all organisations (default 1600)
  --organisations N   each with an installation and limits of its own (default 1)
  --no-limits         without the limit of 180 JIT configurations a minute, and without the model's own
  --seconds N         give up after so long (default 900)
The last line is JSON. Ends 0 when every job was completed.";

struct Options {
    jobs: u64,
    organisations: u64,
    limits: bool,
    seconds: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options { jobs: 1600, organisations: 1, limits: true, seconds: 900 };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = |most: u64| {
            let parsed = args.next().and_then(|text| text.parse().ok()).filter(|number| (1..=most).contains(number));
            parsed.ok_or_else(|| format!("{arg} wants a number from 1 to {most}"))
        };
        match arg.as_str() {
            "--jobs" => options.jobs = number(20_000)?,
            "--organisations" => options.organisations = number(100)?,
            "--seconds" => options.seconds = number(7_200)?,
            "--no-limits" => options.limits = false,
            "--help" | "-h" => return Err(String::new()),
            other => return Err(format!("{other} is not an option")),
        }
    }
    Ok(options)
}

async fn completed(store: &dyn Store) -> Result<u64, Error> {
    let (mut page, mut done) = (0, 0);
    loop {
        let query = HistoryQuery { start: None, end: None, page, per_page: 1000 };
        let part = store.history(query).await.map_err(|error| format!("{error:?}"))?;
        done += part.jobs.iter().filter(|job| job.status == Status::Completed).count() as u64;
        page += 1;
        if u64::from(page) * 1000 >= part.total {
            return Ok(done);
        }
    }
}

async fn run(options: Options) -> Result<bool, Error> {
    let clock = system_clock();
    let (mut github, mut cluster) = (GitHub::new(1), Cluster::new(1));
    let organisations = options.organisations as i64;
    for org in 1..=organisations {
        github.add_account(AccountKind::Organization, org, &format!("org-{org}"), org + 500);
        github.add_repo(org + 1000, org, &format!("org-{org}/repo"));
    }
    github.limits = options.limits;
    for node in 0..options.jobs.div_ceil(50) {
        cluster.set_node(&format!("node-{node}"), "scw-em-rv1", 50, clock());
    }
    let (mut policy, pods) = config::built_in(Realm::Prod)?;
    policy.default_max_workers = None;
    if !options.limits {
        policy.governor.jit_per_minute = 1_000_000;
    }
    let a_minute = u64::from(policy.governor.jit_per_minute);
    let store = MemoryStore::new(clock.clone());
    let mut models = Models::start(github, cluster, clock).await?;
    let setup = Setup { store: store.clone(), policy, pods, listen: None, capture: None, seed: 1, check: false };
    let service = Service::start(&models, setup).await?;
    models.deliver_to(format!("http://{}/", service.ghfe));
    models.github.with(|github, now| {
        for job in 0..options.jobs as i64 {
            let repo = 1001 + job % organisations;
            github.queue_job(job + 1, repo, &["ubuntu-24.04-riscv"], Span::secs(30), now);
        }
    });
    let begun = Instant::now();
    let limit = Duration::from_secs(options.seconds);
    let (mut all_pods, mut done, mut shown) = (None, 0, Instant::now());
    while done < options.jobs && begun.elapsed() < limit {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let made = models.cluster.with(|cluster, _| cluster.pods_created);
        if made >= options.jobs && all_pods.is_none() {
            all_pods = Some(begun.elapsed());
        }
        if shown.elapsed() >= Duration::from_secs(5) {
            shown = Instant::now();
            done = completed(&*store).await?;
            println!(
                "{:5.0} s  pods made {made}/{}  jobs completed {done}",
                begun.elapsed().as_secs_f64(),
                options.jobs
            );
        }
    }
    let calls = models.github.faults.count();
    // The first minute's share is there at once, each further one when its minute begins.
    let each = options.jobs.div_ceil(options.organisations);
    let allowed = (each - 1) / a_minute * 60;
    let report = json!({
        "jobs": options.jobs, "organisations": options.organisations, "completed": done,
        "pods_made": models.cluster.with(|cluster, _| cluster.pods_created),
        "all_pods_seconds": all_pods.map(|at| at.as_secs_f64()), "limits_allow_seconds": allowed,
        "github_calls": calls, "calls_a_job": calls as f64 / options.jobs as f64,
    });
    service.stop().await?;
    println!("{report}");
    Ok(done == options.jobs)
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
    match run(options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("burst: {error}");
            ExitCode::FAILURE
        }
    }
}
