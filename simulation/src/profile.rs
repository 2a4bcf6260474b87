//! Worlds from seeds. Swarm style: in each world most kinds of faults are switched off wholesale, and those that are on
//! are on in earnest.

use crate::{
    capture,
    plan::{Account, Deed, EPOCH, Plan, Pool, Strangers, What, Window, World},
    register::Fault,
    rng::Rng,
    run::{HOUR, MINUTE, SECOND},
};

/// What a world is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// Anything.
    Mixed,
    /// Jobs come and go, and nothing goes wrong.
    Steady,
    /// Very many jobs at once, with webhooks that go astray.
    Storm,
    /// Calls that are not answered.
    Timeouts,
    /// Pods that get stuck in every way.
    Stuck,
    /// Everything is away for a while, and comes back.
    Outage,
    /// GitHub's limits are reached.
    Limited,
    /// Schedulers die, pause and disagree about the time.
    Failover,
    /// Schedulers are replaced in order while jobs run.
    Upgrade,
    /// Twenty jobs on five nodes, and anything may go wrong: the world that speed is measured in.
    Twenty,
    /// Jobs as they once came (`capture.rs`), on few boards, and anything may go wrong.
    Capture,
}

impl Profile {
    /// All of them.
    pub const ALL: [Profile; 11] = [
        Profile::Mixed,
        Profile::Steady,
        Profile::Storm,
        Profile::Timeouts,
        Profile::Stuck,
        Profile::Outage,
        Profile::Limited,
        Profile::Failover,
        Profile::Upgrade,
        Profile::Twenty,
        Profile::Capture,
    ];

    /// Those that a sweep over all profiles goes round, beside `Capture`. What is only measured in has nothing that the others
    /// have not.
    pub const IN_TURN: &'static [Profile] = Self::ALL.split_at(9).0;

    /// Whether anything may go wrong.
    fn is_mixed(self) -> bool {
        matches!(self, Profile::Mixed | Profile::Twenty | Profile::Capture)
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Profile::Mixed => "mixed",
            Profile::Steady => "steady",
            Profile::Storm => "storm",
            Profile::Timeouts => "timeouts",
            Profile::Stuck => "stuck",
            Profile::Outage => "outage",
            Profile::Limited => "limited",
            Profile::Failover => "failover",
            Profile::Upgrade => "upgrade",
            Profile::Twenty => "twenty",
            Profile::Capture => "capture",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.as_str() == name)
    }

    /// Kinds of single-call faults such a world may have.
    fn faults(self) -> &'static [Fault] {
        use Fault::*;
        match self {
            Profile::Steady | Profile::Upgrade => &[],
            Profile::Mixed | Profile::Twenty | Profile::Capture => &[
                WebhookFailed,
                WebhookDuplicated,
                WebhookReordered,
                WebhookHoursLate,
                WebhookBadSignature,
                WebhookTruncated,
                WebhookNoInstallation,
                WebhookOldInstallation,
                GithubBefore,
                GithubAfter,
                GithubTimeout,
                RateLimitedTold,
                RateLimitedUntold,
                StaleListing,
                PagesDisagree,
                RunnerDeaf,
                ClusterBefore,
                ClusterAfter,
                ClusterTimeout,
                QuotaDenied,
                WatchBroken,
                WatchLate,
                ImagePull,
                Unschedulable,
                StartFails,
                NeverConnects,
                StuckTerminating,
                LateStatus,
                StoreBefore,
                StoreLostAck,
                StoreAway,
                StoreSlow,
                NotifyLost,
            ],
            Profile::Storm => {
                &[WebhookFailed, WebhookDuplicated, WebhookReordered, NotifyLost, StoreSlow, StoreLostAck]
            }
            Profile::Timeouts => &[GithubTimeout, ClusterTimeout, GithubAfter, ClusterAfter, StoreLostAck, StoreSlow],
            Profile::Stuck => &[
                ImagePull,
                Unschedulable,
                StartFails,
                NeverConnects,
                StuckTerminating,
                LateStatus,
                QuotaDenied,
                RunnerDeaf,
            ],
            Profile::Outage => &[WebhookFailed, GithubBefore, ClusterBefore, StoreAway, WatchBroken, NeverConnects],
            Profile::Limited => &[RateLimitedTold, RateLimitedUntold, GithubAfter],
            Profile::Failover => {
                &[StoreAway, StoreLostAck, WatchBroken, WatchLate, GithubTimeout, ClusterAfter, NotifyLost]
            }
        }
    }
}

