//! What users of this kind of system complain about most: each a test, named after the complaint it answers.

use engine::{
    decision::WorkerFailure,
    facts::Status,
    ids::{Span, Time},
};
use sim::{
    http::faults::Fault,
    testing::service::{Ctx, ORG, OWN_REPO, REPO, World, run_test},
    world::{github::Scope, kubernetes::Fate},
};

const BOARD: &str = "scw-em-rv1";
const LABEL: &str = "ubuntu-24.04-riscv";
const JIT: &str = "/orgs/{org}/actions/runners/generate-jitconfig";

/// Every job that GitHub has, not only those that have been told of so far.
async fn all_completed(ctx: &mut Ctx) -> bool {
    let queued = ctx.github(|github, _| github.jobs.len());
    let jobs = ctx.jobs().await;
    jobs.len() == queued && jobs.iter().all(|job| job.status == Status::Completed)
}

async fn active_workers(ctx: &Ctx) -> usize {
    ctx.workers().await.iter().filter(|worker| !worker.status.is_ended()).count()
}

async fn failures(ctx: &Ctx) -> Vec<WorkerFailure> {
    ctx.workers().await.iter().filter_map(|worker| worker.failure).collect()
}

/// 1. After an outage, runners sit "Running" but unregistered and count as supply: jobs wait for hours.
#[test]
fn after_an_outage_runners_sit_running_but_unregistered_and_count_as_supply_and_jobs_wait_for_hours() {
    let mut world = World::new().nodes(BOARD, 2);
    // Two runners that cannot reach GitHub; those made after them can.
    world.cluster.next_fates = [Some(Fate::NeverConnects), Some(Fate::NeverConnects)].into();
    run_test(world, async |ctx| {
        ctx.queue(1, REPO, &[LABEL], Span::mins(1));
        ctx.queue(2, REPO, &[LABEL], Span::mins(1));
        ctx.settle().await?;
        // 10 s to start, 150 s to be found out and removed, 10 s for the next ones, 60 s for the job itself.
        ctx.until("both jobs completed", Span::secs(260), all_completed).await?;
        assert_eq!(failures(ctx).await, [WorkerFailure::RunnerNeverRegistered; 2]);
        Ok(())
    });
}

/// 2. A lost webhook means no runner, ever.
#[test]
fn a_lost_webhook_means_no_runner_ever() {
    run_test(World::new().nodes(BOARD, 1), async |ctx| {
        // Every delivery fails for a while: the database refuses new rows.
        let lock = "ALTER TABLE jobs ADD CONSTRAINT away CHECK (false) NOT VALID";
        sqlx::query(lock).execute(ctx.store.pool()).await?;
        ctx.queue(1, REPO, &[LABEL], Span::mins(1));
        ctx.settle().await?;
        assert_eq!(ctx.jobs().await, []);
        assert_eq!(ctx.github(|github, _| github.log[0].status), 503, "what is not stored is not accepted");
        sqlx::query("ALTER TABLE jobs DROP CONSTRAINT away").execute(ctx.store.pool()).await?;
        ctx.until("it is delivered again", Span::mins(5), async |ctx| !ctx.jobs().await.is_empty()).await?;
        // The end of the job is never told at all.
        ctx.github(|github, _| github.mischief.lose.insert((1, "completed".to_owned())));
        ctx.until("it runs", Span::mins(1), async |ctx| ctx.job(1).await.status == Status::Running).await?;
        let waited = ctx.until("its end is noticed", Span::secs(60 + 60), all_completed).await?;
        assert!(waited >= Span::secs(60), "the job itself takes a minute: {waited}");
        Ok(())
    });
}

