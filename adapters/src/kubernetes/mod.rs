//! Kubernetes over kube: pods and their Secrets, watch caches, diagnostics.

mod diagnose;
mod errors;
mod facts;
mod pod;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use engine::{
    facts::{ClusterError, Node as NodeFact, Pod as PodFact, PodListing, Worker},
    ids::{PodUid, Span, Time, WorkerName},
};
use futures::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http_body_util::{BodyExt, Limited, StreamBody};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
    client::Body,
    core::{Request, Status},
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tower::buffer::error::{Closed, ServiceError};

use errors::reason;
pub(crate) use errors::{NO_AUTHORITY, unusable};
use pod::{APP_LABEL, APP_VALUE, BOARD_NODE_LABEL, JIT_KEY};
pub use pod::{PodSettings, label_value};

use crate::{
    notices::Notices,
    ports::{Clock, Cluster, ClusterEvent},
    quote::quotable,
};

/// Pods of a listing page.
const PAGE: u32 = 500;
/// A call that has no answer by then has none: the API server itself gives one up after a minute.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// What operators are told of these by.
const WATCH_PODS: &str = "watch pods";
const WATCH_NODES: &str = "watch nodes";
pub(crate) const LIST_PODS: &str = "list pods";
/// The pause after a broken watch, and the longest one: a cluster that comes back is seen within half a minute.
const WATCH_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));
/// A watch that has brought nothing but errors for this long begins anew, with a listing: one that cannot be resumed shows
/// nothing, however long it is tried, and what it showed last grows old.
const RELIST: Span = Span::secs(60);

/// A listing whose later pages have become too old begins anew this often, and then is an error.
const LISTINGS: usize = 3;
/// By so many of its first characters a Secret is known.
const SECRETS_BEGIN: usize = 12;
/// How much of the cluster's message goes into an error: an answer can be a whole page of a proxy's HTML.
const MESSAGE_LIMIT: usize = 300;
/// The longest answer: a page of nodes has 10 MB where they hold many images.
const ANSWER_LIMIT: usize = 64 << 20;
/// The longest event of a watch: a cluster keeps no object of more than 2 MB.
const EVENT_LIMIT: usize = 8 << 20;
/// What is read of an answer that is not needed.
const BODY_LIMIT: usize = 64 * 1024;

/// No client can be made. It quotes nothing that a kubeconfig, or a program that one names, said.
#[derive(Debug, thiserror::Error)]
#[error("no client of the cluster can be made: {0}")]
pub struct ConnectError(String);

/// A client of a cluster.
///
/// # Errors
/// Its certificates or credentials cannot be used.
pub fn connect(mut config: kube::Config) -> Result<Client, ConnectError> {
    // The engine decides what is tried again, and when. A creation that is repeated unseen comes back as AlreadyExists.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| ConnectError(unusable(&error)))
}

/// The same client with a limit for the head of every answer, and the same once more for all that follows it, so that no
/// watch waits for its start or its first listing for ever while the view grows old. What follows a watch's head, its events,
/// has none here. Nothing may be longer than this process has memory for.
///
/// # Panics
/// In a call, when the task inside the client that carries requests has ended, which is a bug of it: no call has an answer
/// any more. So the watch ends, and with it the process, and another one leads.
fn answering(client: Client, limit: Duration) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let client = client.clone();
        let watches = is_watch(request.uri());
        async move {
            let answer = timeout(limit, client.send(request)).await;
            if let Ok(Err(kube::Error::Service(error))) = &answer {
                assert!(
                    !error.is::<Closed>() && !error.is::<ServiceError>(),
                    "the cluster's client is broken: {error}"
                );
            }
            let answer = answer.unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())))?;
            Ok::<_, kube::Error>(answer.map(|body| bounded(body, watches, limit)))
        }
    });
    Client::new(service, namespace)
}

/// Whether a request begins a watch.
fn is_watch(uri: &http::Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|it| it == "watch=true"))
}

