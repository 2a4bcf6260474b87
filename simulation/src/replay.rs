//! Replay of captures: what GitHub once sent, played in simulated time against a chosen capacity and policy.
//!
//! A capture is what ghfe writes under `CAPTURE` (a line a delivery: at, headers, body), or deliveries as GitHub's
//! `GET /app/hook/deliveries/{id}` returns them (one after the other, or in an array). Of each job it takes when it was
//! queued, how long it ran, and whether it was cancelled before; everything else is the simulation's.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fmt::Write as _,
    sync::Arc,
};

use engine::{
    ids::{Image, OwnerId, Pool as PoolName, Realm, Span},
    labels::{self, LabelRule, LabelSet, Matcher, Source},
    policy::{OwnerPolicy, Policy, Staging},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    plan::{Account, Deed, EPOCH, Plan, Pool, What, World},
    report::{Calls, Meter, Outcome, Served},
    run::{HOUR, MINUTE, SECOND, run_with},
};

/// What RISE runs with: the policy when none is named.
const RISE: &str = include_str!("../../adapters/src/config/rise.toml");
/// Boards of each pool when the policy does not say: there is no telling from a capture.
const BOARDS: u32 = 8;
/// A job whose end is not in the capture runs this long.
const UNKNOWN: i64 = 2 * MINUTE;

/// One job of a capture. Milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Played {
    /// GitHub's id.
    pub id: i64,
    /// The owner's id.
    pub owner: i64,
    /// Whether that is a person.
    pub user: bool,
    /// The repository, `owner/name`.
    pub repo: String,
    /// The installation's id.
    pub installation: i64,
    /// What it asks for.
    pub labels: LabelSet,
    /// When it was queued, milliseconds since 1970.
    pub queued: i64,
    /// How long it ran.
    pub runs: i64,
    /// It was cancelled this long after it was queued, before it ran.
    pub cancelled: Option<i64>,
}

/// What a capture tells of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its jobs, by when they were queued.
    pub jobs: Vec<Played>,
    /// How many of its deliveries are not played, by why not.
    pub left_out: BTreeMap<&'static str, usize>,
}

impl Told {
    fn leaves_out(&mut self, why: &'static str) {
        *self.left_out.entry(why).or_default() += 1;
    }
}

/// Reads a capture: its jobs, by when they were queued.
///
/// # Errors
/// As [`read_all`].
pub fn read(text: &str) -> Result<Vec<Played>, String> {
    read_all(text).map(|told| told.jobs)
}

/// Reads a capture: its jobs, and what there is beside them. ghfe takes in, and so captures, bodies of which it reads next to
/// nothing; what is not played is not looked into here either, as in `sim/src/capture.rs`.
///
/// # Errors
/// Which delivery cannot be understood, counted from 1, and why; or that there is no job in it.
pub fn read_all(text: &str) -> Result<Told, String> {
    let mut deliveries: Vec<&RawValue> = Vec::new();
    for value in serde_json::Deserializer::from_str(text).into_iter::<&RawValue>() {
        let next = deliveries.len() + 1;
        let value = value.map_err(|error| format!("delivery {next}: {error}"))?;
        if value.get().starts_with('[') {
            let values: Vec<&RawValue> =
                serde_json::from_str(value.get()).map_err(|error| format!("delivery {next}: {error}"))?;
            deliveries.extend(values);
        } else {
            deliveries.push(value);
        }
    }
    let mut told = Told::default();
    let mut jobs: BTreeMap<i64, Played> = BTreeMap::new();
    let mut ends = Vec::new();
    for (i, delivery) in deliveries.into_iter().enumerate() {
        let wrong = |what: &str| format!("delivery {}: {what}", i + 1);
        let (body, event, at) = parts(delivery).map_err(|what| wrong(&what))?;
        if event != "workflow_job" {
            told.leaves_out("of events other than workflow_job");
            continue;
        }
        let head: Head = serde_json::from_str(body).map_err(|error| wrong(&error.to_string()))?;
        let action = head.action.unwrap_or_default();
        if !matches!(&*action, "queued" | "completed") {
            told.leaves_out("of actions other than queued and completed");
            continue;
        }
        let body: Value = serde_json::from_str(body).map_err(|error| wrong(&error.to_string()))?;
        let id = body.pointer("/workflow_job/id").and_then(Value::as_i64).filter(|id| *id > 0);
        let id = id.ok_or_else(|| wrong("workflow_job.id is missing or not positive"))?;
        if action == "completed" {
            ends.push((id, body, at));
            continue;
        }
        match jobs.entry(id) {
            Entry::Vacant(free) => {
                free.insert(queued(id, &body, at).map_err(|what| wrong(&what))?);
            }
            Entry::Occupied(_) => told.leaves_out("of jobs that were queued before"),
        }
    }
    for (id, body, at) in ends {
        let Some(played) = jobs.get_mut(&id) else {
            told.leaves_out("of jobs of which no delivery says that they were queued");
            continue;
        };
        let job = &body["workflow_job"];
        let ran = job["runner_name"].as_str().is_some_and(|name| !name.is_empty());
        match (ran, time(&job["started_at"]), time(&job["completed_at"])) {
            (true, Some(from), Some(to)) => played.runs = (to - from).max(SECOND),
            (true, ..) => {}
            (false, _, to) => played.cancelled = Some((to.unwrap_or(at) - played.queued).max(0)),
        }
    }
    told.jobs = jobs.into_values().collect();
    told.jobs.sort_by_key(|job| (job.queued, job.id));
    if told.jobs.is_empty() {
        return Err(String::from("the capture holds no queued workflow_job delivery"));
    }
    Ok(told)
}