/// 3. A runner that looked idle is deleted just as it takes a job.
#[test]
fn a_runner_that_looked_idle_is_deleted_just_as_it_takes_a_job() {
    let mut world = World::new().nodes(BOARD, 2);
    world.github.mischief.busy_lag = Span::secs(60);
    run_test(world, async |ctx| {
        ctx.expect_refusal("DELETE", "/orgs/{org}/actions/runners/{id}", 422);
        ctx.queue(1, REPO, &[LABEL], Span::hours(1));
        ctx.queue(2, REPO, &[LABEL], Span::hours(1));
        ctx.settle().await?;
        ctx.github(|github, now| github.cancel_job(2, now));
        let idle = async |ctx: &mut Ctx| {
            ctx.github(|github, _| github.runners.values().any(|runner| runner.online && runner.job.is_none()))
        };
        ctx.until("one runner is idle", Span::mins(1), idle).await?;
        // Its retirement is due 5 minutes after it became surplus. Just before, it takes a job of which we hear nothing,
        // and GitHub shows it idle for another minute.
        ctx.pass(Span::mins(4)).await?;
        ctx.github(|github, _| {
            github.mischief.lose.extend(["queued", "in_progress", "completed"].map(|action| (3, action.to_owned())));
        });
        let asked = |ctx: &Ctx| {
            let refusals = ctx.models.github.faults.refusals();
            refusals.keys().any(|(method, _, status)| method == "DELETE" && *status == 422)
        };
        let mut queued = false;
        let refused = async |ctx: &mut Ctx| {
            let surplus_for = ctx.now().since(Time(sim::testing::rows::START.0));
            if !queued && surplus_for >= Span::secs(290) {
                queued = true;
                ctx.queue(3, REPO, &[LABEL], Span::mins(20));
            }
            asked(ctx)
        };
        ctx.until("GitHub refuses to delete the busy runner", Span::mins(5), refused).await?;
        let ended = async |ctx: &mut Ctx| {
            ctx.github(|github, _| github.jobs[&3].state != sim::world::github::JobState::InProgress)
        };
        ctx.until("job 3 ends", Span::mins(25), ended).await?;
        let state = ctx.github(|github, _| github.jobs[&3].state.clone());
        assert_eq!(state, sim::world::github::JobState::Completed("success"), "it ran to its own end");
        Ok(())
    });
}

/// 4. A quickly cancelled job leaves a runner that holds a slot.
#[test]
fn a_quickly_cancelled_job_leaves_a_runner_that_holds_a_slot() {
    run_test(World::new().nodes(BOARD, 1), async |ctx| {
        ctx.queue(1, REPO, &[LABEL], Span::mins(1));
        ctx.pass(Span::secs(2)).await?;
        ctx.github(|github, now| github.cancel_job(1, now));
        ctx.until("its runner is online", Span::mins(1), async |ctx| {
            ctx.github(|github, _| github.runners.values().any(|runner| runner.online))
        })
        .await?;
        ctx.until("the place is free again", Span::mins(10), async |ctx| active_workers(ctx).await == 0).await?;
        assert_eq!(failures(ctx).await, [WorkerFailure::Surplus]);
        assert!(ctx.github(|github, _| github.runners.is_empty()), "no entry is left on GitHub");
        ctx.until("no pod is left", Span::mins(1), async |ctx| ctx.cluster(|cluster, _| cluster.pod_keys().is_empty()))
            .await?;
        Ok(())
    });
}

/// 5. Job stealing strands a job: the count says supply is there.
#[test]
fn job_stealing_strands_a_job_because_the_count_says_supply_is_there() {
    let mut world = World::new().nodes(BOARD, 3);
    // PyTorch's label rule takes any set with such a label in it: its runners can take jobs of other groups.
    world.github.add_account(sim::world::github::AccountKind::Organization, 21_003_710, "pytorch", 600);
    world.github.add_repo(301, 21_003_710, "pytorch/pytorch");
    run_test(world, async |ctx| {
        let (wide, narrow) = (["linux.riscv64.xlarge", "nightly"], ["linux.riscv64.xlarge"]);
        // The narrow job's own webhook comes late: the runner made for the wide one takes it.
        ctx.github(|github, _| github.mischief.lose.insert((1, "queued".to_owned())));
        ctx.queue(1, 301, &narrow, Span::mins(20));
        ctx.pass(Span::secs(1)).await?;
        ctx.queue(2, 301, &wide, Span::mins(1));
        let stolen = async |ctx: &mut Ctx| ctx.github(|github, _| github.jobs[&1].runner.is_some());
        ctx.until("job 1 is on job 2's runner", Span::mins(1), stolen).await?;
        ctx.until("job 2 has a runner of its own", Span::mins(2), async |ctx| {
            ctx.job(2).await.status != Status::Pending
        })
        .await?;
        ctx.until("job 2 ends long before job 1", Span::mins(2), async |ctx| {
            ctx.job(2).await.status == Status::Completed
        })
        .await?;
        assert_eq!(ctx.job(1).await.status, Status::Running);
        Ok(())
    });
}

