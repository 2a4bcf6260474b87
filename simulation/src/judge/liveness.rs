//! What must come about in time, looked at from when the plan's faults have stopped.

use engine::{
    decision::Action,
    facts::{Job, PodPhase, Status, Worker},
    ids::{EntityId, JobId, WorkerName},
};

use crate::{
    cluster::{Pod, Whose},
    github::{Entry, JobState},
    plan::What,
    register::Rare,
    run::{HOUR, MINUTE, SECOND, Sim},
    scheduler::DRIFT_STEP,
};

use super::{GRACE, JIT_A_MINUTE, LISTED, RECOVERY, RESERVED, is_requeued, is_waiting, number};

/// A worker for every job that has room (L1).
const SERVED: i64 = 30 * SECOND;
/// A runner that is made gets its pod where a place is free: a refused create is tried again once a minute, at least (L1).
const PLACED: i64 = 2 * MINUTE;
/// A worker without a pod is given up after ten minutes: near that nothing is begun any more.
pub(super) const YOUNG: i64 = 8 * MINUTE;
/// A lost delivery is made up for (L2).
const MADE_UP: i64 = 5 * MINUTE;
/// From so many refusals on a delivery may wait up to an hour for its next repetition.
const OFTEN: u32 = 5;
/// A lost `completed` of a job on one of our runners (L2).
const ENDED: i64 = 60 * SECOND;
/// A change that only the sweep over all jobs finds: its period, and a little.
const SWEPT: i64 = 3 * MINUTE + 30 * SECOND;
/// An App's end is proven by calls over 15 s, and all its jobs are failed (L2).
const GONE: i64 = SWEPT;
/// Orphans are gone (L4), surplus is retired (L5).
const CLEAN: i64 = 10 * MINUTE;
/// A new leader acts (L8).
const LED: i64 = 15 * SECOND + 15 * SECOND;
/// A job that has ended is forgotten (S15): its change is read, at the latest, with the next tick or by the next leader.
const FORGOTTEN: i64 = MINUTE;
/// How long nothing may happen for the world to count as quiet (L6).
const QUIET: i64 = 6 * MINUTE;

/// Which accounts and entities can be looked after.
#[derive(Debug)]
struct Sight {
    /// By account: its App is there, and no limit or outage holds.
    calm: Vec<bool>,
    /// By account: that has been so for long enough (L7).
    healthy: Vec<bool>,
    /// By account: the App is not there, and time alone does not bring it back.
    gone: Vec<bool>,
    /// Entities of which a delivery has told with the installation that they have now.
    told: Vec<i64>,
    /// When time alone makes one healthy.
    changes_at: i64,
}

/// What a group with waiting jobs has and may have.
#[derive(Debug)]
struct Supply {
    key: i64,
    entity: i64,
    labels: String,
    waiting: i64,
    free: i64,
    /// Under its owner's cap.
    room: bool,
    /// In its pool.
    place: bool,
    /// How long it takes to serve all jobs that its account has ever had, with the calls that were lost at it.
    crowd: i64,
    /// A runner of the entity may have a job of which no row tells, or a worker that runs has no runner any more: that shows in
    /// its next listings only.
    unseen: bool,
    /// Its account has been well for some time.
    healthy: bool,
}

/// What is seen of one pod, by the invariants that it may break.
#[derive(Debug)]
struct PodLook {
    name: WorkerName,
    key: i64,
    unregistered: bool,
    /// Its runner was there: that it is no more shows in its scope's next listing.
    lost: bool,
    pending: bool,
    orphan: bool,
    old: bool,
}

impl Sim {
    /// Notes that `holds`; breaks `invariant` when it has held for longer than `limit`.
    fn hold(&mut self, invariant: &'static str, key: i64, holds: bool, limit: i64, what: impl FnOnce(&Self) -> String) {
        let key = (key, invariant);
        if !holds {
            self.judge.held.remove(&key);
            return;
        }
        let since = *self.judge.held.entry(key).or_insert(self.now);
        self.judge.stale_at = self.judge.stale_at.min(since + limit + 1);
        if self.now - since > limit {
            let what = format!("for {} s: {}", (self.now - since) / SECOND, what(self));
            self.breaks(invariant, what);
        }
    }

