//! What the scheduler's reading of Postgres costs: ticks with nothing changed and with 100 changes, and the first
//! reading, into a snapshot, with its first decision.
//!
//! `dev/with-postgres cargo run --release -p sim --bin ticks [JOBS] [JOBS OF THE FIRST READING]`

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use adapters::{
    ports::{Changes, Cursor, Store, system_clock},
    postgres::PgStore,
};
use engine::{
    decide::decide,
    facts::{Change, Job, Node, PodListing, Status},
    ids::{EntityId, EntityType, Image, InstallationId, JobId, NodeName, OwnerId, Pool, Realm, Time},
    labels::LabelSet,
    policy::Policy,
    snapshot::Snapshot,
};
use futures::StreamExt;
use secrecy::SecretString;

type Error = Box<dyn std::error::Error>;

/// Each number is the least of so many.
const TIMES: usize = 7;

fn memory(what: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap_or(": unknown");
    line.trim_start_matches(':').trim().to_owned()
}

/// Takes a reading in as the scheduler does: part by part.
async fn take_in(store: &PgStore, since: Option<Cursor>, snapshot: &mut Snapshot, now: Time) -> Result<Cursor, Error> {
    let mut parts = store.parts(since);
    let mut cursor = since;
    while let Some(part) = parts.next().await {
        let Changes { jobs, workers, cursor: at } = part.map_err(|error| format!("{error:?}"))?;
        for worker in workers {
            snapshot.apply(Change::Worker(worker), now);
        }
        for job in jobs {
            snapshot.apply(Change::Job(job), now);
        }
        cursor = Some(at);
    }
    snapshot.apply(Change::StoreSynced { asked_at: now }, now);
    cursor.ok_or_else(|| "a reading without a part".into())
}

fn job(id: i64) -> Job {
    let organisation = id % 1_000;
    Job {
        id: JobId(id),
        status: Status::Pending,
        entity: EntityId(organisation),
        entity_name: format!("org-{organisation}").into(),
        entity_type: EntityType::Organization,
        owner: OwnerId(organisation),
        repo: format!("org-{organisation}/repo").into(),
        installation: InstallationId(organisation + 500),
        labels: LabelSet::new(["ubuntu-24.04-riscv"]),
        pool: Pool::from("scw-em-rv1"),
        image: Image::from("ubuntu-24.04"),
        html_url: Some(format!("https://github.com/org-{organisation}/repo/actions/runs/1/job/{id}").into()),
        created_at: Time(1_778_684_800_000 + id),
        assignment: None,
        completed_at: None,
        requeued_at: None,
        failure: None,
    }
}

/// Fills the table with this many pending jobs of 1,000 organisations.
async fn fill(store: &PgStore, jobs: i64) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO jobs (job_id, status, entity_id, entity_name, entity_type, owner_id, repo_full_name, installation_id,
           job_labels, k8s_pool, k8s_image, html_url, created_at)
         SELECT i, 'pending', i % 1000, 'org-' || i % 1000, 'Organization', i % 1000, 'org-' || i % 1000 || '/repo',
           500 + i % 1000, '[\"ubuntu-24.04-riscv\"]', 'scw-em-rv1', 'ubuntu-24.04',
           'https://github.com/org-' || i % 1000 || '/repo/actions/runs/1/job/' || i, from_ms(1778684800000 + i)
         FROM generate_series((SELECT coalesce(max(job_id), 0) + 1 FROM jobs), $1) i",
    )
    .bind(jobs)
    .execute(store.pool())
    .await?;
    sqlx::query("VACUUM ANALYZE jobs").execute(store.pool()).await?;
    Ok(())
}

/// Knows an empty cluster.
fn snapshot(policy: &Policy, now: Time) -> Snapshot {
    let mut snapshot = Snapshot::new(1, policy);
    let node = Node { name: NodeName::from("n"), pool: Some(Pool::from("scw-em-rv1")), runners: 100, usable: true };
    snapshot.apply(Change::Nodes(vec![node]), now);
    snapshot.apply(Change::Pods(PodListing { asked_at: now, pods: Vec::new() }), now);
    snapshot
}

async fn measure(url: &SecretString, ticks: i64, load: i64) -> Result<(), Error> {
    let (clock, policy) = (system_clock(), Policy::bare(Realm::Prod));
    let store = PgStore::connect(url, Realm::Prod).await?;
    fill(&store, ticks).await?;
    let now = clock();
    let mut world = snapshot(&policy, now);
    let mut cursor = take_in(&store, None, &mut world, now).await?;
    decide(&mut world, &policy, now);
    let (mut quiet, mut busy, mut deciding) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for round in 0..TIMES as i64 {
        let begun = Instant::now();
        cursor = take_in(&store, Some(cursor), &mut world, now).await?;
        decide(&mut world, &policy, now);
        quiet = quiet.min(begun.elapsed());
        let changes =
            (0..100).map(|i| Job { status: Status::Completed, completed_at: Some(now), ..job(1 + round * 100 + i) });
        store.record(changes.collect()).await.map_err(|error| format!("{error:?}"))?;
        let begun = Instant::now();
        cursor = take_in(&store, Some(cursor), &mut world, now).await?;
        let read = Instant::now();
        decide(&mut world, &policy, now);
        deciding = deciding.min(read.elapsed());
        busy = busy.min(begun.elapsed());
    }
    println!("{ticks} active jobs, least of {TIMES}:");
    println!("  tick with nothing changed: {quiet:.2?}");
    println!("  tick with 100 changes:     {busy:.2?}, of which deciding {deciding:.2?}");
    drop(world);
    fill(&store, load).await?;
    let before = memory("VmRSS");
    let begun = Instant::now();
    let mut world = snapshot(&policy, now);
    take_in(&store, None, &mut world, now).await?;
    let loaded = begun.elapsed();
    let begun = Instant::now();
    let decision = decide(&mut world, &policy, now);
    println!("{} active rows at start:", world.active_jobs());
    println!("  read into the snapshot:    {loaded:.2?}");
    println!("  first decision:            {:.2?}, {} actions", begun.elapsed(), decision.actions.len());
    println!("  memory before, after, most: {before}, {}, {}", memory("VmRSS"), memory("VmHWM"));
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut sizes = std::env::args().skip(1).map(|size| size.parse::<i64>().ok().filter(|size| *size >= 1_000));
    let (ticks, load) = (sizes.next().unwrap_or(Some(100_000)), sizes.next().unwrap_or(Some(1_000_000)));
    let (Ok(url), Some(ticks), Some(load)) = (std::env::var("POSTGRES_URL"), ticks, load) else {
        eprintln!(
            "usage: POSTGRES_URL=... ticks [JOBS] [JOBS OF THE FIRST READING], each at least 1000: the database must be empty"
        );
        return ExitCode::from(2);
    };
    match measure(&SecretString::from(url), ticks, load).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ticks: {error}");
            ExitCode::FAILURE
        }
    }
}
