//! What is drawn for the full depth beyond the plans that both depths share.

use serde::{Deserialize, Serialize};
use simulation::{
    plan::{Deed, Plan, What, Window},
    profile::{self, Profile},
    register::Fault,
    rng::Rng,
    run::{HOUR, MINUTE, SECOND},
};

use super::world::Node;

/// One world of the full depth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FullPlan {
    /// Replicas of ghfe.
    pub ghfe: usize,
    /// How far the cluster's clock is ahead of GitHub's, in milliseconds.
    #[serde(default)]
    pub cluster_ahead: i64,
    /// Troubles of the network and of whole processes, in order of time.
    #[serde(default)]
    pub trouble: Vec<Trouble>,
    /// The part that both depths share.
    pub plan: Plan,
}

/// Something that goes wrong. Times are milliseconds after the world's start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// When.
    pub at: i64,
    /// For how long.
    pub lasts: i64,
    /// What.
    pub upset: Upset,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upset {
    /// A process dies and is started again. Postgres: its standby takes over, with every commit.
    Kill(Node),
    /// The scheduler that leads dies and is started again.
    KillLeader,
    /// Postgres' host is gone without a word, and after a while another answers at its address. Nobody tells those who
    /// wait for an answer of the old one.
    Vanish,
    /// A process stands still.
    Pause(Node),
    /// A process is told to stop, and started again.
    Stop(Node),
    /// Nothing passes between two nodes.
    Cut(Node, Node),
    /// A clock jumps by this many milliseconds: a process's, or that by which Postgres counts leases.
    Clock(Node, i64),
    /// So many pages are asked of a ghfe at once.
    Visit(Node, u32),
    /// GitHub takes back every installation token that it has given out.
    RevokeTokens,
    /// GitHub refuses all that is about runner groups, with this status.
    RefuseGroups(u16),
    /// Somebody deletes our runner groups; their runners go to the default ones.
    DropGroups,
    /// The next scheduler to make a pod dies, and its call has its effect most of a minute later.
    OrphanPod,
}

impl FullPlan {
    /// Reads a scenario file: one of the full depth, or one of the fast depth, which is then run with two replicas of ghfe
    /// and a second scheduler.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
        if table.contains_key("plan") {
            let full: Self = toml::from_str(text).map_err(|error| error.to_string())?;
            full.plan.check()?;
            full.check()?;
            return Ok(full);
        }
        let mut full = Self { ghfe: 2, cluster_ahead: 0, trouble: Vec::new(), plan: Plan::parse(text)? };
        full.plan.world.schedulers = full.plan.world.schedulers.max(2);
        full.let_jobs_end();
        Ok(full)
    }

    /// Whether every trouble is of a node that there is, and that can have it.
    fn check(&self) -> Result<(), String> {
        for Trouble { at, upset, .. } in &self.trouble {
            let exists = |node: &Node| match node {
                Node::Scheduler(i) => usize::from(*i) < self.plan.world.schedulers,
                Node::Ghfe(i) => usize::from(*i) < self.ghfe,
                Node::GitHub | Node::Cluster | Node::Postgres => true,
            };
            let of_ours = |node: &Node| matches!(node, Node::Scheduler(_) | Node::Ghfe(_)) && exists(node);
            let can = match upset {
                Upset::Kill(node) | Upset::Pause(node) => exists(node),
                Upset::Stop(node) => of_ours(node),
                Upset::Clock(node, _) => *node == Node::Postgres || of_ours(node),
                Upset::Visit(node, _) => matches!(node, Node::Ghfe(_)) && exists(node),
                Upset::Cut(a, b) => exists(a) && exists(b),
                Upset::KillLeader
                | Upset::Vanish
                | Upset::RevokeTokens
                | Upset::RefuseGroups(_)
                | Upset::DropGroups
                | Upset::OrphanPod => true,
            };
            if !can {
                return Err(format!("at {at}: {upset:?} is of no node that there is, or of none that can have it"));
            }
        }
        Ok(())
    }

    /// Where an App is uninstalled, a runner that may execute a job is given the six hours that a job may take.
    fn let_jobs_end(&mut self) {
        let gone = self.plan.deed.iter().filter(|deed| matches!(deed.what, What::Uninstall { .. })).map(|deed| deed.at);
        if let Some(at) = gone.max() {
            self.plan.end = self.plan.end.max(at + 7 * HOUR);
        }
    }
}

