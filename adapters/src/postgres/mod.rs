//! The store in Postgres. Queries are checked at compile time against `.sqlx/`; `dev/prepare-queries` renews it.

mod leader;
mod read;
mod reserve;
mod rows;
mod state;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use engine::{
    decision::JobFailure,
    facts::{Job, StoreError, Written},
    ids::{InstallationId, JobId, Realm, Span, Time},
};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection, PgConnection, PgPool,
    migrate::MigrateError,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::sync::mpsc;

use crate::{
    notices::Notices,
    ports::{Changes, Cursor, HistoryPage, HistoryQuery, Lease, Store, StoreWrite, Usage},
};

/// Connections of one process: a handful of statements run at once.
const CONNECTIONS: u32 = 10;
/// Waiting for a connection, and for a statement: ghfe must answer GitHub within 10 s.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);
/// The try at the start that shall say why there is no connection.
const LAST_TRY_LIMIT: Duration = Duration::from_secs(2);
const STATEMENT_LIMIT_MS: &str = "30000";
/// Tries of a transaction that lost to another one (serialisation failure, deadlock).
const TRIES: u32 = 5;
/// The pause after a start that found nobody, and the longest one.
const CONNECT_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// The listener's pause after a lost connection, and the longest one.
const LISTEN_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A Postgres schema of ours.
pub struct PgStore {
    pool: PgPool,
    channel: String,
    odd: Arc<read::OddCells>,
    deaf: Deaf,
}

/// Whether a listener's lost connection was told of, and none has come up since. Each term has a listener of its own, and an
/// outage may be longer than a term.
type Deaf = Arc<AtomicBool>;

/// Why the store could not be opened. Never shows the connection string.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// POSTGRES_URL does not parse.
    #[error("POSTGRES_URL is not a connection string: write postgresql://user:password@host:port/database")]
    Url,
    /// Nobody answers there now, or a server that takes nobody in: that may pass.
    #[error("Postgres cannot be reached: {0}; check POSTGRES_URL, the server and the network")]
    Away(String),
    /// It refuses.
    #[error("Postgres refuses, or is none: {0}; check POSTGRES_URL and the server")]
    Connect(String),
    /// The schema could not be brought up to date.
    #[error("the migrations cannot be applied: {0}")]
    Migrate(String),
}