/// Now and then more comes at once than an installation may ask for in a minute, and there is room for all.
fn is_flood(profile: Profile, seed: u64) -> bool {
    profile == Profile::Storm && seed / 2 % 72 == 2
}

/// Draws a world.
pub fn draw(profile: Profile, seed: u64) -> Plan {
    let mut rng = Rng::new(seed);
    let played = (profile == Profile::Capture).then(|| capture::stretch(&mut rng));
    let flood = is_flood(profile, seed);
    let (jobs, spread) = match profile {
        Profile::Capture => (0, played.as_ref().and_then(|it| it.deed.last()).map_or(0, |deed| deed.at)),
        Profile::Storm if flood => (rng.between(400, 600), rng.between(SECOND, 5 * SECOND)),
        Profile::Storm => (rng.between(40, 120), rng.between(SECOND, MINUTE)),
        Profile::Twenty => (20, rng.between(MINUTE, 15 * MINUTE)),
        _ => (rng.between(5, 25), rng.between(MINUTE, 15 * MINUTE)),
    };
    let active = spread + rng.between(2 * MINUTE, 10 * MINUTE);
    let mut world = draw_world(&mut rng, profile);
    if flood {
        world.default_cap = None;
        world.account.iter_mut().for_each(|account| account.cap = None);
        world.pool.iter_mut().for_each(|pool| pool.nodes = vec![2; 300]);
    }
    let mut plan = Plan {
        seed,
        name: format!("{} {seed}", profile.as_str()),
        epoch: EPOCH + rng.between(0, 1000),
        quiet_at: active,
        end: 0,
        long: rng.chance(if profile.is_mixed() { 4 } else { 0 }),
        world,
        deed: Vec::new(),
        window: Vec::new(),
    };
    match played {
        Some(played) => draw_played(&mut rng, &mut plan, played),
        None => draw_jobs(&mut rng, &mut plan, profile, jobs, spread),
    }
    draw_windows(&mut rng, &mut plan, profile, active);
    draw_troubles(&mut rng, &mut plan, profile, active);
    // A draw of its own, so that all else in a seed's world stays as it was before there was this fault.
    let mut own = Rng::new(seed ^ 0x1a7e);
    if (profile.is_mixed() || matches!(profile, Profile::Storm | Profile::Stuck)) && own.chance(25) {
        let chance = own.between(20, 100) as u32;
        // Runners that nobody needs are taken away after some minutes: most of them when all else is quiet.
        plan.window.push(Window { from: 0, until: active + 20 * MINUTE, fault: Fault::JobInTheWay, chance });
    }
    draw_more(&mut plan, profile, active);
    plan.end = enough_time(&plan);
    plan.deed.sort_by_key(|deed| deed.at);
    plan
}

/// An end by which all of a plan's jobs are over, even one board after the other: milliseconds after the world's start.
pub fn enough_time(plan: &Plan) -> i64 {
    // Runners that nobody can be asked about are left for six hours.
    let uninstalled = plan.deed.iter().any(|deed| matches!(deed.what, What::Uninstall { .. }));
    let work = plan.deed.iter().map(|deed| if let What::Queue { runs, .. } = deed.what { runs + MINUTE } else { 0 });
    // Whom nobody serves GitHub gives up after a day.
    let unserved = plan.world.account.iter().any(|account| account.cap == Some(0));
    let hours = [(true, 5), (plan.long, 8), (uninstalled, 7), (unserved, 26)];
    let hours: i64 = hours.into_iter().filter(|(holds, _)| *holds).map(|(_, hours)| hours).sum();
    plan.quiet_at + hours * HOUR + work.sum::<i64>()
}