    /// When no limit or outage holds for an account any more.
    fn calm_at(&self, account: usize) -> i64 {
        // The hour ends when the clock of whoever waits for it says so: late by what that has lost since.
        let troubled_until = self.judge.trouble.get(&account).map_or(0, |at| at + HOUR + self.most_lost(*at));
        let misled_until = self.judge.misled.get(&account).copied().unwrap_or(0);
        self.limited_until(account).max(troubled_until).max(misled_until)
    }

    /// What a scheduler's clock may have lost since then, at the most.
    fn most_lost(&self, since: i64) -> i64 {
        let lost = |s: usize| -> i64 {
            let deeds = self.plan.deed.iter().map(|deed| match deed.what {
                What::Clock { scheduler, by } if scheduler == s && deed.at >= since => by,
                What::Drift { scheduler, by, lasts } if scheduler == s => by * (lasts / DRIFT_STEP + 1),
                _ => 0,
            });
            deeds.map(|by| (-by).max(0)).sum()
        };
        (0..self.schedulers.len()).map(lost).max().unwrap_or(0)
    }

    /// Until when GitHub has refused, or advised to wait with, an account's calls. A time that it named is one by its clock,
    /// and a leader whose own is behind waits for it by that.
    fn limited_until(&self, account: usize) -> i64 {
        let told = self.github.accounts[account].blocked;
        let told = if told > 0 { told + self.most_skew() } else { 0 };
        told.max(self.judge.advised_until(account))
    }

    /// When service of an account is back to normal.
    fn well_at(&self, account: usize) -> i64 {
        let until = self.limited_until(account);
        self.calm_at(account).max(if until > 0 { until + RECOVERY } else { 0 })
    }

    /// Whether time has made all well that it can for an account.
    fn is_healthy(&self, account: usize) -> bool {
        let state = &self.github.accounts[account];
        !state.removed && !state.suspended && self.now >= self.well_at(account)
    }

    /// Which accounts and entities can be looked after now.
    fn sight(&self) -> Sight {
        let (told, accounts) = (self.told(), 0..self.github.accounts.len());
        let gone: Vec<bool> = self.github.accounts.iter().map(|it| it.removed || it.suspended).collect();
        let recovered = self.has_recovered();
        let calm = accounts.clone().map(|it| !gone[it] && self.now >= self.calm_at(it)).collect();
        let healthy = accounts.clone().map(|it| recovered && self.is_healthy(it)).collect();
        let times = accounts.flat_map(|it| [self.calm_at(it), self.well_at(it)]);
        let times = times.chain([self.plan.quiet_at + RECOVERY]).filter(|at| self.now < *at);
        let changes_at = times.min().unwrap_or(i64::MAX);
        Sight { calm, healthy, gone, told, changes_at }
    }

    /// The plan's faults have stopped long enough ago for service to be back to normal.
    fn has_recovered(&self) -> bool {
        self.now >= self.plan.quiet_at + RECOVERY
    }