/// Draws the world of a seed.
pub fn draw(profile: Profile, seed: u64) -> FullPlan {
    let mut plan = profile::draw(profile, seed);
    let mut rng = Rng::new(seed ^ 0xf011);
    let calm = profile == Profile::Steady;
    // Two schedulers at least: one leads, one stands by.
    plan.world.schedulers = plan.world.schedulers.max(2);
    let ghfe = rng.between(2, 3) as usize;
    let mut full = FullPlan { ghfe, cluster_ahead: 0, trouble: Vec::new(), plan };
    if !calm {
        draw_troubles(&mut rng, &mut full, profile);
    }
    full.trouble.sort_by_key(|trouble| trouble.at);
    full.let_jobs_end();
    full
}

fn draw_troubles(rng: &mut Rng, full: &mut FullPlan, profile: Profile) {
    let active = full.plan.quiet_at;
    let (schedulers, ghfe) = (full.plan.world.schedulers as i64, full.ghfe as i64);
    let service = |rng: &mut Rng| {
        if rng.chance(50) {
            Node::Scheduler(rng.between(0, schedulers - 1) as u8)
        } else {
            Node::Ghfe(rng.between(0, ghfe - 1) as u8)
        }
    };
    let often = matches!(profile, Profile::Failover | Profile::Outage);
    let count = if often || rng.chance(40) { rng.between(1, 4) } else { 0 };
    for _ in 0..count {
        let at = rng.between(0, active - 1);
        let lasts = rng.between(SECOND, 90 * SECOND).min(active - at);
        let one = service(rng);
        let upset = match rng.below(9) {
            0 => Upset::Kill(Node::Postgres),
            1 => Upset::Kill(Node::Cluster),
            2 => Upset::Kill(one),
            3 => Upset::Pause(one),
            4 => Upset::Stop(one),
            5 => Upset::Clock(one, rng.between(-40, 40) * SECOND),
            6 => Upset::Cut(one, Node::Postgres),
            7 => Upset::Vanish,
            _ => match one {
                Node::Scheduler(_) if rng.chance(50) => Upset::Cut(one, Node::Cluster),
                _ => Upset::Cut(one, Node::GitHub),
            },
        };
        full.trouble.push(Trouble { at, lasts, upset });
    }
    draw_visits(rng, full);
    draw_github_troubles(full);
    draw_others(full);
    draw_clocks(full);
    draw_apart(full, (0x0fa7, 15), (2, 5 * MINUTE), |_| Upset::OrphanPod);
}

/// What GitHub does that the fast depth has no part for.
fn draw_github_troubles(full: &mut FullPlan) {
    draw_apart(full, (0x9e17, 20), (3, 10 * MINUTE), |rng| match rng.below(4) {
        0 => Upset::RevokeTokens,
        1 => Upset::DropGroups,
        _ => Upset::RefuseGroups(if rng.chance(50) { 403 } else { 404 }),
    });
}

/// What the service talks to stands still, or GitHub is away.
fn draw_others(full: &mut FullPlan) {
    draw_apart(full, (0x07e5, 15), (2, 90 * SECOND), |rng| match rng.below(5) {
        0 | 1 => Upset::Kill(Node::GitHub),
        2 => Upset::Pause(Node::GitHub),
        3 => Upset::Pause(Node::Cluster),
        _ => Upset::Pause(Node::Postgres),
    });
}