/// Jobs as a capture in the form of `CAPTURE`, with the fields that [`read`] reads, which reads it as the same jobs.
pub fn write(jobs: &[Played]) -> String {
    let mut lines: Vec<(i64, String)> = Vec::new();
    for job in jobs {
        let kind = if job.user { "User" } else { "Organization" };
        let labels: Vec<&str> = job.labels.iter().collect();
        let queued = json!({
            "action": "queued", "installation": { "id": job.installation },
            "repository": { "full_name": job.repo, "owner": { "id": job.owner, "type": kind } },
            "workflow_job": { "id": job.id, "labels": labels },
        });
        // That it began to run when it was queued is told of nobody: how long it ran is.
        let over = job.queued + job.cancelled.unwrap_or(job.runs);
        let completed = match job.cancelled {
            Some(_) => json!({ "id": job.id, "completed_at": stamp(over) }),
            None => json!({
                "id": job.id, "runner_name": "a", "started_at": stamp(job.queued), "completed_at": stamp(over),
            }),
        };
        let completed = json!({ "action": "completed", "workflow_job": completed });
        for (at, body) in [(job.queued, queued), (over, completed)] {
            let headers = json!({ "x-github-event": "workflow_job" });
            lines.push((at, json!({ "at": stamp(at), "headers": headers, "body": body }).to_string()));
        }
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line + "\n").collect()
}

fn stamp(time: i64) -> String {
    jiff::Timestamp::from_millisecond(time).map_or_else(|_| String::new(), |at| at.to_string())
}

/// A delivery in either form, with nothing looked into yet.
#[derive(Deserialize)]
struct Delivery<'a> {
    #[serde(borrow)]
    at: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    delivered_at: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Request<'a> {
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Headers {
    #[serde(rename = "x-github-event")]
    event: Option<String>,
}

#[derive(Deserialize)]
struct Head {
    action: Option<String>,
}

/// What a part holds, if it is of that kind.
fn part<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(raw?.get()).ok()
}

/// A delivery's body, event and time, in either form.
fn parts(delivery: &RawValue) -> Result<(&str, String, i64), String> {
    let neither = "it has neither request.payload (GitHub's log) nor at, headers and body (CAPTURE)";
    let it: Delivery<'_> = serde_json::from_str(delivery.get()).map_err(|_| neither)?;
    let at = |raw| part(raw).and_then(|text: Value| time(&text));
    if let Some(payload) = part(it.request).and_then(|request: Request<'_>| request.payload) {
        let at = at(it.delivered_at).ok_or("delivered_at is no time")?;
        return Ok((payload.get(), part(it.event).ok_or("event is missing")?, at));
    }
    let at = at(it.at).ok_or(neither)?;
    let event = part(it.headers).and_then(|headers: Headers| headers.event).unwrap_or_default();
    Ok((it.body.map_or("null", RawValue::get), event, at))
}

