//! What one installation may still be asked, and when (S14).
//!
//! GitHub limits an installation in two ways: calls an hour (5,000 or more, told in every response) and points a minute
//! (900; a read is 1, a write 5). Both are kept here, with the shares that the policy gives to polls and listings.

use alloc::collections::VecDeque;

use crate::{
    facts::{Budget, GitHubAnswer, GitHubError},
    ids::{Span, Time},
    policy::{Governor, Timeouts},
};

/// GitHub's points a minute and installation.
const GITHUB_POINTS: u32 = 900;
/// What is used of them: some are left for tokens and runner groups, which adapters ask for unseen, and for listings that
/// turn out longer than was known.
const POINTS_PER_MINUTE: u32 = GITHUB_POINTS - 20;
/// How long a call counts once it has been answered: GitHub's minute, and a little for a clock that is put right meanwhile.
/// GitHub counts a call when it reaches it, which is before its answer does. So of the calls that any minute of GitHub's
/// counts, all but the one made last count here when that one is made, however long each was on its way.
const WINDOW: Span = Span(60_100);
/// How long a call counts that was given up, while nothing is heard of GitHub: longer than the longest pause until the next
/// try (`backoff_max`), the time that a call has, and GitHub's minute.
const UNHEARD_WINDOW: Span = Span::mins(3);
/// How much later than a row tells an earlier leader's call may have reached GitHub.
const ON_ITS_WAY: Span = Span(900);
/// A read costs one point.
const READ_POINTS: u32 = 1;
/// A write costs five.
const WRITE_POINTS: u32 = 5;
/// The most calls a share may save up: enough for a few pages at once, too few for a burst that trips a limit (L7).
const SHARE_BURST: i64 = 30;
/// And no more than it gains in so long: each new leader begins with as much, and many in a row must not use up the hour.
const SHARE_SAVED: Span = Span::secs(150);

/// Growing pauses after failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backoff {
    /// Failures in a row.
    pub failures: u32,
    /// Nothing before then.
    pub until: Time,
}

impl Backoff {
    /// Notes a failure at `now`.
    pub fn fail(&mut self, now: Time, timeouts: &Timeouts) {
        let doubled = timeouts.backoff.0.saturating_mul(1 << self.failures.min(16));
        self.until = now + Span(doubled.min(timeouts.backoff_max.0));
        self.failures = self.failures.saturating_add(1);
    }

    /// Notes a success.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// One call, in the unit of a share's level: what a share of one call an hour gains in an hour of milliseconds. No
/// gain is too small to count, however often it is added.
const CALL: i64 = Span::hours(1).0;

/// A share of the hourly limit, as a bucket that fills evenly. Counts in parts of a [`CALL`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Share {
    level: i64,
    filled_at: Option<Time>,
}

impl Share {
    fn fill(&mut self, per_hour: i64, now: Time) {
        let elapsed = self.filled_at.map_or(0, |at| now.since(at).0).min(Span::hours(1).0);
        self.level = (self.level + elapsed * per_hour).min(Self::full(per_hour));
        self.filled_at = Some(now);
    }

    /// What it saves up at most: one call at the least.
    fn full(per_hour: i64) -> i64 {
        (per_hour * SHARE_SAVED.0).clamp(CALL, SHARE_BURST * CALL)
    }

    /// When `calls` can be afforded.
    fn ready_at(&self, calls: i64, per_hour: i64, now: Time) -> Time {
        // A listing may cost more than the bucket holds: it waits for a full one and leaves a debt.
        if per_hour <= 0 {
            return Time::NEVER;
        }
        let lack = ((calls * CALL).min(Self::full(per_hour)) - self.level).max(0);
        now + Span(lack.div_euclid(per_hour) + i64::from(lack.rem_euclid(per_hour) > 0))
    }
}

/// What a call is for; each use has its own share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// A poll of one job: one read.
    Poll,
    /// A listing, of as many pages as the last one of that scope.
    List {
        /// Pages.
        pages: u32,
    },
    /// A listing of a scope that has workers: boards held by runners that do nothing are found and taken back by it.
    /// Provisioning waits for that, so the reserve is its too; the share is that of all listings.
    Proof {
        /// Pages.
        pages: u32,
    },
    /// A JIT configuration: one write.
    Mint,
    /// Deleting a runner: one write.
    Delete,
    /// Repeating a webhook delivery: one write.
    Redeliver,
}

