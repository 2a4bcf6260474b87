//! The webhook front end.

use std::{process::ExitCode, sync::Arc};

use adapters::{
    config::{self, GhfeConfig},
    ghfe::{Front, Ghfe, HttpProxy, Readers, Room, StagingProxy, Verifier, router},
    ingest::Ingest,
    ports::system_clock,
    postgres::PgStore,
};

#[path = "shared/process.rs"]
mod process;

/// Deliveries that may wait for the store at once; beyond that they are answered 503.
const WAITING: usize = 20_000;

#[tokio::main]
async fn main() -> ExitCode {
    process::run(serve()).await
}

async fn serve() -> Result<(), process::Error> {
    let config = config::ghfe(&config::process_environment(), &|path| std::fs::read_to_string(path))?;
    process::log(&config.common.log);
    let listener = process::listen(config.common.listen).await?;
    let (front, capture) = (Front::default(), config.capture.clone());
    let serving = process::serve_until_stopped(listener, front.router());
    let served = tokio::select! {
        biased;
        served = serving => served,
        failed = work(config, &front) => failed,
    };
    if let Some(capture) = capture {
        capture.flush();
    }
    served
}

/// Opens the service once its store is there, and ends when it cannot go on.
async fn work(config: GhfeConfig, front: &Front) -> Result<(), process::Error> {
    let common = config.common;
    let store = PgStore::connect_patiently(&common.postgres_url, common.policy.realm, front.notices(), || {}).await?;
    let proxy = config.staging_url.map(HttpProxy::new).transpose()?;
    let ingest = Ingest::new(store.clone(), WAITING);
    front.open(router(Ghfe {
        ingest: ingest.clone(),
        room: Room::default(),
        readers: Readers::default(),
        store,
        policy: Arc::new(common.policy),
        clock: system_clock(),
        verifier: Verifier::new(&config.webhook_secret),
        proxy: proxy.map(|proxy| Arc::new(proxy) as Arc<dyn StagingProxy>),
        capture: config.capture,
        public_url: config.public_url.map(|url| url.to_string()),
    }));
    ingest.ended().await;
    Err("ghfe cannot go on: the task that records deliveries ended, which is a bug".into())
}