fn time(value: &Value) -> Option<i64> {
    Some(value.as_str()?.parse::<jiff::Timestamp>().ok()?.as_millisecond())
}

fn queued(id: i64, body: &Value, at: i64) -> Result<Played, String> {
    let missing = |what: &str| format!("{what} is missing");
    let owner = body.pointer("/repository/owner").ok_or_else(|| missing("repository.owner"))?;
    // As ghfe reads them: null is none.
    let labels = body.pointer("/workflow_job/labels").and_then(Value::as_array);
    let repo = body.pointer("/repository/full_name").and_then(Value::as_str);
    let installation = body.pointer("/installation/id").and_then(Value::as_i64);
    Ok(Played {
        id,
        owner: owner["id"].as_i64().ok_or_else(|| missing("repository.owner.id"))?,
        user: owner["type"].as_str() == Some("User"),
        repo: repo.ok_or_else(|| missing("repository.full_name"))?.to_owned(),
        installation: installation.ok_or_else(|| missing("installation.id"))?,
        labels: LabelSet::new(labels.into_iter().flatten().filter_map(Value::as_str)),
        queued: at,
        runs: UNKNOWN,
        cancelled: None,
    })
}

/// A policy file: the service's own `CONFIG`, of which this reads what decides, and `[boards]` beside it.
#[derive(Deserialize)]
struct File {
    default_max_workers: Cap,
    #[serde(default)]
    owner: Vec<Owner>,
    #[serde(default)]
    pool: Vec<NamedPool>,
    #[serde(default)]
    rule: Vec<Rule>,
    #[serde(default)]
    timeouts: BTreeMap<String, i64>,
    /// Boards of each pool.
    #[serde(default)]
    boards: BTreeMap<String, u32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Cap {
    Workers(u32),
    Word(String),
}

impl Cap {
    fn read(&self) -> Result<Option<u32>, String> {
        match self {
            Cap::Workers(workers) => Ok(Some(*workers)),
            Cap::Word(word) if word == "unlimited" => Ok(None),
            Cap::Word(word) => Err(format!("{word:?} is no cap: give a number of workers, or \"unlimited\"")),
        }
    }
}

#[derive(Deserialize)]
struct Owner {
    id: i64,
    name: String,
    max_workers: Cap,
}

#[derive(Deserialize)]
struct NamedPool {
    name: String,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(default)]
    owners: Vec<i64>,
    #[serde(default)]
    repositories: Vec<String>,
    #[serde(default)]
    exactly: Vec<String>,
    #[serde(default)]
    includes: Vec<String>,
    #[serde(default)]
    containing: Vec<String>,
    pool: String,
    image: String,
}

/// A policy and the boards it is tried on.
#[derive(Clone, Debug)]
pub struct Setting {
    /// What it is called in the report.
    pub name: String,
    /// The policy.
    pub policy: Policy,
    /// Pools and their boards.
    pub boards: BTreeMap<String, u32>,
}

impl Setting {
    /// What RISE runs with, on eight boards a pool.
    ///
    /// # Errors
    /// Never, while the built-in file is right.
    pub fn built_in() -> Result<Self, String> {
        Self::parse("built-in", RISE)
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let file: File = toml::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        let mut policy = Policy::bare(Realm::Prod);
        policy.default_max_workers = file.default_max_workers.read().map_err(|error| format!("{name}: {error}"))?;
        for owner in &file.owner {
            let max_workers =
                owner.max_workers.read().map_err(|error| format!("{name}: owner {}: {error}", owner.id))?;
            let entry = OwnerPolicy { name: owner.name.clone(), max_workers, staging: Staging::No };
            policy.owners.insert(OwnerId(owner.id), entry);
        }
        policy.label_rules = file.rule.iter().map(Rule::read).collect();
        for (key, seconds) in &file.timeouts {
            let span = match key.as_str() {
                "registration" => &mut policy.timeouts.registration,
                "pending" => &mut policy.timeouts.pending,
                "grace" => &mut policy.timeouts.grace,
                "surplus" => &mut policy.timeouts.surplus,
                other => return Err(format!("{name}: timeouts.{other} is not known")),
            };
            if *seconds <= 0 {
                return Err(format!("{name}: timeouts.{key} is {seconds}: give seconds, more than 0"));
            }
            *span = Span::secs(*seconds);
        }
        let mut boards: BTreeMap<String, u32> = file.pool.into_iter().map(|pool| (pool.name, BOARDS)).collect();
        for (pool, count) in file.boards {
            match boards.get_mut(&pool) {
                Some(known) if count > 0 => *known = count,
                Some(_) => return Err(format!("{name}: boards.{pool} is 0: a pool has boards")),
                None => return Err(format!("{name}: boards.{pool}: no such pool")),
            }
        }
        Ok(Self { name: name.to_owned(), policy, boards })
    }
}

