//! `v1 Status`: how the API says no.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::world::kubernetes::Refusal;

/// What a refusal is about: the plural of its kind, and a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub plural: &'a str,
    pub name: &'a str,
}

pub(super) fn body(code: u16, reason: &str, message: &str) -> Value {
    let outcome = if code < 400 { "Success" } else { "Failure" };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": outcome, "message": message, "reason": reason,
        "code": code,
    })
}

pub(super) fn answer(code: u16, reason: &str, message: &str) -> Response {
    let http = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (http, Json(body(code, reason, message))).into_response()
}

pub(super) fn refuse(refused: &Refusal, about: About<'_>) -> Response {
    let About { plural, name } = about;
    let (code, reason, message) = match refused {
        Refusal::NotFound => (404, "NotFound", format!("{plural} {name:?} not found")),
        Refusal::NoNamespace(namespace) => (404, "NotFound", format!("namespaces {namespace:?} not found")),
        Refusal::AlreadyExists => (409, "AlreadyExists", format!("{plural} {name:?} already exists")),
        Refusal::Conflict(message) => (409, "Conflict", message.clone()),
        Refusal::Forbidden(message) => (403, "Forbidden", message.clone()),
        Refusal::Invalid(message) => (422, "Invalid", message.clone()),
        Refusal::BadRequest(message) => (400, "BadRequest", message.clone()),
        Refusal::Gone => return gone(),
    };
    let mut body = body(code, reason, &message);
    body["details"] = json!({ "name": name, "kind": plural });
    (StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), Json(body)).into_response()
}

fn gone() -> Response {
    answer(410, "Expired", "The provided continue parameter is too old to display a consistent list result")
}