/// The same client, which tells when a watch is taken up: one that has nothing to show says nothing of it.
fn telling(client: Client, what: &'static str, notices: Arc<Notices>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let (client, notices) = (client.clone(), notices.clone());
        let watches = is_watch(request.uri());
        async move {
            let answer = client.send(request).await?;
            if watches && answer.status().is_success() {
                notices.watch_shows(what);
            }
            Ok::<_, kube::Error>(answer)
        }
    });
    Client::new(service, namespace)
}

/// The same body, which breaks when it is too long, or not whole in time. A watch has all the time, and its events a length
/// each.
fn bounded<B>(
    body: B,
    watches: bool,
    limit: Duration,
) -> impl http_body::Body<Data = bytes::Bytes, Error = kube::Error> + Send
where
    B: http_body::Body<Data = bytes::Bytes, Error = kube::Error> + Send + Unpin + 'static,
{
    let deadline = Instant::now() + limit;
    let most = if watches { EVENT_LIMIT } else { ANSWER_LIMIT };
    let broken = |why: &'static str| Some((Err(kube::Error::Service(why.into())), None));
    let frames = stream::unfold(Some((body, most)), move |left| async move {
        let (mut body, mut room) = left?;
        let frame = if watches {
            body.frame().await
        } else {
            match timeout(deadline.saturating_duration_since(Instant::now()), body.frame()).await {
                Ok(frame) => frame,
                Err(_) => return broken("no whole answer in time"),
            }
        };
        let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
        if let Some(data) = data {
            // A line is an event; those that end within one piece are no longer than that.
            let end = if watches { data.iter().rposition(|byte| *byte == b'\n') } else { None };
            let (before, since) = end.map_or((room, data.len()), |end| (most, data.len() - end - 1));
            match before.checked_sub(since) {
                Some(left) => room = left,
                None => return broken("the answer is too long"),
            }
        }
        frame.map(|frame| (frame, Some((body, room))))
    });
    StreamBody::new(Box::pin(frames))
}

/// The production client.
pub struct KubernetesClient {
    client: Client,
    settings: PodSettings,
    clock: Clock,
    patience: Duration,
}

impl KubernetesClient {
    /// Calls through `client`, in the settings' namespace.
    pub fn new(client: Client, settings: PodSettings, clock: Clock) -> Arc<Self> {
        Self::with_patience(client, settings, clock, diagnose::PATIENCE)
    }

    /// The same, with another limit for a diagnosis as a whole; no question of it takes longer than half of that.
    pub fn with_patience(client: Client, settings: PodSettings, clock: Clock, patience: Duration) -> Arc<Self> {
        let client = answering(client, HEAD_LIMIT);
        Arc::new(Self { client, settings, clock, patience })
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    fn selector() -> String {
        format!("{APP_LABEL}={APP_VALUE}")
    }

    /// `Ok(None)` when the listing took so long that its later pages are not to be had any more (410).
    async fn list_once(&self) -> Result<Option<PodListing>, ClusterError> {
        let asked_at = (self.clock)();
        let mut params = ListParams::default().labels(&Self::selector()).limit(PAGE);
        let mut pods = Vec::new();
        loop {
            let page = match self.pods().list(&params).await {
                Err(kube::Error::Api(status)) if status.code == 410 && params.continue_token.is_some() => {
                    return Ok(None);
                }
                page => page.map_err(error)?,
            };
            pods.extend(page.items.iter().filter_map(facts::pod));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(Some(PodListing { asked_at, pods })),
            }
        }
    }

    async fn list_all(&self) -> Result<PodListing, ClusterError> {
        for _ in 0..LISTINGS {
            if let Some(listing) = self.list_once().await? {
                return Ok(listing);
            }
        }
        Err(ClusterError::Unavailable { message: "the listing's later pages were too old, again and again".to_owned() })
    }