impl Rule {
    fn read(&self) -> LabelRule {
        let source = if self.owners.is_empty() && self.repositories.is_empty() {
            Source::Everybody
        } else {
            let repositories = self.repositories.iter().map(|name| name.to_lowercase()).collect();
            Source::Only { owners: self.owners.clone(), repositories }
        };
        let matchers = (self.exactly.iter().map(|it| Matcher::Exactly(it.to_lowercase())))
            .chain(self.includes.iter().map(|it| Matcher::Includes(it.to_lowercase())))
            .chain(self.containing.iter().map(|it| Matcher::AnyContaining(it.to_lowercase())))
            .collect();
        let (pool, image) = (PoolName::from(self.pool.as_str()), Image::from(self.image.as_str()));
        LabelRule { source, matchers, pool, image }
    }
}

/// The world of a capture under a setting, and how many of its jobs no rule takes.
pub fn plan(jobs: &[Played], setting: &Setting, seed: u64) -> (Plan, usize) {
    let start = jobs.first().map_or(0, |job| job.queued);
    let pools: Vec<&String> = setting.boards.keys().collect();
    let mut accounts: Vec<Account> = Vec::new();
    let mut sets: Vec<(LabelSet, usize)> = Vec::new();
    let mut deeds = Vec::new();
    let mut ignored = 0;
    for job in jobs {
        let taken = labels::resolve(&setting.policy.label_rules, job.owner, &job.repo, &job.labels);
        let pool = taken.and_then(|(pool, _)| pools.iter().position(|name| name.as_str() == pool.as_str()));
        let Some(pool) = pool else {
            ignored += 1;
            continue;
        };
        let account = accounts.iter().position(|it| it.id == job.owner).unwrap_or_else(|| {
            accounts.push(Account {
                id: job.owner,
                user: job.user,
                installation: job.installation,
                cap: setting.policy.cap(OwnerId(job.owner)),
                limit: 5_000,
                repos: Vec::new(),
            });
            accounts.len() - 1
        });
        let repos = &mut accounts[account].repos;
        let repo = repos.iter().position(|name| *name == job.repo).unwrap_or_else(|| {
            repos.push(job.repo.clone());
            repos.len() - 1
        });
        let set = sets.iter().position(|it| *it == (job.labels.clone(), pool)).unwrap_or_else(|| {
            sets.push((job.labels.clone(), pool));
            sets.len() - 1
        });
        let at = job.queued - start;
        let what = What::Queue { job: job.id, account, repo: repo as i64 + 1, labels: set, runs: job.runs, held: 0 };
        deeds.push(Deed { at, what });
        if let Some(after) = job.cancelled {
            deeds.push(Deed { at: at + after, what: What::Cancel { job: job.id } });
        }
    }
    deeds.sort_by_key(|deed| deed.at);
    let quiet_at = deeds.last().map_or(0, |deed| deed.at) + MINUTE;
    let work: i64 = jobs.iter().map(|job| job.runs + MINUTE).sum();
    let world = World {
        schedulers: 1,
        skew: Vec::new(),
        default_cap: setting.policy.default_max_workers,
        busy_lag: 0,
        newest_first: false,
        pull: 10 * SECOND,
        account: accounts,
        pool: setting
            .boards
            .iter()
            .map(|(name, boards)| Pool { name: name.clone(), nodes: vec![1; *boards as usize] })
            .collect(),
        labels: sets.iter().map(|(set, _)| set.iter().map(str::to_owned).collect()).collect(),
        pool_of: sets.iter().map(|(_, pool)| *pool).collect(),
        strangers: None,
    };
    let plan = Plan {
        seed,
        name: format!("replay under {}", setting.name),
        epoch: if start > 0 { start } else { EPOCH },
        quiet_at,
        end: quiet_at + work + HOUR,
        long: false,
        world,
        deed: deeds,
        window: Vec::new(),
    };
    (plan, ignored)
}

