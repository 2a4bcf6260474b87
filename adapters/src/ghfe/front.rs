//! What is served before there is a store.

use std::sync::{Arc, OnceLock};

use axum::{
    Json, Router,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use tower::ServiceExt as _;

use super::webhook::{away, discard};
use crate::notices::Notices;

/// Answers from the first moment on: whatever needs the store is away until it is there.
#[derive(Debug, Clone, Default)]
pub struct Front {
    service: Arc<OnceLock<Router>>,
    notices: Arc<Notices>,
}

impl Front {
    /// Where the way to the store is told of.
    pub fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Serves `service` from now on. Only the first one counts.
    pub fn open(&self, service: Router) {
        let _ = self.service.set(service);
    }

    /// What is served meanwhile, and then the service itself.
    pub fn router(&self) -> Router {
        let meanwhile = Router::new()
            .route("/health", get(async || "ok"))
            .route("/status", get(status))
            .fallback(any(later))
            .with_state(self.clone());
        let service = self.service.clone();
        Router::new().fallback(any(async move |request: Request| {
            let router = service.get().unwrap_or(&meanwhile).clone();
            router.oneshot(request).await
        }))
    }
}

async fn status(State(front): State<Front>) -> Response {
    Json(serde_json::json!({ "troubles": front.notices.now() })).into_response()
}

async fn later(request: Request) -> Response {
    discard(request.into_body());
    away("the store has not been reached yet; deliver again later")
}
