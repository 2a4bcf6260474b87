//! Jobs, runners, runner groups, deliveries.

use adapters::ports::GitHub as _;
use engine::{
    facts::{App, Assignment, GitHubError, JobView, RunnerListing, RunnerScope, Worker},
    ids::{EntityId, InstallationId, JobId, RunnerId, Span},
};
use futures::future::join_all;
use secrecy::ExposeSecret;
use sim::{http::faults::Fault, world::github::Scope};

use super::bed::{Bed, GROUPS, JIT, ORG, USER, org_scope, org_worker, test, user_scope, user_worker};

const NAME: &str = "rise-riscv-runner-7-aaaaaaaaa";
const LABEL: &str = "ubuntu-24.04-riscv";
const INSTALLATION: &str = "/app/installations/{id}";

/// A runner that is online, and what it is on GitHub.
async fn online(bed: &Bed, name: &str) -> RunnerId {
    let jit = bed.github.mint(&org_worker(name)).await.result.unwrap();
    assert_eq!(bed.with(|github, _| github.connect(jit.config.expose_secret())), Some(jit.minted.runner.0));
    jit.minted.runner
}

async fn job(bed: &Bed, id: i64) -> Result<JobView, GitHubError> {
    bed.github.job(App::Organization, InstallationId(ORG.1), "an-org/repo", JobId(id)).await.result
}

#[test]
fn a_configuration_makes_an_offline_runner_with_exactly_these_labels() {
    test(async |bed| {
        for (worker, scope) in [(org_worker(NAME), org_scope()), (user_worker("mine"), user_scope())] {
            let minted = bed.github.mint(&worker).await.result.unwrap();
            assert!(!format!("{minted:?}").contains(minted.config.expose_secret()), "it is not shown");
            let listed = bed.github.runners(&scope).await.result.unwrap();
            assert_eq!(listed.asked_at, bed.now());
            let runner = &listed.runners[0];
            assert_eq!((runner.id, &*runner.name), (minted.minted.runner, worker.name.as_str()));
            assert_eq!((runner.online, runner.busy, listed.runners.len()), (false, false, 1));
            let labels = bed.with(|github, _| github.runners[&runner.id.0].labels.clone());
            assert_eq!(labels, worker.labels.iter().collect::<Vec<_>>());
            assert_eq!(bed.github.mint(&worker).await.result.unwrap_err(), GitHubError::NameTaken);
            assert_eq!(bed.github.delete_runner(&scope, runner.id).await.result, Ok(()));
            assert_eq!(bed.github.runners(&scope).await.result.unwrap().runners, []);
            assert_eq!(bed.github.delete_runner(&scope, runner.id).await.result, Ok(()), "what is gone is deleted");
            assert!(bed.github.mint(&worker).await.result.is_ok(), "the name is free again");
        }
    });
}

#[test]
fn a_busy_runner_is_not_deleted() {
    test(async |bed| {
        let runner = online(bed, NAME).await;
        bed.with(|github, now| github.queue_job(1, ORG.2, &[LABEL], Span::mins(5), now));
        bed.with(|github, now| github.queue_job(2, ORG.2, &["another-label"], Span::mins(5), now));
        bed.models.step();
        assert_eq!(job(bed, 2).await, Ok(JobView::Queued { said_at: Some(bed.now()) }), "by GitHub's clock");
        let listed = bed.github.runners(&org_scope()).await.result.unwrap();
        assert!(listed.runners[0].busy && listed.runners[0].online);
        assert_eq!(bed.github.delete_runner(&org_scope(), runner).await.result, Err(GitHubError::RunnerBusy));
        let assignment = Some(Assignment { started_at: bed.now(), runner: NAME.into() });
        assert_eq!(job(bed, 1).await, Ok(JobView::InProgress { assignment: assignment.clone() }));
        bed.pass(Span::mins(5));
        let completed = JobView::Completed { assignment, completed_at: Some(bed.now()) };
        assert_eq!(job(bed, 1).await, Ok(completed));
        assert_eq!(
            bed.github.delete_runner(&org_scope(), runner).await.result,
            Ok(()),
            "ephemeral: it went with its job"
        );
    });
}

