//! What must come about in time, looked at every few seconds.

use std::collections::{BTreeMap, BTreeSet};

use engine::{
    facts::{Job, Status, Worker},
    ids::{JobId, Time, WorkerName},
};
use simulation::{
    judge::{is_requeued, is_waiting},
    register::Rare,
    run::{HOUR, MINUTE, SECOND},
    trace::number,
};

use super::{
    super::{
        postgres::Database,
        trouble::Upset,
        world::{Node, World, lock},
    },
    GRACE, JIT_A_MINUTE, RECOVERY, RESERVED, account_of, cap, free, is_ended, offers, pod,
    rows::{demand, kept},
};
use crate::world::{
    github::{GitHub, JobState, Runner, Scope},
    kubernetes::{Key, Phase},
};

/// Looks are half as far apart, and a call may be under way at each end.
const LOOK: i64 = 10 * SECOND;
/// A worker for every job that has room (L1).
const SERVED: i64 = 30 * SECOND + LOOK;
/// A runner that is made gets its pod where a place is free: a refused create is tried again once a minute, at least (L1).
const PLACED: i64 = 2 * MINUTE;
/// A worker without a pod is given up after ten minutes: near that nothing is begun any more.
const YOUNG: i64 = 8 * MINUTE;
/// A lost delivery is made up for (L2).
const MADE_UP: i64 = 5 * MINUTE + LOOK;
/// From so many refusals on a delivery may wait up to an hour for its next repetition.
const OFTEN: u32 = 5;
/// Deliveries that an App can have repeated in a minute: 900 points at 5 points each, and some are needed twice.
const REPEATED: i64 = 150;
/// A lost `completed` of a job on one of our runners (L2).
const ENDED: i64 = 60 * SECOND + 15 * SECOND;
/// A change that only the sweep over all jobs finds: its period, and a little.
const SWEPT: i64 = 3 * MINUTE + 30 * SECOND;
/// An App's end is proven by calls over 15 s, and all its jobs are failed (L2).
const GONE: i64 = SWEPT;
/// Runners are listed where it matters.
const LISTED: i64 = 2 * MINUTE + 15 * SECOND;
/// Orphans are gone (L4), surplus is retired (L5).
const CLEAN: i64 = 10 * MINUTE;
/// A new leader acts (L8).
const LED: i64 = 15 * SECOND + 15 * SECOND;
/// How long nothing may happen for the world to count as quiet (L6).
const QUIET: i64 = 6 * MINUTE;
/// A process exits this soon after it is told to stop (L9).
const EXIT: i64 = 30 * SECOND;

/// Everything that liveness is judged by, at one time.
struct Look<'a> {
    world: &'a World,
    now: i64,
    database: std::sync::MutexGuard<'a, Database>,
    /// Entities and the installations that a leader knows of theirs: those that rows name. One that began late has read of
    /// jobs that have not ended alone, and of workers: those may name what was there before an App was installed anew, or what
    /// a delivery named wrongly.
    named: BTreeSet<(i64, i64)>,
}

/// Notes trouble that is not the service's.
pub fn troubled(world: &World, account: i64, until: i64) {
    let mut judge = lock(&world.judge);
    let known = judge.trouble.entry(account).or_insert(until);
    *known = (*known).max(until);
}

/// Looks at everything; whether the run is over.
pub fn look(world: &World) -> bool {
    let database = lock(&world.database);
    let named = world.github.peek(|github| {
        let account = |job: &Job| github.accounts.get(&account_of(github, job.entity.0)?);
        let is_other = |job: &&Job| {
            job.installation.0 != 0 && account(job).is_some_and(|account| account.installation != job.installation.0)
        };
        let mut by_others: BTreeSet<i64> = database.rows.jobs().filter(is_other).map(|job| job.entity.0).collect();
        // A leader that began late has read of workers, too, and those may name another one.
        let is_heard = |&&(entity, id): &&(i64, i64)| {
            let account = account_of(github, entity).and_then(|account| github.accounts.get(&account));
            id != 0 && account.is_some_and(|account| account.installation != id)
        };
        by_others.extend(lock(&world.judge).heard.iter().filter(is_heard).map(|(entity, _)| *entity));
        let known = |job: &&Job| {
            let is_first = account(job).is_none_or(|account| account.removed_at == Time::ZERO);
            !job.status.is_ended() || is_first && !by_others.contains(&job.entity.0)
        };
        let mut named = lock(&world.judge).heard.clone();
        named.extend(database.rows.jobs().filter(known).map(|job| (job.entity.0, job.installation.0)));
        named
    });
    let look = Look { world, now: world.now(), database, named };
    look.at_processes();
    look.at_jit_uses();
    if look.now < world.plan.plan.quiet_at {
        return false;
    }
    look.at_leadership();
    look.at_supply();
    if look.has_recovered() {
        look.at_jobs();
        look.at_runners();
        look.at_pods();
        look.at_secrets();
        look.at_workers();
    }
    look.for_the_end()
}

