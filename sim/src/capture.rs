//! Captures: deliveries as ghfe's CAPTURE keeps them, and the jobs they tell of.

use std::collections::BTreeMap;

use engine::{
    ids::{Span, Time},
    intake::{self, Intake, WorkflowJob},
    policy::Policy,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::world::{
    github::{AccountKind, GitHub},
    kubernetes::Fate,
};

/// One job of a capture, to be played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlayedJob {
    /// GitHub's id.
    pub id: i64,
    /// The owner: id, login, kind.
    pub owner: (i64, String, AccountKind),
    /// The repository: id, `owner/name`.
    pub repo: (i64, String),
    /// The installation's id.
    pub installation: i64,
    /// What it asks for.
    pub labels: Vec<String>,
    /// When it is queued, after the capture's beginning.
    pub queued: Span,
    /// How long it runs.
    pub duration: Span,
    /// When somebody cancels it, after it was queued.
    pub cancelled: Option<Span>,
}

/// Why a capture cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A line that is not what ghfe writes.
    #[error("line {line}: {what}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// Nothing in it.
    #[error("the capture holds no queued workflow_job delivery")]
    Empty,
    /// Nothing in it for this service.
    #[error("the capture holds no job whose labels this service serves")]
    Unserved,
}

/// ghfe takes in, and so captures, bodies of which it reads next to nothing; what is not played is not looked into here either.
#[derive(Deserialize)]
struct Line<'a> {
    at: jiff::Timestamp,
    headers: BTreeMap<String, String>,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Head {
    action: Option<String>,
}

/// A job that never ended in the capture runs this long.
const UNKNOWN_DURATION: Span = Span::mins(2);

/// Reads a capture: one JSON object a line.
pub fn read(text: &str) -> Result<Vec<PlayedJob>, CaptureError> {
    let mut jobs: BTreeMap<i64, (Time, PlayedJob)> = BTreeMap::new();
    let mut ends: Vec<(i64, Value, Time)> = Vec::new();
    for (i, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let wrong = |what: String| CaptureError::Line { line: i + 1, what };
        let line: Line<'_> = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if line.headers.get("x-github-event").map(String::as_str) != Some("workflow_job") {
            continue;
        }
        let head: Head = serde_json::from_str(line.body.get()).map_err(|error| wrong(error.to_string()))?;
        let action = head.action.unwrap_or_default();
        if !matches!(&*action, "queued" | "completed") {
            continue;
        }
        let body: Value = serde_json::from_str(line.body.get()).map_err(|error| wrong(error.to_string()))?;
        let at = Time(line.at.as_millisecond());
        let id = body.pointer("/workflow_job/id").and_then(Value::as_i64).filter(|id| *id > 0);
        let id = id.ok_or_else(|| wrong("workflow_job.id is missing or not positive".to_owned()))?;
        if action == "completed" {
            ends.push((id, body, at));
            continue;
        }
        let job = queued(id, &body).ok_or_else(|| wrong("a field of the queued job is missing".to_owned()))?;
        jobs.entry(id).or_insert((at, job));
    }
    let start = jobs.values().map(|(at, _)| *at).min().ok_or(CaptureError::Empty)?;
    for (id, body, at) in ends {
        let Some((queued_at, job)) = jobs.get_mut(&id) else { continue };
        end(job, &body, *queued_at, at);
    }
    let mut played: Vec<PlayedJob> = jobs
        .into_values()
        .map(|(at, mut job)| {
            job.queued = at.since(start);
            job
        })
        .collect();
    played.sort_by_key(|job| (job.queued, job.id));
    Ok(played)
}

/// What of a capture is played.
#[derive(Debug, PartialEq, Eq)]
pub struct Playable {
    /// The jobs, in their order.
    pub jobs: Vec<PlayedJob>,
    /// Why others are left out, a sentence each.
    pub left_out: Vec<String>,
}

/// Those of a capture's jobs that one world can hold and the service serves. ghfe accepts deliveries about jobs of other labels
/// too, and ignores them: no runner of this service ever takes one, so that a play would not end. What it would refuse is in no
/// capture of its, but may be in one that somebody made. And it believes each delivery, but a repository has one owner: who was
/// named first. Accounts and repositories keep the names that they had first.
///
/// # Errors
/// No job is left.
pub fn playable(jobs: Vec<PlayedJob>, policy: &Policy) -> Result<Playable, CaptureError> {
    let mut known = Known::default();
    let mut left_out: BTreeMap<String, usize> = BTreeMap::new();
    let mut play = |job: PlayedJob| {
        let placed = known.place(job);
        let placed = placed.ok_or_else(|| "of a repository that another account has".to_owned());
        placed.and_then(|job| served(&job, policy).map(|()| job))
    };
    let mut played = Vec::new();
    for job in jobs {
        match play(job) {
            Ok(job) => played.push(job),
            Err(why) => *left_out.entry(why).or_default() += 1,
        }
    }
    if played.is_empty() {
        return Err(CaptureError::Unserved);
    }
    let left_out =
        left_out.iter().map(|(why, jobs)| format!("left out: {jobs} of the capture's jobs, {why}")).collect();
    Ok(Playable { jobs: played, left_out })
}