/// How one pool or owner fared under one setting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fared {
    /// Jobs.
    pub jobs: usize,
    /// Seconds from queued to started: the median, the 95th and the 99th percentile, of jobs that started.
    pub queue: [i64; 3],
    /// Seconds from reservation to connection, the same.
    pub start: [i64; 3],
    /// Percent of the pool's board time, from the first job to the last job's end, in which a board ran a job; of pools: no
    /// board is an owner's.
    pub utilisation: Option<f64>,
    /// Percent of the time from the making of its pods to their ends in which they ran a job, when there were any.
    pub in_use: Option<f64>,
    /// Minutes that runners were connected and had no job.
    pub idle_minutes: f64,
    /// Calls to GitHub; of a pool without listings.
    pub calls: Calls,
}

/// What a replay comes to.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// The setting's name.
    pub name: String,
    /// By pool.
    pub pools: BTreeMap<String, Fared>,
    /// By owner's id.
    pub owners: BTreeMap<i64, Fared>,
    /// Calls to GitHub per job, all in.
    pub calls_per_job: f64,
    /// Jobs that no rule takes.
    pub ignored: usize,
    /// The run itself.
    pub outcome: Outcome,
}

/// Plays a capture under a setting.
pub fn replay(jobs: &[Played], setting: &Setting, seed: u64) -> Replayed {
    let (plan, ignored) = plan(jobs, setting, seed);
    let outcome = run_with(&Arc::new(plan), setting.policy.clone(), false);
    let begun = outcome.jobs.values().map(|job| job.queued).min().unwrap_or(0);
    let over = outcome.jobs.values().filter_map(|job| job.ended).max().unwrap_or(begun);
    let names: BTreeSet<&String> = outcome.jobs.values().map(|job| &job.pool).collect();
    let ids: BTreeSet<i64> = outcome.jobs.values().map(|job| job.owner).collect();
    let pools = names.into_iter().map(|name| {
        let mut fared = fared(&outcome, |job| job.pool == *name, |key| key.0 == *name);
        fared.calls = outcome.called.as_ref().and_then(|it| it.pools.get(name)).copied().unwrap_or_default();
        let busy: i64 = outcome.jobs.values().filter(|job| job.pool == *name).filter_map(ran).sum();
        let offered = (over - begun) * i64::from(setting.boards[name]);
        fared.utilisation = (offered > 0).then(|| 100.0 * busy as f64 / offered as f64);
        (name.clone(), fared)
    });
    let owners = ids.into_iter().map(|id| {
        let mut fared = fared(&outcome, |job| job.owner == id, |key| key.1 == id);
        fared.calls = outcome.called.as_ref().and_then(|it| it.owners.get(&id)).copied().unwrap_or_default();
        (id, fared)
    });
    Replayed {
        name: setting.name.clone(),
        pools: pools.collect(),
        owners: owners.collect(),
        calls_per_job: outcome.calls as f64 / outcome.jobs.len().max(1) as f64,
        ignored,
        outcome,
    }
}

/// The same play's trace: simulated milliseconds and what happened.
pub fn trace(jobs: &[Played], setting: &Setting, seed: u64) -> Vec<(i64, String)> {
    run_with(&Arc::new(plan(jobs, setting, seed).0), setting.policy.clone(), true).lines
}

fn ran(job: &Served) -> Option<i64> {
    Some(job.ended? - job.started?)
}

fn fared(outcome: &Outcome, job: impl Fn(&Served) -> bool, meter: impl Fn(&(String, i64)) -> bool) -> Fared {
    let jobs: Vec<&Served> = outcome.jobs.values().filter(|it| job(it)).collect();
    let meters: Vec<&Meter> = outcome.meters.iter().filter(|(key, _)| meter(key)).map(|(_, it)| it).collect();
    let waited = jobs.iter().filter_map(|job| Some(job.started? - job.queued)).collect();
    let starts = meters.iter().flat_map(|meter| &meter.starts).map(|ms| ms / SECOND).collect();
    let idle: i64 = meters.iter().map(|meter| meter.idle).sum();
    let live: i64 = meters.iter().map(|meter| meter.live).sum();
    let busy: i64 = jobs.iter().filter_map(|job| ran(job)).sum();
    Fared {
        jobs: jobs.len(),
        queue: percentiles(waited),
        start: percentiles(starts),
        utilisation: None,
        in_use: (live > 0).then(|| 100.0 * (busy * SECOND) as f64 / live as f64),
        idle_minutes: idle as f64 / MINUTE as f64,
        calls: Calls::default(),
    }
}

