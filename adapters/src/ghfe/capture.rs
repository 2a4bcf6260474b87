//! Keeps accepted deliveries, one line of JSON each, for replays: {at, headers, body}, without anything secret.

use std::{
    borrow::Cow,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use axum::http::HeaderMap;
use engine::ids::Time;
use serde::Serialize;
use serde_json::value::RawValue;

/// Lines that may wait for the disk; beyond that they are counted and dropped, never the delivery.
const WAITING: usize = 1024;
/// What is kept of the headers. Signatures, cookies and credentials are not.
const KEPT: [&str; 5] = ["x-github-event", "x-github-delivery", "x-github-hook-id", "user-agent", "content-type"];

/// An open capture file. Clones write to the same one, whole lines each.
#[derive(Debug, Clone)]
pub struct Capture {
    lines: mpsc::SyncSender<Task>,
    lost: Arc<AtomicU64>,
}

/// What the writing thread is told.
enum Task {
    Append(Vec<u8>),
    /// Answers once everything before it is written.
    Flush(mpsc::SyncSender<()>),
}

#[derive(Serialize)]
struct Line<'a> {
    at: String,
    headers: std::collections::BTreeMap<&'a str, &'a str>,
    body: &'a RawValue,
}

impl Capture {
    /// Appends to `path`, which is created when missing, for this process's user alone: it holds what private repositories
    /// do. A thread of its own writes.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Who opens a pipe waits for its reader.
        if std::fs::metadata(path).is_ok_and(|known| known.file_type().is_fifo()) {
            return Err(io::Error::other("it is a pipe: name a file"));
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let (lines, waiting) = mpsc::sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        thread::spawn(move || write(file, &waiting, &counter));
        Ok(Self { lines, lost })
    }

    /// Lines that could not be written so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until every line so far is written, or could not be. Blocks.
    pub fn flush(&self) {
        let (done, written) = mpsc::sync_channel(1);
        if self.lines.send(Task::Flush(done)).is_ok() {
            let _ = written.recv();
        }
    }

    pub(super) fn append(&self, event: &str, headers: &HeaderMap, body: &str, at: Time) {
        match line(event, headers, body, at).map(|line| self.lines.try_send(Task::Append(line))) {
            Some(Ok(())) => {}
            Some(Err(_)) => note_loss(&self.lost, "too many lines wait for the disk"),
            None => note_loss(&self.lost, "it makes no line"),
        }
    }
}

fn line(event: &str, headers: &HeaderMap, body: &str, at: Time) -> Option<Vec<u8>> {
    let at = jiff::Timestamp::from_millisecond(at.0).ok()?.to_string();
    let kept = KEPT.iter().filter_map(|&name| Some((name, headers.get(name)?.to_str().ok()?))).collect();
    let body = match event {
        "ping" | "meta" => Cow::Owned(without_hook(body)),
        _ => Cow::Borrowed(body),
    };
    // A raw body may hold line breaks between its tokens, and nowhere else; a line must not.
    let body = if body.contains(['\n', '\r']) { Cow::Owned(body.replace(['\n', '\r'], " ")) } else { body };
    let mut out = serde_json::to_vec(&Line { at, headers: kept, body: serde_json::from_str(&body).ok()? }).ok()?;
    out.push(b'\n');
    Some(out)
}

/// What is told when a webhook is made and when it is deleted tells how it was set, its secret and what its address may hold
/// included. `null` is kept of one that is no object, or deeper than a parser goes.
fn without_hook(body: &str) -> String {
    let mut fields = serde_json::from_str::<Option<serde_json::Map<_, _>>>(body).ok().flatten();
    if let Some(fields) = &mut fields {
        fields.remove("hook");
    }
    serde_json::Value::from(fields).to_string()
}

fn write(mut file: File, waiting: &mpsc::Receiver<Task>, lost: &AtomicU64) {
    while let Ok(task) = waiting.recv() {
        match task {
            Task::Append(line) => {
                if let Err(error) = file.write_all(&line) {
                    tracing::error!(%error, "the capture file cannot be written");
                    note_loss(lost, "its line could not be written");
                }
            }
            Task::Flush(done) => drop(done.send(())),
        }
    }
}

/// What is accepted need not be recorded: of pings and of events that this service ignores there is no row.
fn note_loss(lost: &AtomicU64, why: &str) {
    let lost = lost.fetch_add(1, Ordering::Relaxed) + 1;
    tracing::warn!(lost, why, "a delivery was accepted but not captured");
}