#[test]
fn a_job_that_is_not_there_or_moved_is_told() {
    test(async |bed| {
        bed.with(|github, now| {
            github.queue_job(1, ORG.2, &[LABEL], Span::mins(5), now);
            github.cancel_job(1, now);
        });
        assert_eq!(job(bed, 2).await, Err(GitHubError::NotFound));
        assert_eq!(job(bed, 1).await, Ok(JobView::Completed { assignment: None, completed_at: Some(bed.now()) }));
        // A conclusion means completed, whatever the status says.
        let odd = r#"{"status":"in_progress","conclusion":"cancelled","started_at":null,"completed_at":null,"runner_name":""}"#;
        bed.faults().plan("GET", "/actions/jobs/1", 1, Fault::Say(200, "application/json", odd.to_owned()));
        assert_eq!(job(bed, 1).await, Ok(JobView::Completed { assignment: None, completed_at: None }));
        // The repository was renamed: its old name leads to the new one, and not to anybody else's host.
        let moved = vec![("location", "https://elsewhere.invalid/repos/an-org/repo/actions/jobs/1".to_owned())];
        bed.faults().plan("GET", "/repos/an-org/old/", 1, Fault::Before(301, moved.clone()));
        let client = &bed.github;
        let found = client.job(App::Organization, InstallationId(ORG.1), "an-org/old", JobId(1)).await;
        assert!(matches!(found.result, Ok(JobView::Completed { .. })), "{found:?}");
        bed.faults().plan("GET", "/actions/jobs/1", 4, Fault::Before(301, moved));
        let lost = client.job(App::Organization, InstallationId(ORG.1), "an-org/old", JobId(1)).await.result;
        assert!(matches!(lost, Err(GitHubError::Unavailable { .. })), "not round and round: {lost:?}");
        bed.faults().plan("GET", "/actions/jobs/1", 1, Fault::Before(302, Vec::new()));
        assert!(matches!(job(bed, 1).await, Err(GitHubError::Unavailable { .. })), "moved, and nobody says where to");
    });
}

#[test]
fn every_page_of_every_listing_is_read() {
    test(async |bed| {
        let other = ["other".to_owned()];
        bed.with(|github, now| {
            for i in 0..230 {
                github.create_group(ORG.0, &format!("group-{i}")).unwrap();
                github.generate_jit(Scope::Repository(USER.2), &format!("u-{i}"), &other, now).unwrap();
            }
            let (org, ours) = (Scope::Organization(ORG.0), github.create_group(ORG.0, "RISE RISC-V Runners").unwrap());
            for i in 0..230 {
                github.generate_jit_in(org, ours, &format!("o-{i}"), &other, now).unwrap();
                github.generate_jit(org, &format!("of-their-own-{i}"), &other, now).unwrap();
            }
        });
        let before = bed.calls("POST", GROUPS);
        // First all runners of the organisation; then, since none of ours is elsewhere, those of our group.
        for (scope, listed) in [(org_scope(), 460), (org_scope(), 460), (org_scope(), 230), (user_scope(), 230)] {
            let answer = bed.github.runners(&scope).await;
            let mut names: Vec<_> = answer.result.unwrap().runners.iter().map(|it| it.name.to_string()).collect();
            names.dedup();
            assert_eq!(names.len(), listed);
            bed.pass(Span::mins(2));
        }
        assert_eq!(bed.calls("POST", GROUPS), before, "our group is found on the third page, and not made again");
    });
}

