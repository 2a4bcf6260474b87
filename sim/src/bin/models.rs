//! The models of GitHub and Kubernetes by themselves: ghfe and scheduler are started by hand beside them.
//!
//! `cargo run --bin models [-- OPTIONS]`: see the README, "By hand, against the models".

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use adapters::{
    config::{self, BUILT_IN},
    ports::system_clock,
};
use bytes::Bytes;
use engine::ids::{OwnerId, Realm};
use http_body_util::Empty;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use sim::{
    capture::{self, Playable, PlayedJob},
    credentials::WEBHOOK_SECRET,
    harness::{Error, Models},
    play::{self, Player},
    world::github::JobState,
};
use tokio::time::sleep;

const USAGE: &str = "usage: cargo run --bin models [-- OPTIONS]
  --to URL          ghfe's webhook address (default http://127.0.0.1:8080/); more than once: deliveries are shared out
  --secret TEXT     the webhooks' secret
  --capture FILE    play this capture (ghfe's CAPTURE) instead of the built-in one
  --speed X         jobs and pods run X times as fast (default 20; 1 to 200)
  --dir DIR         where the environment is written (default target/models)
  --once            end when every job of the capture is completed and ghfe has been told; the last line is JSON";

struct Options {
    to: Vec<http::Uri>,
    secret: String,
    capture: Option<PathBuf>,
    speed: f64,
    dir: PathBuf,
    once: bool,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        to: Vec::new(),
        secret: WEBHOOK_SECRET.to_owned(),
        capture: None,
        speed: 20.0,
        dir: PathBuf::from("target/models"),
        once: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--to" => options.to.push(address(&value()?)?),
            "--secret" => options.secret = value()?,
            "--capture" => options.capture = Some(PathBuf::from(value()?)),
            "--speed" => options.speed = value()?.parse().map_err(|_| "--speed wants a number")?,
            "--dir" => options.dir = PathBuf::from(value()?),
            "--once" => options.once = true,
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
    if options.secret.is_empty() {
        return Err("--secret wants a text that is not empty".to_owned());
    }
    if options.to.is_empty() {
        options.to.push(http::Uri::from_static("http://127.0.0.1:8080/"));
    }
    Ok(options)
}

fn address(text: &str) -> Result<http::Uri, String> {
    let uri = text.parse::<http::Uri>().ok();
    uri.filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some())
        .ok_or_else(|| "--to wants an address such as http://127.0.0.1:8080/".to_owned())
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
    match serve(options).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("models: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Options) -> Result<bool, Error> {
    let text = match &options.capture {
        Some(path) => fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?,
        None => capture::built_in(),
    };
    let (policy, _) = config::built_in(Realm::Prod)?;
    let Playable { jobs, left_out } = capture::playable(capture::read(&text)?, &policy)?;
    left_out.iter().for_each(|why| println!("{why}"));
    let all = jobs.len();
    let ours = |job: &PlayedJob| !policy.is_staging(OwnerId(job.owner.0), &job.repo.1);
    let jobs: Vec<PlayedJob> = jobs.into_iter().filter(ours).collect();
    if jobs.len() < all {
        println!(
            "{} jobs are of repositories that staging serves, which is not here: they are left out",
            all - jobs.len()
        );
    }
    let cluster = play::cluster(options.speed, options.capture.is_none());
    let mut models = Models::start(play::github(&jobs, options.speed), cluster, system_clock()).await?;
    for url in &options.to {
        models.deliver_signed(url.to_string(), options.secret.clone());
    }
    let dir = write_environment(&models, &options)?;
    println!("GitHub     http://{}", models.github_addr);
    println!("cluster    KUBECONFIG={} kubectl get pods", dir.join("kubeconfig").display());
    println!("for ghfe and scheduler, with POSTGRES_URL beside it:\n  . {}", dir.join("env").display());
    for url in &options.to {
        wait_until_ready(url).await;
    }
    println!("{} jobs at {} times real speed", jobs.len(), options.speed);
    run(&models, Player::new(jobs, options.speed), options.once).await
}

/// Everything that the two processes need but Postgres: a file that a shell reads, and one for each longer value.
fn write_environment(models: &Models, options: &Options) -> Result<PathBuf, Error> {
    fs::create_dir_all(&options.dir).map_err(|error| format!("{}: {error}", options.dir.display()))?;
    let dir = fs::canonicalize(&options.dir)?;
    let shown = dir.to_str().filter(|dir| !dir.contains('\'')).ok_or("--dir wants a path without quotes")?;
    let mut env = String::from("# Read by `.` in a shell.\n");
    for (name, value) in models.environment() {
        let file = match name {
            "GHAPP_WEBHOOK_SECRET" => {
                write(&dir, "webhook-secret", &options.secret)?;
                "webhook-secret"
            }
            "K8S_KUBECONFIG" => {
                write(&dir, "kubeconfig", &value)?;
                "kubeconfig"
            }
            "GHAPP_ORG_PRIVATE_KEY" => {
                write(&dir, "organization.pem", &value)?;
                "organization.pem"
            }
            "GHAPP_PERSONAL_PRIVATE_KEY" => {
                write(&dir, "personal.pem", &value)?;
                "personal.pem"
            }
            _ => {
                env.push_str(&format!("export {name}='{value}'\n"));
                continue;
            }
        };
        env.push_str(&format!("export {name}=\"$(cat '{shown}/{file}')\"\n"));
    }
    write(&dir, "rise.toml", &configuration(options.speed))?;
    env.push_str(&format!("export CONFIG='{shown}/rise.toml'\n"));
    write(&dir, "env", &env)?;
    Ok(dir)
}

/// For its owner alone: these are keys, though of no real service.
fn write(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(dir.join(name))?;
    io::Write::write_all(&mut file, text.as_bytes())
}

/// The built-in configuration with its timeouts at the models' speed; pods are kept for their logs all the same.
fn configuration(speed: f64) -> String {
    let (rest, _) = BUILT_IN.split_once("[timeouts]").unwrap_or((BUILT_IN, ""));
    let seconds = |real: f64| (real / speed).ceil() as i64;
    format!(
        "{rest}[timeouts]\nregistration = {}\npending = {}\nsurplus = {}\n",
        seconds(120.0),
        seconds(600.0),
        seconds(300.0)
    )
}

/// ghfe may be started after this process: nothing happens before it can be told.
async fn wait_until_ready(url: &http::Uri) {
    let ready = format!("http://{}/ready", url.authority().map_or("", |authority| authority.as_str()));
    let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let mut told = false;
    loop {
        let asked = async { client.get(ready.parse().ok()?).await.ok() };
        if asked.await.is_some_and(|answer| answer.status().is_success()) {
            return;
        }
        if !told {
            println!("waiting for ghfe at {ready}");
            told = true;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// How many jobs GitHub has as completed, and whether every delivery so far has been taken.
fn completed(models: &Models) -> (usize, bool) {
    models.github.with(|github, _| {
        let taken: BTreeSet<&str> = github
            .log
            .iter()
            .filter(|delivery| (200..300).contains(&delivery.status))
            .map(|delivery| delivery.guid.as_str())
            .collect();
        let done = github.jobs.values().filter(|job| matches!(job.state, JobState::Completed(_))).count();
        (done, github.log.iter().all(|delivery| taken.contains(delivery.guid.as_str())))
    })
}

async fn run(models: &Models, mut player: Player, once: bool) -> Result<bool, Error> {
    let mut shown = Instant::now();
    // The services' own rhythms (polls, listings, sweeps) are not sped up.
    let limit = player.limit() + Duration::from_secs(300);
    loop {
        player.step(models);
        if shown.elapsed() >= Duration::from_secs(1) {
            shown = Instant::now();
            let (done, told) = completed(models);
            let total = player.jobs().len();
            if once {
                println!(
                    "{:5.0}s  queued {}/{total}  completed {done}",
                    player.elapsed().as_secs_f64(),
                    player.queued()
                );
            }
            let all = player.is_over() && done == total && told;
            if once && (all || player.elapsed() > limit) {
                if !all {
                    eprintln!("models: not every job was completed within {} s", limit.as_secs());
                }
                println!("{}", player.report(models, done));
                return Ok(all);
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
}