/// Whether the service serves a job, or why it does not.
fn served(job: &PlayedJob, policy: &Policy) -> Result<(), String> {
    let (owner, login, kind) = &job.owner;
    let body = WorkflowJob {
        action: "queued",
        job_id: Some(job.id),
        html_url: Some("https://github.com/"),
        labels: job.labels.iter().map(String::as_str).collect(),
        repo_id: Some(job.repo.0),
        repo_full_name: Some(&job.repo.1),
        owner_id: Some(*owner),
        owner_login: Some(login),
        owner_type: Some(if *kind == AccountKind::User { "User" } else { "Organization" }),
        installation_id: Some(job.installation),
        ..WorkflowJob::default()
    };
    match intake::read(&body, policy, Time::ZERO) {
        Ok(Intake::Record(_)) => Ok(()),
        Ok(Intake::Ignore(_)) => Err("whose labels the service ignores".to_owned()),
        Err(rejected) => Err(format!("which the service refuses: {rejected}")),
    }
}

/// Who was named first: accounts, and repositories with their owners.
#[derive(Default)]
struct Known {
    accounts: BTreeMap<i64, (String, AccountKind)>,
    repos: BTreeMap<i64, (i64, String)>,
}

impl Known {
    /// The same job in the world that is known so far, if it can be there.
    fn place(&mut self, mut job: PlayedJob) -> Option<PlayedJob> {
        let (owner, login, kind) = job.owner;
        let repo = self.repos.entry(job.repo.0).or_insert((owner, job.repo.1));
        if repo.0 != owner {
            return None;
        }
        job.repo.1 = repo.1.clone();
        let (login, kind) = self.accounts.entry(owner).or_insert((login, kind)).clone();
        job.owner = (owner, login, kind);
        Some(job)
    }
}

fn queued(id: i64, body: &Value) -> Option<PlayedJob> {
    let owner = body.pointer("/repository/owner")?;
    let kind = if owner["type"].as_str()? == "User" { AccountKind::User } else { AccountKind::Organization };
    // As ghfe reads them: null is none.
    let labels = body.pointer("/workflow_job/labels").and_then(Value::as_array);
    Some(PlayedJob {
        id,
        owner: (owner["id"].as_i64()?, owner["login"].as_str()?.to_owned(), kind),
        repo: (body.pointer("/repository/id")?.as_i64()?, body.pointer("/repository/full_name")?.as_str()?.to_owned()),
        installation: body.pointer("/installation/id")?.as_i64()?,
        labels: labels.into_iter().flatten().filter_map(|label| Some(label.as_str()?.to_owned())).collect(),
        queued: Span::ZERO,
        duration: UNKNOWN_DURATION,
        cancelled: None,
    })
}

fn end(job: &mut PlayedJob, body: &Value, queued_at: Time, at: Time) {
    let ran = body.pointer("/workflow_job/runner_name").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    let time = |field: &str| {
        let text = body.pointer(&format!("/workflow_job/{field}"))?.as_str()?;
        Some(Time(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()))
    };
    if !ran {
        job.cancelled = Some(at.since(queued_at));
    } else if let (Some(started), Some(completed)) = (time("started_at"), time("completed_at")) {
        job.duration = completed.since(started).max(Span::secs(1));
    }
}