impl PgStore {
    /// `connect`, for as long as it takes while nobody answers there; before each try it does `each`. A process that ended
    /// instead would be away itself once Postgres is back.
    pub async fn connect_patiently(
        url: &SecretString,
        realm: Realm,
        notices: &Notices,
        each: impl Fn(),
    ) -> Result<Arc<Self>, OpenError> {
        let mut pause = CONNECT_PAUSE.0;
        loop {
            each();
            match Self::connect(url, realm).await {
                Ok(store) => {
                    notices.store_once("connect", &Ok(()));
                    return Ok(store);
                }
                Err(OpenError::Away(message)) => {
                    notices.store_once("connect", &Err::<(), _>(StoreError::Unavailable { message }));
                }
                Err(refusal) => return Err(refusal),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(CONNECT_PAUSE.1);
        }
    }

    /// Connects, creates the realm's schema when it is missing, and applies the migrations.
    pub async fn connect(url: &SecretString, realm: Realm) -> Result<Arc<Self>, OpenError> {
        let options: PgConnectOptions = url.expose_secret().parse().map_err(|_| OpenError::Url)?;
        let options = options.options([("search_path", realm.as_str()), ("statement_timeout", STATEMENT_LIMIT_MS)]);
        let pool = PgPoolOptions::new().max_connections(CONNECTIONS).acquire_timeout(ACQUIRE_LIMIT);
        let pool = match pool.connect_with(options.clone()).await {
            Ok(pool) => pool,
            Err(sqlx::Error::PoolTimedOut) => return Err(why_not(&options).await),
            Err(error) => return Err(open_error(&error)),
        };
        // Where an administrator has made it, the service needs no right to make one.
        let there = sqlx::query_scalar!(r#"SELECT to_regnamespace($1) IS NOT NULL AS "there!""#, realm.as_str())
            .fetch_one(&pool)
            .await
            .map_err(|error| open_error(&error))?;
        // A realm's name is one of two words of ours.
        let create = match realm {
            Realm::Prod => "CREATE SCHEMA IF NOT EXISTS prod",
            Realm::Staging => "CREATE SCHEMA IF NOT EXISTS staging",
        };
        // Two processes that start at once may both create it: the second's error means that it is there.
        if !there
            && let Err(error) = sqlx::query(create).execute(&pool).await
            && error.as_database_error().and_then(|error| error.code()).as_deref() != Some("23505")
        {
            return Err(open_error(&error));
        }
        sqlx::migrate!("../migrations").run(&pool).await.map_err(|error| match &error {
            MigrateError::Execute(inner) if is_away(inner) => OpenError::Away(describe(inner)),
            _ => OpenError::Migrate(error.to_string()),
        })?;
        Ok(Arc::new(Self {
            pool,
            channel: format!("{}_queue_event", realm.as_str()),
            odd: Arc::default(),
            deaf: Arc::default(),
        }))
    }

    /// The pool, for tests that look at the rows themselves.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    async fn record_all(&self, mut events: Vec<Job>) -> Result<(), StoreError> {
        // In the order of their ids, so that two transactions never wait for each other in a circle; each id once.
        events.sort_by_key(|event| event.id);
        let mut merged: Vec<Job> = Vec::with_capacity(events.len());
        for event in events {
            match merged.last_mut().filter(|last| last.id == event.id) {
                Some(last) => *last = engine::intake::join(last, &event),
                None => merged.push(event),
            }
        }
        retrying(|| rows::record(&self.pool, &merged, &self.channel)).await
    }

    async fn fail_pending(&self, installation: i64, failure: JobFailure, at: Time) -> Result<Vec<JobId>, StoreError> {
        let failed =
            retrying(|| rows::fail_installation(&self.pool, installation, failure.as_str(), at.0, &self.channel));
        Ok(failed.await?.into_iter().map(JobId).collect())
    }
}

/// Runs a transaction until it does not lose to another one.
async fn retrying<T, F: Future<Output = sqlx::Result<T>>>(mut run: impl FnMut() -> F) -> Result<T, StoreError> {
    let mut left = TRIES;
    loop {
        left -= 1;
        match run().await {
            Ok(done) => return Ok(done),
            Err(error) if left > 0 && lost_to_another(&error) => {}
            Err(error) => return Err(store_error(&error)),
        }
    }
}

/// Classes 22 (data exception) and 54 (limits exceeded) are about the values themselves; everything else may pass.
fn store_error(error: &sqlx::Error) -> StoreError {
    let message = describe(error);
    let code = error.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some(code) if code.starts_with("22") || code.starts_with("54") => StoreError::Unstorable { message },
        Some(_) | None => StoreError::Unavailable { message },
    }
}

/// serialization_failure or deadlock_detected: to be tried again.
fn lost_to_another(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("40001" | "40P01"))
}

/// Why the pool has made no connection: it tries anew for as long as it may, and then does not say.
async fn why_not(options: &PgConnectOptions) -> OpenError {
    match tokio::time::timeout(LAST_TRY_LIMIT, PgConnection::connect_with(options)).await {
        Ok(Err(error)) => open_error(&error),
        Ok(Ok(_)) | Err(_) => OpenError::Away(format!("no answer within {} s", ACQUIRE_LIMIT.as_secs())),
    }
}

fn open_error(error: &sqlx::Error) -> OpenError {
    if is_away(error) { OpenError::Away(describe(error)) } else { OpenError::Connect(describe(error)) }
}

/// Whether a connection fails by what passes by itself: the network, or a server that starts, stops (class 57) or has no room
/// (class 53).
fn is_away(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => !error.to_string().contains("certificate"),
        sqlx::Error::PoolTimedOut => true,
        // A connection that was closed at once, as a forwarder does whose server is away: no byte came, which is read as 0.
        sqlx::Error::Protocol(message) => message.contains("response from SSLRequest: 0x00"),
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| code.starts_with("57P") || code.starts_with("53"))
        }
        _ => false,
    }
}