#[test]
fn a_listing_that_changes_while_it_is_read_is_no_listing() {
    test(async |bed| {
        let other = ["other".to_owned()];
        let made: Vec<i64> = bed.with(|github, now| {
            let scope = Scope::Repository(USER.2);
            (0..150).map(|i| github.generate_jit(scope, &format!("u-{i}"), &other, now).unwrap().0).collect()
        });
        assert_eq!(bed.github.runners(&user_scope()).await.result.unwrap().runners.len(), 150);
        // One goes and one comes while the second page is on its way: the count is the same, and one is on neither page.
        bed.faults().plan("GET", "page=2", 1, Fault::Delay(std::time::Duration::from_millis(300)));
        let calls = bed.faults().count();
        let scope = user_scope();
        let (answer, ()) = tokio::join!(bed.github.runners(&scope), async {
            while bed.faults().count() < calls + 2 {
                tokio::task::yield_now().await;
            }
            bed.with(|github, now| {
                github.delete_runner(Scope::Repository(USER.2), made[5]).unwrap();
                github.generate_jit(Scope::Repository(USER.2), "late", &other, now).unwrap();
            });
        });
        assert_eq!(answer.result.unwrap_err(), GitHubError::Torn);
        assert_eq!(bed.github.runners(&user_scope()).await.result.unwrap().runners.len(), 150, "the next one is whole");
    });
}

