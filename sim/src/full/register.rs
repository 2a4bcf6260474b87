//! What a sweep of the full depth must have seen: the faults and rare states that it shares with the fast depth as far as
//! they can be seen here, and its own.

use std::collections::BTreeMap;

use simulation::register::{Counts, Fault, Rare};

/// What only the full depth has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum More {
    /// A replica of ghfe died.
    GhfeKilled,
    /// A replica of ghfe stood still.
    GhfePaused,
    /// A replica of ghfe was stopped in order.
    GhfeStopped,
    /// A replica of ghfe had its clock jump.
    GhfeClockJumped,
    /// The clock by which Postgres counts leases jumped.
    PostgresClockJumped,
    /// A scheduler died of making a pod, and its call went on.
    PodOrphaned,
    /// The cluster's clock is off from GitHub's.
    ClusterClockSkewed,
    /// Postgres died and its standby took over.
    Failover,
    /// Postgres' host was gone without a word.
    Vanished,
    /// The Kubernetes API died.
    ClusterKilled,
    /// The network between two nodes was cut.
    Partitioned,
    /// Watches had to begin anew: what they had seen last was forgotten (410 Gone).
    WatchGone,
    /// A delivery was answered 503, and GitHub has to repeat it.
    Answered503,
    /// Deliveries shared a commit.
    SharedCommit,
    /// The listener for notifications connected anew.
    ListenerBack,
    /// Many pages were asked for at once.
    Visited,
    /// A page was answered 503.
    PageRefused,
    /// A scheduler ended in order, within its time.
    StoppedInTime,
    /// GitHub refused a token that was good until then.
    TokenRefused,
    /// GitHub refused what is about runner groups.
    GroupsRefused,
    /// Somebody deleted our runner groups.
    GroupsDeleted,
    /// GitHub was away, and whatever it was sending was lost.
    GithubKilled,
    /// GitHub stood still: what it was asked hung, and nothing was sent.
    GithubPaused,
    /// The Kubernetes API stood still.
    ClusterPaused,
    /// Postgres stood still.
    PostgresPaused,
    /// An answer of the Kubernetes API stalled in the middle.
    AnswerStalled,
}

impl More {
    /// All of them, with whether it is a fault.
    pub const ALL: [(More, &'static str, bool); 26] = [
        (More::GhfeKilled, "ghfe_killed", true),
        (More::GhfePaused, "ghfe_paused", true),
        (More::GhfeStopped, "ghfe_stopped", true),
        (More::GhfeClockJumped, "ghfe_clock_jumped", true),
        (More::PostgresClockJumped, "postgres_clock_jumped", true),
        (More::PodOrphaned, "pod_orphaned", true),
        (More::ClusterClockSkewed, "cluster_clock_skewed", true),
        (More::Failover, "postgres_failover", true),
        (More::Vanished, "postgres_vanished", true),
        (More::ClusterKilled, "cluster_killed", true),
        (More::Partitioned, "partitioned", true),
        (More::WatchGone, "watch_gone", false),
        (More::Answered503, "answered_503", false),
        (More::SharedCommit, "shared_commit", false),
        (More::ListenerBack, "listener_back", false),
        (More::Visited, "visited", true),
        (More::PageRefused, "page_refused", false),
        (More::StoppedInTime, "stopped_in_time", false),
        (More::TokenRefused, "token_refused", true),
        (More::GroupsRefused, "groups_refused", true),
        (More::GroupsDeleted, "groups_deleted", true),
        (More::GithubKilled, "github_killed", true),
        (More::GithubPaused, "github_paused", true),
        (More::ClusterPaused, "cluster_paused", true),
        (More::PostgresPaused, "postgres_paused", true),
        (More::AnswerStalled, "answer_stalled", true),
    ];
}

/// Rare states that are not counted here. That a call waits for the governor's room, and that a leader steps down by itself,
/// happen within the production loop, and nothing outside tells them from other waiting and from an end. Whether the group of
/// a runner that took another's job still waits this GitHub does not look for; a deletion after the grace the judge holds to
/// its time (S12) and does not count.
const UNSEEN: [Rare; 4] = [Rare::Throttled, Rare::StolenServed, Rare::GraceOver, Rare::SteppedDown];

/// Counts by kind.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// What both depths have.
    pub shared: Counts,
    more: BTreeMap<More, u64>,
}

impl Tally {
    pub(super) fn more(&mut self, more: More) {
        *self.more.entry(more).or_default() += 1;
    }

    /// Faults by name.
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        let shared = Fault::ALL.iter().map(|it| (it.as_str(), self.shared.faults[*it as usize]));
        shared.chain(self.own(true)).collect()
    }

    /// Rare states by name.
    pub fn sometimes(&self) -> BTreeMap<&'static str, u64> {
        let seen = Rare::ALL.iter().filter(|it| !UNSEEN.contains(it));
        let shared = seen.map(|it| (it.as_str(), self.shared.rare[*it as usize]));
        shared.chain(self.own(false)).collect()
    }

    fn own(&self, faults: bool) -> impl Iterator<Item = (&'static str, u64)> {
        let of = move |it: &(More, &'static str, bool)| (it.1, self.more.get(&it.0).copied().unwrap_or(0));
        More::ALL.iter().filter(move |it| it.2 == faults).map(of)
    }
}
