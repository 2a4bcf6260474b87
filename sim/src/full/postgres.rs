//! Postgres as a node: sessions over the simulated network, transactions that commit whole or not at all, and
//! notifications at commits, for those who are listening then.
//!
//! What is committed outlives the node, as with a synchronous standby; sessions do not. The rows and their guards are the
//! pure value that the real store is held to by a contract suite; what is added here is what a network adds: an
//! acknowledgement that is lost after the commit, a session that breaks, a server that is away, slow or full.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use adapters::ports::{Changes, Cursor, HistoryPage, HistoryQuery, Lease, Store, StoreWrite, Usage, history_order};
use engine::{
    decision::{JobFailure, Write},
    facts::{Job, StoreError, Worker, Written},
    ids::{Epoch, InstallationId, JobId, Span, Time, WorkerName},
    rows::Rows,
};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use madsim::net::{Endpoint, Receiver, Sender};
use serde_json::Value;
use simulation::register::{Fault, Rare};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{
    judge,
    register::More,
    world::{Node, World, lock},
};

/// Sessions of one process at most, and how long one waits for a place: the production store's own numbers.
const CONNECTIONS: usize = 10;
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);
/// The pauses of the production store's listener.
const LISTEN_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How long connecting to a server that cannot be reached takes.
const UNREACHABLE: Duration = Duration::from_secs(5);

/// How long TCP repeats what nobody acknowledges: Linux' default.
const GIVEN_UP: Duration = Duration::from_secs(15 * 60);
/// Rows of one part of a reading: few, so that most readings have several.
const PART: usize = 16;

/// Everything that is committed.
#[derive(Default)]
pub struct Database {
    /// Jobs, workers, leadership.
    pub rows: Rows,
    /// `failure_info` of failed workers.
    pub failure_info: BTreeMap<WorkerName, Value>,
    /// The latest epoch granted, counted apart from the rows.
    pub granted: i64,
}

/// One statement or transaction.
#[derive(Debug)]
enum Request {
    Record(Vec<Job>),
    FailInstallation(InstallationId, JobFailure, Time),
    Acquire(Span),
    Renew(Epoch, Span),
    Release(Epoch),
    Changes(Option<Cursor>),
    Write(Epoch, Vec<StoreWrite>),
    Usage,
    History(HistoryQuery),
    Ping,
    Listen,
}

#[derive(Debug)]
enum Reply {
    Done,
    Failed(Vec<JobId>),
    Granted(Option<Epoch>),
    Renewed(bool),
    Changes(Changes),
    /// `None`: fenced.
    Written(Option<Vec<Written>>),
    Usage(Usage),
    History(HistoryPage),
}

type Listeners = Arc<Mutex<Vec<Sender>>>;

/// The server, until its node dies.
pub async fn serve(world: Arc<World>) {
    let endpoint = Endpoint::bind(Node::Postgres.addr()).await.expect("every node binds its own address");
    let listeners = Listeners::default();
    loop {
        let Ok((sender, receiver, _)) = endpoint.accept1().await else { return };
        tokio::spawn(session(world.clone(), sender, receiver, listeners.clone()));
    }
}

async fn session(world: Arc<World>, sender: Sender, mut receiver: Receiver, listeners: Listeners) {
    while let Ok(payload) = receiver.recv().await {
        let Ok(request) = payload.downcast::<Request>() else { return };
        if world.strikes(Fault::StoreAway) {
            world.note("postgres", 0, 0, || "away".to_owned());
            return;
        }
        sleep(world.span(1, 4)).await;
        if matches!(*request, Request::Listen) {
            if sender.send(Box::new(Reply::Done)).await.is_ok() {
                lock(&listeners).push(sender);
                // The session lives as long as its client.
                let _ = receiver.recv().await;
            }
            return;
        }
        if world.strikes(Fault::StoreBefore) {
            world.note("postgres", 1, 0, || "the session breaks before the commit".to_owned());
            return;
        }
        if world.strikes(Fault::StoreSlow) {
            sleep(world.span(1_000, 20_000)).await;
        }
        let (reply, notifies) = commit(&world, *request);
        if notifies {
            notify(&world, &listeners).await;
        }
        if world.strikes(Fault::StoreLostAck) {
            world.note("postgres", 2, 0, || "the session breaks after the commit".to_owned());
            return;
        }
        if sender.send(Box::new(reply)).await.is_err() {
            return;
        }
    }
}

async fn notify(world: &World, listeners: &Listeners) {
    lock(listeners).retain(|listener| !listener.is_closed());
    let all = std::mem::take(&mut *lock(listeners));
    for listener in &all {
        if !world.strikes(Fault::NotifyLost) {
            // One that is gone misses it.
            let _ = listener.send(Box::new(())).await;
        }
    }
    lock(listeners).extend(all);
}