/// What a worker's JIT call has of its installation's limits before it is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prepaid {
    /// A place among the calls under way, and its points.
    Whole,
    /// The place alone: the minute was used up by others when it was to be made.
    Place,
}

/// Points of a call that is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Spent {
    /// When it was answered or given up.
    at: Time,
    points: u32,
    /// GitHub has answered it, or a later one. Before that it may still lie there unread and be counted later.
    heard: bool,
}

impl Spent {
    fn ends(&self) -> Time {
        self.at + if self.heard { WINDOW } else { UNHEARD_WINDOW }
    }
}

/// One installation's standing with GitHub.
#[derive(Clone, Debug)]
pub struct Allowance {
    budget: Option<Budget>,
    /// Nothing at all before then: GitHub said so, or it does not answer.
    pub blocked: Backoff,
    /// Refusals in a row that did not say until when.
    untold: u32,
    /// Refusals in a row whose time had passed already.
    passed: u32,
    /// What blocks, or did last, is a limit.
    limited: bool,
    /// The end of the last pause that GitHub advises after a refusal without a time.
    advised_until: Time,
    /// GitHub has said first then that the App is suspended here, and nothing else since.
    suspended: Option<Time>,
    /// Points of the calls under way, and of those that are paid for and will be made.
    open_points: u32,
    /// Points of the calls that were over within the last minute, by when they were.
    spent: VecDeque<Spent>,
    spent_points: u32,
    /// Those of them that were left without an answer since GitHub was heard last.
    unheard_points: u32,
    polls: Share,
    lists: Share,
    /// GitHub has not answered yet, and is being asked.
    asking: bool,
    /// It has answered.
    answered: bool,
    /// Calls under way.
    pub in_flight: u32,
}

impl Default for Allowance {
    fn default() -> Self {
        let full = Share { level: SHARE_BURST * CALL, filled_at: None };
        Self {
            budget: None,
            blocked: Backoff::default(),
            untold: 0,
            passed: 0,
            limited: false,
            advised_until: Time::ZERO,
            suspended: None,
            open_points: 0,
            spent: VecDeque::new(),
            spent_points: 0,
            unheard_points: 0,
            polls: full,
            lists: full,
            asking: false,
            answered: false,
            in_flight: 0,
        }
    }
}

impl Allowance {
    fn limit(&self, governor: &Governor) -> i64 {
        i64::from(self.budget.map_or(governor.assumed_limit, |budget| budget.limit))
    }

    /// Calls an hour that a share of so many percent has now: an even part of what reads may still have of GitHub's hour,
    /// where so many percent are kept from them. Otherwise leaders that follow each other quickly, each with its own
    /// count, would use it up, and all reading would stop until the next one.
    fn rate(&self, percent: u32, reserve: u32, governor: &Governor, now: Time) -> i64 {
        let limit = self.limit(governor);
        let share = limit * i64::from(percent) / 100;
        let Some(budget) = self.budget.filter(|budget| now < budget.reset_at) else { return share };
        let spare = (i64::from(budget.remaining) - limit * i64::from(reserve) / 100).max(0);
        let part = spare * i64::from(percent) / i64::from(governor.poll_percent + governor.list_percent).max(1);
        let evenly = part.saturating_mul(Span::hours(1).0) / budget.reset_at.since(now).0.max(1);
        share.min(evenly.max(1))
    }