    /// Creates a Secret without reading the answer: kube writes an answer that it cannot read to its log, and this
    /// answer holds the Secret (S10).
    async fn post_secret(&self, body: Vec<u8>, secret: &SecretString) -> Result<(), ClusterError> {
        let path = Secret::url_path(&(), Some(&self.settings.namespace));
        let request = Request::new(path).create(&PostParams::default(), body);
        let request = request.map_err(|_| refused("the request cannot be built"))?;
        let answer = self.client.send(request.map(Body::from)).await.map_err(error)?;
        let (parts, body) = answer.into_parts();
        if parts.status == http::StatusCode::CREATED {
            return Ok(());
        }
        if parts.status.is_success() {
            let message = format!("the answer is not what Kubernetes documents ({}, not 201)", parts.status.as_u16());
            return Err(ClusterError::Unavailable { message });
        }
        let body = Limited::new(body, BODY_LIMIT).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let code = parts.status.as_u16();
        let mut status = serde_json::from_slice::<Status>(&body)
            .unwrap_or_else(|_| Status::failure("the answer is no Status", "").with_code(code));
        // A proxy may say what it was asked.
        let begins: String = secret.expose_secret().chars().take(SECRETS_BEGIN).collect();
        if status.message.contains(&begins) {
            status.message = "the answer repeats the request".to_owned();
        }
        Err(error(kube::Error::Api(Box::new(Status { code, ..status }))))
    }

    fn watch_pods(&self, notices: Arc<Notices>) -> BoxStream<'static, ClusterEvent> {
        let client = telling(self.client.clone(), WATCH_PODS, notices.clone());
        let pods = Api::namespaced(client, &self.settings.namespace);
        let events = move || watcher(pods.clone(), watcher::Config::default().labels(&Self::selector()));
        let collect = Collect { clock: self.clock.clone(), asked_at: Time::ZERO, items: Vec::new() };
        steady(fresh(events, self.clock.clone()), WATCH_PODS, notices)
            .scan(collect, |collect, event| {
                let out = collect.pod_event(event);
                std::future::ready(Some(out))
            })
            .filter_map(std::future::ready)
            .boxed()
    }

    fn watch_nodes(&self, notices: Arc<Notices>) -> BoxStream<'static, ClusterEvent> {
        let nodes: Api<Node> = Api::all(telling(self.client.clone(), WATCH_NODES, notices.clone()));
        let events = move || watcher(nodes.clone(), watcher::Config::default().labels(BOARD_NODE_LABEL));
        steady(fresh(events, self.clock.clone()), WATCH_NODES, notices)
            .scan(Vec::new(), |listed, event| std::future::ready(Some(node_event(listed, event))))
            .filter_map(std::future::ready)
            .boxed()
    }
}

/// Pauses that double. Without jitter: one scheduler leads, and a simulation must repeat.
struct Pause {
    next: Duration,
    /// A watch has shown something since the last pause. That it is about to list does not count: it says so before it
    /// has reached anybody.
    up: Arc<AtomicBool>,
}

impl Iterator for Pause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.next;
        self.next = (pause * 2).min(WATCH_PAUSE.1);
        Some(pause)
    }
}

impl Backoff for Pause {
    fn reset(&mut self) {
        if self.up.swap(false, Ordering::Relaxed) {
            self.next = WATCH_PAUSE.0;
        }
    }
}