/// One transaction, whole; and whether it notifies.
fn commit(world: &World, request: Request) -> (Reply, bool) {
    let now = (world.clock(Node::Postgres))();
    match request {
        Request::Record(events) => {
            if events.len() > 1 {
                world.more(More::SharedCommit);
            }
            world.note("commit", events.len() as i64, 0, || {
                let each = events.iter().take(8).map(|job| format!("{} {}", job.id, job.status.as_str()));
                format!("record {}", each.collect::<Vec<_>>().join(", "))
            });
            let ids: Vec<JobId> = events.iter().map(|job| job.id).collect();
            let mut database = lock(&world.database);
            for event in events {
                judge::recording(world, &database, &event);
                database.rows.record(event);
            }
            judge::jobs_written(world, &database, &ids);
            (Reply::Done, true)
        }
        Request::FailInstallation(installation, failure, at) => {
            world.note("commit", installation.0, 1, || format!("fail installation {installation}"));
            let mut database = lock(&world.database);
            let failed = database.rows.fail_installation(installation, failure, at);
            judge::installation_failed(world, &database, &failed, failure);
            (Reply::Failed(failed), true)
        }
        Request::Acquire(ttl) => {
            let mut database = lock(&world.database);
            let granted = database.rows.acquire(now, ttl);
            if let Some(epoch) = granted {
                world.note("granted", epoch.0, 0, || format!("epoch {epoch}"));
                judge::granted(world, &mut database, epoch);
            }
            (Reply::Granted(granted), false)
        }
        Request::Renew(epoch, ttl) => {
            let renewed = lock(&world.database).rows.renew(epoch, now, ttl);
            world.note("renew", epoch.0, i64::from(renewed), || format!("epoch {epoch}: {renewed}"));
            (Reply::Renewed(renewed), false)
        }
        Request::Release(epoch) => {
            world.note("release", epoch.0, 0, || format!("epoch {epoch}"));
            lock(&world.database).rows.release(epoch);
            (Reply::Done, false)
        }
        Request::Changes(since) => {
            let (jobs, workers, cursor) = lock(&world.database).rows.changes(since.map(|it| it.0), now);
            judge::read(world, &jobs, &workers);
            (Reply::Changes(Changes { jobs, workers, cursor: Cursor(cursor) }), false)
        }
        Request::Write(epoch, writes) => (Reply::Written(write(world, epoch, writes)), false),
        Request::Usage => (Reply::Usage(usage(&lock(&world.database).rows)), false),
        Request::History(query) => (Reply::History(history(&lock(&world.database).rows, query)), false),
        Request::Ping | Request::Listen => (Reply::Done, false),
    }
}

fn write(world: &World, epoch: Epoch, writes: Vec<StoreWrite>) -> Option<Vec<Written>> {
    let mut database = lock(&world.database);
    if !database.rows.is_current(epoch) {
        world.note("fenced", epoch.0, 0, || format!("epoch {epoch} writes no more"));
        judge::fenced(world);
        return None;
    }
    judge::writing(world, &database, epoch);
    Some(writes.into_iter().map(|write| write_one(world, &mut database, write)).collect())
}

fn write_one(world: &World, database: &mut Database, write: StoreWrite) -> Written {
    let before = judge::before_write(world, database, &write.write);
    let StoreWrite { write, diagnostics } = write;
    let written = database.rows.write(write.clone());
    if let Write::WorkerFailed { name, failure, .. } = &write
        && written == Written::Done
    {
        let info = serde_json::json!({ "version": 2, "reason": failure.as_str(), "diagnostics": diagnostics });
        database.failure_info.entry(name.clone()).or_insert(info);
    }
    let (kind, text) = judge::what(&write);
    world.note("write", kind, written as i64, || format!("{written:?} {text}"));
    judge::after_write(world, database, &write, written, before);
    written
}

fn usage(rows: &Rows) -> Usage {
    let mut jobs: Vec<Job> = rows.jobs().filter(|job| !job.status.is_ended()).cloned().collect();
    let mut workers: Vec<Worker> = rows.workers().filter(|it| !it.status.is_ended()).cloned().collect();
    jobs.sort_by_key(|job| (job.created_at, job.id));
    workers.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
    Usage { jobs, workers }
}