/// The entity that a runner is registered for.
fn scope_of(runner: &Runner) -> i64 {
    let (Scope::Organization(entity) | Scope::Repository(entity)) = runner.scope;
    entity
}

/// How the deliveries about one job fared.
#[derive(Clone, Copy, Default)]
struct Posted {
    sent: bool,
    open: bool,
    refused: u32,
}

/// `calm`: since when nothing is late any more. What is on its way since then is no excuse.
fn posted(github: &GitHub, calm: Time) -> BTreeMap<i64, Posted> {
    let mut posted: BTreeMap<i64, Posted> = BTreeMap::new();
    for delivery in &github.log {
        if let Some(job) = delivery.job() {
            let known = posted.entry(job).or_default();
            known.sent = true;
            known.open |= !delivery.over && delivery.at < calm;
            known.refused += u32::from((400..500).contains(&delivery.status));
        }
    }
    posted
}

/// Accounts with more jobs than can be polled with what GitHub still grants within their hour, less what is kept for
/// provisioning.
fn poor(github: &GitHub, now: Time) -> BTreeSet<i64> {
    let mut open: BTreeMap<i64, i64> = BTreeMap::new();
    for job in github.jobs.values().filter(|job| !matches!(job.state, JobState::Completed(_))) {
        if let Some(repo) = github.repos.get(&job.repo) {
            *open.entry(repo.account).or_default() += 1;
        }
    }
    let granted = |account: &i64| {
        let Some(quota) = github.accounts.get(account).map(|it| &it.quota) else { return 0 };
        let limit = i64::from(quota.limit);
        let spare = (limit - i64::from(quota.used) - limit * RESERVED / 100).max(0);
        if now < quota.reset_at { limit.min(spare * HOUR / quota.reset_at.since(now).0) } else { limit }
    };
    open.into_iter().filter(|(account, jobs)| jobs * 40 > granted(account)).map(|(account, _)| account).collect()
}