impl Fared {
    /// Of calls, how many there were for each job.
    fn per_job(&self, calls: u64) -> f64 {
        calls as f64 / self.jobs.max(1) as f64
    }
}

/// The median, the 95th and the 99th percentile, by nearest rank; zeros of nothing.
fn percentiles(mut values: Vec<i64>) -> [i64; 3] {
    values.sort_unstable();
    [50, 95, 99].map(|percent| {
        let rank = (values.len() * percent).div_ceil(100).max(1);
        values.get(rank - 1).copied().unwrap_or(0)
    })
}

/// Settings side by side, for people.
pub fn table(all: &[Replayed]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{:<32} {:<20} {:>6} {:>21} {:>19} {:>6} {:>7} {:>9} {:>10}",
        "pool or owner",
        "policy",
        "jobs",
        "queue p50/p95/p99 s",
        "start p50/p95/p99 s",
        "busy%",
        "in use%",
        "idle min",
        "calls/job"
    );
    let mut line = |what: &str, name: &str, it: &Fared, calls: u64| {
        let three = |[p50, p95, p99]: [i64; 3]| format!("{p50}/{p95}/{p99}");
        let percent = |percent: Option<f64>| percent.map_or(String::new(), |percent| format!("{percent:.1}"));
        let _ = writeln!(
            text,
            "{what:<32} {name:<20} {:>6} {:>21} {:>19} {:>6} {:>7} {:>9.1} {:>10.2}",
            it.jobs,
            three(it.queue),
            three(it.start),
            percent(it.utilisation),
            percent(it.in_use),
            it.idle_minutes,
            it.per_job(calls)
        );
    };
    let pools: BTreeSet<&String> = all.iter().flat_map(|it| it.pools.keys()).collect();
    for pool in pools {
        for it in all {
            if let Some(fared) = it.pools.get(pool) {
                line(pool, &it.name, fared, fared.calls.single());
            }
        }
    }
    let owners: BTreeSet<&i64> = all.iter().flat_map(|it| it.owners.keys()).collect();
    for owner in owners {
        for it in all {
            if let Some(fared) = it.owners.get(owner) {
                line(&format!("owner {owner}"), &it.name, fared, fared.calls.all());
            }
        }
    }
    for it in all {
        let _ = writeln!(
            text,
            "{}: {:.2} calls to GitHub per job, {} jobs that no rule takes",
            it.name, it.calls_per_job, it.ignored
        );
    }
    text.push_str(
        "busy%: of all boards' time. in use%: of the time that pods were there. idle min: runners connected without a job.\n\
         calls/job of a pool: without listings of runners, which are an owner's and no pool's.\n",
    );
    text
}