fn draw_world(rng: &mut Rng, profile: Profile) -> World {
    let accounts = rng.between(1, 3);
    let limited = profile == Profile::Limited || (profile.is_mixed() && rng.chance(10));
    let account = (0..accounts).map(|i| {
        let cap = rng.chance(50).then(|| rng.between(1, 6) as u32);
        let limit = if limited { rng.between(300, 900) as u32 } else { 5_000 };
        Account {
            id: 10 + i,
            user: i == 2 || rng.chance(15),
            installation: 1000 * (i + 1),
            cap,
            limit,
            repos: Vec::new(),
        }
    });
    let account = account.collect();
    let pools = rng.between(1, 2) as usize;
    let most = if profile == Profile::Storm { 30 } else { 4 };
    let mut left = 5;
    let pool = (0..pools).map(|i| {
        let nodes = match profile {
            Profile::Twenty if i + 1 == pools => left,
            Profile::Twenty => rng.between(1, 4) as usize,
            _ => rng.between(1, most) as usize,
        };
        left -= nodes.min(left);
        Pool { name: format!("board-{i}"), nodes: (0..nodes).map(|_| if rng.chance(80) { 1 } else { 2 }).collect() }
    });
    let pool: Vec<Pool> = pool.collect();
    let mut labels = vec![vec![String::from("board-0-label")]];
    let mut pool_of = vec![0];
    if pools > 1 {
        labels.push(vec![String::from("board-1-label")]);
        pool_of.push(1);
    }
    if profile.is_mixed() && rng.chance(35) {
        // Runners of the second set can take jobs of the first.
        labels.push(vec![String::from("wide")]);
        labels.push(vec![String::from("wide"), String::from("x")]);
        pool_of.extend([0, 0]);
    }
    let schedulers = match profile {
        Profile::Failover | Profile::Upgrade => rng.between(2, 3),
        Profile::Mixed | Profile::Twenty | Profile::Capture => rng.between(1, 3),
        _ => 1,
    } as usize;
    let skewed = (profile == Profile::Failover || profile.is_mixed()) && rng.chance(30);
    let skew = if skewed { (0..schedulers).map(|_| rng.between(-40, 40) * SECOND).collect() } else { Vec::new() };
    World {
        schedulers,
        skew,
        default_cap: rng.chance(70).then_some(20),
        busy_lag: if rng.chance(40) { rng.between(5, 60) * SECOND } else { 0 },
        newest_first: rng.chance(30),
        pull: rng.between(SECOND, 20 * SECOND),
        account,
        pool,
        labels,
        pool_of,
        strangers: None,
    }
}

/// What may happen to a job beside running, drawn for a whole world.
struct Turns {
    cancels: bool,
    reruns: bool,
    holds: bool,
}

impl Turns {
    fn draw(rng: &mut Rng, faulty: bool) -> Self {
        Self { cancels: faulty && rng.chance(50), reruns: faulty && rng.chance(20), holds: faulty && rng.chance(20) }
    }

    /// For how long a job is held.
    fn held(&self, rng: &mut Rng) -> i64 {
        if self.holds && rng.chance(20) { rng.between(10 * SECOND, 3 * MINUTE) } else { 0 }
    }

    /// What happens to a job that is queued at this time.
    fn draw_later(&self, rng: &mut Rng, deeds: &mut Vec<Deed>, at: i64, job: i64) {
        if self.cancels && rng.chance(20) {
            let after = if rng.chance(60) { rng.between(0, 20 * SECOND) } else { rng.between(0, 4 * MINUTE) };
            deeds.push(Deed { at: at + after, what: What::Cancel { job } });
        }
        if self.reruns && rng.chance(15) {
            let after = rng.between(30 * SECOND, 5 * MINUTE);
            deeds.push(Deed { at: at + after, what: What::Rerun { job, again: 5000 + job } });
        }
    }
}

fn draw_jobs(rng: &mut Rng, plan: &mut Plan, profile: Profile, jobs: i64, spread: i64) {
    let turns = Turns::draw(rng, !matches!(profile, Profile::Steady | Profile::Upgrade));
    for i in 0..jobs {
        let at = rng.between(0, spread);
        let job = 100 + i;
        let what = What::Queue {
            job,
            account: rng.below(plan.world.account.len() as u64) as usize,
            repo: rng.between(1, 2),
            labels: rng.below(plan.world.labels.len() as u64) as usize,
            runs: rng.between(10 * SECOND, 4 * MINUTE),
            held: turns.held(rng),
        };
        plan.deed.push(Deed { at, what });
        turns.draw_later(rng, &mut plan.deed, at, job);
    }
}