impl Look<'_> {
    /// Notes that `holds`; breaks `invariant` when it has held for longer than `limit`.
    fn hold(&self, invariant: &'static str, key: i64, holds: bool, limit: i64, what: impl FnOnce() -> String) {
        let key = (invariant, key);
        let mut judge = lock(&self.world.judge);
        if !holds {
            judge.held.remove(&key);
            return;
        }
        let since = *judge.held.entry(key).or_insert(self.now);
        drop(judge);
        if self.now - since > limit {
            self.world.breaks(invariant, format!("for {} s: {}", (self.now - since) / SECOND, what()));
        }
    }

    fn calm(&self) -> Time {
        Time(self.world.plan.plan.epoch + self.world.plan.plan.quiet_at)
    }

    fn is_healthy(&self, github: &GitHub, account: i64) -> bool {
        has_app(github, account) && self.is_well(account)
    }

    /// Until when GitHub has refused, or advised to wait with, an account's calls.
    fn limited_until(&self, account: i64) -> i64 {
        let judge = lock(&self.world.judge);
        let blocked = judge.blocked.get(&account).copied().unwrap_or(0);
        blocked.max(judge.untold.get(&account).filter(|it| it.answered.is_none()).map_or(0, |it| it.until))
    }

    /// Whether no limit or outage holds for an account.
    fn is_calm(&self, account: i64) -> bool {
        let troubled = lock(&self.world.judge).trouble.get(&account).is_some_and(|until| self.now <= *until);
        self.now >= self.limited_until(account) && !troubled
    }

    /// Whether service of an account is back to normal.
    fn is_well(&self, account: i64) -> bool {
        let until = self.limited_until(account);
        self.is_calm(account) && (until == 0 || self.now >= until + RECOVERY)
    }

    /// The plan's faults have stopped long enough ago for service to be back to normal.
    fn has_recovered(&self) -> bool {
        self.now >= self.world.plan.plan.quiet_at + RECOVERY
    }

    /// Whether an entity's runners can be looked after now: they are ours to look after, and nothing is wrong with its
    /// account.
    fn is_reachable(&self, github: &GitHub, entity: i64) -> bool {
        account_of(github, entity).is_none_or(|account| self.is_healthy(github, account))
            && self.is_ours(github, entity)
    }

    /// Whether an entity's runners are ours to look after, if not now then when a limit is over: its account has the App,
    /// and a delivery told of the installation that it has now.
    fn is_ours(&self, github: &GitHub, entity: i64) -> bool {
        let Some(account) = account_of(github, entity) else { return true };
        let installation = github.accounts.get(&account).map_or(0, |it| it.installation);
        has_app(github, account) && self.named.contains(&(entity, installation))
    }

    /// Whether a leader has read of an entity with the installation that its account has now.
    fn is_heard(&self, github: &GitHub, entity: i64) -> bool {
        let account = account_of(github, entity).and_then(|account| github.accounts.get(&account));
        let installation = account.map_or(0, |account| account.installation);
        lock(&self.world.judge).heard.contains(&(entity, installation))
    }

    /// Whether a delivery has told this leader through which installation a job can be asked about and served.
    fn is_told(&self, github: &GitHub, row: &Job) -> bool {
        let named = row.installation.0 != 0 || self.is_heard(github, row.entity.0);
        named && self.is_ours(github, row.entity.0)
    }

    /// L9: who is told to stop ends in time.
    fn at_processes(&self) {
        let mut leaders = 0;
        for (node, process) in lock(&self.world.processes).iter() {
            let waits = process.alive && !process.paused && process.stopping.is_some();
            let since = process.stopping.unwrap_or(self.now);
            if waits && self.now - since > EXIT {
                self.world.breaks(
                    "L9 exit",
                    format!("{node} is up {} s after it was told to stop", (self.now - since) / SECOND),
                );
            }
            let led = process.alive && process.health.status(self.world.time()).epoch.is_some();
            leaders += usize::from(led);
        }
        if leaders > 1 {
            self.world.rare(Rare::TwoLeaders);
        }
    }

    /// S10: one configuration, one pod.
    fn at_jit_uses(&self) {
        // A Secret whose call was repeated is there for whatever pod somebody has made under its name meanwhile.
        let twice = lock(&self.world.runners).used.values().find(|uids| uids.len() > 1).cloned();
        let ours = |uid: &&String| !lock(&self.world.judge).replaced.values().any(|it| it == *uid);
        let twice = twice.filter(|uids| uids.iter().filter(ours).count() > 1);
        if let Some(uids) = twice {
            self.world.breaks("S10 one-jit-one-pod", format!("one configuration is used by {}", uids.join(" and ")));
        }
    }

    fn at_leadership(&self) {
        let (mut able, mut led) = (false, false);
        for (node, process) in lock(&self.world.processes).iter() {
            if matches!(node, Node::Scheduler(_)) && process.alive && !process.paused && process.stopping.is_none() {
                able = true;
                led |= process.health.status(self.world.time()).epoch.is_some();
            }
        }
        // A lease lasts for as much longer as the clock by which it is counted has jumped back meanwhile.
        let back = self.world.plan.trouble.iter().map(|it| match it.upset {
            Upset::Clock(Node::Postgres, by) if (it.at..it.at + 2 * LED - by).contains(&self.now) => (-by).max(0),
            _ => 0,
        });
        let limit = LED + back.sum::<i64>();
        self.hold("L8 failover", 0, able && !led, limit, || "nobody leads".to_owned());
    }

    /// By account, how long it takes until all its jobs have been asked about in turn: those whose end was lost, too.
    fn rounds(&self, github: &GitHub) -> BTreeMap<i64, i64> {
        let mut asked: BTreeMap<i64, i64> = BTreeMap::new();
        for row in self.database.rows.jobs().filter(|row| !row.status.is_ended()) {
            if let Some(account) = account_of(github, row.entity.0) {
                *asked.entry(account).or_default() += 1;
            }
        }
        let a_minute =
            |account: &i64| github.accounts.get(account).map_or(1, |it| i64::from(it.quota.limit) / 240).max(1);
        asked.into_iter().map(|(account, jobs)| (account, jobs * MINUTE / a_minute(&account))).collect()
    }

    /// The time that a job's turn takes to come; one whose end was lost keeps that of when it was.
    fn turn(&self, id: i64, lost: bool, round: i64) -> i64 {
        let mut judge = lock(&self.world.judge);
        if !lost {
            judge.turns.remove(&id);
            return round;
        }
        round.max(*judge.turns.entry(id).or_insert(round))
    }

    /// L2: rows follow GitHub.
    fn at_jobs(&self) {
        self.world.github.peek(|github| {
            let posted = posted(github, self.calm());
            // An App may repeat so many a minute: very many that were lost take their time.
            let lost = github.log.iter().filter(|it| it.over && !(200..300).contains(&it.status)).count() as i64;
            let backlog = lost * MINUTE / REPEATED;
            let poor = poor(github, self.world.time());
            let rounds = self.rounds(github);
            for (&id, job) in &github.jobs {
                let Some(account) = github.repos.get(&job.repo).map(|repo| repo.account) else { continue };
                if !self.is_healthy(github, account) {
                    continue;
                }
                let posted = posted.get(&id).copied().unwrap_or_default();
                let row = self.database.rows.job(JobId(id));
                let unknown = row.is_none() && posted.sent && !posted.open;
                // What is refused again and again is repeated ever more rarely.
                let limit = MADE_UP + backlog + if posted.refused >= OFTEN { HOUR } else { 0 };
                self.hold("L2 made-up", id, unknown, limit, || format!("job {id} is not known"));
                let Some(row) = row else { continue };
                if !self.is_told(github, row) {
                    continue;
                }
                let done = matches!(job.state, JobState::Completed(_));
                let named = row.assignment.as_ref().map(|it| WorkerName::new(it.runner.clone()));
                let ours =
                    named.is_some_and(|name| self.database.rows.worker(&name).is_some_and(|it| it.status.is_ended()));
                let poor = poor.contains(&account);
                let late = done && !row.status.is_ended();
                let round = self.turn(id, late, rounds.get(&account).copied().unwrap_or(0));
                // While its account is poor a job's time does not run; an hour must do all the same.
                let asked = ENDED + round;
                let limit = if ours || row.status == Status::Pending { asked } else { asked.max(SWEPT) };
                for (key, holds, limit) in [(id, late && !poor, limit), (-id, late, limit + HOUR)] {
                    self.hold("L2 ended", key, holds, limit, || {
                        format!("job {id} has ended and its row says {:?}", row.status)
                    });
                }
                let waits = job.state == JobState::Queued && row.status == Status::Running && !is_requeued(row);
                for (key, holds, limit) in [(id, waits && !poor, asked.max(SWEPT)), (-id, waits, asked + HOUR)] {
                    self.hold("L2 requeued", key, holds, limit, || {
                        format!("job {id} is queued again and its row runs")
                    });
                }
                if matches!(job.state, JobState::InProgress) && lock(&self.world.judge).requeued.remove(&JobId(id)) {
                    self.world.rare(Rare::RequeuedServed);
                }
            }
            for row in self.database.rows.jobs().filter(|row| !row.status.is_ended()) {
                self.at_gone_app(github, row, &poor);
                let account = account_of(github, row.entity.0);
                let able =
                    account.is_some_and(|account| self.is_reachable(github, row.entity.0) && !poor.contains(&account));
                let unknown = able && !github.jobs.contains_key(&row.id.0);
                self.hold("L2 forgotten", row.id.0, unknown, SWEPT, || {
                    format!("job {} is {:?} and GitHub does not know it", row.id, row.status)
                });
            }
        });
    }

    /// L2: jobs of an App that is not there any more are failed, all of them.
    fn at_gone_app(&self, github: &GitHub, row: &Job, poor: &BTreeSet<i64>) {
        let Some(account) = account_of(github, row.entity.0).and_then(|it| github.accounts.get(&it)) else { return };
        let named = row.installation.0;
        // Or there anew, of which nobody has told.
        let overtaken = named != 0 && !account.removed && !account.suspended && !self.is_ours(github, row.entity.0);
        let gone = named != 0 && account.removed || named != account.installation && overtaken;
        let able = self.is_well(account.id) && !poor.contains(&account.id);
        self.hold("L2 gone", row.id.0, gone && able, GONE, || {
            format!("job {} is {:?} and its App is gone", row.id, row.status)
        });
    }

    /// L1 and L7: whoever has room gets a worker, and again once a limit or an outage is over.
    fn at_supply(&self) {
        let waiting: Vec<i64> = self.world.github.peek(|github| {
            let able = |(id, job): (&i64, &crate::world::github::Job)| {
                let account = github.repos.get(&job.repo)?.account;
                (job.state == JobState::Queued && has_app(github, account) && self.is_calm(account)).then_some(*id)
            };
            github.jobs.iter().filter_map(able).collect()
        });
        let mut groups: BTreeMap<(i64, String), &Job> = BTreeMap::new();
        for id in waiting {
            // Whose installation no delivery has told of nobody can serve.
            let told = |row: &&Job| self.world.github.peek(|github| self.is_told(github, row));
            if let Some(row) = self.database.rows.job(JobId(id)).filter(|row| is_waiting(row)).filter(told) {
                groups.entry((row.entity.0, row.labels.to_string())).or_insert(row);
            }
        }
        let mut keys = BTreeSet::new();
        for ((entity, labels), row) in groups {
            let (waiting, free) = demand(self.world, &self.database, &like(row));
            let owned =
                self.database.rows.workers().filter(|it| it.owner == row.owner && !it.status.is_ended()).count();
            let room = cap(self.world, row.owner).is_none_or(|cap| owned < cap as usize);
            let place = self.world.cluster.peek(|cluster| {
                let unplaced = |it: &&Worker| {
                    !it.status.is_ended() && it.pool == row.pool && pod(cluster, it.name.as_str()).is_none()
                };
                let unplaced = self.database.rows.workers().filter(unplaced).count() as i64;
                self::free(cluster, row.pool.as_str(), &offers(cluster)) > unplaced
            });
            if !room {
                self.world.rare(Rare::AtCap);
            }
            if !place {
                self.world.rare(Rare::PoolFull);
            }
            let key = entity ^ number(&labels);
            keys.insert(key);
            let unmet = waiting > free && room && place;
            // A runner that a job took of which no row tells shows as busy in the next listing only, and that a worker which runs
            // has no runner any more in the next ones.
            let just_failed = |row: &Job| {
                let failed_at = lock(&self.world.judge).failed_at.get(&row.id).copied();
                failed_at.is_some_and(|at| self.now - at < LISTED)
            };
            let lately = |row: &Job| row.entity.0 == entity && row.status == Status::Failed && just_failed(row);
            let untold = |it: &Runner| {
                let job = it.job.filter(|_| scope_of(it) == entity);
                job.is_some_and(|job| self.database.rows.job(JobId(job)).is_none_or(|row| row.status.is_ended()))
            };
            let lost = |github: &GitHub, it: &Worker| {
                let same = it.entity.0 == entity && it.labels == row.labels && it.status == Status::Running;
                same && !github.runners.values().any(|runner| runner.name == it.name.as_str())
            };
            let (jobs, account, healthy, unseen) = self.world.github.peek(|github| {
                let account = account_of(github, entity);
                let theirs =
                    |job: &&crate::world::github::Job| github.repos.get(&job.repo).map(|it| it.account) == account;
                let healthy = account.is_some_and(|account| self.is_healthy(github, account)) && self.has_recovered();
                let unseen =
                    github.runners.values().any(untold) || self.database.rows.workers().any(|it| lost(github, it));
                (github.jobs.values().filter(theirs).count(), account, healthy, unseen)
            });
            let unheard = account.and_then(|it| lock(&self.world.judge).unheard_mints.get(&it).copied()).unwrap_or(0);
            let crowd = (jobs as i64 + 2 * unheard) / JIT_A_MINUTE * MINUTE;
            let more = crowd + if unseen || self.database.rows.jobs().any(lately) { LISTED } else { 0 };
            let what =
                || format!("[{labels}] of {entity}: {waiting} jobs wait, {free} workers are free, and there is room");
            self.hold("L1 served", key, unmet && healthy, SERVED + more, what);
            // What waits since then waits on: what began to wait later is L1's.
            let recovering = !healthy || lock(&self.world.judge).held.contains_key(&("L7 recovered", key));
            self.hold("L7 recovered", key, unmet && recovering, RECOVERY + more, what);
        }
        let is_supply = |invariant: &str| matches!(invariant, "L1 served" | "L7 recovered");
        lock(&self.world.judge).held.retain(|it, _| !is_supply(it.0) || keys.contains(&it.1));
    }

    /// L4 and L5: what GitHub has of ours.
    fn at_runners(&self) {
        let entries = self.world.github.peek(|github| {
            let entry = |(id, it): (&i64, &Runner)| {
                (*id, it.name.clone(), it.online, it.job.is_some(), self.is_reachable(github, scope_of(it)))
            };
            let ours = github.runners.iter().filter(|(_, it)| !self.world.strangers.contains(&it.name));
            ours.map(entry).collect::<Vec<_>>()
        });
        for (id, name, online, busy, healthy) in entries {
            let row = self.database.rows.worker(&WorkerName::from(name.as_str()));
            let orphan = row.is_none_or(|row| row.status.is_ended()) && !busy && healthy;
            self.hold("L4 orphan runner", id, orphan, CLEAN, || format!("runner {name} has no worker"));
            let surplus =
                row.is_some_and(|row| online && !busy && healthy && demand(self.world, &self.database, row).0 == 0);
            self.hold("L5 surplus", id, surplus, CLEAN, || format!("runner {name} is needed by nobody"));
        }
    }

    /// L3 and L4: what the cluster has of ours.
    fn at_pods(&self) {
        struct Seen {
            key: Key,
            phase: Phase,
            deleting: bool,
        }
        let pods: Vec<Seen> = self.world.cluster.peek(|cluster| {
            let seen = |(key, pod): (&Key, &crate::world::kubernetes::Pod)| Seen {
                key: key.clone(),
                phase: pod.phase,
                deleting: pod.deleting.is_some(),
            };
            let ours = cluster.pods.iter().filter(|(key, _)| !self.world.strangers.contains(&key.name));
            ours.map(seen).collect()
        });
        for Seen { key: pod, phase, deleting } in pods {
            let name = pod.name.as_str();
            let key = number(name);
            let ended = is_ended(phase);
            let row = self.database.rows.worker(&WorkerName::from(name));
            let active = row.is_some_and(|row| !row.status.is_ended());
            self.hold(
                "S12 kept too long",
                key,
                ended && !deleting,
                GRACE + 10 * MINUTE + self.world.most_skew(),
                || format!("pod {name} has ended and is still there"),
            );
            let (entry, healthy) = self.world.github.peek(|github| {
                let entry = github.runners.values().find(|it| it.name == name).map(|it| (it.online, it.job.is_some()));
                (entry, row.is_none_or(|row| self.is_reachable(github, row.entity.0)))
            });
            let (online, busy) = entry.unwrap_or_default();
            // What a row says to run on it may run there, until a poll has told otherwise (L2 judges when it must have).
            let works = self.database.rows.jobs().any(|job| {
                let on_it = job.assignment.as_ref().is_some_and(|it| *it.runner == *name);
                on_it && job.status == Status::Running && !is_requeued(job)
            });
            let unregistered = phase == Phase::Running && !online && !busy && !works && active && healthy && !deleting;
            // A runner that was there, and has left its job, is proven gone by its scope's next listings.
            let had = |job: &Job| job.assignment.as_ref().is_some_and(|it| *it.runner == *name);
            let left = self.database.rows.jobs().any(had);
            let proof = 150 * SECOND + LOOK + if left { LISTED } else { 0 };
            self.hold("L3 never-registered", key, unregistered, proof, || format!("{name} runs and is not registered"));
            let pending = phase == Phase::Pending && active && healthy && !deleting;
            self.hold("L3 stuck-pending", key, pending, 630 * SECOND + LOOK, || format!("{name} is pending"));
            let orphan = !ended && !deleting && !active && healthy && !busy;
            self.hold("L4 orphan pod", key, orphan, CLEAN, || format!("pod {name} has no active worker"));
        }
    }

    /// L4: a Secret of ours goes with its pod.
    fn at_secrets(&self) {
        let left: Vec<String> = self.world.cluster.peek(|cluster| {
            let ours =
                |key: &&Key| key.name.starts_with("rise-riscv-runner-") && !self.world.strangers.contains(&key.name);
            let alone = cluster.secrets.keys().filter(ours).filter(|key| !cluster.pods.contains_key(*key));
            alone.map(|key| key.name.clone()).collect()
        });
        // What is not held any more has gone.
        let keys: BTreeSet<i64> = left.iter().map(|name| number(name)).collect();
        lock(&self.world.judge).held.retain(|it, _| it.0 != "L4 orphan secret" || keys.contains(&it.1));
        for name in left {
            self.hold("L4 orphan secret", number(&name), true, CLEAN, || format!("Secret {name} has no pod"));
        }
    }

    /// L4: what the store has of ours.
    fn at_workers(&self) {
        for row in self.database.rows.workers().filter(|it| !it.status.is_ended()) {
            let healthy = self.world.github.peek(|github| self.is_reachable(github, row.entity.0));
            let ended = self
                .world
                .cluster
                .peek(|cluster| pod(cluster, row.name.as_str()).is_none_or(|pod| is_ended(pod.phase)));
            self.hold("L4 orphan worker", number(row.name.as_str()), ended && healthy, CLEAN + LOOK, || {
                format!("worker {} is {:?} and has no pod", row.name, row.status)
            });
            self.hold("L1 placed", number(row.name.as_str()), self.may_be_placed(row), PLACED + LOOK, || {
                format!("worker {} has no pod, and its pool has a place", row.name)
            });
        }
    }

    /// Whether nothing keeps a worker without a pod from having one: its runner is made, by who leads now and so has its JIT
    /// configuration, and its pool has a place.
    fn may_be_placed(&self, row: &Worker) -> bool {
        let skew = self.world.most_skew();
        let born = row.created_at.0 - self.world.plan.plan.epoch;
        let led_since = lock(&self.world.judge).granted_at;
        let young = born > led_since + skew && self.now - born < YOUNG - skew;
        if lock(&self.world.judge).unheard.contains(row.name.as_str()) {
            return false;
        }
        let place = self.world.cluster.peek(|cluster| {
            let pool = row.pool.as_str();
            pod(cluster, row.name.as_str()).is_none() && free(cluster, pool, &offers(cluster)) > 0
        });
        let made = |github: &GitHub| {
            let is_there = github.runners.values().any(|it| it.name == row.name.as_str());
            is_there && self.is_reachable(github, row.entity.0)
        };
        row.status == Status::Pending && young && place && self.world.github.peek(made)
    }

    /// Whether all that can end has ended, and it has been quiet since.
    fn for_the_end(&self) -> bool {
        let rows = &self.database.rows;
        let done = self.world.github.peek(|github| {
            let posted = posted(github, self.calm());
            // What a limit keeps from being done now is done when the limit is over, and is waited for.
            let free = |entity: i64| self.is_ours(github, entity);
            let jobs = github.jobs.iter().all(|(id, job)| {
                let account = github.repos.get(&job.repo).map_or(0, |repo| repo.account);
                let row = rows.job(JobId(*id));
                let given_up = row.is_some_and(|row| row.status == Status::Failed);
                !has_app(github, account)
                    // Queued while the App was not installed: nobody ever told us.
                    || !posted.contains_key(id)
                    || (matches!(job.state, JobState::Completed(_)) && row.is_none_or(|row| row.status.is_ended()))
                    || (job.state == JobState::Queued && given_up)
            });
            let workers = rows.workers().all(|it| it.status.is_ended() || !free(it.entity.0));
            let runners = github.runners.values().all(|it| match it.scope {
                _ if self.world.strangers.contains(&it.name) => true,
                Scope::Organization(id) | Scope::Repository(id) => !free(id),
            });
            let pods = self.world.cluster.peek(|cluster| {
                cluster.pods.iter().all(|(key, pod)| {
                    let row = rows.worker(&WorkerName::from(key.name.as_str()));
                    let over = is_ended(pod.phase) || self.world.strangers.contains(&key.name);
                    over || row.is_some_and(|row| !free(row.entity.0))
                })
            });
            jobs && workers && runners && pods && github.log.iter().all(|it| it.over)
        });
        let strict = rows.workers().all(|it| it.status.is_ended()) && left(self.world) == 0;
        let done = done && self.now >= self.world.plan.plan.quiet_at + RECOVERY;
        let mut judge = lock(&self.world.judge);
        if !done {
            judge.done_at = None;
            return false;
        }
        if judge.done_at.is_none() {
            judge.done_at = Some((self.now, strict));
            judge.done_since.clear();
        }
        let (done_at, strict) = judge.done_at.unwrap_or((self.now, strict));
        let (quiet_for, changed) = (self.now - done_at, judge.last_change);
        let asked = judge.done_since.first_key_value().map(|(what, times)| (*what, *times));
        drop(judge);
        let is_ours = |key: &Key| !self.world.strangers.contains(&key.name);
        let grace = self.world.plan.plan.long && self.world.cluster.peek(|cluster| cluster.pods.keys().any(is_ours));
        if quiet_for < QUIET || grace {
            return false;
        }
        let healthy =
            self.world.github.peek(|github| github.accounts.keys().all(|account| self.is_healthy(github, *account)));
        if !self.world.plan.plan.long && healthy && strict && changed > done_at + MINUTE {
            let what = format!("something changed {} s after all was done", (changed - done_at) / SECOND);
            self.world.breaks("L6 quiet", what);
        }
        if !self.world.plan.plan.long
            && healthy
            && strict
            && let Some((what, times)) = asked
        {
            self.world.breaks("L6 quiet", format!("{what}, {times} times, with nothing to do"));
        }
        kept(self.world, &self.database);
        true
    }
}