    /// Entities of which a delivery has told with the installation that they have now.
    pub(super) fn told(&self) -> Vec<i64> {
        let [mut told, mut by_the_past, mut by_others] = [const { Vec::<i64>::new() }; 3];
        for row in self.store.rows.jobs().filter(|row| row.installation.0 != 0) {
            let entity = row.entity.0;
            let Some(account) = self.account_of(entity) else { continue };
            let state = &self.github.accounts[account];
            let heard = self.is_heard(row.entity, account);
            let is_it = row.installation.0 == state.installation;
            let entities = match (heard || is_it && !row.status.is_ended(), is_it) {
                (true, _) => &mut told,
                (false, true) if state.removed_at == 0 => &mut by_the_past,
                (false, true) => continue,
                (false, false) => &mut by_others,
            };
            if !entities.contains(&entity) {
                entities.push(entity);
            }
        }
        // A leader that began late has read of jobs that have not ended alone, and of workers: those may name what was there
        // before the App was installed anew, or what a delivery named wrongly.
        let is_other = |entity: EntityId, installation: i64| {
            let account = self.account_of(entity.0);
            account.is_some_and(|account| self.github.accounts[account].installation != installation)
        };
        let heard = self.judge.heard.iter().filter(|(entity, id)| *id != 0 && is_other(*entity, *id));
        by_others.extend(heard.map(|(entity, _)| entity.0));
        told.extend(by_the_past.into_iter().filter(|entity| !by_others.contains(entity)));
        told
    }

    /// Whether this leader has read of an entity with the installation that its account has now.
    fn is_heard(&self, entity: EntityId, account: usize) -> bool {
        self.judge.heard.contains(&(entity, self.github.accounts[account].installation))
    }

    /// Whether an entity's runners can be looked after: nothing is wrong with its account, and a delivery told of the
    /// installation that it has now.
    fn is_reachable(&self, sight: &Sight, entity: i64) -> bool {
        self.account_of(entity).is_none_or(|account| sight.healthy[account] && sight.told.contains(&entity))
    }

    /// Looks at everything; whether the run is over.
    pub(crate) fn look(&mut self) -> bool {
        self.look_at_leadership();
        if self.now < self.plan.quiet_at {
            return false;
        }
        // Where nothing has happened and no time is up there is nothing new to see.
        if self.judge.dirty || self.now >= self.judge.stale_at {
            let sight = self.sight();
            self.judge.dirty = false;
            self.judge.stale_at = sight.changes_at;
            self.look_at_supply(&sight);
            if self.has_recovered() {
                self.look_at_jobs(&sight);
                self.look_at_gone_apps(&sight);
                self.look_at_runners(&sight);
                self.look_at_pods(&sight);
                self.look_at_workers(&sight);
                self.look_at_memory();
                self.judge.settled = self.is_settled(&sight);
            }
        }
        self.has_recovered() && self.look_for_the_end()
    }

    fn look_at_leadership(&mut self) {
        let able = self.schedulers.iter().any(|it| it.alive && !it.paused);
        let led = self.schedulers.iter().any(|it| it.is_leading() && !it.paused);
        self.hold("L8 failover", 0, able && !led, LED, |_| String::from("nobody leads"));
    }