/// Jobs as they once came, and those who queued them, in a world that has too little room for them all at once.
fn draw_played(rng: &mut Rng, plan: &mut Plan, played: Plan) {
    let limited = rng.chance(10);
    plan.world.account = played.world.account;
    for account in &mut plan.world.account {
        account.cap = rng.chance(50).then(|| rng.between(1, 6) as u32);
        account.limit = if limited { rng.between(300, 900) as u32 } else { 5_000 };
    }
    plan.world.pool = played.world.pool;
    for pool in &mut plan.world.pool {
        pool.nodes = (0..rng.between(1, 4)).map(|_| if rng.chance(80) { 1 } else { 2 }).collect();
    }
    plan.world.labels = played.world.labels;
    plan.world.pool_of = played.world.pool_of;
    let turns = Turns::draw(rng, true);
    for mut deed in played.deed {
        let mut later = Vec::new();
        if let What::Queue { job, held, .. } = &mut deed.what {
            *held = turns.held(rng);
            turns.draw_later(rng, &mut later, deed.at, *job);
        }
        plan.deed.push(deed);
        plan.deed.append(&mut later);
    }
}

fn draw_windows(rng: &mut Rng, plan: &mut Plan, profile: Profile, active: i64) {
    let percent = if profile.is_mixed() { 14 } else { 50 };
    for &fault in profile.faults() {
        if !rng.chance(percent) {
            continue;
        }
        // One of three: seldom and always, often and for a while, or everything for a short time.
        let (length, chance) = match rng.below(3) {
            0 => (active, rng.between(2, 15)),
            1 => (rng.between(MINUTE, active.max(2 * MINUTE)), rng.between(20, 60)),
            _ => (rng.between(10 * SECOND, 4 * MINUTE), 100),
        };
        let from = rng.between(0, (active - length).max(0));
        let until = (from + length).min(active);
        plan.window.push(Window { from, until, fault, chance: chance as u32 });
    }
}

/// What came later than all else, each with a draw of its own: in a seed's world everything else stays as it was before.
fn draw_more(plan: &mut Plan, profile: Profile, active: i64) {
    let mixed = profile.is_mixed();
    let schedulers = plan.world.schedulers as u64;
    let own = |salt: u64| Rng::new(plan.seed ^ salt);
    let [mut memory, mut reuse, mut drift, mut day, mut strange, mut storm, mut stall, mut repair, mut name] =
        [0x0077, 0x4e5e, 0xd41f, 0xda77, 0x57a6, 0x5705, 0x57a1, 0x4e9a, 0x9a3e].map(own);
    if (mixed || profile == Profile::Stuck) && memory.chance(12) {
        let chance = memory.between(5, 60) as u32;
        plan.window.push(Window { from: 0, until: active, fault: Fault::OutOfMemory, chance });
    }
    if (mixed || profile == Profile::Stuck) && reuse.chance(8) {
        plan.deed.push(Deed { at: reuse.between(0, active), what: What::Replace });
    }
    if (mixed || profile == Profile::Failover) && drift.chance(12) {
        let (at, scheduler) = (drift.between(0, active / 2), drift.below(schedulers) as usize);
        // Up to one part in a thousand: a bad quartz that nobody corrects.
        let by = drift.between(1, 10) * if drift.chance(50) { 1 } else { -1 };
        plan.deed.push(Deed { at, what: What::Drift { scheduler, by, lasts: active - at } });
    }
    if profile == Profile::Mixed && day.chance(1) {
        // Nobody of this account gets a runner: GitHub gives its jobs up after a day.
        let account = day.below(plan.world.account.len() as u64) as usize;
        plan.world.account[account].cap = Some(0);
    }
    if (mixed || profile == Profile::Stuck) && strange.chance(20) {
        let sets = plan.world.labels.len() as u64;
        let takes = strange.chance(40).then(|| strange.below(sets) as usize);
        let pool = strange.below(plan.world.pool.len() as u64) as usize;
        plan.world.strangers = Some(Strangers { takes, pool, until: strange.between(0, active + 10 * MINUTE) });
    }
    if (mixed || matches!(profile, Profile::Stuck | Profile::Outage)) && repair.chance(20) {
        let pool = repair.below(plan.world.pool.len() as u64) as usize;
        let (nodes, at) = (plan.world.pool[pool].nodes.len() as u64, repair.between(0, active));
        // A board that is being repaired is so for hours, when all else is well, too; others serve its pool.
        if nodes > 1 {
            let lasts = active - at + repair.between(10, 60) * MINUTE;
            plan.deed.push(Deed { at, what: What::Cordon { node: (pool, repair.below(nodes) as usize), lasts } });
        }
    }
    if mixed && name.chance(8) {
        let account = name.below(plan.world.account.len() as u64) as usize;
        if !plan.world.account[account].user {
            plan.deed.push(Deed { at: name.between(0, active), what: What::Rename { account } });
        }
    }
    if profile == Profile::Storm && storm.chance(25) {
        let at = storm.between(SECOND, MINUTE);
        plan.deed.push(Deed { at, what: What::Kill { scheduler: 0, lasts: storm.between(SECOND, 20 * SECOND) } });
    }
    let stalls = match profile {
        _ if is_flood(profile, plan.seed) => 80,
        Profile::Storm | Profile::Outage => 30,
        _ if mixed => 5,
        _ => 0,
    };
    if stall.chance(stalls) {
        // A storm's calls come in its first minutes.
        let from = stall.between(0, active.min(3 * MINUTE) - 1);
        let until = (from + stall.between(5 * SECOND, 85 * SECOND)).min(active);
        plan.window.push(Window { from, until, fault: Fault::GithubStalled, chance: 100 });
    }
}

