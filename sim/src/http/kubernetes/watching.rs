//! Watches: a line of JSON for every change, until the time is over, somebody cuts it, or it is too old.

use std::{collections::VecDeque, convert::Infallible, sync::PoisonError, time::Duration};

use axum::{
    body::{Body, Bytes},
    response::{IntoResponse, Response},
};
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Face, ListQuery, selector::Selector, status, table};
use crate::world::kubernetes::{Kind, WatchEvent};

/// How long a watch lasts when the client does not say.
const LIMIT: u64 = 300;
/// How long one lasts at most, whatever the client says.
const LONGEST: u64 = 3600;
/// A real API server sends a bookmark this long before a watch's end.
const BOOKMARK_BEFORE: Duration = Duration::from_secs(2);

struct Watching {
    face: Face,
    changed: watch::Receiver<u64>,
    cuts: watch::Receiver<u64>,
    bookmarks: watch::Receiver<u64>,
    wants_bookmarks: bool,
    namespace: Option<String>,
    kind: Kind,
    selector: Selector,
    /// As rows of a table: kubectl asks for it.
    as_table: bool,
    seen: u64,
    /// Lines to send before anything else.
    ready: VecDeque<Bytes>,
    bookmark_at: tokio::time::Instant,
    until: tokio::time::Instant,
    over: bool,
}

/// The answer to a watch.
pub(super) fn answer(
    face: Face,
    namespace: Option<String>,
    kind: Kind,
    selector: Selector,
    query: &ListQuery,
    as_table: bool,
) -> Response {
    let from = query.resource_version.as_deref().unwrap_or("");
    let until = tokio::time::Instant::now() + Duration::from_secs(query.timeout_seconds.unwrap_or(LIMIT).min(LONGEST));
    let mut state = Watching {
        changed: face.changed.subscribe(),
        cuts: face.cuts.subscribe(),
        bookmarks: face.bookmarks.subscribe(),
        wants_bookmarks: matches!(query.allow_watch_bookmarks.as_deref(), Some("true" | "1")),
        namespace,
        kind,
        selector,
        as_table,
        seen: 0,
        ready: VecDeque::new(),
        bookmark_at: until.checked_sub(BOOKMARK_BEFORE).unwrap_or(until),
        until,
        over: false,
        face,
    };
    if matches!(from, "" | "0") {
        // Without a version the watch begins with what there is.
        let (version, objects) =
            state.face.with(|model, _| (model.version(), model.objects(kind, state.namespace.as_deref())));
        state.seen = version;
        let shown: Vec<Bytes> =
            objects.iter().filter(|object| state.selector.matches(object)).map(|it| state.line("ADDED", it)).collect();
        state.ready.extend(shown);
    } else {
        match from.parse() {
            Ok(version) => state.seen = version,
            Err(_) => return status::answer(400, "BadRequest", "Invalid value: resourceVersion"),
        }
    }
    ([("content-type", "application/json")], Body::from_stream(stream::unfold(state, next))).into_response()
}

async fn next(mut it: Watching) -> Option<(Result<Bytes, Infallible>, Watching)> {
    loop {
        if let Some(line) = it.ready.pop_front() {
            return Some((Ok(line), it));
        }
        if it.over {
            return None;
        }
        it.changed.borrow_and_update();
        let (version, events) = it.face.with(|model, _| (model.version(), model.since(it.kind, it.seen)));
        let Ok(events) = events else {
            it.over = true;
            let object = status::body(410, "Expired", &format!("too old resource version: {} ({version})", it.seen));
            it.ready.push_back(plain("ERROR", &object));
            continue;
        };
        let lines: Vec<Bytes> = events.iter().filter_map(|event| it.show(event)).collect();
        it.ready.extend(lines);
        it.seen = it.seen.max(version);
        if !it.ready.is_empty() {
            continue;
        }
        tokio::select! {
            biased;
            _ = it.cuts.changed() => return None,
            changed = it.changed.changed() => {
                if changed.is_err() { return None }
                let lag = *it.face.lag.lock().unwrap_or_else(PoisonError::into_inner);
                if !lag.is_zero() { tokio::time::sleep(lag).await }
            }
            _ = it.bookmarks.changed(), if it.wants_bookmarks => it.bookmark(),
            () = tokio::time::sleep_until(it.bookmark_at), if it.wants_bookmarks && it.bookmark_at < it.until => {
                it.bookmark_at = it.until;
                it.bookmark();
            }
            () = tokio::time::sleep_until(it.until) => it.over = true,
        }
    }
}

impl Watching {
    /// What a change is to this watch: an object that stops matching is deleted, one that begins to is added.
    fn show(&self, event: &WatchEvent) -> Option<Bytes> {
        if self.namespace.as_ref().is_some_and(|namespace| *namespace != event.key.namespace) {
            return None;
        }
        let fits = |object: &&std::sync::Arc<Value>| self.selector.matches(object);
        match (event.before.as_ref().filter(fits), event.after.as_ref().filter(fits)) {
            (None, None) => None,
            (None, Some(after)) => Some(self.line("ADDED", after)),
            (Some(_), Some(after)) => Some(self.line("MODIFIED", after)),
            (Some(before), None) => {
                let mut last = Value::clone(before);
                last["metadata"]["resourceVersion"] = json!(event.version.to_string());
                Some(self.line("DELETED", &last))
            }
        }
    }

    fn bookmark(&mut self) {
        let mut object = json!({
            "apiVersion": "v1", "kind": self.kind.name(), "metadata": { "resourceVersion": self.seen.to_string() },
        });
        if self.kind == Kind::Pod {
            object["spec"] = json!({ "containers": null });
        }
        self.ready.push_back(plain("BOOKMARK", &object));
    }

    fn line(&self, what: &str, object: &Value) -> Bytes {
        if !self.as_table {
            return plain(what, object);
        }
        let now = (self.face.clock)();
        plain(what, &table::of(self.kind, std::slice::from_ref(object), json!({}), now))
    }
}

fn plain(what: &str, object: &Value) -> Bytes {
    let mut text = json!({ "type": what, "object": object }).to_string();
    text.push('\n');
    Bytes::from(text)
}