    /// L2: rows follow GitHub.
    fn look_at_jobs(&mut self, sight: &Sight) {
        // What has ended on both sides says nothing new, and is most of what there is.
        let open = |(id, job): &(&i64, &crate::github::Job)| {
            sight.healthy[job.account]
                && (job.state != JobState::Done
                    || self.store.rows.job(JobId(**id)).is_none_or(|row| !row.status.is_ended()))
        };
        let open: Vec<i64> = self.github.jobs.iter().filter(open).map(|(id, _)| *id).collect();
        let mut lost = vec![0; sight.healthy.len()];
        for job in open.iter().filter_map(|id| self.github.jobs.get(id)).filter(|job| job.state == JobState::Done) {
            lost[job.account] += 1;
        }
        for id in open {
            let Some(job) = self.github.jobs.get(&id) else { continue };
            let (state, account) = (job.state, job.account);
            let row = self.store.rows.job(JobId(id));
            let unknown = row.is_none() && job.posted.sent > 0 && job.posted.open == 0;
            // What is refused again and again is repeated ever more rarely.
            let limit = MADE_UP + if job.posted.refused >= OFTEN { HOUR } else { 0 };
            self.hold("L2 made-up", id, unknown, limit, |_| format!("job {id} is not known"));
            let Some(row) = self.store.rows.job(JobId(id)) else { continue };
            // Whose installation no delivery has told this leader of nobody can ask about.
            let nameless = row.installation.0 == 0 && !self.is_heard(row.entity, account);
            if nameless || !self.is_reachable(sight, row.entity.0) {
                continue;
            }
            let status = row.status;
            let late = state == JobState::Done && !status.is_ended();
            let named = row.assignment.as_ref().map(|it| WorkerName::new(it.runner.clone()));
            let ours = named.is_some_and(|name| self.store.rows.worker(&name).is_some_and(|it| it.status.is_ended()));
            let waits = state == JobState::Queued && status == Status::Running && !is_requeued(row);
            let poor = self.is_poor(account);
            // Polls have a quarter of the hour's calls, evenly: when more ends were lost than a minute has polls for, a
            // job waits for the others' turns.
            let (a_minute, others) = (i64::from(self.github.accounts[account].limit) / 240, lost[account]);
            let turns = (others - a_minute).max(0) * MINUTE / a_minute.max(1);
            // All that wait are asked about in turn.
            let round = self.jobs_of(account) * MINUTE / a_minute.max(1);
            // Those that were before it keep the turns that they had, though they are made up for by now.
            let turns = if late {
                let kept = self.judge.turns.entry(id).or_insert(0);
                *kept = (*kept).max(turns + round);
                *kept
            } else {
                round
            };
            // While its account is poor a job's time does not run; an hour must do all the same.
            let asked = ENDED + turns;
            let limit = if ours || status == Status::Pending { asked } else { asked.max(SWEPT) };
            for (key, holds, limit) in [(id, late && !poor, limit), (-id, late, limit + HOUR)] {
                self.hold("L2 ended", key, holds, limit, |_| format!("job {id} has ended and its row says {status:?}"));
            }
            for (key, holds, limit) in [(id, waits && !poor, asked.max(SWEPT)), (-id, waits, asked + HOUR)] {
                self.hold("L2 requeued", key, holds, limit, |_| format!("job {id} is queued again and its row runs"));
            }
        }
    }

    /// L2: jobs of an App that is not there any more are failed, all of them.
    fn look_at_gone_apps(&mut self, sight: &Sight) {
        if self.judge.misleading.is_empty() && self.github.accounts.iter().all(|it| it.removed_at == 0) {
            return;
        }
        let active = self.store.rows.jobs().filter(|row| !row.status.is_ended());
        let active: Vec<(JobId, i64, i64)> = active.map(|row| (row.id, row.entity.0, row.installation.0)).collect();
        for (id, entity, installation) in active {
            let Some(account) = self.account_of(entity) else { continue };
            let state = &self.github.accounts[account];
            // Or there anew, of which nobody has told.
            let overtaken = installation != 0 && !sight.gone[account] && !sight.told.contains(&entity);
            let gone = installation != 0 && state.removed || installation != state.installation && overtaken;
            let able = self.now >= self.well_at(account) && !self.is_poor(account);
            self.hold("L2 gone", id.0, gone && able, GONE, |_| format!("job {id} is active and its App is gone"));
        }
    }

    /// Whether an account has more jobs than can be polled with what GitHub still grants within its hour, less what is
    /// kept for provisioning.
    fn is_poor(&self, account: usize) -> bool {
        let it = &self.github.accounts[account];
        let limit = i64::from(it.limit);
        let spare = (limit - i64::from(it.used) - limit * RESERVED / 100).max(0);
        let pace = if self.now < it.reset_at { spare * HOUR / (it.reset_at - self.now) } else { limit };
        self.jobs_of(account) * 40 > limit.min(pace)
    }

    fn jobs_of(&self, account: usize) -> i64 {
        self.github.jobs.values().filter(|job| job.account == account && job.state != JobState::Done).count() as i64
    }