/// Clocks that are not ours go wrong: the cluster's is off, that of Postgres jumps.
fn draw_clocks(full: &mut FullPlan) {
    let mut rng = Rng::new(full.plan.seed ^ 0xc10c);
    if rng.chance(15) {
        full.cluster_ahead = rng.between(-30, 30) * SECOND;
    }
    draw_apart(full, (0xc10d, 10), (2, SECOND), |rng| Upset::Clock(Node::Postgres, rng.between(-30, 30) * SECOND));
}

/// Troubles of one kind, with a draw of their own, so that a seed's others are what they were: in `percent` of all worlds up
/// to `most` of them, each for `longest` milliseconds at most.
fn draw_apart(
    full: &mut FullPlan,
    (salt, percent): (u64, u32),
    (most, longest): (i64, i64),
    upset: impl Fn(&mut Rng) -> Upset,
) {
    let mut rng = Rng::new(full.plan.seed ^ salt);
    let active = full.plan.quiet_at;
    if rng.chance(100 - percent) {
        return;
    }
    for _ in 0..rng.between(1, most) {
        let at = rng.between(0, active - 1);
        let lasts = rng.between(SECOND, longest).min(active - at);
        full.trouble.push(Trouble { at, lasts, upset: upset(&mut rng) });
    }
}

/// Readers come whenever they like, and more so when the pages do not.
fn draw_visits(rng: &mut Rng, full: &mut FullPlan) {
    let active = full.plan.quiet_at;
    let mut times: Vec<i64> = Vec::new();
    for trouble in &full.trouble {
        let of_postgres =
            matches!(trouble.upset, Upset::Vanish | Upset::Kill(Node::Postgres) | Upset::Cut(_, Node::Postgres));
        if of_postgres && rng.chance(50) {
            times.push(trouble.at + rng.between(0, 5 * SECOND));
        }
    }
    if rng.chance(10) {
        times.push(rng.between(0, active - 1));
    }
    for at in times {
        let ghfe = Node::Ghfe(rng.below(full.ghfe as u64) as u8);
        full.trouble.push(Trouble { at, lasts: 0, upset: Upset::Visit(ghfe, rng.between(5, 60) as u32) });
    }
}

/// A world in which jobs are queued, cancelled and run again, and nothing goes wrong.
pub fn calm(seed: u64) -> FullPlan {
    let mut plan = profile::draw(Profile::Mixed, seed);
    plan.name = format!("calm {seed}");
    plan.long = false;
    plan.window.clear();
    plan.world.skew.clear();
    plan.world.schedulers = plan.world.schedulers.max(2);
    plan.world.account.iter_mut().for_each(|account| account.limit = 5_000);
    plan.deed.retain(|deed| matches!(deed.what, What::Queue { .. } | What::Cancel { .. } | What::Rerun { .. }));
    FullPlan { ghfe: 2, cluster_ahead: 0, trouble: Vec::new(), plan }
}

/// The same world with something added, or told otherwise, that must not matter to how it ends.
pub fn variants(base: &FullPlan) -> Vec<(&'static str, FullPlan)> {
    let mut rng = Rng::new(base.plan.seed ^ 0x7e15);
    let active = base.plan.quiet_at;
    let scheduler = Node::Scheduler(rng.below(base.plan.world.schedulers as u64) as u8);
    let ghfe = Node::Ghfe(rng.below(base.ghfe as u64) as u8);
    let mut with = |upset: Upset| {
        let lasts = rng.between(SECOND, MINUTE);
        let trouble = vec![Trouble { at: rng.between(0, active - lasts), lasts, upset }];
        FullPlan { trouble, ..base.clone() }
    };
    let restarts = [
        ("a scheduler is killed", with(Upset::Kill(scheduler))),
        ("a scheduler is stopped", with(Upset::Stop(scheduler))),
        ("a ghfe is killed", with(Upset::Kill(ghfe))),
        ("a ghfe is stopped", with(Upset::Stop(ghfe))),
        ("Postgres fails over", with(Upset::Kill(Node::Postgres))),
    ];
    let told = |fault: Fault| {
        let mut other = base.clone();
        other.plan.window.push(Window { from: 0, until: active, fault, chance: 60 });
        other
    };
    let mut later = base.clone();
    later.plan.epoch += 400 * 24 * HOUR + 12_345;
    let others = [
        ("deliveries come twice", told(Fault::WebhookDuplicated)),
        ("deliveries come in another order", told(Fault::WebhookReordered)),
        ("it begins at another time", later),
    ];
    restarts.into_iter().chain(others).collect()
}