/// The events of one watch after the other: the next begins when one has brought nothing but errors for [`RELIST`].
fn fresh<K, S>(begin: impl Fn() -> S + Send + 'static, clock: Clock) -> BoxStream<'static, watcher::Result<Event<K>>>
where
    K: kube::Resource + Clone + Send + 'static,
    S: stream::Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
{
    let first = Box::pin(begin());
    stream::unfold((first, Errors::default(), begin, clock), |(mut events, mut errors, begin, clock)| async move {
        let event = events.next().await?;
        match &event {
            // It says that it is about to list before it has reached anybody.
            Ok(Event::Init) => {}
            Ok(_) => errors = Errors::default(),
            Err(_) if errors.last_for_long(clock()) => (events, errors) = (Box::pin(begin()), Errors::default()),
            Err(_) => {}
        }
        Some((event, (events, errors, begin, clock)))
    })
    .boxed()
}

/// Errors of a watch with nothing between them: since when, and the last one.
#[derive(Default)]
struct Errors(Option<(Time, Time)>);

impl Errors {
    /// Notes one more, and tells whether there has been nothing else for [`RELIST`]. A watch that is resumed says nothing of
    /// it, but then its next error is not soon.
    fn last_for_long(&mut self, now: Time) -> bool {
        // A clock that was set back counts from then on.
        let soon = |last: Time| now >= last && now.since(last) < RELIST;
        let since = self.0.filter(|(_, last)| soon(*last)).map_or(now, |(since, _)| since);
        self.0 = Some((since, now));
        now.since(since) >= RELIST
    }
}

/// A watch that goes on after every error, with a pause that grows. Operators hear of it as of any call that fails.
fn steady<K>(
    events: impl stream::Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    what: &'static str,
    notices: Arc<Notices>,
) -> BoxStream<'static, Event<K>>
where
    K: kube::Resource + Clone + Send + 'static,
{
    let up = Arc::new(AtomicBool::new(false));
    let pause = Pause { next: WATCH_PAUSE.0, up: up.clone() };
    events
        .inspect(move |event| {
            if matches!(event, Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_))) {
                up.store(true, Ordering::Relaxed);
            }
        })
        .backoff(pause)
        .filter_map(move |event| {
            let seen = match event {
                Ok(event) => {
                    if matches!(event, Event::InitDone | Event::Apply(_) | Event::Delete(_)) {
                        notices.watch_shows(what);
                    }
                    // A watch begins with the same listing: when it is whole, that works.
                    if matches!(event, Event::InitDone) && what == WATCH_PODS {
                        notices.cluster(LIST_PODS, &Ok(()));
                    }
                    Some(event)
                }
                Err(error) => {
                    let (message, answered) = watch_error(&error);
                    notices.watch_broke(what, &message, answered);
                    None
                }
            };
            std::future::ready(seen)
        })
        .boxed()
}

/// Why a watch broke, and whether that was the cluster's answer.
fn watch_error(error: &watcher::Error) -> (String, bool) {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => (reason(error), matches!(error, kube::Error::Api(_))),
        watcher::Error::WatchError(status) => (format!("{}: {}", status.code, quotable(&status.reason)), true),
        other => (other.to_string(), false),
    }
}

/// Gathers a watch's first listing.
struct Collect {
    clock: Clock,
    asked_at: Time,
    items: Vec<PodFact>,
}

impl Collect {
    fn pod_event(&mut self, event: Event<Pod>) -> Option<ClusterEvent> {
        match event {
            Event::Init => {
                // The listing is asked for after this event.
                self.asked_at = (self.clock)();
                self.items.clear();
                None
            }
            Event::InitApply(pod) => {
                self.items.extend(facts::pod(&pod));
                None
            }
            Event::InitDone => {
                let pods = std::mem::take(&mut self.items);
                Some(ClusterEvent::Pods(PodListing { asked_at: self.asked_at, pods }))
            }
            Event::Apply(pod) => facts::pod(&pod).map(ClusterEvent::PodSeen),
            Event::Delete(pod) => facts::pod(&pod).map(|pod| ClusterEvent::PodGone { name: pod.name, uid: pod.uid }),
        }
    }
}

fn node_event(listed: &mut Vec<NodeFact>, event: Event<Node>) -> Option<ClusterEvent> {
    match event {
        Event::Init => {
            listed.clear();
            None
        }
        Event::InitApply(node) => {
            listed.extend(facts::node(&node));
            None
        }
        Event::InitDone => Some(ClusterEvent::Nodes(std::mem::take(listed))),
        Event::Apply(node) => facts::node(&node).map(ClusterEvent::NodeSeen),
        Event::Delete(node) => facts::node(&node).map(|node| ClusterEvent::NodeGone(node.name)),
    }
}

/// What the cluster's no means.
fn error(error: kube::Error) -> ClusterError {
    match error {
        kube::Error::Api(status) => {
            let message = || quotable(&status.message).chars().take(MESSAGE_LIMIT).collect::<String>();
            match (status.code, status.reason.as_str()) {
                (404, "NotFound") => ClusterError::NotFound,
                (409, "AlreadyExists") => ClusterError::AlreadyExists,
                // A proxy's page knows nothing of the object, and a quota that two calls want at once asks for another try.
                (404, _) | (409, "Conflict") => {
                    ClusterError::Unavailable { message: format!("{}: {}", status.code, message()) }
                }
                // Kubernetes' own always say with which status they came.
                (0, _) => ClusterError::Unavailable { message: format!("the answer is no Status: {}", message()) },
                (429 | 500.., _) => ClusterError::Unavailable { message: format!("{}: {}", status.code, message()) },
                (code, _) => ClusterError::Refused { status: code, message: message() },
            }
        }
        other => ClusterError::Unavailable { message: reason(&other) },
    }
}