    /// L1 and L7: whoever has room gets a worker, and again once a limit or an outage is over.
    fn look_at_supply(&mut self, sight: &Sight) {
        // Each group with a waiting job, by its first one.
        let mut groups: Vec<&Job> = Vec::new();
        for (id, job) in &self.github.jobs {
            if job.state != JobState::Queued || !sight.calm[job.account] {
                continue;
            }
            // Whose installation no delivery has told of nobody can serve.
            let named = |row: &Job| row.installation.0 != 0 || self.is_heard(row.entity, job.account);
            let served = |row: &&Job| is_waiting(row) && named(row) && sight.told.contains(&row.entity.0);
            if let Some(row) = self.store.rows.job(JobId(*id)).filter(served)
                && !groups.iter().any(|it| it.entity == row.entity && it.labels == row.labels)
            {
                groups.push(row);
            }
        }
        let groups: Vec<Supply> = groups.into_iter().map(|row| self.supply(row, sight)).collect();
        for it in &groups {
            if !it.room {
                self.rare(Rare::AtCap);
            }
            if !it.place {
                self.rare(Rare::PoolFull);
            }
            let unmet = it.waiting > it.free && it.room && it.place;
            let more = it.crowd + if it.unseen { LISTED } else { 0 };
            let what = |_: &Self| {
                let Supply { entity, labels, waiting, free, .. } = it;
                format!("[{labels}] of {entity}: {waiting} jobs wait, {free} workers are free, and there is room")
            };
            self.hold("L1 served", it.key, unmet && it.healthy, SERVED + more, what);
            // What waits since then waits on: what began to wait later is L1's.
            let recovering = !it.healthy || self.judge.held.contains_key(&(it.key, "L7 recovered"));
            self.hold("L7 recovered", it.key, unmet && recovering, RECOVERY + more, what);
        }
        let is_supply = |invariant: &str| matches!(invariant, "L1 served" | "L7 recovered");
        self.judge.held.retain(|key, _| !is_supply(key.1) || groups.iter().any(|it| it.key == key.0));
    }

    /// What the group of a waiting job has and may have.
    fn supply(&self, row: &Job, sight: &Sight) -> Supply {
        let labels = row.labels.to_string();
        let (waiting, free) = self.demand(row.entity, &row.labels, 0);
        let pool = self.cluster.pools.iter().position(|pool| *pool == row.pool);
        let place = pool.is_some_and(|pool| {
            let unplaced = |it: &&Worker| {
                !it.status.is_ended() && it.pool == row.pool && !self.cluster.pods.contains_key(&it.name)
            };
            let unplaced = self.store.rows.workers().filter(unplaced).count() as i64;
            self.cluster.free_now(pool) > unplaced
        });
        let just_failed = |it: &Job| self.judge.failed_at.get(&it.id).is_some_and(|at| self.now - at < LISTED);
        let lately = |it: &Job| it.entity == row.entity && it.status == Status::Failed && just_failed(it);
        let untold = |(_, it): (&i64, &Entry)| {
            let job = it.job.filter(|_| it.entity == row.entity.0);
            job.is_some_and(|job| self.store.rows.job(JobId(job)).is_none_or(|row| row.status.is_ended()))
        };
        let lost = |it: &Worker| {
            let same = it.entity == row.entity && it.labels == row.labels;
            same && it.status == Status::Running && self.github.runner_of(&it.name).is_none()
        };
        let account = self.account_of(row.entity.0);
        let jobs = self.github.jobs.values().filter(|job| Some(job.account) == account).count() as i64;
        let unheard = account.and_then(|it| self.judge.unheard_mints.get(&it)).copied().unwrap_or(0);
        Supply {
            key: row.entity.0 ^ crate::trace::number(&labels),
            entity: row.entity.0,
            labels,
            waiting,
            free,
            room: self.owner_has_room(row.owner),
            place,
            crowd: (jobs + 2 * unheard) / JIT_A_MINUTE * MINUTE,
            unseen: self.store.rows.jobs().any(lately)
                || self.github.ours().any(untold)
                || self.store.rows.workers().any(lost),
            healthy: account.is_some_and(|account| sight.healthy[account]),
        }
    }