/// 6. Counts drift with two replicas, or with duplicate or reordered webhooks.
#[test]
fn counts_drift_with_two_replicas_or_with_duplicate_or_reordered_webhooks() {
    run_test(World::new().nodes(BOARD, 4), async |ctx| {
        let second = ctx.replica().await?;
        for id in 1..=4 {
            ctx.queue(id, REPO, &[LABEL], Span::mins(1));
        }
        ctx.until("all are done", Span::mins(4), all_completed).await?;
        assert!(!second.health.status(ctx.now()).leading, "one leads, and the other stands by");
        // Everything once more, the last first, to either replica.
        let mut bodies: Vec<String> =
            ctx.github(|github, _| github.log.iter().map(|it| it.body().to_owned()).collect());
        bodies.reverse();
        let before = ctx.jobs().await;
        for body in &bodies {
            assert_eq!(ctx.post_to(&second, "workflow_job", body).await?.0, 200);
            assert_eq!(ctx.post("workflow_job", body).await?.0, 200);
        }
        assert_eq!(ctx.jobs().await, before);
        ctx.pass(Span::mins(1)).await?;
        assert_eq!(ctx.workers().await.len(), 4, "nothing was provisioned for what is over");
        assert_eq!(active_workers(ctx).await, 0);
        assert_eq!(second.violations(), []);
        second.stop().await?;
        Ok(())
    });
}

/// 7. An event that arrives while at the cap is dropped and the job never runs.
#[test]
fn an_event_that_arrives_while_at_the_cap_is_dropped_and_the_job_never_runs() {
    run_test(World::new().nodes(BOARD, 3).cap(ORG, 1), async |ctx| {
        for id in 1..=3 {
            ctx.queue(id, REPO, &[LABEL], Span::mins(1));
        }
        let mut most = 0;
        let done = async |ctx: &mut Ctx| {
            most = most.max(active_workers(ctx).await);
            all_completed(ctx).await
        };
        ctx.until("one after the other, all are done", Span::mins(5), done).await?;
        assert_eq!(most, 1, "the cap holds at every moment");
        Ok(())
    });
}

/// 8. A JIT configuration is minted before the cap check, or reused for a second pod.
#[test]
fn a_jit_configuration_is_minted_before_the_cap_check_or_reused_for_a_second_pod() {
    let mut world = World::new().nodes(BOARD, 3).cap(ORG, 1);
    world.cluster.next_fates = [Some(Fate::FailsAtStart(1))].into();
    run_test(world, async |ctx| {
        for id in 1..=3 {
            ctx.queue(id, REPO, &[LABEL], Span::secs(20));
        }
        ctx.settle().await?;
        // The first creation's answer is lost, although the pod was made.
        ctx.pass(Span::secs(1)).await?;
        ctx.models.cluster.faults.plan("POST", "/pods", 1, Fault::After(500));
        ctx.until("all are done", Span::mins(5), all_completed).await?;
        let uses = ctx.models.jit_uses();
        assert!(uses.values().all(|pods| pods.len() == 1), "{uses:?}");
        let workers = ctx.workers().await.len() as u64;
        let minted = ctx.models.github.faults.calls()[&("POST".to_owned(), JIT.to_owned())];
        assert_eq!(minted, workers, "one configuration a worker, and none beyond");
        Ok(())
    });
}

/// 9. A name conflict (409) after a crash blocks for ever.
#[test]
fn a_name_conflict_after_a_crash_blocks_for_ever() {
    run_test(World::new().nodes(BOARD, 1), async |ctx| {
        ctx.expect_refusal("POST", JIT, 409);
        // The configuration is made, and its answer lost: the next try finds the name taken.
        ctx.models.github.faults.plan("POST", "generate-jitconfig", 1, Fault::After(502));
        ctx.queue(1, REPO, &[LABEL], Span::mins(1));
        ctx.until("it is done", Span::mins(4), all_completed).await?;
        assert_eq!(failures(ctx).await, [WorkerFailure::NameTaken]);
        ctx.until("the useless entry is gone", Span::mins(10), async |ctx| {
            ctx.github(|github, _| github.runners.is_empty())
        })
        .await?;
        Ok(())
    });
}

