//! What a scheduler shows of itself: that it is alive, whether it leads, and why a job waits.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use engine::{
    explain::{Explanation, WaitingOn},
    ids::{JobId, Span, Time},
    snapshot::Snapshot,
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::{notices::Notices, ports::Clock};

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
    readings: AtomicU64,
    actions: AtomicU64,
    jobs: AtomicU64,
    workers: AtomicU64,
    under_way: AtomicU64,
    notices: Arc<Notices>,
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
            readings: AtomicU64::new(0),
            actions: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
            workers: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            notices: Arc::default(),
            questions,
            inbox: Mutex::new(Some(inbox)),
        }
    }
}

/// What `/status` shows, and `/health` to those who ask it for JSON.
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
    /// Pending and running jobs known; 0 while it stands by, as all that follows.
    pub jobs: u64,
    /// Pending and running workers known.
    pub workers: u64,
    /// Actions that have not ended yet.
    pub under_way: u64,
    /// What does not answer, refuses, or answers nonsense: a sentence each, without secrets.
    pub troubles: Vec<String>,
}

impl Health {
    /// Whatever the process waits for, it is alive.
    pub fn beat(&self, now: Time) {
        self.beat_ms.store(now.0, Ordering::Relaxed);
    }

    pub(crate) fn led(&self, epoch: Option<i64>) {
        self.epoch.store(epoch.unwrap_or(0), Ordering::Relaxed);
        if epoch.is_none() {
            for number in [&self.jobs, &self.workers, &self.under_way] {
                number.store(0, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn decided(&self, actions: usize, snapshot: &Snapshot) {
        self.actions.fetch_add(actions as u64, Ordering::Relaxed);
        self.jobs.store(snapshot.active_jobs() as u64, Ordering::Relaxed);
        self.workers.store(snapshot.active_workers() as u64, Ordering::Relaxed);
        self.under_way.store(snapshot.in_flight() as u64, Ordering::Relaxed);
        self.decisions.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn decided_on_readings(&self, taken_in: u64) {
        self.readings.fetch_add(taken_in, Ordering::Release);
    }

    /// Readings of the store that this process has taken in whole and decided on.
    pub fn readings(&self) -> u64 {
        self.readings.load(Ordering::Acquire)
    }

    /// The questions' other end, for the term that begins; it is given back when the term ends.
    pub(crate) fn take_inbox(&self) -> Option<mpsc::Receiver<Question>> {
        self.inbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// Whoever still waits for an answer of that term is told to ask again.
    pub(crate) fn return_inbox(&self, mut inbox: Option<mpsc::Receiver<Question>>) {
        while inbox.as_mut().is_some_and(|inbox| inbox.try_recv().is_ok()) {}
        *self.inbox.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = inbox;
    }

    /// The numbers as of `now`.
    pub fn status(&self, now: Time) -> Status {
        let beat = self.beat_ms.load(Ordering::Relaxed);
        let last = now.since(Time(beat));
        let epoch = Some(self.epoch.load(Ordering::Relaxed)).filter(|&epoch| epoch > 0);
        Status {
            // A clock that was set back must not keep a loop alive that has stopped.
            alive: beat != 0 && now.0.abs_diff(beat) < STALLED.0.unsigned_abs(),
            leading: epoch.is_some(),
            epoch,
            last_turn_ms: last.0,
            decisions: self.decisions.load(Ordering::Acquire),
            actions: self.actions.load(Ordering::Relaxed),
            jobs: self.jobs.load(Ordering::Relaxed),
            workers: self.workers.load(Ordering::Relaxed),
            under_way: self.under_way.load(Ordering::Relaxed),
            troubles: self.notices.now(),
        }
    }

    /// What the process tells its operators of its surroundings.
    pub fn notices(&self) -> &Arc<Notices> {
        &self.notices
    }
}

#[derive(Clone)]
struct Shown {
    health: Arc<Health>,
    clock: Clock,
}

/// `GET /health`: 200 `ok` while the loop turns, 503 when it does not; in either case the headers say what it is, and
/// whoever accepts JSON alone is shown all of it. `GET /status`: the same, always 200. `GET /jobs/{id}/why` (JSON; the
/// leader answers): what a pending or running job waits for; 404 for any other.
///
/// Neither GitHub, Kubernetes nor Postgres being away makes it unhealthy: starting it anew would help nothing. Nor does
/// standing by: a roll-out that waits until the new process leads, while the old one does, waits for ever.
pub fn router(health: Arc<Health>, clock: Clock) -> Router {
    Router::new()
        .route("/health", get(alive))
        .route("/status", get(status))
        .route("/jobs/{id}/why", get(why))
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page: see /health, /status and /jobs/{id}/why\n") })
        .with_state(Shown { health, clock })
}

async fn alive(State(shown): State<Shown>, asked: HeaderMap) -> Response {
    let status = shown.health.status((shown.clock)());
    let code = if status.alive { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = |yes: bool| HeaderValue::from_static(if yes { "true" } else { "false" });
    let mut headers = HeaderMap::new();
    headers.insert("x-scheduler-alive", word(status.alive));
    headers.insert("x-scheduler-leading", word(status.leading));
    headers.insert("x-scheduler-epoch", status.epoch.unwrap_or(0).into());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    let accept = asked.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    if accept.contains("application/json") {
        return (code, headers, Json(status)).into_response();
    }
    let text = match status.alive {
        true => "ok".to_owned(),
        false => format!("stalled: the scheduler's loop last turned {} ms ago\n", status.last_turn_ms),
    };
    (code, headers, text).into_response()
}

async fn status(State(shown): State<Shown>) -> Json<Status> {
    Json(shown.health.status((shown.clock)()))
}

async fn why(State(shown): State<Shown>, id: Result<Path<i64>, PathRejection>) -> Response {
    let Ok(Path(id)) = id else {
        return (StatusCode::BAD_REQUEST, "a job is named by its number on GitHub: /jobs/29000000000/why\n")
            .into_response();
    };
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
    if explanation.waiting_on == WaitingOn::Nothing {
        let message = "not waiting: the job has ended, or no delivery has told of it: see /history of ghfe\n";
        return (StatusCode::NOT_FOUND, message).into_response();
    }
    let body = serde_json::json!({ "job": id, "waiting_on": explanation.waiting_on.to_string() });
    Json(body).into_response()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    const BEGUN: i64 = 1_800_000_000_000;

    /// Asks `/health` this long after the loop last turned: status, what the headers say of leading, and the text.
    async fn ask(health: &Arc<Health>, after: i64, accept: &str) -> (u16, String, String) {
        let now = Arc::new(AtomicI64::new(BEGUN + after));
        let clock: Clock = Arc::new(move || Time(now.load(Ordering::Relaxed)));
        let request = Request::get("/health").header("accept", accept).body(Body::empty()).unwrap();
        let answer = router(health.clone(), clock).oneshot(request).await.unwrap();
        let shown = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let head =
            format!("{} {} {}", shown("x-scheduler-alive"), shown("x-scheduler-leading"), shown("x-scheduler-epoch"));
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, head, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn health_says_ok_while_the_loop_turns_leading_or_not_and_503_when_it_stopped() {
        let health = Arc::new(Health::default());
        assert_eq!(ask(&health, 0, "*/*").await.0, 503, "it has not begun");
        health.beat(Time(BEGUN));
        assert_eq!(ask(&health, 1_000, "*/*").await, (200, "true false 0".into(), "ok".into()), "standing by");
        health.led(Some(3));
        assert_eq!(ask(&health, 59_000, "*/*").await, (200, "true true 3".into(), "ok".into()));
        let (status, head, text) = ask(&health, 61_000, "*/*").await;
        assert_eq!((status, head.as_str()), (503, "false true 3"));
        assert_eq!(text, "stalled: the scheduler's loop last turned 61000 ms ago\n");
        assert_eq!(ask(&health, -3_600_000, "*/*").await.0, 503, "nor does a clock that was set back keep it alive");
    }

    #[tokio::test]
    async fn what_cannot_be_answered_says_what_can() {
        let health = Arc::new(Health::default());
        let clock: Clock = Arc::new(|| Time(BEGUN));
        for (path, status, says) in [
            ("/", 404, "see /health, /status and /jobs/{id}/why"),
            ("/jobs/abc/why", 400, "/jobs/29000000000/why"),
            ("/jobs/99999999999999999999/why", 400, "/jobs/29000000000/why"),
            ("/jobs/%ff/why", 400, "/jobs/29000000000/why"),
            ("/jobs/1/why", 503, "ask the leader"),
        ] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let answer = router(health.clone(), clock.clone()).oneshot(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{path}");
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(String::from_utf8_lossy(&body).contains(says), "{path}: {body:?}");
        }
    }

    #[tokio::test]
    async fn a_question_that_the_term_ends_before_is_to_be_asked_again() {
        let health = Arc::new(Health::default());
        health.led(Some(3));
        let inbox = health.take_inbox();
        let clock: Clock = Arc::new(|| Time(BEGUN));
        let request = Request::get("/jobs/1/why").body(Body::empty()).unwrap();
        let asked = tokio::spawn(router(health.clone(), clock).oneshot(request));
        while inbox.as_ref().is_some_and(mpsc::Receiver::is_empty) {
            tokio::task::yield_now().await;
        }
        health.return_inbox(inbox);
        assert_eq!(asked.await.unwrap().unwrap().status().as_u16(), 503);
    }

    #[tokio::test]
    async fn health_shows_all_to_those_who_accept_json_and_trouble_outside_is_no_illness() {
        let health = Arc::new(Health::default());
        health.beat(Time(BEGUN));
        health.led(Some(3));
        let away = crate::notices::tests::away();
        health.notices().store("read", &away);
        let (status, _, text) = ask(&health, 0, "application/json").await;
        let shown: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(status, 200);
        assert_eq!((&shown["alive"], &shown["leading"], &shown["epoch"]), (&true.into(), &true.into(), &3.into()));
        assert_eq!(shown["troubles"][0], "Postgres: away (for 0 s, 1 calls)");
        assert_eq!(ask(&health, 61_000, "application/json").await.0, 503);
        health.jobs.store(7, Ordering::Relaxed);
        health.led(None);
        let status = health.status(Time(BEGUN));
        assert_eq!(
            (status.epoch, status.jobs, status.workers, status.under_way),
            (None, 0, 0, 0),
            "of the term that ended"
        );
    }
}