    /// L4 and L5: what GitHub has of ours.
    fn look_at_runners(&mut self, sight: &Sight) {
        let judged = |(&id, entry): (&i64, &Entry)| {
            let healthy = self.is_reachable(sight, entry.entity) && entry.job.is_none();
            let row = self.store.rows.worker(&entry.name);
            let orphan = healthy && row.is_none_or(|row| row.status.is_ended());
            let idle = healthy && entry.idle_since.is_some();
            let surplus = idle && row.is_some_and(|row| self.waiting_jobs(row.entity, &row.labels) == 0);
            (id, orphan, surplus)
        };
        let judged: Vec<_> = self.github.ours().map(judged).collect();
        for (id, orphan, surplus) in judged {
            let name = |sim: &Self| sim.github.runners.get(&id).map_or(String::new(), |it| it.name.to_string());
            self.hold("L4 orphan runner", id, orphan, CLEAN, |sim| format!("runner {} has no worker", name(sim)));
            self.hold("L5 surplus", id, surplus, CLEAN, |sim| format!("runner {} is needed by nobody", name(sim)));
        }
    }

    pub(super) fn account_of(&self, entity: i64) -> Option<usize> {
        self.plan.world.account.iter().position(|it| if it.user { entity / 100 == it.id } else { entity == it.id })
    }

    /// L3 and L4: what the cluster has of ours.
    fn look_at_pods(&mut self, sight: &Sight) {
        // What a row says to run on it may run there, until a poll has told otherwise (L2 judges when it must have).
        let works = |name: &WorkerName| {
            let on_it = |job: &Job| job.assignment.as_ref().is_some_and(|it| it.runner == *name.text());
            self.store.rows.jobs().any(|job| job.status == Status::Running && !is_requeued(job) && on_it(job))
        };
        let judged = |(name, pod): (&WorkerName, &Pod)| {
            let row = self.store.rows.worker(name);
            let active = row.is_some_and(|row| !row.status.is_ended());
            let (ended, deleting) = (pod.phase.is_ended(), pod.deleting);
            let healthy = row.is_none_or(|row| self.is_reachable(sight, row.entity.0));
            let entry = pod.connected.or(pod.secret).and_then(|id| self.github.runners.get(&id));
            let away = entry.is_none_or(|it| !it.online && it.job.is_none());
            let busy = entry.is_some_and(|it| it.job.is_some());
            PodLook {
                key: number(name),
                unregistered: pod.phase == PodPhase::Running && away && active && healthy && !deleting && !works(name),
                lost: pod.connected.is_some(),
                pending: pod.phase == PodPhase::Pending && active && healthy && !deleting,
                orphan: !ended && !deleting && !active && healthy && !busy,
                old: ended && !deleting,
                name: name.clone(),
            }
        };
        let ours = self.cluster.pods.iter().filter(|(_, pod)| pod.whose != Whose::Strangers);
        let judged: Vec<_> = ours.map(judged).collect();
        let kept = GRACE + 10 * MINUTE + self.most_skew();
        for PodLook { name, key, unregistered, lost, pending, orphan, old } in judged {
            let proof = 150 * SECOND + if lost { 2 * MINUTE } else { 0 };
            self.hold("L3 never-registered", key, unregistered, proof, |_| {
                format!("{name} runs and is not registered")
            });
            self.hold("L3 stuck-pending", key, pending, 630 * SECOND, |_| format!("{name} is pending"));
            self.hold("L4 orphan pod", key, orphan, CLEAN, |_| format!("pod {name} has no active worker"));
            self.hold("S12 kept too long", key, old, kept, |_| format!("pod {name} has ended and is still there"));
        }
    }

