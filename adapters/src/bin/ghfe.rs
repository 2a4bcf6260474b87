//! The webhook front end.

use std::{process::ExitCode, sync::Arc};

use adapters::{
    config,
    ghfe::{Ghfe, HttpProxy, Readers, Room, StagingProxy, Verifier, router},
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
    let store = PgStore::connect(&config.common.postgres_url, config.common.policy.realm).await?;
    let proxy = config.staging_url.map(HttpProxy::new).transpose()?;
    let ghfe = Ghfe {
        ingest: Ingest::new(store.clone(), WAITING),
        room: Room::default(),
        readers: Readers::default(),
        store,
        policy: Arc::new(config.common.policy),
        clock: system_clock(),
        verifier: Verifier::new(&config.webhook_secret),
        proxy: proxy.map(|proxy| Arc::new(proxy) as Arc<dyn StagingProxy>),
        capture: config.capture.clone(),
        public_url: config.public_url.map(|url| url.to_string()),
    };
    let ingest = ghfe.ingest.clone();
    let served = tokio::select! {
        biased;
        served = process::serve_until_stopped(listener, router(ghfe)) => served,
        () = ingest.ended() => Err("ghfe cannot go on: the task that records deliveries ended, which is a bug".into()),
    };
    if let Some(capture) = config.capture {
        capture.flush();
    }
    served
}