fn refused(message: &str) -> ClusterError {
    ClusterError::Refused { status: 0, message: message.to_owned() }
}

impl Cluster for KubernetesClient {
    fn watch(&self, notices: Arc<Notices>) -> BoxStream<'static, ClusterEvent> {
        stream::select(self.watch_pods(notices.clone()), self.watch_nodes(notices)).boxed()
    }

    fn list_pods(&self) -> BoxFuture<'_, Result<PodListing, ClusterError>> {
        Box::pin(self.list_all())
    }

    fn create_pod<'a>(&'a self, worker: &'a Worker) -> BoxFuture<'a, Result<PodFact, ClusterError>> {
        Box::pin(async move {
            let pod = pod::build(worker, &self.settings).map_err(|error| refused(&error.to_string()))?;
            let created = self.pods().create(&PostParams::default(), &pod).await.map_err(error)?;
            facts::pod(&created).ok_or_else(|| {
                let message = "the created pod came back without a name or uid".to_owned();
                ClusterError::Unavailable { message }
            })
        })
    }

    fn create_secret<'a>(
        &'a self,
        worker: &'a WorkerName,
        pod: &'a PodUid,
        config: &'a SecretString,
    ) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            let body = json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                "metadata": {
                    "name": worker.as_str(),
                    "labels": { APP_LABEL: APP_VALUE },
                    "ownerReferences": [{
                        "apiVersion": "v1", "kind": "Pod", "name": worker.as_str(), "uid": pod.as_str(),
                        "controller": false, "blockOwnerDeletion": false,
                    }],
                },
                "stringData": { JIT_KEY: config.expose_secret() },
            });
            self.post_secret(body.to_string().into_bytes(), config).await
        })
    }

    fn delete_pod<'a>(&'a self, name: &'a WorkerName, uid: &'a PodUid) -> BoxFuture<'a, Result<(), ClusterError>> {
        Box::pin(async move {
            let preconditions = Preconditions { uid: Some(uid.as_str().to_owned()), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            match self.pods().delete(name.as_str(), &params).await {
                Ok(_) => Ok(()),
                // Another pod has its name.
                Err(kube::Error::Api(status)) if (status.code, status.reason.as_str()) == (409, "Conflict") => Ok(()),
                Err(no) => match error(no) {
                    ClusterError::NotFound => Ok(()),
                    error => Err(error),
                },
            }
        })
    }

    fn diagnose<'a>(&'a self, name: &'a WorkerName, uid: &'a PodUid) -> BoxFuture<'a, serde_json::Value> {
        Box::pin(diagnose::diagnose(&self.client, &self.settings.namespace, name, uid, self.patience))
    }
}