    /// L4 and L1: what the store has of ours.
    fn look_at_workers(&mut self, sight: &Sight) {
        let unplaced: Vec<(WorkerName, bool)> = self
            .store
            .rows
            .workers()
            .filter(|row| row.status == Status::Pending && !self.cluster.pods.contains_key(&row.name))
            .map(|row| (row.name.clone(), self.may_be_placed(sight, row)))
            .collect();
        for (name, may) in unplaced {
            self.hold("L1 placed", number(&name), may, PLACED, |_| {
                format!("worker {name} has no pod, and its pool has a place")
            });
        }
        let active = self.store.rows.workers().filter(|it| !it.status.is_ended());
        let judged = |row: &Worker| {
            let ended = self.cluster.pods.get(&row.name).is_none_or(|pod| pod.phase.is_ended());
            (row.name.clone(), row.status, ended && self.is_reachable(sight, row.entity.0))
        };
        let judged: Vec<_> = active.map(judged).collect();
        for (name, status, orphan) in judged {
            self.hold("L4 orphan worker", number(&name), orphan, CLEAN, |_| {
                format!("worker {name} is {status:?} and has no pod")
            });
        }
    }

    /// Whether nothing keeps a worker without a pod from having one: who leads has its JIT configuration, its runner is
    /// there, and its pool has a place.
    fn may_be_placed(&self, sight: &Sight, row: &Worker) -> bool {
        if !self.schedulers.iter().any(|it| it.is_leading() && it.has_jit_of(&row.name)) {
            return false;
        }
        let young = self.now - (row.created_at.0 - self.plan.epoch) < YOUNG - self.most_skew();
        let pool = self.cluster.pools.iter().position(|pool| *pool == row.pool);
        let place = pool.is_some_and(|pool| self.cluster.free_now(pool) > 0);
        young && place && self.github.runner_of(&row.name).is_some() && self.is_reachable(sight, row.entity.0)
    }

    /// S15: jobs that have ended are not kept in mind.
    fn look_at_memory(&mut self) {
        let leader = self.schedulers.iter().find(|it| it.is_leading() && !it.paused);
        let Some(kept) = leader.and_then(|it| it.snapshot()).map(|it| it.active_jobs()) else { return };
        let active = self.store.rows.jobs().filter(|it| !it.status.is_ended()).count();
        self.hold("S15 memory", 0, kept > active, FORGOTTEN, |_| format!("{kept} jobs are in mind, of {active}"));
    }

    /// Whether all that can end has ended.
    fn is_settled(&self, sight: &Sight) -> bool {
        let job = |(id, job): (&i64, &crate::github::Job)| {
            let row = self.store.rows.job(JobId(*id));
            let given_up = row.is_some_and(|row| row.status == Status::Failed);
            sight.gone[job.account]
                // Queued while the App was not installed: nobody ever told us.
                || job.posted.sent == 0
                || (job.state == JobState::Done && row.is_none_or(|row| row.status.is_ended()))
                || (job.state == JobState::Queued && given_up)
        };
        // What a limit keeps from being done now is done when the limit is over, and is waited for.
        let free = |entity: i64| {
            self.account_of(entity).is_none_or(|account| !sight.gone[account] && sight.told.contains(&entity))
        };
        let pod = |(name, pod): (&WorkerName, &Pod)| {
            let over = pod.phase.is_ended() || pod.whose == Whose::Strangers;
            over || self.store.rows.worker(name).is_some_and(|row| !free(row.entity.0))
        };
        self.github.under_way == 0
            // What was not answered is still to be repeated, in its time.
            && self.github.unanswered.is_empty()
            && self.github.jobs.iter().all(job)
            && self.store.rows.workers().all(|it| it.status.is_ended() || !free(it.entity.0))
            && self.github.ours().all(|(_, it)| !free(it.entity))
            && self.cluster.pods.iter().all(pod)
    }

    /// ghfe accepted a delivery: what it tells changes rows by right, so that quiet is looked for anew.
    pub(crate) fn judge_delivered(&mut self) {
        self.judge.done_at = None;
    }