/// Whether the App is there, and may be used.
fn has_app(github: &GitHub, account: i64) -> bool {
    github.accounts.get(&account).is_some_and(|it| !it.removed && !it.suspended)
}

/// The worker that a job's group would get.
fn like(row: &Job) -> Worker {
    Worker {
        name: WorkerName::from(""),
        entity: row.entity,
        entity_name: row.entity_name.clone(),
        entity_type: row.entity_type,
        owner: row.owner,
        installation: row.installation,
        repo: None,
        labels: row.labels.clone(),
        pool: row.pool.clone(),
        image: row.image.clone(),
        node: None,
        status: Status::Pending,
        failure: None,
        created_at: row.created_at,
        running_at: None,
        completed_at: None,
    }
}

/// What a run came to, for those who compare two: a hash over every job and its row's status, and how many runners, live
/// pods and active workers are left over.
pub fn ends(world: &World) -> (u64, usize) {
    let database = lock(&world.database);
    let (mut hash, mut left) = (0xcbf2_9ce4_8422_2325_u64, 0);
    world.github.peek(|github| {
        for id in github.jobs.keys() {
            let status = database.rows.job(JobId(*id)).map_or("none", |row| row.status.as_str());
            hash = (hash ^ *id as u64 ^ number(status) as u64).wrapping_mul(0x100_0000_01b3);
        }
    });
    left += self::left(world);
    left += database.rows.workers().filter(|it| !it.status.is_ended()).count();
    (hash, left)
}