/// Waits for the first complete view of pods and nodes, for tests and checks of a cluster.
pub async fn first_view(cluster: &dyn Cluster) -> Option<(PodListing, Vec<NodeFact>)> {
    let (mut pods, mut nodes) = (None, None);
    let mut events = cluster.watch(Arc::default()).map(Ok::<_, std::convert::Infallible>);
    while let Ok(Some(event)) = events.try_next().await {
        match event {
            ClusterEvent::Pods(listing) => pods = Some(listing),
            ClusterEvent::Nodes(listing) => nodes = Some(listing),
            ClusterEvent::PodSeen(_)
            | ClusterEvent::PodGone { .. }
            | ClusterEvent::NodeSeen(_)
            | ClusterEvent::NodeGone(_) => {}
        }
        if let (Some(pods), Some(nodes)) = (&pods, &nodes) {
            return Some((pods.clone(), nodes.clone()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kube::client::Body;

    use super::*;

    #[tokio::test]
    async fn what_is_too_long_is_not_read_to_its_end() {
        async fn read(piece: &'static [u8], pieces: usize, watches: bool) -> (usize, Option<String>) {
            let piece = bytes::Bytes::from_static(piece);
            let frames =
                stream::iter((0..pieces).map(move |_| Ok::<_, kube::Error>(http_body::Frame::data(piece.clone()))));
            let mut body = std::pin::pin!(bounded(StreamBody::new(frames), watches, HEAD_LIMIT));
            let mut taken = 0;
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(frame) => taken += frame.data_ref().map_or(0, bytes::Bytes::len),
                    Err(error) => return (taken, Some(error.to_string())),
                }
            }
            (taken, None)
        }
        static OPEN: [u8; 1 << 20] = [b'['; 1 << 20];
        static EVENT: [u8; 1 << 20] = {
            let mut event = [b' '; 1 << 20];
            event[1 << 19] = b'\n';
            event
        };
        assert_eq!(read(&OPEN, 64, false).await, (ANSWER_LIMIT, None));
        let too_long = Some("ServiceError: the answer is too long".to_owned());
        assert_eq!(read(&OPEN, 65, false).await, (ANSWER_LIMIT, too_long.clone()));
        assert_eq!(read(&OPEN, 9, true).await, (EVENT_LIMIT, too_long), "one event without an end");
        assert_eq!(read(&EVENT, 100, true).await, (100 << 20, None), "a watch may go on for ever");
    }

    #[tokio::test]
    async fn a_watch_that_begins_anew_shows_that_pods_can_be_listed() {
        let away = || Err::<(), _>(ClusterError::Unavailable { message: "away".to_owned() });
        for (what, over) in [(WATCH_PODS, true), (WATCH_NODES, false)] {
            let notices = Arc::new(Notices::default());
            notices.cluster(LIST_PODS, &away());
            let events = stream::iter([Ok(Event::<Pod>::InitDone)]);
            assert!(steady(events, what, notices.clone()).next().await.is_some());
            assert_eq!(notices.now().is_empty(), over, "{what}");
        }
    }

    #[tokio::test]
    async fn a_call_whose_answer_does_not_begin_or_end_is_over_and_a_watchs_events_are_waited_for() {
        let limit = Duration::from_millis(50);
        let service = tower::service_fn(|request: http::Request<Body>| async move {
            if request.uri().path() == "/never" {
                std::future::pending::<()>().await;
            }
            // The rest of the answer comes after the limit.
            let late = async {
                tokio::time::sleep(Duration::from_millis(150)).await;
                Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes::Bytes::from_static(b"late")))
            };
            let body = http_body_util::StreamBody::new(stream::once(Box::pin(late)));
            Ok::<_, kube::Error>(http::Response::new(body))
        });
        let client = answering(Client::new(service, "ours"), limit);
        assert_eq!(client.default_namespace(), "ours");
        let ask = |path| client.send(http::Request::get(path).body(Body::empty()).unwrap());
        let error = ask("/never").await.unwrap_err();
        assert!(error.to_string().contains("no answer in time"), "{error}");
        let whole = async |path| ask(path).await.unwrap().into_body().collect().await;
        assert_eq!(&*whole("/late?watch=true").await.unwrap().to_bytes(), b"late");
        let error = whole("/late").await.unwrap_err();
        assert!(error.to_string().contains("no whole answer in time"), "{error}");
    }

    #[tokio::test]
    async fn a_client_that_has_broken_inside_ends_the_watch_instead_of_being_asked_for_ever() {
        async fn answer(_: http::Request<Body>) -> Result<http::Response<Body>, kube::Error> {
            Ok(http::Response::new(Body::empty()))
        }
        let service = tower::service_fn(|request: http::Request<Body>| {
            // Inside the client's own task, not in its caller's.
            assert_eq!(request.uri().path(), "", "a bug on purpose");
            answer(request)
        });
        let settings = PodSettings {
            namespace: "ours".into(),
            registry: "registry".into(),
            tag: "latest".into(),
            host_network: BTreeSet::new(),
        };
        let client = KubernetesClient::new(Client::new(service, "ours"), settings, Arc::new(|| Time::ZERO));
        let watching = tokio::spawn(client.watch(Arc::default()).for_each(|_| std::future::ready(())));
        let ended = tokio::time::timeout(Duration::from_secs(30), watching).await.expect("it goes on for ever");
        assert!(ended.unwrap_err().is_panic());
    }
}