    /// L6: what is done while nothing is to do.
    pub(crate) fn judge_chosen(&mut self, action: &Action) {
        if self.judge.done_at.is_none_or(|at| self.now <= at + MINUTE) {
            return;
        }
        let done = match action {
            // The periodic reads; how often is bounded by how often is decided.
            Action::ListRunners(_) | Action::ListPods | Action::ListDeliveries { .. } => return,
            // The grace of a pod is over at any time, and what ghfe refuses is repeated ever more rarely.
            Action::DeletePod { .. } | Action::Redeliver { .. } => return,
            Action::Write { .. } => "something is written",
            Action::PollJob { .. } => "a job is asked about",
            Action::MintJit(_) | Action::CreatePod(_) | Action::CreateSecret { .. } => "a runner is made",
            Action::DeleteRunner { .. } => "a runner is deleted",
        };
        *self.judge.done_since.entry(done).or_default() += 1;
    }

    /// Whether it has been quiet since all that can end has ended.
    fn look_for_the_end(&mut self) -> bool {
        if !self.judge.settled {
            self.judge.done_at = None;
            return false;
        }
        let decisions: u64 = self.schedulers.iter().map(|it| it.decisions).sum();
        // Whoever could not be looked after until now has just begun.
        let reachable: Vec<bool> = (0..self.github.accounts.len()).map(|account| self.is_healthy(account)).collect();
        let healthy = reachable.iter().all(|&it| it);
        if self.judge.reachable != reachable {
            self.judge.reachable = reachable;
            self.judge.done_at = None;
        }
        let Some(done_at) = self.judge.done_at else {
            self.judge.done_at = Some(self.now);
            self.judge.decisions_at_done = decisions;
            self.judge.done_since.clear();
            self.judge.left_at_done = self.store.rows.workers().any(|it| !it.status.is_ended());
            return false;
        };
        let quiet_for = self.now - done_at;
        let grace = self.plan.long && self.cluster.pods.values().any(|pod| pod.whose != Whose::Strangers);
        if quiet_for < QUIET || grace {
            return false;
        }
        let healthy = healthy && self.github.accounts.iter().all(|account| account.removed_at == 0);
        // Workers of whom nobody can ask are given up in time.
        if !self.plan.long && healthy && !self.judge.left_at_done && self.judge.last_change > done_at + MINUTE {
            let what =
                format!("something changed {} s after all was done", (self.judge.last_change - done_at) / SECOND);
            self.breaks("L6 quiet", what);
        }
        let quiet = !self.plan.long && healthy && !self.judge.left_at_done;
        if quiet && let Some((what, times)) = self.judge.done_since.first_key_value() {
            self.breaks("L6 quiet", format!("{what}, {times} times, with nothing to do"));
        }
        // A tick every 15 s, and what the periodic readings wake: some dozens a minute at most.
        let rate = (decisions - self.judge.decisions_at_done) * 60 / (quiet_for / SECOND).max(1) as u64;
        if rate > 120 {
            self.breaks("L6 quiet", format!("{rate} decisions a minute with nothing to decide"));
        }
        self.judge_kept();
        true
    }

    /// The plan's time is over and not all is done.
    pub(crate) fn judge_end(&mut self) {
        let open: Vec<String> = self
            .github
            .jobs
            .iter()
            .filter(|(_, job)| job.state != JobState::Done && job.posted.sent > 0)
            .map(|(id, job)| format!("job {id} {:?}", job.state))
            .chain(
                self.store
                    .rows
                    .workers()
                    .filter(|it| !it.status.is_ended())
                    .map(|it| format!("worker {} {:?}", it.name, it.status)),
            )
            .chain(self.github.ours().map(|(_, it)| format!("runner {}", it.name)))
            .take(8)
            .collect();
        self.breaks("L1 done", format!("the plan's time is over, and there are {}", open.join(", ")));
    }
}