/// A storm: ten thousand jobs queued within a second, most of them cancelled soon, while Postgres fails over and the
/// leader dies.
pub fn storm(seed: u64) -> FullPlan {
    let mut rng = Rng::new(seed ^ 0x5707);
    let mut plan = profile::draw(Profile::Steady, seed);
    plan.name = format!("storm of 10,000 webhooks, {seed}");
    plan.deed.clear();
    plan.window.clear();
    plan.world.schedulers = 2;
    plan.world.default_cap = None;
    for account in &mut plan.world.account {
        account.cap = None;
        account.limit = 15_000;
    }
    plan.world.pool.truncate(1);
    plan.world.pool[0].nodes = vec![4; 25];
    plan.world.labels.truncate(1);
    plan.world.pool_of.truncate(1);
    let accounts = plan.world.account.len() as u64;
    const STORM: i64 = 30 * SECOND;
    for job in 0..10_000 {
        let at = STORM + rng.between(0, SECOND);
        let account = rng.below(accounts) as usize;
        let what = What::Queue {
            job: 1000 + job,
            account,
            repo: rng.between(1, 2),
            labels: 0,
            runs: rng.between(20, 90) * SECOND,
            held: 0,
        };
        plan.deed.push(Deed { at, what });
        if job % 20 != 0 {
            plan.deed
                .push(Deed { at: at + rng.between(10 * SECOND, 2 * MINUTE), what: What::Cancel { job: 1000 + job } });
        }
    }
    plan.deed.sort_by_key(|deed| deed.at);
    plan.quiet_at = 4 * MINUTE;
    let trouble = vec![
        Trouble { at: STORM + 300, lasts: 8 * SECOND, upset: Upset::Kill(Node::Postgres) },
        Trouble { at: STORM + 20 * SECOND, lasts: 40 * SECOND, upset: Upset::KillLeader },
        Trouble { at: STORM + 75 * SECOND, lasts: 30 * SECOND, upset: Upset::KillLeader },
    ];
    FullPlan { ghfe: 3, cluster_ahead: 0, trouble, plan }
}

/// A hundred jobs an hour for three hours, for measuring.
pub fn steady(seed: u64, hours: i64) -> FullPlan {
    let mut rng = Rng::new(seed ^ 0x57ea);
    let mut plan = profile::draw(Profile::Steady, seed);
    plan.name = format!("steady for {hours} h, {seed}");
    plan.deed.clear();
    plan.world.schedulers = 2;
    let span = hours * 60 * MINUTE;
    let (accounts, sets) = (plan.world.account.len() as u64, plan.world.labels.len() as u64);
    for pool in &mut plan.world.pool {
        pool.nodes = vec![1; 20];
    }
    for account in &mut plan.world.account {
        account.cap = None;
    }
    for job in 0..hours * 100 {
        let what = What::Queue {
            job: 1000 + job,
            account: rng.below(accounts) as usize,
            repo: rng.between(1, 2),
            labels: rng.below(sets) as usize,
            runs: rng.between(MINUTE, 10 * MINUTE),
            held: 0,
        };
        plan.deed.push(Deed { at: rng.between(0, span), what });
    }
    plan.deed.sort_by_key(|deed| deed.at);
    plan.quiet_at = span;
    plan.end = span + 60 * MINUTE;
    FullPlan { ghfe: 2, cluster_ahead: 0, trouble: Vec::new(), plan }
}