/// The same as JSON.
pub fn as_json(all: &[Replayed]) -> Value {
    let fared = |it: &Fared| {
        json!({
            "jobs": it.jobs, "queue_seconds": { "p50": it.queue[0], "p95": it.queue[1], "p99": it.queue[2] },
            "start_seconds": { "p50": it.start[0], "p95": it.start[1], "p99": it.start[2] },
            "utilisation_percent": it.utilisation, "in_use_percent": it.in_use,
            "over_provisioned_minutes": it.idle_minutes,
            "calls": { "polls": it.calls.polls, "jit": it.calls.mints, "deletions": it.calls.deletions },
            "calls_per_job_without_listings": it.per_job(it.calls.single()),
        })
    };
    let owner = |it: &Fared| {
        let mut value = fared(it);
        value["calls"]["listings"] = it.calls.listings.into();
        value["calls_per_job"] = it.per_job(it.calls.all()).into();
        value
    };
    let one = |it: &Replayed| {
        let pools: BTreeMap<_, _> = it.pools.iter().map(|(name, it)| (name.clone(), fared(it))).collect();
        let owners: BTreeMap<_, _> = it.owners.iter().map(|(id, it)| (id.to_string(), owner(it))).collect();
        json!({
            "policy": it.name, "pools": pools, "owners": owners, "calls_per_job": it.calls_per_job,
            "ignored": it.ignored, "trace_hash": format!("{:016x}", it.outcome.hash),
            "broken": it.outcome.broken.as_ref().map(|it| it.invariant),
        })
    };
    Value::Array(all.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(action: &str, id: i64, at: &str, more: Value) -> Value {
        let mut job = json!({ "id": id, "labels": ["ubuntu-24.04-riscv"] });
        if let (Some(job), Value::Object(more)) = (job.as_object_mut(), more) {
            job.extend(more);
        }
        json!({
            "at": at, "headers": { "x-github-event": "workflow_job" },
            "body": {
                "action": action, "workflow_job": job, "installation": { "id": 7 },
                "repository": { "full_name": "acme/app", "owner": { "id": 5, "type": "Organization" } },
            },
        })
    }

    #[test]
    fn both_forms_say_the_same() {
        let queued = delivery("queued", 1, "2026-05-13T15:00:00Z", json!({}));
        let ended =
            json!({ "runner_name": "r", "started_at": "2026-05-13T15:01:00Z", "completed_at": "2026-05-13T15:04:00Z" });
        let completed = delivery("completed", 1, "2026-05-13T15:04:01Z", ended);
        let never = delivery("completed", 2, "2026-05-13T15:00:40Z", json!({ "completed_at": "2026-05-13T15:00:30Z" }));
        let other = delivery("queued", 2, "2026-05-13T15:00:10Z", json!({}));
        let all = [queued, other, never, completed];
        let capture: String = all.iter().map(|it| format!("{it}\n")).collect();
        let log = |it: &Value| json!({ "delivered_at": it["at"], "event": "workflow_job", "request": { "payload": it["body"] } });
        let log = Value::Array(all.iter().map(log).collect()).to_string();
        let jobs = read(&capture).unwrap();
        assert_eq!(jobs, read(&log).unwrap());
        assert_eq!(
            jobs.iter().map(|job| (job.id, job.runs, job.cancelled)).collect::<Vec<_>>(),
            [(1, 180_000, None), (2, UNKNOWN, Some(20_000)),]
        );
    }

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let jobs = read(crate::capture::CAPTURE).unwrap();
        assert_eq!(read(&write(&jobs)).unwrap(), jobs);
        assert!(jobs.iter().any(|job| job.cancelled.is_some()) && jobs.iter().any(|job| job.runs % MINUTE != 0));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        assert_eq!(read("").unwrap_err(), "the capture holds no queued workflow_job delivery");
        assert!(read("{\"at\": 1}").unwrap_err().starts_with("delivery 1: it has neither"));
        assert!(read("{}\nnonsense").unwrap_err().starts_with("delivery 2:"));
        let mut job = delivery("queued", 1, "2026-05-13T15:00:00Z", json!({}));
        job["body"]["installation"] = Value::Null;
        assert_eq!(read(&job.to_string()).unwrap_err(), "delivery 1: installation.id is missing");
        for id in [Value::Null, json!(0)] {
            let mut job = delivery("completed", 1, "2026-05-13T15:00:00Z", json!({}));
            job["body"]["workflow_job"]["id"] = id;
            let what = "delivery 1: workflow_job.id is missing or not positive";
            assert_eq!(read(&job.to_string()).unwrap_err(), what);
        }
    }

    /// ghfe answers 200 to all of these, and captures them.
    #[test]
    fn what_is_not_played_may_be_anything_and_is_counted() {
        let at = "2026-05-13T15:00:00Z";
        let line = |event: &str, body: &str| {
            format!(r#"{{"at":"{at}","headers":{{"x-github-event":"{event}"}},"body":{body}}}"#) + "\n"
        };
        let deep = format!(r#"{{"action":"waiting","x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        let unlabelled = delivery("queued", 2, at, json!({ "labels": null }));
        let queued = delivery("queued", 1, at, json!({}));
        let text = [
            line("ping", r#"{"zen":1e999}"#),
            line("push", r#"{"ref":"\ud800"}"#),
            line("workflow_job", &deep),
            line("workflow_job", r#"{"action":"waiting","workflow_job":-1}"#),
            line("workflow_job", r#"{"action":"waiting"}"#),
            line("workflow_job", "{}"),
            format!("{unlabelled}\n{queued}\n{queued}\n"),
            delivery("completed", 3, at, json!({})).to_string(),
        ];
        let told = read_all(&text.concat()).unwrap();
        assert_eq!(
            told.jobs.iter().map(|job| (job.id, job.labels.iter().count())).collect::<Vec<_>>(),
            [(1, 1), (2, 0)]
        );
        let left_out: Vec<_> = told.left_out.into_iter().collect();
        let expected = [
            ("of actions other than queued and completed", 4),
            ("of events other than workflow_job", 2),
            ("of jobs of which no delivery says that they were queued", 1),
            ("of jobs that were queued before", 1),
        ];
        assert_eq!(left_out, expected);
        assert_eq!(replay(&told.jobs, &Setting::built_in().unwrap(), 1).ignored, 1);
    }

    #[test]
    fn a_policy_file_is_the_services_own() {
        let setting = Setting::built_in().unwrap();
        assert_eq!(setting.boards["scw-em-rv1"], BOARDS);
        let more = format!("{RISE}\n[boards]\nscw-em-rv1 = 3\n");
        assert_eq!(Setting::parse("more", &more).unwrap().boards["scw-em-rv1"], 3);
        let wrong = format!("{RISE}\n[boards]\nnowhere = 3\n");
        assert_eq!(Setting::parse("wrong", &wrong).unwrap_err(), "wrong: boards.nowhere: no such pool");
    }

    #[test]
    fn fewer_boards_mean_longer_waits_and_busier_boards() {
        let text: String =
            (1..=12).map(|i| format!("{}\n", delivery("queued", i, "2026-05-13T15:00:00Z", json!({})))).collect();
        let jobs = read(&text).unwrap();
        let mut few = Setting::built_in().unwrap();
        few.boards.insert(String::from("scw-em-rv1"), 2);
        let (many, few) = (replay(&jobs, &Setting::built_in().unwrap(), 1), replay(&jobs, &few, 1));
        assert_eq!((&many.outcome.broken, &few.outcome.broken), (&None, &None));
        let (many, few) = (&many.pools["scw-em-rv1"], &few.pools["scw-em-rv1"]);
        assert!(few.queue[2] > many.queue[2] && few.utilisation > many.utilisation, "{few:?} {many:?}");
    }

    #[test]
    fn calls_are_told_by_whom_they_are_for() {
        let jobs = read(crate::capture::CAPTURE).unwrap();
        let played = replay(&jobs, &Setting::built_in().unwrap(), 1);
        let owners: Vec<Calls> = played.owners.values().map(|it| it.calls).collect();
        let sum = |of: fn(&Calls) -> u64| -> (u64, u64) {
            let pools = played.pools.values().map(|it| of(&it.calls)).sum();
            (owners.iter().map(of).sum(), pools)
        };
        assert_eq!(sum(Calls::all).0, played.outcome.calls);
        assert_eq!(sum(|calls| calls.listings).1, 0);
        let (by_owners, by_pools) = sum(Calls::single);
        assert_eq!(by_owners, by_pools);
        assert!(sum(|calls| calls.mints).1 >= jobs.iter().filter(|job| job.cancelled.is_none()).count() as u64);
        assert!(owners.iter().all(|calls| calls.polls > 0 && calls.mints > 0 && calls.listings > 0), "{owners:?}");
        let told = as_json(std::slice::from_ref(&played));
        let (pool, owner) = (&told[0]["pools"]["scw-em-rv1"], &told[0]["owners"]["9001"]);
        assert!(pool.get("calls_per_job").is_none() && pool["calls_per_job_without_listings"].as_f64() > Some(0.0));
        assert!(owner["calls_per_job"].as_f64() > owner["calls_per_job_without_listings"].as_f64());
        for it in [pool, owner] {
            assert!((1.0..=100.0).contains(&it["in_use_percent"].as_f64().unwrap()), "{it}");
        }
        let table = table(&[played]);
        assert!(table.starts_with("pool or owner ") && table.contains("start p50/p95/p99 s"), "{table}");
    }
}