/// What went wrong, without the connection string.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => error.message().to_owned(),
        // The standard library has no kind for it that it would name.
        sqlx::Error::Io(error) if error.to_string().starts_with("failed to lookup address information") => {
            "connection: the host cannot be found".to_owned()
        }
        sqlx::Error::Io(error) if error.to_string().contains("certificate") => NOT_TRUSTED.to_owned(),
        sqlx::Error::Io(error) => format!("connection: {}", error.kind()),
        sqlx::Error::Tls(error) if error.to_string().contains("does not support TLS") => {
            "the server has no TLS, which sslmode asks for".to_owned()
        }
        sqlx::Error::Tls(error) if error.to_string().contains("certificate") => NOT_TRUSTED.to_owned(),
        sqlx::Error::Tls(_) => "the TLS handshake failed".to_owned(),
        sqlx::Error::PoolTimedOut => {
            format!("no connection within {} s: none can be made, or all are in use", ACQUIRE_LIMIT.as_secs())
        }
        sqlx::Error::PoolClosed => "the connection pool is closed".to_owned(),
        other => other.to_string(),
    }
}

/// The server's certificate is not what sslmode asks for.
const NOT_TRUSTED: &str =
    "the server's certificate is not trusted: sslrootcert names the one that is, and the host must be its";

/// A reading that ended before its end: the task that reads was dropped, or failed.
const CUT_OFF: &str = "the reading was cut off";

/// A reading of changes under way; it ends when nobody waits for it any more.
struct Reading {
    parts: mpsc::Receiver<sqlx::Result<Changes>>,
    task: AbortOnDrop,
}

impl Reading {
    fn of(task: impl Future<Output = ()> + Send + 'static, parts: mpsc::Receiver<sqlx::Result<Changes>>) -> Self {
        Self { parts, task: AbortOnDrop(tokio::spawn(task)) }
    }

    /// The next part. That no more come says that this was all only if the task came to its end (S16).
    async fn next(mut self) -> Option<(Result<Changes, StoreError>, Option<Self>)> {
        match self.parts.recv().await {
            Some(part) => Some((shown(part), Some(self))),
            None if (&mut self.task.0).await.is_ok() => None,
            None => Some((Err(StoreError::Unavailable { message: CUT_OFF.to_owned() }), None)),
        }
    }

    fn into_stream(self) -> BoxStream<'static, Result<Changes, StoreError>> {
        stream::unfold(Some(self), |reading| async { reading?.next().await }).boxed()
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Wakes of one listener: on every notification, and whenever the connection came up.
struct Listening {
    pool: PgPool,
    channel: String,
    listener: Option<PgListener>,
    pause: Duration,
    deaf: Deaf,
}

impl Listening {
    async fn next(mut self) -> Option<((), Self)> {
        loop {
            let Some(mut listener) = self.listener.take() else {
                match self.connect().await {
                    Ok(listener) => {
                        self.listener = Some(listener);
                        self.pause = LISTEN_PAUSE.0;
                        if self.deaf.swap(false, Ordering::Relaxed) {
                            tracing::info!("Postgres: listening for new jobs again");
                        }
                        return Some(((), self));
                    }
                    Err(error) => {
                        self.lost(&describe(&error));
                        tokio::time::sleep(self.pause).await;
                        self.pause = (self.pause * 2).min(LISTEN_PAUSE.1);
                        continue;
                    }
                }
            };
            match listener.try_recv().await {
                Ok(Some(_)) => {
                    self.listener = Some(listener);
                    return Some(((), self));
                }
                Ok(None) => self.lost("the connection is gone"),
                Err(error) => self.lost(&describe(&error)),
            }
        }
    }

    /// One line for as long as it lasts, however many attempts that takes.
    fn lost(&self, error: &str) {
        if !self.deaf.swap(true, Ordering::Relaxed) {
            tracing::warn!(error, "Postgres: cannot listen for new jobs; they are seen within 15 s meanwhile");
        }
    }

    async fn connect(&self) -> sqlx::Result<PgListener> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(&self.channel).await?;
        Ok(listener)
    }
}

fn shown<T>(result: sqlx::Result<T>) -> Result<T, StoreError> {
    result.map_err(|error| store_error(&error))
}

impl Store for PgStore {
    fn record(&self, events: Vec<Job>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(self.record_all(events))
    }

    fn fail_installation(
        &self,
        installation: InstallationId,
        failure: JobFailure,
        at: Time,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        Box::pin(self.fail_pending(installation.0, failure, at))
    }