/// Runner entries and live pods of ours that there still are.
fn left(world: &World) -> usize {
    let is_ours = |name: &str| !world.strangers.contains(name);
    let runners = world.github.peek(|github| github.runners.values().filter(|it| is_ours(&it.name)).count());
    let live = |(key, pod): &(&Key, &crate::world::kubernetes::Pod)| !is_ended(pod.phase) && is_ours(&key.name);
    runners + world.cluster.peek(|cluster| cluster.pods.iter().filter(live).count())
}

/// The plan's time is over and not all is done.
pub fn end(world: &World) {
    let database = lock(&world.database);
    let jobs = world.github.peek(|github| {
        let posted = posted(github, Time::NEVER);
        let open = |job: &&crate::world::github::Job| {
            !matches!(job.state, JobState::Completed(_)) && posted.contains_key(&job.id)
        };
        let open = github.jobs.values().filter(open);
        let jobs = open.map(|job| format!("job {} {:?}", job.id, job.state));
        let runners = github.runners.values().filter(|it| !world.strangers.contains(&it.name));
        let runners = runners.map(|it| format!("runner {}", it.name));
        jobs.chain(runners).take(8).collect::<Vec<_>>()
    });
    let workers = database.rows.workers().filter(|it| !it.status.is_ended());
    let workers = workers.map(|it| format!("worker {} {:?}", it.name, it.status)).take(8);
    let open: Vec<String> = jobs.into_iter().chain(workers).collect();
    world.breaks("L1 done", format!("the plan's time is over, and there are {}", open.join(", ")));
}