fn history(rows: &Rows, query: HistoryQuery) -> HistoryPage {
    let within = |job: &&Job| {
        query.start.is_none_or(|at| job.created_at.0 >= at) && query.end.is_none_or(|at| job.created_at.0 < at)
    };
    let mut jobs: Vec<Job> = rows.jobs().filter(within).cloned().collect();
    jobs.sort_by_key(history_order);
    let total = jobs.len() as u64;
    let skip = query.page as usize * query.per_page as usize;
    HistoryPage { jobs: jobs.into_iter().skip(skip).take(query.per_page as usize).collect(), total }
}

/// An open session, and with which of the server's hosts.
struct Session(Sender, Receiver, u64);

impl Session {
    /// Its host is gone, and nobody has told.
    fn is_orphan(&self, world: &World) -> bool {
        self.2 != world.vanished.load(Ordering::Relaxed)
    }
}

/// The store as one process sees it: a pool of sessions.
pub struct Client {
    world: Arc<World>,
    node: Node,
    places: Semaphore,
    idle: Mutex<Vec<Session>>,
}

fn broken(what: &str) -> StoreError {
    StoreError::Unavailable { message: format!("connection: {what}") }
}

impl Client {
    /// One process's pool, empty.
    pub fn new(world: Arc<World>, node: Node) -> Arc<Self> {
        Arc::new(Self { world, node, places: Semaphore::new(CONNECTIONS), idle: Mutex::default() })
    }

    /// One request, one reply. A session is used again only when it is known to be whole: a caller that gives up closes
    /// its own.
    async fn ask(&self, request: Request) -> Result<Reply, StoreError> {
        let Ok(place) = timeout(ACQUIRE_LIMIT, self.places.acquire()).await else {
            // Whoever asks the store is bounded: pages, probes, one batch of deliveries, one term's calls.
            self.world.breaks("S15 bounded", format!("all of {}'s connections are in use for 5 s", self.node));
            return Err(broken("no connection within 5 s: none can be made, or all are in use"));
        };
        let reserves = |writes: &[StoreWrite]| writes.iter().any(|it| matches!(it.write, Write::Reserve { .. }));
        let reserves = matches!(&request, Request::Write(_, writes) if reserves(writes));
        let _step = reserves.then(|| self.world.step(self.node, Rare::KilledReserving));
        let _place = place.map_err(|_| broken("the pool is closed"))?;
        let idle = lock(&self.idle).pop();
        if idle.as_ref().is_some_and(|session| session.is_orphan(&self.world)) {
            // The pool asks whether a session is alive before it gives it away.
            sleep(ACQUIRE_LIMIT).await;
            return Err(broken("no connection within 5 s: none can be made, or all are in use"));
        }
        let mut session = match idle.filter(|session| !session.0.is_closed()) {
            Some(session) => session,
            None => connect(&self.world, self.node).await?,
        };
        let reply = exchange(&self.world, &mut session, request).await?;
        lock(&self.idle).push(session);
        Ok(reply)
    }
}

async fn connect(world: &World, node: Node) -> Result<Session, StoreError> {
    let endpoint = Endpoint::bind("0.0.0.0:0").await.map_err(|_| broken("no port is free"))?;
    match endpoint.connect1(Node::Postgres.addr()).await {
        Ok((sender, receiver)) => Ok(Session(sender, receiver, world.vanished.load(Ordering::Relaxed))),
        Err(_) => {
            if world.is_cut(node, Node::Postgres) || world.vanished.load(Ordering::Relaxed) > 0 {
                sleep(UNREACHABLE).await;
            }
            Err(broken("refused"))
        }
    }
}

async fn exchange(world: &World, session: &mut Session, request: Request) -> Result<Reply, StoreError> {
    if session.0.send(Box::new(request)).await.is_err() {
        return Err(reset(session.is_orphan(world)).await);
    }
    let Ok(reply) = session.1.recv().await else { return Err(reset(session.is_orphan(world)).await) };
    reply.downcast::<Reply>().map(|reply| *reply).map_err(|_| broken("out of step"))
}

/// How a session that broke shows: at once, or, when its host is gone, once TCP has given up.
async fn reset(orphan: bool) -> StoreError {
    if orphan {
        sleep(GIVEN_UP).await;
    }
    broken("reset")
}

/// A reply of another kind than was asked for cannot be: sessions answer in turn.
fn unexpected<T>(reply: Reply) -> Result<T, StoreError> {
    Err(broken(&format!("answered {reply:?}")))
}

macro_rules! ask {
    ($self:ident, $request:expr, $pattern:pat => $out:expr) => {
        Box::pin(async move {
            match $self.ask($request).await? {
                $pattern => Ok($out),
                other => unexpected(other),
            }
        })
    };
}