    fn acquire<'a>(&'a self, holder: &'a str, ttl: Span) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        Box::pin(async move { shown(leader::acquire(&self.pool, holder, ttl).await) })
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Span) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { shown(leader::renew(&self.pool, lease, ttl).await) })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { shown(leader::release(&self.pool, lease).await) })
    }

    fn changes(&self, since: Option<Cursor>) -> BoxFuture<'_, Result<Changes, StoreError>> {
        Box::pin(async move {
            let mut parts = self.parts(since);
            let whole = parts.next().await;
            let mut whole = whole.unwrap_or_else(|| Err(StoreError::Unavailable { message: CUT_OFF.to_owned() }))?;
            while let Some(part) = parts.next().await {
                let part = part?;
                whole.jobs.extend(part.jobs);
                whole.workers.extend(part.workers);
            }
            Ok(whole)
        })
    }

    fn parts(&self, since: Option<Cursor>) -> BoxStream<'static, Result<Changes, StoreError>> {
        let (to, parts) = mpsc::channel(1);
        Reading::of(read::changes(self.pool.clone(), self.odd.clone(), since, to), parts).into_stream()
    }

    fn write<'a>(
        &'a self,
        lease: &'a Lease,
        writes: Vec<StoreWrite>,
    ) -> BoxFuture<'a, Result<Vec<Written>, StoreError>> {
        Box::pin(async move {
            let written = retrying(|| leader::write(&self.pool, lease, &writes)).await?;
            written.ok_or(StoreError::Fenced { epoch: lease.epoch() })
        })
    }

    fn wakes(&self) -> BoxStream<'static, ()> {
        let (pool, channel, deaf) = (self.pool.clone(), self.channel.clone(), self.deaf.clone());
        let listening = Listening { pool, channel, listener: None, pause: LISTEN_PAUSE.0, deaf };
        stream::unfold(listening, Listening::next).boxed()
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, StoreError>> {
        Box::pin(async move { shown(read::usage(&self.pool, &self.odd).await) })
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<'_, Result<HistoryPage, StoreError>> {
        Box::pin(async move { shown(read::history(&self.pool, &self.odd, query).await) })
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { shown(sqlx::query!("SELECT 1 AS one").fetch_one(&self.pool).await.map(|_| ())) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No name server is asked for the host: a part of its name is longer than a part may be.
    #[tokio::test]
    async fn why_there_is_no_connection_is_told_without_the_connection_string() {
        let unknown = format!("{}.invalid", "a".repeat(64));
        for (place, expected) in [
            (format!("{unknown}:5432"), "connection: the host cannot be found"),
            ("127.0.0.1:1".to_owned(), "connection: connection refused"),
        ] {
            let url = SecretString::from(format!("postgresql://user:a-password@{place}/db"));
            let error = PgStore::connect(&url, Realm::Prod).await.err().unwrap().to_string();
            let whole =
                format!("Postgres cannot be reached: {expected}; check POSTGRES_URL, the server and the network");
            assert_eq!(error, whole);
        }
        let other = sqlx::Error::Io(std::io::Error::other("a-password"));
        assert_eq!(describe(&other), "connection: other error");
        let tls = |message: &str| describe(&sqlx::Error::Tls(message.into()));
        assert_eq!(tls("server does not support TLS"), "the server has no TLS, which sslmode asks for");
        assert_eq!(tls("invalid peer certificate: UnknownIssuer"), NOT_TRUSTED);
        assert_eq!(tls("a-password"), "the TLS handshake failed");
    }

    #[tokio::test]
    async fn a_reading_that_breaks_off_is_no_reading_that_came_to_its_end() {
        let part = || Changes { jobs: Vec::new(), workers: Vec::new(), cursor: Cursor(7) };
        for breaks in [false, true] {
            let (to, parts) = mpsc::channel(1);
            let task = async move {
                to.send(Ok(part())).await.unwrap();
                assert!(!breaks, "on purpose");
            };
            let read: Vec<_> = Reading::of(task, parts).into_stream().collect().await;
            assert_eq!(read[0], Ok(part()));
            let broken = Err(StoreError::Unavailable { message: CUT_OFF.to_owned() });
            assert_eq!(read[1..], if breaks { vec![broken] } else { vec![] });
        }
    }
}
