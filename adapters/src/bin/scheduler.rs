//! The scheduler.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    process::ExitCode,
    sync::Arc,
};

use adapters::{
    config::{self, SchedulerConfig},
    github::{Caller, GitHubClient},
    kubernetes::{self, KubernetesClient},
    ports::{Clock, system_clock},
    postgres::PgStore,
    scheduler::{Health, Scheduler, router},
};

#[path = "shared/process.rs"]
mod process;

#[tokio::main]
async fn main() -> ExitCode {
    process::run(serve()).await
}

async fn serve() -> Result<(), process::Error> {
    let config = config::scheduler(&config::process_environment(), &|path| std::fs::read_to_string(path))?;
    process::log(&config.common.log);
    let clock = system_clock();
    let health = Arc::new(Health::default());
    let listener = process::listen(config.common.listen).await?;
    let running = async {
        let scheduler = tokio::select! {
            biased;
            () = process::stopped() => return Ok(()),
            scheduler = build(config, clock.clone(), health.clone()) => scheduler?,
        };
        let ended = tokio::spawn(scheduler.run(Box::pin(process::stopped()))).await;
        ended.map_err(|_| "the scheduler cannot go on: its loop ended, which is a bug")??;
        Ok(())
    };
    let serving = process::serve_until_stopped(listener, router(health.clone(), clock.clone()));
    tokio::try_join!(serving, running).map(|_| ())
}

async fn build(config: SchedulerConfig, clock: Clock, health: Arc<Health>) -> Result<Scheduler, process::Error> {
    let beat = || health.beat(clock());
    let (url, realm) = (&config.common.postgres_url, config.common.policy.realm);
    let store = PgStore::connect_patiently(url, realm, health.notices(), beat).await?;
    let crab = octocrab::OctocrabBuilder::new().base_uri(config.github_url)?.build()?;
    let github = GitHubClient::new(Caller::new(crab, clock.clone(), config.organization, config.personal));
    let kube = kubernetes::connect(config.cluster)?;
    let cluster = KubernetesClient::new(kube, config.pods, clock.clone());
    Ok(Scheduler {
        store,
        github,
        cluster,
        policy: Arc::new(config.common.policy),
        clock,
        holder: format!(
            "{}-{}",
            std::env::var("HOSTNAME").unwrap_or_else(|_| "scheduler".to_owned()),
            std::process::id()
        ),
        // The standard library seeds its hashers from the system's randomness, anew for each.
        seed: Arc::new(|| RandomState::new().build_hasher().finish()),
        health,
        inspect: None,
    })
}
