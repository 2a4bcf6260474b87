//! What a scheduler shows of itself: that it is alive, whether it leads, and why a job waits.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use engine::{
    explain::Explanation,
    ids::{JobId, Span, Time},
    snapshot::Snapshot,
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::ports::Clock;

/// A scheduler whose loop has not turned for this long is stalled: it turns at least every 15 s.
const STALLED: Span = Span::secs(60);
/// Questions that may wait for an answer; beyond that the asker is told to come back.
const QUESTIONS: usize = 64;

/// A question to the leader's snapshot.
#[derive(Debug)]
pub struct Question {
    /// About which job.
    pub job: JobId,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Explanation>,
}

/// What is known of a scheduler from outside its loop.
#[derive(Debug)]
pub struct Health {
    beat_ms: AtomicI64,
    epoch: AtomicI64,
    decisions: AtomicU64,
    actions: AtomicU64,
    jobs: AtomicU64,
    workers: AtomicU64,
    under_way: AtomicU64,
    questions: mpsc::Sender<Question>,
    inbox: Mutex<Option<mpsc::Receiver<Question>>>,
}

impl Default for Health {
    fn default() -> Self {
        let (questions, inbox) = mpsc::channel(QUESTIONS);
        Self {
            beat_ms: AtomicI64::new(0),
            epoch: AtomicI64::new(0),
            decisions: AtomicU64::new(0),
            actions: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
            workers: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            questions,
            inbox: Mutex::new(Some(inbox)),
        }
    }
}

/// The numbers `/status` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The loop has turned lately.
    pub alive: bool,
    /// This process leads.
    pub leading: bool,
    /// Under this epoch.
    pub epoch: Option<i64>,
    /// Milliseconds since the loop last turned.
    pub last_turn_ms: i64,
    /// Decisions made by this process.
    pub decisions: u64,
    /// Actions chosen by this process.
    pub actions: u64,
    /// Pending and running jobs known.
    pub jobs: u64,
    /// Pending and running workers known.
    pub workers: u64,
    /// Actions that have not ended yet.
    pub under_way: u64,
}

impl Health {
    pub(crate) fn beat(&self, now: Time) {
        self.beat_ms.store(now.0, Ordering::Relaxed);
    }

    pub(crate) fn led(&self, epoch: Option<i64>) {
        self.epoch.store(epoch.unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn decided(&self, actions: usize, snapshot: &Snapshot) {
        self.actions.fetch_add(actions as u64, Ordering::Relaxed);
        self.jobs.store(snapshot.active_jobs() as u64, Ordering::Relaxed);
        self.workers.store(snapshot.active_workers() as u64, Ordering::Relaxed);
        self.under_way.store(snapshot.in_flight() as u64, Ordering::Relaxed);
        self.decisions.fetch_add(1, Ordering::Release);
    }

    /// The questions' other end, for the term that begins; it is given back when the term ends.
    pub(crate) fn take_inbox(&self) -> Option<mpsc::Receiver<Question>> {
        self.inbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    pub(crate) fn return_inbox(&self, inbox: Option<mpsc::Receiver<Question>>) {
        *self.inbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = inbox;
    }

    /// The numbers as of `now`.
    pub fn status(&self, now: Time) -> Status {
        let last = now.since(Time(self.beat_ms.load(Ordering::Relaxed)));
        let epoch = Some(self.epoch.load(Ordering::Relaxed)).filter(|&epoch| epoch > 0);
        Status {
            alive: last < STALLED,
            leading: epoch.is_some(),
            epoch,
            last_turn_ms: last.0,
            decisions: self.decisions.load(Ordering::Acquire),
            actions: self.actions.load(Ordering::Relaxed),
            jobs: self.jobs.load(Ordering::Relaxed),
            workers: self.workers.load(Ordering::Relaxed),
            under_way: self.under_way.load(Ordering::Relaxed),
        }
    }
}

#[derive(Clone)]
struct Shown {
    health: Arc<Health>,
    clock: Clock,
}

/// `GET /health` (`ok` while the loop turns), `GET /status` (JSON), `GET /jobs/{id}/why` (JSON; the leader answers).
pub fn router(health: Arc<Health>, clock: Clock) -> Router {
    Router::new()
        .route("/health", get(alive))
        .route("/status", get(status))
        .route("/jobs/{id}/why", get(why))
        .with_state(Shown { health, clock })
}

async fn alive(State(shown): State<Shown>) -> Response {
    let status = shown.health.status((shown.clock)());
    if status.alive {
        return "ok".into_response();
    }
    let message = format!("stalled: the scheduler's loop last turned {} ms ago\n", status.last_turn_ms);
    (StatusCode::SERVICE_UNAVAILABLE, message).into_response()
}

async fn status(State(shown): State<Shown>) -> Json<Status> {
    Json(shown.health.status((shown.clock)()))
}

async fn why(State(shown): State<Shown>, Path(id): Path<i64>) -> Response {
    let (answer, explanation) = oneshot::channel();
    let unavailable = || {
        (StatusCode::SERVICE_UNAVAILABLE, "this scheduler does not lead, or is busy: ask again, or ask the leader\n")
            .into_response()
    };
    if shown.health.status((shown.clock)()).epoch.is_none() {
        return unavailable();
    }
    if shown.health.questions.try_send(Question { job: JobId(id), answer }).is_err() {
        return unavailable();
    }
    let Ok(explanation) = explanation.await else { return unavailable() };
    let body = serde_json::json!({ "job": id, "waiting_on": explanation.waiting_on.to_string() });
    Json(body).into_response()
}