impl Store for Client {
    fn record(&self, events: Vec<Job>) -> BoxFuture<'_, Result<(), StoreError>> {
        ask!(self, Request::Record(events), Reply::Done => ())
    }

    fn fail_installation(
        &self,
        installation: InstallationId,
        failure: JobFailure,
        at: Time,
    ) -> BoxFuture<'_, Result<Vec<JobId>, StoreError>> {
        ask!(self, Request::FailInstallation(installation, failure, at), Reply::Failed(ids) => ids)
    }

    fn acquire<'a>(&'a self, _holder: &'a str, ttl: Span) -> BoxFuture<'a, Result<Option<Lease>, StoreError>> {
        ask!(self, Request::Acquire(ttl), Reply::Granted(epoch) => {
            if epoch.is_some() {
                *lock(&self.world.leader) = Some(self.node);
            }
            epoch.map(Lease::granted)
        })
    }

    fn renew<'a>(&'a self, lease: &'a Lease, ttl: Span) -> BoxFuture<'a, Result<bool, StoreError>> {
        ask!(self, Request::Renew(lease.epoch(), ttl), Reply::Renewed(renewed) => renewed)
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<(), StoreError>> {
        ask!(self, Request::Release(lease.epoch()), Reply::Done => ())
    }

    fn changes(&self, since: Option<Cursor>) -> BoxFuture<'_, Result<Changes, StoreError>> {
        ask!(self, Request::Changes(since), Reply::Changes(changes) => changes)
    }

    /// Parts of a few rows each, as of one moment.
    fn parts(&self, since: Option<Cursor>) -> BoxStream<'_, Result<Changes, StoreError>> {
        let parts = stream::once(self.changes(since)).flat_map(|changes| match changes {
            Err(error) => stream::iter(vec![Err(error)]),
            Ok(Changes { jobs, workers, cursor }) => {
                let jobs = jobs.chunks(PART).map(|part| Changes { jobs: part.to_vec(), workers: Vec::new(), cursor });
                let workers =
                    workers.chunks(PART).map(|part| Changes { jobs: Vec::new(), workers: part.to_vec(), cursor });
                let mut parts: Vec<_> = jobs.chain(workers).map(Ok).collect();
                if parts.is_empty() {
                    parts.push(Ok(Changes { jobs: Vec::new(), workers: Vec::new(), cursor }));
                }
                stream::iter(parts)
            }
        });
        Box::pin(parts)
    }

    fn write<'a>(
        &'a self,
        lease: &'a Lease,
        writes: Vec<StoreWrite>,
    ) -> BoxFuture<'a, Result<Vec<Written>, StoreError>> {
        Box::pin(async move {
            match self.ask(Request::Write(lease.epoch(), writes)).await? {
                Reply::Written(Some(written)) => Ok(written),
                Reply::Written(None) => Err(StoreError::Fenced { epoch: lease.epoch() }),
                other => unexpected(other),
            }
        })
    }

    fn wakes(&self) -> BoxStream<'static, ()> {
        let listening = Listening {
            world: self.world.clone(),
            node: self.node,
            session: None,
            pause: LISTEN_PAUSE.0,
            before: false,
        };
        stream::unfold(listening, Listening::next).boxed()
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usage, StoreError>> {
        ask!(self, Request::Usage, Reply::Usage(usage) => usage)
    }

    fn history(&self, query: HistoryQuery) -> BoxFuture<'_, Result<HistoryPage, StoreError>> {
        ask!(self, Request::History(query), Reply::History(page) => page)
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        ask!(self, Request::Ping, Reply::Done => ())
    }
}

/// Wakes of one listener: on every notification, and whenever the session came up.
struct Listening {
    world: Arc<World>,
    node: Node,
    session: Option<Session>,
    pause: Duration,
    before: bool,
}

impl Listening {
    async fn next(mut self) -> Option<((), Self)> {
        loop {
            let Some(mut session) = self.session.take() else {
                match listen(self.world.clone(), self.node).await {
                    Ok(session) => {
                        if std::mem::replace(&mut self.before, true) {
                            self.world.more(More::ListenerBack);
                        }
                        self.session = Some(session);
                        self.pause = LISTEN_PAUSE.0;
                        return Some(((), self));
                    }
                    Err(_) => {
                        sleep(self.pause).await;
                        self.pause = (self.pause * 2).min(LISTEN_PAUSE.1);
                        continue;
                    }
                }
            };
            if session.1.recv().await.is_ok() {
                self.session = Some(session);
                return Some(((), self));
            }
            if session.is_orphan(&self.world) {
                // It only listens: nothing is ever sent that could remain unacknowledged.
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn listen(world: Arc<World>, node: Node) -> Result<Session, StoreError> {
    let mut session = connect(&world, node).await?;
    exchange(&world, &mut session, Request::Listen).await?;
    Ok(session)
}
