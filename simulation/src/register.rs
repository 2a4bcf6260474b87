//! What a sweep must have seen: every kind of fault, and every rare state.

macro_rules! register {
    ($(#[$doc:meta])* $name:ident { $($(#[$item:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$item])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// Its name in reports.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
    };
}

register! {
    /// Kinds of faults. Those that strike single calls do so inside a plan's windows, with the window's chance.
    Fault {
        /// ghfe does not answer a delivery.
        WebhookFailed = "webhook_failed",
        /// A delivery comes twice.
        WebhookDuplicated = "webhook_duplicated",
        /// A delivery comes late, overtaken by others.
        WebhookReordered = "webhook_reordered",
        /// A delivery comes hours late.
        WebhookHoursLate = "webhook_hours_late",
        /// A delivery with a wrong signature.
        WebhookBadSignature = "webhook_bad_signature",
        /// A truncated body.
        WebhookTruncated = "webhook_truncated",
        /// No installation in the body.
        WebhookNoInstallation = "webhook_no_installation",
        /// An older installation's id in the body.
        WebhookOldInstallation = "webhook_old_installation",
        /// A job is cancelled before it starts.
        CancelledEarly = "cancelled_early",
        /// A job is held by an environment rule and queued twice.
        Held = "held",
        /// A job is run again under a new id.
        Rerun = "rerun",
        /// A 5xx before the effect.
        GithubBefore = "github_5xx_before",
        /// A 5xx after the effect.
        GithubAfter = "github_5xx_after",
        /// No answer within the limit; the effect may come late.
        GithubTimeout = "github_timeout",
        /// GitHub stands still: what reaches it in this window lies there until the window ends.
        GithubStalled = "github_stalled",
        /// 403 or 429 that says until when.
        RateLimitedTold = "rate_limited_told",
        /// 403 or 429 that says nothing.
        RateLimitedUntold = "rate_limited_untold",
        /// A listing that lacks the latest and still has what is gone.
        StaleListing = "stale_listing",
        /// Pages that do not add up.
        PagesDisagree = "pages_disagree",
        /// A runner that does not acknowledge its job: the job is queued again.
        RunnerDeaf = "runner_deaf",
        /// `busy` shows late.
        BusyLag = "busy_lag",
        /// A runner takes a job of another group.
        JobStolen = "job_stolen",
        /// A runner takes a job while the call that takes it, or its pod, away is on its way.
        JobInTheWay = "job_in_the_way",
        /// The App is uninstalled.
        Uninstalled = "uninstalled",
        /// An organisation is renamed.
        Renamed = "renamed",
        /// The App is suspended for a while.
        Suspended = "suspended",
        /// The App is installed again under a new id.
        Reinstalled = "reinstalled",
        /// A 5xx before the effect.
        ClusterBefore = "cluster_5xx_before",
        /// A 5xx after the effect: a lost create answer, among others.
        ClusterAfter = "cluster_5xx_after",
        /// No answer within the limit; the effect may come late.
        ClusterTimeout = "cluster_timeout",
        /// Quota.
        QuotaDenied = "quota_denied",
        /// A watch is silent for a while, then lists anew.
        WatchBroken = "watch_broken",
        /// A watch lags.
        WatchLate = "watch_late",
        /// An image that cannot be pulled.
        ImagePull = "image_pull",
        /// A pod that fits nowhere, ever.
        Unschedulable = "unschedulable",
        /// A container that ends at once.
        StartFails = "start_fails",
        /// A container that runs and never reaches GitHub.
        NeverConnects = "never_connects",
        /// Evicted.
        Evicted = "evicted",
        /// A pod was deleted by force by somebody else.
        PodTaken = "pod_taken",
        /// A queued job was deleted on GitHub.
        JobForgotten = "job_forgotten",
        /// A node is lost and comes back.
        NodeLost = "node_lost",
        /// A node is cordoned for a while.
        NodeCordoned = "node_cordoned",
        /// A pod that stays Terminating.
        StuckTerminating = "stuck_terminating",
        /// A pod's end shows late.
        LateStatus = "late_status",
        /// The store refuses before the effect.
        StoreBefore = "store_before",
        /// The store's acknowledgement is lost after the commit.
        StoreLostAck = "store_lost_ack",
        /// The store is away for a while: failover.
        StoreAway = "store_away",
        /// The store is slow.
        StoreSlow = "store_slow",
        /// A notification is lost.
        NotifyLost = "notify_lost",
        /// A scheduler is killed.
        Killed = "killed",
        /// A scheduler is paused for longer than its lease.
        Paused = "paused",
        /// A scheduler is stopped in order.
        Stopped = "stopped",
        /// A scheduler's clock jumps.
        ClockJumped = "clock_jumped",
        /// A scheduler's clock is off from the start.
        ClockSkewed = "clock_skewed",
        /// An hour's calls are used up by others.
        HourUsedUp = "hour_used_up",
        /// A container is killed for memory: while its job runs, or at full depth as soon as it runs.
        OutOfMemory = "out_of_memory",
        /// A pod is taken away and another made under its name, with a uid of its own.
        NameReused = "name_reused",
        /// A scheduler's clock runs too fast, or too slowly.
        ClockDrifted = "clock_drifted",
        /// A job was in the queue for a day, and GitHub gave it up.
        JobExpired = "job_expired",
        /// There are runners and pods that are not ours, some of them staging's.
        Strangers = "strangers",
        /// An account's own runner took a job that asks for one of ours.
        StrangerWorked = "stranger_worked",
    }
}

register! {
    /// Rare states that a sweep must reach: paths that only matter when things go wrong, and have to be seen to be taken.
    Rare {
        /// A JIT configuration was made, its answer lost, and the name found taken afterwards.
        NameTakenAfterLostAnswer = "name_taken_after_lost_answer",
        /// An organisation was not found by its old name, and its installation asked for the new one.
        NameLookedUp = "name_looked_up",
        /// A leader whose time was over had its write refused.
        FencedWrite = "fenced_write",
        /// GitHub refused to delete a busy runner.
        BusyRunnerKept = "busy_runner_kept",
        /// `completed` came before `queued`.
        CompletedFirst = "completed_first",
        /// `in_progress` came before `queued`.
        RunningFirst = "running_first",
        /// A pod's create answer was lost, and the pod found.
        PodFoundAfterLostAnswer = "pod_found_after_lost_answer",
        /// A new leader failed a worker that another had left half made.
        InterruptedWorkerFailed = "interrupted_worker_failed",
        /// A pod vanished and its worker was failed.
        PodVanished = "pod_vanished",
        /// A runner never registered and was removed.
        NeverRegistered = "never_registered",
        /// A runner was lost and removed.
        RunnerLost = "runner_lost",
        /// A stuck pod was removed.
        StuckPending = "stuck_pending",
        /// A runner nobody needed was retired.
        SurplusRetired = "surplus_retired",
        /// A worker was given up before anything was made for it.
        SurplusBeforeStart = "surplus_before_start",
        /// An owner was at its cap with jobs waiting.
        AtCap = "at_cap",
        /// A pool was full with jobs waiting.
        PoolFull = "pool_full",
        /// The store refused a reservation for its cap.
        RefusedCap = "refused_cap",
        /// The store refused a reservation for want of demand.
        RefusedDemand = "refused_demand",
        /// A reservation's answer was lost and it was repeated.
        ReservedTwice = "reserved_twice",
        /// A job went back to the queue and was served again.
        RequeuedServed = "requeued_served",
        /// A poll found a job completed that no delivery had told of.
        PollFoundCompleted = "poll_found_completed",
        /// A delivery was repeated on our request and answered 2xx.
        Redelivered = "redelivered",
        /// An orphan runner was deleted.
        OrphanRunnerDeleted = "orphan_runner_deleted",
        /// A pod that was made when its worker had already ended was deleted.
        OrphanPodDeleted = "orphan_pod_deleted",
        /// An ended pod was deleted after its grace period.
        GraceOver = "grace_over",
        /// A job of a gone installation was failed.
        InstallationJobFailed = "installation_job_failed",
        /// A job that GitHub does not know was failed.
        UnknownJobFailed = "unknown_job_failed",
        /// Two schedulers believed they led at one time.
        TwoLeaders = "two_leaders",
        /// A paused leader stepped down by itself when it woke.
        SteppedDown = "stepped_down",
        /// A JIT call had to wait for the installation's limits.
        Throttled = "throttled",
        /// A worker's JIT configuration was refused until it was given up.
        JitGivenUp = "jit_given_up",
        /// A worker was given up before its JIT configuration was made, since its App was found to be suspended.
        SuspendedBeforeStart = "suspended_before_start",
        /// A job waited until its App was suspended no more.
        OutlivedSuspension = "outlived_suspension",
        /// The cluster refused a pod until it was given up.
        PodGivenUp = "pod_given_up",
        /// A pod was created by a call that nobody waited for any more, and was one too many.
        LatePod = "late_pod",
        /// A runner took a job of another group while its own group waited.
        StolenServed = "stolen_served",
        /// A scheduler was killed while a reservation of its was on its way.
        KilledReserving = "killed_reserving",
        /// A scheduler was killed while a JIT call of its was on its way.
        KilledMinting = "killed_minting",
        /// A scheduler was killed while a pod of its was on its way.
        KilledCreatingPod = "killed_creating_pod",
        /// A scheduler was killed while a Secret of its was on its way.
        KilledCreatingSecret = "killed_creating_secret",
        /// A scheduler was killed in a storm, with dozens of deliveries on their way.
        KilledInStorm = "killed_in_storm",
    }
}

impl Fault {
    /// Whether it makes what a leader knows of the cluster old.
    pub fn ages_views(self) -> bool {
        use Fault::{ClusterAfter, ClusterBefore, ClusterTimeout, WatchBroken, WatchLate};
        matches!(self, ClusterAfter | ClusterBefore | ClusterTimeout | WatchBroken | WatchLate)
    }
}

/// Counts by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Faults that happened.
    pub faults: Vec<u64>,
    /// Rare states that were reached.
    pub rare: Vec<u64>,
}

impl Default for Counts {
    fn default() -> Self {
        Self { faults: vec![0; Fault::ALL.len()], rare: vec![0; Rare::ALL.len()] }
    }
}

impl Counts {
    /// A fault happened.
    pub fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// A rare state was reached.
    pub fn rare(&mut self, rare: Rare) {
        self.rare[rare as usize] += 1;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Counts) {
        self.faults.iter_mut().zip(&other.faults).for_each(|(sum, count)| *sum += count);
        self.rare.iter_mut().zip(&other.rare).for_each(|(sum, count)| *sum += count);
    }

    /// What was never seen.
    pub fn missing(&self) -> Vec<&'static str> {
        let faults = Fault::ALL.iter().filter(|it| self.faults[**it as usize] == 0).map(|it| it.as_str());
        let rare = Rare::ALL.iter().filter(|it| self.rare[**it as usize] == 0).map(|it| it.as_str());
        faults.chain(rare).collect()
    }
}