    /// When a call for `usage` may be made: now or later. [`Time::NEVER`] when only an outcome can change the answer.
    pub fn ready_at(&mut self, usage: Use, governor: &Governor, now: Time) -> Time {
        // After a refusal that did not say until when, one call tries whether it is over, so that what has waited does
        // not trip the limit again (L7).
        // So it is while the App is suspended: one read finds out that it is back, and no runner is asked for before.
        if self.is_suspended() && usage == Use::Mint {
            return Time::NEVER;
        }
        let at_once = if self.is_tried() || self.is_suspended() { 1 } else { governor.in_flight };
        // The first reading asks what is left of the hour: a new leader that began with a burst might take it from what is
        // kept for provisioning.
        let reads = matches!(usage, Use::Poll | Use::List { .. } | Use::Proof { .. });
        if reads && self.asking || self.in_flight >= at_once {
            return Time::NEVER;
        }
        if now < self.blocked.until {
            return self.blocked.until;
        }
        self.renew(now);
        let limit = self.limit(governor);
        let points = points_of(usage, governor);
        let (floor, share) = match usage {
            Use::Poll => {
                // A suspended App's provisioning needs no reserve, and waits for this read.
                let reserve = if self.is_suspended() { 0 } else { governor.reserve_percent };
                let rate = self.rate(governor.poll_percent, reserve, governor, now);
                self.polls.fill(rate, now);
                (reserve, self.polls.ready_at(1, rate, now))
            }
            Use::List { pages } | Use::Proof { pages } => {
                let reserve = if matches!(usage, Use::Proof { .. }) { 0 } else { governor.reserve_percent };
                let rate = self.rate(governor.list_percent, reserve, governor, now);
                self.lists.fill(rate, now);
                (reserve, self.lists.ready_at(i64::from(pages.max(1)), rate, now))
            }
            Use::Mint | Use::Delete | Use::Redeliver => (0, now),
        };
        let hourly = match self.budget {
            Some(b) if i64::from(b.remaining) <= limit * i64::from(floor) / 100 && now < b.reset_at => b.reset_at,
            Some(_) | None => now,
        };
        // A new hour is a new share.
        let renewed = self.budget.map(|budget| budget.reset_at).filter(|&at| now < at);
        let share = renewed.map_or(share, |at| share.min(at));
        share.max(hourly).max(self.points_at(points, now))
    }

    /// Whether a refusal that did not say until when, or whose time had passed, may still hold: the next call tries.
    pub fn is_tried(&self) -> bool {
        self.untold > 0 || self.passed > 0
    }

    /// Whether what blocks is a limit, and not that GitHub is out of reach.
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// Whether the App is suspended here, as GitHub said last.
    pub fn is_suspended(&self) -> bool {
        self.suspended.is_some()
    }

    /// Since when it is known to be, if it is.
    pub fn suspended_since(&self) -> Option<Time> {
        self.suspended
    }

    /// Whether a call may be made now.
    pub fn is_ready(&mut self, usage: Use, governor: &Governor, now: Time) -> bool {
        self.ready_at(usage, governor, now) <= now
    }

    /// Notes that a call is made now.
    pub fn spend(&mut self, usage: Use, governor: &Governor, now: Time) {
        let calls = match usage {
            Use::Poll => {
                self.polls.level -= CALL;
                1
            }
            Use::List { pages } | Use::Proof { pages } => {
                let pages = pages.max(1);
                self.lists.level -= i64::from(pages) * CALL;
                pages
            }
            Use::Mint | Use::Delete | Use::Redeliver => 1,
        };
        self.renew(now);
        self.open_points += points_of(usage, governor);
        self.asking |= !self.answered && matches!(usage, Use::Poll | Use::List { .. } | Use::Proof { .. });
        self.in_flight += 1;
        if let Some(budget) = &mut self.budget {
            budget.remaining = budget.remaining.saturating_sub(calls);
        }
    }

    /// When a JIT call that was paid for with its place among the calls under way, and perhaps with its points, may be made.
    /// If that is now, its points are spent; if later, they are others' until then, and only its place is kept.
    pub fn claim(&mut self, paid: Prepaid, governor: &Governor, now: Time) -> Time {
        self.renew(now);
        let points = points_of(Use::Mint, governor);
        if paid == Prepaid::Whole {
            self.open_points = self.open_points.saturating_sub(points);
        }
        let at = if self.is_suspended() {
            Time::NEVER
        } else if now < self.blocked.until {
            self.blocked.until
        } else {
            self.points_at(points, now)
        };
        if at <= now {
            self.open_points += points;
        }
        at
    }