fn draw_troubles(rng: &mut Rng, plan: &mut Plan, profile: Profile, active: i64) {
    let mixed = profile.is_mixed();
    let mut add = |at: i64, what: What| plan.deed.push(Deed { at, what });
    let schedulers = plan.world.schedulers as u64;
    let failing = matches!(profile, Profile::Failover) || (mixed && rng.chance(40));
    if failing {
        for _ in 0..rng.between(1, 4) {
            let (at, scheduler) = (rng.between(0, active), rng.below(schedulers) as usize);
            let lasts = rng.between(SECOND, MINUTE);
            match rng.below(4) {
                0 | 1 => add(at, What::Kill { scheduler, lasts }),
                2 => add(at, What::Pause { scheduler, lasts: rng.between(5 * SECOND, MINUTE) }),
                _ => add(at, What::Clock { scheduler, by: rng.between(-60, 60) * SECOND }),
            }
        }
    }
    if profile == Profile::Upgrade || (mixed && rng.chance(15)) {
        let mut at = rng.between(0, active / 2);
        for scheduler in 0..plan.world.schedulers {
            add(at, What::Stop { scheduler, lasts: 25 * SECOND });
            at += rng.between(5 * SECOND, 90 * SECOND);
        }
    }
    let pools = plan.world.pool.len() as u64;
    let nodes = matches!(profile, Profile::Outage | Profile::Stuck) || (mixed && rng.chance(30));
    if nodes {
        for _ in 0..rng.between(1, 3) {
            let pool = rng.below(pools) as usize;
            let node = (pool, rng.below(plan.world.pool[pool].nodes.len() as u64) as usize);
            let at = rng.between(0, active);
            let lasts = rng.between(20 * SECOND, 8 * MINUTE).min(active - at);
            match rng.below(3) {
                0 => add(at, What::NodeLost { node, lasts }),
                1 => add(at, What::Cordon { node, lasts }),
                _ => add(at, What::Evict),
            }
        }
    }
    let accounts = plan.world.account.len() as u64;
    if mixed && rng.chance(12) {
        let account = rng.below(accounts) as usize;
        let at = rng.between(0, active);
        match rng.below(3) {
            0 => add(at, What::Uninstall { account }),
            1 => {
                let installation = plan.world.account[account].installation + 10;
                let back = (at + rng.between(10 * SECOND, 3 * MINUTE)).min(active);
                add(at, What::Uninstall { account });
                add(back, What::Reinstall { account, installation });
            }
            _ => {
                let lasts = rng.between(10 * SECOND, 5 * MINUTE).min(active - at);
                add(at, What::Suspend { account, lasts });
            }
        }
    }
    if mixed && rng.chance(10) {
        add(rng.between(0, active), What::Vanish);
    }
    if mixed && rng.chance(6) {
        let job = 100 + rng.between(0, 9);
        add(rng.between(0, active), What::Forget { job });
    }
    if profile == Profile::Limited || (mixed && rng.chance(4)) {
        let account = rng.below(accounts) as usize;
        add(rng.between(0, active), What::UseUp { account });
    }
}