/// Who takes part in the built-in capture: owner, installation, repositories, labels.
type Party = (i64, &'static str, AccountKind, i64, &'static [(i64, &'static str)], &'static [&'static str]);

const PARTIES: [Party; 5] = [
    (
        21_003_710,
        "pytorch",
        AccountKind::Organization,
        501,
        &[(11, "pytorch/pytorch"), (12, "pytorch/vision")],
        &["linux.riscv64.xlarge", "ubuntu-24.04-riscv"],
    ),
    (134_263_123, "ggml-org", AccountKind::Organization, 502, &[(21, "ggml-org/llama.cpp")], &["ubuntu-24.04-riscv"]),
    (
        9_001,
        "octo-org",
        AccountKind::Organization,
        503,
        &[(31, "octo-org/app"), (32, "octo-org/lib")],
        &["ubuntu-24.04-riscv", "ubuntu-26.04-riscv"],
    ),
    (
        9_002,
        "vector-works",
        AccountKind::Organization,
        504,
        &[(41, "vector-works/blas")],
        &["ubuntu-24.04-riscv-rvv", "ubuntu-26.04-riscv-2xlarge", "ubuntu-24.04-riscv-2xlarge"],
    ),
    (
        660_779,
        "luhenry",
        AccountKind::User,
        601,
        &[(51, "luhenry/jvm"), (52, "luhenry/notes")],
        &["ubuntu-24.04-riscv"],
    ),
];

/// How many jobs the built-in capture has.
pub const BUILT_IN_JOBS: i64 = 240;

/// The built-in capture, as ghfe would have written it: real bodies, 240 jobs of four organisations and a personal
/// account over four pools within 20 minutes, every twelfth cancelled before it started.
pub fn built_in() -> String {
    let start = Time(1_700_000_000_000);
    let mut github = GitHub::new(7);
    let mut lines: Vec<(Time, String)> = Vec::new();
    for (id, login, kind, installation, repos, _) in PARTIES {
        github.add_account(kind, id, login, installation);
        for (repo, name) in repos {
            github.add_repo(*repo, id, name);
        }
    }
    for i in 0..BUILT_IN_JOBS {
        let (_, _, _, _, repos, labels) = PARTIES[(i * 7 % 5) as usize];
        let (repo, _) = repos[(i % repos.len() as i64) as usize];
        let label = labels[(i / 3 % labels.len() as i64) as usize];
        let id = 29_000_000_000 + i * 10;
        let at = start + Span::secs(i * 5 % 1200);
        let duration = Span::secs(60 + i * 37 % 240);
        github.queue_job(id, repo, &[label], duration, at);
        if i % 12 == 5 {
            github.cancel_job(id, at + Span::secs(8));
        } else {
            github.run_to_end(id, at + Span::secs(30));
        }
        for outgoing in github.take_outbox() {
            let body: Value = serde_json::from_str(&outgoing.body).unwrap_or(Value::Null);
            let when = match body["action"].as_str() {
                Some("queued") => at,
                Some("in_progress") => at + Span::secs(30),
                Some(_) | None if i % 12 == 5 => at + Span::secs(8),
                Some(_) | None => at + Span::secs(30) + duration,
            };
            let stamp = jiff::Timestamp::from_millisecond(when.0).map_or_else(|_| String::new(), |at| at.to_string());
            let headers = json!({ "x-github-event": outgoing.event, "x-github-delivery": outgoing.guid, "content-type": "application/json" });
            lines.push((when, json!({ "at": stamp, "headers": headers, "body": body }).to_string()));
        }
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line + "\n").collect()
}

/// What happens to the demo's pods, so that every path is taken: by the order of their creation.
pub fn fates() -> Vec<Option<Fate>> {
    let mut fates = vec![None; 60];
    fates[3] = Some(Fate::FailsAtStart(1));
    fates[9] = Some(Fate::NeverConnects);
    fates[15] = Some(Fate::ImagePullBackOff);
    fates[27] = Some(Fate::OutOfMemory);
    fates[41] = Some(Fate::NeverConnects);
    fates
}

/// Makes the accounts and repositories of a capture known.
pub fn introduce(github: &mut GitHub, jobs: &[PlayedJob]) {
    for job in jobs {
        let (id, login, kind) = &job.owner;
        if !github.accounts.contains_key(id) {
            github.add_account(*kind, *id, login, job.installation);
        }
        github.add_repo(job.repo.0, *id, &job.repo.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules send the same labels of several of its owners to several pools.
    #[test]
    fn the_built_in_capture_plays_in_simulated_time() {
        use simulation::replay::{self, Setting};
        let jobs = replay::read(&built_in()).unwrap();
        let played = replay::replay(&jobs, &Setting::built_in().unwrap(), 1);
        assert_eq!(played.outcome.broken, None);
        assert_eq!(played.outcome.jobs.len() + played.ignored, jobs.len());
        assert!(played.outcome.jobs.values().all(|job| job.ended.is_some()));
    }

    /// The file that `simulation` has its jobs of the profile `capture` from.
    fn compact() -> String {
        simulation::replay::write(&simulation::replay::read(&built_in()).unwrap())
    }

    #[test]
    fn the_fast_depth_has_the_built_in_capture() {
        let how = "write it anew: cargo test -p sim --lib -- --ignored writes_the_fast_depths_capture";
        let theirs = simulation::capture::CAPTURE;
        assert!(simulation::replay::read(theirs) == simulation::replay::read(&built_in()), "{how}");
        assert!(theirs == compact(), "{how}");
    }

    #[test]
    #[ignore = "writes a file of the repository"]
    fn writes_the_fast_depths_capture() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../simulation/data/capture.jsonl");
        std::fs::write(file, compact()).unwrap();
    }

    /// ghfe answers 200 to all of these, and captures them.
    #[test]
    fn what_is_not_played_may_be_anything() {
        let line = |event: &str, body: &str| {
            format!(r#"{{"at":"2026-05-13T15:06:40Z","headers":{{"x-github-event":"{event}"}},"body":{body}}}"#) + "\n"
        };
        let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let odd = [
            line("ping", r#"{"zen":1e999}"#),
            line("push", r#"{"ref":"\ud800"}"#),
            line("workflow_job", &deep),
            line("workflow_job", r#"{"action":"waiting","workflow_job":-1}"#),
        ];
        let jobs = read(&(odd.concat() + &built_in())).unwrap();
        assert_eq!(jobs, read(&built_in()).unwrap());
        let negative = line("workflow_job", r#"{"action":"queued","workflow_job":{"id":-1}}"#);
        assert_eq!(read(&negative).unwrap_err().to_string(), "line 1: workflow_job.id is missing or not positive");
    }

    #[test]
    fn what_no_one_world_can_hold_is_left_out_and_told() {
        let policy = adapters::config::built_in(engine::ids::Realm::Prod).unwrap().0;
        let job = |id: i64, owner: i64, repo: (i64, &str), installation: i64, label: &str| PlayedJob {
            id,
            owner: (owner, format!("account-{id}"), AccountKind::Organization),
            repo: (repo.0, repo.1.to_owned()),
            installation,
            labels: vec![label.to_owned()],
            queued: Span::ZERO,
            duration: UNKNOWN_DURATION,
            cancelled: None,
        };
        let served = "ubuntu-24.04-riscv";
        let jobs = vec![
            job(1, 7, (70, "account-1/a"), 700, served),
            // Renamed, and installed anew.
            job(2, 7, (70, "account-1/b"), 701, served),
            job(3, 8, (70, "account-3/a"), 800, served),
            job(4, 7, (71, "account-1/c"), 700, "ubuntu-latest"),
            job(5, 8, (80, "account-5/a"), 800, served),
            job(6, 7, (72, "account-1/\"a\""), 700, served),
        ];
        let found = playable(jobs.clone(), &policy).unwrap();
        let names = |job: &PlayedJob| (job.id, job.owner.1.clone(), job.repo.1.clone());
        assert_eq!(
            found.jobs.iter().map(names).collect::<Vec<_>>(),
            [
                (1, "account-1".to_owned(), "account-1/a".to_owned()),
                (2, "account-1".to_owned(), "account-1/a".to_owned()),
                (5, "account-5".to_owned(), "account-5/a".to_owned()),
            ]
        );
        assert_eq!(
            found.left_out,
            [
                "left out: 1 of the capture's jobs, of a repository that another account has",
                "left out: 1 of the capture's jobs, which the service refuses: repository.full_name is no name of GitHub's: \
                 letters, digits, \"-\", \"_\" and \".\" alone",
                "left out: 1 of the capture's jobs, whose labels the service ignores",
            ]
        );
        let unserved = playable(vec![jobs[3].clone()], &policy).unwrap_err();
        assert_eq!(unserved.to_string(), "the capture holds no job whose labels this service serves");
        let all = read(&built_in()).unwrap();
        assert_eq!(playable(all.clone(), &policy).unwrap(), Playable { jobs: all, left_out: vec![] });
    }

    #[test]
    fn the_built_in_capture_holds_what_the_demo_promises() {
        let jobs = read(&built_in()).unwrap();
        assert_eq!(jobs.len() as i64, BUILT_IN_JOBS);
        assert!(jobs.iter().filter(|job| job.cancelled.is_some()).count() >= 10);
        let owners: std::collections::BTreeSet<i64> = jobs.iter().map(|job| job.owner.0).collect();
        assert_eq!(owners.len(), 5);
        assert!(jobs.iter().any(|job| job.owner.2 == AccountKind::User));
        assert!(jobs.iter().all(|job| job.duration > Span::ZERO && job.queued < Span::mins(21)));
    }

    #[test]
    fn a_broken_capture_says_where() {
        for (text, message) in [
            ("", "the capture holds no queued workflow_job delivery"),
            ("{}\n", "line 1: missing field `at` at line 1 column 2"),
            (
                "\n{\"at\":\"2026-01-01T00:00:00Z\",\"headers\":{\"x-github-event\":\"workflow_job\"},\"body\":{\"action\":\"queued\"}}",
                "line 2: workflow_job.id is missing or not positive",
            ),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), message);
        }
    }
}