/// 10. Only the first page of a listing is read.
#[test]
fn only_the_first_page_of_a_listing_is_read() {
    let mut world = World::new().nodes(BOARD, 1);
    // 250 runners that are not ours, registered before ours: it is on the third page.
    for i in 0..250 {
        let made = world.github.generate_jit(
            Scope::Organization(ORG),
            &format!("theirs-{i}"),
            &["other".to_owned()],
            sim::testing::rows::START,
        );
        let (_, jit) = made.unwrap();
        world.github.connect(&jit);
    }
    run_test(world, async |ctx| {
        ctx.queue(1, REPO, &[LABEL], Span::mins(10));
        ctx.queue(2, OWN_REPO, &[LABEL], Span::mins(1));
        ctx.pass(Span::mins(5)).await?;
        assert_eq!(failures(ctx).await, [], "a runner on the third page is registered all the same");
        ctx.until("both are done", Span::mins(9), all_completed).await?;
        assert_eq!(ctx.github(|github, _| github.runners.len()), 250, "what is not ours is never touched");
        Ok(())
    });
}

/// 11. Rate limits are exhausted by polling; everything stops for an hour.
#[test]
fn rate_limits_are_exhausted_by_polling_and_everything_stops_for_an_hour() {
    let mut world = World::new().nodes(BOARD, 1).cap(ORG, 50);
    if let Some(account) = world.github.accounts.get_mut(&ORG) {
        account.quota.limit = 200;
    }
    run_test(world, async |ctx| {
        // Far more jobs than places: all of them are polled, for hours.
        for id in 1..=60 {
            ctx.queue(id, REPO, &[LABEL], Span::hours(2));
        }
        ctx.settle().await?;
        for _ in 0..70 {
            ctx.pass(Span::mins(1)).await?;
            let quota = ctx.github(|github, _| github.accounts[&ORG].quota);
            assert!(quota.used * 10 <= quota.limit * 7 + 30, "provisioning keeps its reserve: {quota:?}");
        }
        // A new place is used within half a minute, in an hour whose limit is as good as reached.
        ctx.cluster(|cluster, now| cluster.set_node("late", BOARD, 1, now));
        ctx.until("the next job gets it", Span::secs(30), async |ctx| active_workers(ctx).await == 2).await?;
        Ok(())
    });
}

/// 12. Nobody can say why a job is waiting.
#[test]
fn nobody_can_say_why_a_job_is_waiting() {
    run_test(World::new().nodes(BOARD, 2).cap(ORG, 1), async |ctx| {
        for id in 1..=2 {
            ctx.queue(id, REPO, &[LABEL], Span::mins(30));
        }
        ctx.settle().await?;
        for id in 3..=5 {
            ctx.queue(id, OWN_REPO, &[LABEL], Span::mins(30));
        }
        ctx.settle().await?;
        ctx.pass(Span::secs(1)).await?;
        let why = ctx.why(1).await?;
        assert!(why.starts_with("demand is met by rise-riscv-runner-7-"), "{why}");
        assert_eq!(ctx.why(2).await?, "its owner is at its cap: 1 of 1 workers");
        assert_eq!(ctx.why(4).await?, "pool scw-em-rv1 is full: 2 of 2 places; number 1 in line");
        assert_eq!(ctx.why(5).await?, "pool scw-em-rv1 is full: 2 of 2 places; number 2 in line");
        ctx.until("job 1 runs", Span::mins(1), async |ctx| ctx.job(1).await.status == Status::Running).await?;
        assert!(ctx.why(1).await?.starts_with("running on rise-riscv-runner-7-"));
        let gone = "not waiting: the job has ended, or no delivery has told of it: see /history of ghfe\n";
        assert_eq!(ctx.ask_scheduler("/jobs/99/why").await?, (404, gone.to_owned()), "nobody has heard of it");
        ctx.until("job 1 ends", Span::hours(1), async |ctx| ctx.job(1).await.status == Status::Completed).await?;
        ctx.pass(Span::secs(1)).await?;
        assert_eq!(ctx.ask_scheduler("/jobs/1/why").await?, (404, gone.to_owned()), "it has ended");
        Ok(())
    });
}
