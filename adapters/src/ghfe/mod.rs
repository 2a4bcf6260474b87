//! The webhook front end: records what deliveries say, and shows it. It calls neither GitHub nor Kubernetes.

mod body;
mod capture;
mod front;
mod pages;
mod proxy;
mod readers;
mod room;
mod webhook;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use engine::policy::Policy;
use secrecy::{ExposeSecret, SecretString};

pub use capture::Capture;
pub use front::Front;
pub use proxy::{HttpProxy, StagingProxy};
pub use readers::{Readers, ReadersStatus};
pub use room::{Room, RoomStatus};

use crate::{
    ingest::Ingest,
    ports::{Clock, Store},
};

/// Everything the front end works with.
#[derive(Clone)]
pub struct Ghfe {
    /// The state store.
    pub store: Arc<dyn Store>,
    /// The way deliveries take into it.
    pub ingest: Ingest,
    /// Where their bodies are meanwhile.
    pub room: Room,
    /// Who may read the store for pages and probes.
    pub readers: Readers,
    /// Label rules and owners.
    pub policy: Arc<Policy>,
    /// The wall clock.
    pub clock: Clock,
    /// Checks signatures.
    pub verifier: Verifier,
    /// Where staging's deliveries go; production only.
    pub proxy: Option<Arc<dyn StagingProxy>>,
    /// Where accepted deliveries are kept.
    pub capture: Option<Capture>,
    /// What links to pages begin with.
    pub public_url: Option<String>,
}

/// Checks webhook signatures; shows nothing of its secret.
#[derive(Clone)]
pub struct Verifier(Arc<aws_lc_rs::hmac::Key>);

impl Verifier {
    /// With the webhooks' shared secret.
    pub fn new(secret: &SecretString) -> Self {
        Self(Arc::new(aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.expose_secret().as_bytes())))
    }

    /// Whether `signature` (`sha256=` and 64 hex digits) is that of `body`. Takes the same time wherever they differ.
    pub fn is_valid(&self, body: &[u8], signature: &str) -> bool {
        let Some(digest) = signature.strip_prefix("sha256=").and_then(|digits| hex::decode(digits).ok()) else {
            return false;
        };
        aws_lc_rs::hmac::verify(&self.0, body, &digest).is_ok()
    }
}

/// The routes of the specification, with `/ready` and `/status` beside `/health`.
pub fn router(ghfe: Ghfe) -> Router {
    Router::new()
        .route("/", post(webhook::receive))
        .route("/health", get(|| async { "ok" }))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/usage", get(pages::usage))
        .route("/usage.json", get(pages::usage_json))
        .route("/history", get(pages::history))
        .route("/history.json", get(pages::history_json))
        .fallback(nowhere)
        .with_state(ghfe)
}

async fn nowhere(request: Request) -> Response {
    webhook::discard(request.into_body());
    (StatusCode::NOT_FOUND, "no such page: see /usage and /history\n").into_response()
}

/// What came in and what became of it, and what is in trouble.
async fn status(State(ghfe): State<Ghfe>) -> Json<serde_json::Value> {
    let lost = ghfe.capture.as_ref().map(Capture::lost);
    let troubles = ghfe.ingest.notices().now();
    let (deliveries, bodies, pages) = (ghfe.ingest.status(), ghfe.room.status(), ghfe.readers.status());
    Json(serde_json::json!({
        "deliveries": deliveries, "bodies": bodies, "pages": pages, "capture_lost": lost, "troubles": troubles,
    }))
}

async fn ready(State(ghfe): State<Ghfe>) -> Response {
    let answers = match ghfe.readers.probe().await {
        Some(_place) => ghfe.store.ping().await.is_ok(),
        None => false,
    };
    match answers {
        true => "ready".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n").into_response(),
    }
}