#[test]
fn the_runner_group_is_made_once_and_found_again() {
    test(async |bed| {
        let names: Vec<String> = (0..6).map(|i| format!("rise-riscv-runner-7-{i:09}")).collect();
        let workers: Vec<_> = names.iter().map(|name| org_worker(name)).collect();
        for answer in join_all(workers.iter().map(|worker| bed.github.mint(worker))).await {
            answer.result.unwrap();
        }
        assert_eq!((bed.calls("GET", GROUPS), bed.calls("POST", GROUPS)), (1, 1), "concurrent calls share the look-up");
        let group = bed.with(|github, _| github.list_groups(ORG.0)[1].clone());
        assert_eq!(group.1, "RISE RISC-V Runners");
        bed.github.runners(&org_scope()).await.result.unwrap();
        bed.pass(Span::mins(2));
        bed.github.runners(&org_scope()).await.result.unwrap();
        // Somebody deletes it: the call that notices fails, and the next one makes it anew.
        bed.with(|github, _| github.remove_group(group.0));
        assert_eq!(bed.github.runners(&org_scope()).await.result, Err(GitHubError::NotFound));
        let listed = bed.github.runners(&org_scope()).await.result.unwrap().runners;
        assert_eq!(bed.calls("POST", GROUPS), 2);
        assert_eq!(listed.len(), names.len(), "those that went to the default group are not taken for gone");
        // Another scheduler makes it between our look and our making it.
        let other = bed.client(Span::ZERO, (&bed.models.keys.0, &bed.models.keys.1));
        bed.faults().plan(
            "GET",
            GROUPS.replace("{org}", "an-org").as_str(),
            1,
            Fault::Say(200, "application/json", r#"{"total_count":0,"runner_groups":[]}"#.to_owned()),
        );
        assert!(other.mint(&org_worker(NAME)).await.result.is_ok());
        assert_eq!(bed.with(|github, _| github.list_groups(ORG.0).len()), 2, "there is one of ours");
    });
}

#[test]
fn where_groups_are_refused_the_default_group_serves() {
    for listing in [None, Some(403), Some(404)] {
        test(async |bed| {
            bed.with(|github, _| github.accounts.get_mut(&ORG.0).unwrap().groups = false);
            if let Some(status) = listing {
                bed.faults().plan("GET", "/actions/runner-groups?", 1, Fault::Before(status, Vec::new()));
            }
            let minted = bed.github.mint(&org_worker(NAME)).await.result.unwrap();
            let listed = bed.github.runners(&org_scope()).await.result.unwrap();
            assert_eq!(listed.runners[0].id, minted.minted.runner, "{listing:?}");
            assert_eq!(bed.calls("GET", GROUPS), 1, "it is not asked for again");
            // One 404 may be a glitch, and a plan may change; what is in the default group is seen on.
            bed.pass(Span::mins(10));
            bed.with(|github, _| github.accounts.get_mut(&ORG.0).unwrap().groups = true);
            let later = bed.github.mint(&org_worker("rise-riscv-runner-7-bbbbbbbbb")).await.result.unwrap();
            assert_eq!(bed.calls("POST", GROUPS), if listing.is_none() { 2 } else { 1 }, "{listing:?}");
            let group = |id: RunnerId| bed.with(|github, _| github.runners[&id.0].group);
            assert_eq!(group(minted.minted.runner), 1);
            assert_eq!(group(later.minted.runner), bed.with(|github, _| github.list_groups(ORG.0)[1].0));
            let listed = bed.github.runners(&org_scope()).await.result.unwrap().runners;
            assert_eq!(listed.len(), 2, "{listing:?}");
            // Whoever begins now has not seen that the default group served.
            let other = bed.client(Span::ZERO, (&bed.models.keys.0, &bed.models.keys.1));
            let listed = || async { other.runners(&org_scope()).await.result.unwrap().runners.len() };
            assert_eq!(listed().await, 2, "{listing:?}");
            // When that runner is gone, ours are all in our group, and that is what is listed.
            bed.with(|github, _| github.runners.retain(|id, _| *id != minted.minted.runner.0));
            bed.pass(Span::mins(2));
            for client in [&bed.github, &other] {
                let all = "/orgs/{org}/actions/runners";
                let before = bed.calls("GET", all);
                for _ in 0..3 {
                    assert_eq!(client.runners(&org_scope()).await.result.unwrap().runners.len(), 1);
                }
                assert_eq!(bed.calls("GET", all) - before, 1, "{listing:?}: once more, to see that it is so");
            }
            // Nor has one that leads again seen what happened while it did not.
            bed.with(|github, now| {
                github.generate_jit(Scope::Organization(ORG.0), NAME, &[LABEL.to_owned()], now).unwrap();
            });
            assert_eq!(listed().await, 1, "{listing:?}");
            other.term_begins();
            assert_eq!(listed().await, 2, "{listing:?}");
        });
    }
}

/// An installation that does not serve an organisation finds no groups there, and can make no runner: that is not asked anew
/// after each call.
#[test]
fn a_call_that_finds_nothing_forgets_no_refusal() {
    test(async |bed| {
        bed.faults().plan("GET", "/actions/runner-groups?", 9, Fault::Before(404, Vec::new()));
        bed.faults().plan("POST", "/generate-jitconfig", 9, Fault::Before(404, Vec::new()));
        for _ in 0..3 {
            assert_eq!(bed.github.mint(&org_worker(NAME)).await.result.err(), Some(GitHubError::NotFound));
        }
        assert_eq!(bed.calls("GET", GROUPS), 1);
        bed.pass(Span::mins(10));
        assert_eq!(bed.github.mint(&org_worker(NAME)).await.result.err(), Some(GitHubError::NotFound));
        assert_eq!(bed.calls("GET", GROUPS), 2);
    });
}

/// Where it cannot be found out whether runners of ours are elsewhere, the group that is known serves.
#[test]
fn an_organisation_whose_runners_never_hold_still_is_listed_by_our_group() {
    test(async |bed| {
        bed.github.mint(&org_worker(NAME)).await.result.unwrap();
        bed.with(|github, now| {
            for i in 0..150 {
                github
                    .generate_jit_in(Scope::Organization(ORG.0), 1, &format!("their-{i}"), &["x".into()], now)
                    .unwrap();
            }
        });
        for torn in 0..3 {
            // One of theirs goes between the first page and the second.
            let gone = bed.with(|github, _| *github.runners.iter().find(|(_, it)| it.group == 1).unwrap().0);
            bed.faults().plan("GET", "page=2", 1, Fault::Delay(std::time::Duration::from_millis(300)));
            let (calls, scope) = (bed.faults().count(), org_scope());
            let (listed, ()) = tokio::join!(bed.github.runners(&scope), async {
                while bed.faults().count() < calls + 2 {
                    tokio::task::yield_now().await;
                }
                bed.with(|github, _| github.delete_runner(Scope::Organization(ORG.0), gone).unwrap());
            });
            assert!(matches!(listed.result, Err(GitHubError::Torn)), "{torn}: {listed:?}");
        }
        let ours = async || {
            let listed = bed.github.runners(&org_scope()).await.result.unwrap().runners;
            listed.iter().filter(|runner| runner.name.starts_with("rise-")).count()
        };
        let left = "rise-riscv-runner-9002-elsewhere";
        bed.with(|github, now| {
            github.generate_jit_in(Scope::Organization(ORG.0), 1, left, &[LABEL.to_owned()], now).unwrap();
        });
        assert_eq!(ours().await, 1);
        // What an earlier leader left elsewhere is found some time later.
        bed.pass(Span::mins(5));
        assert_eq!(ours().await, 2);
    });
}

#[test]
fn a_renamed_organisation_is_found_though_rows_have_its_old_name() {
    test(async |bed| {
        let idle = online(bed, NAME).await;
        bed.with(|github, _| github.rename(ORG.0, "renamed"));
        assert_eq!(job(bed, 1).await, Err(GitHubError::NotFound), "a repository answers by its old name");
        // Of whom nobody can say what it is called nothing is known: least of all that a runner is gone.
        let path = format!("/app/installations/{}", ORG.1);
        for fault in [502, 404] {
            bed.faults().plan("GET", &path, 1, Fault::Before(fault, Vec::new()));
            let unknown = bed.github.delete_runner(&org_scope(), idle).await.result;
            assert_eq!(unknown, Err(GitHubError::NotFound), "{fault}");
        }
        assert_eq!(bed.with(|github, _| github.runners.len()), 1);
        let listed = bed.github.runners(&org_scope()).await;
        assert_eq!(listed.result.unwrap().runners.len(), 1);
        assert_eq!(bed.calls("GET", INSTALLATION), 3);
        bed.github.mint(&org_worker("rise-riscv-runner-7-bbbbbbbbb")).await.result.unwrap();
        assert_eq!(bed.github.delete_runner(&org_scope(), idle).await.result, Ok(()));
        assert_eq!(bed.with(|github, _| github.runners.len()), 1);
        assert_eq!(bed.calls("GET", INSTALLATION), 3, "it is remembered");
        // What was told a moment ago proves nothing: it may have been renamed since.
        bed.with(|github, _| github.rename(ORG.0, "renamed-again"));
        assert_eq!(bed.github.delete_runner(&org_scope(), idle).await.result, Err(GitHubError::NotFound));
        assert_eq!(bed.calls("GET", INSTALLATION), 3);
        bed.pass(Span::mins(5));
        assert_eq!(bed.github.runners(&org_scope()).await.result.unwrap().runners.len(), 1);
        bed.pass(Span::mins(5));
        assert_eq!(
            bed.github.delete_runner(&org_scope(), idle).await.result,
            Ok(()),
            "it is called so, and it is gone"
        );
        assert_eq!(bed.calls("GET", INSTALLATION), 5);
    });
}

#[test]
fn an_organisation_that_refuses_all_calls_is_not_looked_up_for_each() {
    test(async |bed| {
        for _ in 0..20 {
            bed.faults().plan("GET", "/orgs/an-org/", 20, Fault::Before(403, Vec::new()));
            let refused = bed.github.runners(&org_scope()).await.result.unwrap_err();
            assert!(matches!(refused, GitHubError::Refused { status: 403, .. }), "{refused:?}");
            bed.pass(Span::secs(30));
        }
        assert_eq!(bed.calls("GET", INSTALLATION), 2);
    });
}

#[test]
fn an_installation_of_another_account_tells_no_name() {
    test(async |bed| {
        let other = RunnerScope { entity: EntityId(99), entity_name: "another".into(), ..org_scope() };
        let nothing = || Err(GitHubError::NotFound);
        assert_eq!(bed.github.runners(&other).await.result, nothing());
        assert_eq!(bed.github.delete_runner(&other, RunnerId(1)).await.result, nothing().map(|_: RunnerListing| ()));
        // Nor when what its own account is called is known.
        bed.with(|github, _| github.rename(ORG.0, "renamed"));
        assert!(bed.github.runners(&org_scope()).await.result.is_ok());
        assert_eq!(bed.github.runners(&other).await.result, nothing());
        let worker = Worker { entity: EntityId(99), entity_name: "another".into(), ..org_worker(NAME) };
        assert_eq!(bed.github.mint(&worker).await.result.err(), Some(GitHubError::NotFound));
    });
}

#[test]
fn a_5xx_says_nothing_of_the_effect() {
    test(async |bed| {
        let runners = || bed.with(|github, _| github.runners.len());
        for (fault, made) in [(Fault::Before(502, Vec::new()), 0), (Fault::After(502), 1)] {
            bed.faults().plan("POST", "generate-jitconfig", 1, fault);
            let error = bed.github.mint(&org_worker(NAME)).await.result.unwrap_err();
            assert!(matches!(error, GitHubError::Unavailable { .. }), "{error:?}");
            assert_eq!(runners(), made);
        }
        assert_eq!(bed.github.mint(&org_worker(NAME)).await.result.unwrap_err(), GitHubError::NameTaken);
        assert_eq!(bed.calls("POST", JIT), 3, "nothing is tried again unseen");
        let id = bed.with(|github, _| RunnerId(*github.runners.first_key_value().unwrap().0));
        for (fault, left) in [(Fault::Before(503, Vec::new()), 1), (Fault::After(503), 0)] {
            bed.faults().plan("DELETE", "/actions/runners/", 1, fault);
            let error = bed.github.delete_runner(&org_scope(), id).await.result.unwrap_err();
            assert!(matches!(error, GitHubError::Unavailable { .. }), "{error:?}");
            assert_eq!(runners(), left);
        }
        assert_eq!(bed.github.delete_runner(&org_scope(), id).await.result, Ok(()));
    });
}

#[test]
fn the_delivery_log_is_read_back_to_a_time_and_repeated_from() {
    test(async |bed| {
        let begun = bed.now();
        // 250 deliveries before the time asked for, 150 after it; every third is not accepted, every seventh not answered.
        for (ids, pause) in [(1000..1250, Span::mins(10)), (2000..2150, Span::ZERO)] {
            for id in ids {
                bed.with(|github, now| github.queue_job(id, ORG.2, &["hosted"], Span::mins(1), now));
            }
            for (i, outgoing) in bed.models.github.take_outbox().into_iter().enumerate() {
                let status = [None, Some(200), Some(400)][i % 3];
                bed.models.github.delivered(outgoing.id, status);
            }
            bed.pass(pause);
        }
        let since = bed.now();
        let log = bed.github.deliveries(App::Organization, since).await;
        assert_eq!(log.calls, 2, "no page beyond the first that is older");
        let log = log.result.unwrap();
        assert_eq!(log.len(), 150);
        assert!(log.windows(2).all(|pair| pair[0].id > pair[1].id), "newest first");
        assert!(log.iter().any(|it| it.ok) && log.iter().any(|it| it.refused));
        let unanswered = log.iter().find(|it| !it.ok && !it.refused).unwrap();
        assert_eq!(bed.github.deliveries(App::Organization, begun).await.result.unwrap().len(), 400, "every page");
        assert_eq!(bed.github.deliveries(App::Personal, begun).await.result.unwrap(), [], "each App has its own log");

        assert_eq!(bed.github.redeliver(App::Organization, unanswered.id).await.result, Ok(()));
        let again = bed.models.github.take_outbox();
        assert_eq!((again.len(), again[0].guid.as_str()), (1, &*unanswered.guid), "the same GUID");
        bed.models.github.delivered(again[0].id, Some(200));
        let newest = &bed.github.deliveries(App::Organization, since).await.result.unwrap()[0];
        assert_eq!((newest.id, newest.ok, &newest.guid), (again[0].id, true, &unanswered.guid));
        assert_eq!(bed.github.redeliver(App::Organization, 1).await.result, Err(GitHubError::NotFound));
        assert_eq!(bed.github.redeliver(App::Personal, unanswered.id).await.result, Err(GitHubError::NotFound));
        assert_eq!(bed.models.github.take_outbox().len(), 0, "nobody repeats another App's deliveries");
    });
}