    /// Gives back what a JIT call that will not be made was paid for with.
    pub fn refund(&mut self, paid: Prepaid, governor: &Governor) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if paid == Prepaid::Whole {
            self.open_points = self.open_points.saturating_sub(points_of(Use::Mint, governor));
        }
    }

    /// Points of the calls under way, and of those that are paid for and will be made.
    pub fn open_points(&self) -> u32 {
        self.open_points
    }

    /// Counts the JIT call that an earlier leader may have made for a worker, at `latest` or before: GitHub does not begin
    /// a new minute because another leads.
    pub fn inherit_worker(&mut self, latest: Time, governor: &Governor, now: Time) {
        self.inherit(latest, points_of(Use::Mint, governor), now);
    }

    /// Counts the deletion of a runner whose worker an earlier leader has failed at `failed_at`, within a minute: it may have
    /// been made at any time since.
    pub fn inherit_deletion(&mut self, failed_at: Time, now: Time) {
        if now < failed_at + WINDOW + ON_ITS_WAY {
            self.inherit(now, WRITE_POINTS, now);
        }
    }

    /// Counts the reads that an earlier leader may have made within the last minute: no row tells of them, but they had
    /// shares too.
    pub fn inherit_reads(&mut self, governor: &Governor, now: Time) {
        let percent = i64::from(governor.poll_percent + governor.list_percent);
        let reads = 2 * SHARE_BURST + self.limit(governor) * percent / 100 / 60;
        self.inherit(now, u32::try_from(reads).unwrap_or(POINTS_PER_MINUTE) * READ_POINTS, now);
    }

    /// An earlier leader's calls, made at `at` or before. A time ahead of this clock is just now.
    fn inherit(&mut self, at: Time, points: u32, now: Time) {
        self.count(at.min(now) + ON_ITS_WAY, points, true);
        self.renew(now);
    }

    /// Counts points from `at` on for a minute.
    fn count(&mut self, at: Time, points: u32, heard: bool) {
        if points > 0 {
            let place = self.spent.partition_point(|spent| spent.at <= at);
            self.spent.insert(place, Spent { at, points, heard });
            self.spent_points += points;
            self.unheard_points += if heard { 0 } else { points };
        }
    }

    /// Notes an answer to a call for `usage`, or that it was given up: what is left of the hour, and whether GitHub wants a
    /// pause.
    pub fn answered<T>(
        &mut self,
        usage: Use,
        answer: &GitHubAnswer<T>,
        (governor, timeouts): (&Governor, &Timeouts),
        now: Time,
    ) {
        let (error, budget) = (answer.result.as_ref().err(), answer.budget);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.settle(usage, answer.calls, !matches!(error, Some(GitHubError::Unavailable { .. })), governor, now);
        (self.asking, self.answered) = (false, true);
        if let Some(told) = budget {
            // Answers overtake each other: within one hour's window the lower figure is the later one.
            self.budget = Some(match self.budget {
                Some(known) if is_one_hour(known.reset_at, told.reset_at) => {
                    Budget { remaining: known.remaining.min(told.remaining), ..told }
                }
                Some(known) if known.reset_at > told.reset_at && now < known.reset_at => known,
                Some(_) | None => told,
            });
        }
        // Silence says nothing of it.
        if !matches!(error, Some(GitHubError::Unavailable { .. } | GitHubError::RateLimited { .. })) {
            let suspended = error == Some(&GitHubError::InstallationSuspended);
            self.suspended = suspended.then(|| self.suspended.unwrap_or(now));
        }
        match error {
            Some(GitHubError::RateLimited { until }) => {
                self.limited = true;
                // One failure per pause: the answers of a burst that was under way count once. Where GitHub names no time the
                // pause is its own advice, whatever shorter one runs already.
                let fresh = now >= until.map_or(self.advised_until, |_| self.blocked.until);
                let told = until.filter(|&until| until > now);
                // A time that has passed tells only that the clocks differ, or that the answer was long on its way: what
                // waits would be sent and refused again and again until GitHub's clock is there.
                let pause = match until {
                    Some(_) => (timeouts.backoff.0 << self.passed.min(5)).min(timeouts.backoff_max.0),
                    // At least a minute, then exponentially longer.
                    None => Span::mins(1).0 << self.untold.min(5),
                };
                self.untold = self.untold.saturating_add(u32::from(fresh && until.is_none()));
                self.passed = self.passed.saturating_add(u32::from(fresh && until.is_some() && told.is_none()));
                let advised = until.is_none();
                let until = told.or(fresh.then_some(now + Span(pause)));
                if advised {
                    self.advised_until = until.unwrap_or(self.advised_until);
                }
                self.blocked.until = until.map_or(self.blocked.until, |until| until.max(self.blocked.until));
                self.blocked.failures = self.blocked.failures.saturating_add(u32::from(fresh));
            }
            Some(
                GitHubError::Unavailable { .. } | GitHubError::InstallationGone | GitHubError::InstallationSuspended,
            ) => {
                // One failure per pause: a burst that was under way when GitHub went away counts once.
                if now >= self.blocked.until {
                    self.blocked.fail(now, timeouts);
                    self.limited = false;
                }
            }
            Some(
                GitHubError::NotFound
                | GitHubError::NameTaken
                | GitHubError::RunnerBusy
                | GitHubError::Torn
                | GitHubError::Refused { .. },
            )
            | None => {
                if now >= self.blocked.until {
                    self.blocked.clear();
                    (self.untold, self.passed) = (0, 0);
                    self.limited = false;
                }
            }
        }
    }

    /// A call is over: from now on it counts for a minute more. Where GitHub was heard, so do those that it left without an
    /// answer before: while it stands still they lie there, and all reach it when it goes on.
    fn settle(&mut self, usage: Use, calls: u32, heard: bool, governor: &Governor, now: Time) {
        let paid = points_of(usage, governor);
        self.open_points = self.open_points.saturating_sub(paid);
        let mut points = paid;
        if let Use::List { pages } | Use::Proof { pages } = usage {
            // A listing may have had more pages than were paid for. What it did not use of its share it gives back: one that
            // failed at its first request has cost no more than that.
            points = paid.max(READ_POINTS * calls);
            self.lists.level += i64::from(pages.max(1).saturating_sub(calls)) * CALL;
        }
        if heard && self.unheard_points > 0 {
            self.spent.retain(|spent| spent.heard);
            self.spent_points -= self.unheard_points;
            points += self.unheard_points;
            self.unheard_points = 0;
        }
        self.count(now, points, heard);
    }

    fn renew(&mut self, now: Time) {
        if let Some(budget) = &mut self.budget
            && now >= budget.reset_at
        {
            budget.remaining = budget.limit;
            // The next answer tells when the new hour ends.
            budget.reset_at = Time::ZERO;
        }
        // Those that were given up end later than others after them.
        if self.unheard_points > 0 {
            self.spent.retain(|spent| {
                let counts = now < spent.ends();
                self.spent_points -= if counts { 0 } else { spent.points };
                self.unheard_points -= if counts || spent.heard { 0 } else { spent.points };
                counts
            });
        }
        while let Some(spent) = self.spent.pop_front_if(|spent| spent.ends() <= now) {
            self.spent_points -= spent.points;
        }
    }

    fn points_at(&self, points: u32, now: Time) -> Time {
        // A call that weighs more than a whole minute waits for an empty one.
        let most = POINTS_PER_MINUTE - points.min(POINTS_PER_MINUTE);
        let mut sum = self.open_points + self.spent_points;
        // Where it is for calls without an answer that there is no room, and none is under way that could have one, one tries.
        let tries = self.open_points == 0 && self.spent_points - self.unheard_points <= most;
        if sum <= most || tries {
            return now;
        }
        let (heard, unheard) = (self.spent.iter().filter(|it| it.heard), self.spent.iter().filter(|it| !it.heard));
        for spent in heard.chain(unheard) {
            sum -= spent.points;
            if sum <= most {
                return spent.ends();
            }
        }
        // Only an answer makes room.
        Time::NEVER
    }
}

/// What a call weighs in GitHub's minute. As many JIT calls as `jit_per_minute` fill one; they weigh nothing where that
/// limit is switched off.
pub(crate) fn points_of(usage: Use, governor: &Governor) -> u32 {
    match usage {
        Use::Poll => READ_POINTS,
        Use::List { pages } | Use::Proof { pages } => READ_POINTS * pages.max(1),
        Use::Mint => GITHUB_POINTS / governor.jit_per_minute.max(1),
        Use::Delete | Use::Redeliver => WRITE_POINTS,
    }
}

/// Whether two answers tell of one hour's end. Each is as far from the truth as the answer was long on its way; the ends of
/// two hours are an hour apart at least.
fn is_one_hour(one: Time, other: Time) -> bool {
    one.since(other).max(other.since(one)) < Span::mins(5)
}
